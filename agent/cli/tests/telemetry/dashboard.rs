//! `forebay dashboard`: its server, over real sockets.

use serde_json::Value;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
    task::JoinSet,
};

use crate::{
    agent::{Agent, BUSY},
    program::forebay,
    site::{Dashboard, TIMEOUT, eventually},
};

pub(crate) async fn start(agent: &Agent, more: &[&str]) -> Dashboard {
    let address = agent.address.to_string();
    Dashboard::start(&[&["--agents", &address], more].concat()).await
}

fn pod<'a>(document: &'a Value, name: &str) -> Option<&'a Value> {
    document["pods"].as_array()?.iter().find(|pod| pod["name"] == name)
}

#[tokio::test(flavor = "multi_thread")]
async fn only_its_own_page_on_this_machine_is_served() {
    let agent = Agent::start().await;
    let dashboard = start(&agent, &[]).await;
    let port = dashboard.address.port();
    let own = format!("http://127.0.0.1:{port}");
    let token = format!("Bearer {}", dashboard.token);
    let (rebound, other_port) = (format!("attacker.example:{port}"), format!("127.0.0.1:{}", port ^ 1));
    let name = format!("localhost:{port}");
    let authorization = ("authorization", token.as_str());
    for (method, path, headers, status) in [
        ("GET", "/", &[][..], 200),
        ("GET", "/", &[("host", name.as_str())], 200),
        ("HEAD", "/app.js", &[], 200),
        ("GET", "/api/fleet", &[authorization], 200),
        ("GET", "/", &[("host", &rebound)], 421),
        ("GET", "/api/fleet", &[authorization, ("host", &rebound)], 421),
        ("GET", "/api/fleet", &[authorization, ("host", &other_port)], 421),
        ("GET", "/api/fleet", &[], 401),
        ("GET", "/api/events", &[], 401),
        ("GET", "/api/fleet", &[("authorization", "Bearer 0123456789abcdef0123456789abcdef")], 401),
        ("GET", "/api/fleet", &[authorization, ("origin", "http://attacker.example")], 403),
        ("POST", "/api/chat", &[authorization], 403),
        ("POST", "/api/chat", &[authorization, ("origin", "null")], 403),
        ("POST", "/api/chat", &[authorization, ("origin", "http://attacker.example")], 403),
        ("POST", "/api/chat", &[("origin", &own)], 401),
        ("POST", "/api/chat", &[authorization, ("origin", &own)], 404),
        ("POST", "/api/fleet", &[authorization, ("origin", &own)], 405),
        ("POST", "/", &[("origin", &own)], 405),
        ("GET", "/api/secrets", &[authorization], 404),
        ("GET", "/../etc/passwd", &[], 404),
    ] {
        let response = dashboard.open(method, path, headers, "{}").await;
        assert_eq!(response.status, status, "{method} {path} {headers:?}");
        let header = |name: &str| response.headers[name].to_str().unwrap().to_owned();
        let policy = header("content-security-policy");
        for rule in
            ["default-src 'none'", "script-src 'self'", "connect-src 'self'", "frame-ancestors 'none'"]
        {
            assert!(policy.contains(rule), "{policy}");
        }
        assert_eq!(
            (header("x-content-type-options"), header("cache-control")),
            ("nosniff".into(), "no-store".into())
        );
        assert!(!response.headers.contains_key("access-control-allow-origin"));
        let text = response.text().await;
        if status >= 400 {
            assert!(!text.contains("zealous") && !text.contains(&dashboard.token), "{text}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_documents_follow_the_telemetry() {
    let mut agent = Agent::start().await;
    let dashboard = start(&agent, &[]).await;
    eventually("the pods", async || pod(&dashboard.fleet().await, "zealous").map(|_| ())).await;
    let mut events = dashboard.open_own("GET", "/api/events", "").await;
    assert_eq!(
        (events.status.as_u16(), &events.headers["content-type"]),
        (200, &"text/event-stream".parse().unwrap())
    );
    let mut unread = String::new();
    let mut next = async || {
        loop {
            if let Some((event, rest)) = unread.split_once("\n\n") {
                let document: Value = serde_json::from_str(event.strip_prefix("data: ").unwrap()).unwrap();
                unread = rest.to_owned();
                return document;
            }
            unread += &events.chunk().await.unwrap();
        }
    };
    let document = next().await;
    assert_eq!(
        (&document["apiVersion"], &document["kind"]),
        (&"forebay.dev/v1alpha1".into(), &"Dashboard".into())
    );
    assert_eq!(pod(&document, "zealous").unwrap()["kernel"]["inFlight"], 7);
    let idle = pod(&document, "idle").unwrap();
    assert_eq!(
        (&idle["gpu"]["utilization"], &idle["kernel"]["waiting"]),
        (&Value::Null, &Value::Null),
        "unknown"
    );
    agent.measure(BUSY, "zealous", 11);
    eventually("the new load", async || {
        (pod(&next().await, "zealous")?["kernel"]["inFlight"] == 11).then_some(())
    })
    .await;
    eventually("a reader of ended requests", async || agent.end_request(418).then_some(())).await;
    let request = eventually("the ended request", async || {
        let document = next().await;
        document["requests"]["items"].as_array()?.first().cloned()
    })
    .await;
    assert_eq!(
        (&request["pod"], &request["status"], &request["aborted"]),
        (&"zealous".into(), &418.into(), &false.into())
    );
    assert_eq!(request["ttftSeconds"], Value::Null, "unknown");
    agent.stop().await;
    let lost = eventually("the lost agent", async || {
        let document = next().await;
        (pod(&document, "zealous")?["lost"] == true).then_some(document)
    })
    .await;
    assert_eq!(pod(&lost, "zealous").unwrap()["verdict"]["text"], "unknown");
    assert!(lost["notices"][0].as_str().unwrap().contains("lost"), "{lost}");
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_are_bounded_and_their_places_are_free_again() {
    let agent = Agent::start().await;
    let dashboard = start(&agent, &[]).await;
    let mut open = Vec::new();
    for _ in 0..16 {
        let mut stream = dashboard.open_own("GET", "/api/events", "").await;
        assert_eq!(stream.status, 200);
        assert!(stream.chunk().await.is_some());
        open.push(stream);
    }
    let refused = dashboard.open_own("GET", "/api/events", "").await;
    assert_eq!(refused.status, 503);
    assert!(refused.text().await.contains("too_many_subscribers"));
    assert_eq!(dashboard.open_own("GET", "/api/fleet", "").await.status, 200);
    open.pop();
    eventually("a free place", async || {
        (dashboard.open_own("GET", "/api/events", "").await.status == 200).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn open_streams_outlive_a_flood_of_connections() {
    let agent = Agent::start().await;
    let dashboard = start(&agent, &[]).await;
    let mut stream = dashboard.open_own("GET", "/api/events", "").await;
    assert!(stream.chunk().await.is_some());
    let mut silent = Vec::new();
    for _ in 0..200 {
        silent.push(tokio::net::TcpStream::connect(dashboard.address).await.unwrap());
    }
    assert_eq!(dashboard.open_own("GET", "/api/fleet", "").await.status, 200);
    for _ in 0..3 {
        assert!(stream.chunk().await.is_some(), "the stream is not closed");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn addresses_of_other_machines_and_taken_ports_are_refused() {
    for address in ["0.0.0.0:0", "10.0.0.1:9000", "[::]:0"] {
        let (code, out, error) =
            forebay(&["dashboard", "--agents", "127.0.0.1:1", "--listen", address]).await;
        assert_eq!((code, out.as_str()), (Some(2), ""), "{address}");
        assert!(error.contains("is not a loopback address") && error.contains("ssh -L"), "{error}");
    }
    let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let (code, _, error) = forebay(&["dashboard", "--agents", "127.0.0.1:1", "--listen", &address]).await;
    assert_eq!(code, Some(1));
    assert!(error.contains(&format!("cannot listen on {address}")), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn ends_on_signals_with_open_streams() {
    let agent = Agent::start().await;
    for signal in ["INT", "TERM", "HUP"] {
        let dashboard = start(&agent, &[]).await;
        let token = dashboard.token.clone();
        let mut stream = dashboard.open_own("GET", "/api/events", "").await;
        assert!(stream.chunk().await.is_some());
        let (code, printed) = dashboard.end(signal).await;
        assert_eq!(code, Some(0), "{signal}: {printed}");
        assert!(!printed.contains(&token), "the token is in the address only: {printed}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_recording_is_shown_without_agents() {
    let agent = Agent::start().await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("recording");
    let file = path.to_str().unwrap();
    let address = agent.address.to_string();
    assert_eq!(forebay(&["record", file, "--agents", &address, "--for", "1s"]).await.0, Some(0));
    drop(agent);
    let dashboard = Dashboard::start(&["--replay", file]).await;
    let document = eventually("the pods of the recording", async || {
        let document = dashboard.fleet().await;
        pod(&document, "zealous").is_some().then_some(document)
    })
    .await;
    assert_eq!(pod(&document, "zealous").unwrap()["kernel"]["inFlight"], 7);
    assert!(document["replay"].as_str().unwrap().contains("UTC"), "{document}");
    assert_eq!(document["requests"], Value::Null);
}

/// A listener in place of a gateway: `respond` makes the response of a request. Returns its address.
pub(crate) async fn gateway(respond: fn(&str) -> String) -> (String, JoinSet<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let mut serving = JoinSet::new();
    serving.spawn(async move {
        loop {
            let (mut connection, _) = listener.accept().await.unwrap();
            let mut seen = Vec::new();
            while !seen.ends_with(b"}") {
                assert_ne!(connection.read_buf(&mut seen).await.unwrap(), 0);
            }
            let response = respond(std::str::from_utf8(&seen).unwrap());
            connection.write_all(response.as_bytes()).await.unwrap();
        }
    });
    (address, serving)
}

const PROMPT: &str = r#"{"model":"qwen","prompt":"a private question","maxTokens":9,"apiKey":"sk-private"}"#;

#[tokio::test(flavor = "multi_thread")]
async fn prompts_are_relayed_with_the_key_and_appear_nowhere_else() {
    let agent = Agent::start().await;
    let (address, _serving) = gateway(|request| {
        let (head, body) = request.split_once("\r\n\r\n").unwrap();
        let head = head.to_ascii_lowercase();
        let body: Value = serde_json::from_str(body).unwrap();
        assert!(head.starts_with("post /v1/chat/completions "), "{head}");
        assert!(head.contains("authorization: bearer sk-private") && head.contains("x-forebay-explain: 1"), "{head}");
        assert_eq!((&body["stream"], &body["max_tokens"]), (&true.into(), &9.into()));
        assert_eq!(body["messages"][0]["content"], "a private question");
        // Broken off in the middle of an event.
        let content = "data: {\"choices\":[]}\n\ndata: {\"cho";
        format!(
            "HTTP/1.1 200 OK\r\nx-forebay-explanation: {{\"servedBy\":\"10.0.0.1:8000\"}}\r\ncontent-length: 99\r\n\r\n{content}"
        )
    })
    .await;
    let dashboard = start(&agent, &["--gateway", &address]).await;
    assert_eq!(dashboard.fleet().await["gateway"], address);
    let response = dashboard.open_own("POST", "/api/chat", PROMPT).await;
    assert_eq!(response.status, 200);
    let text = response.text().await;
    let events: Vec<&str> = text.split("\n\n").filter(|event| !event.is_empty()).collect();
    let [head, chunk, cut, end] = events[..] else { panic!("{text}") };
    let head: Value = serde_json::from_str(head.strip_prefix("event: head\ndata: ").unwrap()).unwrap();
    assert_eq!((&head["status"], &head["explanation"]["servedBy"]), (&200.into(), &"10.0.0.1:8000".into()));
    assert_eq!((chunk, cut), ("data: {\"choices\":[]}", "data: {\"cho"));
    let end: Value = serde_json::from_str(end.strip_prefix("event: end\ndata: ").unwrap()).unwrap();
    assert_eq!(end["error"], "the response broke off");
    let document = dashboard.fleet().await.to_string();
    let (_, printed) = dashboard.end("INT").await;
    for private in ["private", "sk-"] {
        assert!(!document.contains(private) && !printed.contains(private), "{printed}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_that_leaves_ends_its_prompt_and_frees_its_place() {
    let agent = Agent::start().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let dashboard = start(&agent, &["--gateway", &address]).await;
    let mut prompts = Vec::new();
    for _ in 0..8 {
        let (response, connection) = tokio::join!(dashboard.open_own("POST", "/api/chat", PROMPT), async {
            let (mut connection, _) = listener.accept().await.unwrap();
            let mut seen = Vec::new();
            while !seen.ends_with(b"}") {
                assert_ne!(connection.read_buf(&mut seen).await.unwrap(), 0);
            }
            connection.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 99\r\n\r\ndata: a").await.unwrap();
            connection
        });
        assert_eq!(response.status, 200);
        prompts.push((response, connection));
    }
    assert_eq!(dashboard.open_own("POST", "/api/chat", PROMPT).await.status, 429);
    let (response, mut connection) = prompts.swap_remove(0);
    drop(response);
    let closed = tokio::time::timeout(TIMEOUT, connection.read_u8()).await.unwrap();
    assert_eq!(closed.unwrap_err().kind(), std::io::ErrorKind::UnexpectedEof);
    eventually("a free place", async || {
        // An empty prompt is refused after a place was found.
        (dashboard.open_own("POST", "/api/chat", "{}").await.status == 400).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn failures_of_prompts_say_why_and_what_to_do() {
    let agent = Agent::start().await;
    let (address, _serving) = gateway(|_| {
        let body = r#"{"error":{"code":"invalid_api_key","message":"unknown key"}}"#;
        format!("HTTP/1.1 401 Unauthorized\r\ncontent-length: {}\r\n\r\n{body}", body.len())
    })
    .await;
    let dashboard = start(&agent, &["--gateway", &address]).await;
    let text = dashboard.open_own("POST", "/api/chat", PROMPT).await.text().await;
    for part in [r#""status":401"#, "invalid_api_key: unknown key", "forebay.dev/trusted-listeners"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    let long = PROMPT.replace("question", &"x".repeat(300 << 10));
    for (body, status, code) in [
        (long.as_str(), 413, "prompt_too_large"),
        ("{}", 400, "invalid_prompt"),
        (&PROMPT.replace("sk-private", "sk\\nprivate"), 502, "gateway_failed"),
    ] {
        let response = dashboard.open_own("POST", "/api/chat", body).await;
        assert_eq!(response.status, status);
        let text = response.text().await;
        assert!(text.contains(code) && !text.contains("private"), "{text}");
    }
    let nowhere = start(&agent, &["--gateway", "127.0.0.1:1"]).await;
    let response = nowhere.open_own("POST", "/api/chat", PROMPT).await;
    assert_eq!(response.status, 502);
    assert!(response.text().await.contains("cannot connect to 127.0.0.1:1"));
}
