//! The columns of one window's rows: which there are, how SQL names them, and their distributions.

use std::collections::BTreeMap;

use datafusion::{
    arrow::{
        array::{Array, ArrayRef, AsArray, RecordBatch},
        compute::cast,
        datatypes::{DataType, Float64Type, Int64Type, TimeUnit},
    },
    common::TableReference,
    prelude::SessionContext,
};
use driftline_schemas::tables::Task;
use serde::{Deserialize, Serialize};

use super::sql;
use crate::{Error, reference::CATEGORIES_MAX};

/// Columns whose values are held at once: eight bytes a row each. More makes fewer scans and takes more memory.
const COLUMNS_PER_SCAN: usize = 8;

/// A column that can drift.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Column {
    /// The score of an event.
    Score,
    /// The prediction: a class, or a regression's number.
    Prediction,
    /// The truth, of the rows that have it: a class, or a regression's number.
    Label,
    /// A feature, by name.
    Feature(String),
}

impl Column {
    /// The name in the `column_name` column.
    pub fn name(&self) -> &str {
        match self {
            Self::Score => "score",
            Self::Prediction => "prediction",
            Self::Label => "label",
            Self::Feature(name) => name,
        }
    }
}

/// A column and the SQL expression that reads it.
pub(crate) type ReadColumn = (Column, String);

/// What a table of history rows holds. Any column may be absent, and then reads as null.
#[derive(Debug)]
pub(crate) struct Columns {
    table: String,
    types: BTreeMap<String, DataType>,
    /// A row's version where not every version has rows of its own.
    capped_version: Option<String>,
}

/// Rows per category, and rows of any category that was not asked for.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Categories {
    pub(crate) counts: BTreeMap<String, u64>,
    pub(crate) others: u64,
}

impl Categories {
    /// All rows.
    pub(crate) fn n(&self) -> u64 {
        self.counts.values().sum::<u64>() + self.others
    }

    /// Adds the rows of another group.
    pub(crate) fn merge(&mut self, other: &Self) {
        for (category, count) in &other.counts {
            *self.counts.entry(category.clone()).or_default() += count;
        }
        self.others += other.others;
    }
}

impl Columns {
    /// Looks at a registered table.
    pub(crate) async fn of(context: &SessionContext, table: &str) -> Result<Self, Error> {
        let frame = context.table(TableReference::bare(table)).await?;
        let fields = frame.schema().fields();
        let types = fields.iter().map(|field| (field.name().clone(), field.data_type().clone())).collect();
        Ok(Self { table: table.to_owned(), types, capped_version: None })
    }

    pub(crate) fn has(&self, column: &str) -> bool {
        self.types.contains_key(column)
    }

    /// The names of all columns, in order.
    pub(crate) fn all(&self) -> impl Iterator<Item = &str> {
        self.types.keys().map(String::as_str)
    }

    /// The columns of these names, as SQL, in order of name.
    pub(crate) fn named(&self, is_wanted: impl Fn(&str) -> bool) -> Vec<String> {
        self.types.keys().filter(|column| is_wanted(column)).map(|column| sql::name(column)).collect()
    }

    /// The table and the rows that count: neither failed, nor refused, nor after the window was final.
    pub(crate) fn valid_rows(&self) -> String {
        format!("{} WHERE {}", sql::name(&self.table), self.validity().unwrap_or_else(|| "TRUE".to_owned()))
    }

    /// The table and all its rows: every prediction that was asked for.
    pub(crate) fn all_rows(&self) -> String {
        format!("{} WHERE TRUE", sql::name(&self.table))
    }

    /// The condition of a row that counts, never null; `None` if all do.
    pub(crate) fn validity(&self) -> Option<String> {
        let mut conditions = Vec::new();
        for column in ["error", "invalid_reason"] {
            if self.has(column) {
                conditions.push(format!("{} IS NULL", sql::name(column)));
            }
        }
        if self.has("after_final") {
            conditions.push(format!("{} IS NOT TRUE", sql::name("after_final")));
        }
        (!conditions.is_empty()).then(|| conditions.join(" AND "))
    }

    /// A column as text; typed null if it is absent.
    pub(crate) fn text(&self, column: &str) -> String {
        match self.types.get(column) {
            None => "CAST(NULL AS VARCHAR)".to_owned(),
            Some(data_type) if is_text(data_type) => sql::name(column),
            Some(_) => format!("CAST({} AS VARCHAR)", sql::name(column)),
        }
    }

