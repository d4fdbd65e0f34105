//! How requests were served: every row counts, those that failed too.

use std::collections::BTreeMap;

use chrono::DateTime;
use driftline_evaluator::{EvaluatedWindow, window::OTHER};
use driftline_schemas::tables::{ServingRow, Task};
use serde::Deserialize;

use crate::rows::{batch, booleans, context, doubles, evaluate_everywhere, overall, texts};

fn served<'a>(window: &'a EvaluatedWindow, metric: &str, version: Option<&str>, value: Option<&str>) -> &'a ServingRow {
    let is = |row: &&ServingRow| {
        row.metric == metric && row.model_version.as_deref() == version && row.segment_value.as_deref() == value
    };
    window.serving.iter().find(is).unwrap_or_else(|| panic!("no row of {metric} {version:?} {value:?}"))
}

#[tokio::test]
async fn a_version_that_always_fails_is_seen_and_has_no_metrics() {
    let rows = batch(vec![
        ("model_version", texts(&[Some("1"), Some("1"), Some("2"), Some("2"), Some("1")])),
        ("tag_region", texts(&[Some("eu"), None, Some("us"), Some("us"), Some("eu")])),
        ("label", texts(&[Some("1"), Some("0"), None, None, Some("1")])),
        ("prediction", texts(&[Some("1"), Some("0"), None, None, Some("0")])),
        ("error", texts(&[None, None, Some("timeout"), Some("out of memory"), None])),
        ("invalid_reason", texts(&[None, None, None, None, Some("task_mismatch")])),
        ("after_final", booleans(&[None, Some(true), None, None, None])),
        ("latency_ms", doubles(&[Some(10.0), Some(30.0), Some(2000.0), None, Some(20.0)])),
    ]);
    let mut context = context(Task::Binary);
    context.segments = vec![vec!["region".to_owned()]];
    let window = evaluate_everywhere(&rows, &context).await;
    let value = |metric, version, of| served(&window, metric, version, of).value;
    assert_eq!((value("requests", None, None), value("error_count", None, None)), (Some(5.0), Some(2.0)));
    assert_eq!(value("error_rate", None, None), Some(0.4));
    assert_eq!((value("error_rate", Some("1"), None), value("error_rate", Some("2"), None)), (Some(0.0), Some(1.0)));
    assert_eq!(
        (value("requests", None, Some("us")), value("error_rate", Some("2"), Some("us"))),
        (Some(2.0), Some(1.0))
    );
    assert_eq!((value("latency_max_ms", None, None), value("latency_p50_ms", None, None)), (Some(2000.0), Some(25.0)));
    assert_eq!(served(&window, "error_rate", None, None).n, 5);
    // What failed, was refused or came too late is in no metric, and a version without a row that counts has none.
    let accuracy = overall(&window, "accuracy", None);
    assert_eq!((accuracy.value, accuracy.n), (Some(1.0), 1));
    assert!(window.metrics.iter().all(|row| row.model_version.as_deref() != Some("2")));
    assert!(window.metrics.iter().all(|row| row.segment_value.as_deref() != Some("us")));
    let errors: Vec<_> =
        window.errors.iter().map(|e| (e.model_version.as_deref(), e.message.as_str(), e.count)).collect();
    assert_eq!(
        errors,
        [(None, "out of memory", 1), (None, "timeout", 1), (Some("2"), "out of memory", 1), (Some("2"), "timeout", 1)]
    );
}

#[tokio::test]
async fn what_failed_or_came_too_late_for_metrics_failed_all_the_same() {
    let rows = batch(vec![
        ("label", texts(&[Some("1"), None, None, None])),
        ("prediction", texts(&[Some("1"), None, None, None])),
        ("error", texts(&[None, Some("timeout"), Some("timeout"), Some("timeout")])),
        ("invalid_reason", texts(&[None, None, Some("task_mismatch"), None])),
        ("after_final", booleans(&[None, None, None, Some(true)])),
    ]);
    let window = evaluate_everywhere(&rows, &context(Task::Binary)).await;
    let errors: Vec<_> = window.errors.iter().map(|row| (row.message.as_str(), row.count)).collect();
    assert_eq!(errors, [("timeout", 3)]);
    assert_eq!(served(&window, "error_count", None, None).value, Some(3.0));
}

