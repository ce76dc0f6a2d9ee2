//! Routes and pools are created, changed and deleted many times per second while requests are served. No request may see
//! a mix of two states.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test fails by panicking and prints its measurements"
)]

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use forebay_cluster_tests::{
    Cluster, Durations, Objects, Probe, Reached, Response, TIMEOUT, Traffic, chat, cluster,
    guide::{LLAMA, MODELS, QWEN, SYSTEM},
    until,
};
use serde_json::{Value, json};
use tokio::{
    task::JoinSet,
    time::{interval, sleep},
};

const BETWEEN_CHANGES: Duration = Duration::from_millis(50);
const CHANGING: Duration = Duration::from_secs(20);
/// Lifetime of an added route and its pool, in rounds ([`Changer::round`]).
const LIFE_ROUNDS: u32 = 8;
/// Number of clients that request the model whose route changes.
const WATCHERS: u32 = 4;
/// Pause between two requests of a watcher, to limit their load.
const PACE: Duration = Duration::from_millis(10);
/// Pause of watchers that only check for errors.
const SLOW_PACE: Duration = Duration::from_millis(100);

/// Time for which a deleted route is still requested: the gateway replicas apply a change at different times.
const WATCH_AFTER_DELETE: Duration = Duration::from_millis(500);

/// Maximum time until all replicas use a new route.
const MAX_DELAY: Duration = Duration::from_secs(2);

const SIDES: [&str; 2] = ["side-a", "side-b"];
const SWITCHED: &str = "switched";
/// Requests with this header match the route `moved`, whose pool changes.
const MOVED: &str = "x-moved";

#[test]
fn requests_never_see_partial_changes() {
    let Some(cluster) = cluster() else { return };
    cluster.follow_the_guide(2, 1);
    for side in SIDES {
        cluster.deploy_model_server(side, side, SWITCHED, 1);
        cluster.pods_ready(&format!("-n {MODELS} -l app={side}"), 1);
    }
    let gateway = cluster.gateway_address();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let objects = runtime.block_on(Objects::connect()).unwrap();
    let first =
        [pool(SIDES[0], SIDES[0]), pool(SIDES[1], SIDES[1]), pool("moving", SIDES[0]), switched(0), moved()];
    runtime.block_on(async {
        for object in &first {
            objects.apply(object).await.unwrap();
        }
    });
    for model in [QWEN, LLAMA, SWITCHED] {
        until(&format!("{model} is served"), || match chat(gateway, model) {
            Ok(response) if response.status == 200 => Ok(()),
            other => Err(format!("{other:?}")),
        });
    }
    let truth_before = SIDES.map(|side| finished(&cluster, side));
    let traffic = Traffic::start(gateway, &[QWEN, LLAMA], 2, 20);
    let results = runtime.block_on(run(&objects, gateway));
    let (completed, mut failed) = traffic.finish();
    failed.extend(results.failed.clone());
    results.print(completed, failed.len());
    assert_eq!(failed, Vec::<String>::new());
    assert!(
        completed > 20 && results.switched.len() > 1,
        "too few streams or changes: {completed}, {results:?}"
    );
    // The engines served at least the requests that the gateway reported for them.
    for (index, side) in SIDES.iter().enumerate() {
        let served = finished(&cluster, side) - truth_before[index];
        let reported = results.by_side.get(*side).copied().unwrap_or_default();
        assert!(served >= reported, "{side}: the gateway reports {reported} responses, the engine {served}");
        println!("{side}: {reported} responses through the route, {served} in total by the engine");
    }
    runtime.block_on(async {
        for object in first.iter().rev() {
            objects.delete(object).await.unwrap();
        }
    });
    for side in SIDES {
        cluster.kubectl(&format!("delete deployment {side} -n {MODELS}"));
    }
}

