//! Rolling updates under load, without failed requests.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::support::client::{get, post, read_response};
use crate::support::harness::{Harness, QWEN, Running};
use crate::support::upstream::{Connection, Upstream};
use crate::support::{until, within};

const CHAT: &str = r#"{"model":"Qwen/Qwen3-0.6B","messages":[]}"#;

/// Addresses of the ready gateways, as clients know them. A gateway that is not ready is removed after a short delay.
type Ready = Arc<Mutex<Vec<SocketAddr>>>;

async fn start(port: u16, drain_delay: Duration) -> Running {
    Harness::new()
        .pool("qwen", QWEN, &[port], None)
        .start_with(|config| config.drain_delay = drain_delay)
        .await
}

/// Sends requests over keep-alive connections until it is told to stop. Returns the number of responses.
async fn client(ready: Ready, which: usize, stop: CancellationToken) -> usize {
    let mut answered = 0;
    let mut connection: Option<Connection> = None;
    while !stop.is_cancelled() {
        let mut open = match connection.take() {
            Some(open) => open,
            None => {
                let address = {
                    let ready = ready.lock().unwrap();
                    ready[(which + answered) % ready.len()]
                };
                Connection::of(TcpStream::connect(address).await.expect("a ready gateway accepts"))
            }
        };
        open.write(post(CHAT)).await;
        let response = read_response(&mut open).await;
        assert_eq!((response.status, response.text()), (200, "ok"));
        answered += 1;
        if response.head.header("connection") != Some("close") {
            connection = Some(open);
        }
    }
    answered
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_request_fails_during_a_rolling_update() {
    let upstream = Upstream::bind().await;
    let port = upstream.port();
    let serving = tokio::spawn(async move {
        let mut connections = JoinSet::new();
        while let Ok(mut connection) = upstream.accept_any().await {
            connections.spawn(async move {
                while connection.next_request().await.is_some() {
                    connection.respond(200, "ok").await;
                }
            });
        }
    });
    let delay = Duration::from_millis(300);
    let mut gateways = vec![start(port, delay).await, start(port, delay).await];
    let ready: Ready = Arc::new(Mutex::new(gateways.iter().map(Running::address).collect()));
    let stop = CancellationToken::new();
    let mut clients = JoinSet::new();
    for which in 0..8 {
        clients.spawn(client(ready.clone(), which, stop.clone()));
    }
    for _ in 0..2 {
        let old = gateways.remove(0);
        let (address, admin) = (old.address(), old.gateway.admin_address());
        let new = start(port, delay).await;
        ready.lock().unwrap().push(new.address());
        gateways.push(new);
        let ending = tokio::spawn(old.gateway.shutdown());
        until("the old gateway to be not ready", || async {
            (get(admin, "/readyz").await.status == 503).then_some(())
        })
        .await;
        ready.lock().unwrap().retain(|known| *known != address);
        within("the old gateway to end", ending).await.unwrap();
        assert!(TcpStream::connect(address).await.is_err(), "the old gateway still listens");
    }
    stop.cancel();
    let answered: Vec<usize> = clients.join_all().await;
    assert!(answered.iter().all(|answered| *answered > 1), "{answered:?}");
    serving.abort();
}

#[tokio::test]
async fn a_request_in_flight_at_the_drain_gets_connection_close() {
    let upstream = Upstream::bind().await;
    let running = start(upstream.port(), Duration::MAX).await;
    let admin = running.gateway.admin_address();
    let (mut client, mut pod) = running.forwarded(CHAT, &upstream).await;
    let draining = tokio::spawn(running.gateway.shutdown());
    until("the gateway to be not ready", || async {
        (get(admin, "/readyz").await.status == 503).then_some(())
    })
    .await;
    pod.respond(200, "ok").await;
    assert_eq!(read_response(&mut client).await.head.header("connection"), Some("close"));
    draining.abort();
}
