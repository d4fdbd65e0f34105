//! How far a distribution's mass has to be moved.

use super::SampleRef;
use crate::metrics::exact_sum::DoubledSum;

/// The first Wasserstein distance of two samples, in the values' own unit.
///
/// # Formula
/// `∫ |F₁(x) − F₂(x)| dx` of the empirical distribution functions, by weight.
/// # Source
/// Vaserstein (1969), Ramdas, Trillos & Cuturi (2017); SciPy's `wasserstein_distance`.
/// # Returns
/// `None` if a sample is empty, or where infinite values make it infinite.
pub fn wasserstein(left: SampleRef<'_>, right: SampleRef<'_>) -> Option<f64> {
    if left.is_empty() || right.is_empty() {
        return None;
    }
    let (m, n) = (left.all_bits() as f64, right.all_bits() as f64);
    let (mut i, mut j) = (0, 0);
    let (mut below_left, mut below_right) = (0_u128, 0_u128);
    let mut at = left.values()[0].min(right.values()[0]);
    let mut sum = DoubledSum::default();
    while i < left.values().len() || j < right.values().len() {
        let next = match (left.values().get(i), right.values().get(j)) {
            (Some(a), Some(b)) => a.min(*b),
            (Some(x), None) | (None, Some(x)) => *x,
            (None, None) => break,
        };
        if next > at {
            sum.push((below_left as f64 / m - below_right as f64 / n).abs() * (next - at));
            at = next;
        }
        while left.values().get(i).is_some_and(|x| *x <= at) {
            below_left += left.bits(i);
            i += 1;
        }
        while right.values().get(j).is_some_and(|x| *x <= at) {
            below_right += right.bits(j);
            j += 1;
        }
    }
    Some(sum.value()).filter(|distance| distance.is_finite())
}

/// The standard deviation of a sample, over what its rows stand for: what the distance is divided by to be of no unit.
pub fn deviation(sample: SampleRef<'_>) -> Option<f64> {
    Some(mean_and_deviation(sample)?.1)
}

/// The mean and the standard deviation of a sample, over what its rows stand for; `None` unless it varies.
pub fn mean_and_deviation(sample: SampleRef<'_>) -> Option<(f64, f64)> {
    let all = sample.mass().weight();
    let weighed = |of: &dyn Fn(f64) -> f64| {
        let terms = sample.values().iter().enumerate().map(|(row, x)| sample.weight(row) * of(*x));
        terms.collect::<DoubledSum>().value() / all
    };
    let mean = weighed(&|x| x);
    let variance = weighed(&|x| (x - mean) * (x - mean));
    Some((mean, variance.sqrt())).filter(|(_, deviation)| deviation.is_finite() && *deviation > 0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(values: &[f64]) -> SampleRef<'_> {
        SampleRef::new(values, &[])
    }

    #[test]
    fn hand_worked() {
        // scipy.stats.wasserstein_distance([0, 1, 3], [5, 6, 8]) = 5.0; ([0, 1], [0, 0, 1]) = 1/6
        assert_eq!(wasserstein(of(&[0.0, 1.0, 3.0]), of(&[5.0, 6.0, 8.0])), Some(5.0));
        let sixth = wasserstein(of(&[0.0, 1.0]), of(&[0.0, 0.0, 1.0])).expect("rows");
        assert!((sixth - 1.0 / 6.0).abs() < 1e-15, "{sixth}");
        assert_eq!(wasserstein(of(&[2.0; 3]), of(&[2.0; 5])), Some(0.0));
        assert_eq!(wasserstein(of(&[]), of(&[1.0])), None);
        assert_eq!(wasserstein(of(&[0.0, f64::INFINITY]), of(&[0.0])), None);
        assert_eq!(deviation(of(&[1.0, 3.0])), Some(1.0));
        assert_eq!(deviation(of(&[2.0, 2.0])), None);
        assert_eq!(deviation(of(&[])), None);
    }
}
