//! `binary_report`, `multiclass_report` and `regression_report`: every metric of a task from one state, so that a
//! window's column is read once and its scores are sorted once.

use datafusion::{
    arrow::{
        array::{Array, ArrayRef, AsArray, BooleanArray, Float64Array, MapArray, StringArray},
        buffer::BooleanBuffer,
        compute::cast,
        datatypes::DataType,
    },
    common::{exec_datafusion_err, exec_err},
    error::Result,
    logical_expr::{AggregateUDF, Signature, TypeSignature, Volatility},
    scalar::ScalarValue,
};

use super::{
    adapter::{State, function_of, limit, literal_text},
    columns::{Weights, booleans, doubles, rates},
    pairs::push_pairs,
};
use crate::metrics::{
    Mass, Report, binary::BinaryState, multiclass::MulticlassState, one_vs_rest::OneVsRest, regression::PairedValues,
    wire::Reader,
};

pub(super) fn functions() -> Vec<AggregateUDF> {
    let double = DataType::Float64;
    let binary = vec![DataType::Boolean, DataType::Boolean, double.clone(), DataType::Utf8];
    vec![
        function_of("binary_report", with_rate_and_limit(&binary), DataType::Utf8, |arguments| {
            let probabilities = match literal_text(arguments, 3)?.as_str() {
                "probability" => true,
                "any" => false,
                other => return exec_err!("score kind is probability or any, not {other}"),
            };
            let state = limit(arguments, 4)?.map_or_else(BinaryState::default, BinaryState::held_to);
            Ok(Box::new(Binary { state, probabilities }))
        }),
        function_of("regression_report", with_rate_and_limit(&[double.clone(), double]), DataType::Utf8, |arguments| {
            let pairs = limit(arguments, 2)?.map_or_else(PairedValues::default, PairedValues::held_to);
            Ok(Box::new(Regression { pairs }))
        }),
        // A map's type names its fields, and writers name them differently: any type is taken, and cast when read.
        function_of("multiclass_report", any_with_rate_and_limit(), DataType::Utf8, |arguments| {
            let state = limit(arguments, 3)?.map_or_else(MulticlassState::default, MulticlassState::held_to);
            Ok(Box::new(Multiclass { state }))
        }),
    ]
}

/// These arguments, or these and a sampling rate.
pub(super) fn with_rate(arguments: &[DataType]) -> Signature {
    followed_by(arguments, &[&[], &[DataType::Float64]])
}

/// The same, either with a limit behind.
pub(super) fn with_rate_and_limit(arguments: &[DataType]) -> Signature {
    let limit = || DataType::Dictionary(Box::new(DataType::Int8), Box::new(DataType::Utf8));
    followed_by(arguments, &[&[], &[DataType::Float64], &[limit()], &[DataType::Float64, limit()]])
}

fn followed_by(arguments: &[DataType], tails: &[&[DataType]]) -> Signature {
    let exact = tails.iter().map(|tail| TypeSignature::Exact([arguments, tail].concat()));
    Signature::one_of(exact.collect(), Volatility::Immutable)
}

/// Three arguments of any type, and what may follow them: a sampling rate, a limit, or both.
pub(super) fn any_with_rate_and_limit() -> Signature {
    Signature::one_of([3, 4, 5].map(TypeSignature::Any).to_vec(), Volatility::Immutable)
}

pub(super) fn json(report: &Report) -> Result<ScalarValue> {
    let text = serde_json::to_string(report).map_err(|e| exec_datafusion_err!("report is no JSON: {e}"))?;
    Ok(ScalarValue::Utf8(Some(text)))
}

#[derive(Debug)]
struct Binary {
    state: BinaryState,
    probabilities: bool,
}

impl State for Binary {
    /// Hits are counted by whole machine words; only the scores are taken row by row.
    fn update(&mut self, columns: &[ArrayRef]) -> Result<()> {
        let (actual, predicted, scores) = (booleans(&columns[0]), booleans(&columns[1]), doubles(&columns[2]));
        let weights = Weights::at(columns, 4);
        if !weights.are_one() {
            for row in known(actual).set_indices() {
                let predicted = predicted.is_valid(row).then(|| predicted.value(row));
                let score = scores.is_valid(row).then(|| scores.value(row));
                self.state.push(actual.value(row), predicted, score, weights.of_row(row));
            }
            self.state.hold(false);
            return Ok(());
        }
        self.state.push_counts(&count_hits(actual, predicted));
        let known = known(actual);
        match scores.nulls() {
            None if actual.null_count() == 0 => {
                let into = self.state.scores_mut();
                scores.values().iter().zip(actual.values()).for_each(|(score, positive)| into.push(*score, positive));
            }
            nulls => {
                let valid = nulls.map_or_else(|| known.clone(), |nulls| nulls.inner() & &known);
                for row in valid.set_indices() {
                    self.state.scores_mut().push(scores.value(row), actual.value(row));
                }
            }
        }
        self.state.hold(false);
        Ok(())
    }

    fn encode(&self, out: &mut Vec<u8>) {
        self.state.encode(out);
    }

