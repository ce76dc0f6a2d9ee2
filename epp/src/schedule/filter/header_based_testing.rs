//! `header-based-testing-filter`: the client names its endpoint, for conformance tests.

use super::super::{plugin::Filter, subset::Subset, view::View};

const HEADER: &str = "test-epp-endpoint-selection";

/// Keeps the endpoints that the header `test-epp-endpoint-selection` names: a list of `IP` and `IP:PORT`. Without the
/// header, none. For conformance tests only; needs `--allow-experimental-plugins`.
#[derive(Debug, Default)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct HeaderBasedTesting;

impl Filter for HeaderBasedTesting {
    fn filter(&self, view: &View<'_>, candidates: &mut Vec<u32>) {
        let named = Subset::parse(view.header(HEADER));
        candidates.retain(|candidate| view.address(*candidate).is_some_and(|it| named.contains(it)));
    }
}
