//! Policies with API keys, tokens and authorization rules.

mod jwks;
mod jwt;
mod keys;
mod limits;
mod listing;
mod quotas;
mod rules;
mod usage;
mod ways_around;

use std::net::SocketAddr;

use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::support::client::{Response, exchange, post_with};
use crate::support::harness::{Harness, QWEN, TINY};
use crate::support::upstream::{Request, Upstream};

const GATEWAY: &str = "{group: gateway.networking.k8s.io, kind: Gateway, name: inference-gateway}";
const SALES: &str = "k-sales";
const LABS: &str = "k-labs";
/// The models of a group are in the metadata of its key.
const BY_MODEL: &str =
    r#"authorization: {action: Require, policy: {matchExpressions: ["llm.model in apiKey.models"]}}"#;

/// An endpoint that answers every request with 200 and lists its models.
struct Pod {
    port: u16,
    requests: mpsc::UnboundedReceiver<Request>,
    serving: JoinHandle<()>,
}

impl Drop for Pod {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

impl Pod {
    /// `models`: a model, and adapters of it.
    async fn start(models: &[&str]) -> Self {
        let upstream = Upstream::bind().await;
        let port = upstream.port();
        let (seen, requests) = mpsc::unbounded_channel();
        let data: Vec<String> = models
            .iter()
            .map(|id| format!(r#"{{"id":"{id}","object":"model","parent":"{}"}}"#, models[0]))
            .collect();
        let list = format!(r#"{{"object":"list","data":[{}]}}"#, data.join(","));
        let serving = tokio::spawn(async move {
            while let Ok(mut connection) = upstream.accept_any().await {
                let (seen, list) = (seen.clone(), list.clone());
                tokio::spawn(async move {
                    while let Some(request) = connection.next_request().await {
                        if request.line.starts_with("GET /v1/models ") {
                            connection.respond(200, &list).await;
                        } else {
                            let _ = seen.send(request);
                            connection.respond(200, "ok").await;
                        }
                    }
                });
            }
        });
        Self { port, requests, serving }
    }

    /// The requests until now, without those for models.
    fn seen(&mut self) -> Vec<Request> {
        std::iter::from_fn(|| self.requests.try_recv().ok()).collect()
    }
}

fn secret(namespace: &str) -> String {
    format!(
        r#"
apiVersion: v1
kind: Secret
metadata: {{name: keys, namespace: {namespace}, labels: {{team: keys}}}}
stringData:
  labs: '{{"key": "{LABS}", "metadata": {{"group": "labs", "models": ["{TINY}", "{QWEN}"]}}}}'
  sales: '{{"key": "{SALES}", "metadata": {{"group": "sales", "models": ["{QWEN}"]}}}}'
"#
    )
}

/// `fields` of `spec.traffic`.
fn policy(namespace: &str, name: &str, target: &str, fields: &str) -> String {
    format!(
        "apiVersion: agentgateway.dev/v1alpha1\nkind: AgentgatewayPolicy\n\
         metadata: {{name: {name}, namespace: {namespace}}}\n\
         spec: {{targetRefs: [{target}], traffic: {{{fields}}}}}\n"
    )
}

/// `apiKeyAuthentication` with the Secret, and with more fields.
fn keys(more: &str) -> String {
    format!("apiKeyAuthentication: {{secretRef: {{name: keys}}{more}}}")
}

/// Two pools behind a policy of the Gateway with these fields.
fn door(qwen: &Pod, tiny: &Pod, fields: &str) -> Harness {
    Harness::new()
        .pool("qwen", QWEN, &[qwen.port], None)
        .pool("tiny", TINY, &[tiny.port], None)
        .with(&secret("agentgateway-system"))
        .with(&policy("agentgateway-system", "door", GATEWAY, fields))
}

fn bearer(key: &str) -> String {
    format!("authorization: Bearer {key}\r\n")
}

fn body(model: &str) -> String {
    format!(r#"{{"model":"{model}"}}"#)
}

async fn ask(address: SocketAddr, headers: &str, model: &str) -> Response {
    exchange(address, post_with(headers, &body(model))).await
}

/// Status and code of an error; code `-` for other responses.
fn outcome(response: &Response) -> (u16, String) {
    let code = if response.status < 400 { "-".to_owned() } else { response.code() };
    (response.status, code)
}

fn is(status: u16, code: &str) -> (u16, String) {
    (status, code.to_owned())
}
