//! From the values of the maps to the telemetry protocol. A new kernel signal needs one line here.

use forebay_agent_ebpf::maps::{GpuSample, Load, gpu_field};

use crate::{gpu::GpuMeasurement, kernel::OpenRequests};
use forebay_telemetry::v1::{KernelLoad, Latency};

/// `latencies` are TTFT, ITL and duration. `open`: the requests in flight, if the connections were read since they arrived.
pub(super) fn kernel_load(
    load: &Load,
    open: Option<&OpenRequests>,
    latencies: &[Latency; 3],
    measured_boottime_ns: u64,
) -> KernelLoad {
    let [ttft, itl, duration] = latencies.map(Some);
    let is_idle = load.in_flight == 0;
    let open = open.filter(|_| !is_idle);
    KernelLoad {
        measured_boottime_ns,
        in_flight: load.in_flight,
        waiting_request_bytes: load.waiting_bytes,
        started: load.started,
        finished: load.finished,
        aborted: load.aborted,
        other_requests: load.other_requests,
        responses_2xx: load.responses_2xx,
        responses_4xx: load.responses_4xx,
        responses_5xx: load.responses_5xx,
        bytes_in: load.bytes_in,
        bytes_out: load.bytes_out,
        chunks: load.chunks,
        opaque_connections: load.opaque_connections,
        ttft,
        itl,
        duration,
        oldest_request_boottime_ns: open.map(|open| open.oldest.started_ns),
        oldest_request_has_response: open.map(|open| open.oldest.has_response),
        requests_with_response: if is_idle { Some(0) } else { open.map(|open| open.with_response) },
        last_content_boottime_ns: (load.sent_ns != 0).then_some(load.sent_ns),
    }
}

/// The GPU's entry in the pinned map.
pub(super) fn gpu_sample(measurement: &GpuMeasurement) -> GpuSample {
    let gpu = &measurement.gpu;
    let mut present = 0;
    let mut set = |measured: bool, field: u32| present |= if measured { field } else { 0 };
    set(gpu.utilization_percent.is_some(), gpu_field::UTILIZATION);
    set(gpu.memory_used_bytes.is_some() && gpu.memory_total_bytes.is_some(), gpu_field::MEMORY);
    set(gpu.temperature_celsius.is_some(), gpu_field::TEMPERATURE);
    set(gpu.power_mw.is_some(), gpu_field::POWER);
    set(gpu.sm_clock_mhz.is_some(), gpu_field::SM_CLOCK);
    set(measurement.throttle_bits.is_some(), gpu_field::THROTTLE_REASONS);
    let mut uuid = [0; 48];
    let length = gpu.uuid.len().min(uuid.len() - 1);
    uuid[..length].copy_from_slice(&gpu.uuid.as_bytes()[..length]);
    GpuSample {
        measured_ns: gpu.measured_boottime_ns,
        memory_used_bytes: gpu.memory_used_bytes.unwrap_or_default(),
        memory_total_bytes: gpu.memory_total_bytes.unwrap_or_default(),
        power_mw: gpu.power_mw.unwrap_or_default(),
        throttle_reasons: measurement.throttle_bits.unwrap_or_default(),
        xid_errors: gpu.xid_errors,
        utilization_percent: gpu.utilization_percent.unwrap_or_default(),
        temperature_celsius: gpu.temperature_celsius.unwrap_or_default(),
        sm_clock_mhz: gpu.sm_clock_mhz.unwrap_or_default(),
        health: gpu.health as u32,
        present,
        reserved: 0,
        uuid,
    }
}
