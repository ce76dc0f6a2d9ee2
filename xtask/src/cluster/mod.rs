//! A real one-node Kubernetes on this machine: `cargo xtask cluster <step>`.
//!
//! etcd, API server, controllers, scheduler, kubelet, containerd with Debian's runc,
//! and kube-proxy, in a network namespace of their own: nothing in it can reach out,
//! nothing but this host's root can reach in.

mod binaries;
pub(crate) mod conformance;
mod containers;
mod crds;
mod down;
mod files;
mod identity;
mod network;
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
    binaries::Binaries,
    test::{run_tests, why_not},
};

#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    #[command(subcommand)]
    step: Step,
    /// Folder of everything the cluster keeps; gone after `down`.
    #[arg(long, global = true, default_value = DEFAULT_STATE)]
    state: PathBuf,
}

#[derive(Debug, Subcommand)]
enum Step {
    /// Build the programs of a Kubernetes node, once (needs Go; minutes).
    Build,
    /// Start the cluster and wait until its node is Ready.
    Up,
    /// Import image archives into the cluster.
    Load {
        /// OCI archives [default: those that `cargo xtask image` wrote]
        archives: Vec<PathBuf>,
    },
    /// Run a command in the cluster's network, with KUBECONFIG set.
    Exec {
        #[arg(trailing_var_arg = true, required = true)]
        command: Vec<String>,
    },
    /// End the API server outright, or start it again: nothing else of the cluster ends.
    Api { wanted: ApiState },
    /// End the cluster; nothing of it stays.
    Down,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum ApiState {
    Up,
    Down,
}

const DEFAULT_STATE: &str = "/run/forebay-cluster";
/// Of the network namespace; one cluster at a time runs on a machine, because the
/// kubelet's cgroups have one name.
const NAMESPACE: &str = "forebay";

/// File of the network namespaces that were there before the cluster.
const NAMESPACES_BEFORE: &str = "namespaces.before";

pub(crate) fn run(options: &Options) -> Result<()> {
    let cluster = Cluster { state: options.state.clone() };
    match &options.step {
        Step::Build => binaries::build().map(drop),
        Step::Up => cluster.up(),
        Step::Load { archives } if archives.is_empty() => cluster.load(&crate::image::archives()?),
        Step::Load { archives } => cluster.load(archives),
        Step::Exec { command } => {
            use std::os::unix::process::CommandExt as _;
            // In place of this process: the exit code is the command's own.
            Err(cluster.command(&command[0], &command[1..]).exec()).context("cannot start it")
        }
        Step::Api { wanted: ApiState::Down } => {
            cluster.end(&["kube-apiserver"]);
            Ok(())
        }
        Step::Api { wanted: ApiState::Up } => {
            cluster.start_api_server(&Binaries::find()?)?;
            cluster.wait_for_api_server()
        }
        Step::Down => cluster.down(),
    }
}

/// A cluster by its folder, whether it runs or not.
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

    /// A program in the cluster's network, as its administrator.
    pub(crate) fn command<'a>(
        &self,
        program: &str,
        args: impl IntoIterator<Item = &'a (impl AsRef<std::ffi::OsStr> + 'a + ?Sized)>,
    ) -> Command {
        let mut command = network::inside(program);
        command.args(args).env("KUBECONFIG", self.admin());
        if let Ok(binaries) = Binaries::find() {
            command.env("PATH", binaries.search_path());
        }
        command
    }

    /// Works in the cluster, started for it if it does not run; one that was started is
    /// ended again unless it is to be kept.
    fn during(&self, keep: bool, work: impl FnOnce(&Self) -> Result<()>) -> Result<()> {
        let was_up = self.is_up();
        self.up()?;
        let result = work(self);
        if keep || was_up {
            crate::run::say("the cluster goes on; `cargo xtask cluster down` ends it");
            return result;
        }
        result.and(self.down())
    }

    /// Imports image archives (OCI layout in a tar).
    pub(crate) fn load(&self, archives: &[PathBuf]) -> Result<()> {
        if !self.is_up() {
            bail!("no cluster runs in {}; `cargo xtask cluster up` starts one", self.state.display());
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
