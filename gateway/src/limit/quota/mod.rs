//! State of quotas.
//!
//! A quota counts in windows of the calendar. A request counts in the windows in which it was admitted: what it is found to
//! have used later corrects these, and no later ones. A window can thus be overrun by what requests in flight use above their
//! estimates, and never by more. Requests that need more than a whole limit are admitted in a window that is not used yet.
//!
//! The counters are in this process. [`QuotaState`] is the only interface to them: `take` reserves, and the [`QuotaTaken`]
//! gives back, exactly once. A store that replicas share replaces what is behind these two.

mod counters;
mod exceeded;
mod registry;
mod state;
#[cfg(test)]
mod tests;
mod values;
mod window;

pub(crate) use counters::QuotaStanding;
pub(crate) use exceeded::QuotaExceeded;
pub(crate) use registry::QuotaRegistry;
pub(crate) use state::{QuotaState, QuotaTaken};
pub(crate) use window::unix_seconds;
