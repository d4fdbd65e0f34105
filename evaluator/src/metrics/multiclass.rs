//! Everything a classification into more than two classes is judged by, from one state.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::{
    Estimate, ExactSum, OTHER, Report, Undefined,
    binned::{Limit, hold_to},
    binned_scores::roc_auc_of_bins,
    confusion::Confusion,
    interval::{Interval, Method, Warning, Z_95},
    likelihood::{CALIBRATION_BINS, calibration_bin, negative_log},
    mass::{Mass, Weight},
    moments::Moments,
    roc_auc::RocAuc,
    scores::{Side, roc_auc},
    wire::{Reader, put_text, put_u64},
};

/// Classes of labels, predictions and probabilities that are told apart. Where there are more, a state says so and holds nothing, until it is
/// told which of them to tell apart ([`Limit::classes`]).
pub const CLASSES_MAX: usize = 1_000;
/// The prediction of a class that is not told apart, of a row whose label is another such class: a miss, which must not look like a hit.
pub const ANOTHER: &str = "__another__";

/// Hits and misses by class, and for labelled rows with probabilities each class's scores by label.
/// Eight bytes a row and class, sixteen where rows weigh differently.
#[derive(Debug, Clone, Default)]
pub struct MulticlassState {
    /// Place of each class in the two tables below. Places depend on the order of rows; texts decide what is equal.
    places: HashMap<String, usize>,
    classes: Vec<ClassState>,
    cells: HashMap<(usize, usize), Mass>,
    /// Rows with probabilities.
    scored: Mass,
    /// Of those, rows with a probability outside `[0, 1]`.
    out_of_range: u64,
    loss: Moments,
    squares: Moments,
    bins: [CalibrationBin; CALIBRATION_BINS],
    limit: Option<Limit>,
    /// The classes that are told apart; none: all are.
    kept: Option<HashSet<String>>,
    /// Whether there were more than [`CLASSES_MAX`], and nobody said which are told apart. No row is held then.
    has_too_many: bool,
}

#[derive(Debug, Clone, Default)]
struct ClassState {
    /// Rows with probabilities whose label is this class.
    scored_labels: Mass,
    /// The scores of this class that events gave, by the place of their label. A class that an event leaves out has
    /// probability 0 there: those zeros are added when the state is read, so that a class first seen late costs nothing before.
    scores: HashMap<usize, Side>,
}

#[derive(Debug, Clone, Default, PartialEq)]
struct CalibrationBin {
    hits: Mass,
    confidence: ExactSum,
}

impl PartialEq for MulticlassState {
    fn eq(&self, other: &Self) -> bool {
        self.confusion() == other.confusion()
            && self.by_text() == other.by_text()
            && (self.scored, self.out_of_range) == (other.scored, other.out_of_range)
            && self.loss == other.loss
            && self.squares == other.squares
            && self.bins == other.bins
            && self.has_too_many == other.has_too_many
    }
}

impl MulticlassState {
    /// An empty state that keeps no more than this, as long as [`hold`](Self::hold) is called, and tells its classes apart.
    pub fn held_to(mut limit: Limit) -> Self {
        let classes = std::mem::take(&mut limit.classes);
        let kept = (!classes.is_empty()).then(|| classes.into_iter().collect());
        Self { limit: Some(limit), kept, ..Self::default() }
    }

    /// Puts the scores of all classes into bins, if the limit asks for it; `is_last`: no row follows.
    pub fn hold(&mut self, is_last: bool) {
        let Some(limit) = &self.limit else { return };
        let sides = self.classes.iter_mut().flat_map(|class| class.scores.values_mut());
        hold_to(limit, &mut sides.collect::<Vec<_>>(), is_last);
    }

