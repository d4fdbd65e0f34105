//! The raw object: what one flush of one source partition leaves behind, and what the aggregator reads.
//!
//! One Parquet object per flush, zstd, rows sorted by (model_name, base_window, offset, index), rejected rows last. Its
//! name says where it begins; its footer says where it ends, and indexes it by model and base window.
use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Fields, Schema, SchemaRef, TimeUnit};
use parquet::file::metadata::{KeyValue, ParquetMetaData, ParquetMetaDataReader};
use serde::{Deserialize, Serialize};

use crate::clock::Micros;
use crate::event::{EventKind, Reason};

/// The key of the footer in the Parquet metadata.
pub const FOOTER_KEY: &str = "driftline";
/// The version of this format that a collector writes.
pub const FORMAT: u32 = 1;
/// The version of an object that `forget` has rewritten: a build that does not know of it would find rows missing.
pub const FORMAT_FORGOTTEN: u32 = 2;

/// What a raw object holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RawKind {
    /// Rows of a predictions topic.
    Predictions,
    /// Rows of a labels topic.
    Labels,
    /// No rows: offsets that the broker no longer has, given up by an operator's command.
    Gap,
}

/// The JSON under [`FOOTER_KEY`] in a raw object's Parquet metadata.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RawFooter {
    /// [`FORMAT`] of the writer.
    pub format: u32,
    /// What the rows are.
    pub kind: RawKind,
    /// Source topic.
    pub topic: String,
    /// The broker's id of the topic, if it gives one.
    pub topic_id: Option<String>,
    /// The chain that this object is a link of.
    pub chain: String,
    /// Source partition.
    pub partition: u32,
    /// First offset covered.
    pub from: i64,
    /// First offset not covered: the name of the next object.
    pub to: i64,
    /// When the object was written; no row was decoded later. Events too far after it are rejected.
    pub written_at: Micros,
    /// A random word of the writer, so that a writer recognises its own object after an ambiguous answer.
    pub writer: String,
    /// Version of the rules that made rows of records.
    pub decoder_version: u32,
    /// Kafka records seen.
    pub records: u64,
    /// Offsets that no record was seen for (control records, aborted transactions), counted as they were jumped over.
    pub skipped_offsets: u64,
    /// Events (array elements) that became rows.
    pub accepted: u64,
    /// Events that were rejected, by reason.
    pub rejected: BTreeMap<Reason, u64>,
    /// Unknown top-level fields that were ignored.
    pub ignored_fields: u64,
    /// Why there is a gap; only for [`RawKind::Gap`].
    pub gap_reason: Option<String>,
    /// One entry a model, in the order of the rows.
    pub models: Vec<ModelIndex>,
}

/// Where a model's rows lie in a raw object.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelIndex {
    /// Model name.
    pub model: String,
    /// The model's first row.
    pub first_row: u64,
    /// How many rows.
    pub rows: u64,
    /// Smallest event time.
    pub min_event_time: Micros,
    /// Largest event time.
    pub max_event_time: Micros,
    /// (number of the base window, rows), ascending; the rows lie in this order.
    pub base_windows: Vec<(i64, u64)>,
    /// What `forget` has taken out: (number of the base window, rows), ascending. The tombstone that keeps the accounts.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub forgotten: Vec<(i64, u64)>,
}

impl ModelIndex {
    /// Rows that `forget` has taken out.
    pub fn forgotten_rows(&self) -> u64 {
        self.forgotten.iter().map(|(_, rows)| rows).sum()
    }
}

