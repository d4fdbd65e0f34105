//! history/ to metrics/: metrics, drift and accounts of every window, with DataFusion.
//!
//! ```text
//! metrics/  pure states: push, merge, value          drift/  pure distances of two samples
//!      └─► udaf/  one aggregate function each             └─► reference  what a window is compared with
//!                └─► window/  SQL over one window's rows ─► MetricRow, ConfusionRow, DriftRow
//! ```

pub mod metrics;
pub mod drift;
pub mod udaf;
pub mod reference;
pub mod window;
mod error;

pub use error::Error;
pub use reference::Reference;
pub use window::{EvaluatedWindow, EvaluationContext, evaluate};
