//! A regression's metrics where its rows are not kept: sums that lose nothing, and bins of errors and of truths for the quantiles.
//!
//! Means are those of all rows. Central moments are taken around pivots near the means, so that no digit is lost to the size of a number.

use super::{
    Estimate, ExactSum, Outcome, Undefined,
    binned::{Bin, Limit, hold_to},
    interval::{Interval, Method, Z_95},
    mass::{Mass, Weight},
    moments::{Moments, mean_of_sums},
    regression::RegressionMetric,
    scores::Side,
    sorted::SortedBins,
    wire::{Reader, put_u64},
};

/// The largest power of both numbers together: a third power of a difference of squares.
const DEGREE: usize = 6;
/// Powers of two numbers up to that degree.
const TERMS: usize = (DEGREE + 1) * (DEGREE + 2) / 2;
/// Those up to the fourth, of which the squared weights are summed too.
const TERMS_OF_SQUARES: usize = 15;
/// Means of a loss: the metrics that have one, in published order.
const LOSSES: usize = 8;

/// Pairs of truth and prediction, summed.
///
/// # Formula
/// With a = y − y₀ and b = (p − y) − e₀: `Σ w aⁱ bʲ` to the sixth degree and `Σ w² aⁱ bʲ` to the fourth, of which R² and its error are
/// polynomials.
#[derive(Debug, Clone, PartialEq)]
pub struct BinnedPairs {
    limit: Limit,
    rows: Mass,
    errors: Side,
    truth: Side,
    losses: Vec<Moments>,
    log_truth: Moments,
    powers: Vec<ExactSum>,
    squared: Vec<ExactSum>,
    /// Rows whose truth or prediction has no logarithm of one more.
    out_of_domain: u64,
    largest: f64,
}

/// A polynomial of a and b: the factor of `aⁱ bʲ` at `[i][j]`.
type Polynomial = [[f64; DEGREE + 1]; DEGREE + 1];

/// The place of `aⁱ bʲ` among the powers, by their degree.
fn place(i: usize, j: usize) -> usize {
    let degree = i + j;
    degree * (degree + 1) / 2 + j
}

fn of(terms: &[((usize, usize), f64)]) -> Polynomial {
    let mut polynomial = Polynomial::default();
    terms.iter().for_each(|((i, j), factor)| polynomial[*i][*j] = *factor);
    polynomial
}

fn times(left: &Polynomial, right: &Polynomial) -> Polynomial {
    let mut product = Polynomial::default();
    for (i, j) in (0..=DEGREE).flat_map(|i| (0..=DEGREE - i).map(move |j| (i, j))) {
        if left[i][j] == 0.0 {
            continue;
        }
        for (k, l) in (0..=DEGREE - i - j).flat_map(|k| (0..=DEGREE - i - j - k).map(move |l| (k, l))) {
            product[i + k][j + l] += left[i][j] * right[k][l];
        }
    }
    product
}

/// The sum of a polynomial over rows. Terms are few and of one order: no row's place shows.
fn sum(polynomial: &Polynomial, powers: &[ExactSum]) -> f64 {
    let terms = (0..=DEGREE).flat_map(|i| (0..=DEGREE - i).map(move |j| (i, j)));
    let used = terms.filter(|(i, j)| polynomial[*i][*j] != 0.0);
    used.map(|(i, j)| polynomial[i][j] * powers[place(i, j)].value()).collect::<ExactSum>().value()
}

impl BinnedPairs {
    /// An empty state; the limit's two pivots lie near the means of truth and error.
    pub fn held_to(limit: Limit) -> Self {
        Self {
            limit,
            rows: Mass::default(),
            errors: Side::default(),
            truth: Side::default(),
            losses: vec![Moments::default(); LOSSES],
            log_truth: Moments::default(),
            powers: vec![ExactSum::default(); TERMS],
            squared: vec![ExactSum::default(); TERMS_OF_SQUARES],
            out_of_domain: 0,
            largest: 0.0,
        }
    }

    /// Rows so far.
    pub fn rows(&self) -> u64 {
        self.rows.rows()
    }

    fn pivots(&self) -> (f64, f64) {
        let at = |at: usize| self.limit.pivots.get(at).map_or(0.0, |bits| f64::from_bits(*bits));
        (at(0), at(1))
    }

