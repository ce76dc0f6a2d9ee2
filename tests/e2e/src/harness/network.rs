//! Addresses of the programs.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::atomic::{AtomicU32, Ordering},
};

use super::AGENT_PORT;

/// Loopback network of one harness: 127.x.y.0/24.
#[derive(Clone, Copy, Debug)]
pub struct Network([u8; 2]);

impl Network {
    /// Returns a different network for each harness of each running process.
    pub(super) fn claim() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let n = std::process::id().wrapping_mul(16).wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed));
        // 127.0 and 127.1 are likely to be used by other programs.
        Self([2 + (n / 256 % 250) as u8, (n % 256) as u8])
    }

    pub(super) fn ip(self, host: u8) -> IpAddr {
        IpAddr::V4(Ipv4Addr::new(127, self.0[0], self.0[1], host))
    }

    pub fn gateway(self) -> SocketAddr {
        SocketAddr::new(self.ip(1), 8080)
    }

    pub fn gateway_admin(self) -> SocketAddr {
        SocketAddr::new(self.ip(1), 9100)
    }

    pub fn agent(self) -> SocketAddr {
        SocketAddr::new(self.ip(2), AGENT_PORT)
    }

    pub fn agent_http(self) -> SocketAddr {
        SocketAddr::new(self.ip(2), 9551)
    }

    /// Free for an Envoy in front of the picker.
    pub fn envoy(self) -> SocketAddr {
        SocketAddr::new(self.ip(4), 8080)
    }

    /// Free for a Prometheus that scrapes the programs.
    pub fn prometheus(self) -> SocketAddr {
        SocketAddr::new(self.ip(3), 9090)
    }

    /// The replicas of the picker of one pool.
    pub(super) fn epps(self, pool: usize, replicas: usize) -> impl Iterator<Item = IpAddr> {
        (0..replicas).map(move |replica| self.ip(10 + (pool * replicas + replica) as u8))
    }

    pub(super) fn pod(self, index: usize) -> IpAddr {
        self.ip(100 + index as u8)
    }
}
