//! One world: its events, topics, store and processes, and what is done to them, round after round.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use rdkafka::producer::FutureProducer;
use tokio::task::JoinHandle;

use super::cast::{Cast, REBIRTH_MILLIS};
use super::deeds::{Deed, Ending, Round, deal};
use super::late;
use super::proxy::{Proxy, Trouble};
use super::report::Report;
use crate::generator::{Generated, Options, Place, Stream, Topic, Truth};
use crate::kafka::{Topics, acknowledged};
use crate::own::{OwnKafka, OwnS3};
use crate::sandbox::{Sandbox, binary};
use crate::{judge, outside};

/// A consumer's session, in milliseconds: a frozen process has lost its partitions after this.
const SESSION_MS: u32 = 3_000;
/// A request to the store that gets no answer for so long has failed.
const STORE_TIMEOUT_SECS: u64 = 2;
/// The debounce of windows that age, in seconds: what late labels are measured beside.
pub const DEBOUNCE_SECS: u64 = 1;
/// How long the events of one round take to arrive.
const ROUND: Duration = Duration::from_secs(9);
/// Records in flight before one is waited for.
const IN_FLIGHT: usize = 200;
/// Partitions at the beginning.
const PARTITIONS: [i32; 2] = [3, 2];
/// Late labels that a round sends one by one in the midst of it.
const LATE_UNDER_FIRE: usize = 2;
/// Late labels that a live ending sends one by one, undisturbed.
const LATE_CALM: usize = 4;

/// Where the store of a world lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoreKind {
    /// In a folder.
    Local,
    /// On an S3 server, behind the proxy.
    S3,
}

/// What a world is made of.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Decides events, deeds and chance.
    pub seed: u64,
    /// Rounds.
    pub rounds: usize,
    /// Predictions a round, before duplicates are added.
    pub predictions: usize,
    /// Where the store lies.
    pub store: StoreKind,
    /// The binaries that processes run in turn; the one beside the program if there are none.
    pub builds: Vec<PathBuf>,
}

/// The neighbours that worlds share, one after the other.
#[derive(Debug)]
pub struct Neighbours {
    /// A broker that may be killed.
    pub kafka: OwnKafka,
    /// An S3 server that may be killed; without one, stores lie in folders.
    pub s3: Option<OwnS3>,
}

/// A world in the making of its rounds.
struct World<'a> {
    neighbours: &'a Neighbours,
    rng: StdRng,
    options: Options,
    stream: Stream,
    late: Stream,
    late_predictions: usize,
    topics: Topics,
    sandbox: Sandbox,
    proxy: Option<Proxy>,
    cast: Cast,
    producer: FutureProducer,
    partitions: [i32; 2],
    acknowledged: Arc<Mutex<Acknowledged>>,
    late_labels: usize,
    report: Report,
}

/// Where the brokers put what they acknowledged.
#[derive(Clone, Debug, Default)]
struct Acknowledged {
    stream: BTreeMap<usize, Place>,
    late: BTreeMap<usize, Place>,
}

/// Makes a world, does to it all that its seed deals, and checks it after each round.
///
/// # Errors
/// Something differs from the truth, a process ended by itself, or nothing moved any more. The message says how to repeat it.
pub async fn run(settings: &Settings, neighbours: &Neighbours) -> Result<Report> {
    let mut world = World::new(settings, neighbours).await?;
    let rounds = deal(&mut StdRng::seed_from_u64(settings.seed ^ 0xdea1), settings.rounds, world.proxy.is_some());
    let done = world.live(&rounds).await;
    if let Err(error) = done {
        let logs = world.cast.logs();
        let kept = world.sandbox.keep();
        bail!("seed {}: {error:#}\n{logs}\nthe world is kept at {}", settings.seed, kept.display());
    }
    Ok(world.report)
}

/// What the given options say, for a world of so many rounds.
fn options(settings: &Settings) -> Options {
    Options {
        seed: settings.seed,
        predictions: settings.predictions * settings.rounds,
        prediction_partitions: PARTITIONS[0],
        label_partitions: PARTITIONS[1],
        malformed_of_each: 3,
        ..Options::default()
    }
}

