//! Whole windows: groups, reasons, names, drift.

use std::{collections::BTreeSet, sync::Arc};

use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use datafusion::prelude::{ParquetReadOptions, SessionContext};
use driftline_evaluator::{EvaluatedWindow, Reference, evaluate, reference::ReferenceValues, udaf, window::OTHER};
use driftline_schemas::config::CostMatrix;
use driftline_schemas::tables::{DriftRow, MetricRow, ScoreKind, Task};

use crate::rows::{
    batch, booleans, context, doubles, evaluate_everywhere, maps, overall, session, session_of, texts, times,
};

fn reasons(window: &EvaluatedWindow) -> Vec<&str> {
    let mut reasons: Vec<&str> = window.metrics.iter().filter_map(|row| row.reason.as_deref()).collect();
    reasons.sort_unstable();
    reasons.dedup();
    reasons
}

fn cells(window: &EvaluatedWindow) -> Vec<(&str, &str, i64)> {
    let overall = window.confusion.iter().filter(|row| row.segment.is_none() && row.model_version.is_none());
    overall.map(|row| (row.actual.as_str(), row.predicted.as_str(), row.count)).collect()
}

fn find<'a>(
    window: &'a EvaluatedWindow,
    metric: &str,
    version: Option<&str>,
    value: Option<&str>,
) -> Option<&'a MetricRow> {
    window.metrics.iter().find(|row| {
        row.metric == metric && row.model_version.as_deref() == version && row.segment_value.as_deref() == value
    })
}

#[tokio::test]
async fn e3_a_window_without_rows_or_labels_has_every_metric_with_the_reason() {
    for task in [Task::Binary, Task::Multiclass, Task::Regression] {
        let none: [Option<&str>; 0] = [];
        let empty =
            evaluate_everywhere(&batch(vec![("label", texts(&none)), ("score", doubles(&[]))]), &context(task)).await;
        assert_eq!(reasons(&empty), ["no_rows"], "{task:?}");
        assert!(empty.confusion.is_empty());
        let rows = batch(vec![("label", texts(&[None, None])), ("score", doubles(&[Some(0.1), None]))]);
        let unlabelled = evaluate_everywhere(&rows, &context(task)).await;
        assert_eq!(reasons(&unlabelled), ["no_labels"], "{task:?}");
        assert_eq!((unlabelled.metrics[0].n, unlabelled.metrics[0].n_labelled), (2, 0));
        assert_eq!(empty.metrics.len(), unlabelled.metrics.len());
        let rows = batch(vec![("label", texts(&[Some("1"), Some("0")]))]);
        let unscored = evaluate_everywhere(&rows, &context(task)).await;
        assert_eq!(reasons(&unscored), ["no_scores"], "{task:?}");
    }
}

#[tokio::test]
async fn rows_that_failed_were_refused_or_came_too_late_are_left_out() {
    let rows = batch(vec![
        ("label", texts(&[Some("1"), Some("0"), Some("1"), Some("1"), Some("1")])),
        ("prediction", texts(&[Some("1"), Some("0"), Some("0"), Some("0"), Some("0")])),
        ("error", texts(&[None, None, Some("timeout"), None, None])),
        ("invalid_reason", texts(&[None, None, None, Some("task_mismatch"), None])),
        ("after_final", booleans(&[None, Some(false), None, None, Some(true)])),
    ]);
    let window = evaluate_everywhere(&rows, &context(Task::Binary)).await;
    let accuracy = overall(&window, "accuracy", None);
    assert_eq!((accuracy.value, accuracy.n, accuracy.n_labelled), (Some(1.0), 2, 2));
}

#[tokio::test]
async fn a_prediction_stands_and_is_derived_only_where_there_is_none() {
    let rows = batch(vec![
        ("label", texts(&[Some("fraud"), Some("ok"), Some("fraud"), Some("ok")])),
        ("prediction", texts(&[Some("ok"), None, None, None])),
        ("score", doubles(&[Some(0.9), Some(0.5), None, None])),
        ("probabilities", maps(&[None, None, Some(vec![("fraud", 0.7), ("ok", 0.3)]), Some(vec![("ok", 1.0)])])),
    ]);
    let mut context = context(Task::Binary);
    context.positive_class = Some("fraud".to_owned());
    let window = evaluate_everywhere(&rows, &context).await;
    assert_eq!(cells(&window), [("fraud", "fraud", 1), ("fraud", "ok", 1), ("ok", "fraud", 1)]);
    context.score_kind = ScoreKind::Any;
    let window = evaluate_everywhere(&rows, &context).await;
    assert_eq!(overall(&window, "log_loss", None).reason.as_deref(), Some("not_probability"));
    assert_eq!(overall(&window, "roc_auc", None).value, Some(1.0));
}

#[tokio::test]
async fn many_negative_names_are_one_class() {
    let rows = batch(vec![
        ("label", texts(&[Some("fraud"), Some("ok"), Some("legit")])),
        ("prediction", texts(&[Some("fraud"), Some("fraud"), Some("ok")])),
    ]);
    let mut context = context(Task::Binary);
    context.positive_class = Some("fraud".to_owned());
    let window = evaluate_everywhere(&rows, &context).await;
    assert_eq!(cells(&window), [(OTHER, OTHER, 1), (OTHER, "fraud", 1), ("fraud", "fraud", 1)]);
    let unnamed =
        batch(vec![("label", texts(&[Some("true"), Some("false")])), ("score", doubles(&[Some(0.9), Some(0.8)]))]);
    let window = evaluate_everywhere(&unnamed, &crate::rows::context(Task::Binary)).await;
    assert_eq!(cells(&window), [("false", "true", 1), ("true", "true", 1)]);
}

#[tokio::test]
async fn classes_that_nobody_has_named_are_never_taken_for_one() {
    let rows = batch(vec![
        ("label", texts(&[Some("ok"), Some("fraud"), Some("ok"), Some("fraud")])),
        ("prediction", texts(&[Some("ok"), Some("ok"), Some("ok"), Some("ok")])),
        ("score", doubles(&[Some(0.1), Some(0.4), Some(0.1), None])),
    ]);
    let window = evaluate_everywhere(&rows, &context(Task::Binary)).await;
    assert_eq!(overall(&window, "accuracy", None).value, Some(0.5));
    assert_eq!(cells(&window), [("fraud", "ok", 2), ("ok", "ok", 2)]);
}

#[tokio::test]
async fn an_inferred_binary_model_with_a_third_class_is_judged_as_multiclass() {
    let rows = batch(vec![
        ("label", texts(&[Some("fraud"), Some("unknown"), Some("ok")])),
        ("prediction", texts(&[Some("fraud"), Some("ok"), Some("ok")])),
    ]);
    let mut context = context(Task::Binary);
    context.positive_class = Some("fraud".to_owned());
    let set = evaluate_everywhere(&rows, &context).await;
    assert_eq!(cells(&set), [(OTHER, OTHER, 2), ("fraud", "fraud", 1)]);
    context.task_is_inferred = true;
    let inferred = evaluate_everywhere(&rows, &context).await;
    assert_eq!(overall(&inferred, "accuracy", None).value, Some(2.0 / 3.0));
    assert_eq!(cells(&inferred), [("fraud", "fraud", 1), ("ok", "ok", 1), ("unknown", "ok", 1)]);
}

