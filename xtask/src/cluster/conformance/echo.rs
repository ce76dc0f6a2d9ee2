//! The echo server of Gateway API's suite, which other suites use too.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};

use super::{
    super::binaries::{self, go_module},
    gateway_api,
    suite::go,
};
use crate::image::{Image, Layer};

/// An archive for each of the image names.
pub(super) fn images(names: &[&str]) -> Result<Vec<PathBuf>> {
    let folder = binaries::cache()?.join(format!("echo-basic-{}", gateway_api::VERSION));
    let mut layer = Layer::new();
    layer.file("echo-basic", 0o755, &fs::read(build(&folder)?)?)?;
    layer.folder("tmp", 0o1777)?;
    let layer = layer.finish()?;
    names
        .iter()
        .enumerate()
        .map(|(number, name)| {
            let image = Image {
                name: (*name).to_owned(),
                entrypoint: vec!["/echo-basic".to_owned()],
                user: "65532:65532",
                title: "echo-basic",
                description: "Echo server of the Gateway API conformance suite",
                version: gateway_api::VERSION,
                layers: vec![layer.clone()],
            };
            let archive = folder.join(format!("echo-basic-{number}.tar"));
            image.write(&archive)?;
            Ok(archive)
        })
        .collect()
}

fn build(folder: &Path) -> Result<PathBuf> {
    let program = folder.join("echo-basic");
    if program.is_file() {
        return Ok(program);
    }
    let source = go_module(gateway_api::MODULE, gateway_api::VERSION)?;
    let work = folder.join("source");
    copy(&source.join("echo-basic"), &work)?;
    // Go modules leave out nested modules, so the suite ships their go.mod under another name.
    for file in ["go.mod", "go.sum"] {
        fs::rename(work.join(format!(".{file}")), work.join(file))?;
    }
    go(&work, &["build", "-ldflags=-s -w", "-o"], &program, "building echo-basic")?;
    fs::remove_dir_all(&work)?;
    Ok(program)
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from).with_context(|| format!("cannot read {}", from.display()))? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy(&entry.path(), &target)?;
        } else {
            // Not fs::copy: the module cache is read-only, and so would be the copy.
            fs::write(target, fs::read(entry.path())?)?;
        }
    }
    Ok(())
}
