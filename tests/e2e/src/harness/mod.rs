//! Test harness: runs all programs on one machine without a cluster.
//!
//! Each model server runs in the cgroup of a fake pod. The agent, one picker for each pool, and the gateway are separate
//! processes that read manifests from a folder.

mod agent_metrics;
mod engine_metrics;
mod envoy;
mod gpus;
mod http;
mod identity;
mod limits;
mod manifests;
mod network;
mod pickers;
mod pods;
mod process;

use std::{
    fs,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    process::Command,
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};

pub use agent_metrics::Counts;
use anyhow::{Context as _, Result, bail};
pub use engine_metrics::prefix_cache_tokens;
pub use envoy::{ENVOY_PODS, envoy_config, envoy_picker};
pub use gpus::GpuFault;
pub use http::{get, get_json, get_with};
pub use limits::Limited;
pub use manifests::{gateway_manifest, policy_manifest};
pub use network::Network;
pub use pods::{Engine, SimOptions};
pub use process::{Process, program};

use crate::pod::{BpfMount, MemoryLimit, PodCgroup, cgroup2_mount};

/// First model of the guide.
pub const QWEN: &str = "Qwen/Qwen3-0.6B";
/// Second model of the guide.
pub const TINYLLAMA: &str = "TinyLlama/TinyLlama-1.1B-Chat-v1.0";

/// Name of the node.
pub const NODE: &str = "forebay-node-0";
/// Namespace of pools and pods.
pub const NAMESPACE: &str = "llm-d";
const POD_PORT: u16 = 8000;
const AGENT_PORT: u16 = 9550;

/// What to start.
#[derive(Clone, Debug)]
pub struct HarnessOptions {
    pub engine: Engine,
    /// Pools, one for each model.
    pub pools: Vec<PoolOptions>,
    /// Picker processes of each pool.
    pub picker_replicas: usize,
    /// The pickers serve all pools, as those of the chart with `sharedPicker.enabled`.
    pub shared_picker: bool,
    /// Configuration of the pickers (an `EndpointPickerConfig`). `None`: the default.
    pub picker_config: Option<String>,
    /// Interval of the agent's scrapes. `None`: the default.
    pub scrape_interval: Option<Duration>,
    /// `FailOpen` or `FailClose`.
    pub failure_mode: &'static str,
    /// Use kernel measurement, if this machine supports it.
    pub kernel: bool,
    /// Give every pod a simulated GPU.
    pub gpus: bool,
    /// Use mutual TLS between agent, pickers and gateway.
    pub mutual_tls: bool,
    /// Run agent, pickers and gateway with the memory limits of the charts. All pickers share one.
    pub memory_limits: bool,
    /// Folder of the programs. `None`: folder of the running program.
    pub programs: Option<PathBuf>,
    /// Maximum time until all programs are ready.
    pub start_timeout: Duration,
}

/// A pool and its pods.
#[derive(Clone, Debug)]
pub struct PoolOptions {
    /// Name of the pool and prefix of its objects (a DNS label).
    pub name: &'static str,
    pub model: &'static str,
    pub pods: u32,
}

impl Default for HarnessOptions {
    /// The two models of the guide on three simulators.
    fn default() -> Self {
        Self {
            engine: Engine::Sim(SimOptions::default()),
            pools: vec![
                PoolOptions { name: "vllm-qwen3-06b", model: QWEN, pods: 2 },
                PoolOptions { name: "vllm-tinyllama-11b", model: TINYLLAMA, pods: 1 },
            ],
            picker_replicas: 1,
            shared_picker: false,
            picker_config: None,
            scrape_interval: None,
            failure_mode: "FailOpen",
            kernel: true,
            gpus: false,
            mutual_tls: false,
            memory_limits: false,
            programs: None,
            start_timeout: Duration::from_secs(20),
        }
    }
}

/// Folder of the certificates.
const TLS: &str = "tls";

