//! One partition and two hundred, at once; and partitions that come while a pipeline runs.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use driftline_integration_tests::kafka::{Broker, Topics};
use rdkafka::producer::FutureRecord;

use super::{Joined, MODEL, account, configure, id, label, labels, prediction, predictions, producer, readyz, send};
use super::{PIPELINE, terms, until_joined};
use crate::awake::Awake;
use crate::crash::series;
use crate::sandbox::Sandbox;

const MANY: usize = 200;
/// Seconds that two collectors may take for the 201 partitions of this test, on a machine that does other things.
const ENOUGH: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread")]
async fn one_partition_and_two_hundred_shared_by_two_collectors() -> Result<()> {
    let Some(broker) = Broker::real("one_partition_and_two_hundred_shared_by_two_collectors")? else { return Ok(()) };
    let topics = Topics::unique();
    broker.create_topic(&topics.predictions, MANY as i32).await?;
    broker.create_topic(&topics.labels, 1).await?;
    let plain = producer(&broker, &[])?;
    // One event in each of them at least.
    let sends = (0..2 * MANY).map(|n| {
        let (key, payload, plain, topic) = (id("many", n), prediction("many", n), plain.clone(), &topics.predictions);
        async move {
            let record = FutureRecord::to(topic).partition((n % MANY) as i32).key(&key).payload(&payload);
            plain.send(record, Duration::from_secs(30)).await.map(drop).map_err(|(error, _)| error)
        }
    });
    futures::future::try_join_all(sends).await?;
    send(&plain, &topics.labels, &labels("many", 2 * MANY)).await?;

    let sandbox = Sandbox::new(broker.brokers(), &topics, MODEL)?;
    // Each partition's end is asked for every quarter of this.
    let calm = [("DRIFTLINE__IDLE_TIMEOUT", "20s")];
    let started = Awake::start();
    let rest = sandbox.spawn_with("rest", &["run", "--roles", "aggregator,evaluator"], &calm)?;
    let mut collectors = Vec::new();
    for name in ["collector-1", "collector-2"] {
        collectors.push(sandbox.spawn_with(name, &["collector", "--listen", "127.0.0.1:0"], &calm)?);
    }
    for collector in &collectors {
        readyz(collector, 200, &[]).await?;
    }
    let joined = Joined::default().and(2 * MANY);
    until_joined(&sandbox, &rest, joined).await?;
    let took = started.elapsed();
    eprintln!("{} partitions, {} events: joined {took:?} after the start", MANY + 1, 4 * MANY);
    ensure!(took < ENOUGH, "{took:?} is too long");

    // They share: each has read what the other has not. Whoever came first may have read all, so there is more to read.
    let before = [series_of(&collectors[0]).await?, series_of(&collectors[1]).await?];
    let more = MANY;
    let sends = (0..more).map(|n| {
        let (key, payload, plain, topic) = (id("more", n), prediction("more", n), plain.clone(), &topics.predictions);
        async move {
            let record = FutureRecord::to(topic).partition(n as i32).key(&key).payload(&payload);
            plain.send(record, Duration::from_secs(30)).await.map(drop).map_err(|(error, _)| error)
        }
    });
    futures::future::try_join_all(sends).await?;
    send(&plain, &topics.labels, &labels("more", more)).await?;
    until_joined(&sandbox, &rest, joined.and(more)).await?;
    let after = [series_of(&collectors[0]).await?, series_of(&collectors[1]).await?];
    let shares: Vec<f64> = before.iter().zip(after).map(|(before, after)| after - before).collect();
    eprintln!("of {} more events the collectors read {shares:?}", 2 * more);
    ensure!(shares.iter().sum::<f64>() >= 2.0 * more as f64, "{shares:?} of {} events", 2 * more);
    ensure!(shares.iter().all(|share| *share >= more as f64 / 4.0), "each has its share: {shares:?}");
    for process in collectors.into_iter().chain([rest]) {
        process.terminate().await?;
    }
    let found = account(&sandbox, &topics.predictions).await?;
    let all = (2 * MANY + more) as u64;
    ensure!(found == terms(&[("records", all), ("accepted", all)]), "{found:?}");
    joined.and(more).check(&sandbox).await
}

async fn series_of(collector: &crate::sandbox::Process) -> Result<f64> {
    series(&collector.address().await?, "driftline_events_accepted").await
}

/// New partitions are found when the client next asks for the topic's metadata: `topic.metadata.refresh.interval.ms`.
#[tokio::test(flavor = "multi_thread")]
async fn partitions_that_are_added_are_read_without_a_restart() -> Result<()> {
    let Some(broker) = Broker::real("partitions_that_are_added_are_read_without_a_restart")? else { return Ok(()) };
    let topics = Topics::unique();
    for topic in [&topics.predictions, &topics.labels] {
        broker.create_topic(topic, 1).await?;
    }
    let sandbox = Sandbox::new(broker.brokers(), &topics, MODEL)?;
    configure(&sandbox, "", &[("topic.metadata.refresh.interval.ms", "1000")])?;
    let process = sandbox.spawn("pipeline", &PIPELINE)?;
    readyz(&process, 200, &[]).await?;
    super::publish(&broker, &topics, "old", 10).await?;
    let joined = Joined::default().and(10);
    until_joined(&sandbox, &process, joined).await?;

    for (topic, count) in [(&topics.predictions, 4), (&topics.labels, 3)] {
        broker.add_partitions(topic, count).await?;
    }
    let added = Instant::now();
    let plain = producer(&broker, &[])?;
    for n in 0..12 {
        // Into the new ones only.
        for (topic, partition, payload) in
            [(&topics.predictions, 1 + n % 3, prediction("new", n)), (&topics.labels, 1 + n % 2, label("new", n))]
        {
            let key = id("new", n);
            let record = FutureRecord::to(topic).partition(partition as i32).key(&key).payload(&payload);
            plain.send(record, Duration::from_secs(30)).await.map_err(|(error, _)| error)?;
        }
    }
    until_joined(&sandbox, &process, joined.and(12)).await?;
    eprintln!("joined {:?} after the partitions were added", added.elapsed());
    process.terminate().await?;
    let found = account(&sandbox, &topics.predictions).await?;
    ensure!(found == terms(&[("records", 22), ("accepted", 22)]), "{found:?}");
    // A run that catches up takes the new ones, too.
    broker.add_partitions(&topics.predictions, 5).await?;
    let plain = producer(&broker, &[])?;
    send(&plain, &topics.labels, &labels("last", 5)).await?;
    for (key, payload) in predictions("last", 5) {
        let record = FutureRecord::to(&topics.predictions).partition(4).key(&key).payload(&payload);
        plain.send(record, Duration::from_secs(30)).await.map_err(|(error, _)| error)?;
    }
    sandbox.catch_up().await?;
    joined.and(12).and(5).check(&sandbox).await
}
