//! `roc_auc(score, is_positive)` and its siblings.

use datafusion::{
    arrow::{array::ArrayRef, datatypes::DataType},
    error::Result,
    logical_expr::AggregateUDF,
    scalar::ScalarValue,
};

use super::{
    adapter::{State, function},
    columns::{booleans, doubles, for_each_complete_row},
};
use crate::metrics::{
    Outcome,
    scores::{ScoreMetrics, Scores},
    wire::Reader,
};

pub(super) fn functions() -> Vec<AggregateUDF> {
    let arguments = || vec![DataType::Float64, DataType::Boolean];
    let double = DataType::Float64;
    vec![
        function("roc_auc", arguments(), double.clone(), |_| Ok(ScoreState::boxed(|m| m.roc_auc))),
        function("average_precision", arguments(), double.clone(), |_| Ok(ScoreState::boxed(|m| m.average_precision))),
        function("log_loss", arguments(), double.clone(), |_| Ok(ScoreState::boxed(|m| m.log_loss))),
        function("brier_score", arguments(), double.clone(), |_| Ok(ScoreState::boxed(|m| m.brier_score))),
        function("expected_calibration_error", arguments(), double, |_| {
            Ok(ScoreState::boxed(|m| m.expected_calibration_error))
        }),
    ]
}

/// A metric's value as SQL: null if undefined.
pub(super) fn double(outcome: Outcome) -> ScalarValue {
    ScalarValue::Float64(outcome.ok().map(|estimate| estimate.value))
}

#[derive(Debug)]
struct ScoreState {
    scores: Scores,
    metric: fn(&ScoreMetrics) -> Outcome,
}

impl ScoreState {
    fn boxed(metric: fn(&ScoreMetrics) -> Outcome) -> Box<dyn State> {
        Box::new(Self { scores: Scores::default(), metric })
    }
}

impl State for ScoreState {
    fn update(&mut self, columns: &[ArrayRef]) -> Result<()> {
        let (scores, positive) = (doubles(&columns[0]), booleans(&columns[1]));
        for_each_complete_row(&columns[0], &columns[1], |row| self.scores.push(scores.value(row), positive.value(row)));
        Ok(())
    }

    fn encode(&self, out: &mut Vec<u8>) {
        self.scores.encode(out);
    }

    fn merge_encoded(&mut self, reader: &mut Reader<'_>) -> Option<()> {
        self.scores.merge_encoded(reader)
    }

    fn finish(&mut self) -> Result<ScalarValue> {
        Ok(double((self.metric)(&std::mem::take(&mut self.scores).value(true))))
    }

    fn size(&self) -> usize {
        self.scores.size()
    }
}
