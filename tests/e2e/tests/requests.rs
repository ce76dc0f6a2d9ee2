//! `forebay requests`: real kernel programs, simulated engines, and what their clients saw.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test prints what it skips and measures, and fails by panicking"
)]

use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
    thread,
    time::{Duration, Instant},
};

use forebay_e2e::{
    TIMEOUT, eventually,
    harness::{Engine, Harness, HarnessOptions, PoolOptions, QWEN, SimOptions},
};
use forebay_telemetry::{
    requests::{RequestOptions, RequestStream},
    v1::DroppedRequests,
};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

/// Pause between two tokens: a stream of three takes 1.5 s.
const TOKEN_INTERVAL_US: u64 = 500_000;

/// Two pods. `None` if this machine cannot measure in the kernel.
fn start() -> Option<Harness> {
    let sim = SimOptions { token_interval_us: TOKEN_INTERVAL_US, ..SimOptions::default() };
    let pools = vec![PoolOptions { name: "qwen", model: QWEN, pods: 2 }];
    let options = HarnessOptions { engine: Engine::Sim(sim), pools, ..HarnessOptions::default() };
    let harness = Harness::start(options).unwrap();
    if !harness.unavailable.is_empty() {
        println!("skipped: {}", harness.unavailable.join("; "));
        return None;
    }
    Some(harness)
}

/// A running `forebay requests`.
struct Follower {
    child: Child,
    out: Arc<Mutex<Vec<String>>>,
    err: Arc<Mutex<Vec<String>>>,
}

impl Follower {
    /// Returns when it follows the agent.
    fn start(harness: &Harness, arguments: &[&str]) -> Self {
        let mut command = Command::new(harness.program("forebay"));
        command.args(["requests", "--agents", &harness.network.agent().to_string()]).args(arguments);
        command.env("KUBECONFIG", "/nonexistent").env("HOME", "/nonexistent");
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let out = lines(child.stdout.take().unwrap());
        let err = lines(child.stderr.take().unwrap());
        let follower = Self { child, out, err };
        eventually("it follows the agent", || follower.err().contains("following the requests of 1 agent"));
        follower
    }

    fn lines(&self) -> Vec<String> {
        self.out.lock().unwrap().clone()
    }

    fn err(&self) -> String {
        self.err.lock().unwrap().join("\n")
    }

    fn documents(&self, kind: &str) -> Vec<Value> {
        let documents =
            self.lines().iter().map(|line| serde_json::from_str(line).unwrap()).collect::<Vec<Value>>();
        documents.into_iter().filter(|document| document["kind"] == kind).collect()
    }

    fn requests(&self) -> Vec<Value> {
        self.documents("Request")
    }

    /// Ends it as Ctrl-C does.
    fn interrupt(&mut self) {
        let pid = Pid::from_raw(i32::try_from(self.child.id()).unwrap()).unwrap();
        kill_process(pid, Signal::INT).unwrap();
        let status = self.child.wait().unwrap();
        assert_eq!(status.code(), Some(0), "{}", self.err());
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn lines(pipe: impl std::io::Read + Send + 'static) -> Arc<Mutex<Vec<String>>> {
    let lines = Arc::<Mutex<Vec<String>>>::default();
    let filled = Arc::clone(&lines);
    thread::spawn(move || {
        for line in BufReader::new(pipe).lines().map_while(Result::ok) {
            filled.lock().unwrap().push(line);
        }
    });
    lines
}

/// A pod: name and address.
type Target = (String, SocketAddr);

/// What a client saw of a response: status, aborted, bytes of head and body, chunks.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Seen {
    pod: String,
    status: Option<u64>,
    aborted: bool,
    bytes: u64,
    chunks: u64,
}

impl Seen {
    fn of(document: &Value) -> Self {
        Self {
            pod: document["pod"].as_str().unwrap().to_owned(),
            status: document["status"].as_u64(),
            aborted: document["aborted"].as_bool().unwrap(),
            bytes: document["responseBytes"].as_u64().unwrap(),
            chunks: document["responseChunks"].as_u64().unwrap(),
        }
    }

