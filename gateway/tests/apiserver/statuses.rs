//! Statuses and Services that two replicas write, including a change of the leader.

use std::net::Ipv4Addr;

use kube::api::DeleteParams;
use serde_json::{Value, json};

use crate::harness::{Harness, condition, get_status, has};

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
async fn the_leader_writes_statuses_and_services() {
    let Some(harness) = Harness::start().await else { return };
    harness.apply(API, "GatewayClass", "", "forebay", json!({ "spec": { "controllerName": OURS } })).await;
    let theirs = json!({ "spec": { "controllerName": "example.com/other" } });
    harness.apply(API, "GatewayClass", "", "other", theirs).await;
    harness.pool("qwen").await;
    harness.route("chat", "public", "qwen").await;
    let others_entry = json!({
        "parentRef": { "group": "gateway.networking.k8s.io", "kind": "Gateway", "name": "theirs" },
        "controllerName": "example.com/other",
        "conditions": [],
    });
    harness.set_status(API, "HTTPRoute", "models", "chat", json!({ "parents": [others_entry] })).await;
    harness.listen("public", 80).await;

    let (first_ip, second_ip) = (Ipv4Addr::new(127, 0, 41, 1), Ipv4Addr::new(127, 0, 41, 2));
    let first = harness.gateway("first", first_ip).await;
    let lease = ("coordination.k8s.io/v1", "Lease", "forebay", "forebay-gateway");
    harness.until(lease, "the Lease is taken", |lease| lease["spec"]["holderIdentity"] == "first").await;
    let second = harness.gateway("second", second_ip).await;

    // GatewayClass.
    let class = (API, "GatewayClass", "", "forebay");
    let class =
        harness.until(class, "the class", |it| has(&it["status"]["conditions"], "Accepted", "True")).await;
    assert!(class["status"]["supportedFeatures"].as_array().is_some_and(|features| !features.is_empty()));

    // The Gateway has the address of its Service.
    let public = (API, "Gateway", "infra", "public");
    harness
        .until(public, "no gateway is ready behind the Service", |it| {
            let programmed = condition(&it["status"]["conditions"], "Programmed");
            programmed.is_some_and(|it| it["status"] == "False" && it["reason"] == "Pending")
                && it["status"]["addresses"].as_array().is_none_or(Vec::is_empty)
        })
        .await;
    harness.ready_behind("infra-public", 80).await;
    let gateway = harness
        .until(public, "the Gateway is programmed", |it| {
            has(&it["status"]["conditions"], "Programmed", "True")
        })
        .await;
    let status = &gateway["status"];
    assert!(has(&status["conditions"], "Accepted", "True"), "{status:#}");
    let service = harness.get("v1", "Service", "forebay", "infra-public").await;
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

    // Both replicas serve the container port of the Service.
    for ip in [first_ip, second_ip] {
        let address = (ip, target).into();
        tokio::time::timeout(crate::harness::DEADLINE, async { while get_status(address).await != 200 {} })
            .await
            .unwrap_or_else(|_| panic!("{address} does not serve"));
    }

    // The route keeps the entry of the other controller. The pool has an entry.
    let chat = (API, "HTTPRoute", "models", "chat");
    let route = harness.until(chat, "the route has our entry", |it| ours(it).len() == 1).await;
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
    let pool = harness.until(qwen, "the pool has our entry", |it| ours(it).len() == 1).await;
    assert!(has(&ours(&pool)[0]["conditions"], "Accepted", "True"), "{pool:#}");

    // Rewrites of that pool, of a missing pool, and one that another controller owns.
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
    harness.apply(REWRITES, "InferenceModelRewrite", "models", "theirs", rewrite("nowhere")).await;
    harness.set_status(REWRITES, "InferenceModelRewrite", "models", "theirs", others_word).await;
    let theirs = (REWRITES, "InferenceModelRewrite", "models", "theirs");
    let before = harness.get(theirs.0, theirs.1, theirs.2, theirs.3).await;
    harness.apply(REWRITES, "InferenceModelRewrite", "models", "food", rewrite("nowhere")).await;
    let refused = harness.until(food, "the rewrite is refused", |it| accepted(it).is_some()).await;
    let said = accepted(&refused).unwrap();
    assert_eq!((&said["status"], &said["reason"]), (&json!("False"), &json!("TargetNotFound")), "{said:#}");
    assert_eq!(said["message"], "forebay.dev/gateway: the InferencePool models/nowhere does not exist");
    harness.apply(REWRITES, "InferenceModelRewrite", "models", "food", rewrite("qwen")).await;
    let taken = harness
        .until(food, "the rewrite is accepted", |it| has(&it["status"]["conditions"], "Accepted", "True"))
        .await;
    assert_eq!(accepted(&taken).unwrap()["observedGeneration"], 2);
    let after = harness.get(theirs.0, theirs.1, theirs.2, theirs.3).await;
    assert_eq!(version(&before), version(&after), "the condition of another controller was overwritten");

    // A second Gateway with the same port gets another container port. Nothing else is written.
    harness.listen("private", 80).await;
    harness.ready_behind("infra-private", 80).await;
    let private = (API, "Gateway", "infra", "private");
    harness
        .until(private, "the second Gateway", |it| has(&it["status"]["conditions"], "Programmed", "True"))
        .await;
    let private = harness.get("v1", "Service", "forebay", "infra-private").await;
    assert_ne!(private["spec"]["ports"][0]["targetPort"], json!(target));
    for (before, (api, kind, namespace, name)) in [(&gateway, public), (&route, chat), (&pool, qwen)] {
        assert_eq!(
            version(before),
            version(&harness.get(api, kind, namespace, name).await),
            "{kind} {name} was written"
        );
    }
    let other = harness.get(API, "GatewayClass", "", "other").await;
    assert_eq!(other["status"]["conditions"], Value::Null, "{other:#}");

    // An invalid policy has a condition with the reason.
    let policy = json!({ "spec": {
        "targetRefs": [{ "group": "gateway.networking.k8s.io", "kind": "Gateway", "name": "public" }],
        "traffic": { "phase": "PreRouting", "transformation": { "request": { "set": [
            { "name": "X-Gateway-Base-Model-Name", "value": "json(request.body).model" },
        ] } } },
    } });
    harness.apply("agentgateway.dev/v1alpha1", "AgentgatewayPolicy", "infra", "bbr", policy).await;
    let policy = ("agentgateway.dev/v1alpha1", "AgentgatewayPolicy", "infra", "bbr");
    let policy = harness.until(policy, "the policy is refused", |it| {
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

    // For a missing pool, the condition and its time change. The other condition keeps its time.
    harness.route("chat", "public", "nowhere").await;
    let route = harness
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
    harness.until(qwen, "the pool's entry is gone", |it| ours(it).is_empty()).await;

    // The leader stops. The other replica takes over.
    first.shutdown().await;
    harness
        .until(lease, "the Lease is taken over", |lease| lease["spec"]["holderIdentity"] == "second")
        .await;
    harness.route("chat", "public", "qwen").await;
    harness.until(qwen, "the other replica writes", |it| ours(it).len() == 1).await;
    let unchanged = harness.get("v1", "Service", "forebay", "infra-public").await;
    assert_eq!(
        unchanged["spec"]["ports"][0]["targetPort"],
        json!(target),
        "a new writer gives no new ports out"
    );

    // The Service of a deleted Gateway is deleted.
    harness.api(API, "Gateway", "infra").delete("public", &DeleteParams::default()).await.unwrap();
    harness.until(("v1", "Service", "forebay", "infra-public"), "its Service is gone", Value::is_null).await;
    harness.until(chat, "the route has others' entries only", |it| ours(it).is_empty()).await;
    let route = harness.get(API, "HTTPRoute", "models", "chat").await;
    assert_eq!(route["status"]["parents"][0]["controllerName"], "example.com/other", "{route:#}");
    second.shutdown().await;
}
