//! What two replicas write, from the first Gateway to the end of the first replica.

use std::net::Ipv4Addr;

use kube::api::DeleteParams;
use serde_json::{Value, json};

use crate::stage::{Stage, condition, get_status, has};

const API: &str = "gateway.networking.k8s.io/v1";
const POOLS: &str = "inference.networking.k8s.io/v1";
const REWRITES: &str = "llm-d.ai/v1alpha2";
const OURS: &str = "forebay.dev/gateway";

fn ours(status: &Value) -> Vec<&Value> {
    let parents = status["status"]["parents"].as_array();
    parents.into_iter().flatten().filter(|it| it["controllerName"] == OURS).collect()
}

fn version(object: &Value) -> &Value {
    &object["metadata"]["resourceVersion"]
}

#[tokio::test(flavor = "multi_thread")]
async fn statuses_and_services_are_written_by_one_replica_after_the_other() {
    let Some(stage) = Stage::start().await else { return };
    stage.apply(API, "GatewayClass", "", "forebay", json!({ "spec": { "controllerName": OURS } })).await;
    let theirs = json!({ "spec": { "controllerName": "example.com/other" } });
    stage.apply(API, "GatewayClass", "", "other", theirs).await;
    stage.pool("qwen").await;
    stage.route("chat", "public", "qwen").await;
    let others_entry = json!({
        "parentRef": { "group": "gateway.networking.k8s.io", "kind": "Gateway", "name": "theirs" },
        "controllerName": "example.com/other",
        "conditions": [],
    });
    stage.set_status(API, "HTTPRoute", "models", "chat", json!({ "parents": [others_entry] })).await;
    stage.listen("public", 80).await;

    let (first_ip, second_ip) = (Ipv4Addr::new(127, 0, 41, 1), Ipv4Addr::new(127, 0, 41, 2));
    let first = stage.gateway("first", first_ip).await;
    let lease = ("coordination.k8s.io/v1", "Lease", "forebay", "forebay-gateway");
    stage.until(lease, "the Lease is taken", |lease| lease["spec"]["holderIdentity"] == "first").await;
    let second = stage.gateway("second", second_ip).await;

    // The class.
    let class = (API, "GatewayClass", "", "forebay");
    let class =
        stage.until(class, "the class", |it| has(&it["status"]["conditions"], "Accepted", "True")).await;
    assert!(class["status"]["supportedFeatures"].as_array().is_some_and(|features| !features.is_empty()));

    // The Gateway, with an address that is its Service's.
    let public = (API, "Gateway", "infra", "public");
    let gateway = stage
        .until(public, "the Gateway is programmed", |it| {
            has(&it["status"]["conditions"], "Programmed", "True")
        })
        .await;
    let status = &gateway["status"];
    assert!(has(&status["conditions"], "Accepted", "True"), "{status:#}");
    let service = stage.get("v1", "Service", "forebay", "infra-public").await;
    assert_eq!(status["addresses"], json!([{ "type": "IPAddress", "value": service["spec"]["clusterIP"] }]));
    assert_eq!(service["spec"]["selector"], json!({ "app.kubernetes.io/name": "forebay-gateway" }));
    assert_eq!(service["spec"]["ports"][0]["port"], 80);
    let target = u16::try_from(service["spec"]["ports"][0]["targetPort"].as_u64().unwrap()).unwrap();
    assert!((10_000..=10_999).contains(&target));
    let listener = &status["listeners"][0];
    assert_eq!((&listener["name"], &listener["attachedRoutes"]), (&json!("http"), &json!(1)));
    for (kind, holds) in
        [("Accepted", "True"), ("Programmed", "True"), ("ResolvedRefs", "True"), ("Conflicted", "False")]
    {
        assert!(has(&listener["conditions"], kind, holds), "{kind}: {listener:#}");
        assert_eq!(condition(&listener["conditions"], kind).unwrap()["observedGeneration"], 1);
    }

    // Both replicas serve at the container port that the Service names.
    for ip in [first_ip, second_ip] {
        let address = (ip, target).into();
        tokio::time::timeout(crate::stage::DEADLINE, async { while get_status(address).await != 200 {} })
            .await
            .unwrap_or_else(|_| panic!("{address} does not serve"));
    }

    // The route, beside the other controller's entry; and the pool.
    let chat = (API, "HTTPRoute", "models", "chat");
    let route = stage.until(chat, "the route has our entry", |it| ours(it).len() == 1).await;
    assert_eq!(route["status"]["parents"][0]["controllerName"], "example.com/other", "{route:#}");
    let entry = ours(&route)[0].clone();
    assert_eq!(
        (&entry["parentRef"]["name"], &entry["parentRef"]["namespace"]),
        (&json!("public"), &json!("infra"))
    );
    assert!(
        has(&entry["conditions"], "Accepted", "True") && has(&entry["conditions"], "ResolvedRefs", "True"),
        "{entry:#}"
    );
    let qwen = (POOLS, "InferencePool", "models", "qwen");
    let pool = stage.until(qwen, "the pool has our entry", |it| ours(it).len() == 1).await;
    assert!(has(&ours(&pool)[0]["conditions"], "Accepted", "True"), "{pool:#}");

    // Rewrites: of that pool, of one that is not there, and one that another controller has taken.
    let food = (REWRITES, "InferenceModelRewrite", "models", "food");
    let rewrite = |pool: &str| {
        let rule =
            json!({ "matches": [{ "model": { "value": "food" } }], "targets": [{ "modelRewrite": "qwen" }] });
        json!({ "spec": { "poolRef": { "name": pool }, "rules": [rule] } })
    };
    let accepted = |it: &Value| condition(&it["status"]["conditions"], "Accepted").cloned();
    let others_word = json!({ "conditions": [{
        "type": "Accepted", "status": "True", "reason": "Accepted", "message": "",
        "lastTransitionTime": "2020-01-01T00:00:00Z",
    }] });
    stage.apply(REWRITES, "InferenceModelRewrite", "models", "theirs", rewrite("nowhere")).await;
    stage.set_status(REWRITES, "InferenceModelRewrite", "models", "theirs", others_word).await;
    let theirs = (REWRITES, "InferenceModelRewrite", "models", "theirs");
    let before = stage.get(theirs.0, theirs.1, theirs.2, theirs.3).await;
    stage.apply(REWRITES, "InferenceModelRewrite", "models", "food", rewrite("nowhere")).await;
    let refused = stage.until(food, "the rewrite is refused", |it| accepted(it).is_some()).await;
    let said = accepted(&refused).unwrap();
    assert_eq!((&said["status"], &said["reason"]), (&json!("False"), &json!("TargetNotFound")), "{said:#}");
    assert_eq!(said["message"], "forebay.dev/gateway: there is no InferencePool models/nowhere");
    stage.apply(REWRITES, "InferenceModelRewrite", "models", "food", rewrite("qwen")).await;
    let taken = stage
        .until(food, "the rewrite is accepted", |it| has(&it["status"]["conditions"], "Accepted", "True"))
        .await;
    assert_eq!(accepted(&taken).unwrap()["observedGeneration"], 2);
    let after = stage.get(theirs.0, theirs.1, theirs.2, theirs.3).await;
    assert_eq!(version(&before), version(&after), "another's condition was written over");

    // A second Gateway of the same port has another container port, and writes nothing elsewhere.
    stage.listen("private", 80).await;
    let private = (API, "Gateway", "infra", "private");
    stage
        .until(private, "the second Gateway", |it| has(&it["status"]["conditions"], "Programmed", "True"))
        .await;
    let private = stage.get("v1", "Service", "forebay", "infra-private").await;
    assert_ne!(private["spec"]["ports"][0]["targetPort"], json!(target));
    for (before, (api, kind, namespace, name)) in [(&gateway, public), (&route, chat), (&pool, qwen)] {
        assert_eq!(
            version(before),
            version(&stage.get(api, kind, namespace, name).await),
            "{kind} {name} was written"
        );
    }
    let other = stage.get(API, "GatewayClass", "", "other").await;
    assert_eq!(other["status"]["conditions"], Value::Null, "{other:#}");

    // A policy that cannot be done says so where its author looks.
    let policy = json!({ "spec": {
        "targetRefs": [{ "group": "gateway.networking.k8s.io", "kind": "Gateway", "name": "public" }],
        "traffic": { "phase": "PreRouting", "transformation": { "request": { "set": [
            { "name": "X-Gateway-Base-Model-Name", "value": "json(request.body).model" },
        ] } } },
    } });
    stage.apply("agentgateway.dev/v1alpha1", "AgentgatewayPolicy", "infra", "bbr", policy).await;
    let policy = ("agentgateway.dev/v1alpha1", "AgentgatewayPolicy", "infra", "bbr");
    let policy = stage.until(policy, "the policy is refused", |it| {
        has(&it["status"]["ancestors"][0]["conditions"], "Accepted", "False")
    });
    let policy = policy.await;
    let ancestor = &policy["status"]["ancestors"][0];
    assert_eq!(
        (&ancestor["controllerName"], &ancestor["ancestorRef"]["name"]),
        (&json!(OURS), &json!("public"))
    );
    let message = condition(&ancestor["conditions"], "Accepted").unwrap()["message"].as_str().unwrap();
    assert!(message.contains("expected `{` at character 1"), "{message}");

    // A pool that is not there: the condition changes with its time, the other one keeps its own.
    stage.route("chat", "public", "nowhere").await;
    let route = stage
        .until(chat, "the route's pool is missing", |it| {
            ours(it).first().is_some_and(|it| has(&it["conditions"], "ResolvedRefs", "False"))
        })
        .await;
    let conditions = &ours(&route)[0]["conditions"];
    assert_eq!(condition(conditions, "ResolvedRefs").unwrap()["reason"], "BackendNotFound");
    let (now, before) =
        (condition(conditions, "Accepted").unwrap(), condition(&entry["conditions"], "Accepted").unwrap());
    assert_eq!(now["lastTransitionTime"], before["lastTransitionTime"]);
    assert_eq!(now["observedGeneration"], 2);
    stage.until(qwen, "the pool's entry is gone", |it| ours(it).is_empty()).await;

    // The holder ends; the other one goes on.
    first.shutdown().await;
    stage.until(lease, "the Lease is taken over", |lease| lease["spec"]["holderIdentity"] == "second").await;
    stage.route("chat", "public", "qwen").await;
    stage.until(qwen, "the other replica writes", |it| ours(it).len() == 1).await;
    let unchanged = stage.get("v1", "Service", "forebay", "infra-public").await;
    assert_eq!(
        unchanged["spec"]["ports"][0]["targetPort"],
        json!(target),
        "a new writer gives no new ports out"
    );

    // What a Gateway has goes with it.
    stage.api(API, "Gateway", "infra").delete("public", &DeleteParams::default()).await.unwrap();
    stage.until(("v1", "Service", "forebay", "infra-public"), "its Service is gone", Value::is_null).await;
    stage.until(chat, "the route has others' entries only", |it| ours(it).is_empty()).await;
    let route = stage.get(API, "HTTPRoute", "models", "chat").await;
    assert_eq!(route["status"]["parents"][0]["controllerName"], "example.com/other", "{route:#}");
    second.shutdown().await;
}
