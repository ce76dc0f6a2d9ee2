//! HTTP/1.1 message framing from TCP segments (RFC 9112 §6): counts requests and responses without parsing them.
//!
//! A [`Connection`] takes every segment that carries payload or a FIN or RST flag, in both directions, and reports
//! what the segment changed in [`Effects`]. It reads the bytes that framing depends on (start lines, two header names,
//! chunk sizes, the first byte of a chunk) and skips all others.
//!
//! The code runs under the BPF verifier: no allocation, no recursion, no panics, all state in one fixed-size value,
//! and at most [`MAX_STEPS`] steps per segment.
//!
//! Ingress and egress of one socket can run on two CPUs at the same time. Each direction writes only its own [`Half`].
//! They share the ring of pending requests, where every shared word is written with one atomic instruction:
//! `ended` (each request ends once) and `waiting_bytes` (each byte is removed once).
//!
//! Imports go one way: [`payload`], `ended` and `atomic` below, then the state (`half`, `pending`, `state`), then the readers of one
//! syntax element (`chunk`, `header`, `sequence`, `requests`), then one step of a direction (`request`, `response`),
//! then the loop over a segment (`walk`), and `driver` on top.
//!
//! # Example
//!
//! ```
//! use forebay_agent_ebpf::framing::{Connection, Segment};
//!
//! let mut connection = Connection::default();
//! let request: &[u8] = b"POST /v1/completions HTTP/1.1\r\nContent-Length: 2\r\n\r\n{}";
//! let segment = Segment { seq: 1, length: request.len() as u32, fin: false, rst: false };
//! connection.ingress(segment, request, 1_000);
//! assert_eq!(connection.request.effects.started, 1);
//! assert_eq!(connection.waiting_bytes(), request.len() as u64);
//! ```

mod atomic;
mod chunk;
mod driver;
mod ended;
mod half;
mod header;
mod payload;
mod pending;
mod request;
mod requests;
mod response;
mod sequence;
mod state;
mod walk;

pub use ended::{Ended, Outcome, known};
pub use half::{Effects, Half};
pub use payload::Payload;
pub use state::{Connection, MAX_PENDING, OpenRequest, Segment};
pub use walk::MAX_STEPS;

#[cfg(test)]
mod tests;
