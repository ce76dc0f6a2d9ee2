//! Forms and compressed bodies.

use std::io::Write as _;

use http::{HeaderMap, HeaderValue, header};

use super::*;
use crate::BodyScanner;

fn headers(content_type: &str, encoding: &str) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in [(header::CONTENT_TYPE, content_type), (header::CONTENT_ENCODING, encoding)] {
        if !value.is_empty() {
            headers.insert(name, HeaderValue::from_str(value).unwrap());
        }
    }
    headers
}

fn scan_as(headers: &HeaderMap, body: &[u8], piece_bytes: usize) -> Outcome {
    let mut scanner = BodyScanner::new(headers).unwrap();
    for piece in body.chunks(piece_bytes.max(1)) {
        scanner.feed(piece)?;
    }
    scanner.finish()?;
    Ok(scanner.model().unwrap().to_string())
}

const FORM: &str = "multipart/form-data; boundary=XX";

fn part(head: &str, content: &str) -> String {
    format!("--XX\r\ncontent-disposition: form-data; {head}\r\n\r\n{content}\r\n")
}

#[test]
fn forms_have_the_expected_outcome_for_any_order_and_split() {
    let file = part(
        "name=\"file\"; filename=\"a.wav\"\r\nContent-Type: audio/wav",
        "RIFF\r\n--X\r\n\r\r\n--XY\0\u{ff}",
    );
    let model = part("name=\"model\"", "whisper-1");
    let end = "--XX--\r\n";
    let ok = || Ok("whisper-1".to_owned());
    for (name, body, expected) in [
        ("model first", [&model, &file[..], end].concat(), ok()),
        ("model last", [&file, &model[..], end].concat(), ok()),
        ("an epilogue", [&model, end, "\r\n--XX\r\nname=model"].concat(), ok()),
        ("name without quotes", [&part("name=model", "whisper-1")[..], end].concat(), ok()),
        ("parameters in any case", [&part("NAME=\"model\"", "whisper-1")[..], end].concat(), ok()),
        ("the same model twice", [&model, &model[..], end].concat(), ok()),
        (
            "two models",
            [&model, &part("name=model", "other")[..], end].concat(),
            Err(BodyError::ModelConflict),
        ),
        (
            "a model in a file's content",
            [&part("name=file; filename=x", &model.replace("--XX", "--YY")), end].concat(),
            Err(BodyError::ModelMissing),
        ),
        (
            "another field's value",
            [&part("name=\"prompt\"", "name=\"model\""), end].concat(),
            Err(BodyError::ModelMissing),
        ),
        ("a similar name", [&part("name=\"models\"", "x"), end].concat(), Err(BodyError::ModelMissing)),
        (
            "a file as model",
            [&part("name=model; filename=x", "x"), end].concat(),
            Err(BodyError::ModelNotAString),
        ),
        ("an empty model", [&part("name=model", "")[..], end].concat(), Err(BodyError::ModelEmpty)),
        (
            "a model with a line break",
            [&part("name=model", "a\r\nb")[..], end].concat(),
            Err(BodyError::ModelCharacters),
        ),
        (
            "a model that is too long",
            [&part("name=model", &"m".repeat(600))[..], end].concat(),
            Err(BodyError::ModelTooLong),
        ),
        ("no parts", end.to_owned(), Err(BodyError::ModelMissing)),
        ("an empty body", String::new(), Err(BodyError::InvalidForm("it ends before the last boundary"))),
        (
            "cut inside a part",
            model.trim_end().to_owned(),
            Err(BodyError::InvalidForm("it ends before the last boundary")),
        ),
        (
            "no line break",
            "--XXmodel".to_owned(),
            Err(BodyError::InvalidForm("unexpected bytes after a boundary")),
        ),
        (
            "headers without end",
            format!("--XX\r\n{}", "x".repeat(9_000)),
            Err(BodyError::InvalidForm("the headers of a part are too long")),
        ),
    ] {
        for piece_bytes in [1, 2, 3, 7, 1_000_000] {
            let headers = headers(FORM, "");
            assert_eq!(scan_as(&headers, body.as_bytes(), piece_bytes), expected, "{name}, {piece_bytes}");
        }
    }
}

