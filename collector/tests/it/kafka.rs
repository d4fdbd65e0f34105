//! Against brokers: the embedded library always, and the one that `DRIFTLINE_TEST_BROKERS` names.
use std::sync::Arc;
use std::time::Duration;

use driftline_collector::{CollectorSettings, CollectorStatus, Error, Until, run};
use driftline_store::Store;
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::mocking::MockCluster;
use rdkafka::producer::{DefaultProducerContext, FutureProducer, FutureRecord};
use tokio_util::sync::CancellationToken;

use crate::reading::{Row, eventually, label, prediction, read_chain};

struct Brokers {
    mock: Option<MockCluster<'static, DefaultProducerContext>>,
    address: String,
    predictions: String,
    labels: String,
}

fn embedded() -> Brokers {
    let address = noida::kafka::spawn("127.0.0.1:0").expect("a port is free").to_string();
    Brokers { mock: None, address, predictions: "driftline.predictions".into(), labels: "driftline.labels".into() }
}

/// The client library's own mock: its groups work where the embedded broker's hang (a member that rejoins within a
/// millisecond overtakes the answer to the other member's join, and both wait for ever).
fn mock() -> Brokers {
    let mock = MockCluster::new(1).expect("a mock cluster needs a thread and a port");
    Brokers { address: mock.bootstrap_servers(), mock: Some(mock), predictions: "p".into(), labels: "l".into() }
}

fn outside() -> Option<Brokers> {
    let Ok(address) = std::env::var("DRIFTLINE_TEST_BROKERS") else {
        assert!(std::env::var_os("DRIFTLINE_TEST_ALL").is_none(), "DRIFTLINE_TEST_ALL wants DRIFTLINE_TEST_BROKERS");
        eprintln!("SKIPPED: DRIFTLINE_TEST_BROKERS is not set, so no real Kafka was read");
        return None;
    };
    let nonce = uuid::Uuid::new_v4().simple().to_string();
    Some(Brokers {
        mock: None,
        address,
        predictions: format!("predictions-{nonce}"),
        labels: format!("labels-{nonce}"),
    })
}

impl Brokers {
    fn settings(&self) -> CollectorSettings {
        CollectorSettings {
            brokers: self.address.clone(),
            predictions_topics: vec![self.predictions.clone()],
            labels_topics: vec![self.labels.clone()],
            group: format!("group-{}", uuid::Uuid::new_v4().simple()),
            flush_bytes: 30_000,
            flush_interval: Duration::from_millis(100),
            facts_interval: Duration::from_millis(500),
            properties: [
                ("session.timeout.ms".to_owned(), "6000".to_owned()),
                ("heartbeat.interval.ms".to_owned(), "300".to_owned()),
            ]
            .into(),
            ..CollectorSettings::default()
        }
    }

    fn config(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", &self.address);
        config
    }

    async fn create_topics(&self, partitions: i32) {
        if let Some(mock) = &self.mock {
            for name in [&self.predictions, &self.labels] {
                mock.create_topic(name, partitions, 1).unwrap();
            }
            return;
        }
        let admin: AdminClient<DefaultClientContext> = self.config().create().unwrap();
        for name in [&self.predictions, &self.labels] {
            // The events' times lie in the past: without this the broker would remove them at once.
            let topic = NewTopic::new(name, partitions, TopicReplication::Fixed(1)).set("retention.ms", "-1");
            admin.create_topics([&topic], &AdminOptions::new()).await.unwrap();
        }
    }

    /// Publishes and returns the rows that each partition must have: (topic, partition, rows).
    async fn publish(&self, partitions: i32, records: i64) -> Vec<(String, u32, Vec<Row>)> {
        let producer: FutureProducer = self.config().set("linger.ms", "5").create().unwrap();
        let mut expected = Vec::new();
        for topic in [&self.predictions, &self.labels] {
            for partition in 0..partitions {
                let sends = (0..records).map(|n| {
                    let id = format!("{partition}-{n}");
                    let payload = if *topic == self.labels { label(&id, n % 60) } else { prediction(&id, n % 60) };
                    let producer = &producer;
                    async move {
                        let record = FutureRecord::to(topic).partition(partition).key(&id).payload(&payload);
                        let sent = producer.send(record, Duration::from_secs(20)).await.unwrap();
                        ((sent.offset, 0), id.clone())
                    }
                });
                let mut rows: Vec<Row> = futures::future::join_all(sends).await;
                rows.sort();
                expected.push((topic.clone(), partition as u32, rows));
            }
        }
        expected
    }
}

