//! A stand-in for `libnvidia-ml.so.1`, for machines without a GPU: the agent loads it
//! through the same path as the driver's own and cannot tell.
//!
//! It plays the scenario that [`SCENARIO`] names when `nvmlInit_v2` is called, and reads
//! that file again whenever it changes. The file is a JSON list of GPUs:
//!
//! ```json
//! [{
//!   "uuid": "GPU-5a1f…", "name": "NVIDIA H100 80GB HBM3",
//!   "utilization_percent": 87, "memory_used_bytes": 64000000000, "memory_total_bytes": 85520809984,
//!   "temperature_celsius": 61, "power_mw": 412000, "power_limit_mw": 700000,
//!   "sm_clock_mhz": 1755, "sm_clock_max_mhz": 1980, "throttle_reason_bits": 4,
//!   "processes": [4711], "xids": [79], "lost": false
//! }]
//! ```
//!
//! Only `uuid` and `name` are needed. A value left out answers
//! `NVML_ERROR_NOT_SUPPORTED`, as a GPU that lacks it does; `xids` left out is a GPU
//! without XID events. XIDs appended to `xids` after registration are delivered once
//! each, in order. A GPU with `lost` answers `NVML_ERROR_GPU_IS_LOST` to every question.
//!
//! Write a scenario beside its place and rename it into place: then nobody reads half of
//! one, and even a change within a tick of the file system's clock is seen.

mod exports;
mod files;
mod scenario;
mod session;

/// The environment variable that names the scenario file.
pub const SCENARIO: &str = "FOREBAY_NVML_SCENARIO";

/// An NVML error code (`nvmlReturn_t` other than success).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Failure(pub(crate) nvml_wrapper_sys::bindings::nvmlReturn_t);
