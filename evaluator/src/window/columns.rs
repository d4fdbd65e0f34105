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

use super::{
    budget::Budget,
    judge::{SAMPLING_RATE, kept},
    sql,
};
use crate::{
    Error, Reference, drift::Sample, metrics::binned::Limit, reference::CATEGORIES_MAX, udaf::samples::sample,
};

/// Columns whose values are held at once at most: eight bytes a row each. More makes fewer scans and takes more memory.
const COLUMNS_PER_SCAN: usize = 8;

/// Before an attribution's name in the `column_name` column.
pub const ATTRIBUTION_PREFIX: &str = "attributions.";
/// The column of what features added to scores, by feature.
const ATTRIBUTIONS: &str = "attributions";
/// Attributions that a reference keeps, the first by name. They come in a map that nothing else bounds.
const ATTRIBUTIONS_MAX: usize = 64;

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
    /// What a feature added to a score, by the name of its column: [`ATTRIBUTION_PREFIX`] and the feature's.
    Attribution(String),
}

impl Column {
    /// The name in the `column_name` column.
    pub fn name(&self) -> &str {
        match self {
            Self::Score => "score",
            Self::Prediction => "prediction",
            Self::Label => "label",
            Self::Feature(name) | Self::Attribution(name) => name,
        }
    }
}

/// A column and the SQL expression that reads it.
pub(crate) type ReadColumn = (Column, String);

/// What a table of history rows holds. Any column may be absent, and then reads as null.
#[derive(Debug, Clone)]
pub(crate) struct Columns {
    table: String,
    types: BTreeMap<String, DataType>,
    /// A row's version where not every version has rows of its own.
    capped_version: Option<String>,
    /// There is a sampling rate, and every row stands for itself all the same.
    is_rate_idle: bool,
    budget: Budget,
}

/// Rows per category, and rows of any category that was not asked for.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Categories {
    pub(crate) counts: BTreeMap<String, Tally>,
    pub(crate) others: Tally,
}

/// Rows, what they stand for, and the sum of the squares of that.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Tally {
    pub(crate) rows: u64,
    pub(crate) weight: f64,
    squares: f64,
}

impl Tally {
    /// Rows that stand for themselves.
    pub(crate) fn of_rows(rows: u64) -> Self {
        Self { rows, weight: rows as f64, squares: rows as f64 }
    }

    pub(crate) fn add(&mut self, other: Self) {
        self.rows += other.rows;
        self.weight += other.weight;
        self.squares += other.squares;
    }

    /// Whether every row stands for itself.
    pub(crate) fn is_plain(&self) -> bool {
        *self == Self::of_rows(self.rows)
    }

    /// Kish's effective rows.
    pub(crate) fn effective_rows(&self) -> f64 {
        if self.rows == 0 { 0.0 } else { self.weight * (self.weight / self.squares) }
    }
}

impl Categories {
    /// All rows.
    pub(crate) fn all(&self) -> Tally {
        let mut all = self.others;
        self.counts.values().for_each(|tally| all.add(*tally));
        all
    }

    /// How many.
    pub(crate) fn n(&self) -> u64 {
        self.all().rows
    }

    /// Adds the rows of another group.
    pub(crate) fn merge(&mut self, other: &Self) {
        for (category, tally) in &other.counts {
            self.counts.entry(category.clone()).or_default().add(*tally);
        }
        self.others.add(other.others);
    }
}

impl Columns {
    /// Looks at a registered table.
    pub(crate) async fn of(context: &SessionContext, table: &str) -> Result<Self, Error> {
        let types = Self::types_of(context, table).await?;
        let budget = Budget::of(context, table).await?;
        Ok(Self { table: table.to_owned(), types, capped_version: None, is_rate_idle: false, budget })
    }

    /// The table's name.
    pub(crate) fn table(&self) -> &str {
        &self.table
    }

    /// As if there were only a fraction of the memory.
    #[must_use]
    pub(crate) fn within(self, fraction: u64) -> Self {
        Self { budget: self.budget.divided(fraction), ..self }
    }

    /// What memory allows.
    pub(crate) fn budget(&self) -> Budget {
        self.budget
    }

    /// Bytes that a list of numbers takes for each row: the number, and what the row stands for.
    pub(crate) fn bytes_per_number(&self) -> u64 {
        if self.has(SAMPLING_RATE) { 16 } else { 8 }
    }

