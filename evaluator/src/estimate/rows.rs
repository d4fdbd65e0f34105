//! The rows that estimates are made from: mergeable states that keep what is needed of each row, in any order.

use std::collections::{BTreeMap, HashMap};

use crate::{
    drift::Sample,
    metrics::{
        OTHER, Weight,
        binned::{Limit, hold_to},
        multiclass::CLASSES_MAX,
        scores::{Side, aligned_bins},
        wire::{Reader, put_f64s, put_text, put_u64, put_u64s},
    },
};

/// Values in four lists, by two flags. Eight bytes a row, sixteen where rows weigh differently, or what the limit allows.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct FlaggedValues {
    lists: [[Side; 2]; 2],
    limit: Option<Limit>,
}

impl FlaggedValues {
    /// An empty state that keeps no more than this, as long as [`hold`](Self::hold) is called.
    pub fn held_to(limit: Option<Limit>) -> Self {
        Self { limit, ..Self::default() }
    }

    /// Puts values into bins, if the limit asks for it; `is_last`: no row follows.
    pub fn hold(&mut self, is_last: bool) {
        if let Some(limit) = &self.limit {
            let [[first, second], [third, fourth]] = &mut self.lists;
            hold_to(limit, &mut [first, second, third, fourth], is_last);
        }
    }

    /// Adds a row; a NaN is no value.
    #[inline]
    pub fn push(&mut self, first: bool, second: bool, value: f64, weight: Weight) {
        self.lists[usize::from(first)][usize::from(second)].push_score(value, weight);
    }

    /// Adds all rows of another state.
    pub fn merge(&mut self, other: &Self) {
        for (mine, theirs) in self.lists.iter_mut().flatten().zip(other.lists.iter().flatten()) {
            mine.merge(theirs);
        }
    }

    /// The rows with these flags.
    pub fn list(&self, first: bool, second: bool) -> &Side {
        &self.lists[usize::from(first)][usize::from(second)]
    }

    /// The rows with this second flag, whatever the first, ascending.
    pub fn by_second(&self, second: bool) -> Side {
        let mut all = self.list(false, second).clone();
        all.merge(self.list(true, second));
        all.sorted()
    }

    /// The rows with this first flag, whatever the second, ascending.
    pub fn by_first(&self, first: bool) -> Side {
        let mut all = self.list(first, false).clone();
        all.merge(self.list(first, true));
        all.sorted()
    }

    /// The values of these, each of one row: those of a bin are taken for one another.
    pub fn sample_by_first(&self, first: bool) -> Sample {
        let side = self.by_first(first);
        if side.bins().is_empty() {
            Sample::of_sorted(side.values().collect())
        } else {
            Sample::of_bins(side.into_bins())
        }
    }

    /// The values with this first flag unset, and those with it set, of which those that share a bin are at the same place.
    pub fn samples_by_first(&self) -> [Sample; 2] {
        let (unset, set) = (self.by_first(false), self.by_first(true));
        if unset.bins().is_empty() && set.bins().is_empty() {
            return [self.sample_by_first(false), self.sample_by_first(true)];
        }
        aligned_bins(&unset, &set).map(Sample::of_bins)
    }

    /// Memory held, bytes.
    pub fn size(&self) -> usize {
        self.lists.iter().flatten().map(Side::size).sum()
    }

    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        self.lists.iter().flatten().for_each(|side| side.encode(out));
    }

    pub(crate) fn merge_encoded(&mut self, reader: &mut Reader<'_>) -> Option<()> {
        self.lists.iter_mut().flatten().try_for_each(|side| side.merge_encoded(reader))
    }
}

/// Rows with a class (a label, or a prediction) and probabilities by class. Twelve bytes a probability, and twenty a row.
#[derive(Debug, Clone, Default)]
pub struct ClassRows {
    names: Vec<String>,
    places: HashMap<String, u32>,
    class_of: Vec<u32>,
    weights: Vec<Weight>,
    /// Where each row's probabilities end.
    ends: Vec<u64>,
    classes: Vec<u32>,
    probabilities: Vec<f64>,
    /// Rows of each class without and with a label, those without probabilities too.
    counts: BTreeMap<u32, [u64; 2]>,
    /// Whether rows are only counted: there is no memory for their probabilities.
    is_counted_only: bool,
    /// Whether there were more than [`CLASSES_MAX`] classes. Rows are only counted then, all as [`OTHER`].
    has_too_many_classes: bool,
}

/// The rows of a [`ClassRows`] over a fixed list of classes, in an order of their own content.
#[derive(Debug, Clone, PartialEq)]
pub struct Table {
    /// Row after row, a probability for each class; 0 for one that the event leaves out.
    probabilities: Vec<f64>,
    width: usize,
    /// The class of each row; none if it is not in the list.
    pub class_of: Vec<Option<usize>>,
    /// The names of the classes that are not in the list, of each row that has one.
    pub other_classes: Vec<Option<String>>,
    /// The weight of each row.
    pub weights: Vec<Weight>,
}