    /// Adds a labelled row: its prediction, if it has one, and its probabilities by class (empty if it has none).
    ///
    /// Without a prediction the most probable class stands for it, the first in text order if several are.
    /// Probabilities with a NaN among them are no probabilities.
    ///
    /// A class that is not told apart counts as [`OTHER`]: as a label, as a prediction of what is that label, and as one where the label is a
    /// class of its own. Hits, and so accuracy, are those of the classes as they are; so are the losses.
    pub fn push(&mut self, actual: &str, predicted: Option<&str>, probabilities: &[(&str, f64)], weight: Weight) {
        if self.has_too_many {
            return;
        }
        let probabilities = if probabilities.iter().any(|(_, p)| p.is_nan()) { &[] } else { probabilities };
        let best = most_probable(probabilities);
        let is_own = self.is_told_apart(actual);
        let place = self.place(if is_own { actual } else { OTHER });
        if let Some(predicted) = predicted.or(best.map(|(class, _)| class)) {
            let predicted = match self.is_told_apart(predicted) {
                true => predicted,
                false if is_own || predicted == actual => OTHER,
                false => ANOTHER,
            };
            let predicted = self.place(predicted);
            self.cells.entry((place, predicted)).or_default().push(weight);
        }
        if let Some((class, confidence)) = best {
            self.push_probabilities(place, actual, probabilities, weight);
            let bin = &mut self.bins[calibration_bin(confidence)];
            if class == actual {
                bin.hits.push(weight);
            }
            bin.confidence.push(weight.value() * confidence);
        }
        self.bound_classes();
    }

    /// Adds all rows of another state.
    pub fn merge(&mut self, other: &Self) {
        if self.has_too_many || other.has_too_many {
            self.give_up();
            return;
        }
        let mut theirs: Vec<(&String, &usize)> = other.places.iter().collect();
        theirs.sort_unstable_by_key(|(_, place)| **place);
        let mine: Vec<usize> = theirs.iter().map(|(class, _)| self.place(class)).collect();
        for (class, place) in other.classes.iter().zip(&mine) {
            self.classes[*place].scored_labels.merge(&class.scored_labels);
            for (label, side) in &class.scores {
                self.classes[*place].scores.entry(mine[*label]).or_default().merge(side);
            }
        }
        for ((actual, predicted), rows) in &other.cells {
            self.cells.entry((mine[*actual], mine[*predicted])).or_default().merge(rows);
        }
        self.scored.merge(&other.scored);
        self.out_of_range += other.out_of_range;
        self.loss.merge(&other.loss);
        self.squares.merge(&other.squares);
        for (mine, theirs) in self.bins.iter_mut().zip(&other.bins) {
            mine.hits.merge(&theirs.hits);
            mine.confidence.merge(&theirs.confidence);
        }
        self.bound_classes();
    }

    /// Every metric of the task: the whole, each class against the rest, and the averages.
    pub fn value(&self) -> Report {
        if self.has_too_many {
            return Report { has_too_many_classes: true, ..Report::default() };
        }
        let confusion = self.confusion();
        let nothing = if confusion.rows() + self.scored.rows() == 0 { Undefined::NoRows } else { Undefined::NoScores };
        let mut report = Report::default();
        confusion.report_whole(&mut report, nothing);
        confusion.report_by_class(&mut report);
        self.report_roc_auc(&mut report, nothing);
        let probability = |outcome: &dyn Fn() -> Estimate| match (self.scored.rows(), self.out_of_range) {
            (0, _) => Err(nothing),
            (_, 0) => Ok(outcome()),
            _ => Err(Undefined::NotProbability),
        };
        let all = self.scored.weight();
        let shares =
            || self.classes.iter().map(|class| class.scored_labels.weight() / all).filter(|share| *share > 0.0);
        let scarcest = self.scarcest_label();
        // Of labels that are not told apart nobody knows what a constant prediction would have reached.
        let baseline = |known: f64| if self.kept.is_none() { known } else { f64::NAN };
        report.add(
            "log_loss",
            None,
            probability(&|| {
                self.loss
                    .mean(scarcest)
                    .with_baseline(baseline(shares().map(|share| -share * share.ln()).collect::<ExactSum>().value()))
            }),
        );
        report.add(
            "brier_score",
            None,
            probability(&|| {
                self.squares
                    .mean(scarcest)
                    .with_baseline(baseline(shares().map(|share| share * (1.0 - share)).collect::<ExactSum>().value()))
            }),
        );
        report.add(
            "expected_calibration_error",
            None,
            probability(&|| {
                let gaps = self.bins.iter().map(|bin| (bin.hits.weight() - bin.confidence.value()).abs());
                Estimate::bare(gaps.collect::<ExactSum>().value() / all).with_baseline(0.0)
            }),
        );
        report.confusion = confusion.cells();
        report
    }

