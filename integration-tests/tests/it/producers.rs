//! The example producers in four languages, on a real Kafka: what one publishes and another labels is joined, and judged right.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};

use anyhow::{Context, Result, ensure};
use driftline_integration_tests::generator::{
    Generated, Options, Producers, Record, RowState, Shares, Topic, generate,
};
use driftline_integration_tests::kafka::{Broker, Topics};
use driftline_integration_tests::partitioner::Partitioner;
use serde::Deserialize;
use tokio::process::Command;

use crate::judge;
use crate::sandbox::{Sandbox, tail};

/// Not a power of two: there, partitioners that differ in the sign of a hash would agree by accident.
const PARTITIONS: i32 = 5;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Language {
    Python,
    Java,
    Node,
    Go,
}

const LANGUAGES: [Language; 4] = [Language::Python, Language::Java, Language::Node, Language::Go];

impl Language {
    fn name(self) -> &'static str {
        match self {
            Language::Python => "python",
            Language::Java => "java",
            Language::Node => "node",
            Language::Go => "go",
        }
    }

    fn partitioner(self) -> Partitioner {
        match self {
            Language::Python => Partitioner::Crc32,
            Language::Java | Language::Node | Language::Go => Partitioner::Murmur2,
        }
    }

    /// Runs the producer to its end.
    async fn run(self, arguments: &[&str]) -> Result<Output> {
        let script = script();
        let mut command = Command::new("bash");
        command.arg(&script).args(["run", self.name()]).args(arguments).stdin(Stdio::null()).kill_on_drop(true);
        command.output().await.with_context(|| format!("run the {} producer", self.name()))
    }

    /// Publishes a file's lines, all of which must be acknowledged.
    async fn publish(self, broker: &Broker, topic: &str, file: &Path, lines: usize) -> Result<()> {
        let file = file.to_str().context("a path that is text")?;
        let output = self.run(&["--brokers", broker.brokers(), "--topic", topic, file]).await?;
        let (said, failed) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        ensure!(output.status.success(), "the {} producer: {}\n{}", self.name(), output.status, tail(&failed));
        ensure!(
            said == format!("acknowledged {lines}\n"),
            "the {} producer of {lines} lines says {said:?}",
            self.name()
        );
        eprintln!("{}: {}", self.name(), said.trim_end());
        Ok(())
    }
}

fn script() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts/producers.sh")
}

/// A real Kafka, and all four producers built; `None` where that cannot be, after saying so loudly.
async fn ready(test: &str) -> Result<Option<Broker>> {
    let missing =
        Command::new("bash").arg(script()).arg("missing").output().await.context("run scripts/producers.sh")?;
    if !missing.status.success() {
        let tools = String::from_utf8_lossy(&missing.stderr).trim().replace('\n', ", ");
        let reason = format!("{test} lacks {tools}: scripts/setup.sh --tests installs them");
        ensure!(std::env::var("DRIFTLINE_REQUIRE_ALL").as_deref() != Ok("1"), reason);
        eprintln!("SKIPPED: {reason}");
        return Ok(None);
    }
    let Some(broker) = Broker::real(test)? else { return Ok(None) };
    let built = Command::new("bash").arg(script()).arg("build").output().await.context("run scripts/producers.sh")?;
    ensure!(built.status.success(), "scripts/producers.sh build: {}", String::from_utf8_lossy(&built.stderr));
    Ok(Some(broker))
}

/// Every fault that events can have, but those of records that are no JSON object: a producer does not publish these.
fn options(predictions: Language, labels: Language) -> Options {
    Options {
        predictions: 500,
        span_secs: 2 * 3_600,
        prediction_partitions: PARTITIONS,
        label_partitions: PARTITIONS,
        producers: Producers::Each { predictions: predictions.partitioner(), labels: labels.partitioner() },
        shares: Shares { batched: 0.0, ..Shares::default() },
        malformed_of_each: 0,
        ..Options::default()
    }
}

/// Writes a topic's payloads as JSON lines; returns how many.
fn write_lines<'a>(file: &Path, records: impl Iterator<Item = &'a Record>) -> Result<usize> {
    let payloads: Vec<&[u8]> = records.filter_map(|record| record.payload.as_deref()).collect();
    std::fs::write(file, payloads.join(&b'\n')).context("write the lines")?;
    Ok(payloads.len())
}

