//! How far rows lie from what the reference's features have in common: the error of rebuilding them from principal components.

use serde::{Deserialize, Serialize};

use crate::metrics::comparison::two_sided;

/// Features at most, the first by name. The work of freezing grows with the square.
pub const FEATURES_MAX: usize = 32;
/// The share of the variance that the components keep, as NannyML has it: what they leave is where rows can be unlike each other.
const VARIANCE_KEPT: f64 = 0.65;
/// Sweeps of Jacobi's method: it converges quadratically, and is done in about six.
const SWEEPS_MAX: usize = 60;

/// How features are put on one scale.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Scaling {
    /// The mean of each.
    pub means: Vec<f64>,
    /// The standard deviation of each, above 0.
    pub scales: Vec<f64>,
}

impl Scaling {
    /// Writes a row on one scale: how many deviations each value is off its mean. One that is missing, NaN or infinite is taken for the
    /// mean.
    pub fn apply(&self, row: impl Iterator<Item = Option<f64>>, into: &mut Vec<f64>) {
        into.clear();
        let scaled = row.zip(self.means.iter().zip(&self.scales));
        into.extend(scaled.map(|(x, (mean, scale))| x.map_or(0.0, |x| (x - mean) / scale)));
        into.iter_mut().filter(|z| !z.is_finite()).for_each(|z| *z = 0.0);
    }
}

/// The components of a reference's numeric features, frozen with it.
///
/// # Formula
/// z: the features less their means over their standard deviations. V: the eigenvectors of the z's correlation matrix with the largest
/// eigenvalues, as few as keep 65 % of the variance and one less than features at most. A row's error is `‖z − VᵀVz‖`.
/// # Source
/// Pearson (1901); NannyML's data reconstruction with PCA, for numbers; scikit-learn's `StandardScaler` and `PCA(n_components=0.65)`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Components {
    /// The features, by name.
    pub features: Vec<String>,
    /// How they are put on one scale.
    pub scaling: Scaling,
    /// One list of as many numbers as features for each component.
    pub axes: Vec<Vec<f64>>,
    /// The errors of the reference's own rows.
    pub errors: Errors,
}

/// The errors of some rows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Errors {
    /// Rows.
    pub n: u64,
    /// Rows of equal weight that would say as much.
    pub effective_rows: f64,
    /// The mean error.
    pub mean: f64,
    /// The standard deviation, over what rows stand for less one.
    pub deviation: f64,
}

impl Errors {
    /// From the weight of rows, their weighted error and its weighted square.
    pub fn of_sums(n: u64, effective_rows: f64, [weight, sum, squares]: [f64; 3]) -> Self {
        if n == 0 {
            return Self::default();
        }
        let mean = sum / weight;
        let around = (squares / weight - mean * mean).max(0.0);
        let variance = if effective_rows > 1.0 { around * effective_rows / (effective_rows - 1.0) } else { 0.0 };
        Self { n, effective_rows, mean, deviation: variance.sqrt() }
    }
}

impl Components {
    /// From the correlation matrix, row after row; nothing is known of errors yet.
    pub fn of_correlations(features: Vec<String>, scaling: Scaling, correlations: &[f64]) -> Self {
        let count = features.len();
        let mut found = eigen(correlations, count);
        found.sort_by(|a, b| b.0.total_cmp(&a.0));
        let all: f64 = found.iter().map(|(value, _)| value.max(0.0)).sum();
        let (mut kept, mut axes) = (0.0, Vec::new());
        for (value, axis) in found {
            if axes.len() + 1 >= count || (!axes.is_empty() && kept > VARIANCE_KEPT * all) {
                break;
            }
            kept += value.max(0.0);
            axes.push(axis);
        }
        Self { features, scaling, axes, errors: Errors::default() }
    }

    /// The error of a row that is on the scale already.
    pub fn error(&self, z: &[f64]) -> f64 {
        let mut rest = z.to_vec();
        for axis in &self.axes {
            let along: f64 = axis.iter().zip(z).map(|(a, z)| a * z).sum();
            rest.iter_mut().zip(axis).for_each(|(rest, a)| *rest -= along * a);
        }
        rest.iter().map(|rest| rest * rest).sum::<f64>().sqrt()
    }

