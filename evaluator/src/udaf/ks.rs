//! `ks_statistic(x, is_current)` and `ks_p_value(x, is_current)`: two samples in one column, told apart by the second.

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
use crate::{
    drift::{KolmogorovSmirnov, ks_2samp},
    metrics::wire::{Reader, put_f64s},
};

pub(super) fn functions() -> Vec<AggregateUDF> {
    let arguments = || vec![DataType::Float64, DataType::Boolean];
    vec![
        function("ks_statistic", arguments(), DataType::Float64, |_| Ok(SamplesState::boxed(|test| test.statistic))),
        function("ks_p_value", arguments(), DataType::Float64, |_| Ok(SamplesState::boxed(|test| test.p_value))),
    ]
}

#[derive(Debug)]
struct SamplesState {
    reference: Vec<f64>,
    current: Vec<f64>,
    value: fn(&KolmogorovSmirnov) -> f64,
}

impl SamplesState {
    fn boxed(value: fn(&KolmogorovSmirnov) -> f64) -> Box<dyn State> {
        Box::new(Self { reference: Vec::new(), current: Vec::new(), value })
    }
}

impl State for SamplesState {
    fn update(&mut self, columns: &[ArrayRef]) -> Result<()> {
        let (values, is_current) = (doubles(&columns[0]), booleans(&columns[1]));
        for_each_complete_row(&columns[0], &columns[1], |row| {
            let value = values.value(row);
            if !value.is_nan() {
                if is_current.value(row) { self.current.push(value) } else { self.reference.push(value) }
            }
        });
        Ok(())
    }

    fn encode(&self, out: &mut Vec<u8>) {
        put_f64s(out, &self.reference);
        put_f64s(out, &self.current);
    }

    fn merge_encoded(&mut self, reader: &mut Reader<'_>) -> Option<()> {
        reader.extend_f64s(&mut self.reference)?;
        reader.extend_f64s(&mut self.current)
    }

    fn finish(&mut self) -> Result<ScalarValue> {
        self.reference.sort_unstable_by(f64::total_cmp);
        self.current.sort_unstable_by(f64::total_cmp);
        Ok(ScalarValue::Float64(ks_2samp(&self.reference, &self.current).as_ref().map(self.value)))
    }

    fn size(&self) -> usize {
        (self.reference.capacity() + self.current.capacity()) * size_of::<f64>()
    }
}
