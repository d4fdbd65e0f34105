//! The harness in minutes, and what of it deserves a name: zombies, a process that dies at each of its writes, topics created again.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use driftline_integration_tests::chaos::proxy::{Proxy, Side};
use driftline_integration_tests::chaos::world::{self, Neighbours, Settings, StoreKind};
use driftline_integration_tests::generator::{ModelOptions, Options, Task, generate};
use driftline_integration_tests::kafka::{Broker, GroupOffsets, Topics};
use driftline_integration_tests::own::{OwnKafka, OwnS3};

use crate::crash::produce_slowly;
use crate::judge;
use crate::sandbox::Sandbox;

/// Longer than a heartbeat in the store is believed (15 s) and than a consumer's session (6 s): others have taken over.
const FROZEN: Duration = Duration::from_secs(17);
/// A process that has not caught up after so many lives never will.
const LIVES_MAX: u64 = 500;
/// Writes after which each life must have brought something forward: those that every life makes anew, and one more.
const WRITES_MAX: u64 = 12;
/// How long a zombie is watched that goes on.
const WATCHED: Duration = Duration::from_secs(4);

fn seed() -> Result<u64> {
    let seed = match std::env::var("DRIFTLINE_TEST_SEED") {
        Ok(seed) => seed.parse().context("DRIFTLINE_TEST_SEED is a number")?,
        Err(_) => u64::from(rand::random::<u32>()),
    };
    eprintln!("DRIFTLINE_TEST_SEED={seed} repeats this run");
    Ok(seed)
}