    /// Whether a column's text is one of these; null where it is null. Numbers are compared as they are: a file has millions of them.
    pub(crate) fn is_one_of<'a>(&self, column: &str, texts: impl IntoIterator<Item = &'a str>) -> String {
        if !self.types.get(column).is_some_and(DataType::is_signed_integer) {
            return format!("{} IN ({})", self.text(column), sql::texts(texts));
        }
        let column = sql::name(column);
        let is_canonical = |text: &&str| text.parse::<i64>().is_ok_and(|number| number.to_string() == *text);
        let numbers: Vec<&str> = texts.into_iter().filter(is_canonical).collect();
        if numbers.is_empty() {
            // No number is written so.
            return format!("nullif({column} IS NULL, TRUE)");
        }
        format!("{column} IN ({})", numbers.join(", "))
    }

    /// A column as Double; typed null if it is absent.
    pub(crate) fn double(&self, column: &str) -> String {
        match self.types.get(column) {
            None => "CAST(NULL AS DOUBLE)".to_owned(),
            Some(DataType::Float64) => sql::name(column),
            Some(_) => format!("CAST({} AS DOUBLE)", sql::name(column)),
        }
    }

    /// A time as microseconds since 1970; `None` if the table has no such column of times.
    pub(crate) fn micros(&self, column: &str) -> Option<String> {
        let is_time = matches!(self.types.get(column), Some(DataType::Timestamp(TimeUnit::Microsecond, _)));
        is_time.then(|| format!("CAST({} AS BIGINT)", sql::name(column)))
    }

    /// A map column; null if it is absent.
    pub(crate) fn map(&self, column: &str) -> Option<String> {
        matches!(self.types.get(column), Some(DataType::Map(_, _))).then(|| sql::name(column))
    }

    /// The columns of a view over this table, its versions told apart as they are here.
    pub(crate) async fn of_view(&self, context: &SessionContext, view: &str) -> Result<Self, Error> {
        Ok(Self { capped_version: self.capped_version.clone(), ..Self::of(context, view).await? })
    }

    /// From now on versions are told apart by this expression.
    pub(crate) fn cap_versions(&mut self, expression: String) {
        self.capped_version = Some(expression);
    }

    /// The version of a row; a prediction without one has the empty version.
    pub(crate) fn version(&self) -> Option<String> {
        if self.capped_version.is_some() {
            return self.capped_version.clone();
        }
        self.has("model_version").then(|| format!("coalesce({}, '')", self.text("model_version")))
    }

    /// A segment's name as SQL: a tag, or a feature with the prefix `features.`. `None` if the table lacks it.
    pub(crate) fn segment(&self, name: &str) -> Option<String> {
        if let Some(feature) = name.strip_prefix("features.") {
            let numeric = self.has(&format!("feature_{feature}")).then(|| {
                let x = self.double(&format!("feature_{feature}"));
                // Whole numbers in canonical text: 1, not 1.0.
                let whole = format!("TRY_CAST({x} AS BIGINT)");
                format!("CASE WHEN CAST({whole} AS DOUBLE) = {x} THEN CAST({whole} AS VARCHAR) ELSE CAST({x} AS VARCHAR) END")
            });
            let text = format!("feature_{feature}_text");
            let text = self.has(&text).then(|| self.text(&text));
            return match (text, numeric) {
                (Some(text), Some(numeric)) => Some(format!("coalesce({text}, {numeric})")),
                (text, numeric) => text.or(numeric),
            };
        }
        let tag = format!("tag_{}", name.strip_prefix("tags.").unwrap_or(name));
        self.has(&tag).then(|| self.text(&tag))
    }

    /// How a feature reads as the other kind than it is in the reference; `None` if no row has such a value.
    pub(crate) fn other_kind(&self, column: &Column, is_numeric: bool) -> Option<String> {
        let Column::Feature(name) = column else { return None };
        let other = if is_numeric { format!("feature_{name}_text") } else { format!("feature_{name}") };
        self.has(&other)
            .then(|| if is_numeric { self.text(&other) } else { format!("CAST({} AS VARCHAR)", self.double(&other)) })
    }

    /// Columns of numbers that can drift.
    pub(crate) fn numeric(&self, task: Task) -> Vec<ReadColumn> {
        let mut columns = Vec::new();
        if self.has("score") {
            columns.push((Column::Score, self.double("score")));
        }
        if task == Task::Regression && self.has("prediction_value") {
            columns.push((Column::Prediction, self.double("prediction_value")));
        }
        if task == Task::Regression && self.has("label_value") {
            columns.push((Column::Label, self.double("label_value")));
        }
        let features = self.types.iter().filter(|(_, data_type)| data_type.is_numeric());
        columns.extend(features.filter_map(|(column, _)| {
            Some((Column::Feature(column.strip_prefix("feature_")?.to_owned()), self.double(column)))
        }));
        columns
    }

    /// Columns of texts that can drift.
    pub(crate) fn categorical(&self, task: Task) -> Vec<ReadColumn> {
        let mut columns = Vec::new();
        if task != Task::Regression && self.has("prediction") {
            columns.push((Column::Prediction, self.text("prediction")));
        }
        if task != Task::Regression && self.has("label") {
            columns.push((Column::Label, self.text("label")));
        }
        let features = self.types.iter().filter(|(_, data_type)| is_text(data_type));
        columns.extend(features.filter_map(|(column, _)| {
            let name = column.strip_prefix("feature_")?.strip_suffix("_text")?;
            Some((Column::Feature(name.to_owned()), self.text(column)))
        }));
        columns
    }
}

