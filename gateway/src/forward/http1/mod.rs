//! HTTP/1.1 to model servers, on the way of every request: nothing is handed to another task, a request that is
//! waited for holds no buffer, and bytes are copied once at most.

mod connection;
mod decode;
mod head;
mod outgoing;

pub(crate) use connection::Connection;
pub(super) use connection::connect;
