//! A rate limit server of the test: envoyproxy/ratelimit, with a store.

use std::fs;
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

use crate::quota_store::server::Server as Store;
use crate::support::until;

const PROGRAM: &str = "ratelimit";
/// The limits of the server.
const LIMITS: &str = "domain: models
descriptors:
  - {key: caller, rate_limit: {unit: hour, requests_per_unit: 3}}
  - {key: model, rate_limit: {unit: day, requests_per_unit: 10}}
";

/// Ends with the test.
pub struct RateLimitServer {
    pub port: u16,
    child: Child,
    store: Store,
    folder: TempDir,
}

impl Drop for RateLimitServer {
    fn drop(&mut self) {
        self.kill();
    }
}

impl RateLimitServer {
    /// `None`: a program is missing. The test says that it is skipped.
    pub async fn start() -> Option<Self> {
        if forebay_apiserver::find(PROGRAM).is_none() {
            println!("skipped: {PROGRAM} not found (`cargo xtask cluster build` builds it)");
            return None;
        }
        let store = Store::start().await?;
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("config")).unwrap();
        fs::write(folder.path().join("config/limits.yaml"), LIMITS).unwrap();
        let [port] = free_ports();
        let server = Self { port, child: spawn(port, &store, &folder), store, folder };
        server.wait().await;
        Some(server)
    }

    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// With the same port and counters.
    pub async fn start_again(&mut self) {
        self.child = spawn(self.port, &self.store, &self.folder);
        self.wait().await;
    }

    async fn wait(&self) {
        until("the rate limit server to listen", || async {
            tokio::net::TcpStream::connect(("127.0.0.1", self.port)).await.ok()
        })
        .await;
    }
}

fn free_ports<const COUNT: usize>() -> [u16; COUNT] {
    let listeners = std::array::from_fn::<_, COUNT, _>(|_| TcpListener::bind("127.0.0.1:0").unwrap());
    listeners.map(|listener| listener.local_addr().unwrap().port())
}

fn spawn(port: u16, store: &Store, folder: &TempDir) -> Child {
    let [http, debug] = free_ports();
    Command::new(forebay_apiserver::find(PROGRAM).unwrap())
        .envs([
            ("USE_STATSD", "false"),
            ("LOG_LEVEL", "error"),
            ("RUNTIME_SUBDIRECTORY", ""),
            ("RUNTIME_WATCH_ROOT", "false"),
            ("REDIS_SOCKET_TYPE", "tcp"),
            ("HOST", "127.0.0.1"),
            ("GRPC_HOST", "127.0.0.1"),
            ("DEBUG_HOST", "127.0.0.1"),
        ])
        .env("RUNTIME_ROOT", folder.path())
        .env("REDIS_URL", store.address().to_string())
        .env("GRPC_PORT", port.to_string())
        .env("PORT", http.to_string())
        .env("DEBUG_PORT", debug.to_string())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}
