//! What one field of an event may be. Every function takes the field's JSON text, which is known to be valid JSON.
use std::borrow::Cow;

use driftline_schemas::canonical::canonical;
use driftline_schemas::clock::Micros;
use driftline_schemas::event::{EVENT_TIME_MIN, Reason};

use super::{FeatureValue, Rejection, time};

/// The JSON text of a value.
#[derive(Clone, Copy)]
pub(super) struct Raw<'a>(pub(super) &'a str);

/// A JSON value whose text has been looked at, not yet its type.
pub(super) enum Scalar<'a> {
    Null,
    Bool(bool),
    /// The number's text.
    Number(&'a str),
    Text(Cow<'a, str>),
    /// An object or an array.
    Nested,
}

impl<'a> Scalar<'a> {
    pub(super) fn of(field: &str, raw: Raw<'a>) -> Result<Self, Rejection> {
        match raw.0.as_bytes().first() {
            Some(b'n') => Ok(Self::Null),
            Some(b't') => Ok(Self::Bool(true)),
            Some(b'f') => Ok(Self::Bool(false)),
            Some(b'"') => unescape(field, raw).map(Self::Text),
            Some(b'{' | b'[') => Ok(Self::Nested),
            _ => Ok(Self::Number(raw.0)),
        }
    }

    fn type_name(&self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Bool(_) => "a boolean",
            Self::Number(_) => "a number",
            Self::Text(_) => "a string",
            Self::Nested => "an object or an array",
        }
    }
}

pub(super) fn wrong_type(field: &str, expected: &str, found: &str) -> Rejection {
    Rejection::new(Reason::WrongType, format!("`{field}` must be {expected}, not {found}"))
}

pub(super) fn missing(field: &str) -> Rejection {
    Rejection::new(Reason::MissingField, format!("`{field}` is missing"))
}

/// A string that must be there and not be empty.
pub(super) fn required_text<'a>(field: &str, raw: Option<Raw<'a>>) -> Result<Cow<'a, str>, Rejection> {
    match optional_text(field, raw)? {
        Some(text) if text.is_empty() => Err(Rejection::new(Reason::MissingField, format!("`{field}` is empty"))),
        Some(text) => Ok(text),
        None => Err(missing(field)),
    }
}

pub(super) fn optional_text<'a>(field: &str, raw: Option<Raw<'a>>) -> Result<Option<Cow<'a, str>>, Rejection> {
    let Some(raw) = raw else { return Ok(None) };
    match Scalar::of(field, raw)? {
        Scalar::Null => Ok(None),
        Scalar::Text(text) => Ok(Some(text)),
        other => Err(wrong_type(field, "a string", other.type_name())),
    }
}

/// A string, or a number whose text is taken: model versions are written both ways.
pub(super) fn optional_version<'a>(field: &str, raw: Option<Raw<'a>>) -> Result<Option<Cow<'a, str>>, Rejection> {
    match raw.map(|raw| Scalar::of(field, raw)).transpose()? {
        Some(Scalar::Number(text)) => Ok(Some(Cow::Borrowed(text))),
        _ => optional_text(field, raw),
    }
}

pub(super) fn optional_number(field: &str, raw: Option<Raw<'_>>) -> Result<Option<f64>, Rejection> {
    let Some(raw) = raw else { return Ok(None) };
    match Scalar::of(field, raw)? {
        Scalar::Null => Ok(None),
        scalar => number(field, &scalar).map(Some),
    }
}

pub(super) fn number(field: &str, scalar: &Scalar<'_>) -> Result<f64, Rejection> {
    match scalar {
        Scalar::Number(text) => finite(field, text),
        other => Err(wrong_type(field, "a number", other.type_name())),
    }
}

/// A class, as canonical text.
pub(super) fn optional_class<'a>(field: &str, raw: Option<Raw<'a>>) -> Result<Option<Cow<'a, str>>, Rejection> {
    let Some(raw) = raw else { return Ok(None) };
    match Scalar::of(field, raw)? {
        Scalar::Null => Ok(None),
        Scalar::Nested => Err(wrong_type(field, "a string, a number or a boolean", "an object or an array")),
        scalar => plain_text(field, scalar).map(Some),
    }
}

