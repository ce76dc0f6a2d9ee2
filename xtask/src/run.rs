//! Runs other programs and reports progress.

use std::{
    env,
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Instant,
};

use anyhow::{Context as _, Result, bail};

/// Prints a line of progress to standard error. Standard output is for results.
pub(crate) fn say(line: &str) {
    let _ = writeln!(std::io::stderr().lock(), "xtask: {line}");
}

/// Root folder of the workspace, independent of the current folder.
pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().map_or_else(|| PathBuf::from("."), Path::to_path_buf)
}

/// `$XDG_CACHE_HOME/forebay`: downloads and builds that are shared by all clones.
pub(crate) fn cache() -> Result<PathBuf> {
    let base = env::var_os("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .or_else(|| env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache")));
    Ok(base.context("neither XDG_CACHE_HOME nor HOME is set")?.join("forebay"))
}

/// Runs a command with its output shown, and reports its duration.
pub(crate) fn step(what: &str, command: &mut Command) -> Result<()> {
    say(&format!("{what} …"));
    let started = Instant::now();
    let status = command.status().with_context(|| format!("cannot start {}", program(command)))?;
    if !status.success() {
        bail!("{what}: {} failed with {status}", program(command));
    }
    say(&format!("{what}: done in {:.1} s", started.elapsed().as_secs_f64()));
    Ok(())
}

/// Runs a command without output; true if it succeeded.
pub(crate) fn succeeds(command: &mut Command) -> bool {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|it| it.success())
}

/// Standard output of a command; `None` if it fails.
pub(crate) fn output(command: &mut Command) -> Option<String> {
    let output = command.stdin(Stdio::null()).stderr(Stdio::null()).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// rustc flags that keep the paths of the source tree and of the cargo home out of the binaries.
pub(crate) fn remap_paths() -> Vec<String> {
    let home = env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(|| env::var_os("HOME").map(|home| PathBuf::from(home).join(".cargo")));
    let tree = Some((root(), "/forebay"));
    let prefixes = home.map(|home| (home, "/cargo")).into_iter().chain(tree);
    prefixes.map(|(path, name)| format!("--remap-path-prefix={}={name}", path.display())).collect()
}

/// The cargo that runs this task, without the `CARGO_PKG_*` and `CARGO_MANIFEST_*` variables of xtask: some build
/// scripts depend on them, and would run again after each change between `cargo xtask` and `cargo`.
pub(crate) fn cargo() -> Command {
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(root());
    let is_of_xtask = |name: &str| name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_");
    for (name, _) in env::vars_os().filter(|(name, _)| name.to_str().is_some_and(is_of_xtask)) {
        cargo.env_remove(name);
    }
    cargo
}

pub(crate) fn is_root() -> bool {
    output(Command::new("id").arg("-u")).as_deref() == Some("0")
}

fn program(command: &Command) -> String {
    command.get_program().to_string_lossy().into_owned()
}

/// Runs a command without output. Its standard error becomes part of the error.
pub(crate) fn quiet(command: &mut Command) -> Result<()> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot start {}", program(command)))?;
    if !output.status.success() {
        let stderr = String::from_utf8_lossy(&output.stderr);
        bail!("{} failed with {}: {}", program(command), output.status, stderr.trim());
    }
    Ok(())
}
