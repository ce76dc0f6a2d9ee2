//! The kernel programs on real sockets: what they count against what was sent.

#![cfg(feature = "node")]

mod support;

use std::{net::Shutdown, path::Path};

use forebay_agent::kernel::Quantiles;
use forebay_agent_ebpf::maps::{EventKind, Latency, Load};
use support::{Bench, eventually, send};

const POST: &[u8] = b"POST /v1/chat/completions HTTP/1.1\r\nHost: pod\r\nContent-Length: 2\r\n\r\n{}";
const HEAD_CHUNKED: &[u8] =
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
const JSON: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}";
const TERMINATOR: &[u8] = b"0\r\n\r\n";

fn chunk(data: &str) -> Vec<u8> {
    format!("{:x}\r\n{data}\r\n", data.len()).into_bytes()
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
