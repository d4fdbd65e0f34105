//! Kafka through rdkafka: the only file that reads with it, but for taking the records out (`inlet.rs`).
//!
//! What others paid for: a `BaseConsumer` on its own thread; every message is decoded and let go at once, for a message
//! that is held pins the whole response it came in; start offsets go into the assignment itself; a paused partition is
//! still polled; "caught up" is an end-of-partition position, never a last offset plus one.
use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer, ConsumerContext, RebalanceProtocol};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::types::RDKafkaRespErr;
use rdkafka::{ClientConfig, ClientContext, Message, Offset, Statistics, TopicPartitionList};
use tokio_util::sync::CancellationToken;

use crate::error::{Disposition, Error};
use crate::inlet::{Destination, Inlet, Taken};
use crate::settings::CollectorSettings;
use crate::source::{
    Broker, EventSource, PartitionRef, RawRecord, SourceEvent, SourceTopic, Standing, Start, Starts, TopicState,
    Watermarks,
};
use crate::stage::Until;
use crate::starts::ChainStarts;
use crate::status::CollectorStatus;
use crate::{describe, refusal, topics};

/// Bounds of one poll: enough to spend little on bookkeeping, little enough that memory cannot run far over its bound.
const RECORDS_A_POLL: usize = 8192;
const BYTES_A_POLL: usize = 4 << 20;
/// Callbacks that one poll serves, unless records are among them.
const CALLBACKS_A_POLL: usize = 64;
/// How long records are waited for before callbacks are looked for again. Longer: rebalances wait. Shorter: an idle collector
/// wakes more often.
const WAIT_AT_ONCE: Duration = Duration::from_millis(20);
/// How long a question to the broker may take. The thread that polls waits for it.
const ASK_FOR: Duration = Duration::from_secs(3);
/// How long a description of a topic is good for: one assignment asks once for each of its partitions.
const DESCRIPTION_GOOD_FOR: Duration = Duration::from_secs(5);
/// Statistics that were taken before a seek or a pause may speak of positions from before it: they are not believed
/// for so long. Statistics come every half second; smaller risks a stale one, larger delays facts after a rebalance.
const SETTLE_FOR: Duration = Duration::from_millis(1500);
/// The most that the client fetches ahead. Larger only spreads what it has fetched over more memory than the
/// processor's cache holds; smaller leaves nothing to do while a fetch is under way.
const QUEUE_KBYTES_MAX: usize = 16 << 10;
/// How often it is asked whether what the brokers refuse is granted by now. The client says so once at most, and is silent
/// as well when it is granted. Smaller only asks more; larger shows it later.
const ASK_RIGHTS_EVERY: Duration = Duration::from_secs(3);
/// How long brokers must have turned a client away before a run that somebody waits for gives up.
const BELIEVE_AFTER: Duration = Duration::from_secs(5);
/// How long such a run waits for brokers that do not answer at all.
const GIVE_UP_AFTER: Duration = Duration::from_secs(60);
/// A complaint of the client about its connections is old after this: it repeats itself every half minute.
const COMPLAINT_HOLDS: Duration = Duration::from_secs(60);
/// The longest that leaving the group may take.
const CLOSE_FOR: Duration = Duration::from_secs(5);

type KafkaConsumer = BaseConsumer<Context>;

/// A member of the consumer group.
pub(crate) struct KafkaSource {
    /// Before the consumer, which it must not outlive.
    inlet: Option<Inlet>,
    consumer: Option<Arc<KafkaConsumer>>,
    /// Asks on connections of its own: on the consumer's, each question would wait for the fetch before it, which the
    /// broker holds until there is something to fetch.
    asker: Arc<KafkaConsumer>,
    connected: bool,
    /// The latest statistics, waiting for everything that was delivered before them to have been handed over.
    awaiting_quiet: Option<Vec<PartitionStatistics>>,
    quiet_polls: u32,
    settled_at: Instant,
    settings: CollectorSettings,
    doubt: Option<Doubt>,
}

/// What was found in the consumer's own queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Served {
    Nothing,
    All,
    /// More waits, and records may be among it.
    NotAll,
}

