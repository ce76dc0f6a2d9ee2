//! Runs `forebay keys` on one Secret, and knows every key that it has printed.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    process::Stdio,
    sync::{Mutex, PoisonError},
};

use forebay_apiserver::{ApiServer, store};
use k8s_openapi::api::core::v1::Secret;
use kube::{Api, Client};
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use tokio::process::Command;

pub(crate) struct Keys {
    pub(crate) server: &'static ApiServer,
    pub(crate) client: Client,
    pub(crate) namespace: &'static str,
    kubeconfig: PathBuf,
    printed: Mutex<Vec<String>>,
}

pub(crate) struct Output {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Keys {
    /// `None` without the programs of the API server.
    pub(crate) async fn new(namespace: &'static str) -> Option<Self> {
        let server = store::shared().await?;
        let client = server.client().await.unwrap();
        store::namespace(&client, namespace).await;
        let kubeconfig = server.kubeconfig().unwrap();
        Some(Self { server, client, namespace, kubeconfig, printed: Mutex::default() })
    }

    pub(crate) fn secrets(&self) -> Api<Secret> {
        Api::namespaced(self.client.clone(), self.namespace)
    }

    pub(crate) fn secret_name(&self) -> String {
        format!("{}/api-keys", self.namespace)
    }

    /// Values of the Secret.
    pub(crate) async fn stored(&self) -> BTreeMap<String, String> {
        let data = self.secrets().get("api-keys").await.unwrap().data.unwrap_or_default();
        data.into_iter().map(|(name, value)| (name, String::from_utf8(value.0).unwrap())).collect()
    }

    /// An entry of the Secret.
    pub(crate) async fn entry(&self, name: &str) -> Value {
        serde_json::from_str(&self.stored().await[name]).unwrap()
    }

    /// Runs `forebay keys` with these words, and demands that it prints no key.
    pub(crate) async fn run(&self, words: &str) -> Output {
        let output = self.start(words).await;
        for key in self.printed().iter() {
            assert!(!output.stdout.contains(key) && !output.stderr.contains(key), "{words}: prints a key");
        }
        output
    }

    /// Runs `forebay keys`, which must succeed and print no key, and returns its output.
    pub(crate) async fn ok(&self, words: &str) -> String {
        let output = self.run(words).await;
        assert_eq!(output.code, Some(0), "{words}: {}", output.stderr);
        output.stdout
    }

    /// Runs `forebay keys`, which must fail and print nothing on stdout, and returns its message.
    pub(crate) async fn refused(&self, words: &str) -> String {
        let output = self.run(words).await;
        assert_eq!((output.code, output.stdout.as_str()), (Some(1), ""), "{words}: {}", output.stderr);
        output.stderr
    }

    /// Runs `create` or `rotate`, which print a key and nothing else on stdout.
    pub(crate) async fn key(&self, words: &str) -> String {
        let output = self.start(words).await;
        assert_eq!(output.code, Some(0), "{words}: {}", output.stderr);
        let key = output.stdout.strip_suffix('\n').unwrap().to_owned();
        self.remember(&key);
        key
    }

    pub(crate) fn remember(&self, key: &str) {
        assert!(key.starts_with("fb-") && key.len() > 40 && !key.contains(char::is_whitespace), "a key");
        self.printed().push(key.to_owned());
    }

    fn printed(&self) -> std::sync::MutexGuard<'_, Vec<String>> {
        self.printed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn start(&self, words: &str) -> Output {
        let output = self.command(words).output().await.unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        let output =
            Output { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) };
        let is_for_key =
            (words.starts_with("create") || words.starts_with("rotate")) && !words.contains("-file");
        assert!(is_for_key || !output.stdout.contains("fb-"), "{words}: prints a key on stdout");
        assert!(!output.stderr.contains("fb-"), "{words}: prints a key on stderr");
        output
    }

    pub(crate) fn command(&self, words: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_forebay"));
        command.arg("keys").args(words.split_whitespace());
        if !words.contains("--kubeconfig") {
            command.arg("--kubeconfig").arg(&self.kubeconfig);
        }
        if !words.contains("--secret") {
            command.args(["--secret", &self.secret_name()]);
        }
        command.env_remove("FOREBAY_KEYS_SECRET").stdin(Stdio::null());
        command
    }
}

/// `keyHash` of a key, by the definition of the gateway.
pub(crate) fn hash(key: &str) -> String {
    let digits: String = Sha256::digest(key.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{digits}")
}
