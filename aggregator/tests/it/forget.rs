//! `forget`: nothing of the ids is left in any object, the rest is as if they had never come, and the accounts add up.
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use arrow::array::{Array, AsArray};
use arrow::datatypes::DataType;
use driftline_aggregator::Urgency;
use driftline_aggregator::decide::decide;
use driftline_aggregator::follow::Follower;
use driftline_aggregator::forget::carry_out;
use driftline_aggregator::judge::history_path;
use driftline_aggregator::objects;
use driftline_collector::flush::{append, encode};
use driftline_ledger::{ForgetKey, LedgerState, Outcome, Replica};
use driftline_schemas::clock;
use driftline_schemas::event::EventKind;
use driftline_schemas::ledger::{Entry, PartCounts};
use driftline_schemas::raw::RawFooter;
use driftline_store::{FaultPlan, Operation, RetryPolicy, Store, chain_name, paths};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::stage::{Rules, World, complete, judge_all, publish, settled};
use crate::world::{PREDICTIONS, Row, TEN, prediction, read, sealed, with};

/// Puts the request on record, as the command does.
async fn ask(store: &Store, model: &str, ids: &[&str]) -> Replica {
    let key = ForgetKey::load_or_create(store, ForgetKey::new([9; 16])).await.unwrap();
    let ids = ids.iter().map(|id| key.hash(model, id)).collect();
    let mut replica = Replica::open(store, "forget").await.unwrap();
    let entry = Entry::Forget { model: model.to_owned(), ids };
    while let Outcome::Theirs(_) =
        replica.append(std::slice::from_ref(&entry), None, clock::now_micros()).await.unwrap()
    {}
    replica
}

/// Every text in every object: names, bytes as they lie, and the values of all columns of Parquet.
async fn texts(store: &Store) -> Vec<(String, Vec<u8>)> {
    let mut texts = Vec::new();
    for listed in store.list("").await.unwrap() {
        let bytes = store.get(&listed.path).await.unwrap().unwrap().bytes;
        if listed.path.ends_with(".parquet")
            && let Some(batch) = objects::read_all(&bytes).unwrap()
        {
            for column in batch.columns() {
                let shown = match column.data_type() {
                    DataType::Binary => column.as_binary::<i32>().iter().flatten().flatten().copied().collect(),
                    _ => (0..column.len())
                        .flat_map(|row| {
                            let shown = arrow::util::display::array_value_to_string(column, row).unwrap();
                            [shown.into_bytes(), b"\n".to_vec()].concat()
                        })
                        .collect(),
                };
                texts.push((listed.path.clone(), shown));
            }
        }
        texts.push((listed.path.clone(), bytes.to_vec()));
        texts.push((listed.path.clone(), listed.path.into_bytes()));
    }
    texts
}

async fn nothing_is_left(store: &Store, ids: &[&str]) {
    for (path, text) in texts(store).await {
        for id in ids {
            let found = text.windows(id.len()).any(|window| window == id.as_bytes());
            assert!(!found, "{id} is still in {path}");
        }
    }
}

/// Ids that are no part of another, nor those of the other model, so that what is found is the id and nothing else.
fn named(mut world: World) -> World {
    for event in world.logs.values_mut().flatten() {
        event.id = if event.model == "m" { format!("<{}>", event.id) } else { format!("({})", event.id) };
    }
    world
}

/// Without the events of some ids of model `m`.
fn without(world: &World, ids: &[&str]) -> World {
    let logs = world.logs.iter().map(|(key, log)| {
        let stays = |event: &&crate::stage::Event| event.model != "m" || !ids.contains(&event.id.as_str());
        (*key, log.iter().filter(stays).cloned().collect())
    });
    World { logs: logs.collect() }
}

