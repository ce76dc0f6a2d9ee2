//! forebay, the command line.
fn main() {}
