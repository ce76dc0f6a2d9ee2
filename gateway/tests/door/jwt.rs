//! JSON Web Tokens.

use std::time::{SystemTime, UNIX_EPOCH};

use forebay_test_tokens::{ALGORITHMS, TokenKey, encode, key_set};
use serde_json::{Value, json};

use super::*;
use crate::support::client::get;

pub(super) const ISSUER: &str = "https://idp.example/realms/a";
/// The models of a caller are in its token.
const BY_CLAIM: &str =
    r#"authorization: {action: Require, policy: {matchExpressions: ["llm.model in jwt.models"]}}"#;

pub(super) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

/// Claims of a valid token, changed.
pub(super) fn claims(changes: Value) -> Value {
    let mut claims = json!({
        "iss": ISSUER, "aud": ["account", "models"], "sub": "alice", "exp": now() + 600, "models": [QWEN],
    });
    claims.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
    claims
}

/// `jwtAuthentication` with the keys of the issuer, and with more fields.
fn tokens(keys: &[&TokenKey], more: &str) -> String {
    let jwks = format!("{{inline: '{}'}}", key_set(keys.iter().copied()));
    let provider = format!("{{issuer: '{ISSUER}', audiences: [models], jwks: {jwks}}}");
    format!("jwtAuthentication: {{providers: [{provider}]{more}}}")
}

#[tokio::test]
async fn every_algorithm_is_accepted_and_the_pod_never_sees_the_token() {
    let (mut qwen, tiny) = (Pod::start(&[QWEN]).await, Pod::start(&[TINY]).await);
    let keys = ALGORITHMS.map(|algorithm| TokenKey::new(algorithm, algorithm));
    let all: Vec<&TokenKey> = keys.iter().collect();
    let running = door(&qwen, &tiny, &tokens(&all, "")).start().await;
    for (key, algorithm) in keys.iter().zip(ALGORITHMS) {
        let response = ask(running.address(), &bearer(&key.sign(&claims(json!({})))), QWEN).await;
        assert_eq!(outcome(&response), is(200, "-"), "{algorithm}");
    }
    let seen = qwen.seen();
    assert_eq!(seen.len(), ALGORITHMS.len());
    assert!(seen.iter().all(|request| request.header("authorization").is_none()), "{seen:?}");
}

