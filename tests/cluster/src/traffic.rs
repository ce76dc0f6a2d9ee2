//! Requests as OpenAI clients send them, one by one or as a load in the background.

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

/// One answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    pub status: u16,
    pub body: String,
}

/// The guide's request: one chat completion of this model.
pub fn chat(gateway: SocketAddr, model: &str) -> Result<Answer> {
    let body = serde_json::json!({ "model": model, "messages": [{ "role": "user", "content": "Hello" }] })
        .to_string();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut client = Client::new(gateway);
        let request = client.post_json("/v1/chat/completions", &body);
        let outcome = tokio::time::timeout(TIME_LIMIT, request).await.context("no answer in time")??;
        Ok(Answer { status: outcome.status, body: outcome.body })
    })
}

/// Users that send streams one after the other until told to stop.
#[derive(Debug)]
pub struct Traffic {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicU32>,
    users: Vec<JoinHandle<Vec<String>>>,
}

impl Traffic {
    /// `users` per model, each with a connection that is kept as long as the gateway
    /// keeps it.
    pub fn start(gateway: SocketAddr, models: &[&str], users: u32, tokens: u32) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let answered = Arc::new(AtomicU32::new(0));
        let users = (0..users)
            .flat_map(|_| models.iter().map(|model| (*model).to_owned()))
            .map(|model| {
                let (stop, answered) = (Arc::clone(&stop), Arc::clone(&answered));
                std::thread::spawn(move || user(gateway, &model, tokens, &stop, &answered))
            })
            .collect();
        Self { stop, answered, users }
    }

    pub fn answered(&self) -> u32 {
        self.answered.load(Ordering::Relaxed)
    }

    /// How many were answered, and what went wrong with the others.
    ///
    /// # Panics
    /// When a user's thread has panicked.
    pub fn finish(self) -> (u32, Vec<String>) {
        self.stop.store(true, Ordering::Relaxed);
        let failed =
            self.users.into_iter().flat_map(|user| user.join().expect("a user does not panic")).collect();
        (self.answered.load(Ordering::Relaxed), failed)
    }
}

/// A user's failures; one that fails all the time is not worth more lines.
const MOST_FAILURES: usize = 20;

fn user(
    gateway: SocketAddr,
    model: &str,
    tokens: u32,
    stop: &AtomicBool,
    answered: &AtomicU32,
) -> Vec<String> {
    let mut failed = Vec::new();
    let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else {
        return vec!["no runtime".into()];
    };
    let mut client = Client::new(gateway);
    let shape = Shape::Stream { tokens };
    while !stop.load(Ordering::Relaxed) && failed.len() < MOST_FAILURES {
        let answer =
            runtime.block_on(async { tokio::time::timeout(TIME_LIMIT, client.chat(model, &shape)).await });
        match answer {
            Ok(Ok(outcome)) if outcome.status == 200 && outcome.done => {
                answered.fetch_add(1, Ordering::Relaxed);
            }
            Ok(Ok(outcome)) => failed.push(format!("{model}: {} {}", outcome.status, outcome.body)),
            Ok(Err(error)) => failed.push(format!("{model}: {error}")),
            Err(_late) => failed.push(format!("{model}: no end within {TIME_LIMIT:?}")),
        }
    }
    failed
}
