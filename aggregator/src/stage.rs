//! The aggregator's loop: carries out what `follow` finds, `decide` decides and `judge` judges.
use std::sync::Arc;
use std::time::{Duration, Instant};

use driftline_ledger::{LedgerState, Members, Outcome, Replica};
use driftline_schemas::clock;
use driftline_schemas::config::{JudgeConfig, RetentionConfig};
use driftline_schemas::ledger::{Entry, Job, Record};
use driftline_store::{Store, paths};
use futures::StreamExt;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::decide::{Urgency, decide};
use crate::error::{Disposition, Error};
use crate::follow::{Findings, Follower};
use crate::{house, judge, objects, telemetry};

/// The role's name in heartbeats.
pub const ROLE: &str = "aggregator";
/// Parts judged before the ledger is looked at again: more batch better, fewer share better.
const PARTS_A_STEP: usize = 32;
/// Parts judged at the same time by one process.
const PARTS_AT_ONCE: usize = 2;
const PAUSE_MAX: Duration = Duration::from_secs(30);

/// What the stage works with.
pub struct Parts {
    /// The store.
    pub store: Store,
    /// Who shares the work.
    pub members: Arc<Members>,
    /// The configuration to judge by.
    pub config: JudgeConfig,
    /// How long what is kept is kept.
    pub retention: RetentionConfig,
    /// How long to wait when there was nothing to do.
    pub poll_interval: Duration,
    /// Fires when everything that is to be judged has been collected: from then on nothing waits, and the stage ends when
    /// all is published. `None`: it runs until shutdown.
    pub collected: Option<CancellationToken>,
}

/// Runs until `shutdown`, or until all that was collected is judged and published.
pub async fn run(parts: Parts, shutdown: CancellationToken) -> Result<(), Error> {
    let (tell, told) = watch::channel(None);
    let ended = tokio::select! {
        ended = judge_on(&parts, &shutdown, &tell) => ended,
        never = house::keep(&parts, told) => match never {},
    };
    if ended.is_ok() && parts.collected.is_some() && !shutdown.is_cancelled() {
        // A run that ends looks after the house once, for there may be no other. What it misses, the next one does.
        let looked_after = async {
            let replica = Replica::open(&parts.store, parts.members.me()).await?;
            house::once(&parts, replica.state).await
        };
        if let Err(error) = looked_after.await {
            telemetry::house_failed(&error);
        }
    }
    ended
}

async fn judge_on(
    parts: &Parts,
    shutdown: &CancellationToken,
    tell: &watch::Sender<Option<LedgerState>>,
) -> Result<(), Error> {
    let mut pause = Duration::from_millis(200);
    let mut has_announced = false;
    loop {
        match run_once(parts, shutdown, &mut pause, &mut has_announced, tell).await {
            Err(error) if error.disposition() == Disposition::Retry => {
                telemetry::step_failed(&error, pause);
                tokio::select! { () = tokio::time::sleep(pause) => {}, () = shutdown.cancelled() => return Ok(()) }
                pause = (pause * 2).min(PAUSE_MAX);
            }
            other => return other,
        }
    }
}

async fn run_once(
    parts: &Parts,
    shutdown: &CancellationToken,
    pause: &mut Duration,
    has_announced: &mut bool,
    tell: &watch::Sender<Option<LedgerState>>,
) -> Result<(), Error> {
    let mut told_at: Option<Instant> = None;
    let mut replica = Replica::open(&parts.store, parts.members.me()).await?;
    let mut follower = Follower::new(parts.store.clone());
    if !*has_announced {
        announce(parts, &mut replica).await?;
        *has_announced = true;
    }
    let mut compared_with = None;
    while !shutdown.is_cancelled() {
        let urgency = match &parts.collected {
            Some(collected) if collected.is_cancelled() => Urgency::CaughtUp,
            _ => Urgency::Ordinary,
        };
        let mut did_something = replica.catch_up().await? > 0;
        if let Some(epoch) = replica.state.config.as_ref().filter(|epoch| compared_with != Some(epoch.epoch)) {
            compared_with = Some(epoch.epoch);
            if epoch.config != parts.config {
                telemetry::other_configuration(epoch.epoch);
            }
        }
        // A run that ends by itself must know that there is nothing left, and whose work it was may have just been killed: the ledger
        // lets one of several decide.
        if urgency == Urgency::CaughtUp || parts.members.is_mine(ROLE, "decide") {
            did_something |= advance(parts, &mut replica, &mut follower, urgency).await?;
        }
        did_something |= judge_mine(parts, &mut replica).await?;
        if told_at.is_none_or(|at| at.elapsed() >= house::TELL_EVERY) {
            tell.send_replace(Some(replica.state.clone()));
            told_at = Some(Instant::now());
        }
        telemetry::state(&replica.state, clock::now_micros());
        *pause = Duration::from_millis(200);
        if !did_something {
            if urgency == Urgency::CaughtUp && is_settled(&replica.state) {
                return Ok(());
            }
            tokio::select! { () = tokio::time::sleep(parts.poll_interval) => {}, () = shutdown.cancelled() => {} }
        }
    }
    Ok(())
}

/// Records this process's configuration, if the ledger follows another. Done once at start: two processes with different
/// files do not argue.
async fn announce(parts: &Parts, replica: &mut Replica) -> Result<(), Error> {
    while replica.state.judge_config() != Some(&parts.config) {
        let epoch = replica.state.next_epoch(parts.config.clone());
        let entry = Entry::Config(Box::new(epoch.clone()));
        if let Outcome::Mine = replica.append(&[entry], None, clock::now_micros()).await? {
            telemetry::configured(&epoch);
        }
    }
    Ok(())
}

