//! Every reason, every edge of what an event may be, and the law that each event is counted exactly once.
use driftline_schemas::event::{EventKind, Reason};
use proptest::prelude::*;

use super::{DecodedEvent, Decoder, FeatureValue, Rejection, Sink, decode_json_lines};

/// What became of a record, in words that a table can hold.
#[derive(Default)]
struct Seen {
    accepted: Vec<(u32, String)>,
    rejected: Vec<(u32, Reason, String, Vec<u8>)>,
}

impl Sink for Seen {
    fn accepted(&mut self, index: u32, _: &[u8], event: &DecodedEvent<'_>) {
        self.accepted.push((index, format!("{event:?}")));
    }
    fn rejected(&mut self, index: u32, source: &[u8], rejection: Rejection) {
        self.rejected.push((index, rejection.reason, rejection.detail, source.to_vec()));
    }
}

fn decode(kind: EventKind, payload: Option<&[u8]>) -> Seen {
    let mut seen = Seen::default();
    Decoder::new(kind).decode(payload, &mut seen);
    seen
}

fn prediction(more: &str) -> String {
    format!(r#"{{"prediction_id":"p1","model_name":"m","timestamp":"2026-01-01T00:00:00Z"{more}}}"#)
}

fn label(more: &str) -> String {
    prediction(more)
}

#[track_caller]
fn check(kind: EventKind, payload: &[u8], expected: Result<&str, (Reason, &str)>) {
    let shown = String::from_utf8_lossy(&payload[..payload.len().min(200)]).into_owned();
    let seen = decode(kind, Some(payload));
    match expected {
        Ok(part) => {
            assert!(seen.rejected.is_empty(), "{shown}: {:?}", seen.rejected);
            assert!(seen.accepted[0].1.contains(part), "{shown}: {} has no {part}", seen.accepted[0].1);
        }
        Err((reason, part)) => {
            let [(_, found, detail, kept)] = &seen.rejected[..] else { panic!("{shown}: {:?}", seen.accepted) };
            assert_eq!((*found, kept.as_slice()), (reason, payload), "{shown}: {detail}");
            assert!(detail.contains(part), "{shown}: {detail} has no {part}");
        }
    }
}

#[test]
fn every_reason_of_a_prediction() {
    use Reason::*;
    let long_id = format!(r#"{{"prediction_id":"{}","model_name":"m","timestamp":0,"score":1}}"#, "x".repeat(129));
    let huge_id = format!(r#"{{"prediction_id":"{}","model_name":"m"}}"#, "x".repeat(1 << 20));
    let long_model = format!(r#"{{"prediction_id":"1","model_name":"{}"}}"#, "x".repeat(257));
    let deep = format!(r#"{{"features":{}1{}}}"#, "[".repeat(33), "]".repeat(33));
    let table: Vec<(String, Reason, &str)> = vec![
        (String::new(), Empty, "no bytes"),
        ("   ".into(), NotJson, "EOF"),
        ("{".into(), NotJson, "EOF"),
        ("{}x".into(), NotJson, "trailing"),
        (r#"{"score": NaN}"#.into(), NotJson, ""),
        (r#"{"score": Infinity}"#.into(), NotJson, ""),
        (r#"{"score": -Infinity}"#.into(), NotJson, ""),
        (r#"{"score": 01}"#.into(), NotJson, ""),
        (r"{'score': 1}".into(), NotJson, ""),
        (prediction(r#","score":1,"a":1,}"#), NotJson, ""),
        ("NaN".into(), NotJson, ""),
        ("\u{feff}{}".into(), NotJson, ""),
        (r#"{"prediction_id":"\ud800","model_name":"m","timestamp":0,"score":1}"#.into(), NotJson, "prediction_id"),
        ("1".into(), NotAnObject, ""),
        ("null".into(), NotAnObject, ""),
        ("\"{}\"".into(), NotAnObject, ""),
        ("1e999".into(), NotAnObject, ""),
        (deep, TooDeep, "32"),
        (prediction(r#","score":1,"score":2"#), DuplicateKey, "score"),
        (prediction(r#","score":1,"other":2,"other":3"#), DuplicateKey, "other"),
        (prediction(r#","score":1,"sc\u006fre":2"#), DuplicateKey, "score"),
        (prediction(""), MissingField, "probabilities"),
        (prediction(r#","score":null,"prediction":null"#), MissingField, "probabilities"),
        (prediction(r#","probabilities":{}"#), MissingField, "probabilities"),
        (prediction(r#","error":"""#), MissingField, "error"),
        (r#"{"model_name":"m","timestamp":0,"score":1}"#.into(), MissingField, "prediction_id"),
        (r#"{"prediction_id":null,"model_name":"m","timestamp":0,"score":1}"#.into(), MissingField, "prediction_id"),
        (r#"{"prediction_id":"","model_name":"m","timestamp":0,"score":1}"#.into(), MissingField, "prediction_id"),
        (r#"{"prediction_id":"1","model_name":"","timestamp":0,"score":1}"#.into(), MissingField, "model_name"),
        (r#"{"prediction_id":"1","timestamp":0,"score":1}"#.into(), MissingField, "model_name"),
        (r#"{"prediction_id":"1","model_name":"m","score":1}"#.into(), MissingField, "timestamp"),
        (r#"{"prediction_id":17,"model_name":"m","timestamp":0,"score":1}"#.into(), WrongType, "prediction_id"),
        (r#"{"prediction_id":"1","model_name":["m"],"timestamp":0,"score":1}"#.into(), WrongType, "model_name"),
        (long_model, WrongType, "240"),
        (r#"{"prediction_id":"1","model_name":"m","timestamp":true,"score":1}"#.into(), WrongType, "timestamp"),
        (prediction(r#","score":"0.9""#), WrongType, "score"),
        (prediction(r#","score":[1]"#), WrongType, "score"),
        (prediction(r#","score":true"#), WrongType, "score"),
        (prediction(r#","prediction":{"a":1}"#), WrongType, "prediction"),
        (prediction(r#","score":1,"features":[1,2]"#), WrongType, "features"),
        (prediction(r#","score":1,"features":"x""#), WrongType, "features"),
        (prediction(r#","score":1,"features":3"#), WrongType, "features"),
        (prediction(r#","score":1,"tags":{"a":{}}"#), WrongType, "tags.a"),
        (prediction(r#","probabilities":{"a":"x"}"#), WrongType, "probabilities.a"),
        (prediction(r#","score":1,"attributions":{"a":true}"#), WrongType, "attributions.a"),
        (prediction(r#","score":1,"sampling_rate":0"#), WrongType, "sampling_rate"),
        (prediction(r#","score":1,"sampling_rate":1.5"#), WrongType, "sampling_rate"),
        (prediction(r#","score":1,"environment":7"#), WrongType, "environment"),
        (prediction(r#","score":1,"error":{"code":1}"#), WrongType, "error"),
        (prediction(r#","score":1e999"#), NotFinite, "score"),
        (prediction(r#","score":-1e999"#), NotFinite, "score"),
        (prediction(r#","prediction":1e999"#), NotFinite, "prediction"),
        (prediction(r#","score":1,"features":{"f":1e999}"#), NotFinite, "features.f"),
        (prediction(r#","score":1,"features":1e999"#), NotFinite, ""),
        (prediction(r#","probabilities":{"a":1e999}"#), NotFinite, "probabilities.a"),
        (r#"{"prediction_id":"1","model_name":"m","timestamp":0,"score":1}"#.into(), BadTimestamp, "before 2000"),
        (
            r#"{"prediction_id":"1","model_name":"m","timestamp":"1970-01-01T00:00:00Z","score":1}"#.into(),
            BadTimestamp,
            "before 2000",
        ),
        (
            r#"{"prediction_id":"1","model_name":"m","timestamp":1735689600,"score":1}"#.into(),
            BadTimestamp,
            "before 2000",
        ),
        (r#"{"prediction_id":"1","model_name":"m","timestamp":1.5,"score":1}"#.into(), BadTimestamp, "timestamp"),
        (
            r#"{"prediction_id":"1","model_name":"m","timestamp":"2026-01-01T00:00:00","score":1}"#.into(),
            BadTimestamp,
            "offset",
        ),
        (
            r#"{"prediction_id":"1","model_name":"m","timestamp":"yesterday","score":1}"#.into(),
            BadTimestamp,
            "yesterday",
        ),
        (
            r#"{"prediction_id":"1","model_name":"m","timestamp":99999999999999999999,"score":1}"#.into(),
            BadTimestamp,
            "",
        ),
        (long_id, IdTooLong, "129"),
        (huge_id, TooLarge, "1048576"),
    ];
    for (payload, reason, part) in table {
        check(EventKind::Predictions, payload.as_bytes(), Err((reason, part)));
    }
    check(EventKind::Predictions, b"{\"prediction_id\":\"\xff\"}", Err((NotUtf8, "")));
}

#[test]
fn what_a_prediction_may_be() {
    let table = [
        (prediction(r#","score":0.93"#), "score: Some(0.93)"),
        (prediction(r#","prediction":"fraud""#), r#"prediction: Some("fraud")"#),
        (prediction(r#","prediction":1.0"#), r#"prediction: Some("1")"#),
        (prediction(r#","prediction":"1e0""#), r#"prediction: Some("1")"#),
        (prediction(r#","prediction":"01""#), r#"prediction: Some("01")"#),
        (prediction(r#","prediction":true"#), r#"prediction: Some("true")"#),
        (prediction(r#","prediction":123456789012345678901234567890"#), "123456789012345678901234567890"),
        (prediction(r#","error":"timeout""#), r#"error: Some("timeout")"#),
        (prediction(r#","probabilities":{"1.0":0.3,"ok":0.7}"#), r#"probabilities: Some([("1", 0.3), ("ok", 0.7)])"#),
        (prediction(r#","score":1,"model_version":3"#), r#"model_version: "3""#),
        (prediction(r#","score":1,"model_version":null"#), r#"model_version: """#),
        (prediction(r#","score":1,"features":null,"tags":null"#), "features: None"),
        (prediction(r#","score":1,"features":{}"#), "features: Some([])"),
        (
            prediction(r#","score":1,"features":{"a":150.0,"b":"NL","c":false,"d":null,"e":[1, {"x":2}]}"#),
            r#"Some([("a", Number(150.0)), ("b", Text("NL")), ("c", Text("false")), ("d", Null), ("e", Text("[1, {\"x\":2}]"))])"#,
        ),
        (prediction(r#","score":1,"features":{"a":1,"a":2}"#), r#"[("a", Number(2.0))]"#),
        (
            prediction(r#","score":1,"tags":{"a":"x","b":1.0,"c":true,"d":null}"#),
            r#"[("a", "x"), ("b", "1"), ("c", "true")]"#,
        ),
        (prediction(r#","score":1,"x":1e999,"y":{"deep":[[]]}"#), "ignored_fields: 2"),
        (prediction(r#","score":1,"label":"ok""#), "ignored_fields: 1"),
        (prediction(r#","sc\u006fre":0.5,"environment":"a\nb""#), r#"environment: Some("a\nb")"#),
        (prediction(r#","score":0.1234567890123456789"#), "score: Some(0.12345678901234568)"),
        (prediction(&format!(r#","score":1,"features":{{"f":{}{}}}"#, "[".repeat(30), "]".repeat(30))), "Text"),
        (
            r#" [ {"prediction_id":"1","model_name":"m","timestamp":1767225600123,"score":1} ] "#.to_owned(),
            "event_time: 1767225600123000",
        ),
        (
            r#"{"prediction_id":"1","model_name":"m","timestamp":"2026-01-01T01:00:00.123456+01:00","score":1}"#
                .to_owned(),
            "event_time: 1767225600123456",
        ),
        (
            r#"{"prediction_id":"1","model_name":"m","timestamp":"2100-01-01T00:00:00Z","score":1}"#.to_owned(),
            "event_time: 4102444800000000",
        ),
        (
            format!(
                r#"{{"prediction_id":"{}","model_name":"m","timestamp":1767225600000,"score":1}}"#,
                "x".repeat(128)
            ),
            "score: Some(1.0)",
        ),
    ];
    for (payload, part) in table {
        check(EventKind::Predictions, payload.as_bytes(), Ok(part));
    }
}

#[test]
fn what_a_label_may_be() {
    use Reason::*;
    let labels = EventKind::Labels;
    for (more, expected) in [
        (r#","label":"ok""#, Ok(r#"label: Some("ok")"#)),
        (r#","label":1.50"#, Ok(r#"label: Some("1.5")"#)),
        (r#","label":false"#, Ok(r#"label: Some("false")"#)),
        (r#","label":null"#, Ok("label: None")),
        (r#","label":1,"prediction_timestamp":1767225600000"#, Ok("prediction_timestamp: Some(1767225600000000)")),
        (r#","label":1,"prediction_timestamp":null"#, Ok("prediction_timestamp: None")),
        (r#","label":1,"score":2"#, Ok("ignored_fields: 1")),
        ("", Err((MissingField, "label"))),
        (r#","label":{"a":1}"#, Err((WrongType, "label"))),
        (r#","label":[]"#, Err((WrongType, "label"))),
        (r#","label":1e999"#, Err((NotFinite, "label"))),
        (r#","label":1,"prediction_timestamp":"then""#, Err((BadTimestamp, "prediction_timestamp"))),
        (r#","label":1,"prediction_timestamp":5"#, Err((BadTimestamp, "prediction_timestamp"))),
    ] {
        check(labels, label(more).as_bytes(), expected);
    }
}

#[test]
fn a_tombstone_is_empty() {
    let seen = decode(EventKind::Labels, None);
    assert_eq!(seen.rejected[0].1, Reason::Empty);
}

#[test]
fn elements_of_an_array_stand_for_themselves() {
    let good = prediction(r#","score":1"#);
    let deep = format!("{}1{}", "[".repeat(40), "]".repeat(40));
    let batch = format!("[{good}, {{\"score\": 1}},7 ,{deep},{good}]");
    let seen = decode(EventKind::Predictions, Some(batch.as_bytes()));
    assert_eq!(seen.accepted.iter().map(|(index, _)| *index).collect::<Vec<_>>(), [0, 4]);
    let rejected: Vec<_> = seen.rejected.iter().map(|(index, reason, ..)| (*index, *reason)).collect();
    assert_eq!(rejected, [(1, Reason::MissingField), (2, Reason::NotAnObject), (3, Reason::TooDeep)]);
    assert_eq!(seen.rejected[0].3, b"{\"score\": 1}");

    let none = decode(EventKind::Predictions, Some(b"[]"));
    assert!(none.accepted.is_empty() && none.rejected.is_empty());

    let broken = format!("[{good},{{]");
    let seen = decode(EventKind::Predictions, Some(broken.as_bytes()));
    assert_eq!((seen.accepted.len(), seen.rejected.len(), seen.rejected[0].1), (0, 1, Reason::NotJson));
}

#[test]
fn many_entries_keep_the_last_of_each_name() {
    let entries: Vec<String> = (0..200).map(|n| format!("\"f{}\":{n}", n % 100)).collect();
    let payload = prediction(&format!(r#","score":1,"features":{{{}}}"#, entries.join(",")));
    struct Features(Vec<(String, f64)>);
    impl Sink for Features {
        fn accepted(&mut self, _: u32, _: &[u8], event: &DecodedEvent<'_>) {
            self.0.extend(event.features.iter().flatten().map(|(name, value)| match value {
                FeatureValue::Number(value) => (name.to_string(), *value),
                other => panic!("{other:?}"),
            }));
        }
        fn rejected(&mut self, _: u32, _: &[u8], rejection: Rejection) {
            panic!("{rejection:?}");
        }
    }
    let mut features = Features(Vec::new());
    Decoder::new(EventKind::Predictions).decode(Some(payload.as_bytes()), &mut features);
    assert_eq!(features.0.len(), 100);
    assert!(features.0.contains(&("f7".to_owned(), 107.0)));
}

#[test]
fn lines_of_a_reference_have_labels_inline() {
    let lines =
        format!("{}\n\n{}\nbroken\n", prediction(r#","score":0.5,"label":"ok""#), prediction(r#","score":0.25"#));
    let decoded = decode_json_lines(EventKind::Reference, "file", lines.as_bytes(), 1_800_000_000_000_000).unwrap();
    assert_eq!((decoded.accepted, decoded.rejected.len()), (2, 1));
    assert_eq!((decoded.rejected[0].line, decoded.rejected[0].reason), (4, Reason::NotJson));
    let batch = &decoded.batches[0];
    let labels = batch.column_by_name("label").unwrap();
    assert_eq!((batch.num_rows(), labels.null_count()), (2, 1));
}

/// JSON-like bytes reach further into the decoder than random ones.
fn payloads() -> impl Strategy<Value = Vec<u8>> {
    let scalar = prop_oneof![
        Just("null".to_owned()),
        Just("true".into()),
        Just("1e999".into()),
        Just("NaN".into()),
        Just("\"\\ud800\"".into()),
        "-?[0-9]{1,25}(\\.[0-9]{1,5})?(e[0-9]{1,3})?",
        "\"[a-z0-9]{0,8}\"",
        Just("{}".into()),
        Just("[]".into()),
        Just("\"2026-01-01T00:00:00Z\"".into()),
        Just("1767225600000".into()),
        Just("{\"a\":1,\"a\":\"b\"}".into()),
    ];
    let field = prop_oneof![
        Just("prediction_id"),
        Just("model_name"),
        Just("timestamp"),
        Just("score"),
        Just("prediction"),
        Just("features"),
        Just("tags"),
        Just("probabilities"),
        Just("label"),
        Just("prediction_timestamp"),
        Just("sampling_rate"),
        Just("x"),
    ];
    let object = proptest::collection::vec((field, scalar), 0..10).prop_map(|fields| {
        let fields: Vec<String> = fields.into_iter().map(|(name, value)| format!("\"{name}\":{value}")).collect();
        format!("{{{}}}", fields.join(","))
    });
    prop_oneof![
        proptest::collection::vec(any::<u8>(), 0..200),
        object.clone().prop_map(String::into_bytes),
        proptest::collection::vec(object, 0..6).prop_map(|objects| format!("[{}]", objects.join(",")).into_bytes()),
        "[\\[\\]{}\",:0-9a-z ]{0,80}".prop_map(String::into_bytes),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]
    #[test]
    fn c2_decoding_is_pure_and_counts_every_event_once(payload in payloads(), labels in any::<bool>()) {
        let kind = if labels { EventKind::Labels } else { EventKind::Predictions };
        let first = decode(kind, Some(&payload));
        let events = match serde_json::from_slice::<Vec<&serde_json::value::RawValue>>(&payload) {
            Ok(elements) if !payload.is_empty() => elements.len(),
            _ => 1,
        };
        prop_assert_eq!(first.accepted.len() + first.rejected.len(), events);
        // A decoder that has seen other records decides alike.
        let mut used = Decoder::new(kind);
        let mut other = Seen::default();
        used.decode(Some(prediction(r#","score":1,"label":1,"features":{"z":1},"tags":{"q":"w"}"#).as_bytes()), &mut other);
        let mut again = Seen::default();
        used.decode(Some(&payload), &mut again);
        prop_assert_eq!(first.accepted, again.accepted);
        prop_assert_eq!(first.rejected, again.rejected);
    }
}
