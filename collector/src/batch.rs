//! What has been read of one source partition and not yet written: builders, counters, and the batch that they become.
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringBuilder, UInt32Array};
use arrow::compute::take_record_batch;
use driftline_schemas::clock::Micros;
use driftline_schemas::event::{EventKind, MAX_SKEW, Reason};
use driftline_schemas::position::TopicPartition;
use driftline_schemas::raw::{self, ModelIndex};
use driftline_schemas::window::base_window_index;

use crate::columns::{CommonColumns, KindColumns, RejectionColumns};
use crate::decode::{DecodedEvent, Decoder, Rejection, Sink};
use crate::error::Error;
use crate::source::RawRecord;

/// What a row costs beside its bytes: offsets, validity, positions. Smaller than the truth lets memory run over its bound.
const ROW_OVERHEAD_BYTES: usize = 160;

/// The rows of `[from, next)` of one partition, in the making.
pub struct PartitionBuffer {
    partition: TopicPartition,
    kind: EventKind,
    decoder: Decoder,
    from: i64,
    next: i64,
    rows: Rows,
    /// The latest clock that a record was decoded by: `written_at` is never before it.
    decoded_at: Micros,
    records: u64,
    skipped_offsets: u64,
    bytes: usize,
}

/// A buffer that has been closed: sorted, indexed and counted.
#[derive(Debug)]
pub struct SealedBatch {
    /// The source partition.
    pub partition: TopicPartition,
    /// What the rows are.
    pub kind: EventKind,
    /// First offset covered.
    pub from: i64,
    /// First offset not covered.
    pub to: i64,
    /// Accepted rows by (model_name, base_window, offset, index), then the rejected ones.
    pub batch: RecordBatch,
    /// One entry a model, in the order of the rows.
    pub models: Vec<ModelIndex>,
    /// Kafka records seen.
    pub records: u64,
    /// Offsets jumped over, counted as seen.
    pub skipped_offsets: u64,
    /// Events that became rows.
    pub accepted: u64,
    /// Events that were rejected, by reason.
    pub rejected: BTreeMap<Reason, u64>,
    /// The rejected events themselves.
    pub rejections: Vec<RejectedEvent>,
    /// Unknown top-level fields.
    pub ignored_fields: u64,
    /// The clock that decided what is in the future.
    pub written_at: Micros,
}

/// An event that cannot be used, with all of its bytes.
#[derive(Debug, Clone, PartialEq)]
pub struct RejectedEvent {
    /// Kafka offset of its record.
    pub offset: i64,
    /// Element of a JSON array, else 0.
    pub index: u32,
    /// Kafka's own time of the record.
    pub kafka_timestamp: Option<Micros>,
    /// Why.
    pub rejection: Rejection,
    /// The record, or its element of an array.
    pub payload: Vec<u8>,
}

impl PartitionBuffer {
    /// An empty buffer that begins at an offset.
    pub fn new(partition: TopicPartition, kind: EventKind, from: i64) -> Self {
        Self {
            partition,
            kind,
            decoder: Decoder::new(kind),
            from,
            next: from,
            rows: Rows::new(kind),
            decoded_at: Micros::MIN,
            records: 0,
            skipped_offsets: 0,
            bytes: 0,
        }
    }

    /// Decodes a record into the buffer. A record before [`Self::next`] has been read already and changes nothing
    /// (**C4**): wherever a consumer is sent back to, the chain goes on where it stands.
    pub fn push(&mut self, record: &RawRecord<'_>, decoded_at: Micros) {
        if record.offset < self.next {
            return;
        }
        self.skipped_offsets += (record.offset - self.next) as u64;
        self.next = record.offset + 1;
        self.records += 1;
        self.decoded_at = self.decoded_at.max(decoded_at);
        self.bytes += record.payload.map_or(0, <[u8]>::len);
        let rows_before = self.rows.total();
        let mut sink = RowSink {
            rows: &mut self.rows,
            offset: record.offset,
            kafka_timestamp: record.timestamp,
            future_after: decoded_at.saturating_add(MAX_SKEW),
            hold: true,
        };
        self.decoder.decode(record.payload, &mut sink);
        self.bytes += (self.rows.total() - rows_before) * ROW_OVERHEAD_BYTES;
    }

    /// First offset covered.
    pub fn from(&self) -> i64 {
        self.from
    }

    /// First offset not covered yet.
    pub fn next(&self) -> i64 {
        self.next
    }

    /// Kafka records in the buffer.
    pub fn records(&self) -> u64 {
        self.records
    }

