//! What is published of windows, out of the tables' objects, one for each model and date.
use std::collections::BTreeMap;

use arrow::array::RecordBatch;
use chrono::NaiveDate;
use driftline_schemas::clock::{Micros, time_of};
use driftline_schemas::tables::{
    MetricRow, ServingRow, TableError, drift_rows_from_batch, metric_rows_from_batch, quality_rows_from_batch,
    serving_rows_from_batch, window_rows_from_batch,
};
use driftline_store::{Store, paths};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

use crate::Error;
use crate::judge::{Past, Published};

/// The rows of one table on one date; none if there is no such object.
async fn rows<R>(
    store: &Store,
    table: &str,
    model: &str,
    date: NaiveDate,
    from_batch: fn(&str, &RecordBatch) -> Result<Vec<R>, TableError>,
) -> Result<Vec<R>, Error> {
    let path = paths::table(table, model, date, table);
    let Some(object) = store.get(&path).await? else { return Ok(Vec::new()) };
    let failed = |source: Box<dyn std::error::Error + Send + Sync>| Error::Table { path: path.clone(), source };
    let reader = ParquetRecordBatchReaderBuilder::try_new(object.bytes).map_err(|e| failed(e.into()))?;
    let mut rows = Vec::new();
    for batch in reader.build().map_err(|e| failed(e.into()))? {
        let batch = batch.map_err(|e| failed(e.into()))?;
        rows.extend(from_batch(model, &batch).map_err(|e| failed(e.into()))?);
    }
    Ok(rows)
}

/// The rows of `metrics` and `serving`; a rule need not know which table has its metric.
async fn metrics(store: &Store, model: &str, date: NaiveDate) -> Result<Vec<MetricRow>, Error> {
    let mut all = rows(store, "metrics", model, date, metric_rows_from_batch).await?;
    all.extend(rows(store, "serving", model, date, serving_rows_from_batch).await?.into_iter().map(as_metric));
    Ok(all)
}

/// A row of `serving` rests on all requests; none of them needs a label.
fn as_metric(row: ServingRow) -> MetricRow {
    MetricRow {
        model: row.model,
        model_version: row.model_version,
        segment: row.segment,
        segment_value: row.segment_value,
        window_start: row.window_start,
        window_end: row.window_end,
        metric: row.metric,
        class: None,
        value: row.value,
        reason: row.reason,
        ci_low: row.ci_low,
        ci_high: row.ci_high,
        ci_level: row.ci_level,
        ci_method: row.ci_method,
        ci_warning: row.ci_warning,
        baseline: None,
        n: row.n,
        n_labelled: 0,
        state: row.state,
        revision: row.revision,
        decided_at: row.decided_at,
        reference_version: None,
    }
}

/// All that is published of a date's windows, by start.
pub async fn date(store: &Store, model: &str, date: NaiveDate) -> Result<BTreeMap<Micros, Published>, Error> {
    let mut windows: BTreeMap<Micros, Published> = BTreeMap::new();
    for row in rows(store, "windows", model, date, window_rows_from_batch).await? {
        let start = row.window_start.timestamp_micros();
        windows.entry(start).or_default().window = Some(row);
    }
    for row in metrics(store, model, date).await? {
        windows.entry(row.window_start.timestamp_micros()).or_default().metrics.push(row);
    }
    for row in rows(store, "drift", model, date, drift_rows_from_batch).await? {
        windows.entry(row.window_start.timestamp_micros()).or_default().drift.push(row);
    }
    for row in rows(store, "quality", model, date, quality_rows_from_batch).await? {
        windows.entry(row.window_start.timestamp_micros()).or_default().quality.push(row);
    }
    Ok(windows)
}

/// The metrics of the windows that start at `starts`.
pub async fn past(store: &Store, model: &str, starts: &[Micros]) -> Result<Past, Error> {
    let mut dates: Vec<NaiveDate> = starts.iter().map(|start| time_of(*start).date_naive()).collect();
    dates.sort_unstable();
    dates.dedup();
    let mut past = Past::new();
    for date in dates {
        for row in metrics(store, model, date).await? {
            past.entry(row.window_start.timestamp_micros()).or_default().push(row);
        }
    }
    Ok(past)
}
