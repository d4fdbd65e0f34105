//! `distinct_rows('share', a, b, …)`: how many rows there are with a value in any of these columns, and how many different ones.

use std::sync::Arc;

use datafusion::{
    arrow::{
        array::{Array, ArrayRef, AsArray, Float64Array, StringArray},
        compute::cast,
        datatypes::{DataType, Field},
    },
    common::exec_err,
    error::Result,
    logical_expr::{AggregateUDF, Signature, Volatility},
    scalar::ScalarValue,
};
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

use super::{
    adapter::{State, function_of, literal_text},
    columns::doubles,
};
use crate::metrics::wire::{Reader, put_u64s};

pub(super) fn functions() -> Vec<AggregateUDF> {
    let list = DataType::List(Arc::new(Field::new_list_field(DataType::Int64, true)));
    vec![function_of("distinct_rows", Signature::variadic_any(Volatility::Immutable), list, |arguments| {
        let text = literal_text(arguments, 0)?;
        match serde_json::from_str::<Share>(&text) {
            Ok(share) if share.part < share.of => Ok(Box::new(RowsState { share, hashes: Vec::new() })),
            _ => exec_err!("{} counts {{\"part\": n, \"of\": m}} with n below m, not {text}", arguments.name),
        }
    })]
}

/// Which rows are counted: of so many shares into which hashes fall evenly, one. Equal rows are in one share, so that what is counted
/// of each adds up to what is counted of all.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Share {
    /// From 0.
    pub(crate) part: u64,
    /// At least 1.
    pub(crate) of: u64,
}

impl Share {
    fn has(self, hash: u64) -> bool {
        hash % self.of == self.part
    }
}

/// A hash of 64 bits for each row: of ten million rows, two different ones are taken for the same once in several hundred thousand
/// windows.
#[derive(Debug)]
struct RowsState {
    share: Share,
    hashes: Vec<u64>,
}

/// A column in a form whose equal values have equal bytes.
enum Plain {
    Numbers(Float64Array),
    Texts(StringArray),
}

impl Plain {
    fn of(column: &ArrayRef) -> Result<Self> {
        Ok(if column.data_type().is_numeric() {
            Self::Numbers(doubles(&cast(column, &DataType::Float64)?).clone())
        } else {
            Self::Texts(cast(column, &DataType::Utf8)?.as_string::<i32>().clone())
        })
    }

    /// Appends a row's value, with a mark before it so that no two rows read alike; whether there is one.
    fn write(&self, row: usize, bytes: &mut Vec<u8>) -> bool {
        match self {
            Self::Numbers(numbers) if numbers.is_valid(row) && !numbers.value(row).is_nan() => {
                bytes.push(1);
                // Zero has two signs and is one value.
                bytes.extend((numbers.value(row) + 0.0).to_bits().to_le_bytes());
                true
            }
            Self::Texts(texts) if texts.is_valid(row) => {
                let text = texts.value(row);
                bytes.push(2);
                bytes.extend((text.len() as u64).to_le_bytes());
                bytes.extend(text.as_bytes());
                true
            }
            _ => {
                bytes.push(0);
                false
            }
        }
    }
}

/// Calls `each` with the hash of every row that has a value.
fn for_each_hash(columns: &[ArrayRef], mut each: impl FnMut(u64)) -> Result<()> {
    let plain = columns.iter().map(Plain::of).collect::<Result<Vec<_>>>()?;
    let mut bytes = Vec::new();
    for row in 0..columns.first().map_or(0, Array::len) {
        bytes.clear();
        let has_value = plain.iter().fold(false, |any, column| column.write(row, &mut bytes) | any);
        if has_value {
            each(xxh3_64(&bytes));
        }
    }
    Ok(())
}

impl State for RowsState {
    fn update(&mut self, columns: &[ArrayRef]) -> Result<()> {
        let (share, hashes) = (self.share, &mut self.hashes);
        for_each_hash(&columns[1..], |hash| hashes.extend(share.has(hash).then_some(hash)))
    }

    fn encode(&self, out: &mut Vec<u8>) {
        put_u64s(out, &self.hashes);
    }

    fn merge_encoded(&mut self, reader: &mut Reader<'_>) -> Option<()> {
        reader.extend_u64s(&mut self.hashes)
    }

    fn finish(&mut self) -> Result<ScalarValue> {
        let mut hashes = std::mem::take(&mut self.hashes);
        let rows = hashes.len();
        hashes.sort_unstable();
        hashes.dedup();
        let counts = [rows, hashes.len()].map(|count| ScalarValue::Int64(Some(count as i64)));
        Ok(ScalarValue::List(ScalarValue::new_list_nullable(&counts, &DataType::Int64)))
    }

    fn size(&self) -> usize {
        self.hashes.capacity() * size_of::<u64>()
    }
}
