//! The filters of the rule and the backend that were chosen for one request.

use bytes::Bytes;
use forebay_routing::{Filters, Mirror, Preflight, Rule, Weighted};
use http::{HeaderMap, HeaderValue, Response, StatusCode, header, request};

use crate::error::Error;

/// Filters of one request. Requests pass the filters of the rule, then those of the backend; responses the reverse.
#[derive(Debug)]
pub(crate) struct AppliedFilters<'a> {
    rule: Option<&'a Filters>,
    backend: Option<&'a Filters>,
    /// `Origin` of the request, if the rule has a CORS filter.
    origin: Option<HeaderValue>,
}

impl<'a> AppliedFilters<'a> {
    /// `chosen`: one of the rule's backends.
    pub(crate) fn new(rule: &'a Rule, chosen: &'a Weighted, headers: &HeaderMap) -> Self {
        let (rule, backend) = (rule.filters.as_deref(), chosen.filters.as_deref());
        let has_cors = rule.is_some_and(|rule| rule.cors.is_some());
        let origin = if has_cors { headers.get(header::ORIGIN).cloned() } else { None };
        Self { rule, backend, origin }
    }

    /// The response of a filter, if a filter answers the request.
    pub(crate) fn response(
        &self,
        head: &request::Parts,
        prefix_bytes: usize,
        host: &str,
        scheme: &'static str,
        port: u16,
    ) -> Result<Option<Response<Bytes>>, Error> {
        if let Some(missing) = self.both().find_map(|filters| filters.missing) {
            return Err(Error::Backend(missing));
        }
        let Some(rule) = self.rule else { return Ok(None) };
        if let Some(Preflight(headers)) = rule.cors.as_ref().and_then(|cors| cors.preflight(head)) {
            let mut response = Response::new(Bytes::new());
            *response.status_mut() = StatusCode::NO_CONTENT;
            *response.headers_mut() = headers;
            return Ok(Some(response));
        }
        let Some(redirect) = &rule.redirect else { return Ok(None) };
        let location = redirect
            .location(&head.uri, prefix_bytes, scheme, host, port)
            .ok_or(Error::Backend("its redirect has no valid location for this path"))?;
        let mut response = Response::new(Bytes::new());
        *response.status_mut() = redirect.status;
        response.headers_mut().insert(header::LOCATION, location);
        self.change_response(response.headers_mut());
        Ok(Some(response))
    }

    pub(crate) fn change_request(&self, head: &mut request::Parts, prefix_bytes: usize) {
        for filters in self.both() {
            if let Some(change) = &filters.request_headers {
                change.apply(&mut head.headers);
            }
            if let Some(rewrite) = &filters.rewrite {
                rewrite.apply(head, prefix_bytes);
            }
        }
    }

    /// Whether a filter changes request headers.
    pub(crate) fn change_request_headers(&self) -> bool {
        self.both().any(|filters| filters.request_headers.is_some())
    }

    /// The mirrors that get a copy of this request.
    pub(crate) fn mirrors(&self) -> impl Iterator<Item = &'a Mirror> {
        self.both().flat_map(|filters| &filters.mirrors).filter(|mirror| mirror.takes_next())
    }

    pub(crate) fn change_response(&self, headers: &mut HeaderMap) {
        // The rule is applied last, so that it overrides the backend.
        for filters in [self.backend, self.rule].into_iter().flatten() {
            if let Some(change) = &filters.response_headers {
                change.apply(headers);
            }
        }
        if let Some(cors) = self.rule.and_then(|rule| rule.cors.as_ref()) {
            cors.apply(self.origin.as_ref(), headers);
        }
    }

    fn both(&self) -> impl Iterator<Item = &'a Filters> + use<'a> {
        [self.rule, self.backend].into_iter().flatten()
    }
}
