//! **T4**, **H1** and **A1** of the join: however events are split into revisions, the rows are the same.
use std::collections::{BTreeMap, BTreeSet};

use arrow::array::RecordBatch;
use driftline_aggregator::join::{JoinRules, Joined, join};
use driftline_aggregator::objects::LabelRow;
use driftline_schemas::clock::{DAY, MINUTE, Micros, SECOND};
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::join::rules;
use crate::world::{Row, TEN, label, prediction, read, rows, with};

/// A prediction and the revision that brings it.
#[derive(Debug, Clone)]
struct Given {
    id: u8,
    version: u8,
    second: i64,
    features: Vec<(String, Value)>,
    revision: usize,
}

#[derive(Debug, Clone)]
struct GivenLabel {
    id: u8,
    delay: Micros,
    class: Option<u8>,
    /// Revisions that bring it: a label may be routed more than once.
    revisions: Vec<usize>,
}

const REVISIONS: usize = 4;

fn given() -> impl Strategy<Value = Given> {
    let name = prop_oneof![Just("a"), Just("a_text"), Just("b"), Just("c"), Just("d")].prop_map(str::to_owned);
    let value = prop_oneof![
        (-3i32..3).prop_map(|n| json!(n)),
        Just(json!("x")),
        Just(json!(true)),
        Just(Value::Null),
        Just(json!(0.1))
    ];
    let features = proptest::collection::vec((name, value), 0..4);
    (0u8..6, 0u8..2, 0i64..20, features, 0..REVISIONS).prop_map(|(id, version, second, features, revision)| Given {
        id,
        version,
        second,
        features,
        revision,
    })
}

fn given_label() -> impl Strategy<Value = GivenLabel> {
    let delay = prop_oneof![
        Just(-10 * MINUTE - 5 * SECOND),
        Just(30 * DAY + 5 * SECOND),
        0i64..3 * SECOND,
        Just(DAY),
        Just(-10 * MINUTE + 10 * SECOND)
    ];
    let revisions = proptest::collection::vec(0..REVISIONS, 1..3);
    (0u8..7, delay, proptest::option::weighted(0.8, 0u8..3), revisions)
        .prop_map(|(id, delay, class, revisions)| GivenLabel { id, delay, class, revisions })
}

fn event(given: &Given) -> Value {
    let features: serde_json::Map<String, Value> = given.features.iter().cloned().collect();
    let event = prediction(&format!("id-{}", given.id), TEN + given.second * SECOND);
    with(event, json!({"model_version": given.version.to_string(), "features": features, "score": 0.5}))
}

fn label_row(n: usize, given: &GivenLabel) -> LabelRow {
    let class = given.class.map(|class| class.to_string());
    label(&format!("id-{}", given.id), TEN + given.delay, class.as_deref(), n as i64)
}

fn without_revision(joined: &Joined) -> RecordBatch {
    let mut rows = joined.rows.clone();
    rows.remove_column(rows.schema().index_of("revision").unwrap());
    rows
}

/// The rows by the words of the design, computed without any of the join's code.
fn worked_out(predictions: &[Given], labels: &[GivenLabel], rules: &JoinRules) -> BTreeSet<Row> {
    let mut groups: BTreeMap<(u8, u8), (Micros, usize)> = BTreeMap::new();
    for (offset, given) in predictions.iter().enumerate() {
        let rank = (TEN + given.second * SECOND, offset);
        let first = groups.entry((given.version, given.id)).or_insert(rank);
        *first = rank.min(*first);
    }
    let mut all = BTreeSet::new();
    for ((version, id), (time, offset)) in groups {
        let eligible = labels.iter().enumerate().filter(|(_, label)| {
            let delay = TEN + label.delay - time;
            label.id == id && delay >= -10 * MINUTE && delay <= rules.label_horizon
        });
        let last = eligible.max_by_key(|(n, label)| (label.delay, *n));
        all.insert(Row {
            version: version.to_string(),
            id: format!("id-{id}"),
            time,
            partition: 0,
            offset: offset as i64,
            label: last.and_then(|(_, label)| label.class).map(|class| class.to_string()),
            label_from: last.map(|(n, label)| (TEN + label.delay, 0, n as i64)),
            invalid: None,
            after_final: false,
        });
    }
    all
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn t4_any_split_into_revisions_gives_the_same_rows_and_account(
        predictions in proptest::collection::vec(given(), 0..14),
        labels in proptest::collection::vec(given_label(), 0..10),
        columns_max in prop_oneof![Just(500usize), 0usize..5],
        reversed in any::<bool>(),
    ) {
        let rules = JoinRules { columns_max, ..rules() };
        let one = |n: usize, given: &Given| (rows(n as i64, &[event(given)]), false);
        let mut all: Vec<_> = predictions.iter().enumerate().map(|(n, given)| one(n, given)).collect();
        let all_labels: Vec<_> = labels.iter().enumerate().map(|(n, given)| label_row(n, given)).collect();
        if reversed {
            all.reverse();
        }
        let at_once = join(None, &all, all_labels, &rules).unwrap();
        let mut steps: Option<Joined> = None;
        for revision in 0..REVISIONS {
            let batches: Vec<_> = predictions.iter().enumerate().filter(|(_, given)| given.revision == revision)
                .map(|(n, given)| one(n, given)).collect();
            // A label that found its prediction's window before the prediction came is routed again with it.
            let ids: BTreeSet<u8> = predictions.iter().filter(|given| given.revision == revision).map(|given| given.id).collect();
            let arrived = |label: &GivenLabel| label.revisions.iter().any(|at| *at < revision) && ids.contains(&label.id);
            let labels: Vec<_> = labels.iter().enumerate()
                .filter(|(_, label)| label.revisions.contains(&revision) || arrived(label))
                .map(|(n, label)| label_row(n, label)).collect();
            let previous = steps.as_ref().map(|joined| (&joined.rows, joined.counts.duplicates));
            let rules = JoinRules { revision: revision as u64 + 1, ..rules.clone() };
            steps = Some(join(previous, &batches, labels, &rules).unwrap());
        }
        let steps = steps.unwrap();
        prop_assert_eq!(without_revision(&steps), without_revision(&at_once));
        prop_assert_eq!(&steps.counts, &at_once.counts);
        // H1: one row per (version, id); A1: every prediction is in one term.
        let found = read(&at_once.rows);
        let identities: BTreeSet<_> = found.iter().map(|row| (row.version.clone(), row.id.clone())).collect();
        prop_assert_eq!(identities.len(), found.len());
        prop_assert_eq!(at_once.counts.accepted(), predictions.len() as u64);
        prop_assert_eq!(found.into_iter().collect::<BTreeSet<_>>(), worked_out(&predictions, &labels, &rules));
        // Nothing of any feature is lost.
        crate::join::features_of(&at_once.rows);
    }
}
