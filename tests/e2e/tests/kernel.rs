//! The kernel programs on real sockets: what they count against what was sent.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test says what it skips, and fails by panicking"
)]

use std::{
    io::{Read as _, Write as _},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
};

use forebay_agent::kernel::Quantiles;
use forebay_agent_ebpf::maps::{EventKind, Latency, Load};
use forebay_e2e::{
    eventually,
    pod::{Bench, BpfMount, load_kernel},
};

const POST: &[u8] = b"POST /v1/chat/completions HTTP/1.1\r\nHost: pod\r\nContent-Length: 2\r\n\r\n{}";
const HEAD_CHUNKED: &[u8] =
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
const JSON: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}";
const TERMINATOR: &[u8] = b"0\r\n\r\n";

fn chunk(data: &str) -> Vec<u8> {
    format!("{:x}\r\n{data}\r\n", data.len()).into_bytes()
}

fn send(from: &mut TcpStream, to: &mut TcpStream, bytes: &[u8]) {
    Bench::send(from, to, bytes);
}

fn settled(load: &Load) -> (u64, u64, u64, u64) {
    (load.started, load.finished, load.aborted, load.in_flight)
}

#[tokio::test]
async fn a_stream_is_in_flight_from_its_first_byte_to_its_terminator() {
    let Some(mut bench) = Bench::new("stream") else { return };
    let (mut client, mut server) = bench.connect();
    let load = |bench: &Bench| bench.kernel.load_of(bench.slot()).unwrap();

    send(&mut client, &mut server, POST);
    assert_eq!(settled(&load(&bench)), (1, 0, 0, 1));
    send(&mut server, &mut client, HEAD_CHUNKED);
    send(&mut server, &mut client, &chunk(": keep-alive\n\n"));
    let histogram = bench.kernel.histogram(bench.slot(), Latency::Ttft).unwrap();
    assert_eq!(histogram.counts.iter().sum::<u64>(), 0, "neither head nor comment is a token");
    send(&mut server, &mut client, &chunk("data: {\"a\":1}\n\n"));
    send(&mut server, &mut client, &chunk("data: [DONE]\n\n"));
    assert_eq!(settled(&load(&bench)), (1, 0, 0, 1));
    send(&mut server, &mut client, TERMINATOR);
    let after = load(&bench);
    assert_eq!(settled(&after), (1, 1, 0, 0));
    assert_eq!((after.responses_2xx, after.chunks, after.lost_framing), (1, 2, 0));

    let histogram = bench.kernel.histogram(bench.slot(), Latency::Ttft).unwrap();
    assert_eq!(histogram.counts.iter().sum::<u64>(), 1);
    let mut kinds = Vec::new();
    while kinds.len() < 3 {
        bench.events.next(|event| kinds.push(EventKind::from_raw(event.kind).unwrap())).await.unwrap();
    }
    assert_eq!(kinds, [EventKind::Started, EventKind::FirstBody, EventKind::Finished]);
}

#[tokio::test]
async fn whoever_closes_in_the_middle_ends_what_was_in_flight() {
    let Some(bench) = Bench::new("aborts") else { return };
    let load = || bench.kernel.load_of(bench.slot()).unwrap();

    let (mut client, mut server) = bench.connect();
    send(&mut client, &mut server, POST);
    send(&mut server, &mut client, HEAD_CHUNKED);
    client.shutdown(Shutdown::Write).unwrap();
    eventually("the client's FIN counts", || settled(&load()) == (1, 0, 1, 0));
    send(&mut server, &mut client, &chunk("data: late\n\n"));
    drop((client, server));

    // Closed with bytes unread: the kernel answers with RST.
    let (mut client, mut server) = bench.connect();
    send(&mut client, &mut server, POST);
    server.write_all(JSON).unwrap();
    drop(client);
    eventually("an answer nobody read is still an answer", || settled(&load()) == (2, 1, 1, 0));
    drop(server);

    let (mut client, mut server) = bench.connect();
    send(&mut client, &mut server, POST);
    send(&mut server, &mut client, HEAD_CHUNKED);
    drop(server);
    eventually("the server's end counts", || settled(&load()) == (3, 1, 2, 0));
    drop(client);
}

#[tokio::test]
async fn a_prompt_of_two_megabytes_is_one_request() {
    let Some(bench) = Bench::new("prompt") else { return };
    let (mut client, mut server) = bench.connect();
    let body = vec![b'x'; 2 << 20];
    let head = format!("POST /v1/completions HTTP/1.1\r\nContent-Length: {}\r\n\r\n", body.len());
    send(&mut client, &mut server, head.as_bytes());
    let reader = std::thread::spawn(move || {
        let mut arrived = vec![0; 2 << 20];
        server.read_exact(&mut arrived).unwrap();
        server
    });
    client.write_all(&body).unwrap();
    let mut server = reader.join().unwrap();
    send(&mut server, &mut client, JSON);
    // The connection goes on: framing was kept through the body.
    send(&mut client, &mut server, b"GET /health HTTP/1.1\r\n\r\n");
    send(&mut server, &mut client, JSON);
    send(&mut client, &mut server, POST);
    send(&mut server, &mut client, JSON);
    let load = bench.kernel.load_of(bench.slot()).unwrap();
    assert_eq!(settled(&load), (2, 2, 0, 0));
    assert_eq!((load.other_requests, load.lost_framing, load.opaque_connections), (1, 0, 0));
    let sent = head.len() + body.len() + POST.len() + b"GET /health HTTP/1.1\r\n\r\n".len();
    assert_eq!(load.bytes_in, sent as u64);
}

