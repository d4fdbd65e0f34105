//! Engines that share no code with us read the tables by README's very calls, while windows are being revised: every read has one row
//! per prediction, and in the end all say what `driftline sql` says.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use chrono::{DateTime, SecondsFormat};
use driftline_integration_tests::generator::{Record, Topic};
use driftline_integration_tests::kafka::{Broker, Topics};
use driftline_store::Store;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::task::JoinHandle;

use crate::awake::{Awake, within};
use crate::sandbox::{Sandbox, binary, tail};

const PIPELINE: [&str; 3] = ["run", "--roles", "collector,aggregator,evaluator"];
/// Names that a path must encode, one beyond ASCII and one that looks like a number.
const MODELS: [&str; 4] = ["card-fraud", "fraud/eu v2", "é", "042"];
const PARTITIONS: i32 = 2;
const HOURS: i64 = 4;
const PREDICTIONS: i64 = 800;
/// Predictions that are there before the engines begin.
const AT_FIRST: i64 = 400;
const START: i64 = 1_768_003_200; // 2026-01-10T00:00:00Z, so that two dates are met: the last hours are the next day
const START_HOUR: i64 = 22;
/// Steps in which the rest comes, and the pause between them.
const STEPS: i64 = 30;
const PAUSE: Duration = Duration::from_millis(250);
/// So many reads of each engine while windows are revised; corrections of labels go on until then.
const READS: usize = 4;
/// And so many revisions meanwhile: as many as there are windows.
const REVISIONS: i64 = 16;
/// Spark starts in seconds on a machine of its own, and in minutes on one that is crowded.
const PATIENCE: Duration = Duration::from_secs(420);

/// An engine, and the interpreter that has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Engine {
    DuckDb,
    Polars,
    PyArrow,
    Spark,
}

/// Where the tables lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Disk,
    S3,
}

#[tokio::test(flavor = "multi_thread")]
async fn h1_engines_agree_on_a_disk_while_windows_are_revised() -> Result<()> {
    let name = "h1_engines_agree_on_a_disk_while_windows_are_revised";
    let broker = match Broker::real(&format!("{name} (on a real Kafka; it runs on the embedded one now)"))? {
        Some(broker) => broker,
        None => Broker::embedded()?,
    };
    let engines = available(Place::Disk)?;
    if engines.is_empty() {
        return Ok(());
    }
    let sandbox = lake(&broker).await?;
    let store = sandbox.sandbox.store().display().to_string();
    suite(&broker, &sandbox, &store, &engines).await?;
    duplicates_are_seen(&store, &engines).await
}

/// On S3 an engine may meet a replacement in the middle of a read: that fails, and the engine reads again, as README says.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "six minutes: cargo test --workspace -- --ignored h1_engines_agree_on_s3"]
async fn h1_engines_agree_on_s3_while_windows_are_revised() -> Result<()> {
    let Some(bucket) = given("DRIFTLINE_TEST_S3_URL") else {
        return skip("the engines were not asked on S3: scripts/s3.sh start prints DRIFTLINE_TEST_S3_URL and more");
    };
    let engines = available(Place::S3)?;
    if engines.is_empty() {
        return Ok(());
    }
    let broker = Broker::embedded()?;
    let sandbox = lake(&broker).await?;
    let store = format!("{}/engines-{}", bucket.trim_end_matches('/'), uuid::Uuid::new_v4().simple());
    suite(&broker, &sandbox, &store, &engines).await?;
    duplicates_are_seen(&store, &engines).await
}

/// The engines whose interpreters there are; says loudly which are missing.
fn available(place: Place) -> Result<Vec<(Engine, PathBuf)>> {
    let mut engines = Vec::new();
    for engine in [Engine::DuckDb, Engine::Polars, Engine::PyArrow, Engine::Spark] {
        let variable = engine.variable(place);
        match given(variable) {
            Some(python) => engines.push((engine, python.into())),
            None => skip(&format!(
                "{engine:?} is not asked on {place:?}: set {variable} to what {} prints",
                engine.script(place)
            ))?,
        }
    }
    Ok(engines)
}

