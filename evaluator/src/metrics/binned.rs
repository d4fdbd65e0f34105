//! Sorted numbers in bounded memory: as they are while there are few different ones, else by the leading bits that they share.
//!
//! ```text
//! keys in any order ─► sort ─► one bin a value ─► more bins than the limit? drop trailing bits until they fit
//! ```
//! How many bits are dropped depends on the whole of the numbers alone: a part of them never has more bins than all, so nothing that sees
//! a part drops more than the whole will. Order, batches and partitions change nothing (E1).

use serde::{Deserialize, Serialize};

use super::{
    mass::{Mass, Weight},
    scores::{Side, from_key, to_key},
    wire::{Reader, put_u64},
};

/// What sums of two doubles each may lose, beside a value of one.
pub const ROUNDING: f64 = 1e-14;
/// Bins of one state where memory does not ask for fewer: 4 MiB, and numbers that differ by a few ten-thousandths are told apart.
pub const BINS_MAX: usize = 1 << 16;
/// Bins of one state at the least: beside fewer a bound would say little.
pub const BINS_MIN: usize = 1 << 8;
/// What a bin takes: itself, and what waits for it or is written of it. A state is therefore never above 8 MiB for long.
pub const BIN_BYTES: usize = 2 * size_of::<Bin>();

/// How much a state may keep. A constant of SQL, as JSON.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limit {
    /// Bins that are kept, of all lists of a state together. Numbers are kept as they are below as many rows.
    pub bins: usize,
    /// Keys of numbers that no bin reaches across: a bin has what is at or below it, or what is above. Ascending.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cuts: Vec<u64>,
    /// Bits of the floats that central moments are taken around.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pivots: Vec<u64>,
    /// Classes that are told apart where there are too many, ascending; none: all are.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub classes: Vec<String>,
}

impl Limit {
    /// Rows as they are, however many.
    pub fn none() -> Self {
        Self::of(usize::MAX)
    }

    /// So many bins.
    pub fn of(bins: usize) -> Self {
        Self { bins, ..Self::default() }
    }

    /// With bins that end at each of these numbers.
    #[must_use]
    pub fn with_cuts(mut self, at: impl IntoIterator<Item = f64>) -> Self {
        self.cuts.extend(at.into_iter().filter(|cut| !cut.is_nan()).map(to_key));
        self.ordered()
    }

    /// With bins that begin at each of these numbers.
    #[must_use]
    pub fn with_starts(mut self, at: impl IntoIterator<Item = f64>) -> Self {
        self.cuts.extend(at.into_iter().filter(|cut| !cut.is_nan()).map(|cut| to_key(cut) - 1));
        self.ordered()
    }

    fn ordered(mut self) -> Self {
        self.cuts.sort_unstable();
        self.cuts.dedup();
        self
    }

    /// As JSON.
    pub fn json(&self) -> String {
        let cuts: Vec<String> = self.cuts.iter().map(u64::to_string).collect();
        let pivots: Vec<String> = self.pivots.iter().map(u64::to_string).collect();
        let classes = serde_json::Value::from(self.classes.as_slice());
        let (cuts, pivots) = (cuts.join(","), pivots.join(","));
        format!("{{\"bins\":{},\"cuts\":[{cuts}],\"pivots\":[{pivots}],\"classes\":{classes}}}", self.bins)
    }
}

/// Rows whose keys share their leading bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bin {
    /// The smallest key among them.
    pub low: u64,
    /// The largest.
    pub high: u64,
    /// The rows.
    pub mass: Mass,
}

impl Bin {
    /// Rows of one key.
    pub fn of(key: u64, mass: Mass) -> Self {
        Self { low: key, high: key, mass }
    }

    /// Whether all rows have the same number.
    pub fn is_one_value(&self) -> bool {
        self.low == self.high
    }

    /// The smallest number.
    pub fn smallest(&self) -> f64 {
        from_key(self.low)
    }

    /// The largest number.
    pub fn largest(&self) -> f64 {
        from_key(self.high)
    }

    /// A number in the middle, which stands for all.
    pub fn middle(&self) -> f64 {
        if self.is_one_value() { self.smallest() } else { f64::midpoint(self.smallest(), self.largest()) }
    }

