//! Estimates: E2, equal to scikit-learn on calibrated probabilities, with 1, 2 and 8 partitions; groups, reasons, what has been realised.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    sync::Arc,
};

use arrow::array::RecordBatch;
use driftline_evaluator::{EvaluatedWindow, EvaluationContext, Reference, reference::Terms};
use driftline_schemas::tables::{EstimateRow, LabelLagRow, ScoreKind, Task};
use serde::Deserialize;

use crate::rows::{batch, context, doubles, evaluate_everywhere, maps, overall, session, texts, times};

/// Relative, and absolute below one.
const TOLERANCE: f64 = 1e-11;

#[derive(Deserialize)]
struct Golden {
    binary: Vec<BinaryCase>,
    multiclass: Vec<MulticlassCase>,
    regression: Vec<RegressionCase>,
}

#[derive(Deserialize)]
struct BinaryCase {
    name: String,
    reference: ScoredReference,
    score: Vec<f64>,
    rate: Vec<f64>,
    threshold: f64,
    expected: BTreeMap<String, Option<f64>>,
}

#[derive(Deserialize)]
struct ScoredReference {
    score: Vec<f64>,
    label: Vec<u8>,
    rate: Vec<f64>,
}

#[derive(Deserialize)]
struct MulticlassCase {
    name: String,
    classes: Vec<String>,
    reference: ClassReference,
    probabilities: Vec<Vec<f64>>,
    prediction: Vec<String>,
    expected: BTreeMap<String, Option<f64>>,
    by_class: BTreeMap<String, BTreeMap<String, f64>>,
}

#[derive(Deserialize)]
struct ClassReference {
    probabilities: Vec<Vec<f64>>,
    label: Vec<String>,
}

#[derive(Deserialize)]
struct RegressionCase {
    name: String,
    reference: NumberReference,
    prediction: Vec<f64>,
    expected: BTreeMap<String, Option<f64>>,
}

#[derive(Deserialize)]
struct NumberReference {
    prediction: Vec<f64>,
    label: Vec<f64>,
}

fn golden() -> Golden {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden/estimates.json");
    serde_json::from_str(&std::fs::read_to_string(path).expect("golden file")).expect("golden cases")
}

fn some<T: Copy>(values: &[T]) -> Vec<Option<T>> {
    values.iter().copied().map(Some).collect()
}

/// The estimate of all rows.
fn estimate<'a>(window: &'a EvaluatedWindow, metric: &str) -> &'a EstimateRow {
    let is = |row: &&EstimateRow| {
        let is_overall = row.segment.is_none() && row.model_version.is_none() && row.class.is_none();
        row.metric == metric && row.method != "nowcast" && is_overall
    };
    window.estimates.iter().find(is).unwrap_or_else(|| panic!("no estimate of {metric}"))
}

/// Freezes the reference on 1, 2 and 8 partitions: it must be the same.
async fn frozen(rows: &RecordBatch, terms: impl Into<Terms>) -> Arc<Reference> {
    let terms = terms.into();
    let one = Reference::from_table(&session(rows, 1), "rows", terms.clone()).await.expect("reads");
    for partitions in [2, 8] {
        let many = Reference::from_table(&session(rows, partitions), "rows", terms.clone()).await.expect("reads");
        assert_eq!(one, many, "{partitions} partitions");
    }
    let json = serde_json::to_string(&one).expect("serializes");
    assert_eq!(serde_json::from_str::<Reference>(&json).expect("deserializes"), one);
    Arc::new(one)
}

fn check(name: &str, window: &EvaluatedWindow, expected: &BTreeMap<String, Option<f64>>) {
    assert_eq!(window.estimates.iter().filter(|row| row.class.is_none()).count(), expected.len(), "{name}");
    for (metric, theirs) in expected {
        let ours = estimate(window, metric);
        match (ours.value, theirs) {
            (None, None) => {}
            (Some(a), Some(b)) => {
                assert!((a - b).abs() <= TOLERANCE * b.abs().max(1.0), "{name} {metric}: {a} is not {b}");
                assert!(ours.ci_low.is_some_and(|low| low <= a) && ours.ci_high.is_some_and(|high| high >= a));
            }
            (ours, theirs) => panic!("{name} {metric}: {ours:?} is not {theirs:?}"),
        }
    }
}

fn with_reference(task: Task, reference: Arc<Reference>) -> EvaluationContext {
    EvaluationContext { reference: Some(reference), score_kind: ScoreKind::Any, ..context(task) }
}

