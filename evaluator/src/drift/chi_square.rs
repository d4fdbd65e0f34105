//! Pearson's test that two samples fall into bins alike.

use statrs::distribution::{ChiSquared, ContinuousCDF};

use crate::metrics::ExactSum;

/// A bin in which fewer rows than this would be expected on a side is pooled with the other rare ones: the rule of Cochran
/// (1954), below which the statistic is not chi-squared.
const EXPECTED_MIN: f64 = 5.0;

/// A test's outcome.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ChiSquare {
    /// Pearson's statistic, after pooling.
    pub statistic: f64,
    /// Chance of a statistic at least as large if both sides are alike.
    pub p_value: f64,
    /// Rows of both sides.
    pub rows: u64,
}

impl ChiSquare {
    /// The statistic from which on Cramér's V, `√(statistic / rows)` of two samples, is at least this.
    pub fn statistic_of(rows: u64, cramers_v: f64) -> f64 {
        rows as f64 * cramers_v * cramers_v
    }
}

/// Compares the rows per bin of two samples.
///
/// # Formula
/// `Σ (observed − expected)² / expected` over both sides, expected from the margins; one degree of freedom less than bins.
/// # Source
/// Pearson (1900); SciPy's `chi2_contingency(correction=False)`.
/// # Inputs
/// Rows per bin, the same bins in the same order. Bins whose expected rows are below five on a side are pooled into one, which
/// takes the next rarest too while it is itself below; empty bins are left out.
/// # Returns
/// `None` if a side has no rows. With one bin left there is nothing to tell apart: statistic 0, p-value 1.
pub fn chi_square(reference: &[u64], current: &[u64]) -> Option<ChiSquare> {
    let (n_reference, n_current) = (reference.iter().sum::<u64>(), current.iter().sum::<u64>());
    if n_reference == 0 || n_current == 0 {
        return None;
    }
    let rows = n_reference + n_current;
    let rarer_share = n_reference.min(n_current) as f64 / rows as f64;
    let bins = pooled(reference, current, rarer_share);
    let expected = |bin: &(u64, u64), side: u64| (bin.0 + bin.1) as f64 * (side as f64 / rows as f64);
    let term = |observed: u64, expected: f64| (observed as f64 - expected) * (observed as f64 - expected) / expected;
    let statistic = bins
        .iter()
        .flat_map(|bin| [term(bin.0, expected(bin, n_reference)), term(bin.1, expected(bin, n_current))])
        .collect::<ExactSum>()
        .value();
    let degrees = bins.len().saturating_sub(1);
    if degrees == 0 {
        return Some(ChiSquare { statistic: 0.0, p_value: 1.0, rows });
    }
    let p_value = ChiSquared::new(degrees as f64).map_or(1.0, |distribution| distribution.sf(statistic));
    Some(ChiSquare { statistic, p_value: p_value.clamp(0.0, 1.0), rows })
}

/// The bins, the rare ones as one. The order of equal bins does not matter: only their counts are kept.
fn pooled(reference: &[u64], current: &[u64], rarer_share: f64) -> Vec<(u64, u64)> {
    let mut bins: Vec<(u64, u64)> =
        reference.iter().copied().zip(current.iter().copied()).filter(|bin| bin.0 + bin.1 > 0).collect();
    bins.sort_unstable_by_key(|bin| (bin.0 + bin.1, bin.0));
    let is_rare = |bin: &(u64, u64)| ((bin.0 + bin.1) as f64) * rarer_share < EXPECTED_MIN;
    let mut pool = (0, 0);
    let mut at = 0;
    while at < bins.len() && (is_rare(&bins[at]) || (at > 0 && is_rare(&pool))) {
        pool = (pool.0 + bins[at].0, pool.1 + bins[at].1);
        at += 1;
    }
    bins.drain(..at);
    if at > 0 {
        bins.push(pool);
    }
    bins
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hand_worked() {
        // scipy.stats.chi2_contingency([[10, 20, 30], [6, 9, 17]], correction=False): 0.27157465150403504, p 0.873028283380073
        let test = chi_square(&[10, 20, 30], &[6, 9, 17]).expect("rows");
        assert!((test.statistic - 0.27157465150403504).abs() < 1e-12, "{test:?}");
        assert!((test.p_value - 0.873028283380073).abs() < 1e-12, "{test:?}");
        assert_eq!(test.rows, 92);
        assert_eq!(chi_square(&[0], &[1]), None);
        assert_eq!(chi_square(&[7, 0], &[9, 0]).map(|t| (t.statistic, t.p_value)), Some((0.0, 1.0)));
    }

    #[test]
    fn rare_bins_are_one_and_a_rare_pool_takes_the_next() {
        let rare: Vec<u64> = std::iter::repeat_n(1, 40).chain([100]).collect();
        let bins = pooled(&rare, &rare, 0.5);
        assert_eq!(bins, [(100, 100), (40, 40)]);
        assert_eq!(pooled(&[1, 50, 60], &[0, 50, 60], 0.5), [(60, 60), (51, 50)]);
        // Many bins with a row each: nothing is rejected because they are many.
        let sparse = chi_square(&[1; 30], &[1; 30]).expect("rows");
        assert_eq!((sparse.statistic, sparse.p_value), (0.0, 1.0));
    }
}
