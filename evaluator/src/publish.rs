//! Writes what was evaluated: every revision once into `metrics_log/`, the latest into the tables, one object per model
//! and date, replaced atomically.
use std::collections::{BTreeMap, HashMap};

use arrow::array::RecordBatch;
use bytes::Bytes;
use driftline_schemas::tables::{
    self, AccountRow, ComparisonRow, ConfusionRow, CurveRow, DriftRow, ErrorRow, EstimateRow, LabelLagRow, MetricRow,
    QualityRow, ServingRow, TableError, WindowRow,
};
use driftline_schemas::window::Window;
use driftline_store::{Created, Expected, Replaced, Store, paths};
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::metadata::KeyValue;
use parquet::file::properties::{EnabledStatistics, WriterProperties};

use crate::{Error, EvaluatedWindow};

/// Key of the ledger's position in an accounts object.
const SEQ_KEY: &str = "driftline.seq";

/// A window's rows at one revision.
pub struct Published<'a> {
    /// Model.
    pub model: &'a str,
    /// Window.
    pub window: Window,
    /// Revision.
    pub revision: u64,
    /// What was evaluated.
    pub evaluated: &'a EvaluatedWindow,
    /// Its row in `windows`.
    pub row: &'a WindowRow,
}

/// A row of a table that keeps the latest revision of each window.
trait Latest: Sized + Clone {
    const TABLE: &'static str;
    fn start(&self) -> i64;
    fn revision(&self) -> i64;
    fn to_batch(rows: &[Self]) -> RecordBatch;
    fn from_batch(model: &str, batch: &RecordBatch) -> Result<Vec<Self>, TableError>;
    fn sort(rows: &mut [Self]);
}

macro_rules! latest {
    ($row:ident, $table:literal, $to:ident, $from:ident, $sort:ident) => {
        impl Latest for $row {
            const TABLE: &'static str = $table;
            fn start(&self) -> i64 {
                self.window_start.timestamp_micros()
            }
            fn revision(&self) -> i64 {
                self.revision
            }
            fn to_batch(rows: &[Self]) -> RecordBatch {
                tables::$to(rows)
            }
            fn from_batch(model: &str, batch: &RecordBatch) -> Result<Vec<Self>, TableError> {
                tables::$from(model, batch)
            }
            fn sort(rows: &mut [Self]) {
                tables::$sort(rows);
            }
        }
    };
}

latest!(MetricRow, "metrics", metric_rows_to_batch, metric_rows_from_batch, sort_metric_rows);
latest!(ConfusionRow, "confusion", confusion_rows_to_batch, confusion_rows_from_batch, sort_confusion_rows);
latest!(EstimateRow, "estimates", estimate_rows_to_batch, estimate_rows_from_batch, sort_estimate_rows);
latest!(LabelLagRow, "label_lag", label_lag_rows_to_batch, label_lag_rows_from_batch, sort_label_lag_rows);
latest!(DriftRow, "drift", drift_rows_to_batch, drift_rows_from_batch, sort_drift_rows);
latest!(QualityRow, "quality", quality_rows_to_batch, quality_rows_from_batch, sort_quality_rows);
latest!(ServingRow, "serving", serving_rows_to_batch, serving_rows_from_batch, sort_serving_rows);
latest!(ErrorRow, "errors", error_rows_to_batch, error_rows_from_batch, sort_error_rows);
latest!(ComparisonRow, "comparisons", comparison_rows_to_batch, comparison_rows_from_batch, sort_comparison_rows);
latest!(CurveRow, "curves", curve_rows_to_batch, curve_rows_from_batch, sort_curve_rows);
latest!(WindowRow, "windows", window_rows_to_batch, window_rows_from_batch, sort_window_rows);

