//! One simulated GPU for each pod (scenario of the fake NVML library).

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::Result;
use serde_json::json;

use super::Pod;

pub(super) fn scenario(folder: &Path) -> PathBuf {
    folder.join("gpus.json")
}

/// What is wrong with a GPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GpuFault {
    /// The driver reports this XID error.
    Xid(u64),
    /// It is too hot: its clock is at half of the maximum.
    Hot,
}

/// `nvmlClocksThrottleReasonHwThermalSlowdown`
const HW_THERMAL_SLOWDOWN: u64 = 0x40;
const CLOCK_MHZ: u32 = 1_980;

/// Writes a scenario with one GPU for each pod, used by the process of the pod. `fault`: of the GPU of the pod at an index.
pub(super) fn write(folder: &Path, pods: &[Pod], fault: Option<(usize, GpuFault)>) -> Result<()> {
    let gpus: Vec<_> = pods
        .iter()
        .enumerate()
        .map(|(index, pod)| {
            let fault = fault.filter(|(at, _)| *at == index).map(|(_, fault)| fault);
            let xids = if let Some(GpuFault::Xid(xid)) = fault { vec![xid] } else { Vec::new() };
            let is_hot = fault == Some(GpuFault::Hot);
            json!({
                "uuid": format!("GPU-00000000-0000-4000-8000-{index:012}"),
                "name": "NVIDIA H100 80GB HBM3",
                "utilization_percent": 40 + index,
                "memory_used_bytes": 60_u64 << 30,
                "memory_total_bytes": 80_u64 << 30,
                "temperature_celsius": if is_hot { 97 } else { 50 },
                "power_mw": 400_000,
                "power_limit_mw": 700_000,
                "sm_clock_mhz": if is_hot { CLOCK_MHZ / 2 } else { CLOCK_MHZ },
                "sm_clock_max_mhz": CLOCK_MHZ,
                "throttle_reason_bits": if is_hot { HW_THERMAL_SLOWDOWN } else { 0 },
                "processes": [pod.process.pid()],
                "xids": xids,
            })
        })
        .collect();
    // Rename, so that readers never see a partial file.
    let fresh = folder.join("gpus.json.new");
    fs::write(&fresh, serde_json::to_vec(&gpus)?)?;
    fs::rename(fresh, scenario(folder))?;
    Ok(())
}
