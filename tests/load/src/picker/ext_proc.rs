//! Picks per core-second of forebay-epp over ext_proc, with a gateway that sends bodies as Envoy does (`FULL_DUPLEX_STREAMED`,
//! in chunks), and with one that sends the prompt in messages as Forebay's does.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::Path,
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use bytes::Bytes;
use forebay_bench::{
    report::{Section, median, say},
    usage::Tree,
};
use forebay_e2e::harness::{Process, program};
use forebay_epp::{features::PromptSender, schedule::PromptReader};
use forebay_grpc::names::{
    DESTINATION_ENDPOINT, METADATA_FOREBAY, POOL, PROMPT_TYPE, PROMPT_VERSION, SENDS_PROMPT,
};
use forebay_grpc::proto::{
    Any, BodySendMode, HeaderMap, HeaderValue, HttpBody, HttpHeaders, Kind, Metadata, ProcessingRequest,
    ProcessingResponse, ProtocolConfiguration, Struct, Value, body_mutation::Mutation,
    external_processor_client::ExternalProcessorClient, processing_request::Request,
    processing_response::Response,
};
use prost::Message as _;
use tokio::time::{Instant, timeout};
use tonic::transport::{Channel, Endpoint};

const SIZES: [(&str, usize); 4] =
    [("0.3 KB", 300), ("16 KB", 16 << 10), ("100 KB", 100 << 10), ("220 KB", 220 << 10)];
const PODS: u8 = 8;
/// Connections of the gateway, and concurrent requests of each.
const CONNECTIONS: usize = 2;
const STREAMS: usize = 16;
/// Bytes of a body in one message.
const CHUNK: usize = 16 << 10;
/// Part of a body that all requests of a conversation share, of 16.
const SHARED_SIXTEENTHS: usize = 12;
const START_TIMEOUT: Duration = Duration::from_secs(10);
/// A policy that reads no prompt decides on the headers.
const POLICIES: [&str; 2] = ["forebay", "least-request"];

/// What the gateway sends of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Content {
    /// The body, which is sent back.
    Body,
    /// The prompt, as hashes of its blocks.
    Prompt,
}

pub(crate) fn measure(runs: u32, duration: Duration) -> Result<Section> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut section = Section::new("Picks per core-second of forebay-epp over ext_proc (median)");
    section.line(format_args!(
        "{:>7}  {:>12}  {:>14}  {:>6}  {:>16}  {:>6}",
        "body", "as bytes", "least-request", "ratio", "as messages", "ratio"
    ));
    let folder = tempfile::tempdir()?;
    write_manifests(folder.path())?;
    let pickers = POLICIES.map(|policy| Picker::start(folder.path(), policy));
    let [forebay, baseline] = pickers;
    let (forebay, baseline) = (forebay?, baseline?);
    for (name, bytes) in SIZES {
        say(&format!("bodies of {name}"));
        let mut rates: [Vec<f64>; 3] = Default::default();
        for _ in 0..runs {
            let ways = [(&forebay, Content::Body), (&baseline, Content::Body), (&forebay, Content::Prompt)];
            for ((picker, content), rates) in ways.into_iter().zip(&mut rates) {
                rates.push(runtime.block_on(picker.rate(bytes, duration, content))?);
            }
        }
        let [body, without, prompt] = rates.map(median);
        section.line(format_args!(
            "{name:>7}  {body:>12.0}  {without:>14.0}  {:>6.2}  {prompt:>16.0}  {:>6.2}",
            body / without,
            prompt / body
        ));
    }
    section.line(
        "least-request: --policy least-request, which decides on the headers. The gateway sends the body",
    );
    section.line("nevertheless, and it is sent back, as the protocol demands. As messages: the prompt is sent as hashes,");
    section
        .line("as between Forebay's gateway and picker; its ratio is to the same picker that gets the body.");
    Ok(section)
}

fn write_manifests(folder: &Path) -> Result<()> {
    let mut text = "apiVersion: inference.networking.k8s.io/v1
kind: InferencePool
metadata: {name: qwen, namespace: bench}
spec:
  selector: {matchLabels: {app: qwen}}
  targetPorts: [{number: 8000}]
  endpointPickerRef: {name: epp, port: {number: 9002}}
"
    .to_owned();
    for pod in 1..=PODS {
        text += &format!(
            "---
apiVersion: v1
kind: Pod
metadata: {{name: qwen-{pod}, namespace: bench, labels: {{app: qwen}}}}
spec: {{nodeName: bench, containers: [{{name: main, image: local}}]}}
status: {{phase: Running, podIP: 127.0.1.{pod}, conditions: [{{type: Ready, status: 'True'}}]}}
"
        );
    }
    Ok(fs::write(folder.join("all.yaml"), text)?)
}