#[tokio::test]
async fn e2_binary_estimates_equal_scikit_learn_on_calibrated_rows() {
    for case in golden().binary {
        let labels: Vec<Option<&str>> =
            case.reference.label.iter().map(|y| Some(["0", "1"][usize::from(*y)])).collect();
        let rows = batch(vec![
            ("score", doubles(&some(&case.reference.score))),
            ("label", texts(&labels)),
            ("sampling_rate", doubles(&some(&case.reference.rate))),
        ]);
        let mut context = with_reference(Task::Binary, frozen(&rows, Task::Binary).await);
        context.threshold = case.threshold;
        let rows = batch(vec![("score", doubles(&some(&case.score))), ("sampling_rate", doubles(&some(&case.rate)))]);
        check(&case.name, &evaluate_everywhere(&rows, &context).await, &case.expected);
    }
}

#[tokio::test]
async fn e2_multiclass_estimates_equal_scikit_learn_on_calibrated_rows() {
    for case in golden().multiclass {
        let named = |rows: &[Vec<f64>]| {
            let row = |p: &Vec<f64>| Some(case.classes.iter().map(String::as_str).zip(p.iter().copied()).collect());
            maps(&rows.iter().map(row).collect::<Vec<_>>())
        };
        let classes = |of: &[String]| texts(&of.iter().map(|class| Some(class.as_str())).collect::<Vec<_>>());
        let rows = batch(vec![
            ("probabilities", named(&case.reference.probabilities)),
            ("label", classes(&case.reference.label)),
        ]);
        let context = with_reference(Task::Multiclass, frozen(&rows, Task::Multiclass).await);
        let rows =
            batch(vec![("probabilities", named(&case.probabilities)), ("prediction", classes(&case.prediction))]);
        let window = evaluate_everywhere(&rows, &context).await;
        check(&case.name, &window, &case.expected);
        for (metric, by_class) in &case.by_class {
            for (class, theirs) in by_class {
                let is = |row: &&EstimateRow| &row.metric == metric && row.class.as_ref() == Some(class);
                let row = window.estimates.iter().find(is).expect("estimated");
                let ours = row.value.expect("defined");
                assert!(
                    (ours - theirs).abs() <= TOLERANCE,
                    "{} {metric} of {class}: {ours} is not {theirs}",
                    case.name
                );
            }
        }
    }
}

#[tokio::test]
async fn e2_regression_estimates_equal_numpy_on_binned_losses() {
    for case in golden().regression {
        let rows = batch(vec![
            ("prediction_value", doubles(&some(&case.reference.prediction))),
            ("label_value", doubles(&some(&case.reference.label))),
        ]);
        let context = with_reference(Task::Regression, frozen(&rows, Task::Regression).await);
        let rows = batch(vec![("prediction_value", doubles(&some(&case.prediction)))]);
        check(&case.name, &evaluate_everywhere(&rows, &context).await, &case.expected);
    }
}

/// Scores, and labels that follow them, of rows in two regions.
fn rows(count: usize, labelled: impl Fn(usize) -> bool) -> RecordBatch {
    let score = |i: usize| (i * 37 % 100) as f64 / 100.0;
    let label = |i: usize| labelled(i).then_some(if (i * 61 % 97) as f64 / 97.0 < score(i) { "fraud" } else { "ok" });
    batch(vec![
        ("score", doubles(&(0..count).map(|i| Some(score(i))).collect::<Vec<_>>())),
        ("label", texts(&(0..count).map(label).collect::<Vec<_>>())),
        ("model_version", texts(&(0..count).map(|i| Some(["1", "2"][i % 2])).collect::<Vec<_>>())),
        ("tag_region", texts(&(0..count).map(|i| ["eu", "us"].get(i % 3).copied()).collect::<Vec<_>>())),
    ])
}

fn fraud() -> Terms {
    Terms { task: Task::Binary, positive_class: Some("fraud".to_owned()) }
}

