//! Events as producers mean them, and the many spellings in which JSON may carry them.

use chrono::{DateTime, FixedOffset, SecondsFormat, Utc};
use rand::Rng;
use rand::rngs::StdRng;

/// What a prediction or a label says.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// A class, in canonical text.
    Class(String),
    /// A number of a regression.
    Number(f64),
    /// The withdrawal of a label.
    Null,
}

impl Value {
    /// The class in canonical text, if it is one.
    pub fn class(&self) -> Option<&str> {
        if let Value::Class(class) = self { Some(class) } else { None }
    }

    /// The number, if it is one.
    pub fn number(&self) -> Option<f64> {
        if let Value::Number(number) = self { Some(*number) } else { None }
    }
}

/// A prediction event's fields, as far as the truth depends on them.
#[derive(Clone, Debug, PartialEq)]
pub struct PredictionEvent {
    /// Model name.
    pub model: String,
    /// Model version.
    pub version: String,
    /// Prediction id.
    pub id: String,
    /// Event time, microseconds UTC.
    pub time_us: i64,
    /// `prediction`, if given.
    pub prediction: Option<Value>,
    /// `score`, if given.
    pub score: Option<f64>,
    /// `probabilities`, if given.
    pub probabilities: Vec<(String, f64)>,
    /// `error`, for a request that failed.
    pub error: Option<String>,
    /// `tags`.
    pub tags: Vec<(String, String)>,
}

/// A label event's fields.
#[derive(Clone, Debug, PartialEq)]
pub struct LabelEvent {
    /// Model name.
    pub model: String,
    /// Prediction id.
    pub id: String,
    /// Label time, microseconds UTC.
    pub time_us: i64,
    /// The truth, or its withdrawal.
    pub label: Value,
    /// `prediction_timestamp`, microseconds UTC: names the only window in which the label applies.
    pub hint_us: Option<i64>,
}

/// The JSON of a prediction event, in one of its spellings.
pub(super) fn prediction_json(event: &PredictionEvent, rng: &mut StdRng) -> String {
    let mut fields = vec![
        ("prediction_id", text(&event.id)),
        ("model_name", text(&event.model)),
        ("model_version", text(&event.version)),
        ("timestamp", spell_time(event.time_us, rng)),
    ];
    if let Some(prediction) = &event.prediction {
        fields.push(("prediction", spell_value(prediction, rng)));
    }
    if let Some(score) = event.score {
        fields.push(("score", number(score)));
    }
    if !event.probabilities.is_empty() {
        fields
            .push(("probabilities", object(event.probabilities.iter().map(|(class, p)| (class.as_str(), number(*p))))));
    }
    if let Some(error) = &event.error {
        fields.push(("error", text(error)));
    }
    let amount = f64::from(rng.random_range(0..100_000)) / 100.0;
    let age = if rng.random_bool(0.1) { "null".to_owned() } else { rng.random_range(18..90).to_string() };
    fields.push((
        "features",
        object([("amount", number(amount)), ("age", age), ("is_new", rng.random_bool(0.3).to_string())]),
    ));
    if !event.tags.is_empty() {
        fields.push(("tags", object(event.tags.iter().map(|(name, value)| (name.as_str(), text(value))))));
    }
    if rng.random_bool(0.5) {
        fields.push(("latency_ms", number(f64::from(rng.random_range(1..5_000)) / 10.0)));
    }
    if rng.random_bool(0.02) {
        // Unknown fields are ignored and counted; they reject nothing.
        fields.push(("field_of_a_later_version", "{\"deep\":[1,2]}".to_owned()));
    }
    object(fields)
}

/// The JSON of a label event, in one of its spellings.
pub(super) fn label_json(event: &LabelEvent, rng: &mut StdRng) -> String {
    let mut fields = vec![
        ("prediction_id", text(&event.id)),
        ("model_name", text(&event.model)),
        ("timestamp", spell_time(event.time_us, rng)),
        ("label", spell_value(&event.label, rng)),
    ];
    if let Some(hint_us) = event.hint_us {
        fields.push(("prediction_timestamp", spell_time(hint_us, rng)));
    }
    object(fields)
}

