use std::{net::SocketAddr, sync::Arc, time::Duration};

use forebay_resources::{ObjectKey, PoolEndpoint};
use http::HeaderMap;

use super::{
    super::{
        Filter, Order, Pick, PickRequest, Pipeline, Scheduler, SessionAffinity, SessionSettings,
        filter::LabelSelector,
    },
    plugin,
};
use crate::{Metrics, endpoints::Endpoints};

/// Three endpoints.
fn scheduler(filter: impl Filter + 'static, max_endpoints: Option<usize>) -> Scheduler {
    let endpoints = Arc::new(Endpoints::new(Duration::from_secs(1)));
    let member = |n: u16| PoolEndpoint {
        pod: ObjectKey::new("models", format!("vllm-{n}")),
        uid: String::new(),
        address: SocketAddr::from(([10, 0, 0, 1], 8000 + n)),
        node_name: None,
        labels: [].into(),
    };
    endpoints.set_members(Some((0..3).map(member).collect()));
    let pipeline = Pipeline::new(vec![Box::new(filter)], vec![], Order::MaxScore);
    let pipeline = Arc::new(pipeline.with_max_endpoints(max_endpoints));
    Scheduler::new(ObjectKey::new("models", "pool"), endpoints, pipeline, Metrics::new(), 3)
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
