//! Principal components of the reference's features, and how well they rebuild a window's rows.

use std::collections::BTreeMap;

use datafusion::{
    arrow::{
        array::{Array, AsArray, RecordBatch},
        datatypes::Float64Type,
    },
    prelude::SessionContext,
};

use super::{
    columns::{Columns, collect, text_column},
    judge::SAMPLING_RATE,
    sql,
};
use crate::{
    Error,
    drift::components::{Components, Errors, FEATURES_MAX, Scaling},
};

/// Fits components to features of a reference, given the mean and the deviation of each; `None` unless there are two.
pub(crate) async fn fit(
    session: &SessionContext,
    columns: &Columns,
    moments: &BTreeMap<String, (f64, f64)>,
) -> Result<Option<Components>, Error> {
    let features: Vec<String> = moments.keys().take(FEATURES_MAX).cloned().collect();
    let (means, scales) = moments.values().take(FEATURES_MAX).copied().unzip();
    let scaling = Scaling { means, scales };
    let count = features.len();
    if count < 2 {
        return Ok(None);
    }
    let call = format!("feature_products({}", sql::constant(&serde_json::to_string(&scaling)?));
    let products = numbers(&collect(session, &query(columns, &features, &call, None)).await?);
    let Some((weight, sums)) = products.split_first().filter(|(weight, _)| **weight > 0.0) else { return Ok(None) };
    let mut correlations = vec![0.0; count * count];
    let pairs = (0..count).flat_map(|i| (i..count).map(move |j| (i, j)));
    for ((i, j), sum) in pairs.zip(sums) {
        (correlations[i * count + j], correlations[j * count + i]) = (sum / weight, sum / weight);
    }
    if correlations.iter().any(|entry| !entry.is_finite()) {
        return Ok(None);
    }
    let mut components = Components::of_correlations(features, scaling, &correlations);
    components.errors = errors(session, columns, &components, None).await?.remove("").unwrap_or_default();
    Ok(Some(components))
}

/// The errors of the rows that count, by version where there is such an expression; all rows are under the empty text otherwise.
pub(super) async fn errors(
    session: &SessionContext,
    columns: &Columns,
    components: &Components,
    version: Option<&str>,
) -> Result<BTreeMap<String, Errors>, Error> {
    let call = format!("reconstruction_errors({}", sql::constant(&serde_json::to_string(components)?));
    let mut found = BTreeMap::new();
    for batch in collect(session, &query(columns, &components.features, &call, version)).await? {
        let versions = text_column(&batch, "version")?;
        for row in 0..batch.num_rows() {
            if let [n, effective_rows, sums @ ..] = numbers_of(&batch, row).as_slice()
                && let Ok(sums) = <[f64; 3]>::try_from(sums)
            {
                let errors = Errors::of_sums(*n as u64, *effective_rows, sums);
                found.insert(versions.as_string::<i32>().value(row).to_owned(), errors);
            }
        }
    }
    Ok(found)
}

/// A call over features; those that rows lack are null.
fn query(columns: &Columns, features: &[String], call: &str, version: Option<&str>) -> String {
    let read = |(at, feature): (usize, &String)| format!("{} AS x{at}", columns.double(&format!("feature_{feature}")));
    let mut inputs: Vec<String> = features.iter().enumerate().map(read).collect();
    inputs.push(format!("{} AS rate", columns.double(SAMPLING_RATE)));
    inputs.push(format!("{} AS version", version.unwrap_or("''")));
    let arguments: Vec<String> = (0..features.len()).map(|at| format!("x{at}")).collect();
    let (key, group_by) = if version.is_some() { ("version", "GROUP BY version") } else { ("'' AS version", "") };
    let from = format!("(SELECT {} FROM {})", inputs.join(", "), columns.valid_rows());
    format!("SELECT {call}, rate, {}) AS numbers, {key} FROM {from} {group_by}", arguments.join(", "))
}

fn numbers(batches: &[RecordBatch]) -> Vec<f64> {
    batches.iter().find(|batch| batch.num_rows() > 0).map(|batch| numbers_of(batch, 0)).unwrap_or_default()
}

fn numbers_of(batch: &RecordBatch, row: usize) -> Vec<f64> {
    let lists = batch.column(0).as_list::<i32>();
    if lists.is_null(row) {
        return Vec::new();
    }
    lists.value(row).as_primitive::<Float64Type>().values().to_vec()
}
