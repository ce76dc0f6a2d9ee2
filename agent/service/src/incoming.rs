//! Accepted connections of gRPC servers: places per peer, TLS, and a deadline for the HTTP/2 preface.

use std::{
    io,
    net::IpAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use futures_util::stream;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time::{Sleep, sleep, timeout},
};
use tokio_rustls::{TlsAcceptor, TlsStream};
use tokio_util::sync::WaitForCancellationFutureOwned;
use tonic::transport::server::Connected;

use crate::{
    places::{Limits, OpenRequest, Place, Places},
    tls::{Identity, Stream},
};

/// Timeout of a TLS handshake, and then of the HTTP/2 preface.
const OPENING_TIMEOUT: Duration = Duration::from_secs(5);
/// Length of the HTTP/2 connection preface (RFC 9113 §3.4).
const PREFACE_BYTES: usize = 24;

/// An accepted connection. Reads fail when the preface is late, or when the place is needed.
#[derive(Debug)]
pub struct Connection {
    stream: Stream,
    place: Arc<Place>,
    must_close: Pin<Box<WaitForCancellationFutureOwned>>,
    preface: Option<Preface>,
}

/// A preface that has not arrived.
#[derive(Debug)]
struct Preface {
    missing: usize,
    deadline: Pin<Box<Sleep>>,
}

/// The other side of a connection, in the extensions of tonic's requests.
#[derive(Clone, Debug)]
pub struct Peer(Arc<Place>);

impl Peer {
    /// The address of the peer.
    pub fn address(&self) -> IpAddr {
        self.0.peer()
    }

    /// See [`Place::open_request`].
    pub fn open_request(&self) -> OpenRequest {
        self.0.open_request()
    }
}

/// Accepts connections, for tonic or h2. `name` is the listener's name in the log. Plain text without `identity`.
///
/// Handshakes take a place, as connections do. Connections over the limits and with failed handshakes are closed.
pub fn accept(
    name: &'static str,
    listener: TcpListener,
    identity: Option<Arc<Identity>>,
    limits: Limits,
) -> impl futures_util::Stream<Item = io::Result<Connection>> {
    let acceptor =
        Acceptor { name, listener, identity, places: Places::new(name, limits), handshakes: JoinSet::new() };
    stream::unfold(acceptor, |mut acceptor| async move {
        let connection = acceptor.next().await;
        Some((Ok(connection), acceptor))
    })
}

struct Acceptor {
    name: &'static str,
    listener: TcpListener,
    identity: Option<Arc<Identity>>,
    places: Places,
    /// At most one per place.
    handshakes: JoinSet<io::Result<Connection>>,
}

impl Acceptor {
    async fn next(&mut self) -> Connection {
        loop {
            tokio::select! {
                Some(done) = self.handshakes.join_next(), if !self.handshakes.is_empty() => match done {
                    Ok(Ok(connection)) => return connection,
                    Ok(Err(error)) => {
                        tracing::debug!(%error, listener = self.name, "TLS handshake failed");
                    }
                    Err(_aborted) => {}
                },
                (tcp, place) = self.places.accept(&self.listener) => {
                    let _ = tcp.set_nodelay(true);
                    match &self.identity {
                        None => return Connection::new(Stream::Plain(tcp), place),
                        Some(identity) => {
                            let acceptor = TlsAcceptor::from(identity.server());
                            self.handshakes.spawn(handshake(acceptor, tcp, place));
                        }
                    }
                }
            }
        }
    }
}

async fn handshake(acceptor: TlsAcceptor, tcp: TcpStream, place: Place) -> io::Result<Connection> {
    let handshake = timeout(OPENING_TIMEOUT, acceptor.accept(tcp));
    let Some(handshake) = place.must_close().run_until_cancelled(handshake).await else {
        return Err(place_needed());
    };
    let tls = handshake.map_err(|_late| io::Error::from(io::ErrorKind::TimedOut))??;
    Ok(Connection::new(Stream::Tls(Box::new(TlsStream::Server(tls))), place))
}

fn place_needed() -> io::Error {
    io::Error::new(
        io::ErrorKind::ConnectionAborted,
        "closed for another connection: connection limit reached",
    )
}

impl Connection {
    fn new(stream: Stream, place: Place) -> Self {
        let must_close = Box::pin(place.must_close().clone().cancelled_owned());
        let deadline = Box::pin(sleep(OPENING_TIMEOUT));
        let preface = Some(Preface { missing: PREFACE_BYTES, deadline });
        Self { stream, place: Arc::new(place), must_close, preface }
    }

    /// The other side.
    pub fn peer(&self) -> Peer {
        Peer(Arc::clone(&self.place))
    }

    /// See [`Stream::keep_alive`].
    ///
    /// # Errors
    ///
    /// The socket refuses the option.
    pub fn keep_alive(&self, idle: Duration) -> io::Result<()> {
        self.stream.keep_alive(idle)
    }

    fn poll_closed(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        if self.must_close.as_mut().poll(cx).is_ready() {
            return Poll::Ready(place_needed());
        }
        let is_late = |preface: &mut Preface| preface.deadline.as_mut().poll(cx).is_ready();
        if self.preface.as_mut().is_some_and(is_late) {
            return Poll::Ready(io::Error::new(io::ErrorKind::TimedOut, "no HTTP/2 preface in time"));
        }
        Poll::Pending
    }
}

impl Connected for Connection {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.peer()
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if let Poll::Ready(error) = this.poll_closed(cx) {
            return Poll::Ready(Err(error));
        }
        let before = buffer.filled().len();
        let read = Pin::new(&mut this.stream).poll_read(cx, buffer);
        if let Some(preface) = &mut this.preface {
            preface.missing = preface.missing.saturating_sub(buffer.filled().len() - before);
            if preface.missing == 0 {
                this.preface = None;
            }
        }
        read
    }
}

impl AsyncWrite for Connection {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write_vectored(cx, pieces)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use futures_util::StreamExt as _;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    const LIMITS: Limits = Limits { total: 8, per_peer: 4 };
    const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

    #[tokio::test]
    async fn a_silent_connection_gives_its_place_to_a_new_one() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut incoming = Box::pin(accept("test", listener, None, LIMITS));
        let mut clients = Vec::new();
        let mut accepted = Vec::new();
        for _ in 0..5 {
            clients.push(TcpStream::connect(address).await.unwrap());
            let connection = timeout(OPENING_TIMEOUT, incoming.next()).await.expect("a place in time");
            accepted.push(connection.unwrap().unwrap());
        }
        let error = accepted[0].read_u8().await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionAborted);
        clients[4].write_all(PREFACE).await.unwrap();
        assert_eq!(accepted[4].read_u8().await.unwrap(), b'P');
    }

    #[tokio::test(start_paused = true)]
    async fn the_preface_has_a_deadline_and_later_bytes_have_none() {
        for sent in [0, 1, PREFACE_BYTES - 1, PREFACE_BYTES] {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
            client.write_all(&PREFACE[..sent]).await.unwrap();
            let mut incoming = Box::pin(accept("test", listener, None, LIMITS));
            let mut connection = incoming.next().await.unwrap().unwrap();
            let mut buffer = vec![0; sent];
            connection.read_exact(&mut buffer).await.unwrap();
            let next = timeout(OPENING_TIMEOUT * 10, connection.read_u8()).await;
            assert_eq!(next.is_err(), sent == PREFACE_BYTES, "{sent} bytes of the preface");
        }
    }
}
