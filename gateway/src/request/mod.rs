//! One request, in stages. Each stage consumes the one before it, so no step can run too early or twice.
//!
//! | stage | what happens | fails with |
//! |---|---|---|
//! | [`Received`](received::Received) | headers are sanitised, the path gets one spelling, the listener is selected | invalid headers, path or host, no route, misdirected |
//! | [`Routed`](routed::Routed) | the body is read until the model is known; the rule and the backend are selected | invalid or stalled body, unknown model, no route |
//! | [`Prepared`](prepared::Prepared) | filters and model rewrite are applied, mirrors are sent | invalid rewrite, body limits |
//! | [`Forwarded`](forwarded::Forwarded) | an endpoint is picked, the request is sent until the response head arrives | picker and upstream errors, timeouts of the route |
//! | [`Answered`](answered::Answered) | the picker and the filters change the response head | response of the picker |
//!
//! Before `Routed`, `GET /v1/models` may be answered by the gateway ([`models`]). Before `Prepared`, filters may answer
//! (redirects, CORS preflights). The body of the response is streamed by [`crate::response`].
//!
//! [`context::Context`] is passed from stage to stage. Its `observe_…` methods are called once per transition and are the
//! only place that updates metrics, traces and explanations. [`handler`] runs the stages and turns errors into responses.

mod admission;
mod answered;
mod authority;
mod context;
mod filters;
mod forwarded;
mod handler;
mod models;
mod path;
mod prepared;
mod proxy;
mod received;
mod rewrite;
mod routed;

pub(crate) use path::normalise;
pub(crate) use proxy::{Proxy, Routes};
