//! Confidence-based estimates of a binary model's metrics (CBPE).

use super::{
    Estimated, Outcome, Reach,
    areas::{Area, ExpectedRun, areas},
    calibration::{Curve, Place},
};
use crate::metrics::{
    Undefined,
    exact_sum::DoubledSum,
    scores::{BinnedRun, Run, Side, spans},
};

/// Every metric that is estimated, in published order. The last four are the confusion matrix, as shares of all rows.
pub const METRICS: [&str; 11] = [
    "accuracy",
    "precision",
    "recall",
    "specificity",
    "f1",
    "roc_auc",
    "average_precision",
    "true_positive_share",
    "false_positive_share",
    "false_negative_share",
    "true_negative_share",
];

/// Where a share may be.
const UNIT: (f64, f64) = (0.0, 1.0);

/// The estimates of a binary model.
///
/// # Formula
/// A row whose score is right with probability p, by the [`Curve`], is p of a positive and 1 − p of a negative; the metrics are
/// those of the expected confusion matrix and of the expected curves. The variance of each is
/// `Σ w² p(1 − p) d²`, the labels' own chance, plus `Σₖ (Σ w d ∂p/∂vₖ)² Var vₖ`, that of the reference's blocks, with the
/// derivatives d by a row's p.
///
/// Of rows that are held in bins, p is that of the bin's middle, and somewhere between those of its ends: each metric but the areas goes up, or down, with the expected
/// hits and with the expected misses, so it is bounded by two corners of what these can be. For the areas see [`areas`].
/// # Source
/// NannyML, Confidence-based Performance Estimation, for the values; the delta method for the variances.
/// # Inputs
/// Sorted scores of the rows that were predicted positive, and of those that were not.
/// # Returns
/// As many outcomes as [`METRICS`]. A ratio without a denominator is `zero_denominator`; an area without both classes `one_class`.
pub fn estimate(said: &Side, unsaid: &Side, curve: &Curve) -> Vec<(&'static str, Outcome)> {
    let (of_said, of_unsaid) = (said.mass(), unsaid.mass());
    if of_said.rows() + of_unsaid.rows() == 0 {
        return METRICS.iter().map(|metric| (*metric, Err(Undefined::NoRows))).collect();
    }
    let sweep = || {
        let mut from = 0;
        spans(said, unsaid).map(move |span| {
            let scored = Scored::of(&span, curve, &mut from);
            (scored.expected(), scored)
        })
    };
    let mut table = Expected { said: of_said.weight(), unsaid: of_unsaid.weight(), ..Expected::new(curve) };
    for (_, scored) in sweep() {
        table.add(&scored);
    }
    let blocks = curve.blocks().len();
    let (mut by_auc, mut by_precision) = (vec![DoubledSum::default(); blocks], vec![DoubledSum::default(); blocks]);
    let mut strange = 0.0;
    let areas = areas(sweep, |scored, slopes| {
        let weight = scored.run.positives + scored.run.negatives;
        if curve.is_beyond(scored.score) {
            strange += weight;
        }
        for (block, part) in parts(&scored.place) {
            by_auc[block].push(part * weight * slopes.roc_auc);
            by_precision[block].push(part * weight * slopes.average_precision);
        }
    });
    let of_blocks = |slopes: &[DoubledSum]| {
        slopes.iter().zip(&table.variances).map(|(slope, v)| slope.value().powi(2) * v).sum::<f64>()
    };
    let (hits, misses) = (table.hits.value(), table.misses.value());
    let (said, unsaid) = (table.said, table.unsaid);
    let all = said + unsaid;
    let (positives, negatives) = (hits + misses, all - hits - misses);
    let effective = all / of_said.with(of_unsaid).effective_rows();
    let scarcest = positives.min(negatives) / effective;
    let ratio = |of: &dyn Fn(f64, f64) -> (f64, f64), (by_hits, by_misses): (f64, f64), rows: f64| -> Outcome {
        let value = |hits: f64, misses: f64| {
            let (above, below) = of(hits, misses);
            (below > 0.0).then(|| (above / below).clamp(0.0, 1.0))
        };
        let estimate = value(hits, misses).ok_or(Undefined::ZeroDenominator)?;
        let [of_hits, of_misses] = table.reach();
        let corners = [value(of_hits.least, of_misses.most), value(of_hits.most, of_misses.least)];
        let bound = corners.into_iter().flatten().map(|corner| (corner - estimate).abs()).fold(0.0, f64::max);
        let estimated = Estimated::share(estimate, table.variance(by_hits, by_misses)).on_rows(rows);
        Ok(estimated.within(bound, UNIT))
    };
    let share = |of: &dyn Fn(f64, f64) -> f64, by_hits: f64, by_misses: f64| {
        ratio(&|h, m| (of(h, m), all), (by_hits / all, by_misses / all), all / effective)
    };
    let either = said + positives;
    let area = |area: Option<Area>, by_block: &[DoubledSum], rows: f64| {
        let area = area.ok_or(Undefined::OneClass)?;
        let estimated = Estimated::share(area.value, area.variance + of_blocks(by_block)).on_rows(rows);
        Ok(estimated.within(area.bound, UNIT))
    };
    let outcomes: [Outcome; METRICS.len()] = [
        share(&|h, m| h + unsaid - m, 1.0, -1.0),
        ratio(&|h, _| (h, said), (1.0 / said, 0.0), said / effective),
        ratio(&|h, m| (h, h + m), (misses / positives.powi(2), -hits / positives.powi(2)), positives / effective),
        ratio(
            &|h, m| (unsaid - m, all - h - m),
            ((unsaid - misses) / negatives.powi(2), -(said - hits) / negatives.powi(2)),
            negatives / effective,
        ),
        ratio(
            &|h, m| (2.0 * h, said + (h + m)),
            (2.0 * (either - hits) / either.powi(2), -2.0 * hits / either.powi(2)),
            positives.min(either) / effective,
        ),
        area(areas.roc_auc, &by_auc, scarcest),
        area(areas.average_precision, &by_precision, positives / effective),
        share(&|h, _| h, 1.0, 0.0),
        share(&|h, _| said - h, -1.0, 0.0),
        share(&|_, m| m, 0.0, 1.0),
        share(&|_, m| unsaid - m, 0.0, -1.0),
    ];
    let finish = |outcome: Outcome| outcome.map(|e| e.on_rows_of(curve).on_strange(strange / all));
    METRICS.iter().zip(outcomes).map(|(metric, outcome)| (*metric, finish(outcome))).collect()
}

