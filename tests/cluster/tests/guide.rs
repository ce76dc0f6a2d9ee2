//! The llm-d guide in the cluster, from installation to removal.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test fails by panicking and prints its measurements"
)]

use std::time::Instant;

use forebay_cluster_tests::{
    Cluster, Traffic, chat, cluster,
    guide::{LLAMA, MODELS, QWEN, SYSTEM, condition},
    until,
};
use serde_json::Value;

#[test]
fn follows_the_guide() {
    let Some(cluster) = cluster() else { return };
    cluster.follow_the_guide(2, 1);
    until("two routes are attached", || match cluster.attached_routes()? {
        2 => Ok(()),
        other => Err(format!("{other} attached")),
    });
    three_requests(&cluster);
    let findings =
        until("`forebay check` finds no problems", || cluster.attempt("forebay", &["check"], None));
    println!("{findings}");
    add_third_model(&cluster);
    require_grant_across_namespaces(&cluster);
    compare_kernel_and_engine_counts(&cluster);
    restart_and_upgrade_under_traffic(&cluster);
    uninstall_removes_everything(&cluster);
}

fn three_requests(cluster: &Cluster) {
    let gateway = cluster.gateway_address();
    for (model, status) in [(QWEN, 200), (LLAMA, 200), ("nonexistent", 404)] {
        let response = until(&format!("{status} for {model}"), || match chat(gateway, model) {
            Ok(response) if response.status == status => Ok(response),
            other => Err(format!("{other:?}")),
        });
        println!("POST /v1/chat/completions {model}: {}", response.status);
        let expected = if status == 200 { format!(r#""model":"{model}""#) } else { "model_not_found".into() };
        assert!(response.body.replace("\": ", "\":").contains(&expected), "{response:?}");
    }
}

fn add_third_model(cluster: &Cluster) {
    let model = "third/model";
    cluster.map_models(&[QWEN, LLAMA, model]);
    cluster.create_pool("vllm-third", model);
    cluster.attach_route("vllm-third");
    cluster.pods_ready(&format!("-n {MODELS} -l app.kubernetes.io/instance=vllm-third"), 2);
    cluster.deploy_model_server("ms-third", "vllm-third", model, 1);
    let gateway = cluster.gateway_address();
    cluster.pods_ready(&format!("-n {MODELS} -l app=vllm-third"), 1);
    let ready = Instant::now();
    until("the third model serves", || match chat(gateway, model) {
        Ok(response) if response.status == 200 => Ok(()),
        other => Err(format!("{other:?}")),
    });
    println!("new model served {:.2} s after its pod was Ready (target: 2 s)", ready.elapsed().as_secs_f64());
    cluster.helm(&format!("uninstall vllm-third --namespace {MODELS}"));
    cluster.kubectl(&format!("delete deployment ms-third -n {MODELS}"));
    cluster.map_models(&[QWEN, LLAMA]);
}

fn require_grant_across_namespaces(cluster: &Cluster) {
    let gateway = cluster.gateway_address();
    cluster.map_models(&[QWEN, LLAMA, "elsewhere"]);
    cluster.apply(&format!(
        "apiVersion: v1\nkind: Namespace\nmetadata: {{name: routes}}\n---\n\
         apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: elsewhere, namespace: routes}}\n\
         spec:\n  parentRefs: [{{name: inference-gateway, namespace: {SYSTEM}}}]\n  rules:\n  - matches: \
         [{{headers: [{{name: X-Gateway-Base-Model-Name, value: elsewhere}}]}}]\n    backendRefs: \
         [{{group: inference.networking.k8s.io, kind: InferencePool, name: vllm-qwen3-06b, namespace: {MODELS}}}]\n"
    ));
    let route = || cluster.get("httproute elsewhere -n routes");
    until("the reference is rejected", || {
        let conditions = &route()?["status"]["parents"][0]["conditions"];
        let refused = |it: &Value| it["type"] == "ResolvedRefs" && it["reason"] == "RefNotPermitted";
        if conditions.as_array().into_iter().flatten().any(refused) {
            Ok(())
        } else {
            Err(conditions.to_string())
        }
    });
    assert_eq!(
        chat(gateway, "elsewhere").unwrap().status,
        500,
        "Gateway API: a reference that is not permitted"
    );
    cluster.apply(&format!(
        "apiVersion: gateway.networking.k8s.io/v1beta1\nkind: ReferenceGrant\nmetadata: {{name: routes, namespace: {MODELS}}}\n\
         spec:\n  from: [{{group: gateway.networking.k8s.io, kind: HTTPRoute, namespace: routes}}]\n  \
         to: [{{group: inference.networking.k8s.io, kind: InferencePool}}]\n"
    ));
    until("the route works", || match chat(gateway, "elsewhere") {
        // The engines of the pool do not know the model and return 404.
        Ok(response) if response.status == 404 && response.body.contains("does not exist") => Ok(()),
        other => Err(format!("{other:?}")),
    });
    until("the status of the route is updated", || {
        condition(&route()?["status"]["parents"][0]["conditions"], "ResolvedRefs")
    });
    cluster.kubectl("delete namespace routes --wait=false");
    cluster.map_models(&[QWEN, LLAMA]);
}

/// For each pod: name, requests in flight in the kernel, and in the engine.
fn in_flight(cluster: &Cluster) -> Result<Vec<(String, u64, u64)>, String> {
    let pods = cluster.attempt("forebay", &["pods", "-o", "json"], None)?;
    let pods: Value = serde_json::from_str(&pods).map_err(|error| error.to_string())?;
    let items = pods["items"].as_array().ok_or("no items")?;
    items
        .iter()
        .map(|pod| {
            let kernel = pod["kernel"]["inFlight"].as_u64().ok_or_else(|| pod.to_string())?;
            let ip = pod["ip"].as_str().ok_or_else(|| pod.to_string())?;
            let address = format!("{ip}:7999").parse().map_err(|_| ip.to_owned())?;
            let (_, truth) = forebay_e2e::harness::get(address, "/").map_err(|error| error.to_string())?;
            let truth: Value = serde_json::from_str(&truth).map_err(|error| error.to_string())?;
            let engine = truth["in_flight"].as_u64().ok_or_else(|| truth.to_string())?;
            Ok((pod["name"].as_str().unwrap_or_default().to_owned(), kernel, engine))
        })
        .collect()
}

fn compare_kernel_and_engine_counts(cluster: &Cluster) {
    let gateway = cluster.gateway_address();
    // Long streams, so that the counts are stable while both are read.
    let traffic = Traffic::start(gateway, &[QWEN, LLAMA], 6, 2000);
    let equal = |all: &[(String, u64, u64)], total: u64| {
        all.iter().all(|(_, kernel, engine)| kernel == engine)
            && all.iter().map(|(_, kernel, _)| kernel).sum::<u64>() == total
    };
    let seen = until("twelve requests in flight in kernel and engines", || {
        let all = in_flight(cluster)?;
        if equal(&all, 12) { Ok(all) } else { Err(format!("{all:?}")) }
    });
    println!("in flight (pod, kernel, engine): {seen:?}");
    let (completed, failed) = traffic.finish();
    assert_eq!(failed, Vec::<String>::new());
    assert!(completed >= 12);
    until("nothing in flight", || {
        let all = in_flight(cluster)?;
        if equal(&all, 0) { Ok(()) } else { Err(format!("{all:?}")) }
    });
}

fn restart_and_upgrade_under_traffic(cluster: &Cluster) {
    let gateway = cluster.gateway_address();
    let traffic = Traffic::start(gateway, &[QWEN, LLAMA], 4, 100);
    for what in ["daemonset/forebay-agent", "deployment/forebay-gateway"] {
        cluster.kubectl(&format!("rollout restart {what} -n {SYSTEM}"));
        cluster.kubectl(&format!("rollout status {what} -n {SYSTEM} --timeout=120s"));
        println!("restarted {what}: {} streams complete", traffic.completed());
    }
    cluster.kubectl(&format!("rollout restart deployment/vllm-qwen3-06b-epp -n {MODELS}"));
    cluster.kubectl(&format!("rollout status deployment/vllm-qwen3-06b-epp -n {MODELS} --timeout=120s"));
    cluster.install_forebay("--set gateway.drainSeconds=20 --set agent.gpuIntervalMs=500");
    cluster.kubectl(&format!("rollout status deployment/forebay-gateway -n {SYSTEM} --timeout=120s"));
    let before = traffic.completed();
    until("traffic after the upgrade", || match traffic.completed() {
        after if after > before + 20 => Ok(()),
        after => Err(format!("{after} completed")),
    });
    let (completed, failed) = traffic.finish();
    println!(
        "restarts of agent, gateway and picker and a helm upgrade: {completed} streams complete, {} failed",
        failed.len()
    );
    assert_eq!(failed, Vec::<String>::new());
}

fn uninstall_removes_everything(cluster: &Cluster) {
    cluster.uninstall();
    until("all objects of Forebay are removed", || {
        let kinds = "deployments,daemonsets,services,serviceaccounts,roles,rolebindings,clusterroles,clusterrolebindings,poddisruptionbudgets,leases,secrets,gatewayclasses,gateways,httproutes,inferencepools,pods";
        let left = cluster.attempt(
            "kubectl",
            &[
                "get",
                kinds,
                "-A",
                "-o",
                "name",
                "--ignore-not-found",
                "-l",
                "app.kubernetes.io/part-of=forebay",
            ],
            None,
        )?;
        let managed = cluster.attempt(
            "kubectl",
            &[
                "get",
                "services,leases,secrets",
                "-A",
                "-o",
                "name",
                "-l",
                "app.kubernetes.io/managed-by=forebay-gateway",
            ],
            None,
        )?;
        let pins = std::fs::read_dir("/sys/fs/bpf/forebay").map_or(0, Iterator::count);
        if left.is_empty() && managed.is_empty() && pins == 0 {
            Ok(())
        } else {
            Err(format!("{left} {managed} {pins} pins"))
        }
    });
}
