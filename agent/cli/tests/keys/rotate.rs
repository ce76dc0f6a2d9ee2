use k8s_openapi::api::core::v1::Secret;
use kube::api::PostParams;
use serde_json::{Value, json};

use crate::program::{Keys, hash};

async fn secret(keys: &Keys, entries: Value) {
    let secret = json!({ "metadata": { "name": "api-keys" }, "stringData": entries });
    let secret: Secret = serde_json::from_value(secret).unwrap();
    keys.secrets().create(&PostParams::default(), &secret).await.unwrap();
}

/// Names of the entries that keep earlier keys of alice.
async fn previous(keys: &Keys) -> Vec<String> {
    keys.stored().await.into_keys().filter(|name| name.starts_with("alice.previous-")).collect()
}

#[tokio::test]
async fn a_new_key_has_the_same_metadata_and_the_old_one_a_time_of_grace() {
    let Some(keys) = Keys::new("rotate").await else { return };
    let first = keys.key("create alice --owner=a --model=m --set=tier=gold").await;
    let second = keys.key("rotate alice --grace=24h").await;
    let entry = keys.entry("alice").await;
    assert_eq!(entry["keyHash"], hash(&second));
    for (name, value) in [("owner", json!("a")), ("models", json!(["m"])), ("tier", json!("gold"))] {
        assert_eq!(entry["metadata"][name], value);
    }
    assert!(entry["metadata"]["rotatedAt"].is_string() && entry["metadata"]["expiresAt"].is_null());

    let [name] = previous(&keys).await.try_into().unwrap();
    let old = keys.entry(&name).await;
    assert_eq!(old["keyHash"], hash(&first));
    assert_eq!((&old["metadata"]["name"], &old["metadata"]["tier"]), (&json!("alice"), &json!("gold")));
    let expires = old["metadata"]["expiresAt"].as_str().unwrap();
    assert!(expires > entry["metadata"]["rotatedAt"].as_str().unwrap(), "{expires}");

    // Both earlier keys have their time. Without one they end.
    keys.key("rotate alice --grace=1h").await;
    assert_eq!(previous(&keys).await.len(), 2);
    keys.key("rotate alice").await;
    assert_eq!(previous(&keys).await.len(), 0);

    // A revoked key has no earlier ones left either.
    keys.key("create alice-b").await;
    keys.key("rotate alice --grace=1h").await;
    keys.ok("revoke alice").await;
    assert_eq!(keys.stored().await.into_keys().collect::<Vec<_>>(), ["alice-b"]);
    let message = keys.refused("revoke alice").await;
    assert!(message.contains("has no key alice; it has alice-b"), "{message}");
}

#[tokio::test]
async fn grace_ends_no_later_than_the_key() {
    let Some(keys) = Keys::new("grace").await else { return };
    keys.key("create alice --expires=2099-01-01T00:00:00Z").await;
    keys.key("rotate alice --grace=99999d --expires=never").await;
    let [name] = previous(&keys).await.try_into().unwrap();
    assert_eq!(keys.entry(&name).await["metadata"]["expiresAt"], "2099-01-01T00:00:00Z");
    assert!(keys.entry("alice").await["metadata"]["expiresAt"].is_null());
}

#[tokio::test]
async fn keys_of_others_are_replaced_by_hashes_and_expired_ones_need_a_time() {
    let Some(keys) = Keys::new("others").await else { return };
    let over = json!({ "keyHash": hash("over"), "metadata": { "expiresAt": "2020-01-01T00:00:00Z" } });
    let entries = json!({ "alice": "PLAIN-KEY", "over": over.to_string(), "broken": "{PLAIN-KEY" });
    secret(&keys, entries).await;
    keys.key("rotate alice --grace=1h").await;
    let [name] = previous(&keys).await.try_into().unwrap();
    assert_eq!(keys.entry(&name).await["keyHash"], hash("PLAIN-KEY"));

    let message = keys.refused("rotate over").await;
    assert!(message.contains("has expired") && message.contains("--expires"), "{message}");
    keys.key("rotate over --grace=1h --expires=30d").await;
    let names: Vec<String> = keys.stored().await.into_keys().collect();
    assert!(!names.iter().any(|name| name.starts_with("over.")), "an expired key gets no time: {names:?}");

    let message = keys.refused("rotate broken").await;
    assert!(message.contains("cannot be read") && !message.contains("PLAIN-KEY"), "{message}");
    keys.ok("revoke broken").await;
}

#[tokio::test]
async fn a_dry_run_prints_both_entries() {
    let Some(keys) = Keys::new("rotate-dry-run").await else { return };
    keys.key("create alice").await;
    let before = keys.stored().await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("key");
    let words = format!("rotate alice --grace=1h --dry-run -o json --key-file={}", file.display());
    let printed = keys.ok(&words).await;
    let manifest: Value = serde_json::from_str(&printed).unwrap();
    let entries = manifest["stringData"].as_object().unwrap();
    let new: Value = serde_json::from_str(entries["alice"].as_str().unwrap()).unwrap();
    assert_eq!(new["keyHash"], hash(std::fs::read_to_string(&file).unwrap().trim()));
    assert_eq!((entries.len(), keys.stored().await), (2, before));
}
