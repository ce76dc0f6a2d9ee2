//! Endpoints with given numbers, for tests of plugins.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use forebay_resources::{ObjectKey, PoolEndpoint};
use forebay_telemetry::v1;
use http::HeaderMap;

use super::{Filter, Prompt, Scorer, view::View};
use crate::{
    endpoints::{Adapters, Endpoints, Numbers, ServedModels, Snapshot},
    signals::Lookup,
};

/// The numbers of one endpoint that plugins read. The others are those of an idle endpoint.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Load {
    pub(super) own_in_flight: f32,
    pub(super) own_prompt_bytes: f32,
    pub(super) own_backlog_bytes: f32,
    pub(super) running: Option<f32>,
    pub(super) queued: Option<f32>,
    pub(super) kv_usage: Option<f32>,
    /// Requests of others.
    pub(super) foreign_in_flight: f32,
    /// Leading blocks of the prompt in its cache.
    pub(super) matched_blocks: u64,
    pub(super) labels: &'static [(&'static str, &'static str)],
}

/// The endpoints `models/vllm-0`, `models/vllm-1`, … at `10.0.0.1:8000`, `10.0.0.1:8001`, …, and a request.
pub(super) struct Fixture {
    snapshot: Arc<Snapshot>,
    lookup: Lookup,
    prompt: Prompt,
    headers: HeaderMap,
    model: Option<&'static str>,
    models: Arc<ServedModels>,
    now: f64,
}

impl Fixture {
    /// `blocks`: length of the prompt in blocks of 256 bytes, or 64 tokens.
    pub(super) fn new(blocks: u64, loads: &[Load]) -> Self {
        let endpoints = Endpoints::new(Duration::from_secs(1));
        let member = |(index, load): (usize, &Load)| PoolEndpoint {
            pod: ObjectKey::new("models", format!("vllm-{index}")),
            uid: String::new(),
            address: address(index),
            node_name: None,
            labels: load
                .labels
                .iter()
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
                .collect(),
        };
        endpoints.set_members(Some(loads.iter().enumerate().map(member).collect()));
        let snapshot = Arc::clone(&endpoints.snapshot());
        let keys: Vec<u64> = (1..=blocks).collect();
        for (index, load) in loads.iter().enumerate() {
            snapshot.cell(index).store(&numbers(load));
            let matched = &keys[..load.matched_blocks as usize];
            if !matched.is_empty() {
                endpoints.prefixes().insert(snapshot.slot(index), matched);
            }
        }
        let mut lookup = Lookup::default();
        endpoints.prefixes().look_up(&keys, &mut lookup);
        let bytes = blocks * Prompt::BLOCK_BYTES;
        let prompt = Prompt { blocks: keys, bytes, body_bytes: bytes, is_streamed: true };
        let models = Arc::default();
        Self { snapshot, lookup, prompt, headers: HeaderMap::new(), model: None, models, now: 0.0 }
    }

    pub(super) fn with_header(mut self, name: &'static str, value: &str) -> Self {
        self.headers.insert(name, value.parse().unwrap());
        self
    }

    /// The request is for this adapter. `reports`: what each engine says of its adapters.
    pub(super) fn with_adapter(mut self, name: &'static str, reports: &[Option<v1::Adapters>]) -> Self {
        let model =
            v1::Model { id: name.to_owned(), parent: Some("base".to_owned()), ..v1::Model::default() };
        self.models = Arc::new(ServedModels::listing(vec![model]));
        self.model = Some(name);
        for (index, report) in reports.iter().enumerate() {
            self.snapshot.set_adapters(index, report.as_ref().map(Adapters::of));
        }
        self
    }

    pub(super) fn at(mut self, now: f64) -> Self {
        self.now = now;
        self
    }

    pub(super) fn view(&self) -> View<'_> {
        let Self { snapshot, lookup, prompt, headers, model, models, now } = self;
        let (prompt, headers) = (Some(prompt), Some(headers as _));
        View { snapshot, prompt, headers, model: *model, models, lookup, now: *now }
    }

    fn candidates(&self) -> Vec<u32> {
        (0..self.snapshot.len() as u32).collect()
    }

    /// The scores of all endpoints, with four digits.
    pub(super) fn scores(&self, scorer: &dyn Scorer) -> Vec<f32> {
        let candidates = self.candidates();
        let mut scores = vec![0.0; candidates.len()];
        scorer.score(&self.view(), &candidates, &mut scores);
        scores.iter().map(|score| (score * 10_000.0).round() / 10_000.0).collect()
    }

    /// The endpoints that the filter leaves.
    pub(super) fn filtered(&self, filter: &dyn Filter) -> Vec<u32> {
        let mut candidates = self.candidates();
        filter.filter(&self.view(), &mut candidates);
        candidates
    }
}

fn address(index: usize) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, 1], 8000 + index as u16))
}

fn numbers(load: &Load) -> Numbers {
    let known = |number: Option<f32>| number.unwrap_or(f32::NAN);
    Numbers {
        own_in_flight: load.own_in_flight,
        own_prompt_bytes: load.own_prompt_bytes,
        own_backlog_bytes: load.own_backlog_bytes,
        foreign_in_flight: load.foreign_in_flight,
        running: known(load.running),
        queued: known(load.queued),
        kv_usage: known(load.kv_usage),
        foreign_until: f64::INFINITY,
        engine_until: f64::INFINITY,
        ..Numbers::default()
    }
}
