//! A scratch pod: a cgroup of its own, and a socket that was born in it.

use std::{
    fs,
    io::{self, Read as _, Write as _},
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    sync::Mutex,
    time::{Duration, Instant},
};

use forebay_agent::kernel::{Events, Kernel, KernelOff, Options, Watched};

/// A process is in one cgroup at a time, and so are this test binary's threads.
static MEMBERSHIP: Mutex<()> = Mutex::new(());

/// A pod's cgroup, as the kubelet's systemd driver lays it out, below a folder of
/// this test's own. Removed at the end.
pub struct Pod {
    root: PathBuf,
    pub cgroup: PathBuf,
    container: PathBuf,
}

impl Pod {
    pub fn new(test: &str) -> io::Result<Self> {
        let root = cgroup2_mount()?.join(format!("forebay-test-{}-{test}", std::process::id()));
        let cgroup = root.join("kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod01.slice");
        let container = cgroup.join(format!("cri-containerd-{}.scope", "ab".repeat(32)));
        fs::create_dir_all(&container)?;
        Ok(Self { root, cgroup, container })
    }

    /// A listener that belongs to the pod: a socket keeps the cgroup it was made in.
    pub fn listen(&self) -> io::Result<TcpListener> {
        let _membership = MEMBERSHIP.lock().unwrap();
        let home = own_cgroup()?;
        fs::write(self.container.join("cgroup.procs"), "0")?;
        let listener = TcpListener::bind("127.0.0.1:0");
        fs::write(home.join("cgroup.procs"), "0")?;
        listener
    }
}

impl Drop for Pod {
    fn drop(&mut self) {
        remove_cgroups(&self.root);
    }
}

fn remove_cgroups(path: &Path) {
    for entry in fs::read_dir(path).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_cgroups(&entry.path());
        }
    }
    let _ = fs::remove_dir(path);
}

fn cgroup2_mount() -> io::Result<PathBuf> {
    fs::read_to_string("/proc/self/mountinfo")?
        .lines()
        .find(|line| line.contains(" - cgroup2 "))
        .and_then(|line| line.split(' ').nth(4))
        .map(PathBuf::from)
        .ok_or_else(|| io::Error::other("no cgroup2 is mounted"))
}

fn own_cgroup() -> io::Result<PathBuf> {
    let text = fs::read_to_string("/proc/self/cgroup")?;
    let path = text.lines().find_map(|line| line.strip_prefix("0::")).unwrap_or("/");
    Ok(cgroup2_mount()?.join(path.trim_start_matches('/')))
}

/// The loaded programs on one pod, or `None` where this machine has no BPF (said on
/// standard output: a test must not pass silently).
pub struct Bench {
    pub kernel: Kernel,
    pub events: Events,
    pub pod: Pod,
    pub listener: TcpListener,
    pub watched: Watched,
}

impl Bench {
    pub fn new(test: &str) -> Option<Self> {
        Self::with_pins(test, Path::new("/nonexistent"), false)
    }

    pub fn with_pins(test: &str, pin_root: &Path, keep_pins: bool) -> Option<Self> {
        let (mut kernel, events) = load(pin_root, keep_pins)?;
        let pod = match Pod::new(test) {
            Ok(pod) => pod,
            Err(error) => {
                println!("skipped: cannot make a cgroup ({error})");
                return None;
            }
        };
        let listener = pod.listen().unwrap();
        let port = listener.local_addr().unwrap().port();
        let watched = kernel.watch(&pod.cgroup, &[port]).unwrap();
        Some(Self { kernel, events, pod, listener, watched })
    }

    pub fn slot(&self) -> u32 {
        self.watched.slots[0].1
    }

    /// A connection through the pod's listener: the client's end and the server's.
    pub fn connect(&self) -> (TcpStream, TcpStream) {
        let client = TcpStream::connect(self.listener.local_addr().unwrap()).unwrap();
        let (server, _) = self.listener.accept().unwrap();
        for stream in [&client, &server] {
            stream.set_nodelay(true).unwrap();
            stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        }
        (client, server)
    }
}

pub fn load(pin_root: &Path, keep_pins: bool) -> Option<(Kernel, Events)> {
    match Kernel::load(&Options { pin_root: pin_root.to_owned(), keep_pins }) {
        Ok((kernel, events, _)) => Some((kernel, events)),
        Err(off @ (KernelOff::NotBuilt | KernelOff::NotPermitted(_))) => {
            println!("skipped: {off}");
            None
        }
        Err(off) => panic!("{off}"),
    }
}

/// Sends bytes as one segment and waits until the other side has them.
pub fn send(from: &mut TcpStream, to: &mut TcpStream, bytes: &[u8]) {
    from.write_all(bytes).unwrap();
    let mut arrived = vec![0; bytes.len()];
    to.read_exact(&mut arrived).unwrap();
    assert_eq!(arrived, bytes);
}

/// Waits for a condition, not for a time.
pub fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !condition() {
        assert!(Instant::now() < deadline, "never happened: {what}");
        std::thread::yield_now();
    }
}

/// A bpffs of this test's own, unmounted at the end; `None` (and said so) where
/// mounting is not allowed.
pub fn bpffs(test: &str) -> Option<BpfMount> {
    let folder = tempfile::Builder::new().prefix(&format!("forebay-{test}-")).tempdir().unwrap();
    let mounted = std::process::Command::new("mount").args(["-t", "bpf", "bpf"]).arg(folder.path()).output();
    match mounted {
        Ok(output) if output.status.success() => Some(BpfMount { folder }),
        _ => {
            println!("skipped: cannot mount a bpffs");
            None
        }
    }
}

pub struct BpfMount {
    folder: tempfile::TempDir,
}

impl BpfMount {
    pub fn path(&self) -> &Path {
        self.folder.path()
    }
}

impl Drop for BpfMount {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount").arg(self.folder.path()).status();
    }
}
