//! Version against version in one window: paired on the ids that both have scored, if there are such, else as independent rows.

use std::collections::BTreeMap;

use datafusion::{arrow::array::AsArray, prelude::SessionContext};
use driftline_schemas::tables::{ComparisonRow, Task};

use super::{
    EvaluationContext, OTHER,
    columns::{Columns, collect, text_column},
    judge::{Judged, SAMPLING_RATE, TaskQuery, score_kind, with_rate},
    sql,
};
use crate::{
    Error,
    metrics::{ReportRow, Warning, comparison::Comparison, interval::LEVEL},
    udaf::paired::PairedReport,
};

/// Versions that are compared with each other, those with most labelled rows: more make quadratically more pairs.
const VERSIONS_MAX: usize = 5;
/// Pairs are compared on shared ids if these are so large a share of the version with fewer labelled rows. Less would leave most of
/// what is known unused.
const SHARED_MIN: f64 = 0.5;

/// What a row that two versions share takes of memory.
const PAIR_BYTES: u64 = 32;

/// The metrics that are compared.
fn metrics(task: Task) -> &'static [&'static str] {
    match task {
        Task::Binary => &[
            "roc_auc",
            "average_precision",
            "f1",
            "accuracy",
            "precision",
            "recall",
            "specificity",
            "matthews_corrcoef",
            "log_loss",
            "brier_score",
        ],
        Task::Multiclass => {
            &["accuracy", "balanced_accuracy", "f1_macro", "f1_weighted", "roc_auc_macro", "log_loss", "brier_score"]
        }
        Task::Regression => &[
            "mean_absolute_error",
            "mean_squared_error",
            "root_mean_squared_error",
            "mean_absolute_percentage_error",
            "mean_error",
            "median_absolute_error",
            "r2",
        ],
    }
}

/// What both versions of a pair said of the same ids.
type Pairs = BTreeMap<(usize, usize), PairedReport>;

/// Compares the versions that have labelled rows. Those that were too many to have rows of their own are no version.
pub(super) async fn compare(
    session: &SessionContext,
    columns: &Columns,
    query: &TaskQuery,
    mut versions: Vec<(String, Judged)>,
    context: &EvaluationContext,
) -> Result<Vec<ComparisonRow>, Error> {
    versions.retain(|(version, _)| version != OTHER);
    versions.sort_by(|(a, of_a), (b, of_b)| of_b.n_labelled.cmp(&of_a.n_labelled).then(a.cmp(b)));
    versions.truncate(VERSIONS_MAX);
    versions.sort_by(|(a, _), (b, _)| a.cmp(b));
    if versions.len() < 2 {
        return Ok(Vec::new());
    }
    let names: Vec<&str> = versions.iter().map(|(version, _)| version.as_str()).collect();
    let mut pairs = shared(session, columns, query, &names, context).await?;
    let mut rows = Vec::new();
    for (i, (version_a, first)) in versions.iter().enumerate() {
        for (j, (version_b, second)) in versions.iter().enumerate().skip(i + 1) {
            let fewer = first.n_labelled.min(second.n_labelled);
            let shared = pairs.remove(&(i, j)).filter(|pair| pair.rows as f64 >= SHARED_MIN * fewer as f64);
            for metric in metrics(query.task) {
                let (Some(a), Some(b)) = (first.report.get(metric), second.report.get(metric)) else { continue };
                let versions = (version_a.as_str(), version_b.as_str());
                let n = (first.n_labelled, second.n_labelled);
                rows.push(compared((a, b), versions, n, shared.as_ref(), context));
            }
        }
    }
    Ok(rows)
}

fn compared(
    (a, b): (&ReportRow, &ReportRow),
    versions: (&str, &str),
    (n_a, n_b): (i64, i64),
    shared: Option<&PairedReport>,
    context: &EvaluationContext,
) -> ComparisonRow {
    let paired = shared.and_then(|pair| Some((pair.compared.iter().find(|c| c.metric == a.metric)?, pair.rows as i64)));
    if let Some((comparison, rows)) = paired {
        return row(comparison, versions, (rows, rows), true, context);
    }
    let mut comparison = Comparison::of_independent(a, b);
    if shared.is_some() && comparison.interval.is_some() {
        // What goes together on shared rows is not taken off: the interval is wider than need be.
        comparison.warning = comparison.warning.or(Some(Warning::Conservative));
    }
    row(&comparison, versions, (n_a, n_b), false, context)
}

