//! What is decided, and when: the ledger's records in, decisions out.
use std::collections::BTreeMap;

use driftline_aggregator::decide::{Urgency, decide, guess};
use driftline_ledger::{LedgerState, WindowRecord};
use driftline_schemas::clock::{DAY, MINUTE, Micros, SECOND};
use driftline_schemas::config::{JudgeConfig, ModelSettings, ReviseConfig};
use driftline_schemas::ledger::{
    Applied, AppliedModel, ChainInfo, ConfigEpoch, Entry, Job, PartCounts, Record, Shape, WindowState,
};
use driftline_schemas::raw::{Facts, RawKind};
use driftline_schemas::tables::Task;
use driftline_schemas::window::{Window, WindowSpec};
use proptest::prelude::*;

use crate::world::TEN;

const HOUR: Micros = 60 * MINUTE;
const WINDOW: Window = Window { start: TEN, end: TEN + HOUR };

fn config() -> JudgeConfig {
    JudgeConfig {
        revise: ReviseConfig { min_growth: 0.1, min_delay: MINUTE, max_delay: DAY, max_amplification: 10.0 },
        idle_timeout: MINUTE,
        accept_unknown_models: true,
        models_max: 2,
        max_feature_columns: 500,
        max_segment_values: 100,
        defaults: ModelSettings { task: Some(Task::Binary), ..ModelSettings::default() },
        models: BTreeMap::new(),
    }
}

/// A ledger that is driven by hand, with its clock.
struct World {
    state: LedgerState,
    now: Micros,
}

impl World {
    /// Two partitions of predictions, one of labels.
    fn new() -> Self {
        Self::with(config())
    }

    fn with(config: JudgeConfig) -> Self {
        let mut world = Self { state: LedgerState::default(), now: TEN };
        world.apply(Entry::Config(Box::new(ConfigEpoch { epoch: 1, config, from: BTreeMap::new() })));
        let chain = |(name, kind): (&str, RawKind)| {
            let info = ChainInfo { topic: name.into(), partition: 0, kind, current: true, genesis: Some(0) };
            (name.to_owned(), info)
        };
        let chains = [("p0", RawKind::Predictions), ("p1", RawKind::Predictions), ("l0", RawKind::Labels)];
        world.apply(Entry::Chains { chains: chains.into_iter().map(chain).collect() });
        world
    }

    fn apply(&mut self, entry: Entry) {
        let record = Record {
            format: 1,
            seq: self.state.next_seq,
            decided_at: self.now,
            writer: "test".into(),
            routed: Some(format!("routed/{}", self.state.next_seq)),
            entries: vec![entry],
        };
        self.state.apply(&record);
    }

    /// An object of one model with rows in one window, up to an event time.
    fn rows(&mut self, chain: &str, model: &str, rows: u64, newest: Micros) {
        self.rows_of(chain, model, rows, newest, None);
    }

    fn rows_of(&mut self, chain: &str, model: &str, rows: u64, newest: Micros, shape: Option<Shape>) {
        let known = &self.state.chains[chain];
        let (from, kind) = (known.applied_to.unwrap(), known.info.kind);
        let spec = WindowSpec::fixed(HOUR);
        let windows = if kind == RawKind::Predictions { vec![(spec.window_of(newest), rows)] } else { vec![] };
        let of_model =
            AppliedModel { model: model.into(), rows, min_event_time: newest, max_event_time: newest, windows, shape };
        self.apply(Entry::Applied(Applied {
            chain: chain.into(),
            from,
            to: from + rows as i64,
            written_at: self.now,
            records: rows,
            skipped: 0,
            accepted: rows,
            rejected: BTreeMap::new(),
            gap: false,
            forgotten: BTreeMap::new(),
            untracked: 0,
            models: vec![of_model],
        }));
    }

    /// Announces a configuration, as a process does that starts with it.
    fn configure(&mut self, config: JudgeConfig) {
        let epoch = self.state.next_epoch(config);
        self.apply(Entry::Config(Box::new(epoch)));
    }

    fn labels(&mut self, labels: u64) {
        self.apply(Entry::Routed { model: "m".into(), window: WINDOW, labels });
    }

    /// The collector's word that a partition stands at its end.
    fn at_end(&mut self, chain: &str, since: Micros, confirmed_at: Micros) {
        let tail = self.state.chains[chain].applied_to.unwrap();
        let facts = Facts {
            format: 1,
            position: tail,
            tail,
            tail_from: None,
            broker_end: tail,
            confirmed_at,
            at_end_since: since,
        };
        self.apply(Entry::Observed { chain: chain.into(), facts });
    }

