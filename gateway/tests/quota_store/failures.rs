//! A store that is gone, and gateways that are.

use std::process::Command;
use std::time::Duration;

use super::*;
use crate::support::process::{GATEWAY, Process};

const ONE_PER_MONTH: &str = "{requests: 1, window: Month}";

/// Waits until a gateway has noticed that the store is gone, or is back.
async fn until_up(gateway: &Running, is_up: bool) {
    until("the state of the store", || async {
        let up = gateway.metric("forebay_gateway_quota_store_up").await;
        ((up == 1.0) == is_up).then_some(())
    })
    .await;
}

#[tokio::test]
async fn an_invalid_url_is_an_error_without_the_password() {
    for url in ["redis://u:secret@", "http://u:secret@127.0.0.1:1", "redis://u:secret@host:port/x", "secret"]
    {
        let folder = tempfile::tempdir().unwrap();
        let mut config = Config::new(folder.path());
        config.admin_listen = "127.0.0.1:0".parse().unwrap();
        config.quota_store = Some(url.to_owned());
        let error = forebay_gateway::Gateway::start(config).await.unwrap_err().to_string();
        println!("{error}");
        assert!(error.starts_with("--quota-store cannot be used: ") && !error.contains("secret"), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_quota_says_what_happens_without_the_store() {
    for (rule, statuses) in
        [("Open", [200, 200, 200]), ("Closed", [503, 503, 503]), ("Share", [200, 429, 429])]
    {
        let Some(mut store) = Server::start().await else { return };
        let engine = Engine::start(true).await;
        let limit = "{requests: 2, window: Month}";
        let gateways = engine.gateways(&store, 2, limit, &format!("  whenStoreUnavailable: {rule}")).await;
        for gateway in &gateways {
            until_up(gateway, true).await;
        }
        until("both gateways to know", || async {
            let calls =
                join_all(gateways.iter().map(|it| it.metric("forebay_gateway_quota_store_gateways"))).await;
            (calls == [2.0, 2.0]).then_some(())
        })
        .await;
        store.kill();
        until_up(&gateways[0], false).await;
        let mut seen = Vec::new();
        for _ in 0..3 {
            seen.push(exchange(gateways[0].address(), post(REQUEST)).await);
        }
        assert_eq!(seen.iter().map(|it| it.status).collect::<Vec<_>>(), statuses, "{rule}");
        if rule == "Closed" {
            assert_eq!(seen[0].code(), "quota_store_unavailable");
            assert!(seen[0].json()["error"]["message"].as_str().unwrap().contains("agentgateway-system/q"));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_store_is_told_what_was_used() {
    let Some(mut store) = Server::start().await else { return };
    let engine = Engine::start(true).await;
    let start = || {
        let harness = engine.behind("{requests: 3, window: Month}", "  whenStoreUnavailable: Open");
        harness.start_with(|config| {
            use_store(config, &store);
            // No renewal tells it in time.
            config.quota_lease = Duration::from_secs(600);
        })
    };
    let gateways = [start().await, start().await];
    let [idle, other] = [0, 1].map(|at| gateways[at].address());
    assert_eq!((ask(idle).await, ask(other).await), (200, 200));
    // All of it is in the store: the first gateway has nothing to tell from here.
    let is_settled = |it: &String| it.split(' ').nth(1) == Some("1");
    until("what was used", || async { store.shares().await.iter().all(is_settled).then_some(()) }).await;
    store.kill();
    for gateway in &gateways {
        until_up(gateway, false).await;
    }
    assert_eq!(ask(other).await, 200);
    store.start_again().await;
    for gateway in &gateways {
        until_up(gateway, true).await;
    }
    until("all that was used", || async { (remaining(other).await == 0).then_some(()) }).await;
    assert_eq!((ask(other).await, ask(idle).await), (429, 429));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_hangs_is_not_waited_for() {
    let Some(store) = Server::start().await else { return };
    let engine = Engine::start(true).await;
    let gateways = engine.gateways(&store, 1, ONE_PER_MONTH, "  whenStoreUnavailable: Open").await;
    until_up(&gateways[0], true).await;
    store.freeze();
    assert_eq!((ask(gateways[0].address()).await, ask(gateways[0].address()).await), (200, 200));
    until_up(&gateways[0], false).await;
    store.thaw();
    until_up(&gateways[0], true).await;
    assert_eq!(ask(gateways[0].address()).await, 429);
}

/// What it has used stays used, and what it has reserved comes back.
#[tokio::test(flavor = "multi_thread")]
async fn reservations_of_a_killed_gateway_come_back() {
    let Some(store) = Server::start().await else { return };
    let lease = Duration::from_secs(2);
    let (free, stuck) = (Engine::start(true).await, Engine::start(false).await);
    let limits = "{requests: 5, window: Month}, {concurrentRequests: 1}";
    let survivor = free.behind(limits, "").start_with(|config| {
        use_store(config, &store);
        config.quota_lease = lease;
    });
    let survivor = survivor.await;
    let mut command = Command::new(GATEWAY);
    command.arg(format!("--quota-lease={}", lease.as_secs_f64())).env("FOREBAY_QUOTA_STORE", store.url());
    let mut killed = Process::start(&stuck.behind(limits, ""), command).await;
    let mut client = connect(killed.address).await;
    client.write(post(REQUEST)).await;
    until("the request", || async { (stuck.arrived() == 1).then_some(()) }).await;
    // Beyond the lease: the gateway renews what it holds.
    let start = std::time::Instant::now();
    while start.elapsed() < 2 * lease {
        assert_eq!(ask(survivor.address()).await, 429);
    }
    killed.kill();
    until("what was reserved", || async { (ask(survivor.address()).await == 200).then_some(()) }).await;
    // The killed request was never settled, so it is not charged.
    assert_eq!(remaining(survivor.address()).await, 4);
}
