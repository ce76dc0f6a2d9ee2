//! Quotas: what is not valid, what they are attached to, and for whom they are.

use std::collections::BTreeMap;

use forebay_resources::ObjectKey;
use serde_json::{Value, json};

use super::*;

const TO_GATEWAY: &str = "{group: gateway.networking.k8s.io, kind: Gateway, name: gw}";
const TO_LISTENER: &str = "{group: gateway.networking.k8s.io, kind: Gateway, name: gw, sectionName: http}";
const TO_ROUTE: &str = "{group: gateway.networking.k8s.io, kind: HTTPRoute, name: r}";
const TO_POOL: &str = "{group: inference.networking.k8s.io, kind: InferencePool, name: q}";
const LIMITS: &str = "limits: [{requests: 1, window: Day}]";

fn quota(namespace: &str, name: &str, target: &str, fields: &str) -> String {
    format!(
        "\n---\napiVersion: forebay.dev/v1alpha1\nkind: Quota\n\
         metadata: {{name: {name}, namespace: {namespace}}}\nspec: {{targetRefs: [{target}], {fields}}}\n"
    )
}

/// Two paths: `/one` to the pool `p`, `/two` to `q`.
fn manifests(quotas: &[String]) -> String {
    let rules = format!(
        "rules: [{{matches: [{{path: {{value: /one}}}}], {}}}, {{matches: [{{path: {{value: /two}}}}], {}}}]",
        to("p"),
        to("q")
    );
    gateway(OPEN) + &pools(&["p", "q"]) + &route("r", &rules) + &quotas.concat()
}

/// Whether the listener is closed, and which paths are.
fn closed(table: &RouteTable) -> (bool, Vec<&'static str>) {
    let listener = of_port(table).listener("x").unwrap();
    let is_closed = |path: &&str| {
        listener.route("x", &head("POST", path, &[])).is_some_and(|matched| matched.rule.closed_by.is_some())
    };
    (listener.closed_by().is_some(), ["/one", "/two"].into_iter().filter(is_closed).collect())
}

/// The condition at the Gateway.
fn accepted(report: &Report, namespace: &str, name: &str) -> (bool, String) {
    let status = report.quotas[&ObjectKey::new(namespace, name)][&ObjectKey::new("infra", "gw")].accepted();
    (status.is_true, status.message)
}

/// Name and value of the quotas for a caller with this API key metadata, at a path.
fn applied(table: &RouteTable, path: &str, metadata: Option<Value>, models: &[&str]) -> Vec<String> {
    let listener = of_port(table).listener("x").unwrap();
    let rule = listener.route("x", &head("POST", path, &[])).unwrap().rule;
    let key = metadata.map(|metadata| {
        let variable = table::Document::new(&metadata);
        Arc::new(ApiKey { name: "key".into(), variable, expires_at: None })
    });
    let identity = Identity { key: key.as_ref(), jwt: None, certificate: None };
    let variables = Variables::new(None, "10.0.0.1", &identity, ModelNames::default());
    let applied = listener.quotas(Some(rule)).applied(QuotaModels::Request(models), &variables);
    applied
        .iter()
        .map(|it| match &it.value {
            Some(value) => format!("{}={value}", it.quota.key.name),
            None => it.quota.key.name.clone(),
        })
        .collect()
}

/// Whether the quota selects at least one key, as its status says.
fn selects_a_key(report: &Report, namespace: &str) -> bool {
    !report.quota_facts[&ObjectKey::new(namespace, "q")].selects_no_key
}

