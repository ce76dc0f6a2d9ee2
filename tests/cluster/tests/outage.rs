//! The API server goes away for a while and comes back.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test fails by panicking, and says what it measured"
)]

use std::time::{Duration, Instant};

use forebay_cluster_tests::{
    Cluster, Traffic, chat, cluster,
    guide::{LLAMA, MODELS, QWEN, SYSTEM, condition},
    until,
};

const AWAY: Duration = Duration::from_secs(30);
const BETWEEN_LOOKS: Duration = Duration::from_millis(250);
const ROUTE: &str = "after-the-outage";

#[test]
fn an_outage_of_the_api_server_fails_no_request() {
    let Some(cluster) = cluster() else { return };
    cluster.follow_the_guide(2, 1);
    let gateway = cluster.gateway_address();
    for model in [QWEN, LLAMA] {
        until(&format!("{model} is served"), || match chat(gateway, model) {
            Ok(answer) if answer.status == 200 => Ok(()),
            other => Err(format!("{other:?}")),
        });
    }
    let traffic = Traffic::start(gateway, &[QWEN, LLAMA], 4, 50);
    api_server(&cluster, "down");
    let gone = Instant::now();
    let mut fresh = 0;
    while gone.elapsed() < AWAY {
        for model in [QWEN, LLAMA] {
            let answer = chat(gateway, model).unwrap();
            assert_eq!(answer.status, 200, "on a new connection, {:?} into it: {answer:?}", gone.elapsed());
            fresh += 1;
        }
        cluster.attempt("kubectl", &["get", "--raw", "/readyz"], None).unwrap_err();
        std::thread::sleep(BETWEEN_LOOKS);
    }
    let during = traffic.answered();
    api_server(&cluster, "up");
    let (away, back) = (gone.elapsed(), Instant::now());
    cluster.apply(&format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: {ROUTE}, namespace: {MODELS}}}\n\
         spec:\n  parentRefs: [{{name: inference-gateway, namespace: {SYSTEM}}}]\n  rules:\n  - matches: \
         [{{headers: [{{name: X-Gateway-Model-Name, value: {ROUTE}}}]}}]\n    backendRefs: \
         [{{group: inference.networking.k8s.io, kind: InferencePool, name: vllm-qwen3-06b}}]\n"
    ));
    until("the change is in force", || match chat(gateway, ROUTE) {
        // The pool's engines do not know that model: the answer is theirs.
        Ok(answer) if answer.status == 404 && answer.body.contains("NotFoundError") => Ok(()),
        other => Err(format!("{other:?}")),
    });
    let in_force = back.elapsed();
    until("the change has its status", || {
        let route = cluster.get(&format!("httproute {ROUTE} -n {MODELS}"))?;
        condition(&route["status"]["parents"][0]["conditions"], "Accepted")
    });
    until("the Gateway counts it", || match cluster.attached_routes()? {
        3 => Ok(()),
        other => Err(format!("{other} attached")),
    });
    let told = back.elapsed();
    let (answered, failed) = traffic.finish();
    println!(
        "the API server was away for {:.1} s: {during} streams and {fresh} requests on new connections answered meanwhile, {} failed of {answered} streams in all",
        away.as_secs_f64(),
        failed.len(),
    );
    println!(
        "once it was back, a change was in force {:.2} s and in the statuses {:.2} s later",
        in_force.as_secs_f64(),
        told.as_secs_f64()
    );
    assert_eq!(failed, Vec::<String>::new());
    cluster.kubectl(&format!("delete httproute {ROUTE} -n {MODELS}"));
}

fn api_server(cluster: &Cluster, state: &str) {
    let folder = std::env::var("FOREBAY_CLUSTER").unwrap();
    cluster.run("xtask", &["cluster", "--state", &folder, "api", state], None);
}
