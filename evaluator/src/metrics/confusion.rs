//! Metrics of predicted against actual classes.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    Cell, Estimate, ExactSum, OTHER, Outcome, Report, Undefined,
    interval::{Interval, Method, effective_rows, fisher, mover, wilson},
    mass::Mass,
    one_vs_rest::{Differential, OneVsRest, Rate},
};

/// Rows by actual and predicted class. Classes are compared as text; putting it into canonical form is the decoder's work.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Confusion {
    cells: BTreeMap<(String, String), Mass>,
}

/// The weight of each class, and of the hits: what the metrics of the whole matrix are made of.
struct Margins<'a> {
    actual: BTreeMap<&'a str, Mass>,
    predicted: BTreeMap<&'a str, Mass>,
    /// Hits of each class of labels or predictions.
    hits_of: BTreeMap<&'a str, Mass>,
    hits: Mass,
    misses: Mass,
}

impl Confusion {
    /// Adds rows to one cell.
    pub fn push(&mut self, actual: &str, predicted: &str, rows: Mass) {
        if rows.rows() > 0 {
            self.cells.entry((actual.to_owned(), predicted.to_owned())).or_default().merge(&rows);
        }
    }

    /// Adds another matrix.
    pub fn merge(&mut self, other: &Self) {
        for ((actual, predicted), rows) in &other.cells {
            self.push(actual, predicted, *rows);
        }
    }

    /// All rows.
    pub fn rows(&self) -> u64 {
        self.cells.values().map(Mass::rows).sum()
    }

    /// The classes that occur in labels or predictions, in text order.
    pub fn classes(&self) -> BTreeSet<&str> {
        self.cells.keys().flat_map(|(actual, predicted)| [actual.as_str(), predicted.as_str()]).collect()
    }

    /// The cells with rows, by actual, then predicted class.
    pub fn cells(&self) -> Vec<Cell> {
        let cell = |((actual, predicted), rows): (&(String, String), &Mass)| Cell {
            actual: actual.clone(),
            predicted: predicted.clone(),
            count: rows.rows() as i64,
            weight: rows.weight(),
            squares: rows.squares(),
        };
        self.cells.iter().map(cell).collect()
    }

    /// One class against the rest.
    pub fn one_vs_rest(&self, class: &str) -> OneVsRest {
        let mut counts = OneVsRest::default();
        for ((actual, predicted), rows) in &self.cells {
            counts.cell_mut(actual == class, predicted == class).merge(rows);
        }
        counts
    }

    /// The metrics of the whole matrix, by published name.
    pub fn report_whole(&self, report: &mut Report, nothing: Undefined) {
        let margins = self.margins();
        for (name, outcome) in [
            ("accuracy", self.accuracy(&margins)),
            ("balanced_accuracy", self.balanced_accuracy(&margins)),
            ("matthews_corrcoef", self.matthews_corrcoef(&margins)),
            ("cohen_kappa", self.cohen_kappa(&margins)),
        ] {
            report.add(name, None, if self.cells.is_empty() { Err(nothing) } else { outcome });
        }
    }

    /// Every rate of every class, then its macro, weighted and micro averages.
    ///
    /// A macro average is over the classes that occur in labels or predictions; a class without a defined value counts
    /// as 0 there, while its own row is null with the reason. Weights are the labels of each class.
    pub fn report_by_class(&self, report: &mut Report) {
        let mut classes: BTreeMap<&str, OneVsRest> = BTreeMap::new();
        let margins = self.margins();
        let all = margins.hits.with(margins.misses);
        for class in self.classes() {
            let none = Mass::default();
            let hits = self.cells.get(&(class.to_owned(), class.to_owned())).copied().unwrap_or_default();
            let actual = margins.actual.get(class).unwrap_or(&none);
            let predicted = margins.predicted.get(class).unwrap_or(&none);
            let counts = OneVsRest {
                true_positives: hits,
                false_negatives: actual.without(hits),
                false_positives: predicted.without(hits),
                true_negatives: all.without(actual.with(*predicted).without(hits)),
            };
            classes.insert(class, counts);
        }
        for rate in Rate::ALL {
            for (class, counts) in &classes {
                report.add(rate.name(), Some(class), counts.value(rate));
            }
        }
        for rate in Rate::ALL {
            let [macro_average, weighted, micro] = self.averages(&classes, rate);
            report.add(&format!("{}_macro", rate.name()), None, macro_average);
            report.add(&format!("{}_weighted", rate.name()), None, weighted);
            report.add(&format!("{}_micro", rate.name()), None, micro);
        }
    }

