//! Which requests are served: of this page, in this user's browser.
//!
//! The browser of the user also runs pages of others. They can make requests to loopback, and with DNS rebinding they are even
//! of the same origin. So the Host header must be a name of loopback, a foreign Origin is refused, and the API needs a token
//! that only the printed address has. It is behind `#`, which browsers do not send: it is in no log and no Referer.

use std::net::IpAddr;

use anyhow::Context as _;
use http::{
    HeaderMap, Method, StatusCode,
    header::{AUTHORIZATION, HOST, ORIGIN},
    request::Parts,
    uri::Authority,
};
use sha2::{Digest as _, Sha256};

/// Bytes of a token.
const TOKEN_BYTES: usize = 16;

/// Checks requests.
#[derive(Debug)]
pub(super) struct Guard {
    port: u16,
    token: String,
}

/// Why a request is not served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    Host,
    Origin,
    Token,
}

impl Refusal {
    pub(super) fn status(self) -> StatusCode {
        match self {
            // RFC 9110 §15.5.20: the server does not respond for this name.
            Self::Host => StatusCode::MISDIRECTED_REQUEST,
            Self::Origin => StatusCode::FORBIDDEN,
            Self::Token => StatusCode::UNAUTHORIZED,
        }
    }

    pub(super) fn code(self) -> &'static str {
        match self {
            Self::Host => "host_not_loopback",
            Self::Origin => "foreign_origin",
            Self::Token => "invalid_token",
        }
    }

    pub(super) fn message(self) -> &'static str {
        match self {
            Self::Host => {
                "the Host header must be localhost or a loopback address, with the port of the dashboard: use the printed \
                 address, and the same port on both sides of a tunnel"
            }
            Self::Origin => "the request comes from another page",
            Self::Token => {
                "the token is not the one of this run: open the address that `forebay dashboard` printed"
            }
        }
    }
}

impl Guard {
    /// A guard with a new token, for the page on `port`.
    pub(super) fn new(port: u16) -> anyhow::Result<Self> {
        let mut bytes = [0; TOKEN_BYTES];
        getrandom::fill(&mut bytes).context("no random numbers from the system")?;
        Ok(Self { port, token: bytes.iter().map(|byte| format!("{byte:02x}")).collect() })
    }

    /// The address of the page.
    pub(super) fn url(&self, address: std::net::SocketAddr) -> String {
        format!("http://{address}/#{}", self.token)
    }

    /// Checks any request.
    pub(super) fn check(&self, request: &Parts) -> Result<(), Refusal> {
        // RFC 9112 §3.2.2: the authority of an absolute target replaces Host. Browsers send none to a server.
        if request.uri.authority().is_some() || !self.has_own_host(&request.headers) {
            return Err(Refusal::Host);
        }
        let mut origins = request.headers.get_all(ORIGIN).iter();
        let is_own = match (origins.next(), origins.next()) {
            (None, _) => request.method == Method::GET || request.method == Method::HEAD,
            (Some(origin), None) => origin
                .to_str()
                .ok()
                .and_then(|origin| origin.strip_prefix("http://"))
                .is_some_and(|authority| self.is_own(authority)),
            (Some(_), Some(_)) => false,
        };
        if is_own { Ok(()) } else { Err(Refusal::Origin) }
    }

