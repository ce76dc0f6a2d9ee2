//! The response to the client.

mod body;

pub(crate) use body::{ResponseBody, ResponseState};
