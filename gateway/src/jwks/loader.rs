//! Keeps one key set up to date.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption};
use forebay_routing::{JwtKeys, RemoteJwks};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

use super::fetch::fetch;
use crate::observe::Metrics;

/// Time between loads that tokens with unknown keys cause. Clients choose what such a token names.
const DEMAND_INTERVAL: Duration = Duration::from_secs(30);
/// Time after the first failed load. It doubles with each further one.
const FIRST_RETRY: Duration = Duration::from_secs(1);
const MAX_RETRY: Duration = Duration::from_secs(60);

/// A key set on a server.
#[derive(Debug)]
pub(crate) struct KeySet {
    source: ArcSwap<RemoteJwks>,
    keys: ArcSwapOption<JwtKeys>,
    /// A token names a key that the set does not have.
    demanded: Notify,
    /// The endpoints, TLS or the time between loads are others.
    changed: Notify,
}

/// Why a set is loaded again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cause {
    Time,
    Demand,
    Change,
}

impl KeySet {
    pub(super) fn new(source: Arc<RemoteJwks>) -> Self {
        let (demanded, changed) = (Notify::new(), Notify::new());
        Self { source: ArcSwap::new(source), keys: ArcSwapOption::empty(), demanded, changed }
    }

    /// The newest table has it like this.
    pub(super) fn change(&self, source: &Arc<RemoteJwks>) {
        let old = self.source.swap(source.clone());
        if old != *source {
            self.changed.notify_one();
        }
    }

    /// The keys that were loaded last. `None` if none were ever loaded.
    pub(super) fn keys(&self) -> Option<Arc<JwtKeys>> {
        self.keys.load_full()
    }

    pub(super) fn demand(&self) {
        self.demanded.notify_one();
    }

    /// Loads the set again and again.
    pub(super) async fn run(self: Arc<Self>, metrics: Arc<Metrics>) {
        let mut failures = 0;
        let mut next_demand = Instant::now();
        loop {
            let source = self.source.load_full();
            failures = if self.load(&source, &metrics, failures).await { 0 } else { failures + 1 };
            if self.until_next(&source, failures, next_demand).await == Cause::Demand {
                next_demand = Instant::now() + DEMAND_INTERVAL;
            }
        }
    }

    /// Waits until the set has to be loaded again. Retries are frequent enough without demands. A set is loaded again at once
    /// if its server has to be verified in another way. `loaded`: where it was loaded from.
    async fn until_next(&self, loaded: &RemoteJwks, failures: u32, next_demand: Instant) -> Cause {
        let tls = &loaded.tls;
        let loaded = Instant::now();
        let mut is_demanded = false;
        loop {
            let regular = loaded + wait(self.source.load().refresh, failures);
            let (at, cause) = match is_demanded && next_demand < regular {
                true => (next_demand, Cause::Demand),
                false => (regular, Cause::Time),
            };
            tokio::select! {
                () = sleep_until(at) => return cause,
                () = self.demanded.notified(), if failures == 0 && !is_demanded => is_demanded = true,
                () = self.changed.notified() => {
                    if failures > 0 || self.source.load().tls != *tls {
                        return Cause::Change;
                    }
                }
            }
        }
    }

    /// Whether the set was loaded. `failures`: loads before this one that failed.
    async fn load(&self, source: &RemoteJwks, metrics: &Metrics, failures: u32) -> bool {
        let loaded = fetch(source).await;
        metrics.key_set_loaded(&source.id, loaded.is_ok());
        match loaded {
            Ok((keys, problems)) => {
                for problem in problems {
                    tracing::warn!(key_set = %source.id, "a key of the JSON Web Key Set cannot be used: {problem}");
                }
                tracing::info!(key_set = %source.id, keys = keys.len(), "JSON Web Key Set loaded");
                self.keys.store(Some(Arc::new(keys)));
                true
            }
            Err(error) => {
                let retry_in = wait(source.refresh, failures + 1);
                let consequence = match self.keys.load().is_some() {
                    true => "the keys that were loaded before stay in use",
                    false => "tokens that need its keys are rejected with status 503",
                };
                tracing::warn!(key_set = %source.id, %error, ?retry_in, "cannot load a JSON Web Key Set; {consequence}");
                false
            }
        }
    }
}

/// Time until the next load after so many failures.
fn wait(refresh: Duration, failures: u32) -> Duration {
    match failures.checked_sub(1) {
        None => refresh,
        Some(doublings) => (FIRST_RETRY * 2_u32.pow(doublings.min(8))).min(MAX_RETRY),
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use forebay_resources::ObjectKey;
    use forebay_routing::{Authorities, JwksId, ServerTls};

    use super::*;

    const REFRESH: Duration = Duration::from_secs(300);

    fn source(refresh: Duration, endpoints: &[SocketAddr]) -> Arc<RemoteJwks> {
        let id = JwksId { service: ObjectKey::new("infra", "idp"), port: 80, path: "/keys".into() };
        Arc::new(RemoteJwks { id, endpoints: endpoints.to_vec(), tls: None, refresh })
    }

    #[test]
    fn retries_are_further_apart_each_time() {
        let seconds = (0..10).map(|failures| wait(REFRESH, failures).as_secs());
        assert_eq!(seconds.collect::<Vec<_>>(), [300, 1, 2, 4, 8, 16, 32, 60, 60, 60]);
    }

    #[tokio::test(start_paused = true)]
    async fn is_loaded_when_it_is_old_or_demanded_but_not_too_often() {
        let set = KeySet::new(source(REFRESH, &[]));
        let after = async |failures, next_demand| {
            let start = Instant::now();
            let cause = set.until_next(&set.source.load(), failures, next_demand).await;
            (cause, start.elapsed().as_secs())
        };
        let now = Instant::now();
        assert_eq!(after(0, now).await, (Cause::Time, 300));
        set.demand();
        set.demand();
        assert_eq!(after(0, now).await, (Cause::Demand, 0));
        // One that comes too early is not forgotten.
        set.demand();
        assert_eq!(after(0, Instant::now() + DEMAND_INTERVAL).await, (Cause::Demand, 30));
        // After a failure it waits for the retry.
        set.demand();
        assert_eq!(after(3, now).await, (Cause::Time, 4));
    }

    #[tokio::test(start_paused = true)]
    async fn follows_changes_of_its_source() {
        let set = KeySet::new(source(REFRESH, &[]));
        let start = Instant::now();
        let plain = source(REFRESH, &[]);
        set.change(&source(REFRESH * 2, &[]));
        assert_eq!(set.until_next(&plain, 0, start).await, Cause::Time);
        assert_eq!(start.elapsed(), REFRESH * 2);
        set.change(&source(REFRESH, &["10.0.0.1:80".parse().unwrap()]));
        assert_eq!(set.until_next(&plain, 1, start).await, Cause::Change);
        let (server_name, authorities) = ("idp.example".to_owned(), Authorities::System);
        let tls = ServerTls { authorities, server_name, names: Vec::new() };
        set.change(&Arc::new(RemoteJwks { tls: Some(tls), ..RemoteJwks::clone(&plain) }));
        assert_eq!(set.until_next(&plain, 0, start).await, Cause::Change);
        assert_eq!(start.elapsed(), REFRESH * 2);
    }
}
