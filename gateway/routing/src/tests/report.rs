//! Conditions of listeners, routes and pools.

use super::*;

fn gw() -> forebay_resources::ObjectKey {
    forebay_resources::ObjectKey::new("infra", "gw")
}

#[tokio::test]
async fn reports_conditions_per_listener() {
    let listeners = "{name: http, protocol: HTTP, port: 80}, \
        {name: twice-a, protocol: HTTP, port: 81, hostname: a.example.com}, \
        {name: twice-b, protocol: HTTP, port: 81, hostname: a.example.com}, \
        {name: other, protocol: HTTP, port: 81, hostname: b.example.com}, \
        {name: tcp, protocol: TCP, port: 82}, \
        {name: grpc, protocol: HTTP, port: 83, allowedRoutes: {kinds: [{kind: GRPCRoute}]}}, \
        {name: both, protocol: HTTP, port: 84, allowedRoutes: {kinds: [{kind: HTTPRoute}, {kind: GRPCRoute}]}}";
    let (table, report) = compiled(&gateway(listeners)).await;
    let reported: Vec<_> = report.gateways[&gw()]
        .iter()
        .map(|it| {
            let open = it.port.as_ref().map(|port| port.port);
            (it.name.as_str(), it.accepted.reason, it.conflicted.reason, it.resolved_refs.reason, open)
        })
        .collect();
    assert_eq!(
        reported,
        [
            ("http", "Accepted", "NoConflicts", "ResolvedRefs", Some(80)),
            ("twice-a", "Accepted", "HostnameConflict", "ResolvedRefs", None),
            ("twice-b", "Accepted", "HostnameConflict", "ResolvedRefs", None),
            ("other", "Accepted", "NoConflicts", "ResolvedRefs", Some(81)),
            ("tcp", "UnsupportedProtocol", "NoConflicts", "ResolvedRefs", None),
            ("grpc", "Accepted", "NoConflicts", "InvalidRouteKinds", Some(83)),
            ("both", "Accepted", "NoConflicts", "InvalidRouteKinds", Some(84)),
        ]
    );
    let kinds: Vec<_> = report.gateways[&gw()].iter().map(|it| it.supported_kinds.clone()).collect();
    assert_eq!((&kinds[0], &kinds[5], &kinds[6]), (&vec!["HTTPRoute"], &vec![], &vec!["HTTPRoute"]));
    assert_eq!(kinds[4], Vec::<&str>::new(), "unsupported protocol");
    assert_eq!(table.ports.keys().map(|port| port.port).collect::<Vec<_>>(), [80, 81, 83, 84]);
}

#[tokio::test]
async fn gateways_with_own_addresses_do_not_conflict() {
    let two = gateway(OPEN) + "---" + &gateway(OPEN).replace("name: gw,", "name: other,");
    let snapshot = snapshot(&two).await;
    let mut certificates = Certificates::default();
    let (table, report) = compile(&snapshot, "forebay", PortSharing::PerGateway, &mut certificates);
    assert!(table.problems.is_empty(), "{:?}", table.problems);
    assert_eq!(table.ports.len(), 2);
    let named: Vec<_> = table.ports.keys().map(|port| port.gateway.as_ref().unwrap().name.as_str()).collect();
    assert_eq!(named, ["gw", "other"]);
    assert_eq!(report.gateways.len(), 2);

    let (table, report) = compile(&snapshot, "forebay", PortSharing::Shared, &mut certificates);
    assert_eq!(table.ports.len(), 1);
    let conflicted: Vec<bool> =
        report.gateways.values().flatten().map(|listener| listener.conflicted.is_true).collect();
    assert_eq!(conflicted, [false, true], "the first Gateway keeps the port");
}

