//! Metrics by their textbook definitions, as slowly as they like: they are the truth, so they share nothing with the evaluator.

use std::collections::{BTreeMap, BTreeSet};

use super::options::Task;

/// One labelled row as the metrics see it.
#[derive(Clone, Debug, PartialEq)]
pub enum Pair {
    /// A classification: the classes, and the positive class's score where there is one.
    Classes {
        /// The label.
        actual: String,
        /// The prediction, given or derived.
        predicted: String,
        /// The score.
        score: Option<f64>,
    },
    /// A regression.
    Numbers {
        /// The label.
        actual: f64,
        /// The prediction.
        predicted: f64,
    },
}

/// The figures of a slice of a window; `None` is undefined.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Figures {
    /// Predictions that count: standing, neither failed nor invalid.
    pub n: u64,
    /// Those of them with a current label.
    pub n_labelled: u64,
    /// Labelled rows by (actual, predicted).
    pub confusion: BTreeMap<(String, String), u64>,
    /// Metric name as in scikit-learn → value. Only those that are defined for the task are listed.
    pub metrics: BTreeMap<&'static str, Option<f64>>,
}

/// Judges the labelled rows of `n` predictions.
pub(super) fn figures(task: &Task, n: u64, pairs: &[Pair]) -> Figures {
    let mut figures = Figures { n, n_labelled: pairs.len() as u64, ..Figures::default() };
    for pair in pairs {
        if let Pair::Classes { actual, predicted, .. } = pair {
            *figures.confusion.entry((actual.clone(), predicted.clone())).or_default() += 1;
        }
    }
    figures.metrics = match task {
        Task::Binary([positive, _]) => binary(positive, &figures.confusion, pairs),
        Task::Multiclass(_) => multiclass(&figures.confusion),
        Task::Regression => regression(pairs),
    };
    figures
}

type Confusion = BTreeMap<(String, String), u64>;

fn sum(confusion: &Confusion, counts: impl Fn(&str, &str) -> bool) -> f64 {
    confusion.iter().filter(|((actual, predicted), _)| counts(actual, predicted)).map(|(_, n)| *n).sum::<u64>() as f64
}

fn ratio(numerator: f64, denominator: f64) -> Option<f64> {
    (denominator > 0.0).then(|| numerator / denominator)
}

fn accuracy(confusion: &Confusion) -> Option<f64> {
    ratio(sum(confusion, |a, p| a == p), sum(confusion, |_, _| true))
}

fn binary(positive: &str, confusion: &Confusion, pairs: &[Pair]) -> BTreeMap<&'static str, Option<f64>> {
    let tp = sum(confusion, |a, p| a == positive && p == positive);
    let fp = sum(confusion, |a, p| a != positive && p == positive);
    let fn_ = sum(confusion, |a, p| a == positive && p != positive);
    let tn = sum(confusion, |a, p| a != positive && p != positive);
    BTreeMap::from([
        ("accuracy", ratio(tp + tn, tp + tn + fp + fn_)),
        ("precision", ratio(tp, tp + fp)),
        ("recall", ratio(tp, tp + fn_)),
        ("specificity", ratio(tn, tn + fp)),
        ("f1", ratio(2.0 * tp, 2.0 * tp + fp + fn_)),
        ("roc_auc", roc_auc(positive, pairs)),
    ])
}

/// The share of (positive, negative) pairs that the score orders rightly, a tie counting half. Every pair is compared.
fn roc_auc(positive: &str, pairs: &[Pair]) -> Option<f64> {
    let scores = |is_positive: bool| -> Vec<f64> {
        let of = |pair: &Pair| match pair {
            Pair::Classes { actual, score, .. } if (actual == positive) == is_positive => *score,
            _ => None,
        };
        pairs.iter().filter_map(of).collect()
    };
    let (positives, negatives) = (scores(true), scores(false));
    let mut half_wins: u64 = 0;
    for p in &positives {
        for n in &negatives {
            half_wins += match p.total_cmp(n) {
                std::cmp::Ordering::Greater => 2,
                std::cmp::Ordering::Equal => 1,
                std::cmp::Ordering::Less => 0,
            };
        }
    }
    ratio(half_wins as f64, 2.0 * positives.len() as f64 * negatives.len() as f64)
}

