//! URL rewrites and redirects.

use gateway_api::experimental::httproutes as api;
use http::uri::PathAndQuery;
use http::{HeaderValue, StatusCode, Uri, header, request};

/// `path` of a rewrite or redirect.
#[derive(Debug)]
enum PathChange {
    Full(String),
    /// Replaces the prefix that the rule matched.
    Prefix(String),
}

impl PathChange {
    /// `prefix_bytes`: length of the matched prefix without a trailing slash.
    fn apply(&self, path: &str, prefix_bytes: usize) -> String {
        match self {
            Self::Full(full) => full.clone(),
            Self::Prefix(replacement) => match path.get(prefix_bytes..).unwrap_or_default() {
                "" if replacement.is_empty() => "/".to_owned(),
                "" => replacement.clone(),
                rest => format!("{}{rest}", replacement.trim_end_matches('/')),
            },
        }
    }

    fn apply_to(&self, uri: &Uri, prefix_bytes: usize) -> Option<PathAndQuery> {
        let path = self.apply(uri.path(), prefix_bytes);
        let path = if path.starts_with('/') { path } else { format!("/{path}") };
        match uri.query() {
            Some(query) => format!("{path}?{query}").parse().ok(),
            None => path.parse().ok(),
        }
    }
}

/// Changes host and path of the request to the backend.
#[derive(Debug)]
pub struct UrlRewrite {
    host: Option<HeaderValue>,
    path: Option<PathChange>,
}

impl UrlRewrite {
    pub(crate) fn parse(it: &api::HttpRouteRulesFiltersUrlRewrite) -> Result<Self, String> {
        use api::HttpRouteRulesFiltersUrlRewritePathType as Type;
        let host = it
            .hostname
            .as_deref()
            .map(|host| HeaderValue::from_str(host).map_err(|_| format!("hostname {host:?} is not valid")));
        let path = it.path.as_ref().map(|path| match path.r#type {
            Type::ReplaceFullPath => full(path.replace_full_path.as_deref()),
            Type::ReplacePrefixMatch => prefix(path.replace_prefix_match.as_deref()),
        });
        Ok(Self { host: host.transpose()?, path: path.transpose()? })
    }

    /// `prefix_bytes`: length of the matched prefix without a trailing slash.
    pub fn apply(&self, head: &mut request::Parts, prefix_bytes: usize) {
        if let Some(host) = &self.host {
            head.headers.insert(header::HOST, host.clone());
        }
        if let Some(path) = self.path.as_ref().and_then(|path| path.apply_to(&head.uri, prefix_bytes)) {
            head.uri = path.into();
        }
    }
}

/// Response that redirects the client.
#[derive(Debug)]
pub struct Redirect {
    scheme: Option<&'static str>,
    host: Option<String>,
    port: Option<u16>,
    path: Option<PathChange>,
    /// 301, 302, 303, 307 or 308.
    pub status: StatusCode,
}

impl Redirect {
    pub(crate) fn parse(it: &api::HttpRouteRulesFiltersRequestRedirect) -> Result<Self, String> {
        use api::HttpRouteRulesFiltersRequestRedirectPathType as Type;
        use api::HttpRouteRulesFiltersRequestRedirectScheme as Scheme;
        let status = it.status_code.unwrap_or(302);
        let status = match status {
            301 | 302 | 303 | 307 | 308 => {
                u16::try_from(status).ok().and_then(|it| StatusCode::from_u16(it).ok())
            }
            _ => None,
        };
        let port = it.port.map(|port| u16::try_from(port).map_err(|_| format!("{port} is not a valid port")));
        let path = it.path.as_ref().map(|path| match path.r#type {
            Type::ReplaceFullPath => full(path.replace_full_path.as_deref()),
            Type::ReplacePrefixMatch => prefix(path.replace_prefix_match.as_deref()),
        });
        Ok(Self {
            scheme: it.scheme.as_ref().map(|scheme| match scheme {
                Scheme::Http => "http",
                Scheme::Https => "https",
            }),
            host: it.hostname.clone(),
            port: port.transpose()?,
            path: path.transpose()?,
            status: status.ok_or("statusCode must be 301, 302, 303, 307 or 308")?,
        })
    }

    /// The `Location` header. `scheme`, `host` and `port` are those of the request.
    pub fn location(
        &self,
        uri: &Uri,
        prefix_bytes: usize,
        scheme: &'static str,
        host: &str,
        port: u16,
    ) -> Option<HeaderValue> {
        let well_known = |scheme: &str| if scheme == "https" { 443 } else { 80 };
        let port = match (self.port, self.scheme) {
            (Some(port), _) => port,
            (None, Some(scheme)) => well_known(scheme),
            (None, None) => port,
        };
        let scheme = self.scheme.unwrap_or(scheme);
        let host = self.host.as_deref().unwrap_or(host);
        let bracketed = host.contains(':');
        let host = if bracketed { format!("[{host}]") } else { host.to_owned() };
        let port = if port == well_known(scheme) { String::new() } else { format!(":{port}") };
        let path = match &self.path {
            Some(path) => path.apply_to(uri, prefix_bytes)?,
            None => uri.path_and_query()?.clone(),
        };
        HeaderValue::from_str(&format!("{scheme}://{host}{port}{path}")).ok()
    }
}