#[tokio::test]
async fn every_group_is_estimated_beside_what_has_been_realised() {
    let reference = frozen(&rows(2_000, |_| true), fraud()).await;
    let mut context = with_reference(Task::Binary, reference.clone());
    context.positive_class = Some("fraud".to_owned());
    context.segments = vec![vec!["region".to_owned()]];
    let window = evaluate_everywhere(&rows(900, |i| i % 4 == 0), &context).await;
    let of_reference = |window: &EvaluatedWindow| -> Vec<EstimateRow> {
        window.estimates.iter().filter(|row| row.method == "cbpe").cloned().collect()
    };
    let estimates = of_reference(&window);
    assert_eq!(estimates.len(), 11 * 9, "all, eu and us, by two versions and over both");
    for row in &estimates {
        let realised = window.metrics.iter().find(|metric| {
            (&metric.metric, &metric.model_version, &metric.segment_value, &metric.class)
                == (&row.metric, &row.model_version, &row.segment_value, &None)
        });
        if let Some(realised) = realised {
            assert_eq!((row.realised, row.n_labelled), (realised.value, realised.n_labelled), "{row:?}");
        }
        let n = match row.segment_value {
            Some(_) => 300,
            None => 900,
        };
        assert_eq!(row.n, if row.model_version.is_some() { n / 2 } else { n });
        assert_eq!((row.method.as_str(), row.reference_version.as_deref()), ("cbpe", Some(reference.version.as_str())));
    }
    let shares: f64 = ["true_positive", "false_positive", "false_negative", "true_negative"]
        .iter()
        .map(|cell| estimate(&window, &format!("{cell}_share")).value.expect("defined"))
        .sum();
    assert!((shares - 1.0).abs() < 1e-12);
    let row = estimate(&window, "true_positive_share");
    let recall = overall(&window, "recall", None).value.expect("defined");
    let prevalence =
        row.realised.expect("labelled") + estimate(&window, "false_negative_share").realised.expect("labelled");
    assert!((row.realised.expect("labelled") / prevalence - recall).abs() < 1e-12);
    // The same rows wholly labelled: no estimate moves, for none looks at a label.
    let labelled = evaluate_everywhere(&rows(900, |_| true), &context).await;
    for (before, after) in estimates.iter().zip(&of_reference(&labelled)) {
        assert_eq!((before.value, before.ci_low, before.ci_high), (after.value, after.ci_low, after.ci_high));
    }
    let accuracy = estimate(&labelled, "accuracy");
    let realised = accuracy.realised.expect("labelled");
    assert!(accuracy.ci_low.expect("an interval") <= realised && realised <= accuracy.ci_high.expect("an interval"));
}

#[tokio::test]
async fn e3_an_estimate_that_cannot_be_has_a_reason() {
    let reasons = |window: &EvaluatedWindow| {
        let mut reasons: Vec<Option<String>> = window.estimates.iter().map(|row| row.reason.clone()).collect();
        reasons.dedup();
        reasons
    };
    let is = |reason: &str| vec![Some(reason.to_owned())];
    let mut context = context(Task::Binary);
    context.positive_class = Some("fraud".to_owned());
    let window = rows(100, |_| false);
    assert_eq!(reasons(&evaluate_everywhere(&window, &context).await), is("no_reference"));
    for (reference, reason) in [(rows(100, |_| false), "no_labels"), (rows(100, |i| i % 100 == 0), "one_class")] {
        context.reference = Some(frozen(&reference, fraud()).await);
        assert_eq!(reasons(&evaluate_everywhere(&window, &context).await), is(reason));
    }
    context.reference = Some(frozen(&rows(400, |_| true), fraud()).await);
    let unscored = batch(vec![("prediction", texts(&[Some("fraud"), Some("ok")]))]);
    assert_eq!(reasons(&evaluate_everywhere(&unscored, &context).await), is("no_scores"));
    let nothing = batch(vec![("score", doubles(&[]))]);
    assert_eq!(reasons(&evaluate_everywhere(&nothing, &context).await), is("no_rows"));
    // A reference of another positive class or task says nothing of this one.
    context.positive_class = Some("ok".to_owned());
    assert_eq!(reasons(&evaluate_everywhere(&window, &context).await), is("no_reference"));
    context.task = Task::Regression;
    assert_eq!(reasons(&evaluate_everywhere(&window, &context).await), is("no_reference"));
}

#[tokio::test]
async fn a_reference_without_labels_keeps_the_version_it_had_and_one_with_labels_depends_on_them() {
    let version = async |labelled: fn(usize) -> bool, positive: &str| {
        let terms = Terms { task: Task::Binary, positive_class: Some(positive.to_owned()) };
        Reference::from_table(&session(&rows(200, labelled), 1), "rows", terms).await.expect("reads").version
    };
    assert_eq!(version(|_| false, "fraud").await, version(|_| false, "ok").await);
    assert_ne!(version(|_| true, "fraud").await, version(|_| true, "ok").await, "the curve is another");
}

