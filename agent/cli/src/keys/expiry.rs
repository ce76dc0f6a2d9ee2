//! When a key expires, on the command line and in metadata.

use std::{fmt, str::FromStr};

use crate::duration::duration;
use time::{Duration, OffsetDateTime, UtcOffset, format_description::well_known::Rfc3339};

/// `--expires`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Expires {
    Never,
    After(Duration),
    At(OffsetDateTime),
}

impl FromStr for Expires {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "never" {
            return Ok(Self::Never);
        }
        if let Ok(at) = OffsetDateTime::parse(text, &Rfc3339) {
            return Ok(Self::At(at));
        }
        duration(text).map(Self::After).map_err(|_| {
            "must be a time from now, such as 30d, a time such as 2027-01-31T00:00:00Z, or never".into()
        })
    }
}

impl Expires {
    /// `None` for keys that do not expire.
    pub(super) fn resolve(self, now: OffsetDateTime) -> anyhow::Result<Option<Timestamp>> {
        let at = match self {
            Self::Never => return Ok(None),
            Self::After(duration) => Timestamp::after(now, duration)?,
            Self::At(at) => Timestamp::new(at)?,
        };
        if at.is_over(now) {
            anyhow::bail!("--expires {at} is in the past");
        }
        Ok(Some(at))
    }
}

/// A time in metadata: RFC 3339, UTC, whole seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Timestamp(OffsetDateTime);

impl Timestamp {
    /// Fails for years that RFC 3339 cannot express.
    pub(super) fn new(at: OffsetDateTime) -> anyhow::Result<Self> {
        let at = at.checked_to_offset(UtcOffset::UTC).and_then(|at| at.replace_nanosecond(0).ok());
        at.filter(|at| (0..=9999).contains(&at.year()))
            .map(Self)
            .ok_or_else(|| anyhow::anyhow!("the time is after the year 9999; use --expires never"))
    }

    pub(super) fn after(now: OffsetDateTime, duration: Duration) -> anyhow::Result<Self> {
        let at = now.checked_add(duration);
        at.map_or_else(|| anyhow::bail!("the time is after the year 9999; use --expires never"), Self::new)
    }

    pub(super) fn parse(text: &str) -> Option<Self> {
        OffsetDateTime::parse(text, &Rfc3339).ok().and_then(|at| Self::new(at).ok())
    }

    pub(super) fn is_over(self, now: OffsetDateTime) -> bool {
        self.0 <= now
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.format(&Rfc3339).map_err(|_| fmt::Error)?)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;

    #[test]
    fn resolves_times_from_now_and_of_the_calendar() {
        let now = OffsetDateTime::from_unix_timestamp(1_767_225_600).unwrap();
        let resolve = |text: &str| {
            let at = text.parse::<Expires>().map_err(anyhow::Error::msg)?.resolve(now)?;
            anyhow::Ok(at.map(|at| at.to_string()))
        };
        for (text, expected) in [
            ("30d", Some("2026-01-31T00:00:00Z")),
            ("90m", Some("2026-01-01T01:30:00Z")),
            ("2w", Some("2026-01-15T00:00:00Z")),
            ("2026-06-01T02:00:00.5+02:00", Some("2026-06-01T00:00:00Z")),
            ("never", None),
        ] {
            assert_eq!(resolve(text).unwrap().as_deref(), expected, "{text}");
        }
        for (text, why) in [
            ("2025-12-31T23:59:59Z", "--expires 2025-12-31T23:59:59Z is in the past"),
            ("4294967295w", "use --expires never"),
            ("0d", "must be"),
            ("30", "must be"),
            ("d", "must be"),
            ("", "must be"),
            ("1.5d", "must be"),
            ("-1d", "must be"),
            ("3ü", "must be"),
            ("2026-06-01", "must be"),
        ] {
            let error = resolve(text).unwrap_err().to_string();
            assert!(error.contains(why), "{text}: {error}");
        }
    }
}
