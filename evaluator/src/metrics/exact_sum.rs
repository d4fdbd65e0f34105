//! A sum of floats that forgets the order of its terms.
//!
//! Floating-point addition is not associative: two threads that add the same rows in another order publish another
//! last digit. [`ExactSum`] holds the sum as one wide integer instead, and rounds once, when it is read.

use super::wire::{Reader, put_i64, put_u64};

/// Bits a limb contributes to the wide integer; the rest of its `i64` is room for carries.
const LIMB_BITS: u32 = 32;
/// 2098 bits hold every finite f64 in units of 2⁻¹⁰⁷⁴; four more limbs leave room for 2⁶⁴ of the largest.
const LIMBS: usize = 70;
/// Terms that may be added before carries must be moved: a term puts less than 2³² on a limb and a limb holds 2⁶³.
/// Larger would overflow; smaller only costs time.
const TERMS_BEFORE_CARRY: u64 = 1 << 30;

/// The exact sum of the floats pushed so far.
///
/// # Formula
/// `round(Σ xᵢ)`, the sum taken without error and rounded to nearest, ties to even.
/// # Source
/// Shewchuk (1997), Adaptive Precision Floating-Point Arithmetic; Neal (2015), Fast Exact Summation Using Small and
/// Large Superaccumulators, whose small superaccumulator this is.
/// # Inputs
/// Any f64. NaN, or infinities of both signs, make the sum NaN; infinities of one sign make it that infinity.
/// # Returns
/// 0 when empty. Independent of order and of how pushes and merges were grouped, bit for bit.
#[derive(Debug, Clone)]
pub struct ExactSum {
    limbs: [i64; LIMBS],
    terms_since_carry: u64,
    positive_infinities: u64,
    negative_infinities: u64,
    nans: u64,
}

impl Default for ExactSum {
    fn default() -> Self {
        Self { limbs: [0; LIMBS], terms_since_carry: 0, positive_infinities: 0, negative_infinities: 0, nans: 0 }
    }
}

impl PartialEq for ExactSum {
    /// Equal sums, however they came about.
    fn eq(&self, other: &Self) -> bool {
        let (mut left, mut right) = (self.clone(), other.clone());
        left.carry();
        right.carry();
        left.limbs == right.limbs
            && left.positive_infinities == right.positive_infinities
            && left.negative_infinities == right.negative_infinities
            && left.nans == right.nans
    }
}

impl FromIterator<f64> for ExactSum {
    fn from_iter<I: IntoIterator<Item = f64>>(values: I) -> Self {
        let mut sum = Self::default();
        for value in values {
            sum.push(value);
        }
        sum
    }
}

impl ExactSum {
    /// Adds one term.
    #[inline]
    pub fn push(&mut self, value: f64) {
        let bits = value.to_bits();
        let exponent = ((bits >> 52) & 0x7ff) as u32;
        if exponent == 0x7ff {
            return self.push_special(value);
        }
        let fraction = bits & ((1 << 52) - 1);
        // A subnormal has no hidden bit and the exponent of the smallest normal.
        let (mantissa, shift) = if exponent == 0 { (fraction, 0) } else { (fraction | 1 << 52, exponent - 1) };
        let at = (shift / LIMB_BITS) as usize;
        let wide = u128::from(mantissa) << (shift % LIMB_BITS);
        // All ones when negative: (x ^ s) − s is −x, without a branch.
        let sign = (bits as i64) >> 63;
        for (limb, part) in
            self.limbs[at..at + 3].iter_mut().zip([wide as u32, (wide >> 32) as u32, (wide >> 64) as u32])
        {
            *limb += (i64::from(part) ^ sign) - sign;
        }
        self.terms_since_carry += 1;
        if self.terms_since_carry >= TERMS_BEFORE_CARRY {
            self.carry();
        }
    }

    /// Adds all terms of another sum.
    pub fn merge(&mut self, other: &Self) {
        let mut other = other.clone();
        self.carry();
        other.carry();
        for (mine, theirs) in self.limbs.iter_mut().zip(other.limbs) {
            *mine += theirs;
        }
        self.carry();
        self.positive_infinities += other.positive_infinities;
        self.negative_infinities += other.negative_infinities;
        self.nans += other.nans;
    }

