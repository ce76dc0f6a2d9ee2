//! What Forebay's kernel programs and their readers share.
//!
//! [`framing`] follows HTTP/1.1 on a connection from TCP segments alone; the same
//! code runs in the kernel and under this crate's tests. [`maps`] fixes the
//! layouts of the BPF maps, [`histogram`] the buckets of the latency maps.
//!
//! The kernel programs themselves are the `forebay-ebpf` binary (feature
//! `kernel`, BPF target only).
#![no_std]
#![deny(unsafe_code)]
#![cfg_attr(target_arch = "bpf", allow(internal_features))]
#![cfg_attr(target_arch = "bpf", feature(core_intrinsics))]

#[cfg(test)]
extern crate std;

pub mod framing;
pub mod histogram;
pub mod maps;
