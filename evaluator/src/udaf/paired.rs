//! `paired_binary`, `paired_regression` and `paired_hits`: two versions on the same rows.

use datafusion::{
    arrow::{
        array::{Array, ArrayRef},
        datatypes::DataType,
    },
    common::{exec_datafusion_err, exec_err},
    error::Result,
    logical_expr::AggregateUDF,
    scalar::ScalarValue,
};
use serde::{Deserialize, Serialize};

use super::{
    adapter::{State, function_of, literal_text},
    columns::{Weights, booleans, doubles},
    report::with_rate,
};
use crate::metrics::{
    comparison::Comparison,
    paired::{PairedHits, PairedNumbers, PairedScores},
    wire::Reader,
};

/// What a function says of its rows.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct PairedReport {
    /// Rows that both versions have.
    pub(crate) rows: u64,
    /// Each metric.
    pub(crate) compared: Vec<Comparison>,
}

pub(super) fn functions() -> Vec<AggregateUDF> {
    let (boolean, double) = (DataType::Boolean, DataType::Float64);
    let of_version = [boolean.clone(), double.clone()];
    let binary = [vec![boolean.clone()], of_version.to_vec(), of_version.to_vec(), vec![DataType::Utf8]].concat();
    vec![
        function_of("paired_binary", with_rate(&binary), DataType::Utf8, |arguments| {
            let probabilities = match literal_text(arguments, 5)?.as_str() {
                "probability" => true,
                "any" => false,
                other => return exec_err!("score kind is probability or any, not {other}"),
            };
            Ok(Box::new(Binary { state: PairedScores::default(), probabilities }))
        }),
        function_of("paired_regression", with_rate(&[double.clone(), double.clone(), double]), DataType::Utf8, |_| {
            Ok(Box::new(Regression { state: PairedNumbers::default() }))
        }),
        function_of("paired_hits", with_rate(&[boolean.clone(), boolean]), DataType::Utf8, |_| {
            Ok(Box::new(Hits { state: PairedHits::default() }))
        }),
    ]
}

fn json(rows: u64, compared: Vec<Comparison>) -> Result<ScalarValue> {
    let text = serde_json::to_string(&PairedReport { rows, compared });
    Ok(ScalarValue::Utf8(Some(text.map_err(|e| exec_datafusion_err!("comparison is no JSON: {e}"))?)))
}

#[derive(Debug)]
struct Binary {
    state: PairedScores,
    probabilities: bool,
}

impl State for Binary {
    /// A row without a label is skipped; what a version said may be missing.
    fn update(&mut self, columns: &[ArrayRef]) -> Result<()> {
        let actual = booleans(&columns[0]);
        let predicted = [booleans(&columns[1]), booleans(&columns[3])];
        let scores = [doubles(&columns[2]), doubles(&columns[4])];
        let weights = Weights::of(columns.get(6));
        for row in (0..actual.len()).filter(|row| actual.is_valid(*row)) {
            let predicted = predicted.map(|column| column.is_valid(row).then(|| column.value(row)));
            let scores = scores.map(|column| column.is_valid(row).then(|| column.value(row)));
            self.state.push(actual.value(row), predicted, scores, weights.of_row(row));
        }
        Ok(())
    }

    fn encode(&self, out: &mut Vec<u8>) {
        self.state.encode(out);
    }

    fn merge_encoded(&mut self, reader: &mut Reader<'_>) -> Option<()> {
        self.state.merge_encoded(reader)
    }

    fn finish(&mut self) -> Result<ScalarValue> {
        json(self.state.rows(), self.state.compare(self.probabilities))
    }

    fn size(&self) -> usize {
        self.state.size()
    }
}

#[derive(Debug)]
struct Regression {
    state: PairedNumbers,
}

impl State for Regression {
    fn update(&mut self, columns: &[ArrayRef]) -> Result<()> {
        let values = [doubles(&columns[0]), doubles(&columns[1]), doubles(&columns[2])];
        let weights = Weights::of(columns.get(3));
        for row in (0..values[0].len()).filter(|row| values.iter().all(|column| column.is_valid(*row))) {
            let [truth, first, second] = values.map(|column| column.value(row));
            self.state.push(truth, [first, second], weights.of_row(row));
        }
        Ok(())
    }

    fn encode(&self, out: &mut Vec<u8>) {
        self.state.encode(out);
    }

    fn merge_encoded(&mut self, reader: &mut Reader<'_>) -> Option<()> {
        self.state.merge_encoded(reader)
    }

    fn finish(&mut self) -> Result<ScalarValue> {
        json(self.state.rows(), self.state.compare())
    }

    fn size(&self) -> usize {
        self.state.size()
    }
}

#[derive(Debug)]
struct Hits {
    state: PairedHits,
}

impl State for Hits {
    fn update(&mut self, columns: &[ArrayRef]) -> Result<()> {
        let hits = [booleans(&columns[0]), booleans(&columns[1])];
        let weights = Weights::of(columns.get(2));
        for row in (0..hits[0].len()).filter(|row| hits.iter().all(|column| column.is_valid(*row))) {
            self.state.push(hits.map(|column| column.value(row)), weights.of_row(row));
        }
        Ok(())
    }

    fn encode(&self, out: &mut Vec<u8>) {
        self.state.encode(out);
    }

    fn merge_encoded(&mut self, reader: &mut Reader<'_>) -> Option<()> {
        self.state.merge_encoded(reader)
    }

    fn finish(&mut self) -> Result<ScalarValue> {
        json(self.state.rows(), self.state.compare())
    }

    fn size(&self) -> usize {
        0
    }
}
