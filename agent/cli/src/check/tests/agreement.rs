//! `check` and the gateway's statuses agree: both have the same bad conditions for the same objects, over the manifests
//! of Gateway API's conformance suite and over faults in a valid installation.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use forebay_resources::{ObjectKey, Service};
use forebay_routing::status::{
    Reach, class_status, gateway_status, policy_status, pool_status, rewrite_status, route_status,
};
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::*;

const SUITE: &str = "sigs.k8s.io/gateway-api/conformance@v1.6.3";
const CLASS: &str = "forebay";

/// Kind, object and reason of a bad condition.
type Bad = BTreeSet<(String, ObjectKey, String)>;

/// The snapshot as the gateway leaves it after writing all statuses, and the bad conditions in them.
fn with_statuses(mut snapshot: Snapshot, is_cluster: bool) -> (Snapshot, Bad) {
    // Gateways of a folder share the ports of one machine.
    let report = report(&snapshot, CLASS, is_cluster);
    let mut bad = Bad::new();
    let service: Service = serde_json::from_value(json!({ "spec": { "clusterIP": "10.96.0.7" } })).unwrap();
    let is_open = |_: &forebay_routing::ListenerReport| true;
    let reach = Reach { service: Some(&service), has_endpoints: true, refused: None, is_open: &is_open };

    for (key, class) in snapshot.gateway_classes.clone().iter() {
        if let Some(status) = class_status(class, &Value::Null) {
            collect(&mut bad, "GatewayClass", key, &status["conditions"]);
            let mut class = (**class).clone();
            class.status = parse(&status);
            snapshot.gateway_classes.insert(key.clone(), Arc::new(class));
        }
    }
    for (key, listeners) in &report.gateways {
        let mut gateway = (*snapshot.gateways[key]).clone();
        let status = gateway_status(Some(1), listeners, &reach, &Value::Null);
        for listener in status["listeners"].as_array().unwrap() {
            collect(&mut bad, "Gateway", key, &listener["conditions"]);
        }
        gateway.status = parse(&status);
        snapshot.gateways.insert(key.clone(), Arc::new(gateway));
    }
    for (key, parents) in &report.routes {
        let mut route = (*snapshot.http_routes[key]).clone();
        let status = route_status(Some(1), parents, &Value::Null);
        collect_entries(&mut bad, "HTTPRoute", key, &status["parents"]);
        route.status = parse(&status);
        snapshot.http_routes.insert(key.clone(), Arc::new(route));
    }
    for (key, pool) in &report.pools {
        let status = pool_status(Some(1), Some(pool), &Value::Null);
        collect_entries(&mut bad, "InferencePool", key, &status["parents"]);
    }
    for (key, gateways) in &report.policies {
        let status = policy_status(Some(1), Some(gateways), &Value::Null);
        collect_entries(&mut bad, "AgentgatewayPolicy", key, &status["ancestors"]);
        let mut policy = (*snapshot.agentgateway_policies[key]).clone();
        policy.status = parse(&status);
        snapshot.agentgateway_policies.insert(key.clone(), Arc::new(policy));
    }
    for (key, gateways) in &report.quotas {
        let status = policy_status(Some(1), Some(gateways), &Value::Null);
        collect_entries(&mut bad, "Quota", key, &status["ancestors"]);
    }
    for (key, state) in &report.rewrites {
        let status = rewrite_status(Some(1), Some(state), &Value::Null).unwrap();
        collect(&mut bad, "InferenceModelRewrite", key, &status["conditions"]);
    }
    (snapshot, bad)
}

fn parse<T: DeserializeOwned>(status: &Value) -> Option<T> {
    Some(serde_json::from_value(status.clone()).unwrap())
}

fn collect_entries(bad: &mut Bad, kind: &str, key: &ObjectKey, entries: &Value) {
    for entry in entries.as_array().unwrap() {
        collect(bad, kind, key, &entry["conditions"]);
    }
}

fn collect(bad: &mut Bad, kind: &str, key: &ObjectKey, conditions: &Value) {
    for condition in conditions.as_array().unwrap() {
        let is_bad = match condition["type"].as_str().unwrap() {
            // Follows from the other conditions.
            "Programmed" => false,
            "Conflicted" | "PartiallyInvalid" => condition["status"] == "True",
            kind if kind.starts_with("forebay.dev/") => condition["status"] == "True",
            _ => condition["status"] == "False",
        };
        if is_bad {
            let reason = condition["reason"].as_str().unwrap().to_owned();
            bad.insert((kind.to_owned(), key.clone(), reason));
        }
    }
}

/// Compares `check` with the statuses, as read from a cluster and from a folder. Returns the number of bad conditions.
fn assert_agrees(name: &str, snapshot: &Snapshot) -> usize {
    let mut count = 0;
    for is_cluster in [true, false] {
        let (written, bad) = with_statuses(snapshot.clone(), is_cluster);
        count += bad.len();
        let installation = if is_cluster { of_cluster(written.clone()) } else { of_folder(snapshot.clone()) };
        let reported: Bad = findings(&installation)
            .into_iter()
            .filter_map(|finding| Some((finding.object.kind, finding.object.key, finding.reason?)))
            .filter(|(_, _, reason)| reason != "Invalid" || bad.iter().any(|(_, _, it)| it == "Invalid"))
            .collect();
        let expected: Bad = bad
            .iter()
            // A folder has no controller that accepts the class.
            .filter(|(kind, ..)| is_cluster || kind != "GatewayClass")
            .cloned()
            .collect();
        let missing: Vec<_> = expected.difference(&reported).collect();
        assert!(missing.is_empty(), "{name}, cluster {is_cluster}: only in statuses: {missing:#?}");
        // `check` reports every missing grant and backend of a route, a status the first one; and what has no status
        // because no Gateway of the class uses it.
        let has_status = |kind: &str, key: &ObjectKey| match kind {
            "HTTPRoute" => installation.report.routes.contains_key(key),
            "InferencePool" => installation.report.pools.contains_key(key),
            _ => true,
        };
        let extra: Vec<_> = reported
            .iter()
            .filter(|(kind, key, _)| has_status(kind, key))
            .filter(|(kind, key, _)| !expected.iter().any(|(other, it, _)| (other, it) == (kind, key)))
            .collect();
        assert!(extra.is_empty(), "{name}, cluster {is_cluster}: only in check: {extra:#?}");
    }
    count
}