    fn read(pod: &str, raw: &[u8], aborted: bool) -> Self {
        let head = raw.windows(4).position(|window| window == b"\r\n\r\n");
        let (head, body) = raw.split_at(head.map_or(raw.len(), |at| at + 4));
        let head = String::from_utf8_lossy(head).to_ascii_lowercase();
        let is_chunked = head.contains("transfer-encoding: chunked");
        Self {
            pod: pod.to_owned(),
            status: head.split(' ').nth(1).and_then(|status| status.parse().ok()),
            aborted,
            bytes: raw.len() as u64,
            chunks: if is_chunked { chunks(body) } else { 0 },
        }
    }
}

/// Number of complete chunks with data.
fn chunks(mut body: &[u8]) -> u64 {
    let mut count = 0;
    while let Some(end) = body.windows(2).position(|window| window == b"\r\n") {
        let size = usize::from_str_radix(str::from_utf8(&body[..end]).unwrap(), 16).unwrap();
        let Some(rest) = body.get(end + 2 + size + 2..) else { break };
        if size == 0 {
            break;
        }
        (count, body) = (count + 1, rest);
    }
    count
}

fn post(address: SocketAddr, body: &Value) -> TcpStream {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let body = body.to_string();
    let head = format!(
        "POST /v1/chat/completions HTTP/1.1\r\nHost: {address}\r\nContent-Type: application/json\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all((head + &body).as_bytes()).unwrap();
    stream
}

fn body(max_tokens: i64, stream: bool) -> Value {
    json!({ "model": QWEN, "messages": [{ "role": "user", "content": "Hi" }], "max_tokens": max_tokens, "stream": stream })
}

/// Reads the whole response.
fn complete((pod, address): &Target, body: &Value) -> Seen {
    let mut raw = Vec::new();
    post(*address, body).read_to_end(&mut raw).unwrap();
    Seen::read(pod, &raw, false)
}

/// Closes the connection after this number of chunks.
fn abort_after((pod, address): &Target, body: &Value, chunks: u64) -> Seen {
    let mut stream = post(*address, body);
    let mut raw = Vec::new();
    while Seen::read(pod, &raw, true).chunks < chunks {
        let mut piece = [0; 4096];
        let read = stream.read(&mut piece).unwrap();
        assert_ne!(read, 0, "the server closed the connection");
        raw.extend_from_slice(&piece[..read]);
    }
    Seen::read(pod, &raw, true)
}

/// Two streams, a response without streaming, an error, an abort between two tokens, and one before the response.
fn traffic([first, second]: [Target; 2]) -> Vec<Seen> {
    drop(post(first.1, &body(1, false)));
    let unanswered = Seen { pod: first.0.clone(), status: None, aborted: true, bytes: 0, chunks: 0 };
    let mut seen = vec![unanswered];
    thread::scope(|scope| {
        let clients = [
            scope.spawn(|| complete(&first, &body(3, true))),
            scope.spawn(|| complete(&second, &body(4, true))),
            scope.spawn(|| complete(&first, &body(1, false))),
            scope.spawn(|| complete(&first, &body(-1, true))),
            // The chunk of the role, and the first token.
            scope.spawn(|| abort_after(&second, &body(8, true), 2)),
        ];
        seen.extend(clients.map(|client| client.join().unwrap()));
    });
    seen.sort();
    seen
}

fn sorted(documents: &[Value]) -> Vec<Seen> {
    let mut seen: Vec<Seen> = documents.iter().map(Seen::of).collect();
    seen.sort();
    seen
}

/// Flags, and which requests they select.
type Filter = (&'static [&'static str], fn(&Seen) -> bool);

#[test]
fn each_request_is_shown_once_with_what_its_client_saw() {
    let Some(harness) = start() else { return };
    let targets = [0, 1].map(|pod| (harness.pods[pod].name.clone(), harness.pods[pod].address));
    let mut all = Follower::start(&harness, &["-o", "json", "--limit", "6"]);
    let filters: [Filter; 5] = [
        (&["--status", "4xx"], |seen| seen.status == Some(400)),
        (&["--status", "aborted,5xx"], |seen| seen.aborted),
        (&["--slower-than", "1200ms"], |seen| seen.chunks > 3),
        (&["--pod", "qwen-0", "--status", "200"], |seen| seen.pod == "qwen-0" && seen.status == Some(200)),
        (&["-n", "elsewhere"], |_| false),
    ];
    let mut filtered = filters.map(|(flags, matches)| {
        (Follower::start(&harness, &[&["-o", "json"], flags].concat()), flags, matches)
    });
    let table = Follower::start(&harness, &[]);

    let seen = traffic(targets);
    assert_eq!(all.child.wait().unwrap().code(), Some(0), "--limit ends it");
    eventually("all lines are read", || all.lines().len() == 6);
    let requests = all.requests();
    assert_eq!(sorted(&requests), seen);
    for request in &requests {
        let duration = request["durationSeconds"].as_f64().unwrap();
        let ttft = request["ttftSeconds"].as_f64();
        assert_eq!(ttft.is_some(), request["status"].is_number(), "{request}");
        assert!(ttft.is_none_or(|ttft| ttft <= duration), "{request}");
        let streamed = request["responseChunks"].as_u64().unwrap() > 3;
        assert!(!streamed || duration > 1.4 && ttft.is_some_and(|ttft| ttft < duration / 2.0), "{request}");
        assert_eq!((&request["namespace"], &request["node"]), (&"llm-d".into(), &"forebay-node-0".into()));
    }
    assert!(all.documents("RequestsDropped").is_empty());

    for (follower, flags, matches) in &mut filtered {
        let expected: Vec<Seen> = seen.iter().filter(|seen| matches(seen)).cloned().collect();
        eventually("the matching requests", || follower.lines().len() >= expected.len());
        follower.interrupt();
        assert_eq!(sorted(&follower.requests()), expected, "{flags:?}");
    }
    eventually("a row per request", || table.lines().len() == 7);
    println!("{}", table.lines().join("\n"));
    assert!(table.lines()[0].starts_with("TIME"));
}

/// Complete responses with an error, on one connection.
fn errors(address: SocketAddr, count: usize) {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_nodelay(true).unwrap();
    let body = body(-1, false).to_string();
    let request = format!(
        "POST /v1/chat/completions HTTP/1.1\r\nHost: {address}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    for _ in 0..count {
        stream.write_all(request.as_bytes()).unwrap();
        let mut length = 0;
        loop {
            let mut line = String::new();
            assert_ne!(reader.read_line(&mut line).unwrap(), 0, "the server closed the connection");
            let line = line.trim_end().to_ascii_lowercase();
            if let Some(value) = line.strip_prefix("content-length:") {
                length = value.trim().parse().unwrap();
            }
            if line.is_empty() {
                break;
            }
        }
        reader.read_exact(&mut vec![0; length]).unwrap();
    }
}

#[test]
fn requests_over_the_rate_are_counted_not_shown() {
    const SENT: u64 = 60;
    let Some(harness) = start() else { return };
    let started = Instant::now();
    let mut follower = Follower::start(&harness, &["-o", "json", "--rate", "5"]);
    errors(harness.pods[0].address, SENT as usize);
    let over_rate = |follower: &Follower| -> u64 {
        follower.documents("RequestsDropped").iter().map(|it| it["overRate"].as_u64().unwrap()).sum()
    };
    eventually("every request is shown or counted", || {
        follower.requests().len() as u64 + over_rate(&follower) >= SENT
    });
    follower.interrupt();
    let shown = follower.requests().len() as u64;
    assert_eq!(shown + over_rate(&follower), SENT);
    let most = 5 + 5 * (started.elapsed().as_secs() + 1);
    assert!((5..=most).contains(&shown), "{shown} of at most {most}");
    assert!(follower.err().contains("over --rate 5"), "{}", follower.err());
}

/// Resident memory of a process.
fn memory_bytes(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
}

/// Sends requests on four connections. Returns how long they took.
fn flood(harness: &Harness, per_connection: usize) -> Duration {
    let started = Instant::now();
    let clients = [0, 1, 0, 1].map(|pod| {
        let address = harness.pods[pod].address;
        thread::spawn(move || errors(address, per_connection))
    });
    clients.into_iter().for_each(|client| client.join().unwrap());
    started.elapsed()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_takes_nothing_slows_nothing_and_is_told_what_it_lost() {
    // More than the reader's HTTP/2 window (2 MiB) and the agent's queue hold.
    const PER_CONNECTION: usize = 15_000;
    let Some(harness) = tokio::task::spawn_blocking(start).await.unwrap() else { return };
    // The same load without a reader.
    let alone = flood(&harness, PER_CONNECTION);
    let before_bytes = memory_bytes(harness.agent.pid());
    let options = RequestOptions { max_per_second: 10_000, ..RequestOptions::default() };
    let mut stream = RequestStream::open(harness.network.agent(), &options).await.unwrap();
    assert!(stream.next().await.unwrap().frame.node.is_some());
    let watched = flood(&harness, PER_CONNECTION);
    let grown_bytes = memory_bytes(harness.agent.pid()).saturating_sub(before_bytes);

    let sent = 4 * PER_CONNECTION as u64;
    let (mut received, mut dropped) = (0, DroppedRequests::default());
    let deadline = Instant::now() + TIMEOUT;
    while received + dropped.unread + dropped.over_rate < sent {
        assert!(Instant::now() < deadline, "{received} of {sent} received, {dropped:?}");
        let frame = stream.next().await.unwrap().frame;
        received += frame.requests.len() as u64;
        dropped = frame.dropped.unwrap();
    }
    println!(
        "{sent} requests in {alone:?} without a reader, in {watched:?} with one that takes nothing; the agent grew by {} KiB; \
         {received} received, {dropped:?}",
        grown_bytes >> 10
    );
    assert_eq!(received + dropped.unread + dropped.over_rate, sent);
    assert!(dropped.unread > 0 && dropped.kernel_events == Some(0), "{dropped:?}");
    assert!(grown_bytes < 16 << 20, "{grown_bytes} bytes");
    assert!(watched < alone * 3, "{watched:?} instead of {alone:?}");
}
