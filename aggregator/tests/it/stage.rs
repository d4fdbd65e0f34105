//! The whole aggregator on a store in memory: what it leaves behind equals what the events say by themselves.
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use driftline_aggregator::filter::part_of;
use driftline_aggregator::follow::Follower;
use driftline_aggregator::judge::history_path;
use driftline_aggregator::{objects, stage};
use driftline_collector::flush::{append, encode};
use driftline_ledger::{LedgerState, Members, Replica};
use driftline_schemas::clock::{self, MINUTE, Micros, SECOND};
use driftline_schemas::config::{JudgeConfig, ModelSettings, RetentionConfig, ReviseConfig};
use driftline_schemas::event::EventKind;
use driftline_schemas::ledger::{Entry, PartCounts};
use driftline_schemas::raw::Genesis;
use driftline_schemas::tables::Task;
use driftline_schemas::window::{Window, WindowLength, WindowSpec};
use driftline_store::{Fault, FaultPlan, Manifest, RetryPolicy, Store, TopicKind, chain_name, paths};
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::world::{LABELS, PREDICTIONS, Row, TEN, prediction, read, sealed, with};

pub const MODELS: [&str; 2] = ["m", "n"];
const HOUR: Micros = 60 * MINUTE;

pub fn config() -> JudgeConfig {
    let revise = ReviseConfig { min_growth: 0.1, min_delay: 0, max_delay: 0, max_amplification: 1e6 };
    let defaults =
        ModelSettings { task: Some(Task::Binary), window: WindowSpec::fixed(HOUR), ..ModelSettings::default() };
    JudgeConfig {
        revise,
        idle_timeout: MINUTE,
        accept_unknown_models: true,
        models_max: 10,
        max_feature_columns: 500,
        max_segment_values: 100,
        defaults,
        models: BTreeMap::new(),
    }
}

/// Windows and horizons: hours and 30 days, for each model up to some event time, and others from there on.
#[derive(Default)]
pub struct Rules {
    later: BTreeMap<&'static str, (Micros, WindowSpec, Micros)>,
}

impl Rules {
    fn start(&self, model: &str, time: Micros) -> Micros {
        match self.later.get(model) {
            Some((from, spec, _)) if time >= *from => spec.window_of(time).start.max(*from),
            _ => WindowSpec::fixed(HOUR).window_of(time).start,
        }
    }

    fn horizon(&self, model: &str, start: Micros) -> Micros {
        match self.later.get(model) {
            Some((from, _, horizon)) if start >= *from => *horizon,
            _ => 30 * clock::DAY,
        }
    }
}

/// An event, and where it was published.
#[derive(Debug, Clone)]
pub struct Event {
    pub model: &'static str,
    pub id: String,
    pub version: String,
    pub time: Micros,
    pub label: Option<String>,
    pub hint: Option<Micros>,
    pub partition: u32,
    pub offset: i64,
}

/// Partitions of predictions and of labels, each with its events in order.
pub struct World {
    pub logs: BTreeMap<(EventKind, u32), Vec<Event>>,
}

impl World {
    /// Random events: ids that repeat across windows and versions, copies, labels of all kinds.
    pub fn random(seed: u64, predictions: usize, labels: usize) -> Self {
        Self::spread(seed, predictions, labels, 3 * HOUR)
    }

    /// The same, with event times spread so far.
    pub fn spread(seed: u64, predictions: usize, labels: usize, span: Micros) -> Self {
        let chance = &mut StdRng::seed_from_u64(seed);
        let mut events = Vec::new();
        for _ in 0..predictions {
            events.push((
                EventKind::Predictions,
                Event {
                    model: MODELS[chance.random_range(0..2)],
                    id: format!("id-{}", chance.random_range(0..predictions / 2)),
                    version: chance.random_range(1..3).to_string(),
                    time: TEN + chance.random_range(0..span / SECOND) * SECOND,
                    label: None,
                    hint: None,
                    partition: chance.random_range(0..3),
                    offset: 0,
                },
            ));
        }
        for _ in 0..labels {
            let of: Event = events[chance.random_range(0..predictions)].1.clone();
            let delay =
                [-5 * MINUTE, 20 * SECOND, 2 * HOUR, 29 * clock::DAY, 31 * clock::DAY][chance.random_range(0..5)];
            events.push((
                EventKind::Labels,
                Event {
                    time: of.time + delay,
                    label: chance.random_bool(0.9).then(|| chance.random_range(0..2).to_string()),
                    hint: chance.random_bool(0.3).then_some(of.time),
                    partition: chance.random_range(0..2),
                    ..of
                },
            ));
        }
        events.shuffle(chance);
        let mut logs: BTreeMap<(EventKind, u32), Vec<Event>> = BTreeMap::new();
        for (kind, mut event) in events {
            let log = logs.entry((kind, event.partition)).or_default();
            event.offset = log.len() as i64;
            log.push(event);
        }
        Self { logs }
    }

