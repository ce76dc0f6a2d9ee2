//! Request counts of pods: from the metrics of the agent, from simulators, and from vLLM.

use std::{collections::BTreeMap, net::SocketAddr};

use anyhow::{Context as _, Result};
use forebay_sim::TruthCounters;

use super::{Harness, Pod, get, get_json};

/// Counts of POST requests of one pod.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub started: u64,
    pub finished: u64,
    pub aborted: u64,
    pub in_flight: u64,
}

impl Counts {
    /// Kernel counts by pod name, from `/metrics` of the agent. Empty without kernel measurement.
    pub fn from_agent(agent_http: SocketAddr) -> Result<BTreeMap<String, Self>> {
        let (_, text) = get(agent_http, "/metrics").context("cannot read /metrics of the agent")?;
        Ok(Self::parse(&text))
    }

    /// Exact counts of a simulator.
    pub fn from_simulator(truth: SocketAddr) -> Result<Self> {
        Ok(get_json::<TruthCounters>(truth, "/")?.into())
    }

    fn parse(text: &str) -> BTreeMap<String, Self> {
        let mut counts = BTreeMap::<String, Self>::new();
        for line in text.lines().filter(|line| line.starts_with("forebay_requests_")) {
            let Some((name, rest)) = line.split_once('{') else { continue };
            let pod = rest.split_once("pod=\"").and_then(|(_, rest)| rest.split('"').next());
            let value = rest.rsplit(' ').next().and_then(|value| value.parse::<f64>().ok());
            let (Some(pod), Some(value)) = (pod, value) else { continue };
            let counts = counts.entry(pod.to_owned()).or_default();
            match name {
                "forebay_requests_started_total" => counts.started = value as u64,
                "forebay_requests_finished_total" => counts.finished = value as u64,
                "forebay_requests_aborted_total" => counts.aborted = value as u64,
                "forebay_requests_in_flight" => counts.in_flight = value as u64,
                _ => {}
            }
        }
        counts
    }
}

impl From<TruthCounters> for Counts {
    fn from(truth: TruthCounters) -> Self {
        let TruthCounters { started, finished, aborted, in_flight, .. } = truth;
        Self { started, finished, aborted, in_flight }
    }
}

impl Harness {
    /// See [`Counts::from_agent`].
    pub fn kernel_counts(&self) -> Result<BTreeMap<String, Counts>> {
        Counts::from_agent(self.network.agent_http())
    }
}

impl Pod {
    /// Exact counts of the simulator.
    pub fn truth(&self) -> Result<Counts> {
        Counts::from_simulator(self.truth.context("this engine has no exact counters")?)
    }

    /// Counts of vLLM. Valid only when no request is in flight: `http_requests_total` counts a POST at its end,
    /// including aborts, and `request_success_total` only completed requests.
    pub fn vllm_counts(&self) -> Result<Counts> {
        let (_, text) = get(self.address, "/metrics")?;
        let sum = |name: &str, labels: &[&str]| -> u64 {
            text.lines()
                .filter(|line| line.starts_with(name) && labels.iter().all(|label| line.contains(label)))
                .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
                .sum::<f64>() as u64
        };
        let post = r#"method="POST""#;
        let started = sum("http_requests_total{", &[post]);
        let refused = sum("http_requests_total{", &[post, r#"status="4xx""#]);
        let finished = refused + sum("vllm:request_success_total{", &[]);
        Ok(Counts { started, finished, aborted: started.saturating_sub(finished), in_flight: 0 })
    }
}
