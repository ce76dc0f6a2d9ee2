//! The proxies to compare: processes in front of the same upstream.

use std::{
    fmt, fs,
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use forebay_e2e::harness::{ENVOY_PODS, NAMESPACE, Process, envoy_config, envoy_picker, program};

use crate::{
    client::{self, Target},
    manifests::{self, PLAIN_PORT, POOL, TLS_PORT},
    request::{Order, RawRequest},
    tls::Tls,
    upstream::{ResponseKind, Upstream},
};
use forebay_bench::usage::{Cpu, Tree};

const START_TIMEOUT: Duration = Duration::from_secs(20);
const PROFILE_FILE: &str = "LLVM_PROFILE_FILE";

/// A path from the client to the upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    /// No proxy: the limit of client and upstream.
    Direct,
    Nginx,
    Envoy,
    EnvoyWithPicker,
    /// The gateway picks in process.
    Forebay,
    /// The gateway picks in process the endpoint with the fewest requests, so it reads no prompts.
    ForebayLeastRequest,
    /// The gateway uses forebay-epp over ext_proc.
    ForebayWithPicker,
    /// The older build of `--baseline`, in-process pick.
    Baseline,
    /// The older build of `--baseline` with its own forebay-epp.
    BaselineWithPicker,
    /// The gateway with API keys, a rule and three quotas.
    Door,
    /// The same, with quotas in a store.
    DoorWithStore,
}

impl Kind {
    /// Whether it extracts `model` from the body.
    pub(crate) fn extracts(self) -> bool {
        !matches!(self, Self::Direct | Self::Nginx | Self::Envoy | Self::EnvoyWithPicker)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Direct => "direct",
            Self::Nginx => "nginx, plain",
            Self::Envoy => "Envoy, plain",
            Self::EnvoyWithPicker => "Envoy + forebay-epp",
            Self::Forebay => "forebay, pick in process",
            Self::ForebayLeastRequest => "the same, least requests",
            Self::ForebayWithPicker => "forebay + forebay-epp",
            Self::Baseline => "baseline, pick in process",
            Self::BaselineWithPicker => "baseline + its epp",
            Self::Door => "keys, rule, three quotas",
            Self::DoorWithStore => "the same, quota store",
        })
    }
}

/// A running proxy.
pub(crate) struct Proxy {
    pub(crate) kind: Kind,
    pub(crate) target: Target,
    processes: Vec<Process>,
}

impl Proxy {
    /// CPU time of all processes of the proxy.
    pub(crate) fn cpu(&self) -> Result<Cpu> {
        self.trees().map(Tree::cpu).sum()
    }

    pub(crate) fn rss_bytes(&self) -> Result<u64> {
        self.trees().map(Tree::rss_bytes).sum()
    }

    pub(crate) fn peak_bytes(&self) -> Result<u64> {
        self.trees().map(Tree::peak_bytes).sum()
    }

    pub(crate) fn reset_peak(&self) -> Result<()> {
        self.trees().try_for_each(Tree::reset_peak)
    }

    fn trees(&self) -> impl Iterator<Item = Tree> {
        self.processes.iter().map(|process| Tree(process.pid()))
    }

    /// Waits for the first successful response.
    fn ready(&mut self) -> Result<()> {
        let request = RawRequest::chat(1 << 10, Order::ModelFirst);
        let deadline = Instant::now() + START_TIMEOUT;
        loop {
            for process in &mut self.processes {
                if let Some(status) = process.ended()? {
                    bail!("{} ended with {status}:\n{}", process.name, process.log_tail());
                }
            }
            match client::closed_loop(&self.target, &request, 1, Duration::ZERO) {
                Ok(_) => return Ok(()),
                Err(error) if Instant::now() > deadline => {
                    let logs: Vec<String> = self.processes.iter().map(Process::log_tail).collect();
                    return Err(error.context(format!("{} is not ready:\n{}", self.kind, logs.join("\n"))));
                }
                Err(_) => std::thread::sleep(Duration::from_millis(20)),
            }
        }
    }
}

/// All running proxies, with their upstream and files.
pub(crate) struct Proxies {
    pub(crate) all: Vec<Proxy>,
    // Dropped in this order: proxies before the upstream.
    _store: Option<Process>,
    _upstream: Option<Upstream>,
    _folder: tempfile::TempDir,
}