    /// How far a row may lie from the middle.
    pub fn reach(&self) -> f64 {
        if self.is_one_value() { 0.0 } else { (self.largest() - self.middle()).max(self.middle() - self.smallest()) }
    }

    /// Whether two bins are one where so many bits are dropped.
    pub(super) fn shares_bin(&self, other: &Self, dropped: u32) -> bool {
        is_one_bin(self.low.min(other.low), self.low.max(other.low), dropped, &[])
    }

    fn join(&mut self, other: &Self) {
        self.low = self.low.min(other.low);
        self.high = self.high.max(other.high);
        self.mass.merge(&other.mass);
    }
}

/// Bins in ascending order, none of which reaches into another.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Bins {
    /// Trailing bits that do not tell bins apart.
    dropped: u32,
    list: Vec<Bin>,
}

/// Whether two keys, the first not above the second, are of one bin. Infinities are in bins of their own: a number stands for a bin.
#[inline]
fn is_one_bin(low: u64, high: u64, dropped: u32, cuts: &[u64]) -> bool {
    (low ^ high).checked_shr(dropped).unwrap_or(0) == 0 && !is_cut(low, high, cuts)
}

#[inline]
fn is_cut(low: u64, high: u64, cuts: &[u64]) -> bool {
    const LOWEST: u64 = !f64::NEG_INFINITY.to_bits();
    const HIGHEST: u64 = f64::MAX.to_bits() ^ 1 << 63;
    low != high
        && (low <= LOWEST
            || (low <= HIGHEST && high > HIGHEST)
            || cuts.get(cuts.partition_point(|cut| *cut < low)).is_some_and(|cut| *cut < high))
}

impl Bins {
    /// One bin.
    pub(super) fn of(bin: Bin) -> Self {
        Self { dropped: 0, list: vec![bin] }
    }

    /// Bins that are apart already.
    pub(crate) fn from_list(list: Vec<Bin>) -> Self {
        Self { dropped: 0, list }
    }

    /// The bins, ascending.
    pub fn into_list(self) -> Vec<Bin> {
        self.list
    }

    /// Trailing bits that do not tell bins apart.
    pub(super) fn dropped(&self) -> u32 {
        self.dropped
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// The bins, ascending.
    pub fn list(&self) -> &[Bin] {
        &self.list
    }

    /// All rows.
    pub fn mass(&self) -> Mass {
        self.list.iter().fold(Mass::default(), |all, bin| all.with(bin.mass))
    }

    /// Memory held, bytes.
    pub fn size(&self) -> usize {
        self.list.capacity() * size_of::<Bin>()
    }

    /// Adds rows, each with its key; without weights they stand for themselves.
    pub fn absorb(&mut self, keys: Vec<u64>, weights: Vec<Weight>, cuts: &[u64]) {
        if keys.is_empty() {
            return;
        }
        let mut fresh: Vec<Bin> = Vec::new();
        let mut add = |key: u64, weight: Weight| {
            let mut one = Mass::default();
            one.push(weight);
            let bin = Bin::of(key, one);
            match fresh.last_mut() {
                Some(last) if is_one_bin(last.low, key, self.dropped, cuts) => last.join(&bin),
                _ => fresh.push(bin),
            }
        };
        if weights.is_empty() {
            let mut keys = keys;
            keys.sort_unstable();
            keys.into_iter().for_each(|key| add(key, Weight::ONE));
        } else {
            let mut pairs: Vec<(u64, Weight)> = keys.into_iter().zip(weights).collect();
            pairs.sort_unstable();
            pairs.into_iter().for_each(|(key, weight)| add(key, weight));
        }
        self.join(fresh, self.dropped, cuts);
    }

    /// Adds all rows of other bins.
    pub fn merge(&mut self, other: &Self, cuts: &[u64]) {
        self.join(other.list.clone(), self.dropped.max(other.dropped), cuts);
    }

    /// Drops bits, if so many are not dropped yet.
    pub fn drop_bits(&mut self, dropped: u32, cuts: &[u64]) {
        if dropped > self.dropped {
            self.join(Vec::new(), dropped, cuts);
        }
    }

    fn join(&mut self, other: Vec<Bin>, dropped: u32, cuts: &[u64]) {
        let mine = std::mem::take(&mut self.list);
        let mut joined: Vec<Bin> = Vec::with_capacity(mine.len().max(other.len()));
        let (mut mine, mut other) = (mine.into_iter().peekable(), other.into_iter().peekable());
        loop {
            let next = match (mine.peek(), other.peek()) {
                (Some(a), Some(b)) if b.low < a.low => other.next(),
                (Some(_), _) => mine.next(),
                (None, _) => other.next(),
            };
            let Some(bin) = next else { break };
            match joined.last_mut() {
                Some(last) if is_one_bin(last.low, bin.low, dropped, cuts) => last.join(&bin),
                _ => joined.push(bin),
            }
        }
        (self.dropped, self.list) = (dropped, joined);
    }

    /// The bins of the numbers without their signs. A bin has numbers of both signs only where all bits are dropped.
    pub(super) fn sizes(&self) -> Self {
        // The key of −x is that of x with every bit turned.
        let mirrored = |bin: &Bin| Bin { low: !bin.high, high: !bin.low, mass: bin.mass };
        let zero = to_key(0.0);
        let (mut below, mut above) = (Vec::new(), Vec::new());
        for bin in &self.list {
            if bin.high < zero {
                below.push(mirrored(bin));
            } else if bin.low >= zero {
                above.push(*bin);
            } else {
                above.push(Bin { low: zero, high: bin.high.max(!bin.low), mass: bin.mass });
            }
        }
        below.reverse();
        let mut sizes = Self { dropped: self.dropped, list: above };
        sizes.merge(&Self { dropped: self.dropped, list: below }, &[]);
        sizes
    }

    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        put_u64(out, u64::from(self.dropped));
        put_u64(out, self.list.len() as u64);
        for bin in &self.list {
            put_u64(out, bin.low);
            put_u64(out, bin.high);
            bin.mass.encode(out);
        }
    }