    /// An estimate of the memory held.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Closes the buffer. `written_at` is raised to the clock of its last decoding, should the clock have gone back.
    pub fn seal(mut self, written_at: Micros) -> Result<SealedBatch, Error> {
        let written_at = written_at.max(self.decoded_at);
        self.decide_held(written_at);
        let rejections = std::mem::take(&mut self.rows.rejections);
        let mut rejected = BTreeMap::new();
        for event in &rejections {
            *rejected.entry(event.rejection.reason).or_insert(0) += 1;
        }
        let accepted = self.rows.keys.len() as u64;
        let (order, models) = self.rows.order_and_index(rejections.len());
        let ignored_fields = self.rows.ignored_fields;
        let batch = self.rows.into_batch(self.kind, &self.partition, &rejections, written_at)?;
        let batch = match order {
            None => batch,
            Some(order) => take_record_batch(&batch, &order)?,
        };
        Ok(SealedBatch {
            partition: self.partition,
            kind: self.kind,
            from: self.from,
            to: self.next,
            batch,
            models,
            records: self.records,
            skipped_offsets: self.skipped_offsets,
            accepted,
            rejected,
            rejections,
            ignored_fields,
            written_at,
        })
    }

    /// Events that were too far ahead of the clock when they were read are decoded again, by the clock that counts.
    fn decide_held(&mut self, written_at: Micros) {
        let future_after = written_at.saturating_add(MAX_SKEW);
        for held in std::mem::take(&mut self.rows.held) {
            let mut sink = ElementSink {
                index: held.index,
                inner: RowSink {
                    rows: &mut self.rows,
                    offset: held.offset,
                    kafka_timestamp: held.kafka_timestamp,
                    future_after,
                    hold: false,
                },
            };
            self.decoder.decode(Some(&held.payload), &mut sink);
        }
        self.rows.rejections.sort_by_key(|event| (event.offset, event.index));
    }
}

/// Rows as they come, accepted ones in builders, the others aside.
struct Rows {
    common: CommonColumns,
    columns: KindColumns,
    keys: Vec<RowKey>,
    model_ids: HashMap<String, u32>,
    models: Vec<String>,
    rejections: Vec<RejectedEvent>,
    held: Vec<HeldEvent>,
    ignored_fields: u64,
}

#[derive(Clone, Copy)]
struct RowKey {
    model: u32,
    base_window: i64,
    event_time: Micros,
    offset: i64,
    index: u32,
}

struct HeldEvent {
    offset: i64,
    index: u32,
    kafka_timestamp: Option<Micros>,
    payload: Vec<u8>,
}

impl Rows {
    fn new(kind: EventKind) -> Self {
        Self {
            common: CommonColumns::new(),
            columns: KindColumns::new(kind),
            keys: Vec::new(),
            model_ids: HashMap::new(),
            models: Vec::new(),
            rejections: Vec::new(),
            held: Vec::new(),
            ignored_fields: 0,
        }
    }

    fn total(&self) -> usize {
        self.keys.len() + self.rejections.len() + self.held.len()
    }

    fn model_id(&mut self, name: &str) -> u32 {
        // Events of one model come in runs.
        if let Some(last) = self.keys.last().map(|key| key.model).filter(|id| self.models[*id as usize] == name) {
            return last;
        }
        if let Some(id) = self.model_ids.get(name) {
            return *id;
        }
        let id = self.models.len() as u32;
        self.models.push(name.to_owned());
        self.model_ids.insert(name.to_owned(), id);
        id
    }

    /// The permutation that sorts the accepted rows (rejected ones stay last; `None` if all is in order), and the index
    /// of the sorted rows.
    fn order_and_index(&self, rejections: usize) -> (Option<UInt32Array>, Vec<ModelIndex>) {
        let mut by_name: Vec<u32> = (0..self.models.len() as u32).collect();
        by_name.sort_unstable_by_key(|id| &self.models[*id as usize]);
        let mut rank = vec![0u32; by_name.len()];
        for (position, id) in by_name.iter().enumerate() {
            rank[*id as usize] = position as u32;
        }
        let key = |row: &u32| {
            let key = &self.keys[*row as usize];
            (rank[key.model as usize], key.base_window, key.offset, key.index)
        };
        let mut order: Vec<u32> = (0..self.keys.len() as u32).collect();
        let sorted = order.is_sorted_by_key(key);
        if !sorted {
            order.sort_unstable_by_key(key);
        }
        let index = self.index(&order);
        let all = (!sorted).then(|| {
            order.extend(self.keys.len() as u32..(self.keys.len() + rejections) as u32);
            UInt32Array::from(order)
        });
        (all, index)
    }

