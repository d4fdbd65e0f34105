//! raw/ → history/: follows the chains, routes late labels, decides in one ledger what to judge, and judges.
//!
//! ```text
//!  raw/ ─► follow ─► route (filters) ─► decide ─► ledger ─► judge ─► join ─► history/
//!          what is new  which windows    what is due         the jobs that fall to this process
//! ```
//!
//! Beside it: `retain` deletes what is old and nobody needs, `forget` takes ids out of everything (`scrub`).
//!
//! Deciding and joining are pure; `follow`, `judge` and `stage` carry them out on the store.
pub mod decide;
pub mod error;
pub mod filter;
pub mod follow;
pub mod forget;
pub mod house;
pub mod join;
pub mod judge;
pub mod objects;
pub mod retain;
pub mod route;
pub mod scrub;
pub mod stage;
pub mod telemetry;
mod wide;

pub use decide::Urgency;
pub use error::Error;
