//! `demo`: the main job with nothing installed. An embedded broker, a local store, real data, the ordinary pipeline.
#[cfg(feature = "embedded-broker")]
mod broker;

use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use driftline_evaluator::EvaluatedWindow;
use driftline_schemas::config::Config;
use driftline_schemas::tables::WindowRow;
use tokio_util::sync::CancellationToken;

use crate::cli::{DemoArgs, DemoData, Global, Role};
use crate::commands::produce::{Publisher, key_of};
use crate::config;
use crate::pipeline::{self, OnPublished, Plan};
use crate::telemetry::Metrics;

/// The replay takes about so long: shorter shows fewer revisions, longer is a longer wait.
const REPLAY: Duration = Duration::from_secs(30);
/// Marks a folder that a demo may empty.
const MARKER: &str = ".driftline-demo";
const PREDICTIONS: &str = "driftline.predictions";
const LABELS: &str = "driftline.labels";

/// A data set that travels in the binary.
struct DataSet {
    model: &'static str,
    about: &'static str,
    predictions: &'static [u8],
    labels: &'static [u8],
    reference: &'static [u8],
    settings: &'static str,
    metrics: &'static [&'static str],
}

const MA_EMPLOYMENT: DataSet = DataSet {
    model: "ma_employment",
    about: "Is a person employed? US Census, Massachusetts 2015-2018, with a real model's scores; truth comes days late.",
    predictions: include_bytes!("../../data/ma_employment/predictions.jsonl.gz"),
    labels: include_bytes!("../../data/ma_employment/labels.jsonl.gz"),
    reference: include_bytes!("../../data/ma_employment/reference.jsonl.gz"),
    settings: "task = \"binary\"\npositive_class = 1\nwindow = \"day\"\nsegments = [\"features.SEX\"]\n",
    metrics: &["accuracy", "f1", "roc_auc", "log_loss"],
};

const FLIGHT_AIRTIME: DataSet = DataSet {
    model: "flight_airtime",
    about: "How long is a flight in the air? US DOT 2015, with a real model's predictions; a cancelled flight never gets a label.",
    predictions: include_bytes!("../../data/flight_airtime/predictions.jsonl.gz"),
    labels: include_bytes!("../../data/flight_airtime/labels.jsonl.gz"),
    reference: include_bytes!("../../data/flight_airtime/reference.jsonl.gz"),
    settings: "task = \"regression\"\nwindow = \"14d\"\nsegments = [\"features.AIRLINE\"]\n",
    metrics: &["mean_absolute_error", "root_mean_squared_error", "r2"],
};

pub(crate) async fn run(global: &Global, args: &DemoArgs) -> Result<()> {
    let data = match args.data {
        DemoData::MaEmployment => &MA_EMPLOYMENT,
        DemoData::FlightAirtime => &FLIGHT_AIRTIME,
    };
    let started = Instant::now();
    let dir = prepare(&args.dir)?;
    let brokers = start_broker()?;
    let store = global.store.clone().unwrap_or_else(|| dir.join("store").display().to_string());
    let file = dir.join("driftline.toml");
    let text = settings(data, &brokers, &store, &dir);
    std::fs::write(&file, &text).context("write the demo's configuration")?;
    std::fs::write(dir.join("reference.jsonl"), unpack(data.reference)?).context("write the reference")?;
    let config = config::validate(text.parse().context("read the demo's configuration")?)?;

    println!("Driftline demo: {}\n", data.about);
    println!("Configuration ({}), with delays of seconds where production has minutes:\n", file.display());
    for line in text.lines() {
        println!("    {line}");
    }
    println!(
        "\nAn embedded broker listens at {brokers}. Replaying predictions, and labels as they came, in about {} s.",
        REPLAY.as_secs()
    );
    println!("A line is a window judged anew, because rows or truth have arrived:\n");
    let board = Arc::new(Board::new(data.metrics));
    board.print_header();
    let shutdown = pipeline::shutdown_on_signals();
    let metrics = Metrics::start()?;
    replay(&config, data, &board, &metrics, &shutdown).await?;
    if shutdown.is_cancelled() {
        bail!("interrupted");
    }
    board.print_summary();
    epilogue(data, &file, &store, started.elapsed());
    if args.keep {
        println!("\nStaying up for more events (produce to {brokers}); http://{}/metrics; Ctrl-C ends.", config.listen);
        let plan = plan(&metrics, &board, false, Some(config.listen.clone()));
        let opened = pipeline::open_store(&config).await?;
        pipeline::run(&config, opened, plan, shutdown).await?;
    }
    metrics.stop();
    Ok(())
}

fn plan(metrics: &Metrics, board: &Arc<Board>, until_caught_up: bool, listen: Option<String>) -> Plan {
    let board = board.clone();
    let on_published: OnPublished = Arc::new(move |row, evaluated| board.add(row, evaluated));
    let roles = vec![Role::Collector, Role::Aggregator, Role::Evaluator];
    Plan { roles, until_caught_up, listen, registry: metrics.registry.clone(), on_published: Some(on_published) }
}

