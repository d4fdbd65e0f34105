//! The text of one event: its model's name, and the label that stands in it.
use std::collections::BTreeMap;

use serde::de::IgnoredAny;
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

/// The elements of a JSON array each stand for themselves; what is none, or broken, stays whole.
pub(super) fn elements(line: Vec<u8>) -> Vec<Vec<u8>> {
    if line.trim_ascii_start().starts_with(b"[")
        && let Ok(elements) = serde_json::from_slice::<Vec<&RawValue>>(&line)
    {
        return elements.into_iter().map(|element| element.get().as_bytes().to_vec()).collect();
    }
    vec![line]
}

/// Whether a text stands anywhere in a line: cheap, and spares most lines the parsing.
pub(super) fn mentions(line: &[u8], text: &str) -> bool {
    std::str::from_utf8(line).is_ok_and(|line| line.contains(text))
}

/// An event that does not name its model gets the one of `--model`, which is given as JSON.
pub(super) fn with_model(event: Vec<u8>, model: &str) -> Vec<u8> {
    match event.trim_ascii_start().strip_prefix(b"{") {
        Some(rest) if !names_model(&event) => {
            let comma: &[u8] = if rest.trim_ascii() == b"}" { b"" } else { b"," };
            [b"{\"model_name\":", model.as_bytes(), comma, rest].concat()
        }
        _ => event,
    }
}

/// Whether an object has a `model_name` of its own, and not only somewhere inside. One that is broken is left as it is.
fn names_model(object: &[u8]) -> bool {
    #[derive(Deserialize)]
    struct TopLevel {
        #[serde(default, deserialize_with = "is_there")]
        model_name: bool,
    }
    if !mentions(object, "\"model_name\"") {
        return false;
    }
    match serde_json::from_slice::<TopLevel>(object) {
        Ok(top_level) => top_level.model_name,
        Err(_) => true,
    }
}

/// A null is there too: the collector says that it is no name.
fn is_there<'de, D: Deserializer<'de>>(value: D) -> Result<bool, D::Error> {
    IgnoredAny::deserialize(value).map(|_| true)
}

/// The label event of a prediction with an inline label, of the prediction's own time unless `label_timestamp` says another.
pub(super) fn inline_label(event: &[u8]) -> Option<Vec<u8>> {
    if !mentions(event, "\"label\"") {
        return None;
    }
    // The values' own text, so that an integer of thirty digits keeps them all.
    let event: BTreeMap<String, &RawValue> = serde_json::from_slice(event).ok()?;
    let text = |name: &str| event.get(name).map(|value| value.get());
    // Inline, null says that there is no label; only a label event can withdraw one.
    let is_said = |value: &&str| *value != "null";
    let label = text("label").filter(is_said)?;
    let (id, model, time) = (text("prediction_id")?, text("model_name")?, text("timestamp")?);
    let at = text("label_timestamp").filter(is_said).unwrap_or(time);
    let label = format!(
        "{{\"prediction_id\":{id},\"model_name\":{model},\"timestamp\":{at},\"label\":{label},\"prediction_timestamp\":{time}}}"
    );
    Some(label.into_bytes())
}
