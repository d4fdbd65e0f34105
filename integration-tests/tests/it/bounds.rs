//! B1: a stream that puts an id which never comes again into everything that has a name: every cap holds, says so, and no account
//! is wrong by it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use driftline_evaluator::account;
use driftline_evaluator::session::Sessions;
use driftline_integration_tests::kafka::{Broker, Topics};
use driftline_ledger::Replica;
use driftline_store::Store;
use parquet::file::reader::{FileReader, SerializedFileReader};
use rdkafka::producer::FutureRecord;
use serde::Deserialize;

use crate::outside;
use crate::sandbox::Sandbox;

const MODELS_MAX: usize = 5;
const COLUMNS_MAX: usize = 10;
const VALUES_MAX: usize = 6;
const MODEL: &str = "[[models]]\nname = \"m\"\ntask = \"binary\"\npositive_class = \"1\"\nwindow = \"day\"\nlabel_horizon = \"30d\"\nsegments = [\"region\"]\n";
/// Events of each kind that the stream has of the model, and of models that nobody has named.
const EVENTS: usize = 400;

/// The pairs of a prediction and its label, each with a name of its own in every place that has one.
fn stream(first: usize) -> Vec<(String, String, String)> {
    let mut events = Vec::new();
    for n in first..first + EVENTS {
        let id = format!("{:08x}", (n as u32).wrapping_mul(2_654_435_761));
        for model in ["m", &format!("model-{id}")] {
            let prediction = format!(
                "{{\"prediction_id\":\"{model}-{n}\",\"model_name\":\"{model}\",\"model_version\":\"v-{id}\",\
                 \"timestamp\":\"2026-03-01T10:{:02}:{:02}Z\",\"prediction\":\"{}\",\"score\":0.5,\
                 \"features\":{{\"n-{id}\":1.5,\"t-{id}\":\"{id}\"}},\"tags\":{{\"region\":\"r-{id}\",\"x-{id}\":\"y\"}}}}",
                n / 60 % 60,
                n % 60,
                n % 2
            );
            let label = format!(
                "{{\"prediction_id\":\"{model}-{n}\",\"model_name\":\"{model}\",\"timestamp\":\"2026-03-01T12:00:00Z\",\"label\":\"1\"}}"
            );
            events.push((format!("{model}-{n}"), prediction, label));
        }
    }
    events
}

async fn publish(broker: &Broker, topics: &Topics, events: &[(String, String, String)]) -> Result<()> {
    let producer = broker.producer()?;
    for (key, prediction, label) in events {
        for (topic, payload) in [(&topics.predictions, prediction), (&topics.labels, label)] {
            let record = FutureRecord::to(topic).key(key).payload(payload);
            producer.send(record, Duration::from_secs(60)).await.map_err(|(error, _)| error).context("publish")?;
        }
    }
    Ok(())
}

fn objects(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.path().is_dir() {
            found.extend(objects(&entry.path()));
        } else {
            found.push(entry.path());
        }
    }
    found
}

/// Columns of a prefix in the objects of the model's history, the JSON not among them.
fn columns(sandbox: &Sandbox, prefix: &str) -> Result<BTreeSet<String>> {
    let mut names = BTreeSet::new();
    for path in objects(&sandbox.store().join("history/model_name=m")) {
        let reader = SerializedFileReader::new(std::fs::File::open(path).context("open history")?)?;
        let schema = reader.metadata().file_metadata().schema_descr_ptr();
        names.extend(schema.columns().iter().map(|column| column.path().parts()[0].clone()));
    }
    names.retain(|name| name.starts_with(prefix));
    Ok(names)
}

#[derive(Deserialize)]
struct Rows {
    rows: usize,
}

#[derive(Deserialize)]
struct Groups {
    versions: usize,
    regions: usize,
    others: usize,
}

#[derive(Deserialize)]
struct Account {
    scope: String,
    key: String,
    count: usize,
}

