use http::{HeaderMap, header};

/// How a response body can be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResponseFormat {
    /// `text/event-stream`: a stream of server-sent events.
    Events,
    /// `application/json`: one JSON text.
    Json,
}

impl ResponseFormat {
    /// The format that `Content-Type` names. `None` for other media types and for encoded (compressed) bodies.
    pub fn of(headers: &HeaderMap) -> Option<Self> {
        if headers.contains_key(header::CONTENT_ENCODING) {
            return None;
        }
        let media_type = headers.get(header::CONTENT_TYPE)?.as_bytes();
        let is = |wanted: &[u8]| {
            media_type.get(..wanted.len()).is_some_and(|start| start.eq_ignore_ascii_case(wanted))
        };
        if is(b"text/event-stream") {
            Some(Self::Events)
        } else if is(b"application/json") {
            Some(Self::Json)
        } else {
            None
        }
    }
}
