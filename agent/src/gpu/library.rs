//! Loads the driver's NVML library at run time: the same agent runs on nodes with and without GPUs.

use std::path::{Path, PathBuf};

use nvml_wrapper::{Nvml, error::NvmlError};

/// Usual paths of `libnvidia-ml.so.1`: the dynamic linker (container toolkit), the GPU operator's driver root, GKE, and
/// distributions.
pub fn default_paths() -> Vec<PathBuf> {
    [
        "libnvidia-ml.so.1",
        "/run/nvidia/driver/usr/lib/x86_64-linux-gnu/libnvidia-ml.so.1",
        "/run/nvidia/driver/usr/lib/aarch64-linux-gnu/libnvidia-ml.so.1",
        "/run/nvidia/driver/usr/lib64/libnvidia-ml.so.1",
        "/home/kubernetes/bin/nvidia/lib64/libnvidia-ml.so.1",
        "/usr/lib/x86_64-linux-gnu/libnvidia-ml.so.1",
        "/usr/lib/aarch64-linux-gnu/libnvidia-ml.so.1",
        "/usr/lib64/libnvidia-ml.so.1",
    ]
    .map(PathBuf::from)
    .to_vec()
}

/// Why GPUs are not measured, as one line for an operator.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GpuOff {
    /// No library was found. Normal on nodes without GPUs.
    #[error("no NVIDIA driver library found; tried {}", list(.tried))]
    NoLibrary {
        /// Paths tried, in order.
        tried: Vec<PathBuf>,
    },
    /// The library was found and failed to initialise.
    #[error("{} cannot be initialised: {reason}", .path.display())]
    NotStarted {
        /// Path of the library.
        path: PathBuf,
        /// NVML's error.
        reason: String,
    },
    /// NVML worked before and fails now.
    #[error("NVML failed: {0}")]
    Failing(String),
}

/// Loads the first library found. If it fails to initialise, the search ends: the next one would be of another driver.
pub(super) fn open(paths: &[PathBuf]) -> Result<(Nvml, PathBuf), GpuOff> {
    for path in paths {
        match Nvml::builder().lib_path(path.as_os_str()).init() {
            Ok(nvml) => return Ok((nvml, path.clone())),
            Err(NvmlError::LibloadingError(_)) if !exists(path) => {}
            Err(error) => return Err(GpuOff::NotStarted { path: path.clone(), reason: error.to_string() }),
        }
    }
    Err(GpuOff::NoLibrary { tried: paths.to_vec() })
}

/// Returns `false` for a bare name, which only the dynamic linker can resolve.
fn exists(path: &Path) -> bool {
    path.is_absolute() && path.exists()
}

fn list(paths: &[PathBuf]) -> String {
    paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ")
}
