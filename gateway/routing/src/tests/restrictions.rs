//! AgentgatewayPolicies with fields that are not supported.

use super::*;
use crate::reason;

/// `target`: `targetRefs` or `targetSelectors` with a value.
fn policy(namespace: &str, target: &str, rest: &str) -> String {
    format!(
        r#"
---
apiVersion: agentgateway.dev/v1alpha1
kind: AgentgatewayPolicy
metadata: {{name: keys, namespace: {namespace}}}
spec: {{{target}, {rest}}}
"#
    )
}

const TO_GATEWAY: &str = "targetRefs: [{group: gateway.networking.k8s.io, kind: Gateway, name: gw}]";
const JWT: &str = "traffic: {jwtAuthentication: {mode: Strict}}";
const KEYS: &str = "traffic: {apiKeyAuthentication: {mode: Strict, secretRef: {name: keys}}}";

fn manifests(policy: &str) -> String {
    let rules = format!(
        "rules: [{{name: one, {}}}, {{name: two, matches: [{{path: {{value: /two}}}}], {}}}]",
        to("p"),
        to("q")
    );
    gateway(OPEN).replace("name: gw,", "name: gw, labels: {team: a},")
        + &pools(&["p", "q"])
        + &route("r", &rules)
        + policy
}

/// Whether the listener is closed, and the paths whose rule is.
async fn closed(policy: &str) -> (bool, Vec<&'static str>, RouteTable, Report) {
    let (table, report) = compiled(&manifests(policy)).await;
    let listener = of_port(&table).listener("x").unwrap();
    let is_closed =
        |path: &&str| listener.route("x", &head("POST", path, &[])).unwrap().rule.closed_by.is_some();
    let paths = ["/one", "/two"].into_iter().filter(|path| is_closed(path)).collect();
    (listener.closed_by().is_some(), paths, table, report)
}

#[tokio::test]
async fn what_restricts_and_is_not_enforced_closes() {
    let to_pool = "targetRefs: [{group: inference.networking.k8s.io, kind: InferencePool, name: q}]";
    let to_route = "targetRefs: [{group: gateway.networking.k8s.io, kind: HTTPRoute, name: r}]";
    let to_rule = to_route.replace("name: r}", "name: r, sectionName: two}");
    let by_labels =
        "targetSelectors: [{group: gateway.networking.k8s.io, kind: Gateway, matchLabels: {team: a}}]";
    for (name, policy, listener, paths) in [
        ("a Gateway", policy("infra", TO_GATEWAY, JWT), true, vec![]),
        (
            "its listener",
            policy("infra", &TO_GATEWAY.replace("gw}", "gw, sectionName: http}"), JWT),
            true,
            vec![],
        ),
        (
            "another listener",
            policy("infra", &TO_GATEWAY.replace("gw}", "gw, sectionName: x}"), JWT),
            false,
            vec![],
        ),
        ("another namespace", policy("models", TO_GATEWAY, JWT), false, vec![]),
        ("a Gateway by labels", policy("infra", by_labels, JWT), true, vec![]),
        ("other labels", policy("infra", &by_labels.replace("team: a", "team: b"), JWT), false, vec![]),
        ("a route", policy("models", to_route, JWT), false, vec!["/one", "/two"]),
        ("a rule", policy("models", &to_rule, JWT), false, vec!["/two"]),
        // What is not valid must not open what the policy would protect.
        (
            "an unknown phase",
            policy("infra", TO_GATEWAY, &KEYS.replace("{api", "{phase: Later, api")),
            true,
            vec![],
        ),
        (
            "an odd field",
            policy("infra", TO_GATEWAY, &KEYS.replace("{api", "{transformation: 7, api")),
            true,
            vec![],
        ),
        ("odd fields", policy("infra", TO_GATEWAY, "traffic: [apiKeyAuthentication]"), true, vec![]),
        (
            "a target without a group",
            policy("infra", &TO_GATEWAY.replace("group: gateway.networking.k8s.io, ", ""), JWT),
            true,
            vec![],
        ),
        ("a pool", policy("models", to_pool, JWT), false, vec!["/two"]),
        ("a pool, with keys", policy("models", to_pool, KEYS), false, vec!["/two"]),
        (
            "a route, before routing",
            policy("models", to_route, &KEYS.replace("{api", "{phase: PreRouting, api")),
            false,
            vec!["/one", "/two"],
        ),
        ("an empty field", policy("infra", TO_GATEWAY, "traffic: {jwtAuthentication: null}"), false, vec![]),
    ] {
        let (is_closed, closed_paths, table, report) = closed(&policy).await;
        assert_eq!((is_closed, closed_paths), (listener, paths.clone()), "{name}");
        if listener || !paths.is_empty() {
            let problem = table.problems.iter().find(|it| it.starts_with("AgentgatewayPolicy ")).unwrap();
            let status = report.policies.values().next().unwrap()
                [&forebay_resources::ObjectKey::new("infra", "gw")]
                .accepted();
            assert_eq!((status.is_true, status.reason), (false, reason::INVALID), "{name}");
            let (_, what) = problem.split_once(": ").unwrap();
            assert!(status.message.contains(what), "{name}: {problem}");
        }
    }
}

