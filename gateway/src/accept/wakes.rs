//! Whenever a piece of a client's body is taken, hyper wakes the client's connection to have the next one read; after
//! the last piece too. Most bodies come in one piece: without this, everything that is done for their requests would
//! be gone through once more for nothing.

use std::cell::RefCell;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, Wake, Waker};

use bytes::Bytes;
use http_body::{Body as _, Frame};
use hyper::body::Incoming;

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
            poll(&mut Context::from_waker(&waker))
        })
        .await
    }

    fn wake_task(&self) {
        if let Some(task) = self.task.get() {
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
}
