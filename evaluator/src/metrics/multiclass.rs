//! Everything a classification into more than two classes is judged by, from one state.

use std::collections::{BTreeMap, HashMap};

use super::{
    Estimate, ExactSum, Outcome, Report, Undefined,
    confusion::Confusion,
    scores::{Scores, calibration_bin, negative_log},
    wire::{Reader, put_text, put_u64},
};

/// Bins of the calibration error of the most probable class.
const CALIBRATION_BINS: usize = 10;

/// Hits and misses by class, and for labelled rows with probabilities each class's scores against the rest.
/// Eight bytes a row and class.
#[derive(Debug, Clone, Default)]
pub struct MulticlassState {
    /// Place of each class in the two tables below. Places depend on the order of rows; texts decide what is equal.
    places: HashMap<String, usize>,
    classes: Vec<ClassState>,
    cells: HashMap<(usize, usize), u64>,
    /// Rows with probabilities.
    scored: u64,
    /// Of those, rows with a probability outside `[0, 1]`.
    out_of_range: u64,
    loss: ExactSum,
    squares: ExactSum,
    bins: [CalibrationBin; CALIBRATION_BINS],
}

#[derive(Debug, Clone, Default, PartialEq)]
struct ClassState {
    /// Rows with probabilities whose label is this class.
    scored_labels: u64,
    /// Scores as events gave them. A class that an event leaves out has probability 0 there: those zeros are
    /// added when the state is read, so that a class first seen late costs nothing before.
    scores: Scores,
}

#[derive(Debug, Clone, Default, PartialEq)]
struct CalibrationBin {
    hits: u64,
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
    }
}

impl MulticlassState {
    /// Adds a labelled row: its prediction, if it has one, and its probabilities by class (empty if it has none).
    ///
    /// Without a prediction the most probable class stands for it, the first in text order if several are.
    /// Probabilities with a NaN among them are no probabilities.
    pub fn push(&mut self, actual: &str, predicted: Option<&str>, probabilities: &[(&str, f64)]) {
        let probabilities = if probabilities.iter().any(|(_, p)| p.is_nan()) { &[] } else { probabilities };
        let best = most_probable(probabilities);
        let place = self.place(actual);
        if let Some(predicted) = predicted.or(best.map(|(class, _)| class)) {
            let predicted = self.place(predicted);
            *self.cells.entry((place, predicted)).or_default() += 1;
        }
        if let Some((class, confidence)) = best {
            self.push_probabilities(place, actual, probabilities);
            let bin = &mut self.bins[calibration_bin(confidence)];
            bin.hits += u64::from(class == actual);
            bin.confidence.push(confidence);
        }
    }

    /// Adds all rows of another state.
    pub fn merge(&mut self, other: &Self) {
        let mut theirs: Vec<(&String, &usize)> = other.places.iter().collect();
        theirs.sort_unstable_by_key(|(_, place)| **place);
        let mine: Vec<usize> = theirs.iter().map(|(class, _)| self.place(class)).collect();
        for (class, place) in other.classes.iter().zip(&mine) {
            self.classes[*place].scored_labels += class.scored_labels;
            self.classes[*place].scores.merge(&class.scores);
        }
        for ((actual, predicted), count) in &other.cells {
            *self.cells.entry((mine[*actual], mine[*predicted])).or_default() += count;
        }
        self.scored += other.scored;
        self.out_of_range += other.out_of_range;
        self.loss.merge(&other.loss);
        self.squares.merge(&other.squares);
        for (mine, theirs) in self.bins.iter_mut().zip(&other.bins) {
            mine.hits += theirs.hits;
            mine.confidence.merge(&theirs.confidence);
        }
    }

