//! API keys.

use super::*;
use crate::support::client::get;
use crate::support::until;

#[tokio::test]
async fn only_callers_with_a_key_reach_a_pod_which_never_sees_it() {
    let (mut qwen, tiny) = (Pod::start(&[QWEN]).await, Pod::start(&[TINY]).await);
    let running = door(&qwen, &tiny, &keys("")).start().await;
    let address = running.address();
    for (headers, expected) in [
        (String::new(), is(401, "missing_api_key")),
        (bearer("k-other"), is(401, "invalid_api_key")),
        ("authorization: Basic k-sales\r\n".into(), is(401, "missing_api_key")),
        ("x-api-key: k-sales\r\n".into(), is(401, "missing_api_key")),
        (bearer(SALES) + &bearer(LABS), is(401, "invalid_api_key")),
        (bearer(SALES), is(200, "-")),
        ("AUTHORIZATION:bearer k-labs\r\n".into(), is(200, "-")),
    ] {
        let known = ask(address, &headers, QWEN).await;
        assert_eq!(outcome(&known), expected, "{headers}");
        if known.status == 401 {
            assert_eq!(known.head.header("www-authenticate"), Some("Bearer"));
            assert!(!known.text().contains("k-"), "{}", known.text());
            // Identical, also for a model that does not exist.
            assert_eq!(ask(address, &headers, "no-such-model").await.text(), known.text());
        }
    }
    let seen = qwen.seen();
    assert_eq!(seen.len(), 2);
    assert!(seen.iter().all(|request| request.header("authorization").is_none()), "{seen:?}");
    let unknown = ask(address, &bearer(SALES), "no-such-model").await;
    assert_eq!(outcome(&unknown), is(404, "model_not_found"));
}

#[tokio::test]
async fn the_location_and_the_mode_are_chosen_by_the_policy() {
    let (mut qwen, tiny) = (Pod::start(&[QWEN]).await, Pod::start(&[TINY]).await);
    let location = ", location: {header: {name: X-API-Key}}";
    for (mode, expected) in [
        ("Strict", [(200, "-"), (401, "invalid_api_key"), (401, "missing_api_key")]),
        ("Optional", [(200, "-"), (401, "invalid_api_key"), (200, "-")]),
        ("Permissive", [(200, "-"), (200, "-"), (200, "-")]),
    ] {
        let fields = keys(&format!("{location}, mode: {mode}"));
        let running = door(&qwen, &tiny, &fields).start().await;
        for (headers, (status, code)) in
            ["x-api-key: k-sales\r\n", "x-api-key: wrong\r\n", "authorization: Bearer k-sales\r\n"]
                .into_iter()
                .zip(expected)
        {
            let response = ask(running.address(), headers, QWEN).await;
            assert_eq!(outcome(&response), is(status, code), "{mode} {headers}");
        }
        assert!(qwen.seen().iter().all(|request| request.header("x-api-key").is_none()), "{mode}");
    }
}

