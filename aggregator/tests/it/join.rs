//! The join, case by case.
use std::collections::BTreeSet;

use arrow::array::{Array, AsArray, RecordBatch};
use driftline_aggregator::join::{JoinRules, Joined, join};
use driftline_aggregator::objects::LabelRow;
use driftline_schemas::clock::{DAY, MINUTE, Micros, SECOND};
use driftline_schemas::history::segment_columns;
use driftline_schemas::tables::{ScoreKind, Task};
use driftline_schemas::window::Window;
use serde_json::json;

use crate::world::{Row, TEN, label, numbers, prediction, read, rows, texts, with};

pub fn rules() -> JoinRules {
    JoinRules {
        window: Window { start: TEN, end: TEN + 60 * MINUTE },
        revision: 1,
        task: Task::Binary,
        score_kind: ScoreKind::Probability,
        label_horizon: 30 * DAY,
        refusal: None,
        columns_max: 500,
        segment_columns: BTreeSet::new(),
    }
}

fn first(predictions: &[RecordBatch], labels: Vec<LabelRow>) -> Joined {
    first_by(predictions, labels, &rules())
}

fn first_by(predictions: &[RecordBatch], labels: Vec<LabelRow>, rules: &JoinRules) -> Joined {
    let predictions: Vec<_> = predictions.iter().map(|rows| (rows.clone(), false)).collect();
    join(None, &predictions, labels, rules).unwrap()
}

fn then(before: &Joined, predictions: &[RecordBatch], labels: Vec<LabelRow>) -> Joined {
    let predictions: Vec<_> = predictions.iter().map(|rows| (rows.clone(), false)).collect();
    let rules = JoinRules { revision: 2, ..rules() };
    join(Some((&before.rows, before.counts.duplicates)), &predictions, labels, &rules).unwrap()
}

fn only(joined: &Joined) -> Row {
    let rows = read(&joined.rows);
    assert_eq!(rows.len(), 1, "{rows:?}");
    rows.into_iter().next().unwrap()
}

/// The labels kept beside the one that counts, by time.
fn others(batch: &RecordBatch, row: usize) -> Vec<Option<String>> {
    let lists = batch.column_by_name("other_labels").unwrap().as_list::<i32>();
    if lists.is_null(row) {
        return Vec::new();
    }
    let labels = lists.value(row);
    let labels = labels.as_struct().column(0).as_string::<i32>();
    labels.iter().map(|label| label.map(str::to_owned)).collect()
}

#[test]
fn the_first_copy_by_event_time_stands_whenever_it_comes() {
    let early = rows(7, &[with(prediction("a", TEN + SECOND), json!({"prediction": "0"}))]);
    let late = rows(3, &[prediction("a", TEN + 2 * SECOND)]);
    for order in [[early.clone(), late.clone()], [late.clone(), early.clone()]] {
        let joined = first(&order, vec![]);
        assert_eq!((only(&joined).time, only(&joined).offset), (TEN + SECOND, 7));
        assert_eq!((joined.counts.duplicates, joined.counts.rows, joined.counts.accepted()), (1, 1, 2));
        let joined = then(&first(&order[..1], vec![]), &order[1..], vec![]);
        assert_eq!((only(&joined).offset, joined.counts.duplicates), (7, 1));
        assert_eq!(texts(&joined.rows, "prediction"), [Some("0".to_owned())]);
    }
}

#[test]
fn of_copies_at_the_same_time_the_first_position_stands() {
    let joined =
        first(&[rows(9, &[prediction("a", TEN)]), rows(4, &[prediction("a", TEN), prediction("a", TEN)])], vec![]);
    assert_eq!((only(&joined).offset, joined.counts.duplicates), (4, 2));
}

#[test]
fn what_comes_after_final_never_takes_a_place() {
    let before = first(&[rows(5, &[prediction("a", TEN + 9 * SECOND)])], vec![label("a", TEN + MINUTE, Some("1"), 0)]);
    let after = rows(6, &[prediction("a", TEN), prediction("b", TEN)]);
    let previous = Some((&before.rows, before.counts.duplicates));
    let joined = join(previous, &[(after, true)], vec![label("b", TEN + MINUTE, Some("1"), 1)], &rules()).unwrap();
    let rows = read(&joined.rows);
    assert_eq!(
        rows.iter().map(|r| (r.id.as_str(), r.offset, r.after_final)).collect::<Vec<_>>(),
        [("b", 7, true), ("a", 5, false)]
    );
    // The newcomer stays, marked, outside the figures: it takes no label.
    assert_eq!(rows.iter().map(|r| r.label.as_deref()).collect::<Vec<_>>(), [None, Some("1")]);
    let counts = joined.counts;
    assert_eq!((counts.after_final, counts.duplicates, counts.labelled, counts.unlabelled), (1, 1, 1, 0));
}

