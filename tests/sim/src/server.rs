//! The HTTP server: connections, routing by path, and the life of a request.

use std::{
    io,
    net::SocketAddr,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use forebay_routing_sim::engine::TooLong;
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinSet,
};

use crate::{
    bodies,
    engine::{Engine, EngineOptions, Waiting},
    metrics::Metrics,
    other,
    output::Output,
    prompt::Prompt,
    request::{self, Failure, Job, Kind},
    truth::{Open, Truth},
    wire::{Request, Wire},
};

const METRICS_TYPE: &str = "text/plain; version=1.0.0; charset=utf-8";
/// uvicorn's keep-alive timeout (`VLLM_HTTP_TIMEOUT_KEEP_ALIVE`).
const KEEP_ALIVE: Duration = Duration::from_secs(5);

#[derive(Clone, Debug)]
pub struct ServerOptions {
    pub engine: EngineOptions,
    /// Name of the model, then the names of its LoRA adapters.
    pub models: Vec<String>,
    /// Delay of the values in `/metrics`.
    pub metrics_lag: Duration,
    /// SSE comments while a request waits (`--sse-keep-alive-interval`).
    pub sse_keep_alive: Option<Duration>,
    /// File with the speed of the engine in percent, read while it runs.
    pub speed_file: Option<PathBuf>,
}

/// A running server. Drop closes all connections at once, like a killed process.
#[derive(Debug)]
pub struct Server {
    address: SocketAddr,
    truth_address: SocketAddr,
    shared: Arc<Shared>,
    tasks: JoinSet<()>,
}

#[derive(Debug)]
struct Shared {
    options: ServerOptions,
    engine: Arc<Engine>,
    metrics: Arc<Metrics>,
    truth: Truth,
    next_id: AtomicU64,
}

impl Server {
    /// Serves vLLM's API on `listener` and the exact counters on `truth`.
    pub fn start(listener: TcpListener, truth: TcpListener, options: ServerOptions) -> io::Result<Self> {
        let engine = Engine::new(options.engine.clone());
        let metrics = Arc::new(Metrics::default());
        let shared = Arc::new(Shared {
            engine: Arc::clone(&engine),
            metrics: Arc::clone(&metrics),
            truth: Truth::default(),
            next_id: AtomicU64::new(0),
            options,
        });
        let (address, truth_address) = (listener.local_addr()?, truth.local_addr()?);
        let mut tasks = JoinSet::new();
        tasks.spawn(metrics.follow(Arc::clone(&engine), shared.options.metrics_lag));
        {
            let engine = Arc::clone(&engine);
            tasks.spawn(async move { engine.run().await });
        }
        if let Some(file) = shared.options.speed_file.clone() {
            tasks.spawn(async move { engine.speed.follow(&file).await });
        }
        tasks.spawn(accept(listener, Arc::clone(&shared), Shared::serve));
        tasks.spawn(accept(truth, Arc::clone(&shared), Shared::serve_truth));
        Ok(Self { address, truth_address, shared, tasks })
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn truth_address(&self) -> SocketAddr {
        self.truth_address
    }

    pub fn truth(&self) -> crate::TruthCounters {
        self.shared.truth.read()
    }

    /// Waits for a task to end: only when a listener fails.
    pub async fn join(&mut self) {
        let _ = self.tasks.join_next().await;
    }
}

async fn accept<F: Future<Output = ()> + Send + 'static>(
    listener: TcpListener,
    shared: Arc<Shared>,
    serve: fn(Arc<Shared>, TcpStream) -> F,
) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => { connections.spawn(serve(Arc::clone(&shared), stream)); }
                // Out of file descriptors: wait until a connection closes.
                Err(_) => { let _ = connections.join_next().await; }
            },
            Some(_) = connections.join_next(), if !connections.is_empty() => {}
        }
    }
}

impl Shared {
    async fn serve_truth(self: Arc<Self>, stream: TcpStream) {
        let Ok(mut wire) = Wire::new(stream) else { return };
        while let Ok(Some(_)) = wire.head().await {
            let body = serde_json::to_string(&self.truth.read()).unwrap_or_default();
            if wire.respond("200 OK", "", "application/json", &body).await.is_err() {
                return;
            }
        }
    }

    async fn serve(self: Arc<Self>, stream: TcpStream) {
        let Ok(mut wire) = Wire::new(stream) else { return };
        // On an error the client left or sent invalid HTTP: close the connection.
        while let Ok(Ok(Some(request))) = tokio::time::timeout(KEEP_ALIVE, wire.head()).await {
            let served = if request.method == "POST" {
                let open = self.truth.begin();
                self.post(&mut wire, &request, open).await
            } else {
                self.get(&mut wire, &request).await
            };
            if served.is_err() || !request.keep_alive {
                return;
            }
        }
    }

