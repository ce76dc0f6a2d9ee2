//! Parses and checks a scenario file.

use std::collections::BTreeSet;

use nvml_wrapper_sys::bindings::{NVML_DEVICE_NAME_V2_BUFFER_SIZE, NVML_DEVICE_UUID_V2_BUFFER_SIZE};
use serde::Deserialize;

/// Maximum number of GPUs.
pub(crate) const MAX_GPUS: usize = 64;
/// Maximum XIDs, and maximum processes, of one GPU.
const MAX_ENTRIES: usize = 4096;

#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Gpu {
    pub(crate) uuid: String,
    pub(crate) name: String,
    pub(crate) utilization_percent: Option<u32>,
    pub(crate) memory_used_bytes: Option<u64>,
    pub(crate) memory_total_bytes: Option<u64>,
    pub(crate) temperature_celsius: Option<u32>,
    pub(crate) power_mw: Option<u32>,
    pub(crate) power_limit_mw: Option<u32>,
    pub(crate) sm_clock_mhz: Option<u32>,
    pub(crate) sm_clock_max_mhz: Option<u32>,
    pub(crate) throttle_reason_bits: Option<u64>,
    pub(crate) recovery_action: Option<u32>,
    pub(crate) processes: Option<Vec<u32>>,
    pub(crate) xids: Option<Vec<u64>>,
    #[serde(default)]
    pub(crate) lost: bool,
}

pub(crate) fn parse(json: &[u8]) -> Result<Vec<Gpu>, String> {
    let gpus: Vec<Gpu> = serde_json::from_slice(json).map_err(|error| error.to_string())?;
    if gpus.len() > MAX_GPUS {
        return Err(format!("{} GPUs; the maximum is {MAX_GPUS}", gpus.len()));
    }
    let mut uuids = BTreeSet::new();
    for gpu in &gpus {
        check(gpu).map_err(|problem| format!("GPU {:?}: {problem}", gpu.uuid))?;
        if !uuids.insert(&gpu.uuid) {
            return Err(format!("duplicate GPU {:?}", gpu.uuid));
        }
    }
    Ok(gpus)
}

fn check(gpu: &Gpu) -> Result<(), String> {
    let strings = [
        ("uuid", &gpu.uuid, NVML_DEVICE_UUID_V2_BUFFER_SIZE),
        ("name", &gpu.name, NVML_DEVICE_NAME_V2_BUFFER_SIZE),
    ];
    for (field, value, buffer_bytes) in strings {
        if value.is_empty() || value.contains('\0') || value.len() >= buffer_bytes as usize {
            return Err(format!("{field} must be 1 to {} bytes without NUL", buffer_bytes - 1));
        }
    }
    let used_and_total = (gpu.memory_used_bytes, gpu.memory_total_bytes);
    if matches!(used_and_total, (Some(used), Some(total)) if used > total) {
        return Err("memory_used_bytes is more than memory_total_bytes".into());
    }
    let entries = gpu.xids.as_ref().map_or(0, Vec::len).max(gpu.processes.as_ref().map_or(0, Vec::len));
    if entries > MAX_ENTRIES {
        return Err(format!("at most {MAX_ENTRIES} xids and {MAX_ENTRIES} processes"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(json: &str) -> String {
        parse(json.as_bytes()).unwrap_err()
    }

    #[test]
    fn missing_values_are_none_and_zero_is_kept() {
        let gpus = parse(br#"[{"uuid": "GPU-1", "name": "A", "power_mw": 0, "xids": []}]"#).unwrap();
        assert_eq!(gpus[0].power_mw, Some(0));
        assert_eq!(gpus[0].xids, Some(vec![]));
        assert_eq!(gpus[0].temperature_celsius, None);
        assert!(!gpus[0].lost);
    }

    #[test]
    fn errors_name_the_gpu() {
        assert!(problem(r#"[{"uuid": "GPU-1"}]"#).contains("missing field `name`"));
        assert!(problem(r#"[{"uuid": "a", "name": "b", "watts": 1}]"#).contains("unknown field `watts`"));
        assert!(problem(r#"[{"uuid": "a\u0000", "name": "b"}]"#).contains("uuid must be 1 to 95 bytes"));
        assert!(problem(r#"[{"uuid": "a", "name": ""}]"#).contains("\"a\": name must be"));
        assert!(
            problem(r#"[{"uuid": "a", "name": "b"}, {"uuid": "a", "name": "c"}]"#)
                .contains("duplicate GPU \"a\"")
        );
        assert!(
            problem(r#"[{"uuid": "a", "name": "b", "memory_used_bytes": 2, "memory_total_bytes": 1}]"#)
                .contains("more than memory_total_bytes")
        );
        let many = (0..=MAX_GPUS).map(|n| format!(r#"{{"uuid": "{n}", "name": "b"}}"#)).collect::<Vec<_>>();
        assert!(problem(&format!("[{}]", many.join(","))).contains("65 GPUs"));
    }
}