#[tokio::test]
async fn many_connections_at_once_are_counted_exactly() {
    const CONNECTIONS: u64 = 200;
    const REQUESTS: u64 = 5;
    let Some(bench) = Bench::new("many") else { return };
    let mut streams: Vec<_> = (0..CONNECTIONS).map(|_| bench.connect()).collect();
    for (client, server) in &mut streams {
        send(client, server, POST);
    }
    let load = || bench.kernel.load_of(bench.slot()).unwrap();
    assert_eq!(settled(&load()), (CONNECTIONS, 0, 0, CONNECTIONS));
    let threads: Vec<_> = streams
        .into_iter()
        .collect::<Vec<_>>()
        .into_iter()
        .map(|(mut client, mut server)| {
            std::thread::spawn(move || {
                for _ in 1..REQUESTS {
                    send(&mut server, &mut client, JSON);
                    send(&mut client, &mut server, POST);
                }
                // Half of the last ones are answered, half are left behind.
                if client.local_addr().unwrap().port() % 2 == 0 {
                    send(&mut server, &mut client, JSON);
                    return 1;
                }
                0
            })
        })
        .collect();
    let answered: u64 = threads.into_iter().map(|thread| thread.join().unwrap()).sum();
    let total = CONNECTIONS * REQUESTS;
    let finished = total - CONNECTIONS + answered;
    eventually("all closed", || settled(&load()) == (total, finished, total - finished, 0));
    let durations = bench.kernel.histogram(bench.slot(), Latency::Duration).unwrap();
    let nothing = forebay_agent_ebpf::maps::Histogram { counts: [0; 224], sum_ns: 0 };
    let quantiles = Quantiles::between(&nothing, &durations);
    assert_eq!(quantiles.count, finished);
    assert!(
        quantiles.p50_ns > 0 && quantiles.p50_ns <= quantiles.p95_ns && quantiles.p95_ns <= quantiles.p99_ns
    );
}

#[tokio::test]
async fn closed_sockets_leave_no_connection_behind() {
    let Some(mut bench) = Bench::new("sweep") else { return };
    for _ in 0..20 {
        let (mut client, mut server) = bench.connect();
        send(&mut client, &mut server, POST);
        send(&mut server, &mut client, JSON);
        drop(client);
        assert_eq!(server.read(&mut [0]).unwrap(), 0);
        drop(server);
    }
    let mut left = usize::MAX;
    eventually("the kernel removes them as sockets close", || {
        left = bench.kernel.connections_followed().unwrap();
        left == 0
    });
    assert_eq!(bench.kernel.sweep().unwrap(), 0);
}

#[tokio::test]
async fn only_watched_ports_of_watched_pods_are_looked_at() {
    let Some(mut bench) = Bench::new("ports") else { return };
    let other_port = bench.pod.listen(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
    let mut client = TcpStream::connect(other_port.local_addr().unwrap()).unwrap();
    let (mut server, _) = other_port.accept().unwrap();
    send(&mut client, &mut server, POST);

    // A listener of ours, outside the pod, on a watched port.
    let outside = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = outside.local_addr().unwrap().port();
    let second = Bench::pod("ports-second");
    bench.kernel.watch(second.path(), &[port]).unwrap();
    let mut client = TcpStream::connect(outside.local_addr().unwrap()).unwrap();
    let (mut server, _) = outside.accept().unwrap();
    send(&mut client, &mut server, POST);

    assert_eq!(bench.kernel.load_of(bench.slot()).unwrap(), Load::default());
    assert_eq!(bench.kernel.connections_followed().unwrap(), 0);
}

#[tokio::test]
async fn the_next_agent_goes_on_where_the_last_one_was_killed() {
    let folder = tempfile::tempdir().unwrap();
    let mount = match BpfMount::new(folder.path()) {
        Ok(mount) => mount,
        Err(error) => return println!("skipped: cannot mount a bpffs ({error})"),
    };
    let pins = mount.path().join("forebay");
    let Some(bench) = Bench::with_pins("adopt", &pins, true) else { return };
    let (mut client, mut server) = bench.connect();
    send(&mut client, &mut server, POST);
    let Bench { kernel, events, pod, listener, watched } = bench;
    drop((kernel, events));

    // Nobody is there, and it is counted.
    let mut second = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (mut second_server, _) = listener.accept().unwrap();
    send(&mut second, &mut second_server, POST);

    let (mut kernel, _events) = load_kernel(&pins, false).unwrap();
    let port = listener.local_addr().unwrap().port();
    let again = kernel.watch(pod.path(), &[port]).unwrap();
    assert_eq!(again, watched, "same cgroup, same slot");
    kernel.retain(&[again.cgroup_id].into()).unwrap();
    let load = |kernel: &forebay_agent::kernel::Kernel| kernel.load_of(again.slots[0].1).unwrap();
    assert_eq!(settled(&load(&kernel)), (2, 0, 0, 2));
    send(&mut server, &mut client, JSON);
    send(&mut second_server, &mut second, JSON);
    assert_eq!(settled(&load(&kernel)), (2, 2, 0, 0));

    drop(kernel);
    assert!(!pins.exists(), "the last one cleans up");
}

#[tokio::test]
async fn a_pod_that_goes_away_frees_its_slot() {
    let Some(mut bench) = Bench::new("retain") else { return };
    let (mut client, mut server) = bench.connect();
    send(&mut client, &mut server, POST);
    bench.kernel.retain(&std::collections::HashSet::new()).unwrap();
    assert_eq!(bench.kernel.sweep().unwrap(), 1);
    send(&mut server, &mut client, JSON);
    let port = bench.listener.local_addr().unwrap().port();
    bench.kernel.watch(bench.pod.path(), &[port]).unwrap();
    assert_eq!(bench.kernel.load_of(bench.slot()).unwrap(), Load::default(), "a slot is given out empty");
}
