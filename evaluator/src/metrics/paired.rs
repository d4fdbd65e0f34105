//! Two versions on the same rows: what both said of one label, and how surely one is better.
//!
//! ```text
//! (label, first, second) ─► PairedScores ─► roc_auc, accuracy, precision, …, log_loss     the covariance of both
//!                           PairedNumbers ─► mean_absolute_error, …                       the rows' differences
//!                           PairedHits ────► accuracy                                     of any classes
//! ```
//! What both get wrong together says nothing of which is better: a paired difference has a far shorter interval.

use super::{
    Report, Undefined, Warning,
    comparison::{Bounded, Comparison, ComparisonMethod},
    confusion::Confusion,
    exact_sum::DoubledSum,
    interval::ROWS_MIN,
    likelihood::negative_log,
    mass::{Mass, Weight},
    one_vs_rest::{Differential, OneVsRest, Rate},
    regression::RegressionMetric,
    report::ReportRow,
    wire::{Reader, put_u64, put_u64s},
};

/// The rates that are compared.
const RATES: [Rate; 4] = [Rate::Precision, Rate::Recall, Rate::F1, Rate::Specificity];
/// The means of a regression that are compared.
const MEANS: [RegressionMetric; 4] = [
    RegressionMetric::MeanAbsoluteError,
    RegressionMetric::MeanSquaredError,
    RegressionMetric::MeanAbsolutePercentageError,
    RegressionMetric::MeanError,
];

/// Rows of a binary label on which two versions have spoken: 32 bytes each.
///
/// # Inputs
/// `predicted` and `score` of each version may be missing; a metric rests on the rows where both have what it needs.
#[derive(Debug, Clone, Default)]
pub struct PairedScores {
    rows: Vec<ScoredRow>,
}

/// The order decides sums, so it is one that rows have of themselves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct ScoredRow {
    /// Bit 0: the label. Bits 1 and 2: the first prediction is known, and positive; 3 and 4: the second.
    flags: u64,
    /// Bits of both scores; NaN where there is none.
    scores: [u64; 2],
    weight: Weight,
}

impl ScoredRow {
    fn is_positive(self) -> bool {
        self.flags & 1 == 1
    }

    fn predicted(self) -> Option<[bool; 2]> {
        (self.flags >> 1 & 1 == 1 && self.flags >> 3 & 1 == 1)
            .then_some([self.flags >> 2 & 1 == 1, self.flags >> 4 & 1 == 1])
    }

    fn scored(self) -> Option<[f64; 2]> {
        let scores = self.scores.map(f64::from_bits);
        scores.iter().all(|score| !score.is_nan()).then_some(scores)
    }
}

impl PartialEq for PairedScores {
    /// Equal as multisets: order is not part of the state.
    fn eq(&self, other: &Self) -> bool {
        self.sorted() == other.sorted()
    }
}

impl PairedScores {
    /// Adds a row.
    pub fn push(&mut self, actual: bool, predicted: [Option<bool>; 2], scores: [Option<f64>; 2], weight: Weight) {
        let flag = |at: u32, set: bool| u64::from(set) << at;
        let flags = flag(0, actual)
            | flag(1, predicted[0].is_some())
            | flag(2, predicted[0] == Some(true))
            | flag(3, predicted[1].is_some())
            | flag(4, predicted[1] == Some(true));
        // One NaN for all, and no negative zero: equal rows have equal bits.
        let bits = |score: Option<f64>| score.filter(|x| !x.is_nan()).map_or(f64::NAN, |x| x + 0.0).to_bits();
        self.rows.push(ScoredRow { flags, scores: scores.map(bits), weight });
    }

    /// Adds all rows of another state.
    pub fn merge(&mut self, other: &Self) {
        self.rows.extend_from_slice(&other.rows);
    }

    /// Rows.
    pub fn rows(&self) -> u64 {
        self.rows.len() as u64
    }