    fn margins(&self) -> Margins<'_> {
        let mut margins = Margins {
            actual: BTreeMap::new(),
            predicted: BTreeMap::new(),
            hits_of: BTreeMap::new(),
            hits: Mass::default(),
            misses: Mass::default(),
        };
        for ((actual, predicted), rows) in &self.cells {
            margins.actual.entry(actual.as_str()).or_default().merge(rows);
            margins.predicted.entry(predicted.as_str()).or_default().merge(rows);
            margins.hits_of.entry(predicted.as_str()).or_default();
            let hits_of = margins.hits_of.entry(actual.as_str()).or_default();
            if actual == predicted {
                hits_of.merge(rows);
            }
            if actual == predicted { &mut margins.hits } else { &mut margins.misses }.merge(rows);
        }
        margins
    }

    /// Share of rows whose prediction is the label, with Wilson's interval.
    fn accuracy(&self, margins: &Margins<'_>) -> Outcome {
        let all = margins.hits.with(margins.misses);
        if all.rows() == 0 {
            return Err(Undefined::NoRows);
        }
        let value = margins.hits.weight() / all.weight();
        let variance = self.variance(|actual, predicted| (f64::from(actual == predicted) - value) / all.weight());
        let rows = effective_rows(value, variance, all.effective_rows());
        let interval = Interval::new(wilson(value, rows), Method::Wilson).on_rows(rows).on_hits(value, rows);
        Ok(Estimate::bare(value).with_interval(interval).with_baseline(margins.largest_share()))
    }

    /// Mean recall of the classes that occur in the labels.
    ///
    /// # Returns
    /// `one_class` when the labels are all of one class: its recall alone would be no balance.
    fn balanced_accuracy(&self, margins: &Margins<'_>) -> Outcome {
        if self.cells.is_empty() {
            return Err(Undefined::NoRows);
        }
        if margins.actual.len() < 2 {
            return Err(Undefined::OneClass);
        }
        let (mut recalls, mut scarcest) = (Vec::new(), f64::INFINITY);
        for (class, actual) in &margins.actual {
            let hits = self.cells.get(&((*class).to_owned(), (*class).to_owned())).copied().unwrap_or_default();
            let recall =
                OneVsRest { true_positives: hits, false_negatives: actual.without(hits), ..OneVsRest::default() }
                    .value(Rate::Recall)?;
            let interval = recall.interval.ok_or(Undefined::NoRows)?;
            recalls.push((recall.value, interval.low, interval.high));
            scarcest = scarcest.min(actual.effective_rows());
        }
        let sum: ExactSum = recalls.iter().map(|(recall, _, _)| *recall).collect();
        let interval = Interval::new(mover(&recalls), Method::Mover).on_rows(scarcest);
        let count = recalls.len() as f64;
        Ok(Estimate::bare(sum.value() / count).with_interval(interval).with_baseline(1.0 / count))
    }

    /// Matthews' correlation of labels and predictions.
    ///
    /// # Formula
    /// `(c − Σ pₖtₖ) / √((1 − Σ pₖ²)(1 − Σ tₖ²))`: shares of hits c, of labels tₖ and of predictions pₖ of class k. The
    /// interval is Fisher's, with the delta method's error.
    /// # Source
    /// Matthews (1975); Gorodkin (2004) for more than two classes.
    /// # Returns
    /// `one_class` when the labels, `zero_denominator` when the predictions are all of one class.
    fn matthews_corrcoef(&self, margins: &Margins<'_>) -> Outcome {
        let Shares { hits, chance, actual_spread, predicted_spread, all } = self.shares(margins)?;
        if margins.predicted.len() < 2 {
            return Err(Undefined::ZeroDenominator);
        }
        let scale = (actual_spread * predicted_spread).sqrt();
        let value = ((hits - chance) / scale).clamp(-1.0, 1.0);
        let variance = self.variance(|actual, predicted| {
            let (t_actual, p_predicted) = (margins.actual_share(actual, all), margins.predicted_share(predicted, all));
            let (p_actual, t_predicted) = (margins.predicted_share(actual, all), margins.actual_share(predicted, all));
            let by_hits = f64::from(actual == predicted) - hits - (p_actual + t_predicted - 2.0 * chance);
            let by_actual = -2.0 * (t_actual - (1.0 - actual_spread)) / actual_spread;
            let by_predicted = -2.0 * (p_predicted - (1.0 - predicted_spread)) / predicted_spread;
            (by_hits / scale - value / 2.0 * (by_actual + by_predicted)) / all
        });
        Ok(margins.correlation(value, variance))
    }

    /// Cohen's kappa: agreement beyond what the margins make by chance.
    ///
    /// # Formula
    /// `(c − Σ pₖtₖ) / (1 − Σ pₖtₖ)`, without weights between classes. The interval is on Fisher's scale.
    /// # Source
    /// Cohen (1960); Fleiss, Cohen & Everitt (1969) for the variance.
    /// # Returns
    /// `one_class` when the labels are all of one class.
    fn cohen_kappa(&self, margins: &Margins<'_>) -> Outcome {
        let Shares { hits, chance, all, .. } = self.shares(margins)?;
        let beyond = 1.0 - chance;
        let value = (hits - chance) / beyond;
        let variance = self.variance(|actual, predicted| {
            let by_chance = margins.predicted_share(actual, all) + margins.actual_share(predicted, all) - 2.0 * chance;
            let by_hits = f64::from(actual == predicted) - hits - by_chance;
            (by_hits * beyond + (hits - chance) * by_chance) / (beyond * beyond) / all
        });
        Ok(margins.correlation(value, variance))
    }

    fn shares(&self, margins: &Margins<'_>) -> Result<Shares, Undefined> {
        if self.cells.is_empty() {
            return Err(Undefined::NoRows);
        }
        if margins.actual.len() < 2 {
            return Err(Undefined::OneClass);
        }
        let all = margins.hits.with(margins.misses).weight();
        // 1 − Σ sₖ² as Σ sₖ (1 − sₖ): no digits cancel where one class is nearly all.
        let spread = |of: &BTreeMap<&str, Mass>| -> f64 {
            of.values().map(|rows| rows.weight() / all * ((all - rows.weight()) / all)).sum()
        };
        let both = margins.actual.iter().map(|(class, rows)| rows.weight() / all * margins.predicted_share(class, all));
        Ok(Shares {
            hits: margins.hits.weight() / all,
            chance: both.sum(),
            actual_spread: spread(&margins.actual),
            predicted_spread: spread(&margins.predicted),
            all,
        })
    }

    /// First-order variance of a metric whose derivative by the weight of a cell is `slope`.
    fn variance(&self, slope: impl Fn(&str, &str) -> f64) -> f64 {
        self.cells.iter().map(|((actual, predicted), rows)| rows.squares() * slope(actual, predicted).powi(2)).sum()
    }

    /// The macro, weighted and micro average of a rate.
    fn averages(&self, classes: &BTreeMap<&str, OneVsRest>, rate: Rate) -> [Outcome; 3] {
        let mut pooled = OneVsRest::default();
        for counts in classes.values() {
            pooled.merge(counts);
        }
        let (all, count) = (pooled.actual(), classes.len() as f64);
        if all.rows() == 0 {
            return [Err(Undefined::NoRows); 3];
        }
        // A class without a value counts as 0, and does not move.
        let still = Differential {
            value: 0.0,
            true_positives: 0.0,
            false_positives: 0.0,
            false_negatives: 0.0,
            true_negatives: 0.0,
        };
        let of: BTreeMap<&str, Differential> =
            classes.iter().map(|(class, counts)| (*class, counts.differential(rate).unwrap_or(still))).collect();
        let weight = |class: &str| classes[class].actual().weight() / all.weight();
        let sum = of.values().map(|d| d.value).collect::<ExactSum>().value();
        let weighted =
            of.iter().map(|(class, d)| d.value * classes[class].actual().weight()).collect::<ExactSum>().value();
        let (macro_value, weighted_value) = (sum / count, weighted / all.weight());
        let best = |value: &dyn Fn(&str) -> f64| classes.keys().map(|class| value(class)).fold(f64::NAN, f64::max);
        let constant = |class: &str| constant_prediction(rate, weight(class));
        let estimate = |value: f64, slope: &dyn Fn(&str, &str) -> f64, baseline: f64| {
            let rows = effective_rows(value, self.variance(slope), all.effective_rows());
            let rarer = |counts: &OneVsRest| counts.actual().effective_rows().min(counts.predicted().effective_rows());
            let scarcest = classes.values().map(rarer).fold(f64::INFINITY, f64::min);
            let interval = Interval::new(wilson(value.clamp(0.0, 1.0), rows), Method::WilsonDelta).on_rows(scarcest);
            let estimate = Estimate::bare(value).with_interval(interval);
            if baseline.is_finite() { estimate.with_baseline(baseline) } else { estimate }
        };
        let macro_slope = slope_of(&of, |_| 1.0 / count);
        let weighted_slope = slope_of(&of, weight);
        let by_label = |actual: &str| (of[actual].value - weighted_value) / all.weight();
        let micro = pooled.differential(rate).map(|d| {
            let others = (count - 2.0).max(0.0);
            let slope = move |actual: &str, predicted: &str| {
                if actual == predicted {
                    d.true_positives + (count - 1.0) * d.true_negatives
                } else {
                    d.false_positives + d.false_negatives + others * d.true_negatives
                }
            };
            estimate(d.value, &slope, best(&|class| micro_constant(rate, weight(class), count)))
        });
        [
            Ok(estimate(
                macro_value,
                &macro_slope,
                best(&|class| {
                    let (own, other) = constant(class);
                    (own + (count - 1.0) * other) / count
                }),
            )),
            Ok(estimate(
                weighted_value,
                &|actual, predicted| weighted_slope(actual, predicted) + by_label(actual),
                best(&|class| {
                    let (own, other) = constant(class);
                    weight(class) * own + (1.0 - weight(class)) * other
                }),
            )),
            micro.ok_or(Undefined::ZeroDenominator),
        ]
    }
}