/// Publishes a run, predictions in one language and labels in another, and lets Driftline catch up.
async fn published(
    broker: &Broker,
    options: &Options,
    run: &Generated,
    (predictions, labels): (Language, Language),
    is_kept: impl Fn(&Record) -> bool,
) -> Result<(Sandbox, Topics)> {
    let topics = Topics::unique();
    broker.create_topics(&topics, run).await?;
    let sandbox = Sandbox::new(broker.brokers(), &topics, &options.models_toml())?;
    for (topic, language) in [(Topic::Predictions, predictions), (Topic::Labels, labels)] {
        let file = sandbox.path(&format!("{topic:?}.jsonl"));
        let lines = write_lines(&file, run.records.iter().filter(|r| r.topic == topic && is_kept(r)))?;
        language.publish(broker, topics.name(topic), &file, lines).await?;
    }
    sandbox.catch_up().await?;
    Ok((sandbox, topics))
}

/// How many predictions have a label, and how many of these in a partition of another number.
#[derive(Debug, PartialEq, Deserialize)]
struct Joined {
    labelled: u64,
    crossing: u64,
}

async fn joined(sandbox: &Sandbox) -> Result<Joined> {
    let query = "SELECT count(label) AS labelled, \
                 count(label) FILTER (WHERE \"partition\" <> label_partition) AS crossing FROM history";
    sandbox.sql::<Joined>(query).await?.pop().context("a count has one row")
}

/// Each language in both roles. The judge compares positions too: so each record lies in the partition that its language's
/// partitioner names, in the order of the file.
#[tokio::test(flavor = "multi_thread")]
async fn what_one_language_predicts_and_another_labels_is_joined_and_judged_right() -> Result<()> {
    let Some(broker) = ready("what_one_language_predicts_and_another_labels_is_joined_and_judged_right").await? else {
        return Ok(());
    };
    for (at, predictions) in LANGUAGES.into_iter().enumerate() {
        let labels = LANGUAGES[(at + 1) % LANGUAGES.len()];
        let pair = format!("{} predicts, {} labels", predictions.name(), labels.name());
        let options = options(predictions, labels);
        let run = generate(&options);
        let (sandbox, topics) = published(&broker, &options, &run, (predictions, labels), |_| true).await?;
        judge::check(&sandbox, &topics, &options, &run).await.with_context(|| pair.clone())?;
        let joined = joined(&sandbox).await?;
        let truth = run.truth.rows.iter().filter(|row| {
            row.current
                .as_ref()
                .is_some_and(|(label, _)| label.label.class().is_some() || label.label.number().is_some())
        });
        ensure!(
            joined.labelled == truth.count() as u64 && joined.labelled > 0,
            "{pair}: {joined:?} differs from the truth"
        );
        // The same key lies in partitions of one number exactly where both partitioners are the same.
        let crosses = predictions.partitioner() != labels.partitioner();
        ensure!((joined.crossing > 0) == crosses, "{pair}: {joined:?}");
        eprintln!("{pair}: {} joined, {} of them across partitions", joined.labelled, joined.crossing);
    }
    Ok(())
}

/// The test above can fail: without one label that counts, the judge sees it.
#[tokio::test(flavor = "multi_thread")]
async fn a_label_that_was_not_published_is_missed() -> Result<()> {
    let Some(broker) = ready("a_label_that_was_not_published_is_missed").await? else { return Ok(()) };
    // Calm, so that every label counts.
    let options = Options { shares: Shares::calm(), ..options(Language::Go, Language::Go) };
    let run = generate(&options);
    // The last one of its partition, so that no other record gets another offset.
    let mut last = BTreeMap::new();
    for record in run.records.iter().filter(|record| record.topic == Topic::Labels) {
        last.insert(record.partition, record.offset);
    }
    let counts = |record: &Record| {
        run.truth.rows.iter().any(|row| {
            let position = row.current.as_ref().map(|(_, position)| (position.partition, position.offset));
            row.state == RowState::Labelled && position == Some((record.partition, record.offset))
        })
    };
    let lost = run.records.iter().filter(|record| record.topic == Topic::Labels);
    let lost = lost.filter(|record| last[&record.partition] == record.offset).find(|record| counts(record));
    let lost = lost.context("no partition ends in a label that counts")?;
    let (sandbox, topics) = published(&broker, &options, &run, (Language::Go, Language::Go), |r| r != lost).await?;
    let verdict = judge::check(&sandbox, &topics, &options, &run).await;
    let said = format!("{:#}", verdict.err().context("the judge has missed that a label is missing")?);
    for table in ["the chain's end", "history", "labelled, waiting"] {
        ensure!(said.contains(table), "nothing of {table} in: {said}");
    }
    Ok(())
}