    /// Adds a row without NaN.
    pub fn push(&mut self, truth: f64, predicted: f64, weight: Weight) {
        self.rows.push(weight);
        let error = predicted - truth;
        self.truth.push_score(truth, weight);
        self.errors.push_score(error, weight);
        self.largest = self.largest.max(error.abs());
        let has_no_log = truth <= -1.0 || predicted <= -1.0;
        self.out_of_domain += u64::from(has_no_log);
        let losses = RegressionMetric::ALL.into_iter().filter_map(|metric| Some((metric, metric.loss()?)));
        for ((metric, loss), into) in losses.zip(&mut self.losses) {
            if metric != RegressionMetric::MeanSquaredLogError || !has_no_log {
                into.push(loss(truth, predicted), weight);
            }
        }
        let (of_truth, of_error) = self.pivots();
        if truth > -1.0 {
            let pivot = if of_truth > -1.0 { of_truth.ln_1p() } else { 0.0 };
            self.log_truth.push(truth.ln_1p() - pivot, weight);
        }
        let (a, b, w) = (truth - of_truth, error - of_error, weight.value());
        let mut at = 0;
        for degree in 0..=DEGREE {
            for j in 0..=degree {
                let power = a.powi((degree - j) as i32) * b.powi(j as i32);
                self.powers[at].push(w * power);
                if at < TERMS_OF_SQUARES {
                    self.squared[at].push(w * w * power);
                }
                at += 1;
            }
        }
    }

    /// Puts errors and truths into bins, if they are too many; `is_last`: no row follows.
    pub fn hold(&mut self, is_last: bool) {
        hold_to(&self.limit, &mut [&mut self.errors], is_last);
        hold_to(&self.limit, &mut [&mut self.truth], is_last);
    }

    /// Adds all rows of another state with the same limit.
    pub fn merge(&mut self, other: &Self) {
        self.rows.merge(&other.rows);
        self.errors.merge(&other.errors);
        self.truth.merge(&other.truth);
        self.log_truth.merge(&other.log_truth);
        self.losses.iter_mut().zip(&other.losses).for_each(|(mine, theirs)| mine.merge(theirs));
        self.powers.iter_mut().zip(&other.powers).for_each(|(mine, theirs)| mine.merge(theirs));
        self.squared.iter_mut().zip(&other.squared).for_each(|(mine, theirs)| mine.merge(theirs));
        self.out_of_domain += other.out_of_domain;
        self.largest = self.largest.max(other.largest);
    }

    /// Memory held beyond the struct, bytes.
    pub fn size(&self) -> usize {
        let sums = (LOSSES + 1) * size_of::<Moments>() + (TERMS + TERMS_OF_SQUARES) * size_of::<ExactSum>();
        self.errors.size() + self.truth.size() + sums
    }

    /// Metrics with their baselines, in published order.
    ///
    /// # Inputs
    /// One row or more, and no row that is not held.
    pub fn outcomes(&self) -> Vec<(RegressionMetric, Outcome)> {
        use RegressionMetric::{MeanAbsoluteError, PinballLoss10, PinballLoss90};
        let errors = self.errors.binned();
        let sizes = errors.sizes();
        let (errors, sizes) = (SortedBins::of(errors.list()), SortedBins::of(sizes.list()));
        let truth = self.truth.binned().into_list();
        let reaches = truth.iter().map(|bin| bin.mass.weight() * bin.reach());
        let off_truth = reaches.collect::<ExactSum>().value() / self.rows.weight();
        let mut losses = self.losses.iter();
        let mut outcomes = Vec::new();
        for metric in RegressionMetric::ALL {
            let of_loss = metric.loss().and_then(|_| losses.next());
            let outcome = match (metric, metric.quantile()) {
                // Differences of infinities are no numbers.
                (_, Some(_)) if errors.ends().is_none() => Err(Undefined::OutOfDomain),
                (RegressionMetric::MedianAbsoluteError, Some(quantile)) => Ok(sizes.quantile_estimate(quantile)),
                (_, Some(quantile)) => Ok(errors.quantile_estimate(quantile)),
                (RegressionMetric::MeanSquaredLogError, _) if self.out_of_domain > 0 => Err(Undefined::OutOfDomain),
                (RegressionMetric::MeanError, _) => Ok(self.mean_error()),
                (RegressionMetric::RootMeanSquaredError, _) => {
                    Ok(super::regression::root(self.loss_of(RegressionMetric::MeanSquaredError).mean_above(0.0)))
                }
                (RegressionMetric::R2, _) => self.explained(self.pivots().1),
                (RegressionMetric::ExplainedVariance, _) => self.explained(-self.mean_of(0, 1)),
                (RegressionMetric::MaxError, _) => Ok(Estimate::bare(self.largest)),
                _ => of_loss.map_or(Err(Undefined::NoRows), |loss| Ok(loss.mean_above(0.0))),
            };
            let baseline = outcome.is_ok().then(|| self.baseline(metric, &truth)).flatten();
            let of_quantile = [PinballLoss10, PinballLoss90, MeanAbsoluteError].contains(&metric);
            let baseline_bound = (of_quantile && off_truth > 0.0).then_some(off_truth);
            outcomes.push((metric, outcome.map(|estimate| Estimate { baseline, baseline_bound, ..estimate })));
        }
        outcomes
    }

