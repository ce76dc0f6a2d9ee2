//! What disturbs a run has the effect that it says.

use std::{
    cell::{Cell, RefCell},
    collections::HashSet,
    rc::Rc,
    time::Duration,
};

use forebay_routing_sim::{
    Conditions, EndpointId, EngineSpec, Member, Outcome, Report, Request, RequestId, Router, RunError,
    RunResult, Scenario, Signals, Time, Trace, run,
    run::{Change, ChangeKind, RequestRecord},
    trace::{Agents, Reasoning, SharedPrompts},
};

use crate::routers::{LeastInFlight, RoundRobin};

fn trace() -> Trace {
    let short = SharedPrompts {
        prefix_tokens: 2_000,
        question_tokens: 500,
        output_tokens: 200,
        ..Default::default()
    };
    SharedPrompts { requests: 2_000, requests_per_s: 8.0, ..short }.generate(1)
}

fn middle() -> Time {
    Time::from_s(120)
}

fn simulate(trace: &Trace, conditions: &Conditions, seed: u64) -> RunResult {
    run(trace, conditions, seed, &mut |_| Box::<LeastInFlight>::default()).expect("a run")
}

fn mean_ttft_ms<'a>(records: impl Iterator<Item = &'a RequestRecord>) -> f64 {
    let ttft: Vec<f64> =
        records.filter_map(|it| Some((it.first_byte_at? - it.sent_at).as_secs_f64() * 1e3)).collect();
    ttft.iter().sum::<f64>() / ttft.len() as f64
}

#[test]
fn same_seed_gives_an_identical_report_and_another_seed_another_one() {
    let spec = EngineSpec::qwen3_32b_2xh100();
    let conditions = Scenario::Foreign.conditions(&spec, 4, middle());
    let report = |seed| {
        let trace = SharedPrompts { requests: 500, ..SharedPrompts::default() }.generate(seed);
        serde_json::to_string(&Report::of(&simulate(&trace, &conditions, seed))).unwrap()
    };
    assert_eq!(report(1), report(1));
    assert_ne!(report(1), report(2));
}

#[test]
fn every_request_ends_exactly_once_in_every_scenario() {
    let spec = EngineSpec::qwen3_32b_2xh100();
    let agents = Agents { sessions: 40, ..Agents::default() }.generate(1);
    for trace in [trace(), agents] {
        for scenario in Scenario::ALL {
            let result = simulate(&trace, &scenario.conditions(&spec, 3, middle()), 1);
            let entries: HashSet<usize> = result.records.iter().map(|record| record.entry).collect();
            assert_eq!(result.records.len(), trace.entries.len(), "{}", scenario.name());
            assert_eq!(entries.len(), trace.entries.len(), "{}", scenario.name());
            assert!(result.records.is_sorted_by_key(|record| record.ended_at), "{}", scenario.name());
        }
    }
}

#[test]
fn frozen_engine_yields_timeouts_only_there() {
    let spec = EngineSpec::qwen3_32b_2xh100();
    let conditions = Scenario::Frozen.conditions(&spec, 4, middle());
    let result = run(&trace(), &conditions, 1, &mut |_| Box::<RoundRobin>::default()).unwrap();
    let timed_out: Vec<_> = result.records.iter().filter(|it| it.outcome == Outcome::TimedOut).collect();
    assert!(timed_out.iter().all(|record| record.pod == 0));
    // Requests of a quarter of 8 per second for 60 s: later ones are waiting when it thaws.
    assert!((100..150).contains(&timed_out.len()), "{}", timed_out.len());
    assert!(timed_out.iter().any(|record| record.first_byte_at.is_some()), "streams that stalled");
    for record in &timed_out {
        let limit = Duration::from_secs(60);
        let from = if record.first_byte_at.is_some() { middle() } else { record.sent_at };
        assert_eq!(record.ended_at - from, limit);
    }
    assert!(result.records.iter().all(|record| record.outcome != Outcome::Failed));
}

