//! How likely the labels were under the scores as probabilities.

use super::{
    Estimate, Outcome,
    curves::{Point, reliability_point},
    exact_sum::{DoubledSum, ExactSum},
    interval::wilson,
    mass::{Mass, Weight},
    moments::{self, Moments},
    scores::Run,
    wire::{Reader, put_u64},
};

/// Bins of the calibration error. More bins show finer miscalibration and hold fewer rows each, which biases the error up.
pub const CALIBRATION_BINS: usize = 10;

/// Log loss, Brier score and calibration, from runs of equal scores.
///
/// # Formula
/// Log loss: `−mean(y ln p + (1 − y) ln(1 − p))`, p clipped to `[ε, 1 − ε]`. Brier score: `mean((p − y)²)`.
/// Expected calibration error: `Σ_b |Σ_{i∈b} y − Σ_{i∈b} p| / n` over ten equal-width bins.
/// # Source
/// Good (1952); Brier (1950); Naeini, Cooper & Hauskrecht (2015).
/// # Inputs
/// Scores in `[0, 1]`, all runs, by ascending score.
/// # Returns
/// The two means with Hall's interval. The calibration error has none: its estimate is biased up, and not normal near 0.
#[derive(Debug, Default)]
pub struct Likelihood {
    loss: [DoubledSum; 3],
    squares: [DoubledSum; 3],
    bins: [CalibrationBin; CALIBRATION_BINS],
    bin: usize,
}

#[derive(Debug, Default)]
struct CalibrationBin {
    positives: DoubledSum,
    probabilities: DoubledSum,
    rows: DoubledSum,
    squares: DoubledSum,
}

impl Likelihood {
    /// Adds the next run.
    #[inline]
    pub fn add(&mut self, run: &Run) {
        let p = run.score;
        while self.bin + 1 < CALIBRATION_BINS && calibration_edge(self.bin + 1) < p {
            self.bin += 1;
        }
        let bin = &mut self.bins[self.bin];
        bin.positives.push(run.positives);
        bin.probabilities.push((run.positives + run.negatives) * p);
        bin.rows.push(run.positives + run.negatives);
        bin.squares.push(run.positive_squares + run.negative_squares);
        if run.positives > 0.0 {
            push_powers(&mut self.loss, negative_log(p), run.positives);
            push_powers(&mut self.squares, (1.0 - p) * (1.0 - p), run.positives);
        }
        if run.negatives > 0.0 {
            push_powers(&mut self.loss, negative_log(1.0 - p), run.negatives);
            push_powers(&mut self.squares, p * p, run.negatives);
        }
    }

    /// Share of positives by mean score, of each bin with rows: with Wilson's interval on Kish's effective rows.
    pub fn reliability(&self) -> Vec<Point> {
        let mut points = Vec::new();
        for (at, bin) in self.bins.iter().enumerate() {
            let (rows, squares) = (bin.rows.value(), bin.squares.value());
            if rows > 0.0 {
                let share = (bin.positives.value() / rows).clamp(0.0, 1.0);
                let interval = wilson(share, rows * rows / squares);
                points.push(reliability_point(
                    calibration_edge(at),
                    bin.probabilities.value() / rows,
                    share,
                    interval,
                    rows,
                ));
            }
        }
        points
    }

    /// `log_loss`, `brier_score` and `expected_calibration_error`. Baselines are those of the share of positives as the score.
    pub fn values(&self, positives: &Mass, negatives: &Mass) -> [Outcome; 3] {
        let all = positives.with(*negatives);
        let share = positives.weight() / all.weight();
        let scarcest = positives.effective_rows().min(negatives.effective_rows());
        let mean = |powers: &[DoubledSum; 3]| {
            moments::estimate(&all, [powers[0].value(), powers[1].value(), powers[2].value()], scarcest)
        };
        let gaps = self.bins.iter().map(|bin| (bin.positives.value() - bin.probabilities.value()).abs());
        let gaps: DoubledSum = gaps.collect();
        let entropy = |share: f64| if share > 0.0 { -share * share.ln() } else { 0.0 };
        [
            Ok(mean(&self.loss).with_baseline(entropy(share) + entropy(1.0 - share))),
            Ok(mean(&self.squares).with_baseline(share * (1.0 - share))),
            Ok(Estimate::bare(gaps.value() / all.weight()).with_baseline(0.0)),
        ]
    }
}

/// The same figures, row by row in any order: where rows are not kept, these sums are, and nothing is lost by that.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct StreamedLikelihood {
    loss: Moments,
    squares: Moments,
    bins: [StreamedBin; CALIBRATION_BINS],
    out_of_range: u64,
}

#[derive(Debug, Clone, Default, PartialEq)]
struct StreamedBin {
    positives: Mass,
    rows: Mass,
    probabilities: ExactSum,
}