/// Averages over the classes that occur in labels or predictions; a class without a defined value counts as 0.
fn multiclass(confusion: &Confusion) -> BTreeMap<&'static str, Option<f64>> {
    let classes: BTreeSet<&String> = confusion.keys().flat_map(|(actual, predicted)| [actual, predicted]).collect();
    let average = |of: &dyn Fn(&str) -> Option<f64>| {
        ratio(classes.iter().map(|class| of(class).unwrap_or(0.0)).sum::<f64>(), classes.len() as f64)
    };
    let hits = |class: &str| sum(confusion, |a, p| a == class && p == class);
    let actual = |class: &str| sum(confusion, |a, _| a == class);
    let predicted = |class: &str| sum(confusion, |_, p| p == class);
    BTreeMap::from([
        ("accuracy", accuracy(confusion)),
        ("precision_macro", average(&|class| ratio(hits(class), predicted(class)))),
        ("recall_macro", average(&|class| ratio(hits(class), actual(class)))),
        ("f1_macro", average(&|class| ratio(2.0 * hits(class), actual(class) + predicted(class)))),
    ])
}

fn regression(pairs: &[Pair]) -> BTreeMap<&'static str, Option<f64>> {
    let numbers = pairs.iter().filter_map(|pair| match pair {
        Pair::Numbers { actual, predicted } => Some((*actual, *predicted)),
        Pair::Classes { .. } => None,
    });
    let errors: Vec<f64> = numbers.map(|(actual, predicted)| predicted - actual).collect();
    let mean = |of: fn(f64) -> f64| ratio(errors.iter().map(|e| of(*e)).sum(), errors.len() as f64);
    BTreeMap::from([
        ("mean_absolute_error", mean(f64::abs)),
        ("mean_squared_error", mean(|e| e * e)),
        ("root_mean_squared_error", mean(|e| e * e).map(f64::sqrt)),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(rows: &[(&str, &str, f64)]) -> Vec<Pair> {
        let of = |&(actual, predicted, score): &(&str, &str, f64)| Pair::Classes {
            actual: actual.to_owned(),
            predicted: predicted.to_owned(),
            score: Some(score),
        };
        rows.iter().map(of).collect()
    }

    #[test]
    fn binary_figures_of_five_rows_worked_by_hand() {
        let rows = pairs(&[("y", "y", 0.9), ("n", "y", 0.8), ("y", "n", 0.4), ("n", "n", 0.4), ("n", "n", 0.1)]);
        let found = figures(&Task::Binary(["y", "n"]), 7, &rows);
        assert_eq!((found.n, found.n_labelled), (7, 5));
        assert_eq!(found.metrics["accuracy"], Some(0.6));
        assert_eq!(found.metrics["precision"], Some(0.5));
        assert_eq!(found.metrics["recall"], Some(0.5));
        assert_eq!(found.metrics["f1"], Some(0.5));
        // Wins: 0.9 beats all three; 0.4 loses to 0.8, ties 0.4, beats 0.1.
        assert_eq!(found.metrics["roc_auc"], Some(4.5 / 6.0));
    }

    #[test]
    fn figures_that_have_no_denominator_are_undefined() {
        let none = figures(&Task::Binary(["y", "n"]), 0, &[]);
        assert!(none.metrics.values().all(Option::is_none));
        let one_class = figures(&Task::Binary(["y", "n"]), 1, &pairs(&[("n", "n", 0.2)]));
        assert_eq!(one_class.metrics["accuracy"], Some(1.0));
        assert_eq!(one_class.metrics["roc_auc"], None);
        assert_eq!(one_class.metrics["precision"], None);
    }

    #[test]
    fn macro_averages_count_a_class_that_is_never_predicted_as_zero() {
        let rows = pairs(&[("a", "a", 0.0), ("b", "a", 0.0), ("c", "c", 0.0)]);
        let found = figures(&Task::Multiclass(vec!["a", "b", "c", "d"]), 3, &rows);
        assert_eq!(found.metrics["precision_macro"], Some((0.5 + 0.0 + 1.0) / 3.0));
        assert_eq!(found.metrics["recall_macro"], Some(2.0 / 3.0));
    }

    #[test]
    fn regression_figures_of_two_rows_worked_by_hand() {
        let rows = [Pair::Numbers { actual: 1.0, predicted: 2.0 }, Pair::Numbers { actual: 5.0, predicted: 2.0 }];
        let found = figures(&Task::Regression, 2, &rows);
        assert_eq!(found.metrics["mean_absolute_error"], Some(2.0));
        assert_eq!(found.metrics["root_mean_squared_error"], Some(5.0_f64.sqrt()));
    }
}
