//! The ring of request events, which wakes the agent.

use std::io;

use aya::maps::{MapData, RingBuf};
use forebay_agent_ebpf::maps::Event;
use tokio::io::{Interest, unix::AsyncFd};

/// Request events from the kernel, in order.
pub struct Events {
    ring: AsyncFd<RingBuf<MapData>>,
}

impl Events {
    pub(super) fn new(ring: RingBuf<MapData>) -> io::Result<Self> {
        // SAFETY: the ring owns its descriptor for its whole lifetime.
        let ring = unsafe { AsyncFd::register_with_interest(ring, Interest::READABLE) };
        Ok(Self { ring: ring.map_err(io::Error::from)? })
    }

    /// Waits until there are events and passes all of them to `each`. Cancel safe.
    pub async fn next(&mut self, mut each: impl FnMut(Event)) -> io::Result<()> {
        loop {
            let mut guard = self.ring.readable_mut().await?;
            let ring = guard.get_inner_mut();
            let mut any = false;
            while let Some(item) = ring.next() {
                if let Some(event) = parse(&item) {
                    each(event);
                    any = true;
                }
            }
            guard.clear_ready();
            if any {
                return Ok(());
            }
        }
    }
}

fn parse(bytes: &[u8]) -> Option<Event> {
    if bytes.len() != size_of::<Event>() {
        return None;
    }
    // SAFETY: `bytes` has the size of an `Event`, which is valid for every bit pattern, and the read is unaligned.
    Some(unsafe { bytes.as_ptr().cast::<Event>().read_unaligned() })
}
