//! Reads a chain back as an aggregator would, and checks what must hold of every chain (**C1**, **A1**).
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::Int64Type;
use driftline_collector::memory::{MemoryLog, MemorySource, Script};
use driftline_collector::source::PartitionRef;
use driftline_collector::{CollectorSettings, CollectorStatus, Error, Until, chain, run_on};
use driftline_schemas::raw::RawFooter;
use driftline_store::{Manifest, Store, paths};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use tokio_util::sync::CancellationToken;

pub(crate) const PREDICTIONS: &str = "driftline.predictions";
pub(crate) const LABELS: &str = "driftline.labels";

/// One row of a chain: (offset, index) and what became of the event: its id, or the reason of its rejection.
pub(crate) type Row = ((i64, i64), String);

pub(crate) struct ReadChain {
    pub(crate) footers: Vec<RawFooter>,
    pub(crate) batches: Vec<RecordBatch>,
    /// In the order of the source.
    pub(crate) rows: Vec<Row>,
    pub(crate) from: i64,
    pub(crate) to: i64,
}

/// Reads a partition's chain. Panics if it has a hole, repeats itself, or does not add up.
pub(crate) async fn read_chain(store: &Store, topic: &str, partition: u32) -> ReadChain {
    let manifest = Manifest::load(store).await.unwrap().expect("the collector makes a manifest");
    let chains = manifest.chains();
    let name =
        chains.iter().find(|one| one.topic == topic && one.partition == partition && one.current).unwrap().name();
    let genesis = chain::read_genesis(store, &name).await.unwrap().expect("every chain has a genesis");
    let mut read = ReadChain { footers: vec![], batches: vec![], rows: vec![], from: genesis.from, to: genesis.from };
    while let Some(object) = store.get(&paths::raw_object(&name, read.to as u64)).await.unwrap() {
        let footer = RawFooter::from_bytes(&object.bytes).unwrap();
        assert_eq!(
            (footer.from, footer.chain.as_str()),
            (read.to, name.as_str()),
            "C1: each object begins where the last ends"
        );
        assert!(footer.to > footer.from, "C1: an object goes forward");
        assert!(footer.adds_up(), "A1: {footer:?}");
        let reader = ParquetRecordBatchReaderBuilder::try_new(object.bytes).unwrap().build().unwrap();
        for batch in reader.map(Result::unwrap) {
            read.rows.extend(rows(&batch));
            read.batches.push(batch);
        }
        read.to = footer.to;
        read.footers.push(footer);
    }
    let names = store.list(&paths::raw_folder(&name)).await.unwrap();
    assert_eq!(names.len(), read.footers.len() + 1, "C1: the chain and its genesis are all there is: {names:?}");
    let accepted: u64 = read.footers.iter().map(|footer| footer.accepted + footer.rejected_total()).sum();
    assert_eq!(accepted, read.rows.len() as u64, "A1: events are rows, accepted or rejected");
    read.rows.sort();
    read
}

fn rows(batch: &RecordBatch) -> Vec<Row> {
    let column = |name: &str| Arc::clone(batch.column_by_name(name).unwrap());
    let (offsets, indexes) = (column("offset"), column("index"));
    let (offsets, indexes) = (offsets.as_primitive::<Int64Type>(), indexes.as_primitive::<Int64Type>());
    let (ids, reasons) = (column("prediction_id"), column("reason"));
    let (ids, reasons) = (ids.as_string::<i32>(), reasons.as_string::<i32>());
    (0..batch.num_rows())
        .map(|row| {
            let what = if reasons.is_null(row) { ids.value(row) } else { reasons.value(row) };
            ((offsets.value(row), indexes.value(row)), what.to_owned())
        })
        .collect()
}

pub(crate) fn prediction(id: &str, minute: i64) -> Vec<u8> {
    let millis = 1_767_225_600_000 + minute * 60_000;
    format!(
        r#"{{"prediction_id":"{id}","model_name":"m{}","timestamp":{millis},"score":0.5,"features":{{"amount":{minute},"country":"NL"}}}}"#,
        minute % 3
    )
    .into_bytes()
}