/// A JSON object of fields whose values are JSON already.
pub(super) fn object<'a>(fields: impl IntoIterator<Item = (&'a str, String)>) -> String {
    let fields: Vec<String> = fields.into_iter().map(|(name, value)| format!("{}:{value}", text(name))).collect();
    format!("{{{}}}", fields.join(","))
}

/// A JSON string.
pub(super) fn text(value: &str) -> String {
    serde_json::to_string(value).expect("a string always has a JSON form")
}

/// RFC 3339 in UTC with microseconds.
pub(super) fn rfc3339(time_us: i64) -> String {
    utc(time_us).to_rfc3339_opts(SecondsFormat::Micros, true)
}

fn utc(time_us: i64) -> DateTime<Utc> {
    DateTime::from_timestamp_micros(time_us).expect("generated times lie within a few centuries of now")
}

/// The shortest decimal text that reads back to the same float.
fn number(value: f64) -> String {
    serde_json::to_string(&value).expect("generated numbers are finite")
}

fn spell_time(time_us: i64, rng: &mut StdRng) -> String {
    match rng.random_range(0..4) {
        0 if time_us % 1_000 == 0 => (time_us / 1_000).to_string(),
        1 => {
            let offset = FixedOffset::east_opt(rng.random_range(-11..=13) * 3_600 + 1_800).expect("less than a day");
            text(&utc(time_us).with_timezone(&offset).to_rfc3339_opts(SecondsFormat::Micros, false))
        }
        _ => text(&rfc3339(time_us)),
    }
}

/// One of the JSON forms whose canonical text is the value.
fn spell_value(value: &Value, rng: &mut StdRng) -> String {
    match value {
        Value::Null => "null".to_owned(),
        Value::Number(value) => number(*value),
        Value::Class(class) if class.parse::<u32>().is_ok_and(|n| n.to_string() == *class) => {
            match rng.random_range(0..5) {
                0 => format!("{class}.0"),
                1 => format!("{class}e0"),
                2 => format!("\"{class}\""),
                3 => format!("\"{class}.0\""),
                _ => class.clone(),
            }
        }
        Value::Class(class) if class == "true" || class == "false" => {
            if rng.random_bool(0.5) {
                class.clone()
            } else {
                text(class)
            }
        }
        Value::Class(class) => text(class),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;

    #[test]
    fn every_spelling_of_a_time_is_that_time() {
        let mut rng = StdRng::seed_from_u64(1);
        for time_us in [1_740_873_600_000_000, 1_740_873_600_123_000, 1_740_873_600_123_457] {
            for _ in 0..50 {
                let read: serde_json::Value = serde_json::from_str(&spell_time(time_us, &mut rng)).unwrap();
                let back = match &read {
                    serde_json::Value::Number(millis) => millis.as_i64().unwrap() * 1_000,
                    other => DateTime::parse_from_rfc3339(other.as_str().unwrap()).unwrap().timestamp_micros(),
                };
                assert_eq!(back, time_us, "{read}");
            }
        }
    }

    #[test]
    fn every_spelling_of_a_class_is_json_for_the_same_class() {
        let mut rng = StdRng::seed_from_u64(2);
        for class in ["1", "0", "true", "fraud", "01", "a \"quoted\" one"] {
            for _ in 0..30 {
                let spelling = spell_value(&Value::Class(class.to_owned()), &mut rng);
                let canonical = match serde_json::from_str(&spelling).unwrap() {
                    serde_json::Value::String(text) => text.strip_suffix(".0").unwrap_or(&text).to_owned(),
                    serde_json::Value::Bool(value) => value.to_string(),
                    serde_json::Value::Number(value) => value.as_f64().unwrap().to_string(),
                    other => panic!("{other}"),
                };
                assert_eq!(canonical, class, "{spelling}");
            }
        }
    }
}
