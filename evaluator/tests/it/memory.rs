//! Windows beside little memory: what fits is exact, what does not says how far it may be off, and nothing fails.

use std::{collections::BTreeMap, sync::Arc};

use arrow::array::{AsArray, RecordBatch};
use datafusion::{
    execution::{memory_pool::FairSpillPool, runtime_env::RuntimeEnvBuilder},
    prelude::{SessionConfig, SessionContext},
};
use driftline_evaluator::{
    EvaluatedWindow, EvaluationContext, Reference,
    drift::Sample,
    evaluate,
    reference::{Column, ReferenceValues},
    udaf,
};
use driftline_schemas::tables::{EstimateRow, Task};

use crate::rows::{batch, context, doubles, maps, session_of, texts, times};

/// Rows of the windows below: as they are they take some megabytes a list.
const ROWS: usize = 120_000;
/// A pool in which no list of them fits with its copies, and in which DataFusion can group and sort.
const LITTLE: usize = 5 << 20;

/// A session over one table `rows` beside so much memory.
async fn beside(batch: &RecordBatch, memory: usize, partitions: usize) -> SessionContext {
    let runtime = RuntimeEnvBuilder::new().with_memory_pool(Arc::new(FairSpillPool::new(memory)));
    let config = SessionConfig::new()
        .with_target_partitions(partitions)
        .with_sort_spill_reservation_bytes(1 << 20)
        .set_bool("datafusion.execution.collect_statistics", false);
    let context = SessionContext::new_with_config_rt(config, runtime.build_arc().expect("a runtime"));
    udaf::register(&context);
    let table = session_of(batch, partitions, 8_192);
    let table = table.table_provider("rows").await.expect("registered");
    context.register_table("rows", table).expect("new name");
    context
}

struct Draws(u64);

