//! Confidence-based estimates of a multiclass model's metrics.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    Estimated, Outcome, Reach,
    areas::{ExpectedRun, areas},
    binary::parts,
    calibration::{Curve, Place},
    rows::{ClassRows, Table},
};
use crate::metrics::{Mass, Undefined, exact_sum::DoubledSum};

/// Every metric of all classes together that is estimated, in published order.
pub const METRICS: [&str; 5] = ["accuracy", "precision_macro", "recall_macro", "f1_macro", "roc_auc_macro"];
/// Every metric of one class against the rest.
pub const CLASS_METRICS: [&str; 4] = ["precision", "recall", "f1", "roc_auc"];
/// Classes up to which each has estimates of its own: the work grows with the square.
const CLASSES_MAX: usize = 20;

/// What a row takes for each class that the reference knows, most of all at once: its probability (twice, while rows are sorted), its share, and where
/// it lies on its curve.
pub const CELL_BYTES: u64 = (3 * size_of::<f64>() + size_of::<Place>()) as u64;

/// How a metric moves with one row's being of a class: `weight · (if_predicted · [predicted] + always)`.
#[derive(Clone, Copy, Default)]
struct Slope {
    if_predicted: f64,
    always: f64,
}

/// The estimates of a multiclass model.
///
/// # Formula
/// Each class's probability goes through its own [`Curve`]; what they give is divided by its sum, for a row is of one class. (Where all give
/// zero, the probabilities themselves are.) The metrics are those of the expected confusion matrix; macro averages are over the
/// classes that the reference knows and those that are predicted, a class without a defined value counting as 0. The variance is that
/// of a draw of each row's class, `Σ w² (Σ p d² − (Σ p d)²)`, plus that of the curves' blocks by the delta method, as if the
/// classes' curves were independent. Of `roc_auc_macro`, the errors of the classes are added as if they went together. A model of at
/// most 20 classes has [`CLASS_METRICS`] of each class that the reference knows too, each against the rest.
/// # Source
/// NannyML, CBPE for multiclass models; Zadrozny & Elkan (2002), Transforming Classifier Scores into Accurate Multiclass
/// Probability Estimates, for the normalisation.
/// # Inputs
/// Rows of a window, their class the predicted one.
/// # Returns
/// As many outcomes as [`METRICS`], then those by class: `no_rows` or, if no row has probabilities, `no_scores`.
pub fn estimate(rows: &ClassRows, curves: &BTreeMap<String, Curve>) -> Vec<(&'static str, Option<String>, Outcome)> {
    let classes: Vec<&str> = curves.keys().map(String::as_str).collect();
    let table = rows.table(&classes);
    if table.rows() == 0 || classes.is_empty() {
        let reason = if rows.counts().is_empty() { Undefined::NoRows } else { Undefined::NoScores };
        return METRICS.iter().map(|metric| (*metric, None, Err(reason))).collect();
    }
    let calibrated = Calibrated::of(&table, curves);
    let totals = Totals::of(&table, &calibrated);
    let by_class = if classes.len() <= CLASSES_MAX { classes.as_slice() } else { &[] };
    let mut slopes = totals.slopes().to_vec();
    slopes.extend((0..by_class.len()).flat_map(|class| totals.slopes_of(class)));
    let mut values: Vec<Option<f64>> = totals.values().map(Some).to_vec();
    values.extend((0..by_class.len()).flat_map(|class| totals.values_of(class)));
    let areas = calibrated.areas(&table);
    let variances = calibrated.variances(&table, &slopes);
    let mut shares = values.into_iter().zip(variances).map(|(value, variance)| {
        let value = value.ok_or(Undefined::ZeroDenominator)?;
        Ok(Estimated::share(value.clamp(0.0, 1.0), variance))
    });
    let mut outcomes: Vec<(&'static str, Option<String>, Outcome)> = Vec::new();
    for metric in METRICS {
        let outcome = if metric == "roc_auc_macro" { macro_area(&areas) } else { shares.next().unwrap_or(NO_ROWS) };
        outcomes.push((metric, None, outcome));
    }
    for (class, area) in by_class.iter().zip(&areas) {
        for metric in CLASS_METRICS {
            let outcome = if metric == "roc_auc" {
                area.map(|(value, variance)| Estimated::share(value, variance)).ok_or(Undefined::OneClass)
            } else {
                shares.next().unwrap_or(NO_ROWS)
            };
            outcomes.push((metric, Some((*class).to_owned()), outcome));
        }
    }
    let scarcest = curves.values().map(Curve::scarcest).fold(totals.mass.effective_rows(), f64::min);
    let strange = calibrated.strange / totals.mass.weight();
    let finish = |outcome: Outcome| outcome.map(|estimated| estimated.on_rows(scarcest).on_strange(strange));
    outcomes.into_iter().map(|(metric, class, outcome)| (metric, class, finish(outcome))).collect()
}

/// What stands where nothing was worked out.
const NO_ROWS: Outcome = Err(Undefined::NoRows);

/// The mean of the classes' areas.
fn macro_area(areas: &[Option<(f64, f64)>]) -> Outcome {
    let known: Vec<&(f64, f64)> = areas.iter().flatten().collect();
    if known.len() < 2 {
        return Err(Undefined::OneClass);
    }
    let count = known.len() as f64;
    let mean = known.iter().map(|(value, _)| value).sum::<f64>() / count;
    let errors = known.iter().map(|(_, variance)| variance.sqrt()).sum::<f64>() / count;
    Ok(Estimated::share(mean, errors.powi(2)))
}

/// Each row's calibrated probabilities.
struct Calibrated<'a> {
    curves: Vec<&'a Curve>,
    /// Row after row, by class.
    shares: Vec<f64>,
    /// Where each lies on its curve.
    places: Vec<Place>,
    /// What the curves gave in all, by row; 0 where the probabilities themselves are taken.
    sums: Vec<f64>,
    /// Weight of the rows with a probability beyond all of the reference.
    strange: f64,
}