    async fn types_of(context: &SessionContext, table: &str) -> Result<BTreeMap<String, DataType>, Error> {
        let frame = context.table(TableReference::bare(table)).await?;
        let fields = frame.schema().fields();
        Ok(fields.iter().map(|field| (field.name().clone(), field.data_type().clone())).collect())
    }

    /// Without the sampling rate where no row stands for more than itself: whoever asks for it weighs every row.
    pub(crate) async fn without_idle_rate(mut self, context: &SessionContext) -> Result<Self, Error> {
        if let Some(rate) = self.rate() {
            let rows = format!("(SELECT {rate} FROM {})", sql::name(&self.table));
            let query = format!("SELECT 1 FROM {rows} WHERE {SAMPLING_RATE} > 0 AND {SAMPLING_RATE} < 1 LIMIT 1");
            if collect(context, &query).await?.iter().all(|batch| batch.num_rows() == 0) {
                self.types.remove(SAMPLING_RATE);
                self.is_rate_idle = true;
            }
        }
        Ok(self)
    }

    /// Whether the table has a sampling rate, idle or not.
    pub(crate) fn is_rate_there(&self) -> bool {
        self.is_rate_idle || self.has(SAMPLING_RATE)
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

    /// The sampling rate as an input of that name; `None` if rows have none.
    pub(crate) fn rate(&self) -> Option<String> {
        self.has(SAMPLING_RATE).then(|| format!("{} AS {SAMPLING_RATE}", self.double(SAMPLING_RATE)))
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
        let types = Self::types_of(context, view).await?;
        let capped_version = self.capped_version.clone();
        Ok(Self { table: view.to_owned(), types, capped_version, is_rate_idle: false, budget: self.budget })
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

    /// How an attribution is read; `None` of any other column, and if rows have none.
    pub(crate) fn attribution(&self, column: &Column) -> Option<String> {
        let Column::Attribution(name) = column else { return None };
        let (map, feature) = (self.map(ATTRIBUTIONS)?, name.strip_prefix(ATTRIBUTION_PREFIX)?);
        Some(format!("CAST({map}[{}] AS DOUBLE)", sql::text(feature)))
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

/// The attributions that rows have, up to a cap.
pub(crate) async fn attributions(context: &SessionContext, columns: &Columns) -> Result<Vec<ReadColumn>, Error> {
    let Some(map) = columns.map(ATTRIBUTIONS) else { return Ok(Vec::new()) };
    let query = format!(
        "SELECT DISTINCT feature FROM (SELECT unnest(map_keys({map})) AS feature FROM {} AND {map} IS NOT NULL) \
         ORDER BY feature LIMIT {ATTRIBUTIONS_MAX}",
        columns.valid_rows()
    );
    let mut found = Vec::new();
    for batch in collect(context, &query).await? {
        let features = text_column(&batch, "feature")?;
        for feature in features.as_string::<i32>().iter().flatten() {
            let column = Column::Attribution(format!("{ATTRIBUTION_PREFIX}{feature}"));
            found.extend(columns.attribution(&column).map(|read| (column, read)));
        }
    }
    Ok(found)
}

/// What rows are told apart by: the value of a segment (empty without one), and the version (empty without versions).
pub(crate) type ByGroup<T> = BTreeMap<String, BTreeMap<String, T>>;

/// Reads the whole values of numeric columns with what their rows stand for, sorted, by group: as few columns at once as memory asks
/// for. Where not even one column's values fit, they are in bins, that end where the reference's do.
pub(crate) struct NumberReader<'a> {
    columns: &'a Columns,
    wanted: &'a [ReadColumn],
    reference: Option<&'a Reference>,
    rows: GroupedRows,
    at_once: usize,
    limit: Option<Limit>,
}

impl<'a> NumberReader<'a> {
    /// # Inputs
    /// `segment`: the SQL expression of a row's segment value; `groups`: how many groups there may be.
    pub(crate) fn new(
        columns: &'a Columns,
        wanted: &'a [ReadColumn],
        (segment, groups): (Option<&str>, u64),
        reference: Option<&'a Reference>,
    ) -> Self {
        let budget = columns.budget();
        // All groups together are looked at beside each.
        let bytes = columns.bytes_per_number() * if groups > 1 { 2 } else { 1 };
        let (at_once, limit) = match budget.states(bytes) {
            0 => {
                let at_once = (budget.binned_states() / groups.max(1)).clamp(1, COLUMNS_PER_SCAN as u64);
                (at_once, Some(budget.limit(at_once * groups)))
            }
            fitting => (fitting.min(COLUMNS_PER_SCAN as u64), None),
        };
        Self { columns, wanted, reference, rows: GroupedRows::of(columns, segment), at_once: at_once as usize, limit }
    }

    /// The next columns, until there are none.
    pub(crate) async fn next(
        &mut self,
        context: &SessionContext,
    ) -> Result<Option<BTreeMap<Column, ByGroup<Sample>>>, Error> {
        if self.wanted.is_empty() {
            return Ok(None);
        }
        let (chunk, rest) = self.wanted.split_at(self.at_once.min(self.wanted.len()));
        self.wanted = rest;
        let mut samples: BTreeMap<Column, ByGroup<Sample>> = BTreeMap::new();
        for batch in collect(context, &self.query(chunk)).await? {
            let (segments, versions) = (text_column(&batch, "segment")?, text_column(&batch, "version")?);
            for (i, (column, _)) in chunk.iter().enumerate() {
                let whole = batch.column(i + 2).as_binary::<i64>();
                for row in 0..batch.num_rows() {
                    let values = sample(whole.value(row))?;
                    let segment = segments.as_string::<i32>().value(row).to_owned();
                    let version = versions.as_string::<i32>().value(row).to_owned();
                    samples.entry(column.clone()).or_default().entry(segment).or_default().insert(version, values);
                }
            }
        }
        Ok(Some(samples))
    }

    fn query(&self, chunk: &[ReadColumn]) -> String {
        let mut inputs: Vec<String> =
            chunk.iter().enumerate().map(|(i, (_, read))| format!("{read} AS x{i}")).collect();
        inputs.extend(self.columns.rate());
        let value = |(i, (column, _)): (usize, &ReadColumn)| {
            let values = self.reference.and_then(|reference| reference.column(column));
            let limit = self.limit.clone().map(|limit| match values {
                Some(values) => values.with_cuts(limit),
                None => limit,
            });
            format!("{} AS v{i}", kept(self.columns, &format!("sorted_sample(x{i}"), limit.as_ref()))
        };
        let values: Vec<String> = chunk.iter().enumerate().map(value).collect();
        let from = self.rows.with(&inputs.join(", "));
        format!("SELECT {}, {} FROM {from} {}", self.rows.keys, values.join(", "), self.rows.group_by)
    }
}

/// The valid rows with their group, as SQL. Without segments and versions it is a plain aggregate, which reads no other column.
struct GroupedRows {
    inputs: String,
    keys: &'static str,
    group_by: &'static str,
    /// The columns that groups are told apart by, each with a comma behind it.
    grouped: &'static str,
    rows: String,
}

impl GroupedRows {
    fn of(columns: &Columns, segment: Option<&str>) -> Self {
        let version = columns.version();
        let (keys, group_by, grouped) = match (segment, &version) {
            (None, None) => ("'' AS segment, '' AS version", "", ""),
            (None, Some(_)) => ("'' AS segment, version", "GROUP BY version", "version, "),
            (Some(_), None) => ("segment, '' AS version", "GROUP BY segment", "segment, "),
            (Some(_), Some(_)) => ("segment, version", "GROUP BY segment, version", "segment, version, "),
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
        Self { inputs, keys, group_by, grouped, rows }
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
    let inputs: Vec<String> = std::iter::once(format!("{read} AS category")).chain(columns.rate()).collect();
    let tally = tally(columns);
    let rows = format!("(SELECT {} FROM {}) WHERE category IS NOT NULL", inputs.join(", "), columns.valid_rows());
    let total = format!("SELECT {tally} FROM {rows}");
    let query = format!(
        "SELECT category, {tally} FROM {rows} GROUP BY category ORDER BY n DESC, category LIMIT {CATEGORIES_MAX}"
    );
    let mut categories = Categories::default();
    for batch in collect(context, &query).await? {
        let texts = text_column(&batch, "category")?;
        for row in 0..batch.num_rows() {
            categories.counts.insert(texts.as_string::<i32>().value(row).to_owned(), tally_of(&batch, row)?);
        }
    }
    let mut others = Tally::default();
    for batch in collect(context, &total).await? {
        others.add(tally_of(&batch, 0)?);
    }
    // Sums of integers times a power of two, as the parts are.
    let kept = categories.all();
    others = Tally {
        rows: others.rows - kept.rows,
        weight: (others.weight - kept.weight).max(0.0),
        squares: (others.squares - kept.squares).max(0.0),
    };
    categories.others = others;
    Ok(categories)
}

/// Rows as SQL, and what they stand for if they know that.
fn tally(columns: &Columns) -> &'static str {
    if columns.has(SAMPLING_RATE) {
        "count(*) AS n, total_weight(sampling_rate) AS weight, total_squared_weight(sampling_rate) AS squares"
    } else {
        "count(*) AS n"
    }
}

fn tally_of(batch: &RecordBatch, row: usize) -> Result<Tally, Error> {
    let missing = || Error::MissingColumn { table: "of categories".to_owned(), column: "n".to_owned() };
    let rows = batch.column_by_name("n").ok_or_else(missing)?.as_primitive::<Int64Type>().value(row) as u64;
    let number = |name: &str| batch.column_by_name(name).map(|column| column.as_primitive::<Float64Type>().value(row));
    let plain = Tally::of_rows(rows);
    Ok(Tally {
        rows,
        weight: number("weight").unwrap_or(plain.weight),
        squares: number("squares").unwrap_or(plain.squares),
    })
}

/// A text column, and its categories that are counted apart.
pub(crate) struct TextColumn<'a> {
    pub(crate) read: &'a str,
    pub(crate) known: Vec<&'a str>,
}

/// Counts known categories of text columns by group, in the columns' order; all others of a column are counted together, so the answer is
/// bounded.
pub(crate) async fn count_categories(
    context: &SessionContext,
    columns: &Columns,
    wanted: &[TextColumn<'_>],
    segment: Option<&str>,
) -> Result<Vec<ByGroup<Categories>>, Error> {
    let rows = GroupedRows::of(columns, segment);
    let mut counted = Vec::new();
    for chunk in wanted.chunks(COLUMNS_PER_SCAN) {
        let mut inputs: Vec<String> = Vec::new();
        for (i, TextColumn { read, known }) in chunk.iter().enumerate() {
            let known = sql::texts(known.iter().copied());
            inputs.push(format!(
                "CASE WHEN {read} IN ({known}) THEN {read} END AS c{i}, {read} IS NULL AS is_missing{i}"
            ));
        }
        inputs.extend(columns.rate());
        let sets: Vec<String> = (0..chunk.len()).map(|i| format!("({}c{i}, is_missing{i})", rows.grouped)).collect();
        // A row without a value is in no category, and one that is not asked for is null: only the mark tells them apart.
        let outputs: Vec<String> =
            (0..chunk.len()).map(|i| format!("c{i}, is_missing{i}, grouping(c{i}) AS all{i}")).collect();
        let query = format!(
            "SELECT {}, {}, {} FROM {} GROUP BY GROUPING SETS ({})",
            rows.keys,
            outputs.join(", "),
            tally(columns),
            rows.with(&inputs.join(", ")),
            sets.join(", ")
        );
        let mut by_column: Vec<ByGroup<Categories>> = vec![BTreeMap::new(); chunk.len()];
        for batch in collect(context, &query).await? {
            read_categories_of(&batch, &mut by_column)?;
        }
        counted.append(&mut by_column);
    }
    Ok(counted)
}

/// The rows of one batch of [`count_categories`]: each is of one column.
fn read_categories_of(batch: &RecordBatch, by_column: &mut [ByGroup<Categories>]) -> Result<(), Error> {
    let (segments, versions) = (text_column(batch, "segment")?, text_column(batch, "version")?);
    for (i, by_group) in by_column.iter_mut().enumerate() {
        let missing = |name: String| Error::MissingColumn { table: "of categories".to_owned(), column: name };
        let column = |name: String| batch.column_by_name(&name).ok_or_else(|| missing(name));
        let texts = text_column(batch, &format!("c{i}"))?;
        let all = cast(column(format!("all{i}"))?, &DataType::Int64)?;
        let is_missing = column(format!("is_missing{i}"))?.as_boolean();
        for row in 0..batch.num_rows() {
            let is_of_column = all.as_primitive::<Int64Type>().value(row) == 0;
            if !is_of_column || is_missing.value(row) {
                continue;
            }
            let by_version = by_group.entry(segments.as_string::<i32>().value(row).to_owned()).or_default();
            let categories: &mut Categories =
                by_version.entry(versions.as_string::<i32>().value(row).to_owned()).or_default();
            let tally = tally_of(batch, row)?;
            if texts.is_null(row) {
                categories.others.add(tally);
            } else {
                categories.counts.insert(texts.as_string::<i32>().value(row).to_owned(), tally);
            }
        }
    }
    Ok(())
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

pub(crate) fn is_text(data_type: &DataType) -> bool {
    match data_type {
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => true,
        DataType::Dictionary(_, values) => is_text(values),
        _ => false,
    }
}
