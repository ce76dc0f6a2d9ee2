//! Labels of a sample in the Prometheus text format.

/// Returns the value of a label without resolving escapes (the labels used here are numbers).
pub(super) fn label<'a>(labels: &'a str, name: &str) -> Option<&'a str> {
    let mut rest = labels;
    loop {
        let (key, after) = rest.split_once('=')?;
        let quoted = after.trim_start().strip_prefix('"')?;
        let (value, after) = quoted.split_at(string_end(quoted)?);
        if key.trim_start_matches([',', ' ', '\t']).trim_end() == name {
            return Some(value);
        }
        rest = &after[1..];
    }
}

/// Position of the quote that ends a string. A backslash escapes the next character.
fn string_end(quoted: &str) -> Option<usize> {
    let mut is_escaped = false;
    quoted.bytes().position(|byte| match byte {
        _ if std::mem::take(&mut is_escaped) => false,
        b'\\' => {
            is_escaped = true;
            false
        }
        byte => byte == b'"',
    })
}
