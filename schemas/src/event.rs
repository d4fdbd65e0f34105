//! Events as they arrive: their kinds, their limits, and the closed list of reasons why one cannot be used.
use serde::{Deserialize, Serialize};

use crate::clock::{MINUTE, Micros};

/// The largest record that is decoded; a larger one is `too_large`. Larger lets one record fill a flush; smaller
/// refuses the batches that producers send as one JSON array.
pub const RECORD_BYTES_MAX: usize = 1 << 20;
/// The longest prediction id. Every id is held in history, filters and joins, so its length is memory.
pub const PREDICTION_ID_BYTES_MAX: usize = 128;
/// The longest model name, percent-encoded: it becomes a folder, `model_name=…`, and file systems allow 255 bytes to one.
pub const MODEL_NAME_ENCODED_MAX: usize = 240;
/// The deepest nesting of objects and arrays in an event.
pub const DEPTH_MAX: usize = 32;
/// Event times before this are `bad_timestamp`: 2000-01-01T00:00:00Z. They are seconds read as milliseconds, or unset clocks.
pub const EVENT_TIME_MIN: Micros = 946_684_800_000_000;
/// How far an event's time may lie after its raw object's `written_at`. Larger lets a wrong clock run further ahead.
pub const MAX_SKEW: Micros = 10 * MINUTE;

/// What a topic carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EventKind {
    /// Predictions of models.
    Predictions,
    /// The truth that came later.
    Labels,
    /// Predictions with an optional inline `label`: the lines of a reference file. Never a topic.
    Reference,
}

impl EventKind {
    /// The word used in telemetry and in messages.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Predictions => "predictions",
            Self::Labels => "labels",
            Self::Reference => "reference",
        }
    }
}

/// Why an event was rejected. The list is closed: every count by reason uses these words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// The record has no value (a tombstone), or one of no bytes.
    Empty,
    /// The value is not UTF-8.
    NotUtf8,
    /// The value is not JSON; bare `NaN` and `Infinity` are not.
    NotJson,
    /// JSON, but not an object (nor an array of objects).
    NotAnObject,
    /// Nested deeper than [`DEPTH_MAX`].
    TooDeep,
    /// A top-level field occurs twice.
    DuplicateKey,
    /// A required field is absent or empty.
    MissingField,
    /// A field has a type, or a value, that it cannot have.
    WrongType,
    /// A time cannot be read, or is before 2000-01-01.
    BadTimestamp,
    /// The event's time is more than [`MAX_SKEW`] after its raw object's `written_at`.
    FutureTimestamp,
    /// A number is too large for a double.
    NotFinite,
    /// The prediction id is longer than [`PREDICTION_ID_BYTES_MAX`].
    IdTooLong,
    /// The record is larger than [`RECORD_BYTES_MAX`].
    TooLarge,
}

impl Reason {
    /// Every reason, in the order of declaration.
    pub const ALL: [Self; 13] = [
        Self::Empty,
        Self::NotUtf8,
        Self::NotJson,
        Self::NotAnObject,
        Self::TooDeep,
        Self::DuplicateKey,
        Self::MissingField,
        Self::WrongType,
        Self::BadTimestamp,
        Self::FutureTimestamp,
        Self::NotFinite,
        Self::IdTooLong,
        Self::TooLarge,
    ];

    /// The word in tables, counts and telemetry.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Empty => "empty",
            Self::NotUtf8 => "not_utf8",
            Self::NotJson => "not_json",
            Self::NotAnObject => "not_an_object",
            Self::TooDeep => "too_deep",
            Self::DuplicateKey => "duplicate_key",
            Self::MissingField => "missing_field",
            Self::WrongType => "wrong_type",
            Self::BadTimestamp => "bad_timestamp",
            Self::FutureTimestamp => "future_timestamp",
            Self::NotFinite => "not_finite",
            Self::IdTooLong => "id_too_long",
            Self::TooLarge => "too_large",
        }
    }
}

impl std::fmt::Display for Reason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Whether a model name is too long to be a folder: every byte but `A-Za-z0-9._-` takes three there.
#[inline]
pub fn is_too_long(model_name: &str) -> bool {
    if model_name.len() * 3 <= MODEL_NAME_ENCODED_MAX {
        return false;
    }
    let encoded = |byte: u8| if byte.is_ascii_alphanumeric() || b"._-".contains(&byte) { 1 } else { 3 };
    model_name.bytes().map(encoded).sum::<usize>() > MODEL_NAME_ENCODED_MAX
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_is_written_as_its_word() {
        for reason in Reason::ALL {
            assert_eq!(serde_json::to_string(&reason).unwrap(), format!("\"{reason}\""));
        }
    }
}
