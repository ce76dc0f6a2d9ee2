//! Values of the charts: unknown ones, and those of a parent chart.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on shall panic")]

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use forebay_cluster_tests::charts::{chart, helm};
use serde_json::Value;

const POOL: [&str; 2] = ["inferencePool.modelServers.matchLabels.app=a", "forebay.tls.enabled=false"];

#[test]
fn an_unknown_value_fails_with_the_right_name() {
    let Some(helm) = helm() else { return };
    let with = |set: &[&str]| {
        let set: Vec<&str> = POOL.iter().chain(set).copied().collect();
        helm.attempt("inferencepool", "models", &set)
    };
    with(&["enabled=true", "global.team=a"]).unwrap();
    for (value, hint) in [
        ("inferenceExtension.image.hub=example.com", "use inferenceExtension.image.registry"),
        ("inferenceExtension.failureMode=FailOpen", "use inferencePool.failureMode"),
        ("inferenceExtension.monitoring.interval=10s", "use inferenceExtension.podMonitor.enabled"),
        ("gke.monitoringSecret.name=a", "the Forebay gateway needs no provider"),
        ("inferencePool.targetPort=8000", "'modelServers', 'modelServerType', 'targetPorts'"),
        ("httpRoutes.enabled=true", "'httpRoute'"),
    ] {
        let error = with(&[value]).unwrap_err();
        assert!(error.contains(hint), "{value}: {error}");
    }
    let error = helm.attempt("forebay", "forebay-system", &["tls.enabled=false", "gateway.replicaCount=2"]);
    assert!(error.unwrap_err().contains("use gateway.replicas"));
}

/// Each object of a schema lists its names, so that an error can name them.
#[test]
fn schemas_list_the_names_of_all_values() {
    fn check(schema: &Value, path: &str) -> usize {
        let Some(properties) = schema["properties"].as_object() else { return 0 };
        let known: BTreeSet<&str> = properties
            .iter()
            .filter(|(_, property)| property.get("const").is_none())
            .map(|(name, _)| name.as_str())
            .collect();
        let listed = schema["propertyNames"]["enum"].as_array().into_iter().flatten();
        let listed: BTreeSet<&str> = listed.filter_map(Value::as_str).collect();
        assert_eq!(listed, known, "{path}");
        1 + properties.iter().map(|(name, it)| check(it, &format!("{path}.{name}"))).sum::<usize>()
    }
    for name in ["forebay", "inferencepool"] {
        let text = fs::read_to_string(Path::new(&chart(name)).join("values.schema.json")).unwrap();
        assert!(check(&serde_json::from_str(&text).unwrap(), name) > 10, "{name}");
    }
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// One chart with Forebay, switched by a condition, and two pools.
#[test]
fn charts_work_inside_a_chart() {
    let Some(helm) = helm() else { return };
    let parent = tempfile::tempdir().unwrap();
    for name in ["forebay", "inferencepool"] {
        copy(Path::new(&chart(name)), &parent.path().join("charts").join(name));
    }
    let version = |name: &str| {
        let text = fs::read_to_string(Path::new(&chart(name)).join("Chart.yaml")).unwrap();
        let line = text.lines().find(|line| line.starts_with("version:")).unwrap().to_owned();
        line.split_once(' ').unwrap().1.to_owned()
    };
    let (forebay, pool) = (version("forebay"), version("inferencepool"));
    let metadata = format!(
        "apiVersion: v2\nname: models\nversion: 1.0.0\ndependencies:\n\
         - {{name: forebay, version: {forebay}, condition: forebay.enabled}}\n\
         - {{name: inferencepool, version: {pool}, alias: qwen, condition: qwen.enabled}}\n\
         - {{name: inferencepool, version: {pool}, alias: llama, condition: llama.enabled}}\n"
    );
    fs::write(parent.path().join("Chart.yaml"), metadata).unwrap();
    let of_pool = |app: &str| {
        format!(
            "{{enabled: true, inferencePool: {{modelServers: {{matchLabels: {{app: {app}}}}}}}, forebay: {{tls: {{enabled: false}}}}}}"
        )
    };
    let values = format!(
        "global: {{team: a}}\nforebay: {{enabled: true, tls: {{enabled: false}}}}\nqwen: {}\nllama: {}\n",
        of_pool("qwen"),
        of_pool("llama")
    );
    fs::write(parent.path().join("values.yaml"), values).unwrap();
    let named = |set: &[&str]| {
        let objects = helm.render_folder(parent.path(), "models", "apps", set).unwrap();
        let name = |it: &Value| {
            format!("{} {}", it["kind"].as_str().unwrap(), it["metadata"]["name"].as_str().unwrap())
        };
        let all: Vec<String> = objects.iter().map(name).collect();
        let unique: BTreeSet<String> = all.iter().cloned().collect();
        assert_eq!(all.len(), unique.len(), "two objects of one name: {all:#?}");
        (unique, objects)
    };
    let (all, objects) = named(&[]);
    for name in [
        "DaemonSet models-forebay-agent",
        "InferencePool models-qwen",
        "InferencePool models-llama",
        "Service models-qwen-epp",
        "Deployment models-llama-epp",
    ] {
        assert!(all.contains(name), "{name}: {all:#?}");
    }
    // Each picker's Service selects its own pods only.
    let of = |kind: &str, name: &str| {
        objects.iter().find(|it| it["kind"] == kind && it["metadata"]["name"] == name).unwrap()
    };
    for pool in ["models-qwen", "models-llama"] {
        let picker = format!("{pool}-epp");
        let selector = &of("Service", &picker)["spec"]["selector"];
        let labels = &of("Deployment", &picker)["spec"]["template"]["metadata"]["labels"];
        assert_eq!(selector["app.kubernetes.io/instance"], *pool);
        assert_eq!(labels["app.kubernetes.io/instance"], *pool);
        assert_eq!(of("InferencePool", pool)["spec"]["endpointPickerRef"]["name"], picker.as_str());
    }
    let (off, _) = named(&["forebay.enabled=false", "llama.enabled=false"]);
    assert!(off.iter().all(|it| !it.contains("forebay-agent") && !it.contains("llama")), "{off:#?}");
    assert!(off.contains("InferencePool models-qwen"));
}
