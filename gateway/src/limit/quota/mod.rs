//! State of quotas.
//!
//! A quota counts in windows of the calendar. A request counts in the windows in which it was admitted: what it is found to
//! have used later corrects these, and no later ones. A window can thus be overrun by what requests in flight use above their
//! estimates, and never by more. Requests that need more than a whole limit are admitted in a window that is not used yet.
//!
//! The counters are in this process, kept over its restart by a [`file`] if there is one, and each of several gateways admits its [`share`] of each limit. With a [`store`],
//! gateways share the counters: a request is admitted by what the store has granted to this gateway in advance, or else by
//! asking the store.

mod counters;
mod exceeded;
mod exchange;
mod file;
mod keep;
mod registry;
mod share;
mod state;
mod store;
mod stored;
#[cfg(test)]
mod tests;
mod values;
mod window;

use redis::RedisError;

pub(crate) use counters::QuotaStanding;
pub(crate) use exceeded::{QuotaExceeded, QuotaRejection};
pub(crate) use file::{QuotaFile, open_file};
pub(crate) use registry::QuotaRegistry;
pub(crate) use share::Share;
pub(crate) use state::{QuotaState, QuotaTaken};
pub(crate) use store::{QuotaStoreMetrics, QuotaStoreOptions};
pub(crate) use window::unix_seconds;

/// The store in which gateways share the counters of quotas.
#[derive(Clone, Debug)]
pub(crate) struct QuotaStore(store::Handle<QuotaState>);

/// Returns the store, and the task that serves it until the last handle is dropped.
pub(crate) fn open_store(
    options: &QuotaStoreOptions,
    metrics: QuotaStoreMetrics,
) -> Result<(QuotaStore, impl Future<Output = ()> + Send + use<>), RedisError> {
    let (store, service) = store::Service::new(options, metrics)?;
    Ok((QuotaStore(store), service.run()))
}
