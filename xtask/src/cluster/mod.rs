//! `cargo xtask cluster STEP`: a one-node Kubernetes cluster on this machine.
//!
//! etcd, kube-apiserver, kube-controller-manager, kube-scheduler, kubelet, containerd with runc, and kube-proxy run in
//! a network namespace without a route to the host. Only root of this host can enter it.

mod binaries;
mod bpffs;
pub(crate) mod conformance;
mod containers;
mod crds;
mod down;
mod files;
mod identity;
mod mounts;
mod network;
mod outside;
mod services;
mod test;
mod up;

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};
use clap::Subcommand;

use self::crds::Channel;
pub(crate) use self::{
    binaries::{Binaries, build_rate_limit_server},
    test::{run_tests, why_unavailable},
};

#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    #[command(subcommand)]
    step: Step,
    /// Folder of all files of the cluster. Removed by `down`.
    #[arg(long, global = true, default_value = DEFAULT_STATE)]
    state: PathBuf,
}

#[derive(Debug, Subcommand)]
enum Step {
    /// Build the programs of a Kubernetes node (once; needs Go and several minutes).
    Build,
    /// Start the cluster and wait until its node is Ready.
    Up,
    /// Import image archives into the cluster.
    Load {
        /// OCI archives [default: all archives in target/images]
        archives: Vec<PathBuf>,
    },
    /// Run a command in the network namespace of the cluster, with KUBECONFIG set.
    Exec {
        #[arg(trailing_var_arg = true, required = true)]
        command: Vec<String>,
    },
    /// Kill or start only the API server.
    Api {
        #[arg(value_name = "STATE")]
        wanted: ApiState,
    },
    /// Stop the cluster and remove all of its files, mounts and cgroups.
    Down,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum ApiState {
    Up,
    Down,
}

const DEFAULT_STATE: &str = "/run/forebay-cluster";
/// Name of the network namespace. Only one cluster can run on a machine, because the name of the kubelet cgroup is
/// fixed.
const NAMESPACE: &str = "forebay";

/// File with the network namespaces that existed before the cluster.
const NAMESPACES_BEFORE: &str = "namespaces.before";
/// File with what was outside of the cluster's folder before it (see [`outside`]).
const OUTSIDE_BEFORE: &str = "outside.before";
/// File that exists if the bpffs of the machine was mounted for the cluster.
const BPFFS_MOUNTED: &str = "bpffs.mounted";

pub(crate) fn run(options: &Options) -> Result<()> {
    let cluster = Cluster { state: options.state.clone() };
    match &options.step {
        Step::Build => binaries::build().and_then(|_| build_rate_limit_server()),
        Step::Up => cluster.up(),
        Step::Load { archives } if archives.is_empty() => cluster.load(&crate::image::archives()?),
        Step::Load { archives } => cluster.load(archives),
        Step::Exec { command } => {
            use std::os::unix::process::CommandExt as _;
            // Replaces this process: the exit code is that of the command.
            Err(cluster.command(&command[0], &command[1..]).exec()).context("cannot start the command")
        }
        Step::Api { wanted: ApiState::Down } => {
            cluster.kill(&["kube-apiserver"]);
            Ok(())
        }
        Step::Api { wanted: ApiState::Up } => {
            cluster.start_api_server(&Binaries::find()?)?;
            cluster.wait_for_api_server()
        }
        Step::Down => cluster.down(),
    }
}

/// A cluster, running or not, identified by its folder.
#[derive(Clone, Debug)]
pub(crate) struct Cluster {
    state: PathBuf,
}

impl Default for Cluster {
    fn default() -> Self {
        Self { state: DEFAULT_STATE.into() }
    }
}

impl Cluster {
    fn path(&self, below: impl AsRef<Path>) -> PathBuf {
        self.state.join(below)
    }

    pub(crate) fn admin(&self) -> PathBuf {
        self.path("admin.conf")
    }

    pub(crate) fn is_up(&self) -> bool {
        self.admin().exists()
    }

    /// A command in the network namespace of the cluster, with administrator credentials.
    pub(crate) fn command<'a>(
        &self,
        program: &str,
        args: impl IntoIterator<Item = &'a (impl AsRef<std::ffi::OsStr> + 'a + ?Sized)>,
    ) -> Command {
        let mut command = network::command(program);
        command.args(args).env("KUBECONFIG", self.admin());
        if let Ok(binaries) = Binaries::find() {
            command.env("PATH", binaries.search_path());
        }
        command
    }

    /// Runs `work` in the cluster. Starts the cluster if it is not running, and stops it afterwards in that case,
    /// unless `keep` is set.
    fn during(&self, keep: bool, work: impl FnOnce(&Self) -> Result<()>) -> Result<()> {
        let was_up = self.is_up();
        self.up()?;
        let result = work(self);
        if keep || was_up {
            crate::run::say("the cluster keeps running; `cargo xtask cluster down` stops it");
            return result;
        }
        result.and(self.down())
    }

    /// Imports image archives (OCI layout in a tar).
    pub(crate) fn load(&self, archives: &[PathBuf]) -> Result<()> {
        if !self.is_up() {
            bail!("no cluster is running in {}; `cargo xtask cluster up` starts one", self.state.display());
        }
        for archive in archives {
            let name = archive.file_name().unwrap_or_default().to_string_lossy();
            let mut ctr = containers::ctr(self)?;
            ctr.args(["images", "import"]).arg(archive).stdout(std::process::Stdio::null());
            crate::run::step(&format!("importing {name}"), &mut ctr)?;
        }
        Ok(())
    }
}
