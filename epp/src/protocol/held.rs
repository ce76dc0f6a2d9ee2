use std::{mem, sync::Arc};

use bytes::{Bytes, BytesMut};
use forebay_grpc::MessageBudget;
use forebay_grpc::names::MAX_STREAMED_BODY_BYTES;

/// Maximum bytes of one body that are held until the decision. The decision is then made with what was read.
const MAX_HELD_BYTES: usize = 8 << 20;
/// Smaller messages are joined: each would keep a buffer alive.
const SMALL_BYTES: usize = 4 << 10;

/// The part of a body that has arrived, until it is sent back.
#[derive(Debug)]
pub(super) struct HeldBody {
    pieces: Vec<Bytes>,
    /// Small messages after `pieces`.
    tail: BytesMut,
    charge: Charge,
}

/// Bytes in the budget of a gateway. They are released when this is dropped.
#[derive(Debug)]
pub(super) struct Charge {
    budget: Arc<dyn MessageBudget>,
    bytes: usize,
}

impl HeldBody {
    pub(super) fn new(budget: Arc<dyn MessageBudget>) -> Self {
        Self { pieces: Vec::new(), tail: BytesMut::new(), charge: Charge::new(budget) }
    }

    /// Keeps the bytes. False if no more may be held.
    pub(super) fn push(&mut self, bytes: Bytes) -> bool {
        let is_counted = self.charge.grow(bytes.len());
        if bytes.len() >= SMALL_BYTES {
            self.end_tail();
            self.pieces.push(bytes);
        } else {
            if self.tail.len() + bytes.len() > MAX_STREAMED_BODY_BYTES {
                self.end_tail();
            }
            self.tail.extend_from_slice(&bytes);
        }
        is_counted && self.charge.bytes <= MAX_HELD_BYTES
    }

    fn end_tail(&mut self) {
        if !self.tail.is_empty() {
            self.pieces.push(mem::take(&mut self.tail).freeze());
        }
    }

    /// All bytes in order, and what they take of the budget.
    pub(super) fn into_pieces(mut self) -> (Vec<Bytes>, Charge) {
        self.end_tail();
        (self.pieces, self.charge)
    }
}

impl Charge {
    pub(super) fn new(budget: Arc<dyn MessageBudget>) -> Self {
        Self { budget, bytes: 0 }
    }

    /// False if the budget has no room for the bytes, which are then not counted.
    pub(super) fn grow(&mut self, bytes: usize) -> bool {
        let is_counted = self.budget.take(bytes);
        if is_counted {
            self.bytes += bytes;
        }
        is_counted
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.budget.release(self.bytes);
    }
}
