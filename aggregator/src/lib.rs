//! raw/ → history/: follows the chains, routes late labels, decides in one ledger what to judge, and judges.
//!
//! ```text
//!  raw/ ─► follow ─► route (filters) ─► decide ─► ledger ─► judge ─► join ─► history/
//!          what is new  which windows    what is due         the jobs that fall to this process
//! ```
//!
//! Deciding and joining are pure; `follow`, `judge` and `stage` carry them out on the store.
pub mod decide;
pub mod error;
pub mod filter;
pub mod follow;
pub mod join;
pub mod judge;
pub mod objects;
pub mod route;
pub mod stage;
pub mod telemetry;
mod wide;

pub use decide::Urgency;
pub use error::Error;
