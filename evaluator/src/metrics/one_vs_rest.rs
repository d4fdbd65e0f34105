//! One class against the rest: the rates of a two-by-two table, each with its derivatives, so that averages over classes have
//! intervals too.

use super::{
    Estimate, Outcome, Undefined,
    interval::{Interval, Method, effective_rows, wilson},
    mass::Mass,
    wire::Reader,
};

/// One class against the rest.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct OneVsRest {
    /// Actual and predicted.
    pub true_positives: Mass,
    /// Predicted, not actual.
    pub false_positives: Mass,
    /// Actual, not predicted.
    pub false_negatives: Mass,
    /// Neither.
    pub true_negatives: Mass,
}

/// A rate of a [`OneVsRest`].
///
/// | rate | formula | null (`zero_denominator`) when |
/// |---|---|---|
/// | `precision` | `TP / (TP + FP)` | nothing was predicted |
/// | `recall` | `TP / (TP + FN)` | nothing is actual |
/// | `f1`, `f0_5`, `f2` | `(1 + β²) TP / ((1 + β²) TP + β² FN + FP)` | neither |
/// | `specificity` | `TN / (TN + FP)` | all is actual |
/// | `false_positive_rate` | `FP / (TN + FP)` | all is actual |
/// | `false_negative_rate` | `FN / (TP + FN)` | nothing is actual |
/// | `jaccard` | `TP / (TP + FP + FN)` | neither |
///
/// # Source
/// van Rijsbergen (1979) for F; Jaccard (1901). scikit-learn has all but the last two rates under these names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Rate {
    /// Of what was predicted, the share that is actual.
    Precision,
    /// Of what is actual, the share that was predicted.
    Recall,
    /// F with β = 1.
    F1,
    /// Of what is not actual, the share that was not predicted.
    Specificity,
    /// F with β = ½: precision counts more.
    F05,
    /// F with β = 2: recall counts more.
    F2,
    /// One minus specificity.
    FalsePositiveRate,
    /// One minus recall.
    FalseNegativeRate,
    /// Of what is actual or was predicted, the share that is both.
    Jaccard,
}

/// A rate and how it moves with the weight of each cell.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Differential {
    pub(super) value: f64,
    pub(super) true_positives: f64,
    pub(super) false_positives: f64,
    pub(super) false_negatives: f64,
    pub(super) true_negatives: f64,
}

impl OneVsRest {
    /// Adds another count.
    pub fn merge(&mut self, other: &Self) {
        self.true_positives.merge(&other.true_positives);
        self.false_positives.merge(&other.false_positives);
        self.false_negatives.merge(&other.false_negatives);
        self.true_negatives.merge(&other.true_negatives);
    }

    /// All rows.
    pub fn all(&self) -> Mass {
        self.actual().with(self.false_positives).with(self.true_negatives)
    }

    /// Rows of the class.
    pub fn actual(&self) -> Mass {
        self.true_positives.with(self.false_negatives)
    }

    /// Rows that were predicted to be of the class.
    pub fn predicted(&self) -> Mass {
        self.true_positives.with(self.false_positives)
    }

    /// The cell of rows of either kind.
    pub(crate) fn cell_mut(&mut self, actual: bool, predicted: bool) -> &mut Mass {
        match (actual, predicted) {
            (true, true) => &mut self.true_positives,
            (false, true) => &mut self.false_positives,
            (true, false) => &mut self.false_negatives,
            (false, false) => &mut self.true_negatives,
        }
    }

    /// A rate with its interval.
    ///
    /// # Formula
    /// Shares of rows: Wilson's. F1 is a rising function of Jaccard's share, `2J / (1 + J)`, so its ends are that share's
    /// (Hand, Christen & Kirielle 2021). F with another β: Wilson's on the effective rows of the delta method.
    pub fn value(&self, rate: Rate) -> Outcome {
        let differential = self.differential(rate).ok_or(Undefined::ZeroDenominator)?;
        let value = differential.value;
        if rate == Rate::F1 {
            let jaccard = self.value(Rate::Jaccard)?;
            let interval = jaccard.interval.map(|interval| interval.map(|j| 2.0 * j / (1.0 + j)));
            return Ok(Estimate { interval, baseline: self.baseline(rate), ..Estimate::bare(value) });
        }
        let base = self.base(rate);
        let method = if matches!(rate, Rate::F05 | Rate::F2) { Method::WilsonDelta } else { Method::Wilson };
        let rows = effective_rows(value, self.variance(&differential), self.rows_at_the_end(rate, value));
        // A share rests on its denominator; an F on its hits too.
        let scarcest = if method == Method::Wilson { base } else { self.true_positives };
        let interval =
            Interval::new(wilson(value, rows), method).on_rows(scarcest.effective_rows()).on_hits(value, rows);
        Ok(Estimate { interval: Some(interval), baseline: self.baseline(rate), ..Estimate::bare(value) })
    }

