//! Routes from any manifest: compiling and matching do not panic, and do not depend on the order of the documents.

use forebay_resources::{Snapshot, read_manifest};
use forebay_routing::{Certificates, PortSharing, RouteTable, compile};
use http::{Request, request};

/// The first line is the target of a request, the rest is a manifest.
pub fn routes(data: &[u8]) {
    let Ok(text) = str::from_utf8(data) else { return };
    let (target, manifest) = text.split_once('\n').unwrap_or((text, ""));
    let request = Request::post(target)
        .header("x-gateway-model-name", "m")
        .header("x-gateway-base-model-name", "m")
        .header("x-a", "b")
        .body(());
    let Ok(request) = request else { return };
    let (head, ()) = request.into_parts();
    let mut snapshot = Snapshot::default();
    read_manifest("all.yaml", manifest, &mut snapshot);
    let (table, report) = compile(&snapshot, "forebay", PortSharing::Shared, &mut Certificates::default());
    let found = matches(&table, &head);
    let (again, report_again) =
        compile(&snapshot, "forebay", PortSharing::Shared, &mut Certificates::default());
    assert_eq!(matches(&again, &head), found, "the same snapshot has another table");
    assert_eq!(report.routes.len(), report_again.routes.len());
}

/// What matches on each port for a few hosts, as text.
fn matches(table: &RouteTable, head: &request::Parts) -> Vec<String> {
    let mut found = Vec::new();
    for port in table.ports.values() {
        for host in ["a.example", "b.a.example", "example", "127.0.0.1"] {
            let Some(listener) = port.listener(host) else { continue };
            found.push(format!("{host} {}", listener.name()));
            let _ = listener.before_body(host, head);
            let _ = listener.route_preflight(host, head);
            let rule = listener.route(host, head);
            found.push(format!("{host} {:?}", rule.map(|matched| matched.rule.origin.clone())));
        }
    }
    found.sort();
    found
}
