//! Metrics of a score against a yes-or-no truth: one state, sorted once, swept once.
//!
//! ```text
//! push(score, is_positive) ─► two lists of sortable keys ─► sort ─► runs of equal scores, ascending ─► every metric
//! ```
//! Eight bytes a row. A tie is a run, so every metric is exact with ties by construction.

use super::{
    Estimate, ExactSum, Outcome, Undefined, interval, ratio,
    wire::{Reader, put_u64s},
};

/// Bins of the calibration error. More bins show finer miscalibration and hold fewer rows each, which biases the error up.
const CALIBRATION_BINS: usize = 10;

/// Scores by class, in the order they came.
#[derive(Debug, Clone, Default)]
pub struct Scores {
    positives: Vec<u64>,
    negatives: Vec<u64>,
}

/// All rows that share one score.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Run {
    /// The score.
    pub score: f64,
    /// Rows of the positive class.
    pub positives: u64,
    /// Rows of the negative class.
    pub negatives: u64,
}

/// The metrics of one set of scores.
#[derive(Debug, Clone, PartialEq)]
pub struct ScoreMetrics {
    /// Area under the receiver operating characteristic.
    pub roc_auc: Outcome,
    /// Stepwise area under the precision-recall curve.
    pub average_precision: Outcome,
    /// Negative mean log-likelihood, nats.
    pub log_loss: Outcome,
    /// Mean squared error of the probability.
    pub brier_score: Outcome,
    /// Mean absolute gap between confidence and share of positives.
    pub expected_calibration_error: Outcome,
}

impl PartialEq for Scores {
    /// Equal as multisets: order is not part of the state.
    fn eq(&self, other: &Self) -> bool {
        let (mine, theirs) = (self.clone().sorted(), other.clone().sorted());
        mine.positives == theirs.positives && mine.negatives == theirs.negatives
    }
}

impl Scores {
    /// Adds one row. A NaN is no score: the row is left out.
    #[inline]
    pub fn push(&mut self, score: f64, is_positive: bool) {
        if score.is_nan() {
            return;
        }
        let key = to_key(score);
        if is_positive { self.positives.push(key) } else { self.negatives.push(key) }
    }

    /// Adds `count` rows with the same score.
    pub fn push_many(&mut self, score: f64, is_positive: bool, count: u64) {
        let side = if is_positive { &mut self.positives } else { &mut self.negatives };
        side.resize(side.len() + count as usize, to_key(score));
    }

    /// Adds all rows of another state.
    pub fn merge(&mut self, other: &Self) {
        self.positives.extend_from_slice(&other.positives);
        self.negatives.extend_from_slice(&other.negatives);
    }

    /// Rows of the positive and of the negative class.
    pub fn counts(&self) -> (u64, u64) {
        (self.positives.len() as u64, self.negatives.len() as u64)
    }

    /// Sorts once and computes everything in one ascending sweep.
    ///
    /// With `are_probabilities` false, or with a score outside `[0, 1]`, the probability metrics are `not_probability`.
    pub fn value(self, are_probabilities: bool) -> ScoreMetrics {
        let (positives, negatives) = self.counts();
        if positives + negatives == 0 {
            return ScoreMetrics::undefined(Undefined::NoRows);
        }
        let sorted = self.sorted();
        let mut auc = RocAuc::new(positives, negatives);
        let mut precision = AveragePrecision::new(positives, negatives);
        let mut likelihood = Likelihood::default();
        let are_probabilities = are_probabilities && sorted.lie_in_unit_interval();
        for run in sorted.runs() {
            auc.add(run);
            precision.add(run);
            if are_probabilities {
                likelihood.add(run);
            }
        }
        let rows = positives + negatives;
        let probability = |outcome| if are_probabilities { outcome } else { Err(Undefined::NotProbability) };
        ScoreMetrics {
            roc_auc: auc.value(),
            average_precision: precision.value(),
            log_loss: probability(likelihood.log_loss(rows)),
            brier_score: probability(likelihood.brier_score(rows)),
            expected_calibration_error: probability(likelihood.expected_calibration_error(rows)),
        }
    }

