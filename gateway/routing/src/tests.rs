mod access;
mod client_certificates;
mod pools;
mod quotas;
mod report;
mod restrictions;
mod rewrites;
mod settle;
mod trust;

use std::sync::Arc;

use forebay_resources::{Snapshot, Store, folder};
use http::{Request, request};

use super::*;

/// Lets routes of the Gateway's namespace refer to the pool.
const GRANT: &str = r#"
---
apiVersion: gateway.networking.k8s.io/v1beta1
kind: ReferenceGrant
metadata: {name: g, namespace: models}
spec:
  from: [{group: gateway.networking.k8s.io, kind: HTTPRoute, namespace: infra}]
  to: [{group: inference.networking.k8s.io, kind: InferencePool, name: p}]
"#;

/// The objects of `manifests`, read by the folder provider.
async fn snapshot(manifests: &str) -> Arc<Snapshot> {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("manifests.yaml"), manifests).unwrap();
    let store = Store::new();
    let _provider = folder::start(folder.path(), store.clone()).await.unwrap();
    let snapshot = store.snapshot();
    assert_eq!(snapshot.problems, []);
    snapshot
}

async fn compiled(manifests: &str) -> (RouteTable, Report) {
    let snapshot = snapshot(manifests).await;
    let mut certificates = Certificates::default();
    compile(&snapshot, "forebay", PortSharing::Shared, &mut certificates)
}

/// The listeners of port 80.
fn of_port(table: &RouteTable) -> &PortRoutes {
    &table.ports[&ListenerPort { port: 80, gateway: None }]
}

async fn table(manifests: &str) -> RouteTable {
    compiled(manifests).await.0
}

fn gateway(listeners: &str) -> String {
    format!(
        r#"
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {{name: gw, namespace: infra}}
spec: {{gatewayClassName: forebay, listeners: [{listeners}]}}
"#
    )
}

const OPEN: &str = "{name: http, protocol: HTTP, port: 80, allowedRoutes: {namespaces: {from: All}}}";

fn pools(names: &[&str]) -> String {
    names
        .iter()
        .map(|name| {
            format!(
                r#"
---
apiVersion: inference.networking.k8s.io/v1
kind: InferencePool
metadata: {{name: {name}, namespace: models}}
spec: {{selector: {{matchLabels: {{app: {name}}}}}, targetPorts: [{{number: 8000}}]}}
"#
            )
        })
        .collect()
}

/// An HTTPRoute in namespace `models`, with `spec` after its parentRef.
fn route(name: &str, spec: &str) -> String {
    route_in("models", name, spec)
}

fn route_in(namespace: &str, name: &str, spec: &str) -> String {
    format!(
        r#"
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{name: {name}, namespace: {namespace}}}
spec: {{parentRefs: [{{name: gw, namespace: infra}}], {spec}}}
"#
    )
}

fn to(pool: &str) -> String {
    format!(
        "backendRefs: [{{group: inference.networking.k8s.io, kind: InferencePool, name: {pool}, namespace: models}}]"
    )
}

fn head(method: &str, path: &str, headers: &[(&str, &str)]) -> request::Parts {
    let mut request = Request::builder().method(method).uri(path);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(()).unwrap().into_parts().0
}

/// The pool's label, or why no pool serves the request.
fn routed(table: &RouteTable, host: &str, head: &request::Parts) -> String {
    let listener = of_port(table).listener(host);
    match listener
        .and_then(|listener| listener.route(host, head))
        .map(|it| &it.rule.backends.choose().backend)
    {
        Some(Backend::Invalid(why)) => (*why).to_owned(),
        Some(backend) => backend.label().unwrap().to_string(),
        None => "no route".to_owned(),
    }
}