#[tokio::test]
async fn versions_and_segments_have_rows_of_their_own() {
    let rows = batch(vec![
        ("model_version", texts(&[Some("1"), Some("1"), Some("2"), Some("2"), None])),
        ("tag_region", texts(&[Some("eu"), Some("us"), Some("eu"), None, Some("eu")])),
        ("tag_channel", texts(&[Some("web"), Some("a,b"), Some("web"), Some("web"), None])),
        ("feature_age", doubles(&[Some(1.0), Some(1.5), Some(1.0), None, Some(1.0)])),
        ("label", texts(&[Some("1"), Some("0"), Some("1"), Some("1"), Some("0")])),
        ("prediction", texts(&[Some("1"), Some("0"), Some("0"), Some("1"), Some("0")])),
    ]);
    let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    let mut context = context(Task::Binary);
    context.segments =
        vec![names(&["region"]), names(&["region", "channel"]), names(&["features.age"]), names(&["absent"])];
    let window = evaluate_everywhere(&rows, &context).await;
    let accuracy = |version, value| find(&window, "accuracy", version, value).map(|row| (row.value, row.n));
    assert_eq!(accuracy(None, None), Some((Some(0.8), 5)));
    assert_eq!(accuracy(Some("2"), None), Some((Some(0.5), 2)));
    assert_eq!(accuracy(Some(""), None), Some((Some(1.0), 1)));
    assert_eq!(accuracy(None, Some("eu")), Some((Some(2.0 / 3.0), 3)));
    assert_eq!(accuracy(Some("2"), Some("eu")), Some((Some(0.0), 1)));
    assert_eq!(accuracy(None, Some("eu,web")), Some((Some(0.5), 2)));
    assert_eq!(accuracy(None, Some(r"us,a\,b")), Some((Some(1.0), 1)));
    assert_eq!(accuracy(None, Some("1")).map(|(_, n)| n), Some(3));
    assert_eq!(accuracy(None, Some("1.5")).map(|(_, n)| n), Some(1));
    assert!(window.metrics.iter().all(|row| row.segment.is_some() == row.segment_value.is_some()));
    assert!(window.metrics.iter().all(|row| row.segment.as_deref() != Some("absent")));
    context.segment_values_max = 1;
    context.segments = vec![names(&["region"])];
    let capped = evaluate_everywhere(&rows, &context).await;
    let n = |value| find(&capped, "accuracy", None, Some(value)).map(|row| row.n);
    assert_eq!((n("eu"), n("us"), n(OTHER)), (Some(3), None, Some(1)));
}

#[tokio::test]
async fn one_version_has_the_rows_of_all() {
    let rows = batch(vec![
        ("model_version", texts(&[Some("7"), Some("7")])),
        ("label_value", doubles(&[Some(1.0), Some(2.0)])),
        ("prediction_value", doubles(&[Some(1.5), Some(2.0)])),
    ]);
    let window = evaluate_everywhere(&rows, &context(Task::Regression)).await;
    let value = |version| find(&window, "mean_error", version, None).and_then(|row| row.value);
    assert_eq!((value(None), value(Some("7"))), (Some(0.25), Some(0.25)));
    assert_eq!(window.metrics.len(), 2 * 18);
    assert!(window.confusion.is_empty());
}

#[tokio::test]
async fn drift_is_measured_on_all_valid_rows_against_the_frozen_reference() {
    let numbers = |shift: f64| (0..256).map(|i| Some(f64::from(i % 64) / 64.0 + shift)).collect::<Vec<_>>();
    let words = |even: &'static str| (0..256).map(|i| Some(if i % 2 == 0 { even } else { "b" })).collect::<Vec<_>>();
    let rows = |shift: f64, even: &'static str| {
        batch(vec![
            ("score", doubles(&numbers(shift))),
            ("prediction", texts(&words("a"))),
            ("feature_amount", doubles(&numbers(0.0))),
            ("feature_country_text", texts(&words(even))),
            ("feature_empty", doubles(&[None; 256])),
        ])
    };
    let reference = Reference::from_table(&session(&rows(0.0, "a"), 1), "rows", Task::Binary).await.expect("reads");
    let again = Reference::from_table(&session(&rows(0.0, "a"), 8), "rows", Task::Binary).await.expect("reads");
    assert_eq!(reference, again);
    let json = serde_json::to_string(&reference).expect("serializes");
    assert_eq!(serde_json::from_str::<Reference>(&json).expect("deserializes"), reference);
    let mut context = context(Task::Binary);
    context.reference = Some(Arc::new(reference.clone()));
    let window = evaluate_everywhere(&rows(0.5, "z"), &context).await;
    let drift = |column: &str, method: &str| -> &DriftRow {
        window.drift.iter().find(|row| row.column_name == column && row.method == method).expect("measured")
    };
    assert_eq!(drift("score", "ks").drifted, Some(true));
    assert_eq!(drift("score", "ks").statistic, Some(0.5));
    assert_eq!(drift("score", "psi").drifted, Some(true));
    assert_eq!(drift("amount", "ks").p_value, Some(1.0));
    assert_eq!(drift("amount", "psi").statistic, Some(0.0));
    assert_eq!(drift("prediction", "psi").drifted, Some(false));
    assert_eq!(drift("country", "psi").drifted, Some(true));
    assert_eq!((drift("country", "psi").n, drift("country", "psi").n_reference), (256, 256));
    assert_eq!(window.drift.len(), 2 * 10 + 2 * 7);
    let decides = |column: &str| -> Vec<&str> {
        let rows = window.drift.iter().filter(|row| row.column_name == column && row.decides == Some(true));
        rows.map(|row| row.method.as_str()).collect()
    };
    assert_eq!((decides("score"), decides("country")), (vec!["ks"], vec!["jensen_shannon"]));
    assert_eq!(drift("score", "wasserstein").statistic, Some(0.5));
    assert_eq!(drift("score", "chi2").drifted, Some(true));
    let quality = |column: &str, check: &str| {
        let row = window.quality.iter().find(|row| row.column_name == column && row.check == check).expect("checked");
        (row.value, row.reference_value, row.n)
    };
    assert_eq!(quality("score", "out_of_range_rate"), (Some(0.5), Some(0.0), 256));
    assert_eq!(quality("score", "missing_rate"), (Some(0.0), Some(0.0), 256));
    assert_eq!(quality("country", "unseen_rate"), (Some(0.5), Some(0.0), 256));
    assert_eq!(quality("amount", "type_error_rate"), (Some(0.0), Some(0.0), 256));
    assert_eq!(quality("amount", "constant"), (Some(0.0), Some(0.0), 256));
    assert_eq!(window.metrics[0].reference_version.as_deref(), Some(reference.version.as_str()));
}

