//! Routes and pools come, change and go many times a second while requests are served: none of these may
//! meet a state that nobody asked for.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test fails by panicking, and says what it measured"
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
    Answered, Cluster, Durations, Objects, PATIENCE, Probe, Reached, Traffic, chat, cluster,
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
/// Rounds that a route and its pool live, each of as many changes as [`round`] makes.
const LIFE_ROUNDS: u32 = 8;
/// Users who ask for the model whose route changes.
const WATCHERS: u32 = 4;
/// Between two requests of one of them: the machine is not to be full of them.
const PACE: Duration = Duration::from_millis(10);
/// The same, for those who only watch that nothing fails.
const SLOW_PACE: Duration = Duration::from_millis(100);

/// How long a route that is gone is still asked for: replicas of the gateway hear of it one after the other.
const AFTERWARDS: Duration = Duration::from_millis(500);

/// Within this a new route must be in force in every replica.
const LONGEST: Duration = Duration::from_secs(2);

const SIDES: [&str; 2] = ["side-a", "side-b"];
const SWITCHED: &str = "switched";
/// Requests with this header go by the pool that changes instead of the route that does.
const MOVED: &str = "x-moved";

#[test]
fn changes_under_traffic_are_never_seen_half() {
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
            Ok(answer) if answer.status == 200 => Ok(()),
            other => Err(format!("{other:?}")),
        });
    }
    let truth_before = SIDES.map(|side| finished(&cluster, side));
    let traffic = Traffic::start(gateway, &[QWEN, LLAMA], 2, 20);
    let said = runtime.block_on(run(&objects, gateway));
    let (answered, mut failed) = traffic.finish();
    failed.extend(said.failed.clone());
    said.print(answered, failed.len());
    assert_eq!(failed, Vec::<String>::new());
    assert!(answered > 20 && said.switched.len() > 1, "too little happened: {answered}, {said:?}");
    // What the gateway says of where requests went is what the engines say.
    for (index, side) in SIDES.iter().enumerate() {
        let served = finished(&cluster, side) - truth_before[index];
        let told = said.by_side.get(*side).copied().unwrap_or_default();
        assert!(served >= told, "{side}: {told} answers are said to be its own, it gave {served}");
        println!("{side}: {told} answers by the route, {served} in all by the engine");
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

/// Answers that the side's engine has given.
fn finished(cluster: &Cluster, side: &str) -> u64 {
    let pods = cluster.get(&format!("pods -n {MODELS} -l app={side}")).unwrap();
    let ip = pods["items"][0]["status"]["podIP"].as_str().unwrap();
    let (_, truth) = forebay_e2e::harness::get(format!("{ip}:7999").parse().unwrap(), "/").unwrap();
    serde_json::from_str::<Value>(&truth).unwrap()["finished"].as_u64().unwrap()
}

/// A pool without a picker of its own.
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

/// After its `change`th change. The rule says which, the backend who: the two belong together.
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

/// What was seen.
#[derive(Debug, Default)]
struct Said {
    changes: u32,
    took: Duration,
    /// From a write's beginning to the first answer by it.
    first: Durations,
    /// From a write's end to the last request that went by an older state.
    last: Durations,
    appeared: Durations,
    vanished: Durations,
    /// When which change of the route was first answered by, and when the last request for it was sent.
    switched: BTreeMap<u32, (Instant, Instant)>,
    by_side: BTreeMap<String, u64>,
    watched: u64,
    failed: Vec<String>,
}

impl Said {
    fn print(&self, streams: u32, failed: usize) {
        println!(
            "{} changes in {:.1} s ({:.1} a second) under {streams} streams and {} other requests; {failed} failed",
            self.changes,
            self.took.as_secs_f64(),
            f64::from(self.changes) / self.took.as_secs_f64(),
            self.watched,
        );
        println!("a changed route, from the write to the first request by it: {}", self.first);
        println!(
            "a changed route, from the write's answer to the last request by the old one: {}",
            self.last
        );
        println!("a new route with a new pool, from the write to the first request by it: {}", self.appeared);
        println!("a deleted route, from the write to the first request without it: {}", self.vanished);
    }

    fn fail(&mut self, reason: String) {
        // One that fails all the time is not worth more lines.
        if self.failed.len() < 20 {
            self.failed.push(reason);
        }
    }
}

type Shared = Arc<Mutex<Said>>;

async fn run(objects: &Objects, gateway: SocketAddr) -> Said {
    let said = Shared::default();
    let stop = Arc::new(AtomicBool::new(false));
    let mut watchers = JoinSet::new();
    for _ in 0..WATCHERS {
        watchers.spawn(watch_switched(Probe::new(gateway), said.clone(), stop.clone()));
    }
    watchers.spawn(watch_moved(Probe::new(gateway), said.clone(), stop.clone()));
    let mut changer = Changer {
        objects,
        gateway,
        said: said.clone(),
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
    said.lock().unwrap().took = began.elapsed();
    changer.leave(number).await;
    // The last change must be seen, too.
    let deadline = Instant::now() + PATIENCE;
    while !said.lock().unwrap().switched.contains_key(&number) {
        assert!(Instant::now() < deadline, "change {number} was never seen: {:?}", said.lock().unwrap());
        sleep(PACE).await;
    }
    stop.store(true, Ordering::Relaxed);
    while watchers.join_next().await.transpose().unwrap().is_some() {}
    let mut said = std::mem::take(&mut *said.lock().unwrap());
    for (change, (began, ended)) in writes {
        if let Some((at, _)) = said.switched.range(change..).map(|(_, seen)| seen).min_by_key(|(at, _)| *at) {
            said.first.add(at.saturating_duration_since(began));
        }
        if let Some(sent) = said.switched.range(..change).map(|(_, (_, sent))| *sent).max() {
            said.last.add(sent.saturating_duration_since(ended));
        }
    }
    said
}

struct Changer<'a> {
    objects: &'a Objects,
    gateway: SocketAddr,
    said: Shared,
    ticks: tokio::time::Interval,
    /// Those who watch the routes that come and go.
    added: JoinSet<()>,
    /// When a route began to be deleted.
    going: BTreeMap<u32, Arc<Mutex<Option<Instant>>>>,
}

impl Changer<'_> {
    async fn write(&mut self, object: &Value) -> (Instant, Instant) {
        self.ticks.tick().await;
        let began = Instant::now();
        self.objects.apply(object).await.unwrap();
        self.said.lock().unwrap().changes += 1;
        (began, Instant::now())
    }

    async fn delete(&mut self, object: &Value) {
        self.objects.delete(object).await.unwrap();
        self.said.lock().unwrap().changes += 1;
    }

    /// The route switches sides; a pool is moved; a route comes with a pool of its own, and an older one goes
    /// with its pool. Tells when the first of these was written.
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
        self.added.spawn(added.watch(Probe::new(self.gateway), self.said.clone()));
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

    async fn leave(&mut self, last: u32) {
        for number in last.saturating_sub(LIFE_ROUNDS)..=last {
            self.remove(number).await;
        }
        while self.added.join_next().await.transpose().unwrap().is_some() {}
    }
}

