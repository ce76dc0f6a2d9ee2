//! Forebay's endpoint picker: picks the pod of an InferencePool that serves a request.
//!
//! [`Picker`] picks in process for one pool, [`Pools`] for many. [`Server`] picks for gateways that speak the Endpoint Picker Protocol ([`protocol`]).
//!
//! Each module imports only modules below it:
//!
//! | module | task |
//! |---|---|
//! | `serve` | listeners, servers, shutdown |
//! | `admin`, `health` | HTTP pages, gRPC health service |
//! | `protocol` | the ext_proc service |
//! | `features` | prompts in messages, between a gateway and a picker in another process |
//! | `interest` | what is watched in the cluster, RBAC rules |
//! | `pools` | the pools of the process, and which one a gateway asks for |
//! | `picker` | a scheduler with its part of the telemetry |
//! | `config` | `EndpointPickerConfig` documents, the registry of plugins, presets |
//! | `schedule` | reads prompts, compares endpoints and picks: filters, scorers, the default policy |
//! | `metrics` | Prometheus metrics |
//! | `agents` | one telemetry stream per agent, for all pools |
//! | `endpoints` | members of a pool and their load |
//! | `signals` | what is learned of endpoints: speeds, cached prefixes, failures |
//! | `error`, `agent_tls` | errors; TLS flags for the agents |

#![forbid(unsafe_code)]
#![warn(missing_docs)]

mod admin;
mod agent_tls;
mod agents;
pub mod config;
pub mod endpoints;
mod error;
pub mod features;
mod health;
mod interest;
mod metrics;
mod picker;
pub mod pools;
pub mod protocol;
pub mod schedule;
mod serve;
mod signals;

pub use agent_tls::AgentTlsFlags;
pub use agents::{AgentView, Agents};
pub use error::{Error, ErrorSource};
pub use interest::{AGENT_RULES, POOL_RULES, interest};
pub use metrics::{Metrics, PoolMetrics};
pub use picker::{
    DEFAULT_AGENT_HEARTBEAT, DEFAULT_AGENT_PORT, DEFAULT_AGENT_SELECTOR, Picker, PickerOptions,
};
pub use pools::{PoolScope, Pools};
pub use serve::{Server, ServerOptions};
