//! A column's values in ascending order, each with the weight of what it stands for.

use std::ops::Range;

use crate::metrics::{
    Mass, Weight,
    binned::{Bin, Bins, Limit, largest_share},
    exact_sum::DoubledSum,
    scores::to_key,
    wire::{Reader, put_f64s, put_u64s},
};

/// Ascending values, none of them NaN. Eight bytes a row, sixteen where rows weigh differently, or what its limit allows: then a value
/// stands for the rows of a bin.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Sample {
    values: Vec<f64>,
    /// The weight of each, or nothing if all stand for themselves.
    weights: Vec<Weight>,
    /// Rows that are in bins. Once the sample is sorted all rows are, or none.
    bins: Bins,
    /// A value for each bin, once the sample is sorted.
    middles: Vec<f64>,
    limit: Option<Limit>,
}

/// A sample that is held elsewhere.
#[derive(Debug, Clone, Copy)]
pub struct SampleRef<'a> {
    values: &'a [f64],
    weights: &'a [Weight],
    /// The rows that each value stands for, or nothing if each is of one row.
    bins: &'a [Bin],
}

impl Sample {
    /// Rows that stand for themselves. `values`: ascending, without NaN.
    pub fn of_sorted(values: Vec<f64>) -> Self {
        Self { values, ..Self::default() }
    }

    /// Rows in bins, ascending.
    pub fn of_bins(bins: Vec<Bin>) -> Self {
        let middles = bins.iter().map(Bin::middle).collect();
        Self { middles, bins: Bins::from_list(bins), ..Self::default() }
    }

    /// An empty sample that keeps no more than this, as long as [`hold`](Self::hold) is called.
    pub fn held_to(limit: Option<Limit>) -> Self {
        Self { limit, ..Self::default() }
    }

    /// Puts values into bins, if the limit asks for it.
    pub fn hold(&mut self) {
        let Some(limit) = &self.limit else { return };
        if self.values.len() >= limit.bins {
            self.settle();
        }
        if let Some(limit) = &self.limit {
            self.bins.hold_to(limit);
        }
    }

    fn settle(&mut self) {
        let keys = std::mem::take(&mut self.values).into_iter().map(to_key).collect();
        let cuts = self.limit.as_ref().map_or(&[][..], |limit| limit.cuts.as_slice());
        self.bins.absorb(keys, std::mem::take(&mut self.weights), cuts);
    }