    /// `roc_auc`, the shares of hits and misses, and the likelihood of the labels if scores are probabilities.
    ///
    /// # Formula
    /// Areas: DeLong's variance of the difference, of the placements of both. Shares: Newcombe's paired interval; the correlation
    /// is that of the first-order influence of each row on both. Means: Student's test of the rows' differences.
    /// # Source
    /// DeLong, DeLong & Clarke-Pearson (1988); Newcombe (1998); Zou (2007).
    pub fn compare(&self, are_probabilities: bool) -> Vec<Comparison> {
        let rows = self.sorted();
        let judged: Vec<(bool, [bool; 2], Weight)> =
            rows.iter().filter_map(|row| Some((row.is_positive(), row.predicted()?, row.weight))).collect();
        let scored: Vec<(bool, [f64; 2], Weight)> =
            rows.iter().filter_map(|row| Some((row.is_positive(), row.scored()?, row.weight))).collect();
        let mut compared = vec![compare_areas(&scored)];
        compared.extend(compare_rates(&judged));
        let unit = |score: &f64| (0.0..=1.0).contains(score);
        if are_probabilities && scored.iter().all(|(_, scores, _)| scores.iter().all(unit)) {
            let loss = |p: f64, y: bool| if y { negative_log(p) } else { negative_log(1.0 - p) };
            let square = |p: f64, y: bool| if y { (1.0 - p) * (1.0 - p) } else { p * p };
            let losses = |of: &dyn Fn(f64, bool) -> f64| -> Vec<([f64; 2], Weight)> {
                scored.iter().map(|(y, scores, weight)| (scores.map(|p| of(p, *y)), *weight)).collect()
            };
            compared.push(compare_means("log_loss", &losses(&loss)));
            compared.push(compare_means("brier_score", &losses(&square)));
        }
        compared
    }

    /// Memory held beyond the struct, bytes.
    pub fn size(&self) -> usize {
        self.rows.capacity() * size_of::<ScoredRow>()
    }

    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        let words = self.rows.iter().flat_map(|row| [row.flags, row.scores[0], row.scores[1], row.weight.bits()]);
        put_u64s(out, &words.collect::<Vec<u64>>());
    }

    pub(crate) fn merge_encoded(&mut self, reader: &mut Reader<'_>) -> Option<()> {
        let mut words = Vec::new();
        reader.extend_u64s(&mut words)?;
        let (rows, rest) = words.as_chunks::<4>();
        self.rows.extend(rows.iter().map(|[flags, first, second, weight]| ScoredRow {
            flags: *flags,
            scores: [*first, *second],
            weight: Weight::from_bits(*weight),
        }));
        rest.is_empty().then_some(())
    }

    fn sorted(&self) -> Vec<ScoredRow> {
        let mut rows = self.rows.clone();
        rows.sort_unstable();
        rows
    }
}

/// Rows of a number that two versions have predicted: 32 bytes each.
#[derive(Debug, Clone, Default)]
pub struct PairedNumbers {
    /// Truth, both predictions, weight: bits.
    rows: Vec<[u64; 4]>,
}

impl PartialEq for PairedNumbers {
    /// Equal as multisets.
    fn eq(&self, other: &Self) -> bool {
        self.sorted() == other.sorted()
    }
}

impl PairedNumbers {
    /// Adds a row. A NaN is a missing value: the row is left out.
    pub fn push(&mut self, truth: f64, predicted: [f64; 2], weight: Weight) {
        let [first, second] = predicted;
        if [truth, first, second].iter().all(|x| !x.is_nan()) {
            self.rows.push([truth.to_bits(), first.to_bits(), second.to_bits(), weight.bits()]);
        }
    }

    /// Adds all rows of another state.
    pub fn merge(&mut self, other: &Self) {
        self.rows.extend_from_slice(&other.rows);
    }

    /// Rows.
    pub fn rows(&self) -> u64 {
        self.rows.len() as u64
    }

