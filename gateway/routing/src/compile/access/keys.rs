//! Reads keys from Secrets and ConfigMaps.

use std::collections::BTreeMap;
use std::time::SystemTime;

use forebay_resources::{ObjectKey, Snapshot};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::{Map, Value};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::source::KeySource;
use crate::compile::policies::{PolicyEffect, PolicyProblem};
use crate::table::{ApiKey, ApiKeys, Document, KeyHash};

const HASH_PREFIX: &str = "sha256:";
/// Member of `metadata`: when the key expires.
const EXPIRES_AT: &str = "expiresAt";

/// The keys that can be read. Everything else is in `problems`, never with its content.
pub(super) fn read(snapshot: &Snapshot, source: &KeySource, problems: &mut Vec<PolicyProblem>) -> ApiKeys {
    let mut reader = Reader { keys: ApiKeys::default(), problems, has_object: false };
    match source {
        KeySource::Secret(key) => {
            if let Some(secret) = snapshot.secrets.get(key) {
                reader.add_all("Secret", key, secret.entries(), true);
            }
        }
        KeySource::Secrets(namespace, labels) => {
            for (key, secret) in snapshot.secrets.in_namespace(namespace) {
                if selects(labels, &secret.metadata) {
                    reader.add_all("Secret", key, secret.entries(), true);
                }
            }
        }
        KeySource::ConfigMaps(namespace, labels) => {
            for (key, config_map) in snapshot.config_maps.in_namespace(namespace) {
                if selects(labels, &config_map.metadata) {
                    let texts = config_map.data.iter().flatten();
                    let entries = texts.map(|(name, text)| (name.as_str(), text.as_bytes()));
                    reader.add_all("ConfigMap", key, entries, false);
                }
            }
        }
    }
    if !reader.has_object {
        let what = match source {
            KeySource::Secret(_) => format!("{source} does not exist, or the gateway may not read it"),
            _ => format!("there is no {source}, or the gateway may not read it"),
        };
        reader.report(format!("traffic.apiKeyAuthentication: {what}: no key is accepted"));
    }
    reader.keys
}

fn selects(labels: &BTreeMap<String, String>, metadata: &ObjectMeta) -> bool {
    let given = metadata.labels.as_ref();
    labels.iter().all(|(name, value)| given.is_some_and(|given| given.get(name) == Some(value)))
}

struct Reader<'p> {
    keys: ApiKeys,
    problems: &'p mut Vec<PolicyProblem>,
    has_object: bool,
}

impl Reader<'_> {
    fn report(&mut self, message: String) {
        self.problems.push(PolicyProblem { effect: PolicyEffect::KeyNotAccepted, message });
    }

    fn add_all<'e>(
        &mut self,
        kind: &str,
        object: &ObjectKey,
        entries: impl Iterator<Item = (&'e str, &'e [u8])>,
        is_confidential: bool,
    ) {
        self.has_object = true;
        for (name, value) in entries {
            let why = match entry(name, value, is_confidential) {
                Ok((hash, key)) => match self.keys.add(hash, key) {
                    None => continue,
                    Some(first) => format!("its key is also the one of entry {}, which is used", first.name),
                },
                Err(why) => why.to_owned(),
            };
            self.report(format!(
                "traffic.apiKeyAuthentication: entry {name} of {kind} {object} is not accepted: {why}"
            ));
        }
    }
}

/// A key, or a JSON object with `key` or `keyHash`. No error contains any of the value.
fn entry(name: &str, value: &[u8], is_confidential: bool) -> Result<(KeyHash, ApiKey), &'static str> {
    let text = str::from_utf8(value).map_err(|_| "it is not UTF-8")?.trim();
    if !text.starts_with('{') {
        if !is_confidential {
            return Err("in a ConfigMap it must be a JSON object with `keyHash`");
        }
        return Ok((plain(text)?, api_key(name, None)?));
    }
    let Ok(Value::Object(members)) = serde_json::from_str(text) else {
        return Err("it starts as a JSON object and is not one");
    };
    if members.keys().any(|member| !matches!(member.as_str(), "key" | "keyHash" | "metadata")) {
        return Err("it has a member other than `key`, `keyHash` and `metadata`");
    }
    let hash = match (members.get("key"), members.get("keyHash")) {
        (Some(_), None) if !is_confidential => {
            return Err("a ConfigMap may contain `keyHash` only, not `key`");
        }
        (Some(Value::String(key)), None) => plain(key)?,
        (None, Some(Value::String(hash))) => parse_hash(hash)?,
        (Some(_), Some(_)) => return Err("it has both `key` and `keyHash`"),
        (None, None) => return Err("it has neither `key` nor `keyHash`"),
        _ => return Err("`key` or `keyHash` is not a string"),
    };
    let metadata = match members.get("metadata") {
        None | Some(Value::Null) => None,
        Some(Value::Object(metadata)) => Some(metadata),
        Some(_) => return Err("`metadata` is not an object"),
    };
    Ok((hash, api_key(name, metadata)?))
}