    /// Memory held beyond the struct, bytes.
    pub fn size(&self) -> usize {
        let texts: usize = self.places.keys().map(String::capacity).sum();
        let sides = self.classes.iter().flat_map(|class| class.scores.values());
        let scores: usize = sides.map(|side| side.size() + size_of::<(usize, Side)>()).sum();
        texts
            + scores
            + self.places.capacity() * 40
            + self.classes.capacity() * size_of::<ClassState>()
            + self.cells.capacity() * 32
    }

    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        put_u64(out, u64::from(self.has_too_many));
        if self.has_too_many {
            return;
        }
        put_u64(out, self.classes.len() as u64);
        let mut by_place: Vec<(&String, &usize)> = self.places.iter().collect();
        by_place.sort_unstable_by_key(|(_, place)| **place);
        for ((text, _), class) in by_place.into_iter().zip(&self.classes) {
            put_text(out, text);
            class.scored_labels.encode(out);
            put_u64(out, class.scores.len() as u64);
            for (label, side) in &class.scores {
                put_u64(out, *label as u64);
                side.encode(out);
            }
        }
        put_u64(out, self.cells.len() as u64);
        for ((actual, predicted), rows) in &self.cells {
            put_u64(out, *actual as u64);
            put_u64(out, *predicted as u64);
            rows.encode(out);
        }
        self.scored.encode(out);
        put_u64(out, self.out_of_range);
        self.loss.encode(out);
        self.squares.encode(out);
        for bin in &self.bins {
            bin.hits.encode(out);
            bin.confidence.encode(out);
        }
    }

    pub(crate) fn merge_encoded(&mut self, reader: &mut Reader<'_>) -> Option<()> {
        let mut other = Self::default();
        if reader.u64()? != 0 {
            self.give_up();
            return Some(());
        }
        let classes = reader.u64()?;
        for place in 0..classes {
            other.places.insert(reader.text()?, place as usize);
            let mut class = ClassState { scored_labels: Mass::decode(reader)?, ..ClassState::default() };
            for _ in 0..reader.u64()? {
                let label = reader.u64()?;
                let side = class.scores.entry((label < classes).then_some(label as usize)?).or_default();
                side.merge_encoded(reader)?;
            }
            other.classes.push(class);
        }
        for _ in 0..reader.u64()? {
            let cell = (reader.u64()? as usize, reader.u64()? as usize);
            let known = cell.0 < other.classes.len() && cell.1 < other.classes.len();
            other.cells.insert(known.then_some(cell)?, Mass::decode(reader)?);
        }
        other.scored = Mass::decode(reader)?;
        other.out_of_range = reader.u64()?;
        other.loss = Moments::decode(reader)?;
        other.squares = Moments::decode(reader)?;
        for bin in &mut other.bins {
            *bin = CalibrationBin { hits: Mass::decode(reader)?, confidence: ExactSum::decode(reader)? };
        }
        self.merge(&other);
        Some(())
    }

    fn push_probabilities(&mut self, place: usize, actual: &str, probabilities: &[(&str, f64)], weight: Weight) {
        self.scored.push(weight);
        self.classes[place].scored_labels.push(weight);
        self.out_of_range += u64::from(probabilities.iter().any(|(_, p)| !(0.0..=1.0).contains(p)));
        let (mut of_actual, mut squares) = (None, 0.0);
        for (class, p) in probabilities {
            let is_actual = *class == actual;
            if is_actual {
                of_actual = Some(*p);
            }
            if self.is_told_apart(class) {
                let of_class = self.place(class);
                self.classes[of_class].scores.entry(place).or_default().push_score(*p, weight);
            }
            squares += if is_actual { (1.0 - p) * (1.0 - p) } else { p * p };
        }
        if of_actual.is_none() {
            squares += 1.0;
        }
        self.squares.push(squares, weight);
        self.loss.push(negative_log(of_actual.unwrap_or(0.0)), weight);
    }

    /// ROC AUC of each class against the rest, and of each two classes among themselves, then their means over the classes of
    /// the labels: `roc_auc_macro` and `roc_auc_weighted` (by labels) of the first, `roc_auc_ovo_macro` and
    /// `roc_auc_ovo_weighted` (by the labels of both) of the second.
    ///
    /// # Source
    /// Provost & Domingos (2000) for one against the rest, Hand & Till (2001) for one against one; scikit-learn's
    /// `roc_auc_score`.
    /// # Returns
    /// The means' intervals add the errors of their parts, as if all went together: wider than need be. Classes that are not told apart
    /// are among the rest, and have no area of their own.
    fn report_roc_auc(&self, report: &mut Report, nothing: Undefined) {
        let by_text = self.by_text();
        if self.scored.rows() == 0 {
            for class in by_text.keys().filter(|class| self.is_told_apart(class)) {
                report.add("roc_auc", Some(class), Err(nothing));
            }
            for name in ["roc_auc_macro", "roc_auc_weighted", "roc_auc_ovo_macro", "roc_auc_ovo_weighted"] {
                report.add(name, None, Err(nothing));
            }
            return;
        }
        let labels: Vec<usize> =
            by_text.keys().map(|class| self.places[*class]).filter(|at| self.is_label(*at)).collect();
        let own: Vec<usize> = (by_text.keys().filter(|class| self.is_told_apart(class)))
            .map(|class| self.places[*class])
            .filter(|at| self.is_label(*at))
            .collect();
        let sorted: BTreeMap<usize, BTreeMap<usize, Side>> = by_text
            .keys()
            .filter(|class| self.is_told_apart(class))
            .map(|class| self.places[*class])
            .map(|class| (class, labels.iter().map(|label| (*label, self.sorted_side(class, *label))).collect()))
            .collect();
        let (mut plain, mut weighted) = (Mean::default(), Mean::default());
        for class in by_text.keys().filter(|class| self.is_told_apart(class)) {
            let place = self.places[*class];
            let (mut own, mut rest) = (Side::default(), Side::default());
            for (label, side) in &sorted[&place] {
                if *label == place { &mut own } else { &mut rest }.merge(side);
            }
            let (auc, bound) = area(&own, &rest.sorted());
            let outcome = auc.value();
            if self.is_label(place) {
                let value = outcome.map_or(0.0, |estimate| estimate.value);
                plain.push(value, auc.standard_error(), 1.0, auc.scarcest(), bound);
                let weight = self.classes[place].scored_labels.weight();
                weighted.push(value, auc.standard_error(), weight, auc.scarcest(), bound);
            }
            let within =
                |estimate: Estimate| if bound > 0.0 { estimate.within(bound).between(0.0, 1.0) } else { estimate };
            report.add("roc_auc", Some(class), outcome.map(within));
        }
        let (mut pairs, mut weighted_pairs) = (Mean::default(), Mean::default());
        for (at, one) in own.iter().enumerate() {
            for other in &own[at + 1..] {
                let ((first, off_first), (second, off_second)) =
                    (area(&sorted[one][one], &sorted[one][other]), area(&sorted[other][other], &sorted[other][one]));
                let bound = f64::midpoint(off_first, off_second);
                let (Ok(a), Ok(b)) = (first.value(), second.value()) else { continue };
                let error = first.standard_error().zip(second.standard_error()).map(|(a, b)| f64::midpoint(a, b));
                let value = f64::midpoint(a.value, b.value);
                let weight = self.classes[*one].scored_labels.with(self.classes[*other].scored_labels).weight();
                pairs.push(value, error, 1.0, first.scarcest(), bound);
                weighted_pairs.push(value, error, weight, first.scarcest(), bound);
            }
        }
        let several = own.len() > 1;
        for (name, mean) in [
            ("roc_auc_macro", plain),
            ("roc_auc_weighted", weighted),
            ("roc_auc_ovo_macro", pairs),
            ("roc_auc_ovo_weighted", weighted_pairs),
        ] {
            report.add(name, None, if several { Ok(mean.value()) } else { Err(Undefined::OneClass) });
        }
    }

    fn is_told_apart(&self, class: &str) -> bool {
        self.kept.as_ref().is_none_or(|kept| kept.contains(class))
    }

    /// Lets go of everything where there are more classes than are told apart: of a part of the rows there are never more than of all, so
    /// neither order nor split shows.
    fn bound_classes(&mut self) {
        if self.kept.is_none() && self.classes.len() > CLASSES_MAX {
            self.give_up();
        }
    }

    fn give_up(&mut self) {
        *self = Self { limit: self.limit.take(), kept: self.kept.take(), has_too_many: true, ..Self::default() };
    }

    fn is_label(&self, place: usize) -> bool {
        self.classes[place].scored_labels.rows() > 0
    }

    /// Effective rows of the rarest label among the rows with probabilities; 0 if there is but one.
    fn scarcest_label(&self) -> f64 {
        let labels: Vec<f64> =
            self.classes.iter().map(|class| class.scored_labels.effective_rows()).filter(|rows| *rows > 0.0).collect();
        if labels.len() < 2 { 0.0 } else { labels.into_iter().fold(f64::INFINITY, f64::min) }
    }

    /// The scores of a class on the rows of a label, those that were left out included.
    fn sorted_side(&self, class: usize, label: usize) -> Side {
        let side = self.classes[class].scores.get(&label).cloned().unwrap_or_default();
        let left_out = self.classes[label].scored_labels.without(side.mass());
        side.with_zeros(left_out).sorted()
    }

    fn place(&mut self, class: &str) -> usize {
        if let Some(place) = self.places.get(class) {
            return *place;
        }
        let place = self.classes.len();
        self.places.insert(class.to_owned(), place);
        self.classes.push(ClassState::default());
        place
    }

    /// Each class with the weight of its labels and its scores by label.
    #[allow(clippy::type_complexity)] // a table of tables
    fn by_text(&self) -> BTreeMap<&str, (Mass, BTreeMap<&str, &Side>)> {
        let mut texts = vec![""; self.classes.len()];
        for (text, place) in &self.places {
            texts[*place] = text;
        }
        self.places
            .iter()
            .map(|(text, place)| {
                let class = &self.classes[*place];
                let scores = class.scores.iter().map(|(label, side)| (texts[*label], side)).collect();
                (text.as_str(), (class.scored_labels, scores))
            })
            .collect()
    }

    fn confusion(&self) -> Confusion {
        let mut texts = vec![""; self.classes.len()];
        for (text, place) in &self.places {
            texts[*place] = text;
        }
        let mut confusion = Confusion::default();
        for ((actual, predicted), rows) in &self.cells {
            confusion.push(texts[*actual], texts[*predicted], *rows);
        }
        confusion
    }
}

