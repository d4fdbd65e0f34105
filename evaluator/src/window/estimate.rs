//! Estimates of metrics for every group, from all rows, labelled or not, beside what has been realised.

use std::collections::BTreeMap;

use driftline_schemas::tables::{ConfusionRow, EstimateRow, MetricRow, Task};

use super::{
    EvaluationContext,
    budget::Budget,
    gather::Gathered,
    groups::{Groups, Versions},
    inputs,
    judge::Group,
};
use crate::{
    Error, Reference,
    estimate::{Calibration, Outcome, binary, classes, loss},
    metrics::{Undefined, interval::LEVEL},
    udaf::rows::{class_rows, flagged_values},
};

/// How a value was come by: from calibrated scores.
const CBPE: &str = "cbpe";
/// From the losses of predictions like these.
const DLE: &str = "dle";

/// The estimates of a group, and how many rows they are of.
struct Estimates {
    n: i64,
    outcomes: Vec<OfClass>,
}

/// A metric, the class that it is of if it is of one, and what is expected.
type OfClass = (&'static str, Option<String>, Outcome);

/// Metrics of all rows.
fn of_all(outcomes: Vec<(&'static str, Outcome)>) -> Vec<OfClass> {
    outcomes.into_iter().map(|(metric, outcome)| (metric, None, outcome)).collect()
}

/// Estimates every group; without a reference, says so once.
pub(super) fn estimate(
    gathered: &BTreeMap<Group, Gathered>,
    groups: &Groups,
    (metrics, confusion): (&[MetricRow], &[ConfusionRow]),
    (budget, context): (Budget, &EvaluationContext),
) -> Result<Vec<EstimateRow>, Error> {
    let mut estimated: BTreeMap<Group, Estimates> = BTreeMap::new();
    match context.reference.as_deref().map_or(Err(Undefined::NoReference), |reference| usable(reference, context)) {
        Err(reason) => {
            estimated.insert(Group::default(), Estimates { n: 0, outcomes: nothing(context.task, reason) });
        }
        Ok(calibration) => {
            for (group, rows) in gathered {
                estimated.insert(group.clone(), of_rows(rows, calibration, budget)?);
            }
        }
    }
    let realised = Realised::of(metrics, confusion, context);
    let all = estimated.iter().flat_map(|(group, estimates)| rows(group, estimates, &realised, context));
    let mut all: Vec<EstimateRow> = all.collect();
    if let Versions::One(version) = &groups.versions {
        let of_version = |row: &EstimateRow| EstimateRow { model_version: Some(version.clone()), ..row.clone() };
        let same: Vec<EstimateRow> = all.iter().map(of_version).collect();
        all.extend(same);
    }
    Ok(all)
}

/// A reference's calibration, if it is one of this task and of this positive class.
pub(super) fn usable<'a>(reference: &'a Reference, context: &EvaluationContext) -> Result<&'a Calibration, Undefined> {
    match (reference.calibration.as_ref(), context.task) {
        (None, _) => Err(Undefined::NoLabels),
        (Some(Calibration::None(reason)), _) => Err(*reason),
        (Some(calibration @ Calibration::Binary(_)), Task::Binary)
            if reference.positive_class == context.positive_class =>
        {
            Ok(calibration)
        }
        (Some(calibration @ Calibration::Multiclass(_)), Task::Multiclass)
        | (Some(calibration @ Calibration::Regression(_)), Task::Regression) => Ok(calibration),
        _ => Err(Undefined::NoReference),
    }
}

fn nothing(task: Task, reason: Undefined) -> Vec<OfClass> {
    let metrics: &[&'static str] = match task {
        Task::Binary => &binary::METRICS,
        Task::Multiclass => &classes::METRICS,
        Task::Regression => &loss::METRICS,
    };
    metrics.iter().map(|metric| (*metric, None, Err(reason))).collect()
}

