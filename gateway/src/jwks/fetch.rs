//! One request for a key set.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use forebay_routing::{JwksId, JwtKeys, RemoteJwks, ServerTls};
use http::{Request, StatusCode, header};
use http_body_util::{BodyExt as _, Empty, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_util::task::AbortOnDropHandle;

use crate::server_tls::{self, Connector};

/// Maximum time for one endpoint, from the connection to the last byte.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Maximum size of a key set.
const MAX_SET_BYTES: usize = 256 * 1024;
/// Maximum size of the head of a response.
const MAX_HEAD_BYTES: usize = 64 * 1024;
/// Maximum endpoints that are tried for one load.
const MAX_ENDPOINTS: usize = 3;

/// Why a key set was not loaded.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    #[error("the Service has no ready endpoint, or cannot be used")]
    NoEndpoint,
    #[error("{0} did not respond within {seconds} s", seconds = TIMEOUT.as_secs())]
    Timeout(SocketAddr),
    #[error("{0} cannot be reached: {1}")]
    Connect(SocketAddr, std::io::Error),
    #[error("the certificates of the authorities cannot be used: {0}")]
    Authorities(#[from] server_tls::Error),
    #[error("the TLS handshake with {0} failed: {1}")]
    Handshake(SocketAddr, std::io::Error),
    #[error("{0} did not respond correctly: {1}")]
    Http(SocketAddr, hyper::Error),
    #[error("{0} responded with status {1}")]
    Status(SocketAddr, StatusCode),
    #[error("{0} responded with more than {MAX_SET_BYTES} bytes")]
    TooLarge(SocketAddr),
    #[error("the response of {0} was aborted")]
    Aborted(SocketAddr),
    #[error("the response of {0} is not accepted: {1}")]
    Invalid(SocketAddr, String),
}

/// Loads the set from the first endpoint that has it, with the messages of [`JwtKeys::parse`].
pub(super) async fn fetch(source: &RemoteJwks) -> Result<(JwtKeys, Vec<String>), Error> {
    let RemoteJwks { id, endpoints, tls, .. } = source;
    let connector = tls.as_ref().map(|tls| Connector::new(tls, &[b"http/1.1"])).transpose()?;
    let host = host(id, tls.as_ref());
    let mut failed = Error::NoEndpoint;
    let first = fastrand::usize(..endpoints.len().max(1));
    for endpoint in endpoints.iter().cycle().skip(first).take(endpoints.len().min(MAX_ENDPOINTS)) {
        let loading =
            tokio::time::timeout(TIMEOUT, fetch_from(&id.path, &host, connector.as_ref(), *endpoint));
        match loading.await.unwrap_or(Err(Error::Timeout(*endpoint))) {
            Ok(loaded) => return Ok(loaded),
            Err(error) => failed = error,
        }
    }
    Err(failed)
}

/// With TLS, the name that the server's certificate is verified for.
fn host(id: &JwksId, tls: Option<&ServerTls>) -> String {
    match tls {
        Some(tls) if id.port == 443 => tls.server_name.clone(),
        Some(tls) => format!("{}:{}", tls.server_name, id.port),
        None => format!("{}.{}.svc:{}", id.service.name, id.service.namespace, id.port),
    }
}

/// The connection ends when the first value is dropped.
async fn send(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    request: Request<Empty<Bytes>>,
) -> hyper::Result<(AbortOnDropHandle<hyper::Result<()>>, http::Response<Incoming>)> {
    let mut client = http1::Builder::new();
    client.max_buf_size(MAX_HEAD_BYTES);
    let (mut sender, connection) = client.handshake(TokioIo::new(stream)).await?;
    let connection = AbortOnDropHandle::new(tokio::spawn(connection));
    Ok((connection, sender.send_request(request).await?))
}

async fn fetch_from(
    path: &str,
    host: &str,
    connector: Option<&Connector>,
    endpoint: SocketAddr,
) -> Result<(JwtKeys, Vec<String>), Error> {
    let request = Request::get(path)
        .header(header::HOST, host)
        .header(header::ACCEPT, "application/json")
        .header(header::USER_AGENT, "forebay-gateway")
        .body(Empty::new())
        .map_err(|error| Error::Invalid(endpoint, error.to_string()))?;
    let stream = TcpStream::connect(endpoint).await.map_err(|error| Error::Connect(endpoint, error))?;
    let sent = match connector {
        None => send(stream, request).await,
        Some(connector) => {
            let stream =
                connector.connect(stream).await.map_err(|error| Error::Handshake(endpoint, error))?;
            send(stream, request).await
        }
    };
    let (_connection, response) = sent.map_err(|error| Error::Http(endpoint, error))?;
    if response.status() != StatusCode::OK {
        return Err(Error::Status(endpoint, response.status()));
    }
    let body = Limited::new(response.into_body(), MAX_SET_BYTES).collect().await.map_err(|error| {
        if error.is::<LengthLimitError>() { Error::TooLarge(endpoint) } else { Error::Aborted(endpoint) }
    })?;
    JwtKeys::parse(&body.to_bytes()).map_err(|why| Error::Invalid(endpoint, why))
}

#[cfg(test)]
mod tests {
    use forebay_resources::ObjectKey;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::*;

    const RESPONSE: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 11\r\n\r\n{\"keys\":[]}";

    fn source(endpoints: &[SocketAddr]) -> RemoteJwks {
        let id = JwksId { service: ObjectKey::new("infra", "idp"), port: 80, path: "/keys".into() };
        RemoteJwks { id, endpoints: endpoints.to_vec(), tls: None, refresh: Duration::ZERO }
    }

    async fn listen() -> (TcpListener, SocketAddr) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        (listener, address)
    }

    #[tokio::test]
    async fn asks_another_endpoint_when_one_fails() {
        let (closed, refusing) = listen().await;
        drop(closed);
        let (listener, good) = listen().await;
        let serving = tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let _ = stream.read(&mut [0; 1024]).await;
                let _ = stream.write_all(RESPONSE).await;
            }
        });
        // The first endpoint is chosen at random.
        for _ in 0..16 {
            let (keys, problems) = fetch(&source(&[refusing, good])).await.unwrap();
            assert!(keys.is_empty() && problems.is_empty());
        }
        serving.abort();
        let failed = fetch(&source(&[refusing])).await.unwrap_err();
        assert!(failed.to_string().starts_with(&format!("{refusing} cannot be reached: ")), "{failed}");
        assert!(matches!(fetch(&source(&[])).await, Err(Error::NoEndpoint)));
    }

    #[tokio::test(start_paused = true)]
    async fn gives_up_on_a_server_that_does_not_respond() {
        let (_listener, silent) = listen().await;
        let start = tokio::time::Instant::now();
        let failed = fetch(&source(&[silent])).await.unwrap_err();
        assert_eq!(failed.to_string(), format!("{silent} did not respond within 5 s"));
        assert_eq!(start.elapsed(), TIMEOUT);
    }
}