/// The running programs. Drop stops all processes and removes cgroups, mounts and files.
#[derive(Debug)]
pub struct Harness {
    // Dropped in this order: sources of traffic first.
    pub gateway: Process,
    pub epps: Vec<Epp>,
    pub agent: Process,
    pub pods: Vec<Pod>,
    _bpffs: Option<BpfMount>,
    limits: limits::Limits,
    pub network: Network,
    /// Features that are not available on this machine, with the reason.
    pub unavailable: Vec<String>,
    folder: tempfile::TempDir,
    programs: PathBuf,
    options: HarnessOptions,
    cgroup_root: Option<PathBuf>,
    pin_root: PathBuf,
}

/// A fake pod with a model server.
#[derive(Debug)]
pub struct Pod {
    pub name: String,
    pub model: &'static str,
    pub address: SocketAddr,
    /// Address of the exact counters; only for simulators.
    pub truth: Option<SocketAddr>,
    pub process: Process,
    _cgroup: Option<PodCgroup>,
}

/// A running picker.
#[derive(Debug)]
pub struct Epp {
    /// `None`: all pools.
    pub pool: Option<&'static str>,
    pub ip: IpAddr,
    pub process: Process,
}

impl Harness {
    /// Starts all programs and waits until they are ready.
    pub fn start(options: HarnessOptions) -> Result<Self> {
        let deadline = Instant::now() + options.start_timeout;
        let programs = match &options.programs {
            Some(folder) => folder.clone(),
            None => process::own_folder()?,
        };
        let folder = tempfile::Builder::new()
            .prefix("forebay-")
            .tempdir()
            .context("cannot create a temporary folder")?;
        fs::create_dir(folder.path().join("resources"))?;
        fs::create_dir(folder.path().join("logs"))?;
        let network = Network::claim();
        let mut unavailable = Vec::new();
        let cgroup_root = options.kernel.then(cgroup_root).and_then(|root| match root {
            Ok(root) => Some(root),
            Err(error) => {
                unavailable.push(format!("no cgroups for the pods ({error:#})"));
                None
            }
        });
        let (bpffs, pin_root) = mount_bpffs(folder.path(), cgroup_root.is_some(), &mut unavailable);

        let limits = if options.memory_limits { limits::create()? } else { limits::Limits::default() };
        let starter = Starter {
            options: &options,
            programs: &programs,
            folder: folder.path(),
            network,
            cgroup_root: cgroup_root.as_deref(),
            pin_root: &pin_root,
            limits: &limits,
        };
        let pods = starter.start_pods(&mut unavailable)?;
        if options.gpus {
            gpus::write(folder.path(), &pods, None)?;
        }
        if options.mutual_tls {
            identity::write(&folder.path().join(TLS))?;
        }
        manifests::write(&folder.path().join("resources"), &options, network, &pods)?;
        let agent = starter.start_agent()?;
        let epps = starter.start_epps()?;
        let gateway = starter.start_gateway()?;
        let mut harness = Self {
            gateway,
            epps,
            agent,
            pods,
            _bpffs: bpffs,
            limits,
            network,
            unavailable,
            programs,
            cgroup_root,
            pin_root,
            options,
            folder,
        };
        harness.wait_until_ready(deadline)?;
        if let Some(reason) = harness.kernel_off()? {
            harness.unavailable.push(format!("kernel measurement is off: {reason}"));
        }
        Ok(harness)
    }

    pub fn resources(&self) -> PathBuf {
        self.folder.path().join("resources")
    }

    /// Folder of the pinned BPF maps.
    pub fn pins(&self) -> &Path {
        &self.pin_root
    }

    /// Makes the GPU of a pod report a fault.
    pub fn break_gpu(&self, pod: usize, fault: GpuFault) -> Result<()> {
        gpus::write(self.folder.path(), &self.pods, Some((pod, fault)))
    }

    /// Sets the speed of a simulated engine in percent. 0: it hangs, while its server responds.
    pub fn set_speed(&self, pod: usize, percent: u32) -> Result<()> {
        let file = pods::speed_file(&self.folder.path().join("logs"), &self.pods[pod].name);
        let fresh = file.with_extension("fresh");
        fs::write(&fresh, percent.to_string())?;
        Ok(fs::rename(fresh, file)?)
    }

    /// Path of a program.
    pub fn program(&self, name: &str) -> PathBuf {
        self.programs.join(name)
    }

