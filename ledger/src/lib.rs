//! The ledger of decisions, as everyone sees it who replays it.
//!
//! ```text
//! ctl/<seq>.json ─► Replica (reads by known next names, appends by create-if-absent)
//!                      │ apply(record)
//!                      ▼
//!                  LedgerState ─ eras: which configuration a window follows
//!                              └ watermark: how far event time has come
//! ```
//!
//! Aggregators decide and judge by it, evaluators publish by it; neither imports the other.
pub mod eras;
pub mod error;
pub mod forget;
pub mod members;
pub mod replica;
pub mod shared;
pub mod state;
pub mod watermark;

pub use eras::Horizons;
pub use error::Error;
pub use forget::ForgetKey;
pub use members::Members;
pub use replica::{Outcome, Replica};
pub use state::{LedgerState, ModelState, WindowRecord};
