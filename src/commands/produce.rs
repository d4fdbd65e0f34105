//! `produce`: publishes JSON lines, each acknowledged by all replicas.
use std::io::{BufRead, BufReader, IsTerminal, Read};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use driftline_collector::refusal::{self, AWAY, Asker};
use driftline_schemas::config::KafkaConfig;
use indicatif::{ProgressBar, ProgressStyle};
use rdkafka::ClientConfig;
use rdkafka::Message;
use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::DeliveryResult;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer, ProducerContext};

use crate::cli::{Global, ProduceArgs};
use crate::config;

/// How long the brokers may take for what was sent last.
const FLUSH_MAX: Duration = Duration::from_secs(60);
/// How long the brokers may take to say that the topic is there; a topic may be created by being asked for.
const REACH_FOR: Duration = Duration::from_secs(10);

/// Counts what the brokers acknowledged.
#[derive(Default)]
pub(crate) struct Deliveries {
    acknowledged: AtomicU64,
    /// The topic, and why.
    first_failure: Mutex<Option<(String, KafkaError)>>,
    complaint: Mutex<Option<String>>,
}

impl Deliveries {
    /// Why the brokers cannot be reached, if a person can do something about it.
    fn complaint(&self) -> Option<String> {
        self.complaint.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl ClientContext for Deliveries {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        tracing::debug!(target: "librdkafka", ?level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!(target: "librdkafka", %error, reason);
        if let Some(why) = refusal::of_connection(&error, reason) {
            *self.complaint.lock().unwrap_or_else(PoisonError::into_inner) = Some(why);
        }
    }
}

impl ProducerContext for Deliveries {
    type DeliveryOpaque = ();
    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        match result {
            Ok(_) => drop(self.acknowledged.fetch_add(1, Ordering::Relaxed)),
            Err((error, message)) => {
                let mut first = self.first_failure.lock().unwrap_or_else(PoisonError::into_inner);
                first.get_or_insert_with(|| (message.topic().to_owned(), error.clone()));
            }
        }
    }
}

/// A producer whose records are acknowledged by all replicas and written once.
pub(crate) struct Publisher {
    producer: BaseProducer<Deliveries>,
    asker: Asker,
}

impl Publisher {
    pub(crate) fn new(kafka: &KafkaConfig) -> Result<Self> {
        let mut client = ClientConfig::new();
        client
            .set("bootstrap.servers", &kafka.brokers)
            .set("acks", "all")
            .set("enable.idempotence", "true")
            .set("linger.ms", "20")
            .set("compression.type", "lz4")
            .set("message.max.bytes", "8388608");
        // Consumer-only properties would be warned about; they are the collector's.
        for (key, value) in &kafka.properties {
            client.set(key, value);
        }
        let producer = client.create_with_context(Deliveries::default()).context("set up the producer")?;
        Ok(Self { producer, asker: Asker::new(&kafka.brokers, &kafka.properties) })
    }

