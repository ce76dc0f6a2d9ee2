//! Matches of HTTPRoute rules.

use std::borrow::Cow;
use std::cmp::Reverse;

use gateway_api::experimental::httproutes as api;
use http::{HeaderName, HeaderValue, Method, Uri, request};
use percent_encoding::percent_decode_str;
use regex::{Regex, RegexBuilder};

use crate::names::is_model_header;

/// Maximum compiled size of a regular expression in a route.
const MAX_REGEX_BYTES: usize = 1 << 20;

/// One of a rule's matches.
#[derive(Clone, Debug)]
pub(crate) struct Match {
    pub(crate) path: Path,
    pub(crate) method: Option<Method>,
    pub(crate) headers: Vec<(HeaderName, Pattern<HeaderValue>)>,
    pub(crate) query: Vec<(String, Pattern<String>)>,
}

#[derive(Clone, Debug)]
pub(crate) enum Path {
    Exact(String),
    /// Matches the whole path.
    Regex(Regex),
    /// Without a trailing slash; empty for `/`.
    Prefix(String),
}

/// Pattern of a header or query parameter value.
#[derive(Clone, Debug)]
pub(crate) enum Pattern<T> {
    Exact(T),
    /// Matches the whole value.
    Regex(Regex),
}

/// Whether to compare the model's headers. They are missing before the body is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ModelHeaders {
    Compared,
    Ignored,
}

impl Match {
    /// The match of a rule without matches.
    pub(crate) fn everything() -> Self {
        Self { path: Path::Prefix(String::new()), method: None, headers: Vec::new(), query: Vec::new() }
    }

    /// The error says which field is invalid.
    pub(crate) fn parse(it: &api::HttpRouteRulesMatches) -> Result<Self, String> {
        Ok(Self {
            path: parse_path(it)?,
            method: it.method.as_ref().map(method),
            headers: parse_headers(it)?,
            query: parse_query(it)?,
        })
    }

    /// Compares everything except the path.
    pub(crate) fn matches_except_path(&self, head: &request::Parts, models: ModelHeaders) -> bool {
        self.method.as_ref().is_none_or(|method| *method == head.method)
            && self.headers.iter().all(|(name, pattern)| {
                (models == ModelHeaders::Ignored && is_model_header(name))
                    || head.headers.get(name).is_some_and(|value| pattern.matches(value))
            })
            && self.query.iter().all(|(name, pattern)| pattern.matches_query(&head.uri, name))
    }

    /// Length of the path prefix without a trailing slash; 0 for other path matches.
    pub(crate) fn prefix_bytes(&self) -> usize {
        match &self.path {
            Path::Prefix(prefix) => prefix.len(),
            Path::Exact(_) | Path::Regex(_) => 0,
        }
    }

    pub(crate) fn depends_on_model(&self) -> bool {
        self.headers.iter().any(|(name, _)| is_model_header(name))
    }

    /// Models that are matched exactly.
    pub(crate) fn models(&self) -> impl Iterator<Item = &str> {
        self.headers.iter().filter(|(name, _)| is_model_header(name)).filter_map(|(_, pattern)| match pattern
        {
            Pattern::Exact(value) => value.to_str().ok(),
            Pattern::Regex(_) => None,
        })
    }

    /// The exactly matched header to index by: the model's if present, else the first.
    pub(crate) fn key_header(&self) -> Option<(&HeaderName, &HeaderValue)> {
        let exact = || {
            self.headers.iter().filter_map(|(name, pattern)| match pattern {
                Pattern::Exact(value) => Some((name, value)),
                Pattern::Regex(_) => None,
            })
        };
        exact().find(|(name, _)| is_model_header(name)).or_else(|| exact().next())
    }

    /// Sort key by precedence (Gateway API, HTTPRouteRule.matches): exact path, longer prefix, method, more headers,
    /// more query parameters. Regular expressions, which are implementation-specific, rank between exact paths and
    /// prefixes.
    pub(crate) fn rank(&self) -> impl Ord + Clone + use<> {
        let (kind, length) = match &self.path {
            Path::Exact(path) => (0, path.len()),
            Path::Regex(regex) => (1, regex.as_str().len()),
            Path::Prefix(prefix) => (2, prefix.len()),
        };
        let (headers, query) = (Reverse(self.headers.len()), Reverse(self.query.len()));
        (kind, Reverse(length), self.method.is_none(), headers, query)
    }
}

impl Pattern<HeaderValue> {
    fn matches(&self, value: &HeaderValue) -> bool {
        match self {
            Self::Exact(exact) => exact == value,
            // Not `to_str`, which accepts only ASCII.
            Self::Regex(regex) => str::from_utf8(value.as_bytes()).is_ok_and(|value| regex.is_match(value)),
        }
    }
}

impl Pattern<String> {
    /// Only the first parameter of a name is compared.
    fn matches_query(&self, uri: &Uri, name: &str) -> bool {
        let parameters = uri.query().unwrap_or_default().split('&');
        let value = parameters
            .map(|parameter| parameter.split_once('=').unwrap_or((parameter, "")))
            .find_map(|(key, value)| (decoded(key) == name).then(|| decoded(value)));
        value.is_some_and(|value| match self {
            Self::Exact(exact) => *exact == value,
            Self::Regex(regex) => regex.is_match(&value),
        })
    }
}