    /// Checks the token of a request to the API.
    pub(super) fn check_token(&self, headers: &HeaderMap) -> Result<(), Refusal> {
        let token = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok()?.strip_prefix("Bearer "));
        // Hashes: the time of the comparison says nothing about the token.
        let is_known = token.is_some_and(|token| Sha256::digest(token) == Sha256::digest(&self.token));
        if is_known { Ok(()) } else { Err(Refusal::Token) }
    }

    fn has_own_host(&self, headers: &HeaderMap) -> bool {
        let mut hosts = headers.get_all(HOST).iter();
        match (hosts.next(), hosts.next()) {
            (Some(host), None) => host.to_str().is_ok_and(|host| self.is_own(host)),
            _ => false,
        }
    }

    /// Whether `HOST:PORT` is loopback, with the port of the page. 80 is left out by browsers.
    fn is_own(&self, authority: &str) -> bool {
        let Ok(authority) = authority.parse::<Authority>() else { return false };
        if authority.as_str().contains('@') {
            return false;
        }
        let host = authority.host();
        let address = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        let is_loopback = host.eq_ignore_ascii_case("localhost")
            || address.parse::<IpAddr>().is_ok_and(|address| address.is_loopback());
        is_loopback && authority.port_u16().unwrap_or(80) == self.port
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use http::Request;

    use super::*;

    fn check(guard: &Guard, method: &str, uri: &str, headers: &[(&str, &str)]) -> Result<(), Refusal> {
        let mut request = Request::builder().method(method).uri(uri);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        guard.check(&request.body(()).unwrap().into_parts().0)
    }

    #[test]
    fn the_host_is_loopback_with_the_own_port() {
        let guard = Guard::new(9000).unwrap();
        for host in ["127.0.0.1:9000", "localhost:9000", "LOCALHOST:9000", "[::1]:9000", "127.0.0.2:9000"] {
            assert_eq!(check(&guard, "GET", "/", &[("host", host)]), Ok(()), "{host}");
        }
        for host in [
            "attacker.example:9000",
            "localhost.attacker.example:9000",
            "127.0.0.1.attacker.example:9000",
            "127.0.0.1:9001",
            "127.0.0.1",
            "10.0.0.1:9000",
            "localhost@attacker.example:9000",
            "attacker.example@localhost:9000",
            "",
        ] {
            assert_eq!(check(&guard, "GET", "/", &[("host", host)]), Err(Refusal::Host), "{host}");
        }
        assert_eq!(check(&guard, "GET", "/", &[]), Err(Refusal::Host));
        let twice = [("host", "127.0.0.1:9000"), ("host", "attacker.example:9000")];
        assert_eq!(check(&guard, "GET", "/", &twice), Err(Refusal::Host));
        let absolute = check(&guard, "GET", "http://attacker.example:9000/", &[("host", "127.0.0.1:9000")]);
        assert_eq!(absolute, Err(Refusal::Host));
        assert_eq!(check(&Guard::new(80).unwrap(), "GET", "/", &[("host", "localhost")]), Ok(()));
    }

    #[test]
    fn a_foreign_origin_is_refused_and_a_post_needs_one() {
        let guard = Guard::new(9000).unwrap();
        let host = ("host", "127.0.0.1:9000");
        for (method, origin, expected) in [
            ("GET", None, Ok(())),
            ("POST", None, Err(Refusal::Origin)),
            ("POST", Some("http://127.0.0.1:9000"), Ok(())),
            ("POST", Some("http://localhost:9000"), Ok(())),
            ("POST", Some("https://localhost:9000"), Err(Refusal::Origin)),
            ("POST", Some("http://localhost:9001"), Err(Refusal::Origin)),
            ("POST", Some("http://attacker.example:9000"), Err(Refusal::Origin)),
            ("GET", Some("http://attacker.example"), Err(Refusal::Origin)),
            ("POST", Some("null"), Err(Refusal::Origin)),
        ] {
            let headers: Vec<_> = [host].into_iter().chain(origin.map(|origin| ("origin", origin))).collect();
            assert_eq!(check(&guard, method, "/api/chat", &headers), expected, "{method} {origin:?}");
        }
    }

    #[test]
    fn tokens_are_of_one_run() {
        let (one, other) = (Guard::new(1).unwrap(), Guard::new(1).unwrap());
        let headers = |token: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(AUTHORIZATION, format!("Bearer {token}").parse().unwrap());
            headers
        };
        assert_eq!(one.token.len(), 2 * TOKEN_BYTES);
        assert_eq!(one.check_token(&headers(&one.token)), Ok(()));
        for wrong in [&other.token, "", &one.token[1..]] {
            assert_eq!(one.check_token(&headers(wrong)), Err(Refusal::Token));
        }
        assert_eq!(one.check_token(&HeaderMap::new()), Err(Refusal::Token));
    }
}