/// A mean of areas.
#[derive(Default)]
struct Mean {
    values: ExactSum,
    errors: ExactSum,
    weights: ExactSum,
    bounds: ExactSum,
    has_error: bool,
    scarcest: Option<f64>,
}

impl Mean {
    fn push(&mut self, value: f64, error: Option<f64>, weight: f64, scarcest: f64, bound: f64) {
        self.has_error = error.is_some() && (self.has_error || self.scarcest.is_none());
        self.values.push(value * weight);
        self.errors.push(error.unwrap_or(0.0) * weight);
        self.weights.push(weight);
        self.bounds.push(bound * weight);
        self.scarcest = Some(self.scarcest.map_or(scarcest, |rows| rows.min(scarcest)));
    }

    fn value(&self) -> Estimate {
        let weight = self.weights.value();
        let (value, spread) = (self.values.value() / weight, Z_95 * self.errors.value() / weight);
        let bound = self.bounds.value() / weight;
        let estimate = Estimate::bare(value).with_baseline(0.5);
        if !self.has_error {
            return estimate.within(bound);
        }
        let interval = Interval::new(((value - spread).max(0.0), (value + spread).min(1.0)), Method::DelongSum);
        let interval = interval.on_rows(self.scarcest.unwrap_or(0.0)).warned(Warning::Conservative);
        let estimate = estimate.with_interval(interval);
        if bound > 0.0 { estimate.within(bound).between(0.0, 1.0) } else { estimate }
    }
}

