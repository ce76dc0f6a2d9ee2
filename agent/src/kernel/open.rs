//! The requests in flight, from the state of the connections.

use std::collections::{HashMap, HashSet};

use aya::maps::MapError;
use forebay_agent_ebpf::{
    framing::{Connection, OpenRequest},
    maps::MAX_CONNECTIONS,
};

use super::state::Kernel;

/// The POST requests in flight of an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpenRequests {
    /// The one that arrived first.
    pub oldest: OpenRequest,
    /// Requests for which content of the response was sent.
    pub with_response: u64,
}

impl OpenRequests {
    fn add(entry: Option<Self>, request: OpenRequest) -> Self {
        let with_response = entry.map_or(0, |it| it.with_response) + u64::from(request.has_response);
        let oldest = entry.map(|it| it.oldest).filter(|it| it.started_ns <= request.started_ns);
        Self { oldest: oldest.unwrap_or(request), with_response }
    }
}

impl Kernel {
    /// The requests in flight by slot. Reads all connections: two system calls each.
    pub fn open_requests(&self) -> Result<HashMap<u32, OpenRequests>, MapError> {
        let mut by_slot = HashMap::new();
        self.for_each_connection(|_, connection| {
            for request in connection.requests() {
                let entry = by_slot.get(&connection.slot).copied();
                by_slot.insert(connection.slot, OpenRequests::add(entry, request));
            }
        })?;
        Ok(by_slot)
    }

    /// Visits every connection once.
    pub(super) fn for_each_connection(
        &self,
        mut visit: impl FnMut(u64, &Connection),
    ) -> Result<(), MapError> {
        // The kernel restarts the iteration if the last visited entry was removed.
        let mut seen = HashSet::new();
        for entry in self.connections.iter().take(2 * MAX_CONNECTIONS as usize) {
            let (cookie, connection) = entry?;
            if seen.insert(cookie) {
                visit(cookie, &connection);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_request_of_all_connections_is_kept() {
        let request = |started_ns, has_response| OpenRequest { started_ns, has_response };
        let requests = [request(30, true), request(10, false), request(20, true)];
        let sum = requests.into_iter().fold(None, |entry, request| Some(OpenRequests::add(entry, request)));
        assert_eq!(sum, Some(OpenRequests { oldest: request(10, false), with_response: 2 }));
    }
}