impl StreamedLikelihood {
    /// Adds a row; the score is no NaN.
    pub fn push(&mut self, p: f64, is_positive: bool, weight: Weight) {
        if !(0.0..=1.0).contains(&p) {
            self.out_of_range += 1;
            return;
        }
        let of_label = if is_positive { p } else { 1.0 - p };
        self.loss.push(negative_log(of_label), weight);
        self.squares.push((1.0 - of_label) * (1.0 - of_label), weight);
        let bin = &mut self.bins[calibration_bin(p)];
        bin.rows.push(weight);
        bin.probabilities.push(weight.value() * p);
        if is_positive {
            bin.positives.push(weight);
        }
    }

    /// Adds all rows of another state.
    pub fn merge(&mut self, other: &Self) {
        self.loss.merge(&other.loss);
        self.squares.merge(&other.squares);
        self.out_of_range += other.out_of_range;
        for (mine, theirs) in self.bins.iter_mut().zip(&other.bins) {
            mine.positives.merge(&theirs.positives);
            mine.rows.merge(&theirs.rows);
            mine.probabilities.merge(&theirs.probabilities);
        }
    }

    /// Whether some score is no probability.
    pub fn is_out_of_range(&self) -> bool {
        self.out_of_range > 0
    }

    /// As [`Likelihood::reliability`].
    pub fn reliability(&self) -> Vec<Point> {
        let bins = self.bins.iter().enumerate().filter(|(_, bin)| bin.rows.rows() > 0);
        bins.map(|(at, bin)| {
            let weight = bin.rows.weight();
            let share = (bin.positives.weight() / weight).clamp(0.0, 1.0);
            let interval = wilson(share, bin.rows.effective_rows());
            reliability_point(calibration_edge(at), bin.probabilities.value() / weight, share, interval, weight)
        })
        .collect()
    }

    /// As [`Likelihood::values`].
    pub fn values(&self, positives: &Mass, negatives: &Mass) -> [Outcome; 3] {
        let all = positives.with(*negatives);
        let share = positives.weight() / all.weight();
        let scarcest = positives.effective_rows().min(negatives.effective_rows());
        let gaps = self.bins.iter().map(|bin| (bin.positives.weight() - bin.probabilities.value()).abs());
        let gaps: ExactSum = gaps.collect();
        let entropy = |share: f64| if share > 0.0 { -share * share.ln() } else { 0.0 };
        [
            Ok(self.loss.mean(scarcest).with_baseline(entropy(share) + entropy(1.0 - share))),
            Ok(self.squares.mean(scarcest).with_baseline(share * (1.0 - share))),
            Ok(Estimate::bare(gaps.value() / all.weight()).with_baseline(0.0)),
        ]
    }

    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        put_u64(out, self.out_of_range);
        self.loss.encode(out);
        self.squares.encode(out);
        for bin in &self.bins {
            bin.positives.encode(out);
            bin.rows.encode(out);
            bin.probabilities.encode(out);
        }
    }

    pub(crate) fn decode(reader: &mut Reader<'_>) -> Option<Self> {
        let out_of_range = reader.u64()?;
        let (loss, squares) = (Moments::decode(reader)?, Moments::decode(reader)?);
        let mut read = Self { loss, squares, out_of_range, ..Self::default() };
        for bin in &mut read.bins {
            *bin = StreamedBin {
                positives: Mass::decode(reader)?,
                rows: Mass::decode(reader)?,
                probabilities: ExactSum::decode(reader)?,
            };
        }
        Some(read)
    }
}

#[inline]
fn push_powers(into: &mut [DoubledSum; 3], value: f64, weight: f64) {
    let first = weight * value;
    let second = first * value;
    into[0].push(first);
    into[1].push(second);
    into[2].push(second * value);
}

/// The clip of a probability inside a logarithm, scikit-learn's: f64 epsilon.
pub(crate) fn negative_log(probability: f64) -> f64 {
    -probability.clamp(f64::EPSILON, 1.0 - f64::EPSILON).ln()
}

/// The bin of a probability: edges as NumPy's `linspace` gives them, intervals closed on the right, the first also on
/// the left. scikit-learn's `calibration_curve` bins so.
pub(crate) fn calibration_bin(probability: f64) -> usize {
    (1..CALIBRATION_BINS).take_while(|edge| calibration_edge(*edge) < probability).count()
}

fn calibration_edge(edge: usize) -> f64 {
    edge as f64 * (1.0 / CALIBRATION_BINS as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calibration_bins_are_closed_on_the_right() {
        for (probability, bin) in [(0.0, 0), (0.1, 0), (0.1000001, 1), (0.5, 4), (0.30000000000000004, 2), (1.0, 9)] {
            assert_eq!(calibration_bin(probability), bin, "{probability}");
        }
    }
}
