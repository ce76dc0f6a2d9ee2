//! Policies with API keys and authorization rules: precedence, and what is reported.

use forebay_resources::ObjectKey;
use http::{HeaderMap, HeaderValue};

use super::*;
use crate::table::Credential;

const TO_GATEWAY: &str = "{group: gateway.networking.k8s.io, kind: Gateway, name: gw}";
const TO_LISTENER: &str = "{group: gateway.networking.k8s.io, kind: Gateway, name: gw, sectionName: http}";
const TO_ROUTE: &str = "{group: gateway.networking.k8s.io, kind: HTTPRoute, name: r}";
const TO_RULE: &str = "{group: gateway.networking.k8s.io, kind: HTTPRoute, name: r, sectionName: two}";

/// A policy whose keys are in a Secret with its name. `more`: fields of `traffic`.
fn policy(namespace: &str, name: &str, target: &str, created: &str, more: &str) -> String {
    format!(
        r#"
---
apiVersion: agentgateway.dev/v1alpha1
kind: AgentgatewayPolicy
metadata: {{name: {name}, namespace: {namespace}, creationTimestamp: "2026-01-0{created}T00:00:00Z"}}
spec: {{targetRefs: [{target}], traffic: {{apiKeyAuthentication: {{secretRef: {{name: {name}}}}}{more}}}}}
---
apiVersion: v1
kind: Secret
metadata: {{name: {name}, namespace: {namespace}}}
stringData: {{entry: k-{name}}}
"#
    )
}

fn manifests(policies: &[String]) -> String {
    let rules = format!(
        "rules: [{{name: one, {}}}, {{name: two, matches: [{{path: {{value: /two}}}}], {}}}]",
        to("p"),
        to("q")
    );
    gateway(OPEN) + &pools(&["p", "q"]) + &route("r", &rules) + &policies.concat()
}

/// The policies of `names` whose keys are accepted in each phase, at both paths.
fn accepted(table: &RouteTable, names: &[&str]) -> Vec<String> {
    let listener = of_port(table).listener("x").unwrap();
    let of_path = |path: &str| {
        let rule = listener.route("x", &head("POST", path, &[])).unwrap().rule;
        let of_phase = listener.checks(Some(rule)).phases.map(|phase| {
            let knows = |name: &&&str| {
                let mut headers = HeaderMap::new();
                let value = HeaderValue::try_from(format!("Bearer k-{name}")).unwrap();
                headers.insert("authorization", value);
                let authentication = phase.authentication.unwrap();
                let Credential::Given(key) = authentication.location.credential(&headers) else {
                    unreachable!()
                };
                authentication.keys.find(key).is_some_and(|key| key.name == "entry")
            };
            let known = names.iter().filter(|name| phase.authentication.is_some() && knows(name));
            known.copied().collect::<Vec<_>>().join("+")
        });
        of_phase.join("|")
    };
    vec![of_path("/one"), of_path("/two")]
}

#[tokio::test]
async fn the_more_precise_target_has_precedence_within_a_phase() {
    let of = |namespace, name, target, created| policy(namespace, name, target, created, "");
    let before = |name, target| policy("infra", name, target, "1", ", phase: PreRouting");
    let gateway = || of("infra", "a", TO_GATEWAY, "1");
    for (policies, expected) in [
        (vec![gateway()], ["|a", "|a"]),
        (vec![gateway(), of("infra", "b", TO_LISTENER, "2")], ["|b", "|b"]),
        (vec![gateway(), of("models", "b", TO_ROUTE, "2")], ["|b", "|b"]),
        (vec![gateway(), of("models", "b", TO_ROUTE, "2"), of("models", "c", TO_RULE, "3")], ["|b", "|c"]),
        // The older one of a level.
        (vec![of("infra", "b", TO_GATEWAY, "2"), of("infra", "c", TO_GATEWAY, "1")], ["|c", "|c"]),
        // Phases are independent.
        (vec![before("a", TO_GATEWAY), of("models", "b", TO_ROUTE, "2")], ["a|b", "a|b"]),
        (vec![before("a", TO_GATEWAY), before("c", TO_LISTENER)], ["c|", "c|"]),
    ] {
        let (table, _) = compiled(&manifests(&policies)).await;
        assert_eq!(accepted(&table, &["a", "b", "c"]), expected, "{policies:?}");
    }
}