/// The area under the ROC curve of two sorted sides, and how far it may be off where rows are in bins.
fn area(positives: &Side, negatives: &Side) -> (RocAuc, f64) {
    if positives.bins().is_empty() && negatives.bins().is_empty() {
        return (roc_auc(positives, negatives), 0.0);
    }
    roc_auc_of_bins(positives, negatives)
}

/// The most probable class, the first in text order among equals.
fn most_probable<'a>(probabilities: &[(&'a str, f64)]) -> Option<(&'a str, f64)> {
    probabilities
        .iter()
        .copied()
        .reduce(|best, next| if next.1 > best.1 || (next.1 == best.1 && next.0 < best.0) { next } else { best })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    type Row = (u8, Option<u8>, Vec<(u8, f64)>);

    const CLASSES: [&str; 4] = ["a", "b", "c", "d"];

    fn state(rows: &[Row]) -> MulticlassState {
        weighted_state(rows, 1.0)
    }

    /// The rows whose first probability is large were kept at this rate.
    fn weighted_state(rows: &[Row], rate: f64) -> MulticlassState {
        let mut state = MulticlassState::default();
        for (actual, predicted, probabilities) in rows {
            let probabilities: Vec<(&str, f64)> =
                probabilities.iter().map(|(class, p)| (CLASSES[usize::from(*class)], *p)).collect();
            let weight = Weight::of_rate(probabilities.first().filter(|(_, p)| *p > 0.8).map(|_| rate));
            let predicted = predicted.map(|p| CLASSES[usize::from(p)]);
            state.push(CLASSES[usize::from(*actual)], predicted, &probabilities, weight);
        }
        state
    }

    #[test]
    fn a_class_that_an_event_leaves_out_has_probability_zero() {
        let short =
            state(&[(0, None, vec![(0, 1.0)]), (1, None, vec![(0, 0.25), (1, 0.75)]), (1, None, vec![(0, 1.0)])]);
        let full = state(&[
            (0, None, vec![(0, 1.0), (1, 0.0)]),
            (1, None, vec![(0, 0.25), (1, 0.75)]),
            (1, None, vec![(0, 1.0), (1, 0.0)]),
        ]);
        assert_eq!(short.value(), full.value());
        assert_eq!(short.value().get("accuracy").and_then(|r| r.value), Some(2.0 / 3.0));
    }

    #[test]
    fn e3_undefined_has_a_reason() {
        let empty = state(&[]).value();
        assert!(empty.metrics.iter().all(|r| r.reason == Some(Undefined::NoRows)), "{empty:?}");
        let unscored = state(&[(0, Some(0), vec![]), (1, Some(0), vec![])]).value();
        assert_eq!(unscored.get("log_loss").and_then(|r| r.reason), Some(Undefined::NoScores));
        assert_eq!(unscored.get("accuracy").and_then(|r| r.value), Some(0.5));
        let one_class = state(&[(0, None, vec![(0, 0.9), (1, 0.1)])]).value();
        assert_eq!(one_class.get("roc_auc_macro").and_then(|r| r.reason), Some(Undefined::OneClass));
        let margins = state(&[(0, None, vec![(0, 3.0), (1, -1.0)]), (1, None, vec![(0, -3.0), (1, 1.0)])]).value();
        assert_eq!(margins.get("log_loss").and_then(|r| r.reason), Some(Undefined::NotProbability));
        assert_eq!(margins.get("roc_auc_macro").and_then(|r| r.value), Some(1.0));
        let nan = state(&[(0, Some(0), vec![(0, f64::NAN)])]).value();
        assert_eq!(nan.get("log_loss").and_then(|r| r.reason), Some(Undefined::NoScores));
    }

    /// Rows of ids: none is the label of two rows, and the prediction of every other row is its label.
    fn ids(from: usize, to: usize, classes: Vec<String>) -> MulticlassState {
        let mut state = MulticlassState::held_to(Limit { classes, ..Limit::none() });
        for row in from..to {
            let (actual, other) = (format!("{row}"), format!("{}", row + 1));
            let predicted = if row % 2 == 0 { &actual } else { &other };
            state.push(&actual, Some(predicted), &[(&actual, 0.6), (&other, 0.4)], Weight::ONE);
        }
        state
    }

    #[test]
    fn b1_more_classes_than_are_told_apart_are_said_to_be_and_cost_nothing() {
        let all = ids(0, CLASSES_MAX - 1, Vec::new());
        assert!(!all.value().has_too_many_classes && all.classes.len() == CLASSES_MAX);
        for split in [0, 1, 700, CLASSES_MAX] {
            let (mut merged, rest) = (ids(0, split, Vec::new()), ids(split, CLASSES_MAX, Vec::new()));
            let mut bytes = Vec::new();
            rest.encode(&mut bytes);
            let mut decoded = merged.clone();
            decoded.merge_encoded(&mut Reader::new(&bytes)).expect("whole state");
            merged.merge(&rest);
            for state in [&merged, &decoded] {
                assert_eq!(state.value(), Report { has_too_many_classes: true, ..Report::default() });
                assert!(state.classes.is_empty() && state.size() < 1_000);
            }
        }
    }

    #[test]
    fn b1_a_miss_among_classes_that_are_not_told_apart_is_no_hit() {
        let report = ids(0, 5_000, vec!["0".to_owned(), "1".to_owned()]).value();
        assert_eq!(report.get("accuracy").and_then(|row| row.value), Some(0.5));
        assert_eq!(report.get("precision_micro").and_then(|row| row.value), Some(0.5));
        assert_eq!(report.get("accuracy").and_then(|row| row.baseline), Some(1.0 / 5_000.0));
        let cells: Vec<(&str, &str, i64)> =
            report.confusion.iter().map(|cell| (cell.actual.as_str(), cell.predicted.as_str(), cell.count)).collect();
        assert_eq!(cells, [("0", "0", 1), ("1", OTHER, 1), (OTHER, ANOTHER, 2_499), (OTHER, OTHER, 2_499)]);
        let areas = report.metrics.iter().filter(|row| row.metric == "roc_auc");
        assert_eq!(areas.filter_map(|row| row.class.as_deref()).collect::<Vec<_>>(), ["0", "1"]);
    }

    proptest! {
        /// Whatever is pooled: hits, losses and the figures of classes that are told apart are those of the rows as they are.
        #[test]
        fn b1_what_is_told_apart_is_as_if_all_were(
            rows in prop::collection::vec(
                (0_u8..4, prop::option::of(0_u8..4), prop::collection::btree_map(0_u8..4, 0.0..1.0_f64, 0..4)), 1..60),
        ) {
            let rows: Vec<Row> = rows.into_iter().map(|(y, p, m)| (y, p, m.into_iter().collect())).collect();
            let whole = state(&rows).value();
            let classes = vec!["a".to_owned(), "c".to_owned()];
            let mut pooled = MulticlassState::held_to(Limit { classes: classes.clone(), ..Limit::none() });
            for (actual, predicted, probabilities) in &rows {
                let probabilities: Vec<(&str, f64)> =
                    probabilities.iter().map(|(class, p)| (CLASSES[usize::from(*class)], *p)).collect();
                let predicted = predicted.map(|p| CLASSES[usize::from(p)]);
                pooled.push(CLASSES[usize::from(*actual)], predicted, &probabilities, Weight::ONE);
            }
            let pooled = pooled.value();
            let same = |metric: &str, class: Option<&str>| {
                let of = |report: &Report| {
                    let mut rows = report.metrics.iter().filter(|row| row.metric == metric && row.class.as_deref() == class);
                    // Intervals sum floats cell by cell, and there are fewer cells.
                    let rounded = |x: Option<f64>| x.map(|x| (x * 1e9).round());
                    rows.next().map(|row| (row.value, row.reason, rounded(row.ci_low), rounded(row.ci_high)))
                };
                (of(&whole), of(&pooled))
            };
            for metric in ["accuracy", "precision_micro", "recall_micro", "log_loss", "brier_score", "expected_calibration_error"] {
                let (expected, found) = same(metric, None);
                prop_assert_eq!(expected, found, "{}", metric);
            }
            for class in &classes {
                for metric in ["precision", "recall", "f1", "specificity", "roc_auc"] {
                    let (expected, found) = same(metric, Some(class));
                    // A class that occurs in probabilities alone has an area and no rates, either way.
                    prop_assert_eq!(expected, found, "{} of {}", metric, class);
                }
            }
        }

        #[test]
        fn e1_multiclass_merges(
            rows in prop::collection::vec(
                (0_u8..4, prop::option::of(0_u8..4), prop::collection::btree_map(0_u8..4, 0.0..1.0_f64, 0..4)), 0..40),
            a in 0_usize..40, b in 0_usize..40, rate in prop_oneof![Just(1.0), Just(0.3)],
        ) {
            let rows: Vec<Row> = rows.into_iter().map(|(y, p, m)| (y, p, m.into_iter().collect())).collect();
            let (a, b) = (a.min(b).min(rows.len()), a.max(b).min(rows.len()));
            let (x, y, z) = (weighted_state(&rows[..a], rate), weighted_state(&rows[a..b], rate), weighted_state(&rows[b..], rate));
            let mut left = x.clone();
            left.merge(&y);
            left.merge(&z);
            let mut right = z.clone();
            right.merge(&y);
            let mut bytes = Vec::new();
            x.encode(&mut bytes);
            right.merge_encoded(&mut Reader::new(&bytes)).expect("whole state");
            let whole = weighted_state(&rows, rate);
            prop_assert_eq!(&whole, &left);
            prop_assert_eq!(&whole, &right);
            prop_assert_eq!(whole.value(), left.value());
            prop_assert_eq!(whole.value(), right.value());
        }
    }
}