#[tokio::test]
async fn other_tokens_are_refused_without_a_reason() {
    let (mut qwen, tiny) = (Pod::start(&[QWEN]).await, Pod::start(&[TINY]).await);
    let (rsa, ec) = (TokenKey::new("RS256", "rsa"), TokenKey::new("ES256", "ec"));
    let running = door(&qwen, &tiny, &tokens(&[&rsa, &ec], "")).start().await;
    let address = running.address();
    let good = ec.sign(&claims(json!({})));
    let [header, _, signature] = good.split('.').collect::<Vec<_>>()[..] else { unreachable!() };
    let tampered = format!("{header}.{}.{signature}", encode(claims(json!({ "sub": "root" })).to_string()));
    let of_rsa = |algorithm: &str| {
        rsa.sign_with_header(&json!({ "alg": algorithm, "kid": "rsa" }), &claims(json!({})))
    };
    let none = format!("{}.", of_rsa("none").rsplit_once('.').unwrap().0);
    let critical = json!({ "alg": "ES256", "kid": "ec", "crit": ["exp"] });
    for (name, token, code) in [
        ("expired", ec.sign(&claims(json!({ "exp": now() - 90 }))), "expired_token"),
        ("without exp", ec.sign(&claims(json!({ "exp": null }))), "invalid_token"),
        ("not yet valid", ec.sign(&claims(json!({ "nbf": now() + 90 }))), "invalid_token"),
        ("another issuer", ec.sign(&claims(json!({ "iss": "https://idp.example" }))), "invalid_token"),
        ("another audience", ec.sign(&claims(json!({ "aud": "other" }))), "invalid_token"),
        ("no audience", ec.sign(&claims(json!({ "aud": null }))), "invalid_token"),
        ("unknown kid", TokenKey::new("ES256", "new").sign(&claims(json!({}))), "invalid_token"),
        ("another key", TokenKey::new("ES256", "ec").sign(&claims(json!({}))), "invalid_token"),
        ("tampered", tampered, "invalid_token"),
        ("no signature", none, "invalid_token"),
        ("HS256 with the public key", of_rsa("HS256"), "invalid_token"),
        ("the algorithm of another key", of_rsa("ES256"), "invalid_token"),
        ("not the alg of its key", TokenKey::new("PS256", "rsa").sign(&claims(json!({}))), "invalid_token"),
        ("crit", ec.sign_with_header(&critical, &claims(json!({}))), "invalid_token"),
        ("oversized", ec.sign(&claims(json!({ "pad": "x".repeat(13_000) }))), "invalid_token"),
        ("no token", "k-sales".into(), "invalid_token"),
    ] {
        let response = ask(address, &bearer(&token), QWEN).await;
        assert_eq!(outcome(&response), is(401, code), "{name}");
        let challenge = response.head.header("www-authenticate");
        assert_eq!(challenge, Some(r#"Bearer error="invalid_token""#), "{name}");
        assert_eq!(response.json()["error"]["type"], "invalid_request_error", "{name}");
        // Identical, also for a model that does not exist.
        assert_eq!(ask(address, &bearer(&token), "no-such-model").await.text(), response.text(), "{name}");
    }
    for headers in ["", "authorization: Basic YTpi\r\n", "authorization: Bearer \r\n"] {
        let missing = ask(address, headers, QWEN).await;
        assert_eq!(outcome(&missing), is(401, "missing_token"));
        assert_eq!(missing.head.header("www-authenticate"), Some("Bearer"));
    }
    let two = bearer(&good) + &bearer(&good);
    assert_eq!(outcome(&ask(address, &two, QWEN).await), is(401, "invalid_token"));
    assert!(qwen.seen().is_empty());
    assert_eq!(ask(address, &bearer(&good), QWEN).await.status, 200);
    let metric = r#"forebay_gateway_errors_total{code="expired_token"}"#;
    assert_eq!(running.metric(metric).await, 2.0);
}

#[tokio::test]
async fn the_location_and_the_mode_are_chosen_by_the_policy() {
    let (mut qwen, tiny) = (Pod::start(&[QWEN]).await, Pod::start(&[TINY]).await);
    let key = TokenKey::new("EdDSA", "a");
    let good = format!("x-token: {}\r\n", key.sign(&claims(json!({}))));
    for (mode, expected) in [
        ("Strict", [(200, "-"), (401, "invalid_token"), (401, "missing_token")]),
        ("Optional", [(200, "-"), (401, "invalid_token"), (200, "-")]),
        ("Permissive", [(200, "-"), (200, "-"), (200, "-")]),
    ] {
        let fields = tokens(&[&key], &format!(", location: {{header: {{name: X-Token}}}}, mode: {mode}"));
        let running = door(&qwen, &tiny, &fields).start().await;
        for (headers, (status, code)) in [good.as_str(), "x-token: wrong\r\n", ""].into_iter().zip(expected) {
            let response = ask(running.address(), headers, QWEN).await;
            assert_eq!(outcome(&response), is(status, code), "{mode} {headers}");
        }
        assert!(qwen.seen().iter().all(|request| request.header("x-token").is_none()), "{mode}");
    }
}

#[tokio::test]
async fn rules_and_the_list_of_models_read_claims() {
    let (mut qwen, mut tiny) = (Pod::start(&[QWEN]).await, Pod::start(&[TINY]).await);
    let key = TokenKey::new("ES384", "a");
    let running = door(&qwen, &tiny, &format!("{}, {BY_CLAIM}", tokens(&[&key], ""))).start().await;
    let address = running.address();
    let of = |models: Value| bearer(&key.sign(&claims(json!({ "models": models }))));
    for (models, model, expected) in [
        (json!([QWEN]), QWEN, is(200, "-")),
        (json!([QWEN]), TINY, is(403, "permission_denied")),
        (json!([TINY, QWEN]), TINY, is(200, "-")),
        // Claims of other types allow nothing.
        (json!(null), QWEN, is(403, "permission_denied")),
        (json!(QWEN), QWEN, is(403, "permission_denied")),
        (json!(1e308), QWEN, is(403, "permission_denied")),
        (json!([[QWEN], { "a": QWEN }, null]), QWEN, is(403, "permission_denied")),
    ] {
        let response = ask(address, &of(models.clone()), model).await;
        assert_eq!(outcome(&response), expected, "{models} {model}");
    }
    assert_eq!((qwen.seen().len(), tiny.seen().len()), (1, 1));
    for (models, listed) in [(json!([QWEN]), vec![QWEN]), (json!([QWEN, TINY]), vec![QWEN, TINY])] {
        let headers = of(models);
        let request = format!("GET /v1/models HTTP/1.1\r\nhost: models.example\r\n{headers}\r\n");
        let list = exchange(address, request).await.json();
        let ids = list["data"].as_array().unwrap().iter().map(|model| model["id"].as_str().unwrap());
        assert_eq!(ids.collect::<Vec<_>>(), listed);
    }
    assert_eq!(outcome(&get(address, "/v1/models").await), is(401, "missing_token"));
}

#[tokio::test]
async fn limits_are_for_callers_with_a_claim() {
    let (qwen, tiny) = (Pod::start(&[QWEN]).await, Pod::start(&[TINY]).await);
    let key = TokenKey::new("EdDSA", "a");
    let limit = "rateLimit: {conditional: [{condition: \"jwt.tier == 'free'\", policy: {local: [{requests: 1, unit: Hours}]}}]}";
    let running = door(&qwen, &tiny, &format!("{}, {limit}", tokens(&[&key], ""))).start().await;
    let mut statuses = Vec::new();
    for tier in ["free", "gold", "free", "gold"] {
        let headers = bearer(&key.sign(&claims(json!({ "tier": tier }))));
        statuses.push(ask(running.address(), &headers, QWEN).await.status);
    }
    assert_eq!(statuses, [200, 200, 429, 200]);
}

/// Every method has to be passed by its own mode.
#[tokio::test]
async fn a_token_and_a_key_are_both_required() {
    let (mut qwen, tiny) = (Pod::start(&[QWEN]).await, Pod::start(&[TINY]).await);
    let key = TokenKey::new("ES256", "a");
    let of_key = keys(", location: {header: {name: x-api-key}}");
    let running = door(&qwen, &tiny, &format!("{of_key}, {}", tokens(&[&key], ""))).start().await;
    let (token, api_key) = (bearer(&key.sign(&claims(json!({})))), format!("x-api-key: {SALES}\r\n"));
    for (headers, expected) in [
        (token.clone() + &api_key, is(200, "-")),
        (token.clone(), is(401, "missing_api_key")),
        (api_key.clone(), is(401, "missing_token")),
        (token + "x-api-key: wrong\r\n", is(401, "invalid_api_key")),
        (bearer("wrong") + &api_key, is(401, "invalid_token")),
    ] {
        assert_eq!(outcome(&ask(running.address(), &headers, QWEN).await), expected, "{headers}");
    }
    let seen = qwen.seen();
    assert!(seen[0].header("authorization").is_none() && seen[0].header("x-api-key").is_none());
}

/// In the same header: what is not a token may be a key, and a rule asks for one of them.
#[tokio::test]
async fn a_token_or_a_key_is_enough_where_a_rule_says_so() {
    let (qwen, tiny) = (Pod::start(&[QWEN]).await, Pod::start(&[TINY]).await);
    let key = TokenKey::new("ES256", "a");
    let rule =
        "authorization: {action: Require, policy: {matchExpressions: [\"jwt != null || apiKey != null\"]}}";
    let fields = format!("{}, {}, {rule}", keys(", mode: Optional"), tokens(&[&key], ", mode: Permissive"));
    let running = door(&qwen, &tiny, &fields).start().await;
    for (headers, expected) in [
        (bearer(&key.sign(&claims(json!({})))), is(200, "-")),
        (bearer(SALES), is(200, "-")),
        (bearer("wrong"), is(401, "invalid_api_key")),
        (bearer(&key.sign(&claims(json!({ "exp": 0 })))), is(401, "invalid_api_key")),
        (String::new(), is(403, "permission_denied")),
    ] {
        assert_eq!(outcome(&ask(running.address(), &headers, QWEN).await), expected, "{headers}");
    }
}

/// A route adds its method to the one of the Gateway, and replaces the same one.
#[tokio::test]
async fn a_route_has_its_own_issuer() {
    let (qwen, tiny) = (Pod::start(&[QWEN]).await, Pod::start(&[TINY]).await);
    let (of_gateway, of_route) = (TokenKey::new("ES256", "a"), TokenKey::new("ES256", "b"));
    let route = "{group: gateway.networking.k8s.io, kind: HTTPRoute, name: tiny}";
    let running = door(&qwen, &tiny, &tokens(&[&of_gateway], ""))
        .with(&policy("llm-d", "tiny", route, &tokens(&[&of_route], "")))
        .start()
        .await;
    for (key, model, status) in
        [(&of_gateway, QWEN, 200), (&of_gateway, TINY, 401), (&of_route, QWEN, 401), (&of_route, TINY, 200)]
    {
        let headers = bearer(&key.sign(&claims(json!({}))));
        assert_eq!(ask(running.address(), &headers, model).await.status, status, "{model}");
    }
    assert_eq!(outcome(&ask(running.address(), "", "no-such-model").await), is(401, "missing_token"));
}

#[tokio::test]
async fn preflights_pass_and_copies_have_no_token() {
    let (mut web, mut shadow) = (Pod::start(&["web"]).await, Pod::start(&["shadow"]).await);
    let filters = "filters: [{type: RequestMirror, requestMirror: {backendRef: {name: shadow, port: 80}}}, \
        {type: CORS, cors: {allowOrigins: ['https://app.example'], allowMethods: [POST]}}]";
    let key = TokenKey::new("EdDSA", "a");
    let running = Harness::new()
        .service("web", web.port, "")
        .service("shadow", shadow.port, "")
        .route("r", &format!("{{{filters}, backendRefs: [{{name: web, port: 80}}]}}"))
        .with(&policy("agentgateway-system", "door", GATEWAY, &tokens(&[&key], "")))
        .start()
        .await;
    let preflight = |origin: &str| {
        format!(
            "OPTIONS /v1/chat/completions HTTP/1.1\r\nhost: models.example\r\norigin: {origin}\r\n\
             access-control-request-method: POST\r\n\r\n"
        )
    };
    let allowed = exchange(running.address(), preflight("https://app.example")).await;
    assert_eq!(
        (allowed.status, allowed.head.header("access-control-allow-origin")),
        (204, Some("https://app.example"))
    );
    assert_eq!(ask(running.address(), "", QWEN).await.status, 401);
    assert!(web.seen().is_empty());
    let headers = bearer(&key.sign(&claims(json!({}))));
    assert_eq!(ask(running.address(), &headers, QWEN).await.status, 200);
    let copy = crate::support::within("the copy", shadow.requests.recv()).await.unwrap();
    assert_eq!((copy.header("authorization"), web.seen().len()), (None, 1));
}
