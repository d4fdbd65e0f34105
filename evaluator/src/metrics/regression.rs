//! Metrics of a predicted number against the true one.

use super::{
    Estimate, ExactSum, Outcome, Report, Undefined,
    binned::Limit,
    binned_pairs::BinnedPairs,
    interval::{Interval, Method, Z_95},
    mass::{Mass, Weight},
    moments::of_moments,
    sorted::SortedValues,
    wire::{Reader, put_f64s, put_u64s},
};

/// The error from which on Huber's loss is linear, in the target's unit. SciPy and scikit-learn ask for it; 1 is the usual one
/// for targets of that scale.
const HUBER_DELTA: f64 = 1.0;
/// Rows from which on a share of explained variance is warned of by its own skewness alone: beside fewer, intervals cover 82 to 88 % where those
/// of the two means of squares are long-tailed and it is not. Larger costs passes over the rows.
const TAILS_SHOW: f64 = 1_000.0;

/// Pairs of truth and prediction, in the order they came: sixteen bytes a row, twenty-four where rows weigh differently.
///
/// They are kept, not summed, because the quantiles need them, and because `r2` from running sums of squares cancels.
#[derive(Debug, Clone, Default)]
pub struct PairedValues {
    truth: Vec<f64>,
    predicted: Vec<f64>,
    /// The weight of each, or nothing if all stand for themselves.
    weights: Vec<Weight>,
    /// In the place of the rows, where memory does not hold them.
    held: Option<Box<BinnedPairs>>,
}

impl PartialEq for PairedValues {
    /// Equal as multisets of pairs.
    fn eq(&self, other: &Self) -> bool {
        let sorted = |pairs: &Self| {
            let mut bits: Vec<(u64, u64, Weight)> =
                pairs.rows().map(|(y, p, weight)| (y.to_bits(), p.to_bits(), weight)).collect();
            bits.sort_unstable();
            bits
        };
        sorted(self) == sorted(other) && self.held == other.held
    }
}

/// A regression metric by name: y is the truth, p the prediction.
///
/// # Source
/// scikit-learn has those that it has under the same names, SciPy `huber`; quantiles are NumPy's `averaged_inverted_cdf`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RegressionMetric {
    /// `mean |p − y|`.
    MeanAbsoluteError,
    /// `mean (p − y)²`.
    MeanSquaredError,
    /// `√mean (p − y)²`.
    RootMeanSquaredError,
    /// `mean |p − y| / max(|y|, ε)`, a share, not percent; ε is f64 epsilon, as in scikit-learn: a target of zero makes it huge.
    MeanAbsolutePercentageError,
    /// `mean (ln(1 + p) − ln(1 + y))²`; `out_of_domain` if some y or p is −1 or less.
    MeanSquaredLogError,
    /// `1 − Σ(p − y)² / Σ(y − ȳ)²`; `constant` if the truth is, `too_few_rows` under two rows.
    R2,
    /// The same of errors less their mean: what is left once a constant is added to the predictions.
    ExplainedVariance,
    /// The median of `|p − y|`, the mean of the middle two for an even number.
    MedianAbsoluteError,
    /// `mean (p − y)`: positive when the model predicts too much.
    MeanError,
    /// The largest `|p − y|`. Without an interval: that of all such rows has no bound.
    MaxError,
    /// `mean max(α (y − p), (α − 1)(y − p))` with α = 0.1: what a prediction of the 10 % quantile is judged by.
    PinballLoss10,
    /// The same with α = 0.9.
    PinballLoss90,
    /// `mean ½e²` of errors to 1, `|e| − ½` beyond.
    HuberLoss,
    /// The 5 % quantile of `p − y`.
    ErrorQuantile05,
    /// The 25 % quantile.
    ErrorQuantile25,
    /// The median error.
    ErrorQuantile50,
    /// The 75 % quantile.
    ErrorQuantile75,
    /// The 95 % quantile.
    ErrorQuantile95,
}

