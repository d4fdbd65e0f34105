//! What the collector is told, and what of it cannot work.
use std::collections::BTreeMap;
use std::time::Duration;

use driftline_schemas::config::{Start, why_refused};
use driftline_schemas::event::EventKind;

use crate::error::Error;
use crate::source::SourceTopic;

/// Everything the collector needs to know.
#[derive(Debug, Clone)]
pub struct CollectorSettings {
    /// Bootstrap servers, separated by commas.
    pub brokers: String,
    /// Topics of predictions.
    pub predictions_topics: Vec<String>,
    /// Topics of labels.
    pub labels_topics: Vec<String>,
    /// Consumer group: shares partitions among collectors, and shows lag to dashboards. It never decides what is true.
    pub group: String,
    /// Where new chains begin.
    pub start: Start,
    /// Create topics that do not exist.
    pub create_topics: bool,
    /// Partitions of a created topic.
    pub create_partitions: u32,
    /// Further settings of librdkafka: TLS, SASL, …
    pub properties: BTreeMap<String, String>,
    /// Where rejected events are published too.
    pub dead_letter_topic: Option<String>,
    /// The longest that a record waits in memory. Smaller: fresher windows, more and smaller objects.
    pub flush_interval: Duration,
    /// A partition is flushed when it holds this much. Larger: better compression, more memory for each partition.
    pub flush_bytes: usize,
    /// All buffers together, flushes under way included; reading pauses above it.
    pub memory_max: usize,
    /// How often facts are refreshed while a partition stands at its end.
    pub facts_interval: Duration,
    /// Name of this process, unique among live ones.
    pub instance: String,
}

impl Default for CollectorSettings {
    fn default() -> Self {
        Self {
            brokers: "localhost:9092".into(),
            predictions_topics: vec!["driftline.predictions".into()],
            labels_topics: vec!["driftline.labels".into()],
            group: "driftline".into(),
            start: Start::Earliest,
            create_topics: false,
            create_partitions: 4,
            properties: BTreeMap::new(),
            dead_letter_topic: None,
            flush_interval: Duration::from_secs(5),
            flush_bytes: 64 << 20,
            memory_max: 1 << 30,
            facts_interval: Duration::from_secs(10),
            instance: "collector".into(),
        }
    }
}

/// Arrow's offsets are 32 bits wide: a batch of more bytes could not be built.
const FLUSH_BYTES_MAX: usize = 512 << 20;

impl CollectorSettings {
    /// The topics in the order that [`crate::source::PartitionRef`] counts them in.
    pub fn topics(&self) -> Vec<SourceTopic> {
        let of = |names: &[String], kind| -> Vec<SourceTopic> {
            names.iter().map(|name| SourceTopic { name: name.clone(), kind }).collect()
        };
        let mut topics = of(&self.predictions_topics, EventKind::Predictions);
        topics.extend(of(&self.labels_topics, EventKind::Labels));
        topics
    }

    /// Reports every fault at once.
    pub fn validate(&self) -> Result<(), Error> {
        let mut faults = Vec::new();
        // `auto.commit.enable` is not a consumer's name any more; librdkafka knows aliases of none of the others.
        for (key, why) in self.properties.keys().filter_map(|key| Some((key, why_refused(key)?))) {
            faults.push(format!("`kafka.properties.\"{key}\"` cannot be set: {why}"));
        }
        let mut names: Vec<&String> = self.predictions_topics.iter().chain(&self.labels_topics).collect();
        if names.is_empty() {
            faults.push("no topics are named".into());
        }
        names.sort();
        for (name, next) in names.iter().zip(names.iter().skip(1)) {
            if name == next {
                faults.push(format!("topic `{name}` is named twice"));
            }
        }
        if let Some(dead) = self.dead_letter_topic.as_ref().filter(|dead| names.contains(dead)) {
            faults.push(format!(
                "`kafka.dead_letter_topic` is `{dead}`, which is read: rejected events would go round for ever"
            ));
        }
        if self.flush_bytes == 0 || self.flush_bytes > FLUSH_BYTES_MAX {
            faults.push(format!("`flush.bytes` must be between 1 and {FLUSH_BYTES_MAX}"));
        }
        if self.memory_max < self.flush_bytes {
            faults.push("`memory_max` is smaller than `flush.bytes`".into());
        }
        if faults.is_empty() { Ok(()) } else { Err(Error::Settings(faults)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_property_that_would_break_the_chain_is_refused_and_others_are_not() {
        for key in ["group.id", "enable.auto.commit"] {
            let properties = BTreeMap::from([(key.to_owned(), "x".to_owned())]);
            let fault = CollectorSettings { properties, ..CollectorSettings::default() }.validate().unwrap_err();
            assert!(fault.to_string().contains(key), "{fault}");
        }
        let properties = BTreeMap::from([("security.protocol".to_owned(), "ssl".to_owned())]);
        assert!(CollectorSettings { properties, ..CollectorSettings::default() }.validate().is_ok());
    }

    #[test]
    fn all_faults_are_reported_at_once() {
        let settings = CollectorSettings {
            labels_topics: vec!["driftline.predictions".into()],
            flush_bytes: 0,
            dead_letter_topic: Some("driftline.predictions".into()),
            ..CollectorSettings::default()
        };
        let Err(Error::Settings(faults)) = settings.validate() else { panic!("these settings cannot work") };
        assert_eq!(faults.len(), 3, "{faults:?}");
    }
}
