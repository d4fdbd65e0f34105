//! Version against version: paired where ids are shared, else as independent rows.

use std::collections::BTreeMap;

use arrow::array::{ArrayRef, RecordBatch};
use driftline_evaluator::{EvaluatedWindow, window::OTHER};
use driftline_schemas::tables::{ComparisonRow, Task};
use serde::Deserialize;

use crate::rows::{batch, context, doubles, evaluate_everywhere, maps, texts};

fn compared<'a>(window: &'a EvaluatedWindow, metric: &str, a: &str, b: &str) -> &'a ComparisonRow {
    let is = |row: &&ComparisonRow| row.metric == metric && row.version_a == a && row.version_b == b;
    window.comparisons.iter().find(is).unwrap_or_else(|| panic!("no {metric} of {a} and {b}"))
}

#[derive(Deserialize)]
struct Golden {
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    name: String,
    task: String,
    paired: bool,
    label: [Vec<f64>; 2],
    value: [Vec<f64>; 2],
    /// Difference, interval, p-value.
    compared: BTreeMap<String, [f64; 4]>,
}

/// Rows of two versions; ids are shared if the case is paired.
fn rows(case: &Case) -> RecordBatch {
    let (mut ids, mut versions, mut labels, mut values) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for (version, name) in ["1", "2"].into_iter().enumerate() {
        for (row, label) in case.label[version].iter().enumerate() {
            ids.push(if case.paired { format!("id-{row}") } else { format!("id-{version}-{row}") });
            versions.push(Some(name));
            labels.push(Some(*label));
            values.push(Some(case.value[version][row]));
        }
    }
    let ids: Vec<Option<&str>> = ids.iter().map(|id| Some(id.as_str())).collect();
    let mut columns = vec![("prediction_id", texts(&ids)), ("model_version", texts(&versions))];
    if case.task == "binary" {
        let words: Vec<Option<&str>> = labels.iter().map(|y| Some(if *y == Some(1.0) { "1" } else { "0" })).collect();
        columns.extend([("label", texts(&words)), ("score", doubles(&values))]);
    } else {
        columns.extend([("label_value", doubles(&labels)), ("prediction_value", doubles(&values))]);
    }
    batch(columns)
}

#[tokio::test]
async fn e2_comparisons_equal_scipy_delong_and_newcombe() {
    let text = include_str!("../../golden/comparisons.json");
    for case in serde_json::from_str::<Golden>(text).expect("golden cases").cases {
        let task = if case.task == "binary" { Task::Binary } else { Task::Regression };
        let window = evaluate_everywhere(&rows(&case), &context(task)).await;
        for (metric, theirs) in &case.compared {
            let row = compared(&window, metric, "1", "2");
            assert_eq!((row.paired, row.n_a), (case.paired, case.label[0].len() as i64), "{} {metric}", case.name);
            let ours = [row.difference, row.ci_low, row.ci_high, row.p_value];
            for (what, (ours, theirs)) in
                ["difference", "low", "high", "p"].into_iter().zip(ours.into_iter().zip(theirs))
            {
                let ours = ours.unwrap_or_else(|| panic!("{} {metric} has no {what}", case.name));
                assert!((ours - theirs).abs() < 1e-9, "{} {metric} {what}: {ours} is not {theirs}", case.name);
            }
        }
    }
}

/// Two versions, `shared` of whose ten ids are the same.
fn overlapping(shared: usize) -> RecordBatch {
    let ids: Vec<String> = (0..10).chain(10 - shared..20 - shared).map(|id| format!("id-{id}")).collect();
    let versions: Vec<Option<&str>> = (0..20).map(|row| Some(if row < 10 { "old" } else { "new" })).collect();
    let labels: Vec<Option<&str>> =
        (0..10).chain(10 - shared..20 - shared).map(|id| Some(if id % 2 == 1 { "0" } else { "1" })).collect();
    let scores: Vec<Option<f64>> = (0..20).map(|row| Some(f64::from(row * 7 % 20) / 20.0)).collect();
    batch(vec![
        ("prediction_id", texts(&ids.iter().map(|id| Some(id.as_str())).collect::<Vec<_>>())),
        ("model_version", texts(&versions)),
        ("label", texts(&labels)),
        ("score", doubles(&scores)),
    ])
}

