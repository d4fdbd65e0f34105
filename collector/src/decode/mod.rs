//! Records to events: one file an encoding.
//!
//! **C2**: decoding is pure. What becomes of a record is a function of its bytes, of [`DECODER_VERSION`] and of the
//! `written_at` of its raw object (which only decides `future_timestamp`), never of a model's settings.
mod field;
mod json;
mod known;
mod lines;
mod ordinary;
mod scan;
mod shape;
mod spare;
#[cfg(test)]
mod tests;
mod time;

use std::borrow::Cow;

use driftline_schemas::clock::Micros;
use driftline_schemas::event::Reason;

pub use json::{Decoder, Sink};
pub use lines::{DecodedLines, RejectedLine, decode_json_lines};

/// The rules below, frozen: a change of what any record becomes is a new version.
pub const DECODER_VERSION: u32 = 1;

/// Why an event cannot be used, in one word and in a sentence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejection {
    /// The word, from the closed list.
    pub reason: Reason,
    /// What was wrong, with the name of the field.
    pub detail: String,
}

impl Rejection {
    /// A rejection with its explanation.
    pub fn new(reason: Reason, detail: impl Into<String>) -> Self {
        Self { reason, detail: detail.into() }
    }
}

/// One decoded event, borrowing from the record's bytes. Fields that its kind does not have stay empty.
#[derive(Debug, Default)]
pub struct DecodedEvent<'a> {
    /// 1–128 bytes.
    pub prediction_id: Cow<'a, str>,
    /// At least one byte, at most 240 when percent-encoded.
    pub model_name: Cow<'a, str>,
    /// Microseconds UTC.
    pub event_time: Micros,
    /// Empty if absent.
    pub model_version: Cow<'a, str>,
    /// Canonical text.
    pub prediction: Option<Cow<'a, str>>,
    /// Finite.
    pub score: Option<f64>,
    /// (canonical class, probability), if the field is present.
    pub probabilities: Option<Vec<(Cow<'a, str>, f64)>>,
    /// (name, value), if the field is present.
    pub features: Option<Vec<(Cow<'a, str>, FeatureValue<'a>)>>,
    /// (name, text), if the field is present.
    pub tags: Option<Vec<(Cow<'a, str>, Cow<'a, str>)>>,
    /// (feature, attribution), if the field is present.
    pub attributions: Option<Vec<(Cow<'a, str>, f64)>>,
    /// Milliseconds.
    pub latency_ms: Option<f64>,
    /// In (0, 1].
    pub sampling_rate: Option<f64>,
    /// Where the model ran.
    pub environment: Option<Cow<'a, str>>,
    /// Why the request failed.
    pub error: Option<Cow<'a, str>>,
    /// Canonical text; `None` withdraws an earlier label (or, in a reference, says that there is none).
    pub label: Option<Cow<'a, str>>,
    /// When the labelled prediction was made, microseconds UTC.
    pub prediction_timestamp: Option<Micros>,
    /// Unknown top-level fields that were ignored.
    pub ignored_fields: u64,
}

/// The value of a feature.
#[derive(Debug, Clone, PartialEq)]
pub enum FeatureValue<'a> {
    /// JSON null.
    Null,
    /// A finite number.
    Number(f64),
    /// A string; `true` or `false`; or the JSON text of a nested value.
    Text(Cow<'a, str>),
}
