//! The catalogue of aggregate functions: each a thin adapter around a state of `metrics/` or `drift/`.
//!
//! A state crosses threads (or machines) as one binary value, and arguments other than columns are SQL literals, so a
//! plan that names these functions can run anywhere they are registered. Rows with a null in any argument are skipped,
//! except where a function says otherwise. `binary_report`, `multiclass_report`, `regression_report`, `serving_report`, `sorted_sample`,
//! `flagged_values` and `class_rows` take a literal behind all else, as `'{"bins": 65536}'` ([`crate::metrics::binned::Limit`]): they
//! then keep no more than that, and say how far they may be off. Without it nothing bounds them but the memory of the query. What is
//! undefined is SQL null; the reports carry the reason.
//!
//! | function | returns |
//! |---|---|
//! | `roc_auc(score, is_positive)` and `average_precision`, `log_loss`, `brier_score`, `expected_calibration_error` | Double |
//! | `mean_absolute_error(y, predicted)` and every other [`crate::metrics::regression::RegressionMetric`] by its name | Double |
//! | `accuracy(actual, predicted)` and `balanced_accuracy`, `matthews_corrcoef`, `cohen_kappa`, and every [`crate::metrics::one_vs_rest::Rate`] by its name, of two Booleans | Double |
//! | `exact_sum(x)`, `exact_mean(x)` | Double |
//! | `ks_statistic(x, is_current)`, `ks_p_value(x, is_current)` | Double |
//! | `bin_counts(x, '[edges]')` | List of Int64 |
//! | `sorted_sample(x)`, with a sampling rate behind if rows have one | LargeBinary: a [`crate::drift::Sample`] |
//! | `flagged_values(first, second, x)`, `class_rows(class, probabilities, is_labelled)`, each with a sampling rate behind if rows have one | LargeBinary: a [`crate::estimate::FlaggedValues`] or [`crate::estimate::ClassRows`]; of null flags and classes see there |
//! | `label_arrivals(lag, place)` | LargeBinary: a [`crate::estimate::arrival::Arrivals`]; a null lag is a row that waits |
//! | `binary_report(actual, predicted, score, 'probability')`, `multiclass_report(actual, predicted, probabilities)`, `regression_report(y, predicted)`, each with a sampling rate behind if rows have one | JSON text of a [`crate::metrics::Report`] |
//! | `serving_report(has_failed, latency_ms)`, with a sampling rate behind if rows have one; every row counts, nulls too | the same |
//! | `paired_binary(actual, predicted_a, score_a, predicted_b, score_b, 'probability')`, `paired_regression(y, predicted_a, predicted_b)`, `paired_hits(hit_a, hit_b)`, with a sampling rate behind if rows have one | JSON text: rows, and a [`crate::metrics::comparison::Comparison`] of each metric |
//! | `ranked_query(score, relevance, 'k')`: the metrics of [`crate::metrics::ranking`] of one query's rows, or none | List of Double |
//! | `distinct_rows('{"part": 0, "of": 1}', a, b, …)`: rows with a value in any column, and different ones among them; of more parts than one, those of one part | List of two Int64 |
//! | `feature_products('scaling', rate, a, b, …)`: Σw, then Σ w zᵢzⱼ of each two features on one scale, i ≤ j; a null is taken for the mean | List of Double |
//! | `reconstruction_errors('components', rate, a, b, …)`: rows, effective rows, Σw, Σwe and Σwe² of the errors e of [`crate::drift::components`] | List of Double |
//! | `total_weight(sampling_rate)`, `total_squared_weight(sampling_rate)`: what rows stand for, and its squares; every row counts, nulls too | Double |

mod adapter;
mod bins;
mod columns;
mod components;
mod counts;
pub(crate) mod distinct;
mod ks;
pub(crate) mod paired;
mod pairs;
mod ranking;
mod report;
pub(crate) mod rows;
pub(crate) mod samples;
mod scores;
mod serving;
mod sums;

use datafusion::{logical_expr::AggregateUDF, prelude::SessionContext};

/// Every aggregate function of Driftline.
pub fn all() -> Vec<AggregateUDF> {
    [
        scores::functions(),
        counts::functions(),
        pairs::functions(),
        sums::functions(),
        ks::functions(),
        bins::functions(),
    ]
    .into_iter()
    .chain([
        samples::functions(),
        report::functions(),
        rows::functions(),
        serving::functions(),
        paired::functions(),
        distinct::functions(),
        ranking::functions(),
        components::functions(),
    ])
    .flatten()
    .collect()
}

/// Makes every function known to a session.
pub fn register(context: &SessionContext) {
    for function in all() {
        context.register_udaf(function);
    }
}
