//! Retention: nothing that is needed goes, nobody takes what is in a deleted slot for a link, and the accounts add up.
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use driftline_aggregator::retain::{self, foldable};
use driftline_collector::chain::seek_tail;
use driftline_collector::flush::{Appended, append, encode};
use driftline_ledger::{Error as LedgerError, LedgerState, Outcome, Replica};
use driftline_schemas::clock::{self, DAY, MINUTE, Micros};
use driftline_schemas::config::RetentionConfig;
use driftline_schemas::event::EventKind;
use driftline_schemas::ledger::{
    Entry, Input, LEDGER_FORMAT, LEDGER_FORMAT_FIRST, Record, RetiredObjects, WindowState,
};
use driftline_schemas::raw::{Genesis, RawFooter, RetiredTotals};
use driftline_store::{FaultPlan, Manifest, RetryPolicy, Store, TopicKind, chain_name, paths};
use object_store::memory::InMemory;
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use crate::gated::{self, Make, Step, every_schedule};
use crate::stage::{World, check, complete, judge_all, publish, settled};
use crate::world::{PREDICTIONS, TEN, prediction, sealed};

/// Later than anything here was written; the same each time, so that equal schedules leave equal bytes.
const NOW: Micros = 4_000_000_000_000_000;
const CHAIN: &str = "driftline.predictions~0";

fn everything_at_once() -> RetentionConfig {
    RetentionConfig {
        raw: Some(0),
        history: Some(0),
        metrics_log: Some(0),
        metrics: Some(0),
        routed: Some(0),
        ledger: None,
        grace: 0,
    }
}

fn object(from: i64, to: i64) -> driftline_collector::flush::EncodedObject {
    object_of("test", from, to)
}

fn object_of(writer: &str, from: i64, to: i64) -> driftline_collector::flush::EncodedObject {
    let events: Vec<Value> = (from..to).map(|n| prediction(&format!("id-{n}"), TEN)).collect();
    let sealed = sealed(EventKind::Predictions, 0, from, &events, TEN + DAY);
    encode(&sealed, CHAIN, None, writer).unwrap()
}

fn genesis() -> Genesis {
    Genesis { format: 1, topic: PREDICTIONS.into(), topic_id: None, partition: 0, from: 0, created_at: 0 }
}

/// A chain of [0, 3), [3, 5), [5, 9), all applied.
async fn chain_of_three() -> (Arc<InMemory>, Store) {
    let inner = Arc::new(InMemory::new());
    let store = gated::open(&inner);
    Manifest::register_topic(&store, PREDICTIONS, TopicKind::Predictions, None, 1, clock::now()).await.unwrap();
    store.create(&paths::genesis(CHAIN), serde_json::to_vec(&genesis()).unwrap().into()).await.unwrap();
    let mut replica = Replica::open(&store, "test").await.unwrap();
    let mut entries = Vec::new();
    let info = driftline_schemas::ledger::ChainInfo {
        topic: PREDICTIONS.into(),
        partition: 0,
        kind: driftline_schemas::raw::RawKind::Predictions,
        current: true,
        genesis: Some(0),
    };
    entries.push(Entry::Chains { chains: [(CHAIN.to_owned(), info)].into() });
    for (from, to) in [(0, 3), (3, 5), (5, 9)] {
        append(&store, &object(from, to)).await.unwrap();
        entries.push(Entry::Applied(driftline_schemas::ledger::Applied {
            chain: CHAIN.into(),
            from,
            to,
            written_at: 0,
            records: (to - from) as u64,
            skipped: 0,
            accepted: (to - from) as u64,
            rejected: BTreeMap::new(),
            gap: false,
            forgotten: BTreeMap::new(),
            untracked: 0,
            models: Vec::new(),
        }));
    }
    replica.append_anywhere(&entries, 1).await.unwrap();
    (inner, store)
}

