//! Programs of a Kubernetes node. Missing ones are built once from Go modules.

use std::{
    env,
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

use crate::run;

const KUBERNETES: &str = "1.36.3";
const ETCD: &str = "3.6.16";
const CONTAINERD: &str = "2.2.9";
const HELM: &str = "3.21.4";
/// It has no releases.
const RATELIMIT: &str = "1.4.1-0.20260122083618-3fb702589d36";
const OLDEST_GO: (u32, u32) = (1, 26);

const PROGRAMS: &[&str] = &[
    "etcd",
    "kube-apiserver",
    "kube-controller-manager",
    "kube-scheduler",
    "kube-proxy",
    "kubelet",
    "kubectl",
    "containerd",
    "containerd-shim-runc-v2",
    "ctr",
    "helm",
];

/// Folders that together hold every program of [`PROGRAMS`].
#[derive(Clone, Debug)]
pub(crate) struct Binaries {
    folders: Vec<PathBuf>,
}

impl Binaries {
    /// Searches the folder `KUBEBUILDER_ASSETS`, the cache that [`build`] fills, and the PATH.
    pub(crate) fn find() -> Result<Self> {
        let candidates = candidates()?;
        let mut folders = Vec::new();
        let mut missing = Vec::new();
        for program in PROGRAMS {
            match candidates.iter().find(|folder| folder.join(program).is_file()) {
                Some(folder) if !folders.contains(folder) => folders.push(folder.clone()),
                Some(_) => {}
                None => missing.push(*program),
            }
        }
        if !missing.is_empty() {
            bail!("not found: {}. `cargo xtask cluster build` builds them (needs Go)", missing.join(", "));
        }
        Ok(Self { folders })
    }

    pub(crate) fn program(&self, name: &str) -> PathBuf {
        self.folders
            .iter()
            .map(|folder| folder.join(name))
            .find(|path| path.is_file())
            .unwrap_or_else(|| name.into())
    }

    /// The PATH with the folders of the programs first.
    pub(crate) fn search_path(&self) -> OsString {
        let path = env::var_os("PATH").unwrap_or_default();
        let all = self.folders.iter().cloned().chain(env::split_paths(&path));
        env::join_paths(all).unwrap_or(path)
    }
}

/// Folders in which programs are searched.
fn candidates() -> Result<Vec<PathBuf>> {
    let mut folders: Vec<PathBuf> =
        env::var_os("KUBEBUILDER_ASSETS").map(PathBuf::from).into_iter().collect();
    // The cache comes before the PATH: its programs have the tested versions.
    folders.push(cache()?);
    folders.extend(env::split_paths(&env::var_os("PATH").unwrap_or_default()));
    Ok(folders)
}

/// `$XDG_CACHE_HOME/forebay/kube/VERSION`.
pub(super) fn cache() -> Result<PathBuf> {
    Ok(run::cache()?.join("kube").join(KUBERNETES))
}

/// Checks that Go is installed and recent enough.
pub(crate) fn require_go() -> Result<()> {
    let Some(version) = run::output(Command::new("go").args(["env", "GOVERSION"])) else {
        bail!("Go is not installed");
    };
    let mut numbers = version.trim_start_matches("go").split('.').map_while(|part| part.parse::<u32>().ok());
    if (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)) < OLDEST_GO {
        bail!(
            "Go is too old: found {version}, Kubernetes {KUBERNETES} needs go{}.{}",
            OLDEST_GO.0,
            OLDEST_GO.1
        );
    }
    Ok(())
}

/// Builds the programs that [`Binaries::find`] does not find.
pub(crate) fn build() -> Result<Binaries> {
    if let Ok(binaries) = Binaries::find() {
        return Ok(binaries);
    }
    build_missing(modules)?;
    Binaries::find()
}

/// Builds the programs that the cache does not have.
fn build_missing(modules: impl FnOnce() -> Result<Vec<Module>>) -> Result<()> {
    require_go()?;
    let folder = cache()?;
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let work = folder.join(format!("build-{}", std::process::id()));
    let result =
        modules().and_then(|modules| modules.iter().try_for_each(|module| module.build(&work, &folder)));
    let _ = fs::remove_dir_all(&work);
    result
}

/// Builds the rate limit server of the gateway's tests, next to the programs of [`build`]. A node does not have it, so nodes work
/// without it.
pub(crate) fn build_rate_limit_server() -> Result<()> {
    const PROGRAM: &str = "ratelimit";
    if candidates()?.iter().any(|folder| folder.join(PROGRAM).is_file()) {
        return Ok(());
    }
    let module = Module {
        name: PROGRAM,
        require: format!("github.com/envoyproxy/ratelimit v{RATELIMIT}"),
        more: String::new(),
        commands: vec![(PROGRAM, "github.com/envoyproxy/ratelimit/src/service_cmd".into())],
        flags: vec!["-ldflags=-s -w".into()],
    };
    build_missing(|| Ok(vec![module]))
}

