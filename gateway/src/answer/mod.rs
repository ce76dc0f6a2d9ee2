//! What goes back to the client.

pub mod error;