struct Picker {
    process: Process,
    address: SocketAddr,
}

impl Picker {
    fn start(folder: &Path, policy: &str) -> Result<Self> {
        let [grpc, health, http] = [free_port()?, free_port()?, free_port()?];
        let args = [
            format!("--resources={}", folder.display()),
            "--pool-namespace=bench".into(),
            "--pool-name=qwen".into(),
            format!("--grpc-listen={grpc}"),
            format!("--health-listen={health}"),
            format!("--http-listen={http}"),
            format!("--policy={policy}"),
        ];
        let environment = [("RUST_LOG", "warn".to_owned())];
        let process = Process::start(policy, &program("forebay-epp")?, &args, &environment, folder, None)?;
        Ok(Self { process, address: grpc })
    }

    /// Picks per second of CPU time of the process.
    async fn rate(&self, body_bytes: usize, duration: Duration, content: Content) -> Result<f64> {
        let endpoint = Endpoint::from_shared(format!("http://{}", self.address))?;
        let channel = self.connect().await?;
        let mut channels = vec![channel];
        while channels.len() < CONNECTIONS {
            channels.push(endpoint.connect().await?);
        }
        let tree = Tree(self.process.pid());
        let before = tree.cpu()?.total();
        let deadline = Instant::now() + duration;
        let streams = (0..CONNECTIONS * STREAMS).map(|number| {
            let client = ExternalProcessorClient::new(channels[number % CONNECTIONS].clone());
            send_until(deadline, client, number, body_bytes, content)
        });
        let counts = futures_util::future::try_join_all(streams).await?;
        let cpu = (tree.cpu()?.total() - before).as_secs_f64();
        Ok(counts.iter().sum::<u64>() as f64 / cpu)
    }

    async fn connect(&self) -> Result<Channel> {
        connect(self.address, || self.process.log_tail()).await
    }
}

/// Waits until forebay-epp listens. `log`: what it says meanwhile.
pub(crate) async fn connect(address: SocketAddr, log: impl Fn() -> String) -> Result<Channel> {
    let endpoint = Endpoint::from_shared(format!("http://{address}"))?;
    let connecting = async {
        loop {
            match endpoint.connect().await {
                Ok(channel) => return channel,
                Err(_not_yet) => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    };
    let log = || format!("forebay-epp does not listen:\n{}", log());
    timeout(START_TIMEOUT, connecting).await.with_context(log)
}

/// The endpoint that is picked for a request without a body to `pool`.
pub(crate) async fn pick_for(channel: Channel, pool: &str) -> Result<SocketAddr> {
    let value = Value { kind: Some(Kind::StringValue(pool.to_owned())) };
    let hints = Struct { fields: [(POOL.to_owned(), value)].into() };
    let mut headers = messages(Bytes::new());
    for message in &mut headers {
        let filter_metadata = [(METADATA_FOREBAY.to_owned(), hints.clone())].into();
        message.metadata_context = Some(Metadata { filter_metadata, ..Metadata::default() });
        if let Some(Request::RequestHeaders(headers)) = &mut message.request {
            headers.end_of_stream = true;
        }
    }
    let mut client = ExternalProcessorClient::new(channel);
    let mut replies = client.process(tokio_stream::iter(headers)).await?.into_inner();
    let reply = replies.message().await?.and_then(|reply| reply.response);
    let Some(Response::RequestHeaders(headers)) = reply else { bail!("no decision: {reply:?}") };
    let mutation = headers.response.and_then(|response| response.header_mutation).unwrap_or_default();
    let mut set = mutation.set_headers.into_iter().filter_map(|it| it.header);
    let picked = set.find(|header| header.key == DESTINATION_ENDPOINT).context("no endpoint")?;
    Ok(str::from_utf8(&picked.raw_value)?.parse()?)
}

pub(crate) fn free_port() -> Result<SocketAddr> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?)
}