/// Shares of the whole matrix.
struct Shares {
    hits: f64,
    /// Hits that the margins make by chance.
    chance: f64,
    /// `1 − Σ tₖ²`.
    actual_spread: f64,
    /// `1 − Σ pₖ²`.
    predicted_spread: f64,
    /// The weight of all rows.
    all: f64,
}

impl Margins<'_> {
    fn actual_share(&self, class: &str, all: f64) -> f64 {
        self.actual.get(class).map_or(0.0, Mass::weight) / all
    }

    fn predicted_share(&self, class: &str, all: f64) -> f64 {
        self.predicted.get(class).map_or(0.0, Mass::weight) / all
    }

    /// Of one class; those that are not told apart are several.
    fn largest_share(&self) -> f64 {
        let all = self.hits.with(self.misses).weight();
        let classes = self.actual.iter().filter(|(class, _)| **class != OTHER);
        classes.map(|(_, rows)| rows.weight() / all).fold(0.0, f64::max)
    }

    /// A coefficient in `[−1, 1]` with its interval; a constant prediction has none, and counts as 0.
    fn correlation(&self, value: f64, variance: f64) -> Estimate {
        let estimate = Estimate::bare(value).with_baseline(0.0);
        // A class of few hits moves it in steps.
        let scarcest = self.hits_of.values().map(Mass::effective_rows).fold(f64::INFINITY, f64::min);
        if value.abs() >= 1.0 {
            // All hits, or all misses: the effective rows that a share would have.
            let (low, high) = wilson(f64::midpoint(value, 1.0), self.hits.with(self.misses).effective_rows());
            let interval = Interval::new((2.0 * low - 1.0, 2.0 * high - 1.0), Method::Wilson);
            return estimate.with_interval(interval.on_rows(scarcest));
        }
        estimate.with_interval(Interval::new(fisher(value, variance.sqrt()), Method::FisherDelta).on_rows(scarcest))
    }
}

