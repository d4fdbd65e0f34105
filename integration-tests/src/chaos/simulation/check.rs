//! Compares what stands in a store in memory with the truth.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, ensure};
use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::{DataType, Int64Type};
use driftline_aggregator::judge::{HistoryFooter, history_path};
use driftline_aggregator::objects;
use driftline_ledger::Replica;
use driftline_schemas::history::FOOTER_KEY;
use driftline_schemas::raw::{Genesis, RawFooter};
use driftline_schemas::tables;
use driftline_store::{Manifest, Store, paths};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

use super::is_labels;
use crate::generator::{Options, RowState, Slice, Task, Truth};
use crate::judge::Differences;
use crate::kafka::Topics;

/// Everything at once; how many values were compared.
pub(super) async fn all(
    store: &Store,
    options: &Options,
    topics: &Topics,
    truth: &Truth,
    evaluated: bool,
) -> Result<u64> {
    let mut differences = Differences::default();
    chains(store, topics, truth, &mut differences).await.context("raw/")?;
    windows(store, options, truth, &mut differences).await.context("history/")?;
    if evaluated {
        metrics(store, truth, &mut differences).await.context("metrics/")?;
    }
    differences.settle().map(|compared| compared as u64)
}

/// C1, A1: each chain is contiguous from its genesis, there is nothing beside it, and each position is there once.
async fn chains(store: &Store, topics: &Topics, truth: &Truth, differences: &mut Differences) -> Result<()> {
    let manifest = Manifest::load(store).await?.context("there is no manifest")?;
    for chain in manifest.chains() {
        let name = chain.name();
        let genesis = store.get(&paths::genesis(&name)).await?;
        let known = truth
            .partitions
            .iter()
            .find(|((topic, partition), _)| topics.name(*topic) == chain.topic && *partition as u32 == chain.partition);
        let (_, account) = known.with_context(|| format!("{name} is no partition"))?;
        let Some(genesis) = genesis else {
            differences.expect(|| format!("{name} has a genesis"), false, true);
            continue;
        };
        let genesis: Genesis = serde_json::from_slice(&genesis.bytes).context("read a genesis")?;
        differences.expect(|| format!("{name}: its genesis"), genesis.from, 0);
        let (mut at, mut objects, mut records, mut positions) = (genesis.from, 0, 0, Vec::new());
        while let Some(object) = store.get(&paths::raw_object(&name, at as u64)).await? {
            let footer = RawFooter::from_bytes(&object.bytes)?;
            ensure!(footer.from == at && footer.to > at, "{name}: [{}, {}) stands at {at}", footer.from, footer.to);
            differences.expect(|| format!("{name}: the object at {at} adds up"), footer.adds_up(), true);
            for batch in ParquetRecordBatchReaderBuilder::try_new(object.bytes)?.build()? {
                positions.extend(positions_of(&batch?)?);
            }
            (at, objects, records) = (footer.to, objects + 1, records + footer.records);
        }
        let listed = store.list(&paths::raw_folder(&name)).await?.len();
        differences.expect(|| format!("{name}: objects, with the genesis"), listed, objects + 1);
        differences.expect(|| format!("{name}: records"), records, account.records);
        let events = account.accepted + account.rejected.values().sum::<u64>();
        differences.expect(|| format!("{name}: events"), positions.len() as u64, events);
        let distinct: BTreeSet<(i64, i64)> = positions.into_iter().collect();
        differences.expect(|| format!("{name}: distinct events"), distinct.len() as u64, events);
    }
    Ok(())
}

fn positions_of(batch: &RecordBatch) -> Result<Vec<(i64, i64)>> {
    let (offsets, indices) = (integers(batch, "offset")?, integers(batch, "index")?);
    Ok(offsets.into_iter().zip(indices).map(|(offset, index)| (offset.unwrap_or(-1), index.unwrap_or(-1))).collect())
}

fn integers(batch: &RecordBatch, name: &str) -> Result<Vec<Option<i64>>> {
    let column = batch.column_by_name(name).with_context(|| format!("no column {name}"))?;
    let column = arrow::compute::cast(column, &DataType::Int64)?;
    Ok(column.as_primitive::<Int64Type>().iter().collect())
}

