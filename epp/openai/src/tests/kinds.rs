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
        ("a preamble", ["before\r\n", &model, end].concat(), ok()),
        ("an epilogue", [&model, end, "\r\n--XX\r\nname=model"].concat(), ok()),
        ("name without quotes", [&part("name=model", "whisper-1")[..], end].concat(), ok()),
        ("parameters in any case", [&part("NAME=\"model\"", "whisper-1")[..], end].concat(), ok()),
        ("whitespace after a boundary", [&model.replace("--XX\r\n", "--XX \t\r\n")[..], end].concat(), ok()),
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
            "an escaped name",
            [&part("name=\"x\\\"; name=model\"", "x"), end].concat(),
            Err(BodyError::ModelMissing),
        ),
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
    for bad in ["multipart/form-data", "multipart/form-data; boundary=", "multipart/form-data; boundary"] {
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
    for (encoding, name) in [
        ("gzip", "gzip"),
        ("gzip", "X-GZip"),
        ("deflate", "deflate"),
        ("raw", "deflate"),
        ("zstd", "zstd"),
        ("br", "br"),
    ] {
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
    let form = encoded("gzip", (part("name=model", "m") + "--XX--").as_bytes());
    assert_eq!(scan_as(&headers(FORM, "gzip"), &form, 4), Ok("m".to_owned()));
    let two = encoded("zstd", br#"{"model":"m","model":"n"}"#);
    assert_eq!(scan_as(&headers("", "zstd"), &two, 4), Err(BodyError::ModelConflict));
}

#[test]
fn rejects_decompression_bombs_and_invalid_data() {
    for (encoding, name) in [("gzip", "gzip"), ("deflate", "deflate"), ("raw", "deflate"), ("zstd", "zstd")] {
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