    /// The same events, so that each partition brings most predictions before `newest` first, and stragglers later.
    fn in_order(mut self, seed: u64, newest: Micros) -> Self {
        let chance = &mut StdRng::seed_from_u64(seed ^ 3);
        for ((kind, _), log) in &mut self.logs {
            if *kind == EventKind::Predictions {
                log.sort_by_cached_key(|event| event.time >= newest || chance.random_bool(0.2));
            }
            for (offset, event) in log.iter_mut().enumerate() {
                event.offset = offset as i64;
            }
        }
        self
    }

    pub fn events(&self, kind: EventKind) -> impl Iterator<Item = &Event> {
        self.logs.iter().filter(move |((of, _), _)| *of == kind).flat_map(|(_, log)| log)
    }

    /// The rows of history by the words of the design, and how many predictions each window accepted.
    pub fn worked_out(
        &self,
        rules: &Rules,
    ) -> (BTreeSet<(&'static str, Micros, Row)>, BTreeMap<(&'static str, Micros), u64>) {
        let mut stand: BTreeMap<(&str, Micros, &str, &str), &Event> = BTreeMap::new();
        let mut accepted: BTreeMap<(&'static str, Micros), u64> = BTreeMap::new();
        for event in self.events(EventKind::Predictions) {
            let start = rules.start(event.model, event.time);
            *accepted.entry((event.model, start)).or_default() += 1;
            let first = stand.entry((event.model, start, &event.version, &event.id)).or_insert(event);
            if (event.time, event.partition, event.offset) < (first.time, first.partition, first.offset) {
                *first = event;
            }
        }
        let mut rows = BTreeSet::new();
        for ((_, start, ..), event) in stand {
            let eligible = self.events(EventKind::Labels).filter(|label| {
                let delay = label.time - event.time;
                label.model == event.model
                    && label.id == event.id
                    && label.hint.is_none_or(|hint| rules.start(event.model, hint) == start)
                    && (-10 * MINUTE..=rules.horizon(event.model, start)).contains(&delay)
            });
            let last = eligible.max_by_key(|label| (label.time, label.partition, label.offset));
            rows.insert((
                event.model,
                start,
                Row {
                    version: event.version.clone(),
                    id: event.id.clone(),
                    time: event.time,
                    partition: i64::from(event.partition),
                    offset: event.offset,
                    label: last.and_then(|label| label.label.clone()),
                    label_from: last.map(|label| (label.time, i64::from(label.partition), label.offset)),
                    invalid: None,
                    after_final: false,
                },
            ));
        }
        (rows, accepted)
    }

    /// Registers the topics and the chains' beginnings.
    pub async fn open(&self, store: &Store) {
        for (topic, kind, partitions) in [(PREDICTIONS, TopicKind::Predictions, 3), (LABELS, TopicKind::Labels, 2)] {
            Manifest::register_topic(store, topic, kind, None, partitions, clock::now()).await.unwrap();
            for partition in 0..partitions {
                let genesis =
                    Genesis { format: 1, topic: topic.into(), topic_id: None, partition, from: 0, created_at: 0 };
                let bytes = serde_json::to_vec(&genesis).unwrap();
                store.create(&paths::genesis(&chain_name(topic, partition)), bytes.into()).await.unwrap();
            }
        }
    }

    /// The raw objects of all chains, cut at random, in a random order that respects each chain's own.
    pub fn objects(&self, seed: u64) -> Vec<(EventKind, u32, i64, Vec<Event>)> {
        let chance = &mut StdRng::seed_from_u64(seed);
        let mut cut: Vec<Vec<(EventKind, u32, i64, Vec<Event>)>> = Vec::new();
        for ((kind, partition), log) in &self.logs {
            let (mut objects, mut at) = (Vec::new(), 0);
            while at < log.len() {
                let to = (at + chance.random_range(1..40)).min(log.len());
                objects.push((*kind, *partition, at as i64, log[at..to].to_vec()));
                at = to;
            }
            objects.reverse();
            cut.push(objects);
        }
        let mut mixed = Vec::new();
        while !cut.is_empty() {
            let at = chance.random_range(0..cut.len());
            match cut[at].pop() {
                Some(object) => mixed.push(object),
                None => drop(cut.swap_remove(at)),
            }
        }
        mixed
    }
}

pub fn to_json(kind: EventKind, event: &Event) -> Value {
    if kind == EventKind::Predictions {
        let more = json!({"model_name": event.model, "model_version": event.version, "features": {"x": event.offset}});
        return with(prediction(&event.id, event.time), more);
    }
    let mut label = json!({"prediction_id": event.id, "model_name": event.model, "timestamp": clock::show(event.time), "label": event.label});
    if let Some(hint) = event.hint {
        label["prediction_timestamp"] = json!(clock::show(hint));
    }
    label
}

pub async fn publish(store: &Store, object: &(EventKind, u32, i64, Vec<Event>)) {
    let (kind, partition, from, events) = object;
    let topic = if *kind == EventKind::Labels { LABELS } else { PREDICTIONS };
    let events: Vec<Value> = events.iter().map(|event| to_json(*kind, event)).collect();
    let sealed = sealed(*kind, *partition, *from, &events, clock::now_micros());
    assert!(sealed.rejections.is_empty(), "{:?}", sealed.rejections);
    let encoded = encode(&sealed, &chain_name(topic, *partition), None, "test").unwrap();
    append(store, &encoded).await.unwrap();
}

/// Records as complete whatever is judged, as the evaluator does.
pub async fn complete(store: Store, stop: CancellationToken) {
    let mut replica = Replica::open(&store, "evaluator").await.unwrap();
    while !stop.is_cancelled() {
        replica.catch_up().await.unwrap();
        let mut entries = Vec::new();
        for (model, state) in &replica.state.models {
            for window in state.windows.values().filter(|window| window.is_judged()) {
                let (model, window, revision) = (model.clone(), window.window, window.revision);
                entries.push(Entry::Completed { model, window, revision });
            }
        }
        if entries.is_empty() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        } else {
            replica.append_anywhere(&entries, clock::now_micros()).await.unwrap();
        }
    }
}

