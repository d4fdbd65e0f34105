//! Quantiles of a sorted column with their order statistics.

use super::{
    Estimate, Interval, Method,
    binned::Bin,
    interval::order_statistics,
    mass::{Mass, Weight},
};

/// Values in ascending order, one or more.
#[derive(Debug)]
pub(crate) struct SortedValues {
    values: Vec<f64>,
    /// The weight of each, or nothing if all stand for themselves.
    weights: Vec<Weight>,
}

impl SortedValues {
    /// Sorts values; `weights` has the weight of each, or nothing if all stand for themselves.
    ///
    /// # Inputs
    /// At least one value, none of them NaN.
    pub(crate) fn of(mut values: Vec<f64>, weights: Vec<Weight>) -> Self {
        if weights.is_empty() {
            values.sort_unstable_by(f64::total_cmp);
            return Self { values, weights };
        }
        let mut pairs: Vec<(f64, Weight)> = values.into_iter().zip(weights).collect();
        pairs.sort_unstable_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
        let (values, weights) = pairs.into_iter().unzip();
        Self { values, weights }
    }

    /// The values, ascending.
    pub(crate) fn values(&self) -> &[f64] {
        &self.values
    }

    /// The value from which on the weight below is `quantile` of all; the mean with the next one where it is exactly that.
    ///
    /// # Source
    /// Hyndman & Fan (1996), definition 2; NumPy's and scikit-learn's `averaged_inverted_cdf`, of which the median is a case.
    pub(crate) fn quantile(&self, quantile: f64) -> f64 {
        let last = self.values.len() - 1;
        if self.weights.is_empty() {
            let at = self.values.len() as f64 * quantile;
            let next = (at.floor() as usize).min(last);
            if at.fract() == 0.0 && next > 0 {
                return f64::midpoint(self.values[next - 1], self.values[next]);
            }
            return self.values[next];
        }
        // Sums of integers: no order changes them.
        let all: u128 = self.weights.iter().map(|weight| u128::from(weight.bits())).sum();
        let wanted = all as f64 * quantile;
        let mut below = 0_u128;
        for (at, weight) in self.weights.iter().enumerate() {
            below += u128::from(weight.bits());
            if below as f64 > wanted || at == last {
                return self.values[at];
            }
            if below as f64 == wanted {
                return f64::midpoint(self.values[at], self.values[at + 1]);
            }
        }
        self.values[last]
    }

    /// With the order statistics around it; with the effective number of rows spread over them where they weigh differently.
    pub(crate) fn quantile_estimate(&self, quantile: f64) -> Estimate {
        let estimate = Estimate::bare(self.quantile(quantile));
        let rows = self.values.len() as u64;
        let effective = if self.weights.is_empty() {
            rows
        } else {
            let mut mass = Mass::default();
            self.weights.iter().for_each(|weight| mass.push(*weight));
            mass.effective_rows().floor() as u64
        };
        let Some((low, high)) = order_statistics(effective, quantile) else { return estimate };
        let bounds = if effective == rows {
            (self.values[low as usize], self.values[high as usize])
        } else {
            let share = |place: u64| (place as f64 + 0.5) / effective as f64;
            (self.quantile(share(low)), self.quantile(share(high)))
        };
        let bounds = (bounds.0.min(estimate.value), bounds.1.max(estimate.value));
        estimate.with_interval(Interval::new(bounds, Method::OrderStatistics))
    }
}

/// Rows in ascending bins, one or more. No bin reaches into another, so the rank of a row is exact, and its number lies in its bin.
#[derive(Debug)]
pub(crate) struct SortedBins<'a> {
    bins: &'a [Bin],
    all: Mass,
}

impl<'a> SortedBins<'a> {
    /// # Inputs
    /// At least one bin.
    pub(crate) fn of(bins: &'a [Bin]) -> Self {
        Self { bins, all: bins.iter().fold(Mass::default(), |all, bin| all.with(bin.mass)) }
    }

    /// The smallest and the largest number.
    pub(crate) fn ends(&self) -> Option<(f64, f64)> {
        Some((self.bins.first()?.smallest(), self.bins.last()?.largest()))
    }

    /// Where a quantile lies for sure.
    fn range(&self, quantile: f64) -> (f64, f64) {
        let last = self.bins.len() - 1;
        let wanted = self.all.weight_bits() as f64 * quantile;
        let mut below = 0_u128;
        for (at, bin) in self.bins.iter().enumerate() {
            below += bin.mass.weight_bits();
            if below as f64 > wanted || at == last {
                return (bin.smallest(), bin.largest());
            }
            if below as f64 == wanted {
                let next = &self.bins[at + 1];
                // Between the last row of the one and the first of the other, which are known.
                let middle = f64::midpoint(bin.largest(), next.smallest());
                return (middle, middle);
            }
        }
        (self.bins[last].smallest(), self.bins[last].largest())
    }

    /// The middle of where the quantile lies, with half of its width as the bound.
    pub(crate) fn quantile(&self, quantile: f64) -> Estimate {
        let (low, high) = self.range(quantile);
        let value = if low == high { low } else { f64::midpoint(low, high) };
        Estimate::bare(value).within(if low == high { 0.0 } else { (high - value).max(value - low) })
    }

    /// With the order statistics around it, as far out as their bins reach.
    pub(crate) fn quantile_estimate(&self, quantile: f64) -> Estimate {
        let estimate = self.quantile(quantile);
        let effective = self.all.effective_rows().floor() as u64;
        let Some((low, high)) = order_statistics(effective, quantile) else { return estimate };
        let share = |place: u64| (place as f64 + 0.5) / effective as f64;
        let bounds = (self.range(share(low)).0.min(estimate.value), self.range(share(high)).1.max(estimate.value));
        let interval = Interval::new(bounds, Method::OrderStatistics);
        Estimate { bound: estimate.bound, ..Estimate::bare(estimate.value).with_interval(interval) }
    }
}