#[tokio::test]
async fn drift_of_a_segment_and_of_the_labels_is_that_of_its_rows() {
    let count = 256;
    let region = |i: usize| ["eu", "us", ""][i % 4 % 3];
    // Only the scores of `us` have moved; a fifth of the rows has a label yet, and these are all `a`.
    let moved = |i: usize| if region(i) == "us" { 0.5 } else { 0.0 };
    let rows = |is_moved: bool| {
        let score = |i: usize| (i / 4) as f64 / 64.0 + if is_moved { moved(i) } else { 0.0 };
        let label = |i: usize| if is_moved { i.is_multiple_of(5).then_some("a") } else { Some(["a", "b"][i % 2]) };
        batch(vec![
            ("model_version", texts(&(0..count).map(|i| Some(["1", "2"][i / 4 % 2])).collect::<Vec<_>>())),
            ("score", doubles(&(0..count).map(|i| Some(score(i))).collect::<Vec<_>>())),
            ("label", texts(&(0..count).map(label).collect::<Vec<_>>())),
            ("tag_region", texts(&(0..count).map(|i| Some(region(i)).filter(|r| !r.is_empty())).collect::<Vec<_>>())),
        ])
    };
    let reference = Reference::from_table(&session(&rows(false), 1), "rows", Task::Binary).await.expect("reads");
    let mut context = context(Task::Binary);
    context.segments = vec![vec!["region".to_owned()]];
    context.reference = Some(Arc::new(reference));
    let window = evaluate_everywhere(&rows(true), &context).await;
    let drift = |column: &str, method: &str, value: Option<&str>, version: Option<&str>| -> &DriftRow {
        let mut found = window.drift.iter().filter(|row| {
            row.column_name == column
                && row.method == method
                && row.segment.as_deref() == value.map(|_| "region")
                && row.segment_value.as_deref() == value
                && row.model_version.as_deref() == version
        });
        let row = found.next().expect("measured");
        assert!(found.next().is_none(), "once");
        row
    };
    for version in [None, Some("1"), Some("2")] {
        let share = if version.is_some() { 2 } else { 1 };
        assert_eq!(drift("score", "ks", Some("us"), version).n, 64 / share);
        assert_eq!(drift("score", "ks", Some("us"), version).drifted, Some(true));
        assert_eq!(drift("score", "ks", Some("eu"), version).n, 128 / share);
        assert_eq!(drift("score", "ks", Some("eu"), version).drifted, Some(false));
        assert_eq!(drift("score", "ks", None, version).n, 256 / share, "rows without a region count here only");
        // Six labels of one class are far off and may be chance; thirteen are not.
        assert!(drift("label", "psi", Some("us"), version).statistic.is_some_and(|psi| psi > 0.2));
        assert_eq!(drift("label", "psi", Some("us"), version).drifted, Some(version.is_none()));
    }
    assert_eq!((drift("label", "psi", None, None).n, drift("label", "psi", None, None).n_reference), (52, 256));
    assert!(window.drift.iter().all(|row| row.segment_value.as_deref() != Some("")));
    assert_eq!(
        window.drift.len(),
        9 * (10 + 7),
        "all, eu and us, by two versions and over both: ten methods for scores, seven for labels"
    );
    assert!(window.quality.iter().all(|row| row.column_name != "label" || row.check != "missing_rate"));
}

#[tokio::test]
async fn without_a_reference_drift_says_so() {
    let rows = batch(vec![("score", doubles(&[Some(0.5)]))]);
    let window = evaluate(&session(&rows, 1), "rows", &context(Task::Binary)).await.expect("evaluates");
    let said: Vec<_> = window.drift.iter().map(|row| (row.column_name.as_str(), row.reason.as_deref())).collect();
    assert_eq!(said, [("prediction", Some("no_reference")), ("score", Some("no_reference"))]);
}

#[tokio::test]
async fn a_window_without_rows_has_no_distance_from_its_reference() {
    let full = batch(vec![("score", doubles(&[Some(0.1), Some(0.2)]))]);
    let mut context = context(Task::Binary);
    let reference = Reference::from_table(&session(&full, 1), "rows", Task::Binary).await.expect("reads");
    context.reference = Some(Arc::new(reference));
    let window = evaluate_everywhere(&batch(vec![("score", doubles(&[None]))]), &context).await;
    assert!(window.drift.iter().all(|row| row.reason.as_deref() == Some("no_rows") && row.drifted.is_none()));
    assert_eq!(window.drift.len(), 10);
}

#[tokio::test]
async fn quality_counts_what_is_missing_of_another_type_out_of_range_or_unseen() {
    let rows = |amounts: &[Option<f64>], words: &[Option<&str>], countries: &[Option<&str>]| {
        batch(vec![
            ("feature_amount", doubles(amounts)),
            ("feature_amount_text", texts(words)),
            ("feature_country_text", texts(countries)),
        ])
    };
    let reference =
        rows(&[Some(1.0), Some(2.0), Some(3.0), None], &[None; 4], &[Some("NL"), Some("BE"), Some("NL"), Some("NL")]);
    let columns = |batch: &arrow::array::RecordBatch, left_out: &str| {
        let kept: Vec<usize> =
            (0..batch.num_columns()).filter(|i| batch.schema().field(*i).name() != left_out).collect();
        batch.project(&kept).expect("columns")
    };
    let frozen = columns(&reference, "feature_amount_text");
    let reference = Reference::from_table(&session(&frozen, 1), "rows", Task::Binary).await.expect("reads");
    assert_eq!(reference.rows, 4);
    let mut context = context(Task::Binary);
    context.reference = Some(Arc::new(reference));
    let window = evaluate_everywhere(
        &rows(
            &[Some(0.5), Some(1.0), Some(f64::NAN), None, Some(9.0)],
            &[None, None, None, Some("many"), None],
            &[Some("NL"), Some("FR"), None, Some("NL"), None],
        ),
        &context,
    )
    .await;
    let find = |window: &EvaluatedWindow, column: &str, check: &str| {
        let row = window.quality.iter().find(|row| row.column_name == column && row.check == check).expect("checked");
        (row.value, row.reference_value, row.n)
    };
    assert_eq!(find(&window, "amount", "missing_rate"), (Some(0.4), Some(0.25), 5));
    assert_eq!(find(&window, "amount", "type_error_rate"), (Some(0.25), Some(0.0), 4));
    assert_eq!(find(&window, "amount", "out_of_range_rate"), (Some(2.0 / 3.0), Some(0.0), 3));
    assert_eq!(find(&window, "country", "missing_rate"), (Some(0.4), Some(0.0), 5));
    assert_eq!(find(&window, "country", "unseen_rate"), (Some(1.0 / 3.0), Some(0.0), 3));
    // A column that no row has any more.
    let gone = evaluate_everywhere(&columns(&frozen, "feature_country_text"), &context).await;
    assert_eq!(find(&gone, "country", "missing_rate"), (Some(1.0), Some(0.0), 4));
    let row =
        gone.quality.iter().find(|row| row.column_name == "country" && row.check == "unseen_rate").expect("checked");
    assert_eq!((row.value, row.reason.as_deref()), (None, Some("no_rows")));
    // Without a reference, what is missing is still counted.
    context.reference = None;
    let alone = evaluate_everywhere(&frozen, &context).await;
    assert_eq!(find(&alone, "amount", "missing_rate"), (Some(0.25), None, 4));
    assert_eq!(find(&alone, "__features__", "duplicate_rate"), (Some(0.0), None, 4));
    assert_eq!(alone.quality.len(), 3);
}

