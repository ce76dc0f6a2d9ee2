//! Retry policies.

use std::time::Duration;

use gateway_api::experimental::httproutes::HttpRouteRulesRetry;
use http::StatusCode;

use super::timeouts::parse_duration;

/// Maximum `retry.attempts`; larger values are reduced to it.
const MAX_ATTEMPTS: u32 = 10;
/// `retry.attempts` when unset.
const DEFAULT_ATTEMPTS: u32 = 1;
/// `retry.backoff` when unset. Each further attempt doubles the wait.
const DEFAULT_BACKOFF: Duration = Duration::from_millis(25);
/// Maximum wait between two attempts.
const MAX_BACKOFF: Duration = Duration::from_secs(10);

/// When a request may be sent again (GEP-1731), and how often. Never after response bytes went to the client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RetryPolicy {
    /// Attempts after the first one.
    pub attempts: u32,
    codes: Vec<StatusCode>,
    backoff: Duration,
}

impl RetryPolicy {
    pub(crate) fn parse(it: &HttpRouteRulesRetry) -> Result<Self, String> {
        let attempts = match it.attempts {
            None => DEFAULT_ATTEMPTS,
            Some(attempts) => u32::try_from(attempts)
                .map_err(|_| format!("retry.attempts: {attempts} is not a valid number of attempts"))?
                .min(MAX_ATTEMPTS),
        };
        let codes = it.codes.iter().flatten().map(|code| {
            let code = u16::try_from(*code).ok().filter(|code| (400..600).contains(code));
            code.and_then(|code| StatusCode::from_u16(code).ok())
        });
        let backoff = it.backoff.as_deref().map_or(Some(DEFAULT_BACKOFF), parse_duration);
        Ok(Self {
            attempts,
            codes: codes.collect::<Option<_>>().ok_or("retry.codes: only 400 to 599 can be retried")?,
            backoff: backoff.ok_or("retry.backoff is not a duration such as 100ms")?,
        })
    }

    /// Whether responses with `status` are retried.
    pub fn covers(&self, status: StatusCode) -> bool {
        self.codes.contains(&status)
    }

    /// Wait before retry number `attempt`, counted from 0.
    pub fn wait(&self, attempt: u32) -> Duration {
        self.backoff.saturating_mul(1 << attempt.min(16)).min(MAX_BACKOFF.max(self.backoff))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn policies_have_defaults_and_bounds() {
        let parse = |json| RetryPolicy::parse(&serde_json::from_value(json).unwrap());
        let given = parse(json!({"attempts": 3, "codes": [500, 503], "backoff": "100ms"})).unwrap();
        assert_eq!(
            (given.attempts, given.wait(0), given.wait(2)),
            (3, Duration::from_millis(100), Duration::from_millis(400))
        );
        assert!(given.covers(StatusCode::SERVICE_UNAVAILABLE) && !given.covers(StatusCode::BAD_GATEWAY));
        assert_eq!(given.wait(30), MAX_BACKOFF);
        let default = parse(json!({})).unwrap();
        assert_eq!((default.attempts, default.wait(0)), (1, DEFAULT_BACKOFF));
        assert_eq!(parse(json!({"attempts": 1000})).unwrap().attempts, MAX_ATTEMPTS);
        for bad in [
            json!({"attempts": -1}),
            json!({"codes": [200]}),
            json!({"codes": [1000]}),
            json!({"backoff": "1"}),
        ] {
            assert!(parse(bad.clone()).is_err(), "{bad}");
        }
    }
}
