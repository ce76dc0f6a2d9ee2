//! `block-load-scorer`: the cost function of NVIDIA Dynamo's router.

use serde::Deserialize;

use super::{
    super::{
        parameter::{self, BYTES_PER_TOKEN},
        plugin::{Needs, Scorer},
        view::View,
    },
    lowest_is_best,
};

/// Tokens of a block in the cost function.
const BLOCK_TOKENS: f32 = 16.0;

/// Prefers a low cost in blocks:
/// `prefillScale * max(active + new prefill blocks - credit * matched blocks, 0) + active + new decode blocks`, and
/// `perRequestBlocks` for each request in flight. The defaults are Dynamo's; `--agentic` there is `credit: 2`,
/// `prefillScale: 4`, `perRequestBlocks: 64`.
#[derive(Debug, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct BlockLoad {
    /// Credit of a matched block. Default 1.
    #[serde(deserialize_with = "parameter::not_negative")]
    pub credit: f32,
    /// Weight of prefill. Default 1.
    #[serde(deserialize_with = "parameter::not_negative")]
    pub prefill_scale: f32,
    /// Blocks that a request in flight counts in addition. Default 0.
    #[serde(deserialize_with = "parameter::not_negative")]
    pub per_request_blocks: f32,
}

impl Default for BlockLoad {
    fn default() -> Self {
        Self { credit: 1.0, prefill_scale: 1.0, per_request_blocks: 0.0 }
    }
}

impl Scorer for BlockLoad {
    fn needs(&self) -> Needs {
        Needs { prompt: true }
    }

    fn score(&self, view: &View<'_>, candidates: &[u32], scores: &mut [f32]) {
        let block_bytes = BLOCK_TOKENS * BYTES_PER_TOKEN;
        let prompt = view.prompt_bytes() as f32 / block_bytes;
        lowest_is_best(candidates, scores, |it| {
            let matched = view.matched_bytes(it) as f32 / block_bytes;
            let waiting = view.own_backlog_bytes(it) / block_bytes;
            let prefill = (waiting + prompt - self.credit * matched).max(0.0);
            let decode = view.own_prompt_bytes(it) / block_bytes + prompt;
            let requests = self.per_request_blocks * view.own_in_flight(it);
            self.prefill_scale * prefill + decode + requests
        });
    }
}