    /// What the best constant prediction would reach: always this class, or never it.
    fn baseline(&self, rate: Rate) -> Option<f64> {
        let share = self.actual().weight() / self.all().weight();
        let f = |beta_squared: f64| (1.0 + beta_squared) * share / (1.0 + beta_squared * share);
        let value = match rate {
            Rate::Precision | Rate::Jaccard => share,
            Rate::Recall | Rate::Specificity => 1.0,
            Rate::FalsePositiveRate | Rate::FalseNegativeRate => 0.0,
            Rate::F1 => f(1.0),
            Rate::F05 => f(0.25),
            Rate::F2 => f(4.0),
        };
        value.is_finite().then_some(value)
    }

    /// The rows that a rate's denominator is made of.
    fn base(&self, rate: Rate) -> Mass {
        match rate {
            Rate::Precision => self.true_positives.with(self.false_positives),
            Rate::Recall | Rate::FalseNegativeRate => self.actual(),
            Rate::Specificity | Rate::FalsePositiveRate => self.true_negatives.with(self.false_positives),
            Rate::F1 | Rate::F05 | Rate::F2 | Rate::Jaccard => self.actual().with(self.false_positives),
        }
    }

    /// Effective rows at 0 and at 1, where the delta method's variance vanishes: its limit, the smaller one if it depends on
    /// the way there.
    fn rows_at_the_end(&self, rate: Rate, value: f64) -> f64 {
        let rows = self.base(rate).effective_rows();
        match (rate.beta_squared(), value > 0.5) {
            (Some(beta), true) if rate != Rate::F1 => rows * (1.0 + beta) / beta.max(1.0),
            (Some(beta), false) if rate != Rate::F1 => rows * beta.min(1.0) / (1.0 + beta),
            _ => rows,
        }
    }

    /// First-order variance: a sum over independent rows.
    fn variance(&self, d: &Differential) -> f64 {
        self.true_positives.squares() * d.true_positives.powi(2)
            + self.false_positives.squares() * d.false_positives.powi(2)
            + self.false_negatives.squares() * d.false_negatives.powi(2)
            + self.true_negatives.squares() * d.true_negatives.powi(2)
    }

    /// `None` where the denominator is zero.
    pub(super) fn differential(&self, rate: Rate) -> Option<Differential> {
        let (tp, fp) = (self.true_positives.weight(), self.false_positives.weight());
        let (fne, tn) = (self.false_negatives.weight(), self.true_negatives.weight());
        // Of `hits / (hits + misses)`: by hits, and by misses.
        let share = |hits: f64, misses: f64| {
            let all = hits + misses;
            (all > 0.0).then(|| (hits / all, misses / all / all, -hits / all / all))
        };
        let mut d = Differential {
            value: 0.0,
            true_positives: 0.0,
            false_positives: 0.0,
            false_negatives: 0.0,
            true_negatives: 0.0,
        };
        match rate {
            Rate::Precision => (d.value, d.true_positives, d.false_positives) = share(tp, fp)?,
            Rate::Recall => (d.value, d.true_positives, d.false_negatives) = share(tp, fne)?,
            Rate::FalseNegativeRate => (d.value, d.false_negatives, d.true_positives) = share(fne, tp)?,
            Rate::Specificity => (d.value, d.true_negatives, d.false_positives) = share(tn, fp)?,
            Rate::FalsePositiveRate => (d.value, d.false_positives, d.true_negatives) = share(fp, tn)?,
            Rate::Jaccard => {
                (d.value, d.true_positives, d.false_positives) = share(tp, fp + fne)?;
                d.false_negatives = d.false_positives;
            }
            Rate::F1 | Rate::F05 | Rate::F2 => {
                let beta = rate.beta_squared()?;
                let hits = (1.0 + beta) * tp;
                let (value, by_hits, by_misses) = share(hits, beta * fne + fp)?;
                d = Differential {
                    value,
                    true_positives: (1.0 + beta) * by_hits,
                    false_positives: by_misses,
                    false_negatives: beta * by_misses,
                    true_negatives: 0.0,
                };
            }
        }
        Some(d)
    }

    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        for mass in [self.true_positives, self.false_positives, self.false_negatives, self.true_negatives] {
            mass.encode(out);
        }
    }

    pub(crate) fn decode(reader: &mut Reader<'_>) -> Option<Self> {
        Some(Self {
            true_positives: Mass::decode(reader)?,
            false_positives: Mass::decode(reader)?,
            false_negatives: Mass::decode(reader)?,
            true_negatives: Mass::decode(reader)?,
        })
    }
}

impl Rate {
    /// All, in published order.
    pub const ALL: [Self; 9] = [
        Self::Precision,
        Self::Recall,
        Self::F1,
        Self::Specificity,
        Self::F05,
        Self::F2,
        Self::FalsePositiveRate,
        Self::FalseNegativeRate,
        Self::Jaccard,
    ];

