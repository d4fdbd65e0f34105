//! Events with known truth: records in their order of arrival, and by brute force what must come of them.
//!
//! ```text
//! Options ──► events with their faults ──► records at known positions ──► Generated { records, truth }
//! ```
//!
//! Nothing of Driftline is used here: the rules are written down a second time, so that the tests have an independent judge.

mod events;
mod figures;
mod malformed;
mod options;
mod plan;
mod stream;
mod truth;

use std::collections::BTreeMap;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

pub use events::{LabelEvent, PredictionEvent, Value};
pub use figures::{Figures, Pair};
pub use malformed::REASONS;
pub use options::{Ids, Later, MAX_SKEW_US, ModelOptions, Options, Producers, Shares, Task};
pub use stream::{Place, Stream, Unplaced};
pub use truth::{LabelTerms, PartitionTruth, Row, RowState, Slice, Truth, WindowTruth};

use crate::partitioner::Partitioner;

/// Which of the two source topics.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Topic {
    /// `driftline.predictions`.
    Predictions,
    /// `driftline.labels`.
    Labels,
}

impl Topic {
    fn value_field(self) -> &'static str {
        if self == Topic::Predictions { "prediction" } else { "label" }
    }

    fn number_field(self) -> &'static str {
        if self == Topic::Predictions { "score" } else { "label" }
    }
}

/// Where an event lies in its topic; the order of positions is the order in which ties are broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// Partition.
    pub partition: i32,
    /// Offset in a fresh partition to which the records were written in order, outside transactions.
    pub offset: i64,
    /// Place in a JSON array; 0 for a record that is one event.
    pub index: i32,
}

/// A Kafka record to be produced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Its topic.
    pub topic: Topic,
    /// Its partition, to be given explicitly.
    pub partition: i32,
    /// The offset it must get.
    pub offset: i64,
    /// Its key.
    pub key: Option<Vec<u8>>,
    /// Its value; `None` is a tombstone.
    pub payload: Option<Vec<u8>>,
}

/// A run's records, in their order of arrival, and what must come of them.
#[derive(Clone, Debug, PartialEq)]
pub struct Generated {
    /// To be produced in this order.
    pub records: Vec<Record>,
    /// The judge.
    pub truth: Truth,
}

/// An event, or something that is none, on its way.
#[derive(Clone, Debug)]
struct Outgoing {
    topic: Topic,
    arrival_us: i64,
    key: Option<Vec<u8>>,
    payload: Option<Vec<u8>>,
    elements: Vec<Element>,
}

