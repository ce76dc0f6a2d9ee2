//! End-to-end tests of the gateway over real sockets.
#![allow(clippy::unwrap_used, reason = "a failure ends the test or benchmark that it is in")]

mod body;
mod client_places;
mod client_timeouts;
mod closed;
mod drain;
mod explain;
mod filters;
mod h2c;
mod in_process;
mod lingering;
mod listeners;
mod models;
mod observe;
mod odd_bodies;
mod odd_responses;
mod path;
mod picker;
mod picker_failover;
mod picker_limits;
mod picker_orders;
mod picker_phases;
mod picker_replace;
mod picker_response;
mod picker_tls;
mod request_heads;
mod retry;
mod rewrite;
mod services;
mod stalls;
mod subset;
mod support;
mod tls;
mod traces;
mod two_readings;
mod upstream;
