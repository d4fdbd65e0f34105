//! How long labels take, and whether the rows that have one are like those that have none.

use std::collections::BTreeMap;

use driftline_schemas::{
    clock,
    tables::{LabelLagRow, Task},
};

use super::{
    EvaluationContext,
    columns::Columns,
    gather::Gathered,
    groups::{Groups, Versions},
    judge::Group,
};
use crate::{
    Error,
    drift::{ChiSquare, Counts, LEVEL as SIGNIFICANT, Method, chi_square, ks_of_samples},
    estimate::arrival::{Arrivals, Mark, PLACES},
    metrics::{Undefined, interval::LEVEL},
    udaf::rows::{class_rows, flagged_values},
};

/// How labelled rows differ from those without a label.
struct Selection {
    column: &'static str,
    method: Method,
    statistic: f64,
    p_value: f64,
    /// How far the statistic may be off, for values of a bin are taken for one another.
    bound: Option<f64>,
    is_selective: bool,
}

/// The arrival curve of every group, one row for each time after the prediction.
pub(super) fn label_lag(
    gathered: &BTreeMap<Group, Gathered>,
    groups: &Groups,
    context: &EvaluationContext,
) -> Result<Vec<LabelLagRow>, Error> {
    let newest_label = gathered.values().filter_map(|rows| rows.newest_label).max();
    let mut all = Vec::new();
    for (group, rows) in gathered {
        all.extend(of_group(group, rows, newest_label, context)?);
    }
    if let Versions::One(version) = &groups.versions {
        let of_version = |row: &LabelLagRow| LabelLagRow { model_version: Some(version.clone()), ..row.clone() };
        let same: Vec<LabelLagRow> = all.iter().map(of_version).collect();
        all.extend(same);
    }
    Ok(all)
}

fn of_group(
    group: &Group,
    gathered: &Gathered,
    newest_label: Option<i64>,
    context: &EvaluationContext,
) -> Result<Vec<LabelLagRow>, Error> {
    let Some(arrivals) = &gathered.arrivals else { return Ok(Vec::new()) };
    let is_final = context.state == "final";
    let looked_at = newest_label.map(|label| label.min(context.decided_at.timestamp_micros()));
    let (start, end) = (context.window_start.timestamp_micros(), context.window_end.timestamp_micros());
    let waited = |place: i64| {
        // In the middle of its part of the window.
        let predicted = start + ((end - start) as f64 * (place as f64 + 0.5) / PLACES as f64) as i64;
        looked_at.filter(|_| !is_final).map(|looked_at| looked_at - predicted)
    };
    let reason = match (arrivals.labelled(), arrivals.waiting(), is_final) {
        (0, 0, _) => Some(Undefined::NoRows),
        (0, _, false) => Some(Undefined::NoLabels),
        _ => None,
    };
    let arrival = arrivals.value(waited);
    let selection = if reason.is_none() { selection(gathered, context.task)? } else { None };
    let row = |mark: &Mark| {
        let share = mark.share.filter(|_| reason.is_none());
        // Nobody has waited for so long yet.
        let reason = reason.or(share.is_none().then_some(Undefined::TooFewRows));
        let rows = arrivals.labelled() + arrivals.waiting();
        LabelLagRow {
            model: context.model.clone(),
            model_version: group.model_version.clone(),
            segment: group.segment.clone(),
            segment_value: group.segment_value.clone(),
            window_start: context.window_start,
            window_end: context.window_end,
            within_seconds: mark.within_seconds,
            share: share.map(|(share, _, _)| share),
            ci_low: share.map(|(_, low, _)| low),
            ci_high: share.map(|(_, _, high)| high),
            ci_level: share.map(|_| LEVEL),
            known: mark.known as i64,
            median_seconds: arrival.median_seconds.filter(|_| reason != Some(Undefined::NoLabels)),
            n: rows as i64,
            n_labelled: arrivals.labelled() as i64,
            coverage: (rows > 0).then(|| arrivals.labelled() as f64 / rows as f64),
            looked_at: looked_at.filter(|_| !is_final).map(clock::time_of),
            selection_column: selection.as_ref().map(|found| found.column.to_owned()),
            selection_method: selection.as_ref().map(|found| found.method.as_str().to_owned()),
            selection_statistic: selection.as_ref().map(|found| found.statistic),
            selection_p_value: selection.as_ref().map(|found| found.p_value),
            selection_error_bound: selection.as_ref().and_then(|found| found.bound),
            is_selective: selection.as_ref().map(|found| found.is_selective),
            reason: reason.map(|reason| reason.as_str().to_owned()),
            state: context.state.clone(),
            revision: context.revision,
            decided_at: context.decided_at,
        }
    };
    Ok(arrival.marks.iter().map(row).collect())
}

/// Compares the labelled rows with the others: by score or predicted number, else by predicted class. `None` unless there are both.
fn selection(gathered: &Gathered, task: Task) -> Result<Option<Selection>, Error> {
    if task == Task::Multiclass {
        let rows = class_rows(&gathered.rows)?;
        let (waiting, labelled): (Vec<u64>, Vec<u64>) =
            rows.counts().values().map(|[waiting, labelled]| (*waiting, *labelled)).unzip();
        return Ok(chi_square(&Counts::of_rows(&waiting), &Counts::of_rows(&labelled)).map(|test| Selection {
            column: "prediction",
            method: Method::Chi2,
            statistic: test.statistic,
            p_value: test.p_value,
            bound: None,
            is_selective: test.p_value < SIGNIFICANT
                && test.statistic >= ChiSquare::statistic_of(test.rows, Method::Chi2.effect_min()),
        }));
    }
    let rows = flagged_values(&gathered.rows)?;
    let [waiting, labelled] = rows.samples_by_first();
    let test = ks_of_samples(waiting.as_ref(), labelled.as_ref());
    let bound = waiting.as_ref().share_bound().max(labelled.as_ref().share_bound());
    Ok(test.map(|test| Selection {
        column: if task == Task::Regression { "prediction" } else { "score" },
        method: Method::Ks,
        statistic: test.statistic,
        p_value: test.p_value,
        bound: (bound > 0.0).then_some(bound),
        is_selective: test.p_value < SIGNIFICANT && test.statistic >= Method::Ks.effect_min(),
    }))
}

/// The SQL of a row's lag, and of its place in the window; none if the table has no times.
pub(super) fn inputs(columns: &Columns, context: &EvaluationContext) -> Option<[String; 3]> {
    let (predicted, labelled) = (columns.micros("event_time")?, columns.micros("label_time")?);
    let (start, end) = (context.window_start.timestamp_micros(), context.window_end.timestamp_micros());
    let part = ((end - start) / PLACES).max(1);
    let label = columns.text("label");
    Some([
        format!("CASE WHEN {label} IS NOT NULL THEN {labelled} - {predicted} END AS lag"),
        format!("({predicted} - {start}) / {part} AS place"),
        format!("CASE WHEN {label} IS NOT NULL THEN {labelled} END AS label_micros"),
    ])
}

/// Reads what `label_arrivals` returned.
pub(super) fn arrivals(bytes: &[u8]) -> Result<Arrivals, Error> {
    Ok(crate::udaf::rows::arrivals(bytes)?)
}