/// The slope of `Σ wₖ fₖ` by the weight of a cell: that of all classes as bystanders, and of the two that the cell names.
fn slope_of<'a>(
    of: &'a BTreeMap<&str, Differential>,
    weight: impl Fn(&str) -> f64 + 'a,
) -> impl Fn(&str, &str) -> f64 + 'a {
    let bystanders: f64 = of.iter().map(|(class, d)| weight(class) * d.true_negatives).sum();
    move |actual, predicted| {
        let (a, p) = (&of[actual], &of[predicted]);
        if actual == predicted {
            return bystanders + weight(actual) * (a.true_positives - a.true_negatives);
        }
        bystanders
            + weight(actual) * (a.false_negatives - a.true_negatives)
            + weight(predicted) * (p.false_positives - p.true_negatives)
    }
}

/// A rate of the class that is always predicted, and of a class that never is.
fn constant_prediction(rate: Rate, share: f64) -> (f64, f64) {
    match rate {
        Rate::Precision | Rate::Jaccard => (share, 0.0),
        Rate::Recall => (1.0, 0.0),
        Rate::Specificity => (0.0, 1.0),
        // Fewer are better: no constant beats another, and the mean over classes says nothing.
        Rate::FalsePositiveRate | Rate::FalseNegativeRate => (f64::NAN, f64::NAN),
        Rate::F1 => (2.0 * share / (1.0 + share), 0.0),
        Rate::F05 => (1.25 * share / (1.0 + 0.25 * share), 0.0),
        Rate::F2 => (5.0 * share / (1.0 + 4.0 * share), 0.0),
    }
}

