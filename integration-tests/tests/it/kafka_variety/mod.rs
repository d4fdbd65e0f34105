//! Kafka in its variety, on the real broker: doors and rights, kinds of records, partitions that come and offsets that go.

mod offsets;
mod partitions;
mod records;
mod rights;
mod security;

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use driftline_integration_tests::kafka::{Broker, Topics};
use rdkafka::producer::{FutureProducer, FutureRecord, Producer};
use serde::Deserialize;

use crate::awake::Awake;
use crate::judge;
use crate::sandbox::{Process, Sandbox, get};

const PIPELINE: [&str; 3] = ["run", "--roles", "collector,aggregator,evaluator,serve"];
const CATCH_UP: [&str; 4] = ["run", "--roles", "collector,aggregator,evaluator", "--until-caught-up"];
/// One model, one window: what is joined shows in one row of `metrics`.
const MODEL: &str = "[[models]]\nname = \"m\"\ntask = \"binary\"\npositive_class = \"yes\"\nwindow = \"day\"\nlabel_horizon = \"30d\"\n";

/// Every prediction is "yes"; the label of every fourth says "no".
fn is_hit(n: usize) -> bool {
    !n.is_multiple_of(4)
}

fn id(name: &str, n: usize) -> String {
    format!("{name}-{n}")
}

fn prediction(name: &str, n: usize) -> String {
    let (minute, second) = (n / 60 % 60, n % 60);
    format!(
        "{{\"prediction_id\":\"{}\",\"model_name\":\"m\",\"timestamp\":\"2026-03-01T10:{minute:02}:{second:02}Z\",\"prediction\":\"yes\"}}",
        id(name, n)
    )
}

fn label(name: &str, n: usize) -> String {
    let (minute, second, label) = (n / 60 % 60, n % 60, if is_hit(n) { "yes" } else { "no" });
    format!(
        "{{\"prediction_id\":\"{}\",\"model_name\":\"m\",\"timestamp\":\"2026-03-01T12:{minute:02}:{second:02}Z\",\"label\":\"{label}\"}}",
        id(name, n)
    )
}

/// What must have been joined: so many predictions, each with its label.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Joined {
    all: usize,
    hits: usize,
}

impl Joined {
    /// And the first `count` events of a name.
    fn and(self, count: usize) -> Self {
        Self { all: self.all + count, hits: self.hits + (0..count).filter(|n| is_hit(*n)).count() }
    }

    /// Every prediction and its label in `history`, once; their accuracy in `metrics`; and accounts that add up.
    async fn check(self, sandbox: &Sandbox) -> Result<()> {
        self.check_tables(sandbox).await?;
        sandbox.succeed(&["audit"]).await.map(drop)
    }

    async fn check_tables(self, sandbox: &Sandbox) -> Result<()> {
        #[derive(Debug, Deserialize)]
        struct Rows {
            rows: usize,
            ids: usize,
            labelled: usize,
        }
        #[derive(Debug, Deserialize)]
        struct Accuracy {
            value: Option<f64>,
            n_labelled: usize,
        }
        let found = sandbox
            .sql::<Rows>(
                "SELECT count(*) AS rows, count(DISTINCT prediction_id) AS ids, count(label) AS labelled FROM history",
            )
            .await?;
        let rows = found.first().context("a count has a row")?;
        let all = self.all;
        ensure!((rows.rows, rows.ids, rows.labelled) == (all, all, all), "{rows:?}, and {all} should be joined");
        let query = "SELECT value, n_labelled FROM metrics WHERE metric = 'accuracy' AND segment IS NULL AND model_version IS NULL \
                     AND class IS NULL";
        let found = sandbox.sql::<Accuracy>(query).await?;
        let accuracy = self.hits as f64 / all as f64;
        let is_true = |row: &Accuracy| {
            row.n_labelled == all && row.value.is_some_and(|value| (value - accuracy).abs() < judge::TOLERANCE)
        };
        ensure!(found.len() == 1 && found.iter().all(is_true), "{found:?}, and {} of {all} are hits", self.hits);
        Ok(())
    }
}

