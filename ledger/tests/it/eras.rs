//! A model whose settings change: every event keeps its one window, and nothing that stands is touched (**T1**).
use std::collections::BTreeMap;

use chrono::DateTime;
use driftline_ledger::LedgerState;
use driftline_schemas::clock::{DAY, MINUTE, Micros, show};
use driftline_schemas::config::{JudgeConfig, ModelSettings};
use driftline_schemas::ledger::{Applied, AppliedModel, ConfigEpoch, Entry};
use driftline_schemas::window::{BASE_WINDOW, Window, WindowLength, WindowSpec};
use proptest::prelude::*;

use crate::{chains, config};

const HOUR: Micros = 60 * MINUTE;

fn at(text: &str) -> Micros {
    DateTime::parse_from_rfc3339(text).unwrap().timestamp_micros()
}

fn calendar(length: WindowLength, zone: &str) -> WindowSpec {
    WindowSpec { length, timezone: zone.parse().unwrap() }
}

fn with(settings: ModelSettings) -> JudgeConfig {
    JudgeConfig { defaults: settings, models: BTreeMap::new(), ..config() }
}

fn windows(window: WindowSpec) -> JudgeConfig {
    with(ModelSettings { window, ..ModelSettings::default() })
}

/// A ledger with a model that has events, one object each.
#[derive(Clone)]
struct World {
    state: LedgerState,
    events: Vec<Micros>,
}

impl World {
    fn new(config: JudgeConfig) -> Self {
        let mut world = Self { state: LedgerState::default(), events: Vec::new() };
        world.configure(config);
        world.state.apply_entry(&chains(), 0, None);
        world
    }

    fn configure(&mut self, config: JudgeConfig) -> ConfigEpoch {
        let epoch = self.state.next_epoch(config);
        self.state.apply_entry(&Entry::Config(Box::new(epoch.clone())), 0, None);
        epoch
    }

    /// An event, in the window that this state says, or that another process did.
    fn event(&mut self, time: Micros, window: Window) {
        let from = self.events.len() as i64;
        self.events.push(time);
        let model = AppliedModel {
            model: "m".into(),
            rows: 1,
            min_event_time: time,
            max_event_time: time,
            windows: vec![(window, 1)],
            shape: None,
        };
        self.state.apply_entry(
            &Entry::Applied(Applied {
                chain: "p~0".into(),
                from,
                to: from + 1,
                written_at: 0,
                records: 1,
                skipped: 0,
                accepted: 1,
                rejected: BTreeMap::new(),
                gap: false,
                forgotten: BTreeMap::new(),
                untracked: 0,
                models: vec![model],
            }),
            0,
            None,
        );
    }

    fn at(&mut self, time: Micros) -> Window {
        // Rows are counted by their base window.
        let window = self.state.window_of("m", time.div_euclid(BASE_WINDOW) * BASE_WINDOW);
        self.event(time, window);
        window
    }

    /// Where the model's present settings begin.
    fn seam(&self) -> Micros {
        self.state.models["m"].eras.last().unwrap().from
    }

    fn recorded(&self) -> Vec<(Window, u64)> {
        let model = self.state.models.get("m");
        model.into_iter().flat_map(|model| model.windows.values()).map(|record| (record.window, record.rows)).collect()
    }

    /// T1, over all that happened and for all that might.
    fn check(&self, probes: &[Micros]) {
        let recorded = self.recorded();
        for pair in recorded.windows(2) {
            assert!(pair[0].0.end <= pair[1].0.start, "{pair:?} overlap");
        }
        for (window, rows) in &recorded {
            let inside = self.events.iter().filter(|time| window.contains(**time)).count();
            assert_eq!(inside as u64, *rows, "{window:?}");
        }
        assert_eq!(recorded.iter().map(|(_, rows)| rows).sum::<u64>(), self.events.len() as u64);
        for time in probes.iter().chain(&self.events) {
            let window = self.state.window_of("m", *time);
            assert!(window.contains(*time), "{} is not in {window:?}", show(*time));
            assert_eq!(self.state.window_of("m", window.start), window);
            assert_eq!(self.state.window_of("m", window.end - 1), window);
            assert_eq!(self.state.window_of("m", window.end).start, window.end);
            assert_eq!((window.start % BASE_WINDOW, window.end % BASE_WINDOW), (0, 0));
            for (other, _) in &recorded {
                assert!(
                    window == *other || window.end <= other.start || other.end <= window.start,
                    "{window:?} {other:?}"
                );
            }
        }
    }
}

