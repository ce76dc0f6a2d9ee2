//! A running `forebay dashboard`, and requests to it.

use std::{
    net::SocketAddr,
    process::Stdio,
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{HeaderMap, Request, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader},
    net::TcpStream,
    process::{Child, Command},
    task::JoinSet,
};

pub(crate) const TIMEOUT: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(20);

/// Waits until `probe` returns a value.
pub(crate) async fn eventually<T>(what: &str, mut probe: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + TIMEOUT;
    loop {
        if let Some(found) = probe().await {
            return found;
        }
        assert!(Instant::now() < deadline, "not in time: {what}");
        tokio::time::sleep(POLL).await;
    }
}

pub(crate) struct Dashboard {
    child: Child,
    pub(crate) address: SocketAddr,
    pub(crate) token: String,
    pub(crate) url: String,
}

/// A response whose body is read in parts.
pub(crate) struct Open {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    body: Incoming,
    _connection: JoinSet<()>,
}

impl Dashboard {
    pub(crate) async fn start(arguments: &[&str]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_forebay"));
        command
            .arg("dashboard")
            .args(arguments)
            .env("KUBECONFIG", "/nonexistent")
            .env("HOME", "/nonexistent");
        for name in ["FOREBAY_AGENTS", "FOREBAY_RESOURCES", "FOREBAY_GATEWAY", "KUBERNETES_SERVICE_HOST"] {
            command.env_remove(name);
        }
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().unwrap();
        let mut url = String::new();
        let mut out = BufReader::new(child.stdout.take().unwrap());
        tokio::time::timeout(TIMEOUT, out.read_line(&mut url)).await.unwrap().unwrap();
        child.stdout = Some(out.into_inner());
        let url = url.trim_end().to_owned();
        let (address, token) = url.strip_prefix("http://").unwrap().split_once("/#").unwrap();
        Self { child, address: address.parse().unwrap(), token: token.to_owned(), url: url.clone() }
    }

    /// A request with these headers and no others, except for a Host header if they have none.
    pub(crate) async fn open(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Open {
        let stream = TcpStream::connect(self.address).await.unwrap();
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake::<_, Full<Bytes>>(TokioIo::new(stream)).await.unwrap();
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let _ = connection.await;
        });
        let mut request = Request::builder().method(method).uri(path);
        let host = self.address.to_string();
        if !headers.iter().any(|(name, _)| *name == "host") {
            request = request.header("host", &host);
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::new(Bytes::from(body.to_owned()))).unwrap();
        let sending = tokio::time::timeout(TIMEOUT, sender.send_request(request));
        let (head, body) = sending.await.unwrap().unwrap().into_parts();
        Open { status: head.status, headers: head.headers, body, _connection: tasks }
    }

    /// A request with the token, as the page makes it.
    pub(crate) async fn open_own(&self, method: &str, path: &str, body: &str) -> Open {
        let (token, origin) = (format!("Bearer {}", self.token), format!("http://{}", self.address));
        self.open(method, path, &[("authorization", &token), ("origin", &origin)], body).await
    }

    /// The newest document.
    pub(crate) async fn fleet(&self) -> Value {
        let response = self.open_own("GET", "/api/fleet", "").await;
        assert_eq!(response.status, 200);
        serde_json::from_str(&response.text().await).unwrap()
    }

    /// Sends a signal. Returns the exit code and what was printed after the address.
    pub(crate) async fn end(mut self, signal: &str) -> (Option<i32>, String) {
        let pid = self.child.id().unwrap().to_string();
        assert!(Command::new("kill").args(["-s", signal, &pid]).status().await.unwrap().success());
        let mut printed = String::new();
        let read = async {
            self.child.stdout.take().unwrap().read_to_string(&mut printed).await.unwrap();
            self.child.stderr.take().unwrap().read_to_string(&mut printed).await.unwrap();
            self.child.wait().await.unwrap().code()
        };
        let code = tokio::time::timeout(TIMEOUT, read).await.unwrap();
        (code, printed)
    }
}

impl Open {
    /// The rest of the body.
    pub(crate) async fn text(mut self) -> String {
        let mut text = String::new();
        while let Some(chunk) = self.chunk().await {
            text += &chunk;
        }
        text
    }

    /// The next part of the body. `None` at its end.
    pub(crate) async fn chunk(&mut self) -> Option<String> {
        let frame = tokio::time::timeout(TIMEOUT, self.body.frame()).await.unwrap()?;
        Some(String::from_utf8(frame.unwrap().into_data().unwrap_or_default().to_vec()).unwrap())
    }
}