/// The message of the condition at the Gateway.
fn message(report: &Report, namespace: &str, name: &str) -> (bool, String) {
    let status = report.policies[&ObjectKey::new(namespace, name)][&ObjectKey::new("infra", "gw")].accepted();
    (status.is_true, status.message)
}

#[tokio::test]
async fn an_enforced_policy_is_accepted() {
    let (table, report) = compiled(&manifests(&[policy("infra", "a", TO_GATEWAY, "1", "")])).await;
    assert_eq!(message(&report, "infra", "a"), (true, String::new()));
    assert!(table.problems.is_empty(), "{:?}", table.problems);
    assert!(of_port(&table).listener("x").unwrap().closed_by().is_none());
}

#[tokio::test]
async fn keys_that_are_not_accepted_are_reported_without_their_content() {
    let rubbish = policy("infra", "a", TO_GATEWAY, "1", "")
        .replace("{entry: k-a}", r#"{entry: k-a, bad: '{"SECRET": 1}', same: k-a}"#);
    let (table, report) = compiled(&manifests(&[rubbish])).await;
    let (is_accepted, text) = message(&report, "infra", "a");
    assert!(!is_accepted && !text.contains("SECRET"), "{text}");
    for expected in [
        "entry bad of Secret infra/a is not accepted: it has a member other than",
        "entry same of Secret infra/a is not accepted: its key is also the one of entry entry",
    ] {
        assert!(text.contains(expected), "{text}");
        assert!(table.problems.iter().any(|it| it.contains(expected)), "{:?}", table.problems);
    }
    assert_eq!(accepted(&table, &["a"]), ["|a", "|a"]);

    let missing = policy("infra", "a", TO_GATEWAY, "1", "").replace("name: a}}", "name: gone}}");
    let (table, report) = compiled(&manifests(&[missing])).await;
    let (_, text) = message(&report, "infra", "a");
    assert!(text.contains("Secret infra/gone does not exist, or the gateway may not read it"), "{text}");
    assert_eq!(accepted(&table, &["a"]), ["|", "|"]);
    let listener = of_port(&table).listener("x").unwrap();
    assert!(listener.checks(None).phases[1].authentication.is_some(), "all requests are refused");
}

#[tokio::test]
async fn a_policy_with_an_older_one_of_the_same_target_is_told() {
    let policies = [policy("infra", "a", TO_GATEWAY, "2", ""), policy("infra", "b", TO_GATEWAY, "1", "")];
    let (_, report) = compiled(&manifests(&policies)).await;
    let (is_accepted, text) = message(&report, "infra", "a");
    let expected = "traffic.apiKeyAuthentication has no effect at listener http of Gateway infra/gw: that of AgentgatewayPolicy infra/b has precedence";
    assert_eq!((is_accepted, text.as_str()), (false, expected));
    assert!(message(&report, "infra", "b").0);
}

const REMOTE: &str = "
---
apiVersion: agentgateway.dev/v1alpha1
kind: AgentgatewayPolicy
metadata: {name: a, namespace: infra}
spec:
  targetRefs: [{group: gateway.networking.k8s.io, kind: Gateway, name: gw}]
  traffic:
    jwtAuthentication:
      providers:
      - {issuer: https://idp, jwks: {remote: {backendRef: {name: idp, namespace: auth, port: 80}, jwksPath: keys}}}
---
apiVersion: v1
kind: Service
metadata: {name: idp, namespace: auth, labels: {app: idp}}
spec: {ports: [{name: web, port: 80}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: idp, namespace: auth, labels: {kubernetes.io/service-name: idp}}
addressType: IPv4
ports: [{name: web, port: 8080}]
endpoints: [{addresses: [10.0.0.9], conditions: {ready: true}}]
---
apiVersion: gateway.networking.k8s.io/v1beta1
kind: ReferenceGrant
metadata: {name: idp, namespace: auth}
spec:
  from: [{group: agentgateway.dev, kind: AgentgatewayPolicy, namespace: infra}]
  to: [{group: '', kind: Service, name: idp}]
";

#[tokio::test]
async fn key_sets_are_loaded_from_endpoints_of_their_service() {
    let (table, report) = compiled(&manifests(&[REMOTE.to_owned()])).await;
    assert_eq!(message(&report, "infra", "a"), (true, String::new()));
    let sets = table.remote_key_sets();
    let sets: Vec<(String, _)> = sets.iter().map(|(id, set)| (id.to_string(), &set.endpoints[..])).collect();
    assert_eq!(sets, [("auth/idp:80/keys".to_owned(), &["10.0.0.9:8080".parse().unwrap()][..])]);
    // Of policies that target nothing, none are.
    let (table, _) = compiled(&manifests(&[REMOTE.replace("name: gw}", "name: other}")])).await;
    assert!(table.remote_key_sets().is_empty());
}

#[tokio::test]
async fn key_sets_that_cannot_be_loaded_safely_are_not() {
    let tls = "
---
apiVersion: agentgateway.dev/v1alpha1
kind: AgentgatewayPolicy
metadata: {name: tls, namespace: auth}
spec: {targetSelectors: [{group: '', kind: Service, matchLabels: {app: idp}}], backend: {tls: {FIELDS}}}
";
    let own = |fields: &str| REMOTE.to_owned() + &tls.replace("FIELDS", fields);
    let standard = |validation: &str| {
        format!(
            "{REMOTE}---\napiVersion: gateway.networking.k8s.io/v1\nkind: BackendTLSPolicy\n\
             metadata: {{name: b, namespace: auth}}\n\
             spec: {{targetRefs: [{{group: '', kind: Service, name: idp}}], validation: {{{validation}}}}}\n"
        )
    };
    let of_standard = |why: &str| format!("BackendTLSPolicy auth/b for the Service auth/idp: {why}");
    let of_own =
        |why: &str| format!("backend.tls of AgentgatewayPolicy auth/tls for the Service auth/idp: {why}");
    for (changed, expected) in [
        (
            REMOTE.replace("name: idp, namespace: auth, port", "name: gone, namespace: infra, port"),
            "the Service infra/gone does not exist".to_owned(),
        ),
        (
            REMOTE.replace("namespace: infra}]", "namespace: x}]"),
            "no ReferenceGrant allows the policy to refer to the Service auth/idp".to_owned(),
        ),
        (
            REMOTE.replace("auth, port: 80", "auth, port: 81"),
            "the Service auth/idp does not have the port 81".to_owned(),
        ),
        (
            REMOTE.replace("spec: {ports", "spec: {type: ExternalName, ports"),
            "the Service auth/idp has the type ExternalName, which is not supported".to_owned(),
        ),
        (
            REMOTE.replace("port: 80}]", "port: 80, appProtocol: https}]"),
            "the appProtocol https of the Service auth/idp is not supported without a BackendTLSPolicy".to_owned(),
        ),
        (own("insecureSkipVerify: All"), of_own("unknown field `insecureSkipVerify`")),
        (own("mtlsCertificateRef: [{name: x}]"), of_own("unknown field `mtlsCertificateRef`")),
        (own("caCertificateRefs: [{name: ca}]"), of_own("the ConfigMap auth/ca does not exist")),
        (own("sni: 10.0.0.1"), of_own("sni \"10.0.0.1\" is not a DNS name")),
        (standard("hostname: a.example"), of_standard("neither caCertificateRefs nor wellKnownCACertificates")),
        (
            standard("hostname: a.example, wellKnownCACertificates: Mine"),
            of_standard("wellKnownCACertificates \"Mine\" is not supported"),
        ),
        (standard("hostname: '*.x', wellKnownCACertificates: System"), of_standard("hostname \"*.x\" is not a DNS name")),
        (
            standard("hostname: a.example, caCertificateRefs: [{group: '', kind: Secret, name: ca}]"),
            of_standard("caCertificateRefs to kind Secret are not supported"),
        ),
        (
            standard("hostname: a.example, caCertificateRefs: [{group: '', kind: ConfigMap, name: ca}]"),
            of_standard("the ConfigMap auth/ca does not exist"),
        ),
        (
            standard("hostname: a.example, caCertificateRefs: [{group: '', kind: ConfigMap, name: ca}]")
                + "---\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: ca, namespace: auth}\ndata: {ca.crt: none}\n",
            of_standard("ca.crt of the ConfigMap auth/ca contains no certificate"),
        ),
        (
            standard("hostname: a.example, wellKnownCACertificates: System") + &tls.replace("FIELDS", ""),
            "BackendTLSPolicy auth/b and backend.tls of AgentgatewayPolicy auth/tls are both for the Service auth/idp".to_owned(),
        ),
    ] {
        assert_ne!(changed, REMOTE);
        let (table, report) = compiled(&manifests(&[changed])).await;
        let (is_accepted, text) = message(&report, "infra", "a");
        let expected = format!("traffic.jwtAuthentication: providers[0].jwks.remote.backendRef: {expected}");
        assert!(!is_accepted && text.starts_with(&expected), "{text}\nnot {expected}");
        assert!(text.contains("its keys are not loaded"), "{text}");
        let sets = table.remote_key_sets();
        assert!(sets.values().all(|set| set.endpoints.is_empty()), "{sets:?}");
        let listener = of_port(&table).listener("x").unwrap();
        assert!(listener.checks(None).phases[1].jwt.is_some(), "all requests are refused");
    }
}

#[tokio::test]
async fn tls_of_a_server_is_that_of_its_policy() {
    let manifests = |more: &str| manifests(&[format!("{REMOTE}{more}")]);
    let standard = |name: &str, created: &str, target: &str, hostname: &str| {
        format!(
            "---\napiVersion: gateway.networking.k8s.io/v1\nkind: BackendTLSPolicy\n\
             metadata: {{name: {name}, namespace: auth, creationTimestamp: '{created}'}}\n\
             spec: {{targetRefs: [{{group: '', kind: Service, name: idp{target}}}], \
             validation: {{wellKnownCACertificates: System, hostname: {hostname}}}}}\n"
        )
    };
    let (old, new) = ("2026-01-01T00:00:00Z", "2026-02-01T00:00:00Z");
    let of_port = ", sectionName: web";
    let own = "---\napiVersion: agentgateway.dev/v1alpha1\nkind: AgentgatewayPolicy\n\
               metadata: {name: tls, namespace: auth}\n\
               spec: {targetRefs: [{group: '', kind: Service, name: idp}], backend: {tls: {}}}\n";
    for (policies, expected) in [
        (String::new(), None),
        (own.to_owned(), Some("idp.auth.svc.cluster.local")),
        (standard("b", new, "", "b"), Some("b")),
        (standard("b", new, ", sectionName: other", "b"), None),
        (standard("b", new, "", "b") + &standard("c", old, "", "c"), Some("c")),
        (standard("b", new, "", "b") + &standard("a", new, "", "a"), Some("a")),
        (standard("b", old, "", "b") + &standard("c", new, of_port, "c"), Some("c")),
    ] {
        let (table, report) = compiled(&manifests(&policies)).await;
        assert_eq!(message(&report, "infra", "a"), (true, String::new()), "{policies}");
        let sets = table.remote_key_sets();
        let tls = sets.values().next().unwrap().tls.as_ref();
        assert_eq!(tls.map(|it| it.server_name.as_str()), expected, "{policies}");
        assert!(tls.is_none_or(|it| it.names == [SubjectName::Dns(it.server_name.clone())]), "{tls:?}");
    }
}
