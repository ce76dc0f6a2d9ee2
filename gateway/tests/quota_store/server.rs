//! A Valkey or Redis server of the test.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::support::until;

/// Names of the program in Debian, in order of preference.
const PROGRAMS: [&str; 2] = ["valkey-server", "redis-server"];

/// Ends with the test.
pub struct Server {
    child: Child,
    address: SocketAddr,
    folder: TempDir,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Server {
    /// `None`: no such program is installed. The test says that it is skipped.
    pub async fn start() -> Option<Self> {
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let folder = tempfile::tempdir().unwrap();
        let Some(child) = spawn(address, &folder) else {
            println!("skipped: neither of {PROGRAMS:?} is installed");
            return None;
        };
        let server = Self { child, address, folder };
        server.wait().await;
        Some(server)
    }

    /// Ends the server with all of its data.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Starts an empty server at the same address.
    pub async fn start_again(&mut self) {
        self.child = spawn(self.address, &self.folder).unwrap();
        self.wait().await;
    }

    async fn wait(&self) {
        until("the store to listen", || async { TcpStream::connect(self.address).ok() }).await;
    }

    /// The server does not answer any more, and keeps its connections.
    pub fn freeze(&self) {
        kill_process(Pid::from_child(&self.child), Signal::STOP).unwrap();
    }

    pub fn thaw(&self) {
        kill_process(Pid::from_child(&self.child), Signal::CONT).unwrap();
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn url(&self) -> String {
        format!("redis://{}/0", self.address)
    }

    pub async fn connect(&self) -> redis::aio::MultiplexedConnection {
        redis::Client::open(self.url()).unwrap().get_multiplexed_async_connection().await.unwrap()
    }

    /// What each gateway has told of the only limit: total, settled, time.
    pub async fn shares(&self) -> Vec<String> {
        let mut connection = self.connect().await;
        let keys: Vec<String> =
            redis::cmd("KEYS").arg("forebay:quota:*").query_async(&mut connection).await.unwrap();
        redis::cmd("HVALS").arg(keys).query_async(&mut connection).await.unwrap()
    }

    /// All keys.
    pub async fn keys(&self) -> Vec<String> {
        let mut connection = self.connect().await;
        redis::cmd("KEYS").arg("*").query_async(&mut connection).await.unwrap()
    }
}

fn spawn(address: SocketAddr, folder: &TempDir) -> Option<Child> {
    PROGRAMS.iter().find_map(|program| {
        Command::new(program)
            .args(["--bind", "127.0.0.1", "--port", &address.port().to_string(), "--save", "", "--dir"])
            .arg(folder.path())
            .stdout(Stdio::null())
            .spawn()
            .ok()
    })
}
