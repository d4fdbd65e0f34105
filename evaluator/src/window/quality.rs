//! What is amiss with the values of a column, beside what is in the reference.
//!
//! | check | share | of |
//! |---|---|---|
//! | `missing_rate` | null or NaN, or text where the reference has numbers and the other way | all valid rows |
//! | `type_error_rate` | text where the reference has numbers, or numbers where it has text | rows with a value of either kind |
//! | `out_of_range_rate` | below the smallest or above the largest number of the reference | rows with a number |
//! | `unseen_rate` | no category of the reference (of its thousand most frequent ones) | rows with a text |
//! | `constant` | 1 if all values are the same, else 0 | rows with a value, two or more |
//! | `duplicate_rate` of [`ALL_FEATURES`] | rows that repeat all features of another | rows with a feature, of all groups together |

use std::collections::BTreeMap;

use datafusion::{
    arrow::{array::AsArray, datatypes::Int64Type},
    prelude::SessionContext,
};
use driftline_schemas::{
    history::{FEATURE_PREFIX, FEATURES_JSON},
    tables::{MetricRow, QualityRow, ServingRow, Task},
};

use super::{
    EvaluationContext,
    columns::{Categories, Column, Columns, ReadColumn, collect},
    drift::Group,
    sql,
};
use crate::{
    Error, Reference, drift::SampleRef, metrics::Undefined, reference::ReferenceValues, udaf::distinct::Share,
};

/// Rows of each group, by version, segment and its value.
pub(super) struct RowCounts {
    valid: BTreeMap<GroupKey, i64>,
    requests: BTreeMap<GroupKey, i64>,
}

/// Version, segment and its value.
pub(super) type GroupKey = (Option<String>, Option<String>, Option<String>);

impl RowCounts {
    /// From the metrics and from serving, which all say so.
    pub(super) fn of(metrics: &[MetricRow], serving: &[ServingRow]) -> Self {
        let valid = metrics.iter().map(|row| (&row.model_version, &row.segment, &row.segment_value, row.n));
        let requests = serving.iter().map(|row| (&row.model_version, &row.segment, &row.segment_value, row.n));
        let keyed = |(version, segment, value, n): (&Option<String>, &Option<String>, &Option<String>, i64)| {
            ((version.clone(), segment.clone(), value.clone()), n)
        };
        Self { valid: valid.map(keyed).collect(), requests: requests.map(keyed).collect() }
    }

    fn get(&self, group: &Group) -> u64 {
        let (segment, value) = group.segment.clone().unzip();
        self.valid.get(&(group.version.clone(), segment, value)).map_or(0, |n| (*n).max(0) as u64)
    }

    /// All rows of a group, whether they count or not.
    pub(super) fn requests(&self, group: &GroupKey) -> u64 {
        self.requests.get(group).map_or(0, |n| (*n).max(0) as u64)
    }
}

/// What was counted of one column in one group.
pub(super) struct Counted<'a> {
    pub(super) column: &'a Column,
    /// Rows with a value of the reference's kind.
    pub(super) values: u64,
    /// Rows with a value of the other kind.
    pub(super) of_other_kind: u64,
    /// Numbers out of the reference's range, or texts that it has not seen.
    pub(super) strange: u64,
    pub(super) is_constant: bool,
}

/// Whether all numbers are one.
pub(super) fn is_constant(sample: SampleRef<'_>) -> bool {
    sample.ends().is_none_or(|(first, last)| first == last)
}

/// Whether all texts are one.
pub(super) fn is_one_category(categories: &Categories) -> bool {
    categories.others.rows == 0 && categories.counts.len() == 1
}

/// The checks of one column in one group.
pub(super) fn rows(
    group: &Group,
    counted: &Counted<'_>,
    counts: &RowCounts,
    reference: &Reference,
    context: &EvaluationContext,
) -> Vec<QualityRow> {
    let Some(values) = reference.column(counted.column) else { return Vec::new() };
    let all = counts.get(group);
    let typed = counted.values + counted.of_other_kind;
    let in_reference = (reference.rows > 0).then(|| 1.0 - values.n() as f64 / reference.rows as f64);
    let strange = match values {
        ReferenceValues::Numeric { .. } => "out_of_range_rate",
        ReferenceValues::Categorical { .. } => "unseen_rate",
    };
    let mut checks = Vec::new();
    // A label that is not there may come yet: `label_coverage` of the window says how many have.
    if *counted.column != Column::Label {
        checks.push(("missing_rate", share(all.saturating_sub(counted.values), all), in_reference, all));
    }
    if matches!(counted.column, Column::Feature(_)) {
        checks.push(("type_error_rate", share(counted.of_other_kind, typed), Some(0.0), typed));
    }
    checks.push((strange, share(counted.strange, counted.values), Some(values.strange_share()), counted.values));
    let constant =
        if counted.values < 2 { Err(Undefined::TooFewRows) } else { Ok(f64::from(u8::from(counted.is_constant))) };
    checks.push(("constant", constant, Some(f64::from(u8::from(values.is_constant()))), counted.values));
    checks.into_iter().map(|check| row(group, counted.column.name(), check, context)).collect()
}

