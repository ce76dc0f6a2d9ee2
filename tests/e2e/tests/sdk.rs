//! The OpenAI SDKs through the gateway, with simulators and, if installed, with real vLLM.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test prints the output of the SDKs and fails by panicking"
)]

use std::{
    collections::BTreeMap,
    env, fs,
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
    time::Duration,
};

use forebay_e2e::{
    eventually,
    harness::{Engine, Harness, HarnessOptions, PoolOptions, QWEN, TINYLLAMA},
};

/// The last version that writes `messages` before `model`, and a newer one.
const PYTHON_VERSIONS: [&str; 2] = ["2.54.0", "3.57.0"];
const NODE_VERSION: &str = "7.57.0";
/// Cases that a chat model of real vLLM supports.
const OF_CHAT_MODELS: &[&str] =
    &["chat", "stream", "cancel", "responses", "responses_stream", "models", "unknown_model"];

fn scripts() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../sdk")
}

fn cache() -> Option<PathBuf> {
    let base = env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    Some(base.or_else(|| Some(PathBuf::from(env::var_os("HOME")?).join(".cache")))?.join("forebay"))
}

/// Runs a command. Returns its output; on failure, output and exit status.
fn run(command: &mut Command) -> Result<String, String> {
    let output = command.output().map_err(|error| format!("{:?}: {error}", command.get_program()))?;
    let text = |bytes| String::from_utf8_lossy(bytes).trim().to_owned();
    match output.status.success() {
        true => Ok(text(&output.stdout)),
        false => Err(format!("{} {}", text(&output.stdout), text(&output.stderr))),
    }
}

/// An installed SDK: creates the command of its test script.
struct Sdk(Box<dyn Fn() -> Command + Sync + Send>);

fn python(version: &str) -> Result<Sdk, String> {
    let folder = cache().ok_or("HOME is not set")?.join("sdk").join(format!("openai-python-{version}"));
    let interpreter = folder.join("bin/python");
    if run(Command::new(&interpreter).args(["-c", "import openai"])).is_err() {
        run(Command::new("python3").args(["-m", "venv"]).arg(&folder))?;
        let mut pip = Command::new(&interpreter);
        run(pip.args(["-m", "pip", "install", "--quiet", &format!("openai=={version}")]))?;
    }
    Ok(Sdk(Box::new(move || {
        let mut command = Command::new(&interpreter);
        command.arg(scripts().join("openai_python.py"));
        command
    })))
}

fn node() -> Result<Sdk, String> {
    let folder = cache().ok_or("HOME is not set")?.join("sdk").join(format!("openai-node-{NODE_VERSION}"));
    if !folder.join("node_modules/openai/package.json").is_file() {
        fs::create_dir_all(&folder).map_err(|error| error.to_string())?;
        let mut npm = Command::new("npm");
        npm.args(["install", "--silent", "--no-fund", "--no-audit", "--prefix"]).arg(&folder);
        run(npm.arg(format!("openai@{NODE_VERSION}")))?;
    }
    Ok(Sdk(Box::new(move || {
        let mut command = Command::new("node");
        command.arg(scripts().join("openai_node.mjs")).env("SDK_FOLDER", &folder);
        command
    })))
}

/// Installs all SDKs once. Both tests use them.
fn sdks() -> &'static [Sdk] {
    static SDKS: OnceLock<Vec<Sdk>> = OnceLock::new();
    SDKS.get_or_init(|| {
        let mut all = Vec::new();
        let names = PYTHON_VERSIONS.map(|version| (format!("openai-python {version}"), python(version)));
        for (name, sdk) in names.into_iter().chain([(format!("openai-node {NODE_VERSION}"), node())]) {
            match sdk {
                Ok(sdk) => all.push(sdk),
                Err(reason) => println!("skipped: cannot install {name}: {reason}"),
            }
        }
        all
    })
}

/// Runs the named cases (all if empty) with every SDK.
fn run_all(harness: &Harness, cases: &[&str]) -> usize {
    let base = format!("http://{}/v1", harness.network.gateway());
    for sdk in sdks() {
        let output = run((sdk.0)().args([&base, QWEN]).args(cases)).unwrap_or_else(|error| panic!("{error}"));
        println!("{output}");
        assert!(output.lines().count() >= if cases.is_empty() { 9 } else { cases.len() }, "{output}");
    }
    sdks().len()
}

