//! Carries out one part of a job: reads its inputs, joins, and replaces the part's object in `history/`.
//!
//! A job is pure, so it does not matter who does it, or how often (**H2**): whoever finds the revision already there, or a
//! higher one, drops the job.
use arrow::array::AsArray;
use arrow::array::{BooleanArray, RecordBatch};
use arrow::datatypes::TimestampMicrosecondType;
use bytes::Bytes;
use driftline_ledger::LedgerState;
use driftline_schemas::history::{FOOTER_KEY, part_name, segment_columns};
use driftline_schemas::ledger::{Input, Job, PartCounts};
use driftline_schemas::window::Window;
use driftline_store::{Expected, Object, Replaced, Store, paths};
use parquet::file::metadata::{KeyValue, ParquetMetaDataReader, SortingColumn};
use parquet::file::properties::WriterProperties;
use parquet::schema::types::ColumnPath;
use serde::{Deserialize, Serialize};

use crate::error::Error;
use crate::filter::{IdFilter, id_hash, part_of};
use crate::follow::footer_of;
use crate::join::{JoinRules, join};
use crate::objects::{self, LabelRow, read_routed, write_parquet};

/// Rows of a row group: smaller prunes better, larger compresses better.
const ROW_GROUP_ROWS: usize = 128 * 1024;

/// The JSON in the Parquet metadata of a history object.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct HistoryFooter {
    /// 1.
    pub format: u32,
    /// Model.
    pub model: String,
    /// Window.
    pub window: Window,
    /// Which part, from 0.
    pub part: u32,
    /// Out of how many.
    pub parts: u32,
    /// Revision.
    pub revision: u64,
    /// The account of the part; its `bytes` are 0 here.
    pub counts: PartCounts,
}

/// Where a part of a window lies.
pub fn history_path(model: &str, window: Window, part: u32) -> String {
    paths::table("history", model, window.date(), &part_name(window, part))
}

/// Judges one part.
///
/// # Returns
/// Its account; `None` if a later revision stands there already.
pub async fn judge(store: &Store, state: &LedgerState, job: &Job, part: u32) -> Result<Option<PartCounts>, Error> {
    let path = history_path(&job.model, job.window, part);
    loop {
        let existing = store.get(&path).await?;
        let before = existing.as_ref().map(|object| read_footer(&path, object)).transpose()?;
        match &before {
            Some(footer) if footer.revision > job.revision => return Ok(None),
            Some(footer) if footer.revision == job.revision || !job.writes_history() => {
                let bytes = existing.map_or(0, |object| object.bytes.len() as u64);
                return Ok(Some(PartCounts { bytes, ..footer.counts.clone() }));
            }
            Some(footer) if footer.revision != job.previous => {
                return Err(Error::Corrupt(format!(
                    "{path} has revision {}, and its job follows revision {}",
                    footer.revision, job.previous
                )));
            }
            None if job.previous != 0 => return Err(Error::Corrupt(format!("{path} is gone"))),
            _ => {}
        }
        let made = make(store, state, job, part, existing.as_ref().zip(before.as_ref())).await?;
        let filter = paths::filter(&job.model, &part_name(job.window, part), job.revision);
        store.create(&filter, made.filter.into()).await?;
        let expected = existing.map_or(Expected::Absent, |object| Expected::Version(object.version));
        let bytes = made.bytes.len() as u64;
        if let Replaced::Done(_) = store.replace(&path, made.bytes, expected).await? {
            if job.previous > 0 {
                let old = paths::filter(&job.model, &part_name(job.window, part), job.previous);
                store.delete(&old).await?;
            }
            return Ok(Some(PartCounts { bytes, ..made.counts }));
        }
        // Somebody else was faster: look at what they left.
    }
}

struct Made {
    bytes: Bytes,
    filter: Vec<u8>,
    counts: PartCounts,
}

async fn make(
    store: &Store,
    state: &LedgerState,
    job: &Job,
    part: u32,
    before: Option<(&Object, &HistoryFooter)>,
) -> Result<Made, Error> {
    let mut predictions = Vec::new();
    let mut labels = Vec::new();
    for input in &job.inputs {
        match input {
            Input::Raw { path, after_final } => {
                let object = required(store, path).await?;
                let (job, path) = (job.clone(), path.clone());
                let rows = tokio::task::spawn_blocking(move || prediction_rows(&path, &object.bytes, &job, part));
                let rows = rows.await.expect("reading rows does not panic")?;
                predictions.extend(rows.map(|rows| (rows, *after_final)));
            }
            Input::Routed { path } => {
                let object = required(store, path).await?;
                let all = read_routed(&object.bytes, &job.model, job.window)?;
                labels.extend(all.into_iter().filter(|label| part_of(&job.model, &label.id, job.parts) == part));
            }
        }
    }
    let config = state.epochs.get(&job.epoch).map(|epoch| &epoch.config);
    let config = config.ok_or_else(|| Error::Corrupt(format!("the ledger has no configuration {}", job.epoch)))?;
    let settings = config.model(&job.model);
    let rules = JoinRules {
        window: job.window,
        revision: job.revision,
        task: job.task,
        score_kind: settings.score_kind,
        // Which labels belong to a window is settled where it begins; `reevaluate` does not change it.
        label_horizon: state.era_settings(&job.model, job.window.start).label_horizon,
        refusal: job.refusal.clone(),
        columns_max: config.max_feature_columns,
        segment_columns: settings.segments.iter().flatten().flat_map(|name| segment_columns(name)).collect(),
    };
    let before = before.map(|(object, footer)| (object.bytes.clone(), footer.counts.duplicates));
    let job = job.clone();
    let made = tokio::task::spawn_blocking(move || assemble(before, &predictions, labels, &rules, &job, part));
    made.await.expect("a join does not panic")
}

