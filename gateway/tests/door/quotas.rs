//! Quotas.

use std::collections::BTreeMap;

use forebay_test_tokens::{TokenKey, key_set};
use serde_json::{Value, json};

use super::jwt::{ISSUER, claims};
use super::*;
use crate::support::client::{connect, read_response};
use crate::support::harness::Running;
use crate::support::until;
use crate::support::upstream::Connection;

/// 30 prompt tokens, 10 of them cached, and 20 of output.
const ANSWER: &str = r#"{"choices":[],"usage":{"prompt_tokens":30,"completion_tokens":20,"total_tokens":50,"prompt_tokens_details":{"cached_tokens":10}}}"#;
const TEAM: &str = "agentgateway-system/team";

/// A quota of the Gateway.
fn quota(name: &str, fields: &str) -> String {
    quota_of("agentgateway-system", name, GATEWAY, fields)
}

fn quota_of(namespace: &str, name: &str, target: &str, fields: &str) -> String {
    format!(
        "apiVersion: forebay.dev/v1alpha1\nkind: Quota\nmetadata: {{name: {name}, namespace: {namespace}}}\n\
         spec: {{targetRefs: [{target}], {fields}}}\n"
    )
}

/// A month: no test runs over the end of many.
fn limits(limits: &str) -> String {
    format!("limits: [{}]", limits.replace('}', ", window: Month}"))
}

fn requests(amount: u32) -> String {
    limits(&format!("{{requests: {amount}}}"))
}

fn in_group(group: &str) -> String {
    format!("callers: {{keySelector: {{matchLabels: {{group: {group}}}}}}}")
}

/// The statuses of these requests, in order.
async fn statuses(address: SocketAddr, asked: &[(&str, &str)]) -> Vec<u16> {
    let mut statuses = Vec::new();
    for (headers, model) in asked {
        statuses.push(ask(address, headers, model).await.status);
    }
    statuses
}

/// The state of the only limit, by the caller's own credentials.
async fn left(address: SocketAddr, headers: &str) -> Vec<Value> {
    let request = format!("GET /forebay/v1/limits HTTP/1.1\r\nhost: models.example\r\n{headers}\r\n");
    let mut data = exchange(address, request).await.json()["data"].as_array().unwrap().clone();
    for limit in &mut data {
        limit.as_object_mut().unwrap().remove("full_after_seconds");
    }
    data
}

/// A gateway with a pool that the test answers for.
async fn behind(quotas: &[String]) -> (Upstream, Running) {
    let upstream = Upstream::bind().await;
    let mut harness = Harness::new().pool("qwen", QWEN, &[upstream.port()], None);
    for quota in quotas {
        harness = harness.with(quota);
    }
    (upstream, harness.start().await)
}

/// Reports [`ANSWER`].
async fn report_usage(pod: &mut Connection) {
    let head = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n";
    pod.write(format!("{head}content-length: {}\r\n\r\n{ANSWER}", ANSWER.len())).await;
}

/// Sends a request for which the engine reports its usage.
async fn answered(address: SocketAddr, upstream: &Upstream, request: &str) -> Response {
    let mut client = connect(address).await;
    client.write(post_with("", request)).await;
    let mut pod = upstream.accept().await;
    pod.read_request().await;
    report_usage(&mut pod).await;
    read_response(&mut client).await
}

