//! Processes that are killed, asked to end, and share the work: nothing is lost and nothing counted twice.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use driftline_integration_tests::generator::{Generated, Options, generate};
use driftline_integration_tests::kafka::{Broker, Topics};
use driftline_store::{Heartbeat, Store};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::task::JoinHandle;

use crate::judge;
use crate::sandbox::{Process, Sandbox, get};

const PIPELINE: [&str; 3] = ["run", "--roles", "collector,aggregator,evaluator"];
/// How often the pipeline is killed.
const KILLS: usize = 6;
/// A killed consumer must leave its group soon, or most lives would end before they are given a partition; the broker of
/// scripts/kafka.sh grants so short a session, others may not.
const SHORT_SESSION: (&str, &str) = ("DRIFTLINE__KAFKA__PROPERTIES__SESSION_TIMEOUT_MS", "1500");

/// C1, C3, C4, T4, H1, A1. Only on a real Kafka: the embedded broker never evicts a killed consumer.
#[tokio::test(flavor = "multi_thread")]
async fn c1_kill_9_at_any_instant_loses_nothing_and_counts_nothing_twice() -> Result<()> {
    let Some(broker) = Broker::real("c1_kill_9_at_any_instant_loses_nothing_and_counts_nothing_twice")? else {
        return Ok(());
    };
    let seed: u64 = match std::env::var("DRIFTLINE_TEST_SEED") {
        Ok(seed) => seed.parse().context("DRIFTLINE_TEST_SEED is a number")?,
        Err(_) => rand::random(),
    };
    eprintln!("DRIFTLINE_TEST_SEED={seed} repeats this run's events and delays");
    let mut rng = StdRng::seed_from_u64(seed);
    let (options, run) = some_run(seed, 4_000);
    let topics = Topics::unique();
    broker.create_topics(&topics, &run).await?;
    let sandbox = Sandbox::new(broker.brokers(), &topics, &options.models_toml())?;
    let producing = produce_slowly(&broker, &topics, &run, Duration::from_secs(15));
    for life in 1..=KILLS {
        let mut process = sandbox.spawn_with("pipeline", &PIPELINE, &[SHORT_SESSION])?;
        tokio::time::sleep(Duration::from_millis(rng.random_range(300..4_500))).await;
        ensure!(!process.has_ended()?, "life {life} ended by itself:\n{}", process.log());
        process.kill().await?;
    }
    producing.await.context("the producer panicked")??;
    sandbox.catch_up().await?;
    judge::check(&sandbox, &topics, &options, &run).await
}

/// A process that was just killed counts among the living for a while, and has its share of the work: a run that ends by itself
/// leaves none of it undone.
#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_ends_by_itself_leaves_nothing_to_the_dead() -> Result<()> {
    let broker = Broker::embedded()?;
    let (options, run) = some_run(12, 400);
    let topics = Topics::unique();
    broker.create_topics(&topics, &run).await?;
    broker.produce(&topics, &run.records).await?;
    let sandbox = Sandbox::new(broker.brokers(), &topics, &options.models_toml())?;
    let store = Store::open(&sandbox.store().display().to_string(), &BTreeMap::new())?;
    let roles = ["aggregator", "evaluator"].map(str::to_owned).to_vec();
    for ghost in 0..8 {
        let now = driftline_schemas::clock::now();
        Heartbeat::new(format!("ghost-{ghost}"), roles.clone(), "none", now).beat(&store, now).await?;
    }
    sandbox.catch_up().await?;
    judge::check(&sandbox, &topics, &options, &run).await
}

/// SIGTERM flushes what is buffered, and ends with 0 soon.
#[tokio::test(flavor = "multi_thread")]
async fn sigterm_drains() -> Result<()> {
    let broker = match Broker::real("sigterm_drains (on a real Kafka; it runs on the embedded one now)")? {
        Some(broker) => broker,
        None => Broker::embedded()?,
    };
    let (options, run) = some_run(7, 1_000);
    let topics = Topics::unique();
    broker.create_topics(&topics, &run).await?;
    broker.produce(&topics, &run.records).await?;
    let sandbox = Sandbox::new(broker.brokers(), &topics, &options.models_toml())?;
    // Nothing is flushed before the end but what the drain flushes.
    let arguments = ["run", "--roles", "collector,aggregator,evaluator,serve"];
    let process = sandbox.spawn_with("pipeline", &arguments, &[("DRIFTLINE__FLUSH__INTERVAL", "1h")])?;
    let address = process.address().await?;
    // Events are counted as they are flushed, so until then only the buffers tell: they are full when they grow no more.
    let buffered = async || series(&address, "driftline_buffered_bytes").await;
    wait_for(&process, "all events are buffered", async || {
        let before = buffered().await?;
        tokio::time::sleep(Duration::from_secs(2)).await;
        Ok(before > 0.0 && before == buffered().await?)
    })
    .await?;
    ensure!(series(&address, "driftline_flushes").await? == 0.0, "something was flushed before its time");
    let took = process.terminate().await?;
    eprintln!("drained in {took:?}");
    for ((topic, partition), account) in &run.truth.partitions {
        let end = chain_end(&sandbox, topics.name(*topic), *partition).await?;
        ensure!(end == account.records, "{topic:?}[{partition}]: {end} of {} records were flushed", account.records);
    }
    sandbox.catch_up().await?;
    judge::check(&sandbox, &topics, &options, &run).await
}