#[tokio::test]
async fn rows_that_repeat_all_features_are_counted() {
    let rows = batch(vec![
        ("feature_amount", doubles(&[Some(1.0), Some(1.0), Some(1.0), None, None, Some(0.0), Some(-0.0)])),
        ("feature_country_text", texts(&[Some("NL"), Some("NL"), Some("BE"), None, None, Some("NL"), Some("NL")])),
        ("error", texts(&[None, None, None, None, None, None, None])),
    ]);
    let window = evaluate_everywhere(&rows, &context(Task::Binary)).await;
    let row = window.quality.iter().find(|row| row.check == "duplicate_rate").expect("checked");
    assert_eq!(
        (row.value, row.n, row.column_name.as_str()),
        (Some(0.4), 5, "__features__"),
        "rows without features are none"
    );
    let featureless =
        evaluate_everywhere(&batch(vec![("score", doubles(&[Some(0.5); 3]))]), &context(Task::Binary)).await;
    assert!(featureless.quality.is_empty());
}

#[tokio::test]
async fn of_segments_with_few_rows_nothing_is_published() {
    let regions = [Some("eu"), Some("eu"), Some("eu"), Some("us"), Some("us"), Some("jp"), Some("cn"), None];
    let rows = batch(vec![
        ("tag_region", texts(&regions)),
        (
            "model_version",
            texts(&[Some("1"), Some("1"), Some("2"), Some("1"), Some("1"), Some("1"), Some("1"), Some("1")]),
        ),
        ("label", texts(&[Some("1"); 8])),
        ("prediction", texts(&[Some("1"); 8])),
        ("feature_age", doubles(&[Some(1.0); 8])),
    ]);
    let mut context = context(Task::Binary);
    context.segments = vec![vec!["region".to_owned()]];
    let published = |window: &EvaluatedWindow| {
        let mut groups: Vec<(Option<String>, String, i64)> = Vec::new();
        for row in &window.metrics {
            groups.extend(row.segment_value.clone().map(|value| (row.model_version.clone(), value, row.n)));
        }
        let values = |of: Vec<&Option<String>>| of.into_iter().flatten().cloned().collect::<Vec<String>>();
        for others in [
            values(window.serving.iter().map(|row| &row.segment_value).collect()),
            values(window.confusion.iter().map(|row| &row.segment_value).collect()),
            values(window.quality.iter().map(|row| &row.segment_value).collect()),
        ] {
            assert!(others.iter().all(|value| groups.iter().any(|(_, known, _)| known == value)), "{others:?}");
        }
        groups.sort();
        groups.dedup();
        groups
    };
    let all = published(&evaluate_everywhere(&rows, &context).await);
    assert_eq!(all.len(), 9, "four regions, of which eu has two versions: {all:?}");
    context.segments_min_rows = 2;
    let v = |version: &str| Some(version.to_owned());
    // jp and cn are one group together; eu's single row of version 2 is not said.
    let expected = [
        (None, OTHER.to_owned(), 2),
        (None, "eu".to_owned(), 3),
        (None, "us".to_owned(), 2),
        (v("1"), OTHER.to_owned(), 2),
        (v("1"), "eu".to_owned(), 2),
        (v("1"), "us".to_owned(), 2),
    ];
    assert_eq!(published(&evaluate_everywhere(&rows, &context).await), expected);
    context.segments_min_rows = 3;
    let three = published(&evaluate_everywhere(&rows, &context).await);
    assert_eq!(three, [(None, OTHER.to_owned(), 4), (None, "eu".to_owned(), 3), (v("1"), OTHER.to_owned(), 4)]);
}

#[tokio::test]
async fn decisions_are_worth_what_the_cost_matrix_says() {
    let rows = batch(vec![
        ("label", texts(&[Some("1"), Some("0"), Some("1"), Some("0"), None])),
        ("prediction", texts(&[Some("1"), Some("1"), Some("0"), Some("0"), Some("1")])),
        ("sampling_rate", doubles(&[Some(0.5), None, Some(1.0), Some(0.25), Some(1.0)])),
    ]);
    let mut context = context(Task::Binary);
    let without = evaluate_everywhere(&rows, &context).await;
    assert!(without.metrics.iter().all(|row| !row.metric.starts_with("business")));
    context.cost = Some(CostMatrix { tp: 90.0, fp: -10.0, missed: -100.0, tn: 0.5 });
    let window = evaluate_everywhere(&rows, &context).await;
    // 2 · 90 − 10 − 100 + 4 · 0.5, over eight requests that the rows stand for.
    assert_eq!(overall(&window, "business_value", None).value, Some(72.0));
    assert_eq!(overall(&window, "business_value_mean", None).value, Some(9.0));
    assert_eq!(overall(&window, "business_value", None).baseline, Some(3.0 * 90.0 - 5.0 * 10.0));
    let unlabelled = batch(vec![("label", texts(&[None])), ("prediction", texts(&[Some("1")]))]);
    let window = evaluate_everywhere(&unlabelled, &context).await;
    assert_eq!(overall(&window, "business_value", None).reason.as_deref(), Some("no_labels"));
}