impl<'a> Calibrated<'a> {
    fn of(table: &Table, curves: &'a BTreeMap<String, Curve>) -> Self {
        let curves: Vec<&Curve> = curves.values().collect();
        let mut calibrated = Self { curves, shares: Vec::new(), places: Vec::new(), sums: Vec::new(), strange: 0.0 };
        for row in 0..table.rows() {
            let raw = table.row(row);
            let places: Vec<Place> = calibrated.curves.iter().zip(raw).map(|(curve, p)| curve.find(*p)).collect();
            let is_strange = calibrated.curves.iter().zip(raw).any(|(curve, p)| curve.is_beyond(*p));
            calibrated.strange += if is_strange { table.weights[row].value() } else { 0.0 };
            let sum: f64 = places.iter().map(|place| place.share).sum();
            if sum > 0.0 {
                calibrated.shares.extend(places.iter().map(|place| place.share / sum));
            } else {
                let whole: f64 = raw.iter().sum();
                let equal = 1.0 / raw.len() as f64;
                calibrated.shares.extend(raw.iter().map(|p| if whole > 0.0 { p / whole } else { equal }));
            }
            calibrated.sums.push(sum);
            calibrated.places.extend(places);
        }
        calibrated
    }

    fn of_row(&self, row: usize) -> &[f64] {
        let width = self.curves.len();
        &self.shares[row * width..(row + 1) * width]
    }

    /// The variance of each metric, from how it moves.
    fn variances(&self, table: &Table, slopes: &[Vec<Slope>]) -> Vec<f64> {
        let width = self.curves.len();
        let of_blocks: Vec<Vec<f64>> = self.curves.iter().map(|curve| curve.variances()).collect();
        let of_metric = |slopes: &Vec<Slope>| {
            let mut of_labels = DoubledSum::default();
            let mut by_block: Vec<Vec<DoubledSum>> =
                of_blocks.iter().map(|blocks| vec![DoubledSum::default(); blocks.len()]).collect();
            let mut moves = vec![0.0; width];
            for row in 0..table.rows() {
                let (weight, shares) = (table.weights[row].value(), self.of_row(row));
                let (mut mean, mut squares) = (0.0, 0.0);
                for class in 0..width {
                    let predicted = f64::from(u8::from(table.class_of[row] == Some(class)));
                    moves[class] = weight * (slopes[class].if_predicted * predicted + slopes[class].always);
                    mean += shares[class] * moves[class];
                    squares += shares[class] * moves[class] * moves[class];
                }
                of_labels.push((squares - mean * mean).max(0.0));
                if self.sums[row] > 0.0 {
                    for class in 0..width {
                        for (block, part) in parts(&self.places[row * width + class]) {
                            by_block[class][block].push(part * (moves[class] - mean) / self.sums[row]);
                        }
                    }
                }
            }
            let squares = by_block.iter().flatten().zip(of_blocks.iter().flatten());
            of_labels.value() + squares.map(|(slope, variance)| slope.value().powi(2) * variance).sum::<f64>()
        };
        slopes.iter().map(of_metric).collect()
    }

