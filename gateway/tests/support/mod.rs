//! A gateway in this process between real sockets: hand-written model servers, a programmable picker, raw clients.

pub mod client;
pub mod h2;
pub mod picker;
pub mod stage;
pub mod tls;
pub mod upstream;

use std::future::Future;
use std::time::Duration;

/// Longest wait for anything in a test. It only ends tests that would hang.
pub const DEADLINE: Duration = Duration::from_secs(10);

/// Waits for `it`; panics with `what` when it does not come.
pub async fn within<T>(what: &str, it: impl Future<Output = T>) -> T {
    match tokio::time::timeout(DEADLINE, it).await {
        Ok(it) => it,
        Err(_) => panic!("waited in vain for {what}"),
    }
}

/// Asks again and again until `condition` gives something.
pub async fn until<T, F: Future<Output = Option<T>>>(what: &str, mut condition: impl FnMut() -> F) -> T {
    within(what, async {
        loop {
            if let Some(it) = condition().await {
                return it;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await
}
