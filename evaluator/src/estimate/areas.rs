//! The areas under the ROC and the precision-recall curve that are to be expected of rows whose labels are not known.

use super::Reach;
use crate::metrics::exact_sum::DoubledSum;

/// All rows that share one score, or one bin of scores.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ExpectedRun {
    /// Weight that is expected to be positive.
    pub positives: f64,
    /// Weight that is expected to be negative.
    pub negatives: f64,
    /// The variance of the former: `Σ w² p(1 − p)`.
    pub spread: f64,
    /// Where the former lies for sure, whatever scores the rows of a bin have.
    pub reach: Reach,
    /// Whether they share one score.
    pub is_one_value: bool,
}

impl ExpectedRun {
    /// All rows.
    fn weight(&self) -> f64 {
        self.positives + self.negatives
    }
}

/// An area and its variance by the chance in the labels.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Area {
    /// The area.
    pub value: f64,
    /// Its variance.
    pub variance: f64,
    /// How far it may be off, for scores of a bin are taken for one another.
    pub bound: f64,
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
///
/// How far they may be off is bounded by [`off_roc_auc`] and [`off_average_precision`].
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
    let mut off = Off::default();
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
        off.add(&run, slopes.roc_auc);
        variances[0].push(run.spread * slopes.roc_auc * slopes.roc_auc);
        variances[1].push(run.spread * slopes.average_precision * slopes.average_precision);
        each(&what, slopes);
        below.add(&run);
    }
    let area =
        |value: f64, variance: DoubledSum, bound: f64| Area { value, variance: variance.value().max(0.0), bound };
    let (off_auc, off_precision) = if off.are_bins {
        let off_auc = auc.map_or(0.0, |auc| off.roc_auc(auc, positives, negatives));
        (off_auc, off_average_precision(sweep().map(|(run, _)| run), &off, (precision, positives, negatives)))
    } else {
        (0.0, 0.0)
    };
    Areas {
        roc_auc: auc.map(|auc| area(auc, variances[0], off_auc)),
        average_precision: Some(area(precision, variances[1], off_precision)),
    }
}

/// What scores within bins may change in the areas.
#[derive(Default)]
struct Off {
    /// Expected positives, at least and at most.
    least: DoubledSum,
    most: DoubledSum,
    /// How far the positives of bins may be off, all together.
    all: DoubledSum,
    /// The same, each as the area under the ROC curve moves with it.
    by_slope: DoubledSum,
    /// Pairs within bins that may be in order, beside one half of them.
    pairs: DoubledSum,
    are_bins: bool,
}

impl Off {
    fn add(&mut self, run: &ExpectedRun, slope: f64) {
        self.least.push(run.reach.least);
        self.most.push(run.reach.most);
        let off = run.reach.off(run.positives);
        self.all.push(off);
        self.by_slope.push(off * slope.abs());
        self.pairs.push((run.reach.most - run.reach.least) * run.weight() / 8.0);
        self.are_bins |= !run.is_one_value;
    }

    /// How far the area under the ROC curve may be off.
    ///
    /// # Formula
    /// Let bin b have `δ_b` more positives than is taken, `|δ_b| ≤ d_b`, D their sum, A the area, X its pairs. Then
    /// `X' − A P'N' = Σ δ_b (∂A/∂b) PN + (Σ δ_b)² (A − ½) + e`; and e, for rows of a bin go from its least share to its
    /// most, is between 0 and `Σ w² (most − least)/8`: half of the difference of each two, the most where half of the rows have either. All is divided
    /// by the least P'N'.
    fn roc_auc(&self, area: f64, positives: f64, negatives: f64) -> f64 {
        let (off, pairs) = (self.all.value(), positives * negatives);
        let least = ((positives - off) * (negatives + off)).min((positives + off) * (negatives - off));
        let anything = area.max(1.0 - area);
        if positives <= off || negatives <= off || least <= 0.0 {
            return anything;
        }
        let moved = self.by_slope.value() * pairs + off * off * (area - 0.5).abs() + self.pairs.value();
        (moved / least).min(anything)
    }
}

/// How far average precision may be off.
///
/// # Formula
/// Above a bin of weight w lie T rows, and of them between A₁ and A₂ positives. The precision at a row of the bin is `(A + x)/(T + t)` for some t up to w, and x between `p₁ t`
/// and `p₂ t`; so it lies between the smaller of `A₁/T` and `(A₁ + p₁ w)/(T + w)` and the larger of `A₂/T` and `(A₂ + p₂ w)/(T + w)`. Where all rows have one score, it is the latter
/// of either. The value is the mean of these by positives: `AP' − AP = Σ P'_b (precision_b − AP)/P'`, each term at its least or its most.
fn off_average_precision(
    sweep: impl Iterator<Item = ExpectedRun>,
    off: &Off,
    (area, positives, negatives): (f64, f64, f64),
) -> f64 {
    let (least, most) = (off.least.value(), off.most.value());
    let (mut below, mut below_least, mut below_most) =
        (DoubledSum::default(), DoubledSum::default(), DoubledSum::default());
    let mut moved = [DoubledSum::default(); 2];
    for run in sweep {
        let weight = run.weight();
        below.push(weight);
        below_least.push(run.reach.least);
        below_most.push(run.reach.most);
        let above = (positives + negatives - below.value()).max(0.0);
        let precision = |all: f64, below: f64, own: f64| {
            let of_above = (all - below).clamp(0.0, above);
            let with_own = (of_above + own) / (above + weight);
            let without = if above > 0.0 { of_above / above } else { own / weight };
            (if run.is_one_value { with_own } else { without }, with_own)
        };
        let (first, last) = precision(least, below_least.value(), run.reach.least);
        let lowest = first.min(last) - area;
        moved[0].push(lowest * if lowest > 0.0 { run.reach.least } else { run.reach.most });
        let (first, last) = precision(most, below_most.value(), run.reach.most);
        let highest = first.max(last) - area;
        moved[1].push(highest * if highest > 0.0 { run.reach.most } else { run.reach.least });
    }
    let anything = area.max(1.0 - area);
    if least <= 0.0 {
        return anything;
    }
    ((-moved[0].value()).max(moved[1].value()) / least).clamp(0.0, anything)
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
        shares
            .iter()
            .map(|p| {
                (
                    ExpectedRun {
                        positives: *p,
                        negatives: 1.0 - p,
                        spread: p * (1.0 - p),
                        reach: Reach::of(*p),
                        is_one_value: true,
                    },
                    (),
                )
            })
            .collect()
    }

    fn values(shares: &[f64]) -> [f64; 2] {
        let areas = areas(|| runs(shares).into_iter(), |(), _| {});
        [areas.roc_auc.expect("both").value, areas.average_precision.expect("positives").value]
    }

    #[test]
    fn sure_rows_have_the_realised_areas_and_no_variance() {
        // scikit-learn's own example: scores .1, .35, .4, .8 of 0, 1, 0, 1.
        let sure = areas(|| runs(&[0.0, 1.0, 0.0, 1.0]).into_iter(), |(), _| {});
        assert_eq!(sure.roc_auc, Some(Area { value: 0.75, variance: 0.0, bound: 0.0 }));
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
