//! One match of one rule, for one hostname.

use std::sync::Arc;

use super::hostname::Hostname;
use super::matching::Match;
use super::rule::Rule;

/// What the index finds. Entries are sorted by precedence.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) hostname: Hostname,
    pub(crate) matching: Match,
    pub(crate) rule: Arc<Rule>,
}

impl Entry {
    pub(super) fn matched(&self) -> Matched<'_> {
        Matched {
            rule: &self.rule,
            prefix_bytes: self.matching.prefix_bytes(),
            is_by_model: self.matching.depends_on_model(),
        }
    }
}

/// The rule for a request.
#[derive(Clone, Copy, Debug)]
pub struct Matched<'a> {
    /// Filters, backends and limits.
    pub rule: &'a Rule,
    /// Length of the path prefix that matched, without a slash at its end.
    pub prefix_bytes: usize,
    /// The match looks at the model's headers.
    pub is_by_model: bool,
}

/// The route of a request as far as it is known before its body is read.
#[derive(Clone, Copy, Debug)]
pub enum BeforeBody<'a> {
    /// The rule depends on the model.
    DependsOnModel {
        /// A rule exists for requests that name no model.
        without: bool,
    },
    /// The rule is the same for every model.
    Decided(Matched<'a>),
    /// No rule matches, whatever the model.
    NoRoute,
}