/// Publishes some windows. Doing it again changes nothing.
pub async fn publish(store: &Store, windows: &[Published<'_>]) -> Result<(), Error> {
    let mut dates: BTreeMap<(String, String), Vec<&Published<'_>>> = BTreeMap::new();
    for window in windows {
        let date = window.window.date().to_string();
        let name = format!("{}_r{}", driftline_schemas::history::window_name(window.window), window.revision);
        let path = paths::table("metrics_log", window.model, &date, &name);
        let bytes = to_parquet(&tables::metric_rows_to_batch(&window.evaluated.metrics), None)?;
        let (Created::New(_) | Created::Exists(_)) = store.create(&path, bytes).await?;
        dates.entry((window.model.to_owned(), date)).or_default().push(window);
    }
    for ((model, date), windows) in dates {
        let replaced: HashMap<i64, i64> =
            windows.iter().map(|window| (window.window.start, window.revision as i64)).collect();
        let all = || windows.iter().map(|window| window.evaluated);
        macro_rules! latest_of {
            ($rows:expr) => {
                Box::pin(merge(store, &model, &date, &replaced, $rows.collect::<Vec<_>>()))
            };
        }
        // Each is an object of its own, and a store is far away: they go together.
        tokio::try_join!(
            latest_of!(all().flat_map(|e| e.metrics.clone())),
            latest_of!(all().flat_map(|e| e.confusion.clone())),
            latest_of!(all().flat_map(|e| e.estimates.clone())),
            latest_of!(all().flat_map(|e| e.label_lag.clone())),
            latest_of!(all().flat_map(|e| e.drift.clone())),
            latest_of!(all().flat_map(|e| e.quality.clone())),
            latest_of!(all().flat_map(|e| e.serving.clone())),
            latest_of!(all().flat_map(|e| e.errors.clone())),
            latest_of!(all().flat_map(|e| e.comparisons.clone())),
            latest_of!(all().flat_map(|e| e.curves.clone())),
            latest_of!(windows.iter().map(|window| window.row.clone())),
        )?;
    }
    Ok(())
}

/// Replaces the rows of some windows in a table's object; of each window the highest revision stays.
async fn merge<R: Latest>(
    store: &Store,
    model: &str,
    date: &str,
    replaced: &HashMap<i64, i64>,
    new: Vec<R>,
) -> Result<(), Error> {
    let path = paths::table(R::TABLE, model, date, R::TABLE);
    loop {
        let existing = store.get(&path).await?;
        let mut rows: Vec<R> = Vec::new();
        let mut newer: HashMap<i64, i64> = HashMap::new();
        if let Some(object) = &existing {
            for batch in ParquetRecordBatchReaderBuilder::try_new(object.bytes.clone())?.build()? {
                rows.extend(R::from_batch(model, &batch?)?);
            }
            for row in &rows {
                if replaced.get(&row.start()).is_some_and(|revision| row.revision() > *revision) {
                    newer.insert(row.start(), row.revision());
                }
            }
        }
        rows.retain(|row| !replaced.contains_key(&row.start()) || newer.contains_key(&row.start()));
        rows.extend(new.iter().filter(|row| !newer.contains_key(&row.start())).cloned());
        // A table that has had no row yet needs no object: most windows have no error.
        if existing.is_none() && rows.is_empty() {
            return Ok(());
        }
        R::sort(&mut rows);
        let bytes = to_parquet(&R::to_batch(&rows), None)?;
        if existing.as_ref().is_some_and(|object| object.bytes == bytes) {
            return Ok(());
        }
        let expected = existing.map_or(Expected::Absent, |object| Expected::Version(object.version));
        if let Replaced::Done(_) = store.replace(&path, bytes, expected).await? {
            return Ok(());
        }
    }
}

/// Replaces an accounts object, unless one of a later position of the ledger stands there.
pub async fn accounts(
    store: &Store,
    model: &str,
    date: &str,
    seq: u64,
    mut rows: Vec<AccountRow>,
) -> Result<(), Error> {
    let path = paths::table("accounts", model, date, "accounts");
    tables::sort_account_rows(&mut rows);
    let bytes =
        to_parquet(&tables::account_rows_to_batch(&rows), Some(KeyValue::new(SEQ_KEY.into(), seq.to_string())))?;
    loop {
        let existing = store.get(&path).await?;
        if let Some(object) = &existing
            && seq_of(&object.bytes)? >= Some(seq)
        {
            return Ok(());
        }
        let expected = existing.map_or(Expected::Absent, |object| Expected::Version(object.version));
        if let Replaced::Done(_) = store.replace(&path, bytes.clone(), expected).await? {
            return Ok(());
        }
    }
}

fn seq_of(bytes: &Bytes) -> Result<Option<u64>, Error> {
    let builder = ParquetRecordBatchReaderBuilder::try_new(bytes.clone())?;
    let entries = builder.metadata().file_metadata().key_value_metadata();
    let entry = entries.and_then(|entries| entries.iter().find(|entry| entry.key == SEQ_KEY));
    Ok(entry.and_then(|entry| entry.value.as_ref()?.parse().ok()))
}

fn to_parquet(batch: &RecordBatch, entry: Option<KeyValue>) -> Result<Bytes, Error> {
    let level = ZstdLevel::try_new(3).expect("3 is a level of zstd");
    let properties = WriterProperties::builder()
        .set_compression(Compression::ZSTD(level))
        .set_statistics_enabled(EnabledStatistics::Page)
        .set_created_by(concat!("driftline ", env!("CARGO_PKG_VERSION")).to_owned())
        .set_key_value_metadata(entry.map(|entry| vec![entry]))
        .build();
    let mut bytes = Vec::new();
    let mut writer = ArrowWriter::try_new(&mut bytes, batch.schema(), Some(properties))?;
    writer.write(batch)?;
    writer.close()?;
    Ok(bytes.into())
}
