//! The collector as a whole: on its in-memory twins with faults, and on brokers.
#![allow(clippy::unwrap_used)] // in a test, a panic is the report
mod kafka;
mod reading;
mod stage;
