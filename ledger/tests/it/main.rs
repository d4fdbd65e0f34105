//! The ledger on a store in memory: replay, races, snapshots, formats.
#![allow(clippy::unwrap_used)] // in a test, a panic is the report
mod eras;

use std::collections::BTreeMap;
use std::time::Duration;

use driftline_ledger::{Error, LedgerState, Outcome, Replica};
use driftline_schemas::config::{JudgeConfig, ModelSettings, ReviseConfig};
use driftline_schemas::event::Reason;
use driftline_schemas::ledger::{
    Applied, AppliedModel, ChainInfo, ConfigEpoch, Entry, Input, Job, PartCounts, Record, Shape, WindowState,
};
use driftline_schemas::raw::{Facts, RawKind};
use driftline_schemas::tables::Task;
use driftline_schemas::window::Window;
use driftline_store::{Fault, FaultPlan, RetryPolicy, Store, paths};

const HOUR: i64 = 3_600_000_000;
const WINDOW: Window = Window { start: 10 * HOUR, end: 11 * HOUR };

fn config() -> JudgeConfig {
    JudgeConfig {
        revise: ReviseConfig { min_growth: 0.1, min_delay: 1, max_delay: 2, max_amplification: 10.0 },
        idle_timeout: 1,
        accept_unknown_models: true,
        models_max: 10,
        max_feature_columns: 5,
        max_segment_values: 5,
        defaults: ModelSettings::default(),
        models: BTreeMap::from([("m".to_owned(), ModelSettings { threshold: 0.1 + 0.2, ..ModelSettings::default() })]),
    }
}

fn chains() -> Entry {
    let info =
        |topic: &str, kind| ChainInfo { topic: topic.into(), partition: 0, kind, current: true, genesis: Some(0) };
    let chains = [("p~0", info("p", RawKind::Predictions)), ("l~0", info("l", RawKind::Labels))];
    Entry::Chains { chains: chains.map(|(name, info)| (name.to_owned(), info)).into() }
}

fn applied(chain: &str, from: i64) -> Entry {
    let mut shape = Shape { scored: 1, ..Shape::default() };
    shape.push_class("fraud", 1, 0.1 + 0.2);
    let models = vec![AppliedModel {
        model: "m".into(),
        rows: 10,
        min_event_time: WINDOW.start,
        max_event_time: WINDOW.start + from,
        windows: if chain == "p~0" { vec![(WINDOW, 10)] } else { vec![] },
        shape: (chain == "p~0").then_some(shape),
    }];
    Entry::Applied(Applied {
        chain: chain.into(),
        from,
        to: from + 10,
        written_at: WINDOW.end,
        records: 9,
        skipped: 1,
        accepted: 10,
        rejected: BTreeMap::from([(Reason::NotJson, 2)]),
        gap: false,
        forgotten: BTreeMap::new(),
        untracked: 0,
        models,
    })
}

fn job(revision: u64, inputs: Vec<Input>) -> Job {
    Job {
        model: "m".into(),
        window: WINDOW,
        revision,
        previous: revision - 1,
        parts: 1,
        state: WindowState::Open,
        inputs,
        rejudge: false,
        epoch: 1,
        task: Task::Binary,
        positive_class: Some("fraud".into()),
        refusal: None,
        forgets: 0,
        decided_at: WINDOW.end,
    }
}

/// One entry of every kind, in an order that could be.
fn every_kind() -> Vec<Entry> {
    let (model, window) = ("m".to_owned(), WINDOW);
    let raw = Input::Raw { path: paths::raw_object("p~0", 0), after_final: false };
    let facts = Facts {
        format: 1,
        position: 10,
        tail: 10,
        tail_from: Some(0),
        broker_end: 10,
        confirmed_at: 12 * HOUR,
        at_end_since: 11 * HOUR,
    };
    let counts = PartCounts { rows: 9, duplicates: 1, labelled: 4, unlabelled: 5, bytes: 900, ..PartCounts::default() };
    vec![
        Entry::Config(Box::new(ConfigEpoch { epoch: 1, config: config(), from: BTreeMap::new() })),
        chains(),
        applied("p~0", 0),
        applied("l~0", 0),
        Entry::Observed { chain: "p~0".into(), facts },
        Entry::Routed { model: model.clone(), window, labels: 10 },
        Entry::Task { model: model.clone(), task: Task::Binary, positive_class: Some("fraud".into()) },
        Entry::Decided(job(1, vec![raw, Input::Routed { path: "routed/x".into() }])),
        Entry::Judged { model: model.clone(), window, revision: 1, part: 0, counts },
        Entry::Completed { model: model.clone(), window, revision: 1 },
        Entry::State { model: model.clone(), window, state: WindowState::Sealed },
        Entry::Reevaluate { model, from: None, to: Some(WINDOW.end) },
    ]
}

