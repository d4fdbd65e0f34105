//! 95 % intervals, and what each is called in the `ci_method` column.
//!
//! They are held to their coverage: `cargo test -p driftline-evaluator --release -- --ignored --nocapture coverage` prints it
//! for every cell of a fixed grid. CHANGELOG's known limits say how far it has been run.

use serde::{Deserialize, Serialize};
use statrs::distribution::{Binomial, ContinuousCDF, DiscreteCDF, StudentsT};

/// The level of every interval.
pub const LEVEL: f64 = 0.95;
/// The 97.5 % quantile of the standard normal distribution.
pub const Z_95: f64 = 1.959963984540054;
/// Under so many rows (effective ones, of the scarcer kind) an interval carries [`Warning::FewRows`]. Simulated coverage leaves
/// 93 to 97 % below about this number.
pub const ROWS_MIN: f64 = 10.0;
/// Hits, and misses, under which the interval of a share carries it too: beside one to three it covers less than 93 %. Brown, Cai &
/// DasGupta (2001), Interval Estimation for a Binomial Proportion, 4.1, where Wilson's interval is mended for just these counts.
const HITS_MIN: f64 = 4.0;
/// A mean of fewer rows than this times the squared skewness carries [`Warning::Skewed`]: Cochran (1977), Sampling Techniques,
/// 2.15, whose rule it is.
const ROWS_PER_SQUARED_SKEWNESS: f64 = 25.0;
/// Degrees of freedom beyond which Student's quantile is the normal one to eight digits.
const DEGREES_MAX: f64 = 1e7;

/// How an interval was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Method {
    /// [`wilson`]: a share of rows.
    Wilson,
    /// [`wilson`] on the effective number of rows that the delta method gives: a ratio of counts that is no share of rows.
    WilsonDelta,
    /// [`mover`]: a mean of independent shares.
    Mover,
    /// [`fisher`]: a correlation, its error by the delta method.
    FisherDelta,
    /// [`logit`]: an area under the ROC curve, its error by DeLong.
    DelongLogit,
    /// [`logit`]: an average precision, its error by the influence function.
    DeltaLogit,
    /// A mean of such areas over classes; the errors are added as if the classes went together entirely.
    DelongSum,
    /// [`mean`]: a mean, with a correction of its skewness.
    HallT,
    /// [`HallT`](Self::HallT) of the squares; then the root of both ends.
    HallTRoot,
    /// `1 −` a ratio of means, on the scale of the ratio's logarithm; its error by the delta method.
    DeltaLog,
    /// [`order_statistics`]: a quantile.
    OrderStatistics,
    /// A simulation from calibrated scores.
    Binomial,
}

impl Method {
    /// The word in the `ci_method` column.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Wilson => "wilson",
            Self::WilsonDelta => "wilson_delta",
            Self::Mover => "mover",
            Self::FisherDelta => "fisher_delta",
            Self::DelongLogit => "delong_logit",
            Self::DeltaLogit => "delta_logit",
            Self::DelongSum => "delong_sum",
            Self::HallT => "hall_t",
            Self::HallTRoot => "hall_t_root",
            Self::DeltaLog => "delta_log",
            Self::OrderStatistics => "order_statistics",
            Self::Binomial => "poisson_binomial",
        }
    }
}

/// Why an interval may not hold what it promises. The closed list of the `ci_warning` column.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Warning {
    /// Under [`ROWS_MIN`] rows of some kind that the metric needs: it may cover less than 95 %.
    FewRows,
    /// The values have so long a tail that this many rows may not have shown it: it may cover less than 95 %.
    Skewed,
    /// Wider than it need be: it covers more than 95 %.
    Conservative,
}

impl Warning {
    /// The word in the `ci_warning` column.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::FewRows => "few_rows",
            Self::Skewed => "skewed",
            Self::Conservative => "conservative",
        }
    }
}

/// A 95 % interval.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Interval {
    /// Lower bound.
    pub low: f64,
    /// Upper bound.
    pub high: f64,
    /// How it was made.
    pub method: Method,
    /// Why it may not hold.
    pub warning: Option<Warning>,
}

impl Interval {
    /// An interval that holds.
    pub fn new((low, high): (f64, f64), method: Method) -> Self {
        Self { low, high, method, warning: None }
    }

    /// With [`Warning::FewRows`], if the scarcest rows are under [`ROWS_MIN`].
    #[must_use]
    pub fn on_rows(mut self, scarcest: f64) -> Self {
        if scarcest < ROWS_MIN {
            self.warning = Some(Warning::FewRows);
        }
        self
    }

    /// With [`Warning::FewRows`], if a share of so many rows rests on one to three hits or misses.
    #[must_use]
    pub fn on_hits(self, share: f64, rows: f64) -> Self {
        if share.min(1.0 - share) * rows < HITS_MIN - 1e-9 { self.warned(Warning::FewRows) } else { self }
    }

