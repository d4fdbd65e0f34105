//! The command line of Driftline.
fn main() {}
