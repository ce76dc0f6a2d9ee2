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

/// Writes a scenario with one GPU for each pod, used by the process of the pod. `xid`: index of a pod and an XID error
/// of its GPU.
pub(super) fn write(folder: &Path, pods: &[Pod], xid: Option<(usize, u64)>) -> Result<()> {
    let gpus: Vec<_> = pods
        .iter()
        .enumerate()
        .map(|(index, pod)| {
            let xids: Vec<u64> = xid.iter().filter(|(at, _)| *at == index).map(|(_, xid)| *xid).collect();
            json!({
                "uuid": format!("GPU-00000000-0000-4000-8000-{index:012}"),
                "name": "NVIDIA H100 80GB HBM3",
                "utilization_percent": 40 + index,
                "memory_used_bytes": 60_u64 << 30,
                "memory_total_bytes": 80_u64 << 30,
                "temperature_celsius": 50,
                "power_mw": 400_000,
                "power_limit_mw": 700_000,
                "sm_clock_mhz": 1_980,
                "sm_clock_max_mhz": 1_980,
                "throttle_reason_bits": 0,
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
