//! Drift of every column against the reference: over all rows and by segment, over all versions and by version.

use std::collections::BTreeMap;

use datafusion::prelude::SessionContext;
use driftline_schemas::tables::DriftRow;

use super::{
    EvaluationContext,
    columns::{Categories, Column, Columns, ReadColumn, count_categories, read_numbers},
    groups::{Groups, Segment, Versions},
};
use crate::{Error, Reference, metrics::Undefined, reference::ReferenceValues};

/// A Kolmogorov–Smirnov statistic from which on a column counts as drifted, if the test rejects too: with many rows a
/// test rejects distances that matter to nobody.
pub(super) const KS_THRESHOLD: f64 = 0.1;
/// The level at which the test rejects.
pub(super) const KS_LEVEL: f64 = 0.05;
/// A population stability index from which on a column counts as drifted: the banking rule of thumb for a major shift.
pub(super) const PSI_THRESHOLD: f64 = 0.2;

/// One distance of one column in one group.
struct Distance {
    method: &'static str,
    threshold: f64,
    /// The statistic and, for a test, the p-value.
    outcome: Result<(f64, Option<f64>), Undefined>,
    n: u64,
}

/// Measures every column that the reference has; without a reference, says so once for score and prediction.
pub(super) async fn measure(
    session: &SessionContext,
    columns: &Columns,
    groups: &Groups,
    context: &EvaluationContext,
) -> Result<Vec<DriftRow>, Error> {
    let Some(reference) = &context.reference else { return Ok(without_reference(context)) };
    let mut rows = Vec::new();
    let segments = groups.segments.iter().map(Some);
    for segment in std::iter::once(None).chain(segments) {
        measure_by(session, columns, groups, segment, reference, context, &mut rows).await?;
    }
    Ok(rows)
}

/// One pass over the columns: all rows, or those of each value of a segment.
async fn measure_by(
    session: &SessionContext,
    columns: &Columns,
    groups: &Groups,
    segment: Option<&Segment>,
    reference: &Reference,
    context: &EvaluationContext,
    rows: &mut Vec<DriftRow>,
) -> Result<(), Error> {
    let key = segment.map(|segment| segment.value.as_str());
    let group = |value: &str, version| Group {
        version,
        segment: segment.map(|segment| (segment.names.clone(), value.to_owned())),
    };
    let numeric =
        known(columns.numeric(context.task), reference, |values| matches!(values, ReferenceValues::Numeric { .. }));
    for (column, by_segment) in read_numbers(session, columns, &numeric, key).await? {
        let Some(values) = reference.column(&column) else { continue };
        for (value, by_version) in by_segment {
            for (version, sample) in with_overall(by_version, &groups.versions, merge_samples) {
                for distance in numeric_distances(values, &sample) {
                    rows.push(drift_row(group(&value, version.clone()), &column, values.n(), &distance, context));
                }
            }
        }
    }
    let categorical = known(columns.categorical(context.task), reference, |values| {
        matches!(values, ReferenceValues::Categorical { .. })
    });
    for (column, read) in categorical {
        let Some(values @ ReferenceValues::Categorical { categories, .. }) = reference.column(&column) else {
            continue;
        };
        let known = categories.keys().map(String::as_str);
        let mut by_segment = count_categories(session, columns, &read, known, key).await?;
        if segment.is_none() {
            // A column without a single value in all rows says so.
            by_segment.entry(String::new()).or_default();
        }
        for (value, by_version) in by_segment {
            for (version, counts) in with_overall(by_version, &groups.versions, merge_categories) {
                let distance = categorical_distance(values, &counts);
                rows.push(drift_row(group(&value, version), &column, values.n(), &distance, context));
            }
        }
    }
    Ok(())
}

/// Whose rows a distance is of.
#[derive(Default)]
struct Group {
    version: Option<String>,
    /// Names and value.
    segment: Option<(String, String)>,
}

/// The columns to read: those that the reference has, of the same kind.
fn known(columns: Vec<ReadColumn>, reference: &Reference, kind: fn(&ReferenceValues) -> bool) -> Vec<ReadColumn> {
    columns.into_iter().filter(|(column, _)| reference.column(column).is_some_and(kind)).collect()
}

/// All versions together, first, then each if rows know versions.
fn with_overall<T: Default>(
    by_version: BTreeMap<String, T>,
    versions: &Versions,
    merge: fn(&BTreeMap<String, T>) -> T,
) -> Vec<(Option<String>, T)> {
    let mut groups = vec![(None, merge(&by_version))];
    if *versions != Versions::None {
        groups.extend(by_version.into_iter().map(|(version, values)| (Some(version), values)));
    }
    groups
}

fn merge_samples(by_version: &BTreeMap<String, Vec<f64>>) -> Vec<f64> {
    let mut sample: Vec<f64> = by_version.values().flatten().copied().collect();
    if by_version.len() > 1 {
        sample.sort_unstable_by(f64::total_cmp);
    }
    sample
}

fn merge_categories(by_version: &BTreeMap<String, Categories>) -> Categories {
    let mut all = Categories::default();
    for categories in by_version.values() {
        all.merge(categories);
    }
    all
}

fn numeric_distances(reference: &ReferenceValues, current: &[f64]) -> [Distance; 2] {
    let n = current.len() as u64;
    let ks = reference.ks(current).map(|test| (test.statistic, Some(test.p_value)));
    let psi = reference.psi_of_numbers(current).map(|psi| (psi, None));
    [
        Distance { method: "ks", threshold: KS_THRESHOLD, outcome: ks, n },
        Distance { method: "psi", threshold: PSI_THRESHOLD, outcome: psi, n },
    ]
}

fn categorical_distance(reference: &ReferenceValues, current: &Categories) -> Distance {
    let psi = reference.psi_of_categories(current).map(|psi| (psi, None));
    Distance { method: "psi", threshold: PSI_THRESHOLD, outcome: psi, n: current.n() }
}

fn without_reference(context: &EvaluationContext) -> Vec<DriftRow> {
    let distance = Distance { method: "psi", threshold: PSI_THRESHOLD, outcome: Err(Undefined::NoReference), n: 0 };
    [Column::Score, Column::Prediction]
        .iter()
        .map(|column| drift_row(Group::default(), column, 0, &distance, context))
        .collect()
}

fn drift_row(
    group: Group,
    column: &Column,
    n_reference: u64,
    distance: &Distance,
    context: &EvaluationContext,
) -> DriftRow {
    let (statistic, p_value) = distance.outcome.map_or((None, None), |(statistic, p)| (Some(statistic), p));
    let rejected = p_value.is_none_or(|p| p < KS_LEVEL);
    let (segment, segment_value) = group.segment.unzip();
    DriftRow {
        model: context.model.clone(),
        model_version: group.version,
        segment,
        segment_value,
        window_start: context.window_start,
        window_end: context.window_end,
        column_name: column.name().to_owned(),
        method: distance.method.to_owned(),
        statistic,
        p_value,
        threshold: distance.threshold,
        drifted: statistic.map(|statistic| rejected && statistic >= distance.threshold),
        n: distance.n as i64,
        n_reference: n_reference as i64,
        reference_version: context.reference.as_ref().map(|reference| reference.version.clone()),
        reason: distance.outcome.err().map(|reason| reason.as_str().to_owned()),
        state: context.state.clone(),
        revision: context.revision,
        decided_at: context.decided_at,
    }
}