impl Engine {
    /// DuckDB's extensions for S3 come as packages for another version than the one that reads disks.
    fn is_apart(self, place: Place) -> bool {
        self == Engine::Spark || (self == Engine::DuckDb && place == Place::S3)
    }

    fn variable(self, place: Place) -> &'static str {
        if self.is_apart(place) { "DRIFTLINE_TEST_SPARK" } else { "DRIFTLINE_TEST_PYTHON" }
    }

    fn script(self, place: Place) -> &'static str {
        if self.is_apart(place) { "scripts/spark.sh" } else { "scripts/python.sh" }
    }

    /// The variable with a way of its own to the store. versitygw does not encode the keys of its listings when it is asked to, as DuckDB
    /// does, which then decodes them all the same.
    fn endpoint(self, place: Place) -> Option<&'static str> {
        (self == Engine::DuckDb && place == Place::S3).then_some("DRIFTLINE_TEST_S3_LISTINGS")
    }

    fn name(self) -> &'static str {
        match self {
            Engine::DuckDb => "duckdb",
            Engine::Polars => "polars",
            Engine::PyArrow => "pyarrow",
            Engine::Spark => "spark",
        }
    }
}

fn given(variable: &str) -> Option<String> {
    std::env::var(variable).ok().filter(|value| !value.is_empty())
}

fn skip(reason: &str) -> Result<()> {
    ensure!(given("DRIFTLINE_REQUIRE_ALL").as_deref() != Some("1"), "{reason}");
    eprintln!("SKIPPED: {reason}");
    Ok(())
}

/// A sandbox with its topics.
struct Lake {
    sandbox: Sandbox,
    topics: Topics,
}

async fn lake(broker: &Broker) -> Result<Lake> {
    let topics = Topics::unique();
    for topic in [&topics.predictions, &topics.labels] {
        broker.create_topic(topic, PARTITIONS).await?;
    }
    let sandbox = Sandbox::new(broker.brokers(), &topics, "")?;
    let reference = sandbox.path("reference.jsonl");
    let rows: Vec<String> = (0..300).map(|serial| with_label(prediction(serial * 3), serial % 2).to_string()).collect();
    std::fs::write(&reference, rows.join("\n")).context("write the reference")?;
    let models: Vec<String> = MODELS
        .iter()
        .map(|name| {
            format!(
                "[[models]]\nname = {name:?}\ntask = \"binary\"\npositive_class = 1\nwindow = \"1h\"\nlabel_horizon = \"30d\"\n\
                 reference = {:?}\n",
                reference.display().to_string()
            )
        })
        .collect();
    let config = sandbox.path("driftline.toml");
    let text = std::fs::read_to_string(&config).context("read the configuration")?;
    std::fs::write(&config, text + &models.concat()).context("write the configuration")?;
    Ok(Lake { sandbox, topics })
}