/// What rows are told apart by: the value of a segment (empty without one), and the version (empty without versions).
pub(crate) type ByGroup<T> = BTreeMap<String, BTreeMap<String, T>>;

/// Reads the whole values of numeric columns, sorted, by group; `segment` is the SQL expression of a row's segment value.
pub(crate) async fn read_numbers(
    context: &SessionContext,
    columns: &Columns,
    wanted: &[ReadColumn],
    segment: Option<&str>,
) -> Result<BTreeMap<Column, ByGroup<Vec<f64>>>, Error> {
    let mut samples: BTreeMap<Column, ByGroup<Vec<f64>>> = BTreeMap::new();
    let rows = GroupedRows::of(columns, segment);
    for chunk in wanted.chunks(COLUMNS_PER_SCAN) {
        let inputs: Vec<String> = chunk.iter().enumerate().map(|(i, (_, read))| format!("{read} AS x{i}")).collect();
        let values: Vec<String> = (0..chunk.len()).map(|i| format!("sorted_values(x{i}) AS v{i}")).collect();
        let from = rows.with(&inputs.join(", "));
        let query = format!("SELECT {}, {} FROM {from} {}", rows.keys, values.join(", "), rows.group_by);
        for batch in collect(context, &query).await? {
            let (segments, versions) = (text_column(&batch, "segment")?, text_column(&batch, "version")?);
            for (i, (column, _)) in chunk.iter().enumerate() {
                let lists = batch.column(i + 2).as_list::<i64>();
                for row in 0..batch.num_rows() {
                    let values = lists.value(row).as_primitive::<Float64Type>().values().to_vec();
                    let segment = segments.as_string::<i32>().value(row).to_owned();
                    let version = versions.as_string::<i32>().value(row).to_owned();
                    samples.entry(column.clone()).or_default().entry(segment).or_default().insert(version, values);
                }
            }
        }
    }
    Ok(samples)
}

/// The valid rows with their group, as SQL. Without segments and versions it is a plain aggregate, which reads no other column.
struct GroupedRows {
    inputs: String,
    keys: &'static str,
    group_by: &'static str,
    rows: String,
}

impl GroupedRows {
    fn of(columns: &Columns, segment: Option<&str>) -> Self {
        let version = columns.version();
        let (keys, group_by) = match (segment, &version) {
            (None, None) => ("'' AS segment, '' AS version", ""),
            (None, Some(_)) => ("'' AS segment, version", "GROUP BY version"),
            (Some(_), None) => ("segment, '' AS version", "GROUP BY segment"),
            (Some(_), Some(_)) => ("segment, version", "GROUP BY segment, version"),
        };
        let mut inputs = "TRUE AS valid".to_owned();
        let mut rows = columns.valid_rows();
        if let Some(version) = &version {
            inputs += &format!(", {version} AS version");
        }
        if let Some(segment) = segment {
            inputs += &format!(", {segment} AS segment");
            // Rows that lack the segment's value belong to none.
            rows += &format!(" AND ({segment}) IS NOT NULL");
        }
        Self { inputs, keys, group_by, rows }
    }

