//! kubectl and helm, as the cluster's administrator.

use std::{
    io::Write as _,
    process::{Command, Stdio},
};

use serde_json::Value;

use crate::until;

/// The cluster that the tests run in.
#[derive(Clone, Debug)]
pub struct Cluster(());

/// The cluster, if there is one; says so if not.
pub fn cluster() -> Option<Cluster> {
    if std::env::var_os("FOREBAY_CLUSTER").is_some() {
        return Some(Cluster(()));
    }
    println_skipped();
    None
}

#[expect(clippy::print_stdout, reason = "a test says on standard output what it skips")]
fn println_skipped() {
    println!("skipped: no cluster; `cargo xtask test --cluster` starts one");
}

impl Cluster {
    /// Standard output of a command that must succeed.
    ///
    /// # Panics
    /// With its standard error when it does not.
    pub fn run(&self, program: &str, args: &[&str], input: Option<&str>) -> String {
        self.attempt(program, args, input)
            .unwrap_or_else(|error| panic!("{program} {}: {error}", args.join(" ")))
    }

    /// Standard output; of a command that failed, all that it said.
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

    /// A line as the guide has it, split at spaces.
    pub fn kubectl(&self, line: &str) -> String {
        self.run("kubectl", &line.split_whitespace().collect::<Vec<_>>(), None)
    }

    pub fn helm(&self, line: &str) -> String {
        self.run("helm", &line.split_whitespace().collect::<Vec<_>>(), None)
    }

    /// `kubectl apply -f -`
    pub fn apply(&self, manifest: &str) {
        self.run("kubectl", &["apply", "-f", "-"], Some(manifest));
    }

    /// One object, or a list of them.
    pub fn get(&self, line: &str) -> Result<Value, String> {
        let mut args = vec!["get", "-o", "json"];
        args.extend(line.split_whitespace());
        let text = self.attempt("kubectl", &args, None)?;
        serde_json::from_str(&text).map_err(|error| error.to_string())
    }

    /// Waits until every pod with these labels (`-n … -l …`) is Ready, and there are
    /// `count` of them that are not going.
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
