//! Files of events as a source of the collector: read line by line, so that memory does not grow with them.
//!
//! ```text
//!  predictions:  events of file 1 · events of file 2 · …
//!  labels:       labels that stand inline in file 1 · in file 2 · … · events of the label files
//! ```
//!
//! Each topic has one partition, and each event one offset. An event without an inline label leaves a gap among the labels, as
//! a control record of Kafka does.
mod file;
mod flat;
mod line;

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use chrono::{DateTime, Utc};
use driftline_collector::Error;
use driftline_collector::source::{
    Broker, EventSource, PartitionRef, RawRecord, SourceEvent, SourceTopic, Standing, Starts, TopicState, Watermarks,
};
use driftline_schemas::event::EventKind;

use file::{EventFile, Events, Take};
use line::{inline_label, with_model};

/// Place of the predictions among the topics, as the collector's settings list them.
const PREDICTIONS: usize = 0;
/// Place of the labels.
const LABELS: usize = 1;
/// Offsets of each topic that one poll goes over. Larger lets what is buffered grow further before reading pauses; smaller
/// costs time between polls.
const OFFSETS_A_POLL: usize = 256;

/// The files of a run, their events counted. Clones share what is held of them.
#[derive(Clone)]
pub(crate) struct EventFiles {
    topics: [Vec<Stretch>; 2],
    /// The model of rows that do not name one, as JSON.
    model: String,
}

/// What one file adds to a topic: an offset for each of its events.
#[derive(Clone)]
struct Stretch {
    file: Arc<EventFile>,
    take: Take,
}

/// Reads files as a member of a group reads Kafka.
pub(crate) struct FileSource {
    files: EventFiles,
    starts: Arc<dyn Starts>,
    positions: BTreeMap<PartitionRef, Position>,
    is_assigned: bool,
}

struct Position {
    next: i64,
    is_paused: bool,
    walk: Walk,
}

impl EventFiles {
    /// Opens and counts the files: each is read once for it, but a Parquet file says how many rows it has.
    ///
    /// # Errors
    /// A file that cannot be read, or is a Parquet file that is cut short; the error names it.
    pub(crate) async fn open(
        predictions: &[PathBuf],
        labels: &[PathBuf],
        model: &str,
        options: &BTreeMap<String, String>,
    ) -> Result<Self> {
        let mut topics = [Vec::new(), Vec::new()];
        for location in predictions {
            let file = Arc::new(EventFile::open(location, options).await?);
            if file.may_have_labels {
                topics[LABELS].push(Stretch { file: Arc::clone(&file), take: Take::InlineLabels });
            }
            topics[PREDICTIONS].push(Stretch { file, take: Take::Events });
        }
        for location in labels {
            let file = Arc::new(EventFile::open(location, options).await?);
            topics[LABELS].push(Stretch { file, take: Take::Events });
        }
        for stretches in &mut topics {
            stretches.retain(|stretch| stretch.file.total > 0);
        }
        Ok(Self { topics, model: serde_json::Value::from(model).to_string() })
    }

    fn walk(&self, topic: usize) -> Walk {
        let (stretches, model) = (self.topics[topic].clone(), self.model.clone());
        Walk { stretches, model, at: 0, current: 0, opened: None }
    }
}

/// Offsets that a topic's stretches have together.
fn end_of(stretches: &[Stretch]) -> i64 {
    stretches.iter().map(|stretch| stretch.file.total).sum()
}

impl Broker for EventFiles {
    fn describe(&self, _: &SourceTopic) -> Result<TopicState, Error> {
        Ok(TopicState { id: None, partitions: 1 })
    }

    fn topic_id(&self, _: &SourceTopic) -> Option<String> {
        None
    }

    fn watermarks(&self, topic: &SourceTopic, _: u32) -> Result<Watermarks, Error> {
        let topic = match topic.kind {
            EventKind::Predictions | EventKind::Reference => PREDICTIONS,
            EventKind::Labels => LABELS,
        };
        Ok(Watermarks { low: 0, high: end_of(&self.topics[topic]) })
    }

    /// Files are read whole: their lines have no time of arrival.
    fn offset_at(&self, _: &SourceTopic, _: u32, _: DateTime<Utc>) -> Result<i64, Error> {
        Ok(0)
    }
}

