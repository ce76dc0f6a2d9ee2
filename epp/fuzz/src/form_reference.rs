//! A lenient reader of whole forms. It takes every reading of a part's headers that a server could take.

use std::collections::BTreeSet;

use memchr::memmem;

/// All values that a server could read as the field `model`.
pub(crate) fn models(content_type: &[u8], body: &[u8]) -> BTreeSet<Vec<u8>> {
    let boundaries = parameter_values(content_type, b"boundary");
    boundaries.iter().flat_map(|boundary| models_between(boundary, body)).collect()
}

fn models_between(boundary: &[u8], body: &[u8]) -> BTreeSet<Vec<u8>> {
    // As if the first boundary were behind a line, too.
    let text = [b"\r\n", body].concat();
    let delimiter = [b"\r\n--", boundary].concat();
    let mut found = BTreeSet::new();
    let mut rest = after(&text, &delimiter);
    while let Some(part) = rest.filter(|part| !part.starts_with(b"--")) {
        let end = memmem::find(part, &delimiter).unwrap_or(part.len());
        if let Some((headers, content)) = split_headers(&part[..end])
            && headers.split(|byte| matches!(byte, b'\r' | b'\n')).any(is_model)
        {
            found.insert(content.to_vec());
        }
        rest = after(part, &delimiter);
    }
    found
}

/// The headers of a part, which follow the rest of the boundary's line, and its content.
fn split_headers(part: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = memmem::find(part, b"\r\n\r\n")?;
    Some((&part[..end], &part[end + 4..]))
}

fn is_model(line: &[u8]) -> bool {
    let Some(colon) = line.iter().position(|byte| *byte == b':') else { return false };
    line[..colon].trim_ascii().eq_ignore_ascii_case(b"content-disposition")
        && parameter_values(&line[colon + 1..], b"name").contains(&b"model"[..])
}

/// Every value of a parameter, also of `name*` and `name*0`.
fn parameter_values(header: &[u8], name: &[u8]) -> BTreeSet<Vec<u8>> {
    let mut values = BTreeSet::new();
    for knows_escapes in [true, false] {
        for parameter in split_parameters(header, knows_escapes) {
            let Some(equals) = parameter.iter().position(|byte| *byte == b'=') else { continue };
            let found = parameter[..equals].trim_ascii();
            let stem = &found[..found.iter().position(|byte| *byte == b'*').unwrap_or(found.len())];
            if stem.eq_ignore_ascii_case(name) {
                let value = parameter[equals + 1..].trim_ascii();
                let value = value.strip_prefix(b"\"").unwrap_or(value);
                values.insert(value.strip_suffix(b"\"").unwrap_or(value).to_vec());
            }
        }
    }
    values
}

/// Splits at semicolons outside of quotes.
fn split_parameters(header: &[u8], knows_escapes: bool) -> Vec<&[u8]> {
    let (mut is_quoted, mut is_escaped) = (false, false);
    header
        .split(|byte| {
            let escaped = std::mem::take(&mut is_escaped);
            match byte {
                b'"' if !escaped => is_quoted = !is_quoted,
                b'\\' if is_quoted && !escaped => is_escaped = knows_escapes,
                b';' => return !is_quoted,
                _ => {}
            }
            false
        })
        .collect()
}

fn after<'a>(text: &'a [u8], wanted: &[u8]) -> Option<&'a [u8]> {
    memmem::find(text, wanted).map(|at| &text[at + wanted.len()..])
}
