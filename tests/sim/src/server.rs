//! The server: connections, paths, and what happens to a request.

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinSet,
};

use crate::{
    api::{self, Answer, Failure, Job, Kind},
    engine::{Engine, EngineOptions, Waiting},
    metrics::Metrics,
    other,
    prompt::Prompt,
    truth::{Open, Truth},
    wire::{Request, Wire},
};

const METRICS_TYPE: &str = "text/plain; version=1.0.0; charset=utf-8";
/// uvicorn's (`VLLM_HTTP_TIMEOUT_KEEP_ALIVE`).
const KEEP_ALIVE: Duration = Duration::from_secs(5);

#[derive(Clone, Debug)]
pub struct ServerOptions {
    pub engine: EngineOptions,
    /// The model's name, then those of its adapters.
    pub models: Vec<String>,
    /// How late `/metrics` is.
    pub metrics_lag: Duration,
    /// SSE comments while a request waits (`--sse-keep-alive-interval`).
    pub sse_keep_alive: Option<Duration>,
}

/// A running server. Dropping it closes everything at once, like a killed process.
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
    /// Serves vLLM's API on one listener and the truth on another.
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
        tasks.spawn(metrics.follow(engine, shared.options.metrics_lag));
        tasks.spawn(accept(listener, Arc::clone(&shared), Shared::serve));
        tasks.spawn(accept(truth, Arc::clone(&shared), Shared::tell_truth));
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

    /// Never, unless a listener fails.
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
                // Out of descriptors: wait for one to be given back.
                Err(_) => { let _ = connections.join_next().await; }
            },
            Some(_) = connections.join_next(), if !connections.is_empty() => {}
        }
    }
}

impl Shared {
    async fn tell_truth(self: Arc<Self>, stream: TcpStream) {
        let Ok(mut wire) = Wire::new(stream) else { return };
        while let Ok(Some(_)) = wire.head().await {
            let body = serde_json::to_string(&self.truth.read()).unwrap_or_default();
            if wire.answer("200 OK", "", "application/json", &body).await.is_err() {
                return;
            }
        }
    }

    async fn serve(self: Arc<Self>, stream: TcpStream) {
        let Ok(mut wire) = Wire::new(stream) else { return };
        // An error is a client that left or spoke no HTTP: the connection is over.
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
            "/health" | "/ping" => wire.answer("200 OK", "", "text/plain", "").await,
            "/v1/models" => {
                let len = self.options.engine.max_model_len;
                wire.answer("200 OK", "", json, &api::models(&self.options.models, len, now_seconds())).await
            }
            "/metrics" => {
                let text = self.metrics.render(&self.options.models[0], &self.engine);
                wire.answer("200 OK", "", METRICS_TYPE, &text).await
            }
            "/v1/chat/completions" | "/v1/completions" | "/v1/responses" => {
                let body = r#"{"detail":"Method Not Allowed"}"#;
                wire.answer("405 Method Not Allowed", "allow: POST\r\n", json, body).await
            }
            _ => wire.answer("404 Not Found", "", json, r#"{"detail":"Not Found"}"#).await,
        }
    }