#[tokio::test]
async fn versions_are_paired_where_half_of_their_ids_are_shared() {
    for (shared, paired, n) in [(10, true, 10), (5, true, 5), (4, false, 10), (0, false, 10)] {
        let window = evaluate_everywhere(&overlapping(shared), &context(Task::Binary)).await;
        let row = compared(&window, "roc_auc", "new", "old");
        assert_eq!((row.paired, row.n_a, row.n_b), (paired, n, n), "{shared} shared");
        assert_eq!(row.method.as_deref(), Some(if paired { "delong_paired" } else { "delong" }));
        // Nobody has worked out how average precisions of the same rows go together.
        let precision = compared(&window, "average_precision", "new", "old");
        assert_eq!((precision.paired, precision.method.as_deref()), (false, Some("mover")));
        assert!(precision.ci_warning.is_some());
    }
    // A column of ids less, and nothing can be paired.
    let rows = overlapping(10);
    let kept: Vec<usize> = (1..rows.num_columns()).collect();
    let window = evaluate_everywhere(&rows.project(&kept).expect("columns"), &context(Task::Binary)).await;
    assert!(!compared(&window, "roc_auc", "new", "old").paired);
}

#[tokio::test]
async fn classes_are_paired_by_hits_and_one_version_is_compared_with_nothing() {
    let column = |values: &[&str]| -> ArrayRef { texts(&values.iter().map(|v| Some(*v)).collect::<Vec<_>>()) };
    let columns = |versions: &[&str]| {
        batch(vec![
            ("prediction_id", column(&["a", "b", "c", "a", "b", "c"])),
            ("model_version", column(versions)),
            ("label", column(&["cat", "dog", "bird", "cat", "dog", "bird"])),
            ("prediction", column(&["cat", "dog", "cat", "cat", "dog", "bird"])),
            ("probabilities", maps(&vec![Some(vec![("cat", 0.5), ("dog", 0.3), ("bird", 0.2)]); 6])),
        ])
    };
    let window = evaluate_everywhere(&columns(&["1", "1", "1", "2", "2", "2"]), &context(Task::Multiclass)).await;
    let accuracy = compared(&window, "accuracy", "1", "2");
    assert_eq!((accuracy.value_a, accuracy.value_b, accuracy.paired), (Some(2.0 / 3.0), Some(1.0), true));
    assert_eq!(accuracy.method.as_deref(), Some("newcombe_paired"));
    assert_eq!(compared(&window, "log_loss", "1", "2").difference, Some(0.0));
    let alone = evaluate_everywhere(&columns(&["1"; 6]), &context(Task::Multiclass)).await;
    assert!(alone.comparisons.is_empty());
}

#[tokio::test]
async fn b1_the_pairs_of_versions_are_bounded() {
    let versions: Vec<String> = (0..40).map(|row| format!("v{}", row % 8)).collect();
    let rows = batch(vec![
        ("model_version", texts(&versions.iter().map(|v| Some(v.as_str())).collect::<Vec<_>>())),
        // The first three versions have a label less.
        (
            "label_value",
            doubles(&(0..40).map(|row| (row % 8 > 2 || row > 8).then(|| f64::from(row))).collect::<Vec<_>>()),
        ),
        ("prediction_value", doubles(&(0..40).map(|row| Some(f64::from(row * 3 % 7))).collect::<Vec<_>>())),
    ]);
    let window = evaluate_everywhere(&rows, &context(Task::Regression)).await;
    let mut pairs: Vec<(&str, &str)> =
        window.comparisons.iter().map(|row| (row.version_a.as_str(), row.version_b.as_str())).collect();
    pairs.dedup();
    assert_eq!(pairs.len(), 10);
    assert!(pairs.iter().all(|(a, b)| a < b && *a >= "v3"), "{pairs:?}");
}

#[tokio::test]
async fn the_smaller_version_says_whether_versions_are_paired() {
    // Every id of the shadow version is one of the old version's, which has more than three times as many.
    let (old, new) = (0..20, 0..6);
    let ids: Vec<String> = old.clone().chain(new.clone()).map(|id| format!("id-{id}")).collect();
    let versions: Vec<Option<&str>> =
        old.clone().map(|_| Some("old")).chain(new.clone().map(|_| Some("new"))).collect();
    let labels: Vec<Option<&str>> = old.clone().chain(new.clone()).map(|id| Some(["0", "1"][id % 2])).collect();
    let scores: Vec<Option<f64>> =
        old.chain(new).enumerate().map(|(row, _)| Some((row * 7 % 26) as f64 / 26.0)).collect();
    let rows = batch(vec![
        ("prediction_id", texts(&ids.iter().map(|id| Some(id.as_str())).collect::<Vec<_>>())),
        ("model_version", texts(&versions)),
        ("label", texts(&labels)),
        ("score", doubles(&scores)),
    ]);
    let window = evaluate_everywhere(&rows, &context(Task::Binary)).await;
    let row = compared(&window, "accuracy", "new", "old");
    assert_eq!((row.paired, row.n_a, row.n_b), (true, 6, 6));
}

