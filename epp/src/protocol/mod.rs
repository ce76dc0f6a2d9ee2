//! The Endpoint Picker Protocol of the Gateway API Inference Extension, as an ext_proc server. Messages and names come from
//! `forebay_grpc`.

mod body;
mod conformance;
mod gateway;
mod held;
mod metadata;
mod received;
mod reply;
mod response;
mod server;
mod session;

pub use server::ExtProc;
pub use session::ObeyedHeaders;
