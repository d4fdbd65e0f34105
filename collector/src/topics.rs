//! The topics, before they are read: they exist (or are created), we may do with them what we must, and nothing is
//! compacted out of them.
use std::time::{Duration, Instant};

use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, ResourceSpecifier, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::{ClientContext, Message};
use std::sync::{Mutex, PoisonError};
use tokio::runtime::Handle;

use crate::describe::{self, Described, Operation};
use crate::error::Error;
use crate::kafka;
use crate::refusal::{self, AWAY, Asker, Resource};
use crate::settings::CollectorSettings;

const ASK_FOR: Duration = Duration::from_secs(5);
/// How long [`examine`] waits for the brokers.
const WAIT_FOR_BROKERS: Duration = Duration::from_secs(10);

/// Checks every topic once. An error that is to be retried means that the brokers did not answer, or that a right is missing.
pub(crate) fn check<C: ConsumerContext>(
    consumer: &BaseConsumer<C>,
    settings: &CollectorSettings,
    runtime: &Handle,
) -> Result<(), Error> {
    let needed = look(consumer, settings)?;
    let rights = rights(&needed, settings);
    if !rights.denied.is_empty() {
        return Err(Error::Denied(rights.denied));
    }
    let admin = admin(settings)?;
    for topic in needed.topics.iter().filter(|topic| topic.partitions.is_none()) {
        if settings.create_topics {
            runtime.block_on(create(&admin, topic.name, settings, AdminOptions::new()))?;
        } else if topic.operation == Operation::Read {
            return Err(missing(topic.name, settings));
        } else {
            tracing::warn!(
                topic = topic.name,
                "the topic of dead letters does not exist; they stay in the raw objects"
            );
        }
    }
    for (name, policy) in runtime.block_on(policies(&admin, settings)) {
        match policy {
            Policy::Compacts(policy) => return Err(Error::CompactedTopic { topic: name, policy }),
            Policy::Hidden(why) => tracing::warn!(topic = name, why, "cannot tell whether the topic is compacted"),
            Policy::Deletes | Policy::Unknown => {}
        }
    }
    Ok(())
}

/// What the brokers said when they were asked for everything that is needed.
pub(crate) struct Needed<'a> {
    topics: Vec<NeededTopic<'a>>,
    group: Described,
}

struct NeededTopic<'a> {
    name: &'a str,
    /// What it is needed for.
    operation: Operation,
    /// `None` if it does not exist.
    partitions: Option<usize>,
    /// The broker does not let us see whether it exists.
    hidden: bool,
    described: Described,
}

/// What may not be done.
pub(crate) struct Rights {
    /// One text a missing right.
    pub(crate) denied: Vec<String>,
    /// Whether the broker told all our rights. One that does not will refuse in its own time.
    pub(crate) are_known: bool,
}

/// Asks for all topics and the group.
pub(crate) fn look<'a, C: ConsumerContext>(
    consumer: &BaseConsumer<C>,
    settings: &'a CollectorSettings,
) -> Result<Needed<'a>, Error> {
    let sources = settings.predictions_topics.iter().chain(&settings.labels_topics);
    let names = sources.map(|name| (name.as_str(), Operation::Read));
    let names = names.chain(settings.dead_letter_topic.iter().map(|name| (name.as_str(), Operation::Write)));
    let mut topics = Vec::new();
    for (name, operation) in names {
        let (partitions, hidden) = partitions(consumer, name)?;
        let described =
            if partitions.is_some() { describe::topic(consumer.client(), name) } else { Described::default() };
        topics.push(NeededTopic { name, operation, partitions, hidden, described });
    }
    Ok(Needed { topics, group: describe::group(consumer.client(), &settings.group) })
}

/// What of the answers says that we may not.
pub(crate) fn rights(needed: &Needed<'_>, settings: &CollectorSettings) -> Rights {
    let asker = Asker::new(&settings.brokers, &settings.properties);
    let mut denied = Vec::new();
    for topic in &needed.topics {
        denied.extend(topic_right(topic, &asker).err());
    }
    if needed.group.forbids(Operation::Read) {
        denied.push(asker.denied(Operation::Read, Resource::Group(&settings.group)));
    }
    let are_known =
        needed.topics.iter().all(|topic| topic.hidden || topic.described.is_told()) && needed.group.is_told();
    Rights { denied, are_known }
}

fn topic_right(topic: &NeededTopic<'_>, asker: &Asker) -> Result<(), String> {
    if topic.hidden {
        return Err(asker.hidden(topic.operation, Resource::Topic(topic.name)));
    }
    if topic.described.forbids(topic.operation) {
        return Err(asker.denied(topic.operation, Resource::Topic(topic.name)));
    }
    Ok(())
}

