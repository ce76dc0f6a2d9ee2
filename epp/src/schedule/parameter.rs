//! Parameters of plugins in a configuration: numbers with a range.

use serde::{Deserialize as _, Deserializer, de::Error as _};

/// Bytes of a token where a plugin of the ecosystem counts tokens.
pub(super) const BYTES_PER_TOKEN: f32 = 4.0;

fn number<'de, D: Deserializer<'de>>(
    deserializer: D,
    is_valid: impl FnOnce(f32) -> bool,
    expected: &str,
) -> Result<f32, D::Error> {
    let number = f32::deserialize(deserializer)?;
    if number.is_finite() && is_valid(number) {
        Ok(number)
    } else {
        Err(D::Error::custom(format_args!("{number} is not {expected}")))
    }
}

pub(super) fn fraction<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f32, D::Error> {
    number(deserializer, |it| (0.0..=1.0).contains(&it), "a number from 0 to 1")
}

pub(super) fn not_negative<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f32, D::Error> {
    number(deserializer, |it| it >= 0.0, "a number of at least 0")
}

pub(super) fn positive<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f32, D::Error> {
    number(deserializer, |it| it > 0.0, "a number greater than 0")
}

pub(super) fn finite<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f32, D::Error> {
    number(deserializer, |_| true, "a finite number")
}

/// A text that is not empty.
pub(super) fn text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    let text = String::deserialize(deserializer)?;
    if text.trim().is_empty() { Err(D::Error::custom("must not be empty")) } else { Ok(text) }
}

/// The name of a header, in lower case.
pub(super) fn header_name<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    let name = String::deserialize(deserializer)?;
    let parsed = http::HeaderName::try_from(name.trim());
    parsed
        .map(|name| name.as_str().to_owned())
        .map_err(|_| D::Error::custom(format_args!("{name:?} is not the name of a header")))
}
