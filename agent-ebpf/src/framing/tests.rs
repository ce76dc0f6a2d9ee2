//! Conversations in every split into segments, compared with the expected counts.

use std::{string::String, vec, vec::Vec};

use proptest::prelude::*;

use super::{Connection, Effects, Ended, OpenRequest, Outcome, Segment, known};

const POST: &str = "POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello";
const GET: &str = "GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n";
const CHUNKED: &str = "HTTP/1.1 200 OK\r\nserver: uvicorn\r\nTransfer-Encoding: Chunked\r\n\r\n";
const SIZED: &str = "HTTP/1.1 404 Not Found\r\ncontent-length: 7\r\n\r\n{\"a\":1}";

#[derive(Clone, Debug)]
enum Turn {
    Client(String),
    Server(String),
    ClientFin,
    ClientRst,
    ServerFin,
}

use Turn::{Client, ClientFin, ClientRst, Server, ServerFin};

fn client(text: &str) -> Turn {
    Client(text.into())
}

fn server(text: &str) -> Turn {
    Server(text.into())
}

/// Sum of the effects of all segments of a conversation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Sum {
    started: u32,
    finished: u32,
    aborted: u32,
    other: u32,
    chunks: u32,
    classes: [u32; 3],
    opaque: u32,
    lost: u32,
    bytes: u32,
    /// Time of the first content (1,000 per turn).
    first_content: u64,
    /// Request bytes that wait for a response body byte.
    waiting_bytes: i64,
}

impl Sum {
    fn add(&mut self, effects: &Effects, now_ns: u64) {
        self.started += effects.started;
        self.finished += effects.finished;
        self.aborted += effects.aborted;
        self.other += effects.other;
        self.chunks += effects.chunks;
        self.classes[0] += effects.responses_2xx;
        self.classes[1] += effects.responses_4xx;
        self.classes[2] += effects.responses_5xx;
        self.opaque += effects.opaque;
        self.lost += effects.lost;
        self.bytes += effects.bytes;
        self.waiting_bytes += effects.waiting_bytes;
        if effects.ttft_ns != 0 {
            self.first_content = now_ns;
        }
    }
}

/// Applies segments to a connection.
struct Player {
    connection: Connection,
    client_seq: u32,
    server_seq: u32,
    now_ns: u64,
    /// Times of segments with content.
    content_at: Vec<u64>,
    /// Requests that ended.
    ended: Vec<Ended>,
    sum: Sum,
}

impl Player {
    fn new() -> Self {
        // Sequence numbers wrap around in every test.
        Self {
            connection: Connection::default(),
            client_seq: u32::MAX - 20,
            server_seq: u32::MAX - 50,
            now_ns: 0,
            content_at: Vec::new(),
            ended: Vec::new(),
            sum: Sum::default(),
        }
    }

    fn ingress(&mut self, seq: u32, bytes: &[u8], fin: bool, rst: bool) {
        let segment = Segment { seq, length: bytes.len() as u32, fin, rst };
        self.connection.ingress(segment, bytes, self.now_ns);
        self.add(self.connection.request.effects);
    }

    fn egress(&mut self, seq: u32, bytes: &[u8], fin: bool) {
        let segment = Segment { seq, length: bytes.len() as u32, fin, rst: false };
        self.connection.egress(segment, bytes, self.now_ns);
        self.add(self.connection.response.effects);
        if self.connection.has_sent_content() {
            self.content_at.push(self.now_ns);
        }
    }

    fn add(&mut self, effects: Effects) {
        self.sum.add(&effects, self.now_ns);
        let ended = effects.ended;
        assert_eq!(ended.outcome != Outcome::NONE, effects.finished + effects.aborted != 0);
        if ended.outcome != Outcome::NONE {
            self.ended.push(ended);
        }
    }

    fn turn(&mut self, turn: &Turn, mut cut: impl FnMut(&[u8]) -> Vec<Vec<u8>>) {
        self.now_ns += 1_000;
        match turn {
            Client(text) => {
                for piece in cut(text.as_bytes()) {
                    self.ingress(self.client_seq, &piece, false, false);
                    self.client_seq = self.client_seq.wrapping_add(piece.len() as u32);
                }
            }
            Server(text) => {
                for piece in cut(text.as_bytes()) {
                    self.egress(self.server_seq, &piece, false);
                    self.server_seq = self.server_seq.wrapping_add(piece.len() as u32);
                }
            }
            ClientFin => self.ingress(self.client_seq, b"", true, false),
            ClientRst => self.ingress(self.client_seq, b"", false, true),
            ServerFin => self.egress(self.server_seq, b"", true),
        }
    }
}

fn whole(bytes: &[u8]) -> Vec<Vec<u8>> {
    vec![bytes.to_vec()]
}

fn bytewise(bytes: &[u8]) -> Vec<Vec<u8>> {
    bytes.iter().map(|byte| vec![*byte]).collect()
}

