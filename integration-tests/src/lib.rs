//! The sandbox, the event generator with known truth, and the tests of the whole on real parts.

pub mod awake;
pub mod chaos;
pub mod generator;
pub mod judge;
pub mod kafka;
pub mod outside;
pub mod own;
pub mod partitioner;
pub mod sandbox;
pub mod secure;
