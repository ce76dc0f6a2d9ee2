//! One look at one GPU. What a device does not support is absent, never zero.

use nvml_wrapper::{
    Device, Nvml,
    bitmasks::device::ThrottleReasons,
    enum_wrappers::device::{Clock, TemperatureSensor},
    error::NvmlError,
};

use super::health::{History, Lost, names};
use forebay_telemetry::v1::Gpu;

/// Process ids (the host's, whatever namespace asks) that run on a GPU.
pub type Processes = Vec<u32>;

/// A GPU's values and who runs on it.
#[derive(Clone, Debug, PartialEq)]
pub struct GpuReading {
    pub gpu: Gpu,
    /// NVML's clocks event reasons as their bit mask.
    pub throttle_bits: Option<u64>,
    pub processes: Processes,
}

/// A device as it was when it still answered: one that fell off the bus must be
/// reported as lost, not forgotten.
#[derive(Clone, Debug)]
pub(super) struct Identity {
    pub(super) index: u32,
    pub(super) uuid: String,
    pub(super) name: String,
    /// Those on a lost GPU are still the ones whose pods must get no request.
    pub(super) processes: Processes,
}

/// One that did not answer when it was looked for has no UUID to be known by.
pub(super) fn unidentified(index: u32) -> Identity {
    Identity { index, uuid: format!("index-{index}"), name: String::new(), processes: Processes::new() }
}

pub(super) fn identify(device: &Device<'_>, index: u32) -> Result<Identity, NvmlError> {
    Ok(Identity { index, uuid: device.uuid()?, name: device.name()?, processes: Processes::new() })
}

/// What an error says of the GPU.
pub(super) fn lost(error: &NvmlError) -> Option<Lost> {
    match error {
        NvmlError::GpuLost => Some(Lost::Gone),
        NvmlError::ResetRequired => Some(Lost::NeedsReset),
        _ => None,
    }
}

/// What an error says of the driver: no call will succeed again before the library
/// is loaded anew.
pub(super) fn ends_the_watch(error: &NvmlError) -> bool {
    matches!(error, NvmlError::Uninitialized | NvmlError::DriverNotLoaded | NvmlError::LibRmVersionMismatch)
}

/// An error only if it [ends the watch](ends_the_watch).
pub(super) fn read(
    nvml: &Nvml,
    identity: &mut Identity,
    history: &History,
    now_ns: u64,
) -> Result<GpuReading, NvmlError> {
    let mut ask = Ask { device: None, lost: None, end: None };
    let device = match nvml.device_by_uuid(identity.uuid.as_str()) {
        Ok(device) => Some(device),
        Err(error) => {
            if matches!(error, NvmlError::NotFound | NvmlError::NoData | NvmlError::InvalidArg) {
                ask.lost = Some(Lost::Gone);
            }
            ask.note(error);
            None
        }
    };
    ask.device = device.as_ref();

    let utilization = ask.value(Device::utilization_rates);
    let memory = ask.value(Device::memory_info);
    let temperature = ask.value(|device| device.temperature(TemperatureSensor::Gpu));
    let power = ask.value(Device::power_usage);
    let power_limit = ask.value(Device::enforced_power_limit);
    let sm_clock = ask.value(|device| device.clock_info(Clock::SM));
    let sm_clock_max = ask.value(|device| device.max_clock_info(Clock::SM));
    let throttling: Option<ThrottleReasons> = ask.value(Device::current_throttle_reasons);
    if let Some(processes) = ask.value(Device::running_compute_processes) {
        identity.processes = processes.into_iter().map(|process| process.pid).collect();
    }

    if let Some(end) = ask.end {
        return Err(end);
    }
    let (health, health_reason) = history.judge(ask.lost, throttling, now_ns);
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
    Ok(GpuReading {
        gpu,
        throttle_bits: throttling.map(|reasons| reasons.bits()),
        processes: identity.processes.clone(),
    })
}

struct Ask<'a, 'nvml> {
    device: Option<&'a Device<'nvml>>,
    lost: Option<Lost>,
    end: Option<NvmlError>,
}

impl<'nvml> Ask<'_, 'nvml> {
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
        if ends_the_watch(&error) {
            self.end = Some(error);
        }
    }
}
