//! JSON: one object a record, or an array of objects.
//!
//! An ordinary event is read by [`ordinary`]; any other, and any with a fault, here, through `serde_json`. Scalars are kept
//! as slices of the record and judged when the whole object is known to be JSON, so the reason of a rejection does not
//! depend on the order of its fields; maps go straight into the spare room.
use std::borrow::Cow;
use std::fmt;

use driftline_schemas::event::{
    DEPTH_MAX, EventKind, MODEL_NAME_ENCODED_MAX, PREDICTION_ID_BYTES_MAX, RECORD_BYTES_MAX, Reason, is_too_long,
};
use serde::Deserializer as _;
use serde::de::{DeserializeSeed, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::field::{self, Raw, Scalar};
use super::known::{Known, SCALARS};
use super::shape::{Shapes, are_distinct};
use super::spare::{Entries, Spare};
use super::{DecodedEvent, FeatureValue, Rejection, ordinary};

/// Where the events of a record go.
pub trait Sink {
    /// An event that can be used; `source` is its own JSON text, `index` its place in a JSON array, else 0.
    fn accepted(&mut self, index: u32, source: &[u8], event: &DecodedEvent<'_>);
    /// An event that cannot.
    fn rejected(&mut self, index: u32, source: &[u8], rejection: Rejection);
}

/// Decodes JSON records of one kind; keeps its scratch between records.
pub struct Decoder {
    kind: EventKind,
    shapes: Shapes,
    spare: Spare<'static>,
}

impl Decoder {
    /// A decoder of the records of one kind.
    pub fn new(kind: EventKind) -> Self {
        Self { kind, shapes: Shapes::default(), spare: Spare::default() }
    }

    /// Decodes one record; `None` is a tombstone. Every event goes to `sink` exactly once.
    pub fn decode<S: Sink>(&mut self, payload: Option<&[u8]>, sink: &mut S) {
        let bytes = payload.unwrap_or_default();
        match readable(payload) {
            Err(rejection) => sink.rejected(0, bytes, rejection),
            Ok(text) if text.trim_start_matches(SPACE).starts_with('[') => match elements(text) {
                Err(rejection) => sink.rejected(0, bytes, rejection),
                Ok(elements) => {
                    for (index, element) in elements.into_iter().enumerate() {
                        self.decode_event(index as u32, element.get(), sink);
                    }
                }
            },
            Ok(text) => self.decode_event(0, text, sink),
        }
    }

    fn decode_event<'a, S: Sink>(&mut self, index: u32, text: &'a str, sink: &mut S) {
        let mut spare: Spare<'a> = std::mem::take(&mut self.spare);
        let mut decoded = DecodedEvent::default();
        match event(self.kind, text, &mut self.shapes, &mut spare, &mut decoded) {
            Ok(()) => sink.accepted(index, text.as_bytes(), &decoded),
            Err(rejection) => sink.rejected(index, text.as_bytes(), rejection),
        }
        spare.take_back(decoded);
        spare.unknown.clear();
        self.spare = spare.recycle();
    }
}

const SPACE: [char; 4] = [' ', '\t', '\r', '\n'];

fn readable(payload: Option<&[u8]>) -> Result<&str, Rejection> {
    let bytes = payload.ok_or_else(|| Rejection::new(Reason::Empty, "the record has no value"))?;
    if bytes.len() > RECORD_BYTES_MAX {
        let detail = format!("the record has {} bytes, more than {RECORD_BYTES_MAX}", bytes.len());
        return Err(Rejection::new(Reason::TooLarge, detail));
    }
    if bytes.is_empty() {
        return Err(Rejection::new(Reason::Empty, "the record's value has no bytes"));
    }
    // The fast check says only that something is wrong; the other one says where.
    let text = simdutf8::basic::from_utf8(bytes).or_else(|_| std::str::from_utf8(bytes));
    text.map_err(|error| Rejection::new(Reason::NotUtf8, error.to_string()))
}

/// The elements of an array, each with its own text; an array of none is a record of no events.
fn elements(text: &str) -> Result<Vec<&RawValue>, Rejection> {
    serde_json::from_str(text).map_err(|error| not_json(&error))
}

/// The event, read the short way if it is an ordinary one, which cannot nest too deeply.
fn event<'a>(
    kind: EventKind,
    text: &'a str,
    shapes: &mut Shapes,
    spare: &mut Spare<'a>,
    event: &mut DecodedEvent<'a>,
) -> Result<(), Rejection> {
    if ordinary::read(kind, text, shapes, spare, event).is_ok() {
        return Ok(());
    }
    spare.unknown.clear();
    *event = any_event(kind, text, spare)?;
    Ok(())
}

