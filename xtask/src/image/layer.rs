//! An image layer: a tar archive whose bytes depend only on its content.

use std::{collections::BTreeSet, path::Path, sync::Arc};

use anyhow::Result;
use tar::{Builder, EntryType, Header};

/// A layer under construction. Parent folders are added when needed.
pub(crate) struct Layer {
    tar: Builder<Vec<u8>>,
    folders: BTreeSet<String>,
}

impl Layer {
    pub(crate) fn new() -> Self {
        Self { tar: Builder::new(Vec::new()), folders: BTreeSet::new() }
    }

    pub(crate) fn file(&mut self, path: &str, mode: u32, bytes: &[u8]) -> Result<()> {
        self.parents(path)?;
        let mut header = header(EntryType::Regular, mode);
        header.set_size(bytes.len() as u64);
        Ok(self.tar.append_data(&mut header, path, bytes)?)
    }

    pub(crate) fn folder(&mut self, path: &str, mode: u32) -> Result<()> {
        self.parents(path)?;
        if self.folders.insert(path.to_owned()) {
            self.tar.append_data(&mut header(EntryType::Directory, mode), format!("{path}/"), &[][..])?;
        }
        Ok(())
    }

    pub(crate) fn link(&mut self, path: &str, target: &str) -> Result<()> {
        self.parents(path)?;
        Ok(self.tar.append_link(&mut header(EntryType::Symlink, 0o777), path, target)?)
    }

    /// Bytes of the layer, shared by the images that use it.
    pub(crate) fn finish(self) -> Result<Arc<[u8]>> {
        Ok(self.tar.into_inner()?.into())
    }

    fn parents(&mut self, path: &str) -> Result<()> {
        match Path::new(path).parent().and_then(Path::to_str) {
            None | Some("") => Ok(()),
            Some(parent) => self.folder(parent, 0o755),
        }
    }
}

/// Owner root, modification time 0: the archive is reproducible.
fn header(kind: EntryType, mode: u32) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(0);
    header
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;

    #[test]
    fn is_reproducible_and_adds_each_parent_folder_once() {
        let make = || {
            let mut layer = Layer::new();
            layer.file("usr/bin/a", 0o755, b"a").unwrap();
            layer.file("usr/bin/b", 0o755, b"b").unwrap();
            layer.link("bin", "usr/bin").unwrap();
            layer.finish().unwrap()
        };
        let bytes = make();
        assert_eq!(bytes, make());
        let mut archive = tar::Archive::new(&bytes[..]);
        let paths: Vec<_> = archive
            .entries()
            .unwrap()
            .map(|entry| entry.unwrap().path().unwrap().display().to_string())
            .collect();
        assert_eq!(paths, ["usr/", "usr/bin/", "usr/bin/a", "usr/bin/b", "bin"]);
    }
}
