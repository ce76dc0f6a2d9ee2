//! The two packet programs: find the connection of an IP packet and apply its TCP segment.

use core::{hint::black_box, mem::MaybeUninit};

use aya_ebpf::{
    bindings::__sk_buff,
    helpers::{
        bpf_get_socket_cookie, bpf_ktime_get_boot_ns, bpf_skb_ancestor_cgroup_id, bpf_skb_cgroup_id,
        bpf_skb_load_bytes,
    },
    programs::SkBuffContext,
};
use forebay_agent_ebpf::{
    framing::{Connection, Payload, Segment},
    maps::{EndpointKey, Stat},
};

use crate::{
    record,
    tables::{CONNECTIONS, ENDPOINTS, count, is_watched},
};

const IPPROTO_TCP: u8 = 6;
const TCP_LISTEN: u32 = 10;
const FIN: u8 = 0x01;
const RST: u8 = 0x04;

/// Maximum depth of a pod's cgroup below the root. The kubelet uses at most 4 levels; a nested node (kind) adds as many.
const MAX_CGROUP_DEPTH: i32 = 10;

#[inline(always)]
pub(crate) fn ingress(ctx: &SkBuffContext) -> Option<()> {
    let skb = ctx.skb.skb;
    let packet = Packet::parse(skb)?;
    if !is_watched(packet.destination) || packet.is_irrelevant() {
        return None;
    }
    count(Stat::Segments);
    let cookie = cookie(skb);
    let connection = match CONNECTIONS.get_ptr_mut(&cookie) {
        Some(connection) => connection,
        None => begin(skb, &packet, cookie)?,
    };
    // SAFETY: a map value. Ingress writes only its own half and shared words atomically (see `framing`).
    let connection = unsafe { &mut *connection };
    let now_ns = now_ns();
    connection.ingress(packet.segment, &packet.payload, now_ns);
    record::ingress(connection, now_ns);
    Some(())
}

#[inline(always)]
pub(crate) fn egress(ctx: &SkBuffContext) -> Option<()> {
    let skb = ctx.skb.skb;
    let packet = Packet::parse(skb)?;
    if !is_watched(packet.source) || packet.is_irrelevant() {
        return None;
    }
    count(Stat::Segments);
    let connection = CONNECTIONS.get_ptr_mut(&cookie(skb))?;
    // SAFETY: a map value. Egress writes only its own half and shared words atomically (see `framing`).
    let connection = unsafe { &mut *connection };
    let now_ns = now_ns();
    connection.egress(packet.segment, &packet.payload, now_ns);
    record::egress(connection, now_ns);
    Some(())
}

/// Starts to follow a connection, at its first payload.
#[inline(always)]
fn begin(skb: *mut __sk_buff, packet: &Packet, cookie: u64) -> Option<*mut Connection> {
    if packet.segment.length == 0 || cookie == 0 {
        return None;
    }
    // SAFETY: the context is valid for the whole program. The verifier checks both accesses.
    let socket = unsafe { (*skb).__bindgen_anon_2.sk };
    if !socket.is_null() && unsafe { (*socket).state } == TCP_LISTEN {
        count(Stat::OnListener);
        return None;
    }
    let Some(slot) = slot(skb, packet.destination) else {
        count(Stat::NoSlot);
        return None;
    };
    // SAFETY: a zeroed connection is a new one.
    if CONNECTIONS.insert(&cookie, unsafe { FRESH.assume_init_ref() }, 0).is_err() {
        count(Stat::ConnectionsFull);
        return None;
    }
    let connection = CONNECTIONS.get_ptr_mut(&cookie)?;
    // SAFETY: a map value. No other segment of this connection was processed before.
    unsafe {
        (*connection).slot = slot;
        (*connection).remote_port = packet.source;
    }
    Some(connection)
}

/// A new connection. In static memory, because a program's stack has 512 bytes.
static FRESH: MaybeUninit<Connection> = MaybeUninit::zeroed();

