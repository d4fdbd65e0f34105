//! The collector beside a bare consumer of the same topic: the consumer is the limit that nobody gets past.
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use driftline_collector::{CollectorSettings, CollectorStatus, Until};
use driftline_store::Store;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use rdkafka::{Offset, TopicPartitionList};
use tokio_util::sync::CancellationToken;

use crate::cpu_seconds;

pub(crate) const PARTITIONS: i32 = 4;

/// What reading a topic cost.
struct Cost {
    wall: Duration,
    cpu: f64,
}

impl Cost {
    fn of(work: impl FnOnce() -> Result<()>) -> Result<Self> {
        let (wall, cpu) = (Instant::now(), cpu_seconds());
        work()?;
        Ok(Self { wall: wall.elapsed(), cpu: cpu_seconds() - cpu })
    }

    fn per_core_second(&self, events: usize) -> f64 {
        events as f64 / self.cpu.max(0.01)
    }
}

pub(crate) fn run(events: usize, brokers: Option<String>) -> Result<()> {
    let is_embedded = brokers.is_none();
    let brokers = match brokers {
        Some(brokers) => brokers,
        None => noida::kafka::spawn("127.0.0.1:0").context("start the embedded broker")?.to_string(),
    };
    let id = uuid::Uuid::new_v4().simple().to_string();
    let (topic, labels) = (format!("bench-{id}"), format!("bench-labels-{id}"));
    let runtime = tokio::runtime::Runtime::new().context("start threads")?;
    runtime.block_on(create(&brokers, &[&topic, &labels]))?;
    let measured = measure(events, &brokers, (&topic, &labels), &runtime);
    // Gigabytes lie in them. An embedded broker goes with the process.
    let deleted = if is_embedded { Ok(()) } else { runtime.block_on(delete(&brokers, &[&topic, &labels])) };
    measured.and(deleted)
}

fn measure(
    events: usize,
    brokers: &str,
    (topic, labels): (&str, &str),
    runtime: &tokio::runtime::Runtime,
) -> Result<()> {
    let bytes = produce(brokers, topic, events)?;
    println!("collector: {events} events of {} bytes in {PARTITIONS} partitions at {brokers}", bytes / events);
    // In turn, twice: what is quoted is the better of each, and the broker's share of an embedded run weighs on both.
    let mut bare: Option<Cost> = None;
    let mut ours: Option<Cost> = None;
    let mut stored = 0;
    for _ in 0..2 {
        better(&mut bare, Cost::of(|| consume(brokers, topic, events))?);
        let folder = tempfile::tempdir().context("make a folder")?;
        let store = Store::open(&folder.path().display().to_string(), &std::collections::BTreeMap::new())?;
        better(&mut ours, Cost::of(|| runtime.block_on(collect(brokers, topic, labels, &store)))?);
        stored = runtime.block_on(verify(&store, topic, events))?;
    }
    let (Some(bare), Some(ours)) = (bare, ours) else { return Ok(()) };
    for (name, cost) in [("bare rdkafka consumer", &bare), ("driftline collector", &ours)] {
        println!(
            "  {name:<24} {:>8.2} s wall {:>8.2} s cpu {:>10.0} events/s {:>10.0} events/s and core",
            cost.wall.as_secs_f64(),
            cost.cpu,
            events as f64 / cost.wall.as_secs_f64(),
            cost.per_core_second(events),
        );
    }
    println!("  {} bytes an event in the store", stored / events);
    let ratio = ours.per_core_second(events) / bare.per_core_second(events);
    println!("  ratio, events a second and core: {ratio:.2} (first mark: 0.33)");
    Ok(())
}

fn better(best: &mut Option<Cost>, cost: Cost) {
    if best.as_ref().is_none_or(|best| cost.cpu < best.cpu) {
        *best = Some(cost);
    }
}

pub(crate) async fn create(brokers: &str, topics: &[&str]) -> Result<()> {
    let admin: AdminClient<DefaultClientContext> = ClientConfig::new().set("bootstrap.servers", brokers).create()?;
    let new = |name| NewTopic::new(name, PARTITIONS, TopicReplication::Fixed(1)).set("retention.ms", "-1");
    let topics: Vec<NewTopic<'_>> = topics.iter().map(|name| new(*name)).collect();
    for created in admin.create_topics(&topics, &AdminOptions::new()).await? {
        created.map_err(|(topic, code)| anyhow::anyhow!("create {topic}: {code}"))?;
    }
    Ok(())
}

