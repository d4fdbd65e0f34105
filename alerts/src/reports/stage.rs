//! The loop: occurrences that are due are made, recorded once, and told.
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use driftline_ledger::Members;
use driftline_schemas::clock::{self, Micros, time_of};
use driftline_schemas::config::{AlertsConfig, ReportFormat, ReportSpec, Sink};
use driftline_store::{Created, Store, paths};
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use super::due::due;
use super::log::{Filed, Log, Made, Occurrences};
use super::{Maker, Told, Written};
use crate::deliver::{self, Deliveries, Feed, Progress};
use crate::retry::while_transient;
use crate::{Error, telemetry};

/// The role whose processes do this beside their other work.
const ROLE: &str = "evaluator";
/// How long a run that ends by itself waits for what does not go now.
const LAST_TRIES: Duration = Duration::from_secs(20);
/// How long it is tried to make a model's report until the others are told without it: longer holds them up, shorter gives up while
/// a store is away.
const GIVEN_UP_AFTER: Duration = Duration::from_secs(3_600);
/// Between two tries to make a report.
const AGAIN_AFTER: Duration = Duration::from_secs(30);

/// What the stage works with.
pub struct Parts {
    /// The store.
    pub store: Store,
    /// Who shares the work.
    pub members: Arc<Members>,
    /// The sinks.
    pub config: AlertsConfig,
    /// What is to be made, and when.
    pub reports: Vec<ReportSpec>,
    /// Who makes them.
    pub maker: Arc<dyn Maker>,
    /// How long to wait when there was nothing to do.
    pub poll_interval: Duration,
    /// Fires when no more windows will be published: the stage then comes to its end.
    pub evaluated: Option<CancellationToken>,
}

/// Runs until `shutdown`, or until all that is due is made and told.
pub async fn run(parts: Parts, shutdown: CancellationToken) -> Result<(), Error> {
    while_transient(&shutdown, || run_once(&parts, &shutdown)).await
}

