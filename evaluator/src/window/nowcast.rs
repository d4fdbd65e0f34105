//! What the metrics of a window will be when all its labels are there, from those that are: post-stratified by what the labels
//! that come first may depend on.

use std::collections::{BTreeMap, BTreeSet};

use datafusion::prelude::SessionContext;
use driftline_schemas::tables::{EstimateRow, MetricRow, Task};

use super::{
    EvaluationContext,
    columns::Columns,
    gather::Gathered,
    groups::Groups,
    inputs,
    judge::{self, ClassNames, Group, SAMPLING_RATE},
    sql,
};
use crate::{
    Error,
    drift::SampleRef,
    metrics::scores::{Side, runs, spans},
    udaf::rows::{class_rows, flagged_values},
};

/// How a value was come by: from the rows that have a label, weighed as all are.
const NOWCAST: &str = "nowcast";
/// The rows as the nowcast weighs them.
const VIEW: &str = "driftline_nowcast";
/// Strata of scores, or of predicted numbers, at most. More follow the score closer, each with fewer labels.
const STRATA_MAX: usize = 10;
/// Labelled rows of a stratum: fewer make weights that one row decides.
const ROWS_PER_STRATUM: usize = 30;

/// Part of a window's rows, as SQL, and the share of it that has a label.
#[derive(Debug, Clone, PartialEq)]
struct Stratum {
    /// Nothing for all that is in no other.
    condition: Option<String>,
    labelled_share: f64,
}

/// Nowcasts every group of a window that still waits for labels.
///
/// A labelled row counts for as many rows as its stratum has for each labelled one: scores (or predicted numbers) in up to ten strata of equal
/// numbers of labelled rows, or predicted classes. All metrics and their intervals are those of `metrics` on such rows; the interval is then narrowed
/// by `√(1 − f)` where the share f of rows has a label, for what is known already cannot change.
pub(super) async fn nowcast(
    session: &SessionContext,
    (table, columns): (&str, &Columns),
    groups: &Groups,
    gathered: &BTreeMap<Group, Gathered>,
    (metrics, names): (&[MetricRow], Option<&ClassNames>),
    context: &EvaluationContext,
) -> Result<Vec<EstimateRow>, Error> {
    let Some(all) = gathered.get(&Group::default()).filter(|_| context.state != "final") else { return Ok(Vec::new()) };
    let labelled = metrics.iter().find(|row| row.segment.is_none() && row.model_version.is_none());
    if labelled.is_none_or(|row| row.n_labelled == 0 || row.n_labelled >= row.n) {
        return Ok(Vec::new());
    }
    let strata = strata(columns, all, context)?;
    register(session, table, columns, &strata).await?;
    let weighed = columns.of_view(session, VIEW).await?;
    let judged = judge::metrics_of(session, &weighed, groups, names, context).await;
    session.deregister_table(VIEW)?;
    let weighed = judged?;
    let mut realised: BTreeMap<(Group, &str), f64> = BTreeMap::new();
    for row in metrics.iter().filter(|row| row.class.is_none()) {
        if let Some(value) = row.value {
            realised.insert((Group::of(row), &row.metric), value);
        }
    }
    // What has no interval, such as the largest error, says nothing of the rows that are still to come.
    let says = |row: &MetricRow| row.value.is_some() == row.ci_low.is_some();
    let waits = |row: &&MetricRow| row.class.is_none() && row.n_labelled > 0 && row.n_labelled < row.n && says(row);
    let of = |row: &MetricRow| nowcast_row(row, realised.get(&(Group::of(row), row.metric.as_str())).copied());
    Ok(weighed.iter().filter(waits).map(of).collect())
}

fn nowcast_row(row: &MetricRow, realised: Option<f64>) -> EstimateRow {
    let left = (1.0 - row.n_labelled as f64 / row.n as f64).max(0.0).sqrt();
    // What may be off because rows are held in bins is off however many have a label.
    let off = row.error_bound.unwrap_or(0.0);
    let narrowed = |end: Option<f64>, off: f64| Some(row.value? + (end? - off - row.value?) * left + off);
    EstimateRow {
        model: row.model.clone(),
        model_version: row.model_version.clone(),
        segment: row.segment.clone(),
        segment_value: row.segment_value.clone(),
        window_start: row.window_start,
        window_end: row.window_end,
        metric: row.metric.clone(),
        class: None,
        method: NOWCAST.to_owned(),
        value: row.value,
        ci_low: narrowed(row.ci_low, -off),
        ci_high: narrowed(row.ci_high, off),
        ci_level: row.ci_level,
        ci_warning: row.ci_warning.clone(),
        error_bound: row.error_bound,
        realised,
        n: row.n,
        n_labelled: row.n_labelled,
        // It rests on the window alone.
        reference_version: None,
        reason: row.reason.clone(),
        state: row.state.clone(),
        revision: row.revision,
        decided_at: row.decided_at,
    }
}

