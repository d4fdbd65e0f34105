//! Events into Arrow columns, one append a field.
use std::borrow::Cow;
use std::sync::Arc;

use arrow::array::NullBufferBuilder;
use arrow::array::{
    ArrayRef, BinaryBuilder, Float64Builder, Int64Builder, MapArray, StringBuilder, StructArray,
    TimestampMicrosecondBuilder,
};
use arrow::buffer::{OffsetBuffer, ScalarBuffer};
use arrow::datatypes::{DataType, Field, FieldRef};
use driftline_schemas::canonical::canonical_value;
use driftline_schemas::clock::Micros;
use driftline_schemas::event::EventKind;
use driftline_schemas::raw;

use crate::decode::{DecodedEvent, FeatureValue};

/// The columns of accepted events beyond the position; rejected events append nulls to them.
pub(crate) enum KindColumns {
    Predictions(PredictionColumns),
    Labels(LabelColumns),
    Reference(PredictionColumns, LabelColumns),
}

impl KindColumns {
    pub(crate) fn new(kind: EventKind) -> Self {
        match kind {
            EventKind::Predictions => Self::Predictions(PredictionColumns::new()),
            EventKind::Labels => Self::Labels(LabelColumns::new()),
            EventKind::Reference => Self::Reference(PredictionColumns::new(), LabelColumns::new()),
        }
    }

    pub(crate) fn append(&mut self, event: &DecodedEvent<'_>) {
        match self {
            Self::Predictions(columns) => columns.append(event),
            Self::Labels(columns) => columns.append(event),
            Self::Reference(predictions, labels) => {
                predictions.append(event);
                labels.append(event);
            }
        }
    }

    pub(crate) fn append_nulls(&mut self, rows: usize) {
        match self {
            Self::Predictions(columns) => columns.append_nulls(rows),
            Self::Labels(columns) => columns.append_nulls(rows),
            Self::Reference(predictions, labels) => {
                predictions.append_nulls(rows);
                labels.append_nulls(rows);
            }
        }
    }

    /// In the order of the schema.
    pub(crate) fn finish(self) -> Vec<ArrayRef> {
        match self {
            Self::Predictions(columns) => columns.finish(),
            Self::Labels(columns) => columns.finish(),
            Self::Reference(predictions, labels) => {
                let mut columns = predictions.finish();
                columns.extend(labels.finish());
                columns
            }
        }
    }
}

pub(crate) struct PredictionColumns {
    model_version: Sparse<StringBuilder>,
    prediction: Sparse<StringBuilder>,
    prediction_value: Sparse<Float64Builder>,
    score: Sparse<Float64Builder>,
    probabilities: Sparse<MapColumn<Float64Builder>>,
    features: Sparse<MapColumn<FeatureBuilder>>,
    tags: Sparse<MapColumn<StringBuilder>>,
    latency_ms: Sparse<Float64Builder>,
    sampling_rate: Sparse<Float64Builder>,
    environment: Sparse<StringBuilder>,
    error: Sparse<StringBuilder>,
    attributions: Sparse<MapColumn<Float64Builder>>,
}

impl PredictionColumns {
    fn new() -> Self {
        Self {
            model_version: Sparse::empty(),
            prediction: Sparse::empty(),
            prediction_value: Sparse::empty(),
            score: Sparse::empty(),
            probabilities: Sparse::empty(),
            features: Sparse::empty(),
            tags: Sparse::empty(),
            latency_ms: Sparse::empty(),
            sampling_rate: Sparse::empty(),
            environment: Sparse::empty(),
            error: Sparse::empty(),
            attributions: Sparse::empty(),
        }
    }

    fn append(&mut self, event: &DecodedEvent<'_>) {
        self.model_version.append(Some(&event.model_version), StringBuilder::append_value);
        self.prediction.append(event.prediction.as_deref(), StringBuilder::append_value);
        let value = event.prediction.as_deref().and_then(canonical_value);
        self.prediction_value.append(value, Float64Builder::append_value);
        self.score.append(event.score, Float64Builder::append_value);
        self.probabilities.append(event.probabilities.as_deref(), MapColumn::append_numbers);
        self.features.append(event.features.as_deref(), |map, entries| map.append(entries, FeatureBuilder::append));
        self.tags.append(event.tags.as_deref(), |map, entries| {
            map.append(entries, |values, value| values.append_value(value));
        });
        self.latency_ms.append(event.latency_ms, Float64Builder::append_value);
        self.sampling_rate.append(event.sampling_rate, Float64Builder::append_value);
        self.environment.append(event.environment.as_deref(), StringBuilder::append_value);
        self.error.append(event.error.as_deref(), StringBuilder::append_value);
        self.attributions.append(event.attributions.as_deref(), MapColumn::append_numbers);
    }

    fn append_nulls(&mut self, rows: usize) {
        self.model_version.append_nulls(rows);
        self.prediction.append_nulls(rows);
        self.prediction_value.append_nulls(rows);
        self.score.append_nulls(rows);
        self.probabilities.append_nulls(rows);
        self.features.append_nulls(rows);
        self.tags.append_nulls(rows);
        self.latency_ms.append_nulls(rows);
        self.sampling_rate.append_nulls(rows);
        self.environment.append_nulls(rows);
        self.error.append_nulls(rows);
        self.attributions.append_nulls(rows);
    }