fn texts(batch: &RecordBatch, name: &str) -> Vec<Option<String>> {
    match batch.column_by_name(name) {
        None => vec![None; batch.num_rows()],
        Some(column) => column.as_string::<i32>().iter().map(|text| text.map(str::to_owned)).collect(),
    }
}

/// What a row of history says.
#[derive(Debug, PartialEq)]
struct Row {
    position: (i64, i64, i64),
    event_time: i64,
    label: Option<String>,
    label_time: Option<i64>,
    label_position: Option<(i64, i64, i64)>,
    invalid_reason: Option<String>,
    failed: bool,
}

/// H1, H2, T4, A1: each object at the revision that the ledger knows, one row per prediction, the one that stands, with its current
/// label; and each window's account.
async fn windows(store: &Store, options: &Options, truth: &Truth, differences: &mut Differences) -> Result<()> {
    let state = Replica::open(store, "reader").await?.state;
    let mut said = BTreeMap::new();
    let mut seen = BTreeSet::new();
    for (model, of_model) in &state.models {
        for record in of_model.windows.values() {
            let key = (model.clone(), record.window.start);
            differences.expect(|| format!("{key:?} is judged and published"), record.is_dirty(), false);
            differences.expect(|| format!("{key:?}: completed"), record.completed, record.revision);
            for part in 0..record.parts {
                let path = history_path(model, record.window, part);
                let object = store.get(&path).await?.with_context(|| format!("{path} is gone"))?;
                let what = || format!("{key:?}, part {part}: the revision that stands in history/");
                differences.expect(what, revision_of(&object.bytes)?, record.history_revision);
                let Some(batch) = objects::read_all(&object.bytes)? else { continue };
                for (identity, row) in rows(&batch)? {
                    let key = (model.clone(), identity.0, identity.1, record.window.start);
                    let before = said.insert(key.clone(), row);
                    differences.expect(|| format!("rows before one of {key:?}"), before.is_some(), false);
                }
            }
            let counts = record.published();
            let Some(truth) = truth.windows.get(&key) else {
                differences.expect(|| format!("{key:?} is a window"), true, false);
                continue;
            };
            differences.expect(
                || format!("{key:?}: accepted, duplicates, failed, invalid, labelled, waiting, after final"),
                [
                    counts.accepted(),
                    counts.duplicates,
                    counts.failed,
                    counts.invalid,
                    counts.labelled,
                    counts.unlabelled,
                    counts.after_final,
                ],
                [truth.accepted, truth.duplicate, truth.failed, truth.invalid, truth.labelled, truth.waiting, 0],
            );
            seen.insert(key);
        }
    }
    differences.expect(|| "the windows".to_owned(), seen.len(), truth.windows.len());
    let is_regression = |model: &str| options.model(model).is_some_and(|model| model.task == Task::Regression);
    let mut expected = BTreeMap::new();
    for row in &truth.rows {
        let current = row.current.as_ref();
        let key = (row.event.model.clone(), row.event.version.clone(), row.event.id.clone(), row.window_start_us);
        let place = |position: crate::generator::Position| {
            (i64::from(position.partition), position.offset, i64::from(position.index))
        };
        let label = current.and_then(|(label, _)| label.label.class()).filter(|_| !is_regression(&row.event.model));
        let row = Row {
            position: place(row.position),
            event_time: row.event.time_us,
            label: label.map(str::to_owned),
            label_time: current.map(|(label, _)| label.time_us),
            label_position: current.map(|(_, position)| place(*position)),
            invalid_reason: match row.state {
                RowState::Invalid(reason) => Some(reason.to_owned()),
                _ => None,
            },
            failed: row.state == RowState::Failed,
        };
        expected.insert(key, row);
    }
    for key in said.keys().chain(expected.keys()).collect::<BTreeSet<_>>() {
        differences.expect(|| format!("history of {key:?}"), said.get(key), expected.get(key));
    }
    let accepted = |labels: bool| {
        let of_kind = truth.partitions.iter().filter(move |((topic, _), _)| is_labels(*topic) == labels);
        of_kind.map(|(_, account)| account.accepted).sum::<u64>()
    };
    let applied: u64 = state.chains.values().map(|chain| chain.accepted).sum();
    differences.expect(|| "events applied".to_owned(), applied, accepted(true) + accepted(false));
    Ok(())
}