#[test]
fn the_last_label_by_time_then_position_wins() {
    for (labels, wins) in [
        (vec![label("a", TEN + MINUTE, Some("1"), 0), label("a", TEN + 2 * MINUTE, Some("0"), 1)], ("0", 1)),
        (vec![label("a", TEN + 2 * MINUTE, Some("1"), 0), label("a", TEN + MINUTE, Some("0"), 1)], ("1", 0)),
        (vec![label("a", TEN + MINUTE, Some("1"), 5), label("a", TEN + MINUTE, Some("0"), 4)], ("1", 5)),
    ] {
        let predictions = [rows(0, &[prediction("a", TEN)])];
        let at_once = first(&predictions, labels.clone());
        let step = then(&first(&predictions, labels[1..].to_vec()), &[], labels[..1].to_vec());
        for joined in [at_once, step] {
            let row = only(&joined);
            assert_eq!((row.label.as_deref(), row.label_from.map(|from| from.2)), (Some(wins.0), Some(wins.1)));
            assert_eq!(others(&joined.rows, 0).len(), 1);
            assert_eq!(joined.counts.labelled, 1);
        }
    }
}

#[test]
fn a_withdrawn_label_is_kept_so_that_an_older_one_cannot_return() {
    let before = first(&[rows(0, &[prediction("a", TEN)])], vec![label("a", TEN + 3 * MINUTE, None, 2)]);
    assert_eq!((only(&before).label, only(&before).label_from), (None, Some((TEN + 3 * MINUTE, 0, 2))));
    let joined = then(&before, &[], vec![label("a", TEN + 2 * MINUTE, Some("1"), 3)]);
    assert_eq!((only(&joined).label, joined.counts.unlabelled), (None, 1));
    let joined = then(&joined, &[], vec![label("a", TEN + 4 * MINUTE, Some("0"), 1)]);
    assert_eq!((only(&joined).label.as_deref(), joined.counts.labelled), (Some("0"), 1));
    assert_eq!(others(&joined.rows, 0), [Some("1".to_owned()), None]);
}

#[test]
fn a_label_counts_from_the_skew_before_to_the_horizon_after() {
    let (skew, horizon) = (10 * MINUTE, 30 * DAY);
    for (delay, counts) in [(-skew - 1, false), (-skew, true), (0, true), (horizon, true), (horizon + 1, false)] {
        let joined = first(&[rows(0, &[prediction("a", TEN)])], vec![label("a", TEN + delay, Some("1"), 0)]);
        assert_eq!(only(&joined).label.is_some(), counts, "{delay}");
        assert_eq!(others(&joined.rows, 0).len(), usize::from(!counts), "{delay}: it stays where it can be found");
    }
}

#[test]
fn an_earlier_copy_is_judged_by_its_own_time() {
    // Eligible for the copy that came first, too late for the one that stands in the end; and the other way round.
    let late = rows(0, &[prediction("a", TEN + 30 * MINUTE)]);
    let early = rows(1, &[prediction("a", TEN)]);
    let labels =
        vec![label("a", TEN + 30 * DAY + 10 * MINUTE, Some("1"), 0), label("a", TEN - 5 * MINUTE, Some("0"), 1)];
    let before = first(&[late], labels);
    assert_eq!(only(&before).label.as_deref(), Some("1"));
    let joined = then(&before, &[early], vec![]);
    assert_eq!(only(&joined).label.as_deref(), Some("0"));
    assert_eq!(others(&joined.rows, 0), [Some("1".to_owned())]);
}

#[test]
fn a_label_applies_to_every_version_of_its_id_also_to_one_that_comes_later() {
    let shadow = with(prediction("a", TEN + SECOND), json!({"model_version": "2"}));
    let before = first(&[rows(0, &[prediction("a", TEN)])], vec![label("a", TEN + MINUTE, Some("1"), 0)]);
    // The follower routes the label again for the version that came after it.
    let joined = then(&before, &[rows(1, &[shadow])], vec![label("a", TEN + MINUTE, Some("1"), 0)]);
    let rows = read(&joined.rows);
    assert_eq!(
        rows.iter().map(|r| (r.version.as_str(), r.label.as_deref())).collect::<Vec<_>>(),
        [("1", Some("1")), ("2", Some("1"))]
    );
    assert_eq!((joined.counts.rows, joined.counts.labelled, joined.counts.duplicates), (2, 2, 0));
    assert!(others(&joined.rows, 0).is_empty() && others(&joined.rows, 1).is_empty());
}

