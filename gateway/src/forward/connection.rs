use std::future::{Future as _, poll_fn};
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use crate::Error;
use crate::hold::UpstreamBody;

/// Largest head of a model server's response, and largest piece read at once.
const MAX_BUFFER_BYTES: usize = 256 << 10;

type Driver = http1::Connection<TokioIo<TcpStream>, UpstreamBody>;

/// An HTTP/1.1 connection to a model server that is driven by whoever holds it.
///
/// There is no task behind it: while a request uses it, that request's task
/// drives it; dropping it closes the socket at once, which is how an engine
/// learns that the client went away. Idle, it is looked at when it is taken.
#[derive(Debug)]
pub(crate) struct Connection {
    sender: http1::SendRequest<UpstreamBody>,
    driver: Box<Driver>,
    driver_ended: bool,
    address: SocketAddr,
    idle_since: Instant,
}

impl Connection {
    pub(crate) async fn open(address: SocketAddr, patience: Duration) -> Result<Self, Error> {
        let stream = connect(address, patience).await?;
        let (sender, driver) = http1::Builder::new()
            .max_buf_size(MAX_BUFFER_BYTES)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(|source| Error::UpstreamBroken { source, reused: false })?;
        Ok(Self {
            sender,
            driver: Box::new(driver),
            driver_ended: false,
            address,
            idle_since: Instant::now(),
        })
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Sends a request and waits for the head of its response.
    pub(crate) async fn send(&mut self, request: Request<UpstreamBody>) -> hyper::Result<Response<Incoming>> {
        let mut response = pin!(self.sender.send_request(request));
        poll_fn(|cx| {
            drive(&mut self.driver, &mut self.driver_ended, cx);
            response.as_mut().poll(cx)
        })
        .await
    }

    /// Moves bytes in both directions; must be polled while a response body is read.
    pub(crate) fn poll_drive(&mut self, cx: &mut Context<'_>) {
        drive(&mut self.driver, &mut self.driver_ended, cx);
    }

    /// To be called when the exchange is over.
    pub(crate) fn rest(&mut self) {
        self.idle_since = Instant::now();
    }

    pub(crate) fn idle_for(&self) -> Duration {
        self.idle_since.elapsed()
    }

    /// Whether another request can be sent: the server has not closed it and
    /// the request before has been sent and answered to its end.
    pub(crate) fn is_usable(&mut self) -> bool {
        self.poll_drive(&mut Context::from_waker(Waker::noop()));
        !self.driver_ended && self.sender.is_ready()
    }
}

pub(super) async fn connect(address: SocketAddr, patience: Duration) -> Result<TcpStream, Error> {
    let connect = async {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(stream)
    };
    match tokio::time::timeout(patience, connect).await {
        Err(_) => Err(Error::ConnectTimeout { waited: patience }),
        Ok(connected) => connected.map_err(Error::Connect),
    }
}

/// An error of the driver is also given to the response or its body, whichever is waited for.
fn drive(driver: &mut Driver, ended: &mut bool, cx: &mut Context<'_>) {
    if !*ended && let Poll::Ready(_) = Pin::new(driver).poll(cx) {
        *ended = true;
    }
}
