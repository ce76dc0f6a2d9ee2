//! Limits of a quota.

use std::fmt;

use forebay_resources::{QuotaWindow, TokenCount};

use super::money::Money;
use super::prices::Price;
use super::tokens::TokenUse;

/// What a limit of a quota counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QuotaMeasure {
    /// Requests.
    Requests,
    /// Tokens of this kind.
    Tokens(TokenCount),
    /// The price of the tokens.
    Money,
    /// Requests at the same time.
    ConcurrentRequests,
}

impl QuotaMeasure {
    /// `requests`, `tokens`, `money` or `concurrent_requests`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Requests => "requests",
            Self::Tokens(_) => "tokens",
            Self::Money => "money",
            Self::ConcurrentRequests => "concurrent_requests",
        }
    }
}

/// A limit of a quota.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QuotaLimit {
    /// What is counted.
    pub measure: QuotaMeasure,
    /// Never 0. Requests, tokens, or the units of [`Money`].
    pub amount: u128,
    /// `None` for [`QuotaMeasure::ConcurrentRequests`] only.
    pub window: Option<QuotaWindow>,
}

impl QuotaLimit {
    /// What one request with these tokens uses of the limit. 0 of [`QuotaMeasure::ConcurrentRequests`], which is not used up.
    /// `price`: of its model; without a price, nothing is counted.
    pub fn used_by(&self, tokens: TokenUse, price: Option<Price>) -> u128 {
        match self.measure {
            QuotaMeasure::Requests => 1,
            QuotaMeasure::Tokens(count) => u128::from(match count {
                TokenCount::Total => tokens.prompt.saturating_add(tokens.output),
                TokenCount::Input => tokens.prompt,
                TokenCount::Output => tokens.output,
                TokenCount::UncachedInput => tokens.prompt.saturating_sub(tokens.cached),
            }),
            QuotaMeasure::Money => price.map_or(0, |price| price.of(tokens).units()),
            QuotaMeasure::ConcurrentRequests => 0,
        }
    }

    /// `minute`, `hour`, `day` or `month`. `None` for [`QuotaMeasure::ConcurrentRequests`].
    pub fn window_name(&self) -> Option<&'static str> {
        self.window.map(|window| match window {
            QuotaWindow::Minute => "minute",
            QuotaWindow::Hour => "hour",
            QuotaWindow::Day => "day",
            QuotaWindow::Month => "month",
        })
    }

    /// An amount of what is counted, as text: `17`, or `3.50` for money.
    pub fn format(&self, amount: u128) -> String {
        match self.measure {
            QuotaMeasure::Money => Money::from_units(amount).to_string(),
            _ => amount.to_string(),
        }
    }
}

/// `1 request per minute`, `100 input tokens per day`, `25.00 per month`, `8 requests at the same time`
impl fmt::Display for QuotaLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.format(self.amount))?;
        let plural = if self.amount == 1 { "" } else { "s" };
        match self.measure {
            QuotaMeasure::Requests => write!(f, " request{plural}")?,
            QuotaMeasure::ConcurrentRequests => write!(f, " request{plural} at the same time")?,
            QuotaMeasure::Money => {}
            QuotaMeasure::Tokens(count) => {
                let kind = match count {
                    TokenCount::Total => "",
                    TokenCount::Input => " input",
                    TokenCount::Output => " output",
                    TokenCount::UncachedInput => " uncached input",
                };
                write!(f, "{kind} token{plural}")?;
            }
        }
        match self.window_name() {
            Some(window) => write!(f, " per {window}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_counted_by_kind_and_price() {
        let tokens = TokenUse { prompt: 1000, cached: 400, output: 50 };
        let price = Price::parse("0.15", Some("0.05"), "0.60").unwrap();
        let used = |measure| {
            QuotaLimit { measure, amount: 1, window: Some(QuotaWindow::Day) }.used_by(tokens, Some(price))
        };
        for (count, expected) in [
            (TokenCount::Total, 1050),
            (TokenCount::Input, 1000),
            (TokenCount::Output, 50),
            (TokenCount::UncachedInput, 600),
        ] {
            assert_eq!(used(QuotaMeasure::Tokens(count)), expected, "{count:?}");
        }
        // 600 × 0.15 + 400 × 0.05 + 50 × 0.60, per million.
        assert_eq!(used(QuotaMeasure::Money), Money::parse("0.00014").unwrap().units());
        assert_eq!((used(QuotaMeasure::Requests), used(QuotaMeasure::ConcurrentRequests)), (1, 0));
    }

    #[test]
    fn limits_are_described_with_their_window() {
        let limit = |measure, amount, window| QuotaLimit { measure, amount, window }.to_string();
        let tokens = QuotaMeasure::Tokens;
        let (day, month) = (Some(QuotaWindow::Day), Some(QuotaWindow::Month));
        assert_eq!(limit(QuotaMeasure::Requests, 1, Some(QuotaWindow::Minute)), "1 request per minute");
        assert_eq!(limit(tokens(TokenCount::Total), 9, day), "9 tokens per day");
        assert_eq!(limit(tokens(TokenCount::UncachedInput), 1, day), "1 uncached input token per day");
        assert_eq!(limit(QuotaMeasure::Money, Money::parse("25").unwrap().units(), month), "25.00 per month");
        assert_eq!(limit(QuotaMeasure::ConcurrentRequests, 8, None), "8 requests at the same time");
    }
}
