//! Compares everything that a store says with what the generator knows.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::{Context, Result, ensure};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use serde::Deserialize;

use crate::generator::{Figures, Generated, LabelTerms, Options, Row, RowState, Slice, Task, Topic, WindowTruth};
use crate::kafka::Topics;
use crate::sandbox::Sandbox;

/// Both sides sum in their own order; nothing else may differ.
pub const TOLERANCE: f64 = 1e-9;
/// So many differences are shown; more are only counted.
const SHOWN: usize = 12;

/// Collects differences, so that a failure shows the pattern and not only the first of many.
#[derive(Default)]
pub struct Differences {
    found: Vec<String>,
    /// So many values were compared.
    pub compared: usize,
}

impl Differences {
    /// Compares what is said with the truth.
    pub fn expect<T: PartialEq + std::fmt::Debug>(&mut self, what: impl FnOnce() -> String, said: T, truth: T) {
        self.compared += 1;
        if said != truth {
            self.found.push(format!("{}: driftline says {said:?}, the truth is {truth:?}", what()));
        }
    }

    /// Floats within the tolerance, relative for those beyond 1; undefined only where the truth is.
    pub fn expect_close(&mut self, what: impl FnOnce() -> String, said: Option<f64>, truth: Option<f64>) {
        self.compared += 1;
        let equal = match (said, truth) {
            (Some(said), Some(truth)) => (said - truth).abs() <= TOLERANCE * truth.abs().max(1.0),
            (None, None) => true,
            _ => false,
        };
        if !equal {
            self.found.push(format!("{}: driftline says {said:?}, the truth is {truth:?}", what()));
        }
    }

    /// How many values were compared; an error if any differed.
    pub fn settle(self) -> Result<usize> {
        let shown = &self.found[..self.found.len().min(SHOWN)];
        ensure!(
            self.found.is_empty(),
            "{} of {} comparisons differ:\n{}",
            self.found.len(),
            self.compared,
            shown.join("\n")
        );
        Ok(self.compared)
    }
}

/// Everything at once.
pub async fn check(sandbox: &Sandbox, topics: &Topics, options: &Options, run: &Generated) -> Result<()> {
    let compared = compare(sandbox, topics, options, run).await?;
    eprintln!("{compared} values equal the truth");
    Ok(())
}

/// As [`check`]; tells how many values were compared, and says nothing.
pub async fn compare(sandbox: &Sandbox, topics: &Topics, options: &Options, run: &Generated) -> Result<usize> {
    let mut differences = Differences::default();
    raw(sandbox, topics, run, &mut differences).context("raw/")?;
    dead_letters(sandbox, topics, run, &mut differences).await?;
    history(sandbox, options, run, &mut differences).await?;
    windows(sandbox, run, &mut differences).await?;
    metrics(sandbox, run, &mut differences).await?;
    confusion(sandbox, run, &mut differences).await?;
    accounts(sandbox, topics, run, &mut differences).await?;
    differences.settle()
}

#[derive(Deserialize)]
struct Footer {
    topic: String,
    partition: i32,
    from: i64,
    to: i64,
    records: u64,
}

/// A source partition.
type Partition = (String, i32);
/// Objects of a partition's chain by where they begin.
type Objects = BTreeMap<Partition, BTreeMap<i64, Footer>>;
/// Offset and index of every row of a partition, in any order.
type Positions = BTreeMap<Partition, Vec<(i64, i64)>>;

/// Everything in `raw/`, read without Driftline.
fn read_all_raw(store: &Path) -> Result<(Objects, Positions)> {
    let (mut objects, mut events) = (Objects::new(), Positions::new());
    for folder in std::fs::read_dir(store.join("raw")).context("list raw/")? {
        for file in std::fs::read_dir(folder?.path()).context("list a chain")? {
            let path = file?.path();
            if path.extension().is_none_or(|extension| extension != "parquet") {
                continue;
            }
            let (footer, positions) = read_raw(&path).with_context(|| format!("read {}", path.display()))?;
            let key = (footer.topic.clone(), footer.partition);
            events.entry(key.clone()).or_default().extend(positions);
            objects.entry(key).or_default().insert(footer.from, footer);
        }
    }
    Ok((objects, events))
}

/// What became of records that were acknowledged, by what lies in `raw/`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Kept {
    /// Acknowledged records that are not there.
    pub lost: u64,
    /// Events whose position is there more than once.
    pub counted_twice: u64,
    /// Events whose position is there once.
    pub once: u64,
}

