//! History rows for tests.

use std::sync::Arc;

use arrow::{
    array::{
        ArrayRef, BooleanArray, Float64Array, Float64Builder, MapBuilder, RecordBatch, StringArray, StringBuilder,
        TimestampMicrosecondArray,
    },
    datatypes::Schema,
};
use chrono::DateTime;
use datafusion::{
    datasource::MemTable,
    prelude::{SessionConfig, SessionContext},
};
use driftline_evaluator::{EvaluatedWindow, EvaluationContext, evaluate, udaf};
use driftline_schemas::tables::{
    MetricRow, ScoreKind, Task, comparison_rows_from_batch, comparison_rows_to_batch, confusion_rows_from_batch,
    confusion_rows_to_batch, curve_rows_from_batch, curve_rows_to_batch, drift_rows_from_batch, drift_rows_to_batch,
    error_rows_from_batch, error_rows_to_batch, estimate_rows_from_batch, estimate_rows_to_batch,
    label_lag_rows_from_batch, label_lag_rows_to_batch, metric_rows_from_batch, metric_rows_to_batch,
    quality_rows_from_batch, quality_rows_to_batch, serving_rows_from_batch, serving_rows_to_batch,
};

/// A session over one table `rows`, its batches spread over as many partitions.
pub(crate) fn session(batch: &RecordBatch, partitions: usize) -> SessionContext {
    // Small batches, so that few rows cross many of their edges.
    session_of(batch, partitions, 64)
}

pub(crate) fn session_of(batch: &RecordBatch, partitions: usize, batch_rows: usize) -> SessionContext {
    let context = SessionContext::new_with_config(
        SessionConfig::new().with_target_partitions(partitions).with_batch_size(batch_rows),
    );
    udaf::register(&context);
    let rows = batch.num_rows();
    let size = rows.div_ceil(partitions).max(1);
    let parts: Vec<Vec<RecordBatch>> = (0..partitions)
        .map(|i| (i * size).min(rows))
        .map(|from| vec![batch.slice(from, size.min(rows - from))])
        .collect();
    let table = MemTable::try_new(batch.schema(), parts).expect("own schema");
    context.register_table("rows", Arc::new(table)).expect("new name");
    context
}

pub(crate) fn batch(columns: Vec<(&str, ArrayRef)>) -> RecordBatch {
    if columns.is_empty() {
        RecordBatch::new_empty(Arc::new(Schema::empty()))
    } else {
        RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(name, column)| (name, column, true)))
            .expect("columns of one length")
    }
}

pub(crate) fn texts(values: &[Option<&str>]) -> ArrayRef {
    Arc::new(StringArray::from(values.to_vec()))
}

pub(crate) fn doubles(values: &[Option<f64>]) -> ArrayRef {
    Arc::new(Float64Array::from(values.to_vec()))
}

pub(crate) fn times(micros: &[Option<i64>]) -> ArrayRef {
    Arc::new(TimestampMicrosecondArray::from(micros.to_vec()).with_timezone("UTC"))
}

pub(crate) fn booleans(values: &[Option<bool>]) -> ArrayRef {
    Arc::new(BooleanArray::from(values.to_vec()))
}

pub(crate) fn maps(rows: &[Option<Vec<(&str, f64)>>]) -> ArrayRef {
    let mut builder = MapBuilder::new(None, StringBuilder::new(), Float64Builder::new());
    for row in rows {
        for (class, p) in row.iter().flatten() {
            builder.keys().append_value(class);
            builder.values().append_value(*p);
        }
        builder.append(row.is_some()).expect("keys and values in step");
    }
    Arc::new(builder.finish())
}

