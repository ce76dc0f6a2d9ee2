//! Keys of tokens on a server.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use forebay_test_tokens::{TokenKey, key_set};
use serde_json::json;

use super::jwt::{ISSUER, claims};
use super::*;
use crate::support::harness::{Harness, Running};
use crate::support::tls::{Certificate, TlsFront, authorities};
use crate::support::until;
use forebay_test_certificates::Authority;

const FAILED: &str =
    r#"forebay_gateway_key_set_loads_total{key_set="llm-d/idp:80/keys?v=1",result="failed"}"#;
const LOADED: &str =
    r#"forebay_gateway_key_set_loads_total{key_set="llm-d/idp:80/keys?v=1",result="loaded"}"#;

/// Status and body of the key set. `None`: connections are closed without a response.
type Answer = Option<(u16, String)>;

/// A server of a key set.
struct Issuer {
    port: u16,
    answer: Arc<Mutex<Answer>>,
    serving: JoinHandle<()>,
}

impl Drop for Issuer {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

impl Issuer {
    async fn start(answer: Answer) -> Self {
        Self::start_as("idp.llm-d.svc:80", answer).await
    }

    async fn start_as(host: &'static str, answer: Answer) -> Self {
        let upstream = Upstream::bind().await;
        let port = upstream.port();
        let answer = Arc::new(Mutex::new(answer));
        let current = answer.clone();
        let serving = tokio::spawn(async move {
            while let Ok(mut connection) = upstream.accept_any().await {
                let Some((status, body)) = current.lock().unwrap().clone() else { continue };
                let request = connection.read_request().await;
                assert_eq!(request.line, "GET /keys?v=1 HTTP/1.1");
                assert_eq!(request.header("host"), Some(host));
                connection.respond(status, &body).await;
            }
        });
        Self { port, answer, serving }
    }

    fn set(&self, answer: Answer) {
        *self.answer.lock().unwrap() = answer;
    }

    /// A gateway with a policy that has this key set.
    async fn door(&self, qwen: &Pod, tiny: &Pod) -> Running {
        self.manifests(qwen, tiny, self.port).start().await
    }

