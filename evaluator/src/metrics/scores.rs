//! Metrics of a score against a yes-or-no truth: one state, sorted once, swept once.
//!
//! ```text
//! push(score, is_positive) ─► two lists of sortable keys ─► sort ─► runs of equal scores, ascending ─► every metric
//! ```
//! Eight bytes a row, sixteen where rows weigh differently. A tie is a run, so every metric is exact with ties by construction.
//! Where memory does not suffice for that, rows are held in bins (see [`super::binned`]), and a bin is a run.

use super::{
    Outcome, Undefined,
    average_precision::AveragePrecision,
    binned::{Bin, Bins},
    curves::{Curve, Curves},
    likelihood::Likelihood,
    mass::{Mass, Weight},
    roc_auc::RocAuc,
    wire::{Reader, put_u64s},
};

/// The key of score 0, see [`to_key`].
const ZERO_KEY: u64 = 1 << 63;

/// Scores by class, in the order they came.
#[derive(Debug, Clone, Default)]
pub struct Scores {
    positives: Side,
    negatives: Side,
}

/// The scores of one class.
#[derive(Debug, Clone, Default)]
pub struct Side {
    keys: Vec<u64>,
    /// The weight of each, or nothing if all stand for themselves.
    weights: Vec<Weight>,
    /// Rows of score 0 that are counted, not listed.
    zeros: Mass,
    /// Rows that are in bins, not listed; none unless memory asks for it.
    bins: Bins,
}

/// All rows that share one score, by the sums of their weights and of the squares of these.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Run {
    /// The score.
    pub score: f64,
    /// Rows of the positive class.
    pub positives: f64,
    /// Rows of the negative class.
    pub negatives: f64,
    /// The squared weights of the positives.
    pub positive_squares: f64,
    /// Those of the negatives.
    pub negative_squares: f64,
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
    fn eq(&self, other: &Self) -> bool {
        self.positives == other.positives && self.negatives == other.negatives
    }
}

impl PartialEq for Side {
    /// Equal as multisets: order is not part of the state.
    fn eq(&self, other: &Self) -> bool {
        let (mine, theirs) = (self.clone().sorted(), other.clone().sorted());
        mine.keys == theirs.keys && mine.zeros == theirs.zeros && mine.bins == theirs.bins && {
            let pairs = |side: &Self| -> Vec<(u64, Weight)> {
                let weights = side.weights.iter().copied().chain(std::iter::repeat(Weight::ONE));
                side.keys.iter().copied().zip(weights).collect()
            };
            pairs(&mine) == pairs(&theirs)
        }
    }
}

impl Side {
    /// Adds a row; the score is no NaN.
    #[inline]
    fn push(&mut self, key: u64, weight: Weight) {
        if weight != Weight::ONE && self.weights.is_empty() {
            self.weights.resize(self.keys.len(), Weight::ONE);
            self.keys.push(key);
            self.weights.push(weight);
            return;
        }
        self.keys.push(key);
        if !self.weights.is_empty() {
            self.weights.push(weight);
        }
    }

    /// Adds a row. A NaN is no score: the row is left out.
    pub fn push_score(&mut self, score: f64, weight: Weight) {
        if !score.is_nan() {
            self.push(to_key(score), weight);
        }
    }

    /// Adds all rows of another.
    pub fn merge(&mut self, other: &Self) {
        let before = self.keys.len();
        self.keys.extend_from_slice(&other.keys);
        self.zeros.merge(&other.zeros);
        if !other.bins.is_empty() {
            self.bins.merge(&other.bins, &[]);
        }
        if self.weights.is_empty() && other.weights.is_empty() {
            return;
        }
        self.weights.resize(before, Weight::ONE);
        self.weights.extend_from_slice(&other.weights);
        self.weights.resize(self.keys.len(), Weight::ONE);
    }

    /// Adds rows of score 0.
    #[must_use]
    pub fn with_zeros(mut self, zeros: Mass) -> Self {
        self.zeros.merge(&zeros);
        self
    }

    /// Rows and their weight.
    pub fn mass(&self) -> Mass {
        let counted = self.zeros.with(self.bins.mass());
        if self.weights.is_empty() {
            return counted.with(Mass::of_rows(self.keys.len() as u64));
        }
        let mut mass = counted;
        self.weights.iter().for_each(|weight| mass.push(*weight));
        mass
    }

