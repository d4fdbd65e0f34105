//! A topic that is deleted and created again while its pipeline runs: its records are other records, whatever their offsets.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use driftline_integration_tests::kafka::{Broker, Topics};
use rdkafka::producer::FutureRecord;
use serde::Deserialize;

use crate::sandbox::Sandbox;

const MODEL: &str = "[[models]]\nname = \"m\"\ntask = \"binary\"\npositive_class = \"yes\"\nwindow = \"day\"\nlabel_horizon = \"30d\"\n";
/// Long enough for a pipeline to notice by itself, on a machine that does other things.
const NOTICED_WITHIN: Duration = Duration::from_secs(120);

async fn publish(broker: &Broker, topics: &Topics, name: &str, count: usize) -> Result<()> {
    let producer = broker.producer()?;
    for n in 0..count {
        let id = format!("{name}-{n}");
        let event = format!(
            "{{\"prediction_id\":\"{id}\",\"model_name\":\"m\",\"timestamp\":\"2026-03-01T10:00:{:02}Z\",\"prediction\":\"yes\"}}",
            n % 60
        );
        let record = FutureRecord::to(&topics.predictions).key(&id).payload(&event);
        producer.send(record, Duration::from_secs(60)).await.map_err(|(error, _)| error)?;
    }
    Ok(())
}

/// The ids in history, by the first word of their name, each counted once.
async fn ids(sandbox: &Sandbox) -> Result<Vec<(String, u64)>> {
    #[derive(Deserialize)]
    struct Row {
        name: String,
        rows: u64,
    }
    let query = "SELECT split_part(prediction_id, '-', 1) AS name, count(DISTINCT prediction_id) AS rows FROM history GROUP BY 1 ORDER BY 1";
    Ok(sandbox.sql::<Row>(query).await?.into_iter().map(|row| (row.name, row.rows)).collect())
}

async fn create_again(broker: &Broker, topic: &str) -> Result<()> {
    broker.delete_topic(topic).await?;
    let asked = Instant::now();
    // The name is free when the deletion has gone through.
    while let Err(error) = broker.create_topic(topic, 1).await {
        ensure!(asked.elapsed() < Duration::from_secs(60), "{topic} cannot be created again: {error:#}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    Ok(())
}

async fn two_incarnations(broker: &Broker, topics: &Topics) -> Result<Sandbox> {
    for topic in [&topics.predictions, &topics.labels] {
        broker.create_topic(topic, 1).await?;
    }
    let sandbox = Sandbox::new(broker.brokers(), topics, MODEL)?;
    publish(broker, topics, "first", 10).await?;
    sandbox.catch_up().await?;
    create_again(broker, &topics.predictions).await?;
    publish(broker, topics, "second", 25).await?;
    sandbox.catch_up().await?;
    let expected = vec![("first".to_owned(), 10), ("second".to_owned(), 25)];
    let found = ids(&sandbox).await?;
    ensure!(found == expected, "{found:?}");
    Ok(sandbox)
}

fn chains(sandbox: &Sandbox) -> Result<usize> {
    let names = std::fs::read_dir(sandbox.store().join("raw"))?;
    let names = names.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    Ok(names.filter(|name| name.starts_with("predictions")).count())
}

/// C1: between two runs. The new topic has more records than the old one had, so that the old position exists in it too: a
/// reader that went on there would put new records behind old ones, and lose those before.
#[tokio::test(flavor = "multi_thread")]
async fn c1_a_topic_created_again_starts_a_new_chain() -> Result<()> {
    let Some(broker) = Broker::real("c1_a_topic_created_again_starts_a_new_chain")? else { return Ok(()) };
    let sandbox = two_incarnations(&broker, &Topics::unique()).await?;
    ensure!(chains(&sandbox)? == 2, "two incarnations have a chain each");
    sandbox.succeed(&["audit"]).await.map(drop)
}

/// The same in the midst of a run.
#[tokio::test(flavor = "multi_thread")]
async fn c1_a_topic_created_again_while_it_is_read_starts_a_new_chain() -> Result<()> {
    let Some(broker) = Broker::real("c1_a_topic_created_again_while_it_is_read_starts_a_new_chain")? else {
        return Ok(());
    };
    let topics = Topics::unique();
    let sandbox = two_incarnations(&broker, &topics).await?;
    let process = sandbox.spawn("pipeline", &["run", "--roles", "collector,aggregator,evaluator"])?;
    publish(&broker, &topics, "third", 5).await?;
    let began = Instant::now();
    while ids(&sandbox).await?.len() < 3 {
        ensure!(began.elapsed() < NOTICED_WITHIN, "the third are not read:\n{}", process.log());
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    // 30 records have been read; the next incarnation has 60.
    create_again(&broker, &topics.predictions).await?;
    publish(&broker, &topics, "fourth", 60).await?;
    let began = Instant::now();
    let expected: Vec<(String, u64)> = [("first", 10), ("fourth", 60), ("second", 25), ("third", 5)]
        .map(|(name, rows)| (name.to_owned(), rows))
        .into();
    loop {
        let found = ids(&sandbox).await?;
        if found == expected {
            break;
        }
        ensure!(began.elapsed() < NOTICED_WITHIN, "{found:?}, not {expected:?}:\n{}", process.log());
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    eprintln!("the records of a topic created again were read {:?} later", began.elapsed());
    process.terminate().await?;
    ensure!(chains(&sandbox)? == 3, "three incarnations have a chain each");
    sandbox.succeed(&["audit"]).await.map(drop)
}