/// The revision that an object of history/ says it is of.
fn revision_of(bytes: &bytes::Bytes) -> Result<u64> {
    let reader = ParquetRecordBatchReaderBuilder::try_new(bytes.clone())?;
    let entries = reader.metadata().file_metadata().key_value_metadata();
    let entry = entries.and_then(|entries| entries.iter().find(|entry| entry.key == FOOTER_KEY));
    let footer = entry.and_then(|entry| entry.value.as_deref()).context("an object of history/ without a footer")?;
    Ok(serde_json::from_str::<HistoryFooter>(footer).context("read a footer of history/")?.revision)
}

/// Version and id, and what their row says.
fn rows(batch: &RecordBatch) -> Result<Vec<((String, String), Row)>> {
    let text = |name: &str| texts(batch, name);
    let (versions, ids, labels) = (text("model_version"), text("prediction_id"), text("label"));
    let (invalid, errors) = (text("invalid_reason"), text("error"));
    let number = |name: &str| integers(batch, name);
    let (partitions, offsets, indices) = (number("partition")?, number("offset")?, number("index")?);
    let (times, label_times) = (number("event_time")?, number("label_time")?);
    let label_places = [number("label_partition")?, number("label_offset")?, number("label_index")?];
    let row = |at: usize| {
        let label_position = || Some((label_places[0][at]?, label_places[1][at]?, label_places[2][at]?));
        let row = Row {
            position: (partitions[at].unwrap_or(-1), offsets[at].unwrap_or(-1), indices[at].unwrap_or(-1)),
            event_time: times[at].unwrap_or(-1),
            label: labels[at].clone(),
            label_time: label_times[at],
            label_position: label_position(),
            invalid_reason: invalid[at].clone(),
            failed: errors[at].is_some(),
        };
        ((versions[at].clone().unwrap_or_default(), ids[at].clone().unwrap_or_default()), row)
    };
    Ok((0..batch.num_rows()).map(row).collect())
}

/// Every metric of every slice, as the latest revision gives it.
async fn metrics(store: &Store, truth: &Truth, differences: &mut Differences) -> Result<()> {
    let mut said: BTreeMap<(String, i64, Slice, String), tables::MetricRow> = BTreeMap::new();
    let models: BTreeSet<&String> = truth.windows.keys().map(|(model, _)| model).collect();
    for model in models {
        let folder = format!("metrics/model_name={}", driftline_store::encode_segment(model));
        for listed in store.list(&folder).await? {
            let object = store.get(&listed.path).await?.context("an object of metrics/ is gone")?;
            for batch in ParquetRecordBatchReaderBuilder::try_new(object.bytes)?.build()? {
                for row in tables::metric_rows_from_batch(model, &batch?)? {
                    if row.class.is_some() {
                        continue;
                    }
                    let segment = row.segment.clone().zip(row.segment_value.clone());
                    let slice = Slice { version: row.model_version.clone(), segment };
                    let key = (model.clone(), row.window_start.timestamp_micros(), slice, row.metric.clone());
                    let before = said.insert(key.clone(), row);
                    differences.expect(|| format!("metrics: rows before one of {key:?}"), before.is_some(), false);
                }
            }
        }
    }
    for ((model, start), window) in &truth.windows {
        for (slice, figures) in &window.figures {
            for (metric, value) in &figures.metrics {
                let key = (model.clone(), *start, slice.clone(), (*metric).to_owned());
                let row = said.get(&key);
                differences.expect(|| format!("{key:?} is there"), row.is_some(), true);
                let Some(row) = row else { continue };
                differences.expect_close(|| format!("{key:?}"), row.value, *value);
                differences.expect(
                    || format!("{key:?}: n, n_labelled"),
                    (row.n, row.n_labelled),
                    (figures.n as i64, figures.n_labelled as i64),
                );
            }
        }
    }
    Ok(())
}
