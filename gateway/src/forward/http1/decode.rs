//! Decodes the framing of response bodies (RFC 9112 §6 and §7).

use bytes::{Buf as _, Bytes};
use http::{HeaderMap, HeaderName, HeaderValue};

use crate::forward::error::ExchangeError;

/// Maximum bytes of all chunk extensions of a body. They are ignored (RFC 9112 §7.1.1).
const MAX_EXTENSION_BYTES: usize = 16 << 10;
/// Maximum bytes of the trailer section.
const MAX_TRAILER_BYTES: usize = 16 << 10;
const MAX_TRAILERS: usize = 100;

/// Extracts a body from its framing.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Decoder(State);

#[derive(Debug, PartialEq, Eq)]
enum State {
    Length(u64),
    UntilClose,
    Chunked(Chunked),
    /// Trailers that [`Decoder::next`] returns next.
    Trailers(Box<HeaderMap>),
    Ended,
}

#[derive(Debug, PartialEq, Eq)]
struct Chunked {
    position: Position,
    extension_bytes: usize,
    /// The trailer section so far, including its empty line.
    trailers: Vec<u8>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Position {
    Size {
        bytes: u64,
        is_begun: bool,
    },
    /// Whitespace after the size. Only an extension can follow.
    BeforeExtension {
        bytes: u64,
    },
    Extension {
        bytes: u64,
    },
    SizeEnd {
        bytes: u64,
    },
    Data {
        left: u64,
    },
    DataCr,
    DataLf,
    Trailers,
}

/// Result of [`Decoder::next`].
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Decoded {
    Data(Bytes),
    Trailers(HeaderMap),
    /// The input is consumed and the body has not ended.
    NeedsMore,
    End,
}

impl Decoder {
    pub(super) fn empty() -> Self {
        Self(State::Ended)
    }

    pub(super) fn length(bytes: u64) -> Self {
        Self(if bytes == 0 { State::Ended } else { State::Length(bytes) })
    }

    pub(super) fn until_close() -> Self {
        Self(State::UntilClose)
    }

    pub(super) fn chunked() -> Self {
        let position = Position::Size { bytes: 0, is_begun: false };
        Self(State::Chunked(Chunked { position, extension_bytes: 0, trailers: Vec::new() }))
    }

    pub(super) fn is_until_close(&self) -> bool {
        matches!(self.0, State::UntilClose)
    }

    pub(super) fn is_ended(&self) -> bool {
        matches!(self.0, State::Ended)
    }

    /// Bytes left, if known.
    pub(super) fn remaining(&self) -> Option<u64> {
        match self.0 {
            State::Length(bytes) => Some(bytes),
            State::Ended => Some(0),
            State::UntilClose | State::Chunked(_) | State::Trailers(_) => None,
        }
    }

    /// Decodes the next part of `input`. If the end of the body follows in `input`, it is consumed at once.
    pub(super) fn next(&mut self, input: &mut Bytes) -> Result<Decoded, ExchangeError> {
        match &mut self.0 {
            State::Ended => Ok(Decoded::End),
            State::Trailers(trailers) => {
                let trailers = std::mem::take(&mut **trailers);
                self.0 = State::Ended;
                Ok(Decoded::Trailers(trailers))
            }
            _ if input.is_empty() => Ok(Decoded::NeedsMore),
            State::UntilClose => Ok(Decoded::Data(std::mem::take(input))),
            State::Length(left) => {
                let data = take(input, left);
                if *left == 0 {
                    self.0 = State::Ended;
                }
                Ok(Decoded::Data(data))
            }
            State::Chunked(_) => {
                self.advance(input)?;
                let State::Chunked(Chunked { position: Position::Data { left }, .. }) = &mut self.0 else {
                    return if input.is_empty() && matches!(self.0, State::Chunked(_)) {
                        Ok(Decoded::NeedsMore)
                    } else {
                        self.next(input)
                    };
                };
                if input.is_empty() {
                    return Ok(Decoded::NeedsMore);
                }
                let data = take(input, left);
                // An error after the data is found again by the next call, after the data was returned.
                let _ = self.advance(input);
                Ok(Decoded::Data(data))
            }
        }
    }