/// Two versions with 400 rows each, on the same ids or on others.
fn two_versions(is_shared: bool) -> RecordBatch {
    let ids: Vec<String> = (0..800).map(|row| format!("id-{}", if is_shared { row % 400 } else { row })).collect();
    let versions: Vec<Option<&str>> = (0..800).map(|row| Some(if row < 400 { "1" } else { "2" })).collect();
    let labels: Vec<Option<&str>> = (0..800).map(|row| Some(["0", "1"][row % 400 * 7 % 10 / 5])).collect();
    let scores: Vec<Option<f64>> =
        (0..800).map(|row| Some(f64::from((row % 400 * 7 % 10) * 40 + row * 37 % 300) / 700.0)).collect();
    batch(vec![
        ("prediction_id", texts(&ids.iter().map(|id| Some(id.as_str())).collect::<Vec<_>>())),
        ("model_version", texts(&versions)),
        ("label", texts(&labels)),
        ("score", doubles(&scores)),
    ])
}

#[tokio::test]
async fn what_cannot_be_paired_says_that_its_interval_is_wider_than_need_be() {
    for (is_shared, warning) in [(true, Some("conservative")), (false, None)] {
        let window = evaluate_everywhere(&two_versions(is_shared), &context(Task::Binary)).await;
        for metric in ["average_precision", "matthews_corrcoef"] {
            let row = compared(&window, metric, "1", "2");
            assert_eq!((row.paired, row.ci_warning.as_deref()), (false, warning), "{metric} {is_shared}");
        }
        assert_eq!(compared(&window, "roc_auc", "1", "2").ci_warning, None);
    }
}

#[tokio::test]
async fn pairs_weigh_what_they_stand_for_and_leave_out_what_does_not_count() {
    // Version 1 is right of `a` alone, which stands for four; version 2 of all others. Of `d` version 2 has failed.
    let column = |values: &[&str]| -> ArrayRef { texts(&values.iter().map(|v| Some(*v)).collect::<Vec<_>>()) };
    let rows = batch(vec![
        ("prediction_id", column(&["a", "b", "c", "d", "a", "b", "c", "d"])),
        ("model_version", column(&["1", "1", "1", "1", "2", "2", "2", "2"])),
        ("label", column(&["1"; 8])),
        ("prediction", column(&["1", "0", "0", "0", "0", "1", "1", "1"])),
        ("sampling_rate", doubles(&[Some(0.25), None, None, None, Some(0.25), None, None, None])),
        ("invalid_reason", texts(&[None, None, None, None, None, None, None, Some("task_mismatch")])),
    ]);
    let window = evaluate_everywhere(&rows, &context(Task::Binary)).await;
    let row = compared(&window, "accuracy", "1", "2");
    assert_eq!((row.paired, row.n_a, row.n_b), (true, 3, 3));
    let near = |ours: Option<f64>, theirs: f64| ours.is_some_and(|ours| (ours - theirs).abs() < 1e-11);
    assert!(near(row.value_a, 4.0 / 6.0) && near(row.value_b, 2.0 / 6.0), "{row:?}");
}

#[tokio::test]
async fn versions_that_are_pooled_are_not_compared() {
    let versions: Vec<Option<&str>> = (0..60).map(|row| Some(["a", "a", "b", "b", "c", "d"][row % 6])).collect();
    let rows = batch(vec![
        ("model_version", texts(&versions)),
        ("label_value", doubles(&(0..60).map(|row| Some(f64::from(row))).collect::<Vec<_>>())),
        ("prediction_value", doubles(&(0..60).map(|row| Some(f64::from(row * 3 % 7))).collect::<Vec<_>>())),
    ]);
    let mut context = context(Task::Regression);
    context.segment_values_max = 2;
    let window = evaluate_everywhere(&rows, &context).await;
    assert!(window.metrics.iter().any(|row| row.model_version.as_deref() == Some(OTHER)));
    assert!(!window.comparisons.is_empty());
    assert!(window.comparisons.iter().all(|row| (row.version_a.as_str(), row.version_b.as_str()) == ("a", "b")));
}
