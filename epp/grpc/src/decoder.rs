//! Extracts messages from received bytes.

use std::{fmt, mem, sync::Arc};

use bytes::{Buf as _, Bytes, BytesMut};
use tonic::Status;

use crate::prefix::{PREFIX_BYTES, UNCOMPRESSED, message_length};

/// Messages shorter than this are not counted in a [`MessageBudget`].
const MIN_COUNTED_BYTES: usize = 1 << 10;

/// A limit on the bytes of messages over many streams.
pub trait MessageBudget: fmt::Debug + Send + Sync {
    /// Takes the length of a message before it is kept. `false` if the limit is reached.
    fn take(&self, bytes: usize) -> bool;
    /// Releases a length that was taken.
    fn release(&self, bytes: usize);
}

/// The bytes of one message in the budget.
#[derive(Debug)]
struct Charge {
    budget: Arc<dyn MessageBudget>,
    bytes: usize,
}

impl Charge {
    /// Counts the message until the next one is counted.
    fn replace(&mut self, bytes: usize) -> Result<(), Status> {
        self.release();
        if bytes < MIN_COUNTED_BYTES {
            return Ok(());
        }
        if !self.budget.take(bytes) {
            return Err(Status::resource_exhausted(format!(
                "no memory for a message of {bytes} bytes: too many messages are incomplete or unanswered"
            )));
        }
        self.bytes = bytes;
        Ok(())
    }

    fn release(&mut self) {
        if self.bytes > 0 {
            self.budget.release(mem::take(&mut self.bytes));
        }
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.release();
    }
}

/// Extracts messages from pieces of any size.
///
/// It keeps at most one message of the maximum length, its prefix, and one piece.
#[derive(Debug)]
pub struct Decoder {
    /// The last piece, as far as it is not consumed.
    input: Bytes,
    /// The start of an incomplete message, including its prefix. `input` follows it.
    partial: BytesMut,
    max_message_bytes: usize,
    /// Counts the message that is received, and then until the next one is asked for.
    charge: Option<Charge>,
    /// The length of the incomplete message is counted.
    is_counted: bool,
}

impl Decoder {
    /// A message longer than `max_message_bytes` is an error.
    pub fn new(max_message_bytes: usize) -> Self {
        Self {
            input: Bytes::new(),
            partial: BytesMut::new(),
            max_message_bytes,
            charge: None,
            is_counted: false,
        }
    }

    /// Counts messages in `budget`, each until the next one is asked for. A message over the budget is an error.
    #[must_use]
    pub fn with_budget(mut self, budget: Arc<dyn MessageBudget>) -> Self {
        self.charge = Some(Charge { budget, bytes: 0 });
        self
    }

    /// Adds a piece. Call it only after [`Decoder::next_message`] has returned `None`.
    pub fn push(&mut self, piece: Bytes) {
        debug_assert!(self.input.is_empty(), "the last piece is not consumed");
        self.input = piece;
    }

    /// Whether a message has begun and is not complete, after [`Decoder::next_message`] has returned `None`.
    pub fn is_inside_message(&self) -> bool {
        !self.partial.is_empty()
    }

    /// Bytes that are allocated for an incomplete message.
    pub fn buffered_bytes(&self) -> usize {
        self.partial.capacity()
    }