/// The boundary at 5 stands in the ledger; nothing is done about it yet.
async fn given_up_to_five() -> Arc<InMemory> {
    let (inner, store) = chain_of_three().await;
    let mut replica = Replica::open(&store, "test").await.unwrap();
    let totals =
        RetiredTotals { records: 5, accepted: 5, models: [("m".to_owned(), 5)].into(), ..RetiredTotals::default() };
    let retired = RetiredObjects { chain: CHAIN.into(), to: 5, objects: vec![0, 3], totals };
    replica.append_anywhere(&[Entry::Retired(retired)], 2).await.unwrap();
    inner
}

/// Retention that has read the ledger, and carries out what stands there.
fn retention(state: LedgerState) -> impl Fn(Store) -> gated::Task {
    move |store| {
        let state = state.clone();
        Box::pin(async move {
            let mut replica = Replica::at(&store, "retention", state.clone());
            let config = RetentionConfig { grace: 0, ..RetentionConfig::default() };
            retain::pass(&store, &mut replica, &config, NOW).await.unwrap();
        })
    }
}

async fn state_of(inner: &Arc<InMemory>) -> LedgerState {
    Replica::open(&gated::open(inner), "reader").await.unwrap().state
}

/// A collector that stood still with its tail at 3, and so many records buffered: it must learn that the chain ends at 9.
fn zombie(to: i64) -> impl Fn(Store) -> gated::Task {
    move |store| {
        Box::pin(async move {
            match append(&store, &object_of("zombie", 3, to)).await.unwrap() {
                Appended::Ours => panic!("a deleted slot was filled, and the writer goes on from it"),
                Appended::Theirs(tail) => assert_eq!(tail.to, 9),
            }
        })
    }
}

fn reader(store: Store) -> gated::Task {
    Box::pin(async move {
        let tail = seek_tail(&store, CHAIN, &genesis(), Some(3)).await.unwrap();
        assert_eq!(tail.to, 9, "a reader took something else for the chain's end");
    })
}

/// What must hold when all is done: nothing lies behind the boundary, and the chain goes on where it ended.
async fn exact(inner: Arc<InMemory>, schedule: Vec<Step>) {
    let store = gated::open(&inner);
    let died = schedule.iter().any(|step| matches!(step, Step::Die(_)));
    for from in [0, 3] {
        let found = store.head(&paths::raw_object(CHAIN, from)).await.unwrap();
        // Only a writer that died between creating and looking leaves something, and nobody ever reaches it.
        assert!(found.is_none() || (died && from == 3), "{from} {schedule:?}");
    }
    for applied in [None, Some(0), Some(3), Some(9)] {
        let tail = seek_tail(&store, CHAIN, &genesis(), applied).await.unwrap();
        assert_eq!(tail.to, 9, "{schedule:?}");
    }
    assert!(matches!(append(&store, &object(9, 11)).await.unwrap(), Appended::Ours), "{schedule:?}");
    let Appended::Theirs(tail) = append(&store, &object(3, 6)).await.unwrap() else { panic!("{schedule:?}") };
    assert_eq!(tail.to, 11);
    let state = Replica::open(&store, "reader").await.unwrap().state;
    assert_eq!(state.chains[CHAIN].kept_from(), Some(5));
}