fn play(turns: &[Turn], cut: impl Fn(&[u8]) -> Vec<Vec<u8>>) -> (Sum, Connection) {
    let mut player = Player::new();
    for turn in turns {
        player.turn(turn, &cut);
    }
    (player.sum, player.connection)
}

/// Conversations with their expected counts.
fn corpus() -> Vec<(&'static str, Vec<Turn>, Sum)> {
    let events = "5\r\ndata:\r\n5\r\ndata:\r\n0\r\n\r\n";
    let stream = |body: &str| std::format!("{CHUNKED}{body}");
    vec![
        (
            "a chunked stream",
            vec![client(POST), server(&stream(events))],
            Sum {
                started: 1,
                finished: 1,
                chunks: 2,
                classes: [1, 0, 0],
                first_content: 2_000,
                ..Sum::default()
            },
        ),
        (
            "the head is not content",
            vec![client(POST), server(CHUNKED), server(events)],
            Sum {
                started: 1,
                finished: 1,
                chunks: 2,
                classes: [1, 0, 0],
                first_content: 3_000,
                ..Sum::default()
            },
        ),
        (
            "comments are not content",
            vec![
                client(POST),
                server(CHUNKED),
                server("e\r\n: keep-alive\n\n\r\n"),
                server("e\r\n: keep-alive\n\n\r\n"),
                server(events),
            ],
            Sum {
                started: 1,
                finished: 1,
                chunks: 2,
                classes: [1, 0, 0],
                first_content: 5_000,
                ..Sum::default()
            },
        ),
        (
            "a comment and content in one chunk",
            vec![client(POST), server(CHUNKED), server("9\r\n: a\n\ndata\r\n0\r\n\r\n")],
            Sum { started: 1, finished: 1, classes: [1, 0, 0], first_content: 3_000, ..Sum::default() },
        ),
        (
            "an error reply with a length",
            vec![client(POST), server(SIZED)],
            Sum { started: 1, finished: 1, classes: [0, 1, 0], first_content: 2_000, ..Sum::default() },
        ),
        (
            "keep-alive",
            vec![
                client(POST),
                server(SIZED),
                client(POST),
                server(&stream(events)),
                client(GET),
                server(SIZED),
            ],
            Sum {
                started: 2,
                finished: 2,
                other: 1,
                chunks: 2,
                classes: [1, 1, 0],
                first_content: 4_000,
                ..Sum::default()
            },
        ),
        ("a probe is not counted", vec![client(GET), server(SIZED)], Sum { other: 1, ..Sum::default() }),
        (
            "HEAD has no body",
            vec![
                client("HEAD / HTTP/1.1\r\n\r\n"),
                server("HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n"),
                client(POST),
                server(SIZED),
            ],
            Sum {
                started: 1,
                finished: 1,
                other: 1,
                classes: [0, 1, 0],
                first_content: 4_000,
                ..Sum::default()
            },
        ),
        (
            "100 Continue is not the final response",
            vec![
                client("POST / HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n"),
                server("HTTP/1.1 100 Continue\r\n\r\n"),
                client("{}"),
                server(SIZED),
            ],
            Sum { started: 1, finished: 1, classes: [0, 1, 0], first_content: 4_000, ..Sum::default() },
        ),
        (
            "a body that ends with the connection",
            vec![client(POST), server("HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nhi"), ServerFin],
            Sum { started: 1, finished: 1, classes: [1, 0, 0], first_content: 2_000, ..Sum::default() },
        ),
        (
            "204 has no body",
            vec![client(POST), server("HTTP/1.1 204 No Content\r\n\r\n")],
            Sum { started: 1, finished: 1, classes: [1, 0, 0], ..Sum::default() },
        ),
        (
            "an empty body",
            vec![client(POST), server("HTTP/1.1 500 Oh\r\nContent-Length: 0\r\n\r\n")],
            Sum { started: 1, finished: 1, classes: [0, 0, 1], ..Sum::default() },
        ),
        (
            "a chunked request with extensions and trailers",
            vec![
                client(
                    "POST / HTTP/1.1\r\ntransfer-encoding:gzip, chunked\r\n\r\n3;a=b\r\nabc\r\n0\r\nX: y\r\n\r\n",
                ),
                server(SIZED),
                client(GET),
                server(SIZED),
            ],
            Sum {
                started: 1,
                finished: 1,
                other: 1,
                classes: [0, 1, 0],
                first_content: 2_000,
                ..Sum::default()
            },
        ),
        (
            "a chunked response with extensions and trailers",
            vec![
                client(POST),
                server(&stream("4 ;q\r\ndata\r\n0\r\nTrailer: 1\r\n\r\n")),
                client(GET),
                server(SIZED),
            ],
            Sum {
                started: 1,
                finished: 1,
                other: 1,
                chunks: 1,
                classes: [1, 0, 0],
                first_content: 2_000,
                ..Sum::default()
            },
        ),
        (
            "pipelined requests",
            vec![client(POST), client(POST), client(GET), server(SIZED), server(SIZED), server(SIZED)],
            Sum {
                started: 2,
                finished: 2,
                other: 1,
                classes: [0, 2, 0],
                first_content: 5_000,
                ..Sum::default()
            },
        ),
        (
            "the client closes within the response",
            vec![
                client(POST),
                server(CHUNKED),
                server("5\r\ndata:\r\n"),
                ClientFin,
                server("5\r\ndata:\r\n0\r\n\r\n"),
            ],
            Sum {
                started: 1,
                aborted: 1,
                chunks: 2,
                classes: [1, 0, 0],
                first_content: 3_000,
                ..Sum::default()
            },
        ),
        (
            "the client resets before the response",
            vec![client(POST), ClientRst],
            Sum { started: 1, aborted: 1, ..Sum::default() },
        ),
        (
            "the server closes within the response",
            vec![client(POST), server(CHUNKED), server("5\r\nda"), ServerFin],
            Sum {
                started: 1,
                aborted: 1,
                chunks: 1,
                classes: [1, 0, 0],
                first_content: 3_000,
                ..Sum::default()
            },
        ),
        (
            "a response before the end of the request body",
            vec![
                client("POST / HTTP/1.1\r\nContent-Length: 10\r\n\r\n12345"),
                server(SIZED),
                client("67890"),
                client(GET),
                server(SIZED),
            ],
            Sum {
                started: 1,
                finished: 1,
                other: 1,
                classes: [0, 1, 0],
                first_content: 2_000,
                ..Sum::default()
            },
        ),
        (
            "header names with a relevant prefix",
            vec![
                client(
                    "POST / HTTP/1.1\r\nContent-Lengthy: 99\r\nTransfer-Encodings: chunked\r\ncontent\r\nt\r\nc:\r\n\
                     CONTENT-LENGTH:\t2 \r\n\r\n{}",
                ),
                server(SIZED),
            ],
            Sum { started: 1, finished: 1, classes: [0, 1, 0], first_content: 2_000, ..Sum::default() },
        ),
        (
            "generated text that looks like framing",
            vec![
                client(POST),
                server(&stream("2d\r\ndata: HTTP/1.1 200 OK\r\n0\r\n\r\nPOST / HTTP/1.\n\n\r\n0\r\n\r\n")),
            ],
            Sum {
                started: 1,
                finished: 1,
                chunks: 1,
                classes: [1, 0, 0],
                first_content: 2_000,
                ..Sum::default()
            },
        ),
        (
            "HTTP/2 is opaque",
            vec![client("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"), server("\0\0\0\x04"), ClientFin],
            Sum { opaque: 1, ..Sum::default() },
        ),
        (
            "TLS is opaque",
            vec![client("\x16\x03\x01 and so on"), server("\x16"), ClientFin],
            Sum { opaque: 1, ..Sum::default() },
        ),
        (
            "an upgraded connection is in flight until it closes",
            vec![
                client(POST),
                server("HTTP/1.1 101 Switching Protocols\r\n\r\n"),
                server("frames"),
                ServerFin,
            ],
            Sum { started: 1, finished: 1, first_content: 3_000, ..Sum::default() },
        ),
    ]
}