    /// In ascending order of scores.
    #[must_use]
    pub fn sorted(mut self) -> Self {
        if self.weights.is_empty() {
            self.keys.sort_unstable();
        } else {
            let mut pairs: Vec<(u64, Weight)> = self.keys.into_iter().zip(self.weights).collect();
            pairs.sort_unstable();
            (self.keys, self.weights) = pairs.into_iter().unzip();
        }
        self
    }

    /// The listed scores, in their order.
    pub fn values(&self) -> impl Iterator<Item = f64> + '_ {
        self.keys.iter().map(|key| from_key(*key))
    }

    /// Rows that are in bins.
    pub fn bins(&self) -> &Bins {
        &self.bins
    }

    pub(super) fn bins_mut(&mut self) -> &mut Bins {
        &mut self.bins
    }

    /// Rows that are listed.
    pub(super) fn waiting(&self) -> usize {
        self.keys.len()
    }

    /// The listed keys from a place on, with the weight of each.
    pub(super) fn listed(&self, from: usize) -> impl Iterator<Item = (f64, Weight)> + '_ {
        let weights = self.weights.iter().copied().skip(from).chain(std::iter::repeat(Weight::ONE));
        self.keys[from..].iter().map(|key| from_key(*key)).zip(weights)
    }

    /// Puts the listed rows into bins.
    pub(super) fn settle(&mut self, cuts: &[u64]) {
        self.bins.absorb(std::mem::take(&mut self.keys), std::mem::take(&mut self.weights), cuts);
    }

    /// The listed values and their weights, in the order they came.
    pub(super) fn into_listed(self) -> (Vec<f64>, Vec<Weight>) {
        (self.keys.into_iter().map(from_key).collect(), self.weights)
    }

    /// Every row in a bin.
    pub fn into_bins(self) -> Vec<Bin> {
        self.binned().into_list()
    }

    /// Every row in a bin, the counted zeros too.
    pub(super) fn binned(&self) -> Bins {
        let mut all = self.bins.clone();
        all.absorb(self.keys.clone(), self.weights.clone(), &[]);
        if self.zeros.rows() > 0 {
            all.merge(&Bins::of(Bin::of(ZERO_KEY, self.zeros)), &[]);
        }
        all
    }

    /// Memory held, bytes.
    pub fn size(&self) -> usize {
        (self.keys.capacity() + self.weights.capacity()) * size_of::<u64>() + self.bins.size()
    }

    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        self.zeros.encode(out);
        put_u64s(out, &self.keys);
        put_u64s(out, &self.weights.iter().map(|weight| weight.bits()).collect::<Vec<u64>>());
        self.bins.encode(out);
    }

    pub(crate) fn merge_encoded(&mut self, reader: &mut Reader<'_>) -> Option<()> {
        let before = self.keys.len();
        self.zeros.merge(&Mass::decode(reader)?);
        reader.extend_u64s(&mut self.keys)?;
        let mut weights = Vec::new();
        reader.extend_u64s(&mut weights)?;
        let bins = Bins::decode(reader)?;
        if !bins.is_empty() {
            self.bins.merge(&bins, &[]);
        }
        if self.weights.is_empty() && weights.is_empty() {
            return Some(());
        }
        self.weights.resize(before, Weight::ONE);
        self.weights.extend(weights.into_iter().map(Weight::from_bits));
        self.weights.resize(self.keys.len(), Weight::ONE);
        Some(())
    }

    fn cursor(&self) -> Cursor<'_> {
        Cursor { keys: &self.keys, weights: &self.weights, zeros: self.zeros }
    }
}

/// What is left of a sorted side.
struct Cursor<'a> {
    keys: &'a [u64],
    weights: &'a [Weight],
    zeros: Mass,
}

impl Cursor<'_> {
    /// The smallest key that is left.
    #[inline]
    fn next(&self) -> Option<u64> {
        let listed = self.keys.first().copied();
        if self.zeros.rows() == 0 { listed } else { Some(listed.map_or(ZERO_KEY, |key| key.min(ZERO_KEY))) }
    }

    /// Takes the rows of a key: their weight and its squares.
    #[inline]
    fn take(&mut self, key: u64) -> (f64, f64) {
        let length = self.keys.iter().take_while(|k| **k == key).count();
        self.keys = &self.keys[length..];
        if self.weights.is_empty() && (key != ZERO_KEY || self.zeros.rows() == 0) {
            return (length as f64, length as f64);
        }
        let mut mass = if key == ZERO_KEY { std::mem::take(&mut self.zeros) } else { Mass::default() };
        if self.weights.is_empty() {
            mass.merge(&Mass::of_rows(length as u64));
        } else {
            let (run, rest) = self.weights.split_at(length);
            self.weights = rest;
            run.iter().for_each(|weight| mass.push(*weight));
        }
        (mass.weight(), mass.squares())
    }
}

