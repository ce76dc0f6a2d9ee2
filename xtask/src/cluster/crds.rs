//! Custom resource definitions: Gateway API's and the inference extension's as they
//! publish them, and Forebay's own rendering of what it reads of others.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};

use super::{Cluster, binaries::go_module};
use crate::run;

const GATEWAY_API: (&str, &str) = ("sigs.k8s.io/gateway-api", "1.6.3");
const INFERENCE_EXTENSION: (&str, &str) = ("sigs.k8s.io/gateway-api-inference-extension", "1.6.0");

/// Of Gateway API's definitions.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Channel {
    Standard,
    /// With the fields that may still change, as `retry` of HTTPRoutes.
    Experimental,
}

impl Cluster {
    /// Applies them all; the API serves them when this returns. The others' are also put where a test serves
    /// them under the URLs that their releases have.
    pub(crate) fn install_crds(&self, channel: Channel) -> Result<()> {
        let (of_channel, of_release) = match channel {
            Channel::Standard => ("config/crd/standard", "standard-install.yaml"),
            Channel::Experimental => ("config/crd/experimental", "experimental-install.yaml"),
        };
        let mut files = Vec::new();
        for (module, version, folder, release) in [
            (GATEWAY_API.0, GATEWAY_API.1, of_channel, of_release),
            (INFERENCE_EXTENSION.0, INFERENCE_EXTENSION.1, "config/crd/bases", "manifests.yaml"),
        ] {
            let theirs = manifests(go_module(module, version)?.join(folder))?;
            let project = module.trim_start_matches("sigs.k8s.io/");
            let url = format!("kubernetes-sigs/{project}/releases/download/v{version}/{release}");
            join(&theirs, &self.path("downloads").join(url))?;
            files.extend(theirs);
        }
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

fn join(files: &[PathBuf], into: &Path) -> Result<()> {
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
