//! What only a disk can get wrong: the names of files, other handles, other processes.
use std::{collections::BTreeSet, fs, process::Command};

use driftline_store::{Created, Store, encode_segment};
use futures::future::join_all;

use crate::contract::{add_member, open};

const MEMBERS: &str = "shared/members";

/// Tells the child of `two_processes_lose_no_update` which store it shares.
const SHARED_STORE: &str = "DRIFTLINE_TEST_SHARED_STORE";

async fn members(store: &Store) -> BTreeSet<u32> {
    serde_json::from_slice(&store.get(MEMBERS).await.unwrap().unwrap().bytes).unwrap()
}

#[tokio::test]
async fn a_name_becomes_the_very_file_that_others_glob_for() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    let name = format!("history/model_name={}/p0~1.parquet", encode_segment("a/b"));
    store.create(&name, "x".into()).await.unwrap();
    let file = folder.path().join("history").join("model_name=a%2Fb").join("p0~1.parquet");
    assert_eq!(fs::read_to_string(file).unwrap(), "x");
    let seen: BTreeSet<String> =
        fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    assert_eq!(seen, BTreeSet::from([".staging".to_owned(), "history".to_owned()]));
    assert_eq!(store.list("").await.unwrap().len(), 1, "the scaffolding is not listed");
    assert_eq!(store.list_folders("").await.unwrap(), ["history"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_handles_lose_no_update() {
    let folder = tempfile::tempdir().unwrap();
    let handles = [open(folder.path()), open(folder.path())];
    handles[0].create(MEMBERS, "[]".into()).await.unwrap();
    let writers = (0..10).map(|writer| {
        let store = handles[writer as usize % 2].clone();
        tokio::spawn(async move {
            for nth in 0..10 {
                add_member(&store, MEMBERS, writer * 10 + nth).await;
            }
        })
    });
    join_all(writers).await.into_iter().for_each(Result::unwrap);
    assert_eq!(members(&handles[0]).await, (0..100).collect());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_processes_lose_no_update() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    store.create(MEMBERS, "[]".into()).await.unwrap();
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "local::the_other_process", "--nocapture"])
        .env(SHARED_STORE, folder.path())
        .spawn()
        .unwrap();
    for nth in 0..50 {
        add_member(&store, MEMBERS, nth).await;
        assert!(matches!(
            store.create(&format!("race/{nth}"), "parent".into()).await.unwrap(),
            Created::New(_) | Created::Exists(_)
        ));
    }
    let status = tokio::task::spawn_blocking(move || child.wait().unwrap()).await.unwrap();
    assert!(status.success());
    assert_eq!(members(&store).await, (0..100).collect());
    // Each process has noted which races it won: together each race exactly once.
    let won_there: BTreeSet<u32> =
        serde_json::from_slice(&store.get("won/child").await.unwrap().unwrap().bytes).unwrap();
    for nth in 0..50 {
        let stands = store.get(&format!("race/{nth}")).await.unwrap().unwrap();
        assert_eq!(stands.bytes == "child", won_there.contains(&nth), "race {nth}");
    }
}

/// Does nothing unless the test above has started it.
#[tokio::test]
async fn the_other_process() {
    let Ok(folder) = std::env::var(SHARED_STORE) else { return };
    let store = open(folder.as_ref());
    let mut won = BTreeSet::new();
    for nth in 0..50 {
        add_member(&store, MEMBERS, 50 + nth).await;
        if let Created::New(_) = store.create(&format!("race/{nth}"), "child".into()).await.unwrap() {
            won.insert(nth);
        }
    }
    store.create("won/child", serde_json::to_vec(&won).unwrap().into()).await.unwrap();
}

#[tokio::test]
async fn a_plain_counter_counts_where_no_answer_is_lost() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    store.create("counter", "0".into()).await.unwrap();
    let count = |store: Store| async move {
        for _ in 0..10 {
            loop {
                let found = store.get("counter").await.unwrap().unwrap();
                let next = std::str::from_utf8(&found.bytes).unwrap().parse::<u32>().unwrap() + 1;
                let expected = driftline_store::Expected::Version(found.version);
                let replaced = store.replace("counter", next.to_string().into(), expected).await.unwrap();
                if matches!(replaced, driftline_store::Replaced::Done(_)) {
                    break;
                }
            }
        }
    };
    join_all((0..10).map(|_| count(store.clone()))).await;
    assert_eq!(store.get("counter").await.unwrap().unwrap().bytes, "100");
}