    fn decide(&self) -> Vec<Entry> {
        decide(&self.state, self.now, Urgency::Ordinary)
    }

    fn jobs(&self) -> Vec<Job> {
        self.decide().into_iter().filter_map(|e| if let Entry::Decided(job) = e { Some(job) } else { None }).collect()
    }

    /// Decides now, and records what was decided.
    fn step(&mut self) -> Vec<Job> {
        for entry in self.decide() {
            self.apply(entry);
        }
        let open = self.state.models.values().flat_map(|m| m.windows.values()).filter_map(|w| w.open.clone());
        open.filter(|job| job.decided_at == self.now).collect()
    }

    /// Judges and completes an open job; a row takes 100 bytes.
    fn complete(&mut self, job: &Job) {
        let rows = self.window_of(job).rows;
        for part in 0..job.parts {
            let counts = PartCounts { rows, bytes: rows * 100, ..PartCounts::default() };
            let (model, window, revision) = (job.model.clone(), job.window, job.revision);
            self.apply(Entry::Judged { model, window, revision, part, counts });
        }
        self.apply(Entry::Completed { model: job.model.clone(), window: job.window, revision: job.revision });
    }

    /// Decides and completes until nothing is due.
    fn settle(&mut self) -> usize {
        let mut jobs = 0;
        loop {
            let due = self.step();
            if due.is_empty() {
                return jobs;
            }
            jobs += due.len();
            due.iter().for_each(|job| self.complete(job));
        }
    }

    fn window_of(&self, job: &Job) -> &WindowRecord {
        self.state.window(&job.model, job.window.start).unwrap()
    }

    fn window(&self) -> &WindowRecord {
        self.state.window("m", TEN).unwrap()
    }

    fn watermark(&self) -> Option<Micros> {
        self.state.models["m"].watermark
    }

    fn after(&mut self, micros: Micros) -> &mut Self {
        self.now += micros;
        self
    }
}

#[test]
fn the_first_rows_wait_for_min_delay_and_are_judged_together() {
    let mut world = World::new();
    world.rows("p0", "m", 10, TEN + SECOND);
    assert_eq!(world.jobs(), []);
    world.after(30 * SECOND).rows("p1", "m", 10, TEN + SECOND);
    assert_eq!(world.jobs(), []);
    world.after(30 * SECOND);
    let job = world.jobs().remove(0);
    assert_eq!((job.revision, job.previous, job.inputs.len(), job.parts, job.state), (1, 0, 2, 1, WindowState::Open));
}

#[test]
fn h2_the_next_revision_waits_for_the_present_one_to_be_complete() {
    let mut world = World::new();
    world.rows("p0", "m", 10, TEN);
    let job = world.after(MINUTE).step().remove(0);
    world.rows("p0", "m", 100, TEN);
    assert_eq!(world.after(DAY).jobs(), []);
    let (model, window) = ("m".to_owned(), WINDOW);
    // Neither a stranger's word nor a completion before all parts are judged counts.
    world.apply(Entry::Completed { model: model.clone(), window, revision: 1 });
    world.apply(Entry::Completed { model: model.clone(), window, revision: 7 });
    world.apply(Entry::Judged { model, window, revision: 7, part: 0, counts: PartCounts::default() });
    assert_eq!((world.jobs(), world.window().completed), (vec![], 0));
    world.complete(&job);
    let next = world.jobs().remove(0);
    assert_eq!((next.revision, next.previous, next.inputs.len()), (2, 1, 1));
    // A record that says it again changes nothing.
    let before = world.state.clone();
    world.apply(Entry::Completed { model: "m".into(), window: WINDOW, revision: 1 });
    assert_eq!(world.window(), before.window("m", TEN).unwrap());
}

#[test]
fn the_debounce_lets_through_what_has_grown_and_what_has_waited() {
    for (rows, labels, after, is_due) in [
        (9, 0, MINUTE, true), // while the window is open, anything waits one minute at most
        (10, 0, MINUTE - 1, false),
        (10, 0, MINUTE, true), // 10 %
        (0, 1, MINUTE - 1, false),
        (0, 1, MINUTE, true), // the first label
        (0, 0, DAY, false),
    ] {
        let mut world = World::new();
        world.rows("p0", "m", 100, TEN);
        world.after(MINUTE).settle();
        if rows > 0 {
            world.rows("p0", "m", rows, TEN);
        }
        if labels > 0 {
            world.labels(labels);
        }
        assert_eq!(!world.after(after).jobs().is_empty(), is_due, "{rows} rows, {labels} labels, {after}");
    }
}