/// Runs the pipeline while the events are published, stops it, and lets a second one finish: as a restart would.
async fn replay(
    config: &Config,
    data: &'static DataSet,
    board: &Arc<Board>,
    metrics: &Metrics,
    shutdown: &CancellationToken,
) -> Result<()> {
    let store = pipeline::open_store(config).await?;
    let published = CancellationToken::new();
    let first = shutdown.child_token();
    let kafka = config.kafka.clone();
    let (done, stop) = (published.clone(), shutdown.clone());
    let publishing = tokio::task::spawn_blocking(move || {
        let result = publish(&kafka, data, &stop);
        done.cancel();
        result
    });
    let end_first = async {
        published.cancelled().await;
        tokio::time::sleep(Duration::from_secs(2)).await;
        first.cancel();
    };
    let running = pipeline::run(config, store.clone(), plan(metrics, board, false, None), first.clone());
    let (ran, ()) = tokio::join!(running, end_first);
    publishing.await.context("publish")??;
    ran?;
    if shutdown.is_cancelled() {
        return Ok(());
    }
    pipeline::run(config, store, plan(metrics, board, true, None), shutdown.clone()).await
}

/// Publishes predictions and labels in the order of their times, spread over the replay.
fn publish(kafka: &driftline_schemas::config::KafkaConfig, data: &DataSet, stop: &CancellationToken) -> Result<()> {
    let (predictions, labels) = (unpack(data.predictions)?, unpack(data.labels)?);
    let mut events: Vec<(&[u8], &str)> = lines(&predictions).map(|line| (line, PREDICTIONS)).collect();
    events.extend(lines(&labels).map(|line| (line, LABELS)));
    // Timestamps are RFC 3339 in UTC with equal precision: their text sorts as they do.
    events.sort_by_key(|(line, _)| timestamp(line));
    let publisher = Publisher::new(kafka)?;
    let started = Instant::now();
    let total = events.len();
    for (number, (line, topic)) in events.into_iter().enumerate() {
        publisher.send(topic, key_of(line).as_deref(), line)?;
        let due = REPLAY.mul_f64(number as f64 / total as f64);
        if let Some(early) = due.checked_sub(started.elapsed())
            && early > Duration::from_millis(20)
        {
            std::thread::sleep(early);
        }
        if stop.is_cancelled() {
            break;
        }
    }
    publisher.finish()?;
    Ok(())
}

fn timestamp(line: &[u8]) -> String {
    #[derive(serde::Deserialize)]
    struct Time {
        timestamp: String,
    }
    serde_json::from_slice::<Time>(line).map(|time| time.timestamp).unwrap_or_default()
}

fn lines(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty())
}

fn unpack(packed: &[u8]) -> Result<Vec<u8>> {
    let mut text = Vec::new();
    flate2::read::GzDecoder::new(packed).read_to_end(&mut text).context("unpack the demo's data")?;
    Ok(text)
}

/// An empty folder of the demo's own.
fn prepare(dir: &Path) -> Result<PathBuf> {
    if dir.exists() {
        let is_ours = dir.join(MARKER).exists();
        let is_empty = std::fs::read_dir(dir).with_context(|| format!("look into {}", dir.display()))?.next().is_none();
        if !is_ours && !is_empty {
            bail!("{} is not empty and no demo made it; choose another folder with --dir", dir.display());
        }
        if is_ours {
            std::fs::remove_dir_all(dir).with_context(|| format!("empty {}", dir.display()))?;
        }
    }
    std::fs::create_dir_all(dir).with_context(|| format!("create {}", dir.display()))?;
    std::fs::write(dir.join(MARKER), "`driftline demo` empties this folder\n").context("mark the demo's folder")?;
    Ok(dir.to_path_buf())
}

fn settings(data: &DataSet, brokers: &str, store: &str, dir: &Path) -> String {
    let reference = dir.join("reference.jsonl");
    format!(
        r#"poll_interval = "100ms"
idle_timeout = "2s"
[kafka]
brokers = "{brokers}"
[store]
url = {store:?}
[flush]
interval = "500ms"
[revise]
min_delay = "1s"           # production: 1m
max_delay = "2s"           # production: 1d
max_amplification = 1000   # tiny windows, rewritten every second: production keeps 10
[[models]]
name = "{model}"
{settings}reference = {reference:?}
"#,
        model = data.model,
        settings = data.settings,
        reference = reference.display().to_string(),
    )
}

#[cfg(feature = "embedded-broker")]
fn start_broker() -> Result<String> {
    use rdkafka::ClientConfig;
    use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
    use rdkafka::client::DefaultClientContext;

    let brokers = broker::start().context("start the embedded broker")?.to_string();
    let admin: AdminClient<DefaultClientContext> =
        ClientConfig::new().set("bootstrap.servers", &brokers).create().context("reach the embedded broker")?;
    // Its retention goes by record time; the data are years old.
    let topic = |name| NewTopic::new(name, 4, TopicReplication::Fixed(1)).set("retention.ms", "-1");
    let topics = [topic(PREDICTIONS), topic(LABELS)];
    let create = async move { admin.create_topics(&topics, &AdminOptions::new()).await };
    let created = tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on(create));
    for result in created.context("create the demo's topics")? {
        result.map_err(|(topic, code)| anyhow::anyhow!("cannot create {topic}: {code}"))?;
    }
    Ok(brokers)
}