/// C3, H2: two collectors, two aggregators and an evaluator, each a process of its own, share the work.
#[tokio::test(flavor = "multi_thread")]
async fn c3_processes_share_the_work() -> Result<()> {
    let Some(broker) = Broker::real("c3_processes_share_the_work")? else { return Ok(()) };
    let (options, run) = some_run(11, 3_000);
    let topics = Topics::unique();
    broker.create_topics(&topics, &run).await?;
    let sandbox = Sandbox::new(broker.brokers(), &topics, &options.models_toml())?;
    let mut processes = Vec::new();
    for name in ["collector-1", "collector-2", "aggregator-1", "aggregator-2", "evaluator-1"] {
        let (role, _) = name.split_once('-').expect("names have a number");
        let process = sandbox.spawn(name, &[role, "--listen", "127.0.0.1:0"])?;
        let address = process.address().await?;
        wait_for(&process, "it is ready", async || Ok(get(&address, "/readyz").await?.0 == 200)).await?;
        processes.push((name, process, address));
    }
    produce_slowly(&broker, &topics, &run, Duration::from_secs(8)).await.context("the producer panicked")??;
    let waiting = Instant::now();
    while let Err(error) = judge::check(&sandbox, &topics, &options, &run).await {
        ensure!(waiting.elapsed() < Duration::from_secs(60), "the truth is not reached: {error:#}");
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    for (name, _, address) in &processes {
        let did = match name.split_once('-').expect("names have a number").0 {
            "collector" => series(address, "driftline_events_accepted").await?,
            "aggregator" => series(address, "driftline_revisions").await?,
            _ => series(address, "driftline_evaluations").await?,
        };
        eprintln!("{name} did {did}");
        ensure!(did > 0.0, "{name} had no share of the work");
    }
    for (name, process, _) in processes {
        process.terminate().await.with_context(|| name.to_owned())?;
    }
    judge::check(&sandbox, &topics, &options, &run).await
}

fn some_run(seed: u64, predictions: usize) -> (Options, Generated) {
    let options = Options { seed, predictions, label_partitions: 4, ..Options::default() };
    let run = generate(&options);
    (options, run)
}

/// Produces in small steps; ends with an error unless every record was acknowledged at its place.
pub(crate) fn produce_slowly(
    broker: &Broker,
    topics: &Topics,
    run: &Generated,
    over: Duration,
) -> JoinHandle<Result<()>> {
    const STEPS: usize = 30;
    let (broker, topics, records) = (broker.clone(), topics.clone(), run.records.clone());
    tokio::spawn(async move {
        for step in records.chunks(records.len().div_ceil(STEPS)) {
            broker.produce(&topics, step).await?;
            tokio::time::sleep(over / STEPS as u32).await;
        }
        Ok(())
    })
}

async fn wait_for(process: &Process, what: &str, is_so: impl AsyncFn() -> Result<bool>) -> Result<()> {
    let waiting = Instant::now();
    while !is_so().await? {
        ensure!(waiting.elapsed() < Duration::from_secs(45), "in vain waited until {what}:\n{}", process.log());
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    Ok(())
}

/// The sum of a counter's series at `/metrics`; 0 if it has none yet.
pub(crate) async fn series(address: &str, name: &str) -> Result<f64> {
    let (status, text) = get(address, "/metrics").await?;
    ensure!(status == 200, "/metrics says {status}");
    let names = [format!("{name}_total"), name.to_owned()];
    let of = |line: &str| {
        let name = line.split(['{', ' ']).next()?;
        names.iter().any(|wanted| wanted == name).then(|| line.rsplit(' ').next()?.parse::<f64>().ok()).flatten()
    };
    Ok(text.lines().filter_map(of).sum())
}

/// How many records of a partition lie in `raw/`, by the audit.
async fn chain_end(sandbox: &Sandbox, topic: &str, partition: i32) -> Result<u64> {
    // The ledger has not applied them, so the accounts may not add up yet: only what is printed counts.
    let said = sandbox.run(&["audit", "--format", "json"]).await?;
    let rows: Vec<judge::Account> = serde_json::from_str(&said.stdout).context("read the audit")?;
    let key = format!("{topic}[{partition}]");
    Ok(rows.iter().filter(|row| row.key == key && row.term == "records").map(|row| row.count).sum())
}