/// Applies what is new and decides what is due, in one record.
async fn advance(
    parts: &Parts,
    replica: &mut Replica,
    follower: &mut Follower,
    urgency: Urgency,
) -> Result<bool, Error> {
    let now = clock::now_micros();
    follower.sync(&replica.state).await?;
    let mut findings = follower.find(&replica.state, now).await?;
    let mut next = replica.state.clone();
    let seq = next.next_seq;
    let touched = touched_windows(&findings);
    findings.entries.extend(touched);
    let routed = (!findings.labels.is_empty()).then(|| paths::routed(seq, &uuid::Uuid::new_v4().simple().to_string()));
    for entry in &findings.entries {
        next.apply_entry(entry, now, routed.as_deref());
    }
    // With more to read at hand, judging at once would only have to be repeated.
    let urgency = if findings.has_more { Urgency::Ordinary } else { urgency };
    let decisions = decide(&next, now, urgency);
    if findings.entries.is_empty() && decisions.is_empty() {
        return Ok(false);
    }
    if let Some(path) = &routed {
        let bytes = objects::write_routed(findings.labels.clone())?;
        parts.store.create(path, bytes).await?;
    }
    let entries: Vec<Entry> = findings.entries.iter().chain(&decisions).cloned().collect();
    loop {
        match replica.append(&entries, routed.as_deref(), now).await? {
            Outcome::Mine => {
                telemetry::appended(&findings, &decisions);
                return Ok(true);
            }
            // Reports of work done change nothing of what was found; anything else does.
            Outcome::Theirs(record) if is_report(&record) => {}
            Outcome::Theirs(_) => break,
        }
    }
    if let Some(path) = &routed {
        parts.store.delete(path).await?;
    }
    Ok(true)
}

fn is_report(record: &Record) -> bool {
    record.entries.iter().all(Entry::is_report)
}

/// One entry for each window that labels were routed to.
fn touched_windows(findings: &Findings) -> Vec<Entry> {
    let mut touched = std::collections::BTreeMap::new();
    for label in &findings.labels {
        *touched.entry((label.model.clone(), label.window)).or_insert(0u64) += 1;
    }
    touched.into_iter().map(|((model, window), labels)| Entry::Routed { model, window, labels }).collect()
}

/// Judges the parts that fall to this process.
async fn judge_mine(parts: &Parts, replica: &mut Replica) -> Result<bool, Error> {
    let mine: Vec<(Job, u32)> = open_parts(&replica.state)
        .filter(|(job, part)| parts.members.is_mine(ROLE, &format!("{}/{}/{part}", job.model, job.window.start)))
        .take(PARTS_A_STEP)
        .map(|(job, part)| (job.clone(), part))
        .collect();
    if mine.is_empty() {
        return Ok(false);
    }
    let state = &replica.state;
    let judged: Vec<Result<Option<Entry>, Error>> = futures::stream::iter(mine.clone())
        .map(|(job, part)| async move {
            let started = Instant::now();
            let counts = match judge::judge(&parts.store, state, &job, part).await {
                // If the ledger says so too, it is said again; a process that stood still finds the job done.
                Err(Error::Gone { .. }) if !is_open_still(parts, state, &job).await? => return Ok(None),
                counts => counts?,
            };
            telemetry::judged(&job, part, started.elapsed());
            let entry = |counts| Entry::Judged {
                model: job.model.clone(),
                window: job.window,
                revision: job.revision,
                part,
                counts,
            };
            Ok(counts.map(entry))
        })
        .buffer_unordered(PARTS_AT_ONCE)
        .collect()
        .await;
    let entries = judged.into_iter().filter_map(Result::transpose).collect::<Result<Vec<Entry>, Error>>()?;
    if !entries.is_empty() {
        replica.append_anywhere(&entries, clock::now_micros()).await?;
    }
    take_back(parts, replica, &mine).await?;
    Ok(true)
}

/// Whether the ledger, as it is now, still waits for a job.
async fn is_open_still(parts: &Parts, state: &LedgerState, job: &Job) -> Result<bool, Error> {
    let mut now = Replica::at(&parts.store, parts.members.me(), state.clone());
    now.catch_up().await?;
    let window = now.state.window(&job.model, job.window.start);
    Ok(window.is_some_and(|window| window.open.as_ref().is_some_and(|open| open.revision == job.revision)))
}

/// Removes what was judged of windows that are no longer kept: a worker that stood still has brought it back.
async fn take_back(parts: &Parts, replica: &Replica, judged: &[(Job, u32)]) -> Result<(), Error> {
    for (job, part) in judged {
        let is_folded = |model: &driftline_ledger::ModelState| model.is_folded(job.window.start);
        if replica.state.models.get(&job.model).is_some_and(|model| is_folded(model)) {
            let path = judge::history_path(&job.model, job.window, *part);
            parts.store.delete(&path).await?;
            telemetry::came_too_late(&path);
        }
    }
    Ok(())
}

fn open_parts(state: &LedgerState) -> impl Iterator<Item = (&Job, u32)> {
    let windows = state.models.values().flat_map(|model| model.windows.values());
    windows.filter_map(|window| Some((window.open.as_ref()?, window))).flat_map(|(job, window)| {
        (0..job.parts).filter(|part| !window.judged.contains_key(part)).map(move |part| (job, part))
    })
}

/// Whether everything applied is published.
fn is_settled(state: &LedgerState) -> bool {
    let mut windows = state.models.values().flat_map(|model| model.windows.values());
    windows.all(|window| window.completed == window.revision && !window.is_dirty())
}
