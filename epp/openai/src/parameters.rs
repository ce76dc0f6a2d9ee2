//! Parameters of `Content-Type` and `Content-Disposition`.

use memchr::memchr;

/// Parses `value; name=token; name="quoted"` (RFC 9110 §5.6.6) into the value and its parameters.
///
/// Parsers differ in what they do with anything else (python-multipart, `email.message`, werkzeug, busboy), so `None` for:
/// a repeated parameter; an extended one (`name*`, `name*0`, RFC 2231) except `filename*`; a backslash before a quote; other
/// backslashes except in a file name; spaces around `=`; an empty parameter; control characters.
pub(super) fn parse(header: &[u8]) -> Option<(&[u8], Vec<Parameter<'_>>)> {
    let end = memchr(b';', header).unwrap_or(header.len());
    let value = trim(&header[..end]);
    let mut rest = &header[end..];
    let mut parameters: Vec<Parameter<'_>> = Vec::new();
    while let Some(after) = trim(rest).strip_prefix(b";") {
        let (parameter, behind) = parse_parameter(trim(after))?;
        if parameters.iter().any(|other| other.is(parameter.name)) {
            return None;
        }
        parameters.push(parameter);
        rest = behind;
    }
    (trim(rest).is_empty()).then_some((value, parameters))
}

/// A parameter whose value has one reading.
#[derive(Clone, Copy, Debug)]
pub(super) struct Parameter<'a> {
    name: &'a [u8],
    pub(super) value: &'a [u8],
}

impl Parameter<'_> {
    /// Names are case-insensitive.
    pub(super) fn is(&self, name: &[u8]) -> bool {
        self.name.eq_ignore_ascii_case(name)
    }
}

/// The value of a parameter.
pub(super) fn find<'a>(parameters: &[Parameter<'a>], name: &[u8]) -> Option<&'a [u8]> {
    parameters.iter().find(|parameter| parameter.is(name)).map(|parameter| parameter.value)
}

/// The first parameter, and the bytes behind it.
fn parse_parameter(text: &[u8]) -> Option<(Parameter<'_>, &[u8])> {
    let equals = memchr(b'=', text)?;
    let (name, value) = (&text[..equals], &text[equals + 1..]);
    let is_file = name.eq_ignore_ascii_case(b"filename") || name.eq_ignore_ascii_case(b"filename*");
    let is_extended = name.contains(&b'*') && !name.eq_ignore_ascii_case(b"filename*");
    if name.is_empty() || is_extended || !name.iter().copied().all(is_token) {
        return None;
    }
    let Some(quoted) = value.strip_prefix(b"\"") else {
        let end = value.iter().position(|byte| !is_token(*byte)).unwrap_or(value.len());
        return (end > 0).then_some((Parameter { name, value: &value[..end] }, &value[end..]));
    };
    let end = memchr(b'"', quoted)?;
    let content = &quoted[..end];
    let is_readable = content.iter().all(|byte| match byte {
        b'\\' => is_file,
        byte => *byte >= b' ' && *byte != 0x7f,
    });
    (is_readable && !content.ends_with(b"\\"))
        .then_some((Parameter { name, value: content }, &quoted[end + 1..]))
}

/// A character of a token (RFC 9110 §5.6.2).
pub(super) fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// Without spaces and tabs at both ends. Other whitespace is not trimmed: it is not valid in a header.
fn trim(text: &[u8]) -> &[u8] {
    let is_space = |byte: &u8| matches!(byte, b' ' | b'\t');
    let start = text.iter().position(|byte| !is_space(byte)).unwrap_or(text.len());
    let end = text.iter().rposition(|byte| !is_space(byte)).map_or(start, |last| last + 1);
    &text[start..end]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_parameters_that_have_one_reading() {
        let (value, parameters) =
            parse(b"form-data; name=\"model\" ;\tfilename=\"C:\\a; b=c.wav\"; filename*=utf-8''a").unwrap();
        assert_eq!(value, b"form-data");
        assert_eq!(find(&parameters, b"NAME"), Some(&b"model"[..]));
        assert_eq!(find(&parameters, b"filename"), Some(&b"C:\\a; b=c.wav"[..]));
        assert_eq!(find(&parameters, b"b"), None);
    }

    #[test]
    fn rejects_what_parsers_read_differently() {
        for header in [
            "form-data; name=a; name=b",
            "form-data; name=a; NAME=a",
            "form-data; name*=utf-8''a",
            "form-data; name*0=a",
            "form-data; name=\"a\\\"; name=\"b\"",
            "form-data; name=\"a\\b\"",
            "form-data; filename=\"a\\\"; name=model; x=\"",
            "form-data; name =a",
            "form-data; name= a",
            "form-data; name=a;",
            "form-data;; name=a",
            "form-data; name",
            "form-data; name=",
            "form-data; name=\"a",
            "form-data; name=\"a\"b",
            "form-data; name=a b",
            "form-data; name=a, b",
            "form-data; name=\"a\nb\"",
            "form-data; name=a\u{b}; x=y",
        ] {
            assert!(parse(header.as_bytes()).is_none(), "{header:?}");
        }
    }
}
