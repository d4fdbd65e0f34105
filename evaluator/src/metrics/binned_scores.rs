//! Metrics of scores that are held in bins, each with a bound on how far it is from that of the rows as they are.

use super::{
    Undefined,
    average_precision::AveragePrecision,
    binned::ROUNDING,
    curves::{Curve, Curves},
    exact_sum::DoubledSum,
    likelihood::StreamedLikelihood,
    mass::Mass,
    roc_auc::RocAuc,
    scores::{BinnedRun, Run, ScoreMetrics, Scores, Side, binned_runs},
};

/// What the order of rows within bins may change in an area under the ROC curve.
///
/// # Formula
/// A bin is a tie: each pair of its two classes counts half. In truth it may count nothing or one, so half of the pairs of all
/// bins, over all pairs. A bin of one value is a tie in truth.
#[derive(Debug, Default)]
pub struct AreaBound {
    pairs: DoubledSum,
}

impl AreaBound {
    /// Adds a bin.
    pub fn add(&mut self, binned: &BinnedRun) {
        if !binned.is_one_value() {
            self.pairs.push(binned.run.positives * binned.run.negatives / 2.0);
        }
    }

    /// The bound; 0 if no bin has both classes.
    pub fn value(&self, positives: &Mass, negatives: &Mass) -> f64 {
        let bound = self.pairs.value() / (positives.weight() * negatives.weight());
        if bound > 0.0 { bound + ROUNDING } else { 0.0 }
    }
}

/// What the order of rows within bins may change in average precision.
///
/// # Formula
/// With P positives and N negatives above a bin of p and n: at best all p come first, as a tie, `p (P + p)/(P + p + N)`; at worst they come
/// last and one by one, `∫₀ᵖ (P + x)/(P + x + N + n) dx = p − (N + n) ln(1 + p/(P + N + n))`, which no sum over rows falls below.
#[derive(Debug)]
struct PrecisionBound {
    positives_above: f64,
    negatives_above: f64,
    least: DoubledSum,
    value: DoubledSum,
    most: DoubledSum,
}

impl PrecisionBound {
    fn new(positives: &Mass, negatives: &Mass) -> Self {
        let none = DoubledSum::default();
        Self {
            positives_above: positives.weight(),
            negatives_above: negatives.weight(),
            least: none,
            value: none,
            most: none,
        }
    }

    /// Adds the next bin, by ascending score.
    fn add(&mut self, binned: &BinnedRun) {
        let (p, n) = (binned.run.positives, binned.run.negatives);
        let (through, negatives_through) = (self.positives_above, self.negatives_above);
        self.positives_above = (through - p).max(0.0);
        self.negatives_above = (negatives_through - n).max(0.0);
        if p <= 0.0 {
            return;
        }
        let as_tie = p * (through / (through + negatives_through));
        let (mut least, mut most) = (as_tie, as_tie);
        if !binned.is_one_value() {
            least = p - negatives_through * (p / (self.positives_above + negatives_through)).ln_1p();
            most = p * (through / (through + self.negatives_above));
        }
        self.least.push(least.min(as_tie));
        self.value.push(as_tie);
        self.most.push(most);
    }

    fn value(&self, positives: &Mass) -> f64 {
        let off = (self.most.value() - self.value.value()).max(self.value.value() - self.least.value());
        let bound = off / positives.weight();
        if bound > 0.0 { bound + ROUNDING } else { 0.0 }
    }
}

impl Scores {
    /// Whether rows are held in bins.
    pub fn is_binned(&self) -> bool {
        let (positives, negatives) = self.sides();
        !positives.bins().is_empty() || !negatives.bins().is_empty()
    }