/// A window of 100 rows with one label, sealed and judged, whose model's watermark is `age` past its end.
fn sealed(age: Micros) -> World {
    let mut world = World::new();
    world.rows("p0", "m", 100, TEN);
    world.labels(100);
    world.after(MINUTE).settle();
    world.rows("p0", "m", 1, WINDOW.end + age + MINUTE);
    world.rows("p1", "m", 1, WINDOW.end + age + MINUTE);
    world.after(age.max(HOUR) + 2 * MINUTE).settle();
    world.after(HOUR).settle();
    assert_eq!((world.window().state, world.window().is_dirty()), (WindowState::Sealed, false));
    world
}

#[test]
fn the_delay_grows_with_the_age_of_the_window() {
    for (age, delay) in [(0, MINUTE), (30 * MINUTE, 30 * MINUTE), (HOUR, HOUR), (10 * DAY, DAY)] {
        let mut world = sealed(age);
        world.labels(1); // 1 % more is no growth
        world.now += delay - 1;
        assert!(world.jobs().iter().all(|job| job.window != WINDOW), "age {age}: not before {delay}");
        // The budget of rewritten bytes may stretch the delay, up to a day more.
        world.now += 1 + delay;
        assert!(world.jobs().iter().any(|job| job.window == WINDOW), "age {age}: after {delay}");
    }
}

#[test]
fn a_change_of_state_is_published_without_writing_history() {
    let mut world = World::new();
    world.rows("p0", "m", 100, TEN);
    world.after(MINUTE).settle();
    world.now = WINDOW.end + 2 * MINUTE;
    world.rows("p0", "m", 1, WINDOW.end + MINUTE);
    world.rows("p1", "m", 1, WINDOW.end + MINUTE);
    let job = world.step().into_iter().find(|job| job.window == WINDOW).unwrap();
    assert_eq!((job.state, job.revision, job.previous, job.writes_history()), (WindowState::Sealed, 2, 1, false));
    let written = world.window().bytes_written;
    world.complete(&job);
    assert_eq!((world.window().history_revision, world.window().bytes_written), (1, written));
}

#[test]
fn a_partition_that_says_nothing_holds_time_back_until_it_was_read_past_a_confirmed_end() {
    let mut world = World::new();
    world.rows("p0", "m", 1, TEN + 2 * HOUR);
    assert_eq!(world.watermark(), None);
    let written_at = world.now;
    // An end that was confirmed before the newest event's object was written proves nothing.
    world.at_end("p1", 0, written_at);
    assert_eq!(world.watermark(), None);
    world.at_end("p1", 0, written_at + 1);
    assert_eq!(world.watermark(), Some(TEN + 2 * HOUR - MINUTE));
    // A partition that is behind holds it back again, but never sets it back (T2).
    world.after(MINUTE).rows("p1", "m", 1, TEN + HOUR);
    world.rows("p0", "m", 1, TEN + 5 * HOUR);
    assert_eq!(world.watermark(), Some(TEN + 2 * HOUR - MINUTE));
    world.rows("p1", "m", 1, TEN + 4 * HOUR);
    assert_eq!(world.watermark(), Some(TEN + 4 * HOUR - MINUTE));
    // Labels do not move it.
    world.rows("l0", "m", 1, TEN + 40 * HOUR);
    assert_eq!(world.watermark(), Some(TEN + 4 * HOUR - MINUTE));
}

#[test]
fn facts_of_an_end_that_is_no_longer_the_tail_are_not_used() {
    let mut world = World::new();
    world.rows("p0", "m", 1, TEN + 2 * HOUR);
    world.at_end("p1", 0, world.now + 1);
    world.after(MINUTE).rows("p1", "other", 1, TEN);
    world.rows("p0", "m", 1, TEN + 9 * HOUR);
    assert_eq!(world.watermark(), Some(TEN + 2 * HOUR - MINUTE));
}