impl Table {
    /// Rows.
    pub fn rows(&self) -> usize {
        self.class_of.len()
    }

    /// The probabilities of a row, by class.
    pub fn row(&self, row: usize) -> &[f64] {
        &self.probabilities[row * self.width..(row + 1) * self.width]
    }
}

impl ClassRows {
    /// An empty state. With a limit, rows are counted and not kept: probabilities of several classes fall into no few bins.
    pub fn held_to(limit: Option<Limit>) -> Self {
        Self { is_counted_only: limit.is_some(), ..Self::default() }
    }

    /// Whether rows were counted and not kept.
    pub fn is_counted_only(&self) -> bool {
        self.is_counted_only
    }

    /// Whether there were too many classes to tell apart, so that rows were counted together.
    pub fn has_too_many_classes(&self) -> bool {
        self.has_too_many_classes
    }

    /// Adds a row. Without a class, the most probable one stands for it, the first in text order if several are; probabilities
    /// with a NaN among them are no probabilities, and a row without any only counts for [`ClassRows::counts`].
    pub fn push(&mut self, class: Option<&str>, probabilities: &[(&str, f64)], is_labelled: bool, weight: Weight) {
        let probabilities = if probabilities.iter().any(|(_, p)| p.is_nan()) { &[] } else { probabilities };
        let best = probabilities
            .iter()
            .reduce(|best, next| if next.1 > best.1 || (next.1 == best.1 && next.0 < best.0) { next } else { best });
        let Some(class) = class.or(best.map(|(class, _)| *class)) else { return };
        let place = self.place(if self.has_too_many_classes { OTHER } else { class });
        self.counts.entry(place).or_default()[usize::from(is_labelled)] += 1;
        if probabilities.is_empty() || self.is_counted_only {
            self.bound_classes();
            return;
        }
        self.class_of.push(place);
        self.weights.push(weight);
        for (class, probability) in probabilities {
            let place = self.place(class);
            self.classes.push(place);
            self.probabilities.push(*probability);
        }
        self.ends.push(self.probabilities.len() as u64);
        self.bound_classes();
    }

    /// Adds all rows of another state.
    pub fn merge(&mut self, other: &Self) {
        if other.has_too_many_classes {
            self.give_up();
        }
        self.is_counted_only |= other.is_counted_only;
        if self.has_too_many_classes {
            let place = self.place(OTHER);
            let mine = self.counts.entry(place).or_default();
            *mine = other.counts.values().fold(*mine, |all, counts| [all[0] + counts[0], all[1] + counts[1]]);
            return;
        }
        let places: Vec<u32> = other.names.iter().map(|name| self.place(name)).collect();
        let before = self.probabilities.len() as u64;
        self.class_of.extend(other.class_of.iter().map(|class| places[*class as usize]));
        self.weights.extend_from_slice(&other.weights);
        self.ends.extend(other.ends.iter().map(|end| before + end));
        self.classes.extend(other.classes.iter().map(|class| places[*class as usize]));
        self.probabilities.extend_from_slice(&other.probabilities);
        for (class, counts) in &other.counts {
            let mine = self.counts.entry(places[*class as usize]).or_default();
            *mine = [mine[0] + counts[0], mine[1] + counts[1]];
        }
        self.bound_classes();
    }

    /// Lets go of the rows, and keeps their number, where there are too many classes. Of a part of the rows there are never more than of all.
    fn bound_classes(&mut self) {
        if self.names.len() > CLASSES_MAX {
            self.give_up();
        }
    }

    fn give_up(&mut self) {
        let all = self.counts.values().fold([0, 0], |all, counts| [all[0] + counts[0], all[1] + counts[1]]);
        *self = Self { is_counted_only: true, has_too_many_classes: true, ..Self::default() };
        let place = self.place(OTHER);
        self.counts.insert(place, all);
    }

    /// Rows of each class without and with a label, by name.
    pub fn counts(&self) -> BTreeMap<&str, [u64; 2]> {
        self.counts.iter().map(|(class, counts)| (self.names[*class as usize].as_str(), *counts)).collect()
    }

    /// Rows with probabilities.
    pub fn scored(&self) -> u64 {
        self.class_of.len() as u64
    }

    /// The classes of rows with probabilities.
    pub fn classes(&self) -> std::collections::BTreeSet<&str> {
        self.class_of.iter().map(|class| self.names[*class as usize].as_str()).collect()
    }

