//! OpenAI requests: single ones, and a background load.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use anyhow::{Context as _, Result};
use forebay_e2e::load::{Client, Shape};

const TIME_LIMIT: Duration = Duration::from_secs(60);

/// A response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChatResponse {
    pub status: u16,
    pub body: String,
}

/// Sends the request of the guide: a chat completion of this model.
///
/// # Errors
/// When there is no complete response within the time limit.
pub fn chat(gateway: SocketAddr, model: &str) -> Result<ChatResponse> {
    let body = serde_json::json!({ "model": model, "messages": [{ "role": "user", "content": "Hello" }] })
        .to_string();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut client = Client::new(gateway);
        let request = client.post_json("/v1/chat/completions", &body);
        let outcome = tokio::time::timeout(TIME_LIMIT, request).await.context("timeout")??;
        Ok(ChatResponse { status: outcome.status, body: outcome.body })
    })
}

/// Clients that send one stream after the other until they are stopped.
#[derive(Debug)]
pub struct Traffic {
    stop: Arc<AtomicBool>,
    completed: Arc<AtomicU32>,
    users: Vec<JoinHandle<Vec<String>>>,
}

impl Traffic {
    /// Starts `users` clients per model, each with a keep-alive connection.
    pub fn start(gateway: SocketAddr, models: &[&str], users: u32, tokens: u32) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let completed = Arc::new(AtomicU32::new(0));
        let users = (0..users)
            .flat_map(|_| models.iter().map(|model| (*model).to_owned()))
            .map(|model| {
                let (stop, completed) = (Arc::clone(&stop), Arc::clone(&completed));
                std::thread::spawn(move || user(gateway, &model, tokens, &stop, &completed))
            })
            .collect();
        Self { stop, completed, users }
    }

    /// Number of complete streams so far.
    pub fn completed(&self) -> u32 {
        self.completed.load(Ordering::Relaxed)
    }

    /// Stops the clients. Returns the number of complete streams and the errors.
    ///
    /// # Panics
    /// When a client thread has panicked.
    pub fn finish(self) -> (u32, Vec<String>) {
        self.stop.store(true, Ordering::Relaxed);
        let failed =
            self.users.into_iter().flat_map(|user| user.join().expect("no client thread panics")).collect();
        (self.completed.load(Ordering::Relaxed), failed)
    }
}

/// Maximum errors of a client, after which it stops.
const MAX_ERRORS: usize = 20;

fn user(
    gateway: SocketAddr,
    model: &str,
    tokens: u32,
    stop: &AtomicBool,
    completed: &AtomicU32,
) -> Vec<String> {
    let mut failed = Vec::new();
    let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else {
        return vec!["no runtime".into()];
    };
    let mut client = Client::new(gateway);
    let shape = Shape::Stream { tokens };
    while !stop.load(Ordering::Relaxed) && failed.len() < MAX_ERRORS {
        let response =
            runtime.block_on(async { tokio::time::timeout(TIME_LIMIT, client.chat(model, &shape)).await });
        match response {
            Ok(Ok(outcome)) if outcome.status == 200 && outcome.done => {
                completed.fetch_add(1, Ordering::Relaxed);
            }
            Ok(Ok(outcome)) => failed.push(format!("{model}: {} {}", outcome.status, outcome.body)),
            Ok(Err(error)) => failed.push(format!("{model}: {error}")),
            Err(_late) => failed.push(format!("{model}: not complete within {TIME_LIMIT:?}")),
        }
    }
    failed
}
