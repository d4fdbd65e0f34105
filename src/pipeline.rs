//! The wiring, on one screen.
//!
//! ```text
//!   Kafka ─► collector ─► raw/ ─► aggregator ─► history/ ─► evaluator ─► metrics/ …
//!                                     └───── ctl/ ─────┘                │     serve: /metrics /livez /readyz
//!                                                                       ├─► alerts ─► alerts/, sinks
//!                                                                       └─► reports ─► reports/, sinks
//! ```
//!
//! Stages meet only in the store. The first failure cancels the rest; SIGTERM and Ctrl-C let each finish what it holds.
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use driftline_collector::{CollectorSettings, CollectorStatus, Until};
use driftline_evaluator::session::Sessions;
pub(crate) use driftline_evaluator::stage::OnPublished;
use driftline_ledger::{Members, members};
use driftline_schemas::clock;
use driftline_schemas::config::Config;
use driftline_store::{Manifest, Store};
use prometheus::Registry;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::cli::Role;
use crate::commands::report::Reporter;
use crate::reference::Files;
use crate::serve::{self, Pages};

/// A draining process is given so long before it ends regardless: the chain is the truth, so nothing is lost.
const DRAIN_MAX: Duration = Duration::from_secs(30);
/// Of `memory_max`, the collector's buffers get this share and the evaluator's queries another.
const SHARE: u64 = 3;

/// What this process is to do.
pub(crate) struct Plan {
    pub(crate) roles: Vec<Role>,
    pub(crate) until_caught_up: bool,
    /// Where HTTP is served, if it is.
    pub(crate) listen: Option<String>,
    pub(crate) registry: Registry,
    pub(crate) on_published: Option<OnPublished>,
}

/// Opens the store and proves that it has what Driftline stands on.
pub(crate) async fn open_store(config: &Config) -> Result<Store> {
    let store = Store::open(&config.store.url, &config.store.options).context("open the store")?;
    store.probe().await.with_context(|| format!("probe the store at {}", config.store.url))?;
    Manifest::load_or_create(&store, clock::now()).await.context("read the manifest")?;
    Ok(store)
}

/// Runs the plan until it is done, something fails, or `shutdown` fires.
pub(crate) async fn run(config: &Config, store: Store, plan: Plan, shutdown: CancellationToken) -> Result<()> {
    let has = |role| plan.roles.contains(&role);
    let roles: Vec<String> = plan.roles.iter().map(|role| role.name().to_owned()).collect();
    let instance = format!("{}-{}", std::process::id(), uuid::Uuid::new_v4().simple());
    let members = Members::new(&instance, roles);
    let mut heartbeat = members.heartbeat();
    members.beat(&store, &mut heartbeat).await;
    let (collected, judged, evaluated) = (CancellationToken::new(), CancellationToken::new(), CancellationToken::new());
    // What this process does not do itself is not waited for: others have done it, or will.
    if !has(Role::Collector) {
        collected.cancel();
    }
    if !has(Role::Aggregator) {
        judged.cancel();
    }
    let until = |token: &CancellationToken| plan.until_caught_up.then(|| token.clone());
    let mut stages = Stages::new(shutdown.clone());
    let collector_status = Arc::new(CollectorStatus::default());

    if let Some(address) = &plan.listen {
        let (listener, address) = serve::bind(address).await?;
        tracing::info!("serving http://{address}/metrics, /livez and /readyz");
        let collector = has(Role::Collector).then(|| collector_status.clone());
        let pages = Pages { registry: plan.registry.clone(), store: store.clone(), collector };
        stages.spawn_beside("serve", serve::run(listener, pages, stages.all_done.clone()));
    }
    stages.spawn_beside("heartbeat", beat(members.clone(), store.clone(), heartbeat, stages.all_done.clone()));
    if has(Role::Collector) {
        let settings = collector_settings(config, &instance);
        let (store, status, stop) = (store.clone(), collector_status, stages.stop.clone());
        let until = if plan.until_caught_up { Until::CaughtUp } else { Until::Shutdown };
        let done = collected.clone();
        stages.spawn("collector", async move {
            driftline_collector::run(settings, store, status, until, stop).await?;
            done.cancel();
            Ok(())
        });
    }
    if has(Role::Aggregator) {
        let parts = driftline_aggregator::stage::Parts {
            store: store.clone(),
            members: members.clone(),
            config: config.judge.clone(),
            retention: config.retention.clone(),
            poll_interval: config.poll_interval,
            collected: until(&collected),
        };
        let (stop, done) = (stages.stop.clone(), judged.clone());
        stages.spawn("aggregator", async move {
            driftline_aggregator::stage::run(parts, stop).await?;
            done.cancel();
            Ok(())
        });
    }
    if has(Role::Evaluator) {
        let parts = driftline_evaluator::stage::Parts {
            store: store.clone(),
            sessions: sessions(config, &store),
            members: members.clone(),
            references: Arc::new(Files::new(config)),
            poll_interval: config.poll_interval,
            judged: until(&judged),
            on_published: plan.on_published.clone(),
        };
        let (stop, done) = (stages.stop.clone(), evaluated.clone());
        stages.spawn("evaluator", async move {
            driftline_evaluator::stage::run(parts, stop).await?;
            done.cancel();
            Ok(())
        });
        let parts = driftline_alerts::stage::Parts {
            store: store.clone(),
            members: members.clone(),
            config: config.alerts.of_alerts(),
            poll_interval: config.poll_interval,
            evaluated: until(&evaluated),
        };
        let stop = stages.stop.clone();
        stages.spawn("alerts", async move { Ok(driftline_alerts::stage::run(parts, stop).await?) });
        let parts = driftline_alerts::reports::Parts {
            store: store.clone(),
            members: members.clone(),
            config: config.alerts.clone(),
            reports: config.reports.clone(),
            maker: Arc::new(Reporter::new(sessions_of(config, &store, 2 * SHARE, 1), store.clone(), config)),
            poll_interval: config.poll_interval,
            evaluated: until(&evaluated),
        };
        let stop = stages.stop.clone();
        stages.spawn("reports", async move { Ok(driftline_alerts::reports::run(parts, stop).await?) });
    }
    if plan.roles == [Role::Serve] {
        let stop = stages.stop.clone();
        stages.spawn("serve", async move {
            stop.cancelled().await;
            Ok(())
        });
    }
    let result = stages.finish().await;
    let heartbeat = members.heartbeat();
    if let Err(error) = heartbeat.resign(&store).await {
        tracing::debug!(%error, "heartbeat not removed");
    }
    result
}

