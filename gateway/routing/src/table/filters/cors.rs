//! The CORS filter.

use gateway_api::experimental::httproutes as api;
use http::{HeaderMap, HeaderValue, Method, header, request};

/// `maxAge` when unset (Gateway API, HTTPCORSFilter).
const DEFAULT_MAX_AGE_SECONDS: i32 = 5;

/// Which origins may use the route from a browser (Fetch standard, CORS protocol).
#[derive(Debug)]
pub struct Cors {
    origins: Origins,
    methods: Names,
    headers: Names,
    expose: Names,
    credentials: bool,
    max_age: HeaderValue,
}

#[derive(Debug)]
enum Origins {
    Any,
    /// Exact origins, and origins whose host starts with a wildcard.
    Of(Vec<Origin>),
}

#[derive(Debug)]
enum Origin {
    Exact(String),
    Wildcard { scheme: String, suffix: String },
}

#[derive(Debug)]
enum Names {
    None,
    Any,
    Of(HeaderValue),
}

/// Response headers for a preflight, which is not forwarded.
#[derive(Debug)]
pub struct Preflight(
    /// Headers of the response.
    pub HeaderMap,
);

impl Cors {
    pub(crate) fn parse(it: &api::HttpRouteRulesFiltersCors) -> Result<Self, String> {
        let max_age = it.max_age.unwrap_or(DEFAULT_MAX_AGE_SECONDS);
        Ok(Self {
            origins: Origins::parse(it.allow_origins.as_deref().unwrap_or_default()),
            methods: Names::parse(it.allow_methods.as_deref())?,
            headers: Names::parse(it.allow_headers.as_deref())?,
            expose: Names::parse(it.expose_headers.as_deref())?,
            credentials: it.allow_credentials.unwrap_or(false),
            max_age: HeaderValue::from(max_age),
        })
    }

    /// The response to a preflight; `None` for other requests.
    pub fn preflight(&self, head: &request::Parts) -> Option<Preflight> {
        let method = head.headers.get(header::ACCESS_CONTROL_REQUEST_METHOD)?;
        let origin = head.headers.get(header::ORIGIN).filter(|_| head.method == Method::OPTIONS)?;
        let mut response = HeaderMap::new();
        if self.allow_origin(origin, &mut response) {
            response.insert(header::ACCESS_CONTROL_MAX_AGE, self.max_age.clone());
            // Fetch reads it from the actual response only; Gateway API also requires it here.
            if let Some(value) = self.expose.value(None, self.credentials) {
                response.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, value);
            }
            let asked = head.headers.get(header::ACCESS_CONTROL_REQUEST_HEADERS);
            let mut allow = |name, names: &Names, asked: Option<&HeaderValue>| {
                if let Some(value) = names.value(asked, self.credentials) {
                    response.insert(name, value);
                }
            };
            allow(header::ACCESS_CONTROL_ALLOW_METHODS, &self.methods, Some(method));
            allow(header::ACCESS_CONTROL_ALLOW_HEADERS, &self.headers, asked);
        }
        Some(Preflight(response))
    }

    /// Sets the response headers for `origin`, if it is allowed.
    pub fn apply(&self, origin: Option<&HeaderValue>, response: &mut HeaderMap) {
        // The CORS filter replaces what the backend sent.
        for name in [
            header::ACCESS_CONTROL_ALLOW_ORIGIN,
            header::ACCESS_CONTROL_ALLOW_CREDENTIALS,
            header::ACCESS_CONTROL_EXPOSE_HEADERS,
        ] {
            response.remove(name);
        }
        let Some(origin) = origin else { return };
        if self.allow_origin(origin, response)
            && let Some(value) = self.expose.value(None, self.credentials)
        {
            response.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, value);
        }
    }

    fn allow_origin(&self, origin: &HeaderValue, response: &mut HeaderMap) -> bool {
        let allowed = match &self.origins {
            // With credentials, browsers take `*` literally (Fetch, 3.2.5).
            Origins::Any if !self.credentials => HeaderValue::from_static("*"),
            Origins::Any => origin.clone(),
            Origins::Of(origins) => {
                let Ok(text) = origin.to_str() else { return false };
                if !origins.iter().any(|allowed| allowed.matches(text)) {
                    return false;
                }
                origin.clone()
            }
        };
        if allowed != "*" {
            response.append(header::VARY, HeaderValue::from_static("Origin"));
        }
        response.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, allowed);
        if self.credentials {
            response.insert(header::ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
        }
        true
    }
}

impl Origins {
    fn parse(origins: &[String]) -> Self {
        if origins.iter().any(|origin| origin == "*") {
            return Self::Any;
        }
        let parsed = origins.iter().map(|origin| match origin.split_once("://*") {
            Some((scheme, suffix)) => {
                Origin::Wildcard { scheme: scheme.to_owned(), suffix: suffix.to_owned() }
            }
            None => Origin::Exact(origin.clone()),
        });
        Self::Of(parsed.collect())
    }
}

