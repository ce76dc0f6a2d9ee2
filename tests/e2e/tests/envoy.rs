//! forebay-epp behind a real Envoy, configured as inference gateways configure it: bodies of all sizes, streams, prefixes,
//! clients that leave.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test says what it skips and fails by panicking"
)]

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use forebay_e2e::{
    TIMEOUT, eventually,
    harness::{self, Harness, HarnessOptions, PoolOptions, Process, QWEN},
    load::{Client, Outcome, Shape},
    within,
};
use serde_json::Value;
use tempfile::TempDir;

const CHAT: &str = "/v1/chat/completions";
const MIB: usize = 1 << 20;

/// Two pods, their picker, and Envoy in front of both.
struct Setup {
    // Dropped in this order: Envoy first.
    envoy: Process,
    _folder: TempDir,
    harness: Harness,
    address: SocketAddr,
}

impl Setup {
    /// `None` without Envoy.
    fn start() -> Option<Self> {
        let Some(program) = std::env::var_os("FOREBAY_ENVOY").map(PathBuf::from) else {
            println!("skipped: Envoy: FOREBAY_ENVOY does not name its program (`cargo xtask test` sets it)");
            return None;
        };
        let pools = vec![PoolOptions { name: "vllm-qwen3-06b", model: QWEN, pods: 2 }];
        let harness = Harness::start(HarnessOptions { pools, ..HarnessOptions::default() }).unwrap();
        let address = harness.network.envoy();
        let folder = tempfile::tempdir().unwrap();
        let envoy = start_envoy(&program, folder.path(), address, SocketAddr::new(harness.epps[0].ip, 9002));
        let mut setup = Self { envoy, _folder: folder, harness, address };
        let is_ready = || matches!(harness::get(address, "/health"), Ok((200, _)));
        assert!(within(TIMEOUT, is_ready), "{:?} {}", setup.envoy.ended(), setup.envoy.log_tail());
        Some(setup)
    }

    /// The response to a body through Envoy, and directly from a pod.
    async fn both(&self, body: &str) -> [Outcome; 2] {
        let mut outcomes = Vec::new();
        for address in [self.address, self.harness.pods[0].address] {
            outcomes.push(Client::new(address).post_json(CHAT, body).await.unwrap());
        }
        outcomes.try_into().unwrap()
    }

    /// Sum of the samples of a metric of the picker.
    fn metric(&self, name: &str) -> f64 {
        let picker = SocketAddr::new(self.harness.epps[0].ip, 9090);
        let (_, metrics) = harness::get(picker, "/metrics").unwrap();
        let is_sample =
            |line: &&str| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' ']));
        let samples = metrics.lines().filter(is_sample);
        let values: Vec<f64> =
            samples.map(|line| line.rsplit(' ').next().unwrap().parse().unwrap()).collect();
        assert!(!values.is_empty(), "no metric {name}");
        values.iter().sum()
    }

    /// Requests that each pod has started.
    fn started(&self) -> Vec<u64> {
        self.harness.pods.iter().map(|pod| pod.truth().unwrap().started).collect()
    }
}

/// Asks the picker, which sees all messages.
const FILTER: &str = r#"{name: envoy.filters.http.ext_proc, typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.ext_proc.v3.ExternalProcessor,
            grpc_service: {envoy_grpc: {cluster_name: picker}, timeout: 1000s}, message_timeout: 1000s, failure_mode_allow: false,
            processing_mode: {request_header_mode: SEND, response_header_mode: SEND, request_body_mode: FULL_DUPLEX_STREAMED, response_body_mode: FULL_DUPLEX_STREAMED, request_trailer_mode: SEND, response_trailer_mode: SEND}}},"#;

fn start_envoy(program: &Path, folder: &Path, address: SocketAddr, picker: SocketAddr) -> Process {
    let clusters = [harness::ENVOY_PODS.to_owned(), harness::envoy_picker(picker)];
    let file = folder.join("envoy.yaml");
    fs::write(&file, harness::envoy_config(address, FILTER, &clusters, "")).unwrap();
    let config = file.display().to_string();
    let args = ["-c", &config, "--log-level", "error", "--use-dynamic-base-id", "--concurrency", "1"];
    Process::start("envoy", program, &args.map(str::to_owned), &[], folder, None).unwrap()
}

