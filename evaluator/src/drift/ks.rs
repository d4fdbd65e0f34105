//! The two-sample Kolmogorov–Smirnov test.

use super::{SampleRef, kolmogorov};

/// Up to this size of the larger sample the p-value is exact; above it asymptotic. SciPy's `MAX_AUTO_N`.
const EXACT_ROWS_MAX: usize = 10_000;
/// Beyond this value of `d² mn/(m+n)` the p-value is below 10⁻²¹, and counting paths would cost up to 10⁸ steps for a
/// number that every rule treats as 0: the asymptotic one is used.
const EXACT_EXPONENT_MAX: f64 = 25.0;

/// A test's outcome.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct KolmogorovSmirnov {
    /// Largest distance of the two distribution functions, in `[0, 1]`.
    pub statistic: f64,
    /// Chance of a distance at least as large if both samples have one continuous distribution.
    pub p_value: f64,
}

/// Compares two samples.
///
/// # Formula
/// `sup |F₁(x) − F₂(x)|` over all x, ties included; the statistic is a ratio of integers.
/// # Source
/// Hodges (1958), The Significance Probability of the Smirnov Two-Sample Test; SciPy `ks_2samp(method="auto")`. Exact
/// p-value up to 10,000 rows, otherwise the one-sample distribution at `round(mn/(m+n))`, see [`kolmogorov::sf`].
/// # Inputs
/// Both ascending, without NaN.
/// # Returns
/// `None` if a sample is empty.
pub fn ks_2samp(left: &[f64], right: &[f64]) -> Option<KolmogorovSmirnov> {
    let (m, n) = (left.len(), right.len());
    if m == 0 || n == 0 {
        return None;
    }
    let distance = largest_distance(left, right);
    let statistic = distance as f64 / (m as u128 * n as u128) as f64;
    let harmonic = m as f64 * n as f64 / (m + n) as f64;
    let exact = m.max(n) <= EXACT_ROWS_MAX && statistic * statistic * harmonic <= EXACT_EXPONENT_MAX;
    let p_value = if exact {
        exact_p_value(m as u64, n as u64, distance as u64)
    } else {
        kolmogorov::sf(harmonic.round_ties_even().max(1.0) as u64, statistic)
    };
    Some(KolmogorovSmirnov { statistic, p_value: p_value.clamp(0.0, 1.0) })
}

/// Compares two samples whose rows may weigh differently.
///
/// # Formula
/// The statistic is the largest distance of the weighted distribution functions; the p-value is asymptotic, with Kish's effective rows in the
/// place of rows. Where all rows stand for themselves it is [`ks_2samp`].
/// # Source
/// Monahan (2011), Numerical Methods of Statistics, 12.10, for the weighted test; Kish (1965) for the rows.
/// # Returns
/// `None` if a sample is empty.
pub fn ks_of_samples(left: SampleRef<'_>, right: SampleRef<'_>) -> Option<KolmogorovSmirnov> {
    if left.is_plain() && right.is_plain() {
        return ks_2samp(left.values(), right.values());
    }
    if left.is_empty() || right.is_empty() {
        return None;
    }
    let (of_left, of_right) = (left.all_bits() as f64, right.all_bits() as f64);
    let mut statistic = 0.0_f64;
    let (mut i, mut j) = (0, 0);
    let (mut below_left, mut below_right) = (0_u128, 0_u128);
    while i < left.values().len() && j < right.values().len() {
        let at = left.values()[i].min(right.values()[j]);
        while left.values().get(i).is_some_and(|value| *value <= at) {
            below_left += left.bits(i);
            i += 1;
        }
        while right.values().get(j).is_some_and(|value| *value <= at) {
            below_right += right.bits(j);
            j += 1;
        }
        statistic = statistic.max((below_left as f64 / of_left - below_right as f64 / of_right).abs());
    }
    let (m, n) = (left.effective_rows(), right.effective_rows());
    let rows = (m * n / (m + n)).round_ties_even().max(1.0) as u64;
    Some(KolmogorovSmirnov { statistic, p_value: kolmogorov::sf(rows, statistic).clamp(0.0, 1.0) })
}