/// What a metric is made of.
enum Kind {
    /// The mean of a loss.
    Mean(fn(f64, f64) -> f64),
    /// A quantile of a function.
    Quantile(fn(f64, f64) -> f64, f64),
    /// Anything else.
    Other,
}

impl RegressionMetric {
    /// All, in published order.
    pub const ALL: [Self; 18] = [
        Self::MeanAbsoluteError,
        Self::MeanSquaredError,
        Self::RootMeanSquaredError,
        Self::MeanAbsolutePercentageError,
        Self::MeanSquaredLogError,
        Self::R2,
        Self::ExplainedVariance,
        Self::MedianAbsoluteError,
        Self::MeanError,
        Self::MaxError,
        Self::PinballLoss10,
        Self::PinballLoss90,
        Self::HuberLoss,
        Self::ErrorQuantile05,
        Self::ErrorQuantile25,
        Self::ErrorQuantile50,
        Self::ErrorQuantile75,
        Self::ErrorQuantile95,
    ];

    /// The published name.
    pub fn name(self) -> &'static str {
        match self {
            Self::MeanAbsoluteError => "mean_absolute_error",
            Self::MeanSquaredError => "mean_squared_error",
            Self::RootMeanSquaredError => "root_mean_squared_error",
            Self::MeanAbsolutePercentageError => "mean_absolute_percentage_error",
            Self::MeanSquaredLogError => "mean_squared_log_error",
            Self::R2 => "r2",
            Self::ExplainedVariance => "explained_variance",
            Self::MedianAbsoluteError => "median_absolute_error",
            Self::MeanError => "mean_error",
            Self::MaxError => "max_error",
            Self::PinballLoss10 => "mean_pinball_loss_q10",
            Self::PinballLoss90 => "mean_pinball_loss_q90",
            Self::HuberLoss => "huber_loss",
            Self::ErrorQuantile05 => "error_q05",
            Self::ErrorQuantile25 => "error_q25",
            Self::ErrorQuantile50 => "error_q50",
            Self::ErrorQuantile75 => "error_q75",
            Self::ErrorQuantile95 => "error_q95",
        }
    }

    /// What a row loses by it, if the metric is a mean of that: of truth and prediction.
    pub fn loss(self) -> Option<fn(f64, f64) -> f64> {
        match self.kind() {
            Kind::Mean(loss) if self != Self::RootMeanSquaredError => Some(loss),
            _ => None,
        }
    }

    /// Which quantile it is, of errors or of their sizes.
    pub(super) fn quantile(self) -> Option<f64> {
        match self.kind() {
            Kind::Quantile(_, quantile) => Some(quantile),
            _ => None,
        }
    }

    fn kind(self) -> Kind {
        match self {
            Self::MeanAbsoluteError => Kind::Mean(|y, p| (p - y).abs()),
            Self::MeanSquaredError | Self::RootMeanSquaredError => Kind::Mean(|y, p| (p - y) * (p - y)),
            Self::MeanAbsolutePercentageError => Kind::Mean(|y, p| (p - y).abs() / y.abs().max(f64::EPSILON)),
            Self::MeanSquaredLogError => Kind::Mean(|y, p| (p.ln_1p() - y.ln_1p()).powi(2)),
            Self::MeanError => Kind::Mean(|y, p| p - y),
            Self::PinballLoss10 => Kind::Mean(|y, p| pinball_loss(y, p, 0.1)),
            Self::PinballLoss90 => Kind::Mean(|y, p| pinball_loss(y, p, 0.9)),
            Self::HuberLoss => Kind::Mean(|y, p| huber(p - y)),
            Self::MedianAbsoluteError => Kind::Quantile(|y, p| (p - y).abs(), 0.5),
            Self::ErrorQuantile05 => Kind::Quantile(|y, p| p - y, 0.05),
            Self::ErrorQuantile25 => Kind::Quantile(|y, p| p - y, 0.25),
            Self::ErrorQuantile50 => Kind::Quantile(|y, p| p - y, 0.5),
            Self::ErrorQuantile75 => Kind::Quantile(|y, p| p - y, 0.75),
            Self::ErrorQuantile95 => Kind::Quantile(|y, p| p - y, 0.95),
            Self::R2 | Self::ExplainedVariance | Self::MaxError => Kind::Other,
        }
    }
}

