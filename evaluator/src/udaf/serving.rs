//! `serving_report(has_failed, latency_ms)`: requests, errors and latency from one state.

use datafusion::{
    arrow::{
        array::{Array, ArrayRef},
        datatypes::DataType,
    },
    error::Result,
    logical_expr::AggregateUDF,
    scalar::ScalarValue,
};

use super::{
    adapter::{State, function_of, limit},
    columns::{Weights, booleans, doubles, for_each_double},
    report::{json, with_rate_and_limit},
};
use crate::metrics::{Weight, serving::ServingState, wire::Reader};

pub(super) fn functions() -> Vec<AggregateUDF> {
    let arguments = [DataType::Boolean, DataType::Float64];
    vec![function_of("serving_report", with_rate_and_limit(&arguments), DataType::Utf8, |arguments| {
        let state = limit(arguments, 2)?.map_or_else(ServingState::default, ServingState::held_to);
        Ok(Box::new(Serving { state }))
    })]
}

#[derive(Debug)]
struct Serving {
    state: ServingState,
}

impl State for Serving {
    /// Every row is a request; whether it failed and how long it took may be null, each on its own.
    fn update(&mut self, columns: &[ArrayRef]) -> Result<()> {
        let (failed, latencies) = (booleans(&columns[0]), doubles(&columns[1]));
        let weights = Weights::at(columns, 2);
        if weights.are_one() {
            self.state.push_counts(failed.len() as u64, failed.true_count() as u64);
            for_each_double(&columns[1], |latency| self.state.push_latency(latency, Weight::ONE));
            self.state.hold(false);
            return Ok(());
        }
        for row in 0..failed.len() {
            let has_failed = failed.is_valid(row) && failed.value(row);
            let latency = latencies.is_valid(row).then(|| latencies.value(row));
            self.state.push(has_failed, latency, weights.of_row(row));
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
        json(&std::mem::take(&mut self.state).report())
    }

    fn size(&self) -> usize {
        self.state.size()
    }
}
