//! The whole on real parts: the real binary as processes, real brokers, a real store, and a judge that shares no code with it.
#![allow(clippy::unwrap_used)] // in a test, a panic is the report

mod alerts;
mod bad_input;
mod bounds;
mod chaos;
mod chaos_interleavings;
mod chaos_simulation;
mod chaos_store;
mod chaos_topics;
mod crash;
mod engines;
mod estimates;
mod evaluate;
mod evaluate_files;
mod kafka_variety;
mod object_stores;
mod otlp;
mod pipeline;
mod producers;
mod report;
mod retention;
mod revisions;
mod scheduled;
mod settings;

// What the tests and `chaos` share.
use driftline_integration_tests::{awake, judge, outside, sandbox};
