use std::{os::unix::fs::PermissionsExt as _, process::Stdio};

use futures_util::future::join_all;
use k8s_openapi::api::core::v1::Secret;
use kube::api::{Patch, PatchParams, PostParams};
use serde_json::{Value, json};

use crate::program::{Keys, hash};

#[tokio::test]
async fn prints_the_key_once_and_stores_its_hash() {
    let Some(keys) = Keys::new("create").await else { return };
    let words = "create alice --owner=alice@example.com --group=red,blue --group=green --model=Qwen/Qwen3-0.6B \
                 --expires=2099-01-01T00:00:00Z --set=tier=gold";
    let key = keys.key(words).await;
    let mut entry = keys.entry("alice").await;
    let created = entry["metadata"]["createdAt"].take();
    assert!(created.as_str().unwrap().ends_with('Z'), "{created}");
    let expected = json!({
        "keyHash": hash(&key),
        "metadata": {
            "owner": "alice@example.com", "groups": ["red", "blue", "green"], "models": ["Qwen/Qwen3-0.6B"],
            "expiresAt": "2099-01-01T00:00:00Z", "tier": "gold", "createdAt": null,
        },
    });
    assert_eq!(entry, expected);
    let secret = keys.secrets().get("api-keys").await.unwrap();
    assert_eq!(secret.metadata.labels.unwrap()["forebay.dev/api-keys"], "true");

    let before = keys.stored().await;
    let message = keys.refused("create alice").await;
    assert!(
        message.contains("already has a key alice") && message.contains("keys rotate alice"),
        "{message}"
    );
    assert_eq!(keys.stored().await, before);

    let other = keys.secret_name().replace("api-keys", "more");
    keys.key(&format!("create bob --secret={other} --label=team=a --label=use=keys")).await;
    let labels = keys.secrets().get("more").await.unwrap().metadata.labels.unwrap();
    assert_eq!(
        labels.into_iter().collect::<Vec<_>>(),
        [("team".into(), "a".into()), ("use".into(), "keys".into())]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn parallel_changes_lose_none() {
    let Some(keys) = Keys::new("parallel").await else { return };
    // The Secret does not exist yet.
    let words: Vec<String> = (0..8).map(|number| format!("create key-{number}")).collect();
    let made = join_all(words.iter().map(|words| keys.key(words))).await;
    let stored = keys.stored().await;
    assert_eq!(stored.len(), 8, "{:?}", stored.keys());
    for (number, key) in made.iter().enumerate() {
        assert!(stored[&format!("key-{number}")].contains(&hash(key)), "key-{number} is another one");
    }

    // One name.
    let outputs = join_all((0..4).map(|_| keys.run("create same"))).await;
    let made: Vec<_> = outputs.iter().filter(|output| output.code == Some(0)).collect();
    assert_eq!(made.len(), 1);
    assert_eq!(keys.entry("same").await["keyHash"], hash(made[0].stdout.trim()));
    for output in outputs.iter().filter(|output| output.code != Some(0)) {
        assert!(
            output.stderr.contains("already has a key same") && output.stdout.is_empty(),
            "{}",
            output.stderr
        );
    }

    // Each rotation keeps the key of the one before it.
    let made = join_all((0..4).map(|_| keys.key("rotate same --grace=1h"))).await;
    let stored = keys.stored().await;
    for key in &made {
        assert!(stored.values().any(|entry| entry.contains(&hash(key))), "a key that was printed is lost");
    }
    assert_eq!(stored.keys().filter(|name| name.starts_with("same.previous-")).count(), 4);
    keys.ok("revoke same").await;

    let mixed = ["revoke key-0", "revoke key-1", "rotate key-2", "rotate key-3 --grace=1h", "create last"];
    let outputs = join_all(mixed.iter().map(|words| keys.run(words))).await;
    assert!(outputs.iter().all(|output| output.code == Some(0)));
    let names: Vec<String> = keys.stored().await.into_keys().collect();
    let expected = ["key-2", "key-3", "key-4", "key-5", "key-6", "key-7", "last"];
    let (previous, rest): (Vec<_>, Vec<_>) = names.into_iter().partition(|it| it.contains(".previous-"));
    assert_eq!((rest, previous.len()), (expected.map(String::from).to_vec(), 1));
}

#[tokio::test]
async fn a_dry_run_prints_a_manifest_and_changes_nothing() {
    let Some(keys) = Keys::new("dry-run").await else { return };
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("key");
    let words = format!("create alice --owner=a --dry-run -o yaml --key-file={}", file.display());
    let printed = keys.ok(&format!("{words} --kubeconfig=/nonexistent")).await;
    let key = std::fs::read_to_string(&file).unwrap();
    let key = key.strip_suffix('\n').unwrap();
    keys.remember(key);
    assert!(!printed.contains(key));
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    assert!(keys.secrets().get_opt("api-keys").await.unwrap().is_none());

    let manifest: Value = serde_yaml_ng::from_str(&printed).unwrap();
    let apply = PatchParams::apply("kubectl");
    keys.secrets().patch("api-keys", &apply, &Patch::Apply(&manifest)).await.unwrap();
    let entry = keys.entry("alice").await;
    assert_eq!((&entry["keyHash"], &entry["metadata"]["owner"]), (&json!(hash(key)), &json!("a")));

    let message = keys.refused(&words).await;
    assert!(message.contains("cannot create --key-file") && message.contains("exists"), "{message}");
    let usage = keys.run("create bob --dry-run").await;
    assert!(usage.code == Some(2) && usage.stderr.contains("--key-file"), "{}", usage.stderr);

    // A file that nothing could be written for is removed.
    let file = folder.path().join("other");
    keys.refused(&format!("create alice --key-file={}", file.display())).await;
    assert!(!file.exists());
    assert_eq!(keys.ok(&format!("create bob --key-file={}", file.display())).await, "");
    let key = std::fs::read_to_string(&file).unwrap();
    assert_eq!(keys.entry("bob").await["keyHash"], hash(key.trim()));
}

#[tokio::test]
async fn errors_say_what_to_do() {
    let Some(keys) = Keys::new("errors").await else { return };
    for words in ["list", "show a", "rotate a", "revoke a"] {
        let message = keys.refused(words).await;
        assert!(
            message.contains("Secret errors/api-keys does not exist; `forebay keys create`"),
            "{message}"
        );
    }
    let secret = json!({
        "metadata": { "name": "certificate" }, "type": "kubernetes.io/tls",
        "stringData": { "tls.crt": "", "tls.key": "" },
    });
    let secret: Secret = serde_json::from_value(secret).unwrap();
    keys.secrets().create(&PostParams::default(), &secret).await.unwrap();
    let message = keys.refused("create a --secret=errors/certificate").await;
    assert!(message.contains("type kubernetes.io/tls: keys belong in a Secret of type Opaque"), "{message}");

    let message = keys.refused("create a --secret=no-such-namespace/api-keys").await;
    assert!(message.contains("cannot create Secret no-such-namespace/api-keys: namespaces"), "{message}");
    let stranger = keys.server.kubeconfig_as("stranger").unwrap();
    let output = tokio::process::Command::new(env!("CARGO_BIN_EXE_forebay"))
        .args(["keys", "list", "--secret=errors/api-keys", "--kubeconfig"])
        .arg(stranger)
        .output()
        .await
        .unwrap();
    let message = String::from_utf8(output.stderr).unwrap();
    assert!(message.contains("You need `get` on secrets"), "{message}");
    for (words, why) in [
        ("create a/b", "letters, digits"),
        ("create a --expires=soon", "such as 30d"),
        ("create a --set=owner=x", "set by --owner"),
        ("create a --secret=x", "must be NAMESPACE/NAME"),
    ] {
        let output = keys.run(words).await;
        assert!(output.code == Some(2) && output.stderr.contains(why), "{words}: {}", output.stderr);
    }
    let message = keys.refused("create a --expires=2020-01-01T00:00:00Z").await;
    assert!(message.contains("is in the past"), "{message}");
}

/// Other commands succeed when the pipe is closed. A key that was not read is lost.
#[tokio::test]
async fn a_key_that_cannot_be_printed_is_an_error() {
    let Some(keys) = Keys::new("closed-pipe").await else { return };
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let mut command = keys.command("create alice");
    // `output` would capture stdout.
    let child = command.stdout(writer).stderr(Stdio::piped()).spawn().unwrap();
    let output = child.wait_with_output().await.unwrap();
    let message = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{message}");
    assert!(
        message.contains("alice") && message.contains("is lost") && !message.contains("fb-"),
        "{message}"
    );
    assert!(message.contains("forebay keys rotate alice --secret closed-pipe/api-keys"), "{message}");
    keys.key("rotate alice").await;
}
