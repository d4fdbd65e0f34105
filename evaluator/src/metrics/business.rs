//! What the decisions of a binary model were worth.

use driftline_schemas::config::CostMatrix;

use super::{
    Cell, Estimate, ExactSum, Outcome, Undefined,
    binary::POSITIVE,
    interval::{Interval, Method, ROWS_MIN, Warning, mean},
};

/// Name of the value of all decisions together.
pub const TOTAL: &str = "business_value";
/// Name of the value of one.
pub const MEAN: &str = "business_value_mean";

/// `business_value` and `business_value_mean`, in the unit of the cost matrix.
///
/// # Formula
/// `Σ w·c` and `Σ w·c / Σ w` over labelled rows with a prediction, c the worth of the row's cell. The mean has Hall's interval on
/// Kish's effective rows, the total that of the mean times `Σ w`: it says what as many decisions would be worth.
/// # Inputs
/// The cells of a binary report.
/// # Returns
/// The baseline is the better of always and never predicting the positive class. `no_rows` without a row.
pub fn business_value(cells: &[Cell], cost: &CostMatrix) -> [(&'static str, Outcome); 2] {
    let worth = |cell: &Cell| match (cell.actual == POSITIVE, cell.predicted == POSITIVE) {
        (true, true) => cost.tp,
        (false, true) => cost.fp,
        (true, false) => cost.missed,
        (false, false) => cost.tn,
    };
    let sum = |of: &dyn Fn(&Cell) -> f64| cells.iter().map(of).collect::<ExactSum>().value();
    let weight = sum(&|cell| cell.weight);
    if weight <= 0.0 {
        return [(TOTAL, Err(Undefined::NoRows)), (MEAN, Err(Undefined::NoRows))];
    }
    let value = sum(&|cell| cell.weight * worth(cell)) / weight;
    let constant = |positive: bool| {
        let worth = |cell: &Cell| match (cell.actual == POSITIVE, positive) {
            (true, true) => cost.tp,
            (false, true) => cost.fp,
            (true, false) => cost.missed,
            (false, false) => cost.tn,
        };
        sum(&|cell| cell.weight * worth(cell)) / weight
    };
    let mut estimate = Estimate::bare(value).with_baseline(constant(true).max(constant(false)));
    let rows = weight * (weight / sum(&|cell| cell.squares));
    let central = |power: i32| sum(&|cell| cell.weight * (worth(cell) - value).powi(power)) / weight;
    let variance = central(2);
    if rows > 1.0 && variance > 0.0 {
        let skewness = central(3) / variance.powf(1.5);
        let deviation = (variance * rows / (rows - 1.0)).sqrt();
        let interval = Interval::new(mean(value, deviation, skewness, rows), Method::HallT).on_rows(rows);
        estimate =
            estimate.with_interval(interval.on_skewness(skewness, rows)).with_error(deviation / rows.sqrt(), rows);
    } else if rows > 1.0 {
        // All decisions were worth the same: how much they may differ is not to be seen.
        let warning = if rows < ROWS_MIN { Warning::FewRows } else { Warning::Skewed };
        estimate = estimate.with_interval(Interval::new((value, value), Method::HallT).warned(warning));
    }
    let total = Estimate {
        interval: estimate.interval.map(|interval| interval.map(|end| end * weight)),
        baseline: estimate.baseline.map(|baseline| baseline * weight),
        ..Estimate::bare(sum(&|cell| cell.weight * worth(cell)))
    };
    [(TOTAL, Ok(total)), (MEAN, Ok(estimate))]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::binary::NEGATIVE;

    const COST: CostMatrix = CostMatrix { tp: 90.0, fp: -10.0, missed: -100.0, tn: 0.5 };

    fn cell(actual: bool, predicted: bool, count: i64) -> Cell {
        let name = |positive| if positive { POSITIVE } else { NEGATIVE }.to_owned();
        Cell { actual: name(actual), predicted: name(predicted), count, weight: count as f64, squares: count as f64 }
    }

    #[test]
    fn hand_worked() {
        let cells = [cell(true, true, 6), cell(false, true, 10), cell(true, false, 4), cell(false, false, 80)];
        let [(_, total), (_, mean)] = business_value(&cells, &COST);
        let (total, mean) = (total.expect("rows"), mean.expect("rows"));
        // 540 − 100 − 400 + 40.
        assert_eq!((total.value, mean.value), (80.0, 0.8));
        // Never: 10 misses and 90 right; always: 10 hits and 90 false alarms.
        assert_eq!((total.baseline, mean.baseline), (Some(0.0), Some(0.0)));
        let interval = mean.interval.expect("rows");
        assert!(interval.low < 0.8 && 0.8 < interval.high);
        let of_total = total.interval.expect("rows");
        assert!(
            (of_total.low - 100.0 * interval.low).abs() < 1e-9 && (of_total.high - 100.0 * interval.high).abs() < 1e-9
        );
        // numpy.std([90]*6 + [-10]*10 + [-100]*4 + [.5]*80, ddof=1) / 10
        assert!((mean.error.expect("rows").value - 3.007666970603728).abs() < 1e-9, "{:?}", mean.error);
    }

    #[test]
    fn rows_that_stand_for_four_are_no_four_rows() {
        let kept =
            |count: i64| Cell { weight: 4.0 * count as f64, squares: 16.0 * count as f64, ..cell(true, true, count) };
        let cells = [kept(10), Cell { predicted: NEGATIVE.to_owned(), ..kept(5) }];
        let [(_, total), (_, mean)] = business_value(&cells, &COST);
        let (total, mean) = (total.expect("rows"), mean.expect("rows"));
        assert_eq!((total.value, mean.error.expect("rows").rows), (4.0 * (900.0 - 500.0), 15.0));
        // numpy.std([90]*10 + [-100]*5, ddof=1) / sqrt(15)
        assert!((mean.error.expect("rows").value - 23.937749957251054).abs() < 1e-9, "{:?}", mean.error);
    }

    #[test]
    fn e3_without_rows_there_is_a_reason_and_alike_rows_a_warning() {
        assert!(business_value(&[], &COST).iter().all(|(_, outcome)| *outcome == Err(Undefined::NoRows)));
        let [_, (_, mean)] = business_value(&[cell(true, true, 30)], &COST);
        let interval = mean.expect("rows").interval.expect("rows");
        assert_eq!((interval.low, interval.high, interval.warning.is_some()), (90.0, 90.0, true));
        let [_, (_, one)] = business_value(&[cell(true, true, 1)], &COST);
        assert_eq!(one.expect("rows").interval, None);
    }
}
