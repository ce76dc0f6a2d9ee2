//! Limits that gateways share.

#![allow(clippy::unwrap_used, reason = "a failure ends the test that it is in")]

mod common;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use bytes::Bytes;
use common::{
    Harness,
    gateway::{Gateway, body, headers},
};
use forebay_grpc::proto::{HttpBody, ProcessingRequest, processing_request::Request};
use forebay_grpc::{CONTENT_TYPE, PROCESS};
use prost::Message as _;
use tokio::net::{TcpSocket, TcpStream};
use tonic::Code;

const FIRST: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const SECOND: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2));

fn framed(message: &ProcessingRequest) -> Vec<u8> {
    let message = message.encode_to_vec();
    let length = u32::try_from(message.len()).unwrap().to_be_bytes();
    [&[0], &length[..], &message].concat()
}

/// A connection of HTTP/2 frames.
struct RawGateway {
    streams: h2::client::SendRequest<Bytes>,
    _driver: tokio_util::task::AbortOnDropHandle<Result<(), h2::Error>>,
}

impl RawGateway {
    async fn connect(address: SocketAddr) -> Self {
        let (streams, connection) =
            h2::client::handshake(TcpStream::connect(address).await.unwrap()).await.unwrap();
        Self { streams, _driver: tokio_util::task::AbortOnDropHandle::new(tokio::spawn(connection)) }
    }

    /// Opens a stream and sends the bytes.
    async fn send(&mut self, bytes: Vec<u8>) -> (h2::SendStream<Bytes>, h2::RecvStream) {
        let request = http::Request::post(format!("http://picker{PROCESS}"))
            .header(http::header::CONTENT_TYPE, CONTENT_TYPE)
            .body(())
            .unwrap();
        let (response, mut sender) = self.streams.send_request(request, false).unwrap();
        sender.send_data(bytes.into(), false).unwrap();
        (sender, response.await.unwrap().into_body())
    }
}

/// The code with which the stream ended.
async fn code(body: &mut h2::RecvStream) -> Code {
    while body.data().await.is_some_and(|data| data.is_ok()) {}
    let trailers = body.trailers().await.unwrap().unwrap();
    Code::from_bytes(trailers["grpc-status"].as_bytes())
}

#[tokio::test]
async fn one_gateway_cannot_take_the_streams_of_all_others() {
    let manifests = [("pool.yaml".into(), common::POOL.into()), ("pod-1.yaml".into(), common::pod(1, true))];
    let harness = Harness::start(&manifests, |options| options.max_streams = 100).await;
    let greedy = [Gateway::connect_from(&harness, FIRST).await, Gateway::connect_from(&harness, FIRST).await];
    let mut open = Vec::new();
    for n in 0.. {
        match greedy[n % 2].try_open().await {
            Ok(request) => open.push(request),
            Err(refusal) => {
                assert_eq!(refusal.code(), Code::ResourceExhausted);
                break;
            }
        }
    }
    assert_eq!(open.len(), 75);
    let (_request, picked) = Gateway::connect_from(&harness, SECOND).await.pick().await;
    assert_eq!(picked[0], "127.0.1.1:8000");
}

#[tokio::test]
async fn incomplete_messages_of_one_gateway_leave_room_for_those_of_others() {
    let harness = Harness::with_pods(1).await;
    let mut greedy = RawGateway::connect(harness.server.grpc_address).await;
    let mut large = framed(&ProcessingRequest {
        request: Some(Request::RequestBody(HttpBody {
            body: vec![0; 4_000_000].into(),
            end_of_stream: true,
        })),
        ..ProcessingRequest::default()
    });
    large.truncate(100);
    let start = [framed(&headers(false)), large].concat();
    let mut open = Vec::new();
    let refusal = loop {
        let (sender, mut replies) = greedy.send(start.clone()).await;
        // The reply to the headers.
        replies.data().await.unwrap().unwrap();
        open.push((sender, replies));
        // At most 128 MiB of all messages. One gateway holds three quarters at most, and the message that exceeds them.
        if open.len() == 27 {
            let refusal = code(&mut open.last_mut().unwrap().1);
            break tokio::time::timeout(common::DEADLINE, refusal).await.expect("a refusal");
        }
    };
    assert_eq!(refusal, Code::ResourceExhausted);

    let other = Gateway::connect_from(&harness, SECOND).await;
    let (mut request, _) = other.pick().await;
    request.send_message(Request::RequestBody(body(vec![0; 4_000_000], true))).await;
    while !common::gateway::chunk(&request.reply().await).end_of_stream {}
}

/// Time is advanced when the runtime waits.
#[tokio::test(start_paused = true)]
async fn a_stream_without_a_first_message_ends_by_a_deadline() {
    let harness = Harness::with_pods(1).await;
    let mut gateway = RawGateway::connect(harness.server.grpc_address).await;
    for bytes in [&b""[..], &[0], &[0, 0, 0, 1, 0, 1]] {
        let (_sender, mut replies) = gateway.send(bytes.to_vec()).await;
        let ended = tokio::time::timeout(common::DEADLINE * 6, code(&mut replies)).await;
        assert_eq!(ended.expect("an end"), Code::DeadlineExceeded);
    }
}

#[tokio::test]
async fn silent_connections_do_not_delay_picks_and_probes() {
    let harness = Harness::with_pods(1).await;
    let mut silent = Vec::new();
    for (address, count) in [(harness.server.grpc_address, 300), (harness.server.health_address, 100)] {
        for _ in 0..count {
            let socket = TcpSocket::new_v4().unwrap();
            silent.push(socket.connect(address).await.unwrap());
        }
    }
    let (_request, picked) = Gateway::connect(&harness).await.pick().await;
    assert_eq!(picked[0], "127.0.1.1:8000");
    let address = format!("http://{}", harness.server.health_address);
    let channel = tonic::transport::Channel::from_shared(address).unwrap().connect().await.unwrap();
    let mut probes = tonic_health::pb::health_client::HealthClient::new(channel);
    let probe = tonic_health::pb::HealthCheckRequest { service: "liveness".into() };
    let response = tokio::time::timeout(std::time::Duration::from_secs(1), probes.check(probe)).await;
    response.expect("within the timeout of the kubelet").unwrap();
}