#[tokio::test]
async fn a_selector_that_selects_no_key_is_reported() {
    // Keys of a team, which a policy of the same namespace accepts.
    let keys = |namespace: &str, target: &str, team: &str| {
        format!(
            "\n---\napiVersion: v1\nkind: Secret\nmetadata: {{name: keys, namespace: {namespace}}}\n\
             stringData: {{a: '{{\"key\": \"k-{team}\", \"metadata\": {{\"team\": \"{team}\"}}}}'}}\n\
             ---\napiVersion: agentgateway.dev/v1alpha1\nkind: AgentgatewayPolicy\n\
             metadata: {{name: keys, namespace: {namespace}}}\n\
             spec: {{targetRefs: [{target}], traffic: {{apiKeyAuthentication: {{secretRef: {{name: keys}}}}}}}}\n"
        )
    };
    let at_gateway = keys("infra", TO_GATEWAY, "a");
    let at_both = at_gateway.clone() + &keys("models", TO_ROUTE, "b");
    for (policies, (namespace, target), team, expected) in [
        (&at_gateway, ("infra", TO_GATEWAY), "a", true),
        (&at_gateway, ("infra", TO_GATEWAY), "b", false),
        (&at_both, ("infra", TO_GATEWAY), "b", true),
        (&at_both, ("models", TO_ROUTE), "b", true),
        (&at_both, ("models", TO_ROUTE), "a", false),
        (&at_gateway, ("models", TO_ROUTE), "a", true),
        // No key is asked for at all.
        (&String::new(), ("infra", TO_GATEWAY), "a", false),
    ] {
        let callers = format!("{LIMITS}, callers: {{keySelector: {{matchLabels: {{team: {team}}}}}}}");
        let quota = quota(namespace, "q", target, &callers);
        let (_, report) = compiled(&(manifests(&[quota]) + policies)).await;
        assert_eq!(selects_a_key(&report, namespace), expected, "{team} at {target} with {policies}");
    }
    let (_, report) = compiled(&manifests(&[quota("infra", "q", TO_GATEWAY, LIMITS)])).await;
    assert!(selects_a_key(&report, "infra"), "it is for all callers");
}

#[tokio::test]
async fn targets_that_do_not_exist_are_reported() {
    let gone = TO_GATEWAY.replace("name: gw", "name: gone");
    let (no_listener, no_route) =
        (TO_LISTENER.replace("http}", "other}"), TO_ROUTE.replace("name: r", "name: gone"));
    let targets = [TO_GATEWAY, TO_LISTENER, &gone, &no_listener, &no_route].join(", ");
    let (_, report) = compiled(&manifests(&[quota("infra", "q", &targets, LIMITS)])).await;
    let missing: Vec<String> = report.missing_targets[&ObjectKey::new("infra", "q")]
        .iter()
        .map(|it| format!("{} {} {}", it.kind, it.key, it.listener.as_deref().unwrap_or("-")))
        .collect();
    assert_eq!(missing, ["Gateway infra/gone -", "Gateway infra/gw other", "HTTPRoute infra/gone -"]);
    assert!(accepted(&report, "infra", "q").0);
}