/// Something that the brokers have refused, and whose end they will not tell by themselves.
struct Doubt {
    why: String,
    /// The group has refused us: only an assignment proves that it does no longer.
    until_assigned: bool,
    ask_at: Instant,
}

#[derive(Debug, Clone, Copy)]
struct PartitionStatistics {
    at: PartitionRef,
    end_reached: i64,
    broker_end: i64,
}

impl KafkaSource {
    /// Waits for the brokers, checks the topics, and joins the group. `None` if told to stop meanwhile.
    ///
    /// # Errors
    /// What a person has to mend; and, where somebody waits for the end of the run, brokers that do not answer for a minute.
    pub(crate) fn connect(
        settings: &CollectorSettings,
        starts: Arc<ChainStarts>,
        status: &CollectorStatus,
        until: Until,
        stop: &CancellationToken,
    ) -> Result<Option<Self>, Error> {
        let asker = Arc::new(client(settings, Arc::clone(&starts))?);
        let consumer = subscriber(settings, Arc::clone(&starts), Some(asker))?;
        let mut wait = Duration::from_millis(100);
        let mut told = false;
        let began = Instant::now();
        while let Err(error) = topics::check(&consumer, settings, starts.runtime()) {
            if error.disposition() == Disposition::Stop {
                return Err(error);
            }
            listen(&consumer, wait);
            // A broker that names a missing right does answer.
            status.set_connected(matches!(error, Error::Denied(_)));
            let refused = match &error {
                Error::Denied(_) => Some(error.to_string()),
                _ => consumer.context().complaint(),
            };
            if let Some(why) = refused {
                // Somebody waits for the end of this run, and what is refused will not come. A broker that is about to end or
                // to begin may seem to refuse for a moment, but it names no rights.
                let is_sure = matches!(error, Error::Denied(_)) || began.elapsed() >= BELIEVE_AFTER;
                if until == Until::CaughtUp && is_sure {
                    return Err(Error::Halted(vec![why]));
                }
                if status.set_refused(&why) {
                    tracing::warn!(why, "the brokers refuse; trying again until a person has mended it");
                }
            } else if until == Until::CaughtUp && began.elapsed() >= GIVE_UP_AFTER {
                return Err(error);
            } else if !std::mem::replace(&mut told, true) {
                tracing::warn!(brokers = settings.brokers, %error, hint = refusal::AWAY, "the brokers do not answer; waiting");
            }
            if stop.is_cancelled() {
                return Ok(None);
            }
            wait = (wait * 2).min(Duration::from_secs(5));
        }
        consumer.context().forget_complaint();
        status.set_granted();
        status.set_connected(true);
        tracing::info!(brokers = settings.brokers, group = settings.group, "the brokers answer");
        let topics = settings.topics();
        let names: Vec<&str> = topics.iter().map(|topic| topic.name.as_str()).collect();
        let inlet = Inlet::new(consumer.client(), Arc::clone(&consumer.context().destination));
        consumer.subscribe(&names).map_err(|source| Error::broker("subscribe", source))?;
        Ok(Some(Self {
            inlet: Some(inlet),
            asker: consumer.context().asker.clone().expect("the client that subscribes has been given one"),
            consumer: Some(Arc::new(consumer)),
            connected: true,
            awaiting_quiet: None,
            quiet_polls: 0,
            settled_at: Instant::now() + SETTLE_FOR,
            settings: settings.clone(),
            doubt: None,
        }))
    }

    fn consumer(&self) -> &Arc<KafkaConsumer> {
        self.consumer.as_ref().expect("only `close` takes the consumer, and nothing is asked after it")
    }

    fn unsettle(&mut self) {
        self.awaiting_quiet = None;
        self.settled_at = Instant::now() + SETTLE_FOR;
    }

