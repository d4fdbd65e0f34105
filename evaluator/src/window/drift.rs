//! Drift and quality of every column against the reference: over all rows and by segment, over all versions and by version.

use std::collections::BTreeMap;

use datafusion::prelude::SessionContext;
use driftline_schemas::tables::{DriftRow, QualityRow};

use super::{
    EvaluationContext,
    columns::{ByGroup, Categories, Column, Columns, NumberReader, ReadColumn, TextColumn, count_categories},
    components,
    groups::{Groups, Segment, Versions},
    quality::{self, Counted, RowCounts},
};
use crate::{
    Error, Reference,
    drift::{LEVEL, Method, Sample, components::Errors},
    metrics::Undefined,
    reference::{Distance, ReferenceValues},
};

/// Measures every column that the reference has; without a reference, says so once for score and prediction.
pub(super) async fn measure(
    session: &SessionContext,
    columns: &Columns,
    groups: &Groups,
    counts: &RowCounts,
    context: &EvaluationContext,
) -> Result<(Vec<DriftRow>, Vec<QualityRow>), Error> {
    let Some(reference) = &context.reference else { return Ok((without_reference(context), Vec::new())) };
    let mut measured = Measured { reference, counts, context, drift: Vec::new(), quality: Vec::new() };
    let segments = groups.segments.iter().map(Some);
    for segment in std::iter::once(None).chain(segments) {
        measure_by(session, columns, groups, segment, &mut measured).await?;
    }
    for kept in &reference.columns {
        let is_read = measured.quality.iter().any(|row| row.segment.is_none() && row.column_name == kept.column.name());
        if !is_read && matches!(kept.column, Column::Feature(_)) {
            measured.quality.extend(quality::absent(&kept.column, counts, reference, context));
        }
    }
    measured.drift.extend(of_all_features(session, columns, groups, reference, context).await?);
    Ok((measured.drift, measured.quality))
}

/// How far rows lie from what the reference's numeric features have in common: over all rows, and by version.
async fn of_all_features(
    session: &SessionContext,
    columns: &Columns,
    groups: &Groups,
    reference: &Reference,
    context: &EvaluationContext,
) -> Result<Vec<DriftRow>, Error> {
    let Some(components) = &reference.components else { return Ok(Vec::new()) };
    let all = components::errors(session, columns, components, None).await?.remove("").unwrap_or_default();
    let mut by_version = BTreeMap::from([(None, all)]);
    match (&groups.versions, columns.version()) {
        (Versions::One(version), _) => _ = by_version.insert(Some(version.clone()), all),
        (Versions::Several, Some(read)) => {
            let found = components::errors(session, columns, components, Some(&read)).await?;
            by_version.extend(found.into_iter().map(|(version, errors)| (Some(version), errors)));
        }
        _ => {}
    }
    let row = |(version, errors): (Option<String>, Errors)| {
        let method = Method::PcaReconstruction;
        let reason = match errors.n {
            0 => Undefined::NoRows,
            _ if components.errors.deviation <= 0.0 => Undefined::Constant,
            _ if errors.effective_rows.min(components.errors.effective_rows) < 2.0 => Undefined::TooFewRows,
            // Values so large that their squares are no numbers.
            _ => Undefined::OutOfDomain,
        };
        let distance = Distance::exact(method, method.effect_min(), components.moved(&errors).ok_or(reason));
        let group = Group { version, segment: None };
        drift_row(&group, quality::ALL_FEATURES, (errors.n, components.errors.n), true, &distance, context)
    };
    Ok(by_version.into_iter().map(row).collect())
}

/// What has been found so far, and what it is measured with.
struct Measured<'a> {
    reference: &'a Reference,
    counts: &'a RowCounts,
    context: &'a EvaluationContext,
    drift: Vec<DriftRow>,
    quality: Vec<QualityRow>,
}

