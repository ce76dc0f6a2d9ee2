//! `GET /v1/models`.

use crate::support::client::{exchange, get, post};
use crate::support::harness::{Harness, QWEN, TINY};
use crate::support::upstream::Upstream;

fn list(ids: &[&str]) -> String {
    let models: Vec<String> =
        ids.iter().map(|id| format!(r#"{{"id":"{id}","object":"model","owned_by":"vllm"}}"#)).collect();
    format!(r#"{{"object":"list","data":[{}]}}"#, models.join(","))
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
    let running = Harness::new()
        .pool("qwen", QWEN, &[qwen.port()], None)
        .pool("tiny", TINY, &[tiny.port()], None)
        .start()
        .await;
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
        assert_eq!(qwen.answer_one(&of_qwen).await.line, "GET /v1/models HTTP/1.1");
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
async fn skips_pods_with_invalid_lists() {
    let (odd, huge, down) = (Upstream::bind().await, Upstream::bind().await, Upstream::bind().await.port());
    let running = Harness::new().pool("qwen", QWEN, &[odd.port(), huge.port(), down], None).start().await;
    let too_large = "x".repeat(2 << 20);
    let pods = async { tokio::join!(odd.answer_one("<html>"), huge.answer_one(&too_large)) };
    let (response, _) = tokio::join!(get(running.address(), "/v1/models"), pods);
    assert_eq!(response.text(), r#"{"object":"list","data":[]}"#);
}
