//! The policies that are compared, as pipelines of the picker's plugins.

use std::sync::Arc;

use forebay_epp::schedule::{
    Filter, Order, Pipeline, Scorer,
    filter::PrefixCacheAffinity,
    score::{ActiveRequests, BlockLoad, KvCacheUtilization, LMetric, PrefixCache, Queue, TokenLoad},
};
use forebay_routing_sim::EngineSpec;

/// A name and what decides.
pub(crate) struct Policy {
    pub(crate) name: &'static str,
    pub(crate) pipeline: Arc<Pipeline>,
}

/// The policy that is compared with the others.
pub(crate) const FOREBAY: &str = "forebay";

fn policy(name: &'static str, filters: Vec<Box<dyn Filter>>, scorers: Vec<(Box<dyn Scorer>, f32)>) -> Policy {
    let filters = filters.into_iter().map(|filter| (name.to_owned(), filter)).collect();
    let scorers = scorers.into_iter().map(|(scorer, weight)| (name.to_owned(), scorer, weight)).collect();
    Policy { name, pipeline: Arc::new(Pipeline::new(filters, scorers, Order::MaxScore)) }
}

/// All policies. Those that need a calibration get the one of `engine`.
pub(crate) fn all(engine: &EngineSpec) -> Vec<Policy> {
    // The recipe of llm-d: one prefill chunk, timed on an idle pod.
    let chunk = engine.max_num_batched_tokens;
    let peak_prefill_throughput = f64::from(chunk) / (engine.step_ns(chunk, 0, 0) / 1e9);
    let affinity = PrefixCacheAffinity {
        peak_prefill_throughput: peak_prefill_throughput as f32,
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
        policy("llm-d sticky", vec![Box::new(affinity)], vec![(Box::new(TokenLoad::default()), 1.0)]),
        policy("LMetric", vec![], vec![(Box::new(LMetric), 1.0)]),
        policy("Dynamo", vec![], vec![(Box::new(BlockLoad::default()), 1.0)]),
        policy("Dynamo agentic", vec![], vec![(Box::new(agentic), 1.0)]),
    ]
}