#[tokio::test]
async fn c3_no_interleaving_lets_a_stalled_writer_go_on_from_a_deleted_slot() {
    let start = given_up_to_five().await;
    let retention = retention(state_of(&start).await);
    // Its batch ends before, at and beyond the boundary, and beyond the chain's end.
    let (mut schedules, mut states) = (0, 0);
    for to in [4, 5, 7, 12] {
        let zombie = zombie(to);
        let tasks: [Make<'_>; 2] = [&zombie, &retention];
        let (more, through) = every_schedule(&start, &tasks, Some(0), exact).await;
        (schedules, states) = (schedules + more, states + through);
    }
    println!("{schedules} interleavings of a stalled writer that may die and retention, through {states} states");
    assert!(schedules > 100_000, "{schedules}");
}

#[tokio::test]
async fn c3_no_interleaving_shows_a_reader_another_end() {
    let start = given_up_to_five().await;
    let retention = retention(state_of(&start).await);
    let tasks: [Make<'_>; 2] = [&reader, &retention];
    let next = &retention;
    let (schedules, states) = every_schedule(&start, &tasks, Some(1), |inner, schedule| async move {
        // Retention that died is finished by the next pass.
        next(gated::open(&inner)).await;
        exact(inner, schedule).await;
    })
    .await;
    println!("{schedules} interleavings of a reader and retention that may die, through {states} states");
    assert!(schedules > 10_000, "{schedules}");
}

/// An object that a dead zombie has left in a deleted slot, beyond the boundary at its end, fools nobody who begins there.
#[tokio::test]
async fn c3_what_a_dead_writer_left_behind_the_boundary_is_no_link() {
    let inner = given_up_to_five().await;
    let store = gated::open(&inner);
    retention(state_of(&inner).await)(store.clone()).await;
    let orphan = object(3, 20);
    store.create(&paths::raw_object(CHAIN, 3), orphan.bytes.clone()).await.unwrap();
    for applied in [None, Some(3), Some(5)] {
        assert_eq!(seek_tail(&store, CHAIN, &genesis(), applied).await.unwrap().to, 9);
    }
    // Nor by facts that name it.
    let facts = driftline_schemas::raw::Facts {
        format: 1,
        position: 20,
        tail: 20,
        tail_from: Some(3),
        broker_end: 20,
        confirmed_at: 0,
        at_end_since: 0,
    };
    store.put(&paths::facts(CHAIN), serde_json::to_vec(&facts).unwrap().into()).await.unwrap();
    assert_eq!(seek_tail(&store, CHAIN, &genesis(), None).await.unwrap().to, 9);
    // Its writer, back again, takes it away itself.
    let Appended::Theirs(tail) = append(&store, &orphan).await.unwrap() else { panic!("it was taken for a commit") };
    assert_eq!(tail.to, 9);
    assert!(store.head(&paths::raw_object(CHAIN, 3)).await.unwrap().is_none());
}

#[tokio::test]
async fn c3_no_interleaving_lets_a_stalled_decider_fork_the_ledger() {
    let (start, store) = chain_of_three().await;
    let observed = |n: i64| Entry::Task {
        model: format!("m{n}"),
        task: driftline_schemas::tables::Task::Binary,
        positive_class: None,
    };
    let stale = Replica::open(&store, "stale").await.unwrap().state;
    let mut replica = Replica::open(&store, "test").await.unwrap();
    for n in 0..3 {
        replica.append_anywhere(&[observed(n)], 5).await.unwrap();
    }
    // A snapshot of all but the last record.
    let mut until = stale.clone();
    for seq in stale.next_seq..stale.next_seq + 2 {
        let record = store.get(&format!("ctl/{seq:020}.json")).await.unwrap().unwrap();
        until.apply(&serde_json::from_slice::<Record>(&record.bytes).unwrap());
    }
    let bytes = serde_json::to_vec(&until).unwrap();
    store.create(&paths::snapshot(until.next_seq), bytes.into()).await.unwrap();
    let expected = replica.state.clone();
    let zombie = move |store: Store| -> gated::Task {
        let stale = stale.clone();
        Box::pin(async move {
            let mut replica = Replica::at(&store, "zombie", stale.clone());
            let entry = Entry::Task {
                model: "zombie".into(),
                task: driftline_schemas::tables::Task::Regression,
                positive_class: None,
            };
            match replica.append(&[entry], None, 9).await {
                Ok(Outcome::Theirs(record)) => assert_eq!(record.writer, "test"),
                Err(LedgerError::Behind { .. }) => {}
                other => panic!("a deleted slot of the ledger was filled: {other:?}"),
            }
        })
    };
    let present = replica.state.clone();
    let retention = move |store: Store| -> gated::Task {
        let present = present.clone();
        Box::pin(async move {
            let mut replica = Replica::at(&store, "retention", present.clone());
            let config = RetentionConfig { ledger: Some(0), grace: 0, ..RetentionConfig::default() };
            retain::pass(&store, &mut replica, &config, NOW).await.unwrap();
        })
    };
    let tasks: [Make<'_>; 2] = [&zombie, &retention];
    let (schedules, states) = every_schedule(&start, &tasks, Some(0), |inner, schedule| {
        let expected = expected.clone();
        async move {
            let store = gated::open(&inner);
            let state = Replica::open(&store, "reader").await.unwrap().state;
            assert_eq!(state, expected, "{schedule:?}");
            // What replays from the boundary is what replayed from the beginning; the first records are gone.
            let died = schedule.iter().any(|step| matches!(step, Step::Die(_)));
            for seq in 0..expected.next_seq - 1 {
                let found = store.head(&format!("ctl/{seq:020}.json")).await.unwrap();
                assert!(found.is_none() || died, "{seq} {schedule:?}");
            }
        }
    })
    .await;
    println!("{schedules} interleavings of a stalled decider that may die and retention, through {states} states");
    assert!(schedules > 1_000, "{schedules}");
}

/// Retention between the objects of a stream, on a store that fails: the outcome is that of an undisturbed run.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t4_retention_in_the_midst_of_a_stream_changes_nothing() {
    for seed in 0..3 {
        let world = World::random(seed + 20, 200, 160);
        let store = Store::in_memory();
        world.open(&store).await;
        let (collected, stop) = (CancellationToken::new(), CancellationToken::new());
        let evaluator = tokio::spawn(complete(store.clone(), stop.clone()));
        let config = RetentionConfig { history: None, metrics: None, metrics_log: None, ..everything_at_once() };
        let deleted = AtomicUsize::new(0);
        let publisher = async {
            let objects = world.objects(seed);
            for (n, object) in objects.iter().enumerate() {
                publish(&store, object).await;
                if n % 7 == 3 {
                    settled(&store, &objects[..=n]).await;
                    // A pass that dies at some request, and then a whole one.
                    let plan = FaultPlan::new(seed).down_after(n as u64 * 5 % 60);
                    let dying = store.clone().with_faults(plan).with_retry(RetryPolicy::never());
                    if let Ok(mut replica) = Replica::open(&dying, "dying").await {
                        let _ = retain::pass(&dying, &mut replica, &config, clock::now_micros()).await;
                    }
                    let mut replica = Replica::open(&store, "house").await.unwrap();
                    let kept = retain::pass(&store, &mut replica, &config, clock::now_micros()).await.unwrap();
                    deleted.fetch_add(kept.deleted as usize, Ordering::SeqCst);
                    nothing_needed_is_gone(&store, &replica.state).await;
                }
            }
            collected.cancel();
        };
        tokio::join!(publisher, judge_all(&store, 1 + seed as usize % 2, &collected));
        stop.cancel();
        evaluator.await.unwrap();
        let state = check(&store, &world).await;
        // Predictions of all partitions; labels may still be followed by their predictions, and stay.
        assert!(deleted.load(Ordering::SeqCst) > 3, "{deleted:?}");
        assert!(state.chains.values().filter(|chain| chain.retired.is_some()).count() == 3);
        accounts_add_up(&store, &state).await;
    }
}

async fn nothing_needed_is_gone(store: &Store, state: &LedgerState) {
    for window in state.models.values().flat_map(|model| model.windows.values()) {
        for input in window.pending.iter().chain(window.open.iter().flat_map(|job| &job.inputs)) {
            let (Input::Raw { path, .. } | Input::Routed { path }) = input;
            assert!(store.head(path).await.unwrap().is_some(), "{path}");
        }
    }
    for object in &state.labels {
        let path = paths::raw_object(&object.chain, object.from as u64);
        assert!(store.head(&path).await.unwrap().is_some(), "{path}");
    }
}

/// A1 and C1 across the boundary: what lies behind it and what is there are what the ledger has applied.
async fn accounts_add_up(store: &Store, state: &LedgerState) {
    for (name, chain) in &state.chains {
        let mut totals = chain.retired.as_ref().map(|retired| retired.totals.clone()).unwrap_or_default();
        let mut at = chain.kept_from().unwrap();
        while let Some(object) = store.get(&paths::raw_object(name, at as u64)).await.unwrap() {
            let footer = RawFooter::from_bytes(&object.bytes).unwrap();
            assert_eq!(footer.from, at);
            totals.add(&footer);
            at = footer.to;
        }
        assert_eq!(Some(at), chain.applied_to, "{name}");
        assert_eq!((totals.records, totals.accepted), (chain.records, chain.accepted), "{name}");
        assert_eq!(totals.records + totals.gaps, (at - chain.info.genesis.unwrap()) as u64, "{name}");
    }
}

#[tokio::test]
async fn a_store_from_which_nothing_was_deleted_is_read_by_older_builds_and_another_is_not() {
    let (_, store) = chain_of_three().await;
    let format = async || {
        let manifest = store.get(paths::MANIFEST).await.unwrap().unwrap();
        serde_json::from_slice::<Value>(&manifest.bytes).unwrap()["format_version"].as_u64()
    };
    let formats = async || {
        let mut formats = Vec::new();
        for seq in 0.. {
            let Some(record) = store.get(&format!("ctl/{seq:020}.json")).await.unwrap() else { break };
            formats.push(serde_json::from_slice::<Record>(&record.bytes).unwrap().format);
        }
        formats
    };
    let mut replica = Replica::open(&store, "test").await.unwrap();
    retain::pass(&store, &mut replica, &RetentionConfig::default(), clock::now_micros()).await.unwrap();
    assert_eq!((format().await, formats().await), (Some(1), vec![LEDGER_FORMAT_FIRST]));
    let config = RetentionConfig { raw: Some(0), grace: 0, ..RetentionConfig::default() };
    retain::pass(&store, &mut replica, &config, clock::now_micros() + 1_000).await.unwrap();
    // Retired and deleted: both records, and the manifest, are of a format that older builds refuse by its number.
    assert_eq!((format().await, formats().await), (Some(2), vec![LEDGER_FORMAT_FIRST, LEDGER_FORMAT, LEDGER_FORMAT]));
    // This build refuses the next one by the same rule.
    let seq = replica.state.next_seq;
    let newer = format!(r#"{{"format":{},"seq":{seq},"entries":[{{"type":"what"}}]}}"#, LEDGER_FORMAT + 1);
    store.put(&format!("ctl/{seq:020}.json"), newer.into()).await.unwrap();
    let refused = replica.catch_up().await.unwrap_err().to_string();
    assert!(refused.contains("which this version does not know: upgrade Driftline here"), "{refused}");
    let manifest = r#"{"format_version":3}"#;
    store.put(paths::MANIFEST, manifest.into()).await.unwrap();
    assert!(matches!(Manifest::load(&store).await, Err(driftline_store::Error::Unsupported { .. })));
}

#[tokio::test]
async fn the_grace_is_kept() {
    let (_, store) = chain_of_three().await;
    let mut replica = Replica::open(&store, "test").await.unwrap();
    let config = RetentionConfig { raw: Some(0), grace: 30 * MINUTE, ..RetentionConfig::default() };
    let (now, minute) = (clock::now_micros() + 1_000, MINUTE);
    let mut pass = async |now: Micros| retain::pass(&store, &mut replica, &config, now).await.unwrap();
    assert_eq!(pass(now).await.retired, 3);
    assert_eq!((pass(now + 29 * minute).await.deleted, pass(now + 31 * minute).await.deleted), (0, 3));
    assert_eq!(pass(now + 32 * minute).await, retain::Kept::default());
}

/// Windows that are final go when their history is too old: their account stays, in one row, and late rows join it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a1_folded_windows_keep_their_account_and_are_never_judged_again() {
    let world = World::random(31, 120, 60);
    let store = Store::in_memory();
    world.open(&store).await;
    for object in world.objects(1) {
        publish(&store, &object).await;
    }
    let (collected, stop) = (CancellationToken::new(), CancellationToken::new());
    collected.cancel();
    let evaluator = tokio::spawn(complete(store.clone(), stop.clone()));
    judge_all(&store, 1, &collected).await;
    let mut replica = Replica::open(&store, "test").await.unwrap();
    let now = clock::now_micros();
    // Nothing is final yet, so nothing goes, however old.
    assert_eq!(retain::pass(&store, &mut replica, &everything_at_once(), now).await.unwrap().folded, 0);
    let finals: Vec<Entry> = replica
        .state
        .models
        .iter()
        .flat_map(|(name, model)| {
            let state = WindowState::Final;
            model.windows.values().map(move |w| Entry::State { model: name.clone(), window: w.window, state })
        })
        .collect();
    replica.append_anywhere(&finals, now).await.unwrap();
    judge_all(&store, 1, &collected).await;
    replica.catch_up().await.unwrap();
    let before: BTreeMap<String, u64> = replica
        .state
        .models
        .iter()
        .map(|(name, model)| (name.clone(), model.windows.values().map(|w| w.published().accepted()).sum()))
        .collect();
    for model in replica.state.models.values() {
        // Not while they are young.
        assert_eq!(foldable(model, TEN), None);
        assert!(foldable(model, TEN + DAY).is_some());
    }
    let kept =
        retain::pass(&store, &mut replica, &everything_at_once(), clock::now_micros() + 60_000_000).await.unwrap();
    assert!(kept.folded > 3 && kept.deleted > 5, "{kept:?}");
    assert_eq!(store.list("history").await.unwrap(), []);
    assert_eq!(store.list("filters").await.unwrap(), []);
    assert_eq!(store.list("routed").await.unwrap(), []);
    for (name, model) in &replica.state.models {
        let folded = model.folded.as_ref().unwrap();
        assert!(model.windows.is_empty() && folded.counts.accepted() == before[name], "{folded:?}");
    }
    // A worker that stood still brings a window back; the next pass removes it.
    let orphan = "history/model_name=m/date=2026-01-05/20260105T100000Z_20260105T110000Z_p0.parquet";
    store.put(orphan, "zombie".into()).await.unwrap();
    // And a row comes for a window that is gone: it is counted, and no window is made for it.
    let [from] = [replica.state.chains[CHAIN].applied_to.unwrap()];
    let late = sealed(EventKind::Predictions, 0, from, &[prediction("late", TEN)], clock::now_micros());
    append(&store, &encode(&late, CHAIN, None, "test").unwrap()).await.unwrap();
    judge_all(&store, 1, &collected).await;
    retain::pass(&store, &mut replica, &everything_at_once(), clock::now_micros()).await.unwrap();
    assert_eq!(store.list("history").await.unwrap(), []);
    let model = &replica.state.models["m"];
    assert!(model.windows.is_empty());
    assert_eq!(model.folded.as_ref().unwrap().counts.accepted(), before["m"] + 1);
    // T1: a time before is in no window that reaches beyond.
    let folded = model.folded.as_ref().unwrap().before;
    assert!(
        replica.state.window_of("m", folded - 1).end <= folded && replica.state.window_of("m", folded).start >= folded
    );
    stop.cancel();
    evaluator.await.unwrap();
    assert_eq!(chain_name(PREDICTIONS, 0), CHAIN);
}