    fn loss_of(&self, metric: RegressionMetric) -> &Moments {
        let before = RegressionMetric::ALL.into_iter().take_while(|m| *m != metric).filter(|m| m.loss().is_some());
        &self.losses[before.count()]
    }

    /// The mean of `aⁱ bʲ`.
    fn mean_of(&self, i: usize, j: usize) -> f64 {
        self.powers[place(i, j)].value() / self.rows.weight()
    }

    fn mean_error(&self) -> Estimate {
        let sums = [1, 2, 3].map(|power| self.powers[place(0, power)].value());
        mean_of_sums(&self.rows, sums, self.pivots().1, f64::NEG_INFINITY)
    }

    /// As `PairedValues::explained`: of errors `b + shift`.
    fn explained(&self, shift: f64) -> Outcome {
        if self.rows.rows() < 2 {
            return Err(Undefined::TooFewRows);
        }
        let mean = self.mean_of(1, 0);
        let total_of = of(&[((2, 0), 1.0), ((1, 0), -2.0 * mean), ((0, 0), mean * mean)]);
        let total = sum(&total_of, &self.powers);
        let truth = self.truth.binned();
        let ends = truth.list().first().zip(truth.list().last());
        if ends.is_none_or(|(first, last)| first.low == last.high) || total == 0.0 {
            return Err(Undefined::Constant);
        }
        let unexplained = of(&[((0, 2), 1.0), ((0, 1), 2.0 * shift), ((0, 0), shift * shift)]);
        let left = sum(&unexplained, &self.powers);
        // Below nothing it is by rounding alone.
        let ratio = if left < 0.0 { 0.0 } else { left } / total;
        if ratio.is_nan() {
            return Err(Undefined::OutOfDomain);
        }
        let estimate = Estimate::bare(1.0 - ratio);
        let mut moved = unexplained;
        for (into, from) in moved.as_flattened_mut().iter_mut().zip(total_of.as_flattened()) {
            *into -= ratio * from;
        }
        let twice = times(&moved, &moved);
        let error = sum(&twice, &self.squared).max(0.0).sqrt() / total;
        if ratio <= 0.0 || !(error / ratio).is_finite() {
            return Ok(estimate);
        }
        let factor = (Z_95 * error / ratio).exp();
        let interval = Interval::new((1.0 - ratio * factor, 1.0 - ratio / factor), Method::DeltaLog);
        let (rows, weight) = (self.rows.effective_rows(), self.rows.weight());
        let spread = sum(&twice, &self.powers) / weight;
        let skewness = sum(&times(&twice, &moved), &self.powers) / weight / spread.powf(1.5);
        Ok(estimate.with_interval(interval.on_rows(rows).on_skewness(skewness, rows)))
    }