    /// The rows of all of these, sorted.
    pub fn merged<'a>(samples: impl Iterator<Item = &'a Self>) -> Self {
        let samples: Vec<&Self> = samples.collect();
        if let [one] = samples.as_slice() {
            return (*one).clone();
        }
        let mut all = Self::default();
        for sample in samples {
            all.merge(sample);
        }
        all.sorted()
    }

    /// Adds a row; a NaN is no value. The sample is one again once it is [`sorted`](Self::sorted).
    #[inline]
    pub fn push(&mut self, value: f64, weight: Weight) {
        if value.is_nan() {
            return;
        }
        if weight != Weight::ONE || !self.weights.is_empty() {
            self.weights.resize(self.values.len(), Weight::ONE);
            self.weights.push(weight);
        }
        self.values.push(value);
    }

    /// Adds all rows of another one, and is to be sorted again.
    pub fn merge(&mut self, other: &Self) {
        if self.limit.is_none() {
            self.limit.clone_from(&other.limit);
        }
        if !other.bins.is_empty() {
            let cuts = self.limit.as_ref().map_or(&[][..], |limit| limit.cuts.as_slice());
            self.bins.merge(&other.bins, cuts);
        }
        let before = self.values.len();
        self.values.extend_from_slice(&other.values);
        self.extend_weights(before, &other.weights);
    }

    /// Ascending again; rows of one value by weight, so that no order of rows shows.
    #[must_use]
    pub fn sorted(mut self) -> Self {
        if !self.bins.is_empty() {
            self.settle();
            if let Some(limit) = &self.limit {
                self.bins.hold_to(limit);
            }
            self.middles = self.bins.list().iter().map(Bin::middle).collect();
            return self;
        }
        if self.weights.is_empty() {
            self.values.sort_unstable_by(f64::total_cmp);
            return self;
        }
        let mut pairs: Vec<(f64, Weight)> = self.values.into_iter().zip(self.weights).collect();
        pairs.sort_unstable_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
        let (values, weights) = pairs.into_iter().unzip();
        Self { values, weights, ..self }
    }

    /// At most so many values, both ends among them: evenly spaced ones where rows stand for themselves. Where they weigh differently
    /// as many as rows of equal weight would say the same, by equal steps of weight, each of one weight.
    #[must_use]
    pub fn thinned(self, max: usize) -> Self {
        if !self.bins.is_empty() {
            return self.thinned_bins(max);
        }
        if self.values.len() <= max {
            return self;
        }
        if self.weights.is_empty() {
            let last = (self.values.len() - 1) as u128;
            let values = (0..max).map(|i| self.values[(i as u128 * last / (max as u128 - 1)) as usize]).collect();
            return Self::of_sorted(values);
        }
        let points = (self.as_ref().effective_rows() as usize).clamp(2, max);
        let all = self.as_ref().all_bits();
        let (mut at, mut below) = (0, u128::from(self.weights[0].bits()));
        let mut values = Vec::with_capacity(points);
        for point in 0..points as u128 {
            while at + 1 < self.values.len() && below * (points as u128 - 1) < point * all {
                at += 1;
                below += u128::from(self.weights[at].bits());
            }
            values.push(self.values[at]);
        }
        if let (Some(end), Some(largest)) = (values.last_mut(), self.values.last()) {
            *end = *largest;
        }
        Self::of_sorted(values)
    }

    /// The same of bins, a value each: by equal steps of weight, and both ends as they are.
    fn thinned_bins(self, max: usize) -> Self {
        let list = self.bins.list();
        let points = (self.as_ref().effective_rows() as usize).clamp(2, max);
        let all = self.as_ref().all_bits();
        let (mut at, mut below) = (0, self.as_ref().bits(0));
        let mut values = Vec::with_capacity(points);
        for point in 0..points as u128 {
            while at + 1 < list.len() && below * (points as u128 - 1) < point * all {
                at += 1;
                below += self.as_ref().bits(at);
            }
            values.push(list[at].middle());
        }
        if let (Some(first), Some(last)) = (list.first(), list.last()) {
            values[0] = first.smallest();
            values[points - 1] = last.largest();
        }
        Self::of_sorted(values)
    }

    /// To look at.
    pub fn as_ref(&self) -> SampleRef<'_> {
        let values = if self.bins.is_empty() { &self.values } else { &self.middles };
        SampleRef { values, weights: &self.weights, bins: self.bins.list() }
    }

    /// The values, ascending; those of bins stand for several rows.
    pub fn values(&self) -> &[f64] {
        self.as_ref().values()
    }

    /// The values, ascending, and the weight of each; no weights if all rows stand for themselves.
    pub fn into_parts(self) -> (Vec<f64>, Vec<Weight>) {
        (self.values, self.weights)
    }

    /// Memory held beyond the struct, bytes.
    pub fn size(&self) -> usize {
        (self.values.capacity() + self.middles.capacity()) * size_of::<f64>()
            + self.weights.capacity() * size_of::<Weight>()
            + self.bins.size()
    }

    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        put_f64s(out, &self.values);
        put_u64s(out, &self.weights.iter().map(|weight| weight.bits()).collect::<Vec<u64>>());
        // Bins that only a cut keeps apart must stay apart wherever they are merged.
        put_u64s(out, self.limit.as_ref().map_or(&[][..], |limit| limit.cuts.as_slice()));
        self.bins.encode(out);
    }

    /// A sample that was sorted when it was encoded.
    pub(crate) fn decode_sorted(reader: &mut Reader<'_>) -> Option<Self> {
        let mut sample = Self::default();
        sample.merge_encoded(reader)?;
        sample.middles = sample.bins.list().iter().map(Bin::middle).collect();
        Some(sample)
    }

    pub(crate) fn merge_encoded(&mut self, reader: &mut Reader<'_>) -> Option<()> {
        let before = self.values.len();
        reader.extend_f64s(&mut self.values)?;
        let mut weights = Vec::new();
        reader.extend_u64s(&mut weights)?;
        self.extend_weights(before, &weights.into_iter().map(Weight::from_bits).collect::<Vec<_>>());
        let mut cuts = Vec::new();
        reader.extend_u64s(&mut cuts)?;
        let bins = Bins::decode(reader)?;
        if !bins.is_empty() {
            let limit = self.limit.get_or_insert_with(|| Limit { cuts, ..Limit::none() });
            self.bins.merge(&bins, &limit.cuts);
        }
        Some(())
    }

    fn extend_weights(&mut self, before: usize, theirs: &[Weight]) {
        if self.weights.is_empty() && theirs.is_empty() {
            return;
        }
        self.weights.resize(before, Weight::ONE);
        self.weights.extend_from_slice(theirs);
        self.weights.resize(self.values.len(), Weight::ONE);
    }
}

