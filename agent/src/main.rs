//! forebay-agent, the node daemon.
fn main() {}
