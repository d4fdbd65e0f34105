//! What a record may be: compressed by any codec, without a value, with headers, large, in a transaction, of either kind of time.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use arrow::array::AsArray;
use arrow::compute::cast;
use arrow::datatypes::{DataType, Int64Type, TimestampMicrosecondType};
use chrono::{DateTime, Utc};
use driftline_integration_tests::generator::{Options, generate};
use driftline_integration_tests::kafka::{Broker, Topics};
use driftline_integration_tests::secure::SecureBroker;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{FutureProducer, FutureRecord, Producer};

use super::{Joined, MODEL, PIPELINE, account, configure, id, label, labels, prediction, predictions, producer};
use super::{publish, publish_with, readyz, send, terms};
use crate::awake::Awake;
use crate::crash::series;
use crate::judge;
use crate::sandbox::{Process, Sandbox};

/// Kafka's numbers of the codecs are their places.
const CODECS: [&str; 5] = ["none", "gzip", "snappy", "lz4", "zstd"];
/// As long as a broker may be fenced, because its machine stood still.
const PATIENCE: Duration = Duration::from_secs(120);
/// The largest record that is read.
const MEGABYTE: usize = 1 << 20;

/// A fifth of the records by each codec, in one partition after the other's; all figures are the truth.
#[tokio::test(flavor = "multi_thread")]
async fn batches_of_every_codec_are_read() -> Result<()> {
    let Some(broker) = SecureBroker::real("batches_of_every_codec_are_read")? else { return Ok(()) };
    let options = Options {
        predictions: 600,
        prediction_partitions: 2,
        label_partitions: 2,
        malformed_of_each: 1,
        ..Options::default()
    };
    let run = generate(&options);
    let topics = Topics::unique();
    broker.plain.create_topics(&topics, &run).await?;
    for (codec, records) in CODECS.iter().zip(run.records.chunks(run.records.len().div_ceil(CODECS.len()))) {
        let producer = producer(&broker.plain, &[("compression.codec", codec), ("linger.ms", "50")])?;
        let mut sent = Vec::new();
        for record in records {
            let mut message: FutureRecord<'_, [u8], [u8]> =
                FutureRecord::to(topics.name(record.topic)).partition(record.partition);
            message.key = record.key.as_deref();
            message.payload = record.payload.as_deref();
            sent.push(producer.send(message, PATIENCE));
        }
        for (record, sent) in records.iter().zip(futures::future::join_all(sent).await) {
            let sent = sent.map_err(|(error, _)| error)?;
            ensure!((sent.partition, sent.offset) == (record.partition, record.offset), "{sent:?}, not {record:?}");
        }
    }
    let used = codecs(&broker, &topics.predictions)?;
    ensure!(used == (0..CODECS.len() as u8).collect(), "the broker holds batches of the codecs {used:?}");
    let sandbox = Sandbox::new(broker.plain.brokers(), &topics, &options.models_toml())?;
    sandbox.catch_up().await?;
    judge::check(&sandbox, &topics, &options, &run).await
}

/// The codecs of a topic's batches, out of the broker's own files: the low three bits of each batch's attributes.
fn codecs(broker: &SecureBroker, topic: &str) -> Result<BTreeSet<u8>> {
    let mut found = BTreeSet::new();
    for partition in 0..2 {
        for file in std::fs::read_dir(broker.log(topic, partition)).context("list a partition's files")? {
            let path = file?.path();
            if path.extension().is_none_or(|extension| extension != "log") {
                continue;
            }
            let bytes = std::fs::read(&path)?;
            // offset 8, length 4, leader epoch 4, magic 1, CRC 4, attributes 2
            let mut at = 0;
            while let Some(head) = bytes.get(at..at + 23) {
                found.insert(head[22] & 0b111);
                at += 12 + u32::from_be_bytes(head[8..12].try_into()?) as usize;
            }
        }
    }
    Ok(found)
}