impl Measured<'_> {
    fn add(&mut self, group: &Group, counted: &Counted<'_>, is_numeric: bool, distances: &[Distance]) {
        let Some(values) = self.reference.column(counted.column) else { return };
        for distance in distances {
            let counts = (counted.values, values.n());
            self.drift.push(drift_row(group, counted.column.name(), counts, is_numeric, distance, self.context));
        }
        self.quality.extend(quality::rows(group, counted, self.counts, self.reference, self.context));
    }
}

/// One pass over the columns: all rows, or those of each value of a segment.
async fn measure_by(
    session: &SessionContext,
    columns: &Columns,
    groups: &Groups,
    segment: Option<&Segment>,
    measured: &mut Measured<'_>,
) -> Result<(), Error> {
    let (reference, context) = (measured.reference, measured.context);
    let key = segment.map(|segment| segment.value.as_str());
    let group = |value: &str, version| Group {
        version,
        segment: segment.map(|segment| (segment.names.clone(), value.to_owned())),
    };
    let attributed = reference.columns.iter().filter_map(|kept| {
        let read = columns.attribution(&kept.column)?;
        Some((kept.column.clone(), read))
    });
    let numeric = columns.numeric(context.task).into_iter().chain(attributed).collect();
    let numeric = known(numeric, reference, |values| matches!(values, ReferenceValues::Numeric { .. }));
    let of_values = segment.map_or(1, |segment| segment.values as u64);
    let at_most = of_values * groups.versions_max as u64;
    let mut reader = NumberReader::new(columns, &numeric, (key, at_most), Some(reference));
    while let Some(samples) = reader.next(session).await? {
        for (column, by_segment) in samples {
            let Some(values) = reference.column(&column) else { continue };
            let strays = strays(session, columns, &column, true, key).await?;
            for (value, by_version) in by_segment {
                for (versions, sample) in with_overall(by_version, &groups.versions, merge_samples) {
                    let mut counted = Counted {
                        column: &column,
                        values: sample.as_ref().rows(),
                        of_other_kind: 0,
                        strange: values.out_of_range(sample.as_ref()).unwrap_or(0),
                        is_constant: quality::is_constant(sample.as_ref()),
                    };
                    let distances = values.distances_of_numbers(sample.as_ref());
                    for version in versions {
                        counted.of_other_kind = stray(&strays, &value, version.as_deref());
                        measured.add(&group(&value, version), &counted, true, &distances);
                    }
                }
            }
        }
    }
    let categorical = known(columns.categorical(context.task), reference, |values| {
        matches!(values, ReferenceValues::Categorical { .. })
    });
    let wanted: Vec<TextColumn<'_>> =
        categorical.iter().map(|(column, read)| TextColumn { read, known: categories(reference, column) }).collect();
    let counted = count_categories(session, columns, &wanted, key).await?;
    for ((column, _), mut by_segment) in categorical.iter().zip(counted) {
        let Some(values) = reference.column(column) else { continue };
        if segment.is_none() {
            // A column without a single value in all rows says so.
            by_segment.entry(String::new()).or_default();
        }
        let strays = strays(session, columns, column, false, key).await?;
        for (value, by_version) in by_segment {
            for (versions, counts) in with_overall(by_version, &groups.versions, merge_categories) {
                let mut counted = Counted {
                    column,
                    values: counts.n(),
                    of_other_kind: 0,
                    strange: counts.others.rows,
                    is_constant: quality::is_one_category(&counts),
                };
                let distances = values.distances_of_categories(&counts);
                for version in versions {
                    counted.of_other_kind = stray(&strays, &value, version.as_deref());
                    measured.add(&group(&value, version), &counted, false, &distances);
                }
            }
        }
    }
    Ok(())
}

/// The categories that the reference keeps of a column.
fn categories<'a>(reference: &'a Reference, column: &Column) -> Vec<&'a str> {
    match reference.column(column) {
        Some(ReferenceValues::Categorical { categories, .. }) => categories.keys().map(String::as_str).collect(),
        _ => Vec::new(),
    }
}

