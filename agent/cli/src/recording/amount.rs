//! Durations, sizes and times on the command line.

use std::{str::FromStr, time::Duration};

use time::{OffsetDateTime, format_description::well_known::Rfc3339};

/// `90s`, `10m`, `1h`, `500ms`, or a number of seconds.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let (number, unit) = split(text);
    let seconds = match unit {
        "" | "s" => 1.0,
        "ms" => 1e-3,
        "m" => 60.0,
        "h" => 3600.0,
        _ => return Err("must be a number with ms, s, m or h, such as 90s".into()),
    };
    let number: f64 = number.parse().map_err(|_| "must be a number with ms, s, m or h, such as 90s")?;
    Duration::try_from_secs_f64(number * seconds).map_err(|error| error.to_string())
}

/// `100MiB`, `1GiB`, `64KiB`, or a number of bytes.
pub(crate) fn size(text: &str) -> Result<u64, String> {
    let (number, unit) = split(text);
    let shift = match unit {
        "" | "B" => 0,
        "K" | "KiB" => 10,
        "M" | "MiB" => 20,
        "G" | "GiB" => 30,
        _ => return Err("must be a number with KiB, MiB or GiB, such as 100MiB".into()),
    };
    let number: u64 = number.parse().map_err(|_| "must be a whole number with KiB, MiB or GiB")?;
    number.checked_mul(1 << shift).ok_or_else(|| "is too large".into())
}

fn split(text: &str) -> (&str, &str) {
    text.split_at(text.find(|it: char| it.is_ascii_alphabetic()).unwrap_or(text.len()))
}

/// A time in a recording.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum At {
    /// Since its start.
    Offset(Duration),
    /// On the clock of the recording machine.
    Clock(OffsetDateTime),
}

impl FromStr for At {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(time) = OffsetDateTime::parse(text, &Rfc3339) {
            return Ok(Self::Clock(time));
        }
        duration(text).map(Self::Offset).map_err(|_| {
            "must be a time since the start of the recording, such as 90s, or a time such as 2026-01-31T12:00:00Z"
                .into()
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;

    #[test]
    fn parses_durations_and_sizes() {
        for (text, milliseconds) in
            [("90s", 90_000), ("1.5m", 90_000), ("250ms", 250), ("1h", 3_600_000), ("2", 2_000)]
        {
            assert_eq!(duration(text).unwrap(), Duration::from_millis(milliseconds), "{text}");
        }
        for (text, bytes) in [("10", 10), ("2KiB", 2_048), ("3MiB", 3 << 20), ("1G", 1 << 30)] {
            assert_eq!(size(text).unwrap(), bytes, "{text}");
        }
        for text in ["", "s", "-1s", "1d", "1e400", "NaN"] {
            assert!(duration(text).is_err(), "{text}");
        }
        for text in ["", "MiB", "1.5MiB", "1TB", "99999999999G"] {
            assert!(size(text).is_err(), "{text}");
        }
    }

    #[test]
    fn parses_times() {
        assert_eq!("90s".parse(), Ok(At::Offset(Duration::from_secs(90))));
        let At::Clock(time) = "1970-01-01T00:00:05Z".parse().unwrap() else { panic!("a clock") };
        assert_eq!(time.unix_timestamp(), 5);
        assert!("yesterday".parse::<At>().unwrap_err().contains("such as 90s"));
    }
}
