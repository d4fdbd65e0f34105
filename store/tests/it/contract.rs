//! The contract: one suite, run on memory, on a local disk, on both with faults that retries have to hide, and (in
//! `remote.rs`) on stores over HTTP.
use std::{collections::BTreeSet, time::Duration};

use bytes::Bytes;
use driftline_store::{Created, Error, Expected, Fault, FaultPlan, Replaced, RetryPolicy, Store, encode_segment};
use futures::future::join_all;

/// Tells whether a store keeps all that Driftline rests on. Names begin with `root`, which is new.
pub(crate) async fn keeps_the_contract(store: &Store, root: &str) {
    store.probe().await.unwrap();
    create_has_one_winner(store, root).await;
    create_twice_with_the_same_bytes_is_new(store, root).await;
    replace_loses_no_update(store, root).await;
    replace_refuses_what_it_was_not_told(store, root).await;
    versions_change_with_every_replacement(store, root).await;
    objects_come_back_as_they_were(store, root).await;
    a_pinned_reader_notices(store, root).await;
    odd_names_stay_themselves(store, root).await;
    folders_are_listed(store, root).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn memory_keeps_the_contract() {
    keeps_the_contract(&Store::in_memory(), "t").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_local_disk_keeps_the_contract() {
    let folder = tempfile::tempdir().unwrap();
    keeps_the_contract(&open(folder.path()), "t").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn retries_hide_the_faults_of_memory() {
    for seed in 0..4 {
        keeps_the_contract(&Store::in_memory().with_retry(quick()).with_faults(faults(seed)), "t").await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn retries_hide_the_faults_of_a_local_disk() {
    let folder = tempfile::tempdir().unwrap();
    keeps_the_contract(&open(folder.path()).with_retry(quick()).with_faults(faults(9)), "t").await;
}

pub(crate) fn open(folder: &std::path::Path) -> Store {
    Store::open(&folder.to_string_lossy(), &std::collections::BTreeMap::new()).unwrap()
}

/// Patient, but quick about it.
pub(crate) fn quick() -> RetryPolicy {
    RetryPolicy {
        max_elapsed: Duration::from_secs(60),
        base: Duration::from_micros(200),
        cap: Duration::from_millis(5),
    }
}

fn faults(seed: u64) -> FaultPlan {
    FaultPlan::new(seed).share(Fault::Before, 0.08).share(Fault::After, 0.08).share(Fault::Unavailable, 0.08)
}

/// Adds a member to the set in an object, as often as it takes. A set, not a counter: see [`Store::replace`].
pub(crate) async fn add_member(store: &Store, path: &str, member: u32) {
    loop {
        let found = store.get(path).await.unwrap().unwrap();
        let mut members: BTreeSet<u32> = serde_json::from_slice(&found.bytes).unwrap();
        if !members.insert(member) {
            return;
        }
        let bytes = Bytes::from(serde_json::to_vec(&members).unwrap());
        if let Replaced::Done(_) = store.replace(path, bytes, Expected::Version(found.version)).await.unwrap() {
            return;
        }
        tokio::time::sleep(Duration::from_micros(u64::from(rand::random::<u8>()) * 20)).await;
    }
}

async fn create(store: &Store, path: &str, bytes: impl Into<Bytes>) -> driftline_store::Version {
    match store.create(path, bytes.into()).await.unwrap() {
        Created::New(version) => version,
        Created::Exists(_) => panic!("{path} exists"),
    }
}

async fn replace(store: &Store, path: &str, bytes: &str, expected: &driftline_store::Version) -> Replaced {
    store.replace(path, bytes.to_owned().into(), Expected::Version(expected.clone())).await.unwrap()
}

async fn create_has_one_winner(store: &Store, root: &str) {
    for round in 0..4 {
        let path = format!("{root}/race/{round}");
        let writers = (0..16).map(|writer| {
            let (store, path) = (store.clone(), path.clone());
            tokio::spawn(async move { store.create(&path, format!("writer {writer}").into()).await.unwrap() })
        });
        let outcomes = join_all(writers).await;
        let stands = store.get(&path).await.unwrap().unwrap();
        let mut winners = 0;
        for (writer, outcome) in outcomes.into_iter().enumerate() {
            match outcome.unwrap() {
                Created::New(version) => {
                    winners += 1;
                    assert_eq!(version, stands.version);
                    assert_eq!(stands.bytes, format!("writer {writer}"));
                }
                Created::Exists(theirs) => {
                    assert_eq!((theirs.bytes, theirs.version), (stands.bytes.clone(), stands.version.clone()));
                }
            }
        }
        assert_eq!(winners, 1);
    }
}

async fn create_twice_with_the_same_bytes_is_new(store: &Store, root: &str) {
    let path = format!("{root}/same");
    let first = create(store, &path, "x").await;
    assert_eq!(create(store, &path, "x").await, first);
    match store.create(&path, "y".into()).await.unwrap() {
        Created::Exists(found) => assert_eq!(found.bytes, "x"),
        Created::New(_) => panic!("overwritten"),
    }
}

async fn replace_loses_no_update(store: &Store, root: &str) {
    let path = format!("{root}/members");
    create(store, &path, "[]").await;
    let writers = (0..10).map(|writer| {
        let (store, path) = (store.clone(), path.clone());
        tokio::spawn(async move {
            for nth in 0..10 {
                add_member(&store, &path, writer * 10 + nth).await;
            }
        })
    });
    join_all(writers).await.into_iter().for_each(Result::unwrap);
    let members: BTreeSet<u32> = serde_json::from_slice(&store.get(&path).await.unwrap().unwrap().bytes).unwrap();
    assert_eq!(members, (0..100).collect());
}

async fn replace_refuses_what_it_was_not_told(store: &Store, root: &str) {
    let path = format!("{root}/replace");
    let Replaced::Done(first) = store.replace(&path, "1".into(), Expected::Absent).await.unwrap() else { panic!() };
    let Replaced::Conflict(Some(found)) = store.replace(&path, "2".into(), Expected::Absent).await.unwrap() else {
        panic!()
    };
    assert_eq!((&found.bytes[..], &found.version), (&b"1"[..], &first));
    let Replaced::Done(second) = replace(store, &path, "2", &first).await else { panic!() };
    let Replaced::Conflict(Some(found)) = replace(store, &path, "3", &first).await else { panic!() };
    assert_eq!((&found.bytes[..], &found.version), (&b"2"[..], &second));
    store.delete(&path).await.unwrap();
    assert!(matches!(replace(store, &path, "4", &second).await, Replaced::Conflict(None)));
    assert!(store.get(&path).await.unwrap().is_none());
}

async fn versions_change_with_every_replacement(store: &Store, root: &str) {
    let path = format!("{root}/versions");
    let mut version = create(store, &path, "00").await;
    let mut seen = vec![version.clone()];
    for round in 1..20 {
        // The same size every time, and as fast as it goes.
        let Replaced::Done(next) = replace(store, &path, &format!("{round:02}"), &version).await else { panic!() };
        assert_eq!(store.head(&path).await.unwrap().unwrap().version, next);
        assert!(!seen.contains(&next), "round {round}");
        seen.push(next.clone());
        version = next;
    }
    store.put(&path, "99".into()).await.unwrap();
    assert!(!seen.contains(&store.get(&path).await.unwrap().unwrap().version));
}

async fn objects_come_back_as_they_were(store: &Store, root: &str) {
    let absent = format!("{root}/absent/x");
    assert!(store.get(&absent).await.unwrap().is_none());
    assert!(store.head(&absent).await.unwrap().is_none());
    store.delete(&absent).await.unwrap();
    assert!(store.get_range(&absent, 0..1, None).await.is_err());

    let large: Bytes = (0..5_000_000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    for (name, bytes) in [("empty", Bytes::new()), ("one", Bytes::from_static(b"x")), ("large", large)] {
        let path = format!("{root}/whole/{name}");
        let version = create(store, &path, bytes.clone()).await;
        let found = store.get(&path).await.unwrap().unwrap();
        assert!(found.bytes == bytes && found.version == version, "{name}");
        let meta = store.head(&path).await.unwrap().unwrap();
        assert_eq!((meta.size, meta.version), (bytes.len() as u64, version.clone()));
        assert_eq!(meta.last_modified, found.last_modified);
        assert!(store.get_range(&path, 0..0, None).await.unwrap().is_empty());
        assert_eq!(store.get_range(&path, 0..bytes.len() as u64, Some(&version)).await.unwrap(), bytes);
        let beyond = store.get_range(&path, 0..bytes.len() as u64 + 1, None).await;
        assert!(beyond.is_err(), "{name}");
        store.put(&path, "over".into()).await.unwrap();
        assert_eq!(store.get(&path).await.unwrap().unwrap().bytes, "over");
        store.delete(&path).await.unwrap();
        assert!(store.get(&path).await.unwrap().is_none());
    }
}

async fn a_pinned_reader_notices(store: &Store, root: &str) {
    let path = format!("{root}/pinned");
    let first = create(store, &path, "0123456789").await;
    assert_eq!(store.get_range(&path, 2..5, Some(&first)).await.unwrap(), "234");
    let Replaced::Done(second) = replace(store, &path, "abcdefghij", &first).await else { panic!() };
    assert!(matches!(store.get_range(&path, 2..5, Some(&first)).await, Err(Error::Changed { .. })));
    assert_eq!(store.get_range(&path, 2..5, Some(&second)).await.unwrap(), "cde");
    assert_eq!(store.get_range(&path, 2..5, None).await.unwrap(), "cde");
    store.delete(&path).await.unwrap();
    assert!(matches!(store.get_range(&path, 2..5, Some(&second)).await, Err(Error::Changed { .. })));
}

async fn odd_names_stay_themselves(store: &Store, root: &str) {
    let names =
        ["a/b", "../x", ".", "..", "", "ü ☂", "%", "a%2Fb", "a+b&c=d", "~", "*?[]{}", "\"'\\", "x#1", "\u{1}", "CON:"];
    let mut paths: Vec<String> = names
        .iter()
        .map(|name| format!("{root}/odd/model_name={}/date=2026-11-21/key~2~0.parquet", encode_segment(name)))
        .collect();
    for (name, path) in names.iter().zip(&paths) {
        create(store, path, (*name).to_owned()).await;
    }
    for (name, path) in names.iter().zip(&paths) {
        assert_eq!(store.get(path).await.unwrap().unwrap().bytes, *name);
    }
    let listed: Vec<String> =
        store.list(&format!("{root}/odd")).await.unwrap().into_iter().map(|object| object.path).collect();
    paths.sort();
    assert_eq!(listed, paths);
    let folders = store.list_folders(&format!("{root}/odd")).await.unwrap();
    let mut expected: Vec<String> = names.iter().map(|name| format!("model_name={}", encode_segment(name))).collect();
    expected.sort();
    assert_eq!(folders, expected);
    assert!(matches!(store.get(&format!("{root}/../x")).await, Err(Error::Permanent { .. })));
}

async fn folders_are_listed(store: &Store, root: &str) {
    for name in ["a/1", "a/2", "a/b/3", "ab/4", "5"] {
        create(store, &format!("{root}/list/{name}"), name.to_owned()).await;
    }
    let listed = store.list(&format!("{root}/list/a")).await.unwrap();
    let names: Vec<&str> = listed.iter().map(|object| object.path.strip_prefix(root).unwrap()).collect();
    assert_eq!(names, ["/list/a/1", "/list/a/2", "/list/a/b/3"], "a folder, not all names that begin so");
    let head = store.head(&listed[0].path).await.unwrap().unwrap();
    assert_eq!((listed[0].size, listed[0].version.clone()), (3, Some(head.version)));
    assert_eq!(store.list_folders(&format!("{root}/list")).await.unwrap(), ["a", "ab"]);
    assert!(store.list(&format!("{root}/none")).await.unwrap().is_empty());
    assert!(store.list_folders(&format!("{root}/none")).await.unwrap().is_empty());
    assert!(store.list_folders("").await.unwrap().contains(&root.to_owned()));
}