/// The value of a tag; a null is left out.
pub(super) fn tag<'a>(field: &str, raw: Raw<'a>) -> Result<Option<Cow<'a, str>>, Rejection> {
    match Scalar::of(field, raw)? {
        Scalar::Null => Ok(None),
        Scalar::Text(text) => Ok(Some(text)),
        Scalar::Nested => Err(wrong_type(field, "a string, a number or a boolean", "an object or an array")),
        scalar => plain_text(field, scalar).map(Some),
    }
}

pub(super) fn feature<'a>(field: &str, raw: Raw<'a>) -> Result<FeatureValue<'a>, Rejection> {
    Ok(match Scalar::of(field, raw)? {
        Scalar::Null => FeatureValue::Null,
        Scalar::Bool(value) => FeatureValue::Text(Cow::Borrowed(bool_text(value))),
        Scalar::Number(text) => FeatureValue::Number(finite(field, text)?),
        Scalar::Text(text) => FeatureValue::Text(text),
        Scalar::Nested => FeatureValue::Text(Cow::Borrowed(raw.0)),
    })
}

/// RFC 3339 with an offset, or integer epoch milliseconds; microseconds UTC. `None` if absent or null.
pub(super) fn optional_time(field: &str, raw: Option<Raw<'_>>) -> Result<Option<Micros>, Rejection> {
    let Some(raw) = raw else { return Ok(None) };
    let time = match Scalar::of(field, raw)? {
        Scalar::Null => return Ok(None),
        Scalar::Text(text) => time::rfc3339(&text),
        Scalar::Number(text) => text.parse::<i64>().ok().and_then(|millis| millis.checked_mul(1000)),
        other => return Err(wrong_type(field, "a time (RFC 3339 or epoch milliseconds)", other.type_name())),
    };
    let shown = || raw.0.chars().take(64).collect::<String>();
    match time {
        None => Err(Rejection::new(
            Reason::BadTimestamp,
            format!("`{field}` is {}, neither RFC 3339 with an offset nor integer epoch milliseconds", shown()),
        )),
        Some(time) if time < EVENT_TIME_MIN => {
            Err(Rejection::new(Reason::BadTimestamp, format!("`{field}` is {}, before 2000-01-01", shown())))
        }
        Some(time) => Ok(Some(time)),
    }
}

/// The canonical text of a text that may own its bytes.
pub(super) fn canonical_text(text: Cow<'_, str>) -> Cow<'_, str> {
    match text {
        Cow::Borrowed(text) => canonical(text),
        Cow::Owned(text) => match canonical(&text) {
            Cow::Owned(changed) => Cow::Owned(changed),
            Cow::Borrowed(_) => Cow::Owned(text),
        },
    }
}

fn plain_text<'a>(field: &str, scalar: Scalar<'a>) -> Result<Cow<'a, str>, Rejection> {
    match scalar {
        Scalar::Bool(value) => Ok(Cow::Borrowed(bool_text(value))),
        Scalar::Number(text) => finite(field, text).map(|_| canonical(text)),
        Scalar::Text(text) => Ok(canonical_text(text)),
        other => Err(wrong_type(field, "a string, a number or a boolean", other.type_name())),
    }
}

fn bool_text(value: bool) -> &'static str {
    if value { "true" } else { "false" }
}

fn finite(field: &str, text: &str) -> Result<f64, Rejection> {
    let value = text.parse::<f64>().ok().filter(|value| value.is_finite());
    value.ok_or_else(|| {
        let shown: String = text.chars().take(32).collect();
        Rejection::new(Reason::NotFinite, format!("`{field}` is {shown}, too large for a double"))
    })
}

/// The content of a JSON string; borrowed when it has no escapes.
fn unescape<'a>(field: &str, raw: Raw<'a>) -> Result<Cow<'a, str>, Rejection> {
    let inner = &raw.0[1..raw.0.len() - 1];
    if !inner.as_bytes().contains(&b'\\') {
        return Ok(Cow::Borrowed(inner));
    }
    // The one thing that a valid-looking string can still have: half of a surrogate pair.
    let text = serde_json::from_str::<String>(raw.0);
    text.map(Cow::Owned).map_err(|error| Rejection::new(Reason::NotJson, format!("`{field}`: {error}")))
}
