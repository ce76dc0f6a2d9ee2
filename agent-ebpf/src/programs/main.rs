//! Forebay's kernel programs: `cgroup_skb` on a pod's cgroup in both directions, and `sock_ops` to detect closed sockets.
//!
//! The programs only observe: every path of the two packet programs returns 1 ("allow"). They need Linux 5.17
//! (`bpf_loop`).

#![no_std]
#![no_main]
#![allow(internal_features)]
#![feature(core_intrinsics)]
#![allow(unsafe_code, reason = "maps and helpers are raw pointers in kernel programs")]

mod packet;
mod record;
mod socket;
mod tables;

use aya_ebpf::{
    macros::{cgroup_skb, sock_ops},
    programs::{SkBuffContext, SockOpsContext},
};

const ALLOW: i32 = 1;

#[cgroup_skb]
pub(crate) fn forebay_ingress(ctx: SkBuffContext) -> i32 {
    packet::ingress(&ctx);
    ALLOW
}

#[cgroup_skb]
pub(crate) fn forebay_egress(ctx: SkBuffContext) -> i32 {
    packet::egress(&ctx);
    ALLOW
}

#[sock_ops]
pub(crate) fn forebay_sockets(ctx: SockOpsContext) -> u32 {
    socket::changed(&ctx);
    1
}

#[cfg(not(test))]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo) -> ! {
    // Unreachable: framing never indexes out of bounds, and overflow checks are off. The verifier would refuse a
    // program that reaches an endless loop.
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