/// Runs of equal scores of two sorted sides, ascending; of rows that are in bins, the bins.
pub fn runs<'a>(positives: &'a Side, negatives: &'a Side) -> impl Iterator<Item = Run> + 'a {
    spans(positives, negatives).map(|span| span.run)
}

/// The same, each with how far it reaches.
pub fn spans<'a>(positives: &'a Side, negatives: &'a Side) -> impl Iterator<Item = BinnedRun> + 'a {
    let (listed, binned) = if positives.bins.is_empty() && negatives.bins.is_empty() {
        let one_value = |run: Run| BinnedRun { run, largest: run.score };
        (Some(listed_runs(positives, negatives).map(one_value)), None)
    } else {
        (None, Some(binned_runs(positives, negatives)))
    };
    listed.into_iter().flatten().chain(binned.into_iter().flatten())
}

/// A bin as a run.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct BinnedRun {
    /// Its rows; the score is the smallest among them.
    pub run: Run,
    /// The largest.
    pub largest: f64,
}

impl BinnedRun {
    /// Whether all rows have the same score.
    pub fn is_one_value(&self) -> bool {
        self.run.score == self.largest
    }

    /// A score in the middle, which stands for all.
    pub fn middle(&self) -> f64 {
        if self.is_one_value() { self.largest } else { f64::midpoint(self.run.score, self.largest) }
    }
}

/// The bins of two sides, ascending, those that have rows of both as one.
pub fn binned_runs(positives: &Side, negatives: &Side) -> impl Iterator<Item = BinnedRun> + use<> {
    shared_bins(positives, negatives).map(|shared| {
        let mass = |bin: Option<Bin>| bin.map_or_else(Mass::default, |bin| bin.mass);
        let (positive, negative) = (mass(shared.bins[0]), mass(shared.bins[1]));
        let run = Run {
            score: from_key(shared.low),
            positives: positive.weight(),
            negatives: negative.weight(),
            positive_squares: positive.squares(),
            negative_squares: negative.squares(),
        };
        BinnedRun { run, largest: from_key(shared.high) }
    })
}

/// The bins of two sides, each as wide as both sides' rows in it reach: rows of the one that share a bin with rows of the other are at the same place.
pub fn aligned_bins(left: &Side, right: &Side) -> [Vec<Bin>; 2] {
    let mut aligned = [Vec::new(), Vec::new()];
    for shared in shared_bins(left, right) {
        for (into, bin) in aligned.iter_mut().zip(shared.bins) {
            into.extend(bin.map(|bin| Bin { low: shared.low, high: shared.high, mass: bin.mass }));
        }
    }
    aligned
}

/// Bins of either side with the same leading bits.
struct SharedBin {
    bins: [Option<Bin>; 2],
    low: u64,
    high: u64,
}

fn shared_bins(positives: &Side, negatives: &Side) -> impl Iterator<Item = SharedBin> + use<> {
    let dropped = positives.bins.dropped().max(negatives.bins.dropped());
    let bins = |side: &Side| {
        let mut bins = side.binned();
        bins.drop_bits(dropped, &[]);
        bins.into_list().into_iter().peekable()
    };
    let (mut positives, mut negatives) = (bins(positives), bins(negatives));
    std::iter::from_fn(move || {
        let (mine, theirs) = match (positives.peek(), negatives.peek()) {
            (Some(p), Some(n)) if p.shares_bin(n, dropped) => (positives.next(), negatives.next()),
            (Some(p), Some(n)) if n.low < p.low => (None, negatives.next()),
            (Some(_), _) => (positives.next(), None),
            (None, _) => (None, negatives.next()),
        };
        let low = mine.iter().chain(&theirs).map(|bin| bin.low).min()?;
        let high = mine.iter().chain(&theirs).map(|bin| bin.high).max()?;
        Some(SharedBin { bins: [mine, theirs], low, high })
    })
}

