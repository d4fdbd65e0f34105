//! Brokers for tests: one inside the process for quick ones, and a real Apache Kafka.
//!
//! The embedded one sends whole logs and never evicts a killed consumer, so what touches groups, retention or a restart belongs on
//! the real one. That is shared between tests and keeps its data: every test takes [`Topics::unique`].

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewPartitions, NewTopic, TopicReplication, TopicResult};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::producer::{DeliveryFuture, FutureProducer, FutureRecord};
use rdkafka::{Offset, TopicPartitionList};

use crate::generator::{Generated, Place, Record, Topic, Unplaced};

/// Records in flight before the first one is waited for; more only costs memory, fewer cost round trips.
const IN_FLIGHT: usize = 2_000;
/// Above the megabyte from which the collector rejects a record, so that such records get there.
const MESSAGE_BYTES_MAX: &str = "8388608";
const TIMEOUT: Duration = Duration::from_secs(30);
/// How long a broker may be fenced, or not answer, while a test is set up.
const BROKER_BACK_WITHIN: Duration = Duration::from_secs(120);
/// Between two questions to one that does not.
const PAUSE: Duration = Duration::from_secs(1);

/// A broker to test against.
#[derive(Clone, Debug)]
pub struct Broker {
    brokers: String,
}

/// The names of a test's two topics.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Topics {
    /// Where predictions go.
    pub predictions: String,
    /// Where labels go.
    pub labels: String,
}

impl Topics {
    /// Names that no other test has.
    pub fn unique() -> Self {
        let id = uuid::Uuid::new_v4().simple().to_string();
        Topics { predictions: format!("predictions-{id}"), labels: format!("labels-{id}") }
    }

    /// The name of `topic`.
    pub fn name(&self, topic: Topic) -> &str {
        match topic {
            Topic::Predictions => &self.predictions,
            Topic::Labels => &self.labels,
        }
    }
}

/// Where a group's offsets are sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GroupOffsets {
    /// To 0, whatever has been read.
    Zero,
    /// To each partition's end, though it has not been read.
    End,
}

impl Default for Topics {
    fn default() -> Self {
        Topics { predictions: "driftline.predictions".to_owned(), labels: "driftline.labels".to_owned() }
    }
}

impl Broker {
    /// A new broker inside this process, on a free port, empty; it lives as long as the process.
    pub fn embedded() -> Result<Self> {
        Self::embedded_at("127.0.0.1:0")
    }

    /// As [`Broker::embedded`], at an address that others know already.
    pub fn embedded_at(address: &str) -> Result<Self> {
        let address = noida::kafka::spawn(address).context("start the embedded broker")?;
        Ok(Broker { brokers: address.to_string() })
    }

    /// The real Kafka: the one in `DRIFTLINE_TEST_BROKERS`, or else one that `scripts/kafka.sh` starts or finds running.
    ///
    /// # Returns
    /// `None` where there is neither that variable nor Java with Maven, after saying so loudly.
    /// # Errors
    /// The broker did not start; or it is missing and `DRIFTLINE_REQUIRE_ALL=1` forbids the skip.
    pub fn real(test: &str) -> Result<Option<Self>> {
        if let Ok(brokers) = std::env::var("DRIFTLINE_TEST_BROKERS")
            && !brokers.is_empty()
        {
            return Ok(Some(Broker { brokers }));
        }
        if !can_start() {
            let reason = format!("{test} needs a real Kafka: set DRIFTLINE_TEST_BROKERS, or install Java 17 and Maven");
            ensure!(std::env::var("DRIFTLINE_REQUIRE_ALL").as_deref() != Ok("1"), reason);
            eprintln!("SKIPPED: {reason}");
            return Ok(None);
        }
        Ok(Some(Broker { brokers: start_real()? }))
    }

    /// One that runs already.
    pub fn at(brokers: &str) -> Self {
        Broker { brokers: brokers.to_owned() }
    }

    /// The address list for a client's configuration.
    pub fn brokers(&self) -> &str {
        &self.brokers
    }

    /// A client configuration that names this broker.
    pub fn client(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", &self.brokers).set("broker.address.family", "v4");
        config
    }

    /// Creates a topic without retention, so that old events stay.
    pub async fn create_topic(&self, name: &str, partitions: i32) -> Result<()> {
        self.create_topic_with(name, partitions, &[]).await
    }

