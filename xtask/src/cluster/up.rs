//! Starts the cluster: each program after the programs that it needs.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};

use super::{
    BPFFS_MOUNTED, Cluster, NAMESPACES_BEFORE, OUTSIDE_BEFORE, binaries, bpffs, containers, down, files,
    identity,
    network::{self, NODE, SERVICES},
    outside::Outside,
};
use crate::{run, setup};

const START_TIMEOUT: Duration = Duration::from_secs(120);

impl Cluster {
    pub(crate) fn up(&self) -> Result<()> {
        if self.is_up() {
            run::say(&format!("a cluster is already running in {}", self.state.display()));
            return Ok(());
        }
        if !run::is_root() {
            bail!("the cluster requires root privileges for namespaces, cgroups and mounts");
        }
        setup::for_clusters()?;
        let binaries = binaries::build()?;
        let started = Instant::now();
        run::say("starting the cluster …");
        // Left by an interrupted start.
        if self.state.exists() {
            self.down()?;
        }
        if down::pods_run_here() {
            bail!(
                "another kubelet runs pods on this machine; two kubelets cannot share /sys/fs/cgroup/kubepods"
            );
        }
        for folder in ["pki", "logs", "pids", "cni", "images"] {
            fs::create_dir_all(self.path(folder))
                .with_context(|| format!("cannot make {}", self.state.display()))?;
        }
        Outside::now(Path::new("/"))?.save(&self.path(OUTSIDE_BEFORE))?;
        fs::write(self.path(NAMESPACES_BEFORE), network::namespaces().join("\n"))?;
        let result = self.start_all(&binaries);
        if result.is_err() {
            run::say("the cluster did not start; removing it and its logs");
            self.down()?;
        }
        result?;
        fs::rename(self.path("admin.conf.new"), self.admin())?;
        run::say(&format!(
            "cluster ready after {:.1} s; try `cargo xtask cluster exec kubectl get pods -A`",
            started.elapsed().as_secs_f64()
        ));
        Ok(())
    }

    fn start_all(&self, binaries: &binaries::Binaries) -> Result<()> {
        network::make()?;
        bpffs::mount(&self.path(BPFFS_MOUNTED))?;
        identity::make(&self.state)?;
        files::write(&self.state, &which("runc")?)?;
        let s = self.state.display();
        let words = |text: String| text.split_whitespace().map(String::from).collect::<Vec<_>>();
        self.start(binaries, "etcd", &words(format!("--data-dir {s}/etcd --unsafe-no-fsync")))?;
        self.start(binaries, "containerd", &words(format!("-c {s}/containerd.toml")))?;
        self.start_api_server(binaries)?;
        self.until("containers", START_TIMEOUT, "containerd", || {
            Ok({
                let mut ctr = containers::ctr(self)?;
                ctr.arg("version");
                ctr
            })
        })?;
        containers::import_pause_image(self, files::PAUSE_IMAGE, "pause")?;
        self.wait_for_api_server()?;
        self.start(
            binaries,
            "kube-controller-manager",
            &words(format!(
                "--kubeconfig={s}/controllers.conf --authentication-kubeconfig={s}/controllers.conf \
                 --authorization-kubeconfig={s}/controllers.conf --service-account-private-key-file={s}/pki/sa.key \
                 --root-ca-file={s}/pki/ca.crt --use-service-account-credentials --leader-elect=false"
            )),
        )?;
        self.start(
            binaries,
            "kube-scheduler",
            &words(format!(
                "--kubeconfig={s}/scheduler.conf --authentication-kubeconfig={s}/scheduler.conf \
                 --authorization-kubeconfig={s}/scheduler.conf --leader-elect=false"
            )),
        )?;
        self.start(
            binaries,
            "kubelet",
            &words(format!(
                "--config {s}/kubelet.yaml --kubeconfig {s}/kubelet.conf --hostname-override node-0 --node-ip {NODE} \
                 --root-dir {s}/kubelet --cert-dir {s}/kubelet-pki"
            )),
        )?;
        self.start(binaries, "kube-proxy", &words(format!("--config {s}/proxy.yaml")))?;
        let node = || self.kubectl_early(&["wait", "--for=condition=Ready", "node/node-0", "--timeout=5s"]);
        self.until("the node", START_TIMEOUT, "kubelet", || Ok(node()))?;
        // The API server rejects pods until their namespace has a default service account.
        let account = || self.kubectl_early(&["get", "serviceaccount", "default"]);
        self.until("the default service account", START_TIMEOUT, "kube-controller-manager", || Ok(account()))
    }

    /// Starts the API server, also after a test has stopped it.
    pub(crate) fn start_api_server(&self, binaries: &binaries::Binaries) -> Result<()> {
        let s = self.state.display();
        let args = format!(
            "--etcd-servers=http://127.0.0.1:2379 --service-cluster-ip-range={SERVICES} --advertise-address={NODE} \
             --tls-cert-file={s}/pki/server.crt --tls-private-key-file={s}/pki/server.key --client-ca-file={s}/pki/ca.crt \
             --service-account-key-file={s}/pki/sa.pub --service-account-signing-key-file={s}/pki/sa.key \
             --service-account-issuer=https://kubernetes.default.svc --authorization-mode=Node,RBAC \
             --enable-admission-plugins=NodeRestriction --allow-privileged=true \
             --kubelet-preferred-address-types=InternalIP --kubelet-client-certificate={s}/pki/apiserver-kubelet.crt \
             --kubelet-client-key={s}/pki/apiserver-kubelet.key --shutdown-delay-duration=0s"
        );
        self.start(binaries, "kube-apiserver", &args.split_whitespace().map(String::from).collect::<Vec<_>>())
    }

    pub(crate) fn wait_for_api_server(&self) -> Result<()> {
        self.until("the API", START_TIMEOUT, "kube-apiserver", || {
            Ok(self.kubectl_early(&["get", "--raw", "/readyz"]))
        })
    }

    fn kubectl_early(&self, args: &[&str]) -> Command {
        let mut kubectl = self.command("kubectl", args);
        let config = if self.is_up() { self.admin() } else { self.path("admin.conf.new") };
        kubectl.env("KUBECONFIG", config);
        kubectl
    }
}

fn which(program: &str) -> Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path)
        .chain([Path::new("/usr/sbin").to_owned()])
        .map(|folder| folder.join(program))
        .find(|it| it.is_file());
    found.with_context(|| format!("{program} is not on the PATH"))
}