#[tokio::test]
async fn requests_above_a_quota_are_told_which_and_when_it_opens() {
    let (qwen, tiny) = (Pod::start(&[QWEN]).await, Pod::start(&[TINY]).await);
    let fields = format!("{}, {}", in_group("labs"), requests(1));
    let running = door(&qwen, &tiny, &keys("")).with(&quota("team", &fields)).start().await;
    let (address, labs, sales) = (running.address(), bearer(LABS), bearer(SALES));
    let first = ask(address, &labs, QWEN).await;
    assert_eq!(first.head.header("x-ratelimit-remaining-requests"), Some("0"));
    let rejected = ask(address, &labs, TINY).await;
    assert_eq!(outcome(&rejected), is(429, "quota_exceeded"));
    assert_eq!(rejected.json()["error"]["type"], "rate_limit_error");
    let seconds: u64 = rejected.head.header("retry-after").unwrap().parse().unwrap();
    assert!((1..=31 * 24 * 3600).contains(&seconds), "{seconds}");
    let text = rejected.json()["error"]["message"].as_str().unwrap().to_owned();
    let (start, end) = text.split_once("it opens at ").unwrap();
    assert_eq!(start, "the limit of 1 request per month (Quota agentgateway-system/team) is reached; ");
    assert!(end.contains("-01T00:00:00Z") && end.ends_with(&format!("try again in {seconds} s")), "{text}");
    assert_eq!(rejected.head.header("x-ratelimit-limit-requests"), Some("1"));
    // Others are not limited.
    let other = ask(address, &sales, QWEN).await;
    assert_eq!((other.status, other.head.header("x-ratelimit-limit-requests")), (200, None));
    for (result, count) in [("admitted", 1.0), ("rejected", 1.0)] {
        let metric = format!(r#"forebay_gateway_quota_requests_total{{quota="{TEAM}",result="{result}"}}"#);
        assert_eq!(running.metric(&metric).await, count, "{result}");
    }
}

#[tokio::test]
async fn tokens_and_money_are_counted_as_the_engine_reports_them() {
    let prices = format!("prices: [{{model: \"{QWEN}\", input: \"2\", cachedInput: \"1\", output: \"5\"}}]");
    let counted = limits(
        "{tokens: 10000}, {tokens: 10000, count: Input}, {tokens: 10000, count: Output}, \
         {tokens: 10000, count: UncachedInput}, {money: \"0.50\"}",
    );
    let (upstream, running) = behind(&[quota("team", &format!("{counted}, {prices}"))]).await;
    let address = running.address();
    let request = format!(r#"{{"model":"{QWEN}","max_tokens":100}}"#);
    let response = answered(address, &upstream, &request).await;
    let reserved = request.len().div_ceil(4) + 100;
    let remaining = (10_000 - reserved).to_string();
    assert_eq!(response.head.header("x-ratelimit-remaining-tokens"), Some(remaining.as_str()));
    let limit = |count: &str, remaining: u32| {
        json!({
            "object": "limit", "quota": TEAM, "counts": "tokens", "tokens": count, "amount": 10_000, "per": "month",
            "remaining": remaining,
        })
    };
    // 20 × 2, 10 × 1 and 20 × 5 millionths.
    let money = json!({
        "object": "limit", "quota": TEAM, "counts": "money", "amount": "0.50", "per": "month", "remaining": "0.49985",
    });
    assert_eq!(
        left(address, "").await,
        [
            limit("Total", 9950),
            limit("Input", 9970),
            limit("Output", 9980),
            limit("UncachedInput", 9980),
            money
        ]
    );
}

#[tokio::test]
async fn a_budget_that_is_spent_rejects_and_unpriced_models_are_not_free() {
    let (qwen, tiny) = (Pod::start(&[QWEN]).await, Pod::start(&[TINY]).await);
    let prices = format!("prices: [{{model: \"{QWEN}\", input: \"0\", output: \"1000000\"}}]");
    let fields = format!("{}, {prices}", limits("{money: \"300.00\"}"));
    let running = door(&qwen, &tiny, &keys("")).with(&quota("team", &fields)).start().await;
    let (address, labs) = (running.address(), bearer(LABS));
    // The pod reports no usage: 256 tokens are the estimate, and stay used.
    assert_eq!(ask(address, &labs, QWEN).await.status, 200);
    let rejected = ask(address, &labs, QWEN).await;
    assert_eq!(outcome(&rejected), is(429, "quota_exceeded"));
    let text = rejected.json()["error"]["message"].as_str().unwrap().to_owned();
    assert!(
        text.starts_with("the limit of 300.00 per month (Quota agentgateway-system/team) is reached"),
        "{text}"
    );
    assert_eq!(rejected.head.header("x-ratelimit-limit-requests"), None);
    let unpriced = ask(address, &labs, TINY).await;
    assert_eq!(outcome(&unpriced), is(403, "model_not_priced"));
    assert_eq!(unpriced.json()["error"]["param"], "model");
    assert_eq!(left(address, &labs).await[0]["remaining"], "44.00");
}

#[tokio::test]
async fn concurrent_requests_are_freed_when_they_end_or_their_client_leaves() {
    let (upstream, running) = behind(&[quota("team", "limits: [{concurrentRequests: 1}]")]).await;
    let address = running.address();
    for leaves in [false, true, false] {
        let mut client = connect(address).await;
        client.write(post_with("", &body(QWEN))).await;
        let mut pod = upstream.accept().await;
        pod.read_request().await;
        let rejected = ask(address, "", QWEN).await;
        assert_eq!(outcome(&rejected), is(429, "quota_exceeded"));
        assert_eq!(rejected.head.header("retry-after"), Some("1"));
        if leaves {
            drop(client);
            running.until_metric("forebay_gateway_active_requests", 0.0).await;
        } else {
            pod.respond(200, "ok").await;
            assert_eq!(read_response(&mut client).await.text(), "ok");
        }
        let limit = json!({
            "object": "limit", "quota": TEAM, "counts": "concurrent_requests", "amount": 1, "remaining": 1,
        });
        assert_eq!(left(address, "").await, [limit], "leaves: {leaves}");
    }
}

#[tokio::test]
async fn each_value_of_per_has_a_budget_of_its_own_by_key_and_by_token() {
    let (qwen, tiny) = (Pod::start(&[QWEN]).await, Pod::start(&[TINY]).await);
    let issuer = TokenKey::new("ES256", "a");
    let token = |subject: &str, groups: Value| {
        bearer(&issuer.sign(&claims(json!({ "sub": subject, "groups": groups }))))
    };
    let jwks = format!("{{inline: '{}'}}", key_set([&issuer]));
    let tokens = format!(
        "jwtAuthentication: {{mode: Permissive, providers: [{{issuer: '{ISSUER}', audiences: [models], jwks: {jwks}}}]}}"
    );
    let fields = format!("{tokens}, {}", keys(", mode: Permissive"));
    let research = r#"callers: {condition: 'jwt.groups.exists(g, g == "research")'}, per: jwt.sub"#;
    let running = door(&qwen, &tiny, &fields)
        .with(&quota("keys", &format!("callers: {{keySelector: {{}}}}, per: apiKey.name, {}", requests(1))))
        .with(&quota("research", &format!("{research}, {}", requests(2))))
        .with(&quota("rest", &format!("isDefault: true, {}", requests(1))))
        .start()
        .await;
    let address = running.address();
    let (labs, sales) = (bearer(LABS), bearer(SALES));
    let (ann, bob) = (token("ann", json!(["research"])), token("bob", json!(["x", "research"])));
    let other = token("eve", json!(["x"]));
    let asked: Vec<(&str, u16)> = vec![
        (&labs, 200),
        (&sales, 200),
        (&labs, 429),
        (&sales, 429),
        (&ann, 200),
        (&ann, 200),
        (&bob, 200),
        (&ann, 429),
        (&bob, 200),
        (&bob, 429),
        // No quota selects these: they share the default.
        (&other, 200),
        (&other, 429),
        ("", 429),
    ];
    let requests: Vec<(&str, &str)> = asked.iter().map(|(headers, _)| (*headers, QWEN)).collect();
    let expected: Vec<u16> = asked.iter().map(|(_, status)| *status).collect();
    assert_eq!(statuses(address, &requests).await, expected);
    let quota_of = |limits: Vec<Value>| limits.iter().map(|it| it["quota"].clone()).collect::<Vec<_>>();
    assert_eq!(quota_of(left(address, &labs).await), ["agentgateway-system/keys"]);
    assert_eq!(quota_of(left(address, &ann).await), ["agentgateway-system/research"]);
    assert_eq!(quota_of(left(address, "").await), ["agentgateway-system/rest"]);
}

#[tokio::test]
async fn a_quota_for_models_limits_their_aliases_by_name_and_all_of_them_by_base_model() {
    let (qwen, tiny) = (Pod::start(&[QWEN]).await, Pod::start(&[TINY]).await);
    let running = Harness::new()
        .pool("qwen", QWEN, &[qwen.port], None)
        .pool("tiny", TINY, &[tiny.port], None)
        .policy(&[(QWEN, QWEN), ("food", QWEN), ("law", QWEN), (TINY, TINY)])
        .with(&quota("alias", &format!("models: [food], {}", requests(1))))
        .with(&quota("base", &format!("models: [\"{QWEN}\"], {}", requests(3))))
        .start()
        .await;
    let asked = ["food", "food", "law", QWEN, "law", TINY, TINY].map(|model| ("", model));
    let expected = [200, 429, 200, 200, 429, 200, 200];
    assert_eq!(statuses(running.address(), &asked).await, expected);
    let listed = left(running.address(), "").await;
    assert_eq!((&listed[0]["models"], &listed[0]["remaining"]), (&json!(["food"]), &json!(0)));
    assert_eq!((&listed[1]["models"], &listed[1]["remaining"]), (&json!([QWEN]), &json!(0)));
}

#[tokio::test]
async fn a_quota_that_warns_rejects_nothing_and_says_so() {
    let (qwen, tiny) = (Pod::start(&[QWEN]).await, Pod::start(&[TINY]).await);
    let running =
        door(&qwen, &tiny, "").with(&quota("team", &format!("mode: Warn, {}", requests(1)))).start().await;
    let address = running.address();
    for warning in [None, Some(TEAM), Some(TEAM)] {
        let response = ask(address, "", QWEN).await;
        assert_eq!((response.status, response.head.header("x-forebay-quota-warning")), (200, warning));
        assert_eq!(response.head.header("x-ratelimit-limit-requests"), None, "it does not bind");
    }
    for (result, count) in [("admitted", 1.0), ("warned", 2.0)] {
        let metric = format!(r#"forebay_gateway_quota_requests_total{{quota="{TEAM}",result="{result}"}}"#);
        assert_eq!(running.metric(&metric).await, count, "{result}");
    }
    assert_eq!(left(address, "").await[0]["enforced"], false);
}

#[tokio::test]
async fn a_request_counts_in_all_quotas_and_rate_limits_or_in_none() {
    let (qwen, tiny) = (Pod::start(&[QWEN]).await, Pod::start(&[TINY]).await);
    let route = "{group: gateway.networking.k8s.io, kind: HTTPRoute, name: tiny}";
    let running = door(&qwen, &tiny, "rateLimit: {local: [{requests: 3, unit: Hours}]}")
        .with(&quota("all", &requests(9)))
        .with(&quota_of("llm-d", "tiny", route, &requests(1)))
        .with(&quota_of("llm-d", "warns", route, &format!("mode: Warn, {}", requests(9))))
        .start()
        .await;
    let address = running.address();
    let asked = [("", TINY), ("", TINY), ("", TINY), ("", QWEN), ("", QWEN), ("", QWEN)];
    // The second and third for the tiny model take nothing from the rate limit and the other quotas.
    assert_eq!(statuses(address, &asked).await, [200, 429, 429, 200, 200, 429]);
    let remaining: BTreeMap<String, Value> = left(address, "")
        .await
        .into_iter()
        .map(|it| {
            (
                it.get("quota").or(it.get("policy")).unwrap().as_str().unwrap().to_owned(),
                it["remaining"].clone(),
            )
        })
        .collect();
    let expected = [
        ("agentgateway-system/all", 6),
        ("agentgateway-system/door", 0),
        ("llm-d/tiny", 0),
        ("llm-d/warns", 8),
    ];
    assert_eq!(remaining, expected.map(|(name, left)| (name.to_owned(), json!(left))).into());
}

#[tokio::test]
async fn parallel_requests_cannot_spend_more_than_the_budget() {
    let upstream = Upstream::bind().await;
    // Each request reserves the tokens of its body, and 10. There is room for 32 of 64.
    let request = format!(r#"{{"model":"{QWEN}","max_tokens":10}}"#);
    let estimate = request.len().div_ceil(4) + 10;
    let running = Harness::new()
        .pool("qwen", QWEN, &[upstream.port()], None)
        .with(&quota("team", &limits(&format!("{{tokens: {}}}", 32 * estimate + 1))))
        .start()
        .await;
    let address = running.address();
    let mut clients = Vec::new();
    for _ in 0..64 {
        let request = request.clone();
        clients.push(tokio::spawn(async move { exchange(address, post_with("", &request)).await.status }));
    }
    // All that are admitted are in flight before any is answered.
    let mut pods = Vec::new();
    for _ in 0..32 {
        let mut pod = upstream.accept().await;
        pod.read_request().await;
        pods.push(pod);
    }
    let rejected = format!(r#"forebay_gateway_quota_requests_total{{quota="{TEAM}",result="rejected"}}"#);
    running.until_metric(&rejected, 32.0).await;
    for mut pod in pods {
        report_usage(&mut pod).await;
    }
    let mut counts = BTreeMap::new();
    for client in clients {
        *counts.entry(client.await.unwrap()).or_insert(0) += 1;
    }
    assert_eq!(counts, [(200, 32), (429, 32)].into());
    // What the engine reported above the estimates is the overrun: no request is admitted after it.
    assert_eq!(left(address, "").await[0]["remaining"], 0);
    assert_eq!(exchange(address, post_with("", &request)).await.status, 429);
}

#[tokio::test]
async fn an_invalid_quota_closes_its_target_and_its_correction_opens_no_window_again() {
    let (qwen, tiny) = (Pod::start(&[QWEN]).await, Pod::start(&[TINY]).await);
    let harness = door(&qwen, &tiny, "").with(&quota("team", &requests(1)));
    let valid = harness.manifests.clone();
    let mut running = harness.start().await;
    let address = running.address();
    assert_eq!(statuses(address, &[("", QWEN), ("", QWEN)]).await, [200, 429]);
    running.rewrite(&valid.replace("requests: 1", "requests: -1"), |_| true).await;
    let is_closed = || async { (outcome(&ask(address, "", QWEN).await).0 == 403).then_some(()) };
    until("the target to be closed", is_closed).await;
    assert_eq!(outcome(&ask(address, "", QWEN).await), is(403, "policy_not_enforced"));
    for (amount, remaining) in [(1, 0), (3, 2)] {
        running.rewrite(&valid.replace("requests: 1", &format!("requests: {amount}")), |_| true).await;
        // Asking what is left takes nothing.
        let request = "GET /forebay/v1/limits HTTP/1.1\r\nhost: models.example\r\n\r\n";
        let limit = || async {
            let response = exchange(address, request).await;
            let limit = (response.status == 200).then(|| response.json()["data"][0].clone())?;
            (limit["amount"] == amount).then_some(limit)
        };
        assert_eq!(until("the quota to be in use", limit).await["remaining"], remaining);
    }
}