#[tokio::test]
async fn a_reference_keeps_the_metrics_of_its_labelled_rows_under_a_version_that_knows_them() {
    let segments = vec![vec!["region".to_owned()]];
    let judged = EvaluationContext { segments, positive_class: fraud().positive_class, ..context(Task::Binary) };
    let all = rows(400, |row| row % 4 != 0);
    let frozen = async |partitions: usize, judged: &EvaluationContext| {
        let plain = Reference::from_table(&session(&all, partitions), "rows", fraud()).await.expect("reads");
        assert_eq!(plain.metrics, None);
        let kept = plain.clone().with_metrics(&session(&all, partitions), "rows", judged).await.expect("judges");
        (plain, kept)
    };
    let (plain, kept) = frozen(1, &judged).await;
    assert_ne!(plain.version, kept.version);
    assert_eq!(frozen(8, &judged).await.1, kept, "whatever the partitions");
    // The very figures, with their intervals, that a window of the same rows has.
    let window = evaluate_everywhere(&all, &judged).await;
    let metrics = kept.metrics.as_ref().expect("it has labels");
    let rows_with_value = window.metrics.iter().filter(|row| row.value.is_some() && row.n_labelled > 0);
    let mut compared = 0;
    for row in rows_with_value.filter(|row| row.model_version.is_none()) {
        let own = metrics.of(row).unwrap_or_else(|| panic!("no {} of {:?}", row.metric, row.segment_value));
        assert_eq!((Some(own.value), own.ci_low, own.ci_high), (row.value, row.ci_low, row.ci_high), "{}", row.metric);
        assert_eq!(own.n_labelled, row.n_labelled);
        compared += 1;
    }
    assert_eq!(compared, metrics.values.len());
    assert!(metrics.values.iter().any(|own| own.metric == "roc_auc" && own.ci_low.is_some()), "{metrics:?}");
    // Another threshold is another reference, and a document says what it is, or is refused.
    let other = EvaluationContext { threshold: 0.9, ..judged.clone() };
    assert_ne!(frozen(1, &other).await.1.version, kept.version);
    let json = serde_json::to_vec(&kept).expect("serializes");
    assert_eq!(Reference::from_json(&json).expect("a reference").expect("whole"), kept);
    let mut changed = kept.clone();
    changed.metrics.as_mut().expect("kept").values[0].value += 0.01;
    let json = serde_json::to_vec(&changed).expect("serializes");
    assert!(Reference::from_json(&json).expect("a reference").is_err());
    // Without labels there are none, and the version stays what it was.
    let unlabelled = rows(400, |_| false);
    let plain = Reference::from_table(&session(&unlabelled, 1), "rows", fraud()).await.expect("reads");
    let same = plain.clone().with_metrics(&session(&unlabelled, 1), "rows", &judged).await.expect("judges");
    assert_eq!(same, plain);
}

const HOUR: i64 = 3_600_000_000;

/// Rows over an hour. Labels come after `lag` hours, as far as they have come at `now` hours after the window's start.
fn arriving(count: usize, lag: impl Fn(usize) -> f64, now: f64) -> RecordBatch {
    let predicted = |i: usize| (i as i64 * HOUR) / count as i64;
    let labelled = |i: usize| predicted(i) + (lag(i) * HOUR as f64) as i64;
    let is_there = |i: usize| labelled(i) <= (now * HOUR as f64) as i64;
    let score = |i: usize| (i * 37 % 100) as f64 / 100.0;
    let label = |i: usize| if (i * 61 % 97) as f64 / 97.0 < score(i) { "1" } else { "0" };
    batch(vec![
        ("score", doubles(&(0..count).map(|i| Some(score(i))).collect::<Vec<_>>())),
        ("label", texts(&(0..count).map(|i| is_there(i).then(|| label(i))).collect::<Vec<_>>())),
        ("event_time", times(&(0..count).map(|i| Some(predicted(i))).collect::<Vec<_>>())),
        ("label_time", times(&(0..count).map(|i| is_there(i).then(|| labelled(i))).collect::<Vec<_>>())),
        ("tag_region", texts(&(0..count).map(|i| Some(["eu", "us"][i % 2])).collect::<Vec<_>>())),
    ])
}

fn share(window: &EvaluatedWindow, hours: i64, region: Option<&str>) -> LabelLagRow {
    let is = |row: &&LabelLagRow| {
        row.within_seconds == hours * 3_600 && row.segment_value.as_deref() == region && row.model_version.is_none()
    };
    window.label_lag.iter().find(is).expect("a row for each mark").clone()
}

