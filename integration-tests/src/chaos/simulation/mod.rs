//! A whole pipeline in memory: the collector on a log in memory, aggregators, evaluators, and a store that fails; everything is
//! killed, frozen and sent elsewhere, and what stands in the end is what an undisturbed run leaves.
//!
//! ```text
//! Stream ─► MemoryLog ─► collectors ×2 ─┐
//!                         aggregators ×2 ┼─► each through its own `Weather`: faults, freezes, death ─► one store in memory
//!                         evaluators ×2 ─┘
//! ```
//!
//! Tasks, not processes: a freeze holds a member's requests to the store before or after they take effect, a death ends it at some
//! request. Their interleaving is the scheduler's, so a seed that fails is repeated a few times by its command.

mod check;
mod members;
mod weather;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use driftline_collector::memory::MemoryLog;
use driftline_schemas::config::{JudgeConfig, ModelSettings, ReviseConfig};
use driftline_schemas::tables;
use driftline_schemas::window::WindowSpec;
use driftline_store::Store;
use object_store::memory::InMemory;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio_util::sync::CancellationToken;

use crate::generator::{Ids, ModelOptions, Options, Shares, Stream, Task, Topic};
use crate::kafka::Topics;
use members::{Member, Role};

/// A seed that takes longer has stopped moving.
const SEED_MAX: Duration = Duration::from_secs(120);
/// Of so many seeds one has real evaluators, whose figures are compared too; the others only record completion, which is cheap.
const EVALUATED_EVERY: u64 = 10;
/// How often a seed that failed is tried again, to tell how surely it fails.
const TRIES_AGAIN: u32 = 3;
const PARTITIONS: [i32; 2] = [3, 2];

/// What a seed went through.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Events accepted or rejected.
    pub events: u64,
    /// Members that died.
    pub deaths: u64,
    /// Members that were frozen and went on.
    pub freezes: u64,
    /// Requests to the store that failed, before or after they took effect.
    pub faults: u64,
    /// Values compared with the truth.
    pub compared: u64,
}

impl Outcome {
    fn add(&mut self, other: Outcome) {
        self.events += other.events;
        self.deaths += other.deaths;
        self.freezes += other.freezes;
        self.faults += other.faults;
        self.compared += other.compared;
    }
}

/// Runs seeds one after the other, and says what they went through.
///
/// # Errors
/// The first seed that fails; the message is the command that repeats it.
pub async fn run_seeds(first: u64, count: u64) -> Result<()> {
    let (began, mut total) = (Instant::now(), Outcome::default());
    for seed in first..first.saturating_add(count) {
        match run(seed).await {
            Ok(outcome) => total.add(outcome),
            Err(error) => {
                let mut failed = 0;
                for _ in 0..TRIES_AGAIN {
                    failed += u32::from(run(seed).await.is_err());
                }
                bail!(
                    "seed {seed}: {error:#}\n(tried again {TRIES_AGAIN} times, it failed {failed} times)\n\
                     repeat it: cargo xtask chaos simulate --seed {seed} --seeds 1"
                );
            }
        }
        let done = seed - first + 1;
        if done.is_multiple_of(200) {
            eprintln!("{done} seeds, {:.0} s", began.elapsed().as_secs_f64());
        }
    }
    println!(
        "{count} seeds from {first}: {} events, {} deaths, {} freezes, {} store faults; {} values equal the truth ({:.0} s)",
        total.events,
        total.deaths,
        total.freezes,
        total.faults,
        total.compared,
        began.elapsed().as_secs_f64()
    );
    Ok(())
}

/// Runs one seed to its end and compares everything with the truth.
pub async fn run(seed: u64) -> Result<Outcome> {
    let ended = tokio::time::timeout(SEED_MAX, Box::pin(Run::new(seed).play()));
    ended.await.with_context(|| format!("nothing moves any more after {SEED_MAX:?}"))?
}