#[tokio::test]
async fn curves_are_of_all_rows_and_by_version_and_keep_the_area() {
    let versions: Vec<Option<&str>> = (0..2000).map(|row| Some(if row % 3 == 0 { "1" } else { "2" })).collect();
    let scores: Vec<Option<f64>> = (0..2000).map(|row| Some(f64::from(row * 7919 % 2003) / 2003.0)).collect();
    let labels: Vec<Option<&str>> =
        (0..2000).map(|row| Some(if row * 7919 % 2003 + row % 700 > 1300 { "1" } else { "0" })).collect();
    let rows = batch(vec![
        ("model_version", texts(&versions)),
        ("tag_region", texts(&versions)),
        ("label", texts(&labels)),
        ("score", doubles(&scores)),
    ]);
    let mut context = context(Task::Binary);
    context.segments = vec![vec!["region".to_owned()]];
    let window = evaluate_everywhere(&rows, &context).await;
    for version in [None, Some("1"), Some("2")] {
        let points = |curve: &str| -> Vec<(f64, f64)> {
            let of = window.curves.iter().filter(|row| row.curve == curve && row.model_version.as_deref() == version);
            of.map(|row| (row.x, row.y)).collect()
        };
        for curve in ["roc", "precision_recall", "gain", "reliability"] {
            let count = points(curve).len();
            assert!(if curve == "reliability" { count == 10 } else { (90..=200).contains(&count) }, "{curve}: {count}");
        }
        let roc = points("roc");
        let area: f64 = roc.windows(2).map(|pair| (pair[1].0 - pair[0].0) * (pair[0].1 + pair[1].1) / 2.0).sum();
        let value = find(&window, "roc_auc", version, None).and_then(|row| row.value).expect("two classes");
        assert!((area - value).abs() < 1e-12, "{area} is not {value}");
    }
    assert!(window.curves.iter().all(|row| row.model_version.is_none() || row.point < 200));
}

#[tokio::test]
async fn rows_from_a_parquet_file_are_the_rows_in_memory() {
    for versions in [[Some("1"), Some("1"), Some("1")], [Some("1"), Some("2"), None]] {
        let rows = batch(vec![
            ("model_version", texts(&versions)),
            ("tag_region", texts(&[Some("eu"), None, Some("us")])),
            ("label", texts(&[Some("fraud"), Some("ok"), Some("ok")])),
            ("prediction", texts(&[Some("fraud"), None, Some("ok")])),
            ("probabilities", maps(&[Some(vec![("fraud", 0.9), ("ok", 0.1)]), Some(vec![("fraud", 0.6)]), None])),
        ]);
        let folder = tempfile::tempdir().expect("temporary folder");
        let path = folder.path().join("rows.parquet");
        let file = std::fs::File::create(&path).expect("new file");
        let mut writer = parquet::arrow::ArrowWriter::try_new(file, rows.schema(), None).expect("schema");
        writer.write(&rows).expect("writes");
        writer.close().expect("closes");
        for task in [Task::Binary, Task::Multiclass] {
            let mut context = context(task);
            context.positive_class = (task == Task::Binary).then(|| "fraud".to_owned());
            context.segments = vec![vec!["region".to_owned()]];
            let session = SessionContext::new();
            udaf::register(&session);
            let path = path.to_str().expect("text path");
            session.register_parquet("rows", path, ParquetReadOptions::default()).await.expect("registers");
            let window = evaluate(&session, "rows", &context).await.expect("evaluates");
            assert_eq!(window, evaluate_everywhere(&rows, &context).await);
            driftline_evaluator::session::hold(&session, "rows").await.expect("reads");
            assert_eq!(window, evaluate(&session, "rows", &context).await.expect("evaluates"), "held in memory");
        }
    }
}

#[tokio::test]
async fn classes_that_are_numbers_are_judged_as_their_text_is() {
    let (labels, predictions) =
        ([Some(1), Some(0), None, Some(2), Some(0)], [Some(1), Some(1), Some(0), None, Some(0)]);
    let scores = ("score", doubles(&[Some(0.9), Some(0.6), Some(0.1), Some(0.3), None]));
    let numbers = |values: &[Option<i64>]| -> ArrayRef { Arc::new(Int64Array::from(values.to_vec())) };
    let spelled = |values: &[Option<i64>]| -> ArrayRef {
        Arc::new(values.iter().map(|value| value.map(|value| value.to_string())).collect::<StringArray>())
    };
    for count in [3, 5] {
        let cut = |column: &ArrayRef| column.slice(0, count);
        let rows = |label: &ArrayRef, prediction: &ArrayRef| {
            batch(vec![("label", cut(label)), ("prediction", cut(prediction)), (scores.0, cut(&scores.1))])
        };
        let as_numbers = rows(&numbers(&labels), &numbers(&predictions));
        let as_texts = rows(&spelled(&labels), &spelled(&predictions));
        for positive in [None, Some("1"), Some("0"), Some("yes"), Some("01"), Some("2")] {
            let mut context = context(Task::Binary);
            context.positive_class = positive.map(str::to_owned);
            let expected = evaluate_everywhere(&as_texts, &context).await;
            assert_eq!(evaluate_everywhere(&as_numbers, &context).await, expected, "{positive:?} of {count}");
        }
    }
}