impl Estimated {
    /// With a warning, if the reference has too few rows of a class.
    fn on_rows_of(self, curve: &Curve) -> Self {
        if self.warning.is_none() { self.on_rows(curve.scarcest()) } else { self }
    }
}

/// The rows of one score, or of one bin of scores: how often they are right.
struct Scored {
    /// Its positives are the rows that were predicted so.
    run: Run,
    /// The score that stands for all.
    score: f64,
    place: Place,
    /// The shares at its ends.
    shares: Reach,
    is_one_value: bool,
}

impl Scored {
    /// `from`: as [`Curve::place`] has it.
    fn of(span: &BinnedRun, curve: &Curve, from: &mut usize) -> Self {
        let (score, is_one_value) = (span.middle(), span.is_one_value());
        let least = if is_one_value { None } else { Some(curve.place(span.run.score, from).share) };
        let place = curve.place(score, from);
        let most = if is_one_value { place.share } else { curve.place(span.largest, from).share };
        let shares = Reach { least: least.unwrap_or(most), most };
        Self { run: span.run, score, place, shares, is_one_value }
    }

    fn expected(&self) -> ExpectedRun {
        let run = &self.run;
        let (weight, squares) = (run.positives + run.negatives, run.positive_squares + run.negative_squares);
        let share = self.place.share;
        ExpectedRun {
            positives: weight * share,
            negatives: weight * (1.0 - share),
            spread: squares * share * (1.0 - share),
            reach: Reach { least: weight * self.shares.least, most: weight * self.shares.most },
            is_one_value: self.is_one_value,
        }
    }
}

/// The blocks that a share is made of, with their parts.
pub(super) fn parts(place: &Place) -> impl Iterator<Item = (usize, f64)> + use<> {
    let first = (place.block, 1.0 - place.onward);
    std::iter::once(first).chain((place.onward > 0.0).then_some((place.block + 1, place.onward)))
}

/// The expected confusion matrix, and how sure it is.
struct Expected {
    /// Weight that was predicted positive, and that was not.
    said: f64,
    unsaid: f64,
    /// The expected positives among either.
    hits: DoubledSum,
    misses: DoubledSum,
    /// How many these are at the least and at the most.
    ends: [[DoubledSum; 2]; 2],
    /// Their variances by the labels' chance; they have no rows in common.
    hits_variance: DoubledSum,
    misses_variance: DoubledSum,
    /// Weight that rests on each block.
    hits_by_block: Vec<DoubledSum>,
    misses_by_block: Vec<DoubledSum>,
    variances: Vec<f64>,
}