fn api_key(name: &str, metadata: Option<&Map<String, Value>>) -> Result<ApiKey, &'static str> {
    let mut variable = metadata.cloned().unwrap_or_default();
    variable.entry("name").or_insert_with(|| name.into());
    let expires_at = variable.get(EXPIRES_AT).filter(|at| !at.is_null()).map(time_of).transpose()?;
    Ok(ApiKey { name: name.to_owned(), variable: Document::unread(&Value::Object(variable)), expires_at })
}

fn time_of(value: &Value) -> Result<SystemTime, &'static str> {
    const INVALID: &str = "`metadata.expiresAt` is not a time of RFC 3339, such as 2027-01-31T00:00:00Z";
    let text = value.as_str().ok_or(INVALID)?;
    OffsetDateTime::parse(text, &Rfc3339).map(SystemTime::from).map_err(|_| INVALID)
}

fn plain(key: &str) -> Result<KeyHash, &'static str> {
    if key.is_empty() {
        return Err("the key is empty");
    }
    // Anything else cannot be sent in a header as it is.
    if !key.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err("the key contains blanks, or characters that are not printable ASCII");
    }
    Ok(KeyHash::of(key.as_bytes()))
}

fn parse_hash(text: &str) -> Result<KeyHash, &'static str> {
    const INVALID: &str = "`keyHash` is not `sha256:` and 64 hexadecimal digits";
    let digits = text.strip_prefix(HASH_PREFIX).filter(|digits| digits.len() == 64).ok_or(INVALID)?;
    let mut digest = [0; 32];
    for (byte, pair) in digest.iter_mut().zip(digits.as_bytes().chunks_exact(2)) {
        let digit = |at: usize| char::from(pair[at]).to_digit(16);
        let (Some(high), Some(low)) = (digit(0), digit(1)) else { return Err(INVALID) };
        *byte = u8::try_from(high << 4 | low).map_err(|_| INVALID)?;
    }
    Ok(KeyHash::new(digest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_a_key_or_a_hash() {
        // sha256 of k-456.
        let hash = "sha256:efe96124b410574ffd343d0c9f342ce51d5aee47046ca355f85a50e23db3c37c";
        let of = |value: &str| entry("client1", value.as_bytes(), true).map(|(hash, _)| hash);
        let expected = of("k-456").unwrap();
        for same in
            [" k-456\n", r#"{"key":"k-456"}"#, &format!(r#"{{"keyHash":"{hash}","metadata":{{"a":1}}}}"#)]
        {
            assert!(of(same) == Ok(expected), "{same}");
        }
        assert!(of("k-457") != Ok(expected));
    }

    #[test]
    fn a_key_with_an_expiry_is_valid_until_then() {
        let of = |at: &str| {
            let text = format!(r#"{{"key":"k","metadata":{{"expiresAt":{at}}}}}"#);
            entry("client1", text.as_bytes(), true).map(|(_, key)| key.is_valid())
        };
        assert_eq!(of(r#""2020-01-01T00:00:00Z""#), Ok(false));
        assert_eq!(of(r#""2999-12-31T23:59:59+02:00""#), Ok(true));
        assert_eq!(of("null"), Ok(true));
        for invalid in [r#""2999-12-31""#, r#""never""#, "4102444800", "\"\""] {
            assert!(of(invalid).unwrap_err().contains("RFC 3339"), "{invalid}");
        }
    }

    #[test]
    fn no_error_repeats_the_value() {
        let short = format!("{{\"keyHash\":\"sha256:{}\"}}", "SECRET".repeat(10));
        let wide = format!("{{\"keyHash\":\"sha256:{}\"}}", "S".repeat(64));
        for value in [
            &b"SEC\xffRET"[..],
            b"",
            b"SEC RET",
            br#"{"key":"SECRET""#,
            br#"{"SECRET":1}"#,
            br#"{"key":7}"#,
            br#"{"key":"SECRET","keyHash":"x"}"#,
            br#"{"metadata":{}}"#,
            br#"{"key":"SECRET","metadata":"SECRET"}"#,
            br#"{"key":"SECRET","metadata":{"expiresAt":"SECRET"}}"#,
            br#"{"keyHash":"SECRET"}"#,
            short.as_bytes(),
            wide.as_bytes(),
        ] {
            let why = entry("client1", value, true).map(|_| ()).unwrap_err();
            assert!(!why.contains("SECRET"), "{why}");
        }
        for value in ["k-456", r#"{"key":"k-456"}"#] {
            assert!(entry("client1", value.as_bytes(), false).is_err(), "a ConfigMap is not confidential");
        }
    }
}
