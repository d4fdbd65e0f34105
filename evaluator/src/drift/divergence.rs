//! Distances of two distributions over the same bins.

use super::{Counts, psi::SHARE_MIN};
use crate::metrics::ExactSum;

/// Shares of the same bins on both sides.
///
/// # Inputs
/// What rows per bin stand for, the same bins in the same order. Missing values are in no bin; unseen categories share one.
#[derive(Debug, Clone, PartialEq)]
pub struct Shares {
    pairs: Vec<(f64, f64)>,
}

impl Shares {
    /// `None` if a side has no rows.
    pub fn of(reference: &Counts, current: &Counts) -> Option<Self> {
        Some(Self { pairs: reference.shares()?.into_iter().zip(current.shares()?).collect() })
    }

    /// Jensen–Shannon distance in base 2.
    ///
    /// # Formula
    /// `√(½ Σ r log₂(r/m) + ½ Σ c log₂(c/m))`, `m = (r + c)/2`; a share of 0 adds 0.
    /// # Source
    /// Lin (1991); Endres & Schindelin (2003) for the root, which is a metric; SciPy's `jensenshannon(base=2)`.
    /// # Returns
    /// In `[0, 1]`: 1 if no bin is shared.
    pub fn jensen_shannon(&self) -> f64 {
        let part = |p: f64, m: f64| if p > 0.0 { p * (p / m).log2() } else { 0.0 };
        let divergence = self.sum(|r, c| {
            let m = f64::midpoint(r, c);
            f64::midpoint(part(r, m), part(c, m))
        });
        divergence.clamp(0.0, 1.0).sqrt()
    }

    /// Hellinger distance.
    ///
    /// # Formula
    /// `√(½ Σ (√r − √c)²)`
    /// # Source
    /// Hellinger (1909).
    /// # Returns
    /// In `[0, 1]`.
    pub fn hellinger(&self) -> f64 {
        (0.5 * self.sum(|r, c| (r.sqrt() - c.sqrt()).powi(2))).clamp(0.0, 1.0).sqrt()
    }

    /// Total variation: the largest difference in the probability of any set of bins, `½ Σ |r − c|`, in `[0, 1]`.
    pub fn total_variation(&self) -> f64 {
        (0.5 * self.sum(|r, c| (r - c).abs())).clamp(0.0, 1.0)
    }

    /// The largest difference of one bin's shares, in `[0, 1]`; TensorFlow Data Validation's `L_infty`.
    pub fn l_infinity(&self) -> f64 {
        self.pairs.iter().map(|(r, c)| (r - c).abs()).fold(0.0, f64::max)
    }

    /// Kullback–Leibler divergence of the current from the reference, nats.
    ///
    /// # Formula
    /// `Σ c ln(c/r)`, each share raised to at least [`SHARE_MIN`], so that an empty bin stays finite; not below 0.
    /// # Source
    /// Kullback & Leibler (1951). SciPy's `entropy(c, r)` where no bin is empty.
    pub fn kl(&self) -> f64 {
        self.sum(|r, c| c.max(SHARE_MIN) * (c.max(SHARE_MIN) / r.max(SHARE_MIN)).ln()).max(0.0)
    }

    fn sum(&self, of: impl Fn(f64, f64) -> f64) -> f64 {
        self.pairs.iter().map(|(r, c)| of(*r, *c)).collect::<ExactSum>().value()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn equal_and_disjoint_shares_are_the_ends() {
        let of = |r: &[u64], c: &[u64]| Shares::of(&Counts::of_rows(r), &Counts::of_rows(c));
        let equal = of(&[1, 2, 3], &[10, 20, 30]).expect("rows");
        for distance in
            [equal.jensen_shannon(), equal.hellinger(), equal.total_variation(), equal.l_infinity(), equal.kl()]
        {
            assert!(distance.abs() < 1e-12, "{distance}");
        }
        let disjoint = of(&[5, 0], &[0, 9]).expect("rows");
        for distance in
            [disjoint.jensen_shannon(), disjoint.hellinger(), disjoint.total_variation(), disjoint.l_infinity()]
        {
            assert_eq!(distance, 1.0);
        }
        assert!(disjoint.kl().is_finite());
        assert_eq!(of(&[0, 0], &[1, 2]), None);
        assert_eq!(of(&[], &[]), None);
    }

    proptest! {
        #[test]
        fn distances_stay_in_their_range_and_are_symmetric(
            pairs in prop::collection::vec((0_u64..50, 0_u64..50), 1..12),
        ) {
            let (r, c): (Vec<u64>, Vec<u64>) = pairs.into_iter().unzip();
            let (r, c) = (Counts::of_rows(&r), Counts::of_rows(&c));
            let (Some(there), Some(back)) = (Shares::of(&r, &c), Shares::of(&c, &r)) else { return Ok(()) };
            for (one, other) in [
                (there.jensen_shannon(), back.jensen_shannon()),
                (there.hellinger(), back.hellinger()),
                (there.total_variation(), back.total_variation()),
                (there.l_infinity(), back.l_infinity()),
            ] {
                prop_assert!((0.0..=1.0).contains(&one) && (one - other).abs() < 1e-12);
            }
            prop_assert!(there.kl() >= 0.0 && there.l_infinity() <= there.total_variation() + 1e-12);
        }
    }
}