/// The requests that ended, with times in turns.
fn ended(turns: &[Turn], cut: impl Fn(&[u8]) -> Vec<Vec<u8>>) -> Vec<Ended> {
    let mut player = Player::new();
    turns.iter().for_each(|turn| player.turn(turn, &cut));
    let in_turns =
        |it: &Ended| Ended { duration_ns: it.duration_ns / 1_000, ttft_ns: it.ttft_ns / 1_000, ..*it };
    player.ended.iter().map(in_turns).collect()
}

const WITHOUT_TTFT: u8 = known::DURATION | known::BYTES | known::CHUNKS;
const ALL: u8 = WITHOUT_TTFT | known::TTFT;

#[test]
fn an_ended_request_has_the_counts_of_its_response() {
    let data = "5\r\ndata:\r\n";
    let length = |texts: &[&str]| texts.iter().map(|text| text.len() as u64).sum();
    let no_content = "HTTP/1.1 204 No Content\r\n\r\n";
    let request = |outcome, status, known| Ended { outcome, status, known, ..Ended::default() };
    let (finished, aborted) = (Outcome::FINISHED, Outcome::ABORTED);
    let turns = [
        client(POST),
        server(CHUNKED),
        server("e\r\n: keep-alive\n\n\r\n"),
        server(data),
        server(data),
        server("0\r\nTrailer: 1\r\n\r\n"),
        client(POST),
        server("HTTP/1.1 100 Continue\r\n\r\n"),
        server(SIZED),
        client(GET),
        server(SIZED),
        client(POST),
        server(no_content),
        client(POST),
        server(CHUNKED),
        server(data),
        ClientFin,
        server(data),
    ];
    let comment_and_end = "e\r\n: keep-alive\n\n\r\n0\r\nTrailer: 1\r\n\r\n";
    let expected = [
        Ended {
            duration_ns: 5,
            ttft_ns: 3,
            response_bytes: length(&[CHUNKED, comment_and_end, data, data]),
            response_chunks: 2,
            ..request(finished, 200, ALL)
        },
        Ended { duration_ns: 2, ttft_ns: 2, response_bytes: length(&[SIZED]), ..request(finished, 404, ALL) },
        Ended {
            duration_ns: 1,
            response_bytes: length(&[no_content]),
            ..request(finished, 204, WITHOUT_TTFT)
        },
        Ended {
            duration_ns: 3,
            ttft_ns: 2,
            response_bytes: length(&[CHUNKED, data]),
            response_chunks: 1,
            ..request(aborted, 200, ALL)
        },
    ];
    assert_eq!(ended(&turns, whole), expected);
    assert_eq!(ended(&turns, bytewise), expected);
    let unanswered = [client(POST), ClientRst];
    assert_eq!(
        ended(&unanswered, whole),
        [Ended { duration_ns: 1, ..request(aborted, 0, WITHOUT_TTFT) }],
        "zero bytes are known"
    );
}

