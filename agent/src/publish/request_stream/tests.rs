use forebay_agent_ebpf::{
    framing::known,
    maps::{Event, EventKind},
};
use forebay_telemetry::{
    requests::MAX_PER_SECOND,
    v1::{EndpointKey, RequestFilter, StatusRange},
};

use super::*;
use crate::{
    kernel::DropCounters,
    publish::requests::{InvalidFilter, QUEUE},
};

const MILLISECOND: u64 = 1_000_000;
const ALL: u8 = known::DURATION | known::TTFT | known::BYTES | known::CHUNKS;

fn key(pod: &str) -> Arc<EndpointKey> {
    Arc::new(EndpointKey { namespace: "llm-d".into(), pod: pod.into(), ..EndpointKey::default() })
}

fn event(kind: EventKind, status: u16, duration_ms: u64) -> Event {
    Event {
        kind: kind as u32,
        status,
        count: 1,
        duration_ns: duration_ms * MILLISECOND,
        known: ALL.into(),
        ..Event::default()
    }
}

fn publisher() -> Arc<Publisher> {
    Arc::new(Publisher::new(Node { name: "n".into(), ..Node::default() }))
}

fn subscribe(publisher: &Arc<Publisher>, filter: RequestFilter) -> RequestSubscription {
    RequestSubscription::new(Arc::clone(publisher), Filter::try_from(filter).unwrap(), MAX_PER_SECOND)
}

async fn next(subscription: &mut RequestSubscription) -> RequestFrame {
    subscription.next().await.expect("a frame")
}

#[tokio::test(start_paused = true)]
async fn a_stream_has_a_first_frame_then_requests_then_heartbeats() {
    let publisher = publisher();
    assert!(!publisher.requests().has_readers());
    let mut subscription = subscribe(&publisher, RequestFilter::default());
    assert!(publisher.requests().has_readers());
    let first = next(&mut subscription).await;
    assert_eq!((first.node.unwrap().name.as_str(), first.requests.len()), ("n", 0));
    for kind in [EventKind::Started, EventKind::FirstBody, EventKind::Finished, EventKind::Aborted] {
        publisher.requests().publish(&key("a"), &event(kind, 200, 5));
    }
    let frame = next(&mut subscription).await;
    let aborted: Vec<bool> = frame.requests.iter().map(|request| request.aborted).collect();
    assert_eq!((aborted, frame.node), (vec![false, true], None));
    let before = Instant::now();
    assert_eq!(next(&mut subscription).await.requests, []);
    assert_eq!(before.elapsed(), Duration::from_secs(1));
    drop(subscription);
    assert!(!publisher.requests().has_readers());
}

#[tokio::test(start_paused = true)]
async fn values_that_the_kernel_does_not_know_are_absent() {
    let publisher = publisher();
    let mut subscription = subscribe(&publisher, RequestFilter::default());
    next(&mut subscription).await;
    let pipelined = Event { kind: EventKind::Finished as u32, count: 2, at_ns: 7, ..Event::default() };
    publisher.requests().publish(&key("a"), &pipelined);
    publisher.requests().publish(&key("a"), &Event { known: ALL.into(), ..event(EventKind::Aborted, 0, 0) });
    let requests = next(&mut subscription).await.requests;
    let unknown = EndedRequest {
        key: Some(key("a").as_ref().clone()),
        ended_boottime_ns: 7,
        ..EndedRequest::default()
    };
    assert_eq!(requests[..2], [unknown.clone(), unknown.clone()]);
    let zero = EndedRequest {
        aborted: true,
        ended_boottime_ns: 0,
        duration_ns: Some(0),
        ttft_ns: Some(0),
        response_bytes: Some(0),
        response_chunks: Some(0),
        ..unknown
    };
    assert_eq!(requests[2..], [zero], "zero is not unknown");
}