#[tokio::test]
async fn reports_why_routes_do_not_attach() {
    let rules = format!("rules: [{{{}}}]", to("p"));
    let own = "{name: http, protocol: HTTP, port: 80, hostname: '*.example.com'}";
    let infra = |spec: &str| route_in("infra", "r", spec) + GRANT;
    for (listener, routes, accepted, resolved, attached) in [
        (OPEN, route("r", &rules), "Accepted", "ResolvedRefs", 1),
        (own, route("r", &rules), "NotAllowedByListeners", "ResolvedRefs", 0),
        (own, infra(&rules), "Accepted", "ResolvedRefs", 1),
        (
            own,
            infra(&format!("hostnames: [a.example.org], {rules}")),
            "NoMatchingListenerHostname",
            "ResolvedRefs",
            0,
        ),
        (
            own,
            infra(&format!("hostnames: [a.example.org, a.example.com], {rules}")),
            "Accepted",
            "ResolvedRefs",
            1,
        ),
        (
            OPEN,
            route("r", &rules).replace("name: gw,", "name: gw, sectionName: none,"),
            "NoMatchingParent",
            "ResolvedRefs",
            0,
        ),
        (
            OPEN,
            route("r", &rules).replace("name: gw,", "name: gw, port: 81,"),
            "NoMatchingParent",
            "ResolvedRefs",
            0,
        ),
        (OPEN, route("r", &rules).replace("name: gw,", "name: gw, port: 80,"), "Accepted", "ResolvedRefs", 1),
        (
            "{name: http, protocol: HTTP, port: 80, allowedRoutes: {namespaces: {from: All}, kinds: [{kind: GRPCRoute}]}}",
            route("r", &rules),
            "NotAllowedByListeners",
            "ResolvedRefs",
            0,
        ),
        (OPEN, route("r", &format!("rules: [{{{}}}]", to("none"))), "Accepted", "BackendNotFound", 1),
        (OPEN, route("r", "rules: [{backendRefs: [{name: s, port: 80}]}]"), "Accepted", "BackendNotFound", 1),
        (OPEN, route("r", "rules: [{backendRefs: [{kind: Pod, name: s}]}]"), "Accepted", "InvalidKind", 1),
        (
            OPEN,
            route("r", "rules: [{backendRefs: [{name: s, namespace: other, port: 80}]}]"),
            "Accepted",
            "RefNotPermitted",
            1,
        ),
        (
            OPEN,
            route(
                "r",
                &format!(
                    "rules: [{{matches: [{{path: {{type: RegularExpression, value: '('}}}}], {}}}]",
                    to("p")
                ),
            ),
            "UnsupportedValue",
            "ResolvedRefs",
            0,
        ),
    ] {
        let (_, report) = compiled(&[gateway(listener), pools(&["p"]), routes.clone()].concat()).await;
        let (_, parents) = report.routes.first_key_value().unwrap();
        let reported = (parents[0].accepted.reason, parents[0].resolved_refs.reason);
        assert_eq!(reported, (accepted, resolved), "{listener} {routes}");
        assert_eq!(report.gateways[&gw()][0].attached_routes, attached, "{listener} {routes}");
    }
}

#[tokio::test]
async fn drops_unsupported_rule_and_keeps_others() {
    let rules = format!(
        "rules: [{{matches: [{{path: {{type: RegularExpression, value: '('}}}}], {to}}}, {{{to}}}]",
        to = to("p")
    );
    let (table, report) = compiled(&[gateway(OPEN), pools(&["p"]), route("r", &rules)].concat()).await;
    assert_eq!(routed(&table, "x", &head("GET", "/", &[])), "models/p");
    let (_, parents) = report.routes.first_key_value().unwrap();
    assert!(parents[0].accepted.is_true);
    let partially = parents[0].partially_invalid.as_ref().unwrap();
    assert_eq!((partially.is_true, partially.reason), (true, "UnsupportedValue"));
    assert!(partially.message.starts_with("Dropped Rule: rule 0"), "{}", partially.message);
    assert_eq!(table.problems.len(), 1);
}

#[tokio::test]
async fn selects_namespaces_by_label() {
    let listener = |selector: &str| {
        format!(
            "{{name: http, protocol: HTTP, port: 80, allowedRoutes: {{namespaces: {{from: Selector, selector: {{{selector}}}}}}}}}"
        )
    };
    let namespace = "\n---\napiVersion: v1\nkind: Namespace\nmetadata: {name: models, labels: {team: a}}\n";
    for (selector, attaches) in [
        ("matchLabels: {team: a}", true),
        ("matchLabels: {team: b}", false),
        ("matchLabels: {kubernetes.io/metadata.name: models}", true),
        ("matchExpressions: [{key: team, operator: In, values: [a, b]}]", true),
        ("matchExpressions: [{key: team, operator: NotIn, values: [a, b]}]", false),
        ("matchExpressions: [{key: team, operator: Exists}, {key: other, operator: DoesNotExist}]", true),
        ("matchExpressions: [{key: team, operator: Unknown}]", false),
    ] {
        let route = route("r", &format!("rules: [{{{}}}]", to("p")));
        let manifests = [gateway(&listener(selector)), pools(&["p"]), route, namespace.to_owned()].concat();
        let (_, report) = compiled(&manifests).await;
        assert_eq!(report.gateways[&gw()][0].attached_routes, i32::from(attaches), "{selector}");
    }
}

