//! Reads the values of one GPU. Values that a device does not support are absent, never zero.

use nvml_wrapper::{
    Device, Nvml,
    bitmasks::device::ThrottleReasons,
    enum_wrappers::device::{Clock, TemperatureSensor},
    error::NvmlError,
};

use super::{
    health::{History, Lost, Observed, names},
    recovery::Recovery,
};
use forebay_telemetry::v1::Gpu;

/// Ids of the processes on a GPU, in the host's PID namespace.
pub type Processes = Vec<u32>;

/// The values of a GPU and its processes.
#[derive(Clone, Debug, PartialEq)]
pub struct GpuMeasurement {
    /// Values for telemetry.
    pub gpu: Gpu,
    /// NVML's clocks event reasons as their bit mask.
    pub throttle_bits: Option<u64>,
    /// Compute processes on the GPU.
    pub processes: Processes,
}

/// A device as it was when it last responded. A GPU that is no longer on the bus must be reported as lost.
#[derive(Clone, Debug)]
pub(super) struct Identity {
    pub(super) index: u32,
    pub(super) uuid: String,
    pub(super) name: String,
    /// Kept for a lost GPU: the pods of these processes must not get requests.
    pub(super) processes: Processes,
}

/// A device that never responded, so that its UUID is unknown.
pub(super) fn unidentified(index: u32) -> Identity {
    Identity { index, uuid: format!("index-{index}"), name: String::new(), processes: Processes::new() }
}

pub(super) fn identify(device: &Device<'_>, index: u32) -> Result<Identity, NvmlError> {
    Ok(Identity { index, uuid: device.uuid()?, name: device.name()?, processes: Processes::new() })
}

/// Returns whether an error means that the GPU is lost.
pub(super) fn lost(error: &NvmlError) -> Option<Lost> {
    match error {
        NvmlError::GpuLost => Some(Lost::Gone),
        NvmlError::ResetRequired => Some(Lost::NeedsReset),
        _ => None,
    }
}

/// Returns whether an error means that the library must be loaded again.
pub(super) fn needs_reload(error: &NvmlError) -> bool {
    matches!(error, NvmlError::Uninitialized | NvmlError::DriverNotLoaded | NvmlError::LibRmVersionMismatch)
}

/// Fails only with errors that [need a reload](needs_reload). Other errors make the value absent.
pub(super) fn read(
    nvml: &Nvml,
    identity: &mut Identity,
    history: &History,
    now_ns: u64,
) -> Result<GpuMeasurement, NvmlError> {
    let mut query = Query { device: None, lost: None, end: None };
    let device = find_device(nvml, &identity.uuid, &mut query);
    query.device = device.as_ref();

    let utilization = query.value(Device::utilization_rates);
    let memory = query.value(Device::memory_info);
    let temperature = query.value(|device| device.temperature(TemperatureSensor::Gpu));
    let power = query.value(Device::power_usage);
    let power_limit = query.value(Device::enforced_power_limit);
    let sm_clock = query.value(|device| device.clock_info(Clock::SM));
    let sm_clock_max = query.value(|device| device.max_clock_info(Clock::SM));
    let throttling: Option<ThrottleReasons> = query.value(Device::current_throttle_reasons);
    let recovery = query.value(Recovery::of);
    if let Some(processes) = query.value(Device::running_compute_processes) {
        identity.processes = processes.into_iter().map(|process| process.pid).collect();
    }

    if let Some(end) = query.end {
        return Err(end);
    }
    let (health, health_reason) = history.judge(Observed { lost: query.lost, recovery, throttling }, now_ns);
    let gpu = Gpu {
        measured_boottime_ns: now_ns,
        uuid: identity.uuid.clone(),
        index: identity.index,
        name: identity.name.clone(),
        health: health.into(),
        health_reason,
        utilization_percent: utilization.map(|it| it.gpu),
        memory_used_bytes: memory.as_ref().map(|it| it.used),
        memory_total_bytes: memory.as_ref().map(|it| it.total),
        temperature_celsius: temperature,
        power_mw: power.map(u64::from),
        power_limit_mw: power_limit.map(u64::from),
        sm_clock_mhz: sm_clock,
        sm_clock_max_mhz: sm_clock_max,
        throttle_reasons: throttling.map(names).unwrap_or_default(),
        xid_errors: history.xid_errors,
        last_xid: history.last_xid.map(|(xid, _)| xid),
        last_xid_boottime_ns: history.last_xid.map(|(_, at_ns)| at_ns),
    };
    Ok(GpuMeasurement {
        gpu,
        throttle_bits: throttling.map(|reasons| reasons.bits()),
        processes: identity.processes.clone(),
    })
}

/// Returns `None` for a device that does not respond, and notes the error.
fn find_device<'nvml>(nvml: &'nvml Nvml, uuid: &str, query: &mut Query<'_, '_>) -> Option<Device<'nvml>> {
    match nvml.device_by_uuid(uuid) {
        Ok(device) => Some(device),
        Err(error) => {
            if matches!(error, NvmlError::NotFound | NvmlError::NoData | NvmlError::InvalidArg) {
                query.lost = Some(Lost::Gone);
            }
            query.note(error);
            None
        }
    }
}

/// Reads several values of a device and remembers errors.
struct Query<'a, 'nvml> {
    device: Option<&'a Device<'nvml>>,
    lost: Option<Lost>,
    end: Option<NvmlError>,
}

impl<'nvml> Query<'_, 'nvml> {
    fn value<T>(&mut self, get: impl FnOnce(&Device<'nvml>) -> Result<T, NvmlError>) -> Option<T> {
        match get(self.device?) {
            Ok(value) => Some(value),
            Err(error) => {
                self.note(error);
                None
            }
        }
    }

    fn note(&mut self, error: NvmlError) {
        self.lost = self.lost.or(lost(&error));
        if needs_reload(&error) {
            self.end = Some(error);
        }
    }
}
