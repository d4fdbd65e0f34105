//! Reference files: prediction events with labels, from a path or from an object store.
use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;

use anyhow::{Context, Result, anyhow, bail};
use arrow::array::RecordBatch;
use arrow::compute::concat_batches;
use arrow::datatypes::Schema;
use async_trait::async_trait;
use bytes::Bytes;
use driftline_collector::decode;
use driftline_evaluator::Reference;
use driftline_evaluator::stage::{ReferenceFiles, ReferenceRows};
use driftline_schemas::clock;
use driftline_schemas::config::Config;
use driftline_schemas::event::EventKind;
use driftline_store::Store;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

/// Reads reference files for the evaluator.
pub(crate) struct Files {
    options: BTreeMap<String, String>,
}

impl Files {
    pub(crate) fn new(config: &Config) -> Self {
        Self { options: config.store.options.clone() }
    }
}

#[async_trait]
impl ReferenceFiles for Files {
    async fn read(&self, location: &str) -> Result<ReferenceRows, String> {
        let path = local(location).map(Path::to_owned);
        let in_place = tokio::task::spawn_blocking(move || path.filter(|path| has_history_columns(path))).await;
        if let Some(path) = in_place.map_err(|error| error.to_string())? {
            return Ok(ReferenceRows::ParquetFile(path));
        }
        let bytes = fetch(location, &self.options).await.map_err(|error| format!("{error:#}"))?;
        let location = location.to_owned();
        let rows = tokio::task::spawn_blocking(move || history_rows(&location, &bytes)).await;
        rows.map_err(|error| error.to_string())?.map_err(|error| format!("{error:#}"))
    }

    async fn read_frozen(&self, location: &str) -> Result<Option<Reference>, String> {
        // Only a document can be one: rows come as .jsonl or .parquet, and need not be read twice.
        if Path::new(location).extension().is_none_or(|extension| extension != "json") {
            return Ok(None);
        }
        let bytes = fetch(location, &self.options).await.map_err(|error| format!("{error:#}"))?;
        Reference::from_json(&bytes).transpose()
    }
}

/// A location on this machine's disk.
pub(crate) fn local(location: &str) -> Option<&Path> {
    if let Some(path) = location.strip_prefix("file://") {
        return Some(Path::new(path));
    }
    (!location.contains("://")).then(|| Path::new(location))
}

/// Whether a file is a Parquet file of history's columns. What cannot be read is none; who reads it whole says why.
fn has_history_columns(path: &Path) -> bool {
    let file = std::fs::File::open(path).ok();
    file.and_then(|file| ParquetRecordBatchReaderBuilder::try_new(file).ok())
        .is_some_and(|builder| is_history(builder.schema()))
}

/// Whether a Parquet file has history's columns already, and not the fields of events.
fn is_history(schema: &Schema) -> bool {
    schema.fields().iter().any(|field| field.name().starts_with("feature_")) || schema.index_of("features").is_err()
}

/// The bytes at a path or URL; `.gz` is unpacked.
pub(crate) async fn fetch(location: &str, options: &BTreeMap<String, String>) -> Result<Bytes> {
    let bytes = if let Some(path) = local(location) {
        Bytes::from(tokio::fs::read(path).await.with_context(|| format!("read {}", path.display()))?)
    } else {
        let (folder, name) = location.rsplit_once('/').context("a URL has a path")?;
        let store = Store::open(folder, options).context("open the store of the file")?;
        store.get(name).await.context("read the file")?.with_context(|| format!("there is no {location}"))?.bytes
    };
    unpacked(location, bytes)
}

fn unpacked(location: &str, bytes: Bytes) -> Result<Bytes> {
    if Path::new(location).extension().is_none_or(|extension| extension != "gz") {
        return Ok(bytes);
    }
    let mut text = Vec::new();
    flate2::read::MultiGzDecoder::new(&bytes[..])
        .read_to_end(&mut text)
        .with_context(|| format!("unpack {location}"))?;
    Ok(text.into())
}

/// Whether bytes are a Parquet file.
fn is_parquet(bytes: &[u8]) -> bool {
    bytes.len() > 12 && bytes.starts_with(b"PAR1") && bytes.ends_with(b"PAR1")
}

/// Rows with the columns of `history`. JSON lines go through the collector's decoder; a Parquet file either has history's
/// columns already (`feature_…`), or the fields of events, and then goes the same way.
fn history_rows(location: &str, bytes: &Bytes) -> Result<ReferenceRows> {
    if bytes.starts_with(b"PAR1") && !is_parquet(bytes) {
        bail!("a Parquet file that is cut short: its end is not there");
    }
    if !is_parquet(bytes) {
        return decoded(location, bytes).map(ReferenceRows::Decoded);
    }
    let builder = ParquetRecordBatchReaderBuilder::try_new(bytes.clone()).context("open the Parquet file")?;
    if is_history(builder.schema()) {
        return Ok(ReferenceRows::ParquetBytes(bytes.clone()));
    }
    let batches = builder.build()?.collect::<Result<Vec<_>, _>>().context("read the Parquet file")?;
    decoded(location, &json_lines(&batches)?).map(ReferenceRows::Decoded)
}

fn decoded(location: &str, lines: &[u8]) -> Result<RecordBatch> {
    let decoded = decode::decode_json_lines(EventKind::Reference, location, lines, clock::now_micros())?;
    if let Some(first) = decoded.rejected.first() {
        bail!(
            "{} of its events cannot be used; the first, in line {}: {}: {}",
            decoded.rejected.len(),
            first.line,
            first.reason.as_str(),
            first.detail
        );
    }
    let Some(first) = decoded.batches.first() else { bail!("{location} has no rows") };
    let raw = concat_batches(&first.schema(), &decoded.batches).context("join the rows")?;
    driftline_aggregator::join::reference_rows(&raw).map_err(|error| anyhow!(error))
}

/// Rows as JSON lines; nulls are left out, as producers do.
pub(crate) fn json_lines(batches: &[RecordBatch]) -> Result<Vec<u8>> {
    let mut lines = Vec::new();
    let mut writer = arrow::json::LineDelimitedWriter::new(&mut lines);
    for batch in batches {
        writer.write(batch).context("write rows as JSON")?;
    }
    writer.finish().context("write rows as JSON")?;
    Ok(lines)
}
