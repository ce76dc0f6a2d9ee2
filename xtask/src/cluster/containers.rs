//! The client of containerd (ctr) and the pause image of pod sandboxes.

use std::{fs, process::Command};

use anyhow::Result;

use super::{Binaries, Cluster};
use crate::{
    image::{Image, Layer},
    run,
};

/// Source of the pause program: waits for a signal.
const PAUSE: &str = "#include <signal.h>\n#include <unistd.h>\nstatic void end(int s) { (void)s; _exit(0); }\n\
                     int main(void) { signal(SIGTERM, end); signal(SIGINT, end); for (;;) pause(); }\n";

pub(super) fn ctr(cluster: &Cluster) -> Result<Command> {
    let socket = cluster.path("containerd.sock");
    let mut ctr = Command::new(Binaries::find()?.program("ctr"));
    ctr.arg("--address").arg(socket).args(["--namespace", "k8s.io"]);
    Ok(ctr)
}

/// Imports an image with this name whose program only waits for a signal, for example the pause image. The program
/// `/ENTRYPOINT` ignores its arguments.
pub(super) fn import_pause_image(cluster: &Cluster, name: &str, entrypoint: &str) -> Result<()> {
    let source = cluster.path("images/pause.c");
    let program = cluster.path("images/pause");
    fs::write(&source, PAUSE)?;
    run::quiet(Command::new("gcc").args(["-static", "-O2", "-o"]).arg(&program).arg(&source))?;
    let archive = cluster.path("images/pause.tar");
    let mut layer = Layer::new();
    layer.file(entrypoint, 0o755, &fs::read(&program)?)?;
    let image = Image {
        name: name.to_owned(),
        entrypoint: vec![format!("/{entrypoint}")],
        user: "65532:65532",
        title: "pause",
        description: "Waits for a signal",
        version: "test",
        layers: vec![layer.finish()?],
    };
    image.write(&archive)?;
    run::quiet(ctr(cluster)?.args(["images", "import"]).arg(archive))
}
