//! The charts of this tree, as helm renders them.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use serde::Deserialize as _;
use serde_json::Value;

/// Helm's own program, without a cluster.
#[derive(Clone, Debug)]
pub struct Helm(PathBuf);

/// Helm, if it is here; says so if not.
pub fn helm() -> Option<Helm> {
    let found = forebay_apiserver::find("helm").map(Helm);
    if found.is_none() {
        skipped();
    }
    found
}

#[expect(clippy::print_stdout, reason = "a test says on standard output what it skips")]
fn skipped() {
    println!("skipped: no helm (in KUBEBUILDER_ASSETS, the PATH, or from `cargo xtask cluster build`)");
}

impl Helm {
    /// The objects of a release of the same name as the chart with these `--set`s, in `namespace`.
    ///
    /// # Panics
    /// With what helm says, when it does not render the chart.
    pub fn render(&self, chart_name: &str, namespace: &str, set: &[&str]) -> Vec<Value> {
        self.attempt(chart_name, namespace, set)
            .unwrap_or_else(|error| panic!("{chart_name} {set:?}: {error}"))
    }

    /// The same, or what helm says against it.
    ///
    /// # Errors
    /// Helm's standard error.
    pub fn attempt(&self, chart_name: &str, namespace: &str, set: &[&str]) -> Result<Vec<Value>, String> {
        let mut helm = Command::new(&self.0);
        helm.args(["template", chart_name, &chart(chart_name), "--namespace", namespace]);
        helm.args(set.iter().flat_map(|value| ["--set", value]));
        let output = helm.output().map_err(|error| error.to_string())?;
        if !output.status.success() {
            return Err(String::from_utf8_lossy(&output.stderr).into_owned());
        }
        let text = String::from_utf8_lossy(&output.stdout);
        let documents = serde_yaml_ng::Deserializer::from_str(&text)
            .map(|document| Value::deserialize(document).map_err(|error| error.to_string()));
        documents.filter(|it| !it.as_ref().is_ok_and(Value::is_null)).collect()
    }
}

/// The folder of a chart of this tree.
pub fn chart(name: &str) -> String {
    root().join("charts").join(name).display().to_string()
}

/// The workspace's.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).map_or_else(|| ".".into(), Path::to_path_buf)
}