/// The terms of a partition's account, by `driftline audit`, which must find that all accounts add up.
async fn account(sandbox: &Sandbox, topic: &str) -> Result<Vec<(String, u64)>> {
    let answer = sandbox.succeed(&["audit", "--format", "json"]).await?;
    let rows: Vec<judge::Account> = serde_json::from_str(&answer).context("read the audit")?;
    let mut terms = std::collections::BTreeMap::new();
    for row in rows.iter().filter(|row| row.key.starts_with(&format!("{topic}["))) {
        *terms.entry(row.term.clone()).or_default() += row.count;
    }
    Ok(terms.into_iter().filter(|(_, count)| *count > 0).collect())
}

fn terms(expected: &[(&str, u64)]) -> Vec<(String, u64)> {
    let mut terms: Vec<(String, u64)> = expected.iter().map(|(term, count)| ((*term).to_owned(), *count)).collect();
    terms.sort();
    terms
}

/// A producer with settings of its own.
fn producer(broker: &Broker, settings: &[(&str, &str)]) -> Result<FutureProducer> {
    let mut config = broker.client();
    config.set("acks", "all").set("message.max.bytes", "8388608");
    for (key, value) in settings {
        config.set(*key, *value);
    }
    config.create().context("create the producer")
}

/// Sends keyed records, and waits until all are acknowledged.
async fn send(producer: &FutureProducer, topic: &str, records: &[(String, String)]) -> Result<()> {
    let sends = records.iter().map(|(key, payload)| {
        producer.send(FutureRecord::to(topic).key(key).payload(payload), Duration::from_secs(30))
    });
    for sent in futures::future::join_all(sends).await {
        sent.map_err(|(error, _)| error).context("publish a record")?;
    }
    Ok(())
}

/// The first `count` predictions and labels of a name.
async fn publish(broker: &Broker, topics: &Topics, name: &str, count: usize) -> Result<()> {
    let producer = producer(broker, &[])?;
    publish_with(&producer, topics, name, count).await
}

async fn publish_with(producer: &FutureProducer, topics: &Topics, name: &str, count: usize) -> Result<()> {
    send(producer, &topics.predictions, &predictions(name, count)).await?;
    send(producer, &topics.labels, &labels(name, count)).await?;
    producer.flush(Duration::from_secs(30)).context("flush")
}

fn predictions(name: &str, count: usize) -> Vec<(String, String)> {
    (0..count).map(|n| (id(name, n), prediction(name, n))).collect()
}

fn labels(name: &str, count: usize) -> Vec<(String, String)> {
    (0..count).map(|n| (id(name, n), label(name, n))).collect()
}

/// Adds lines to the sandbox's `[kafka]` and `[kafka.properties]`, as a user would write them.
fn configure(sandbox: &Sandbox, kafka: &str, properties: &[(&str, &str)]) -> Result<()> {
    let file = sandbox.path("driftline.toml");
    let text = std::fs::read_to_string(&file).context("read the configuration")?;
    let lines: Vec<String> = properties.iter().map(|(key, value)| format!("{key:?} = {value:?}\n")).collect();
    let text = text.replace("[kafka]\n", &format!("[kafka]\n{kafka}\n"));
    let text = text.replace("[kafka.properties]\n", &format!("[kafka.properties]\n{}", lines.concat()));
    std::fs::write(&file, text).context("write the configuration")
}

/// Waits until `/readyz` answers so, with all of the words in its reasons.
async fn readyz(process: &Process, status: u16, words: &[&str]) -> Result<Duration> {
    let address = process.address().await?;
    let waiting = Awake::start();
    loop {
        let (code, why) = get(&address, "/readyz").await?;
        if code == status && words.iter().all(|word| why.contains(word)) {
            return Ok(waiting.elapsed());
        }
        ensure!(
            waiting.elapsed() < Duration::from_secs(45),
            "/readyz should say {status} and {words:?}, and says {code}: {why}\n{}",
            process.log()
        );
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// Waits until all of that is joined; the accounts must add up then.
async fn until_joined(sandbox: &Sandbox, process: &Process, joined: Joined) -> Result<Duration> {
    let waiting = Awake::start();
    while let Err(error) = joined.check_tables(sandbox).await {
        ensure!(waiting.elapsed() < Duration::from_secs(60), "in vain waited for it: {error:#}\n{}", process.log());
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    let took = waiting.elapsed();
    joined.check(sandbox).await.with_context(|| process.log())?;
    Ok(took)
}
