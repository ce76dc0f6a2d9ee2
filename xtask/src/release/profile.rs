//! Records the profile of gateway and picker under load.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};
use sha2::{Digest as _, Sha256};

use super::{BENCH, PROFILED, bins, cargo_build, target};
use crate::{run, setup};

/// Properties of the compiler that profiles depend on.
pub(super) struct Rustc {
    /// Host target triple.
    pub(super) host: String,
    /// Major version of its LLVM. Profiles are readable only by the same major version.
    llvm: String,
    sysroot: PathBuf,
}

impl Rustc {
    pub(super) fn find() -> Result<Self> {
        let version = run::output(rustc().arg("-vV")).context("`rustc -vV` failed")?;
        let field = |name: &str| {
            let value = version.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
            value.with_context(|| format!("`rustc -vV` prints no {name}"))
        };
        let llvm = field("LLVM version")?;
        let sysroot =
            run::output(rustc().args(["--print", "sysroot"])).context("`rustc --print sysroot` failed")?;
        Ok(Self {
            host: field("host")?.to_owned(),
            llvm: llvm.split('.').next().unwrap_or(llvm).to_owned(),
            sysroot: sysroot.into(),
        })
    }

    /// `llvm-profdata` for the LLVM of the compiler. Installed if missing.
    fn profdata(&self) -> Result<PathBuf> {
        if let Some(found) = self.installed_profdata() {
            return Ok(found);
        }
        let mut rustup = Command::new("rustup");
        rustup.args(["component", "add", "llvm-tools"]).current_dir(run::root());
        let package = format!("llvm-{}", self.llvm);
        if run::step("installing llvm-tools", &mut rustup).is_err() {
            setup::for_profiles(&package)?;
        }
        self.installed_profdata().with_context(|| {
            format!(
                "llvm-profdata of LLVM {} not found; install it with `rustup component add llvm-tools` or the Debian \
                 package {package}, or build with --plain",
                self.llvm
            )
        })
    }

    fn installed_profdata(&self) -> Option<PathBuf> {
        let of_rustup = self.sysroot.join("lib/rustlib").join(&self.host).join("bin/llvm-profdata");
        let of_debian = PathBuf::from(format!("llvm-profdata-{}", self.llvm));
        let works = |program: &PathBuf| run::succeeds(Command::new(program).arg("--version"));
        [of_rustup, of_debian].into_iter().find(works)
    }
}

/// The rustc that cargo uses.
fn rustc() -> Command {
    let mut rustc = Command::new(std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()));
    rustc.current_dir(run::root());
    rustc
}

/// The profile of the current source tree. Recorded only if it does not exist yet.
pub(super) fn record(rustc: &Rustc) -> Result<PathBuf> {
    let profdata = rustc.profdata()?;
    let folder = target("profiling");
    let mut build = cargo_build(&folder, &["-Cprofile-generate".to_owned()]);
    build.args(bins(&PROFILED)).args(["--target", &rustc.host]);
    run::step("building programs that record a profile", &mut build)?;
    let programs = folder.join(&rustc.host).join("release");
    // The name contains a hash of the programs: cargo notices a new profile, and an unchanged tree reuses the old one.
    let profile = folder.join(format!("forebay-{}.profdata", fingerprint(&programs)?));
    if profile.is_file() {
        return Ok(profile);
    }
    let raw = folder.join("raw");
    if raw.exists() {
        fs::remove_dir_all(&raw)?;
    }
    fs::create_dir_all(&raw)?;
    let mut build = run::cargo();
    build.args(["build", "--workspace", "--bin", BENCH]);
    run::step("building the load program", &mut build)?;
    let mut bench = Command::new(target("debug").join(BENCH));
    bench.arg("--train").arg(&programs).arg("--profiles").arg(&raw);
    run::step("recording a profile (about a minute)", &mut bench)?;
    let mut merge = Command::new(profdata);
    let merged = profile.with_extension("new");
    merge.args(["merge", "--output"]).arg(&merged).args(raw_profiles(&raw)?);
    run::step("merging the profiles", &mut merge)?;
    fs::rename(merged, &profile)?;
    Ok(profile)
}

fn raw_profiles(folder: &Path) -> Result<Vec<PathBuf>> {
    let files: Vec<PathBuf> = fs::read_dir(folder)?.filter_map(|entry| Some(entry.ok()?.path())).collect();
    if files.is_empty() {
        bail!("the programs wrote no profile to {}", folder.display());
    }
    Ok(files)
}

/// Hash of the profiled programs.
fn fingerprint(programs: &Path) -> Result<String> {
    let mut hash = Sha256::new();
    for program in PROFILED {
        let bytes = fs::read(programs.join(program)).with_context(|| format!("{program} is not built"))?;
        hash.update(bytes);
    }
    Ok(hash.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect())
}