    pub(crate) fn decode(reader: &mut Reader<'_>) -> Option<Self> {
        let dropped = u32::try_from(reader.u64()?).ok()?;
        let mut list = Vec::new();
        for _ in 0..reader.u64()? {
            list.push(Bin { low: reader.u64()?, high: reader.u64()?, mass: Mass::decode(reader)? });
        }
        Some(Self { dropped, list })
    }
}

/// Holds the lists of one state to its limit, all by the same leading bits, so that they can be swept together.
///
/// Rows that have come since the last time wait as they are until they are as many as the limit has bins.
/// # Inputs
/// `is_last`: whether no row follows. Then nothing waits, unless all rows together are fewer than the limit has bins: these stay as they
/// are, however they came.
pub fn hold_to(limit: &Limit, sides: &mut [&mut Side], is_last: bool) {
    let waiting: usize = sides.iter().map(|side| side.waiting()).sum();
    let is_due = waiting >= limit.bins
        || (is_last && (waiting > 0) && sides.iter().any(|side| !side.bins().is_empty()))
        || sides.iter().map(|side| side.bins().list.len()).sum::<usize>() > limit.bins;
    if !is_due {
        return;
    }
    for side in sides.iter_mut() {
        side.settle(&limit.cuts);
    }
    let dropped = bits_to_drop(limit, sides.iter().map(|side| side.bins()));
    for side in sides.iter_mut() {
        side.bins_mut().drop_bits(dropped, &limit.cuts);
    }
}

/// The fewest trailing bits without which the bins of all lists are no more than the limit; all 64 where cuts alone make more.
fn bits_to_drop<'a>(limit: &Limit, lists: impl Iterator<Item = &'a Bins>) -> u32 {
    let (mut dropped, mut apart) = (0, 0);
    // Neighbours that become one when so many bits are dropped.
    let mut joined_at = [0_usize; 65];
    for bins in lists {
        dropped = dropped.max(bins.dropped);
        apart += usize::from(!bins.is_empty());
        for pair in bins.list.windows(2) {
            if is_cut(pair[0].low, pair[1].low, &limit.cuts) {
                apart += 1;
            } else {
                joined_at[64 - (pair[0].low ^ pair[1].low).leading_zeros() as usize] += 1;
            }
        }
    }
    let kept = |bits: u32| apart + joined_at[bits as usize + 1..].iter().sum::<usize>();
    (dropped..64).find(|bits| kept(*bits) <= limit.bins).unwrap_or(64)
}

