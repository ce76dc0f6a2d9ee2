//! Conversations of two groups, each with a long system prompt: once through the gateway, once sent to the pods in turn.

use std::{
    net::SocketAddr,
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use forebay_e2e::{
    harness::{Harness, QWEN, prefix_cache_tokens},
    load::Client,
};
use futures_util::future::try_join_all;
use serde_json::json;

use crate::output::show;

const GROUPS: usize = 2;
/// Conversations of a group, all at the same time.
const CONVERSATIONS: usize = 6;
const TURNS: usize = 6;
/// About 6,000 and 500 tokens.
const SYSTEM_PROMPT_BYTES: usize = 24_000;
const QUESTION_BYTES: usize = 2_000;

/// What one way of distribution came to.
struct Measured {
    hit_share: f64,
    p50: Duration,
    p90: Duration,
}

/// Fails if the gateway finds caches no better than turns do.
pub(super) async fn run(harness: &Harness) -> Result<()> {
    let pods: Vec<SocketAddr> = harness.pods.iter().map(|pod| pod.address).collect();
    let turn = AtomicUsize::new(0);
    let next_pod = || pods[turn.fetch_add(1, Ordering::Relaxed) % pods.len()];
    let in_turn = measure(&pods, "in turn", &next_pod).await?;
    let gateway = harness.network.gateway();
    let forebay = measure(&pods, "by Forebay", &|| gateway).await?;
    show(&format!("  {:<14} {:>15} {:>10} {:>10}", "", "PREFIX HITS", "TTFT P50", "TTFT P90"));
    for (name, measured) in [("round robin", &in_turn), ("Forebay", &forebay)] {
        let ms = |time: Duration| format!("{} ms", time.as_millis());
        let Measured { hit_share, p50, p90 } = measured;
        show(&format!("  {name:<14} {:>13.0} % {:>10} {:>10}", hit_share * 100.0, ms(*p50), ms(*p90)));
    }
    if forebay.hit_share <= in_turn.hit_share {
        bail!("Forebay found no more prefixes than round robin");
    }
    Ok(())
}

/// `name` is part of all prompts, so that no way finds the caches of another.
async fn measure(
    pods: &[SocketAddr],
    name: &str,
    target: &(dyn Fn() -> SocketAddr + Sync),
) -> Result<Measured> {
    let before = prefix_cache_tokens(pods)?;
    let conversations = (0..GROUPS * CONVERSATIONS).map(|number| converse(name, number, target));
    let mut ttfts: Vec<Duration> = try_join_all(conversations).await?.concat();
    let after = prefix_cache_tokens(pods)?;
    ttfts.sort_unstable();
    let quantile = |percent: usize| ttfts[(ttfts.len() - 1) * percent / 100];
    let [hits, queries] = [after.0 - before.0, after.1 - before.1];
    Ok(Measured { hit_share: hits / queries, p50: quantile(50), p90: quantile(90) })
}

/// All turns of a conversation, each with all turns before it. Returns the times to the first token.
async fn converse(name: &str, number: usize, target: &dyn Fn() -> SocketAddr) -> Result<Vec<Duration>> {
    let group = number % GROUPS;
    let text =
        |seed: String, bytes: usize| seed.bytes().cycle().take(bytes).map(char::from).collect::<String>();
    let system = text(format!("Group {group}, distributed {name}. "), SYSTEM_PROMPT_BYTES);
    let mut messages = vec![json!({ "role": "system", "content": system })];
    let mut ttfts = Vec::new();
    for turn in 0..TURNS {
        let question = text(format!("Question {turn} of conversation {number}. "), QUESTION_BYTES);
        messages.push(json!({ "role": "user", "content": question }));
        let body = json!({ "model": QWEN, "messages": messages, "max_tokens": 16, "stream": true });
        let outcome = Client::new(target()).post_json("/v1/chat/completions", &body.to_string()).await?;
        if outcome.status != 200 || !outcome.done {
            bail!("conversation {number}, turn {turn}: status {}, {}", outcome.status, outcome.body);
        }
        ttfts.push(outcome.ttft.context("a response without content")?);
        messages.push(json!({ "role": "assistant", "content": format!("Answer {turn}.") }));
    }
    Ok(ttfts)
}