    /// TLS flags with which `forebay` can connect to the agent.
    pub fn reader_flags(&self) -> Vec<String> {
        if !self.options.mutual_tls {
            return Vec::new();
        }
        identity::flags(&self.folder.path().join(TLS), "forebay-gateway", "tls-", "ca")
    }

    /// Announces a pod of a pool that the test serves itself. Returns the address to listen on.
    pub fn announce_pod(&self, pool: &str, host: u8) -> Result<SocketAddr> {
        let ip = self.network.ip(host);
        let name = format!("{pool}-{host}");
        let manifest = manifests::pod_manifest(NAMESPACE, &name, ip, &format!("app: {pool}"));
        let fresh = self.folder.path().join(&name);
        fs::write(&fresh, manifest)?;
        fs::rename(fresh, self.resources().join(format!("{name}.yaml")))?;
        Ok(SocketAddr::new(ip, POD_PORT))
    }

    /// Why kernel measurement is off; `None` if it is on.
    fn kernel_off(&self) -> Result<Option<String>> {
        let nodes = Command::new(self.program("forebay"))
            .args(["nodes", "-o", "json", "--agents", &self.network.agent().to_string()])
            .args(self.reader_flags())
            .output()
            .context("cannot run `forebay nodes`")?;
        let nodes: serde_json::Value =
            serde_json::from_slice(&nodes.stdout).context("invalid output of `forebay nodes -o json`")?;
        Ok(nodes["items"][0]["kernelOff"].as_str().map(str::to_owned))
    }

    /// Starts a new agent after the old one was stopped.
    pub fn restart_agent(&mut self) -> Result<()> {
        let starter = Starter {
            options: &self.options,
            programs: &self.programs,
            folder: self.folder.path(),
            network: self.network,
            cgroup_root: self.cgroup_root.as_deref(),
            pin_root: &self.pin_root,
            limits: &self.limits,
        };
        self.agent = starter.start_agent()?;
        let agent = self.network.agent_http();
        await_ready(&mut self.agent, agent, "/readyz", Instant::now() + self.options.start_timeout)
    }

    fn wait_until_ready(&mut self, deadline: Instant) -> Result<()> {
        for pod in &mut self.pods {
            await_ready(&mut pod.process, pod.address, "/health", deadline)?;
        }
        await_ready(&mut self.agent, self.network.agent_http(), "/readyz", deadline)?;
        for epp in &mut self.epps {
            await_ready(&mut epp.process, SocketAddr::new(epp.ip, 9090), "/readyz", deadline)?;
        }
        await_ready(&mut self.gateway, self.network.gateway_admin(), "/readyz", deadline)
    }
}