pub(crate) fn label(id: &str, minute: i64) -> Vec<u8> {
    let millis = 1_767_225_600_000 + minute * 60_000;
    format!(r#"{{"prediction_id":"{id}","model_name":"m","timestamp":{millis},"label":"ok"}}"#).into_bytes()
}

/// Settings that make a test quick: small flushes, facts at once.
pub(crate) fn settings() -> CollectorSettings {
    CollectorSettings {
        flush_interval: Duration::from_millis(30),
        flush_bytes: 20_000,
        facts_interval: Duration::from_millis(200),
        ..CollectorSettings::default()
    }
}

/// Every partition of both topics.
pub(crate) fn all(partitions: u32) -> Vec<PartitionRef> {
    (0..2).flat_map(|topic| (0..partitions).map(move |partition| PartitionRef { topic, partition })).collect()
}

/// A log with both topics, and what its chains must hold in the end.
pub(crate) struct World {
    pub(crate) log: MemoryLog,
    pub(crate) expected: BTreeMap<(&'static str, u32), Vec<Row>>,
}

/// `records` in each partition: mostly good ones, some of every sort that goes wrong.
pub(crate) fn world(partitions: u32, records: i64) -> World {
    let log = MemoryLog::default();
    log.create_topic(PREDICTIONS, Some("P"), partitions);
    log.create_topic(LABELS, Some("L"), partitions);
    let mut world = World { log, expected: BTreeMap::new() };
    world.grow(partitions, 0..records);
    world
}

fn publish(log: &MemoryLog, topic: &'static str, partition: u32, n: i64, good: &[u8], id: &str, rows: &mut Vec<Row>) {
    if n % 11 == 5 {
        log.publish_control(topic, partition);
    }
    match n % 13 {
        3 => {
            let offset = log.publish(topic, partition, None);
            rows.push(((offset, 0), "empty".into()));
        }
        7 => {
            let offset = log.publish(topic, partition, Some(b"{broken"));
            rows.push(((offset, 0), "not_json".into()));
        }
        9 => {
            let pair = [b"[", good, b",1]"].concat();
            let offset = log.publish(topic, partition, Some(&pair));
            rows.push(((offset, 0), id.to_owned()));
            rows.push(((offset, 1), "not_an_object".into()));
        }
        _ => {
            let offset = log.publish(topic, partition, Some(good));
            rows.push(((offset, 0), id.to_owned()));
        }
    }
}

impl World {
    /// More records of the same sorts in each partition.
    pub(crate) fn grow(&mut self, partitions: u32, records: Range<i64>) {
        for partition in 0..partitions {
            for n in records.clone() {
                let id = format!("{partition}-{n}");
                let rows = self.expected.entry((PREDICTIONS, partition)).or_default();
                publish(&self.log, PREDICTIONS, partition, n, &prediction(&id, (n * 7) % 50), &id, rows);
                let rows = self.expected.entry((LABELS, partition)).or_default();
                publish(&self.log, LABELS, partition, n, &label(&id, n % 50), &id, rows);
            }
        }
    }

    /// Every chain holds exactly its partition's events, each once.
    pub(crate) async fn assert_collected(&self, store: &Store) {
        for ((topic, partition), expected) in &self.expected {
            let read = read_chain(store, topic, *partition).await;
            assert_eq!(&read.rows, expected, "{topic}[{partition}]");
        }
    }
}

/// Runs a member of the in-memory group.
pub(crate) async fn collect(
    log: &MemoryLog,
    store: &Store,
    script: Script,
    settings: CollectorSettings,
    until: Until,
    stop: CancellationToken,
    status: Arc<CollectorStatus>,
) -> Result<(), Error> {
    let (log, topics) = (log.clone(), settings.topics());
    let connect =
        move |starts: Arc<driftline_collector::ChainStarts>| Ok(Some(MemorySource::new(log, topics, script, starts)));
    run_on(connect, settings, store.clone(), None, status, until, stop).await
}

/// The same, until caught up, owning everything.
pub(crate) async fn catch_up(log: &MemoryLog, store: &Store, partitions: u32) -> Result<(), Error> {
    let script = Script::assigning(all(partitions));
    let (stop, status) = (CancellationToken::new(), Arc::default());
    collect(log, store, script, settings(), Until::CaughtUp, stop, status).await
}

/// Waits for something that must come true.
pub(crate) async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !holds().await {
        assert!(Instant::now() < deadline, "it never came true that {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
