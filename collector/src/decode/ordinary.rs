//! The ordinary event, accepted in one pass: no escapes, nothing nested but the maps that an event has, nothing wrong.
//!
//! What is not ordinary, valid or not, is left to `json.rs`, which alone decides what is wrong with an event: this way
//! accepts less than that one and never more or otherwise, so it changes how long a record takes and not what becomes of
//! it. Every value goes straight to its place in the event; nothing is looked at twice.
use std::borrow::Cow;

use driftline_schemas::canonical::canonical;
use driftline_schemas::clock::Micros;
use driftline_schemas::event::{EVENT_TIME_MIN, EventKind, PREDICTION_ID_BYTES_MAX, is_too_long};

use super::known::Known;
use super::scan::{Scanner, Token, Unusual};
use super::shape::{MapShapes, Shape, Shapes};
use super::spare::{Entries, Spare};
use super::{DecodedEvent, FeatureValue, time};

/// Reads `text` into an empty event. After [`Unusual`] the event holds whatever was read.
pub(super) fn read<'a>(
    kind: EventKind,
    text: &'a str,
    shapes: &mut Shapes,
    spare: &mut Spare<'a>,
    event: &mut DecodedEvent<'a>,
) -> Result<(), Unusual> {
    let Shapes { event: shape, maps } = shapes;
    let mut scanner = Scanner::new(text)?;
    let mut seen = 0_u32;
    scanner.object(shape, |scanner, name| {
        let Some(known) = Known::of(kind, name) else {
            scanner.token()?;
            event.ignored_fields += 1;
            spare.unknown.push(Cow::Borrowed(name));
            return Ok(());
        };
        let bit = 1 << known as u32;
        if seen & bit != 0 {
            return Err(Unusual);
        }
        seen |= bit;
        read_field(known, scanner, maps, spare, event)
    })?;
    scanner.end()?;
    let has = |known: Known| seen & (1 << known as u32) != 0;
    let is_complete = match kind {
        EventKind::Labels => has(Known::Label),
        EventKind::Predictions | EventKind::Reference => {
            event.prediction.is_some()
                || event.score.is_some()
                || event.probabilities.as_ref().is_some_and(|classes| !classes.is_empty())
                || event.error.is_some()
        }
    };
    let is_named = has(Known::PredictionId) && has(Known::ModelName) && has(Known::Timestamp);
    if is_complete && is_named && spare.unknown_are_distinct() { Ok(()) } else { Err(Unusual) }
}

fn read_field<'a>(
    known: Known,
    scanner: &mut Scanner<'a>,
    maps: &mut MapShapes,
    spare: &mut Spare<'a>,
    event: &mut DecodedEvent<'a>,
) -> Result<(), Unusual> {
    match known {
        Known::PredictionId => event.prediction_id = name(scanner, |id| id.len() <= PREDICTION_ID_BYTES_MAX)?,
        Known::ModelName => event.model_name = name(scanner, |name| !is_too_long(name))?,
        Known::Timestamp => event.event_time = optional_time(scanner)?.ok_or(Unusual)?,
        Known::ModelVersion => {
            event.model_version = match scanner.token()? {
                Token::Null => Cow::Borrowed(""),
                Token::Text(text) | Token::Number { text, .. } => Cow::Borrowed(text),
                Token::Bool(_) => return Err(Unusual),
            }
        }
        Known::Prediction => event.prediction = plain_text(scanner)?,
        Known::Score => event.score = optional_number(scanner)?,
        Known::LatencyMs => event.latency_ms = optional_number(scanner)?,
        Known::SamplingRate => {
            event.sampling_rate = optional_number(scanner)?;
            if event.sampling_rate.is_some_and(|rate| rate <= 0.0 || rate > 1.0) {
                return Err(Unusual);
            }
        }
        Known::Environment => event.environment = optional_text(scanner)?,
        // Many producers write `"error": ""` for a request that went well.
        Known::Error => event.error = optional_text(scanner)?.filter(|text| !text.is_empty()),
        Known::Label => event.label = plain_text(scanner)?,
        Known::PredictionTimestamp => event.prediction_timestamp = optional_time(scanner)?,
        Known::Probabilities => {
            let room = (&mut maps.probabilities, &mut spare.probabilities);
            event.probabilities = map(scanner, room, canonical, optional_number)?;
        }
        Known::Attributions => {
            let room = (&mut maps.attributions, &mut spare.attributions);
            event.attributions = map(scanner, room, Cow::Borrowed, optional_number)?;
        }
        Known::Features => {
            let room = (&mut maps.features, &mut spare.features);
            event.features = map(scanner, room, Cow::Borrowed, feature)?;
        }
        Known::Tags => event.tags = map(scanner, (&mut maps.tags, &mut spare.tags), Cow::Borrowed, tag)?,
    }
    Ok(())
}

