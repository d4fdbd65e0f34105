//! The members of a simulated pipeline: each lives, dies, and lives again, until the run is over.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use driftline_collector::memory::{MemoryLog, MemorySource, Script, Step};
use driftline_collector::source::PartitionRef;
use driftline_collector::{ChainStarts, CollectorSettings, Until, run_on};
use driftline_evaluator::session::Sessions;
use driftline_ledger::{Members, Replica};
use driftline_schemas::clock;
use driftline_schemas::config::{JudgeConfig, RetentionConfig};
use driftline_schemas::ledger::Entry;
use driftline_store::Store;
use object_store::memory::InMemory;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::weather::{Weather, patience};

/// How long a member that has nothing to do waits.
const POLL: Duration = Duration::from_millis(1);
/// Memory of one evaluation, bytes.
const MEMORY: usize = 256 << 20;

/// What a member does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    Collector,
    Aggregator,
    Evaluator {
        /// Whether it computes figures, or only records what is judged as complete.
        real: bool,
    },
}

/// What a member works with.
#[derive(Clone)]
pub(super) struct Parts {
    pub(super) role: Role,
    pub(super) name: String,
    pub(super) backend: Arc<InMemory>,
    pub(super) log: MemoryLog,
    pub(super) config: JudgeConfig,
    /// Of predictions, of labels.
    pub(super) partitions: [u32; 2],
    pub(super) collected: CancellationToken,
    pub(super) over: CancellationToken,
}

/// A member through its lives.
pub(super) struct Member {
    living: JoinHandle<Life>,
    frozen: watch::Sender<bool>,
}

/// What a member went through.
#[derive(Clone, Debug, Default)]
pub(super) struct Life {
    pub(super) deaths: u64,
    pub(super) freezes: u64,
    pub(super) faults: u64,
    /// Why lives ended by themselves: nothing that the weather does may end one.
    pub(super) gave_up: Vec<String>,
}

impl Member {
    pub(super) fn start(parts: Parts, seed: u64) -> Self {
        let frozen = watch::Sender::new(false);
        let living = tokio::spawn(live(parts, seed, frozen.clone()));
        Self { living, frozen }
    }

    pub(super) fn thaw(&self) {
        self.frozen.send_replace(false);
    }

    /// What it went through. The run must be over.
    pub(super) async fn end(self) -> Life {
        self.thaw();
        self.living.await.unwrap_or_default()
    }
}

/// Lives until the run is over: some of the lives end by a death at a request, some by one at any instant, some are frozen.
async fn live(parts: Parts, seed: u64, frozen: watch::Sender<bool>) -> Life {
    let mut rng = StdRng::seed_from_u64(seed);
    let (mut life, faults) = (Life::default(), Arc::new(AtomicU64::new(0)));
    while !parts.over.is_cancelled() {
        let dies_at = if rng.random_bool(0.5) { rng.random_range(1..150) } else { 0 };
        let share = [0.0, 0.03, 0.15][rng.random_range(0..3)];
        let weather =
            Weather::new(parts.backend.clone(), rng.random(), share, dies_at, faults.clone(), frozen.subscribe());
        let store = Store::over("memory://", Arc::new(weather)).with_retry(patience());
        let stop = CancellationToken::new();
        let mut running = tokio::spawn(run(parts.clone(), store, rng.random(), stop.clone()));
        let lasts = Duration::from_millis(rng.random_range(5..120));
        tokio::select! {
            ended = &mut running => {
                match ended {
                    Ok(Err(error)) => life.gave_up.push(format!("{}: {error:#}", parts.name)),
                    Err(panic) if panic.is_panic() => life.gave_up.push(format!("{}: {panic}", parts.name)),
                    _ => {}
                }
                tokio::time::sleep(POLL).await;
                continue;
            }
            () = tokio::time::sleep(lasts) => {}
            () = parts.over.cancelled() => {}
        }
        if !parts.over.is_cancelled() && rng.random_bool(0.3) {
            life.freezes += 1;
            frozen.send_replace(true);
            let sleeps = Duration::from_millis(rng.random_range(10..90));
            tokio::select! { () = tokio::time::sleep(sleeps) => {}, () = parts.over.cancelled() => {} }
            frozen.send_replace(false);
            let lasts = Duration::from_millis(rng.random_range(1..40));
            tokio::select! { () = tokio::time::sleep(lasts) => {}, () = parts.over.cancelled() => {} }
        }
        if parts.over.is_cancelled() {
            break_off(running, &stop).await;
            break;
        }
        life.deaths += 1;
        break_off(running, &stop).await;
    }
    life.faults = faults.load(Ordering::Relaxed);
    life
}

/// Drops a member in mid-air, as SIGKILL does; its thread, if it has one, is told to stop.
async fn break_off(running: JoinHandle<Result<()>>, stop: &CancellationToken) {
    running.abort();
    stop.cancel();
    let _aborted = running.await;
}

/// One life, which never ends by itself.
async fn run(parts: Parts, store: Store, seed: u64, stop: CancellationToken) -> Result<()> {
    match parts.role {
        Role::Collector => collect(&parts, &store, seed, Until::Shutdown, stop).await,
        Role::Aggregator => aggregate(&parts, &store, None, stop).await,
        Role::Evaluator { real: true } => evaluate(&parts, &store, None, stop).await,
        Role::Evaluator { real: false } => {
            // It stands in for a stage, and has no patience of its own.
            while complete(&parts, &store, stop.clone()).await.is_err() {
                tokio::time::sleep(POLL).await;
            }
            Ok(())
        }
    }
}

