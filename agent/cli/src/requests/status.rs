//! `--status`: which outcomes are shown.

use std::str::FromStr;

use forebay_telemetry::v1::StatusRange;

/// `200`, `5xx` or `aborted`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum StatusPattern {
    /// Complete responses with a status from the first to the last.
    Statuses(u16, u16),
    Aborted,
}

impl StatusPattern {
    pub(super) fn range(self) -> Option<StatusRange> {
        match self {
            Self::Statuses(first, last) => Some(StatusRange { first: first.into(), last: last.into() }),
            Self::Aborted => None,
        }
    }
}

impl FromStr for StatusPattern {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let invalid = || "must be a status such as 429, a class such as 5xx, or aborted".to_owned();
        if text == "aborted" {
            return Ok(Self::Aborted);
        }
        let (first, last) = match text.strip_suffix("xx") {
            Some(class) if class.len() == 1 => {
                let class: u16 = class.parse().map_err(|_| invalid())?;
                (class * 100, class * 100 + 99)
            }
            Some(_) => return Err(invalid()),
            None => {
                let status: u16 = text.parse().map_err(|_| invalid())?;
                (status, status)
            }
        };
        // RFC 9110 §15: the first digit is 1 to 5.
        if first < 100 || last > 599 { Err(invalid()) } else { Ok(Self::Statuses(first, last)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_statuses_classes_and_aborted() {
        for (text, expected) in [
            ("429", StatusPattern::Statuses(429, 429)),
            ("5xx", StatusPattern::Statuses(500, 599)),
            ("aborted", StatusPattern::Aborted),
        ] {
            assert_eq!(text.parse(), Ok(expected), "{text}");
        }
        for text in ["", "xx", "6xx", "0xx", "55xx", "99", "600", "-5", "5XX", "abort"] {
            let error = text.parse::<StatusPattern>().unwrap_err();
            assert!(error.contains("such as 5xx"), "{text}: {error}");
        }
    }
}
