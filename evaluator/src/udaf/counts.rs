//! `accuracy(actual, predicted)` and its siblings, of a yes-or-no truth and prediction.

use datafusion::{
    arrow::{array::ArrayRef, datatypes::DataType},
    error::Result,
    logical_expr::AggregateUDF,
    scalar::ScalarValue,
};

use super::{
    adapter::{NewState, State, function},
    columns::{booleans, for_each_complete_row},
};
use crate::metrics::{Weight, binary::BinaryState, wire::Reader};

/// One function a metric: a function's state is made by a plain `fn`, which cannot remember a name.
macro_rules! count_functions {
    ($($name:literal),+) => { [$( ($name, (|_| Ok(CountState::boxed($name))) as NewState) ),+] };
}

pub(super) fn functions() -> Vec<AggregateUDF> {
    let named = count_functions![
        "accuracy",
        "balanced_accuracy",
        "matthews_corrcoef",
        "cohen_kappa",
        "precision",
        "recall",
        "f1",
        "specificity",
        "f0_5",
        "f2",
        "false_positive_rate",
        "false_negative_rate",
        "jaccard"
    ];
    let arguments = || vec![DataType::Boolean, DataType::Boolean];
    named.into_iter().map(|(name, new)| function(name, arguments(), DataType::Float64, new)).collect()
}

#[derive(Debug)]
struct CountState {
    counts: BinaryState,
    name: &'static str,
}

impl CountState {
    fn boxed(name: &'static str) -> Box<dyn State> {
        Box::new(Self { counts: BinaryState::default(), name })
    }
}

impl State for CountState {
    fn update(&mut self, columns: &[ArrayRef]) -> Result<()> {
        let (actual, predicted) = (booleans(&columns[0]), booleans(&columns[1]));
        for_each_complete_row(&columns[0], &columns[1], |row| {
            self.counts.push(actual.value(row), Some(predicted.value(row)), None, Weight::ONE);
        });
        Ok(())
    }

    fn encode(&self, out: &mut Vec<u8>) {
        self.counts.encode(out);
    }

    fn merge_encoded(&mut self, reader: &mut Reader<'_>) -> Option<()> {
        self.counts.merge_encoded(reader)
    }

    fn finish(&mut self) -> Result<ScalarValue> {
        let report = std::mem::take(&mut self.counts).value(true);
        Ok(ScalarValue::Float64(report.get(self.name).and_then(|row| row.value)))
    }

    fn size(&self) -> usize {
        self.counts.size()
    }
}
