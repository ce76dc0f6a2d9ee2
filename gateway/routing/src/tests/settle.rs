//! What was written first is waited for, and nothing else is.

use std::time::Duration;

use tokio::time::Instant;

use super::*;

const MOMENT: Duration = Duration::from_millis(10);
const LONG: Duration = Duration::from_secs(10);

/// A gateway's snapshots, one after the other.
struct Clock {
    settling: Settling,
    now: Instant,
}

impl Clock {
    async fn new(manifests: &str) -> Self {
        let mut clock = Self { settling: Settling::default(), now: Instant::now() };
        let settled = clock.settling.settle(snapshot(manifests).await, clock.now);
        assert_eq!(settled.until, None);
        clock
    }

    /// What is in force `later`, where `manifests` are all that is known; and whether something is waited for.
    async fn after(&mut self, later: Duration, manifests: &str) -> (Vec<String>, bool) {
        self.now += later;
        let Settled { snapshot, until } = self.settling.settle(snapshot(manifests).await, self.now);
        if let Some(until) = until {
            assert!(until > self.now, "what is over is not waited for");
        }
        (in_force(&snapshot), until.is_some())
    }
}

/// Pools, Services, and routes with what they name first.
fn in_force(snapshot: &Snapshot) -> Vec<String> {
    let pools = snapshot.inference_pools.keys().map(|key| format!("pool {}", key.name));
    let services = snapshot.services.keys().map(|key| format!("service {}", key.name));
    let routes = snapshot.http_routes.iter().map(|(key, route)| {
        let rules = route.spec.rules.as_deref().unwrap();
        format!("{} to {}", key.name, rules[0].backend_refs.as_deref().unwrap()[0].name)
    });
    pools.chain(services).chain(routes).collect()
}

fn route_to(name: &str, pool: &str) -> String {
    route(name, &format!("rules: [{{{}}}]", to(pool)))
}

const SERVICE: &str = r#"
---
apiVersion: v1
kind: Service
metadata: {name: s, namespace: models}
spec: {ports: [{port: 80}]}
"#;

fn route_to_service(name: &str, port: u16) -> String {
    route(name, &format!("rules: [{{backendRefs: [{{name: s, port: {port}}}]}}]"))
}

#[tokio::test]
async fn a_new_route_waits_for_its_pool() {
    let mut clock = Clock::new(&pools(&["a"])).await;
    let early = pools(&["a"]) + &route_to("r", "b") + &route_to("other", "a");
    assert_eq!(clock.after(MOMENT, &early).await, (vec!["pool a".into(), "other to a".into()], true));
    let whole = pools(&["a", "b"]) + &route_to("r", "b") + &route_to("other", "a");
    let all = ["pool a", "pool b", "other to a", "r to b"].map(String::from).to_vec();
    assert_eq!(clock.after(MOMENT, &whole).await, (all, false));
}

#[tokio::test]
async fn a_changed_route_stays_as_it_was_until_its_new_pool_is_there() {
    let mut clock = Clock::new(&(pools(&["a"]) + &route_to("r", "a"))).await;
    // The old pool is gone already, too.
    let early = route_to("r", "b");
    assert_eq!(clock.after(MOMENT, &early).await, (vec!["pool a".into(), "r to a".into()], true));
    let whole = pools(&["b"]) + &route_to("r", "b");
    assert_eq!(clock.after(MOMENT, &whole).await, (vec!["pool b".into(), "r to b".into()], false));
}

#[tokio::test]
async fn a_pool_that_is_gone_stays_until_its_route_is_gone() {
    let mut clock = Clock::new(&(pools(&["a", "b", "c"]) + &route_to("r", "a"))).await;
    let late = pools(&["c"]) + &route_to("r", "a");
    let kept = ["pool a", "pool c", "r to a"].map(String::from).to_vec();
    assert_eq!(clock.after(MOMENT, &late).await, (kept, true), "and b, which nobody names, does not stay");
    assert_eq!(clock.after(MOMENT, &pools(&["c"])).await, (vec!["pool c".into()], false));
}

#[tokio::test]
async fn services_are_waited_for_with_their_ports() {
    let mut clock = Clock::new("").await;
    let both = |port| SERVICE.to_owned() + &route_to_service("r", port);
    assert_eq!(clock.after(MOMENT, &both(81)).await, (vec!["service s".into()], true));
    let all = ["service s", "r to s"].map(String::from).to_vec();
    assert_eq!(clock.after(MOMENT, &both(80)).await, (all.clone(), false));
    assert_eq!(clock.after(MOMENT, &route_to_service("r", 80)).await, (all, true));
}

#[tokio::test]
async fn a_grant_is_waited_for_but_never_outlived() {
    let route = route_in("infra", "r", &format!("rules: [{{{}}}]", to("p")));
    let mut clock = Clock::new(&pools(&["p"])).await;
    let without = pools(&["p"]) + &route;
    assert_eq!(clock.after(MOMENT, &without).await, (vec!["pool p".into()], true));
    let all = ["pool p", "r to p"].map(String::from).to_vec();
    assert_eq!(clock.after(MOMENT, &(without.clone() + GRANT)).await, (all.clone(), false));
    assert_eq!(clock.after(MOMENT, &without).await, (all, false));
    let settled = clock.settling.settle(snapshot(&without).await, clock.now);
    assert!(settled.snapshot.reference_grants.is_empty(), "what is forbidden is forbidden at once");
}

#[tokio::test]
async fn nothing_is_waited_for_longer_than_a_moment() {
    let mut clock = Clock::new(&(pools(&["a"]) + &route_to("r", "a"))).await;
    let broken = route_to("r", "missing");
    assert_eq!(clock.after(MOMENT, &broken).await, (vec!["pool a".into(), "r to a".into()], true));
    assert_eq!(clock.after(LONG, &broken).await, (vec!["r to missing".into()], false));
    // Now it is known to be so.
    assert_eq!(clock.after(MOMENT, &broken).await, (vec!["r to missing".into()], false));
    // One that changes all the time does not get a new moment each time.
    for pool in ["x", "y"] {
        clock.after(Duration::from_millis(600), &route_to("r", pool)).await;
    }
    assert_eq!(clock.after(Duration::from_millis(600), &route_to("r", "z")).await.0, ["r to z"]);
}

#[tokio::test]
async fn a_pool_that_is_gone_for_good_is_gone() {
    let mut clock = Clock::new(&(pools(&["a"]) + &route_to("r", "a"))).await;
    let gone = route_to("r", "a");
    assert_eq!(clock.after(MOMENT, &gone).await, (vec!["pool a".into(), "r to a".into()], true));
    assert_eq!(clock.after(LONG, &gone).await, (vec!["r to a".into()], false));
}

#[tokio::test]
async fn what_can_never_be_a_backend_is_not_waited_for() {
    let mut clock = Clock::new("").await;
    let odd = route("r", "rules: [{backendRefs: [{kind: Secret, name: s}]}]");
    assert_eq!(clock.after(MOMENT, &odd).await, (vec!["r to s".into()], false));
}

#[tokio::test]
async fn the_first_snapshot_is_taken_as_it_is() {
    let mut settling = Settling::default();
    let snapshot = snapshot(&route_to("r", "missing")).await;
    let settled = settling.settle(Arc::clone(&snapshot), Instant::now());
    assert!(Arc::ptr_eq(&settled.snapshot, &snapshot));
}
