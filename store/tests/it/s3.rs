//! The contract on a real S3 protocol: `DRIFTLINE_TEST_S3_URL` names a bucket (`s3://bucket/prefix`), the usual `AWS_…`
//! variables its endpoint and credentials.
use std::collections::BTreeMap;

use driftline_store::{Fault, FaultPlan, Store};

use crate::contract::{keeps_the_contract, quick};

const URL: &str = "DRIFTLINE_TEST_S3_URL";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s3_keeps_the_contract() {
    let Ok(url) = std::env::var(URL) else {
        let required = std::env::var("DRIFTLINE_REQUIRE_ALL").is_ok_and(|value| value == "1");
        assert!(!required, "{URL} is not set, and DRIFTLINE_REQUIRE_ALL=1 forbids the skip");
        println!("\n!!! SKIPPED: the contract was not checked on S3; set {URL} to a bucket's url to check it\n");
        return;
    };
    let store = Store::open(&url, &BTreeMap::new()).unwrap();
    let root = format!("contract-{:x}", rand::random::<u64>());
    keeps_the_contract(&store, &root).await;
    let plan = FaultPlan::new(1).share(Fault::Before, 0.03).share(Fault::After, 0.03);
    let failing = store.clone().with_retry(quick()).with_faults(plan);
    keeps_the_contract(&failing, &format!("{root}-faults")).await;
    for folder in [root.clone(), format!("{root}-faults")] {
        for object in store.list(&folder).await.unwrap() {
            store.delete(&object.path).await.unwrap();
        }
    }
}