async fn catch_up(settings: &CollectorSettings, store: &Store) -> Result<(), Error> {
    let caught_up = run(settings.clone(), store.clone(), Arc::default(), Until::CaughtUp, CancellationToken::new());
    tokio::time::timeout(Duration::from_secs(90), caught_up).await.expect("it catches up in time")
}

async fn assert_collected(store: &Store, expected: &[(String, u32, Vec<Row>)]) {
    for (topic, partition, rows) in expected {
        assert_eq!(&read_chain(store, topic, *partition).await.rows, rows, "{topic}[{partition}]");
    }
}

async fn everything_is_read_once(brokers: Brokers) {
    brokers.create_topics(3).await;
    let mut expected = brokers.publish(3, 400).await;
    let (settings, store) = (brokers.settings(), Store::in_memory());
    catch_up(&settings, &store).await.unwrap();
    assert_collected(&store, &expected).await;
    // A second life goes on where the chains end, also under a group that has never committed (C4).
    for ((.., rows), (.., more)) in expected.iter_mut().zip(brokers.publish(3, 50).await) {
        rows.extend(more);
    }
    let stranger = CollectorSettings { group: "stranger".into(), ..settings };
    catch_up(&stranger, &store).await.unwrap();
    assert_collected(&store, &expected).await;
}

async fn two_members_share_and_one_leaves(brokers: Brokers) {
    brokers.create_topics(4).await;
    let (settings, store) = (brokers.settings(), Store::in_memory());
    let (stop_one, stop_two) = (CancellationToken::new(), CancellationToken::new());
    let (one, two) = (Arc::new(CollectorStatus::default()), Arc::new(CollectorStatus::default()));
    let member = |status: &Arc<CollectorStatus>, stop: &CancellationToken| {
        tokio::spawn(run(settings.clone(), store.clone(), Arc::clone(status), Until::Shutdown, stop.clone()))
    };
    let first = member(&one, &stop_one);
    let mut expected = brokers.publish(4, 200).await;
    eventually("the first owns all", async || one.partitions().len() == 8).await;
    let second = member(&two, &stop_two);
    eventually("they share", async || {
        !two.partitions().is_empty() && one.partitions().len() + two.partitions().len() == 8
    })
    .await;
    for ((.., rows), (.., more)) in expected.iter_mut().zip(brokers.publish(4, 200).await) {
        rows.extend(more);
    }
    stop_one.cancel();
    first.await.unwrap().unwrap();
    for ((.., rows), (.., more)) in expected.iter_mut().zip(brokers.publish(4, 100).await) {
        rows.extend(more);
    }
    eventually("the second owns all", async || two.partitions().len() == 8).await;
    eventually("all is read", async || two.partitions().values().all(|one| one.tail >= 500)).await;
    stop_two.cancel();
    second.await.unwrap().unwrap();
    assert_collected(&store, &expected).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn embedded_broker_everything_is_read_once() {
    everything_is_read_once(embedded()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn real_kafka_everything_is_read_once() {
    if let Some(brokers) = outside() {
        everything_is_read_once(brokers).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn mock_cluster_two_members_share_and_one_leaves() {
    two_members_share_and_one_leaves(mock()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn real_kafka_two_members_share_and_one_leaves() {
    if let Some(brokers) = outside() {
        two_members_share_and_one_leaves(brokers).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_topic_is_named_with_the_command_that_creates_it() {
    let brokers = embedded();
    let error = catch_up(&brokers.settings(), &Store::in_memory()).await.unwrap_err().to_string();
    assert!(error.contains("kafka-topics.sh --bootstrap-server") && error.contains("driftline."), "{error}");
    let settings = CollectorSettings { create_topics: true, create_partitions: 2, ..brokers.settings() };
    let store = Store::in_memory();
    catch_up(&settings, &store).await.unwrap();
    assert_eq!(read_chain(&store, &brokers.predictions, 1).await.to, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn brokers_that_are_away_are_waited_for_until_told_to_stop() {
    let settings = CollectorSettings { brokers: "127.0.0.1:1".into(), ..CollectorSettings::default() };
    let (stop, status) = (CancellationToken::new(), Arc::new(CollectorStatus::default()));
    let waiting = tokio::spawn(run(settings, Store::in_memory(), Arc::clone(&status), Until::Shutdown, stop.clone()));
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(!waiting.is_finished() && !status.broker_connected() && !status.is_ready());
    stop.cancel();
    tokio::time::timeout(Duration::from_secs(20), waiting).await.expect("it stops").unwrap().unwrap();
}