/// The rows of `count` requests: an hour's, in regions of falling size, two versions, a third of them without a label yet.
fn of_regions(regions: &[&'static str]) -> RecordBatch {
    let count = regions.len();
    let each = |of: &dyn Fn(usize) -> Option<&'static str>| texts(&(0..count).map(of).collect::<Vec<_>>());
    let score = |i: usize| (i * 37 % 100) as f64 / 100.0;
    let micros = |i: usize| i as i64 * 1_000_000;
    let times = |of: &dyn Fn(usize) -> Option<i64>| times(&(0..count).map(of).collect::<Vec<_>>());
    let is_labelled = |i: usize| !i.is_multiple_of(3);
    batch(vec![
        ("tag_region", each(&|i| Some(regions[i]))),
        ("model_version", each(&|i| Some(if i % 10 == 9 { "2" } else { "1" }))),
        ("label", each(&|i| is_labelled(i).then_some(if (i * 61 % 97) as f64 / 97.0 < score(i) { "1" } else { "0" }))),
        ("score", doubles(&(0..count).map(|i| Some(score(i))).collect::<Vec<_>>())),
        ("feature_age", doubles(&(0..count).map(|i| Some((i % 7) as f64)).collect::<Vec<_>>())),
        ("event_time", times(&|i| Some(micros(i)))),
        ("label_time", times(&|i| is_labelled(i).then(|| micros(i) + 60_000_000))),
    ])
}

#[tokio::test]
async fn no_table_says_anything_of_segments_with_few_rows() {
    // 200 of eu, 60 of us, 9 of jp and 8 of cn; a tenth of each has version 2.
    let regions: Vec<&'static str> = (0..277)
        .map(|i| {
            if i < 200 {
                "eu"
            } else if i < 260 {
                "us"
            } else if i < 269 {
                "jp"
            } else {
                "cn"
            }
        })
        .collect();
    let rows = of_regions(&regions);
    let reference = Reference::from_table(&session(&rows, 1), "rows", Task::Binary).await.expect("reads");
    let mut context = context(Task::Binary);
    context.segments = vec![vec!["region".to_owned()]];
    context.reference = Some(Arc::new(reference));
    type Said = BTreeSet<(Option<String>, String)>;
    let said = |window: &EvaluatedWindow| -> Vec<(&'static str, Said)> {
        macro_rules! of {
            ($table:ident) => {{
                let named = window
                    .$table
                    .iter()
                    .filter_map(|row| Some((row.model_version.clone(), row.segment_value.clone()?)));
                (stringify!($table), named.collect())
            }};
        }
        vec![of!(metrics), of!(confusion), of!(estimates), of!(label_lag), of!(drift), of!(quality), of!(serving)]
    };
    for (table, groups) in said(&evaluate_everywhere(&rows, &context).await) {
        assert!(
            groups.contains(&(None, "cn".to_owned())) && groups.len() >= 4 * 2,
            "{table} has each region: {groups:?}"
        );
    }
    context.segments_min_rows = 17;
    let window = evaluate_everywhere(&rows, &context).await;
    let group = |version: Option<&str>, value: &str| (version.map(str::to_owned), value.to_owned());
    // jp and cn are 17 rows together; of version 2 only eu has so many.
    let expected: Said = [
        group(None, OTHER),
        group(None, "eu"),
        group(None, "us"),
        group(Some("1"), "eu"),
        group(Some("1"), "us"),
        group(Some("2"), "eu"),
    ]
    .into();
    for (table, groups) in said(&window) {
        assert_eq!(groups, expected, "{table}");
    }
    assert!(window.estimates.iter().any(|row| row.method == "nowcast" && row.segment_value.is_some()));
    assert!(window.metrics.iter().any(|row| row.model_version.as_deref() == Some("2") && row.segment.is_none()));
}

#[tokio::test]
async fn what_is_repeated_is_counted_among_the_rows_that_count_beyond_the_columns_too() {
    let rows = |json: [Option<&str>; 4], refused: [Option<&str>; 4]| {
        batch(vec![
            ("feature_amount", doubles(&[Some(1.0); 4])),
            ("features_json", texts(&json)),
            ("invalid_reason", texts(&refused)),
        ])
    };
    let rate = async |rows: RecordBatch| {
        let window = evaluate_everywhere(&rows, &context(Task::Binary)).await;
        let row = window.quality.iter().find(|row| row.check == "duplicate_rate").expect("checked");
        (row.value, row.n)
    };
    assert_eq!(rate(rows([Some("a"), Some("a"), Some("b"), None], [None; 4])).await, (Some(0.25), 4));
    let refused = [None, Some("task_mismatch"), None, None];
    assert_eq!(rate(rows([Some("a"), Some("a"), Some("b"), None], refused)).await, (Some(0.0), 3));
}

#[tokio::test]
async fn the_curves_of_the_only_version_are_those_of_all_and_segments_have_none() {
    let rows = batch(vec![
        ("model_version", texts(&[Some("7"); 4])),
        ("tag_region", texts(&[Some("eu"), Some("eu"), Some("eu"), Some("eu")])),
        ("label", texts(&[Some("1"), Some("0"), Some("1"), Some("0")])),
        ("score", doubles(&[Some(0.9), Some(0.8), Some(0.4), Some(0.1)])),
    ]);
    let mut context = context(Task::Binary);
    context.segments = vec![vec!["region".to_owned()]];
    let window = evaluate_everywhere(&rows, &context).await;
    assert!(window.curves.iter().all(|row| row.model_version.is_none()));
    let mut points: Vec<_> = window.curves.iter().map(|row| (row.curve.as_str(), row.point)).collect();
    let count = points.len();
    points.sort_unstable();
    points.dedup();
    assert_eq!((points.len(), count), (16, 16), "five of roc, two of precision, five of gain, four bins");
}

#[tokio::test]
async fn a_reference_is_of_its_columns_by_name_and_of_the_rows_that_count() {
    let frozen =
        async |rows: &RecordBatch| Reference::from_table(&session(rows, 2), "rows", Task::Binary).await.expect("reads");
    let named = |name: &str| batch(vec![(name, doubles(&[Some(1.0), Some(2.0), Some(3.0)]))]);
    let (amount, age) = (frozen(&named("feature_amount")).await, frozen(&named("feature_age")).await);
    assert_ne!(amount.version, age.version, "equal values of another column are another reference");
    let refused = batch(vec![
        ("feature_amount", doubles(&[Some(1.0), Some(2.0), Some(3.0), Some(99.0), Some(98.0)])),
        ("error", texts(&[None, None, None, Some("timeout"), None])),
        ("invalid_reason", texts(&[None, None, None, None, Some("task_mismatch")])),
    ]);
    assert_eq!(frozen(&refused).await, amount);
    // A feature of both kinds is what it is more of, numbers if it is as much of both.
    let mixed = |texts_too: &[Option<&str>]| {
        let numbers: Vec<Option<f64>> =
            texts_too.iter().enumerate().map(|(i, text)| text.is_none().then_some(i as f64)).collect();
        batch(vec![("feature_x", doubles(&numbers)), ("feature_x_text", texts(texts_too))])
    };
    let is_numeric = async |rows: RecordBatch| {
        let reference = frozen(&rows).await;
        assert_eq!(reference.columns.len(), 1);
        matches!(reference.columns[0].values, ReferenceValues::Numeric { .. })
    };
    assert!(is_numeric(mixed(&[None, Some("a"), None, Some("b")])).await);
    assert!(is_numeric(mixed(&[None, Some("a"), None, None])).await);
    assert!(!is_numeric(mixed(&[None, Some("a"), Some("b"), Some("c")])).await);
    // A document whose content is not that of its version is refused.
    let json = serde_json::to_string(&amount).expect("serializes");
    assert_eq!(Reference::from_json(json.as_bytes()), Some(Ok(amount)));
    let edited = json.replace("[1.0,2.0,3.0]", "[1.0,2.0,4.0]");
    assert_ne!(edited, json);
    assert!(
        matches!(Reference::from_json(edited.as_bytes()), Some(Err(why)) if why.contains("its content is of version"))
    );
    assert_eq!(Reference::from_json(b"{\"score\":0.5}"), None, "rows, not a reference");
}

/// What ten million rows cost. Run it optimised: `cargo test -p driftline-evaluator --release -- --ignored --nocapture`.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes ten million rows"]
async fn ten_million_rows() {
    let mut state = 1_u64;
    let mut next = move || {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 11) as f64 / (1_u64 << 53) as f64
    };
    let scores: Vec<Option<f64>> = (0..10_000_000).map(|_| Some(next())).collect();
    let labels: Vec<Option<&str>> =
        scores.iter().map(|s| Some(if next() < s.unwrap_or(0.0) { "fraud" } else { "ok" })).collect();
    let rows = batch(vec![("label", texts(&labels)), ("score", doubles(&scores))]);
    let mut context = context(Task::Binary);
    context.positive_class = Some("fraud".to_owned());
    let session = session_of(&rows, 2, 8192);
    let began = std::time::Instant::now();
    let window = evaluate(&session, "rows", &context).await.expect("evaluates");
    println!("{:?}: {:?}", began.elapsed(), overall(&window, "roc_auc", None));
}

