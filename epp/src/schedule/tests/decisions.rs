use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU16, Ordering},
    },
    time::{Duration, Instant},
};

use forebay_resources::{ObjectKey, PoolEndpoint};
use http::HeaderMap;

use super::{
    super::{
        Explanation, Filter, Order, Pick, PickRequest, Pipeline, Prompt, Scheduler, SessionAffinity,
        SessionSettings, Subset, View, filter::LabelSelector, score::AddedWaiting,
    },
    plugin,
};
use crate::{
    Error, Metrics,
    endpoints::{Endpoints, Numbers},
};

/// Three endpoints.
fn scheduler(filter: impl Filter + 'static, max_endpoints: Option<usize>) -> Scheduler {
    let endpoints = Arc::new(Endpoints::new(Duration::from_secs(1)));
    endpoints.set_members(Some((0..3).map(member).collect()));
    scheduler_of(endpoints, filter, max_endpoints)
}

fn scheduler_of(
    endpoints: Arc<Endpoints>,
    filter: impl Filter + 'static,
    max_endpoints: Option<usize>,
) -> Scheduler {
    let pipeline = Pipeline::new(vec![("filter".to_owned(), Box::new(filter) as _)], vec![], Order::MaxScore);
    let pipeline = Arc::new(pipeline.with_max_endpoints(max_endpoints));
    Scheduler::new(ObjectKey::new("models", "pool"), endpoints, pipeline, Metrics::new(), 3)
}

fn member(n: u16) -> PoolEndpoint {
    PoolEndpoint {
        pod: ObjectKey::new("models", format!("vllm-{n}")),
        uid: String::new(),
        address: SocketAddr::from(([10, 0, 0, 1], 8000 + n)),
        node_name: None,
        labels: [].into(),
    }
}

/// Replaces all members of the pool while a pick compares them.
#[derive(Debug)]
struct ReplaceMembers {
    endpoints: Arc<Endpoints>,
    times: AtomicU16,
}

impl Filter for ReplaceMembers {
    fn filter(&self, _view: &View<'_>, _candidates: &mut Vec<u32>) {
        if let Ok(left) =
            self.times.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |it| it.checked_sub(1))
        {
            self.endpoints.set_members(Some(vec![member(100 + left % 100)]));
        }
    }
}

fn pick_while_members_change(times: u16) -> (Arc<Endpoints>, Result<Pick, Error>) {
    let endpoints = Arc::new(Endpoints::new(Duration::from_secs(1)));
    endpoints.set_members(Some(vec![member(0)]));
    let filter = ReplaceMembers { endpoints: endpoints.clone(), times: times.into() };
    let scheduler = scheduler_of(endpoints.clone(), filter, None);
    let picked = scheduler.pick_at(&PickRequest::default(), Instant::now());
    (endpoints, picked)
}

#[test]
fn endpoints_that_leave_during_a_pick_are_replaced() {
    let (endpoints, picked) = pick_while_members_change(2);
    let pick = picked.unwrap();
    assert_eq!(pick.addresses(), [member(101).address], "the last members");
    assert_eq!(endpoints.endpoints()[0].open_picks, 1);
    drop(pick);
    assert_eq!(endpoints.endpoints()[0].open_picks, 0);
}

#[test]
fn picks_give_up_when_members_never_stay() {
    let (_, picked) = pick_while_members_change(u16::MAX);
    assert_eq!(picked.unwrap_err().code(), "no_ready_endpoint");
}

fn everything() -> LabelSelector {
    LabelSelector::default()
}

fn pick(scheduler: &Scheduler, header: &str, value: &str) -> Pick {
    let mut headers = HeaderMap::new();
    headers.insert(http::HeaderName::try_from(header).unwrap(), value.parse().unwrap());
    scheduler.pick(&PickRequest { headers: Some(&headers), ..PickRequest::default() }).unwrap()
}

#[test]
fn a_filter_that_leaves_no_endpoint_fails_the_request() {
    let scheduler = scheduler(plugin::<LabelSelector>("matchLabels: {app: a}"), None);
    let error = scheduler.pick(&PickRequest::default()).unwrap_err();
    assert_eq!((error.code(), error.http_status().as_u16()), ("no_endpoint_after_filters", 503));
    let message = "the filters of the picker's configuration leave no endpoint of InferencePool models/pool";
    assert_eq!(error.to_string(), message);
}

#[test]
fn the_picker_limits_the_endpoints_of_a_decision() {
    for (max_endpoints, expected) in [(None, 3), (Some(1), 1), (Some(2), 2), (Some(9), 3)] {
        let scheduler = scheduler(everything(), max_endpoints);
        let request = PickRequest { takes_list: true, ..PickRequest::default() };
        assert_eq!(scheduler.pick(&request).unwrap().addresses().len(), expected, "{max_endpoints:?}");
    }
}

#[test]
fn the_token_of_a_session_names_the_endpoint_that_serves_the_request() {
    let scheduler = scheduler(SessionAffinity::from(SessionSettings::default()), None);
    let mut first = scheduler.pick(&PickRequest::default()).unwrap();
    let other = SocketAddr::from(([10, 0, 0, 1], 8002));
    first.served_by(other);
    let headers = first.response_headers();
    assert_eq!(headers, [("x-session-token".to_owned(), "bW9kZWxzL3ZsbG0tMg==".to_owned())]);
    for _ in 0..4 {
        assert_eq!(pick(&scheduler, "x-session-token", &headers[0].1).addresses(), [other]);
    }
}

