//! The in-memory twin of Kafka: a log of several partitions, and a source that reads it as a group member would.
//!
//! Tests script what a group does to its members: partitions come and go, and a consumer may be sent anywhere.
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use driftline_schemas::clock::Micros;

use crate::error::Error;
use crate::source::{
    Broker, EventSource, PartitionRef, RawRecord, SourceEvent, SourceTopic, Standing, Starts, TopicState, Watermarks,
};

/// Records handed over in one poll; Kafka's source has a bound of the same kind.
const RECORDS_A_POLL: usize = 256;

/// Topics in memory. Clones share them.
#[derive(Debug, Clone, Default)]
pub struct MemoryLog {
    topics: Arc<Mutex<BTreeMap<String, MemoryTopic>>>,
}

#[derive(Debug, Default)]
struct MemoryTopic {
    id: Option<String>,
    partitions: Vec<MemoryPartition>,
}

#[derive(Debug, Default)]
struct MemoryPartition {
    low: i64,
    entries: Vec<Entry>,
}

#[derive(Debug, Clone)]
enum Entry {
    Record {
        timestamp: Option<Micros>,
        payload: Option<Bytes>,
    },
    /// A marker of a transaction: it has an offset and is never delivered.
    Control,
}

impl MemoryLog {
    /// Creates a topic, or a new one of the same name.
    pub fn create_topic(&self, name: &str, id: Option<&str>, partitions: u32) {
        let partitions = (0..partitions).map(|_| MemoryPartition::default()).collect();
        self.lock().insert(name.to_owned(), MemoryTopic { id: id.map(str::to_owned), partitions });
    }

    /// Deletes a topic and creates it again, of one partition that has these records already when somebody looks: a reader's
    /// position in the old one may exist in the new one too.
    pub fn create_again(&self, name: &str, id: &str, payloads: &[Vec<u8>]) {
        let record = |payload: &Vec<u8>| {
            let payload = Some(Bytes::copy_from_slice(payload));
            Entry::Record { timestamp: Some(1), payload }
        };
        let entries = payloads.iter().map(record).collect();
        let partitions = vec![MemoryPartition { low: 0, entries }];
        self.lock().insert(name.to_owned(), MemoryTopic { id: Some(id.to_owned()), partitions });
    }

    /// Appends a record; `None` is a tombstone. Returns its offset.
    pub fn publish(&self, topic: &str, partition: u32, payload: Option<&[u8]>) -> i64 {
        let payload = payload.map(Bytes::copy_from_slice);
        self.append(topic, partition, Entry::Record { timestamp: Some(1), payload })
    }

    /// Appends a control record.
    pub fn publish_control(&self, topic: &str, partition: u32) -> i64 {
        self.append(topic, partition, Entry::Control)
    }

    /// Retention: offsets before `low` are gone.
    pub fn remove_before(&self, topic: &str, partition: u32, low: i64) {
        self.with(topic, partition, |log| log.low = low);
    }

    fn append(&self, topic: &str, partition: u32, entry: Entry) -> i64 {
        self.with(topic, partition, |log| {
            log.entries.push(entry);
            log.entries.len() as i64 - 1
        })
    }