/// Number of responses of the engine of a side.
fn finished(cluster: &Cluster, side: &str) -> u64 {
    let pods = cluster.get(&format!("pods -n {MODELS} -l app={side}")).unwrap();
    let ip = pods["items"][0]["status"]["podIP"].as_str().unwrap();
    let (_, truth) = forebay_e2e::harness::get(format!("{ip}:7999").parse().unwrap(), "/").unwrap();
    serde_json::from_str::<Value>(&truth).unwrap()["finished"].as_u64().unwrap()
}

/// A pool without a picker.
fn pool(name: &str, label: &str) -> Value {
    json!({
        "apiVersion": "inference.networking.k8s.io/v1",
        "kind": "InferencePool",
        "metadata": { "name": name, "namespace": MODELS },
        "spec": { "selector": { "matchLabels": { "app": label } }, "targetPorts": [{ "number": 8000 }] },
    })
}

fn route(name: &str, rule: Value) -> Value {
    json!({
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": "HTTPRoute",
        "metadata": { "name": name, "namespace": MODELS },
        "spec": { "parentRefs": [{ "name": "inference-gateway", "namespace": SYSTEM }], "rules": [rule] },
    })
}

fn to_pool(name: &str) -> Value {
    json!({ "group": "inference.networking.k8s.io", "kind": "InferencePool", "name": name })
}

fn for_model(model: &str) -> Value {
    json!({ "name": "X-Gateway-Model-Name", "value": model })
}

fn set_header(name: &str, value: &str) -> Value {
    json!({ "type": "ResponseHeaderModifier", "responseHeaderModifier": { "set": [{ "name": name, "value": value }] } })
}

/// The route after this change. The rule sets the number of the change, the backend sets the side. Both must match.
fn switched(change: u32) -> Value {
    let side = side_of(change);
    let mut backend = to_pool(side);
    backend["filters"] = json!([set_header("x-side", side)]);
    route(
        SWITCHED,
        json!({
            "matches": [{ "headers": [for_model(SWITCHED)] }],
            "filters": [set_header("x-change", &change.to_string())],
            "backendRefs": [backend],
        }),
    )
}

fn side_of(change: u32) -> &'static str {
    SIDES[change as usize % SIDES.len()]
}

fn moved() -> Value {
    let headers = json!([for_model(SWITCHED), { "name": MOVED, "value": "1" }]);
    route("moved", json!({ "matches": [{ "headers": headers }], "backendRefs": [to_pool("moving")] }))
}

fn added(number: u32) -> String {
    format!("added-{number}")
}

/// Results of the watchers.
#[derive(Debug, Default)]
struct Results {
    changes: u32,
    took: Duration,
    /// Time from the start of a write to the first response that uses it.
    first: Durations,
    /// Time from the end of a write to the last request that used an older state.
    last: Durations,
    appeared: Durations,
    vanished: Durations,
    /// For each change of the route: time of the first response, and time of the last request.
    switched: BTreeMap<u32, (Instant, Instant)>,
    by_side: BTreeMap<String, u64>,
    watched: u64,
    failed: Vec<String>,
}

impl Results {
    fn print(&self, streams: u32, failed: usize) {
        println!(
            "{} changes in {:.1} s ({:.1} a second) under {streams} streams and {} other requests; {failed} failed",
            self.changes,
            self.took.as_secs_f64(),
            f64::from(self.changes) / self.took.as_secs_f64(),
            self.watched,
        );
        println!("changed route, from write to first use: {}", self.first);
        println!("changed route, from end of write to last use of the old route: {}", self.last);
        println!("new route with new pool, from write to first use: {}", self.appeared);
        println!("deleted route, from write to first request without it: {}", self.vanished);
    }

    fn fail(&mut self, reason: String) {
        // Limit the output.
        if self.failed.len() < 20 {
            self.failed.push(reason);
        }
    }
}

type Shared = Arc<Mutex<Results>>;

