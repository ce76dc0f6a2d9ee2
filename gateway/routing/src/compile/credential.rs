//! The credential with which the gateway asks the pods of a pool for their models.

use forebay_resources::{InferencePool, ObjectKey, Snapshot};
use http::HeaderValue;

use crate::table::ModelsCredential;

/// InferencePool annotation: name of a Secret in the pool's namespace. Its entry `api-key` is the key of the engines
/// (vLLM's `--api-key`).
pub const MODELS_SECRET: &str = "forebay.dev/models-secret";
/// The only entry that is read: a pool must not be able to send another one, such as a TLS key, to its pods.
const ENTRY: &str = "api-key";

/// The Secret that a pool names.
pub fn models_secret(key: &ObjectKey, pool: &InferencePool) -> Option<ObjectKey> {
    let name = pool.metadata.annotations.as_ref()?.get(MODELS_SECRET)?.trim();
    (!name.is_empty()).then(|| ObjectKey::new(&key.namespace, name))
}

pub(super) fn of_pool(snapshot: &Snapshot, key: &ObjectKey, pool: &InferencePool) -> ModelsCredential {
    let Some(secret) = models_secret(key, pool) else { return ModelsCredential::None };
    let value = snapshot.secrets.get(&secret).and_then(|secret| {
        let text = str::from_utf8(secret.get(ENTRY)?).ok()?.trim();
        HeaderValue::try_from(format!("Bearer {text}")).ok()
    });
    match value {
        Some(mut value) => {
            value.set_sensitive(true);
            ModelsCredential::Bearer(value)
        }
        None => ModelsCredential::Missing(secret.name),
    }
}