impl FileSource {
    /// Owns both partitions from the first poll on.
    pub(crate) fn new(files: EventFiles, starts: Arc<dyn Starts>) -> Self {
        Self { files, starts, positions: BTreeMap::new(), is_assigned: false }
    }

    fn assign(&mut self, on: &mut dyn FnMut(SourceEvent<'_>)) {
        self.is_assigned = true;
        let partitions = [PREDICTIONS, LABELS].map(|topic| PartitionRef { topic, partition: 0 });
        let starts = self.starts.resolve(&partitions, &self.files);
        for start in &starts {
            let (next, is_paused) = match &start.standing {
                Standing::Ready(tail) => (tail.to, false),
                Standing::Halted(_) | Standing::Unknown(_) => (i64::MAX, true),
            };
            let walk = self.files.walk(start.partition.topic);
            self.positions.insert(start.partition, Position { next, is_paused, walk });
        }
        on(SourceEvent::Assigned(starts));
    }
}

impl EventSource for FileSource {
    fn poll(&mut self, timeout: Duration, on: &mut dyn FnMut(SourceEvent<'_>)) -> Result<(), Error> {
        on(SourceEvent::Connected(true));
        if !self.is_assigned {
            self.assign(on);
        }
        let mut passed = 0;
        for (at, position) in &mut self.positions {
            passed += position.deliver(*at, on)?;
        }
        if passed == 0 {
            std::thread::sleep(timeout.min(Duration::from_millis(1)));
        }
        Ok(())
    }

    fn pause(&mut self, partition: PartitionRef) -> Result<(), Error> {
        self.positions.entry(partition).and_modify(|position| position.is_paused = true);
        Ok(())
    }

    fn resume(&mut self, partition: PartitionRef) -> Result<(), Error> {
        self.positions.entry(partition).and_modify(|position| position.is_paused = false);
        Ok(())
    }

    /// The files themselves are gone through at the next poll.
    fn reposition(&mut self, partition: PartitionRef, offset: i64) -> Result<(), Error> {
        self.positions.entry(partition).and_modify(|position| position.next = offset);
        Ok(())
    }

    fn broker(&self) -> &dyn Broker {
        &self.files
    }

    fn commit(&mut self, _: PartitionRef, _: i64) {}

    fn close(&mut self) {
        self.positions.clear();
    }
}

impl Position {
    /// Delivers what comes next; returns how many offsets that were, gaps included.
    fn deliver(&mut self, at: PartitionRef, on: &mut dyn FnMut(SourceEvent<'_>)) -> Result<usize, Error> {
        if self.is_paused {
            return Ok(0);
        }
        let end = end_of(&self.walk.stretches);
        if !(0..=end).contains(&self.next) {
            on(SourceEvent::OutOfRange);
            return Ok(0);
        }
        self.walk.go_to(self.next)?;
        let mut passed = 0;
        while self.next < end && passed < OFFSETS_A_POLL {
            if let Some(event) = self.walk.step()? {
                let record = RawRecord { offset: self.next, timestamp: Some(1), payload: Some(&event) };
                on(SourceEvent::Record(at, record));
            }
            self.next += 1;
            passed += 1;
        }
        let read_to = (self.next == end).then_some(end);
        on(SourceEvent::Progress { partition: at, read_to, broker_end: end });
        Ok(passed)
    }
}

/// A way through a topic, one offset after the other, with one file open at a time.
struct Walk {
    stretches: Vec<Stretch>,
    model: String,
    /// The offset that comes next.
    at: i64,
    /// The stretch that it lies in.
    current: usize,
    /// That stretch, if its first offset is behind us.
    opened: Option<Opened>,
}

struct Opened {
    events: Events,
    left: i64,
}

impl Walk {
    /// Goes to an offset: over whole files without a look at them, else through their events; backwards from the start.
    fn go_to(&mut self, offset: i64) -> Result<(), Error> {
        if offset < self.at {
            (self.at, self.current, self.opened) = (0, 0, None);
        }
        while self.at < offset {
            let Some(stretch) = self.stretches.get(self.current) else { break };
            let total = stretch.file.total;
            if self.opened.is_none() && self.at + total <= offset {
                self.at += total;
                self.current += 1;
            } else {
                self.step()?;
            }
        }
        Ok(())
    }