impl Draws {
    fn next(&mut self) -> f64 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 11) as f64 / (1_u64 << 53) as f64
    }

    fn numbers(&mut self, of: impl Fn(f64) -> f64) -> Vec<Option<f64>> {
        (0..ROWS).map(|_| Some(of(self.next()))).collect()
    }

    fn words(&mut self, words: &[&'static str]) -> Vec<Option<&'static str>> {
        (0..ROWS).map(|_| Some(words[(self.next() * words.len() as f64) as usize])).collect()
    }
}

/// Scores with labels, two versions, a segment, latencies and features; the reference's rows are drawn from another seed.
fn binary_rows(seed: u64, shift: f64) -> RecordBatch {
    let mut draws = Draws(seed);
    let labels: Vec<bool> = (0..ROWS).map(|_| draws.next() < 0.2).collect();
    let scores = labels.iter().map(|y| Some((draws.next() + if *y { 0.4 } else { 0.0 }) / 1.4)).collect::<Vec<_>>();
    let label = |at: usize| (!at.is_multiple_of(10)).then_some(if labels[at] { "1" } else { "0" });
    batch(vec![
        ("prediction_id", texts(&(0..ROWS).map(|at| Some(ID[at % 7])).collect::<Vec<_>>())),
        ("model_version", texts(&draws.words(&["1", "2"]))),
        ("label", texts(&(0..ROWS).map(label).collect::<Vec<_>>())),
        ("score", doubles(&scores)),
        ("event_time", times(&(0..ROWS).map(|at| Some(at as i64)).collect::<Vec<_>>())),
        ("label_time", times(&(0..ROWS).map(|at| label(at).map(|_| 2 * at as i64)).collect::<Vec<_>>())),
        ("tag_region", texts(&draws.words(&["eu", "us", "asia"]))),
        ("latency_ms", doubles(&draws.numbers(|x| 1.0 / (x + 0.001)))),
        ("feature_a", doubles(&draws.numbers(|x| 100.0 + x * 7.0 + shift))),
        ("feature_b", doubles(&draws.numbers(|x| (-(x + 1e-9).ln()).powi(3)))),
        ("feature_c", doubles(&draws.numbers(|x| (x * 50.0).floor()))),
        ("feature_d_text", texts(&draws.words(&["x", "y", "z"]))),
    ])
}

const ID: [&str; 7] = ["a", "b", "c", "d", "e", "f", "g"];

type Key = (Option<String>, Option<String>, Option<String>, String, Option<String>);

/// Values with their bounds, of metrics and their baselines, drift, serving, estimates from a reference, and how labelled rows differ from others.
fn values(window: &EvaluatedWindow) -> BTreeMap<Key, (Option<f64>, Option<f64>)> {
    let metrics = window.metrics.iter().map(|row| {
        let group = (row.model_version.clone(), row.segment.clone(), row.segment_value.clone());
        ((group.0, group.1, group.2, row.metric.clone(), row.class.clone()), (row.value, row.error_bound))
    });
    let serving = window.serving.iter().map(|row| {
        let group = (row.model_version.clone(), row.segment.clone(), row.segment_value.clone());
        ((group.0, group.1, group.2, row.metric.clone(), None), (row.value, row.error_bound))
    });
    let drift = window.drift.iter().map(|row| {
        let group = (row.model_version.clone(), row.segment.clone(), row.segment_value.clone());
        let name = (row.method.clone(), Some(row.column_name.clone()));
        ((group.0, group.1, group.2, name.0, name.1), (row.statistic, row.error_bound))
    });
    let baselines = window.metrics.iter().map(|row| {
        let group = (row.model_version.clone(), row.segment.clone(), row.segment_value.clone());
        let name = format!("baseline of {}", row.metric);
        ((group.0, group.1, group.2, name, row.class.clone()), (row.baseline, row.baseline_error_bound))
    });
    // A nowcast has other strata where scores are in bins.
    let estimates = window.estimates.iter().filter(|row| row.method != "nowcast").map(|row| {
        let group = (row.model_version.clone(), row.segment.clone(), row.segment_value.clone());
        let name = format!("{} {}", row.method, row.metric);
        ((group.0, group.1, group.2, name, row.class.clone()), (row.value, row.error_bound))
    });
    let lags = window.label_lag.iter().map(|row| {
        let group = (row.model_version.clone(), row.segment.clone(), row.segment_value.clone());
        let name = format!("selection {}", row.within_seconds);
        ((group.0, group.1, group.2, name, None), (row.selection_statistic, row.selection_error_bound))
    });
    metrics.chain(serving).chain(drift).chain(baselines).chain(estimates).chain(lags).collect()
}

/// The window beside little memory is within its bounds of that beside enough; which values have one.
fn within_bounds(exact: &EvaluatedWindow, little: &EvaluatedWindow) -> Vec<String> {
    let (exact, little) = (values(exact), values(little));
    assert_eq!(exact.keys().collect::<Vec<_>>(), little.keys().collect::<Vec<_>>());
    let mut bounded = Vec::new();
    for (key, (value, none)) in &exact {
        assert_eq!(*none, None, "{key:?}");
        let (found, bound) = little[key];
        let (Some(value), Some(found)) = (value, found) else {
            assert_eq!((*value, None), (found, bound), "{key:?}");
            continue;
        };
        let off = (value - found).abs();
        assert!(off <= bound.unwrap_or(0.0) + 1e-9 * value.abs().max(1.0), "{key:?}: {value} {found} {bound:?}");
        if bound.is_some() {
            bounded.push(key.3.clone());
        }
    }
    bounded.sort();
    bounded.dedup();
    bounded
}

async fn evaluated(
    rows: &RecordBatch,
    memory: usize,
    partitions: usize,
    context: &EvaluationContext,
) -> EvaluatedWindow {
    evaluate(&beside(rows, memory, partitions).await, "rows", context).await.expect("evaluates, whatever the memory")
}

#[tokio::test]
async fn a_binary_window_beyond_memory_is_evaluated_within_bounds() {
    let mut context = context(Task::Binary);
    context.segments = vec![vec!["region".to_owned()]];
    let reference = session_of(&binary_rows(3, 0.0), 2, 8_192);
    context.reference = Some(Arc::new(Reference::from_table(&reference, "rows", Task::Binary).await.expect("reads")));
    let rows = binary_rows(7, 0.5);
    let exact = evaluated(&rows, 1 << 30, 2, &context).await;
    let little = evaluated(&rows, LITTLE, 2, &context).await;
    let bounded = within_bounds(&exact, &little);
    let of_bins = ["roc_auc", "average_precision", "ks", "wasserstein", "latency_p95_ms"];
    let of_others = ["cbpe f1", "cbpe roc_auc", "cbpe average_precision", "selection 86400"];
    for name in of_bins.into_iter().chain(of_others) {
        assert!(bounded.iter().any(|found| found == name), "{name} of {bounded:?}");
    }
    // What is counted, and what is summed, is exact.
    for name in ["accuracy", "log_loss", "brier_score", "psi", "jensen_shannon", "chi2", "latency_max_ms"] {
        assert!(bounded.iter().all(|found| found != name), "{name} of {bounded:?}");
    }
    assert_eq!(exact.confusion, little.confusion);
    assert_eq!(exact.quality, little.quality);
    // Bins in which labelled rows and others lie do not set them apart: what is not selective beside enough memory is not beside little.
    for (row, bin) in exact.label_lag.iter().zip(&little.label_lag) {
        assert_eq!(row.is_selective, bin.is_selective, "{row:?} {bin:?}");
        assert!(
            bin.selection_statistic <= row.selection_statistic.map(|statistic| statistic + 1e-12),
            "{row:?} {bin:?}"
        );
    }
    // The strata of a nowcast are near those of the rows as they are.
    let nowcasts = |window: &EvaluatedWindow| {
        let is = |row: &&EstimateRow| row.method == "nowcast" && row.value.is_some();
        window.estimates.iter().filter(is).cloned().collect::<Vec<_>>()
    };
    let (of_rows, of_bins) = (nowcasts(&exact), nowcasts(&little));
    assert!(!of_rows.is_empty() && of_rows.len() == of_bins.len());
    for (row, bin) in of_rows.iter().zip(&of_bins) {
        assert_eq!(
            bin.error_bound.is_some(),
            ["roc_auc", "average_precision"].contains(&bin.metric.as_str()),
            "{bin:?}"
        );
        let off = row.value.zip(bin.value).map_or(f64::NAN, |(row, bin)| (row - bin).abs());
        assert!(off < 0.01 + bin.error_bound.unwrap_or(0.0), "{}: {off}", row.metric);
    }
    let auc = |window: &EvaluatedWindow| {
        let row = window.metrics.iter().find(|row| row.metric == "roc_auc" && row.segment.is_none()).cloned();
        row.expect("defined")
    };
    let (exact, little) = (auc(&exact), auc(&little));
    assert!(little.error_bound.is_some_and(|bound| bound < 0.01), "{little:?}");
    assert!(little.ci_low <= exact.ci_low && little.ci_high >= exact.ci_high, "{exact:?} {little:?}");
}

#[tokio::test]
async fn e1_beside_little_memory_too_partitions_change_nothing() {
    let mut context = context(Task::Binary);
    context.segments = vec![vec!["region".to_owned()]];
    let reference = session_of(&binary_rows(3, 0.0), 2, 8_192);
    context.reference = Some(Arc::new(Reference::from_table(&reference, "rows", Task::Binary).await.expect("reads")));
    let rows = binary_rows(7, 0.5);
    let one = evaluated(&rows, LITTLE, 1, &context).await;
    for partitions in [2, 5] {
        assert_eq!(one, evaluated(&rows, LITTLE, partitions, &context).await, "{partitions} partitions");
    }
}

#[tokio::test]
async fn a_regression_beyond_memory_is_evaluated_within_bounds() {
    let mut draws = Draws(11);
    let truth = draws.numbers(|x| 1e4 + x * 100.0);
    let predicted = truth.iter().map(|y| y.map(|y| y + (draws.next() - 0.5) * 20.0)).collect::<Vec<_>>();
    let rows = batch(vec![
        ("label_value", doubles(&truth)),
        ("prediction_value", doubles(&predicted)),
        ("label", texts(&draws.words(&["1"]))),
        ("tag_region", texts(&draws.words(&["eu", "us"]))),
    ]);
    let mut context = context(Task::Regression);
    context.segments = vec![vec!["region".to_owned()]];
    let reference = session_of(&rows, 2, 8_192);
    let reference = Reference::from_table(&reference, "rows", Task::Regression).await.expect("reads");
    context.reference = Some(Arc::new(reference));
    let exact = evaluated(&rows, 1 << 30, 2, &context).await;
    let little = evaluated(&rows, LITTLE, 2, &context).await;
    let bounded = within_bounds(&exact, &little);
    let has = |name: &str| bounded.iter().any(|found| found == name);
    for name in ["error_q95", "baseline of mean_absolute_error", "dle root_mean_squared_error"] {
        assert!(has(name), "{name} of {bounded:?}");
    }
    assert!(!has("r2") && !has("baseline of mean_squared_error"), "{bounded:?}");
    assert_eq!(little, evaluated(&rows, LITTLE, 4, &context).await);
}

#[tokio::test]
async fn classes_beyond_memory_are_evaluated_within_bounds() {
    let mut draws = Draws(13);
    let classes = ["a", "b", "c"];
    let labels = draws.words(&classes);
    let probabilities: Vec<Option<Vec<(&str, f64)>>> = labels
        .iter()
        .map(|label| {
            let parts = classes.map(|class| draws.next() + if Some(class) == *label { 0.5 } else { 0.0 });
            let all: f64 = parts.iter().sum();
            Some(classes.into_iter().zip(parts.map(|part| part / all)).collect())
        })
        .collect();
    let rows = batch(vec![
        ("label", texts(&labels)),
        ("prediction", texts(&draws.words(&classes))),
        ("probabilities", maps(&probabilities)),
    ]);
    let context = context(Task::Multiclass);
    let exact = evaluated(&rows, 1 << 30, 2, &context).await;
    let little = evaluated(&rows, LITTLE, 2, &context).await;
    let bounded = within_bounds(&exact, &little);
    for name in ["roc_auc", "roc_auc_macro", "roc_auc_ovo_weighted"] {
        assert!(bounded.iter().any(|found| found == name), "{name} of {bounded:?}");
    }
    assert_eq!(little, evaluated(&rows, LITTLE, 4, &context).await);
}

#[tokio::test]
async fn what_fits_is_exact_though_its_groups_do_not_fit_together() {
    let mut context = context(Task::Binary);
    context.segments = vec![vec!["region".to_owned()]];
    let rows = binary_rows(7, 0.5);
    let exact = evaluated(&rows, 1 << 30, 2, &context).await;
    // Two lists of eight bytes a row, six copies: four grouping sets take four times as much.
    let split = evaluated(&rows, 2 * 8 * 6 * ROWS + 1, 2, &context).await;
    assert_eq!(exact.metrics, split.metrics);
    assert_eq!(exact.serving, split.serving);
    assert_eq!(exact.curves, split.curves);
    assert_eq!(exact.confusion, split.confusion);
}

#[tokio::test]
async fn paired_versions_spill_and_duplicates_are_counted_share_by_share() {
    let mut draws = Draws(17);
    let ids: Vec<String> = (0..ROWS).map(|at| format!("{:032}", at / 2)).collect();
    let labels = draws.words(&["0", "1"]);
    let rows = batch(vec![
        ("prediction_id", texts(&ids.iter().map(|id| Some(id.as_str())).collect::<Vec<_>>())),
        ("model_version", texts(&(0..ROWS).map(|at| Some(["1", "2"][at % 2])).collect::<Vec<_>>())),
        ("label", texts(&(0..ROWS).map(|at| labels[at / 2]).collect::<Vec<_>>())),
        ("score", doubles(&draws.numbers(|x| x))),
        ("feature_a", doubles(&draws.numbers(|x| (x * 1e5).floor()))),
    ]);
    let context = context(Task::Binary);
    let exact = evaluated(&rows, 1 << 30, 2, &context).await;
    // The pairs of both versions fit: half of the rows, 32 bytes each; the grouping by id does not.
    let spilled = evaluated(&rows, 16 * 6 * ROWS + 1, 2, &context).await;
    // Average precision and Matthews' coefficient have no paired interval.
    let is_paired = |metric: &str| metric != "average_precision" && metric != "matthews_corrcoef";
    assert!(exact.comparisons.iter().all(|row| row.paired == is_paired(&row.metric)), "{:?}", exact.comparisons);
    assert!(!exact.comparisons.is_empty());
    assert_eq!(exact.comparisons, spilled.comparisons);
    assert_eq!(exact.quality, spilled.quality);
    // They do not: versions are compared as independent rows.
    let little = evaluated(&rows, LITTLE, 2, &context).await;
    assert!(little.comparisons.iter().all(|row| !row.paired) && !little.comparisons.is_empty());
    assert_eq!(exact.quality, little.quality, "their hashes do not fit: in shares");
}

#[tokio::test]
async fn a_limit_is_said_as_a_plain_text_or_as_one_value_for_all_rows() {
    let session = beside(&binary_rows(7, 0.5), 1 << 30, 2).await;
    let said = async |limit: &str| -> String {
        let query = format!("SELECT serving_report(FALSE, latency_ms{limit}) AS report FROM rows");
        let batches = session.sql(&query).await.expect("plans").collect().await.expect("runs");
        batches[0].column(0).as_string::<i32>().value(0).to_owned()
    };
    let bounded = said(", '{\"bins\": 300}'").await;
    assert!(bounded.contains("error_bound"), "{bounded}");
    assert_eq!(bounded, said(", arrow_cast('{\"bins\": 300}', 'Dictionary(Int8, Utf8)')").await);
    assert!(!said("").await.contains("error_bound"));
    // What keeps no rows has no such argument, and does not take one in silence.
    let refused = session.sql("SELECT paired_hits(TRUE, FALSE, '{\"bins\": 300}') FROM rows").await;
    assert!(refused.is_err(), "a limit that does nothing");
}

#[tokio::test]
async fn a_reference_keeps_as_many_values_as_it_may() {
    const MEMORY: usize = 16 << 20;
    let rows = binary_rows(3, 0.0);
    let frozen = async |memory: usize| {
        Reference::from_table(&beside(&rows, memory, 2).await, "rows", Task::Binary).await.expect("reads")
    };
    let (whole, little) = (frozen(1 << 30).await, frozen(MEMORY).await);
    let numbers = |reference: &Reference, name: &str| match reference.column(&Column::Feature(name.to_owned())) {
        Some(ReferenceValues::Numeric { n, sample, bins, .. }) => (*n, bins.clone(), sample.clone()),
        other => panic!("{name} is {other:?}"),
    };
    for name in ["a", "b", "c"] {
        let ((n, bins, all), (thinned_n, thinned_bins, kept)) = (numbers(&whole, name), numbers(&little, name));
        assert_eq!((n, &bins, all.len()), (thinned_n, &thinned_bins, ROWS), "{name}");
        assert!(kept.len().is_power_of_two() && kept.len() >= 1 << 14 && kept.len() < ROWS, "{} of {name}", kept.len());
        assert_eq!((all.first(), all.last()), (kept.first(), kept.last()), "{name}");
        let values = little.column(&Column::Feature(name.to_owned())).expect("as above");
        let test = values.ks(Sample::of_sorted(all).as_ref()).expect("rows on both sides");
        assert!(test.statistic <= 1.0 / kept.len() as f64, "{} of {name}", test.statistic);
    }
    let written = serde_json::to_vec(&little).expect("writes").len();
    assert!(written < MEMORY / 2, "{written} bytes");
}
