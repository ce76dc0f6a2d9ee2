//! For benchmarks only: a table of many routes, and a request to it.

use std::sync::Arc;

use forebay_resources::{ObjectKey, Snapshot};
use http::{Request, request};
use serde_json::json;

use super::{Certificates, ListenerPort, PortSharing, RouteTable, compile};

/// Routes by the model's header, as the guide's charts make them.
#[derive(Debug)]
pub struct ManyRoutes {
    table: RouteTable,
    head: request::Parts,
}

impl ManyRoutes {
    /// `count` routes, and a request for the one in the middle.
    pub fn new(count: usize) -> Result<Self, Box<dyn std::error::Error>> {
        let mut snapshot = Snapshot::default();
        let gateway = json!({
            "metadata": {"name": "g", "namespace": "n"},
            "spec": {"gatewayClassName": "c", "listeners": [{"name": "l", "port": 80, "protocol": "HTTP"}]},
        });
        snapshot.gateways.insert(ObjectKey::new("n", "g"), Arc::new(serde_json::from_value(gateway)?));
        for number in 0..count {
            let name = format!("r{number}");
            let headers = json!([{"name": "X-Gateway-Base-Model-Name", "value": format!("m{number}")}]);
            let matches = json!([{"path": {"type": "PathPrefix", "value": "/"}, "headers": headers}]);
            let route = json!({
                "metadata": {"name": name, "namespace": "n"},
                "spec": {"parentRefs": [{"name": "g"}], "rules": [{"matches": matches}]},
            });
            snapshot.http_routes.insert(ObjectKey::new("n", name), Arc::new(serde_json::from_value(route)?));
        }
        let mut certificates = Certificates::default();
        let (table, _) = compile(&snapshot, "c", PortSharing::Shared, &mut certificates);
        let (head, ()) = Request::post("/v1/chat/completions")
            .header("x-gateway-base-model-name", format!("m{}", count / 2))
            .body(())?
            .into_parts();
        Ok(Self { table, head })
    }

    /// Whether the request's route is found.
    pub fn find(&self) -> bool {
        let port = ListenerPort { port: 80, gateway: None };
        let listener = self.table.ports.get(&port).and_then(|port| port.listener("a.example"));
        listener.is_some_and(|listener| listener.route("a.example", &self.head).is_some())
    }
}
