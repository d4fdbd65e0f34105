//! `sorted_sample(x)`: the whole column with what its rows stand for, ascending, for what compares distributions outside SQL.

use datafusion::{
    arrow::{
        array::{Array, ArrayRef},
        datatypes::DataType,
    },
    common::exec_datafusion_err,
    error::Result,
    logical_expr::AggregateUDF,
    scalar::ScalarValue,
};

use super::{
    adapter::{State, function_of, limit},
    columns::{Weights, doubles, for_each_double},
    report::with_rate_and_limit,
};
use crate::{
    drift::Sample,
    metrics::{Weight, wire::Reader},
};

pub(super) fn functions() -> Vec<AggregateUDF> {
    vec![function_of("sorted_sample", with_rate_and_limit(&[DataType::Float64]), DataType::LargeBinary, |arguments| {
        Ok(Box::new(Sample::held_to(limit(arguments, 1)?)))
    })]
}

/// Reads what `sorted_sample` returned; no bytes are no rows.
pub(crate) fn sample(bytes: &[u8]) -> Result<Sample> {
    if bytes.is_empty() {
        return Ok(Sample::default());
    }
    Sample::decode_sorted(&mut Reader::new(bytes)).ok_or_else(|| exec_datafusion_err!("sorted_sample is cut short"))
}

impl State for Sample {
    fn update(&mut self, columns: &[ArrayRef]) -> Result<()> {
        let weights = Weights::at(columns, 1);
        if weights.are_one() {
            for_each_double(&columns[0], |value| self.push(value, Weight::ONE));
            self.hold();
            return Ok(());
        }
        let values = doubles(&columns[0]);
        for row in (0..values.len()).filter(|row| values.is_valid(*row)) {
            self.push(values.value(row), weights.of_row(row));
        }
        self.hold();
        Ok(())
    }

    fn encode(&self, out: &mut Vec<u8>) {
        Self::encode(self, out);
    }

    fn merge_encoded(&mut self, reader: &mut Reader<'_>) -> Option<()> {
        Self::merge_encoded(self, reader)?;
        self.hold();
        Some(())
    }

    fn finish(&mut self) -> Result<ScalarValue> {
        let whole = std::mem::take(self).sorted();
        let mut bytes = Vec::new();
        whole.encode(&mut bytes);
        Ok(ScalarValue::LargeBinary(Some(bytes)))
    }

    fn size(&self) -> usize {
        Self::size(self)
    }
}