    /// The area of each class against the rest, ranked by its probability as the model gave it, with its variance.
    fn areas(&self, table: &Table) -> Vec<Option<(f64, f64)>> {
        let width = self.curves.len();
        let mut all = Vec::new();
        for (class, curve) in self.curves.iter().enumerate() {
            let mut order: Vec<usize> = (0..table.rows()).collect();
            // Stable: among equals the rows stay in the table's order.
            order.sort_by(|a, b| table.row(*a)[class].total_cmp(&table.row(*b)[class]));
            let mut runs: Vec<(ExpectedRun, (usize, usize))> = Vec::new();
            let mut from = 0;
            for to in 1..=order.len() {
                if to < order.len() && table.row(order[to])[class] == table.row(order[from])[class] {
                    continue;
                }
                let mut run = ExpectedRun {
                    positives: 0.0,
                    negatives: 0.0,
                    spread: 0.0,
                    reach: Reach::of(0.0),
                    is_one_value: true,
                };
                for row in &order[from..to] {
                    let (weight, share) = (table.weights[*row].value(), self.of_row(*row)[class]);
                    run.positives += weight * share;
                    run.negatives += weight * (1.0 - share);
                    run.spread += weight * weight * share * (1.0 - share);
                }
                run.reach = Reach::of(run.positives);
                runs.push((run, (from, to)));
                from = to;
            }
            let mut by_block = vec![DoubledSum::default(); curve.blocks().len()];
            let found = areas(
                || runs.iter().copied(),
                |(from, to), slopes| {
                    for row in order[*from..*to].iter().filter(|row| self.sums[**row] > 0.0) {
                        let share = self.of_row(*row)[class];
                        let slope = table.weights[*row].value() * slopes.roc_auc * (1.0 - share) / self.sums[*row];
                        for (block, part) in parts(&self.places[*row * width + class]) {
                            by_block[block].push(part * slope);
                        }
                    }
                },
            );
            all.push(found.roc_auc.map(|area| {
                let blocks = by_block.iter().zip(curve.variances());
                let of_blocks: f64 = blocks.map(|(slope, variance)| slope.value().powi(2) * variance).sum();
                (area.value, area.variance + of_blocks)
            }));
        }
        all
    }
}

/// The expected confusion matrix's margins and diagonal.
struct Totals {
    mass: Mass,
    /// By class: what is expected of it, what was predicted, and what is both.
    actual: Vec<f64>,
    predicted: Vec<f64>,
    both: Vec<f64>,
    /// Classes that are predicted and unknown to the reference.
    unknown: usize,
}

impl Totals {
    fn of(table: &Table, calibrated: &Calibrated<'_>) -> Self {
        let width = calibrated.curves.len();
        let (mut mass, none) = (Mass::default(), vec![DoubledSum::default(); width]);
        let (mut actual, mut predicted, mut both) = (none.clone(), none.clone(), none);
        for row in 0..table.rows() {
            let weight = table.weights[row].value();
            mass.push(table.weights[row]);
            for (class, share) in calibrated.of_row(row).iter().enumerate() {
                actual[class].push(weight * share);
                if table.class_of[row] == Some(class) {
                    both[class].push(weight * share);
                    predicted[class].push(weight);
                }
            }
        }
        let values = |sums: Vec<DoubledSum>| sums.iter().map(DoubledSum::value).collect();
        let unknown: BTreeSet<&str> = table.other_classes.iter().flatten().map(String::as_str).collect();
        Self { mass, actual: values(actual), predicted: values(predicted), both: values(both), unknown: unknown.len() }
    }

    fn classes(&self) -> f64 {
        (self.actual.len() + self.unknown) as f64
    }

    /// Accuracy, then the averages of precision, recall and F1.
    fn values(&self) -> [f64; 4] {
        let over = |above: f64, below: f64| if below > 0.0 { above / below } else { 0.0 };
        let mut values = [self.both.iter().sum::<f64>() / self.mass.weight(), 0.0, 0.0, 0.0];
        for class in 0..self.actual.len() {
            let (actual, predicted, both) = (self.actual[class], self.predicted[class], self.both[class]);
            values[1] += over(both, predicted) / self.classes();
            values[2] += over(both, actual) / self.classes();
            values[3] += over(2.0 * both, actual + predicted) / self.classes();
        }
        values
    }

