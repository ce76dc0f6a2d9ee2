//! Finding and loading the driver's NVML at run time: the same agent runs on nodes
//! with and without GPUs.

use std::path::{Path, PathBuf};

use nvml_wrapper::{Nvml, error::NvmlError};

/// Where `libnvidia-ml.so.1` lies: under the container toolkit, the GPU operator's
/// driver root, GKE's, and in distributions' own places. The bare name first, which
/// asks the dynamic linker.
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

/// Why there are no GPU values, in one line for an operator.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GpuOff {
    #[error("no NVIDIA driver library was found; tried {}", list(.tried))]
    NoLibrary { tried: Vec<PathBuf> },
    #[error("{} does not start: {reason}", .path.display())]
    NotStarted { path: PathBuf, reason: String },
    #[error("NVML stopped answering: {0}")]
    Failing(String),
}

/// Loads the first library there is. One that is there but does not start ends the
/// search: the next would be another driver's.
pub(super) fn open(paths: &[PathBuf]) -> Result<(Nvml, PathBuf), GpuOff> {
    for path in paths {
        match Nvml::builder().lib_path(path.as_os_str()).init() {
            Ok(nvml) => return Ok((nvml, path.clone())),
            Err(NvmlError::LibloadingError(_)) if !is_there(path) => {}
            Err(error) => return Err(GpuOff::NotStarted { path: path.clone(), reason: error.to_string() }),
        }
    }
    Err(GpuOff::NoLibrary { tried: paths.to_vec() })
}

/// A bare name is looked up by the linker, so whether it is there only loading says.
fn is_there(path: &Path) -> bool {
    path.is_absolute() && path.exists()
}

fn list(paths: &[PathBuf]) -> String {
    paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ")
}
