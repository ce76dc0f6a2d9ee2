//! An entry of a Secret with keys, in the form that the gateway reads.

use serde_json::{Map, Value, json};
use time::OffsetDateTime;

use super::{expiry::Timestamp, key::hash};

pub(super) const NAME: &str = "name";
pub(super) const OWNER: &str = "owner";
pub(super) const GROUPS: &str = "groups";
pub(super) const MODELS: &str = "models";
pub(super) const CREATED_AT: &str = "createdAt";
pub(super) const ROTATED_AT: &str = "rotatedAt";
pub(super) const EXPIRES_AT: &str = "expiresAt";

/// Longest name. Entries of a Secret have names of at most 253 characters, and rotations append to them.
const MAX_NAME: usize = 200;
/// Between the name of a key and the start of its hash, in the names of entries that rotations keep.
const PREVIOUS: &str = ".previous-";
/// Enough to tell the rotations of one key apart.
const PREVIOUS_DIGITS: usize = 8;

/// Hash and metadata of a key.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    hash: String,
    pub(super) metadata: Map<String, Value>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    Valid,
    Expired,
}

impl State {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Valid => "valid",
            Self::Expired => "expired",
        }
    }
}

impl Entry {
    pub(super) fn new(hash: String, metadata: Map<String, Value>) -> Self {
        Self { hash, metadata }
    }

    /// Reads what the gateway accepts. No error contains any of the value.
    pub(super) fn read(value: &[u8]) -> Result<Self, &'static str> {
        let text = str::from_utf8(value).map_err(|_| "it is not UTF-8")?.trim();
        if !text.starts_with('{') {
            return Ok(Self::new(plain(text)?, Map::new()));
        }
        let Ok(Value::Object(mut members)) = serde_json::from_str(text) else {
            return Err("it starts as a JSON object and is not one");
        };
        let hash = match (members.remove("key"), members.remove("keyHash")) {
            (Some(Value::String(key)), None) => plain(&key)?,
            (None, Some(Value::String(hash))) if is_hash(&hash) => hash,
            (None, Some(_)) => return Err("`keyHash` is not `sha256:` and 64 hexadecimal digits"),
            (Some(_), Some(_)) => return Err("it has both `key` and `keyHash`"),
            (Some(_), None) => return Err("`key` is not a string"),
            (None, None) => return Err("it has neither `key` nor `keyHash`"),
        };
        let metadata = match members.remove("metadata") {
            None | Some(Value::Null) => Map::new(),
            Some(Value::Object(metadata)) => metadata,
            Some(_) => return Err("`metadata` is not an object"),
        };
        if !members.is_empty() {
            return Err("it has a member other than `key`, `keyHash` and `metadata`");
        }
        let entry = Self::new(hash, metadata);
        entry.expires_at().map(|_| entry)
    }

    /// The value in the Secret.
    pub(super) fn write(&self) -> String {
        json!({ "keyHash": self.hash, "metadata": self.metadata }).to_string()
    }

    /// `None` for keys that do not expire.
    pub(super) fn expires_at(&self) -> Result<Option<Timestamp>, &'static str> {
        let at = self.metadata.get(EXPIRES_AT).filter(|at| !at.is_null());
        let time = |at: &Value| at.as_str().and_then(Timestamp::parse);
        at.map(|at| time(at).ok_or("`metadata.expiresAt` is not a time of RFC 3339")).transpose()
    }

    pub(super) fn set_expires_at(&mut self, at: Option<Timestamp>) {
        match at {
            Some(at) => self.metadata.insert(EXPIRES_AT.into(), json!(at.to_string())),
            None => self.metadata.remove(EXPIRES_AT),
        };
    }

    pub(super) fn state(&self, now: OffsetDateTime) -> Result<State, &'static str> {
        let is_over = self.expires_at()?.is_some_and(|at| at.is_over(now));
        Ok(if is_over { State::Expired } else { State::Valid })
    }

    /// Name of the entry that keeps this key of `name` after a rotation.
    pub(super) fn previous_name(&self, name: &str) -> String {
        let digits = self.hash.trim_start_matches("sha256:");
        format!("{name}{PREVIOUS}{}", digits.get(..PREVIOUS_DIGITS).unwrap_or(digits))
    }
}