/// The number of partitions, if the topic exists; and whether the broker hides that.
fn partitions<C: ConsumerContext>(consumer: &BaseConsumer<C>, name: &str) -> Result<(Option<usize>, bool), Error> {
    let failed = |source| Error::broker(format!("look for topic {name}"), source);
    let metadata = consumer.fetch_metadata(Some(name), ASK_FOR).map_err(failed)?;
    let Some(found) = metadata.topics().iter().find(|found| found.name() == name) else { return Ok((None, false)) };
    match found.error().map(RDKafkaErrorCode::from) {
        None => Ok((Some(found.partitions().len()).filter(|count| *count > 0), false)),
        Some(RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::UnknownTopic) => Ok((None, false)),
        Some(RDKafkaErrorCode::TopicAuthorizationFailed) => Ok((None, true)),
        Some(code) => Err(failed(KafkaError::MetadataFetch(code))),
    }
}

fn admin(settings: &CollectorSettings) -> Result<AdminClient<DefaultClientContext>, Error> {
    kafka::base_config(settings).create().map_err(|source| Error::broker("create the admin client", source))
}

fn missing(name: &str, settings: &CollectorSettings) -> Error {
    let (brokers, partitions) = (settings.brokers.clone(), settings.create_partitions);
    Error::MissingTopic { topic: name.to_owned(), brokers, partitions }
}

async fn create(
    admin: &AdminClient<DefaultClientContext>,
    name: &str,
    settings: &CollectorSettings,
    options: AdminOptions,
) -> Result<(), Error> {
    let failed = |source| Error::broker(format!("create topic {name}"), source);
    // -1: the broker's own default of replication.
    let topic = NewTopic::new(name, settings.create_partitions as i32, TopicReplication::Fixed(-1));
    let results = admin.create_topics([&topic], &options).await.map_err(failed)?;
    for result in results {
        match result {
            Ok(_) => tracing::info!(topic = name, partitions = settings.create_partitions, "created"),
            Err((_, RDKafkaErrorCode::TopicAlreadyExists)) => {}
            Err((_, RDKafkaErrorCode::TopicAuthorizationFailed | RDKafkaErrorCode::ClusterAuthorizationFailed)) => {
                let asker = Asker::new(&settings.brokers, &settings.properties);
                return Err(Error::Denied(vec![asker.denied(Operation::Create, Resource::Topic(name))]));
            }
            Err((_, code)) => return Err(failed(KafkaError::AdminOp(code))),
        }
    }
    Ok(())
}

/// What becomes of a topic's old records.
enum Policy {
    Deletes,
    Compacts(String),
    /// We may not see it.
    Hidden(String),
    /// The broker does not describe its topics' settings: it is believed.
    Unknown,
}

async fn policies(admin: &AdminClient<DefaultClientContext>, settings: &CollectorSettings) -> Vec<(String, Policy)> {
    let names: Vec<String> = settings.topics().into_iter().map(|topic| topic.name).collect();
    let resources: Vec<ResourceSpecifier<'_>> = names.iter().map(|name| ResourceSpecifier::Topic(name)).collect();
    let options = AdminOptions::new().request_timeout(Some(ASK_FOR));
    let described = match tokio::time::timeout(ASK_FOR * 2, admin.describe_configs(&resources, &options)).await {
        Ok(Ok(described)) => described,
        Ok(Err(error)) => {
            tracing::debug!(%error, "the broker does not tell the topics' settings");
            Vec::new()
        }
        Err(_) => Vec::new(),
    };
    let asker = Asker::new(&settings.brokers, &settings.properties);
    let policy = |name: &str, resource: Result<rdkafka::admin::ConfigResource, RDKafkaErrorCode>| match resource {
        Ok(resource) => match resource.get("cleanup.policy").and_then(|entry| entry.value.clone()) {
            Some(policy) if policy.contains("compact") => Policy::Compacts(policy),
            Some(_) => Policy::Deletes,
            None => Policy::Unknown,
        },
        Err(RDKafkaErrorCode::TopicAuthorizationFailed) => {
            Policy::Hidden(asker.denied(Operation::DescribeConfigs, Resource::Topic(name)))
        }
        Err(_) => Policy::Unknown,
    };
    names.iter().zip(described).map(|(name, resource)| (name.clone(), policy(name, resource))).collect()
}

/// One thing that [`examine`] looked at, and how it stands.
#[derive(Debug)]
pub struct Finding {
    /// `brokers`, `topic`, `group`, …
    pub what: &'static str,
    /// Its state, or what has to be done about it.
    pub result: Result<String, String>,
}