impl Proxies {
    /// Starts every available kind in front of an upstream with a fixed response. With TLS there is no direct path,
    /// because the upstream speaks plain text.
    pub(crate) fn all(
        nginx: &Path,
        envoy: Option<&Path>,
        baseline: Option<&Path>,
        workers: u32,
        tls: Option<&Tls>,
    ) -> Result<Self> {
        if !nginx.is_file() {
            bail!(
                "{} not found; install nginx (`apt-get install nginx-light`) or set --nginx",
                nginx.display()
            );
        }
        let folder = tempfile::tempdir()?;
        let upstream = Upstream::start(ResponseKind::Fixed)?;
        let port = upstream.address.port();
        let mut start = Start { workers: Some(workers), tls, ..Start::new(folder.path(), port) };
        let mut all = vec![start.nginx(nginx)?];
        if tls.is_none() {
            let target = Target { address: loopback(port), tls: None };
            all.push(Proxy { kind: Kind::Direct, target, processes: Vec::new() });
        }
        if let Some(envoy) = envoy {
            all.push(start.envoy(envoy)?);
            all.push(start.envoy_with_picker(envoy)?);
        }
        all.push(start.forebay(&[])?);
        start.policy = Some("least-request");
        all.push(Proxy { kind: Kind::ForebayLeastRequest, ..start.forebay(&[])? });
        start.policy = None;
        all.push(start.forebay_with_picker()?);
        if baseline.is_some() {
            start.baseline = baseline;
            all.push(Proxy { kind: Kind::Baseline, ..start.forebay(&[])? });
            all.push(Proxy { kind: Kind::BaselineWithPicker, ..start.forebay_with_picker()? });
        }
        Self::ready(all, Some(upstream), folder)
    }

    /// Starts the gateway without and with a door, and with a door whose quotas are in the `store`.
    pub(crate) fn door(workers: u32, store: Option<&Path>) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let upstream = Upstream::start(ResponseKind::Fixed)?;
        let mut start = Start::new(folder.path(), upstream.address.port());
        start.workers = Some(workers);
        let mut all = vec![start.forebay(&[])?];
        start.door = Some(Door { store: None });
        all.push(Proxy { kind: Kind::Door, ..start.forebay(&[])? });
        let mut store_process = None;
        if let Some(program) = store {
            let port = free_port()?;
            let args = ["--bind", "127.0.0.1", "--save", "", "--port"].map(str::to_owned);
            let args: Vec<String> = args.into_iter().chain([port.to_string()]).collect();
            store_process = Some(Process::start("quota-store", program, &args, &[], folder.path(), None)?);
            start.door = Some(Door { store: Some(format!("redis://127.0.0.1:{port}")) });
            all.push(Proxy { kind: Kind::DoorWithStore, ..start.forebay(&[])? });
        }
        let proxies = Self::ready(all, Some(upstream), folder)?;
        Ok(Self { _store: store_process, ..proxies })
    }

    /// Starts only the gateway with in-process pick, in front of an existing upstream.
    pub(crate) fn forebay(upstream_port: u16) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let mut start = Start::new(folder.path(), upstream_port);
        let all = vec![start.forebay(&[])?];
        Self::ready(all, None, folder)
    }

    /// Starts the instrumented gateway twice: with in-process pick, and with forebay-epp.
    pub(crate) fn instrumented(
        upstream: Upstream,
        programs: &Instrumented,
        tls: Option<&Tls>,
    ) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let upstream_port = upstream.address.port();
        let mut start =
            Start { instrumented: Some(programs), tls, ..Start::new(folder.path(), upstream_port) };
        let all = vec![start.forebay(&[])?, start.forebay_with_picker()?];
        Self::ready(all, Some(upstream), folder)
    }

    /// Waits until all proxies are ready.
    fn ready(mut all: Vec<Proxy>, upstream: Option<Upstream>, folder: tempfile::TempDir) -> Result<Self> {
        all.iter_mut().try_for_each(Proxy::ready)?;
        Ok(Self { all, _store: None, _upstream: upstream, _folder: folder })
    }
}

/// Programs that write a profile at exit.
#[derive(Debug)]
pub(crate) struct Instrumented {
    pub(crate) programs: PathBuf,
    pub(crate) profiles: PathBuf,
}

struct Start<'a> {
    folder: &'a Path,
    upstream_port: u16,
    /// Worker threads; `None` for the default of each program.
    workers: Option<u32>,
    /// Instrumented programs; `None` for those next to this program.
    instrumented: Option<&'a Instrumented>,
    /// Folder with the programs of an older build.
    baseline: Option<&'a Path>,
    /// TLS between clients and proxies.
    tls: Option<&'a Tls>,
    door: Option<Door>,
    /// What decides the picks in process; `None` for the gateway's default.
    policy: Option<&'a str>,
}

/// API keys, a rule and quotas in front of the pool.
#[derive(Debug)]
struct Door {
    /// URL of the quota store.
    store: Option<String>,
}