fn all(partitions: [u32; 2]) -> Vec<PartitionRef> {
    let of = |(topic, count): (usize, u32)| (0..count).map(move |partition| PartitionRef { topic, partition });
    partitions.into_iter().enumerate().flat_map(of).collect()
}

async fn collect(parts: &Parts, store: &Store, seed: u64, until: Until, stop: CancellationToken) -> Result<()> {
    let mut rng = StdRng::seed_from_u64(seed);
    let everything = all(parts.partitions);
    let script = Script::assigning(everything.clone());
    if until == Until::Shutdown {
        // The group takes partitions away and gives them back, and sends the consumer back. Never on: where a partition is read from
        // is put into its assignment, and a group has no way to make a consumer skip records.
        for _ in 0..rng.random_range(0..40) {
            let at = everything[rng.random_range(0..everything.len())];
            if rng.random_range(0..3) == 0 {
                script.push(Step::Rewind(at, 0));
            } else {
                script.push(Step::Revoke(vec![at]));
                script.push(Step::Assign(vec![at]));
            }
        }
    }
    let settings = CollectorSettings {
        flush_interval: Duration::from_millis(rng.random_range(1..12)),
        flush_bytes: rng.random_range(400..6_000),
        facts_interval: Duration::from_millis(20),
        instance: parts.name.clone(),
        ..CollectorSettings::default()
    };
    let (log, topics) = (parts.log.clone(), settings.topics());
    let connect = move |starts: Arc<ChainStarts>| Ok(Some(MemorySource::new(log, topics, script, starts)));
    run_on(connect, settings, store.clone(), None, Arc::default(), until, stop).await.context("collect")
}

async fn aggregate(
    parts: &Parts,
    store: &Store,
    collected: Option<CancellationToken>,
    stop: CancellationToken,
) -> Result<()> {
    let parts = driftline_aggregator::stage::Parts {
        store: store.clone(),
        members: Members::new(&parts.name, vec![driftline_aggregator::stage::ROLE.into()]),
        config: parts.config.clone(),
        retention: RetentionConfig::default(),
        poll_interval: POLL,
        collected,
    };
    driftline_aggregator::stage::run(parts, stop).await.context("aggregate")
}

async fn evaluate(
    parts: &Parts,
    store: &Store,
    judged: Option<CancellationToken>,
    stop: CancellationToken,
) -> Result<()> {
    let parts = driftline_evaluator::stage::Parts {
        store: store.clone(),
        sessions: Sessions::new(store.clone(), MEMORY, 1),
        members: Members::new(&parts.name, vec![driftline_evaluator::stage::ROLE.into()]),
        references: Arc::new(NoFiles),
        poll_interval: POLL,
        judged,
        on_published: None,
    };
    driftline_evaluator::stage::run(parts, stop).await.context("evaluate")
}

/// Records as complete whatever is judged, as an evaluator does once it has published.
async fn complete(parts: &Parts, store: &Store, stop: CancellationToken) -> Result<()> {
    let mut replica = Replica::open(store, &parts.name).await?;
    while !stop.is_cancelled() {
        replica.catch_up().await?;
        let mut entries = Vec::new();
        for (model, state) in &replica.state.models {
            for window in state.windows.values().filter(|window| window.is_judged()) {
                let (model, window, revision) = (model.clone(), window.window, window.revision);
                entries.push(Entry::Completed { model, window, revision });
            }
        }
        if entries.is_empty() {
            tokio::time::sleep(POLL).await;
        } else {
            replica.append_anywhere(&entries, clock::now_micros()).await?;
        }
    }
    Ok(())
}

struct NoFiles;

#[async_trait::async_trait]
impl driftline_evaluator::stage::ReferenceFiles for NoFiles {
    async fn read(&self, location: &str) -> Result<driftline_evaluator::stage::ReferenceRows, String> {
        Err(format!("no reference is configured, and {location} was asked for"))
    }
}

/// Reads all that was published, without trouble.
pub(super) async fn collect_all(parts: &Parts, store: &Store) -> Result<()> {
    collect(parts, store, 0, Until::CaughtUp, CancellationToken::new()).await
}

/// Judges and publishes all that was collected, without trouble.
pub(super) async fn judge_all(parts: &Parts, store: &Store, real: bool, seed: u64) -> Result<()> {
    let judged = CancellationToken::new();
    let stop = CancellationToken::new();
    let named = Parts { name: format!("quiet-{seed}"), ..parts.clone() };
    let aggregates = async {
        let done = aggregate(&named, store, Some(parts.collected.clone()), CancellationToken::new()).await;
        judged.cancel();
        // One that only completes has nothing that tells it when to end.
        if !real {
            stop.cancel();
        }
        done
    };
    let completes = async {
        if real {
            evaluate(&named, store, Some(judged.clone()), stop.clone()).await
        } else {
            complete(&named, store, stop.clone()).await
        }
    };
    let (aggregated, completed) = tokio::join!(aggregates, completes);
    aggregated?;
    completed
}
