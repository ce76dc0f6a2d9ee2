//! What a file keeps of quotas.

use serde::{Deserialize, Serialize};

/// What was used of a quota.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct StoredQuota {
    /// The latest time that was seen, in seconds since 1970.
    pub(super) latest: u64,
    /// The limits, by what they count and their window.
    pub(super) limits: Vec<String>,
    pub(super) counters: Vec<StoredCounters>,
}

/// Of one value of `per`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct StoredCounters {
    /// `None`: requests without a value.
    pub(super) value: Option<String>,
    /// In the order of the limits.
    pub(super) counters: Vec<StoredCounter>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct StoredCounter {
    /// A number as text: numbers of JSON have no more than 64 bits.
    #[serde(with = "text")]
    pub(super) used: u128,
    /// Start and end of the window.
    pub(super) window: (u64, u64),
}

mod text {
    use serde::de::Error as _;
    use serde::{Deserialize as _, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(number: &u128, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(number)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u128, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}
