//! The same events for a run in which nobody knows beforehand where a record will lie: brokers that die, topics that grow.
//!
//! The truth is asked for when the brokers have acknowledged the records, and for those only.

use std::collections::BTreeMap;

use rand::SeedableRng;
use rand::rngs::StdRng;

use super::{Events, Options, Outgoing, Topic, Truth, arriving, choose_partition};

/// Where a broker put a record: its partition, and its offset there.
pub type Place = (i32, i64);

/// The records of a run in their order of arrival.
#[derive(Clone, Debug)]
pub struct Stream {
    options: Options,
    records: Vec<Outgoing>,
}

/// A record to be produced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unplaced {
    /// Its topic.
    pub topic: Topic,
    /// The partition that its producer chooses.
    pub partition: i32,
    /// Its key.
    pub key: Option<Vec<u8>>,
    /// Its value; `None` is a tombstone.
    pub payload: Option<Vec<u8>>,
}

impl Stream {
    /// The same options give the same records.
    ///
    /// # Panics
    /// As [`super::generate`].
    pub fn new(options: &Options) -> Self {
        let mut rng = StdRng::seed_from_u64(options.seed);
        Stream { records: arriving(options, &mut rng), options: options.clone() }
    }

    /// How many records there are.
    pub fn len(&self) -> usize {
        self.records.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// The record at a place in the order of arrival, for topics that have so many partitions by now.
    pub fn record(&self, at: usize, predictions: i32, labels: i32) -> Unplaced {
        let event = &self.records[at];
        let mut rng = StdRng::seed_from_u64(self.options.seed ^ (at as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let now = Options {
            prediction_partitions: predictions,
            label_partitions: labels,
            models: vec![],
            ..self.options.clone()
        };
        let (key, partition) = choose_partition(event, &now, &mut rng);
        Unplaced { topic: event.topic, partition, key, payload: event.payload.clone() }
    }

    /// What must come of the records that have been acknowledged, by their place in the order of arrival.
    pub fn truth(&self, acknowledged: &BTreeMap<usize, Place>) -> Truth {
        let mut events = Events::default();
        for (at, (partition, offset)) in acknowledged {
            let record = &self.records[*at];
            events.take(record.topic, *partition, *offset, record.elements.clone());
        }
        events.judge(&self.options)
    }
}

impl Truth {
    /// The truth of two runs with different models that share their topics.
    #[must_use]
    pub fn and(mut self, other: Truth) -> Truth {
        for (key, account) in other.partitions {
            let sum = self.partitions.entry(key).or_default();
            sum.records += account.records;
            sum.accepted += account.accepted;
            for (reason, count) in account.rejected {
                *sum.rejected.entry(reason).or_default() += count;
            }
        }
        self.labels.extend(other.labels);
        self.windows.extend(other.windows);
        self.rows.extend(other.rows);
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::generator::{ModelOptions, Task, generate};

    #[test]
    fn the_truth_of_a_stream_is_that_of_a_run_with_the_same_places() {
        let options = Options { predictions: 300, ..Options::default() };
        let run = generate(&options);
        let stream = Stream::new(&options);
        assert_eq!(stream.len(), run.records.len());
        let places = run.records.iter().map(|record| (record.partition, record.offset)).enumerate().collect();
        assert_eq!(stream.truth(&places), run.truth);
        for (at, record) in run.records.iter().enumerate() {
            assert_eq!(stream.record(at, 4, 3).payload, record.payload);
        }
    }

    #[test]
    fn what_was_not_acknowledged_counts_for_nothing() {
        let options = Options { predictions: 100, ..Options::default() };
        let none = Stream::new(&options).truth(&BTreeMap::new());
        assert!(none.rows.is_empty() && none.windows.is_empty());
        assert!(none.partitions.len() == 7 && none.partitions.values().all(|account| account.records == 0));
    }

    #[test]
    fn a_key_stays_in_its_partition_and_a_topic_that_grows_gets_more() {
        let stream = Stream::new(&Options { predictions: 200, ..Options::default() });
        let mut seen = std::collections::BTreeSet::new();
        for at in 0..stream.len() {
            assert_eq!(stream.record(at, 2, 2), stream.record(at, 2, 2));
            assert!(stream.record(at, 2, 2).partition < 2);
            seen.insert(stream.record(at, 5, 2).partition);
        }
        assert_eq!(seen.len(), 5);
    }

    #[test]
    fn two_runs_that_share_their_topics_add_up() {
        let one = Options { predictions: 100, ..Options::default() };
        let models = vec![ModelOptions::new("other", Task::Binary(["1", "0"]))];
        let other = Options { predictions: 50, models, malformed_of_each: 0, ..Options::default() };
        let (one, other) = (generate(&one).truth, generate(&other).truth);
        let rows = one.rows.len() + other.rows.len();
        let records = |truth: &Truth| truth.partitions.values().map(|account| account.records).sum::<u64>();
        let sum = records(&one) + records(&other);
        let both = one.and(other);
        assert_eq!((both.rows.len(), records(&both)), (rows, sum));
    }
}
