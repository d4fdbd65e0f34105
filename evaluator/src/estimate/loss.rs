//! Expected losses of a regression by what it predicts, from the reference's.

use serde::{Deserialize, Serialize};

use super::{Estimated, Outcome, Reach};
use crate::{
    drift::SampleRef,
    metrics::{
        Undefined,
        exact_sum::DoubledSum,
        interval::ROWS_MIN,
        scores::{Side, spans},
    },
};

/// Every metric that is estimated, in published order.
pub const METRICS: [&str; 3] = ["mean_absolute_error", "mean_squared_error", "root_mean_squared_error"];
/// Bins at most. More see finer how losses depend on the prediction, each with fewer rows.
const BINS_MAX: usize = 20;
/// Labelled rows of the reference for each bin: fewer make a mean of squares that one row decides.
const ROWS_PER_BIN: usize = 50;

/// The reference's losses in bins of equal numbers of predictions.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LossBins {
    /// Where one bin ends and the next begins, ascending: a bin has what lies above its lower edge, up to its upper one.
    pub edges: Vec<f64>,
    /// The smallest and the largest prediction.
    pub range: (f64, f64),
    /// One more than edges.
    pub bins: Vec<LossBin>,
}

/// The losses of one bin.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct LossBin {
    /// Effective rows.
    pub rows: f64,
    /// Of the absolute error.
    pub absolute: Loss,
    /// Of the squared error.
    pub squared: Loss,
}

/// A mean with the variance of what it is the mean of.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Loss {
    /// The mean.
    pub mean: f64,
    /// The variance, over n − 1.
    pub variance: f64,
}

impl Loss {
    /// From the weight of rows, their weighted loss and its weighted square. `rows`: effective ones.
    pub fn of_sums(weight: f64, sum: f64, squares: f64, rows: f64) -> Self {
        let mean = sum / weight;
        let around = (squares / weight - mean * mean).max(0.0);
        Self { mean, variance: if rows > 1.0 { around * rows / (rows - 1.0) } else { 0.0 } }
    }
}

/// The edges of bins with equal numbers of values: each the largest value of a bin.
///
/// # Inputs
/// Ascending, without NaN.
/// # Returns
/// Strictly ascending; fewer where values repeat, none for a constant.
pub fn edges(sorted: SampleRef<'_>) -> Vec<f64> {
    let rows = sorted.rows();
    let bins = (rows / ROWS_PER_BIN as u64).clamp(1, BINS_MAX as u64);
    let mut edges: Vec<f64> = (1..bins).filter_map(|bin| sorted.at_row(bin * rows / bins - 1)).collect();
    edges.dedup();
    edges.retain(|edge| sorted.ends().is_some_and(|(_, last)| *edge < last));
    edges
}

