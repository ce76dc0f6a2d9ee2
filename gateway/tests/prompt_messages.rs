//! The prompt goes to Forebay's picker in messages, and the body stays in the gateway.

use std::num::NonZeroUsize;
use std::sync::atomic::Ordering;

use forebay_grpc::names::METADATA_FOREBAY;
use forebay_grpc::proto::{BodySendMode, ProcessingRequest};

use crate::support::client::{connect, exchange, post, read_response};
use crate::support::harness::{Harness, QWEN, Running};
use crate::support::picker::{Fixed, Picker, Seen};
use crate::support::prompts::{chat, echo_ports, text};
use crate::support::proxy::{ForebayPicker, Proxy, body_bytes, encoded_bytes, has_prompt};
use crate::support::upstream::{Connection, Upstream};
use crate::support::{until, within};

/// Connections of one worker to a picker. The first request on each goes as to any picker.
const CONNECTIONS: usize = 2;
const SHARES: &str = r#"forebay_epp_body_share_at_pick_bucket{le="0.1"}"#;

/// A gateway, and `forebay-epp` for its pool.
struct Setup {
    running: Running,
    picker: ForebayPicker,
    proxy: Proxy,
}

impl Setup {
    async fn start(ports: &[u16]) -> Self {
        let picker = ForebayPicker::start(&Harness::new().pool("qwen", QWEN, ports, None).manifests).await;
        let proxy = picker.proxy().await;
        let harness = Harness::new().pool("qwen", QWEN, ports, Some((proxy.port(), "FailClose")));
        let running = harness.with_trusted_listener().start_with(|config| {
            config.workers = NonZeroUsize::new(1);
        });
        Self { running: running.await, picker, proxy }
    }

    /// The port of the pod that served the request, and what the picker saw of it.
    async fn send(&self, body: &str) -> (String, Vec<ProcessingRequest>) {
        self.proxy.take();
        let response = exchange(self.running.address(), post(body)).await;
        assert_eq!(response.status, 200, "{}", response.text());
        self.proxy.until_response().await;
        (response.text().to_owned(), self.proxy.take())
    }

    /// Uses all connections once.
    async fn warm(&self) {
        for n in 0..CONNECTIONS {
            self.send(&chat(&format!("warm {n}"), "")).await;
        }
    }

    /// The next request sends no body.
    async fn send_prompt(&self, body: &str) -> String {
        let (port, seen) = self.send(body).await;
        assert_eq!(body_bytes(&seen), 0, "bytes of the body went to the picker");
        assert!(has_prompt(&seen[0]), "the prompt comes with the headers: {:?}", seen[0]);
        let config = seen[0].protocol_config.unwrap();
        assert_eq!(config.request_body_mode(), BodySendMode::None);
        port
    }
}

#[tokio::test]
async fn a_repeated_prompt_goes_to_the_same_pod_without_its_body() {
    let (ports, _pods) = echo_ports(2).await;
    let setup = Setup::start(&ports).await;
    let (_, seen) = setup.send(&chat("first", "")).await;
    assert_eq!(body_bytes(&seen), chat("first", "").len(), "an unknown picker gets the body");
    assert!(!seen.iter().any(has_prompt));
    setup.warm().await;
    let prefixes: Vec<String> = (0..4).map(|n| text(&format!("tenant {n}"), 20_000)).collect();
    let mut first = Vec::new();
    for prefix in &prefixes {
        first.push(setup.send_prompt(&chat(prefix, "")).await);
    }
    assert!(first.iter().any(|port| *port != first[0]), "all on one pod: {first:?}");
    for turn in 0..3 {
        for (prefix, first) in prefixes.iter().zip(&first).rev() {
            let longer = format!("{prefix}{}", text(&format!("turn {turn}"), 600));
            assert_eq!(&setup.send_prompt(&chat(&longer, "")).await, first, "turn {turn}");
        }
    }
}

#[tokio::test]
async fn both_ways_find_what_the_other_has_sent() {
    let (ports, _pods) = echo_ports(4).await;
    let setup = Setup::start(&ports).await;
    let salt = r#","cache_salt":"secret","tools":["a tool"]"#;
    for (way, is_older) in [("body, then messages", true), ("messages, then body", false)] {
        let bodies: Vec<String> = (0..6).map(|n| chat(&text(&format!("{way} {n}"), 9_000), salt)).collect();
        let mut first = Vec::new();
        setup.proxy.is_older.store(is_older, Ordering::Relaxed);
        setup.warm().await;
        for body in &bodies {
            let (port, seen) = setup.send(body).await;
            assert_eq!(seen.iter().any(has_prompt), !is_older, "{way}");
            first.push(port);
        }
        setup.proxy.is_older.store(!is_older, Ordering::Relaxed);
        setup.warm().await;
        // In another order than the first time, so that taking turns is not enough.
        for (body, first) in bodies.iter().zip(&first).rev() {
            let (port, seen) = setup.send(body).await;
            assert_eq!(seen.iter().any(has_prompt), is_older, "{way}");
            assert_eq!(&port, first, "{way}");
        }
    }
}

