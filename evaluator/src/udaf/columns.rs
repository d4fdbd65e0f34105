//! Reading argument columns without a branch per row where they have no nulls.

use datafusion::arrow::{
    array::{Array, ArrayRef, AsArray, BooleanArray, Float64Array},
    buffer::NullBuffer,
    datatypes::Float64Type,
};

use crate::metrics::Weight;

/// The weights of a batch's rows, from their sampling rates.
pub(super) struct Weights<'a>(Option<&'a Float64Array>);

impl<'a> Weights<'a> {
    /// Without a column, or with one of nulls, every row stands for itself.
    pub(super) fn of(rates: Option<&'a ArrayRef>) -> Self {
        Self(rates.map(doubles).filter(|rates| rates.null_count() < rates.len()))
    }

    /// Of the rates in an argument; one that is a text is a state's limit, and says nothing of rows.
    pub(super) fn at(columns: &'a [ArrayRef], argument: usize) -> Self {
        Self::of(rates(columns, argument))
    }

    /// Whether every row stands for itself.
    pub(super) fn are_one(&self) -> bool {
        self.0.is_none()
    }

    /// The weight of a row.
    pub(super) fn of_row(&self, row: usize) -> Weight {
        Weight::of_rate(self.0.filter(|rates| rates.is_valid(row)).map(|rates| rates.value(row)))
    }
}

/// The argument of sampling rates, if there is one: a text in its place is a state's limit.
pub(super) fn rates(columns: &[ArrayRef], argument: usize) -> Option<&ArrayRef> {
    columns.get(argument).filter(|column| column.data_type().is_numeric() || column.data_type().is_null())
}

/// A Double column.
pub(super) fn doubles(column: &ArrayRef) -> &Float64Array {
    column.as_primitive::<Float64Type>()
}

/// A Boolean column.
pub(super) fn booleans(column: &ArrayRef) -> &BooleanArray {
    column.as_boolean()
}

/// Calls `each` with every row that is not null in either column.
pub(super) fn for_each_complete_row(left: &ArrayRef, right: &ArrayRef, mut each: impl FnMut(usize)) {
    match NullBuffer::union(left.logical_nulls().as_ref(), right.logical_nulls().as_ref()) {
        None => (0..left.len()).for_each(each),
        Some(valid) => valid.valid_indices().for_each(&mut each),
    }
}

/// Calls `each` with every value that is not null.
pub(super) fn for_each_double(column: &ArrayRef, mut each: impl FnMut(f64)) {
    let values = doubles(column);
    match values.nulls() {
        None => values.values().iter().for_each(|value| each(*value)),
        Some(valid) => valid.valid_indices().for_each(|row| each(values.value(row))),
    }
}