    fn finish(self) -> Vec<ArrayRef> {
        vec![
            self.model_version.finish(),
            self.prediction.finish(),
            self.prediction_value.finish(),
            self.score.finish(),
            self.probabilities.finish(),
            self.features.finish(),
            self.tags.finish(),
            self.latency_ms.finish(),
            self.sampling_rate.finish(),
            self.environment.finish(),
            self.error.finish(),
            self.attributions.finish(),
        ]
    }
}

pub(crate) struct LabelColumns {
    label: Sparse<StringBuilder>,
    label_value: Sparse<Float64Builder>,
    prediction_timestamp: Sparse<TimestampMicrosecondBuilder>,
}

impl LabelColumns {
    fn new() -> Self {
        Self { label: Sparse::empty(), label_value: Sparse::empty(), prediction_timestamp: Sparse::empty() }
    }

    fn append(&mut self, event: &DecodedEvent<'_>) {
        self.label.append(event.label.as_deref(), StringBuilder::append_value);
        let value = event.label.as_deref().and_then(canonical_value);
        self.label_value.append(value, Float64Builder::append_value);
        self.prediction_timestamp.append(event.prediction_timestamp, TimestampMicrosecondBuilder::append_value);
    }

    fn append_nulls(&mut self, rows: usize) {
        self.label.append_nulls(rows);
        self.label_value.append_nulls(rows);
        self.prediction_timestamp.append_nulls(rows);
    }

    fn finish(self) -> Vec<ArrayRef> {
        vec![self.label.finish(), self.label_value.finish(), self.prediction_timestamp.finish()]
    }
}

/// The columns that every row has: position and identity.
pub(crate) struct CommonColumns {
    offset: Int64Builder,
    index: Int64Builder,
    kafka_timestamp: TimestampMicrosecondBuilder,
    base_window: Int64Builder,
    event_time: TimestampMicrosecondBuilder,
    prediction_id: StringBuilder,
}

impl CommonColumns {
    pub(crate) fn new() -> Self {
        Self {
            offset: Int64Builder::new(),
            index: Int64Builder::new(),
            kafka_timestamp: timestamps(),
            base_window: Int64Builder::new(),
            event_time: timestamps(),
            prediction_id: StringBuilder::new(),
        }
    }

    pub(crate) fn append(&mut self, offset: i64, index: u32, kafka_timestamp: Option<Micros>) {
        self.offset.append_value(offset);
        self.index.append_value(i64::from(index));
        self.kafka_timestamp.append_option(kafka_timestamp);
    }

    pub(crate) fn append_event(&mut self, base_window: i64, event: &DecodedEvent<'_>) {
        self.base_window.append_value(base_window);
        self.event_time.append_value(event.event_time);
        self.prediction_id.append_value(&event.prediction_id);
    }

    pub(crate) fn append_no_event(&mut self) {
        self.base_window.append_null();
        self.event_time.append_null();
        self.prediction_id.append_null();
    }

    /// In the order of the schema; the topic, the partition and the model names are known to the buffer.
    pub(crate) fn finish(mut self, topic: ArrayRef, partition: ArrayRef, model_name: ArrayRef) -> Vec<ArrayRef> {
        vec![
            topic,
            partition,
            Arc::new(self.offset.finish()),
            Arc::new(self.index.finish()),
            Arc::new(self.kafka_timestamp.finish()),
            model_name,
            Arc::new(self.base_window.finish()),
            Arc::new(self.event_time.finish()),
            Arc::new(self.prediction_id.finish()),
        ]
    }
}

/// The columns of rejected rows, null before them.
pub(crate) struct RejectionColumns {
    reason: StringBuilder,
    detail: StringBuilder,
    payload: BinaryBuilder,
    received_at: TimestampMicrosecondBuilder,
}

impl RejectionColumns {
    pub(crate) fn after_accepted(rows: usize) -> Self {
        let mut columns = Self {
            reason: StringBuilder::new(),
            detail: StringBuilder::new(),
            payload: BinaryBuilder::new(),
            received_at: timestamps(),
        };
        columns.reason.append_nulls(rows);
        columns.detail.append_nulls(rows);
        columns.payload.append_nulls(rows);
        columns.received_at.append_nulls(rows);
        columns
    }

    pub(crate) fn append(&mut self, reason: &str, detail: &str, payload: &[u8], received_at: Micros) {
        self.reason.append_value(reason);
        self.detail.append_value(detail);
        self.payload.append_value(payload);
        self.received_at.append_value(received_at);
    }

    pub(crate) fn finish(mut self) -> Vec<ArrayRef> {
        vec![
            Arc::new(self.reason.finish()),
            Arc::new(self.detail.finish()),
            Arc::new(self.payload.finish()),
            Arc::new(self.received_at.finish()),
        ]
    }
}

