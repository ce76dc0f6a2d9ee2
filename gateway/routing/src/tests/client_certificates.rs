//! `spec.tls.frontend` of Gateways: conditions of listeners, and which ones are served.

use forebay_resources::ObjectKey;

use super::*;

fn manifests(frontend: &str, more: &str) -> String {
    let key = rcgen::KeyPair::generate().unwrap();
    let certificate =
        rcgen::CertificateParams::new(vec!["a.example".to_owned()]).unwrap().self_signed(&key).unwrap();
    let indented = |text: &str| text.trim().replace('\n', "\n    ");
    let (certificate, key) = (indented(&certificate.pem()), indented(&key.serialize_pem()));
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {{name: gw, namespace: infra}}\n\
         spec:\n  gatewayClassName: forebay\n  listeners:\n  \
         - {{name: http, protocol: HTTP, port: 80}}\n  \
         - {{name: https, protocol: HTTPS, port: 443, tls: {{certificateRefs: [{{name: web}}]}}}}\n  \
         - {{name: other, protocol: HTTPS, port: 8443, tls: {{certificateRefs: [{{name: web}}]}}}}\n  \
         tls: {{frontend: {frontend}}}\n\
         ---\napiVersion: v1\nkind: Secret\nmetadata: {{name: web, namespace: infra}}\nstringData:\n  tls.crt: |\n    {certificate}\n  tls.key: |\n    {key}\n\
         ---\napiVersion: v1\nkind: ConfigMap\nmetadata: {{name: ca, namespace: infra}}\ndata:\n  ca.crt: |\n    {certificate}\n\
         ---\napiVersion: v1\nkind: ConfigMap\nmetadata: {{name: bad, namespace: infra}}\ndata: {{ca.crt: none}}\n\
         ---\napiVersion: v1\nkind: ConfigMap\nmetadata: {{name: empty, namespace: infra}}\ndata: {{other: x}}\n\
         ---\napiVersion: v1\nkind: ConfigMap\nmetadata: {{name: ca, namespace: far}}\ndata:\n  ca.crt: |\n    {certificate}\n{more}"
    )
}

fn reference(more: &str) -> String {
    format!("{{group: '', kind: ConfigMap, {more}}}")
}

fn validation(references: &[&str], mode: &str) -> String {
    format!("{{validation: {{caCertificateRefs: [{}]{mode}}}}}", references.join(", "))
}

/// Reasons of `Accepted` and `ResolvedRefs`, and whether the listener is served and asks clients for a certificate.
fn state(table: &RouteTable, report: &Report, name: &str) -> (&'static str, &'static str, bool, bool) {
    let listeners = &report.gateways[&ObjectKey::new("infra", "gw")];
    let listener = listeners.iter().find(|it| it.name == name).unwrap();
    let of_port = listener.port.as_ref().and_then(|port| table.ports.get(port));
    let asks = of_port.and_then(|port| port.tls()).is_some_and(|tls| tls.asks_clients());
    (listener.accepted.reason, listener.resolved_refs.reason, listener.port.is_some(), asks)
}