    /// Every metric of the task: the whole, each class against the rest, and the averages.
    pub fn value(&self) -> Report {
        let confusion = self.confusion();
        let judged = confusion.rows();
        let nothing = if judged + self.scored == 0 { Undefined::NoRows } else { Undefined::NoScores };
        let mut report = Report::default();
        for (name, outcome) in [
            ("accuracy", confusion.accuracy()),
            ("balanced_accuracy", confusion.balanced_accuracy()),
            ("matthews_corrcoef", confusion.matthews_corrcoef()),
        ] {
            report.add(name, None, if judged == 0 { Err(nothing) } else { outcome });
        }
        confusion.report_by_class(&mut report);
        self.report_roc_auc(&mut report, nothing);
        let probability = |sum: &ExactSum| match (self.scored, self.out_of_range) {
            (0, _) => Err(nothing),
            (rows, 0) => Ok(Estimate::bare(sum.value() / rows as f64)),
            _ => Err(Undefined::NotProbability),
        };
        report.add("log_loss", None, probability(&self.loss));
        report.add("brier_score", None, probability(&self.squares));
        let gaps = self.bins.iter().map(|bin| (bin.hits as f64 - bin.confidence.value()).abs()).collect();
        report.add("expected_calibration_error", None, probability(&gaps));
        report.confusion = confusion.cells();
        report
    }

