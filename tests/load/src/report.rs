//! Output of the report, and statistics.

use std::{
    fmt::Display,
    io::{self, Write as _},
    time::Duration,
};

/// A section of the report. Printed when it is complete.
#[derive(Debug)]
pub struct Section {
    pub title: String,
    pub lines: Vec<String>,
}

impl Section {
    pub fn new(title: impl Display) -> Self {
        Self { title: title.to_string(), lines: Vec::new() }
    }

    pub fn line(&mut self, line: impl Display) {
        self.lines.push(line.to_string());
    }
}

pub fn print(section: &Section) {
    let mut out = io::stdout().lock();
    let _ = writeln!(out, "\n{}", section.title);
    for line in &section.lines {
        let _ = writeln!(out, "  {line}");
    }
}

/// Prints a line of progress to standard error.
pub fn say(line: &str) {
    let _ = writeln!(io::stderr().lock(), "bench: {line}");
}

/// The median. For an even count, the upper of the two middle values.
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// The quantile `at` (0 to 1) of sorted values.
pub fn quantile(sorted: &[Duration], at: f64) -> Duration {
    let last = sorted.len().saturating_sub(1);
    sorted.get((last as f64 * at).round() as usize).copied().unwrap_or_default()
}

pub fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

pub fn kib(bytes: u64) -> f64 {
    bytes as f64 / 1024.0
}

pub fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}