#[test]
fn windows_change_at_the_first_boundary_of_both_or_where_the_newest_ends() {
    let (hours, days) = (WindowSpec::fixed(HOUR), calendar(WindowLength::Day, "Europe/Amsterdam"));
    let month = calendar(WindowLength::Month, "Europe/Amsterdam");
    let week = calendar(WindowLength::Week, "Europe/Amsterdam");
    for (old, new, newest, seam) in [
        (hours, days, "2026-03-28T14:20:00Z", "2026-03-28T23:00:00Z"),
        // The newest event's window ends where the day does.
        (hours, days, "2026-03-28T22:59:59Z", "2026-03-28T23:00:00Z"),
        (days, hours, "2026-03-29T10:00:00Z", "2026-03-29T22:00:00Z"),
        (days, week, "2026-03-27T10:00:00Z", "2026-03-29T22:00:00Z"),
        (hours, month, "2026-03-02T10:00:00Z", "2026-03-31T22:00:00Z"),
        (month, WindowSpec::fixed(MINUTE), "2026-03-02T10:00:00Z", "2026-03-31T22:00:00Z"),
        // Two zones whose midnights never meet; weeks and months seldom do; hours by sevens neither.
        (days, calendar(WindowLength::Day, "Asia/Kolkata"), "2026-03-29T10:00:00Z", "2026-03-29T22:00:00Z"),
        (week, month, "2026-03-11T10:00:00Z", "2026-03-15T23:00:00Z"),
        (WindowSpec::fixed(7 * HOUR), days, "2026-03-28T14:20:00Z", "2026-03-28T15:00:00Z"),
    ] {
        let mut world = World::new(windows(old));
        let last = world.at(at(newest));
        let epoch = world.configure(windows(new));
        assert_eq!(show(world.seam()), show(at(seam)), "{old:?} → {new:?} after {newest}");
        assert_eq!(epoch.from, BTreeMap::from([("m".to_owned(), at(seam))]), "the ledger says so");
        // Up to the seam windows are old ones, from there on new ones; the first may be the shorter.
        assert_eq!(world.state.window_of("m", at(seam) - 1), old.window_of(at(seam) - 1));
        let first = world.state.window_of("m", at(seam));
        assert_eq!((first.start, first.end), (at(seam), new.window_of(at(seam)).end));
        assert_eq!(world.state.window_of("m", first.end), new.window_of(first.end));
        assert!(last.end <= at(seam));
        world.check(&(0..600).map(|n| at(newest) + n * 3 * HOUR).collect::<Vec<_>>());
    }
}

#[test]
fn a_change_that_no_event_has_reached_is_taken_back_without_a_trace() {
    let (hours, days) = (windows(WindowSpec::fixed(HOUR)), windows(calendar(WindowLength::Day, "UTC")));
    let mut world = World::new(hours.clone());
    world.at(at("2026-01-05T10:30:00Z"));
    world.configure(days.clone());
    assert_eq!(world.seam(), at("2026-01-06T00:00:00Z"));
    // Nothing of it is left to cut the windows of what comes instead: seven hours, across that midnight.
    let (mut instead, seven) = (world.clone(), WindowSpec::fixed(7 * HOUR));
    instead.configure(windows(seven));
    assert_eq!(instead.state.window_of("m", at("2026-01-05T23:30:00Z")), seven.window_of(at("2026-01-05T23:30:00Z")));
    world.configure(hours);
    let hour = WindowSpec::fixed(HOUR);
    for time in ["2026-01-05T12:00:00Z", "2026-01-06T12:00:00Z", "2026-01-09T00:00:00Z"] {
        assert_eq!(world.state.window_of("m", at(time)), hour.window_of(at(time)));
    }
    // Once an event has reached it, it stands.
    world.configure(days.clone());
    let day = world.at(at("2026-01-06T12:00:00Z"));
    assert_eq!(day.length(), DAY);
    world.configure(windows(hour));
    assert_eq!(world.state.window_of("m", at("2026-01-06T01:00:00Z")), day);
    assert_eq!(world.state.window_of("m", day.end), hour.window_of(day.end));
}

#[test]
fn only_what_figures_depend_on_makes_an_era() {
    let base = ModelSettings::default();
    let mut world = World::new(with(base.clone()));
    world.at(at("2026-01-05T10:30:00Z"));
    let eras = |world: &World| world.state.models["m"].eras.len();
    let mut other = with(ModelSettings { out_of_orderness: HOUR, ..base.clone() });
    other.revise.min_growth = 0.5;
    other.models.insert("another".into(), ModelSettings { threshold: 0.1, ..base.clone() });
    assert_eq!(world.configure(other).from, BTreeMap::new());
    assert_eq!(eras(&world), 1);
    for settings in [
        ModelSettings { threshold: 0.9, ..base.clone() },
        ModelSettings { label_horizon: DAY, ..base.clone() },
        ModelSettings { segments: vec![vec!["region".into()]], ..base.clone() },
        ModelSettings { positive_class: Some("x".into()), ..base },
    ] {
        let mut world = world.clone();
        world.configure(with(settings));
        assert_eq!((eras(&world), world.seam()), (2, at("2026-01-05T11:00:00Z")), "the newest window's end");
    }
}