fn listed_runs<'a>(positives: &'a Side, negatives: &'a Side) -> impl Iterator<Item = Run> + 'a {
    let (mut positives, mut negatives) = (positives.cursor(), negatives.cursor());
    std::iter::from_fn(move || {
        let key = match (positives.next(), negatives.next()) {
            (Some(p), Some(n)) => p.min(n),
            (Some(key), None) | (None, Some(key)) => key,
            (None, None) => return None,
        };
        let (positive, positive_squares) = positives.take(key);
        let (negative, negative_squares) = negatives.take(key);
        Some(Run { score: from_key(key), positives: positive, negatives: negative, positive_squares, negative_squares })
    })
}

/// The area under the ROC curve of two sorted sides.
pub fn roc_auc(positives: &Side, negatives: &Side) -> RocAuc {
    let mut auc = RocAuc::new(positives.mass(), negatives.mass());
    let all = positives.mass().weight();
    runs(positives, negatives).for_each(|run| auc.add(&run, all));
    auc
}

impl Scores {
    /// Adds one row. A NaN is no score: the row is left out.
    #[inline]
    pub fn push(&mut self, score: f64, is_positive: bool) {
        self.push_weighted(score, is_positive, Weight::ONE);
    }

    /// Adds one row that stands for several.
    #[inline]
    pub fn push_weighted(&mut self, score: f64, is_positive: bool, weight: Weight) {
        if !score.is_nan() {
            if is_positive { &mut self.positives } else { &mut self.negatives }.push(to_key(score), weight);
        }
    }

    /// Adds all rows of another state.
    pub fn merge(&mut self, other: &Self) {
        self.positives.merge(&other.positives);
        self.negatives.merge(&other.negatives);
    }

    /// Rows of the positive and of the negative class.
    pub fn counts(&self) -> (u64, u64) {
        (self.positives.mass().rows(), self.negatives.mass().rows())
    }

    /// Rows of the positive and of the negative class.
    pub fn sides(&self) -> (&Side, &Side) {
        (&self.positives, &self.negatives)
    }

    pub(super) fn sides_mut(&mut self) -> [&mut Side; 2] {
        [&mut self.positives, &mut self.negatives]
    }

    /// Sorts once and computes everything in one ascending sweep.
    ///
    /// With `are_probabilities` false, or with a score outside `[0, 1]`, the probability metrics are `not_probability`.
    pub fn value(self, are_probabilities: bool) -> ScoreMetrics {
        self.sweep(are_probabilities, false).0
    }

    /// The same, and the curves.
    pub fn value_and_curves(self, are_probabilities: bool) -> (ScoreMetrics, Vec<Curve>) {
        self.sweep(are_probabilities, true)
    }

    fn sweep(self, are_probabilities: bool, with_curves: bool) -> (ScoreMetrics, Vec<Curve>) {
        let (positives, negatives) = (self.positives.mass(), self.negatives.mass());
        if positives.rows() + negatives.rows() == 0 {
            return (ScoreMetrics::undefined(Undefined::NoRows), Vec::new());
        }
        let sorted = Self { positives: self.positives.sorted(), negatives: self.negatives.sorted() };
        let mut auc = RocAuc::new(positives, negatives);
        let mut precision = AveragePrecision::new(positives, negatives);
        let mut likelihood = Likelihood::default();
        let mut curves = with_curves.then(|| Curves::new(&positives, &negatives));
        let are_probabilities = are_probabilities && sorted.lie_in_unit_interval();
        let all_positives = positives.weight();
        for run in listed_runs(&sorted.positives, &sorted.negatives) {
            auc.add(&run, all_positives);
            let precision = precision.add(&run);
            if are_probabilities {
                likelihood.add(&run);
            }
            if let Some(curves) = &mut curves {
                curves.add(&run, precision);
            }
        }
        let [log_loss, brier_score, expected_calibration_error] = if are_probabilities {
            likelihood.values(&positives, &negatives)
        } else {
            [Err(Undefined::NotProbability); 3]
        };
        let mut drawn = curves.map(Curves::value).unwrap_or_default();
        if with_curves && are_probabilities {
            drawn.push(Curve { name: "reliability".to_owned(), points: likelihood.reliability() });
        }
        let metrics = ScoreMetrics {
            roc_auc: auc.value(),
            average_precision: precision.value(),
            log_loss,
            brier_score,
            expected_calibration_error,
        };
        (metrics, drawn)
    }

