//! A gateway as a process.

use std::net::{SocketAddr, TcpListener};
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;
use tokio::net::TcpStream;

use super::harness::{Harness, LISTENER};
use super::until;

/// Path of the program.
pub const GATEWAY: &str = env!("CARGO_BIN_EXE_forebay-gateway");

/// Ends with the test.
pub struct Process {
    child: Child,
    pub address: SocketAddr,
    pub admin: SocketAddr,
    _folder: TempDir,
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Process {
    /// Starts the gateway with the manifests of `harness`. `command` starts the program, and gets more arguments.
    pub async fn start(harness: &Harness, mut command: Command) -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("manifests.yaml"), &harness.manifests).unwrap();
        let (address, admin) = (free_address(), free_address());
        let child = command
            .args(["--workers=1", "--bind-address=127.0.0.1"])
            .arg(format!("--admin-listen={admin}"))
            .arg(format!("--map-port={LISTENER}={}", address.port()))
            .arg("--resources")
            .arg(folder.path())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        until("the gateway to listen", || async { TcpStream::connect(address).await.ok() }).await;
        Self { child, address, admin, _folder: folder }
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

fn free_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}
