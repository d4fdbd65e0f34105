//! What goes wrong outside: the configuration, the topics, the broker, the store, and the events.

use std::net::TcpListener;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use driftline_integration_tests::generator::{Options, Shares, Topic, generate};
use driftline_integration_tests::kafka::{Broker, Topics};
use serde::Deserialize;

use crate::judge;
use crate::sandbox::{Sandbox, get};

/// `driftline … | head`: as of other programs, it is the shell's SIGPIPE and no panic.
#[test]
fn a_command_whose_output_nobody_reads_ends_quietly() -> Result<()> {
    let sandbox = Sandbox::with_config("[kafka]\nbrokers = \"localhost:1\"")?;
    let mut child = std::process::Command::new(crate::sandbox::binary())
        .arg("--config")
        .arg(sandbox.path("driftline.toml"))
        .args(["config", "print"])
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .context("start it")?;
    // Long before it prints.
    drop(child.stdout.take());
    let ended = child.wait_with_output().context("wait for it")?;
    let said = String::from_utf8_lossy(&ended.stderr).into_owned();
    ensure!(ended.status.code() == Some(141) && said.is_empty(), "{:?}: {said}", ended.status);
    Ok(())
}

const PIPELINE: [&str; 3] = ["run", "--roles", "collector,aggregator,evaluator,serve"];

