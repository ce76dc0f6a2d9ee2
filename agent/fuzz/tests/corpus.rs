//! The committed inputs pass.

use std::path::Path;

fn replay(name: &str, target: fn(&[u8])) {
    forebay_fuzz::replay(&Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(name), target);
}

#[test]
fn manifests() {
    replay("manifests", forebay_agent_fuzz::manifests);
}

#[test]
fn metrics() {
    replay("metrics", forebay_agent_fuzz::metrics);
}

#[test]
fn model_map() {
    replay("model_map", forebay_agent_fuzz::model_map);
}

#[test]
fn recordings() {
    replay("recordings", forebay_agent_fuzz::recordings);
}
