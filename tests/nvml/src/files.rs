//! The scenario file, read again when it changes.

use std::{
    fs::{self, File},
    io::{self, Read, Write},
    os::unix::fs::MetadataExt,
    path::PathBuf,
};

use crate::scenario::{self, Gpu};

/// A longer file is not read.
const LONGEST_BYTES: u64 = 4 << 20;

/// Tells one state of a file from another without reading it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    inode: u64,
    length: u64,
    modified: (i64, i64),
}

#[derive(Debug)]
pub(crate) struct ScenarioFile {
    path: PathBuf,
    /// Of the newest state looked at, whether it could be played or not.
    stamp: Option<Stamp>,
    gpus: Vec<Gpu>,
}

impl ScenarioFile {
    pub(crate) fn open(path: PathBuf) -> Result<Self, String> {
        let stamp = stamp(&path).ok();
        let gpus = read(&path)?;
        Ok(Self { path, stamp, gpus })
    }

    /// The GPUs as the file has them now. A file that is gone or cannot be played leaves
    /// the last good ones, and a line on standard error says so once.
    pub(crate) fn gpus(&mut self) -> &[Gpu] {
        let now = stamp(&self.path).ok();
        if now != self.stamp {
            self.stamp = now;
            match read(&self.path) {
                Ok(gpus) => self.gpus = gpus,
                Err(problem) => complain(&problem),
            }
        }
        &self.gpus
    }
}

/// For whoever writes scenarios: NVML itself has only codes to say it with.
pub(crate) fn complain(problem: &str) {
    // A standard error that is closed is no reason to fail.
    let _ = writeln!(io::stderr(), "NVML stand-in: {problem}");
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
        .and_then(|file| file.take(LONGEST_BYTES + 1).read_to_end(&mut json))
        .map_err(|error| in_file(error.to_string()))?;
    if json.len() as u64 > LONGEST_BYTES {
        return Err(in_file(format!("longer than {LONGEST_BYTES} bytes")));
    }
    scenario::parse(&json).map_err(in_file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_is_seen_and_a_broken_one_leaves_the_last_good() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("gpus.json");
        let replace = |text: &str| {
            let beside = folder.path().join("new");
            fs::write(&beside, text).unwrap();
            fs::rename(&beside, &path).unwrap();
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
