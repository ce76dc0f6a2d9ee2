//! Windows of the calendar in UTC. Times are seconds since 1970-01-01T00:00:00Z.

use std::time::{SystemTime, UNIX_EPOCH};

use forebay_resources::QuotaWindow;
use time::format_description::well_known::Rfc3339;
use time::{Date, OffsetDateTime};

/// A minute, hour, day or month: from `start`, until before `end`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Window {
    pub(super) start: u64,
    pub(super) end: u64,
}

impl Window {
    /// The window that contains a time.
    pub(super) fn containing(kind: QuotaWindow, now: u64) -> Self {
        let of_seconds = |seconds| {
            let start = now - now % seconds;
            Self { start, end: start.saturating_add(seconds) }
        };
        match kind {
            QuotaWindow::Minute => of_seconds(60),
            QuotaWindow::Hour => of_seconds(3600),
            QuotaWindow::Day => of_seconds(24 * 3600),
            // A time that the calendar does not have: the window never ends.
            QuotaWindow::Month => month(now).unwrap_or(Self { start: 0, end: u64::MAX }),
        }
    }
}

fn month(now: u64) -> Option<Window> {
    let today = OffsetDateTime::from_unix_timestamp(i64::try_from(now).ok()?).ok()?.date();
    let (year, month) = (today.year(), today.month());
    let next_year = if month.next() == time::Month::January { year + 1 } else { year };
    let start_of = |date: Date| u64::try_from(date.midnight().assume_utc().unix_timestamp()).ok();
    let start = start_of(Date::from_calendar_date(year, month, 1).ok()?)?;
    let end = start_of(Date::from_calendar_date(next_year, month.next(), 1).ok()?)?;
    Some(Window { start, end })
}

/// Now. 0 before 1970.
pub(crate) fn unix_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// `2026-12-01T00:00:00Z`, or the number of seconds for a time that the calendar does not have.
pub(super) fn rfc3339(seconds: u64) -> String {
    let time = i64::try_from(seconds).ok().and_then(|it| OffsetDateTime::from_unix_timestamp(it).ok());
    time.and_then(|time| time.format(&Rfc3339).ok()).unwrap_or_else(|| seconds.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_are_those_of_the_calendar() {
        let seconds = |text: &str| OffsetDateTime::parse(text, &Rfc3339).unwrap().unix_timestamp() as u64;
        for (kind, now, start, end) in [
            (QuotaWindow::Minute, "2026-11-28T10:20:30Z", "2026-11-28T10:20:00Z", "2026-11-28T10:21:00Z"),
            (QuotaWindow::Hour, "2026-11-28T23:59:59Z", "2026-11-28T23:00:00Z", "2026-11-29T00:00:00Z"),
            (QuotaWindow::Day, "2026-12-31T23:59:59Z", "2026-12-31T00:00:00Z", "2027-01-01T00:00:00Z"),
            (QuotaWindow::Day, "2026-12-31T00:00:00Z", "2026-12-31T00:00:00Z", "2027-01-01T00:00:00Z"),
            (QuotaWindow::Month, "2026-12-31T23:59:59Z", "2026-12-01T00:00:00Z", "2027-01-01T00:00:00Z"),
            (QuotaWindow::Month, "2028-02-29T12:00:00Z", "2028-02-01T00:00:00Z", "2028-03-01T00:00:00Z"),
            (QuotaWindow::Month, "2026-11-01T00:00:00Z", "2026-11-01T00:00:00Z", "2026-12-01T00:00:00Z"),
        ] {
            let expected = Window { start: seconds(start), end: seconds(end) };
            assert_eq!(Window::containing(kind, seconds(now)), expected, "{kind:?} {now}");
            assert_eq!(rfc3339(expected.end), end);
        }
        assert_eq!(Window::containing(QuotaWindow::Month, u64::MAX).end, u64::MAX);
    }
}
