//! What the collector says of itself: one function for each thing that happens, writing its log line and its counters.
use std::time::Duration;

use driftline_schemas::position::TopicPartition;
use opentelemetry::KeyValue;
use opentelemetry::metrics::{Counter, Gauge, Histogram};

use crate::batch::SealedBatch;
use crate::error::Error;
use crate::flush::EncodedObject;

/// The collector's instruments. Taken from the global meter provider when made, so that is set up first.
#[derive(Debug, Clone)]
pub(crate) struct Telemetry {
    received: Counter<u64>,
    accepted: Counter<u64>,
    rejected: Counter<u64>,
    unknown_fields: Counter<u64>,
    lag: Gauge<i64>,
    flushes: Counter<u64>,
    flush_duration: Histogram<f64>,
    raw_bytes: Counter<u64>,
    buffered_bytes: Gauge<u64>,
    adopted: Counter<u64>,
    paused: Counter<u64>,
    dead_letters: Counter<u64>,
    letters_given_up: Counter<u64>,
}

impl Default for Telemetry {
    fn default() -> Self {
        let meter = opentelemetry::global::meter("driftline");
        let telemetry = Self {
            received: meter
                .u64_counter("driftline_events_received")
                .with_description("events that were decoded")
                .build(),
            accepted: meter
                .u64_counter("driftline_events_accepted")
                .with_description("events that became rows")
                .build(),
            rejected: meter
                .u64_counter("driftline_events_rejected")
                .with_description("events that were rejected, by reason")
                .build(),
            unknown_fields: meter
                .u64_counter("driftline_unknown_fields")
                .with_description("unknown top-level fields that were ignored")
                .build(),
            lag: meter
                .i64_gauge("driftline_collector_lag_events")
                .with_description("offsets at the broker that are not yet in a raw chain")
                .build(),
            flushes: meter.u64_counter("driftline_flushes").with_description("raw objects that were committed").build(),
            flush_duration: meter
                .f64_histogram("driftline_flush_duration")
                .with_description("from a full buffer to its committed object")
                .with_unit("s")
                .with_boundaries(driftline_store::SECONDS.to_vec())
                .build(),
            raw_bytes: meter.u64_counter("driftline_raw_bytes").with_description("bytes of raw objects").build(),
            buffered_bytes: meter
                .u64_gauge("driftline_buffered_bytes")
                .with_description("bytes in buffers and in flushes under way")
                .build(),
            adopted: meter
                .u64_counter("driftline_slots_lost")
                .with_description("slots of a chain that another writer had first")
                .build(),
            paused: meter
                .u64_counter("driftline_partitions_paused")
                .with_description("times that a partition was paused for want of memory")
                .build(),
            dead_letters: meter
                .u64_counter("driftline_dead_letters_published")
                .with_description("rejected events that were published to the dead letter topic")
                .build(),
            letters_given_up: meter
                .u64_counter("driftline_dead_letters_given_up")
                .with_description(
                    "rejected events that the dead letter topic did not take; they are in the raw objects",
                )
                .build(),
        };
        // What has never happened is 0, not absent: else its first time would not show as a rate.
        for counter in [&telemetry.adopted, &telemetry.paused, &telemetry.dead_letters, &telemetry.letters_given_up] {
            counter.add(0, &[]);
        }
        telemetry
    }
}

impl Telemetry {
    pub(crate) fn flushed(&self, sealed: &SealedBatch, object: &EncodedObject, took: Duration) {
        let kind = [KeyValue::new("kind", sealed.kind.as_str())];
        let rejected: u64 = sealed.rejected.values().sum();
        self.received.add(sealed.accepted + rejected, &kind);
        self.accepted.add(sealed.accepted, &kind);
        self.unknown_fields.add(sealed.ignored_fields, &kind);
        for (reason, count) in &sealed.rejected {
            let labels = [KeyValue::new("kind", sealed.kind.as_str()), KeyValue::new("reason", reason.as_str())];
            self.rejected.add(*count, &labels);
        }
        self.flushes.add(1, &kind);
        self.flush_duration.record(took.as_secs_f64(), &kind);
        self.raw_bytes.add(object.bytes.len() as u64, &kind);
        tracing::debug!(
            partition = %sealed.partition, from = sealed.from, to = sealed.to, accepted = sealed.accepted, rejected,
            bytes = object.bytes.len(), took_ms = took.as_millis() as u64, "flushed"
        );
    }

