//! `flagged_values(first, second, x)`, `class_rows(class, probabilities, is_labelled)` and `label_arrivals(lag, place)`: whole columns in one binary value, for
//! what is estimated outside SQL.

use datafusion::{
    arrow::{
        array::{Array, ArrayRef, AsArray, BooleanArray},
        compute::cast,
        datatypes::{DataType, Int64Type},
    },
    common::exec_datafusion_err,
    error::Result,
    logical_expr::AggregateUDF,
    scalar::ScalarValue,
};

use super::{
    adapter::{State, function, function_of, limit},
    columns::{Weights, booleans, doubles, rates},
    report::{Probabilities, any_with_rate_and_limit, with_rate_and_limit},
};
use crate::{
    estimate::{ClassRows, FlaggedValues, arrival::Arrivals},
    metrics::wire::Reader,
};

pub(super) fn functions() -> Vec<AggregateUDF> {
    let flagged = vec![DataType::Boolean, DataType::Boolean, DataType::Float64];
    vec![
        function_of("flagged_values", with_rate_and_limit(&flagged), DataType::LargeBinary, |arguments| {
            Ok(Box::new(FlaggedValues::held_to(limit(arguments, 3)?)))
        }),
        function_of("class_rows", any_with_rate_and_limit(), DataType::LargeBinary, |arguments| {
            Ok(Box::new(ClassRows::held_to(limit(arguments, 3)?)))
        }),
        function("label_arrivals", vec![DataType::Int64, DataType::Int64], DataType::LargeBinary, |_| {
            Ok(Box::<Arrivals>::default())
        }),
    ]
}

/// Reads what `flagged_values` returned; no bytes are no rows.
pub(crate) fn flagged_values(bytes: &[u8]) -> Result<FlaggedValues> {
    let mut values = FlaggedValues::default();
    if bytes.is_empty() {
        return Ok(values);
    }
    values.merge_encoded(&mut Reader::new(bytes)).ok_or_else(|| exec_datafusion_err!("flagged_values is cut short"))?;
    Ok(values)
}

/// Reads what `class_rows` returned; no bytes are no rows.
pub(crate) fn class_rows(bytes: &[u8]) -> Result<ClassRows> {
    let mut rows = ClassRows::default();
    if bytes.is_empty() {
        return Ok(rows);
    }
    rows.merge_encoded(&mut Reader::new(bytes)).ok_or_else(|| exec_datafusion_err!("class_rows is cut short"))?;
    Ok(rows)
}

/// Reads what `label_arrivals` returned; no bytes are no rows.
pub(crate) fn arrivals(bytes: &[u8]) -> Result<Arrivals> {
    let mut arrivals = Arrivals::default();
    if bytes.is_empty() {
        return Ok(arrivals);
    }
    arrivals
        .merge_encoded(&mut Reader::new(bytes))
        .ok_or_else(|| exec_datafusion_err!("label_arrivals is cut short"))?;
    Ok(arrivals)
}

/// A flag that is null is not set.
fn is_set(flags: &BooleanArray, row: usize) -> bool {
    flags.is_valid(row) && flags.value(row)
}

fn encoded(encode: impl FnOnce(&mut Vec<u8>)) -> ScalarValue {
    let mut bytes = Vec::new();
    encode(&mut bytes);
    ScalarValue::LargeBinary(Some(bytes))
}

impl State for FlaggedValues {
    fn update(&mut self, columns: &[ArrayRef]) -> Result<()> {
        let (first, second, values) = (booleans(&columns[0]), booleans(&columns[1]), doubles(&columns[2]));
        let weights = Weights::at(columns, 3);
        for row in 0..values.len() {
            if values.is_valid(row) {
                self.push(is_set(first, row), is_set(second, row), values.value(row), weights.of_row(row));
            }
        }
        self.hold(false);
        Ok(())
    }

    fn encode(&self, out: &mut Vec<u8>) {
        Self::encode(self, out);
    }

    fn merge_encoded(&mut self, reader: &mut Reader<'_>) -> Option<()> {
        Self::merge_encoded(self, reader)?;
        self.hold(false);
        Some(())
    }

    fn finish(&mut self) -> Result<ScalarValue> {
        self.hold(true);
        let whole = std::mem::take(self);
        Ok(encoded(|out| whole.encode(out)))
    }

    fn size(&self) -> usize {
        Self::size(self)
    }
}

impl State for Arrivals {
    /// A row without a place has no time, and is left out.
    fn update(&mut self, columns: &[ArrayRef]) -> Result<()> {
        let (lags, places) = (columns[0].as_primitive::<Int64Type>(), columns[1].as_primitive::<Int64Type>());
        for row in (0..places.len()).filter(|row| places.is_valid(*row)) {
            self.push(lags.is_valid(row).then(|| lags.value(row)), places.value(row));
        }
        Ok(())
    }

    fn encode(&self, out: &mut Vec<u8>) {
        Self::encode(self, out);
    }

    fn merge_encoded(&mut self, reader: &mut Reader<'_>) -> Option<()> {
        Self::merge_encoded(self, reader)
    }

    fn finish(&mut self) -> Result<ScalarValue> {
        let whole = std::mem::take(self);
        Ok(encoded(|out| whole.encode(out)))
    }

    fn size(&self) -> usize {
        Self::size(self)
    }
}

impl State for ClassRows {
    fn update(&mut self, columns: &[ArrayRef]) -> Result<()> {
        let classes = cast(&columns[0], &DataType::Utf8)?;
        let classes = classes.as_string::<i32>();
        let probabilities = Probabilities::read(&columns[1])?;
        let labelled = cast(&columns[2], &DataType::Boolean)?;
        let labelled = booleans(&labelled);
        let rates = rates(columns, 3).map(|rates| cast(rates, &DataType::Float64)).transpose()?;
        let weights = Weights::of(rates.as_ref());
        let mut of_row = Vec::new();
        for row in 0..classes.len() {
            of_row.clear();
            if let Some(probabilities) = &probabilities {
                probabilities.of_row(row, &mut of_row);
            }
            let class = classes.is_valid(row).then(|| classes.value(row));
            self.push(class, &of_row, is_set(labelled, row), weights.of_row(row));
        }
        Ok(())
    }

    fn encode(&self, out: &mut Vec<u8>) {
        Self::encode(self, out);
    }

    fn merge_encoded(&mut self, reader: &mut Reader<'_>) -> Option<()> {
        Self::merge_encoded(self, reader)
    }

    fn finish(&mut self) -> Result<ScalarValue> {
        let whole = std::mem::take(self);
        Ok(encoded(|out| whole.encode(out)))
    }

    fn size(&self) -> usize {
        Self::size(self)
    }
}
