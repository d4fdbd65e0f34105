//! Area under the ROC curve with DeLong's error.

use super::{
    Estimate, Outcome, Undefined,
    exact_sum::DoubledSum,
    interval::{Interval, Method, Z_95, logit, wilson},
    mass::Mass,
    scores::Run,
};

/// Area under the receiver operating characteristic, from runs of equal scores.
///
/// # Formula
/// `P(score⁺ > score⁻) + ½ P(score⁺ = score⁻)`; ties count by mid-rank. The interval is on the scale of the odds' logarithm, its
/// error DeLong's: the placements' variance of either class over its rows.
/// # Source
/// Mann & Whitney (1947); DeLong, DeLong & Clarke-Pearson (1988); Sun & Xu (2014) for placements from ranks, which a sweep over
/// sorted scores has at once. Weighted rows: as many rows as the weight says, and Kish's effective rows for the error.
/// # Inputs
/// All runs, by ascending score.
/// # Returns
/// `one_class` unless both classes occur. At 0 and 1, and with one row of a class, where DeLong's error vanishes: Wilson's
/// interval on the rows of the scarcer class.
#[derive(Debug)]
pub struct RocAuc {
    positives: Mass,
    negatives: Mass,
    positives_below: f64,
    negatives_below: f64,
    of_positives: Placements,
    of_negatives: Placements,
}

/// A class's placements: for each row, the weight of the other class that it beats.
#[derive(Debug, Default)]
struct Placements {
    sum: DoubledSum,
    /// Of squared weights: `Σ w² v` and `Σ w² v²`.
    squares: [DoubledSum; 2],
}

impl RocAuc {
    /// Before the first run. The totals are needed at once: a negative's placement is what lies above.
    pub fn new(positives: Mass, negatives: Mass) -> Self {
        Self {
            positives,
            negatives,
            positives_below: 0.0,
            negatives_below: 0.0,
            of_positives: Placements::default(),
            of_negatives: Placements::default(),
        }
    }

    /// Adds the next run.
    #[inline]
    pub fn add(&mut self, run: &Run, all_positives: f64) {
        if run.positives > 0.0 {
            let below = self.negatives_below + run.negatives / 2.0;
            self.of_positives.add(below, run.positives, run.positive_squares);
        }
        if run.negatives > 0.0 {
            let above = all_positives - self.positives_below - run.positives / 2.0;
            self.of_negatives.add(above, run.negatives, run.negative_squares);
        }
        self.positives_below += run.positives;
        self.negatives_below += run.negatives;
    }

    /// The area, its interval, and what a constant score has: a half.
    pub fn value(&self) -> Outcome {
        if self.positives.rows() == 0 || self.negatives.rows() == 0 {
            return Err(Undefined::OneClass);
        }
        let value = self.of_positives.sum.value() / (self.positives.weight() * self.negatives.weight());
        let scarcest = self.scarcest();
        let interval = match self.standard_error() {
            Some(error) if error > 0.0 && value > 0.0 && value < 1.0 => {
                Interval::new(logit(value, error, Z_95), Method::DelongLogit)
            }
            _ => Interval::new(wilson(value.clamp(0.0, 1.0), scarcest), Method::Wilson),
        };
        let estimate = Estimate::bare(value).with_interval(interval.on_rows(scarcest)).with_baseline(0.5);
        Ok(self.standard_error().map_or(estimate, |error| estimate.with_error(error, scarcest)))
    }

    /// DeLong's standard error; `None` without two rows of each class.
    pub fn standard_error(&self) -> Option<f64> {
        let positives = self.of_positives.variance_of_mean(&self.positives, &self.negatives)?;
        let negatives = self.of_negatives.variance_of_mean(&self.negatives, &self.positives)?;
        Some((positives + negatives).sqrt())
    }

    /// Effective rows of the scarcer class.
    pub fn scarcest(&self) -> f64 {
        self.positives.effective_rows().min(self.negatives.effective_rows())
    }
}

impl Placements {
    #[inline]
    fn add(&mut self, placement: f64, weight: f64, squares: f64) {
        self.sum.push(weight * placement);
        let moved = squares * placement;
        self.squares[0].push(moved);
        self.squares[1].push(moved * placement);
    }

    /// Sample variance of the placements (as shares of the other class), over the rows.
    fn variance_of_mean(&self, own: &Mass, other: &Mass) -> Option<f64> {
        let rows = own.effective_rows();
        if own.rows() < 2 || rows <= 1.0 {
            return None;
        }
        let mean = self.sum.value() / own.weight();
        let mut centred = self.squares[1];
        centred.push(-2.0 * mean * self.squares[0].value());
        centred.push(mean * mean * own.squares());
        let of_mean = centred.value().max(0.0) / (own.weight() * own.weight()) * (rows / (rows - 1.0));
        Some(of_mean / (other.weight() * other.weight()))
    }
}