    /// As [`Scores::value_and_curves`], of rows in bins: `likelihood` has seen each of them.
    pub(super) fn value_of_bins(
        &self,
        likelihood: &StreamedLikelihood,
        are_probabilities: bool,
    ) -> (ScoreMetrics, Vec<Curve>) {
        let (positive_side, negative_side) = self.sides();
        let (positives, negatives) = (positive_side.mass(), negative_side.mass());
        let all_positives = positives.weight();
        let mut auc = RocAuc::new(positives, negatives);
        let mut precision = AveragePrecision::new(positives, negatives);
        let mut curves = Curves::new(&positives, &negatives);
        let (mut off_auc, mut off_precision) = (AreaBound::default(), PrecisionBound::new(&positives, &negatives));
        for binned in binned_runs(positive_side, negative_side) {
            auc.add(&binned.run, all_positives);
            let precision = precision.add(&binned.run);
            curves.add(&binned.run, precision);
            off_auc.add(&binned);
            off_precision.add(&binned);
        }
        let are_probabilities = are_probabilities && !likelihood.is_out_of_range();
        let [log_loss, brier_score, expected_calibration_error] = if are_probabilities {
            likelihood.values(&positives, &negatives)
        } else {
            [Err(Undefined::NotProbability); 3]
        };
        let mut drawn = curves.value();
        if are_probabilities {
            drawn.push(Curve { name: "reliability".to_owned(), points: likelihood.reliability() });
        }
        let within = |bound: f64| move |estimate: super::Estimate| estimate.within(bound).between(0.0, 1.0);
        let metrics = ScoreMetrics {
            roc_auc: auc.value().map(within(off_auc.value(&positives, &negatives))),
            average_precision: precision.value().map(within(off_precision.value(&positives))),
            log_loss,
            brier_score,
            expected_calibration_error,
        };
        (metrics, drawn)
    }
}

