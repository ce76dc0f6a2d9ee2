//! gRPC messages: the same for every split, and none over the limit is kept.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use forebay_grpc::proto::{ProcessingRequest, ProcessingResponse};
use forebay_grpc::{Decoder, MessageBudget};
use prost::Message as _;
use tonic::Code;

const PREFIX_BYTES: usize = 5;
/// Messages from 1 KiB are counted in a budget.
const LIMIT_BYTES: usize = 1100;

/// Receives messages. The first byte selects a split.
pub fn grpc(data: &[u8]) {
    let (seed, stream) = forebay_fuzz::seed(data);
    let (expected, error) = reference(stream);
    for message in &expected {
        // Any bytes may be in a message.
        let _ = ProcessingRequest::decode(message.clone());
        let _ = ProcessingResponse::decode(message.clone());
    }
    let whole = std::iter::once(stream);
    check(receive(Decoder::new(LIMIT_BYTES), whole), &expected, error);
    for seed in [0, seed] {
        let budget = Arc::new(Budget::default());
        let decoder = Decoder::new(LIMIT_BYTES).with_budget(budget.clone());
        check(receive(decoder, forebay_fuzz::pieces(stream, seed)), &expected, error);
        assert_eq!(budget.0.load(Ordering::Relaxed), 0, "a message is counted after the stream");
    }
}

/// Why receiving stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// An error. No byte behind this number of bytes is needed to find it.
    Error(Code, usize),
    InsideMessage,
    Regular,
}

/// Reads the whole stream by the definition of `Length-Prefixed-Message`.
fn reference(stream: &[u8]) -> (Vec<Bytes>, End) {
    let mut messages = Vec::new();
    let mut at = 0;
    loop {
        let rest = &stream[at..];
        if rest.is_empty() {
            return (messages, End::Regular);
        }
        if rest[0] != 0 {
            return (messages, End::Error(Code::Unimplemented, at + 1));
        }
        let Some(prefix) = rest.first_chunk::<PREFIX_BYTES>() else { return (messages, End::InsideMessage) };
        let length = u32::from_be_bytes([prefix[1], prefix[2], prefix[3], prefix[4]]) as usize;
        if length > LIMIT_BYTES {
            return (messages, End::Error(Code::OutOfRange, at + PREFIX_BYTES));
        }
        let Some(message) = rest.get(PREFIX_BYTES..PREFIX_BYTES + length) else {
            return (messages, End::InsideMessage);
        };
        messages.push(Bytes::copy_from_slice(message));
        at += PREFIX_BYTES + length;
    }
}

/// Messages, the error, and the bytes that were received before it.
type Received = (Vec<Bytes>, Option<Code>, usize, bool);

fn receive<'a>(mut decoder: Decoder, pieces: impl Iterator<Item = &'a [u8]>) -> Received {
    let (mut messages, mut bytes) = (Vec::new(), 0);
    for piece in pieces {
        decoder.push(Bytes::copy_from_slice(piece));
        loop {
            match decoder.next_message() {
                Ok(Some(message)) => messages.push(message),
                Ok(None) => break,
                Err(status) => return (messages, Some(status.code()), bytes, false),
            }
        }
        bytes += piece.len();
        assert!(decoder.buffered_bytes() <= PREFIX_BYTES + LIMIT_BYTES, "more than one message is kept");
    }
    (messages, None, bytes, decoder.is_inside_message())
}

fn check((messages, error, before, is_inside): Received, expected: &[Bytes], end: End) {
    assert_eq!(messages, expected);
    match end {
        End::Error(code, needed) => {
            assert_eq!(error, Some(code));
            assert!(before < needed, "the error was found after {before} bytes, not in {needed}");
        }
        End::InsideMessage | End::Regular => {
            assert_eq!((error, is_inside), (None, end == End::InsideMessage));
        }
    }
}

/// The bytes that are taken.
#[derive(Debug, Default)]
struct Budget(AtomicUsize);

impl MessageBudget for Budget {
    fn take(&self, bytes: usize) -> bool {
        assert!(bytes <= LIMIT_BYTES);
        self.0.fetch_add(bytes, Ordering::Relaxed);
        true
    }

    fn release(&self, bytes: usize) {
        assert!(self.0.fetch_sub(bytes, Ordering::Relaxed) >= bytes, "released twice");
    }
}