    /// How far the mean error has moved, in the reference's standard deviations, and the p-value of no move: Welch's test.
    ///
    /// # Returns
    /// `None` where rows are too few to say (under two), all of the reference's are alike, or an error is too large for a number.
    pub fn moved(&self, current: &Errors) -> Option<(f64, f64)> {
        let of = |errors: &Errors| errors.deviation * errors.deviation / errors.effective_rows;
        let (u, v) = (of(&self.errors), of(current));
        if current.effective_rows < 2.0 || self.errors.effective_rows < 2.0 || self.errors.deviation <= 0.0 {
            return None;
        }
        let difference = current.mean - self.errors.mean;
        let moved = difference.abs() / self.errors.deviation;
        let degrees =
            (u + v) * (u + v) / (u * u / (self.errors.effective_rows - 1.0) + v * v / (current.effective_rows - 1.0));
        // The test has no word for what is no number.
        if !(moved + u + v + degrees).is_finite() {
            return None;
        }
        let p_value = if difference == 0.0 { 1.0 } else { two_sided(difference / (u + v).sqrt(), Some(degrees)) };
        Some((moved, p_value))
    }
}

/// Eigenvalues and eigenvectors of a symmetric matrix, row after row, in no order.
///
/// # Source
/// Jacobi (1846), by cyclic sweeps; Golub & Van Loan (2013), Matrix Computations, 8.5.
fn eigen(matrix: &[f64], count: usize) -> Vec<(f64, Vec<f64>)> {
    let mut a = matrix.to_vec();
    let mut v: Vec<f64> = (0..count * count).map(|at| f64::from(u8::from(at / count == at % count))).collect();
    for _ in 0..SWEEPS_MAX {
        let mut has_turned = false;
        for p in 0..count {
            for q in p + 1..count {
                let beside = a[p * count + q];
                // What is lost in the last digit of the diagonal is nothing.
                if beside.abs() <= f64::EPSILON * (a[p * count + p] * a[q * count + q]).abs().sqrt() * 1e-3 {
                    continue;
                }
                has_turned = true;
                let theta = (a[q * count + q] - a[p * count + p]) / (2.0 * beside);
                let tangent = theta.signum() / (theta.abs() + theta.hypot(1.0));
                let cosine = 1.0 / tangent.hypot(1.0);
                let sine = tangent * cosine;
                for k in 0..count {
                    let (x, y) = (a[k * count + p], a[k * count + q]);
                    (a[k * count + p], a[k * count + q]) = (cosine * x - sine * y, sine * x + cosine * y);
                }
                for k in 0..count {
                    let (x, y) = (a[p * count + k], a[q * count + k]);
                    (a[p * count + k], a[q * count + k]) = (cosine * x - sine * y, sine * x + cosine * y);
                    let (x, y) = (v[k * count + p], v[k * count + q]);
                    (v[k * count + p], v[k * count + q]) = (cosine * x - sine * y, sine * x + cosine * y);
                }
                (a[p * count + q], a[q * count + p]) = (0.0, 0.0);
            }
        }
        if !has_turned {
            break;
        }
    }
    (0..count).map(|i| (a[i * count + i], (0..count).map(|k| v[k * count + i]).collect())).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn components(correlations: &[f64]) -> Components {
        let count = correlations.len().isqrt();
        let features = (0..count).map(|i| i.to_string()).collect();
        let scaling = Scaling { means: vec![0.0; count], scales: vec![1.0; count] };
        Components::of_correlations(features, scaling, correlations)
    }

    #[test]
    fn hand_worked() {
        // Two features that go together, and one that goes alone: eigenvalues 1.8, 1 and 0.2.
        let three = components(&[1.0, 0.8, 0.0, 0.8, 1.0, 0.0, 0.0, 0.0, 1.0]);
        assert_eq!(three.axes.len(), 2, "60 % of the variance are not enough");
        // Along both there is nothing to rebuild; across the first two all is lost.
        for (row, error) in [([1.0, 1.0, 0.0], 0.0), ([0.0, 0.0, 5.0], 0.0), ([1.0, -1.0, 7.0], 2.0_f64.sqrt())] {
            assert!((three.error(&row) - error).abs() < 1e-12, "{row:?}: {}", three.error(&row));
        }
        let two = components(&[1.0, 0.1, 0.1, 1.0]);
        assert_eq!(two.axes.len(), 1, "one less than features, whatever it keeps");
        assert!((two.error(&[1.0, -1.0]) - 2.0_f64.sqrt()).abs() < 1e-12);
        let same = components(&[1.0, 1.0, 1.0, 1.0]);
        assert!(same.error(&[3.0, 3.0]) < 1e-12 && same.error(&[1.0, -1.0]) > 1.4);
    }

    #[test]
    fn what_is_no_number_is_taken_for_the_mean() {
        let scaling = Scaling { means: vec![1.0, 2.0, 3.0], scales: vec![2.0, 1.0, 1.0] };
        let mut z = vec![9.0];
        scaling.apply([Some(5.0), None, Some(f64::NAN)].into_iter(), &mut z);
        assert_eq!(z, [2.0, 0.0, 0.0]);
        scaling.apply([Some(f64::INFINITY), Some(1.0), Some(3.5)].into_iter(), &mut z);
        assert_eq!(z, [0.0, -1.0, 0.5]);
    }

    #[test]
    fn e3_few_rows_and_equal_errors_say_nothing() {
        let mut two = components(&[1.0, 0.5, 0.5, 1.0]);
        let errors = |n: u64, mean: f64, deviation: f64| Errors { n, effective_rows: n as f64, mean, deviation };
        two.errors = errors(100, 1.0, 0.5);
        assert_eq!(two.moved(&Errors::default()), None);
        assert_eq!(two.moved(&errors(1, 5.0, 0.0)), None);
        assert_eq!(two.moved(&errors(50, 1.0, 0.1)), Some((0.0, 1.0)));
        let (moved, p_value) = two.moved(&errors(50, 1.5, 0.5)).expect("rows");
        assert!(moved == 1.0 && p_value < 1e-6, "{moved} {p_value}");
        // Rows that weigh differently say as much as so many equal ones.
        let weighed = Errors { n: 5_000, ..errors(50, 1.5, 0.5) };
        assert_eq!(two.moved(&weighed), Some((moved, p_value)));
        // Less of an error is a move too.
        assert_eq!(two.moved(&errors(50, 0.5, 0.5)), Some((moved, p_value)));
        for broken in [errors(50, f64::INFINITY, f64::NAN), errors(50, 1e308, f64::INFINITY), errors(50, f64::NAN, 1.0)]
        {
            assert_eq!(two.moved(&broken), None);
        }
        two.errors = errors(100, 1.0, 0.0);
        assert_eq!(two.moved(&errors(50, 1.5, 0.5)), None);
        assert_eq!(Errors::of_sums(0, 0.0, [0.0; 3]), Errors::default());
        // Of 1, 2 and 3.
        let of_three = Errors::of_sums(3, 3.0, [3.0, 6.0, 14.0]);
        assert!(of_three.mean == 2.0 && (of_three.deviation - 1.0).abs() < 1e-12, "{of_three:?}");
    }

    proptest! {
        #[test]
        fn eigenvectors_are_what_they_are_called(entries in prop::collection::vec(-1.0..1.0_f64, 36)) {
            let count = 6;
            let matrix: Vec<f64> =
                (0..36).map(|at| f64::midpoint(entries[at], entries[at % count * count + at / count])).collect();
            let found = eigen(&matrix, count);
            for (i, (value, vector)) in found.iter().enumerate() {
                for (row, x) in matrix.chunks(count).zip(vector) {
                    let along: f64 = row.iter().zip(vector).map(|(a, v)| a * v).sum();
                    prop_assert!((along - value * x).abs() < 1e-10, "{along} is not {value} times {x}");
                }
                for (j, (_, other)) in found.iter().enumerate() {
                    let dot: f64 = vector.iter().zip(other).map(|(a, b)| a * b).sum();
                    prop_assert!((dot - f64::from(u8::from(i == j))).abs() < 1e-12);
                }
            }
        }
    }
}
