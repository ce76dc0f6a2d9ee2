//! What is left of a limit, as response headers.

use std::time::Duration;

use forebay_routing::Measure;
use http::{HeaderMap, HeaderName, HeaderValue};

use super::bucket::Bucket;

/// Limit, remaining, reset.
const REQUESTS: [HeaderName; 3] = [
    HeaderName::from_static("x-ratelimit-limit-requests"),
    HeaderName::from_static("x-ratelimit-remaining-requests"),
    HeaderName::from_static("x-ratelimit-reset-requests"),
];
const TOKENS: [HeaderName; 3] = [
    HeaderName::from_static("x-ratelimit-limit-tokens"),
    HeaderName::from_static("x-ratelimit-remaining-tokens"),
    HeaderName::from_static("x-ratelimit-reset-tokens"),
];

/// State of a limit when a request was admitted or rejected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Standing {
    pub(crate) measure: Measure,
    /// The most that can be used at once.
    pub(crate) limit: u64,
    /// What is left of it.
    pub(crate) remaining: u64,
    /// Time until all of it is left.
    pub(crate) reset_after: Duration,
}

impl Standing {
    pub(super) fn of(bucket: &Bucket) -> Self {
        Self {
            measure: bucket.limit.measure,
            limit: bucket.limit.capacity(),
            remaining: bucket.remaining(),
            reset_after: bucket.reset_after(),
        }
    }

    /// Sets the headers of the OpenAI API (`x-ratelimit-*`): for requests and for tokens, those of the limit with the least
    /// left.
    pub(crate) fn set_headers(all: &[Self], headers: &mut HeaderMap) {
        for (measure, names) in [(Measure::Requests, REQUESTS), (Measure::Tokens, TOKENS)] {
            let least = all.iter().filter(|it| it.measure == measure).min_by_key(|it| it.remaining);
            if let Some(least) = least {
                least.set(headers, names);
            }
        }
    }

    fn set(self, headers: &mut HeaderMap, [limit, remaining, reset]: [HeaderName; 3]) {
        headers.insert(limit, self.limit.into());
        headers.insert(remaining, self.remaining.into());
        if let Ok(text) = HeaderValue::try_from(go_duration(self.reset_after)) {
            headers.insert(reset, text);
        }
    }
}

/// `120ms`, `1s`, `6m0s`, `2h0m30s`, rounded up
fn go_duration(duration: Duration) -> String {
    if duration <= Duration::from_millis(999) {
        return format!("{}ms", duration.as_nanos().div_ceil(1_000_000));
    }
    let seconds = duration.as_secs() + u64::from(duration.subsec_nanos() > 0);
    let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    match (hours, minutes) {
        (0, 0) => format!("{seconds}s"),
        (0, _) => format!("{minutes}m{seconds}s"),
        _ => format!("{hours}h{minutes}m{seconds}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_rounded_up() {
        for (duration, expected) in [
            (Duration::ZERO, "0ms"),
            (Duration::from_micros(1), "1ms"),
            (Duration::from_millis(999), "999ms"),
            (Duration::from_millis(1001), "2s"),
            (Duration::from_secs(360), "6m0s"),
            (Duration::from_millis(7_229_001), "2h0m30s"),
        ] {
            assert_eq!(go_duration(duration), expected);
        }
    }

    #[test]
    fn the_limit_with_the_least_left_is_shown() {
        let standing = |measure, remaining| Standing {
            measure,
            limit: 100,
            remaining,
            reset_after: Duration::from_secs(remaining),
        };
        let mut headers = HeaderMap::new();
        let all =
            [standing(Measure::Requests, 7), standing(Measure::Tokens, 9), standing(Measure::Requests, 5)];
        Standing::set_headers(&all, &mut headers);
        assert_eq!(headers["x-ratelimit-remaining-requests"], "5");
        assert_eq!(headers["x-ratelimit-reset-requests"], "5s");
        assert_eq!(headers["x-ratelimit-limit-tokens"], "100");
        assert_eq!(headers["x-ratelimit-remaining-tokens"], "9");
    }
}
