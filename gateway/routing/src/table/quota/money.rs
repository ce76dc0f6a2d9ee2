//! Amounts of money, without floating point numbers.

use std::fmt;

/// Units of a [`Money`] in one unit of its currency.
const UNITS: u128 = 1_000_000_000_000;
/// Of the written form.
const MAX_INTEGER_DIGITS: usize = 9;
const MAX_DECIMALS: usize = 6;

/// An amount of money in 10⁻¹² of a currency's unit: a price per million tokens with 6 decimals is a whole number of these
/// per token.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Money(u128);

impl Money {
    /// Parses `25`, `25.00` or `0.000001`: at most 9 digits before the point and 6 after it.
    ///
    /// # Errors
    /// What is expected.
    pub fn parse(text: &str) -> Result<Self, String> {
        let invalid = || {
            format!(
                "{text:?} is not an amount such as \"25.00\", with at most {MAX_INTEGER_DIGITS} digits and {MAX_DECIMALS} decimals"
            )
        };
        let (whole, decimals) = match text.split_once('.') {
            None => (text, "0"),
            Some((whole, decimals)) => (whole, decimals),
        };
        let is_number =
            |part: &str, max| (1..=max).contains(&part.len()) && part.bytes().all(|it| it.is_ascii_digit());
        if !is_number(whole, MAX_INTEGER_DIGITS) || !is_number(decimals, MAX_DECIMALS) {
            return Err(invalid());
        }
        let whole: u128 = whole.parse().map_err(|_| invalid())?;
        let millionths: u128 = format!("{decimals:0<MAX_DECIMALS$}").parse().map_err(|_| invalid())?;
        Ok(Self(whole * UNITS + millionths * (UNITS / 1_000_000)))
    }

    /// From 10⁻¹² of the currency's unit.
    pub fn from_units(units: u128) -> Self {
        Self(units)
    }

    /// In 10⁻¹² of the currency's unit.
    pub fn units(self) -> u128 {
        self.0
    }
}

/// `25.00`, `0.000125`: 2 to 6 decimals, rounded down.
impl fmt::Display for Money {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let decimals = format!("{:06}", self.0 % UNITS / (UNITS / 1_000_000));
        let shown = decimals.trim_end_matches('0');
        write!(f, "{}.{shown:0<2}", self.0 / UNITS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_exact() {
        for (text, units, shown) in [
            ("25.00", 25 * UNITS, "25.00"),
            ("0", 0, "0.00"),
            ("0.1", UNITS / 10, "0.10"),
            ("0.000001", 1_000_000, "0.000001"),
            ("999999999.999999", 999_999_999_999_999 * 1_000_000, "999999999.999999"),
        ] {
            let money = Money::parse(text).unwrap();
            assert_eq!((money.units(), money.to_string().as_str()), (units, shown), "{text}");
        }
        assert_eq!(Money::from_units(UNITS - 1).to_string(), "0.999999");
    }

    #[test]
    fn other_texts_are_refused() {
        for text in [
            "",
            ".",
            "1.",
            ".5",
            "-1",
            "+1",
            "1e3",
            "1,5",
            "0.0000001",
            "1000000000",
            "1.2.3",
            " 1",
            "NaN",
            "１",
        ] {
            assert!(Money::parse(text).unwrap_err().contains("is not an amount"), "{text}");
        }
    }
}