    /// The means, by Student's test of the rows' differences.
    pub fn compare(&self) -> Vec<Comparison> {
        let rows = self.sorted();
        let compare = |metric: RegressionMetric| {
            let loss = metric.loss()?;
            let of = |[truth, first, second, weight]: &[u64; 4]| {
                let (y, first, second) = (f64::from_bits(*truth), f64::from_bits(*first), f64::from_bits(*second));
                ([loss(y, first), loss(y, second)], Weight::from_bits(*weight))
            };
            Some(compare_means(metric.name(), &rows.iter().map(of).collect::<Vec<_>>()))
        };
        MEANS.into_iter().filter_map(compare).collect()
    }

    /// Memory held beyond the struct, bytes.
    pub fn size(&self) -> usize {
        self.rows.capacity() * size_of::<[u64; 4]>()
    }

    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        put_u64s(out, self.rows.as_flattened());
    }

    pub(crate) fn merge_encoded(&mut self, reader: &mut Reader<'_>) -> Option<()> {
        let mut words = Vec::new();
        reader.extend_u64s(&mut words)?;
        let (rows, rest) = words.as_chunks::<4>();
        self.rows.extend_from_slice(rows);
        rest.is_empty().then_some(())
    }

    fn sorted(&self) -> Vec<[u64; 4]> {
        let mut rows = self.rows.clone();
        rows.sort_unstable();
        rows
    }
}

/// Rows on which two versions were right or wrong, whatever the classes: four counts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PairedHits {
    /// By the first and the second.
    cells: [[Mass; 2]; 2],
}

impl PairedHits {
    /// Adds a row.
    pub fn push(&mut self, hits: [bool; 2], weight: Weight) {
        self.cells[usize::from(hits[0])][usize::from(hits[1])].push(weight);
    }

    /// Adds all rows of another state.
    pub fn merge(&mut self, other: &Self) {
        for (mine, theirs) in self.cells.as_flattened_mut().iter_mut().zip(other.cells.as_flattened()) {
            mine.merge(theirs);
        }
    }

    /// Rows.
    pub fn rows(&self) -> u64 {
        self.cells.as_flattened().iter().map(Mass::rows).sum()
    }

    /// `accuracy`, by Newcombe's paired interval.
    pub fn compare(&self) -> Vec<Comparison> {
        if self.rows() == 0 {
            return vec![Comparison::undefined("accuracy", [None; 2], Undefined::NoRows)];
        }
        let all = self.cells.as_flattened().iter().fold(Mass::default(), |all, rows| all.with(*rows));
        // A hit of the first is in the second row of cells, one of the second in the second column.
        let hits = [self.cells[1][0].with(self.cells[1][1]), self.cells[0][1].with(self.cells[1][1])];
        let accuracy = |hits: Mass| {
            let mut confusion = Confusion::default();
            confusion.push("hit", "hit", hits);
            confusion.push("hit", "miss", all.without(hits));
            let mut report = Report::default();
            confusion.report_whole(&mut report, Undefined::NoRows);
            report.get("accuracy").cloned()
        };
        let rows = hits.map(accuracy);
        let influence = |at: usize, hit: bool| f64::from(u8::from(hit)) - hits[at].weight() / all.weight();
        let influences = |first: usize, second: usize| [influence(0, first == 1), influence(1, second == 1)];
        let moments = Moments::over(
            (0..2)
                .flat_map(|a| (0..2).map(move |b| (a, b)))
                .map(|(first, second)| (influences(first, second), self.cells[first][second].squares())),
        );
        let [Some(first), Some(second)] = rows else { return Vec::new() };
        vec![paired_share(&first, &second, moments.correlation())]
    }

    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        put_u64(out, 4);
        self.cells.as_flattened().iter().for_each(|rows| rows.encode(out));
    }

    pub(crate) fn merge_encoded(&mut self, reader: &mut Reader<'_>) -> Option<()> {
        reader.u64().filter(|cells| *cells == 4)?;
        for mine in self.cells.as_flattened_mut() {
            mine.merge(&Mass::decode(reader)?);
        }
        Some(())
    }
}

/// Sums of squares and products of two influences.
#[derive(Debug, Default)]
struct Moments {
    squares: [DoubledSum; 2],
    products: DoubledSum,
}