    /// Precision, recall and F1 of one class; none without a denominator.
    fn values_of(&self, class: usize) -> [Option<f64>; 3] {
        let over = |above: f64, below: f64| (below > 0.0).then(|| above / below);
        let (actual, predicted, both) = (self.actual[class], self.predicted[class], self.both[class]);
        [over(both, predicted), over(both, actual), over(2.0 * both, actual + predicted)]
    }

    /// How these move with a row's being of a class: of this one, for no other is in them.
    fn slopes_of(&self, class: usize) -> [Vec<Slope>; 3] {
        let over = |above: f64, below: f64| if below > 0.0 { above / below } else { 0.0 };
        let (actual, predicted, both) = (self.actual[class], self.predicted[class], self.both[class]);
        let either = actual + predicted;
        let alone = |if_predicted: f64, always: f64| {
            let mut slopes = vec![Slope::default(); self.actual.len()];
            slopes[class] = Slope { if_predicted, always };
            slopes
        };
        [
            alone(over(1.0, predicted), 0.0),
            alone(over(1.0, actual), -over(both, actual * actual)),
            alone(over(2.0, either), -over(2.0 * both, either * either)),
        ]
    }

    /// How these move with a row's being of a class.
    fn slopes(&self) -> [Vec<Slope>; 4] {
        let over = |above: f64, below: f64| if below > 0.0 { above / below } else { 0.0 };
        let mut slopes: [Vec<Slope>; 4] = std::array::from_fn(|_| Vec::new());
        for class in 0..self.actual.len() {
            let (actual, predicted, both) = (self.actual[class], self.predicted[class], self.both[class]);
            let share = 1.0 / self.classes();
            slopes[0].push(Slope { if_predicted: 1.0 / self.mass.weight(), always: 0.0 });
            slopes[1].push(Slope { if_predicted: over(share, predicted), always: 0.0 });
            slopes[2].push(Slope { if_predicted: over(share, actual), always: -over(share * both, actual * actual) });
            let either = actual + predicted;
            slopes[3].push(Slope {
                if_predicted: over(2.0 * share, either),
                always: -over(2.0 * share * both, either * either),
            });
        }
        slopes
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::{binary::tests::Chance, calibration::one_vs_rest},
        *,
    };
    use crate::metrics::{Weight, multiclass::MulticlassState};

    const CLASSES: [&str; 3] = ["a", "b", "c"];

    /// Probabilities and a class that follows them, though not as they say.
    fn row(chance: &mut Chance) -> ([f64; 3], &'static str) {
        let raw: [f64; 3] = std::array::from_fn(|_| chance.draw().powi(2) + 0.01);
        let sum: f64 = raw.iter().sum();
        let truth: [f64; 3] = raw.map(|p| (p / sum).powf(1.5));
        let whole: f64 = truth.iter().sum();
        let at = chance.draw() * whole;
        let class = if at < truth[0] {
            0
        } else if at < truth[0] + truth[1] {
            1
        } else {
            2
        };
        (raw.map(|p| p / sum), CLASSES[class])
    }

    fn named(probabilities: &[f64; 3]) -> Vec<(&'static str, f64)> {
        CLASSES.into_iter().zip(*probabilities).collect()
    }

