//! `vllm-sim`.
fn main() {}
