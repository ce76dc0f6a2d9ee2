//! Runs `forebay` without a terminal and without the user's cluster.

use std::{process::Stdio, time::Duration};

use tokio::process::Command;

const TIMEOUT: Duration = Duration::from_secs(60);

/// Exit code, output, error output.
pub(crate) async fn forebay(arguments: &[&str]) -> (Option<i32>, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_forebay"));
    command
        .args(arguments)
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .env("KUBECONFIG", "/nonexistent")
        .env("HOME", "/nonexistent");
    for name in ["FOREBAY_AGENTS", "FOREBAY_RESOURCES", "KUBERNETES_SERVICE_HOST"] {
        command.env_remove(name);
    }
    let output = tokio::time::timeout(TIMEOUT, command.output()).await.unwrap().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}