fn of_folder(snapshot: Snapshot) -> Installation {
    Installation {
        report: report(&snapshot, CLASS, false),
        snapshot,
        class: CLASS.into(),
        agent_selector: "app.kubernetes.io/name=forebay-agent".parse().unwrap(),
        cluster: None,
        agents: None,
        endpoints: BTreeMap::new(),
    }
}

fn of_cluster(snapshot: Snapshot) -> Installation {
    let outcomes = Kind::ALL.map(|kind| (Selection::all(kind), Listed::All)).to_vec();
    Installation {
        report: report(&snapshot, CLASS, true),
        cluster: Some(Cluster {
            outcomes,
            deployments: Ok(vec![deployment(1, 1)]),
            replaced: Ok(Vec::new()),
        }),
        ..of_folder(snapshot)
    }
}

fn read(files: &[PathBuf]) -> Snapshot {
    let folder = tempfile::tempdir().unwrap();
    for (index, file) in files.iter().enumerate() {
        let text = fs::read_to_string(file).unwrap().replace("{GATEWAY_CLASS_NAME}", CLASS);
        fs::write(folder.path().join(format!("{index}.yaml")), text).unwrap();
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let store = Store::new();
        let _provider = forebay_resources::folder::start(folder.path(), store.clone()).await.unwrap();
        Snapshot::clone(&store.snapshot())
    })
}

/// Folder of the conformance suite's module; `None` without Go or without a module proxy.
fn suite() -> Option<PathBuf> {
    let mut go = Command::new("go");
    let output = go.args(["mod", "download", "-json", SUITE]).current_dir("/").output().ok()?;
    let document: Value = serde_json::from_slice(&output.stdout).ok()?;
    Some(PathBuf::from(document["Dir"].as_str()?))
}

fn manifests(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder.join("tests")).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<PathBuf> =
        entries.filter(|path| path.extension().is_some_and(|it| it == "yaml")).collect();
    files.sort();
    files
}

#[test]
fn agrees_with_statuses_over_conformance_manifests() {
    let Some(suite) = suite() else {
        eprintln!("skipped: the conformance suite's manifests need Go and a module proxy");
        return;
    };
    let base = suite.join("base/manifests.yaml");
    let (mut files, mut bad) = (0, 0);
    for file in manifests(&suite) {
        files += 1;
        bad += assert_agrees(&file.display().to_string(), &read(&[base.clone(), file]));
    }
    eprintln!("{files} manifests, {bad} bad conditions in statuses");
    assert!(files > 100 && bad > 500, "{files} manifests, {bad} bad conditions");
}

#[test]
fn agrees_with_statuses_over_faults() {
    let faults = [
        ("kind: InferencePool, name: qwen }]", "kind: InferencePool, name: qwem }]", "BackendNotFound"),
        ("name: qwen }]", "name: qwen, namespace: pools }]", "RefNotPermitted"),
        ("kind: InferencePool, name: qwen }]", "kind: Queue, name: qwen }]", "InvalidKind"),
        ("{ from: All }", "{ from: Same }", "NotAllowedByListeners"),
        ("protocol: HTTP,", "protocol: UDP,", "UnsupportedProtocol"),
        (
            "controllerName: forebay.dev/gateway }",
            "controllerName: forebay.dev/gateway, parametersRef: { group: g, kind: k, name: n } }",
            "InvalidParameters",
        ),
        ("port: { number: 9002 } }", "group: x, port: { number: 9002 } }", "InvalidExtensionRef"),
        ("[json(request.body).model]'", "[json(request.body).user]'", "Invalid"),
        ("  traffic:\n", "  traffic:\n    apiKeyAuthentication: { secretRef: { name: gone } }\n", "Invalid"),
        (
            "  traffic:\n",
            "  traffic:\n    authorization: { policy: { matchExpressions: ['llm.model =='] } }\n",
            "Invalid",
        ),
        ("infra }]\n  rules:", "infra, sectionName: other }]\n  rules:", "NoMatchingParent"),
        ("infra }]\n  rules:", "infra }]\n  hostnames: [b.example.com]\n  rules:", ""),
    ];
    let quota = "---\napiVersion: forebay.dev/v1alpha1\nkind: Quota\nmetadata: { name: q, namespace: infra }\n\
        spec: { targetRefs: [{ group: gateway.networking.k8s.io, kind: Gateway, name: inference-gateway }], limits: [] }\n";
    assert_eq!(assert_agrees("an invalid quota", &snapshot(&format!("{VALID}{quota}"))), 2);
    for (from, to, reason) in faults {
        assert!(VALID.contains(from), "{from}");
        let (_, bad) = with_statuses(snapshot(&VALID.replacen(from, to, 1)), true);
        assert_eq!(bad.iter().any(|(_, _, it)| it == reason), !reason.is_empty(), "{to}: {bad:?}");
        assert_agrees(to, &snapshot(&VALID.replacen(from, to, 1)));
    }
    assert_eq!(assert_agrees("valid", &snapshot(VALID)), 0);
}
