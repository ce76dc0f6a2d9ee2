//! A key that has just been made.

use std::fmt::Write as _;

use anyhow::anyhow;
use sha2::{Digest as _, Sha256};

/// Secret scanners and readers recognise the kind of credential by it.
const PREFIX: &str = "fb-";
const RANDOM_BYTES: usize = 32;

/// It has neither `Debug` nor `Display`, so that no message contains it by mistake.
pub(super) struct Key(String);

impl Key {
    /// A key from the random numbers of the operating system.
    pub(super) fn generate() -> anyhow::Result<Self> {
        let mut random = [0; RANDOM_BYTES];
        getrandom::fill(&mut random)
            .map_err(|error| anyhow!("the operating system gives no random numbers: {error}"))?;
        Ok(Self(format!("{PREFIX}{}", hex(&random))))
    }

    /// For [`delivery`](super::delivery) only.
    pub(super) fn reveal(&self) -> &str {
        &self.0
    }

    pub(super) fn hash(&self) -> String {
        hash(self.0.as_bytes())
    }
}

/// `keyHash` of a key.
pub(super) fn hash(key: &[u8]) -> String {
    format!("sha256:{}", hex(&Sha256::digest(key)))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;

    #[test]
    fn keys_are_different_and_can_be_sent_in_a_header() {
        let keys = [(); 2].map(|()| Key::generate().unwrap());
        for key in &keys {
            let digits = key.reveal().strip_prefix("fb-").unwrap();
            assert_eq!(digits.len(), 2 * RANDOM_BYTES);
            assert!(digits.bytes().all(|digit| digit.is_ascii_hexdigit()));
        }
        assert!(keys[0].reveal() != keys[1].reveal());
    }

    #[test]
    fn hashes_as_the_gateway_does() {
        // printf k-456 | sha256sum
        let expected = "sha256:efe96124b410574ffd343d0c9f342ce51d5aee47046ca355f85a50e23db3c37c";
        assert_eq!(hash(b"k-456"), expected);
    }
}