#[test]
fn counts_of_responses_do_not_depend_on_the_split() {
    for (name, turns, _) in corpus() {
        let expected = ended(&turns, whole);
        for size in 1..40 {
            let cut = |bytes: &[u8]| bytes.chunks(size).map(<[u8]>::to_vec).collect();
            assert_eq!(ended(&turns, cut), expected, "{name}, in pieces of {size}");
        }
    }
}

#[test]
fn counts_that_were_not_seen_are_unknown() {
    let chunks_unknown = ALL & !known::CHUNKS;
    let lost = std::format!("{CHUNKED}zz\r\n");
    let turns = [client(POST), server(&lost), server("0\r\n\r\n")];
    let found = ended(&turns, whole)[0];
    assert_eq!((found.known | known::TTFT, found.status), (chunks_unknown, 200), "an invalid chunk size");
    assert_eq!(found.response_bytes, lost.len() as u64 + 5);

    let turns = [client(POST), server(&lost), server("1"), client(POST), server(SIZED)];
    let found = ended(&turns, whole);
    assert_eq!((found[0].known, found[0].duration_ns), (ALL, 1), "the second response");
    let separately = ended(&turns, |bytes| bytes.chunks(20).map(<[u8]>::to_vec).collect());
    assert_eq!((separately[0].known, separately[0].status), (0, 200), "the end of the first was not seen");
    assert_eq!(separately[1].known, ALL);

    let turns: Vec<Turn> = (0..20).map(|_| client(POST)).collect();
    let found = ended(&turns, whole)[0];
    assert_eq!((found.known, found.outcome), (0, Outcome::ABORTED), "an opaque connection");
}

/// Turns after which content of a response to POST was sent, and the open requests at the end.
fn content(turns: &[Turn], cut: fn(&[u8]) -> Vec<Vec<u8>>) -> (Vec<u64>, Vec<OpenRequest>) {
    let mut player = Player::new();
    turns.iter().for_each(|turn| player.turn(turn, cut));
    player.content_at.dedup();
    let turns = player.content_at.iter().map(|at| at / 1_000).collect();
    (turns, player.connection.requests().collect())
}

#[test]
fn only_content_of_responses_to_post_is_progress() {
    let comment = server("e\r\n: keep-alive\n\n\r\n");
    let data = server("5\r\ndata:\r\n");
    let turns = [
        client(POST),
        server(CHUNKED),
        comment.clone(),
        data.clone(),
        comment,
        data.clone(),
        server("0\r\n\r\n"),
        client(GET),
        server(CHUNKED),
        data,
        server("0\r\n\r\n"),
        client(POST),
        server("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n"),
        server("123"),
        server("456"),
    ];
    for cut in [whole, bytewise] {
        assert_eq!(content(&turns, cut).0, [4, 6, 7, 14, 15]);
    }
}

#[test]
fn an_open_request_has_a_response_from_its_first_content_on() {
    let open = |turns: &[Turn]| {
        let found = content(turns, whole).1;
        assert_eq!(found, content(turns, bytewise).1);
        found.iter().map(|it| (it.started_ns / 1_000, it.has_response)).collect::<Vec<_>>()
    };
    let comment = server("e\r\n: keep-alive\n\n\r\n");
    let data = server("5\r\ndata:\r\n");
    let mut turns = vec![client(GET)];
    assert_eq!(open(&turns), [], "a probe is not counted");
    turns.extend([server(SIZED), client(POST), client(POST)]);
    assert_eq!(open(&turns), [(3, false), (4, false)]);
    turns.extend([server(CHUNKED), comment]);
    assert_eq!(open(&turns), [(3, false), (4, false)], "a comment is not content");
    turns.push(data);
    assert_eq!(open(&turns), [(3, true), (4, false)]);
    turns.push(server("0\r\n\r\n"));
    assert_eq!(open(&turns), [(4, false)], "the next response has not begun");
}

/// Bytes are checked separately.
fn without_bytes(sum: Sum) -> Sum {
    Sum { bytes: 0, ..sum }
}

