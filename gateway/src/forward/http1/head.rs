//! Encodes request heads and decodes response heads.

use std::mem::MaybeUninit;

use bytes::Bytes;
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode, Version, header, request, response,
};
use httparse::{ParserConfig, Status};

use super::decode::Decoder;
use crate::forward::error::ExchangeError;

/// Maximum headers of a response.
const MAX_HEADERS: usize = 100;
/// Initial capacity of a response's header map. hyper reuses the map for the next request of the client's connection,
/// which then has capacity for the headers of an SDK and of the gateway.
const HEADER_CAPACITY: usize = 24;

/// How the end of a request body is marked (RFC 9112 §6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Framing {
    /// Number of bytes left.
    Length(u64),
    Chunked,
}

/// Encodes a request head. The buffer has capacity for `more` bytes of body.
pub(super) fn encode(head: &request::Parts, framing: Framing, more: usize) -> Vec<u8> {
    let target = head.uri.path_and_query().map_or("/", |target| target.as_str());
    let lines = head.headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 4);
    let mut bytes = Vec::with_capacity(target.len() + lines.sum::<usize>() + 64 + more);
    bytes.extend_from_slice(head.method.as_str().as_bytes());
    bytes.push(b' ');
    bytes.extend_from_slice(target.as_bytes());
    bytes.extend_from_slice(b" HTTP/1.1\r\n");
    for (name, value) in &head.headers {
        // The framing is written below, independent of headers that filters or pickers have set.
        if *name == header::CONTENT_LENGTH || *name == header::TRANSFER_ENCODING {
            continue;
        }
        bytes.extend_from_slice(name.as_str().as_bytes());
        bytes.extend_from_slice(b": ");
        bytes.extend_from_slice(value.as_bytes());
        bytes.extend_from_slice(b"\r\n");
    }
    match framing {
        // An empty body is announced only for methods that define a meaning for a body (RFC 9110 §8.6).
        Framing::Length(0) if !matches!(head.method, Method::POST | Method::PUT | Method::PATCH) => {}
        Framing::Length(length) => {
            bytes.extend_from_slice(b"content-length: ");
            bytes.extend_from_slice(itoa::Buffer::new().format(length).as_bytes());
            bytes.extend_from_slice(b"\r\n");
        }
        Framing::Chunked => bytes.extend_from_slice(b"transfer-encoding: chunked\r\n"),
    }
    bytes.extend_from_slice(b"\r\n");
    bytes
}

/// A decoded response head.
#[derive(Debug)]
pub(super) struct Head {
    pub(super) parts: response::Parts,
    pub(super) body: Decoder,
    /// The connection can be reused after the body.
    pub(super) keeps_alive: bool,
    pub(super) bytes: usize,
}

/// Decodes the head at the start of `input`. `None` if it is incomplete. Header values share the memory of `input`.
/// `is_head`: the request was a HEAD request.
pub(super) fn decode(input: &Bytes, is_head: bool) -> Result<Option<Head>, ExchangeError> {
    let mut headers = [const { MaybeUninit::uninit() }; MAX_HEADERS];
    let mut parsed = httparse::Response::new(&mut []);
    let status = ParserConfig::default().parse_response_with_uninit_headers(&mut parsed, input, &mut headers);
    let bytes = match status {
        Ok(Status::Complete(bytes)) => bytes,
        Ok(Status::Partial) => return Ok(None),
        Err(httparse::Error::TooManyHeaders) => return Err(ExchangeError::Malformed("too many headers")),
        Err(_) => return Err(ExchangeError::Malformed("its head cannot be parsed")),
    };
    let status = parsed.code.and_then(|code| StatusCode::from_u16(code).ok());
    let status = status.ok_or(ExchangeError::Malformed("invalid status code"))?;
    let is_1_1 = parsed.version == Some(1);
    let mut parts = Response::new(()).into_parts().0;
    parts.status = status;
    parts.version = if is_1_1 { Version::HTTP_11 } else { Version::HTTP_10 };
    parts.headers.reserve(parsed.headers.len().max(HEADER_CAPACITY));
    for header in parsed.headers.iter() {
        let name = HeaderName::from_bytes(header.name.as_bytes());
        let value = HeaderValue::from_maybe_shared(input.slice_ref(header.value));
        let (Ok(name), Ok(value)) = (name, value) else {
            return Err(ExchangeError::Malformed("invalid header"));
        };
        parts.headers.append(name, value);
    }
    let is_chunked = is_chunked(&parts.headers, is_1_1)?;
    let length = single_length(&mut parts.headers)?;
    let is_bodiless = is_bodiless(status, is_head);
    let body = match length {
        _ if is_bodiless => Decoder::empty(),
        _ if is_chunked => Decoder::chunked(),
        Some(length) => Decoder::length(length),
        None => Decoder::until_close(),
    };
    // Some servers send the body that the head announces although the response has none. It would be read as the start
    // of the next response.
    let may_have_body = is_bodiless && (is_chunked || length.is_some_and(|length| length > 0));
    let keeps_alive = keeps_alive(&parts.headers, is_1_1) && !body.is_until_close() && !may_have_body;
    Ok(Some(Head { parts, body, keeps_alive, bytes }))
}