fn pinball_loss(y: f64, p: f64, alpha: f64) -> f64 {
    (alpha * (y - p)).max((alpha - 1.0) * (y - p))
}

fn huber(error: f64) -> f64 {
    let size = error.abs();
    if size <= HUBER_DELTA { 0.5 * error * error } else { HUBER_DELTA * (size - 0.5 * HUBER_DELTA) }
}

impl PairedValues {
    /// An empty state that keeps sums and bins in the place of rows, as long as [`hold`](Self::hold) is called.
    pub fn held_to(limit: Limit) -> Self {
        Self { held: Some(Box::new(BinnedPairs::held_to(limit))), ..Self::default() }
    }

    /// Puts errors and truths into bins, if there is a limit that asks for it; `is_last`: no row follows.
    pub fn hold(&mut self, is_last: bool) {
        if let Some(held) = &mut self.held {
            held.hold(is_last);
        }
    }

    /// Adds one pair. A NaN on either side is a missing value: the row is left out.
    #[inline]
    pub fn push(&mut self, truth: f64, predicted: f64, weight: Weight) {
        if truth.is_nan() || predicted.is_nan() {
            return;
        }
        if let Some(held) = &mut self.held {
            held.push(truth, predicted, weight);
            return;
        }
        if weight != Weight::ONE && self.weights.is_empty() {
            self.weights.resize(self.truth.len(), Weight::ONE);
            self.weights.push(weight);
        } else if !self.weights.is_empty() {
            self.weights.push(weight);
        }
        self.truth.push(truth);
        self.predicted.push(predicted);
    }

    /// Adds all pairs of another state.
    pub fn merge(&mut self, other: &Self) {
        let before = self.truth.len();
        self.truth.extend_from_slice(&other.truth);
        self.predicted.extend_from_slice(&other.predicted);
        self.extend_weights(before, &other.weights);
        if let (Some(mine), Some(theirs)) = (&mut self.held, &other.held) {
            mine.merge(theirs);
        }
    }

    /// Every metric of the task.
    pub fn report(&self) -> Report {
        let mut report = Report::default();
        if let Some(held) = self.held.as_ref().filter(|held| held.rows() > 0) {
            for (metric, outcome) in held.outcomes() {
                report.add(metric.name(), None, outcome);
            }
            return report;
        }
        if self.truth.is_empty() {
            for metric in RegressionMetric::ALL {
                report.add(metric.name(), None, Err(Undefined::NoRows));
            }
            return report;
        }
        // Two sorts serve all quantiles: of the errors, and of the truth, for the baselines.
        let errors = self.sorted(|y, p| p - y);
        let sizes = self.sorted(|y, p| (p - y).abs());
        let constant = self.constants();
        for metric in RegressionMetric::ALL {
            let outcome = match metric.kind() {
                Kind::Quantile(_, quantile) => {
                    let sorted = if metric == RegressionMetric::MedianAbsoluteError { &sizes } else { &errors };
                    Ok(sorted.quantile_estimate(quantile))
                }
                _ => self.value(metric),
            };
            let baseline = outcome.is_ok().then(|| self.baseline(metric, &constant)).flatten();
            report.add(metric.name(), None, outcome.map(|estimate| Estimate { baseline, ..estimate }));
        }
        report
    }

