//! Rows of the output tables, and their way into Arrow and back.
//!
//! `model_name` and `date` are folders, not columns: a row carries its model, a batch does not.
//! Types are the widest readable: Utf8, Int64, Double, Boolean, Timestamp(µs, UTC).

use std::sync::Arc;

use arrow::{
    array::{
        Array, ArrayRef, AsArray, BooleanArray, Float64Array, Int64Array, RecordBatch, StringArray,
        TimestampMicrosecondArray, new_null_array,
    },
    compute::cast,
    datatypes::{DataType, Field, Float64Type, Int64Type, Schema, SchemaRef, TimeUnit, TimestampMicrosecondType},
    error::ArrowError,
};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

/// What a model predicts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Task {
    /// One class against all others.
    Binary,
    /// One of several classes.
    Multiclass,
    /// A number.
    Regression,
}

/// What a binary model's score means.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ScoreKind {
    /// The positive class's probability, in `[0, 1]`.
    #[default]
    Probability,
    /// A margin: it ranks, and is no probability.
    Any,
}

/// A batch that does not hold the table it should.
#[derive(Debug, thiserror::Error)]
pub enum TableError {
    /// A column that must be there is not.
    #[error("column {0} is missing")]
    MissingColumn(&'static str),
    /// A column that must have a value has none in this row.
    #[error("column {column} is null in row {row}")]
    UnexpectedNull {
        /// The column.
        column: &'static str,
        /// The row, from 0.
        row: usize,
    },
    /// A column has a type that cannot be read as the table's.
    #[error("column unreadable")]
    Arrow(#[from] ArrowError),
}

/// A Rust type that one column holds.
trait ColumnValue: Sized {
    const NULLABLE: bool;
    fn data_type() -> DataType;
    fn array<'a>(values: impl Iterator<Item = &'a Self>) -> ArrayRef
    where
        Self: 'a;
    /// `None` where the column is null and this type cannot be.
    fn read(array: &ArrayRef, row: usize) -> Option<Self>;
}

macro_rules! column_value {
    ($type:ty, $data_type:expr, $values:ident => $array:expr, $column:ident, $row:ident => $read:expr) => {
        impl ColumnValue for $type {
            const NULLABLE: bool = false;
            fn data_type() -> DataType {
                $data_type
            }
            fn array<'a>(values: impl Iterator<Item = &'a Self>) -> ArrayRef {
                let $values = values.map(|value| Some(value.clone()));
                Arc::new($array)
            }
            fn read($column: &ArrayRef, $row: usize) -> Option<Self> {
                if $column.is_null($row) { None } else { $read }
            }
        }
        impl ColumnValue for Option<$type> {
            const NULLABLE: bool = true;
            fn data_type() -> DataType {
                $data_type
            }
            fn array<'a>(values: impl Iterator<Item = &'a Self>) -> ArrayRef {
                let $values = values.cloned();
                Arc::new($array)
            }
            fn read(column: &ArrayRef, row: usize) -> Option<Self> {
                Some(<$type>::read(column, row))
            }
        }
    };
}

column_value!(String, DataType::Utf8, values => values.collect::<StringArray>(),
    column, row => Some(column.as_string::<i32>().value(row).to_owned()));
column_value!(i64, DataType::Int64, values => values.collect::<Int64Array>(),
    column, row => Some(column.as_primitive::<Int64Type>().value(row)));
column_value!(f64, DataType::Float64, values => values.collect::<Float64Array>(),
    column, row => Some(column.as_primitive::<Float64Type>().value(row)));
column_value!(bool, DataType::Boolean, values => values.collect::<BooleanArray>(),
    column, row => Some(column.as_boolean().value(row)));
column_value!(DateTime<Utc>, DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
    values => values
        .map(|time| time.map(|time: DateTime<Utc>| time.timestamp_micros()))
        .collect::<TimestampMicrosecondArray>()
        .with_timezone("UTC"),
    column, row => DateTime::from_timestamp_micros(column.as_primitive::<TimestampMicrosecondType>().value(row)));