impl<'a> World<'a> {
    async fn new(settings: &Settings, neighbours: &'a Neighbours) -> Result<Self> {
        let mut options = options(settings);
        let stream = Stream::new(&options);
        let late_predictions = settings.rounds * (LATE_UNDER_FIRE + LATE_CALM);
        let late_options = late::options(settings.seed, late_predictions);
        let late = Stream::new(&late_options);
        options.models.extend(late_options.models);
        let (topics, broker) = (Topics::unique(), &neighbours.kafka.broker);
        for (topic, partitions) in [Topic::Predictions, Topic::Labels].into_iter().zip(PARTITIONS) {
            broker.create_topic(topics.name(topic), partitions).await?;
        }
        let on_s3 = neighbours.s3.as_ref().filter(|_| settings.store == StoreKind::S3);
        let prefix = format!("chaos-{}-{}", settings.seed, uuid::Uuid::new_v4().simple());
        let (sandbox, proxy) = match on_s3 {
            None => (Sandbox::new(broker.brokers(), &topics, &options.models_toml())?, None),
            Some(s3) => {
                let store = s3.settings(&prefix, STORE_TIMEOUT_SECS);
                let (folder, models) = (s3.folder(&prefix), options.models_toml());
                let sandbox = Sandbox::with_files(broker.brokers(), &topics, &store, folder, &models)?;
                (sandbox, Some(Proxy::new(&s3.endpoint, settings.seed)))
            }
        };
        sandbox.edit(|text| {
            let text = text.replace(
                "[kafka.properties]\n",
                &format!("[kafka.properties]\n\"session.timeout.ms\" = {SESSION_MS}\n\"topic.metadata.refresh.interval.ms\" = 1000\n"),
            );
            let text = text.replacen("\"session.timeout.ms\" = 6000\n", "", 1);
            let text = text.replace("min_delay = \"100ms\"", &format!("min_delay = \"{DEBOUNCE_SECS}s\""));
            text.replace("max_delay = \"200ms\"", &format!("max_delay = \"{DEBOUNCE_SECS}s\""))
        })?;
        let builds = if settings.builds.is_empty() { vec![binary()] } else { settings.builds.clone() };
        Ok(World {
            neighbours,
            rng: StdRng::seed_from_u64(settings.seed),
            cast: Cast::new(builds, proxy.clone()),
            producer: broker.producer()?,
            partitions: PARTITIONS,
            acknowledged: Arc::default(),
            late_labels: 0,
            report: Report::default(),
            options,
            stream,
            late,
            late_predictions,
            topics,
            sandbox,
            proxy,
        })
    }

    async fn live(&mut self, rounds: &[Round]) -> Result<()> {
        self.send_late_predictions().await?;
        self.cast.open(&self.sandbox).await?;
        let each = self.stream.len().div_ceil(rounds.len().max(1));
        for (number, round) in rounds.iter().enumerate() {
            let events = number * each..((number + 1) * each).min(self.stream.len());
            let what = || format!("round {} of {}: {:?}", number + 1, rounds.len(), round.deeds);
            self.round(events, round).await.with_context(what)?;
            self.report.rounds += 1;
            if round.ending == Ending::Drained && number + 1 < rounds.len() {
                self.cast.open(&self.sandbox).await?;
            }
        }
        self.cast.end().await?;
        self.catch_up().await?;
        self.check().await.context("at the end")?;
        let acknowledged = self.acknowledged();
        let truth = self.truth(&acknowledged);
        self.report.worlds = 1;
        self.report.records = (acknowledged.stream.len() + acknowledged.late.len()) as u64;
        let events =
            |account: &crate::generator::PartitionTruth| account.accepted + account.rejected.values().sum::<u64>();
        self.report.events = truth.partitions.values().map(events).sum();
        let kept = judge::kept(&self.sandbox.store(), self.places(&acknowledged))?;
        (self.report.lost, self.report.counted_twice) = (kept.lost, kept.counted_twice);
        ensure!((kept.lost, kept.counted_twice, kept.once) == (0, 0, self.report.events), "{kept:?}");
        self.report.store_faults = self.proxy.as_ref().map(Proxy::counts).unwrap_or_default();
        Ok(())
    }

    async fn round(&mut self, events: std::ops::Range<usize>, round: &Round) -> Result<()> {
        let producing = self.produce(events);
        let late = self.send_late(LATE_UNDER_FIRE, ROUND / 2);
        self.do_all(&round.deeds).await?;
        self.heal().await?;
        producing.await.context("the producer panicked")??;
        let fire = late.await.context("the prober panicked")??;
        self.report.late_under_fire.extend(fire);
        match round.ending {
            Ending::Drained => self.cast.end().await?,
            Ending::Live => {
                let calm = self.send_late(LATE_CALM, Duration::ZERO).await.context("the prober panicked")??;
                self.report.late_calm.extend(calm);
                let deaths = self.cast.look(&self.sandbox, &mut self.rng).await?;
                ensure!(deaths.at_writes == 0, "somebody died in calm weather");
            }
        }
        self.catch_up().await?;
        self.check().await
    }

