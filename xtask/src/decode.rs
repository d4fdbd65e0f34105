//! What the collector's own work costs an event, without a broker and without a store: decoding, closing, encoding.
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use driftline_collector::batch::PartitionBuffer;
use driftline_collector::flush;
use driftline_collector::source::RawRecord;
use driftline_schemas::event::EventKind;
use driftline_schemas::position::TopicPartition;

use crate::collect::event;

/// Events of one raw object, about what four partitions share of a million.
const EVENTS_AN_OBJECT: usize = 125_000;

pub(crate) fn run(events: usize) -> Result<()> {
    let start = chrono::DateTime::parse_from_rfc3339("2026-01-01T00:00:00Z")?;
    let now = start.timestamp_micros() + 1_000_000 * events as i64;
    let payloads: Vec<String> = (0..events.min(EVENTS_AN_OBJECT))
        .map(|number| event(start + chrono::Duration::milliseconds(number as i64), number))
        .collect();
    let bytes: usize = payloads.iter().map(String::len).sum();
    let (mut decoding, mut closing, mut encoding) = (Duration::ZERO, Duration::ZERO, Duration::ZERO);
    let (mut done, mut stored) = (0, 0);
    while done < events {
        let mut buffer = PartitionBuffer::new(TopicPartition::new("bench", 0), EventKind::Predictions, 0);
        let began = Instant::now();
        for (offset, payload) in payloads.iter().enumerate() {
            let record = RawRecord { offset: offset as i64, timestamp: Some(now), payload: Some(payload.as_bytes()) };
            buffer.push(&record, now);
        }
        decoding += began.elapsed();
        let began = Instant::now();
        let sealed = buffer.seal(now)?;
        closing += began.elapsed();
        ensure!(
            sealed.accepted == payloads.len() as u64,
            "{} of {} events were accepted",
            sealed.accepted,
            payloads.len()
        );
        let began = Instant::now();
        stored = flush::encode(&sealed, "bench~0", None, "bench")?.bytes.len();
        encoding += began.elapsed();
        done += payloads.len();
    }
    let each = |spent: Duration| spent.as_nanos() as f64 / done as f64;
    println!(
        "decode: {done} events of {} bytes, {} bytes each in the object",
        bytes / payloads.len(),
        stored / payloads.len()
    );
    println!(
        "  decode {:>6.0} ns    close {:>6.0} ns    encode {:>6.0} ns an event",
        each(decoding),
        each(closing),
        each(encoding)
    );
    Ok(())
}
