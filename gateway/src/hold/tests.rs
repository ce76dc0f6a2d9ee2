//! Bodies of clients that take their time, which is the clock's of the test.

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

use super::body::RestError;
use super::*;
use crate::Error;

const PATIENCE: Duration = Duration::from_secs(10);
const NEARLY: Duration = Duration::from_secs(9);
const LONG: Duration = Duration::from_secs(1_000);

/// The body of a request of `length` bytes, and the connection that it comes over.
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
    let body = HeldBody::new(body.recv().await.unwrap(), hold, Scan::Nothing, PATIENCE).unwrap();
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
async fn a_slow_client_that_keeps_sending_is_waited_for() {
    let (mut body, mut client) = request(8).await;
    let reading = async {
        for _ in 0..4 {
            assert!(body.read_frame().await.unwrap())
        }
    };
    tokio::join!(send(&mut client, 4, NEARLY), reading);
    let mut upstream = body.upstream();
    let fate = upstream.fate();
    let (_, whole) = tokio::join!(send(&mut client, 4, NEARLY), upstream.collect());
    assert_eq!(whole.unwrap().to_bytes(), "xxxxxxxx");
    assert_eq!(fate.failure(), None);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_stalls_is_given_up_whoever_waits_for_it() {
    let (mut body, mut client) = request(8).await;
    send(&mut client, 2, Duration::ZERO).await;
    assert!(body.read_frame().await.unwrap());
    let began = Instant::now();
    assert!(matches!(body.read_frame().await, Err(Error::BodyTimeout { waited: PATIENCE })));
    assert_eq!(began.elapsed(), PATIENCE);

    let (mut body, mut client) = request(8).await;
    let mut upstream = body.upstream();
    let fate = upstream.fate();
    send(&mut client, 2, Duration::ZERO).await;
    let frame = upstream.frame().await.unwrap().unwrap();
    assert_eq!(frame.into_data().unwrap(), "xx");
    let began = Instant::now();
    let stalled = RestError::Stalled { waited: PATIENCE };
    assert_eq!(upstream.frame().await.unwrap().unwrap_err(), stalled);
    assert_eq!((began.elapsed(), fate.failure()), (PATIENCE, Some(stalled)));
}

/// A timer runs from the wait before when the model server stops taking; afterwards the client has its time again.
#[tokio::test(start_paused = true)]
async fn what_the_model_server_does_not_take_is_not_waited_for() {
    let (mut body, mut client) = request(3).await;
    let mut upstream = body.upstream();
    for _ in 0..2 {
        let (_, frame) = tokio::join!(send(&mut client, 1, NEARLY), upstream.frame());
        assert_eq!(frame.unwrap().unwrap().into_data().unwrap(), "x");
        sleep(LONG).await;
    }
    let (_, last) = tokio::join!(send(&mut client, 1, NEARLY), upstream.frame());
    assert_eq!(last.unwrap().unwrap().into_data().unwrap(), "x");
    assert!(upstream.frame().await.is_none());
}
