//! Token buckets (`traffic.rateLimit.local` of AgentgatewayPolicy).

use std::fmt;
use std::time::Duration;

/// What a limit counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Measure {
    /// Requests.
    Requests,
    /// Prompt tokens and generated tokens.
    Tokens,
}

impl Measure {
    /// `requests` or `tokens`, as in header names.
    pub fn name(self) -> &'static str {
        match self {
            Self::Requests => "requests",
            Self::Tokens => "tokens",
        }
    }
}

/// A token bucket: it is filled with `amount` per `unit`, and holds up to `amount` and `burst`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RateLimit {
    /// What is counted.
    pub measure: Measure,
    /// Never 0.
    pub amount: u32,
    /// Allowance above `amount`.
    pub burst: u32,
    /// Time in which `amount` is filled.
    pub unit: LimitUnit,
}

impl RateLimit {
    /// The most that can be used at once.
    pub fn capacity(&self) -> u64 {
        u64::from(self.amount) + u64::from(self.burst)
    }

    /// Filled per second.
    pub fn per_second(&self) -> f64 {
        f64::from(self.amount) / self.unit.duration().as_secs_f64()
    }
}

/// `1 request per second`, `100 tokens per minute and a burst of 20`
impl fmt::Display for RateLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plural = self.measure.name();
        let noun = if self.amount == 1 { plural.trim_end_matches('s') } else { plural };
        write!(f, "{} {noun} per {}", self.amount, self.unit.name())?;
        if self.burst > 0 { write!(f, " and a burst of {}", self.burst) } else { Ok(()) }
    }
}

/// `unit` of a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LimitUnit {
    /// `Seconds`
    Second,
    /// `Minutes`
    Minute,
    /// `Hours`
    Hour,
}

impl LimitUnit {
    /// One second, minute or hour.
    pub fn duration(self) -> Duration {
        Duration::from_secs(match self {
            Self::Second => 1,
            Self::Minute => 60,
            Self::Hour => 3600,
        })
    }

    /// `second`, `minute` or `hour`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Second => "second",
            Self::Minute => "minute",
            Self::Hour => "hour",
        }
    }
}
