//! Every task a developer or CI runs.
fn main() {}
