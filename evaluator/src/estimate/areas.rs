//! The areas under the ROC and the precision-recall curve that are to be expected of rows whose labels are not known.

use crate::metrics::exact_sum::DoubledSum;

/// All rows that share one score.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ExpectedRun {
    /// Weight that is expected to be positive.
    pub positives: f64,
    /// Weight that is expected to be negative.
    pub negatives: f64,
    /// The variance of the former: `Σ w² p(1 − p)`.
    pub spread: f64,
}

/// An area and its variance by the chance in the labels.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Area {
    /// The area.
    pub value: f64,
    /// Its variance.
    pub variance: f64,
}

/// Both areas.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Areas {
    /// Under the ROC curve; none unless both classes are expected.
    pub roc_auc: Option<Area>,
    /// Under the precision-recall curve, stepwise; none unless positives are expected.
    pub average_precision: Option<Area>,
}

/// How the areas move with the share of positives of a run, for each unit of its weight.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Slopes {
    /// Of the area under the ROC curve.
    pub roc_auc: f64,
    /// Of average precision.
    pub average_precision: f64,
}

/// Works out both areas in two sweeps.
///
/// # Formula
/// Those of scikit-learn, each row taken twice: as a positive of weight `wp` and as a negative of weight `w(1 − p)`. The
/// variance is `Σ w² p(1 − p) d²` with the derivatives d by p (Hájek's projection). With P and N the expected weights, and A(s) and
/// T(s) those of positives and of all at or above s:
/// `d AUC = (N below + ½ N at − P above − ½ P at)/PN − AUC (1/P − 1/N)`,
/// `d AP = (A(s)/T(s) + Σ_{s' ≤ s} wp/T(s') − AP)/P`.
/// # Source
/// NannyML's CBPE for the values. Both take a row for its own partner in a tie, which is as much as one row in all.
/// # Inputs
/// `sweep`: the runs by ascending score, as often as it is asked, each with whatever `each` wants to know with its slopes.
pub fn areas<T, I: Iterator<Item = (ExpectedRun, T)>>(
    sweep: impl Fn() -> I,
    mut each: impl FnMut(&T, Slopes),
) -> Areas {
    let (mut all_positives, mut all_negatives) = (DoubledSum::default(), DoubledSum::default());
    for (run, _) in sweep() {
        all_positives.push(run.positives);
        all_negatives.push(run.negatives);
    }
    let (positives, negatives) = (all_positives.value(), all_negatives.value());
    if positives <= 0.0 {
        return Areas { roc_auc: None, average_precision: None };
    }
    let (mut pairs, mut steps) = (DoubledSum::default(), DoubledSum::default());
    let mut below = Below::default();
    for (run, _) in sweep() {
        pairs.push(run.positives * (below.negatives + run.negatives / 2.0));
        steps.push(run.positives * below.precision(positives, negatives));
        below.add(&run);
    }
    let auc = if negatives > 0.0 { Some((pairs.value() / (positives * negatives)).clamp(0.0, 1.0)) } else { None };
    let precision = (steps.value() / positives).min(1.0);
    let mut variances = [DoubledSum::default(); 2];
    let mut below = Below::default();
    let mut gained = 0.0;
    for (run, what) in sweep() {
        let all_above = positives + negatives - below.positives - below.negatives;
        if all_above > 0.0 {
            gained += run.positives / all_above;
        }
        let above = (positives - below.positives - run.positives).max(0.0);
        let slopes = Slopes {
            roc_auc: auc.map_or(0.0, |auc| {
                let beaten = below.negatives + run.negatives / 2.0 - above - run.positives / 2.0;
                beaten / (positives * negatives) - auc * (1.0 / positives - 1.0 / negatives)
            }),
            average_precision: (below.precision(positives, negatives) + gained - precision) / positives,
        };
        variances[0].push(run.spread * slopes.roc_auc * slopes.roc_auc);
        variances[1].push(run.spread * slopes.average_precision * slopes.average_precision);
        each(&what, slopes);
        below.add(&run);
    }
    let area = |value: f64, variance: DoubledSum| Area { value, variance: variance.value().max(0.0) };
    Areas { roc_auc: auc.map(|auc| area(auc, variances[0])), average_precision: Some(area(precision, variances[1])) }
}

/// The weights below a score.
#[derive(Default)]
struct Below {
    positives: f64,
    negatives: f64,
}

impl Below {
    /// The precision of all at or above.
    fn precision(&self, positives: f64, negatives: f64) -> f64 {
        let (above, others) = ((positives - self.positives).max(0.0), (negatives - self.negatives).max(0.0));
        if above + others > 0.0 { above / (above + others) } else { 0.0 }
    }

    fn add(&mut self, run: &ExpectedRun) {
        self.positives += run.positives;
        self.negatives += run.negatives;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn runs(shares: &[f64]) -> Vec<(ExpectedRun, ())> {
        shares.iter().map(|p| (ExpectedRun { positives: *p, negatives: 1.0 - p, spread: p * (1.0 - p) }, ())).collect()
    }

    fn values(shares: &[f64]) -> [f64; 2] {
        let areas = areas(|| runs(shares).into_iter(), |(), _| {});
        [areas.roc_auc.expect("both").value, areas.average_precision.expect("positives").value]
    }

    #[test]
    fn sure_rows_have_the_realised_areas_and_no_variance() {
        // scikit-learn's own example: scores .1, .35, .4, .8 of 0, 1, 0, 1.
        let sure = areas(|| runs(&[0.0, 1.0, 0.0, 1.0]).into_iter(), |(), _| {});
        assert_eq!(sure.roc_auc, Some(Area { value: 0.75, variance: 0.0 }));
        assert!((sure.average_precision.expect("positives").value - 0.8333333333333333).abs() < 1e-15);
        assert_eq!(
            areas(|| runs(&[0.0, 0.0]).into_iter(), |(), _| {}),
            Areas { roc_auc: None, average_precision: None }
        );
        let positive = areas(|| runs(&[1.0, 1.0]).into_iter(), |(), _| {});
        assert_eq!((positive.roc_auc, positive.average_precision.map(|area| area.value)), (None, Some(1.0)));
    }

    #[test]
    fn slopes_are_the_derivatives() {
        let shares = [0.1, 0.3, 0.2, 0.55, 0.7, 0.65, 0.9];
        let mut slopes = Vec::new();
        areas(|| runs(&shares).into_iter(), |(), slope| slopes.push(slope));
        for at in 0..shares.len() {
            let step = 1e-6;
            let moved = |by: f64| {
                let mut moved = shares;
                moved[at] += by;
                values(&moved)
            };
            let (up, down) = (moved(step), moved(-step));
            let numeric = [(up[0] - down[0]) / (2.0 * step), (up[1] - down[1]) / (2.0 * step)];
            assert!((slopes[at].roc_auc - numeric[0]).abs() < 1e-8, "{at}: {:?} {numeric:?}", slopes[at]);
            assert!((slopes[at].average_precision - numeric[1]).abs() < 1e-8, "{at}: {:?} {numeric:?}", slopes[at]);
        }
    }
}