    fn index(&self, order: &[u32]) -> Vec<ModelIndex> {
        let mut models: Vec<ModelIndex> = Vec::new();
        let mut current = None;
        for (row, at) in order.iter().enumerate() {
            let key = &self.keys[*at as usize];
            if current != Some(key.model) {
                current = Some(key.model);
                models.push(ModelIndex {
                    forgotten: Vec::new(),
                    model: self.models[key.model as usize].clone(),
                    first_row: row as u64,
                    rows: 0,
                    min_event_time: key.event_time,
                    max_event_time: key.event_time,
                    base_windows: Vec::new(),
                });
            }
            let model = models.last_mut().expect("one was pushed for the first row");
            model.rows += 1;
            model.min_event_time = model.min_event_time.min(key.event_time);
            model.max_event_time = model.max_event_time.max(key.event_time);
            match model.base_windows.last_mut() {
                Some((window, rows)) if *window == key.base_window => *rows += 1,
                _ => model.base_windows.push((key.base_window, 1)),
            }
        }
        models
    }

    fn into_batch(
        mut self,
        kind: EventKind,
        partition: &TopicPartition,
        rejections: &[RejectedEvent],
        written_at: Micros,
    ) -> Result<RecordBatch, Error> {
        let accepted = self.keys.len();
        let rows = accepted + rejections.len();
        let mut rejected = RejectionColumns::after_accepted(accepted);
        for event in rejections {
            self.common.append(event.offset, event.index, event.kafka_timestamp);
            self.common.append_no_event();
            rejected.append(event.rejection.reason.as_str(), &event.rejection.detail, &event.payload, written_at);
        }
        self.columns.append_nulls(rejections.len());
        let mut model_name = StringBuilder::new();
        for run in self.keys.chunk_by(|one, next| one.model == next.model) {
            model_name.append_value_n(&self.models[run[0].model as usize], run.len());
        }
        model_name.append_nulls(rejections.len());
        let mut topic = StringBuilder::new();
        topic.append_value_n(&partition.topic, rows);
        let topic: ArrayRef = Arc::new(topic.finish());
        let number: ArrayRef = Arc::new(Int64Array::from(vec![i64::from(partition.partition); rows]));
        let mut columns = self.common.finish(topic, number, Arc::new(model_name.finish()));
        columns.extend(self.columns.finish());
        columns.extend(rejected.finish());
        Ok(RecordBatch::try_new(raw::schema(kind), columns)?)
    }
}

/// Puts the events of one record into the rows.
struct RowSink<'r> {
    rows: &'r mut Rows,
    offset: i64,
    kafka_timestamp: Option<Micros>,
    /// Later events lie in the future of the clock at hand.
    future_after: Micros,
    /// Whether such events wait for the clock of the flush, or are rejected by this one.
    hold: bool,
}

impl Sink for RowSink<'_> {
    fn accepted(&mut self, index: u32, source: &[u8], event: &DecodedEvent<'_>) {
        if event.event_time > self.future_after {
            return self.set_aside(index, source);
        }
        let base_window = base_window_index(event.event_time);
        let rows = &mut *self.rows;
        rows.common.append(self.offset, index, self.kafka_timestamp);
        rows.common.append_event(base_window, event);
        rows.columns.append(event);
        rows.ignored_fields += event.ignored_fields;
        let model = rows.model_id(&event.model_name);
        rows.keys.push(RowKey { model, base_window, event_time: event.event_time, offset: self.offset, index });
    }

    fn rejected(&mut self, index: u32, source: &[u8], rejection: Rejection) {
        self.rows.rejections.push(RejectedEvent {
            offset: self.offset,
            index,
            kafka_timestamp: self.kafka_timestamp,
            rejection,
            payload: source.to_vec(),
        });
    }
}

impl RowSink<'_> {
    fn set_aside(&mut self, index: u32, source: &[u8]) {
        if self.hold {
            let (offset, kafka_timestamp) = (self.offset, self.kafka_timestamp);
            self.rows.held.push(HeldEvent { offset, index, kafka_timestamp, payload: source.to_vec() });
        } else {
            let detail = "`timestamp` is more than 10 minutes after the record was written down";
            self.rejected(index, source, Rejection::new(Reason::FutureTimestamp, detail));
        }
    }
}

/// A held element keeps the index that it had in its record.
struct ElementSink<'r> {
    index: u32,
    inner: RowSink<'r>,
}

