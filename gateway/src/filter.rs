//! A route's filters, as they meet one request.

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response, StatusCode, header, request};

use crate::Error;
use forebay_routing::{Filters, Mirror, Preflight};

/// What happens to a request and its response on the way: the rule's filters, then those of the backend.
#[derive(Debug)]
pub(crate) struct OnTheWay<'a> {
    rule: Option<&'a Filters>,
    backend: Option<&'a Filters>,
    /// The page that asks, where the rule has to know.
    origin: Option<HeaderValue>,
}

impl<'a> OnTheWay<'a> {
    pub(crate) fn new(rule: Option<&'a Filters>, backend: Option<&'a Filters>, headers: &HeaderMap) -> Self {
        let has_cors = rule.is_some_and(|rule| rule.cors.is_some());
        let origin = if has_cors { headers.get(header::ORIGIN).cloned() } else { None };
        Self { rule, backend, origin }
    }

    /// The answer, if the request goes no further.
    pub(crate) fn answer(
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
            .ok_or(Error::Backend("its redirect leads nowhere for this path"))?;
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

    /// Whether headers of the request are changed.
    pub(crate) fn change_request_headers(&self) -> bool {
        self.both().any(|filters| filters.request_headers.is_some())
    }

    /// Those that take this request.
    pub(crate) fn mirrors(&self) -> impl Iterator<Item = &'a Mirror> {
        self.both().flat_map(|filters| &filters.mirrors).filter(|mirror| mirror.takes_next())
    }

    pub(crate) fn change_response(&self, headers: &mut HeaderMap) {
        // In the opposite order: the rule has the last word.
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
