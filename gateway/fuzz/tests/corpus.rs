//! The committed inputs pass.

use std::path::Path;

fn replay(name: &str, target: fn(&[u8])) {
    forebay_fuzz::replay(&Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(name), target);
}

#[test]
fn http1() {
    replay("http1", forebay_gateway_fuzz::http1);
}

#[test]
fn path() {
    replay("path", forebay_gateway_fuzz::path);
}

#[test]
fn routes() {
    replay("routes", forebay_gateway_fuzz::routes);
}