#[cfg(not(feature = "embedded-broker"))]
fn start_broker() -> Result<String> {
    bail!("this build has no embedded broker; build it with the feature `embedded-broker`")
}

/// What has been published so far, for people.
struct Board {
    metrics: &'static [&'static str],
    windows: Mutex<BTreeMap<i64, Vec<Line>>>,
}

#[derive(Clone)]
struct Line {
    row: WindowRow,
    values: Vec<Option<f64>>,
    drifted: Vec<String>,
}

impl Board {
    fn new(metrics: &'static [&'static str]) -> Self {
        Self { metrics, windows: Mutex::default() }
    }

    fn print_header(&self) {
        let names: Vec<String> = self.metrics.iter().map(|name| format!("{name:>24}")).collect();
        println!(
            "{:<11} {:>8} {:>7} {:>12} {:>9}{}",
            "window",
            "revision",
            "state",
            "predictions",
            "labelled",
            names.join("")
        );
    }

    fn add(&self, row: &WindowRow, evaluated: &EvaluatedWindow) {
        let overall = |name: &str| {
            let mut rows = evaluated.metrics.iter().filter(|row| row.metric == name);
            rows.find(|row| row.segment.is_none() && row.model_version.is_none() && row.class.is_none())
        };
        let values: Vec<Option<f64>> =
            self.metrics.iter().map(|name| overall(name).and_then(|row| row.value)).collect();
        let drifted = evaluated
            .drift
            .iter()
            .filter(|row| row.model_version.is_none() && row.segment.is_none() && row.drifted == Some(true))
            .map(|row| format!("{} ({} {:.2})", row.column_name, row.method, row.statistic.unwrap_or(0.0)))
            .collect();
        let line = Line { row: row.clone(), values, drifted };
        let mut windows = self.windows.lock().unwrap_or_else(PoisonError::into_inner);
        let lines = windows.entry(row.window_start.timestamp_micros()).or_default();
        println!("{}", show(&line, lines.last()));
        lines.push(line);
    }

    fn print_summary(&self) {
        let windows = self.windows.lock().unwrap_or_else(PoisonError::into_inner);
        println!("\nWhat was believed first, and what turned out ({}):\n", self.metrics[0]);
        println!(
            "{:<11} {:>9} {:>12} {:>9} {:>14} {:>14}   drifted",
            "window", "revisions", "predictions", "labelled", "first", "now"
        );
        for lines in windows.values() {
            let Some(last) = lines.last() else { continue };
            let first = lines.iter().find_map(|line| line.values[0]);
            let number = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), |value| format!("{value:.4}"));
            println!(
                "{:<11} {:>9} {:>12} {:>9} {:>14} {:>14}   {}",
                last.row.window_start.format("%Y-%m-%d"),
                last.row.revision,
                last.row.predictions,
                last.row.labelled,
                number(first),
                number(last.values[0]),
                last.drifted.join(", "),
            );
        }
    }
}

/// One line; `*` marks a figure that truth has changed.
fn show(line: &Line, before: Option<&Line>) -> String {
    let values: Vec<String> = line
        .values
        .iter()
        .enumerate()
        .map(|(at, value)| {
            let was = before.and_then(|before| before.values[at]);
            let mark = if was.is_some() && was != *value { "*" } else { " " };
            value.map_or_else(|| format!("{:>24}", "- "), |value| format!("{value:>23.4}{mark}"))
        })
        .collect();
    let row = &line.row;
    let date = row.window_start.format("%Y-%m-%d");
    format!(
        "{date:<11} {:>8} {:>7} {:>12} {:>9}{}",
        row.revision,
        row.state,
        row.predictions,
        row.labelled,
        values.join("")
    )
}

fn epilogue(data: &DataSet, file: &Path, store: &str, elapsed: Duration) {
    let file = file.display();
    println!("\nDone in {:.0} s. Everything is Parquet under {store}:", elapsed.as_secs_f64());
    println!("    history/   one joined row per prediction      metrics/   metrics of every window, latest revision");
    println!("    drift/     distances from the reference       metrics_log/   every revision ever published");
    println!("\nTry:");
    println!(
        "    driftline --config {file} sql -c \"SELECT window_start, metric, value, ci_low, ci_high, n_labelled, revision, state"
    );
    println!(
        "        FROM metrics WHERE metric = '{}' AND segment IS NULL AND model_version IS NULL ORDER BY 1\"",
        data.metrics[0]
    );
    println!(
        "    driftline --config {file} sql -c \"SELECT model_version, count(*), avg(label_value) FROM history GROUP BY 1\""
    );
    println!("    driftline --config {file} audit");
}
