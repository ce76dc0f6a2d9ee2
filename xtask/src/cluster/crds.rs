//! Custom resource definitions: Gateway API's and the inference extension's as they
//! publish them, and Forebay's own rendering of what it reads of others.

use std::{fs, path::PathBuf};

use anyhow::{Context as _, Result};

use super::{Cluster, binaries::go_module};
use crate::run;

const GATEWAY_API: (&str, &str) = ("sigs.k8s.io/gateway-api", "1.6.3");
const INFERENCE_EXTENSION: (&str, &str) = ("sigs.k8s.io/gateway-api-inference-extension", "1.6.0");

impl Cluster {
    /// Applies them all; the API serves them when this returns.
    pub(crate) fn install_crds(&self) -> Result<()> {
        let (module, version) = GATEWAY_API;
        let mut files = manifests(go_module(module, version)?.join("config/crd/standard"))?;
        let (module, version) = INFERENCE_EXTENSION;
        files.extend(manifests(go_module(module, version)?.join("config/crd/bases"))?);
        let own = run::output(
            std::process::Command::new(run::root().join("target/debug/forebay"))
                .arg("crds")
                .arg("agentgatewaypolicies"),
        )
        .context("`forebay crds` failed; is it built?")?;
        let own_file = self.path("agentgatewaypolicies.yaml");
        fs::write(&own_file, own)?;
        files.push(own_file);
        let mut kubectl = self.command("kubectl", ["apply", "--server-side"]);
        for file in &files {
            kubectl.arg("-f").arg(file);
        }
        run::quiet(&mut kubectl)?;
        run::quiet(
            &mut self
                .command("kubectl", ["wait", "--for=condition=Established", "crd", "--all", "--timeout=60s"]),
        )
    }
}

fn manifests(folder: PathBuf) -> Result<Vec<PathBuf>> {
    let mut files: Vec<PathBuf> = fs::read_dir(&folder)
        .with_context(|| format!("cannot read {}", folder.display()))?
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| {
            path.extension().is_some_and(|it| it == "yaml") && !path.ends_with("kustomization.yaml")
        })
        .collect();
    files.sort();
    Ok(files)
}