#[test]
fn requests_of_a_session_stay_at_one_endpoint() {
    let scheduler = scheduler(SessionAffinity::from(plugin::<SessionSettings>("strategy: session_id")), None);
    let first = pick(&scheduler, "x-session-id", "a").addresses().to_vec();
    for _ in 0..4 {
        let other = pick(&scheduler, "x-session-id", &fastrand::u64(..).to_string());
        assert!(other.response_headers().is_empty());
        assert_eq!(pick(&scheduler, "x-session-id", "a").addresses(), first);
    }
}

#[test]
fn explains_scores_and_exclusions_without_a_reservation() {
    let scheduler = scheduler(everything(), None);
    let subset = Subset::parse(["10.0.0.1:8000,10.0.0.1:8001"]);
    let request = PickRequest { subset: Some(&subset), ..PickRequest::default() };
    let explanation = scheduler.explain(&request).unwrap();
    let excluded: Vec<_> =
        explanation.endpoints.iter().map(|it| (it.excluded_by.as_deref(), it.total)).collect();
    assert_eq!(excluded, [(None, Some(0.0)), (None, Some(0.0)), (Some("subset hint of the gateway"), None)]);
    assert!(scheduler.endpoints().endpoints().iter().all(|view| view.open_picks == 0));

    let best = explanation.endpoints[0].address;
    let pick = scheduler.pick(&request).unwrap();
    assert_eq!(pick.addresses(), [best], "endpoints with equal scores are in the order of their turns");
    let recent = scheduler.recent_picks();
    assert_eq!((recent.len(), &recent[0].picked[..]), (1, pick.addresses()));
    scheduler.pick(&request).unwrap();
    assert_eq!(scheduler.recent_picks().len(), 1, "one per second");
}

#[test]
fn explanation_names_the_filter_and_the_score_of_each_scorer() {
    let scheduler = scheduler(plugin::<LabelSelector>("matchLabels: {app: a}"), None);
    let explanation = scheduler.explain(&PickRequest::default()).unwrap();
    let names: Vec<_> = explanation.endpoints.iter().map(|it| it.excluded_by.as_deref()).collect();
    assert_eq!(names, [Some("filter"); 3]);

    let scorers = vec![("added".to_owned(), Box::new(AddedWaiting) as _, 2.0)];
    let pipeline = Arc::new(Pipeline::new(vec![], scorers, Order::MaxScore));
    let endpoints = scheduler.endpoints().clone();
    let scheduler = Scheduler::new(scheduler.pool().clone(), endpoints, pipeline, Metrics::new(), 3);
    let explanation = scheduler.explain(&PickRequest::default()).unwrap();
    assert_eq!((explanation.scorers[0].name.as_str(), explanation.scorers[0].weight), ("added", 2.0));
    assert_eq!(explanation.endpoints.len(), 3);
    for endpoint in &explanation.endpoints {
        assert_eq!(endpoint.total, Some(2.0 * endpoint.scores[0]));
        assert!(endpoint.scores[0] > 0.0 && endpoint.added_waiting_seconds > 0.0, "{endpoint:?}");
    }
}

#[test]
fn explanation_names_the_strongest_reason_against_an_endpoint() {
    let scheduler = scheduler(everything(), None);
    let snapshot = scheduler.endpoints().snapshot();
    let forever = f64::INFINITY;
    snapshot.cell(0).store(&Numbers { failing_until: forever, ..Numbers::default() });
    snapshot.cell(1).store(&Numbers { failing_until: forever, stalled_until: forever, ..Numbers::default() });
    let explanation = scheduler.explain(&PickRequest::default()).unwrap();
    let excluded: Vec<_> = explanation.endpoints.iter().map(|it| it.excluded_by.as_deref()).collect();
    assert_eq!(excluded, [None, Some("failed requests"), Some("stalled engine")]);
}

#[test]
fn a_dry_pick_leaves_no_trace() {
    let scheduler = scheduler(everything(), None);
    let prompt = Prompt { blocks: vec![1, 2], bytes: 600, body_bytes: 700, is_streamed: true };
    let request = PickRequest { prompt: Some(&prompt), ..PickRequest::default() };
    let first = scheduler.dry_pick(&request).unwrap();
    assert_eq!(first.len(), 1, "the gateway takes no list");
    assert_ne!(scheduler.dry_pick(&request).unwrap(), first, "endpoints with equal scores take turns");
    assert!(scheduler.endpoints().endpoints().iter().all(|view| view.open_picks == 0));
    assert!(!scheduler.endpoints().prefixes().is_held(1), "the endpoint did not get the prompt");
    let pick = scheduler.pick(&request).unwrap();
    assert_eq!(scheduler.endpoints().endpoints().iter().map(|view| view.open_picks).sum::<u64>(), 1);
    assert!(scheduler.endpoints().prefixes().is_held(1));
    drop(pick);
}

#[test]
fn an_explanation_is_cut_to_its_best_endpoints() {
    let scheduler = scheduler(everything(), None);
    let mut explanation = scheduler.explain(&PickRequest::default()).unwrap();
    let (best, last) = (explanation.endpoints[0].address, explanation.endpoints[2].clone());
    let fits: serde_json::Value = serde_json::from_str(&explanation.clone().into_json()).unwrap();
    assert_eq!((fits["endpoints"].as_array().unwrap().len(), &fits["moreEndpoints"]), (3, &0.into()));
    explanation.endpoints.extend((0..100).map(|_| last.clone()));
    let json = explanation.into_json();
    assert!(json.len() <= Explanation::MAX_BYTES, "{} bytes", json.len());
    let cut: serde_json::Value = serde_json::from_str(&json).unwrap();
    let listed = cut["endpoints"].as_array().unwrap();
    assert_eq!(listed[0]["address"], best.to_string());
    assert_eq!(listed.len() as u64 + cut["moreEndpoints"].as_u64().unwrap(), 103);
    assert!(listed.len() > 30, "{} endpoints", listed.len());
}
