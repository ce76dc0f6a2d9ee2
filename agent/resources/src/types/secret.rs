//! Secrets whose values cannot be logged.

use std::{collections::BTreeMap, fmt};

use k8s_openapi::{ByteString, apimachinery::pkg::apis::meta::v1::ObjectMeta};
use serde::{Deserialize, Deserializer};

/// A core/v1 `Secret`. Its `Debug` output has the names of entries, not their values.
#[derive(Clone, PartialEq)]
pub struct Secret {
    /// Name, namespace, labels.
    pub metadata: ObjectMeta,
    /// `type`: `kubernetes.io/tls`, `Opaque`, …
    pub type_: String,
    data: BTreeMap<String, ByteString>,
}

impl Secret {
    /// The decoded value of an entry such as `tls.crt`.
    pub fn get(&self, name: &str) -> Option<&[u8]> {
        self.data.get(name).map(|bytes| bytes.0.as_slice())
    }

    /// Names and decoded values of all entries, sorted by name.
    pub fn entries(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.data.iter().map(|(name, bytes)| (name.as_str(), bytes.0.as_slice()))
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Secret")
            .field("namespace", &self.metadata.namespace)
            .field("name", &self.metadata.name)
            .field("type", &self.type_)
            .field("entries", &self.data.keys())
            .finish()
    }
}

impl<'de> Deserialize<'de> for Secret {
    /// `stringData` overrides `data`, as in the API server.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Manifest {
            #[serde(default)]
            metadata: ObjectMeta,
            #[serde(rename = "type")]
            type_: Option<String>,
            data: Option<BTreeMap<String, ByteString>>,
            string_data: Option<BTreeMap<String, String>>,
        }
        let manifest = Manifest::deserialize(deserializer)?;
        let mut data = manifest.data.unwrap_or_default();
        let texts = manifest.string_data.unwrap_or_default();
        data.extend(texts.into_iter().map(|(name, text)| (name, ByteString(text.into_bytes()))));
        Ok(Self {
            metadata: manifest.metadata,
            type_: manifest.type_.unwrap_or_else(|| "Opaque".into()),
            data,
        })
    }
}
