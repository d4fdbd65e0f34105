//! `feature_products('scaling', rate, a, b, …)` and `reconstruction_errors('components', rate, a, b, …)`: what principal components are made
//! from, and how well they rebuild rows.

use std::sync::Arc;

use datafusion::{
    arrow::{
        array::{Array, ArrayRef, Float64Array},
        datatypes::{DataType, Field},
    },
    common::exec_datafusion_err,
    error::Result,
    logical_expr::{AggregateUDF, Signature, Volatility, function::AccumulatorArgs},
    scalar::ScalarValue,
};
use serde::de::DeserializeOwned;

use super::{
    adapter::{State, function_of, literal_text},
    columns::{Weights, doubles},
};
use crate::{
    drift::components::{Components, Scaling},
    metrics::{ExactSum, Mass, wire::Reader},
};

pub(super) fn functions() -> Vec<AggregateUDF> {
    let list = || DataType::List(Arc::new(Field::new_list_field(DataType::Float64, true)));
    let any = || Signature::variadic_any(Volatility::Immutable);
    vec![
        function_of("feature_products", any(), list(), |arguments| {
            let scaling: Scaling = literal(arguments)?;
            let count = scaling.means.len();
            Ok(Box::new(Products {
                scaling,
                mass: Mass::default(),
                sums: vec![ExactSum::default(); count * (count + 1) / 2],
            }))
        }),
        function_of("reconstruction_errors", any(), list(), |arguments| {
            Ok(Box::new(Rebuilt {
                components: literal(arguments)?,
                mass: Mass::default(),
                sum: ExactSum::default(),
                squares: ExactSum::default(),
            }))
        }),
    ]
}

/// The first argument, JSON.
fn literal<T: DeserializeOwned>(arguments: &AccumulatorArgs<'_>) -> Result<T> {
    let text = literal_text(arguments, 0)?;
    serde_json::from_str(&text).map_err(|e| exec_datafusion_err!("first argument of {}: {e}", arguments.name))
}

/// Calls `each` with every row on the scale, and its weight.
fn for_each_row(columns: &[ArrayRef], scaling: &Scaling, mut each: impl FnMut(&[f64], f64)) -> Mass {
    let features: Vec<&Float64Array> = columns[2..].iter().map(doubles).collect();
    let weights = Weights::of(columns.get(1));
    let (mut mass, mut z) = (Mass::default(), Vec::with_capacity(features.len()));
    for row in 0..columns[1].len() {
        let weight = weights.of_row(row);
        mass.push(weight);
        scaling.apply(features.iter().map(|column| column.is_valid(row).then(|| column.value(row))), &mut z);
        each(&z, weight.value());
    }
    mass
}

fn list(values: impl Iterator<Item = f64>) -> ScalarValue {
    let values: Vec<ScalarValue> = values.map(|value| ScalarValue::Float64(Some(value))).collect();
    ScalarValue::List(ScalarValue::new_list_nullable(&values, &DataType::Float64))
}

/// The weight of all rows, and the weighted sum of the product of each two features, `i ≤ j`.
#[derive(Debug)]
struct Products {
    scaling: Scaling,
    mass: Mass,
    sums: Vec<ExactSum>,
}

impl State for Products {
    fn update(&mut self, columns: &[ArrayRef]) -> Result<()> {
        let sums = &mut self.sums;
        let mass = for_each_row(columns, &self.scaling, |z, weight| {
            let mut at = 0;
            for (i, x) in z.iter().enumerate() {
                for y in &z[i..] {
                    sums[at].push(weight * x * y);
                    at += 1;
                }
            }
        });
        self.mass.merge(&mass);
        Ok(())
    }

    fn encode(&self, out: &mut Vec<u8>) {
        self.mass.encode(out);
        self.sums.iter().for_each(|sum| sum.encode(out));
    }

    fn merge_encoded(&mut self, reader: &mut Reader<'_>) -> Option<()> {
        self.mass.merge(&Mass::decode(reader)?);
        for sum in &mut self.sums {
            sum.merge(&ExactSum::decode(reader)?);
        }
        Some(())
    }

    fn finish(&mut self) -> Result<ScalarValue> {
        Ok(list(std::iter::once(self.mass.weight()).chain(self.sums.iter().map(ExactSum::value))))
    }

    fn size(&self) -> usize {
        self.sums.capacity() * size_of::<ExactSum>()
    }
}

/// Rows, effective rows, their weight, and the weighted sums of errors and of their squares.
#[derive(Debug)]
struct Rebuilt {
    components: Components,
    mass: Mass,
    sum: ExactSum,
    squares: ExactSum,
}

impl State for Rebuilt {
    fn update(&mut self, columns: &[ArrayRef]) -> Result<()> {
        let (components, sum, squares) = (&self.components, &mut self.sum, &mut self.squares);
        let mass = for_each_row(columns, &components.scaling, |z, weight| {
            let error = components.error(z);
            sum.push(weight * error);
            squares.push(weight * error * error);
        });
        self.mass.merge(&mass);
        Ok(())
    }

    fn encode(&self, out: &mut Vec<u8>) {
        self.mass.encode(out);
        self.sum.encode(out);
        self.squares.encode(out);
    }

    fn merge_encoded(&mut self, reader: &mut Reader<'_>) -> Option<()> {
        self.mass.merge(&Mass::decode(reader)?);
        self.sum.merge(&ExactSum::decode(reader)?);
        self.squares.merge(&ExactSum::decode(reader)?);
        Some(())
    }

    fn finish(&mut self) -> Result<ScalarValue> {
        let mass = self.mass;
        let values = [mass.rows() as f64, mass.effective_rows(), mass.weight(), self.sum.value(), self.squares.value()];
        Ok(list(values.into_iter()))
    }

    fn size(&self) -> usize {
        0
    }
}
