//! Custom resource definitions: those published by Gateway API and by the inference extension, the subset of
//! AgentgatewayPolicy that Forebay reads, and its own Quota (`forebay crds`).

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};

use super::{Cluster, binaries::go_module};
use crate::run;

const GATEWAY_API: &str = "sigs.k8s.io/gateway-api";
/// Version of Gateway API that Forebay is tested with.
pub(crate) const GATEWAY_API_VERSION: &str = "1.6.3";
/// Module and version.
pub(super) const INFERENCE_EXTENSION: (&str, &str) = ("sigs.k8s.io/gateway-api-inference-extension", "1.6.0");

/// Release channel of Gateway API.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Channel {
    Standard,
    /// Adds fields that may still change, such as `retry` of HTTPRoutes.
    Experimental,
}

impl Cluster {
    /// Applies all definitions, Gateway API's of version `gateway_api`, and waits until the API server serves them. The published ones are also written below
    /// `downloads/`, under the paths of their release URLs, so that a test can serve them.
    pub(crate) fn install_crds(&self, channel: Channel, gateway_api: &str) -> Result<()> {
        let (of_channel, of_release) = match channel {
            Channel::Standard => ("config/crd/standard", "standard-install.yaml"),
            Channel::Experimental => ("config/crd/experimental", "experimental-install.yaml"),
        };
        let mut files = Vec::new();
        for (module, version, folder, release) in [
            (GATEWAY_API, gateway_api, of_channel, of_release),
            (INFERENCE_EXTENSION.0, INFERENCE_EXTENSION.1, "config/crd/bases", "manifests.yaml"),
        ] {
            let published = manifests(go_module(module, version)?.join(folder))?;
            let project = module.trim_start_matches("sigs.k8s.io/");
            let url = format!("kubernetes-sigs/{project}/releases/download/v{version}/{release}");
            concatenate(&published, &self.path("downloads").join(url))?;
            files.extend(published);
        }
        let own = run::output(std::process::Command::new(run::root().join("target/debug/forebay")).args([
            "crds",
            "agentgatewaypolicies",
            "quotas",
        ]))
        .context("`forebay crds` failed; build it with `cargo build --workspace --bins`")?;
        let own_file = self.path("own-definitions.yaml");
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

fn concatenate(files: &[PathBuf], into: &Path) -> Result<()> {
    let mut text = String::new();
    for file in files {
        text += "---\n";
        text += &fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
    }
    fs::create_dir_all(into.parent().unwrap_or(into))?;
    Ok(fs::write(into, text)?)
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
