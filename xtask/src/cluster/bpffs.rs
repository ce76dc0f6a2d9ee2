//! The bpffs of the machine, on which the agents of the cluster pin their maps.

use std::{fs, path::Path, process::Command};

use anyhow::{Context as _, Result};

use crate::run;

const MOUNT_POINT: &str = "/sys/fs/bpf";
/// Folder of the agents' pins (default of `forebay-agent --bpffs`).
const PINS: &str = "forebay";

/// Mounts the bpffs if there is none, and notes in `marker` that this cluster did it.
pub(super) fn mount(marker: &Path) -> Result<()> {
    if run::succeeds(Command::new("mountpoint").args(["-q", MOUNT_POINT])) {
        return Ok(());
    }
    run::quiet(Command::new("mount").args(["-t", "bpf", "bpf", MOUNT_POINT]))?;
    fs::write(marker, "").with_context(|| format!("cannot write {}", marker.display()))
}

/// Removes the pins of the agents, and the mount if this cluster made it. An agent outside of the cluster keeps its maps
/// without the pins.
pub(super) fn remove(marker: &Path) -> Result<()> {
    remove_pins(Path::new(MOUNT_POINT))?;
    if marker.exists() {
        run::quiet(Command::new("umount").args(["-l", MOUNT_POINT]))?;
    }
    Ok(())
}

fn remove_pins(mount_point: &Path) -> Result<()> {
    let pins = mount_point.join(PINS);
    if !pins.exists() {
        return Ok(());
    }
    fs::remove_dir_all(&pins).with_context(|| format!("cannot remove {}", pins.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pins_of_agents_are_removed_and_others_are_kept() {
        let root = std::env::temp_dir().join(format!("forebay-bpffs-{}", std::process::id()));
        for folder in ["forebay/v2", "cilium"] {
            fs::create_dir_all(root.join(folder)).unwrap();
            fs::write(root.join(folder).join("map"), "").unwrap();
        }
        remove_pins(&root).unwrap();
        let left: Vec<_> = fs::read_dir(&root).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        fs::remove_dir_all(&root).unwrap();
        assert_eq!(left, ["cilium"]);
        remove_pins(&root).unwrap();
    }
}
