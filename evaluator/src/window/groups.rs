//! Which groups of rows get results of their own: versions, and the values of each segment up to a cap.
//!
//! Rows that failed take part: a version that always fails is one that a person must see.

use datafusion::{
    arrow::{array::AsArray, datatypes::Int64Type},
    prelude::SessionContext,
};

use super::{
    EvaluationContext, OTHER,
    columns::{Columns, collect, text_column},
    sql,
};
use crate::Error;

/// The groups of a window.
#[derive(Debug)]
pub(super) struct Groups {
    pub(super) versions: Versions,
    /// How many versions rows are told apart by at most.
    pub(super) versions_max: usize,
    pub(super) segments: Vec<Segment>,
}

/// The versions that occur.
#[derive(Debug, PartialEq)]
pub(super) enum Versions {
    /// No rows, or rows that know no versions.
    None,
    /// The usual case: rows by version are the rows of all, and cost no second pass.
    One(String),
    /// Rows are grouped by version.
    Several,
}

/// One cross of names.
#[derive(Debug)]
pub(super) struct Segment {
    /// The names, joined by a comma.
    pub(super) names: String,
    /// The SQL expression of a row's value, capped.
    pub(super) value: String,
    /// How many values it has.
    pub(super) values: usize,
}

/// Looks which versions and segment values there are.
pub(super) async fn find(
    session: &SessionContext,
    columns: &mut Columns,
    context: &EvaluationContext,
) -> Result<Groups, Error> {
    let versions = find_versions(session, columns).await?;
    let mut versions_max = 1;
    if versions == Versions::Several
        && let Some(version) = columns.version()
    {
        // As many as a segment has values: else a version that is an id would have every metric for each prediction (B1).
        let (capped, count) = cap_values(session, columns, &version, context, Some("model_version")).await?;
        versions_max = count;
        columns.cap_versions(capped);
    }
    let mut segments = Vec::new();
    for names in &context.segments {
        // A name that no row has makes a segment without values.
        let Some(key) = segment_key(columns, names) else { continue };
        let (value, values) = cap_values(session, columns, &key, context, Some(&names.join(","))).await?;
        segments.push(Segment { names: names.join(","), value, values });
    }
    Ok(Groups { versions, versions_max, segments })
}

/// Two short looks instead of a grouping: any version, then any other. Statistics usually answer the second.
async fn find_versions(session: &SessionContext, columns: &Columns) -> Result<Versions, Error> {
    let Some(version) = columns.version() else { return Ok(Versions::None) };
    let rows = columns.all_rows();
    let Some(one) = first_text(session, &format!("SELECT {version} AS value FROM {rows} LIMIT 1")).await? else {
        return Ok(Versions::None);
    };
    let raw = columns.text("model_version");
    let differs = match one.as_str() {
        "" => format!("{raw} <> ''"),
        one => format!("({raw} <> {} OR {raw} IS NULL)", sql::text(one)),
    };
    let other = first_text(session, &format!("SELECT {version} AS value FROM {rows} AND {differs} LIMIT 1")).await?;
    Ok(if other.is_some() { Versions::Several } else { Versions::One(one) })
}

/// The SQL expression of a cross's value; null where a row lacks one of the names.
fn segment_key(columns: &Columns, names: &[String]) -> Option<String> {
    let parts: Vec<String> = names.iter().map(|name| columns.segment(name)).collect::<Option<_>>()?;
    if let [one] = parts.as_slice() {
        return Some(one.clone());
    }
    let escaped = parts.iter().map(|part| format!(r"replace(replace({part}, '\', '\\'), ',', '\,')"));
    Some(escaped.collect::<Vec<_>>().join(" || ',' || "))
}

/// Keeps the most frequent values, the first in text order among equals, and pools the others; with them those of so few rows that
/// nothing may be said of them alone.
///
/// # Returns
/// A row's value as SQL, and how many different ones there are.
pub(super) async fn cap_values(
    session: &SessionContext,
    columns: &Columns,
    key: &str,
    context: &EvaluationContext,
    name: Option<&str>,
) -> Result<(String, usize), Error> {
    let max = context.segment_values_max;
    let query = format!(
        "SELECT value, count(*) AS n FROM (SELECT {key} AS value FROM {}) WHERE value IS NOT NULL \
         GROUP BY value ORDER BY n DESC, value LIMIT {}",
        columns.all_rows(),
        max.saturating_add(1)
    );
    let mut values: Vec<(String, u64)> = Vec::new();
    for batch in collect(session, &query).await? {
        let (texts, counts) = (text_column(&batch, "value")?, batch.column(1).as_primitive::<Int64Type>());
        let texts = texts.as_string::<i32>();
        values.extend((0..batch.num_rows()).map(|row| (texts.value(row).to_owned(), counts.value(row) as u64)));
    }
    let is_kept = |(_, rows): &&(String, u64)| *rows >= context.segments_min_rows;
    let kept: Vec<&str> = values.iter().take(max).filter(is_kept).map(|(value, _)| value.as_str()).collect();
    if kept.len() == values.len() {
        return Ok((key.to_owned(), kept.len().max(1)));
    }
    if let Some(name) = name {
        crate::telemetry::values_pooled(&context.model, name, max);
    }
    let count = kept.len() + 1;
    let kept = sql::texts(kept);
    let value = format!("CASE WHEN {key} IN ({kept}) THEN {key} WHEN {key} IS NOT NULL THEN {} END", sql::text(OTHER));
    Ok((value, count))
}

/// The first row's `value`, if there is one.
pub(super) async fn first_text(session: &SessionContext, query: &str) -> Result<Option<String>, Error> {
    for batch in collect(session, query).await? {
        let texts = text_column(&batch, "value")?;
        if let Some(text) = texts.as_string::<i32>().iter().flatten().next() {
            return Ok(Some(text.to_owned()));
        }
    }
    Ok(None)
}
