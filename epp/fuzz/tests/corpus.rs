//! The committed inputs pass.

use std::path::Path;

fn replay(name: &str, target: fn(&[u8])) {
    forebay_fuzz::replay(&Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(name), target);
}

#[test]
fn encoding() {
    replay("encoding", forebay_epp_fuzz::encoding);
}

#[test]
fn form() {
    replay("form", forebay_epp_fuzz::form);
}

#[test]
fn grpc() {
    replay("grpc", forebay_epp_fuzz::grpc);
}

#[test]
fn json() {
    replay("json", forebay_epp_fuzz::json);
}

#[test]
fn prompt() {
    replay("prompt", forebay_epp_fuzz::prompt);
}

#[test]
fn prompt_message() {
    replay("prompt_message", forebay_epp_fuzz::prompt_message);
}

#[test]
fn response() {
    replay("response", forebay_epp_fuzz::response);
}
