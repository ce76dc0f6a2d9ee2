//! `GET /v1/models`.

use crate::support::client::{exchange, get, post};
use crate::support::harness::{Harness, QWEN, Running, TINY};
use crate::support::upstream::Upstream;
use crate::support::within;

fn list(ids: &[&str]) -> String {
    let models: Vec<String> =
        ids.iter().map(|id| format!(r#"{{"id":"{id}","object":"model","owned_by":"vllm"}}"#)).collect();
    format!(r#"{{"object":"list","data":[{}]}}"#, models.join(","))
}

async fn two_pools(qwen: &Upstream, tiny: &Upstream) -> Running {
    Harness::new()
        .pool("qwen", QWEN, &[qwen.port()], None)
        .pool("tiny", TINY, &[tiny.port()], None)
        .start()
        .await
}

#[tokio::test]
async fn lists_the_models_of_all_ready_pods() {
    let (one, two, tiny) = (Upstream::bind().await, Upstream::bind().await, Upstream::bind().await);
    let down = Upstream::bind().await.port();
    let running = Harness::new()
        .pool("qwen", QWEN, &[one.port(), two.port(), down], None)
        .pool("tiny", TINY, &[tiny.port()], None)
        .start()
        .await;
    let (one_list, two_list, tiny_list) =
        (list(&["b-adapter", QWEN]), list(&[QWEN, "a-adapter"]), list(&[TINY]));
    let pods = async {
        tokio::join!(one.answer_one(&one_list), two.answer_one(&two_list), tiny.answer_one(&tiny_list))
    };
    let (response, (request, ..)) = tokio::join!(get(running.address(), "/v1/models"), pods);
    assert_eq!(request.line, "GET /v1/models HTTP/1.1");
    let models = response.json();
    assert_eq!((response.status, &models["object"]), (200, &"list".into()));
    let ids: Vec<&str> =
        models["data"].as_array().unwrap().iter().map(|model| model["id"].as_str().unwrap()).collect();
    assert_eq!(ids, [QWEN, TINY, "a-adapter", "b-adapter"]);
    assert_eq!(models["data"][0]["owned_by"], "vllm");

    // From the cache: no pod responds any more.
    drop((one, two, tiny));
    let model = get(running.address(), "/v1/models/Qwen%2FQwen3-0.6B").await;
    assert_eq!((model.status, &model.json()["id"]), (200, &QWEN.into()));
    assert_eq!(get(running.address(), "/v1/models/Qwen/Qwen3-0.6B").await.status, 200);
    let unknown = get(running.address(), "/v1/models/nonexistent").await;
    assert_eq!((unknown.status, unknown.code().as_str()), (404, "model_not_found"));
}

/// No resource names the base model of the adapter. The pods report it.
#[tokio::test]
async fn routes_adapters_by_their_base_model() {
    let (qwen, tiny) = (Upstream::bind().await, Upstream::bind().await);
    let running = two_pools(&qwen, &tiny).await;
    let of_qwen = format!(
        r#"{{"object":"list","data":[{{"id":"{QWEN}","object":"model"}},{{"id":"my-lora","object":"model","parent":"{QWEN}"}}]}}"#
    );
    let of_tiny = list(&[TINY]);
    let body = r#"{"model":"my-lora","messages":[]}"#;
    // This pod is only asked if it is not the first.
    let other = tokio::spawn(async move {
        if let Ok(mut connection) = tiny.accept_any().await
            && connection.next_request().await.is_some()
        {
            connection.respond(200, &of_tiny).await;
        }
        std::future::pending::<()>().await
    });
    let pods = async {
        let mut pod = qwen.accept().await;
        assert_eq!(pod.read_request().await.line, "GET /v1/models HTTP/1.1");
        let length = of_qwen.len();
        pod.write(format!(
            "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{of_qwen}"
        ))
        .await;
        qwen.answer_one("adapted").await
    };
    let (response, request) = tokio::join!(exchange(running.address(), post(body)), pods);
    assert_eq!(response.text(), "adapted");
    assert_eq!(request.header("x-gateway-model-name"), Some("my-lora"));
    assert_eq!(request.header("x-gateway-base-model-name"), Some(QWEN));
    // An unknown model does not cause another query within the cache time.
    let response = exchange(running.address(), post(r#"{"model":"other"}"#)).await;
    assert_eq!((response.status, response.code().as_str()), (404, "model_not_found"));
    other.abort();
}

#[tokio::test]
async fn pods_that_do_not_list_their_models_are_an_error_and_no_empty_list() {
    let too_large = "x".repeat(2 << 20);
    for (status, body) in [(200, "<html>"), (200, too_large.as_str()), (401, "{}"), (403, "{}"), (500, "{}")]
    {
        let pod = Upstream::bind().await;
        let running = Harness::new().pool("qwen", QWEN, &[pod.port()], None).start().await;
        let answering = async {
            let mut pod = pod.accept().await;
            pod.read_request().await;
            // The gateway stops reading what is too large.
            use tokio::io::AsyncWriteExt as _;
            let head = format!("HTTP/1.1 {status} X\r\ncontent-length: {}\r\n\r\n", body.len());
            let _ = pod.stream.write_all(&[head.as_bytes(), body.as_bytes()].concat()).await;
        };
        let (response, ()) = tokio::join!(get(running.address(), "/v1/models"), answering);
        assert_eq!((response.status, response.code().as_str()), (502, "models_unavailable"), "{status}");
        assert!(response.text().contains("llm-d/qwen"), "{}", response.text());
        // The failure is cached: no pod responds any more.
        drop(pod);
        let one = get(running.address(), "/v1/models/x").await;
        assert_eq!((one.status, one.code().as_str()), (502, "models_unavailable"));
    }
}

#[tokio::test]
async fn pools_without_ready_pods_are_an_error() {
    let mut harness = Harness::new().pool("qwen", QWEN, &[1], None);
    harness.manifests = harness.manifests.replace("status: \"True\"", "status: \"False\"");
    let running = harness.start().await;
    let response = get(running.address(), "/v1/models").await;
    assert_eq!((response.status, response.code().as_str()), (503, "no_ready_endpoint"));
}

#[tokio::test]
async fn the_list_names_pools_whose_models_are_missing() {
    let (qwen, tiny) = (Upstream::bind().await, Upstream::bind().await);
    let running = two_pools(&qwen, &tiny).await;
    let refusing = async {
        let mut pod = tiny.accept().await;
        pod.read_request().await;
        pod.respond(401, "{}").await;
    };
    let qwen_list = list(&[QWEN]);
    let (response, ..) =
        tokio::join!(get(running.address(), "/v1/models"), qwen.answer_one(&qwen_list), refusing);
    let models = response.json();
    assert_eq!((response.status, &models["data"][0]["id"]), (200, &QWEN.into()));
    assert_eq!(models["errors"][0]["pool"], "llm-d/tiny");
    assert!(models["errors"][0]["message"].as_str().unwrap().contains("401"), "{models}");
    assert_eq!(models["errors"].as_array().unwrap().len(), 1);
}

/// The key is read from the Secret that the pool names. A Secret that comes later is used at once.
#[tokio::test]
async fn pods_that_need_a_key_are_asked_with_the_pools() {
    let pod = Upstream::bind().await;
    let mut harness = Harness::new().pool("qwen", QWEN, &[pod.port()], None);
    let annotated = "metadata: {name: qwen, namespace: llm-d, annotations: {forebay.dev/models-secret: engine}}\nspec:\n  selector";
    let plain = "metadata: {name: qwen, namespace: llm-d}\nspec:\n  selector";
    assert!(harness.manifests.contains(plain));
    harness.manifests = harness.manifests.replacen(plain, annotated, 1);
    let without = harness.manifests.clone();
    let mut running = harness.start().await;
    let answer = |status: u16, body: String| {
        let pod = &pod;
        async move {
            let mut pod = pod.accept().await;
            let request = pod.read_request().await;
            let length = body.len();
            pod.write(format!(
                "HTTP/1.1 {status} X\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{body}"
            ))
            .await;
            request.header("authorization").map(str::to_owned)
        }
    };
    let (response, key) = tokio::join!(get(running.address(), "/v1/models"), answer(401, "{}".into()));
    assert_eq!((response.status, response.code().as_str(), key), (502, "models_unavailable", None));
    assert!(
        response.text().contains("the Secret engine that the pool names does not exist"),
        "{}",
        response.text()
    );

    let secret = |entry: &str| {
        format!(
            "{without}---\napiVersion: v1\nkind: Secret\nmetadata: {{name: engine, namespace: llm-d}}\nstringData: {{{entry}: \"sk-1\\n\"}}\n"
        )
    };
    // Another entry, such as a TLS key, is not sent.
    running.write(&secret("tls.key"));
    within("the gateway to follow", running.gateway.changed()).await;
    let response = get(running.address(), "/v1/models").await;
    assert_eq!(response.code(), "models_unavailable", "the failure is cached");
    running.write(&secret("api-key"));
    within("the gateway to follow", running.gateway.changed()).await;
    let (response, key) = tokio::join!(get(running.address(), "/v1/models"), answer(200, list(&[QWEN])));
    assert_eq!((response.status, key.as_deref()), (200, Some("Bearer sk-1")));
}