#[tokio::test]
async fn what_features_added_to_scores_drifts_as_columns_do() {
    let rows = |shift: f64| {
        let of = |i: usize| Some(vec![("amount", (i % 64) as f64 / 64.0 + shift), ("age", (i % 7) as f64)]);
        batch(vec![
            ("feature_amount", doubles(&(0..256).map(|i| Some(f64::from(i % 9))).collect::<Vec<_>>())),
            ("attributions", maps(&(0..256).map(|i| of(i).filter(|_| i % 4 != 3)).collect::<Vec<_>>())),
        ])
    };
    let reference = Reference::from_table(&session(&rows(0.0), 1), "rows", Task::Binary).await.expect("reads");
    let again = Reference::from_table(&session(&rows(0.0), 8), "rows", Task::Binary).await.expect("reads");
    assert_eq!(reference, again);
    let names: Vec<&str> = reference.columns.iter().map(|kept| kept.column.name()).collect();
    assert_eq!(names, ["amount", "attributions.age", "attributions.amount"]);
    let mut context = context(Task::Binary);
    context.reference = Some(Arc::new(reference));
    let window = evaluate_everywhere(&rows(0.5), &context).await;
    let ks = |column: &str| {
        let is = |row: &&DriftRow| row.column_name == column && row.method == "ks";
        let row = window.drift.iter().find(is).expect("measured");
        (row.drifted, row.n, row.n_reference)
    };
    assert_eq!(ks("attributions.amount"), (Some(true), 192, 192));
    assert_eq!(ks("attributions.age"), (Some(false), 192, 192));
    assert_eq!(ks("amount"), (Some(false), 256, 256));
    let missing =
        window.quality.iter().find(|row| row.column_name == "attributions.age" && row.check == "missing_rate");
    assert_eq!(missing.map(|row| row.value), Some(Some(0.25)));
    // Rows that no longer carry any say so for features alone.
    let bare = batch(vec![("feature_amount", doubles(&[Some(1.0)]))]);
    let gone = evaluate_everywhere(&bare, &context).await;
    assert!(gone.drift.iter().all(|row| row.column_name == "amount"));
}

#[tokio::test]
async fn each_version_has_distances_and_values_of_another_type_of_its_own_and_a_single_one_those_of_all() {
    let plain =
        |name: &str| batch(vec![(name, doubles(&(0..256).map(|i| Some(f64::from(i % 16))).collect::<Vec<_>>()))]);
    let reference = Reference::from_table(&session(&plain("feature_x"), 2), "rows", Task::Binary).await.expect("reads");
    let mut context = context(Task::Binary);
    context.reference = Some(Arc::new(reference));
    // In the second half, that of another version, every other value is a text.
    let rows = |versions: [&'static str; 2]| {
        let is_text = |i: usize| i >= 128 && i % 2 == 1;
        batch(vec![
            ("feature_x", doubles(&(0..256).map(|i| (!is_text(i)).then_some((i % 16) as f64)).collect::<Vec<_>>())),
            ("feature_x_text", texts(&(0..256).map(|i| is_text(i).then_some("many")).collect::<Vec<_>>())),
            ("model_version", texts(&(0..256).map(|i| Some(versions[usize::from(i >= 128)])).collect::<Vec<_>>())),
        ])
    };
    let found = |window: &EvaluatedWindow| -> Vec<(Option<String>, i64, Option<f64>)> {
        let drift = window.drift.iter().filter(|row| row.column_name == "x" && row.method == "ks");
        let rate = |version: &Option<String>| {
            let is = |row: &&driftline_schemas::tables::QualityRow| {
                row.column_name == "x" && row.check == "type_error_rate" && row.model_version == *version
            };
            window.quality.iter().find(is).and_then(|row| row.value)
        };
        drift.map(|row| (row.model_version.clone(), row.n, rate(&row.model_version))).collect()
    };
    let of = |version: Option<&str>, n: i64, rate: f64| (version.map(str::to_owned), n, Some(rate));
    let two = evaluate_everywhere(&rows(["1", "2"]), &context).await;
    assert_eq!(found(&two), [of(None, 192, 0.25), of(Some("1"), 128, 0.0), of(Some("2"), 64, 0.5)]);
    let one = evaluate_everywhere(&rows(["1", "1"]), &context).await;
    assert_eq!(found(&one), [of(None, 192, 0.25), of(Some("1"), 192, 0.25)]);
}

#[tokio::test]
async fn b1_of_many_attributions_the_first_by_name_are_kept() {
    let names: Vec<String> = (0..70).map(|at| format!("f{at:02}")).collect();
    let of = |row: usize| Some(names.iter().map(|name| (name.as_str(), row as f64)).collect::<Vec<_>>());
    let rows = batch(vec![("attributions", maps(&(0..8).map(of).collect::<Vec<_>>()))]);
    let reference = Reference::from_table(&session(&rows, 2), "rows", Task::Binary).await.expect("reads");
    let kept: Vec<&str> = reference.columns.iter().map(|kept| kept.column.name()).collect();
    assert_eq!((kept.len(), kept[0], kept[63]), (64, "attributions.f00", "attributions.f63"));
}