#[test]
fn the_clock_seals_when_all_partitions_have_stood_at_their_end() {
    let mut world = World::new();
    world.rows("p0", "m", 10, TEN);
    let seals = |world: &World| world.decide().iter().any(|e| matches!(e, Entry::State { .. }));
    let past = WINDOW.end + 10 * SECOND;
    world.now = past;
    world.at_end("p0", past - 2 * MINUTE, past);
    assert!(!seals(&world), "nobody knows of p1");
    world.at_end("p1", past - MINUTE + 1, past);
    assert!(!seals(&world), "p1 stands there for less than a minute");
    world.at_end("p1", past - MINUTE, WINDOW.end - 1);
    assert!(!seals(&world), "the window's end has not passed on p1");
    world.at_end("p1", past - 2 * MINUTE, WINDOW.end);
    assert!(seals(&world));
    let watermark = world.watermark();
    world.step();
    assert_eq!((world.window().state, world.watermark()), (WindowState::Sealed, watermark), "the watermark stays");
}

/// Whether the sealed window becomes final, given what is known and the clock.
fn is_final(world: &mut World) -> bool {
    world.settle();
    world.window().state == WindowState::Final
}

#[test]
fn a_window_is_final_when_every_partition_has_passed_the_horizon_or_the_clock_has() {
    let passed = WINDOW.end + 30 * DAY;
    // By event time: labels and predictions of every partition, and a quiet day.
    let mut world = sealed(0);
    world.rows("p0", "m", 1, passed);
    world.rows("p1", "m", 1, passed);
    assert!(!is_final(world.after(2 * DAY)), "the labels' partition holds time back");
    world.rows("l0", "m", 1, passed - 1);
    assert!(!is_final(world.after(2 * DAY)));
    world.rows("l0", "m", 1, passed);
    assert!(is_final(&mut world));
    // By the clock, when a partition is idle.
    let mut world = sealed(0);
    world.now = WINDOW.end + 30 * DAY - 1;
    assert!(!is_final(&mut world));
    assert!(is_final(world.after(1)));
}

#[test]
fn a_window_that_is_still_touched_is_not_final() {
    let mut world = sealed(0);
    world.now = WINDOW.end + 40 * DAY;
    world.labels(1);
    world.now += DAY - 1;
    assert!(!is_final(&mut world));
    assert!(is_final(world.after(1)));
    let window = world.window();
    assert_eq!((window.judged_state, window.is_dirty()), (Some(WindowState::Final), false));
    // What comes now is marked, and the state stays.
    world.rows("p0", "m", 3, TEN);
    let job = world.after(2 * DAY).step().remove(0);
    assert_eq!(job.state, WindowState::Final);
    assert!(matches!(&job.inputs[..], [driftline_schemas::ledger::Input::Raw { after_final: true, .. }]));
}

#[test]
fn a_window_as_long_as_the_horizon_keeps_its_labels_eligible() {
    let month = WindowSpec::fixed(30 * DAY);
    let settings = ModelSettings { window: month, task: Some(Task::Binary), ..ModelSettings::default() };
    let mut world = World::with(JudgeConfig { defaults: settings, ..config() });
    let window = month.window_of(TEN);
    world.now = window.start + MINUTE;
    let of_model = AppliedModel {
        model: "m".into(),
        rows: 1,
        min_event_time: window.start,
        max_event_time: window.start,
        windows: vec![(window, 1)],
        shape: None,
    };
    world.apply(Entry::Applied(Applied {
        chain: "p0".into(),
        from: 0,
        to: 1,
        written_at: world.now,
        records: 1,
        skipped: 0,
        accepted: 1,
        rejected: BTreeMap::new(),
        gap: false,
        forgotten: BTreeMap::new(),
        untracked: 0,
        models: vec![of_model],
    }));
    world.after(MINUTE).settle();
    for chain in ["p0", "p1"] {
        world.at_end(chain, window.start, window.end + HOUR);
    }
    let state = |world: &World| world.state.window("m", window.start).unwrap().state;
    world.now = window.end + 2 * DAY;
    world.settle();
    assert_eq!(state(&world), WindowState::Sealed, "a prediction of its last day may still be labelled");
    world.now = window.end + 30 * DAY;
    world.settle();
    assert_eq!(state(&world), WindowState::Final);
}

#[test]
fn caught_up_seals_what_the_clock_has_passed_and_waits_for_nothing() {
    let mut world = World::new();
    world.rows("p0", "m", 10, TEN);
    let urgent = |world: &World| decide(&world.state, world.now, Urgency::CaughtUp);
    assert!(matches!(&urgent(&world)[..], [Entry::Decided(job)] if job.state == WindowState::Open));
    world.now = WINDOW.end;
    assert!(
        matches!(&urgent(&world)[..], [Entry::State { state: WindowState::Sealed, .. }, Entry::Decided(job)] if job.state == WindowState::Sealed)
    );
}