    fn merge_encoded(&mut self, reader: &mut Reader<'_>) -> Option<()> {
        self.state.merge_encoded(reader)?;
        self.state.hold(false);
        Some(())
    }

    fn finish(&mut self) -> Result<ScalarValue> {
        self.state.hold(true);
        json(&std::mem::take(&mut self.state).value(self.probabilities))
    }

    fn size(&self) -> usize {
        self.state.size()
    }
}

fn known(column: &BooleanArray) -> BooleanBuffer {
    column.nulls().map_or_else(|| BooleanBuffer::new_set(column.len()), |nulls| nulls.inner().clone())
}

fn count_hits(actual: &BooleanArray, predicted: &BooleanArray) -> OneVsRest {
    let both = &known(actual) & &known(predicted);
    let (positive, said) = (&both & actual.values(), &both & predicted.values());
    let true_positives = (&positive & &said).count_set_bits() as u64;
    let (positives, said, rows) =
        (positive.count_set_bits() as u64, said.count_set_bits() as u64, both.count_set_bits() as u64);
    OneVsRest {
        true_positives: Mass::of_rows(true_positives),
        false_positives: Mass::of_rows(said - true_positives),
        false_negatives: Mass::of_rows(positives - true_positives),
        true_negatives: Mass::of_rows(rows + true_positives - positives - said),
    }
}

#[derive(Debug)]
struct Regression {
    pairs: PairedValues,
}

impl State for Regression {
    fn update(&mut self, columns: &[ArrayRef]) -> Result<()> {
        push_pairs(&mut self.pairs, columns);
        self.pairs.hold(false);
        Ok(())
    }

    fn encode(&self, out: &mut Vec<u8>) {
        self.pairs.encode(out);
    }

    fn merge_encoded(&mut self, reader: &mut Reader<'_>) -> Option<()> {
        self.pairs.merge_encoded(reader)?;
        self.pairs.hold(false);
        Some(())
    }

    fn finish(&mut self) -> Result<ScalarValue> {
        self.pairs.hold(true);
        json(&self.pairs.report())
    }

    fn size(&self) -> usize {
        self.pairs.size()
    }
}

#[derive(Debug)]
struct Multiclass {
    state: MulticlassState,
}

impl State for Multiclass {
    /// A row without a label is skipped; prediction and probabilities may be missing, each on its own.
    fn update(&mut self, columns: &[ArrayRef]) -> Result<()> {
        let (actual, predicted) = (cast(&columns[0], &DataType::Utf8)?, cast(&columns[1], &DataType::Utf8)?);
        let (actual, predicted) = (actual.as_string::<i32>(), predicted.as_string::<i32>());
        let probabilities = Probabilities::read(&columns[2])?;
        let rates = rates(columns, 3).map(|rates| cast(rates, &DataType::Float64)).transpose()?;
        let weights = Weights::of(rates.as_ref());
        let mut row_probabilities = Vec::new();
        for row in 0..actual.len() {
            if actual.is_null(row) {
                continue;
            }
            row_probabilities.clear();
            if let Some(probabilities) = &probabilities {
                probabilities.of_row(row, &mut row_probabilities);
            }
            let predicted = predicted.is_valid(row).then(|| predicted.value(row));
            self.state.push(actual.value(row), predicted, &row_probabilities, weights.of_row(row));
        }
        self.state.hold(false);
        Ok(())
    }

    fn encode(&self, out: &mut Vec<u8>) {
        self.state.encode(out);
    }

    fn merge_encoded(&mut self, reader: &mut Reader<'_>) -> Option<()> {
        self.state.merge_encoded(reader)?;
        self.state.hold(false);
        Some(())
    }

    fn finish(&mut self) -> Result<ScalarValue> {
        self.state.hold(true);
        json(&self.state.value())
    }

    fn size(&self) -> usize {
        self.state.size()
    }
}

/// A column of maps from class to probability, its keys and values cast once.
pub(super) struct Probabilities {
    maps: MapArray,
    classes: StringArray,
    values: Float64Array,
}

impl Probabilities {
    /// `None` for a column of nulls, which is how a table without probabilities is asked.
    pub(super) fn read(column: &ArrayRef) -> Result<Option<Self>> {
        let Some(maps) = column.as_map_opt() else {
            return if column.data_type() == &DataType::Null {
                Ok(None)
            } else {
                exec_err!("probabilities must be a map, not {}", column.data_type())
            };
        };
        Ok(Some(Self {
            classes: cast(maps.keys(), &DataType::Utf8)?.as_string::<i32>().clone(),
            values: doubles(&cast(maps.values(), &DataType::Float64)?).clone(),
            maps: maps.clone(),
        }))
    }

    pub(super) fn of_row<'a>(&'a self, row: usize, into: &mut Vec<(&'a str, f64)>) {
        if self.maps.is_null(row) {
            return;
        }
        let (from, to) = (self.maps.value_offsets()[row] as usize, self.maps.value_offsets()[row + 1] as usize);
        let named = (from..to).filter(|at| self.values.is_valid(*at));
        into.extend(named.map(|at| (self.classes.value(at), self.values.value(at))));
    }
}
