//! Chains: any number of writers, any faults, one gap-free sequence.
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use driftline_store::{Appended, Chain, Error, Fault, FaultPlan, Object, Operation, RetryPolicy, Store};
use serde::{Deserialize, Serialize};

use crate::contract::{open, quick};

/// One flush: it covers `[from, to)`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Flush {
    writer: usize,
    from: u64,
    to: u64,
}

fn next(object: &Object) -> Result<u64, Error> {
    let flush: Flush = serde_json::from_slice(&object.bytes).unwrap();
    Ok(flush.to)
}

/// Appends flushes of different sizes until the chain has reached `end`, adopting what others have written. A writer
/// whose store gives up ends its life there and starts again, as a process would, from the last boundary it has proven:
/// each object that it read on the way, for a walk over the whole chain would seldom outlive its own reads.
async fn write(chain: Chain, writer: usize, from: u64, end: u64) -> Vec<Flush> {
    let mut mine = Vec::new();
    let proven = AtomicU64::new(from);
    let note = |object: &Object| next(object).inspect(|to| proven.store(*to, Ordering::Relaxed));
    for _life in 0..LIVES_MAX {
        let Ok(mut at) = chain.find_tail(proven.load(Ordering::Relaxed), note).await else { continue };
        while at < end {
            let flush = Flush { writer, from: at, to: at + 1 + (writer as u64 + at) % 7 };
            match chain.append(at, Bytes::from(serde_json::to_vec(&flush).unwrap())).await {
                Ok(Appended::Mine) => {
                    at = flush.to;
                    mine.push(flush);
                }
                Ok(Appended::Theirs(theirs)) => at = next(&theirs).unwrap(),
                Err(_) => break,
            }
            proven.store(at, Ordering::Relaxed);
            tokio::task::yield_now().await;
        }
        if at >= end {
            return mine;
        }
    }
    panic!("writer {writer} makes no progress");
}

/// A chain here has at most 143 objects, and a life dies at one request in eight: some tens of lives are usual.
const LIVES_MAX: usize = 1000;

/// Runs writers side by side and checks what they leave: contiguous from its beginning, each slot one writer's, and
/// nothing else in the folder. Tells how many slots hold what their writer never heard it had written.
async fn check(store: &Store, handles: Vec<Store>) -> usize {
    let chain = |store: Store| Chain::new(store, "raw/t~0", ".json");
    let (from, end) = (17, 160);
    let writers: Vec<_> = handles
        .into_iter()
        .enumerate()
        .map(|(writer, handle)| tokio::spawn(write(chain(handle), writer, from, end)))
        .collect();
    let mut claimed = Vec::new();
    for writer in writers {
        claimed.extend(writer.await.unwrap());
    }
    claimed.sort_by_key(|flush| flush.from);

    let chain = chain(store.clone());
    let mut stands = Vec::new();
    let mut at = from;
    while let Some(object) = chain.read(at).await.unwrap() {
        let flush: Flush = serde_json::from_slice(&object.bytes).unwrap();
        assert_eq!(flush.from, at);
        at = flush.to;
        stands.push(flush);
    }
    assert!(at >= end);
    assert_eq!(chain.find_tail(from, next).await.unwrap(), at);
    assert_eq!(store.list("raw").await.unwrap().len(), stands.len(), "objects outside the chain");
    assert!(claimed.iter().all(|flush| stands.contains(flush)), "a writer was told of a success that does not stand");
    claimed.dedup();
    stands.len() - claimed.len()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c3_two_writers_keep_the_chain_exact() {
    let memory = Store::in_memory();
    assert_eq!(check(&memory, vec![memory.clone(), memory.clone()]).await, 0);
    let folder = tempfile::tempdir().unwrap();
    assert_eq!(check(&open(folder.path()), vec![open(folder.path()), open(folder.path())]).await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c1_the_chain_has_no_gap_under_any_faults() {
    for seed in 0..40 {
        let store = Store::in_memory();
        let handles = (0..3).map(|writer| {
            let plan = FaultPlan::new(seed * 3 + writer)
                .share(Fault::Before, 0.1)
                .share(Fault::After, 0.15)
                .share(Fault::Unavailable, 0.1);
            store.clone().with_retry(quick()).with_faults(plan)
        });
        assert_eq!(check(&store, handles.collect()).await, 0, "seed {seed}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c1_writers_that_give_up_at_once_and_start_again_leave_no_gap() {
    let mut unheard = 0;
    for seed in 0..40 {
        let store = Store::in_memory();
        let handles = (0..3).map(|writer| {
            let plan = FaultPlan::new(seed * 3 + writer)
                .share(Fault::After, 0.1)
                .share(Fault::Before, 0.02)
                .only(&[Operation::Create, Operation::Get]);
            store.clone().with_retry(RetryPolicy::never()).with_faults(plan)
        });
        unheard += check(&store, handles.collect()).await;
    }
    assert!(unheard > 0, "no answer was lost for good, so this has shown nothing");
}

#[tokio::test]
async fn a_chain_that_bites_its_tail_is_corrupt() {
    let store = Store::in_memory();
    let chain = Chain::new(store, "ctl", ".json");
    assert_eq!(chain.slot(3), "ctl/00000000000000000003.json");
    assert_eq!(chain.find_tail(3, next).await.unwrap(), 3, "an empty chain ends where it begins");
    let flush = Flush { writer: 0, from: 3, to: 3 };
    assert!(matches!(chain.append(3, serde_json::to_vec(&flush).unwrap().into()).await.unwrap(), Appended::Mine));
    assert!(matches!(chain.find_tail(3, next).await, Err(Error::Corrupt { .. })));
}
