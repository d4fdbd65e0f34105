//! How much rows count: an exact sum of their sampling weights, and of the squares that intervals need.

use serde::{Deserialize, Serialize};

use super::wire::{Reader, put_u64};

/// A weight is an integer in units of 2⁻⁴⁰, so that sums do not depend on the order of rows. More bits leave less room:
/// 10¹⁰ rows of the largest weight must fit with their squares.
const UNIT_BITS: u32 = 40;
/// One row that stands for itself.
const ONE: u64 = 1 << UNIT_BITS;
/// The smallest rate that is believed: one row cannot stand for more than four million.
const RATE_MIN: f64 = 1.0 / (1 << 22) as f64;

/// The weight of one row: one over its sampling rate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Weight(u64);

impl Weight {
    /// A row that stands for itself.
    pub const ONE: Self = Self(ONE);

    /// The weight of a row that was kept with this probability. A rate that is none, one outside `(0, 1]`, and NaN say
    /// nothing: the row stands for itself. Rounded to 2⁻⁴⁰, so within 5·10⁻¹³ of its size.
    pub fn of_rate(rate: Option<f64>) -> Self {
        match rate {
            Some(rate) if rate > 0.0 && rate < 1.0 => Self((ONE as f64 / rate.max(RATE_MIN)).round() as u64),
            _ => Self::ONE,
        }
    }

    /// As a number.
    pub fn value(self) -> f64 {
        self.0 as f64 / ONE as f64
    }

    /// In units of 2⁻⁴⁰.
    pub(crate) fn bits(self) -> u64 {
        self.0
    }

    pub(crate) fn from_bits(bits: u64) -> Self {
        Self(bits)
    }
}

/// Rows with their weights, summed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Mass {
    rows: u64,
    /// Σw in units of 2⁻⁴⁰.
    weight: u128,
    /// Σw² in units of 2⁻⁴⁰.
    squares: u128,
}

impl Mass {
    /// Rows that stand for themselves.
    pub fn of_rows(rows: u64) -> Self {
        Self { rows, weight: u128::from(rows) << UNIT_BITS, squares: u128::from(rows) << UNIT_BITS }
    }

    /// So many rows of such a weight, and of such a sum of squared weights.
    pub fn of_sums(rows: u64, weight: f64, squares: f64) -> Self {
        let bits = |sum: f64| (sum * ONE as f64).round() as u128;
        Self { rows, weight: bits(weight), squares: bits(squares) }
    }

    /// Adds a row.
    #[inline]
    pub fn push(&mut self, weight: Weight) {
        let wide = u128::from(weight.0);
        self.rows += 1;
        self.weight += wide;
        self.squares += (wide * wide) >> UNIT_BITS;
    }

    /// Adds other rows.
    pub fn merge(&mut self, other: &Self) {
        self.rows += other.rows;
        self.weight += other.weight;
        self.squares += other.squares;
    }

    /// Both together.
    #[must_use]
    pub fn with(mut self, other: Self) -> Self {
        self.merge(&other);
        self
    }

    /// These rows without some of them.
    ///
    /// # Inputs
    /// `part`: rows that are among these.
    #[must_use]
    pub fn without(mut self, part: Self) -> Self {
        self.rows = self.rows.saturating_sub(part.rows);
        self.weight = self.weight.saturating_sub(part.weight);
        self.squares = self.squares.saturating_sub(part.squares);
        self
    }

    /// Rows, whatever they weigh.
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// Σw; the number of rows if each stands for itself.
    pub fn weight(&self) -> f64 {
        self.weight as f64 / ONE as f64
    }

    /// Σw in units of 2⁻⁴⁰.
    pub(crate) fn weight_bits(&self) -> u128 {
        self.weight
    }

    /// Σw².
    pub fn squares(&self) -> f64 {
        self.squares as f64 / ONE as f64
    }

    /// Rows of equal weight that would say as much: `(Σw)² / Σw²`. Kish (1965), Survey Sampling. 0 without rows.
    pub fn effective_rows(&self) -> f64 {
        if self.rows == 0 {
            return 0.0;
        }
        self.weight() * (self.weight() / self.squares())
    }

    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        put_u64(out, self.rows);
        for wide in [self.weight, self.squares] {
            put_u64(out, wide as u64);
            put_u64(out, (wide >> 64) as u64);
        }
    }

    pub(crate) fn decode(reader: &mut Reader<'_>) -> Option<Self> {
        let rows = reader.u64()?;
        let mut wide = || Some(u128::from(reader.u64()?) | u128::from(reader.u64()?) << 64);
        Some(Self { rows, weight: wide()?, squares: wide()? })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_rate_that_says_nothing_weighs_one() {
        for rate in [None, Some(1.0), Some(0.0), Some(-0.5), Some(2.0), Some(f64::NAN), Some(f64::INFINITY)] {
            assert_eq!(Weight::of_rate(rate), Weight::ONE, "{rate:?}");
        }
        assert_eq!(Weight::of_rate(Some(0.25)).value(), 4.0);
        assert!((Weight::of_rate(Some(0.3)).value() - 1.0 / 0.3).abs() < 1e-12);
        assert_eq!(Weight::of_rate(Some(1e-300)).value(), f64::from(1 << 22));
    }

    #[test]
    fn rows_that_stand_for_themselves_are_their_number() {
        let mut pushed = Mass::default();
        (0..7).for_each(|_| pushed.push(Weight::ONE));
        assert_eq!(pushed, Mass::of_rows(7));
        assert_eq!((pushed.weight(), pushed.squares(), pushed.effective_rows()), (7.0, 7.0, 7.0));
        assert_eq!(Mass::default().effective_rows(), 0.0);
    }

    #[test]
    fn unequal_weights_say_less() {
        let mut mass = Mass::default();
        mass.push(Weight::of_rate(Some(0.25)));
        mass.push(Weight::ONE);
        assert_eq!((mass.weight(), mass.squares()), (5.0, 17.0));
        assert!((mass.effective_rows() - 25.0 / 17.0).abs() < 1e-15);
    }

    proptest! {
        #[test]
        fn e1_masses_merge(rates in prop::collection::vec(0.001..1.0_f64, 0..40), cut in 0_usize..40) {
            let of = |rates: &[f64]| {
                let mut mass = Mass::default();
                rates.iter().for_each(|rate| mass.push(Weight::of_rate(Some(*rate))));
                mass
            };
            let cut = cut.min(rates.len());
            let (left, right) = (of(&rates[..cut]), of(&rates[cut..]));
            prop_assert_eq!(left.with(right), of(&rates));
            prop_assert_eq!(right.with(left), of(&rates));
            let mut bytes = Vec::new();
            left.encode(&mut bytes);
            prop_assert_eq!(Mass::decode(&mut Reader::new(&bytes)), Some(left));
        }
    }
}
