//! Rejected events, published to a topic of their own before the raw object that keeps them is created: at least once,
//! and again by whoever reads them again.
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use driftline_schemas::position::TopicPartition;
use rdkafka::ClientConfig;
use rdkafka::error::KafkaError;
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{FutureProducer, FutureRecord, Producer};

use crate::batch::RejectedEvent;
use crate::error::Error;
use crate::refusal::Asker;
use crate::settings::CollectorSettings;

/// How long a letter may take to be acknowledged. Its flush waits for it, unless others wait already.
pub(crate) const PUBLISH_WITHIN: Duration = Duration::from_secs(30);

/// Where rejected events are published.
#[async_trait]
pub trait DeadLetters: Send + Sync {
    /// Publishes the rejections of one flush. `Err` says why not; they stay in the raw object all the same.
    async fn publish(&self, origin: &TopicPartition, rejections: &[RejectedEvent]) -> Result<(), String>;
}

/// A Kafka topic of dead letters: the payload as it came, its origin and reason in the headers.
pub(crate) struct KafkaDeadLetters {
    topic: String,
    asker: Asker,
    config: ClientConfig,
    /// A producer that writes each record once is of no more use after some refusals: it is made anew then.
    producer: Mutex<FutureProducer>,
}

impl KafkaDeadLetters {
    /// The dead letters that the settings ask for, if they do.
    pub(crate) fn open(settings: &CollectorSettings) -> Result<Option<Self>, Error> {
        let Some(topic) = settings.dead_letter_topic.clone() else { return Ok(None) };
        let mut config = ClientConfig::new();
        config.extend(settings.properties.iter().map(|(key, value)| (key.clone(), value.clone())));
        config.set("bootstrap.servers", &settings.brokers);
        config.set("enable.idempotence", "true").set("acks", "all").set("linger.ms", "20");
        config.set("message.timeout.ms", PUBLISH_WITHIN.as_millis().to_string());
        let producer =
            config.create().map_err(|source| Error::broker("create the producer of dead letters", source))?;
        let asker = Asker::new(&settings.brokers, &settings.properties);
        Ok(Some(Self { topic, asker, config, producer: Mutex::new(producer) }))
    }

    fn producer(&self) -> FutureProducer {
        self.producer.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn why(&self, producer: &FutureProducer, error: &KafkaError) -> String {
        let mut why = self.asker.cannot_publish(error, &self.topic);
        if let Some((code, _)) = producer.client().fatal_error() {
            why = why.or_else(|| self.asker.cannot_publish(&KafkaError::Global(code), &self.topic));
            if let Ok(anew) = self.config.create() {
                *self.producer.lock().unwrap_or_else(PoisonError::into_inner) = anew;
            }
        }
        why.unwrap_or_else(|| format!("cannot publish to {}: {error}", self.topic))
    }
}

#[async_trait]
impl DeadLetters for KafkaDeadLetters {
    async fn publish(&self, origin: &TopicPartition, rejections: &[RejectedEvent]) -> Result<(), String> {
        let producer = &self.producer();
        let sends = rejections.iter().map(|event| async move {
            let headers = headers(origin, event);
            let record: FutureRecord<'_, [u8], [u8]> =
                FutureRecord::to(&self.topic).payload(event.payload.as_slice()).headers(headers);
            producer.send(record, PUBLISH_WITHIN).await.map_err(|(error, _)| self.why(producer, &error))
        });
        futures::future::try_join_all(sends).await.map(|_| ())
    }
}

fn headers(origin: &TopicPartition, event: &RejectedEvent) -> OwnedHeaders {
    let (partition, offset, index) = (origin.partition.to_string(), event.offset.to_string(), event.index.to_string());
    let headers = [
        ("driftline.topic", origin.topic.as_str()),
        ("driftline.partition", &partition),
        ("driftline.offset", &offset),
        ("driftline.index", &index),
        ("driftline.reason", event.rejection.reason.as_str()),
        ("driftline.detail", &event.rejection.detail),
    ];
    headers.into_iter().fold(OwnedHeaders::new(), |all, (key, value)| all.insert(Header { key, value: Some(value) }))
}
