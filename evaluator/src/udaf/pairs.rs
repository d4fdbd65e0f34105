//! `mean_absolute_error(y, predicted)` and its siblings.

use datafusion::{
    arrow::{array::ArrayRef, datatypes::DataType},
    error::Result,
    logical_expr::AggregateUDF,
    scalar::ScalarValue,
};

use super::{
    adapter::{NewState, State, function},
    columns::{Weights, doubles, for_each_complete_row},
    scores::double,
};
use crate::metrics::{
    regression::{PairedValues, RegressionMetric},
    wire::Reader,
};

/// One function a metric: a function's state is made by a plain `fn`, which cannot remember a metric.
macro_rules! pair_functions {
    ($($metric:ident),+) => {
        [$( (RegressionMetric::$metric, (|_| Ok(PairState::boxed(RegressionMetric::$metric))) as NewState) ),+]
    };
}

pub(super) fn functions() -> Vec<AggregateUDF> {
    let named: [(RegressionMetric, NewState); RegressionMetric::ALL.len()] = pair_functions![
        MeanAbsoluteError,
        MeanSquaredError,
        RootMeanSquaredError,
        MeanAbsolutePercentageError,
        MeanSquaredLogError,
        R2,
        ExplainedVariance,
        MedianAbsoluteError,
        MeanError,
        MaxError,
        PinballLoss10,
        PinballLoss90,
        HuberLoss,
        ErrorQuantile05,
        ErrorQuantile25,
        ErrorQuantile50,
        ErrorQuantile75,
        ErrorQuantile95
    ];
    let arguments = || vec![DataType::Float64, DataType::Float64];
    named.into_iter().map(|(metric, new)| function(metric.name(), arguments(), DataType::Float64, new)).collect()
}

/// Adds two Double columns to a state, pairwise, each row with the weight of its sampling rate if there is such a column.
pub(super) fn push_pairs(pairs: &mut PairedValues, columns: &[ArrayRef]) {
    let (truth, predicted) = (doubles(&columns[0]), doubles(&columns[1]));
    let weights = Weights::at(columns, 2);
    for_each_complete_row(&columns[0], &columns[1], |row| {
        pairs.push(truth.value(row), predicted.value(row), weights.of_row(row));
    });
}

#[derive(Debug)]
struct PairState {
    pairs: PairedValues,
    metric: RegressionMetric,
}

impl PairState {
    fn boxed(metric: RegressionMetric) -> Box<dyn State> {
        Box::new(Self { pairs: PairedValues::default(), metric })
    }
}

impl State for PairState {
    fn update(&mut self, columns: &[ArrayRef]) -> Result<()> {
        push_pairs(&mut self.pairs, columns);
        Ok(())
    }

    fn encode(&self, out: &mut Vec<u8>) {
        self.pairs.encode(out);
    }

    fn merge_encoded(&mut self, reader: &mut Reader<'_>) -> Option<()> {
        self.pairs.merge_encoded(reader)
    }

    fn finish(&mut self) -> Result<ScalarValue> {
        Ok(double(self.pairs.value(self.metric)))
    }

    fn size(&self) -> usize {
        self.pairs.size()
    }
}
