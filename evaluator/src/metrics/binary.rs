//! Everything a binary classification is judged by, from one state.

use super::{
    Cell, Report, Undefined,
    binned::{Limit, hold_to},
    confusion::Confusion,
    likelihood::StreamedLikelihood,
    mass::Weight,
    one_vs_rest::{OneVsRest, Rate},
    scores::{ScoreMetrics, Scores},
    wire::Reader,
};

/// Text of the two classes inside a report; the caller knows their names.
pub const POSITIVE: &str = "true";
/// See [`POSITIVE`].
pub const NEGATIVE: &str = "false";

/// Hits and misses, and the scores of labelled rows: about eight bytes a row, or what its limit allows.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct BinaryState {
    counts: OneVsRest,
    scores: Scores,
    held: Option<Box<Held>>,
}

/// What a state with a limit has besides.
#[derive(Debug, Clone, Default, PartialEq)]
struct Held {
    limit: Limit,
    likelihood: StreamedLikelihood,
    /// Listed scores of either class that the likelihood has seen.
    seen: [usize; 2],
}

impl BinaryState {
    /// An empty state that keeps no more than this, as long as [`hold`](Self::hold) is called.
    pub fn held_to(limit: Limit) -> Self {
        Self { held: Some(Box::new(Held { limit, ..Held::default() })), ..Self::default() }
    }

    /// Puts scores into bins, if the limit asks for it; `is_last`: no row follows.
    pub fn hold(&mut self, is_last: bool) {
        let Some(held) = self.held.as_deref_mut() else { return };
        let mut sides = self.scores.sides_mut();
        for ((side, is_positive), seen) in sides.iter().zip([true, false]).zip(&mut held.seen) {
            side.listed(*seen).for_each(|(score, weight)| held.likelihood.push(score, is_positive, weight));
            *seen = side.waiting();
        }
        hold_to(&held.limit, &mut sides, is_last);
        held.seen = sides.map(|side| side.waiting());
    }

    /// Adds a labelled row. `predicted` and `score` may be missing, each on its own.
    #[inline]
    pub fn push(&mut self, actual: bool, predicted: Option<bool>, score: Option<f64>, weight: Weight) {
        if let Some(predicted) = predicted {
            self.counts.cell_mut(actual, predicted).push(weight);
        }
        if let Some(score) = score {
            self.scores.push_weighted(score, actual, weight);
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
        self.hold(false);
        self.counts.merge(&other.counts);
        self.scores.merge(&other.scores);
        if let (Some(mine), Some(theirs)) = (&mut self.held, &other.held) {
            mine.likelihood.merge(&theirs.likelihood);
            mine.seen = self.scores.sides_mut().map(|side| side.waiting());
        }
    }

    /// Every metric of the task. Confusion cells carry [`POSITIVE`] and [`NEGATIVE`].
    ///
    /// What counts hits rests on the rows with a prediction, what ranks on the rows with a score; where there are none
    /// the reason is `no_rows` if there are no labelled rows at all, else `no_scores`.
    pub fn value(self, scores_are_probabilities: bool) -> Report {
        let (scored_positives, scored_negatives) = self.scores.counts();
        let (judged, scored) = (self.counts.all().rows(), scored_positives + scored_negatives);
        let nothing = if judged + scored == 0 { Undefined::NoRows } else { Undefined::NoScores };
        let mut report = Report::default();
        self.confusion().report_whole(&mut report, nothing);
        for rate in Rate::ALL {
            report.add(rate.name(), None, if judged == 0 { Err(nothing) } else { self.counts.value(rate) });
        }
        report.confusion = self.cells();
        let (ranked, curves) = if scored == 0 {
            (ScoreMetrics::undefined(nothing), Vec::new())
        } else if let Some(held) = self.held.filter(|_| self.scores.is_binned()) {
            self.scores.value_of_bins(&held.likelihood, scores_are_probabilities)
        } else {
            self.scores.value_and_curves(scores_are_probabilities)
        };
        report.curves = curves;
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
        self.counts.encode(out);
        self.scores.encode(out);
        if let Some(held) = &self.held {
            held.likelihood.encode(out);
        }
    }

    pub(crate) fn merge_encoded(&mut self, reader: &mut Reader<'_>) -> Option<()> {
        self.hold(false);
        self.counts.merge(&OneVsRest::decode(reader)?);
        self.scores.merge_encoded(reader)?;
        if let Some(mine) = &mut self.held {
            mine.likelihood.merge(&StreamedLikelihood::decode(reader)?);
            mine.seen = self.scores.sides_mut().map(|side| side.waiting());
        }
        Some(())
    }

    fn confusion(&self) -> Confusion {
        let mut confusion = Confusion::default();
        let c = &self.counts;
        for (actual, predicted, rows) in [
            (NEGATIVE, NEGATIVE, c.true_negatives),
            (NEGATIVE, POSITIVE, c.false_positives),
            (POSITIVE, NEGATIVE, c.false_negatives),
            (POSITIVE, POSITIVE, c.true_positives),
        ] {
            confusion.push(actual, predicted, rows);
        }
        confusion
    }

    fn cells(&self) -> Vec<Cell> {
        self.confusion().cells()
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
            // Which rows weigh more depends on the row alone.
            let weight = Weight::of_rate(score.map(|score| if score > 0.8 { 0.3 } else { 1.0 }));
            state.push(*actual, *predicted, *score, weight);
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
