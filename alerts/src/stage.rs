//! The stage's loop: windows that were published are judged by the rules, what happened is recorded once, and people are told.
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use driftline_ledger::{LedgerState, Members, ModelState, Replica, members};
use driftline_schemas::clock::{self, Micros};
use driftline_schemas::config::{AlertsConfig, Decide, Learned, ModelSettings, Rule, Signal, Subject};
use driftline_schemas::window::WindowSpec;
use driftline_store::{Heartbeat, Store, paths};
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use crate::deliver::{self, Deliveries, Feed, Progress};
use crate::judge::{self, Past, Published};
use crate::life::{State, Transition, Verdicts};
use crate::log::{Alerts, Log, Record};
use crate::pipeline::{self, Counted, Look};
use crate::reference::{self, References};
use crate::retry::while_transient;
use crate::silence::Quiet;
use crate::{Error, read, table, telemetry};

/// The role whose processes do this beside their other work.
const ROLE: &str = "evaluator";
/// The newest windows of a model that the rules look at.
const WINDOWS_MAX: usize = 2_000;
/// Windows judged in one step.
const WINDOWS_A_STEP: usize = 64;
/// Minutes of the pipeline that are remembered.
const TICKS: Micros = 240;
/// How often it is asked whether a silence has ended that keeps something from people: they are told so much later at most.
/// More often costs a listing each time.
const SILENCES_EVERY: Duration = Duration::from_secs(15);
/// How long a run that ends by itself waits for receivers that do not take a notification.
const LAST_TRIES: Duration = Duration::from_secs(20);

/// What the stage works with.
pub struct Parts {
    /// The store.
    pub store: Store,
    /// Who shares the work.
    pub members: Arc<Members>,
    /// Rules and sinks.
    pub config: AlertsConfig,
    /// How long to wait when there was nothing to do.
    pub poll_interval: Duration,
    /// Fires when no more windows will be published: the stage then comes to its end.
    pub evaluated: Option<CancellationToken>,
}

/// Runs until `shutdown`, or until all that was published is judged and told.
pub async fn run(parts: Parts, shutdown: CancellationToken) -> Result<(), Error> {
    while_transient(&shutdown, || run_once(&parts, &shutdown)).await
}

async fn run_once(parts: &Parts, shutdown: &CancellationToken) -> Result<(), Error> {
    // Without rules there is still what they have left behind.
    if parts.config.rules.is_empty() && parts.store.list_folders("alerting").await?.is_empty() {
        let ends = parts.evaluated.clone().unwrap_or_else(|| shutdown.clone());
        tokio::select! { () = ends.cancelled() => {}, () = shutdown.cancelled() => {} }
        return Ok(());
    }
    let mut replica = Replica::open(&parts.store, parts.members.me()).await?;
    // Rules of the pipeline that are gone have left alerts behind.
    let wants_pipeline = pipeline::wants_any(&parts.config);
    let has_looked = parts.store.get(&paths::alerting_cursor(paths::NO_MODEL)).await?.is_some();
    let mut followers: HashMap<String, Follower> = HashMap::new();
    let mut deliveries = Deliveries::default();
    let mut waiting_since: Option<Instant> = None;
    while !shutdown.is_cancelled() {
        let was_evaluated = parts.evaluated.as_ref().is_some_and(CancellationToken::is_cancelled);
        let is_new = replica.catch_up().await? > 0;
        let mut did_something = is_new;
        let mut progress = Progress::UpToDate;
        // A run that ends by itself is not watched.
        let watches = parts.evaluated.is_none() && (has_looked || wants_pipeline);
        let pipeline = watches.then(|| paths::NO_MODEL.to_owned());
        for model in replica.state.models.keys().chain(&pipeline) {
            // A run that ends by itself leaves nothing to another that may be dead: whoever is second changes nothing.
            if !was_evaluated && !parts.members.is_mine(ROLE, &format!("alerts/{model}")) {
                if followers.remove(model).is_some() {
                    telemetry::left(model);
                }
                continue;
            }
            if !followers.contains_key(model) {
                followers.insert(model.clone(), Follower::open(parts, model).await?);
            }
            let Some(follower) = followers.get_mut(model) else { continue };
            did_something |= match model == paths::NO_MODEL {
                true if wants_pipeline => follower.look(parts, &replica.state).await?,
                true => false,
                false => follower.step(parts, &replica.state, model, is_new).await?,
            };
            let (sinks, allow_local) = (&parts.config.sinks, parts.config.allow_local);
            let told = deliveries.deliver(&parts.store, &follower.feed, follower.log.next, sinks, allow_local)?;
            progress = progress.max(told);
        }
        if progress == Progress::UpToDate || did_something {
            waiting_since = None;
        }
        if was_evaluated && !did_something {
            let since = *waiting_since.get_or_insert_with(Instant::now);
            let is_over = progress == Progress::Waiting && since.elapsed() > LAST_TRIES;
            if progress == Progress::UpToDate || is_over {
                return Ok(());
            }
        }
        if !did_something {
            tokio::select! {
                () = tokio::time::sleep(parts.poll_interval) => {}
                ended = deliveries.ended() => ended?,
                () = shutdown.cancelled() => {}
            }
        }
    }
    Ok(())
}