    pub(crate) fn slot_lost(&self, partition: &TopicPartition, from: i64, to: i64) {
        self.adopted.add(1, &[]);
        tracing::info!(%partition, from, to, "another writer had the slot; going on at its end");
    }

    pub(crate) fn flush_failed(&self, partition: &TopicPartition, error: &Error) {
        tracing::warn!(%partition, %error, "the store does not take a flush; trying on, nothing is lost");
    }

    pub(crate) fn store_recovered(&self, partition: &TopicPartition) {
        tracing::info!(%partition, "the store takes flushes again");
    }

    pub(crate) fn assigned(&self, partition: &TopicPartition, chain: &str, from: i64) {
        tracing::info!(%partition, chain, from, "reading");
    }

    pub(crate) fn created_again(&self, partition: &TopicPartition, chain: &str, dropped_records: u64) {
        tracing::warn!(%partition, chain, dropped_records, "the topic was deleted and created again; it is another one, with a chain of its own");
    }

    pub(crate) fn halted(&self, partition: &TopicPartition, why: &str) {
        tracing::error!(%partition, why, "halted");
    }

    pub(crate) fn postponed(&self, partition: &TopicPartition, why: &str) {
        tracing::warn!(%partition, why, "cannot tell yet where to read from; asking again");
    }

    pub(crate) fn revoked(&self, partition: &TopicPartition, dropped_records: u64) {
        // A gauge keeps its last value: without this a partition that has moved on would lag here for ever.
        self.lag(partition, 0);
        tracing::info!(%partition, dropped_records, "no longer ours; what was not flushed is read again by its new owner");
    }

    pub(crate) fn repositioned(&self, partition: &TopicPartition, offset: i64) {
        tracing::debug!(%partition, offset, "reading on from the chain's end");
    }

    pub(crate) fn paused(&self, partition: &TopicPartition) {
        self.paused.add(1, &[]);
        tracing::debug!(%partition, "paused: the buffers are full");
    }

    pub(crate) fn resumed(&self, partition: &TopicPartition) {
        tracing::debug!(%partition, "resumed");
    }

    pub(crate) fn facts_failed(&self, chain: &str, error: &Error) {
        tracing::warn!(chain, %error, "could not state how far a partition has been read");
    }

    pub(crate) fn refused(&self, why: &str) {
        tracing::warn!(why, "the brokers refuse; trying again until a person has mended it");
    }

    pub(crate) fn granted(&self) {
        tracing::info!("what the brokers refused is granted; going on");
    }

    pub(crate) fn connected(&self, yes: bool) {
        if yes {
            tracing::info!("the brokers answer");
        } else {
            tracing::warn!("the brokers do not answer; waiting");
        }
    }

    pub(crate) fn caught_up(&self, partitions: usize) {
        tracing::info!(partitions, "caught up");
    }

    pub(crate) fn dead_letters_published(&self, partition: &TopicPartition, count: usize) {
        self.dead_letters.add(count as u64, &[]);
        tracing::debug!(%partition, count, "dead letters published");
    }

    pub(crate) fn dead_letters_failed(&self, partition: &TopicPartition, why: &str) {
        tracing::warn!(%partition, why, "dead letters are not published; trying again until they are");
    }

    pub(crate) fn dead_letters_given_up(&self, partition: &TopicPartition, count: usize) {
        self.letters_given_up.add(count as u64, &[]);
        tracing::warn!(%partition, count, "dead letters were never published; they are in the raw objects only");
    }

    pub(crate) fn lag(&self, partition: &TopicPartition, events: i64) {
        let labels = [
            KeyValue::new("topic", partition.topic.clone()),
            KeyValue::new("partition", i64::from(partition.partition)),
        ];
        self.lag.record(events, &labels);
    }

    pub(crate) fn buffered(&self, bytes: usize) {
        self.buffered_bytes.record(bytes as u64, &[]);
    }
}
