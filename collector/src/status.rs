//! How the collector stands, for `/readyz` and for people who ask.
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Mutex, PoisonError};

use std::time::{Duration, Instant};

use driftline_schemas::clock::Micros;
use driftline_schemas::position::TopicPartition;

/// A refusal that is not repeated for so long is over. Shorter than the client's pauses between tries, and readiness
/// would flap; longer, and a mended right shows late.
const REFUSAL_HOLDS: Duration = Duration::from_secs(60);

/// The state of the collector; written by its parts, read by anyone.
#[derive(Debug, Default)]
pub struct CollectorStatus {
    broker_connected: AtomicBool,
    store_failing: AtomicBool,
    last_commit_at: AtomicI64,
    refused: Mutex<Option<(String, Instant)>>,
    letters_refused: Mutex<Option<(String, Instant)>>,
    partitions: Mutex<BTreeMap<TopicPartition, PartitionStatus>>,
}

/// The state of one assigned partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartitionStatus {
    /// First offset that is not in the chain.
    pub tail: i64,
    /// Next offset to read.
    pub position: i64,
    /// Records before the position are still on their way into the chain.
    pub is_buffered: bool,
    /// The broker's end, once it is known.
    pub broker_end: Option<i64>,
    /// Why the partition is not read, if it is not.
    pub halted: Option<String>,
}

impl PartitionStatus {
    /// Offsets at the broker that have not been read into the chain, once the broker's end is known.
    pub fn lag(&self) -> Option<i64> {
        // A position beyond the tail with nothing in memory passed over offsets that are no records: control records, and
        // those of aborted transactions. They will never be in the chain.
        let done = if self.is_buffered { self.tail } else { self.position };
        self.broker_end.map(|end| (end - done).max(0))
    }
}

impl CollectorStatus {
    /// Whether the brokers answer.
    pub fn broker_connected(&self) -> bool {
        self.broker_connected.load(Ordering::Relaxed)
    }

    /// What the brokers refuse, if they have done so lately: the client keeps asking, so silence means that it is mended.
    pub fn refused(&self) -> Option<String> {
        held(&self.refused)
    }

    /// Why dead letters are not published, if that was so lately. Nothing waits for them: they stay in the raw objects.
    pub fn letters_refused(&self) -> Option<String> {
        held(&self.letters_refused)
    }

    /// Returns whether this is news.
    pub(crate) fn set_refused(&self, why: &str) -> bool {
        refuse(&self.refused, why)
    }

    /// Whether the store takes flushes, as far as is known.
    pub fn store_ok(&self) -> bool {
        !self.store_failing.load(Ordering::Relaxed)
    }

    /// When the last flush was committed; `None` before the first.
    pub fn last_commit_at(&self) -> Option<Micros> {
        Some(self.last_commit_at.load(Ordering::Relaxed)).filter(|time| *time > 0)
    }

    /// Every assigned partition.
    pub fn partitions(&self) -> BTreeMap<TopicPartition, PartitionStatus> {
        self.partitions.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Ready: the brokers answer, the store takes flushes, and no partition is halted.
    pub fn is_ready(&self) -> bool {
        let partitions = self.partitions.lock().unwrap_or_else(PoisonError::into_inner);
        let answers = self.broker_connected() && self.refused().is_none() && self.letters_refused().is_none();
        answers && self.store_ok() && partitions.values().all(|partition| partition.halted.is_none())
    }

    /// Returns whether something had been refused until now.
    pub(crate) fn set_granted(&self) -> bool {
        self.refused.lock().unwrap_or_else(PoisonError::into_inner).take().is_some()
    }

    /// Returns whether this is news.
    pub(crate) fn set_letters_refused(&self, why: &str) -> bool {
        refuse(&self.letters_refused, why)
    }

    pub(crate) fn set_letters_granted(&self) {
        self.letters_refused.lock().unwrap_or_else(PoisonError::into_inner).take();
    }

    /// Returns whether this is news.
    pub(crate) fn set_connected(&self, yes: bool) -> bool {
        self.broker_connected.swap(yes, Ordering::Relaxed) != yes
    }

    pub(crate) fn set_store_ok(&self, yes: bool) -> bool {
        self.store_failing.swap(!yes, Ordering::Relaxed) == yes
    }

    pub(crate) fn set_committed(&self, at: Micros) {
        self.last_commit_at.fetch_max(at, Ordering::Relaxed);
    }

    pub(crate) fn set_partitions(&self, partitions: BTreeMap<TopicPartition, PartitionStatus>) {
        *self.partitions.lock().unwrap_or_else(PoisonError::into_inner) = partitions;
    }
}

fn refuse(refused: &Mutex<Option<(String, Instant)>>, why: &str) -> bool {
    let is_news = held(refused).is_none_or(|known| known != why);
    *refused.lock().unwrap_or_else(PoisonError::into_inner) = Some((why.to_owned(), Instant::now()));
    is_news
}

fn held(refused: &Mutex<Option<(String, Instant)>>) -> Option<String> {
    let refused = refused.lock().unwrap_or_else(PoisonError::into_inner);
    refused.as_ref().filter(|(_, at)| at.elapsed() < REFUSAL_HOLDS).map(|(why, _)| why.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_record_is_no_lag_and_what_is_in_memory_is() {
        let of = |tail, position, is_buffered, broker_end| {
            PartitionStatus { tail, position, is_buffered, broker_end, halted: None }.lag()
        };
        assert_eq!(of(5, 5, false, None), None);
        assert_eq!(of(5, 5, false, Some(9)), Some(4));
        assert_eq!(of(5, 9, false, Some(9)), Some(0), "a partition may end in control records");
        assert_eq!(of(5, 9, true, Some(9)), Some(4), "and in records that are not written yet");
        assert_eq!(of(9, 9, false, Some(5)), Some(0), "an end that is older than the position");
    }
}
