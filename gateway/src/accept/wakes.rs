//! Whenever a piece of a client's body is taken, hyper wakes the client's connection to have the next one read.
//!
//! After the last piece too: most bodies come in one, and everything that is done for their requests would be gone
//! through once more for nothing. Before it, the next piece is mostly there already: it is read at once, with what was
//! just passed on still in the processor's caches. In turns with all other connections, a piece each, large bodies cost
//! almost twice as much.

use std::cell::RefCell;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, Wake, Waker};

use bytes::Bytes;
use http_body::{Body as _, Frame};
use hyper::body::Incoming;

/// So often a connection that is woken by what it does itself goes on before others have their turn: about a megabyte
/// of a body, half a millisecond.
const TURNS: usize = 16;

thread_local! {
    static TAKING: RefCell<Taking> = const { RefCell::new(Taking::No) };
}

/// What the thread does at the moment.
enum Taking {
    No,
    /// It takes a piece of a body.
    Yes,
    /// And the connection that it comes from was to be woken by that.
    Woken(Arc<Wakes>),
}

/// Stands between a connection and those who wake it.
#[derive(Debug, Default)]
pub(super) struct Wakes {
    /// Of the task that serves the connection; known from its first poll on.
    task: OnceLock<Waker>,
    is_http1: AtomicBool,
    run: Run,
}

/// What the connection's task does.
#[derive(Debug, Default)]
struct Run(AtomicU8);

impl Run {
    const WAITS: u8 = 0;
    const RUNS: u8 = 1;
    /// And has been woken since it began.
    const WOKEN: u8 = 2;

    fn begin(&self) {
        self.0.store(Self::RUNS, Ordering::Relaxed);
    }

    /// Whether it has been woken since it began.
    fn end(&self) -> bool {
        self.0.swap(Self::WAITS, Ordering::AcqRel) == Self::WOKEN
    }

    /// Notes for [`Run::end`] that it is woken; false if it does not run.
    fn wake(&self) -> bool {
        self.0
            .compare_exchange(Self::RUNS, Self::WOKEN, Ordering::AcqRel, Ordering::Acquire)
            .map_or_else(|now| now == Self::WOKEN, |_| true)
    }
}

impl Wakes {
    /// Of HTTP/1 it is known that there is nothing to be done after a body's last piece.
    pub(super) fn are_http1(&self) {
        self.is_http1.store(true, Ordering::Relaxed);
    }

    /// Waits for what `poll` waits for.
    pub(super) async fn drive<T>(self: &Arc<Self>, mut poll: impl FnMut(&mut Context<'_>) -> Poll<T>) -> T {
        let waker = Waker::from(self.clone());
        poll_fn(|task| {
            // A task has the same waker for as long as it lives.
            self.task.get_or_init(|| task.waker().clone());
            for _ in 0..TURNS {
                self.run.begin();
                let polled = poll(&mut Context::from_waker(&waker));
                let is_woken = self.run.end();
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
        if !self.run.wake()
            && let Some(task) = self.task.get()
        {
            task.wake_by_ref();
        }
    }
}

impl Wake for Wakes {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        let waits = self.is_http1.load(Ordering::Relaxed)
            && TAKING.with_borrow_mut(|taking| {
                let waits = !matches!(taking, Taking::No);
                if waits {
                    *taking = Taking::Woken(self.clone());
                }
                waits
            });
        if !waits {
            self.wake_task();
        }
    }
}

/// Takes the next piece; the connection that it comes from is woken if another may follow.
pub(crate) fn poll_piece(
    body: &mut Incoming,
    cx: &mut Context<'_>,
) -> Poll<Option<hyper::Result<Frame<Bytes>>>> {
    struct Taken;
    impl Drop for Taken {
        fn drop(&mut self) {
            if let Taking::Woken(wakes) = end() {
                wakes.wake_task();
            }
        }
    }
    fn end() -> Taking {
        TAKING.replace(Taking::No)
    }

    TAKING.set(Taking::Yes);
    // Whatever happens, nobody else's wakes are held back.
    let taken = Taken;
    let piece = Pin::new(&mut *body).poll_frame(cx);
    if matches!(piece, Poll::Ready(Some(Ok(_)))) && body.is_end_stream() {
        end();
    }
    drop(taken);
    piece
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

    /// How often a connection is polled until the whole body has been taken, and nothing more happens.
    async fn polls_of_a_body(is_http1: bool) -> usize {
        let (mut client, server) = tokio::io::duplex(4096);
        client.write_all(b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\n\r\nab").await.unwrap();
        let polls = Arc::new(AtomicUsize::new(0));
        let taken = Arc::new(AtomicUsize::new(0));
        let (counted, counts) = (polls.clone(), taken.clone());
        let serving = tokio::spawn(async move {
            let wakes = Arc::new(Wakes::default());
            let service = service_fn(|mut request: http::Request<Incoming>| {
                if is_http1 {
                    wakes.are_http1();
                }
                let counts = counts.clone();
                async move {
                    let piece = poll_fn(|cx| poll_piece(request.body_mut(), cx)).await;
                    counts.store(piece.unwrap().unwrap().into_data().unwrap().len(), Ordering::Relaxed);
                    pending::<Result<Response<Empty<Bytes>>, Infallible>>().await
                }
            });
            let mut connection = pin!(http1::Builder::new().serve_connection(TokioIo::new(server), service));
            wakes
                .drive(|cx| {
                    counted.fetch_add(1, Ordering::Relaxed);
                    connection.as_mut().poll(cx)
                })
                .await
        });
        // One thread serves all: whoever was woken has had its turn.
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
        serving.abort();
        assert_eq!(taken.load(Ordering::Relaxed), 2);
        polls.load(Ordering::Relaxed)
    }

    #[tokio::test]
    async fn nobody_is_woken_by_the_last_piece() {
        assert_eq!(polls_of_a_body(true).await, 1);
        assert_eq!(
            polls_of_a_body(false).await,
            2,
            "hyper does not wake any more; this module is not needed"
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
    fn who_wakes_itself_goes_on_until_its_turn_is_over() {
        let task = Arc::new(Task::default());
        let waker = Waker::from(task.clone());
        let mut cx = Context::from_waker(&waker);
        let wakes = Arc::new(Wakes::default());
        let mut polls = 0;
        let mut running = pin!(wakes.drive(|cx| {
            polls += 1;
            cx.waker().wake_by_ref();
            if polls == TURNS + 2 { Poll::Ready(polls) } else { Poll::Pending }
        }));
        assert_eq!(running.as_mut().poll(&mut cx), Poll::Pending);
        assert_eq!(task.0.load(Ordering::Relaxed), 1, "others have their turn, then it goes on");
        assert_eq!(running.as_mut().poll(&mut cx), Poll::Ready(TURNS + 2));
        assert_eq!(task.0.load(Ordering::Relaxed), 1);
        wakes.wake_by_ref();
        assert_eq!(task.0.load(Ordering::Relaxed), 2, "a wake after the end is the task's again");
    }

    #[test]
    fn who_waits_is_woken() {
        let task = Arc::new(Task::default());
        let waker = Waker::from(task.clone());
        let wakes = Arc::new(Wakes::default());
        let mut running = pin!(wakes.drive(|_| Poll::<()>::Pending));
        assert_eq!(running.as_mut().poll(&mut Context::from_waker(&waker)), Poll::Pending);
        assert_eq!(task.0.load(Ordering::Relaxed), 0);
        wakes.wake_by_ref();
        assert_eq!(task.0.load(Ordering::Relaxed), 1);
    }
}