#[tokio::test]
async fn messages_before_the_model_work() {
    let (ports, _pods) = echo_ports(2).await;
    let setup = Setup::start(&ports).await;
    setup.warm().await;
    let body = |prompt: &str| {
        format!(r#"{{"messages":[{{"role":"user","content":"{prompt}"}}],"stream":false,"model":"{QWEN}"}}"#)
    };
    let prompts: Vec<String> = (0..4).map(|n| text(&format!("sdk {n}"), 30_000)).collect();
    let mut first = Vec::new();
    for prompt in &prompts {
        first.push(setup.send_prompt(&body(prompt)).await);
    }
    for (prompt, first) in prompts.iter().zip(&first).rev() {
        assert_eq!(&setup.send_prompt(&body(prompt)).await, first, "the same order of members");
        assert_eq!(&setup.send_prompt(&chat(prompt, "")).await, first, "the model first");
    }
}

#[tokio::test]
async fn a_picker_that_does_not_take_prompts_gets_bodies() {
    let (ports, _pods) = echo_ports(2).await;
    let setup = Setup::start(&ports).await;
    setup.proxy.is_older.store(true, Ordering::Relaxed);
    for n in 0..6 {
        let body = chat(&text(&format!("prompt {n}"), 3_000), "");
        let (_, seen) = setup.send(&body).await;
        assert_eq!(body_bytes(&seen), body.len());
        assert!(!seen.iter().any(has_prompt));
    }
    // A decision that says nothing of prompts ends them, too.
    setup.proxy.is_older.store(false, Ordering::Relaxed);
    setup.warm().await;
    setup.send_prompt(&chat("known", "")).await;
    setup.proxy.is_older.store(true, Ordering::Relaxed);
    setup.warm().await;
    let (_, seen) = setup.send(&chat("forgotten", "")).await;
    assert_eq!(body_bytes(&seen), chat("forgotten", "").len());
}

#[tokio::test]
async fn what_is_known_of_a_picker_ends_with_its_connection() {
    let pod = Upstream::bind().await;
    let setup = Setup::start(&[pod.port()]).await;
    let send = async |body: &str| {
        tokio::join!(exchange(setup.running.address(), post(body)), pod.answer_one("ok")).0.status
    };
    for _ in 0..=CONNECTIONS {
        assert_eq!(send(&chat("hello", "")).await, 200);
    }
    assert_eq!(setup.proxy.take().iter().filter(|it| has_prompt(it)).count(), 1, "the last one");
    let address = setup.proxy.stop();
    // An older picker at the same address.
    let mut older =
        until("the port to be free", async || Picker::try_start_at(Fixed::at(pod.address()), address).await)
            .await;
    let body = chat(&text("new", 3_000), "");
    let first = within("the old connections to end", async {
        loop {
            assert_eq!(send(&body).await, 200);
            if let Some(Seen::Message(first)) = older.try_seen() {
                break first;
            }
        }
    })
    .await;
    assert!(!has_prompt(&first), "{first:?}");
    let is_body = |seen: &Seen| matches!(seen, Seen::Message(it) if body_bytes(std::slice::from_ref(it)) > 0);
    older.until("the body", is_body).await;
}

#[tokio::test]
async fn a_body_without_a_readable_prompt_is_not_sent() {
    let (ports, _pods) = echo_ports(2).await;
    let setup = Setup::start(&ports).await;
    setup.warm().await;
    let body = format!(r#"{{"model":"{QWEN}","input":"hello"}}"#);
    let request = post(&body).replace("/v1/chat/completions", "/v1/audio/speech");
    setup.proxy.take();
    assert_eq!(exchange(setup.running.address(), request).await.status, 200);
    setup.proxy.until_response().await;
    let seen = setup.proxy.take();
    assert_eq!((body_bytes(&seen), seen.iter().any(has_prompt)), (0, false));
}

#[tokio::test]
async fn a_new_prompt_is_sent_before_its_end_and_known_to_its_end() {
    let pods = [Upstream::bind().await, Upstream::bind().await];
    let setup = Setup::start(&pods.each_ref().map(Upstream::port)).await;
    for n in 0..CONNECTIONS {
        let body = post(&chat(&format!("warm {n}"), ""));
        tokio::join!(exchange(setup.running.address(), body), answer(&pods));
    }
    let request = post(&chat(&text("new", 2_000_000), ""));
    let (start, rest) = request.split_at(16 << 10);
    let mut client = connect(setup.running.address()).await;
    setup.proxy.take();
    client.write(start).await;
    let (mut pod, port) = accept(&pods).await;
    let mut head = pod.read_head().await;
    assert_eq!(setup.picker.metric(SHARES).await, 1.0, "decided while the client uploads");
    let early = setup.proxy.take();
    client.write(rest).await;
    pod.read_body(&mut head).await;
    // The blocks behind the decision do not wait for the response.
    let last = until("the rest of the prompt", async || setup.proxy.take().pop()).await;
    assert!(last.request.is_none() && has_prompt(&last), "{last:?}");
    let sizes = [encoded_bytes(&early), encoded_bytes(std::slice::from_ref(&last))];
    println!("{} bytes of body: {} bytes for the decision, {} behind it", rest.len(), sizes[0], sizes[1]);
    assert!(sizes[0] < 4 << 10, "{sizes:?}");
    pod.respond(200, "").await;
    assert_eq!(read_response(&mut client).await.status, 200);
    drop(pod);

    // The whole prompt is known, so the next one is read to the point where it differs.
    let other_end = post(&chat(&format!("{}end", text("new", 2_000_000)), ""));
    let mut client = connect(setup.running.address()).await;
    let ((mut pod, second), ()) = tokio::join!(accept(&pods), client.write(&other_end));
    pod.read_request().await;
    pod.respond(200, "").await;
    assert_eq!(read_response(&mut client).await.status, 200);
    assert_eq!(second, port);
    assert_eq!(setup.picker.metric(SHARES).await, 1.0, "not early");
    assert_eq!(body_bytes(&setup.proxy.take()), 0);
}

async fn accept(pods: &[Upstream; 2]) -> (Connection, u16) {
    tokio::select! {
        pod = pods[0].accept() => (pod, pods[0].port()),
        pod = pods[1].accept() => (pod, pods[1].port()),
    }
}

/// Answers one request on a connection that is closed after it.
async fn answer(pods: &[Upstream; 2]) {
    let (mut pod, _) = accept(pods).await;
    pod.read_request().await;
    pod.write("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 0\r\n\r\n").await;
}

#[tokio::test]
async fn a_prompt_that_may_not_be_held_is_decided_with_what_is_known() {
    let (ports, _pods) = echo_ports(2).await;
    let setup = Setup::start(&ports).await;
    setup.warm().await;
    let large = chat(&text("large", 12 << 20), "");
    let first = setup.send_prompt(&large).await;
    assert_eq!(setup.send_prompt(&large).await, first);
}

#[tokio::test]
async fn the_share_of_the_body_is_explained() {
    let (ports, _pods) = echo_ports(2).await;
    let setup = Setup::start(&ports).await;
    setup.warm().await;
    let request = post(&chat("hello", "")).replacen("\r\n", "\r\nx-forebay-explain: 1\r\n", 1);
    let response = exchange(setup.running.trusted_address(), request).await;
    let text = response.head.header("x-forebay-explanation").expect("an explanation");
    let explanation: serde_json::Value = serde_json::from_str(text).unwrap();
    assert_eq!(explanation["bodyShareAtPick"], 1.0, "{explanation}");
    assert_eq!(explanation["picker"], format!("127.0.0.1:{}", setup.proxy.port()));
}

/// What 220 KB of prompt cost on the connection to the picker, in both directions.
#[tokio::test]
async fn a_long_prompt_costs_a_few_kilobytes() {
    let (ports, _pods) = echo_ports(2).await;
    let setup = Setup::start(&ports).await;
    let body = chat(&text("long", 220_000), "");
    setup.proxy.is_older.store(true, Ordering::Relaxed);
    setup.warm().await;
    let (_, before) = setup.send(&body).await;
    setup.proxy.is_older.store(false, Ordering::Relaxed);
    let echoed = encoded_bytes(&before) + body_bytes(&before);
    setup.warm().await;
    for (what, body) in [("repeated", &body), ("new", &chat(&text("other", 220_000), ""))] {
        let (_, after) = setup.send(body).await;
        assert!(after.iter().any(has_prompt), "{METADATA_FOREBAY} is in no message");
        let bytes = encoded_bytes(&after);
        println!(
            "{what}: {bytes} bytes in {} messages, before {echoed} with the body that came back: 1/{}",
            after.len(),
            echoed / bytes
        );
        assert!(bytes < 16 << 10, "{what}: {bytes} bytes");
    }
}