/// Looks for each acknowledged (topic, partition, offset).
pub fn kept(store: &Path, acknowledged: impl IntoIterator<Item = (String, i32, i64)>) -> Result<Kept> {
    let (_, events) = read_all_raw(store)?;
    let mut kept = Kept::default();
    let mut offsets: BTreeMap<Partition, BTreeSet<i64>> = BTreeMap::new();
    for (partition, positions) in events {
        let distinct: BTreeSet<(i64, i64)> = positions.iter().copied().collect();
        kept.counted_twice += (positions.len() - distinct.len()) as u64;
        kept.once += distinct.len() as u64;
        offsets.entry(partition).or_default().extend(distinct.iter().map(|(offset, _)| offset));
    }
    let nothing = BTreeSet::new();
    for (topic, partition, offset) in acknowledged {
        kept.lost += u64::from(!offsets.get(&(topic, partition)).unwrap_or(&nothing).contains(&offset));
    }
    Ok(kept)
}

/// C1 and "nothing lost, nothing twice": chains are contiguous, and hold every acknowledged offset once. Read without Driftline.
fn raw(sandbox: &Sandbox, topics: &Topics, run: &Generated, differences: &mut Differences) -> Result<()> {
    let (mut objects, mut events) = read_all_raw(&sandbox.store())?;
    for (&(topic, partition), account) in &run.truth.partitions {
        let key = (topics.name(topic).to_owned(), partition);
        let chain = objects.remove(&key).unwrap_or_default();
        let mut at = 0;
        for (from, footer) in &chain {
            differences.expect(|| format!("{key:?}: from of the object at {from}"), footer.from, at);
            at = footer.to;
        }
        differences.expect(|| format!("{key:?}: the chain's end"), at, account.records as i64);
        let records = chain.values().map(|footer| footer.records).sum::<u64>();
        differences.expect(|| format!("{key:?}: records in footers"), records, account.records);
        let positions = events.remove(&key).unwrap_or_default();
        let distinct: BTreeSet<(i64, i64)> = positions.iter().copied().collect();
        let expected = account.accepted + account.rejected.values().sum::<u64>();
        differences.expect(|| format!("{key:?}: rows in raw/"), positions.len() as u64, expected);
        differences.expect(|| format!("{key:?}: distinct positions in raw/"), distinct.len() as u64, expected);
        let offsets: BTreeSet<i64> = distinct.iter().map(|(offset, _)| *offset).collect();
        differences.expect(|| format!("{key:?}: offsets in raw/"), offsets.len() as u64, account.records);
    }
    differences.expect(|| "chains that no topic has".to_owned(), objects.keys().count(), 0);
    Ok(())
}

fn read_raw(path: &Path) -> Result<(Footer, Vec<(i64, i64)>)> {
    use arrow::array::AsArray;
    use arrow::datatypes::Int64Type;
    let builder = ParquetRecordBatchReaderBuilder::try_new(std::fs::File::open(path)?)?;
    let entries = builder.metadata().file_metadata().key_value_metadata().context("no metadata")?;
    let footer = entries.iter().find(|entry| entry.key == "driftline").and_then(|entry| entry.value.as_deref());
    let footer = serde_json::from_str(footer.context("no footer")?)?;
    let mut positions = Vec::new();
    for batch in builder.build()? {
        let batch = batch?;
        let column = |name: &str| -> Result<arrow::array::ArrayRef> {
            let column = batch.column_by_name(name).with_context(|| format!("no column {name}"))?;
            Ok(arrow::compute::cast(column, &arrow::datatypes::DataType::Int64)?)
        };
        let (offsets, indices) = (column("offset")?, column("index")?);
        let (offsets, indices) = (offsets.as_primitive::<Int64Type>(), indices.as_primitive::<Int64Type>());
        positions.extend((0..batch.num_rows()).map(|row| (offsets.value(row), indices.value(row))));
    }
    Ok((footer, positions))
}

