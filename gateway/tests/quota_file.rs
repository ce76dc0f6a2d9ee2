//! Quotas whose counters a file keeps over a restart.

use std::path::Path;
use std::process::Command;

use forebay_gateway::{Config, Gateway};

use crate::support::client::{exchange, post};
use crate::support::harness::{Harness, QWEN, Running};
use crate::support::process::{GATEWAY, Process};
use crate::support::until;
use crate::support::upstream::Upstream;

const REQUEST: &str = r#"{"model":"Qwen/Qwen3-0.6B","messages":[]}"#;

/// A quota of three requests per month, and a pod that answers.
fn harness(port: u16) -> Harness {
    Harness::new().pool("qwen", QWEN, &[port], None).with(
        "apiVersion: forebay.dev/v1alpha1\nkind: Quota\nmetadata: {name: q, namespace: agentgateway-system}\n\
         spec: {targetRefs: [{group: gateway.networking.k8s.io, kind: Gateway, name: inference-gateway}], \
         limits: [{requests: 3, window: Month}]}\n",
    )
}

fn serve(upstream: Upstream) -> tokio_util::task::AbortOnDropHandle<()> {
    tokio_util::task::AbortOnDropHandle::new(tokio::spawn(async move {
        while let Ok(mut connection) = upstream.accept_any().await {
            tokio::spawn(async move {
                while connection.next_request().await.is_some() {
                    connection.respond(200, "{}").await;
                }
            });
        }
    }))
}

async fn start(port: u16, file: &Path) -> Running {
    harness(port).start_with(|config| config.quota_file = Some(file.to_owned())).await
}

async fn statuses(address: std::net::SocketAddr, count: usize) -> Vec<u16> {
    let mut statuses = Vec::new();
    for _ in 0..count {
        statuses.push(exchange(address, post(REQUEST)).await.status);
    }
    statuses
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_used_survives_a_graceful_stop() {
    let (folder, upstream) = (tempfile::tempdir().unwrap(), Upstream::bind().await);
    let (file, port) = (folder.path().join("quotas"), upstream.port());
    let _serving = serve(upstream);
    for expected in [[200, 200].as_slice(), &[200, 429], &[429]] {
        let running = start(port, &file).await;
        // Right before the stop: nothing was written yet.
        assert_eq!(statuses(running.address(), expected.len()).await, expected);
        running.gateway.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_process_loses_what_was_not_written_and_no_more() {
    let (folder, upstream) = (tempfile::tempdir().unwrap(), Upstream::bind().await);
    let (file, harness) = (folder.path().join("quotas"), harness(upstream.port()));
    let _serving = serve(upstream);
    let command = || {
        let mut command = Command::new(GATEWAY);
        command.arg("--quota-file").arg(&file);
        command
    };
    let mut killed = Process::start(&harness, command()).await;
    assert_eq!(statuses(killed.address, 2).await, [200, 200]);
    let is_written = || std::fs::read_to_string(&file).is_ok_and(|text| text.contains(r#""used":"2""#));
    until("the file", || async { is_written().then_some(()) }).await;
    killed.kill();
    let second = Process::start(&harness, command()).await;
    assert_eq!(statuses(second.address, 2).await, [200, 429]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_cannot_be_used_is_set_aside() {
    let (folder, upstream) = (tempfile::tempdir().unwrap(), Upstream::bind().await);
    let (file, port) = (folder.path().join("quotas"), upstream.port());
    let _serving = serve(upstream);
    for content in ["", "rubbish", "forebay-quotas 1 0000\n[]"] {
        std::fs::write(&file, content).unwrap();
        let running = start(port, &file).await;
        assert_eq!(statuses(running.address(), 1).await, [200]);
        running.gateway.shutdown().await;
        assert_eq!(std::fs::read_to_string(folder.path().join("quotas.invalid")).unwrap(), content);
        let again = start(port, &file).await;
        assert_eq!(statuses(again.address(), 3).await, [200, 200, 429], "the new file is used");
        again.gateway.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_process_is_told_that_the_file_is_in_use() {
    let (folder, upstream) = (tempfile::tempdir().unwrap(), Upstream::bind().await);
    let file = folder.path().join("quotas");
    let running = start(upstream.port(), &file).await;
    let second = async |file: &Path| {
        let mut config = Config::new(folder.path());
        config.admin_listen = "127.0.0.1:0".parse().unwrap();
        config.quota_file = Some(file.to_owned());
        Gateway::start(config).await.map(|_| ()).unwrap_err().to_string()
    };
    let error = second(&file).await;
    assert!(
        error.contains("quotas is in use by another process; give each gateway a file of its own"),
        "{error}"
    );
    running.gateway.shutdown().await;
    let error = second(&folder.path().join("missing/quotas")).await;
    assert!(error.starts_with("--quota-file ") && error.contains("cannot be opened"), "{error}");
}
