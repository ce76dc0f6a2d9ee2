//! Which endpoints may be picked.

use forebay_resources::ObjectKey;

use super::{PickRequest, Subset};
use crate::{
    Error,
    endpoints::{ServedModels, Snapshot},
};

/// Why an endpoint is not picked while there is a better one. The last reasons are the strongest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Exclusion {
    Failing,
    Stalled,
    LostGpu,
    OtherModel,
    OutsideSubset,
}

impl Exclusion {
    pub(super) fn reason(self) -> &'static str {
        match self {
            Self::Failing => "failed requests",
            Self::Stalled => "stalled engine",
            Self::LostGpu => "lost GPU",
            Self::OtherModel => "model not listed by the engine",
            Self::OutsideSubset => "subset hint of the gateway",
        }
    }
}

/// What decides about the endpoints of a pool for one request.
pub(super) struct Eligibility<'a> {
    pool: &'a ObjectKey,
    snapshot: &'a Snapshot,
    request: &'a PickRequest<'a>,
    /// By endpoint: whether it lists the model. `None`: all may have it.
    may_serve: Option<&'a [bool]>,
    now: f64,
}

impl<'a> Eligibility<'a> {
    /// Fails if the pool does not exist, or has no endpoints.
    pub(super) fn new(
        pool: &'a ObjectKey,
        snapshot: &'a Snapshot,
        models: &'a ServedModels,
        request: &'a PickRequest<'a>,
        now: f64,
    ) -> Result<Self, Error> {
        if !snapshot.pool_exists() {
            return Err(Error::NoPool(pool.clone()));
        }
        if snapshot.len() == 0 {
            return Err(Error::NoReadyEndpoint(pool.clone()));
        }
        let mut it = Self { pool, snapshot, request, may_serve: None, now };
        // If no endpoint lists the model, any engine can say that it does not exist.
        let is_listed = |model: &&str| {
            (0..snapshot.len()).any(|index| models.lists(index, model) && it.is_in_subset(index))
        };
        it.may_serve = request.model.filter(is_listed).and_then(|model| models.of(model));
        Ok(it)
    }

    fn is_in_subset(&self, index: usize) -> bool {
        let allows = |subset: &Subset| self.snapshot.address(index).is_some_and(|it| subset.contains(it));
        self.request.subset.is_none_or(allows)
    }

    /// The strongest reason against the endpoint. `None`: it is eligible.
    pub(super) fn exclusion(&self, index: usize) -> Option<Exclusion> {
        let cell = self.snapshot.cell(index);
        if !self.is_in_subset(index) {
            Some(Exclusion::OutsideSubset)
        } else if self.may_serve.is_some_and(|may_serve| may_serve.get(index) != Some(&true)) {
            Some(Exclusion::OtherModel)
        } else if self.now <= cell.lost_until() {
            Some(Exclusion::LostGpu)
        } else if self.now <= cell.stalled_until() {
            Some(Exclusion::Stalled)
        } else if self.now < cell.failing_until() {
            Some(Exclusion::Failing)
        } else {
            None
        }
    }

    /// The eligible endpoints. If there are none, those whose requests fail; if all are stalled, these too.
    pub(super) fn collect(&self, candidates: &mut Vec<u32>) -> Result<(), Error> {
        for tolerated in [None, Some(Exclusion::Failing), Some(Exclusion::Stalled)] {
            if self.collect_up_to(tolerated, candidates) {
                return Ok(());
            }
        }
        Err(if self.collect_up_to(Some(Exclusion::LostGpu), candidates) {
            Error::GpusLost(self.pool.clone())
        } else {
            Error::OutsideSubset(self.pool.clone())
        })
    }

    /// Collects the endpoints against which nothing stronger is known. Returns whether there are any.
    fn collect_up_to(&self, tolerated: Option<Exclusion>, candidates: &mut Vec<u32>) -> bool {
        candidates.clear();
        let indexes = (0..self.snapshot.len()).filter(|index| self.exclusion(*index) <= tolerated);
        candidates.extend(indexes.map(|index| index as u32));
        !candidates.is_empty()
    }
}