/// Tombstones, headers, and sizes on both sides of a megabyte.
#[tokio::test(flavor = "multi_thread")]
async fn tombstones_headers_and_large_records() -> Result<()> {
    let Some(broker) = Broker::real("tombstones_headers_and_large_records")? else { return Ok(()) };
    let topics = Topics::unique();
    for topic in [&topics.predictions, &topics.labels] {
        broker.create_topic(topic, 2).await?;
    }
    let producer = producer(&broker, &[])?;
    let headers = OwnedHeaders::new()
        .insert(Header { key: "traceparent", value: Some("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01") })
        .insert(Header { key: "driftline.topic", value: Some("not yours") })
        .insert(Header::<&str> { key: "empty", value: None });
    for (key, payload) in predictions("some", 10) {
        let record = FutureRecord::to(&topics.predictions).key(&key).payload(&payload).headers(headers.clone());
        producer.send(record, PATIENCE).await.map_err(|(error, _)| error)?;
    }
    send(&producer, &topics.labels, &labels("some", 10)).await?;
    for (topic, count) in [(&topics.predictions, 3), (&topics.labels, 2)] {
        for n in 0..count {
            let key = id("some", n);
            let tombstone: FutureRecord<'_, str, str> = FutureRecord::to(topic).key(&key);
            producer.send(tombstone, PATIENCE).await.map_err(|(error, _)| error)?;
        }
    }
    // Blanks after an object are JSON too: what is large is large by nothing else.
    let padded = |name: &str, bytes: usize| {
        let event = prediction(name, 0);
        let blanks = " ".repeat(bytes - event.len());
        vec![(id(name, 0), event + &blanks)]
    };
    send(&producer, &topics.predictions, &padded("just-fits", MEGABYTE)).await?;
    send(&producer, &topics.predictions, &padded("too-large", MEGABYTE + 1)).await?;
    for name in ["just-fits", "too-large"] {
        send(&producer, &topics.labels, &labels(name, 1)).await?;
    }
    let sandbox = Sandbox::new(broker.brokers(), &topics, MODEL)?;
    sandbox.catch_up().await?;
    Joined::default().and(10).and(1).check(&sandbox).await?;
    let found = account(&sandbox, &topics.predictions).await?;
    let expected = [("records", 15), ("accepted", 11), ("rejected:empty", 3), ("rejected:too_large", 1)];
    ensure!(found == terms(&expected), "{found:?}");
    let found = account(&sandbox, &topics.labels).await?;
    ensure!(found == terms(&[("records", 14), ("accepted", 12), ("rejected:empty", 2)]), "{found:?}");
    Ok(())
}

fn begin(broker: &Broker, name: &str) -> Result<FutureProducer> {
    // A client that talks to a broker for the first time may have to wait until it has made its own topic.
    let producer = producer(broker, &[("transactional.id", name), ("transaction.timeout.ms", "300000")])?;
    producer.init_transactions(PATIENCE).context("begin to use transactions")?;
    Ok(producer)
}

/// A transaction of predictions and labels that is committed, or is not.
async fn transaction(producer: &FutureProducer, topics: &Topics, name: &str, count: usize, commit: bool) -> Result<()> {
    producer.begin_transaction()?;
    publish_with(producer, topics, name, count).await?;
    if commit {
        producer.commit_transaction(PATIENCE)?;
    } else {
        producer.abort_transaction(PATIENCE)?;
    }
    Ok(())
}

