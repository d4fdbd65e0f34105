//! Where records come from: a trait, so that the stage runs alike on Kafka and on its in-memory twin.
use std::time::Duration;

use chrono::{DateTime, Utc};
use driftline_schemas::clock::Micros;
use driftline_schemas::event::EventKind;

use crate::error::Error;

/// A topic that is read, by its place in the settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceTopic {
    /// Name.
    pub name: String,
    /// What it carries.
    pub kind: EventKind,
}

/// A source partition, cheap to copy and to hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PartitionRef {
    /// Place of the topic in the list of [`SourceTopic`]s.
    pub topic: usize,
    /// Partition number.
    pub partition: u32,
}

/// One Kafka record, borrowed from the client's buffer and let go at once.
#[derive(Debug, Clone, Copy)]
pub struct RawRecord<'a> {
    /// Kafka offset.
    pub offset: i64,
    /// Kafka's time of the record, if it has one.
    pub timestamp: Option<Micros>,
    /// `None` is a tombstone.
    pub payload: Option<&'a [u8]>,
}

/// What a source tells.
#[derive(Debug)]
pub enum SourceEvent<'a> {
    /// Partitions are ours from now on, and are read from where their chains end.
    Assigned(Vec<Start>),
    /// Partitions are no longer ours.
    Revoked(Vec<PartitionRef>),
    /// The next record of a partition.
    Record(PartitionRef, RawRecord<'a>),
    /// How far a partition goes: the broker's end, and, if all before it has been delivered, the offset at which the
    /// end of the partition was reached (which may lie behind control records).
    Progress {
        /// The partition.
        partition: PartitionRef,
        /// Every record before this offset has been delivered.
        read_to: Option<i64>,
        /// The broker's end.
        broker_end: i64,
    },
    /// Some partition's position is no longer, or not yet, at the broker.
    OutOfRange,
    /// The brokers answer, or have stopped to.
    Connected(bool),
    /// The brokers refuse something that a person has to mend; why, and what.
    Refused(String),
    /// What they refused is granted.
    Granted,
}

/// Where a partition begins in this assignment.
#[derive(Debug, Clone)]
pub struct Start {
    /// The partition.
    pub partition: PartitionRef,
    /// How it stands.
    pub standing: Standing,
}

/// How a partition stands when it is assigned.
#[derive(Debug, Clone)]
pub enum Standing {
    /// It is read from its chain's end.
    Ready(ChainTail),
    /// A person has to decide: why, and with what command.
    Halted(String),
    /// The store or the broker did not answer; it is asked again.
    Unknown(String),
}

/// The end of a chain, proven by walking it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChainTail {
    /// The chain's name.
    pub chain: String,
    /// The broker's id of the topic whose records the chain holds.
    pub topic_id: Option<String>,
    /// First offset that is not in the chain.
    pub to: i64,
    /// Where the last object begins; `None` if there is none yet.
    pub last_from: Option<i64>,
    /// When the last object was written.
    pub written_at: Option<Micros>,
}

/// The offsets that a broker has of a partition: `[low, high)`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Watermarks {
    /// First offset.
    pub low: i64,
    /// First offset not there yet (for committed records).
    pub high: i64,
}

/// A topic as the broker describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicState {
    /// The broker's id, if it gives one.
    pub id: Option<String>,
    /// Partitions.
    pub partitions: u32,
}

/// Questions to the broker.
pub trait Broker {
    /// A topic's id and partitions.
    fn describe(&self, topic: &SourceTopic) -> Result<TopicState, Error>;
    /// A topic's id as it is now, and not as it was a moment ago; `None` if the broker does not tell one.
    fn topic_id(&self, topic: &SourceTopic) -> Option<String>;
    /// What the broker has of a partition.
    fn watermarks(&self, topic: &SourceTopic, partition: u32) -> Result<Watermarks, Error>;
    /// The first offset whose record is not older than a time.
    fn offset_at(&self, topic: &SourceTopic, partition: u32, time: DateTime<Utc>) -> Result<i64, Error>;
}

/// Decides, when partitions are assigned, where each is read from. Called inside the rebalance callback.
pub trait Starts: Send + Sync {
    /// One start a partition, in any order.
    fn resolve(&self, partitions: &[PartitionRef], broker: &dyn Broker) -> Vec<Start>;
}

/// A source of records of several partitions, driven by one thread.
pub trait EventSource {
    /// Waits up to `timeout` for news and hands all that is at hand to `on`.
    fn poll(&mut self, timeout: Duration, on: &mut dyn FnMut(SourceEvent<'_>)) -> Result<(), Error>;
    /// Stops delivering a partition; polling goes on.
    fn pause(&mut self, partition: PartitionRef) -> Result<(), Error>;
    /// Delivers a paused partition again, from where it stood.
    fn resume(&mut self, partition: PartitionRef) -> Result<(), Error>;
    /// Delivers a partition from an offset; nothing from before the call is delivered after it.
    fn reposition(&mut self, partition: PartitionRef, offset: i64) -> Result<(), Error>;
    /// Asks the broker.
    fn broker(&self) -> &dyn Broker;
    /// Tells the group how far a partition has been written. Advice: errors are logged and forgotten.
    fn commit(&mut self, partition: PartitionRef, offset: i64);
    /// Leaves the group, in bounded time.
    fn close(&mut self);
}
