//! Saves polls of a client's connection while its request body is read. Relies on an implementation detail of hyper.
//!
//! With HTTP/1, `hyper::body::Incoming` is a channel of capacity one whose sender is the connection. Taking a frame
//! (`Receiver::poll_next` in hyper's `body/chan.rs`) wakes the connection inside `Incoming::poll_frame`, so that it reads
//! the next frame.
//!
//! - After the last frame this wake has no effect: the connection is polled and finds nothing to do. Most bodies are one
//!   frame. [`poll_body_frame`] drops the wake when the body has ended.
//! - Before the last frame the next bytes usually have arrived already. [`CoalescingWaker::drive`] polls the connection
//!   again at once, while the frame just forwarded is still in the CPU caches, instead of queueing it behind all other
//!   connections. Without this, large bodies cost almost twice the CPU time.
//!
//! Should hyper stop waking the connection there, this module has no effect. Should it rely on the wake for something
//! else than reading the body (HTTP/2 does: window updates, so it is excluded), a request could stall. The tests pin the
//! version of hyper that was checked, [`CHECKED_HYPER`]. `--no-coalescing-waker` turns the module off to measure its
//! effect.

use std::cell::RefCell;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, Wake, Waker};

use bytes::Bytes;
use http_body::{Body as _, Frame};
use hyper::body::Incoming;

/// The version of hyper for which the wakes were checked.
#[cfg(test)]
const CHECKED_HYPER: &str = "1.12.0";

/// Maximum consecutive self-wakes before yielding to other tasks (about 1 MiB of body, 0.5 ms).
const MAX_SELF_WAKES: usize = 16;

thread_local! {
    static TAKING: RefCell<Taking> = const { RefCell::new(Taking::No) };
}

/// What this thread is doing with a body.
enum Taking {
    No,
    /// It is in [`poll_body_frame`].
    Yes,
    /// It is in [`poll_body_frame`], which has woken the connection of the body.
    Woken(Arc<CoalescingWaker>),
}

/// Waker of one connection. Wakes during a poll are merged into one further poll.
#[derive(Debug, Default)]
pub(crate) struct CoalescingWaker {
    /// Waker of the task that serves the connection, known after its first poll.
    task: OnceLock<Waker>,
    is_http1: AtomicBool,
    state: PollState,
}

#[derive(Debug, Default)]
struct PollState(AtomicU8);

impl PollState {
    const IDLE: u8 = 0;
    const POLLING: u8 = 1;
    const POLLING_AND_WOKEN: u8 = 2;

    fn begin(&self) {
        self.0.store(Self::POLLING, Ordering::Relaxed);
    }

    /// Ends the poll. True if the connection was woken during it.
    fn end(&self) -> bool {
        self.0.swap(Self::IDLE, Ordering::AcqRel) == Self::POLLING_AND_WOKEN
    }

    /// Records a wake for [`PollState::end`]. False if the connection is not being polled.
    fn wake(&self) -> bool {
        self.0
            .compare_exchange(Self::POLLING, Self::POLLING_AND_WOKEN, Ordering::AcqRel, Ordering::Acquire)
            .map_or_else(|state| state == Self::POLLING_AND_WOKEN, |_| true)
    }
}

impl CoalescingWaker {
    /// Whether the connection speaks HTTP/1. Only then the wake after the last frame can be dropped.
    pub(crate) fn set_http1(&self, is_http1: bool) {
        self.is_http1.store(is_http1, Ordering::Relaxed);
    }

    /// Polls `poll` with this waker until it is ready.
    pub(crate) async fn drive<T>(self: &Arc<Self>, mut poll: impl FnMut(&mut Context<'_>) -> Poll<T>) -> T {
        let waker = Waker::from(self.clone());
        poll_fn(|task| {
            // The waker of a task does not change.
            self.task.get_or_init(|| task.waker().clone());
            for _ in 0..MAX_SELF_WAKES {
                self.state.begin();
                let polled = poll(&mut Context::from_waker(&waker));
                let is_woken = self.state.end();
                if polled.is_ready() || !is_woken {
                    return polled;
                }
            }
            task.waker().wake_by_ref();
            Poll::Pending
        })
        .await
    }

    fn wake_task(&self) {
        if !self.state.wake()
            && let Some(task) = self.task.get()
        {
            task.wake_by_ref();
        }
    }
}

impl Wake for CoalescingWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        let is_deferred = self.is_http1.load(Ordering::Relaxed)
            && TAKING.with_borrow_mut(|taking| {
                let is_taking = !matches!(taking, Taking::No);
                if is_taking {
                    *taking = Taking::Woken(self.clone());
                }
                is_taking
            });
        if !is_deferred {
            self.wake_task();
        }
    }
}

