//! One flush: a sealed batch becomes one object, created if absent in the slot at the chain's end. That is the commit.
use bytes::Bytes;
use driftline_schemas::event::EventKind;
use driftline_schemas::raw::{FORMAT, RawFooter, RawKind};
use driftline_store::{Created, Store, paths};
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, Encoding, ZstdLevel};
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use parquet::schema::types::ColumnPath;

use crate::batch::SealedBatch;
use crate::decode::DECODER_VERSION;
use crate::error::Error;
use crate::source::ChainTail;

/// Columns whose values hardly repeat: a dictionary of them would be built and thrown away.
const UNIQUE_COLUMNS: [&[&str]; 9] = [
    &["prediction_id"],
    &["score"],
    &["payload"],
    &["latency_ms"],
    &["prediction_value"],
    &["label_value"],
    &["probabilities", "entries", "value"],
    &["features", "entries", "value", "number"],
    &["attributions", "entries", "value"],
];

/// Texts that are the same for long runs of rows, or come in the same order row after row: as they lie, one behind the
/// other, compression makes nearly nothing of them, and no dictionary is asked for every value.
const REPEATED_COLUMNS: [&[&str]; 8] = [
    &["topic"],
    &["model_name"],
    &["model_version"],
    &["environment"],
    &["probabilities", "entries", "key"],
    &["features", "entries", "key"],
    &["tags", "entries", "key"],
    &["attributions", "entries", "key"],
];

/// Integers that stand still or grow in small steps: their differences take a few bits.
const STEADY_COLUMNS: [&str; 8] = [
    "partition",
    "offset",
    "index",
    "kafka_timestamp",
    "base_window",
    "event_time",
    "prediction_timestamp",
    "received_at",
];

/// Rows handed to the encoder at a time. More would not stay in the processor's cache between its passes over a column;
/// fewer would spend on calls.
const ROWS_A_WRITE: usize = 4096;

/// An object ready to be put, and what its footer says.
#[derive(Debug)]
pub struct EncodedObject {
    /// The whole Parquet object.
    pub bytes: Bytes,
    /// Its footer.
    pub footer: RawFooter,
}

/// What came of an append.
#[derive(Debug)]
pub enum Appended {
    /// Our object stands.
    Ours,
    /// Another writer's object has the slot; the chain's end is this. What we have before it is already there.
    Theirs(ChainTail),
}

/// A sealed batch as a raw object of a chain.
pub fn encode(sealed: &SealedBatch, chain: &str, topic_id: Option<&str>, writer: &str) -> Result<EncodedObject, Error> {
    let footer = RawFooter {
        format: FORMAT,
        kind: match sealed.kind {
            EventKind::Labels => RawKind::Labels,
            EventKind::Predictions | EventKind::Reference => RawKind::Predictions,
        },
        topic: sealed.partition.topic.clone(),
        topic_id: topic_id.map(str::to_owned),
        chain: chain.to_owned(),
        partition: sealed.partition.partition,
        from: sealed.from,
        to: sealed.to,
        written_at: sealed.written_at,
        writer: writer.to_owned(),
        decoder_version: DECODER_VERSION,
        records: sealed.records,
        skipped_offsets: sealed.skipped_offsets,
        accepted: sealed.accepted,
        rejected: sealed.rejected.clone(),
        ignored_fields: sealed.ignored_fields,
        gap_reason: None,
        models: sealed.models.clone(),
    };
    encode_with(footer, &sealed.batch)
}

/// Rows and a footer as one Parquet object.
pub(crate) fn encode_with(footer: RawFooter, batch: &arrow::array::RecordBatch) -> Result<EncodedObject, Error> {
    let mut properties = WriterProperties::builder()
        .set_compression(Compression::ZSTD(ZstdLevel::try_new(1)?))
        // The footer's index says where everything lies: bounds of texts would be compared row by row and never read.
        .set_statistics_enabled(EnabledStatistics::None)
        .set_key_value_metadata(Some(vec![footer.to_key_value()]));
    for column in UNIQUE_COLUMNS {
        properties = properties.set_column_dictionary_enabled(path(column), false);
    }
    for column in REPEATED_COLUMNS {
        properties = properties
            .set_column_dictionary_enabled(path(column), false)
            .set_column_encoding(path(column), Encoding::DELTA_LENGTH_BYTE_ARRAY);
    }
    for column in STEADY_COLUMNS {
        properties = properties
            .set_column_dictionary_enabled(ColumnPath::from(column), false)
            .set_column_statistics_enabled(ColumnPath::from(column), EnabledStatistics::Chunk)
            .set_column_encoding(ColumnPath::from(column), Encoding::DELTA_BINARY_PACKED);
    }
    let mut writer = ArrowWriter::try_new(Vec::new(), batch.schema(), Some(properties.build()))?;
    for from in (0..batch.num_rows()).step_by(ROWS_A_WRITE) {
        writer.write(&batch.slice(from, ROWS_A_WRITE.min(batch.num_rows() - from)))?;
    }
    Ok(EncodedObject { bytes: Bytes::from(writer.into_inner()?), footer })
}

fn path(parts: &[&str]) -> ColumnPath {
    ColumnPath::new(parts.iter().map(|part| (*part).to_owned()).collect())
}

/// Puts the object into its slot, unless another has it. One try beyond the store's own: the caller knows how long to go on.
///
/// **C3**: of any number of writers one wins the slot; the others read what stands there and take its end for theirs.
///
/// A writer that stood still may come to a slot that was deleted since. The chain's boundary says so, and was durable before:
/// it is looked at before the creation, which is then left undone, and after it, which is then taken back. See
/// [`driftline_store::boundary`].
pub async fn append(store: &Store, object: &EncodedObject) -> Result<Appended, Error> {
    let footer = &object.footer;
    let path = paths::raw_object(&footer.chain, footer.from as u64);
    let at = ChainTail {
        chain: footer.chain.clone(),
        topic_id: footer.topic_id.clone(),
        to: footer.from,
        last_from: None,
        written_at: None,
    };
    if let Some(kept) = crate::chain::behind_boundary(store, &at, footer.from).await? {
        // It may stand there from a try whose answer was lost.
        store.take_back(&path, &object.bytes).await?;
        return crate::chain::walk(store, kept).await.map(Appended::Theirs);
    }
    match store.create(&path, object.bytes.clone()).await? {
        Created::New(_) => match crate::chain::behind_boundary(store, &at, footer.from).await? {
            None => Ok(Appended::Ours),
            Some(kept) => {
                store.take_back(&path, &object.bytes).await?;
                crate::chain::walk(store, kept).await.map(Appended::Theirs)
            }
        },
        Created::Exists(found) => {
            let winner = RawFooter::from_bytes(&found.bytes).map_err(|source| Error::RawObject { path, source })?;
            let tail =
                ChainTail { to: winner.to, last_from: Some(winner.from), written_at: Some(winner.written_at), ..at };
            // More may have been appended since; each step is one request. What has the slot may itself have come too late.
            crate::chain::walk_from(store, tail, footer.from).await.map(Appended::Theirs)
        }
    }
}
