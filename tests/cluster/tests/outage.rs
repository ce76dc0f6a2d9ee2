//! An outage of the API server.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test fails by panicking and prints its measurements"
)]

use std::time::{Duration, Instant};

use forebay_cluster_tests::{
    Cluster, Traffic, chat, cluster,
    guide::{LLAMA, MODELS, QWEN, SYSTEM, condition},
    until,
};

const OUTAGE: Duration = Duration::from_secs(30);
const INTERVAL: Duration = Duration::from_millis(250);
const ROUTE: &str = "after-the-outage";

#[test]
fn api_server_outage_fails_no_request() {
    let Some(cluster) = cluster() else { return };
    cluster.follow_the_guide(2, 1);
    let gateway = cluster.gateway_address();
    for model in [QWEN, LLAMA] {
        until(&format!("{model} is served"), || match chat(gateway, model) {
            Ok(response) if response.status == 200 => Ok(()),
            other => Err(format!("{other:?}")),
        });
    }
    let traffic = Traffic::start(gateway, &[QWEN, LLAMA], 4, 50);
    api_server(&cluster, "down");
    let gone = Instant::now();
    let mut fresh = 0;
    while gone.elapsed() < OUTAGE {
        for model in [QWEN, LLAMA] {
            let response = chat(gateway, model).unwrap();
            assert_eq!(
                response.status,
                200,
                "new connection, {:?} after the start of the outage: {response:?}",
                gone.elapsed()
            );
            fresh += 1;
        }
        cluster.attempt("kubectl", &["get", "--raw", "/readyz"], None).unwrap_err();
        std::thread::sleep(INTERVAL);
    }
    let during = traffic.completed();
    api_server(&cluster, "up");
    let (away, back) = (gone.elapsed(), Instant::now());
    cluster.apply(&format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: {ROUTE}, namespace: {MODELS}}}\n\
         spec:\n  parentRefs: [{{name: inference-gateway, namespace: {SYSTEM}}}]\n  rules:\n  - matches: \
         [{{headers: [{{name: X-Gateway-Model-Name, value: {ROUTE}}}]}}]\n    backendRefs: \
         [{{group: inference.networking.k8s.io, kind: InferencePool, name: vllm-qwen3-06b}}]\n"
    ));
    until("the change is used", || match chat(gateway, ROUTE) {
        // The engines of the pool do not know the model and return 404.
        Ok(response) if response.status == 404 && response.body.contains("NotFoundError") => Ok(()),
        other => Err(format!("{other:?}")),
    });
    let in_force = back.elapsed();
    until("the change has its status", || {
        let route = cluster.get(&format!("httproute {ROUTE} -n {MODELS}"))?;
        condition(&route["status"]["parents"][0]["conditions"], "Accepted")
    });
    until("the Gateway counts the route", || match cluster.attached_routes()? {
        3 => Ok(()),
        other => Err(format!("{other} attached")),
    });
    let status_written = back.elapsed();
    let (completed, failed) = traffic.finish();
    println!(
        "outage of the API server for {:.1} s: {during} streams and {fresh} requests on new connections complete; in total {} failed and {completed} complete streams",
        away.as_secs_f64(),
        failed.len(),
    );
    println!(
        "after the outage, a change was used after {:.2} s and its status written after {:.2} s",
        in_force.as_secs_f64(),
        status_written.as_secs_f64()
    );
    assert_eq!(failed, Vec::<String>::new());
    cluster.kubectl(&format!("delete httproute {ROUTE} -n {MODELS}"));
}

fn api_server(cluster: &Cluster, state: &str) {
    let folder = std::env::var("FOREBAY_CLUSTER").unwrap();
    cluster.run("xtask", &["cluster", "--state", &folder, "api", state], None);
}