    /// With [`Warning::Skewed`], if the mean of so many rows is of values with so long a tail.
    #[must_use]
    pub fn on_skewness(self, skewness: f64, rows: f64) -> Self {
        if rows < ROWS_PER_SQUARED_SKEWNESS * skewness * skewness { self.warned(Warning::Skewed) } else { self }
    }

    /// With another warning, unless it has one.
    #[must_use]
    pub fn warned(mut self, warning: Warning) -> Self {
        self.warning = self.warning.or(Some(warning));
        self
    }

    /// Both ends through a function that does not fall, or through one that does not rise.
    #[must_use]
    pub fn map(mut self, of: impl Fn(f64) -> f64) -> Self {
        let (one, other) = (of(self.low), of(self.high));
        (self.low, self.high) = if one <= other { (one, other) } else { (other, one) };
        self
    }
}

/// Wilson's interval of a proportion.
///
/// # Formula
/// `(p̂ + z²/2n ± z √(p̂(1 − p̂)/n + z²/4n²)) / (1 + z²/n)`
/// # Source
/// Wilson (1927), Probable Inference, the Law of Succession, and Statistical Inference. With an effective number of rows:
/// Korn & Graubard (1998), Confidence Intervals for Proportions with Small Expected Number of Positive Counts.
/// # Inputs
/// `share` in `[0, 1]`, `rows > 0`, whole or not.
/// # Returns
/// Both ends inside `[0, 1]`, the share between them.
pub fn wilson(share: f64, rows: f64) -> (f64, f64) {
    let z2 = Z_95 * Z_95;
    let centre = share + z2 / (2.0 * rows);
    let spread = Z_95 * (share * (1.0 - share) / rows + z2 / (4.0 * rows * rows)).max(0.0).sqrt();
    let scale = 1.0 + z2 / rows;
    // At 0 and at 1 one bound is the share itself; rounding must not put it on the other side.
    let low = if share <= 0.0 { 0.0 } else { ((centre - spread) / scale).clamp(0.0, share) };
    let high = if share >= 1.0 { 1.0 } else { ((centre + spread) / scale).clamp(share, 1.0) };
    (low, high)
}

/// Rows that would give a share this variance, `p(1 − p) / variance`; `otherwise` where the variance says nothing.
pub fn effective_rows(share: f64, variance: f64, otherwise: f64) -> f64 {
    let rows = share * (1.0 - share) / variance;
    if rows.is_finite() && rows > 0.0 { rows } else { otherwise }
}

/// `value ± quantile · standard_error`, on the scale of the logarithm of the odds.
///
/// # Source
/// For an area under the ROC curve: Pepe (2003), The Statistical Evaluation of Medical Tests, 5.2.4.
/// # Inputs
/// `value` inside `(0, 1)`, `standard_error ≥ 0`.
pub fn logit(value: f64, standard_error: f64, quantile: f64) -> (f64, f64) {
    let (centre, spread) = ((value / (1.0 - value)).ln(), quantile * standard_error / (value * (1.0 - value)));
    let back = |x: f64| 1.0 / (1.0 + (-x).exp());
    (back(centre - spread).min(value), back(centre + spread).max(value))
}

/// Fisher's transformation of a correlation.
///
/// # Formula
/// `tanh(artanh v ± z · standard_error / (1 − v²))`
/// # Source
/// Fisher (1921); for Matthews' coefficient Itaya et al. (2025), Asymptotic Properties of Matthews Correlation Coefficient.
/// # Inputs
/// `value` inside `(−1, 1)`.
pub fn fisher(value: f64, standard_error: f64) -> (f64, f64) {
    let (centre, spread) = (value.atanh(), Z_95 * standard_error / (1.0 - value * value));
    ((centre - spread).tanh().min(value), (centre + spread).tanh().max(value))
}

/// The interval of a mean of independent estimates, from the interval of each.
///
/// # Formula
/// `m̄ − √Σ(mₖ − lₖ)² / K`, `m̄ + √Σ(uₖ − mₖ)² / K`
/// # Source
/// Zou & Donner (2008), Construction of Confidence Limits about Effect Measures: method of variance estimates recovery.
/// # Inputs
/// Value, lower and upper bound of each; one or more.
pub fn mover(parts: &[(f64, f64, f64)]) -> (f64, f64) {
    let count = parts.len() as f64;
    let mean = parts.iter().map(|(value, _, _)| value).sum::<f64>() / count;
    let below = parts.iter().map(|(value, low, _)| (value - low).powi(2)).sum::<f64>().sqrt() / count;
    let above = parts.iter().map(|(value, _, high)| (high - value).powi(2)).sum::<f64>().sqrt() / count;
    (mean - below, mean + above)
}