#[tokio::test]
async fn a_mirror_to_a_closed_pool_is_closed_and_reported() {
    let to_q = "targetRefs: [{group: inference.networking.k8s.io, kind: InferencePool, name: q}]";
    let mirror = "filters: [{type: RequestMirror, requestMirror: {backendRef: {group: inference.networking.k8s.io, kind: InferencePool, name: q}}}]";
    let of_rule = format!("rules: [{{{mirror}, {}}}]", to("p"));
    let of_backend =
        format!("rules: [{{{}}}]", to("p").replace("namespace: models}", &format!("{mirror}}}")));
    for (rules, is_of_rule) in [(of_rule, true), (of_backend, false)] {
        for (field, is_closed) in [(KEYS, true), ("traffic: {cors: {}}", false)] {
            let manifests =
                gateway(OPEN) + &pools(&["p", "q"]) + &route("r", &rules) + &policy("models", to_q, field);
            let (table, report) = compiled(&manifests).await;
            let matched = of_port(&table).listener("x").unwrap().route("x", &head("POST", "/", &[])).unwrap();
            assert_eq!(matched.rule.closed_by, None, "{rules}");
            let backend = matched.rule.backends.choose();
            let filters = if is_of_rule { &matched.rule.filters } else { &backend.filters };
            let reason = filters.as_ref().unwrap().mirrors[0].closed_by.as_deref();
            let expected = "AgentgatewayPolicy models/keys: traffic.apiKeyAuthentication";
            assert_eq!(reason, is_closed.then_some(expected), "{rules}");
            let gw = forebay_resources::ObjectKey::new("infra", "gw");
            let status =
                report.policies[&forebay_resources::ObjectKey::new("models", "keys")][&gw].accepted();
            let not_sent = "copies of the requests of HTTPRoute models/r rule 0 (RequestMirror) are not sent";
            assert_eq!(status.message.contains(not_sent), is_closed, "{}", status.message);
            assert!(!status.is_true, "{field}");
            let in_table = table.problems.iter().any(|it| it.contains(not_sent));
            assert_eq!(in_table, is_closed, "{:?}", table.problems);
        }
    }
}

