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
    model_version: StringBuilder,
    prediction: StringBuilder,
    prediction_value: Float64Builder,
    score: Float64Builder,
    probabilities: MapColumn<Float64Builder>,
    features: MapColumn<FeatureBuilder>,
    tags: MapColumn<StringBuilder>,
    latency_ms: Float64Builder,
    sampling_rate: Float64Builder,
    environment: StringBuilder,
    error: StringBuilder,
    attributions: MapColumn<Float64Builder>,
}

impl PredictionColumns {
    fn new() -> Self {
        Self {
            model_version: StringBuilder::new(),
            prediction: StringBuilder::new(),
            prediction_value: Float64Builder::new(),
            score: Float64Builder::new(),
            probabilities: MapColumn::default(),
            features: MapColumn::default(),
            tags: MapColumn::default(),
            latency_ms: Float64Builder::new(),
            sampling_rate: Float64Builder::new(),
            environment: StringBuilder::new(),
            error: StringBuilder::new(),
            attributions: MapColumn::default(),
        }
    }

    fn append(&mut self, event: &DecodedEvent<'_>) {
        self.model_version.append_value(&event.model_version);
        self.prediction.append_option(event.prediction.as_deref());
        self.prediction_value.append_option(event.prediction.as_deref().and_then(canonical_value));
        self.score.append_option(event.score);
        self.probabilities.append(event.probabilities.as_deref(), |values, value| values.append_value(*value));
        self.features.append(event.features.as_deref(), FeatureBuilder::append);
        self.tags.append(event.tags.as_deref(), |values, value| values.append_value(value));
        self.latency_ms.append_option(event.latency_ms);
        self.sampling_rate.append_option(event.sampling_rate);
        self.environment.append_option(event.environment.as_deref());
        self.error.append_option(event.error.as_deref());
        self.attributions.append(event.attributions.as_deref(), |values, value| values.append_value(*value));
    }

    fn append_nulls(&mut self, rows: usize) {
        for _ in 0..rows {
            self.model_version.append_null();
            self.prediction.append_null();
            self.environment.append_null();
            self.error.append_null();
            self.probabilities.append_null();
            self.features.append_null();
            self.tags.append_null();
            self.attributions.append_null();
        }
        self.prediction_value.append_nulls(rows);
        self.score.append_nulls(rows);
        self.latency_ms.append_nulls(rows);
        self.sampling_rate.append_nulls(rows);
    }

    fn finish(mut self) -> Vec<ArrayRef> {
        vec![
            Arc::new(self.model_version.finish()),
            Arc::new(self.prediction.finish()),
            Arc::new(self.prediction_value.finish()),
            Arc::new(self.score.finish()),
            self.probabilities.finish(),
            self.features.finish(),
            self.tags.finish(),
            Arc::new(self.latency_ms.finish()),
            Arc::new(self.sampling_rate.finish()),
            Arc::new(self.environment.finish()),
            Arc::new(self.error.finish()),
            self.attributions.finish(),
        ]
    }
}

pub(crate) struct LabelColumns {
    label: StringBuilder,
    label_value: Float64Builder,
    prediction_timestamp: TimestampMicrosecondBuilder,
}

impl LabelColumns {
    fn new() -> Self {
        Self { label: StringBuilder::new(), label_value: Float64Builder::new(), prediction_timestamp: timestamps() }
    }

    fn append(&mut self, event: &DecodedEvent<'_>) {
        self.label.append_option(event.label.as_deref());
        self.label_value.append_option(event.label.as_deref().and_then(canonical_value));
        self.prediction_timestamp.append_option(event.prediction_timestamp);
    }

    fn append_nulls(&mut self, rows: usize) {
        for _ in 0..rows {
            self.label.append_null();
        }
        self.label_value.append_nulls(rows);
        self.prediction_timestamp.append_nulls(rows);
    }

    fn finish(mut self) -> Vec<ArrayRef> {
        vec![
            Arc::new(self.label.finish()),
            Arc::new(self.label_value.finish()),
            Arc::new(self.prediction_timestamp.finish()),
        ]
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
        for _ in 0..rows {
            columns.reason.append_null();
            columns.detail.append_null();
            columns.payload.append_null();
        }
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

/// A map column whose parts are plain builders: no look-up by type for each entry.
struct MapColumn<B> {
    keys: StringBuilder,
    values: B,
    offsets: Vec<i32>,
    nulls: NullBufferBuilder,
}

impl<B: ValueBuilder> Default for MapColumn<B> {
    fn default() -> Self {
        Self { keys: StringBuilder::new(), values: B::empty(), offsets: vec![0], nulls: NullBufferBuilder::new(1024) }
    }
}

impl<B: ValueBuilder> MapColumn<B> {
    fn append<V>(&mut self, entries: Option<&[(Cow<'_, str>, V)]>, append: impl Fn(&mut B, &V)) {
        let Some(entries) = entries else { return self.append_null() };
        for (key, value) in entries {
            self.keys.append_value(key);
            append(&mut self.values, value);
        }
        let end = self.offsets[self.offsets.len() - 1] + entries.len() as i32;
        self.offsets.push(end);
        self.nulls.append_non_null();
    }

    fn append_null(&mut self) {
        self.offsets.push(self.offsets[self.offsets.len() - 1]);
        self.nulls.append_null();
    }

    fn finish(mut self) -> ArrayRef {
        let values = self.values.finish_values();
        let fields = raw::map_entry_fields(values.data_type().clone());
        let entries = StructArray::new(fields.clone(), vec![Arc::new(self.keys.finish()), values], None);
        let entry: FieldRef = Arc::new(Field::new("entries", DataType::Struct(fields), false));
        let offsets = OffsetBuffer::new(ScalarBuffer::from(self.offsets));
        Arc::new(MapArray::new(entry, offsets, entries, self.nulls.finish(), false))
    }
}

/// What can hold the values of a map.
trait ValueBuilder {
    fn empty() -> Self;
    fn finish_values(&mut self) -> ArrayRef;
}

impl ValueBuilder for Float64Builder {
    fn empty() -> Self {
        Self::new()
    }
    fn finish_values(&mut self) -> ArrayRef {
        Arc::new(self.finish())
    }
}

impl ValueBuilder for StringBuilder {
    fn empty() -> Self {
        Self::new()
    }
    fn finish_values(&mut self) -> ArrayRef {
        Arc::new(self.finish())
    }
}

/// A feature may change its type from one event to the next: both columns are always there, so no row is lost.
struct FeatureBuilder {
    number: Float64Builder,
    text: StringBuilder,
}

impl FeatureBuilder {
    fn append(&mut self, value: &FeatureValue<'_>) {
        match value {
            FeatureValue::Null => {
                self.number.append_null();
                self.text.append_null();
            }
            FeatureValue::Number(value) => {
                self.number.append_value(*value);
                self.text.append_null();
            }
            FeatureValue::Text(text) => {
                self.number.append_null();
                self.text.append_value(text);
            }
        }
    }
}

impl ValueBuilder for FeatureBuilder {
    fn empty() -> Self {
        Self { number: Float64Builder::new(), text: StringBuilder::new() }
    }
    fn finish_values(&mut self) -> ArrayRef {
        let columns: Vec<ArrayRef> = vec![Arc::new(self.number.finish()), Arc::new(self.text.finish())];
        Arc::new(StructArray::new(raw::feature_value_fields(), columns, None))
    }
}

fn timestamps() -> TimestampMicrosecondBuilder {
    TimestampMicrosecondBuilder::new().with_timezone("UTC")
}