/// History is that of the events that are left; the accounts are those of all.
async fn check(store: &Store, world: &World, ids: &[&str]) -> LedgerState {
    let state = Replica::open(store, "reader").await.unwrap().state;
    let (rows, _) = without(world, ids).worked_out(&Rules::default());
    let (_, accepted) = world.worked_out(&Rules::default());
    let mut found = BTreeSet::new();
    let mut forgotten = 0;
    for (model, of_model) in &state.models {
        let model = crate::stage::MODELS.into_iter().find(|name| name == model).unwrap();
        for window in of_model.windows.values() {
            assert!(!window.is_dirty() && window.completed == window.revision, "{model} {window:?}");
            let mut accounted = PartCounts::default();
            for part in 0..window.parts {
                let object = store.get(&history_path(model, window.window, part)).await.unwrap().unwrap();
                let batch = objects::read_all(&object.bytes).unwrap();
                let rows: Vec<Row> = batch.iter().flat_map(read).collect();
                assert_eq!(window.counts[&part].rows, rows.len() as u64);
                accounted.add(&window.counts[&part]);
                found.extend(rows.into_iter().map(|row| (model, window.window.start, row)));
            }
            assert_eq!(accounted.accepted(), accepted[&(model, window.window.start)], "{model} {:?}", window.window);
            forgotten += accounted.forgotten;
        }
    }
    let (missing, surplus) = (rows.difference(&found).collect::<Vec<_>>(), found.difference(&rows).collect::<Vec<_>>());
    assert!(missing.is_empty() && surplus.is_empty(), "missing {missing:#?}\nsurplus {surplus:#?}");
    let concerned = |kind| world.events(kind).filter(|e| e.model == "m" && ids.contains(&e.id.as_str())).count() as u64;
    // Copies that had been left out before stay counted as copies.
    assert!(forgotten > 0 && forgotten <= concerned(EventKind::Predictions), "{forgotten}");
    for (kind, events) in [(EventKind::Predictions, "predictions"), (EventKind::Labels, "labels")] {
        let chains = || state.chains.iter().filter(|(name, _)| name.contains(events));
        assert_eq!(chains().map(|(_, chain)| chain.accepted).sum::<u64>(), world.events(kind).count() as u64);
        assert_eq!(chains().map(|(_, chain)| chain.forgotten_total()).sum::<u64>(), concerned(kind), "{events}");
        for (name, chain) in chains() {
            let (mut at, mut gone, mut rows) = (chain.kept_from().unwrap(), BTreeMap::new(), 0);
            while let Some(object) = store.get(&paths::raw_object(name, at as u64)).await.unwrap() {
                let footer = RawFooter::from_bytes(&object.bytes).unwrap();
                assert!(footer.from == at && footer.adds_up(), "{name} {footer:?}");
                assert_eq!(
                    objects::row_count(&object.bytes).unwrap() as u64,
                    footer.accepted + footer.rejected_total()
                );
                rows += footer.accepted + footer.forgotten_total();
                for share in footer.models.iter().filter(|share| share.forgotten_rows() > 0) {
                    *gone.entry(share.model.clone()).or_insert(0u64) += share.forgotten_rows();
                }
                at = footer.to;
            }
            assert_eq!((rows, &gone), (chain.accepted, &chain.forgotten), "{name}");
        }
    }
    assert!(state.forgotten.values().all(|forgotten| !forgotten.is_open()));
    nothing_is_left(store, ids).await;
    state
}

/// The request comes in the midst of a stream, beside aggregators and an evaluator; the ids come again later.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a1_forgetting_beside_everything_that_runs_leaves_the_rest_as_it_would_be() {
    for seed in 0..4u64 {
        let world = named(World::random(seed + 40, 200, 180));
        let ids = ["<id-1>", "<id-7>", "<id-20>", "<id-33>"];
        let store = Store::in_memory();
        world.open(&store).await;
        let (collected, stop) = (CancellationToken::new(), CancellationToken::new());
        let evaluator = tokio::spawn(complete(store.clone(), stop.clone()));
        let publisher = async {
            let objects = world.objects(seed);
            let (first, rest) = objects.split_at(objects.len() / 2);
            for object in first {
                publish(&store, object).await;
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
            if seed % 2 == 0 {
                settled(&store, first).await;
            }
            let asking = async {
                let mut replica = ask(&store, "m", &ids).await;
                carry_out(&store, &mut replica, "m").await.unwrap();
            };
            let publishing = async {
                for object in rest {
                    publish(&store, object).await;
                    tokio::time::sleep(Duration::from_millis(3)).await;
                }
            };
            tokio::join!(asking, publishing);
            collected.cancel();
        };
        tokio::join!(publisher, judge_all(&store, 1 + seed as usize % 2, &collected));
        stop.cancel();
        evaluator.await.unwrap();
        check(&store, &world, &ids).await;
    }
}

