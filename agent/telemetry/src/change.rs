//! What a frame means for the values before it.
//!
//! These rules are written once, here. [`Replica`](crate::Replica) and the endpoint picker apply the same changes to
//! different state.

use crate::v1::{
    Delta, Endpoint, EndpointKey, EndpointLatencies, EngineAge, Frame, Gpu, Heartbeat, Node, Snapshot,
    frame::Body,
};

/// One change of a replica. Changes of a frame must be applied in order.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Change<'a> {
    /// A snapshot starts: endpoints and GPUs that do not follow in this frame are gone. Counters may have restarted if
    /// the epoch differs from the last snapshot's.
    Reset {
        /// Identifies the run of the agent.
        epoch: u64,
    },
    /// New values of the node.
    Node(&'a Node),
    /// The GPU is gone.
    GpuRemoved(&'a str),
    /// New values of a GPU, which may be new.
    Gpu(&'a Gpu),
    /// The endpoint is gone. Another pod may have its address now, with another key.
    EndpointRemoved(&'a EndpointKey),
    /// New values of an endpoint, which may be new.
    Endpoint(&'a Endpoint),
    /// New latency histograms of an endpoint, which comes before them.
    Latencies(&'a EndpointLatencies),
    /// All kernel values were still valid at this time.
    KernelConfirmed {
        /// CLOCK_BOOTTIME of the agent's node, nanoseconds.
        measured_boottime_ns: u64,
    },
    /// All GPU values were still valid at this time.
    GpusConfirmed {
        /// CLOCK_BOOTTIME of the agent's node, nanoseconds.
        measured_boottime_ns: u64,
    },
    /// The engine values of one endpoint were still valid at this time.
    EngineConfirmed(&'a EngineAge),
}

/// Returns the changes of a frame, in the order in which they must be applied. Removals come before additions: a delta
/// may remove a pod and add its successor at the same address.
pub fn changes(frame: &Frame) -> Box<dyn Iterator<Item = Change<'_>> + '_> {
    match &frame.body {
        Some(Body::Snapshot(snapshot)) => Box::new(of_snapshot(frame.epoch, snapshot)),
        Some(Body::Delta(delta)) => Box::new(of_delta(delta)),
        Some(Body::Heartbeat(heartbeat)) => Box::new(of_heartbeat(heartbeat)),
        Some(Body::Goodbye(_)) | None => Box::new(std::iter::empty()),
    }
}

fn of_snapshot(epoch: u64, snapshot: &Snapshot) -> impl Iterator<Item = Change<'_>> {
    std::iter::once(Change::Reset { epoch })
        .chain(snapshot.node.iter().map(Change::Node))
        .chain(snapshot.gpus.iter().map(Change::Gpu))
        .chain(snapshot.endpoints.iter().map(Change::Endpoint))
        .chain(snapshot.latencies.iter().map(Change::Latencies))
}

/// The agent reads all kernel values at once. Endpoints that are not in the delta were unchanged at the time of the
/// newest value in it.
fn of_delta(delta: &Delta) -> impl Iterator<Item = Change<'_>> {
    let kernels = delta.endpoints.iter().filter_map(|endpoint| endpoint.kernel.as_ref());
    let newest = kernels.map(|kernel| kernel.measured_boottime_ns).max();
    let removed_gpus = delta.removed_gpu_uuids.iter().map(|uuid| Change::GpuRemoved(uuid));
    let node = delta.node.iter().map(Change::Node);
    node.chain(removed_gpus)
        .chain(delta.gpus.iter().map(Change::Gpu))
        .chain(delta.removed_endpoints.iter().map(Change::EndpointRemoved))
        .chain(delta.endpoints.iter().map(Change::Endpoint))
        .chain(delta.latencies.iter().map(Change::Latencies))
        .chain(newest.map(|measured_boottime_ns| Change::KernelConfirmed { measured_boottime_ns }))
}

fn of_heartbeat(heartbeat: &Heartbeat) -> impl Iterator<Item = Change<'_>> {
    let kernel = heartbeat.kernel_measured_boottime_ns;
    let gpus = heartbeat.gpu_measured_boottime_ns;
    kernel
        .map(|measured_boottime_ns| Change::KernelConfirmed { measured_boottime_ns })
        .into_iter()
        .chain(gpus.map(|measured_boottime_ns| Change::GpusConfirmed { measured_boottime_ns }))
        .chain(heartbeat.engines.iter().map(Change::EngineConfirmed))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn removals_precede_additions() {
        let key = |uid: &str| EndpointKey { uid: uid.into(), ..EndpointKey::default() };
        let delta = Delta {
            endpoints: vec![Endpoint { key: Some(key("new")), ..Endpoint::default() }],
            removed_endpoints: vec![key("old")],
            ..Delta::default()
        };
        let frame = Frame { body: Some(Body::Delta(delta)), ..Frame::default() };
        let all: Vec<Change<'_>> = changes(&frame).collect();
        assert!(matches!(all[..], [Change::EndpointRemoved(_), Change::Endpoint(_)]), "{all:?}");
    }
}