    /// The sum, rounded once.
    pub fn value(&self) -> f64 {
        if self.nans > 0 || (self.positive_infinities > 0 && self.negative_infinities > 0) {
            return f64::NAN;
        }
        if self.positive_infinities > 0 {
            return f64::INFINITY;
        }
        if self.negative_infinities > 0 {
            return f64::NEG_INFINITY;
        }
        let mut exact = self.clone();
        exact.carry();
        let negative = exact.limbs[LIMBS - 1] < 0;
        if negative {
            for limb in &mut exact.limbs {
                *limb = -*limb;
            }
            exact.carry();
        }
        let magnitude = round_magnitude(&exact.limbs);
        if negative { -magnitude } else { magnitude }
    }

    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        let mut exact = self.clone();
        exact.carry();
        for limb in exact.limbs {
            put_i64(out, limb);
        }
        put_u64(out, exact.positive_infinities);
        put_u64(out, exact.negative_infinities);
        put_u64(out, exact.nans);
    }

    pub(crate) fn decode(reader: &mut Reader<'_>) -> Option<Self> {
        let mut sum = Self::default();
        for limb in &mut sum.limbs {
            *limb = reader.i64()?;
        }
        sum.terms_since_carry = 1;
        sum.positive_infinities = reader.u64()?;
        sum.negative_infinities = reader.u64()?;
        sum.nans = reader.u64()?;
        Some(sum)
    }

    #[cold]
    fn push_special(&mut self, value: f64) {
        if value.is_nan() {
            self.nans += 1;
        } else if value > 0.0 {
            self.positive_infinities += 1;
        } else {
            self.negative_infinities += 1;
        }
    }

    /// Brings every limb but the topmost into `0..2³²`. The top limb carries the sign, so the form is unique.
    fn carry(&mut self) {
        let mut carried = 0_i64;
        for limb in &mut self.limbs[..LIMBS - 1] {
            let total = *limb + carried;
            carried = total >> LIMB_BITS;
            *limb = total & 0xffff_ffff;
        }
        self.limbs[LIMBS - 1] += carried;
        self.terms_since_carry = 1;
    }
}

/// Rounds carried, non-negative limbs to the nearest f64, ties to even.
fn round_magnitude(limbs: &[i64; LIMBS]) -> f64 {
    let Some(top) = limbs.iter().rposition(|limb| *limb != 0) else { return 0.0 };
    let top_bit = top as u32 * LIMB_BITS + (63 - limbs[top].leading_zeros());
    if top_bit < 53 {
        // At most 53 bits in units of 2⁻¹⁰⁷⁴: these are the bits of the float itself, subnormal or of the smallest binade.
        return f64::from_bits(limbs[0] as u64 | (limbs[1] as u64) << LIMB_BITS);
    }
    let bit = |at: u32| (limbs[(at / LIMB_BITS) as usize] >> (at % LIMB_BITS)) & 1;
    let lowest = top_bit - 52;
    let mantissa = (lowest..=top_bit).rev().fold(0_u64, |acc, at| acc << 1 | bit(at) as u64);
    let half = bit(lowest - 1) == 1;
    let beyond = (0..lowest - 1).any(|at| bit(at) == 1);
    let rounded = mantissa + u64::from(half && (beyond || mantissa & 1 == 1));
    // `lowest` is the exponent of the last place; a carry out of the mantissa moves into the exponent by itself.
    let biased = u64::from(lowest) + 1;
    if biased >= 0x7ff {
        return f64::INFINITY;
    }
    f64::from_bits((biased << 52) + (rounded - (1 << 52)))
}

/// A sum of twice the digits of a float, for terms that come in one order whatever happens, such as sorted ones.
///
/// # Source
/// Knuth (1969), The Art of Computer Programming 2, 4.2.2: the rounding error of an addition is a float, and is kept.
/// # Inputs
/// Finite terms.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct DoubledSum {
    high: f64,
    low: f64,
}

impl DoubledSum {
    /// Adds one term.
    #[inline]
    pub fn push(&mut self, value: f64) {
        let sum = self.high + value;
        let back = sum - self.high;
        self.low += (self.high - (sum - back)) + (value - back);
        self.high = sum;
    }

    /// The sum, rounded once.
    pub fn value(&self) -> f64 {
        self.high + self.low
    }

    /// What was added since it was `earlier`.
    pub fn since(&self, earlier: &Self) -> f64 {
        (self.high - earlier.high) + (self.low - earlier.low)
    }
}