async fn run(objects: &Objects, gateway: SocketAddr) -> Results {
    let results = Shared::default();
    let stop = Arc::new(AtomicBool::new(false));
    let mut watchers = JoinSet::new();
    for _ in 0..WATCHERS {
        watchers.spawn(watch_switched(Probe::new(gateway), results.clone(), stop.clone()));
    }
    watchers.spawn(watch_moved(Probe::new(gateway), results.clone(), stop.clone()));
    let mut changer = Changer {
        objects,
        gateway,
        results: results.clone(),
        ticks: interval(BETWEEN_CHANGES),
        added: JoinSet::new(),
        going: BTreeMap::new(),
    };
    let began = Instant::now();
    let mut writes = BTreeMap::new();
    let mut number = 0;
    while began.elapsed() < CHANGING {
        number += 1;
        writes.insert(number, changer.round(number).await);
    }
    results.lock().unwrap().took = began.elapsed();
    changer.remove_all(number).await;
    // Wait until the last change is used.
    let deadline = Instant::now() + TIMEOUT;
    while !results.lock().unwrap().switched.contains_key(&number) {
        assert!(Instant::now() < deadline, "change {number} was not used: {:?}", results.lock().unwrap());
        sleep(PACE).await;
    }
    stop.store(true, Ordering::Relaxed);
    while watchers.join_next().await.transpose().unwrap().is_some() {}
    let mut results = std::mem::take(&mut *results.lock().unwrap());
    for (change, (began, ended)) in writes {
        if let Some((at, _)) =
            results.switched.range(change..).map(|(_, seen)| seen).min_by_key(|(at, _)| *at)
        {
            results.first.add(at.saturating_duration_since(began));
        }
        if let Some(sent) = results.switched.range(..change).map(|(_, (_, sent))| *sent).max() {
            results.last.add(sent.saturating_duration_since(ended));
        }
    }
    results
}

struct Changer<'a> {
    objects: &'a Objects,
    gateway: SocketAddr,
    results: Shared,
    ticks: tokio::time::Interval,
    /// Watchers of the added routes.
    added: JoinSet<()>,
    /// Start of the deletion of each added route.
    going: BTreeMap<u32, Arc<Mutex<Option<Instant>>>>,
}

impl Changer<'_> {
    async fn write(&mut self, object: &Value) -> (Instant, Instant) {
        self.ticks.tick().await;
        let began = Instant::now();
        self.objects.apply(object).await.unwrap();
        self.results.lock().unwrap().changes += 1;
        (began, Instant::now())
    }

    async fn delete(&mut self, object: &Value) {
        self.objects.delete(object).await.unwrap();
        self.results.lock().unwrap().changes += 1;
    }

    /// One round of changes: switches the route to the other side, changes the pool `moving`, adds a route with a pool,
    /// and deletes an old one. Returns start and end of the first write.
    async fn round(&mut self, number: u32) -> (Instant, Instant) {
        let written = self.write(&switched(number)).await;
        let (name, model) = (added(number), added(number));
        self.write(&pool(&name, side_of(number))).await;
        let rule =
            json!({ "matches": [{ "headers": [for_model(&model)] }], "backendRefs": [to_pool(&name)] });
        let (began, _) = self.write(&route(&name, rule)).await;
        let going = Arc::<Mutex<Option<Instant>>>::default();
        self.going.insert(number, going.clone());
        let added = Added { model, began, going, appeared: false, vanished: None };
        self.added.spawn(added.watch(Probe::new(self.gateway), self.results.clone()));
        self.write(&pool("moving", side_of(number))).await;
        if number > LIFE_ROUNDS {
            self.remove(number - LIFE_ROUNDS).await;
        }
        written
    }

    async fn remove(&mut self, number: u32) {
        let Some(going) = self.going.remove(&number) else { return };
        let name = added(number);
        self.ticks.tick().await;
        *going.lock().unwrap() = Some(Instant::now());
        self.delete(&route(&name, Value::Null)).await;
        self.ticks.tick().await;
        self.delete(&pool(&name, SIDES[0])).await;
    }

    async fn remove_all(&mut self, last: u32) {
        for number in last.saturating_sub(LIFE_ROUNDS)..=last {
            self.remove(number).await;
        }
        while self.added.join_next().await.transpose().unwrap().is_some() {}
    }
}