fn any_event<'a>(kind: EventKind, text: &'a str, spare: &mut Spare<'a>) -> Result<DecodedEvent<'a>, Rejection> {
    if nests_too_deeply(text.as_bytes()) {
        return Err(Rejection::new(Reason::TooDeep, format!("nested deeper than {DEPTH_MAX} levels")));
    }
    if !text.trim_start_matches(SPACE).starts_with('{') {
        return Err(match serde_json::from_str::<IgnoredAny>(text) {
            Ok(_) => Rejection::new(Reason::NotAnObject, "an event must be a JSON object"),
            Err(error) => not_json(&error),
        });
    }
    let mut fields = Fields::new(kind, spare);
    let mut json = serde_json::Deserializer::from_str(text);
    json.deserialize_map(&mut fields).map_err(|error| not_json(&error))?;
    json.end().map_err(|error| not_json(&error))?;
    fields.judge()
}

fn not_json(error: &serde_json::Error) -> Rejection {
    let detail = error.to_string();
    let reason = if detail.starts_with("number out of range") { Reason::NotFinite } else { Reason::NotJson };
    Rejection::new(reason, detail)
}

/// Whether objects and arrays nest deeper than [`DEPTH_MAX`]; brackets inside strings do not count.
fn nests_too_deeply(bytes: &[u8]) -> bool {
    // `[` and `{` differ in one bit only. Few brackets cannot nest deeply, and this loop is a vector instruction.
    if bytes.iter().filter(|byte| **byte | 0x20 == b'{').count() <= DEPTH_MAX {
        return false;
    }
    let (mut depth, mut in_string, mut escaped) = (0usize, false, false);
    for byte in bytes {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            _ if in_string => {}
            b'{' | b'[' => {
                depth += 1;
                if depth > DEPTH_MAX {
                    return true;
                }
            }
            b'}' | b']' => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    false
}

/// What has been seen of one object.
struct Fields<'s, 'a> {
    kind: EventKind,
    spare: &'s mut Spare<'a>,
    seen: u32,
    scalars: [Option<Raw<'a>>; SCALARS],
    probabilities: Option<Vec<(Cow<'a, str>, f64)>>,
    features: Option<Vec<(Cow<'a, str>, FeatureValue<'a>)>>,
    tags: Option<Vec<(Cow<'a, str>, Cow<'a, str>)>>,
    attributions: Option<Vec<(Cow<'a, str>, f64)>>,
    ignored: u64,
    duplicate: Option<String>,
    /// The first fault inside a map; faults of scalars come before it.
    map_fault: Option<Rejection>,
}

impl<'s, 'a> Fields<'s, 'a> {
    fn new(kind: EventKind, spare: &'s mut Spare<'a>) -> Self {
        Self {
            kind,
            spare,
            seen: 0,
            scalars: [None; SCALARS],
            probabilities: None,
            features: None,
            tags: None,
            attributions: None,
            ignored: 0,
            duplicate: None,
            map_fault: None,
        }
    }

    fn note_seen(&mut self, known: Known, name: &str) {
        let bit = 1 << known as u32;
        if self.seen & bit != 0 {
            self.duplicate.get_or_insert_with(|| name.to_owned());
        }
        self.seen |= bit;
    }

    fn scalar(&self, known: Known) -> Option<Raw<'a>> {
        self.scalars[known as usize]
    }

    /// The event, or the first thing that is wrong with it. A fault leaves the maps to be dropped.
    fn judge(mut self) -> Result<DecodedEvent<'a>, Rejection> {
        self.check_duplicates()?;
        let mut event = DecodedEvent {
            prediction_id: field::required_text("prediction_id", self.scalar(Known::PredictionId))?,
            model_name: field::required_text("model_name", self.scalar(Known::ModelName))?,
            ignored_fields: self.ignored,
            ..DecodedEvent::default()
        };
        check_length(&event)?;
        event.event_time = field::optional_time("timestamp", self.scalar(Known::Timestamp))?
            .ok_or_else(|| field::missing("timestamp"))?;
        self.judge_prediction(&mut event)?;
        self.judge_label(&mut event)?;
        if let Some(fault) = self.map_fault.take() {
            return Err(fault);
        }
        event.probabilities = self.probabilities.take();
        event.features = self.features.take();
        event.tags = self.tags.take();
        event.attributions = self.attributions.take();
        Ok(event)
    }

    fn check_duplicates(&mut self) -> Result<(), Rejection> {
        let twice = self.duplicate.take().or_else(|| self.spare.repeated_unknown().map(str::to_owned));
        match twice {
            None => Ok(()),
            Some(name) => {
                let shown: String = name.chars().take(64).collect();
                Err(Rejection::new(Reason::DuplicateKey, format!("`{shown}` occurs twice")))
            }
        }
    }

    fn judge_prediction(&self, event: &mut DecodedEvent<'a>) -> Result<(), Rejection> {
        if self.kind == EventKind::Labels {
            return Ok(());
        }
        let version = field::optional_version("model_version", self.scalar(Known::ModelVersion))?;
        event.model_version = version.unwrap_or_default();
        event.prediction = field::optional_class("prediction", self.scalar(Known::Prediction))?;
        event.score = field::optional_number("score", self.scalar(Known::Score))?;
        event.latency_ms = field::optional_number("latency_ms", self.scalar(Known::LatencyMs))?;
        event.sampling_rate = field::optional_number("sampling_rate", self.scalar(Known::SamplingRate))?;
        if let Some(rate) = event.sampling_rate.filter(|rate| *rate <= 0.0 || *rate > 1.0) {
            return Err(field::wrong_type("sampling_rate", "in (0, 1]", &rate.to_string()));
        }
        event.environment = field::optional_text("environment", self.scalar(Known::Environment))?;
        // Many producers write `"error": ""` for a request that went well.
        event.error = field::optional_text("error", self.scalar(Known::Error))?.filter(|text| !text.is_empty());
        let says_something = event.prediction.is_some()
            || event.score.is_some()
            || self.probabilities.as_ref().is_some_and(|classes| !classes.is_empty())
            || event.error.is_some();
        if says_something || self.map_fault.is_some() {
            Ok(())
        } else {
            Err(Rejection::new(
                Reason::MissingField,
                "one of `prediction`, `score`, `probabilities` or `error` is needed",
            ))
        }
    }

    fn judge_label(&self, event: &mut DecodedEvent<'a>) -> Result<(), Rejection> {
        if self.kind == EventKind::Predictions {
            return Ok(());
        }
        if self.kind == EventKind::Labels && self.scalar(Known::Label).is_none() {
            return Err(field::missing("label"));
        }
        event.label = field::optional_class("label", self.scalar(Known::Label))?;
        event.prediction_timestamp =
            field::optional_time("prediction_timestamp", self.scalar(Known::PredictionTimestamp))?;
        Ok(())
    }

    fn read_map<A: MapAccess<'a>>(&mut self, known: Known, access: &mut A) -> Result<(), A::Error> {
        let spare = &mut *self.spare;
        let fault = &mut self.map_fault;
        match known {
            Known::Probabilities => {
                let read = |name: &Cow<'a, str>, raw| number_in("probabilities", name, raw);
                self.probabilities = entries(access, "probabilities", &mut spare.probabilities, fault, read)?;
                for (class, _) in self.probabilities.iter_mut().flatten() {
                    *class = field::canonical_text(std::mem::take(class));
                }
                self.probabilities.iter_mut().for_each(keep_last);
            }
            Known::Attributions => {
                let read = |name: &Cow<'a, str>, raw| number_in("attributions", name, raw);
                self.attributions = entries(access, "attributions", &mut spare.attributions, fault, read)?;
                self.attributions.iter_mut().for_each(keep_last);
            }
            Known::Tags => {
                let read = |name: &Cow<'a, str>, raw| named("tags", name, raw, field::tag);
                self.tags = entries(access, "tags", &mut spare.tags, fault, read)?;
                self.tags.iter_mut().for_each(keep_last);
            }
            _ => {
                let read = |name: &Cow<'a, str>, raw| named("features", name, raw, field::feature).map(Some);
                self.features = entries(access, "features", &mut spare.features, fault, read)?;
                self.features.iter_mut().for_each(keep_last);
            }
        }
        Ok(())
    }
}

fn check_length(event: &DecodedEvent<'_>) -> Result<(), Rejection> {
    if event.prediction_id.len() > PREDICTION_ID_BYTES_MAX {
        let detail =
            format!("`prediction_id` has {} bytes, more than {PREDICTION_ID_BYTES_MAX}", event.prediction_id.len());
        return Err(Rejection::new(Reason::IdTooLong, detail));
    }
    if is_too_long(&event.model_name) {
        let found = format!("one of {} bytes", event.model_name.len());
        return Err(field::wrong_type(
            "model_name",
            &format!("a string of at most {MODEL_NAME_ENCODED_MAX} bytes when percent-encoded"),
            &found,
        ));
    }
    Ok(())
}

/// Judges an entry under its field's name; names the entry only when something is wrong with it.
fn named<'a, T>(
    map: &str,
    name: &str,
    raw: Raw<'a>,
    read: impl Fn(&str, Raw<'a>) -> Result<T, Rejection>,
) -> Result<T, Rejection> {
    read(map, raw).map_err(|rejection| {
        let shown: String = name.chars().take(64).collect();
        Rejection { detail: rejection.detail.replacen(map, &format!("{map}.{shown}"), 1), ..rejection }
    })
}

fn number_in(map: &str, name: &str, raw: Raw<'_>) -> Result<Option<f64>, Rejection> {
    named(map, name, raw, |field, raw| match Scalar::of(field, raw)? {
        Scalar::Null => Ok(None),
        scalar => field::number(field, &scalar).map(Some),
    })
}

/// Of entries with equal names the last stands, as everywhere in JSON; Arrow maps must not repeat a key.
fn keep_last<V>(entries: &mut Vec<(Cow<'_, str>, V)>) {
    if !are_distinct(entries) {
        entries.reverse();
        entries.sort_by(|left, right| left.0.cmp(&right.0));
        entries.dedup_by(|left, right| left.0 == right.0);
    }
}

/// The value of a map field: `None` for null, and for a value that is no object (a fault).
fn entries<'a, A: MapAccess<'a>, V>(
    access: &mut A,
    field: &'static str,
    spare: &mut Entries<'a, V>,
    fault: &mut Option<Rejection>,
    read: impl Fn(&Cow<'a, str>, Raw<'a>) -> Result<Option<V>, Rejection>,
) -> Result<Option<Entries<'a, V>>, A::Error> {
    access.next_value_seed(ObjectSeed { field, entries: std::mem::take(spare), fault, read })
}

struct ObjectSeed<'f, 'a, V, R> {
    field: &'static str,
    entries: Entries<'a, V>,
    fault: &'f mut Option<Rejection>,
    read: R,
}

impl<V, R> ObjectSeed<'_, '_, V, R> {
    fn refuse<T>(self, found: &str) -> Option<T> {
        self.fault.get_or_insert_with(|| field::wrong_type(self.field, "an object", found));
        None
    }
}

impl<'a, V, R> DeserializeSeed<'a> for ObjectSeed<'_, 'a, V, R>
where
    R: Fn(&Cow<'a, str>, Raw<'a>) -> Result<Option<V>, Rejection>,
{
    type Value = Option<Entries<'a, V>>;

    fn deserialize<D: serde::Deserializer<'a>>(self, json: D) -> Result<Self::Value, D::Error> {
        json.deserialize_any(self)
    }
}

