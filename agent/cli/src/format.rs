//! Texts of values, the same in every view. Unknown values are `-`, never 0.

use std::time::Duration;

use forebay_telemetry::{signals::Value, v1::Latency};

pub(crate) fn or_dash(value: Option<impl ToString>) -> String {
    value.map_or_else(|| "-".into(), |value| value.to_string())
}

pub(crate) fn number(value: Value) -> String {
    match value {
        Value::Integer(value) => value.to_string(),
        Value::Ratio(ratio) => percent(ratio),
        Value::Nanoseconds(nanoseconds) => short(Duration::from_nanos(nanoseconds)),
        Value::Flag(flag) => if flag { "yes" } else { "no" }.to_owned(),
    }
}

pub(crate) fn percent(ratio: f64) -> String {
    format!("{:.0}%", ratio * 100.0)
}

/// A value of a distribution, in nanoseconds.
pub(crate) fn latency(latency: Option<Latency>, value_ns: impl Fn(&Latency) -> u64) -> String {
    let latency = latency.filter(|latency| latency.count != 0);
    or_dash(latency.map(|latency| short(Duration::from_nanos(value_ns(&latency)))))
}

/// Formats with at most three digits.
pub(crate) fn short(duration: Duration) -> String {
    let seconds = duration.as_secs_f64();
    if seconds < 1e-3 {
        format!("{:.0}us", seconds * 1e6)
    } else if seconds < 1.0 {
        format!("{:.0}ms", seconds * 1e3)
    } else if seconds < 100.0 {
        format!("{seconds:.1}s")
    } else if seconds < 6000.0 {
        format!("{:.0}m", seconds / 60.0)
    } else {
        format!("{:.0}h", seconds / 3600.0)
    }
}

/// An age in four characters. Ages below a second are not distinguished.
pub(crate) fn age(duration: Duration) -> String {
    match duration.as_secs() {
        0 => "<1s".into(),
        seconds @ 1..100 => format!("{seconds}s"),
        _ => short(duration),
    }
}

/// `1 pod`, `2 pods`.
pub(crate) fn plural(count: usize, name: &str) -> String {
    format!("{count} {name}{}", if count == 1 { "" } else { "s" })
}

/// Formats with four characters or fewer up to a million.
pub(crate) fn count(value: f64) -> String {
    match value {
        value if value < 9_999.5 => format!("{value:.0}"),
        value if value < 999_500.0 => format!("{:.0}k", value / 1e3),
        value => format!("{:.0}M", value / 1e6),
    }
}

pub(crate) fn gib(bytes: u64) -> String {
    const GIB: f64 = (1_u64 << 30) as f64;
    format!("{:.1}", bytes as f64 / GIB)
}

/// Keeps the end of a name that is too long: names of pods differ there.
pub(crate) fn fit_end(text: &str, width: usize) -> String {
    let length = text.chars().count();
    if length <= width {
        return text.to_owned();
    }
    let tail: String = text.chars().skip(length + 1 - width.max(1)).collect();
    format!("…{tail}")
}

/// Keeps the start of a sentence that is too long.
pub(crate) fn fit_start(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    let head: String = text.chars().take(width.saturating_sub(1)).collect();
    format!("{head}…")
}

/// A bar of as many eighths of a line. Nothing is blank.
pub(crate) fn bar(eighths: usize) -> char {
    [' ', '▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'][eighths.min(8)]
}

/// One character for each value, the newest at the right. Unknown is blank.
pub(crate) fn sparkline(values: &[Option<f64>], width: usize) -> String {
    let shown = &values[values.len().saturating_sub(width)..];
    let maximum = shown.iter().flatten().copied().fold(0.0, f64::max);
    let of = |value: &Option<f64>| match value {
        None => ' ',
        Some(value) if maximum > 0.0 => bar((value / maximum * 7.0).round() as usize + 1),
        Some(_) => bar(1),
    };
    let bars: String = shown.iter().map(of).collect();
    format!("{bars:>width$}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shortens_durations() {
        let table = [
            (1_500, "2us"),
            (12_345_678, "12ms"),
            (2_500_000_000, "2.5s"),
            (600_000_000_000, "10m"),
            (36_000_000_000_000, "10h"),
        ];
        for (nanoseconds, text) in table {
            assert_eq!(short(Duration::from_nanos(nanoseconds)), text);
        }
        assert_eq!(age(Duration::from_millis(999)), "<1s");
    }

    #[test]
    fn long_texts_keep_the_part_that_matters() {
        assert_eq!(fit_end("vllm-7d9f8-abcde", 8), "…8-abcde");
        assert_eq!(fit_start("no frame for 3s", 8), "no fram…");
        assert_eq!((fit_end("a", 1), fit_start("a", 1)), ("a".into(), "a".into()));
        assert_eq!((fit_end("ab", 1), fit_start("ab", 1)), ("…".into(), "…".into()));
    }

    #[test]
    fn sparklines_tell_zero_from_unknown() {
        assert_eq!(sparkline(&[Some(0.0), None, Some(5.0), Some(10.0)], 5), " ▁ ▅█");
        assert_eq!(sparkline(&[Some(9.0), Some(0.0), Some(0.0)], 2), "▁▁", "only what is shown is scaled");
    }

    #[test]
    fn counts_are_short() {
        for (value, text) in [(0.4, "0"), (9_999.0, "9999"), (12_345.0, "12k"), (2e6, "2M")] {
            assert_eq!(count(value), text);
        }
    }
}