/// An object of scalars; `None` for null. Entries whose value is `None` are left out.
#[inline]
fn map<'a, V>(
    scanner: &mut Scanner<'a>,
    (shape, spare): (&mut Shape, &mut Entries<'a, V>),
    spell: impl Fn(&'a str) -> Cow<'a, str>,
    value: impl Fn(&mut Scanner<'a>) -> Result<Option<V>, Unusual>,
) -> Result<Option<Entries<'a, V>>, Unusual> {
    if scanner.takes_null()? {
        return Ok(None);
    }
    let mut entries = std::mem::take(spare);
    let read = scanner.object(shape, |scanner, name| {
        if let Some(value) = value(scanner)? {
            entries.push((spell(name), value));
        }
        Ok(())
    });
    // Of entries with equal names the last stands; the other way sees to that.
    if read.is_ok_and(|read| shape.are_distinct(read, &entries)) {
        return Ok(Some(entries));
    }
    entries.clear();
    *spare = entries;
    Err(Unusual)
}

#[inline]
fn name<'a>(scanner: &mut Scanner<'a>, fits: impl Fn(&str) -> bool) -> Result<Cow<'a, str>, Unusual> {
    match scanner.token()? {
        Token::Text(text) if !text.is_empty() && fits(text) => Ok(Cow::Borrowed(text)),
        _ => Err(Unusual),
    }
}

#[inline]
fn optional_text<'a>(scanner: &mut Scanner<'a>) -> Result<Option<Cow<'a, str>>, Unusual> {
    match scanner.token()? {
        Token::Null => Ok(None),
        Token::Text(text) => Ok(Some(Cow::Borrowed(text))),
        Token::Bool(_) | Token::Number { .. } => Err(Unusual),
    }
}

#[inline]
fn optional_number(scanner: &mut Scanner<'_>) -> Result<Option<f64>, Unusual> {
    match scanner.token()? {
        Token::Null => Ok(None),
        Token::Number { value, .. } => Ok(Some(value)),
        Token::Bool(_) | Token::Text(_) => Err(Unusual),
    }
}

#[inline]
fn optional_time(scanner: &mut Scanner<'_>) -> Result<Option<Micros>, Unusual> {
    let time = match scanner.token()? {
        Token::Null => return Ok(None),
        Token::Text(text) => time::rfc3339(text),
        Token::Number { text, .. } => text.parse::<i64>().ok().and_then(|millis| millis.checked_mul(1000)),
        Token::Bool(_) => None,
    };
    time.filter(|time| *time >= EVENT_TIME_MIN).map(Some).ok_or(Unusual)
}

/// A class, or the value of a tag: canonical text, `None` for null.
#[inline]
fn plain_text<'a>(scanner: &mut Scanner<'a>) -> Result<Option<Cow<'a, str>>, Unusual> {
    Ok(match scanner.token()? {
        Token::Null => None,
        Token::Bool(value) => Some(Cow::Borrowed(bool_text(value))),
        Token::Number { text, .. } | Token::Text(text) => Some(canonical(text)),
    })
}

/// A string stays as it is written: a tag is no class.
#[inline]
fn tag<'a>(scanner: &mut Scanner<'a>) -> Result<Option<Cow<'a, str>>, Unusual> {
    Ok(match scanner.token()? {
        Token::Null => None,
        Token::Bool(value) => Some(Cow::Borrowed(bool_text(value))),
        Token::Number { text, .. } => Some(canonical(text)),
        Token::Text(text) => Some(Cow::Borrowed(text)),
    })
}

#[inline]
fn feature<'a>(scanner: &mut Scanner<'a>) -> Result<Option<FeatureValue<'a>>, Unusual> {
    Ok(Some(match scanner.token()? {
        Token::Null => FeatureValue::Null,
        Token::Bool(value) => FeatureValue::Text(Cow::Borrowed(bool_text(value))),
        Token::Number { value, .. } => FeatureValue::Number(value),
        Token::Text(text) => FeatureValue::Text(Cow::Borrowed(text)),
    }))
}

fn bool_text(value: bool) -> &'static str {
    if value { "true" } else { "false" }
}
