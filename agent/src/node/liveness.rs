//! Judges all endpoints at an interval.

use std::{collections::HashMap, net::SocketAddr, sync::Arc, time::Duration};

use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use crate::{kernel::boottime_ns, liveness::History, publish::Publisher};

const INTERVAL: Duration = Duration::from_millis(250);

/// Runs until `shutdown`.
pub(super) async fn judge_endpoints(publisher: Arc<Publisher>, shutdown: CancellationToken) {
    let mut histories = HashMap::<(SocketAddr, String), History>::new();
    let mut ticks = tokio::time::interval(INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while shutdown.run_until_cancelled(ticks.tick()).await.is_some() {
        let now_ns = boottime_ns();
        let mut judged = HashMap::with_capacity(histories.len());
        publisher.set_liveness(|address, endpoint, gpu_utilization| {
            let uid = endpoint.key.as_ref().map_or_else(String::new, |key| key.uid.clone());
            let key = (address, uid);
            let mut history = histories.remove(&key).unwrap_or_else(|| History::new(now_ns));
            let verdict = history.judge(endpoint, gpu_utilization, now_ns);
            judged.insert(key, history);
            verdict
        });
        histories = judged;
    }
}
