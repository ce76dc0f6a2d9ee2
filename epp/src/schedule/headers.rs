//! The headers of a request, as plugins read them.

use std::fmt;

use forebay_grpc::names::{MODEL_NAME, MODEL_NAME_REWRITE, MODEL_NAME_REWRITE_ALIAS};

/// Request headers by name.
pub trait Headers: fmt::Debug {
    /// The first value of a header, if it is text. `name`: in lower case.
    fn get(&self, name: &str) -> Option<&str>;
}

impl Headers for http::HeaderMap {
    fn get(&self, name: &str) -> Option<&str> {
        Self::get(self, name)?.to_str().ok()
    }
}

/// The model or adapter that the engine runs, if a gateway has written it into a header.
pub(super) fn model(headers: &dyn Headers) -> Option<&str> {
    let names = [MODEL_NAME_REWRITE, MODEL_NAME_REWRITE_ALIAS, MODEL_NAME];
    names.into_iter().find_map(|name| headers.get(name)).filter(|model| !model.is_empty())
}
