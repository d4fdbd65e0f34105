//! The words all stages share; no I/O, no async.
//!
//! ```text
//! event ─► canonical ─► raw (collector → aggregator) ─► ledger (decisions) ─► history ─► tables (evaluator → users)
//!               position · window · config: what each of them is keyed and judged by
//! ```
pub mod canonical;
pub mod clock;
pub mod config;
pub mod event;
pub mod history;
pub mod ledger;
pub mod position;
pub mod raw;
pub mod tables;
pub mod window;
