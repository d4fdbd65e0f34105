//! `sorted_values(x)`: the whole column, ascending, for what compares distributions outside SQL.

use std::sync::Arc;

use datafusion::{
    arrow::{
        array::{ArrayRef, Float64Array, LargeListArray},
        buffer::OffsetBuffer,
        datatypes::{DataType, Field},
    },
    error::Result,
    logical_expr::AggregateUDF,
    scalar::ScalarValue,
};

use super::{
    adapter::{State, function},
    columns::for_each_double,
};
use crate::metrics::wire::{Reader, put_f64s};

pub(super) fn functions() -> Vec<AggregateUDF> {
    let list = DataType::LargeList(Arc::new(Field::new_list_field(DataType::Float64, true)));
    vec![function("sorted_values", vec![DataType::Float64], list, |_| Ok(Box::new(ValuesState { values: Vec::new() })))]
}

#[derive(Debug)]
struct ValuesState {
    values: Vec<f64>,
}

impl State for ValuesState {
    fn update(&mut self, columns: &[ArrayRef]) -> Result<()> {
        for_each_double(&columns[0], |value| {
            if !value.is_nan() {
                self.values.push(value);
            }
        });
        Ok(())
    }

    fn encode(&self, out: &mut Vec<u8>) {
        put_f64s(out, &self.values);
    }

    fn merge_encoded(&mut self, reader: &mut Reader<'_>) -> Option<()> {
        reader.extend_f64s(&mut self.values)
    }

    fn finish(&mut self) -> Result<ScalarValue> {
        let mut values = std::mem::take(&mut self.values);
        values.sort_unstable_by(f64::total_cmp);
        let field = Arc::new(Field::new_list_field(DataType::Float64, true));
        let offsets = OffsetBuffer::from_lengths([values.len()]);
        let list = LargeListArray::new(field, offsets, Arc::new(Float64Array::from(values)), None);
        Ok(ScalarValue::LargeList(Arc::new(list)))
    }

    fn size(&self) -> usize {
        self.values.capacity() * size_of::<f64>()
    }
}