impl FromIterator<f64> for DoubledSum {
    fn from_iter<I: IntoIterator<Item = f64>>(values: I) -> Self {
        let mut sum = Self::default();
        for value in values {
            sum.push(value);
        }
        sum
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sum(values: &[f64]) -> f64 {
        values.iter().copied().collect::<ExactSum>().value()
    }

    /// An integer far wider than any test needs, added digit by digit: slow, and shares nothing with the accumulator.
    fn sum_by_sorting_out_cancellation(values: &[f64]) -> f64 {
        // Shewchuk's grow-expansion with exact two-sums, then one correctly rounded pass (Python's `math.fsum`).
        let mut partials: Vec<f64> = Vec::new();
        for &value in values {
            let mut x = value;
            let mut kept = Vec::new();
            for &partial in &partials {
                let (big, small) = if x.abs() < partial.abs() { (partial, x) } else { (x, partial) };
                let high = big + small;
                let low = small - (high - big);
                if low != 0.0 {
                    kept.push(low);
                }
                x = high;
            }
            kept.push(x);
            partials = kept;
        }
        let Some(mut high) = partials.pop() else { return 0.0 };
        let mut low = 0.0;
        while let Some(partial) = partials.pop() {
            let x = high;
            high = x + partial;
            low = partial - (high - x);
            if low != 0.0 {
                break;
            }
        }
        if let Some(&next) = partials.last()
            && ((low < 0.0 && next < 0.0) || (low > 0.0 && next > 0.0))
        {
            let twice = low * 2.0;
            let x = high + twice;
            if twice == x - high {
                high = x;
            }
        }
        high
    }

    #[test]
    fn hand_worked() {
        for (values, expected) in [
            (vec![], 0.0),
            (vec![-0.0], 0.0),
            (vec![0.1; 10], 1.0),
            (vec![1e308, 1e308, -1e308, -1e308, 1.0], 1.0),
            (vec![1e16, 1.0, -1e16], 1.0),
            (vec![f64::MIN_POSITIVE / 4.0, f64::MIN_POSITIVE / 4.0], f64::MIN_POSITIVE / 2.0),
            (vec![5e-324, -5e-324], 0.0),
            (vec![f64::MAX, f64::MAX], f64::INFINITY),
            (vec![-f64::MAX, -f64::MAX], f64::NEG_INFINITY),
            (vec![f64::MAX], f64::MAX),
            (vec![9007199254740992.0, 1.0], 9007199254740992.0),
            (vec![9007199254740992.0, 1.0, 1e-300], 9007199254740994.0),
            (vec![9007199254740994.0, 1.0], 9007199254740996.0),
            (vec![f64::INFINITY, -1.0], f64::INFINITY),
            (vec![-2.5, 1.0], -1.5),
        ] {
            assert_eq!(sum(&values).to_bits(), expected.to_bits(), "{values:?}");
        }
        assert!(sum(&[f64::INFINITY, f64::NEG_INFINITY]).is_nan());
        assert!(sum(&[f64::NAN, 1.0]).is_nan());
    }

    fn any_finite() -> impl Strategy<Value = f64> {
        prop_oneof![
            any::<f64>().prop_filter("finite", |x| x.is_finite() && x.abs() < 1e300),
            -1.0..1.0_f64,
            Just(5e-324),
            Just(-f64::MIN_POSITIVE),
        ]
    }

    proptest! {
        #[test]
        fn e1_exact_sum_equals_an_independent_exact_sum(values in prop::collection::vec(any_finite(), 0..60)) {
            prop_assert_eq!(sum(&values), sum_by_sorting_out_cancellation(&values));
        }

        #[test]
        fn e1_exact_sum_forgets_order_and_grouping(values in prop::collection::vec(any_finite(), 0..60), cut in 0_usize..60) {
            let cut = cut.min(values.len());
            let whole: ExactSum = values.iter().copied().collect();
            let reversed: ExactSum = values.iter().rev().copied().collect();
            let (mut left, right): (ExactSum, ExactSum) =
                (values[..cut].iter().copied().collect(), values[cut..].iter().copied().collect());
            let mut swapped = right.clone();
            swapped.merge(&left);
            left.merge(&right);
            for other in [&reversed, &left, &swapped] {
                prop_assert_eq!(&whole, other);
                prop_assert_eq!(whole.value().to_bits(), other.value().to_bits());
            }
            let mut bytes = Vec::new();
            whole.encode(&mut bytes);
            prop_assert_eq!(ExactSum::decode(&mut Reader::new(&bytes)), Some(whole));
        }
    }
}