/// Deletes what a benchmark has published.
pub(crate) async fn delete(brokers: &str, topics: &[&str]) -> Result<()> {
    let admin: AdminClient<DefaultClientContext> = ClientConfig::new().set("bootstrap.servers", brokers).create()?;
    for deleted in admin.delete_topics(topics, &AdminOptions::new()).await? {
        deleted.map_err(|(topic, code)| anyhow::anyhow!("delete {topic}: {code}"))?;
    }
    Ok(())
}

/// Event number `number` of a stream: four features, a tag, a latency.
pub(crate) fn event(time: chrono::DateTime<chrono::FixedOffset>, number: usize) -> String {
    let score = (number as f64 * 0.618_033_988_749).fract();
    format!(
        r#"{{"prediction_id":"{number:016x}","model_name":"bench","model_version":"3","timestamp":"{}","prediction":"{}","score":{score},"features":{{"amount":{:.2},"country":"{}","is_new":{},"age":{}}},"tags":{{"region":"{}"}},"latency_ms":{:.1}}}"#,
        time.to_rfc3339_opts(chrono::SecondsFormat::Millis, true),
        if score > 0.5 { "fraud" } else { "ok" },
        score * 1000.0,
        ["NL", "DE", "FR"][number % 3],
        number.is_multiple_of(2),
        number % 90,
        ["eu", "us"][number % 2],
        score * 20.0,
    )
}

fn produce(brokers: &str, topic: &str, events: usize) -> Result<usize> {
    let producer: BaseProducer = ClientConfig::new()
        .set("bootstrap.servers", brokers)
        .set("linger.ms", "20")
        .set("queue.buffering.max.messages", "200000")
        .create()?;
    let start = chrono::DateTime::parse_from_rfc3339("2026-01-01T00:00:00Z")?;
    let mut bytes = 0;
    for number in 0..events {
        let payload = event(start + chrono::Duration::milliseconds(number as i64), number);
        bytes += payload.len();
        let key = format!("{number:016x}");
        let partition = (number % PARTITIONS as usize) as i32;
        let mut record = BaseRecord::to(topic).key(&key).payload(&payload).partition(partition);
        while let Err((_, back)) = producer.send(record) {
            producer.poll(Duration::from_millis(20));
            record = back;
        }
        producer.poll(Duration::ZERO);
    }
    producer.flush(Duration::from_secs(120)).context("publish the events")?;
    Ok(bytes)
}

fn consume(brokers: &str, topic: &str, events: usize) -> Result<()> {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", brokers)
        .set("group.id", "bench-bare")
        .set("enable.auto.commit", "false")
        .set("queued.max.messages.kbytes", "8192")
        .set("fetch.queue.backoff.ms", "10")
        .create()?;
    let mut assignment = TopicPartitionList::new();
    for partition in 0..PARTITIONS {
        assignment.add_partition_offset(topic, partition, Offset::Beginning)?;
    }
    consumer.assign(&assignment)?;
    let (mut seen, mut bytes) = (0, 0);
    while seen < events {
        if let Some(message) = consumer.poll(Duration::from_secs(10)) {
            bytes += message?.payload_len();
            seen += 1;
        }
    }
    ensure!(bytes > 0, "nothing was read");
    Ok(())
}

async fn collect(brokers: &str, topic: &str, labels: &str, store: &Store) -> Result<()> {
    let settings = CollectorSettings {
        brokers: brokers.to_owned(),
        predictions_topics: vec![topic.to_owned()],
        labels_topics: vec![labels.to_owned()],
        group: format!("bench-{}", uuid::Uuid::new_v4().simple()),
        instance: "bench".to_owned(),
        ..CollectorSettings::default()
    };
    let status = Arc::new(CollectorStatus::default());
    driftline_collector::run(settings, store.clone(), status, Until::CaughtUp, CancellationToken::new()).await?;
    Ok(())
}

/// Every event must be in the store, and its objects are read to see it: work that no collector does, and no part of its cost.
async fn verify(store: &Store, topic: &str, events: usize) -> Result<usize> {
    let (mut accepted, mut bytes) = (0, 0);
    for partition in 0..PARTITIONS {
        let chain = driftline_store::chain_name(topic, partition as u32);
        let mut at = 0;
        while let Some(object) = store.get(&driftline_store::paths::raw_object(&chain, at)).await? {
            let footer = driftline_schemas::raw::RawFooter::from_bytes(&object.bytes)?;
            accepted += footer.accepted as usize;
            bytes += object.bytes.len();
            at = footer.to as u64;
        }
    }
    ensure!(accepted == events, "{accepted} of {events} events are in the store");
    Ok(bytes)
}