pub(crate) fn context(task: Task) -> EvaluationContext {
    EvaluationContext {
        model: "m".to_owned(),
        task,
        task_is_inferred: false,
        positive_class: None,
        threshold: 0.5,
        score_kind: ScoreKind::Probability,
        segments: vec![],
        segment_values_max: 10,
        segments_min_rows: 0,
        reference: None,
        cost: None,
        ranking: None,
        window_start: DateTime::UNIX_EPOCH,
        window_end: DateTime::from_timestamp(3600, 0).expect("in range"),
        state: "open".to_owned(),
        revision: 1,
        decided_at: DateTime::from_timestamp(4000, 0).expect("in range"),
    }
}

/// Evaluates on 1, 2 and 8 partitions: the rows must be the same, bit for bit.
pub(crate) async fn evaluate_everywhere(batch: &RecordBatch, context: &EvaluationContext) -> EvaluatedWindow {
    let one = evaluate(&session(batch, 1), "rows", context).await.expect("evaluates");
    for partitions in [2, 8] {
        let many = evaluate(&session(batch, partitions), "rows", context).await.expect("evaluates");
        assert_eq!(one, many, "{partitions} partitions");
    }
    survives_arrow(&one);
    for row in &one.metrics {
        assert!(row.value.is_some() != row.reason.is_some(), "E3: {row:?}");
    }
    for row in &one.estimates {
        assert!(row.value.is_some() != row.reason.is_some(), "E3: {row:?}");
        let interval = row.ci_low.zip(row.ci_high);
        assert_eq!(row.value.is_some(), interval.is_some(), "no estimate without its interval: {row:?}");
        assert!(row.value.zip(interval).is_none_or(|(value, (low, high))| low <= value && value <= high), "{row:?}");
    }
    for row in &one.comparisons {
        assert!(row.difference.is_some() != row.reason.is_some(), "E3: {row:?}");
        let leaves_out_zero = row.ci_low.zip(row.ci_high).is_some_and(|(low, high)| low > 0.0 || high < 0.0);
        assert_eq!(leaves_out_zero, row.p_value.is_some_and(|p| p < 0.05), "{row:?}");
    }
    for row in &one.serving {
        assert!(row.value.is_some() != row.reason.is_some(), "E3: {row:?}");
    }
    one
}

/// The rows read back from their own batches are the rows.
fn survives_arrow(window: &EvaluatedWindow) {
    let metrics = metric_rows_from_batch("m", &metric_rows_to_batch(&window.metrics)).expect("own batch");
    let confusion = confusion_rows_from_batch("m", &confusion_rows_to_batch(&window.confusion)).expect("own batch");
    let drift = drift_rows_from_batch("m", &drift_rows_to_batch(&window.drift)).expect("own batch");
    let estimates = estimate_rows_from_batch("m", &estimate_rows_to_batch(&window.estimates)).expect("own batch");
    let label_lag = label_lag_rows_from_batch("m", &label_lag_rows_to_batch(&window.label_lag)).expect("own batch");
    let quality = quality_rows_from_batch("m", &quality_rows_to_batch(&window.quality)).expect("own batch");
    let serving = serving_rows_from_batch("m", &serving_rows_to_batch(&window.serving)).expect("own batch");
    let errors = error_rows_from_batch("m", &error_rows_to_batch(&window.errors)).expect("own batch");
    let curves = curve_rows_from_batch("m", &curve_rows_to_batch(&window.curves)).expect("own batch");
    let comparisons =
        comparison_rows_from_batch("m", &comparison_rows_to_batch(&window.comparisons)).expect("own batch");
    assert_eq!(
        window,
        &EvaluatedWindow {
            metrics,
            confusion,
            estimates,
            label_lag,
            drift,
            quality,
            serving,
            errors,
            comparisons,
            curves
        }
    );
}

/// The overall row of a metric.
pub(crate) fn overall<'a>(window: &'a EvaluatedWindow, metric: &str, class: Option<&str>) -> &'a MetricRow {
    let is = |row: &&MetricRow| {
        row.metric == metric && row.class.as_deref() == class && row.segment.is_none() && row.model_version.is_none()
    };
    window.metrics.iter().find(is).unwrap_or_else(|| panic!("no row of {metric} {class:?}"))
}