/// What is wrong with the footer of a raw object.
#[derive(Debug, thiserror::Error)]
pub enum FooterError {
    /// No Parquet at all, or cut off.
    #[error("the object does not end as a Parquet file does")]
    NotParquet,
    /// Parquet whose metadata cannot be read.
    #[error("the object's Parquet metadata cannot be read")]
    Parquet(#[from] parquet::errors::ParquetError),
    /// Parquet, but not ours.
    #[error("the Parquet metadata has no key `{FOOTER_KEY}`")]
    Absent,
    /// Ours, but not readable.
    #[error("the footer is not readable")]
    Json(#[from] serde_json::Error),
    /// Written by a newer version.
    #[error("the footer has format {0}, and this version reads up to {FORMAT_FORGOTTEN}")]
    Format(u32),
}

impl RawFooter {
    /// The footer in the metadata of an opened Parquet object.
    pub fn from_parquet_metadata(metadata: &ParquetMetaData) -> Result<Self, FooterError> {
        let entries = metadata.file_metadata().key_value_metadata().ok_or(FooterError::Absent)?;
        let entry = entries.iter().find(|entry| entry.key == FOOTER_KEY).ok_or(FooterError::Absent)?;
        let footer: Self = serde_json::from_str(entry.value.as_deref().unwrap_or_default())?;
        if footer.format > FORMAT_FORGOTTEN { Err(FooterError::Format(footer.format)) } else { Ok(footer) }
    }

    /// The footer of a raw object, from all of its bytes or from a suffix that holds the whole Parquet footer.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, FooterError> {
        // A Parquet file ends with: metadata, its length (4 bytes, little endian), "PAR1".
        let (rest, magic) = bytes.split_last_chunk::<4>().ok_or(FooterError::NotParquet)?;
        let (rest, length) = rest.split_last_chunk::<4>().ok_or(FooterError::NotParquet)?;
        let start = rest.len().checked_sub(u32::from_le_bytes(*length) as usize);
        let start = start.filter(|_| magic == b"PAR1").ok_or(FooterError::NotParquet)?;
        Self::from_parquet_metadata(&ParquetMetaDataReader::decode_metadata(&rest[start..])?)
    }

    /// The entry that goes into the Parquet metadata.
    pub fn to_key_value(&self) -> KeyValue {
        let json = serde_json::to_string(self).expect("a footer has string keys and finite numbers only");
        KeyValue::new(FOOTER_KEY.to_owned(), json)
    }

    /// Rejected events, all reasons together.
    pub fn rejected_total(&self) -> u64 {
        self.rejected.values().sum()
    }

    /// Accepted events that `forget` has taken out, all models together. [`RawFooter::accepted`] no longer counts them.
    pub fn forgotten_total(&self) -> u64 {
        self.models.iter().map(ModelIndex::forgotten_rows).sum()
    }

    /// **A1** of one object: its offsets are its records and the jumps between them.
    pub fn adds_up(&self) -> bool {
        let rows: u64 = self.models.iter().map(|model| model.rows).sum();
        self.to - self.from == (self.records + self.skipped_offsets) as i64 && rows == self.accepted
    }
}

/// `raw/<chain>/genesis.json`: where a chain begins. Created if absent, so that retention cannot fork a chain at birth.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Genesis {
    /// [`FORMAT`] of the writer.
    pub format: u32,
    /// Source topic.
    pub topic: String,
    /// The broker's id of the topic, if it gives one.
    pub topic_id: Option<String>,
    /// Source partition.
    pub partition: u32,
    /// First offset of the chain.
    pub from: i64,
    /// When the chain was born.
    pub created_at: Micros,
}

/// Stands for all models that are not tracked, where models are counted by name.
pub const UNTRACKED: &str = "__untracked__";

/// What a boundary (`raw/<chain>/boundary.json`) keeps of the objects behind it, so that accounts add up without them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RetiredTotals {
    /// When the last of them was written: the chain's clock does not go back behind it.
    pub written_at: Micros,
    /// Kafka records.
    pub records: u64,
    /// Offsets without a record, and those given up by an operator.
    pub gaps: u64,
    /// Events accepted, those that `forget` has taken out since included.
    pub accepted: u64,
    /// Events rejected, by reason.
    pub rejected: BTreeMap<Reason, u64>,
    /// Accepted events by model.
    pub models: BTreeMap<String, u64>,
    /// Of these, taken out by `forget`, by model.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub forgotten: BTreeMap<String, u64>,
}

impl RetiredTotals {
    /// Adds an object.
    pub fn add(&mut self, footer: &RawFooter) {
        self.written_at = self.written_at.max(footer.written_at);
        self.records += footer.records;
        self.gaps += (footer.to - footer.from) as u64 - footer.records;
        self.accepted += footer.accepted + footer.forgotten_total();
        for (reason, count) in &footer.rejected {
            *self.rejected.entry(*reason).or_default() += count;
        }
        for share in &footer.models {
            *self.models.entry(share.model.clone()).or_default() += share.rows + share.forgotten_rows();
            if share.forgotten_rows() > 0 {
                *self.forgotten.entry(share.model.clone()).or_default() += share.forgotten_rows();
            }
        }
    }

    /// Counts the models that are not named as one, [`UNTRACKED`]: what a boundary says has a bound, whatever models were called.
    pub fn pool(&mut self, is_named: impl Fn(&str) -> bool) {
        for counts in [&mut self.models, &mut self.forgotten] {
            let gone: Vec<String> = counts.keys().filter(|model| !is_named(model)).cloned().collect();
            let rows: u64 = gone.iter().filter_map(|model| counts.remove(model)).sum();
            if rows > 0 {
                *counts.entry(UNTRACKED.to_owned()).or_default() += rows;
            }
        }
    }

    /// Adds other objects of the same chain.
    pub fn merge(&mut self, other: &RetiredTotals) {
        self.written_at = self.written_at.max(other.written_at);
        self.records += other.records;
        self.gaps += other.gaps;
        self.accepted += other.accepted;
        for (reason, count) in &other.rejected {
            *self.rejected.entry(*reason).or_default() += count;
        }
        for (model, count) in &other.models {
            *self.models.entry(model.clone()).or_default() += count;
        }
        for (model, count) in &other.forgotten {
            *self.forgotten.entry(model.clone()).or_default() += count;
        }
    }
}