#[tokio::test]
async fn matches_rules_by_specified_precedence() {
    let names = ["all", "prefix", "longer", "exact", "method", "header", "headers", "host", "wildcard"];
    let rule = |matches: &str, pool| format!("rules: [{{matches: [{matches}], {}}}]", to(pool));
    let manifests = [
        gateway(OPEN),
        pools(&names),
        route("a-all", &format!("rules: [{{{}}}]", to("all"))),
        route("b-prefix", &rule("{path: {type: PathPrefix, value: /v1}}", "prefix")),
        route("c-longer", &rule("{path: {value: /v1/chat/}}", "longer")),
        route("d-exact", &rule("{path: {type: Exact, value: /v1/chat/completions}}", "exact")),
        route("e-method", &rule("{path: {value: /v1}, method: DELETE}", "method")),
        route("f-header", &rule("{path: {value: /v1}, headers: [{name: X-A, value: a}]}", "header")),
        route(
            "g-headers",
            &rule("{path: {value: /v1}, headers: [{name: x-a, value: a}, {name: x-b, value: b}]}", "headers"),
        ),
        route("h-host", &format!("hostnames: [a.example.com], rules: [{{{}}}]", to("host"))),
        route("i-wildcard", &format!("hostnames: ['*.example.com'], rules: [{{{}}}]", to("wildcard"))),
    ]
    .concat();
    let table = table(&manifests).await;
    assert!(table.problems.is_empty(), "{:?}", table.problems);
    for (host, request, expected) in [
        ("x", head("GET", "/", &[]), "all"),
        ("x", head("GET", "/v12", &[]), "all"),
        ("x", head("GET", "/v1", &[]), "prefix"),
        ("x", head("GET", "/v1/models", &[]), "prefix"),
        ("x", head("POST", "/v1/chat", &[]), "longer"),
        ("x", head("POST", "/v1/chat/x", &[("x-a", "a")]), "longer"),
        ("x", head("POST", "/v1/chat/completions", &[]), "exact"),
        ("x", head("DELETE", "/v1/x", &[("x-a", "a")]), "method"),
        ("x", head("GET", "/v1/x", &[("x-a", "a")]), "header"),
        ("x", head("GET", "/v1/x", &[("x-a", "A")]), "prefix"),
        ("x", head("GET", "/v1/x", &[("x-a", "a"), ("x-b", "b")]), "headers"),
        ("a.example.com", head("POST", "/v1/chat/completions", &[]), "host"),
        ("b.example.com", head("POST", "/v1/chat/completions", &[]), "wildcard"),
    ] {
        assert_eq!(routed(&table, host, &request), format!("models/{expected}"), "{host} {request:?}");
    }
}

#[tokio::test]
async fn breaks_ties_by_creation_time_then_name() {
    let rules = |pool| format!("rules: [{{{}}}]", to(pool));
    let aged = |name: &str, time: &str, pool| {
        route(name, &rules(pool)).replace(
            "namespace: models}\nspec",
            &format!("namespace: models, creationTimestamp: '{time}'}}\nspec"),
        )
    };
    let manifests =
        [gateway(OPEN), pools(&["one", "two"]), route("b", &rules("two")), route("a", &rules("one"))]
            .concat();
    assert_eq!(routed(&table(&manifests).await, "x", &head("GET", "/", &[])), "models/one");
    let manifests = [
        gateway(OPEN),
        pools(&["one", "two"]),
        aged("a", "2026-02-01T00:00:00Z", "one"),
        aged("b", "2026-01-01T00:00:00Z", "two"),
    ]
    .concat();
    assert_eq!(routed(&table(&manifests).await, "x", &head("GET", "/", &[])), "models/two");
}

#[tokio::test]
async fn anchors_regular_expressions() {
    let rule = |matches: &str, pool| format!("rules: [{{matches: [{matches}], {}}}]", to(pool));
    let manifests = [
        gateway(OPEN),
        pools(&["path", "header", "query", "query-regex", "exact", "prefix"]),
        route("a", &rule("{path: {type: RegularExpression, value: '/v[0-9]+/chat'}}", "path")),
        route("b", &rule("{headers: [{type: RegularExpression, name: x-a, value: 'a+'}]}", "header")),
        route("c", &rule("{queryParams: [{name: q, value: a b}]}", "query")),
        route("d", &rule("{queryParams: [{type: RegularExpression, name: q, value: 'x.*'}]}", "query-regex")),
        route("e", &rule("{path: {type: Exact, value: /v1/chat}}", "exact")),
        route("f", &rule("{path: {value: /v2/chat}}", "prefix")),
    ]
    .concat();
    let table = table(&manifests).await;
    assert!(table.problems.is_empty(), "{:?}", table.problems);
    for (uri, headers, expected) in [
        ("/v1/chat", &[][..], "models/exact"),
        ("/v2/chat", &[], "models/path"),
        ("/v2/chat/completions", &[], "models/prefix"),
        ("/v3/chats", &[], "no route"),
        ("/", &[("x-a", "aaa")], "models/header"),
        ("/", &[("x-a", "aab")], "no route"),
        ("/?q=a+b", &[], "models/query"),
        ("/?p=1&%71=a%20b&q=x", &[], "models/query"),
        ("/?q=xyz", &[], "models/query-regex"),
        ("/?q=yx", &[], "no route"),
        ("/?q", &[], "no route"),
    ] {
        assert_eq!(routed(&table, "x", &head("GET", uri, headers)), expected, "{uri} {headers:?}");
    }
}

