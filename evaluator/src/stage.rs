//! The evaluator's loop: takes windows whose parts are all judged, evaluates them, publishes, and records completion.
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use arrow::array::RecordBatch;
use async_trait::async_trait;
use bytes::Bytes;
use datafusion::prelude::SessionContext;
use driftline_ledger::{LedgerState, Members, Replica, WindowRecord};
use driftline_schemas::clock;
use driftline_schemas::config::ReferenceSpec;
use driftline_schemas::history::part_name;
use driftline_schemas::ledger::{Entry, Job, WindowState};
use driftline_schemas::tables::{ScoreKind, Task, WindowRow};
use driftline_schemas::window::Window;
use driftline_store::{Store, paths};
use futures::StreamExt;
use tokio_util::sync::CancellationToken;

use crate::figures::Figures;
use crate::publish::Published;
use crate::reference::Terms;
use crate::session::{Sessions, hold, register_bytes, register_file, register_objects};
use crate::{Error, EvaluatedWindow, EvaluationContext, Reference, account, file_rows, publish, telemetry};

/// The role's name in heartbeats.
pub const ROLE: &str = "evaluator";
/// Windows published together: more write a date's objects less often, fewer show the first sooner.
const WINDOWS_A_STEP: usize = 16;
/// Windows evaluated at the same time by one process.
const WINDOWS_AT_ONCE: usize = 2;
/// Rows of a window up to which it is read into memory as a whole, once. More would show in memory: a row of a hundred features has a
/// kilobyte or two.
const ROWS_HELD: u64 = 10_000;
/// Bytes of its objects up to which it is: rows of long texts are few, and large.
const BYTES_HELD: u64 = 8 << 20;
/// How often the accounts of partitions and models are published while running.
const ACCOUNTS_EVERY: Duration = Duration::from_secs(300);
const PAUSE_MAX: Duration = Duration::from_secs(30);
/// How soon a reference file that could not be read is tried again. Shorter: every window waits for it. Longer: more windows
/// are published without drift after it has been mended.
const TRY_REFERENCE_EVERY: Duration = Duration::from_secs(30);
/// Where a row of no date is kept.
const NO_DATE: &str = "1970-01-01";

/// The rows of a reference file, with the columns of `history`.
#[derive(Debug)]
pub enum ReferenceRows {
    /// Those of events.
    Decoded(RecordBatch),
    /// A Parquet file on this machine's disk, which is read where it lies.
    ParquetFile(PathBuf),
    /// A Parquet file from elsewhere.
    ParquetBytes(Bytes),
}

impl ReferenceRows {
    /// Makes them a table of a session, as a window of the model would see them: `judged` says what it predicts, and what its scores are.
    ///
    /// # Errors
    /// If the file is no Parquet file, or gone by now.
    pub async fn register(
        self,
        session: &SessionContext,
        table: &str,
        judged: Option<(Task, ScoreKind)>,
    ) -> Result<(), Error> {
        let file = format!("{table}_file");
        match self {
            Self::Decoded(rows) => drop(session.register_batch(&file, rows)?),
            Self::ParquetFile(path) => register_file(session, &file, &path).await?,
            Self::ParquetBytes(bytes) => register_bytes(session, &file, bytes).await?,
        }
        file_rows::view(session, (&file, table), judged).await?;
        Ok(())
    }
}

/// Reads a reference file: prediction events with labels.
#[async_trait]
pub trait ReferenceFiles: Send + Sync {
    /// Reads the rows of the file at a URL or path.
    async fn read(&self, location: &str) -> Result<ReferenceRows, String>;
    /// Reads the file, if it is a reference that was frozen before; `None` if it has rows to be frozen, as all have unless an
    /// implementation knows better.
    async fn read_frozen(&self, _location: &str) -> Result<Option<Reference>, String> {
        Ok(None)
    }
}

/// Told of each window that was published.
pub type OnPublished = Arc<dyn Fn(&WindowRow, &EvaluatedWindow) + Send + Sync>;

/// What the stage works with.
pub struct Parts {
    /// The store.
    pub store: Store,
    /// Sessions over it.
    pub sessions: Sessions,
    /// Who shares the work.
    pub members: Arc<Members>,
    /// How references are read.
    pub references: Arc<dyn ReferenceFiles>,
    /// How long to wait when there was nothing to do.
    pub poll_interval: Duration,
    /// Fires when no more windows will be judged: the stage then publishes what is open and ends.
    pub judged: Option<CancellationToken>,
    /// Told of each window that was published; for progress, and for the demo's table.
    pub on_published: Option<OnPublished>,
}

