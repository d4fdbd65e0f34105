//! What can stop the collector, and what only holds it up.
use driftline_schemas::raw::FooterError;

/// Why the collector did not go on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The settings cannot work; every fault is named.
    #[error("the collector's settings cannot work: {}", .0.join("; "))]
    Settings(Vec<String>),
    /// A topic does not exist and may not be created.
    #[error(
        "topic `{topic}` does not exist; create it with `kafka-topics.sh --bootstrap-server {brokers} --create \
         --topic {topic} --partitions {partitions}`, or set `kafka.create_topics = true`"
    )]
    MissingTopic {
        /// The topic's name.
        topic: String,
        /// Where it was looked for.
        brokers: String,
        /// How many partitions it would be given.
        partitions: u32,
    },
    /// A compacted topic loses records on purpose, so no account of it can add up.
    #[error(
        "topic `{topic}` has `cleanup.policy={policy}`: compaction removes events, and an account of it could never add up; \
         use a topic with `cleanup.policy=delete`"
    )]
    CompactedTopic {
        /// The topic's name.
        topic: String,
        /// Its policy.
        policy: String,
    },
    /// Rights are missing; each is named with the command that grants it.
    #[error("{}", .0.join("; "))]
    Denied(Vec<String>),
    /// The broker did not do what it was asked; it may later.
    #[error("cannot {what}: {source}")]
    Broker {
        /// What was asked for.
        what: String,
        /// The client's answer.
        source: rdkafka::error::KafkaError,
    },
    /// Some partitions were read to their end, others need a person.
    #[error("not all partitions could be read: {}", .0.join("; "))]
    Halted(Vec<String>),
    /// There is nothing to give up: the chain's end is still within what the broker has.
    #[error("partition {partition} has no gap: {reason}")]
    NoGap {
        /// `topic[partition]`.
        partition: String,
        /// Where the chain and the broker stand.
        reason: String,
    },
    /// The store.
    #[error(transparent)]
    Store(#[from] driftline_store::Error),
    /// An object of a chain is not readable.
    #[error("{path} is no raw object")]
    RawObject {
        /// The object's name.
        path: String,
        /// What is wrong with it.
        source: FooterError,
    },
    /// An object that is advice or a beginning is not readable.
    #[error("{path} is not readable")]
    Json {
        /// The object's name.
        path: String,
        /// What is wrong with it.
        source: serde_json::Error,
    },
    /// Rows could not be made into columns.
    #[error("cannot build a batch of rows")]
    Arrow(#[from] arrow::error::ArrowError),
    /// Columns could not be made into an object.
    #[error("cannot encode a raw object")]
    Parquet(#[from] parquet::errors::ParquetError),
    /// A source that is no broker cannot be read on.
    #[error("cannot {what}")]
    Source {
        /// What was done.
        what: String,
        /// Why it failed.
        source: std::io::Error,
    },
    /// A part of the collector ended without saying why.
    #[error("the collector's {0} ended unexpectedly")]
    Ended(&'static str),
}

/// What a caller does with an [`Error`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Disposition {
    /// The same may succeed later.
    Retry,
    /// A person is needed.
    Stop,
}

impl Error {
    /// Whether the same may succeed later.
    pub fn disposition(&self) -> Disposition {
        match self {
            Self::Store(error) => match error.disposition() {
                driftline_store::Disposition::Retry => Disposition::Retry,
                driftline_store::Disposition::Stop => Disposition::Stop,
            },
            Self::Broker { .. } | Self::Denied(_) => Disposition::Retry,
            _ => Disposition::Stop,
        }
    }

    pub(crate) fn broker(what: impl Into<String>, source: rdkafka::error::KafkaError) -> Self {
        Self::Broker { what: what.into(), source }
    }
}
