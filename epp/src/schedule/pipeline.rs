//! A scheduling profile: filters, weighted scorers, and the choice among the best.

use super::{
    plugin::{Filter, Needs, Scorer},
    score::AddedWaiting,
    view::View,
};

/// Share of its score that an endpoint keeps whose engine may not work. With the default policy, others are preferred until
/// they make a request wait nine seconds longer.
const SUSPECT_SHARE: f32 = 0.1;

/// What decides a pick.
#[derive(Debug)]
pub struct Pipeline {
    filters: Vec<Named>,
    scorers: Vec<Weighted>,
    order: Order,
    max_endpoints: Option<usize>,
}

#[derive(Debug)]
struct Named {
    name: String,
    filter: Box<dyn Filter>,
}

#[derive(Debug)]
struct Weighted {
    name: String,
    scorer: Box<dyn Scorer>,
    weight: f32,
}

impl Weighted {
    /// Writes the score of each candidate, from 0 to 1.
    fn column(&self, view: &View<'_>, candidates: &[u32], scores: &mut Vec<f32>) {
        scores.clear();
        scores.resize(candidates.len(), 0.0);
        self.scorer.score(view, candidates, scores);
        for score in scores {
            *score = score.clamp(0.0, 1.0);
        }
    }
}

/// How endpoints are chosen by their scores.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Order {
    /// The highest scores (`max-score-picker`). Equal ones take turns.
    #[default]
    MaxScore,
    /// Any endpoint (`random-picker`).
    Random,
    /// Any endpoint, with a probability in proportion to its score (`weighted-random-picker`).
    WeightedRandom,
}

/// Reused memory of a decision.
#[derive(Debug, Default)]
pub(super) struct Scratch {
    pub(super) candidates: Vec<u32>,
    /// Of each candidate.
    pub(super) totals: Vec<f32>,
    scores: Vec<f32>,
}

impl Default for Pipeline {
    /// The endpoint where the request adds the least waiting.
    fn default() -> Self {
        let scorer: Box<dyn Scorer> = Box::new(AddedWaiting);
        Self::new(Vec::new(), vec![("added-waiting-scorer".to_owned(), scorer, 1.0)], Order::MaxScore)
    }
}

impl Pipeline {
    /// `filters`: name and plugin. `scorers`: name, plugin and weight.
    pub fn new(
        filters: Vec<(String, Box<dyn Filter>)>,
        scorers: Vec<(String, Box<dyn Scorer>, f32)>,
        order: Order,
    ) -> Self {
        let weighted = |(name, scorer, weight)| Weighted { name, scorer, weight };
        Self {
            filters: filters.into_iter().map(|(name, filter)| Named { name, filter }).collect(),
            scorers: scorers.into_iter().map(weighted).collect(),
            order,
            max_endpoints: None,
        }
    }

    /// Limits the endpoints of a decision (`maxNumOfEndpoints` of the picker).
    #[must_use]
    pub fn with_max_endpoints(self, max_endpoints: Option<usize>) -> Self {
        Self { max_endpoints, ..self }
    }

    /// Maximum endpoints of a decision. `None`: the limit of the scheduler.
    pub fn max_endpoints(&self) -> Option<usize> {
        self.max_endpoints
    }

    /// Tells the plugins which candidate was picked.
    pub(super) fn picked(&self, view: &View<'_>, candidate: u32) {
        for Named { filter, .. } in &self.filters {
            filter.picked(view, candidate);
        }
        for Weighted { scorer, .. } in &self.scorers {
            scorer.picked(view, candidate);
        }
    }

    /// The response headers in which clients get the token of their session.
    pub(super) fn token_headers(&self) -> impl Iterator<Item = &str> {
        let of_filters = self.filters.iter().filter_map(|named| named.filter.token_header());
        of_filters.chain(self.scorers.iter().filter_map(|weighted| weighted.scorer.token_header()))
    }

    /// What the plugins read.
    pub fn needs(&self) -> Needs {
        let filters = self.filters.iter().map(|named| named.filter.needs());
        let scorers = self.scorers.iter().map(|weighted| weighted.scorer.needs());
        Needs { prompt: filters.chain(scorers).any(|needs| needs.prompt) }
    }

    /// Removes candidates.
    pub(super) fn filter(&self, view: &View<'_>, candidates: &mut Vec<u32>) {
        for Named { filter, .. } in &self.filters {
            filter.filter(view, candidates);
        }
    }

    /// Like [`Pipeline::filter`]. Calls `removed` with each candidate that a filter removes, and the name of the filter.
    pub(super) fn filter_with_names(
        &self,
        view: &View<'_>,
        candidates: &mut Vec<u32>,
        mut removed: impl FnMut(u32, &str),
    ) {
        for Named { name, filter } in &self.filters {
            let before = candidates.clone();
            filter.filter(view, candidates);
            let kept: foldhash::HashSet<u32> = candidates.iter().copied().collect();
            for candidate in before.into_iter().filter(|candidate| !kept.contains(candidate)) {
                removed(candidate, name);
            }
        }
    }

    /// The scores of each scorer for the candidates, before weights.
    pub(super) fn score_columns(&self, view: &View<'_>, candidates: &[u32]) -> Vec<Vec<f32>> {
        let column = |weighted: &Weighted| {
            let mut scores = Vec::new();
            weighted.column(view, candidates, &mut scores);
            scores
        };
        self.scorers.iter().map(column).collect()
    }

    /// Writes the sum of the weighted scores of each candidate.
    pub(super) fn score(&self, view: &View<'_>, scratch: &mut Scratch) {
        let Scratch { candidates, totals, scores } = scratch;
        totals.clear();
        totals.resize(candidates.len(), 0.0);
        for weighted in &self.scorers {
            weighted.column(view, candidates, scores);
            for (total, score) in totals.iter_mut().zip(&*scores) {
                *total += weighted.weight * score;
            }
        }
        if self.order == Order::Random {
            totals.fill_with(fastrand::f32);
        }
        for (candidate, total) in candidates.iter().zip(&mut *totals) {
            if view.is_suspect(*candidate) {
                // Below others even if all scores are 0.
                *total -= (1.0 - SUSPECT_SHARE) * total.abs() + f32::EPSILON;
            }
        }
        match self.order {
            Order::MaxScore | Order::Random => {}
            // A-Res (Efraimidis and Spirakis, 2006).
            Order::WeightedRandom => {
                for total in totals {
                    *total = fastrand::f32().powf(1.0 / total.max(f32::MIN_POSITIVE));
                }
            }
        }
    }

    /// Whether the same numbers give the same scores again.
    pub(super) fn is_repeatable(&self) -> bool {
        self.order == Order::MaxScore
    }

    /// Names and weights of the scorers.
    pub fn scorers(&self) -> impl Iterator<Item = (&str, f32)> {
        self.scorers.iter().map(|it| (it.name.as_str(), it.weight))
    }
}
