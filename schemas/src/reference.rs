//! What a frozen reference says of its own labelled rows: the evaluator writes it, and rules are held against it.
use serde::{Deserialize, Serialize};

use crate::config::ModelSettings;
use crate::tables::{MetricRow, ScoreKind};

/// The metrics of a reference's own rows, and under which settings they are what they are.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ReferenceMetrics {
    /// A score at or above it predicted the positive class, where a row had no prediction.
    pub threshold: f64,
    /// What scores meant.
    pub score_kind: ScoreKind,
    /// The positive class of a binary model, if it was known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub positive_class: Option<String>,
    /// One of each metric, class and segment, over all versions.
    pub values: Vec<ReferenceValue>,
}

/// One metric of a reference's own rows.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ReferenceValue {
    /// Its name.
    pub metric: String,
    /// The class, of a metric of one class.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub class: Option<String>,
    /// The names that a segment crosses; none: all rows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub segment: Option<String>,
    /// Their values.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub segment_value: Option<String>,
    /// The value.
    pub value: f64,
    /// Lower bound of its interval at 95 %; none of metrics that have no interval.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ci_low: Option<f64>,
    /// Upper bound.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ci_high: Option<f64>,
    /// Labelled rows that it rests on.
    pub n_labelled: i64,
}

impl ReferenceValue {
    /// Of a row of all versions that has a value and labels; none of any other.
    pub fn of(row: &MetricRow) -> Option<Self> {
        let value = row.value.filter(|value| value.is_finite())?;
        (row.model_version.is_none() && row.n_labelled > 0).then(|| Self {
            metric: row.metric.clone(),
            class: row.class.clone(),
            segment: row.segment.clone(),
            segment_value: row.segment_value.clone(),
            value,
            ci_low: row.ci_low,
            ci_high: row.ci_high,
            n_labelled: row.n_labelled,
        })
    }
}

impl ReferenceMetrics {
    /// What a row is held against: the same metric of the same class and segment, whatever its version.
    pub fn of(&self, row: &MetricRow) -> Option<&ReferenceValue> {
        self.values.iter().find(|own| {
            own.metric == row.metric
                && own.class == row.class
                && own.segment == row.segment
                && own.segment_value == row.segment_value
        })
    }

    /// Why they cannot be held against a model's windows, if it is judged under other settings by now.
    pub fn misfit(&self, settings: &ModelSettings) -> Option<String> {
        if self.score_kind != settings.score_kind {
            return Some("it was frozen while scores meant something else (`score_kind`)".to_owned());
        }
        // Of margins and probabilities alike: the very number that was typed.
        if self.threshold.to_bits() != settings.threshold.to_bits() {
            return Some(format!(
                "it was frozen under the threshold {}, and that is {} now",
                self.threshold, settings.threshold
            ));
        }
        match (&self.positive_class, &settings.positive_class) {
            (Some(then), Some(now)) if then != now => {
                Some(format!("it was frozen with the positive class {then:?}, and that is {now:?} now"))
            }
            _ => None,
        }
    }
}
