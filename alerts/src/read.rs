//! What is published of windows, out of the tables' objects, one for each model and date.
use std::collections::{BTreeMap, BTreeSet};

use arrow::array::RecordBatch;
use bytes::Bytes;
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

/// The rows of a table's object.
pub fn rows<R>(
    path: &str,
    bytes: Bytes,
    model: &str,
    from_batch: fn(&str, &RecordBatch) -> Result<Vec<R>, TableError>,
) -> Result<Vec<R>, Error> {
    let failed = |source: Box<dyn std::error::Error + Send + Sync>| Error::Table { path: path.to_owned(), source };
    let reader = ParquetRecordBatchReaderBuilder::try_new(bytes).map_err(|e| failed(e.into()))?;
    let mut rows = Vec::new();
    for batch in reader.build().map_err(|e| failed(e.into()))? {
        let batch = batch.map_err(|e| failed(e.into()))?;
        rows.extend(from_batch(model, &batch).map_err(|e| failed(e.into()))?);
    }
    Ok(rows)
}

/// The rows of one table on one date; none if there is no such object.
async fn of_date<R>(
    store: &Store,
    table: &str,
    model: &str,
    date: NaiveDate,
    from_batch: fn(&str, &RecordBatch) -> Result<Vec<R>, TableError>,
) -> Result<Vec<R>, Error> {
    let path = paths::table(table, model, date, table);
    match store.get(&path).await? {
        Some(object) => rows(&path, object.bytes, model, from_batch),
        None => Ok(Vec::new()),
    }
}

/// The dates that windows start on.
pub fn dates(starts: impl IntoIterator<Item = Micros>) -> BTreeSet<NaiveDate> {
    starts.into_iter().map(|start| time_of(start).date_naive()).collect()
}

/// The rows of `metrics` and `serving` of some dates' windows, by start; a rule need not know which table has its metric.
pub async fn metrics(store: &Store, model: &str, dates: &BTreeSet<NaiveDate>) -> Result<Past, Error> {
    let mut all = Past::new();
    for date in dates {
        let mut rows = of_date(store, "metrics", model, *date, metric_rows_from_batch).await?;
        let serving = of_date(store, "serving", model, *date, serving_rows_from_batch).await?;
        rows.extend(serving.into_iter().map(as_metric));
        for row in rows {
            all.entry(row.window_start.timestamp_micros()).or_default().push(row);
        }
    }
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

/// What else is published of some dates' windows, by start: all but their metrics.
pub async fn others(
    store: &Store,
    model: &str,
    dates: &BTreeSet<NaiveDate>,
) -> Result<BTreeMap<Micros, Published>, Error> {
    let mut windows: BTreeMap<Micros, Published> = BTreeMap::new();
    for date in dates {
        for row in of_date(store, "windows", model, *date, window_rows_from_batch).await? {
            let start = row.window_start.timestamp_micros();
            windows.entry(start).or_default().window = Some(row);
        }
        for row in of_date(store, "drift", model, *date, drift_rows_from_batch).await? {
            windows.entry(row.window_start.timestamp_micros()).or_default().drift.push(row);
        }
        for row in of_date(store, "quality", model, *date, quality_rows_from_batch).await? {
            windows.entry(row.window_start.timestamp_micros()).or_default().quality.push(row);
        }
    }
    Ok(windows)
}
