//! What is old goes and what is to be forgotten is gone, and nothing else changes: seen from outside, by the command line.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use driftline_integration_tests::generator::{Ids, ModelOptions, Options, Record, Task, Topic, generate};
use driftline_integration_tests::kafka::{Broker, Topics};
use driftline_integration_tests::own::OwnS3;
use parquet::file::reader::{FileReader, SerializedFileReader};
use serde::Deserialize;

use crate::outside;
use crate::sandbox::Sandbox;

const PIPELINE: [&str; 4] = ["run", "--roles", "collector,aggregator,evaluator", "--until-caught-up"];
/// Everything that is not needed goes at once.
const RAW_GOES: [(&str, &str); 3] = [
    ("DRIFTLINE__RETENTION__RAW", "0s"),
    ("DRIFTLINE__RETENTION__ROUTED", "0s"),
    ("DRIFTLINE__RETENTION__GRACE", "0s"),
];
const MODEL: &str = "card-fraud";

fn options(seed: u64) -> Options {
    let fraud = ModelOptions::new(MODEL, Task::Binary(["fraud", "ok"]));
    Options { seed, predictions: 600, ids: Ids::Random, models: vec![fraud], ..Options::default() }
}

/// All objects below a folder of the store.
fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let Ok(entries) = std::fs::read_dir(folder) else { return Ok(files) };
    for entry in entries {
        let path = entry.context("list the store")?.path();
        if path.is_dir() {
            files.extend(self::files(&path)?);
        } else {
            files.push(path);
        }
    }
    Ok(files)
}

/// Figures of all windows, and what history says of each prediction; not when, nor how often, they were judged.
async fn outcome(sandbox: &Sandbox) -> Result<(String, String)> {
    let metrics = "SELECT model_name, model_version, segment, segment_value, window_start, metric, class, value, reason, n, n_labelled \
                   FROM metrics ORDER BY ALL";
    let metrics = metrics.replace("ORDER BY ALL", "ORDER BY 1, 2, 3, 4, 5, 6, 7");
    let history = "SELECT model_name, window_start, prediction_id, model_version, label, invalid_reason, \"offset\", label_offset \
                   FROM history ORDER BY 1, 2, 3, 4";
    let ask = async |query: &str| sandbox.succeed(&["sql", "--format", "csv", "-c", query]).await;
    Ok((ask(&metrics).await?, ask(history).await?))
}

/// Where a test runs: a broker, and a store in a folder or on an S3 server whose objects lie as files.
struct Place {
    broker: Broker,
    s3: Option<OwnS3>,
}

impl Place {
    fn quick() -> Result<Self> {
        Ok(Place { broker: Broker::embedded()?, s3: None })
    }

    /// A real Kafka and an S3 server, where the environment has both.
    async fn real(test: &str) -> Result<Option<Self>> {
        let (Some(broker), Some(s3)) = (Broker::real(test)?, OwnS3::start_for(test).await?) else { return Ok(None) };
        Ok(Some(Place { broker, s3: Some(s3) }))
    }

