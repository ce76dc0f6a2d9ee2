//! The agents' telemetry: one stream per agent and process, for all pools.
//!
//! [`Agents`] holds a stream to each agent in the store and the agent's newest state. A frame goes to the pools that have
//! an endpoint that this agent reports, and to no other. A pool that gets such an endpoint later first gets what is known of
//! it, so it need not wait for the next change.

mod discovery;
mod hub;
mod routes;
mod stream;
mod view;

pub(crate) use self::{
    discovery::{AgentOptions, parse_selector},
    hub::Reader,
};
pub use self::{hub::Agents, view::AgentView};
