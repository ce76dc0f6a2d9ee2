//! Adds the effects of a segment to the load of the endpoint.

use core::hint::black_box;

use aya_ebpf::helpers::bpf_ringbuf_output;
use forebay_agent_ebpf::{
    framing::{Connection, Effects, Ended, Outcome, known},
    histogram::bucket,
    maps::{Event, EventKind, Histogram, LATENCY_KINDS, Latency, Load, Stat},
};

use crate::tables::{EVENTS, LATENCIES, LOADS, count};

#[inline(always)]
pub(crate) fn ingress(connection: &Connection, now_ns: u64) -> Option<()> {
    let effects = &connection.request.effects;
    let load = LOADS.get_ptr_mut(connection.slot)?;
    // SAFETY: a map value, to which all writers add atomically.
    let load = unsafe { &mut *load };
    add(&mut load.bytes_in, effects.bytes);
    add_waiting(load, effects);
    add(&mut load.lost_framing, effects.lost);
    add(&mut load.opaque_connections, effects.opaque);
    add(&mut load.other_requests, effects.other);
    if effects.started != 0 {
        add(&mut load.in_flight, effects.started);
        add(&mut load.started, effects.started);
        load.changed_ns = now_ns;
        emit(connection, EventKind::Started, effects.started, &NO_VALUES, now_ns);
    }
    ended(connection, load, effects, now_ns);
    Some(())
}

#[inline(always)]
pub(crate) fn egress(connection: &Connection, now_ns: u64) -> Option<()> {
    let effects = &connection.response.effects;
    let load = LOADS.get_ptr_mut(connection.slot)?;
    // SAFETY: a map value, to which all writers add atomically.
    let load = unsafe { &mut *load };
    add(&mut load.bytes_out, effects.bytes);
    if connection.has_sent_content() {
        load.sent_ns = now_ns;
    }
    add_waiting(load, effects);
    add(&mut load.lost_framing, effects.lost);
    add(&mut load.chunks, effects.chunks);
    add(&mut load.responses_2xx, effects.responses_2xx);
    add(&mut load.responses_4xx, effects.responses_4xx);
    add(&mut load.responses_5xx, effects.responses_5xx);
    if effects.itl_ns != 0 {
        sample(connection.slot, Latency::Itl, effects.itl_ns);
    }
    if effects.ttft_ns != 0 {
        sample(connection.slot, Latency::Ttft, effects.ttft_ns);
        let ttft = Ended { ttft_ns: effects.ttft_ns, known: known::TTFT, ..NO_VALUES };
        emit(connection, EventKind::FirstBody, 1, &ttft, now_ns);
    }
    if effects.finished != 0 && effects.ended.outcome == Outcome::FINISHED && effects.ended.duration_ns != 0 {
        sample(connection.slot, Latency::Duration, effects.ended.duration_ns);
    }
    ended(connection, load, effects, now_ns);
    Some(())
}

const NO_VALUES: Ended = Ended {
    duration_ns: 0,
    ttft_ns: 0,
    response_bytes: 0,
    response_chunks: 0,
    known: 0,
    status: 0,
    outcome: Outcome::NONE,
};

/// Counts the requests that the segment ended.
#[inline(always)]
fn ended(connection: &Connection, load: &mut Load, effects: &Effects, now_ns: u64) {
    if effects.finished | effects.aborted == 0 {
        return;
    }
    add(&mut load.finished, effects.finished);
    add(&mut load.aborted, effects.aborted);
    subtract(&mut load.in_flight, effects.finished + effects.aborted);
    load.changed_ns = now_ns;
    let first = &effects.ended;
    let is_aborted = first.outcome == Outcome::ABORTED;
    let kind = if is_aborted { EventKind::Aborted } else { EventKind::Finished };
    emit(connection, kind, 1, first, now_ns);
    let (finished, aborted) = if is_aborted {
        (effects.finished, effects.aborted.wrapping_sub(1))
    } else {
        (effects.finished.wrapping_sub(1), effects.aborted)
    };
    if finished != 0 {
        emit(connection, EventKind::Finished, finished, &NO_VALUES, now_ns);
    }
    if aborted != 0 {
        emit(connection, EventKind::Aborted, aborted, &NO_VALUES, now_ns);
    }
}

#[inline(always)]
fn emit(connection: &Connection, kind: EventKind, requests: u32, ended: &Ended, now_ns: u64) {
    let event = Event::new(connection, kind, requests, ended, now_ns);
    // SAFETY: the record outlives the call, and the size is that of its type.
    let result = unsafe {
        bpf_ringbuf_output(
            (&raw const EVENTS).cast_mut().cast(),
            (&raw const event).cast_mut().cast(),
            size_of::<Event>() as u64,
            0,
        )
    };
    if result != 0 {
        count(Stat::EventsDropped);
    }
}

#[inline(always)]
fn sample(slot: u32, kind: Latency, duration_ns: u64) {
    let Some(histogram) = LATENCIES.get_ptr_mut(slot * LATENCY_KINDS + kind as u32) else {
        return;
    };
    // SAFETY: a map value, to which all writers add atomically.
    let histogram: &mut Histogram = unsafe { &mut *histogram };
    // The compiler knows the bound and would remove the check, which the verifier needs.
    let index = black_box(bucket(duration_ns)) as usize;
    if let Some(bucket) = histogram.counts.get_mut(index) {
        add(bucket, 1);
    }
    add_wide(&mut histogram.sum_ns, duration_ns);
}

#[inline(always)]
fn add_waiting(load: &mut Load, effects: &Effects) {
    if effects.waiting_bytes != 0 {
        add_wide(&mut load.waiting_bytes, effects.waiting_bytes as u64);
    }
}

#[inline(always)]
fn add(counter: &mut u64, amount: u32) {
    if amount != 0 {
        add_wide(counter, u64::from(amount));
    }
}

#[inline(always)]
fn subtract(counter: &mut u64, amount: u32) {
    add_wide(counter, u64::from(amount).wrapping_neg());
}

#[inline(always)]
fn add_wide(counter: &mut u64, amount: u64) {
    use core::intrinsics::{AtomicOrdering, atomic_xadd};

    // SAFETY: aligned memory in a map value. Relaxed is BPF's plain `lock add`.
    unsafe { atomic_xadd::<u64, u64, { AtomicOrdering::Relaxed }>(counter, amount) };
}
