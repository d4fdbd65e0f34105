//! Files of JSON lines through the same decoder: for `evaluate` and for references.
use arrow::array::RecordBatch;
use driftline_schemas::clock::Micros;
use driftline_schemas::event::{EventKind, Reason};
use driftline_schemas::position::TopicPartition;

use crate::batch::PartitionBuffer;
use crate::error::Error;
use crate::source::RawRecord;

/// Bytes of lines that go into one batch: Arrow's offsets end at 2 GiB. Larger needs more memory at once.
const BATCH_BYTES: usize = 64 << 20;

/// What a file's lines became.
#[derive(Debug)]
pub struct DecodedLines {
    /// Accepted rows in the raw schema of the kind, each batch sorted as a raw object is; `offset` is the number of the
    /// line, from 0.
    pub batches: Vec<RecordBatch>,
    /// Events that became rows.
    pub accepted: u64,
    /// Events that did not, by line.
    pub rejected: Vec<RejectedLine>,
    /// Unknown top-level fields that were ignored.
    pub ignored_fields: u64,
}

/// A line, or an element of an array on it, that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RejectedLine {
    /// Number of the line, from 1, as editors count.
    pub line: u64,
    /// Element of a JSON array, else 0.
    pub index: u32,
    /// Why, in one word.
    pub reason: Reason,
    /// Why, in a sentence.
    pub detail: String,
}

/// Decodes a file of JSON lines. Lines of nothing but blanks are passed over.
///
/// # Inputs
/// `name` stands in the column `topic`; `now` decides what is in the future.
pub fn decode_json_lines(kind: EventKind, name: &str, bytes: &[u8], now: Micros) -> Result<DecodedLines, Error> {
    let mut decoded = DecodedLines { batches: Vec::new(), accepted: 0, rejected: Vec::new(), ignored_fields: 0 };
    let fresh = |line| PartitionBuffer::new(TopicPartition::new(name, 0), kind, line);
    let mut buffer = fresh(0);
    for (line, text) in (0i64..).zip(bytes.split(|byte| *byte == b'\n')) {
        if text.trim_ascii().is_empty() {
            continue;
        }
        buffer.push(&RawRecord { offset: line, timestamp: None, payload: Some(text) }, now);
        if buffer.bytes() > BATCH_BYTES {
            decoded.take(std::mem::replace(&mut buffer, fresh(line + 1)), now)?;
        }
    }
    decoded.take(buffer, now)?;
    Ok(decoded)
}

impl DecodedLines {
    fn take(&mut self, buffer: PartitionBuffer, now: Micros) -> Result<(), Error> {
        let sealed = buffer.seal(now)?;
        self.accepted += sealed.accepted;
        self.ignored_fields += sealed.ignored_fields;
        self.rejected.extend(sealed.rejections.into_iter().map(|event| RejectedLine {
            line: event.offset as u64 + 1,
            index: event.index,
            reason: event.rejection.reason,
            detail: event.rejection.detail,
        }));
        if sealed.accepted > 0 {
            self.batches.push(sealed.batch.slice(0, sealed.accepted as usize));
        }
        Ok(())
    }
}
