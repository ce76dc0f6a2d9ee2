use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

/// Tokens of a prompt unit. Equal to the block of the ecosystem's approximate prefix index.
pub const UNIT_TOKENS: u32 = 64;

/// Increases with every request of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RequestId(pub u64);

/// Hash of a prompt unit and everything before it. In JSON: 16 hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BlockHash(pub u64);

impl Serialize for BlockHash {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("{:016x}", self.0))
    }
}

impl<'de> Deserialize<'de> for BlockHash {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        match u64::from_str_radix(&text, 16) {
            Ok(hash) if text.len() == 16 && !text.starts_with('+') => Ok(Self(hash)),
            _ => Err(D::Error::custom(format!("{text:?} is not a hash of 16 hexadecimal digits"))),
        }
    }
}

/// What a router knows of a request. The number of output tokens is not known before the end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    pub id: RequestId,
    /// Conversation or agent run. `None`: a single request.
    pub session: Option<u64>,
    /// One hash per [`UNIT_TOKENS`] tokens, the last for a partial unit. Equal hashes mean equal prefixes.
    pub prompt: Arc<[BlockHash]>,
    pub prompt_tokens: u32,
    /// Size of the request on the wire.
    pub prompt_bytes: u32,
    /// The client's limit of output tokens.
    pub max_tokens: u32,
}