#[tokio::test]
async fn the_arrival_curve_is_that_of_rows_that_could_have_a_label_by_now() {
    let mut context = context(Task::Binary);
    context.segments = vec![vec!["region".to_owned()]];
    context.decided_at = chrono::DateTime::from_timestamp(40 * 3_600, 0).expect("in range");
    // Those of `eu` come after half an hour, those of `us` after half an hour to 20 hours, evenly.
    let lag = |i: usize| if i.is_multiple_of(2) { 0.5 } else { 0.5 + 19.5 * (i * 29 % 400) as f64 / 400.0 };
    let young = evaluate_everywhere(&arriving(4_000, lag, 7.0), &context).await;
    let eu = share(&young, 1, Some("eu"));
    assert_eq!((eu.share, eu.n, eu.n_labelled, eu.coverage), (Some(1.0), 2_000, 2_000, Some(1.0)));
    let us = share(&young, 6, Some("us"));
    let (low, high) = (us.ci_low.expect("known"), us.ci_high.expect("known"));
    assert!(low < 5.5 / 19.5 && 5.5 / 19.5 < high && high - low < 0.05, "{us:?}");
    assert_eq!(share(&young, 24, Some("us")).reason.as_deref(), Some("too_few_rows"), "nobody has waited a day");
    let looked_at = us.looked_at.expect("the newest label").timestamp_micros();
    assert!((6 * HOUR..=7 * HOUR).contains(&looked_at), "a replay's clock says nothing: {looked_at}");
    assert_eq!(us.median_seconds, None);
    // Once final, what has no label has waited for ever.
    context.state = "final".to_owned();
    let last = evaluate_everywhere(&arriving(4_000, lag, 7.0), &context).await;
    let us = share(&last, 24, Some("us"));
    assert!(
        us.share.is_some_and(|share| (share - us.n_labelled as f64 / us.n as f64).abs() < 1e-9)
            && us.looked_at.is_none()
    );
    assert!(last.estimates.iter().all(|row| row.method != "nowcast"), "a final window has its figures");
}

#[tokio::test]
async fn e3_a_lag_that_nobody_knows_has_a_reason() {
    let mut context = context(Task::Binary);
    let none = evaluate_everywhere(&arriving(10, |_| 1.0, 0.0), &context).await;
    assert!(none.label_lag.iter().all(|row| row.reason.as_deref() == Some("no_labels") && row.share.is_none()));
    assert_eq!((none.label_lag.len(), none.label_lag[0].n), (8, 10));
    let empty = evaluate_everywhere(&arriving(0, |_| 1.0, 9.0), &context).await;
    assert!(empty.label_lag.iter().all(|row| row.reason.as_deref() == Some("no_rows") && row.coverage.is_none()));
    context.state = "final".to_owned();
    let never = evaluate_everywhere(&arriving(10, |_| 1.0, 0.0), &context).await;
    assert!(never.label_lag.iter().all(|row| row.share == Some(0.0)), "no label will come any more");
    let timeless = evaluate_everywhere(&batch(vec![("score", doubles(&[Some(0.5)]))]), &context).await;
    assert_eq!(timeless.label_lag, []);
}

#[tokio::test]
async fn labels_that_come_first_for_high_scores_are_noticed_and_weighed_down() {
    let context = context(Task::Binary);
    let high = |i: usize| (i * 37 % 100) >= 50;
    // Nine of ten high scores have a label, and one of ten low ones.
    let selective = |i: usize| if (i / 100).is_multiple_of(10) == high(i) { 100.0 } else { 1.0 };
    let whole = evaluate_everywhere(&arriving(20_000, |_| 1.0, 9.0), &context).await;
    let window = evaluate_everywhere(&arriving(20_000, selective, 9.0), &context).await;
    let lag = share(&window, 1, None);
    assert_eq!((lag.selection_column.as_deref(), lag.selection_method.as_deref()), (Some("score"), Some("ks")));
    assert_eq!((lag.is_selective, lag.n_labelled), (Some(true), 10_000));
    assert!(lag.selection_statistic.is_some_and(|statistic| (statistic - 0.8).abs() < 1e-12));
    for metric in ["accuracy", "recall", "specificity", "precision", "f1", "roc_auc", "average_precision", "log_loss"] {
        let (truth, biased) = (overall(&whole, metric, None), overall(&window, metric, None));
        let row = window.estimates.iter().find(|row| row.metric == metric && row.method == "nowcast").expect("waits");
        let (low, high) = (row.ci_low.expect("an interval"), row.ci_high.expect("an interval"));
        let truth = truth.value.expect("defined");
        assert!(low <= truth && truth <= high, "{metric}: {truth} is not in {low}..{high}");
        assert_eq!((row.realised, row.n, row.n_labelled), (biased.value, 20_000, 10_000));
        assert_eq!((row.reference_version.as_deref(), row.reason.as_deref()), (None, None));
    }
    // The labels that are there say another share of positives.
    let recall = |window: &EvaluatedWindow| overall(window, "recall", None).value.expect("defined");
    assert!(recall(&window) > recall(&whole) + 0.1);
    // Labels that come by chance are not selective, and the nowcast stays close.
    let chance = |i: usize| if (i / 100).is_multiple_of(2) { 1.0 } else { 100.0 };
    let window = evaluate_everywhere(&arriving(20_000, chance, 9.0), &context).await;
    assert_eq!(share(&window, 1, None).is_selective, Some(false));
}

