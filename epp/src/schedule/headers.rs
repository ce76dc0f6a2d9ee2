//! The headers of a request, as plugins read them.

use std::fmt;

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