#[tokio::test]
async fn indexes_routes_by_any_exact_header() {
    const ROUTES: usize = 300;
    let routes: String = (0..ROUTES)
        .map(|number| {
            let name = if number % 2 == 0 { "X-Gateway-Base-Model-Name" } else { "x-tenant" };
            let matches = format!("{{headers: [{{name: {name}, value: m{number}}}]}}");
            let pool = ["a", "b", "c"][number % 3];
            route(&format!("r{number}"), &format!("rules: [{{matches: [{matches}], {}}}]", to(pool)))
        })
        .collect();
    let table = table(&[gateway(OPEN), pools(&["a", "b", "c"]), routes].concat()).await;
    for number in 0..ROUTES {
        let name = if number % 2 == 0 { "x-gateway-base-model-name" } else { "x-tenant" };
        let expected = format!("models/{}", ["a", "b", "c"][number % 3]);
        let head = head("POST", "/v1/x", &[(name, &format!("m{number}"))]);
        assert_eq!(routed(&table, "x", &head), expected, "{number}");
    }
    assert_eq!(routed(&table, "x", &head("POST", "/v1/x", &[("x-tenant", "m0")])), "no route");
}

#[tokio::test]
async fn reports_whether_route_depends_on_model() {
    let by_model = "{path: {value: /v1}, headers: [{name: X-Gateway-Base-Model-Name, value: m}]}";
    let rule = |matches: &str, pool| format!("rules: [{{matches: [{matches}], {}}}]", to(pool));
    let manifests = [
        gateway(OPEN),
        pools(&["model", "plain", "fallback"]),
        route("a", &rule(by_model, "model")),
        route("b", &rule("{path: {value: /v1/files}}", "plain")),
        route("c", &rule("{path: {value: /v1}, method: PUT}", "fallback")),
    ]
    .concat();
    let table = table(&manifests).await;
    let routes = of_port(&table).listener("x").unwrap();
    for (method, path, expected) in [
        ("POST", "/v1/chat", "DependsOnModel { without: false }"),
        ("PUT", "/v1/chat", "decided"),
        ("POST", "/v1/files/1", "decided"),
        ("POST", "/other", "NoRoute"),
    ] {
        let reported = match routes.before_body("x", &head(method, path, &[])) {
            BeforeBody::Decided(_) => "decided".to_owned(),
            other => format!("{other:?}"),
        };
        assert_eq!(reported, expected, "{method} {path}");
    }
}

#[tokio::test]
async fn attaches_only_allowed_routes() {
    let rules = format!("rules: [{{{}}}]", to("p"));
    let get = head("GET", "/", &[]);
    for (listener, routes, expected) in [
        ("{name: http, protocol: HTTP, port: 80}", route("r", &rules), "no route"),
        ("{name: http, protocol: HTTP, port: 80}", route_in("infra", "r", &rules) + GRANT, "models/p"),
        (
            "{name: http, protocol: HTTP, port: 80}",
            route_in("infra", "r", &rules),
            "no ReferenceGrant allows the route to refer to this backend",
        ),
        (
            "{name: http, protocol: HTTP, port: 80, allowedRoutes: {namespaces: {from: Selector, selector: {matchLabels: {kubernetes.io/metadata.name: infra}}}}}",
            route("r", &rules),
            "no route",
        ),
        (
            "{name: http, protocol: HTTP, port: 80, allowedRoutes: {namespaces: {from: All}, kinds: [{kind: GRPCRoute}]}}",
            route("r", &rules),
            "no route",
        ),
        (OPEN, route("r", &rules).replace("name: gw,", "name: gw, sectionName: other,"), "no route"),
        (OPEN, route("r", &rules).replace("name: gw,", "name: gw, sectionName: http,"), "models/p"),
        (OPEN, route("r", &rules).replace("name: gw,", "name: other,"), "no route"),
        (OPEN, route("r", &format!("rules: [{{{}}}]", to("missing"))), "the InferencePool does not exist"),
        (OPEN, route("r", "rules: [{backendRefs: [{name: svc, port: 80}]}]"), "the Service does not exist"),
        (OPEN, route("r", "rules: [{matches: []}]"), "the rule has no backend with a weight above 0"),
    ] {
        let table = table(&[gateway(listener), pools(&["p"]), routes.clone()].concat()).await;
        assert_eq!(routed(&table, "x", &get), expected, "{listener} {routes}");
    }
}

#[tokio::test]
async fn selects_listener_of_port_by_hostname() {
    let listeners = "{name: any, protocol: HTTP, port: 80, allowedRoutes: {namespaces: {from: All}}}, \
        {name: own, protocol: HTTP, port: 80, hostname: '*.example.com', allowedRoutes: {namespaces: {from: All}}}, \
        {name: tcp, protocol: TCP, port: 443}";
    let at = |section: &str, name: &str, pool: &str| {
        route(name, &format!("rules: [{{{}}}]", to(pool)))
            .replace("name: gw,", &format!("name: gw, sectionName: {section},"))
    };
    let manifests =
        [gateway(listeners), pools(&["any", "own"]), at("any", "a", "any"), at("own", "b", "own")].concat();
    let table = table(&manifests).await;
    let get = head("GET", "/", &[]);
    assert_eq!(routed(&table, "a.example.com", &get), "models/own");
    assert_eq!(routed(&table, "example.com", &get), "models/any");
    assert_eq!(table.ports.keys().map(|port| port.port).collect::<Vec<_>>(), [80]);
}

