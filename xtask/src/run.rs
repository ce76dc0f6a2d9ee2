//! Running other programs, and saying so.

use std::{
    env,
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Instant,
};

use anyhow::{Context as _, Result, bail};

/// A line of progress, on standard error: standard output is for results.
pub(crate) fn say(line: &str) {
    // Nobody to tell when even this fails.
    let _ = writeln!(std::io::stderr().lock(), "xtask: {line}");
}

/// The workspace's root, wherever the task was started.
pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().map_or_else(|| PathBuf::from("."), Path::to_path_buf)
}

/// `$XDG_CACHE_HOME/forebay`: what is fetched or built once, outside the tree and kept over clones.
pub(crate) fn cache() -> Result<PathBuf> {
    let base = env::var_os("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .or_else(|| env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache")));
    Ok(base.context("neither XDG_CACHE_HOME nor HOME is set")?.join("forebay"))
}

/// Runs a step to its end with its output shown, and says how long it took.
pub(crate) fn step(what: &str, command: &mut Command) -> Result<()> {
    say(&format!("{what} …"));
    let started = Instant::now();
    let status = command.status().with_context(|| format!("cannot start {}", program(command)))?;
    if !status.success() {
        bail!("{what}: {} ended with {status}", program(command));
    }
    say(&format!("{what}: done in {:.1} s", started.elapsed().as_secs_f64()));
    Ok(())
}

/// Runs a question to its end: whether it succeeded, without its output.
pub(crate) fn succeeds(command: &mut Command) -> bool {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|it| it.success())
}

/// A program's standard output, if it succeeds.
pub(crate) fn output(command: &mut Command) -> Option<String> {
    let output = command.stdin(Stdio::null()).stderr(Stdio::null()).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// Flags for rustc: what it builds does not say where the tree and cargo's downloads are.
pub(crate) fn without_paths_of_this_machine() -> Vec<String> {
    let home = env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(|| env::var_os("HOME").map(|home| PathBuf::from(home).join(".cargo")));
    let tree = Some((root(), "/forebay"));
    let places = home.map(|home| (home, "/cargo")).into_iter().chain(tree);
    places.map(|(path, name)| format!("--remap-path-prefix={}={name}", path.display())).collect()
}

/// The cargo that runs this task. What it told this task about itself it is not told back: build scripts of some crates
/// look at it, and a build from here and one by hand would each begin anew.
pub(crate) fn cargo() -> Command {
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(root());
    let is_ours = |name: &str| name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_");
    for (name, _) in env::vars_os().filter(|(name, _)| name.to_str().is_some_and(is_ours)) {
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

/// Runs a command whose output is of interest only when it fails.
pub(crate) fn quiet(command: &mut Command) -> Result<()> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot start {}", program(command)))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("{} ended with {}: {}", program(command), output.status, said.trim());
    }
    Ok(())
}