/// Finds the slot by the cgroup of the socket or one of its ancestors: a container's cgroup is below the pod's.
#[inline(always)]
fn slot(skb: *mut __sk_buff, port: u16) -> Option<u32> {
    // SAFETY: helpers on a valid context.
    let own = unsafe { bpf_skb_cgroup_id(skb) };
    if let Some(slot) = lookup(own, port) {
        return Some(slot);
    }
    for level in 1..MAX_CGROUP_DEPTH {
        // SAFETY: as above. Returns 0 below the socket's own level.
        let id = unsafe { bpf_skb_ancestor_cgroup_id(skb, level) };
        if id == 0 {
            return None;
        }
        if let Some(slot) = lookup(id, port) {
            return Some(slot);
        }
    }
    None
}

#[inline(always)]
fn lookup(cgroup_id: u64, port: u16) -> Option<u32> {
    // SAFETY: the value is a number that the agent replaces atomically.
    unsafe { ENDPOINTS.get(&EndpointKey::new(cgroup_id, port)) }.copied()
}

#[inline(always)]
fn cookie(skb: *mut __sk_buff) -> u64 {
    // SAFETY: a helper on a valid context.
    unsafe { bpf_get_socket_cookie(skb.cast()) }
}

#[inline(always)]
fn now_ns() -> u64 {
    // SAFETY: no arguments.
    unsafe { bpf_ktime_get_boot_ns() }
}

/// A TCP packet. These hooks see packets from the IP header on.
struct Packet {
    source: u16,
    destination: u16,
    segment: Segment,
    payload: SkbPayload,
}

impl Packet {
    #[inline(always)]
    fn parse(skb: *mut __sk_buff) -> Option<Self> {
        // SAFETY: the context is valid.
        let length = unsafe { (*skb).len };
        // No IP header is shorter.
        let head: [u8; 20] = load(skb, 0)?;
        let version = head[0] >> 4;
        let transport = if version == 4 {
            // Fragments are ignored: only the first one has the TCP header, and TCP is not fragmented in practice.
            let fragment = u16::from_be_bytes([head[6], head[7]]) & 0x3fff;
            if head[9] != IPPROTO_TCP || fragment != 0 {
                return None;
            }
            u32::from(head[0] & 0xf) * 4
        } else if version == 6 {
            // Extension headers before TCP do not occur on pod networks.
            if head[6] != IPPROTO_TCP {
                return None;
            }
            40
        } else {
            return None;
        };
        let head: [u8; 14] = load(skb, transport)?;
        let start = transport + u32::from(head[12] >> 4) * 4;
        Some(Self {
            source: u16::from_be_bytes([head[0], head[1]]),
            destination: u16::from_be_bytes([head[2], head[3]]),
            segment: Segment {
                seq: u32::from_be_bytes([head[4], head[5], head[6], head[7]]),
                length: length.saturating_sub(start),
                fin: head[13] & FIN != 0,
                rst: head[13] & RST != 0,
            },
            payload: SkbPayload { skb, start },
        })
    }

    /// Returns whether the segment has neither payload nor FIN nor RST.
    #[inline(always)]
    fn is_irrelevant(&self) -> bool {
        self.segment.length == 0 && !self.segment.fin && !self.segment.rst
    }
}

#[inline(always)]
fn load<const N: usize>(skb: *mut __sk_buff, offset: u32) -> Option<[u8; N]> {
    let mut bytes = MaybeUninit::<[u8; N]>::uninit();
    // SAFETY: the buffer has N bytes, and the helper writes all of them, zeros if it fails.
    unsafe {
        let result = bpf_skb_load_bytes(skb.cast(), offset, bytes.as_mut_ptr().cast(), N as u32);
        if result == 0 { Some(bytes.assume_init()) } else { None }
    }
}

struct SkbPayload {
    skb: *mut __sk_buff,
    start: u32,
}

impl Payload for SkbPayload {
    #[inline(always)]
    fn word(&self, offset: u32, count: u32) -> u64 {
        let mut word = 0_u64;
        let at = self.start + offset;
        if count >= 8 {
            // SAFETY: the buffer has 8 bytes. A failed load leaves zeros.
            unsafe { bpf_skb_load_bytes(self.skb.cast(), at, (&raw mut word).cast(), 8) };
            return word;
        }
        // The compiler knows that `count` is not 0 and would remove the check, which the verifier needs.
        let count = black_box(count);
        if count > 0 && count < 8 {
            // SAFETY: fewer than 8 bytes into 8.
            unsafe { bpf_skb_load_bytes(self.skb.cast(), at, (&raw mut word).cast(), count) };
        }
        word
    }
}
