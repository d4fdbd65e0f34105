//! Where an event came from.
use serde::{Deserialize, Serialize};

/// A source partition: the unit of order, of ownership and of a raw chain.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct TopicPartition {
    /// Topic name.
    pub topic: String,
    /// Partition number, from 0.
    pub partition: u32,
}

impl TopicPartition {
    /// A partition of a topic.
    pub fn new(topic: impl Into<String>, partition: u32) -> Self {
        Self { topic: topic.into(), partition }
    }
}

impl std::fmt::Display for TopicPartition {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}[{}]", self.topic, self.partition)
    }
}

/// The position of one event. Elements of a JSON array share an offset and differ by their index.
///
/// Ordered by topic, partition, offset, index: the order that decides between events of equal time.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Position {
    /// Topic name.
    pub topic: String,
    /// Partition number, from 0.
    pub partition: u32,
    /// Kafka offset of the record.
    pub offset: i64,
    /// Element of a JSON array, else 0.
    pub index: u32,
}
