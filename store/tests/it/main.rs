//! What every store must keep, on every store there is; and what stands on it.
#![allow(clippy::unwrap_used, reason = "a test ends at the first thing it did not expect")]

mod contract;
mod faults;
mod local;
mod manifest;
mod probe;
mod remote;
mod sequence;
