//! Everything a binary classification is judged by, from one state.

use super::{
    Cell, Report, Undefined,
    confusion::{Confusion, OneVsRest, RATES},
    scores::{ScoreMetrics, Scores},
    wire::{Reader, put_u64},
};

/// Text of the two classes inside a report; the caller knows their names.
pub const POSITIVE: &str = "true";
/// See [`POSITIVE`].
pub const NEGATIVE: &str = "false";

/// Hits and misses, and the scores of labelled rows. About eight bytes a row.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct BinaryState {
    counts: OneVsRest,
    scores: Scores,
}

impl BinaryState {
    /// Adds a labelled row. `predicted` and `score` may be missing, each on its own.
    #[inline]
    pub fn push(&mut self, actual: bool, predicted: Option<bool>, score: Option<f64>) {
        if let Some(predicted) = predicted {
            *match (actual, predicted) {
                (true, true) => &mut self.counts.true_positives,
                (false, true) => &mut self.counts.false_positives,
                (true, false) => &mut self.counts.false_negatives,
                (false, false) => &mut self.counts.true_negatives,
            } += 1;
        }
        if let Some(score) = score {
            self.scores.push(score, actual);
        }
    }

    /// Adds whole columns at once: hits and misses first, scores after, for columns without gaps.
    pub fn push_counts(&mut self, counts: &OneVsRest) {
        self.counts.merge(counts);
    }

    /// The scores, for a caller that fills them column-wise.
    pub fn scores_mut(&mut self) -> &mut Scores {
        &mut self.scores
    }

    /// Adds all rows of another state.
    pub fn merge(&mut self, other: &Self) {
        self.counts.merge(&other.counts);
        self.scores.merge(&other.scores);
    }

    /// Every metric of the task. Confusion cells carry [`POSITIVE`] and [`NEGATIVE`].
    ///
    /// What counts hits rests on the rows with a prediction, what ranks on the rows with a score; where there are none
    /// the reason is `no_rows` if there are no labelled rows at all, else `no_scores`.
    pub fn value(self, scores_are_probabilities: bool) -> Report {
        let (scored_positives, scored_negatives) = self.scores.counts();
        let (judged, scored) = (self.counts.rows(), scored_positives + scored_negatives);
        let nothing = if judged + scored == 0 { Undefined::NoRows } else { Undefined::NoScores };
        let mut report = Report::default();
        let confusion = self.confusion();
        let metrics = [
            ("accuracy", confusion.accuracy()),
            ("balanced_accuracy", confusion.balanced_accuracy()),
            ("matthews_corrcoef", confusion.matthews_corrcoef()),
        ];
        for (name, outcome) in metrics.into_iter().chain(RATES.map(|(name, of)| (name, of(&self.counts)))) {
            report.add(name, None, if judged == 0 { Err(nothing) } else { outcome });
        }
        report.confusion = self.cells();
        let ranked =
            if scored == 0 { ScoreMetrics::undefined(nothing) } else { self.scores.value(scores_are_probabilities) };
        for (name, outcome) in ranked.named() {
            // A margin is no probability, whether or not a row has one.
            let outcome = match name {
                "log_loss" | "brier_score" | "expected_calibration_error" if !scores_are_probabilities => {
                    Err(Undefined::NotProbability)
                }
                _ => outcome,
            };
            report.add(name, None, outcome);
        }
        report
    }

    /// Memory held beyond the struct, bytes.
    pub fn size(&self) -> usize {
        self.scores.size()
    }

    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        let c = &self.counts;
        for count in [c.true_positives, c.false_positives, c.false_negatives, c.true_negatives] {
            put_u64(out, count);
        }
        self.scores.encode(out);
    }

    pub(crate) fn merge_encoded(&mut self, reader: &mut Reader<'_>) -> Option<()> {
        let counts = OneVsRest {
            true_positives: reader.u64()?,
            false_positives: reader.u64()?,
            false_negatives: reader.u64()?,
            true_negatives: reader.u64()?,
        };
        self.counts.merge(&counts);
        self.scores.merge_encoded(reader)
    }

    fn confusion(&self) -> Confusion {
        let mut confusion = Confusion::default();
        for cell in self.cells() {
            confusion.push(&cell.actual, &cell.predicted, cell.count as u64);
        }
        confusion
    }

    fn cells(&self) -> Vec<Cell> {
        let c = &self.counts;
        [
            (NEGATIVE, NEGATIVE, c.true_negatives),
            (NEGATIVE, POSITIVE, c.false_positives),
            (POSITIVE, NEGATIVE, c.false_negatives),
            (POSITIVE, POSITIVE, c.true_positives),
        ]
        .into_iter()
        .filter(|(_, _, count)| *count > 0)
        .map(|(actual, predicted, count)| Cell {
            actual: actual.to_owned(),
            predicted: predicted.to_owned(),
            count: count as i64,
        })
        .collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    type Row = (bool, Option<bool>, Option<f64>);

    fn state(rows: &[Row]) -> BinaryState {
        let mut state = BinaryState::default();
        for (actual, predicted, score) in rows {
            state.push(*actual, *predicted, *score);
        }
        state
    }

    #[test]
    fn e3_every_metric_is_there_with_a_value_or_a_reason() {
        let names = |report: &Report| report.metrics.iter().map(|r| r.metric.clone()).collect::<Vec<_>>();
        let full = state(&[(true, Some(true), Some(0.9)), (false, Some(false), Some(0.2))]).value(true);
        for rows in [
            &[][..],
            &[(true, Some(true), Some(0.9))],
            &[(true, None, None)],
            &[(true, Some(true), None), (false, Some(true), None)],
            &[(true, None, Some(f64::NAN))],
        ] {
            let report = state(rows).value(true);
            assert_eq!(names(&report), names(&full));
            assert!(report.metrics.iter().all(|r| r.value.is_some() != r.reason.is_some()), "{report:?}");
        }
        let unscored = state(&[(true, Some(true), None)]).value(true);
        assert_eq!(unscored.get("roc_auc").and_then(|r| r.reason), Some(Undefined::NoScores));
        assert_eq!(unscored.get("accuracy").and_then(|r| r.value), Some(1.0));
        let margin = state(&[]).value(false);
        assert_eq!(margin.get("brier_score").and_then(|r| r.reason), Some(Undefined::NotProbability));
    }

    proptest! {
        #[test]
        fn e1_binary_merges(
            rows in prop::collection::vec((any::<bool>(), any::<Option<bool>>(), prop::option::of(0.0..1.0_f64)), 0..60),
            cut in 0_usize..60,
        ) {
            let cut = cut.min(rows.len());
            let (mut left, right) = (state(&rows[..cut]), state(&rows[cut..]));
            let mut swapped = right.clone();
            let mut bytes = Vec::new();
            left.encode(&mut bytes);
            swapped.merge_encoded(&mut Reader::new(&bytes)).expect("whole state");
            left.merge(&right);
            prop_assert_eq!(&left, &swapped);
            prop_assert_eq!(&left, &state(&rows));
            prop_assert_eq!(left.value(true), swapped.value(true));
        }
    }
}
