//! The topics, before they are read: they exist (or are created), and nothing is compacted out of them.
use std::time::Duration;

use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, ResourceSpecifier, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::BaseConsumer;
use rdkafka::consumer::Consumer;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};

use crate::error::Error;
use crate::kafka::{self, Context};
use crate::settings::CollectorSettings;
use crate::starts::ChainStarts;

const ASK_FOR: Duration = Duration::from_secs(5);

/// Checks every topic once. An error that is to be retried means that the brokers did not answer.
pub(crate) fn check(
    consumer: &BaseConsumer<Context>,
    settings: &CollectorSettings,
    starts: &ChainStarts,
) -> Result<(), Error> {
    let names: Vec<String> = settings.topics().into_iter().map(|topic| topic.name).collect();
    let mut missing = Vec::new();
    for name in &names {
        if !exists(consumer, name)? {
            missing.push(name.clone());
        }
    }
    let admin: AdminClient<DefaultClientContext> =
        kafka::base_config(settings).create().map_err(|source| Error::broker("create the admin client", source))?;
    for name in &missing {
        if !settings.create_topics {
            return Err(Error::MissingTopic {
                topic: name.clone(),
                brokers: settings.brokers.clone(),
                partitions: settings.create_partitions,
            });
        }
        starts.block_on(create(&admin, name, settings.create_partitions))?;
    }
    starts.block_on(refuse_compacted(&admin, &names))
}

fn exists(consumer: &BaseConsumer<Context>, name: &str) -> Result<bool, Error> {
    let failed = |source| Error::broker(format!("look for topic {name}"), source);
    let metadata = consumer.fetch_metadata(Some(name), ASK_FOR).map_err(failed)?;
    let Some(found) = metadata.topics().iter().find(|found| found.name() == name) else { return Ok(false) };
    match found.error().map(RDKafkaErrorCode::from) {
        None => Ok(!found.partitions().is_empty()),
        Some(RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::UnknownTopic) => Ok(false),
        Some(code) => Err(failed(KafkaError::MetadataFetch(code))),
    }
}

async fn create(admin: &AdminClient<DefaultClientContext>, name: &str, partitions: u32) -> Result<(), Error> {
    let failed = |source| Error::broker(format!("create topic {name}"), source);
    // -1: the broker's own default of replication.
    let topic = NewTopic::new(name, partitions as i32, TopicReplication::Fixed(-1));
    let results = admin.create_topics([&topic], &AdminOptions::new()).await.map_err(failed)?;
    for result in results {
        match result {
            Ok(_) => tracing::info!(topic = name, partitions, "created"),
            Err((_, RDKafkaErrorCode::TopicAlreadyExists)) => {}
            Err((_, code)) => return Err(failed(KafkaError::AdminOp(code))),
        }
    }
    Ok(())
}

/// A broker that does not describe its topics' settings is believed.
async fn refuse_compacted(admin: &AdminClient<DefaultClientContext>, names: &[String]) -> Result<(), Error> {
    let resources: Vec<ResourceSpecifier<'_>> = names.iter().map(|name| ResourceSpecifier::Topic(name)).collect();
    let options = AdminOptions::new().request_timeout(Some(ASK_FOR));
    let described = match tokio::time::timeout(ASK_FOR * 2, admin.describe_configs(&resources, &options)).await {
        Ok(Ok(described)) => described,
        Ok(Err(error)) => {
            tracing::debug!(%error, "the broker does not tell the topics' settings");
            return Ok(());
        }
        Err(_) => return Ok(()),
    };
    for (name, resource) in names.iter().zip(described) {
        let policy = resource.ok().and_then(|resource| resource.get("cleanup.policy")?.value.clone());
        if let Some(policy) = policy.filter(|policy| policy.contains("compact")) {
            return Err(Error::CompactedTopic { topic: name.clone(), policy });
        }
    }
    Ok(())
}
