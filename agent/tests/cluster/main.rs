//! The store, filled from a real API server.

mod changes;
mod support;