/// Which revisions the rules have seen; advice, for judging again changes nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Cursor {
    /// Records that there have been in the chain.
    records: u64,
    /// Window's start → its revision, and whether it was final.
    windows: BTreeMap<Micros, (u64, bool)>,
    /// Of the pipeline: the minute that was looked at last.
    #[serde(default)]
    tick: Micros,
    /// Of the pipeline: the events of each partition by then.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    counted: BTreeMap<String, Counted>,
}

/// One model's alerts.
struct Follower {
    log: Log,
    cursor: Cursor,
    feed: Arc<dyn Feed>,
    /// There may be more than one step takes, whether or not the ledger has anything new.
    is_behind: bool,
    /// When it was asked last whether silences have ended.
    silences_read: Option<Instant>,
    /// What rules that are relative to a reference are held against.
    references: References,
}

impl Follower {
    async fn open(parts: &Parts, model: &str) -> Result<Self, Error> {
        let path = paths::alerting_cursor(model);
        let known = parts.store.get(&path).await?;
        let cursor: Cursor = known.and_then(|object| serde_json::from_slice(&object.bytes).ok()).unwrap_or_default();
        let (log, records) = Log::open(&parts.store, model, cursor.records).await?;
        let feed = Arc::new(Alerts::new(&parts.store, model, parts.config.external_url.clone()));
        let mut follower =
            Self { log, cursor, feed, is_behind: true, silences_read: None, references: References::default() };
        // Whoever wrote them may have died before the table had them.
        for record in &records {
            table::publish(&parts.store, model, record).await?;
        }
        deliver::enrol(&parts.store, &*follower.feed, &parts.config.sinks, follower.log.next).await?;
        telemetry::stepped(model, &[], &follower.log.state);
        let rules: BTreeSet<&str> = parts.config.rules.iter().map(|rule| rule.name.as_str()).collect();
        follower.decide(parts, model, |state, now| state.drop_rules(&rules, now)).await?;
        Ok(follower)
    }

    /// Judges what is new of the model; whether there was anything.
    async fn step(&mut self, parts: &Parts, ledger: &LedgerState, name: &str, is_new: bool) -> Result<bool, Error> {
        let Some(model) = ledger.models.get(name) else { return Ok(false) };
        self.remind(parts, name).await?;
        if !is_new && !self.is_behind {
            return Ok(false);
        }
        let new = self.new_windows(model);
        self.is_behind = new.len() == WINDOWS_A_STEP;
        if new.is_empty() {
            return Ok(false);
        }
        let order: Vec<Micros> = model.windows.keys().copied().collect();
        let settings = |start| ledger.era_settings(name, start);
        let verdicts = verdicts(parts, name, &order, &new, &self.cursor, settings, &mut self.references).await?;
        self.decide(parts, name, |state, now| state.take(&order, &verdicts, now)).await?;
        for (start, revision) in &new {
            let is_final = verdicts.iter().any(|verdict| verdict.start == *start && verdict.is_final);
            self.cursor.windows.insert(*start, (*revision, is_final));
        }
        let oldest = order.get(order.len().saturating_sub(WINDOWS_MAX)).copied().unwrap_or_default();
        self.cursor.windows.retain(|start, _| *start >= oldest);
        self.keep_cursor(parts, name).await?;
        Ok(true)
    }