/// The interval of a mean.
///
/// # Formula
/// `m̄ − s/√n · h(t)`, `m̄ − s/√n · h(−t)`, where `h(u) = 3/c · (∛(1 + c(u − c/6)) − 1)`, `c = skewness/√n`, and t is
/// Student's 97.5 % quantile of n − 1 degrees. Without skewness it is Student's interval.
/// # Source
/// Hall (1992), On the Removal of Skewness by Transformation.
/// # Inputs
/// `deviation`: the sample's (over n − 1). `rows > 1`.
pub fn mean(mean: f64, deviation: f64, skewness: f64, rows: f64) -> (f64, f64) {
    let error = deviation / rows.sqrt();
    let c = skewness / rows.sqrt();
    let quantile = students_t(rows - 1.0);
    let back = |u: f64| if c.abs() < 1e-9 { u } else { 3.0 / c * ((1.0 + c * (u - c / 6.0)).cbrt() - 1.0) };
    ((mean - error * back(quantile)).min(mean), (mean - error * back(-quantile)).max(mean))
}

/// The 97.5 % quantile of Student's distribution.
pub fn students_t(degrees: f64) -> f64 {
    if degrees > DEGREES_MAX {
        return Z_95;
    }
    // A distribution of less than one degree has no use here; one is already 12.7.
    StudentsT::new(0.0, 1.0, degrees.max(1.0)).map_or(f64::INFINITY, |t| t.inverse_cdf(0.975))
}

/// Which order statistics enclose a quantile, whatever the distribution.
///
/// # Formula
/// The rows below the quantile are binomial: the largest l with `P(B < l) ≤ 2.5 %` and the smallest u with `P(B ≥ u) ≤ 2.5 %`.
/// # Source
/// Thompson (1936); Conover (1999), Practical Nonparametric Statistics, 3.2.
/// # Returns
/// Places from 0 of the lower and upper bound; `None` where there is no such row on a side: too few rows.
pub fn order_statistics(rows: u64, quantile: f64) -> Option<(u64, u64)> {
    let below = Binomial::new(quantile, rows).ok()?;
    // P(B ≤ l − 1) ≤ 2.5 %: the quantile lies below the l-th row (from 1) only then.
    let tail = (1.0 - LEVEL) / 2.0;
    let at = below.inverse_cdf(tail);
    let low = if below.cdf(at) <= tail { at + 1 } else { at };
    let at = below.inverse_cdf(1.0 - tail);
    let high = at + 1;
    (low >= 1 && high <= rows).then(|| (low - 1, high - 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wilson_hand_worked() {
        // statsmodels.stats.proportion.proportion_confint(hits, rows, method="wilson")
        for (hits, rows, low, high) in [
            (0, 1, 0.0, 0.7934506856227626),
            (1, 1, 0.20654931437723745, 1.0),
            (5, 10, 0.23659309051256394, 0.7634069094874361),
            (0, 10, 0.0, 0.27753279986288926),
        ] {
            let (l, h) = wilson(f64::from(hits) / f64::from(rows), f64::from(rows));
            assert!((l - low).abs() < 1e-12 && (h - high).abs() < 1e-12, "{hits}/{rows}: {l} {h}");
        }
    }

    #[test]
    fn without_skewness_a_mean_has_students_interval() {
        // scipy.stats.t.ppf(0.975, 9) = 2.2621571628540993
        let (low, high) = mean(5.0, 2.0, 0.0, 10.0);
        let spread = 2.2621571628540993 * 2.0 / 10.0_f64.sqrt();
        assert!((low - (5.0 - spread)).abs() < 1e-9 && (high - (5.0 + spread)).abs() < 1e-9, "{low} {high}");
        // A long right tail hides large values: the interval reaches further up than down.
        let (low, high) = mean(5.0, 2.0, 2.0, 10.0);
        assert!(high - 5.0 > 1.2 * (5.0 - low), "{low} {high}");
        assert_eq!(mean(5.0, 0.0, 0.0, 10.0), (5.0, 5.0));
        assert!((students_t(1e9) - Z_95).abs() < 1e-12);
    }

    #[test]
    fn transformed_scales_stay_inside_and_around() {
        let (low, high) = logit(0.98, 0.05, Z_95);
        assert!(0.0 < low && low < 0.98 && 0.98 < high && high < 1.0);
        let (low, high) = fisher(-0.9, 0.2);
        assert!(-1.0 < low && low < -0.9 && -0.9 < high && high < 1.0);
        assert_eq!(mover(&[(0.5, 0.4, 0.7), (0.7, 0.7, 0.7)]), (0.55, 0.7));
    }

    #[test]
    fn order_statistics_are_those_of_the_tables() {
        // Conover (1999), table of the median: of 10 rows the 2nd and 9th, of 20 the 6th and 15th.
        assert_eq!(order_statistics(10, 0.5), Some((1, 8)));
        assert_eq!(order_statistics(20, 0.5), Some((5, 14)));
        assert_eq!(order_statistics(5, 0.5), None, "five rows are too few: 2 · 2⁻⁵ is more than 5 %");
        assert_eq!(order_statistics(6, 0.5), Some((0, 5)));
        assert_eq!(order_statistics(0, 0.5), None);
    }
}
