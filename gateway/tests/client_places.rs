//! Places of client connections.

use std::num::NonZeroUsize;

use futures_util::future::join_all;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use crate::support::harness::{Harness, LISTENER, gateway};
use crate::support::tls::{Certificate, connect};
use crate::support::upstream::Upstream;
use crate::support::within;

const HOST: &str = "models.example";
const MAX_CONNECTIONS: usize = 40;
/// More than there are places.
const SILENT: usize = 100;

/// One exchange, whose response is a 404.
async fn ask(stream: &mut TlsStream<TcpStream>) -> String {
    let request = format!("GET /x HTTP/1.1\r\nhost: {HOST}\r\n\r\n");
    within("room to write", stream.write_all(request.as_bytes())).await.unwrap();
    let mut response = Vec::new();
    within("a response", async {
        while !response.ends_with(b"}}") {
            assert!(stream.read_buf(&mut response).await.unwrap() > 0, "the stream ended");
        }
    })
    .await;
    String::from_utf8(response).unwrap()
}

#[tokio::test]
async fn unfinished_handshakes_do_not_take_the_places_of_other_connections() {
    let certificate = Certificate::of(HOST);
    let web = Upstream::bind().await;
    let listener = gateway(&[("https", LISTENER)])
        .replace("protocol: HTTP,", "protocol: HTTPS, tls: {certificateRefs: [{name: certificate}]},");
    let running = Harness { manifests: listener }
        .service("web", web.port(), "")
        .route("r", "{matches: [{path: {value: /web}}], backendRefs: [{name: web, port: 80}]}")
        .with(&certificate.secret("certificate"))
        .start_with(|config| config.max_client_connections = NonZeroUsize::new(MAX_CONNECTIONS))
        .await;
    let open = || async { connect(running.address(), HOST, &certificate, &["http/1.1"]).await.unwrap() };
    let mut established = open().await;
    assert!(ask(&mut established).await.starts_with("HTTP/1.1 404"));
    let silent = join_all((0..SILENT).map(|_| TcpStream::connect(running.address()))).await;
    let mut new = open().await;
    assert!(ask(&mut new).await.starts_with("HTTP/1.1 404"));
    assert!(ask(&mut established).await.starts_with("HTTP/1.1 404"));
    let evicted = running.metric("forebay_gateway_client_connections_evicted_total").await;
    assert!(evicted as usize >= SILENT - MAX_CONNECTIONS, "{evicted}");
    assert!(running.metric("forebay_gateway_client_connections").await as usize <= MAX_CONNECTIONS);
    drop(silent);
}
