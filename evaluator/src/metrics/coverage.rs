//! How often the intervals hold the true value, by simulation. It prints every cell of a fixed grid, and fails where 95 %
//! intervals mislead (each with three standard errors of room for the number of windows):
//!
//! * more than 7 % of all windows miss the true value and carry no warning, or
//! * fewer than half of the windows carry a warning, and all together cover less than 93 % or more than 97 %.
//!
//! Windows without a warning are not asked for 93 % by themselves: a warning rests on the same rows as the value (few hits, a long
//! tail), so the few windows without one in a cell of many are those in which chance was at work.
//!
//! ```sh
//! cargo test -p driftline-evaluator --release -- --ignored --nocapture coverage
//! ```
//! Scores are binormal, and calibrated: a score is the probability of the positive class given what was drawn. A prediction is
//! positive from the score on that makes as many positive predictions as there are positives. The true value of a metric is
//! that of two million rows.

use std::collections::BTreeMap;

use statrs::distribution::{ContinuousCDF, Normal};

use super::{Report, Weight, binary::BinaryState, multiclass::MulticlassState, regression::PairedValues};

const WINDOWS: usize = 2_000;
const ROWS_OF_TRUTH: usize = 2_000_000;
const ROWS: [usize; 3] = [50, 200, 5_000];

struct Random(u64);

impl Random {
    fn uniform(&mut self) -> f64 {
        // SplitMix64: Steele, Lea & Flood (2014).
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
    }

    fn normal(&mut self) -> f64 {
        let (u, v) = (1.0 - self.uniform(), self.uniform());
        (-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos()
    }
}

/// What happened to one metric over the windows of a cell.
#[derive(Default)]
struct Tally {
    intervals: usize,
    covered: usize,
    warned: usize,
    missed_unwarned: usize,
}

/// Draws windows and compares each metric's interval with its value on very many rows.
fn cell(name: &str, rows: usize, report: &dyn Fn(usize, &mut Random) -> Report, failures: &mut Vec<String>) {
    let truth: BTreeMap<String, f64> = report(ROWS_OF_TRUTH, &mut Random(1))
        .metrics
        .into_iter()
        .filter(|row| row.class.is_none())
        .filter_map(|row| Some((row.metric, row.value?)))
        .collect();
    let mut tallies: BTreeMap<String, Tally> = BTreeMap::new();
    let mut random = Random(rows as u64 * 1_000_003);
    for _ in 0..WINDOWS {
        for row in report(rows, &mut random).metrics.into_iter().filter(|row| row.class.is_none()) {
            let (Some(low), Some(high), Some(truth)) = (row.ci_low, row.ci_high, truth.get(&row.metric)) else {
                continue;
            };
            let tally = tallies.entry(row.metric).or_default();
            let covered = low <= *truth && *truth <= high;
            tally.intervals += 1;
            tally.covered += usize::from(covered);
            tally.warned += usize::from(row.ci_warning.is_some());
            tally.missed_unwarned += usize::from(!covered && row.ci_warning.is_none());
        }
    }
    for (metric, tally) in tallies {
        let share = |part: usize, whole: usize| part as f64 / whole.max(1) as f64;
        let coverage = share(tally.covered, tally.intervals);
        let (warned, missed) = (share(tally.warned, tally.intervals), share(tally.missed_unwarned, tally.intervals));
        let is_right = is_right(coverage, warned, missed, tally.intervals);
        println!(
            "{name:<34} {rows:>5} {metric:<34} covers {:>5.1} %, warned {:>5.1} %, misses without a warning {:>4.1} % of {}{}",
            100.0 * coverage,
            100.0 * warned,
            100.0 * missed,
            tally.intervals,
            if is_right { "" } else { "  <<<" },
        );
        if !is_right {
            failures.push(format!("{name} {rows} {metric}: {coverage}"));
        }
    }
}

/// Whether nobody is misled, as far as so many windows can tell: three standard errors of room.
fn is_right(coverage: f64, warned: f64, missed: f64, windows: usize) -> bool {
    let room = 3.0 * (0.95 * 0.05 / windows as f64).sqrt();
    let covers = (0.93 - room..=0.97 + room).contains(&coverage);
    missed <= 0.07 + room && (warned >= 0.5 || covers)
}

fn binary(rows: usize, prevalence: f64, auc: f64, random: &mut Random) -> Report {
    let normal = Normal::standard();
    let distance = normal.inverse_cdf(auc) * std::f64::consts::SQRT_2;
    let odds = prevalence / (1.0 - prevalence);
    let probability = |x: f64| 1.0 - 1.0 / (1.0 + odds * (distance * x - distance * distance / 2.0).exp());
    // The x from which on the share of rows is the prevalence, by bisection.
    let share_above = |x: f64| prevalence * normal.sf(x - distance) + (1.0 - prevalence) * normal.sf(x);
    let (mut low, mut high) = (-10.0, 10.0);
    for _ in 0..60 {
        let middle = f64::midpoint(low, high);
        if share_above(middle) > prevalence { low = middle } else { high = middle }
    }
    let mut state = BinaryState::default();
    for _ in 0..rows {
        let positive = random.uniform() < prevalence;
        let x = random.normal() + if positive { distance } else { 0.0 };
        state.push(positive, Some(x >= low), Some(probability(x)), Weight::ONE);
    }
    state.value(true)
}

fn multiclass(rows: usize, separation: f64, random: &mut Random) -> Report {
    const CLASSES: [&str; 3] = ["a", "b", "c"];
    let mut state = MulticlassState::default();
    for _ in 0..rows {
        let u = random.uniform();
        let actual = if u < 0.6 {
            0
        } else if u < 0.85 {
            1
        } else {
            2
        };
        let mut odds = [0.6, 0.25, 0.15];
        for (class, odds) in odds.iter_mut().enumerate() {
            let x = random.normal() + if class == actual { separation } else { 0.0 };
            *odds *= (separation * x - separation * separation / 2.0).exp();
        }
        let sum: f64 = odds.iter().sum();
        let probabilities: Vec<(&str, f64)> = CLASSES.iter().zip(odds).map(|(class, o)| (*class, o / sum)).collect();
        state.push(CLASSES[actual], None, &probabilities, Weight::ONE);
    }
    state.value()
}

/// Errors that are normal, or log-normal with a long tail.
fn regression(rows: usize, tail: bool, random: &mut Random) -> Report {
    let mut state = PairedValues::default();
    for _ in 0..rows {
        let truth = (1.5 + 0.5 * random.normal()).exp();
        let error = if tail { (0.75 * random.normal()).exp() - 1.3 } else { 0.2 + random.normal() };
        state.push(truth, (truth + error).max(-0.9), Weight::ONE);
    }
    state.report()
}

#[test]
#[ignore = "takes minutes; run it optimised"]
fn coverage() {
    let mut failures = Vec::new();
    for rows in ROWS {
        for prevalence in [0.02, 0.2, 0.5] {
            for auc in [0.6, 0.8, 0.95] {
                let name = format!("binary, prevalence {prevalence}, AUC {auc}");
                cell(&name, rows, &|rows, random| binary(rows, prevalence, auc, random), &mut failures);
            }
        }
        for separation in [0.5, 1.5] {
            let name = format!("three classes, separation {separation}");
            cell(&name, rows, &|rows, random| multiclass(rows, separation, random), &mut failures);
        }
        for tail in [false, true] {
            let name = if tail { "regression, log-normal errors" } else { "regression, normal errors" };
            cell(name, rows, &|rows, random| regression(rows, tail, random), &mut failures);
        }
    }
    assert!(failures.is_empty(), "{} cells: {failures:#?}", failures.len());
}