/// Polls the next frame of a request body. Wakes the connection of the body unless the frame is the last one.
pub(crate) fn poll_body_frame(
    body: &mut Incoming,
    cx: &mut Context<'_>,
) -> Poll<Option<hyper::Result<Frame<Bytes>>>> {
    /// Delivers a deferred wake, also when `poll_frame` panics.
    struct Guard;
    impl Drop for Guard {
        fn drop(&mut self) {
            if let Taking::Woken(waker) = end() {
                waker.wake_task();
            }
        }
    }
    fn end() -> Taking {
        TAKING.replace(Taking::No)
    }

    TAKING.set(Taking::Yes);
    let guard = Guard;
    let frame = Pin::new(&mut *body).poll_frame(cx);
    if matches!(frame, Poll::Ready(Some(Ok(_)))) && body.is_end_stream() {
        end();
    }
    drop(guard);
    frame
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::future::{Future as _, pending};
    use std::pin::pin;
    use std::sync::atomic::AtomicUsize;

    use http::Response;
    use http_body_util::Empty;
    use hyper::server::conn::http1;
    use hyper::service::service_fn;
    use hyper_util::rt::TokioIo;
    use tokio::io::AsyncWriteExt as _;

    use super::*;

    const RECHECK: &str = "check that `Receiver::poll_next` in hyper's src/body/chan.rs still wakes the sender, that the \
        HTTP/1 dispatcher uses that wake only to read the body, and that the other tests of this module pass; then update \
        CHECKED_HYPER";

    #[test]
    fn hyper_is_the_version_that_was_checked() {
        let lock = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../Cargo.lock")).unwrap();
        let mut packages =
            lock.split("[[package]]").filter(|package| package.contains("\nname = \"hyper\"\n"));
        let version = packages.next().and_then(|package| package.split("version = \"").nth(1)).unwrap();
        let version = version.split('"').next().unwrap();
        assert_eq!(version, CHECKED_HYPER, "the version of hyper in Cargo.lock has changed: {RECHECK}");
        assert_eq!(packages.next(), None, "Cargo.lock has several versions of hyper: {RECHECK}");
    }

    /// Polls of a connection until its body is read and no task is woken any more.
    async fn polls_of_a_body(is_http1: bool) -> usize {
        let (mut client, server) = tokio::io::duplex(4096);
        client.write_all(b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\n\r\nab").await.unwrap();
        let polls = Arc::new(AtomicUsize::new(0));
        let taken = Arc::new(AtomicUsize::new(0));
        let (counted, counts) = (polls.clone(), taken.clone());
        let serving = tokio::spawn(async move {
            let waker = Arc::new(CoalescingWaker::default());
            let service = service_fn(|mut request: http::Request<Incoming>| {
                waker.set_http1(is_http1);
                let counts = counts.clone();
                async move {
                    let frame = poll_fn(|cx| poll_body_frame(request.body_mut(), cx)).await;
                    counts.store(frame.unwrap().unwrap().into_data().unwrap().len(), Ordering::Relaxed);
                    pending::<Result<Response<Empty<Bytes>>, Infallible>>().await
                }
            });
            let mut connection = pin!(http1::Builder::new().serve_connection(TokioIo::new(server), service));
            waker
                .drive(|cx| {
                    counted.fetch_add(1, Ordering::Relaxed);
                    connection.as_mut().poll(cx)
                })
                .await
        });
        // All tasks run on this thread, so after a few yields every woken task was polled.
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
        serving.abort();
        assert_eq!(taken.load(Ordering::Relaxed), 2);
        polls.load(Ordering::Relaxed)
    }

    #[tokio::test]
    async fn the_last_frame_does_not_wake_the_connection() {
        assert_eq!(polls_of_a_body(true).await, 1);
        assert_eq!(
            polls_of_a_body(false).await,
            2,
            "hyper does not wake the connection any more: remove this module"
        );
    }

    #[derive(Default)]
    struct Task(AtomicUsize);

    impl Wake for Task {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn self_wakes_poll_again_up_to_the_limit() {
        let task = Arc::new(Task::default());
        let task_waker = Waker::from(task.clone());
        let mut cx = Context::from_waker(&task_waker);
        let waker = Arc::new(CoalescingWaker::default());
        let mut polls = 0;
        let mut running = pin!(waker.drive(|cx| {
            polls += 1;
            cx.waker().wake_by_ref();
            if polls == MAX_SELF_WAKES + 2 { Poll::Ready(polls) } else { Poll::Pending }
        }));
        assert_eq!(running.as_mut().poll(&mut cx), Poll::Pending);
        assert_eq!(task.0.load(Ordering::Relaxed), 1, "it yields, and is polled again later");
        assert_eq!(running.as_mut().poll(&mut cx), Poll::Ready(MAX_SELF_WAKES + 2));
        assert_eq!(task.0.load(Ordering::Relaxed), 1);
        waker.wake_by_ref();
        assert_eq!(task.0.load(Ordering::Relaxed), 2, "a wake outside a poll wakes the task");
    }

    #[test]
    fn a_wake_outside_a_poll_wakes_the_task() {
        let task = Arc::new(Task::default());
        let task_waker = Waker::from(task.clone());
        let waker = Arc::new(CoalescingWaker::default());
        let mut running = pin!(waker.drive(|_| Poll::<()>::Pending));
        assert_eq!(running.as_mut().poll(&mut Context::from_waker(&task_waker)), Poll::Pending);
        assert_eq!(task.0.load(Ordering::Relaxed), 0);
        waker.wake_by_ref();
        assert_eq!(task.0.load(Ordering::Relaxed), 1);
    }
}
