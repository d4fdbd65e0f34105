//! Metrics of predicted against actual classes.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    Cell, Estimate, ExactSum, Outcome, Report, Undefined,
    scores::{bare_ratio, rate},
};

/// Rows by actual and predicted class. Classes are compared as text; putting it into canonical form is the decoder's work.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Confusion {
    cells: BTreeMap<(String, String), u64>,
}

/// One class against the rest.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct OneVsRest {
    /// Actual and predicted.
    pub true_positives: u64,
    /// Predicted, not actual.
    pub false_positives: u64,
    /// Actual, not predicted.
    pub false_negatives: u64,
    /// Neither.
    pub true_negatives: u64,
}

impl Confusion {
    /// Adds `count` rows of one cell.
    pub fn push(&mut self, actual: &str, predicted: &str, count: u64) {
        if count > 0 {
            *self.cells.entry((actual.to_owned(), predicted.to_owned())).or_default() += count;
        }
    }

    /// Adds another matrix.
    pub fn merge(&mut self, other: &Self) {
        for ((actual, predicted), count) in &other.cells {
            self.push(actual, predicted, *count);
        }
    }

    /// All rows.
    pub fn rows(&self) -> u64 {
        self.cells.values().sum()
    }

    /// The classes that occur in labels or predictions, in text order.
    pub fn classes(&self) -> BTreeSet<&str> {
        self.cells.keys().flat_map(|(actual, predicted)| [actual.as_str(), predicted.as_str()]).collect()
    }

    /// The cells with rows, by actual, then predicted class.
    pub fn cells(&self) -> Vec<Cell> {
        self.cells
            .iter()
            .map(|((actual, predicted), count)| Cell {
                actual: actual.clone(),
                predicted: predicted.clone(),
                count: *count as i64,
            })
            .collect()
    }

    /// One class against the rest.
    pub fn one_vs_rest(&self, class: &str) -> OneVsRest {
        let mut counts = OneVsRest::default();
        for ((actual, predicted), count) in &self.cells {
            *match (actual == class, predicted == class) {
                (true, true) => &mut counts.true_positives,
                (false, true) => &mut counts.false_positives,
                (true, false) => &mut counts.false_negatives,
                (false, false) => &mut counts.true_negatives,
            } += count;
        }
        counts
    }

    /// Share of rows whose prediction is the label, with Wilson's interval.
    pub fn accuracy(&self) -> Outcome {
        rate(self.hits(), self.rows()).map_err(|_| Undefined::NoRows)
    }

    /// Mean recall of the classes that occur in the labels.
    ///
    /// # Returns
    /// `one_class` when the labels are all of one class: its recall alone would be no balance.
    pub fn balanced_accuracy(&self) -> Outcome {
        if self.rows() == 0 {
            return Err(Undefined::NoRows);
        }
        let actual = self.actual_counts();
        if actual.len() < 2 {
            return Err(Undefined::OneClass);
        }
        let recalls: ExactSum =
            actual.iter().map(|(class, rows)| self.one_vs_rest(class).true_positives as f64 / *rows as f64).collect();
        Ok(Estimate::bare(recalls.value() / actual.len() as f64))
    }

    /// Matthews' correlation of labels and predictions.
    ///
    /// # Formula
    /// `(c·s − Σ pₖtₖ) / √((s² − Σ pₖ²)(s² − Σ tₖ²))`: c hits, s rows, tₖ labels and pₖ predictions of class k.
    /// # Source
    /// Matthews (1975); Gorodkin (2004) for more than two classes.
    /// # Returns
    /// `one_class` when the labels, `zero_denominator` when the predictions are all of one class.
    pub fn matthews_corrcoef(&self) -> Outcome {
        if self.rows() == 0 {
            return Err(Undefined::NoRows);
        }
        let (actual, predicted) = (self.actual_counts(), self.predicted_counts());
        if actual.len() < 2 {
            return Err(Undefined::OneClass);
        }
        if predicted.len() < 2 {
            return Err(Undefined::ZeroDenominator);
        }
        let square = |n: u64| i128::from(n) * i128::from(n);
        let rows = square(self.rows());
        let both: i128 =
            actual.iter().map(|(class, n)| i128::from(*n) * i128::from(*predicted.get(class).unwrap_or(&0))).sum();
        let covariance = i128::from(self.hits()) * i128::from(self.rows()) - both;
        let predicted_variance = rows - predicted.values().map(|n| square(*n)).sum::<i128>();
        let actual_variance = rows - actual.values().map(|n| square(*n)).sum::<i128>();
        let value = covariance as f64 / ((predicted_variance as f64).sqrt() * (actual_variance as f64).sqrt());
        Ok(Estimate::bare(value.clamp(-1.0, 1.0)))
    }