    /// The connection was closed. Fails if that does not end the body.
    pub(super) fn closed(&mut self) -> Result<(), ExchangeError> {
        match self.0 {
            State::Length(_) | State::Chunked(_) => Err(ExchangeError::Closed),
            State::UntilClose => {
                self.0 = State::Ended;
                Ok(())
            }
            State::Trailers(_) | State::Ended => Ok(()),
        }
    }

    /// Consumes framing up to the next data or the end of the body (RFC 9112 §7.1).
    fn advance(&mut self, input: &mut Bytes) -> Result<(), ExchangeError> {
        let State::Chunked(chunked) = &mut self.0 else { return Ok(()) };
        while let Some(&byte) = input.first() {
            match chunked.position {
                Position::Data { left } if left > 0 => return Ok(()),
                Position::Trailers => {
                    if let Some(end) = chunked.trailer_byte(byte)? {
                        self.0 = end;
                        input.advance(1);
                        return Ok(());
                    }
                }
                position => chunked.position = chunked.after(position, byte)?,
            }
            input.advance(1);
        }
        // Only a line end can follow.
        if chunked.position == (Position::Data { left: 0 }) {
            chunked.position = Position::DataCr;
        }
        Ok(())
    }
}

impl Chunked {
    /// The position after one byte of a size line, or of the line end after data.
    fn after(&mut self, position: Position, byte: u8) -> Result<Position, ExchangeError> {
        const MALFORMED: fn(&'static str) -> ExchangeError = ExchangeError::Malformed;
        Ok(match position {
            Position::Data { .. } | Position::DataCr if byte == b'\r' => Position::DataLf,
            Position::Data { .. } | Position::DataCr => {
                return Err(MALFORMED("a chunk is longer than its size"));
            }
            Position::DataLf if byte == b'\n' => Position::Size { bytes: 0, is_begun: false },
            Position::Size { bytes, is_begun } => match (byte, hex(byte)) {
                (_, Some(digit)) => {
                    let bytes = bytes.checked_mul(16).and_then(|bytes| bytes.checked_add(digit));
                    let bytes = bytes.ok_or(MALFORMED("the size of a chunk is too large"))?;
                    Position::Size { bytes, is_begun: true }
                }
                (b'\r', _) if is_begun => Position::SizeEnd { bytes },
                (b';', _) if is_begun => Position::Extension { bytes },
                (b' ' | b'\t', _) if is_begun => Position::BeforeExtension { bytes },
                _ => return Err(MALFORMED("the size of a chunk is not a number")),
            },
            // Some parsers accept a bare line feed as a line end, so it could be used for smuggling (RFC 9112 §7.1.1).
            Position::Extension { .. } if byte == b'\n' => {
                return Err(MALFORMED("a chunk extension contains a bare line feed"));
            }
            Position::Extension { bytes } if byte == b'\r' => Position::SizeEnd { bytes },
            Position::Extension { bytes } => {
                self.count_extension_byte()?;
                Position::Extension { bytes }
            }
            Position::BeforeExtension { bytes } if byte == b';' => Position::Extension { bytes },
            Position::BeforeExtension { .. } if matches!(byte, b' ' | b'\t') => {
                self.count_extension_byte()?;
                position
            }
            Position::BeforeExtension { .. } => {
                return Err(MALFORMED("the size of a chunk is not a number"));
            }
            Position::SizeEnd { bytes: 0 } if byte == b'\n' => Position::Trailers,
            Position::SizeEnd { bytes } if byte == b'\n' => Position::Data { left: bytes },
            Position::DataLf | Position::SizeEnd { .. } => {
                return Err(MALFORMED("a chunk line does not end with CRLF"));
            }
            Position::Trailers => Position::Trailers,
        })
    }

    fn count_extension_byte(&mut self) -> Result<(), ExchangeError> {
        self.extension_bytes += 1;
        if self.extension_bytes > MAX_EXTENSION_BYTES {
            return Err(ExchangeError::Malformed("chunk extensions are too long"));
        }
        Ok(())
    }

    /// Adds a byte of the trailer section. Returns the next state at its end.
    fn trailer_byte(&mut self, byte: u8) -> Result<Option<State>, ExchangeError> {
        // The end of the section must not depend on whether a parser accepts a bare line feed (RFC 9112 §2.2, §7.1.2).
        if byte == b'\n' && self.trailers.last() != Some(&b'\r') {
            return Err(ExchangeError::Malformed("a trailer line does not end with CRLF"));
        }
        self.trailers.push(byte);
        if self.trailers == b"\r\n" {
            return Ok(Some(State::Ended));
        }
        if self.trailers.ends_with(b"\r\n\r\n") {
            return Ok(Some(State::Trailers(Box::new(trailers(&self.trailers)?))));
        }
        if self.trailers.len() > MAX_TRAILER_BYTES {
            return Err(ExchangeError::Malformed("the trailers are too large"));
        }
        Ok(None)
    }
}

fn take(input: &mut Bytes, left: &mut u64) -> Bytes {
    let bytes = usize::try_from(*left).map_or(input.len(), |left| left.min(input.len()));
    *left -= bytes as u64;
    if bytes == input.len() { std::mem::take(input) } else { input.split_to(bytes) }
}

fn hex(byte: u8) -> Option<u64> {
    char::from(byte).to_digit(16).map(u64::from)
}

fn trailers(bytes: &[u8]) -> Result<HeaderMap, ExchangeError> {
    let mut lines = [httparse::EMPTY_HEADER; MAX_TRAILERS];
    let parsed = httparse::parse_headers(bytes, &mut lines);
    let Ok(httparse::Status::Complete((_, lines))) = parsed else {
        return Err(ExchangeError::Malformed("the trailers cannot be parsed"));
    };
    let mut trailers = HeaderMap::with_capacity(lines.len());
    for line in lines {
        let name = HeaderName::from_bytes(line.name.as_bytes());
        let (Ok(name), Ok(value)) = (name, HeaderValue::from_bytes(line.value)) else {
            return Err(ExchangeError::Malformed("invalid trailer"));
        };
        trailers.append(name, value);
    }
    Ok(trailers)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Data, trailers, bytes left over, whether the body ended.
    type Output = (Vec<u8>, Option<HeaderMap>, Vec<u8>, bool);

    /// Decodes `bytes` in pieces of `piece_bytes`.
    fn decoded(mut decoder: Decoder, bytes: &[u8], piece_bytes: usize) -> Result<Output, ExchangeError> {
        let (mut data, mut trailers) = (Vec::new(), None);
        let mut pieces = bytes.chunks(piece_bytes.max(1));
        let mut input = Bytes::new();
        loop {
            match decoder.next(&mut input)? {
                Decoded::Data(piece) => {
                    assert!(!piece.is_empty());
                    data.extend_from_slice(&piece);
                }
                Decoded::Trailers(found) => trailers = Some(found),
                Decoded::End => break,
                Decoded::NeedsMore => {
                    assert!(input.is_empty());
                    match pieces.next() {
                        Some(piece) => input = Bytes::copy_from_slice(piece),
                        None => {
                            decoder.closed()?;
                            if !decoder.is_ended() {
                                return Err(ExchangeError::Closed);
                            }
                        }
                    }
                }
            }
        }
        let left = [&input[..], &pieces.collect::<Vec<_>>().concat()].concat();
        Ok((data, trailers, left, decoder.is_ended()))
    }

    #[test]
    fn each_framing_ends_at_its_end() {
        for piece_bytes in [1, 2, 3, 100] {
            let data = |decoder, bytes| decoded(decoder, bytes, piece_bytes).unwrap();
            assert_eq!(data(Decoder::length(3), b"abcd"), (b"abc".to_vec(), None, b"d".to_vec(), true));
            assert_eq!(data(Decoder::until_close(), b"abcd"), (b"abcd".to_vec(), None, vec![], true));
            assert_eq!(data(Decoder::empty(), b"x"), (vec![], None, b"x".to_vec(), true));
            let chunked = b"3\r\nabc\r\n00A;x=\"y\"\r\n0123456789\r\n2 \t;y\r\n\r\n\r\n0\r\n\r\nHTTP";
            assert_eq!(
                data(Decoder::chunked(), chunked),
                (b"abc0123456789\r\n".to_vec(), None, b"HTTP".to_vec(), true)
            );
            let (body, trailers, left, _) =
                data(Decoder::chunked(), b"1\r\na\r\n0\r\nX-A: 1\r\nx-b:2\r\n\r\nZ");
            let trailers = trailers.unwrap();
            assert_eq!((body, left), (b"a".to_vec(), b"Z".to_vec()));
            assert_eq!((&trailers["x-a"], &trailers["x-b"]), (&"1".parse().unwrap(), &"2".parse().unwrap()));
        }
    }

    #[test]
    fn the_end_is_consumed_with_the_last_data() {
        let mut decoder = Decoder::chunked();
        let mut input = Bytes::from_static(b"3\r\nabc\r\n0\r\n\r\n");
        assert_eq!(decoder.next(&mut input).unwrap(), Decoded::Data(Bytes::from_static(b"abc")));
        assert!(decoder.is_ended() && input.is_empty());
    }

    #[test]
    fn truncated_bodies_are_errors() {
        for bytes in
            ["", "3", "3\r\n", "3\r\nab", "3\r\nabc", "3\r\nabc\r\n", "0\r\n", "0\r\nx: y\r\n", "0\r\n\r"]
        {
            let ended = decoded(Decoder::chunked(), bytes.as_bytes(), 100);
            assert!(matches!(ended, Err(ExchangeError::Closed)), "{bytes:?}: {ended:?}");
        }
        assert!(matches!(decoded(Decoder::length(3), b"ab", 1), Err(ExchangeError::Closed)));
    }

    #[test]
    fn rejects_framing_that_parsers_could_read_differently() {
        for bytes in [
            "\r\n",
            ";x\r\n",
            "g\r\n",
            "-1\r\n",
            "0x1\r\n",
            "1\n",
            "1\rx",
            "1;a\nb\r\n",
            "1\r\nab",
            "1\r\na\n",
            "1\r\na\rx",
            "11111111111111111\r\n",
            " 1\r\n",
            "+1\r\n",
            "1_0\r\n",
            "1 \r\n",
            "1 1\r\n",
            "1\tx;y\r\n",
            "1,1\r\n",
            "1\0\r\n",
            "\r1\r\n",
            "10000000000000000\r\n",
            "0\r\nx y\r\n\r\n",
            "0\r\nx: 1\ny: 2\r\n\r\n",
            "0\r\nx: 1\n\r\n",
        ] {
            let ended = decoded(Decoder::chunked(), bytes.as_bytes(), 100);
            assert!(matches!(ended, Err(ExchangeError::Malformed(_))), "{bytes:?}: {ended:?}");
        }
        for long in [
            format!("1;{}", "x".repeat(MAX_EXTENSION_BYTES + 1)),
            format!("1{}", " ".repeat(MAX_EXTENSION_BYTES + 2)),
        ] {
            let ended = decoded(Decoder::chunked(), long.as_bytes(), 100);
            assert!(
                matches!(ended, Err(ExchangeError::Malformed("chunk extensions are too long"))),
                "{ended:?}"
            );
        }
        let long = format!("0\r\nx: {}", "y".repeat(MAX_TRAILER_BYTES));
        assert!(matches!(
            decoded(Decoder::chunked(), long.as_bytes(), 100),
            Err(ExchangeError::Malformed(_))
        ));
    }

    proptest! {
        #[test]
        fn decodes_chunked_bodies_of_any_split(
            chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..40), 0..8),
            piece_bytes in 1_usize..50,
        ) {
            let mut framed = Vec::new();
            for chunk in &chunks {
                framed.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
                framed.extend_from_slice(chunk);
                framed.extend_from_slice(b"\r\n");
            }
            framed.extend_from_slice(b"0\r\n\r\nnext");
            let (data, trailers, left, ended) = decoded(Decoder::chunked(), &framed, piece_bytes).unwrap();
            prop_assert_eq!((data, trailers, left, ended), (chunks.concat(), None, b"next".to_vec(), true));
        }

        #[test]
        fn arbitrary_bytes_do_not_panic(bytes in prop::collection::vec(any::<u8>(), 0..100), piece_bytes in 1_usize..50) {
            let _ = decoded(Decoder::chunked(), &bytes, piece_bytes);
        }
    }
}