/// Sends requests one after the other. Returns their number.
async fn send_until(
    deadline: Instant,
    mut client: ExternalProcessorClient<Channel>,
    conversation: usize,
    body_bytes: usize,
    content: Content,
) -> Result<u64> {
    let mut requests = 0;
    while Instant::now() < deadline {
        let body = body(conversation, requests, body_bytes);
        let (messages, length) = match content {
            Content::Body => (messages(body.clone()), body.len()),
            Content::Prompt => (vec![prompt_message(&body)?], 0),
        };
        let mut request = tonic::Request::new(tokio_stream::iter(messages));
        if content == Content::Prompt {
            request.metadata_mut().insert(SENDS_PROMPT, u32::from(PROMPT_VERSION).into());
        }
        check(client.process(request).await?.into_inner(), length).await?;
        requests += 1;
    }
    Ok(requests)
}

/// Reads the decision and the whole body.
async fn check(mut replies: tonic::Streaming<ProcessingResponse>, length: usize) -> Result<()> {
    let first = replies.message().await?.and_then(|reply| reply.response);
    ensure!(matches!(first, Some(Response::RequestHeaders(_))), "no decision: {first:?}");
    let mut received = 0;
    while let Some(reply) = replies.message().await? {
        let Some(Response::RequestBody(body)) = reply.response else { bail!("not a body: {reply:?}") };
        let mutation = body.response.and_then(|response| response.body_mutation?.mutation);
        let Some(Mutation::StreamedResponse(chunk)) = mutation else { bail!("not streamed: {mutation:?}") };
        received += chunk.body.len();
    }
    ensure!(received == length, "{received} of {length} bytes came back");
    Ok(())
}

/// The headers with the whole prompt.
fn prompt_message(body: &Bytes) -> Result<ProcessingRequest> {
    let reader = PromptReader::new("/v1/chat/completions", &http::HeaderMap::new()).context("no prompt")?;
    let mut sender = PromptSender::new(reader.with_length(Some(body.len() as u64)));
    sender.feed(body);
    sender.finish();
    let value = sender.message(false).encode_to_vec();
    let prompt = Any { type_url: PROMPT_TYPE.to_owned(), value };
    let typed_filter_metadata = [(METADATA_FOREBAY.to_owned(), prompt)].into();
    Ok(ProcessingRequest {
        metadata_context: Some(Metadata { typed_filter_metadata, ..Metadata::default() }),
        ..headers(body.len(), BodySendMode::None)
    })
}

fn messages(mut body: Bytes) -> Vec<ProcessingRequest> {
    let mut messages = vec![headers(body.len(), BodySendMode::FullDuplexStreamed)];
    while !body.is_empty() {
        let chunk = body.split_to(body.len().min(CHUNK));
        let request = Request::RequestBody(HttpBody { body: chunk, end_of_stream: body.is_empty() });
        messages.push(ProcessingRequest { request: Some(request), ..ProcessingRequest::default() });
    }
    messages
}

fn headers(length: usize, mode: BodySendMode) -> ProcessingRequest {
    let header = |key: &str, value: &str| HeaderValue {
        key: key.into(),
        raw_value: Bytes::copy_from_slice(value.as_bytes()),
        ..HeaderValue::default()
    };
    let headers = vec![
        header(":method", "POST"),
        header(":path", "/v1/chat/completions"),
        header("content-type", "application/json"),
        header("content-length", &length.to_string()),
    ];
    let headers = HttpHeaders { headers: Some(HeaderMap { headers }), end_of_stream: false };
    ProcessingRequest {
        request: Some(Request::RequestHeaders(headers)),
        protocol_config: Some(ProtocolConfiguration {
            request_body_mode: mode.into(),
            ..ProtocolConfiguration::default()
        }),
        ..ProcessingRequest::default()
    }
}

/// A chat of `bytes` whose beginning is the same in all requests of a conversation.
fn body(conversation: usize, request: u64, bytes: usize) -> Bytes {
    let text =
        |seed: String, bytes: usize| seed.bytes().cycle().take(bytes).map(char::from).collect::<String>();
    let [before, between, after] = [
        r#"{"model":"Qwen/Qwen3-0.6B","messages":[{"role":"system","content":""#,
        r#""},{"role":"user","content":""#,
        r#""}],"max_tokens":64,"stream":true}"#,
    ];
    let content = bytes.saturating_sub(before.len() + between.len() + after.len());
    let shared = content * SHARED_SIXTEENTHS / 16;
    let system = text(format!("Conversation {conversation} begins like this. "), shared);
    let question = text(format!("Question {request} of conversation {conversation}. "), content - shared);
    [before, &system, between, &question, after].concat().into()
}
