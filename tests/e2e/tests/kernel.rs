//! The eBPF programs on real sockets: counts compared with the traffic.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test prints what it skips and fails by panicking"
)]

use std::{
    collections::HashSet,
    io::{ErrorKind, Read as _, Write as _},
    net::{Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream},
    path::PathBuf,
};

use aya::maps::{Array, HashMap as BpfHashMap, Map, MapData};
use forebay_agent::kernel::{Kernel, Options, Quantiles, WatchError, boottime_ns};
use forebay_agent_ebpf::{
    framing::{Connection, known},
    maps::{self, Event, EventKind, Latency, Load, MAX_CONNECTIONS, MAX_ENDPOINTS, SCHEMA},
};
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
async fn stream_is_in_flight_from_first_byte_to_last_chunk() {
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

/// The next events about ended requests.
async fn ended(bench: &mut Bench, count: usize) -> Vec<Event> {
    let mut ended = Vec::new();
    while ended.len() < count {
        let is_end = |event: &Event| event.kind >= EventKind::Finished as u32;
        bench.events.next(|event| ended.extend(Some(event).filter(is_end))).await.unwrap();
    }
    ended
}

#[tokio::test]
async fn event_of_an_ended_request_has_the_counts_of_its_response() {
    let Some(mut bench) = Bench::new("ended") else { return };
    let all = u32::from(known::DURATION | known::TTFT | known::BYTES | known::CHUNKS);
    let port = |stream: &TcpStream| stream.local_addr().unwrap().port();
    let fields = |event: &Event| {
        let kind = EventKind::from_raw(event.kind).unwrap();
        (kind, event.status, event.response_bytes, event.response_chunks, event.known)
    };

    // A stream and an error on one connection.
    let (mut client, mut server) = bench.connect();
    let before_ns = boottime_ns();
    send(&mut client, &mut server, POST);
    let content = [chunk("data: a\n\n"), chunk("data: b\n\n")].concat();
    let stream = [HEAD_CHUNKED, &chunk(": keep-alive\n\n"), &content, TERMINATOR].concat();
    send(&mut server, &mut client, &stream);
    let after_ns = boottime_ns();
    let error = b"HTTP/1.1 503 Busy\r\ncontent-length: 4\r\n\r\nbusy";
    send(&mut client, &mut server, POST);
    send(&mut server, &mut client, error);
    let events = ended(&mut bench, 2).await;
    assert_eq!(fields(&events[0]), (EventKind::Finished, 200, stream.len() as u64, 2, all));
    assert!((before_ns..=after_ns).contains(&events[0].at_ns));
    assert!(events[0].ttft_ns <= events[0].duration_ns && events[0].duration_ns <= after_ns - before_ns);
    assert_eq!(fields(&events[1]), (EventKind::Finished, 503, error.len() as u64, 0, all));
    assert!(events.iter().all(|event| event.slot == bench.slot() && event.remote_port == port(&client)));

    // The client leaves between two chunks, and before the response.
    send(&mut client, &mut server, POST);
    let begun = [HEAD_CHUNKED, &chunk("data: a\n\n")].concat();
    send(&mut server, &mut client, &begun);
    drop(client);
    let (mut impatient, mut never) = bench.connect();
    send(&mut impatient, &mut never, POST);
    drop(impatient);
    let events = ended(&mut bench, 2).await;
    assert_eq!(fields(&events[0]), (EventKind::Aborted, 200, begun.len() as u64, 1, all));
    let without_ttft = all & !u32::from(known::TTFT);
    assert_eq!(fields(&events[1]), (EventKind::Aborted, 0, 0, 0, without_ttft));

    // Pipelined requests in one segment: the first has values, the others have only a number.
    let (mut client, mut server) = bench.connect();
    send(&mut client, &mut server, &[POST, POST, POST].concat());
    send(&mut server, &mut client, &[JSON, JSON].concat());
    drop((client, server));
    let events = ended(&mut bench, 3).await;
    assert_eq!(fields(&events[0]), (EventKind::Finished, 200, JSON.len() as u64, 0, all));
    assert_eq!((fields(&events[1]), events[1].count), ((EventKind::Finished, 0, 0, 0, 0), 1));
    assert_eq!((fields(&events[2]).0, events[2].known), (EventKind::Aborted, without_ttft));
}

#[tokio::test]
async fn request_bytes_wait_until_the_first_response_body_byte() {
    let Some(bench) = Bench::new("waiting") else { return };
    let waiting = || bench.kernel.load_of(bench.slot()).unwrap().waiting_bytes;
    let body = vec![b'x'; 1 << 20];
    let head = format!("POST /v1/completions HTTP/1.1\r\nContent-Length: {}\r\n\r\n", body.len());
    let sent = (head.len() + body.len()) as u64;

    // A server that delays its response. Another connection waits at the same time.
    let (mut client, mut server) = bench.connect();
    let (mut other_client, mut other_server) = bench.connect();
    send(&mut client, &mut server, head.as_bytes());
    assert_eq!(waiting(), head.len() as u64);
    let reader = std::thread::spawn(move || {
        let mut arrived = vec![0; 1 << 20];
        server.read_exact(&mut arrived).unwrap();
        server
    });
    client.write_all(&body).unwrap();
    let mut server = reader.join().unwrap();
    assert_eq!(waiting(), sent);
    send(&mut other_client, &mut other_server, POST);
    assert_eq!(waiting(), sent + POST.len() as u64);
    send(&mut server, &mut client, HEAD_CHUNKED);
    assert_eq!(waiting(), sent + POST.len() as u64, "a response head is not a body byte");
    send(&mut server, &mut client, &chunk("data: a\n\n"));
    assert_eq!(waiting(), POST.len() as u64);
    send(&mut server, &mut client, TERMINATOR);
    assert_eq!(waiting(), POST.len() as u64);

    // Pipelined requests wait for their own responses. Probes never wait.
    send(&mut client, &mut server, &[POST, b"GET /health HTTP/1.1\r\n\r\n", POST].concat());
    assert_eq!(waiting(), 3 * POST.len() as u64);
    send(&mut server, &mut client, JSON);
    send(&mut server, &mut client, JSON);
    assert_eq!(waiting(), 2 * POST.len() as u64);

    // Aborted requests do not wait.
    drop((client, server));
    eventually("the abort removes the bytes", || waiting() == POST.len() as u64);
    send(&mut other_server, &mut other_client, JSON);
    assert_eq!(waiting(), 0);
}

#[tokio::test]
async fn the_oldest_request_and_the_last_content_are_known() {
    let Some(bench) = Bench::new("open") else { return };
    let open = || bench.kernel.open_requests().unwrap().get(&bench.slot()).copied();
    let sent_ns = || bench.kernel.load_of(bench.slot()).unwrap().sent_ns;
    assert_eq!((open(), sent_ns()), (None, 0));

    let before_ns = boottime_ns();
    let (mut client, mut server) = bench.connect();
    let (mut other_client, mut other_server) = bench.connect();
    send(&mut client, &mut server, POST);
    let oldest = open().unwrap().oldest;
    assert!((before_ns..boottime_ns()).contains(&oldest.started_ns));
    send(&mut other_client, &mut other_server, POST);
    send(&mut other_server, &mut other_client, HEAD_CHUNKED);
    send(&mut other_server, &mut other_client, &chunk(": keep-alive\n\n"));
    assert_eq!((open().unwrap().with_response, sent_ns()), (0, 0), "neither head nor comment is content");
    send(&mut other_server, &mut other_client, &chunk("data: a\n\n"));
    let first_ns = sent_ns();
    assert!((oldest.started_ns..boottime_ns()).contains(&first_ns));
    assert_eq!(open().map(|it| (it.oldest, it.with_response)), Some((oldest, 1)));

    // Probes and scrapes tell nothing of the engine behind the server.
    let (mut scraper, mut scraped) = bench.connect();
    send(&mut scraper, &mut scraped, b"GET /metrics HTTP/1.1\r\n\r\n");
    send(&mut scraped, &mut scraper, &[HEAD_CHUNKED, &chunk("vllm:x 1\n"), TERMINATOR].concat());
    assert_eq!(sent_ns(), first_ns);

    send(&mut server, &mut client, JSON);
    let last_ns = sent_ns();
    assert!(last_ns > first_ns);
    let left = open().unwrap();
    assert!(left.oldest.has_response && left.oldest.started_ns > oldest.started_ns, "{left:?}");
    send(&mut other_server, &mut other_client, TERMINATOR);
    assert_eq!(open(), None);
    assert!(sent_ns() > last_ns);
}

#[tokio::test]
async fn close_by_either_side_ends_requests_in_flight() {
    let Some(bench) = Bench::new("aborts") else { return };
    let load = || bench.kernel.load_of(bench.slot()).unwrap();

    let (mut client, mut server) = bench.connect();
    send(&mut client, &mut server, POST);
    send(&mut server, &mut client, HEAD_CHUNKED);
    client.shutdown(Shutdown::Write).unwrap();
    eventually("FIN of the client ends the request", || settled(&load()) == (1, 0, 1, 0));
    send(&mut server, &mut client, &chunk("data: late\n\n"));
    drop((client, server));

    // A close with unread bytes sends RST.
    let (mut client, mut server) = bench.connect();
    send(&mut client, &mut server, POST);
    server.write_all(JSON).unwrap();
    drop(client);
    eventually("a complete response counts even if it was not read", || settled(&load()) == (2, 1, 1, 0));
    drop(server);

    let (mut client, mut server) = bench.connect();
    send(&mut client, &mut server, POST);
    send(&mut server, &mut client, HEAD_CHUNKED);
    drop(server);
    eventually("FIN of the server ends the request", || settled(&load()) == (3, 1, 2, 0));
    drop(client);
}

#[tokio::test]
async fn two_megabyte_prompt_is_one_request() {
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
    // The framing is still correct after the body.
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
async fn counts_many_concurrent_connections_exactly() {
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
                // Half of the last requests get a response, half are aborted.
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
    let nothing = maps::Histogram { counts: [0; 224], sum_ns: 0 };
    let quantiles = Quantiles::between(&nothing, &durations);
    assert_eq!(quantiles.count, finished);
    assert!(
        quantiles.p50_ns > 0 && quantiles.p50_ns <= quantiles.p95_ns && quantiles.p95_ns <= quantiles.p99_ns
    );
}

#[tokio::test]
async fn closed_sockets_remove_connection_state() {
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
    eventually("connection state is removed when sockets close", || {
        left = bench.kernel.connections_followed().unwrap();
        left == 0
    });
    assert_eq!(bench.kernel.sweep().unwrap(), 0);
}

#[tokio::test]
async fn measures_only_watched_ports_of_watched_pods() {
    let Some(mut bench) = Bench::new("ports") else { return };
    let other_port = bench.pod.listen(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
    let mut client = TcpStream::connect(other_port.local_addr().unwrap()).unwrap();
    let (mut server, _) = other_port.accept().unwrap();
    send(&mut client, &mut server, POST);

    // A listener outside the pod on a watched port.
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
async fn counting_continues_after_the_agent_was_killed() {
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

    // Counted while no agent is running.
    let mut second = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (mut second_server, _) = listener.accept().unwrap();
    send(&mut second, &mut second_server, POST);

    let (mut kernel, _events) = load_kernel(&pins, false).unwrap();
    let port = listener.local_addr().unwrap().port();
    let again = kernel.watch(pod.path(), &[port]).unwrap();
    assert_eq!(again, watched, "same cgroup, same slot");
    kernel.retain(&[again.cgroup_id].into()).unwrap();
    let load = |kernel: &Kernel| kernel.load_of(again.slots[0].1).unwrap();
    assert_eq!(settled(&load(&kernel)), (2, 0, 0, 2));
    send(&mut server, &mut client, JSON);
    send(&mut second_server, &mut second, JSON);
    assert_eq!(settled(&load(&kernel)), (2, 2, 0, 0));

    drop(kernel);
    assert!(!pins.exists(), "the last agent removes the pins");
}

#[tokio::test]
async fn removed_pod_frees_slot_and_connections() {
    let Some(mut bench) = Bench::new("retain") else { return };
    let (mut client, mut server) = bench.connect();
    send(&mut client, &mut server, POST);
    bench.kernel.retain(&HashSet::new()).unwrap();

    // All slots are in use except that of the removed pod.
    let others: Vec<u16> = (1..=MAX_ENDPOINTS as u16).collect();
    let second = Bench::pod("retain-second");
    let port = bench.listener.local_addr().unwrap().port();
    let watched = bench.kernel.watch(second.path(), &others).unwrap();
    let reused = watched.slots.last().unwrap().1;
    assert_eq!(reused, bench.slot());
    assert!(matches!(bench.kernel.watch(bench.pod.path(), &[port]), Err(WatchError::Full)));

    // The pod returns with fewer ports. Its old connections are not counted.
    bench.kernel.watch(second.path(), &others[1..]).unwrap();
    let back = bench.kernel.watch(bench.pod.path(), &[port]).unwrap();
    assert_ne!(back.slots[0].1, reused);
    send(&mut server, &mut client, JSON);
    assert_eq!(bench.kernel.load_of(reused).unwrap(), Load::default());
    assert_eq!(settled(&bench.kernel.load_of(back.slots[0].1).unwrap()), (0, 0, 0, 0));
    send(&mut client, &mut server, POST);
    send(&mut server, &mut client, JSON);
    assert_eq!(settled(&bench.kernel.load_of(back.slots[0].1).unwrap()), (1, 1, 0, 0));
}

#[tokio::test]
async fn adding_a_port_keeps_the_first() {
    let Some(mut bench) = Bench::new("ipv6") else { return };
    let (mut client, mut server) = bench.connect();
    send(&mut client, &mut server, POST);
    let listener = match bench.pod.listen(SocketAddr::from((Ipv6Addr::LOCALHOST, 0))) {
        Ok(listener) => listener,
        Err(error) => return println!("skipped: no IPv6 ({error})"),
    };
    let (first, second) = (bench.slot(), listener.local_addr().unwrap().port());
    let port = bench.listener.local_addr().unwrap().port();
    let watched = bench.kernel.watch(bench.pod.path(), &[port, second]).unwrap();
    assert_eq!(watched.slots[0], (port, first));

    let mut client6 = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (mut server6, _) = listener.accept().unwrap();
    send(&mut client6, &mut server6, POST);
    send(&mut server6, &mut client6, HEAD_CHUNKED);
    send(&mut server6, &mut client6, &chunk("data: 1\n\n"));
    let load = |slot: u32| bench.kernel.load_of(slot).unwrap();
    assert_eq!(settled(&load(watched.slots[1].1)), (1, 0, 0, 1));
    send(&mut server6, &mut client6, TERMINATOR);
    assert_eq!(settled(&load(watched.slots[1].1)), (1, 1, 0, 0));
    assert_eq!(load(watched.slots[1].1).bytes_in, POST.len() as u64);
    assert_eq!(settled(&load(first)), (1, 0, 0, 1));
}

#[tokio::test]
async fn counts_all_chunks_merged_by_a_slow_reader() {
    let Some(bench) = Bench::new("slow") else { return };
    let (mut client, mut server) = bench.connect();
    send(&mut client, &mut server, POST);
    server.write_all(HEAD_CHUNKED).unwrap();
    let before = bench.kernel.drop_counters().unwrap().segments;
    let one = chunk("data: {\"choices\":[{\"delta\":{\"content\":\"a\"}}]}\n\n");
    let (whole, mut sent) = (one.clone(), 0);
    server.set_nonblocking(true).unwrap();
    server.set_nodelay(false).unwrap();
    let rest = 'full: loop {
        let mut left = &whole[..];
        sent += 1;
        while !left.is_empty() {
            match server.write(left) {
                Ok(written) => left = &left[written..],
                Err(error) if error.kind() == ErrorKind::WouldBlock => break 'full left,
                Err(error) => panic!("{error}"),
            }
        }
    };
    // Start reading.
    let reader = std::thread::spawn(move || {
        let mut bytes = 0;
        let mut buffer = vec![0; 1 << 20];
        loop {
            match client.read(&mut buffer).unwrap() {
                0 => return bytes,
                read => bytes += read,
            }
        }
    });
    server.set_nonblocking(false).unwrap();
    server.write_all(rest).unwrap();
    for _ in 0..1000 {
        server.write_all(&one).unwrap();
    }
    server.write_all(TERMINATOR).unwrap();
    server.shutdown(Shutdown::Both).unwrap();
    let bytes = reader.join().unwrap();
    let total = sent + 1000;
    assert_eq!(bytes as u64, HEAD_CHUNKED.len() as u64 + total * one.len() as u64 + TERMINATOR.len() as u64);
    let load = bench.kernel.load_of(bench.slot()).unwrap();
    assert_eq!(settled(&load), (1, 1, 0, 0));
    assert_eq!((load.chunks, load.lost_framing, load.bytes_out), (total, 0, bytes as u64));
    let segments = bench.kernel.drop_counters().unwrap().segments - before;
    assert!(segments < total / 2, "{total} chunks in {segments} segments are not merged");
}

#[tokio::test]
async fn last_body_segment_may_carry_fin() {
    let Some(bench) = Bench::new("close") else { return };
    let (mut client, mut server) = bench.connect();
    send(&mut client, &mut server, POST);
    server.write_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n").unwrap();
    server.set_nonblocking(true).unwrap();
    let mut sent = 0;
    while let Ok(written) = server.write(&[b'x'; 4096]) {
        sent += written;
    }
    // The send queue is full, so the last segment carries the FIN.
    server.shutdown(Shutdown::Write).unwrap();
    let load = || bench.kernel.load_of(bench.slot()).unwrap();
    assert_eq!(settled(&load()), (1, 0, 0, 1));
    let mut response = Vec::new();
    client.read_to_end(&mut response).unwrap();
    assert!(response.len() > sent);
    assert_eq!(settled(&load()), (1, 1, 0, 0));
    assert_eq!(load().bytes_out, response.len() as u64);
}

#[tokio::test]
async fn interim_response_does_not_end_the_request() {
    let Some(bench) = Bench::new("continue") else { return };
    let (mut client, mut server) = bench.connect();
    let load = || bench.kernel.load_of(bench.slot()).unwrap();
    let head = b"POST / HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n";
    send(&mut client, &mut server, head);
    send(&mut server, &mut client, b"HTTP/1.1 100 Continue\r\n\r\n");
    assert_eq!(settled(&load()), (1, 0, 0, 1));
    send(&mut client, &mut server, b"{}");
    send(&mut server, &mut client, JSON);
    assert_eq!((settled(&load()), load().responses_2xx), ((1, 1, 0, 0), 1));
}

#[tokio::test]
async fn reset_by_either_side_ends_requests_in_flight() {
    let Some(bench) = Bench::new("reset") else { return };
    let load = || bench.kernel.load_of(bench.slot()).unwrap();
    let reset = |stream: TcpStream| {
        stream.set_nonblocking(true).unwrap();
        let stream = tokio::net::TcpStream::from_std(stream).unwrap();
        stream.set_zero_linger().unwrap();
    };

    let (mut client, mut server) = bench.connect();
    send(&mut client, &mut server, POST);
    send(&mut server, &mut client, HEAD_CHUNKED);
    reset(client);
    eventually("RST of the client ends the request", || settled(&load()) == (1, 0, 1, 0));
    drop(server);

    let (mut client, mut server) = bench.connect();
    send(&mut client, &mut server, POST);
    send(&mut server, &mut client, HEAD_CHUNKED);
    reset(server);
    eventually("RST of the server ends the request", || settled(&load()) == (2, 0, 2, 0));

    // The server process ends with an unread request.
    let (mut client, server) = bench.connect();
    client.write_all(POST).unwrap();
    eventually("the request is in flight", || settled(&load()) == (3, 0, 2, 1));
    drop(server);
    eventually("the unread request is aborted", || settled(&load()) == (3, 0, 3, 0));
    eventually("no connection state remains", || bench.kernel.connections_followed().unwrap() == 0);
}

#[tokio::test]
async fn counts_pods_separately() {
    let Some(mut bench) = Bench::new("mix") else { return };
    let second = Bench::pod("mix-second");
    let listener = second.listen(SocketAddr::from(([127, 0, 0, 2], 0))).unwrap();
    let port = listener.local_addr().unwrap().port();
    let first_port = bench.listener.local_addr().unwrap().port();
    // Both ports are watched for both pods. The owner of the socket decides.
    let first = bench.kernel.watch(bench.pod.path(), &[first_port, port]).unwrap();
    let other = bench.kernel.watch(second.path(), &[first_port, port]).unwrap();
    let (mut client, mut server) = bench.connect();
    send(&mut client, &mut server, POST);
    for _ in 0..2 {
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut server, _) = listener.accept().unwrap();
        send(&mut client, &mut server, POST);
        send(&mut server, &mut client, JSON);
    }
    let load = |slot: &(u16, u32)| settled(&bench.kernel.load_of(slot.1).unwrap());
    assert_eq!(first.slots.iter().map(load).collect::<Vec<_>>(), [(1, 0, 0, 1), (0, 0, 0, 0)]);
    assert_eq!(other.slots.iter().map(load).collect::<Vec<_>>(), [(0, 0, 0, 0), (2, 2, 0, 0)]);
}

#[tokio::test]
async fn existing_connection_is_measured_from_its_next_request() {
    let Some((mut kernel, _events)) = load_kernel(std::path::Path::new("/nonexistent"), false) else {
        return;
    };
    let pod = Bench::pod("before");
    let listener = pod.listen(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
    let address = listener.local_addr().unwrap();
    let mut client = TcpStream::connect(address).unwrap();
    let (mut server, _) = listener.accept().unwrap();
    send(&mut client, &mut server, b"POST / HTTP/1.1\r\nContent-Length: 20\r\n\r\n{\"prompt\":");
    let watched = kernel.watch(pod.path(), &[address.port()]).unwrap();
    let load = |kernel: &Kernel| kernel.load_of(watched.slots[0].1).unwrap();
    send(&mut client, &mut server, b"THE END\"}");
    send(&mut server, &mut client, JSON);
    assert_eq!(settled(&load(&kernel)), (0, 0, 0, 0));
    send(&mut client, &mut server, POST);
    assert_eq!(settled(&load(&kernel)), (1, 0, 0, 1));
    drop(client);
    eventually("the close ends the request", || settled(&load(&kernel)) == (1, 0, 1, 0));
    drop(server);
    // Sockets from before the start do not report their end. Two sweeps remove their state.
    kernel.sweep().unwrap();
    kernel.sweep().unwrap();
    assert_eq!(kernel.connections_followed().unwrap(), 0);
}

/// A separate bpffs and pin folder. `None` if this machine cannot mount a bpffs.
fn pinned(folder: &tempfile::TempDir) -> Option<(BpfMount, PathBuf)> {
    match BpfMount::new(folder.path()) {
        Ok(mount) => {
            let pins = mount.path().join("forebay");
            Some((mount, pins))
        }
        Err(error) => {
            println!("skipped: cannot mount a bpffs ({error})");
            None
        }
    }
}

#[tokio::test]
async fn full_connection_map_is_counted_and_traffic_continues() {
    let folder = tempfile::tempdir().unwrap();
    let Some((_mount, pins)) = pinned(&folder) else { return };
    let Some(mut bench) = Bench::with_pins("full", &pins, false) else { return };
    let map = MapData::from_pin(pins.join(format!("v{SCHEMA}/{}", maps::CONNECTIONS.spec.name))).unwrap();
    let mut map = BpfHashMap::<_, u64, Connection>::try_from(Map::HashMap(map)).unwrap();
    let mut nobodys = Connection::default();
    nobodys.slot = MAX_ENDPOINTS - 1;
    for number in 0..u64::from(MAX_CONNECTIONS) {
        map.insert(u64::MAX - number, nobodys, 0).unwrap();
    }
    let (mut client, mut server) = bench.connect();
    send(&mut client, &mut server, POST);
    send(&mut server, &mut client, JSON);
    assert_eq!(settled(&bench.kernel.load_of(bench.slot()).unwrap()), (0, 0, 0, 0));
    assert_eq!(bench.kernel.drop_counters().unwrap().connections_full, 1);

    assert_eq!(bench.kernel.sweep().unwrap(), MAX_CONNECTIONS as usize);
    send(&mut client, &mut server, POST);
    send(&mut server, &mut client, JSON);
    assert_eq!(settled(&bench.kernel.load_of(bench.slot()).unwrap()), (1, 1, 0, 0));
}

#[tokio::test]
async fn sweep_corrects_wrong_gauge() {
    let folder = tempfile::tempdir().unwrap();
    let Some((_mount, pins)) = pinned(&folder) else { return };
    let Some(mut bench) = Bench::with_pins("drift", &pins, false) else { return };
    let (mut client, mut server) = bench.connect();
    send(&mut client, &mut server, POST);
    let map = MapData::from_pin(pins.join(format!("v{SCHEMA}/{}", maps::LOADS.spec.name))).unwrap();
    let mut map = Array::<_, Load>::try_from(Map::Array(map)).unwrap();
    let mut load = map.get(&bench.slot(), 0).unwrap();
    load.in_flight += 2;
    load.started += 2;
    load.waiting_bytes += 100;
    map.set(bench.slot(), load, 0).unwrap();
    let counts = |bench: &Bench| settled(&bench.kernel.load_of(bench.slot()).unwrap());
    bench.kernel.sweep().unwrap();
    assert_eq!(counts(&bench), (3, 0, 0, 3), "a single difference may be a race");
    bench.kernel.sweep().unwrap();
    assert_eq!(counts(&bench), (3, 0, 2, 1));
    assert_eq!(bench.kernel.load_of(bench.slot()).unwrap().waiting_bytes, POST.len() as u64);
    send(&mut server, &mut client, JSON);
    assert_eq!(counts(&bench), (3, 1, 2, 0));
    bench.kernel.sweep().unwrap();
    bench.kernel.sweep().unwrap();
    assert_eq!(counts(&bench), (3, 1, 2, 0));
}

#[tokio::test]
async fn reports_and_keeps_unusable_pins() {
    let folder = tempfile::tempdir().unwrap();
    let Some((_mount, pins)) = pinned(&folder) else { return };
    let Some(bench) = Bench::with_pins("pins", &pins, true) else { return };
    let load = || Kernel::load(&Options { pin_root: pins.clone(), keep_pins: false.into() }).unwrap().2;
    let reason = load().expect("two agents on the same pins");
    assert!(reason.contains("another agent uses"), "{reason}");
    drop(bench);

    // A different map under the same name.
    let versioned = pins.join(format!("v{SCHEMA}"));
    std::fs::rename(versioned.join(maps::LOADS.spec.name), versioned.join("ELSE")).unwrap();
    std::fs::rename(versioned.join(maps::PORTS.spec.name), versioned.join(maps::LOADS.spec.name)).unwrap();
    // Programs started by other tests inherit the lock between fork and exec.
    let mut reason = None;
    eventually("the lock is free", || {
        reason = load();
        !reason.as_ref().is_some_and(|reason| reason.contains("another agent uses"))
    });
    let reason = reason.expect("a map of another layout");
    assert!(reason.contains("LOADS is not a map of this agent"), "{reason}");
    std::fs::remove_file(versioned.join(maps::LOADS.spec.name)).unwrap();
    std::fs::create_dir(versioned.join(maps::LOADS.spec.name)).unwrap();
    let reason = load().expect("no map at all");
    assert!(reason.contains("LOADS"), "{reason}");

    // Missing maps are created again.
    std::fs::remove_dir(versioned.join(maps::LOADS.spec.name)).unwrap();
    assert_eq!(load(), None);
    assert!(!pins.exists(), "all pins are removed");
}

#[tokio::test]
async fn removes_the_pins_that_another_version_has_left() {
    let folder = tempfile::tempdir().unwrap();
    let Some((_mount, pins)) = pinned(&folder) else { return };
    let Some(bench) = Bench::with_pins("schemas", &pins, true) else { return };
    drop(bench);
    let [left, used] = ["v1", "v2"].map(|name| pins.join(name));
    std::fs::rename(pins.join(format!("v{SCHEMA}")), &left).unwrap();
    assert!(left.join("links").read_dir().unwrap().next().is_some(), "programs are attached");
    std::fs::create_dir_all(used.join("links")).unwrap();
    let agent = std::fs::File::open(&used).unwrap();
    agent.try_lock().unwrap();

    let load = || Kernel::load(&Options { pin_root: pins.clone(), keep_pins: false.into() }).unwrap();
    // Programs started by other tests inherit the lock between fork and exec.
    eventually("the pins of the other version are gone", || {
        assert_eq!(load().2, None);
        !left.exists()
    });
    assert!(used.exists(), "an agent that runs uses it");
    drop(agent);
    eventually("those of an agent that has ended, too", || {
        drop(load());
        !pins.exists()
    });
}

/// Prints the cost per packet. Asserts no time, because it depends on the machine.
#[tokio::test]
async fn prints_cost_per_segment() {
    let Some(bench) = Bench::new("cost") else { return };
    let _stats = match aya::sys::enable_stats(aya::sys::Stats::RunTime) {
        Ok(stats) => stats,
        Err(error) => return println!("skipped: no BPF statistics ({error})"),
    };
    let (mut client, mut server) = bench.connect();
    for _ in 0..20 {
        send(&mut client, &mut server, POST);
        send(&mut server, &mut client, HEAD_CHUNKED);
        for _ in 0..200 {
            send(
                &mut server,
                &mut client,
                &chunk("data: {\"choices\":[{\"delta\":{\"content\":\"a\"}}]}\n\n"),
            );
        }
        send(&mut server, &mut client, TERMINATOR);
    }
    let mut runs = 0;
    for program in aya::programs::loaded_programs().flatten() {
        let name = program.name_as_str().unwrap_or_default().to_owned();
        let count = program.run_count();
        if name.starts_with("forebay_") && count > 1000 {
            let average = program.run_time().as_nanos() as u64 / count;
            println!("{name}: {average} ns per packet, including acknowledgements ({count} packets)");
            runs += count;
        }
    }
    assert!(runs >= 20 * 203, "the programs ran for every segment");
    assert_eq!(bench.kernel.load_of(bench.slot()).unwrap().finished, 20);
}
