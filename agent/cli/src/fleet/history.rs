//! The last minute of each pod, for sparklines and rates.

use std::{
    collections::{HashMap, VecDeque},
    time::Duration,
};

use forebay_telemetry::v1::{Endpoint, EngineLoad};

use super::key::RowKey;
use crate::view::View;

/// Time between two samples.
pub(crate) const INTERVAL: Duration = Duration::from_secs(1);
/// Samples kept per pod.
pub(crate) const SAMPLES: usize = 60;
/// Maximum pods with a history. Further ones have no sparklines and no rates.
const MAX_PODS: usize = 4096;
/// Samples over which tokens per second are counted.
const RATE_SAMPLES: usize = 10;

/// The samples of all pods.
#[derive(Debug, Default)]
pub(crate) struct History {
    pods: HashMap<RowKey, Track>,
}

/// The samples of one pod.
#[derive(Debug, Default)]
struct Track {
    samples: VecDeque<Sample>,
}

#[derive(Clone, Copy, Debug)]
struct Sample {
    in_flight: Option<u64>,
    ttft_p99_ns: Option<u64>,
    engine: Option<Counters>,
}

/// Counters of an engine at one time.
#[derive(Clone, Copy, Debug)]
struct Counters {
    measured_ns: u64,
    generation_tokens: u64,
    prefix_queries: u64,
    prefix_hits: u64,
}

impl From<&EngineLoad> for Counters {
    fn from(load: &EngineLoad) -> Self {
        Self {
            measured_ns: load.measured_boottime_ns,
            generation_tokens: load.generation_tokens,
            prefix_queries: load.prefix_cache_queries,
            prefix_hits: load.prefix_cache_hits,
        }
    }
}

impl History {
    /// Adds a sample of every pod. Pods that are gone are forgotten. A lost agent has no samples, not old ones.
    pub(crate) fn sample(&mut self, view: &View) {
        let mut seen = HashMap::new();
        for (at, agent) in view.agents.iter().enumerate() {
            for endpoint in agent.replica.endpoints() {
                let Some(key) = &endpoint.key else { continue };
                let sample = if agent.problem().is_none() { sample(endpoint) } else { UNKNOWN };
                seen.insert(RowKey::new(at, key), sample);
            }
        }
        self.pods.retain(|key, _| seen.contains_key(key));
        for (key, sample) in seen {
            if self.pods.len() < MAX_PODS || self.pods.contains_key(&key) {
                self.pods.entry(key).or_default().push(sample);
            }
        }
    }

    /// Requests in flight, the newest last.
    pub(crate) fn in_flight(&self, key: &RowKey) -> Vec<Option<f64>> {
        self.values(key, |sample| sample.in_flight)
    }

    /// TTFT p99 in nanoseconds, the newest last.
    pub(crate) fn ttft(&self, key: &RowKey) -> Vec<Option<f64>> {
        self.values(key, |sample| sample.ttft_p99_ns)
    }

    fn values(&self, key: &RowKey, value: impl Fn(&Sample) -> Option<u64>) -> Vec<Option<f64>> {
        let samples = self.pods.get(key).into_iter().flat_map(|track| &track.samples);
        samples.map(|sample| value(sample).map(|value| value as f64)).collect()
    }

    /// Generated tokens per second over the last seconds.
    pub(crate) fn tokens_per_second(&self, key: &RowKey) -> Option<f64> {
        let (earlier, later) = self.pods.get(key)?.ends(RATE_SAMPLES)?;
        let seconds = later.measured_ns.checked_sub(earlier.measured_ns)? as f64 / 1e9;
        let tokens = later.generation_tokens.checked_sub(earlier.generation_tokens)?;
        (seconds > 0.0).then(|| tokens as f64 / seconds)
    }