#[tokio::test]
async fn every_fault_of_a_configuration_is_named_and_the_exit_code_is_2() -> Result<()> {
    let sandbox = Sandbox::with_config(
        r#"memory_mx = "2GB"
        [kafka]
        start = "yesterday"
        [kafka.properties]
        "group.id" = "mine"
        [flush]
        interval = 5
        [[models]]
        name = "a"
        task = "clustering"
        window = "90s"
        [[models]]
        name = "a"
        "#,
    )?;
    for arguments in [&["run"][..], &["check"], &["sql", "-c", "SELECT 1"], &["audit"], &["config", "print"]] {
        let said = sandbox.run(arguments).await?;
        ensure!(said.code == Some(2), "{arguments:?} ended with {:?}", said.code);
        for fault in [
            "7 fault(s)",
            "did you mean `memory_max`?",
            "kafka.start",
            "group.id",
            "flush.interval",
            "models[0].task",
            "models[0].window",
            "models[1].name",
        ] {
            ensure!(said.stderr.contains(fault), "{arguments:?} does not name {fault}:\n{}", said.stderr);
        }
        ensure!(said.stdout.is_empty(), "{arguments:?} printed {:?}", said.stdout);
    }
    let usage = sandbox.run(&["run", "--roles", "conductor"]).await?;
    ensure!(usage.code == Some(2) && usage.stderr.contains("collector"), "{usage:?}");
    let absent = Sandbox::with_config("")?;
    std::fs::remove_file(absent.path("driftline.toml")).context("remove the configuration")?;
    let said = absent.run(&["check"]).await?;
    ensure!(said.code == Some(2) && said.stderr.contains("driftline.toml"), "{said:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_topic_is_named_with_the_command_that_creates_it() -> Result<()> {
    let broker = Broker::embedded()?;
    let topics = Topics::unique();
    let sandbox = Sandbox::new(broker.brokers(), &topics, "")?;
    let create =
        format!("kafka-topics.sh --bootstrap-server {} --create --topic {}", broker.brokers(), topics.predictions);
    for (arguments, code, says) in
        [(&["run"][..], 1, "stderr"), (&["run", "--until-caught-up"], 1, "stderr"), (&["check"], 3, "stdout")]
    {
        let said = sandbox.run(arguments).await?;
        ensure!(said.code == Some(code), "{arguments:?} ended with {:?}: {}", said.code, said.stderr);
        let text = if says == "stdout" { &said.stdout } else { &said.stderr };
        ensure!(text.contains(&create), "{arguments:?} does not say {create}:\n{text}");
    }
    let said = sandbox.run_with(&["run", "--until-caught-up"], &[("DRIFTLINE__KAFKA__CREATE_TOPICS", "true")]).await?;
    ensure!(said.code == Some(0), "create_topics creates them, and there is nothing to read: {}", said.stderr);
    ensure!(broker.watermarks(&topics.labels, 3)? == (0, 0), "the topic has four partitions");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_is_away_is_waited_for() -> Result<()> {
    let address = TcpListener::bind("127.0.0.1:0").context("find a free port")?.local_addr()?.to_string();
    // Topics that Driftline creates take no record above the broker's megabyte; rejected elements of arrays are enough here.
    let shares = Shares { batched: 0.3, ..Shares::default() };
    let options = Options { predictions: 300, label_partitions: 4, malformed_of_each: 0, shares, ..Options::default() };
    let run = generate(&options);
    let topics = Topics::unique();
    let sandbox = Sandbox::new(&address, &topics, &options.models_toml())?;
    let mut process = sandbox.spawn_with("pipeline", &PIPELINE, &[("DRIFTLINE__KAFKA__CREATE_TOPICS", "true")])?;
    let http = process.address().await?;
    tokio::time::sleep(Duration::from_secs(3)).await;
    ensure!(!process.has_ended()?, "it must wait:\n{}", process.log());
    let (status, why) = get(&http, "/readyz").await?;
    ensure!(status == 503 && why.contains("brokers"), "/readyz says {status}: {why}");
    ensure!(get(&http, "/livez").await?.0 == 200, "it is alive");
    ensure!(get(&http, "/metrics").await?.1.lines().any(|line| line.starts_with("driftline_")), "no series of ours");
    let check = sandbox.run(&["check"]).await?;
    ensure!(check.code == Some(3) && check.stdout.contains(&address), "{check:?}");

    let broker = Broker::embedded_at(&address)?;
    until("the topics are created", Duration::from_secs(60), async || Ok(topics_are_there(&broker, &topics)))
        .await
        .with_context(|| process.log())?;
    broker.produce(&topics, &run.records).await?;
    until("the events are judged", Duration::from_secs(60), async || {
        Ok(judge::check(&sandbox, &topics, &options, &run).await.is_ok())
    })
    .await
    .with_context(|| process.log())?;
    let (status, why) = get(&http, "/readyz").await?;
    ensure!(status == 200, "/readyz says {status}: {why}");
    let (_, metrics) = get(&http, "/metrics").await?;
    for name in [
        "driftline_events_accepted_total",
        "driftline_events_rejected_total",
        "driftline_revisions_total",
        "driftline_evaluations_total",
    ] {
        ensure!(metrics.lines().any(|line| line.starts_with(name)), "no {name} in\n{metrics}");
    }
    process.terminate().await?;
    Ok(())
}

/// A group that the broker refuses is no reason to wait in silence: it is logged as a warning, and `/readyz` says so.
#[tokio::test(flavor = "multi_thread")]
async fn a_refused_consumer_group_is_said_aloud() -> Result<()> {
    let broker = Broker::embedded()?;
    let topics = Topics::unique();
    for topic in [&topics.predictions, &topics.labels] {
        broker.create_topic(topic, 2).await?;
    }
    let sandbox = Sandbox::new(broker.brokers(), &topics, "")?;
    // Below the broker's group.min.session.timeout.ms.
    let short = [("DRIFTLINE__KAFKA__PROPERTIES__SESSION_TIMEOUT_MS", "1000"), ("RUST_LOG", "warn,driftline=info")];
    let process = sandbox.spawn_with("pipeline", &PIPELINE, &short)?;
    let http = process.address().await?;
    let said = until("the refusal is said", Duration::from_secs(15), async || {
        let log = process.log().to_lowercase();
        let is_logged = log.lines().any(|line| line.contains(" warn ") && line.contains("session"));
        Ok(is_logged && get(&http, "/readyz").await?.0 == 503)
    });
    let readyz = async || get(&http, "/readyz").await.map(|(status, why)| format!("/readyz says {status}: {why}"));
    if let Err(error) = said.await {
        return Err(error.context(format!("{}\n{}", readyz().await?, process.log())));
    }
    process.terminate().await?;
    Ok(())
}

fn topics_are_there(broker: &Broker, topics: &Topics) -> bool {
    [Topic::Predictions, Topic::Labels].into_iter().all(|topic| broker.watermarks(topics.name(topic), 3).is_ok())
}

pub(crate) async fn until(what: &str, at_most: Duration, is_so: impl AsyncFn() -> Result<bool>) -> Result<()> {
    let waiting = Instant::now();
    while !is_so().await? {
        ensure!(waiting.elapsed() < at_most, "in vain waited until {what}");
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    Ok(())
}

#[tokio::test]
async fn a_store_that_cannot_be_written_is_refused_with_its_path() -> Result<()> {
    let sandbox = Sandbox::new("127.0.0.1:1", &Topics::unique(), "")?;
    std::fs::write(sandbox.store(), "a file where the folder should be").context("write the file")?;
    let store = sandbox.store().display().to_string();
    for (arguments, code) in [(&["run", "--until-caught-up"][..], 1), (&["check"], 3)] {
        let said = sandbox.run(arguments).await?;
        ensure!(said.code == Some(code), "{arguments:?} ended with {:?}", said.code);
        ensure!((said.stderr + &said.stdout).contains(&store), "{arguments:?} does not name {store}");
    }
    Ok(())
}

/// Events of a model that is listed and of one that is not, published by `driftline produce`.
async fn strangers(accept: bool) -> Result<(Sandbox, Topics)> {
    let broker = Broker::embedded()?;
    let topics = Topics::unique();
    for topic in [&topics.predictions, &topics.labels] {
        broker.create_topic(topic, 2).await?;
    }
    let settings = "[[models]]\nname = \"known\"\ntask = \"binary\"\npositive_class = \"yes\"\n[[models]]\nname = \"idle\"\ntask = \"binary\"\n";
    let sandbox = Sandbox::new(broker.brokers(), &topics, settings)?;
    let (mut predictions, mut labels) = (String::new(), String::new());
    for model in ["known", "stranger"] {
        for n in 0..8 {
            let (score, hit) = (0.05 + 0.1 * f64::from(n), if n % 3 == 0 { "no" } else { "yes" });
            predictions += &format!(
                "{{\"prediction_id\":\"{model}-{n}\",\"model_name\":\"{model}\",\"timestamp\":\"2026-03-01T10:00:0{n}Z\",\"prediction\":\"yes\",\"score\":{score}}}\n"
            );
            labels += &format!(
                "{{\"prediction_id\":\"{model}-{n}\",\"model_name\":\"{model}\",\"timestamp\":\"2026-03-01T11:00:0{n}Z\",\"label\":\"{hit}\"}}\n"
            );
        }
    }
    predictions += "{\"prediction_id\":\"high\",\"model_name\":\"known\",\"timestamp\":\"2026-03-01T10:01:00Z\",\"prediction\":\"yes\",\"score\":1.01}\n";
    labels += "{\"prediction_id\":\"high\",\"model_name\":\"known\",\"timestamp\":\"2026-03-01T10:02:00Z\",\"label\":\"yes\"}\n";
    labels += "{\"prediction_id\":\"nobody\",\"model_name\":\"known\",\"timestamp\":\"2026-03-01T10:02:00Z\",\"label\":\"yes\"}\n";
    for (name, text, topic) in [("p.jsonl", predictions, &topics.predictions), ("l.jsonl", labels, &topics.labels)] {
        std::fs::write(sandbox.path(name), text).context("write events")?;
        sandbox.succeed(&["produce", name, "--topic", topic]).await?;
    }
    let accept = if accept { "true" } else { "false" };
    let arguments = ["run", "--roles", "collector,aggregator,evaluator", "--until-caught-up"];
    let said = sandbox.run_with(&arguments, &[("DRIFTLINE__ACCEPT_UNKNOWN_MODELS", accept)]).await?;
    ensure!(said.code == Some(0), "{}", said.stderr);
    Ok((sandbox, topics))
}

#[derive(Deserialize)]
struct Count {
    model_name: String,
    reason: Option<String>,
    count: u64,
}

async fn reasons(sandbox: &Sandbox) -> Result<Vec<(String, Option<String>, u64)>> {
    let query = "SELECT model_name, invalid_reason AS reason, count(*) AS count FROM history GROUP BY 1, 2 ORDER BY 1, 2 NULLS FIRST";
    Ok(sandbox.sql::<Count>(query).await?.into_iter().map(|row| (row.model_name, row.reason, row.count)).collect())
}

async fn accuracies(sandbox: &Sandbox) -> Result<Vec<(String, Option<f64>, u64)>> {
    #[derive(Deserialize)]
    struct Row {
        model_name: String,
        value: Option<f64>,
        n_labelled: u64,
    }
    let query = "SELECT model_name, value, n_labelled FROM metrics WHERE metric = 'accuracy' AND segment IS NULL AND model_version IS NULL AND class IS NULL ORDER BY 1";
    Ok(sandbox.sql::<Row>(query).await?.into_iter().map(|row| (row.model_name, row.value, row.n_labelled)).collect())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_that_is_not_listed_is_accepted_with_the_defaults() -> Result<()> {
    let (sandbox, _) = strangers(true).await?;
    let expected = [
        ("known".to_owned(), None, 8),
        ("known".to_owned(), Some("score_out_of_range".to_owned()), 1),
        ("stranger".to_owned(), None, 8),
    ];
    let found = reasons(&sandbox).await?;
    ensure!(found == expected, "{found:?}");
    let found = accuracies(&sandbox).await?;
    let expected = [("known".to_owned(), Some(5.0 / 8.0), 8), ("stranger".to_owned(), Some(5.0 / 8.0), 8)];
    ensure!(found == expected, "{found:?}");
    orphan_is_pending(&sandbox).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_that_is_not_listed_is_invalid_where_unknown_models_are_refused() -> Result<()> {
    let (sandbox, _) = strangers(false).await?;
    let expected = [
        ("known".to_owned(), None, 8),
        ("known".to_owned(), Some("score_out_of_range".to_owned()), 1),
        ("stranger".to_owned(), Some("unknown_model".to_owned()), 8),
    ];
    let found = reasons(&sandbox).await?;
    ensure!(found == expected, "{found:?}");
    let found = accuracies(&sandbox).await?;
    let stranger = found.iter().find(|(model, ..)| model == "stranger");
    ensure!(stranger.is_none_or(|(_, value, n)| value.is_none() && *n == 0), "{found:?}");
    orphan_is_pending(&sandbox).await
}

/// The label of an id that nobody predicted waits; the audit adds up, and knows nothing of a model without events.
async fn orphan_is_pending(sandbox: &Sandbox) -> Result<()> {
    let answer = sandbox.succeed(&["audit", "--format", "json"]).await?;
    let rows: Vec<judge::Account> = serde_json::from_str(&answer).context("read the audit")?;
    let term = |model: &str, term: &str| {
        rows.iter()
            .filter(|row| row.scope == "model" && row.model_name == model && row.term == term)
            .map(|row| row.count)
            .sum::<u64>()
    };
    ensure!(term("known", "pending") == 1, "{rows:?}");
    ensure!(term("known", "joined") == 9, "{rows:?}");
    ensure!(rows.iter().all(|row| row.model_name != "idle" || row.count == 0), "{rows:?}");
    let said = sandbox.run(&["sql", "-c", "SELECT * FROM nonsense"]).await?;
    ensure!(said.code == Some(1) && said.stderr.contains("nonsense"), "{said:?}");
    let tables = sandbox.succeed(&["sql", "-c", "SHOW TABLES"]).await?;
    ensure!(["history", "metrics", "windows", "dead_letters"].iter().all(|table| tables.contains(table)), "{tables}");
    ensure!(!tables.contains("raw_"), "{tables}");
    let said = sandbox.run(&["sql", "-c", "DROP TABLE history"]).await?;
    ensure!(said.code == Some(1), "{said:?}");
    Ok(())
}

/// One model's reference is no reason to stop the others, nor its own metrics; and `check` names it.
#[tokio::test(flavor = "multi_thread")]
async fn a_reference_that_cannot_be_read_costs_its_model_the_drift_and_nobody_anything_else() -> Result<()> {
    let broker = Broker::embedded()?;
    let options = Options { predictions: 200, ..Options::default() };
    let run = generate(&options);
    let topics = Topics::unique();
    broker.create_topics(&topics, &run).await?;
    broker.produce(&topics, &run.records).await?;
    let models_toml = options.models_toml().replacen("name = ", "reference = \"missing.parquet\"\nname = ", 1);
    let sandbox = Sandbox::new(broker.brokers(), &topics, &models_toml)?;

    let said = sandbox.run(&["check"]).await?;
    let names =
        said.stdout.lines().any(|line| line.starts_with("FAILED  reference") && line.contains("missing.parquet"));
    ensure!(said.code == Some(3) && names, "{said:?}");

    let mut process = sandbox.spawn("run", &["run", "--roles", "collector,aggregator,evaluator"])?;
    let mut models: Vec<(String, bool)> = Vec::new();
    let asked = Instant::now();
    while models.len() < 2 && asked.elapsed() < Duration::from_secs(60) {
        tokio::time::sleep(Duration::from_millis(500)).await;
        ensure!(!process.has_ended()?, "the process ended:\n{}", process.log());
        let query = "SELECT m.model_name, bool_or(d.reason = 'no_reference') AS without FROM metrics m \
                     JOIN drift d ON d.model_name = m.model_name GROUP BY 1 ORDER BY 1";
        let Ok(rows) = sandbox.sql::<Without>(query).await else { continue };
        models = rows.into_iter().map(|row| (row.model_name, row.without)).collect();
    }
    ensure!(models.len() > 1, "metrics came for {models:?} only");
    let log = process.log();
    ensure!(log.contains("missing.parquet") && log.contains("without drift"), "{log}");
    process.terminate().await?;

    // Somebody waits for this one: it says what is wrong and ends.
    let sandbox = Sandbox::new(broker.brokers(), &topics, &models_toml)?;
    let said = sandbox.run(&["run", "--roles", "collector,aggregator,evaluator", "--until-caught-up"]).await?;
    ensure!(said.code == Some(1) && said.stderr.contains("missing.parquet"), "{said:?}");
    Ok(())
}

#[derive(Deserialize)]
struct Without {
    model_name: String,
    without: bool,
}