    /// Memory held beyond the struct, bytes.
    pub fn size(&self) -> usize {
        let texts: usize = self.places.keys().map(String::capacity).sum();
        let scores: usize = self.classes.iter().map(|class| class.scores.size()).sum();
        texts
            + scores
            + self.places.capacity() * 40
            + self.classes.capacity() * size_of::<ClassState>()
            + self.cells.capacity() * 32
    }

    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        put_u64(out, self.classes.len() as u64);
        let mut by_place: Vec<(&String, &usize)> = self.places.iter().collect();
        by_place.sort_unstable_by_key(|(_, place)| **place);
        for ((text, _), class) in by_place.into_iter().zip(&self.classes) {
            put_text(out, text);
            put_u64(out, class.scored_labels);
            class.scores.encode(out);
        }
        put_u64(out, self.cells.len() as u64);
        for ((actual, predicted), count) in &self.cells {
            put_u64(out, *actual as u64);
            put_u64(out, *predicted as u64);
            put_u64(out, *count);
        }
        put_u64(out, self.scored);
        put_u64(out, self.out_of_range);
        self.loss.encode(out);
        self.squares.encode(out);
        for bin in &self.bins {
            put_u64(out, bin.hits);
            bin.confidence.encode(out);
        }
    }

    pub(crate) fn merge_encoded(&mut self, reader: &mut Reader<'_>) -> Option<()> {
        let mut other = Self::default();
        for place in 0..reader.u64()? {
            other.places.insert(reader.text()?, place as usize);
            let mut class = ClassState { scored_labels: reader.u64()?, ..ClassState::default() };
            class.scores.merge_encoded(reader)?;
            other.classes.push(class);
        }
        for _ in 0..reader.u64()? {
            let cell = (reader.u64()? as usize, reader.u64()? as usize);
            let known = cell.0 < other.classes.len() && cell.1 < other.classes.len();
            other.cells.insert(known.then_some(cell)?, reader.u64()?);
        }
        other.scored = reader.u64()?;
        other.out_of_range = reader.u64()?;
        other.loss = ExactSum::decode(reader)?;
        other.squares = ExactSum::decode(reader)?;
        for bin in &mut other.bins {
            *bin = CalibrationBin { hits: reader.u64()?, confidence: ExactSum::decode(reader)? };
        }
        self.merge(&other);
        Some(())
    }

    fn push_probabilities(&mut self, place: usize, actual: &str, probabilities: &[(&str, f64)]) {
        self.scored += 1;
        self.classes[place].scored_labels += 1;
        self.out_of_range += u64::from(probabilities.iter().any(|(_, p)| !(0.0..=1.0).contains(p)));
        let mut of_actual = None;
        for (class, p) in probabilities {
            let is_actual = *class == actual;
            if is_actual {
                of_actual = Some(*p);
            }
            let place = self.place(class);
            self.classes[place].scores.push(*p, is_actual);
            self.squares.push(if is_actual { (1.0 - p) * (1.0 - p) } else { p * p });
        }
        if of_actual.is_none() {
            self.squares.push(1.0);
        }
        self.loss.push(negative_log(of_actual.unwrap_or(0.0)));
    }

    /// ROC AUC of each class against the rest, then their macro and weighted mean over the classes of the labels.
    fn report_roc_auc(&self, report: &mut Report, nothing: Undefined) {
        let (mut sum, mut weighted, mut labelled_classes) = (ExactSum::default(), ExactSum::default(), 0_u64);
        for (class, state) in self.by_text() {
            if self.scored == 0 {
                report.add("roc_auc", Some(class), Err(nothing));
                continue;
            }
            let outcome = self.scores_against_the_rest(state).value(false).roc_auc;
            if state.scored_labels > 0 {
                labelled_classes += 1;
                let value = outcome.map_or(0.0, |estimate| estimate.value);
                sum.push(value);
                weighted.push(value * state.scored_labels as f64);
            }
            report.add("roc_auc", Some(class), outcome);
        }
        let mean = |sum: &ExactSum, weight: u64| -> Outcome {
            match (self.scored, labelled_classes) {
                (0, _) => Err(nothing),
                (_, 0 | 1) => Err(Undefined::OneClass),
                _ => Ok(Estimate::bare(sum.value() / weight as f64)),
            }
        };
        report.add("roc_auc_macro", None, mean(&sum, labelled_classes));
        report.add("roc_auc_weighted", None, mean(&weighted, self.scored));
    }

    fn scores_against_the_rest(&self, class: &ClassState) -> Scores {
        let (positives, negatives) = class.scores.counts();
        let mut scores = class.scores.clone();
        scores.push_many(0.0, true, class.scored_labels - positives);
        scores.push_many(0.0, false, (self.scored - class.scored_labels).saturating_sub(negatives));
        scores
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

    fn by_text(&self) -> BTreeMap<&str, &ClassState> {
        self.places.iter().map(|(text, place)| (text.as_str(), &self.classes[*place])).collect()
    }

    fn confusion(&self) -> Confusion {
        let mut texts = vec![""; self.classes.len()];
        for (text, place) in &self.places {
            texts[*place] = text;
        }
        let mut confusion = Confusion::default();
        for ((actual, predicted), count) in &self.cells {
            confusion.push(texts[*actual], texts[*predicted], *count);
        }
        confusion
    }
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
        let mut state = MulticlassState::default();
        for (actual, predicted, probabilities) in rows {
            let probabilities: Vec<(&str, f64)> =
                probabilities.iter().map(|(class, p)| (CLASSES[usize::from(*class)], *p)).collect();
            state.push(CLASSES[usize::from(*actual)], predicted.map(|p| CLASSES[usize::from(p)]), &probabilities);
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

    proptest! {
        #[test]
        fn e1_multiclass_merges(
            rows in prop::collection::vec(
                (0_u8..4, prop::option::of(0_u8..4), prop::collection::btree_map(0_u8..4, 0.0..1.0_f64, 0..4)), 0..40),
            a in 0_usize..40, b in 0_usize..40,
        ) {
            let rows: Vec<Row> = rows.into_iter().map(|(y, p, m)| (y, p, m.into_iter().collect())).collect();
            let (a, b) = (a.min(b).min(rows.len()), a.max(b).min(rows.len()));
            let (x, y, z) = (state(&rows[..a]), state(&rows[a..b]), state(&rows[b..]));
            let mut left = x.clone();
            left.merge(&y);
            left.merge(&z);
            let mut right = z.clone();
            right.merge(&y);
            let mut bytes = Vec::new();
            x.encode(&mut bytes);
            right.merge_encoded(&mut Reader::new(&bytes)).expect("whole state");
            let whole = state(&rows);
            prop_assert_eq!(&whole, &left);
            prop_assert_eq!(&whole, &right);
            prop_assert_eq!(whole.value(), left.value());
            prop_assert_eq!(whole.value(), right.value());
        }
    }
}