fn of_rows(gathered: &Gathered, calibration: &Calibration, budget: Budget) -> Result<Estimates, Error> {
    let bytes = &gathered.rows;
    let (n, outcomes) = match calibration {
        Calibration::Binary(curve) => {
            let rows = flagged_values(bytes)?;
            let (said, unsaid) = (rows.by_second(true), rows.by_second(false));
            (said.mass().rows() + unsaid.mass().rows(), of_all(binary::estimate(&said, &unsaid, curve)))
        }
        Calibration::Multiclass(curves) => {
            let rows = class_rows(bytes)?;
            let cells = rows.scored().saturating_mul(curves.len() as u64);
            if rows.is_counted_only() || !budget.holds(cells.saturating_mul(classes::CELL_BYTES)) {
                (0, nothing(Task::Multiclass, Undefined::BeyondMemory))
            } else {
                (rows.scored(), classes::estimate(&rows, curves))
            }
        }
        Calibration::Regression(bins) => {
            let predictions = flagged_values(bytes)?.by_second(false);
            (predictions.mass().rows(), of_all(loss::estimate(&predictions, bins)))
        }
        Calibration::None(reason) => (0, vec![("", None, Err(*reason))]),
    };
    // Rows that have nothing to estimate from are rows all the same.
    let reason =
        |reason: Undefined| if reason == Undefined::NoRows && gathered.n > 0 { Undefined::NoScores } else { reason };
    let outcomes =
        outcomes.into_iter().map(|(metric, class, outcome)| (metric, class, outcome.map_err(reason))).collect();
    Ok(Estimates { n: n as i64, outcomes })
}

/// What the labels that are there say.
struct Realised {
    values: BTreeMap<(Group, String, Option<String>), f64>,
    labelled: BTreeMap<Group, i64>,
}

impl Realised {
    fn of(metrics: &[MetricRow], confusion: &[ConfusionRow], context: &EvaluationContext) -> Self {
        let (mut values, mut labelled) = (BTreeMap::new(), BTreeMap::new());
        for row in metrics {
            let group = group(row.model_version.as_ref(), row.segment.as_ref(), row.segment_value.as_ref());
            labelled.insert(group.clone(), row.n_labelled);
            if let Some(value) = row.value {
                values.insert((group, row.metric.clone(), row.class.clone()), value);
            }
        }
        if context.task == Task::Binary {
            let mut cells: BTreeMap<Group, [f64; 4]> = BTreeMap::new();
            let positives = inputs::positives(context.positive_class.as_deref());
            for row in confusion {
                let is = |class: &str| positives.contains(&class);
                let cell = match (is(&row.actual), is(&row.predicted)) {
                    (true, true) => 0,
                    (false, true) => 1,
                    (true, false) => 2,
                    (false, false) => 3,
                };
                let group = group(row.model_version.as_ref(), row.segment.as_ref(), row.segment_value.as_ref());
                cells.entry(group).or_default()[cell] += row.weight.unwrap_or(row.count as f64);
            }
            for (group, cells) in cells {
                let all: f64 = cells.iter().sum();
                for (metric, cell) in binary::METRICS[7..].iter().zip(cells) {
                    values.insert((group.clone(), (*metric).to_owned(), None), cell / all);
                }
            }
        }
        Self { values, labelled }
    }
}

fn group(version: Option<&String>, segment: Option<&String>, value: Option<&String>) -> Group {
    Group { model_version: version.cloned(), segment: segment.cloned(), segment_value: value.cloned() }
}

fn rows(group: &Group, estimates: &Estimates, realised: &Realised, context: &EvaluationContext) -> Vec<EstimateRow> {
    let row = |(metric, class, outcome): &OfClass| {
        let estimated = outcome.ok();
        EstimateRow {
            model: context.model.clone(),
            model_version: group.model_version.clone(),
            segment: group.segment.clone(),
            segment_value: group.segment_value.clone(),
            window_start: context.window_start,
            window_end: context.window_end,
            metric: (*metric).to_owned(),
            class: class.clone(),
            method: if context.task == Task::Regression { DLE } else { CBPE }.to_owned(),
            value: estimated.map(|estimated| estimated.value),
            ci_low: estimated.map(|estimated| estimated.low),
            ci_high: estimated.map(|estimated| estimated.high),
            ci_level: estimated.map(|_| LEVEL),
            ci_warning: estimated.and_then(|estimated| estimated.warning).map(|warning| warning.as_str().to_owned()),
            error_bound: estimated.and_then(|estimated| estimated.bound),
            realised: realised.values.get(&(group.clone(), (*metric).to_owned(), class.clone())).copied(),
            n: estimates.n,
            n_labelled: realised.labelled.get(group).copied().unwrap_or(0),
            reference_version: context.reference.as_ref().map(|reference| reference.version.clone()),
            reason: outcome.err().map(|reason| reason.as_str().to_owned()),
            state: context.state.clone(),
            revision: context.revision,
            decided_at: context.decided_at,
        }
    };
    estimates.outcomes.iter().map(row).collect()
}
