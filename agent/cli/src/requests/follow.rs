//! The streams of requests of all agents, merged.

use std::{future::pending, net::SocketAddr};

use forebay_telemetry::{
    client::{Error, Pauses},
    requests::{ReceivedRequests, RequestOptions, RequestStream},
};
use tokio::{
    sync::mpsc,
    task::{AbortHandle, JoinSet},
};

use crate::{agents::Agents, forward::Forwarding, target::Target};

/// Maximum frames that wait. A stream waits while the queue is full: the agent then drops requests and counts them.
const QUEUE: usize = 16;

#[derive(Debug)]
pub(crate) enum Event {
    Frame(ReceivedRequests),
    /// The stream ended or could not be opened. It is opened again.
    Down(Error),
}

#[derive(Debug)]
pub(super) struct RequestStreams {
    options: RequestOptions,
    sender: mpsc::Sender<(usize, Event)>,
    events: mpsc::Receiver<(usize, Event)>,
    /// By agent.
    handles: Vec<AbortHandle>,
    tasks: JoinSet<()>,
    _forwarding: Forwarding,
}

impl RequestStreams {
    pub(super) fn start(agents: Agents, options: &RequestOptions) -> Self {
        let (sender, events) = mpsc::channel(QUEUE);
        let mut streams = Self {
            options: options.clone(),
            sender,
            events,
            handles: Vec::new(),
            tasks: JoinSet::new(),
            _forwarding: agents.forwarding,
        };
        for target in &agents.targets {
            streams.add(target);
        }
        streams
    }

    /// Starts the stream of one more agent, whose index is the next one.
    pub(super) fn add(&mut self, target: &Target) {
        let events = self.sender.clone();
        let following = follow(self.handles.len(), target.address, self.options.clone(), events);
        self.handles.push(self.tasks.spawn(following));
    }

    /// The next event with the index of its agent.
    pub(super) async fn next(&mut self) -> (usize, Event) {
        match self.events.recv().await {
            Some(event) => event,
            // Unreachable: this has a sender.
            None => pending().await,
        }
    }

    /// Ends the stream of an agent.
    pub(super) fn stop(&self, agent: usize) {
        if let Some(handle) = self.handles.get(agent) {
            handle.abort();
        }
    }
}

async fn follow(
    agent: usize,
    address: SocketAddr,
    options: RequestOptions,
    sender: mpsc::Sender<(usize, Event)>,
) {
    let mut pauses = Pauses::default();
    loop {
        let error = match RequestStream::open(address, &options).await {
            Err(error) => error,
            Ok(mut stream) => loop {
                match stream.next().await {
                    Err(error) => break error,
                    Ok(received) => {
                        pauses = Pauses::default();
                        if sender.send((agent, Event::Frame(received))).await.is_err() {
                            return;
                        }
                    }
                }
            },
        };
        if sender.send((agent, Event::Down(error))).await.is_err() {
            return;
        }
        tokio::time::sleep(pauses.lengthen()).await;
    }
}
