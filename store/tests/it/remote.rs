//! The contract over HTTP: on a real S3 server, and on the emulators of Google Cloud Storage and Azure Blob Storage.
//!
//! `DRIFTLINE_TEST_S3_URL`, `DRIFTLINE_TEST_GCS_URL` and `DRIFTLINE_TEST_AZURE_URL` name a bucket (`s3://bucket/prefix`), the
//! clients' usual variables its endpoint and credentials: `scripts/s3.sh start` and `scripts/emulators.sh start` print them.
use std::collections::BTreeMap;

use driftline_store::{Created, Error, Expected, Fault, FaultPlan, Replaced, RetryPolicy, Store};
use futures::future::join_all;

use crate::contract::{keeps_the_contract, quick};

const S3: &str = "DRIFTLINE_TEST_S3_URL";
const GCS: &str = "DRIFTLINE_TEST_GCS_URL";
const AZURE: &str = "DRIFTLINE_TEST_AZURE_URL";
/// The same bucket as a host of its own: `http://bucket.domain:port`.
const VIRTUAL_HOST: &str = "DRIFTLINE_TEST_S3_VIRTUAL_HOST";
/// The same bucket over TLS, and the authority that has signed its certificate.
const TLS: &str = "DRIFTLINE_TEST_S3_TLS";
const CA: &str = "DRIFTLINE_TEST_S3_CA";

/// A variable's value; without it the test says loudly that it was skipped, or fails where nothing may be skipped.
fn given(variable: &str, what: &str) -> Option<String> {
    if let Some(value) = std::env::var(variable).ok().filter(|value| !value.is_empty()) {
        return Some(value);
    }
    let required = std::env::var("DRIFTLINE_REQUIRE_ALL").is_ok_and(|value| value == "1");
    assert!(!required, "{variable} is not set, and DRIFTLINE_REQUIRE_ALL=1 forbids the skip");
    println!("\n!!! SKIPPED: {what} was not checked; set {variable} (scripts/s3.sh, scripts/emulators.sh)\n");
    None
}

fn open(url: &str, options: &[(&str, &str)]) -> Store {
    let options =
        options.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect::<BTreeMap<_, _>>();
    Store::open(url, &options).unwrap()
}

fn fresh_root() -> String {
    format!("contract-{:x}", rand::random::<u64>())
}

/// The contract, the contract under faults, and races over connections of their own.
async fn check(url: &str, rounds: usize) {
    let (store, root) = (open(url, &[]), fresh_root());
    keeps_the_contract(&store, &root).await;
    let plan = FaultPlan::new(1).share(Fault::Before, 0.03).share(Fault::After, 0.03);
    let failing = store.clone().with_retry(quick()).with_faults(plan);
    keeps_the_contract(&failing, &format!("{root}-faults")).await;
    let writers: Vec<Store> = (0..RACERS).map(|_| open(url, &[])).collect();
    races_have_one_winner(&writers, &format!("{root}-races"), rounds).await;
    for folder in [root.clone(), format!("{root}-faults"), format!("{root}-races")] {
        for object in store.list(&folder).await.unwrap() {
            store.delete(&object.path).await.unwrap();
        }
    }
}

const RACERS: usize = 16;
/// On the server that the store's users run. Chance decides: moto, which races, was caught in one run of two.
const ROUNDS: usize = 40;
/// On an emulator, whose races say nothing of the service that it stands for: only that the client copes.
const ROUNDS_OF_EMULATORS: usize = 5;