    /// Precision, recall, F1 and specificity of every class, then their macro, weighted and micro averages.
    ///
    /// A macro average is over the classes that occur in labels or predictions; a class without a defined value counts
    /// as 0 there, while its own row is null with the reason. Weights are the labels of each class.
    pub fn report_by_class(&self, report: &mut Report) {
        let classes: Vec<(&str, OneVsRest)> =
            self.classes().into_iter().map(|class| (class, self.one_vs_rest(class))).collect();
        for (metric, of) in RATES {
            for (class, counts) in &classes {
                report.add(metric, Some(class), of(counts));
            }
        }
        for (metric, of) in RATES {
            let (macro_average, weighted, micro) = average(&classes, of);
            report.add(&format!("{metric}_macro"), None, macro_average);
            report.add(&format!("{metric}_weighted"), None, weighted);
            report.add(&format!("{metric}_micro"), None, micro);
        }
    }

    fn hits(&self) -> u64 {
        self.cells.iter().filter(|((actual, predicted), _)| actual == predicted).map(|(_, count)| count).sum()
    }

    fn actual_counts(&self) -> BTreeMap<&str, u64> {
        let mut counts = BTreeMap::new();
        for ((actual, _), count) in &self.cells {
            *counts.entry(actual.as_str()).or_default() += count;
        }
        counts
    }

    fn predicted_counts(&self) -> BTreeMap<&str, u64> {
        let mut counts = BTreeMap::new();
        for ((_, predicted), count) in &self.cells {
            *counts.entry(predicted.as_str()).or_default() += count;
        }
        counts
    }
}

/// The per-class rates, by published name.
#[allow(clippy::type_complexity)] // a name beside its function
pub const RATES: [(&str, fn(&OneVsRest) -> Outcome); 4] = [
    ("precision", OneVsRest::precision),
    ("recall", OneVsRest::recall),
    ("f1", OneVsRest::f1),
    ("specificity", OneVsRest::specificity),
];

impl OneVsRest {
    /// Adds another count.
    pub fn merge(&mut self, other: &Self) {
        self.true_positives += other.true_positives;
        self.false_positives += other.false_positives;
        self.false_negatives += other.false_negatives;
        self.true_negatives += other.true_negatives;
    }

    /// All rows.
    pub fn rows(&self) -> u64 {
        self.true_positives + self.false_positives + self.false_negatives + self.true_negatives
    }

    /// `TP / (TP + FP)`.
    pub fn precision(&self) -> Outcome {
        rate(self.true_positives, self.true_positives + self.false_positives)
    }

    /// `TP / (TP + FN)`.
    pub fn recall(&self) -> Outcome {
        rate(self.true_positives, self.true_positives + self.false_negatives)
    }

    /// `TN / (TN + FP)`.
    pub fn specificity(&self) -> Outcome {
        rate(self.true_negatives, self.true_negatives + self.false_positives)
    }

    /// `2 TP / (2 TP + FP + FN)`.
    pub fn f1(&self) -> Outcome {
        let hits = 2 * self.true_positives;
        bare_ratio(hits, hits + self.false_positives + self.false_negatives)
    }
}