    /// The rows with probabilities over a list of classes, sorted by content, so that what is summed over them does not depend
    /// on the order they came in.
    pub fn table(&self, classes: &[&str]) -> Table {
        let listed: HashMap<&str, usize> = classes.iter().enumerate().map(|(at, class)| (*class, at)).collect();
        let columns: Vec<Option<usize>> = self.names.iter().map(|name| listed.get(name.as_str()).copied()).collect();
        let width = classes.len();
        let mut dense = vec![0.0; self.class_of.len() * width];
        let mut from = 0_usize;
        for (row, end) in self.ends.iter().enumerate() {
            for at in from..*end as usize {
                if let Some(column) = columns[self.classes[at] as usize] {
                    dense[row * width + column] = self.probabilities[at];
                }
            }
            from = *end as usize;
        }
        let row_of = |row: usize| &dense[row * width..(row + 1) * width];
        let name_of = |row: usize| self.names[self.class_of[row] as usize].as_str();
        let mut order: Vec<usize> = (0..self.class_of.len()).collect();
        order.sort_unstable_by(|a, b| {
            let by_probability = row_of(*a).iter().zip(row_of(*b)).map(|(x, y)| x.total_cmp(y));
            let first = by_probability.into_iter().find(|order| order.is_ne()).unwrap_or(std::cmp::Ordering::Equal);
            first.then_with(|| name_of(*a).cmp(name_of(*b))).then_with(|| self.weights[*a].cmp(&self.weights[*b]))
        });
        let column_of = |row: usize| columns[self.class_of[row] as usize];
        Table {
            probabilities: order.iter().flat_map(|row| row_of(*row)).copied().collect(),
            width,
            class_of: order.iter().map(|row| column_of(*row)).collect(),
            other_classes: order
                .iter()
                .map(|row| column_of(*row).is_none().then(|| name_of(*row).to_owned()))
                .collect(),
            weights: order.iter().map(|row| self.weights[*row]).collect(),
        }
    }

