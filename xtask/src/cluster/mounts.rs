//! Mount points of this machine.

use std::{fs, path::Path};

use anyhow::Result;

/// Mount points at or below a folder, deepest first.
pub(super) fn below(folder: &Path) -> Result<Vec<String>> {
    let mounts = fs::read_to_string("/proc/mounts")?;
    let mut below: Vec<String> = mounts
        .lines()
        .filter_map(|line| line.split(' ').nth(1))
        .filter(|mount| Path::new(mount).starts_with(folder))
        .map(String::from)
        .collect();
    below.sort_unstable_by(|a, b| b.cmp(a));
    Ok(below)
}