impl Moments {
    fn over(rows: impl Iterator<Item = ([f64; 2], f64)>) -> Self {
        let mut moments = Self::default();
        for ([first, second], squared_weight) in rows {
            moments.squares[0].push(squared_weight * first * first);
            moments.squares[1].push(squared_weight * second * second);
            moments.products.push(squared_weight * first * second);
        }
        moments
    }

    /// 0 where one of both does not vary.
    fn correlation(&self) -> f64 {
        let scale = (self.squares[0].value() * self.squares[1].value()).sqrt();
        if scale > 0.0 { (self.products.value() / scale).clamp(-1.0, 1.0) } else { 0.0 }
    }
}

fn paired_share(first: &ReportRow, second: &ReportRow, correlation: f64) -> Comparison {
    let independent = Comparison::of_independent(first, second);
    let bounded = |row: &ReportRow| Some(Bounded { value: row.value?, low: row.ci_low?, high: row.ci_high? });
    match bounded(first).zip(bounded(second)) {
        Some((a, b)) => independent.by_mover(ComparisonMethod::NewcombePaired, a, b, correlation),
        None => independent,
    }
}

/// `accuracy` and the rates of the positive class.
fn compare_rates(judged: &[(bool, [bool; 2], Weight)]) -> Vec<Comparison> {
    let mut cells = [[[Mass::default(); 2]; 2]; 2];
    let mut hits = PairedHits::default();
    for (actual, [first, second], weight) in judged {
        cells[usize::from(*actual)][usize::from(*first)][usize::from(*second)].push(*weight);
        hits.push([first == actual, second == actual], *weight);
    }
    let mut counts = [OneVsRest::default(); 2];
    for (actual, first, second) in all_cells() {
        let rows = &cells[actual][first][second];
        counts[0].cell_mut(actual == 1, first == 1).merge(rows);
        counts[1].cell_mut(actual == 1, second == 1).merge(rows);
    }
    let mut compared = hits.compare();
    for rate in RATES {
        let mut report = Report::default();
        counts.iter().for_each(|counts| report.add(rate.name(), None, counts.value(rate)));
        let correlation = counts[0].differential(rate).zip(counts[1].differential(rate)).map_or(0.0, |(a, b)| {
            let of = |(actual, first, second): (usize, usize, usize)| {
                let influences = [slope(&a, actual == 1, first == 1), slope(&b, actual == 1, second == 1)];
                (influences, cells[actual][first][second].squares())
            };
            Moments::over(all_cells().map(of)).correlation()
        });
        compared.push(paired_share(&report.metrics[0], &report.metrics[1], correlation));
    }
    compared
}

fn all_cells() -> impl Iterator<Item = (usize, usize, usize)> {
    (0..8).map(|cell| (cell >> 2, cell >> 1 & 1, cell & 1))
}

fn slope(rate: &Differential, actual: bool, predicted: bool) -> f64 {
    match (actual, predicted) {
        (true, true) => rate.true_positives,
        (false, true) => rate.false_positives,
        (true, false) => rate.false_negatives,
        (false, false) => rate.true_negatives,
    }
}

/// The difference of two means over the same rows.
fn compare_means(metric: &str, rows: &[([f64; 2], Weight)]) -> Comparison {
    let mut mass = Mass::default();
    rows.iter().for_each(|(_, weight)| mass.push(*weight));
    if mass.rows() == 0 {
        return Comparison::undefined(metric, [None; 2], Undefined::NoRows);
    }
    let mean = |of: &dyn Fn(&[f64; 2]) -> f64| -> f64 {
        let sum: DoubledSum = rows.iter().map(|(values, weight)| weight.value() * of(values)).collect();
        sum.value() / mass.weight()
    };
    let values = [mean(&|v| v[0]), mean(&|v| v[1])];
    let bare = Comparison::bare(metric, values.map(|value| value.clamp(f64::MIN, f64::MAX)));
    let effective = mass.effective_rows();
    let difference = mean(&|v| v[1] - v[0]);
    let variance = mean(&|v| (v[1] - v[0] - difference).powi(2));
    if mass.rows() < 2 || effective <= 1.0 || !variance.is_finite() {
        return bare;
    }
    let warning = (effective < ROWS_MIN).then_some(Warning::FewRows);
    let error = (variance / (effective - 1.0)).sqrt();
    Comparison { warning, ..bare.by_error(ComparisonMethod::PairedT, error, Some(effective - 1.0)) }
}