    #[test]
    fn intervals_hold_the_realised_value() {
        let worlds = 200_u64;
        for (reference, window) in [(6_000, 400), (800, 2_000)] {
            let mut covered: BTreeMap<(&str, Option<String>), f64> = BTreeMap::new();
            for world in 0..worlds {
                let mut chance = Chance(17 + world * 104_729);
                (0..10).for_each(|_| {
                    chance.draw();
                });
                let mut labelled = ClassRows::default();
                for _ in 0..reference {
                    let (probabilities, class) = row(&mut chance);
                    labelled.push(Some(class), &named(&probabilities), true, Weight::ONE);
                }
                let curves = one_vs_rest(&labelled).expect("three classes");
                let (mut rows, mut truth) = (ClassRows::default(), MulticlassState::default());
                for _ in 0..window {
                    let (probabilities, class) = row(&mut chance);
                    rows.push(None, &named(&probabilities), false, Weight::ONE);
                    truth.push(class, None, &named(&probabilities), Weight::ONE);
                }
                let report = truth.value();
                for (metric, class, outcome) in estimate(&rows, &curves) {
                    let is = |row: &&crate::metrics::ReportRow| row.metric == metric && row.class == class;
                    let realised = report.metrics.iter().find(is).and_then(|row| row.value).expect("defined");
                    let Estimated { low, high, .. } = outcome.expect("defined");
                    let covers = f64::from(u8::from(low <= realised && realised <= high)) / worlds as f64;
                    *covered.entry((metric, class)).or_default() += covers;
                }
            }
            assert_eq!(covered.len(), METRICS.len() + CLASS_METRICS.len() * CLASSES.len());
            for (metric, share) in covered {
                println!("{reference} rows of reference, {window} in the window: {metric:?} {share:.3}");
                assert!((0.89..=1.0).contains(&share), "{metric:?} covers {share} with {reference} and {window} rows");
            }
        }
    }

    /// Intervals of the simulation may be too wide and still hold; what they are made of may not be wrong.
    #[test]
    fn slopes_are_the_derivatives_of_what_they_belong_to() {
        let mut mass = Mass::default();
        (0..100).for_each(|_| mass.push(Weight::ONE));
        // So much more of one class is expected in rows that are predicted to be of it, or not.
        let moved = |class: usize, by: f64, is_predicted: bool| {
            let mut totals = Totals {
                mass,
                actual: vec![40.0, 35.0, 25.0],
                predicted: vec![50.0, 30.0, 20.0],
                both: vec![30.0, 20.0, 15.0],
                unknown: 1,
            };
            totals.actual[class] += by;
            totals.both[class] += if is_predicted { by } else { 0.0 };
            totals
        };
        let step = 1e-4;
        for (class, is_predicted) in (0..3).flat_map(|class| [(class, false), (class, true)]) {
            let [less, at, more] = [-step, 0.0, step].map(|by| moved(class, by, is_predicted));
            let check = |slope: &Slope, low: f64, high: f64| {
                let slope = slope.if_predicted * f64::from(u8::from(is_predicted)) + slope.always;
                let derivative = (high - low) / (2.0 * step);
                assert!((slope - derivative).abs() < 1e-9, "{class} {is_predicted}: {slope} is not {derivative}");
            };
            for (metric, slopes) in at.slopes().iter().enumerate() {
                check(&slopes[class], less.values()[metric], more.values()[metric]);
            }
            for of in 0..3 {
                for (metric, slopes) in at.slopes_of(of).iter().enumerate() {
                    let value = |totals: &Totals| totals.values_of(of)[metric].expect("defined");
                    check(&slopes[class], value(&less), value(&more));
                }
            }
        }
    }

    #[test]
    fn b1_beyond_twenty_classes_all_together_are_estimated() {
        for (count, outcomes) in [(20, METRICS.len() + 20 * CLASS_METRICS.len()), (21, METRICS.len())] {
            let names: Vec<String> = (0..count).map(|class| format!("c{class:02}")).collect();
            let of = |sure: usize| -> Vec<(&str, f64)> {
                let p = |class: usize| if class == sure { 0.5 } else { 0.5 / (count - 1) as f64 };
                names.iter().enumerate().map(|(class, name)| (name.as_str(), p(class))).collect()
            };
            let mut labelled = ClassRows::default();
            for at in 0..4 * count {
                labelled.push(Some(&names[at % count]), &of((at + at / count) % count), true, Weight::ONE);
            }
            let curves = one_vs_rest(&labelled).expect("many classes");
            assert_eq!(estimate(&labelled, &curves).len(), outcomes, "{count}");
        }
    }

    #[test]
    fn where_no_curve_gives_anything_the_probabilities_themselves_are_taken() {
        let mut labelled = ClassRows::default();
        for at in 0..40 {
            let (class, p) = if at % 2 == 0 { ("a", 0.9) } else { ("b", 0.1) };
            labelled.push(Some(class), &[("a", p), ("b", 1.0 - p)], true, Weight::ONE);
        }
        let curves = one_vs_rest(&labelled).expect("two classes");
        let accuracy = |a: f64, b: f64| {
            let mut rows = ClassRows::default();
            rows.push(Some("a"), &[("a", a), ("b", b)], false, Weight::ONE);
            estimate(&rows, &curves)[0].2.map(|estimated| estimated.value)
        };
        // Neither has ever been right at so little.
        assert!(
            accuracy(0.08, 0.04).is_ok_and(|value| (value - 2.0 / 3.0).abs() < 1e-12),
            "{:?}",
            accuracy(0.08, 0.04)
        );
        assert!(accuracy(0.0, 0.0).is_ok_and(|value| (value - 0.5).abs() < 1e-12), "{:?}", accuracy(0.0, 0.0));
    }