#[tokio::test]
async fn listeners_without_a_valid_authority_are_not_served() {
    let (good, bad) = (reference("name: ca"), reference("name: bad"));
    let (gone, empty) = (reference("name: gone"), reference("name: empty"));
    let far = reference("name: ca, namespace: far");
    let secret = "{group: '', kind: Secret, name: web}".to_owned();
    let grant = "---\napiVersion: gateway.networking.k8s.io/v1beta1\nkind: ReferenceGrant\nmetadata: {name: g, namespace: far}\n\
         spec: {from: [{group: gateway.networking.k8s.io, kind: Gateway, namespace: infra}], to: [{group: '', kind: ConfigMap}]}\n";
    let closed = |reason| ("NoValidCACertificate", reason, false, false);
    let open = |reason| ("Accepted", reason, true, true);
    for (references, more, expected) in [
        (vec![good.as_str()], "", open("ResolvedRefs")),
        (vec![&bad], "", closed("InvalidCACertificateRef")),
        (vec![&gone], "", closed("InvalidCACertificateRef")),
        (vec![&empty], "", closed("InvalidCACertificateRef")),
        (vec![&secret], "", closed("InvalidCACertificateKind")),
        (vec![&far], "", closed("RefNotPermitted")),
        (vec![&far], grant, open("ResolvedRefs")),
        (vec![&good, &gone], "", open("InvalidCACertificateRef")),
        (vec![], "", closed("InvalidCACertificateRef")),
    ] {
        for mode in ["", ", mode: AllowInsecureFallback"] {
            let frontend = format!("{{default: {}}}", validation(&references, mode));
            let (table, report) = compiled(&manifests(&frontend, more)).await;
            assert_eq!(state(&table, &report, "https"), expected, "{references:?}{mode}");
            assert_eq!(state(&table, &report, "http"), ("Accepted", "ResolvedRefs", true, false));
        }
    }
}

#[tokio::test]
async fn a_port_may_have_its_own_validation() {
    let good = validation(&[&reference("name: ca")], "");
    let bad = validation(&[&reference("name: gone")], "");
    let served = ("Accepted", "ResolvedRefs", true, true);
    let plain = ("Accepted", "ResolvedRefs", true, false);
    let closed = ("NoValidCACertificate", "InvalidCACertificateRef", false, false);
    for (default, own, expected) in [
        (good.as_str(), "{}", [served, plain]),
        ("{}", &good, [plain, served]),
        (&bad, &good, [closed, served]),
        (&good, &bad, [served, closed]),
    ] {
        let frontend = format!("{{default: {default}, perPort: [{{port: 8443, tls: {own}}}]}}");
        let (table, report) = compiled(&manifests(&frontend, "")).await;
        let states = ["https", "other"].map(|name| state(&table, &report, name));
        assert_eq!(states, expected, "{frontend}");
    }
}

#[tokio::test]
async fn the_status_says_that_any_client_is_served() {
    let reference = reference("name: ca");
    for (mode, expected) in
        [("", false), (", mode: AllowValidOnly", false), (", mode: AllowInsecureFallback", true)]
    {
        let frontend = format!("{{default: {}}}", validation(&[&reference], mode));
        let (_, report) = compiled(&manifests(&frontend, "")).await;
        let listeners = &report.gateways[&ObjectKey::new("infra", "gw")];
        let reach = status::Reach { service: None, has_endpoints: false, refused: None, is_open: &|_| true };
        let status = status::gateway_status(Some(1), listeners, &reach, &serde_json::Value::Null);
        let conditions = status["conditions"].as_array().unwrap();
        let insecure = conditions.iter().find(|it| it["type"] == "InsecureFrontendValidationMode");
        assert_eq!(insecure.is_some(), expected, "{mode}");
        assert!(insecure.is_none_or(|it| it["status"] == "True" && it["reason"] == "ConfigurationChanged"));
    }
}

/// Gateways that share a port would otherwise verify clients by the settings of another one.
#[tokio::test]
async fn a_shared_port_has_one_validation() {
    let frontend = format!("{{default: {}}}", validation(&[&reference("name: ca")], ""));
    let other = "---\napiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {name: other, namespace: infra}\n\
         spec: {gatewayClassName: forebay, listeners: [{name: https, protocol: HTTPS, port: 443, hostname: b.example, tls: {certificateRefs: [{name: web}]}}]}\n";
    let (_, report) = compiled(&manifests(&frontend, other)).await;
    let of_other = &report.gateways[&ObjectKey::new("infra", "other")][0];
    assert!(of_other.conflicted.is_true && of_other.port.is_none(), "{of_other:?}");
    assert!(of_other.conflicted.message.contains("another tls.frontend"), "{of_other:?}");
}