#[test]
fn every_kind_of_entry_is_read_as_it_was_written() {
    for entry in every_kind() {
        let text = serde_json::to_string(&entry).unwrap();
        assert_eq!(serde_json::from_str::<Entry>(&text).unwrap(), entry, "{text}");
    }
    let gap = Applied {
        gap: true,
        forgotten: BTreeMap::new(),
        untracked: 0,
        models: vec![],
        rejected: BTreeMap::new(),
        ..match applied("p~0", 5) {
            Entry::Applied(applied) => applied,
            _ => unreachable!(),
        }
    };
    let text = serde_json::to_string(&gap).unwrap();
    assert_eq!(serde_json::from_str::<Applied>(&text).unwrap(), gap);
}

#[test]
fn a_state_is_read_as_it_was_written_after_every_record() {
    let mut state = LedgerState::default();
    for entry in every_kind() {
        let record = Record {
            format: 1,
            seq: state.next_seq,
            decided_at: 11 * HOUR,
            writer: "one".into(),
            routed: Some("routed/x".into()),
            entries: vec![entry],
        };
        state.apply(&record);
        let text = serde_json::to_vec(&state).unwrap();
        assert_eq!(serde_json::from_slice::<LedgerState>(&text).unwrap(), state);
    }
    let window = state.window("m", WINDOW.start).unwrap();
    assert_eq!((window.completed, window.published().accepted(), window.state), (1, 10, WindowState::Sealed));
    assert!(window.rejudge && window.pending.is_empty());
    let chain = &state.chains["p~0"];
    assert_eq!((chain.applied_to, chain.records + chain.skipped, chain.rejected[&Reason::NotJson]), (Some(10), 10, 2));
}

#[test]
fn c3_reports_of_a_revision_that_is_not_open_change_nothing() {
    let mut state = LedgerState::default();
    for entry in &every_kind()[..8] {
        state.apply_entry(entry, 11 * HOUR, Some("routed/x"));
    }
    let before = state.clone();
    let (model, window, counts) = ("m".to_owned(), WINDOW, PartCounts::default());
    for revision in [0, 2] {
        let judged = Entry::Judged { model: model.clone(), window, revision, part: 0, counts: counts.clone() };
        state.apply_entry(&judged, 0, None);
        state.apply_entry(&Entry::Completed { model: model.clone(), window, revision }, 0, None);
    }
    state.apply_entry(&Entry::Completed { model, window, revision: 1 }, 0, None);
    assert_eq!(state, before, "nothing was judged, so nothing is complete");
}

async fn append_all(store: Store, writer: &str, chain: &str, count: i64) -> Replica {
    let retry = || tokio::time::sleep(Duration::from_millis(1));
    let mut replica = loop {
        match Replica::open(&store, writer).await {
            Ok(replica) => break replica,
            Err(error) => assert!(error.is_transient(), "{error}"),
        }
        retry().await;
    };
    // The ledger's own state tells what is next, whatever became of an answer.
    loop {
        let from = replica.state.chains[chain].applied_to.unwrap();
        if from >= count * 10 {
            break;
        }
        match replica.append(&[applied(chain, from)], None, 11 * HOUR + from).await {
            Ok(Outcome::Mine | Outcome::Theirs(_)) => {}
            Err(error) => {
                assert!(error.is_transient(), "{error}");
                while replica.catch_up().await.is_err() {
                    retry().await;
                }
            }
        }
    }
    replica
}