#[tokio::test]
async fn a_nowcast_ends_where_the_metric_is_and_its_band_is_gone() {
    let context = context(Task::Binary);
    let width = async |late: usize| {
        let window = evaluate_everywhere(&arriving(4_000, |i| if i < late { 100.0 } else { 1.0 }, 9.0), &context).await;
        let row = window.estimates.iter().find(|row| row.metric == "accuracy" && row.method == "nowcast").cloned();
        row.map(|row| row.ci_high.expect("an interval") - row.ci_low.expect("an interval"))
    };
    let (far, near) = (width(2_000).await.expect("waits"), width(40).await.expect("waits"));
    assert!(near < far / 4.0, "{near} {far}");
    assert_eq!(width(0).await, None);
    assert_eq!(width(4_000).await, None, "nothing to say it from");
}

#[tokio::test]
async fn other_tasks_are_nowcast_too() {
    let count = 3_000;
    let there = |i: usize| i.is_multiple_of(3) || i % 100 < 20;
    let value = |i: usize| (i * 37 % 100) as f64;
    let numbers = |whole: bool| {
        let label = |i: usize| (whole || there(i)).then(|| value(i) + (i * 61 % 97) as f64 / 97.0 * value(i) / 10.0);
        batch(vec![
            ("prediction_value", doubles(&(0..count).map(|i| Some(value(i))).collect::<Vec<_>>())),
            ("label_value", doubles(&(0..count).map(label).collect::<Vec<_>>())),
            ("label", texts(&(0..count).map(|i| label(i).map(|_| "0")).collect::<Vec<_>>())),
        ])
    };
    let classes = |whole: bool| {
        let said = |i: usize| ["a", "b", "c"][i * 37 % 100 * 3 / 100];
        let label = |i: usize| (whole || there(i)).then(|| if i * 61 % 97 < 70 { said(i) } else { "a" });
        batch(vec![
            ("prediction", texts(&(0..count).map(|i| Some(said(i))).collect::<Vec<_>>())),
            ("label", texts(&(0..count).map(label).collect::<Vec<_>>())),
        ])
    };
    for (task, metric, rows, whole) in [
        (Task::Regression, "mean_absolute_error", numbers(false), numbers(true)),
        (Task::Multiclass, "accuracy", classes(false), classes(true)),
    ] {
        let truth = overall(&evaluate_everywhere(&whole, &context(task)).await, metric, None).value.expect("defined");
        let window = evaluate_everywhere(&rows, &context(task)).await;
        let row = window.estimates.iter().find(|row| row.metric == metric && row.method == "nowcast").expect("waits");
        let (low, high) = (row.ci_low.expect("an interval"), row.ci_high.expect("an interval"));
        assert!(low <= truth && truth <= high, "{metric}: {truth} is not in {low}..{high}");
    }
}

#[tokio::test]
async fn b1_versions_beyond_the_cap_are_one_in_estimates_too() {
    let mut context = with_reference(Task::Binary, frozen(&rows(2_000, |_| true), fraud()).await);
    (context.positive_class, context.segment_values_max) = (Some("fraud".to_owned()), 3);
    let count = 400;
    let versions: Vec<String> = (0..count).map(|i| format!("v{}", i % 20)).collect();
    let score = |i: usize| (i * 37 % 100) as f64 / 100.0;
    let label = |i: usize| i.is_multiple_of(3).then_some(if i.is_multiple_of(2) { "fraud" } else { "ok" });
    let window = batch(vec![
        ("score", doubles(&(0..count).map(|i| Some(score(i))).collect::<Vec<_>>())),
        ("label", texts(&(0..count).map(label).collect::<Vec<_>>())),
        ("model_version", texts(&versions.iter().map(|version| Some(version.as_str())).collect::<Vec<_>>())),
    ]);
    let window = evaluate_everywhere(&window, &context).await;
    let of_metrics: BTreeSet<_> = window.metrics.iter().map(|row| row.model_version.as_deref()).collect();
    assert!(of_metrics.len() <= 5, "all, three, and the others: {of_metrics:?}");
    for method in ["cbpe", "nowcast"] {
        let rows = window.estimates.iter().filter(|row| row.method == method);
        let found: BTreeSet<_> = rows.map(|row| row.model_version.as_deref()).collect();
        assert_eq!(found, of_metrics, "{method}");
    }
}

