//! How soon a late label shows: from its acknowledgement to the revised metric of its window, as any reader of the store sees it.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::Int64Type;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

use crate::generator::{ModelOptions, Options, Shares, Task};

/// The model whose labels come one by one.
pub const MODEL: &str = "late-probe";
/// How often the table is looked at; it is what the figures are precise to.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// A label that does not show for so long is taken for lost.
const SHOWS_WITHIN: Duration = Duration::from_secs(150);

/// One window of so many predictions, each with one label.
pub fn options(seed: u64, predictions: usize) -> Options {
    let model = ModelOptions { versions: vec!["1".to_owned()], ..ModelOptions::new(MODEL, Task::Binary(["1", "0"])) };
    Options {
        seed,
        predictions,
        span_secs: 1_800,
        prediction_partitions: 1,
        label_partitions: 1,
        models: vec![model],
        shares: Shares::calm(),
        malformed_of_each: 0,
        ..Options::default()
    }
}

/// The object of `metrics/` in which the window's figures lie.
pub fn metrics_file(store: &Path) -> PathBuf {
    store.join(format!("metrics/model_name={MODEL}/date=2025-03-02/metrics.parquet"))
}

/// Waits until the window's accuracy rests on so many labelled rows; how long that took from `since` on.
pub async fn shows(store: &Path, labelled: usize, since: Instant) -> Result<Duration> {
    let file = metrics_file(store);
    loop {
        // An object that is being replaced is read again.
        let found = labelled_rows(&file).unwrap_or(0);
        if found >= labelled {
            return Ok(since.elapsed());
        }
        ensure!(
            since.elapsed() < SHOWS_WITHIN,
            "{labelled} labels were acknowledged, and after {SHOWS_WITHIN:?} the metric rests on {found}"
        );
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

fn labelled_rows(file: &Path) -> Result<usize> {
    let opened = std::fs::File::open(file).context("open the metrics")?;
    for batch in ParquetRecordBatchReaderBuilder::try_new(opened)?.build()? {
        if let Some(found) = of_the_whole(&batch?) {
            return Ok(found);
        }
    }
    Ok(0)
}

/// `n_labelled` of the row for all versions and segments.
fn of_the_whole(batch: &RecordBatch) -> Option<usize> {
    let column = |name: &str| batch.column_by_name(name);
    let metrics = arrow::compute::cast(column("metric")?, &arrow::datatypes::DataType::Utf8).ok()?;
    let (metrics, labelled) = (metrics.as_string::<i32>(), column("n_labelled")?.as_primitive::<Int64Type>());
    let is_whole = |row: usize| {
        ["model_version", "segment", "class"].iter().all(|name| column(name).is_none_or(|column| column.is_null(row)))
    };
    let row = (0..batch.num_rows()).find(|row| metrics.value(*row) == "accuracy" && is_whole(*row))?;
    Some(labelled.value(row) as usize)
}
