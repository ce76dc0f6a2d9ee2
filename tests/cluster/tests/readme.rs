//! Runs the installation commands of the README in the cluster.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test fails by panicking and prints its commands"
)]

use std::{
    fs,
    os::unix::process::CommandExt as _,
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::Instant,
};

use forebay_cluster_tests::{Cluster, charts, cluster, downloads::Downloads, guide::QWEN, until};

const INSTALLATION: &str = "\n## In a cluster\n";
const API_KEYS: &str = "\n## API keys\n";
/// Namespaces that the commands create.
const NAMESPACES: [&str; 2] = ["forebay-system", "llm-d"];

#[test]
fn readme_commands_install_forebay() {
    let Some(cluster) = cluster() else { return };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let state = PathBuf::from(std::env::var_os("FOREBAY_CLUSTER").unwrap());
    let authority = state.join("downloads.pem");
    let served = runtime.block_on(Downloads::serve(state.join("downloads"), &authority)).unwrap();
    let proxy = [("HTTPS_PROXY", served.proxy()), ("SSL_CERT_FILE", authority.display().to_string())];

    let began = Instant::now();
    let lines = lines(INSTALLATION);
    assert!(lines.len() > 5, "{lines:?}");
    let mut stdout = String::new();
    let mut background = Vec::new();
    for line in &lines {
        println!("$ {line}");
        // Only commands that download use the proxy.
        let environment = if line.contains("https://") { &proxy[..] } else { &[] };
        match line.strip_suffix('&') {
            Some(line) => background.push(Background::start(line)),
            None => stdout = run(line, environment),
        }
        if line.starts_with("curl ") {
            assert!(stdout.contains(&format!("\"model\":\"{QWEN}\"")), "{stdout}");
        }
    }
    println!("{} lines in {:.0} s", lines.len(), began.elapsed().as_secs_f64());
    // The last command lists the pods of the model server.
    assert_eq!(stdout.matches("vllm-qwen3-06b-").count(), 2, "{stdout}");

    drop(background);
    api_keys(&cluster);
    cluster.helm("uninstall vllm-qwen3-06b --namespace llm-d --wait");
    cluster.helm("uninstall forebay --namespace forebay-system --wait");
    for namespace in NAMESPACES {
        cluster.kubectl(&format!("delete namespace {namespace} --wait=false"));
    }
    until("its namespaces are gone", || {
        let left = NAMESPACES.iter().filter(|name| cluster.get(&format!("namespace {name}")).is_ok());
        match left.count() {
            0 => Ok(()),
            left => Err(format!("{left} left")),
        }
    });
}

/// Turns on API keys by the commands of the README. Then only a request with the key is answered.
fn api_keys(cluster: &Cluster) {
    let status = |header: &str| {
        let gateway = "get gateway inference-gateway --namespace forebay-system";
        let address = cluster.kubectl(&format!("{gateway} -o jsonpath={{.status.addresses[0].value}}"));
        let body = format!(r#"{{"model": "{QWEN}", "messages": [], "max_tokens": 1}}"#);
        run(
            &format!(
                "curl -s -o /dev/null -w '%{{http_code}}' http://{}/v1/chat/completions \
                 -H 'Content-Type: application/json' -H '{header}' -d '{body}'",
                address.trim()
            ),
            &[],
        )
    };
    assert_eq!(status("X-Key: none"), "200");
    for line in lines(API_KEYS) {
        println!("$ {line}");
        run(&line, &[]);
    }
    let key = run(
        "kubectl get secret api-keys --namespace forebay-system -o jsonpath='{.data.alice}' | base64 -d",
        &[],
    );
    let equals = |header: &str, expected: &str| {
        until(&format!("{expected} is the status"), || match status(header) {
            found if found == expected => Ok(()),
            found => Err(found),
        });
    };
    equals("X-Key: none", "401");
    equals(&format!("Authorization: Bearer {key}"), "200");
    assert_eq!(status("Authorization: Bearer wrong"), "401");
}

/// Commands in the code block of the section. Continued lines are joined.
fn lines(section: &str) -> Vec<String> {
    let readme = fs::read_to_string(charts::root().join("README.md")).unwrap();
    let section = readme.split_once(section).expect("README.md has the section").1;
    let block = section.split_once("```sh\n").and_then(|(_, rest)| rest.split_once("```")).unwrap().0;
    let whole = block.replace("\\\n", " ");
    whole.lines().map(str::trim).filter(|line| !line.is_empty()).map(String::from).collect()
}

fn shell(line: &str) -> Command {
    let mut shell = Command::new("bash");
    shell.args(["-o", "pipefail", "-c", line]).current_dir(charts::root()).stdin(Stdio::null());
    shell
}

fn run(line: &str, environment: &[(&str, String)]) -> String {
    let mut shell = shell(line);
    // No proxy for the API server.
    shell.envs(environment.iter().map(|(name, value)| (name, value))).env("NO_PROXY", "198.18.0.0/15");
    let output = shell.output().unwrap();
    let (stdout, error) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{line}: {}\n{stdout}{error}", output.status);
    println!("{}", stdout.trim());
    stdout.into_owned()
}

/// A background command and its process group. Drop kills them.
struct Background(Child);

impl Background {
    fn start(line: &str) -> Self {
        Self(shell(line).stdout(Stdio::null()).process_group(0).spawn().unwrap())
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        let _ = Command::new("kill").args(["--", &format!("-{}", self.0.id())]).status();
        let _ = self.0.wait();
    }
}
