//! Fake `libnvidia-ml.so.1` for machines without a GPU. The agent loads it like the library of the driver.
//!
//! It replays a scenario file. The environment variable [`SCENARIO`] names the file; it is read by `nvmlInit_v2` and
//! reloaded when it changes. The file is a JSON list of GPUs:
//!
//! ```json
//! [{
//!   "uuid": "GPU-5a1f…", "name": "NVIDIA H100 80GB HBM3",
//!   "utilization_percent": 87, "memory_used_bytes": 64000000000, "memory_total_bytes": 85520809984,
//!   "temperature_celsius": 61, "power_mw": 412000, "power_limit_mw": 700000,
//!   "sm_clock_mhz": 1755, "sm_clock_max_mhz": 1980, "throttle_reason_bits": 4, "recovery_action": 0,
//!   "processes": [4711], "xids": [79], "lost": false
//! }]
//! ```
//!
//! Only `uuid` and `name` are required. A missing value returns `NVML_ERROR_NOT_SUPPORTED`, as on a GPU without it.
//! Without `xids` the GPU has no XID events. XIDs appended to `xids` after registration are delivered once each, in
//! order. A GPU with `lost` returns `NVML_ERROR_GPU_IS_LOST` from every call.
//!
//! To change a scenario, write a new file and rename it. Readers then never see a partial file, and changes within one
//! clock tick of the file system are detected.

mod exports;
mod files;
mod scenario;
mod session;

/// Environment variable with the path of the scenario file.
pub const SCENARIO: &str = "FOREBAY_NVML_SCENARIO";

/// An NVML error code (`nvmlReturn_t` other than success).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Failure(pub(crate) nvml_wrapper_sys::bindings::nvmlReturn_t);