impl Expected {
    fn new(curve: &Curve) -> Self {
        let blocks = curve.blocks().len();
        let none = DoubledSum::default();
        Self {
            said: 0.0,
            unsaid: 0.0,
            hits: none,
            misses: none,
            ends: [[none; 2]; 2],
            hits_variance: none,
            misses_variance: none,
            hits_by_block: vec![none; blocks],
            misses_by_block: vec![none; blocks],
            variances: curve.variances(),
        }
    }

    fn add(&mut self, scored: &Scored) {
        let Scored { run, place, shares, .. } = scored;
        let spread = place.share * (1.0 - place.share);
        self.hits.push(run.positives * place.share);
        self.misses.push(run.negatives * place.share);
        for (end, share) in [shares.least, shares.most].into_iter().enumerate() {
            self.ends[0][end].push(run.positives * share);
            self.ends[1][end].push(run.negatives * share);
        }
        self.hits_variance.push(run.positive_squares * spread);
        self.misses_variance.push(run.negative_squares * spread);
        for (block, part) in parts(place) {
            self.hits_by_block[block].push(run.positives * part);
            self.misses_by_block[block].push(run.negatives * part);
        }
    }

    /// Where hits and misses lie for sure.
    fn reach(&self) -> [Reach; 2] {
        self.ends.map(|[least, most]| Reach { least: least.value(), most: most.value() })
    }

    /// The variance of a metric that moves so with hits and misses.
    fn variance(&self, by_hits: f64, by_misses: f64) -> f64 {
        let of_labels =
            by_hits * by_hits * self.hits_variance.value() + by_misses * by_misses * self.misses_variance.value();
        let blocks = self.hits_by_block.iter().zip(&self.misses_by_block).zip(&self.variances);
        let of_reference: f64 = blocks
            .map(|((hits, misses), variance)| (by_hits * hits.value() + by_misses * misses.value()).powi(2) * variance)
            .sum();
        of_labels + of_reference
    }
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{
        estimate::{FlaggedValues, Warning},
        metrics::{Weight, binned::Limit, confusion::Confusion, scores::Scores},
    };

    /// A generator of chance that repeats itself.
    pub(in crate::estimate) struct Chance(pub(in crate::estimate) u64);

    impl Chance {
        pub(in crate::estimate) fn draw(&mut self) -> f64 {
            self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (self.0 >> 11) as f64 / (1_u64 << 53) as f64
        }
    }

    /// A score and how likely it is right, which the score does not say.
    fn row(chance: &mut Chance) -> (f64, bool) {
        let score = chance.draw();
        (score, chance.draw() < 0.9 * score * score)
    }

    fn fitted(rows: &[(f64, bool)]) -> Curve {
        let (mut positives, mut negatives) = (Side::default(), Side::default());
        for (score, positive) in rows {
            if *positive { &mut positives } else { &mut negatives }.push_score(*score, Weight::ONE);
        }
        Curve::fit(&positives.sorted(), &negatives.sorted()).expect("both classes")
    }

    fn estimated(rows: &[(f64, bool)], curve: &Curve) -> Vec<(&'static str, Outcome)> {
        let (mut said, mut unsaid) = (Side::default(), Side::default());
        for (score, _) in rows {
            if *score >= 0.5 { &mut said } else { &mut unsaid }.push_score(*score, Weight::ONE);
        }
        estimate(&said.sorted(), &unsaid.sorted(), curve)
    }

    fn realised(rows: &[(f64, bool)]) -> Vec<f64> {
        let mut confusion = Confusion::default();
        let mut scores = Scores::default();
        let (mut cells, all) = ([0.0; 4], rows.len() as f64);
        for (score, positive) in rows {
            let said = *score >= 0.5;
            let name = |positive: bool| if positive { "1" } else { "0" };
            confusion.push(name(*positive), name(said), crate::metrics::Mass::of_rows(1));
            scores.push(*score, *positive);
            cells[match (positive, said) {
                (true, true) => 0,
                (false, true) => 1,
                (true, false) => 2,
                (false, false) => 3,
            }] += 1.0;
        }
        let [tp, fp, fn_, tn] = cells;
        let areas = scores.value(true);
        vec![
            (tp + tn) / all,
            tp / (tp + fp),
            tp / (tp + fn_),
            tn / (tn + fp),
            2.0 * tp / (2.0 * tp + fp + fn_),
            areas.roc_auc.expect("both classes").value,
            areas.average_precision.expect("positives").value,
            tp / all,
            fp / all,
            fn_ / all,
            tn / all,
        ]
    }

