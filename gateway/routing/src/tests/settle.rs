//! Delays for watch skew.

use std::time::Duration;

use tokio::time::Instant;

use super::*;

const MOMENT: Duration = Duration::from_millis(10);
const LONG: Duration = Duration::from_secs(10);

/// Feeds snapshots in order, at chosen times.
struct Snapshots {
    settler: SnapshotSettler,
    now: Instant,
}

impl Snapshots {
    async fn new(manifests: &str) -> Self {
        let mut snapshots = Self { settler: SnapshotSettler::default(), now: Instant::now() };
        let settled = snapshots.settler.settle(snapshot(manifests).await, snapshots.now);
        assert_eq!(settled.recheck_at, None);
        snapshots
    }

    /// What is in use after `later` with `manifests` as the whole snapshot; and whether a change is delayed.
    async fn after(&mut self, later: Duration, manifests: &str) -> (Vec<String>, bool) {
        self.now += later;
        let Settled { snapshot, recheck_at: until } =
            self.settler.settle(snapshot(manifests).await, self.now);
        if let Some(until) = until {
            assert!(until > self.now, "recheck_at is in the future");
        }
        (in_use(&snapshot), until.is_some())
    }
}

/// Pools, Services, and routes with their first backend.
fn in_use(snapshot: &Snapshot) -> Vec<String> {
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
async fn delays_new_route_until_pool_exists() {
    let mut snapshots = Snapshots::new(&pools(&["a"])).await;
    let early = pools(&["a"]) + &route_to("r", "b") + &route_to("other", "a");
    assert_eq!(snapshots.after(MOMENT, &early).await, (vec!["pool a".into(), "other to a".into()], true));
    let whole = pools(&["a", "b"]) + &route_to("r", "b") + &route_to("other", "a");
    let all = ["pool a", "pool b", "other to a", "r to b"].map(String::from).to_vec();
    assert_eq!(snapshots.after(MOMENT, &whole).await, (all, false));
}

#[tokio::test]
async fn keeps_previous_route_until_new_pool_exists() {
    let mut snapshots = Snapshots::new(&(pools(&["a"]) + &route_to("r", "a"))).await;
    // The old pool is gone already, too.
    let early = route_to("r", "b");
    assert_eq!(snapshots.after(MOMENT, &early).await, (vec!["pool a".into(), "r to a".into()], true));
    let whole = pools(&["b"]) + &route_to("r", "b");
    assert_eq!(snapshots.after(MOMENT, &whole).await, (vec!["pool b".into(), "r to b".into()], false));
}

#[tokio::test]
async fn keeps_deleted_pool_until_route_is_deleted() {
    let mut snapshots = Snapshots::new(&(pools(&["a", "b", "c"]) + &route_to("r", "a"))).await;
    let late = pools(&["c"]) + &route_to("r", "a");
    let kept = ["pool a", "pool c", "r to a"].map(String::from).to_vec();
    assert_eq!(
        snapshots.after(MOMENT, &late).await,
        (kept, true),
        "and b, which no object names, is removed"
    );
    assert_eq!(snapshots.after(MOMENT, &pools(&["c"])).await, (vec!["pool c".into()], false));
}

#[tokio::test]
async fn delays_route_until_service_port_exists() {
    let mut snapshots = Snapshots::new("").await;
    let both = |port| SERVICE.to_owned() + &route_to_service("r", port);
    assert_eq!(snapshots.after(MOMENT, &both(81)).await, (vec!["service s".into()], true));
    let all = ["service s", "r to s"].map(String::from).to_vec();
    assert_eq!(snapshots.after(MOMENT, &both(80)).await, (all.clone(), false));
    assert_eq!(snapshots.after(MOMENT, &route_to_service("r", 80)).await, (all, true));
}

#[tokio::test]
async fn delays_route_for_new_grant_but_applies_revocation_at_once() {
    let route = route_in("infra", "r", &format!("rules: [{{{}}}]", to("p")));
    let mut snapshots = Snapshots::new(&pools(&["p"])).await;
    let without = pools(&["p"]) + &route;
    assert_eq!(snapshots.after(MOMENT, &without).await, (vec!["pool p".into()], true));
    let all = ["pool p", "r to p"].map(String::from).to_vec();
    assert_eq!(snapshots.after(MOMENT, &(without.clone() + GRANT)).await, (all.clone(), false));
    assert_eq!(snapshots.after(MOMENT, &without).await, (all, false));
    let settled = snapshots.settler.settle(snapshot(&without).await, snapshots.now);
    assert!(settled.snapshot.reference_grants.is_empty(), "what is forbidden is forbidden at once");
}

#[tokio::test]
async fn ends_every_delay_after_maximum_skew() {
    let mut snapshots = Snapshots::new(&(pools(&["a"]) + &route_to("r", "a"))).await;
    let broken = route_to("r", "missing");
    assert_eq!(snapshots.after(MOMENT, &broken).await, (vec!["pool a".into(), "r to a".into()], true));
    assert_eq!(snapshots.after(LONG, &broken).await, (vec!["r to missing".into()], false));
    // Now it is known to be so.
    assert_eq!(snapshots.after(MOMENT, &broken).await, (vec!["r to missing".into()], false));
    // One that changes all the time does not get a new moment each time.
    for pool in ["x", "y"] {
        snapshots.after(Duration::from_millis(600), &route_to("r", pool)).await;
    }
    assert_eq!(snapshots.after(Duration::from_millis(600), &route_to("r", "z")).await.0, ["r to z"]);
}

#[tokio::test]
async fn drops_deleted_pool_after_maximum_skew() {
    let mut snapshots = Snapshots::new(&(pools(&["a"]) + &route_to("r", "a"))).await;
    let gone = route_to("r", "a");
    assert_eq!(snapshots.after(MOMENT, &gone).await, (vec!["pool a".into(), "r to a".into()], true));
    assert_eq!(snapshots.after(LONG, &gone).await, (vec!["r to a".into()], false));
}

#[tokio::test]
async fn does_not_delay_unsupported_backend_kinds() {
    let mut snapshots = Snapshots::new("").await;
    let odd = route("r", "rules: [{backendRefs: [{kind: Secret, name: s}]}]");
    assert_eq!(snapshots.after(MOMENT, &odd).await, (vec!["r to s".into()], false));
}

#[tokio::test]
async fn applies_first_snapshot_unchanged() {
    let mut settler = SnapshotSettler::default();
    let snapshot = snapshot(&route_to("r", "missing")).await;
    let settled = settler.settle(Arc::clone(&snapshot), Instant::now());
    assert!(Arc::ptr_eq(&settled.snapshot, &snapshot));
}
