//! The policies that are compared, as pipelines of the picker's plugins.

use std::sync::Arc;

use forebay_epp::{
    config::Policy as Named,
    schedule::{
        Filter, Order, Pipeline, Scorer,
        filter::PrefixCacheAffinity,
        score::{ActiveRequests, BlockLoad, KvCacheUtilization, LMetric, PrefixCache, Queue, TokenLoad},
    },
};
use forebay_routing_sim::EngineSpec;

/// A name and what decides.
pub struct Policy {
    pub name: &'static str,
    pub pipeline: Arc<Pipeline>,
}

impl Policy {
    /// The configuration with which a picker process has this policy, on engines with `speed` times the speed of `engine`.
    /// `None`: it has no name among the picker's policies.
    pub fn document(&self, engine: &EngineSpec, speed: f64) -> Option<String> {
        let named = match self.name {
            FOREBAY => Named::Forebay,
            "round robin" => Named::RoundRobin,
            "random" => Named::Random,
            "least request" => Named::LeastRequest,
            "llm-d blend" => Named::LlmDDefault,
            STICKY => Named::LlmDSticky,
            "LMetric" => Named::LMetric,
            "Dynamo" => Named::Dynamo,
            "Dynamo agentic" => Named::DynamoAgentic,
            _ => return None,
        };
        let document = named.document();
        if self.name != STICKY {
            return Some(document.to_owned());
        }
        let default = PrefixCacheAffinity::default();
        let throughput = calibrated(engine) * speed;
        let penalty_ms = f64::from(default.max_ttft_penalty_ms) / speed;
        let line = |name: &str, value: f64| format!("{name}: {value:.0}");
        let lines = document.lines().map(|document| match document.split_once(':').map(|it| it.0.trim()) {
            Some("peakPrefillThroughput") => format!("      {}", line("peakPrefillThroughput", throughput)),
            Some("maxTTFTPenaltyMs") => format!("      {}", line("maxTTFTPenaltyMs", penalty_ms)),
            _ => document.to_owned(),
        });
        Some(lines.collect::<Vec<_>>().join("\n"))
    }
}

const STICKY: &str = "llm-d sticky";

/// Tokens per second by the recipe of llm-d: one prefill chunk, timed on an idle pod.
fn calibrated(engine: &EngineSpec) -> f64 {
    let chunk = engine.max_num_batched_tokens;
    f64::from(chunk) / (engine.step_ns(chunk, 0, 0) / 1e9)
}

/// The policy that is compared with the others.
pub const FOREBAY: &str = "forebay";

fn policy(name: &'static str, filters: Vec<Box<dyn Filter>>, scorers: Vec<(Box<dyn Scorer>, f32)>) -> Policy {
    let filters = filters.into_iter().map(|filter| (name.to_owned(), filter)).collect();
    let scorers = scorers.into_iter().map(|(scorer, weight)| (name.to_owned(), scorer, weight)).collect();
    Policy { name, pipeline: Arc::new(Pipeline::new(filters, scorers, Order::MaxScore)) }
}

/// All policies. Those that need a calibration get the one of `engine`.
pub fn all(engine: &EngineSpec) -> Vec<Policy> {
    let affinity = PrefixCacheAffinity {
        peak_prefill_throughput: calibrated(engine) as f32,
        ..PrefixCacheAffinity::default()
    };
    let agentic = BlockLoad { credit: 2.0, prefill_scale: 4.0, per_request_blocks: 64.0 };
    let of_all_clients = ActiveRequests { of_all_clients: true, ..ActiveRequests::default() };
    vec![
        Policy { name: FOREBAY, pipeline: Arc::default() },
        policy("round robin", vec![], vec![]),
        Policy { name: "random", pipeline: Arc::new(Pipeline::new(vec![], vec![], Order::Random)) },
        policy("least request", vec![], vec![(Box::new(ActiveRequests::default()), 1.0)]),
        policy("least request (kernel)", vec![], vec![(Box::new(of_all_clients), 1.0)]),
        policy(
            "llm-d blend",
            vec![],
            vec![
                (Box::new(Queue), 2.0),
                (Box::new(KvCacheUtilization), 2.0),
                (Box::new(PrefixCache::default()), 3.0),
            ],
        ),
        policy(STICKY, vec![Box::new(affinity)], vec![(Box::new(TokenLoad::default()), 1.0)]),
        policy("LMetric", vec![], vec![(Box::new(LMetric), 1.0)]),
        policy("Dynamo", vec![], vec![(Box::new(BlockLoad::default()), 1.0)]),
        policy("Dynamo agentic", vec![], vec![(Box::new(agentic), 1.0)]),
    ]
}

#[cfg(test)]
mod tests {
    use forebay_epp::config::{Config, Options};

    use super::*;

    #[test]
    fn documents_are_configurations_with_the_speed_of_the_engines() {
        let engine = EngineSpec::qwen3_32b_2xh100();
        let mut documents = 0;
        for policy in all(&engine) {
            let Some(document) = policy.document(&engine, 8.0) else { continue };
            documents += 1;
            Config::parse(&document, Options::default())
                .unwrap_or_else(|error| panic!("{}: {error}", policy.name));
            if policy.name == STICKY {
                assert!(document.contains("peakPrefillThroughput: 127424\n"), "{document}");
                assert!(document.contains("maxTTFTPenaltyMs: 2250\n"), "{document}");
            }
        }
        assert_eq!(documents, 9, "all policies but the one without a name");
    }
}