async fn suite(broker: &Broker, lake: &Lake, store: &str, engines: &[(Engine, PathBuf)]) -> Result<()> {
    let on_store = |arguments: &[&'static str]| [&["--store", store], arguments].concat();
    let mut source = Source::new(broker, &lake.topics);
    source.send((0..AT_FIRST).map(|serial| (Topic::Predictions, prediction(serial)))).await?;
    lake.sandbox.succeed(&on_store(&["run", "--roles", "collector,aggregator,evaluator", "--until-caught-up"])).await?;

    let mut asked = Vec::new();
    for (engine, python) in engines {
        asked.push(Asked::start(*engine, python, store, true)?);
    }
    for one in &mut asked {
        one.wait_for_reads(1).await?;
    }
    let before = revisions(lake, store).await?;
    // An engine that reads over HTTP must find a moment in which none of the windows is replaced, as it does in production.
    let calm = [("DRIFTLINE__REVISE__MIN_DELAY", "4s"), ("DRIFTLINE__REVISE__MAX_DELAY", "4s")];
    let is_remote = store.contains("://");
    let calm = if is_remote { &calm[..] } else { &[] };
    let pipeline = lake.sandbox.spawn_with("pipeline", &on_store(&PIPELINE), calm)?;
    let reads: Vec<usize> = asked.iter().map(Asked::reads).collect();
    source.stream().await?;
    let waiting = Awake::start();
    let has_seen_enough = |asked: &[Asked]| asked.iter().zip(&reads).all(|(one, before)| one.reads() >= before + READS);
    let mut at_correction = reads.clone();
    while !(has_seen_enough(&asked) && revisions(lake, store).await? >= before + REVISIONS) {
        for one in &mut asked {
            one.still_runs().await?;
        }
        ensure!(
            waiting.elapsed() < PATIENCE,
            "engines or windows are too slow: read {:?}",
            asked.iter().map(Asked::reads).collect::<Vec<_>>()
        );
        // However slow the slowest engine is here, it finds that moment: the next corrections wait until all have read.
        if !is_remote || asked.iter().zip(&at_correction).all(|(one, before)| one.reads() > *before) {
            at_correction = asked.iter().map(Asked::reads).collect();
            source.correct().await?;
        }
        tokio::time::sleep(PAUSE * 4).await;
    }
    // That it drains in time is another test's matter; what it does not finish, the next run does.
    if let Err(error) = pipeline.terminate().await {
        eprintln!("the pipeline did not drain in time: {error:#}");
    }
    let after = revisions(lake, store).await?;
    lake.sandbox.succeed(&on_store(&["run", "--roles", "collector,aggregator,evaluator", "--until-caught-up"])).await?;
    eprintln!(
        "{} revisions while engines read; each read so often: {:?}",
        after - before,
        asked.iter().map(Asked::reads).collect::<Vec<_>>()
    );
    for one in asked {
        let said = one.end().await?;
        eprintln!("{said}");
    }
    rows_are_what_was_sent(lake, store).await
}

/// The engines are compared with `driftline sql`, and that with what was sent.
async fn rows_are_what_was_sent(lake: &Lake, store: &str) -> Result<()> {
    #[derive(Deserialize, Debug)]
    struct Counts {
        rows: i64,
        amounts: Option<f64>,
        texts: i64,
        later: Option<f64>,
    }
    let query = "SELECT count(*) AS rows, sum(feature_amount) AS amounts, count(feature_amount_text) AS texts, sum(feature_later) AS later FROM history";
    let answer = lake.sandbox.succeed(&["--store", store, "sql", "--format", "json", "-c", query]).await?;
    let said: Vec<Counts> = serde_json::from_str(&answer).context("read the counts")?;
    let said = said.first().context("one row")?;
    let features =
        |name: &str| (0..PREDICTIONS).map(|serial| prediction(serial)["features"][name].clone()).collect::<Vec<_>>();
    let sum = |name: &str| features(name).iter().filter_map(Value::as_f64).sum::<f64>();
    let texts = features("amount").iter().filter(|value| value.is_string()).count() as i64;
    ensure!(
        (said.rows, said.texts) == (PREDICTIONS, texts)
            && (said.amounts.unwrap_or_default() - sum("amount")).abs() < 1e-6
            && (said.later.unwrap_or_default() - sum("later")).abs() < 1e-6,
        "driftline sql says {said:?}; sent were {PREDICTIONS} rows, amounts of {}, {texts} texts, later ones of {}",
        sum("amount"),
        sum("later")
    );
    Ok(())
}

/// A check that cannot fail is none: with a part twice, every engine must find more rows than predictions.
async fn duplicates_are_seen(store: &str, engines: &[(Engine, PathBuf)]) -> Result<()> {
    let opened = Store::open(store, &BTreeMap::new())?;
    let listed = opened.list("history").await.context("list history")?;
    let object = &listed.first().context("history has an object")?.path;
    let copy = object.replace("_p0.", "_p1.");
    ensure!(copy != *object, "{object} is a window's first part");
    let found = opened.get(object).await?.context("what is listed is there")?;
    opened.put(&copy, found.bytes).await.context("copy a part")?;
    // Spark takes longest to start, and is asked in the same way.
    for (engine, python) in engines.iter().filter(|(engine, _)| *engine != Engine::Spark) {
        let mut asked = Asked::start(*engine, python, store, false)?;
        let code = within(PATIENCE, asked.child.wait()).await.context("it does not end")??.code();
        ensure!(code == Some(3), "{engine:?} ended with {code:?} on a store with a part twice");
    }
    opened.delete(&copy).await.context("remove the copy")
}

async fn revisions(lake: &Lake, store: &str) -> Result<i64> {
    #[derive(Deserialize)]
    struct Sum {
        revisions: i64,
    }
    let query = "SELECT sum(revision) AS revisions FROM windows";
    let answer = lake.sandbox.succeed(&["--store", store, "sql", "--format", "json", "-c", query]).await?;
    let rows: Vec<Sum> = serde_json::from_str(&answer).context("read the revisions")?;
    Ok(rows.first().context("one row")?.revisions)
}

/// `scripts/engines.py` at work.
struct Asked {
    engine: Engine,
    child: Child,
    reads: Arc<AtomicUsize>,
    said: JoinHandle<String>,
    failed: JoinHandle<String>,
}

impl Asked {
    fn start(engine: Engine, python: &Path, store: &str, goes_on: bool) -> Result<Self> {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts/engines.py");
        let mut command = Command::new(python);
        let place = if store.contains("://") { Place::S3 } else { Place::Disk };
        if let Some(endpoint) = engine.endpoint(place).and_then(given) {
            command.env("AWS_ENDPOINT_URL", endpoint);
        }
        command.arg(script).arg(engine.name()).args(["--store", store, "--watch", "--driftline"]).arg(binary());
        let stdin = if goes_on { Stdio::piped() } else { Stdio::null() };
        command.stdin(stdin).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().with_context(|| format!("start {engine:?}"))?;
        let reads = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&reads);
        let mut lines = BufReader::new(child.stdout.take().context("stdout is piped")?).lines();
        let said = tokio::spawn(async move {
            let mut said = String::new();
            while let Ok(Some(line)) = lines.next_line().await {
                if line == "read" {
                    counted.fetch_add(1, Ordering::Relaxed);
                } else {
                    said.push_str(&line);
                    said.push('\n');
                }
            }
            said
        });
        let mut errors = BufReader::new(child.stderr.take().context("stderr is piped")?).lines();
        let failed = tokio::spawn(async move {
            let mut failed = String::new();
            while let Ok(Some(line)) = errors.next_line().await {
                failed.push_str(&line);
                failed.push('\n');
            }
            failed
        });
        Ok(Asked { engine, child, reads, said, failed })
    }

    fn reads(&self) -> usize {
        self.reads.load(Ordering::Relaxed)
    }

    async fn still_runs(&mut self) -> Result<()> {
        let Some(status) = self.child.try_wait().context("look at an engine")? else { return Ok(()) };
        let failed = (&mut self.failed).await.unwrap_or_default();
        anyhow::bail!("{:?} ended with {status} while windows were revised:\n{}", self.engine, tail(&failed))
    }

    async fn wait_for_reads(&mut self, reads: usize) -> Result<()> {
        let waiting = Awake::start();
        while self.reads() < reads {
            self.still_runs().await?;
            ensure!(waiting.elapsed() < PATIENCE, "{:?} has read nothing in {PATIENCE:?}", self.engine);
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        Ok(())
    }

    /// Lets it compare its answers with ours, and end.
    async fn end(mut self) -> Result<String> {
        drop(self.child.stdin.take());
        let status =
            within(PATIENCE, self.child.wait()).await.with_context(|| format!("{:?} does not end", self.engine))?;
        let (said, failed) = (self.said.await.unwrap_or_default(), self.failed.await.unwrap_or_default());
        let status = status.context("wait for an engine")?;
        ensure!(status.code() == Some(0), "{:?} ended with {status}:\n{}\n{}", self.engine, tail(&said), tail(&failed));
        Ok(said)
    }
}

/// What is sent, and where it lies.
struct Source<'a> {
    broker: &'a Broker,
    topics: &'a Topics,
    offsets: BTreeMap<(Topic, i32), i64>,
    corrections: i64,
}

