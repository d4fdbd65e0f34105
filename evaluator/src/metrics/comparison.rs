//! One value against another: the difference of a metric between two versions, with its interval and p-value.

use serde::{Deserialize, Serialize};
use statrs::distribution::{ContinuousCDF, Normal, StudentsT};

use super::{
    Method, ReportRow, Undefined, Warning,
    interval::{Z_95, students_t},
};

/// How a difference was judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ComparisonMethod {
    /// Areas under the ROC curve of different rows: DeLong's errors, added.
    Delong,
    /// Areas of the same rows: DeLong's errors with their covariance.
    DelongPaired,
    /// Shares of different rows: [`mover`] of Wilson's intervals.
    Newcombe,
    /// Shares of the same rows: [`mover`] of Wilson's intervals with their correlation.
    NewcombePaired,
    /// Any two values with intervals: [`mover`].
    Mover,
    /// Means of different rows: Welch's test.
    WelchT,
    /// Means over the same rows: Student's test of the rows' differences.
    PairedT,
}

impl ComparisonMethod {
    /// The word in the `method` column.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Delong => "delong",
            Self::DelongPaired => "delong_paired",
            Self::Newcombe => "newcombe",
            Self::NewcombePaired => "newcombe_paired",
            Self::Mover => "mover",
            Self::WelchT => "welch_t",
            Self::PairedT => "paired_t",
        }
    }
}

/// A metric of two versions. The difference is the second less the first.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Comparison {
    /// The metric's name.
    pub metric: String,
    /// The value of the first version and of the second.
    pub values: [Option<f64>; 2],
    /// Why there is no difference.
    pub reason: Option<Undefined>,
    /// 95 % interval of the difference.
    pub interval: Option<(f64, f64)>,
    /// Two-sided, of no difference. It is under 5 % where the interval leaves out 0, and only there.
    pub p_value: Option<f64>,
    /// How both were made.
    pub method: Option<ComparisonMethod>,
    /// Why they may not hold.
    pub warning: Option<Warning>,
}

/// A value with its interval.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Bounded {
    /// The value.
    pub value: f64,
    /// Lower bound.
    pub low: f64,
    /// Upper bound.
    pub high: f64,
}

impl Comparison {
    /// Of two values without an interval.
    pub fn bare(metric: &str, values: [f64; 2]) -> Self {
        Self {
            metric: metric.to_owned(),
            values: values.map(Some),
            reason: None,
            interval: None,
            p_value: None,
            method: None,
            warning: None,
        }
    }

    /// Where one of the values is undefined.
    pub fn undefined(metric: &str, values: [Option<f64>; 2], reason: Undefined) -> Self {
        Self { values, reason: Some(reason), ..Self::bare(metric, [0.0; 2]) }
    }

    /// The second value less the first.
    pub fn difference(&self) -> Option<f64> {
        Some(self.values[1]? - self.values[0]?)
    }

    /// Of independent rows, from what is published of each.
    ///
    /// # Formula
    /// Areas under the ROC curve: `d ± z √(s₁² + s₂²)`, DeLong's errors s. Means: `d ± t √(s₁² + s₂²)` with Welch's degrees of
    /// freedom. All else: [`mover`]; of two of Wilson's intervals that is Newcombe's.
    /// # Source
    /// DeLong, DeLong & Clarke-Pearson (1988); Welch (1947); Newcombe (1998), Interval Estimation for the Difference between
    /// Independent Proportions, method 10; Zou & Donner (2008).
    /// # Returns
    /// The reason of the first undefined value, if there is one; no interval where a value has none.
    pub fn of_independent(first: &ReportRow, second: &ReportRow) -> Self {
        let (Some(a), Some(b)) = (first.value, second.value) else {
            let reason = first.reason.or(second.reason).unwrap_or(Undefined::NoRows);
            return Self::undefined(&first.metric, [first.value, second.value], reason);
        };
        let bare = Self { warning: first.ci_warning.or(second.ci_warning), ..Self::bare(&first.metric, [a, b]) };
        let (Some(a), Some(b)) = (first.bounded(), second.bounded()) else { return Self { warning: None, ..bare } };
        let both = |method| first.ci_method == Some(method) && second.ci_method == Some(method);
        match first.error.zip(second.error) {
            Some((s, r)) if both(Method::DelongLogit) => {
                bare.by_error(ComparisonMethod::Delong, s.value.hypot(r.value), None)
            }
            Some((s, r)) if both(Method::HallT) && s.value.hypot(r.value) > 0.0 => {
                let (u, v) = (s.value * s.value, r.value * r.value);
                let degrees = (u + v) * (u + v) / (u * u / (s.rows - 1.0) + v * v / (r.rows - 1.0));
                bare.by_error(ComparisonMethod::WelchT, (u + v).sqrt(), Some(degrees))
            }
            _ if both(Method::Wilson) => bare.by_mover(ComparisonMethod::Newcombe, a, b, 0.0),
            _ => bare.by_mover(ComparisonMethod::Mover, a, b, 0.0),
        }
    }

    /// `d ± quantile · error`: Student's quantile of these degrees of freedom, or the normal one.
    #[must_use]
    pub fn by_error(self, method: ComparisonMethod, error: f64, degrees: Option<f64>) -> Self {
        let Some(difference) = self.difference().filter(|_| error.is_finite()) else { return self };
        let quantile = degrees.map_or(Z_95, students_t);
        let interval = Some((difference - quantile * error, difference + quantile * error));
        let p_value = if difference == 0.0 { 1.0 } else { two_sided(difference / error, degrees) };
        Self { interval, p_value: Some(p_value), method: Some(method), ..self }
    }

