//! history/ to metrics/: metrics, drift and accounts of every window, with DataFusion.
//!
//! ```text
//! metrics/  pure states: push, merge, value          drift/  pure distances of two samples
//!      └─► udaf/  one aggregate function each             └─► reference  what a window is compared with ─► estimate/  before labels
//!                └─► window/  SQL over one window's rows ─► rows of the tables
//!                                                          │
//! ledger ─► stage: windows that are judged ─► evaluate ─► publish: metrics_log/, metrics/ and its siblings
//! ```

pub mod metrics;

pub mod drift;

pub mod estimate;

pub mod udaf;

pub mod reference;

pub mod window;

pub mod account;
mod error;
pub mod figures;
pub mod file_rows;
pub mod publish;
pub mod report;
pub mod session;
pub mod stage;
pub mod telemetry;

pub use error::Error;
pub use reference::Reference;
pub use window::{EvaluatedWindow, EvaluationContext, evaluate};

/// A text as a literal of SQL.
pub fn sql_text(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}