/// Runs until `shutdown`, or until everything that was judged is published.
pub async fn run(parts: Parts, shutdown: CancellationToken) -> Result<(), Error> {
    let mut pause = Duration::from_millis(200);
    let references = References::default();
    loop {
        match run_once(&parts, &references, &shutdown, &mut pause).await {
            Err(error) if error.is_transient() => {
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
    references: &References,
    shutdown: &CancellationToken,
    pause: &mut Duration,
) -> Result<(), Error> {
    let mut replica = Replica::open(&parts.store, parts.members.me()).await?;
    let mut accounts_at = Instant::now();
    while !shutdown.is_cancelled() {
        let was_judged = parts.judged.as_ref().is_some_and(CancellationToken::is_cancelled);
        let mut did_something = replica.catch_up().await? > 0;
        telemetry::published(Vec::new(), &replica.state);
        did_something |= evaluate_mine(parts, references, &mut replica, was_judged).await?;
        *pause = Duration::from_millis(200);
        // The windows of others are waited for too: one who has just been killed counts among the living for a while.
        let is_over = was_judged && !did_something && judged_windows(&replica.state).next().is_none();
        let is_due = accounts_at.elapsed() > ACCOUNTS_EVERY && parts.members.is_mine(ROLE, "accounts");
        if is_over || is_due {
            match publish_accounts(parts, &replica.state).await {
                // What windows say is worth more than its account, which `driftline audit` counts where there is more memory.
                Err(error) if error.is_out_of_memory() => telemetry::accounts_left(&error),
                published => published?,
            }
            accounts_at = Instant::now();
        }
        if is_over {
            return Ok(());
        }
        if !did_something {
            tokio::select! { () = tokio::time::sleep(parts.poll_interval) => {}, () = shutdown.cancelled() => {} }
        }
    }
    Ok(())
}

/// A window that is judged, and what it is evaluated under.
struct Subject {
    job: Job,
    record: WindowRecord,
}

async fn evaluate_mine(
    parts: &Parts,
    references: &References,
    replica: &mut Replica,
    was_judged: bool,
) -> Result<bool, Error> {
    let mine: Vec<Subject> = judged_windows(&replica.state)
        .filter(|s| !awaits_reference(&replica.state, &s.job, was_judged))
        .filter(|s| parts.members.is_mine(ROLE, &format!("{}/{}", s.job.model, s.job.window.start)))
        .take(WINDOWS_A_STEP)
        .collect();
    if mine.is_empty() {
        return Ok(false);
    }
    let state = &replica.state;
    let evaluated: Vec<Result<(Subject, EvaluatedWindow, WindowRow), Error>> = futures::stream::iter(mine)
        .map(|subject| async move {
            let started = Instant::now();
            let evaluated = evaluate_window(parts, references, state, &subject).await?;
            telemetry::evaluated(started.elapsed());
            let row = account::window_row(&subject.job.model, &subject.record);
            Ok((subject, evaluated, row))
        })
        .buffer_unordered(WINDOWS_AT_ONCE)
        .collect()
        .await;
    let evaluated = evaluated.into_iter().collect::<Result<Vec<_>, Error>>()?;
    let published: Vec<Published<'_>> = evaluated
        .iter()
        .map(|(subject, evaluated, row)| Published {
            model: &subject.job.model,
            window: subject.job.window,
            revision: subject.job.revision,
            evaluated,
            row,
        })
        .collect();
    publish::publish(&parts.store, &published).await?;
    let completed = |(subject, _, _): &(Subject, EvaluatedWindow, WindowRow)| Entry::Completed {
        model: subject.job.model.clone(),
        window: subject.job.window,
        revision: subject.job.revision,
    };
    let entries: Vec<Entry> = evaluated.iter().map(completed).collect();
    replica.append_anywhere(&entries, clock::now_micros()).await?;
    let figures = evaluated.iter().map(|(s, evaluated, row)| (s.job.model.clone(), Figures::of(row, evaluated)));
    telemetry::published(figures.collect(), &replica.state);
    publish_window_accounts(parts, &replica.state, &published).await?;
    if let Some(on_published) = &parts.on_published {
        for (_, evaluated, row) in &evaluated {
            on_published(row, evaluated);
        }
    }
    Ok(true)
}

fn judged_windows(state: &LedgerState) -> impl Iterator<Item = Subject> + '_ {
    state.models.values().flat_map(|model| {
        let judged = model.windows.values().filter(|record| record.is_judged());
        judged.filter_map(|record| Some(Subject { job: record.open.clone()?, record: record.clone() }))
    })
}

/// Whether a window is measured against earlier ones that are in work for the first time: read together, as a replay is,
/// it would find no reference otherwise. It waits for earlier windows only, so no two wait for each other; and once all
/// has been judged (`was_judged`), only for those that some evaluator is about to complete.
fn awaits_reference(state: &LedgerState, job: &Job, was_judged: bool) -> bool {
    let Some(epoch) = state.epochs.get(&job.epoch) else { return false };
    let Some(past @ ReferenceSpec::Past { .. }) = &epoch.config.model(&job.model).reference else { return false };
    reference_windows(state, job, past).any(|record| {
        let is_coming = record.is_judged() || (!was_judged && (record.open.is_some() || !record.pending.is_empty()));
        record.history_revision == 0 && is_coming
    })
}

/// The windows that lie whole in the period that a job is measured against; none of a file.
fn reference_windows<'a>(
    state: &'a LedgerState,
    job: &Job,
    past: &ReferenceSpec,
) -> impl Iterator<Item = &'a WindowRecord> {
    let (last, offset, same_hour) = match past {
        ReferenceSpec::Past { last, offset, same_hour_of_week } => (*last, *offset, *same_hour_of_week),
        ReferenceSpec::File(_) => (0, 0, false),
    };
    let spec = state.era_settings(&job.model, job.window.start).window;
    let start = job.window.start;
    let until = spec.back(start, offset);
    let from = spec.back(until, last);
    let windows = state.models.get(&job.model).map(|model| &model.windows);
    let inside = windows.into_iter().flat_map(move |windows| windows.range(from..until.max(from)));
    inside.map(|(_, record)| record).filter(move |record| {
        record.window.end <= until && (!same_hour || spec.is_same_hour_of_week(start, record.window.start))
    })
}