#[test]
fn models_beyond_the_bound_and_unlisted_ones_are_refused_not_lost() {
    let mut world = World::new();
    for model in ["a", "b", "c"] {
        world.rows("p0", model, 1, TEN);
    }
    let refusals = |world: &World| world.jobs().into_iter().map(|job| job.refusal).collect::<Vec<_>>();
    world.now += MINUTE;
    assert_eq!(refusals(&world), [None, None, Some("too_many_models".to_owned())]);
    let mut strict = config();
    strict.accept_unknown_models = false;
    strict.models.insert("c".into(), config().defaults);
    world.configure(strict);
    assert_eq!(refusals(&world), [None, None, Some("too_many_models".to_owned())], "what there is stays as it was");
    for model in ["a", "b", "c"] {
        world.apply(Entry::Reevaluate { model: model.into(), from: None, to: None });
    }
    assert_eq!(refusals(&world), [Some("unknown_model".to_owned()), Some("unknown_model".to_owned()), None]);
    assert!(world.jobs().iter().all(|job| job.epoch == 2));
}

/// What a model's figures depend on changes at a seam of event time; how soon they are judged, at once.
#[test]
fn a_new_configuration_holds_from_its_seam_and_rewrites_nothing_before() {
    let mut world = World::new();
    world.rows("p0", "m", 10, TEN);
    world.after(MINUTE).settle();
    let mut later = config();
    later.defaults =
        ModelSettings { threshold: 0.9, task: Some(Task::Regression), label_horizon: HOUR, ..later.defaults };
    later.defaults.positive_class = Some("x".into());
    later.revise.min_delay = 30 * MINUTE;
    world.configure(later);
    assert_eq!(world.after(MINUTE).jobs(), [], "a configuration is no reason to judge again");
    world.rows("p0", "m", 10, TEN + MINUTE);
    world.rows("p0", "m", 10, TEN + HOUR);
    assert_eq!(world.after(28 * MINUTE).jobs(), [], "the new delay holds for all windows");
    let of = |job: &Job| (job.window.start, job.epoch, job.task, job.positive_class.clone());
    let (old, new) = ((TEN, 1, Task::Binary, None), (TEN + HOUR, 2, Task::Regression, Some("x".to_owned())));
    let jobs = world.after(2 * MINUTE).step();
    assert_eq!(jobs.iter().map(of).collect::<Vec<_>>(), [old, new.clone()]);
    jobs.iter().for_each(|job| world.complete(job));
    // Reevaluated, the old window is judged as the new ones are, and its labels still have 30 days.
    world.apply(Entry::Reevaluate { model: "m".into(), from: None, to: Some(TEN + HOUR) });
    assert_eq!(world.step().iter().map(of).collect::<Vec<_>>(), [(TEN, new.1, new.2, new.3)]);
    let horizon = |start| world.state.horizons("m").of(start);
    assert_eq!([horizon(TEN), horizon(TEN + HOUR)], [30 * DAY, HOUR]);
}

#[test]
fn each_window_is_final_after_the_horizon_that_it_began_with() {
    let mut world = World::new();
    world.rows("p0", "m", 10, TEN);
    world.after(MINUTE).settle();
    let mut later = config();
    later.defaults.label_horizon = HOUR;
    world.configure(later);
    world.rows("p0", "m", 10, TEN + HOUR);
    world.after(MINUTE).settle();
    let states = |world: &World| world.state.models["m"].windows.values().map(|w| w.state).collect::<Vec<_>>();
    world.now = TEN + 4 * DAY;
    for chain in ["p0", "p1"] {
        world.at_end(chain, world.now - HOUR, world.now);
    }
    world.settle();
    assert_eq!(states(&world), [WindowState::Sealed, WindowState::Final]);
    world.after(31 * DAY).settle();
    assert_eq!(states(&world), [WindowState::Final, WindowState::Final]);
}

/// T4: a task that is said for later windows leaves those of which it was guessed to be guessed on.
#[test]
fn t4_a_task_that_is_guessed_on_concerns_only_windows_without_one() {
    let mut guessing = config();
    guessing.defaults.task = None;
    let mut world = World::with(guessing.clone());
    let classes = |names: &[&str]| {
        let mut shape = Shape { textual: names.len() as u64, ..Shape::default() };
        names.iter().for_each(|name| shape.push_class(name, 1, 0.0));
        Some(shape)
    };
    world.rows_of("p0", "m", 10, TEN, classes(&["cat", "dog"]));
    world.after(MINUTE).settle();
    world.configure(config());
    world.rows_of("p0", "m", 10, TEN + HOUR, None);
    world.after(MINUTE).settle();
    world.rows_of("p0", "m", 10, TEN + MINUTE, classes(&["owl"]));
    let jobs = world.after(2 * DAY).step();
    assert_eq!(jobs.iter().map(|job| (job.window.start, job.task)).collect::<Vec<_>>(), [(TEN, Task::Multiclass)]);
    world.complete(&jobs[0]);
    assert_eq!(world.step(), []);
}