/// Every field of `agentgateway.dev/v1alpha1`, and fields that later versions may add.
#[tokio::test]
async fn each_field_either_closes_or_is_reported_without_effect() {
    for (closes, field) in [
        (true, "traffic: {jwtAuthentication: {mode: Strict}}"),
        (true, "traffic: {basicAuthentication: {mode: Strict}}"),
        (true, "traffic: {authorization: {action: Deny}}"),
        (true, "traffic: {rateLimit: {local: []}}"),
        (true, "traffic: {extAuth: {}}"),
        (true, "traffic: {extProc: {}}"),
        (true, "traffic: {csrf: {}}"),
        (true, "traffic: {directResponse: {status: 403}}"),
        (true, "traffic: {somethingNew: {}}"),
        (true, "frontend: {networkAuthorization: {}}"),
        (true, "frontend: {somethingNew: {}}"),
        (true, "backend: {extAuth: {}}"),
        (true, "backend: {mcp: {}}"),
        (true, "backend: {ai: {promptGuard: {}}}"),
        (false, "traffic: {cors: {}}"),
        (false, "traffic: {timeouts: {request: 1s}}"),
        (false, "traffic: {retry: {}}"),
        (false, "traffic: {buffer: {}}"),
        (false, "frontend: {accessLog: {}}"),
        (false, "backend: {ai: {defaults: []}}"),
        (false, "backend: {auth: {}}"),
    ] {
        let (is_closed, _, table, _) = closed(&policy("infra", TO_GATEWAY, field)).await;
        assert_eq!(is_closed, closes, "{field}");
        let what = if closes { "status 403" } else { "has no effect" };
        let reported = table
            .problems
            .iter()
            .any(|problem| problem.starts_with("AgentgatewayPolicy infra/keys: ") && problem.contains(what));
        assert!(reported, "{field}: {:?}", table.problems);
    }
    let supported = r#"traffic: {phase: PreRouting, transformation: {request: {set: [{name: X-Gateway-Base-Model-Name, value: '{"m": "p"}[json(request.body).model]'}]}}}"#;
    let (is_closed, _, table, report) = closed(&policy("infra", TO_GATEWAY, supported)).await;
    assert_eq!((is_closed, table.problems.len()), (false, 0), "{:?}", table.problems);
    assert!(report.policies.values().flat_map(|it| it.values()).all(|it| it.problems.is_empty()));
}

#[tokio::test]
async fn fields_without_effect_on_routes_and_backends_are_reported() {
    let gw = forebay_resources::ObjectKey::new("infra", "gw");
    let to_pool = "targetRefs: [{group: inference.networking.k8s.io, kind: InferencePool, name: q}]";
    let to_route = "targetRefs: [{group: gateway.networking.k8s.io, kind: HTTPRoute, name: r}]";
    let transformation =
        r#"traffic: {phase: PreRouting, transformation: {request: {set: [{name: x, value: '"y"'}]}}}"#;
    for (target, field, what) in [
        (
            to_pool,
            "traffic: {timeouts: {request: 1s}}",
            "traffic.timeouts is not supported and has no effect",
        ),
        (
            to_route,
            "traffic: {headerModifiers: {}}",
            "traffic.headerModifiers is not supported and has no effect",
        ),
        (to_route, transformation, "traffic.transformation is supported on Gateways only"),
    ] {
        let (is_closed, closed, table, report) = closed(&policy("models", target, field)).await;
        assert_eq!((is_closed, closed), (false, vec![]), "{field}");
        let of_policy = &report.policies[&forebay_resources::ObjectKey::new("models", "keys")][&gw];
        assert_eq!(of_policy.problems[0].effect, PolicyEffect::Ignored, "{field}");
        assert!(of_policy.accepted().message.contains(what), "{field}: {of_policy:?}");
        assert!(table.problems.iter().any(|it| it.contains(what)), "{field}: {:?}", table.problems);
    }
    // The status names every field, also when one of them closes.
    let both = "traffic: {jwtAuthentication: {mode: Strict}, cors: {}}";
    let (_, closed, _, report) = closed(&policy("models", to_pool, both)).await;
    assert_eq!(closed, ["/two"]);
    let status = report.policies[&forebay_resources::ObjectKey::new("models", "keys")][&gw].accepted();
    let named = ["jwtAuthentication", "cors"].iter().all(|field| status.message.contains(field));
    assert!(named, "{}", status.message);
}