    #[test]
    fn hand_worked() {
        // Two blocks: 1 of 4 below a half, 3 of 4 above. Two rows are predicted positive, two are not.
        let reference: Vec<(f64, bool)> =
            (0..8).map(|i| (if i < 4 { 0.2 } else { 0.8 }, if i < 4 { i == 0 } else { i != 4 })).collect();
        let curve = fitted(&reference);
        let window = [(0.8, false), (0.8, false), (0.2, false), (0.2, false)];
        let value = |at: usize| estimated(&window, &curve)[at].1.expect("defined").value;
        let expected = [0.75, 0.75, 0.75, 0.75, 0.75, 0.75, 0.0, 0.375, 0.125, 0.125, 0.375];
        for at in (0..METRICS.len()).filter(|at| *at != 6) {
            assert!((value(at) - expected[at]).abs() < 1e-15, "{}: {}", METRICS[at], value(at));
        }
        // Precision is 1.5/2 at .8 and 2/4 at .2, with recalls of 1.5/2 and 1.
        assert!((value(6) - (0.75 * 0.75 + 0.25 * 0.5)).abs() < 1e-15);
        // Accuracy: four labels of variance 3/16, and two blocks of 4 rows whose share is taken for (3+1)/(4+2): 1/18 each.
        let accuracy = estimated(&window, &curve)[0].1.expect("defined");
        let variance = 4.0 * (3.0 / 16.0) / 16.0 + 2.0 * 0.25 * (2.0 / 9.0 / 4.0);
        assert!((accuracy.low - Estimated::share(0.75, variance).low).abs() < 1e-15);
        assert_eq!(accuracy.warning, Some(Warning::FewRows));
    }

    #[test]
    fn e3_what_cannot_be_has_a_reason() {
        let curve = fitted(&[(0.2, false), (0.8, true)]);
        assert!(estimated(&[], &curve).iter().all(|(_, outcome)| *outcome == Err(Undefined::NoRows)));
        let low = estimated(&[(0.1, false), (0.2, false)], &curve);
        let reason = |metric: &str| low.iter().find(|(name, _)| *name == metric).and_then(|(_, outcome)| outcome.err());
        assert_eq!(reason("precision"), Some(Undefined::ZeroDenominator));
        assert_eq!(reason("recall"), Some(Undefined::ZeroDenominator));
        assert_eq!(reason("f1"), Some(Undefined::ZeroDenominator));
        assert_eq!(
            (reason("roc_auc"), reason("average_precision")),
            (Some(Undefined::OneClass), Some(Undefined::OneClass))
        );
        assert_eq!((reason("accuracy"), reason("specificity")), (None, None));
    }

    #[test]
    fn rows_beyond_the_reference_are_warned_of() {
        let mut chance = Chance(3);
        let reference: Vec<(f64, bool)> = (0..2_000).map(|_| row(&mut chance)).collect();
        let curve = fitted(&reference);
        let mut window: Vec<(f64, bool)> = (0..1_000).map(|_| row(&mut chance)).collect();
        assert!(estimated(&window, &curve).iter().all(|(_, outcome)| outcome.expect("defined").warning.is_none()));
        window.iter_mut().take(60).for_each(|(score, _)| *score += 1.0);
        let accuracy = estimated(&window, &curve)[0].1.expect("defined");
        assert_eq!(accuracy.warning, Some(Warning::OutOfRange));
    }

    /// Scored rows that were predicted positive or not, whatever their score, each kept with some probability.
    fn flagged(rows: &[(f64, bool, f64)], limit: Option<Limit>) -> [Side; 2] {
        let mut values = FlaggedValues::held_to(limit);
        for (at, (score, said, rate)) in rows.iter().enumerate() {
            values.push(at % 3 == 0, *said, *score, Weight::of_rate(Some(*rate)));
            if at % 7 == 6 {
                values.hold(false);
            }
        }
        values.hold(true);
        [values.by_second(true), values.by_second(false)]
    }

