//! The page of `forebay dashboard` in front of running programs. `cargo xtask picture` keeps what it looks like for the
//! README.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test prints what it skips and measures, and fails by panicking"
)]

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use forebay_e2e::{
    harness::{Engine, GpuFault, Harness, HarnessOptions, PoolOptions, QWEN, SimOptions, TINYLLAMA},
    load::{Client, Shape},
};
use forebay_test_browser::{Browser, is_installed};
use serde_json::json;
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::{Child, Command},
    task::{JoinSet, block_in_place},
};

/// Pixels of the page.
const SIZE: (u32, u32) = (1250, 1345);
/// Of these pixels in the file: the README shows it smaller than the page.
const SCALE: f64 = 0.7;
/// Largest file for the README.
const MAX_BYTES: usize = 160_000;
const TIMEOUT: Duration = Duration::from_secs(60);

/// Pods of two models with GPUs, behind a gateway that explains its decisions. `None`: the reason is printed.
fn start() -> Option<Harness> {
    let pools = vec![
        PoolOptions { name: "vllm-qwen3-06b", model: QWEN, pods: 3 },
        PoolOptions { name: "vllm-tinyllama-11b", model: TINYLLAMA, pods: 1 },
    ];
    let engine = Engine::Sim(SimOptions {
        token_interval_us: 25_000,
        prefill_tokens_per_second: 20_000,
        ..SimOptions::default()
    });
    let options = HarnessOptions { engine, pools, gpus: true, ..HarnessOptions::default() };
    let harness = Harness::start(options).unwrap();
    harness.unavailable.iter().for_each(|reason| println!("skipped: {reason}"));
    if !harness.unavailable.is_empty() {
        return None;
    }
    let file = harness.resources().join("gateway.yaml");
    let gateway = fs::read_to_string(&file).unwrap();
    let trusted = "  annotations: {forebay.dev/trusted-listeners: http}\nspec:\n  gatewayClassName";
    let fresh = file.with_extension("fresh");
    fs::write(&fresh, gateway.replacen("spec:\n  gatewayClassName", trusted, 1)).unwrap();
    fs::rename(fresh, file).unwrap();
    Some(harness)
}

/// Clients that send one request after the other through the gateway, until dropped.
fn clients(harness: &Harness) -> JoinSet<()> {
    let mut clients = JoinSet::new();
    let models = [QWEN, QWEN, QWEN, QWEN, QWEN, QWEN, QWEN, TINYLLAMA, TINYLLAMA];
    for (number, model) in (0_u32..).zip(models) {
        let address = harness.network.gateway();
        clients.spawn(async move {
            let mut client = Client::new(address);
            for round in 0.. {
                let tokens = 20 + (number * 7 + round * 13) % 60;
                let shape = match (number + round) % 4 {
                    0 => Shape::LongPrompt { bytes: 3_000 * (1 + (number + round) as usize % 7), tokens },
                    // Its first byte comes after all tokens.
                    3 => Shape::Whole { tokens: tokens / 4 },
                    _ => Shape::Stream { tokens },
                };
                // A client without a response tries again.
                let _ = client.chat(model, &shape).await;
            }
        });
    }
    clients
}

/// `forebay dashboard`, and the address that it has printed.
async fn dashboard(harness: &Harness) -> (Child, String) {
    let mut command = Command::new(harness.program("forebay"));
    command.arg("dashboard").arg("--resources").arg(harness.resources());
    command.args(["--gateway", &harness.network.gateway().to_string()]);
    let mut child = command.stdout(Stdio::piped()).stdin(Stdio::null()).kill_on_drop(true).spawn().unwrap();
    let mut url = String::new();
    let mut out = BufReader::new(child.stdout.take().unwrap());
    tokio::time::timeout(TIMEOUT, out.read_line(&mut url)).await.unwrap().unwrap();
    child.stdout = Some(out.into_inner());
    (child, url.trim_end().to_owned())
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).unwrap()
}

/// In the repository only if it is asked for: each run looks different.
fn file() -> PathBuf {
    if env::var_os("UPDATE_REFERENCE").is_some() {
        return root().join(".github/dashboard.png");
    }
    env::current_exe().unwrap().ancestors().nth(3).unwrap().join("dashboard/picture.png")
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_shows_pods_a_verdict_latencies_and_a_decision() {
    if !is_installed() {
        return;
    }
    let Some(harness) = block_in_place(start) else { return };
    let _clients = clients(&harness);
    harness.break_gpu(1, GpuFault::Hot).unwrap();
    let (_dashboard, url) = dashboard(&harness).await;
    let mut browser = Browser::start().await;
    browser.call("Emulation.setScrollbarsHidden", json!({ "hidden": true })).await;
    browser.call("Page.navigate", json!({ "url": url })).await;
    browser
        .evaluate(
            "globalThis.row = (pod) =>
                [...document.querySelectorAll('#fleet tr.pod')].find((row) => row.cells[0].textContent === pod); true",
        )
        .await;
    let (busy, hot) = (&harness.pods[0].name, &harness.pods[1].name);
    browser.wait("document.querySelectorAll('#fleet tr.pod').length === 4").await;
    browser.wait(&format!("row('{hot}').querySelector('.level').textContent.includes('throttled')")).await;
    browser.evaluate(&format!("row('{busy}').querySelector('button').click()")).await;
    browser
        .wait(&format!("row('{busy}').nextSibling.querySelectorAll('.bars path[d*=V]').length === 2"))
        .await;
    // Tokens per second are known, and the minute has a shape.
    browser.wait(&format!("row('{busy}').cells[3] && Number(row('{busy}').cells[8].textContent) > 0")).await;
    let samples = "document.querySelector('tr.detail .spark path').getAttribute('d').split('L').length > 20";
    browser.wait(samples).await;

    browser.evaluate(&format!("document.getElementById('model').value = '{QWEN}'")).await;
    browser.evaluate("document.getElementById('tokens').value = 16").await;
    let prompt = "Why is one of my pods slower than the others?";
    browser.evaluate(&format!("document.getElementById('prompt').value = '{prompt}'")).await;
    browser.evaluate("document.getElementById('send').click()").await;
    browser.wait("document.querySelector('#decisions tr.chosen') !== null").await;
    browser.wait("document.getElementById('sent').textContent.includes('tokens')").await;
    let rows = browser.evaluate("document.querySelectorAll('#decisions tbody tr').length").await;
    assert_eq!(rows, 3, "every pod of the pool with its scores");
    browser.evaluate("document.activeElement.blur()").await;
    browser.evaluate("scrollTo(0, 0)").await;

    let file = file();
    let bytes = browser.picture("light", SIZE, SCALE, &file).await;
    println!("{} has {bytes} bytes", file.display());
    assert!(bytes < MAX_BYTES, "{bytes} bytes");
    assert_eq!(browser.problems(), [""; 0]);
    browser.end().await;
}

#[test]
fn the_readme_shows_the_picture() {
    let readme = fs::read_to_string(root().join("README.md")).unwrap();
    assert!(readme.contains("](.github/dashboard.png)"), "README.md has no picture of the page");
    let bytes = fs::read(root().join(".github/dashboard.png")).unwrap();
    assert!(bytes.starts_with(b"\x89PNG") && bytes.len() < MAX_BYTES, "{} bytes", bytes.len());
}