    #[test]
    fn probabilities_beyond_all_of_the_reference_bring_a_warning() {
        let of = |a: f64| [("a", a), ("b", 1.0 - a)];
        let mut labelled = ClassRows::default();
        for at in 0..4_000 {
            labelled.push(Some(["a", "b"][at % 2]), &of([0.75, 0.25][at % 2]), true, Weight::ONE);
        }
        let curves = one_vs_rest(&labelled).expect("two classes");
        let warnings = |a: f64| -> BTreeSet<bool> {
            let mut rows = ClassRows::default();
            (0..4_000).for_each(|at| rows.push(Some("a"), &of([a, 0.25][at % 2]), false, Weight::ONE));
            let known = estimate(&rows, &curves).into_iter().filter_map(|(_, _, outcome)| outcome.ok());
            known.map(|estimated| estimated.warning == Some(crate::estimate::Warning::OutOfRange)).collect()
        };
        assert_eq!((warnings(0.75), warnings(1.0)), (BTreeSet::from([false]), BTreeSet::from([true])));
    }

    #[test]
    fn e3_a_window_without_probabilities_has_a_reason() {
        let mut labelled = ClassRows::default();
        labelled.push(Some("a"), &[("a", 0.9), ("b", 0.1)], true, Weight::ONE);
        labelled.push(Some("b"), &[("a", 0.2), ("b", 0.8)], true, Weight::ONE);
        let curves = one_vs_rest(&labelled).expect("two classes");
        let reasons = |rows: &ClassRows| -> Vec<Option<Undefined>> {
            estimate(rows, &curves).into_iter().map(|(_, _, outcome)| outcome.err()).collect()
        };
        assert_eq!(reasons(&ClassRows::default()), [Some(Undefined::NoRows); 5]);
        let mut unscored = ClassRows::default();
        unscored.push(Some("a"), &[], false, Weight::ONE);
        assert_eq!(reasons(&unscored), [Some(Undefined::NoScores); 5]);
    }

    #[test]
    fn a_class_that_the_reference_does_not_know_is_wrong_and_counts_in_the_averages() {
        let mut labelled = ClassRows::default();
        for at in 0..40 {
            let (class, p) = if at % 2 == 0 { ("a", 0.9) } else { ("b", 0.1) };
            labelled.push(Some(class), &[("a", p), ("b", 1.0 - p)], true, Weight::ONE);
        }
        let curves = one_vs_rest(&labelled).expect("two classes");
        let mut rows = ClassRows::default();
        rows.push(Some("a"), &[("a", 0.9), ("b", 0.1)], false, Weight::ONE);
        rows.push(Some("z"), &[("a", 0.9), ("b", 0.1)], false, Weight::ONE);
        let estimated = estimate(&rows, &curves);
        let values: Vec<Option<f64>> = estimated.iter().map(|(_, _, outcome)| outcome.ok().map(|e| e.value)).collect();
        let close =
            |at: usize, value: f64| assert!(values[at].is_some_and(|v| (v - value).abs() < 1e-12), "{values:?}");
        close(0, 0.5);
        close(1, 1.0 / 3.0);
        close(2, 0.5 / 3.0);
        close(3, 2.0 / 9.0);
        assert_eq!(values[4], None, "one class is expected, so there is nothing to tell apart");
        // The very scores of the reference: half an ulp beside them, a little of it would be expected.
        let mut rows = ClassRows::default();
        rows.push(Some("a"), &[("a", 0.9), ("b", 1.0 - 0.9)], false, Weight::ONE);
        let of_b: Vec<Option<Undefined>> = estimate(&rows, &curves)
            .iter()
            .filter(|row| row.1.as_deref() == Some("b"))
            .map(|row| row.2.err())
            .collect();
        let zero = Some(Undefined::ZeroDenominator);
        assert_eq!(of_b, [zero, zero, zero, Some(Undefined::OneClass)], "it is neither predicted nor expected");
    }
}
