//! Times on the command line.

use std::str::FromStr;

use time::{Duration, OffsetDateTime, format_description::well_known::Rfc3339};

use crate::duration::duration;

/// A time ago, or a time of the calendar.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Moment {
    Ago(Duration),
    At(OffsetDateTime),
}

impl FromStr for Moment {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(at) = OffsetDateTime::parse(text, &Rfc3339) {
            return Ok(Self::At(at));
        }
        duration(text)
            .map(Self::Ago)
            .map_err(|_| "must be a time ago, such as 7d, or a time such as 2027-01-31T00:00:00Z".into())
    }
}

impl Moment {
    pub(super) fn resolve(self, now: OffsetDateTime) -> OffsetDateTime {
        match self {
            Self::Ago(duration) => now.checked_sub(duration).unwrap_or(OffsetDateTime::UNIX_EPOCH),
            Self::At(at) => at,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;

    #[test]
    fn resolves_times_ago_and_of_the_calendar() {
        let now = OffsetDateTime::from_unix_timestamp(1_767_225_600).unwrap();
        for (text, expected) in [
            ("7d", 1_767_225_600 - 7 * 86_400),
            ("4294967295w", 0),
            ("2026-01-01T02:00:00+02:00", 1_767_225_600),
        ] {
            assert_eq!(text.parse::<Moment>().unwrap().resolve(now).unix_timestamp(), expected, "{text}");
        }
        for text in ["7", "yesterday", "", "-1d"] {
            assert!(text.parse::<Moment>().unwrap_err().contains("such as 7d"), "{text}");
        }
    }
}