async fn run_once(parts: &Parts, shutdown: &CancellationToken) -> Result<(), Error> {
    if parts.reports.is_empty() {
        let ends = parts.evaluated.clone().unwrap_or_else(|| shutdown.clone());
        tokio::select! { () = ends.cancelled() => {}, () = shutdown.cancelled() => {} }
        return Ok(());
    }
    let mut followers: HashMap<&str, Follower<'_>> = HashMap::new();
    let mut deliveries = Deliveries::default();
    let mut waiting_since: Option<Instant> = None;
    while !shutdown.is_cancelled() {
        let was_evaluated = parts.evaluated.as_ref().is_some_and(CancellationToken::is_cancelled);
        let mut did_something = false;
        let mut progress = Progress::UpToDate;
        for spec in &parts.reports {
            // A run that ends by itself leaves nothing to another that may be dead: whoever is second changes nothing.
            if !was_evaluated && !parts.members.is_mine(ROLE, &format!("reports/{}", spec.name)) {
                followers.remove(spec.name.as_str());
                continue;
            }
            // What a run that ends by itself is yet to publish belongs into its reports.
            let is_early = parts.evaluated.is_some() && !was_evaluated;
            if !followers.contains_key(spec.name.as_str()) {
                followers.insert(&spec.name, Follower::open(parts, spec).await?);
            }
            let Some(follower) = followers.get_mut(spec.name.as_str()) else { continue };
            if !is_early {
                match follower.step(parts, clock::now_micros(), shutdown).await? {
                    Step::Done => did_something = true,
                    Step::Waiting => progress = progress.max(Progress::Waiting),
                    Step::Nothing => {}
                }
            }
            let (sinks, allow_local) = (sinks_of(spec, parts), parts.config.allow_local);
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

/// What came of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    /// Something was made, or noted.
    Done,
    /// Nothing is due.
    Nothing,
    /// Something is due and cannot be made now.
    Waiting,
}

/// One report.
struct Follower<'a> {
    store: Store,
    spec: &'a ReportSpec,
    log: Log,
    feed: Arc<dyn Feed>,
    /// Models whose report could not be made, and since when.
    failing: HashMap<String, (Instant, String)>,
    again_at: Option<Instant>,
}

impl<'a> Follower<'a> {
    async fn open(parts: &Parts, spec: &'a ReportSpec) -> Result<Self, Error> {
        let log = Log::open(&parts.store, &spec.name).await?;
        let feed = Arc::new(Occurrences::new(&parts.store, spec));
        let follower = Self { store: parts.store.clone(), spec, log, feed, failing: HashMap::new(), again_at: None };
        // Whoever recorded it may have died before it was tidied up.
        if let Some(made) = follower.log.last.as_ref().and_then(|last| last.made.as_ref()) {
            follower.tidy(made).await?;
        }
        deliver::enrol(&parts.store, &*follower.feed, sinks_of(spec, parts), follower.log.next).await?;
        Ok(follower)
    }

    /// Makes the next occurrence that is due.
    async fn step(&mut self, parts: &Parts, now: Micros, shutdown: &CancellationToken) -> Result<Step, Error> {
        let me = parts.members.me();
        if !self.log.follows(self.spec) {
            self.log.catch_up().await?;
            if !self.log.follows(self.spec) {
                // A schedule holds from when it is first seen: it makes nothing of the time before.
                let from = self.log.done_to().map_or(now, |done_to| done_to.max(now));
                self.log.append(me, self.spec, now, from, None).await?;
                return Ok(Step::Done);
            }
        }
        let is_due = |log: &Log| log.done_to().and_then(|done_to| due(self.spec, done_to, now));
        if is_due(&self.log).is_none() {
            return Ok(Step::Nothing);
        }
        if self.again_at.is_some_and(|at| at > Instant::now()) {
            return Ok(Step::Waiting);
        }
        // Another process may have made it.
        self.log.catch_up().await?;
        let Some(due) = is_due(&self.log) else { return Ok(Step::Done) };
        let (from, to) = self.spec.period.of(due.occurrence, self.spec.time_zone);
        let made = Made {
            occurrence: due.occurrence,
            from,
            to,
            skipped: due.skipped,
            models: BTreeMap::new(),
            empty: Vec::new(),
            failed: BTreeMap::new(),
        };
        let Some(made) = self.make(parts, made, shutdown).await? else {
            self.again_at = Some(Instant::now() + AGAIN_AFTER);
            return Ok(Step::Waiting);
        };
        self.failing.clear();
        self.again_at = None;
        if self.log.append(me, self.spec, clock::now_micros(), due.occurrence, Some(made.clone())).await? {
            telemetry::report_made(&self.spec.name, &made);
        }
        self.tidy(&made).await?;
        Ok(Step::Done)
    }

    /// Makes the reports of all models and files them. `None`: not all can be made now; those that were are not made again.
    async fn make(
        &mut self,
        parts: &Parts,
        mut made: Made,
        shutdown: &CancellationToken,
    ) -> Result<Option<Made>, Error> {
        let models = match self.spec.models.as_slice() {
            [] => match parts.maker.models().await {
                Ok(models) => models,
                Err(why) => {
                    telemetry::report_failed(&self.spec.name, "all models", &why);
                    return Ok(None);
                }
            },
            listed => listed.to_vec(),
        };
        let mut is_whole = true;
        for model in models {
            if shutdown.is_cancelled() {
                return Ok(None);
            }
            match self.draft(parts, &made, &model).await? {
                Ok(Some(draft)) => {
                    let filed = self.file(made.occurrence, &model, draft).await?;
                    made.models.insert(model, filed);
                }
                Ok(None) => made.empty.push(model),
                Err(why) => {
                    telemetry::report_failed(&self.spec.name, &model, &why);
                    let (since, last) =
                        self.failing.entry(model.clone()).or_insert_with(|| (Instant::now(), why.clone()));
                    last.clone_from(&why);
                    if since.elapsed() < GIVEN_UP_AFTER {
                        is_whole = false;
                    } else {
                        made.failed.insert(model, why);
                    }
                }
            }
        }
        Ok(is_whole.then_some(made))
    }

    /// What a model's report says: decided by whoever is first, so that all its files are of one making.
    async fn draft(&self, parts: &Parts, made: &Made, model: &str) -> Result<Result<Option<Draft>, String>, Error> {
        let path = draft_path(&self.spec.name, made.occurrence, model);
        let parse = |bytes: &Bytes| -> Result<Draft, Error> {
            serde_json::from_slice(bytes).map_err(|source| Error::Json { path: path.clone(), source })
        };
        if let Some(object) = self.store.get(&path).await? {
            return Ok(Ok(Some(parse(&object.bytes)?)));
        }
        let written = match parts.maker.make(model, made.from, made.to, &self.spec.formats).await {
            Ok(Some(written)) => written,
            Ok(None) => return Ok(Ok(None)),
            Err(why) => return Ok(Err(why)),
        };
        let draft = Draft::of(written);
        let bytes = serde_json::to_vec(&draft).map_err(|source| Error::Json { path: path.clone(), source })?;
        Ok(Ok(Some(match self.store.create(&path, bytes.into()).await? {
            Created::New(_) => draft,
            Created::Exists(theirs) => parse(&theirs.bytes)?,
        })))
    }

    /// Writes a model's files where people find them; one that is there already stays.
    async fn file(&self, occurrence: Micros, model: &str, draft: Draft) -> Result<Filed, Error> {
        let mut files = BTreeMap::new();
        for (format, text) in draft.files {
            let path = paths::report(&self.spec.name, &folder(occurrence), model, &format);
            let bytes =
                STANDARD.decode(text).map_err(|error| Error::Table { path: path.clone(), source: error.into() })?;
            let (Created::New(_) | Created::Exists(_)) = self.store.create(&path, bytes.into()).await?;
            files.insert(format, path);
        }
        Ok(Filed { windows: draft.windows, findings: draft.findings, files })
    }

    /// Drafts are of no use once their occurrence is recorded.
    async fn tidy(&self, made: &Made) -> Result<(), Error> {
        for model in made.models.keys() {
            self.store.delete(&draft_path(&self.spec.name, made.occurrence, model)).await?;
        }
        Ok(())
    }
}

fn sinks_of<'p>(spec: &'p ReportSpec, parts: &'p Parts) -> impl Iterator<Item = &'p Sink> {
    parts.config.sinks.iter().filter(|sink| spec.sinks.contains(&sink.name))
}

/// A model's report before it is filed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Draft {
    windows: u64,
    findings: Vec<Told>,
    /// Extension → the file, as base64.
    files: BTreeMap<String, String>,
}

