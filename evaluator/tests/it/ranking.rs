//! Rows that are ranked together.

use std::collections::BTreeMap;

use driftline_schemas::{config::RankingSpec, tables::Task};
use serde::Deserialize;

use crate::rows::{batch, context, doubles, evaluate_everywhere, overall, texts};

#[derive(Deserialize)]
struct Golden {
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    name: String,
    k: usize,
    graded: bool,
    query: Vec<String>,
    label: Vec<f64>,
    score: Vec<f64>,
    expected: BTreeMap<String, f64>,
}

#[tokio::test]
async fn e2_ranking_equals_scikit_learn_and_its_definitions() {
    let text = include_str!("../../golden/ranking.json");
    for case in serde_json::from_str::<Golden>(text).expect("golden cases").cases {
        let queries: Vec<Option<&str>> = case.query.iter().map(|query| Some(query.as_str())).collect();
        let labels: Vec<Option<f64>> = case.label.iter().map(|label| Some(*label)).collect();
        let words: Vec<Option<&str>> =
            case.label.iter().map(|label| Some(if *label > 0.0 { "1" } else { "0" })).collect();
        let scores: Vec<Option<f64>> = case.score.iter().map(|score| Some(*score)).collect();
        let mut columns = vec![("tag_query_id", texts(&queries)), ("label", texts(&words))];
        let task = if case.graded {
            columns.extend([("label_value", doubles(&labels)), ("prediction_value", doubles(&scores))]);
            Task::Regression
        } else {
            columns.push(("score", doubles(&scores)));
            Task::Binary
        };
        let mut context = context(task);
        context.ranking = Some(RankingSpec { group: "query_id".to_owned(), k: case.k });
        let window = evaluate_everywhere(&batch(columns), &context).await;
        for (metric, theirs) in &case.expected {
            let row = overall(&window, metric, None);
            let ours = row.value.unwrap_or_else(|| panic!("{} has no {metric}: {row:?}", case.name));
            assert!((ours - theirs).abs() < 1e-12, "{} {metric}: {ours} is not {theirs}", case.name);
            assert!(
                row.ci_low.is_some_and(|low| low <= ours)
                    && row.ci_high.is_some_and(|high| (ours..=1.0).contains(&high))
            );
            assert_eq!(row.n, case.label.len() as i64);
        }
    }
}

#[tokio::test]
async fn queries_are_of_their_version_and_segment_and_reasons_are_given() {
    let text = |values: &[&'static str]| texts(&values.iter().map(|v| Some(*v)).collect::<Vec<_>>());
    let rows = batch(vec![
        ("tag_query", text(&["a", "a", "b", "b", "a", "a", "c", "c"])),
        ("tag_region", text(&["eu", "eu", "us", "us", "eu", "eu", "us", "us"])),
        ("model_version", text(&["1", "1", "1", "1", "2", "2", "2", "2"])),
        ("label", text(&["1", "0", "0", "1", "0", "1", "0", "0"])),
        ("score", doubles(&[0.9, 0.1, 0.9, 0.1, 0.9, 0.1, 0.9, 0.1].map(Some))),
    ]);
    let mut context = context(Task::Binary);
    context.segments = vec![vec!["region".to_owned()]];
    context.ranking = Some(RankingSpec { group: "tags.query".to_owned(), k: 1 });
    let window = evaluate_everywhere(&rows, &context).await;
    let value = |version: Option<&str>, segment: Option<&str>| {
        let is = |row: &&driftline_schemas::tables::MetricRow| {
            row.metric == "mean_reciprocal_rank"
                && row.model_version.as_deref() == version
                && row.segment_value.as_deref() == segment
        };
        let row = window.metrics.iter().find(is).expect("ranked");
        (row.value, row.reason.as_deref())
    };
    assert_eq!(value(Some("1"), None), (Some(0.75), None), "hit first in a, second in b");
    assert_eq!(value(Some("2"), None), (Some(0.5), None), "c has nothing to find");
    assert_eq!(value(Some("2"), Some("us")), (None, Some("no_values")));
    assert_eq!(value(Some("1"), Some("us")), (Some(0.5), None));
    // Both versions have ranked query a: over all of them its rows are one list.
    assert_eq!(value(None, Some("us")), (Some(0.5), None));
    // A model whose rows carry no query says so, and one that ranks nothing has no such metric.
    context.ranking = Some(RankingSpec { group: "absent".to_owned(), k: 1 });
    let without = evaluate_everywhere(&rows, &context).await;
    assert_eq!(overall(&without, "ndcg_at_1", None).reason.as_deref(), Some("no_values"));
    context.ranking = None;
    let unranked = evaluate_everywhere(&rows, &context).await;
    assert!(unranked.metrics.iter().all(|row| row.metric != "ndcg_at_1"));
}

#[tokio::test]
async fn the_interval_of_a_mean_is_over_queries_not_over_rows() {
    // 20 queries of five rows; the one that is relevant stands first in twelve of them, else second.
    let (mut queries, mut labels, mut scores) = (Vec::new(), Vec::new(), Vec::new());
    for query in 0..20 {
        for place in 0..5 {
            queries.push(format!("q{query}"));
            labels.push(if place == usize::from(query >= 12) { "1" } else { "0" });
            scores.push(Some(1.0 - place as f64 / 10.0));
        }
    }
    let rows = batch(vec![
        ("tag_query", texts(&queries.iter().map(|query| Some(query.as_str())).collect::<Vec<_>>())),
        ("label", texts(&labels.iter().map(|label| Some(*label)).collect::<Vec<_>>())),
        ("score", doubles(&scores)),
    ]);
    let mut context = context(Task::Binary);
    context.ranking = Some(RankingSpec { group: "query".to_owned(), k: 1 });
    let window = evaluate_everywhere(&rows, &context).await;
    let near = |metric: &str, low: f64, high: f64| {
        let row = overall(&window, metric, None);
        let (l, h) = (row.ci_low.expect("an interval"), row.ci_high.expect("an interval"));
        assert!((l - low).abs() < 1e-9 && (h - high).abs() < 1e-9, "{metric}: {l} {h}");
    };
    // scipy.stats.binomtest(12, 20).proportion_ci(method="wilson")
    near("hit_rate_at_1", 0.38658150076225317, 0.7811934676271829);
    // Ten queries of each kind, so that the ranks' distribution is even: scipy.stats.t.interval(.95, 19, .75, std(ddof=1)/sqrt(20)).
    let labels: Vec<Option<&str>> =
        (0..100).map(|row| Some(if row % 5 == usize::from(row >= 50) { "1" } else { "0" })).collect();
    let rows = batch(vec![
        ("tag_query", texts(&queries.iter().map(|query| Some(query.as_str())).collect::<Vec<_>>())),
        ("label", texts(&labels)),
        ("score", doubles(&scores)),
    ]);
    let window = evaluate_everywhere(&rows, &context).await;
    let row = overall(&window, "mean_reciprocal_rank", None);
    assert_eq!(row.value, Some(0.75));
    assert!(row.ci_low.is_some_and(|low| (low - 0.6299568376372948).abs() < 1e-9), "{row:?}");
    assert!(row.ci_high.is_some_and(|high| (high - 0.8700431623627052).abs() < 1e-9), "{row:?}");
}
