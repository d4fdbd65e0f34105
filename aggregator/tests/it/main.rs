//! The aggregator on values and on stores in memory.
#![allow(clippy::unwrap_used)] // in a test, a panic is the report
mod decide;
mod forget;
mod gated;
mod join;
mod join_laws;
mod retention;
mod stage;
mod world;
