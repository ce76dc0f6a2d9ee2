//! The latency histograms of endpoints for which something was counted.

use std::{collections::BTreeMap, net::SocketAddr};

use forebay_telemetry::v1::{EndpointKey, EndpointLatencies, Histogram};

/// With the version of their last change.
#[derive(Debug, Default)]
pub(super) struct Latencies(BTreeMap<SocketAddr, (EndpointLatencies, u64)>);

impl Latencies {
    /// Returns whether they differ. Of an endpoint for which nothing was counted yet, nothing is kept.
    pub(super) fn replace(
        &mut self,
        address: SocketAddr,
        key: &Option<EndpointKey>,
        [ttft, itl, duration]: &[Histogram; 3],
        version: u64,
    ) -> bool {
        let is_same = match self.0.get(&address) {
            Some((known, _)) => {
                [&known.ttft, &known.itl, &known.duration].map(Option::as_ref)
                    == [ttft, itl, duration].map(Some)
            }
            None => [ttft, itl, duration].iter().all(|it| it.counts.is_empty()),
        };
        if !is_same {
            let [ttft, itl, duration] = [ttft, itl, duration].map(|it| Some(it.clone()));
            self.0.insert(address, (EndpointLatencies { key: key.clone(), ttft, itl, duration }, version));
        }
        !is_same
    }

    pub(super) fn retain(&mut self, is_kept: impl Fn(&SocketAddr) -> bool) {
        self.0.retain(|address, _| is_kept(address));
    }

    /// Without those that have become empty.
    pub(super) fn counted(&self) -> Vec<EndpointLatencies> {
        self.0.values().map(|(value, _)| value).filter(|value| !value.is_empty()).cloned().collect()
    }

    pub(super) fn changed_since(&self, seen: u64) -> Vec<EndpointLatencies> {
        self.0.values().filter(|(_, version)| *version > seen).map(|(value, _)| value.clone()).collect()
    }
}