impl Bins {
    /// Holds one list to its limit.
    pub fn hold_to(&mut self, limit: &Limit) {
        if self.list.len() > limit.bins {
            self.drop_bits(bits_to_drop(limit, std::iter::once(&*self)), &limit.cuts);
        }
    }
}

/// The largest share that rows of one bin have of all, of bins with different numbers: how far a distribution function may be off.
pub fn largest_share(bins: &[Bin]) -> f64 {
    let all = bins.iter().fold(Mass::default(), |all, bin| all.with(bin.mass)).weight();
    let blurred = bins.iter().filter(|bin| !bin.is_one_value());
    blurred.map(|bin| bin.mass.weight() / all).fold(0.0, f64::max)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn held(rows: &[(f64, Weight)], limit: &Limit) -> Side {
        let mut side = Side::default();
        for (value, weight) in rows {
            side.push_score(*value, *weight);
            hold_to(limit, &mut [&mut side], false);
        }
        side
    }

    fn number() -> impl Strategy<Value = f64> {
        prop_oneof![
            8 => 0.0..1.0_f64,
            3 => -1e9..1e9_f64,
            1 => prop::sample::select(vec![0.0, -0.0, 5e-324, f64::MAX, f64::MIN, f64::INFINITY, f64::NEG_INFINITY, 0.5]),
        ]
    }

    fn row() -> impl Strategy<Value = (f64, Weight)> {
        (number(), prop_oneof![3 => Just(1.0), 1 => 0.1..1.0_f64])
            .prop_map(|(x, rate)| (x, Weight::of_rate(Some(rate))))
    }

    #[test]
    fn few_different_numbers_stay_as_they_are() {
        let rows: Vec<(f64, Weight)> = (0..10_000).map(|i| (f64::from(i % 100) / 7.0, Weight::ONE)).collect();
        let mut side = held(&rows, &Limit::of(256));
        hold_to(&Limit::of(256), &mut [&mut side], true);
        assert_eq!(side.bins().list().len(), 100);
        assert!(side.bins().list().iter().all(|bin| bin.is_one_value() && bin.mass == Mass::of_rows(100)));
    }

    #[test]
    fn infinities_are_in_no_bin_with_numbers() {
        let limit = Limit::of(2);
        let mut side = Side::default();
        for value in [f64::MAX, f64::INFINITY, 1.0, 2.0, f64::NEG_INFINITY, f64::MIN, -1.0] {
            side.push_score(value, Weight::ONE);
        }
        hold_to(&limit, &mut [&mut side], true);
        let bins: Vec<(f64, f64)> = side.bins().list().iter().map(|bin| (bin.smallest(), bin.largest())).collect();
        let whole = (f64::NEG_INFINITY, f64::NEG_INFINITY);
        assert_eq!(bins, [whole, (f64::MIN, f64::MAX), (f64::INFINITY, f64::INFINITY)]);
    }

    proptest! {
        #[test]
        fn e1_any_split_and_order_give_the_same_bins(
            rows in prop::collection::vec(row(), 0..200), bins in 4_usize..64, parts in 1_usize..6, turn in 0_usize..200,
        ) {
            let limit = Limit::of(bins);
            let mut whole = held(&rows, &limit);
            hold_to(&limit, &mut [&mut whole], true);
            let mut turned = rows.clone();
            turned.rotate_left(turn % rows.len().max(1));
            let mut merged = Side::default();
            for part in turned.chunks(rows.len() / parts + 1) {
                let mut bytes = Vec::new();
                held(part, &limit).encode(&mut bytes);
                merged.merge_encoded(&mut Reader::new(&bytes)).expect("whole state");
                hold_to(&limit, &mut [&mut merged], false);
            }
            hold_to(&limit, &mut [&mut merged], true);
            prop_assert_eq!(&whole, &merged);
            prop_assert_eq!(whole.bins(), merged.bins());
            prop_assert!(whole.bins().list().len() <= bins);
            let all = rows.iter().fold(Mass::default(), |mut all, (_, weight)| { all.push(*weight); all });
            prop_assert_eq!(whole.mass(), all);
        }
    }
}
