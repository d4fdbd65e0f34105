//! The invariants, on the in-memory source and store.
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use driftline_collector::memory::{Script, Step};
use driftline_collector::source::PartitionRef;
use driftline_collector::{CollectorSettings, CollectorStatus, Until, chain};
use driftline_schemas::config::Start;
use driftline_schemas::raw::RawKind;
use driftline_store::{Fault, FaultPlan, Manifest, RetryPolicy, Store};
use tokio_util::sync::CancellationToken;

use crate::reading::{
    LABELS, PREDICTIONS, all, catch_up, collect, eventually, prediction, read_chain, settings, world,
};

const P0: PartitionRef = PartitionRef { topic: 0, partition: 0 };

#[tokio::test(flavor = "multi_thread")]
async fn c1_chains_are_contiguous_and_hold_every_event_once() {
    let (world, store) = (world(3, 500), Store::in_memory());
    catch_up(&world.log, &store, 3).await.unwrap();
    world.assert_collected(&store).await;
    let chain = read_chain(&store, PREDICTIONS, 0).await;
    assert!(chain.footers.len() > 1, "small flushes make more than one object");
    assert!(chain.footers.iter().any(|footer| footer.skipped_offsets > 0), "control records are skipped");
    for (footer, batch) in chain.footers.iter().zip(&chain.batches) {
        // The index says where each model's rows lie.
        let names = batch.column_by_name("model_name").unwrap();
        let names = arrow::array::AsArray::as_string::<i32>(names);
        for model in &footer.models {
            assert_eq!(names.value(model.first_row as usize), model.model);
            assert_eq!(names.value((model.first_row + model.rows - 1) as usize), model.model);
            assert_eq!(model.base_windows.iter().map(|(_, rows)| rows).sum::<u64>(), model.rows);
            assert!(model.base_windows.is_sorted());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn c2_rows_do_not_depend_on_how_they_were_flushed() {
    let world = world(1, 300);
    let (small, large) = (Store::in_memory(), Store::in_memory());
    catch_up(&world.log, &small, 1).await.unwrap();
    let settings = CollectorSettings { flush_bytes: 64 << 20, flush_interval: Duration::from_secs(60), ..settings() };
    let (script, stop) = (Script::assigning(all(1)), CancellationToken::new());
    collect(&world.log, &large, script, settings, Until::CaughtUp, stop, Arc::default()).await.unwrap();
    let (small, large) = (read_chain(&small, PREDICTIONS, 0).await, read_chain(&large, PREDICTIONS, 0).await);
    assert_eq!((small.rows, small.to), (large.rows, large.to));
    assert!(small.footers.len() > large.footers.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn c3_two_writers_keep_the_chain_exact() {
    let (world, store) = (world(2, 1500), Store::in_memory());
    // Both believe that they own everything, and flush at different sizes.
    let other = CollectorSettings { flush_bytes: 7_000, instance: "other".into(), ..settings() };
    let (one, two) = tokio::join!(
        catch_up(&world.log, &store, 2),
        collect(
            &world.log,
            &store,
            Script::assigning(all(2)),
            other,
            Until::CaughtUp,
            CancellationToken::new(),
            Arc::default()
        ),
    );
    one.unwrap();
    two.unwrap();
    world.assert_collected(&store).await;
    let writers: std::collections::BTreeSet<_> =
        read_chain(&store, PREDICTIONS, 0).await.footers.into_iter().map(|footer| footer.to - footer.from).collect();
    assert!(writers.len() > 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn c3_a_lost_slot_is_adopted_and_what_lies_beyond_is_read_again() {
    let (mut world, store) = (world(1, 0), Store::in_memory());
    let settings = CollectorSettings { flush_interval: Duration::from_secs(600), flush_bytes: 30_000, ..settings() };
    let (stop, status) = (CancellationToken::new(), Arc::new(CollectorStatus::default()));
    let (script, log, member_store) = (Script::assigning(all(1)), world.log.clone(), store.clone());
    let (run_stop, run_status) = (stop.clone(), Arc::clone(&status));
    let member = tokio::spawn(async move {
        collect(&log, &member_store, script, settings, Until::Shutdown, run_stop, run_status).await
    });
    eventually("the member stands at the beginning", async || status.partitions().len() == 2).await;
    world.grow(1, 0..20);
    let end = |world: &crate::reading::World, topic| world.expected[&(topic, 0)].last().unwrap().0.0 + 1;
    let buffered = end(&world, PREDICTIONS);
    eventually("it holds the first records back", async || {
        status.partitions().values().any(|one| one.position == buffered)
    })
    .await;
    // Another writer takes the slot with a shorter object and is never seen again.
    catch_up(&world.log, &store, 1).await.unwrap();
    assert_eq!(read_chain(&store, PREDICTIONS, 0).await.to, buffered);
    // Now the member's buffer fills up, and it comes too late for the slot.
    world.grow(1, 20..600);
    eventually("it goes on at the winner's end", async || {
        status.partitions().values().all(|one| one.tail > buffered + 50)
    })
    .await;
    stop.cancel();
    member.await.unwrap().unwrap();
    world.assert_collected(&store).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn c3_answers_that_are_lost_or_late_are_harmless() {
    for seed in 0..4 {
        let (world, store) = (world(2, 400), Store::in_memory());
        let plan = FaultPlan::new(seed).share(Fault::Before, 0.15).share(Fault::After, 0.15);
        let quick = RetryPolicy {
            max_elapsed: Duration::from_millis(20),
            base: Duration::from_millis(1),
            cap: Duration::from_millis(2),
        };
        let faulty = store.clone().with_faults(plan).with_retry(quick);
        let (one, two) = tokio::join!(catch_up(&world.log, &faulty, 2), catch_up(&world.log, &faulty, 2));
        one.unwrap();
        two.unwrap();
        world.assert_collected(&store).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn c4_rewound_offsets_change_nothing() {
    let (world, store) = (world(1, 800), Store::in_memory());
    let (script, stop) = (Script::assigning(all(1)), CancellationToken::new());
    for n in 0..30 {
        script.push(Step::Rewind(P0, n * 3));
    }
    collect(&world.log, &store, script, settings(), Until::CaughtUp, stop, Arc::default()).await.unwrap();
    world.assert_collected(&store).await;
    // A second life begins where the chain ends, whatever the group says.
    let before = read_chain(&store, PREDICTIONS, 0).await.to;
    catch_up(&world.log, &store, 1).await.unwrap();
    assert_eq!(read_chain(&store, PREDICTIONS, 0).await.to, before);
    world.assert_collected(&store).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn partitions_that_come_and_go_lose_nothing() {
    let (world, store) = (world(2, 1200), Store::in_memory());
    let script = Script::assigning(all(2));
    for _ in 0..10 {
        script.push(Step::Revoke(vec![P0]));
        script.push(Step::Assign(vec![P0]));
    }
    let stop = CancellationToken::new();
    collect(&world.log, &store, script, settings(), Until::CaughtUp, stop, Arc::default()).await.unwrap();
    world.assert_collected(&store).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn partitions_of_another_instance_count_when_it_has_read_them() {
    let (world, store) = (world(2, 300), Store::in_memory());
    let halves = |partition| Script::assigning(all(2).into_iter().filter(move |at| at.partition == partition));
    let half = |script| {
        collect(&world.log, &store, script, settings(), Until::CaughtUp, CancellationToken::new(), Arc::default())
    };
    let (one, two) = tokio::join!(half(halves(0)), half(halves(1)));
    one.unwrap();
    two.unwrap();
    world.assert_collected(&store).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_collector_loses_nothing() {
    let (world, store) = (world(2, 3000), Store::in_memory());
    for life in 0..5 {
        let script = Script::assigning(all(2));
        let run =
            collect(&world.log, &store, script, settings(), Until::Shutdown, CancellationToken::new(), Arc::default());
        // Dropped in mid-air, as by kill -9: what was put stands, what was not is read again.
        let _ = tokio::time::timeout(Duration::from_millis(20 + 15 * life), run).await;
    }
    catch_up(&world.log, &store, 2).await.unwrap();
    world.assert_collected(&store).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn b1_a_store_that_is_down_pauses_reading_and_loses_nothing() {
    let (mut world, store) = (world(1, 100), Store::in_memory());
    let plan = FaultPlan::new(1);
    let down = plan.switch();
    let faulty = store.clone().with_faults(plan).with_retry(RetryPolicy::never());
    let settings = CollectorSettings { memory_max: 60_000, flush_bytes: 20_000, ..settings() };
    let (stop, status) = (CancellationToken::new(), Arc::new(CollectorStatus::default()));
    let (script, log) = (Script::assigning(all(1)), world.log.clone());
    let (run_stop, run_status) = (stop.clone(), Arc::clone(&status));
    let run =
        tokio::spawn(
            async move { collect(&log, &faulty, script, settings, Until::Shutdown, run_stop, run_status).await },
        );
    eventually("it reads", async || status.last_commit_at().is_some() && status.partitions().len() == 2).await;
    down.store(true, Ordering::SeqCst);
    world.grow(1, 100..4000);
    eventually("the status is red", async || !status.store_ok() && !status.is_ready()).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    let stood: Vec<i64> = status.partitions().values().map(|one| one.position).collect();
    tokio::time::sleep(Duration::from_millis(200)).await;
    let stands: Vec<i64> = status.partitions().values().map(|one| one.position).collect();
    assert_eq!(stood, stands, "reading is paused");
    assert!(stood.iter().all(|position| *position < 4000), "B1: memory has a bound: {stood:?}");
    down.store(false, Ordering::SeqCst);
    let ends: Vec<i64> =
        [PREDICTIONS, LABELS].iter().map(|topic| world.expected[&(*topic, 0)].last().unwrap().0.0 + 1).collect();
    eventually("it catches up", async || {
        let tails: Vec<i64> = status.partitions().values().map(|one| one.tail).collect();
        tails.iter().max() >= ends.iter().max() && tails.iter().min() >= ends.iter().min()
    })
    .await;
    stop.cancel();
    run.await.unwrap().unwrap();
    world.assert_collected(&store).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn facts_say_how_far_a_partition_was_read_behind_its_last_record() {
    let (world, store) = (world(1, 20), Store::in_memory());
    world.log.publish_control(PREDICTIONS, 0);
    let end = world.log.publish_control(PREDICTIONS, 0) + 1;
    catch_up(&world.log, &store, 1).await.unwrap();
    let read = read_chain(&store, PREDICTIONS, 0).await;
    let facts = chain::read_facts(&store, &read.footers[0].chain).await.unwrap().expect("the end was reached");
    assert_eq!((facts.position, facts.broker_end, facts.tail), (end, end, read.to));
    assert_eq!(read.to, end - 2, "control records alone are no reason to write an object");
    assert_eq!(facts.tail_from, read.footers.last().map(|footer| footer.from));
    assert!(facts.at_end_since <= facts.confirmed_at);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_written_when_nothing_comes() {
    let (world, store) = (world(1, 0), Store::in_memory());
    catch_up(&world.log, &store, 1).await.unwrap();
    let read = read_chain(&store, PREDICTIONS, 0).await;
    assert_eq!((read.from, read.to, read.footers.len()), (0, 0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chain_begins_where_it_is_told_once() {
    let (world, store) = (world(1, 50), Store::in_memory());
    let latest = CollectorSettings { start: Start::Latest, ..settings() };
    let (script, stop) = (Script::assigning(all(1)), CancellationToken::new());
    collect(&world.log, &store, script, latest, Until::CaughtUp, stop, Arc::default()).await.unwrap();
    let born = read_chain(&store, PREDICTIONS, 0).await;
    assert_eq!(born.footers.len(), 0);
    let offset = world.log.publish(PREDICTIONS, 0, Some(&prediction("new", 1)));
    // `earliest` comes too late: the genesis stands.
    catch_up(&world.log, &store, 1).await.unwrap();
    let read = read_chain(&store, PREDICTIONS, 0).await;
    assert_eq!((read.from, read.rows), (born.from, vec![((offset, 0), "new".to_owned())]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_created_again_has_a_chain_of_its_own() {
    let (world, store) = (world(1, 30), Store::in_memory());
    catch_up(&world.log, &store, 1).await.unwrap();
    world.log.create_topic(PREDICTIONS, Some("P2"), 1);
    world.log.publish(PREDICTIONS, 0, Some(&prediction("again", 1)));
    catch_up(&world.log, &store, 1).await.unwrap();
    let read = read_chain(&store, PREDICTIONS, 0).await;
    assert_eq!((read.from, read.rows), (0, vec![((0, 0), "again".to_owned())]));
    assert_eq!(read.footers[0].topic_id.as_deref(), Some("P2"));
}

/// C1: in the midst of reading. The new topic has more records than the old one had when somebody first looks at it, so that the
/// client reads on at a position that exists in both, and no error tells it anything.
#[tokio::test(flavor = "multi_thread")]
async fn c1_a_topic_created_again_while_it_is_read_has_a_chain_of_its_own() {
    let (mut world, store) = (world(1, 20), Store::in_memory());
    // Nothing is flushed until there is much of it: what was taken before and after lie in one buffer.
    let settings = CollectorSettings { flush_interval: Duration::from_millis(400), flush_bytes: 1 << 20, ..settings() };
    let (stop, status) = (CancellationToken::new(), Arc::new(CollectorStatus::default()));
    let (script, log, member_store) = (Script::assigning(all(1)), world.log.clone(), store.clone());
    let (run_stop, run_status) = (stop.clone(), Arc::clone(&status));
    let member = tokio::spawn(async move {
        collect(&log, &member_store, script, settings, Until::Shutdown, run_stop, run_status).await
    });
    let end = |world: &crate::reading::World, topic| world.expected[&(topic, 0)].last().unwrap().0.0 + 1;
    let first = end(&world, PREDICTIONS);
    let chains = async || Manifest::load(&store).await.unwrap().unwrap().chains();
    eventually("the first topic is read", async || {
        status.partitions().values().any(|one| one.tail == first && one.position == first)
    })
    .await;
    let old = chains().await.into_iter().find(|one| one.topic == PREDICTIONS).unwrap().name();
    let records: Vec<Vec<u8>> = (0..2 * first).map(|n| prediction(&format!("again-{n}"), n % 50)).collect();
    world.log.create_again(PREDICTIONS, "P2", &records);
    let rows: Vec<_> = (0..2 * first).map(|n| ((n, 0), format!("again-{n}"))).collect();
    let before = world.expected.insert((PREDICTIONS, 0), rows).unwrap();
    eventually("the new topic is read", async || {
        chains().await.iter().filter(|one| one.topic == PREDICTIONS).count() == 2
            && read_chain(&store, PREDICTIONS, 0).await.to == 2 * first
    })
    .await;
    stop.cancel();
    member.await.unwrap().unwrap();
    world.assert_collected(&store).await;
    let footer = chain::read_footer(&store, &old, first).await.unwrap();
    assert_eq!(footer, None, "{old} has nothing beyond the {} events that the first topic had", before.len());
}

/// C1: a run that ends when it has caught up ends with the topic that there is, not with the one that there was.
#[tokio::test(flavor = "multi_thread")]
async fn c1_a_run_that_catches_up_reaches_the_end_of_a_topic_created_again() {
    let (world, store) = (world(1, 400), Store::in_memory());
    let settings = CollectorSettings { flush_interval: Duration::from_millis(300), flush_bytes: 1 << 20, ..settings() };
    let (script, log, member_store) = (Script::assigning(all(1)), world.log.clone(), store.clone());
    let member = tokio::spawn(async move {
        let (stop, status) = (CancellationToken::new(), Arc::default());
        collect(&log, &member_store, script, settings, Until::CaughtUp, stop, status).await
    });
    tokio::time::sleep(Duration::from_millis(20)).await;
    let records: Vec<Vec<u8>> = (0..7).map(|n| prediction(&format!("again-{n}"), n)).collect();
    world.log.create_again(PREDICTIONS, "P2", &records);
    member.await.unwrap().unwrap();
    catch_up(&world.log, &store, 1).await.unwrap();
    assert_eq!(read_chain(&store, PREDICTIONS, 0).await.rows.len(), 7);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_offset_that_is_gone_halts_its_partition_only() {
    let (world, store) = (world(2, 40), Store::in_memory());
    catch_up(&world.log, &store, 2).await.unwrap();
    let tail = read_chain(&store, PREDICTIONS, 0).await.to;
    for n in 0..20 {
        world.log.publish(PREDICTIONS, 0, Some(&prediction(&format!("lost-{n}"), n)));
    }
    let offset = world.log.publish(PREDICTIONS, 1, Some(&prediction("kept", 1)));
    world.log.remove_before(PREDICTIONS, 0, tail + 10);
    let error = catch_up(&world.log, &store, 2).await.unwrap_err().to_string();
    for part in [
        PREDICTIONS,
        "[0]",
        &tail.to_string(),
        &(tail + 10).to_string(),
        "accept-gap --topic driftline.predictions --partition 0",
    ] {
        assert!(error.contains(part), "{error} has no {part}");
    }
    assert_eq!(read_chain(&store, PREDICTIONS, 0).await.to, tail);
    assert_eq!(read_chain(&store, PREDICTIONS, 1).await.rows.last().unwrap(), &((offset, 0), "kept".to_owned()));
    assert!(read_chain(&store, PREDICTIONS, 0).await.footers.iter().all(|footer| footer.kind != RawKind::Gap));
}

/// Remembers each letter, and whether its record was in the chain already when it was published.
struct Letters {
    store: Store,
    published: Arc<std::sync::Mutex<Vec<(i64, bool)>>>,
}

#[async_trait::async_trait]
impl driftline_collector::DeadLetters for Letters {
    async fn publish(
        &self,
        origin: &driftline_schemas::position::TopicPartition,
        rejections: &[driftline_collector::batch::RejectedEvent],
    ) -> Result<(), String> {
        let manifest = driftline_store::Manifest::load(&self.store).await.unwrap().unwrap();
        let chain = manifest.chains().into_iter().find(|one| one.topic == origin.topic).unwrap().name();
        let mut to = chain::read_genesis(&self.store, &chain).await.unwrap().unwrap().from;
        while let Some(object) = self.store.get(&driftline_store::paths::raw_object(&chain, to as u64)).await.unwrap() {
            to = driftline_schemas::raw::RawFooter::from_bytes(&object.bytes).unwrap().to;
        }
        let mut published = self.published.lock().unwrap();
        published.extend(rejections.iter().map(|event| (event.offset, event.offset < to)));
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rejected_events_are_published_before_their_object_stands_so_that_a_crash_repeats_and_never_loses_them() {
    let (world, store) = (world(1, 200), Store::in_memory());
    let published = Arc::new(std::sync::Mutex::new(Vec::new()));
    let letters = Letters { store: store.clone(), published: Arc::clone(&published) };
    let (log, topics) = (world.log.clone(), settings().topics());
    let script = Script::assigning(all(1));
    let connect = move |starts: Arc<driftline_collector::ChainStarts>| {
        Ok(Some(driftline_collector::memory::MemorySource::new(log, topics, script, starts)))
    };
    let letters = Some(Box::new(letters) as Box<dyn driftline_collector::DeadLetters>);
    let (status, stop) = (Arc::default(), CancellationToken::new());
    driftline_collector::run_on(connect, settings(), store.clone(), letters, status, Until::CaughtUp, stop)
        .await
        .unwrap();
    world.assert_collected(&store).await;
    let (predictions, labels) = (read_chain(&store, PREDICTIONS, 0).await, read_chain(&store, LABELS, 0).await);
    let footers = predictions.footers.iter().chain(&labels.footers);
    let rejected: u64 = footers.map(driftline_schemas::raw::RawFooter::rejected_total).sum();
    let published = published.lock().unwrap();
    assert_eq!(published.len() as u64, rejected, "each once, when nothing goes wrong");
    assert!(published.iter().all(|(_, committed)| !committed), "none after its commit");
}