/// Each of these is read in two ways by released versions of python-multipart, `email.message`, werkzeug, busboy or Go.
#[test]
fn forms_with_two_readings_are_rejected() {
    let end = "--XX--\r\n";
    let model = part("name=\"model\"", "alpha");
    let with_header = |header: &str| {
        format!("--XX\r\ncontent-disposition: form-data; name=\"model\"\r\n{header}\r\n\r\nalpha\r\n")
    };
    for (name, body) in [
        ("two names", part("name=\"model\"; name=\"x\"", "alpha") + end),
        ("an extended name", part("name=\"x\"; name*=utf-8''model", "alpha") + end),
        ("a continued name", part("name*0=mo; name*1=del", "alpha") + end),
        ("an escaped name", part("name=\"x\\\"; name=model\"", "alpha") + end),
        ("an escaped file name", part("filename=\"\\\"; name=model; x=\"; name=y", "alpha") + end),
        ("two dispositions", with_header("Content-Disposition: form-data; name=\"x\"") + end),
        ("a folded line", with_header("X: a\r\n Content-Disposition: form-data; name=x") + end),
        ("a bare line feed", with_header("X: a\nContent-Disposition: form-data; name=x") + end),
        ("a bare carriage return", with_header("X: a\rContent-Disposition: form-data; name=x") + end),
        ("a space before a colon", with_header("Content-Disposition : form-data; name=x") + end),
        ("no disposition", "--XX\r\ncontent-type: text/plain\r\n\r\nalpha\r\n".to_owned() + &model + end),
        ("no name", "--XX\r\ncontent-disposition: form-data\r\n\r\nalpha\r\n".to_owned() + &model + end),
        ("an attachment", model.replace("form-data", "attachment") + end),
        ("base64", with_header("Content-Transfer-Encoding: base64") + end),
        ("another charset", with_header("Content-Type: text/plain; charset=utf-16") + end),
        ("a charset field", part("name=\"_charset_\"", "utf-7") + &model + end),
        ("a preamble", format!("before\r\n{model}{end}")),
        ("a line break first", format!("\r\n{model}{end}")),
        ("whitespace after a boundary", model.replace("--XX\r\n", "--XX \t\r\n") + end),
        ("the boundary before a header", with_header("--XX: y") + end),
        (
            "the boundary before the first header",
            model.replace("\r\ncontent", "\r\n--XX: y\r\ncontent") + end,
        ),
        ("a model that begins with the boundary", part("name=\"model\"", "--XXalpha") + end),
        ("a file that begins with a part", part("name=\"x\"; filename=y", &model) + &model + end),
        ("a longer boundary", part("name=\"x\"", "a\r\n--XXY") + &model + end),
    ] {
        for piece_bytes in [1, 2, 3, 7, 1_000_000] {
            let outcome = scan_as(&headers(FORM, ""), body.as_bytes(), piece_bytes);
            assert!(outcome.is_err(), "{name}, {piece_bytes}: {outcome:?}");
        }
    }
    // The charset of a part does not matter where it is not the model.
    let file = part("name=\"file\"; filename*=utf-8''a\r\nContent-Type: text/plain; charset=latin1", "x");
    assert_eq!(scan_as(&headers(FORM, ""), (file + &model + end).as_bytes(), 9), Ok("alpha".to_owned()));
}

#[test]
fn reads_only_the_types_that_engines_read() {
    let body = br#"{"model":"m"}"#;
    for content_type in
        ["", "application/json", "Application/JSON; charset=utf-8", "application/vnd.api+json"]
    {
        assert_eq!(scan_as(&headers(content_type, ""), body, 5), Ok("m".to_owned()), "{content_type}");
    }
    for content_type in [
        "application/x-www-form-urlencoded",
        "text/plain",
        "text/json",
        "application/jsonp",
        "application/json, text/plain",
        "json",
    ] {
        let error = BodyScanner::new(&headers(content_type, "")).unwrap_err();
        assert_eq!(error, BodyError::UnsupportedType, "{content_type}");
    }
    let mut two = headers("application/json", "");
    two.append(header::CONTENT_TYPE, HeaderValue::from_static(FORM));
    assert_eq!(BodyScanner::new(&two).unwrap_err(), BodyError::UnsupportedType);
}