#[test]
fn counts_do_not_depend_on_the_split() {
    for (name, turns, expected) in corpus() {
        assert_eq!(without_bytes(play(&turns, whole).0), expected, "{name}");
        assert_eq!(without_bytes(play(&turns, bytewise).0), expected, "{name}, byte by byte");
        for size in 2..40 {
            let cut = |bytes: &[u8]| bytes.chunks(size).map(<[u8]>::to_vec).collect();
            assert_eq!(without_bytes(play(&turns, cut).0), expected, "{name}, in pieces of {size}");
        }
    }
}

#[test]
fn turns_of_one_side_may_share_a_segment() {
    for (name, turns, expected) in corpus() {
        let mut merged: Vec<Turn> = Vec::new();
        for turn in turns {
            match (merged.last_mut(), turn) {
                (Some(Client(before)), Client(text)) => before.push_str(&text),
                (Some(Server(before)), Server(text)) => before.push_str(&text),
                (_, turn) => merged.push(turn),
            }
        }
        // Merging moves content to an earlier turn. Counts do not change.
        let timeless = |sum: Sum| Sum { first_content: 0, ..without_bytes(sum) };
        assert_eq!(timeless(play(&merged, whole).0), timeless(expected), "{name}");
    }
}

#[test]
fn follows_a_full_segment_of_small_events() {
    let mut body = String::from(CHUNKED);
    let mut chunks = 0;
    while body.len() < 65_000 {
        body.push_str("22\r\ndata: {\"choices\":[{\"delta\":{}}]}\n\n\r\n");
        chunks += 1;
    }
    body.push_str("0\r\n\r\n");
    let (sum, _) = play(&[client(POST), Server(body)], whole);
    assert_eq!((sum.finished, sum.chunks, sum.lost), (1, chunks, 0));
}

#[test]
fn sizes_of_chunks_have_up_to_ten_digits() {
    let body = |size: usize| "x".repeat(size);
    for (size, digits) in
        [(0x1234, "1234"), (0xab_cde, "aBcDe"), (0xf, "000000000000f"), (0x100, "00100;a=\"b\"")]
    {
        let text = std::format!("{CHUNKED}{digits}\r\n{}\r\n3\r\nabc\r\n0\r\n\r\n", body(size));
        for cut in [whole, bytewise] {
            let (sum, _) = play(&[client(POST), server(&text)], cut);
            assert_eq!((sum.finished, sum.chunks, sum.lost), (1, 2, 0), "{digits}");
        }
    }
    // 2^40 bytes, and more than 64 bits.
    for digits in ["10000000000", "ffffffffff0", "ffffffffffffffffffffffffffffffff"] {
        let text = std::format!("{CHUNKED}{digits}\r\nabc");
        for cut in [whole, bytewise] {
            let (sum, _) = play(&[client(POST), server(&text)], cut);
            assert_eq!((sum.finished, sum.lost), (0, 1), "{digits}");
        }
    }
    let (sum, _) = play(&[client(POST), server(&std::format!("{CHUNKED}ffffffffff\r\nabc"))], bytewise);
    assert_eq!((sum.finished, sum.chunks, sum.lost), (0, 1, 0), "less than 2^40 bytes");
}

#[test]
fn too_many_steps_lose_framing_until_the_end_of_the_response() {
    let mut body = String::from(CHUNKED);
    while body.len() < 120_000 {
        body.push_str("1\r\nx\r\n");
    }
    body.push_str("0\r\n\r\n");
    let (sum, _) = play(&[client(POST), Server(body), client(POST), server(SIZED)], whole);
    assert_eq!((sum.started, sum.finished, sum.aborted), (2, 2, 0));
    assert!(sum.lost > 0);
}

#[test]
fn too_many_pipelined_requests_turn_the_connection_opaque() {
    let turns: Vec<Turn> = (0..20).map(|_| client(POST)).collect();
    let (sum, connection) = play(&turns, whole);
    assert_eq!((sum.started, sum.aborted, sum.opaque), (8, 8, 1));
    assert_eq!(connection.begun, connection.ended);
}

#[test]
fn reordered_segment_within_a_body_keeps_framing() {
    let mut player = Player::new();
    let head = b"POST / HTTP/1.1\r\nContent-Length: 3000\r\n\r\n";
    let body = [b'x'; 1000];
    let seq = player.client_seq;
    let first = seq.wrapping_add(head.len() as u32);
    player.ingress(seq, head, false, false);
    player.ingress(first, &body, false, false);
    player.ingress(first.wrapping_add(2000), &body, false, false);
    player.ingress(first.wrapping_add(1000), &body, false, false);
    assert_eq!(player.sum.bytes as usize, head.len() + 3000, "each byte once, in any order");
    assert_eq!(player.sum.waiting_bytes as usize, head.len() + 3000);
    player.client_seq = first.wrapping_add(3000);
    player.turn(&server(SIZED), whole);
    player.turn(&client(POST), whole);
    player.turn(&server(SIZED), whole);
    assert_eq!((player.sum.started, player.sum.finished, player.sum.lost), (2, 2, 0));
}