#[tokio::test]
async fn b1_the_errors_of_a_window_are_bounded_and_add_up() {
    // 25 errors, the n-th n times, all of one length; the rarest are one row together.
    let mut messages: Vec<String> = Vec::new();
    for n in 1..=25_usize {
        messages.extend(std::iter::repeat_n(format!("error {n:02} {}", "x".repeat(300)), n));
    }
    let all = messages.len() as i64;
    let rows = batch(vec![
        ("model_version", texts(&vec![Some("7"); messages.len()])),
        ("error", texts(&messages.iter().map(|m| Some(m.as_str())).collect::<Vec<_>>())),
        ("sampling_rate", doubles(&vec![Some(0.5); messages.len()])),
    ]);
    let window = evaluate_everywhere(&rows, &context(Task::Binary)).await;
    let overall: Vec<_> = window.errors.iter().filter(|row| row.model_version.is_none()).collect();
    assert_eq!(overall.len(), 21);
    assert_eq!(overall.iter().map(|row| row.count).sum::<i64>(), all);
    assert_eq!(overall.iter().map(|row| row.weight).sum::<f64>(), 2.0 * all as f64);
    let other = overall.iter().find(|row| row.message == OTHER).expect("the rarest");
    assert_eq!(other.count, 1 + 2 + 3 + 4 + 5);
    assert!(overall.iter().all(|row| row.message.len() <= 200));
    let of_version = window.errors.iter().filter(|row| row.model_version.as_deref() == Some("7"));
    assert_eq!(of_version.map(|row| row.count).sum::<i64>(), all);
    assert_eq!(served(&window, "error_count", None, None).value, Some(2.0 * all as f64));
    assert_eq!(served(&window, "error_count", None, None).n, all);
}

#[tokio::test]
async fn requests_a_second_are_over_the_time_that_has_passed() {
    let rows = batch(vec![("score", doubles(&[Some(0.5); 30]))]);
    let mut context = context(Task::Binary);
    let rate = |window: &EvaluatedWindow| {
        let row = served(window, "requests_per_second", None, None);
        (row.value, row.reason.clone())
    };
    // The window is an hour, and it is judged after its end.
    assert_eq!(rate(&evaluate_everywhere(&rows, &context).await), (Some(30.0 / 3600.0), None));
    context.decided_at = DateTime::from_timestamp(60, 0).expect("in range");
    assert_eq!(rate(&evaluate_everywhere(&rows, &context).await), (Some(0.5), None), "a minute of it has passed");
    // A producer whose clock is ahead: nothing has passed yet.
    context.decided_at = DateTime::from_timestamp(-60, 0).expect("in range");
    assert_eq!(rate(&evaluate_everywhere(&rows, &context).await), (Some(30.0 / 3600.0), None));
    context.window_end = context.window_start;
    let zero = (None, Some("zero_denominator".to_owned()));
    assert_eq!(rate(&evaluate_everywhere(&rows, &context).await), zero);
}

#[tokio::test]
async fn e3_without_rows_every_figure_is_there() {
    let none: [Option<&str>; 0] = [];
    let window = evaluate_everywhere(&batch(vec![("label", texts(&none))]), &context(Task::Binary)).await;
    let reasons: Vec<_> = window.serving.iter().filter_map(|row| row.reason.as_deref()).collect();
    assert_eq!((window.serving.len(), reasons), (10, vec!["no_rows"; 7]));
    assert_eq!(served(&window, "requests", None, None).value, Some(0.0));
    assert!(window.errors.is_empty());
}

#[derive(Deserialize)]
struct Golden {
    cases: Vec<ServingCase>,
}

#[derive(Deserialize)]
struct ServingCase {
    name: String,
    latency: Vec<Option<f64>>,
    failed: Vec<bool>,
    rate: Vec<f64>,
    expected: BTreeMap<String, Option<f64>>,
    intervals: BTreeMap<String, [f64; 2]>,
}

#[tokio::test]
async fn e2_serving_equals_numpy_and_scipy() {
    let text = include_str!("../../golden/serving.json");
    let cases = serde_json::from_str::<Golden>(text).expect("golden cases").cases;
    assert!(cases.len() >= 5);
    for case in cases {
        let errors: Vec<Option<&str>> = case.failed.iter().map(|failed| failed.then_some("timeout")).collect();
        let rates: Vec<Option<f64>> = case.rate.iter().map(|rate| Some(*rate)).collect();
        let rows = batch(vec![
            ("error", texts(&errors)),
            ("latency_ms", doubles(&case.latency)),
            ("sampling_rate", doubles(&rates)),
        ]);
        let window = evaluate_everywhere(&rows, &context(Task::Binary)).await;
        let near = |what: &str, ours: Option<f64>, theirs: Option<f64>, tolerance: f64| match (ours, theirs) {
            (None, None) => {}
            (Some(a), Some(b)) if (a - b).abs() <= tolerance * b.abs().max(1.0) => {}
            _ => panic!("{} {what}: {ours:?} is not {theirs:?}", case.name),
        };
        for (metric, theirs) in &case.expected {
            near(metric, served(&window, metric, None, None).value, *theirs, 1e-11);
        }
        for (metric, [low, high]) in &case.intervals {
            near(metric, served(&window, metric, None, None).ci_low, Some(*low), 1e-9);
            near(metric, served(&window, metric, None, None).ci_high, Some(*high), 1e-9);
        }
    }
}