    /// One metric, without its baseline.
    pub fn value(&self, metric: RegressionMetric) -> Outcome {
        if self.truth.is_empty() {
            return Err(Undefined::NoRows);
        }
        match metric {
            RegressionMetric::MeanSquaredLogError if self.rows().any(|(y, p, _)| y <= -1.0 || p <= -1.0) => {
                return Err(Undefined::OutOfDomain);
            }
            RegressionMetric::R2 => return self.explained(|_| 0.0),
            RegressionMetric::ExplainedVariance => return self.explained(|mean_error| mean_error),
            RegressionMetric::MaxError => {
                return Ok(Estimate::bare(self.rows().map(|(y, p, _)| (p - y).abs()).fold(0.0, f64::max)));
            }
            _ => {}
        }
        Ok(match metric.kind() {
            Kind::Mean(of) => {
                let floor = if metric == RegressionMetric::MeanError { f64::NEG_INFINITY } else { 0.0 };
                let mean = self.mean_of(of, floor);
                if metric == RegressionMetric::RootMeanSquaredError { root(mean) } else { mean }
            }
            Kind::Quantile(of, quantile) => self.sorted(of).quantile_estimate(quantile),
            Kind::Other => return Err(Undefined::NoRows),
        })
    }

    /// Memory held, bytes.
    pub fn size(&self) -> usize {
        (self.truth.capacity() + self.predicted.capacity() + self.weights.capacity()) * size_of::<f64>()
            + self.held.as_ref().map_or(0, |held| size_of::<BinnedPairs>() + held.size())
    }

    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        put_f64s(out, &self.truth);
        put_f64s(out, &self.predicted);
        put_u64s(out, &self.weights.iter().map(|weight| weight.bits()).collect::<Vec<u64>>());
        if let Some(held) = &self.held {
            held.encode(out);
        }
    }

    pub(crate) fn merge_encoded(&mut self, reader: &mut Reader<'_>) -> Option<()> {
        let before = self.truth.len();
        reader.extend_f64s(&mut self.truth)?;
        reader.extend_f64s(&mut self.predicted)?;
        let mut weights = Vec::new();
        reader.extend_u64s(&mut weights)?;
        self.extend_weights(before, &weights.into_iter().map(Weight::from_bits).collect::<Vec<_>>());
        if let Some(held) = &mut self.held {
            held.merge_encoded(reader)?;
        }
        (self.truth.len() == self.predicted.len()).then_some(())
    }

    fn extend_weights(&mut self, before: usize, theirs: &[Weight]) {
        if self.weights.is_empty() && theirs.is_empty() {
            return;
        }
        self.weights.resize(before, Weight::ONE);
        self.weights.extend_from_slice(theirs);
        self.weights.resize(self.truth.len(), Weight::ONE);
    }

    fn rows(&self) -> impl Iterator<Item = (f64, f64, Weight)> + '_ {
        let weights = self.weights.iter().copied().chain(std::iter::repeat(Weight::ONE));
        self.truth.iter().zip(&self.predicted).zip(weights).map(|((y, p), weight)| (*y, *p, weight))
    }

    fn mass(&self) -> Mass {
        if self.weights.is_empty() {
            return Mass::of_rows(self.truth.len() as u64);
        }
        let mut mass = Mass::default();
        self.weights.iter().for_each(|weight| mass.push(*weight));
        mass
    }

    /// `Σ w · of(y, p)`, exactly.
    fn sum_of(&self, of: impl Fn(f64, f64) -> f64) -> f64 {
        if self.weights.is_empty() {
            let pairs = self.truth.iter().zip(&self.predicted);
            return pairs.map(|(y, p)| of(*y, *p)).collect::<ExactSum>().value();
        }
        self.rows().map(|(y, p, weight)| weight.value() * of(y, p)).collect::<ExactSum>().value()
    }

    /// Mean of `of(y, p)` with Hall's interval (two rows or more), not below `floor`.
    fn mean_of(&self, of: impl Fn(f64, f64) -> f64, floor: f64) -> Estimate {
        let mass = self.mass();
        let (weight, rows) = (mass.weight(), mass.effective_rows());
        let mean = self.sum_of(&of) / weight;
        if mass.rows() < 2 || rows <= 1.0 || !mean.is_finite() {
            return Estimate::bare(mean);
        }
        let variance = self.sum_of(|y, p| (of(y, p) - mean).powi(2)) / weight;
        let third = self.sum_of(|y, p| (of(y, p) - mean).powi(3)) / weight;
        let skewness = if variance > 0.0 { third / variance.powf(1.5) } else { 0.0 };
        if !variance.is_finite() || !skewness.is_finite() {
            return Estimate::bare(mean);
        }
        let estimate = of_moments(mean, variance, skewness, rows, floor).with_rows(rows);
        Estimate { interval: estimate.interval.map(|interval| interval.on_skewness(skewness, rows)), ..estimate }
    }

    fn sorted(&self, of: impl Fn(f64, f64) -> f64) -> SortedValues {
        let values = self.truth.iter().zip(&self.predicted).map(|(y, p)| of(*y, *p)).collect();
        SortedValues::of(values, self.weights.clone())
    }

    /// `1 − Σ(y − p − shift)² / Σ(y − ȳ)²`, the shift made from the mean of `y − p`.
    ///
    /// The interval is on the scale of the ratio's logarithm, `ratio · exp(± z · error / ratio)`, its error by the delta method:
    /// each row moves the ratio by `((y − p)² − ratio · (y − ȳ)²) / Σ(y − ȳ)²`.
    fn explained(&self, shift: impl Fn(f64) -> f64) -> Outcome {
        if self.truth.len() < 2 {
            return Err(Undefined::TooFewRows);
        }
        if self.truth.iter().all(|y| *y == self.truth[0]) {
            return Err(Undefined::Constant);
        }
        let mass = self.mass();
        let mean = self.sum_of(|y, _| y) / mass.weight();
        let shift = shift(self.sum_of(|y, p| y - p) / mass.weight());
        let unexplained = |y: f64, p: f64| (y - p - shift) * (y - p - shift);
        let total = self.sum_of(|y, _| (y - mean) * (y - mean));
        // Differences so small that their squares vanish are as good as constant.
        if total == 0.0 {
            return Err(Undefined::Constant);
        }
        let ratio = self.sum_of(unexplained) / total;
        if ratio.is_nan() {
            return Err(Undefined::OutOfDomain);
        }
        let estimate = Estimate::bare(1.0 - ratio);
        let moved = |y: f64, p: f64| unexplained(y, p) - ratio * (y - mean) * (y - mean);
        let squares: ExactSum = self.rows().map(|(y, p, weight)| (weight.value() * moved(y, p)).powi(2)).collect();
        let error = squares.value().sqrt() / total;
        if ratio <= 0.0 || !(error / ratio).is_finite() {
            return Ok(estimate);
        }
        let factor = (Z_95 * error / ratio).exp();
        let interval = Interval::new((1.0 - ratio * factor, 1.0 - ratio / factor), Method::DeltaLog);
        let (rows, weight) = (mass.effective_rows(), mass.weight());
        let spread = self.sum_of(|y, p| moved(y, p).powi(2)) / weight;
        let skewness = self.sum_of(|y, p| moved(y, p).powi(3)) / weight / spread.powf(1.5);
        let interval = interval.on_rows(rows).on_skewness(skewness, rows);
        if rows >= TAILS_SHOW {
            return Ok(estimate.with_interval(interval));
        }
        // Two means of squares make the ratio: what a row moves may look even where neither is near its limit yet.
        let skewness_of = |of: &dyn Fn(f64, f64) -> f64| {
            let mean = self.sum_of(of) / weight;
            let central = |power: i32| self.sum_of(|y, p| (of(y, p) - mean).powi(power)) / weight;
            central(3) / central(2).powf(1.5)
        };
        let (above, below) = (skewness_of(&unexplained), skewness_of(&|y, _| (y - mean) * (y - mean)));
        Ok(estimate.with_interval(interval.on_skewness(above, rows).on_skewness(below, rows)))
    }

    /// The best constant predictions.
    fn constants(&self) -> Constants {
        let truth = self.sorted(|y, _| y);
        let mean = self.sum_of(|y, _| y) / self.mass().weight();
        let log_mean = self.sum_of(|y, _| y.ln_1p()) / self.mass().weight();
        let ends = truth.values().first().zip(truth.values().last());
        Constants {
            mean,
            log_mean: log_mean.exp_m1(),
            median: truth.quantile(0.5),
            tenth: truth.quantile(0.1),
            ninetieth: truth.quantile(0.9),
            middle: ends.map_or(f64::NAN, |(low, high)| f64::midpoint(*low, *high)),
        }
    }

    /// The metric that the best constant prediction would have had, where there is one by a closed rule.
    fn baseline(&self, metric: RegressionMetric, constants: &Constants) -> Option<f64> {
        let mean_loss =
            |of: fn(f64, f64) -> f64, constant: f64| self.sum_of(|y, _| of(y, constant)) / self.mass().weight();
        let value = match (metric, metric.kind()) {
            (RegressionMetric::MeanAbsoluteError, Kind::Mean(of)) => mean_loss(of, constants.median),
            (RegressionMetric::MeanSquaredError, Kind::Mean(of)) => mean_loss(of, constants.mean),
            (RegressionMetric::RootMeanSquaredError, Kind::Mean(of)) => mean_loss(of, constants.mean).sqrt(),
            (RegressionMetric::MeanSquaredLogError, Kind::Mean(of)) => mean_loss(of, constants.log_mean),
            (RegressionMetric::PinballLoss10, Kind::Mean(of)) => mean_loss(of, constants.tenth),
            (RegressionMetric::PinballLoss90, Kind::Mean(of)) => mean_loss(of, constants.ninetieth),
            (RegressionMetric::R2 | RegressionMetric::ExplainedVariance | RegressionMetric::MeanError, _) => 0.0,
            (RegressionMetric::MaxError, _) => {
                self.truth.iter().map(|y| (y - constants.middle).abs()).fold(0.0, f64::max)
            }
            _ => return None,
        };
        value.is_finite().then_some(value)
    }
}