/// A column in the making, of a plain builder: no look-up by type for each row.
trait Column {
    fn empty() -> Self;
    fn append_nulls(&mut self, rows: usize);
    fn finish(self) -> ArrayRef;
}

/// A column whose rows are often null for long: nulls are counted, and appended when a value follows or at the end.
struct Sparse<C> {
    column: C,
    nulls_due: usize,
}

impl<C: Column> Sparse<C> {
    fn empty() -> Self {
        Self { column: C::empty(), nulls_due: 0 }
    }

    #[inline]
    fn append<V>(&mut self, value: Option<V>, append: impl FnOnce(&mut C, V)) {
        match value {
            None => self.nulls_due += 1,
            Some(value) => {
                if self.nulls_due > 0 {
                    self.settle();
                }
                append(&mut self.column, value);
            }
        }
    }

    fn append_nulls(&mut self, rows: usize) {
        self.nulls_due += rows;
    }

    #[inline(never)]
    fn settle(&mut self) {
        self.column.append_nulls(std::mem::take(&mut self.nulls_due));
    }

    fn finish(mut self) -> ArrayRef {
        self.settle();
        self.column.finish()
    }
}

impl Column for StringBuilder {
    fn empty() -> Self {
        Self::new()
    }
    fn append_nulls(&mut self, rows: usize) {
        self.append_nulls(rows);
    }
    fn finish(mut self) -> ArrayRef {
        Arc::new(StringBuilder::finish(&mut self))
    }
}

impl Column for Float64Builder {
    fn empty() -> Self {
        Self::new()
    }
    fn append_nulls(&mut self, rows: usize) {
        self.append_nulls(rows);
    }
    fn finish(mut self) -> ArrayRef {
        Arc::new(Float64Builder::finish(&mut self))
    }
}

impl Column for TimestampMicrosecondBuilder {
    fn empty() -> Self {
        timestamps()
    }
    fn append_nulls(&mut self, rows: usize) {
        self.append_nulls(rows);
    }
    fn finish(mut self) -> ArrayRef {
        Arc::new(TimestampMicrosecondBuilder::finish(&mut self))
    }
}

/// A map column whose parts are plain builders.
struct MapColumn<C> {
    keys: StringBuilder,
    values: C,
    offsets: Vec<i32>,
    nulls: NullBufferBuilder,
}

impl<C> MapColumn<C> {
    #[inline]
    fn append<V>(&mut self, entries: &[(Cow<'_, str>, V)], append: impl Fn(&mut C, &V)) {
        for (key, value) in entries {
            self.keys.append_value(key);
            append(&mut self.values, value);
        }
        self.offsets.push(self.end() + entries.len() as i32);
        self.nulls.append_non_null();
    }

    fn end(&self) -> i32 {
        self.offsets[self.offsets.len() - 1]
    }
}

impl MapColumn<Float64Builder> {
    fn append_numbers(&mut self, entries: &[(Cow<'_, str>, f64)]) {
        self.append(entries, |values, value| values.append_value(*value));
    }
}

impl<C: Column> Column for MapColumn<C> {
    fn empty() -> Self {
        Self { keys: StringBuilder::new(), values: C::empty(), offsets: vec![0], nulls: NullBufferBuilder::new(1024) }
    }

    fn append_nulls(&mut self, rows: usize) {
        self.offsets.resize(self.offsets.len() + rows, self.end());
        self.nulls.append_n_nulls(rows);
    }

    fn finish(mut self) -> ArrayRef {
        let values = self.values.finish();
        let fields = raw::map_entry_fields(values.data_type().clone());
        let entries = StructArray::new(fields.clone(), vec![Arc::new(self.keys.finish()), values], None);
        let entry: FieldRef = Arc::new(Field::new("entries", DataType::Struct(fields), false));
        let offsets = OffsetBuffer::new(ScalarBuffer::from(self.offsets));
        Arc::new(MapArray::new(entry, offsets, entries, self.nulls.finish(), false))
    }
}

/// A feature may change its type from one event to the next: both columns are always there, so no row is lost.
struct FeatureBuilder {
    number: Sparse<Float64Builder>,
    text: Sparse<StringBuilder>,
}

impl FeatureBuilder {
    #[inline]
    fn append(&mut self, value: &FeatureValue<'_>) {
        let (number, text) = match value {
            FeatureValue::Null => (None, None),
            FeatureValue::Number(value) => (Some(*value), None),
            FeatureValue::Text(text) => (None, Some(text.as_ref())),
        };
        self.number.append(number, Float64Builder::append_value);
        self.text.append(text, StringBuilder::append_value);
    }
}

impl Column for FeatureBuilder {
    fn empty() -> Self {
        Self { number: Sparse::empty(), text: Sparse::empty() }
    }

    fn append_nulls(&mut self, rows: usize) {
        self.number.append_nulls(rows);
        self.text.append_nulls(rows);
    }

    fn finish(self) -> ArrayRef {
        Arc::new(StructArray::new(raw::feature_value_fields(), vec![self.number.finish(), self.text.finish()], None))
    }
}

fn timestamps() -> TimestampMicrosecondBuilder {
    TimestampMicrosecondBuilder::new().with_timezone("UTC")
}
