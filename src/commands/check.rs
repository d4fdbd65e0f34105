//! `check`: configuration, store, brokers, topics, clock.
use std::time::Duration;

use anyhow::Result;
use driftline_schemas::clock;
use driftline_schemas::config::Config;
use driftline_store::{RetryPolicy, Store};
use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};

use crate::cli::Global;
use crate::{CheckFailed, config};

/// A store's clock further away than this makes `future_timestamp` and idle windows wrong.
const CLOCK_SKEW_MAX_SECS: i64 = 60;
const BROKER_WAIT: Duration = Duration::from_secs(10);
/// A person waits for the answer: a store that is away is reported sooner than a running pipeline gives up on it.
const STORE_WAIT: Duration = Duration::from_secs(10);

pub(crate) async fn run(global: &Global) -> Result<()> {
    let config = config::load(global)?;
    let mut failed = 0;
    let mut say = |what: &str, result: Result<String, String>| match result {
        Ok(detail) => println!("ok      {what:<14} {detail}"),
        Err(detail) => {
            failed += 1;
            println!("FAILED  {what:<14} {detail}");
        }
    };
    say("configuration", Ok(format!("{} model(s) listed", config.judge.models.len())));
    match Store::open(&config.store.url, &config.store.options) {
        Err(error) => say("store", Err(error.to_string())),
        Ok(store) => {
            let store = store.with_retry(RetryPolicy { max_elapsed: STORE_WAIT, ..RetryPolicy::default() });
            match store.probe().await {
                Ok(()) => {
                    say("store", Ok(format!("{}: create-if-absent and replace-if hold", store.url())));
                    say("clock", clock_skew(&store).await);
                }
                // Its clock does not matter, and nothing more is written into it.
                Err(error) => say("store", Err(error.to_string())),
            }
        }
    }
    let asked = config.clone();
    let topics = tokio::task::spawn_blocking(move || brokers(&asked)).await?;
    for (what, result) in topics {
        say(&what, result);
    }
    if failed == 0 { Ok(()) } else { Err(CheckFailed(format!("{failed} check(s) failed")).into()) }
}

async fn clock_skew(store: &Store) -> Result<String, String> {
    let path = format!("live/clock-{}.json", std::process::id());
    let before = clock::now();
    let written = async {
        store.put(&path, bytes::Bytes::from_static(b"{}")).await?;
        let meta = store.head(&path).await?;
        store.delete(&path).await?;
        Ok::<_, driftline_store::Error>(meta)
    };
    let Some(meta) = written.await.map_err(|error| error.to_string())? else {
        return Err("an object that was just written is not there".into());
    };
    let skew = (meta.last_modified - before).num_seconds();
    if skew.abs() > CLOCK_SKEW_MAX_SECS {
        Err(format!("this machine's clock and the store's differ by {skew} s; set both by NTP"))
    } else {
        Ok(format!("within {} s of the store's", skew.abs().max(1)))
    }
}

fn brokers(config: &Config) -> Vec<(String, Result<String, String>)> {
    let kafka = &config.kafka;
    let mut client = ClientConfig::new();
    client.set("bootstrap.servers", &kafka.brokers);
    for (key, value) in &kafka.properties {
        client.set(key, value);
    }
    let consumer: BaseConsumer = match client.create() {
        Ok(consumer) => consumer,
        Err(error) => return vec![("brokers".into(), Err(error.to_string()))],
    };
    let metadata = match consumer.fetch_metadata(None, BROKER_WAIT) {
        Ok(metadata) => metadata,
        Err(error) => {
            let advice = format!("{} do not answer: {error} (set kafka.brokers or --brokers)", kafka.brokers);
            return vec![("brokers".into(), Err(advice))];
        }
    };
    let mut results = vec![("brokers".to_owned(), Ok(format!("{} of {}", metadata.brokers().len(), kafka.brokers)))];
    for topic in kafka.predictions_topics.iter().chain(&kafka.labels_topics) {
        let found = metadata.topics().iter().find(|known| known.name() == topic);
        results.push((
            "topic".to_owned(),
            match found {
                Some(known) => Ok(format!("{topic}: {} partition(s)", known.partitions().len())),
                None if kafka.create_topics => Ok(format!("{topic}: does not exist, and will be created")),
                None => Err(format!(
                    "{topic} does not exist; create it with `kafka-topics.sh --bootstrap-server {} --create --topic {topic} \
                     --partitions {}`, or set kafka.create_topics = true",
                    kafka.brokers, kafka.create_partitions
                )),
            },
        ));
    }
    results
}