/// C1, C3, C4, T4, H1, A1: everything at once, on S3 where there is one; `cargo xtask chaos` is the same for longer.
/// `DRIFTLINE_CHAOS_WORLDS` and `DRIFTLINE_CHAOS_ROUNDS` make it longer here.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "kills a Kafka and an S3 server of its own, some minutes: cargo test --workspace -- --ignored c1_a_world, or cargo xtask chaos"]
async fn c1_a_world_under_fire_ends_as_the_truth_says() -> Result<()> {
    const TEST: &str = "c1_a_world_under_fire_ends_as_the_truth_says";
    let Some(kafka) = OwnKafka::start_for(TEST).await? else { return Ok(()) };
    let s3 = OwnS3::start_for(&format!("{TEST} (in a folder now)")).await?;
    let store = if s3.is_some() { StoreKind::S3 } else { StoreKind::Local };
    let number = |variable: &str, default: u64| -> Result<u64> {
        std::env::var(variable)
            .map_or(Ok(default), |text| text.parse().with_context(|| format!("{variable} is a number")))
    };
    let (first, neighbours) = (seed()?, Neighbours { kafka, s3 });
    for world in 0..number("DRIFTLINE_CHAOS_WORLDS", 1)? {
        let rounds = number("DRIFTLINE_CHAOS_ROUNDS", 4)? as usize;
        let settings = Settings {
            seed: first.wrapping_add(world),
            rounds,
            predictions: 300,
            store,
            builds: Vec::<PathBuf>::new(),
        };
        let report = world::run(&settings, &neighbours).await?;
        eprintln!("{report}");
        ensure!(report.events > 0 && report.rounds == rounds as u64, "nothing happened");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn c3_a_collector_that_was_stopped_beyond_its_session_does_no_harm() -> Result<()> {
    zombie("c3_a_collector_that_was_stopped_beyond_its_session_does_no_harm", "collector").await
}

#[tokio::test(flavor = "multi_thread")]
async fn h2_an_aggregator_that_was_stopped_beyond_its_heartbeat_does_no_harm() -> Result<()> {
    zombie("h2_an_aggregator_that_was_stopped_beyond_its_heartbeat_does_no_harm", "aggregator").await
}

#[tokio::test(flavor = "multi_thread")]
async fn h2_an_evaluator_that_was_stopped_beyond_its_heartbeat_does_no_harm() -> Result<()> {
    zombie("h2_an_evaluator_that_was_stopped_beyond_its_heartbeat_does_no_harm", "evaluator").await
}

/// One of two processes of a role is stopped in the midst of its work; the other takes over and reaches the truth without it; then it
/// goes on where it stood, and nothing changes: not in raw/, not in the ledger, not in history/, not in the metrics.
async fn zombie(test: &str, role: &str) -> Result<()> {
    let Some(broker) = Broker::real(test)? else { return Ok(()) };
    let options = Options { seed: 21, predictions: 1_500, label_partitions: 3, ..Options::default() };
    let run = generate(&options);
    let topics = Topics::unique();
    broker.create_topics(&topics, &run).await?;
    let sandbox = Sandbox::new(broker.brokers(), &topics, &options.models_toml())?;
    let mut processes = Vec::new();
    for other in ["collector", "aggregator", "evaluator"] {
        processes.push(sandbox.spawn(other, &["run", "--roles", other])?);
    }
    let victim = sandbox.spawn("victim", &["run", "--roles", role])?;
    let producing = produce_slowly(&broker, &topics, &run, Duration::from_secs(8));
    tokio::time::sleep(Duration::from_secs(5)).await;
    victim.signal("STOP").await?;
    let frozen = Instant::now();
    producing.await.context("the producer panicked")??;
    while let Err(error) = judge::compare(&sandbox, &topics, &options, &run).await {
        ensure!(frozen.elapsed() < Duration::from_secs(180), "nobody takes over: {error:#}");
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    eprintln!("the others reached the truth {:?} after the {role} was stopped", frozen.elapsed());
    tokio::time::sleep(FROZEN.saturating_sub(frozen.elapsed())).await;
    victim.signal("CONT").await?;
    tokio::time::sleep(WATCHED).await;
    judge::check(&sandbox, &topics, &options, &run).await.context("after the zombie went on")?;
    victim.terminate().await.context("end the zombie")?;
    for process in processes {
        process.terminate().await?;
    }
    sandbox.catch_up().await?;
    judge::check(&sandbox, &topics, &options, &run).await
}

/// What stands in a store for good, once it was created: by it a life is told to have brought something forward.
fn immutable(store: &Path) -> Result<BTreeSet<PathBuf>> {
    fn walk(folder: &Path, found: &mut BTreeSet<PathBuf>) -> Result<()> {
        let Ok(entries) = std::fs::read_dir(folder) else { return Ok(()) };
        for entry in entries {
            let path = entry.context("list the store")?.path();
            if path.is_dir() {
                walk(&path, found)?;
            } else {
                found.insert(path);
            }
        }
        Ok(())
    }
    let mut found = BTreeSet::new();
    walk(&store.join("raw"), &mut found)?;
    walk(&store.join("metrics_log"), &mut found)?;
    let is_record = |path: &PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('0'));
    let mut records = BTreeSet::new();
    walk(&store.join("ctl"), &mut records)?;
    found.extend(
        records.into_iter().filter(|path| path.parent().is_some_and(|p| p.ends_with("ctl")) && is_record(path)),
    );
    Ok(found)
}

/// C1, C3, H2: a process dies at each of its writes, one after the other, by turns just before it takes effect and just after.
/// Every life begins with what the one before has left.
///
/// A life may write once; if that has brought nothing forward, the next may write once more, until one has. What every life writes
/// anew (how far a partition was read, the tables of a revision whose log stands) is not forward, and a life that always died at it
/// would never get past it, in any design: how many writes a life needs at most is what is bounded here.
#[tokio::test(flavor = "multi_thread")]
async fn c1_a_process_that_dies_at_every_single_write_loses_nothing() -> Result<()> {
    const TEST: &str = "c1_a_process_that_dies_at_every_single_write_loses_nothing";
    let (Some(broker), Some(s3)) = (Broker::real(TEST)?, OwnS3::start_for(TEST).await?) else { return Ok(()) };
    let options = Options {
        seed: 5,
        predictions: 30,
        span_secs: 1_800,
        prediction_partitions: 1,
        label_partitions: 1,
        models: vec![ModelOptions::new("card-fraud", Task::Binary(["fraud", "ok"]))],
        malformed_of_each: 1,
        ..Options::default()
    };
    let run = generate(&options);
    let topics = Topics::unique();
    broker.create_topics(&topics, &run).await?;
    broker.produce(&topics, &run.records).await?;
    let prefix = format!("every-write-{}", uuid::Uuid::new_v4().simple());
    let folder = s3.folder(&prefix);
    let (lines, models) = (s3.settings(&prefix, 20), options.models_toml());
    let sandbox = Sandbox::with_files(broker.brokers(), &topics, &lines, folder.clone(), &models)?;
    let door = Proxy::new(&s3.endpoint, 1).open().await?;
    let variables = [
        ("DRIFTLINE__STORE__OPTIONS__ENDPOINT_URL", door.endpoint.as_str()),
        ("DRIFTLINE__KAFKA__PROPERTIES__SESSION_TIMEOUT_MS", "1500"),
        // Several objects a partition: several writes to die at.
        ("DRIFTLINE__FLUSH__BYTES", "8KB"),
    ];
    let (began, mut stands, mut granted, mut granted_most) = (Instant::now(), immutable(&folder)?, 1, 1);
    for life in 0_u64.. {
        ensure!(life < LIVES_MAX, "after {life} lives it has not caught up");
        let arguments = ["run", "--roles", "collector,aggregator,evaluator", "--until-caught-up"];
        let mut process = sandbox.spawn_with("lives", &arguments, &variables)?;
        let id = process.id().context("it has just started")?;
        // So many writes take effect either way.
        let (nth, side) = if life.is_multiple_of(2) { (granted, Side::After) } else { (granted + 1, Side::Before) };
        door.kill_at(id, nth, side);
        let status = process.wait(Duration::from_secs(120)).await?;
        door.spare();
        // The dead are not waited for: their heartbeats are taken away.
        let _there_may_be_none = std::fs::remove_dir_all(folder.join("live"));
        let before = std::mem::replace(&mut stands, immutable(&folder)?);
        ensure!(before.is_subset(&stands), "{:?} are gone", before.difference(&stands).collect::<Vec<_>>());
        granted = if stands == before { granted + 1 } else { 1 };
        granted_most = granted_most.max(granted);
        ensure!(granted <= WRITES_MAX, "{granted} writes of a life bring nothing forward:\n{}", process.log());
        match status.code() {
            None => continue,
            Some(0) => {
                eprintln!(
                    "{} lives, {} died, {} writes, at most {granted_most} a life to bring something forward, {:?}",
                    life + 1,
                    door.killed(),
                    door.puts(),
                    began.elapsed()
                );
            }
            Some(code) => anyhow::bail!("life {life} ended with {code}:\n{}", process.log()),
        }
        break;
    }
    ensure!(door.killed() >= 20, "only {} writes were died at", door.killed());
    judge::check(&sandbox, &topics, &options, &run).await
}

/// C4: whatever the group's offsets say, chains go on where they end.
#[tokio::test(flavor = "multi_thread")]
async fn c4_group_offsets_sent_to_zero_and_to_the_end_change_nothing() -> Result<()> {
    let Some(broker) = Broker::real("c4_group_offsets_sent_to_zero_and_to_the_end_change_nothing")? else {
        return Ok(());
    };
    let options = Options { seed: 8, predictions: 600, label_partitions: 3, ..Options::default() };
    let run = generate(&options);
    let topics = Topics::unique();
    broker.create_topics(&topics, &run).await?;
    let sandbox = Sandbox::new(broker.brokers(), &topics, &options.models_toml())?;
    let group = topics.predictions.replace("predictions", "group");
    let partitions: Vec<(String, i32)> =
        run.truth.partitions.keys().map(|(topic, partition)| (topics.name(*topic).to_owned(), *partition)).collect();
    for (at, records) in run.records.chunks(run.records.len().div_ceil(4)).enumerate() {
        broker.produce(&topics, records).await?;
        // To the end of what has not been read, which only a reader that trusts the group would miss. So it is the last time: nothing
        // after it makes good what was missed.
        let to = if at.is_multiple_of(2) { GroupOffsets::Zero } else { GroupOffsets::End };
        broker.send_group(&group, &partitions, to).await?;
        sandbox.catch_up().await?;
    }
    judge::check(&sandbox, &topics, &options, &run).await?;
    broker.send_group(&group, &partitions, GroupOffsets::Zero).await?;
    sandbox.catch_up().await?;
    judge::check(&sandbox, &topics, &options, &run).await
}