    /// As `PairedValues::baseline`; what rests on a quantile of the truth is taken from its bins.
    ///
    /// # Formula
    /// The least mean loss of any constant. A loss changes by no more than the truth does, so the mean loss of each constant, and so the least of them, is off by no more than truths
    /// lie from the middles of their bins on the mean.
    fn baseline(&self, metric: RegressionMetric, truth: &[Bin]) -> Option<f64> {
        let weight = self.rows.weight();
        let sorted = SortedBins::of(truth);
        let around = |constant: f64, of: &dyn Fn(f64) -> f64| {
            let losses = truth.iter().map(|bin| bin.mass.weight() * of(bin.middle() - constant));
            losses.collect::<ExactSum>().value() / weight
        };
        let variance = self.mean_of(2, 0) - self.mean_of(1, 0).powi(2);
        let pinball = |alpha: f64| move |above: f64| (alpha * above).max((alpha - 1.0) * above);
        let value = match metric {
            RegressionMetric::MeanAbsoluteError => around(sorted.quantile(0.5).value, &f64::abs),
            RegressionMetric::MeanSquaredError => variance,
            RegressionMetric::RootMeanSquaredError => variance.max(0.0).sqrt(),
            RegressionMetric::MeanSquaredLogError => self.log_truth.variance(),
            RegressionMetric::PinballLoss10 => around(sorted.quantile(0.1).value, &pinball(0.1)),
            RegressionMetric::PinballLoss90 => around(sorted.quantile(0.9).value, &pinball(0.9)),
            RegressionMetric::R2 | RegressionMetric::ExplainedVariance | RegressionMetric::MeanError => 0.0,
            RegressionMetric::MaxError => sorted.ends().map(|(low, high)| high - f64::midpoint(low, high))?,
            _ => return None,
        };
        value.is_finite().then_some(value)
    }

    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        self.rows.encode(out);
        self.errors.encode(out);
        self.truth.encode(out);
        self.losses.iter().chain([&self.log_truth]).for_each(|moments| moments.encode(out));
        self.powers.iter().chain(&self.squared).for_each(|sum| sum.encode(out));
        put_u64(out, self.out_of_domain);
        put_u64(out, self.largest.to_bits());
    }

    pub(crate) fn merge_encoded(&mut self, reader: &mut Reader<'_>) -> Option<()> {
        let mut other = Self::held_to(self.limit.clone());
        other.rows = Mass::decode(reader)?;
        other.errors.merge_encoded(reader)?;
        other.truth.merge_encoded(reader)?;
        for moments in &mut other.losses {
            *moments = Moments::decode(reader)?;
        }
        other.log_truth = Moments::decode(reader)?;
        for sum in other.powers.iter_mut().chain(&mut other.squared) {
            *sum = ExactSum::decode(reader)?;
        }
        other.out_of_domain = reader.u64()?;
        other.largest = f64::from_bits(reader.u64()?);
        self.merge(&other);
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::metrics::{Report, regression::PairedValues};

    type Row = (f64, f64, f64);

    fn state(rows: &[Row], limit: Option<&Limit>) -> PairedValues {
        let mut state = limit.map_or_else(PairedValues::default, |limit| PairedValues::held_to(limit.clone()));
        for (at, (truth, predicted, rate)) in rows.iter().enumerate() {
            state.push(*truth, *predicted, Weight::of_rate(Some(*rate)));
            if at % 5 == 4 {
                state.hold(false);
            }
        }
        state
    }

    fn report(mut state: PairedValues) -> Report {
        state.hold(true);
        state.report()
    }

    fn limit(bins: usize, rows: &[Row]) -> Limit {
        let mean = |of: fn(&Row) -> f64| rows.iter().map(of).sum::<f64>() / rows.len() as f64;
        let pivots = vec![mean(|row| row.0).to_bits(), mean(|row| row.1 - row.0).to_bits()];
        Limit { pivots, ..Limit::of(bins) }
    }

    fn row() -> impl Strategy<Value = Row> {
        let number =
            || prop_oneof![4 => 0.0..100.0_f64, 1 => prop::sample::select(vec![0.0, 7.0, 50.0]), 1 => -0.9..0.0_f64];
        (number(), number(), prop_oneof![3 => Just(1.0), 1 => 0.1..1.0_f64])
    }

    fn is_close(a: f64, b: f64, bound: f64, scale: f64) -> bool {
        (a - b).abs() <= bound + 1e-9 * (scale + a.abs())
    }

    #[test]
    fn large_numbers_lose_no_digit_to_their_size() {
        let rows: Vec<Row> = (0..1_000).map(|i| (1e9 + f64::from(i % 37), 1e9 + f64::from(i % 41), 1.0)).collect();
        let (exact, held) = (report(state(&rows, None)), report(state(&rows, Some(&limit(128, &rows)))));
        for (one, other) in exact.metrics.iter().zip(&held.metrics) {
            assert_eq!(other.error_bound, None, "under 128 different errors: {}", other.metric);
            for (a, b) in [(one.value, other.value), (one.ci_low, other.ci_low), (one.baseline, other.baseline)] {
                let is_same = match (a, b) {
                    (Some(a), Some(b)) => is_close(a, b, 0.0, 1e-6),
                    (a, b) => a == b,
                };
                // The mean of an absolute error's baseline rests on bins of the truth, which are of one value each here.
                assert!(is_same, "{one:?} {other:?}");
            }
        }
    }

    #[test]
    fn a_baseline_of_a_quantile_is_off_by_what_truths_are_off_their_bins() {
        // One bin: all truths are taken for 0.505, each 0.005 off. Their mean distance from their median is that.
        let rows: Vec<Row> = (0..8).map(|i| (if i % 2 == 0 { 0.5 } else { 0.51 }, 0.7 + f64::from(i), 1.0)).collect();
        let held = report(state(&rows, Some(&limit(1, &rows))));
        for metric in ["mean_absolute_error", "mean_pinball_loss_q10", "mean_pinball_loss_q90"] {
            let row = held.get(metric).expect("a row");
            let bound = row.baseline_bound.expect("in a bin");
            assert!(row.baseline == Some(0.0) && (bound - 0.005).abs() < 1e-15 && row.error_bound.is_none(), "{row:?}");
        }
        let bounded = held.metrics.iter().filter(|row| row.baseline_bound.is_some()).count();
        assert_eq!(bounded, 3, "others are exact");
    }

    proptest! {
        #[test]
        fn the_exact_value_lies_within_the_bound(rows in prop::collection::vec(row(), 2..200), bins in 2_usize..30) {
            let (exact, held) = (report(state(&rows, None)), report(state(&rows, Some(&limit(bins, &rows)))));
            for (one, other) in exact.metrics.iter().zip(&held.metrics) {
                prop_assert_eq!(one.reason, other.reason, "{}", &one.metric);
                let (Some(value), Some(found)) = (one.value, other.value) else { continue };
                let bound = other.error_bound.unwrap_or(0.0);
                prop_assert!(is_close(value, found, bound, 1.0), "{} {value} {found} {bound}", &one.metric);
                prop_assert_eq!((one.baseline_bound, one.baseline.is_some()), (None, other.baseline.is_some()));
                if let (Some(baseline), Some(found)) = (one.baseline, other.baseline) {
                    let bound = other.baseline_bound.unwrap_or(0.0);
                    prop_assert!(is_close(baseline, found, bound, 1.0), "{} {baseline} {found} {bound}", &one.metric);
                }
                if let (Some(low), Some(high)) = (other.ci_low, other.ci_high) {
                    prop_assert!(low <= value + 1e-6 * (1.0 + value.abs()), "{:?} {:?}", one, other);
                    prop_assert!(high >= value - 1e-6 * (1.0 + value.abs()), "{:?} {:?}", one, other);
                }
            }
        }

        #[test]
        fn e1_binned_pairs_merge(
            rows in prop::collection::vec(row(), 2..120), bins in 2_usize..30, cut in 0_usize..120, turn in 0_usize..120,
        ) {
            let limit = limit(bins, &rows);
            let whole = state(&rows, Some(&limit));
            let mut turned = rows.clone();
            turned.rotate_left(turn % rows.len());
            let cut = cut.min(rows.len());
            let (left, right) = (state(&turned[..cut], Some(&limit)), state(&turned[cut..], Some(&limit)));
            let mut merged = PairedValues::held_to(limit.clone());
            for part in [&right, &left] {
                let mut bytes = Vec::new();
                part.encode(&mut bytes);
                merged.merge_encoded(&mut Reader::new(&bytes)).expect("whole state");
                merged.hold(false);
            }
            prop_assert_eq!(report(whole), report(merged));
        }
    }
}