#[test]
fn reads_the_boundary_from_the_content_type() {
    let body = part("name=model", "m") + "--XX--";
    for content_type in [
        "multipart/form-data; boundary=\"XX\"",
        "Multipart/Form-Data;charset=utf-8;Boundary=XX",
        "multipart/form-data; x=\"; boundary=no\"; boundary=XX",
    ] {
        let headers = headers(content_type, "");
        assert_eq!(scan_as(&headers, body.as_bytes(), 5), Ok("m".to_owned()), "{content_type}");
    }
    for bad in [
        "multipart/form-data",
        "multipart/form-data; boundary=",
        "multipart/form-data; boundary",
        "multipart/form-data; boundary=a; boundary=b",
        "multipart/form-data; boundary=a; boundary*=utf-8''b",
        "multipart/form-data; boundary*0=a",
        "multipart/form-data; boundary=\"a\\b\"",
        "multipart/form-data; boundary=\"a b\"",
        "multipart/form-data; boundary=a; charset=utf-7",
    ] {
        let error = BodyScanner::new(&headers(bad, "")).unwrap_err();
        assert!(matches!(error, BodyError::InvalidForm(_)), "{bad}: {error}");
    }
    let error = BodyScanner::new(&headers("multipart/mixed; boundary=XX", "")).unwrap_err();
    assert!(matches!(error, BodyError::UnsupportedMultipart));
}

fn encoded(encoding: &str, body: &[u8]) -> Vec<u8> {
    let level = flate2::Compression::default();
    match encoding {
        "gzip" => {
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), level);
            encoder.write_all(body).unwrap();
            encoder.finish().unwrap()
        }
        "deflate" => {
            let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), level);
            encoder.write_all(body).unwrap();
            encoder.finish().unwrap()
        }
        "raw" => {
            let mut encoder = flate2::write::DeflateEncoder::new(Vec::new(), level);
            encoder.write_all(body).unwrap();
            encoder.finish().unwrap()
        }
        "zstd" => zstd::encode_all(body, 3).unwrap(),
        // Output of `brotli -c` for exactly this body.
        "br" => {
            assert_eq!(body, br#"{"model":"m","messages":[]}"#);
            let mut stored = vec![0x0f, 0x0d, 0x80];
            stored.extend_from_slice(body);
            stored.push(0x03);
            stored
        }
        other => panic!("{other}"),
    }
}

