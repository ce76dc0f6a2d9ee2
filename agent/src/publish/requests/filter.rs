//! Which requests a reader gets.

use forebay_telemetry::v1::{RequestFilter, StatusRange};

use super::Ended;

/// Maximum ranges of statuses in a filter.
const MAX_STATUS_RANGES: usize = 64;

/// A filter that was checked.
#[derive(Clone, Debug, Default)]
pub(in crate::publish) struct Filter(RequestFilter);

/// Why a filter is not usable.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(in crate::publish) enum InvalidFilter {
    #[error("filter.statuses has {0} ranges; the maximum is {MAX_STATUS_RANGES}")]
    TooManyRanges(usize),
    #[error("filter.statuses: the first status {0} is greater than the last {1}")]
    Reversed(u32, u32),
}

impl TryFrom<RequestFilter> for Filter {
    type Error = InvalidFilter;

    fn try_from(filter: RequestFilter) -> Result<Self, InvalidFilter> {
        if filter.statuses.len() > MAX_STATUS_RANGES {
            return Err(InvalidFilter::TooManyRanges(filter.statuses.len()));
        }
        match filter.statuses.iter().find(|range| range.first > range.last) {
            Some(StatusRange { first, last }) => Err(InvalidFilter::Reversed(*first, *last)),
            None => Ok(Self(filter)),
        }
    }
}

impl Filter {
    pub(super) fn matches(&self, ended: &Ended) -> bool {
        let RequestFilter { namespace, pod, slower_than_ns, .. } = &self.0;
        let is = |wanted: &String, name: &String| wanted.is_empty() || wanted == name;
        is(namespace, &ended.key.namespace)
            && is(pod, &ended.key.pod)
            && (*slower_than_ns == 0 || ended.duration_ns.is_some_and(|duration| duration > *slower_than_ns))
            && self.has_outcome(ended)
    }

    fn has_outcome(&self, ended: &Ended) -> bool {
        let RequestFilter { statuses, aborted, .. } = &self.0;
        if statuses.is_empty() && !aborted {
            return true;
        }
        if ended.aborted {
            return *aborted;
        }
        let Some(status) = ended.status.map(u32::from) else { return false };
        statuses.iter().any(|range| (range.first..=range.last).contains(&status))
    }
}