    /// Sends one record; waits while the queue is full.
    pub(crate) fn send(&self, topic: &str, key: Option<&str>, payload: &[u8]) -> Result<()> {
        let mut record = BaseRecord::<str, [u8]>::to(topic).payload(payload);
        if let Some(key) = key {
            record = record.key(key);
        }
        loop {
            match self.producer.send(record) {
                Ok(()) => break,
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), back)) => {
                    self.producer.poll(Duration::from_millis(50));
                    record = back;
                }
                Err((error, _)) => bail!("cannot publish to {topic}: {}", self.why(topic, &error)),
            }
        }
        self.producer.poll(Duration::ZERO);
        self.failure()
    }

    /// Waits for all acknowledgements.
    ///
    /// # Returns
    /// How many there were.
    pub(crate) fn finish(&self) -> Result<u64> {
        self.producer.flush(FLUSH_MAX).context("wait for the brokers' acknowledgements")?;
        self.failure()?;
        Ok(self.acknowledged())
    }

    pub(crate) fn acknowledged(&self) -> u64 {
        self.producer.context().acknowledged.load(Ordering::Relaxed)
    }

    fn failure(&self) -> Result<()> {
        match &*self.producer.context().first_failure.lock().unwrap_or_else(PoisonError::into_inner) {
            Some((topic, error)) => bail!("a record was not acknowledged: {}", self.why(topic, error)),
            None => Ok(()),
        }
    }

    /// What a person can do about an error, where that is known; else the client's own words.
    fn why(&self, topic: &str, error: &KafkaError) -> String {
        let fatal = self.producer.client().fatal_error().map(|(code, _)| KafkaError::Global(code));
        let denied = self.asker.cannot_publish(fatal.as_ref().unwrap_or(error), topic);
        denied.or_else(|| self.producer.context().complaint()).unwrap_or_else(|| error.to_string())
    }

    /// Fails at once where the brokers cannot be reached, or do not let us write: a record would wait for minutes.
    fn reach(&self, brokers: &str, topic: &str) -> Result<()> {
        let started = Instant::now();
        loop {
            let failed = match self.producer.client().fetch_metadata(Some(topic), REACH_FOR / 5) {
                Ok(metadata) => match metadata.topics().iter().find_map(rdkafka::metadata::MetadataTopic::error) {
                    Some(code) => KafkaError::MetadataFetch(code.into()),
                    None => return Ok(()),
                },
                Err(error) => error,
            };
            // What the client complains of waits in its queue.
            self.producer.poll(Duration::from_millis(200));
            if let Some(why) = self.asker.cannot_publish(&failed, topic).or_else(|| self.producer.context().complaint())
            {
                bail!("cannot publish to {topic} at {brokers}: {why}");
            }
            if started.elapsed() >= REACH_FOR {
                bail!("cannot publish to {topic}: {brokers} do not answer: {failed} ({AWAY})");
            }
        }
    }
}

pub(crate) async fn run(global: &Global, args: &ProduceArgs) -> Result<()> {
    let config = config::load(global)?;
    let (files, topic) = (args.files.clone(), args.topic.clone());
    let sent = tokio::task::spawn_blocking(move || publish(&config.kafka, &files, &topic)).await??;
    println!("{sent} records acknowledged by all replicas in topic {}", args.topic);
    Ok(())
}

fn publish(kafka: &KafkaConfig, files: &[std::path::PathBuf], topic: &str) -> Result<u64> {
    let publisher = Publisher::new(kafka)?;
    publisher.reach(&kafka.brokers, topic)?;
    let mut sent = 0u64;
    for file in files {
        let bar = progress(file)?;
        let reader = open(file, &bar)?;
        for (number, line) in reader.split(b'\n').enumerate() {
            let line = line.with_context(|| format!("read {}", file.display()))?;
            if line.trim_ascii().is_empty() {
                continue;
            }
            let key = key_of(&line);
            publisher
                .send(topic, key.as_deref(), &line)
                .with_context(|| format!("{}, line {}", file.display(), number + 1))?;
            sent += 1;
        }
        bar.finish_and_clear();
    }
    let acknowledged = publisher.finish()?;
    if acknowledged != sent {
        bail!("{sent} records were sent and only {acknowledged} acknowledged");
    }
    Ok(sent)
}

/// The key is the prediction's id, where the line has one; what a line is worth is the collector's to judge.
pub(crate) fn key_of(line: &[u8]) -> Option<String> {
    #[derive(serde::Deserialize)]
    struct Id {
        prediction_id: String,
    }
    serde_json::from_slice::<Id>(line).ok().map(|id| id.prediction_id)
}

fn progress(file: &Path) -> Result<Arc<ProgressBar>> {
    let size = std::fs::metadata(file).map_or(0, |metadata| metadata.len());
    if !std::io::stderr().is_terminal() || size == 0 {
        return Ok(Arc::new(ProgressBar::hidden()));
    }
    let style = ProgressStyle::with_template("{msg} {wide_bar} {bytes}/{total_bytes} {eta}").context("progress bar")?;
    Ok(Arc::new(ProgressBar::new(size).with_style(style).with_message(file.display().to_string())))
}

fn open(file: &Path, bar: &Arc<ProgressBar>) -> Result<Box<dyn BufRead>> {
    if file == Path::new("-") {
        return Ok(Box::new(BufReader::new(std::io::stdin())));
    }
    let opened = std::fs::File::open(file).with_context(|| format!("open {}", file.display()))?;
    let reader: Box<dyn Read> = Box::new(bar.wrap_read(opened));
    if file.extension().is_some_and(|extension| extension == "gz") {
        return Ok(Box::new(BufReader::new(flate2::read::MultiGzDecoder::new(reader))));
    }
    Ok(Box::new(BufReader::new(reader)))
}