    /// Memory held, bytes.
    pub fn size(&self) -> usize {
        self.positives.size() + self.negatives.size()
    }

    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        self.positives.encode(out);
        self.negatives.encode(out);
    }

    pub(crate) fn merge_encoded(&mut self, reader: &mut Reader<'_>) -> Option<()> {
        self.positives.merge_encoded(reader)?;
        self.negatives.merge_encoded(reader)
    }

    fn lie_in_unit_interval(&self) -> bool {
        [&self.positives.keys, &self.negatives.keys].into_iter().all(|side| {
            let (Some(first), Some(last)) = (side.first(), side.last()) else { return true };
            from_key(*first) >= 0.0 && from_key(*last) <= 1.0
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
pub(crate) fn to_key(score: f64) -> u64 {
    let bits = (score + 0.0).to_bits();
    bits ^ (((bits as i64 >> 63) as u64) | 1 << 63)
}

pub(crate) fn from_key(key: u64) -> f64 {
    f64::from_bits(if key >> 63 == 1 { key ^ 1 << 63 } else { !key })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::metrics::{Warning, interval};

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
        let interval = m.roc_auc.ok().and_then(|e| e.interval).expect("two of each");
        let (low, high) = interval::logit(0.75, 0.125_f64.sqrt(), interval::Z_95);
        assert!((interval.low - low).abs() < 1e-15 && (interval.high - high).abs() < 1e-15, "{interval:?}");
        assert_eq!(interval.warning, Some(Warning::FewRows));
    }

    #[test]
    fn the_error_of_average_precision_is_its_jackknife() {
        // Deleting each row in turn moves the metric as the influence function says, to the order of 1/n.
        let mut random = 5_u64;
        let mut draw = || {
            random = random.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (random >> 11) as f64 / (1_u64 << 53) as f64
        };
        let rows: Vec<(f64, bool)> = (0..600)
            .map(|_| {
                let positive = draw() < 0.3;
                ((draw() + if positive { 0.3 } else { 0.0 }) / 1.3, positive)
            })
            .map(|(score, positive)| ((score * 100.0).round() / 100.0, positive))
            .collect();
        let value = |rows: &[(f64, bool)]| scores(rows).value(true).average_precision.expect("defined");
        let whole = value(&rows);
        let left_out: Vec<f64> = (0..rows.len())
            .map(|out| {
                value(&rows.iter().enumerate().filter(|(i, _)| *i != out).map(|(_, r)| *r).collect::<Vec<_>>()).value
            })
            .collect();
        let n = rows.len() as f64;
        let mean = left_out.iter().sum::<f64>() / n;
        let jackknife = (left_out.iter().map(|v| (v - mean).powi(2)).sum::<f64>() * (n - 1.0) / n).sqrt();
        let interval = whole.interval.expect("rows");
        let (low, high) = interval::logit(
            whole.value,
            jackknife,
            interval::students_t(rows.iter().filter(|r| r.1).count() as f64 - 1.0),
        );
        assert!((interval.low - low).abs() < 2e-3 && (interval.high - high).abs() < 2e-3, "{interval:?} {low} {high}");
    }

    #[test]
    fn a_row_of_weight_two_is_two_rows() {
        let rows = [(0.1, false, 1), (0.4, false, 2), (0.35, true, 3), (0.8, true, 1), (0.4, true, 2), (0.0, false, 2)];
        let (mut weighted, mut repeated) = (Scores::default(), Scores::default());
        for (score, positive, times) in rows {
            weighted.push_weighted(score, positive, Weight::of_rate(Some(1.0 / f64::from(times))));
            (0..times).for_each(|_| repeated.push(score, positive));
        }
        let (weighted, repeated) = (weighted.value(true), repeated.value(true));
        for ((name, one), (_, other)) in weighted.named().into_iter().zip(repeated.named()) {
            let (one, other) = (one.expect(name), other.expect(name));
            assert!((one.value - other.value).abs() < 1e-12, "{name}: {one:?} {other:?}");
            // The weight is no more rows than there are.
            if let Some((one, other)) = one.interval.zip(other.interval) {
                assert!(one.high - one.low > other.high - other.low, "{name}: {one:?} {other:?}");
            }
        }
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