/// The rows under another sampling rate: that of their stratum times their own.
async fn register(session: &SessionContext, table: &str, columns: &Columns, strata: &[Stratum]) -> Result<(), Error> {
    let own = if columns.has(SAMPLING_RATE) {
        let rate = columns.double(SAMPLING_RATE);
        format!("CASE WHEN {rate} > 0 AND {rate} < 1 THEN {rate} ELSE 1.0 END * ")
    } else {
        String::new()
    };
    let others = if columns.is_rate_there() { format!("* EXCEPT ({SAMPLING_RATE})") } else { "*".to_owned() };
    let mut cases = String::new();
    let mut rest = 1.0;
    for stratum in strata {
        match &stratum.condition {
            Some(condition) => cases += &format!("WHEN {condition} THEN {:?} ", stratum.labelled_share),
            None => rest = stratum.labelled_share,
        }
    }
    let of_stratum = if cases.is_empty() { format!("{rest:?}") } else { format!("CASE {cases}ELSE {rest:?} END") };
    let query =
        format!("SELECT {others}, {own}CAST({of_stratum} AS DOUBLE) AS {SAMPLING_RATE} FROM {}", sql::name(table));
    let view = session.sql(&query).await?.into_view();
    session.register_table(VIEW, view)?;
    Ok(())
}

/// The strata of a window. Their shares are those of rows that count, by weight.
fn strata(columns: &Columns, all: &Gathered, context: &EvaluationContext) -> Result<Vec<Stratum>, Error> {
    let value = match context.task {
        Task::Multiclass => return of_classes(columns, all),
        Task::Binary => inputs::score(columns, &inputs::positives(context.positive_class.as_deref())),
        Task::Regression => inputs::number(columns, "prediction_value", "prediction"),
    };
    let rows = flagged_values(&all.rows)?;
    let (labelled, waiting) = (rows.by_first(true), rows.by_first(false));
    let edges = edges(rows.sample_by_first(true).as_ref());
    let edges = ends_of_bins(&edges, &labelled, &waiting);
    let [of_labelled, of_waiting] = weights(&labelled, &waiting, &edges);
    let of_all: Vec<f64> = of_labelled.iter().zip(&of_waiting).map(|(labelled, waiting)| labelled + waiting).collect();
    let mut strata = Vec::new();
    for (at, (labelled, all)) in of_labelled.iter().zip(&of_all).enumerate() {
        let condition = edges.get(at).map(|edge| format!("{value} <= CAST({edge:?} AS DOUBLE)"));
        strata.push(Stratum { condition, labelled_share: share(*labelled, *all) });
    }
    // A row without a value is in no stratum; it counts as rows do on the whole.
    let whole = share(of_labelled.iter().sum(), of_all.iter().sum());
    strata.insert(0, Stratum { condition: Some(format!("{value} IS NULL")), labelled_share: whole });
    Ok(strata)
}

fn share(labelled: f64, all: f64) -> f64 {
    if labelled > 0.0 && all > 0.0 { (labelled / all).min(1.0) } else { 1.0 }
}

/// Classes with enough labelled rows, each a stratum, and the others together.
fn of_classes(columns: &Columns, all: &Gathered) -> Result<Vec<Stratum>, Error> {
    let rows = class_rows(&all.rows)?;
    let (mut strata, mut rest) = (Vec::new(), [0, 0]);
    let mut kept = BTreeSet::new();
    for (class, [waiting, labelled]) in rows.counts() {
        let is_one = !rows.has_too_many_classes() && labelled as usize >= ROWS_PER_STRATUM;
        if is_one && kept.insert(class) {
            let condition = Some(format!("{} = {}", columns.text("prediction"), sql::text(class)));
            strata.push(Stratum { condition, labelled_share: share(labelled as f64, (waiting + labelled) as f64) });
        } else {
            rest = [rest[0] + waiting, rest[1] + labelled];
        }
    }
    strata.push(Stratum { condition: None, labelled_share: share(rest[1] as f64, (rest[0] + rest[1]) as f64) });
    Ok(strata)
}