    /// Hands over what callbacks have left.
    fn tell_callbacks(&mut self, context: &Context, on: &mut dyn FnMut(SourceEvent<'_>)) {
        let (events, statistics) = {
            let mut inbox = context.inbox();
            (std::mem::take(&mut inbox.events), inbox.statistics.take())
        };
        for event in events {
            self.unsettle();
            on(match event {
                Assignment::Assigned(starts) => {
                    if let Some(doubt) = &mut self.doubt {
                        doubt.until_assigned = false;
                        doubt.ask_at = Instant::now();
                    }
                    SourceEvent::Assigned(starts)
                }
                Assignment::Revoked(partitions) => SourceEvent::Revoked(partitions),
            });
        }
        if let Some(statistics) = statistics {
            // A partition that was stopped leads nowhere, and one that the client knows anew to the consumer's queue. Saying it
            // again changes nothing for the others.
            for PartitionStatistics { at, .. } in &statistics {
                let client = self.consumer().client();
                context.destination.receive(client, &context.topics[at.topic].name, at.partition as i32);
            }
            for PartitionStatistics { at, broker_end, .. } in statistics.iter().filter(|one| one.broker_end >= 0) {
                on(SourceEvent::Progress { partition: *at, read_to: None, broker_end: *broker_end });
            }
            self.quiet_polls = 0;
            self.awaiting_quiet = (Instant::now() >= self.settled_at).then_some(statistics);
        }
    }

    /// The end of a partition is reached when its statistics say so and all that had been fetched by then is delivered.
    ///
    /// The end-of-partition event itself names no topic, and a position knows nothing of control records behind the last
    /// record; the statistics have both. All messages before the end that they name were queued before them, so two
    /// polls that found the queue empty prove that all have been handed over.
    fn tell_ends(&mut self, on: &mut dyn FnMut(SourceEvent<'_>)) {
        self.quiet_polls += 1;
        if self.quiet_polls < 2 {
            return;
        }
        for PartitionStatistics { at, end_reached, broker_end } in self.awaiting_quiet.take().unwrap_or_default() {
            if end_reached >= 0 {
                let broker_end = broker_end.max(end_reached);
                on(SourceEvent::Progress { partition: at, read_to: Some(end_reached), broker_end });
            }
        }
    }

    fn tell_error(&mut self, error: KafkaError, on: &mut dyn FnMut(SourceEvent<'_>)) -> Result<(), Error> {
        match error {
            KafkaError::MessageConsumption(code) | KafkaError::Global(code) => self.tell_code(code, on),
            KafkaError::PartitionEOF(_) => {} // the statistics tell of it
            fatal => return Err(Error::broker("go on reading", fatal)),
        }
        Ok(())
    }

    fn tell_code(&mut self, code: RDKafkaErrorCode, on: &mut dyn FnMut(SourceEvent<'_>)) {
        match code {
            RDKafkaErrorCode::OffsetOutOfRange | RDKafkaErrorCode::AutoOffsetReset => on(SourceEvent::OutOfRange),
            RDKafkaErrorCode::AllBrokersDown
            | RDKafkaErrorCode::BrokerTransportFailure
            | RDKafkaErrorCode::Resolve
            | RDKafkaErrorCode::SSL
            | RDKafkaErrorCode::Authentication => {
                self.connected = false;
                on(SourceEvent::Connected(false));
                if let Some(why) = self.consumer().context().complaint() {
                    self.doubt(why, false);
                }
            }
            code => {
                if let Some(advice) = refusal::of_reading(code) {
                    let is_right = matches!(
                        code,
                        RDKafkaErrorCode::GroupAuthorizationFailed | RDKafkaErrorCode::TopicAuthorizationFailed
                    );
                    self.doubt(format!("{code}: {advice}"), !is_right);
                } else {
                    tracing::debug!(%code, "the client goes on after an error");
                }
            }
        }
    }

    /// Serves what waits in the consumer's own queue: callbacks, and errors that concern no partition.
    fn serve(&mut self, consumer: &KafkaConsumer, on: &mut dyn FnMut(SourceEvent<'_>)) -> Result<Served, Error> {
        let context = consumer.context();
        let (mut served, mut records) = (0, 0);
        while records < RECORDS_A_POLL && (records > 0 || served < CALLBACKS_A_POLL) {
            let callbacks = context.callbacks.load(Ordering::Relaxed);
            let polled = consumer.poll(Duration::ZERO);
            let called_back = context.callbacks.load(Ordering::Relaxed) != callbacks;
            if called_back {
                self.tell_callbacks(context, on);
            }
            match polled {
                // Of a partition that the client knows anew, as after a topic came again: its queue leads to the consumer's until
                // the next statistics. What has come this way is older than what comes the other, so it goes first, all of it.
                Some(Ok(message)) => {
                    records += 1;
                    let timestamp = message.timestamp().to_millis().filter(|millis| *millis >= 0);
                    let timestamp = timestamp.map(|millis| millis.saturating_mul(1000));
                    let record = RawRecord { offset: message.offset(), timestamp, payload: message.payload() };
                    self.quiet_polls = 0;
                    if let Some(topic) = context.topic(message.topic()) {
                        on(SourceEvent::Record(PartitionRef { topic, partition: message.partition() as u32 }, record));
                    }
                }
                Some(Err(error)) => self.tell_error(error, on)?,
                None if called_back => {}
                None => return Ok(if served == 0 { Served::Nothing } else { Served::All }),
            }
            served += 1;
        }
        Ok(Served::NotAll)
    }

    /// Takes records; see [`Inlet::take`].
    ///
    /// # Returns
    /// How many, and the bytes of their payloads.
    fn take(&mut self, wait: Duration, at_most: usize, on: &mut dyn FnMut(SourceEvent<'_>)) -> (usize, usize) {
        let consumer = Arc::clone(self.consumer());
        let Some(inlet) = &mut self.inlet else { return (0, 0) };
        let (mut bytes, mut errors, mut is_first) = (0, Vec::new(), !self.connected);
        let taken = inlet.take(
            wait,
            at_most,
            |name| consumer.context().topic(name),
            |taken| match taken {
                Taken::Record(topic, partition, record) => {
                    if std::mem::take(&mut is_first) {
                        on(SourceEvent::Connected(true));
                    }
                    bytes += record.payload.map_or(0, <[u8]>::len);
                    on(SourceEvent::Record(PartitionRef { topic, partition: partition as u32 }, record));
                }
                Taken::Error { code, at_offset } => errors.push((code, at_offset)),
            },
        );
        if taken > errors.len() {
            self.connected = true;
        }
        for (code, at_offset) in errors {
            self.tell_code(code, on);
            // The client counts such an error as a record that was handed over: its position must be said anew.
            if at_offset {
                on(SourceEvent::OutOfRange);
            }
        }
        (taken, bytes)
    }

    fn doubt(&mut self, why: String, until_assigned: bool) {
        self.doubt = Some(Doubt { why, until_assigned, ask_at: Instant::now() });
    }

    /// Asks the brokers whether they still refuse, and which right it is that is missing.
    fn settle_doubt(&mut self, on: &mut dyn FnMut(SourceEvent<'_>)) {
        let Some(mut doubt) = self.doubt.take_if(|doubt| doubt.ask_at <= Instant::now()) else { return };
        let needed = topics::look(self.consumer(), &self.settings);
        let rights = needed.map(|needed| topics::rights(&needed, &self.settings));
        match rights {
            Ok(rights) if !rights.denied.is_empty() => doubt.why = rights.denied.join("; "),
            Ok(_) if doubt.until_assigned => {}
            Ok(rights) => {
                // A broker that does not tell our rights has told all that it will: the refusal holds for its time.
                self.consumer().context().forget_complaint();
                on(if rights.are_known { SourceEvent::Granted } else { SourceEvent::Refused(doubt.why) });
                return;
            }
            Err(_) => {}
        }
        on(SourceEvent::Refused(doubt.why.clone()));
        doubt.ask_at = Instant::now() + ASK_RIGHTS_EVERY;
        self.doubt = Some(doubt);
    }
}

/// Serves callbacks for a while: they say why the brokers cannot be reached.
fn listen(consumer: &KafkaConsumer, wait: Duration) {
    let until = Instant::now() + wait;
    while let Some(left) = until.checked_duration_since(Instant::now()) {
        consumer.poll(left.max(Duration::from_millis(1)));
    }
}

impl EventSource for KafkaSource {
    fn poll(&mut self, timeout: Duration, on: &mut dyn FnMut(SourceEvent<'_>)) -> Result<(), Error> {
        let consumer = Arc::clone(self.consumer());
        self.settle_doubt(on);
        // Its complaints are those of the consumer; they only have to be taken away.
        self.asker.poll(Duration::ZERO);
        let until = Instant::now() + timeout;
        let (mut records, mut bytes) = (0, 0);
        while records < RECORDS_A_POLL && bytes < BYTES_A_POLL {
            let served = if records > 0 { Served::All } else { self.serve(&consumer, on)? };
            if served == Served::NotAll {
                break;
            }
            let was_any = served == Served::All;
            // Waiting for a record would make callbacks wait too, so it is done in slices; whoever had something to tell or to
            // hand over does not wait.
            let left = if was_any { Duration::ZERO } else { until.saturating_duration_since(Instant::now()) };
            let (taken, more) = self.take(left.min(WAIT_AT_ONCE), RECORDS_A_POLL - records, on);
            records += taken;
            bytes += more;
            if taken > 0 {
                self.quiet_polls = 0;
            } else if was_any {
                break;
            } else if Instant::now() >= until {
                self.tell_ends(on);
                break;
            }
        }
        Ok(())
    }

    fn pause(&mut self, partition: PartitionRef) -> Result<(), Error> {
        self.unsettle();
        let list = self.consumer().context().list(partition, None)?;
        self.consumer().pause(&list).map_err(|source| Error::broker("pause a partition", source))
    }

    fn resume(&mut self, partition: PartitionRef) -> Result<(), Error> {
        self.unsettle();
        let list = self.consumer().context().list(partition, None)?;
        self.consumer().resume(&list).map_err(|source| Error::broker("resume a partition", source))
    }

    fn reposition(&mut self, partition: PartitionRef, offset: i64) -> Result<(), Error> {
        self.unsettle();
        let name = self.consumer().context().topics[partition.topic].name.clone();
        let failed = |source| Error::broker(format!("read {name}[{}] from {offset}", partition.partition), source);
        let consumer = self.consumer();
        // A seek raises the partition's version: what was fetched before it is dropped inside the client.
        let Err(error) = consumer.seek(&name, partition.partition as i32, Offset::Offset(offset), ASK_FOR) else {
            return Ok(());
        };
        if !matches!(consumer.rebalance_protocol(), RebalanceProtocol::Cooperative) {
            return Err(failed(error));
        }
        // Its queue is led here again by the next statistics: now it would be cut off once more by the end of the old assignment.
        // The client has stopped to fetch a partition whose offset the broker no longer had, and then it cannot be sought: it is
        // given back and taken again, of which the group hears nothing.
        let (given, taken) =
            (consumer.context().list(partition, None)?, consumer.context().list(partition, Some(offset))?);
        consumer.incremental_unassign(&given).and_then(|()| consumer.incremental_assign(&taken)).map_err(failed)
    }

    fn broker(&self) -> &dyn Broker {
        self.asker.as_ref()
    }

    fn commit(&mut self, partition: PartitionRef, offset: i64) {
        let committed = self.consumer().context().list(partition, Some(offset)).and_then(|list| {
            self.consumer().commit(&list, CommitMode::Async).map_err(|source| Error::broker("commit", source))
        });
        if let Err(error) = committed {
            tracing::debug!(%error, "the group was not told; nothing depends on it");
        }
    }

    fn close(&mut self) {
        self.inlet = None;
        let Some(consumer) = self.consumer.take() else { return };
        let deadline = Instant::now() + CLOSE_FOR;
        if consumer.close_queue().is_ok() {
            while !consumer.closed() && Instant::now() < deadline {
                consumer.poll(Duration::from_millis(50));
            }
        }
        // Dropping a client that has not closed would wait without a bound.
        if !consumer.closed() {
            tracing::debug!("the group did not let go in time; it will notice by itself");
            std::thread::spawn(move || drop(consumer));
        }
    }
}

/// A client that only asks: it joins no group and reads nothing.
pub(crate) fn client(settings: &CollectorSettings, starts: Arc<ChainStarts>) -> Result<KafkaConsumer, Error> {
    let mut config = base_config(settings);
    // An end is that of the committed records, as it is for whoever reads.
    config
        .set("group.id", &settings.group)
        .set("client.id", format!("driftline-{}-asks", settings.instance))
        .set("enable.auto.commit", "false")
        .set("isolation.level", "read_committed");
    let context = Context::new(settings.topics(), starts, None);
    config.create_with_context(context).map_err(|source| Error::broker("create the client", source))
}

/// A consumer that has not subscribed yet. What its callbacks have to ask goes to `asker`, if there is one.
fn subscriber(
    settings: &CollectorSettings,
    starts: Arc<ChainStarts>,
    asker: Option<Arc<KafkaConsumer>>,
) -> Result<KafkaConsumer, Error> {
    let mut config = base_config(settings);
    let queue_kbytes = (settings.memory_max / 8 / 1024).clamp(1024, QUEUE_KBYTES_MAX);
    // Ours come last: nothing that a user sets for TLS or SASL can undo them.
    config
        .set("group.id", &settings.group)
        .set("client.id", format!("driftline-{}", settings.instance))
        .set("enable.auto.commit", "false")
        .set("enable.auto.offset.store", "false")
        .set("isolation.level", "read_committed")
        .set("auto.offset.reset", "error")
        .set("partition.assignment.strategy", "cooperative-sticky")
        // As an event it would count as a record that was handed over, and after a pause the next one would be skipped. The
        // statistics tell of the end anyway.
        .set("enable.partition.eof", "false")
        .set("statistics.interval.ms", "500");
    for (key, value) in [
        ("queued.max.messages.kbytes", queue_kbytes.to_string().as_str()),
        ("fetch.queue.backoff.ms", "10"),
        ("fetch.wait.max.ms", "100"),
        ("topic.metadata.refresh.interval.ms", "30000"),
    ] {
        // These are tuning: a user who sets them knows why.
        if !settings.properties.contains_key(key) {
            config.set(key, value);
        }
    }
    let context = Context::new(settings.topics(), starts, asker);
    config.create_with_context(context).map_err(|source| Error::broker("create the consumer", source))
}

/// Brokers and the user's own properties.
pub(crate) fn base_config(settings: &CollectorSettings) -> ClientConfig {
    let mut config = ClientConfig::new();
    config.extend(settings.properties.iter().map(|(key, value)| (key.clone(), value.clone())));
    config.set("bootstrap.servers", &settings.brokers);
    config.set_log_level(RDKafkaLogLevel::Warning);
    config
}

/// What callbacks know and leave behind. They run on the thread that polls, inside the poll.
pub(crate) struct Context {
    topics: Vec<SourceTopic>,
    starts: Arc<ChainStarts>,
    asker: Option<Arc<KafkaConsumer>>,
    /// Where records of assigned partitions go, once there is such a place.
    destination: Arc<Destination>,
    inbox: Mutex<Inbox>,
    /// How often any callback was called: a poll that returned nothing may have served one.
    callbacks: AtomicU64,
    described: Mutex<HashMap<String, (Instant, TopicState)>>,
    complaint: Mutex<Option<(Instant, String)>>,
}

#[derive(Default)]
struct Inbox {
    events: VecDeque<Assignment>,
    statistics: Option<Vec<PartitionStatistics>>,
}

enum Assignment {
    Assigned(Vec<Start>),
    Revoked(Vec<PartitionRef>),
}

impl Context {
    fn new(topics: Vec<SourceTopic>, starts: Arc<ChainStarts>, asker: Option<Arc<KafkaConsumer>>) -> Self {
        let (inbox, described, complaint) = (Mutex::default(), Mutex::default(), Mutex::default());
        let (destination, callbacks) = (Arc::default(), AtomicU64::new(0));
        Self { topics, starts, asker, destination, inbox, callbacks, described, complaint }
    }

    /// What the client complained of lately about its connections, if a person can do something about it.
    fn complaint(&self) -> Option<String> {
        let complaint = self.complaint.lock().unwrap_or_else(PoisonError::into_inner);
        complaint.as_ref().filter(|(at, _)| at.elapsed() < COMPLAINT_HOLDS).map(|(_, why)| why.clone())
    }

    fn forget_complaint(&self) {
        self.complaint.lock().unwrap_or_else(PoisonError::into_inner).take();
    }

    fn inbox(&self) -> MutexGuard<'_, Inbox> {
        self.inbox.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn called(&self) {
        self.callbacks.fetch_add(1, Ordering::Relaxed);
    }

    fn topic(&self, name: &str) -> Option<usize> {
        self.topics.iter().position(|topic| topic.name == name)
    }

    fn partitions_in(&self, list: &TopicPartitionList) -> Vec<PartitionRef> {
        let of = |topic: &str, partition: i32| {
            self.topic(topic).map(|topic| PartitionRef { topic, partition: partition as u32 })
        };
        list.elements().iter().filter_map(|element| of(element.topic(), element.partition())).collect()
    }

    fn list(&self, at: PartitionRef, offset: Option<i64>) -> Result<TopicPartitionList, Error> {
        let mut list = TopicPartitionList::new();
        let name = &self.topics[at.topic].name;
        let offset = offset.map_or(Offset::Invalid, Offset::Offset);
        list.add_partition_offset(name, at.partition as i32, offset)
            .map_err(|source| Error::broker(format!("name {name}[{}]", at.partition), source))?;
        Ok(list)
    }

    /// Puts each partition's start into the assignment itself; those that cannot be read yet are paused at once.
    fn assign(&self, consumer: &KafkaConsumer, list: &mut TopicPartitionList) -> KafkaResult<()> {
        let broker = self.asker.as_deref().unwrap_or(consumer);
        let starts = self.starts.resolve(&self.partitions_in(list), broker);
        let mut waiting = TopicPartitionList::new();
        for start in &starts {
            let (name, partition) = (&self.topics[start.partition.topic].name, start.partition.partition as i32);
            let offset = match &start.standing {
                Standing::Ready(tail) => Offset::Offset(tail.to),
                Standing::Halted(_) | Standing::Unknown(_) => {
                    waiting.add_partition(name, partition);
                    Offset::End
                }
            };
            list.set_partition_offset(name, partition, offset)?;
            self.destination.receive(consumer.client(), name, partition);
        }
        match consumer.rebalance_protocol() {
            RebalanceProtocol::Cooperative => consumer.incremental_assign(list)?,
            RebalanceProtocol::Eager | RebalanceProtocol::None => consumer.assign(list)?,
        }
        if waiting.count() > 0 {
            consumer.pause(&waiting)?;
        }
        self.inbox().events.push_back(Assignment::Assigned(starts));
        Ok(())
    }

    fn revoke(&self, consumer: &KafkaConsumer, list: &TopicPartitionList) -> KafkaResult<()> {
        self.inbox().events.push_back(Assignment::Revoked(self.partitions_in(list)));
        match consumer.rebalance_protocol() {
            RebalanceProtocol::Cooperative => consumer.incremental_unassign(list),
            RebalanceProtocol::Eager | RebalanceProtocol::None => consumer.unassign(),
        }
    }
}

impl ClientContext for Context {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        self.called();
        tracing::debug!(target: "librdkafka", ?level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!(target: "librdkafka", %error, reason);
        if let Some(why) = refusal::of_connection(&error, reason) {
            *self.complaint.lock().unwrap_or_else(PoisonError::into_inner) = Some((Instant::now(), why));
        }
    }

    fn stats(&self, statistics: Statistics) {
        self.called();
        let mut all = Vec::new();
        for (name, topic) in &statistics.topics {
            let Some(topic_at) = self.topic(name) else { continue };
            for partition in topic.partitions.values().filter(|one| one.partition >= 0 && one.fetch_state == "active") {
                all.push(PartitionStatistics {
                    at: PartitionRef { topic: topic_at, partition: partition.partition as u32 },
                    end_reached: partition.eof_offset,
                    // Committed records end at the last stable offset, where the broker tells it.
                    broker_end: if partition.ls_offset >= 0 { partition.ls_offset } else { partition.hi_offset },
                });
            }
        }
        self.inbox().statistics = Some(all);
    }
}

impl ConsumerContext for Context {
    fn rebalance(&self, consumer: &KafkaConsumer, code: RDKafkaRespErr, list: &mut TopicPartitionList) {
        self.called();
        let done = match code {
            RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS => self.assign(consumer, list),
            _ => self.revoke(consumer, list),
        };
        if let Err(error) = done {
            tracing::warn!(%error, "a rebalance did not go through; the group will try again");
        }
    }

    fn commit_callback(&self, result: KafkaResult<()>, _: &TopicPartitionList) {
        self.called();
        if let Err(error) = result {
            tracing::debug!(%error, "the group was not told; nothing depends on it");
        }
    }
}

impl Broker for KafkaConsumer {
    fn describe(&self, topic: &SourceTopic) -> Result<TopicState, Error> {
        let described = &self.context().described;
        let known = described.lock().unwrap_or_else(PoisonError::into_inner).get(&topic.name).cloned();
        if let Some((_, state)) = known.filter(|(at, _)| at.elapsed() < DESCRIPTION_GOOD_FOR) {
            return Ok(state);
        }
        let failed = |source| Error::broker(format!("describe topic {}", topic.name), source);
        let metadata = self.fetch_metadata(Some(&topic.name), ASK_FOR).map_err(failed)?;
        let found = metadata.topics().iter().find(|found| found.name() == topic.name);
        let missing = || failed(KafkaError::MetadataFetch(RDKafkaErrorCode::UnknownTopicOrPartition));
        let found = found.ok_or_else(missing)?;
        if let Some(code) = found.error() {
            return Err(failed(KafkaError::MetadataFetch(code.into())));
        }
        let id = describe::topic(self.client(), &topic.name).id;
        let state = TopicState { id, partitions: found.partitions().len() as u32 };
        let mut described = described.lock().unwrap_or_else(PoisonError::into_inner);
        described.insert(topic.name.clone(), (Instant::now(), state.clone()));
        Ok(state)
    }

    fn topic_id(&self, topic: &SourceTopic) -> Option<String> {
        let id = describe::topic(self.client(), &topic.name).id?;
        let mut described = self.context().described.lock().unwrap_or_else(PoisonError::into_inner);
        // Whoever asks next must not be told of the topic that was.
        if described.get(&topic.name).is_some_and(|(_, state)| state.id.as_ref() != Some(&id)) {
            described.remove(&topic.name);
        }
        Some(id)
    }

    fn watermarks(&self, topic: &SourceTopic, partition: u32) -> Result<Watermarks, Error> {
        let asked = self.fetch_watermarks(&topic.name, partition as i32, ASK_FOR);
        let (low, high) = asked
            .map_err(|source| Error::broker(format!("ask for the ends of {}[{partition}]", topic.name), source))?;
        Ok(Watermarks { low, high })
    }

    fn offset_at(&self, topic: &SourceTopic, partition: u32, time: DateTime<Utc>) -> Result<i64, Error> {
        let failed =
            |source| Error::broker(format!("ask for an offset of {}[{partition}] by time", topic.name), source);
        let mut list = TopicPartitionList::new();
        let millis = Offset::Offset(time.timestamp_millis());
        list.add_partition_offset(&topic.name, partition as i32, millis).map_err(failed)?;
        let found = self.offsets_for_times(list, ASK_FOR).map_err(failed)?;
        match found.find_partition(&topic.name, partition as i32).map(|element| element.offset()) {
            Some(Offset::Offset(offset)) => Ok(offset),
            // No record is that new.
            _ => Ok(self.watermarks(topic, partition)?.high),
        }
    }
}
