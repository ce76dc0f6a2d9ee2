//! The gateway as a process with few file descriptors.

use std::process::Command;

use futures_util::future::join_all;
use tokio::net::TcpStream;

use crate::support::client::{connect, exchange, get, read_response};
use crate::support::harness::Harness;
use crate::support::process::{GATEWAY, Process};
use crate::support::until;
use crate::support::upstream::Upstream;

/// More than the gateway reserves.
const HARD_LIMIT: usize = 700;
const SOFT_LIMIT: usize = 100;
/// Half of what the reserve of 512 leaves.
const MAX_CONNECTIONS: usize = (HARD_LIMIT - 512) / 2;
const GET: &str = "GET / HTTP/1.1\r\nhost: a\r\n\r\n";

async fn start(web: &Upstream) -> Process {
    let harness =
        Harness::new().service("web", web.port(), "").route("r", "{backendRefs: [{name: web, port: 80}]}");
    let limits = format!("ulimit -Sn {SOFT_LIMIT} && ulimit -Hn {HARD_LIMIT} && exec \"$0\" \"$@\"");
    let mut command = Command::new("sh");
    command.args(["-c", &limits, GATEWAY]);
    Process::start(&harness, command).await
}

fn limits(process: &Process) -> String {
    std::fs::read_to_string(format!("/proc/{}/limits", process.id())).unwrap()
}

#[tokio::test]
async fn the_soft_limit_is_raised_and_clients_leave_descriptors_for_others() {
    let web = Upstream::bind().await;
    let process = start(&web).await;
    let limits = limits(&process);
    let open_files = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
    let values: Vec<&str> = open_files.split_whitespace().skip(3).take(2).collect();
    assert_eq!(values, [HARD_LIMIT.to_string(), HARD_LIMIT.to_string()]);

    let mut established = connect(process.address).await;
    established.write(GET).await;
    web.answer_one("one").await;
    assert_eq!(read_response(&mut established).await.text(), "one");
    // More connections than the process could have.
    let idle = join_all((0..HARD_LIMIT + 100).map(|_| TcpStream::connect(process.address))).await;
    assert_eq!(get(process.admin, "/healthz").await.status, 200);
    // Connections that were closed for new ones are counted until their workers have closed them.
    until("connections over the limit to be closed", || async {
        let metrics = get(process.admin, "/metrics").await;
        let lines = metrics.text().lines();
        let open = lines.filter_map(|line| line.strip_prefix("forebay_gateway_client_connections ")).next();
        (open.unwrap().parse::<usize>().unwrap() <= MAX_CONNECTIONS).then_some(())
    })
    .await;
    // New and established clients are served.
    established.write("GET / HTTP/1.1\r\nhost: b\r\nconnection: close\r\n\r\n").await;
    let mut pod = web.accept().await;
    pod.read_request().await;
    pod.write("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 3\r\n\r\ntwo").await;
    assert_eq!(read_response(&mut established).await.text(), "two");
    drop(idle);
}

/// A client with one HTTP/2 connection opens more upstream connections than there are descriptors.
#[tokio::test]
async fn upstream_connections_leave_descriptors_for_others() {
    let web = Upstream::bind().await;
    let process = start(&web).await;
    let stream = TcpStream::connect(process.address).await.unwrap();
    let (sender, connection) = h2::client::handshake(stream).await.unwrap();
    let driver = tokio::spawn(async move { drop(connection.await) });
    let mut pending = Vec::new();
    let mut pods = Vec::new();
    for _ in 0..MAX_CONNECTIONS {
        let mut sender = sender.clone().ready().await.unwrap();
        let request = http::Request::get("http://models.example/").body(()).unwrap();
        pending.push(sender.send_request(request, true).unwrap().0);
        pods.push(web.accept().await);
    }
    let response = exchange(process.address, "GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").await;
    assert_eq!((response.status, response.code().as_str()), (503, "upstream_connections_exhausted"));
    assert_eq!(get(process.admin, "/healthz").await.status, 200);
    drop(pods.pop());
    let (response, _) = tokio::join!(
        async {
            // The place of the closed connection is free when its request has ended.
            let ended = pending.pop().unwrap().await.unwrap();
            assert_eq!(ended.status(), 502);
            exchange(process.address, "GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").await
        },
        web.answer_one("ok")
    );
    assert_eq!(response.text(), "ok");
    driver.abort();
}