    fn manifests(&self, qwen: &Pod, tiny: &Pod, port: u16) -> Harness {
        let remote = "{remote: {backendRef: {name: idp, namespace: llm-d, port: 80}, jwksPath: 'keys?v=1', cacheDuration: 1h}}";
        let fields = format!("jwtAuthentication: {{providers: [{{issuer: '{ISSUER}', jwks: {remote}}}]}}");
        let grant = "apiVersion: gateway.networking.k8s.io/v1beta1\nkind: ReferenceGrant\n\
             metadata: {name: idp, namespace: llm-d}\n\
             spec: {from: [{group: agentgateway.dev, kind: AgentgatewayPolicy, namespace: agentgateway-system}], \
             to: [{group: '', kind: Service}]}";
        door(qwen, tiny, &fields).service("idp", port, "").with(grant)
    }
}

fn set(keys: &[&TokenKey]) -> Answer {
    Some((200, key_set(keys.iter().copied())))
}

async fn try_key(running: &Running, key: &TokenKey) -> (u16, String) {
    outcome(&ask(running.address(), &bearer(&key.sign(&claims(json!({})))), QWEN).await)
}

async fn until_accepted(running: &Running, key: &TokenKey) {
    until("a token that is accepted", || async { (try_key(running, key).await.0 == 200).then_some(()) })
        .await;
}

async fn until_failures(running: &Running, count: f64) {
    until("failed loads", || async { (running.metric(FAILED).await >= count).then_some(()) }).await;
}

#[tokio::test]
async fn a_server_that_is_down_at_the_start_may_come_up_later() {
    let (mut qwen, tiny) = (Pod::start(&[QWEN]).await, Pod::start(&[TINY]).await);
    let key = TokenKey::new("ES256", "a");
    let issuer = Issuer::start(None).await;
    let running = issuer.door(&qwen, &tiny).await;
    until_failures(&running, 1.0).await;
    let response = ask(running.address(), &bearer(&key.sign(&claims(json!({})))), QWEN).await;
    assert_eq!(outcome(&response), is(503, "token_keys_unavailable"));
    assert_eq!(response.head.header("retry-after"), Some("1"));
    assert_eq!(outcome(&ask(running.address(), "", QWEN).await), is(401, "missing_token"));
    assert!(qwen.seen().is_empty());
    issuer.set(set(&[&key]));
    until_accepted(&running, &key).await;
}

#[tokio::test]
async fn documents_that_are_not_key_sets_are_not_used() {
    let (qwen, tiny) = (Pod::start(&[QWEN]).await, Pod::start(&[TINY]).await);
    let key = TokenKey::new("ES256", "a");
    let whole = key_set([&key]);
    let large = format!("{whole}{}", " ".repeat(256 * 1024));
    for answer in [(500, whole.clone()), (302, whole.clone()), (200, large), (200, whole[1..].to_owned())] {
        let issuer = Issuer::start(Some(answer)).await;
        let running = issuer.door(&qwen, &tiny).await;
        until_failures(&running, 1.0).await;
        assert_eq!(try_key(&running, &key).await, is(503, "token_keys_unavailable"));
        assert_eq!(running.metric(LOADED).await, 0.0);
    }
}

#[tokio::test]
async fn a_new_key_is_loaded_when_a_token_names_it() {
    let (qwen, tiny) = (Pod::start(&[QWEN]).await, Pod::start(&[TINY]).await);
    let (old, new) = (TokenKey::new("ES256", "a"), TokenKey::new("EdDSA", "b"));
    let issuer = Issuer::start(set(&[&old])).await;
    let running = issuer.door(&qwen, &tiny).await;
    running.until_metric(LOADED, 1.0).await;
    assert_eq!(try_key(&running, &old).await, is(200, "-"));
    issuer.set(set(&[&new]));
    // The request does not wait for the load that it causes.
    assert_eq!(try_key(&running, &new).await, is(401, "invalid_token"));
    until_accepted(&running, &new).await;
    assert_eq!(try_key(&running, &old).await, is(401, "invalid_token"), "it was withdrawn");
    // Clients cannot cause loads as often as they like: the next one is half a minute away.
    let start = Instant::now();
    for _ in 0..100 {
        assert_eq!(try_key(&running, &old).await, is(401, "invalid_token"));
    }
    assert!(start.elapsed() < Duration::from_secs(20), "too slow to tell");
    assert_eq!((running.metric(LOADED).await, running.metric(FAILED).await), (2.0, 0.0));
}

#[tokio::test]
async fn keys_stay_in_use_while_their_server_is_down() {
    let (qwen, tiny) = (Pod::start(&[QWEN]).await, Pod::start(&[TINY]).await);
    let (known, unknown) = (TokenKey::new("ES256", "a"), TokenKey::new("ES256", "b"));
    let issuer = Issuer::start(set(&[&known])).await;
    let running = issuer.door(&qwen, &tiny).await;
    until_accepted(&running, &known).await;
    issuer.set(None);
    assert_eq!(try_key(&running, &unknown).await, is(401, "invalid_token"));
    until_failures(&running, 1.0).await;
    assert_eq!(try_key(&running, &known).await, is(200, "-"));
    assert_eq!(try_key(&running, &unknown).await, is(401, "invalid_token"));
    // It comes back with another set.
    issuer.set(set(&[&known, &unknown]));
    until_accepted(&running, &unknown).await;
}

/// No request waits for a server that accepts connections and never responds.
#[tokio::test]
async fn requests_do_not_wait_for_the_server() {
    let (qwen, tiny) = (Pod::start(&[QWEN]).await, Pod::start(&[TINY]).await);
    let silent = Upstream::bind().await;
    let issuer = Issuer { port: silent.port(), answer: Arc::default(), serving: tokio::spawn(async {}) };
    let running = issuer.door(&qwen, &tiny).await;
    let _connection = silent.accept().await;
    let start = Instant::now();
    let outcome = try_key(&running, &TokenKey::new("ES256", "a")).await;
    assert_eq!(outcome, is(503, "token_keys_unavailable"));
    assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
    assert_eq!((running.metric(LOADED).await, running.metric(FAILED).await), (0.0, 0.0));
}

/// Behind [`TlsFront`], with the name of its certificate.
const HOST: &str = "idp.example";

fn backend_tls(validation: &str) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: BackendTLSPolicy\nmetadata: {{name: idp, namespace: llm-d}}\n\
         spec: {{targetRefs: [{{group: '', kind: Service, name: idp}}], validation: {{{validation}}}}}\n"
    )
}

const BY_CONFIG_MAP: &str =
    "caCertificateRefs: [{group: '', kind: ConfigMap, name: ca}], hostname: idp.example";

