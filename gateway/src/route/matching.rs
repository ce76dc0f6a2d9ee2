use std::cmp::Reverse;

use forebay_agent::resources::HttpRoute;
use gateway_api::httproutes::{
    HttpRouteRulesMatches, HttpRouteRulesMatchesHeadersType, HttpRouteRulesMatchesMethod,
    HttpRouteRulesMatchesPathType,
};
use http::{HeaderName, HeaderValue, Method, request};

/// One of a rule's matches, ready to be tried.
#[derive(Clone, Debug)]
pub(super) struct Match {
    path: Path,
    method: Option<Method>,
    pub(super) headers: Vec<(HeaderName, HeaderValue)>,
}

#[derive(Clone, Debug)]
enum Path {
    Exact(String),
    /// Without a slash at its end; empty for `/`.
    Prefix(String),
}

impl Match {
    /// A rule without matches has this one.
    pub(super) fn everything() -> Self {
        Self { path: Path::Prefix(String::new()), method: None, headers: Vec::new() }
    }

    /// An error says what is not supported.
    pub(super) fn parse(it: &HttpRouteRulesMatches) -> Result<Self, String> {
        if it.query_params.as_ref().is_some_and(|params| !params.is_empty()) {
            return Err("query parameter matches are not supported".into());
        }
        Ok(Self {
            path: parse_path(it)?,
            method: it.method.as_ref().map(method),
            headers: parse_headers(it)?,
        })
    }

    pub(super) fn matches(&self, head: &request::Parts) -> bool {
        self.path.matches(head.uri.path())
            && self.method.as_ref().is_none_or(|method| *method == head.method)
            && self.headers.iter().all(|(name, value)| head.headers.get(name) == Some(value))
    }

    /// Sorts by the precedence of the specification: exact path, longer prefix, method, more headers.
    pub(super) fn rank(&self) -> (u8, Reverse<usize>, bool, Reverse<usize>) {
        let (kind, length) = match &self.path {
            Path::Exact(path) => (0, path.len()),
            Path::Prefix(prefix) => (1, prefix.len()),
        };
        (kind, Reverse(length), self.method.is_none(), Reverse(self.headers.len()))
    }
}

impl Path {
    fn matches(&self, path: &str) -> bool {
        match self {
            Self::Exact(exact) => exact == path,
            // Element by element: `/v1` matches `/v1` and `/v1/models`, not `/v12`.
            Self::Prefix(prefix) => path
                .strip_prefix(prefix.as_str())
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('/')),
        }
    }
}

fn parse_path(it: &HttpRouteRulesMatches) -> Result<Path, String> {
    let Some(path) = &it.path else { return Ok(Path::Prefix(String::new())) };
    let value = path.value.as_deref().unwrap_or("/");
    match path.r#type {
        None | Some(HttpRouteRulesMatchesPathType::PathPrefix) => {
            Ok(Path::Prefix(value.trim_end_matches('/').to_owned()))
        }
        Some(HttpRouteRulesMatchesPathType::Exact) => Ok(Path::Exact(value.to_owned())),
        Some(HttpRouteRulesMatchesPathType::RegularExpression) => {
            Err("path matches of type RegularExpression are not supported".into())
        }
    }
}

fn parse_headers(it: &HttpRouteRulesMatches) -> Result<Vec<(HeaderName, HeaderValue)>, String> {
    let mut headers: Vec<(HeaderName, HeaderValue)> = Vec::new();
    for header in it.headers.iter().flatten() {
        if header.r#type == Some(HttpRouteRulesMatchesHeadersType::RegularExpression) {
            return Err("header matches of type RegularExpression are not supported".into());
        }
        let name: HeaderName =
            header.name.parse().map_err(|_| format!("header name {:?} is not valid", header.name))?;
        // The specification lets only the first of equal names count.
        if headers.iter().any(|(known, _)| *known == name) {
            continue;
        }
        let value = HeaderValue::from_bytes(header.value.as_bytes())
            .map_err(|_| format!("the value of header {name} is not valid"))?;
        headers.push((name, value));
    }
    Ok(headers)
}

fn method(it: &HttpRouteRulesMatchesMethod) -> Method {
    match it {
        HttpRouteRulesMatchesMethod::Get => Method::GET,
        HttpRouteRulesMatchesMethod::Head => Method::HEAD,
        HttpRouteRulesMatchesMethod::Post => Method::POST,
        HttpRouteRulesMatchesMethod::Put => Method::PUT,
        HttpRouteRulesMatchesMethod::Delete => Method::DELETE,
        HttpRouteRulesMatchesMethod::Connect => Method::CONNECT,
        HttpRouteRulesMatchesMethod::Options => Method::OPTIONS,
        HttpRouteRulesMatchesMethod::Trace => Method::TRACE,
        HttpRouteRulesMatchesMethod::Patch => Method::PATCH,
    }
}

/// When a route was made, for ties; routes that do not say so come last.
pub(super) fn age(route: &HttpRoute) -> impl Ord + Clone + use<> {
    let made = route.metadata.creation_timestamp.clone();
    (made.is_none(), made)
}
