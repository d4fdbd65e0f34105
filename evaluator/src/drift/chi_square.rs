//! Pearson's test that two samples fall into bins alike.

use statrs::distribution::{ChiSquared, ContinuousCDF};

use super::Counts;
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
    /// Rows of both sides; effective ones where they weigh differently.
    pub rows: f64,
}

impl ChiSquare {
    /// The statistic from which on Cramér's V, `√(statistic / rows)` of two samples, is at least this.
    pub fn statistic_of(rows: f64, cramers_v: f64) -> f64 {
        rows * cramers_v * cramers_v
    }
}

/// Compares the rows per bin of two samples.
///
/// # Formula
/// `Σ (observed − expected)² / expected` over both sides, expected from the margins; one degree of freedom less than bins.
/// # Source
/// Pearson (1900); SciPy's `chi2_contingency(correction=False)`. Where rows weigh differently the bins hold as many rows as the weights
/// leave effective ones, in the weights' shares: Rao & Scott (1981), the first-order correction, with Kish's design effect.
/// # Inputs
/// What rows per bin stand for, the same bins in the same order. Bins whose expected rows are below five on a side are pooled into one, which
/// takes the next rarest too while it is itself below; empty bins are left out.
/// # Returns
/// `None` if a side has no rows. With one bin left there is nothing to tell apart: statistic 0, p-value 1.
pub fn chi_square(reference: &Counts, current: &Counts) -> Option<ChiSquare> {
    let (n_reference, n_current) = (reference.effective_rows, current.effective_rows);
    if n_reference <= 0.0 || n_current <= 0.0 {
        return None;
    }
    let rows = n_reference + n_current;
    let rarer_share = n_reference.min(n_current) / rows;
    let bins = pooled(&effective(reference), &effective(current), rarer_share);
    let expected = |bin: &(f64, f64), side: f64| (bin.0 + bin.1) * (side / rows);
    let term = |observed: f64, expected: f64| (observed - expected) * (observed - expected) / expected;
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

/// Rows that all weigh the same, in the shares of these.
fn effective(counts: &Counts) -> Vec<f64> {
    let all: f64 = counts.bins.iter().sum();
    // Exactly one where rows stand for themselves.
    let per_weight = counts.effective_rows / all;
    counts.bins.iter().map(|bin| bin * per_weight).collect()
}

/// The bins, the rare ones as one. The order of equal bins does not matter: only their counts are kept.
fn pooled(reference: &[f64], current: &[f64], rarer_share: f64) -> Vec<(f64, f64)> {
    let mut bins: Vec<(f64, f64)> =
        reference.iter().copied().zip(current.iter().copied()).filter(|bin| bin.0 + bin.1 > 0.0).collect();
    bins.sort_unstable_by(|a, b| (a.0 + a.1).total_cmp(&(b.0 + b.1)).then(a.0.total_cmp(&b.0)));
    let is_rare = |bin: &(f64, f64)| (bin.0 + bin.1) * rarer_share < EXPECTED_MIN;
    let mut pool = (0.0, 0.0);
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
        let of = |r: &[u64], c: &[u64]| chi_square(&Counts::of_rows(r), &Counts::of_rows(c));
        let test = of(&[10, 20, 30], &[6, 9, 17]).expect("rows");
        assert!((test.statistic - 0.27157465150403504).abs() < 1e-12, "{test:?}");
        assert!((test.p_value - 0.873028283380073).abs() < 1e-12, "{test:?}");
        assert_eq!(test.rows, 92.0);
        // The same shares of as many effective rows.
        let heavy = |rows: &[u64]| {
            let plain = Counts::of_rows(rows);
            Counts { bins: plain.bins.iter().map(|bin| bin * 8.0).collect(), ..plain }
        };
        assert_eq!(chi_square(&heavy(&[10, 20, 30]), &heavy(&[6, 9, 17])), Some(test));
        assert_eq!(of(&[0], &[1]), None);
        assert_eq!(of(&[7, 0], &[9, 0]).map(|t| (t.statistic, t.p_value)), Some((0.0, 1.0)));
    }

    #[test]
    fn rare_bins_are_one_and_a_rare_pool_takes_the_next() {
        let rare: Vec<f64> = std::iter::repeat_n(1.0, 40).chain([100.0]).collect();
        let bins = pooled(&rare, &rare, 0.5);
        assert_eq!(bins, [(100.0, 100.0), (40.0, 40.0)]);
        assert_eq!(pooled(&[1.0, 50.0, 60.0], &[0.0, 50.0, 60.0], 0.5), [(60.0, 60.0), (51.0, 50.0)]);
        // Many bins with a row each: nothing is rejected because they are many.
        let sparse = chi_square(&Counts::of_rows(&[1; 30]), &Counts::of_rows(&[1; 30])).expect("rows");
        assert_eq!((sparse.statistic, sparse.p_value), (0.0, 1.0));
    }
}