#[tokio::test]
async fn an_invalid_quota_closes_its_target_and_says_which_field() {
    let limit = |limit: &str| format!("limits: [{{requests: 1, window: Day}}, {limit}]");
    let with = |fields: &str| format!("{LIMITS}, {fields}");
    let priced = |prices: &str| format!("limits: [{{money: '1', window: Day}}], prices: [{prices}]");
    let many = |field: &str, item: &str, count: usize| format!("{field}: [{}]", vec![item; count].join(", "));
    for (fields, expected) in [
        (String::new(), "missing field `limits`"),
        ("limits: []".into(), "limits has 0 entries, not 1 to 16"),
        (many("limits", "{requests: 1, window: Day}", 17), "limits has 17 entries, not 1 to 16"),
        ("limits: 7".into(), "limits: invalid type"),
        (with("later: true"), "later: unknown field `later`"),
        (with("mode: Audit"), "mode: unknown variant `Audit`"),
        (limit("{window: Day}"), "limits[1]: exactly one of requests, tokens, concurrentRequests and money"),
        (limit("{requests: 1, tokens: 1, window: Day}"), "limits[1]: exactly one of"),
        (limit("{requests: 1}"), "limits[1].window: must be set"),
        (limit("{requests: 1, window: Week}"), "limits[1].window: unknown variant `Week`"),
        (limit("{requests: 0, window: Day}"), "limits[1].requests: must be 1 to 1000000000000"),
        (limit("{tokens: -1, window: Day}"), "limits[1].tokens: must be 1 to"),
        (limit("{requests: 1, count: Input, window: Day}"), "limits[1].count: is for tokens only"),
        (limit("{concurrentRequests: 1, window: Day}"), "limits[1].window: must not be set"),
        (limit("{concurrentRequests: 0}"), "limits[1].concurrentRequests: must be 1 to 1000000"),
        (limit("{money: '1.00', window: Day}"), "prices: a limit of money needs prices"),
        (limit("{money: '1e3', window: Day}"), "limits[1].money: \"1e3\" is not an amount"),
        (limit("{money: 25, window: Day}"), "limits[1].money: invalid type"),
        (limit("{money: '0.00', window: Day}"), "limits[1].money: must be more than 0"),
        (priced("{model: a, input: '-1', output: '1'}"), "prices[0].input: \"-1\" is not an amount"),
        (priced("{model: a, input: '1'}"), "prices[0]: missing field `output`"),
        (priced("{model: '', input: '1', output: '1'}"), "prices[0].model: is empty"),
        (
            priced("{model: a, input: '1', output: '1'}, {model: a, input: '1', output: '1'}"),
            "prices[1].model: \"a\" has a price already",
        ),
        (with("callers: {}"), "callers: exactly one of keySelector and condition"),
        (with("callers: {condition: 'true', keySelector: {}}"), "callers: exactly one of"),
        (with("callers: {condition: 'jwt.'}"), "callers.condition: "),
        (
            with("callers: {keySelector: {matchExpressions: [{key: a, operator: In}]}}"),
            "callers.keySelector.matchExpressions[0].values: must be set for In and NotIn",
        ),
        (
            with("callers: {keySelector: {matchExpressions: [{key: a, operator: Like, values: [b]}]}}"),
            "callers.keySelector.matchExpressions[0].operator: unknown variant",
        ),
        (with("per: 'apiKey.'"), "per: "),
        (with(&format!("per: '{}'", "x".repeat(4097))), "per is longer than 4096 bytes"),
        (with(&many("models", "m", 65)), "models has 65 entries, not 0 to 64"),
        (with("models: ['']"), "models[0]: is empty"),
    ] {
        let (table, report) = compiled(&manifests(&[quota("infra", "a", TO_GATEWAY, &fields)])).await;
        let (is_accepted, message) = accepted(&report, "infra", "a");
        assert!(!is_accepted && message.starts_with(expected), "{fields}: {message}");
        assert!(
            message.ends_with("; what the quota targets is closed: requests get status 403"),
            "{message}"
        );
        assert_eq!(closed(&table), (true, vec![]), "{fields}");
        assert!(table.problems.contains(&format!("Quota infra/a: {message}")), "{:?}", table.problems);
        assert!(table.quotas.is_empty());
    }
}

#[tokio::test]
async fn only_what_an_invalid_quota_targets_is_closed() {
    let bad = "limits: []";
    let section = TO_ROUTE.replace("name: r", "name: r, sectionName: one");
    for (name, namespace, target, listener, paths) in [
        ("a Gateway", "infra", TO_GATEWAY, true, vec![]),
        ("a listener", "infra", TO_LISTENER, true, vec![]),
        ("another listener", "infra", &TO_LISTENER.replace(": http", ": other"), false, vec![]),
        ("another namespace", "models", TO_GATEWAY, false, vec![]),
        ("a route", "models", TO_ROUTE, false, vec!["/one", "/two"]),
        ("a rule, which is not supported", "models", &section, false, vec!["/one", "/two"]),
        ("a pool, which is not supported", "models", TO_POOL, false, vec!["/two"]),
        ("no group", "infra", "{kind: Gateway, name: gw}", true, vec![]),
    ] {
        let (table, _) = compiled(&manifests(&[quota(namespace, "a", target, bad)])).await;
        assert_eq!(closed(&table), (listener, paths), "{name}");
    }
    // Valid but for the target.
    let (table, report) = compiled(&manifests(&[quota("models", "a", TO_POOL, LIMITS)])).await;
    assert_eq!(closed(&table), (false, vec!["/two"]));
    let (_, message) = accepted(&report, "models", "a");
    assert!(message.starts_with("targetRefs[0]: the kind InferencePool of the group"), "{message}");
}

