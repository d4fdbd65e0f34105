//! The metrics: pure, mergeable states. `push` takes a row, `merge` another thread's state, `value` the number.
//! No state knows DataFusion; `udaf/` wraps them.
//!
//! ```text
//! rows ─► BinaryState ─┬─ Confusion ─► accuracy, precision, …          exact counts
//!         MulticlassState  Scores ───► roc_auc, log_loss, …            one sort, one sweep
//!         PairedValues ────────────► mean_absolute_error, r2, …        exact sums
//! ```

pub mod binary;
pub mod confusion;
pub mod exact_sum;
pub mod interval;
pub mod multiclass;
pub mod regression;
pub mod report;
pub mod scores;
pub(crate) mod wire;

use serde::{Deserialize, Serialize};

pub use exact_sum::ExactSum;
pub use report::{Cell, Report, ReportRow};

/// Why a metric has no value. The closed list of every `reason` column.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Undefined {
    /// The window (or segment) has no usable prediction.
    NoRows,
    /// There are predictions, and no label yet.
    NoLabels,
    /// The labels are all of one class, so there is nothing to tell apart.
    OneClass,
    /// The rate's denominator is zero, for example precision when nothing was predicted positive.
    ZeroDenominator,
    /// Labelled predictions carry no score (or class, or value) that the metric needs.
    NoScores,
    /// The target is constant, so no share of its variance can be explained.
    Constant,
    /// Fewer rows than the metric needs.
    TooFewRows,
    /// The model has no reference, or the reference lacks this column.
    NoReference,
    /// The scores are no probabilities: a margin, or values outside `[0, 1]`.
    NotProbability,
}

impl Undefined {
    /// The word in the `reason` column.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NoRows => "no_rows",
            Self::NoLabels => "no_labels",
            Self::OneClass => "one_class",
            Self::ZeroDenominator => "zero_denominator",
            Self::NoScores => "no_scores",
            Self::Constant => "constant",
            Self::TooFewRows => "too_few_rows",
            Self::NoReference => "no_reference",
            Self::NotProbability => "not_probability",
        }
    }
}

/// A metric's value with its 95 % interval, where one is known.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Estimate {
    /// The metric on the rows at hand.
    pub value: f64,
    /// Lower and upper bound.
    pub interval: Option<(f64, f64)>,
}

impl Estimate {
    /// A value without an interval.
    pub fn bare(value: f64) -> Self {
        Self { value, interval: None }
    }
}

/// A metric is a number or a reason; an undefined one is a value, not an error.
pub type Outcome = Result<Estimate, Undefined>;

/// `numerator / denominator`, both exact counts.
pub(crate) fn ratio(numerator: u64, denominator: u64) -> Result<f64, Undefined> {
    if denominator == 0 {
        return Err(Undefined::ZeroDenominator);
    }
    Ok(numerator as f64 / denominator as f64)
}