async fn dead_letters(
    sandbox: &Sandbox,
    topics: &Topics,
    run: &Generated,
    differences: &mut Differences,
) -> Result<()> {
    #[derive(Deserialize)]
    struct Count {
        topic: String,
        partition: i32,
        reason: String,
        count: u64,
        payloads: u64,
    }
    let query = "SELECT topic, CAST(\"partition\" AS BIGINT) AS \"partition\", reason, count(*) AS count, \
                 count(payload) AS payloads FROM dead_letters GROUP BY 1, 2, 3";
    let mut said: BTreeMap<(String, i32, String), u64> = BTreeMap::new();
    for row in sandbox.sql::<Count>(query).await? {
        if row.reason != "empty" {
            differences.expect(|| format!("dead letters of {}: with payload", row.reason), row.payloads, row.count);
        }
        said.insert((row.topic, row.partition, row.reason), row.count);
    }
    let mut truth = BTreeMap::new();
    for (&(topic, partition), account) in &run.truth.partitions {
        for (reason, count) in &account.rejected {
            truth.insert((topics.name(topic).to_owned(), partition, (*reason).to_owned()), *count);
        }
    }
    compare_maps("dead letters", &said, &truth, differences);
    Ok(())
}

fn compare_maps<K: Ord + std::fmt::Debug, V: PartialEq + std::fmt::Debug>(
    what: &str,
    said: &BTreeMap<K, V>,
    truth: &BTreeMap<K, V>,
    differences: &mut Differences,
) {
    let keys: BTreeSet<&K> = said.keys().chain(truth.keys()).collect();
    for key in keys {
        differences.expect(|| format!("{what} {key:?}"), said.get(key), truth.get(key));
    }
}

/// One row of `history`, as SQL and as the truth give it.
#[derive(Debug, PartialEq, Deserialize)]
struct HistoryRow {
    position: (i64, i64, i64),
    event_time: i64,
    label: Option<String>,
    label_value: Option<f64>,
    label_time: Option<i64>,
    invalid_reason: Option<String>,
    failed: bool,
}

/// H1: exactly one row per prediction, the one that stands, with the label that is current.
async fn history(sandbox: &Sandbox, options: &Options, run: &Generated, differences: &mut Differences) -> Result<()> {
    #[derive(Deserialize)]
    struct Found {
        model_name: String,
        model_version: String,
        prediction_id: String,
        window_start: i64,
        event_time: i64,
        partition: i64,
        offset: i64,
        index: i64,
        label: Option<String>,
        label_value: Option<f64>,
        label_time: Option<i64>,
        invalid_reason: Option<String>,
        failed: bool,
    }
    let query = "SELECT model_name, model_version, prediction_id, CAST(window_start AS BIGINT) AS window_start, \
                 CAST(event_time AS BIGINT) AS event_time, CAST(\"partition\" AS BIGINT) AS \"partition\", \
                 CAST(\"offset\" AS BIGINT) AS \"offset\", CAST(\"index\" AS BIGINT) AS \"index\", label, label_value, \
                 CAST(label_time AS BIGINT) AS label_time, invalid_reason, error IS NOT NULL AS failed FROM history";
    let mut said = BTreeMap::new();
    for row in sandbox.sql::<Found>(query).await? {
        let key = (row.model_name, row.model_version, row.prediction_id, row.window_start);
        let is_regression = options.model(&key.0).is_some_and(|model| model.task == Task::Regression);
        let value = HistoryRow {
            position: (row.partition, row.offset, row.index),
            event_time: row.event_time,
            // The text of a regression's number is not compared; its value is.
            label: row.label.filter(|_| !is_regression),
            label_value: row.label_value.filter(|_| is_regression),
            label_time: row.label_time,
            invalid_reason: row.invalid_reason,
            failed: row.failed,
        };
        let before = said.insert(key.clone(), value);
        differences.expect(|| format!("history: rows before one of {key:?}"), before.is_some(), false);
    }
    let truth: BTreeMap<_, _> = run.truth.rows.iter().map(|row| (key_of(row), history_row(row))).collect();
    compare_maps("history", &said, &truth, differences);
    Ok(())
}

fn key_of(row: &Row) -> (String, String, String, i64) {
    (row.event.model.clone(), row.event.version.clone(), row.event.id.clone(), row.window_start_us)
}

fn history_row(row: &Row) -> HistoryRow {
    let current = row.current.as_ref().map(|(label, _)| label);
    HistoryRow {
        position: (i64::from(row.position.partition), row.position.offset, i64::from(row.position.index)),
        event_time: row.event.time_us,
        label: current.and_then(|label| label.label.class()).map(str::to_owned),
        label_value: current.and_then(|label| label.label.number()),
        label_time: current.map(|label| label.time_us),
        invalid_reason: match row.state {
            RowState::Invalid(reason) => Some(reason.to_owned()),
            _ => None,
        },
        failed: row.state == RowState::Failed,
    }
}