    /// Does what was dealt, each at its time, and whatever follows from it.
    async fn do_all(&mut self, deeds: &[(Duration, Deed)]) -> Result<()> {
        let began = Instant::now();
        let mut calm_at = None;
        let mut deeds = deeds.iter().peekable();
        while began.elapsed() < ROUND || deeds.peek().is_some() || calm_at.is_some() || self.cast.has_frozen() {
            let deaths = self.cast.look(&self.sandbox, &mut self.rng).await?;
            self.report.kills_at_writes += deaths.at_writes;
            if calm_at.is_some_and(|at| at <= Instant::now()) {
                self.proxy.as_ref().inspect(|proxy| proxy.calm());
                calm_at = None;
            }
            if let Some((_, deed)) = deeds.next_if(|(at, _)| *at <= began.elapsed()) {
                self.act(*deed, &mut calm_at).await.with_context(|| format!("{deed:?}"))?;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(())
    }

    async fn act(&mut self, deed: Deed, calm_at: &mut Option<Instant>) -> Result<()> {
        let (cast, rng, report) = (&mut self.cast, &mut self.rng, &mut self.report);
        match deed {
            Deed::Kill => report.kills += u64::from(cast.kill(rng).await?),
            Deed::KillAtWrite { nth, side } => drop(cast.kill_at_write(rng, nth, side)),
            Deed::Freeze(lasts) => report.freezes += u64::from(cast.freeze(rng, Instant::now() + lasts).await?),
            Deed::ScaleOut => report.scaled_out += u64::from(cast.scale_out(&self.sandbox, rng).await?),
            Deed::ScaleIn => report.scaled_in += u64::from(cast.scale_in(rng).await?),
            Deed::Grow => {
                for (topic, partitions) in [Topic::Predictions, Topic::Labels].into_iter().zip(&mut self.partitions) {
                    *partitions += 1;
                    let name = self.topics.name(topic);
                    self.neighbours.kafka.broker.add_partitions(name, *partitions as usize).await?;
                    report.partitions_added += 1;
                }
            }
            Deed::KillBroker(away) | Deed::StopBroker(away) => {
                let kafka = &self.neighbours.kafka;
                if matches!(deed, Deed::KillBroker(_)) {
                    kafka.kill().await?;
                } else {
                    kafka.stop().await?;
                }
                tokio::time::sleep(away).await;
                kafka.restart().await?;
                report.broker_restarts += 1;
            }
            Deed::SendGroup(to) => {
                let back = Instant::now() + Duration::from_secs(3600);
                report.kills += cast.kill_collectors(back).await?;
                let group = self.topics.predictions.replace("predictions", "group");
                let partitions: Vec<(String, i32)> = [Topic::Predictions, Topic::Labels]
                    .into_iter()
                    .zip(self.partitions)
                    .flat_map(|(topic, count)| (0..count).map(move |partition| (topic, partition)))
                    .map(|(topic, partition)| (self.topics.name(topic).to_owned(), partition))
                    .collect();
                self.neighbours.kafka.broker.send_group(&group, &partitions, to).await?;
                report.rewinds += 1;
                self.cast.raise(Instant::now() + Duration::from_millis(rng.random_range(REBIRTH_MILLIS)));
            }
            Deed::StoreTrouble { lasts, permille, stalls } => {
                let kinds = if stalls { &Trouble::ALL[..] } else { &Trouble::QUICK[..] };
                if let Some(proxy) = &self.proxy {
                    proxy.trouble(f64::from(permille) / 1_000.0, kinds);
                    *calm_at = Some(Instant::now() + lasts);
                }
            }
            Deed::KillStore(away) => {
                let Some(s3) = &self.neighbours.s3 else { return Ok(()) };
                s3.kill().await?;
                tokio::time::sleep(away).await;
                s3.restart().await?;
                report.store_restarts += 1;
            }
        }
        Ok(())
    }

    async fn heal(&mut self) -> Result<()> {
        self.proxy.as_ref().inspect(|proxy| proxy.calm());
        self.neighbours.kafka.restart().await?;
        let deaths = self.cast.heal(&self.sandbox, &mut self.rng).await?;
        self.report.kills_at_writes += deaths.at_writes;
        Ok(())
    }

    /// Produces events in their order, spread over the round; ends when all are acknowledged.
    fn produce(&self, events: std::ops::Range<usize>) -> JoinHandle<Result<()>> {
        let (producer, topics) = (self.producer.clone(), self.topics.clone());
        let [predictions, labels] = self.partitions;
        let records: Vec<_> = events.map(|at| (at, self.stream.record(at, predictions, labels))).collect();
        let acknowledged = Arc::clone(&self.acknowledged);
        tokio::spawn(async move {
            let chunks = records.len().div_ceil(IN_FLIGHT).max(1) as u32;
            for chunk in records.chunks(IN_FLIGHT) {
                let sends = chunk.iter().map(|(_, record)| crate::kafka::acknowledged(&producer, &topics, record));
                let places = futures::future::try_join_all(sends).await.context("produce")?;
                let placed = chunk.iter().zip(places).map(|((at, _), place)| (*at, place));
                acknowledged.lock().unwrap_or_else(PoisonError::into_inner).stream.extend(placed);
                tokio::time::sleep(ROUND / chunks).await;
            }
            Ok(())
        })
    }

    async fn send_late_predictions(&mut self) -> Result<()> {
        for at in 0..self.late.len() {
            let record = self.late.record(at, self.partitions[0], self.partitions[1]);
            if record.topic == Topic::Predictions {
                let place = acknowledged(&self.producer, &self.topics, &record).await?;
                self.acknowledged.lock().unwrap_or_else(PoisonError::into_inner).late.insert(at, place);
            }
        }
        Ok(())
    }

    /// Sends labels one by one, and tells how soon each showed in its window's metric.
    fn send_late(&mut self, count: usize, pause: Duration) -> JoinHandle<Result<Vec<Duration>>> {
        let is_label = |at: &usize| self.late.record(*at, 1, 1).topic == Topic::Labels;
        let next: Vec<_> = (0..self.late.len())
            .filter(is_label)
            .skip(self.late_labels)
            .take(count)
            .map(|at| (at, self.late.record(at, self.partitions[0], self.partitions[1])))
            .collect();
        let before = self.late_labels;
        self.late_labels = (before + next.len()).min(self.late_predictions);
        let (producer, topics, store) = (self.producer.clone(), self.topics.clone(), self.sandbox.store());
        let known = Arc::clone(&self.acknowledged);
        tokio::spawn(async move {
            let mut took = Vec::new();
            for (number, (at, record)) in next.into_iter().enumerate() {
                let place = acknowledged(&producer, &topics, &record).await.context("produce a late label")?;
                let since = Instant::now();
                known.lock().unwrap_or_else(PoisonError::into_inner).late.insert(at, place);
                took.push(late::shows(&store, before + number + 1, since).await?);
                tokio::time::sleep(pause).await;
            }
            Ok(took)
        })
    }

    async fn catch_up(&self) -> Result<()> {
        self.sandbox.catch_up().await.context("catch up")
    }

    fn acknowledged(&self) -> Acknowledged {
        self.acknowledged.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn truth(&self, acknowledged: &Acknowledged) -> Truth {
        let mut truth = self.stream.truth(&acknowledged.stream).and(self.late.truth(&acknowledged.late));
        for (topic, count) in [Topic::Predictions, Topic::Labels].into_iter().zip(self.partitions) {
            for partition in 0..count {
                truth.partitions.entry((topic, partition)).or_default();
            }
        }
        truth
    }

    /// Topic, partition and offset of each acknowledged record.
    fn places(&self, acknowledged: &Acknowledged) -> Vec<(String, i32, i64)> {
        let of = |stream: &Stream, places: &BTreeMap<usize, Place>| {
            let named = |(at, (partition, offset)): (&usize, &Place)| {
                (self.topics.name(stream.record(*at, 1, 1).topic).to_owned(), *partition, *offset)
            };
            places.iter().map(named).collect::<Vec<_>>()
        };
        [of(&self.stream, &acknowledged.stream), of(&self.late, &acknowledged.late)].concat()
    }

    /// Compares all that Driftline says with the truth, and lets DuckDB recompute the accounts from what the producers and the
    /// brokers say.
    async fn check(&mut self) -> Result<()> {
        let acknowledged = self.acknowledged();
        let run = Generated { records: Vec::new(), truth: self.truth(&acknowledged) };
        let compared = judge::compare(&self.sandbox, &self.topics, &self.options, &run).await?;
        self.report.compared += compared as u64;
        let (places, ends) = (self.sandbox.path("acknowledged.jsonl"), self.sandbox.path("ends.jsonl"));
        let mut lines = String::new();
        for (topic, partition, offset) in self.places(&acknowledged) {
            writeln!(lines, "{{\"topic\":{topic:?},\"partition\":{partition},\"offset\":{offset}}}")?;
        }
        std::fs::write(&places, lines).context("write the acknowledgements")?;
        let mut lines = String::new();
        for (topic, count) in [Topic::Predictions, Topic::Labels].into_iter().zip(self.partitions) {
            let topic = self.topics.name(topic);
            for partition in 0..count {
                let (_, end) = self.neighbours.kafka.broker.watermarks(topic, partition)?;
                writeln!(lines, "{{\"topic\":{topic:?},\"partition\":{partition},\"end\":{end}}}")?;
            }
        }
        std::fs::write(&ends, lines).context("write the ends")?;
        outside::accounts(&self.sandbox, outside::Known { acknowledged: &places, ends: &ends }).await
    }
}
