//! The eBPF programs attached to one fake pod, in this process.

use std::{
    io::{Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    path::Path,
    time::Duration,
};

use forebay_agent::kernel::{Events, Kernel, KernelOff, Options, Watched};

use super::{PodCgroup, cgroup2_mount};

/// The loaded programs, attached to the port of the listener of one pod.
pub struct Bench {
    pub kernel: Kernel,
    pub events: Events,
    pub pod: PodCgroup,
    pub listener: TcpListener,
    pub watched: Watched,
}

impl Bench {
    /// `None` if this machine does not support BPF; the reason is printed.
    pub fn new(test: &str) -> Option<Self> {
        Self::with_pins(test, Path::new("/nonexistent"), false)
    }

    /// Like [`Bench::new`], with pinned maps below `pin_root`.
    ///
    /// # Panics
    /// When the programs load and another step fails.
    #[expect(clippy::unwrap_used, reason = "a test that cannot be set up fails")]
    pub fn with_pins(test: &str, pin_root: &Path, keep_pins: bool) -> Option<Self> {
        let (mut kernel, events) = load_kernel(pin_root, keep_pins)?;
        let pod = Self::pod(test);
        let listener = pod.listen(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).unwrap();
        let port = listener.local_addr().unwrap().port();
        let watched = kernel.watch(pod.path(), &[port]).unwrap();
        Some(Self { kernel, events, pod, listener, watched })
    }

    /// Creates a pod cgroup for this test.
    ///
    /// # Panics
    /// When this process cannot create cgroups.
    #[expect(clippy::unwrap_used, reason = "a test that cannot be set up fails")]
    pub fn pod(test: &str) -> PodCgroup {
        let root = cgroup2_mount().unwrap().join(format!("forebay-test-{}-{test}", std::process::id()));
        PodCgroup::new(&root, "01").unwrap()
    }

    pub fn slot(&self) -> u32 {
        self.watched.slots[0].1
    }

    /// Connects to the listener of the pod. Returns the sockets of client and server.
    ///
    /// # Panics
    /// When the connection fails.
    #[expect(clippy::unwrap_used, reason = "a test that cannot be set up fails")]
    pub fn connect(&self) -> (TcpStream, TcpStream) {
        let client = TcpStream::connect(self.listener.local_addr().unwrap()).unwrap();
        let (server, _) = self.listener.accept().unwrap();
        for stream in [&client, &server] {
            stream.set_nodelay(true).unwrap();
            stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        }
        (client, server)
    }

    /// Sends bytes as one segment and waits until the peer has received them.
    ///
    /// # Panics
    /// When they do not arrive.
    #[expect(clippy::unwrap_used, reason = "a test whose bytes do not arrive fails")]
    pub fn send(from: &mut TcpStream, to: &mut TcpStream, bytes: &[u8]) {
        from.write_all(bytes).unwrap();
        let mut arrived = vec![0; bytes.len()];
        to.read_exact(&mut arrived).unwrap();
        assert!(arrived == bytes, "received different bytes");
    }
}

/// Loads the programs. `None` if this machine does not support BPF; the reason is printed to standard output. Rejection
/// by the verifier is a failure, not a reason to skip.
///
/// # Panics
/// When the kernel rejects the programs.
#[expect(clippy::print_stdout, reason = "a test prints what it skips")]
pub fn load_kernel(pin_root: &Path, keep_pins: bool) -> Option<(Kernel, Events)> {
    match Kernel::load(&Options { pin_root: pin_root.to_owned(), keep_pins: keep_pins.into() }) {
        Ok((kernel, events, _)) => Some((kernel, events)),
        Err(off @ (KernelOff::NotBuilt | KernelOff::NotPermitted(_))) => {
            println!("skipped: {off}");
            None
        }
        Err(off) => panic!("{off}"),
    }
}