#[tokio::test(flavor = "multi_thread")]
async fn b1_an_id_in_every_name_is_bounded_says_so_and_adds_up() -> Result<()> {
    let broker = Broker::embedded()?;
    let topics = Topics::unique();
    for topic in [&topics.predictions, &topics.labels] {
        broker.create_topic(topic, 1).await?;
    }
    let sandbox = Sandbox::new(broker.brokers(), &topics, MODEL)?;
    sandbox.edit(|text| {
        format!(
            "models_max = {MODELS_MAX}\nmax_feature_columns = {COLUMNS_MAX}\nmax_segment_values = {VALUES_MAX}\n{text}"
        )
    })?;
    let mut logs = String::new();
    for half in 0..2 {
        publish(&broker, &topics, &stream(half * EVENTS)).await?;
        let said = sandbox.run(&["run", "--roles", "collector,aggregator,evaluator", "--until-caught-up"]).await?;
        ensure!(said.code == Some(0), "{}", said.stderr);
        logs += &said.stderr;
    }
    // Models: those that are tracked, and no folder of any other.
    let folders = std::fs::read_dir(sandbox.store().join("history")).context("list history/")?.count();
    ensure!(folders == 2 * MODELS_MAX, "{folders} models in history/");
    // Columns.
    for (prefix, json) in [("feature_", "features_json"), ("tag_", "tags_json")] {
        let columns = columns(&sandbox, prefix)?;
        ensure!(columns.len() <= COLUMNS_MAX, "{} columns {prefix}…: {columns:?}", columns.len());
        ensure!(!columns.is_empty(), "no column {prefix}…");
        let rows: Vec<Rows> = sandbox
            .sql(&format!("SELECT count(*) AS rows FROM history WHERE model_name = 'm' AND {json} IS NOT NULL"))
            .await?;
        ensure!(rows[0].rows > EVENTS, "what is beyond the cap is in {json}");
    }
    // Versions and segment values, each with all metrics.
    let groups: Vec<Groups> = sandbox
        .sql(
            "SELECT count(DISTINCT model_version) AS versions, count(DISTINCT segment_value) AS regions, \
             max(n) FILTER (WHERE model_version = '__other__' AND segment IS NULL) AS others FROM metrics WHERE model_name = 'm'",
        )
        .await?;
    let Groups { versions, regions, others } = groups[0];
    ensure!((versions, regions) == (VALUES_MAX + 1, VALUES_MAX + 1), "{versions} versions and {regions} regions");
    ensure!(others == 2 * EVENTS - VALUES_MAX, "all versions but those that are kept are one: {others}");
    // Accounts: nothing is lost, and what is in no window is counted.
    let said = sandbox.run(&["audit", "--format", "json"]).await?;
    ensure!(said.code == Some(0), "the accounts do not add up: {}", said.stderr);
    let accounts: Vec<Account> = serde_json::from_str(&said.stdout).context("read the audit")?;
    for kind in ["predictions", "labels"] {
        let found: usize =
            accounts.iter().filter(|row| row.scope == "untracked" && row.key == kind).map(|row| row.count).sum();
        let expected = 2 * EVENTS - (2 * MODELS_MAX - 1);
        ensure!(found == expected, "{found} {kind} of models that are not tracked, not {expected}");
    }
    outside::audited(&sandbox).await?;
    for word in ["twice models_max", "more features or tags than columns", "more values than get rows of their own"] {
        ensure!(logs.contains(word), "nobody says: {word}\n{}", crate::sandbox::tail(&logs));
    }
    Ok(())
}

/// More labels than memory holds are counted all the same: the account is what the rest is believed by.
#[tokio::test(flavor = "multi_thread")]
async fn a1_labels_are_counted_in_little_memory() -> Result<()> {
    const EVENTS: usize = 200_000;
    // What an evaluation has of the smallest `memory_max`.
    const LITTLE: usize = 64_000_000 / 3;
    let sandbox = Sandbox::with_config("")?;
    let (mut predictions, mut labels) = (String::new(), String::new());
    for number in 0..EVENTS {
        let (id, minute) = (format!("{number:0>100}"), number / 4_000);
        let event = format!("\"prediction_id\":\"{id}\",\"model_name\":\"m\"");
        predictions += &format!("{{{event},\"timestamp\":\"2026-01-05T10:{minute:02}:00Z\",\"score\":0.5}}\n");
        for _ in 0..copies(number) {
            labels += &format!("{{{event},\"timestamp\":\"2026-01-05T11:{minute:02}:00Z\",\"label\":1}}\n");
        }
    }
    std::fs::write(sandbox.path("predictions.jsonl"), predictions)?;
    std::fs::write(sandbox.path("labels.jsonl"), labels)?;
    let files = ["--predictions", "predictions.jsonl", "--labels", "labels.jsonl"];
    sandbox.succeed(&[&["evaluate"], &files[..], &["--out", "out", "--format", "csv"]].concat()).await?;
    let store = Store::open(&sandbox.path("out").display().to_string(), &BTreeMap::new())?;
    let replica = Replica::open(&store, "test").await?;
    let count = async |memory: usize| -> Result<BTreeMap<String, i64>> {
        let rows = account::labels(&Sessions::new(store.clone(), memory, 2), &replica.state, "m").await?;
        Ok(rows.into_iter().map(|row| (row.term, row.count)).collect())
    };
    let in_plenty = count(1 << 30).await?;
    let of = |wanted: usize| (0..EVENTS).filter(|number| copies(*number) >= wanted).count() as i64;
    ensure!(in_plenty["joined"] == of(1) && in_plenty["duplicate"] == of(2), "{in_plenty:?}");
    let in_little = count(LITTLE).await?;
    ensure!(in_plenty == in_little, "{in_plenty:?}, and in little memory {in_little:?}");
    Ok(())
}

/// One in seven has no label, and one in eleven says it twice.
fn copies(number: usize) -> usize {
    if number.is_multiple_of(7) { 0 } else { 1 + usize::from(number.is_multiple_of(11)) }
}
