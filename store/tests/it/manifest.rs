//! The manifest and the heartbeats, as several processes use them at once.
use std::time::Duration;

use chrono::{DateTime, Utc};
use driftline_store::{Error, Fault, FaultPlan, Heartbeat, Manifest, Store, TopicKind, paths};
use futures::future::join_all;

use crate::contract::{open, quick};

fn at(secs: i64) -> DateTime<Utc> {
    DateTime::from_timestamp(1_800_000_000 + secs, 0).unwrap()
}

async fn register_all_at_once(store: &Store) {
    let tasks = (0..20).map(|n: u32| {
        let store = store.clone();
        tokio::spawn(async move {
            let (topic, kind) =
                if n.is_multiple_of(2) { ("p", TopicKind::Predictions) } else { ("l", TopicKind::Labels) };
            // Everyone sees another number of partitions, some no id yet.
            let id = n.is_multiple_of(3).then(|| format!("id of {topic}"));
            Manifest::register_topic(&store, topic, kind, id.as_deref(), n, at(n.into())).await.unwrap().1
        })
    });
    for incarnation in join_all(tasks).await {
        assert!(["p", "l"].contains(&incarnation.unwrap().key.as_str()));
    }
    let manifest = Manifest::load(store).await.unwrap().unwrap();
    for (topic, partitions) in [("p", 18), ("l", 19)] {
        let [only] = manifest.topics[topic].as_slice() else { panic!("one incarnation") };
        assert_eq!((only.partitions, only.topic_id.clone()), (partitions, Some(format!("id of {topic}"))));
    }
    assert_eq!(manifest.chains().len(), 18 + 19);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn registrations_at_once_all_count() {
    register_all_at_once(&Store::in_memory()).await;
    let folder = tempfile::tempdir().unwrap();
    register_all_at_once(&open(folder.path())).await;
    for seed in 0..5 {
        let plan = FaultPlan::new(seed).share(Fault::After, 0.15).share(Fault::Unavailable, 0.1);
        register_all_at_once(&Store::in_memory().with_retry(quick()).with_faults(plan)).await;
    }
}

#[tokio::test]
async fn the_first_manifest_stands() {
    let store = Store::in_memory();
    assert_eq!(Manifest::load(&store).await.unwrap(), None);
    let first = Manifest::load_or_create(&store, at(1)).await.unwrap();
    assert_eq!(Manifest::load_or_create(&store, at(2)).await.unwrap(), first);
    assert_eq!(first.created_at, at(1));
    let version = store.head(paths::MANIFEST).await.unwrap().unwrap().version;
    for id in [Some("a"), None, Some("a")] {
        Manifest::register_topic(&store, "t", TopicKind::Labels, id, 2, at(3)).await.unwrap();
    }
    let once = store.head(paths::MANIFEST).await.unwrap().unwrap().version;
    assert_ne!(once, version);
    Manifest::register_topic(&store, "t", TopicKind::Labels, Some("a"), 1, at(4)).await.unwrap();
    assert_eq!(store.head(paths::MANIFEST).await.unwrap().unwrap().version, once, "nothing new, nothing written");
}

#[tokio::test]
async fn a_newer_stores_manifest_is_refused() {
    let store = Store::in_memory();
    store.put(paths::MANIFEST, r#"{"format_version": 7}"#.into()).await.unwrap();
    for error in [
        Manifest::load(&store).await.unwrap_err(),
        Manifest::load_or_create(&store, at(0)).await.unwrap_err(),
        Manifest::register_topic(&store, "t", TopicKind::Labels, None, 1, at(0)).await.unwrap_err(),
    ] {
        assert!(matches!(error, Error::Unsupported { .. }), "{error}");
    }
}

#[tokio::test]
async fn the_living_are_told_from_the_dead() {
    let store = Store::in_memory();
    let ttl = Duration::from_secs(30);
    let names = |living: Vec<Heartbeat>| living.into_iter().map(|one| one.instance).collect::<Vec<_>>();
    assert!(Heartbeat::living(&store, at(0), ttl).await.unwrap().is_empty());
    let mut beats: Vec<Heartbeat> =
        ["b", "a/1", "c"].map(|name| Heartbeat::new(name, vec!["evaluator".into()], "0.1.0", at(0))).into();
    for one in &mut beats {
        one.beat(&store, at(0)).await.unwrap();
    }
    beats[0].beat(&store, at(31)).await.unwrap();
    beats[1].beat(&store, at(60)).await.unwrap();
    assert_eq!(names(Heartbeat::living(&store, at(31), ttl).await.unwrap()), ["a/1", "b"], "a clock may be ahead");
    beats[1].resign(&store).await.unwrap();
    beats[1].resign(&store).await.unwrap();
    assert_eq!(Heartbeat::living(&store, at(31), ttl).await.unwrap(), [beats[0].clone()]);
    assert_eq!((beats[0].started_at, beats[0].at), (at(0), at(31)));
    assert_eq!(store.list("live").await.unwrap().len(), 2, "the dead of today are kept");
    assert!(Heartbeat::living(&store, at(24 * 3600 + 20), ttl).await.unwrap().is_empty());
    assert_eq!(store.list("live").await.unwrap().len(), 1, "the dead of yesterday are not");
    store.put("live/junk.json", "?".into()).await.unwrap();
    assert!(Heartbeat::living(&store, at(0), ttl).await.unwrap().len() <= 1);
}
