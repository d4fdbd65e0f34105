//! Average precision with the error of its influence function.

use super::{
    Estimate, Outcome, Undefined,
    exact_sum::DoubledSum,
    interval::{Interval, Method, logit, students_t, wilson},
    mass::Mass,
    scores::Run,
};

/// Average precision, from runs of equal scores.
///
/// # Formula
/// `Σ (Rₖ − Rₖ₋₁) Pₖ` over the distinct thresholds, without interpolation. With the weights a of positives and b of negatives at
/// or above a threshold, a positive at score s moves it by `(P(s) + Σ b/(a+b)² − AP) / n⁺` and a negative by
/// `−Σ a/(a+b)² / n⁺`, the sums over the positives at or below s; the squares of these, summed, are the variance. The interval
/// is on the scale of the odds' logarithm with Student's quantile of n⁺ − 1 degrees.
/// # Source
/// scikit-learn, `average_precision_score`; Boyd, Eng & Page (2013), Area under the Precision-Recall Curve: Point Estimates and
/// Confidence Intervals, for the scale.
/// # Inputs
/// All runs, by ascending score.
/// # Returns
/// `one_class` without a positive; 1 if all rows are positive. At 1, and with one positive: Wilson's interval on the positives.
#[derive(Debug)]
pub struct AveragePrecision {
    positives: Mass,
    /// Rows whose score is at or above the threshold at hand.
    positives_above: f64,
    negatives_above: f64,
    share: f64,
    sum: DoubledSum,
    /// `Σ a/(a+b)²` and `Σ b/(a+b)²` over the positives so far.
    by_negatives: f64,
    by_positives: f64,
    /// Of squared weights: `Σ w² q` and `Σ w² q²` of positives, `Σ w² g²` of negatives.
    positive_squares: [DoubledSum; 2],
    negative_squares: DoubledSum,
}

impl AveragePrecision {
    /// Before the first run.
    pub fn new(positives: Mass, negatives: Mass) -> Self {
        let (positives_above, negatives_above) = (positives.weight(), negatives.weight());
        Self {
            positives,
            positives_above,
            negatives_above,
            share: positives_above / (positives_above + negatives_above),
            sum: DoubledSum::default(),
            by_negatives: 0.0,
            by_positives: 0.0,
            positive_squares: [DoubledSum::default(); 2],
            negative_squares: DoubledSum::default(),
        }
    }

    /// Adds the next run.
    ///
    /// # Returns
    /// The precision of taking all rows from its score on; 0 if it has no positives.
    #[inline]
    pub fn add(&mut self, run: &Run) -> f64 {
        let mut precision = 0.0;
        if run.positives > 0.0 {
            let all = self.positives_above + self.negatives_above;
            precision = self.positives_above / all;
            let step = run.positives / all;
            self.by_negatives += step * precision;
            self.by_positives += step * (1.0 - precision);
            self.sum.push(run.positives * precision);
            let moved = precision + self.by_positives;
            self.positive_squares[0].push(run.positive_squares * moved);
            self.positive_squares[1].push(run.positive_squares * moved * moved);
        }
        if run.negatives > 0.0 {
            self.negative_squares.push(run.negative_squares * self.by_negatives * self.by_negatives);
        }
        self.positives_above -= run.positives;
        self.negatives_above -= run.negatives;
        precision
    }

    /// The average, its interval, and what a constant score has: the share of positives.
    pub fn value(&self) -> Outcome {
        if self.positives.rows() == 0 {
            return Err(Undefined::OneClass);
        }
        let weight = self.positives.weight();
        let value = (self.sum.value() / weight).min(1.0);
        let mut squares = self.positive_squares[1];
        squares.push(-2.0 * value * self.positive_squares[0].value());
        squares.push(value * value * self.positives.squares());
        let error = (squares.value().max(0.0) + self.negative_squares.value()).sqrt() / weight;
        let rows = self.positives.effective_rows();
        let interval = if error > 0.0 && value < 1.0 && self.positives.rows() > 1 {
            Interval::new(logit(value, error, students_t(rows - 1.0)), Method::DeltaLogit)
        } else {
            Interval::new(wilson(value, rows), Method::Wilson)
        };
        Ok(Estimate::bare(value).with_interval(interval.on_rows(rows)).with_baseline(self.share))
    }
}