    /// By [`mover`], with the p-value that goes with it: the arm of the interval that points to 0 is taken for a normal one.
    #[must_use]
    pub fn by_mover(self, method: ComparisonMethod, first: Bounded, second: Bounded, correlation: f64) -> Self {
        let difference = second.value - first.value;
        let (low, high) = mover(first, second, correlation);
        let arm = if difference > 0.0 { difference - low } else { high - difference };
        let p_value = if difference == 0.0 { 1.0 } else { two_sided(Z_95 * difference / arm, None) };
        Self { interval: Some((low, high)), p_value: Some(p_value), method: Some(method), ..self }
    }
}

impl ReportRow {
    fn bounded(&self) -> Option<Bounded> {
        Some(Bounded { value: self.value?, low: self.ci_low?, high: self.ci_high? })
    }
}

/// The interval of `second − first`, from the interval of each and their correlation.
///
/// # Formula
/// `d − √(x² − 2ρxy + y²)` with `x = u₁ − v₁` and `y = v₂ − l₂`, and `d + √(x² − 2ρxy + y²)` with `x = v₁ − l₁` and
/// `y = u₂ − v₂`, for values v, lower bounds l and upper bounds u.
/// # Source
/// Newcombe (1998), Improved Confidence Intervals for the Difference between Binomial Proportions Based on Paired Data, method
/// 8, for shares; Zou (2007) for any estimates.
pub fn mover(first: Bounded, second: Bounded, correlation: f64) -> (f64, f64) {
    let arm = |x: f64, y: f64| (x * x - 2.0 * correlation * x * y + y * y).max(0.0).sqrt();
    let difference = second.value - first.value;
    let low = difference - arm(first.high - first.value, second.value - second.low);
    let high = difference + arm(first.value - first.low, second.high - second.value);
    (low, high)
}

/// The chance of so large a statistic, on either side; 1 if it is no number, which says nothing.
pub(crate) fn two_sided(statistic: f64, degrees: Option<f64>) -> f64 {
    if statistic.is_nan() {
        return 1.0;
    }
    let below = -statistic.abs();
    let tail = match degrees {
        Some(degrees) => StudentsT::new(0.0, 1.0, degrees.max(1.0)).map(|t| t.cdf(below)),
        None => Ok(Normal::standard().cdf(below)),
    };
    tail.map_or(1.0, |tail| (2.0 * tail).min(1.0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::interval::wilson;

    #[test]
    fn what_is_no_number_says_nothing() {
        for degrees in [None, Some(5.0), Some(f64::NAN), Some(f64::INFINITY)] {
            assert_eq!(two_sided(f64::NAN, degrees), 1.0);
            assert_eq!(two_sided(f64::NEG_INFINITY, degrees), 0.0);
            assert_eq!(two_sided(0.0, degrees), 1.0);
        }
    }

    fn share(hits: f64, rows: f64) -> Bounded {
        let (low, high) = wilson(hits / rows, rows);
        Bounded { value: hits / rows, low, high }
    }

    #[test]
    fn newcombes_own_example() {
        // Newcombe (1998), table II, method 10: 56/70 − 48/80, and 5/56 − 0/29.
        for ((hits, rows), (other_hits, other_rows), low, high) in
            [((48.0, 80.0), (56.0, 70.0), 0.0524, 0.3339), ((0.0, 29.0), (5.0, 56.0), -0.0381, 0.1926)]
        {
            let (l, h) = mover(share(hits, rows), share(other_hits, other_rows), 0.0);
            assert!((l - low).abs() < 5e-5 && (h - high).abs() < 5e-5, "{l} {h}");
        }
    }

    #[test]
    fn what_goes_together_differs_more_surely() {
        let (a, b) = (share(60.0, 100.0), share(70.0, 100.0));
        let width = |correlation| {
            let (low, high) = mover(a, b, correlation);
            high - low
        };
        assert!(width(0.9) < width(0.0) && width(0.0) < width(-0.5));
        let swapped = mover(b, a, 0.3);
        let (low, high) = mover(a, b, 0.3);
        assert!(
            (swapped.0 + high).abs() < 1e-15 && (swapped.1 + low).abs() < 1e-15,
            "the order changes the sign alone"
        );
    }

    #[test]
    fn the_p_value_and_the_interval_never_contradict() {
        for hits in [50.0, 60.0, 63.0, 63.5, 64.0, 70.0, 100.0] {
            let bare = Comparison::bare("accuracy", [0.5, hits / 100.0]);
            let compared = bare.by_mover(ComparisonMethod::Newcombe, share(50.0, 100.0), share(hits, 100.0), 0.0);
            let (low, high) = compared.interval.expect("intervals");
            let p = compared.p_value.expect("intervals");
            assert_eq!(low > 0.0 || high < 0.0, p < 0.05, "{compared:?}");
            assert!((0.0..=1.0).contains(&p));
        }
        let same = Comparison::bare("m", [0.5, 0.5]).by_error(ComparisonMethod::WelchT, 0.0, Some(9.0));
        assert_eq!((same.interval, same.p_value), (Some((0.0, 0.0)), Some(1.0)));
    }
}
