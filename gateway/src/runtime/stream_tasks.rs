use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Poll;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::lazy_deadline::IdleTimeout;

/// Spawns the streams of one HTTP/2 connection. They are cancelled when the connection ends.
#[derive(Clone, Debug)]
pub(crate) struct StreamTasks {
    tasks: TaskTracker,
    connection_ended: CancellationToken,
    stalls: Option<Arc<StreamStalls>>,
}

impl StreamTasks {
    pub(crate) fn new(tasks: TaskTracker, connection_ended: CancellationToken) -> Self {
        Self { tasks, connection_ended, stalls: None }
    }

    /// Streams that are announced to `stalls` are also cancelled when their peer takes no data.
    pub(crate) fn with_stalls(mut self, stalls: Arc<StreamStalls>) -> Self {
        self.stalls = Some(stalls);
        self
    }
}

impl<F> hyper::rt::Executor<F> for StreamTasks
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    fn execute(&self, stream: F) {
        let connection_ended = self.connection_ended.clone();
        let watched = self.stalls.as_ref().and_then(|stalls| Some((stalls.take()?, stalls.timeout)));
        self.tasks.spawn(async move {
            let mut stream = pin!(stream);
            let mut connection_ended = pin!(connection_ended.cancelled());
            let mut watch = watched.map(|(state, timeout)| Watch::new(state, timeout));
            poll_fn(|cx| {
                if stream.as_mut().poll(cx).is_ready() || connection_ended.as_mut().poll(cx).is_ready() {
                    return Poll::Ready(());
                }
                watch.as_mut().map_or(Poll::Pending, |watch| watch.poll_stalled(cx))
            })
            .await;
        });
    }
}

/// Detects streams whose peer gives no flow control window.
///
/// hyper polls a body, then waits for window for the frame it got. It reports neither. So the body reports its polls
/// ([`StreamState`]), and the task of the stream compares. hyper hands a stream to the executor in the same call in
/// which it calls the service, so the service announces the stream of the next [`hyper::rt::Executor::execute`].
#[derive(Debug)]
pub(crate) struct StreamStalls {
    timeout: Duration,
    announced: Mutex<Option<Arc<StreamState>>>,
}

impl StreamStalls {
    /// `timeout`: maximum time for which a frame waits for window.
    pub(crate) fn new(timeout: Duration) -> Arc<Self> {
        Arc::new(Self { timeout, announced: Mutex::default() })
    }

    /// Announces the stream that is spawned next.
    pub(crate) fn announce(&self) -> Arc<StreamState> {
        let state = Arc::new(StreamState::default());
        *self.announced.lock().unwrap_or_else(PoisonError::into_inner) = Some(state.clone());
        state
    }

    fn take(&self) -> Option<Arc<StreamState>> {
        self.announced.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// What the body of a stream reports to its task.
#[derive(Debug, Default)]
pub(crate) struct StreamState {
    polls: AtomicU32,
    /// A frame was returned and the body was not polled again: the frame waits for window.
    holds_frame: AtomicBool,
    is_stalled: AtomicBool,
}

impl StreamState {
    /// The body is polled.
    pub(crate) fn polled(&self) {
        self.polls.fetch_add(1, Ordering::Relaxed);
        self.holds_frame.store(false, Ordering::Relaxed);
    }

    /// The body returns a frame.
    pub(crate) fn returned(&self) {
        self.holds_frame.store(true, Ordering::Relaxed);
    }

    /// Whether the stream is cancelled because its peer took no data.
    pub(crate) fn is_stalled(&self) -> bool {
        self.is_stalled.load(Ordering::Relaxed)
    }
}

struct Watch {
    state: Arc<StreamState>,
    idle: IdleTimeout,
    polls: u32,
}

impl Watch {
    fn new(state: Arc<StreamState>, timeout: Duration) -> Self {
        Self { state, idle: IdleTimeout::new(timeout), polls: 0 }
    }

    /// Called while the stream is pending. Ready when a frame has waited for the timeout.
    fn poll_stalled(&mut self, cx: &mut std::task::Context<'_>) -> Poll<()> {
        let polls = self.state.polls.load(Ordering::Relaxed);
        if polls != self.polls || !self.state.holds_frame.load(Ordering::Relaxed) {
            self.polls = polls;
            self.idle.reset();
        }
        if !self.state.holds_frame.load(Ordering::Relaxed) {
            return Poll::Pending;
        }
        self.idle.poll_expired(cx).map(|_| self.state.is_stalled.store(true, Ordering::Relaxed))
    }
}
