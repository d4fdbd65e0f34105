//! What was believed when, and that the way there leaves no trace: history told bit by bit ends as history told at once.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::Path;

use anyhow::{Context, Result, ensure};
use chrono::{DateTime, Utc};
use driftline_integration_tests::generator::{Options, generate};
use driftline_integration_tests::kafka::{Broker, Topics};
use driftline_schemas::clock;
use flate2::read::GzDecoder;
use serde::Deserialize;
use serde_json::Value;

use crate::sandbox::Sandbox;

/// Every published number by window, group and metric.
type Numbers = BTreeMap<String, (Option<f64>, Option<f64>, Option<f64>, i64)>;

/// Rows of `metrics`, or of a query that gives the same columns.
async fn numbers(sandbox: &Sandbox, rows: &str) -> Result<Numbers> {
    #[derive(Deserialize)]
    struct Row {
        key: String,
        value: Option<f64>,
        ci_low: Option<f64>,
        ci_high: Option<f64>,
        n_labelled: i64,
    }
    let query = format!(
        "SELECT concat_ws('/', model_name, CAST(window_start AS VARCHAR), coalesce(model_version, '*'), coalesce(segment, '*'), \
         coalesce(segment_value, '*'), metric, coalesce(class, '*')) AS key, value, ci_low, ci_high, n_labelled FROM {rows}"
    );
    let rows: Vec<Row> = sandbox.sql(&query).await?;
    let read = rows.len();
    let numbers: Numbers =
        rows.into_iter().map(|row| (row.key, (row.value, row.ci_low, row.ci_high, row.n_labelled))).collect();
    ensure!(numbers.len() == read, "{read} rows have {} different keys", numbers.len());
    Ok(numbers)
}

fn ensure_equal(what: &str, one: &Numbers, other: &Numbers) -> Result<()> {
    let differs: Vec<String> = one
        .keys()
        .chain(other.keys())
        .filter(|key| one.get(*key) != other.get(*key))
        .take(5)
        .map(|key| format!("{key}: {:?} and {:?}", one.get(key), other.get(key)))
        .collect();
    ensure!(differs.is_empty(), "{what}:\n{}", differs.join("\n"));
    Ok(())
}

/// README's query for what was known at a time.
fn known_at(time: DateTime<Utc>) -> Result<String> {
    const README: &str = include_str!("../../../README.md");
    const THIRD_OF_DECEMBER: &str = "2026-12-03T00:00:00Z";
    let blocks = README.split("```sql\n").skip(1).filter_map(|rest| rest.split("```").next());
    let query = blocks.into_iter().find(|block| block.contains(THIRD_OF_DECEMBER));
    let query = query.context("README has no query for what was known at a time")?;
    Ok(format!("({})", query.replace(THIRD_OF_DECEMBER, &time.format("%Y-%m-%dT%H:%M:%S%.6fZ").to_string())))
}

/// H2: early, late, corrected, withdrawn and orphaned labels come in five parts; whatever was published after each is what
/// `metrics_log` still says of that moment at the end.
#[tokio::test(flavor = "multi_thread")]
async fn h2_the_log_of_metrics_tells_what_was_known_at_any_time() -> Result<()> {
    const PARTS: usize = 5;
    let broker = Broker::embedded()?;
    let options = Options { predictions: 600, ..Options::default() };
    let run = generate(&options);
    let topics = Topics::unique();
    broker.create_topics(&topics, &run).await?;
    let sandbox = Sandbox::new(broker.brokers(), &topics, &options.models_toml())?;
    let mut believed = Vec::new();
    for records in run.records.chunks(run.records.len().div_ceil(PARTS)) {
        broker.produce(&topics, records).await?;
        sandbox.catch_up().await?;
        believed.push((clock::now(), numbers(&sandbox, "metrics").await?));
    }
    for pair in believed.windows(2) {
        ensure!(pair[0].1 != pair[1].1, "a part that changes nothing proves nothing");
    }
    let (before, _) = believed.first().context("there were parts")?;
    let none = numbers(&sandbox, &known_at(*before - chrono::Duration::days(1))?).await?;
    ensure!(none.is_empty(), "something was known before anything was");
    for (at, (time, published)) in believed.iter().enumerate() {
        let logged = numbers(&sandbox, &known_at(*time)?).await?;
        ensure_equal(&format!("after part {}", at + 1), published, &logged)?;
    }
    Ok(())
}

