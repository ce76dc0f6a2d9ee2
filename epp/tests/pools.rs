//! One process that serves many pools: which pool a stream gets, one telemetry stream per agent, changes of single pools.

#![allow(clippy::unwrap_used, reason = "a failure ends the test that it is in")]

mod common;

use common::{
    Harness,
    agent::{FakeAgent, kernel},
    agent_ip, eventually,
    gateway::{Gateway, HttpRequest, destination, headers, with_metadata},
    pod_at,
};
use forebay_epp::{PoolScope, endpoints::LoadSource};
use forebay_grpc::{
    names::{METADATA_FOREBAY, POOL},
    proto::{Kind, ProcessingRequest},
};
use forebay_resources::ObjectKey;
use forebay_telemetry::v1::Delta;
use tonic::{Code, Status};

fn pool(name: &str, service: &str, port: u16) -> String {
    format!(
        "apiVersion: inference.networking.k8s.io/v1\nkind: InferencePool\n\
         metadata: {{ name: {name}, namespace: llm-d }}\n\
         spec: {{ selector: {{ matchLabels: {{ app: {name} }} }}, targetPorts: [{{ number: 8000 }}], \
         endpointPickerRef: {{ name: {service}, port: {{ number: {port} }} }} }}\n"
    )
}

/// Pod `n`, a member of the pool `app`.
fn member(n: u8, app: &str) -> (String, String) {
    let pod = pod_at(&format!("vllm-{n}"), &format!("uid-{n}"), app, &format!("127.0.1.{n}"), true);
    (format!("pod-{n}.yaml"), pod)
}

fn file(name: &str, text: String) -> (String, String) {
    (format!("{name}.yaml"), text)
}

fn asking_for(pool: &str) -> ProcessingRequest {
    with_metadata(headers(true), METADATA_FOREBAY, POOL, Kind::StringValue(pool.into()))
}

/// The endpoint that is picked for a first message, or the status of the stream.
async fn pick(gateway: &Gateway, message: ProcessingRequest) -> Result<String, Status> {
    let mut request: HttpRequest = gateway.open().await;
    request.send(message).await;
    request.next().await.map(|reply| destination(&reply.expect("a reply"))[0].clone())
}

/// Two pools with a pod each: `a` with a Service of its own, `b` and `c` behind one Service on two ports.
async fn three_pools() -> Harness {
    let manifests = [
        file("a", pool("a", "a-epp", 9002)),
        file("b", pool("b", "shared", 9002)),
        file("c", pool("c", "shared", 9003)),
        member(1, "a"),
        member(2, "b"),
        member(3, "c"),
    ];
    Harness::start(&manifests, |options| options.pools = PoolScope::All).await
}