/// Sessions within the evaluator's share of the memory.
pub(crate) fn sessions(config: &Config, store: &Store) -> Sessions {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    sessions_of(config, store, SHARE, cores)
}

/// Sessions within one of so many shares of the memory.
fn sessions_of(config: &Config, store: &Store, shares: u64, cores: usize) -> Sessions {
    Sessions::new(store.clone(), (config.memory_max / shares) as usize, cores)
}

/// The collector's settings out of the whole configuration.
pub(crate) fn collector_settings(config: &Config, instance: &str) -> CollectorSettings {
    let kafka = &config.kafka;
    CollectorSettings {
        brokers: kafka.brokers.clone(),
        predictions_topics: kafka.predictions_topics.clone(),
        labels_topics: kafka.labels_topics.clone(),
        group: kafka.group.clone(),
        start: kafka.start,
        create_topics: kafka.create_topics,
        create_partitions: kafka.create_partitions,
        properties: kafka.properties.clone(),
        dead_letter_topic: kafka.dead_letter_topic.clone(),
        flush_interval: config.flush_interval,
        flush_bytes: config.flush_bytes.min(config.memory_max / SHARE) as usize,
        memory_max: (config.memory_max / SHARE) as usize,
        facts_interval: Duration::from_micros((config.judge.idle_timeout / 4).clamp(250_000, 10_000_000) as u64),
        instance: instance.to_owned(),
    }
}

async fn beat(
    members: Arc<Members>,
    store: Store,
    mut heartbeat: driftline_store::Heartbeat,
    done: CancellationToken,
) -> Result<()> {
    loop {
        tokio::select! {
            () = tokio::time::sleep(members::BEAT) => members.beat(&store, &mut heartbeat).await,
            () = done.cancelled() => return Ok(()),
        }
    }
}

/// The life of all stages: each is spawned once, by name.
struct Stages {
    tasks: JoinSet<(&'static str, bool, Result<()>)>,
    working: usize,
    /// Asks the stages to finish.
    stop: CancellationToken,
    /// Fires when no stage works any more.
    all_done: CancellationToken,
}

impl Stages {
    fn new(shutdown: CancellationToken) -> Self {
        Self { tasks: JoinSet::new(), working: 0, stop: shutdown.child_token(), all_done: CancellationToken::new() }
    }

    /// A stage that the run waits for.
    fn spawn(&mut self, name: &'static str, stage: impl Future<Output = Result<()>> + Send + 'static) {
        self.working += 1;
        self.tasks.spawn(async move { (name, true, stage.await) });
    }

    /// Something that lasts as long as the stages do.
    fn spawn_beside(&mut self, name: &'static str, task: impl Future<Output = Result<()>> + Send + 'static) {
        self.tasks.spawn(async move { (name, false, task.await) });
    }

    async fn finish(mut self) -> Result<()> {
        let mut first_failure = Ok(());
        let stop = self.stop.clone();
        let overdue = async {
            stop.cancelled().await;
            tokio::time::sleep(DRAIN_MAX).await;
        };
        tokio::pin!(overdue);
        while self.working > 0 {
            let (name, works, result) = tokio::select! {
                joined = self.tasks.join_next() => match joined {
                    Some(Ok(ended)) => ended,
                    Some(Err(panic)) => ("a stage", true, Err(anyhow!("{panic}"))),
                    None => break,
                },
                () = &mut overdue => {
                    tracing::warn!("the stages did not end in time; what they held is read again at the next start");
                    break;
                }
            };
            self.working -= usize::from(works);
            if let Err(error) = result {
                tracing::error!(stage = name, error = %format!("{error:#}"), "stopped");
                self.stop.cancel();
                if first_failure.is_ok() {
                    first_failure = Err(error.context(format!("{name} stopped")));
                }
            }
        }
        self.all_done.cancel();
        self.tasks.shutdown().await;
        first_failure
    }
}

/// Fires on Ctrl-C and SIGTERM, from now on; a second signal ends the process at once.
pub(crate) fn shutdown_on_signals() -> CancellationToken {
    let token = CancellationToken::new();
    let fire = token.clone();
    let mut terminate = match tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()) {
        Ok(terminate) => terminate,
        Err(error) => {
            tracing::warn!(%error, "no SIGTERM handler");
            return token;
        }
    };
    tokio::spawn(async move {
        let mut wait = async || {
            tokio::select! { _ = tokio::signal::ctrl_c() => {}, _ = terminate.recv() => {} }
        };
        wait().await;
        tracing::info!("draining: flushing what is buffered; a second signal ends at once");
        fire.cancel();
        wait().await;
        std::process::exit(130);
    });
    token
}
