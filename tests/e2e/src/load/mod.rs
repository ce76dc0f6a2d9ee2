//! The client: sends OpenAI requests, reads the answers to the byte, and times them.

mod client;
mod mix;
mod reader;

pub use client::{Client, Outcome, Shape};
pub use mix::{Ledger, Mix, run};