#[test]
fn labels_of_unknown_ids_leave_no_trace() {
    let joined = first(&[rows(0, &[prediction("a", TEN)])], vec![label("b", TEN, Some("1"), 0)]);
    assert_eq!((read(&joined.rows).len(), only(&joined).label), (1, None));
}

#[test]
fn what_the_settings_refuse_is_marked_and_left_out() {
    let binary = rules();
    let regression = JoinRules { task: Task::Regression, ..rules() };
    let multiclass = JoinRules { task: Task::Multiclass, ..rules() };
    let margin = JoinRules { score_kind: ScoreKind::Any, ..rules() };
    let refused = JoinRules { refusal: Some("unknown_model".into()), ..rules() };
    let spans = |p: f64| json!({"probabilities": {"x": p, "y": 0.5}});
    let score_only = || {
        with(
            json!({"score": 0.5}),
            json!({"prediction_id": "a", "model_name": "m", "timestamp": "2026-01-05T10:00:00Z"}),
        )
    };
    let text = || with(prediction("a", TEN), json!({"prediction": "red"}));
    for (event, rules, reason) in [
        (with(prediction("a", TEN), json!({"score": 1.0})), &binary, None),
        (with(prediction("a", TEN), json!({"score": 0.0})), &binary, None),
        (with(prediction("a", TEN), json!({"score": 1.0000001})), &binary, Some("score_out_of_range")),
        (with(prediction("a", TEN), json!({"score": -0.1})), &binary, Some("score_out_of_range")),
        (with(prediction("a", TEN), json!({"score": 7.0})), &margin, None),
        (with(prediction("a", TEN), spans(1.5)), &multiclass, Some("score_out_of_range")),
        (with(prediction("a", TEN), spans(0.5)), &multiclass, None),
        (with(prediction("a", TEN), json!({"score": 7.0})), &regression, None),
        (text(), &regression, Some("task_mismatch")),
        (text(), &multiclass, None),
        (score_only(), &multiclass, Some("task_mismatch")),
        (score_only(), &binary, None),
        (prediction("a", TEN), &refused, Some("unknown_model")),
        (with(text(), json!({"error": "timeout"})), &regression, None),
    ] {
        let joined = first_by(&[rows(0, std::slice::from_ref(&event))], vec![], rules);
        assert_eq!(only(&joined).invalid.as_deref(), reason, "{event}");
        let failed = event.get("error").is_some();
        let expected = (u64::from(failed), u64::from(reason.is_some()), u64::from(!failed && reason.is_none()));
        assert_eq!((joined.counts.failed, joined.counts.invalid, joined.counts.unlabelled), expected, "{event}");
    }
    // A label that is no number does not fit a regression; when a better one comes, the row counts again.
    let labels = |labels: Vec<LabelRow>| {
        let event = with(prediction("a", TEN), json!({"prediction": 1.5}));
        first_by(&[rows(0, &[event])], labels, &JoinRules { task: Task::Regression, ..rules_again() })
    };
    assert_eq!(labels(vec![label("a", TEN, Some("big"), 0)]).counts.invalid, 1);
    assert_eq!(labels(vec![label("a", TEN, Some("big"), 0), label("a", TEN, Some("2"), 1)]).counts.labelled, 1);
}

fn rules_again() -> JoinRules {
    rules()
}

#[test]
fn a_failed_request_counts_as_failed_even_if_it_is_labelled() {
    let event =
        json!({"prediction_id": "a", "model_name": "m", "timestamp": "2026-01-05T10:00:00Z", "error": "timeout"});
    let joined = first(&[rows(0, &[event])], vec![label("a", TEN, Some("1"), 0)]);
    assert_eq!((joined.counts.failed, joined.counts.labelled, joined.counts.accepted()), (1, 0, 1));
}

fn featured(id: &str, seconds: Micros, features: serde_json::Value) -> serde_json::Value {
    with(prediction(id, TEN + seconds * SECOND), json!({ "features": features }))
}