    /// The next message without its prefix. `None` if a piece is missing.
    ///
    /// # Errors
    ///
    /// A compressed message (`UNIMPLEMENTED`), or one over the limit (`OUT_OF_RANGE`) or the budget (`RESOURCE_EXHAUSTED`).
    pub fn next_message(&mut self) -> Result<Option<Bytes>, Status> {
        if !self.is_counted
            && let Some(charge) = &mut self.charge
        {
            charge.release();
        }
        if self.partial.is_empty()
            && let Some(length) = self.checked_length(&self.input)?
            && self.input.len() >= PREFIX_BYTES + length
        {
            // Most messages are in one frame. They are not copied.
            self.count(length)?;
            self.input.advance(PREFIX_BYTES);
            return Ok(Some(self.input.split_to(length)));
        }
        // The length is checked before anything after the prefix is kept: the prefix may be split over pieces.
        self.fill(PREFIX_BYTES);
        let Some(length) = self.checked_length(&self.partial)? else { return Ok(None) };
        if !self.is_counted {
            self.count(length)?;
            self.is_counted = true;
        }
        self.fill(PREFIX_BYTES + length);
        if self.partial.len() < PREFIX_BYTES + length {
            return Ok(None);
        }
        self.is_counted = false;
        // Taken, not split: a reused buffer would grow to twice the maximum length.
        let mut message = mem::take(&mut self.partial).freeze();
        message.advance(PREFIX_BYTES);
        Ok(Some(message))
    }

    fn count(&mut self, length: usize) -> Result<(), Status> {
        self.charge.as_mut().map_or(Ok(()), |charge| charge.replace(length))
    }

    /// Moves input to the incomplete message until that has `bytes` bytes.
    fn fill(&mut self, bytes: usize) {
        let missing = bytes.saturating_sub(self.partial.len());
        if missing == 0 || self.input.is_empty() {
            return;
        }
        self.partial.reserve(missing);
        let piece = self.input.split_to(missing.min(self.input.len()));
        self.partial.extend_from_slice(&piece);
    }

    /// Length of the message that `bytes` starts with. `None` if the prefix is not complete.
    fn checked_length(&self, bytes: &[u8]) -> Result<Option<usize>, Status> {
        if bytes.first().is_some_and(|flag| *flag != UNCOMPRESSED) {
            return Err(Status::unimplemented(
                "compressed messages are not supported; send uncompressed messages",
            ));
        }
        let limit = self.max_message_bytes;
        match message_length(bytes) {
            Some(length) if length > limit => Err(Status::out_of_range(format!(
                "message of {length} bytes exceeds the limit of {limit} bytes"
            ))),
            length => Ok(length),
        }
    }
}

#[cfg(test)]
mod tests {
    use tonic::Code;

    use super::*;

    const LIMIT: usize = 1000;

    fn framed(message: &[u8]) -> Vec<u8> {
        let length = u32::try_from(message.len()).unwrap().to_be_bytes();
        [&[UNCOMPRESSED], &length[..], message].concat()
    }

    /// Every way to split the prefix into frames: bit `n` of `cuts` is a cut after byte `n + 1`.
    fn split_prefixes(bytes: &[u8]) -> impl Iterator<Item = Vec<Bytes>> {
        (0..1_u32 << PREFIX_BYTES).map(move |cuts| {
            let mut pieces = vec![Vec::new()];
            for (at, byte) in bytes.iter().enumerate() {
                pieces.last_mut().unwrap().push(*byte);
                if at < PREFIX_BYTES && cuts & (1 << at) != 0 {
                    pieces.push(Vec::new());
                }
            }
            pieces.into_iter().map(Bytes::from).collect()
        })
    }

    fn all(decoder: &mut Decoder, piece: Bytes) -> Result<Vec<Bytes>, Status> {
        decoder.push(piece);
        let mut messages = Vec::new();
        while let Some(message) = decoder.next_message()? {
            messages.push(message);
        }
        Ok(messages)
    }

    #[test]
    fn the_limit_applies_to_every_split_of_the_prefix() {
        for announced in [LIMIT + 1, 512 << 20, u32::MAX as usize] {
            let prefix = [&[UNCOMPRESSED], &u32::try_from(announced).unwrap().to_be_bytes()[..]].concat();
            for pieces in split_prefixes(&prefix) {
                let sizes: Vec<usize> = pieces.iter().map(Bytes::len).collect();
                let mut decoder = Decoder::new(LIMIT);
                let results = pieces.into_iter().map(|piece| all(&mut decoder, piece));
                let error = results.filter_map(Result::err).next();
                let error = error.unwrap_or_else(|| panic!("{announced} bytes in {sizes:?} were accepted"));
                assert_eq!(error.code(), Code::OutOfRange, "{sizes:?}");
                assert!(decoder.buffered_bytes() <= LIMIT, "{sizes:?}");
            }
        }
    }

