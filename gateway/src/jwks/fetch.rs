//! One request for a key set.

use std::net::SocketAddr;
use std::time::Duration;

use forebay_routing::{JwksId, JwtKeys};
use http::{Request, StatusCode, header};
use http_body_util::{BodyExt as _, Empty, LengthLimitError, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio_util::task::AbortOnDropHandle;

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
pub(super) async fn fetch(id: &JwksId, endpoints: &[SocketAddr]) -> Result<(JwtKeys, Vec<String>), Error> {
    let mut failed = Error::NoEndpoint;
    let first = fastrand::usize(..endpoints.len().max(1));
    for endpoint in endpoints.iter().cycle().skip(first).take(endpoints.len().min(MAX_ENDPOINTS)) {
        let loading = tokio::time::timeout(TIMEOUT, fetch_from(id, *endpoint));
        match loading.await.unwrap_or(Err(Error::Timeout(*endpoint))) {
            Ok(loaded) => return Ok(loaded),
            Err(error) => failed = error,
        }
    }
    Err(failed)
}

async fn fetch_from(id: &JwksId, endpoint: SocketAddr) -> Result<(JwtKeys, Vec<String>), Error> {
    let stream = TcpStream::connect(endpoint).await.map_err(|error| Error::Connect(endpoint, error))?;
    let http = |error| Error::Http(endpoint, error);
    let mut client = http1::Builder::new();
    client.max_buf_size(MAX_HEAD_BYTES);
    let (mut sender, connection) = client.handshake(TokioIo::new(stream)).await.map_err(http)?;
    let _connection = AbortOnDropHandle::new(tokio::spawn(connection));
    let host = format!("{}.{}.svc:{}", id.service.name, id.service.namespace, id.port);
    let request = Request::get(&id.path)
        .header(header::HOST, host)
        .header(header::ACCEPT, "application/json")
        .header(header::USER_AGENT, "forebay-gateway")
        .body(Empty::<bytes::Bytes>::new())
        .map_err(|error| Error::Invalid(endpoint, error.to_string()))?;
    let response = sender.send_request(request).await.map_err(http)?;
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

    fn id() -> JwksId {
        JwksId { service: ObjectKey::new("infra", "idp"), port: 80, path: "/keys".into() }
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
            let (keys, problems) = fetch(&id(), &[refusing, good]).await.unwrap();
            assert!(keys.is_empty() && problems.is_empty());
        }
        serving.abort();
        let failed = fetch(&id(), &[refusing]).await.unwrap_err();
        assert!(failed.to_string().starts_with(&format!("{refusing} cannot be reached: ")), "{failed}");
        assert!(matches!(fetch(&id(), &[]).await, Err(Error::NoEndpoint)));
    }

    #[tokio::test(start_paused = true)]
    async fn gives_up_on_a_server_that_does_not_respond() {
        let (_listener, silent) = listen().await;
        let start = tokio::time::Instant::now();
        let failed = fetch(&id(), &[silent]).await.unwrap_err();
        assert_eq!(failed.to_string(), format!("{silent} did not respond within 5 s"));
        assert_eq!(start.elapsed(), TIMEOUT);
    }
}