/// 256 rows of two features that go together; `apart`: how far the second strays in each half of the rows.
fn together(apart: [f64; 2], versions: [&'static str; 2], failed: Option<&'static str>) -> RecordBatch {
    let half = |i: usize| usize::from(i >= 128);
    let x = |i: usize| (i % 32) as f64 / 8.0;
    let y = |i: usize| {
        let stray = if i.is_multiple_of(2) { apart[half(i)] } else { -apart[half(i)] };
        x(i) + [-0.1, 0.1, 0.2][i % 3] + stray
    };
    batch(vec![
        ("feature_a", doubles(&(0..256).map(|i| Some(x(i))).collect::<Vec<_>>())),
        ("feature_b", doubles(&(0..256).map(|i| Some(y(i))).collect::<Vec<_>>())),
        ("model_version", texts(&(0..256).map(|i| Some(versions[half(i)])).collect::<Vec<_>>())),
        ("error", texts(&(0..256).map(|i| failed.filter(|_| half(i) == 1)).collect::<Vec<_>>())),
    ])
}

#[tokio::test]
async fn what_features_have_in_common_is_of_the_rows_that_count_over_all_and_by_version() {
    let frozen =
        async |rows: &RecordBatch| Reference::from_table(&session(rows, 2), "rows", Task::Binary).await.expect("reads");
    let mut reference = frozen(&together([0.0, 0.0], ["1", "1"], None)).await;
    let mut context = context(Task::Binary);
    context.reference = Some(Arc::new(reference.clone()));
    let found = |window: &EvaluatedWindow| -> Vec<(Option<String>, i64, Option<bool>, Option<String>)> {
        let rows = window.drift.iter().filter(|row| row.method == "pca_reconstruction");
        rows.map(|row| (row.model_version.clone(), row.n, row.drifted, row.reason.clone())).collect()
    };
    let of = |version: Option<&str>, n: i64, drifted| (version.map(str::to_owned), n, Some(drifted), None);
    // The second version's features have come apart; its rows are half of all.
    let two = evaluate_everywhere(&together([0.0, 2.0], ["1", "2"], None), &context).await;
    assert_eq!(found(&two), [of(None, 256, true), of(Some("1"), 128, false), of(Some("2"), 128, true)]);
    // One version has all rows.
    let one = evaluate_everywhere(&together([0.0, 2.0], ["2", "2"], None), &context).await;
    assert_eq!(found(&one), [of(None, 256, true), of(Some("2"), 256, true)]);
    // Requests that failed are no rows, in the window as in the reference.
    let failed = together([0.0, 2.0], ["1", "1"], Some("timeout"));
    assert_eq!(found(&evaluate_everywhere(&failed, &context).await)[0], of(None, 128, false));
    assert_eq!(frozen(&failed).await.components.expect("two features").errors.n, 128);
    // What cannot be measured says why.
    let few = batch(vec![("feature_a", doubles(&[Some(1.0)])), ("feature_b", doubles(&[Some(1.0)]))]);
    let without = |n: i64, reason: &str| (None, n, None, Some(reason.to_owned()));
    assert_eq!(found(&evaluate_everywhere(&few, &context).await), [without(1, "too_few_rows")]);
    assert_eq!(found(&evaluate_everywhere(&few.slice(0, 0), &context).await), [without(0, "no_rows")]);
    reference.components.as_mut().expect("two features").errors.deviation = 0.0;
    context.reference = Some(Arc::new(reference));
    let same = evaluate_everywhere(&together([0.0, 2.0], ["2", "2"], None), &context).await;
    assert_eq!(found(&same)[0], without(256, "constant"));
}

#[tokio::test]
async fn b1_of_many_features_the_first_by_name_are_looked_at_together() {
    let names: Vec<String> = (0..40).map(|at| format!("feature_f{at:02}")).collect();
    let column = |at: usize| doubles(&(0..64).map(|row| Some((row * (at + 3) % 61) as f64)).collect::<Vec<_>>());
    let rows = batch(names.iter().enumerate().map(|(at, name)| (name.as_str(), column(at))).collect());
    let reference = Reference::from_table(&session(&rows, 2), "rows", Task::Binary).await.expect("reads");
    let components = reference.components.expect("many features");
    assert_eq!((components.features.len(), components.features[31].as_str()), (32, "f31"));
    assert_eq!(reference.columns.len(), 40, "each has its own drift");
}

#[tokio::test]
async fn the_method_that_decides_for_categories_has_the_p_value_of_its_test() {
    let words =
        |even: &'static str| texts(&(0..256).map(|i| Some(if i % 2 == 0 { even } else { "b" })).collect::<Vec<_>>());
    let rows = |even| batch(vec![("feature_country_text", words(even))]);
    let reference = Reference::from_table(&session(&rows("a"), 1), "rows", Task::Binary).await.expect("reads");
    let mut context = context(Task::Binary);
    context.reference = Some(Arc::new(reference));
    let window = evaluate_everywhere(&rows("z"), &context).await;
    let p_value = |method: &str| window.drift.iter().find(|row| row.method == method).expect("measured").p_value;
    assert!(p_value("jensen_shannon").is_some_and(|p| p < 1e-9));
    assert_eq!(p_value("jensen_shannon"), p_value("chi2"));
    assert_eq!(p_value("psi"), None, "it decides nothing");
}

/// B1: labels that are ids make neither a row of every metric for each of them, nor hits of what are misses.
#[tokio::test]
async fn b1_labels_that_are_ids_have_one_class_beyond_the_thousandth() {
    const ROWS: usize = 6_000;
    let id = |row: usize| format!("id-{row}");
    // One row in two is of a class, and every third of these is missed; of the ids every second is hit. One in ten waits for its label.
    let label = |row: usize| match row % 10 {
        9 => None,
        at if at % 2 == 0 => Some(["a", "b", "c"][row / 2 % 3].to_owned()),
        _ => Some(id(row)),
    };
    let is_hit = |row: usize| if row.is_multiple_of(2) { !(row / 2).is_multiple_of(4) } else { row % 4 == 1 };
    let prediction = |row: usize| match label(row) {
        Some(label) if is_hit(row) => label,
        Some(label) if label == "a" => "b".to_owned(),
        _ => id(row + 1),
    };
    let (labels, predictions): (Vec<_>, Vec<_>) = (0..ROWS).map(|row| (label(row), prediction(row))).unzip();
    let chances: Vec<Option<Vec<(&str, f64)>>> =
        predictions.iter().map(|said| Some(vec![(said.as_str(), 0.7), ("a", 0.3)])).collect();
    let regions: Vec<Option<&str>> = (0..ROWS).map(|row| Some(["eu", "us"][row / 7 % 2])).collect();
    let rows = batch(vec![
        ("label", texts(&labels.iter().map(Option::as_deref).collect::<Vec<_>>())),
        ("prediction", texts(&predictions.iter().map(|said| Some(said.as_str())).collect::<Vec<_>>())),
        ("probabilities", maps(&chances)),
        ("tag_region", texts(&regions)),
    ]);
    let mut context = context(Task::Multiclass);
    context.segments = vec![vec!["region".to_owned()]];
    let window = evaluate_everywhere(&rows, &context).await;

    let labelled = (0..ROWS).filter(|row| label(*row).is_some()).count() as f64;
    let hits = (0..ROWS).filter(|row| label(*row).is_some() && is_hit(*row)).count() as f64;
    assert_eq!(overall(&window, "accuracy", None).value, Some(hits / labelled));
    let of_a: Vec<usize> = (0..ROWS).filter(|row| label(*row).as_deref() == Some("a")).collect();
    let recall = of_a.iter().filter(|row| is_hit(**row)).count() as f64 / of_a.len() as f64;
    assert_eq!(overall(&window, "recall", Some("a")).value, Some(recall));
    for region in [None, Some("eu"), Some("us")] {
        let classes: BTreeSet<Option<&str>> =
            (window.metrics.iter().filter(|row| row.metric == "recall" && row.segment_value.as_deref() == region))
                .map(|row| row.class.as_deref())
                .collect();
        assert!(classes.len() <= 1_002 && classes.contains(&Some(OTHER)), "{} classes of {region:?}", classes.len());
    }
    let nowcast = window.estimates.iter().find(|row| row.method == "nowcast" && row.metric == "accuracy");
    let nowcast = nowcast.and_then(|row| row.value).expect("some labels are still to come");
    assert!((nowcast - hits / labelled).abs() < 1e-12, "{nowcast}");
}