struct Run {
    seed: u64,
    rng: StdRng,
    options: Options,
    stream: Stream,
    log: MemoryLog,
    topics: Topics,
    backend: Arc<InMemory>,
    config: JudgeConfig,
    evaluates: bool,
}

impl Run {
    fn new(seed: u64) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let options = options(seed, &mut rng);
        let log = MemoryLog::default();
        let topics = Topics::default();
        for (topic, id, partitions) in [(&topics.predictions, "P", PARTITIONS[0]), (&topics.labels, "L", PARTITIONS[1])]
        {
            log.create_topic(topic, Some(id), partitions as u32);
        }
        Run {
            seed,
            stream: Stream::new(&options),
            config: judge_config(&options, &mut rng),
            evaluates: seed.is_multiple_of(EVALUATED_EVERY),
            backend: Arc::new(InMemory::new()),
            rng,
            options,
            log,
            topics,
        }
    }

    /// A view of the store without trouble.
    fn store(&self) -> Store {
        Store::over("memory://", self.backend.clone())
    }

    async fn play(mut self) -> Result<Outcome> {
        let (over, collected) = (CancellationToken::new(), CancellationToken::new());
        let mut members = Vec::new();
        for (nth, role) in [
            Role::Collector,
            Role::Collector,
            Role::Aggregator,
            Role::Aggregator,
            Role::Evaluator { real: self.evaluates },
            Role::Evaluator { real: self.evaluates },
        ]
        .into_iter()
        .enumerate()
        {
            let parts = members::Parts {
                role,
                name: format!("member-{nth}"),
                backend: self.backend.clone(),
                log: self.log.clone(),
                config: self.config.clone(),
                partitions: PARTITIONS.map(|count| count as u32),
                collected: collected.clone(),
                over: over.clone(),
            };
            members.push(Member::start(parts, self.rng.random()));
        }
        let places = self.publish().await;
        // The living have seen all there is or not; others come who have no trouble, while some of the old are still frozen.
        let quiet = Quiet { run: &self, collected: collected.clone() };
        quiet.collect().await.context("collect the rest")?;
        members.iter().for_each(Member::thaw);
        collected.cancel();
        quiet.judge().await.context("judge the rest")?;
        let first =
            check::all(&self.store(), &self.options, &self.topics, &self.stream.truth(&places), self.evaluates).await;
        // Whoever was late does what it still has in mind; it must change nothing.
        tokio::time::sleep(Duration::from_millis(5)).await;
        over.cancel();
        let (mut outcome, mut gave_up) = (Outcome::default(), Vec::new());
        for member in members {
            let life = member.end().await;
            gave_up.extend(life.gave_up);
            outcome.deaths += life.deaths;
            outcome.freezes += life.freezes;
            outcome.faults += life.faults;
        }
        outcome.compared = first?;
        ensure!(gave_up.is_empty(), "stages gave up, though the store only failed for a while: {}", gave_up.join("; "));
        let truth = self.stream.truth(&places);
        outcome.compared += check::all(&self.store(), &self.options, &self.topics, &truth, self.evaluates)
            .await
            .context("after those who were late")?;
        let rejected = |account: &crate::generator::PartitionTruth| account.rejected.values().sum::<u64>();
        outcome.events = truth.partitions.values().map(|account| account.accepted + rejected(account)).sum();
        ensure!(outcome.events > 0, "nothing happened");
        Ok(outcome)
    }

    /// Publishes all events in their order, with pauses; where each came to lie.
    async fn publish(&mut self) -> BTreeMap<usize, (i32, i64)> {
        let mut places = BTreeMap::new();
        for at in 0..self.stream.len() {
            let record = self.stream.record(at, PARTITIONS[0], PARTITIONS[1]);
            let topic = self.topics.name(record.topic);
            let offset = self.log.publish(topic, record.partition as u32, record.payload.as_deref());
            places.insert(at, (record.partition, offset));
            if self.rng.random_bool(0.1) {
                self.log.publish_control(topic, record.partition as u32);
            }
            if self.rng.random_bool(0.12) {
                tokio::time::sleep(Duration::from_millis(self.rng.random_range(1..8))).await;
            }
        }
        places
    }
}