    /// Memory held, bytes.
    pub fn size(&self) -> usize {
        (self.positives.capacity() + self.negatives.capacity()) * size_of::<u64>()
    }

    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        put_u64s(out, &self.positives);
        put_u64s(out, &self.negatives);
    }

    pub(crate) fn merge_encoded(&mut self, reader: &mut Reader<'_>) -> Option<()> {
        reader.extend_u64s(&mut self.positives)?;
        reader.extend_u64s(&mut self.negatives)
    }

    fn sorted(mut self) -> Self {
        self.positives.sort_unstable();
        self.negatives.sort_unstable();
        self
    }

    fn lie_in_unit_interval(&self) -> bool {
        [&self.positives, &self.negatives].into_iter().all(|side| {
            let (Some(first), Some(last)) = (side.first(), side.last()) else { return true };
            from_key(*first) >= 0.0 && from_key(*last) <= 1.0
        })
    }

    /// Runs of equal scores, ascending. Both sides must be sorted.
    fn runs(&self) -> impl Iterator<Item = Run> + '_ {
        let (mut positives, mut negatives) = (&self.positives[..], &self.negatives[..]);
        std::iter::from_fn(move || {
            let key = match (positives.first(), negatives.first()) {
                (Some(p), Some(n)) => *p.min(n),
                (Some(key), None) | (None, Some(key)) => *key,
                (None, None) => return None,
            };
            Some(Run {
                score: from_key(key),
                positives: take_run(&mut positives, key),
                negatives: take_run(&mut negatives, key),
            })
        })
    }
}

impl ScoreMetrics {
    /// Every metric undefined for the same reason.
    pub fn undefined(reason: Undefined) -> Self {
        Self {
            roc_auc: Err(reason),
            average_precision: Err(reason),
            log_loss: Err(reason),
            brier_score: Err(reason),
            expected_calibration_error: Err(reason),
        }
    }

    /// Name and outcome of each, in published order.
    pub fn named(&self) -> [(&'static str, Outcome); 5] {
        [
            ("roc_auc", self.roc_auc),
            ("average_precision", self.average_precision),
            ("log_loss", self.log_loss),
            ("brier_score", self.brier_score),
            ("expected_calibration_error", self.expected_calibration_error),
        ]
    }
}

/// A key that sorts as unsigned like the float does: the sign bit flipped, and all others too if it was set.
/// −0 becomes +0, because the two are one score.
fn to_key(score: f64) -> u64 {
    let bits = (score + 0.0).to_bits();
    bits ^ (((bits as i64 >> 63) as u64) | 1 << 63)
}

fn from_key(key: u64) -> f64 {
    f64::from_bits(if key >> 63 == 1 { key ^ 1 << 63 } else { !key })
}

fn take_run(side: &mut &[u64], key: u64) -> u64 {
    let length = side.iter().take_while(|k| **k == key).count();
    *side = &side[length..];
    length as u64
}

/// The clip of a probability inside a logarithm, scikit-learn's: f64 epsilon.
pub(crate) fn negative_log(probability: f64) -> f64 {
    -probability.clamp(f64::EPSILON, 1.0 - f64::EPSILON).ln()
}

/// The bin of a probability: edges as NumPy's `linspace` gives them, intervals closed on the right, the first also on
/// the left. scikit-learn's `calibration_curve` bins so.
pub(crate) fn calibration_bin(probability: f64) -> usize {
    let width = 1.0 / CALIBRATION_BINS as f64;
    (1..CALIBRATION_BINS).take_while(|edge| *edge as f64 * width < probability).count()
}

/// Area under the ROC curve with DeLong's interval.
///
/// # Formula
/// `P(score⁺ > score⁻) + ½ P(score⁺ = score⁻)`, as a ratio of two integers; ties count by mid-rank.
/// # Source
/// Mann & Whitney (1947); DeLong, DeLong & Clarke-Pearson (1988) for the variance.
/// # Returns
/// `one_class` unless both classes occur. The interval needs two rows of each.
struct RocAuc {
    positives: u64,
    negatives: u64,
    positives_below: u64,
    negatives_below: u64,
    /// Twice each row's placement among the other class, summed, and summed squared.
    positive_placements: Placements,
    negative_placements: Placements,
}

#[derive(Default)]
struct Placements {
    sum: u128,
    squares: u128,
}

impl RocAuc {
    fn new(positives: u64, negatives: u64) -> Self {
        Self {
            positives,
            negatives,
            positives_below: 0,
            negatives_below: 0,
            positive_placements: Placements::default(),
            negative_placements: Placements::default(),
        }
    }

