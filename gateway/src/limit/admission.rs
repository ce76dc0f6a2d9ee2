//! What a request takes from rate limits and quotas, and what it gives back.

use std::mem;
use std::sync::Arc;
use std::time::Instant;

use forebay_routing::{AppliedQuota, Measure};
use http::{HeaderMap, HeaderName, HeaderValue};
use smallvec::SmallVec;

use super::bucket::Bucket;
use super::estimate::{Estimate, Expected};
use super::exceeded::Exceeded;
use super::global::{Answer, TokenReport};
use super::quota::{QuotaRejection, QuotaState, QuotaStore, QuotaTaken};
use super::registry::PolicyState;
use super::served::Served;
use super::standing::Standing;

/// Response header with the quotas that only warn, and that the request exceeds.
const WARNING: HeaderName = HeaderName::from_static("x-forebay-quota-warning");

/// A request that has taken from all limits that apply to it. Dropping it gives everything back: the client has left before the
/// request was sent.
#[derive(Debug)]
pub(crate) struct Admission {
    taken: Vec<Taken>,
    quotas: Vec<QuotaTaken>,
    reports: Vec<(TokenReport, Estimate)>,
    standings: SmallVec<[Standing; 4]>,
    expected: Option<Expected>,
    at: Instant,
}

#[derive(Debug)]
struct Taken {
    policy: Arc<PolicyState>,
    /// Position of the limits in the policy.
    set: usize,
    estimate: Estimate,
}

/// What leaves no room for a request.
#[derive(Debug)]
pub(crate) enum Rejection {
    Limit(Box<Exceeded>),
    Quota(QuotaRejection),
}

