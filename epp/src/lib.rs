//! Forebay's endpoint picker: which pod of an InferencePool gets a request.

pub mod protocol;
