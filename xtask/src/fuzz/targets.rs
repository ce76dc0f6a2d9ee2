//! The fuzz targets of all parts.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};

/// Parts with a `fuzz` folder.
pub(super) const PARTS: [&str; 4] = ["agent", "agent-ebpf", "epp", "gateway"];

#[derive(Clone, Debug)]
pub(super) struct Target {
    pub(super) part: &'static str,
    /// Name of the program, and of the folder of its corpus.
    pub(super) name: String,
}

impl Target {
    /// The folder of the fuzz package, from the workspace's root.
    pub(super) fn folder(&self) -> PathBuf {
        Path::new(self.part).join("fuzz")
    }

    /// The function that libFuzzer calls, from the workspace's root.
    pub(super) fn source(&self) -> PathBuf {
        self.folder().join("src").join(&self.name).with_extension("rs")
    }

    /// The committed inputs, from the workspace's root.
    pub(super) fn corpus(&self) -> PathBuf {
        self.folder().join("corpus").join(&self.name)
    }

    /// Tokens for the mutations, from the workspace's root. Optional.
    pub(super) fn dictionary(&self) -> PathBuf {
        self.folder().join("dictionaries").join(&self.name)
    }
}

/// All targets: one for each file in a folder `fuzz_targets`.
pub(super) fn find(root: &Path) -> Result<Vec<Target>> {
    let mut targets = Vec::new();
    for part in PARTS {
        let folder = root.join(part).join("fuzz/fuzz_targets");
        let entries = fs::read_dir(&folder).with_context(|| format!("cannot read {}", folder.display()))?;
        for entry in entries {
            let path = entry?.path();
            if let Some(name) = path.file_stem().filter(|_| path.extension().is_some_and(|it| it == "rs")) {
                targets.push(Target { part, name: name.to_string_lossy().into_owned() });
            }
        }
    }
    targets.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(targets)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run;

    #[test]
    fn every_target_has_a_program_a_corpus_and_a_replay() {
        let root = run::root();
        let targets = find(&root).unwrap();
        assert!(!targets.is_empty());
        for target in targets {
            let read = |file: &str| fs::read_to_string(root.join(target.folder()).join(file)).unwrap();
            assert!(read("Cargo.toml").contains(&format!("name = \"{}\"", target.name)), "{target:?}");
            assert!(read("tests/corpus.rs").contains(&format!("fn {}()", target.name)), "{target:?}");
            assert!(fs::read_dir(root.join(target.corpus())).unwrap().next().is_some(), "{target:?}");
        }
    }
}
