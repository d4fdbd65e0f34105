//! Raw rows and raw objects made of JSON events, as the collector makes them, and the rows of history read back.
use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{Float64Type, Int64Type, TimestampMicrosecondType};
use driftline_aggregator::objects::{LabelPosition, LabelRow};
use driftline_collector::batch::{PartitionBuffer, SealedBatch};
use driftline_collector::source::RawRecord;
use driftline_schemas::clock::{Micros, SECOND, show};
use driftline_schemas::event::EventKind;
use driftline_schemas::position::TopicPartition;
use serde_json::{Value, json};

pub const PREDICTIONS: &str = "driftline.predictions";
pub const LABELS: &str = "driftline.labels";
/// 2026-01-05T10:00:00Z, a Monday.
pub const TEN: Micros = 1_767_607_200_000_000;

/// A prediction event of model `m` with its defaults: `id`, version 1, at `time`.
pub fn prediction(id: &str, time: Micros) -> Value {
    json!({"prediction_id": id, "model_name": "m", "model_version": "1", "timestamp": show(time), "prediction": "1"})
}

/// The same with more, or other, fields.
pub fn with(mut event: Value, more: Value) -> Value {
    let Value::Object(more) = more else { panic!("fields are an object") };
    for (name, value) in more {
        event[name] = value;
    }
    event
}

/// Events of one partition from an offset on, decoded, sorted and indexed.
pub fn sealed(kind: EventKind, partition: u32, from: i64, events: &[Value], written_at: Micros) -> SealedBatch {
    let topic = if kind == EventKind::Labels { LABELS } else { PREDICTIONS };
    let mut buffer = PartitionBuffer::new(TopicPartition::new(topic, partition), kind, from);
    for (n, event) in events.iter().enumerate() {
        let payload = event.to_string();
        let record = RawRecord { offset: from + n as i64, timestamp: None, payload: Some(payload.as_bytes()) };
        buffer.push(&record, written_at);
    }
    buffer.seal(written_at).expect("events in memory can be sealed")
}

/// Raw prediction rows of partition 0 from an offset on.
pub fn rows(from: i64, events: &[Value]) -> RecordBatch {
    let sealed = sealed(EventKind::Predictions, 0, from, events, TEN + 1_000_000_000 * SECOND);
    assert!(sealed.rejections.is_empty(), "{:?}", sealed.rejections);
    sealed.batch
}

/// A label row; `None` withdraws.
pub fn label(id: &str, time: Micros, label: Option<&str>, offset: i64) -> LabelRow {
    let position = LabelPosition { topic: LABELS.into(), partition: 0, offset, index: 0 };
    let value = label.and_then(driftline_schemas::canonical::canonical_value);
    LabelRow { id: id.into(), time, label: label.map(str::to_owned), value, hint: None, position }
}

/// What a row of history says of a prediction and its label.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Row {
    pub version: String,
    pub id: String,
    pub time: Micros,
    pub partition: i64,
    pub offset: i64,
    pub label: Option<String>,
    /// Time, partition and offset of the label that counts.
    pub label_from: Option<(Micros, i64, i64)>,
    pub invalid: Option<String>,
    pub after_final: bool,
}

/// The rows of a history batch, in its order.
pub fn read(batch: &RecordBatch) -> Vec<Row> {
    let text = |name: &str, row: usize| {
        let column = batch.column_by_name(name).unwrap().as_string::<i32>();
        column.is_valid(row).then(|| column.value(row).to_owned())
    };
    let int = |name: &str, row: usize| batch.column_by_name(name).unwrap().as_primitive::<Int64Type>().value(row);
    let time = |name: &str, row: usize| {
        let column = batch.column_by_name(name).unwrap().as_primitive::<TimestampMicrosecondType>();
        column.is_valid(row).then(|| column.value(row))
    };
    let one = |row: usize| Row {
        version: text("model_version", row).unwrap_or_default(),
        id: text("prediction_id", row).unwrap(),
        time: time("event_time", row).unwrap(),
        partition: int("partition", row),
        offset: int("offset", row),
        label: text("label", row),
        label_from: time("label_time", row).map(|at| (at, int("label_partition", row), int("label_offset", row))),
        invalid: text("invalid_reason", row),
        after_final: batch.column_by_name("after_final").unwrap().as_boolean().value(row),
    };
    (0..batch.num_rows()).map(one).collect()
}

/// A number column, row by row; all null if there is no such column.
pub fn numbers(batch: &RecordBatch, name: &str) -> Vec<Option<f64>> {
    match batch.column_by_name(name) {
        None => vec![None; batch.num_rows()],
        Some(column) => column.as_primitive::<Float64Type>().iter().collect(),
    }
}

/// A text column, row by row; all null if there is no such column.
pub fn texts(batch: &RecordBatch, name: &str) -> Vec<Option<String>> {
    match batch.column_by_name(name) {
        None => vec![None; batch.num_rows()],
        Some(column) => column.as_string::<i32>().iter().map(|text| text.map(str::to_owned)).collect(),
    }
}
