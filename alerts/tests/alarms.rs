//! False alarms and delays, on streams of which the truth is known:
//!
//! ```sh
//! cargo test -p driftline-alerts --test alarms -- --nocapture
//! ```
//! A model whose accuracy is 0.90 in each of 500 hourly windows of 2,000 rows, all labelled; 20 segments of 100 rows each; 100
//! features that do not drift, over all rows and in each segment, against one reference of 1,000 rows that is the same for all
//! windows. Four seeds. Then the same with an accuracy that is 2 or 5 points lower from window 250 on. All see the same windows:
//!
//! * Driftline: `below = 0.90` on accuracy, over all rows and each segment, drift of every feature, over all rows and in each
//!   segment, the default budget. Each alert that is raised counts, also of several in one window.
//! * The same, each window looked at ten times while its labels come; and with a level that is learned of the first 28 windows.
//! * Fixed: accuracy under 0.89, Kolmogorov–Smirnov's distance over 0.05, as people write it by hand.
//! * `NannyML`, 3 σ: outside mean ± 3 standard deviations of 28 windows, each feature's distance too: its
//!   `StandardDeviationThreshold`, the default. It has no segments; here it is given those of accuracy.
//! * Evidently, columns: p < 0.05 for each feature, as by default up to 1,000 rows of a reference, and `TestAccuracyScore`: within
//!   20 % of the reference's. Evidently, dataset: half of the columns instead of any (`drift_share = 0.5`).
//!
//! Of the others a window counts once, however much is wrong in it. The check fails when ours raises more than its budget.

use std::sync::Arc;

use chrono::{DateTime, TimeDelta, Utc};
use driftline_alerts::judge::{self, Past, Published};
use driftline_alerts::life::{Kind, State, Verdicts};
use driftline_schemas::config::{AlertsConfig, Config};
use driftline_schemas::tables::{DriftRow, MetricRow, WindowRow};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

const WINDOWS: usize = 500;
const CHANGE_AT: usize = 250;
const ROWS: u32 = 2_000;
const SEGMENTS: usize = 20;
const FEATURES: usize = 100;
const REFERENCE: f64 = 1_000.0;
const ACCURACY: f64 = 0.90;
const SEEDS: u64 = 4;
const LEARNED: usize = 28;
/// Looks at a window while its labels come.
const LOOKS: usize = 10;
/// Windows after a change that are looked at; what has not been found by then was not found.
const PATIENCE: usize = 72;
/// Points at which two empirical distributions are compared.
const GRID: usize = 100;
/// Distance and p-value.
type Drift = (f64, f64);

/// What does not depend on accuracy: distance and p-value of each feature, window by window.
struct Features {
    whole: Vec<Vec<Drift>>,
    /// By segment, then feature.
    segments: Vec<Vec<Drift>>,
}

/// One run of 500 windows.
struct Stream {
    /// Hits by window, segment, and tenth of the labels.
    hits: Vec<Vec<[u32; LOOKS]>>,
    features: Arc<Features>,
}