#[tokio::test]
async fn keys_are_loaded_over_tls() {
    let (qwen, tiny) = (Pod::start(&[QWEN]).await, Pod::start(&[TINY]).await);
    let key = TokenKey::new("ES256", "a");
    let authority = Authority::new("ca").unwrap();
    let certificate = Certificate::issued(&authority, HOST);
    let issuer = Issuer::start_as("idp.example:80", set(&[&key])).await;
    let front = TlsFront::start(&certificate, "http/1.1", issuer.port).await;
    let agentgateway = |tls: &str| {
        format!(
            "apiVersion: agentgateway.dev/v1alpha1\nkind: AgentgatewayPolicy\nmetadata: {{name: tls, namespace: llm-d}}\n\
             spec: {{targetRefs: [{{group: '', kind: Service, name: idp}}], backend: {{tls: {{{tls}}}}}}}\n"
        )
    };
    for policy in [
        backend_tls(BY_CONFIG_MAP),
        backend_tls(&format!(
            "{BY_CONFIG_MAP}, subjectAltNames: [{{type: URI, uri: 'a://b'}}, {{type: Hostname, hostname: idp.example}}]"
        )),
        agentgateway("caCertificateRefs: [{name: ca}], sni: idp.example"),
        agentgateway(
            "caCertificateRefs: [{name: ca}], sni: idp.example, verifySubjectAltNames: [other, idp.example]",
        ),
    ] {
        let harness = issuer.manifests(&qwen, &tiny, front.port);
        let running = harness.with(&authorities("llm-d", "ca", authority.pem())).with(&policy).start().await;
        until_accepted(&running, &key).await;
        assert_eq!(
            (running.metric(FAILED).await, front.server_name().as_deref()),
            (0.0, Some(HOST)),
            "{policy}"
        );
    }
}

/// Another authority or name is not trusted, and the keys of before stay in use.
#[tokio::test]
async fn a_server_that_cannot_be_verified_gives_no_keys() {
    let (qwen, tiny) = (Pod::start(&[QWEN]).await, Pod::start(&[TINY]).await);
    let (known, unknown) = (TokenKey::new("ES256", "a"), TokenKey::new("ES256", "b"));
    let (authority, other) = (Authority::new("ca").unwrap(), Authority::new("ca").unwrap());
    let certificate = Certificate::issued(&authority, HOST);
    let issuer = Issuer::start_as("idp.example:80", set(&[&known])).await;
    let front = TlsFront::start(&certificate, "http/1.1", issuer.port).await;
    let other_name = BY_CONFIG_MAP.replace("idp.example", "other.example");
    let other_san =
        format!("{BY_CONFIG_MAP}, subjectAltNames: [{{type: Hostname, hostname: other.example}}]");
    let bad = [
        (other.pem().to_owned(), BY_CONFIG_MAP.to_owned()),
        (authority.pem().to_owned(), other_name),
        (authority.pem().to_owned(), other_san),
        // No such name, and a ConfigMap that is not there.
        (authority.pem().to_owned(), BY_CONFIG_MAP.replace("idp.example", "10.0.0.1")),
        (authority.pem().to_owned(), BY_CONFIG_MAP.replace("name: ca", "name: gone")),
        (authority.pem().to_owned(), "wellKnownCACertificates: System, hostname: idp.example".to_owned()),
    ];
    let manifests = |pem: &str, validation: &str| {
        let harness = issuer.manifests(&qwen, &tiny, front.port);
        harness.with(&authorities("llm-d", "ca", pem)).with(&backend_tls(validation))
    };
    for (pem, validation) in &bad {
        let running = manifests(pem, validation).start().await;
        until_failures(&running, 1.0).await;
        assert_eq!(try_key(&running, &known).await, is(503, "token_keys_unavailable"), "{validation}");
        assert_eq!(running.metric(LOADED).await, 0.0);
    }
    assert_eq!(front.server_name(), None, "no handshake succeeded");
    let running = manifests(authority.pem(), BY_CONFIG_MAP).start().await;
    until_accepted(&running, &known).await;
    issuer.set(set(&[&unknown]));
    let mut failures = 0.0;
    for (pem, validation) in &bad {
        running.write(&manifests(pem, validation).manifests);
        // A load follows at once, not after `cacheDuration`.
        until_failures(&running, failures + 1.0).await;
        failures = running.metric(FAILED).await;
        assert_eq!(try_key(&running, &known).await, is(200, "-"), "{validation}");
        assert_eq!(try_key(&running, &unknown).await, is(401, "invalid_token"));
    }
    running.write(&manifests(authority.pem(), BY_CONFIG_MAP).manifests);
    until_accepted(&running, &unknown).await;
}