#[test]
fn reevaluate_judges_the_windows_of_its_range_without_new_inputs() {
    let mut world = World::new();
    for hour in 0..3 {
        world.rows("p0", "m", 10, TEN + hour * HOUR);
    }
    world.after(MINUTE).settle();
    world.apply(Entry::Reevaluate { model: "m".into(), from: Some(TEN + HOUR), to: Some(TEN + 2 * HOUR) });
    let jobs = world.jobs();
    assert_eq!(jobs.iter().map(|job| job.window.start).collect::<Vec<_>>(), [TEN + HOUR]);
    assert!(jobs[0].rejudge && jobs[0].writes_history() && jobs[0].inputs.is_empty());
    assert_eq!(world.settle(), 1);
}

#[test]
fn a_full_window_has_as_many_parts_as_its_bytes_need_and_keeps_them() {
    let mut world = World::new();
    world.now = TEN + 30 * MINUTE;
    world.rows("p0", "m", 10_000_000, TEN + 30 * MINUTE);
    // 20 million rows of about 240 bytes by the end of the hour, 64 MiB a part.
    let job = world.after(MINUTE).step().remove(0);
    assert_eq!(job.parts, 72);
    world.complete(&job);
    world.rows("p0", "m", 90_000_000, TEN + 40 * MINUTE);
    assert_eq!(world.after(HOUR).jobs()[0].parts, 72);
    let mut world = World::new();
    world.rows("p0", "m", 1, TEN);
    assert_eq!(world.after(MINUTE).jobs()[0].parts, 1);
}

/// Simulates a window minute by minute, later by the quarter of an hour.
///
/// # Returns
/// Bytes rewritten as a multiple of its size, revisions, and the ledger in the end.
fn simulate(until: Micros, rows: impl Fn(Micros) -> u64, labels: impl Fn(Micros) -> u64) -> (f64, u64, World) {
    let mut world = World::new();
    while world.now < TEN + until {
        let age = world.now - TEN;
        let step = if age < 2 * HOUR { MINUTE } else { 15 * MINUTE };
        if age == HOUR + 2 * MINUTE {
            world.rows("p0", "m", 1, WINDOW.end + MINUTE);
            world.rows("p1", "m", 1, WINDOW.end + MINUTE);
        }
        if age > 2 * HOUR && age % DAY == 0 {
            world.rows("p0", "m", 1, world.now);
            world.rows("p1", "m", 1, world.now);
        }
        let (rows, labels) = (rows(age), labels(age));
        if rows > 0 {
            world.rows("p0", "m", rows, TEN + age.min(HOUR - 1));
        }
        if labels > 0 {
            world.labels(labels);
        }
        for job in world.step() {
            world.complete(&job);
        }
        world.now += step;
    }
    let window = world.window();
    let amplification = window.bytes_written as f64 / window.published().bytes as f64;
    (amplification, window.revision, world)
}

#[test]
fn labels_of_thirty_days_rewrite_a_window_no_more_than_its_bound() {
    let rows = |age: Micros| if age < HOUR { 1000 } else { 0 };
    for (name, labels) in [
        ("steady", Box::new(|age: Micros| u64::from(age > 2 * HOUR) * 20) as Box<dyn Fn(Micros) -> u64>),
        ("from day 7", Box::new(|age| u64::from(age > 7 * DAY) * 20)),
        ("one in a while", Box::new(|age| u64::from(age > HOUR && age % (5 * HOUR) == 0))),
    ] {
        let (amplification, revisions, world) = simulate(35 * DAY, rows, labels);
        eprintln!(
            "an hour's window, labels over 30 days, {name}: {revisions} revisions, {amplification:.1} times its bytes written, of {} allowed",
            config().revise.max_amplification
        );
        assert!(amplification <= 10.0, "{name}: {amplification}");
        assert!(revisions >= 8, "{name}: judged again and again: {revisions}");
        assert!(world.window().rows >= 60_000);
    }
}