impl Origin {
    fn matches(&self, origin: &str) -> bool {
        match self {
            Self::Exact(exact) => exact.eq_ignore_ascii_case(origin),
            Self::Wildcard { scheme, suffix } => origin.split_once("://").is_some_and(|(of, host)| {
                of.eq_ignore_ascii_case(scheme)
                    && host.len() > suffix.len()
                    && host
                        .get(host.len() - suffix.len()..)
                        .is_some_and(|end| end.eq_ignore_ascii_case(suffix))
            }),
        }
    }
}

impl Names {
    fn parse(names: Option<&[String]>) -> Result<Self, String> {
        match names {
            None | Some([]) => Ok(Self::None),
            Some(names) if names.iter().any(|name| name == "*") => Ok(Self::Any),
            Some(names) => {
                let joined = names.join(", ");
                let value = HeaderValue::from_str(&joined);
                value.map(Self::Of).map_err(|_| format!("{joined:?} is not a list of header or method names"))
            }
        }
    }

    /// `asked`: the value for a wildcard when credentials forbid sending `*`.
    fn value(&self, asked: Option<&HeaderValue>, credentials: bool) -> Option<HeaderValue> {
        match self {
            Self::None => None,
            Self::Any if !credentials => Some(HeaderValue::from_static("*")),
            Self::Any => asked.cloned(),
            Self::Of(names) => Some(names.clone()),
        }
    }
}

#[cfg(test)]
mod tests {
    use http::Request;
    use serde_json::json;

    use super::*;

    fn cors(json: serde_json::Value) -> Cors {
        Cors::parse(&serde_json::from_value(json).unwrap()).unwrap()
    }

    fn preflight(cors: &Cors, origin: &str) -> Vec<String> {
        let (head, ()) = Request::options("/")
            .header("origin", origin)
            .header("access-control-request-method", "PUT")
            .header("access-control-request-headers", "x-asked")
            .body(())
            .unwrap()
            .into_parts();
        let Preflight(headers) = cors.preflight(&head).unwrap();
        let mut sent: Vec<String> = headers
            .iter()
            .map(|(name, value)| {
                format!("{}={}", name.as_str().trim_start_matches("access-control-"), value.to_str().unwrap())
            })
            .collect();
        sent.sort();
        sent
    }

    #[test]
    fn answers_preflights_of_allowed_origins() {
        let plain = cors(json!({
            "allowOrigins": ["https://a.example", "https://*.b.example"],
            "allowMethods": ["GET", "PUT"],
            "allowHeaders": ["x-one", "x-two"],
            "exposeHeaders": ["x-three"],
            "maxAge": 60,
        }));
        let allowed = |origin: &str| {
            [
                "allow-headers=x-one, x-two".to_owned(),
                "allow-methods=GET, PUT".to_owned(),
                format!("allow-origin={origin}"),
                "expose-headers=x-three".to_owned(),
                "max-age=60".to_owned(),
                "vary=Origin".to_owned(),
            ]
        };
        assert_eq!(preflight(&plain, "https://a.example"), allowed("https://a.example"));
        assert_eq!(preflight(&plain, "https://x.y.b.example"), allowed("https://x.y.b.example"));
        for stranger in ["http://a.example", "https://b.example", "https://a.example.org", "null"] {
            assert!(preflight(&plain, stranger).is_empty(), "{stranger}");
        }
        let open = json!({"allowOrigins": ["*"], "allowMethods": ["*"], "allowHeaders": ["*"]});
        assert_eq!(
            preflight(&cors(open.clone()), "https://a"),
            ["allow-headers=*", "allow-methods=*", "allow-origin=*", "max-age=5"]
        );
        let mut with_credentials = open;
        with_credentials["allowCredentials"] = json!(true);
        assert_eq!(
            preflight(&cors(with_credentials), "https://a"),
            [
                "allow-credentials=true",
                "allow-headers=x-asked",
                "allow-methods=PUT",
                "allow-origin=https://a",
                "max-age=5",
                "vary=Origin"
            ]
        );
    }

    #[test]
    fn sets_response_headers_for_allowed_origins_only() {
        let cors = cors(json!({"allowOrigins": ["https://a"], "exposeHeaders": ["x-one"]}));
        let mut response = HeaderMap::new();
        response.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
        cors.apply(Some(&HeaderValue::from_static("https://b")), &mut response);
        assert!(response.is_empty(), "backend headers must not admit another origin: {response:?}");
        cors.apply(Some(&HeaderValue::from_static("https://a")), &mut response);
        assert_eq!(response[header::ACCESS_CONTROL_EXPOSE_HEADERS], "x-one");
        assert_eq!(response[header::ACCESS_CONTROL_ALLOW_ORIGIN], "https://a");
    }

    #[test]
    fn other_requests_are_not_preflights() {
        let cors = cors(json!({"allowOrigins": ["*"]}));
        for request in [
            Request::options("/").header("origin", "https://a"),
            Request::options("/").header("access-control-request-method", "GET"),
            Request::get("/").header("origin", "https://a").header("access-control-request-method", "GET"),
        ] {
            let (head, ()) = request.body(()).unwrap().into_parts();
            assert!(cors.preflight(&head).is_none());
        }
    }
}