#[test]
fn request_with_a_late_first_segment_is_counted_once() {
    let mut player = Player::new();
    player.turn(&client(GET), whole);
    player.turn(&server(SIZED), whole);
    let (first, rest) = POST.as_bytes().split_at(40);
    let seq = player.client_seq;
    player.ingress(seq.wrapping_add(40), rest, false, false);
    player.ingress(seq, first, false, false);
    player.client_seq = seq.wrapping_add(POST.len() as u32);
    player.turn(&server(SIZED), whole);
    player.turn(&client(POST), whole);
    player.turn(&server(SIZED), whole);
    assert_eq!((player.sum.started, player.sum.finished, player.sum.aborted), (2, 2, 0));
}

#[test]
fn ignores_requests_from_before_the_attachment() {
    let mut player = Player::new();
    player.turn(&server("5\r\ndata:\r\n0\r\n\r\n"), whole);
    player.turn(&client(POST), whole);
    player.turn(&server(SIZED), whole);
    assert_eq!((player.sum.started, player.sum.finished, player.sum.lost), (1, 1, 0));
}

#[test]
fn closed_socket_aborts_open_requests() {
    let (_, mut connection) = play(&[client(POST), client(POST)], whole);
    connection.socket_closed(9_000);
    assert_eq!(connection.response.effects.aborted, 2);
    assert!(connection.is_closed());
    connection.socket_closed(9_000);
    assert_eq!(connection.response.effects.aborted, 0);
}

#[test]
fn accepts_a_list_of_equal_content_lengths() {
    let posted = "POST / HTTP/1.1\r\nContent-Length: 2, 2\r\n\r\n{}";
    let answer = "HTTP/1.1 200 OK\r\nContent-Length: 2,2\r\ncontent-length: 2\r\n\r\n{}";
    for cut in [whole as fn(&[u8]) -> _, bytewise] {
        let (sum, _) = play(&[client(posted), server(answer), client(GET), server(SIZED)], cut);
        assert_eq!((sum.started, sum.finished, sum.other, sum.lost), (1, 1, 1, 0));
    }
}

#[test]
fn attachment_within_a_body_finds_the_next_request() {
    for rest in ["of the prompt\"}", "THE END OF IT\"}", "{\"POST\": 1}"] {
        let mut player = Player::new();
        player.turn(&client(rest), whole);
        player.turn(&server(SIZED), whole);
        player.turn(&client(POST), whole);
        player.turn(&server(SIZED), whole);
        assert_eq!((player.sum.started, player.sum.finished, player.sum.opaque), (1, 1, 0), "{rest}");
        assert_eq!((player.sum.lost, player.sum.other), (1, 0), "{rest}");
    }
}

#[test]
fn reordered_first_segment_starts_the_request() {
    let mut player = Player::new();
    let (first, rest) = POST.as_bytes().split_at(60);
    let seq = player.client_seq;
    player.ingress(seq.wrapping_add(60), rest, false, false);
    player.ingress(seq, first, false, false);
    player.client_seq = seq.wrapping_add(POST.len() as u32);
    player.turn(&server(SIZED), whole);
    player.turn(&client(POST), whole);
    player.turn(&server(SIZED), whole);
    assert_eq!((player.sum.started, player.sum.finished, player.sum.aborted), (2, 2, 0));
}

#[test]
fn lost_response_ends_when_the_next_one_starts() {
    let mut player = Player::new();
    player.turn(&client(POST), whole);
    // An invalid chunk size, and an end that is not the plain terminator.
    player.turn(&server(&std::format!("{CHUNKED}zz\r\n")), whole);
    player.turn(&server("0\r\nTrailer: 1\r\n\r\n"), whole);
    assert_eq!((player.sum.lost, player.sum.finished), (1, 0));
    player.turn(&client(POST), whole);
    player.turn(&server(SIZED), whole);
    player.turn(&client(POST), whole);
    player.turn(&server(SIZED), whole);
    assert_eq!((player.sum.started, player.sum.finished, player.sum.aborted), (3, 3, 0));
    assert_eq!(player.sum.classes, [1, 2, 0]);
}

#[test]
fn ignores_segments_of_earlier_connections() {
    let mut player = Player::new();
    player.turn(&client(POST), whole);
    let elsewhere = player.client_seq.wrapping_add(1 << 30);
    player.ingress(elsewhere, b"", false, true);
    player.ingress(elsewhere.wrapping_neg(), b"x", true, false);
    player.turn(&server(SIZED), whole);
    player.ingress(elsewhere, POST.as_bytes(), false, false);
    player.turn(&client(POST), whole);
    player.turn(&server(SIZED), whole);
    assert_eq!((player.sum.started, player.sum.finished, player.sum.aborted), (2, 2, 0));
    player.turn(&client(POST), whole);
    // The sequence number of a reset may be after the last byte seen: a segment may have been lost.
    player.client_seq = player.client_seq.wrapping_add(1460);
    player.turn(&ClientRst, whole);
    assert_eq!((player.sum.started, player.sum.aborted), (3, 1));
}

