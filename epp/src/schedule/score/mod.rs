//! Scorers. Each is one file and one line in the [registry](crate::config).

mod added_waiting;
mod block_load;
mod endpoint_attribute;
mod header_label_affinity;
mod in_flight;
mod kv_cache;
mod lmetric;
mod lora_affinity;
mod no_hit_lru;
mod prefix_cache;
mod queue;
mod session_affinity;
mod token_load;

pub use self::{
    added_waiting::AddedWaiting,
    block_load::BlockLoad,
    endpoint_attribute::EndpointAttributeScorer,
    header_label_affinity::HeaderLabelAffinity,
    in_flight::{ActiveRequests, RunningRequests},
    kv_cache::KvCacheUtilization,
    lmetric::LMetric,
    lora_affinity::LoraAffinity,
    no_hit_lru::{NoHitLru, NoHitLruSettings},
    prefix_cache::PrefixCache,
    queue::{LoadAware, Queue},
    token_load::TokenLoad,
};

/// Scores the candidates by a value: the lowest gets 1, the highest 0. All get 1 if they are equal.
fn lowest_is_best(candidates: &[u32], scores: &mut [f32], value: impl Fn(u32) -> f32) {
    for (candidate, score) in candidates.iter().zip(&mut *scores) {
        *score = value(*candidate);
    }
    let (mut min, mut max) = (f32::INFINITY, f32::NEG_INFINITY);
    for score in scores.iter() {
        (min, max) = (min.min(*score), max.max(*score));
    }
    let range = max - min;
    for score in scores {
        *score = if range > 0.0 { (max - *score) / range } else { 1.0 };
    }
}