    /// Goes past one offset; `None` where it has no record.
    fn step(&mut self) -> Result<Option<Vec<u8>>, Error> {
        let Some(Stretch { file, take }) = self.stretches.get(self.current) else { return Ok(None) };
        let failed = |source: io::Error| Error::Source { what: format!("read {}", file.name), source };
        let mut opened = match self.opened.take() {
            Some(opened) => opened,
            None => Opened { events: file.events(*take).map_err(failed)?, left: file.total },
        };
        let event = opened.events.read().map_err(failed)?.ok_or_else(|| failed(changed()))?;
        self.at += 1;
        opened.left -= 1;
        if opened.left > 0 {
            self.opened = Some(opened);
        } else if opened.events.read().map_err(failed)?.is_some() {
            return Err(failed(changed()));
        } else {
            self.current += 1;
        }
        let line = with_model(event, &self.model);
        Ok(match take {
            Take::Events => Some(line),
            Take::InlineLabels => inline_label(&line),
        })
    }
}

fn changed() -> io::Error {
    io::Error::other("it was changed while it was read; evaluate a copy that nobody writes to")
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use arrow::array::{Array, ArrayRef, Float64Array, Int64Array, RecordBatch, StringArray, StructArray};
    use driftline_collector::source::{ChainTail, Start};
    use parquet::arrow::ArrowWriter;
    use serde_json::{Value, json};
    use tempfile::TempDir;

    use super::{file::ROWS_A_BATCH, flat::entry, *};

    struct AtZero;

    impl Starts for AtZero {
        fn resolve(&self, partitions: &[PartitionRef], _: &dyn Broker) -> Vec<Start> {
            let tail = ChainTail { chain: "c".to_owned(), topic_id: None, to: 0, last_from: None, written_at: None };
            let start = |at: &PartitionRef| Start { partition: *at, standing: Standing::Ready(tail.clone()) };
            partitions.iter().map(start).collect()
        }
    }

    /// What a source has told, by topic.
    #[derive(Default)]
    struct Told {
        records: [Vec<(i64, String)>; 2],
        read_to: [Option<i64>; 2],
        assigned: usize,
        out_of_range: usize,
    }

    impl Told {
        fn poll(&mut self, source: &mut FileSource) -> Result<(), Error> {
            source.poll(Duration::from_millis(1), &mut |event| match event {
                SourceEvent::Record(at, record) => {
                    assert_eq!(record.timestamp, Some(1));
                    let text = std::str::from_utf8(record.payload.unwrap()).unwrap().trim().to_owned();
                    self.records[at.topic].push((record.offset, text));
                }
                SourceEvent::Progress { partition, read_to, broker_end } => {
                    assert!(read_to.is_none_or(|read_to| read_to == broker_end));
                    self.read_to[partition.topic] = read_to;
                }
                SourceEvent::Assigned(starts) => self.assigned += starts.len(),
                SourceEvent::OutOfRange => self.out_of_range += 1,
                _ => {}
            })
        }

        fn offsets(&self, topic: usize) -> Vec<i64> {
            self.records[topic].iter().map(|(offset, _)| *offset).collect()
        }

        fn json(&self, topic: usize) -> Vec<Value> {
            self.records[topic].iter().map(|(_, text)| serde_json::from_str(text).unwrap()).collect()
        }
    }

    fn at(topic: usize) -> PartitionRef {
        PartitionRef { topic, partition: 0 }
    }

    fn source(files: &EventFiles) -> FileSource {
        FileSource::new(files.clone(), Arc::new(AtZero))
    }

    fn read_all(files: &EventFiles) -> Told {
        let (mut source, mut told) = (source(files), Told::default());
        for _ in 0..1000 {
            told.poll(&mut source).unwrap();
            if told.read_to.iter().all(Option::is_some) {
                assert_eq!(told.assigned, 2);
                return told;
            }
        }
        panic!("the end of the files is never reached");
    }

    fn high(files: &EventFiles, kind: EventKind) -> i64 {
        files.watermarks(&SourceTopic { name: "any".to_owned(), kind }, 0).unwrap().high
    }

    async fn open(predictions: &[&PathBuf], labels: &[&PathBuf]) -> Result<EventFiles> {
        let owned = |paths: &[&PathBuf]| paths.iter().map(|path| (*path).clone()).collect::<Vec<PathBuf>>();
        EventFiles::open(&owned(predictions), &owned(labels), "m", &BTreeMap::new()).await
    }

    fn write(folder: &TempDir, name: &str, bytes: &[u8]) -> PathBuf {
        let path = folder.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    }

    fn packed(text: &[u8]) -> Vec<u8> {
        let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        packer.write_all(text).unwrap();
        packer.finish().unwrap()
    }

    fn column(array: impl Array + 'static) -> ArrayRef {
        Arc::new(array)
    }

    fn parquet(columns: Vec<(&str, ArrayRef)>) -> Vec<u8> {
        let batch = RecordBatch::try_from_iter(columns).unwrap();
        let mut bytes = Vec::new();
        let mut writer = ArrowWriter::try_new(&mut bytes, batch.schema(), None).unwrap();
        writer.write(&batch).unwrap();
        writer.close().unwrap();
        bytes
    }

    fn numbered(rows: std::ops::Range<i64>) -> String {
        let lines: Vec<String> = rows.map(|row| format!("{{\"a\":{row}}}\n")).collect();
        lines.concat()
    }

    /// Would notice a blank line, an array or a last line that is counted otherwise than it is delivered.
    #[tokio::test]
    async fn as_many_events_are_delivered_as_were_counted() {
        let folder = TempDir::new().unwrap();
        let text = b"{\"a\":1}\n\n  \r\n{\"a\":2}\r\n[{\"a\":3}, {\"a\":4}]\n[]\n[{\n{\"a\":6}";
        // A packed file may have several members.
        let (first, second) = text.split_at(20);
        let plain = write(&folder, "p.jsonl", text);
        let gz = write(&folder, "p.jsonl.gz", &[packed(first), packed(second)].concat());
        for file in [plain, gz] {
            let files = open(&[&file], &[&file]).await.unwrap();
            let told = read_all(&files);
            for (topic, kind) in [(PREDICTIONS, EventKind::Predictions), (LABELS, EventKind::Labels)] {
                assert_eq!(high(&files, kind), 6, "{}", file.display());
                let event = |a: i64| format!("{{\"model_name\":\"m\",\"a\":{a}}}");
                let expected = [event(1), event(2), event(3), event(4), "[{".to_owned(), event(6)];
                assert_eq!(told.records[topic], (0i64..).zip(expected).collect::<Vec<_>>(), "{}", file.display());
            }
        }
    }

    #[tokio::test]
    async fn rows_of_parquet_come_batch_by_batch_and_none_is_lost() {
        let folder = TempDir::new().unwrap();
        let rows = 2 * ROWS_A_BATCH as i64 + 7;
        let bytes = parquet(vec![("a", column(Int64Array::from_iter_values(0..rows)))]);
        let plain = write(&folder, "p.parquet", &bytes);
        let gz = write(&folder, "p.parquet.gz", &packed(&bytes));
        let files = open(&[&plain, &gz], &[]).await.unwrap();
        assert_eq!((high(&files, EventKind::Predictions), high(&files, EventKind::Labels)), (2 * rows, 0));
        let told = read_all(&files);
        assert_eq!(told.offsets(PREDICTIONS), (0..2 * rows).collect::<Vec<i64>>());
        let numbers: Vec<_> = told.json(PREDICTIONS).iter().map(|event| event["a"].as_i64().unwrap()).collect();
        assert_eq!(numbers, (0..rows).chain(0..rows).collect::<Vec<i64>>());
    }

    /// Would notice a feature under its column's name, a text that overrules a number, and a name that breaks the JSON.
    #[tokio::test]
    async fn flat_columns_of_parquet_become_features_and_tags() {
        let folder = TempDir::new().unwrap();
        let numbers = |values: Vec<Option<f64>>| column(Float64Array::from(values));
        let texts = |values: Vec<Option<&str>>| column(StringArray::from(values));
        let flat = parquet(vec![
            ("feature_age", numbers(vec![Some(1.5), None, Some(2.5)])),
            ("feature_age_text", texts(vec![None, Some("old"), Some("not this")])),
            ("feature_a\"b", numbers(vec![None, Some(7.5), None])),
            ("feature_n_text", numbers(vec![Some(0.5), None, None])),
            ("tag_region", texts(vec![Some("eu"), None, Some("us")])),
            ("score", numbers(vec![Some(0.5), Some(f64::NAN), None])),
        ]);
        let flat = write(&folder, "flat.parquet", &flat);
        let told = read_all(&open(&[&flat], &[]).await.unwrap());
        assert_eq!(
            told.json(PREDICTIONS),
            [
                json!({"model_name": "m", "features": {"age": 1.5, "n_text": 0.5}, "tags": {"region": "eu"}, "score": 0.5}),
                json!({"model_name": "m", "features": {"age": "old", "a\"b": 7.5}, "tags": {}, "score": null}),
                json!({"model_name": "m", "features": {"age": 2.5}, "tags": {"region": "us"}}),
            ]
        );
        assert_eq!(told.records[PREDICTIONS][2].1.matches("\"age\"").count(), 1);
    }

    #[tokio::test]
    async fn parquet_with_nested_columns_stays_as_it_is() {
        let folder = TempDir::new().unwrap();
        let ages = column(Int64Array::from(vec![Some(1), None]));
        let features = column(StructArray::from(vec![entry("age", ages)]));
        let other = column(Int64Array::from(vec![5, 6]));
        let nested = parquet(vec![("features", features), ("feature_x", Arc::clone(&other)), ("tag_y", other)]);
        let nested = write(&folder, "nested.parquet", &nested);
        let told = read_all(&open(&[&nested], &[]).await.unwrap());
        assert_eq!(
            told.json(PREDICTIONS),
            [
                json!({"model_name": "m", "features": {"age": 1}, "feature_x": 5, "tags": {"y": 5}}),
                json!({"model_name": "m", "features": {}, "feature_x": 6, "tags": {"y": 6}}),
            ]
        );
    }

    /// Would notice inline labels that are thrown away where there are label files, as they once were.
    #[tokio::test]
    async fn inline_labels_count_beside_label_files() {
        let folder = TempDir::new().unwrap();
        let event = |id: &str, label: &str| {
            format!("{{\"prediction_id\":\"{id}\",\"timestamp\":1767225600000,\"score\":0.5{label}}}\n")
        };
        let lines =
            [event("a", ",\"label\":1"), event("b", ",\"label\":null"), event("c", ""), event("d", ",\"label\":0")];
        let inline = write(&folder, "p.jsonl", lines.concat().as_bytes());
        let without = write(&folder, "q.jsonl", event("e", "").as_bytes());
        let rows = parquet(vec![
            ("feature_x", column(Int64Array::from(vec![1, 2, 3]))),
            ("label", column(Float64Array::from(vec![None, Some(f64::NAN), Some(1.0)]))),
            ("prediction_id", column(StringArray::from(vec!["f", "g", "h"]))),
            ("timestamp", column(StringArray::from(vec!["2026-01-01T00:00:00Z"; 3]))),
        ]);
        let rows = write(&folder, "r.parquet", &rows);
        let late = write(&folder, "l.jsonl", event("b", ",\"label\":1").as_bytes());
        let files = open(&[&inline, &without, &rows], &[&late]).await.unwrap();
        assert_eq!((high(&files, EventKind::Predictions), high(&files, EventKind::Labels)), (8, 8));
        let told = read_all(&files);
        assert_eq!(told.offsets(LABELS), [0i64, 3, 6, 7]);
        let labels = told.json(LABELS);
        let ids: Vec<_> = labels.iter().map(|label| label["prediction_id"].as_str().unwrap()).collect();
        assert_eq!(ids, ["a", "d", "h", "b"]);
        let expected = json!({"prediction_id": "a", "model_name": "m", "timestamp": 1767225600000i64, "label": 1,
            "prediction_timestamp": 1767225600000i64});
        assert_eq!(labels[0], expected);
        assert_eq!((&labels[2]["label"], &labels[2]["model_name"]), (&json!(1.0), &json!("m")));
    }

    #[tokio::test]
    async fn a_partition_is_sent_anywhere_and_goes_on_from_there() {
        let folder = TempDir::new().unwrap();
        let (first, second) = (numbered(0..300), numbered(300..900));
        let (first, second) = (write(&folder, "1", first.as_bytes()), write(&folder, "2", second.as_bytes()));
        let files = open(&[&first, &second], &[]).await.unwrap();
        let mut source = source(&files);
        Told::default().poll(&mut source).unwrap();
        // Within the file that is open, back, into the next one, to the start of one, and over a whole one to the end.
        for next in [280, 3, 700, 300, 0, 899, 5, 900] {
            source.reposition(at(PREDICTIONS), next).unwrap();
            let mut told = Told::default();
            told.poll(&mut source).unwrap();
            let to = (next + OFFSETS_A_POLL as i64).min(900);
            assert_eq!(told.offsets(PREDICTIONS), (next..to).collect::<Vec<i64>>());
            let numbers: Vec<_> = told.json(PREDICTIONS).iter().map(|event| event["a"].as_i64().unwrap()).collect();
            assert_eq!(numbers, (next..to).collect::<Vec<i64>>());
            assert_eq!(told.read_to[PREDICTIONS], (to == 900).then_some(900));
        }
        source.reposition(at(PREDICTIONS), 901).unwrap();
        let mut told = Told::default();
        told.poll(&mut source).unwrap();
        assert_eq!((told.out_of_range, told.offsets(PREDICTIONS)), (1, Vec::new()));
    }

    #[tokio::test]
    async fn a_paused_partition_goes_on_from_where_it_stood() {
        let folder = TempDir::new().unwrap();
        let file = write(&folder, "p.jsonl", numbered(0..600).as_bytes());
        let (mut source, mut told) = (source(&open(&[&file], &[&file]).await.unwrap()), Told::default());
        told.poll(&mut source).unwrap();
        source.pause(at(PREDICTIONS)).unwrap();
        told.poll(&mut source).unwrap();
        assert_eq!((told.records[PREDICTIONS].len(), told.records[LABELS].len()), (256, 512));
        source.resume(at(PREDICTIONS)).unwrap();
        told.poll(&mut source).unwrap();
        assert_eq!(told.offsets(PREDICTIONS), (0..512).collect::<Vec<i64>>());
    }

    #[tokio::test]
    async fn a_parquet_file_that_is_cut_short_is_named() {
        let folder = TempDir::new().unwrap();
        let bytes = parquet(vec![("a", column(Int64Array::from(vec![1])))]);
        for length in [bytes.len() - 1, 5, 4] {
            let cut = write(&folder, "cut.parquet", &bytes[..length]);
            let said = format!("{:#}", open(&[&cut], &[]).await.err().unwrap());
            assert!(said.contains("cut.parquet") && said.contains("cut short"), "{said}");
        }
    }

    /// Would notice a loop without end, and events that are left out.
    #[tokio::test]
    async fn a_file_that_changes_while_it_is_read_ends_the_run() {
        let folder = TempDir::new().unwrap();
        let file = write(&folder, "p.jsonl", numbered(0..5).as_bytes());
        let files = open(&[&file], &[]).await.unwrap();
        for rows in [4, 6] {
            write(&folder, "p.jsonl", numbered(0..rows).as_bytes());
            let error = Told::default().poll(&mut source(&files)).unwrap_err();
            let said = format!("{:#}", anyhow::Error::from(error));
            assert!(said.contains("p.jsonl") && said.contains("changed"), "{said}");
        }
    }

    #[test]
    fn a_model_is_named_at_the_top_level_only() {
        let model = |event: &str| String::from_utf8(with_model(event.as_bytes().to_vec(), "\"m\"")).unwrap();
        assert_eq!(model("{\"a\":1}"), "{\"model_name\":\"m\",\"a\":1}");
        assert_eq!(model(" { }"), "{\"model_name\":\"m\" }");
        let inside = "{\"features\":{\"model_name\":\"x\"}}";
        assert_eq!(model(inside), format!("{{\"model_name\":\"m\",{}", &inside[1..]));
        for stays in ["{\"model_name\":\"x\"}", "{\"model_name\":null}", "{\"a\":1,\"model_name\":", "5"] {
            assert_eq!(model(stays), stays);
        }
    }

    #[test]
    fn inline_labels_keep_their_text_and_a_null_is_none() {
        let event = |label: &str| {
            format!(r#"{{"prediction_id":"a","model_name":"m","timestamp":1767225600000,"label":{label}}}"#)
        };
        let label = |text: &str| inline_label(event(text).as_bytes()).map(|line| String::from_utf8(line).unwrap());
        assert!(label("12345678901234567890123").unwrap().contains(r#""label":12345678901234567890123,"#));
        assert!(label(r#""ok""#).unwrap().contains(r#""label":"ok""#));
        assert!(label(r#"1,"label_timestamp":5"#).unwrap().contains(r#""timestamp":5,"#));
        assert!(label(r#"1,"label_timestamp":null"#).unwrap().contains(r#""timestamp":1767225600000,"#));
        assert_eq!(label("null"), None);
    }
}