    /// Share of prompt tokens found in the prefix cache over the last minute. `None` if none were looked for.
    pub(crate) fn prefix_hits(&self, key: &RowKey) -> Option<f64> {
        let (earlier, later) = self.pods.get(key)?.ends(SAMPLES)?;
        let queries = later.prefix_queries.checked_sub(earlier.prefix_queries)?;
        let hits = later.prefix_hits.checked_sub(earlier.prefix_hits)?;
        (queries != 0).then(|| hits as f64 / queries as f64)
    }
}

const UNKNOWN: Sample = Sample { in_flight: None, ttft_p99_ns: None, engine: None };

fn sample(endpoint: &Endpoint) -> Sample {
    let kernel = endpoint.kernel.as_ref();
    let ttft = kernel.and_then(|load| load.ttft).filter(|latency| latency.count != 0);
    Sample {
        in_flight: kernel.map(|load| load.in_flight),
        ttft_p99_ns: ttft.map(|latency| latency.p99_ns),
        engine: endpoint.engine.as_ref().map(Counters::from),
    }
}

impl Track {
    fn push(&mut self, sample: Sample) {
        self.samples.push_back(sample);
        if self.samples.len() > SAMPLES {
            self.samples.pop_front();
        }
    }

    /// The first and the last known counters of the newest samples. `None` if the newest are unknown.
    fn ends(&self, samples: usize) -> Option<(Counters, Counters)> {
        let newest = self.samples.back()?.engine?;
        let oldest =
            self.samples.iter().rev().take(samples).filter_map(|sample| sample.engine).next_back()?;
        Some((oldest, newest))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;
    use crate::fleet::scene::scene;

    #[test]
    fn rates_are_of_counters_that_grow() {
        let mut track = Track::default();
        let counters = |second: u64, tokens: u64| Sample {
            engine: Some(Counters {
                measured_ns: second * 1_000_000_000,
                generation_tokens: tokens,
                prefix_queries: tokens,
                prefix_hits: tokens / 4,
            }),
            ..UNKNOWN
        };
        let key = RowKey::new(0, &Default::default());
        let rates = |track: Track| {
            let history = History { pods: HashMap::from([(key.clone(), track)]) };
            (history.tokens_per_second(&key), history.prefix_hits(&key))
        };
        for second in 0..100 {
            track.push(counters(second, second * 40));
        }
        assert_eq!(track.samples.len(), SAMPLES);
        track.push(UNKNOWN);
        assert!(track.ends(SAMPLES).is_none(), "the newest is not known");
        track.push(counters(101, 101 * 40));
        assert_eq!(rates(Track { samples: track.samples.clone() }), (Some(40.0), Some(0.25)));
        track.push(counters(5, 102 * 40));
        assert_eq!(rates(track).0, None, "the node restarted, and with it the clock");
        let mut restarted = Track::default();
        restarted.push(counters(1, 100));
        restarted.push(counters(2, 50));
        assert_eq!(rates(restarted), (None, None), "the engine restarted");
    }

    #[test]
    fn pods_that_are_gone_are_forgotten() {
        let scene = scene();
        let mut history = History::default();
        history.sample(&scene.view);
        assert_eq!(history.pods.len(), 4);
        history.sample(&View::default());
        assert_eq!(history.pods.len(), 0);
    }

    #[test]
    fn the_number_of_pods_is_bounded() {
        use forebay_telemetry::{client::Received, v1::*};
        let mut view = View::new(["a".to_owned(), "b".to_owned()]);
        for agent in 0..2 {
            let endpoints = (0..MAX_PODS)
                .map(|at| Endpoint {
                    key: Some(EndpointKey { pod: at.to_string(), ..EndpointKey::default() }),
                    ..Endpoint::default()
                })
                .collect();
            let body = frame::Body::Snapshot(Snapshot { endpoints, ..Snapshot::default() });
            let frame = Frame { body: Some(body), ..Frame::default() };
            view.take(agent, &Received { frame, at: std::time::Instant::now() });
        }
        let mut history = History::default();
        history.sample(&view);
        assert_eq!(history.pods.len(), MAX_PODS);
    }
}