#[tokio::test(start_paused = true)]
async fn filters_select_by_pod_outcome_and_duration() {
    let status = |first, last| vec![StatusRange { first, last }];
    let all = RequestFilter::default();
    let table = [
        (all.clone(), vec![0, 1, 2, 3, 4]),
        (RequestFilter { pod: "b".into(), ..all.clone() }, vec![4]),
        (RequestFilter { namespace: "other".into(), ..all.clone() }, vec![]),
        (RequestFilter { statuses: status(500, 599), ..all.clone() }, vec![1]),
        (RequestFilter { statuses: status(200, 200), ..all.clone() }, vec![0, 4]),
        (RequestFilter { aborted: true, ..all.clone() }, vec![2]),
        (RequestFilter { aborted: true, statuses: status(500, 599), ..all.clone() }, vec![1, 2]),
        (RequestFilter { slower_than_ns: 20 * MILLISECOND, ..all.clone() }, vec![1, 2]),
    ];
    for (filter, expected) in table {
        let publisher = publisher();
        let mut subscription = subscribe(&publisher, filter.clone());
        next(&mut subscription).await;
        let unknown = Event { kind: EventKind::Finished as u32, count: 1, ..Event::default() };
        let events = [
            ("a", event(EventKind::Finished, 200, 20)),
            ("a", event(EventKind::Finished, 503, 21)),
            ("a", event(EventKind::Aborted, 200, 22)),
            ("a", unknown),
            ("b", event(EventKind::Finished, 200, 1)),
        ];
        for (at, (pod, event)) in events.into_iter().enumerate() {
            publisher.requests().publish(&key(pod), &Event { at_ns: at as u64, ..event });
        }
        let frame = next(&mut subscription).await;
        let found: Vec<u64> = frame.requests.iter().map(|request| request.ended_boottime_ns).collect();
        assert_eq!(found, expected, "{filter:?}");
        assert_eq!(frame.dropped, Some(DroppedRequests::default()), "what does not match is not dropped");
    }
}

#[test]
fn rejects_unusable_filters() {
    let range = StatusRange { first: 500, last: 400 };
    let filter = RequestFilter { statuses: vec![range], ..RequestFilter::default() };
    assert_eq!(Filter::try_from(filter).unwrap_err(), InvalidFilter::Reversed(500, 400));
    let filter = RequestFilter { statuses: vec![StatusRange::default(); 65], ..RequestFilter::default() };
    assert!(Filter::try_from(filter).unwrap_err().to_string().contains("65 ranges; the maximum is 64"));
}

#[tokio::test(start_paused = true)]
async fn a_reader_that_takes_nothing_is_told_what_it_lost() {
    let publisher = publisher();
    let mut subscription = subscribe(&publisher, RequestFilter::default());
    next(&mut subscription).await;
    let total = QUEUE as u64 + 100;
    for at in 0..total {
        let at_ns = at * MILLISECOND;
        publisher.requests().publish(&key("a"), &Event { at_ns, ..event(EventKind::Finished, 200, 1) });
    }
    let mut received = 0;
    let dropped = loop {
        let frame = next(&mut subscription).await;
        received += frame.requests.len() as u64;
        if frame.requests.is_empty() {
            break frame.dropped.unwrap();
        }
    };
    assert_eq!((received, dropped.unread, dropped.over_rate), (QUEUE as u64, 100, 0));
    assert_eq!(publisher.requests().unread_total(), 100);
}

#[tokio::test(start_paused = true)]
async fn requests_over_the_rate_are_counted() {
    let publisher = publisher();
    let mut subscription = RequestSubscription::new(Arc::clone(&publisher), Filter::default(), 3);
    next(&mut subscription).await;
    for _ in 0..10 {
        publisher.requests().publish(&key("a"), &event(EventKind::Finished, 200, 1));
    }
    let frame = next(&mut subscription).await;
    assert_eq!((frame.requests.len(), frame.dropped.unwrap().over_rate), (3, 7));
    assert_eq!(publisher.requests().over_rate_total(), 7);
}

#[tokio::test(start_paused = true)]
async fn events_that_the_kernel_dropped_count_from_the_start_of_the_stream() {
    let publisher = publisher();
    let set = |events_dropped| {
        publisher.set_drop_counters(DropCounters { events_dropped, ..DropCounters::default() });
    };
    let mut early = subscribe(&publisher, RequestFilter::default());
    assert_eq!(next(&mut early).await.dropped.unwrap().kernel_events, None, "not counted");
    set(5);
    let mut subscription = subscribe(&publisher, RequestFilter::default());
    assert_eq!(next(&mut subscription).await.dropped.unwrap().kernel_events, Some(0));
    assert_eq!(next(&mut early).await.dropped.unwrap().kernel_events, Some(0));
    set(8);
    assert_eq!(next(&mut subscription).await.dropped.unwrap().kernel_events, Some(3));
}

#[tokio::test(start_paused = true)]
async fn streams_end_when_there_are_no_more_events() {
    let publisher = publisher();
    let mut subscription = subscribe(&publisher, RequestFilter::default());
    next(&mut subscription).await;
    publisher.requests().publish(&key("a"), &event(EventKind::Finished, 200, 1));
    publisher.requests().close();
    assert_eq!(next(&mut subscription).await.requests.len(), 1, "what was queued");
    assert_eq!(subscription.next().await, None);
    let mut late = subscribe(&publisher, RequestFilter::default());
    next(&mut late).await;
    assert_eq!(late.next().await, None);
}