/// Each round all writers create one name, and then all replace the version that stands there.
async fn races_have_one_winner(writers: &[Store], root: &str, rounds: usize) {
    for round in 0..rounds {
        let path = format!("{root}/{round}");
        let outcomes = join_all(writers.iter().enumerate().map(|(nth, store)| {
            let (store, path) = (store.clone(), path.clone());
            tokio::spawn(async move { store.create(&path, format!("created by {nth}").into()).await.unwrap() })
        }));
        let mut won = Vec::new();
        for (nth, outcome) in outcomes.await.into_iter().enumerate() {
            if let Created::New(version) = outcome.unwrap() {
                won.push((format!("created by {nth}"), version));
            }
        }
        assert_eq!(won.len(), 1, "round {round}: {won:?} were told that they had created one name");
        let (bytes, version) = won.remove(0);
        let stands = writers[0].get(&path).await.unwrap().unwrap();
        assert_eq!((stands.bytes, &stands.version), (bytes.into(), &version), "round {round}");

        let outcomes = join_all(writers.iter().enumerate().map(|(nth, store)| {
            let (store, path, expected) = (store.clone(), path.clone(), Expected::Version(version.clone()));
            tokio::spawn(
                async move { store.replace(&path, format!("replaced by {nth}").into(), expected).await.unwrap() },
            )
        }));
        let mut won = Vec::new();
        for (nth, outcome) in outcomes.await.into_iter().enumerate() {
            if let Replaced::Done(version) = outcome.unwrap() {
                won.push((format!("replaced by {nth}"), version));
            }
        }
        assert_eq!(won.len(), 1, "round {round}: {won:?} were told that they had replaced one version");
        let (bytes, version) = won.remove(0);
        let stands = writers[0].get(&path).await.unwrap().unwrap();
        assert_eq!((stands.bytes, stands.version), (bytes.into(), version), "round {round}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s3_keeps_the_contract() {
    if let Some(url) = given(S3, "the contract on S3") {
        check(&url, ROUNDS).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn azure_keeps_the_contract() {
    if let Some(url) = given(AZURE, "the contract on Azure Blob Storage") {
        check(&url, ROUNDS_OF_EMULATORS).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn gcs_keeps_the_contract() {
    if let Some(url) = given(GCS, "the contract on Google Cloud Storage") {
        check(&url, ROUNDS_OF_EMULATORS).await;
    }
}

/// One bucket by three ways: what is written by one is read by the others, from the same prefix.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s3_is_one_store_by_path_by_host_and_over_tls() {
    const WHAT: &str = "S3's ways of addressing";
    let (Some(url), Some(host), Some(tls), Some(ca), Some(plain)) = (
        given(S3, WHAT),
        given(VIRTUAL_HOST, WHAT),
        given(TLS, WHAT),
        given(CA, WHAT),
        given("AWS_ENDPOINT_URL", WHAT),
    ) else {
        return;
    };
    let ca = std::fs::read_to_string(ca).unwrap();
    let by_path = open(&url, &[]);
    // Few machines resolve names below localhost, so the server itself is named as the proxy; the request is the same.
    let by_host =
        open(&url, &[("endpoint_url", &host), ("virtual_hosted_style_request", "true"), ("proxy_url", &plain)]);
    let over_tls = open(&url, &[("endpoint_url", &tls), ("allow_http", "false"), ("ca_certificate", &ca)]);
    let root = fresh_root();
    let ways = [("path", &by_path), ("host", &by_host), ("tls", &over_tls)];
    for (way, store) in ways {
        store.probe().await.unwrap_or_else(|error| panic!("by {way}: {error}"));
        store.create(&format!("{root}/{way}"), way.into()).await.unwrap();
    }
    for (way, store) in ways {
        let found: Vec<String> = store.list(&root).await.unwrap().into_iter().map(|listed| listed.path).collect();
        assert_eq!(found, ["host", "path", "tls"].map(|name| format!("{root}/{name}")), "by {way}");
        for (name, _) in ways {
            assert_eq!(store.get(&format!("{root}/{name}")).await.unwrap().unwrap().bytes, name, "by {way}");
        }
    }
    // The prefix in the URL is a folder of the bucket.
    let (bucket, prefix) = url.strip_prefix("s3://").unwrap().split_once('/').expect("the url has a prefix");
    let whole = open(&format!("s3://{bucket}"), &[]);
    assert_eq!(whole.get(&format!("{prefix}/{root}/host")).await.unwrap().unwrap().bytes, "host");
    for (name, _) in ways {
        by_path.delete(&format!("{root}/{name}")).await.unwrap();
    }
}

/// What a person gets wrong is told at once, and tells what to do.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s3_says_what_is_wrong() {
    const WHAT: &str = "what is said of wrong settings on S3";
    let (Some(url), Some(tls)) = (given(S3, WHAT), given(TLS, WHAT)) else { return };
    let missing = url.replacen("s3://", "s3://no-such-bucket-", 1);
    let cases: [(&str, &str, &[(&str, &str)], &str); 4] = [
        ("an unknown authority", &url, &[("endpoint_url", &tls)], "store.options.ca_certificate_file"),
        ("a wrong secret", &url, &[("aws_secret_access_key", "wrong")], "credentials"),
        ("an unknown key", &url, &[("aws_access_key_id", "nobody")], "credentials"),
        ("a missing bucket", &missing, &[], "the bucket, container or object does not exist"),
    ];
    for (case, url, options, says) in cases {
        // Default patience: what asking again cannot mend must not be asked again.
        let store = open(url, options).with_retry(RetryPolicy::default());
        let asked = std::time::Instant::now();
        let error = store.probe().await.expect_err(case);
        println!("{case}: {error}");
        assert!(matches!(error, Error::Permanent { .. }), "{case}: {error}");
        assert!(error.to_string().contains(says), "{case}: {error}");
        assert!(asked.elapsed().as_secs() < 30, "{case}: it took {:?}", asked.elapsed());
    }
}