/// A Brownian bridge: by how much the empirical distribution of many rows is off, times the root of their number.
fn bridge(random: &mut StdRng) -> [f64; GRID] {
    let mut walk = [0.0; GRID];
    let mut at = 0.0;
    for step in &mut walk {
        // Box and Muller.
        let (u, v): (f64, f64) = (random.random_range(1e-300..1.0), random.random());
        at += (-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos() / (GRID as f64).sqrt();
        *step = at;
    }
    for (place, step) in walk.iter_mut().enumerate() {
        *step -= at * (place + 1) as f64 / GRID as f64;
    }
    walk
}

/// Kolmogorov's distribution, its upper tail.
fn kolmogorov(x: f64) -> f64 {
    if x < 0.2 {
        return 1.0;
    }
    let term = |k: i32| f64::from(1 - 2 * ((k - 1) % 2)) * (-2.0 * f64::from(k * k) * x * x).exp();
    (2.0 * (1..=20).map(term).sum::<f64>()).clamp(1e-300, 1.0)
}

fn effective(rows: f64) -> f64 {
    REFERENCE * rows / (REFERENCE + rows)
}

fn features(seed: u64) -> Features {
    let mut random = StdRng::seed_from_u64(1_000 + seed);
    // One reference for all windows, as in life: where it happens to be off, it is off in each of them.
    let references: Vec<[f64; GRID]> = (0..FEATURES).map(|_| bridge(&mut random)).collect();
    let rows = f64::from(ROWS);
    let drift = |reference: &[f64; GRID], random: &mut StdRng| {
        let window = bridge(random);
        let apart = |(a, b): (&f64, &f64)| (a / rows.sqrt() - b / REFERENCE.sqrt()).abs();
        let distance = window.iter().zip(reference).map(apart).fold(0.0, f64::max);
        (distance, kolmogorov(distance * effective(rows).sqrt()))
    };
    // Of a segment's hundred rows the reference's error is a small part: p-values are drawn, and the distances that go with
    // them by the first term of Kolmogorov's series.
    let n = effective(rows / SEGMENTS as f64);
    let of_segment = |random: &mut StdRng| {
        let p: f64 = random.random_range(1e-12..1.0);
        ((-(p / 2.0).ln() / 2.0).sqrt() / n.sqrt(), p)
    };
    let whole = (0..WINDOWS).map(|_| references.iter().map(|reference| drift(reference, &mut random)).collect());
    let whole = whole.collect();
    let segments = (0..WINDOWS).map(|_| (0..SEGMENTS * FEATURES).map(|_| of_segment(&mut random)).collect()).collect();
    Features { whole, segments }
}

fn stream(seed: u64, drop: f64, features: &Arc<Features>) -> Stream {
    let mut random = StdRng::seed_from_u64(seed);
    let rows = ROWS / SEGMENTS as u32 / LOOKS as u32;
    let mut window = |at: usize| {
        let accuracy = if at >= CHANGE_AT { ACCURACY - drop } else { ACCURACY };
        let mut segment = || std::array::from_fn(|_| (0..rows).filter(|_| random.random_bool(accuracy)).count() as u32);
        (0..SEGMENTS).map(|_| segment()).collect()
    };
    Stream { hits: (0..WINDOWS).map(&mut window).collect(), features: features.clone() }
}

fn begin() -> DateTime<Utc> {
    DateTime::from_timestamp(1_767_225_600, 0).expect("2026")
}

fn start_of(at: usize) -> i64 {
    (begin() + TimeDelta::hours(at as i64)).timestamp_micros()
}

/// Wilson's interval, as the evaluator publishes it.
fn wilson(hits: u32, rows: u32) -> (f64, f64) {
    let (z, n, p) = (1.959_963_984_540_054_f64, f64::from(rows), f64::from(hits) / f64::from(rows));
    let centre = (p + z * z / (2.0 * n)) / (1.0 + z * z / n);
    let half = z / (1.0 + z * z / n) * (p * (1.0 - p) / n + z * z / (4.0 * n * n)).sqrt();
    (centre - half, centre + half)
}

fn metric(at: usize, segment: Option<usize>, hits: u32, rows: u32) -> MetricRow {
    let (low, high) = wilson(hits, rows);
    MetricRow {
        model: "m".into(),
        segment: segment.map(|_| "region".into()),
        segment_value: segment.map(|segment| segment.to_string()),
        window_start: begin() + TimeDelta::hours(at as i64),
        window_end: begin() + TimeDelta::hours(at as i64 + 1),
        metric: "accuracy".into(),
        value: Some(f64::from(hits) / f64::from(rows)),
        ci_low: Some(low),
        ci_high: Some(high),
        ci_level: Some(0.95),
        n: i64::from(rows),
        n_labelled: i64::from(rows),
        state: "sealed".into(),
        revision: 1,
        decided_at: begin() + TimeDelta::hours(at as i64 + 2),
        ..MetricRow::default()
    }
}

fn drift_row(at: usize, segment: Option<usize>, feature: usize, (distance, p): Drift, rows: u32) -> DriftRow {
    let (start, end) = (begin() + TimeDelta::hours(at as i64), begin() + TimeDelta::hours(at as i64 + 1));
    DriftRow {
        model: "m".into(),
        segment: segment.map(|_| "region".into()),
        segment_value: segment.map(|segment| segment.to_string()),
        window_start: start,
        window_end: end,
        column_name: format!("feature_{feature:03}"),
        method: "ks".into(),
        statistic: Some(distance),
        p_value: Some(p),
        threshold: 0.1,
        drifted: Some(distance >= 0.1 && p < 0.05),
        decides: Some(true),
        n: i64::from(rows),
        n_reference: REFERENCE as i64,
        state: "sealed".into(),
        revision: 1,
        decided_at: end,
        ..DriftRow::default()
    }
}

/// What is published of a window when so many tenths of its labels have come.
fn published(at: usize, stream: &Stream, tenths: usize, with_drift: bool) -> Published {
    let rows = ROWS / SEGMENTS as u32;
    let labelled = rows * tenths as u32 / LOOKS as u32;
    let hits: Vec<u32> = stream.hits[at].iter().map(|tenth| tenth[..tenths].iter().sum()).collect();
    let all = metric(at, None, hits.iter().sum(), labelled * SEGMENTS as u32);
    let (start, end) = (all.window_start, all.window_end);
    let mut metrics = vec![all];
    metrics.extend(hits.iter().enumerate().map(|(segment, hits)| metric(at, Some(segment), *hits, labelled)));
    for row in &mut metrics {
        (row.revision, row.n) = (tenths as i64, row.n.max(i64::from(rows)));
    }
    let row = WindowRow {
        model: "m".into(),
        window_start: start,
        window_end: end,
        state: "sealed".into(),
        revision: tenths as i64,
        predictions: i64::from(ROWS),
        labelled: i64::from(labelled) * SEGMENTS as i64,
        waiting: 0,
        expired: 0,
        failed: 0,
        invalid: 0,
        duplicates: 0,
        after_final: 0,
        label_coverage: Some(tenths as f64 / LOOKS as f64),
        late_predictions: 0,
        decided_at: end,
    };
    let mut drift = Vec::new();
    if with_drift {
        let whole = stream.features.whole[at].iter().enumerate();
        drift.extend(whole.map(|(feature, found)| drift_row(at, None, feature, *found, ROWS)));
        let of_segments = stream.features.segments[at].iter().enumerate();
        drift.extend(
            of_segments.map(|(place, found)| drift_row(at, Some(place / FEATURES), place % FEATURES, *found, rows)),
        );
    }
    Published { metrics, drift, window: Some(row), ..Published::default() }
}

fn config(level: &str, with_drift: bool) -> AlertsConfig {
    let mut text =
        format!("[[alerts.rules]]\nname = \"accuracy\"\nmetric = \"accuracy\"\nbelow = {level}\nsegments = [\"*\"]\n");
    if with_drift {
        text.push_str("[[alerts.rules]]\nname = \"drift\"\ndrift = \"*\"\nsegments = [\"*\"]\n");
    }
    Config::from_table(text.parse().expect("TOML")).expect("a good configuration").alerts
}

/// Windows in which alarms were raised, one entry for each.
type Alarms = Vec<usize>;

/// Windows that are looked at: all of a stream in which all is well, those around the change of the others.
fn looked_at(all_is_well: bool) -> std::ops::Range<usize> {
    if all_is_well { 0..WINDOWS } else { CHANGE_AT - 2 * LEARNED..CHANGE_AT + PATIENCE }
}

/// Driftline: the window of each alert that is raised.
fn driftline(stream: &Stream, all_is_well: bool, level: &str, looks: usize, with_drift: bool) -> Alarms {
    let config = config(level, with_drift);
    let order: Vec<i64> = (0..WINDOWS).map(start_of).collect();
    let mut state = State::default();
    let mut alarms = Vec::new();
    let mut past: Past = if all_is_well {
        Past::new()
    } else {
        (0..LEARNED).map(|at| (order[at], published(at, stream, LOOKS, false).metrics)).collect()
    };
    for at in looked_at(all_is_well) {
        for look in 1..=looks {
            let published = published(at, stream, LOOKS * look / looks, with_drift);
            let findings = judge::judge(&config, "m", &published, &past);
            past.insert(order[at], published.metrics);
            let verdicts = Verdicts { start: order[at], is_final: false, was_final: false, findings };
            let transitions = state.take(&order, &[verdicts], order[at]);
            let raised = transitions.iter().filter(|transition| transition.kind == Kind::Firing).count();
            alarms.extend(std::iter::repeat_n(at, raised));
        }
        let kept = order[at.saturating_sub(judge::MEMORY)];
        past.retain(|start, _| *start < order[LEARNED] || *start >= kept);
        if !all_is_well && alarms.last().is_some_and(|last| *last >= CHANGE_AT) {
            break;
        }
    }
    alarms
}

fn raised(all_is_well: bool, is_bad: impl Fn(usize) -> bool) -> Alarms {
    looked_at(all_is_well).filter(|at| is_bad(*at)).collect()
}

/// The accuracies of a window: of all rows, then of each segment.
fn accuracies(stream: &Stream, at: usize) -> Vec<f64> {
    let rows = f64::from(ROWS) / SEGMENTS as f64;
    let hits: Vec<f64> = stream.hits[at].iter().map(|tenths| f64::from(tenths.iter().sum::<u32>())).collect();
    let all = hits.iter().sum::<f64>() / f64::from(ROWS);
    std::iter::once(all).chain(hits.iter().map(|hits| hits / rows)).collect()
}

fn fixed(stream: &Stream, all_is_well: bool) -> Alarms {
    raised(all_is_well, |at| {
        accuracies(stream, at).iter().any(|accuracy| *accuracy < 0.89)
            || stream.features.whole[at].iter().any(|(distance, _)| *distance > 0.05)
    })
}

fn three_sigma(stream: &Stream, all_is_well: bool) -> Alarms {
    let values = |at: usize| {
        let distances = stream.features.whole[at].iter().map(|(distance, _)| *distance);
        accuracies(stream, at).into_iter().chain(distances).collect::<Vec<f64>>()
    };
    let reference: Vec<Vec<f64>> = (0..LEARNED).map(values).collect();
    let moments = |at: usize| {
        let mean = reference.iter().map(|row| row[at]).sum::<f64>() / LEARNED as f64;
        let squares: f64 = reference.iter().map(|row| (row[at] - mean).powi(2)).sum();
        (mean, (squares / LEARNED as f64).sqrt())
    };
    let limits: Vec<(f64, f64)> = (0..reference[0].len()).map(moments).collect();
    raised(all_is_well, |at| {
        let beyond = |(place, (value, (mean, deviation))): (usize, (&f64, &(f64, f64)))| {
            // Of distances the upper side alone counts.
            let is_high = *value > mean + 3.0 * deviation;
            is_high || (place <= SEGMENTS && *value < mean - 3.0 * deviation)
        };
        values(at).iter().zip(&limits).enumerate().any(beyond)
    })
}

fn evidently(stream: &Stream, all_is_well: bool, columns: usize) -> Alarms {
    raised(all_is_well, |at| {
        let drifted = stream.features.whole[at].iter().filter(|(_, p)| *p < 0.05).count();
        drifted >= columns || (accuracies(stream, at)[0] - ACCURACY).abs() > 0.2 * ACCURACY
    })
}

/// A way to raise alarms, on a stream in which all is well or not.
type Way = Box<dyn Fn(&Stream, bool) -> Alarms + Sync>;

/// False alarms, and windows from a change to the first alarm of each stream.
struct Score {
    false_alarms: usize,
    delays: [Vec<Option<usize>>; 2],
}

impl Score {
    /// False alarms in 30 days.
    fn a_month(&self) -> f64 {
        self.false_alarms as f64 / SEEDS as f64 * 720.0 / (WINDOWS - LEARNED) as f64
    }

    fn delay(&self, drop: usize) -> String {
        let found: Vec<usize> = self.delays[drop].iter().flatten().copied().collect();
        if found.len() < self.delays[drop].len() {
            return format!("{} of {SEEDS} found", found.len());
        }
        format!("{:.1}", found.iter().sum::<usize>() as f64 / found.len() as f64)
    }

    fn slowest(&self, drop: usize) -> usize {
        self.delays[drop].iter().map(|delay| delay.unwrap_or(usize::MAX)).max().unwrap_or(usize::MAX)
    }
}

/// One seed's streams: all is well, two points less, five points less.
fn streams(seed: u64) -> [Stream; 3] {
    let features = Arc::new(features(seed));
    [0.0, 0.02, 0.05].map(|drop| stream(seed, drop, &features))
}

fn score(way: &Way, all: &[[Stream; 3]]) -> Score {
    // One thread for each half: the machines that run this have two cores or more.
    let of_seed = |[well, two, five]: &[Stream; 3]| {
        let alarms = way(well, true).iter().filter(|at| **at >= LEARNED).count();
        let delay = |stream| way(stream, false).into_iter().find(|at| *at >= CHANGE_AT).map(|at| at - CHANGE_AT);
        (alarms, delay(two), delay(five))
    };
    let halves = std::thread::scope(|scope| {
        let (first, second) = all.split_at(all.len() / 2);
        let beside = scope.spawn(|| first.iter().map(of_seed).collect::<Vec<_>>());
        let mut own: Vec<_> = second.iter().map(of_seed).collect();
        own.extend(beside.join().expect("no way to raise alarms panics"));
        own
    });
    let mut score = Score { false_alarms: 0, delays: [Vec::new(), Vec::new()] };
    for (alarms, two, five) in halves {
        score.false_alarms += alarms;
        score.delays[0].push(two);
        score.delays[1].push(five);
    }
    score
}

#[test]
fn false_alarms_stay_within_the_budget_and_a_real_drop_is_found() {
    let to = begin() + TimeDelta::hours(LEARNED as i64);
    let learned = format!("{{ change = 0.0, from = \"{}\", to = \"{}\" }}", begin().to_rfc3339(), to.to_rfc3339());
    let ways: [(&str, Way); 7] = [
        ("Driftline", Box::new(|stream, well| driftline(stream, well, "0.90", 1, true))),
        ("  ten looks a window", Box::new(|stream, well| driftline(stream, well, "0.90", LOOKS, false))),
        ("  a level that is learned", Box::new(move |stream, well| driftline(stream, well, &learned, 1, false))),
        ("fixed thresholds", Box::new(fixed)),
        ("NannyML, 3 σ", Box::new(three_sigma)),
        ("Evidently, columns", Box::new(|stream, well| evidently(stream, well, 1))),
        ("Evidently, dataset", Box::new(|stream, well| evidently(stream, well, FEATURES / 2))),
    ];
    let all: Vec<[Stream; 3]> = (0..SEEDS).map(streams).collect();
    println!("{:<26} {:>20} {:>18} {:>18}", "", "false alarms a month", "delay, 2 points", "delay, 5 points");
    for (name, way) in &ways {
        let score = score(way, &all);
        println!("{name:<26} {:>20.1} {:>18} {:>18}", score.a_month(), score.delay(0), score.delay(1));
        if name.starts_with("Driftline") || name.starts_with("  ") {
            // The budget is one a month: in four times 472 hours 2.6. More than eight are a chance of one in six hundred.
            assert!(score.false_alarms <= 8, "{name}: {} false alarms", score.false_alarms);
            assert!(score.slowest(1) <= 1, "{name}: five points show at once: {:?}", score.delays[1]);
            assert!(score.slowest(0) <= 24, "{name}: two points show within a day: {:?}", score.delays[0]);
        }
    }
}
