//! Time to find a request's route in tables of 1, 100 and 5,000 routes. Baseline: the table of 1.
#![allow(clippy::unwrap_used, reason = "a failure ends the test or benchmark that it is in")]

use std::hint::black_box;

use std::sync::Arc;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use forebay_resources::{ObjectKey, Snapshot};
use forebay_routing::{Certificates, ListenerPort, PortSharing, RouteTable, compile};
use http::{Request, request};
use serde_json::json;

/// Routes that match on the model header, as the guide's charts make them.
struct ManyRoutes {
    table: RouteTable,
    head: request::Parts,
}

impl ManyRoutes {
    /// `count` routes, and a request for the one in the middle.
    fn new(count: usize) -> Self {
        let mut snapshot = Snapshot::default();
        let gateway = json!({
            "metadata": {"name": "g", "namespace": "n"},
            "spec": {"gatewayClassName": "c", "listeners": [{"name": "l", "port": 80, "protocol": "HTTP"}]},
        });
        let gateway = serde_json::from_value(gateway).unwrap();
        snapshot.gateways.insert(ObjectKey::new("n", "g"), Arc::new(gateway));
        for number in 0..count {
            let name = format!("r{number}");
            let headers = json!([{"name": "X-Gateway-Base-Model-Name", "value": format!("m{number}")}]);
            let matches = json!([{"path": {"type": "PathPrefix", "value": "/"}, "headers": headers}]);
            let route = json!({
                "metadata": {"name": name, "namespace": "n"},
                "spec": {"parentRefs": [{"name": "g"}], "rules": [{"matches": matches}]},
            });
            let route = serde_json::from_value(route).unwrap();
            snapshot.http_routes.insert(ObjectKey::new("n", name), Arc::new(route));
        }
        let (table, _) = compile(&snapshot, "c", PortSharing::Shared, &mut Certificates::default());
        let (head, ()) = Request::post("/v1/chat/completions")
            .header("x-gateway-base-model-name", format!("m{}", count / 2))
            .body(())
            .unwrap()
            .into_parts();
        Self { table, head }
    }

    /// Whether the request's route is found.
    fn find(&self) -> bool {
        let port = ListenerPort { port: 80, gateway: None };
        let listener = self.table.ports.get(&port).and_then(|port| port.listener("a.example"));
        listener.is_some_and(|listener| listener.route("a.example", &self.head).is_some())
    }
}

fn find(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("route");
    for count in [1, 100, 5_000] {
        let routes = ManyRoutes::new(count);
        assert!(routes.find(), "no route matches");
        group.bench_function(BenchmarkId::from_parameter(count), |bencher| {
            bencher.iter(|| black_box(&routes).find());
        });
    }
}

criterion_group!(benches, find);
criterion_main!(benches);