async fn evaluate_window(
    parts: &Parts,
    references: &References,
    state: &LedgerState,
    subject: &Subject,
) -> Result<EvaluatedWindow, Error> {
    let job = &subject.job;
    let config = state.epochs.get(&job.epoch).ok_or_else(|| Error::NoConfig(job.epoch))?;
    let settings = config.config.model(&job.model);
    let reference = match &settings.reference {
        None => None,
        Some(spec) => {
            let most = config.config.max_segment_values;
            let own_rows = EvaluationContext::of_reference(&job.model, settings, most, terms(job));
            references.get(parts, state, job, spec, &own_rows).await?
        }
    };
    let session = parts.sessions.open()?;
    register_objects(&session, "rows", &history_paths(&job.model, job.window, job.parts)).await?;
    let parts_judged = subject.record.judged.values();
    let (rows, bytes) = parts_judged.fold((0, 0), |sum, part| (sum.0 + part.rows, sum.1 + part.bytes));
    if rows <= ROWS_HELD && bytes <= BYTES_HELD {
        hold(&session, "rows").await?;
    }
    let context = EvaluationContext {
        model: job.model.clone(),
        task: job.task,
        task_is_inferred: settings.task.is_none(),
        positive_class: job.positive_class.clone(),
        threshold: settings.threshold,
        score_kind: settings.score_kind,
        segments: settings.segments.clone(),
        segment_values_max: config.config.max_segment_values,
        segments_min_rows: settings.segments_min_rows,
        reference,
        cost: settings.cost,
        ranking: settings.ranking.clone(),
        window_start: clock::time_of(job.window.start),
        window_end: clock::time_of(job.window.end),
        state: job.state.as_str().to_owned(),
        revision: job.revision as i64,
        decided_at: clock::time_of(job.decided_at),
    };
    let mut evaluated = crate::evaluate(&session, "rows", &context).await?;
    // Up to 800 points a window, and all of a date's are one object: rewritten with each revision, hours would do little else.
    if job.state == WindowState::Open {
        evaluated.curves.clear();
    }
    Ok(evaluated)
}

