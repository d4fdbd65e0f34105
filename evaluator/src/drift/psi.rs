//! The population stability index, and the bins it is taken over.

use serde::{Deserialize, Serialize};

use super::SampleRef;
use crate::metrics::{ExactSum, Mass};

/// A share below this counts as this, so that an empty bin stays finite. Larger hides small bins; smaller lets one
/// empty bin dominate.
pub const SHARE_MIN: f64 = 1e-4;

/// Bins of the real line, closed on the right: `(−∞, e₁], (e₁, e₂], …, (eₖ, ∞)`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Bins {
    edges: Vec<f64>,
}

impl Bins {
    /// The deciles of a sample, interpolated linearly between order statistics as NumPy's `quantile` does.
    /// Deciles that coincide are one edge, so ties give fewer, wider bins.
    ///
    /// # Inputs
    /// Ascending, without NaN. An empty sample gives one bin.
    pub fn deciles(sample: &[f64]) -> Self {
        let mut edges: Vec<f64> = (1..10).filter_map(|tenth| quantile(sample, f64::from(tenth) / 10.0)).collect();
        edges.dedup();
        Self { edges }
    }

    /// The deciles of what rows stand for: those above where all stand for themselves, else between the values on either side of each
    /// tenth of the weight.
    pub fn of_sample(sample: SampleRef<'_>) -> Self {
        if sample.is_plain() {
            return Self::deciles(sample.values());
        }
        let mut edges: Vec<f64> = (1..10).filter_map(|tenth| sample.quantile(f64::from(tenth) / 10.0)).collect();
        edges.dedup();
        Self { edges }
    }

    /// Bins with these edges.
    ///
    /// # Returns
    /// `None` unless the edges ascend strictly and are finite.
    pub fn with_edges(edges: Vec<f64>) -> Option<Self> {
        let ascending = edges.windows(2).all(|pair| pair[0] < pair[1]) && edges.iter().all(|e| e.is_finite());
        ascending.then_some(Self { edges })
    }

    /// The inner edges, ascending.
    pub fn edges(&self) -> &[f64] {
        &self.edges
    }

    /// Number of bins.
    pub fn len(&self) -> usize {
        self.edges.len() + 1
    }

    /// Never: there is always one bin.
    pub fn is_empty(&self) -> bool {
        false
    }

    /// The bin of a value.
    #[inline]
    pub fn of(&self, value: f64) -> usize {
        self.edges.partition_point(|edge| *edge < value)
    }

    /// What the rows of each bin stand for.
    pub fn weigh(&self, sample: SampleRef<'_>) -> Counts {
        let values = sample.values();
        let ends = self.edges.iter().map(|edge| values.partition_point(|value| value <= edge)).chain([values.len()]);
        let mut start = 0;
        // Integers, so that no order of rows shows.
        let masses: Vec<Mass> = ends.map(|end| sample.part(std::mem::replace(&mut start, end)..end).mass()).collect();
        let all = masses.iter().fold(Mass::default(), |all, mass| all.with(*mass));
        Counts { bins: masses.iter().map(Mass::weight).collect(), effective_rows: all.effective_rows() }
    }
}

/// What rows stand for, by bin.
#[derive(Debug, Clone, PartialEq)]
pub struct Counts {
    /// Rows of each bin, or their weight.
    pub bins: Vec<f64>,
    /// Rows of equal weight that would say as much.
    pub effective_rows: f64,
}

impl Counts {
    /// Rows that stand for themselves.
    pub fn of_rows(rows: &[u64]) -> Self {
        Self { bins: rows.iter().map(|rows| *rows as f64).collect(), effective_rows: rows.iter().sum::<u64>() as f64 }
    }

    /// The share of each bin; `None` without rows.
    pub fn shares(&self) -> Option<Vec<f64>> {
        let all: f64 = self.bins.iter().sum();
        (all > 0.0).then(|| self.bins.iter().map(|bin| bin / all).collect())
    }
}

/// Population stability index between two binned distributions.
///
/// # Formula
/// `Σᵢ (cᵢ − rᵢ) · ln(cᵢ / rᵢ)` over bin shares, each share raised to at least [`SHARE_MIN`].
/// # Source
/// Kullback & Leibler (1951), the symmetric divergence J(1, 2).
/// # Inputs
/// Rows per bin, the same bins in the same order on both sides.
/// # Returns
/// Nats in `[0, ∞)`; 0 means equal shares. `None` if a side has no rows.
pub fn population_stability_index(reference: &Counts, current: &Counts) -> Option<f64> {
    let terms: ExactSum = reference
        .shares()?
        .iter()
        .zip(current.shares()?)
        .map(|(r, c)| (r.max(SHARE_MIN), c.max(SHARE_MIN)))
        .map(|(r, c)| (c - r) * (c / r).ln())
        .collect();
    Some(terms.value())
}

/// Linear interpolation at `(n − 1) q`, in the form NumPy uses, so that the edge is the same float.
fn quantile(sample: &[f64], q: f64) -> Option<f64> {
    let last = sample.len().checked_sub(1)?;
    let at = last as f64 * q;
    let below = at.floor();
    let (a, b) = (sample[below as usize], sample[(below as usize + 1).min(last)]);
    let t = at - below;
    Some(if t >= 0.5 { b - (b - a) * (1.0 - t) } else { a + (b - a) * t })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bins_are_closed_on_the_right() {
        let bins = Bins::with_edges(vec![1.0, 2.0]).expect("ascending");
        for (value, bin) in [(f64::NEG_INFINITY, 0), (1.0, 0), (1.5, 1), (2.0, 1), (2.1, 2), (f64::INFINITY, 2)] {
            assert_eq!(bins.of(value), bin, "{value}");
            let counts = bins.weigh(SampleRef::new(&[value], &[])).bins;
            assert_eq!(counts.iter().position(|rows| *rows == 1.0), Some(bin), "{value}");
        }
        assert_eq!(Bins::with_edges(vec![2.0, 2.0]), None);
        assert_eq!(Bins::with_edges(vec![f64::NAN]), None);
    }

    #[test]
    fn deciles_of_ties_collapse() {
        let sample: Vec<f64> = (0..=10).map(f64::from).collect();
        assert_eq!(Bins::deciles(&sample).edges(), &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0]);
        assert_eq!(Bins::deciles(&[3.0; 50]).edges(), &[3.0]);
        assert_eq!(Bins::deciles(&[]).len(), 1);
        assert_eq!(Bins::deciles(&[7.0]).edges(), &[7.0]);
    }

    #[test]
    fn hand_worked() {
        let psi = |r: &[u64], c: &[u64]| population_stability_index(&Counts::of_rows(r), &Counts::of_rows(c));
        assert_eq!(psi(&[5, 5], &[10, 10]), Some(0.0));
        let quarter = psi(&[5, 5], &[15, 5]).expect("rows");
        assert!((quarter - (0.25 * 1.5_f64.ln() - 0.25 * 0.5_f64.ln())).abs() < 1e-15);
        // An empty bin counts as 1e-4.
        let empty = psi(&[1, 1], &[2, 0]).expect("rows");
        assert!((empty - (0.5 * 2.0_f64.ln() + (1e-4 - 0.5) * (1e-4_f64 / 0.5).ln())).abs() < 1e-15);
        assert_eq!(psi(&[0, 0], &[1, 1]), None);
    }
}