#[test]
fn a_record_that_does_not_say_where_it_begins_begins_where_it_would_have_said() {
    let (hours, days) = (windows(WindowSpec::fixed(HOUR)), windows(calendar(WindowLength::Day, "UTC")));
    let mut world = World::new(hours);
    world.at(at("2026-01-05T10:30:00Z"));
    let mut silent = world.clone();
    let epoch = world.configure(days);
    silent.state.apply_entry(&Entry::Config(Box::new(ConfigEpoch { from: BTreeMap::new(), ..epoch })), 0, None);
    assert_eq!(silent.state.models, world.state.models);
    assert_eq!(silent.seam(), at("2026-01-06T00:00:00Z"));
}

#[test]
fn the_ledger_s_word_counts_even_where_this_build_would_say_another() {
    let mut world = World::new(windows(WindowSpec::fixed(HOUR)));
    world.at(at("2026-01-05T10:30:00Z"));
    let days = windows(calendar(WindowLength::Day, "UTC"));
    let seam = at("2026-01-05T21:00:00Z");
    let epoch = ConfigEpoch { epoch: 2, config: days, from: BTreeMap::from([("m".to_owned(), seam)]) };
    world.state.apply_entry(&Entry::Config(Box::new(epoch)), 0, None);
    assert_eq!(world.seam(), seam);
    assert_eq!(world.state.window_of("m", seam), Window { start: seam, end: at("2026-01-06T00:00:00Z") });
    world.check(&[seam - 1, seam, seam + DAY]);
}

fn any_spec() -> impl Strategy<Value = WindowSpec> {
    let zones = ["UTC", "Europe/Amsterdam", "Asia/Kolkata", "America/Sao_Paulo", "Australia/Lord_Howe", "Pacific/Apia"];
    let length = prop_oneof![Just(WindowLength::Day), Just(WindowLength::Week), Just(WindowLength::Month)];
    prop_oneof![
        prop_oneof![Just(1i64), Just(15), Just(60), Just(420), Just(1440), 1i64..3000]
            .prop_map(|m| WindowSpec::fixed(m * MINUTE)),
        (length, proptest::sample::select(zones.to_vec())).prop_map(|(length, zone)| calendar(length, zone)),
    ]
}

/// What can happen to a model.
#[derive(Debug, Clone)]
enum Step {
    /// An event, so long after the start.
    Event(Micros),
    /// An event that a process applies which knows other rules for the zone: its windows are these.
    Foreign(Micros, WindowSpec),
    Configure(WindowSpec, Micros),
    Reevaluate,
}

fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0..60 * DAY).prop_map(Step::Event),
        1 => (0..60 * DAY, any_spec()).prop_map(|(time, spec)| Step::Foreign(time, spec)),
        2 => (any_spec(), 1..40 * DAY).prop_map(|(spec, horizon)| Step::Configure(spec, horizon)),
        1 => Just(Step::Reevaluate),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// T1: whatever settings change and whenever, whoever applies the events: each is counted in its one window, and a
    /// configuration moves no window that there is, nor its labels' horizon.
    #[test]
    fn t1_a_change_of_settings_gives_every_event_one_window(
        first in any_spec(),
        start in prop_oneof![Just(at("2011-12-01T00:00:00Z")), Just(at("2026-03-01T00:00:00Z")), Just(at("2018-10-10T00:00:00Z"))],
        steps in proptest::collection::vec(any_step(), 1..40),
        probes in proptest::collection::vec(-10 * DAY..90 * DAY, 20),
    ) {
        let mut world = World::new(windows(first));
        for step in steps {
            let before = world.clone();
            match step {
                Step::Event(time) => drop(world.at(start + time)),
                Step::Foreign(time, spec) => {
                    // That process follows the same ledger, and computes by other rules.
                    let mut theirs = world.clone();
                    for epoch in theirs.state.epochs.values_mut() {
                        epoch.make_mut().config.defaults.window = spec;
                    }
                    let base = (start + time).div_euclid(BASE_WINDOW) * BASE_WINDOW;
                    world.event(start + time, theirs.state.window_of("m", base));
                }
                Step::Configure(window, label_horizon) => {
                    world.configure(with(ModelSettings { window, label_horizon, ..ModelSettings::default() }));
                }
                Step::Reevaluate => {
                    let entry = Entry::Reevaluate { model: "m".into(), from: None, to: None };
                    world.state.apply_entry(&entry, 0, None);
                }
            }
            for (window, _) in before.recorded() {
                prop_assert!(world.state.window("m", window.start).is_some_and(|record| record.window == window));
                let horizon = |world: &World| world.state.horizons("m").of(window.start);
                prop_assert_eq!(horizon(&before), horizon(&world));
            }
        }
        world.check(&probes.iter().map(|time| start + time).collect::<Vec<_>>());
    }
}
