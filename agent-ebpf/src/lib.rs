//! Code and layouts that Forebay's kernel programs share with the agent.
//!
//! - [`framing`] follows HTTP/1.1 on a connection from TCP segments. The same code runs in the kernel and in the tests.
//! - [`maps`] specifies the BPF maps.
//! - [`histogram`] defines the buckets of the latency maps.
//!
//! The kernel programs are the binary `forebay-ebpf` (feature `kernel`, BPF target only).
#![no_std]
#![deny(unsafe_code)]
#![warn(missing_docs)]
#![cfg_attr(target_arch = "bpf", allow(internal_features))]
#![cfg_attr(target_arch = "bpf", feature(core_intrinsics))]

#[cfg(test)]
extern crate std;

pub mod framing;
pub mod histogram;
pub mod maps;