#[tokio::test]
async fn all_quotas_of_the_listener_and_the_route_apply_once() {
    let quotas = [
        quota("infra", "gateway", TO_GATEWAY, LIMITS),
        quota("infra", "listener", TO_LISTENER, LIMITS),
        quota("infra", "elsewhere", &TO_LISTENER.replace(": http", ": other"), LIMITS),
        quota("models", "route", TO_ROUTE, LIMITS),
        quota("models", "twice", &format!("{TO_ROUTE}, {TO_ROUTE}"), LIMITS),
    ];
    let (table, report) = compiled(&manifests(&quotas)).await;
    assert_eq!(applied(&table, "/one", None, &[]), ["gateway", "listener", "route", "twice"]);
    assert_eq!(table.problems.len(), 0, "{:?}", table.problems);
    let indexes: BTreeMap<_, _> = table.quotas.iter().map(|it| (it.index, it.key.name.as_str())).collect();
    assert_eq!(
        indexes.values().collect::<Vec<_>>(),
        [&"elsewhere", &"gateway", &"listener", &"route", &"twice"]
    );
    assert!(table.quotas.iter().enumerate().all(|(at, it)| at == it.index));
    assert_eq!(accepted(&report, "models", "route"), (true, String::new()));
    assert!(!report.quotas.contains_key(&ObjectKey::new("infra", "elsewhere")));
    // One that targets both is counted once.
    let both = manifests(&[quota("infra", "both", &format!("{TO_GATEWAY}, {TO_ROUTE}"), LIMITS)]);
    let (table, _) = compiled(&both.replace("infra", "models")).await;
    let listener = of_port(&table).listener("x").unwrap();
    assert!(listener.route("x", &head("POST", "/one", &[])).unwrap().rule.quotas.is_some());
    assert_eq!(applied(&table, "/one", None, &[]), ["both"]);
}

#[tokio::test]
async fn a_default_is_for_callers_that_no_other_quota_selects() {
    let with = |more: &str| format!("{LIMITS}, {more}");
    let labs = r#"callers: {keySelector: {matchLabels: {group: labs}}}"#;
    let paid = r#"callers: {condition: "apiKey.tier >= 2"}"#;
    let quotas = [
        quota("infra", "all", TO_GATEWAY, LIMITS),
        quota("infra", "labs", TO_GATEWAY, &with(labs)),
        quota("infra", "paid", TO_GATEWAY, &with(&format!("{paid}, models: [m]"))),
        quota("infra", "rest", TO_GATEWAY, &with("isDefault: true, per: apiKey.name")),
        quota("models", "route", TO_ROUTE, &with("isDefault: true")),
    ];
    let (table, _) = compiled(&manifests(&quotas)).await;
    for (metadata, models, expected) in [
        (None, &["m"][..], vec!["all", "rest", "route"]),
        (Some(json!({ "name": "ann" })), &["m"], vec!["all", "rest=ann", "route"]),
        (Some(json!({ "name": 7 })), &["m"], vec!["all", "rest", "route"]),
        (Some(json!({ "group": "labs" })), &["m"], vec!["all", "labs", "route"]),
        (Some(json!({ "group": "labs", "tier": 2 })), &["m"], vec!["all", "labs", "paid", "route"]),
        (Some(json!({ "tier": 2 })), &["alias", "m"], vec!["all", "paid", "route"]),
        // The quota for other models has the caller, so the default has not.
        (Some(json!({ "tier": 2 })), &["n"], vec!["all", "route"]),
        (Some(json!({ "tier": 1 })), &[], vec!["all", "rest", "route"]),
    ] {
        assert_eq!(applied(&table, "/two", metadata.clone(), models), expected, "{metadata:?} {models:?}");
    }
}