#[test]
fn a_window_that_grows_steadily_is_never_far_behind() {
    let rows = |age: Micros| if age < HOUR { 1000 } else { 0 };
    for minutes in [10, 30, 59, 70] {
        let (amplification, _, world) = simulate(minutes * MINUTE, rows, |_| 0);
        let shown = world.window().published().rows as f64 / world.window().rows as f64;
        assert!(shown > 0.6, "after {minutes} minutes only {shown} of the rows are shown");
        assert!(amplification <= 10.0);
        if minutes == 70 {
            assert_eq!(world.window().state, WindowState::Sealed);
            assert_eq!(shown, 1.0, "a sealed window shows all its rows");
        }
    }
}

#[test]
fn labels_of_a_sealed_window_do_not_wait_until_it_is_final() {
    let rows = |age: Micros| if age < HOUR { 1000 } else { 0 };
    // Labels come from day 7 to day 14. On day 20, long before the window is final, nearly all of them are shown.
    let labels = |age: Micros| u64::from((7 * DAY..14 * DAY).contains(&age)) * 20;
    let (amplification, _, world) = simulate(20 * DAY, rows, labels);
    let window = world.window();
    assert!(amplification <= 9.0, "{amplification}");
    let shown = window.labels_decided as f64 / window.labels as f64;
    assert!(window.state == WindowState::Sealed && shown > 0.5, "{shown}");
}

#[test]
fn tasks_are_guessed_from_what_predictions_look_like() {
    let shape = |scored, many, textual, fractional, classes: &[(&str, f64)]| Shape {
        scored,
        many_probabilities: many,
        textual,
        fractional,
        classes: classes.iter().map(|(class, mean)| ((*class).to_owned(), (10, mean * 10.0))).collect(),
    };
    let many: Vec<String> = (0..32).map(|n| n.to_string()).collect();
    let many: Vec<(&str, f64)> = many.iter().map(|n| (n.as_str(), 0.0)).collect();
    let (binary, multiclass, regression) = (Task::Binary, Task::Multiclass, Task::Regression);
    for (shape, task, class) in [
        (shape(0, 0, 0, 0, &[]), binary, None),
        (shape(9, 0, 0, 0, &[]), binary, None),
        (shape(9, 0, 0, 0, &[("0", 0.1), ("1", 0.9)]), binary, Some("1")),
        (shape(0, 0, 0, 0, &[("0", 0.0)]), binary, Some("1")),
        (shape(0, 0, 9, 0, &[("false", 0.0)]), binary, Some("true")),
        (shape(0, 0, 9, 0, &[("no", 0.0), ("yes", 0.0)]), binary, Some("yes")),
        (shape(9, 0, 9, 0, &[("fraud", 0.9), ("ok", 0.1)]), binary, Some("fraud")),
        (shape(9, 0, 9, 0, &[("a", 0.1), ("ok", 0.8)]), binary, Some("ok")),
        (shape(0, 0, 9, 0, &[("fraud", 0.0), ("ok", 0.0)]), binary, Some("ok")),
        (shape(9, 0, 9, 0, &[("fraud", 0.9)]), binary, None),
        (shape(0, 0, 9, 0, &[("a", 0.0), ("b", 0.0), ("c", 0.0)]), multiclass, None),
        (shape(9, 0, 0, 0, &[("0", 0.0), ("1", 0.0), ("2", 0.0)]), multiclass, None),
        (shape(0, 1, 9, 0, &[("a", 0.0)]), multiclass, None),
        (shape(0, 0, 0, 0, &[("0", 0.0), ("1", 0.0), ("2", 0.0)]), regression, None),
        (shape(0, 0, 0, 1, &[("0.5", 0.0)]), regression, None),
        (shape(0, 0, 0, 0, &many), regression, None),
        (shape(0, 0, 1, 0, &many), multiclass, None),
    ] {
        assert_eq!(guess(&shape), (task, class.map(str::to_owned)), "{shape:?}");
    }
    let scored = |scores: [(&str, f64); 2]| {
        let classes = scores.map(|(class, score)| (class.to_owned(), (10, 10.0 * score))).into();
        guess(&Shape { scored: 20, classes, ..Shape::default() }).1
    };
    // Of 1 and 2 the scores say which one they are of; 1 beside 0, or beside a name, is positive.
    assert_eq!(scored([("1", 0.2), ("2", 0.8)]).as_deref(), Some("2"));
    assert_eq!(scored([("1", 0.8), ("2", 0.2)]).as_deref(), Some("1"));
    assert_eq!(scored([("0", 0.8), ("1", 0.2)]).as_deref(), Some("1"));
    assert_eq!(scored([("-1", 0.8), ("1", 0.2)]).as_deref(), Some("1"));
}

