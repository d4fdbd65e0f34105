//! `distinct_rows(a, b, …)`: how many rows there are with a value in any of these columns, and how many different ones.

use std::sync::Arc;

use datafusion::{
    arrow::{
        array::{Array, ArrayRef, AsArray, Float64Array, Int64Builder, StringArray},
        compute::cast,
        datatypes::{DataType, Field},
    },
    error::Result,
    logical_expr::{AggregateUDF, ColumnarValue, ScalarFunctionArgs, ScalarUDFImpl, Signature, Volatility},
    scalar::ScalarValue,
};
use xxhash_rust::xxh3::xxh3_64;

use super::{
    adapter::{State, function_of},
    columns::doubles,
};
use crate::metrics::wire::{Reader, put_u64s};

pub(super) fn functions() -> Vec<AggregateUDF> {
    let list = DataType::List(Arc::new(Field::new_list_field(DataType::Int64, true)));
    vec![function_of("distinct_rows", Signature::variadic_any(Volatility::Immutable), list, |_| {
        Ok(Box::new(RowsState { hashes: Vec::new() }))
    })]
}

/// A hash of 64 bits for each row: of ten million rows, two different ones are taken for the same once in several hundred thousand
/// windows.
#[derive(Debug)]
struct RowsState {
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

/// Calls `each` with the hash of every row; with none of one without a value.
fn for_each_hash(columns: &[ArrayRef], mut each: impl FnMut(Option<u64>)) -> Result<()> {
    let plain = columns.iter().map(Plain::of).collect::<Result<Vec<_>>>()?;
    let mut bytes = Vec::new();
    for row in 0..columns.first().map_or(0, Array::len) {
        bytes.clear();
        let has_value = plain.iter().fold(false, |any, column| column.write(row, &mut bytes) | any);
        each(has_value.then(|| xxh3_64(&bytes)));
    }
    Ok(())
}

/// `row_hash(a, b, …)`: the hash by which `distinct_rows` tells rows apart, as an integer; null of a row without a value.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct RowHash {
    signature: Signature,
}

impl RowHash {
    pub(super) fn new() -> Self {
        Self { signature: Signature::variadic_any(Volatility::Immutable) }
    }
}

impl ScalarUDFImpl for RowHash {
    fn name(&self) -> &'static str {
        "row_hash"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _arguments: &[DataType]) -> Result<DataType> {
        Ok(DataType::Int64)
    }

    fn invoke_with_args(&self, arguments: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let columns = ColumnarValue::values_to_arrays(&arguments.args)?;
        let mut hashes = Int64Builder::with_capacity(arguments.number_rows);
        for_each_hash(&columns, |hash| hashes.append_option(hash.map(u64::cast_signed)))?;
        Ok(ColumnarValue::Array(Arc::new(hashes.finish())))
    }
}

impl State for RowsState {
    fn update(&mut self, columns: &[ArrayRef]) -> Result<()> {
        for_each_hash(columns, |hash| self.hashes.extend(hash))
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