#[tokio::test]
async fn reports_parents_of_pools() {
    let with_picker = pools(&["p"])
        .replace("targetPorts", "endpointPickerRef: {name: epp, port: {number: 9002}}, targetPorts");
    let rules = format!("rules: [{{{}}}]", to("p"));
    let (_, report) = compiled(&[gateway(OPEN), with_picker, route("r", &rules)].concat()).await;
    let pool = &report.pools[&forebay_resources::ObjectKey::new("models", "p")];
    assert_eq!(pool.parents[&gw()], ConditionStatus::met("Accepted"));
    assert_eq!(pool.resolved_refs.reason, "InvalidExtensionRef");

    let unmatched = route("r", &rules).replace("name: gw,", "name: gw, sectionName: none,");
    let (_, report) = compiled(&[gateway(OPEN), pools(&["p"]), unmatched].concat()).await;
    let pool = &report.pools[&forebay_resources::ObjectKey::new("models", "p")];
    assert_eq!(pool.parents[&gw()].reason, "HTTPRouteNotAccepted");
    assert!(pool.resolved_refs.is_true);
}

#[tokio::test]
async fn reports_certificate_errors() {
    let listener = |tls: &str| {
        format!("{{name: https, protocol: HTTPS, port: 443, hostname: a.example, tls: {{{tls}}}}}")
    };
    let to = |reference: &str| listener(&format!("certificateRefs: [{{{reference}}}]"));
    let grant = "\n---\napiVersion: gateway.networking.k8s.io/v1beta1\nkind: ReferenceGrant\nmetadata: {name: g, namespace: other}\n\
        spec: {from: [{group: gateway.networking.k8s.io, kind: Gateway, namespace: infra}], to: [{group: '', kind: Secret}]}\n";
    for (listener, more, accepted, resolved) in [
        (to("name: none"), "", "Accepted", "InvalidCertificateRef"),
        (listener(""), "", "Accepted", "InvalidCertificateRef"),
        (to("kind: ConfigMap, name: none"), "", "Accepted", "InvalidCertificateRef"),
        (to("group: example.com, name: none"), "", "Accepted", "InvalidCertificateRef"),
        (to("name: none, namespace: other"), "", "Accepted", "RefNotPermitted"),
        (to("name: none, namespace: other"), grant, "Accepted", "InvalidCertificateRef"),
        (listener("mode: Passthrough"), "", "UnsupportedValue", "ResolvedRefs"),
    ] {
        let (table, report) = compiled(&(gateway(&listener) + more)).await;
        let reported = &report.gateways[&gw()][0];
        assert_eq!(
            (reported.accepted.reason, reported.resolved_refs.reason),
            (accepted, resolved),
            "{listener}"
        );
        assert!(reported.port.is_none() && table.ports.is_empty(), "{listener}: opened");
    }
}

#[tokio::test]
async fn reports_rewrites_of_served_and_missing_pools() {
    let rewrite = |name: &str, pool: &str, target: &str| {
        format!(
            "\n---\napiVersion: llm-d.ai/v1alpha2\nkind: InferenceModelRewrite\nmetadata: {{name: {name}, namespace: models}}\n\
             spec: {{poolRef: {pool}, rules: [{{targets: [{{modelRewrite: base}}, {{modelRewrite: {target}}}]}}]}}\n"
        )
    };
    let manifests = [
        gateway(OPEN),
        pools(&["served", "unserved"]),
        route("r", &format!("rules: [{{{}}}]", to("served"))),
        rewrite("good", "{name: served}", "other"),
        rewrite("bad", "{name: served}", "\" x\""),
        rewrite("lost", "{name: nowhere}", "other"),
        rewrite("idle", "{name: unserved}", "other"),
        rewrite("foreign", "{name: served, group: example.com}", "other"),
    ];
    let (_, report) = compiled(&manifests.concat()).await;
    let reported: Vec<_> =
        report.rewrites.iter().map(|(key, it)| (key.name.as_str(), it.is_true, it.reason)).collect();
    let expected = [("bad", false, "Invalid"), ("good", true, "Accepted"), ("lost", false, "TargetNotFound")];
    assert_eq!(reported, expected);
}