#[test]
fn clock_difference_between_cpus_gives_no_negative_duration() {
    let mut player = Player::new();
    player.now_ns = 5_000;
    player.turn(&client(POST), whole);
    player.now_ns = 100;
    player.turn(&server(SIZED), whole);
    let effects = &player.connection.response.effects;
    assert_eq!((effects.finished, effects.ended.duration_ns, effects.ttft_ns), (1, 0, 0));
}

#[test]
fn segment_may_have_data_and_fin() {
    let mut player = Player::new();
    player.turn(&client(POST), whole);
    let reply = b"HTTP/1.1 200 OK\r\n\r\nuntil the end";
    player.egress(player.server_seq, reply, true);
    // A retransmit, then the client's side.
    player.egress(player.server_seq, reply, true);
    player.turn(&ClientFin, whole);
    player.turn(&ClientRst, whole);
    assert_eq!((player.sum.started, player.sum.finished, player.sum.aborted), (1, 1, 0));

    let mut player = Player::new();
    player.ingress(player.client_seq, POST.as_bytes(), true, false);
    assert_eq!((player.sum.started, player.sum.aborted), (1, 1), "a half-close is a disconnect");
}

#[test]
fn tcp_keepalive_probes_are_not_data() {
    let mut player = Player::new();
    player.turn(&client(POST), whole);
    player.turn(&server(CHUNKED), whole);
    player.ingress(player.client_seq.wrapping_sub(1), b"\0", false, false);
    player.turn(&server("5\r\ndata:\r\n0\r\n\r\n"), whole);
    player.turn(&client(POST), whole);
    player.turn(&server(SIZED), whole);
    assert_eq!((player.sum.started, player.sum.finished, player.sum.lost), (2, 2, 0));
}

#[test]
fn other_transfer_codings_keep_the_content_length() {
    let turns = [
        client("POST / HTTP/1.0\r\nTransfer-Encoding: identity\r\nContent-Length: 2\r\n\r\n{}"),
        server("HTTP/1.0 200 OK\r\nTransfer-Encoding: identity\r\nContent-Length: 2\r\n\r\n{}"),
        client(GET),
        server(SIZED),
    ];
    for cut in [whole as fn(&[u8]) -> _, bytewise] {
        let (sum, _) = play(&turns, cut);
        assert_eq!((sum.started, sum.finished, sum.other, sum.lost), (1, 1, 1, 0));
    }
}

fn cuts(bytes: &[u8], at: &[prop::sample::Index]) -> Vec<Vec<u8>> {
    let mut places: Vec<usize> = at.iter().map(|index| index.index(bytes.len() + 1)).collect();
    places.extend([0, bytes.len()]);
    places.sort_unstable();
    places.dedup();
    places.windows(2).map(|pair| bytes[pair[0]..pair[1]].to_vec()).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    /// Any split with any retransmits gives the same counts as one segment per turn, including bytes.
    #[test]
    fn splits_and_retransmits_change_nothing(
        which in any::<prop::sample::Index>(),
        at in prop::collection::vec(any::<prop::sample::Index>(), 0..12),
        again in prop::collection::vec(any::<(prop::sample::Index, u8)>(), 0..6),
    ) {
        let corpus = corpus();
        let (name, turns, _) = &corpus[which.index(corpus.len())];
        let (expected, _) = play(turns, whole);

        let mut player = Player::new();
        for turn in turns {
            player.turn(turn, |bytes| cuts(bytes, &at));
            let (text, end, is_client) = match turn {
                Client(text) => (text.as_bytes(), player.client_seq, true),
                Server(text) => (text.as_bytes(), player.server_seq, false),
                _ => continue,
            };
            for (start, _) in &again {
                let tail = &text[start.index(text.len())..];
                let seq = end.wrapping_sub(tail.len() as u32);
                if is_client {
                    player.ingress(seq, tail, false, false);
                } else {
                    player.egress(seq, tail, false);
                }
            }
        }
        if expected.opaque != 0 {
            // The bytes read before the connection is opaque depend on the split.
            player.sum.bytes = expected.bytes;
        }
        prop_assert_eq!(player.sum, expected, "{}", name);
    }

    /// No input panics or breaks `started = finished + aborted + in_flight`. The bytes that wait are those of the open
    /// requests, and never negative.
    #[test]
    fn any_input_keeps_the_sums(
        segments in prop::collection::vec(
            (any::<bool>(), any::<u8>(), prop::collection::vec(any::<u8>(), 0..40), any::<prop::sample::Index>(), 0..40u8),
            0..60,
        ),
    ) {
        let corpus = corpus();
        let mut player = Player::new();
        for (is_client, jump, noise, which, flags) in segments {
            let (_, turns, _) = &corpus[which.index(corpus.len())];
            let known: Vec<u8> = turns.iter().filter_map(|turn| match (turn, is_client) {
                (Client(text), true) | (Server(text), false) => Some(text.clone()),
                _ => None,
            }).collect::<String>().into_bytes();
            let bytes = if flags & 1 == 0 { known } else { noise };
            let shift = i32::from(jump as i8) / 32;
            let length = bytes.len() as u32;
            player.now_ns += 1_000;
            if is_client {
                let seq = player.client_seq.wrapping_add_signed(shift);
                player.ingress(seq, &bytes, flags == 2, flags == 4);
                player.client_seq = seq.wrapping_add(length);
            } else {
                let seq = player.server_seq.wrapping_add_signed(shift);
                player.egress(seq, &bytes, flags == 6);
                player.server_seq = seq.wrapping_add(length);
            }
            let open = player.connection.open_requests();
            prop_assert_eq!(player.sum.started, player.sum.finished + player.sum.aborted + open);
            prop_assert_eq!(player.sum.waiting_bytes, player.connection.waiting_bytes() as i64);
        }
    }

    /// Waiting bytes against a model: each request is a number of bytes and whether its response has a body byte.
    #[test]
    fn waiting_bytes_equal_those_of_unanswered_requests(
        steps in prop::collection::vec((0..10u8, 0..200usize, any::<prop::sample::Index>()), 1..60),
        at in prop::collection::vec(any::<prop::sample::Index>(), 0..6),
    ) {
        let mut player = Player::new();
        let mut model = WaitingModel::default();
        for (step, size, which) in steps {
            let Some(turn) = model.step(step, size, which) else { continue };
            player.turn(&turn, |bytes| cuts(bytes, &at));
            if let Client(text) = &turn {
                // A retransmit is not counted again.
                player.ingress(player.client_seq.wrapping_sub(text.len() as u32), text.as_bytes(), false, false);
            }
            prop_assert_eq!(player.sum.waiting_bytes, model.waiting(), "{:?}", turn);
            prop_assert_eq!(player.connection.waiting_bytes() as i64, model.waiting());
        }
    }
}

