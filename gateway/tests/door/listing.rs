//! `/v1/models` of a caller.

use super::*;

async fn list(address: SocketAddr, path: &str, key: &str) -> Response {
    let headers = if key.is_empty() { String::new() } else { bearer(key) };
    exchange(address, format!("GET {path} HTTP/1.1\r\nhost: models.example\r\n{headers}\r\n")).await
}

fn ids(response: &Response) -> Vec<String> {
    let json = response.json();
    let data = json["data"].as_array().unwrap();
    data.iter().map(|model| model["id"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn callers_see_only_the_models_that_they_may_use() {
    let (qwen, tiny) = (Pod::start(&[QWEN, "lora"]).await, Pod::start(&[TINY]).await);
    let running = door(&qwen, &tiny, &format!("{}, {BY_MODEL}", keys(""))).start().await;
    let address = running.address();
    for (key, models) in [(SALES, vec![QWEN]), (LABS, vec![QWEN, TINY])] {
        let response = list(address, "/v1/models", key).await;
        assert_eq!(
            (response.status, ids(&response)),
            (200, models.iter().map(ToString::to_string).collect())
        );
    }
    assert_eq!(outcome(&list(address, "/v1/models", "").await), is(401, "missing_api_key"));
    let of = |key, model| {
        list(
            address,
            if model == TINY {
                "/v1/models/TinyLlama%2FTinyLlama-1.1B-Chat-v1.0"
            } else {
                "/v1/models/unknown"
            },
            key,
        )
    };
    assert_eq!(of(LABS, TINY).await.status, 200);
    assert_eq!(outcome(&of(SALES, TINY).await), is(404, "model_not_found"));
    assert_eq!(outcome(&of(SALES, "unknown").await), is(404, "model_not_found"));
    assert_eq!(of("", TINY).await.text(), of("", "unknown").await.text());
    assert_eq!(of("", TINY).await.status, 401);
}

#[tokio::test]
async fn a_route_with_keys_is_listed_for_these_keys() {
    let (qwen, tiny) = (Pod::start(&[QWEN]).await, Pod::start(&[TINY]).await);
    let route = "{group: gateway.networking.k8s.io, kind: HTTPRoute, name: tiny}";
    let running = Harness::new()
        .pool("qwen", QWEN, &[qwen.port], None)
        .pool("tiny", TINY, &[tiny.port], None)
        .with(&secret("llm-d"))
        .with(&policy("llm-d", "tiny", route, &keys("")))
        .start()
        .await;
    assert_eq!(ids(&list(running.address(), "/v1/models", "").await), [QWEN]);
    assert_eq!(ids(&list(running.address(), "/v1/models", SALES).await), [QWEN, TINY]);
}
