//! What a metric will be once the labels are there, from what the reference says of scores like these.
//!
//! ```text
//! reference, labelled ─► calibration  how often a score was right      loss  how far off a prediction like this was
//!                             │                                          │
//! a window's rows, labelled or not ─► rows ─► binary, classes ◄──────────┴─► value and interval of each metric
//! ```
//! An estimate takes no label of the window into account, so that it can be held against the realised value later.
//!
//! # What an interval covers
//! The realised value of just these rows, provided that rows of one score are right as often as in the reference: the chance
//! in their labels, and the reference's own chance, by block or bin of it. It cannot cover that this has changed (concept drift):
//! then the realised value leaves the interval, and nothing but labels can tell. It also takes blocks for given, where they
//! were found in the same rows.

pub mod areas;
pub mod arrival;
pub mod binary;
pub mod calibration;
pub mod classes;
pub mod loss;
pub mod rows;

use serde::{Deserialize, Serialize};

use crate::metrics::{
    Undefined,
    binned::ROUNDING,
    interval::{ROWS_MIN, Z_95, logit},
};
pub use calibration::{Calibration, Curve};
pub use loss::LossBins;
pub use rows::{ClassRows, FlaggedValues};

/// The share of rows beyond the reference's range from which on an estimate carries [`Warning::OutOfRange`].
const STRANGE_MAX: f64 = 0.05;

/// An estimated metric with its 95 % interval.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Estimated {
    /// The metric, expected.
    pub value: f64,
    /// Lower bound.
    pub low: f64,
    /// Upper bound.
    pub high: f64,
    /// Why the interval may not hold.
    pub warning: Option<Warning>,
    /// How far the value may lie from that of the rows as they are, where they were held in bins; none if it is that value.
    pub bound: Option<f64>,
}

/// Why an estimate may not hold. The closed list of the `ci_warning` column of `estimates`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Warning {
    /// Under [`ROWS_MIN`] rows of some kind, expected in the window or seen in the reference.
    FewRows,
    /// More than 5 % of the rows have a score or a prediction beyond all of the reference: what is said of them is
    /// what was seen at its edge.
    OutOfRange,
}

impl Warning {
    /// The word in the `ci_warning` column.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::FewRows => "few_rows",
            Self::OutOfRange => "out_of_range",
        }
    }
}

/// An estimate, or why there is none.
pub type Outcome = Result<Estimated, Undefined>;

impl Estimated {
    /// A share: on the scale of the odds' logarithm, or at 0 and 1, where that has none, cut off there.
    fn share(value: f64, variance: f64) -> Self {
        let error = variance.max(0.0).sqrt();
        let (low, high) = if value > 0.0 && value < 1.0 {
            logit(value, error, Z_95)
        } else {
            ((value - Z_95 * error).max(0.0), (value + Z_95 * error).min(1.0))
        };
        Self { value, low, high, warning: None, bound: None }
    }

    /// A mean of losses, on the scale of its logarithm.
    fn loss(value: f64, variance: f64) -> Self {
        let spread = if value > 0.0 { (Z_95 * variance.max(0.0).sqrt() / value).exp() } else { 1.0 };
        Self { value, low: value / spread, high: value * spread, warning: None, bound: None }
    }

    /// With [`Warning::FewRows`], if the scarcest rows are under [`ROWS_MIN`].
    #[must_use]
    fn on_rows(self, scarcest: f64) -> Self {
        if scarcest < ROWS_MIN { Self { warning: Some(Warning::FewRows), ..self } } else { self }
    }

    /// With [`Warning::OutOfRange`], if this share of the rows is.
    #[must_use]
    fn on_strange(self, share: f64) -> Self {
        if share > STRANGE_MAX { Self { warning: self.warning.or(Some(Warning::OutOfRange)), ..self } } else { self }
    }

    /// With a bound on how far it is off, and with an interval that is so much wider, where the metric itself may be; 0 says that it is exact.
    #[must_use]
    fn within(self, bound: f64, ends: (f64, f64)) -> Self {
        if bound <= 0.0 {
            return self;
        }
        let bound = bound + ROUNDING * self.value.abs();
        let (low, high) = ((self.low - bound).max(ends.0), (self.high + bound).min(ends.1));
        Self { low, high, bound: Some(bound), ..self }
    }
}

/// Where a value lies for sure.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Reach {
    /// At least.
    pub least: f64,
    /// At most.
    pub most: f64,
}

impl Reach {
    /// This value alone.
    pub fn of(value: f64) -> Self {
        Self { least: value, most: value }
    }

    /// How far it may be off a value in it.
    pub fn off(&self, value: f64) -> f64 {
        (self.most - value).max(value - self.least).max(0.0)
    }
}
