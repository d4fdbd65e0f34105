//! The whole on real parts: the real binary as processes, real brokers, a real store, and a judge that shares no code with it.
#![allow(clippy::unwrap_used)] // in a test, a panic is the report

mod awake;
mod bad_input;
mod crash;
mod engines;
mod evaluate;
mod judge;
mod kafka_variety;
mod object_stores;
mod otlp;
mod outside;
mod pipeline;
mod producers;
mod report;
mod retention;
mod revisions;
mod sandbox;
mod settings;