    /// Tells people what they have to be told though nothing is new: what a silence that has ended kept from them, and what still
    /// fires.
    async fn remind(&mut self, parts: &Parts, name: &str) -> Result<(), Error> {
        let is_time = self.silences_read.is_none_or(|read| read.elapsed() >= SILENCES_EVERY);
        if is_time && self.log.state.keeps_back() {
            let quiet = Quiet::read(&parts.store, &parts.config.maintenance, clock::now_micros()).await?;
            self.decide(parts, name, |state, now| state.end_silences(now, |told| quiet.over(told))).await?;
            self.silences_read = Some(Instant::now());
        }
        let sinks = &parts.config.sinks;
        if self.log.state.repeats(sinks, clock::now_micros()) {
            self.decide(parts, name, |state, now| state.repeat(sinks, now)).await?;
        }
        Ok(())
    }

    async fn keep_cursor(&mut self, parts: &Parts, name: &str) -> Result<(), Error> {
        self.cursor.records = self.log.next;
        let path = paths::alerting_cursor(name);
        let bytes = serde_json::to_vec(&self.cursor).map_err(|source| Error::Json { path: path.clone(), source })?;
        Ok(parts.store.put(&path, bytes.into()).await?)
    }

    /// Looks at the pipeline, once a minute; whether it did.
    async fn look(&mut self, parts: &Parts, ledger: &LedgerState) -> Result<bool, Error> {
        let (now, name) = (clock::now_micros(), paths::NO_MODEL);
        let tick = now.div_euclid(pipeline::TICK) * pipeline::TICK;
        if tick <= self.cursor.tick {
            return Ok(false);
        }
        self.remind(parts, name).await?;
        let mut look = Look::default();
        if pipeline::wants(&parts.config, Signal::ReadDelay) {
            for (chain, _) in pipeline::partitions(ledger) {
                let Some(object) = parts.store.get(&paths::facts(chain)).await? else { continue };
                // What cannot be read says nothing, and the partition shows as late.
                if let Ok(facts) = serde_json::from_slice(&object.bytes) {
                    look.facts.insert(chain.clone(), facts);
                }
            }
        }
        if [Signal::Collectors, Signal::Aggregators, Signal::Evaluators]
            .iter()
            .any(|s| pipeline::wants(&parts.config, *s))
        {
            look.living = Heartbeat::living(&parts.store, clock::time_of(now), members::TTL).await?;
        }
        let readings = pipeline::read(ledger, &look, &self.cursor.counted, now);
        let findings = pipeline::judge(&parts.config, &readings, tick);
        let verdicts = [Verdicts { start: tick, is_final: true, was_final: false, findings }];
        // Minutes in which nobody looked are minutes too.
        let order: Vec<Micros> = (0..TICKS).rev().map(|ago| tick - ago * pipeline::TICK).collect();
        self.decide(parts, name, |state, now| state.take(&order, &verdicts, now)).await?;
        (self.cursor.tick, self.cursor.counted) = (tick, pipeline::counts(ledger));
        self.keep_cursor(parts, name).await?;
        Ok(true)
    }

    /// The oldest windows with a revision that the rules have not seen.
    fn new_windows(&self, model: &ModelState) -> Vec<(Micros, u64)> {
        let oldest = model.windows.len().saturating_sub(WINDOWS_MAX);
        let published = model.windows.values().skip(oldest).filter(|record| record.completed > 0);
        let seen = |start: Micros| self.cursor.windows.get(&start).map_or(0, |(revision, _)| *revision);
        let new = published.filter(|record| record.completed > seen(record.window.start));
        new.map(|record| (record.window.start, record.completed)).take(WINDOWS_A_STEP).collect()
    }

    /// Records what a change of the state brings about, decided anew as often as another worker was first.
    async fn decide(
        &mut self,
        parts: &Parts,
        model: &str,
        change: impl Fn(&mut State, Micros) -> Vec<Transition>,
    ) -> Result<(), Error> {
        let now = clock::now_micros();
        loop {
            let mut state = self.log.state.clone();
            let mut transitions = change(&mut state, now);
            if transitions.is_empty() && state == self.log.state {
                return Ok(());
            }
            if transitions.iter().any(|transition| transition.kind.is_told()) {
                let quiet = Quiet::read(&parts.store, &parts.config.maintenance, now).await?;
                state.hush(&mut transitions, |told| quiet.over(told));
            }
            if self.append(parts, model, transitions, &state, now).await? {
                return Ok(());
            }
        }
    }