/// A temporary Go module that requires one other module and builds commands of it.
struct Module {
    name: &'static str,
    require: String,
    /// Additional lines of `go.mod`.
    more: String,
    commands: Vec<(&'static str, String)>,
    flags: Vec<String>,
}

impl Module {
    fn build(&self, work: &Path, into: &Path) -> Result<()> {
        let missing: Vec<_> =
            self.commands.iter().filter(|(program, _)| !into.join(program).is_file()).collect();
        if missing.is_empty() {
            return Ok(());
        }
        let folder = work.join(self.name);
        fs::create_dir_all(&folder)?;
        let (major, minor) = OLDEST_GO;
        fs::write(
            folder.join("go.mod"),
            format!("module build\n\ngo {major}.{minor}.0\n\nrequire {}\n{}", self.require, self.more),
        )?;
        let imports: String =
            self.commands.iter().map(|(_, package)| format!("import _ \"{package}\"\n")).collect();
        fs::write(folder.join("tools.go"), format!("//go:build tools\n\npackage tools\n\n{imports}"))?;
        let mut tidy = Command::new("go");
        tidy.args(["mod", "tidy"]).current_dir(&folder).stderr(std::process::Stdio::null());
        run::step(&format!("downloading modules of {}", self.require), &mut tidy)?;
        for (program, package) in missing {
            let unfinished = into.join(format!("{program}.unfinished"));
            let mut go = Command::new("go");
            go.current_dir(&folder).env("CGO_ENABLED", "0").arg("build").args(&self.flags);
            go.arg("-o").arg(&unfinished).arg(package);
            run::step(&format!("building {program}"), &mut go)?;
            fs::rename(&unfinished, into.join(program))?;
        }
        Ok(())
    }
}

fn modules() -> Result<Vec<Module>> {
    let small = || "-ldflags=-s -w".to_owned();
    let [_, minor, patch] = KUBERNETES.split('.').collect::<Vec<_>>()[..] else {
        bail!("{KUBERNETES} is not a Kubernetes version");
    };
    let version = "k8s.io/component-base/version";
    let kubernetes = |program| (program, format!("k8s.io/kubernetes/cmd/{program}"));
    let containerd = |program| (program, format!("github.com/containerd/containerd/v2/cmd/{program}"));
    Ok(vec![
        Module {
            name: "kubernetes",
            require: format!("k8s.io/kubernetes v{KUBERNETES}"),
            more: siblings(&format!("v0.{minor}.{patch}"))?,
            commands: [
                "kube-apiserver",
                "kube-controller-manager",
                "kube-scheduler",
                "kubelet",
                "kube-proxy",
                "kubectl",
            ]
            .map(kubernetes)
            .into(),
            flags: vec![format!(
                "-ldflags=-s -w -X {version}.gitVersion=v{KUBERNETES} -X {version}.gitMajor=1 -X {version}.gitMinor={minor}"
            )],
        },
        Module {
            name: "etcd",
            require: format!("go.etcd.io/etcd/server/v3 v{ETCD}"),
            more: String::new(),
            commands: vec![("etcd", "go.etcd.io/etcd/server/v3".into())],
            flags: vec![small()],
        },
        Module {
            name: "containerd",
            require: format!("github.com/containerd/containerd/v2 v{CONTAINERD}"),
            more: String::new(),
            commands: ["containerd", "containerd-shim-runc-v2", "ctr"].map(containerd).into(),
            flags: vec!["-tags=no_btrfs no_zfs no_devmapper".into(), small()],
        },
        Module {
            name: "helm",
            require: format!("helm.sh/helm/v3 v{HELM}"),
            more: String::new(),
            commands: vec![("helm", "helm.sh/helm/v3/cmd/helm".into())],
            flags: vec![format!(
                "-ldflags=-s -w -X helm.sh/helm/v3/internal/version.version=v{HELM} \
                 -X helm.sh/helm/v3/pkg/chartutil.k8sVersionMajor=1 -X helm.sh/helm/v3/pkg/chartutil.k8sVersionMinor={minor}"
            )],
        },
    ])
}

/// `replace` lines of the staging modules. Kubernetes requires them as v0.0.0 with local replacements; the published
/// versions are v0.MINOR.PATCH.
fn siblings(version: &str) -> Result<String> {
    let go_mod = fs::read_to_string(go_module("k8s.io/kubernetes", KUBERNETES)?.join("go.mod"))?;
    let mut text = String::from("\ngodebug default=go1.26\n\nreplace (\n");
    for line in go_mod.lines().filter(|line| line.contains("=> ./staging")) {
        if let Some(module) = line.split_whitespace().next() {
            text += &format!("\t{module} => {module} {version}\n");
        }
    }
    Ok(text + ")\n")
}

/// Downloads a Go module. Returns the folder of its files (read-only).
pub(crate) fn go_module(module: &str, version: &str) -> Result<PathBuf> {
    let at = format!("{module}@v{version}");
    let mut download = Command::new("go");
    download.args(["mod", "download", &at]).current_dir("/");
    run::step(&format!("downloading {at}"), &mut download)?;
    let cache =
        run::output(Command::new("go").args(["env", "GOMODCACHE"])).context("go env GOMODCACHE failed")?;
    Ok(Path::new(&cache).join(at))
}
