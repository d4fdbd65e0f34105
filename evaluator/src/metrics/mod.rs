//! The metrics: pure, mergeable states. `push` takes a row, `merge` another thread's state, `value` the number.
//! No state knows DataFusion; `udaf/` wraps them.
//!
//! ```text
//! rows ─► BinaryState ─┬─ Confusion ─► accuracy, precision, …          exact counts, derivatives for intervals
//!         MulticlassState  Scores ───► roc_auc, log_loss, …, curves    one sort, one sweep
//!         PairedValues ────────────► mean_absolute_error, r2, …        exact sums
//! requests ─► ServingState ──► requests, error_rate, latency_p95_ms, …  exact over all rows
//! two versions ─► PairedScores … ─► Comparison                          the difference, paired or not
//! more rows than memory holds ─► Bins ─► the same sweeps, each value with a bound on its error
//!         Mass, Moments ─► how much rows count, means                   interval ─► ci_low, ci_high, ci_method
//! ```

pub mod average_precision;
pub mod binary;
pub mod binned;
mod binned_pairs;
mod binned_scores;
pub mod business;
pub mod comparison;
pub mod confusion;
#[cfg(test)]
mod coverage;
pub mod curves;
pub mod exact_sum;
pub mod interval;
pub mod likelihood;
pub mod mass;
pub mod moments;
pub mod multiclass;
pub mod one_vs_rest;
pub mod paired;
pub mod ranking;
pub mod regression;
pub mod report;
pub mod roc_auc;
pub mod scores;
pub mod serving;
pub(crate) mod sorted;
pub(crate) mod wire;

use serde::{Deserialize, Serialize};

pub use curves::Curve;
pub use exact_sum::ExactSum;
pub use interval::{Interval, Method, Warning};
pub use mass::{Mass, Weight};
pub use report::{Cell, Report, ReportRow};

/// Stands for all that are not told apart: values of a segment, versions, classes.
pub const OTHER: &str = "__other__";

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
    /// Nothing has the value that the figure is of: no row a latency, or no query a relevant row.
    NoValues,
    /// There are more rows, or more classes, than memory holds, and of these figures no smaller state is known.
    BeyondMemory,
    /// A value lies where the metric is not defined: the logarithm of a target or prediction of −1 or less, or squares beyond
    /// the largest float.
    OutOfDomain,
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
            Self::NoValues => "no_values",
            Self::BeyondMemory => "beyond_memory",
            Self::OutOfDomain => "out_of_domain",
        }
    }
}

/// A metric's value with its 95 % interval and its naive baseline, where they are known.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Estimate {
    /// The metric on the rows at hand.
    pub value: f64,
    /// Where the metric of all such rows lies.
    pub interval: Option<Interval>,
    /// What the best constant prediction would have reached on these rows.
    pub baseline: Option<f64>,
    /// How far that may lie from that of the rows as they are, where they were held in bins; none if it is that.
    pub baseline_bound: Option<f64>,
    /// Of an area under the ROC curve and of a mean: what a difference of two is judged by.
    pub error: Option<StandardError>,
    /// How far the value may lie from that of the rows as they are, where they were held in bins; none if it is that value.
    pub bound: Option<f64>,
}

/// A standard error and the rows that it rests on.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct StandardError {
    /// In the unit of the value.
    pub value: f64,
    /// Effective rows.
    pub rows: f64,
}

impl Estimate {
    /// A value alone.
    pub fn bare(value: f64) -> Self {
        Self { value, interval: None, baseline: None, baseline_bound: None, error: None, bound: None }
    }

    /// With a standard error, if it is one.
    #[must_use]
    pub fn with_error(self, value: f64, rows: f64) -> Self {
        Self { error: (value.is_finite() && rows.is_finite()).then_some(StandardError { value, rows }), ..self }
    }

    /// With an interval.
    #[must_use]
    pub fn with_interval(self, interval: Interval) -> Self {
        Self { interval: Some(interval), ..self }
    }

    /// With what the best constant prediction would have reached.
    #[must_use]
    pub fn with_baseline(self, baseline: f64) -> Self {
        Self { baseline: Some(baseline), ..self }
    }

    /// With a bound on how far it is off, and with an interval that is so much wider; 0 says that it is exact.
    #[must_use]
    pub fn within(self, bound: f64) -> Self {
        if bound == 0.0 {
            return self;
        }
        let interval = self.interval.map(|i| Interval { low: i.low - bound, high: i.high + bound, ..i });
        Self { interval, bound: Some(bound), ..self }
    }

    /// With an interval that stays where the metric itself does.
    #[must_use]
    pub fn between(self, low: f64, high: f64) -> Self {
        let interval = self.interval.map(|i| i.map(|end| end.clamp(low, high)));
        Self { interval, ..self }
    }

    /// With a warning if the interval rests on too few rows.
    #[must_use]
    pub fn with_rows(self, scarcest: f64) -> Self {
        Self { interval: self.interval.map(|interval| interval.on_rows(scarcest)), ..self }
    }
}

/// A metric is a number or a reason; an undefined one is a value, not an error.
pub type Outcome = Result<Estimate, Undefined>;