#[tokio::test]
async fn chooses_backends_by_weight() {
    let backends = |weights: [u32; 3]| {
        let refs: Vec<String> = ["a", "b", "c"]
            .iter()
            .zip(weights)
            .map(|(name, weight)| {
                format!("{{group: inference.networking.k8s.io, kind: InferencePool, name: {name}, weight: {weight}}}")
            })
            .collect();
        [
            gateway(OPEN),
            pools(&["a", "b", "c"]),
            route("r", &format!("rules: [{{backendRefs: [{}]}}]", refs.join(", "))),
        ]
        .concat()
    };
    let heavy = table(&backends([3, 1, 0])).await;
    let get = head("GET", "/", &[]);
    let mut counts = [0; 3];
    for _ in 0..4_000 {
        match routed(&heavy, "x", &get).as_str() {
            "models/a" => counts[0] += 1,
            "models/b" => counts[1] += 1,
            _ => counts[2] += 1,
        }
    }
    assert!((2_800..3_200).contains(&counts[0]) && counts[2] == 0, "{counts:?}");
    let none = table(&backends([0, 0, 0])).await;
    assert_eq!(routed(&none, "x", &get), "the rule has no backend with a weight above 0");
}

#[tokio::test]
async fn maps_models_by_policy_and_config_map() {
    let model = |name: &str| {
        let mut scanner = forebay_openai::ModelScanner::default();
        scanner.feed(format!(r#"{{"model":"{name}"}}"#).as_bytes()).unwrap();
        scanner.model().unwrap().clone()
    };
    let base = |table: &RouteTable, name: &str| {
        let listener = of_port(table).listener("x").unwrap();
        listener.models().headers(&model(name)).1.map(|base| base.to_str().unwrap().to_owned())
    };
    let config_map = |label: &str, name: &str, adapters: &str| {
        format!(
            r#"
---
apiVersion: v1
kind: ConfigMap
metadata: {{name: {name}, namespace: models, labels: {{{label}: "true"}}}}
data: {{baseModel: {name}, adapters: "{adapters}"}}
"#
        )
    };
    let policy = |expression: &str| {
        format!(
            r#"
---
apiVersion: agentgateway.dev/v1alpha1
kind: AgentgatewayPolicy
metadata: {{name: bbr, namespace: infra}}
spec:
  targetRefs: [{{group: gateway.networking.k8s.io, kind: Gateway, name: gw}}]
  traffic: {{phase: PreRouting, transformation: {{request: {{set: [{{name: X-Gateway-Base-Model-Name, value: '{expression}'}}]}}}}}}
"#
        )
    };
    let plain = table(&gateway(OPEN)).await;
    assert_eq!(base(&plain, "any").as_deref(), Some("any"));

    let maps = [
        gateway(OPEN),
        config_map("inference.networking.k8s.io/bbr-managed", "qwen", "- lora-a\\n- lora-b\\n"),
        config_map("inference.llm-d.ai/ipp-managed", "tiny", "- lora-b\\n- lora-c\\n"),
        config_map("unrelated", "other", "- lora-d\\n"),
    ]
    .concat();
    let mapped = table(&maps).await;
    for (name, expected) in
        [("lora-a", "qwen"), ("lora-b", "qwen"), ("lora-c", "tiny"), ("tiny", "tiny"), ("lora-d", "lora-d")]
    {
        assert_eq!(base(&mapped, name).as_deref(), Some(expected), "{name}");
    }
    assert_eq!(mapped.problems.len(), 1, "lora-b has two bases: {:?}", mapped.problems);

    let closed = table(&(maps.clone() + &policy(r#"{"m": "base"}[json(request.body).model]"#))).await;
    for (name, expected) in [("m", Some("base")), ("lora-a", Some("qwen")), ("any", None)] {
        assert_eq!(base(&closed, name).as_deref(), expected, "{name}");
    }
    let listener = of_port(&closed).listener("x").unwrap();
    assert!(listener.label("lora-a").is_some() && listener.label("any").is_none());

    // An invalid policy admits no name that is not mapped elsewhere.
    let unread = table(&(gateway(OPEN) + &policy("json(request.body).model"))).await;
    assert_eq!(base(&unread, "any"), None);
    let problem = unread.problems.first().unwrap();
    assert!(problem.contains("AgentgatewayPolicy infra/bbr") && problem.contains("character 1"), "{problem}");
}