/// Waits until these objects are applied, and all that was decided is complete.
pub async fn settled(store: &Store, objects: &[(EventKind, u32, i64, Vec<Event>)]) {
    let mut replica = Replica::open(store, "reader").await.unwrap();
    loop {
        replica.catch_up().await.unwrap();
        let state = &replica.state;
        let applied = objects.iter().all(|(kind, partition, from, events)| {
            let topic = if *kind == EventKind::Labels { LABELS } else { PREDICTIONS };
            let chain = state.chains.get(&chain_name(topic, *partition));
            chain.and_then(|chain| chain.applied_to).is_some_and(|to| to >= from + events.len() as i64)
        });
        let mut windows = state.models.values().flat_map(|model| model.windows.values());
        if applied && windows.all(|window| window.completed == window.revision && !window.is_dirty()) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

pub fn parts(store: &Store, name: &str, collected: &CancellationToken) -> stage::Parts {
    stage::Parts {
        store: store.clone(),
        members: Members::new(name, vec![stage::ROLE.into()]),
        config: config(),
        retention: RetentionConfig::default(),
        poll_interval: Duration::from_millis(2),
        collected: Some(collected.clone()),
    }
}

pub async fn judge_all(store: &Store, instances: usize, collected: &CancellationToken) {
    let names: Vec<String> = (0..instances).map(|n| format!("aggregator-{n}")).collect();
    let runs = names.iter().map(|name| stage::run(parts(store, name, collected), CancellationToken::new()));
    for ended in futures::future::join_all(runs).await {
        ended.unwrap();
    }
}

/// Compares `history/` and its account with the events, and the snapshot-free replay with itself.
pub async fn check(store: &Store, world: &World) -> LedgerState {
    check_by(store, world, &Rules::default()).await
}

/// The same, by other rules.
async fn check_by(store: &Store, world: &World, rules: &Rules) -> LedgerState {
    let state = Replica::open(store, "reader").await.unwrap().state;
    let (rows, accepted) = world.worked_out(rules);
    let mut found = Vec::new();
    for (model, of_model) in &state.models {
        let model = MODELS.into_iter().find(|name| name == model).unwrap();
        for window in of_model.windows.values() {
            assert!(!window.is_dirty() && window.completed == window.revision, "{model} {window:?}");
            let mut accounted = PartCounts::default();
            for part in 0..window.parts {
                let object = store.get(&history_path(model, window.window, part)).await.unwrap().unwrap();
                let batch = objects::read_all(&object.bytes).unwrap();
                let rows: Vec<Row> = batch.iter().flat_map(read).collect();
                assert!(rows.iter().all(|row| part_of(model, &row.id, window.parts) == part));
                assert_eq!(window.counts[&part].rows, rows.len() as u64);
                accounted.add(&window.counts[&part]);
                found.extend(rows.into_iter().map(|row| (model, window.window.start, row)));
            }
            // A1: every accepted prediction is in one term of its window.
            assert_eq!(accounted.accepted(), accepted[&(model, window.window.start)]);
            let labelled = rows
                .iter()
                .filter(|(m, start, row)| (*m, *start) == (model, window.window.start) && row.label.is_some());
            assert_eq!(accounted.labelled, labelled.count() as u64);
        }
    }
    // H1: one row per prediction, whatever has been written how often.
    let identities: BTreeSet<_> = found.iter().map(|(m, start, row)| (*m, *start, &row.version, &row.id)).collect();
    assert_eq!(identities.len(), found.len());
    let found: BTreeSet<_> = found.into_iter().collect();
    let (missing, surplus) = (rows.difference(&found).collect::<Vec<_>>(), found.difference(&rows).collect::<Vec<_>>());
    assert!(missing.is_empty() && surplus.is_empty(), "missing {missing:#?}\nsurplus {surplus:#?}");
    // A1 of partitions: what was accepted is what was published.
    let of_kind =
        |topic: &str| state.chains.values().filter(|c| c.info.topic == topic).map(|c| c.accepted).sum::<u64>();
    assert_eq!(of_kind(PREDICTIONS), world.events(EventKind::Predictions).count() as u64);
    assert_eq!(of_kind(LABELS), world.events(EventKind::Labels).count() as u64);
    state
}

/// Publishes all objects first, then judges.
async fn at_once(world: &World, seed: u64, instances: usize) -> LedgerState {
    let store = Store::in_memory();
    world.open(&store).await;
    for object in world.objects(seed) {
        publish(&store, &object).await;
    }
    let (collected, stop) = (CancellationToken::new(), CancellationToken::new());
    collected.cancel();
    let evaluator = tokio::spawn(complete(store.clone(), stop.clone()));
    judge_all(&store, instances, &collected).await;
    stop.cancel();
    evaluator.await.unwrap();
    check(&store, world).await
}

/// Publishes object after object while aggregators run.
async fn live(world: &World, seed: u64, instances: usize, faults: Option<FaultPlan>) -> LedgerState {
    let store = Store::in_memory();
    world.open(&store).await;
    let quick = RetryPolicy {
        max_elapsed: Duration::from_millis(30),
        base: Duration::from_millis(1),
        cap: Duration::from_millis(2),
    };
    let seen = faults.map_or_else(|| store.clone(), |plan| store.clone().with_faults(plan).with_retry(quick));
    let (collected, stop) = (CancellationToken::new(), CancellationToken::new());
    let evaluator = tokio::spawn(complete(store.clone(), stop.clone()));
    let publisher = async {
        let chance = &mut StdRng::seed_from_u64(seed ^ 7);
        for object in world.objects(seed) {
            publish(&store, &object).await;
            if chance.random_bool(0.4) {
                tokio::time::sleep(Duration::from_millis(chance.random_range(0..12))).await;
            }
        }
        collected.cancel();
    };
    tokio::join!(publisher, judge_all(&seen, instances, &collected));
    stop.cancel();
    evaluator.await.unwrap();
    check(&store, world).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t4_history_does_not_depend_on_batches_or_interleaving() {
    let world = World::random(1, 240, 200);
    for seed in 0..3 {
        at_once(&world, seed, 1).await;
        live(&world, seed, 1, None).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t4_labels_may_come_before_their_predictions() {
    let world = World::random(2, 200, 200);
    for labels_first in [true, false] {
        let store = Store::in_memory();
        world.open(&store).await;
        let mut objects = world.objects(5);
        objects.sort_by_key(|(kind, ..)| (*kind == EventKind::Predictions) == labels_first);
        let (collected, stop) = (CancellationToken::new(), CancellationToken::new());
        let evaluator = tokio::spawn(complete(store.clone(), stop.clone()));
        let of_first = objects.iter().take_while(|object| object.0 == objects[0].0).count();
        let half = of_first + (objects.len() - of_first) / 2;
        let publisher = async {
            for objects in [&objects[..of_first], &objects[of_first..half], &objects[half..]] {
                for object in objects {
                    publish(&store, object).await;
                }
                settled(&store, objects).await;
            }
            collected.cancel();
        };
        tokio::join!(publisher, judge_all(&store, 1, &collected));
        stop.cancel();
        evaluator.await.unwrap();
        let state = check(&store, &world).await;
        let revisions = state.models.values().flat_map(|m| m.windows.values()).map(|w| w.revision).max();
        assert!(revisions >= Some(2), "windows were judged while events still came: {revisions:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t4_three_instances_are_as_good_as_one() {
    let world = World::random(3, 240, 200);
    at_once(&world, 1, 3).await;
    for seed in 0..2 {
        live(&world, seed, 3, None).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t4_a_store_that_fails_changes_nothing() {
    let world = World::random(4, 160, 140);
    for seed in 0..3 {
        let plan =
            FaultPlan::new(seed).share(Fault::Before, 0.04).share(Fault::After, 0.04).share(Fault::Unavailable, 0.02);
        live(&world, seed, 1 + seed as usize, Some(plan)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t4_instances_that_are_killed_anywhere_lose_nothing() {
    let world = World::random(5, 240, 200);
    for seed in 0..3 {
        let store = Store::in_memory();
        world.open(&store).await;
        let (collected, stop) = (CancellationToken::new(), CancellationToken::new());
        let evaluator = tokio::spawn(complete(store.clone(), stop.clone()));
        let publisher = async {
            for object in world.objects(seed) {
                publish(&store, &object).await;
                tokio::time::sleep(Duration::from_millis(4)).await;
            }
        };
        let killer = async {
            let chance = &mut StdRng::seed_from_u64(seed);
            for n in 0..12 {
                // A store that is away from some request on is how the rest of the world sees a process die there.
                let plan = FaultPlan::new(seed).down_after(chance.random_range(1..120));
                let dying = store.clone().with_faults(plan).with_retry(RetryPolicy::never());
                let name = format!("aggregator-{n}");
                let run = tokio::spawn({
                    let parts = parts(&dying, &name, &collected);
                    async move { stage::run(parts, CancellationToken::new()).await }
                });
                tokio::time::sleep(Duration::from_millis(chance.random_range(5..40))).await;
                run.abort();
            }
        };
        tokio::join!(publisher, killer);
        collected.cancel();
        judge_all(&store, 1, &collected).await;
        stop.cancel();
        evaluator.await.unwrap();
        check(&store, &world).await;
    }
}

/// T1, T4: windows, their zone and horizon change in the middle of a stream, a process of the old configuration still being
/// there; late events find their old windows, and each event counts once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t1_settings_that_change_in_the_middle_of_a_stream_move_no_event() {
    let days = |zone: &str| WindowSpec { length: WindowLength::Day, timezone: zone.parse().unwrap() };
    for (seed, spec) in
        [days("Europe/Amsterdam"), days("Asia/Kolkata"), WindowSpec::fixed(7 * HOUR), WindowSpec::fixed(HOUR)]
            .into_iter()
            .enumerate()
    {
        let seed = seed as u64;
        let newest = TEN + 2 * clock::DAY;
        let world = World::spread(seed, 240, 240, 4 * clock::DAY).in_order(seed, newest);
        let store = Store::in_memory();
        world.open(&store).await;
        let mut later = BTreeSet::new();
        let (objects, rest): (Vec<_>, Vec<_>) =
            world.objects(seed).into_iter().partition(|(kind, partition, from, events)| {
                let is_prediction = *kind == EventKind::Predictions;
                let is_later = if is_prediction { events.iter().any(|event| event.time >= newest) } else { *from > 60 };
                // What follows in the same chain comes later too.
                if is_later {
                    later.insert((*kind, *partition));
                }
                !later.contains(&(*kind, *partition))
            });
        let (collected, stop) = (CancellationToken::new(), CancellationToken::new());
        let evaluator = tokio::spawn(complete(store.clone(), stop.clone()));
        let old = parts(&store, "old", &collected);
        let old = tokio::spawn(async move { stage::run(old, CancellationToken::new()).await });
        for object in &objects {
            publish(&store, object).await;
        }
        settled(&store, &objects).await;
        // A second process starts with another configuration; the first goes on by the ledger's.
        let horizon = 90 * MINUTE;
        let mut new = parts(&store, "new", &collected);
        new.config.defaults.window = spec;
        new.config.defaults.label_horizon = horizon;
        let new = tokio::spawn(async move { stage::run(new, CancellationToken::new()).await });
        let mut replica = Replica::open(&store, "reader").await.unwrap();
        while replica.state.config.as_ref().map(|epoch| epoch.epoch) != Some(2) {
            replica.catch_up().await.unwrap();
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        for object in &rest {
            publish(&store, object).await;
        }
        settled(&store, &rest).await;
        collected.cancel();
        old.await.unwrap().unwrap();
        new.await.unwrap().unwrap();
        stop.cancel();
        evaluator.await.unwrap();
        let state = Replica::open(&store, "reader").await.unwrap().state;
        let mut rules = Rules::default();
        for model in MODELS {
            let [_, last] = state.models[model].eras[..] else { panic!("{:?}", state.models[model].eras) };
            assert!(last.epoch == 2 && (TEN..newest + clock::DAY).contains(&last.from), "{last:?}");
            rules.later.insert(model, (last.from, spec, horizon));
            // Late events came for windows before the change, in chains that had gone on beyond it.
            let late = |(window, _): &(Window, u64)| window.start < last.from;
            let windows = || state.models[model].windows.values().map(|record| (record.window, record.late));
            assert!(windows().any(|window| !late(&window)) && windows().filter(late).any(|(_, rows)| rows > 0));
        }
        check_by(&store, &world, &rules).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn h2_a_job_that_is_done_again_writes_the_same_or_nothing() {
    let world = World::random(6, 120, 60);
    let store = Store::in_memory();
    world.open(&store).await;
    for object in world.objects(1) {
        publish(&store, &object).await;
    }
    let (collected, stop) = (CancellationToken::new(), CancellationToken::new());
    collected.cancel();
    // Nobody completes: the jobs stay open once they are judged.
    let (to_stop, parts) = (stop.clone(), parts(&store, "one", &collected));
    let run = tokio::spawn(async move { stage::run(parts, to_stop).await });
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
    let state = &replica.state;
    for window in state.models.values().flat_map(|model| model.windows.values()) {
        assert_eq!((window.revision, window.completed), (1, 0), "no further revision before this one is complete");
        let job = window.open.as_ref().unwrap();
        let path = history_path(&job.model, job.window, 0);
        let before = store.get(&path).await.unwrap().unwrap();
        // Where it stands already, nothing is written.
        let counts = driftline_aggregator::judge::judge(&store, state, job, 0).await.unwrap();
        assert_eq!(counts.as_ref(), window.judged.get(&0));
        assert_eq!(store.get(&path).await.unwrap().unwrap().version, before.version);
        // Done from the beginning, the bytes are the same, in whatever order the inputs are listed.
        store.delete(&path).await.unwrap();
        let mut other = job.clone();
        other.inputs.reverse();
        driftline_aggregator::judge::judge(&store, state, &other, 0).await.unwrap();
        assert_eq!(store.get(&path).await.unwrap().unwrap().bytes, before.bytes);
        // A zombie with an older job drops it.
        let mut old = job.clone();
        old.revision = 0;
        assert_eq!(driftline_aggregator::judge::judge(&store, state, &old, 0).await.unwrap(), None);
        assert_eq!(store.get(&path).await.unwrap().unwrap().bytes, before.bytes);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t4_scores_beyond_all_bounds_do_not_poison_the_ledger() {
    let store = Store::in_memory();
    let world = World { logs: BTreeMap::new() };
    world.open(&store).await;
    let events: Vec<Value> =
        (0..3).map(|n| with(prediction(&format!("a{n}"), TEN), json!({"score": 1.5e308, "prediction": "x"}))).collect();
    let sealed = sealed(EventKind::Predictions, 0, 0, &events, clock::now_micros());
    append(&store, &encode(&sealed, &chain_name(PREDICTIONS, 0), None, "test").unwrap()).await.unwrap();
    let (collected, stop) = (CancellationToken::new(), CancellationToken::new());
    collected.cancel();
    let mut parts = parts(&store, "one", &collected);
    parts.config.defaults.task = None;
    let evaluator = tokio::spawn(complete(store.clone(), stop.clone()));
    let run = tokio::time::timeout(Duration::from_secs(20), stage::run(parts, CancellationToken::new()));
    run.await.expect("a ledger that can be read on").unwrap();
    stop.cancel();
    evaluator.await.unwrap();
    let state = Replica::open(&store, "reader").await.unwrap().state;
    let window = state.window("m", WindowSpec::fixed(HOUR).window_of(TEN).start).unwrap();
    assert_eq!(window.published().invalid, 3);
}

/// B1: what a restart reads are the filters, once each, and never the ids that they were made of.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn b1_filters_are_reloaded_at_a_restart_and_not_recomputed() {
    let world = World::random(8, 200, 0);
    let store = Store::in_memory();
    world.open(&store).await;
    for object in world.objects(1) {
        publish(&store, &object).await;
    }
    let (collected, stop) = (CancellationToken::new(), CancellationToken::new());
    collected.cancel();
    let evaluator = tokio::spawn(complete(store.clone(), stop.clone()));
    judge_all(&store, 1, &collected).await;
    stop.cancel();
    evaluator.await.unwrap();
    let state = Replica::open(&store, "reader").await.unwrap().state;
    let read = async |store: &Store| {
        let plan = FaultPlan::new(0);
        let mut follower = Follower::new(store.clone().with_faults(plan.clone()));
        follower.sync(&state).await.unwrap();
        plan.calls().into_iter().map(|call| call.path).collect::<Vec<_>>()
    };
    let parts: u32 = state.models.values().flat_map(|model| model.windows.values()).map(|window| window.parts).sum();
    let paths = read(&store).await;
    assert!(parts > 5 && paths.len() == parts as usize, "{parts} filters, {paths:?}");
    assert!(paths.iter().all(|path| path.starts_with("filters/")), "{paths:?}");
    assert_eq!(paths.iter().collect::<BTreeSet<_>>().len(), paths.len(), "each once");
    // One that is gone, and only that, is made anew of the history it was made of.
    store.delete(&paths[0]).await.unwrap();
    let again = read(&store).await;
    assert_eq!(again.iter().filter(|path| path.starts_with("history/")).count(), 1, "{again:?}");
}

#[test]
fn a_window_has_the_parts_that_its_ids_say() {
    let window = Window { start: TEN, end: TEN + HOUR };
    assert_ne!(history_path("m", window, 0), history_path("m", window, 1));
    assert!((0..100).map(|n| part_of("m", &n.to_string(), 3)).collect::<BTreeSet<_>>().len() == 3);
}