/// Declares a row and, from the one list of its columns, its schema, its batch and the way back.
macro_rules! table {
    (
        $(#[$doc:meta])* $row:ident, $schema:ident, $to_batch:ident, $from_batch:ident, $sort:ident
        by ($($key:ident),+),
        $( $(#[$column_doc:meta])* $column:ident : $type:ty = $name:literal ),+ $(,)?
    ) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
        pub struct $row {
            /// The model: a folder of the table, not a column.
            pub model: String,
            $( $(#[$column_doc])* pub $column: $type, )+
        }

        #[doc = concat!("The Arrow schema of [`", stringify!($row), "`].")]
        pub fn $schema() -> SchemaRef {
            Arc::new(Schema::new(vec![
                $( Field::new($name, <$type as ColumnValue>::data_type(), <$type as ColumnValue>::NULLABLE), )+
            ]))
        }

        #[doc = concat!("One batch of [`", stringify!($row), "`]s, in their order.")]
        pub fn $to_batch(rows: &[$row]) -> RecordBatch {
            let columns = vec![ $( <$type as ColumnValue>::array(rows.iter().map(|row| &row.$column)), )+ ];
            RecordBatch::try_new($schema(), columns).expect("columns and schema come from one list")
        }

        #[doc = concat!("Reads [`", stringify!($row), "`]s of one model back.")]
        ///
        /// String views and other widths are cast; a nullable column that is missing reads as null (union by name).
        pub fn $from_batch(model: &str, batch: &RecordBatch) -> Result<Vec<$row>, TableError> {
            $( let $column = column_of::<$type>(batch, $name)?; )+
            (0..batch.num_rows())
                .map(|row| {
                    Ok($row {
                        model: model.to_owned(),
                        $( $column: <$type>::read(&$column, row)
                            .ok_or(TableError::UnexpectedNull { column: $name, row })?, )+
                    })
                })
                .collect()
        }

        #[doc = concat!("Puts [`", stringify!($row), "`]s into the one order in which they are written.")]
        pub fn $sort(rows: &mut [$row]) {
            rows.sort_by(|a, b| (&a.model, $( &a.$key ),+).cmp(&(&b.model, $( &b.$key ),+)));
        }
    };
}

fn column_of<T: ColumnValue>(batch: &RecordBatch, name: &'static str) -> Result<ArrayRef, TableError> {
    match batch.column_by_name(name) {
        Some(column) => Ok(cast(column, &T::data_type())?),
        None if T::NULLABLE => Ok(new_null_array(&T::data_type(), batch.num_rows())),
        None => Err(TableError::MissingColumn(name)),
    }
}

table! {
    /// One metric of one group of a window's rows.
    MetricRow, metrics_schema, metric_rows_to_batch, metric_rows_from_batch, sort_metric_rows
    by (window_start, window_end, model_version, segment, segment_value, metric, class, revision),
    /// The version; none for all.
    model_version: Option<String> = "model_version",
    /// The names a segment crosses, joined by a comma; none for all rows.
    segment: Option<String> = "segment",
    /// The values of those names, joined by a comma.
    segment_value: Option<String> = "segment_value",
    /// First instant of the window.
    window_start: DateTime<Utc> = "window_start",
    /// First instant after it.
    window_end: DateTime<Utc> = "window_end",
    /// The metric's name.
    metric: String = "metric",
    /// The class of a per-class row.
    class: Option<String> = "class",
    /// The value, or none with a reason.
    value: Option<f64> = "value",
    /// Why there is no value.
    reason: Option<String> = "reason",
    /// Lower bound of the interval.
    ci_low: Option<f64> = "ci_low",
    /// Upper bound.
    ci_high: Option<f64> = "ci_high",
    /// The share of such intervals that hold the true value: 0.95.
    ci_level: Option<f64> = "ci_level",
    /// How the interval was made.
    ci_method: Option<String> = "ci_method",
    /// Why it may not hold: `few_rows`, `skewed`, `conservative`.
    ci_warning: Option<String> = "ci_warning",
    /// What the best constant prediction would have reached on the same rows.
    baseline: Option<f64> = "baseline",
    /// How far the baseline may lie from that of all rows, as `error_bound` has it of the value.
    baseline_error_bound: Option<f64> = "baseline_error_bound",
    /// How far the value may lie from that of all rows as they are, where there were more than memory holds; none where it is that.
    error_bound: Option<f64> = "error_bound",
    /// Valid predictions in the group.
    n: i64 = "n",
    /// Those with a label.
    n_labelled: i64 = "n_labelled",
    /// `open`, `sealed` or `final`.
    state: String = "state",
    /// The window's revision.
    revision: i64 = "revision",
    /// When the ledger decided to judge the window.
    decided_at: DateTime<Utc> = "decided_at",
    /// The reference's version, if the model has one.
    reference_version: Option<String> = "reference_version",
}

table! {
    /// One cell of a confusion matrix. Cells without rows are left out.
    ConfusionRow, confusion_schema, confusion_rows_to_batch, confusion_rows_from_batch, sort_confusion_rows
    by (window_start, window_end, model_version, segment, segment_value, actual, predicted, revision),
    /// The version; none for all.
    model_version: Option<String> = "model_version",
    /// The names a segment crosses.
    segment: Option<String> = "segment",
    /// Their values.
    segment_value: Option<String> = "segment_value",
    /// First instant of the window.
    window_start: DateTime<Utc> = "window_start",
    /// First instant after it.
    window_end: DateTime<Utc> = "window_end",
    /// The label.
    actual: String = "actual",
    /// The prediction.
    predicted: String = "predicted",
    /// Rows.
    count: i64 = "count",
    /// Their weight: an event with a sampling rate stands for one over it.
    weight: Option<f64> = "weight",
    /// `open`, `sealed` or `final`.
    state: String = "state",
    /// The window's revision.
    revision: i64 = "revision",
    /// When the ledger decided to judge the window.
    decided_at: DateTime<Utc> = "decided_at",
}

table! {
    /// What one metric of one group of a window's rows is expected to be, before its labels are there.
    EstimateRow, estimates_schema, estimate_rows_to_batch, estimate_rows_from_batch, sort_estimate_rows
    by (window_start, window_end, model_version, segment, segment_value, metric, class, method, revision),
    /// The version; none for all.
    model_version: Option<String> = "model_version",
    /// The names a segment crosses.
    segment: Option<String> = "segment",
    /// Their values.
    segment_value: Option<String> = "segment_value",
    /// First instant of the window.
    window_start: DateTime<Utc> = "window_start",
    /// First instant after it.
    window_end: DateTime<Utc> = "window_end",
    /// The metric's name, as in `metrics`.
    metric: String = "metric",
    /// The class of a metric that is of one class against the rest; none for all.
    class: Option<String> = "class",
    /// `cbpe`, `dle` or `nowcast`.
    method: String = "method",
    /// The value, or none with a reason.
    value: Option<f64> = "value",
    /// Where the value of all these rows, once they have their labels, is expected, from here.
    ci_low: Option<f64> = "ci_low",
    /// To here.
    ci_high: Option<f64> = "ci_high",
    /// The interval's level.
    ci_level: Option<f64> = "ci_level",
    /// Why the interval may not hold; none where it does.
    ci_warning: Option<String> = "ci_warning",
    /// How far the value may lie from that of all rows as they are, where there were more than memory holds; none where it is that.
    error_bound: Option<f64> = "error_bound",
    /// The metric on the rows that have a label by now, as it stands in `metrics`.
    realised: Option<f64> = "realised",
    /// Rows that the value is of.
    n: i64 = "n",
    /// Rows with a label.
    n_labelled: i64 = "n_labelled",
    /// The reference's version, if the model has one.
    reference_version: Option<String> = "reference_version",
    /// Why there is no value.
    reason: Option<String> = "reason",
    /// `open`, `sealed` or `final`.
    state: String = "state",
    /// The window's revision.
    revision: i64 = "revision",
    /// When the ledger decided to judge the window.
    decided_at: DateTime<Utc> = "decided_at",
}

table! {
    /// How many of a group's rows have a label after some time, and whether these rows are like the others.
    LabelLagRow, label_lag_schema, label_lag_rows_to_batch, label_lag_rows_from_batch, sort_label_lag_rows
    by (window_start, window_end, model_version, segment, segment_value, within_seconds, revision),
    /// The version; none for all.
    model_version: Option<String> = "model_version",
    /// The names a segment crosses.
    segment: Option<String> = "segment",
    /// Their values.
    segment_value: Option<String> = "segment_value",
    /// First instant of the window.
    window_start: DateTime<Utc> = "window_start",
    /// First instant after it.
    window_end: DateTime<Utc> = "window_end",
    /// Seconds after a prediction.
    within_seconds: i64 = "within_seconds",
    /// The share of predictions that have a label by then, or none with a reason.
    share: Option<f64> = "share",
    /// Lower bound of its interval.
    ci_low: Option<f64> = "ci_low",
    /// Upper bound.
    ci_high: Option<f64> = "ci_high",
    /// The interval's level.
    ci_level: Option<f64> = "ci_level",
    /// Rows that were waited for so long, or have a label by then.
    known: i64 = "known",
    /// Seconds until half of the predictions have a label; none if that is not known yet, or never comes.
    median_seconds: Option<f64> = "median_seconds",
    /// Rows.
    n: i64 = "n",
    /// Rows with a label.
    n_labelled: i64 = "n_labelled",
    /// The latter over the former.
    coverage: Option<f64> = "coverage",
    /// Until when labels were looked for; none where no more can come.
    looked_at: Option<DateTime<Utc>> = "looked_at",
    /// What labelled rows are compared with the others by: `score` or `prediction`; none unless there are both.
    selection_column: Option<String> = "selection_column",
    /// `ks` or `chi2`.
    selection_method: Option<String> = "selection_method",
    /// How far they lie apart.
    selection_statistic: Option<f64> = "selection_statistic",
    /// How likely chance alone would set them so far apart.
    selection_p_value: Option<f64> = "selection_p_value",
    /// How far the statistic may be off, where there were more rows than memory holds; none where it is that of all rows.
    selection_error_bound: Option<f64> = "selection_error_bound",
    /// Whether they differ by more than chance, and by enough to matter: metrics of such rows are not those of all.
    is_selective: Option<bool> = "is_selective",
    /// Why there is no share.
    reason: Option<String> = "reason",
    /// `open`, `sealed` or `final`.
    state: String = "state",
    /// The window's revision.
    revision: i64 = "revision",
    /// When the ledger decided to judge the window.
    decided_at: DateTime<Utc> = "decided_at",
}

table! {
    /// How far one column of a window lies from the reference, by one method.
    DriftRow, drift_schema, drift_rows_to_batch, drift_rows_from_batch, sort_drift_rows
    by (window_start, window_end, model_version, segment, segment_value, column_name, method, revision),
    /// The version; none for all.
    model_version: Option<String> = "model_version",
    /// The names a segment crosses.
    segment: Option<String> = "segment",
    /// Their values.
    segment_value: Option<String> = "segment_value",
    /// First instant of the window.
    window_start: DateTime<Utc> = "window_start",
    /// First instant after it.
    window_end: DateTime<Utc> = "window_end",
    /// A feature's name, `score`, `prediction` or `label`, an attribution as `attributions.<name>`, or `__features__` for all numbers together.
    column_name: String = "column_name",
    /// The method.
    method: String = "method",
    /// The distance, or none with a reason.
    statistic: Option<f64> = "statistic",
    /// How far the statistic may lie from that of all rows as they are, where there were more than memory holds; none where it is that.
    error_bound: Option<f64> = "error_bound",
    /// The p-value of the method's test: of those that are tests themselves, and of the one that decides.
    p_value: Option<f64> = "p_value",
    /// The statistic from which on a column counts as drifted, if the test rejects too.
    threshold: f64 = "threshold",
    /// Whether it has drifted; none if the statistic is undefined.
    drifted: Option<bool> = "drifted",
    /// Whether this method decides for its column.
    decides: Option<bool> = "decides",
    /// Values in the window.
    n: i64 = "n",
    /// Values in the reference.
    n_reference: i64 = "n_reference",
    /// The reference's version.
    reference_version: Option<String> = "reference_version",
    /// Why there is no statistic.
    reason: Option<String> = "reason",
    /// `open`, `sealed` or `final`.
    state: String = "state",
    /// The window's revision.
    revision: i64 = "revision",
    /// When the ledger decided to judge the window.
    decided_at: DateTime<Utc> = "decided_at",
}

table! {
    /// What is amiss with the values of one column of a window.
    QualityRow, quality_schema, quality_rows_to_batch, quality_rows_from_batch, sort_quality_rows
    by (window_start, window_end, model_version, segment, segment_value, column_name, check, revision),
    /// The version; none for all.
    model_version: Option<String> = "model_version",
    /// The names a segment crosses.
    segment: Option<String> = "segment",
    /// Their values.
    segment_value: Option<String> = "segment_value",
    /// First instant of the window.
    window_start: DateTime<Utc> = "window_start",
    /// First instant after it.
    window_end: DateTime<Utc> = "window_end",
    /// A feature's name, `score`, `prediction`, or `__features__`: all features together.
    column_name: String = "column_name",
    /// `missing_rate`, `unseen_rate`, `out_of_range_rate`, `type_error_rate`, `constant`, or `duplicate_rate` of all features.
    check: String = "check",
    /// The share of rows, of `constant` 0 or 1; or none with a reason.
    value: Option<f64> = "value",
    /// The same in the reference, where it is known.
    reference_value: Option<f64> = "reference_value",
    /// Rows that the share is of.
    n: i64 = "n",
    /// The reference's version, if the model has one.
    reference_version: Option<String> = "reference_version",
    /// Why there is no value.
    reason: Option<String> = "reason",
    /// `open`, `sealed` or `final`.
    state: String = "state",
    /// The window's revision.
    revision: i64 = "revision",
    /// When the ledger decided to judge the window.
    decided_at: DateTime<Utc> = "decided_at",
}

table! {
    /// How one group of a window's requests was served: one figure. Requests that failed count too, and those that settings refuse.
    ServingRow, serving_schema, serving_rows_to_batch, serving_rows_from_batch, sort_serving_rows
    by (window_start, window_end, model_version, segment, segment_value, metric, revision),
    /// The version; none for all.
    model_version: Option<String> = "model_version",
    /// The names a segment crosses.
    segment: Option<String> = "segment",
    /// Their values.
    segment_value: Option<String> = "segment_value",
    /// First instant of the window.
    window_start: DateTime<Utc> = "window_start",
    /// First instant after it.
    window_end: DateTime<Utc> = "window_end",
    /// `requests`, `requests_per_second`, `error_count`, `error_rate`, or a latency in milliseconds.
    metric: String = "metric",
    /// The value, or none with a reason.
    value: Option<f64> = "value",
    /// Why there is no value.
    reason: Option<String> = "reason",
    /// Lower bound of the interval.
    ci_low: Option<f64> = "ci_low",
    /// Upper bound.
    ci_high: Option<f64> = "ci_high",
    /// The share of such intervals that hold the true value: 0.95.
    ci_level: Option<f64> = "ci_level",
    /// How the interval was made.
    ci_method: Option<String> = "ci_method",
    /// Why it may not hold.
    ci_warning: Option<String> = "ci_warning",
    /// How far the value may lie from that of all rows as they are, where there were more than memory holds; none where it is that.
    error_bound: Option<f64> = "error_bound",
    /// Rows in the group.
    n: i64 = "n",
    /// `open`, `sealed` or `final`.
    state: String = "state",
    /// The window's revision.
    revision: i64 = "revision",
    /// When the ledger decided to judge the window.
    decided_at: DateTime<Utc> = "decided_at",
}

table! {
    /// How often one error occurred in a window, over all versions or of one. The most frequent ones; the others are `__other__`.
    ErrorRow, errors_schema, error_rows_to_batch, error_rows_from_batch, sort_error_rows
    by (window_start, window_end, model_version, message, revision),
    /// The version; none for all.
    model_version: Option<String> = "model_version",
    /// First instant of the window.
    window_start: DateTime<Utc> = "window_start",
    /// First instant after it.
    window_end: DateTime<Utc> = "window_end",
    /// The beginning of the error's text.
    message: String = "message",
    /// Rows.
    count: i64 = "count",
    /// Their weight: an event with a sampling rate stands for one over it.
    weight: f64 = "weight",
    /// `open`, `sealed` or `final`.
    state: String = "state",
    /// The window's revision.
    revision: i64 = "revision",
    /// When the ledger decided to judge the window.
    decided_at: DateTime<Utc> = "decided_at",
}

table! {
    /// One metric of two versions in the same window. The difference is the second version's value less the first's.
    ComparisonRow, comparisons_schema, comparison_rows_to_batch, comparison_rows_from_batch, sort_comparison_rows
    by (window_start, window_end, version_a, version_b, metric, revision),
    /// First instant of the window.
    window_start: DateTime<Utc> = "window_start",
    /// First instant after it.
    window_end: DateTime<Utc> = "window_end",
    /// The metric's name.
    metric: String = "metric",
    /// The first version, in text order.
    version_a: String = "version_a",
    /// The second.
    version_b: String = "version_b",
    /// The first version's value.
    value_a: Option<f64> = "value_a",
    /// The second's.
    value_b: Option<f64> = "value_b",
    /// The second less the first; none with a reason.
    difference: Option<f64> = "difference",
    /// Why there is none.
    reason: Option<String> = "reason",
    /// Lower bound of the difference's interval.
    ci_low: Option<f64> = "ci_low",
    /// Upper bound.
    ci_high: Option<f64> = "ci_high",
    /// The share of such intervals that hold the true difference: 0.95.
    ci_level: Option<f64> = "ci_level",
    /// How interval and p-value were made.
    method: Option<String> = "method",
    /// Why they may not hold: `few_rows`, `skewed`, `conservative`.
    ci_warning: Option<String> = "ci_warning",
    /// Two-sided, of no difference, for this one comparison.
    p_value: Option<f64> = "p_value",
    /// Whether both were compared on the ids that both have scored.
    paired: bool = "paired",
    /// Labelled rows of the first version that the value rests on.
    n_a: i64 = "n_a",
    /// Of the second.
    n_b: i64 = "n_b",
    /// `open`, `sealed` or `final`.
    state: String = "state",
    /// The window's revision.
    revision: i64 = "revision",
    /// When the ledger decided to judge the window.
    decided_at: DateTime<Utc> = "decided_at",
}

table! {
    /// One point of a curve of a window, over all versions or of one.
    CurveRow, curves_schema, curve_rows_to_batch, curve_rows_from_batch, sort_curve_rows
    by (window_start, window_end, model_version, curve, point, revision),
    /// The version; none for all.
    model_version: Option<String> = "model_version",
    /// First instant of the window.
    window_start: DateTime<Utc> = "window_start",
    /// First instant after it.
    window_end: DateTime<Utc> = "window_end",
    /// `roc`, `precision_recall`, `gain` or `reliability`.
    curve: String = "curve",
    /// The point's place, from 0, by ascending x.
    point: i64 = "point",
    /// False-positive rate, recall, share of rows, or mean score.
    x: f64 = "x",
    /// True-positive rate, precision, share of positives, or share of positives in the bin.
    y: f64 = "y",
    /// The score from which on rows are taken, of `reliability` the bin's lower edge; none at the origin and at corners.
    threshold: Option<f64> = "threshold",
    /// Lower bound of y's interval: of `reliability`.
    ci_low: Option<f64> = "ci_low",
    /// Upper bound.
    ci_high: Option<f64> = "ci_high",
    /// What the rows of the bin weigh: of `reliability`.
    weight: Option<f64> = "weight",
    /// `open`, `sealed` or `final`.
    state: String = "state",
    /// The window's revision.
    revision: i64 = "revision",
    /// When the ledger decided to judge the window.
    decided_at: DateTime<Utc> = "decided_at",
}

table! {
    /// One window and its account of predictions.
    WindowRow, windows_schema, window_rows_to_batch, window_rows_from_batch, sort_window_rows
    by (window_start, window_end, revision),
    /// First instant of the window.
    window_start: DateTime<Utc> = "window_start",
    /// First instant after it.
    window_end: DateTime<Utc> = "window_end",
    /// `open`, `sealed` or `final`.
    state: String = "state",
    /// The window's revision.
    revision: i64 = "revision",
    /// All accepted predictions of the window.
    predictions: i64 = "predictions",
    /// With a label.
    labelled: i64 = "labelled",
    /// Without one, which may still come.
    waiting: i64 = "waiting",
    /// Without one, which can no longer come.
    expired: i64 = "expired",
    /// Requests that failed.
    failed: i64 = "failed",
    /// Refused by the model's settings.
    invalid: i64 = "invalid",
    /// Copies of another.
    duplicates: i64 = "duplicates",
    /// Came after the window was final.
    after_final: i64 = "after_final",
    /// Labelled over labelled, waiting and expired; none if there are none of these.
    label_coverage: Option<f64> = "label_coverage",
    /// Came after the window was sealed.
    late_predictions: i64 = "late_predictions",
    /// When the ledger decided to judge the window.
    decided_at: DateTime<Utc> = "decided_at",
}

table! {
    /// One term of one account.
    AccountRow, accounts_schema, account_rows_to_batch, account_rows_from_batch, sort_account_rows
    by (scope, key, term),
    /// `partition`, `model` or `window`.
    scope: String = "scope",
    /// Which one.
    key: String = "key",
    /// The term.
    term: String = "term",
    /// How many.
    count: i64 = "count",
}

table! {
    /// One thing that happened to an alert, with its evidence.
    AlertRow, alerts_schema, alert_rows_to_batch, alert_rows_from_batch, sort_alert_rows
    by (seq, position),
    /// The alert; of a pending one that of the series.
    alert_id: String = "alert_id",
    /// `pending`, `firing`, `revised`, `repeated`, `resolved`, `withdrawn` or `missed`.
    transition: String = "transition",
    /// The rule.
    rule: String = "rule",
    /// `info`, `warning`, `error` or `critical`.
    severity: String = "severity",
    /// When it happened.
    at: DateTime<Utc> = "at",
    /// When the alert was raised.
    opened_at: DateTime<Utc> = "opened_at",
    /// The metric, the method of drift, or the check of quality.
    metric: String = "metric",
    /// The version; none for all.
    model_version: Option<String> = "model_version",
    /// The names a segment crosses.
    segment: Option<String> = "segment",
    /// Their values.
    segment_value: Option<String> = "segment_value",
    /// The column, of drift and quality.
    column_name: Option<String> = "column_name",
    /// The class, of a metric of one class.
    class: Option<String> = "class",
    /// First instant of the window that it rests on.
    window_start: DateTime<Utc> = "window_start",
    /// First instant after it.
    window_end: DateTime<Utc> = "window_end",
    /// `open`, `sealed` or `final`.
    state: String = "state",
    /// The window's revision.
    revision: i64 = "revision",
    /// The value.
    value: f64 = "value",
    /// The tolerated level.
    level: f64 = "level",
    /// Lower bound of the value's interval at 95 %.
    ci_low: Option<f64> = "ci_low",
    /// Upper bound.
    ci_high: Option<f64> = "ci_high",
    /// Of drift: the p-value.
    p_value: Option<f64> = "p_value",
    /// Natural logarithm of the e-value; none where the point decides.
    ln_e_value: Option<f64> = "ln_e_value",
    /// Rows.
    n: i64 = "n",
    /// Labelled rows.
    n_labelled: i64 = "n_labelled",
    /// What was told before, of what was revised or withdrawn.
    previous_value: Option<f64> = "previous_value",
    /// The revision that this was of.
    previous_revision: Option<i64> = "previous_revision",
    /// The share of false findings, and the chance of any while all is well, that the budget gives to this window.
    budget_share: Option<f64> = "budget_share",
    /// The silence that kept people from being told.
    silenced: Option<String> = "silenced",
    /// The record of the model's chain of alerts.
    seq: i64 = "seq",
    /// The place in it.
    position: i64 = "position",
    /// One sentence.
    text: String = "text",
}

#[cfg(test)]
mod tests {
    use super::*;

    fn time(seconds: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(seconds, 123_000).expect("in range")
    }

    fn metric(value: Option<f64>, version: Option<&str>) -> MetricRow {
        MetricRow {
            model: "m".to_owned(),
            model_version: version.map(str::to_owned),
            window_start: time(0),
            window_end: time(3600),
            metric: "accuracy".to_owned(),
            value,
            reason: value.is_none().then(|| "no_labels".to_owned()),
            n: 3,
            n_labelled: 0,
            state: "open".to_owned(),
            revision: 1,
            decided_at: time(4000),
            ..MetricRow::default()
        }
    }

    #[test]
    fn rows_survive_the_way_through_arrow() {
        let rows = vec![metric(Some(0.1), None), metric(None, Some("3"))];
        let batch = metric_rows_to_batch(&rows);
        assert!(batch.schema().field_with_name("model_name").is_err());
        assert_eq!(metric_rows_from_batch("m", &batch).expect("own batch"), rows);
        assert_eq!(metric_rows_from_batch("m", &metric_rows_to_batch(&[])).expect("empty"), vec![]);
        let account =
            AccountRow { model: "m".into(), scope: "model".into(), key: "m".into(), term: "joined".into(), count: 7 };
        let batch = account_rows_to_batch(std::slice::from_ref(&account));
        assert_eq!(account_rows_from_batch("m", &batch).expect("own batch"), vec![account]);
    }

    #[test]
    fn a_missing_nullable_column_is_null_and_a_missing_key_an_error() {
        let batch = metric_rows_to_batch(&[metric(Some(0.5), Some("3"))]);
        let without = |name: &str| {
            let kept: Vec<usize> =
                (0..batch.num_columns()).filter(|i| batch.schema().field(*i).name() != name).collect();
            batch.project(&kept).expect("fewer columns")
        };
        assert_eq!(metric_rows_from_batch("m", &without("model_version")).expect("nullable")[0].model_version, None);
        assert!(matches!(metric_rows_from_batch("m", &without("metric")), Err(TableError::MissingColumn("metric"))));
    }

    #[test]
    fn string_views_are_read() {
        let batch = metric_rows_to_batch(&[metric(Some(0.5), Some("3"))]);
        let columns = batch.columns().iter().map(|column| match column.data_type() {
            DataType::Utf8 => cast(column, &DataType::Utf8View).expect("castable"),
            _ => column.clone(),
        });
        let columns: Vec<ArrayRef> = columns.collect();
        let fields: Vec<Field> = batch
            .schema()
            .fields()
            .iter()
            .zip(&columns)
            .map(|(f, c)| Field::new(f.name(), c.data_type().clone(), f.is_nullable()))
            .collect();
        let views = RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).expect("same shape");
        assert_eq!(metric_rows_from_batch("m", &views).expect("views"), vec![metric(Some(0.5), Some("3"))]);
    }

    #[test]
    fn the_order_does_not_depend_on_the_way_rows_came() {
        let mut rows = vec![metric(Some(0.1), Some("3")), metric(Some(0.2), None), metric(Some(0.3), Some("10"))];
        let mut reversed: Vec<MetricRow> = rows.iter().rev().cloned().collect();
        sort_metric_rows(&mut rows);
        sort_metric_rows(&mut reversed);
        assert_eq!(rows, reversed);
        assert_eq!(rows[0].model_version, None);
    }
}