impl<'a> Source<'a> {
    fn new(broker: &'a Broker, topics: &'a Topics) -> Self {
        Source { broker, topics, offsets: BTreeMap::new(), corrections: 0 }
    }

    async fn send(&mut self, events: impl Iterator<Item = (Topic, Value)>) -> Result<()> {
        let mut records = Vec::new();
        for (number, (topic, event)) in events.enumerate() {
            let partition = number as i32 % PARTITIONS;
            let offset = self.offsets.entry((topic, partition)).or_default();
            let key = event["prediction_id"].as_str().map(|id| id.as_bytes().to_vec());
            records.push(Record {
                topic,
                partition,
                offset: *offset,
                key,
                payload: Some(event.to_string().into_bytes()),
            });
            *offset += 1;
        }
        self.broker.produce(self.topics, &records).await
    }

    /// The rest of the predictions, and the labels of all, in steps.
    async fn stream(&mut self) -> Result<()> {
        for step in 0..STEPS {
            let share = |of: i64| (of * step / STEPS)..(of * (step + 1) / STEPS);
            let predictions =
                share(PREDICTIONS - AT_FIRST).map(|serial| (Topic::Predictions, prediction(AT_FIRST + serial)));
            // 7 has no divisor in common with the number of predictions: every label once, from all windows at a time.
            let labels = share(PREDICTIONS).map(|serial| serial * 7 % PREDICTIONS).filter(|serial| serial % 9 != 0);
            self.send(predictions.chain(labels.map(|serial| (Topic::Labels, label(serial, 0))))).await?;
            tokio::time::sleep(PAUSE).await;
        }
        Ok(())
    }