/// Looks at everything that the collector needs of the brokers, and reports all of it at once. Blocks; must be called off the
/// runtime's own threads, but inside a runtime.
pub fn examine(settings: &CollectorSettings) -> Vec<Finding> {
    let finding = |what, result| Finding { what, result };
    if let Err(error) = settings.validate() {
        return vec![finding("kafka", Err(error.to_string()))];
    }
    let consumer: BaseConsumer<Listener> = match kafka::base_config(settings).create_with_context(Listener::default()) {
        Ok(consumer) => consumer,
        Err(error) => return vec![finding("brokers", Err(format!("{error}: check kafka.properties")))],
    };
    let (needed, brokers) = match wait_for_brokers(&consumer, settings) {
        Ok(answer) => answer,
        Err(why) => return vec![finding("brokers", Err(why))],
    };
    let mut findings = vec![finding("brokers", Ok(format!("{brokers} of {}", settings.brokers)))];
    match admin(settings) {
        Err(error) => findings.push(finding("admin client", Err(error.to_string()))),
        Ok(admin) => {
            let runtime = Handle::current();
            let policies = runtime.block_on(policies(&admin, settings));
            for topic in &needed.topics {
                let policy = policies.iter().find(|(name, _)| name == topic.name).map(|(_, policy)| policy);
                let result = runtime.block_on(examine_topic(topic, policy, &admin, settings));
                findings
                    .push(finding(if topic.operation == Operation::Read { "topic" } else { "dead letters" }, result));
            }
        }
    }
    let asker = Asker::new(&settings.brokers, &settings.properties);
    findings.push(finding(
        "group",
        if needed.group.forbids(Operation::Read) {
            Err(asker.denied(Operation::Read, Resource::Group(&settings.group)))
        } else {
            Ok(settings.group.clone())
        },
    ));
    findings
}

async fn examine_topic(
    topic: &NeededTopic<'_>,
    policy: Option<&Policy>,
    admin: &AdminClient<DefaultClientContext>,
    settings: &CollectorSettings,
) -> Result<String, String> {
    let asker = Asker::new(&settings.brokers, &settings.properties);
    topic_right(topic, &asker)?;
    let Some(partitions) = topic.partitions else {
        if !settings.create_topics {
            return Err(missing(topic.name, settings).to_string());
        }
        let only_try = AdminOptions::new().validate_only(true).request_timeout(Some(ASK_FOR));
        create(admin, topic.name, settings, only_try).await.map_err(|error| error.to_string())?;
        return Ok(format!("{}: does not exist, and will be created", topic.name));
    };
    let name = topic.name;
    match policy {
        Some(Policy::Compacts(policy)) => {
            Err(Error::CompactedTopic { topic: name.to_owned(), policy: policy.clone() }.to_string())
        }
        Some(Policy::Hidden(why)) => {
            Ok(format!("{name}: {partitions} partition(s); whether it is compacted cannot be told: {why}"))
        }
        _ => Ok(format!("{name}: {partitions} partition(s)")),
    }
}

/// Asks until the brokers answer, or until they say why they do not.
fn wait_for_brokers<'a>(
    consumer: &BaseConsumer<Listener>,
    settings: &'a CollectorSettings,
) -> Result<(Needed<'a>, usize), String> {
    let started = Instant::now();
    loop {
        let asked = consumer.fetch_metadata(None, Duration::from_secs(2));
        let failed = match asked {
            Ok(metadata) => match look(consumer, settings) {
                Ok(needed) => return Ok((needed, metadata.brokers().len())),
                Err(error) => error.to_string(),
            },
            Err(error) => error.to_string(),
        };
        // What the client complains of waits in its queue.
        while let Some(polled) = consumer.poll(Duration::from_millis(50)) {
            drop(polled.map(|message| message.offset()));
        }
        if let Some(why) = consumer.context().heard() {
            return Err(format!("{}: {why}", settings.brokers));
        }
        if started.elapsed() >= WAIT_FOR_BROKERS {
            return Err(format!("{} do not answer: {failed} ({AWAY})", settings.brokers));
        }
    }
}

/// Remembers why the brokers cannot be reached, if a person can do something about it.
#[derive(Default)]
struct Listener {
    heard: Mutex<Option<String>>,
}

impl Listener {
    fn heard(&self) -> Option<String> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl ClientContext for Listener {
    fn log(&self, level: rdkafka::config::RDKafkaLogLevel, facility: &str, message: &str) {
        tracing::debug!(target: "librdkafka", ?level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!(target: "librdkafka", %error, reason);
        if let Some(why) = refusal::of_connection(&error, reason) {
            *self.heard.lock().unwrap_or_else(PoisonError::into_inner) = Some(why);
        }
    }
}

impl ConsumerContext for Listener {}