    fn scored_row() -> impl Strategy<Value = (f64, bool, f64)> {
        let score = prop_oneof![
            6 => -0.1..1.1_f64,
            2 => prop::sample::select(vec![0.0, 0.5, 1.0, f64::INFINITY, f64::NEG_INFINITY, 1e300]),
            2 => 0.5..0.501_f64,
        ];
        (score, any::<bool>(), prop_oneof![3 => Just(1.0), 1 => 0.05..1.0_f64])
    }

    proptest! {
        #[test]
        fn the_estimate_of_all_rows_lies_within_the_bound(
            reference in prop::collection::vec((0.0..1.0_f64, any::<bool>()), 2..80),
            rows in prop::collection::vec(scored_row(), 1..200),
            bins in 1_usize..40,
        ) {
            prop_assume!(reference.iter().any(|row| row.1) && reference.iter().any(|row| !row.1));
            let curve = fitted(&reference);
            let [said, unsaid] = flagged(&rows, None);
            let exact = estimate(&said, &unsaid, &curve);
            let [said, unsaid] = flagged(&rows, Some(Limit::of(bins)));
            let held = estimate(&said, &unsaid, &curve);
            for ((metric, exact), (_, held)) in exact.into_iter().zip(held) {
                // A share that is nowhere but at the end of a bin may be none in its middle.
                let (Ok(exact), Ok(held)) = (exact, held) else { continue };
                prop_assert_eq!(exact.bound, None);
                let (off, bound) = ((exact.value - held.value).abs(), held.bound.unwrap_or(0.0));
                prop_assert!(off <= bound + 1e-12, "{metric}: {exact:?} {held:?}");
                prop_assert!(held.low <= exact.value + 1e-12 && exact.value <= held.high + 1e-12, "{metric}: {held:?}");
            }
        }
    }

    #[test]
    fn bounds_are_as_tight_as_bins_are_narrow() {
        let mut chance = Chance(11);
        let curve = fitted(&(0..2_000).map(|_| row(&mut chance)).collect::<Vec<_>>());
        let rows: Vec<(f64, bool, f64)> =
            (0..40_000).map(|_| chance.draw()).map(|score| (score, score >= 0.5, 1.0)).collect();
        let bounds = |bins: usize| {
            let [said, unsaid] = flagged(&rows, Some(Limit::of(bins)));
            let bounds = estimate(&said, &unsaid, &curve).into_iter().map(|(_, held)| held.expect("defined").bound);
            bounds.map(|bound| bound.expect("in bins")).fold(0.0, f64::max)
        };
        let (wide, narrow) = (bounds(1_024), bounds(16_384));
        assert!(wide < 0.05 && narrow < wide / 8.0, "{wide} {narrow}");
        // A bin for each score is no bin.
        let same: Vec<(f64, bool, f64)> =
            rows.iter().map(|(score, said, rate)| ((score * 50.0).floor(), *said, *rate)).collect();
        let [said, unsaid] = flagged(&same, Some(Limit::of(200)));
        assert!(!said.bins().is_empty());
        assert!(estimate(&said, &unsaid, &curve).iter().all(|(_, held)| held.expect("defined").bound.is_none()));
    }

    /// How often the realised value lies in the interval, over references and windows of so many rows.
    fn coverage(reference_rows: usize, window_rows: usize, worlds: u64) -> Vec<f64> {
        let mut covered = vec![0.0; METRICS.len()];
        for world in 0..worlds {
            let mut chance = Chance(1_000 + world * 7_919);
            (0..10).for_each(|_| {
                chance.draw();
            });
            let mut rows = |count: usize| (0..count).map(|_| row(&mut chance)).collect::<Vec<_>>();
            let curve = fitted(&rows(reference_rows));
            let window = rows(window_rows);
            for (at, ((_, outcome), realised)) in
                estimated(&window, &curve).into_iter().zip(realised(&window)).enumerate()
            {
                let Estimated { low, high, .. } = outcome.expect("defined");
                covered[at] += f64::from(u8::from(low <= realised && realised <= high)) / worlds as f64;
            }
        }
        covered
    }

    #[test]
    fn intervals_hold_the_realised_value_where_chance_is_the_labels_and_where_it_is_the_references() {
        // A large reference: what varies are the labels. A small one: what varies is the curve.
        for (reference, window) in [(20_000, 400), (1_000, 4_000)] {
            for (metric, share) in METRICS.iter().zip(coverage(reference, window, 400)) {
                println!("{reference} rows of reference, {window} in the window: {metric} {share:.3}");
                assert!((0.91..=0.99).contains(&share), "{metric} covers {share} with {reference} and {window} rows");
            }
        }
    }
}