/// The area under the ROC curve of two sides in bins, and its bound.
pub(super) fn roc_auc_of_bins(positives: &Side, negatives: &Side) -> (RocAuc, f64) {
    let (of_positives, of_negatives) = (positives.mass(), negatives.mass());
    let mut auc = RocAuc::new(of_positives, of_negatives);
    let mut off = AreaBound::default();
    for binned in binned_runs(positives, negatives) {
        let run: &Run = &binned.run;
        auc.add(run, of_positives.weight());
        off.add(&binned);
    }
    (auc, off.value(&of_positives, &of_negatives))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use crate::metrics::{Report, Weight, binary::BinaryState, binned::Limit, wire::Reader};

    type Row = (f64, bool, f64);

    fn state(rows: &[Row], limit: Option<&Limit>) -> BinaryState {
        let mut state = limit.map_or_else(BinaryState::default, |limit| BinaryState::held_to(limit.clone()));
        for (at, (score, positive, rate)) in rows.iter().enumerate() {
            state.push(*positive, Some(*score > 0.5), Some(*score), Weight::of_rate(Some(*rate)));
            if at % 7 == 6 {
                state.hold(false);
            }
        }
        state.hold(false);
        state
    }

    fn report(mut state: BinaryState) -> Report {
        state.hold(true);
        state.value(true)
    }

    fn row() -> impl Strategy<Value = Row> {
        let score = prop_oneof![
            6 => 0.0..1.0_f64,
            2 => prop::sample::select(vec![0.0, 1.0, 0.5, 0.25, 1e-300, 5e-324, 0.1]),
            1 => 0.5..0.5001_f64,
        ];
        (score, any::<bool>(), prop_oneof![3 => Just(1.0), 1 => 0.05..1.0_f64])
    }

    #[test]
    fn a_bin_with_both_classes_is_off_by_half_of_its_pairs() {
        // One bin holds all: the area is a half, and may be anything.
        let rows = [(0.5, true, 1.0), (0.50001, false, 1.0), (0.50002, true, 1.0), (0.50003, false, 1.0)];
        let binned = report(state(&rows, Some(&Limit::of(1))));
        let auc = binned.get("roc_auc").expect("a row");
        assert_eq!(auc.value, Some(0.5));
        assert!((auc.error_bound.expect("binned") - 0.5).abs() < 1e-12, "{auc:?}");
        // At best two positives of precision 1, at worst 1/3 and 2/4, of which the integral is a little less.
        let precision = binned.get("average_precision").expect("a row");
        assert!((precision.error_bound.expect("binned") - 0.5).abs() < 1e-12, "{precision:?}");
        assert_eq!((auc.ci_low, auc.ci_high), (Some(0.0), Some(1.0)));
    }

    #[test]
    fn where_positives_abound_the_worst_order_is_what_bounds_average_precision() {
        // Ten negatives before six hundred positives, all in one bin: as a tie it looks nearly perfect.
        let rows: Vec<Row> = (0..610).map(|at| (0.5 + f64::from(at) * 1e-6, at < 600, 1.0)).collect();
        let precision = |limit: Option<&Limit>| report(state(&rows, limit)).get("average_precision").cloned();
        let (exact, binned) = (precision(None).expect("a row"), precision(Some(&Limit::of(1))).expect("a row"));
        let off = (exact.value.expect("defined") - binned.value.expect("defined")).abs();
        let bound = binned.error_bound.expect("binned");
        // An integral in place of a sum: little more than it is off.
        assert!(off <= bound && bound < 1.1 * off, "{off} {bound}");
    }

    #[test]
    fn ties_are_exact_whatever_holds_them() {
        let rows: Vec<Row> = (0..5_000).map(|i| (f64::from(i % 97) / 97.0, i % 3 == 0, 1.0)).collect();
        let (exact, binned) = (report(state(&rows, None)), report(state(&rows, Some(&Limit::of(256)))));
        for (one, other) in exact.metrics.iter().zip(&binned.metrics) {
            assert_eq!(other.error_bound, None, "{}", other.metric);
            let close = |a: Option<f64>, b: Option<f64>| match (a, b) {
                (Some(a), Some(b)) => (a - b).abs() < 1e-12,
                (a, b) => a == b,
            };
            assert!(close(one.value, other.value) && close(one.ci_low, other.ci_low), "{one:?} {other:?}");
        }
        assert_eq!(exact.curves.len(), binned.curves.len());
    }

    proptest! {
        #[test]
        fn the_exact_value_lies_within_the_bound(rows in prop::collection::vec(row(), 1..300), bins in 1_usize..40) {
            let (exact, binned) = (report(state(&rows, None)), report(state(&rows, Some(&Limit::of(bins)))));
            for (one, other) in exact.metrics.iter().zip(&binned.metrics) {
                prop_assert_eq!(one.reason, other.reason, "{}", &one.metric);
                let (Some(value), Some(held)) = (one.value, other.value) else { continue };
                let bound = other.error_bound.unwrap_or(0.0);
                prop_assert!((value - held).abs() <= bound + 1e-12, "{} {value} {held} {bound}", &one.metric);
                if bound > 0.0 {
                    prop_assert!(other.ci_low.is_some_and(|low| low <= value + 1e-12), "{:?}", other);
                    prop_assert!(other.ci_high.is_some_and(|high| high >= value - 1e-12), "{:?}", other);
                }
            }
        }

        #[test]
        fn e1_binned_scores_merge(
            rows in prop::collection::vec(row(), 1..200), bins in 2_usize..40, cut in 0_usize..200, turn in 0_usize..200,
        ) {
            let limit = Limit::of(bins);
            let whole = state(&rows, Some(&limit));
            let mut turned = rows.clone();
            turned.rotate_left(turn % rows.len());
            let cut = cut.min(rows.len());
            let (left, right) = (state(&turned[..cut], Some(&limit)), state(&turned[cut..], Some(&limit)));
            let mut merged = BinaryState::held_to(limit.clone());
            for part in [&right, &left] {
                let mut bytes = Vec::new();
                part.encode(&mut bytes);
                merged.merge_encoded(&mut Reader::new(&bytes)).expect("whole state");
                merged.hold(false);
            }
            prop_assert_eq!(report(whole), report(merged));
        }
    }
}