/// What one event of a record turns out to be.
#[derive(Clone, Debug)]
enum Element {
    Prediction(PredictionEvent),
    Label(LabelEvent),
    Rejected(&'static str),
}

/// Generates a run. The same options give the same bytes.
///
/// # Panics
/// If the options contradict themselves: no model, no partition, or a time span that reaches beyond a label horizon.
pub fn generate(options: &Options) -> Generated {
    let mut rng = StdRng::seed_from_u64(options.seed);
    let outgoing = arriving(options, &mut rng);
    place(outgoing, options, &mut rng)
}

/// The records of a run in their order of arrival, without places.
fn arriving(options: &Options, rng: &mut StdRng) -> Vec<Outgoing> {
    assert!(!options.models.is_empty(), "at least one model");
    assert!(options.prediction_partitions > 0 && options.label_partitions > 0, "at least one partition");
    assert!(
        options.models.iter().all(|model| options.span_secs < model.horizon_secs),
        "windows would become final while events arrive, and what counts would depend on the timing"
    );
    let mut outgoing = plan::events(options, rng);
    outgoing.extend(plan::malformed(options, rng));
    // A stable sort: events that arrive in the same microsecond keep the order in which they were made.
    outgoing.sort_by_key(|event| event.arrival_us);
    batch(outgoing, options, rng)
}

/// Packs neighbours of one topic into JSON arrays, some of them with an element that is rejected.
fn batch(outgoing: Vec<Outgoing>, options: &Options, rng: &mut StdRng) -> Vec<Outgoing> {
    let mut batched = Vec::with_capacity(outgoing.len());
    let mut open: BTreeMap<Topic, (usize, Vec<Outgoing>)> = BTreeMap::new();
    for event in outgoing {
        if let [Element::Rejected(_)] = event.elements[..] {
            batched.push(event);
            continue;
        }
        let topic = event.topic;
        match open.get_mut(&topic) {
            Some((size, events)) => {
                events.push(event);
                if events.len() == *size {
                    let (_, events) = open.remove(&topic).expect("it was just there");
                    batched.push(array(events, rng));
                }
            }
            None if rng.random_bool(options.shares.batched) => {
                open.insert(topic, (rng.random_range(1..=5), vec![event]));
                let (size, events) = open.get(&topic).expect("it was just put there");
                if events.len() == *size {
                    let (_, events) = open.remove(&topic).expect("it is still there");
                    batched.push(array(events, rng));
                }
            }
            None => batched.push(event),
        }
    }
    batched.extend(open.into_values().map(|(_, events)| array(events, rng)));
    batched
}

/// One record of several events; its key is the first one's.
fn array(events: Vec<Outgoing>, rng: &mut StdRng) -> Outgoing {
    let topic = events[0].topic;
    let key = events[0].key.clone();
    let arrival_us = events.iter().map(|event| event.arrival_us).max().unwrap_or_default();
    let mut elements = Vec::new();
    let mut payloads = Vec::new();
    for event in events {
        if rng.random_bool(0.05) {
            let reason = malformed::ELEMENT_REASONS[rng.random_range(0..malformed::ELEMENT_REASONS.len())];
            let serial = rng.random_range(0..1_000_000);
            payloads.push(malformed::payload(reason, topic, serial, rng).expect("elements have a value"));
            elements.push(Element::Rejected(reason));
        }
        payloads.push(event.payload.expect("events have a value"));
        elements.extend(event.elements);
    }
    let mut payload = b"[".to_vec();
    payload.extend(payloads.join(&b','));
    payload.push(b']');
    Outgoing { topic, arrival_us, key, payload: Some(payload), elements }
}

/// Gives every record its partition and offset, and so every event its position.
fn place(outgoing: Vec<Outgoing>, options: &Options, rng: &mut StdRng) -> Generated {
    let mut ends: BTreeMap<(Topic, i32), i64> = BTreeMap::new();
    let (mut records, mut events) = (Vec::with_capacity(outgoing.len()), Events::default());
    for event in outgoing {
        let (key, partition) = choose_partition(&event, options, rng);
        let end = ends.entry((event.topic, partition)).or_default();
        let offset = *end;
        *end += 1;
        events.take(event.topic, partition, offset, event.elements);
        records.push(Record { topic: event.topic, partition, offset, key, payload: event.payload });
    }
    Generated { records, truth: events.judge(options) }
}

/// Events that have their positions.
#[derive(Default)]
struct Events {
    partitions: BTreeMap<(Topic, i32), PartitionTruth>,
    predictions: Vec<(Position, PredictionEvent)>,
    labels: Vec<(Position, LabelEvent)>,
}

impl Events {
    /// The events of one record.
    fn take(&mut self, topic: Topic, partition: i32, offset: i64, elements: Vec<Element>) {
        let account = self.partitions.entry((topic, partition)).or_default();
        account.records += 1;
        for (index, element) in elements.into_iter().enumerate() {
            let position = Position { partition, offset, index: index as i32 };
            match element {
                Element::Rejected(reason) => *account.rejected.entry(reason).or_default() += 1,
                Element::Prediction(event) => {
                    account.accepted += 1;
                    self.predictions.push((position, event));
                }
                Element::Label(event) => {
                    account.accepted += 1;
                    self.labels.push((position, event));
                }
            }
        }
    }

    /// What must come of them. Partitions without a record have their account too.
    fn judge(mut self, options: &Options) -> Truth {
        for (topic, count) in
            [(Topic::Predictions, options.prediction_partitions), (Topic::Labels, options.label_partitions)]
        {
            for partition in 0..count {
                self.partitions.entry((topic, partition)).or_default();
            }
        }
        Truth { partitions: self.partitions, ..truth::judge(options, &self.predictions, &self.labels) }
    }
}

fn choose_partition(event: &Outgoing, options: &Options, rng: &mut StdRng) -> (Option<Vec<u8>>, i32) {
    let count =
        if event.topic == Topic::Predictions { options.prediction_partitions } else { options.label_partitions };
    let partitioner = match (options.producers, event.topic) {
        (Producers::Same(partitioner), _) => Some(partitioner),
        (Producers::Each { predictions, .. }, Topic::Predictions) => Some(predictions),
        (Producers::Each { labels, .. }, Topic::Labels) => Some(labels),
        (Producers::Mixed, _) => [Some(Partitioner::Crc32), Some(Partitioner::Murmur2), None][rng.random_range(0..3)],
    };
    match (partitioner, &event.key) {
        (Some(partitioner), Some(key)) => (Some(key.clone()), partitioner.partition(key, count)),
        _ => (None, rng.random_range(0..count)),
    }
}

#[cfg(test)]
mod tests;
