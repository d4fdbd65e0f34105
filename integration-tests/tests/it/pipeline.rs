//! One suite, run on the embedded broker and on a real Kafka: events with every fault in, and out come the true figures.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};
use driftline_integration_tests::generator::{Generated, Options, generate};
use driftline_integration_tests::kafka::{Broker, Topics};
use serde::Deserialize;

use crate::sandbox::Sandbox;
use crate::{judge, outside};

#[tokio::test(flavor = "multi_thread")]
async fn t4_the_figures_are_the_truth_on_the_embedded_broker() -> Result<()> {
    suite(&Broker::embedded()?).await
}

#[tokio::test(flavor = "multi_thread")]
async fn t4_the_figures_are_the_truth_on_a_real_kafka() -> Result<()> {
    match Broker::real("t4_the_figures_are_the_truth_on_a_real_kafka")? {
        Some(broker) => suite(&broker).await,
        None => Ok(()),
    }
}

async fn suite(broker: &Broker) -> Result<()> {
    let options = Options { label_partitions: 4, ..Options::default() };
    let run = generate(&options);
    eprintln!("{}", judge::summary(&run));
    let at_once = in_parts(broker, &options, &run, 1).await?;
    let in_halves = in_parts(broker, &options, &run, 2).await?;
    ensure!(
        at_once == in_halves,
        "the same events in one run and in two give different values: {}",
        first_difference(&at_once, &in_halves)
    );
    Ok(())
}

/// Every published number but those that tell of the way there: revisions and when they were decided.
type Numbers = BTreeMap<String, (Option<f64>, Option<f64>, Option<f64>)>;

/// Produces the records in parts, each followed by a run until all is caught up; then one more run, which must change nothing.
async fn in_parts(broker: &Broker, options: &Options, run: &Generated, parts: usize) -> Result<Numbers> {
    let topics = Topics::unique();
    broker.create_topics(&topics, run).await?;
    let sandbox = Sandbox::new(broker.brokers(), &topics, &options.models_toml())?;
    for records in run.records.chunks(run.records.len().div_ceil(parts)) {
        broker.produce(&topics, records).await?;
        sandbox.catch_up().await?;
    }
    judge::check(&sandbox, &topics, options, run).await?;
    let revisions = revisions(&sandbox).await?;
    let revised = revisions.values().filter(|revision| **revision > 1).count();
    ensure!(parts == 1 || revised > 0, "labels of the second part must revise windows of the first");

    let before = state(&sandbox).await?;
    sandbox.catch_up().await?;
    let after = state(&sandbox).await?;
    ensure!(before == after, "a run without news changed something: {before:?} → {after:?}");
    outside::check(&sandbox).await?;
    numbers(&sandbox).await
}

async fn revisions(sandbox: &Sandbox) -> Result<BTreeMap<(String, String), i64>> {
    #[derive(Deserialize)]
    struct Row {
        model_name: String,
        window_start: String,
        revision: i64,
    }
    let rows = sandbox.sql::<Row>("SELECT model_name, window_start, revision FROM windows").await?;
    Ok(rows.into_iter().map(|row| ((row.model_name, row.window_start), row.revision)).collect())
}

/// What must not change while nothing arrives: the windows' revisions, and every object of the tables that are appended to.
async fn state(sandbox: &Sandbox) -> Result<(BTreeMap<(String, String), i64>, Vec<(String, usize)>)> {
    let objects = ["raw", "history", "metrics_log"];
    let count = |table: &str| files(&sandbox.store().join(table));
    let counts = objects.iter().map(|table| ((*table).to_owned(), count(table))).collect();
    Ok((revisions(sandbox).await?, counts))
}

fn files(folder: &std::path::Path) -> usize {
    let Ok(entries) = std::fs::read_dir(folder) else { return 0 };
    let entries = entries.filter_map(std::io::Result::ok).map(|entry| entry.path());
    entries
        .map(
            |path| {
                if path.is_dir() { files(&path) } else { usize::from(path.extension().is_some_and(|e| e == "parquet")) }
            },
        )
        .sum()
}

async fn numbers(sandbox: &Sandbox) -> Result<Numbers> {
    #[derive(Deserialize)]
    struct Row {
        key: String,
        value: Option<f64>,
        ci_low: Option<f64>,
        ci_high: Option<f64>,
    }
    let query = "SELECT concat_ws('/', model_name, CAST(window_start AS VARCHAR), model_version, segment, segment_value, metric, \
                 class) AS key, value, ci_low, ci_high FROM metrics";
    Ok(sandbox
        .sql::<Row>(query)
        .await?
        .into_iter()
        .map(|row| (row.key, (row.value, row.ci_low, row.ci_high)))
        .collect())
}

fn first_difference(one: &Numbers, other: &Numbers) -> String {
    let keys = one.keys().chain(other.keys());
    keys.filter(|key| one.get(*key) != other.get(*key))
        .take(5)
        .map(|key| format!("{key}: {:?} and {:?}", one.get(key), other.get(key)))
        .collect::<Vec<_>>()
        .join("\n")
}