/// `facts/<chain>.json`: how far a partition has been read when there is nothing to write. Overwritable, advice.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Facts {
    /// [`FORMAT`] of the writer.
    pub format: u32,
    /// Next offset to read. Beyond `tail` only if the offsets between hold no records (control records).
    pub position: i64,
    /// The chain's end when this was written.
    pub tail: i64,
    /// Where the chain's last object begins; `None` if the chain is only its genesis.
    pub tail_from: Option<i64>,
    /// The partition's end as the broker gave it; equal to `position`.
    pub broker_end: i64,
    /// A moment at which the broker's end was not yet beyond `broker_end`.
    pub confirmed_at: Micros,
    /// Since when the partition has been read to its end without news.
    pub at_end_since: Micros,
}

/// The time type of every table.
pub fn timestamp_type() -> DataType {
    DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()))
}

/// The columns of an event kind's raw object.
pub fn schema(kind: EventKind) -> SchemaRef {
    let mut fields = common_fields();
    if matches!(kind, EventKind::Predictions | EventKind::Reference) {
        fields.extend(prediction_fields());
    }
    if matches!(kind, EventKind::Labels | EventKind::Reference) {
        fields.extend(label_fields());
    }
    fields.extend(rejection_fields());
    Arc::new(Schema::new(fields))
}

/// `Map<Utf8, Double>`: probabilities, attributions.
pub fn number_map_type() -> DataType {
    map_type(DataType::Float64)
}

/// `Map<Utf8, Utf8>`: tags.
pub fn text_map_type() -> DataType {
    map_type(DataType::Utf8)
}

/// `Map<Utf8, Struct{number: Double, text: Utf8}>`: features. A number has `number`; a string, a boolean
/// (`true`, `false`) and nested JSON have `text`; a null has neither.
pub fn feature_map_type() -> DataType {
    map_type(DataType::Struct(feature_value_fields()))
}

/// The fields of a feature's value.
pub fn feature_value_fields() -> Fields {
    Fields::from(vec![Field::new("number", DataType::Float64, true), Field::new("text", DataType::Utf8, true)])
}

/// The fields of a map's entry with this value type.
pub fn map_entry_fields(value: DataType) -> Fields {
    Fields::from(vec![Field::new("key", DataType::Utf8, false), Field::new("value", value, true)])
}

fn map_type(value: DataType) -> DataType {
    DataType::Map(Arc::new(Field::new("entries", DataType::Struct(map_entry_fields(value)), false)), false)
}

fn common_fields() -> Vec<Field> {
    vec![
        Field::new("topic", DataType::Utf8, false),
        Field::new("partition", DataType::Int64, false),
        Field::new("offset", DataType::Int64, false),
        Field::new("index", DataType::Int64, false),
        Field::new("kafka_timestamp", timestamp_type(), true),
        Field::new("model_name", DataType::Utf8, true),
        // The number of the minute since 1970 that holds `event_time`: `window::base_window_index`.
        Field::new("base_window", DataType::Int64, true),
        Field::new("event_time", timestamp_type(), true),
        Field::new("prediction_id", DataType::Utf8, true),
    ]
}

fn prediction_fields() -> Vec<Field> {
    vec![
        Field::new("model_version", DataType::Utf8, true),
        Field::new("prediction", DataType::Utf8, true),
        Field::new("prediction_value", DataType::Float64, true),
        Field::new("score", DataType::Float64, true),
        Field::new("probabilities", number_map_type(), true),
        Field::new("features", feature_map_type(), true),
        Field::new("tags", text_map_type(), true),
        Field::new("latency_ms", DataType::Float64, true),
        Field::new("sampling_rate", DataType::Float64, true),
        Field::new("environment", DataType::Utf8, true),
        Field::new("error", DataType::Utf8, true),
        Field::new("attributions", number_map_type(), true),
    ]
}

fn label_fields() -> Vec<Field> {
    vec![
        Field::new("label", DataType::Utf8, true),
        Field::new("label_value", DataType::Float64, true),
        Field::new("prediction_timestamp", timestamp_type(), true),
    ]
}

fn rejection_fields() -> Vec<Field> {
    vec![
        Field::new("reason", DataType::Utf8, true),
        Field::new("detail", DataType::Utf8, true),
        Field::new("payload", DataType::Binary, true),
        Field::new("received_at", timestamp_type(), true),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_that_are_no_raw_object_are_an_error_not_a_panic() {
        for bytes in [&b""[..], b"PAR1", b"\xff\xff\xff\xffPAR1", b"\0\0\0\0PAR1", b"some text, not Parquet"] {
            assert!(RawFooter::from_bytes(bytes).is_err());
        }
    }

    #[test]
    fn a_reference_has_the_columns_of_both_kinds_once() {
        let schema = schema(EventKind::Reference);
        for name in ["prediction_id", "features", "label", "prediction_timestamp", "payload"] {
            assert_eq!(schema.fields().iter().filter(|field| field.name() == name).count(), 1);
        }
    }
}
