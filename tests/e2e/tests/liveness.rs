//! Engines that freeze, hang or are slow, in real processes: the agent's verdict, the picker's choice, and the return.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test prints its measurements and fails by panicking"
)]

use std::{
    process::Command,
    sync::MutexGuard,
    time::{Duration, Instant},
};

use forebay_e2e::{
    eventually,
    harness::{self, Harness, HarnessOptions, PoolOptions, QWEN},
    load::{Client, Shape},
};
use serde_json::Value;
use tokio::task::JoinSet;

const POOL: &str = "vllm-qwen3-06b";
/// Tokens of a request that outlives its test.
const ENDLESS: u32 = 1_000_000;
/// Maximum time until a verdict, from the event that causes it.
const WITHIN: Duration = Duration::from_secs(20);
/// Maximum time of a short request. A request to a frozen engine takes longer.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);

/// Three simulators of one model. Pod 0 is the one that freezes.
///
/// Tests run one after the other: on a busy machine the engines that are not frozen look slow, and may then rightly be
/// preferred less than one that is only suspect.
struct Fleet {
    harness: Harness,
    _alone: MutexGuard<'static, ()>,
    /// Requests that clients of pod 0 keep open. They do not pass the gateway.
    open: JoinSet<()>,
}

impl Fleet {
    /// `None` if this machine cannot measure in the kernel; the reason is printed.
    fn start() -> Option<Self> {
        let alone = forebay_e2e::alone();
        let pools = vec![PoolOptions { name: POOL, model: QWEN, pods: 3 }];
        let harness = Harness::start(HarnessOptions { pools, ..HarnessOptions::default() }).unwrap();
        for reason in &harness.unavailable {
            println!("skipped: {reason}");
        }
        harness.unavailable.is_empty().then_some(Self { harness, _alone: alone, open: JoinSet::new() })
    }

    fn open(&mut self, requests: usize, shape: &Shape) {
        for _ in 0..requests {
            let (address, shape) = (self.harness.pods[0].address, shape.clone());
            self.open.spawn(async move {
                // Ends with the test, or with the engine.
                let _ = Client::new(address).chat(QWEN, &shape).await;
            });
        }
    }

    /// Pod 0 in `forebay pods -o json`.
    fn pod(&self) -> Value {
        let output = Command::new(self.harness.program("forebay"))
            .args(["pods", "-o", "json", "--agents", &self.harness.network.agent().to_string()])
            .output()
            .unwrap();
        let mut list: Value = serde_json::from_slice(&output.stdout).unwrap();
        list["items"][0].take()
    }

    fn is(&self, state: &str, reason: Option<&str>) -> bool {
        let liveness = &self.pod()["liveness"];
        liveness["state"] == state && liveness["reason"].as_str() == reason
    }

    fn until(&self, state: &str, reason: Option<&str>) {
        eventually(&format!("{state} {reason:?}"), || self.is(state, reason));
    }

    /// Waits for the verdict, and checks that it is in the table, in the metrics and at the picker.
    fn expect_within(&self, since: Instant, state: &str, reason: &str) {
        self.until(state, Some(reason));
        let took = since.elapsed();
        println!("{state} ({reason}) after {:.1} s", took.as_secs_f64());
        assert!(took < WITHIN, "{took:?}");

        let table = Command::new(self.harness.program("forebay"))
            .args(["pods", "--agents", &self.harness.network.agent().to_string()])
            .output()
            .unwrap();
        let table = String::from_utf8(table.stdout).unwrap();
        assert!(table.contains(&format!("{state} ({reason})")), "{table}");
        let (_, metrics) = harness::get(self.harness.network.agent_http(), "/metrics").unwrap();
        let labels = format!("port=\"8000\",state=\"{state}\",reason=\"{reason}\"}} 1");
        assert!(metrics.contains(&labels), "{metrics}");
        eventually("the picker has the verdict and says why", || {
            let endpoint = self.picker_view(0);
            endpoint["liveness"]["state"] == state
                && endpoint["liveness"]["reason"] == reason
                && endpoint["avoided_because"].is_string()
        });
    }

    /// A pod on the page of the picker.
    fn picker_view(&self, pod: usize) -> Value {
        let picker = std::net::SocketAddr::new(self.harness.epps[0].ip, 9090);
        let page: Value = harness::get_json(picker, "/endpoints").unwrap();
        let pod = format!("llm-d/{}", self.harness.pods[pod].name);
        page["endpoints"].as_array().unwrap().iter().find(|it| it["pod"] == *pod).unwrap().clone()
    }

    /// Short requests through the gateway. Each must be answered, so none may be sent to a frozen engine.
    async fn serve(&self, requests: usize) {
        let mut client = Client::new(self.harness.network.gateway());
        for number in 0..requests {
            let shape = Shape::Stream { tokens: 3 };
            let answered = tokio::time::timeout(REQUEST_TIMEOUT, client.chat(QWEN, &shape)).await;
            let outcome = answered.unwrap_or_else(|_| {
                let views: Vec<Value> = (0..3).map(|pod| self.picker_view(pod)).collect();
                panic!("request {number} hangs: {views:#?}")
            });
            assert_eq!(outcome.unwrap().status, 200);
        }
    }

    /// Requests that pod 0 has started, by its own count.
    fn started(&self) -> u64 {
        let truth: forebay_sim::TruthCounters =
            harness::get_json(self.harness.pods[0].truth.unwrap(), "/").unwrap();
        truth.started
    }