async fn windows(sandbox: &Sandbox, run: &Generated, differences: &mut Differences) -> Result<()> {
    #[derive(Deserialize)]
    struct Found {
        model_name: String,
        start: i64,
        end: i64,
        predictions: u64,
        labelled: u64,
        waiting: u64,
        expired: u64,
        failed: u64,
        invalid: u64,
        duplicates: u64,
        after_final: u64,
        label_coverage: Option<f64>,
    }
    let query = "SELECT *, CAST(window_start AS BIGINT) AS start, CAST(window_end AS BIGINT) AS \"end\" FROM windows";
    let mut found: BTreeMap<(String, i64), Found> = BTreeMap::new();
    for row in sandbox.sql::<Found>(query).await? {
        found.insert((row.model_name.clone(), row.start), row);
    }
    let keys = |map: Vec<&(String, i64)>| map.into_iter().cloned().collect::<BTreeSet<_>>();
    differences.expect(
        || "the windows".to_owned(),
        keys(found.keys().collect()),
        keys(run.truth.windows.keys().collect()),
    );
    for (key, truth) in &run.truth.windows {
        let Some(said) = found.get(key) else { continue };
        let terms = |w: &WindowTruth| [w.accepted, w.duplicate, w.failed, w.invalid, w.labelled, w.waiting, 0, 0];
        let said_terms = [
            said.predictions,
            said.duplicates,
            said.failed,
            said.invalid,
            said.labelled,
            said.waiting,
            said.expired,
            said.after_final,
        ];
        differences.expect(
            || format!("window {key:?}: accepted, duplicate, failed, invalid, labelled, waiting, expired, after_final"),
            said_terms,
            terms(truth),
        );
        differences.expect(|| format!("window {key:?}: end"), said.end, truth.end_us);
        let countable = truth.labelled + truth.waiting;
        let coverage = (countable > 0).then(|| truth.labelled as f64 / countable as f64);
        differences.expect_close(|| format!("window {key:?}: coverage"), said.label_coverage, coverage);
    }
    Ok(())
}

/// The columns by which metrics and confusion matrices are sliced.
const SLICE: &str = "model_name, CAST(window_start AS BIGINT) AS start, model_version, segment, segment_value";

#[derive(Deserialize)]
struct SliceColumns {
    model_name: String,
    start: i64,
    model_version: Option<String>,
    segment: Option<String>,
    segment_value: Option<String>,
}

type SliceKey = (String, i64, Slice);

impl SliceColumns {
    fn key(self) -> SliceKey {
        let segment = self.segment.map(|name| (name, self.segment_value.unwrap_or_default()));
        (self.model_name, self.start, Slice { version: self.model_version, segment })
    }
}

fn slices(run: &Generated) -> BTreeMap<SliceKey, &Figures> {
    let windows = run.truth.windows.iter();
    windows
        .flat_map(|((model, start), window)| {
            window.figures.iter().map(|(slice, figures)| ((model.clone(), *start, slice.clone()), figures))
        })
        .collect()
}

async fn metrics(sandbox: &Sandbox, run: &Generated, differences: &mut Differences) -> Result<()> {
    #[derive(Deserialize)]
    struct Found {
        #[serde(flatten)]
        slice: SliceColumns,
        metric: String,
        value: Option<f64>,
        reason: Option<String>,
        n: u64,
        n_labelled: u64,
    }
    let query = format!("SELECT {SLICE}, metric, value, reason, n, n_labelled FROM metrics WHERE class IS NULL");
    let mut found: BTreeMap<SliceKey, BTreeMap<String, Found>> = BTreeMap::new();
    for mut row in sandbox.sql::<Found>(&query).await? {
        let columns = std::mem::replace(
            &mut row.slice,
            SliceColumns {
                model_name: String::new(),
                start: 0,
                model_version: None,
                segment: None,
                segment_value: None,
            },
        );
        found.entry(columns.key()).or_default().insert(row.metric.clone(), row);
    }
    let truth = slices(run);
    for key in found.keys() {
        differences.expect(|| format!("metrics of a slice that has no rows, {key:?}"), truth.contains_key(key), true);
    }
    for (key, figures) in truth {
        let said = found.get(&key);
        for (metric, value) in &figures.metrics {
            let row = said.and_then(|rows| rows.get(*metric));
            let what = || format!("{metric} of {key:?}");
            differences.expect(|| format!("{} is there", what()), row.is_some(), true);
            let Some(row) = row else { continue };
            differences.expect_close(what, row.value, *value);
            differences.expect(
                || format!("n, n_labelled of {}", what()),
                (row.n, row.n_labelled),
                (figures.n, figures.n_labelled),
            );
            // E3: undefined is null with a reason.
            differences.expect(|| format!("reason of {}", what()), row.reason.is_some(), value.is_none());
        }
    }
    Ok(())
}

