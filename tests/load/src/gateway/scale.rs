//! Many API keys and many quotas, read from a folder of manifests.

use std::{
    fmt::Write as _,
    fs,
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use forebay_bench::{
    report::{Section, median, mib, say},
    usage::Tree,
};
use forebay_e2e::harness::{Process, gateway_manifest, get, get_with, program};
use sha2::{Digest as _, Sha256};

use crate::{manifests::PLAIN_PORT, proxies::free_port};

const SYSTEM: &str = "forebay-system";
const GATEWAY: &str = "{group: gateway.networking.k8s.io, kind: Gateway, name: inference-gateway}";
const KEYS: usize = 100_000;
/// A Secret has at most 1 MiB.
const KEYS_PER_SECRET: usize = 5_000;
const QUOTAS: usize = 10_000;
const QUOTAS_PER_FILE: usize = 100;
/// The quota that changes, and the group of its key.
const CHANGED: usize = QUOTAS / 2;
const TIMEOUT: Duration = Duration::from_secs(60);

/// A gateway with the manifests of a folder.
struct Running {
    process: Process,
    address: SocketAddr,
    /// From the start of the process until it serves.
    started_after: Duration,
}

impl Running {
    fn start(name: &str, folder: &Path) -> Result<Self> {
        let (port, admin) = (free_port()?, free_port()?);
        let listen = |port: u16| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let args = [
            "--resources".to_owned(),
            folder.display().to_string(),
            "--bind-address".to_owned(),
            Ipv4Addr::LOCALHOST.to_string(),
            "--admin-listen".to_owned(),
            listen(admin).to_string(),
            "--map-port".to_owned(),
            format!("{PLAIN_PORT}={port}"),
        ];
        let environment = [("RUST_LOG", "warn".to_owned())];
        let start = Instant::now();
        let process = Process::start(
            name,
            &program("forebay-gateway")?,
            &args,
            &environment,
            folder.parent().context("no parent")?,
            None,
        )?;
        until(|| Ok(get(listen(admin), "/readyz").is_ok_and(|(status, _)| status == 200)))?;
        Ok(Self { process, address: listen(port), started_after: start.elapsed() })
    }

    fn rss_bytes(&self) -> Result<u64> {
        Tree(self.process.pid()).rss_bytes()
    }
}

/// Measures both.
pub(crate) fn measure(runs: u32) -> Result<Section> {
    let mut section = Section::new(format!(
        "many objects, from a folder of manifests, medians of {runs} runs: the time contains reading the folder"
    ));
    let (mut load_s, mut bytes, mut change_s) = (Vec::new(), Vec::new(), Vec::new());
    for run in 1..=runs {
        say(&format!("scale: run {run} of {runs}"));
        let home = tempfile::tempdir()?;
        let (few, many) = (home.path().join("few"), home.path().join("many"));
        write_keys(&few, 1)?;
        write_keys(&many, KEYS)?;
        let (few, many) = (Running::start("few-keys", &few)?, Running::start("many-keys", &many)?);
        let (status, body) = get_with(many.address, "/v1/models", &bearer(KEYS - 1))?;
        ensure!(status != 401, "the last key is not accepted: {body}");
        load_s.push(many.started_after.as_secs_f64() - few.started_after.as_secs_f64());
        bytes.push(mib(many.rss_bytes()?) - mib(few.rss_bytes()?));
        drop((few, many));
        change_s.push(quota_change(home.path())?.as_secs_f64());
    }
    section.line(format!("{KEYS} API keys: {:.2} s to load, {:.1} MiB", median(load_s), median(bytes)));
    section.line(format!("{QUOTAS} quotas: a change of one is in force after {:.2} s", median(change_s)));
    Ok(section)
}

/// The time from the change of one quota until a request is told about it.
fn quota_change(home: &Path) -> Result<Duration> {
    let folder = home.join("quotas");
    write_keys(&folder, 1)?;
    for file in 0..QUOTAS / QUOTAS_PER_FILE {
        write_quotas(&folder, file, 100)?;
    }
    let running = Running::start("quotas", &folder)?;
    let limits = |amount: u32| -> Result<bool> {
        let (_, limits) = get_with(running.address, "/forebay/v1/limits", &bearer(0))?;
        Ok(limits.contains(&format!("\"amount\":{amount},")))
    };
    until(|| limits(100))?;
    let start = Instant::now();
    write_quotas(&folder, CHANGED / QUOTAS_PER_FILE, 200)?;
    until(|| limits(200))?;
    Ok(start.elapsed())
}

fn bearer(key: usize) -> String {
    format!("authorization: Bearer k-{key}\r\n")
}

/// The Gateway, a policy with keys, and so many keys. The key `k-0` is of the group of the quota that changes.
fn write_keys(folder: &Path, count: usize) -> Result<()> {
    fs::create_dir_all(folder)?;
    let policy = format!(
        "{}---
apiVersion: agentgateway.dev/v1alpha1
kind: AgentgatewayPolicy
metadata: {{name: door, namespace: {SYSTEM}}}
spec:
  targetRefs: [{GATEWAY}]
  traffic: {{apiKeyAuthentication: {{secretSelector: {{matchLabels: {{keys: bench}}}}}}}}
",
        gateway_manifest(SYSTEM)
    );
    fs::write(folder.join("gateway.yaml"), policy)?;
    for first in (0..count).step_by(KEYS_PER_SECRET) {
        let mut text = format!(
            "apiVersion: v1\nkind: Secret\nmetadata: {{name: keys-{first}, namespace: {SYSTEM}, labels: {{keys: bench}}}}\nstringData:\n"
        );
        for key in first..count.min(first + KEYS_PER_SECRET) {
            let hash = Sha256::digest(format!("k-{key}")).iter().fold(String::new(), |mut text, byte| {
                let _ = write!(text, "{byte:02x}");
                text
            });
            let group = if key == 0 { CHANGED } else { QUOTAS + key };
            writeln!(
                text,
                "  u{key}: '{{\"keyHash\": \"sha256:{hash}\", \"metadata\": {{\"group\": \"g{group}\", \"models\": [\"m\"]}}}}'"
            )?;
        }
        fs::write(folder.join(format!("keys-{first}.yaml")), text)?;
    }
    Ok(())
}

/// One file of quotas, each for a group of its own.
fn write_quotas(folder: &Path, file: usize, amount: u32) -> Result<()> {
    let quotas = (file * QUOTAS_PER_FILE..(file + 1) * QUOTAS_PER_FILE).map(|quota| {
        let amount = if quota == CHANGED { amount } else { 100 };
        format!(
            "---\napiVersion: forebay.dev/v1alpha1\nkind: Quota\nmetadata: {{name: q{quota}, namespace: {SYSTEM}}}\nspec:\n  \
             targetRefs: [{GATEWAY}]\n  callers: {{keySelector: {{matchLabels: {{group: g{quota}}}}}}}\n  \
             limits: [{{requests: {amount}, window: Day}}]\n"
        )
    });
    fs::write(folder.join(format!("quotas-{file}.yaml")), quotas.collect::<String>())?;
    Ok(())
}

fn until(mut is_so: impl FnMut() -> Result<bool>) -> Result<()> {
    let deadline = Instant::now() + TIMEOUT;
    while !is_so()? {
        if Instant::now() > deadline {
            bail!("nothing within {} s", TIMEOUT.as_secs());
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}