impl<'a> SampleRef<'a> {
    /// Of what lies in two lists.
    ///
    /// # Inputs
    /// `values`: ascending, without NaN. `weights`: of each, or nothing if all rows stand for themselves.
    pub fn new(values: &'a [f64], weights: &'a [Weight]) -> Self {
        Self { values, weights, bins: &[] }
    }

    /// The values, ascending.
    pub fn values(self) -> &'a [f64] {
        self.values
    }

    /// Whether every row stands for itself.
    pub fn is_plain(self) -> bool {
        self.weights.is_empty() && self.bins.is_empty()
    }

    /// The rows that each value stands for; nothing if each is of one row.
    pub fn bins(self) -> &'a [Bin] {
        self.bins
    }

    /// Rows, whatever they weigh.
    pub fn rows(self) -> u64 {
        if self.bins.is_empty() { self.values.len() as u64 } else { self.bins.iter().map(|bin| bin.mass.rows()).sum() }
    }

    /// The smallest and the largest number.
    pub fn ends(self) -> Option<(f64, f64)> {
        match (self.bins.first(), self.bins.last()) {
            (Some(first), Some(last)) => Some((first.smallest(), last.largest())),
            _ => self.values.first().copied().zip(self.values.last().copied()),
        }
    }

    /// The number of a row in ascending order, from 0; of a bin's rows all have its largest.
    pub fn at_row(self, row: u64) -> Option<f64> {
        if self.bins.is_empty() {
            return self.values.get(usize::try_from(row).ok()?).copied();
        }
        let mut through = 0;
        let bin = self.bins.iter().find(|bin| {
            through += bin.mass.rows();
            through > row
        });
        bin.map(Bin::largest)
    }

    /// How far a distribution function may be off; 0 where each value is of one row.
    pub(crate) fn share_bound(self) -> f64 {
        largest_share(self.bins)
    }

    /// How far rows may lie from the value that stands for them, on the average; `None` where that is no number.
    pub(crate) fn reach_bound(self) -> Option<f64> {
        if self.bins.is_empty() {
            return Some(0.0);
        }
        let reach = self.bins.iter().map(|bin| bin.mass.weight() * bin.reach()).collect::<DoubledSum>().value();
        Some(reach / self.mass().weight()).filter(|reach| reach.is_finite())
    }

    /// Whether there are no rows.
    pub fn is_empty(self) -> bool {
        self.values.is_empty()
    }

    /// Some of the rows, in their order.
    #[must_use]
    pub(super) fn part(self, range: Range<usize>) -> Self {
        let weights = if self.weights.is_empty() { self.weights } else { &self.weights[range.clone()] };
        let bins = if self.bins.is_empty() { self.bins } else { &self.bins[range.clone()] };
        Self { values: &self.values[range], weights, bins }
    }

    /// The weight of all rows, in the unit of [`bits`](Self::bits).
    pub(super) fn all_bits(self) -> u128 {
        (0..self.values.len()).map(|row| self.bits(row)).sum()
    }

    /// The weight of a row as an integer: no order of rows changes a sum, and that of rows that stand for themselves is their number times a
    /// power of two.
    #[inline]
    pub(super) fn bits(self, row: usize) -> u128 {
        match self.bins.get(row) {
            Some(bin) => bin.mass.weight_bits(),
            None => u128::from(self.weights.get(row).copied().unwrap_or(Weight::ONE).bits()),
        }
    }

    /// What a value stands for.
    #[inline]
    pub(super) fn weight(self, row: usize) -> f64 {
        match self.bins.get(row) {
            Some(bin) => bin.mass.weight(),
            None => self.weights.get(row).copied().unwrap_or(Weight::ONE).value(),
        }
    }

    /// What all rows stand for.
    pub fn mass(self) -> Mass {
        if self.is_plain() {
            return Mass::of_rows(self.values.len() as u64);
        }
        let mut mass = Mass::default();
        self.weights.iter().for_each(|weight| mass.push(*weight));
        self.bins.iter().for_each(|bin| mass.merge(&bin.mass));
        mass
    }

    /// Rows of equal weight that would say as much (Kish); the number of rows where all stand for themselves.
    pub fn effective_rows(self) -> f64 {
        self.mass().effective_rows()
    }

    /// The value from which on the weight below is `q` of all; the mean with the next one where it is exactly that.
    ///
    /// # Source
    /// Hyndman & Fan (1996), definition 2; NumPy's `averaged_inverted_cdf`.
    pub(super) fn quantile(self, q: f64) -> Option<f64> {
        let last = self.values.len().checked_sub(1)?;
        let wanted = self.all_bits() as f64 * q;
        let mut below = 0_u128;
        for row in 0..last {
            below += self.bits(row);
            if below as f64 > wanted {
                return Some(self.values[row]);
            }
            if below as f64 == wanted {
                return Some(f64::midpoint(self.values[row], self.values[row + 1]));
            }
        }
        Some(self.values[last])
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sample(rows: &[(f64, f64)]) -> Sample {
        let mut sample = Sample::default();
        rows.iter().for_each(|(value, rate)| sample.push(*value, Weight::of_rate(Some(*rate))));
        sample.sorted()
    }

    #[test]
    fn rows_that_stand_for_themselves_have_no_weights() {
        let plain = sample(&[(2.0, 1.0), (f64::NAN, 0.5), (1.0, 1.0)]);
        assert_eq!(plain, Sample::of_sorted(vec![1.0, 2.0]));
        assert!(plain.as_ref().is_plain() && plain.as_ref().effective_rows() == 2.0);
        let mixed = sample(&[(2.0, 1.0), (1.0, 0.25)]);
        assert_eq!(mixed.as_ref().mass().weight(), 5.0);
        assert!((mixed.as_ref().effective_rows() - 25.0 / 17.0).abs() < 1e-12);
    }

    #[test]
    fn quantiles_are_of_the_weight() {
        let mixed = sample(&[(1.0, 0.25), (2.0, 1.0), (3.0, 1.0), (4.0, 0.5)]);
        // Weights 4, 1, 1 and 2.
        for (q, value) in [(0.1, 1.0), (0.49, 1.0), (0.5, 1.5), (0.6, 2.0), (0.7, 3.0), (0.8, 4.0), (1.0, 4.0)] {
            assert_eq!(mixed.as_ref().quantile(q), Some(value), "{q}");
        }
        assert_eq!(Sample::default().as_ref().quantile(0.5), None);
    }

    #[test]
    fn thinned_samples_keep_their_ends_and_what_they_say() {
        let plain = Sample::of_sorted((0..1000).map(f64::from).collect()).thinned(10);
        assert_eq!((plain.values().len(), plain.values()[0], plain.values()[9]), (10, 0.0, 999.0));
        // The lower half of the values stands for nine tenths of the rows.
        let rows: Vec<(f64, f64)> = (0..1000).map(|i| (f64::from(i), if i < 500 { 1.0 / 9.0 } else { 1.0 })).collect();
        let whole = sample(&rows);
        let effective = whole.as_ref().effective_rows();
        let thin = whole.clone().thinned(999);
        assert_eq!(thin.values().len(), effective as usize, "no more points than there are effective rows");
        assert!(thin.as_ref().is_plain());
        let below = thin.values().iter().filter(|value| **value < 500.0).count() as f64 / thin.values().len() as f64;
        assert!((below - 0.9).abs() < 2.0 / effective, "{below}");
        assert_eq!((thin.values()[0], thin.values().last()), (0.0, Some(&999.0)));
        assert_eq!(whole.clone().thinned(1000), whole);
    }

    proptest! {
        #[test]
        fn e1_samples_merge(
            rows in prop::collection::vec((-5.0..5.0_f64, prop_oneof![Just(1.0), 0.1..1.0_f64]), 0..40), cut in 0_usize..40,
        ) {
            let cut = cut.min(rows.len());
            let (left, right) = (sample(&rows[..cut]), sample(&rows[cut..]));
            let mut merged = left.clone();
            merged.merge(&right);
            let mut bytes = Vec::new();
            left.encode(&mut bytes);
            let mut decoded = right.clone();
            decoded.merge_encoded(&mut Reader::new(&bytes)).expect("whole state");
            let all = sample(&rows);
            for either in [merged.sorted(), decoded.sorted()] {
                // Each value with its own weight, too.
                prop_assert_eq!(&either, &all);
            }
        }
    }
}