    /// A label of each window is corrected.
    async fn correct(&mut self) -> Result<()> {
        self.corrections += 1;
        let (round, step) = (self.corrections, PREDICTIONS / 32);
        self.send((0..32).map(|at| (Topic::Labels, label(at * step + round % step, round)))).await
    }
}

/// The prediction of that number. Later ones have features and tags that earlier ones have not, and one that changes its type.
fn prediction(serial: i64) -> Value {
    let hour = serial % PREDICTIONS * HOURS / PREDICTIONS;
    let score = (serial * 37 % 101) as f64 / 101.0;
    let mut event = json!({
        "prediction_id": format!("p-{serial}"),
        "model_name": MODELS[serial as usize % MODELS.len()],
        "model_version": (serial % 3).to_string(),
        "timestamp": time(hour, serial, 0),
        "prediction": i32::from(score >= 0.5),
        "score": score,
        "features": {"amount": serial as f64 / 8.0},
        "tags": {"region": if serial / 4 % 2 == 0 { "eu" } else { "us" }},
    });
    if serial % 7 != 0 {
        event["probabilities"] = json!({"1": score, "0": 1.0 - score});
    }
    if serial % 5 == 0 {
        event["attributions"] = json!({"amount": score - 0.5});
    }
    if hour >= 2 {
        event["features"]["later"] = json!(serial as f64 / 16.0);
        if serial % 5 == 0 {
            event["features"]["amount"] = json!("n/a");
        }
    }
    if hour >= 3 {
        event["tags"]["later"] = json!("yes");
    }
    event
}

fn label(serial: i64, round: i64) -> Value {
    let hour = serial * HOURS / PREDICTIONS;
    let mut event = json!({
        "prediction_id": format!("p-{serial}"),
        "model_name": MODELS[serial as usize % MODELS.len()],
        "timestamp": time(hour, serial, 1_800 + round),
        "label": (serial / 5 + round) % 2,
    });
    if serial % 2 == 0 {
        event["prediction_timestamp"] = json!(time(hour, serial, 0));
    }
    event
}

fn with_label(mut event: Value, label: i64) -> Value {
    event["label"] = json!(label);
    event
}

fn time(hour: i64, serial: i64, later_secs: i64) -> String {
    let micros = (START + (START_HOUR + hour) * 3_600 + serial % 3_600 + later_secs) * 1_000_000 + serial;
    let time = DateTime::from_timestamp_micros(micros).expect("a time of this century");
    time.to_rfc3339_opts(SecondsFormat::Micros, true)
}
