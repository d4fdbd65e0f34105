//! How strongly a window speaks against what is tolerated: e-values.
//!
//! An e-value is a number that is 1 on average, or less, while all is well; how large it may become is bounded by Markov's
//! inequality: it reaches `1/α` with a chance of at most α. Unlike a p-value it may be looked at again with each new label:
//! [`of_interval`] is a mixture of betting martingales, so the chance holds for all looks at a window together.
//!
//! Sources: Robbins (1970), "Statistical methods related to the law of the iterated logarithm"; Howard, Ramdas, McAuliffe and
//! Sekhon (2021), "Time-uniform, nonparametric, nonasymptotic confidence sequences" (the one-sided normal mixture);
//! Waudby-Smith, Arbour, Sinha, Kennedy and Ramdas (2024), "Time-uniform central limit theory" (why it holds for estimates
//! that are normal in the limit only); Vovk and Wang (2021), "E-values: calibration, combination and applications".
use statrs::function::erf::erfc;

/// 97.5 % of a normal distribution lie below it: half of an interval at 95 % is so many standard errors.
pub const Z95: f64 = 1.959_963_984_540_054;
/// A p-value that has no digits left.
const P_MIN: f64 = 1e-300;

/// What stands for certainty: a finite number, so that it can be written as JSON.
const LN_E_MAX: f64 = 1e9;

/// The logarithm of the e-value of an estimate against "it is not beyond the level".
///
/// `beyond` is how far the estimate lies beyond the level, negative on the good side; `error` its standard error, and
/// `scale` the size of effect that is bet on, all in units of the metric. `scale` must not depend on the data.
pub fn of_estimate(beyond: f64, error: f64, scale: f64) -> f64 {
    if error <= 0.0 {
        return if beyond > 0.0 { LN_E_MAX } else { -LN_E_MAX };
    }
    let information = (scale / error).powi(2);
    let x = beyond / error * (information / (1.0 + information)).sqrt();
    let ahead = -0.5 * information.ln_1p();
    if x < -5.0 {
        // exp(x²/2)·2Φ(x) by the first term of Mills' ratio: both factors alone leave the range of floats.
        return ahead - (-x * (std::f64::consts::PI / 2.0).sqrt()).ln();
    }
    (ahead + 0.5 * x * x + erfc(-x / std::f64::consts::SQRT_2).ln()).min(LN_E_MAX)
}

/// The same of an interval at 95 %: its half on the level's side is taken for 1.96 standard errors.
pub fn of_interval(value: f64, interval: (f64, f64), level: f64, is_below_bad: bool, scale: f64) -> f64 {
    let (low, high) = interval;
    let (beyond, half) = if is_below_bad {
        (level - value, if value < level { high - value } else { value - low })
    } else {
        (value - level, if value > level { value - low } else { high - value })
    };
    of_estimate(beyond, half.max(0.0) / Z95, scale)
}

/// The evidence of the newest of several successive windows: half a stake on it alone, and the other half spread evenly over it
/// together with the one, two, … up to `memory` windows before it, so that a small drop that lasts adds up.
///
/// A product of e-values of successive windows is one, and so is a mean of such products with weights that do not depend on the
/// data (Vovk and Wang, 2021; Shin, Ramdas and Rinaldo, 2024, "E-detectors", for the idea). `earlier`: logarithms of those before,
/// the newest first; wherever it ends, the terms that are left out would only have added.
pub fn of_run(newest: f64, earlier: &[f64], memory: usize) -> f64 {
    let (mut product, mut terms) = (newest, vec![newest + 0.5_f64.ln()]);
    for before in earlier.iter().take(memory) {
        product += before;
        terms.push(product - (2.0 * memory as f64).ln());
    }
    let largest = terms.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let sum: f64 = terms.iter().map(|term| (term - largest).exp()).sum();
    (largest + sum.ln()).clamp(-LN_E_MAX, LN_E_MAX)
}

/// The logarithm of the e-value of a p-value, for one look: `(1 − p + p·ln p) / (p·ln² p)`, the mean of all calibrators
/// `κ·p^(κ−1)` (Vovk and Wang).
pub fn of_p_value(p: f64) -> f64 {
    let p = p.clamp(P_MIN, 1.0);
    if p > 0.999 {
        // Its limit at 1 is a half, and there the formula is 0/0.
        return 0.5_f64.ln();
    }
    let log = p.ln();
    ((1.0 - p + p * log) / (p * log * log)).ln()
}

