//! The Endpoint Picker Protocol of the Gateway API Inference Extension: Envoy's
//! ext_proc as a server. Messages and names are those of `forebay_grpc`.

mod answer;
pub(crate) mod health;
mod metadata;
mod server;
mod session;

pub use server::ExtProc;