#[tokio::test]
async fn a_key_is_added_and_revoked_without_a_restart() {
    let (qwen, tiny) = (Pod::start(&[QWEN]).await, Pod::start(&[TINY]).await);
    let harness = door(&qwen, &tiny, &keys(""));
    let rotated = harness.manifests.replace(r#""k-sales""#, r#""k-rotated""#);
    let running = harness.start().await;
    let address = running.address();
    assert_eq!(ask(address, &bearer(SALES), QWEN).await.status, 200);
    assert_eq!(ask(address, &bearer("k-rotated"), QWEN).await.status, 401);
    running.write(&rotated);
    until("the new key", || async {
        (ask(address, &bearer("k-rotated"), QWEN).await.status == 200).then_some(())
    })
    .await;
    assert_eq!(ask(address, &bearer(SALES), QWEN).await.status, 401);
}

#[tokio::test]
async fn good_keys_work_beside_rubbish() {
    let (qwen, tiny) = (Pod::start(&[QWEN]).await, Pod::start(&[TINY]).await);
    let selector = "apiKeyAuthentication: {secretSelector: {matchLabels: {team: keys}}}";
    let running = door(&qwen, &tiny, selector)
        .with(
            "apiVersion: v1\nkind: Secret\nmetadata: {name: more, namespace: agentgateway-system, labels: {team: keys}}\n\
             stringData: {bad: '{\"keyHash\": \"k-oops\"}', good: k-good}\n",
        )
        .start()
        .await;
    let address = running.address();
    for (key, status) in [(SALES, 200), ("k-good", 200), ("k-oops", 401)] {
        assert_eq!(ask(address, &bearer(key), QWEN).await.status, status, "{key}");
    }
}

#[tokio::test]
async fn a_policy_without_readable_keys_refuses_all_requests() {
    let (mut qwen, tiny) = (Pod::start(&[QWEN]).await, Pod::start(&[TINY]).await);
    let fields = "apiKeyAuthentication: {secretRef: {name: no-such-secret}}";
    let running = door(&qwen, &tiny, fields).start().await;
    for headers in [String::new(), bearer(SALES), bearer("")] {
        assert_eq!(ask(running.address(), &headers, QWEN).await.status, 401, "{headers}");
        assert_eq!(get(running.address(), "/v1/models").await.status, 401);
    }
    assert!(qwen.seen().is_empty());
}

#[tokio::test]
async fn the_more_precise_policy_replaces_the_keys() {
    let (qwen, tiny) = (Pod::start(&[QWEN]).await, Pod::start(&[TINY]).await);
    let route = "{group: gateway.networking.k8s.io, kind: HTTPRoute, name: tiny}";
    let own =
        "apiVersion: v1\nkind: Secret\nmetadata: {name: keys, namespace: llm-d}\nstringData: {one: k-tiny}\n";
    let running = door(&qwen, &tiny, &keys(""))
        .with(own)
        .with(&policy("llm-d", "tiny", route, &keys("")))
        .start()
        .await;
    for (key, model, status) in
        [(SALES, QWEN, 200), (SALES, TINY, 401), ("k-tiny", QWEN, 401), ("k-tiny", TINY, 200)]
    {
        assert_eq!(ask(running.address(), &bearer(key), model).await.status, status, "{key} {model}");
    }
    // As for the model with keys of its own.
    let unknown = ask(running.address(), "", "no-such-model").await;
    assert_eq!(outcome(&unknown), is(401, "missing_api_key"));
}

#[tokio::test]
async fn an_expired_key_is_rejected() {
    let (qwen, tiny) = (Pod::start(&[QWEN]).await, Pod::start(&[TINY]).await);
    let key = |name: &str, at: &str| {
        format!("  {name}: '{{\"key\": \"k-{name}\", \"metadata\": {{\"expiresAt\": \"{at}\"}}}}'\n")
    };
    let secret = format!(
        "apiVersion: v1\nkind: Secret\nmetadata: {{name: keys, namespace: agentgateway-system}}\nstringData:\n{}{}{}",
        key("old", "2020-01-01T00:00:00Z"),
        key("new", "2999-01-01T00:00:00Z"),
        key("wrong", "tomorrow"),
    );
    let running = Harness::new()
        .pool("qwen", QWEN, &[qwen.port], None)
        .pool("tiny", TINY, &[tiny.port], None)
        .with(&secret)
        .with(&policy("agentgateway-system", "door", GATEWAY, &keys("")))
        .start()
        .await;
    for (name, expected) in [
        ("k-old", is(401, "expired_api_key")),
        ("k-new", is(200, "-")),
        ("k-wrong", is(401, "invalid_api_key")),
    ] {
        let response = ask(running.address(), &bearer(name), QWEN).await;
        assert_eq!(outcome(&response), expected, "{name}");
    }
}