#[test]
fn reads_compressed_bodies() {
    let body = br#"{"model":"m","messages":[]}"#;
    for (encoding, name) in
        [("gzip", "gzip"), ("gzip", "X-GZip"), ("deflate", "deflate"), ("zstd", "zstd"), ("br", "br")]
    {
        let compressed = encoded(encoding, body);
        for piece_bytes in [1, 3, 1_000] {
            let headers = headers("application/json", name);
            assert_eq!(
                scan_as(&headers, &compressed, piece_bytes),
                Ok("m".to_owned()),
                "{encoding} {piece_bytes}"
            );
        }
        let cut = &compressed[..compressed.len() - 12];
        assert!(scan_as(&headers("", name), cut, 1_000).is_err(), "{encoding}: cut");
    }
    assert_eq!(BodyScanner::new(&headers(FORM, "gzip")).unwrap_err(), BodyError::UnsupportedEncoding);
    let two = encoded("zstd", br#"{"model":"m","model":"n"}"#);
    assert_eq!(scan_as(&headers("", "zstd"), &two, 4), Err(BodyError::ModelConflict));
}

/// vLLM ignores `Content-Encoding`. What a decoder ignores or guesses could be another model to another server.
#[test]
fn compressed_bodies_with_two_readings_are_rejected() {
    let (alpha, beta) = (br#"{"model":"alpha"}"#, br#"{"model":"beta"}"#);
    for encoding in ["gzip", "deflate", "zstd"] {
        let stream = encoded(encoding, alpha);
        for (name, behind) in [("a second stream", encoded(encoding, beta)), ("JSON", beta.to_vec())] {
            let both = [&stream[..], &behind].concat();
            for piece_bytes in [1, 7, 1_000] {
                let outcome = scan_as(&headers("", encoding), &both, piece_bytes);
                assert_eq!(outcome, Err(BodyError::InvalidEncoding), "{encoding} and {name}, {piece_bytes}");
            }
        }
        let mut wrong_sum = stream.clone();
        *wrong_sum.last_mut().unwrap() ^= 1;
        if encoding != "zstd" {
            assert_eq!(scan_as(&headers("", encoding), &wrong_sum, 5), Err(BodyError::InvalidEncoding));
        }
        for cut in 1..stream.len() {
            assert!(scan_as(&headers("", encoding), &stream[..cut], 5).is_err(), "{encoding}: {cut} bytes");
        }
    }
    // Raw deflate: a stored block whose header bytes are JSON whitespace or a brace is JSON as it is.
    assert_eq!(scan_as(&headers("", "deflate"), &encoded("raw", alpha), 3), Err(BodyError::InvalidEncoding));
    for first in [b" ", b"\n", b"{"] {
        let outcome = scan_as(&headers("", "br"), &[first, &beta[..]].concat(), 9);
        assert_eq!(outcome, Err(BodyError::AmbiguousEncoding));
    }
    let skippable = [&[0x5b, 0x2a, 0x4d, 0x18, 1, 0, 0, 0, b'x'][..], &encoded("zstd", alpha)].concat();
    assert_eq!(scan_as(&headers("", "zstd"), &skippable, 4), Err(BodyError::InvalidEncoding));
}

/// Memory that a scan of the encoded bytes reports, and has to hold.
#[test]
fn windows_are_counted_and_capped() {
    let memory = |encoding: &str, body: &[u8]| {
        let mut scanner = BodyScanner::new(&headers("", encoding)).unwrap();
        let outcome = scanner.feed(body).map(drop);
        (scanner.decoder_bytes(), outcome)
    };
    assert_eq!(memory("identity", b"{}").0, 0);
    let zstd = |window_log: u32| {
        let mut encoder = zstd::Encoder::new(Vec::new(), 3).unwrap();
        encoder.window_log(window_log).unwrap();
        encoder.include_contentsize(false).unwrap();
        encoder.write_all(br#"{"model":"m"}"#).unwrap();
        encoder.flush().unwrap();
        encoder.finish().unwrap()
    };
    for window_log in [17, 23] {
        let (bytes, outcome) = memory("zstd", &zstd(window_log));
        println!("zstd window 2^{window_log}: {bytes} bytes");
        assert!(bytes >= 1 << window_log && bytes < (1 << window_log) + (1 << 20), "{bytes}");
        assert_eq!(outcome, Ok(()));
    }
    assert_eq!(memory("zstd", &zstd(24)).1, Err(BodyError::InvalidEncoding));
    assert!((1 << 10..1 << 20).contains(&memory("gzip", &encoded("gzip", b"{}")).0));
}

#[test]
fn rejects_decompression_bombs_and_invalid_data() {
    for (encoding, name) in [("gzip", "gzip"), ("deflate", "deflate"), ("zstd", "zstd")] {
        let mut bomb = br#"{"prompt":""#.to_vec();
        bomb.resize(64 << 20, b'x');
        let bomb = encoded(encoding, &bomb);
        assert_eq!(scan_as(&headers("", name), &bomb, 4096), Err(BodyError::DecodedTooLarge), "{encoding}");
        assert!(scan_as(&headers("", name), b"x is not valid", 4).is_err(), "{encoding}: invalid");
    }
    assert!(scan_as(&headers("", "br"), &[0xff; 40], 4).is_err(), "invalid brotli");
    for unknown in ["compress", "gzip, br", "gzip, gzip"] {
        assert!(
            matches!(BodyScanner::new(&headers("", unknown)), Err(BodyError::UnsupportedEncoding)),
            "{unknown}"
        );
    }
    assert!(matches!(BodyScanner::new(&headers("", "identity")), Ok(BodyScanner::Plain(_))));
}