/// Percent-decoded, `+` as a space (application/x-www-form-urlencoded).
fn decoded(text: &str) -> Cow<'_, str> {
    if !text.contains(['%', '+']) {
        return Cow::Borrowed(text);
    }
    Cow::Owned(percent_decode_str(&text.replace('+', " ")).decode_utf8_lossy().into_owned())
}

fn parse_path(it: &api::HttpRouteRulesMatches) -> Result<Path, String> {
    let Some(path) = &it.path else { return Ok(Path::Prefix(String::new())) };
    let value = path.value.as_deref().unwrap_or("/");
    match path.r#type {
        None | Some(api::HttpRouteRulesMatchesPathType::PathPrefix) => {
            Ok(Path::Prefix(value.trim_end_matches('/').to_owned()))
        }
        Some(api::HttpRouteRulesMatchesPathType::Exact) => Ok(Path::Exact(value.to_owned())),
        Some(api::HttpRouteRulesMatchesPathType::RegularExpression) => {
            regex(value).map(Path::Regex).map_err(|why| format!("path: {why}"))
        }
    }
}

fn parse_headers(it: &api::HttpRouteRulesMatches) -> Result<Vec<(HeaderName, Pattern<HeaderValue>)>, String> {
    let mut headers: Vec<(HeaderName, Pattern<HeaderValue>)> = Vec::new();
    for header in it.headers.iter().flatten() {
        let name: HeaderName =
            header.name.parse().map_err(|_| format!("header name {:?} is not valid", header.name))?;
        // Gateway API: of entries with equal names only the first counts.
        if headers.iter().any(|(known, _)| *known == name) {
            continue;
        }
        let pattern = match header.r#type {
            None | Some(api::HttpRouteRulesMatchesHeadersType::Exact) => Pattern::Exact(
                HeaderValue::from_bytes(header.value.as_bytes())
                    .map_err(|_| format!("the value of header {name} is not valid"))?,
            ),
            Some(api::HttpRouteRulesMatchesHeadersType::RegularExpression) => {
                Pattern::Regex(regex(&header.value).map_err(|why| format!("header {name}: {why}"))?)
            }
        };
        headers.push((name, pattern));
    }
    Ok(headers)
}

fn parse_query(it: &api::HttpRouteRulesMatches) -> Result<Vec<(String, Pattern<String>)>, String> {
    let mut query: Vec<(String, Pattern<String>)> = Vec::new();
    for parameter in it.query_params.iter().flatten() {
        if query.iter().any(|(known, _)| *known == parameter.name) {
            continue;
        }
        let pattern = match parameter.r#type {
            None | Some(api::HttpRouteRulesMatchesQueryParamsType::Exact) => {
                Pattern::Exact(parameter.value.clone())
            }
            Some(api::HttpRouteRulesMatchesQueryParamsType::RegularExpression) => Pattern::Regex(
                regex(&parameter.value)
                    .map_err(|why| format!("query parameter {}: {why}", parameter.name))?,
            ),
        };
        query.push((parameter.name.clone(), pattern));
    }
    Ok(query)
}

/// Anchored at both ends, as Envoy matches them.
fn regex(text: &str) -> Result<Regex, String> {
    RegexBuilder::new(&format!("^(?:{text})$"))
        .size_limit(MAX_REGEX_BYTES)
        .build()
        .map_err(|_| format!("{text:?} is not a valid regular expression, or is too large"))
}

fn method(it: &api::HttpRouteRulesMatchesMethod) -> Method {
    match it {
        api::HttpRouteRulesMatchesMethod::Get => Method::GET,
        api::HttpRouteRulesMatchesMethod::Head => Method::HEAD,
        api::HttpRouteRulesMatchesMethod::Post => Method::POST,
        api::HttpRouteRulesMatchesMethod::Put => Method::PUT,
        api::HttpRouteRulesMatchesMethod::Delete => Method::DELETE,
        api::HttpRouteRulesMatchesMethod::Connect => Method::CONNECT,
        api::HttpRouteRulesMatchesMethod::Options => Method::OPTIONS,
        api::HttpRouteRulesMatchesMethod::Trace => Method::TRACE,
        api::HttpRouteRulesMatchesMethod::Patch => Method::PATCH,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn regular_expressions_match_utf_8_header_values() {
        let pattern = Pattern::<HeaderValue>::Regex(regex("caf.|[α-ω]+").unwrap());
        for (value, matches) in [
            ("cafe".as_bytes(), true),
            ("café".as_bytes(), true),
            ("λόγος".as_bytes(), false),
            ("λογος".as_bytes(), true),
            ("café!".as_bytes(), false),
            (b"caf\xe9", false),
        ] {
            assert_eq!(pattern.matches(&HeaderValue::from_bytes(value).unwrap()), matches, "{value:?}");
        }
    }
}
