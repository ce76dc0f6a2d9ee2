//! The pool's endpoints and how loaded each of them is, as far as anyone knows.
//!
//! Three sources are fused (best first): the kernel's count at the pod's own
//! sockets, which has everybody's requests in it; the engine's own gauges; and
//! what was picked here. Each value keeps its age, and one that is too old
//! gives way to the next source: a silent agent never stops traffic.

mod agents;
mod ledger;
mod membership;
mod pool;
mod slot;

pub use self::{
    agents::AgentView,
    pool::Endpoints,
    slot::{EndpointView, LoadSource},
};
pub(crate) use self::{
    agents::{AgentOptions, follow_agents},
    ledger::PickId,
    membership::{follow_members, parse_selector},
    pool::Table,
};
