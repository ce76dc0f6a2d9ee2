//! Rewrites of the model.

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, header};

use super::*;

const TARGET: &str = "served \"é\" \\ model";

fn headers(content_type: &'static str) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers
}

fn splicer(content_type: &'static str, target: &str) -> Splicer {
    Splicer::new(&headers(content_type), &ModelName::parse(target.as_bytes()).unwrap()).unwrap()
}

/// Feeds the body in frames that end at `cuts`, and joins the output.
fn splice(splicer: &mut Splicer, body: &[u8], cuts: &[usize]) -> Result<Vec<u8>, BodyError> {
    let mut cuts: Vec<usize> = cuts.iter().map(|&cut| cut.min(body.len())).collect();
    cuts.sort_unstable();
    let (mut from, mut out) = (0, Vec::new());
    for to in cuts.into_iter().chain([body.len()]) {
        splicer.feed(&Bytes::copy_from_slice(&body[from..to]), |piece| {
            assert!(!piece.is_empty());
            out.extend_from_slice(&piece);
        })?;
        from = to;
    }
    splicer.finish()?;
    Ok(out)
}

fn json(body: &[u8], cuts: &[usize]) -> Result<Vec<u8>, BodyError> {
    splice(&mut splicer("application/json", TARGET), body, cuts)
}

/// All members in order, with the target as value of every `model`.
fn members_with_target(body: &[u8]) -> Option<Vec<(String, Value)>> {
    let Members(members) = serde_json::from_slice(body).ok()?;
    let rename = |(key, value)| if key == "model" { (key, TARGET.into()) } else { (key, value) };
    Some(members.into_iter().map(rename).collect())
}

#[test]
fn replaces_the_model_and_keeps_all_other_bytes() {
    let mut by_serde = 0;
    for (name, body, expected) in corpus() {
        let spliced = json(&body, &[]);
        match (&spliced, expected) {
            (Ok(spliced), Ok(model)) => {
                assert_eq!(scan(spliced).as_deref(), Ok(TARGET), "{name}");
                if let Some(expected) = members_with_target(&body) {
                    let Members(members) = serde_json::from_slice(spliced).unwrap();
                    assert_eq!(members, expected, "{name}");
                    by_serde += 1;
                }
                // All other bytes are unchanged.
                let back = splice(&mut splicer("", &model), spliced, &[]).unwrap();
                assert_eq!(scan(&back), Ok(model), "{name}");
            }
            (Err(error), Err(expected)) => assert_eq!(*error, expected, "{name}"),
            (spliced, expected) => panic!("{name}: {spliced:?}, expected {expected:?}"),
        }
        if body.len() < 2_000 {
            for cut in 0..body.len() {
                assert_eq!(json(&body, &[cut]), spliced, "{name}, cut at {cut}");
            }
        }
        let every_byte: Vec<usize> = (0..body.len()).collect();
        assert_eq!(json(&body, &every_byte), spliced, "{name}, byte by byte");
    }
    assert!(by_serde > 20, "serde accepted only {by_serde} bodies");
}

#[test]
fn shares_frames_without_copying() {
    let frame = Bytes::from(format!(r#"{{"a":"{}","model":"m","b":1}}"#, "x".repeat(10_000)));
    let mut pieces = Vec::new();
    splicer("", TARGET).feed(&frame, |piece| pieces.push(piece)).unwrap();
    assert_eq!(pieces.len(), 3);
    let range = frame.as_ptr_range();
    for piece in [&pieces[0], &pieces[2]] {
        assert!(range.contains(&piece.as_ptr()), "a copy");
    }
}

#[test]
fn replaces_the_model_of_forms_for_any_order_and_split() {
    const FORM: &str = "multipart/form-data; boundary=XX";
    let part = |name: &str, content: &str| {
        format!("--XX\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n{content}\r\n")
    };
    let file = part("file", "model\r\n--X\r\n\rwhisper-1\r\n--XY");
    for template in [
        part("model", "@") + &file + "--XX--\r\n",
        file.clone() + &part("model", "@") + "--XX--",
        part("model", "@") + &file + &part("model", "@") + "--XX--\r\nepilogue",
    ] {
        let body = template.replace('@', "whisper-1");
        let expected = template.replace('@', TARGET);
        for piece_bytes in [1, 2, 3, 7, 1_000_000] {
            let cuts: Vec<usize> = (0..body.len()).step_by(piece_bytes).collect();
            let spliced = splice(&mut splicer(FORM, TARGET), body.as_bytes(), &cuts).unwrap();
            assert_eq!(String::from_utf8(spliced).unwrap(), expected, "{piece_bytes}");
        }
    }
    let two = part("model", "a") + &part("model", "b") + "--XX--";
    assert_eq!(splice(&mut splicer(FORM, TARGET), two.as_bytes(), &[]), Err(BodyError::ModelConflict));
}

#[test]
fn keeps_an_announced_length_or_fails() {
    let spliced = |target: &str, content_type, body: &str| {
        let mut splicer = splicer(content_type, target);
        splicer.keep_length();
        splice(&mut splicer, body.as_bytes(), &[3, 12])
    };
    let body = r#"{"model":"adapter","model":"adapter"}"#;
    let same = spliced("served!", "", body).unwrap();
    assert_eq!(same, br#"{"model":"served!","model":"served!"}"#);
    let shorter = spliced("base", "", body).unwrap();
    assert_eq!(shorter, br#"{"model":"base"   ,"model":"base"   }"#);
    assert_eq!(spliced("adapter-2", "", body), Err(BodyError::ModelTooOften));
    let form = "--XX\r\nContent-Disposition: form-data; name=model\r\n\r\nadapter\r\n--XX--";
    let content_type = "multipart/form-data; boundary=XX";
    assert_eq!(spliced("base", content_type, form), Err(BodyError::ModelTooOften));
    assert!(spliced("served!", content_type, form).is_ok());
}

#[test]
fn rejects_too_many_models() {
    let body = |count: usize| format!("{{{}}}", vec![r#""model":"m""#; count].join(","));
    assert!(json(body(16).as_bytes(), &[]).is_ok());
    assert_eq!(json(body(17).as_bytes(), &[]), Err(BodyError::ModelTooOften));
}

#[test]
fn rejects_compressed_bodies() {
    let mut headers = headers("application/json");
    headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    let error = Splicer::new(&headers, &ModelName::parse(b"m").unwrap()).unwrap_err();
    assert!(matches!(error, BodyError::EncodedRewrite));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    #[test]
    fn documents_agree_with_serde_for_any_split(
        document in document(),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..8),
    ) {
        let body = document.as_bytes();
        let cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(body.len() + 1)).collect();
        let spliced = json(body, &cuts);
        prop_assert_eq!(&spliced, &json(body, &[]));
        prop_assert_eq!(spliced.as_ref().map(drop).map_err(|error| *error), scan(body).map(drop));
        if let Ok(spliced) = spliced {
            let Members(members) = serde_json::from_slice(&spliced).unwrap();
            prop_assert_eq!(members, members_with_target(body).unwrap());
        }
    }
}