fn full(path: Option<&str>) -> Result<PathChange, String> {
    Ok(PathChange::Full(checked(path.ok_or("replaceFullPath is missing")?)?))
}

fn prefix(path: Option<&str>) -> Result<PathChange, String> {
    Ok(PathChange::Prefix(checked(path.ok_or("replacePrefixMatch is missing")?)?))
}

fn checked(path: &str) -> Result<String, String> {
    match format!("/{}", path.trim_start_matches('/')).parse::<PathAndQuery>() {
        Ok(parsed) if parsed.query().is_none() => Ok(path.to_owned()),
        _ => Err(format!("the path {path:?} is not valid")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The table of `replacePrefixMatch` in the specification.
    #[test]
    fn replaces_prefixes_as_specified() {
        for (path, matched, replacement, expected) in [
            ("/foo/bar", "/foo", "/xyz", "/xyz/bar"),
            ("/foo/bar", "/foo", "/xyz/", "/xyz/bar"),
            ("/foo/bar", "/foo/", "/xyz", "/xyz/bar"),
            ("/foo/bar", "/foo/", "/xyz/", "/xyz/bar"),
            ("/foo", "/foo", "/xyz", "/xyz"),
            ("/foo/", "/foo", "/xyz", "/xyz/"),
            ("/foo/bar", "/foo", "", "/bar"),
            ("/foo/", "/foo", "", "/"),
            ("/foo", "/foo", "", "/"),
            ("/foo/", "/foo", "/", "/"),
            ("/foo", "/foo", "/", "/"),
            ("/bar", "/", "/xyz", "/xyz/bar"),
        ] {
            let change = PathChange::Prefix(replacement.to_owned());
            let prefix_bytes = matched.trim_end_matches('/').len();
            assert_eq!(change.apply(path, prefix_bytes), expected, "{path} {matched} {replacement}");
        }
    }

    #[test]
    fn redirects_keep_unset_parts_of_the_request() {
        let redirect = |json: serde_json::Value| Redirect::parse(&serde_json::from_value(json).unwrap());
        let uri: Uri = "/a/b?x=1".parse().unwrap();
        for (filter, expected) in [
            (serde_json::json!({}), "http://h:8080/a/b?x=1"),
            (serde_json::json!({"hostname": "other"}), "http://other:8080/a/b?x=1"),
            (serde_json::json!({"scheme": "https"}), "https://h/a/b?x=1"),
            (serde_json::json!({"scheme": "https", "port": 8443}), "https://h:8443/a/b?x=1"),
            (serde_json::json!({"port": 80}), "http://h/a/b?x=1"),
            (
                serde_json::json!({"path": {"type": "ReplacePrefixMatch", "replacePrefixMatch": "/c"}}),
                "http://h:8080/c/b?x=1",
            ),
            (
                serde_json::json!({"path": {"type": "ReplaceFullPath", "replaceFullPath": "/c"}, "statusCode": 301}),
                "http://h:8080/c?x=1",
            ),
        ] {
            let redirect = redirect(filter.clone()).unwrap();
            let location = redirect.location(&uri, 2, "http", "h", 8080).unwrap();
            assert_eq!(location, expected, "{filter}");
        }
        assert!(redirect(serde_json::json!({"statusCode": 200})).is_err());
        assert!(
            redirect(serde_json::json!({"path": {"type": "ReplaceFullPath", "replaceFullPath": "a\nb"}}))
                .is_err()
        );
    }
}
