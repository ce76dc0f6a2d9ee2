//! Which listeners' clients are trusted.

use super::*;

/// The start of a Gateway's manifest, with more lines of its metadata and spec.
fn gateway_with(metadata: &str, spec: &str, listeners: &str) -> String {
    format!(
        r#"
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {{name: gw, namespace: infra, {metadata}}}
spec: {{gatewayClassName: forebay, {spec} listeners: [{listeners}]}}
"#
    )
}

fn trusted_ports(table: &RouteTable) -> Vec<u16> {
    let is_trusted = |routes: &PortRoutes| routes.listeners.iter().any(ListenerRoutes::is_trusted);
    table.ports.iter().filter(|(_, routes)| is_trusted(routes)).map(|(port, _)| port.port).collect()
}

const TWO: &str = "{name: public, protocol: HTTP, port: 80}, {name: mesh, protocol: HTTP, port: 81}";

#[tokio::test]
async fn trusts_listeners_by_annotation() {
    let annotation = r#"annotations: {forebay.dev/trusted-listeners: " mesh , other,"}"#;
    for (metadata, spec) in [(annotation, ""), ("", &*format!("infrastructure: {{{annotation}}},"))] {
        let table = table(&gateway_with(metadata, spec, TWO)).await;
        assert_eq!(trusted_ports(&table), [81]);
        assert_eq!(
            table.problems.iter().map(String::as_str).collect::<Vec<_>>(),
            [r#"Gateway infra/gw: forebay.dev/trusted-listeners: listener "other" does not exist"#]
        );
    }
    assert_eq!(trusted_ports(&table(&gateway_with("", "", TWO)).await), [0; 0]);
}

/// The client says which of a port's hostnames it means.
#[tokio::test]
async fn does_not_trust_listener_on_shared_port() {
    let shared = "{name: public, protocol: HTTP, port: 80}, \
        {name: mesh, protocol: HTTP, port: 80, hostname: mesh.internal}";
    let annotation = |names: &str| format!(r#"annotations: {{forebay.dev/trusted-listeners: "{names}"}}"#);
    let refused = table(&gateway_with(&annotation("mesh"), "", shared)).await;
    assert_eq!(trusted_ports(&refused), [0; 0]);
    assert_eq!(refused.problems.len(), 1, "{:?}", refused.problems);
    assert!(refused.problems.first().unwrap().contains("shares its port with listener public"));
    let both = table(&gateway_with(&annotation("mesh,public"), "", shared)).await;
    assert_eq!((trusted_ports(&both), both.problems.len()), (vec![80], 0));
}
