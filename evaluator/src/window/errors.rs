//! The most frequent errors of a window, over all versions and by version.

use datafusion::{
    arrow::{
        array::{Array, AsArray},
        datatypes::{Float64Type, Int64Type},
    },
    prelude::SessionContext,
};
use driftline_schemas::tables::{ErrorRow, ServingRow};

use super::{
    EvaluationContext, OTHER,
    columns::{Columns, collect, text_column},
    groups::{Groups, Versions},
    judge::SAMPLING_RATE,
    sql,
};
use crate::{Error, metrics::serving::ERROR_COUNT};

/// Errors that are counted apart, over all versions. More makes a larger table, fewer hides the rarer ones.
const MESSAGES_MAX: usize = 20;
/// Characters of a text that tell errors apart. More splits those that carry an id at their end; fewer joins what is different.
const CHARACTERS_MAX: usize = 200;

/// Counts errors. Nothing is asked of a window in which nothing failed.
pub(super) async fn count(
    session: &SessionContext,
    columns: &Columns,
    groups: &Groups,
    serving: &[ServingRow],
    context: &EvaluationContext,
) -> Result<Vec<ErrorRow>, Error> {
    let is_overall = |row: &&ServingRow| row.model_version.is_none() && row.segment.is_none();
    let failed = serving.iter().filter(is_overall).find(|row| row.metric == ERROR_COUNT).and_then(|row| row.value);
    if failed.is_none_or(|failed| failed == 0.0) {
        return Ok(Vec::new());
    }
    let message = format!("left({}, {CHARACTERS_MAX})", columns.text("error"));
    let failed = format!("{} AND error IS NOT NULL", columns.all_rows());
    let kept = most_frequent(session, &message, &failed).await?;
    let rate = columns.double(SAMPLING_RATE);
    let version = columns.version().filter(|_| groups.versions == Versions::Several);
    let inputs = format!(
        "{} AS version, CASE WHEN {message} IN ({}) THEN {message} ELSE {} END AS message, {rate} AS rate",
        version.as_deref().unwrap_or("CAST(NULL AS VARCHAR)"),
        sql::texts(kept.iter().map(String::as_str)),
        sql::text(OTHER),
    );
    let sets = if version.is_some() { "GROUPING SETS ((message), (version, message))" } else { "version, message" };
    let query = format!(
        "SELECT version, message, count(*) AS n, total_weight(rate) AS weight FROM (SELECT {inputs} FROM {failed}) GROUP BY {sets}"
    );
    let mut rows = Vec::new();
    for batch in collect(session, &query).await? {
        let (versions, messages) = (text_column(&batch, "version")?, text_column(&batch, "message")?);
        let (versions, messages) = (versions.as_string::<i32>(), messages.as_string::<i32>());
        let (counts, weights) =
            (batch.column(2).as_primitive::<Int64Type>(), batch.column(3).as_primitive::<Float64Type>());
        for at in 0..batch.num_rows() {
            let version = versions.is_valid(at).then(|| versions.value(at).to_owned());
            rows.push(row(version, messages.value(at), counts.value(at), weights.value(at), context));
        }
    }
    if let Versions::One(version) = &groups.versions {
        let of_version = |row: &ErrorRow| ErrorRow { model_version: Some(version.clone()), ..row.clone() };
        rows.extend(rows.iter().map(of_version).collect::<Vec<_>>());
    }
    Ok(rows)
}

/// The messages with most rows, the first in text order among equals.
async fn most_frequent(session: &SessionContext, message: &str, failed: &str) -> Result<Vec<String>, Error> {
    let query = format!(
        "SELECT message, count(*) AS n FROM (SELECT {message} AS message FROM {failed}) GROUP BY message \
         ORDER BY n DESC, message LIMIT {MESSAGES_MAX}"
    );
    let mut messages = Vec::new();
    for batch in collect(session, &query).await? {
        let texts = text_column(&batch, "message")?;
        messages.extend(texts.as_string::<i32>().iter().flatten().map(str::to_owned));
    }
    Ok(messages)
}

fn row(model_version: Option<String>, message: &str, count: i64, weight: f64, context: &EvaluationContext) -> ErrorRow {
    ErrorRow {
        model: context.model.clone(),
        model_version,
        window_start: context.window_start,
        window_end: context.window_end,
        message: message.to_owned(),
        count,
        weight,
        state: context.state.clone(),
        revision: context.revision,
        decided_at: context.decided_at,
    }
}
