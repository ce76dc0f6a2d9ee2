//! Writes an image as an OCI image layout in a tar archive (OCI image specification 1.1).

use std::{fs::File, io::BufWriter, path::Path, sync::Arc};

use anyhow::{Context as _, Result};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::Layer;

/// Labels of an image (OCI image specification, pre-defined annotation keys).
pub(super) fn labels(title: &str, description: &str, version: &str) -> Vec<(&'static str, String)> {
    vec![
        ("org.opencontainers.image.title", title.to_owned()),
        ("org.opencontainers.image.description", description.to_owned()),
        ("org.opencontainers.image.version", version.to_owned()),
        ("org.opencontainers.image.licenses", "Apache-2.0".to_owned()),
    ]
}

#[derive(Clone, Debug)]
pub(crate) struct Image {
    /// `registry/repository:tag`: the name in containerd.
    pub(crate) name: String,
    /// The program and its first arguments.
    pub(crate) entrypoint: Vec<String>,
    /// `uid:gid`.
    pub(crate) user: &'static str,
    pub(crate) title: &'static str,
    pub(crate) description: &'static str,
    pub(crate) version: &'static str,
    /// Uncompressed tar archives, lowest layer first.
    pub(crate) layers: Vec<Arc<[u8]>>,
}

impl Image {
    /// Writes the archive. Returns the digest of the manifest.
    pub(crate) fn write(&self, archive: &Path) -> Result<String> {
        let labels: Value = labels(self.title, self.description, self.version)
            .into_iter()
            .map(|(name, value)| (name.to_owned(), Value::String(value)))
            .collect();
        let diff_ids: Vec<String> = self.layers.iter().map(|layer| digest(layer)).collect();
        let config = bytes(&json!({
            "architecture": architecture(),
            "os": "linux",
            "config": {
                "Entrypoint": self.entrypoint,
                "Env": ["PATH=/usr/bin"],
                "User": self.user,
                "Labels": labels,
            },
            "rootfs": { "type": "layers", "diff_ids": diff_ids },
        }));
        let layers: Vec<Value> = self.layers.iter().map(|layer| descriptor("layer.v1.tar", layer)).collect();
        let manifest = bytes(&json!({
            "schemaVersion": 2,
            "mediaType": media_type("manifest.v1+json"),
            "config": descriptor("config.v1+json", &config),
            "layers": layers,
            "annotations": labels,
        }));
        let mut entry = descriptor("manifest.v1+json", &manifest);
        entry["annotations"] =
            json!({ "io.containerd.image.name": self.name, "org.opencontainers.image.ref.name": self.name });
        let index = bytes(
            &json!({ "schemaVersion": 2, "mediaType": media_type("index.v1+json"), "manifests": [entry] }),
        );

        let mut tar = Layer::new();
        tar.file("oci-layout", 0o644, br#"{"imageLayoutVersion":"1.0.0"}"#)?;
        tar.file("index.json", 0o644, &index)?;
        let blobs = self.layers.iter().map(|layer| &layer[..]).chain([&config[..], &manifest[..]]);
        for blob in blobs {
            let digest = digest(blob);
            let name = digest.trim_start_matches("sha256:");
            tar.file(&format!("blobs/sha256/{name}"), 0o644, blob)?;
        }
        let file = File::create(archive).with_context(|| format!("cannot write {}", archive.display()))?;
        std::io::copy(&mut &tar.finish()?[..], &mut BufWriter::new(file))?;
        Ok(digest(&manifest))
    }
}

fn descriptor(kind: &str, blob: &[u8]) -> Value {
    json!({ "mediaType": media_type(kind), "digest": digest(blob), "size": blob.len() })
}

fn media_type(kind: &str) -> String {
    format!("application/vnd.oci.image.{kind}")
}

fn digest(blob: &[u8]) -> String {
    format!("sha256:{:x}", Sha256::digest(blob))
}

fn bytes(value: &Value) -> Vec<u8> {
    value.to_string().into_bytes()
}

/// GOARCH value of this machine, as the specification requires.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}
