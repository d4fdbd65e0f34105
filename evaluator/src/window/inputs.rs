//! What a task reads of a row, as SQL: the same for its metrics, its estimates and the reference they rest on.

use super::{columns::Columns, sql};

/// The classes that count as positive: the one that is set, else what canonical text makes of 1 and true.
pub(super) fn positives(positive_class: Option<&str>) -> Vec<&str> {
    positive_class.map_or_else(|| vec!["1", "true"], |class| vec![class])
}

/// Whether a column of classes holds a positive one.
pub(super) fn is_positive(columns: &Columns, column: &str, positives: &[&str]) -> String {
    columns.is_one_of(column, positives.iter().copied())
}

/// The score of a binary model's row: its own, else the positive class's probability.
pub(super) fn score(columns: &Columns, positives: &[&str]) -> String {
    let mut scores: Vec<String> = columns.has("score").then(|| columns.double("score")).into_iter().collect();
    if let Some(map) = columns.map("probabilities") {
        scores.extend(positives.iter().map(|class| format!("CAST({map}[{}] AS DOUBLE)", sql::text(class))));
    }
    match scores.as_slice() {
        [] => "CAST(NULL AS DOUBLE)".to_owned(),
        [one] => one.clone(),
        several => format!("coalesce({})", several.join(", ")),
    }
}

/// Whether a binary model's row was predicted positive; by its score, where it has no prediction of its own.
pub(super) fn is_predicted(columns: &Columns, positives: &[&str], threshold: f64) -> String {
    let derived = format!("({}) >= CAST({threshold:?} AS DOUBLE)", score(columns, positives));
    if columns.has("prediction") {
        format!("coalesce({}, {derived})", is_positive(columns, "prediction", positives))
    } else {
        derived
    }
}

/// The number in a column of numbers, or in its text.
pub(super) fn number(columns: &Columns, value: &str, text: &str) -> String {
    if columns.has(value) { columns.double(value) } else { format!("TRY_CAST({} AS DOUBLE)", columns.text(text)) }
}

/// The map of probabilities, null where there is none.
pub(super) fn probabilities(columns: &Columns) -> String {
    columns.map("probabilities").unwrap_or_else(|| "NULL".to_owned())
}
