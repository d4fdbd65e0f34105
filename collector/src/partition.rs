//! One assigned partition: its chain's end, what is buffered beyond it, and how it stands with the broker.
use std::time::{Duration, Instant};

use driftline_schemas::clock::Micros;
use driftline_schemas::event::EventKind;
use driftline_schemas::position::TopicPartition;
use driftline_schemas::raw::{FORMAT, Facts};

use crate::batch::PartitionBuffer;
use crate::flush::Appended;
use crate::flusher::{FlushDone, FlushJob};
use crate::source::{ChainTail, PartitionRef, RawRecord, Standing};
use crate::status::PartitionStatus;

/// How long a partition must have been quiet before the broker is asked for its end. Smaller asks in the midst of a
/// stream; larger delays facts.
const QUIET_FOR: Duration = Duration::from_millis(100);

/// The state of one partition in one assignment.
pub(crate) struct Partition {
    pub(crate) name: TopicPartition,
    pub(crate) kind: EventKind,
    pub(crate) generation: u64,
    pub(crate) reading: Reading,
    pub(crate) paused: bool,
    /// When the broker is asked next: for the partition's end, or, if it is not read, whether it can be now.
    pub(crate) ask_at: Instant,
    broker_end: Option<i64>,
}

/// Whether a partition is read.
pub(crate) enum Reading {
    Yes(Box<Progress>),
    /// Waits for a person.
    Halted(String),
    /// Waits for the store or the broker.
    Unknown,
}

/// A partition that is read.
pub(crate) struct Progress {
    pub(crate) tail: ChainTail,
    pub(crate) buffer: PartitionBuffer,
    /// Everything before has been delivered, control records included.
    read_to: i64,
    first_buffered: Option<Instant>,
    flying: Option<i64>,
    at_end_since: Option<Micros>,
    /// The broker has said, since the last record was taken, that the topic is still the chain's.
    is_confirmed: bool,
}

impl Partition {
    pub(crate) fn new(
        name: TopicPartition,
        kind: EventKind,
        generation: u64,
        standing: Standing,
        now: Instant,
    ) -> Self {
        let mut partition =
            Self { name, kind, generation, reading: Reading::Unknown, paused: true, ask_at: now, broker_end: None };
        partition.stand(standing, now);
        partition
    }

    /// Takes a verdict on where to read from. What was buffered is dropped: the chain is the truth.
    pub(crate) fn stand(&mut self, standing: Standing, now: Instant) {
        self.ask_at = now + QUIET_FOR;
        self.reading = match standing {
            Standing::Ready(tail) => Reading::Yes(Box::new(Progress::new(&self.name, self.kind, tail))),
            Standing::Halted(why) => Reading::Halted(why),
            Standing::Unknown(_) => Reading::Unknown,
        };
    }

    pub(crate) fn progress(&self) -> Option<&Progress> {
        match &self.reading {
            Reading::Yes(progress) => Some(progress),
            Reading::Halted(_) | Reading::Unknown => None,
        }
    }

    pub(crate) fn progress_mut(&mut self) -> Option<&mut Progress> {
        match &mut self.reading {
            Reading::Yes(progress) => Some(progress),
            Reading::Halted(_) | Reading::Unknown => None,
        }
    }

    pub(crate) fn on_record(&mut self, record: &RawRecord<'_>, decoded_at: Micros, now: Instant) {
        self.ask_at = now + QUIET_FOR;
        if let Reading::Yes(progress) = &mut self.reading {
            progress.on_record(record, decoded_at, now);
        }
    }

    pub(crate) fn on_progress(&mut self, read_to: Option<i64>, broker_end: i64) {
        self.broker_end = Some(broker_end);
        if let (Reading::Yes(progress), Some(read_to)) = (&mut self.reading, read_to) {
            progress.read_to = progress.read_to.max(read_to);
        }
    }

    /// Takes the buffer for a flush, if there is anything to flush, it is of the chain's topic, and none is under way.
    pub(crate) fn take_flush(&mut self, at: PartitionRef) -> Option<FlushJob> {
        let generation = self.generation;
        let (name, kind) = (self.name.clone(), self.kind);
        let progress = self.progress_mut().filter(|progress| progress.is_flushable())?;
        let next = progress.buffer.next();
        let buffer = std::mem::replace(&mut progress.buffer, PartitionBuffer::new(name, kind, next));
        progress.flying = Some(next);
        progress.first_buffered = None;
        Some(FlushJob {
            at,
            generation,
            chain: progress.tail.chain.clone(),
            topic_id: progress.tail.topic_id.clone(),
            bytes: buffer.bytes(),
            buffer,
            not_before: progress.tail.written_at.unwrap_or(Micros::MIN),
        })
    }

