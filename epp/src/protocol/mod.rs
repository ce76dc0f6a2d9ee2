//! The Endpoint Picker Protocol of the Gateway API Inference Extension, as an ext_proc server. Messages and names come from
//! `forebay_grpc`.

mod body;
mod gateway;
mod held;
mod metadata;
mod reply;
mod response;
mod server;
mod session;

pub use server::ExtProc;