/// Whether the response has no body, whatever its head says (RFC 9112 §6.3).
fn is_bodiless(status: StatusCode, is_head: bool) -> bool {
    is_head
        || status.is_informational()
        || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED)
}

/// Whether the body is chunked. Every other use of `Transfer-Encoding` is an error, also in responses without a body:
/// servers or proxies on the way could have read the end of the response in another way (RFC 9112 §6.1, §6.3).
fn is_chunked(headers: &HeaderMap, is_1_1: bool) -> Result<bool, ExchangeError> {
    let mut codings = headers.get_all(header::TRANSFER_ENCODING).iter();
    let Some(coding) = codings.next() else { return Ok(false) };
    if !is_1_1 {
        return Err(ExchangeError::Malformed("it has Transfer-Encoding in HTTP/1.0"));
    }
    if headers.contains_key(header::CONTENT_LENGTH) {
        return Err(ExchangeError::Malformed("it has both Content-Length and Transfer-Encoding"));
    }
    // No request asks for another coding with TE, so a server must not use one (RFC 9112 §7.4).
    if codings.next().is_some() || !coding.as_bytes().trim_ascii().eq_ignore_ascii_case(b"chunked") {
        return Err(ExchangeError::Malformed("its transfer coding is not supported"));
    }
    Ok(true)
}

/// The length in `Content-Length`. Repetitions of an equal length, in a list or as lines, are removed, so that the client
/// gets one (RFC 9110 §8.6).
fn single_length(headers: &mut HeaderMap) -> Result<Option<u64>, ExchangeError> {
    let (mut length, mut count) = (None, 0);
    let values = headers.get_all(header::CONTENT_LENGTH).iter();
    for digits in values.flat_map(|value| value.as_bytes().split(|byte| *byte == b',')) {
        let parsed = parse_length(digits.trim_ascii());
        let parsed = parsed.ok_or(ExchangeError::Malformed("invalid Content-Length"))?;
        if length.is_some_and(|length| length != parsed) {
            return Err(ExchangeError::Malformed("conflicting Content-Length headers"));
        }
        (length, count) = (Some(parsed), count + 1);
    }
    if let Some(length) = length.filter(|_| count > 1) {
        headers.insert(header::CONTENT_LENGTH, HeaderValue::from(length));
    }
    Ok(length)
}

fn parse_length(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0_u64, |length, digit| {
        let digit = digit.is_ascii_digit().then(|| u64::from(digit - b'0'))?;
        length.checked_mul(10)?.checked_add(digit)
    })
}

