//! What a task's state says about its rows: metrics and confusion cells, ready to become table rows.

use serde::{Deserialize, Serialize};

use super::{Outcome, Undefined};

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
}

/// One cell of a confusion matrix. Cells without rows are left out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cell {
    /// The label, in canonical text.
    pub actual: String,
    /// The prediction, in canonical text.
    pub predicted: String,
    /// Rows.
    pub count: i64,
}

/// All metrics of one group of rows.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// Every metric of the task, undefined ones included, in a fixed order.
    pub metrics: Vec<ReportRow>,
    /// The confusion matrix of a classification.
    pub confusion: Vec<Cell>,
}

impl Report {
    /// Adds a metric. What is not finite is kept inside the largest float: a table reader must not meet NaN or infinity.
    pub fn add(&mut self, metric: &str, class: Option<&str>, outcome: Outcome) {
        let finite = |x: f64| x.clamp(f64::MIN, f64::MAX);
        let (metric, class) = (metric.to_owned(), class.map(str::to_owned));
        self.metrics.push(match outcome {
            Ok(estimate) => {
                let (ci_low, ci_high) = estimate.interval.map(|(l, h)| (finite(l), finite(h))).unzip();
                ReportRow { metric, class, value: Some(finite(estimate.value)), reason: None, ci_low, ci_high }
            }
            Err(reason) => ReportRow { metric, class, value: None, reason: Some(reason), ci_low: None, ci_high: None },
        });
    }

    /// The row of a metric without class.
    pub fn get(&self, metric: &str) -> Option<&ReportRow> {
        self.metrics.iter().find(|row| row.metric == metric && row.class.is_none())
    }
}
