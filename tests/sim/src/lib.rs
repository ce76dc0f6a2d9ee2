//! A vLLM server on the wire.