    fn add(&mut self, run: Run) {
        let below = 2 * self.negatives_below + run.negatives;
        let above = 2 * (self.positives - self.positives_below) - run.positives;
        self.positive_placements.add(below, run.positives);
        self.negative_placements.add(above, run.negatives);
        self.positives_below += run.positives;
        self.negatives_below += run.negatives;
    }

    fn value(&self) -> Outcome {
        if self.positives == 0 || self.negatives == 0 {
            return Err(Undefined::OneClass);
        }
        let pairs = u128::from(self.positives) * u128::from(self.negatives);
        let value = self.positive_placements.sum as f64 / (2 * pairs) as f64;
        let variance = self
            .positive_placements
            .variance_of_mean(self.positives, self.negatives)
            .zip(self.negative_placements.variance_of_mean(self.negatives, self.positives));
        Ok(variance.map_or(Estimate::bare(value), |(p, n)| interval::normal(value, (p + n).sqrt(), 0.0, 1.0)))
    }
}

impl Placements {
    fn add(&mut self, twice_placement: u64, rows: u64) {
        let (placement, rows) = (u128::from(twice_placement), u128::from(rows));
        self.sum += placement * rows;
        self.squares += placement * placement * rows;
    }

    /// Sample variance of the placements (as shares of the `others` rows), over `rows`.
    fn variance_of_mean(&self, rows: u64, others: u64) -> Option<f64> {
        if rows < 2 {
            return None;
        }
        let (n, others) = (rows as f64, others as f64);
        // Exact integers while they fit: below about 10⁹ rows of each class.
        let centred = match self.squares.checked_mul(u128::from(rows)).zip(self.sum.checked_mul(self.sum)) {
            Some((squares, sum)) => squares.saturating_sub(sum) as f64,
            None => (self.squares as f64 * n - (self.sum as f64).powi(2)).max(0.0),
        };
        Some(centred / (n * (n - 1.0)) / (4.0 * others * others) / n)
    }
}

/// Average precision.
///
/// # Formula
/// `Σ (Rₖ − Rₖ₋₁) Pₖ` over the distinct thresholds, without interpolation.
/// # Source
/// scikit-learn, `average_precision_score`.
/// # Returns
/// `one_class` without a positive; 1 if all rows are positive.
struct AveragePrecision {
    positives: u64,
    /// Rows whose score is at or above the threshold at hand.
    positives_above: u64,
    negatives_above: u64,
    sum: ExactSum,
}

impl AveragePrecision {
    fn new(positives: u64, negatives: u64) -> Self {
        Self { positives, positives_above: positives, negatives_above: negatives, sum: ExactSum::default() }
    }

    fn add(&mut self, run: Run) {
        if run.positives > 0 {
            let precision = self.positives_above as f64 / (self.positives_above + self.negatives_above) as f64;
            self.sum.push(run.positives as f64 * precision);
        }
        self.positives_above -= run.positives;
        self.negatives_above -= run.negatives;
    }

