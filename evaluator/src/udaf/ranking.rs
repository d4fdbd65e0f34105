//! `ranked_query(score, relevance, 'k')`: the metrics of one query's rows.

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
    columns::{doubles, for_each_complete_row},
};
use crate::metrics::{ranking::RankedQuery, wire::Reader};

pub(super) fn functions() -> Vec<AggregateUDF> {
    let list = DataType::List(Arc::new(Field::new_list_field(DataType::Float64, true)));
    let arguments = vec![DataType::Float64, DataType::Float64, DataType::Utf8];
    vec![function("ranked_query", arguments, list, |arguments| {
        let text = literal_text(arguments, 2)?;
        let k = text.parse().ok().filter(|k| *k > 0);
        let k = k.ok_or_else(|| exec_datafusion_err!("ranked_query needs a rank of 1 or more, not {text}"))?;
        Ok(Box::new(QueryState { query: RankedQuery::default(), k }))
    })]
}

#[derive(Debug)]
struct QueryState {
    query: RankedQuery,
    k: usize,
}

impl State for QueryState {
    fn update(&mut self, columns: &[ArrayRef]) -> Result<()> {
        let (scores, relevance) = (doubles(&columns[0]), doubles(&columns[1]));
        for_each_complete_row(&columns[0], &columns[1], |row| self.query.push(scores.value(row), relevance.value(row)));
        Ok(())
    }

    fn encode(&self, out: &mut Vec<u8>) {
        self.query.encode(out);
    }

    fn merge_encoded(&mut self, reader: &mut Reader<'_>) -> Option<()> {
        self.query.merge_encoded(reader)
    }

    /// An empty list for a query of which nothing can be said.
    fn finish(&mut self) -> Result<ScalarValue> {
        let metrics = self.query.value(self.k).map_or_else(Vec::new, |metrics| metrics.to_vec());
        let metrics: Vec<ScalarValue> = metrics.into_iter().map(|x| ScalarValue::Float64(Some(x))).collect();
        Ok(ScalarValue::List(ScalarValue::new_list_nullable(&metrics, &DataType::Float64)))
    }

    fn size(&self) -> usize {
        self.query.size()
    }
}