    /// As [`Broker::create_topic`], with settings of its own.
    pub async fn create_topic_with(&self, name: &str, partitions: i32, settings: &[(&str, &str)]) -> Result<()> {
        let admin: AdminClient<DefaultClientContext> = self.client().create().context("create the admin client")?;
        let topic = NewTopic::new(name, partitions, TopicReplication::Fixed(1))
            .set("retention.ms", "-1")
            .set("max.message.bytes", MESSAGE_BYTES_MAX);
        let topic = settings.iter().fold(topic, |topic, (key, value)| topic.set(key, value));
        let options = AdminOptions::new().operation_timeout(Some(TIMEOUT)).request_timeout(Some(TIMEOUT));
        let mut tries = 0;
        until_answered(&format!("create topic {name}"), async || {
            tries += 1;
            match outcome(admin.create_topics([&topic], &options).await?) {
                // The try before did it after all.
                Err(KafkaError::AdminOp(RDKafkaErrorCode::TopicAlreadyExists)) if tries > 1 => Ok(()),
                created => created,
            }
        })
        .await?;
        self.await_partitions(name, partitions as usize).await
    }

    /// Waits until the broker tells of so many partitions: what has just been made is not known to all of it at once.
    pub async fn await_partitions(&self, name: &str, partitions: usize) -> Result<()> {
        let consumer: BaseConsumer = self.client().create().context("create the consumer")?;
        let asked = Instant::now();
        loop {
            let ask = async || consumer.fetch_metadata(Some(name), TIMEOUT);
            let metadata = until_answered("ask for the partitions", ask).await?;
            if metadata.topics().iter().any(|topic| topic.name() == name && topic.partitions().len() == partitions) {
                return Ok(());
            }
            ensure!(asked.elapsed() < BROKER_BACK_WITHIN, "{name} does not get {partitions} partitions");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Deletes a topic.
    pub async fn delete_topic(&self, name: &str) -> Result<()> {
        let admin: AdminClient<DefaultClientContext> = self.client().create().context("create the admin client")?;
        let options = AdminOptions::new().operation_timeout(Some(TIMEOUT)).request_timeout(Some(TIMEOUT));
        let mut tries = 0;
        until_answered(&format!("delete topic {name}"), async || {
            tries += 1;
            match outcome(admin.delete_topics(&[name], &options).await?) {
                Err(KafkaError::AdminOp(RDKafkaErrorCode::UnknownTopicOrPartition)) if tries > 1 => Ok(()),
                deleted => deleted,
            }
        })
        .await
    }

    /// Adds partitions to a topic, which then has so many.
    pub async fn add_partitions(&self, name: &str, partitions: usize) -> Result<()> {
        let admin: AdminClient<DefaultClientContext> = self.client().create().context("create the admin client")?;
        let options = AdminOptions::new().operation_timeout(Some(TIMEOUT)).request_timeout(Some(TIMEOUT));
        let mut tries = 0;
        until_answered(&format!("add partitions to {name}"), async || {
            tries += 1;
            match outcome(admin.create_partitions([&NewPartitions::new(name, partitions)], &options).await?) {
                // So many are there: the try before did it after all, as what is waited for below shows.
                Err(KafkaError::AdminOp(RDKafkaErrorCode::InvalidPartitions)) if tries > 1 => Ok(()),
                added => added,
            }
        })
        .await?;
        self.await_partitions(name, partitions).await
    }

    /// Creates both topics with as many partitions as a run was generated for.
    pub async fn create_topics(&self, topics: &Topics, run: &Generated) -> Result<()> {
        for topic in [Topic::Predictions, Topic::Labels] {
            let partitions = run.truth.partitions.keys().filter(|(t, _)| *t == topic).count();
            self.create_topic(topics.name(topic), partitions as i32).await?;
        }
        Ok(())
    }

    /// A producer that waits for all replicas and keeps each partition's order.
    pub fn producer(&self) -> Result<FutureProducer> {
        self.client()
            .set("acks", "all")
            .set("enable.idempotence", "true")
            .set("linger.ms", "5")
            .set("message.max.bytes", MESSAGE_BYTES_MAX)
            // Partitions that are added are to be written to soon.
            .set("topic.metadata.refresh.interval.ms", "1000")
            .create()
            .context("create the producer")
    }

    /// Produces records in their order, and checks that each got the offset on which its truth rests.
    pub async fn produce(&self, topics: &Topics, records: &[Record]) -> Result<()> {
        let producer = self.producer()?;
        for chunk in records.chunks(IN_FLIGHT) {
            let mut deliveries = Vec::with_capacity(chunk.len());
            for record in chunk {
                deliveries.push(enqueue(&producer, topics, record).await?);
            }
            for (record, delivery) in chunk.iter().zip(deliveries) {
                let delivered = delivery.await.context("the producer went away")?.map_err(|(error, _)| error)?;
                ensure!(
                    (delivered.partition, delivered.offset) == (record.partition, record.offset),
                    "a record of {} got {delivered:?}, not partition {} offset {}: was the topic fresh?",
                    topics.name(record.topic),
                    record.partition,
                    record.offset
                );
            }
        }
        Ok(())
    }

    /// Sends a group's committed offsets somewhere, as an operator would who has stopped its members: waits until the last
    /// member is gone, and checks that the offsets are where they should be.
    ///
    /// # Errors
    /// The group still has members after half a minute.
    pub async fn send_group(&self, group: &str, partitions: &[(String, i32)], to: GroupOffsets) -> Result<()> {
        let mut config = self.client();
        config.set("group.id", group).set("enable.auto.commit", "false");
        let partitions = partitions.to_vec();
        let sending = tokio::task::spawn_blocking(move || {
            let consumer: BaseConsumer = config.create().context("create the consumer")?;
            let mut offsets = TopicPartitionList::new();
            for (topic, partition) in &partitions {
                let end = || consumer.fetch_watermarks(topic, *partition, TIMEOUT).map(|(_, end)| end);
                // A broker that has just come back may not lead its partitions yet.
                let began = Instant::now();
                let offset = loop {
                    if to == GroupOffsets::Zero {
                        break 0;
                    }
                    match end() {
                        Ok(end) => break end,
                        Err(error) => ensure!(began.elapsed() < TIMEOUT, "ask for an end: {error}"),
                    }
                    std::thread::sleep(Duration::from_millis(300));
                };
                offsets.add_partition_offset(topic, *partition, Offset::Offset(offset))?;
            }
            let asked = Instant::now();
            // While it has members, only they may commit.
            while let Err(error) = consumer.commit(&offsets, CommitMode::Sync) {
                ensure!(asked.elapsed() < TIMEOUT, "the offsets cannot be committed: {error}");
                std::thread::sleep(Duration::from_millis(300));
            }
            let mut asked = TopicPartitionList::new();
            for (topic, partition) in &partitions {
                asked.add_partition(topic, *partition);
            }
            let committed = consumer.committed_offsets(asked, TIMEOUT).context("ask for the offsets")?;
            ensure!(committed == offsets, "the group is at {committed:?}, not at {offsets:?}");
            Ok(())
        });
        sending.await.context("the thread that commits panicked")?
    }

    /// A partition's first and next offsets.
    pub fn watermarks(&self, topic: &str, partition: i32) -> Result<(i64, i64)> {
        let consumer: BaseConsumer = self.client().create().context("create the consumer")?;
        let asked = Instant::now();
        loop {
            match consumer.fetch_watermarks(topic, partition, TIMEOUT) {
                Err(error) if passes(&error) && asked.elapsed() < BROKER_BACK_WITHIN => std::thread::sleep(PAUSE),
                answer => return answer.context("ask for the watermarks"),
            }
        }
    }
}

/// Asks until the broker answers. A machine that stood still for seconds has fenced its only broker, which comes back by itself.
pub async fn until_answered<T>(what: &str, mut ask: impl AsyncFnMut() -> KafkaResult<T>) -> Result<T> {
    let asked = Instant::now();
    loop {
        match ask().await {
            Err(error) if passes(&error) && asked.elapsed() < BROKER_BACK_WITHIN => tokio::time::sleep(PAUSE).await,
            answer => return answer.with_context(|| what.to_owned()),
        }
    }
}

/// Whether an error is one of a broker that is away, or fenced, for a while.
fn passes(error: &KafkaError) -> bool {
    matches!(
        error.rdkafka_error_code(),
        Some(
            RDKafkaErrorCode::InvalidReplicationFactor
                | RDKafkaErrorCode::OperationTimedOut
                | RDKafkaErrorCode::RequestTimedOut
                | RDKafkaErrorCode::BrokerTransportFailure
                | RDKafkaErrorCode::AllBrokersDown
                | RDKafkaErrorCode::LeaderNotAvailable
                | RDKafkaErrorCode::NotLeaderForPartition
                | RDKafkaErrorCode::BrokerNotAvailable
                | RDKafkaErrorCode::NotController
                | RDKafkaErrorCode::CoordinatorNotAvailable
        )
    )
}

/// The first topic's error, if there is one.
fn outcome(results: Vec<TopicResult>) -> KafkaResult<()> {
    match results.into_iter().find_map(Result::err) {
        Some((_, code)) => Err(KafkaError::AdminOp(code)),
        None => Ok(()),
    }
}

/// Produces a record whose partition is given, and tells where the broker put it.
pub async fn acknowledged(producer: &FutureProducer, topics: &Topics, record: &Unplaced) -> Result<Place> {
    let (key, payload) = (record.key.as_deref(), record.payload.as_deref());
    let delivery = enqueue_at(producer, topics.name(record.topic), record.partition, key, payload).await?;
    let delivered = delivery.await.context("the producer went away")?.map_err(|(error, _)| error)?;
    Ok((delivered.partition, delivered.offset))
}

/// Hands a record to the producer, waiting while its queue is full.
async fn enqueue(producer: &FutureProducer, topics: &Topics, record: &Record) -> Result<DeliveryFuture> {
    let (key, payload) = (record.key.as_deref(), record.payload.as_deref());
    enqueue_at(producer, topics.name(record.topic), record.partition, key, payload).await
}

async fn enqueue_at(
    producer: &FutureProducer,
    topic: &str,
    partition: i32,
    key: Option<&[u8]>,
    payload: Option<&[u8]>,
) -> Result<DeliveryFuture> {
    loop {
        let mut message: FutureRecord<'_, [u8], [u8]> = FutureRecord::to(topic).partition(partition);
        message.key = key;
        message.payload = payload;
        match producer.send_result(message) {
            Ok(delivery) => return Ok(delivery),
            Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), _)) => {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            Err((error, _)) => return Err(error).context("enqueue a record"),
        }
    }
}

