//! Carries out one part of a job: reads its inputs, joins, and replaces the part's object in `history/`.
//!
//! A job is pure, so it does not matter who does it, or how often (**H2**): whoever finds the revision already there, or a
//! higher one, drops the job.
use arrow::array::AsArray;
use arrow::array::{BooleanArray, RecordBatch};
use arrow::datatypes::TimestampMicrosecondType;
use bytes::Bytes;
use driftline_ledger::forget::Omissions;
use driftline_ledger::{ForgetKey, LedgerState};
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
use crate::{scrub, telemetry};

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
///
/// # Errors
/// [`Error::Gone`] if an object that the job lists is not there: in the ledger, the job is done by now, or a person is needed.
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
            None if job.previous != 0 => return Err(Error::Gone { path }),
            _ => {}
        }
        let made = match make(store, state, job, part, existing.as_ref().zip(before.as_ref())).await {
            // Inputs are deleted only when the job is done: somebody else has done it, and the next look will tell.
            Err(Error::Gone { path: input }) => {
                let version = |object: &Object| object.version.clone();
                if store.get(&path).await?.as_ref().map(version) == existing.as_ref().map(version) {
                    return Err(Error::Gone { path: input });
                }
                continue;
            }
            made => made?,
        };
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
    let omissions = if job.forgets == 0 {
        None
    } else {
        Some(Omissions::upto(state, ForgetKey::load(store).await?, &job.model, job.forgets))
    };
    let mut predictions = Vec::new();
    let mut labels = Vec::new();
    let mut forgotten = 0;
    for input in &job.inputs {
        match input {
            Input::Raw { path, after_final } => {
                let object = required(store, path).await?;
                let (job, path, omissions) = (job.clone(), path.clone(), omissions.clone());
                let read = move || prediction_rows(&path, &object.bytes, &job, part, omissions.as_ref());
                let rows = tokio::task::spawn_blocking(read).await.expect("reading rows does not panic")?;
                let (rows, gone) = rows;
                forgotten += gone;
                predictions.extend(rows.map(|rows| (rows, *after_final)));
            }
            Input::Routed { path } => {
                let object = required(store, path).await?;
                let all = read_routed(&object.bytes, &job.model, job.window)?;
                let is_mine = |label: &LabelRow| {
                    part_of(&job.model, &label.id, job.parts) == part
                        && omissions.as_ref().is_none_or(|omissions| !omissions.has(&job.model, &label.id))
                };
                labels.extend(all.into_iter().filter(is_mine));
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
        segment_columns: {
            let names = settings.segments.iter().flatten().chain(settings.ranking.iter().map(|ranking| &ranking.group));
            names.flat_map(|name| segment_columns(name)).collect()
        },
    };
    let before = before.map(|(object, footer)| Before {
        bytes: object.bytes.clone(),
        duplicates: footer.counts.duplicates,
        forgotten: footer.counts.forgotten,
    });
    let new = New { predictions, labels, forgotten };
    let job = job.clone();
    let made = tokio::task::spawn_blocking(move || assemble(before, new, omissions.as_ref(), &rules, &job, part));
    made.await.expect("a join does not panic")
}

/// The part's object at the previous revision.
struct Before {
    bytes: Bytes,
    duplicates: u64,
    forgotten: u64,
}

/// What a job brings to a part.
struct New {
    predictions: Vec<(RecordBatch, bool)>,
    labels: Vec<LabelRow>,
    /// Rows left out of the inputs.
    forgotten: u64,
}

fn assemble(
    before: Option<Before>,
    new: New,
    omissions: Option<&Omissions>,
    rules: &JoinRules,
    job: &Job,
    part: u32,
) -> Result<Made, Error> {
    let (mut previous, mut duplicates, mut forgotten) = (None, 0, new.forgotten);
    if let Some(before) = &before {
        // A part may have lost all its rows to `forget`, and still has its counts.
        (duplicates, forgotten) = (before.duplicates, forgotten + before.forgotten);
        previous = objects::read_all(&before.bytes)?;
    }
    if let (Some(rows), Some(omissions)) = (&previous, omissions) {
        let (left, gone) = scrub::without(rows, &job.model, omissions)?;
        forgotten += gone;
        previous = Some(left);
    }
    let mut joined = join(previous.as_ref().map(|rows| (rows, 0)), &new.predictions, new.labels, rules)?;
    joined.counts.duplicates += duplicates;
    joined.counts.forgotten = forgotten;
    if joined.went_into_json() {
        telemetry::went_into_json(&job.model, rules.columns_max);
    }
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
    Ok(Made { bytes: write_history(&joined.rows, &footer)?, filter, counts: joined.counts })
}

/// A history object of these rows.
pub(crate) fn write_history(rows: &RecordBatch, footer: &HistoryFooter) -> Result<Bytes, Error> {
    let footer = serde_json::to_string(footer).expect("a footer has string keys only");
    let sorted = |column: &str| SortingColumn {
        column_idx: rows.schema().index_of(column).unwrap_or(0) as i32,
        descending: false,
        nulls_first: true,
    };
    let id_column = ColumnPath::from("prediction_id");
    let properties = WriterProperties::builder()
        .set_max_row_group_row_count(Some(ROW_GROUP_ROWS))
        .set_key_value_metadata(Some(vec![KeyValue::new(FOOTER_KEY.to_owned(), footer)]))
        .set_sorting_columns(Some(vec![sorted("event_time"), sorted("prediction_id")]))
        .set_column_bloom_filter_enabled(id_column.clone(), true)
        .set_column_bloom_filter_max_ndv(id_column, (rows.num_rows().clamp(1, ROW_GROUP_ROWS)) as u64);
    write_parquet(rows, properties)
}

async fn required(store: &Store, path: &str) -> Result<Object, Error> {
    store.get(path).await?.ok_or_else(|| Error::Gone { path: path.to_owned() })
}

/// The rows of a raw object that belong to a part of the job's window, and how many are left out.
///
/// Rows that are left out are counted by the window's first part, whichever they would belong to: once the object has been
/// rewritten their ids are not known any more, and it must not matter whether it has been.
fn prediction_rows(
    path: &str,
    bytes: &Bytes,
    job: &Job,
    part: u32,
    omissions: Option<&Omissions>,
) -> Result<(Option<RecordBatch>, u64), Error> {
    let footer = footer_of(path, bytes)?;
    let Some(rows) = objects::model_rows(&footer, &job.model) else { return Ok((None, 0)) };
    let Some(share) = footer.models.iter().find(|share| share.model == job.model) else { return Ok((None, 0)) };
    let is_inside = |(base, _): &&(i64, u64)| job.window.contains(base * driftline_schemas::window::BASE_WINDOW);
    let mut forgotten = share.forgotten.iter().filter(is_inside).map(|(_, rows)| rows).sum();
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
    let count_of = |forgotten: u64| if part == 0 { forgotten } else { 0 };
    let Some(batch) = objects::read_rows(bytes, &[selected], PREDICTION_COLUMNS)? else {
        return Ok((None, count_of(forgotten)));
    };
    let times = batch.column_by_name("event_time").map(AsArray::as_primitive::<TimestampMicrosecondType>);
    let times = times.ok_or_else(|| Error::Corrupt(format!("{path} has no event_time")))?;
    let ids = objects::text(&batch, "prediction_id")?;
    let mut is_mine = |row: usize| {
        if !job.window.contains(times.value(row)) {
            return false;
        }
        if omissions.is_some_and(|omissions| omissions.has(&job.model, ids.value(row))) {
            forgotten += 1;
            return false;
        }
        part_of(&job.model, ids.value(row), job.parts) == part
    };
    let mask: BooleanArray = (0..batch.num_rows()).map(|row| Some(is_mine(row))).collect();
    Ok((Some(arrow::compute::filter_record_batch(&batch, &mask)?), count_of(forgotten)))
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

pub(crate) fn read_footer(path: &str, object: &Object) -> Result<HistoryFooter, Error> {
    let mut reader = ParquetMetaDataReader::new();
    reader.try_parse(&object.bytes)?;
    let metadata = reader.finish()?;
    let entries = metadata.file_metadata().key_value_metadata();
    let entry = entries.and_then(|entries| entries.iter().find(|entry| entry.key == FOOTER_KEY));
    let value = entry.and_then(|entry| entry.value.as_deref());
    let value = value.ok_or_else(|| Error::Corrupt(format!("{path} was not written by Driftline")))?;
    serde_json::from_str(value).map_err(|source| Error::Json { path: path.to_owned(), source })
}
