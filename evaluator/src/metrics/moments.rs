//! The mean of a column with an interval, from sums that are kept while rows go by.

use super::{
    Estimate, ExactSum,
    interval::{Interval, Method, mean},
    mass::{Mass, Weight},
    wire::Reader,
};

/// Sums of the first three powers.
///
/// # Inputs
/// Numbers whose mean is not large beside their spread, as losses are: of others the powers would lose their digits.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Moments {
    rows: Mass,
    sums: [ExactSum; 3],
}

impl Moments {
    /// Adds a row's value.
    pub fn push(&mut self, value: f64, weight: Weight) {
        self.rows.push(weight);
        let once = weight.value() * value;
        for (sum, power) in self.sums.iter_mut().zip([once, once * value, once * value * value]) {
            sum.push(power);
        }
    }

    /// Adds all values of another state.
    pub fn merge(&mut self, other: &Self) {
        self.rows.merge(&other.rows);
        for (mine, theirs) in self.sums.iter_mut().zip(&other.sums) {
            mine.merge(theirs);
        }
    }

    /// The mean; `scarcest` is the number of rows of the scarcest kind that it rests on.
    ///
    /// # Inputs
    /// At least one value was pushed.
    pub fn mean(&self, scarcest: f64) -> Estimate {
        let sums = [self.sums[0].value(), self.sums[1].value(), self.sums[2].value()];
        estimate(&self.rows, sums, scarcest)
    }

    /// Over n.
    pub(crate) fn variance(&self) -> f64 {
        let weight = self.rows.weight();
        (self.sums[1].value() / weight - (self.sums[0].value() / weight).powi(2)).max(0.0)
    }

    /// A mean of any sign, not below `floor`, and a warning where the values have too long a tail for so many rows.
    ///
    /// # Inputs
    /// At least one value was pushed.
    pub(crate) fn mean_above(&self, floor: f64) -> Estimate {
        let sums = [self.sums[0].value(), self.sums[1].value(), self.sums[2].value()];
        mean_of_sums(&self.rows, sums, 0.0, floor)
    }

    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        self.rows.encode(out);
        for sum in &self.sums {
            sum.encode(out);
        }
    }

    pub(crate) fn decode(reader: &mut Reader<'_>) -> Option<Self> {
        let rows = Mass::decode(reader)?;
        Some(Self { rows, sums: [ExactSum::decode(reader)?, ExactSum::decode(reader)?, ExactSum::decode(reader)?] })
    }
}

/// A mean that cannot be negative, from the weighted sums of the first three powers: [`Method::HallT`] on the effective rows.
pub(crate) fn estimate(all: &Mass, sums: [f64; 3], scarcest: f64) -> Estimate {
    let (weight, rows) = (all.weight(), all.effective_rows());
    let [value, second, third] = sums.map(|sum| sum / weight);
    let variance = second - value * value;
    if all.rows() < 2 || rows <= 1.0 || !variance.is_finite() {
        return Estimate::bare(value);
    }
    // What is left of equal values is rounding.
    let variance = if variance < 1e-13 * value * value { 0.0 } else { variance };
    let third = third - 3.0 * value * second + 2.0 * value.powi(3);
    let skewness = if variance > 0.0 { third / variance.powf(1.5) } else { 0.0 };
    of_moments(value, variance, skewness, rows, 0.0).with_rows(scarcest)
}

/// A mean, not below `floor`, from the weighted sums of the first three powers of what values are above a pivot.
pub(crate) fn mean_of_sums(all: &Mass, sums: [f64; 3], pivot: f64, floor: f64) -> Estimate {
    let (weight, rows) = (all.weight(), all.effective_rows());
    let [first, second, third] = sums.map(|sum| sum / weight);
    let variance = second - first * first;
    if all.rows() < 2 || rows <= 1.0 || !variance.is_finite() {
        return Estimate::bare(pivot + first);
    }
    let variance = if variance < 1e-13 * first * first { 0.0 } else { variance };
    let third = third - 3.0 * first * second + 2.0 * first.powi(3);
    let skewness = if variance > 0.0 { third / variance.powf(1.5) } else { 0.0 };
    if !skewness.is_finite() {
        return Estimate::bare(pivot + first);
    }
    let estimate = of_moments(pivot + first, variance, skewness, rows, floor).with_rows(rows);
    Estimate { interval: estimate.interval.map(|interval| interval.on_skewness(skewness, rows)), ..estimate }
}

/// A mean, not below `floor`, from the variance over n and the skewness.
pub(crate) fn of_moments(value: f64, variance: f64, skewness: f64, rows: f64, floor: f64) -> Estimate {
    let deviation = (variance * rows / (rows - 1.0)).sqrt();
    let (low, high) = mean(value, deviation, skewness, rows);
    let interval = Interval::new((low.max(floor), high), Method::HallT);
    Estimate::bare(value).with_interval(interval).with_error(deviation / rows.sqrt(), rows)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn moments(values: &[f64]) -> Moments {
        let mut moments = Moments::default();
        values.iter().for_each(|value| moments.push(*value, Weight::ONE));
        moments
    }

    #[test]
    fn one_row_and_equal_rows() {
        assert_eq!(moments(&[0.3]).mean(50.0), Estimate::bare(0.3), "one row has no error");
        let equal = moments(&[0.1; 12]).mean(50.0);
        let interval = equal.interval.expect("rows");
        assert!((interval.low - 0.1).abs() < 1e-12 && (interval.high - 0.1).abs() < 1e-12, "{interval:?}");
    }

    #[test]
    fn a_symmetric_sample_has_students_interval() {
        // scipy.stats.t.interval(0.95, 3, loc=2.5, scale=scipy.stats.sem([1, 2, 3, 4]))
        let interval = moments(&[1.0, 2.0, 3.0, 4.0]).mean(50.0).interval.expect("rows");
        assert!((interval.low - 0.44573974323947514).abs() < 1e-9, "{interval:?}");
        assert!((interval.high - 4.554260256760525).abs() < 1e-9, "{interval:?}");
    }

    proptest! {
        #[test]
        fn e1_moments_merge(values in prop::collection::vec(0.0..40.0_f64, 0..40), cut in 0_usize..40) {
            let cut = cut.min(values.len());
            let (mut left, right) = (moments(&values[..cut]), moments(&values[cut..]));
            let mut bytes = Vec::new();
            left.encode(&mut bytes);
            let mut swapped = right.clone();
            swapped.merge(&Moments::decode(&mut Reader::new(&bytes)).expect("whole state"));
            left.merge(&right);
            prop_assert_eq!(&left, &swapped);
            prop_assert_eq!(left, moments(&values));
        }
    }
}