/// Whether there is what a real Kafka is started with.
pub fn can_start() -> bool {
    answers("java", "-version") && answers("mvn", "--version")
}

fn answers(program: &str, argument: &str) -> bool {
    Command::new(program).arg(argument).output().is_ok_and(|output| output.status.success())
}

/// Starts the shared broker, or finds it; the script holds a lock, so test programs may ask at the same time.
fn start_real() -> Result<String> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts/kafka.sh");
    let output = Command::new("bash").arg(&script).arg("start").output().context("run scripts/kafka.sh")?;
    let said = String::from_utf8_lossy(&output.stdout);
    let brokers = said.lines().find_map(|line| line.strip_prefix("brokers="));
    match brokers {
        Some(brokers) if output.status.success() => Ok(brokers.to_owned()),
        _ => bail!("scripts/kafka.sh start: {}", String::from_utf8_lossy(&output.stderr)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::generator::{Options, generate};

    /// The contract that both brokers keep: a run's records lie where its truth says.
    async fn check(broker: &Broker) -> Result<()> {
        let run = generate(&Options { predictions: 300, ..Options::default() });
        let topics = Topics::unique();
        broker.create_topics(&topics, &run).await?;
        broker.produce(&topics, &run.records).await?;
        for ((topic, partition), account) in &run.truth.partitions {
            let watermarks = broker.watermarks(topics.name(*topic), *partition)?;
            assert_eq!(watermarks, (0, account.records as i64), "{topic:?} {partition}");
        }
        Ok(())
    }

    #[tokio::test]
    async fn records_lie_where_the_truth_says_on_the_embedded_broker() -> Result<()> {
        check(&Broker::embedded()?).await
    }

    #[tokio::test]
    async fn records_lie_where_the_truth_says_on_a_real_kafka() -> Result<()> {
        match Broker::real("records_lie_where_the_truth_says_on_a_real_kafka")? {
            Some(broker) => check(&broker).await,
            None => Ok(()),
        }
    }
}
