//! What tokens cost.

use std::collections::BTreeMap;

use super::money::Money;
use super::tokens::TokenUse;

const PER_TOKENS: u128 = 1_000_000;

/// The prices of one token of a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Price {
    input: Money,
    cached_input: Money,
    output: Money,
}

impl Price {
    /// Prices per million tokens. `cached_input`: that of `input` if it is `None`.
    pub(crate) fn parse(input: &str, cached_input: Option<&str>, output: &str) -> Result<Self, String> {
        let per_token = |field: &str, text: &str| {
            let million = Money::parse(text).map_err(|why| format!("{field}: {why}"))?;
            // Without a remainder: prices have at most 6 decimals.
            Ok::<_, String>(Money::from_units(million.units() / PER_TOKENS))
        };
        let input_price = per_token("input", input)?;
        let cached_input = cached_input.map(|text| per_token("cachedInput", text)).transpose()?;
        Ok(Self {
            input: input_price,
            cached_input: cached_input.unwrap_or(input_price),
            output: per_token("output", output)?,
        })
    }

    /// The price of these tokens.
    pub fn of(&self, tokens: TokenUse) -> Money {
        let cached = tokens.cached.min(tokens.prompt);
        let parts =
            [(self.input, tokens.prompt - cached), (self.cached_input, cached), (self.output, tokens.output)];
        let units = parts.map(|(price, count)| price.units().saturating_mul(u128::from(count)));
        Money::from_units(units.into_iter().fold(0, u128::saturating_add))
    }
}

/// Prices by model.
#[derive(Debug, Default)]
pub struct Prices {
    by_model: BTreeMap<String, Price>,
    /// Of the other models.
    other: Option<Price>,
}

impl Prices {
    /// The name of the prices for all other models.
    const OTHER: &str = "*";

    /// False if the model has a price already.
    pub(crate) fn add(&mut self, model: String, price: Price) -> bool {
        if model == Self::OTHER {
            return self.other.replace(price).is_none();
        }
        self.by_model.insert(model, price).is_none()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.by_model.is_empty() && self.other.is_none()
    }

    /// The price of the first of these names that has one, else that of `*`. `None` without a name.
    pub(super) fn of(&self, names: &[&str]) -> Option<Price> {
        let named = names.iter().find_map(|name| self.by_model.get(*name));
        named.or(self.other.as_ref().filter(|_| !names.is_empty())).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_the_client_has_precedence() {
        let price = |input| Price::parse(input, None, "0").unwrap();
        let mut prices = Prices::default();
        assert!(prices.add("a".into(), price("1")) && prices.add("base".into(), price("2")));
        assert!(!prices.add("a".into(), price("1")));
        assert_eq!(prices.of(&["a", "base"]), Some(price("1")));
        assert_eq!(prices.of(&["b", "base"]), Some(price("2")));
        assert_eq!(prices.of(&["b"]), None);
        assert!(prices.add("*".into(), price("3")) && !prices.add("*".into(), price("3")));
        assert_eq!((prices.of(&["b"]), prices.of(&[])), (Some(price("3")), None));
    }

    #[test]
    fn cached_tokens_have_a_price_of_their_own() {
        let tokens = TokenUse { prompt: 10, cached: 4, output: 1 };
        let of = |cached| Price::parse("2", cached, "5").unwrap().of(tokens).to_string();
        assert_eq!((of(Some("1")), of(None)), ("0.000021".into(), "0.000025".into()));
        // An engine that reports more cached tokens than prompt tokens.
        let odd = TokenUse { prompt: 1, cached: 9, output: 0 };
        assert_eq!(Price::parse("2", Some("1"), "5").unwrap().of(odd).to_string(), "0.000001");
    }
}
