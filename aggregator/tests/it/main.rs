//! The aggregator on values and on stores in memory.
mod decide;
mod join;
mod join_laws;
mod stage;
mod world;
