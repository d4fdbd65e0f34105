//! 95 % intervals.

use super::Estimate;

/// The 97.5 % quantile of the standard normal distribution.
pub const Z_95: f64 = 1.959963984540054;

/// Wilson's interval of a proportion.
///
/// # Formula
/// `(p̂ + z²/2n ± z √(p̂(1 − p̂)/n + z²/4n²)) / (1 + z²/n)`
/// # Source
/// Wilson (1927), Probable Inference, the Law of Succession, and Statistical Inference.
/// # Inputs
/// `hits ≤ rows`, `rows > 0`.
/// # Returns
/// The share and an interval inside `[0, 1]`; `None` without rows.
pub fn wilson(hits: u64, rows: u64) -> Option<Estimate> {
    if rows == 0 {
        return None;
    }
    let n = rows as f64;
    let share = hits as f64 / n;
    let z2 = Z_95 * Z_95;
    let centre = share + z2 / (2.0 * n);
    let spread = Z_95 * (share * (1.0 - share) / n + z2 / (4.0 * n * n)).sqrt();
    let scale = 1.0 + z2 / n;
    // At 0 and at `rows` hits one bound is the share itself; rounding must not put it on the other side.
    let low = if hits == 0 { 0.0 } else { ((centre - spread) / scale).clamp(0.0, share) };
    let high = if hits == rows { 1.0 } else { ((centre + spread) / scale).clamp(share, 1.0) };
    Some(Estimate { value: share, interval: Some((low, high)) })
}

/// `value ± z · standard_error`, cut to `[low, high]`.
pub fn normal(value: f64, standard_error: f64, low: f64, high: f64) -> Estimate {
    let spread = Z_95 * standard_error;
    Estimate { value, interval: Some(((value - spread).max(low), (value + spread).min(high))) }
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
            let (l, h) = wilson(hits, rows).and_then(|e| e.interval).expect("rows > 0");
            assert!((l - low).abs() < 1e-12 && (h - high).abs() < 1e-12, "{hits}/{rows}: {l} {h}");
        }
        assert_eq!(wilson(0, 0), None);
    }
}