async fn watch_switched(probe: Probe, said: Shared, stop: Arc<AtomicBool>) {
    while !stop.load(Ordering::Relaxed) {
        let answer = probe.chat(SWITCHED, None).await;
        said.lock().unwrap().by_the_route(answer);
        sleep(PACE).await;
    }
}

async fn watch_moved(probe: Probe, said: Shared, stop: Arc<AtomicBool>) {
    while !stop.load(Ordering::Relaxed) {
        let answer = probe.chat(SWITCHED, Some((MOVED, "1"))).await;
        said.lock().unwrap().by_the_pool(answer);
        sleep(PACE).await;
    }
}

impl Said {
    fn by_the_route(&mut self, answer: anyhow::Result<Answered>) {
        self.watched += 1;
        let seen = answer.map_err(|error| format!("{SWITCHED}: {error:#}")).and_then(|answer| {
            let (change, side) = of_one_state(&answer)?;
            Ok((change, side, answer))
        });
        match seen {
            Ok((change, side, answer)) => {
                let seen = self.switched.entry(change).or_insert((answer.at, answer.sent));
                *seen = (seen.0.min(answer.at), seen.1.max(answer.sent));
                *self.by_side.entry(side).or_default() += 1;
            }
            Err(reason) => self.fail(reason),
        }
    }

    fn by_the_pool(&mut self, answer: anyhow::Result<Answered>) {
        self.watched += 1;
        match answer {
            Ok(answer) if answer.status == 200 && !answer.headers.contains_key("x-change") => {}
            other => self.fail(format!("moved: {other:?}")),
        }
    }
}

/// Which change the answer is by, and which side it is from; an error unless these belong together.
fn of_one_state(answer: &Answered) -> Result<(u32, String), String> {
    let header = |name: &str| answer.headers.get(name).and_then(|it| it.to_str().ok()).unwrap_or_default();
    let wrong = || format!("{SWITCHED}: {} {:?} {}", answer.status, answer.headers, answer.body);
    let change: u32 = header("x-change").parse().map_err(|_| wrong())?;
    let side = header("x-side");
    if answer.status == 200 && side == side_of(change) { Ok((change, side.to_owned())) } else { Err(wrong()) }
}

/// A route that comes and goes, from when it is written until some time after it is gone: no route, then its
/// pool, then no route, and nothing else.
struct Added {
    model: String,
    began: Instant,
    going: Arc<Mutex<Option<Instant>>>,
    appeared: bool,
    vanished: Option<Instant>,
}

impl Added {
    async fn watch(mut self, probe: Probe, said: Shared) {
        let deadline = Instant::now() + PATIENCE;
        while self.vanished.is_none_or(|at| at.elapsed() < AFTERWARDS) {
            let reached = probe.reached(&self.model).await;
            let gone = *self.going.lock().unwrap();
            self.note(reached, gone, &mut said.lock().unwrap());
            if Instant::now() > deadline {
                let reason = format!("{}: its route did not come and go in {PATIENCE:?}", self.model);
                return said.lock().unwrap().fail(reason);
            }
            sleep(if self.appeared && gone.is_none() { SLOW_PACE } else { PACE }).await;
        }
    }

    fn note(&mut self, reached: Result<Reached, String>, gone: Option<Instant>, said: &mut Said) {
        said.watched += 1;
        match (reached, gone) {
            (Ok(Reached::Engine), None) if !self.appeared => {
                self.appeared = true;
                said.appeared.add(self.began.elapsed());
            }
            (Ok(Reached::Engine), _) => {}
            (Ok(Reached::Nothing), Some(since)) if self.appeared => {
                if self.vanished.is_none() {
                    self.vanished = Some(Instant::now());
                    said.vanished.add(since.elapsed());
                }
            }
            // The replicas of the gateway need not hear of it at the same time.
            (Ok(Reached::Nothing), None) if self.began.elapsed() < LONGEST => {}
            (reached, gone) => {
                let model = &self.model;
                said.fail(format!("{model}: {reached:?}, appeared: {}, gone: {gone:?}", self.appeared));
            }
        }
    }
}
