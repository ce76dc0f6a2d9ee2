//! An engine that freezes while it streams: it gets no requests until it continues.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use forebay_e2e::{
    TIMEOUT,
    harness::{Harness, QWEN},
    load::{Client, Shape},
};
use serde_json::Value;
use tokio::{task::JoinSet, time::timeout};

use crate::output::show;

/// Requests while the engine is frozen.
const REQUESTS: usize = 20;
/// Of a stream that the engine does not finish before it freezes.
const MANY_TOKENS: u32 = 100_000;
/// Chunks of the stream before the engine freezes.
const PACE_CHUNKS: u64 = 5;
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);

/// Fails if a request hangs, or if the engine does not leave or return.
pub(super) async fn run(harness: &Harness) -> Result<()> {
    if !harness.unavailable.is_empty() {
        show("  not shown: kernel measurement is not available on this machine");
        return Ok(());
    }
    let pod = &harness.pods[0];
    let address = pod.address;
    // Else a request of before could be taken for the stream.
    let idle = until(harness, "the engine is idle", |pod| pod["kernel"]["inFlight"] == 0).await?;
    let chunks = |pod: &Value| pod["kernel"]["chunks"].as_u64();
    let before = chunks(&idle).context("forebay pods shows no chunks")?;
    let mut streams = JoinSet::new();
    // Ends when this function returns.
    streams
        .spawn(async move { Client::new(address).chat(QWEN, &Shape::Stream { tokens: MANY_TOKENS }).await });
    until(harness, "the stream has a pace", |pod| {
        pod["kernel"]["requestsWithResponse"] == 1 && chunks(pod) >= Some(before + PACE_CHUNKS)
    })
    .await?;

    pod.process.freeze()?;
    let since = Instant::now();
    let frozen = until(harness, "the engine is stalled", |pod| pod["liveness"]["state"] == "stalled").await;
    let answered = match frozen {
        Ok(seen) => {
            show(&format!("  {:>5.1} s  {}: {}", since.elapsed().as_secs_f64(), pod.name, verdict(&seen)));
            requests(harness).await
        }
        Err(error) => Err(error),
    };
    pod.process.thaw()?;
    answered?;
    let since = Instant::now();
    let back = until(harness, "the engine is alive", |pod| pod["liveness"]["state"] == "alive").await?;
    show(&format!(
        "  {:>5.1} s  after it continued, {}: {}",
        since.elapsed().as_secs_f64(),
        pod.name,
        verdict(&back)
    ));
    Ok(())
}

/// Sends requests through the gateway. None may be sent to the frozen engine.
async fn requests(harness: &Harness) -> Result<()> {
    let mut client = Client::new(harness.network.gateway());
    let mut slowest = Duration::ZERO;
    for number in 0..REQUESTS {
        let response = timeout(REQUEST_TIMEOUT, client.chat(QWEN, &Shape::Stream { tokens: 4 })).await;
        let outcome = response.with_context(|| format!("request {number} hangs"))??;
        if outcome.status != 200 {
            bail!("request {number}: status {}", outcome.status);
        }
        slowest = slowest.max(outcome.ttft.unwrap_or_default());
    }
    show(&format!(
        "           meanwhile {REQUESTS} of {REQUESTS} requests were answered by the other pods, time to first token \
         {} ms at most",
        slowest.as_millis()
    ));
    Ok(())
}

fn verdict(pod: &Value) -> String {
    let liveness = &pod["liveness"];
    let state = liveness["state"].as_str().unwrap_or("unknown");
    liveness["reason"].as_str().map_or_else(|| state.to_owned(), |reason| format!("{state} ({reason})"))
}

/// Waits until pod 0, as `forebay pods -o json` shows it, satisfies `condition`. Returns it.
async fn until(harness: &Harness, what: &str, condition: impl Fn(&Value) -> bool) -> Result<Value> {
    let deadline = Instant::now() + TIMEOUT;
    loop {
        let pod = first_pod(harness).await?;
        if condition(&pod) {
            return Ok(pod);
        }
        if Instant::now() > deadline {
            bail!("not in time: {what}: {pod}");
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn first_pod(harness: &Harness) -> Result<Value> {
    let output = tokio::process::Command::new(harness.program("forebay"))
        .args(["pods", "-o", "json", "--agents", &harness.network.agent().to_string()])
        .output()
        .await?;
    let mut list: Value = serde_json::from_slice(&output.stdout)?;
    let items = list["items"].as_array_mut().context("forebay pods shows no items")?;
    let name = &harness.pods[0].name;
    let pod = items.iter_mut().find(|pod| pod["name"] == **name);
    Ok(pod.map(Value::take).unwrap_or_default())
}