/// The objects of a window.
pub fn history_paths(model: &str, window: Window, parts: u32) -> Vec<String> {
    (0..parts).map(|part| paths::table("history", model, window.date(), &part_name(window, part))).collect()
}

async fn publish_window_accounts(parts: &Parts, state: &LedgerState, published: &[Published<'_>]) -> Result<(), Error> {
    let mut dates: Vec<(&str, chrono::NaiveDate)> = published.iter().map(|p| (p.model, p.window.date())).collect();
    dates.sort_unstable();
    dates.dedup();
    for (name, date) in dates {
        let Some(model) = state.models.get(name) else { continue };
        let of_date = model.windows.values().filter(|record| record.window.date() == date);
        let rows = of_date.flat_map(|record| account::window(name, record)).collect();
        publish::accounts(&parts.store, name, &date.to_string(), state.next_seq, rows).await?;
    }
    Ok(())
}

async fn publish_accounts(parts: &Parts, state: &LedgerState) -> Result<(), Error> {
    let seq = state.next_seq;
    publish::accounts(&parts.store, account::NO_MODEL, NO_DATE, seq, account::partitions(state)).await?;
    for model in state.models.keys() {
        let mut rows = account::labels(&parts.sessions, state, model).await?;
        rows.extend(state.models.get(model).iter().flat_map(|of_model| account::folded(model, of_model)));
        publish::accounts(&parts.store, model, NO_DATE, seq, rows).await?;
    }
    Ok(())
}

/// References that have been read, by where they come from, and those that could not be, with when that was.
#[derive(Default)]
struct References {
    files: Mutex<HashMap<(String, String), Arc<Reference>>>,
    unreadable: Mutex<HashMap<String, Instant>>,
}

impl References {
    async fn get(
        &self,
        parts: &Parts,
        state: &LedgerState,
        job: &Job,
        spec: &ReferenceSpec,
        own_rows: &EvaluationContext,
    ) -> Result<Option<Arc<Reference>>, Error> {
        match spec {
            ReferenceSpec::File(location) => self.file_or_none(parts, job, location, own_rows).await,
            ReferenceSpec::Past { .. } => past(parts, state, job, spec).await,
        }
    }

    /// A pipeline that runs goes on without a file that cannot be read: one model's reference must not stop the others. Its
    /// windows say `no_reference` until it is there. Where somebody waits for the end, it is an error.
    async fn file_or_none(
        &self,
        parts: &Parts,
        job: &Job,
        location: &str,
        own_rows: &EvaluationContext,
    ) -> Result<Option<Arc<Reference>>, Error> {
        let unreadable = || self.unreadable.lock().unwrap_or_else(PoisonError::into_inner);
        let somebody_waits = parts.judged.is_some();
        let since = unreadable().get(location).copied();
        if !somebody_waits && since.is_some_and(|since| since.elapsed() < TRY_REFERENCE_EVERY) {
            return Ok(None);
        }
        match self.file(parts, job, location, own_rows).await {
            Ok(reference) => {
                unreadable().remove(location);
                Ok(Some(reference))
            }
            Err(error @ Error::Reference { .. }) if !somebody_waits => {
                unreadable().insert(location.to_owned(), Instant::now());
                telemetry::reference_unreadable(&job.model, &error);
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    async fn file(
        &self,
        parts: &Parts,
        job: &Job,
        location: &str,
        own_rows: &EvaluationContext,
    ) -> Result<Arc<Reference>, Error> {
        // The metrics of its own rows depend on all that a window's depend on.
        let key = (location.to_owned(), format!("{own_rows:?}"));
        if let Some(known) = self.files.lock().unwrap_or_else(PoisonError::into_inner).get(&key) {
            return Ok(known.clone());
        }
        let unreadable = |cause: String| Error::Reference { location: location.to_owned(), cause };
        let frozen = parts.references.read_frozen(location).await.map_err(unreadable)?;
        let reference = if let Some(frozen) = frozen {
            Arc::new(frozen)
        } else {
            let rows = parts.references.read(location).await.map_err(unreadable)?;
            let session = parts.sessions.open()?;
            let unfit = |error: Error| unreadable(error.with_causes());
            let judged = Some((own_rows.task, own_rows.score_kind));
            rows.register(&session, "reference", judged).await.map_err(&unfit)?;
            let frozen = Reference::from_table(&session, "reference", terms(job)).await.map_err(&unfit)?;
            Arc::new(frozen.with_metrics(&session, "reference", own_rows).await.map_err(&unfit)?)
        };
        reference.keep(&parts.store, &job.model).await?;
        tracing::info!(location, version = reference.version, "reference frozen");
        self.files.lock().unwrap_or_else(PoisonError::into_inner).insert(key, reference.clone());
        Ok(reference)
    }
}

/// What the rows of a job mean.
fn terms(job: &Job) -> Terms {
    Terms { task: job.task, positive_class: job.positive_class.clone() }
}

/// A past period of the model's own history; `None` while there is none.
async fn past(
    parts: &Parts,
    state: &LedgerState,
    job: &Job,
    spec: &ReferenceSpec,
) -> Result<Option<Arc<Reference>>, Error> {
    let paths: Vec<String> = reference_windows(state, job, spec)
        .filter(|record| record.history_revision > 0)
        .flat_map(|record| history_paths(&job.model, record.window, record.parts))
        .collect();
    if paths.is_empty() {
        return Ok(None);
    }
    let session = parts.sessions.open()?;
    register_objects(&session, "reference", &paths).await?;
    let reference = Reference::from_table(&session, "reference", terms(job)).await?;
    reference.keep(&parts.store, &job.model).await?;
    Ok(Some(Arc::new(reference)))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use driftline_ledger::state::ModelState;
    use driftline_schemas::clock::{DAY, Micros};
    use driftline_schemas::config::{JudgeConfig, ModelSettings, ReviseConfig};
    use driftline_schemas::ledger::WindowState;
    use driftline_schemas::window::{WindowLength, WindowSpec};

    use super::*;

    #[test]
    fn a_reference_of_seven_days_has_seven_windows_of_a_day_whatever_the_clocks_do() {
        let spec = WindowSpec { length: WindowLength::Day, timezone: "Europe/Amsterdam".parse().unwrap() };
        let settings = ModelSettings { window: spec, ..ModelSettings::default() };
        let mut state = LedgerState::default();
        let revise = ReviseConfig { min_growth: 0.1, min_delay: 0, max_delay: 0, max_amplification: 10.0 };
        let config = JudgeConfig {
            revise,
            idle_timeout: 0,
            accept_unknown_models: true,
            models_max: 1,
            max_feature_columns: 1,
            max_segment_values: 1,
            defaults: settings,
            models: BTreeMap::new(),
        };
        let epoch = state.next_epoch(config);
        state.apply_entry(&Entry::Config(Box::new(epoch)), 0, None);
        let mut model = ModelState::default();
        // 2026-03-01 to 2026-04-30: on March 29 the clocks go forward.
        let (mut start, end) = (1_772_319_600_000_000, 1_777_500_000_000_000);
        while start < end {
            let window = spec.window_of(start);
            model.windows.insert(window.start, WindowRecord::new(window));
            start = window.end;
        }
        let starts: Vec<Micros> = model.windows.keys().copied().collect();
        state.models.insert("m".into(), driftline_ledger::shared::Shared::new(model));
        for at in 14..starts.len() {
            let job = Job {
                model: "m".into(),
                window: spec.window_of(starts[at]),
                revision: 1,
                previous: 0,
                parts: 1,
                state: WindowState::Open,
                inputs: Vec::new(),
                rejudge: false,
                epoch: 1,
                task: Task::Binary,
                positive_class: None,
                refusal: None,
                forgets: 0,
                decided_at: 0,
            };
            let found = |last: Micros, offset: Micros, same_hour_of_week: bool| -> Vec<Micros> {
                let past = ReferenceSpec::Past { last, offset, same_hour_of_week };
                reference_windows(&state, &job, &past).map(|record| record.window.start).collect()
            };
            assert_eq!(found(7 * DAY, 7 * DAY, false), starts[at - 14..at - 7], "{}", clock::show(starts[at]));
            // Half a day of yesterday is left out, and so is the window that reaches into it.
            assert_eq!(found(7 * DAY, DAY / 2, false), starts[at - 8..at - 1], "{}", clock::show(starts[at]));
            // Of the days of two weeks those of the same weekday.
            assert_eq!(found(14 * DAY, 0, true), [starts[at - 14], starts[at - 7]], "{}", clock::show(starts[at]));
        }
    }
}