impl Draft {
    fn of(written: Written) -> Self {
        let encoded = |(format, bytes): (ReportFormat, Bytes)| (format.as_str().to_owned(), STANDARD.encode(bytes));
        Self {
            windows: written.windows,
            findings: written.findings,
            files: written.files.into_iter().map(encoded).collect(),
        }
    }
}

/// The folder of an occurrence: `2026-11-23T0600Z`.
fn folder(occurrence: Micros) -> String {
    time_of(occurrence).format("%Y-%m-%dT%H%MZ").to_string()
}

fn draft_path(report: &str, occurrence: Micros, model: &str) -> String {
    paths::reporting_draft(report, &folder(occurrence), model)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::sync::atomic::{AtomicU64, Ordering};

    use async_trait::async_trait;
    use driftline_schemas::clock::{DAY, MINUTE};
    use driftline_schemas::config::Config;
    use driftline_store::{FaultPlan, RetryPolicy};

    use super::super::log::Record;
    use super::*;

    /// Makes reports that differ each time, so that two makings show.
    #[derive(Default)]
    struct Counting {
        made: AtomicU64,
        /// How often it was asked for a report, made or not.
        asked: AtomicU64,
        fails: bool,
    }

    #[async_trait]
    impl Maker for Counting {
        async fn models(&self) -> Result<Vec<String>, String> {
            Ok(vec!["churn".into(), "fraud".into(), "idle".into()])
        }

        async fn make(
            &self,
            model: &str,
            from: Micros,
            to: Micros,
            formats: &[ReportFormat],
        ) -> Result<Option<Written>, String> {
            self.asked.fetch_add(1, Ordering::SeqCst);
            // Others go on while it is made.
            tokio::task::yield_now().await;
            if model == "idle" {
                return Ok(None);
            }
            if self.fails && model == "fraud" {
                return Err("its table is away".into());
            }
            // Another process makes another number, too.
            let making = self.made.fetch_add(1, Ordering::SeqCst) + clock::now_micros() as u64;
            let text = format!("{model} {from} {to} {making}");
            Ok(Some(Written {
                windows: 1,
                findings: vec![Told { severity: "fine".into(), text: making.to_string() }],
                files: formats.iter().map(|format| (*format, Bytes::from(text.clone()))).collect(),
            }))
        }
    }

    fn config() -> Config {
        let text = "[[reports]]\nname = \"daily\"\ncron = \"0 7 * * *\"\nformats = [\"html\", \"md\"]";
        Config::from_table(text.parse().expect("TOML")).expect("a good file")
    }

    fn parts(store: &Store, me: &str, maker: Counting) -> Parts {
        let config = config();
        Parts {
            store: store.clone(),
            members: Members::new(me, vec![ROLE.into()]),
            config: config.alerts,
            reports: config.reports,
            maker: Arc::new(maker),
            poll_interval: Duration::from_millis(1),
            evaluated: None,
        }
    }

    /// Steps until nothing is left.
    async fn work(parts: &Parts, now: Micros) -> Result<(), Error> {
        let mut follower = Follower::open(parts, &parts.reports[0]).await?;
        while follower.step(parts, now, &CancellationToken::new()).await? == Step::Done {}
        Ok(())
    }

    async fn records(store: &Store) -> Vec<Record> {
        let log = Log::open(store, "daily").await.expect("a chain");
        let mut records = Vec::new();
        for seq in 0..log.next {
            records.push(log.read(seq).await.expect("readable").expect("there"));
        }
        records
    }

    /// The files of each occurrence and model are of one making, and the record tells of that.
    async fn check(store: &Store, occurrences: usize) {
        let records = records(store).await;
        let made: Vec<&Made> = records.iter().filter_map(|record| record.made.as_ref()).collect();
        let distinct: BTreeSet<Micros> = made.iter().map(|made| made.occurrence).collect();
        assert_eq!((made.len(), distinct.len()), (occurrences, occurrences), "each once: {made:?}");
        let mut named = BTreeSet::new();
        for made in made {
            assert_eq!((made.models.len(), made.empty.as_slice()), (2, ["idle".to_owned()].as_slice()));
            for filed in made.models.values() {
                assert_eq!(filed.files.len(), 2);
                for path in filed.files.values() {
                    let text = store.get(path).await.expect("readable").expect("there").bytes;
                    let text = String::from_utf8(text.to_vec()).expect("text");
                    assert!(text.ends_with(&filed.findings[0].text), "{path} is of another making: {text}");
                    named.insert(path.clone());
                }
            }
        }
        let there: BTreeSet<String> =
            store.list("reports").await.expect("a list").into_iter().map(|object| object.path).collect();
        assert_eq!(there, named, "no file that no record names");
    }

    const START: Micros = 20_000 * DAY;
    const SEVEN: Micros = 7 * 60 * MINUTE;

    #[tokio::test]
    async fn a_schedule_holds_from_when_it_is_first_seen_and_is_caught_up_after_downtime() {
        let store = Store::in_memory();
        let one = parts(&store, "one", Counting::default());
        work(&one, START).await.expect("works");
        check(&store, 0).await;
        work(&one, START + SEVEN - 1).await.expect("works");
        check(&store, 0).await;
        work(&one, START + SEVEN).await.expect("works");
        check(&store, 1).await;
        // Six days of downtime: the newest three are made.
        work(&one, START + SEVEN + 6 * DAY).await.expect("works");
        check(&store, 4).await;
        let skipped: Vec<u64> =
            records(&store).await.iter().filter_map(|record| record.made.as_ref()).map(|made| made.skipped).collect();
        assert_eq!(skipped, [0, 3, 0, 0]);
        assert!(store.list("reporting/daily/drafts").await.expect("a list").is_empty(), "drafts are gone");
    }

    #[tokio::test]
    async fn a_changed_schedule_makes_nothing_of_the_time_before() {
        let store = Store::in_memory();
        let mut one = parts(&store, "one", Counting::default());
        work(&one, START).await.expect("works");
        let hourly = "[[reports]]\nname = \"daily\"\ncron = \"@hourly\"\nformats = [\"html\", \"md\"]";
        one.reports = Config::from_table(hourly.parse().expect("TOML")).expect("a good file").reports;
        work(&one, START + SEVEN + 1).await.expect("works");
        check(&store, 0).await;
        work(&one, START + SEVEN + 61 * MINUTE).await.expect("works");
        check(&store, 1).await;
    }

    #[tokio::test]
    async fn workers_at_the_same_time_make_one() {
        let store = Store::in_memory();
        work(&parts(&store, "first", Counting::default()), START).await.expect("works");
        let now = START + SEVEN + 2 * DAY;
        let workers = (0..8).map(|at| {
            let parts = parts(&store, &format!("w{at}"), Counting::default());
            tokio::spawn(async move { work(&parts, now).await })
        });
        for worker in workers.collect::<Vec<_>>() {
            worker.await.expect("no panic").expect("works");
        }
        check(&store, 3).await;
    }

    /// Dies at each request in turn; whoever comes after finishes, and nothing is there twice.
    #[tokio::test]
    async fn a_worker_that_dies_anywhere_leaves_what_the_next_one_finishes() {
        let mut deaths = 0;
        for calls in 0.. {
            let store = Store::in_memory();
            work(&parts(&store, "first", Counting::default()), START).await.expect("works");
            let policy = RetryPolicy { max_elapsed: Duration::ZERO, ..RetryPolicy::default() };
            let dying = store.clone().with_faults(FaultPlan::new(1).down_after(calls)).with_retry(policy);
            let died = work(&parts(&dying, "dying", Counting::default()), START + SEVEN).await.is_err();
            work(&parts(&store, "next", Counting::default()), START + SEVEN).await.expect("works");
            check(&store, 1).await;
            assert!(store.list("reporting/daily/drafts").await.expect("a list").is_empty(), "{calls}: drafts are left");
            if !died {
                break;
            }
            deaths += 1;
        }
        assert!(deaths > 10, "it died at {deaths} requests only");
    }

    #[tokio::test]
    async fn what_cannot_be_made_now_holds_the_occurrence_back() {
        let store = Store::in_memory();
        work(&parts(&store, "one", Counting::default()), START).await.expect("works");
        work(&parts(&store, "one", Counting { fails: true, ..Counting::default() }), START + SEVEN)
            .await
            .expect("works");
        assert!(records(&store).await.iter().all(|record| record.made.is_none()), "it is not recorded");
        work(&parts(&store, "one", Counting::default()), START + SEVEN).await.expect("works");
        check(&store, 1).await;
    }
    #[tokio::test]
    async fn what_was_made_is_not_made_again_and_what_fails_waits_for_its_next_try() {
        let store = Store::in_memory();
        work(&parts(&store, "one", Counting::default()), START).await.expect("works");
        let maker = Arc::new(Counting { fails: true, ..Counting::default() });
        let failing = Parts { maker: maker.clone(), ..parts(&store, "one", Counting::default()) };
        let mut follower = Follower::open(&failing, &failing.reports[0]).await.expect("opened");
        let asked = || maker.asked.load(Ordering::SeqCst);
        let step = async |follower: &mut Follower<'_>| {
            follower.step(&failing, START + SEVEN, &CancellationToken::new()).await.expect("works")
        };
        assert_eq!((step(&mut follower).await, asked()), (Step::Waiting, 3));
        assert_eq!((step(&mut follower).await, asked()), (Step::Waiting, 3), "half a minute is not over");
        // Its time has come: the one that is there already is not asked for again.
        follower.again_at = Some(Instant::now());
        assert_eq!((step(&mut follower).await, asked()), (Step::Waiting, 5));
        // It has failed for an hour: the others are told without it.
        let (since, why) = follower.failing.get_mut("fraud").expect("it fails");
        assert_eq!(why, "its table is away");
        *since = since.checked_sub(GIVEN_UP_AFTER).expect("a time");
        follower.again_at = None;
        assert_eq!((step(&mut follower).await, asked()), (Step::Done, 7));
        let made = records(&store).await.pop().and_then(|record| record.made).expect("it is recorded");
        assert_eq!(made.failed, BTreeMap::from([("fraud".to_owned(), "its table is away".to_owned())]));
        assert_eq!((made.models.len(), made.empty, follower.failing.len()), (1, vec!["idle".to_owned()], 0));
    }

    #[tokio::test]
    async fn another_zone_is_another_schedule_and_a_clock_that_is_behind_makes_nothing_twice() {
        let store = Store::in_memory();
        let mut one = parts(&store, "one", Counting::default());
        work(&one, START).await.expect("works");
        work(&one, START + SEVEN).await.expect("works");
        check(&store, 1).await;
        let west = "[[reports]]\nname = \"daily\"\ncron = \"0 7 * * *\"\ntime_zone = \"America/New_York\"\nformats = [\"html\", \"md\"]";
        one.reports = Config::from_table(west.parse().expect("TOML")).expect("a good file").reports;
        // Whoever sees the change has a clock that is hours behind: what is done stays done.
        work(&one, START + SEVEN - 120 * MINUTE).await.expect("works");
        let last = records(&store).await.pop().expect("the change");
        assert_eq!((last.time_zone.as_str(), last.done_to, last.made), ("America/New_York", START + SEVEN, None));
        // 7 o'clock is 11:00 or 12:00 UTC there.
        work(&one, START + SEVEN + 3 * 60 * MINUTE).await.expect("works");
        check(&store, 1).await;
        work(&one, START + SEVEN + 5 * 60 * MINUTE).await.expect("works");
        check(&store, 2).await;
    }

    #[tokio::test]
    async fn advice_that_knows_more_than_the_chain_is_of_another_store_and_a_newer_format_is_not_guessed_at() {
        let store = Store::in_memory();
        work(&parts(&store, "one", Counting::default()), START).await.expect("works");
        work(&parts(&store, "one", Counting::default()), START + SEVEN).await.expect("works");
        let cursor = paths::reporting_cursor("daily");
        assert_eq!(store.get(&cursor).await.expect("readable").expect("there").bytes.as_ref(), b"2");
        store.put(&cursor, "7".into()).await.expect("put");
        let log = Log::open(&store, "daily").await.expect("a chain");
        assert_eq!((log.next, log.done_to()), (2, Some(START + SEVEN)));
        let mut newer = log.last.expect("a record");
        newer.format += 1;
        let slot = format!("{}/{:020}.json", paths::reporting("daily"), 2);
        store.put(&slot, serde_json::to_vec(&newer).expect("JSON").into()).await.expect("put");
        assert!(matches!(Log::open(&store, "daily").await, Err(Error::Format { .. })));
    }

    /// A stage that ends by itself: what is due waits for the last windows, and only the report's own sinks are told.
    #[tokio::test]
    async fn a_run_that_ends_by_itself_makes_its_reports_last_and_tells_their_sinks() {
        let (store, receiver) = (Store::in_memory(), crate::receiver::Receiver::default());
        let url = receiver.start().await;
        let sinks = ["ops", "others"]
            .map(|name| format!("[[alerts.sinks]]\nname = \"{name}\"\ntype = \"webhook\"\nurl = \"{url}/{name}\"\n"));
        let text = format!(
            "[alerts]\nallow_local = true\n{}[[reports]]\nname = \"daily\"\ncron = \"0 7 * * *\"\nformats = [\"html\", \"md\"]\nsinks = [\"ops\"]",
            sinks.concat()
        );
        let config = Config::from_table(text.parse().expect("TOML")).expect("a good file");
        let evaluated = CancellationToken::new();
        let parts = || Parts {
            config: config.alerts.clone(),
            reports: config.reports.clone(),
            evaluated: Some(evaluated.clone()),
            ..parts(&store, "one", Counting::default())
        };
        work(&parts(), clock::now_micros() - 2 * DAY).await.expect("works");
        let running = tokio::spawn(run(parts(), CancellationToken::new()));
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert!(records(&store).await.iter().all(|record| record.made.is_none()), "windows are still to come");
        evaluated.cancel();
        running.await.expect("no panic").expect("works");
        let made: Vec<Made> = records(&store).await.into_iter().filter_map(|record| record.made).collect();
        assert!((1..=2).contains(&made.len()), "{made:?}");
        assert_eq!((receiver.at("/ops").len(), receiver.at("/others").len()), (made.len(), 0));
        // Whoever comes after has nothing to tell.
        run(parts(), CancellationToken::new()).await.expect("works");
        assert_eq!(receiver.at("/ops").len(), made.len());
    }

    /// What is not delivered is given up after a day, and a mail has a date: both are those of the record, whenever it is sent.
    #[tokio::test]
    async fn a_message_is_as_old_as_its_record() {
        let store = Store::in_memory();
        let one = parts(&store, "one", Counting::default());
        work(&one, START).await.expect("works");
        work(&one, START + SEVEN).await.expect("works");
        let sink = "[[alerts.sinks]]\nname = \"ops\"\ntype = \"webhook\"\nurl = \"https://example.org\"";
        let config = Config::from_table(sink.parse().expect("TOML")).expect("a good file").alerts;
        let follower = Follower::open(&one, &one.reports[0]).await.expect("opened");
        let records = records(&store).await;
        for (seq, count) in [(0, 0), (1, 1)] {
            let told = follower.feed.messages(seq, &config.sinks[0]).await.expect("readable").expect("there");
            assert_eq!((told.0, told.1.len()), (records[seq as usize].at, count));
        }
        assert_eq!(follower.feed.messages(2, &config.sinks[0]).await.expect("readable"), None);
    }

    #[tokio::test]
    async fn a_shutdown_ends_a_making_before_its_next_model_and_another_process_makes_the_rest() {
        let store = Store::in_memory();
        let one = parts(&store, "one", Counting::default());
        work(&one, START).await.expect("works");
        let mut follower = Follower::open(&one, &one.reports[0]).await.expect("opened");
        let shutdown = CancellationToken::new();
        shutdown.cancel();
        assert_eq!(follower.step(&one, START + SEVEN, &shutdown).await.expect("works"), Step::Waiting);
        assert!(store.list("reports").await.expect("a list").is_empty());
        work(&one, START + SEVEN).await.expect("works");
        check(&store, 1).await;
    }

    /// Of two processes one makes a report and tells of it: two would tell everything twice.
    #[tokio::test]
    async fn a_report_is_made_by_the_one_process_that_it_falls_to() {
        let store = Store::in_memory();
        work(&parts(&store, "one", Counting::default()), clock::now_micros() - 2 * DAY).await.expect("works");
        let names = ["one", "two", "three"];
        let all: Vec<Arc<Members>> = names.iter().map(|name| Members::new(*name, vec![ROLE.into()])).collect();
        for _ in 0..2 {
            for members in &all {
                members.beat(&store, &mut members.heartbeat()).await;
            }
        }
        let (owner, others): (Vec<_>, Vec<_>) = all.iter().partition(|one| one.is_mine(ROLE, "reports/daily"));
        assert_eq!((owner.len(), others.len()), (1, 2));
        let is_made = async || records(&store).await.iter().any(|record| record.made.is_some());
        let run_all = async |some: &[&Arc<Members>], at_most: Duration| {
            let shutdown = CancellationToken::new();
            let parts =
                some.iter().map(|one| Parts { members: Arc::clone(one), ..parts(&store, "", Counting::default()) });
            let running: Vec<_> = parts.map(|parts| tokio::spawn(run(parts, shutdown.clone()))).collect();
            let begin = Instant::now();
            while begin.elapsed() < at_most && !is_made().await {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            shutdown.cancel();
            for one in running {
                one.await.expect("no panic").expect("works");
            }
        };
        run_all(&others, Duration::from_millis(300)).await;
        assert!(!is_made().await, "it is not theirs");
        run_all(&owner, Duration::from_secs(30)).await;
        assert!(is_made().await);
    }
}