#[test]
fn a_task_that_turns_out_otherwise_judges_again_what_was_judged_by_the_old_one() {
    let mut config = config();
    config.defaults.task = None;
    let mut world = World::with(config);
    let send = |world: &mut World, time: Micros, classes: &[&str]| {
        let from = world.state.chains["p0"].applied_to.unwrap();
        let mut shape = Shape { textual: classes.len() as u64, ..Shape::default() };
        classes.iter().for_each(|class| shape.push_class(class, 1, 0.0));
        let rows = classes.len() as u64;
        let windows = vec![(WindowSpec::fixed(HOUR).window_of(time), rows)];
        let models = vec![AppliedModel {
            model: "m".into(),
            rows,
            min_event_time: time,
            max_event_time: time,
            windows,
            shape: Some(shape),
        }];
        world.apply(Entry::Applied(Applied {
            chain: "p0".into(),
            from,
            to: from + rows as i64,
            written_at: world.now,
            records: rows,
            skipped: 0,
            accepted: rows,
            rejected: BTreeMap::new(),
            gap: false,
            forgotten: BTreeMap::new(),
            untracked: 0,
            models,
        }));
    };
    send(&mut world, TEN, &["a", "b"]);
    world.after(MINUTE).settle();
    assert_eq!(world.state.models["m"].task, Some((Task::Binary, Some("b".into()))));
    send(&mut world, TEN + HOUR, &["c"]);
    world.after(MINUTE);
    world.step();
    assert_eq!(world.state.models["m"].task, Some((Task::Multiclass, None)));
    // Both orders of arrival end alike (T4): every window that is not final follows the task that is known in the end.
    world.now += 1;
    world.step();
    let open: Vec<(Micros, Task)> = world.state.models["m"]
        .windows
        .values()
        .filter_map(|w| Some((w.window.start, w.open.as_ref()?.task)))
        .collect();
    assert_eq!(open, [(TEN, Task::Multiclass), (TEN + HOUR, Task::Multiclass)]);
}

#[derive(Debug, Clone)]
enum Step {
    Rows(u8, i64),
    AtEnd(u8, i64),
    Time(i64),
    Labels,
    Decide,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        (0u8..3, -20i64..2000).prop_map(|(chain, minute)| Step::Rows(chain, minute)),
        (0u8..3, 0i64..90).prop_map(|(chain, minutes)| Step::AtEnd(chain, minutes)),
        (0i64..600).prop_map(Step::Time),
        Just(Step::Time(31 * 24 * 60)),
        Just(Step::Labels),
        Just(Step::Decide),
    ];
    proptest::collection::vec(step, 1..60)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn t2_h2_whatever_comes_watermarks_states_and_revisions_only_move_forward(steps in steps()) {
        let mut world = World::new();
        world.rows("p0", "m", 1, TEN);
        let chains = ["p0", "p1", "l0"];
        for step in steps {
            let before = world.state.clone();
            match step {
                Step::Rows(chain, minute) => world.rows(chains[chain as usize], "m", 1, TEN + minute * MINUTE),
                Step::AtEnd(chain, minutes) => {
                    let now = world.now;
                    world.at_end(chains[chain as usize], now - minutes * MINUTE, now);
                }
                Step::Time(minutes) => world.now += minutes * MINUTE,
                Step::Labels => world.labels(1),
                Step::Decide => {
                    for job in world.step() {
                        prop_assert!(!job.inputs.is_empty() || job.rejudge || job.revision > 1);
                        world.complete(&job);
                    }
                }
            }
            let after = &world.state.models["m"];
            prop_assert!(after.watermark >= before.models["m"].watermark);
            for (start, window) in &before.models["m"].windows {
                let now = &after.windows[start];
                prop_assert!(now.state >= window.state && now.revision >= window.revision && now.completed >= window.completed);
                prop_assert!(now.completed <= now.revision && now.revision <= now.completed + 1);
                prop_assert!(now.history_revision <= now.completed);
            }
            let chains = &world.state.chains;
            let of_kind = |kind| chains.values().filter(move |c| c.info.kind == kind).map(|c| c.accepted).sum::<u64>();
            prop_assert_eq!(after.windows.values().map(|w| w.rows).sum::<u64>(), of_kind(RawKind::Predictions));
        }
    }
}
