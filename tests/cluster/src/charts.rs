//! Renders the charts with helm.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use serde::Deserialize as _;
use serde_json::Value;

/// The helm program.
#[derive(Clone, Debug)]
pub struct Helm(PathBuf);

/// Finds helm. `None` if it is not installed; the reason is printed.
pub fn helm() -> Option<Helm> {
    let found = forebay_apiserver::find("helm").map(Helm);
    if found.is_none() {
        skipped();
    }
    found
}

#[expect(clippy::print_stdout, reason = "a test prints what it skips")]
fn skipped() {
    println!("skipped: helm not found (set KUBEBUILDER_ASSETS or run `cargo xtask cluster build`)");
}

impl Helm {
    /// Renders a release in `namespace` with these `--set` values. Its name is that of the chart.
    ///
    /// # Panics
    /// When helm fails, with its error.
    pub fn render(&self, chart_name: &str, namespace: &str, set: &[&str]) -> Vec<Value> {
        self.attempt(chart_name, namespace, set)
            .unwrap_or_else(|error| panic!("{chart_name} {set:?}: {error}"))
    }

    /// Like [`Helm::render`].
    ///
    /// # Errors
    /// Standard error of helm.
    pub fn attempt(&self, chart_name: &str, namespace: &str, set: &[&str]) -> Result<Vec<Value>, String> {
        self.render_folder(Path::new(&chart(chart_name)), chart_name, namespace, set)
    }

    /// Renders the chart in a folder.
    ///
    /// # Errors
    /// Standard error of helm.
    pub fn render_folder(
        &self,
        folder: &Path,
        release: &str,
        namespace: &str,
        set: &[&str],
    ) -> Result<Vec<Value>, String> {
        let mut helm = Command::new(&self.0);
        helm.args(["template", release]).arg(folder).args(["--namespace", namespace]);
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

/// Folder of a chart.
pub fn chart(name: &str) -> String {
    root().join("charts").join(name).display().to_string()
}

/// Root folder of the workspace.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).map_or_else(|| ".".into(), Path::to_path_buf)
}
