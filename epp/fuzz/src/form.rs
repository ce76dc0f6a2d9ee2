//! Forms: the scanner reads the only model that a server can read, or refuses the form. The splicer changes the model only.

use forebay_openai::{BodyError, ModelName, Splicer};
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue};

use crate::form_reference::models;
use crate::outcome::{scan_split, splice, splice_split};

/// Reads and rewrites a form. The first line is the parameters of the `Content-Type`.
pub fn form(data: &[u8]) {
    let (seed, data) = forebay_fuzz::seed(data);
    let Some(line) = data.iter().position(|byte| *byte == b'\n') else { return };
    let (parameters, body) = (&data[..line], &data[line + 1..]);
    let content_type = [b"multipart/form-data;", parameters].concat();
    let Ok(value) = HeaderValue::from_bytes(&content_type) else { return };
    let headers = HeaderMap::from_iter([(CONTENT_TYPE, value)]);

    let model = scan_split(&headers, body, seed);
    if let Ok(model) = &model {
        let read: Vec<_> = models(&content_type, body).into_iter().collect();
        let read: Vec<_> = read.iter().map(|model| String::from_utf8_lossy(model)).collect();
        assert_eq!(read, [model.as_str()], "a server reads another model");
    }

    let target = ModelName::parse(b"served model").unwrap();
    let Ok(splicer) = Splicer::new(&headers, &target) else {
        return assert!(model.is_err());
    };
    drop(splicer);
    let spliced = splice_split(|| Splicer::new(&headers, &target).unwrap(), body, seed);
    match (model, spliced) {
        (Ok(_), Err(BodyError::ModelTooOften)) => {}
        (Ok(model), Ok(spliced)) => {
            assert_eq!(scan_split(&headers, &spliced, seed), Ok(target));
            let back = splice(Splicer::new(&headers, &model).unwrap(), std::iter::once(&spliced[..]));
            assert_eq!(back.as_deref(), Ok(body), "other bytes changed");
        }
        (model, spliced) => assert!(model.is_err() && spliced.is_err(), "{model:?}, {spliced:?}"),
    }
}