#[test]
fn features_may_come_and_change_their_type_from_revision_to_revision() {
    let before = first(&[rows(0, &[featured("a", 0, json!({"x": 1.5, "gone": null}))])], vec![]);
    let joined = then(&before, &[rows(1, &[featured("b", 1, json!({"x": "high", "y": true, "z": [1]}))])], vec![]);
    let joined = then(
        &joined,
        &[rows(2, &[with(featured("c", 2, json!({"x": 2})), json!({"tags": {"region": "eu"}}))])],
        vec![],
    );
    let some = |text: &str| Some(text.to_owned());
    assert_eq!(numbers(&joined.rows, "feature_x"), [Some(1.5), None, Some(2.0)]);
    assert_eq!(texts(&joined.rows, "feature_x_text"), [None, some("high"), None]);
    assert_eq!(texts(&joined.rows, "feature_y_text"), [None, some("true"), None]);
    assert_eq!(texts(&joined.rows, "feature_z_text"), [None, some("[1]"), None]);
    assert_eq!(texts(&joined.rows, "tag_region"), [None, None, some("eu")]);
    assert!(joined.rows.column_by_name("feature_gone").is_none());
}

/// What is known of the features of each row, wherever it is kept.
#[allow(clippy::needless_range_loop)] // the row indexes columns too
pub fn features_of(batch: &RecordBatch) -> Vec<std::collections::BTreeMap<String, String>> {
    let mut all = vec![std::collections::BTreeMap::new(); batch.num_rows()];
    for field in batch.schema().fields() {
        let name = field.name();
        if let Some(feature) = name.strip_prefix("feature_") {
            for row in 0..batch.num_rows() {
                let (number, text) = match field.data_type() {
                    arrow::datatypes::DataType::Float64 => (numbers(batch, name)[row], None),
                    _ => (None, texts(batch, name)[row].clone()),
                };
                if let Some(number) = number {
                    assert!(all[row].insert(feature.to_owned(), format!("{number}")).is_none());
                }
                if let Some(text) = text {
                    let feature = feature.strip_suffix("_text").expect("texts have their suffix").to_owned();
                    assert!(all[row].insert(feature, format!("{text:?}")).is_none());
                }
            }
        }
    }
    for (row, json) in texts(batch, "features_json").into_iter().enumerate() {
        let Some(json) = json else { continue };
        let object: serde_json::Map<String, serde_json::Value> = serde_json::from_str(&json).unwrap();
        for (name, value) in object {
            let value = value.as_f64().map_or_else(|| value.to_string(), |number| format!("{number}"));
            assert!(all[row].insert(name.clone(), value).is_none(), "{name} is there twice");
        }
    }
    all
}

#[test]
fn a_feature_that_is_called_like_the_text_of_another_loses_nothing() {
    // `a` with text has the column `feature_a_text`, which a numeric feature `a_text` would have too.
    let text = rows(0, &[featured("a", 0, json!({"a": "red"}))]);
    let number = rows(1, &[featured("b", 1, json!({"a_text": 3}))]);
    let both = rows(2, &[featured("c", 2, json!({"a": "blue", "a_text": 4}))]);
    let map = |pairs: &[(&str, &str)]| pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    let expected: Vec<std::collections::BTreeMap<String, String>> =
        vec![map(&[("a", "\"red\"")]), map(&[("a_text", "3")]), map(&[("a", "\"blue\""), ("a_text", "4")])];
    let at_once = first(&[text.clone(), number.clone(), both.clone()], vec![]);
    let steps = then(&then(&first(&[number], vec![]), &[both], vec![]), &[text], vec![]);
    for joined in [&at_once, &steps] {
        assert_eq!(features_of(&joined.rows), expected);
        assert_eq!(
            joined.rows.column_by_name("feature_a_text").unwrap().data_type(),
            &arrow::datatypes::DataType::Utf8
        );
    }
    let capped = JoinRules { columns_max: 0, ..rules() };
    let event = rows(2, &[featured("c", 2, json!({"a": "blue", "a_text": 4}))]);
    assert_eq!(features_of(&first_by(&[event], vec![], &capped).rows), expected[2..]);
}

