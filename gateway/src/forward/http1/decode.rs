//! Where a response's body is in what comes, and where it ends.

use bytes::{Buf as _, Bytes};
use http::{HeaderMap, HeaderName, HeaderValue};

use crate::forward::Broken;

/// Most bytes of one body's chunk extensions, which mean nothing here.
const MAX_EXTENSION_BYTES: usize = 16 << 10;
/// Most bytes of trailers.
const MAX_TRAILER_BYTES: usize = 16 << 10;
const MAX_TRAILERS: usize = 100;

/// Takes a body out of its framing (RFC 9112, 6 and 7).
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Decoder(State);

#[derive(Debug, PartialEq, Eq)]
enum State {
    Length(u64),
    UntilClose,
    Chunked(Chunked),
    /// To be given out before the end.
    Trailers(Box<HeaderMap>),
    Ended,
}

#[derive(Debug, PartialEq, Eq)]
struct Chunked {
    place: Place,
    extension_bytes: usize,
    /// As they come, with the empty line behind them.
    trailers: Vec<u8>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Size { bytes: u64, is_begun: bool },
    Extension { bytes: u64 },
    SizeEnd { bytes: u64 },
    Data { left: u64 },
    DataCr,
    DataLf,
    Trailers,
}

/// What came out.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Piece {
    Data(Bytes),
    Trailers(HeaderMap),
    /// All input is used up.
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
        let place = Place::Size { bytes: 0, is_begun: false };
        Self(State::Chunked(Chunked { place, extension_bytes: 0, trailers: Vec::new() }))
    }

    pub(super) fn is_until_close(&self) -> bool {
        matches!(self.0, State::UntilClose)
    }

    pub(super) fn is_ended(&self) -> bool {
        matches!(self.0, State::Ended)
    }

    /// Bytes that are still to come, where that is known.
    pub(super) fn remaining(&self) -> Option<u64> {
        match self.0 {
            State::Length(bytes) => Some(bytes),
            State::Ended => Some(0),
            State::UntilClose | State::Chunked(_) | State::Trailers(_) => None,
        }
    }

    /// The next piece. An end that is in `input` behind it is seen at once.
    pub(super) fn next(&mut self, input: &mut Bytes) -> Result<Piece, Broken> {
        match &mut self.0 {
            State::Ended => Ok(Piece::End),
            State::Trailers(trailers) => {
                let trailers = std::mem::take(&mut **trailers);
                self.0 = State::Ended;
                Ok(Piece::Trailers(trailers))
            }
            _ if input.is_empty() => Ok(Piece::NeedsMore),
            State::UntilClose => Ok(Piece::Data(std::mem::take(input))),
            State::Length(left) => {
                let data = take(input, left);
                if *left == 0 {
                    self.0 = State::Ended;
                }
                Ok(Piece::Data(data))
            }
            State::Chunked(_) => {
                self.advance(input)?;
                let State::Chunked(Chunked { place: Place::Data { left }, .. }) = &mut self.0 else {
                    return if input.is_empty() && matches!(self.0, State::Chunked(_)) {
                        Ok(Piece::NeedsMore)
                    } else {
                        self.next(input)
                    };
                };
                if input.is_empty() {
                    return Ok(Piece::NeedsMore);
                }
                let data = take(input, left);
                // What is wrong behind the data is met again, after the data is given out.
                let _ = self.advance(input);
                Ok(Piece::Data(data))
            }
        }
    }

    /// The connection has been closed; an error if the body had not ended.
    pub(super) fn closed(&mut self) -> Result<(), Broken> {
        match self.0 {
            State::Length(_) | State::Chunked(_) => Err(Broken::Closed),
            State::UntilClose => {
                self.0 = State::Ended;
                Ok(())
            }
            State::Trailers(_) | State::Ended => Ok(()),
        }
    }

    /// Goes over what is no data, up to the next data or to the end.
    fn advance(&mut self, input: &mut Bytes) -> Result<(), Broken> {
        let State::Chunked(chunked) = &mut self.0 else { return Ok(()) };
        while let Some(&byte) = input.first() {
            chunked.place = match chunked.place {
                Place::Data { left: 0 } | Place::DataCr if byte == b'\r' => Place::DataLf,
                Place::Data { left: 0 } | Place::DataCr => {
                    return Err(Broken::Malformed("a chunk is longer than its size"));
                }
                Place::Data { .. } => return Ok(()),
                Place::DataLf if byte == b'\n' => Place::Size { bytes: 0, is_begun: false },
                Place::Size { bytes, is_begun } => match (byte, hex(byte)) {
                    (_, Some(digit)) => {
                        let bytes = bytes.checked_mul(16).and_then(|bytes| bytes.checked_add(digit));
                        let bytes = bytes.ok_or(Broken::Malformed("the size of a chunk is too large"))?;
                        Place::Size { bytes, is_begun: true }
                    }
                    (b'\r', _) if is_begun => Place::SizeEnd { bytes },
                    (b';' | b' ' | b'\t', _) if is_begun => Place::Extension { bytes },
                    _ => return Err(Broken::Malformed("the size of a chunk is no number")),
                },
                // A bare line feed would end the line for some readers.
                Place::Extension { .. } if byte == b'\n' => {
                    return Err(Broken::Malformed("the extension of a chunk has no end"));
                }
                Place::Extension { bytes } if byte == b'\r' => Place::SizeEnd { bytes },
                Place::Extension { bytes } => {
                    chunked.extension_bytes += 1;
                    if chunked.extension_bytes > MAX_EXTENSION_BYTES {
                        return Err(Broken::Malformed("its chunks have too long extensions"));
                    }
                    Place::Extension { bytes }
                }
                Place::SizeEnd { bytes: 0 } if byte == b'\n' => Place::Trailers,
                Place::SizeEnd { bytes } if byte == b'\n' => Place::Data { left: bytes },
                Place::DataLf | Place::SizeEnd { .. } => {
                    return Err(Broken::Malformed("a line of its chunks has no end"));
                }
                Place::Trailers => {
                    chunked.trailers.push(byte);
                    if chunked.trailers == b"\r\n" {
                        self.0 = State::Ended;
                        input.advance(1);
                        return Ok(());
                    }
                    if chunked.trailers.ends_with(b"\r\n\r\n") {
                        self.0 = State::Trailers(Box::new(trailers(&chunked.trailers)?));
                        input.advance(1);
                        return Ok(());
                    }
                    if chunked.trailers.len() > MAX_TRAILER_BYTES {
                        return Err(Broken::Malformed("it has too many trailers"));
                    }
                    Place::Trailers
                }
            };
            input.advance(1);
        }
        // What follows is known to be the end of the line.
        if chunked.place == (Place::Data { left: 0 }) {
            chunked.place = Place::DataCr;
        }
        Ok(())
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

fn trailers(bytes: &[u8]) -> Result<HeaderMap, Broken> {
    let mut lines = [httparse::EMPTY_HEADER; MAX_TRAILERS];
    let parsed = httparse::parse_headers(bytes, &mut lines);
    let Ok(httparse::Status::Complete((_, lines))) = parsed else {
        return Err(Broken::Malformed("its trailers cannot be parsed"));
    };
    let mut trailers = HeaderMap::with_capacity(lines.len());
    for line in lines {
        let name = HeaderName::from_bytes(line.name.as_bytes());
        let (Ok(name), Ok(value)) = (name, HeaderValue::from_bytes(line.value)) else {
            return Err(Broken::Malformed("one of its trailers is none"));
        };
        trailers.append(name, value);
    }
    Ok(trailers)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Data, trailers, what is left over, whether it ended.
    type Decoded = (Vec<u8>, Option<HeaderMap>, Vec<u8>, bool);

    /// What comes out of `bytes` in pieces of `piece_bytes`.
    fn decoded(mut decoder: Decoder, bytes: &[u8], piece_bytes: usize) -> Result<Decoded, Broken> {
        let (mut data, mut trailers) = (Vec::new(), None);
        let mut pieces = bytes.chunks(piece_bytes.max(1));
        let mut input = Bytes::new();
        loop {
            match decoder.next(&mut input)? {
                Piece::Data(piece) => {
                    assert!(!piece.is_empty());
                    data.extend_from_slice(&piece);
                }
                Piece::Trailers(found) => trailers = Some(found),
                Piece::End => break,
                Piece::NeedsMore => {
                    assert!(input.is_empty());
                    match pieces.next() {
                        Some(piece) => input = Bytes::copy_from_slice(piece),
                        None => {
                            decoder.closed()?;
                            if !decoder.is_ended() {
                                return Err(Broken::Closed);
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
    fn each_framing_ends_where_it_says() {
        for piece_bytes in [1, 2, 3, 100] {
            let data = |decoder, bytes| decoded(decoder, bytes, piece_bytes).unwrap();
            assert_eq!(data(Decoder::length(3), b"abcd"), (b"abc".to_vec(), None, b"d".to_vec(), true));
            assert_eq!(data(Decoder::until_close(), b"abcd"), (b"abcd".to_vec(), None, vec![], true));
            assert_eq!(data(Decoder::empty(), b"x"), (vec![], None, b"x".to_vec(), true));
            let chunked = b"3\r\nabc\r\n00A;x=\"y\"\r\n0123456789\r\n2 \r\n\r\n\r\n0\r\n\r\nHTTP";
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
    fn the_end_is_seen_with_the_last_data() {
        let mut decoder = Decoder::chunked();
        let mut input = Bytes::from_static(b"3\r\nabc\r\n0\r\n\r\n");
        assert_eq!(decoder.next(&mut input).unwrap(), Piece::Data(Bytes::from_static(b"abc")));
        assert!(decoder.is_ended() && input.is_empty());
    }

    #[test]
    fn what_is_cut_off_is_not_whole() {
        for bytes in
            ["", "3", "3\r\n", "3\r\nab", "3\r\nabc", "3\r\nabc\r\n", "0\r\n", "0\r\nx: y\r\n", "0\r\n\r"]
        {
            let ended = decoded(Decoder::chunked(), bytes.as_bytes(), 100);
            assert!(matches!(ended, Err(Broken::Closed)), "{bytes:?}: {ended:?}");
        }
        assert!(matches!(decoded(Decoder::length(3), b"ab", 1), Err(Broken::Closed)));
    }

    #[test]
    fn framing_that_readers_could_differ_about_is_refused() {
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
            "0\r\nx y\r\n\r\n",
        ] {
            let ended = decoded(Decoder::chunked(), bytes.as_bytes(), 100);
            assert!(matches!(ended, Err(Broken::Malformed(_))), "{bytes:?}: {ended:?}");
        }
        let long = format!("1;{}", "x".repeat(MAX_EXTENSION_BYTES + 1));
        assert!(matches!(decoded(Decoder::chunked(), long.as_bytes(), 100), Err(Broken::Malformed(_))));
        let long = format!("0\r\nx: {}", "y".repeat(MAX_TRAILER_BYTES));
        assert!(matches!(decoded(Decoder::chunked(), long.as_bytes(), 100), Err(Broken::Malformed(_))));
    }

    proptest! {
        #[test]
        fn chunks_come_out_as_they_went_in(
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
        fn no_bytes_are_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..100), piece_bytes in 1_usize..50) {
            let _ = decoded(Decoder::chunked(), &bytes, piece_bytes);
        }
    }
}