/// The estimates of a regression.
///
/// # Formula
/// A row's loss is expected to be the mean loss of the reference's rows in its bin of predictions; a metric is the mean over the
/// window's rows. Variance: `Σ w² s²/W²` over rows, the losses' own chance, plus `Σ (W_b/W)² s_b²/n_b` over bins, that of the
/// reference's means.
///
/// Rows that are held in a bin across an edge count where its middle is; their losses are between the least and the most of what they may be, and so is the mean.
/// # Source
/// The idea of NannyML's direct loss estimation (DLE), which learns the loss from all features with gradient boosting. Here it is learnt
/// from the prediction alone.
/// # Inputs
/// Sorted predictions.
/// # Returns
/// As many outcomes as [`METRICS`].
pub fn estimate(predictions: &Side, bins: &LossBins) -> Vec<(&'static str, Outcome)> {
    let mass = predictions.mass();
    if mass.rows() == 0 {
        return METRICS.iter().map(|metric| (*metric, Err(Undefined::NoRows))).collect();
    }
    let mut weights = vec![(DoubledSum::default(), DoubledSum::default()); bins.bins.len()];
    let mut strange = 0.0;
    let bin_of = |prediction: f64| bins.edges.partition_point(|edge| *edge < prediction);
    // Rows that may be in more than one bin: the first, that of their middle, the last, and their weight.
    let mut across = Vec::new();
    for span in spans(predictions, &Side::default()) {
        let (run, score) = (span.run, span.middle());
        let (first, bin, last) = (bin_of(run.score), bin_of(score), bin_of(span.largest));
        if first < last {
            across.push((first, bin, last, run.positives));
        }
        weights[bin].0.push(run.positives);
        weights[bin].1.push(run.positive_squares);
        if score < bins.range.0 || score > bins.range.1 {
            strange += run.positives;
        }
    }
    let all = mass.weight();
    let of = |loss: fn(&LossBin) -> Loss| {
        let (mut value, mut variance) = (DoubledSum::default(), DoubledSum::default());
        for (bin, (weight, squares)) in bins.bins.iter().zip(&weights) {
            let (loss, share) = (loss(bin), weight.value() / all);
            value.push(share * loss.mean);
            variance.push(squares.value() / all / all * loss.variance);
            variance.push(share * share * loss.variance / bin.rows);
        }
        let (mut least, mut most) = (DoubledSum::default(), DoubledSum::default());
        for (first, bin, last, weight) in &across {
            let means = bins.bins[*first..=*last].iter().map(|bin| loss(bin).mean);
            let own = loss(&bins.bins[*bin]).mean;
            least.push(weight / all * (own - means.clone().fold(own, f64::min)));
            most.push(weight / all * (means.fold(own, f64::max) - own));
        }
        let scarcest = bins.bins.iter().map(|bin| bin.rows).fold(mass.effective_rows(), f64::min);
        let value = value.value();
        let estimated = Estimated::loss(value, variance.value()).on_rows(scarcest).on_strange(strange / all);
        (estimated, Reach { least: (value - least.value()).max(0.0), most: value + most.value() })
    };
    let (absolute, squared) = (of(|bin| bin.absolute), of(|bin| bin.squared));
    let (of_squared, reach) = squared;
    let root = Estimated {
        value: of_squared.value.sqrt(),
        low: of_squared.low.sqrt(),
        high: of_squared.high.sqrt(),
        ..of_squared
    };
    let root = (root, Reach { least: reach.least.sqrt(), most: reach.most.sqrt() });
    let finish = |(estimated, reach): (Estimated, Reach)| Ok(estimated.within(reach.off(estimated.value), ANY_LOSS));
    METRICS.into_iter().zip([absolute, squared, root].map(finish)).collect()
}

/// Where a loss may be.
const ANY_LOSS: (f64, f64) = (0.0, f64::INFINITY);