/// The real flights of 2015, with labels that come late, two of them beyond the horizon.
const FLIGHTS: &str = r#"[[models]]
name = "flight_airtime"
task = "regression"
window = "14d"
segments = ["features.AIRLINE"]
"#;

struct Line {
    time: DateTime<Utc>,
    text: String,
}

fn flights(file: &str) -> Result<Vec<Line>> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../data/flight_airtime").join(file);
    let file = std::fs::File::open(&path).with_context(|| format!("open {}", path.display()))?;
    let lines = BufReader::new(GzDecoder::new(file)).lines();
    let read = |line: std::io::Result<String>| {
        let text = line?;
        let event: Value = serde_json::from_str(&text)?;
        let time = event["timestamp"].as_str().context("an event has a time")?.parse()?;
        Ok(Line { time, text })
    };
    lines.map(read).collect()
}

async fn produce(sandbox: &Sandbox, topic: &str, lines: &[&Line]) -> Result<()> {
    if lines.is_empty() {
        return Ok(());
    }
    let text: Vec<&str> = lines.iter().map(|line| line.text.as_str()).collect();
    std::fs::write(sandbox.path("lines.jsonl"), text.join("\n") + "\n").context("write the lines")?;
    sandbox.succeed(&["produce", "lines.jsonl", "--topic", topic]).await.map(drop)
}

/// T4: a year is lived through in parts, each with the labels of its time; and it is replayed from the end, all labels before all
/// predictions. Both end with the same figures.
#[tokio::test(flavor = "multi_thread")]
async fn t4_a_replay_of_old_data_ends_as_it_did_live() -> Result<()> {
    const PARTS: i32 = 6;
    let (predictions, labels) = (flights("predictions.jsonl.gz")?, flights("labels.jsonl.gz")?);
    let times = || predictions.iter().chain(&labels).map(|line| line.time);
    let (first, last) = (times().min().context("there are events")?, times().max().context("there are events")?);
    let create = [("DRIFTLINE__KAFKA__CREATE_TOPICS", "true")];
    let pipeline = ["run", "--roles", "collector,aggregator,evaluator", "--until-caught-up"];
    let broker = Broker::embedded()?;

    let topics = Topics::unique();
    let live = Sandbox::new(broker.brokers(), &topics, FLIGHTS)?;
    let said = live.run_with(&pipeline, &create).await?;
    ensure!(said.code == Some(0), "{}", said.stderr);
    for part in 0..PARTS {
        let until = |part: i32| first + (last - first) / PARTS * part;
        let (from, to) = (until(part), until(part + 1));
        let is_now = |line: &&Line| line.time >= from && (line.time < to || part + 1 == PARTS);
        produce(&live, &topics.predictions, &predictions.iter().filter(is_now).collect::<Vec<_>>()).await?;
        produce(&live, &topics.labels, &labels.iter().filter(is_now).collect::<Vec<_>>()).await?;
        live.catch_up().await?;
    }
    let revised: Vec<Revised> = live
        .sql("SELECT count(*) AS windows, sum(CASE WHEN revision > 1 THEN 1 ELSE 0 END) AS revised FROM windows")
        .await?;
    ensure!(
        revised[0].windows == 14 && revised[0].revised >= 10,
        "lived through in parts, most windows are revised: {revised:?}"
    );

    let topics = Topics::unique();
    let replayed = Sandbox::new(broker.brokers(), &topics, FLIGHTS)?;
    let said = replayed.run_with(&pipeline, &create).await?;
    ensure!(said.code == Some(0), "{}", said.stderr);
    produce(&replayed, &topics.labels, &labels.iter().rev().collect::<Vec<_>>()).await?;
    produce(&replayed, &topics.predictions, &predictions.iter().rev().collect::<Vec<_>>()).await?;
    replayed.catch_up().await?;

    let (live_numbers, replayed_numbers) = (numbers(&live, "metrics").await?, numbers(&replayed, "metrics").await?);
    ensure!(live_numbers.len() > 500, "{} figures are few", live_numbers.len());
    ensure_equal("lived and replayed", &live_numbers, &replayed_numbers)?;
    for sandbox in [&live, &replayed] {
        sandbox.succeed(&["audit"]).await?;
    }
    Ok(())
}

#[derive(Debug, Deserialize)]
struct Revised {
    windows: i64,
    revised: i64,
}