/// Members without trouble, who finish what is left.
struct Quiet<'a> {
    run: &'a Run,
    collected: CancellationToken,
}

impl Quiet<'_> {
    fn parts(&self, role: Role) -> members::Parts {
        members::Parts {
            role,
            name: format!("quiet-{role:?}"),
            backend: self.run.backend.clone(),
            log: self.run.log.clone(),
            config: self.run.config.clone(),
            partitions: PARTITIONS.map(|count| count as u32),
            collected: self.collected.clone(),
            over: CancellationToken::new(),
        }
    }

    async fn collect(&self) -> Result<()> {
        members::collect_all(&self.parts(Role::Collector), &self.run.store()).await
    }

    async fn judge(&self) -> Result<()> {
        let real = self.run.evaluates;
        members::judge_all(&self.parts(Role::Aggregator), &self.run.store(), real, self.run.seed).await
    }
}

/// Few events, and of each fault many.
fn options(seed: u64, rng: &mut StdRng) -> Options {
    let model = |name: &str, task: Task, hours: i64, horizon_days: i64| ModelOptions {
        window_secs: hours * 3_600,
        horizon_secs: horizon_days * 86_400,
        tags: vec![("region".to_owned(), vec!["eu".to_owned(), "us".to_owned()])],
        ..ModelOptions::new(name, task)
    };
    Options {
        seed,
        predictions: rng.random_range(25..70),
        span_secs: 3 * 3_600,
        prediction_partitions: PARTITIONS[0],
        label_partitions: PARTITIONS[1],
        models: vec![
            model("fraud/é", Task::Binary(["fraud", "ok"]), 1, 30),
            model("species", Task::Multiclass(vec!["cat", "dog", "owl"]), 3, 2),
        ],
        ids: Ids::Mixed,
        shares: Shares {
            on_the_edge: 0.1,
            copied: 0.1,
            retried: 0.1,
            shadowed: 0.15,
            corrected: 0.25,
            withdrawn: 0.2,
            contradicted: 0.1,
            labels_copied: 0.1,
            early: 0.1,
            too_early: 0.05,
            too_late: 0.08,
            on_the_bounds: 0.08,
            orphaned: 0.05,
            batched: 0.25,
            ..Shares::default()
        },
        malformed_of_each: 0,
        ..Options::default()
    }
}

/// The configuration by which Driftline judges as the truth does.
fn judge_config(options: &Options, rng: &mut StdRng) -> JudgeConfig {
    let delay = [0, 0, 3_000][rng.random_range(0..3)];
    let settings = |model: &ModelOptions| ModelSettings {
        task: Some(match model.task {
            Task::Binary(_) => tables::Task::Binary,
            Task::Multiclass(_) => tables::Task::Multiclass,
            Task::Regression => tables::Task::Regression,
        }),
        positive_class: match model.task {
            Task::Binary([positive, _]) => Some(positive.to_owned()),
            _ => None,
        },
        window: WindowSpec::fixed(model.window_secs * 1_000_000),
        label_horizon: model.horizon_secs * 1_000_000,
        segments: model.tags.iter().map(|(name, _)| vec![name.clone()]).collect(),
        ..ModelSettings::default()
    };
    JudgeConfig {
        revise: ReviseConfig { min_growth: 0.1, min_delay: delay, max_delay: delay, max_amplification: 1e6 },
        idle_timeout: 50_000,
        accept_unknown_models: true,
        models_max: 10,
        max_feature_columns: 500,
        max_segment_values: 100,
        defaults: ModelSettings::default(),
        models: options.models.iter().map(|model| (model.name.clone(), settings(model))).collect(),
    }
}

/// Which of the two topics is which.
fn is_labels(topic: Topic) -> bool {
    topic == Topic::Labels
}