impl Sink for ElementSink<'_> {
    fn accepted(&mut self, _: u32, source: &[u8], event: &DecodedEvent<'_>) {
        self.inner.accepted(self.index, source, event);
    }

    fn rejected(&mut self, _: u32, source: &[u8], rejection: Rejection) {
        self.inner.rejected(self.index, source, rejection);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{Array, AsArray};

    const NOW: Micros = 1_767_225_600_000_000;

    fn buffer() -> PartitionBuffer {
        PartitionBuffer::new(TopicPartition::new("t", 0), EventKind::Predictions, 0)
    }

    fn push(buffer: &mut PartitionBuffer, offset: i64, payload: &str, now: Micros) {
        buffer.push(&RawRecord { offset, timestamp: None, payload: Some(payload.as_bytes()) }, now);
    }

    fn event(id: &str, model: &str, time: Micros, feature: &str) -> String {
        format!(
            r#"{{"prediction_id":"{id}","model_name":"{model}","timestamp":{},"score":1,"features":{{"f":{feature}}}}}"#,
            time / 1000
        )
    }

    #[test]
    fn c2_the_future_is_decided_by_the_clock_of_the_flush() {
        let pushed = || {
            let mut buffer = buffer();
            push(&mut buffer, 0, &event("edge", "m", NOW + MAX_SKEW, "1"), NOW);
            push(&mut buffer, 1, &event("ahead", "m", NOW + MAX_SKEW + 60_000_000, "1"), NOW);
            let pair = format!("[{},{}]", event("now", "m", NOW, "1"), event("2100", "m", 4_102_444_800_000_000, "1"));
            push(&mut buffer, 2, &pair, NOW);
            buffer
        };
        let at_once = pushed().seal(NOW).unwrap();
        assert_eq!((at_once.accepted, at_once.rejected[&Reason::FutureTimestamp]), (2, 2));
        let later = pushed().seal(NOW + 60_000_000).unwrap();
        assert_eq!((later.accepted, later.rejected[&Reason::FutureTimestamp]), (3, 1));
        let rejected = &later.rejections[0];
        assert_eq!((rejected.offset, rejected.index), (2, 1), "a held element keeps its place");
        // A clock that went back between decoding and flush does not take events back.
        assert_eq!(pushed().seal(NOW - MAX_SKEW).unwrap().accepted, 2);
    }

    #[test]
    fn rows_are_sorted_and_indexed_and_rejected_ones_come_last() {
        let mut buffer = buffer();
        push(&mut buffer, 5, &event("a", "z", NOW + 60_000_000, "1"), NOW);
        push(&mut buffer, 6, "broken", NOW);
        push(&mut buffer, 7, &event("b", "a", NOW + 60_000_000, "1"), NOW);
        push(&mut buffer, 9, &event("c", "a", NOW, "1"), NOW);
        push(&mut buffer, 8, &event("late", "a", NOW, "1"), NOW);
        let sealed = buffer.seal(NOW).unwrap();
        let ids = sealed.batch.column_by_name("prediction_id").unwrap().as_string::<i32>();
        assert_eq!(ids.iter().collect::<Vec<_>>(), [Some("c"), Some("b"), Some("a"), None]);
        assert_eq!((sealed.from, sealed.to, sealed.records, sealed.skipped_offsets), (0, 10, 4, 6));
        let minute = base_window_index(NOW);
        assert_eq!(sealed.models[0].base_windows, [(minute, 1), (minute + 1, 1)]);
        assert_eq!((sealed.models[1].model.as_str(), sealed.models[1].first_row), ("z", 2));
    }

    #[test]
    fn a_feature_that_changes_its_type_loses_no_row() {
        let mut buffer = buffer();
        for (offset, value) in ["1", "\"one\"", "true", "null", "[1]", "{\"x\":1}", "2.5"].into_iter().enumerate() {
            push(&mut buffer, offset as i64, &event(&offset.to_string(), "m", NOW, value), NOW);
        }
        let sealed = buffer.seal(NOW).unwrap();
        assert_eq!((sealed.accepted, sealed.rejections.len()), (7, 0));
        let values = sealed.batch.column_by_name("features").unwrap().as_map().values().as_struct().clone();
        assert_eq!(values.column(0).null_count(), 5);
        assert_eq!(values.column(1).as_string::<i32>().value(2), "true");
    }

    #[test]
    fn an_empty_buffer_is_an_empty_batch() {
        let sealed = buffer().seal(NOW).unwrap();
        assert_eq!((sealed.batch.num_rows(), sealed.from, sealed.to, sealed.models.len()), (0, 0, 0, 0));
    }
}
