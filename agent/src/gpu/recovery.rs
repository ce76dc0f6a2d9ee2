//! The recovery action of a GPU: what the driver wants to be done about an earlier error.

use std::fmt;

use nvml_wrapper::{
    Device, enums::device::SampleValue, error::NvmlError, structs::device::FieldId,
    sys_exports::field_id::NVML_FI_DEV_GET_GPU_RECOVERY_ACTION,
};

use forebay_telemetry::v1::GpuHealth;

/// `nvmlDeviceGpuRecoveryAction_t`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Recovery {
    NotNeeded,
    GpuReset,
    NodeReboot,
    DrainP2p,
    DrainAndReset,
    /// Of a newer driver.
    Other(u32),
}

impl Recovery {
    /// Fails on drivers and GPUs that have no recovery action.
    pub(super) fn of(device: &Device<'_>) -> Result<Self, NvmlError> {
        let samples = device.field_values_for(&[FieldId(NVML_FI_DEV_GET_GPU_RECOVERY_ACTION)])?;
        let sample = samples.into_iter().next().ok_or(NvmlError::NoData)??;
        match sample.value? {
            SampleValue::U32(action) => Ok(action.into()),
            SampleValue::U64(action) => u32::try_from(action).map(Self::from).map_err(|_| NvmlError::Unknown),
            SampleValue::F64(_) | SampleValue::I64(_) => Err(NvmlError::Unknown),
        }
    }

    /// A GPU to be drained serves what it already runs, so it is only the second choice. A reset and a reboot are needed
    /// before it serves anything.
    pub(super) fn health(self) -> GpuHealth {
        match self {
            Self::NotNeeded => GpuHealth::Ok,
            Self::GpuReset | Self::NodeReboot => GpuHealth::Lost,
            Self::DrainP2p | Self::DrainAndReset | Self::Other(_) => GpuHealth::Degraded,
        }
    }
}

impl From<u32> for Recovery {
    fn from(action: u32) -> Self {
        match action {
            0 => Self::NotNeeded,
            1 => Self::GpuReset,
            2 => Self::NodeReboot,
            3 => Self::DrainP2p,
            4 => Self::DrainAndReset,
            other => Self::Other(other),
        }
    }
}

impl fmt::Display for Recovery {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotNeeded => formatter.write_str("none"),
            Self::GpuReset => formatter.write_str("GPU reset"),
            Self::NodeReboot => formatter.write_str("node reboot"),
            Self::DrainP2p => formatter.write_str("drain P2P"),
            Self::DrainAndReset => formatter.write_str("drain and reset"),
            Self::Other(action) => write!(formatter, "number {action}"),
        }
    }
}