async fn confusion(sandbox: &Sandbox, run: &Generated, differences: &mut Differences) -> Result<()> {
    #[derive(Deserialize)]
    struct Found {
        #[serde(flatten)]
        slice: SliceColumns,
        actual: String,
        predicted: String,
        count: u64,
    }
    let query = format!("SELECT {SLICE}, actual, predicted, count FROM confusion");
    let rows = sandbox.sql::<Found>(&query).await?;
    let said = rows.into_iter().map(|row| ((row.slice.key(), row.actual, row.predicted), row.count)).collect();
    let mut truth = BTreeMap::new();
    for (key, figures) in slices(run) {
        for ((actual, predicted), count) in &figures.confusion {
            truth.insert((key.clone(), actual.clone(), predicted.clone()), *count);
        }
    }
    compare_maps("confusion", &said, &truth, differences);
    Ok(())
}

/// One line of `driftline audit --format json`.
#[derive(Debug, Deserialize)]
pub struct Account {
    /// `partition`, `model` or `window`.
    pub scope: String,
    /// The model; a partition has none.
    pub model_name: String,
    /// Which of its scope.
    pub key: String,
    /// Term of the account.
    pub term: String,
    /// Events.
    pub count: u64,
}

/// A1: `driftline audit` finds that the accounts add up (exit 0), and what it prints is the truth.
async fn accounts(sandbox: &Sandbox, topics: &Topics, run: &Generated, differences: &mut Differences) -> Result<()> {
    let answer = sandbox.succeed(&["audit", "--format", "json"]).await?;
    let rows: Vec<Account> = serde_json::from_str(&answer).context("read the audit")?;
    let mut said: BTreeMap<(&str, &str), BTreeMap<&str, u64>> = BTreeMap::new();
    for row in &rows {
        let name = if row.scope == "partition" { &row.key } else { &row.model_name };
        *said.entry((&row.scope, name)).or_default().entry(&row.term).or_default() += row.count;
    }
    let none = BTreeMap::new();
    for (&(topic, partition), truth) in &run.truth.partitions {
        let key = format!("{}[{partition}]", topics.name(topic));
        let terms = said.get(&("partition", &key)).unwrap_or(&none);
        let term = |name: &str| terms.get(name).copied().unwrap_or_default();
        let counts = ["records", "gaps", "accepted", "accepted_unapplied"].map(term);
        differences.expect(
            || format!("account of {key}: records, gaps, accepted, unapplied"),
            counts,
            [truth.records, 0, truth.accepted, 0],
        );
        let rejected: BTreeMap<&str, u64> = terms
            .iter()
            .filter_map(|(term, count)| Some((term.strip_prefix("rejected:")?, *count)))
            .filter(|(_, count)| *count > 0)
            .collect();
        compare_maps(&format!("account of {key}: rejected"), &rejected, &truth.rejected, differences);
    }
    for (model, truth) in &run.truth.labels {
        let terms = said.get(&("model", model)).unwrap_or(&none);
        labels(model, terms, truth, differences);
    }
    Ok(())
}

fn labels(model: &str, terms: &BTreeMap<&str, u64>, truth: &LabelTerms, differences: &mut Differences) {
    let term = |name: &str| terms.get(name).copied().unwrap_or_default();
    differences.expect(
        || format!("labels of {model}: duplicate, withdrawn, joined, superseded"),
        ["duplicate", "withdrawn", "joined", "superseded"].map(term),
        [truth.duplicate, truth.withdrawn, truth.joined, truth.superseded],
    );
    // A label that is too early for what it reaches is too late in no sense, and may still be matched: it may be called pending.
    let (late, rest) = (term("too_late"), term("unmatched") + term("pending"));
    differences.expect(
        || format!("labels of {model}: too late, unmatched and pending"),
        late + rest,
        truth.too_late + truth.too_early + truth.orphaned,
    );
    let range = truth.too_late..=truth.too_late + truth.too_early;
    differences.expect(|| format!("labels of {model}: {late} too late lies in {range:?}"), range.contains(&late), true);
}

/// What a run consists of, for messages.
pub fn summary(run: &Generated) -> String {
    let of = |topic| run.records.iter().filter(|record| record.topic == topic).count();
    format!("{} records of predictions, {} of labels", of(Topic::Predictions), of(Topic::Labels))
}
