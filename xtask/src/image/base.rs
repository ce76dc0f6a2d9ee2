//! The base layer of the images: glibc, CA certificates, users. glibc is needed because the agent loads the NVIDIA
//! driver library at run time, so it cannot be linked statically.
//!
//! The files come from the Debian packages installed on this machine: the programs were linked against them.

use std::{collections::BTreeSet, fs, path::Path, process::Command, sync::Arc};

use anyhow::{Context as _, Result, bail};

use super::Layer;
use crate::run;

/// Packages whose shared libraries are copied; locales and converters are not.
const LIBRARY_PACKAGES: &[&str] = &["libc6", "libgcc-s1"];
const CERTIFICATE_PACKAGE: &str = "ca-certificates";
const CERTIFICATES: &str = "/usr/share/ca-certificates/mozilla/";

pub(super) fn layer() -> Result<Arc<[u8]>> {
    let mut layer = Layer::new();
    // Merged /usr, as in Debian.
    layer.folder("usr/bin", 0o755)?;
    for name in ["bin", "lib", "lib64", "sbin"] {
        layer.folder(&format!("usr/{name}"), 0o755)?;
        layer.link(name, &format!("usr/{name}"))?;
    }
    layer.folder("tmp", 0o1777)?;
    layer.file(
        "etc/passwd",
        0o644,
        b"root:x:0:0:root:/:/bin/false\nnonroot:x:65532:65532:nonroot:/:/bin/false\n",
    )?;
    layer.file("etc/group", 0o644, b"root:x:0:\nnonroot:x:65532:\n")?;
    layer.file("etc/nsswitch.conf", 0o644, b"hosts: files dns\n")?;
    let mut seen = BTreeSet::new();
    for package in LIBRARY_PACKAGES {
        for path in files(package)? {
            let Some(at) = path_in_image(&path) else { continue };
            if seen.insert(at.clone()) {
                add(&mut layer, &path, &at)?;
            }
        }
    }
    let mut bundle = String::new();
    for path in files(CERTIFICATE_PACKAGE)?.iter().filter(|path| path.starts_with(CERTIFICATES)) {
        bundle += &fs::read_to_string(path).with_context(|| format!("cannot read {path}"))?;
    }
    // Not the bundle in /etc: it may contain certificates added on this machine.
    layer.file("etc/ssl/certs/ca-certificates.crt", 0o644, bundle.as_bytes())?;
    layer.finish()
}

/// Path of a package file in the image; `None` if it is not copied.
fn path_in_image(path: &str) -> Option<String> {
    let name = Path::new(path).file_name()?.to_str()?;
    let folder = Path::new(path).parent()?.file_name()?.to_str()?;
    let is_library = name.contains(".so") && (folder.contains("-linux-") || folder.starts_with("lib"));
    if !is_library && name != "copyright" {
        return None;
    }
    let below = path.trim_start_matches('/');
    Some(if below.starts_with("usr/") { below.to_owned() } else { format!("usr/{below}") })
}

fn add(layer: &mut Layer, path: &str, at: &str) -> Result<()> {
    let metadata = fs::symlink_metadata(path).with_context(|| format!("cannot read {path}"))?;
    if metadata.is_symlink() {
        let target = fs::read_link(path)?;
        return layer.link(at, target.to_str().context("a link target is not UTF-8")?);
    }
    let mode = if path.contains("ld-linux") { 0o755 } else { 0o644 };
    layer.file(at, mode, &fs::read(path).with_context(|| format!("cannot read {path}"))?)
}

/// Files of a package, sorted.
fn files(package: &str) -> Result<Vec<String>> {
    let Some(list) = run::output(Command::new("dpkg").args(["-L", package])) else {
        bail!(
            "images are built from Debian packages and {package} is not installed; install it or use the Dockerfile, which needs only a container engine"
        );
    };
    let mut files: Vec<String> = list
        .lines()
        .filter(|path| fs::symlink_metadata(path).is_ok_and(|it| !it.is_dir()))
        .map(String::from)
        .collect();
    files.sort();
    Ok(files)
}