fn average(classes: &[(&str, OneVsRest)], of: fn(&OneVsRest) -> Outcome) -> (Outcome, Outcome, Outcome) {
    let mut all = OneVsRest::default();
    let (mut sum, mut weighted) = (ExactSum::default(), ExactSum::default());
    for (_, counts) in classes {
        let value = of(counts).map_or(0.0, |estimate| estimate.value);
        sum.push(value);
        weighted.push(value * (counts.true_positives + counts.false_negatives) as f64);
        all.merge(counts);
    }
    let rows = all.true_positives + all.false_negatives;
    if rows == 0 {
        return (Err(Undefined::NoRows), Err(Undefined::NoRows), Err(Undefined::NoRows));
    }
    // The pooled rows of a micro average are not independent, so Wilson's interval does not hold for it.
    let micro = of(&all).map(|estimate| Estimate::bare(estimate.value));
    (Ok(Estimate::bare(sum.value() / classes.len() as f64)), Ok(Estimate::bare(weighted.value() / rows as f64)), micro)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn matrix(cells: &[(&str, &str, u64)]) -> Confusion {
        let mut confusion = Confusion::default();
        for (actual, predicted, count) in cells {
            confusion.push(actual, predicted, *count);
        }
        confusion
    }

    fn value(outcome: Outcome) -> Result<f64, Undefined> {
        outcome.map(|estimate| estimate.value)
    }

    #[test]
    fn hand_worked_binary() {
        let confusion = matrix(&[("1", "1", 3), ("0", "1", 1), ("1", "0", 2), ("0", "0", 4)]);
        let positive = confusion.one_vs_rest("1");
        assert_eq!(value(confusion.accuracy()), Ok(0.7));
        assert_eq!(value(positive.precision()), Ok(0.75));
        assert_eq!(value(positive.recall()), Ok(0.6));
        assert_eq!(value(positive.specificity()), Ok(0.8));
        assert_eq!(value(positive.f1()), Ok(6.0 / 9.0));
        assert_eq!(value(confusion.balanced_accuracy()), Ok(0.7));
        assert!((value(confusion.matthews_corrcoef()).expect("defined") - 10.0 / 600.0_f64.sqrt()).abs() < 1e-15);
    }

    #[test]
    fn e3_undefined_has_a_reason() {
        let empty = Confusion::default();
        assert_eq!(value(empty.accuracy()), Err(Undefined::NoRows));
        assert_eq!(value(empty.matthews_corrcoef()), Err(Undefined::NoRows));
        let one_class = matrix(&[("0", "0", 5), ("0", "1", 1)]);
        assert_eq!(value(one_class.balanced_accuracy()), Err(Undefined::OneClass));
        assert_eq!(value(one_class.matthews_corrcoef()), Err(Undefined::OneClass));
        assert_eq!(value(one_class.one_vs_rest("1").recall()), Err(Undefined::ZeroDenominator));
        assert_eq!(value(one_class.one_vs_rest("1").precision()), Ok(0.0));
        let constant = matrix(&[("0", "0", 5), ("1", "0", 1)]);
        assert_eq!(value(constant.matthews_corrcoef()), Err(Undefined::ZeroDenominator));
        assert_eq!(value(constant.one_vs_rest("1").precision()), Err(Undefined::ZeroDenominator));
    }

    #[test]
    fn a_class_without_precision_counts_as_zero_in_the_macro_average_only() {
        // "c" is never predicted: its precision is undefined.
        let confusion = matrix(&[("a", "a", 2), ("b", "b", 1), ("b", "a", 1), ("c", "a", 1)]);
        let mut report = Report::default();
        confusion.report_by_class(&mut report);
        let c = report.metrics.iter().find(|r| r.metric == "precision" && r.class.as_deref() == Some("c"));
        assert_eq!(c.and_then(|r| r.reason), Some(Undefined::ZeroDenominator));
        let of = |name| report.get(name).and_then(|r| r.value);
        assert_eq!(of("precision_macro"), Some((0.5 + 1.0) / 3.0));
        assert_eq!(of("precision_micro"), Some(0.6));
        assert_eq!(of("recall_weighted"), Some((1.0 * 2.0 + 0.5 * 2.0) / 5.0));
    }

    proptest! {
        #[test]
        fn e1_confusion_merges(cells in prop::collection::vec((0_u8..4, 0_u8..4, 0_u64..9), 0..30), cut in 0_usize..30) {
            let text: Vec<(String, String, u64)> =
                cells.iter().map(|(a, p, n)| (a.to_string(), p.to_string(), *n)).collect();
            let cells: Vec<(&str, &str, u64)> = text.iter().map(|(a, p, n)| (a.as_str(), p.as_str(), *n)).collect();
            let cut = cut.min(cells.len());
            let (mut left, right) = (matrix(&cells[..cut]), matrix(&cells[cut..]));
            let mut swapped = right.clone();
            swapped.merge(&left);
            left.merge(&right);
            prop_assert_eq!(&left, &swapped);
            prop_assert_eq!(left, matrix(&cells));
        }
    }
}