/// The difference of two areas under the ROC curve over the same rows.
fn compare_areas(rows: &[(bool, [f64; 2], Weight)]) -> Comparison {
    let (mut positives, mut negatives) = (Mass::default(), Mass::default());
    for (is_positive, _, weight) in rows {
        if *is_positive { &mut positives } else { &mut negatives }.push(*weight);
    }
    if rows.is_empty() {
        return Comparison::undefined("roc_auc", [None; 2], Undefined::NoRows);
    }
    if positives.rows() == 0 || negatives.rows() == 0 {
        return Comparison::undefined("roc_auc", [None; 2], Undefined::OneClass);
    }
    let placements = [placements(rows, 0), placements(rows, 1)];
    let mean = |at: usize, of_positives: bool| -> f64 {
        let of_class = rows.iter().zip(&placements[at]).filter(|((is_positive, ..), _)| *is_positive == of_positives);
        let sum: DoubledSum = of_class.map(|((_, _, weight), placement)| weight.value() * placement).collect();
        sum.value() / if of_positives { positives.weight() } else { negatives.weight() }
    };
    let areas = [mean(0, true), mean(1, true)];
    let bare = Comparison::bare("roc_auc", areas);
    // Of the difference of both placements of a row: its variance holds their covariance.
    let variance = |of_positives: bool| {
        let own = if of_positives { &positives } else { &negatives };
        let effective = own.effective_rows();
        if own.rows() < 2 || effective <= 1.0 {
            return None;
        }
        let centre = mean(1, of_positives) - mean(0, of_positives);
        let moved = rows.iter().zip(placements[0].iter().zip(&placements[1]));
        let moved = moved.filter(|((is_positive, ..), _)| *is_positive == of_positives);
        let squares: DoubledSum =
            moved.map(|((_, _, weight), (a, b))| (weight.value() * (b - a - centre)).powi(2)).collect();
        Some(squares.value() / (own.weight() * own.weight()) * (effective / (effective - 1.0)))
    };
    let Some((of_positives, of_negatives)) = variance(true).zip(variance(false)) else { return bare };
    let scarcest = positives.effective_rows().min(negatives.effective_rows());
    let warning = (scarcest < ROWS_MIN).then_some(Warning::FewRows);
    let error = (of_positives + of_negatives).sqrt();
    // Two versions that rank alike: nothing varies, and there is nothing to tell an interval from.
    if error == 0.0 {
        return bare;
    }
    Comparison { warning, ..bare.by_error(ComparisonMethod::DelongPaired, error, None) }
}