async fn watch_switched(probe: Probe, results: Shared, stop: Arc<AtomicBool>) {
    while !stop.load(Ordering::Relaxed) {
        let response = probe.chat(SWITCHED, None).await;
        results.lock().unwrap().record_switched(response);
        sleep(PACE).await;
    }
}

async fn watch_moved(probe: Probe, results: Shared, stop: Arc<AtomicBool>) {
    while !stop.load(Ordering::Relaxed) {
        let response = probe.chat(SWITCHED, Some((MOVED, "1"))).await;
        results.lock().unwrap().record_moved(response);
        sleep(PACE).await;
    }
}

impl Results {
    fn record_switched(&mut self, response: anyhow::Result<Response>) {
        self.watched += 1;
        let seen = response.map_err(|error| format!("{SWITCHED}: {error:#}")).and_then(|response| {
            let (change, side) = parse_response(&response)?;
            Ok((change, side, response))
        });
        match seen {
            Ok((change, side, response)) => {
                let seen = self.switched.entry(change).or_insert((response.at, response.sent));
                *seen = (seen.0.min(response.at), seen.1.max(response.sent));
                *self.by_side.entry(side).or_default() += 1;
            }
            Err(reason) => self.fail(reason),
        }
    }

    fn record_moved(&mut self, response: anyhow::Result<Response>) {
        self.watched += 1;
        match response {
            Ok(response) if response.status == 200 && !response.headers.contains_key("x-change") => {}
            other => self.fail(format!("moved: {other:?}")),
        }
    }
}

/// Number of the change and side of a response.
///
/// # Errors
/// When they do not match.
fn parse_response(response: &Response) -> Result<(u32, String), String> {
    let header = |name: &str| response.headers.get(name).and_then(|it| it.to_str().ok()).unwrap_or_default();
    let wrong = || format!("{SWITCHED}: {} {:?} {}", response.status, response.headers, response.body);
    let change: u32 = header("x-change").parse().map_err(|_| wrong())?;
    let side = header("x-side");
    if response.status == 200 && side == side_of(change) {
        Ok((change, side.to_owned()))
    } else {
        Err(wrong())
    }
}

/// Watches an added route until some time after its deletion. Allowed sequence: no route, its pool, no route.
struct Added {
    model: String,
    began: Instant,
    going: Arc<Mutex<Option<Instant>>>,
    appeared: bool,
    vanished: Option<Instant>,
}

impl Added {
    async fn watch(mut self, probe: Probe, results: Shared) {
        let deadline = Instant::now() + TIMEOUT;
        while self.vanished.is_none_or(|at| at.elapsed() < WATCH_AFTER_DELETE) {
            let reached = probe.reached(&self.model).await;
            let gone = *self.going.lock().unwrap();
            self.record(reached, gone, &mut results.lock().unwrap());
            if Instant::now() > deadline {
                let reason =
                    format!("{}: its route was not added and deleted within {TIMEOUT:?}", self.model);
                return results.lock().unwrap().fail(reason);
            }
            sleep(if self.appeared && gone.is_none() { SLOW_PACE } else { PACE }).await;
        }
    }

    fn record(&mut self, reached: Result<Reached, String>, gone: Option<Instant>, results: &mut Results) {
        results.watched += 1;
        match (reached, gone) {
            (Ok(Reached::Engine), None) if !self.appeared => {
                self.appeared = true;
                results.appeared.add(self.began.elapsed());
            }
            (Ok(Reached::Engine), _) => {}
            (Ok(Reached::Nothing), Some(since)) if self.appeared => {
                if self.vanished.is_none() {
                    self.vanished = Some(Instant::now());
                    results.vanished.add(since.elapsed());
                }
            }
            // The gateway replicas may apply the change at different times.
            (Ok(Reached::Nothing), None) if self.began.elapsed() < MAX_DELAY => {}
            (reached, gone) => {
                let model = &self.model;
                results.fail(format!("{model}: {reached:?}, appeared: {}, gone: {gone:?}", self.appeared));
            }
        }
    }
}