    fn value(&self) -> Outcome {
        if self.positives == 0 {
            return Err(Undefined::OneClass);
        }
        Ok(Estimate::bare(self.sum.value() / self.positives as f64))
    }
}

/// What asks how likely the labels were under the scores as probabilities.
///
/// # Formula
/// Log loss: `−mean(y ln p + (1 − y) ln(1 − p))`, p clipped to `[ε, 1 − ε]`. Brier score: `mean((p − y)²)`.
/// Expected calibration error: `Σ_b |Σ_{i∈b} y − Σ_{i∈b} p| / n` over ten equal-width bins.
/// # Source
/// Good (1952); Brier (1950); Naeini, Cooper & Hauskrecht (2015).
/// # Inputs
/// Scores in `[0, 1]`.
#[derive(Default)]
struct Likelihood {
    loss: ExactSum,
    squares: ExactSum,
    bins: [CalibrationBin; CALIBRATION_BINS],
}

#[derive(Default)]
struct CalibrationBin {
    positives: u64,
    probabilities: ExactSum,
}

impl Likelihood {
    fn add(&mut self, run: Run) {
        let p = run.score;
        let bin = &mut self.bins[calibration_bin(p)];
        bin.positives += run.positives;
        bin.probabilities.push((run.positives + run.negatives) as f64 * p);
        if run.positives > 0 {
            let rows = run.positives as f64;
            self.loss.push(rows * negative_log(p));
            self.squares.push(rows * ((1.0 - p) * (1.0 - p)));
        }
        if run.negatives > 0 {
            let rows = run.negatives as f64;
            self.loss.push(rows * negative_log(1.0 - p));
            self.squares.push(rows * (p * p));
        }
    }

    #[allow(clippy::unnecessary_wraps)] // as all metrics are: an outcome
    fn log_loss(&self, rows: u64) -> Outcome {
        Ok(Estimate::bare(self.loss.value() / rows as f64))
    }

    #[allow(clippy::unnecessary_wraps)] // as all metrics are: an outcome
    fn brier_score(&self, rows: u64) -> Outcome {
        Ok(Estimate::bare(self.squares.value() / rows as f64))
    }

