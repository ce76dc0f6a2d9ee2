//! kubectl and helm with administrator credentials.

use std::{
    io::Write as _,
    process::{Command, Stdio},
};

use serde_json::Value;

use crate::until;

/// The cluster that the tests run in.
#[derive(Clone, Debug)]
pub struct Cluster(());

/// The cluster. `None` without one; the reason is printed.
pub fn cluster() -> Option<Cluster> {
    if std::env::var_os("FOREBAY_CLUSTER").is_some() {
        return Some(Cluster(()));
    }
    println_skipped();
    None
}

#[expect(clippy::print_stdout, reason = "a test prints what it skips")]
fn println_skipped() {
    println!("skipped: no cluster (run `cargo xtask test --cluster`)");
}

impl Cluster {
    /// Runs a command that must succeed. Returns its standard output.
    ///
    /// # Panics
    /// When it fails, with its output.
    pub fn run(&self, program: &str, args: &[&str], input: Option<&str>) -> String {
        self.attempt(program, args, input)
            .unwrap_or_else(|error| panic!("{program} {}: {error}", args.join(" ")))
    }

    /// Runs a command. Returns its standard output.
    ///
    /// # Errors
    /// Standard error and output of a failed command.
    pub fn attempt(&self, program: &str, args: &[&str], input: Option<&str>) -> Result<String, String> {
        let mut child = Command::new(program)
            .args(args)
            .stdin(if input.is_some() { Stdio::piped() } else { Stdio::null() })
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| format!("cannot start: {error}"))?;
        if let (Some(mut stdin), Some(text)) = (child.stdin.take(), input) {
            stdin.write_all(text.as_bytes()).map_err(|error| error.to_string())?;
        }
        let output = child.wait_with_output().map_err(|error| error.to_string())?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
        if output.status.success() {
            Ok(text(&output.stdout))
        } else {
            Err(format!("{} {}", text(&output.stderr), text(&output.stdout)))
        }
    }

    /// Runs `kubectl` with arguments separated by spaces.
    pub fn kubectl(&self, line: &str) -> String {
        self.run("kubectl", &line.split_whitespace().collect::<Vec<_>>(), None)
    }

    /// Runs `helm` with arguments separated by spaces.
    pub fn helm(&self, line: &str) -> String {
        self.run("helm", &line.split_whitespace().collect::<Vec<_>>(), None)
    }

    /// Runs `kubectl apply` with this manifest.
    pub fn apply(&self, manifest: &str) {
        self.run("kubectl", &["apply", "-f", "-"], Some(manifest));
    }

    /// Runs `kubectl get` with these arguments. Returns an object or a list.
    ///
    /// # Errors
    /// Output of the failed command.
    pub fn get(&self, line: &str) -> Result<Value, String> {
        let mut args = vec!["get", "-o", "json"];
        args.extend(line.split_whitespace());
        let text = self.attempt("kubectl", &args, None)?;
        serde_json::from_str(&text).map_err(|error| error.to_string())
    }

    /// Waits until `count` pods exist for these arguments (`-n … -l …`), and all of them are Ready and not terminating.
    pub fn pods_ready(&self, line: &str, count: usize) {
        until(&format!("{count} ready pods {line}"), || {
            let pods = self.get(&format!("pods {line}"))?;
            let pods: Vec<&Value> = pods["items"].as_array().into_iter().flatten().collect();
            let ready = pods.iter().filter(|pod| is_ready(pod)).count();
            if ready == count && pods.len() == count { Ok(()) } else { Err(summary(&pods)) }
        });
    }
}

fn is_ready(pod: &Value) -> bool {
    let conditions = pod["status"]["conditions"].as_array();
    pod["metadata"]["deletionTimestamp"].is_null()
        && conditions.into_iter().flatten().any(|it| it["type"] == "Ready" && it["status"] == "True")
}

fn summary(pods: &[&Value]) -> String {
    let line = |pod: &&Value| {
        let state = &pod["status"]["containerStatuses"][0]["state"];
        format!("{} {} {state}", pod["metadata"]["name"], pod["status"]["phase"])
    };
    pods.iter().map(line).collect::<Vec<_>>().join("; ")
}
