//! `bin_counts(x, '[e1, e2, …]')`: rows per bin `(−∞, e₁], (e₁, e₂], …, (eₖ, ∞)`.

use std::sync::Arc;

use datafusion::{
    arrow::{
        array::ArrayRef,
        datatypes::{DataType, Field},
    },
    common::exec_datafusion_err,
    error::Result,
    logical_expr::AggregateUDF,
    scalar::ScalarValue,
};

use super::{
    adapter::{State, function, literal_text},
    columns::for_each_double,
};
use crate::{
    drift::Bins,
    metrics::wire::{Reader, put_u64s},
};

pub(super) fn functions() -> Vec<AggregateUDF> {
    let list = DataType::List(Arc::new(Field::new_list_field(DataType::Int64, true)));
    vec![function("bin_counts", vec![DataType::Float64, DataType::Utf8], list, |arguments| {
        let text = literal_text(arguments, 1)?;
        let bins = serde_json::from_str(&text).ok().and_then(Bins::with_edges);
        let bins = bins.ok_or_else(|| exec_datafusion_err!("bin_counts needs ascending edges as JSON, not {text}"))?;
        Ok(Box::new(BinState { counts: vec![0; bins.len()], bins }))
    })]
}

#[derive(Debug)]
struct BinState {
    bins: Bins,
    counts: Vec<u64>,
}

impl State for BinState {
    fn update(&mut self, columns: &[ArrayRef]) -> Result<()> {
        for_each_double(&columns[0], |value| {
            if !value.is_nan() {
                self.counts[self.bins.of(value)] += 1;
            }
        });
        Ok(())
    }

    fn encode(&self, out: &mut Vec<u8>) {
        put_u64s(out, &self.counts);
    }

    fn merge_encoded(&mut self, reader: &mut Reader<'_>) -> Option<()> {
        let mut theirs = Vec::new();
        reader.extend_u64s(&mut theirs)?;
        if theirs.len() != self.counts.len() {
            return None;
        }
        self.counts.iter_mut().zip(theirs).for_each(|(mine, other)| *mine += other);
        Some(())
    }

    fn finish(&mut self) -> Result<ScalarValue> {
        let counts: Vec<ScalarValue> = self.counts.iter().map(|n| ScalarValue::Int64(Some(*n as i64))).collect();
        Ok(ScalarValue::List(ScalarValue::new_list_nullable(&counts, &DataType::Int64)))
    }

    fn size(&self) -> usize {
        self.counts.capacity() * size_of::<u64>()
    }
}
