//! Programs that are killed when the test process ends, even if it is killed.

use std::{
    env, fs, io,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

/// Shell script that starts the program and waits for the end of its standard input. The pipe closes when the test
/// process ends; the script then kills the program and removes the folder in its first argument.
const SUPERVISOR: &str = r#"folder=$1; shift; "$@" & program=$!; read -r _; kill -9 "$program" 2>/dev/null; wait; rm -rf "$folder""#;

/// Searches a program in `KUBEBUILDER_ASSETS`, on the PATH, and in the cache of `cargo xtask cluster build`.
pub fn find(program: &str) -> Option<PathBuf> {
    let mut folders: Vec<PathBuf> =
        env::var_os("KUBEBUILDER_ASSETS").map(PathBuf::from).into_iter().collect();
    folders.extend(env::split_paths(&env::var_os("PATH").unwrap_or_default()));
    let cache = env::var_os("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .or_else(|| Some(PathBuf::from(env::var_os("HOME")?).join(".cache")));
    let mut versions: Vec<PathBuf> = cache
        .and_then(|cache| fs::read_dir(cache.join("forebay/kube")).ok())
        .into_iter()
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.path()))
        .collect();
    versions.sort();
    folders.extend(versions.into_iter().rev());
    folders.into_iter().map(|folder| folder.join(program)).find(|path| path.is_file())
}

/// A running program. Drop kills it.
pub(crate) struct Process {
    shell: Child,
}

impl Process {
    /// Starts the program. `remove`: folder to remove after the program has ended.
    pub(crate) fn start(
        program: &Path,
        arguments: &[String],
        log: &Path,
        remove: Option<&Path>,
    ) -> io::Result<Self> {
        let log = fs::File::create(log)?;
        let shell = Command::new("sh")
            .args(["-c", SUPERVISOR, "sh"])
            .arg(remove.unwrap_or_else(|| Path::new("")))
            .arg(program)
            .args(arguments)
            // Own process group: a signal to the group of the tests must not end the shell before it has cleaned up.
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()?;
        Ok(Self { shell })
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        drop(self.shell.stdin.take());
        let _ = self.shell.wait();
    }
}