/// Waits until a pipeline has nothing left to read, by its own word, and has had the time to say otherwise.
async fn until_without_lag(process: &Process) -> Result<()> {
    let address = process.address().await?;
    let waiting = Awake::start();
    while series(&address, "driftline_collector_lag_events").await? > 0.0 || waiting.elapsed() < Duration::from_secs(3)
    {
        ensure!(waiting.elapsed() < Duration::from_secs(30), "it lags:\n{}", process.log());
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    Ok(())
}

/// Aborted records are not read, and control records are no records; what follows an open transaction waits for it.
#[tokio::test(flavor = "multi_thread")]
async fn transactions_of_other_producers() -> Result<()> {
    let Some(broker) = Broker::real("transactions_of_other_producers")? else { return Ok(()) };
    let topics = Topics::unique();
    for topic in [&topics.predictions, &topics.labels] {
        broker.create_topic(topic, 1).await?;
    }
    let (committing, aborting) = (begin(&broker, &topics.predictions)?, begin(&broker, &topics.labels)?);
    for n in 0..3 {
        // Interleaved: both are open when the plain records come.
        committing.begin_transaction()?;
        aborting.begin_transaction()?;
        publish_with(&aborting, &topics, &format!("aborted-{n}"), 5).await?;
        publish_with(&committing, &topics, &format!("committed-{n}"), 4).await?;
        publish(&broker, &topics, &format!("plain-{n}"), 3).await?;
        publish_with(&aborting, &topics, &format!("aborted-too-{n}"), 2).await?;
        committing.commit_transaction(PATIENCE)?;
        aborting.abort_transaction(PATIENCE)?;
    }
    // The last thing in each partition is a control record behind records that are not read.
    transaction(&aborting, &topics, "aborted-last", 6, false).await?;
    let sandbox = Sandbox::new(broker.brokers(), &topics, MODEL)?;
    sandbox.catch_up().await?;
    let joined = (0..3).fold(Joined::default(), |joined, _| joined.and(4).and(3));
    joined.check(&sandbox).await?;
    // Of 16 offsets a round 7 are records; the chain ends behind the last of them, at the 44th offset.
    let found = account(&sandbox, &topics.predictions).await?;
    ensure!(found == terms(&[("records", 21), ("gaps", 23), ("accepted", 21)]), "{found:?}");

    // A running pipeline calls that caught up.
    let process = sandbox.spawn("pipeline", &PIPELINE)?;
    readyz(&process, 200, &[]).await?;
    until_without_lag(&process).await.context("behind control records")?;
    process.terminate().await?;

    // An open transaction: catching up ends before it, however much has been published after it.
    committing.begin_transaction()?;
    publish_with(&committing, &topics, "open", 4).await?;
    publish(&broker, &topics, "behind", 3).await?;
    sandbox.catch_up().await?;
    joined.check(&sandbox).await?;
    // Nor does a running pipeline call that a lag: there is nothing that it might read.
    let process = sandbox.spawn("waiting", &PIPELINE)?;
    readyz(&process, 200, &[]).await?;
    until_without_lag(&process).await.context("behind an open transaction")?;
    process.terminate().await?;
    committing.commit_transaction(PATIENCE)?;
    transaction(&aborting, &topics, "aborted-at-the-end", 1, false).await?;
    sandbox.catch_up().await?;
    joined.and(4).and(3).check(&sandbox).await?;
    let found = account(&sandbox, &topics.predictions).await?;
    ensure!(found == terms(&[("records", 28), ("gaps", 34), ("accepted", 28)]), "{found:?}");
    Ok(())
}

/// A chain that begins at a time, where the producer's clock and where the broker's gives the times.
#[tokio::test(flavor = "multi_thread")]
async fn a_start_by_time_under_both_kinds_of_timestamp() -> Result<()> {
    let Some(broker) = Broker::real("a_start_by_time_under_both_kinds_of_timestamp")? else { return Ok(()) };
    let topics = Topics::unique();
    broker.create_topic_with(&topics.predictions, 1, &[("message.timestamp.type", "CreateTime")]).await?;
    broker.create_topic_with(&topics.labels, 1, &[("message.timestamp.type", "LogAppendTime")]).await?;
    let producer = producer(&broker, &[])?;
    let at = |time: DateTime<Utc>| time.timestamp_millis();
    let send_at = async |topic: &str, (key, payload): (String, String), time: i64| {
        let record = FutureRecord::to(topic).key(&key).payload(&payload).timestamp(time);
        producer.send(record, PATIENCE).await.map(drop).map_err(|(error, _)| anyhow::Error::from(error))
    };
    let ancient: DateTime<Utc> = "2020-01-01T00:00:00Z".parse()?;
    let began = at(driftline_schemas::clock::now());
    // Before the start: by the producer's word in one topic, by the broker's clock in the other.
    for n in 0..7 {
        send_at(&topics.predictions, (id("before", n), prediction("before", n)), at(ancient)).await?;
        send_at(&topics.labels, (id("before", n), label("before", n)), at(ancient)).await?;
    }
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    let start = driftline_schemas::clock::now();
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    // After it; the labels claim to be old, and the broker knows better.
    let later: Vec<i64> = (0..9).map(|n| at(driftline_schemas::clock::now()) + n).collect();
    for (n, time) in later.iter().enumerate() {
        send_at(&topics.predictions, (id("after", n), prediction("after", n)), *time).await?;
        send_at(&topics.labels, (id("after", n), label("after", n)), at(ancient)).await?;
    }
    let sandbox = Sandbox::new(broker.brokers(), &topics, MODEL)?;
    let start = start.to_rfc3339_opts(chrono::SecondsFormat::Millis, true);
    configure(&sandbox, &format!("start = {start:?}"), &[])?;
    sandbox.catch_up().await?;
    Joined::default().and(9).check(&sandbox).await?;
    for topic in [&topics.predictions, &topics.labels] {
        let found = account(&sandbox, topic).await?;
        ensure!(found == terms(&[("records", 9), ("accepted", 9)]), "{topic}: {found:?}");
        let genesis = sandbox.store().join("raw");
        let chains = std::fs::read_dir(&genesis)?.filter_map(Result::ok).map(|entry| entry.path().join("genesis.json"));
        let found: Vec<String> = chains.filter_map(|path| std::fs::read_to_string(path).ok()).collect();
        ensure!(found.len() == 2 && found.iter().all(|text| text.contains("\"from\":7")), "{found:?}");
    }
    // Both topics whole, in a store of their own: the kind of time is nothing to the join.
    let sandbox = Sandbox::new(broker.brokers(), &topics, MODEL)?;
    configure(&sandbox, "", &[("client.rack", "none")])?;
    sandbox.catch_up().await?;
    Joined::default().and(7).and(9).check(&sandbox).await?;
    // And `raw/` tells what the records say, be it the producer's word or the broker's.
    let told = timestamps(&sandbox, &topics.predictions)?;
    let millis: Vec<Option<i64>> = told.iter().map(|micros| micros.map(|micros| micros / 1_000)).collect();
    let expected: Vec<Option<i64>> = std::iter::repeat_n(at(ancient), 7).chain(later).map(Some).collect();
    ensure!(millis == expected, "{millis:?}, and the producer said {expected:?}");
    let told = timestamps(&sandbox, &topics.labels)?;
    let now = at(driftline_schemas::clock::now());
    // Another clock may be a little ahead of this one, or behind.
    let is_of_now =
        |micros: &Option<i64>| micros.is_some_and(|micros| (began - 1_000..=now + 1_000).contains(&(micros / 1_000)));
    ensure!(told.len() == 16 && told.iter().all(is_of_now), "{told:?} are not of {began} to {now}");
    ensure!(told.is_sorted(), "the broker's clock went back: {told:?}");
    Ok(())
}

/// `kafka_timestamp` of a topic's only partition, in microseconds, in the order of the offsets.
fn timestamps(sandbox: &Sandbox, topic: &str) -> Result<Vec<Option<i64>>> {
    let mut found = BTreeMap::new();
    for chain in std::fs::read_dir(sandbox.store().join("raw")).context("list the chains")? {
        for object in std::fs::read_dir(chain?.path()).context("list a chain")? {
            let path = object?.path();
            if path.extension().is_none_or(|extension| extension != "parquet") {
                continue;
            }
            for batch in ParquetRecordBatchReaderBuilder::try_new(File::open(&path)?)?.build()? {
                let batch = batch?;
                let column = |name: &str| batch.column_by_name(name).with_context(|| format!("raw/ has no {name}"));
                let offsets = column("offset")?.as_primitive::<Int64Type>();
                let times = column("kafka_timestamp")?.as_primitive::<TimestampMicrosecondType>();
                let topics = cast(column("topic")?, &DataType::Utf8)?;
                let rows = topics.as_string::<i32>().iter().zip(offsets.iter()).zip(times.iter());
                let rows = rows.filter(|((name, _), _)| *name == Some(topic));
                found.extend(rows.map(|((_, offset), time)| (offset, time)));
            }
        }
    }
    Ok(found.into_values().collect())
}
