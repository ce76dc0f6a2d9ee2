//! Fuzz targets of `forebay-agent-ebpf`. Each is a function that panics on a fault.

mod framing;

pub use framing::framing;