#[tokio::test]
async fn c3_writers_that_race_apply_every_record_exactly_once() {
    for seed in 0..6 {
        let store = Store::in_memory();
        let mut first = Replica::open(&store, "first").await.unwrap();
        first.append_anywhere(&every_kind()[..2], 0).await.unwrap();
        let plan =
            FaultPlan::new(seed).share(Fault::Before, 0.1).share(Fault::After, 0.1).share(Fault::Unavailable, 0.05);
        let quick = RetryPolicy {
            max_elapsed: Duration::from_millis(3),
            base: Duration::from_millis(1),
            cap: Duration::from_millis(1),
        };
        let faulty = store.clone().with_faults(plan).with_retry(quick);
        // Two go for the same chain, one for another.
        let (mut one, mut two, mut three) = tokio::join!(
            append_all(faulty.clone(), "one", "p~0", 40),
            append_all(faulty.clone(), "two", "p~0", 40),
            append_all(faulty, "three", "l~0", 40),
        );
        for replica in [&mut one, &mut two, &mut three] {
            while replica.catch_up().await.is_err() {}
        }
        assert_eq!(one.state, two.state);
        assert_eq!(one.state, three.state);
        assert_eq!(Replica::open(&store, "reader").await.unwrap().state, one.state);
        for chain in ["p~0", "l~0"] {
            let chain = &one.state.chains[chain];
            assert_eq!((chain.applied_to, chain.accepted, chain.records), (Some(400), 400, 360), "each offset once");
        }
        assert_eq!(one.state.window("m", WINDOW.start).unwrap().rows, 400);
        assert_eq!(one.state.next_seq, 1 + 80);
    }
}

#[tokio::test]
async fn a_replica_from_a_snapshot_is_the_one_from_the_beginning() {
    let store = Store::in_memory();
    let mut replica = Replica::open(&store, "one").await.unwrap();
    let mut kinds = every_kind();
    for entry in kinds.drain(..) {
        replica.append_anywhere(&[entry], 11 * HOUR).await.unwrap();
    }
    for n in 1..1010 {
        replica.append_anywhere(&[applied("p~0", n * 10)], 11 * HOUR + n).await.unwrap();
    }
    assert!(store.get(paths::LATEST).await.unwrap().is_some());
    let plan = FaultPlan::new(0);
    let opened = Replica::open(&store.clone().with_faults(plan.clone()), "two").await.unwrap();
    assert_eq!(opened.state, replica.state);
    assert!(plan.calls().len() < 40, "{} requests: the snapshot was not used", plan.calls().len());
    // Advice that is wrong is only slow.
    for advice in ["{", r#"{"seq":5,"snapshot":"ctl/snapshots/none.json","applied":{}}"#] {
        store.put(paths::LATEST, advice.as_bytes().to_vec().into()).await.unwrap();
        assert_eq!(Replica::open(&store, "three").await.unwrap().state, replica.state);
    }
}

#[tokio::test]
async fn a_record_of_a_newer_format_is_refused_and_never_jumped_over() {
    let store = Store::in_memory();
    let mut replica = Replica::open(&store, "one").await.unwrap();
    let newer = r#"{"format":3,"seq":0,"entries":[{"type":"unheard_of"}]}"#;
    store.create("ctl/00000000000000000000.json", newer.as_bytes().to_vec().into()).await.unwrap();
    let refused = |error: Error| matches!(error, Error::Format { format: 3, .. }) && !error.is_transient();
    assert!(refused(Replica::open(&store, "two").await.err().unwrap()));
    assert!(refused(replica.catch_up().await.unwrap_err()));
    assert!(refused(replica.append(&[chains()], None, 0).await.unwrap_err()));
    assert_eq!(replica.state.next_seq, 0);
}

#[test]
fn label_objects_are_let_go_when_no_window_can_need_them() {
    let day = 24 * HOUR;
    let of = |at: i64, idle: bool| {
        let mut state = LedgerState::default();
        for entry in &every_kind()[..6] {
            state.apply_entry(entry, 11 * HOUR, Some("routed/x"));
        }
        if !idle {
            for chain in ["p~0", "l~0"] {
                let Entry::Applied(mut late) = applied(chain, 10) else { unreachable!() };
                late.models[0].max_event_time = 40 * day;
                late.models[0].windows = vec![];
                state.apply_entry(&Entry::Applied(late), 11 * HOUR, None);
            }
        }
        let seal = |state| Entry::State { model: "m".into(), window: WINDOW, state };
        state.apply_entry(&seal(WindowState::Sealed), at, None);
        assert!(state.labels.iter().any(|object| object.from == 0), "its window is not final");
        state.apply_entry(&seal(WindowState::Final), at, None);
        state.labels.iter().any(|object| object.from == 0)
    };
    assert!(!of(12 * HOUR, false), "all partitions have passed it");
    assert!(of(29 * day, true), "an idle partition may still bring its prediction");
    assert!(!of(31 * day, true), "but not for ever");
}