    fn sandbox(&self, topics: &Topics, models: &str) -> Result<Sandbox> {
        let Some(s3) = &self.s3 else { return Sandbox::new(self.broker.brokers(), topics, models) };
        let prefix = format!("retention-{}", uuid::Uuid::new_v4().simple());
        let lines = s3.settings(&prefix, 20);
        Sandbox::with_files(self.broker.brokers(), topics, &lines, s3.folder(&prefix), models)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a1_raw_objects_go_and_every_figure_stays() -> Result<()> {
    raw_objects_go(&Place::quick()?).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a1_raw_objects_go_and_every_figure_stays_on_s3_with_a_real_kafka() -> Result<()> {
    match Place::real("a1_raw_objects_go_and_every_figure_stays_on_s3_with_a_real_kafka").await? {
        Some(place) => raw_objects_go(&place).await,
        None => Ok(()),
    }
}

/// A1, C1, T4: raw objects go between two halves of a stream, and the outcome is that of a store that keeps them all.
async fn raw_objects_go(place: &Place) -> Result<()> {
    let broker = &place.broker;
    let options = options(21);
    let run = generate(&options);
    let topics = Topics::unique();
    broker.create_topics(&topics, &run).await?;
    let keeps = place.sandbox(&topics, &options.models_toml())?;
    let goes = place.sandbox(&topics, &options.models_toml())?;
    if place.s3.is_some() {
        // Two readers of the same topics, on a broker where groups are real.
        keeps.edit(|text| text.replace("group = \"", "group = \"keeps-"))?;
    }
    let raw = || {
        Ok::<_, anyhow::Error>(
            files(&goes.store().join("raw"))?.iter().filter(|f| f.extension().is_some_and(|e| e == "parquet")).count(),
        )
    };
    let mut deleted = false;
    for records in run.records.chunks(run.records.len().div_ceil(3)) {
        broker.produce(&topics, records).await?;
        keeps.catch_up().await?;
        let before = raw()?;
        let said = goes.run_with(&PIPELINE, &RAW_GOES).await?;
        ensure!(said.code == Some(0), "{}", said.stderr);
        deleted |= raw()? < before + 4;
        let said = goes.run(&["audit"]).await?;
        ensure!(said.code == Some(0), "the accounts do not add up without the objects: {}", said.stderr);
        outside::check(&goes).await?;
    }
    ensure!(deleted, "nothing was deleted");
    ensure!(
        !files(&goes.store().join("raw"))?.is_empty() && raw()? < files(&keeps.store().join("raw"))?.len(),
        "raw objects went"
    );
    ensure!(
        outcome(&goes).await? == outcome(&keeps).await?,
        "figures differ from those of a store that keeps everything"
    );
    // The table of dead letters is what is left of them.
    goes.succeed(&["sql", "-c", "SELECT count(*) FROM dead_letters"]).await?;
    let manifest = std::fs::read_to_string(goes.store().join("driftline.json")).context("read the manifest")?;
    ensure!(manifest.contains("\"format_version\": 2"), "older builds must refuse it: {manifest}");
    let manifest = std::fs::read_to_string(keeps.store().join("driftline.json")).context("read the manifest")?;
    ensure!(manifest.contains("\"format_version\": 1"), "a store that keeps everything is as it was: {manifest}");
    Ok(())
}

#[derive(Deserialize)]
struct Labelled {
    prediction_id: String,
}

/// The records of a run that hold one of these ids, as they were.
fn of_ids(records: &[Record], ids: &BTreeSet<String>) -> Vec<Record> {
    let holds = |record: &&Record| {
        let text = record.payload.as_deref().map(String::from_utf8_lossy).unwrap_or_default();
        ids.iter().any(|id| text.contains(&format!("\"{id}\"")))
    };
    records.iter().filter(holds).cloned().collect()
}

/// Every text in every object of the store, Parquet decoded: the paths of those that hold one of the ids.
fn holders(store: &Path, ids: &BTreeSet<String>) -> Result<Vec<String>> {
    let mut holders = Vec::new();
    for path in files(store)? {
        let bytes = std::fs::read(&path).context("read an object")?;
        let mut text = String::from_utf8_lossy(&bytes).into_owned();
        if path.extension().is_some_and(|extension| extension == "parquet") {
            let reader = SerializedFileReader::new(bytes::Bytes::from(bytes))?;
            for row in reader.get_row_iter(None)? {
                for (_, field) in row?.get_column_iter() {
                    match field {
                        parquet::record::Field::Bytes(bytes) => text += &String::from_utf8_lossy(bytes.data()),
                        field => text += &format!("{field}\n"),
                    }
                }
            }
        }
        text += &path.display().to_string();
        if ids.iter().any(|id| text.contains(id.as_str())) {
            holders.push(path.display().to_string());
        }
    }
    Ok(holders)
}

#[tokio::test(flavor = "multi_thread")]
async fn a1_forgotten_ids_are_nowhere_and_the_accounts_add_up() -> Result<()> {
    ids_are_forgotten(&Place::quick()?).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a1_forgotten_ids_are_nowhere_on_s3_with_a_real_kafka() -> Result<()> {
    match Place::real("a1_forgotten_ids_are_nowhere_on_s3_with_a_real_kafka").await? {
        Some(place) => ids_are_forgotten(&place).await,
        None => Ok(()),
    }
}

/// A1: ids are forgotten while a pipeline runs, and come again; nothing of them is left anywhere.
async fn ids_are_forgotten(place: &Place) -> Result<()> {
    let broker = &place.broker;
    let options = options(22);
    let run = generate(&options);
    let topics = Topics::unique();
    broker.create_topics(&topics, &run).await?;
    let sandbox = place.sandbox(&topics, &options.models_toml())?;
    let (first, rest) = run.records.split_at(run.records.len() * 2 / 3);
    broker.produce(&topics, first).await?;
    sandbox.catch_up().await?;
    let query = format!(
        "SELECT DISTINCT prediction_id FROM history WHERE model_name = '{MODEL}' AND label IS NOT NULL ORDER BY 1 LIMIT 4"
    );
    let ids: BTreeSet<String> =
        sandbox.sql::<Labelled>(&query).await?.into_iter().map(|row| row.prediction_id).collect();
    ensure!(ids.len() == 4 && !holders(&sandbox.store(), &ids)?.is_empty(), "{ids:?}");
    let process = sandbox.spawn("pipeline", &PIPELINE[..3])?;
    broker.produce(&topics, rest).await?;
    let listed: Vec<&str> = ids.iter().map(String::as_str).collect();
    std::fs::write(sandbox.path("ids"), format!("{}\n{}\n", listed[2], listed[3])).context("write the ids")?;
    let file = sandbox.path("ids").display().to_string();
    let said = sandbox
        .succeed(&["forget", "--model", MODEL, "--prediction-id", listed[0], listed[1], "--ids-file", &file])
        .await?;
    ensure!(said.starts_with(&format!("4 id(s) of {MODEL} are forgotten")), "{said}");
    // They come again.
    let again = of_ids(&run.records, &ids);
    ensure!(
        again.iter().any(|r| r.topic == Topic::Predictions) && again.iter().any(|r| r.topic == Topic::Labels),
        "{again:?}"
    );
    for topic in [Topic::Predictions, Topic::Labels] {
        publish_anywhere(broker, topics.name(topic), &again, topic).await?;
    }
    process.terminate().await?;
    sandbox.catch_up().await?;
    let left = holders(&sandbox.store(), &ids)?;
    ensure!(left.is_empty(), "{ids:?} are still in {left:?}");
    let said = sandbox.run(&["audit"]).await?;
    ensure!(said.code == Some(0), "the accounts do not add up: {}", said.stderr);
    ensure!(said.stdout.contains("forgotten"), "no tombstone: {}", said.stdout);
    outside::check(&sandbox).await?;
    // Wrong usage is said.
    let said = sandbox.run(&["forget", "--model", "nobody", "--prediction-id", "a"]).await?;
    ensure!(said.code == Some(1) && said.stderr.contains(MODEL), "{said:?}");
    ensure!(
        sandbox.run(&["forget", "--model", MODEL]).await?.code == Some(2),
        "without ids there is nothing to forget"
    );
    Ok(())
}

/// Publishes records whatever offset they get.
async fn publish_anywhere(broker: &Broker, name: &str, records: &[Record], topic: Topic) -> Result<()> {
    let producer = broker.producer()?;
    for record in records.iter().filter(|record| record.topic == topic) {
        let payload = record.payload.clone().unwrap_or_default();
        let message =
            rdkafka::producer::FutureRecord::<[u8], [u8]>::to(name).partition(record.partition).payload(&payload[..]);
        let sent = producer.send(message, std::time::Duration::from_secs(10)).await;
        sent.map_err(|(error, _)| error).context("publish")?;
    }
    Ok(())
}
