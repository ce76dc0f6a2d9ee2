use std::io;

use crate::hold::{Fate, RestError};

/// Why an exchange with a model server broke off.
#[derive(Debug, thiserror::Error)]
pub enum Broken {
    #[error("it did not begin to answer in time")]
    Late,
    #[error("it closed the connection")]
    Closed,
    #[error(transparent)]
    Io(#[from] io::Error),
    /// Its response cannot be read; says what of it.
    #[error("its response is no HTTP/1.1: {0}")]
    Malformed(&'static str),
    #[error(transparent)]
    Http2(#[from] hyper::Error),
    /// The client's body, not the model server, was what ended the exchange.
    #[error(transparent)]
    Rest(#[from] RestError),
}

impl Broken {
    /// Of an exchange over HTTP/2, whose errors say nothing of the body that was sent.
    pub(super) fn http2(error: hyper::Error, request: &Fate) -> Self {
        request.failure().map_or(Self::Http2(error), Self::Rest)
    }
}
