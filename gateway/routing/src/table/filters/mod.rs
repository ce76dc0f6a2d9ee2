//! Filters of HTTPRoutes, ready to be applied.

use std::sync::Arc;

mod cors;
mod headers;
mod path;

pub use self::cors::{Cors, Preflight};
pub use self::headers::HeaderChange;
pub use self::path::{Redirect, UrlRewrite};
use super::backend::Backend;

/// The filters of a rule, or of one of its backends.
#[derive(Debug, Default)]
pub struct Filters {
    /// `RequestHeaderModifier`.
    pub request_headers: Option<HeaderChange>,
    /// `ResponseHeaderModifier`.
    pub response_headers: Option<HeaderChange>,
    /// `URLRewrite`.
    pub rewrite: Option<UrlRewrite>,
    /// `RequestRedirect`.
    pub redirect: Option<Redirect>,
    /// `RequestMirror`, any number of them.
    pub mirrors: Vec<Mirror>,
    /// `CORS`.
    pub cors: Option<Cors>,
    /// A filter that must not be skipped is not known: every request gets 500 (Gateway API, HTTPRouteFilter).
    pub missing: Option<&'static str>,
}

/// Target of copies of requests.
#[derive(Debug)]
pub struct Mirror {
    /// Receives the copies. Its responses are ignored.
    pub backend: Backend,
    /// The policy that closes the backend: no copy is sent.
    pub closed_by: Option<Arc<str>>,
    pub(crate) numerator: u64,
    pub(crate) denominator: u64,
}

impl Mirror {
    /// Whether to copy the next request: true for the configured fraction of calls, at random.
    pub fn takes_next(&self) -> bool {
        self.numerator >= self.denominator || fastrand::u64(..self.denominator) < self.numerator
    }
}