    #[test]
    fn messages_up_to_the_limit_arrive_in_every_split_of_the_prefix() {
        for length in [0, 1, LIMIT] {
            let message: Vec<u8> = (0..length).map(|at| at as u8).collect();
            let stream = [framed(&message), framed(b"next")].concat();
            for pieces in split_prefixes(&stream) {
                let mut decoder = Decoder::new(LIMIT);
                let messages: Vec<Bytes> =
                    pieces.into_iter().flat_map(|piece| all(&mut decoder, piece).unwrap()).collect();
                assert_eq!(messages, [&message[..], b"next"]);
                assert!(!decoder.is_inside_message());
            }
        }
    }

    #[test]
    fn the_buffer_never_exceeds_the_limit() {
        let stream = [framed(&[1; 700]), framed(&[2; LIMIT]), framed(&[3; 900])].concat();
        for piece_bytes in [1, 3, 7, 64, 4096] {
            let mut decoder = Decoder::new(LIMIT);
            let mut count = 0;
            for piece in stream.chunks(piece_bytes) {
                count += all(&mut decoder, Bytes::copy_from_slice(piece)).unwrap().len();
                assert!(decoder.buffered_bytes() <= PREFIX_BYTES + LIMIT, "{piece_bytes}");
                assert!(decoder.input.is_empty());
            }
            assert_eq!((count, decoder.is_inside_message()), (3, false));
        }
    }

    #[test]
    fn rejects_compression_at_the_first_byte() {
        let error = all(&mut Decoder::new(LIMIT), Bytes::from_static(&[1])).unwrap_err();
        assert_eq!(error.code(), Code::Unimplemented);
    }

    #[derive(Debug, Default)]
    struct Budget(std::sync::Mutex<usize>);

    impl MessageBudget for Budget {
        fn take(&self, bytes: usize) -> bool {
            let mut taken = self.0.lock().unwrap();
            let fits = *taken + bytes <= 10_000;
            *taken += if fits { bytes } else { 0 };
            fits
        }

        fn release(&self, bytes: usize) {
            *self.0.lock().unwrap() -= bytes;
        }
    }

    #[test]
    fn a_message_is_counted_from_its_prefix_until_the_next_one_is_asked_for() {
        let budget = Arc::new(Budget::default());
        let decoder = || Decoder::new(20_000).with_budget(Arc::clone(&budget) as Arc<dyn MessageBudget>);
        let taken = || *budget.0.lock().unwrap();
        let mut first = decoder();
        first.push(Bytes::from(framed(&[0; 6000])).slice(..PREFIX_BYTES));
        assert!(first.next_message().unwrap().is_none());
        assert_eq!(taken(), 6000);
        let mut second = decoder();
        second.push(Bytes::from(framed(&[0; 6000])));
        assert_eq!(second.next_message().unwrap_err().code(), Code::ResourceExhausted);
        first.push(Bytes::from(vec![0; 6000]));
        assert_eq!(first.next_message().unwrap().unwrap().len(), 6000);
        assert_eq!(taken(), 6000, "the message is in use");
        assert!(first.next_message().unwrap().is_none());
        assert_eq!(taken(), 0);
        assert_eq!(all(&mut first, Bytes::from(framed(&[0; 10_000]))).unwrap().len(), 1);
        first.push(Bytes::from(framed(&[0; 9000])).slice(..PREFIX_BYTES + 10));
        assert!(first.next_message().unwrap().is_none());
        drop(first);
        assert_eq!(taken(), 0);
    }
}