    /// Takes the answer to a flush. `Some(offset)`: another writer went elsewhere, and reading goes on from there.
    pub(crate) fn on_flushed(&mut self, done: FlushDone, now: Instant) -> Option<i64> {
        let (name, kind) = (self.name.clone(), self.kind);
        self.ask_at = now;
        // A partition that was told to stand elsewhere meanwhile knows nothing of this flush.
        let progress = self.progress_mut().filter(|progress| progress.flying == Some(done.to))?;
        progress.flying = None;
        match done.appended {
            Appended::Ours => {
                progress.tail.to = done.to;
                progress.tail.last_from = Some(done.from);
                progress.tail.written_at = Some(done.written_at);
                None
            }
            // C2: the same offsets give the same rows, so what is buffered beyond them is as good as it was.
            Appended::Theirs(tail) if tail.to == done.to => {
                progress.tail = tail;
                None
            }
            Appended::Theirs(tail) => {
                let to = tail.to;
                *progress = Progress::new(&name, kind, tail);
                Some(to)
            }
        }
    }

    /// Takes the broker's end, asked for at `asked_at`. Facts, if the partition has been read to it and nothing waits.
    pub(crate) fn on_broker_end(&mut self, broker_end: i64, asked_at: Micros) -> Option<Facts> {
        self.broker_end = Some(broker_end);
        let progress = self.progress_mut().filter(|progress| progress.is_idle())?;
        let position = progress.position();
        if position != broker_end {
            progress.at_end_since = None;
            return None;
        }
        Some(Facts {
            format: FORMAT,
            position,
            tail: progress.tail.to,
            tail_from: progress.tail.last_from,
            broker_end,
            confirmed_at: asked_at,
            at_end_since: *progress.at_end_since.get_or_insert(asked_at),
        })
    }

    pub(crate) fn status(&self) -> PartitionStatus {
        let halted = match &self.reading {
            Reading::Yes(_) => None,
            Reading::Halted(why) => Some(why.clone()),
            Reading::Unknown => Some("waiting for the store or the broker".to_owned()),
        };
        let (tail, position) = self.progress().map_or((0, 0), |progress| (progress.tail.to, progress.position()));
        let is_buffered = self.progress().is_some_and(|progress| !progress.is_idle());
        PartitionStatus { tail, position, is_buffered, broker_end: self.broker_end, halted }
    }
}

impl Progress {
    fn new(name: &TopicPartition, kind: EventKind, tail: ChainTail) -> Self {
        Self {
            buffer: PartitionBuffer::new(name.clone(), kind, tail.to),
            read_to: tail.to,
            tail,
            first_buffered: None,
            flying: None,
            at_end_since: None,
            is_confirmed: false,
        }
    }

    fn on_record(&mut self, record: &RawRecord<'_>, decoded_at: Micros, now: Instant) {
        self.buffer.push(record, decoded_at);
        if self.buffer.records() > 0 {
            self.first_buffered.get_or_insert(now);
        }
        self.at_end_since = None;
        self.is_confirmed = false;
    }

    /// The topic is still the chain's: what is buffered was taken from it, for an id never comes again.
    pub(crate) fn confirm(&mut self) {
        self.is_confirmed = true;
    }

    /// Whether what is buffered is known to be of the chain's topic. Without an id nobody can tell.
    pub(crate) fn is_confirmed(&self) -> bool {
        self.is_confirmed || self.tail.topic_id.is_none()
    }

    /// Whether there is something to flush that may be.
    pub(crate) fn is_flushable(&self) -> bool {
        self.can_flush() && self.is_confirmed()
    }

    /// Next offset to read: everything before it is in the chain, in a buffer, or no record.
    pub(crate) fn position(&self) -> i64 {
        self.buffer.next().max(self.read_to)
    }

    pub(crate) fn is_flying(&self) -> bool {
        self.flying.is_some()
    }

    /// Nothing buffered, nothing under way.
    pub(crate) fn is_idle(&self) -> bool {
        self.flying.is_none() && self.buffer.records() == 0
    }

    fn can_flush(&self) -> bool {
        self.flying.is_none() && self.buffer.records() > 0
    }

    pub(crate) fn is_due(&self, bytes: usize, interval: Duration, now: Instant) -> bool {
        let waited = |first: Instant| now.saturating_duration_since(first) >= interval;
        self.can_flush() && (self.buffer.bytes() >= bytes || self.first_buffered.is_some_and(waited))
    }
}
