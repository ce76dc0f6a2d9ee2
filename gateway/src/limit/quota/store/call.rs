//! Calls of the scripts in the store: their arguments and replies.

use redis::{FromRedisValue as _, Pipeline, Value};

use crate::limit::quota::share::Share;

/// Reserves amounts of limits, and tells what was used.
pub(super) const RESERVE: &str = include_str!("reserve.lua");
/// Counts the gateways.
pub(super) const PRESENCE: &str = include_str!("presence.lua");
const GATEWAYS_KEY: &str = "forebay:gateways";

/// What one gateway has used of limits that are checked together, and what its requests need.
#[derive(Clone, Debug)]
pub(in crate::limit::quota) struct Call {
    /// Never empty.
    pub(in crate::limit::quota) limits: Vec<CallLimit>,
    /// For each request, the amounts in the order of the limits.
    pub(in crate::limit::quota) needs: Vec<Vec<u128>>,
}

/// A limit of a [`Call`].
#[derive(Clone, Debug)]
pub(in crate::limit::quota) struct CallLimit {
    /// Of the counters in the store. All of one call have the same hash tag.
    pub(in crate::limit::quota) key: String,
    pub(in crate::limit::quota) amount: u128,
    /// By this gateway, with what is reserved.
    pub(in crate::limit::quota) used: u128,
    /// For requests in flight.
    pub(in crate::limit::quota) reserved: u128,
    /// Of one request. 0: nothing is granted in advance.
    pub(in crate::limit::quota) usual: u128,
    /// When its counters can be forgotten, in seconds since 1970. `None`: when no gateway uses them.
    pub(in crate::limit::quota) ends: Option<u64>,
}

/// What the store has answered to a [`Call`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::limit::quota) struct Reply {
    /// Whether amounts were reserved, for each request.
    pub(in crate::limit::quota) reserved: Vec<bool>,
    /// In the order of the limits.
    pub(in crate::limit::quota) limits: Vec<ReplyLimit>,
}

/// A limit of a [`Reply`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::limit::quota) struct ReplyLimit {
    /// What other gateways use.
    pub(in crate::limit::quota) others: u128,
    /// Up to which this gateway may use the limit without asking.
    pub(in crate::limit::quota) granted: u128,
}

/// A reply is not one of the scripts.
#[derive(Debug, thiserror::Error)]
#[error("the store replied with {0}")]
pub(super) struct UnexpectedReply(pub(super) String);

impl Call {
    pub(super) fn add_to(&self, pipeline: &mut Pipeline, hash: &str, gateway: &str, lease_ms: u64) {
        pipeline.cmd("EVALSHA").arg(hash).arg(self.limits.len());
        let command = self.limits.iter().fold(pipeline, |command, limit| command.arg(&limit.key));
        command.arg(gateway).arg(lease_ms);
        for limit in &self.limits {
            let CallLimit { key: _, amount, used, reserved, usual, ends } = limit;
            for number in [amount, used, reserved, usual] {
                command.arg(number.to_string());
            }
            command.arg(ends.unwrap_or(0).saturating_mul(1000));
        }
        for amount in self.needs.iter().flatten() {
            command.arg(amount.to_string());
        }
    }

    pub(super) fn reply(&self, value: Value) -> Result<Reply, UnexpectedReply> {
        let unexpected = || UnexpectedReply(format!("{value:?}"));
        let texts = Vec::<String>::from_redis_value(value.clone()).map_err(|_| unexpected())?;
        let (reserved, limits) = texts.split_first().ok_or_else(unexpected)?;
        let reserved: Vec<bool> = reserved.bytes().map(|digit| digit == b'1').collect();
        let numbers: Vec<u128> =
            limits.iter().map(|text| text.parse()).collect::<Result<_, _>>().map_err(|_| unexpected())?;
        if reserved.len() != self.needs.len() || numbers.len() != 2 * self.limits.len() {
            return Err(unexpected());
        }
        let limits = numbers
            .chunks_exact(2)
            .filter_map(|pair| Some(ReplyLimit { others: *pair.first()?, granted: *pair.get(1)? }));
        Ok(Reply { reserved, limits: limits.collect() })
    }
}

/// `is_here`: false when the gateway ends.
pub(super) fn add_presence(pipeline: &mut Pipeline, hash: &str, gateway: &str, lease_ms: u64, is_here: bool) {
    pipeline.cmd("EVALSHA").arg(hash).arg(1).arg(GATEWAYS_KEY);
    pipeline.arg(gateway).arg(lease_ms).arg(u8::from(is_here));
}

/// The gateways, and this one among them.
pub(super) fn presence(value: Value) -> Result<Share, UnexpectedReply> {
    let unexpected = UnexpectedReply(format!("{value:?}"));
    let (gateways, before) = <(u64, u64)>::from_redis_value(value).map_err(|_| unexpected)?;
    Ok(Share::new(gateways, before))
}
