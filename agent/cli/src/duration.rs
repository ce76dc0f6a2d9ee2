//! Durations on the command line.

use time::Duration;

/// A whole number with s, m, h, d or w.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    const INVALID: &str = "must be a whole number with s, m, h, d or w, such as 24h";
    let unit = text.chars().next_back().ok_or(INVALID)?;
    let seconds = match unit {
        's' => 1,
        'm' => 60,
        'h' => 3_600,
        'd' => 86_400,
        'w' => 604_800,
        _ => return Err(INVALID.into()),
    };
    let number: u32 = text[..text.len() - 1].parse().map_err(|_| INVALID)?;
    if number == 0 {
        return Err("must be more than 0".into());
    }
    Ok(Duration::seconds(i64::from(number) * seconds))
}
