//! One request, in stages. Each stage consumes the one before it, so no step can run too early or twice.
//!
//! | stage | what happens | fails with |
//! |---|---|---|
//! | [`Received`](received::Received) | headers are sanitised, the path gets one spelling, the listener is selected | invalid headers, path or host, no route, misdirected |
//! | [`Routed`](routed::Routed) | the body is read until the model is known; the rule and the backend are selected | invalid or stalled body, unknown model, no route |
//! | [`Prepared`](prepared::Prepared) | filters and model rewrite are applied, mirrors are sent, usage is asked for ([`stream_usage`]) | invalid rewrite, body limits |
//! | [`Forwarded`](forwarded::Forwarded) | an endpoint is picked, the request is sent until the response head arrives | picker and upstream errors, timeouts of the route |
//! | [`Answered`](answered::Answered) | the picker and the filters change the response head | response of the picker |
//!
//! Policies that restrict who may send a request are checked by [`access`]: in `Received` as far as the rule does not
//! matter, in `Routed`, and in `Prepared` for the model that replaces the client's. [`limits`] takes the request from rate
//! limits in `Routed`.
//!
//! Before `Routed`, `GET /v1/models` and `GET /forebay/v1/limits` may be answered by the gateway ([`models`], [`left`]). Before `Prepared`, filters may answer
//! (redirects, CORS preflights). The body of the response is streamed by [`crate::response`].
//!
//! [`context::Context`] is passed from stage to stage. Its `observe_…` methods are called once per transition and are the
//! only place that updates metrics, traces and explanations. [`handler`] runs the stages and turns errors into responses.

mod access;
mod admission;
mod answered;
mod authority;
mod context;
mod filters;
mod forwarded;
mod handler;
mod left;
mod limits;
mod models;
mod path;
mod prepared;
mod proxy;
mod received;
mod reserved;
mod rewrite;
mod routed;
mod stream_usage;
mod usable;

pub(crate) use path::normalise;
pub use proxy::StreamUsage;
pub(crate) use proxy::{Proxy, Routes};
