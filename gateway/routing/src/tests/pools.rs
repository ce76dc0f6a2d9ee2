//! Conditions of InferencePools beyond those of their API.

use forebay_resources::ObjectKey;

use super::*;
use crate::kind;

const PICKER: &str = "endpointPickerRef: {name: epp, port: {number: 9002}}, targetPorts";
const SERVICE: &str = r#"
---
apiVersion: v1
kind: Service
metadata: {name: epp, namespace: models}
spec: {ports: [{name: grpc, port: 9002}]}
"#;
const SLICE: &str = r#"
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: epp-1, namespace: models, labels: {kubernetes.io/service-name: epp}}
addressType: IPv4
ports: [{name: grpc, port: 9002}]
endpoints: [{addresses: [10.0.0.9], conditions: {ready: true}}]
"#;

fn pod(name: &str, app: &str, ready: &str) -> String {
    format!(
        r#"
---
apiVersion: v1
kind: Pod
metadata: {{name: {name}, namespace: models, labels: {{app: {app}, all: "yes"}}}}
status: {{podIP: 10.0.0.1, conditions: [{{type: Ready, status: "{ready}"}}]}}
"#
    )
}

/// Types, reasons and messages of the pool's conditions.
async fn problems(manifests: &str, pool: &str) -> Vec<(&'static str, &'static str, String)> {
    let all = gateway(OPEN) + manifests + &route("r", &format!("rules: [{{{}}}]", to("p")));
    let (_, report) = compiled(&all).await;
    let snapshot = snapshot(&all).await;
    let key = ObjectKey::new("models", pool);
    let problems = pool_problems(&snapshot, &key, &overlaps(&snapshot));
    if let Some(report) = report.pools.get(&key) {
        assert_eq!(report.problems, problems);
    }
    problems.into_iter().map(|it| (it.kind, it.status.reason, it.status.message)).collect()
}

#[tokio::test]
async fn a_pool_without_ready_pods_has_a_condition() {
    let none = problems(&pools(&["p"]), "p").await;
    assert_eq!((none[0].0, none[0].1), (kind::NO_READY_PODS, "NoPods"));
    assert!(none[0].2.contains("its selector is app=p in namespace models"), "{none:?}");
    let not_ready = problems(&(pools(&["p"]) + &pod("a", "p", "False")), "p").await;
    assert_eq!((not_ready[0].0, not_ready[0].1), (kind::NO_READY_PODS, "PodsNotReady"));
    let more = pools(&["p"]) + &pod("a", "p", "False") + &pod("b", "p", "False");
    assert_eq!(problems(&more, "p").await, not_ready, "the number of pods changes no status");
    let ready = pools(&["p"]) + &pod("a", "p", "False") + &pod("b", "p", "True");
    assert_eq!(problems(&ready, "p").await, []);
}

#[tokio::test]
async fn a_picker_that_cannot_be_reached_has_a_condition() {
    let pool = pools(&["p"]).replace("targetPorts", PICKER) + &pod("a", "p", "True");
    let with = |more: &str| pool.clone() + more;
    assert_eq!(problems(&with(&[SERVICE, SLICE].concat()), "p").await, []);
    for (more, reason, message) in [
        (SERVICE.to_owned(), "NoReadyEndpoints", "has no ready endpoint: requests get status 503"),
        (
            [SERVICE, SLICE].concat().replace("ready: true", "ready: false"),
            "NoReadyEndpoints",
            "has no ready endpoint: requests get status 503",
        ),
        (
            [SERVICE, SLICE].concat().replace("port: 9002}]}", "port: 9003}]}"),
            "PortNotFound",
            "has no TCP port 9002; its ports are 9003",
        ),
        (
            [SERVICE, SLICE].concat().replace("port: 9002}]}", "port: 9002, protocol: UDP}]}"),
            "PortNotFound",
            "has no TCP port 9002",
        ),
    ] {
        let found = problems(&with(&more), "p").await;
        assert_eq!((found[0].0, found[0].1), (kind::PICKER_UNAVAILABLE, reason), "{more}");
        assert!(found[0].2.contains(message), "{found:?}");
    }
    let open = with(SERVICE).replace(
        "name: epp, port: {number: 9002}}",
        "name: epp, failureMode: FailOpen, port: {number: 9002}}",
    );
    assert!(problems(&open, "p").await[0].2.ends_with("endpoints are chosen at random (FailOpen)"));
}

/// A pool whose picker is shared: its own Service is an external name of one in another namespace.
#[tokio::test]
async fn a_shared_picker_is_reached_through_an_external_name() {
    let shared = [SERVICE, SLICE].concat().replace("namespace: models", "namespace: system");
    let external =
        SERVICE.replace("spec: {", "spec: {type: ExternalName, externalName: epp.system.svc.cluster.local, ");
    let grant = "
---
apiVersion: gateway.networking.k8s.io/v1beta1
kind: ReferenceGrant
metadata: {name: pools, namespace: system}
spec:
  from: [{group: inference.networking.k8s.io, kind: InferencePool, namespace: models}]
  to: [{group: '', kind: Service, name: epp}]
";
    let pool = pools(&["p"]).replace("targetPorts", PICKER) + &pod("a", "p", "True");
    let all = [&pool, &shared, &external, grant].concat();
    assert_eq!(problems(&all, "p").await, []);
    let manifests = gateway(OPEN) + &all + &route("r", &format!("rules: [{{{}}}]", to("p")));
    let (table, _) = compiled(&manifests).await;
    let expected = ("10.0.0.9:9002".parse().unwrap(), "models".into());
    assert_eq!(table.picker_addresses(), [expected].into());

    for (manifests, reason, message) in [
        (
            all.replace(grant, ""),
            "RefNotPermitted",
            "no ReferenceGrant in namespace system lets InferencePools of namespace models refer to it",
        ),
        (all.replace("namespace: models}]", "namespace: other}]"), "RefNotPermitted", "no ReferenceGrant"),
        (
            all.replace("epp.system.svc.cluster.local", "epp.example.org"),
            "NoReadyEndpoints",
            "is the external name \"epp.example.org\", which is not a Service of the cluster",
        ),
    ] {
        let found = problems(&manifests, "p").await;
        assert_eq!((found[0].0, found[0].1), (kind::PICKER_UNAVAILABLE, reason), "{found:?}");
        assert!(found[0].2.contains(message), "{found:?}");
    }
}

#[tokio::test]
async fn pools_with_the_same_pods_and_ports_have_a_condition() {
    let overlap = |found: &[(&str, &str, String)]| {
        found.iter().find(|it| it.0 == kind::SELECTOR_OVERLAP).map(|it| it.2.clone())
    };
    let same = pools(&["p"]) + &pools(&["q"]).replace("app: q", "app: p");
    let message = overlap(&problems(&same, "p").await).unwrap();
    assert!(message.contains("InferencePool models/q selects too"), "{message}");
    assert!(overlap(&problems(&same, "q").await).is_some());
    // Selectors that differ, and one pod has the labels of both.
    let wider = pools(&["p"]) + &pools(&["q"]).replace("app: q", "all: \"yes\"");
    assert_eq!(overlap(&problems(&wider, "p").await), None, "no pod is in both");
    assert!(overlap(&problems(&(wider.clone() + &pod("a", "p", "True")), "p").await).is_some());
    // Several model servers in one pod.
    let ports = (wider + &pod("a", "p", "True")).replacen("number: 8000", "number: 8001", 1);
    assert_eq!(overlap(&problems(&ports, "p").await), None);
}