    /// Pod 0 works again: the verdict is alive, and it gets the requests of the gateway.
    async fn returns(mut self) {
        let since = Instant::now();
        self.until("alive", None);
        println!("alive again after {:.1} s", since.elapsed().as_secs_f64());
        self.open.shutdown().await;
        eventually("the clients have left", || self.pod()["kernel"]["inFlight"] == 0);
        // The others freeze, so that it is the best whatever the picker has learned of its speed.
        self.harness.pods[1..].iter().for_each(|pod| pod.process.freeze().unwrap());
        eventually("the others are suspect", || {
            (1..3).all(|pod| self.picker_view(pod)["liveness"]["state"] == "suspect")
        });
        let before = self.started();
        self.serve(3).await;
        assert_eq!(self.started(), before + 3);
        self.harness.pods[1..].iter().for_each(|pod| pod.process.thaw().unwrap());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_engine_with_streams_is_stalled_until_bytes_flow() {
    let Some(mut fleet) = Fleet::start() else { return };
    fleet.open(4, &Shape::Stream { tokens: ENDLESS });
    eventually("the streams have a pace", || {
        let kernel = &fleet.pod()["kernel"];
        kernel["requestsWithResponse"] == 4 && kernel["itl"]["count"].as_u64() > Some(50)
    });
    assert!(fleet.is("alive", None), "{}", fleet.pod());

    fleet.harness.pods[0].process.freeze().unwrap();
    fleet.expect_within(Instant::now(), "stalled", "responses_silent");
    let kernel = &fleet.pod()["kernel"];
    assert!(kernel["silentSeconds"].as_f64() > Some(2.0), "{kernel}");
    assert_eq!(kernel["oldestRequestHasResponse"], true);
    fleet.serve(20).await;

    fleet.harness.pods[0].process.thaw().unwrap();
    fleet.returns().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_engine_without_streams_is_suspect_and_never_stalled() {
    let Some(mut fleet) = Fleet::start() else { return };
    fleet.open(2, &Shape::Whole { tokens: ENDLESS });
    eventually("an unstreamed response may take long", || {
        let pod = fleet.pod();
        let age = pod["kernel"]["oldestRequestSeconds"].as_f64();
        assert!(age < Some(1.0) || pod["liveness"]["state"] == "alive", "{pod}");
        age > Some(7.0)
    });

    fleet.harness.pods[0].process.freeze().unwrap();
    let frozen = Instant::now();
    fleet.expect_within(frozen, "suspect", "scrapes_fail");
    fleet.serve(20).await;
    eventually("it stays suspect, because nothing decides", || {
        assert!(fleet.is("suspect", Some("scrapes_fail")), "{}", fleet.pod());
        frozen.elapsed() > Duration::from_secs(10)
    });

    fleet.harness.pods[0].process.thaw().unwrap();
    fleet.returns().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_idle_engine_is_suspect() {
    let Some(fleet) = Fleet::start() else { return };
    fleet.serve(6).await;
    fleet.until("alive", None);
    // Its responses alone make it alive, and a server that was never scraped may have no metrics.
    eventually("it was scraped", || fleet.pod()["engine"]["generationTokens"].is_u64());
    fleet.harness.pods[0].process.freeze().unwrap();
    fleet.expect_within(Instant::now(), "suspect", "scrapes_fail");
    fleet.serve(20).await;
    fleet.harness.pods[0].process.thaw().unwrap();
    fleet.returns().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_that_hangs_behind_a_server_that_responds_is_found() {
    let Some(mut fleet) = Fleet::start() else { return };
    fleet.open(2, &Shape::Whole { tokens: ENDLESS });
    eventually("the engine works", || fleet.pod()["engine"]["generationTokens"].as_u64() > Some(100));
    fleet.harness.set_speed(0, 0).unwrap();
    fleet.expect_within(Instant::now(), "suspect", "no_progress");
    assert_eq!(harness::get(fleet.harness.pods[0].address, "/health").unwrap().0, 200);
    fleet.serve(10).await;
    fleet.harness.set_speed(0, 100).unwrap();
    fleet.until("alive", None);

    fleet.open(4, &Shape::Stream { tokens: ENDLESS });
    eventually("the streams have a pace", || fleet.pod()["kernel"]["itl"]["count"].as_u64() > Some(50));
    fleet.harness.set_speed(0, 0).unwrap();
    fleet.expect_within(Instant::now(), "stalled", "responses_silent");
    fleet.serve(10).await;
    fleet.harness.set_speed(0, 100).unwrap();
    fleet.returns().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_at_half_speed_is_alive() {
    let Some(mut fleet) = Fleet::start() else { return };
    fleet.open(4, &Shape::Stream { tokens: ENDLESS });
    let tokens = |fleet: &Fleet| fleet.pod()["engine"]["generationTokens"].as_u64().unwrap_or_default();
    eventually("the engine works", || tokens(&fleet) > 200);
    fleet.harness.set_speed(0, 50).unwrap();
    let until = tokens(&fleet) + 1500;
    eventually("the slow engine continues", || {
        let pod = fleet.pod();
        assert_eq!(pod["liveness"]["state"], "alive", "{pod}");
        pod["engine"]["generationTokens"].as_u64() > Some(until)
    });
    assert_eq!(fleet.picker_view(0)["avoided_because"], Value::Null);
}
