//! The project's own chores: benchmarks and checks.
fn main() {}
