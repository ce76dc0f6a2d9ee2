//! A real Prometheus scrapes the running programs: every query of the dashboards and alerts.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test prints what it skips and fails by panicking"
)]

use std::{
    env,
    fmt::Write as _,
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use forebay_e2e::{
    eventually,
    harness::{self, Harness, HarnessOptions, Process, QWEN, TINYLLAMA},
    load::{self, Mix},
};
use forebay_monitoring::{alerts, dashboards, with_values};
use serde_json::Value;

/// Maximum time until every panel has data.
const DEADLINE: Duration = Duration::from_secs(90);
/// Long enough for several scrapes.
const RATE_INTERVAL: &str = "30s";

/// A running Prometheus. Dropped with its data.
struct Prometheus {
    address: SocketAddr,
    process: Process,
    _folder: tempfile::TempDir,
}

impl Prometheus {
    /// Scrapes all programs of the harness.
    fn start(program: &Path, harness: &Harness) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let network = harness.network;
        let mut targets = vec![("agent", network.agent_http()), ("gateway", network.gateway_admin())];
        targets.extend(harness.epps.iter().map(|epp| ("picker", SocketAddr::new(epp.ip, 9090))));
        let mut config = format!(
            "global: {{scrape_interval: 500ms, scrape_timeout: 500ms, evaluation_interval: 1s}}\n\
             rule_files: [{:?}]\nscrape_configs:\n",
            chart().join("alerts.yaml").display().to_string()
        );
        for (index, (job, target)) in targets.iter().enumerate() {
            let _ = writeln!(
                config,
                "- {{job_name: {job}-{index}, honor_labels: true, static_configs: [{{targets: [\"{target}\"]}}]}}"
            );
        }
        let file = folder.path().join("prometheus.yaml");
        fs::write(&file, config).unwrap();
        let address = network.prometheus();
        let args = [
            format!("--config.file={}", file.display()),
            format!("--storage.tsdb.path={}", folder.path().join("data").display()),
            format!("--web.listen-address={address}"),
        ];
        let process = Process::start("prometheus", program, &args, &[], folder.path(), None).unwrap();
        let prometheus = Self { address, process, _folder: folder };
        let scraped = format!("count(up == 1) == {}", targets.len());
        eventually("Prometheus reads the metrics of all programs", || {
            prometheus.query(&scraped).is_ok_and(|values| !values.is_empty())
        });
        prometheus
    }

    /// The values of the series of an expression, or the error of Prometheus.
    fn query(&self, expression: &str) -> Result<Vec<f64>, String> {
        let path = format!("/api/v1/query?query={}", percent_encoded(expression));
        let (status, body) = harness::get(self.address, &path).map_err(|error| error.to_string())?;
        if status != 200 {
            return Err(format!("status {status}: {body}\n{}", self.process.log_tail()));
        }
        let body: Value = serde_json::from_str(&body).map_err(|error| format!("{error}: {body}"))?;
        let result = body["data"]["result"].as_array().cloned().unwrap_or_default();
        Ok(result.iter().filter_map(|series| series["value"][1].as_str()?.parse().ok()).collect())
    }

    /// Whether an expression has a series with a number. Counted by Prometheus: the response stays short.
    fn has_data(&self, expression: &str) -> Result<bool, String> {
        let numbers = format!("count(({expression}) == ({expression}))");
        Ok(!self.query(&numbers)?.is_empty())
    }
}

fn percent_encoded(text: &str) -> String {
    text.bytes().fold(String::new(), |mut encoded, byte| {
        if byte.is_ascii_alphanumeric() {
            encoded.push(char::from(byte));
        } else {
            let _ = write!(encoded, "%{byte:02X}");
        }
        encoded
    })
}

fn chart() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).unwrap().join("charts/forebay")
}

fn prometheus_program() -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    env::split_paths(&path).map(|folder| folder.join("prometheus")).find(|program| program.exists())
}

/// Expressions with the names of their panels or alerts.
type NamedQueries = Vec<(String, String)>;

/// Queries that must have data, and those that must only be valid.
fn queries() -> (NamedQueries, NamedQueries) {
    let (mut with_data, mut valid) = (Vec::new(), Vec::new());
    for dashboard in dashboards() {
        let variables = dashboard.variable_names();
        for panel in &dashboard.panels {
            let list = if panel.may_be_empty { &mut valid } else { &mut with_data };
            list.extend(panel.queries.iter().map(|query| {
                let name = format!("{} / {}", dashboard.title, panel.title);
                (name, with_values(&query.expression, &variables, RATE_INTERVAL))
            }));
        }
        with_data.extend(dashboard.variables.iter().map(|variable| {
            let name = format!("{} / variable {}", dashboard.title, variable.label);
            (name, format!("{}{{{}!=\"\"}}", variable.metric, variable.label))
        }));
    }
    // Dashboards of others: the GPUs, attributed to pods.
    for name in ["GPU_UTIL", "FB_USED", "POWER_USAGE", "SM_CLOCK", "GPU_TEMP", "XID_ERRORS"] {
        with_data.push(("dcgm-exporter".into(), format!("DCGM_FI_DEV_{name}{{pod!=\"\",Hostname!=\"\"}}")));
    }
    valid.extend(alerts().into_iter().map(|alert| (alert.name.to_owned(), alert.expression.to_owned())));
    (with_data, valid)
}

#[tokio::test(flavor = "multi_thread")]
async fn every_panel_has_data_of_the_running_programs() {
    let Some(program) = prometheus_program() else {
        return println!("skipped: prometheus not found (Debian package prometheus)");
    };
    let harness = Harness::start(HarnessOptions { gpus: true, ..HarnessOptions::default() }).unwrap();
    if !harness.unavailable.is_empty() {
        return println!("skipped: {}", harness.unavailable.join("; "));
    }
    let prometheus = Prometheus::start(&program, &harness);
    let mix = Mix {
        requests: 60,
        aborts: 4,
        whole: 12,
        refused: 4,
        long_prompts: 2,
        long_prompt_bytes: 64 << 10,
        tokens: 8,
        users: 8,
        models: vec![QWEN.into(), TINYLLAMA.into()],
        time_limit: Duration::from_secs(30),
    };
    let (mut empty, valid) = queries();
    for (name, expression) in &valid {
        prometheus.has_data(expression).unwrap_or_else(|error| panic!("{name}: {expression}: {error}"));
    }
    let all = empty.len();
    let deadline = Instant::now() + DEADLINE;
    while !empty.is_empty() {
        assert!(Instant::now() < deadline, "{} of {all} queries have no data: {empty:#?}", empty.len());
        assert_eq!(load::run(harness.network.gateway(), &mix).await.failed, Vec::<String>::new());
        empty.retain(|(name, expression)| {
            let has_data = prometheus.has_data(expression);
            !has_data.unwrap_or_else(|error| panic!("{name}: {expression}: {error}"))
        });
    }
    println!("{all} queries have data, {} more are valid", valid.len());
}
