use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use forebay_resources::Snapshot;
use forebay_routing::status::QuotaCounting;
use forebay_routing::{ListenerPort, Report};

/// What the data plane has applied. Statuses describe it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Applied {
    pub(crate) snapshot: Arc<Snapshot>,
    pub(crate) report: Arc<Report>,
    /// Where what was used of quotas is counted.
    pub(crate) counting: QuotaCounting,
    /// The listener ports that this replica has opened.
    pub(crate) addresses: Arc<BTreeMap<ListenerPort, SocketAddr>>,
}