fn micro_constant(rate: Rate, share: f64, count: f64) -> f64 {
    match rate {
        Rate::Precision | Rate::Recall | Rate::F1 | Rate::F05 | Rate::F2 => share,
        Rate::Jaccard => share / (2.0 - share),
        Rate::Specificity if count > 1.0 => 1.0 - (1.0 - share) / (count - 1.0),
        Rate::Specificity | Rate::FalsePositiveRate | Rate::FalseNegativeRate => f64::NAN,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn matrix(cells: &[(&str, &str, u64)]) -> Confusion {
        let mut confusion = Confusion::default();
        for (actual, predicted, count) in cells {
            confusion.push(actual, predicted, Mass::of_rows(*count));
        }
        confusion
    }

    fn whole(confusion: &Confusion, metric: &str) -> Result<f64, Undefined> {
        let mut report = Report::default();
        confusion.report_whole(&mut report, Undefined::NoRows);
        let row = report.get(metric).expect("a metric of the whole");
        row.value.ok_or_else(|| row.reason.expect("a value or a reason"))
    }

    #[test]
    fn hand_worked_binary() {
        let confusion = matrix(&[("1", "1", 3), ("0", "1", 1), ("1", "0", 2), ("0", "0", 4)]);
        assert_eq!(whole(&confusion, "accuracy"), Ok(0.7));
        assert_eq!(whole(&confusion, "balanced_accuracy"), Ok(0.7));
        assert!((whole(&confusion, "matthews_corrcoef").expect("defined") - 10.0 / 600.0_f64.sqrt()).abs() < 1e-15);
        assert!((whole(&confusion, "cohen_kappa").expect("defined") - 0.4).abs() < 1e-15);
    }

    #[test]
    fn e3_undefined_has_a_reason() {
        let empty = Confusion::default();
        for metric in ["accuracy", "balanced_accuracy", "matthews_corrcoef", "cohen_kappa"] {
            assert_eq!(whole(&empty, metric), Err(Undefined::NoRows));
        }
        let one_class = matrix(&[("0", "0", 5), ("0", "1", 1)]);
        for metric in ["balanced_accuracy", "matthews_corrcoef", "cohen_kappa"] {
            assert_eq!(whole(&one_class, metric), Err(Undefined::OneClass));
        }
        let constant = matrix(&[("0", "0", 5), ("1", "0", 1)]);
        assert_eq!(whole(&constant, "matthews_corrcoef"), Err(Undefined::ZeroDenominator));
        assert_eq!(whole(&constant, "cohen_kappa"), Ok(0.0));
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
        // Always saying "a" or always "b": 2/5 of the labels.
        assert_eq!(report.get("precision_micro").and_then(|r| r.baseline), Some(0.4));
    }

    /// The variance by slopes is that of many draws of the matrix: the metric moves as the delta method says.
    #[test]
    fn intervals_are_as_wide_as_the_metric_moves() {
        let cells =
            [("a", "a", 300), ("a", "b", 60), ("b", "b", 200), ("b", "c", 40), ("c", "c", 250), ("c", "a", 150)];
        let rows: u64 = cells.iter().map(|cell| cell.2).sum();
        let mut random = 1_u64;
        let mut draw = || {
            random = random.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (random >> 11) as f64 / (1_u64 << 53) as f64 * rows as f64
        };
        let metrics = |confusion: &Confusion| {
            let mut report = Report::default();
            confusion.report_whole(&mut report, Undefined::NoRows);
            confusion.report_by_class(&mut report);
            report.metrics.into_iter().filter(|row| row.class.is_none()).collect::<Vec<_>>()
        };
        let truth = metrics(&matrix(&cells));
        let mut draws: Vec<Vec<f64>> = vec![Vec::new(); truth.len()];
        for _ in 0..400 {
            let mut counts = [0_u64; 6];
            for _ in 0..rows {
                let mut at = draw();
                let cell = cells.iter().position(|cell| {
                    at -= cell.2 as f64;
                    at < 0.0
                });
                counts[cell.unwrap_or(5)] += 1;
            }
            let drawn: Vec<_> = cells.iter().zip(counts).map(|(cell, count)| (cell.0, cell.1, count)).collect();
            for (into, row) in draws.iter_mut().zip(metrics(&matrix(&drawn))) {
                into.push(row.value.expect("defined"));
            }
        }
        for (row, values) in truth.iter().zip(draws) {
            let mean = values.iter().sum::<f64>() / values.len() as f64;
            let deviation = (values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / values.len() as f64).sqrt();
            let width = row.ci_high.zip(row.ci_low).map(|(high, low)| (high - low) / 2.0 / 1.96).expect("interval");
            assert!((width / deviation - 1.0).abs() < 0.15, "{}: {width} is not {deviation}", row.metric);
        }
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
