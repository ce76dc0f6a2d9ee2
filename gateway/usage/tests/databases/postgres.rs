use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

/// A PostgreSQL server of its own.
pub(crate) struct Postgres {
    folder: TempDir,
    programs: PathBuf,
    port: u16,
    server: Option<Child>,
}

impl Drop for Postgres {
    fn drop(&mut self) {
        self.stop();
    }
}

/// The folder of Debian's programs.
fn programs() -> Option<PathBuf> {
    let versions = fs::read_dir("/usr/lib/postgresql").ok()?;
    let mut folders: Vec<PathBuf> = versions.map(|version| version.unwrap().path().join("bin")).collect();
    folders.retain(|folder| folder.join("postgres").exists());
    folders.sort();
    folders.pop()
}

/// The user that Debian's package makes. The server refuses to run as root.
fn user() -> Option<u32> {
    let id = |arguments: &[&str]| {
        let output = Command::new("id").args(arguments).output().unwrap();
        String::from_utf8(output.stdout).unwrap().trim().parse().ok()
    };
    if id(&["-u"]) == Some(0) { id(&["-u", "postgres"]) } else { None }
}

impl Postgres {
    /// A server that does not run yet. `None` where it is not installed.
    pub(crate) fn new() -> Option<Self> {
        let Some(programs) = programs() else {
            println!("skipped: PostgreSQL is not installed (Debian's package postgresql)");
            return None;
        };
        let folder = tempfile::tempdir().unwrap();
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let data = folder.path().join("data");
        fs::create_dir(&data).unwrap();
        if let Some(user) = user() {
            chown(&data, Some(user), None).unwrap();
        }
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let postgres = Self { folder, programs, port, server: None };
        let mut initdb = postgres.command("initdb");
        initdb.args(["--auth=trust", "--username=forebay", "--no-sync", "--no-instructions", "-D"]);
        assert!(initdb.arg(data).stdout(Stdio::null()).status().unwrap().success());
        Some(postgres)
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(self.programs.join(program));
        command.current_dir(self.folder.path());
        if let Some(user) = user() {
            command.uid(user);
        }
        command
    }

    /// Starts the server. It accepts connections soon.
    pub(crate) fn start(&mut self) {
        let data = self.folder.path().join("data");
        let mut server = self.command("postgres");
        server.arg("-D").arg(&data).args(["-p", &self.port.to_string(), "-h", "127.0.0.1", "-F", "-k"]);
        self.server = Some(server.arg(&data).stderr(Stdio::null()).spawn().unwrap());
    }

    /// Kills the server.
    pub(crate) fn stop(&mut self) {
        if let Some(mut server) = self.server.take() {
            // SIGKILL would leave its shared memory. SIGTERM would wait for clients.
            let pid = server.id().to_string();
            assert!(Command::new("kill").args(["-QUIT", &pid]).status().unwrap().success());
            server.wait().unwrap();
        }
    }

    pub(crate) fn url(&self) -> String {
        format!("postgres://forebay@127.0.0.1:{}/postgres", self.port)
    }
}