/// It dies at every request in turn, and is done again; nobody else runs meanwhile, and jobs are open.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a1_forgetting_that_dies_anywhere_is_finished_by_the_next() {
    let world = named(World::random(50, 90, 70));
    let ids = ["<id-1>", "<id-5>", "<id-9>"];
    let mut deaths = 0;
    for calls in (0..).step_by(7) {
        let store = Store::in_memory();
        world.open(&store).await;
        let objects = world.objects(3);
        let (first, rest) = objects.split_at(objects.len() * 2 / 3);
        let (collected, stop) = (CancellationToken::new(), CancellationToken::new());
        collected.cancel();
        let evaluator = tokio::spawn(complete(store.clone(), stop.clone()));
        for object in first {
            publish(&store, object).await;
        }
        judge_all(&store, 1, &collected).await;
        let mut replica = ask(&store, "m", &ids).await;
        let plan = FaultPlan::new(1).down_after(calls);
        let dying = store.clone().with_faults(plan).with_retry(RetryPolicy::never());
        let state = replica.state.clone();
        let has_died = carry_out(&dying, &mut Replica::at(&dying, "dying", state), "m").await.is_err();
        deaths += u32::from(has_died);
        // Others go on in between, and the ids come again.
        for object in rest {
            publish(&store, object).await;
        }
        judge_all(&store, 1, &collected).await;
        carry_out(&store, &mut replica, "m").await.unwrap();
        judge_all(&store, 1, &collected).await;
        stop.cancel();
        evaluator.await.unwrap();
        check(&store, &world, &ids).await;
        // Once more changes nothing.
        assert_eq!(carry_out(&store, &mut replica, "m").await.unwrap().objects, 0);
        if !has_died {
            break;
        }
    }
    assert!(deaths > 5, "{deaths}");
}

/// A job that was decided before the request, and is carried out after it by one that knows nothing of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn h2_a_worker_that_stood_still_cannot_bring_an_id_back() {
    let world = named(World::random(60, 80, 60));
    let ids = ["<id-2>", "<id-3>"];
    let store = Store::in_memory();
    world.open(&store).await;
    for object in world.objects(1) {
        publish(&store, &object).await;
    }
    let (collected, stop) = (CancellationToken::new(), CancellationToken::new());
    collected.cancel();
    // Nobody completes, so the jobs stay open.
    let (to_stop, parts) = (stop.clone(), crate::stage::parts(&store, "one", &collected));
    let run = tokio::spawn(async move { driftline_aggregator::stage::run(parts, to_stop).await });
    let mut replica = Replica::open(&store, "reader").await.unwrap();
    loop {
        replica.catch_up().await.unwrap();
        let mut windows = replica.state.models.values().flat_map(|model| model.windows.values()).peekable();
        if windows.peek().is_some() && windows.all(driftline_ledger::WindowRecord::is_judged) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    stop.cancel();
    run.await.unwrap().unwrap();
    let stale = replica.state.clone();
    let mut replica = ask(&store, "m", &ids).await;
    let done = carry_out(&store, &mut replica, "m").await.unwrap();
    assert!(done.objects > 0 && done.windows > 0, "{done:?}");
    nothing_is_left(&store, &ids).await;
    for window in stale.models.values().flat_map(|model| model.windows.values()) {
        let job = window.open.as_ref().unwrap();
        let counts = driftline_aggregator::judge::judge(&store, &stale, job, 0).await.unwrap();
        // It finds the job done, and what it reports is no longer what was there.
        let judged = counts.map(|counts| Entry::Judged {
            model: job.model.clone(),
            window: job.window,
            revision: job.revision,
            part: 0,
            counts,
        });
        let old = Entry::Judged {
            model: job.model.clone(),
            window: job.window,
            revision: job.revision,
            part: 0,
            counts: window.judged[&0].clone(),
        };
        replica.append_anywhere(&judged.into_iter().collect::<Vec<_>>(), clock::now_micros()).await.unwrap();
        replica.append_anywhere(&[old], clock::now_micros()).await.unwrap();
    }
    nothing_is_left(&store, &ids).await;
    for window in replica.state.models.values().flat_map(|model| model.windows.values()) {
        let job = window.open.as_ref().unwrap();
        let object = store.get(&history_path(&job.model, job.window, 0)).await.unwrap().unwrap();
        let rows = objects::row_count(&object.bytes).unwrap() as u64;
        assert_eq!(window.judged[&0].rows, rows, "the account is that of what is there, whatever was reported late");
    }
    let stop = CancellationToken::new();
    let evaluator = tokio::spawn(complete(store.clone(), stop.clone()));
    judge_all(&store, 1, &collected).await;
    stop.cancel();
    evaluator.await.unwrap();
    check(&store, &world, &ids).await;
}

/// Applies all that is published.
async fn apply_all(store: &Store, replica: &mut Replica) {
    let now = clock::now_micros();
    let epoch = replica.state.next_epoch(crate::stage::config());
    replica.append_anywhere(&[Entry::Config(Box::new(epoch))], now).await.unwrap();
    let mut follower = Follower::new(store.clone());
    follower.sync(&replica.state).await.unwrap();
    let found = follower.find(&replica.state, now).await.unwrap().entries;
    replica.append_anywhere(&found, now).await.unwrap();
}

/// Decides what to judge; nobody judges it.
async fn decide_all(replica: &mut Replica) {
    let now = clock::now_micros();
    let decided = decide(&replica.state, now, Urgency::CaughtUp);
    replica.append_anywhere(&decided, now).await.unwrap();
}