impl<'a, V, R> Visitor<'a> for ObjectSeed<'_, 'a, V, R>
where
    R: Fn(&Cow<'a, str>, Raw<'a>) -> Result<Option<V>, Rejection>,
{
    type Value = Option<Entries<'a, V>>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any JSON value")
    }

    fn visit_map<A: MapAccess<'a>>(mut self, mut access: A) -> Result<Self::Value, A::Error> {
        while let Some(Name(name)) = access.next_key_seed(NameSeed)? {
            let raw = Raw(access.next_value::<&'a RawValue>()?.get());
            match (self.read)(&name, raw) {
                Ok(Some(value)) => self.entries.push((name, value)),
                Ok(None) => {}
                Err(rejection) => {
                    self.fault.get_or_insert(rejection);
                }
            }
        }
        Ok(Some(self.entries))
    }

    fn visit_seq<A: SeqAccess<'a>>(self, mut access: A) -> Result<Self::Value, A::Error> {
        while access.next_element::<IgnoredAny>()?.is_some() {}
        Ok(self.refuse("an array"))
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Self::Value, E> {
        Ok(self.refuse("a boolean"))
    }

    fn visit_i64<E>(self, _: i64) -> Result<Self::Value, E> {
        Ok(self.refuse("a number"))
    }

    fn visit_u64<E>(self, _: u64) -> Result<Self::Value, E> {
        Ok(self.refuse("a number"))
    }

    fn visit_f64<E>(self, _: f64) -> Result<Self::Value, E> {
        Ok(self.refuse("a number"))
    }

    fn visit_str<E>(self, _: &str) -> Result<Self::Value, E> {
        Ok(self.refuse("a string"))
    }
}