fn assemble(
    before: Option<(Bytes, u64)>,
    predictions: &[(RecordBatch, bool)],
    labels: Vec<LabelRow>,
    rules: &JoinRules,
    job: &Job,
    part: u32,
) -> Result<Made, Error> {
    let previous = match &before {
        Some((bytes, duplicates)) => objects::read_all(bytes)?.map(|rows| (rows, *duplicates)),
        None => None,
    };
    // A part without a row still has its duplicates (of rows that are elsewhere: there are none), so nothing is lost.
    let joined = join(previous.as_ref().map(|(rows, duplicates)| (rows, *duplicates)), predictions, labels, rules)?;
    let ids = objects::text(&joined.rows, "prediction_id")?;
    let filter = IdFilter::new(ids.iter().flatten().map(id_hash).collect()).to_bytes();
    let footer = HistoryFooter {
        format: 1,
        model: job.model.clone(),
        window: job.window,
        part,
        parts: job.parts,
        revision: job.revision,
        counts: joined.counts.clone(),
    };
    let footer = serde_json::to_string(&footer).expect("a footer has string keys only");
    let sorted = |column: &str| SortingColumn {
        column_idx: joined.rows.schema().index_of(column).unwrap_or(0) as i32,
        descending: false,
        nulls_first: true,
    };
    let id_column = ColumnPath::from("prediction_id");
    let properties = WriterProperties::builder()
        .set_max_row_group_row_count(Some(ROW_GROUP_ROWS))
        .set_key_value_metadata(Some(vec![KeyValue::new(FOOTER_KEY.to_owned(), footer)]))
        .set_sorting_columns(Some(vec![sorted("event_time"), sorted("prediction_id")]))
        .set_column_bloom_filter_enabled(id_column.clone(), true)
        .set_column_bloom_filter_max_ndv(id_column, (joined.rows.num_rows().clamp(1, ROW_GROUP_ROWS)) as u64);
    Ok(Made { bytes: write_parquet(&joined.rows, properties)?, filter, counts: joined.counts })
}

async fn required(store: &Store, path: &str) -> Result<Object, Error> {
    store.get(path).await?.ok_or_else(|| Error::Corrupt(format!("{path} is gone, and a job needs it")))
}

/// The rows of a raw object that belong to a part of the job's window.
fn prediction_rows(path: &str, bytes: &Bytes, job: &Job, part: u32) -> Result<Option<RecordBatch>, Error> {
    let footer = footer_of(path, bytes)?;
    let Some(rows) = objects::model_rows(&footer, &job.model) else { return Ok(None) };
    let Some(share) = footer.models.iter().find(|share| share.model == job.model) else { return Ok(None) };
    // Rows lie in the order of their base windows: only those of this window are read.
    let (mut first, mut count) = (rows.start, 0);
    for (base, base_rows) in &share.base_windows {
        let time = base * driftline_schemas::window::BASE_WINDOW;
        if time < job.window.start {
            first += *base_rows as usize;
        } else if time < job.window.end {
            count += *base_rows as usize;
        }
    }
    let selected = first..first + count;
    let Some(batch) = objects::read_rows(bytes, &[selected], PREDICTION_COLUMNS)? else { return Ok(None) };
    let times = batch.column_by_name("event_time").map(AsArray::as_primitive::<TimestampMicrosecondType>);
    let times = times.ok_or_else(|| Error::Corrupt(format!("{path} has no event_time")))?;
    let ids = objects::text(&batch, "prediction_id")?;
    let is_mine =
        |row: usize| job.window.contains(times.value(row)) && part_of(&job.model, ids.value(row), job.parts) == part;
    let mask: BooleanArray = (0..batch.num_rows()).map(|row| Some(is_mine(row))).collect();
    Ok(Some(arrow::compute::filter_record_batch(&batch, &mask)?))
}

const PREDICTION_COLUMNS: &[&str] = &[
    "topic",
    "partition",
    "offset",
    "index",
    "event_time",
    "prediction_id",
    "model_version",
    "prediction",
    "prediction_value",
    "score",
    "probabilities",
    "features",
    "tags",
    "latency_ms",
    "sampling_rate",
    "environment",
    "error",
    "attributions",
];

fn read_footer(path: &str, object: &Object) -> Result<HistoryFooter, Error> {
    let mut reader = ParquetMetaDataReader::new();
    reader.try_parse(&object.bytes)?;
    let metadata = reader.finish()?;
    let entries = metadata.file_metadata().key_value_metadata();
    let entry = entries.and_then(|entries| entries.iter().find(|entry| entry.key == FOOTER_KEY));
    let value = entry.and_then(|entry| entry.value.as_deref());
    let value = value.ok_or_else(|| Error::Corrupt(format!("{path} was not written by Driftline")))?;
    serde_json::from_str(value).map_err(|source| Error::Json { path: path.to_owned(), source })
}
