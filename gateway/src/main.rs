//! forebay-gateway, the data plane.
fn main() {}
