//! The words all stages share; no I/O, no async.
//!
//! ```text
//! event ─► canonical ─► raw (collector → aggregator) ─► ledger (decisions) ─► history ─► tables (evaluator → users)
//!               position · window · config · cron: what each of them is keyed, judged and scheduled by
//! ```
pub mod canonical;
pub mod clock;
pub mod config;
pub mod cron;
pub mod event;
pub mod history;
pub mod ledger;
pub mod position;
pub mod raw;
pub mod reference;
pub mod tables;
pub mod window;
