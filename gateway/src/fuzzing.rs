//! Entry points of the fuzz targets in `gateway/fuzz`. No other code uses them.
#![allow(missing_docs, reason = "not part of the API")]

use bytes::Bytes;
use http::{HeaderMap, Uri, response};

use crate::{
    forward::{Decoded, ExchangeError, Incoming},
    request::normalise,
};

/// A response that was read completely.
#[derive(Debug)]
pub struct Response {
    pub head: response::Parts,
    pub body: Vec<u8>,
    pub trailers: Option<HeaderMap>,
    /// Whether another request could be sent on the connection.
    pub is_reusable: bool,
}

/// Reads the response to a request from pieces, of which the last one is followed by the end of the connection.
pub fn read_response<'a>(
    mut pieces: impl Iterator<Item = &'a [u8]>,
    is_head: bool,
) -> Result<Response, ExchangeError> {
    let mut incoming = Incoming::default();
    let head = loop {
        if let Some(head) = incoming.head(is_head)? {
            break head;
        }
        incoming.push(Bytes::copy_from_slice(pieces.next().ok_or(ExchangeError::Closed)?));
    };
    let (mut body, mut trailers) = (Vec::new(), None);
    loop {
        match incoming.frame()? {
            Decoded::Data(data) => body.extend_from_slice(&data),
            Decoded::Trailers(received) => trailers = Some(received),
            Decoded::End => break,
            Decoded::NeedsMore => match pieces.next() {
                Some(piece) => incoming.push(Bytes::copy_from_slice(piece)),
                None => incoming.closed()?,
            },
        }
    }
    let is_reusable = incoming.is_reusable() && pieces.next().is_none();
    Ok(Response { head, body, trailers, is_reusable })
}

/// The one spelling of the path of `uri`. `None` if servers read the path in different ways.
pub fn normalise_path(mut uri: Uri) -> Option<Uri> {
    normalise(&mut uri).ok().map(|()| uri)
}