/// `m · n · sup |F₁ − F₂|`, an integer.
fn largest_distance(left: &[f64], right: &[f64]) -> u128 {
    let (m, n) = (left.len(), right.len());
    let (mut i, mut j, mut largest) = (0, 0, 0_u128);
    while i < m && j < n {
        let at = left[i].min(right[j]);
        while i < m && left[i] <= at {
            i += 1;
        }
        while j < n && right[j] <= at {
            j += 1;
        }
        largest = largest.max((i as u128 * n as u128).abs_diff(j as u128 * m as u128));
    }
    largest
}

/// Share of lattice paths from (0, 0) to (m, n) that reach a distance of at least `distance / mn` from the diagonal.
///
/// The recursion runs over shares of paths, not counts, so nothing overflows and small shares keep their digits.
fn exact_p_value(m: u64, n: u64, distance: u64) -> f64 {
    if distance == 0 {
        return 1.0;
    }
    let (m, n) = (m.max(n), m.min(n));
    // outside[y]: the share of paths to (x, y) that have been outside; 1 for every point that lies outside.
    let mut outside = vec![1.0_f64; n as usize + 1];
    for x in 0..=m {
        // Inside: |x·n − y·m| < distance.
        let first = (x * n + 1).saturating_sub(distance).div_ceil(m);
        let last = ((x * n + distance - 1) / m).min(n);
        if first > last {
            return 1.0;
        }
        let mut below = 1.0;
        for y in first..=last {
            let share = match (x, y) {
                (0, 0) => 0.0,
                // On an edge there is one way to come.
                (0, _) => below,
                (_, 0) => outside[0],
                _ => (outside[y as usize] * x as f64 + below * y as f64) / (x + y) as f64,
            };
            outside[y as usize] = share;
            below = share;
        }
        // The band only rises: what it leaves behind is outside, and never read again except as `below`.
    }
    outside[n as usize]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{drift::Sample, metrics::Weight};

    #[test]
    fn hand_worked() {
        // Two of two: complete separation is 2 of the 6 paths.
        let test = ks_2samp(&[1.0, 2.0], &[3.0, 4.0]).expect("rows");
        assert_eq!(test, KolmogorovSmirnov { statistic: 1.0, p_value: 1.0 / 3.0 });
        let same = ks_2samp(&[1.0, 2.0], &[1.0, 2.0]).expect("rows");
        assert_eq!(same, KolmogorovSmirnov { statistic: 0.0, p_value: 1.0 });
        let one = ks_2samp(&[5.0], &[5.0, 5.0, 5.0]).expect("rows");
        assert_eq!(one.statistic, 0.0);
        assert_eq!(ks_2samp(&[], &[1.0]), None);
    }

    #[test]
    fn weights_are_rows_in_the_statistic_and_fewer_in_the_p_value() {
        let mut heavy = Sample::default();
        for (value, times) in [(0.1, 4), (0.2, 1), (0.5, 2), (0.9, 4)] {
            heavy.push(value, Weight::of_rate(Some(1.0 / f64::from(times))));
        }
        let repeated = [0.1, 0.1, 0.1, 0.1, 0.2, 0.5, 0.5, 0.9, 0.9, 0.9, 0.9];
        let other = Sample::of_sorted(vec![0.15, 0.3, 0.4, 0.6, 0.95]);
        let weighed = ks_of_samples(heavy.as_ref(), other.as_ref()).expect("rows");
        let plain = ks_2samp(&repeated, other.values()).expect("rows");
        assert!((weighed.statistic - plain.statistic).abs() < 1e-12, "{weighed:?} {plain:?}");
        assert!(weighed.p_value > plain.p_value, "{weighed:?} {plain:?}");
        assert_eq!(ks_of_samples(other.as_ref(), heavy.as_ref()), Some(weighed), "symmetric");
        assert_eq!(ks_of_samples(heavy.as_ref(), Sample::default().as_ref()), None);
        assert_eq!(ks_of_samples(other.as_ref(), other.as_ref()), ks_2samp(other.values(), other.values()));
    }

    #[test]
    fn it_is_symmetric() {
        let (a, b) = ([0.1, 0.2, 0.2, 0.9], [0.2, 0.3, 0.5, 0.6, 0.7, 0.9]);
        assert_eq!(ks_2samp(&a, &b), ks_2samp(&b, &a));
    }
}
