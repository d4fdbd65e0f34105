//! The aggregator on values and on stores in memory.
#![allow(clippy::unwrap_used)] // in a test, a panic is the report
mod decide;
mod join;
mod join_laws;
mod stage;
mod world;
