//! Metrics of a predicted number against the true one.

use super::{
    Estimate, ExactSum, Outcome, Report, Undefined, interval,
    wire::{Reader, put_f64s},
};

/// Pairs of truth and prediction, in the order they came: sixteen bytes a row.
///
/// They are kept, not summed, because the median needs them, and because `r2` from running sums of squares cancels.
#[derive(Debug, Clone, Default)]
pub struct PairedValues {
    truth: Vec<f64>,
    predicted: Vec<f64>,
}

impl PartialEq for PairedValues {
    /// Equal as multisets of pairs.
    fn eq(&self, other: &Self) -> bool {
        let sorted = |pairs: &Self| {
            let mut bits: Vec<(u64, u64)> =
                pairs.truth.iter().zip(&pairs.predicted).map(|(y, p)| (y.to_bits(), p.to_bits())).collect();
            bits.sort_unstable();
            bits
        };
        sorted(self) == sorted(other)
    }
}

/// A regression metric by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RegressionMetric {
    /// `mean |p − y|`, with a normal interval.
    MeanAbsoluteError,
    /// `mean (p − y)²`, with a normal interval.
    MeanSquaredError,
    /// `√mean (p − y)²`.
    RootMeanSquaredError,
    /// `mean |p − y| / max(|y|, ε)`, a share, not percent; ε is f64 epsilon, as in scikit-learn.
    MeanAbsolutePercentageError,
    /// `1 − Σ(p − y)² / Σ(y − ȳ)²`; `constant` if the truth is, `too_few_rows` under two rows.
    R2,
    /// The median of `|p − y|`, the mean of the middle two for an even number.
    MedianAbsoluteError,
    /// `mean (p − y)`: positive when the model predicts too much. With a normal interval.
    MeanError,
}

impl RegressionMetric {
    /// All, in published order.
    pub const ALL: [Self; 7] = [
        Self::MeanAbsoluteError,
        Self::MeanSquaredError,
        Self::RootMeanSquaredError,
        Self::MeanAbsolutePercentageError,
        Self::R2,
        Self::MedianAbsoluteError,
        Self::MeanError,
    ];

    /// The published name.
    pub fn name(self) -> &'static str {
        match self {
            Self::MeanAbsoluteError => "mean_absolute_error",
            Self::MeanSquaredError => "mean_squared_error",
            Self::RootMeanSquaredError => "root_mean_squared_error",
            Self::MeanAbsolutePercentageError => "mean_absolute_percentage_error",
            Self::R2 => "r2",
            Self::MedianAbsoluteError => "median_absolute_error",
            Self::MeanError => "mean_error",
        }
    }
}

impl PairedValues {
    /// Adds one pair. A NaN on either side is a missing value: the row is left out.
    #[inline]
    pub fn push(&mut self, truth: f64, predicted: f64) {
        if !truth.is_nan() && !predicted.is_nan() {
            self.truth.push(truth);
            self.predicted.push(predicted);
        }
    }

    /// Adds all pairs of another state.
    pub fn merge(&mut self, other: &Self) {
        self.truth.extend_from_slice(&other.truth);
        self.predicted.extend_from_slice(&other.predicted);
    }

    /// Every metric of the task.
    pub fn report(&self) -> Report {
        let mut report = Report::default();
        for metric in RegressionMetric::ALL {
            report.add(metric.name(), None, self.value(metric));
        }
        report
    }