/// Rows with what they were scored, said and labelled; a label is there where `there` says so.
struct Waiting<'a> {
    score: &'a dyn Fn(usize) -> Option<f64>,
    is_right: &'a dyn Fn(usize) -> bool,
    is_there: &'a dyn Fn(usize) -> bool,
    rate: &'a dyn Fn(usize) -> Option<f64>,
}

impl Waiting<'_> {
    fn rows(&self, count: usize) -> RecordBatch {
        let label = |i: usize| (self.is_there)(i).then_some(if (self.is_right)(i) { "1" } else { "0" });
        batch(vec![
            ("score", doubles(&(0..count).map(|i| (self.score)(i)).collect::<Vec<_>>())),
            ("prediction", texts(&vec![Some("1"); count])),
            ("label", texts(&(0..count).map(label).collect::<Vec<_>>())),
            ("sampling_rate", doubles(&(0..count).map(|i| (self.rate)(i)).collect::<Vec<_>>())),
        ])
    }
}

async fn nowcast(rows: &RecordBatch, task: Task) -> EstimateRow {
    let window = evaluate_everywhere(rows, &context(task)).await;
    let is = |row: &&EstimateRow| row.metric == "accuracy" && row.method == "nowcast";
    window.estimates.iter().find(is).expect("waits").clone()
}

#[tokio::test]
async fn a_nowcast_weighs_each_stratum_as_all_of_its_rows() {
    // 1,000 rows of score .2, of which 900 have a label and all are right; 1,000 of .8: 100 labels, a quarter right.
    let low = |i: usize| i.is_multiple_of(2);
    let rows = Waiting {
        score: &|i| Some(if low(i) { 0.2 } else { 0.8 }),
        is_right: &|i| low(i) || i / 2 % 4 == 0,
        is_there: &|i| if low(i) { i / 2 % 10 != 0 } else { i / 2 < 100 },
        rate: &|_| None,
    };
    let row = nowcast(&rows.rows(2_000), Task::Binary).await;
    assert!(row.value.is_some_and(|value| (value - 0.625).abs() < 1e-9), "{row:?}");
    assert!(row.realised.is_some_and(|realised| (realised - 925.0 / 1_000.0).abs() < 1e-12));
    // The same where the strata are predicted classes.
    let said = |i: usize| if low(i) { "a" } else { "b" };
    let label = |i: usize| (rows.is_there)(i).then(|| if (rows.is_right)(i) { said(i) } else { "c" });
    let classes = batch(vec![
        ("prediction", texts(&(0..2_000).map(|i| Some(said(i))).collect::<Vec<_>>())),
        ("label", texts(&(0..2_000).map(label).collect::<Vec<_>>())),
    ]);
    let row = nowcast(&classes, Task::Multiclass).await;
    assert!(row.value.is_some_and(|value| (value - 0.625).abs() < 1e-9), "{row:?}");
}

#[tokio::test]
async fn a_nowcast_keeps_what_rows_stand_for_and_those_without_a_score() {
    // Each second row stands for four, and is right; of the others none is. Half of either has a label.
    let heavy = |i: usize| i.is_multiple_of(2);
    let rows = Waiting {
        score: &|_| Some(0.5),
        is_right: &heavy,
        is_there: &|i| i / 2 % 2 == 0,
        rate: &|i| heavy(i).then_some(0.25),
    };
    let row = nowcast(&rows.rows(800), Task::Binary).await;
    assert!(row.value.is_some_and(|value| (value - 0.8).abs() < 1e-9), "{row:?}");
    // Half of the rows have no score, and are wrong.
    let unscored = Waiting { score: &|i| heavy(i).then_some(0.5), rate: &|_| None, ..rows };
    let row = nowcast(&unscored.rows(800), Task::Binary).await;
    assert!(row.value.is_some_and(|value| (value - 0.5).abs() < 1e-9), "{row:?}");
}

#[tokio::test]
async fn the_band_of_a_nowcast_is_the_metrics_less_what_is_known_already() {
    // One stratum, so all rows weigh the same: a quarter of them waits.
    let rows = Waiting { score: &|_| Some(0.5), is_right: &|i| i % 5 < 3, is_there: &|i| i % 4 != 3, rate: &|_| None };
    let rows = rows.rows(2_000);
    let window = evaluate_everywhere(&rows, &context(Task::Binary)).await;
    let metric = overall(&window, "accuracy", None);
    let row = nowcast(&rows, Task::Binary).await;
    let value = metric.value.expect("labelled");
    assert!(row.value.is_some_and(|nowcast| (nowcast - value).abs() < 1e-9));
    for (ours, whole) in [(row.ci_low, metric.ci_low), (row.ci_high, metric.ci_high)] {
        let (ours, whole) = (ours.expect("a band") - value, whole.expect("an interval") - value);
        assert!((ours / whole - 0.25_f64.sqrt()).abs() < 1e-6, "{ours} of {whole}");
    }
}

