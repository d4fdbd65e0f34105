//! The sandbox, the event generator with known truth, and the tests of the whole on real parts.

pub mod generator;
pub mod kafka;
pub mod partitioner;
pub mod secure;