impl LossBins {
    /// Bins that can be estimated from; `too_few_rows` where there are under [`ROWS_MIN`] in all.
    pub fn new(edges: Vec<f64>, range: (f64, f64), bins: Vec<LossBin>) -> Result<Self, Undefined> {
        let rows: f64 = bins.iter().map(|bin| bin.rows).sum();
        if rows < ROWS_MIN { Err(Undefined::TooFewRows) } else { Ok(Self { edges, range, bins }) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{super::binary::tests::Chance, *};
    use crate::{
        estimate::{FlaggedValues, Warning},
        metrics::{Weight, binned::Limit},
    };

    fn of(values: &[f64]) -> SampleRef<'_> {
        SampleRef::new(values, &[])
    }

    fn side(values: &[f64]) -> Side {
        let mut side = Side::default();
        values.iter().for_each(|value| side.push_score(*value, Weight::ONE));
        side.sorted()
    }

    fn bin(rows: f64, absolute: f64, squared: f64) -> LossBin {
        let of = |mean: f64| Loss { mean, variance: mean };
        LossBin { rows, absolute: of(absolute), squared: of(squared) }
    }

    #[test]
    fn hand_worked() {
        let bins =
            LossBins { edges: vec![1.0], range: (0.0, 5.0), bins: vec![bin(100.0, 1.0, 2.0), bin(100.0, 3.0, 10.0)] };
        let outcomes = estimate(&side(&[0.5, 1.0, 1.1, 4.0]), &bins);
        let [absolute, squared, root] = [0, 1, 2].map(|at| outcomes[at].1.expect("defined"));
        assert_eq!((absolute.value, squared.value, root.value), (2.0, 6.0, 6.0_f64.sqrt()));
        // Labels: (2·1 + 2·3)/16; reference: (1/2)²·1/100 + (1/2)²·3/100.
        let error = (0.5_f64 + 0.01).sqrt();
        assert!((absolute.high - 2.0 * (1.959963984540054 * error / 2.0).exp()).abs() < 1e-12);
        assert_eq!(absolute.warning, Some(Warning::FewRows));
        assert!((root.high - squared.high.sqrt()).abs() < 1e-15);
        let far = estimate(&side(&[9.0; 40]), &bins)[0].1.expect("defined");
        assert_eq!((far.value, far.warning), (3.0, Some(Warning::OutOfRange)));
        let low = estimate(&side(&[-9.0; 40]), &bins)[0].1.expect("defined");
        assert_eq!((low.value, low.warning), (1.0, Some(Warning::OutOfRange)));
        assert_eq!(estimate(&Side::default(), &bins)[0].1, Err(Undefined::NoRows));
        assert_eq!(LossBins::new(vec![], (0.0, 1.0), vec![bin(9.0, 1.0, 1.0)]), Err(Undefined::TooFewRows));
    }

    proptest! {
        #[test]
        fn the_loss_of_all_rows_lies_within_the_bound(
            rows in prop::collection::vec((-5.0..15.0_f64, prop_oneof![3 => Just(1.0), 1 => 0.05..1.0_f64]), 1..150),
            losses in prop::collection::vec((0.0..3.0_f64, 0.0..9.0_f64), 5),
            bins in 1_usize..30,
        ) {
            let losses = losses.into_iter().map(|(absolute, squared)| bin(60.0, absolute, squared)).collect();
            let losses = LossBins { edges: vec![0.0, 1.5, 4.0, 9.0], range: (-2.0, 12.0), bins: losses };
            let estimated = |limit: Option<Limit>| {
                let mut values = FlaggedValues::held_to(limit);
                rows.iter().for_each(|(value, rate)| values.push(false, false, *value, Weight::of_rate(Some(*rate))));
                values.hold(true);
                estimate(&values.by_second(false), &losses)
            };
            for ((metric, exact), (_, held)) in estimated(None).into_iter().zip(estimated(Some(Limit::of(bins)))) {
                let (exact, held) = (exact.expect("defined"), held.expect("defined"));
                prop_assert_eq!(exact.bound, None);
                let (off, bound) = ((exact.value - held.value).abs(), held.bound.unwrap_or(0.0));
                prop_assert!(off <= bound + 1e-12, "{metric}: {exact:?} {held:?}");
                prop_assert!(held.low <= exact.value + 1e-12 && exact.value <= held.high + 1e-12, "{metric}: {held:?}");
            }
        }
    }

    #[test]
    fn only_rows_across_an_edge_may_be_off() {
        let losses =
            LossBins { edges: vec![1.0], range: (0.0, 5.0), bins: vec![bin(100.0, 1.0, 4.0), bin(100.0, 3.0, 9.0)] };
        let held = |values: &[f64]| {
            let mut rows = FlaggedValues::held_to(Some(Limit::of(1)));
            values.iter().for_each(|value| rows.push(false, false, *value, Weight::ONE));
            rows.hold(true);
            estimate(&rows.by_second(false), &losses)
        };
        // One bin from 1.1 to 1.3, all of it beyond the edge.
        assert!(held(&[1.1, 1.2, 1.3]).iter().all(|(_, outcome)| outcome.expect("defined").bound.is_none()));
        // From 0.6 to 1.2: taken for 0.9, at most they are all beyond it.
        let across: Vec<Estimated> =
            held(&[0.6, 0.9, 1.2]).into_iter().map(|(_, outcome)| outcome.expect("defined")).collect();
        let bounds = across.iter().map(|estimated| (estimated.value, estimated.bound.expect("in a bin")));
        for ((value, bound), (expected, off)) in bounds.zip([(1.0, 2.0), (4.0, 5.0), (2.0, 1.0)]) {
            assert!((value - expected).abs() < 1e-12 && (bound - off).abs() < 1e-12, "{value} {bound}");
        }
    }

    #[test]
    fn edges_are_strict_and_leave_no_bin_empty() {
        let distinct: Vec<f64> = (0..1_000).map(f64::from).collect();
        assert_eq!((edges(of(&distinct)).len(), edges(of(&distinct))[0]), (19, 49.0));
        assert_eq!(edges(of(&[1.0; 500])), [] as [f64; 0]);
        let two: Vec<f64> = (0..500).map(|i| f64::from(u8::from(i >= 100))).collect();
        assert_eq!(edges(of(&two)), [0.0]);
        assert_eq!(edges(of(&distinct[..99])), [] as [f64; 0]);
        assert_eq!(edges(of(&[])), [] as [f64; 0]);
    }

    #[test]
    fn intervals_hold_the_realised_value() {
        // Errors grow with the prediction.
        let draw = |chance: &mut Chance| {
            let prediction = chance.draw() * 10.0;
            let sum: f64 = (0..12).map(|_| chance.draw()).sum::<f64>() - 6.0;
            (prediction, sum * (0.2 + prediction / 5.0))
        };
        let worlds = 300_u64;
        for (reference, window) in [(10_000, 300), (600, 3_000)] {
            let mut covered = [0.0; METRICS.len()];
            for world in 0..worlds {
                let mut chance = Chance(5 + world * 15_485_863);
                (0..10).for_each(|_| {
                    chance.draw();
                });
                let mut seen: Vec<(f64, f64)> = (0..reference).map(|_| draw(&mut chance)).collect();
                seen.sort_by(|a, b| a.0.total_cmp(&b.0));
                let predictions: Vec<f64> = seen.iter().map(|(prediction, _)| *prediction).collect();
                let edges = edges(of(&predictions));
                let mut bins = vec![(0.0, 0.0, 0.0, 0.0); edges.len() + 1];
                for (prediction, error) in &seen {
                    let bin = &mut bins[edges.partition_point(|edge| edge < prediction)];
                    let square = error * error;
                    *bin = (bin.0 + 1.0, bin.1 + error.abs(), bin.2 + square, bin.3 + square * square);
                }
                let bins = bins.into_iter().map(|(rows, absolute, squared, fourth)| LossBin {
                    rows,
                    absolute: Loss::of_sums(rows, absolute, squared, rows),
                    squared: Loss::of_sums(rows, squared, fourth, rows),
                });
                let range = (predictions[0], predictions[reference - 1]);
                let bins = LossBins::new(edges, range, bins.collect()).expect("enough rows");
                let rows: Vec<(f64, f64)> = (0..window).map(|_| draw(&mut chance)).collect();
                let count = f64::from(window);
                let absolute = rows.iter().map(|(_, error)| error.abs()).sum::<f64>() / count;
                let squared = rows.iter().map(|(_, error)| error * error).sum::<f64>() / count;
                let predictions: Vec<f64> = rows.iter().map(|(prediction, _)| *prediction).collect();
                let realised = [absolute, squared, squared.sqrt()];
                for (at, (_, outcome)) in estimate(&side(&predictions), &bins).into_iter().enumerate() {
                    let Estimated { low, high, .. } = outcome.expect("defined");
                    covered[at] += f64::from(u8::from(low <= realised[at] && realised[at] <= high)) / worlds as f64;
                }
            }
            for (metric, share) in METRICS.iter().zip(covered) {
                println!("{reference} rows of reference, {window} in the window: {metric} {share:.3}");
                assert!((0.91..=0.99).contains(&share), "{metric} covers {share} with {reference} and {window} rows");
            }
        }
    }
}