/// Takes one request from all limits and quotas, or from none. `limits`: policies, each with the position of its limits.
/// `expected`: of a request to a model; `None` for other requests, which use no tokens. `unix_seconds`: now, for windows of
/// the calendar. `store`: where gateways share what was used of quotas; waits for it only if a limit is near.
pub(crate) async fn admit<'a>(
    limits: impl Iterator<Item = (&'a Arc<PolicyState>, usize)>,
    quotas: impl Iterator<Item = (&'a Arc<QuotaState>, AppliedQuota<'a, 'a>)>,
    expected: Option<Expected>,
    now: Instant,
    unix_seconds: u64,
    store: Option<&QuotaStore>,
) -> Result<Option<Box<Admission>>, Rejection> {
    let mut admission = Admission::new(now);
    let taken = admission.take_all(limits, quotas, expected.as_ref(), unix_seconds, store).await;
    admission.expected = expected;
    match taken {
        // What was taken before is given back.
        Err(rejection) => Err(rejection),
        Ok(()) if admission.is_empty() => Ok(None),
        Ok(()) => Ok(Some(Box::new(admission))),
    }
}

fn take(
    policy: &PolicyState,
    set: usize,
    expected: Option<&Expected>,
    now: Instant,
) -> Result<(Estimate, Vec<Standing>), Box<Exceeded>> {
    let state = &mut *policy.lock();
    let estimate = expected.map_or_else(Estimate::default, |expected| state.estimates.of(expected));
    // The policy may have changed since the request was routed.
    let buckets = state.sets.get_mut(set).map_or(&mut [][..], Vec::as_mut_slice);
    // The limit that opens last is the one to wait for.
    let checked = buckets.iter_mut().filter_map(|bucket| {
        let wait = bucket.check(amount(bucket, estimate), now).err()?;
        Some((wait, bucket.limit))
    });
    if let Some((retry_after, limit)) = checked.max_by_key(|(wait, _)| *wait) {
        let standings = buckets.iter().map(Standing::of).collect();
        return Err(Box::new(Exceeded { policy: policy.policy.clone(), limit, retry_after, standings }));
    }
    for bucket in &mut *buckets {
        bucket.take(amount(bucket, estimate));
    }
    Ok((estimate, buckets.iter().map(Standing::of).collect()))
}

fn amount(bucket: &Bucket, estimate: Estimate) -> u64 {
    match bucket.limit.measure {
        Measure::Requests => 1,
        Measure::Tokens => estimate.tokens(),
    }
}

impl Admission {
    fn new(now: Instant) -> Self {
        Self {
            taken: Vec::new(),
            quotas: Vec::new(),
            reports: Vec::new(),
            standings: SmallVec::new(),
            expected: None,
            at: now,
        }
    }

    fn is_empty(&self) -> bool {
        self.taken.is_empty() && self.quotas.is_empty()
    }

    async fn take_all<'a>(
        &mut self,
        limits: impl Iterator<Item = (&'a Arc<PolicyState>, usize)>,
        quotas: impl Iterator<Item = (&'a Arc<QuotaState>, AppliedQuota<'a, 'a>)>,
        expected: Option<&Expected>,
        unix_seconds: u64,
        store: Option<&QuotaStore>,
    ) -> Result<(), Rejection> {
        for (policy, set) in limits {
            let (estimate, standings) = take(policy, set, expected, self.at).map_err(Rejection::Limit)?;
            self.taken.push(Taken { policy: policy.clone(), set, estimate });
            self.standings.extend(standings);
        }
        for (state, applied) in quotas {
            let taken =
                state.take(&applied, expected, unix_seconds, store).await.map_err(Rejection::Quota)?;
            self.standings.extend(taken.standings());
            self.quotas.push(taken);
        }
        Ok(())
    }

    /// The servers of global limits have let the request through, too.
    pub(crate) fn add_answers(&mut self, answers: impl IntoIterator<Item = Answer>) {
        // Of the first policy. That of others differs only by the requests that they have seen.
        let estimate = self.taken.first().map_or_else(Estimate::default, |taken| taken.estimate);
        for answer in answers {
            self.standings.extend(answer.standings);
            self.reports.extend(answer.tokens.map(|tokens| (tokens, estimate)));
        }
    }

    /// The quotas that have counted the request.
    pub(crate) fn quotas(&self) -> &[QuotaTaken] {
        &self.quotas
    }

    /// Sets the headers that say what was left when the request was admitted, and which quotas warn.
    pub(crate) fn set_headers(&self, headers: &mut HeaderMap) {
        Standing::set_headers(&self.standings, headers);
        let above = self.quotas.iter().filter(|quota| quota.is_above());
        let names: Vec<String> = above.map(|quota| quota.quota().to_string()).collect();
        if !names.is_empty()
            && let Ok(value) = HeaderValue::try_from(names.join(", "))
        {
            headers.insert(WARNING, value);
        }
    }

    /// Corrects what was taken.
    pub(crate) fn settle(mut self, served: Served, now: Instant) {
        self.correct(served, now);
    }

    fn correct(&mut self, served: Served, now: Instant) {
        for Taken { policy, set, estimate } in &mem::take(&mut self.taken) {
            let state = &mut *policy.lock();
            if let (Served::Reported(usage), Some(expected)) = (served, &self.expected) {
                state.estimates.learn(expected, usage);
            }
            let tokens = served.tokens(*estimate);
            let buckets = state.sets.get_mut(*set).into_iter().flatten();
            for bucket in buckets.filter(|bucket| bucket.has_counted(self.at)) {
                let (reserved, used) = match bucket.limit.measure {
                    Measure::Requests => (1, u64::from(served != Served::NotAdmitted)),
                    Measure::Tokens => (estimate.tokens(), tokens.prompt.saturating_add(tokens.output)),
                };
                bucket.settle(reserved, used, now);
            }
        }
        for (report, estimate) in mem::take(&mut self.reports) {
            let used = served.tokens(estimate);
            report.send(used.prompt.saturating_add(used.output));
        }
        for quota in mem::take(&mut self.quotas) {
            quota.settle(served, self.expected.as_ref());
        }
    }
}

impl Drop for Admission {
    fn drop(&mut self) {
        // Nothing is left to give back after [`Admission::settle`].
        self.correct(Served::NotAdmitted, Instant::now());
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use forebay_openai::Usage;
    use forebay_resources::ObjectKey;
    use forebay_routing::{LimitSet, LimitUnit, PolicyLimits, RateLimit};
    use futures_util::FutureExt as _;

    use super::super::registry::LimitRegistry;
    use super::*;

    fn limit(measure: Measure, amount: u32) -> RateLimit {
        RateLimit { measure, amount, burst: 0, unit: LimitUnit::Hour }
    }

    fn policies(limits: &[&[RateLimit]]) -> Vec<Arc<PolicyState>> {
        LimitRegistry::default().update(&specs(limits))
    }

    fn specs(limits: &[&[RateLimit]]) -> Vec<Arc<PolicyLimits>> {
        let spec = |(index, limits): (usize, &&[RateLimit])| {
            let policy = ObjectKey::new("ns", format!("p{index}"));
            Arc::new(PolicyLimits { policy, sets: vec![LimitSet::unconditional(limits.to_vec())], index })
        };
        limits.iter().enumerate().map(spec).collect()
    }

    /// Without quotas.
    fn admit<'a>(
        limits: impl Iterator<Item = (&'a Arc<PolicyState>, usize)>,
        expected: Option<Expected>,
        now: Instant,
    ) -> Result<Option<Box<Admission>>, Box<Exceeded>> {
        let admitting = super::admit(limits, std::iter::empty(), expected, now, 0, None);
        admitting.now_or_never().unwrap().map_err(|rejection| match rejection {
            Rejection::Limit(exceeded) => exceeded,
            Rejection::Quota(rejection) => panic!("{rejection:?}"),
        })
    }

    fn all(states: &[Arc<PolicyState>]) -> impl Iterator<Item = (&Arc<PolicyState>, usize)> {
        states.iter().map(|state| (state, 0))
    }

    fn bytes(body_bytes: u64) -> Option<Expected> {
        Some(Expected { body_bytes, ..Expected::default() })
    }

    fn remaining(policy: &PolicyState) -> Vec<u64> {
        policy.lock().sets[0].iter().map(Bucket::remaining).collect()
    }

    #[test]
    fn a_request_takes_from_all_limits_or_from_none() {
        let requests = Measure::Requests;
        let states = policies(&[&[limit(requests, 5), limit(requests, 9)], &[limit(requests, 1)]]);
        let now = Instant::now();
        let first = admit(all(&states), bytes(10), now).unwrap().unwrap();
        assert_eq!(first.standings.len(), 3);
        let exceeded = admit(all(&states), bytes(10), now).unwrap_err();
        assert_eq!(exceeded.retry_after, Duration::from_secs(3600));
        assert_eq!(
            exceeded.to_string(),
            "the limit of 1 request per hour (AgentgatewayPolicy ns/p1) is reached; try again in 3600 s"
        );
        assert_eq!((remaining(&states[0]), remaining(&states[1])), (vec![4, 8], vec![0]));
        // A request counts whether it succeeds or not.
        first.settle(Served::Failed, now);
        assert_eq!(remaining(&states[0]), [4, 8]);
    }

    #[test]
    fn tokens_are_reserved_and_settled() {
        let usage = |prompt, completion| Usage {
            prompt_tokens: prompt,
            completion_tokens: completion,
            ..Usage::default()
        };
        // 400 bytes are 100 tokens, and 256 of output.
        for (served, used) in [
            (Served::NotAdmitted, 0),
            (Served::Failed, 0),
            (Served::Reported(usage(Some(7), Some(2))), 9),
            (Served::Reported(usage(Some(7), None)), 7),
            (Served::Reported(usage(None, Some(2))), 102),
            (Served::Streamed { events: 3 }, 103),
            (Served::Unknown, 356),
        ] {
            let states = policies(&[&[limit(Measure::Tokens, 1000)]]);
            let now = Instant::now();
            let admission = admit(all(&states), bytes(400), now).unwrap().unwrap();
            assert_eq!(remaining(&states[0]), [644]);
            admission.settle(served, now);
            assert_eq!(remaining(&states[0]), [1000 - used], "{served:?}");
        }
    }

    #[test]
    fn a_request_that_is_never_sent_gives_everything_back() {
        let states = policies(&[&[limit(Measure::Tokens, 1000)], &[limit(Measure::Requests, 2)]]);
        let admission = admit(all(&states), bytes(400), Instant::now()).unwrap();
        assert_eq!((remaining(&states[0]), remaining(&states[1])), (vec![644], vec![1]));
        drop(admission);
        assert_eq!((remaining(&states[0]), remaining(&states[1])), (vec![1000], vec![2]));
    }

    #[test]
    fn requests_in_flight_bound_the_overrun() {
        let states = policies(&[&[limit(Measure::Tokens, 1000)]]);
        let now = Instant::now();
        let admitted: Vec<_> = (0..64).filter_map(|_| admit(all(&states), bytes(400), now).ok()).collect();
        assert_eq!(admitted.len(), 2, "each reserves 356");
        let usage = Usage { prompt_tokens: Some(500), completion_tokens: Some(500), ..Usage::default() };
        for admission in admitted {
            admission.unwrap().settle(Served::Reported(usage), now);
        }
        let exceeded = admit(all(&states), bytes(400), now).unwrap_err();
        assert!(exceeded.retry_after > Duration::from_secs(3600), "the debt is paid off first: {exceeded}");
    }

    #[test]
    fn requests_without_a_model_use_no_tokens() {
        let now = Instant::now();
        let states = policies(&[&[limit(Measure::Tokens, 10)]]);
        for _ in 0..3 {
            assert!(admit(all(&states), None, now).is_ok());
        }
        assert_eq!(remaining(&states[0]), [10]);
        assert!(admit(all(&[]), bytes(1), now).unwrap().is_none());
    }

    #[test]
    fn what_was_used_survives_a_change_of_the_policy() {
        let mut registry = LimitRegistry::default();
        let before = registry.update(&specs(&[&[limit(Measure::Requests, 5)]]));
        let now = Instant::now();
        let admission = admit(all(&before), bytes(1), now).unwrap().unwrap();
        let after = registry.update(&specs(&[&[limit(Measure::Requests, 3), limit(Measure::Tokens, 1000)]]));
        after[0].lock().sets[0][1].take(500);
        assert_eq!(remaining(&after[0]), [2, 500]);
        // The new limit did not count it.
        admission.settle(Served::Failed, now);
        assert_eq!(remaining(&after[0]), [2, 500]);
        let unchanged =
            registry.update(&specs(&[&[limit(Measure::Requests, 3), limit(Measure::Tokens, 1000)]]));
        assert!(Arc::ptr_eq(&after[0], &unchanged[0]));
        registry.update(&[]);
        let recreated = registry.update(&specs(&[&[limit(Measure::Requests, 3)]]));
        assert_eq!(remaining(&recreated[0]), [3]);
    }
}