#[tokio::test]
async fn the_gateway_names_the_pool() {
    let harness = three_pools().await;
    let gateway = Gateway::connect(&harness).await;
    for (name, endpoint) in
        [("llm-d/a", "127.0.1.1:8000"), ("llm-d/b", "127.0.1.2:8000"), ("llm-d/c", "127.0.1.3:8000")]
    {
        assert_eq!(pick(&gateway, asking_for(name)).await.unwrap(), endpoint, "{name}");
    }
    for name in ["llm-d/none", "other/a", "a", ""] {
        let status = pick(&gateway, asking_for(name)).await.unwrap_err();
        assert_eq!(status.code(), Code::NotFound);
        let expected = format!(
            "InferencePool {name:?} does not exist or is not served here: this picker serves the InferencePools of all namespaces"
        );
        assert_eq!(status.message(), expected);
    }
    assert_eq!(harness.metric(r#"forebay_epp_picks_total{pool="llm-d/a",result="ok"}"#).await, 1.0);
    assert_eq!(harness.metric(r#"forebay_epp_picks_total{pool="",result="pool_not_served"}"#).await, 4.0);
    // The pool of the metadata is not overridden by an authority.
    let gateway = Gateway::connect_as(&harness, "a-epp.llm-d.svc").await;
    assert_eq!(pick(&gateway, asking_for("llm-d/b")).await.unwrap(), "127.0.1.2:8000");
}

#[tokio::test]
async fn the_authority_is_a_service_of_one_pool() {
    let harness = three_pools().await;
    for authority in ["a-epp.llm-d", "a-epp.llm-d.svc:9002", "A-EPP.llm-d.svc.cluster.local:80"] {
        let gateway = Gateway::connect_as(&harness, authority).await;
        assert_eq!(pick(&gateway, headers(true)).await.unwrap(), "127.0.1.1:8000", "{authority}");
    }
    for (authority, endpoint) in
        [("shared.llm-d.svc:9002", "127.0.1.2:8000"), ("shared.llm-d.svc:9003", "127.0.1.3:8000")]
    {
        let gateway = Gateway::connect_as(&harness, authority).await;
        assert_eq!(pick(&gateway, headers(true)).await.unwrap(), endpoint, "{authority}");
    }
    let gateway = Gateway::connect_as(&harness, "shared.llm-d.svc:9004").await;
    let status = pick(&gateway, headers(true)).await.unwrap_err();
    assert_eq!(status.code(), Code::FailedPrecondition);
    let expected = "the authority \"shared.llm-d.svc:9004\" and port 9004 name no single InferencePool: the endpointPickerRefs \
                    of llm-d/b, llm-d/c name this Service; give each another port and listen on it (--grpc-listen), or each a \
                    Service of its own";
    assert_eq!(status.message(), expected);
    let gateway = Gateway::connect(&harness).await;
    let status = pick(&gateway, headers(true)).await.unwrap_err();
    assert_eq!(status.code(), Code::NotFound);
    assert!(status.message().starts_with("no InferencePool for the authority \"127.0.0.1:"), "{status:?}");
}

#[tokio::test]
async fn the_port_of_the_connection_tells_pools_of_one_service_apart() {
    let any = std::net::SocketAddr::from(([127, 0, 0, 1], 0));
    let manifests = [member(1, "a"), member(2, "b")];
    let harness = Harness::start(&manifests, |options| {
        options.pools = PoolScope::Namespaces(["llm-d".to_owned()].into());
        options.grpc_listen = vec![any, any];
    })
    .await;
    let ports: Vec<u16> = harness.server.grpc_addresses.iter().map(std::net::SocketAddr::port).collect();
    harness.write("a.yaml", &pool("a", "epp", ports[0]));
    harness.write("b.yaml", &pool("b", "epp", ports[1]));
    let served = || harness.server.pools().directory().pools().len();
    eventually("the pools are served", || (served() == 2).then_some(())).await;
    for (address, endpoint) in harness.server.grpc_addresses.iter().zip(["127.0.1.1:8000", "127.0.1.2:8000"])
    {
        let gateway = Gateway::connect_at(*address, "epp.llm-d.svc").await;
        assert_eq!(pick(&gateway, headers(true)).await.unwrap(), endpoint);
    }
}

#[tokio::test]
async fn pools_come_and_go_without_touching_the_others() {
    let harness = three_pools().await;
    let scheduler = |name: &str| harness.server.scheduler(&ObjectKey::new("llm-d", name));
    let a = scheduler("a").unwrap();
    let open = a.pick(&forebay_epp::schedule::PickRequest::default()).unwrap();
    let members = |name: &str| scheduler(name).map_or(0, |it| it.endpoints().endpoints().len());

    harness.write("d.yaml", &pool("d", "d-epp", 9002));
    harness.write("pod-4.yaml", &member(4, "d").1);
    eventually("a new pool", || (members("d") == 1).then_some(())).await;
    harness.write("b.yaml", &pool("b", "shared", 9002).replace("8000", "8001"));
    let port = || scheduler("b").unwrap().endpoints().endpoints()[0].endpoint.address.port();
    eventually("a changed pool", || (port() == 8001).then_some(())).await;
    harness.remove("c.yaml");
    eventually("a pool is gone", || scheduler("c").is_none().then_some(())).await;

    assert!(std::sync::Arc::ptr_eq(&a, &scheduler("a").unwrap()), "the others go on");
    assert_eq!(a.endpoints().endpoints()[0].open_picks, 1);
    drop(open);
    let gateway = Gateway::connect(&harness).await;
    assert_eq!(pick(&gateway, asking_for("llm-d/c")).await.unwrap_err().code(), Code::NotFound);
    let (status, page) = harness.get("/endpoints").await;
    let page: serde_json::Value = serde_json::from_str(&page).unwrap();
    assert_eq!((status, &page["pools"]), (200, &serde_json::json!(["llm-d/a", "llm-d/b", "llm-d/d"])));
    for page in ["/endpoints", "/debug/picks"] {
        let (status, text) = harness.get(&format!("{page}/llm-d/d")).await;
        assert_eq!(status, 200, "{page}");
        assert!(text.contains(r#""pool": "llm-d/d""#), "{text}");
        assert_eq!(harness.get(&format!("{page}/llm-d/c")).await.0, 404, "{page}");
        for query in ["pool=llm-d/d", "a=b&pool=llm-d%2Fd"] {
            assert_eq!(harness.get(&format!("{page}?{query}")).await, (200, text.clone()), "{query}");
        }
        assert_eq!(harness.get(&format!("{page}?pool=llm-d/c")).await.0, 404, "{page}");
    }
}

#[tokio::test]
async fn is_ready_without_pools() {
    let harness = Harness::start(&[], |options| options.pools = PoolScope::All).await;
    assert_eq!(harness.get("/readyz").await.0, 200);
    let gateway = Gateway::connect(&harness).await;
    assert_eq!(pick(&gateway, asking_for("llm-d/a")).await.unwrap_err().code(), Code::NotFound);
}

/// The count of a pod's requests, where it comes from the kernel.
fn in_flight(harness: &Harness, pool: &str, n: u8) -> Option<u64> {
    let views = harness.server.scheduler(&ObjectKey::new("llm-d", pool))?.endpoints().endpoints();
    let view = views.into_iter().find(|view| view.endpoint.address == common::address(n))?;
    view.kernel_in_flight.filter(|_| view.source == LoadSource::Kernel)
}

#[tokio::test]
async fn pools_share_the_stream_of_an_agent() {
    let mut agent = FakeAgent::start(agent_ip(31), 0).await;
    let mut other = FakeAgent::start(agent_ip(32), agent.address.port()).await;
    let manifests = [
        file("a", pool("a", "a-epp", 9002)),
        file("b", pool("b", "b-epp", 9002)),
        file("agent", agent.manifest()),
        file("other", other.manifest()),
        member(1, "a"),
        member(2, "b"),
    ];
    let harness = Harness::start(&manifests, |options| {
        options.pools = PoolScope::All;
        options.picker.agent_port = agent.address.port();
        options.picker.agent_heartbeat = std::time::Duration::from_secs(60);
    })
    .await;
    let (mut reader, mut of_other) = (agent.reader().await, other.reader().await);
    assert_eq!(reader.request.subscriber, "epp");
    // Pods 3 and 4 are members of no pool yet.
    reader.snapshot((1..=3).map(|n| kernel(n, 10 + u64::from(n), 20)).collect(), vec![]);
    of_other.snapshot(vec![kernel(4, 14, 20)], vec![]);
    for (pool, n) in [("a", 1), ("b", 2)] {
        eventually("both get the snapshot", || {
            (in_flight(&harness, pool, n) == Some(10 + u64::from(n))).then_some(())
        })
        .await;
    }
    let pools_of = |ip| {
        let views = harness.server.pools().agents().views();
        views.iter().find(|view| view.address.ip() == ip).unwrap().pools
    };
    assert_eq!(
        (pools_of(agent_ip(31)), pools_of(agent_ip(32))),
        (2, 0),
        "only pools with endpoints on the node read"
    );

    // A new pool, and new members of an old one, get what the agents reported before.
    harness.write("pod-3.yaml", &member(3, "b").1);
    harness.write("c.yaml", &pool("c", "c-epp", 9002));
    harness.write("pod-4.yaml", &member(4, "c").1);
    for (pool, n) in [("b", 3), ("c", 4)] {
        eventually("the last report", || {
            (in_flight(&harness, pool, n) == Some(10 + u64::from(n))).then_some(())
        })
        .await;
    }
    assert_eq!((pools_of(agent_ip(31)), pools_of(agent_ip(32))), (2, 1));
    // A pool without endpoints on the node any more.
    harness.remove("pod-1.yaml");
    eventually("it stops reading", || (pools_of(agent_ip(31)) == 1).then_some(())).await;
    // The other one gets what is new, and a pod that the agent sees only now.
    reader.delta(Delta { endpoints: vec![kernel(2, 7, 30), kernel(1, 5, 30)], ..Delta::default() });
    eventually("a delta", || (in_flight(&harness, "b", 2) == Some(7)).then_some(())).await;
    harness.write("pod-1.yaml", &member(1, "a").1);
    eventually("it reads again", || (in_flight(&harness, "a", 1) == Some(5)).then_some(())).await;
    assert!(agent.no_reader_waits() && other.no_reader_waits(), "one stream per agent");
    let connected =
        harness.metric(&format!(r#"forebay_epp_agent_connected{{agent="{}"}}"#, agent.address)).await;
    assert_eq!(connected, 1.0);
}