#[test]
fn every_sdk_passes_all_cases() {
    let harness = Harness::start(HarnessOptions {
        pools: vec![PoolOptions { name: "vllm-qwen3-06b", model: QWEN, pods: 2 }],
        ..HarnessOptions::default()
    })
    .unwrap();
    let used = run_all(&harness, &[]) as u64;
    // Cancelled streams ended in the engines before their last token.
    let truth = |pick: fn(&serde_json::Value) -> Option<u64>| -> u64 {
        let of_pod = |address| forebay_e2e::harness::get_json(address, "/").unwrap();
        harness.pods.iter().filter_map(|pod| pick(&of_pod(pod.truth?))).sum()
    };
    eventually("nothing is in flight", || truth(|it| it["in_flight"].as_u64()) == 0);
    assert_eq!(truth(|it| it["aborted"].as_u64()), used);
}

/// API keys for one of two models, and a quota of one request for each key.
const DOOR: &str = r#"
apiVersion: v1
kind: Secret
metadata: {name: keys, namespace: forebay-system}
stringData: KEYS
---
apiVersion: agentgateway.dev/v1alpha1
kind: AgentgatewayPolicy
metadata: {name: door, namespace: forebay-system}
spec:
  targetRefs: [{group: gateway.networking.k8s.io, kind: Gateway, name: inference-gateway}]
  traffic:
    apiKeyAuthentication: {secretRef: {name: keys}}
    authorization: {action: Require, policy: {matchExpressions: ["llm.model in apiKey.models"]}}
---
apiVersion: forebay.dev/v1alpha1
kind: Quota
metadata: {name: once, namespace: forebay-system}
spec:
  targetRefs: [{group: gateway.networking.k8s.io, kind: Gateway, name: inference-gateway}]
  models: [MODEL]
  per: apiKey.name
  limits: [{requests: 1, window: Month}]
"#;

#[test]
fn sdks_raise_their_own_errors_for_keys_and_limits() {
    let harness = Harness::start(HarnessOptions {
        pools: vec![
            PoolOptions { name: "vllm-qwen3-06b", model: QWEN, pods: 1 },
            PoolOptions { name: "vllm-tinyllama-11b", model: TINYLLAMA, pods: 1 },
        ],
        ..HarnessOptions::default()
    })
    .unwrap();
    let key = |at: usize| format!("k-{at}");
    let keys: BTreeMap<String, String> = (0..sdks().len())
        .map(|at| {
            (key(at), serde_json::json!({ "key": key(at), "metadata": { "models": [QWEN] } }).to_string())
        })
        .collect();
    let keys = serde_json::to_string(&keys).unwrap();
    let door = DOOR.replace("KEYS", &keys).replace("MODEL", &format!("{QWEN:?}"));
    fs::write(harness.resources().join("door.yaml"), door).unwrap();
    let base = format!("http://{}/v1", harness.network.gateway());
    eventually("keys are needed", || {
        let (status, _) = forebay_e2e::harness::get(harness.network.gateway(), "/v1/models").unwrap();
        status == 401
    });
    for (at, sdk) in sdks().iter().enumerate() {
        let mut command = (sdk.0)();
        command.args([&base, QWEN, "door"]).env("KEY", key(at)).env("OTHER_MODEL", TINYLLAMA);
        let output = run(&mut command).unwrap_or_else(|error| panic!("{error}"));
        println!("{output}");
        assert!(output.ends_with("door: invalid_api_key, permission_denied, quota_exceeded"), "{output}");
    }
}

#[test]
fn every_sdk_passes_chat_cases_with_real_vllm() {
    let vllm = cache().map(|cache| cache.join("vllm")).filter(|folder| folder.join(".ready").is_file());
    let Some(cache) = vllm else {
        println!("skipped: real vLLM is not installed; `cargo xtask demo --engine vllm` installs it");
        return;
    };
    let harness = Harness::start(HarnessOptions {
        engine: Engine::Vllm { serve: scripts().join("../vllm/serve"), cache },
        pools: vec![PoolOptions { name: "vllm-qwen3-06b", model: QWEN, pods: 1 }],
        start_timeout: Duration::from_secs(300),
        ..HarnessOptions::default()
    })
    .unwrap();
    run_all(&harness, OF_CHAT_MODELS);
}