/// A column that the reference has and no row of the window.
pub(super) fn absent(
    column: &Column,
    counts: &RowCounts,
    reference: &Reference,
    context: &EvaluationContext,
) -> Vec<QualityRow> {
    let counted = Counted { column, values: 0, of_other_kind: 0, strange: 0, is_constant: false };
    rows(&Group::default(), &counted, counts, reference, context)
}

/// Without a reference: which share of each feature is missing, over all rows.
pub(super) async fn without_reference(
    session: &SessionContext,
    columns: &Columns,
    context: &EvaluationContext,
) -> Result<Vec<QualityRow>, Error> {
    let mut reads: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let features = |all: Vec<ReadColumn>| all.into_iter().filter(|(column, _)| matches!(column, Column::Feature(_)));
    for (column, read) in features(columns.numeric(Task::Binary)) {
        reads.entry(column.name().to_owned()).or_default().push(format!("({read} IS NOT NULL AND NOT isnan({read}))"));
    }
    for (column, read) in features(columns.categorical(Task::Binary)) {
        reads.entry(column.name().to_owned()).or_default().push(format!("({read} IS NOT NULL)"));
    }
    if reads.is_empty() {
        return Ok(Vec::new());
    }
    let present =
        reads.values().enumerate().map(|(i, kinds)| format!("count(*) FILTER (WHERE {}) AS c{i}", kinds.join(" OR ")));
    let outputs: Vec<String> = std::iter::once("count(*) AS n".to_owned()).chain(present).collect();
    let query = format!("SELECT {} FROM {}", outputs.join(", "), columns.valid_rows());
    let mut rows = Vec::new();
    for batch in collect(session, &query).await? {
        let count = |at: usize| batch.column(at).as_primitive::<Int64Type>().value(0) as u64;
        let all = count(0);
        for (i, name) in reads.keys().enumerate() {
            let missing = share(all - count(i + 1), all);
            rows.push(row(&Group::default(), name, ("missing_rate", missing, None, all), context));
        }
    }
    Ok(rows)
}

/// What a row's hash takes.
const HASH_BYTES: u64 = 8;
/// The column of what is said of all features together.
pub const ALL_FEATURES: &str = "__features__";

/// Which share of rows repeats all features of another row: a stuck sensor, a caller that asks again, a default for everything.
/// Nothing is said where rows have no features.
pub(super) async fn duplicates(
    session: &SessionContext,
    columns: &Columns,
    context: &EvaluationContext,
) -> Result<Option<QualityRow>, Error> {
    let features = columns.named(|name| name.starts_with(FEATURE_PREFIX) || name == FEATURES_JSON);
    if features.is_empty() {
        return Ok(None);
    }
    let (features, valid) = (features.join(", "), columns.valid_rows());
    // As many passes over the rows as their hashes need to fit; each counts its share of them.
    let shares = columns.budget().shares(HASH_BYTES);
    let (mut rows, mut different) = (0, 0);
    for part in 0..shares {
        let share = sql::constant(&serde_json::to_string(&Share { part, of: shares })?);
        for batch in
            collect(session, &format!("SELECT distinct_rows({share}, {features}) AS counts FROM {valid}")).await?
        {
            let counts = batch.column(0).as_list::<i32>().value(0);
            let counts = counts.as_primitive::<Int64Type>();
            rows += counts.value(0) as u64;
            different += counts.value(1) as u64;
        }
    }
    let check = ("duplicate_rate", share(rows - different, rows), None, rows);
    Ok(Some(row(&Group::default(), ALL_FEATURES, check, context)))
}

fn share(part: u64, whole: u64) -> Result<f64, Undefined> {
    if whole == 0 { Err(Undefined::NoRows) } else { Ok(part as f64 / whole as f64) }
}

fn row(
    group: &Group,
    column: &str,
    (check, value, reference_value, n): (&str, Result<f64, Undefined>, Option<f64>, u64),
    context: &EvaluationContext,
) -> QualityRow {
    let (segment, segment_value) = group.segment.clone().unzip();
    QualityRow {
        model: context.model.clone(),
        model_version: group.version.clone(),
        segment,
        segment_value,
        window_start: context.window_start,
        window_end: context.window_end,
        column_name: column.to_owned(),
        check: check.to_owned(),
        value: value.ok(),
        reference_value,
        n: n as i64,
        reference_version: context.reference.as_ref().map(|reference| reference.version.clone()),
        reason: value.err().map(|reason| reason.as_str().to_owned()),
        state: context.state.clone(),
        revision: context.revision,
        decided_at: context.decided_at,
    }
}