impl<'a> Start<'a> {
    fn new(folder: &'a Path, upstream_port: u16) -> Self {
        Self {
            folder,
            upstream_port,
            workers: None,
            instrumented: None,
            baseline: None,
            tls: None,
            door: None,
            policy: None,
        }
    }
}

impl Start<'_> {
    fn proxy(&self, kind: Kind, port: u16, processes: Vec<Process>) -> Proxy {
        let tls = self.tls.map(|tls| tls.connector.clone());
        Proxy { kind, target: Target { address: loopback(port), tls }, processes }
    }

    fn nginx(&mut self, program: &Path) -> Result<Proxy> {
        let port = free_port()?;
        let upstream = self.upstream_port;
        let home = self.folder.join("nginx");
        fs::create_dir_all(&home)?;
        let workers = self.workers.map_or_else(|| "auto".to_owned(), |workers| workers.to_string());
        let user = if rustix::process::geteuid().is_root() { "user root;" } else { "" };
        let home = home.display();
        let (ssl, certificate) = match self.tls {
            None => ("", String::new()),
            Some(tls) => {
                let (certificate, key) = tls.write(self.folder)?;
                let (certificate, key) = (certificate.display(), key.display());
                ("ssl", format!("ssl_certificate {certificate}; ssl_certificate_key {key};"))
            }
        };
        let text = format!(
            "daemon off; {user} worker_processes {workers}; pid {home}/pid; error_log stderr error;
         events {{ worker_connections 16384; }}
         http {{ access_log off; keepalive_requests 1000000000; keepalive_timeout 3600;
           client_body_temp_path {home}/body; proxy_temp_path {home}/proxy; fastcgi_temp_path {home}/fastcgi;
           uwsgi_temp_path {home}/uwsgi; scgi_temp_path {home}/scgi;
           upstream pods {{ server 127.0.0.1:{upstream}; keepalive 256; }}
           server {{ listen 127.0.0.1:{port} {ssl} backlog=4096; {certificate} client_max_body_size 0; client_body_buffer_size 4m;
             location / {{ proxy_pass http://pods; proxy_http_version 1.1; proxy_set_header Connection \"\"; }} }} }}"
        );
        let file = self.folder.join("nginx.conf");
        fs::write(&file, text)?;
        let args = ["-c".to_owned(), file.display().to_string(), "-e".to_owned(), "stderr".to_owned()];
        let process = Process::start("nginx", program, &args, &[], self.folder, None)?;
        Ok(self.proxy(Kind::Nginx, port, vec![process]))
    }

    fn envoy(&mut self, program: &Path) -> Result<Proxy> {
        let port = free_port()?;
        let cluster = format!(
            r#"{{name: pods, type: STATIC, connect_timeout: 2s, load_assignment: {{cluster_name: pods, endpoints: [{{lb_endpoints: [{{endpoint: {{address: {{socket_address: {{address: 127.0.0.1, port_value: {}}}}}}}}}]}}]}}}}"#,
            self.upstream_port
        );
        let process = self.run_envoy(program, "envoy", port, "", &[cluster])?;
        Ok(self.proxy(Kind::Envoy, port, vec![process]))
    }

    /// Envoy as configured by inference gateways: full-duplex body streaming, destination from the response header of the
    /// picker.
    fn envoy_with_picker(&mut self, program: &Path) -> Result<Proxy> {
        let (picker, picker_port) = self.picker("epp-of-envoy")?;
        let port = free_port()?;
        let filter = r#"{name: envoy.filters.http.ext_proc, typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.ext_proc.v3.ExternalProcessor,
            grpc_service: {envoy_grpc: {cluster_name: picker}, timeout: 10s}, message_timeout: 10s, allow_mode_override: true,
            processing_mode: {request_header_mode: SEND, response_header_mode: SEND, request_body_mode: FULL_DUPLEX_STREAMED, response_body_mode: FULL_DUPLEX_STREAMED, request_trailer_mode: SEND, response_trailer_mode: SEND}}},"#;
        let clusters = [ENVOY_PODS.to_owned(), envoy_picker(loopback(picker_port))];
        let process = self.run_envoy(program, "envoy-with-epp", port, filter, &clusters)?;
        Ok(self.proxy(Kind::EnvoyWithPicker, port, vec![process, picker]))
    }

    fn forebay(&mut self, picker: &[u16]) -> Result<Proxy> {
        let name = match &self.door {
            None => "gateway",
            Some(Door { store: None }) => "door",
            Some(Door { store: Some(_) }) => "door-store",
        };
        let resources = self.resources(name, picker)?;
        let port = free_port()?;
        let mut args = vec![
            "--resources".to_owned(),
            resources.display().to_string(),
            "--bind-address".to_owned(),
            Ipv4Addr::LOCALHOST.to_string(),
            "--admin-listen".to_owned(),
            loopback(free_port()?).to_string(),
        ];
        let (used, other) = if self.tls.is_some() { (TLS_PORT, PLAIN_PORT) } else { (PLAIN_PORT, TLS_PORT) };
        for (listener, port) in [(used, port), (other, free_port()?)] {
            args.extend(["--map-port".to_owned(), format!("{listener}={port}")]);
        }
        if let Some(workers) = self.workers {
            args.extend(["--workers".to_owned(), workers.to_string()]);
        }
        if let Some(store) = self.door.as_ref().and_then(|door| door.store.as_ref()) {
            args.extend(["--quota-store".to_owned(), store.clone()]);
        }
        if let Some(policy) = self.policy {
            args.extend(["--in-process-policy".to_owned(), policy.to_owned()]);
        }
        let process = self.run_forebay("forebay-gateway", "forebay-gateway", &args)?;
        Ok(self.proxy(Kind::Forebay, port, vec![process]))
    }

    fn forebay_with_picker(&mut self) -> Result<Proxy> {
        let (picker, port) = self.picker("epp-of-forebay")?;
        let mut proxy = self.forebay(&[port])?;
        proxy.kind = Kind::ForebayWithPicker;
        proxy.processes.push(picker);
        Ok(proxy)
    }

    fn picker(&mut self, name: &str) -> Result<(Process, u16)> {
        let resources = self.resources(name, &[])?;
        let port = free_port()?;
        let mut args = vec![
            "--resources".to_owned(),
            resources.display().to_string(),
            "--pool-namespace".to_owned(),
            NAMESPACE.to_owned(),
            "--pool-name".to_owned(),
            POOL.to_owned(),
        ];
        for (flag, port) in
            [("--grpc-listen", port), ("--health-listen", free_port()?), ("--http-listen", free_port()?)]
        {
            args.extend([flag.to_owned(), loopback(port).to_string()]);
        }
        Ok((self.run_forebay(name, "forebay-epp", &args)?, port))
    }

    /// `picker`: port of the pool's picker, if any.
    fn resources(&self, name: &str, picker: &[u16]) -> Result<PathBuf> {
        let folder = self.folder.join(format!("{name}-resources-{}", picker.len()));
        fs::create_dir_all(&folder)?;
        let mut text = manifests::pool(self.upstream_port, self.tls, picker)?;
        if self.door.is_some() {
            text.push_str(&manifests::door());
        }
        fs::write(folder.join("all.yaml"), text)?;
        Ok(folder)
    }

    fn run_forebay(&self, name: &str, file: &str, args: &[String]) -> Result<Process> {
        let mut environment = vec![("RUST_LOG", "warn".to_owned())];
        let program = match self.instrumented {
            None => match self.baseline {
                Some(folder) => folder.join(file),
                None => program(file)?,
            },
            Some(Instrumented { programs, profiles }) => {
                // Read by the LLVM profiling runtime; %p is the pid.
                environment.push((PROFILE_FILE, profiles.join("%p.profraw").display().to_string()));
                programs.join(file)
            }
        };
        Process::start(name, &program, args, &environment, self.folder, None)
    }

    fn run_envoy(
        &self,
        program: &Path,
        name: &str,
        port: u16,
        filters: &str,
        clusters: &[String],
    ) -> Result<Process> {
        let socket = match self.tls {
            None => String::new(),
            Some(tls) => {
                let (certificate, key) = tls.write(self.folder)?;
                let (certificate, key) = (certificate.display(), key.display());
                format!(
                    r#"transport_socket: {{name: envoy.transport_sockets.tls, typed_config: {{"@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext, common_tls_context: {{tls_certificates: [{{certificate_chain: {{filename: {certificate}}}, private_key: {{filename: {key}}}}}]}}}}}}"#
                )
            }
        };
        let text = envoy_config(loopback(port), filters, clusters, &socket);
        let file = self.folder.join(format!("{name}.yaml"));
        fs::write(&file, text)?;
        let mut args = vec!["-c".to_owned(), file.display().to_string()];
        args.extend(["--log-level", "error"].map(str::to_owned));
        // Each instance needs its own shared memory.
        args.extend(["--base-id".to_owned(), port.to_string()]);
        if let Some(workers) = self.workers {
            args.extend(["--concurrency".to_owned(), workers.to_string()]);
        }
        Process::start(name, program, &args, &[], self.folder, None)
    }
}

pub(crate) fn free_port() -> Result<u16> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("no free port")?;
    Ok(listener.local_addr()?.port())
}

fn loopback(port: u16) -> SocketAddr {
    SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port)
}