#[tokio::test]
async fn a_small_difference_between_labelled_and_waiting_rows_is_no_selection() {
    let there = |share_of_low: usize| {
        move |i: usize| i / 100 % 25 < if i * 37 % 100 < 50 { share_of_low } else { 25 - share_of_low }
    };
    for (share_of_low, is_selective) in [(12, false), (5, true)] {
        let is_there = there(share_of_low);
        let rows = arriving(25_000, |i| if is_there(i) { 1.0 } else { 100.0 }, 9.0);
        let lag = share(&evaluate_everywhere(&rows, &context(Task::Binary)).await, 1, None);
        assert!(lag.selection_p_value.is_some_and(|p| p < 1e-6), "{lag:?}");
        assert_eq!(lag.is_selective, Some(is_selective), "{lag:?}");
        // By predicted classes.
        let said = |i: usize| if i * 37 % 100 < 50 { "a" } else { "b" };
        let times = |of: &dyn Fn(usize) -> Option<i64>| times(&(0..25_000).map(of).collect::<Vec<_>>());
        let rows = batch(vec![
            ("prediction", texts(&(0..25_000).map(|i| Some(said(i))).collect::<Vec<_>>())),
            ("label", texts(&(0..25_000).map(|i| is_there(i).then_some("a")).collect::<Vec<_>>())),
            ("event_time", times(&|i| Some(i as i64))),
            ("label_time", times(&|i| is_there(i).then_some(HOUR))),
        ]);
        let lag = share(&evaluate_everywhere(&rows, &context(Task::Multiclass)).await, 1, None);
        assert_eq!(
            (lag.selection_column.as_deref(), lag.selection_method.as_deref()),
            (Some("prediction"), Some("chi2"))
        );
        assert!(lag.selection_p_value.is_some_and(|p| p < 1e-6), "{lag:?}");
        assert_eq!(lag.is_selective, Some(is_selective), "{lag:?}");
    }
}

#[tokio::test]
async fn rows_have_waited_from_their_own_time_to_the_newest_label_or_the_clock() {
    // Two rows at the window's start; the label of one comes a minute after the hour, so the other has waited for longer than one.
    let of = |label: i64| {
        batch(vec![
            ("score", doubles(&[Some(0.5), Some(0.5)])),
            ("label", texts(&[Some("1"), None])),
            ("event_time", times(&[Some(0), Some(0)])),
            ("label_time", times(&[Some(label), None])),
        ])
    };
    let mut context = context(Task::Binary);
    context.decided_at = chrono::DateTime::from_timestamp(10 * 3_600, 0).expect("in range");
    let lag = share(&evaluate_everywhere(&of(HOUR + HOUR / 60), &context).await, 1, None);
    assert_eq!((lag.known, lag.share, lag.n), (2, Some(0.0), 2), "{lag:?}");
    // A labeller whose clock is ahead: nobody can have waited for longer than until now.
    let ahead = share(&evaluate_everywhere(&of(50 * HOUR), &context).await, 24, None);
    assert_eq!(ahead.looked_at, Some(context.decided_at));
    assert_eq!(ahead.known, 1, "the row that waits has waited for ten hours");
}

#[tokio::test]
async fn losses_of_the_reference_weigh_what_they_stand_for() {
    let count = 60;
    let heavy = |i: usize| i.is_multiple_of(2);
    let rows = batch(vec![
        ("prediction_value", doubles(&vec![Some(10.0); count])),
        ("label_value", doubles(&(0..count).map(|i| Some(if heavy(i) { 11.0 } else { 7.0 })).collect::<Vec<_>>())),
        ("sampling_rate", doubles(&(0..count).map(|i| heavy(i).then_some(0.25)).collect::<Vec<_>>())),
    ]);
    let context = with_reference(Task::Regression, frozen(&rows, Task::Regression).await);
    let window = evaluate_everywhere(&batch(vec![("prediction_value", doubles(&[Some(10.0); 5]))]), &context).await;
    let value = estimate(&window, "mean_absolute_error").value.expect("estimated");
    assert!((value - (4.0 * 1.0 + 3.0) / 5.0).abs() < 1e-9, "{value}");
}