#[test]
fn half_speed_doubles_the_ttft_of_that_pod_from_then_on() {
    // So few requests that none waits for another one.
    let trace = Reasoning { requests: 400, requests_per_s: 0.2, prompt_tokens: 4_000, output_tokens: 20 };
    let trace = trace.generate(1);
    let spec = EngineSpec::qwen3_32b_2xh100();
    let middle = Time::from_s(1_000);
    let conditions = Scenario::HalfSpeed.conditions(&spec, 2, middle);
    let result = run(&trace, &conditions, 1, &mut |_| Box::<RoundRobin>::default()).unwrap();
    let per_token = |pod: usize, after: bool| {
        let records = || result.records.iter().filter(|it| it.pod == pod && (it.sent_at > middle) == after);
        let tokens: f64 = records().map(|it| f64::from(it.prompt_tokens)).sum();
        mean_ttft_ms(records()) * records().count() as f64 / tokens
    };
    let slowdown = per_token(0, true) / per_token(0, false);
    assert!((1.9..2.1).contains(&slowdown), "{slowdown}");
    let other = per_token(1, true) / per_token(1, false);
    assert!((0.95..1.05).contains(&other), "{other}");
}

#[test]
fn mixed_sizes_have_half_the_speed_and_half_the_cache() {
    let spec = EngineSpec::qwen3_32b_2xh100();
    let conditions = Scenario::MixedSizes.conditions(&spec, 4, middle());
    let step = |pod: usize| conditions.pods[pod].step_ns(1_000, 10, 1_000);
    assert!((step(1) / step(0) - 2.0).abs() < 1e-9);
    assert_eq!(conditions.pods[3].num_blocks, spec.num_blocks / 2);
    assert_eq!(conditions.pods[2], spec);
}

/// What a router is told, for a look at it after the run.
#[derive(Default)]
struct Seen {
    signals: Vec<(Time, EndpointId, Signals)>,
    members: Vec<(Time, usize)>,
    picks: usize,
    ends: usize,
}

struct Watching {
    inner: RoundRobin,
    seen: Rc<RefCell<Seen>>,
}

impl Router for Watching {
    fn set_members(&mut self, now: Time, members: &[Member]) {
        self.seen.borrow_mut().members.push((now, members.len()));
        self.inner.set_members(now, members);
    }

    fn observe(&mut self, now: Time, endpoint: EndpointId, signals: &Signals) {
        self.seen.borrow_mut().signals.push((now, endpoint, *signals));
    }

    fn pick(&mut self, now: Time, request: &Request) -> EndpointId {
        self.seen.borrow_mut().picks += 1;
        self.inner.pick(now, request)
    }

    fn first_byte(&mut self, _: Time, _: RequestId) {}

    fn end(&mut self, _: Time, _: RequestId, _: Outcome) {
        self.seen.borrow_mut().ends += 1;
    }
}

/// Runs with a [`Watching`] router per replica and life.
fn watch(trace: &Trace, conditions: &Conditions) -> (RunResult, Vec<Rc<RefCell<Seen>>>) {
    let mut all = Vec::new();
    let result = run(trace, conditions, 1, &mut |_| {
        let seen = Rc::<RefCell<Seen>>::default();
        all.push(Rc::clone(&seen));
        Box::new(Watching { inner: RoundRobin::default(), seen })
    });
    (result.expect("a run"), all)
}

#[test]
fn kernel_view_counts_foreign_requests_that_the_router_never_sees() {
    let spec = EngineSpec::qwen3_32b_2xh100();
    let (result, seen) = watch(&trace(), &Scenario::Foreign.conditions(&spec, 2, middle()));
    let seen = seen[0].borrow();
    let foreign = result.records.iter().filter(|record| record.foreign).count();
    assert!((500..700).contains(&foreign), "30 % of 2,000: {foreign}");
    assert_eq!((seen.picks, seen.ends), (2_000 - foreign, 2_000 - foreign));
    let last = |endpoint: u32| {
        let mut signals = seen.signals.iter().rev();
        let last = signals.find(|(_, id, _)| id.0 == endpoint).unwrap();
        last.2.kernel.unwrap()
    };
    let (a, b) = (last(0), last(1));
    let all: u64 = [a, b].iter().map(|view| view.finished + u64::from(view.in_flight)).sum();
    // The last report is older than the last end by at most a report interval.
    assert!((1_990..=2_000).contains(&all), "{all}");
    let at_pods = result.records.iter().filter(|record| record.ended_at <= a.measured_at && record.pod == 0);
    assert_eq!(a.finished, at_pods.count() as u64);
}