/// Whether an entry keeps an earlier key of `name`.
pub(super) fn is_previous(entry: &str, name: &str) -> bool {
    entry.strip_prefix(name).is_some_and(|rest| rest.starts_with(PREVIOUS))
}

/// clap's parser of names.
pub(super) fn name(text: &str) -> Result<String, String> {
    let is_allowed = |it: char| it.is_ascii_alphanumeric() || matches!(it, '-' | '_' | '.');
    if text.is_empty()
        || text.len() > MAX_NAME
        || !text.chars().all(is_allowed)
        || text.starts_with("..")
        || text == "."
    {
        return Err(format!(
            "must have 1 to {MAX_NAME} letters, digits, `-`, `_` and `.`, as names in a Secret do"
        ));
    }
    Ok(text.to_owned())
}

/// A name for a new key.
pub(super) fn new_name(text: &str) -> Result<String, String> {
    if text.contains(PREVIOUS) {
        return Err(format!("must not contain `{PREVIOUS}`: rotations keep earlier keys under such names"));
    }
    name(text)
}

fn plain(key: &str) -> Result<String, &'static str> {
    if key.is_empty() {
        return Err("the key is empty");
    }
    if !key.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err("the key contains blanks, or characters that are not printable ASCII");
    }
    Ok(hash(key.as_bytes()))
}

fn is_hash(text: &str) -> bool {
    let digits = text.strip_prefix("sha256:");
    digits.is_some_and(|digits| digits.len() == 64 && digits.bytes().all(|it| it.is_ascii_hexdigit()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;

    #[test]
    fn reads_what_it_writes_and_plain_keys_as_hashes() {
        let metadata = json!({ "owner": "a", "expiresAt": "2027-01-01T00:00:00Z" });
        let entry = Entry::new(hash(b"k-456"), metadata.as_object().unwrap().clone());
        let read = Entry::read(entry.write().as_bytes()).unwrap();
        assert_eq!((read.write(), read.metadata["owner"].as_str()), (entry.write(), Some("a")));
        for same in [" k-456\n", r#"{"key": "k-456"}"#] {
            let read = Entry::read(same.as_bytes()).unwrap();
            assert_eq!((&read.hash, read.metadata.len()), (&entry.hash, 0));
            assert!(!read.write().contains("k-456"));
        }
    }

    #[test]
    fn no_error_contains_the_value() {
        let short = format!(r#"{{"keyHash": "sha256:{}"}}"#, "SECRET".repeat(10));
        for value in [
            &b"SEC\xffRET"[..],
            b"",
            b"SEC RET",
            br#"{"key": "SECRET""#,
            br#"{"key": "SECRET", "other": 1}"#,
            br#"{"key": 7, "SECRET": 1}"#,
            br#"{"key": "SECRET", "keyHash": "x"}"#,
            br#"{"metadata": {"a": "SECRET"}}"#,
            br#"{"key": "SECRET", "metadata": "SECRET"}"#,
            br#"{"key": "SECRET", "metadata": {"expiresAt": "SECRET"}}"#,
            short.as_bytes(),
        ] {
            let why = Entry::read(value).map(|_| ()).unwrap_err();
            assert!(!why.contains("SECRET"), "{why}");
        }
    }

    #[test]
    fn names_are_those_of_entries_of_a_secret() {
        for text in ["alice", "team-a.alice_2", ".hidden"] {
            assert_eq!(new_name(text).as_deref(), Ok(text));
        }
        for text in ["", ".", "..", "..x", "a b", "a/b", "ä", "a.previous-12345678", &"a".repeat(201)] {
            assert!(new_name(text).is_err(), "{text}");
        }
        assert!(name("a.previous-12345678").is_ok(), "it can be shown and revoked");
        assert!(is_previous("a.previous-12345678", "a") && !is_previous("aa.previous-12345678", "a"));
        assert!(!is_previous("a", "a"));
    }

    #[test]
    fn a_key_expires_at_its_time() {
        let metadata = json!({ "expiresAt": "2027-01-01T00:00:00Z" });
        let entry = Entry::new(hash(b"k"), metadata.as_object().unwrap().clone());
        let at = OffsetDateTime::from_unix_timestamp(1_798_761_600).unwrap();
        assert_eq!(entry.state(at - time::Duration::SECOND), Ok(State::Valid));
        assert_eq!(entry.state(at), Ok(State::Expired));
    }
}
