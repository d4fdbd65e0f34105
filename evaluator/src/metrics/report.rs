//! What a task's state says about its rows: metrics and confusion cells, ready to become table rows.

use serde::{Deserialize, Serialize};

use super::{Curve, Interval, Method, Outcome, StandardError, Undefined, Warning};

/// One metric of one group of rows.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ReportRow {
    /// The metric's name.
    pub metric: String,
    /// The class of a per-class row.
    pub class: Option<String>,
    /// The value, or none with a reason.
    pub value: Option<f64>,
    /// Why there is no value.
    pub reason: Option<Undefined>,
    /// Lower bound of the 95 % interval.
    pub ci_low: Option<f64>,
    /// Upper bound.
    pub ci_high: Option<f64>,
    /// How the interval was made.
    pub ci_method: Option<Method>,
    /// Why it may not hold.
    pub ci_warning: Option<Warning>,
    /// What the best constant prediction would have reached.
    pub baseline: Option<f64>,
    /// How far that may lie from that of the rows as they are; none if it is that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub baseline_bound: Option<f64>,
    /// How far the value may lie from that of the rows as they are; none if it is that value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error_bound: Option<f64>,
    /// The standard error of a value whose differences are judged by it; it is not published.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<StandardError>,
}

/// One cell of a confusion matrix. Cells without rows are left out.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Cell {
    /// The label, in canonical text.
    pub actual: String,
    /// The prediction, in canonical text.
    pub predicted: String,
    /// Rows.
    pub count: i64,
    /// Their sampling weights, summed.
    pub weight: f64,
    /// The squares of these, summed: what intervals need. It is not published.
    pub squares: f64,
}

/// All metrics of one group of rows.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// Every metric of the task, undefined ones included, in a fixed order.
    pub metrics: Vec<ReportRow>,
    /// The confusion matrix of a classification.
    pub confusion: Vec<Cell>,
    /// The curves of a binary classification with scores.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub curves: Vec<Curve>,
    /// Whether there are more classes than are told apart, and nobody said which to tell apart. Nothing else is there then.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub has_too_many_classes: bool,
}

impl Report {
    /// Adds a metric. A value that is not finite (of infinities, or beyond the largest float) is none: `out_of_domain`. Ends of intervals are kept
    /// inside the largest float: a table reader must not meet NaN or infinity.
    pub fn add(&mut self, metric: &str, class: Option<&str>, outcome: Outcome) {
        let finite = |x: f64| x.clamp(f64::MIN, f64::MAX);
        let outcome =
            outcome.and_then(|found| if found.value.is_finite() { Ok(found) } else { Err(Undefined::OutOfDomain) });
        let mut row = ReportRow {
            metric: metric.to_owned(),
            class: class.map(str::to_owned),
            value: None,
            reason: None,
            ci_low: None,
            ci_high: None,
            ci_method: None,
            ci_warning: None,
            baseline: None,
            baseline_bound: None,
            error_bound: None,
            error: None,
        };
        match outcome {
            Ok(estimate) => {
                row.value = Some(finite(estimate.value));
                row.error = estimate.error;
                row.error_bound = estimate.bound.map(finite);
                row.baseline = estimate.baseline.filter(|baseline| !baseline.is_nan()).map(finite);
                row.baseline_bound = estimate.baseline_bound.filter(|_| row.baseline.is_some()).map(finite);
                if let Some(Interval { low, high, method, warning }) =
                    estimate.interval.filter(|i| !(i.low + i.high).is_nan())
                {
                    (row.ci_low, row.ci_high) = (Some(finite(low)), Some(finite(high)));
                    (row.ci_method, row.ci_warning) = (Some(method), warning);
                }
            }
            Err(reason) => row.reason = Some(reason),
        }
        self.metrics.push(row);
    }

    /// The row of a metric without class.
    pub fn get(&self, metric: &str) -> Option<&ReportRow> {
        self.metrics.iter().find(|row| row.metric == metric && row.class.is_none())
    }
}
