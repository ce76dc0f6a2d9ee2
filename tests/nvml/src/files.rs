//! The scenario file. Reloaded when it changes.

use std::{
    fs::{self, File},
    io::{self, Read, Write},
    os::unix::fs::MetadataExt,
    path::PathBuf,
};

use crate::scenario::{self, Gpu};

/// Maximum size of the file.
const MAX_BYTES: u64 = 4 << 20;

/// Detects changes of the file without reading it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    inode: u64,
    length: u64,
    modified: (i64, i64),
}

#[derive(Debug)]
pub(crate) struct ScenarioFile {
    path: PathBuf,
    /// Stamp of the last version that was read, valid or not.
    stamp: Option<Stamp>,
    gpus: Vec<Gpu>,
}

impl ScenarioFile {
    pub(crate) fn open(path: PathBuf) -> Result<Self, String> {
        let stamp = stamp(&path).ok();
        let gpus = read(&path)?;
        Ok(Self { path, stamp, gpus })
    }

    /// The current GPUs. If the file is missing or invalid, the last valid version is used and the problem is printed
    /// once to standard error.
    pub(crate) fn gpus(&mut self) -> &[Gpu] {
        let now = stamp(&self.path).ok();
        if now != self.stamp {
            self.stamp = now;
            match read(&self.path) {
                Ok(gpus) => self.gpus = gpus,
                Err(problem) => report(&problem),
            }
        }
        &self.gpus
    }
}

/// Prints a problem with the scenario to standard error, because NVML can return only error codes.
pub(crate) fn report(problem: &str) {
    let _ = writeln!(io::stderr(), "fake NVML: {problem}");
}

fn stamp(path: &PathBuf) -> io::Result<Stamp> {
    let metadata = fs::metadata(path)?;
    Ok(Stamp {
        inode: metadata.ino(),
        length: metadata.len(),
        modified: (metadata.mtime(), metadata.mtime_nsec()),
    })
}

fn read(path: &PathBuf) -> Result<Vec<Gpu>, String> {
    let in_file = |problem: String| format!("{}: {problem}", path.display());
    let mut json = Vec::new();
    File::open(path)
        .and_then(|file| file.take(MAX_BYTES + 1).read_to_end(&mut json))
        .map_err(|error| in_file(error.to_string()))?;
    if json.len() as u64 > MAX_BYTES {
        return Err(in_file(format!("more than {MAX_BYTES} bytes")));
    }
    scenario::parse(&json).map_err(in_file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reloads_changes_and_keeps_last_valid_version() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("gpus.json");
        let replace = |text: &str| {
            let new = folder.path().join("new");
            fs::write(&new, text).unwrap();
            fs::rename(&new, &path).unwrap();
        };
        assert!(ScenarioFile::open(path.clone()).unwrap_err().contains("gpus.json: No such file"));
        replace(r#"[{"uuid": "a", "name": "first"}]"#);
        let mut file = ScenarioFile::open(path.clone()).unwrap();
        assert_eq!(file.gpus()[0].name, "first");
        replace(r#"[{"uuid": "a", "name": "other"}]"#);
        assert_eq!(file.gpus()[0].name, "other");
        replace("[{");
        assert_eq!(file.gpus()[0].name, "other");
        fs::remove_file(&path).unwrap();
        assert_eq!(file.gpus()[0].name, "other");
        replace("[]");
        assert!(file.gpus().is_empty());
    }
}
