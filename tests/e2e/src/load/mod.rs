//! Load client: sends OpenAI requests, reads complete responses, and measures times.

mod client;
mod mix;
mod reader;

pub use client::{Client, Outcome, Shape};
pub use mix::{Ledger, Mix, run};