    async fn post(&self, wire: &mut Wire, request: &Request, open: Open<'_>) -> io::Result<()> {
        let body = wire.body(request).await?;
        let kind = match request.path.as_str() {
            "/v1/chat/completions" => Kind::Chat,
            "/v1/completions" => Kind::Completion,
            "/v1/responses" => Kind::Response,
            "/v1/embeddings" => {
                let made = other::embeddings(&body, &self.options.models, &self.fresh_id(), now_seconds());
                return at_once(wire, made, open).await;
            }
            "/v1/audio/transcriptions" => {
                let content_type = request.content_type.as_deref();
                let made = other::transcription(content_type, &body, &self.options.models);
                return at_once(wire, made, open).await;
            }
            "/v1/models" | "/health" | "/metrics" => {
                let body = r#"{"detail":"Method Not Allowed"}"#;
                wire.answer("405 Method Not Allowed", "allow: GET\r\n", "application/json", body).await?;
                open.finish(405);
                return Ok(());
            }
            _ => {
                wire.answer("404 Not Found", "", "application/json", r#"{"detail":"Not Found"}"#).await?;
                open.finish(404);
                return Ok(());
            }
        };
        let max_model_len = self.options.engine.max_model_len;
        let job =
            api::parse(kind, request.content_type.as_deref(), &body, &self.options.models, max_model_len);
        let failure = match job {
            Ok(job) => {
                let prompt = Prompt::new(&job.prompt, self.options.engine.block_size);
                if prompt.tokens > max_model_len {
                    api::too_long(prompt.tokens, max_model_len)
                } else if let Ok(waiting) = self.engine.enqueue() {
                    let id = request.request_id.clone().unwrap_or_else(|| self.fresh_id());
                    let answer = Answer::new(&job, &id, now_seconds());
                    let turn = Turn { job: &job, answer: &answer, prompt: &prompt, waiting, open };
                    return if job.stream {
                        self.stream(wire, turn, request.keep_alive).await
                    } else {
                        whole(wire, turn).await
                    };
                } else {
                    api::busy()
                }
            }
            Err(failure) => failure,
        };
        at_once(wire, Err(failure), open).await
    }

    async fn stream(&self, wire: &mut Wire, turn: Turn<'_>, keep_alive: bool) -> io::Result<()> {
        let Turn { job, answer, prompt, waiting, open } = turn;
        let left = || io::Error::from(io::ErrorKind::ConnectionAborted);
        // The head goes out before the engine has looked at the request.
        wire.stream_head(keep_alive).await?;
        let prefill = waiting.prefill(&prompt.blocks, prompt.tokens);
        tokio::pin!(prefill);
        let running = loop {
            let comment = async {
                match self.options.sse_keep_alive {
                    Some(interval) => tokio::time::sleep(interval).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                running = &mut prefill => break running,
                () = comment => wire.event(": keep-alive").await?,
                () = wire.gone() => return Err(left()),
            }
        };
        for index in 0..job.max_tokens {
            tokio::select! {
                () = running.token() => {}
                () = wire.gone() => return Err(left()),
            }
            if index == 0 {
                // With the first token, in events of their own.
                for event in answer.opening() {
                    wire.event(&event).await?;
                }
            }
            wire.event(&answer.event(index)).await?;
            self.truth.token();
        }
        running.succeed();
        for event in answer.closing(prompt.tokens) {
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

/// A request that the engine has taken, with all there is to it.
struct Turn<'a> {
    job: &'a Job,
    answer: &'a Answer<'a>,
    prompt: &'a Prompt,
    waiting: Waiting<'a>,
    open: Open<'a>,
}

async fn at_once(wire: &mut Wire, made: Result<String, Failure>, open: Open<'_>) -> io::Result<()> {
    let (code, reason, body) = match made {
        Ok(body) => (200, "OK", body),
        Err(failure) => (failure.status, failure.reason, failure.body),
    };
    wire.answer(&format!("{code} {reason}"), "", "application/json", &body).await?;
    open.finish(code);
    Ok(())
}

async fn whole(wire: &mut Wire, turn: Turn<'_>) -> io::Result<()> {
    let Turn { job, answer, prompt, waiting, open } = turn;
    let generate = async {
        let running = waiting.prefill(&prompt.blocks, prompt.tokens).await;
        for _ in 0..job.max_tokens {
            running.token().await;
        }
        running.succeed();
    };
    tokio::select! {
        () = generate => {}
        () = wire.gone() => return Err(io::ErrorKind::ConnectionAborted.into()),
    }
    wire.answer("200 OK", "", "application/json", &answer.whole(prompt.tokens)).await?;
    open.finish(200);
    Ok(())
}

fn now_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