    #[allow(clippy::unnecessary_wraps)] // as all metrics are: an outcome
    fn expected_calibration_error(&self, rows: u64) -> Outcome {
        let gaps: ExactSum =
            self.bins.iter().map(|bin| (bin.positives as f64 - bin.probabilities.value()).abs()).collect();
        Ok(Estimate::bare(gaps.value() / rows as f64))
    }
}

/// A rate with Wilson's interval.
pub(crate) fn rate(hits: u64, rows: u64) -> Outcome {
    interval::wilson(hits, rows).ok_or(Undefined::ZeroDenominator)
}

/// A ratio of counts without an interval.
pub(crate) fn bare_ratio(numerator: u64, denominator: u64) -> Outcome {
    ratio(numerator, denominator).map(Estimate::bare)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn scores(rows: &[(f64, bool)]) -> Scores {
        let mut state = Scores::default();
        for (score, positive) in rows {
            state.push(*score, *positive);
        }
        state
    }

    #[test]
    fn keys_sort_like_floats() {
        let ordered = [f64::NEG_INFINITY, -1.5, -5e-324, 0.0, 5e-324, 0.5, 1.0, f64::INFINITY];
        assert!(ordered.windows(2).all(|pair| to_key(pair[0]) < to_key(pair[1])));
        assert!(ordered.iter().all(|x| from_key(to_key(*x)) == *x));
        assert_eq!(to_key(-0.0), to_key(0.0));
    }

    #[test]
    fn calibration_bins_are_closed_on_the_right() {
        for (probability, bin) in [(0.0, 0), (0.1, 0), (0.1000001, 1), (0.5, 4), (0.30000000000000004, 2), (1.0, 9)] {
            assert_eq!(calibration_bin(probability), bin, "{probability}");
        }
    }

    #[test]
    fn hand_worked() {
        // scikit-learn's own example, then perfect, reversed, all tied.
        let m = scores(&[(0.1, false), (0.4, false), (0.35, true), (0.8, true)]).value(true);
        assert_eq!(m.roc_auc.map(|e| e.value), Ok(0.75));
        assert_eq!(m.average_precision.map(|e| e.value), Ok(0.8333333333333333));
        for (rows, auc) in [
            (vec![(0.1, false), (0.9, true)], 1.0),
            (vec![(0.9, false), (0.1, true)], 0.0),
            (vec![(0.5, false), (0.5, true), (0.5, true)], 0.5),
        ] {
            assert_eq!(scores(&rows).value(true).roc_auc.map(|e| e.value), Ok(auc), "{rows:?}");
        }
    }

    #[test]
    fn delong_agrees_with_its_definition_on_a_table() {
        // Placements of positives (.35, .8): .5, 1; of negatives (.1, .4): 1, .5. Variances .125 each, over 2 and 2.
        let m = scores(&[(0.1, false), (0.4, false), (0.35, true), (0.8, true)]).value(true);
        let (low, high) = m.roc_auc.ok().and_then(|e| e.interval).expect("two of each");
        assert!((low - (0.75 - interval::Z_95 * 0.125_f64.sqrt())).abs() < 1e-15);
        assert_eq!(high, 1.0);
    }

    #[test]
    fn e3_undefined_has_a_reason() {
        let empty = scores(&[]).value(true);
        assert!(empty.named().iter().all(|(_, outcome)| *outcome == Err(Undefined::NoRows)));
        let nan = scores(&[(f64::NAN, true)]).value(true);
        assert_eq!(nan.roc_auc, Err(Undefined::NoRows));
        let negatives = scores(&[(0.2, false), (0.3, false)]).value(true);
        assert_eq!(negatives.roc_auc, Err(Undefined::OneClass));
        assert_eq!(negatives.average_precision, Err(Undefined::OneClass));
        assert!(negatives.log_loss.is_ok());
        let margins = scores(&[(-2.0, false), (3.0, true)]);
        for declared in [true, false] {
            let m = margins.clone().value(declared);
            assert_eq!(m.roc_auc.map(|e| e.value), Ok(1.0));
            assert_eq!(m.log_loss, Err(Undefined::NotProbability));
        }
        assert!(scores(&[(0.0, true), (1.0, false)]).value(true).log_loss.is_ok_and(|e| e.value > 36.0));
    }

    fn row() -> impl Strategy<Value = (f64, bool)> {
        (prop_oneof![0.0..1.0_f64, Just(0.5), Just(0.0), Just(1.0), Just(f64::NAN)], any::<bool>())
    }

    proptest! {
        #[test]
        fn e1_scores_merge(rows in prop::collection::vec(row(), 0..80), a in 0_usize..80, b in 0_usize..80) {
            let (a, b) = (a.min(b).min(rows.len()), a.max(b).min(rows.len()));
            let whole = scores(&rows);
            let (x, y, z) = (scores(&rows[..a]), scores(&rows[a..b]), scores(&rows[b..]));
            let mut left = x.clone();
            left.merge(&y);
            left.merge(&z);
            let mut right = z.clone();
            right.merge(&y);
            let mut bytes = Vec::new();
            x.encode(&mut bytes);
            right.merge_encoded(&mut Reader::new(&bytes)).expect("whole state");
            prop_assert_eq!(&whole, &left);
            prop_assert_eq!(&whole, &right);
            prop_assert_eq!(whole.clone().value(true), left.value(true));
            prop_assert_eq!(whole.value(true), right.value(true));
        }

        #[test]
        fn auc_is_the_share_of_ordered_pairs(rows in prop::collection::vec(row(), 0..40)) {
            let rows: Vec<_> = rows.into_iter().filter(|(s, _)| !s.is_nan()).collect();
            let (mut twice, mut pairs) = (0_u64, 0_u64);
            for (p, _) in rows.iter().filter(|r| r.1) {
                for (n, _) in rows.iter().filter(|r| !r.1) {
                    pairs += 1;
                    twice += u64::from(p > n) + u64::from(p >= n);
                }
            }
            let auc = scores(&rows).value(true).roc_auc.map(|e| e.value).ok();
            prop_assert_eq!(auc, (pairs > 0).then(|| twice as f64 / (2 * pairs) as f64));
        }
    }
}