/// Of each row, the share of the other class's weight that it beats; ties count half.
fn placements(rows: &[(bool, [f64; 2], Weight)], version: usize) -> Vec<f64> {
    let mut order: Vec<usize> = (0..rows.len()).collect();
    order.sort_unstable_by(|a, b| rows[*a].1[version].total_cmp(&rows[*b].1[version]).then(a.cmp(b)));
    let weight_of = |at: usize, positive: bool| if rows[at].0 == positive { rows[at].2.bits() } else { 0 };
    let all = |positive: bool| -> u128 { (0..rows.len()).map(|at| u128::from(weight_of(at, positive))).sum() };
    let (all_positives, all_negatives) = (all(true), all(false));
    let mut placed = vec![0.0; rows.len()];
    let (mut positives_below, mut negatives_below) = (0_u128, 0_u128);
    for run in order.chunk_by(|a, b| rows[*a].1[version] == rows[*b].1[version]) {
        let sum = |positive: bool| -> u128 { run.iter().map(|at| u128::from(weight_of(*at, positive))).sum() };
        let (positives, negatives) = (sum(true), sum(false));
        for at in run {
            // Twice the weight, so that half a tie is whole.
            placed[*at] = if rows[*at].0 {
                (2 * negatives_below + negatives) as f64 / (2 * all_negatives) as f64
            } else {
                (2 * (all_positives - positives_below) - positives) as f64 / (2 * all_positives) as f64
            };
        }
        positives_below += positives;
        negatives_below += negatives;
    }
    placed
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::metrics::scores::Scores;

    type Row = (bool, [Option<bool>; 2], [Option<f64>; 2]);

    fn state(rows: &[Row]) -> PairedScores {
        let mut state = PairedScores::default();
        for (actual, predicted, scores) in rows {
            // Which rows weigh more depends on the row alone.
            let weight = Weight::of_rate(scores[0].map(|score| if score > 0.8 { 0.3 } else { 1.0 }));
            state.push(*actual, *predicted, *scores, weight);
        }
        state
    }

    fn find<'a>(compared: &'a [Comparison], metric: &str) -> &'a Comparison {
        compared.iter().find(|c| c.metric == metric).expect("compared")
    }

    #[test]
    fn each_area_is_that_of_its_version_alone() {
        let rows: Vec<Row> = (0..60)
            .map(|i| {
                let (a, b) = (f64::from(i * 7 % 13) / 13.0, f64::from(i * 5 % 11) / 11.0);
                (i % 3 == 0 || a > 0.7, [Some(a > 0.5), Some(b > 0.5)], [Some(a), Some(b)])
            })
            .collect();
        let compared = state(&rows).compare(true);
        for at in 0..2 {
            let mut alone = Scores::default();
            for (actual, _, scores) in &rows {
                let rate = scores[0].map(|score| if score > 0.8 { 0.3 } else { 1.0 });
                alone.push_weighted(scores[at].expect("scored"), *actual, Weight::of_rate(rate));
            }
            let alone = alone.value(true);
            for (metric, outcome) in
                [("roc_auc", alone.roc_auc), ("log_loss", alone.log_loss), ("brier_score", alone.brier_score)]
            {
                let ours = find(&compared, metric).values[at].expect("defined");
                assert!((ours - outcome.expect("defined").value).abs() < 1e-12, "{metric} of {at}");
            }
        }
    }

    #[test]
    fn e3_what_cannot_be_compared_has_a_reason_and_alike_versions_no_difference() {
        let nothing = PairedScores::default().compare(true);
        assert!(nothing.iter().all(|c| c.reason.is_some() && c.difference().is_none()), "{nothing:?}");
        let one_class = state(&[(true, [Some(true); 2], [Some(0.5), Some(0.6)])]).compare(true);
        assert_eq!(find(&one_class, "roc_auc").reason, Some(Undefined::OneClass));
        assert_eq!(find(&one_class, "specificity").reason, Some(Undefined::ZeroDenominator));
        assert_eq!(find(&one_class, "log_loss").interval, None, "one row has no spread");
        let alike: Vec<Row> =
            (0..20).map(|i| (i % 2 == 0, [Some(true); 2], [Some(f64::from(i % 7) / 10.0); 2])).collect();
        for compared in state(&alike).compare(true) {
            assert_eq!(compared.difference().unwrap_or(0.0), 0.0, "{compared:?}");
            assert!(compared.p_value.is_none_or(|p| p == 1.0), "{compared:?}");
        }
        assert!(
            state(&[(true, [None; 2], [Some(-3.0), Some(2.0)])]).compare(true).iter().all(|c| c.metric != "log_loss")
        );
        assert!(PairedNumbers::default().compare().iter().all(|c| c.reason == Some(Undefined::NoRows)));
        assert_eq!(PairedHits::default().compare()[0].reason, Some(Undefined::NoRows));
    }

    /// Two versions that are as good as each other differ by 0: how often does the interval of the difference hold it?
    #[test]
    fn intervals_of_versions_that_are_alike_hold_nothing_as_often_as_they_say() {
        const WINDOWS: u32 = 1000;
        let mut random = 17_u64;
        let mut draw = || {
            random = random.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (random >> 11) as f64 / (1_u64 << 53) as f64
        };
        let mut normal = || (0..12).map(|_| draw()).sum::<f64>() - 6.0;
        let mut held: std::collections::BTreeMap<String, u32> = std::collections::BTreeMap::new();
        for _ in 0..WINDOWS {
            let mut state = PairedScores::default();
            for row in 0..200 {
                let actual = row % 5 < 2;
                let common = normal() + if actual { 1.0 } else { 0.0 };
                let mut score = || 1.0 / (1.0 + (0.5 - common - 0.7 * normal()).exp());
                let scores = [score(), score()];
                state.push(actual, scores.map(|p| Some(p >= 0.5)), scores.map(Some), Weight::ONE);
            }
            for compared in state.compare(true) {
                let (low, high) = compared.interval.expect("two hundred rows");
                *held.entry(compared.metric).or_default() += u32::from(low <= 0.0 && 0.0 <= high);
            }
        }
        assert_eq!(held.len(), 8);
        for (metric, held) in held {
            let share = f64::from(held) / f64::from(WINDOWS);
            // Three standard errors of room around 93 to 97 %.
            assert!((0.91..=0.985).contains(&share), "{metric}: {share}");
        }
    }

    fn row() -> impl Strategy<Value = Row> {
        let score = || prop::option::of(prop_oneof![0.0..1.0_f64, Just(0.5), Just(f64::NAN)]);
        let predicted = any::<Option<bool>>;
        (any::<bool>(), [predicted(), predicted()], [score(), score()])
    }

    proptest! {
        #[test]
        fn e1_paired_states_merge(rows in prop::collection::vec(row(), 0..60), cut in 0_usize..60) {
            let cut = cut.min(rows.len());
            let (mut left, right) = (state(&rows[..cut]), state(&rows[cut..]));
            let mut swapped = right.clone();
            let mut bytes = Vec::new();
            left.encode(&mut bytes);
            swapped.merge_encoded(&mut Reader::new(&bytes)).expect("whole state");
            left.merge(&right);
            prop_assert_eq!(&left, &swapped);
            prop_assert_eq!(&left, &state(&rows));
            prop_assert_eq!(left.compare(true), swapped.compare(true));
        }

        #[test]
        fn e1_paired_numbers_and_hits_merge(
            rows in prop::collection::vec((-1e3..1e3_f64, -1e3..1e3_f64, -1e3..1e3_f64), 0..60), cut in 0_usize..60,
        ) {
            let numbers = |rows: &[(f64, f64, f64)]| {
                let (mut numbers, mut hits) = (PairedNumbers::default(), PairedHits::default());
                for (y, a, b) in rows {
                    let weight = Weight::of_rate(Some(if *y > 500.0 { 0.3 } else { 1.0 }));
                    numbers.push(*y, [*a, *b], weight);
                    hits.push([*a > 0.0, *b > 0.0], weight);
                }
                (numbers, hits)
            };
            let cut = cut.min(rows.len());
            let ((mut left, mut hits), (right, other_hits)) = (numbers(&rows[..cut]), numbers(&rows[cut..]));
            let (mut swapped, mut swapped_hits) = (right.clone(), other_hits);
            let mut bytes = Vec::new();
            left.encode(&mut bytes);
            hits.encode(&mut bytes);
            let mut reader = Reader::new(&bytes);
            swapped.merge_encoded(&mut reader).expect("whole state");
            swapped_hits.merge_encoded(&mut reader).expect("whole state");
            left.merge(&right);
            hits.merge(&other_hits);
            let (whole, whole_hits) = numbers(&rows);
            prop_assert_eq!((&left, &hits), (&swapped, &swapped_hits));
            prop_assert_eq!((&left, &hits), (&whole, &whole_hits));
            prop_assert_eq!(left.compare(), swapped.compare());
            prop_assert_eq!(hits.compare(), swapped_hits.compare());
        }
    }
}
