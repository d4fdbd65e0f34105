//! What single faults do to single operations, and what the trait's handle hides.
use std::{sync::atomic::Ordering, time::Duration};

use bytes::Bytes;
use driftline_store::{
    Created, Disposition, Error, Expected, Fault, FaultPlan, Operation, Replaced, RetryPolicy, Store,
};
use object_store::{ObjectStoreExt, path::Path};

use crate::contract::quick;

fn twin(plan: &FaultPlan) -> Store {
    Store::in_memory().with_retry(quick()).with_faults(plan.clone())
}

#[tokio::test]
async fn c3_a_create_whose_answer_was_lost_is_new() {
    let plan = FaultPlan::new(0).fail_nth(Operation::Create, 1, Fault::After);
    let store = twin(&plan);
    assert!(matches!(store.create("x", "mine".into()).await.unwrap(), Created::New(_)));
    assert_eq!(plan.count(Operation::Create), 1, "it was read, not put again");
}

#[tokio::test]
async fn a_create_that_never_arrived_is_put_again() {
    for fault in [Fault::Before, Fault::Unavailable, Fault::Contended] {
        let plan = FaultPlan::new(0).fail_nth(Operation::Create, 1, fault);
        let store = twin(&plan);
        assert!(matches!(store.create("x", "mine".into()).await.unwrap(), Created::New(_)));
        assert_eq!(plan.count(Operation::Create), 2);
    }
}

#[tokio::test]
async fn a_lost_answer_does_not_hide_that_another_was_first() {
    let plan = FaultPlan::new(0).fail_nth(Operation::Create, 2, Fault::After);
    let store = twin(&plan);
    store.create("x", "theirs".into()).await.unwrap();
    let Created::Exists(found) = store.create("x", "mine".into()).await.unwrap() else { panic!() };
    assert_eq!(found.bytes, "theirs");
}

#[tokio::test]
async fn a_replacement_whose_answer_was_lost_is_done() {
    let plan = FaultPlan::new(0).fail_nth(Operation::Replace, 1, Fault::After);
    let store = twin(&plan);
    let Created::New(first) = store.create("x", "1".into()).await.unwrap() else { panic!() };
    let Replaced::Done(second) = store.replace("x", "2".into(), Expected::Version(first.clone())).await.unwrap() else {
        panic!()
    };
    assert_ne!(first, second);
    assert_eq!(plan.count(Operation::Replace), 1);
}

#[tokio::test]
async fn a_replacement_that_never_arrived_is_put_again() {
    for fault in [Fault::Before, Fault::Unavailable, Fault::Contended] {
        let plan = FaultPlan::new(0).fail_nth(Operation::Replace, 1, fault);
        let store = twin(&plan);
        let Created::New(first) = store.create("x", "1".into()).await.unwrap() else { panic!() };
        assert!(matches!(store.replace("x", "2".into(), Expected::Version(first)).await.unwrap(), Replaced::Done(_)));
        assert_eq!(plan.count(Operation::Replace), 2);
    }
}

#[tokio::test]
async fn a_plain_conflict_is_one_even_if_the_other_wrote_the_same() {
    let store = Store::in_memory();
    let Created::New(first) = store.create("x", "5".into()).await.unwrap() else { panic!() };
    let expected = Expected::Version(first);
    assert!(matches!(store.replace("x", "6".into(), expected.clone()).await.unwrap(), Replaced::Done(_)));
    assert!(
        matches!(store.replace("x", "6".into(), expected).await.unwrap(), Replaced::Conflict(Some(_))),
        "a second count"
    );
}

#[tokio::test]
async fn a_store_that_is_away_is_waited_for_within_bounds() {
    let plan = FaultPlan::new(0);
    let store = twin(&plan);
    store.create("x", "1".into()).await.unwrap();
    plan.switch().store(true, Ordering::SeqCst);
    let hasty = store.clone().with_retry(RetryPolicy { max_elapsed: Duration::from_millis(30), ..quick() });
    let error = hasty.get("x").await.unwrap_err();
    assert!(matches!(error, Error::Transient { operation: Operation::Get, tries: 2.., .. }), "{error}");
    assert_eq!(error.disposition(), Disposition::Retry);
    assert!(matches!(hasty.create("y", "1".into()).await, Err(Error::Transient { .. })));

    let waiting = tokio::spawn(async move { store.get("x").await });
    tokio::time::sleep(Duration::from_millis(20)).await;
    plan.switch().store(false, Ordering::SeqCst);
    assert_eq!(waiting.await.unwrap().unwrap().unwrap().bytes, "1");
}

#[tokio::test]
async fn a_process_can_be_made_to_die_at_any_request() {
    let plan = FaultPlan::new(0).down_after(2);
    let store = Store::in_memory();
    let dying = store.clone().with_retry(RetryPolicy::never()).with_faults(plan.clone());
    assert!(dying.put("a", Bytes::new()).await.is_ok() && dying.put("b", Bytes::new()).await.is_ok());
    assert!(dying.put("c", Bytes::new()).await.is_err() && dying.get("a").await.is_err());
    assert_eq!(store.list("").await.unwrap().len(), 2, "the store itself lives on");
    let calls: Vec<_> = plan.calls().into_iter().map(|call| (call.operation, call.path, call.fault)).collect();
    assert_eq!(calls[1..3], [(Operation::Put, "b".into(), None), (Operation::Put, "c".into(), Some(Fault::Before))]);
}

#[tokio::test]
async fn the_same_seed_brings_the_same_faults() {
    let run = |seed| async move {
        let plan = FaultPlan::new(seed).share(Fault::Before, 0.3).share(Fault::After, 0.2);
        let store = Store::in_memory().with_retry(quick()).with_faults(plan.clone());
        for n in 0..50 {
            store.create(&format!("x/{n}"), "".into()).await.unwrap();
        }
        plan.calls()
    };
    assert_eq!(run(7).await, run(7).await);
    assert_ne!(run(7).await, run(8).await);
}

#[tokio::test]
async fn reads_through_the_trait_are_repeated_too() {
    let plan = FaultPlan::new(3).share(Fault::Before, 0.3).share(Fault::Unavailable, 0.2);
    let store = twin(&plan);
    store.create("t/x", "0123456789".into()).await.unwrap();
    let handle = store.object_store();
    let path = Path::parse("t/x").unwrap();
    for _ in 0..50 {
        assert_eq!(handle.head(&path).await.unwrap().size, 10);
        assert_eq!(handle.get_range(&path, 2..4).await.unwrap(), "23");
        assert_eq!(handle.get_ranges(&path, &[0..1, 9..10]).await.unwrap(), ["0", "9"]);
        assert_eq!(handle.list_with_delimiter(None).await.unwrap().common_prefixes.len(), 1);
    }
    let absent = handle.get(&Path::parse("t/y").unwrap()).await;
    assert!(matches!(absent, Err(object_store::Error::NotFound { .. })));
}
