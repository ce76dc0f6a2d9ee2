//! The committed inputs pass.

use std::path::Path;

#[test]
fn framing() {
    forebay_fuzz::replay(
        Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/corpus/framing")),
        forebay_agent_ebpf_fuzz::framing,
    );
}
