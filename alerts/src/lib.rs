//! From published figures to people.
//!
//! ```text
//! metrics/ drift/ quality/ windows/ ─► judge     each rule on each series: a finding, with its evidence
//! references/                       ─► reference what a reference file has reached on its own rows, for rules relative to it
//! ledger, facts, heartbeats         ─► pipeline  the same of the pipeline itself, by the clock
//!                                   ─► evidence  e-values; all findings of a window share one budget of false alarms
//!                                   ─► life      pending, firing, revised, resolved, withdrawn
//!                                   ─► silence   what is not told while it holds, and is when it has ended
//!                                   ─► log       a chain for each model: what happened, once
//!                                   ─► table     alerts/, for SQL
//!                                   ─► deliver   each sink follows the chain: route (what it takes), message, send (email, smtp)
//! tables, by the root's Maker       ─► reports   what a schedule asks for, made once and told the same way
//! ```
//! A window may be looked at again with each new label, for its evidence is valid at any time; a revision takes an alert back
//! that it contradicts.
mod deliver;
mod email;
mod error;
pub mod evidence;
pub mod judge;
pub mod life;
pub mod log;
pub mod message;
pub mod pipeline;
mod read;
#[cfg(test)]
mod receiver;
pub mod reference;
pub mod replay;
pub mod reports;
mod retry;
pub mod route;
pub mod send;
pub mod series;
pub mod silence;
mod smtp;
pub mod stage;
mod table;
mod telemetry;

pub use error::Error;
