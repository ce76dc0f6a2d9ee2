use k8s_openapi::api::core::v1::Secret;
use kube::api::PostParams;
use serde_json::{Value, json};

use crate::program::{Keys, hash};

#[tokio::test]
async fn lists_each_key_with_its_state_and_without_its_value() {
    let Some(keys) = Keys::new("show").await else { return };
    let over =
        json!({ "keyHash": hash("x"), "metadata": { "owner": "o", "expiresAt": "2020-01-01T00:00:00Z" } });
    let secret = json!({
        "metadata": { "name": "api-keys" },
        "stringData": { "broken": "{PLAIN-KEY", "over": over.to_string(), "plain": "PLAIN-KEY" },
    });
    let secret: Secret = serde_json::from_value(secret).unwrap();
    keys.secrets().create(&PostParams::default(), &secret).await.unwrap();
    let key = keys.key("create valid --owner=me --group=a,b --model=m --expires=30d --set=tier=gold").await;

    let table = keys.ok("list").await;
    let states: Vec<(&str, &str)> = table
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>())
        .map(|words| (words[0], words[6]))
        .collect();
    let expected = [
        ("NAME", "STATE"),
        ("broken", "unreadable:"),
        ("over", "expired"),
        ("plain", "valid"),
        ("valid", "valid"),
    ];
    assert_eq!(states, expected, "{table}");
    let json = keys.ok("list -o json").await;
    let shown = [keys.ok("show valid").await, keys.ok("show broken").await, keys.ok("show plain").await];
    for output in [&table, &json].into_iter().chain(&shown) {
        assert!(!output.contains("PLAIN-KEY") && !output.contains(&hash(&key)), "{output}");
    }
    let document: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(document["kind"], "ApiKeyList");
    let of = |number: usize| &document["items"][number];
    assert_eq!((&of(0)["state"], of(0)["problem"].is_string()), (&json!("unreadable"), true));
    assert_eq!((&of(1)["state"], &of(1)["owner"]), (&json!("expired"), &json!("o")));
    assert_eq!((&of(2)["state"], &of(2)["owner"]), (&json!("valid"), &Value::Null));
    assert_eq!((&of(3)["groups"], &of(3)["metadata"]["tier"]), (&json!(["a", "b"]), &json!("gold")));

    assert!(shown[0].lines().any(|line| line.split_whitespace().eq(["tier:", "gold"])), "{}", shown[0]);
    let one: Value = serde_json::from_str(&keys.ok("show valid -o json").await).unwrap();
    assert_eq!((&one["kind"], &one["models"]), (&json!("ApiKey"), &json!(["m"])));
    let message = keys.refused("show unknown").await;
    assert!(message.contains("has no key unknown; it has broken, over, plain, valid"), "{message}");
}