    /// Memory held, bytes.
    pub fn size(&self) -> usize {
        let words = self.weights.capacity() + self.ends.capacity() + self.probabilities.capacity();
        let names: usize = self.names.iter().map(|name| 2 * name.len() + 64).sum();
        8 * words + 4 * (self.class_of.capacity() + self.classes.capacity()) + names
    }

    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        put_u64(out, u64::from(self.is_counted_only) + 2 * u64::from(self.has_too_many_classes));
        put_u64(out, self.names.len() as u64);
        self.names.iter().for_each(|name| put_text(out, name));
        let wide = |narrow: &[u32]| narrow.iter().map(|place| u64::from(*place)).collect::<Vec<u64>>();
        put_u64s(out, &wide(&self.class_of));
        put_u64s(out, &self.weights.iter().map(|weight| weight.bits()).collect::<Vec<u64>>());
        put_u64s(out, &self.ends);
        put_u64s(out, &wide(&self.classes));
        put_f64s(out, &self.probabilities);
        let counts = self.counts.iter().flat_map(|(class, counts)| [u64::from(*class), counts[0], counts[1]]);
        put_u64s(out, &counts.collect::<Vec<u64>>());
    }

    pub(crate) fn merge_encoded(&mut self, reader: &mut Reader<'_>) -> Option<()> {
        let flags = reader.u64()?;
        let mut other =
            Self { is_counted_only: flags & 1 == 1, has_too_many_classes: flags & 2 == 2, ..Self::default() };
        for _ in 0..reader.u64()? {
            other.place(&reader.text()?);
        }
        let words = |reader: &mut Reader<'_>| {
            let mut words = Vec::new();
            reader.extend_u64s(&mut words)?;
            Some(words)
        };
        let known = other.names.len() as u64;
        let narrow = |wide: Vec<u64>| -> Option<Vec<u32>> {
            wide.into_iter().map(|place| u32::try_from(place).ok().filter(|_| place < known)).collect()
        };
        other.class_of = narrow(words(reader)?)?;
        other.weights = words(reader)?.into_iter().map(Weight::from_bits).collect();
        other.ends = words(reader)?;
        other.classes = narrow(words(reader)?)?;
        reader.extend_f64s(&mut other.probabilities)?;
        for triple in words(reader)?.chunks_exact(3) {
            other.counts.insert(u32::try_from(triple[0]).ok().filter(|_| triple[0] < known)?, [triple[1], triple[2]]);
        }
        self.merge(&other);
        Some(())
    }

    fn place(&mut self, class: &str) -> u32 {
        if let Some(place) = self.places.get(class) {
            return *place;
        }
        let place = self.names.len() as u32;
        self.places.insert(class.to_owned(), place);
        self.names.push(class.to_owned());
        place
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_row_without_probabilities_counts_and_one_without_a_class_has_its_most_probable() {
        let mut rows = ClassRows::default();
        rows.push(Some("cat"), &[], true, Weight::ONE);
        rows.push(None, &[("dog", 0.4), ("cat", 0.4), ("bird", 0.2)], false, Weight::ONE);
        rows.push(Some("cat"), &[("dog", f64::NAN)], false, Weight::ONE);
        rows.push(None, &[], true, Weight::ONE);
        assert_eq!(rows.counts(), [("cat", [2, 1])].into());
        let table = rows.table(&["bird", "dog"]);
        assert_eq!((table.rows(), table.row(0)), (1, &[0.2, 0.4][..]));
        assert_eq!((table.class_of[0], table.other_classes[0].as_deref()), (None, Some("cat")));
    }

    #[test]
    fn b1_rows_of_too_many_classes_are_counted_together() {
        let ids = |from: usize, to: usize| {
            let mut rows = ClassRows::default();
            for row in from..to {
                let class = format!("{row}");
                rows.push(Some(&class), &[(&class, 0.7)], row % 3 == 0, Weight::ONE);
            }
            rows
        };
        assert!(!ids(0, CLASSES_MAX).has_too_many_classes());
        for split in [0, 1, 2_000, 2_999, 3_000] {
            let (mut merged, rest) = (ids(0, split), ids(split, 3_000));
            let mut bytes = Vec::new();
            rest.encode(&mut bytes);
            let mut decoded = merged.clone();
            decoded.merge_encoded(&mut Reader::new(&bytes)).expect("whole state");
            merged.merge(&rest);
            for rows in [merged, decoded] {
                assert!(rows.has_too_many_classes() && rows.is_counted_only() && rows.size() < 1_000);
                assert_eq!(rows.counts(), [(OTHER, [2_000, 1_000])].into());
            }
        }
    }

    type Row = (Option<u8>, Vec<(u8, f64)>, bool, f64);

    fn of(rows: &[Row]) -> ClassRows {
        const NAMES: [&str; 4] = ["a", "b", "c", "d"];
        let mut state = ClassRows::default();
        for (class, probabilities, labelled, rate) in rows {
            let named: Vec<(&str, f64)> = probabilities.iter().map(|(c, p)| (NAMES[usize::from(*c)], *p)).collect();
            let class = class.map(|class| NAMES[usize::from(class)]);
            state.push(class, &named, *labelled, Weight::of_rate(Some(*rate)));
        }
        state
    }

    fn same(left: &ClassRows, right: &ClassRows) -> bool {
        let classes = ["a", "b", "c"];
        left.table(&classes) == right.table(&classes) && left.counts() == right.counts()
    }

    proptest! {
        #[test]
        fn e1_class_rows_merge(
            rows in prop::collection::vec(
                (
                    prop::option::of(0_u8..4),
                    prop::collection::btree_map(0_u8..4, 0.0..1.0_f64, 0..4).prop_map(|map| map.into_iter().collect::<Vec<_>>()),
                    any::<bool>(),
                    0.1..1.0_f64,
                ),
                0..30,
            ),
            cut in 0_usize..30,
        ) {
            let cut = cut.min(rows.len());
            let (left, right, all) = (of(&rows[..cut]), of(&rows[cut..]), of(&rows));
            let mut merged = left.clone();
            merged.merge(&right);
            prop_assert!(same(&merged, &all));
            let mut swapped = right.clone();
            swapped.merge(&left);
            prop_assert!(same(&swapped, &all));
            let mut bytes = Vec::new();
            left.encode(&mut bytes);
            let mut decoded = right.clone();
            prop_assert!(decoded.merge_encoded(&mut Reader::new(&bytes)).is_some());
            prop_assert!(same(&decoded, &all));
            for end in 0..bytes.len() {
                prop_assert!(ClassRows::default().merge_encoded(&mut Reader::new(&bytes[..end])).is_none());
            }
        }

        #[test]
        fn e1_flagged_values_merge(
            rows in prop::collection::vec((any::<bool>(), any::<bool>(), 0_u8..8, 0.1..1.0_f64), 0..40),
            cut in 0_usize..40,
        ) {
            let of = |rows: &[(bool, bool, u8, f64)]| {
                let mut state = FlaggedValues::default();
                for (first, second, value, rate) in rows {
                    state.push(*first, *second, f64::from(*value), Weight::of_rate(Some(*rate)));
                }
                state
            };
            let cut = cut.min(rows.len());
            let (left, right, all) = (of(&rows[..cut]), of(&rows[cut..]), of(&rows));
            let mut merged = left.clone();
            merged.merge(&right);
            prop_assert_eq!(&merged, &all);
            let mut bytes = Vec::new();
            left.encode(&mut bytes);
            let mut decoded = right.clone();
            prop_assert!(decoded.merge_encoded(&mut Reader::new(&bytes)).is_some());
            prop_assert_eq!(&decoded, &all);
        }
    }
}