struct Constants {
    mean: f64,
    log_mean: f64,
    median: f64,
    tenth: f64,
    ninetieth: f64,
    middle: f64,
}

/// A mean of squares as its root, the ends of its interval too.
pub(super) fn root(squares: Estimate) -> Estimate {
    let interval = squares.interval.map(|interval| {
        let mut interval = interval.map(|end| end.max(0.0).sqrt());
        interval.method = Method::HallTRoot;
        interval
    });
    Estimate { interval, ..Estimate::bare(squares.value.sqrt()) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn pairs(rows: &[(f64, f64)]) -> PairedValues {
        let mut state = PairedValues::default();
        for (truth, predicted) in rows {
            // Which rows weigh more depends on the row alone.
            let rate = if *truth > 5e5 { 0.3 } else { 1.0 };
            state.push(*truth, *predicted, Weight::of_rate(Some(rate)));
        }
        state
    }

    #[test]
    fn hand_worked() {
        // scikit-learn's documentation examples.
        let state = pairs(&[(3.0, 2.5), (-0.5, 0.0), (2.0, 2.0), (7.0, 8.0)]);
        for (metric, expected) in [
            (RegressionMetric::MeanAbsoluteError, 0.5),
            (RegressionMetric::MeanSquaredError, 0.375),
            (RegressionMetric::RootMeanSquaredError, 0.6123724356957945),
            (RegressionMetric::MeanAbsolutePercentageError, 0.3273809523809524),
            (RegressionMetric::MedianAbsoluteError, 0.5),
            (RegressionMetric::R2, 0.9486081370449679),
            (RegressionMetric::MeanError, 0.25),
            (RegressionMetric::MaxError, 1.0),
            (RegressionMetric::HuberLoss, 0.1875),
            (RegressionMetric::PinballLoss10, 0.35),
            (RegressionMetric::PinballLoss90, 0.15),
            (RegressionMetric::ErrorQuantile50, 0.25),
            (RegressionMetric::ErrorQuantile05, -0.5),
            (RegressionMetric::ErrorQuantile95, 1.0),
        ] {
            let value = state.value(metric).expect("defined").value;
            assert!((value - expected).abs() < 1e-15, "{metric:?}: {value}");
        }
    }

    #[test]
    fn e3_undefined_has_a_reason() {
        let value = |rows: &[(f64, f64)], metric| pairs(rows).value(metric).map(|e| e.value);
        for metric in RegressionMetric::ALL {
            assert_eq!(value(&[], metric), Err(Undefined::NoRows));
            assert_eq!(value(&[(f64::NAN, 1.0)], metric), Err(Undefined::NoRows));
        }
        assert_eq!(value(&[(1.0, 1.0)], RegressionMetric::R2), Err(Undefined::TooFewRows));
        assert_eq!(value(&[(1.0, 1.0), (1.0, 2.0)], RegressionMetric::R2), Err(Undefined::Constant));
        for rows in [[(-1.0, 1.0)], [(1.0, -1.5)]] {
            assert_eq!(value(&rows, RegressionMetric::MeanSquaredLogError), Err(Undefined::OutOfDomain));
        }
        assert_eq!(value(&[(1.0, 1.0), (1.0, 2.0)], RegressionMetric::ExplainedVariance), Err(Undefined::Constant));
        assert_eq!(value(&[(0.0, 1.0)], RegressionMetric::MeanAbsolutePercentageError), Ok(1.0 / f64::EPSILON));
        let overflow = pairs(&[(-1e300, 1e300), (0.0, 0.0)]).report();
        let squared = overflow.get("mean_squared_error").expect("a row");
        assert_eq!((squared.value, squared.reason), (None, Some(Undefined::OutOfDomain)), "a number that is none");
    }

    #[test]
    fn a_row_of_weight_two_is_two_rows() {
        let rows = [(1.0, 2.0, 1), (3.0, 2.5, 3), (2.0, 2.0, 2), (5.0, 4.0, 2), (0.5, 1.5, 4)];
        let (mut weighted, mut repeated) = (PairedValues::default(), PairedValues::default());
        for (y, p, times) in rows {
            weighted.push(y, p, Weight::of_rate(Some(1.0 / f64::from(times))));
            (0..times).for_each(|_| repeated.push(y, p, Weight::ONE));
        }
        let (weighted, repeated) = (weighted.report(), repeated.report());
        for (one, other) in weighted.metrics.iter().zip(&repeated.metrics) {
            let near = |a: Option<f64>, b: Option<f64>| match a.zip(b) {
                Some((a, b)) => (a - b).abs() < 1e-9,
                None => a == b,
            };
            assert!(near(one.value, other.value) && near(one.baseline, other.baseline), "{one:?} {other:?}");
        }
    }

    #[test]
    fn the_report_says_what_each_metric_says() {
        let state = pairs(&[(3.0, 2.5), (-0.5, 0.0), (2.0, 2.0), (7.0, 8.0), (9e5, 8e5)]);
        let report = state.report();
        for metric in RegressionMetric::ALL {
            let row = report.get(metric.name()).expect("every metric");
            let estimate = state.value(metric).expect("defined");
            assert_eq!((row.value, row.ci_low), (Some(estimate.value), estimate.interval.map(|i| i.low)), "{metric:?}");
        }
        // The best constant for the squares is the mean: R² of it is 0.
        let constant = pairs(&[(1.0, 2.0), (3.0, 2.0)]).report();
        let mse = constant.get("mean_squared_error").expect("every metric");
        assert_eq!((mse.value, mse.baseline), (Some(1.0), Some(1.0)));
    }

    proptest! {
        #[test]
        fn e1_pairs_merge(
            rows in prop::collection::vec((-1e6..1e6_f64, -1e6..1e6_f64), 0..60), cut in 0_usize..60,
        ) {
            let cut = cut.min(rows.len());
            let (mut left, right) = (pairs(&rows[..cut]), pairs(&rows[cut..]));
            let mut swapped = right.clone();
            let mut bytes = Vec::new();
            left.encode(&mut bytes);
            swapped.merge_encoded(&mut Reader::new(&bytes)).expect("whole state");
            left.merge(&right);
            prop_assert_eq!(&left, &swapped);
            prop_assert_eq!(&left, &pairs(&rows));
            prop_assert_eq!(left.report(), swapped.report());
        }
    }
}
