//! Connections in plain text or TLS with one type.

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use futures_util::stream;
use rustls::pki_types::ServerName;
use socket2::{SockRef, TcpKeepalive};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time::timeout,
};
use tokio_rustls::{TlsAcceptor, TlsConnector, TlsStream};
use tonic::transport::server::Connected;

use super::Identity;

/// Timeout of a TLS handshake.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// Maximum concurrent handshakes. More connections wait in the listen queue.
const MAX_HANDSHAKES: usize = 128;
/// Pause after a failed accept, which is usually a lack of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A connection.
#[derive(Debug)]
pub enum Stream {
    /// Plain text.
    Plain(TcpStream),
    /// TLS, after the handshake.
    Tls(Box<TlsStream<TcpStream>>),
}

impl Stream {
    /// Enables TCP keepalive, so that the connection fails if the peer is gone. The first probe is sent after `idle`
    /// without traffic; the connection fails after 1.5 times `idle`, also with unacknowledged data.
    pub fn keep_alive(&self, idle: Duration) -> io::Result<()> {
        let tcp = match self {
            Self::Plain(tcp) => tcp,
            Self::Tls(tls) => tls.get_ref().0,
        };
        let socket = SockRef::from(tcp);
        let probes = TcpKeepalive::new().with_time(idle).with_interval(idle / 4).with_retries(2);
        socket.set_tcp_keepalive(&probes)?;
        socket.set_tcp_user_timeout(Some(idle + idle / 2))
    }
}

/// Connects to a component: to its address, with the name that its certificate must have. Plain text without `identity`.
pub async fn connect(
    address: SocketAddr,
    identity: Option<&Identity>,
    name: &'static str,
) -> io::Result<Stream> {
    let tcp = TcpStream::connect(address).await?;
    tcp.set_nodelay(true)?;
    let Some(identity) = identity else { return Ok(Stream::Plain(tcp)) };
    let name =
        ServerName::try_from(name).map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
    let handshake = TlsConnector::from(identity.client()).connect(name, tcp);
    let tls = timeout(HANDSHAKE_TIMEOUT, handshake).await.map_err(|_late| io::ErrorKind::TimedOut)??;
    Ok(Stream::Tls(Box::new(TlsStream::Client(tls))))
}

/// Accepts connections, for tonic. Connections whose handshake fails are dropped. Plain text without `identity`.
pub fn accept(
    listener: TcpListener,
    identity: Option<Arc<Identity>>,
) -> impl futures_util::Stream<Item = io::Result<Stream>> {
    let state = (listener, identity, JoinSet::<io::Result<Stream>>::new());
    stream::unfold(state, |(listener, identity, mut handshakes)| async move {
        let accepted = loop {
            tokio::select! {
                Some(done) = handshakes.join_next(), if !handshakes.is_empty() => match done {
                    Ok(Ok(stream)) => break stream,
                    Ok(Err(error)) => tracing::debug!(%error, "TLS handshake failed"),
                    Err(_aborted) => {}
                },
                connection = listener.accept(), if handshakes.len() < MAX_HANDSHAKES => match connection {
                    Ok((tcp, _from)) => {
                        let _ = tcp.set_nodelay(true);
                        let Some(identity) = &identity else { break Stream::Plain(tcp) };
                        let handshake = TlsAcceptor::from(identity.server()).accept(tcp);
                        handshakes.spawn(async move {
                            let tls = timeout(HANDSHAKE_TIMEOUT, handshake)
                                .await
                                .map_err(|_late| io::Error::from(io::ErrorKind::TimedOut))??;
                            Ok(Stream::Tls(Box::new(TlsStream::Server(tls))))
                        });
                    }
                    Err(error) => {
                        tracing::debug!(%error, retry_in = ?ACCEPT_PAUSE, "cannot accept a connection");
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                    }
                },
            }
        };
        Some((Ok(accepted), (listener, identity, handshakes)))
    })
}

impl Connected for Stream {
    type ConnectInfo = ();

    fn connect_info(&self) {}
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(cx, buffer),
            Self::Tls(stream) => Pin::new(stream).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(cx, bytes),
            Self::Tls(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write_vectored(cx, pieces),
            Self::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, pieces),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Plain(stream) => stream.is_write_vectored(),
            Self::Tls(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