impl<'a> Visitor<'a> for &mut Fields<'_, 'a> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an event")
    }

    fn visit_map<A: MapAccess<'a>>(self, mut access: A) -> Result<(), A::Error> {
        while let Some(Name(name)) = access.next_key_seed(NameSeed)? {
            let Some(known) = Known::of(self.kind, &name) else {
                access.next_value::<IgnoredAny>()?;
                self.ignored += 1;
                self.spare.unknown.push(name);
                continue;
            };
            self.note_seen(known, &name);
            if (known as usize) < SCALARS {
                self.scalars[known as usize] = Some(Raw(access.next_value::<&'a RawValue>()?.get()));
            } else {
                self.read_map(known, &mut access)?;
            }
        }
        Ok(())
    }
}

/// A key, borrowed unless it has escapes.
struct Name<'a>(Cow<'a, str>);
struct NameSeed;

impl<'a> DeserializeSeed<'a> for NameSeed {
    type Value = Name<'a>;

    fn deserialize<D: serde::Deserializer<'a>>(self, json: D) -> Result<Name<'a>, D::Error> {
        json.deserialize_str(self)
    }
}

impl<'a> Visitor<'a> for NameSeed {
    type Value = Name<'a>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_borrowed_str<E>(self, name: &'a str) -> Result<Name<'a>, E> {
        Ok(Name(Cow::Borrowed(name)))
    }

    fn visit_str<E>(self, name: &str) -> Result<Name<'a>, E> {
        Ok(Name(Cow::Owned(name.to_owned())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn by_serde(kind: EventKind, text: &str) -> Result<DecodedEvent<'_>, Rejection> {
        any_event(kind, text, &mut Spare::default())
    }

    fn ordinary_events() -> impl Strategy<Value = String> {
        let scalar = prop_oneof![
            Just("null".to_owned()),
            Just("true".into()),
            Just("-1e999".into()),
            Just("1.50".into()),
            Just("\"\"".into()),
            Just("\"1.0\"".into()),
            Just("\"true\"".into()),
            "-?[0-9]{1,20}(\\.[0-9]{1,5})?([eE][+-]?[0-9]{1,3})?",
            "\"[a-zé0-9 {}:,]{0,12}\"",
            "\"\\\\[u\"nx/]d83d\"",
            Just("\"2026-01-01T00:00:00.5Z\"".into()),
            Just("1767225600000".into()),
            Just("[1,{}]".into()),
            Just("{".into()),
        ];
        let name = prop_oneof![
            Just("prediction_id"),
            Just("model_name"),
            Just("timestamp"),
            Just("score"),
            Just("prediction"),
            Just("label"),
            Just("model_version"),
            Just("error"),
            Just("latency_ms"),
            Just("features"),
            Just("tags"),
            Just("x"),
            Just("y"),
        ];
        let map_name = prop_oneof![Just("features"), Just("tags"), Just("probabilities"), Just("attributions")];
        let entries = |name| {
            let entry =
                (name, scalar.clone()).prop_map(|(name, value): (&str, String)| format!("\"{name}\" : {value}"));
            proptest::collection::vec(entry, 0..6).prop_map(|entries| format!("{{{}}}", entries.join(" ,")))
        };
        let map = (map_name, entries(prop_oneof![Just("a"), Just("1.0"), Just("1"), Just("bé")].boxed()));
        (entries(name.boxed()), map, any::<bool>()).prop_map(|(object, (name, map), complete)| {
            let more = object.trim_start_matches('{');
            let separator = if more == "}" { "" } else { "," };
            let known = r#""prediction_id":"1","model_name":"m","timestamp":1767225600000,"#;
            format!(" {{{}\"{name}\":{map}{separator}{more}\n", if complete { known } else { "" })
        })
    }

    #[test]
    fn what_producers_write_is_read_the_short_way() {
        let prediction = r#"{"prediction_id":"1","model_name":"m","model_version":3,"timestamp":"2026-01-01T00:00:00.5+01:00","prediction":true,"score":1e-3,"probabilities":{"a":0.25,"b":null},"features":{"x":-1.5,"y":"é","z":null,"w":false},"tags":{"region":"eu"},"latency_ms":12,"sampling_rate":1.0,"environment":null,"error":"","attributions":{},"more":1}"#;
        let label = r#"{"prediction_id":"1","model_name":"m","timestamp":1767225600000,"label":null,"prediction_timestamp":"2026-01-01T00:00:00Z"}"#;
        let mut shapes = Shapes::default();
        for (kind, text) in [(EventKind::Predictions, prediction), (EventKind::Labels, label)] {
            let (spaced, by_serde) =
                (text.replace(':', ": ").replace(',', ", ").replace("00: 00: 00", "00:00:00"), by_serde(kind, text));
            for text in [text, text, &spaced.replace("+01: 00", "+01:00")] {
                let mut event = DecodedEvent::default();
                ordinary::read(kind, text, &mut shapes, &mut Spare::default(), &mut event).unwrap();
                assert_eq!(format!("{event:?}"), format!("{:?}", by_serde.as_ref().unwrap()));
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4000))]
        #[test]
        fn c2_what_the_scanner_reads_is_what_serde_reads(
            texts in proptest::collection::vec(ordinary_events(), 1..4), order in proptest::collection::vec(0..4usize, 1..8),
            kind in 0..3usize,
        ) {
            let kind = [EventKind::Predictions, EventKind::Labels, EventKind::Reference][kind];
            // What is remembered of one event must not change what becomes of another.
            let mut shapes = Shapes::default();
            for text in order.into_iter().map(|at| &texts[at % texts.len()]) {
                let (mut spare, mut event) = (Spare::default(), DecodedEvent::default());
                if ordinary::read(kind, text, &mut shapes, &mut spare, &mut event).is_ok() {
                    let by_serde = by_serde(kind, text).map_err(|rejection| format!("{rejection:?}"));
                    prop_assert_eq!(format!("{event:?}"), format!("{:?}", by_serde.unwrap()));
                }
            }
        }
    }
}