/// Pipelined requests on one connection, the oldest first.
#[derive(Default)]
struct WaitingModel {
    open: Vec<ModelRequest>,
    /// Bytes of the newest request's body that are not sent.
    body_left: usize,
    closed: bool,
}

struct ModelRequest {
    is_post: bool,
    bytes: usize,
    response: ModelResponse,
}

#[derive(PartialEq)]
enum ModelResponse {
    None,
    Head,
    Body,
}

impl WaitingModel {
    fn waiting(&self) -> i64 {
        let waits = |it: &&ModelRequest| it.is_post && it.response != ModelResponse::Body;
        self.open.iter().filter(waits).map(|it| it.bytes as i64).sum()
    }

    /// The next turn, if the step is possible.
    fn step(&mut self, step: u8, size: usize, which: prop::sample::Index) -> Option<Turn> {
        if self.closed {
            return None;
        }
        match step {
            0..=2 => self.request(size, which),
            3 => self.rest_of_the_body(size),
            4 | 5 => self.response_head(),
            6 | 7 => self.response_body(),
            8 => self.response_end(),
            _ => {
                // Rarely: most conversations are long.
                if which.index(10) != 0 {
                    return None;
                }
                self.closed = true;
                self.open.clear();
                Some(if size.is_multiple_of(2) { ClientFin } else { ServerFin })
            }
        }
    }

    fn request(&mut self, size: usize, which: prop::sample::Index) -> Option<Turn> {
        if self.open.len() >= super::MAX_PENDING as usize || self.body_left != 0 {
            return None;
        }
        let is_post = which.index(4) != 0;
        let method = if is_post { "POST" } else { "PUT" };
        let sent = which.index(size + 1);
        let text = std::format!("{method} / HTTP/1.1\r\nContent-Length: {size}\r\n\r\n{}", "x".repeat(sent));
        self.body_left = size - sent;
        self.open.push(ModelRequest { is_post, bytes: text.len(), response: ModelResponse::None });
        Some(Client(text))
    }

    fn rest_of_the_body(&mut self, size: usize) -> Option<Turn> {
        let sent = size.min(self.body_left);
        self.body_left -= sent;
        if let Some(newest) = self.open.last_mut() {
            newest.bytes += sent;
        }
        (sent != 0).then(|| Client("x".repeat(sent)))
    }

    fn response_head(&mut self) -> Option<Turn> {
        let oldest = self.open.first_mut().filter(|it| it.response == ModelResponse::None)?;
        oldest.response = ModelResponse::Head;
        Some(server(CHUNKED))
    }

    fn response_body(&mut self) -> Option<Turn> {
        let oldest = self.open.first_mut().filter(|it| it.response != ModelResponse::None)?;
        oldest.response = ModelResponse::Body;
        Some(server("3\r\n: a\r\n"))
    }

    fn response_end(&mut self) -> Option<Turn> {
        self.open.first().filter(|it| it.response != ModelResponse::None)?;
        // The rest of its body belongs to a request that has ended.
        self.open.remove(0);
        Some(server("0\r\n\r\n"))
    }
}