    async fn get(&self, wire: &mut Wire, request: &Request) -> io::Result<()> {
        wire.body(request).await?;
        let json = "application/json";
        match request.path.as_str() {
            "/health" | "/ping" => wire.respond("200 OK", "", "text/plain", "").await,
            "/v1/models" => {
                let len = self.engine.options.max_model_len;
                wire.respond("200 OK", "", json, &bodies::models(&self.options.models, len, now_seconds()))
                    .await
            }
            "/metrics" => {
                let text = self.metrics.render(&self.options.models[0], &self.engine);
                wire.respond("200 OK", "", METRICS_TYPE, &text).await
            }
            "/v1/chat/completions" | "/v1/completions" | "/v1/responses" => {
                let body = r#"{"detail":"Method Not Allowed"}"#;
                wire.respond("405 Method Not Allowed", "allow: POST\r\n", json, body).await
            }
            _ => wire.respond("404 Not Found", "", json, r#"{"detail":"Not Found"}"#).await,
        }
    }

    async fn post(&self, wire: &mut Wire, request: &Request, open: Open<'_>) -> io::Result<()> {
        let body = wire.body(request).await?;
        let kind = match request.path.as_str() {
            "/v1/chat/completions" => Kind::Chat,
            "/v1/completions" => Kind::Completion,
            "/v1/responses" => Kind::Response,
            "/v1/embeddings" => {
                let result = other::embeddings(&body, &self.options.models, &self.fresh_id(), now_seconds());
                return respond_once(wire, result, open).await;
            }
            "/v1/audio/transcriptions" => {
                let content_type = request.content_type.as_deref();
                let result = other::transcription(content_type, &body, &self.options.models);
                return respond_once(wire, result, open).await;
            }
            "/v1/models" | "/health" | "/metrics" => {
                let body = r#"{"detail":"Method Not Allowed"}"#;
                wire.respond("405 Method Not Allowed", "allow: GET\r\n", "application/json", body).await?;
                open.finish(405);
                return Ok(());
            }
            _ => {
                wire.respond("404 Not Found", "", "application/json", r#"{"detail":"Not Found"}"#).await?;
                open.finish(404);
                return Ok(());
            }
        };
        let max_model_len = self.engine.options.max_model_len;
        let job =
            request::parse(kind, request.content_type.as_deref(), &body, &self.options.models, max_model_len);
        let failure = match job {
            Ok(job) => {
                let prompt = self.engine.prompt(&job.prompt);
                if prompt.tokens > max_model_len {
                    request::too_long(prompt.tokens, max_model_len)
                } else if let Ok(waiting) = self.engine.enqueue() {
                    let id = request.request_id.clone().unwrap_or_else(|| self.fresh_id());
                    let output = Output::new(&job, &id, now_seconds());
                    let queued = QueuedRequest { job: &job, output: &output, prompt: &prompt, waiting, open };
                    return if job.stream {
                        self.stream(wire, queued, request.keep_alive).await
                    } else {
                        whole(wire, queued).await
                    };
                } else {
                    request::busy()
                }
            }
            Err(failure) => failure,
        };
        respond_once(wire, Err(failure), open).await
    }

    async fn stream(&self, wire: &mut Wire, queued: QueuedRequest<'_>, keep_alive: bool) -> io::Result<()> {
        let QueuedRequest { job, output, prompt, waiting, open } = queued;
        let aborted = || io::Error::from(io::ErrorKind::ConnectionAborted);
        // vLLM sends the response head before it schedules the request.
        wire.stream_head(keep_alive).await?;
        let prefill = waiting.prefill(prompt, job.max_tokens);
        tokio::pin!(prefill);
        let mut running = loop {
            let comment = async {
                match self.options.sse_keep_alive {
                    Some(interval) => tokio::time::sleep(interval).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                running = &mut prefill => break running.map_err(too_long)?,
                () = comment => wire.event(": keep-alive").await?,
                () = wire.gone() => return Err(aborted()),
            }
        };
        for index in 0..job.max_tokens {
            tokio::select! {
                () = running.token() => {}
                () = wire.gone() => return Err(aborted()),
            }
            if index == 0 {
                // Sent with the first token, as separate events.
                for event in output.opening() {
                    wire.event(&event).await?;
                }
            }
            wire.event(&output.event(index)).await?;
            self.truth.token();
        }
        running.succeed();
        for event in output.closing(prompt.tokens) {
            wire.event(&event).await?;
        }
        wire.terminator().await?;
        open.finish(200);
        Ok(())
    }

    fn fresh_id(&self) -> String {
        format!("{:016x}", self.next_id.fetch_add(1, Relaxed))
    }
}

/// A request that the engine has queued.
struct QueuedRequest<'a> {
    job: &'a Job,
    output: &'a Output<'a>,
    prompt: &'a Prompt,
    waiting: Waiting<'a>,
    open: Open<'a>,
}

async fn respond_once(wire: &mut Wire, result: Result<String, Failure>, open: Open<'_>) -> io::Result<()> {
    let (code, reason, body) = match result {
        Ok(body) => (200, "OK", body),
        Err(failure) => (failure.status, failure.reason, failure.body),
    };
    wire.respond(&format!("{code} {reason}"), "", "application/json", &body).await?;
    open.finish(code);
    Ok(())
}

async fn whole(wire: &mut Wire, queued: QueuedRequest<'_>) -> io::Result<()> {
    let QueuedRequest { job, output, prompt, waiting, open } = queued;
    let generate = async {
        let mut running = waiting.prefill(prompt, job.max_tokens).await.map_err(too_long)?;
        for _ in 0..job.max_tokens {
            running.token().await;
        }
        running.succeed();
        io::Result::Ok(())
    };
    tokio::select! {
        generated = generate => generated?,
        () = wire.gone() => return Err(io::ErrorKind::ConnectionAborted.into()),
    }
    wire.respond("200 OK", "", "application/json", &output.whole(prompt.tokens)).await?;
    open.finish(200);
    Ok(())
}

fn too_long(_: TooLong) -> io::Error {
    io::Error::other("the request needs more blocks than the engine has")
}

fn now_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
