//! Records that cannot be used: several for each reason of the closed list, each with that one fault only.

use rand::Rng;
use rand::rngs::StdRng;

use super::Topic;
use super::events::text;

/// All reasons for which a record or an element of a JSON array is rejected.
pub const REASONS: [&str; 13] = [
    "empty",
    "not_utf8",
    "not_json",
    "not_an_object",
    "too_deep",
    "duplicate_key",
    "missing_field",
    "wrong_type",
    "bad_timestamp",
    "future_timestamp",
    "not_finite",
    "id_too_long",
    "too_large",
];

/// Those that an element of a JSON array can have without spoiling its neighbours.
pub(super) const ELEMENT_REASONS: [&str; 7] = [
    "not_an_object",
    "duplicate_key",
    "missing_field",
    "wrong_type",
    "bad_timestamp",
    "future_timestamp",
    "id_too_long",
];

/// A payload that is rejected for `reason`; `None` is a record without a value. `serial` keeps the ids apart.
pub(super) fn payload(reason: &str, topic: Topic, serial: usize, rng: &mut StdRng) -> Option<Vec<u8>> {
    let base = Fields::usable(topic, serial);
    let json = match reason {
        "empty" => return None,
        "not_utf8" => {
            let mut bytes = base.with("tags", "{\"region\":\"eu\"}").json().into_bytes();
            let at = bytes.iter().position(|&b| b == b'e').expect("every event has an e");
            bytes[at] = 0xff;
            return Some(bytes);
        }
        "not_json" => one_of(
            rng,
            [
                base.json().trim_end_matches('}').to_owned(),
                base.with(topic.value_field(), "NaN").json(),
                base.with(topic.value_field(), "-Infinity").json(),
                "not json".to_owned(),
                format!("{} trailing", base.json()),
            ],
        ),
        "not_an_object" => one_of(rng, ["42", "\"text\"", "null", "true"].map(str::to_owned)),
        "too_deep" => {
            let levels = *one_of(rng, [&40, &100]);
            base.with("features", &format!("{{\"deep\":{}{}}}", "[".repeat(levels), "]".repeat(levels))).json()
        }
        "duplicate_key" => {
            let (name, value) = one_of(
                rng,
                [
                    ("prediction_id", "\"another\""),
                    ("model_name", "\"another\""),
                    ("timestamp", "\"2025-03-02T10:00:00Z\""),
                ],
            );
            format!("{},\"{name}\":{value}}}", base.json().trim_end_matches('}'))
        }
        "missing_field" => {
            let name = one_of(rng, ["prediction_id", "model_name", "timestamp", topic.value_field()]);
            base.without(name).json()
        }
        "wrong_type" => {
            let (name, value) = match topic {
                Topic::Predictions => one_of(
                    rng,
                    [
                        ("prediction_id", "17"),
                        ("model_name", "[\"m\"]"),
                        ("prediction", "{\"class\":1}"),
                        ("score", "\"high\""),
                        ("features", "\"none\""),
                        ("tags", "[]"),
                    ],
                ),
                Topic::Labels => one_of(
                    rng,
                    [("prediction_id", "17"), ("model_name", "{}"), ("label", "[1]"), ("label", "{\"is\":1}")],
                ),
            };
            base.with(name, value).json()
        }
        "bad_timestamp" => {
            let value = one_of(
                rng,
                [
                    "\"yesterday\"",
                    "\"1999-12-31T23:59:59.999999Z\"",
                    "\"2025-02-30T00:00:00Z\"",
                    "\"2025-03-02T10:00:00\"",
                    "946684799999",
                ],
            );
            base.with("timestamp", value).json()
        }
        "future_timestamp" => base.with("timestamp", one_of(rng, ["\"2199-01-01T00:00:00Z\"", "7226582400000"])).json(),
        "not_finite" => base.with(topic.number_field(), one_of(rng, ["1e999", "-1e400"])).json(),
        "id_too_long" => base.with("prediction_id", &text(&"x".repeat(*one_of(rng, [&129, &1_000])))).json(),
        "too_large" => base.with("padding", &text(&"p".repeat((1 << 20) + 1))).json(),
        other => panic!("{other} is no reason for a rejection"),
    };
    Some(json.into_bytes())
}

fn one_of<T, const N: usize>(rng: &mut StdRng, choices: [T; N]) -> T {
    let at = rng.random_range(0..N);
    choices.into_iter().nth(at).expect("at is below the number of choices")
}

/// An event as a list of raw JSON fields, to be broken in one place.
struct Fields(Vec<(String, String)>);

impl Fields {
    fn usable(topic: Topic, serial: usize) -> Self {
        let fields = [
            ("prediction_id", text(&format!("malformed-{serial}"))),
            ("model_name", text("malformed")),
            ("timestamp", text("2025-03-02T10:00:00Z")),
            (topic.value_field(), "1".to_owned()),
        ];
        Fields(fields.map(|(name, value)| (name.to_owned(), value)).into())
    }

    fn with(&self, name: &str, value: &str) -> Self {
        let mut fields = self.0.clone();
        match fields.iter_mut().find(|(n, _)| n == name) {
            Some(field) => value.clone_into(&mut field.1),
            None => fields.push((name.to_owned(), value.to_owned())),
        }
        Fields(fields)
    }

    fn without(&self, name: &str) -> Self {
        Fields(self.0.iter().filter(|(n, _)| n != name).cloned().collect())
    }

    fn json(&self) -> String {
        super::events::object(self.0.iter().map(|(name, value)| (name.as_str(), value.clone())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;

    #[test]
    fn a_fault_is_the_one_that_its_reason_names() {
        let mut rng = StdRng::seed_from_u64(3);
        for topic in [Topic::Predictions, Topic::Labels] {
            for serial in 0..40 {
                for reason in REASONS {
                    check(reason, payload(reason, topic, serial, &mut rng).as_deref());
                }
            }
        }
    }

    fn check(reason: &str, payload: Option<&[u8]>) {
        let Some(bytes) = payload else { return assert_eq!(reason, "empty") };
        assert_eq!(bytes.len() > 1 << 20, reason == "too_large");
        let Ok(text) = std::str::from_utf8(bytes) else { return assert_eq!(reason, "not_utf8") };
        match serde_json::from_str::<serde_json::Value>(text) {
            // serde_json calls a number beyond f64 a fault of the text.
            Err(_) => assert!(["not_json", "not_finite", "too_deep"].contains(&reason), "{reason}: {text}"),
            Ok(value) => {
                assert!(!["not_json", "not_utf8", "empty"].contains(&reason), "{reason}: {text}");
                assert_eq!(!value.is_object(), reason == "not_an_object", "{text}");
            }
        }
    }
}
