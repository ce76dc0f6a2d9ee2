//! Any segments in any order: nothing panics, every request that starts is open until it ends once, and the bytes that
//! wait are those of the open requests.

use arbitrary::{Arbitrary, Unstructured};
use forebay_agent_ebpf::framing::{Connection, Effects, Outcome, Segment};

#[derive(Arbitrary, Debug)]
struct Step<'a> {
    from_client: bool,
    /// Distance from the expected sequence number.
    jump: Jump,
    flags: Flags,
    later_ns: u16,
    payload: Payload<'a>,
}

#[derive(Arbitrary, Debug)]
enum Jump {
    None,
    Little(i8),
    Any(u32),
}

#[derive(Arbitrary, Debug)]
enum Flags {
    None,
    Fin,
    Rst,
    /// No segment: the socket is closed.
    SocketClosed,
}

#[derive(Arbitrary, Debug)]
enum Payload<'a> {
    Bytes(&'a [u8]),
    Known(u8),
}

const KNOWN: [&[u8]; 16] = [
    b"POST / HTTP/1.1\r\nContent-Length: 5\r\n\r\nhello",
    b"POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
    b"POST / HTTP/1.1\r\nContent-Length: 100\r\n\r\n",
    b"GET / HTTP/1.1\r\n\r\n",
    b"HEAD / HTTP/1.1\r\n\r\n",
    b"PRI * HTTP/2.0\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}",
    b"HTTP/1.1 200 OK\r\n\r\n",
    b"HTTP/1.1 100 Continue\r\n\r\n",
    b"HTTP/1.1 101 Switching Protocols\r\n\r\n",
    b"HTTP/1.1 204 No Content\r\n\r\n",
    b"6\r\ndata: \r\n",
    b"e\r\n: keep-alive\n\n\r\n",
    b"0\r\n\r\n",
    b"zz\r\n",
];

#[derive(Default)]
struct Sum {
    /// Bytes from the server.
    sent_bytes: u64,
    started: u64,
    ended: u64,
    waiting_bytes: i64,
}

impl Sum {
    fn add_response(&mut self, effects: &Effects) {
        self.sent_bytes += u64::from(effects.bytes);
        self.add(effects);
    }

    fn add(&mut self, effects: &Effects) {
        self.started += u64::from(effects.started);
        self.ended += u64::from(effects.finished) + u64::from(effects.aborted);
        self.waiting_bytes += effects.waiting_bytes;
        assert_eq!(effects.ended.outcome != Outcome::NONE, effects.finished + effects.aborted != 0);
        assert!(effects.ended.response_bytes <= self.sent_bytes, "more than was sent");
    }
}

/// Follows a connection whose segments are made from `data`.
pub fn framing(data: &[u8]) {
    let Ok(steps) = Vec::<Step<'_>>::arbitrary_take_rest(Unstructured::new(data)) else { return };
    let mut connection = Connection::default();
    let mut expected = [0xffff_fff0_u32, 0xffff_ff00];
    let mut now_ns = 1;
    let mut sum = Sum::default();
    for step in steps {
        now_ns += u64::from(step.later_ns);
        let bytes = match step.payload {
            Payload::Bytes(bytes) => bytes,
            Payload::Known(which) => KNOWN[usize::from(which) % KNOWN.len()],
        };
        let side = usize::from(step.from_client);
        let seq = match step.jump {
            Jump::None => expected[side],
            Jump::Little(by) => expected[side].wrapping_add_signed(by.into()),
            Jump::Any(seq) => seq,
        };
        let segment = Segment {
            seq,
            length: bytes.len() as u32,
            fin: matches!(step.flags, Flags::Fin),
            rst: matches!(step.flags, Flags::Rst),
        };
        expected[side] = seq.wrapping_add(segment.length);
        if matches!(step.flags, Flags::SocketClosed) {
            connection.socket_closed(now_ns);
            sum.add_response(&connection.response.effects);
        } else if step.from_client {
            connection.ingress(segment, bytes, now_ns);
            sum.add(&connection.request.effects);
        } else {
            connection.egress(segment, bytes, now_ns);
            sum.add_response(&connection.response.effects);
        }
        assert_eq!(sum.started, sum.ended + u64::from(connection.open_requests()));
        assert_eq!(sum.waiting_bytes, connection.waiting_bytes() as i64);
        assert!(!connection.is_closed() || connection.open_requests() == 0, "closed with open requests");
    }
}