    /// One metric.
    pub fn value(&self, metric: RegressionMetric) -> Outcome {
        if self.truth.is_empty() {
            return Err(Undefined::NoRows);
        }
        match metric {
            RegressionMetric::MeanAbsoluteError => Ok(self.mean_of(|y, p| (p - y).abs(), 0.0)),
            RegressionMetric::MeanSquaredError => Ok(self.mean_of(|y, p| (p - y) * (p - y), 0.0)),
            RegressionMetric::MeanError => Ok(self.mean_of(|y, p| p - y, f64::NEG_INFINITY)),
            RegressionMetric::RootMeanSquaredError => {
                Ok(Estimate::bare(self.mean_of(|y, p| (p - y) * (p - y), 0.0).value.sqrt()))
            }
            RegressionMetric::MeanAbsolutePercentageError => {
                Ok(Estimate::bare(self.mean_of(|y, p| (p - y).abs() / y.abs().max(f64::EPSILON), 0.0).value))
            }
            RegressionMetric::MedianAbsoluteError => Ok(Estimate::bare(self.median_absolute_error())),
            RegressionMetric::R2 => self.r2(),
        }
    }

    /// Memory held, bytes.
    pub fn size(&self) -> usize {
        (self.truth.capacity() + self.predicted.capacity()) * size_of::<f64>()
    }

    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        put_f64s(out, &self.truth);
        put_f64s(out, &self.predicted);
    }

    pub(crate) fn merge_encoded(&mut self, reader: &mut Reader<'_>) -> Option<()> {
        reader.extend_f64s(&mut self.truth)?;
        reader.extend_f64s(&mut self.predicted)?;
        (self.truth.len() == self.predicted.len()).then_some(())
    }

    fn pairs(&self) -> impl Iterator<Item = (f64, f64)> + '_ {
        self.truth.iter().copied().zip(self.predicted.iter().copied())
    }

    /// Mean of `of(y, p)` with the normal interval of a mean (two rows or more), not below `floor`.
    fn mean_of(&self, of: impl Fn(f64, f64) -> f64, floor: f64) -> Estimate {
        let rows = self.truth.len() as f64;
        let mean = self.pairs().map(|(y, p)| of(y, p)).collect::<ExactSum>().value() / rows;
        if self.truth.len() < 2 || !mean.is_finite() {
            return Estimate::bare(mean);
        }
        let squares: ExactSum = self.pairs().map(|(y, p)| (of(y, p) - mean).powi(2)).collect();
        interval::normal(mean, (squares.value() / (rows - 1.0) / rows).sqrt(), floor, f64::INFINITY)
    }

    fn median_absolute_error(&self) -> f64 {
        let mut errors: Vec<f64> = self.pairs().map(|(y, p)| (p - y).abs()).collect();
        let middle = errors.len() / 2;
        let even = errors.len().is_multiple_of(2);
        let (below, median, _) = errors.select_nth_unstable_by(middle, f64::total_cmp);
        let upper = *median;
        if !even {
            return upper;
        }
        let lower = below.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        f64::midpoint(lower, upper)
    }

    fn r2(&self) -> Outcome {
        if self.truth.len() < 2 {
            return Err(Undefined::TooFewRows);
        }
        if self.truth.iter().all(|y| *y == self.truth[0]) {
            return Err(Undefined::Constant);
        }
        let mean = self.truth.iter().copied().collect::<ExactSum>().value() / self.truth.len() as f64;
        let unexplained = self.pairs().map(|(y, p)| (y - p) * (y - p)).collect::<ExactSum>().value();
        let total = self.truth.iter().map(|y| (y - mean) * (y - mean)).collect::<ExactSum>().value();
        // Differences so small that their squares vanish are as good as constant.
        if total == 0.0 {
            return Err(Undefined::Constant);
        }
        Ok(Estimate::bare(1.0 - unexplained / total))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn pairs(rows: &[(f64, f64)]) -> PairedValues {
        let mut state = PairedValues::default();
        for (truth, predicted) in rows {
            state.push(*truth, *predicted);
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
        ] {
            assert_eq!(state.value(metric).map(|e| e.value), Ok(expected), "{metric:?}");
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
        assert_eq!(value(&[(0.0, 1.0)], RegressionMetric::MeanAbsolutePercentageError), Ok(1.0 / f64::EPSILON));
        let overflow = pairs(&[(-1e300, 1e300), (0.0, 0.0)]).report();
        assert_eq!(overflow.get("mean_squared_error").and_then(|r| r.value), Some(f64::MAX));
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