/// Compares each two versions on the ids that both have; empty if rows have no ids.
async fn shared(
    session: &SessionContext,
    columns: &Columns,
    query: &TaskQuery,
    versions: &[&str],
    context: &EvaluationContext,
) -> Result<Pairs, Error> {
    let (true, Some(version)) = (columns.has("prediction_id"), columns.version()) else { return Ok(Pairs::new()) };
    // Of two rows with one id each pair keeps at most one. What does not fit is compared as independent rows: wider, and no less true.
    let pairs = (versions.len() * (versions.len() - 1) / 2) as u64;
    if query.task != Task::Multiclass && !columns.budget().fits(PAIR_BYTES.div_ceil(2) * pairs) {
        crate::telemetry::not_paired(&context.model, columns.budget().rows());
        return Ok(Pairs::new());
    }
    // What is kept of an id: the label once, and of each version what it said.
    let (actual, said): (&str, &[(&str, &str)]) = match query.task {
        Task::Binary => ("bool_or(actual)", &[("predicted", "bool_or"), ("score", "max")]),
        Task::Multiclass => ("max(actual)", &[("hit", "bool_or")]),
        Task::Regression => ("max(actual)", &[("predicted", "max")]),
    };
    let mut inputs: Vec<String> = query.inputs.iter().map(|(name, input)| format!("{input} AS {name}")).collect();
    inputs.push(format!("{version} AS version, prediction_id AS id, {} AS rate", columns.double(SAMPLING_RATE)));
    let hit = if query.task == Task::Multiclass { ", actual = predicted AS hit" } else { "" };
    let known = sql::texts(versions.iter().copied());
    let rows = format!(
        "(SELECT *{hit} FROM (SELECT {} FROM {}) WHERE actual IS NOT NULL AND version IN ({known}))",
        inputs.join(", "),
        columns.valid_rows()
    );
    let mut by_id = vec!["id".to_owned(), format!("{actual} AS actual"), format!("max(rate) AS {SAMPLING_RATE}")];
    for (at, version) in versions.iter().enumerate() {
        let of = format!("FILTER (WHERE version = {})", sql::text(version));
        by_id.push(format!("count(*) {of} AS n{at}"));
        by_id.extend(said.iter().map(|(name, keep)| format!("{keep}({name}) {of} AS {name}{at}")));
    }
    let pairs: Vec<(usize, usize)> =
        (0..versions.len()).flat_map(|i| (i + 1..versions.len()).map(move |j| (i, j))).collect();
    let outputs = pairs.iter().map(|(i, j)| {
        let call = match query.task {
            Task::Binary => {
                format!(
                    "paired_binary(actual, predicted{i}, score{i}, predicted{j}, score{j}, '{}'",
                    score_kind(context)
                )
            }
            Task::Multiclass => format!("paired_hits(hit{i}, hit{j}"),
            Task::Regression => format!("paired_regression(actual, predicted{i}, predicted{j}"),
        };
        format!("{} FILTER (WHERE n{i} > 0 AND n{j} > 0) AS c{i}_{j}", with_rate(columns, &call))
    });
    let query = format!(
        "SELECT {} FROM (SELECT {} FROM {rows} GROUP BY id HAVING count(*) > 1)",
        outputs.collect::<Vec<_>>().join(", "),
        by_id.join(", ")
    );
    let mut said = Pairs::new();
    for batch in collect(session, &query).await? {
        for (i, j) in &pairs {
            let texts = text_column(&batch, &format!("c{i}_{j}"))?;
            for text in texts.as_string::<i32>().iter().flatten() {
                let report: PairedReport = serde_json::from_str(text)?;
                if report.rows > 1 {
                    said.insert((*i, *j), report);
                }
            }
        }
    }
    Ok(said)
}

fn row(
    comparison: &Comparison,
    (version_a, version_b): (&str, &str),
    (n_a, n_b): (i64, i64),
    paired: bool,
    context: &EvaluationContext,
) -> ComparisonRow {
    let interval = comparison.interval.filter(|(low, high)| low.is_finite() && high.is_finite());
    ComparisonRow {
        model: context.model.clone(),
        window_start: context.window_start,
        window_end: context.window_end,
        metric: comparison.metric.clone(),
        version_a: version_a.to_owned(),
        version_b: version_b.to_owned(),
        value_a: comparison.values[0],
        value_b: comparison.values[1],
        difference: comparison.difference().map(|difference| difference.clamp(f64::MIN, f64::MAX)),
        reason: comparison.reason.map(|reason| reason.as_str().to_owned()),
        ci_low: interval.map(|(low, _)| low),
        ci_high: interval.map(|(_, high)| high),
        ci_level: interval.map(|_| LEVEL),
        method: comparison.method.filter(|_| interval.is_some()).map(|method| method.as_str().to_owned()),
        ci_warning: comparison.warning.filter(|_| interval.is_some()).map(|warning| warning.as_str().to_owned()),
        p_value: comparison.p_value.filter(|p| p.is_finite() && interval.is_some()),
        paired,
        n_a,
        n_b,
        state: context.state.clone(),
        revision: context.revision,
        decided_at: context.decided_at,
    }
}