    fn with<T>(&self, topic: &str, partition: u32, act: impl FnOnce(&mut MemoryPartition) -> T) -> T {
        let mut topics = self.lock();
        let topic = topics.get_mut(topic).expect("tests create a topic before they use it");
        act(&mut topic.partitions[partition as usize])
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, MemoryTopic>> {
        self.topics.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Broker for MemoryLog {
    fn describe(&self, topic: &SourceTopic) -> Result<TopicState, Error> {
        let topics = self.lock();
        let found = topics.get(&topic.name).ok_or_else(|| Error::MissingTopic {
            topic: topic.name.clone(),
            brokers: "memory".into(),
            partitions: 1,
        })?;
        Ok(TopicState { id: found.id.clone(), partitions: found.partitions.len() as u32 })
    }

    fn topic_id(&self, topic: &SourceTopic) -> Option<String> {
        self.lock().get(&topic.name).and_then(|found| found.id.clone())
    }

    fn watermarks(&self, topic: &SourceTopic, partition: u32) -> Result<Watermarks, Error> {
        Ok(self.with(&topic.name, partition, |log| Watermarks { low: log.low, high: log.entries.len() as i64 }))
    }

    fn offset_at(&self, topic: &SourceTopic, partition: u32, time: DateTime<Utc>) -> Result<i64, Error> {
        let time = time.timestamp_micros();
        Ok(self.with(&topic.name, partition, |log| {
            let later = |entry: &Entry| matches!(entry, Entry::Record { timestamp: Some(at), .. } if *at >= time);
            log.entries.iter().position(later).unwrap_or(log.entries.len()) as i64
        }))
    }
}

/// What the group does to a member.
#[derive(Debug, Clone)]
pub enum Step {
    /// Partitions become its own.
    Assign(Vec<PartitionRef>),
    /// Partitions are taken away.
    Revoke(Vec<PartitionRef>),
    /// The consumer is sent to an offset behind the stage's back, as a rewound group offset would.
    Rewind(PartitionRef, i64),
}

/// The steps that are still to come. Clones share them.
#[derive(Debug, Clone, Default)]
pub struct Script {
    steps: Arc<Mutex<VecDeque<Step>>>,
}

impl Script {
    /// A script that begins with one assignment.
    pub fn assigning(partitions: impl IntoIterator<Item = PartitionRef>) -> Self {
        let script = Self::default();
        script.push(Step::Assign(partitions.into_iter().collect()));
        script
    }

    /// Adds a step.
    pub fn push(&self, step: Step) {
        self.steps.lock().unwrap_or_else(PoisonError::into_inner).push_back(step);
    }

    fn next(&self) -> Option<Step> {
        self.steps.lock().unwrap_or_else(PoisonError::into_inner).pop_front()
    }
}

/// Reads a [`MemoryLog`] as a member of a group reads Kafka.
pub struct MemorySource {
    log: MemoryLog,
    topics: Vec<SourceTopic>,
    script: Script,
    starts: Arc<dyn Starts>,
    positions: BTreeMap<PartitionRef, Position>,
}

struct Position {
    next: i64,
    paused: bool,
}

impl MemorySource {
    /// A member that owns nothing until the script says so.
    pub fn new(log: MemoryLog, topics: Vec<SourceTopic>, script: Script, starts: Arc<dyn Starts>) -> Self {
        Self { log, topics, script, starts, positions: BTreeMap::new() }
    }

    fn act(&mut self, step: Step, on: &mut dyn FnMut(SourceEvent<'_>)) {
        match step {
            Step::Assign(partitions) => {
                let starts = self.starts.resolve(&partitions, &self.log);
                for start in &starts {
                    let position = match &start.standing {
                        Standing::Ready(tail) => Position { next: tail.to, paused: false },
                        Standing::Halted(_) | Standing::Unknown(_) => Position { next: i64::MAX, paused: true },
                    };
                    self.positions.insert(start.partition, position);
                }
                on(SourceEvent::Assigned(starts));
            }
            Step::Revoke(partitions) => {
                self.positions.retain(|at, _| !partitions.contains(at));
                on(SourceEvent::Revoked(partitions));
            }
            Step::Rewind(at, offset) => {
                if let Some(position) = self.positions.get_mut(&at) {
                    position.next = offset;
                }
            }
        }
    }

    /// Delivers what one partition has; returns how many records that were.
    fn deliver(&mut self, at: PartitionRef, on: &mut dyn FnMut(SourceEvent<'_>)) -> usize {
        let Some(position) = self.positions.get_mut(&at).filter(|position| !position.paused) else { return 0 };
        let topic = self.topics[at.topic].name.clone();
        let (low, high, entries) = self.log.with(&topic, at.partition, |log| {
            let from = (position.next.max(0) as usize).min(log.entries.len());
            let to = (from + RECORDS_A_POLL).min(log.entries.len());
            (log.low, log.entries.len() as i64, log.entries[from..to].to_vec())
        });
        if position.next < low || position.next > high {
            on(SourceEvent::OutOfRange);
            return 0;
        }
        let delivered = entries.len();
        for entry in entries {
            let offset = position.next;
            position.next += 1;
            if let Entry::Record { timestamp, payload } = entry {
                on(SourceEvent::Record(at, RawRecord { offset, timestamp, payload: payload.as_deref() }));
            }
        }
        let read_to = (position.next == high).then_some(high);
        on(SourceEvent::Progress { partition: at, read_to, broker_end: high });
        delivered
    }
}

impl EventSource for MemorySource {
    fn poll(&mut self, timeout: Duration, on: &mut dyn FnMut(SourceEvent<'_>)) -> Result<(), Error> {
        on(SourceEvent::Connected(true));
        if let Some(step) = self.script.next() {
            self.act(step, on);
        }
        let all: Vec<PartitionRef> = self.positions.keys().copied().collect();
        let delivered: usize = all.into_iter().map(|at| self.deliver(at, on)).sum();
        if delivered == 0 {
            std::thread::sleep(timeout.min(Duration::from_millis(1)));
        }
        Ok(())
    }

    fn pause(&mut self, partition: PartitionRef) -> Result<(), Error> {
        self.positions.entry(partition).and_modify(|position| position.paused = true);
        Ok(())
    }

    fn resume(&mut self, partition: PartitionRef) -> Result<(), Error> {
        self.positions.entry(partition).and_modify(|position| position.paused = false);
        Ok(())
    }

    fn reposition(&mut self, partition: PartitionRef, offset: i64) -> Result<(), Error> {
        self.positions.entry(partition).and_modify(|position| position.next = offset);
        Ok(())
    }

    fn broker(&self) -> &dyn Broker {
        &self.log
    }

    fn commit(&mut self, _: PartitionRef, _: i64) {}

    fn close(&mut self) {
        self.positions.clear();
    }
}
