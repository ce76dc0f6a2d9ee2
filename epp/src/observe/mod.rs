//! What can be seen from outside: metrics, probes and the load as picks see it.

mod http;
mod metrics;

pub(crate) use self::http::{Admin, serve};
pub use metrics::{Metrics, PoolMetrics};