/// Which of a family of e-values are large enough that at most a share `q` of such findings is expected to be false, whatever
/// their dependence; while nothing is wrong, the chance of any finding is at most `q`. The e-BH procedure: Wang and Ramdas
/// (2022), "False discovery rate control with e-values". Logarithms in, one answer each.
pub fn rejected(family: &[f64], q: f64) -> Vec<bool> {
    let mut sorted = family.to_vec();
    sorted.sort_by(|a, b| b.total_cmp(a));
    let n = family.len() as f64;
    let least = |k: usize| n.ln() - (k as f64 * q).ln();
    let found = (1..=sorted.len()).rev().find(|k| sorted[k - 1] >= least(*k));
    let bar = found.map_or(f64::INFINITY, least);
    family.iter().map(|e| found.is_some() && *e >= bar).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// SciPy 1.16.2: `np.log(integrate.quad(lambda l: 2*norm.pdf(l, 0, s)*np.exp(l*d/e**2 - l*l/(2*e*e)), 0, np.inf)[0])`.
    #[test]
    fn the_mixture_is_the_integral_that_it_stands_for() {
        let integral = |beyond: f64, error: f64, scale: f64| {
            let (steps, most) = (200_000, 12.0 * scale);
            let step = most / f64::from(steps);
            let density =
                |l: f64| (-l * l / (2.0 * scale * scale)).exp() * 2.0 / (scale * std::f64::consts::TAU.sqrt());
            let bet = |l: f64| (l * beyond / error.powi(2) - l * l / (2.0 * error * error)).exp();
            (0..steps).map(|i| (f64::from(i) + 0.5) * step).map(|l| density(l) * bet(l) * step).sum::<f64>().ln()
        };
        for (beyond, error, scale) in
            [(0.05, 0.02, 0.05), (0.0, 0.01, 0.05), (-0.03, 0.02, 0.05), (-0.2, 0.02, 0.05), (1.5, 0.4, 1.0)]
        {
            let (ours, theirs) = (of_estimate(beyond, error, scale), integral(beyond, error, scale));
            let tolerance = if beyond / error < -5.0 { 0.05 } else { 1e-6 };
            assert!((ours - theirs).abs() < tolerance, "{beyond} {error} {scale}: {ours} and {theirs}");
        }
        assert_eq!(of_estimate(0.1, 0.0, 0.05), LN_E_MAX);
        assert_eq!(of_estimate(-0.1, 0.0, 0.05), -LN_E_MAX);
    }

    #[test]
    fn only_an_interval_that_lies_beyond_the_level_speaks() {
        assert!(of_interval(0.70, (0.68, 0.72), 0.80, true, 0.05) > 20.0);
        assert!(of_interval(0.79, (0.70, 0.86), 0.80, true, 0.05) < 1.0);
        assert!(of_interval(0.90, (0.88, 0.92), 0.80, true, 0.05) < 0.0);
        assert!(of_interval(0.90, (0.88, 0.92), 0.80, false, 0.05) > 20.0);
        // Of an interval that is longer on one side, the side of the level counts.
        for (value, interval, is_below_bad) in [(0.70, (0.50, 0.72), true), (0.90, (0.88, 0.99), false)] {
            let wanted = of_estimate(0.10, 0.02 / Z95, 0.05);
            assert!((of_interval(value, interval, 0.80, is_below_bad, 0.05) - wanted).abs() < 1e-6, "{value}");
        }
        let good = of_interval(0.90, (0.85, 0.91), 0.80, true, 0.05);
        assert!((good - of_estimate(-0.10, 0.05 / Z95, 0.05)).abs() < 1e-6);
    }

    #[test]
    fn a_run_of_windows_adds_up_and_is_paid_for() {
        assert!((of_run(3.0, &[], 23) - (3.0 - 2.0_f64.ln())).abs() < 1e-12);
        let run = of_run(2.0, &[2.0, 2.0, 2.0, 2.0], 23);
        assert!(run > 6.0 && run < 10.0, "{run}");
        assert_eq!(of_run(LN_E_MAX, &[LN_E_MAX], 23), LN_E_MAX);
        // The weights are 1 in all: while nothing is wrong (e-values of 1), so is the evidence.
        assert!(of_run(0.0, &[0.0; 23], 23).abs() < 1e-12);
    }

    #[test]
    fn a_calibrated_p_value_is_one_on_average() {
        let steps = 1_000_000;
        let mean = (0..steps).map(|i| of_p_value((f64::from(i) + 0.5) / f64::from(steps)).exp()).sum::<f64>();
        let mean = mean / f64::from(steps);
        // The tail below 1e-6 holds the rest, 1/ln(1e6).
        assert!(mean < 1.0 && mean > 0.9, "{mean}");
        assert!(of_p_value(0.0).is_finite());
    }

    #[test]
    fn a_family_asks_for_more_evidence_and_findings_help_each_other() {
        let at = |e: f64| e.ln();
        assert_eq!(rejected(&[at(101.0), at(1.0)], 0.01), [false, false]);
        assert_eq!(rejected(&[at(201.0), at(1.0)], 0.01), [true, false]);
        assert_eq!(rejected(&[at(101.0), at(101.0)], 0.01), [true, true]);
        assert_eq!(rejected(&[], 0.01), Vec::<bool>::new());
        assert_eq!(rejected(&[f64::INFINITY, f64::NEG_INFINITY], 1e-9), [true, false]);
    }
}