#[test]
fn beyond_the_cap_features_and_tags_go_into_json_whatever_came_first() {
    let two = JoinRules { columns_max: 2, ..rules() };
    let events = [
        with(featured("a", 0, json!({"d": 1, "c": 2})), json!({"tags": {"z": "1", "y": "2"}})),
        with(featured("b", 1, json!({"b": "x", "a": 4})), json!({"tags": {"x": "3"}})),
        featured("c", 2, json!({"e": 5})),
    ];
    let parts: Vec<RecordBatch> =
        events.iter().enumerate().map(|(n, e)| rows(n as i64, std::slice::from_ref(e))).collect();
    let at_once = first_by(&parts, vec![], &two);
    for order in [[0, 1, 2], [2, 1, 0], [1, 0, 2]] {
        let mut joined: Option<Joined> = None;
        for part in order {
            let previous = joined.as_ref().map(|j| (&j.rows, j.counts.duplicates));
            joined = Some(join(previous, &[(parts[part].clone(), false)], vec![], &two).unwrap());
        }
        assert_eq!(joined.unwrap().rows, at_once.rows, "{order:?}");
    }
    let names: Vec<String> = at_once.rows.schema().fields().iter().map(|f| f.name().clone()).collect();
    let names: Vec<&str> =
        names.iter().map(String::as_str).filter(|n| n.starts_with("feature") || n.starts_with("tag")).collect();
    assert_eq!(names, ["feature_a", "feature_b_text", "features_json", "tag_x", "tag_y", "tags_json"]);
    assert_eq!(texts(&at_once.rows, "features_json")[0].as_deref(), Some(r#"{"c":2.0,"d":1.0}"#));
}

#[test]
fn what_segments_are_made_of_is_a_column_before_all_others_and_after_a_change_of_settings_too() {
    let one = JoinRules { columns_max: 1, ..rules() };
    let segmented = JoinRules {
        segment_columns: ["features.z", "region"].into_iter().flat_map(segment_columns).collect(),
        ..one.clone()
    };
    let event = |id, at, z: serde_json::Value| {
        with(featured(id, at, json!({"a": 1, "z": z})), json!({"tags": {"channel": "web", "region": "eu"}}))
    };
    let parts = [rows(0, &[event("a", 0, json!("red"))]), rows(1, &[event("b", 1, json!("blue"))])];
    let at_once = first_by(&parts, vec![], &segmented);
    assert_eq!(texts(&at_once.rows, "feature_z_text"), [Some("red".to_owned()), Some("blue".to_owned())]);
    assert_eq!(texts(&at_once.rows, "tag_region"), [Some("eu".to_owned()), Some("eu".to_owned())]);
    assert_eq!(texts(&at_once.rows, "features_json")[0].as_deref(), Some(r#"{"a":1.0}"#));
    // Judged before under settings without segments: the column comes back out of the JSON.
    let before = first_by(&parts[..1], vec![], &one);
    assert_eq!(numbers(&before.rows, "feature_a"), [Some(1.0)]);
    let after = join(Some((&before.rows, 0)), &[(parts[1].clone(), false)], vec![], &segmented).unwrap();
    assert_eq!(after.rows, at_once.rows);
}

#[test]
fn a_copy_that_does_not_stand_takes_no_column_from_the_others() {
    let one = JoinRules { columns_max: 1, ..rules() };
    let copy = rows(0, &[featured("a", 5, json!({"a": 1}))]);
    let stands = rows(1, &[featured("a", 0, json!({"b": 2}))]);
    let at_once = first_by(&[copy.clone(), stands.clone()], vec![], &one);
    let steps = join(Some((&first_by(&[copy], vec![], &one).rows, 0)), &[(stands, false)], vec![], &one).unwrap();
    assert_eq!(at_once.rows, steps.rows);
    assert_eq!(numbers(&at_once.rows, "feature_b"), [Some(2.0)]);
}

#[test]
fn a_part_without_rows_is_a_table_without_rows() {
    let joined = first(&[], vec![label("a", TEN, Some("1"), 0)]);
    assert_eq!(joined.rows.num_rows(), 0);
    assert_eq!(joined.rows.num_columns(), driftline_schemas::history::FIXED_COLUMNS.len());
    assert_eq!(joined.counts.accepted(), 0);
    let joined = then(&joined, &[rows(0, &[prediction("a", TEN)])], vec![]);
    assert_eq!(joined.counts.unlabelled, 1);
}

#[test]
fn an_event_on_the_edge_and_ids_of_any_kind() {
    let ids = ["", "a", "A", "ä", "💥", " ", "a\"b"];
    let events: Vec<_> = ids.iter().skip(1).map(|id| prediction(id, TEN)).collect();
    let joined = first(
        &[rows(0, &events)],
        ids.iter().skip(1).enumerate().map(|(n, id)| label(id, TEN, Some(id), n as i64)).collect(),
    );
    for row in read(&joined.rows) {
        assert_eq!(row.label.as_deref(), Some(row.id.as_str()));
    }
}
