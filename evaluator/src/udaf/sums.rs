//! `exact_sum(x)`, `exact_mean(x)`, `total_weight(sampling_rate)` and `total_squared_weight(sampling_rate)`.

use datafusion::{
    arrow::{array::ArrayRef, datatypes::DataType},
    error::Result,
    logical_expr::AggregateUDF,
    scalar::ScalarValue,
};

use super::{
    adapter::{State, function},
    columns::{Weights, for_each_double},
};
use crate::metrics::{
    ExactSum, Mass,
    wire::{Reader, put_u64},
};

pub(super) fn functions() -> Vec<AggregateUDF> {
    let arguments = || vec![DataType::Float64];
    vec![
        function("exact_sum", arguments(), DataType::Float64, |_| Ok(SumState::boxed(|sum, _| sum))),
        function("exact_mean", arguments(), DataType::Float64, |_| Ok(SumState::boxed(|sum, rows| sum / rows))),
        function("total_weight", arguments(), DataType::Float64, |_| {
            Ok(Box::new(WeightState { mass: Mass::default(), value: Mass::weight }))
        }),
        function("total_squared_weight", arguments(), DataType::Float64, |_| {
            Ok(Box::new(WeightState { mass: Mass::default(), value: Mass::squares }))
        }),
    ]
}

#[derive(Debug)]
struct SumState {
    sum: ExactSum,
    rows: u64,
    value: fn(f64, f64) -> f64,
}

impl SumState {
    fn boxed(value: fn(f64, f64) -> f64) -> Box<dyn State> {
        Box::new(Self { sum: ExactSum::default(), rows: 0, value })
    }
}

impl State for SumState {
    fn update(&mut self, columns: &[ArrayRef]) -> Result<()> {
        self.rows += (columns[0].len() - columns[0].null_count()) as u64;
        for_each_double(&columns[0], |value| self.sum.push(value));
        Ok(())
    }

    fn encode(&self, out: &mut Vec<u8>) {
        put_u64(out, self.rows);
        self.sum.encode(out);
    }

    fn merge_encoded(&mut self, reader: &mut Reader<'_>) -> Option<()> {
        self.rows += reader.u64()?;
        self.sum.merge(&ExactSum::decode(reader)?);
        Some(())
    }

    fn finish(&mut self) -> Result<ScalarValue> {
        let value = (self.value)(self.sum.value(), self.rows as f64);
        Ok(ScalarValue::Float64((self.rows > 0).then_some(value)))
    }

    fn size(&self) -> usize {
        0
    }
}

#[derive(Debug)]
struct WeightState {
    mass: Mass,
    value: fn(&Mass) -> f64,
}

impl State for WeightState {
    fn update(&mut self, columns: &[ArrayRef]) -> Result<()> {
        let weights = Weights::of(columns.first());
        (0..columns[0].len()).for_each(|row| self.mass.push(weights.of_row(row)));
        Ok(())
    }

    fn encode(&self, out: &mut Vec<u8>) {
        self.mass.encode(out);
    }

    fn merge_encoded(&mut self, reader: &mut Reader<'_>) -> Option<()> {
        self.mass.merge(&Mass::decode(reader)?);
        Some(())
    }

    fn finish(&mut self) -> Result<ScalarValue> {
        Ok(ScalarValue::Float64(Some((self.value)(&self.mass))))
    }

    fn size(&self) -> usize {
        0
    }
}
