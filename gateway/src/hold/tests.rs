//! Bodies of slow clients, with paused time.

use std::convert::Infallible;
use std::time::Duration;

use http::Response;
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use prometheus_client::metrics::gauge::Gauge;
use tokio::io::{AsyncWriteExt as _, DuplexStream};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep};

use super::*;

const IDLE_TIMEOUT: Duration = Duration::from_secs(10);
const SHORTER: Duration = Duration::from_secs(9);
const LONG: Duration = Duration::from_secs(1_000);

/// The body of a request of `length` bytes, and the client's side of its connection.
async fn request(length: usize) -> (HeldBody, DuplexStream) {
    let (mut client, server) = tokio::io::duplex(1 << 20);
    let (bodies, mut body) = mpsc::channel(1);
    let service = service_fn(move |request: http::Request<Incoming>| {
        let bodies = bodies.clone();
        async move {
            bodies.send(request.into_body()).await.unwrap();
            std::future::pending::<Result<Response<Empty<&[u8]>>, Infallible>>().await
        }
    });
    tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(server), service));
    let head = format!("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: {length}\r\n\r\n");
    client.write_all(head.as_bytes()).await.unwrap();
    let hold = HoldBudget::new(1 << 20, 1 << 20, 1 << 20, Gauge::default()).open();
    let body =
        HeldBody::new(ClientBody::new(body.recv().await.unwrap(), None), hold, ModelScan::None, IDLE_TIMEOUT)
            .unwrap();
    (body, client)
}

/// Sends `count` bytes, each after `pause`.
async fn send(client: &mut DuplexStream, count: usize, pause: Duration) {
    for _ in 0..count {
        sleep(pause).await;
        client.write_all(b"x").await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn waits_for_a_slow_client_that_keeps_sending() {
    let (mut body, mut client) = request(8).await;
    let reading = async {
        for _ in 0..4 {
            assert!(body.read_frame().await.unwrap())
        }
    };
    tokio::join!(send(&mut client, 4, SHORTER), reading);
    let mut upstream = body.upstream();
    let outcome = upstream.outcome();
    let (_, whole) = tokio::join!(send(&mut client, 4, SHORTER), upstream.collect());
    assert_eq!(whole.unwrap().to_bytes(), "xxxxxxxx");
    assert_eq!(outcome.failure(), None);
}

#[tokio::test(start_paused = true)]
async fn fails_when_the_client_stalls() {
    let (mut body, mut client) = request(8).await;
    send(&mut client, 2, Duration::ZERO).await;
    assert!(body.read_frame().await.unwrap());
    let began = Instant::now();
    assert!(matches!(body.read_frame().await, Err(Error::Read(ReadError::Stalled { waited: IDLE_TIMEOUT }))));
    assert_eq!(began.elapsed(), IDLE_TIMEOUT);

    let (mut body, mut client) = request(8).await;
    let mut upstream = body.upstream();
    let outcome = upstream.outcome();
    send(&mut client, 2, Duration::ZERO).await;
    let frame = upstream.frame().await.unwrap().unwrap();
    assert_eq!(frame.into_data().unwrap(), "xx");
    let began = Instant::now();
    let stalled = ReadError::Stalled { waited: IDLE_TIMEOUT };
    assert_eq!(upstream.frame().await.unwrap().unwrap_err(), stalled);
    assert_eq!((began.elapsed(), outcome.failure()), (IDLE_TIMEOUT, Some(stalled)));
}

/// The timer of an earlier wait may still run when the upstream stops reading. The client then gets the full time again.
#[tokio::test(start_paused = true)]
async fn time_in_which_the_upstream_does_not_read_does_not_count() {
    let (mut body, mut client) = request(3).await;
    let mut upstream = body.upstream();
    for _ in 0..2 {
        let (_, frame) = tokio::join!(send(&mut client, 1, SHORTER), upstream.frame());
        assert_eq!(frame.unwrap().unwrap().into_data().unwrap(), "x");
        sleep(LONG).await;
    }
    let (_, last) = tokio::join!(send(&mut client, 1, SHORTER), upstream.frame());
    assert_eq!(last.unwrap().unwrap().into_data().unwrap(), "x");
    assert!(upstream.frame().await.is_none());
}

/// A body that is held occupies the budget of others.
#[tokio::test(start_paused = true)]
async fn a_held_body_must_arrive_at_a_minimum_rate() {
    let (mut body, mut client) = request(1_000).await;
    let began = Instant::now();
    let reading = async {
        loop {
            if let Err(error) = body.read_frame().await {
                return error;
            }
        }
    };
    let error = tokio::select! {
        error = reading => error,
        () = send(&mut client, 100, SHORTER) => panic!("all of it was held"),
    };
    let waited = began.elapsed();
    assert!(matches!(error, Error::Read(ReadError::TooSlow { .. })), "{error}");
    assert!((6 * IDLE_TIMEOUT..8 * IDLE_TIMEOUT).contains(&waited), "{waited:?}");
}