/// Values of the other kind than the reference has, by group. Usually there is no such column, and nothing to ask.
async fn strays(
    session: &SessionContext,
    columns: &Columns,
    column: &Column,
    is_numeric: bool,
    key: Option<&str>,
) -> Result<ByGroup<Categories>, Error> {
    let Some(read) = columns.other_kind(column, is_numeric) else { return Ok(BTreeMap::new()) };
    let wanted = [TextColumn { read: &read, known: Vec::new() }];
    Ok(count_categories(session, columns, &wanted, key).await?.pop().unwrap_or_default())
}

fn stray(strays: &ByGroup<Categories>, value: &str, version: Option<&str>) -> u64 {
    let Some(by_version) = strays.get(value) else { return 0 };
    match version {
        None => by_version.values().map(Categories::n).sum(),
        Some(version) => by_version.get(version).map_or(0, Categories::n),
    }
}

/// Whose rows a distance is of.
#[derive(Debug, Default)]
pub(super) struct Group {
    pub(super) version: Option<String>,
    /// Names and value.
    pub(super) segment: Option<(String, String)>,
}

/// The columns to read: those that the reference has, of the same kind.
fn known(columns: Vec<ReadColumn>, reference: &Reference, kind: fn(&ReferenceValues) -> bool) -> Vec<ReadColumn> {
    columns.into_iter().filter(|(column, _)| reference.column(column).is_some_and(kind)).collect()
}

/// All versions together, first, then each if rows know versions; a single one has all rows, and is measured with them.
fn with_overall<T>(
    by_version: BTreeMap<String, T>,
    versions: &Versions,
    merge: fn(&BTreeMap<String, T>) -> T,
) -> Vec<(Vec<Option<String>>, T)> {
    let all = merge(&by_version);
    match (versions, by_version.len()) {
        (Versions::None, _) => vec![(vec![None], all)],
        (_, 1) => vec![(std::iter::once(None).chain(by_version.into_keys().map(Some)).collect(), all)],
        _ => {
            let each = by_version.into_iter().map(|(version, values)| (vec![Some(version)], values));
            std::iter::once((vec![None], all)).chain(each).collect()
        }
    }
}

fn merge_samples(by_version: &BTreeMap<String, Sample>) -> Sample {
    Sample::merged(by_version.values())
}

fn merge_categories(by_version: &BTreeMap<String, Categories>) -> Categories {
    let mut all = Categories::default();
    for categories in by_version.values() {
        all.merge(categories);
    }
    all
}

fn without_reference(context: &EvaluationContext) -> Vec<DriftRow> {
    let method = Method::Psi;
    let distance = Distance::exact(method, method.effect_min(), Err(Undefined::NoReference));
    [Column::Score, Column::Prediction]
        .iter()
        .map(|column| drift_row(&Group::default(), column.name(), (0, 0), false, &distance, context))
        .collect()
}

fn drift_row(
    group: &Group,
    column: &str,
    (n, n_reference): (u64, u64),
    is_numeric: bool,
    distance: &Distance,
    context: &EvaluationContext,
) -> DriftRow {
    let (statistic, p_value) = distance.outcome.ok().unzip();
    let rejected = p_value.is_some_and(|p| p < LEVEL);
    let (segment, segment_value) = group.segment.clone().unzip();
    DriftRow {
        model: context.model.clone(),
        model_version: group.version.clone(),
        segment,
        segment_value,
        window_start: context.window_start,
        window_end: context.window_end,
        column_name: column.to_owned(),
        method: distance.method.as_str().to_owned(),
        statistic,
        p_value: p_value.filter(|_| distance.method.is_test() || distance.method.decides(is_numeric)),
        threshold: distance.threshold,
        drifted: statistic.map(|statistic| rejected && statistic >= distance.threshold),
        decides: Some(distance.method.decides(is_numeric)),
        n: n as i64,
        n_reference: n_reference as i64,
        reference_version: context.reference.as_ref().map(|reference| reference.version.clone()),
        error_bound: distance.bound,
        reason: distance.outcome.err().map(|reason| reason.as_str().to_owned()),
        state: context.state.clone(),
        revision: context.revision,
        decided_at: context.decided_at,
    }
}