/// A worker has read a raw object with the id, and writes what it made of it when all is done: of a job that was decided before
/// the request, and of one that was decided after it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn h2_a_worker_that_has_read_an_id_already_does_not_write_it_any_more() {
    for decided_before in [true, false] {
        let world = named(World::random(70, 60, 0));
        let mut events: Vec<_> = world.events(EventKind::Predictions).filter(|event| event.model == "m").collect();
        events.sort_by_key(|event| event.time);
        let (id, time) = (events[0].id.clone(), events[0].time);
        let store = Store::in_memory();
        world.open(&store).await;
        let objects = world.objects(1);
        for object in &objects {
            publish(&store, object).await;
        }
        let mut replica = Replica::open(&store, "test").await.unwrap();
        // All is applied before the request, so the objects still hold the id when the job is decided.
        apply_all(&store, &mut replica).await;
        if decided_before {
            decide_all(&mut replica).await;
            replica = ask(&store, "m", &[&id]).await;
        } else {
            replica = ask(&store, "m", &[&id]).await;
            decide_all(&mut replica).await;
        }
        let window = replica.state.window_of("m", time);
        let job = replica.state.window("m", window.start).unwrap().open.clone().unwrap();
        assert_eq!(job.forgets == 0, decided_before);
        let plan = FaultPlan::new(1).latency(Duration::from_millis(500)..Duration::from_millis(501));
        let slow = store.clone().with_faults(plan.clone());
        let state = replica.state.clone();
        let worker = tokio::spawn(async move { driftline_aggregator::judge::judge(&slow, &state, &job, 0).await });
        // It has read what it needs once it begins to write: the filter comes first.
        while plan.count(Operation::Create) == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        carry_out(&store, &mut replica, "m").await.unwrap();
        worker.await.unwrap().unwrap();
        nothing_is_left(&store, &[&id]).await;
        let (collected, stop) = (CancellationToken::new(), CancellationToken::new());
        collected.cancel();
        let evaluator = tokio::spawn(complete(store.clone(), stop.clone()));
        judge_all(&store, 1, &collected).await;
        stop.cancel();
        evaluator.await.unwrap();
        check(&store, &world, &[&id]).await;
    }
}

/// Records that could not be used keep their place and their reason, and lose what they said.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dead_letters_lose_their_payload_and_keep_their_reason() {
    let store = Store::in_memory();
    World { logs: BTreeMap::new() }.open(&store).await;
    let events = [
        prediction("<id-1>", TEN),
        with(prediction("<id-1>", TEN), json!({"score": "high"})),
        with(prediction("<id-1>", TEN), json!({"timestamp": "yesterday"})),
        with(prediction("<id-2>", TEN), json!({"score": "high"})),
        json!({"prediction_id": "<id-1>"}),
        Value::String("<id-1>".into()),
    ];
    let sealed = sealed(EventKind::Predictions, 0, 0, &events, clock::now_micros());
    let chain = chain_name(PREDICTIONS, 0);
    append(&store, &encode(&sealed, &chain, None, "test").unwrap()).await.unwrap();
    let (collected, stop) = (CancellationToken::new(), CancellationToken::new());
    collected.cancel();
    let evaluator = tokio::spawn(complete(store.clone(), stop.clone()));
    judge_all(&store, 1, &collected).await;
    let mut replica = ask(&store, "m", &["<id-1>"]).await;
    carry_out(&store, &mut replica, "m").await.unwrap();
    nothing_is_left(&store, &["<id-1>"]).await;
    let object = store.get(&paths::raw_object(&chain, 0)).await.unwrap().unwrap();
    let footer = RawFooter::from_bytes(&object.bytes).unwrap();
    assert_eq!((footer.accepted, footer.forgotten_total(), footer.rejected_total()), (0, 1, 5));
    assert!(footer.format == 2 && footer.records == 6);
    let batch = objects::read_all(&object.bytes).unwrap().unwrap();
    let (reasons, details) = (objects::text(&batch, "reason").unwrap(), objects::text(&batch, "detail").unwrap());
    let payloads = batch.column_by_name("payload").unwrap().as_binary::<i32>();
    let kept: Vec<usize> = (0..batch.num_rows()).filter(|row| payloads.is_valid(*row)).collect();
    assert_eq!((batch.num_rows(), kept.len(), reasons.null_count()), (5, 1, 0));
    assert!(String::from_utf8_lossy(payloads.value(kept[0])).contains("<id-2>"));
    assert_eq!(details.iter().flatten().filter(|detail| *detail == "forgotten").count(), 4);
    stop.cancel();
    evaluator.await.unwrap();
}