/// Where strata of equal numbers of labelled rows end, ascending; the last one has no end.
fn edges(labelled: SampleRef<'_>) -> Vec<f64> {
    let rows = labelled.rows();
    let strata = (rows / ROWS_PER_STRATUM as u64).clamp(1, STRATA_MAX as u64);
    let mut edges: Vec<f64> = (1..strata).filter_map(|at| labelled.at_row(at * rows / strata - 1)).collect();
    edges.dedup();
    edges.retain(|edge| labelled.ends().is_some_and(|(_, last)| *edge < last));
    edges
}

/// Edges where no bin is cut in two: each is moved up to the largest value of the bin that it lies in. Values that are no bins stay.
fn ends_of_bins(edges: &[f64], labelled: &Side, waiting: &Side) -> Vec<f64> {
    let mut spans = spans(labelled, waiting).peekable();
    let mut ends = Vec::new();
    for edge in edges {
        while spans.peek().is_some_and(|span| span.largest < *edge) {
            spans.next();
        }
        ends.push(spans.peek().filter(|span| span.run.score <= *edge).map_or(*edge, |span| span.largest));
    }
    ends.dedup();
    ends
}

/// The weight of sorted rows in each stratum: of labelled ones, and of those that wait.
fn weights(labelled: &Side, waiting: &Side, edges: &[f64]) -> [Vec<f64>; 2] {
    let mut weights = [(); 2].map(|()| vec![0.0; edges.len() + 1]);
    let mut at = 0;
    for run in runs(labelled, waiting) {
        while edges.get(at).is_some_and(|edge| run.score > *edge) {
            at += 1;
        }
        weights[0][at] += run.positives;
        weights[1][at] += run.negatives;
    }
    weights
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        estimate::FlaggedValues,
        metrics::{Weight, binned::Limit},
    };

    #[test]
    fn an_edge_cuts_no_bin_in_two() {
        let labelled = [0.1, 0.2, 0.51, 0.52, 0.9];
        let waiting = [0.15, 0.505, 0.53, 0.95];
        let lists = |limit: Option<Limit>| {
            let mut rows = FlaggedValues::held_to(limit);
            labelled.iter().for_each(|score| rows.push(true, false, *score, Weight::ONE));
            waiting.iter().for_each(|score| rows.push(false, false, *score, Weight::ONE));
            rows.hold(true);
            [rows.by_first(true), rows.by_first(false)]
        };
        let [exact, others] = lists(None);
        assert_eq!(ends_of_bins(&[0.2, 0.52], &exact, &others), [0.2, 0.52], "values are no bins");
        // Of labelled rows the bin ends at 0.52, of the others at 0.53.
        let [binned, others] = lists(Some(Limit::of(7)));
        let largest: Vec<f64> = spans(&binned, &others).map(|span| span.largest).collect();
        assert!(largest.contains(&0.53) && !largest.contains(&0.52), "{largest:?}");
        let edges = ends_of_bins(&[0.52], &binned, &others);
        assert_eq!(edges, [0.53]);
        assert_eq!(ends_of_bins(&[0.51, 0.52], &binned, &others), [0.53], "strata do not repeat");
        // Seven rows of nine are in the first stratum by their scores, and by their bins.
        assert_eq!(weights(&binned, &others, &edges), [vec![4.0, 1.0], vec![3.0, 1.0]]);
    }

    #[test]
    fn what_bins_put_a_value_off_labels_do_not_put_right() {
        let row = MetricRow {
            value: Some(0.8),
            ci_low: Some(0.55),
            ci_high: Some(0.95),
            error_bound: Some(0.05),
            n: 100,
            n_labelled: 75,
            ..MetricRow::default()
        };
        let found = nowcast_row(&row, None);
        assert_eq!(found.error_bound, Some(0.05));
        // Half of what is not the bound, and the bound.
        let off = |end: Option<f64>, expected: f64| end.is_some_and(|end| (end - expected).abs() < 1e-15);
        assert!(off(found.ci_low, 0.8 - 0.1 - 0.05) && off(found.ci_high, 0.8 + 0.05 + 0.05), "{found:?}");
    }
}