#[test]
fn signals_arrive_after_the_network_delay_and_scrapes_lag() {
    let spec = EngineSpec::qwen3_32b_2xh100();
    let (_, seen) = watch(&trace(), &Scenario::Plain.conditions(&spec, 2, middle()));
    let mut ages = Vec::new();
    for (at, _, signals) in &seen[0].borrow().signals {
        let kernel = signals.kernel.unwrap();
        assert_eq!(*at - kernel.measured_at, Duration::from_millis(1));
        ages.push(*at - signals.engine.unwrap().measured_at);
    }
    assert!(*ages.iter().max().unwrap() > Duration::from_millis(440));
    assert!(*ages.iter().max().unwrap() <= Duration::from_millis(500));
}

#[test]
fn agents_that_are_gone_send_nothing_and_come_back() {
    let spec = EngineSpec::qwen3_32b_2xh100();
    let (_, seen) = watch(&trace(), &Scenario::AgentsGone.conditions(&spec, 2, middle()));
    let seen = seen[0].borrow();
    let in_gap =
        |at: &Time| *at > middle() + Duration::from_millis(2) && *at < middle() + Duration::from_secs(30);
    assert_eq!(seen.signals.iter().filter(|(at, ..)| in_gap(at)).count(), 0);
    assert!(seen.signals.iter().any(|(at, ..)| *at > middle() + Duration::from_secs(30)));
}

#[test]
fn without_the_kernel_part_only_the_engine_is_reported() {
    let spec = EngineSpec::qwen3_32b_2xh100();
    let (_, seen) = watch(&trace(), &Scenario::NoKernelPart.conditions(&spec, 2, middle()));
    let seen = seen[0].borrow();
    assert!(!seen.signals.is_empty());
    assert!(seen.signals.iter().all(|(_, _, it)| it.kernel.is_none() && it.engine.is_some()));
}

#[test]
fn restarted_replica_starts_empty_and_hears_only_of_its_own_requests() {
    let spec = EngineSpec::qwen3_32b_2xh100();
    let (_, seen) = watch(&trace(), &Scenario::ReplicaRestarted.conditions(&spec, 2, middle()));
    assert_eq!(seen.len(), 5, "four replicas, and the new life of the first");
    let (old, new) = (seen[0].borrow(), seen[4].borrow());
    assert!(old.ends < old.picks, "its open requests are lost");
    assert_eq!(new.ends, new.picks);
    assert_eq!(old.picks + new.picks, 500);
    assert_eq!(new.members, [(middle(), 2)]);
}

#[test]
fn restarted_engine_leaves_the_members_and_returns() {
    let spec = EngineSpec::qwen3_32b_2xh100();
    let (result, seen) = watch(&trace(), &Scenario::EngineRestarted.conditions(&spec, 2, middle()));
    let back = middle() + Duration::from_secs(30);
    assert_eq!(seen[0].borrow().members, [(Time::ZERO, 2), (middle(), 1), (back, 2)]);
    let failed: Vec<_> = result.records.iter().filter(|it| it.outcome == Outcome::Failed).collect();
    assert!(!failed.is_empty());
    assert!(failed.iter().all(|it| it.pod == 0 && it.ended_at - middle() <= Duration::from_millis(1)));
    assert!(result.records.iter().any(|record| record.pod == 0 && record.sent_at > back));
}

#[test]
fn refuses_a_pick_outside_the_pool_and_impossible_conditions() {
    struct Wrong(Cell<u32>);
    impl Router for Wrong {
        fn set_members(&mut self, _: Time, members: &[Member]) {
            self.0.set(members.len() as u32);
        }
        fn observe(&mut self, _: Time, _: EndpointId, _: &Signals) {}
        fn pick(&mut self, _: Time, _: &Request) -> EndpointId {
            EndpointId(self.0.get())
        }
        fn first_byte(&mut self, _: Time, _: RequestId) {}
        fn end(&mut self, _: Time, _: RequestId, _: Outcome) {}
    }
    let mut conditions = Conditions::new(vec![EngineSpec::qwen3_32b_2xh100(); 2]);
    let error = run(&trace(), &conditions, 1, &mut |_| Box::new(Wrong(Cell::default()))).unwrap_err();
    assert_eq!(error, RunError::NotAMember { request: RequestId(0), endpoint: EndpointId(2) });
    conditions.changes = vec![Change { at: middle(), pod: 2, kind: ChangeKind::Freeze }];
    let error = run(&trace(), &conditions, 1, &mut |_| Box::<RoundRobin>::default()).unwrap_err();
    assert_eq!(error.to_string(), "invalid conditions: changes names a pod that does not exist");
}