/// Nothing is dropped in silence: lines that are no events are named, the others published, and the run has failed.
#[tokio::test(flavor = "multi_thread")]
async fn a_line_that_is_no_event_is_named_and_fails_the_run() -> Result<()> {
    let Some(broker) = ready("a_line_that_is_no_event_is_named_and_fails_the_run").await? else { return Ok(()) };
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("events.jsonl");
    let lines: [&[u8]; 8] = [
        b"{\"prediction_id\":\"first\"}",
        b"not json",
        b"[{\"prediction_id\":\"in an array\"}]",
        b"",
        b"{\"model_name\":\"m\"}",
        b"{\"prediction_id\":\"nan\",\"score\":NaN}",
        b"{\"prediction_id\":\"not utf-8 \xff\"}",
        // A line separator of Unicode is no end of a line.
        "{\"prediction_id\":\"last\",\"tags\":{\"t\":\"a\u{2028}b\"}}".as_bytes(),
    ];
    std::fs::write(&file, lines.join(&b'\n'))?;
    for language in LANGUAGES {
        let topics = Topics::unique();
        broker.create_topic(&topics.labels, 1).await?;
        let path = file.to_str().context("a path that is text")?;
        let output = language.run(&["--brokers", broker.brokers(), "--topic", &topics.labels, path]).await?;
        let (said, failed) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        let name = language.name();
        ensure!(output.status.code() == Some(1), "{name} ends with {}:\n{failed}", output.status);
        ensure!(said == "acknowledged 2\n", "{name} says {said:?}:\n{failed}");
        let named: Vec<usize> = (1..=lines.len()).filter(|n| failed.contains(&format!("line {n}: "))).collect();
        ensure!(named == [2, 3, 4, 5, 6, 7], "{name} names {named:?}:\n{failed}");
        ensure!(broker.watermarks(&topics.labels, 0)? == (0, 2), "{name}: not two records in the topic");
    }
    Ok(())
}

/// The first thing that a newcomer runs: the demos' events are accepted whole, and joined.
#[tokio::test(flavor = "multi_thread")]
async fn the_demos_of_all_four_are_joined() -> Result<()> {
    #[derive(Debug, PartialEq, Deserialize)]
    struct Counts {
        predictions: u64,
        labelled: u64,
        refused: u64,
    }
    let Some(broker) = ready("the_demos_of_all_four_are_joined").await? else { return Ok(()) };
    let topics = Topics::unique();
    for topic in [&topics.predictions, &topics.labels] {
        broker.create_topic(topic, PARTITIONS).await?;
    }
    for language in LANGUAGES {
        let to = ["--predictions-topic", &topics.predictions, "--labels-topic", &topics.labels];
        let output = language.run(&[&["--brokers", broker.brokers(), "--demo", "50"], &to[..]].concat()).await?;
        let (said, failed) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        ensure!(output.status.success() && said == "acknowledged 100\n", "{}: {said}\n{failed}", language.name());
    }
    let sandbox = Sandbox::new(broker.brokers(), &topics, "")?;
    sandbox.catch_up().await?;
    let query = "SELECT (SELECT count(*) FROM history WHERE invalid_reason IS NULL) AS predictions, \
                 (SELECT count(label) FROM history) AS labelled, (SELECT count(*) FROM dead_letters) AS refused";
    let counts = sandbox.sql::<Counts>(query).await?.pop().context("a count has one row")?;
    ensure!(counts == Counts { predictions: 200, labelled: 200, refused: 0 }, "{counts:?}");
    sandbox.succeed(&["audit"]).await.map(drop)
}