/// Waits for a 200 response. Fails immediately when the process ends.
fn await_ready(process: &mut Process, address: SocketAddr, path: &str, deadline: Instant) -> Result<()> {
    loop {
        if matches!(get(address, path), Ok((200, _))) {
            return Ok(());
        }
        if let Some(status) = process.ended()? {
            bail!("{} ended with {status} during startup:\n{}", process.name, process.log_tail());
        }
        if Instant::now() > deadline {
            bail!("{} is not ready ({address}{path}):\n{}", process.name, process.log_tail());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Creates a cgroup for the pods of this harness.
fn cgroup_root() -> Result<PathBuf> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let name = format!("forebay-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
    let root = cgroup2_mount()?.join(name);
    fs::create_dir(&root).with_context(|| format!("cannot create {}", root.display()))?;
    Ok(root)
}

fn mount_bpffs(folder: &Path, wanted: bool, unavailable: &mut Vec<String>) -> (Option<BpfMount>, PathBuf) {
    let path = folder.join("bpf");
    let mount = if wanted {
        fs::create_dir(&path).and_then(|()| BpfMount::new(&path)).map_err(|error| error.to_string())
    } else {
        return (None, path);
    };
    match mount {
        Ok(mount) => {
            let pins = mount.path().join("forebay");
            (Some(mount), pins)
        }
        Err(error) => {
            unavailable.push(format!("no bpffs ({error}): BPF maps are not pinned"));
            (None, path)
        }
    }
}

/// Parameters for starting the processes.
struct Starter<'a> {
    options: &'a HarnessOptions,
    programs: &'a Path,
    folder: &'a Path,
    network: Network,
    cgroup_root: Option<&'a Path>,
    pin_root: &'a Path,
    limits: &'a limits::Limits,
}

impl Starter<'_> {
    fn start_pods(&self, unavailable: &mut Vec<String>) -> Result<Vec<Pod>> {
        let mut pods = Vec::new();
        for pool in &self.options.pools {
            for ordinal in 0..pool.pods {
                let ip = self.network.pod(pods.len());
                let name = format!("{}-{ordinal}", pool.name);
                let cgroup = match self.cgroup_root {
                    Some(root) => match PodCgroup::new(root, &manifests::uid(&name)) {
                        Ok(cgroup) => Some(cgroup),
                        Err(error) => {
                            unavailable.push(format!("no cgroup for {name} ({error})"));
                            None
                        }
                    },
                    None => None,
                };
                let procs = cgroup.as_ref().map(PodCgroup::procs);
                let (process, truth) = pods::start(
                    &self.options.engine,
                    self.programs,
                    &name,
                    pool.model,
                    SocketAddr::new(ip, POD_PORT),
                    &self.folder.join("logs"),
                    procs.as_deref(),
                )?;
                let address = SocketAddr::new(ip, POD_PORT);
                pods.push(Pod { name, model: pool.model, address, truth, process, _cgroup: cgroup });
            }
        }
        Ok(pods)
    }

    fn start_agent(&self) -> Result<Process> {
        let mut environment = Vec::new();
        let mut args = vec![
            "--node-name".into(),
            NODE.into(),
            "--grpc-listen".into(),
            self.network.agent().to_string(),
            "--http-listen".into(),
            self.network.agent_http().to_string(),
            "--bpffs".into(),
            self.pin_root.display().to_string(),
        ];
        match self.cgroup_root {
            Some(root) => args.extend(["--cgroup-root".into(), root.display().to_string()]),
            // Without cgroups the agent cannot attach and reports the reason.
            None if !self.options.kernel => args.extend(["--kernel".into(), "off".into()]),
            None => {}
        }
        if let Some(interval) = self.options.scrape_interval {
            args.extend(["--scrape-interval-ms".into(), interval.as_millis().to_string()]);
        }
        if self.options.gpus {
            let library = self.programs.join("libnvidia_ml.so");
            args.extend(["--nvml-library".into(), library.display().to_string(), "--dcgm-metrics".into()]);
            environment.push(("FOREBAY_NVML_SCENARIO", gpus::scenario(self.folder).display().to_string()));
        }
        args.extend(self.tls("forebay-agent", "tls-", "client-ca"));
        self.start("forebay-agent", "forebay-agent", args, &environment)
    }

    fn start_gateway(&self) -> Result<Process> {
        let mut args = vec![
            "--bind-address".into(),
            self.network.gateway().ip().to_string(),
            "--admin-listen".into(),
            self.network.gateway_admin().to_string(),
        ];
        args.extend(self.tls("forebay-gateway", "epp-tls-", "ca"));
        args.extend(self.tls("forebay-gateway", "agent-tls-", "ca"));
        self.start("forebay-gateway", "forebay-gateway", args, &[])
    }

    fn tls(&self, program: &str, prefix: &str, authority: &str) -> Vec<String> {
        if !self.options.mutual_tls {
            return Vec::new();
        }
        identity::flags(&self.folder.join(TLS), program, prefix, authority)
    }

    fn start(
        &self,
        program: &str,
        name: &str,
        mut args: Vec<String>,
        environment: &[(&str, String)],
    ) -> Result<Process> {
        args.extend(["--resources".into(), self.folder.join("resources").display().to_string()]);
        Process::start(
            name,
            &self.programs.join(program),
            &args,
            environment,
            &self.folder.join("logs"),
            self.limits.get(program).map(MemoryLimit::procs).as_deref(),
        )
    }
}

impl Drop for Harness {
    fn drop(&mut self) {
        self.gateway.stop();
        for epp in &mut self.epps {
            epp.process.stop();
        }
        self.agent.stop();
        for pod in &mut self.pods {
            pod.process.stop();
        }
        self.pods.clear();
        if let Some(root) = &self.cgroup_root {
            let _ = fs::remove_dir(root);
        }
    }
}