    /// The published name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Precision => "precision",
            Self::Recall => "recall",
            Self::F1 => "f1",
            Self::Specificity => "specificity",
            Self::F05 => "f0_5",
            Self::F2 => "f2",
            Self::FalsePositiveRate => "false_positive_rate",
            Self::FalseNegativeRate => "false_negative_rate",
            Self::Jaccard => "jaccard",
        }
    }

    /// β² of an F.
    fn beta_squared(self) -> Option<f64> {
        match self {
            Self::F1 => Some(1.0),
            Self::F05 => Some(0.25),
            Self::F2 => Some(4.0),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(tp: u64, fp: u64, fne: u64, tn: u64) -> OneVsRest {
        OneVsRest {
            true_positives: Mass::of_rows(tp),
            false_positives: Mass::of_rows(fp),
            false_negatives: Mass::of_rows(fne),
            true_negatives: Mass::of_rows(tn),
        }
    }

    #[test]
    fn hand_worked() {
        let counts = table(3, 1, 2, 4);
        for (rate, expected) in [
            (Rate::Precision, 0.75),
            (Rate::Recall, 0.6),
            (Rate::F1, 6.0 / 9.0),
            (Rate::Specificity, 0.8),
            (Rate::F05, 3.75 / 5.25),
            (Rate::F2, 15.0 / 24.0),
            (Rate::FalsePositiveRate, 0.2),
            (Rate::FalseNegativeRate, 0.4),
            (Rate::Jaccard, 0.5),
        ] {
            assert_eq!(counts.value(rate).map(|e| e.value), Ok(expected), "{rate:?}");
        }
        assert_eq!(counts.value(Rate::F1).ok().and_then(|e| e.baseline), Some(2.0 / 3.0));
    }

    #[test]
    fn e3_zero_denominators() {
        for (counts, undefined) in [
            (table(0, 0, 2, 4), vec![Rate::Precision]),
            (table(0, 1, 0, 4), vec![Rate::Recall, Rate::FalseNegativeRate]),
            (table(3, 0, 2, 0), vec![Rate::Specificity, Rate::FalsePositiveRate]),
            (table(0, 0, 0, 0), Rate::ALL.to_vec()),
        ] {
            for rate in Rate::ALL {
                let is_undefined = counts.value(rate) == Err(Undefined::ZeroDenominator);
                assert_eq!(is_undefined, undefined.contains(&rate), "{rate:?} of {counts:?}");
            }
        }
        let only_negatives = table(0, 0, 0, 9);
        assert_eq!(only_negatives.value(Rate::F1), Err(Undefined::ZeroDenominator));
        assert_eq!(only_negatives.value(Rate::Specificity).map(|e| e.value), Ok(1.0));
    }

    #[test]
    fn a_share_of_rows_has_wilsons_interval_and_the_ends_are_closed() {
        let precision = table(5, 5, 3, 40).value(Rate::Precision).ok().and_then(|e| e.interval).expect("rows");
        let (low, high) = wilson(0.5, 10.0);
        assert!((precision.low - low).abs() < 1e-12 && (precision.high - high).abs() < 1e-12);
        for counts in [table(8, 0, 0, 5), table(0, 4, 4, 5), table(5, 3, 0, 2), table(5, 0, 3, 2)] {
            for rate in Rate::ALL {
                let Ok(estimate) = counts.value(rate) else { continue };
                let interval = estimate.interval.expect("rows");
                let inside = 0.0 <= interval.low && interval.low <= estimate.value && estimate.value <= interval.high;
                assert!(inside && interval.high <= 1.0 && interval.low < interval.high, "{rate:?} {interval:?}");
            }
        }
    }

    #[test]
    fn derivatives_are_the_slopes() {
        let cells = [31_u64, 17, 23, 129];
        let at = |moved: usize, by: f64| {
            let of = |i: usize| cells[i] as f64 + if i == moved { by } else { 0.0 };
            (of(0), of(1), of(2), of(3))
        };
        let value = |rate: Rate, (tp, fp, fne, tn): (f64, f64, f64, f64)| match rate {
            Rate::Precision => tp / (tp + fp),
            Rate::Recall => tp / (tp + fne),
            Rate::F1 => 2.0 * tp / (2.0 * tp + fp + fne),
            Rate::F05 => 1.25 * tp / (1.25 * tp + 0.25 * fne + fp),
            Rate::F2 => 5.0 * tp / (5.0 * tp + 4.0 * fne + fp),
            Rate::Specificity => tn / (tn + fp),
            Rate::FalsePositiveRate => fp / (tn + fp),
            Rate::FalseNegativeRate => fne / (tp + fne),
            Rate::Jaccard => tp / (tp + fp + fne),
        };
        let counts = table(cells[0], cells[1], cells[2], cells[3]);
        for rate in Rate::ALL {
            let d = counts.differential(rate).expect("defined");
            let slopes = [d.true_positives, d.false_positives, d.false_negatives, d.true_negatives];
            for (i, slope) in slopes.into_iter().enumerate() {
                let numeric = (value(rate, at(i, 1e-4)) - value(rate, at(i, -1e-4))) / 2e-4;
                assert!((slope - numeric).abs() < 1e-9, "{rate:?} by cell {i}: {slope} is not {numeric}");
            }
        }
    }
}