    /// With further columns.
    fn with(&self, inputs: &str) -> String {
        format!("(SELECT {}, {inputs} FROM {})", self.inputs, self.rows)
    }
}

/// Reads the most frequent categories of a text column over all rows.
pub(crate) async fn read_categories(
    context: &SessionContext,
    columns: &Columns,
    read: &str,
) -> Result<Categories, Error> {
    let rows = format!("(SELECT {read} AS category FROM {}) WHERE category IS NOT NULL", columns.valid_rows());
    let total = format!("SELECT '' AS category, count(*) AS n FROM {rows}");
    let query = format!(
        "SELECT category, count(*) AS n FROM {rows} GROUP BY category ORDER BY n DESC, category LIMIT {CATEGORIES_MAX}"
    );
    let mut categories = Categories::default();
    for batch in collect(context, &query).await? {
        let (texts, counts) = (text_column(&batch, "category")?, batch.column(1).as_primitive::<Int64Type>());
        for row in 0..batch.num_rows() {
            categories.counts.insert(texts.as_string::<i32>().value(row).to_owned(), counts.value(row) as u64);
        }
    }
    let total: u64 = collect(context, &total)
        .await?
        .iter()
        .map(|batch| batch.column(1).as_primitive::<Int64Type>().value(0) as u64)
        .sum();
    categories.others = total - categories.counts.values().sum::<u64>();
    Ok(categories)
}

/// Counts known categories of a text column by group; all others are counted together, so the answer is bounded.
pub(crate) async fn count_categories(
    context: &SessionContext,
    columns: &Columns,
    read: &str,
    known: impl IntoIterator<Item = &str>,
    segment: Option<&str>,
) -> Result<ByGroup<Categories>, Error> {
    let rows = GroupedRows::of(columns, segment);
    let known = sql::texts(known);
    let inputs = format!("CASE WHEN {read} IN ({known}) THEN {read} END AS category, {read} IS NULL AS is_missing");
    let group_by = if rows.group_by.is_empty() { "GROUP BY".to_owned() } else { format!("{},", rows.group_by) };
    let query = format!(
        "SELECT {}, category, count(*) AS n FROM {} WHERE NOT is_missing {group_by} category",
        rows.keys,
        rows.with(&inputs)
    );
    let mut by_group: ByGroup<Categories> = BTreeMap::new();
    for batch in collect(context, &query).await? {
        let (segments, versions) = (text_column(&batch, "segment")?, text_column(&batch, "version")?);
        let (texts, counts) = (text_column(&batch, "category")?, batch.column(3).as_primitive::<Int64Type>());
        for row in 0..batch.num_rows() {
            let by_version = by_group.entry(segments.as_string::<i32>().value(row).to_owned()).or_default();
            let categories = by_version.entry(versions.as_string::<i32>().value(row).to_owned()).or_default();
            let count = counts.value(row) as u64;
            if texts.is_null(row) {
                categories.others += count;
            } else {
                categories.counts.insert(texts.as_string::<i32>().value(row).to_owned(), count);
            }
        }
    }
    Ok(by_group)
}

/// Counts the rows of what [`Columns::valid_rows`] names.
pub(crate) async fn count_rows(context: &SessionContext, rows: &str) -> Result<u64, Error> {
    let batches = collect(context, &format!("SELECT count(*) AS n FROM {rows}")).await?;
    Ok(batches.iter().map(|batch| batch.column(0).as_primitive::<Int64Type>().value(0) as u64).sum())
}

/// Runs a query to its end.
pub(crate) async fn collect(context: &SessionContext, query: &str) -> Result<Vec<RecordBatch>, Error> {
    tracing::trace!(query, "a window is asked");
    Ok(context.sql(query).await?.collect().await?)
}

/// A result column as plain text.
pub(crate) fn text_column(batch: &RecordBatch, name: &str) -> Result<ArrayRef, Error> {
    let column = batch
        .column_by_name(name)
        .ok_or_else(|| Error::MissingColumn { table: "of a result".to_owned(), column: name.to_owned() })?;
    Ok(cast(column, &DataType::Utf8)?)
}

fn is_text(data_type: &DataType) -> bool {
    match data_type {
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => true,
        DataType::Dictionary(_, values) => is_text(values),
        _ => false,
    }
}
