//! HTTP/1.1 client. The task of the request drives its connection; nothing moves to another task. A request that waits
//! for its response holds no buffer, and bytes are copied at most once.

mod connection;
mod decode;
mod head;
mod incoming;
mod outgoing;

pub(crate) use connection::Connection;
pub(super) use connection::{OpenConnection, connect};
pub(crate) use decode::Decoded;
pub(crate) use incoming::Incoming;
