//! Rows of a file of one's own under the names and types of `history`: classes in their one spelling, numbers beside them, features by kind, and the
//! rows that a window would refuse marked.

use std::{collections::BTreeMap, sync::Arc};

use datafusion::{
    arrow::{
        array::{AsArray, StringArray},
        datatypes::{DataType, Int64Type},
    },
    logical_expr::{ColumnarValue, ScalarUDF, Volatility, create_udf},
    prelude::SessionContext,
};
use driftline_schemas::{
    canonical,
    tables::{ScoreKind, Task},
};

use crate::{
    Error,
    window::{columns::is_text, sql},
};

/// `canonical(text)`: the one spelling of a class, as the decoder has it.
fn canonical_function() -> ScalarUDF {
    let canonical = |arguments: &[ColumnarValue]| {
        let texts = ColumnarValue::values_to_arrays(arguments)?;
        let spelled: StringArray =
            texts[0].as_string::<i32>().iter().map(|text| text.map(canonical::canonical)).collect();
        Ok(ColumnarValue::Array(Arc::new(spelled)))
    };
    create_udf("canonical", vec![DataType::Utf8], DataType::Utf8, Volatility::Immutable, Arc::new(canonical))
}

/// A class in its one spelling: a number is its shortest decimal text, so 1.0 is the class 1; NaN is none.
fn class(column: &str, kind: &DataType) -> String {
    match kind {
        kind if kind.is_floating() => format!(
            "CASE WHEN {column} = trunc({column}) AND abs({column}) < 9e15 THEN CAST(CAST({column} AS BIGINT) AS VARCHAR) \
             WHEN NOT isnan({column}) THEN canonical(CAST({column} AS VARCHAR)) END"
        ),
        kind if is_text(kind) => format!("canonical(CAST({column} AS VARCHAR))"),
        // Their text is what they are, and only some questions need it.
        kind if kind.is_signed_integer() => column.to_owned(),
        _ => format!("CAST({column} AS VARCHAR)"),
    }
}

/// What a column is as a number; NaN is none.
fn number(column: &str, kind: &DataType) -> String {
    if kind.is_floating() {
        format!("CASE WHEN NOT isnan({column}) THEN CAST({column} AS DOUBLE) END")
    } else {
        format!("TRY_CAST({column} AS DOUBLE)")
    }
}

/// The table's columns as those of `history`: the expressions of a query.
fn columns(types: &BTreeMap<String, DataType>) -> Vec<String> {
    let has = |name: &str| types.contains_key(name);
    let mut parts = Vec::new();
    for (name, kind) in types {
        let quoted = sql::name(name);
        match name.as_str() {
            "label" | "prediction" => {
                parts.push(format!("{} AS {name}", class(&quoted, kind)));
                let beside = format!("{name}_value");
                if !has(&beside) {
                    parts.push(format!("{} AS {beside}", number(&quoted, kind)));
                }
            }
            "score" => parts.push(format!("CAST({quoted} AS DOUBLE) AS score")),
            "model_version" => parts.push(format!("CAST({quoted} AS VARCHAR) AS model_version")),
            // What is no number is text, as history has it: strings, booleans, times.
            feature if feature.starts_with("feature_") && !kind.is_numeric() && !feature.ends_with("_text") => {
                let text = format!("{name}_text");
                if !has(&text) && !kind.is_nested() {
                    parts.push(format!("CAST({quoted} AS VARCHAR) AS {}", sql::name(&text)));
                }
            }
            _ => parts.push(quoted),
        }
    }
    parts
}

/// The condition of a row that a window of such a model refuses, and the word for it.
fn refusals(types: &BTreeMap<String, DataType>, (task, score_kind): (Task, ScoreKind)) -> Vec<(String, &'static str)> {
    let has = |name: &str| types.contains_key(name);
    let mut refusals = Vec::new();
    let predicts_numbers = has("prediction") || has("prediction_value");
    if task == Task::Regression && predicts_numbers {
        let error = if has("error") { "error IS NULL AND " } else { "" };
        let is_number = |column: &str| format!("({column} IS NOT NULL AND abs({column}) < CAST('inf' AS DOUBLE))");
        let label = if has("label") { " OR (label IS NOT NULL AND label_value IS NULL)" } else { "" };
        refusals.push((format!("{error}(NOT {}{label})", is_number("prediction_value")), "task_mismatch"));
    }
    if task != Task::Regression && score_kind == ScoreKind::Probability {
        // NaN is above all numbers, and no score.
        if has("score") {
            refusals.push(("(score < 0 OR score > 1) AND NOT isnan(score)".to_owned(), "score_out_of_range"));
        }
        if matches!(types.get("probabilities"), Some(DataType::Map(_, _))) {
            let outside = "array_min(map_values(probabilities)) < 0 OR array_max(map_values(probabilities)) > 1";
            refusals.push((outside.to_owned(), "score_out_of_range"));
        }
    }
    refusals
}

async fn types_of(session: &SessionContext, table: &str) -> Result<BTreeMap<String, DataType>, Error> {
    let frame = session.table(datafusion::common::TableReference::bare(table)).await?;
    let fields = frame.schema().as_arrow().fields().clone();
    Ok(fields.iter().map(|field| (field.name().clone(), field.data_type().clone())).collect())
}

/// Makes a view `rows` of the table `file`, with the columns of history.
///
/// # Inputs
/// `judged`: what the model predicts, and what its scores are. Rows that a window of it refuses are marked then, unless the file says itself which these are.
/// # Returns
/// How many rows are refused.
/// # Errors
/// If the file cannot be read.
pub async fn view(
    session: &SessionContext,
    (file, rows): (&str, &str),
    judged: Option<(Task, ScoreKind)>,
) -> Result<u64, Error> {
    session.register_udf(canonical_function());
    {
        let state = session.state_ref();
        let mut state = state.write();
        // DataFusion 55 moves a look into a map below the view, beside the column `file.label`, and then takes the view's `label` for another.
        state.config_mut().options_mut().optimizer.enable_leaf_expression_pushdown = false;
    }
    let types = types_of(session, file).await?;
    let parts = columns(&types);
    let plain = format!("SELECT {} FROM {}", parts.join(", "), sql::name(file));
    let refusals = judged.filter(|_| !types.contains_key("invalid_reason")).map(|judged| refusals(&types, judged));
    let mut refused = 0;
    for (condition, _) in refusals.iter().flatten() {
        // The file's statistics usually answer.
        let query = format!("SELECT count(*) AS n FROM ({plain}) WHERE {condition}");
        for batch in session.sql(&query).await?.collect().await? {
            refused += batch.column(0).as_primitive::<Int64Type>().value(0) as u64;
        }
    }
    let query = if refused == 0 {
        plain
    } else {
        let cases = refusals.iter().flatten().map(|(condition, word)| format!("WHEN {condition} THEN '{word}'"));
        let cases = cases.collect::<Vec<_>>().join(" ");
        format!("SELECT *, CASE {cases} END AS invalid_reason FROM ({plain})")
    };
    let view = session.sql(&query).await?.into_view();
    session.register_table(rows, view)?;
    Ok(refused)
}