    /// Records what happened, and puts it into the table. `false`: another worker was first.
    async fn append(
        &mut self,
        parts: &Parts,
        model: &str,
        transitions: Vec<Transition>,
        state: &State,
        now: Micros,
    ) -> Result<bool, Error> {
        let share = |transition: &Transition| {
            let length = transition.evidence.window_end - transition.evidence.window_start;
            transition.evidence.ln_e.and_then(|_| judge::share_of_budget(&parts.config, length))
        };
        let shares = transitions.iter().map(share).collect();
        let appended = self.log.append(parts.members.me(), now, &transitions, shares, state).await?;
        let (is_mine, records): (bool, Vec<Record>) = match appended {
            Ok(record) => (true, vec![record]),
            Err(theirs) => (false, theirs),
        };
        for record in &records {
            table::publish(&parts.store, model, record).await?;
            for transition in record.transitions.iter().filter(|_| is_mine) {
                tracing::info!(alert = transition.id, transition = transition.kind.as_str(), "{}", transition.show());
            }
            telemetry::stepped(model, if is_mine { &record.transitions } else { &[] }, &record.state);
        }
        Ok(is_mine)
    }
}

/// Judges some windows as they are published.
async fn verdicts<'l>(
    parts: &Parts,
    model: &str,
    order: &[Micros],
    windows: &[(Micros, u64)],
    cursor: &Cursor,
    settings: impl Fn(Micros) -> &'l ModelSettings,
    references: &mut References,
) -> Result<Vec<Verdicts>, Error> {
    let starts = || windows.iter().map(|(start, _)| *start);
    let needed = learned_from(&parts.config, model, order, starts(), |start| settings(start).window);
    let is_relative = reference::is_wanted(&parts.config, model);
    let wanted = read::Wanted::of(&parts.config, model);
    let metrics = read::metrics(&parts.store, model, &read::dates(starts().chain(needed)), &wanted).await?;
    let mut others = read::others(&parts.store, model, &read::dates(starts()), &wanted).await?;
    let mut verdicts = Vec::new();
    for start in starts() {
        // A window whose rows retention has deleted says nothing.
        let Some(other) = others.remove(&start) else { continue };
        let metrics_here = metrics.get(&start).cloned().unwrap_or_default();
        let reference =
            if is_relative { references.of(&parts.store, model, &metrics_here, settings(start)).await? } else { None };
        let published = Published { metrics: metrics_here, spec: settings(start).window, reference, ..other };
        if is_relative {
            for (rule, why) in references.news(judge::unjudged(&parts.config, model, &published)) {
                tracing::warn!(model, rule, why, "a rule relative to the reference cannot judge");
            }
        }
        let was_final = cursor.windows.get(&start).is_some_and(|(_, was_final)| *was_final);
        verdicts.push(verdict(&parts.config, model, start, &published, &metrics, was_final));
    }
    Ok(verdicts)
}

pub(crate) fn verdict(
    config: &AlertsConfig,
    model: &str,
    start: Micros,
    published: &Published,
    past: &Past,
    was_final: bool,
) -> Verdicts {
    let is_final = published.window.as_ref().is_some_and(|window| window.state == "final");
    Verdicts { start, is_final, was_final, findings: judge::judge(config, model, published, past) }
}

/// The windows that levels are learned from, and those whose evidence adds up.
pub(crate) fn learned_from(
    config: &AlertsConfig,
    model: &str,
    order: &[Micros],
    windows: impl IntoIterator<Item = Micros>,
    spec: impl Fn(Micros) -> WindowSpec,
) -> BTreeSet<Micros> {
    let rules: Vec<&Rule> = config.rules.iter().filter(|rule| rule.is_for(model)).collect();
    let learned: Vec<Learned> = rules.iter().filter_map(|rule| rule.level.learned()).collect();
    let is_in_metrics = |subject: &Subject| {
        matches!(subject, Subject::Metric { .. } | Subject::Estimate { .. } | Subject::LabelLag { .. })
    };
    let adds_up = |rule: &&Rule| is_in_metrics(&rule.subject) && rule.decide == Decide::Interval;
    let memory = if rules.iter().any(adds_up) { judge::MEMORY } else { 0 };
    let mut needed = BTreeSet::new();
    for start in windows {
        let before = &order[..order.partition_point(|other| *other < start)];
        needed.extend(before.iter().rev().take(memory).copied());
        for from in &learned {
            let spec = spec(start);
            let fits = |other: &&Micros| judge::is_learned_from(&spec, start, **other, *from);
            // Some of them may lack the series: twice as many are looked at.
            needed.extend(before.iter().rev().filter(fits).take(2 * from.windows as usize).copied());
        }
    }
    needed
}

#[cfg(test)]
mod tests;
