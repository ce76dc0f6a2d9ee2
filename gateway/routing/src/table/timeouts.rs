//! Timeouts of rules.

use std::time::Duration;

use gateway_api::experimental::httproutes::HttpRouteRulesTimeouts;

/// Limits on the duration of a rule's requests; `None` means unlimited.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timeouts {
    /// `timeouts.request`: from the arrival of the request to the end of its response.
    pub request: Option<Duration>,
    /// `timeouts.backendRequest`: from sending the request upstream to the end of the response.
    pub backend_request: Option<Duration>,
}

impl Timeouts {
    pub(crate) fn parse(timeouts: &HttpRouteRulesTimeouts) -> Result<Self, String> {
        let limit = |name: &str, text: &Option<String>| match text {
            None => Ok(None),
            Some(text) => match parse_duration(text) {
                None => Err(format!("timeouts.{name}: {text:?} is not a duration such as 10s or 1m30s")),
                // GEP-1742: zero disables the timeout.
                Some(duration) => Ok(Some(duration).filter(|duration| !duration.is_zero())),
            },
        };
        Ok(Self {
            request: limit("request", &timeouts.request)?,
            backend_request: limit("backendRequest", &timeouts.backend_request)?,
        })
    }
}

/// Parses a duration (GEP-2257): one to four numbers of up to five digits, each with a unit h, m, s or ms.
pub(crate) fn parse_duration(text: &str) -> Option<Duration> {
    const MAX_PARTS: usize = 4;
    const MAX_DIGITS: usize = 5;
    let mut rest = text;
    let mut total = Duration::ZERO;
    for _ in 0..MAX_PARTS {
        let digits =
            rest.find(|c: char| !c.is_ascii_digit()).filter(|digits| (1..=MAX_DIGITS).contains(digits))?;
        let (number, behind) = rest.split_at(digits);
        let number: u64 = number.parse().ok()?;
        let unit_bytes = behind.find(|c: char| c.is_ascii_digit()).unwrap_or(behind.len());
        let (unit, behind) = behind.split_at(unit_bytes);
        total += match unit {
            "h" => Duration::from_secs(number * 3600),
            "m" => Duration::from_secs(number * 60),
            "s" => Duration::from_secs(number),
            "ms" => Duration::from_millis(number),
            _ => return None,
        };
        rest = behind;
        if rest.is_empty() {
            return Some(total);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_gep_2257_durations() {
        for (text, milliseconds) in
            [("10s", 10_000), ("1h30m", 5_400_000), ("1m2s3ms", 62_003), ("99999ms", 99_999), ("0s", 0)]
        {
            assert_eq!(parse_duration(text), Some(Duration::from_millis(milliseconds)), "{text}");
        }
        for bad in ["", "s", "10", "1.5s", "-1s", "100000s", "1d", "1s ", "1h1m1s1ms1s", "1é"] {
            assert_eq!(parse_duration(bad), None, "{bad}");
        }
    }

    #[test]
    fn zero_disables_the_limit() {
        let given = |request: &str, backend_request: Option<&str>| HttpRouteRulesTimeouts {
            request: Some(request.to_owned()),
            backend_request: backend_request.map(str::to_owned),
        };
        let timeouts = Timeouts::parse(&given("0s", Some("2s"))).unwrap();
        assert_eq!(timeouts, Timeouts { request: None, backend_request: Some(Duration::from_secs(2)) });
        assert!(Timeouts::parse(&given("2", None)).unwrap_err().contains("timeouts.request"));
    }
}
