//! The crate against the outside: golden values of trusted peers, SQL scripts, whole windows.
#![allow(clippy::unwrap_used)] // in a test, a panic is the report

mod compare;
mod estimates;
mod golden;
mod memory;
mod ranking;
mod rows;
mod serving;
mod slt;
mod weakest;
mod window;