fn chat(name: &str, prompt_bytes: usize, stream: bool) -> String {
    let text: String = format!("Prompt {name}. ").chars().cycle().take(prompt_bytes).collect();
    let options = if stream { r#"{"include_usage":true}"# } else { "null" };
    // The model first: blocks of a prompt belong to a model, so nothing is decided before it is known.
    format!(
        r#"{{"model":"{QWEN}","messages":[{{"role":"user","content":"{text}"}}],"max_tokens":5,"stream":{stream},"stream_options":{options}}}"#
    )
}

/// The response without what differs between two responses to one request.
fn comparable(outcome: &Outcome) -> (u16, Value) {
    let mut body: Value = serde_json::from_str(&outcome.body).unwrap();
    for member in ["id", "created"] {
        body.as_object_mut().unwrap().remove(member);
    }
    (outcome.status, body)
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_of_all_sizes_arrive_as_they_were_sent() {
    let Some(setup) = Setup::start() else { return };
    // The engine counts the tokens of the prompt, also when it rejects one as too long: so all bytes have arrived.
    for prompt_bytes in [0, 1, 200, 4_000, 6_300, 70_000, MIB, 3 * MIB, 20 * MIB] {
        let [proxied, direct] = setup.both(&chat("all sizes", prompt_bytes, false)).await;
        assert_eq!(comparable(&proxied), comparable(&direct), "a prompt of {prompt_bytes} bytes");
        let expected = if prompt_bytes < 4 * MIB { 200 } else { 400 };
        assert_eq!(proxied.status, expected, "a prompt of {prompt_bytes} bytes: {}", proxied.body);
    }
    for body in ["", "{", "no JSON at all"] {
        let [proxied, direct] = setup.both(body).await;
        assert_eq!(comparable(&proxied), comparable(&direct), "{body:?}");
    }
    eventually("no pick is open", || setup.metric("forebay_epp_open_picks") == 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_arrive_event_by_event() {
    let Some(setup) = Setup::start() else { return };
    for prompt_bytes in [200, 70_000, 3 * MIB] {
        let [proxied, direct] = setup.both(&chat("streams", prompt_bytes, true)).await;
        assert_eq!((proxied.status, proxied.events, proxied.done), (200, direct.events, true));
        let usage = |outcome: &Outcome| {
            let line = outcome.body.lines().find(|line| line.contains("\"prompt_tokens\"")).unwrap();
            let event: Value = serde_json::from_str(line.strip_prefix("data: ").unwrap()).unwrap();
            event["usage"].clone()
        };
        assert_eq!(usage(&proxied), usage(&direct), "a prompt of {prompt_bytes} bytes");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn repeated_prompt_goes_where_it_is_cached_and_a_fresh_one_is_decided_early() {
    let Some(setup) = Setup::start() else { return };
    let before = setup.started();
    for turn in 0..6 {
        let response =
            Client::new(setup.address).post_json(CHAT, &chat("repeated", 70_000, false)).await.unwrap();
        assert_eq!(response.status, 200, "turn {turn}: {}", response.body);
        eventually("the pick has ended", || setup.metric("forebay_epp_open_picks") == 0.0);
    }
    let mut new: Vec<u64> =
        setup.started().iter().zip(&before).map(|(after, before)| after - before).collect();
    new.sort_unstable();
    assert_eq!(new, [0, 6], "the picker reads the prompt");

    let share = "forebay_epp_body_share_at_pick_sum";
    let before = setup.metric(share);
    let response = Client::new(setup.address).post_json(CHAT, &chat("fresh", 3 * MIB, false)).await.unwrap();
    assert_eq!(response.status, 200);
    let read = setup.metric(share) - before;
    assert!(read > 0.0 && read < 0.5, "{read} of the body was read when the pick was made");
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_that_leave_end_their_picks() {
    let Some(setup) = Setup::start() else { return };
    for _ in 0..8 {
        let shape = Shape::Abort { tokens: 1_000, after_events: 3 };
        let outcome = Client::new(setup.address).chat(QWEN, &shape).await.unwrap();
        assert!(outcome.aborted);
    }
    eventually("no pick is open", || setup.metric("forebay_epp_open_picks") == 0.0);
    eventually("no stream is open", || setup.metric("forebay_epp_open_streams") == 0.0);
    let aborted = || setup.harness.pods.iter().map(|pod| pod.truth().unwrap().aborted).sum::<u64>();
    eventually("the engines have seen all clients leave", || aborted() == 8);
}
