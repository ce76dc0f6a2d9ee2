//! Test setup over real sockets: a gateway in this process, scripted endpoints, a programmable picker, raw clients.

pub mod client;
pub mod h2;
pub mod harness;
pub mod picker;
pub mod process;
pub mod prompts;
pub mod proxy;
pub mod tls;
pub mod upstream;

use std::future::Future;
use std::time::Duration;

/// Maximum wait in tests. It only ends tests that would hang.
pub const DEADLINE: Duration = Duration::from_secs(10);

/// Waits for `it`. Panics with `what` after the maximum wait.
pub async fn within<T>(what: &str, it: impl Future<Output = T>) -> T {
    match tokio::time::timeout(DEADLINE, it).await {
        Ok(it) => it,
        Err(_) => panic!("waited in vain for {what}"),
    }
}

/// Polls until `condition` returns a value.
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