/// Whether the connection persists after the response (RFC 9112 §9.3).
fn keeps_alive(headers: &HeaderMap, is_1_1: bool) -> bool {
    let has_option = |option: &[u8]| {
        let values = headers.get_all(header::CONNECTION);
        values
            .iter()
            .flat_map(|value| value.as_bytes().split(|byte| *byte == b','))
            .any(|value| value.trim_ascii().eq_ignore_ascii_case(option))
    };
    if is_1_1 { !has_option(b"close") } else { has_option(b"keep-alive") && !has_option(b"close") }
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    fn encoded(request: request::Builder, framing: Framing) -> String {
        String::from_utf8(encode(&request.body(()).unwrap().into_parts().0, framing, 0)).unwrap()
    }

    fn decoded(text: &str) -> Result<Option<Head>, ExchangeError> {
        decode(&Bytes::copy_from_slice(text.as_bytes()), false)
    }

    fn head(text: &str) -> Head {
        decoded(text).unwrap().unwrap()
    }

    #[test]
    fn writes_the_framing_exactly_once() {
        let post = || Request::post("/v1/x?y").header("host", "a").header("content-length", "7");
        assert_eq!(
            encoded(post(), Framing::Length(5)),
            "POST /v1/x?y HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\n\r\n"
        );
        assert_eq!(
            encoded(post().header("transfer-encoding", "gzip"), Framing::Chunked),
            "POST /v1/x?y HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n"
        );
        assert!(encoded(post(), Framing::Length(0)).contains("content-length: 0\r\n"));
        assert_eq!(encoded(Request::get("/"), Framing::Length(0)), "GET / HTTP/1.1\r\n\r\n");
    }

    #[test]
    fn decodes_a_head_when_it_is_complete() {
        let text = "HTTP/1.1 200 OK\r\nContent-Type: a/b\r\nContent-Length: 3\r\nX: 1\r\nX: 2\r\n\r\nabc";
        for end in 0..text.len() - 3 {
            assert!(decoded(&text[..end]).unwrap().is_none(), "{end}");
        }
        let head = head(text);
        assert_eq!((head.bytes, head.keeps_alive, head.parts.status.as_u16()), (text.len() - 3, true, 200));
        assert_eq!(head.body, Decoder::length(3));
        assert_eq!(head.parts.headers["content-type"], "a/b");
        assert_eq!(head.parts.headers.get_all("x").iter().count(), 2);
    }

    #[test]
    fn selects_the_body_decoder() {
        for (text, body) in [
            ("HTTP/1.1 200 OK\r\n\r\n", Decoder::until_close()),
            ("HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\n\r\n", Decoder::chunked()),
            ("HTTP/1.1 304 Not Modified\r\nTransfer-Encoding: chunked\r\n\r\n", Decoder::empty()),
            ("HTTP/1.1 200 OK\r\nContent-Length: 4\r\nContent-Length: 4\r\n\r\n", Decoder::length(4)),
            ("HTTP/1.1 204 No Content\r\nContent-Length: 4\r\n\r\n", Decoder::empty()),
            ("HTTP/1.1 304 Not Modified\r\nContent-Length: 4\r\n\r\n", Decoder::empty()),
            ("HTTP/1.1 103 Early Hints\r\n\r\n", Decoder::empty()),
        ] {
            assert_eq!(head(text).body, body, "{text}");
        }
        let text = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n";
        let to_head_request = decode(&Bytes::from_static(text.as_bytes()), true).unwrap().unwrap();
        assert_eq!(
            (to_head_request.body, &to_head_request.parts.headers["content-length"]),
            (Decoder::empty(), &"4".parse().unwrap())
        );
    }

    #[test]
    fn an_equal_content_length_is_passed_on_once() {
        let repeated = head("HTTP/1.1 200 OK\r\nContent-Length: 4\r\nX: y\r\nContent-Length: 04\r\n\r\n");
        let lengths: Vec<_> = repeated.parts.headers.get_all("content-length").iter().collect();
        assert_eq!(lengths, ["4"]);
        assert_eq!(repeated.body, Decoder::length(4));
        let listed = head("HTTP/1.1 200 OK\r\nContent-Length: 4, 4\r\n\r\n");
        assert_eq!(
            (&listed.parts.headers["content-length"], listed.body),
            (&"4".parse().unwrap(), Decoder::length(4))
        );
    }

    #[test]
    fn rejects_transfer_encodings_that_can_be_read_in_two_ways() {
        for (head, error) in [
            ("HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked", "it has Transfer-Encoding in HTTP/1.0"),
            (
                "HTTP/1.1 200 OK\r\nContent-Length: 9\r\nTransfer-Encoding: chunked",
                "it has both Content-Length and Transfer-Encoding",
            ),
            (
                "HTTP/1.1 304 Not Modified\r\nTransfer-Encoding: chunked\r\nContent-Length: 9",
                "it has both Content-Length and Transfer-Encoding",
            ),
            ("HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip", "its transfer coding is not supported"),
            ("HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked", "its transfer coding is not supported"),
            (
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked, chunked",
                "its transfer coding is not supported",
            ),
            ("HTTP/1.1 200 OK\r\nTransfer-Encoding: xchunked", "its transfer coding is not supported"),
            ("HTTP/1.1 200 OK\r\nTransfer-Encoding: identity", "its transfer coding is not supported"),
            ("HTTP/1.1 200 OK\r\nTransfer-Encoding:", "its transfer coding is not supported"),
            (
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: identity",
                "its transfer coding is not supported",
            ),
        ] {
            match decoded(&format!("{head}\r\n\r\n")) {
                Err(ExchangeError::Malformed(found)) => assert_eq!(found, error, "{head}"),
                other => panic!("{head}: {other:?}"),
            }
        }
    }

    #[test]
    fn keeps_a_connection_as_the_server_says() {
        for (text, keeps_alive) in [
            ("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", true),
            ("HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: x, Close\r\n\r\n", false),
            ("HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n", false),
            ("HTTP/1.0 200 OK\r\nContent-Length: 0\r\nConnection: keep-alive\r\n\r\n", true),
            ("HTTP/1.1 200 OK\r\n\r\n", false),
            ("HTTP/1.1 204 No Content\r\n\r\n", true),
            ("HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n", true),
            ("HTTP/1.1 204 No Content\r\nContent-Length: 1\r\n\r\n", false),
            ("HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\n\r\n", false),
            ("HTTP/1.1 304 Not Modified\r\nTransfer-Encoding: chunked\r\n\r\n", false),
            ("HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n", false),
        ] {
            assert_eq!(head(text).keeps_alive, keeps_alive, "{text}");
        }
    }

    #[test]
    fn rejects_invalid_responses() {
        for text in [
            "HTTP/2 200 OK\r\n\r\n",
            "nonsense\r\n\r\n",
            "HTTP/1.1 99 Low\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: +3\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 3, 4\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 3,\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 3 3\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length:\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999\r\n\r\n",
            "HTTP/1.1 200 OK\r\na b: c\r\n\r\n",
        ] {
            assert!(matches!(decoded(text), Err(ExchangeError::Malformed(_))), "{text:?}");
        }
        let many = format!("HTTP/1.1 200 OK\r\n{}\r\n", "x: y\r\n".repeat(MAX_HEADERS + 1));
        assert!(matches!(decoded(&many), Err(ExchangeError::Malformed("too many headers"))));
    }
}
