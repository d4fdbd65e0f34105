//! How far a distribution's mass has to be moved.

use crate::metrics::exact_sum::DoubledSum;

/// The first Wasserstein distance of two samples, in the values' own unit.
///
/// # Formula
/// `∫ |F₁(x) − F₂(x)| dx` of the empirical distribution functions.
/// # Source
/// Vaserstein (1969), Ramdas, Trillos & Cuturi (2017); SciPy's `wasserstein_distance`.
/// # Inputs
/// Both ascending, without NaN.
/// # Returns
/// `None` if a sample is empty, or where infinite values make it infinite.
pub fn wasserstein(left: &[f64], right: &[f64]) -> Option<f64> {
    if left.is_empty() || right.is_empty() {
        return None;
    }
    let (m, n) = (left.len() as f64, right.len() as f64);
    let (mut i, mut j) = (0, 0);
    let mut at = left[0].min(right[0]);
    let mut sum = DoubledSum::default();
    while i < left.len() || j < right.len() {
        let next = match (left.get(i), right.get(j)) {
            (Some(a), Some(b)) => a.min(*b),
            (Some(x), None) | (None, Some(x)) => *x,
            (None, None) => break,
        };
        if next > at {
            sum.push((i as f64 / m - j as f64 / n).abs() * (next - at));
            at = next;
        }
        while left.get(i).is_some_and(|x| *x <= at) {
            i += 1;
        }
        while right.get(j).is_some_and(|x| *x <= at) {
            j += 1;
        }
    }
    Some(sum.value()).filter(|distance| distance.is_finite())
}

/// The standard deviation of a sample, over n: what the distance is divided by to be of no unit.
pub fn deviation(sample: &[f64]) -> Option<f64> {
    let rows = sample.len() as f64;
    let mean = sample.iter().copied().collect::<DoubledSum>().value() / rows;
    let variance = sample.iter().map(|x| (x - mean) * (x - mean)).collect::<DoubledSum>().value() / rows;
    Some(variance.sqrt()).filter(|deviation| deviation.is_finite() && *deviation > 0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hand_worked() {
        // scipy.stats.wasserstein_distance([0, 1, 3], [5, 6, 8]) = 5.0; ([0, 1], [0, 0, 1]) = 1/6
        assert_eq!(wasserstein(&[0.0, 1.0, 3.0], &[5.0, 6.0, 8.0]), Some(5.0));
        let sixth = wasserstein(&[0.0, 1.0], &[0.0, 0.0, 1.0]).expect("rows");
        assert!((sixth - 1.0 / 6.0).abs() < 1e-15, "{sixth}");
        assert_eq!(wasserstein(&[2.0; 3], &[2.0; 5]), Some(0.0));
        assert_eq!(wasserstein(&[], &[1.0]), None);
        assert_eq!(wasserstein(&[0.0, f64::INFINITY], &[0.0]), None);
        assert_eq!(deviation(&[1.0, 3.0]), Some(1.0));
        assert_eq!(deviation(&[2.0, 2.0]), None);
        assert_eq!(deviation(&[]), None);
    }
}
