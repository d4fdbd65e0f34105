//! Delivery: each sink follows chains, a model's alerts or a report, and goes on when it was told. How far it is lies in the store,
//! so a message is sent at least once whatever dies, and every copy has the same id.
//!
//! Each sink is told beside the loop and beside the others: one that hangs holds up nothing but itself.
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use driftline_schemas::clock::{self, DAY, Micros};
use driftline_schemas::config::Sink;
use driftline_store::{Expected, Replaced, Store, Version};
use rand::Rng;
use serde::{Deserialize, Serialize};
use tokio::task::JoinSet;
use xxhash_rust::xxh3::xxh3_64;

use crate::message::Message;
use crate::send::{Outcome, send};
use crate::{Error, telemetry};

/// Pauses between tries, the last one again and again, each drawn from half to all of it.
const PAUSES: [Duration; 7] = [
    Duration::from_secs(5),
    Duration::from_secs(30),
    Duration::from_secs(120),
    Duration::from_secs(300),
    Duration::from_secs(900),
    Duration::from_secs(1_800),
    Duration::from_secs(3_600),
];
/// Chains that one sink is told of at a time. More burden a receiver that is slow; fewer let one model's trouble hold up others.
const AT_ONCE: usize = 4;
/// A sink's turn at one chain: what it has not been told by then waits until others had theirs.
const TURN: Duration = Duration::from_secs(30);
/// Tries before a message that is older than a day, or that is refused as it is, is given up.
const TRIES_MIN: usize = 3;

/// A chain that sinks follow.
#[async_trait]
pub(crate) trait Feed: Send + Sync {
    /// What it is of: a model, or a report.
    fn name(&self) -> &str;

    /// Where it is noted how far a sink is.
    fn noted_at(&self, sink: &str) -> String;

    /// When a record was written, and the messages that tell a sink of it; `None`: it has not been written.
    async fn messages(&self, seq: u64, sink: &Sink) -> Result<Option<(Micros, Vec<Message>)>, Error>;
}

/// How far a sink has been told.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Sent {
    /// The first record that it has not been told of.
    next: u64,
    /// Messages of that record that it has taken.
    #[serde(default)]
    taken: usize,
    /// Records that it did not take within a day, or refused.
    #[serde(default)]
    given_up: u64,
    /// Hash of the address that answered 410.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    gone: Option<String>,
}

/// What a chain is of, and a sink.
type Key = (String, String);

/// Tries that failed, of one sink and chain.
struct Failing {
    tries: usize,
    next: Instant,
}

/// What this process does and remembers of deliveries; all of it can be lost.
#[derive(Default)]
pub(crate) struct Deliveries {
    running: JoinSet<(Key, Result<Ended, Error>)>,
    in_flight: HashSet<Key>,
    failing: HashMap<Key, Failing>,
    /// Receivers that have said when to come again (429, 503): nothing is sent to them before.
    resting: HashMap<String, Instant>,
    /// Up to which record a sink has surely been told: spares a request each round.
    told_to: HashMap<Key, u64>,
}

/// How a turn ended.
#[derive(Debug, PartialEq, Eq)]
enum Ended {
    /// All records before this one are told.
    UpToDate(u64),
    /// There is more, and other chains come first.
    More,
    /// It is tried again later.
    Again {
        /// Tries that failed so far.
        tries: usize,
        /// What the receiver said of when.
        after: Option<Duration>,
    },
}

/// What came of a round.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Progress {
    /// Every sink has been told all.
    UpToDate,
    /// A sink is tried again later.
    Waiting,
    /// A sink is being told.
    Busy,
}

/// Notes where new sinks begin: with what happens from now on. Before a chain's first record this is its beginning.
pub(crate) async fn enrol<'s>(
    store: &Store,
    feed: &dyn Feed,
    sinks: impl IntoIterator<Item = &'s Sink>,
    next: u64,
) -> Result<(), Error> {
    for sink in sinks {
        let path = feed.noted_at(&sink.name);
        if store.get(&path).await?.is_none() {
            let bytes = to_json(&path, &Sent { next, ..Sent::default() })?;
            // Whoever was first has said where it begins.
            let (Replaced::Done(_) | Replaced::Conflict(_)) = store.replace(&path, bytes, Expected::Absent).await?;
        }
    }
    Ok(())
}

impl Deliveries {
    /// Sees to it that sinks are told what they have not been told of the records before `next`. Waits for none of them.
    ///
    /// # Errors
    /// What a delivery has met that no second try mends.
    pub(crate) fn deliver<'s>(
        &mut self,
        store: &Store,
        feed: &Arc<dyn Feed>,
        next: u64,
        sinks: impl IntoIterator<Item = &'s Sink>,
        allow_local: bool,
    ) -> Result<Progress, Error> {
        self.take_ended()?;
        let mut progress = Progress::UpToDate;
        let now = Instant::now();
        for sink in sinks {
            let key = (feed.name().to_owned(), sink.name.clone());
            if self.told_to.get(&key).is_some_and(|told| *told >= next) {
                continue;
            }
            if self.in_flight.contains(&key) {
                progress = Progress::Busy;
                continue;
            }
            let rests = self.resting.get(&sink.name).is_some_and(|until| *until > now);
            let waits = self.failing.get(&key).is_some_and(|failing| failing.next > now);
            if rests || waits {
                progress = progress.max(Progress::Waiting);
                continue;
            }
            progress = Progress::Busy;
            if self.in_flight.iter().filter(|(_, other)| *other == sink.name).count() < AT_ONCE {
                let tries = self.failing.get(&key).map_or(0, |failing| failing.tries);
                let (store, feed, sink) = (store.clone(), feed.clone(), sink.clone());
                let turn = Turn { store, feed, sink, allow_local, next, tries, lasts: TURN };
                self.in_flight.insert(key.clone());
                self.running.spawn(async move { (key, turn.run().await) });
            }
        }
        Ok(progress)
    }

    /// Returns once a delivery has ended; never while there is none.
    pub(crate) async fn ended(&mut self) -> Result<(), Error> {
        match self.running.join_next().await {
            Some(ended) => self.take(ended),
            None => std::future::pending().await,
        }
    }

    fn take_ended(&mut self) -> Result<(), Error> {
        while let Some(ended) = self.running.try_join_next() {
            self.take(ended)?;
        }
        Ok(())
    }

    fn take(&mut self, ended: Result<(Key, Result<Ended, Error>), tokio::task::JoinError>) -> Result<(), Error> {
        let (key, ended) = match ended {
            Ok(ended) => ended,
            // Nobody aborts them: it has panicked, which is no message's fault.
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        };
        self.in_flight.remove(&key);
        match ended {
            Ok(Ended::UpToDate(told)) => {
                self.failing.remove(&key);
                self.told_to.insert(key, told);
            }
            Ok(Ended::More) => drop(self.failing.remove(&key)),
            Ok(Ended::Again { tries, after }) => {
                let now = Instant::now();
                if let Some(after) = after {
                    self.resting.insert(key.1.clone(), now + after);
                }
                let next = now + pause(tries - 1).max(after.unwrap_or_default());
                self.failing.insert(key, Failing { tries, next });
            }
            Err(error) if error.is_transient() => {
                let tries = self.failing.get(&key).map_or(0, |failing| failing.tries);
                let pause = pause(0);
                telemetry::step_failed(&error, pause);
                self.failing.insert(key, Failing { tries, next: Instant::now() + pause });
            }
            Err(error) => return Err(error),
        }
        Ok(())
    }
}

/// One sink being told of one chain.
struct Turn {
    store: Store,
    feed: Arc<dyn Feed>,
    sink: Sink,
    allow_local: bool,
    /// The first record that has not been written.
    next: u64,
    /// Tries of its first message that have failed.
    tries: usize,
    /// After so long others come first; one message is told however long its store and its receiver take.
    lasts: Duration,
}

impl Turn {
    async fn run(mut self) -> Result<Ended, Error> {
        let (feed, sink) = (self.feed.clone(), self.sink.clone());
        let (path, address) = (feed.noted_at(&sink.name), address_of(&sink));
        let (begin, mut has_told) = (Instant::now(), false);
        while let Some(object) = self.store.get(&path).await? {
            let mut sent: Sent =
                serde_json::from_slice(&object.bytes).map_err(|source| Error::Json { path: path.clone(), source })?;
            if sent.next >= self.next || sent.gone.as_ref() == Some(&address) {
                break;
            }
            let Some((at, messages)) = feed.messages(sent.next, &sink).await? else { break };
            let mut outcome = Outcome::Done;
            for message in messages.iter().skip(sent.taken) {
                if has_told && begin.elapsed() >= self.lasts {
                    self.note(&path, &sent, object.version).await?;
                    return Ok(Ended::More);
                }
                outcome = send(&sink, message, self.allow_local).await;
                has_told = true;
                telemetry::delivery(&sink.name, &outcome);
                if outcome != Outcome::Done {
                    break;
                }
                (sent.taken, self.tries) = (sent.taken + 1, 0);
            }
            let is_old = clock::now_micros() - at > DAY;
            let failed = match outcome {
                Outcome::Done => {
                    (sent.next, sent.taken) = (sent.next + 1, 0);
                    None
                }
                Outcome::Gone => {
                    tracing::warn!(
                        sink = sink.name,
                        "the receiver is gone (410): it is told nothing more under this address"
                    );
                    sent.gone = Some(address.clone());
                    None
                }
                Outcome::Again { why, after } => Some((why, after, is_old)),
                Outcome::Refused { why } => Some((why, None, true)),
            };
            if let Some((why, after, is_enough)) = failed {
                if !is_enough || self.tries < TRIES_MIN {
                    tracing::warn!(sink = sink.name, of = feed.name(), why, "not delivered; it is tried again");
                    self.note(&path, &sent, object.version).await?;
                    return Ok(Ended::Again { tries: self.tries + 1, after });
                }
                tracing::error!(sink = sink.name, of = feed.name(), why, "delivery given up");
                self.tries = 0;
                (sent.next, sent.taken, sent.given_up) = (sent.next + 1, 0, sent.given_up + 1);
            }
            self.note(&path, &sent, object.version).await?;
        }
        Ok(Ended::UpToDate(self.next))
    }

    /// Notes how far it is. Another process that has told it too has noted the same, or more.
    async fn note(&self, path: &str, sent: &Sent, version: Version) -> Result<(), Error> {
        let bytes = to_json(path, sent)?;
        let (Replaced::Done(_) | Replaced::Conflict(_)) =
            self.store.replace(path, bytes, Expected::Version(version)).await?;
        Ok(())
    }
}

fn to_json(path: &str, sent: &Sent) -> Result<Bytes, Error> {
    let bytes = serde_json::to_vec(sent).map_err(|source| Error::Json { path: path.to_owned(), source })?;
    Ok(bytes.into())
}

/// What stands for a sink's address; the address itself may be a secret.
fn address_of(sink: &Sink) -> String {
    format!("{:016x}", xxh3_64(sink.url.as_bytes()))
}

fn pause(tries: usize) -> Duration {
    let most = PAUSES[tries.min(PAUSES.len() - 1)];
    most.mul_f64(rand::rng().random_range(0.5..=1.0))
}

#[cfg(test)]
mod tests {
    use driftline_schemas::config::{AlertsConfig, Severity, SinkKind};
    use driftline_store::paths;

    use super::*;
    use crate::life::{Kind, State};
    use crate::log::{Alerts, Log};
    use crate::message::{example, message_id};
    use crate::receiver::Receiver;

    fn sink(name: &str, url: &str) -> Sink {
        Sink {
            name: name.into(),
            kind: SinkKind::Webhook,
            url: format!("{url}/{name}"),
            secret: None,
            headers: [].into(),
            command: vec![],
            text: None,
            revisions: true,
            repeat: None,
            min_severity: Severity::Info,
            matches: [].into(),
            alerts: true,
            email: None,
            group_by: vec![],
        }
    }

    fn config(sinks: Vec<Sink>) -> AlertsConfig {
        AlertsConfig { sinks, allow_local: true, ..AlertsConfig::default() }
    }

    /// Writes records, each of which tells of so many segments.
    async fn write(store: &Store, model: &str, at: Micros, segments: &[usize]) -> u64 {
        let (mut log, _) = Log::open(store, model, 0).await.expect("opened");
        for count in segments {
            let of = |segment: usize| {
                let mut transition = example(Kind::Firing);
                transition.series.segment_value = Some(segment.to_string());
                transition
            };
            let told: Vec<_> = (0..*count).map(of).collect();
            log.append("w", at, &told, vec![], &State::default()).await.expect("the store").expect("nobody else");
        }
        log.next
    }

    async fn sent(store: &Store, model: &str, sink: &str) -> Sent {
        let object = store.get(&paths::alerting_sent(model, sink)).await.expect("read").expect("enrolled");
        serde_json::from_slice(&object.bytes).expect("JSON")
    }

    fn feed(store: &Store, model: &str) -> Arc<dyn Feed> {
        Arc::new(Alerts::new(store, model, None))
    }

    async fn enrol(store: &Store, model: &str, sinks: &[Sink], next: u64) {
        super::enrol(store, &*feed(store, model), sinks, next).await.expect("enrolled");
    }

    fn turn(store: &Store, config: &AlertsConfig, next: u64, tries: usize) -> Turn {
        Turn {
            store: store.clone(),
            feed: feed(store, "m"),
            sink: config.sinks[0].clone(),
            allow_local: config.allow_local,
            next,
            tries,
            lasts: TURN,
        }
    }

    fn deliver(
        deliveries: &mut Deliveries,
        store: &Store,
        model: &str,
        next: u64,
        config: &AlertsConfig,
    ) -> Result<Progress, Error> {
        deliveries.deliver(store, &feed(store, model), next, &config.sinks, config.allow_local)
    }

    #[tokio::test]
    async fn a_receiver_that_never_answers_holds_up_nobody_else() {
        let (store, receiver) = (Store::in_memory(), Receiver::default());
        let url = receiver.start().await;
        let config = config(vec![sink("hangs", &url), sink("works", &url), sink("refuses", &url)]);
        receiver.will_answer("/hangs", &vec![(0, None); 50]);
        receiver.will_answer("/refuses", &vec![(500, None); 50]);
        let models: Vec<String> = (0..10).map(|at| format!("m{at}")).collect();
        for model in &models {
            enrol(&store, model, &config.sinks, 0).await;
            write(&store, model, clock::now_micros(), &[1, 1]).await;
        }
        let mut deliveries = Deliveries::default();
        let begin = Instant::now();
        while receiver.at("/works").len() < 20 {
            for model in &models {
                let asked = Instant::now();
                assert_ne!(deliver(&mut deliveries, &store, model, 2, &config).expect("no error"), Progress::UpToDate);
                assert!(asked.elapsed() < Duration::from_millis(500), "the loop was held up");
            }
            assert!(begin.elapsed() < Duration::from_secs(10), "{} told", receiver.at("/works").len());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert!(
            receiver.at("/hangs").len() <= AT_ONCE,
            "a sink is asked {} times at once",
            receiver.at("/hangs").len()
        );
        let refused = receiver.at("/refuses").len();
        // On a machine that is busy with other things the first pauses are over by now.
        let pauses = begin.elapsed().div_duration_f64(PAUSES[0] / 2) as usize;
        let most = models.len() * (1 + pauses);
        assert!((AT_ONCE..=most).contains(&refused), "each model's is tried, and then waits: {refused}");
        for model in &models {
            assert_eq!(sent(&store, model, "hangs").await.next, 0, "it has taken nothing");
        }
    }

    #[tokio::test]
    async fn records_are_told_once_in_their_order_and_again_only_after_a_loss() {
        let (store, receiver) = (Store::in_memory(), Receiver::default());
        let config = config(vec![sink("ops", &receiver.start().await)]);
        enrol(&store, "m", &config.sinks, 0).await;
        let next = write(&store, "m", clock::now_micros(), &[1, 0, 2]).await;
        assert_eq!(turn(&store, &config, next, 0).run().await.expect("told"), Ended::UpToDate(3));
        let ids = || receiver.at("/ops").iter().map(|one| one.headers["webhook-id"].clone()).collect::<Vec<_>>();
        let wanted = [message_id("m", 0, "ops"), message_id("m", 2, "ops")];
        assert_eq!(ids(), wanted, "what tells nobody anything is no message");
        turn(&store, &config, next, 0).run().await.expect("nothing to do");
        assert_eq!(ids(), wanted);
        // It died after the receiver had the message, and before that was noted.
        let path = paths::alerting_sent("m", "ops");
        store.put(&path, to_json(&path, &Sent { next: 2, ..Sent::default() }).expect("JSON")).await.expect("written");
        turn(&store, &config, next, 0).run().await.expect("told again");
        assert_eq!(ids()[2], wanted[1], "every copy has the same id");
        // A new sink begins with what happens from now on.
        let late = [sink("late", "http://127.0.0.1:1")];
        enrol(&store, "m", &late, next).await;
        enrol(&store, "m", &late, 0).await;
        assert_eq!(sent(&store, "m", "late").await.next, 3);
    }

    #[tokio::test]
    async fn a_record_goes_on_where_it_was_refused() {
        let (store, receiver) = (Store::in_memory(), Receiver::default());
        let mut of = sink("ops", &receiver.start().await);
        of.group_by = vec!["segment_value".into()];
        let config = config(vec![of]);
        enrol(&store, "m", &config.sinks, 0).await;
        write(&store, "m", clock::now_micros(), &[5]).await;
        receiver.will_answer("/ops", &[(200, None), (200, None), (429, Some(("retry-after", "9".into())))]);
        let ended = turn(&store, &config, 1, 0).run().await.expect("tried");
        assert_eq!(ended, Ended::Again { tries: 1, after: Some(Duration::from_secs(9)) });
        assert_eq!(sent(&store, "m", "ops").await, Sent { taken: 2, ..Sent::default() });
        assert_eq!(turn(&store, &config, 1, 1).run().await.expect("told"), Ended::UpToDate(1));
        let ids: Vec<String> = receiver.at("/ops").iter().map(|one| one.headers["webhook-id"].clone()).collect();
        assert_eq!(ids.len(), 6, "{ids:?}");
        assert_eq!((ids.iter().collect::<HashSet<_>>().len(), &ids[2]), (5, &ids[3]), "the third one came twice");
    }

    #[tokio::test]
    async fn what_is_refused_as_it_is_holds_up_what_comes_after_it_for_a_few_tries_only() {
        let (store, receiver) = (Store::in_memory(), Receiver::default());
        let config = config(vec![sink("ops", &receiver.start().await)]);
        enrol(&store, "m", &config.sinks, 0).await;
        let next = write(&store, "m", clock::now_micros(), &[1, 1]).await;
        receiver.will_answer("/ops", &vec![(422, None); TRIES_MIN + 1]);
        for tries in 0..TRIES_MIN {
            let ended = turn(&store, &config, next, tries).run().await.expect("tried");
            assert_eq!(ended, Ended::Again { tries: tries + 1, after: None });
        }
        assert_eq!(turn(&store, &config, next, TRIES_MIN).run().await.expect("goes on"), Ended::UpToDate(2));
        assert_eq!(sent(&store, "m", "ops").await, Sent { next: 2, given_up: 1, ..Sent::default() });
        assert_eq!(receiver.at("/ops").len(), TRIES_MIN + 2, "the second one was told");
    }

    #[tokio::test]
    async fn a_turn_that_is_over_has_told_one_message_and_the_next_one_goes_on() {
        let (store, receiver) = (Store::in_memory(), Receiver::default());
        let mut of = sink("ops", &receiver.start().await);
        of.group_by = vec!["segment_value".into()];
        let config = config(vec![of]);
        enrol(&store, "m", &config.sinks, 0).await;
        let next = write(&store, "m", clock::now_micros(), &[2, 1]).await;
        let short = || Turn { lasts: Duration::ZERO, ..turn(&store, &config, next, 0) };
        for told in 1..=2 {
            assert_eq!(short().run().await.expect("told"), Ended::More);
            assert_eq!(receiver.at("/ops").len(), told);
        }
        assert_eq!(short().run().await.expect("told"), Ended::UpToDate(2));
        let ids: HashSet<String> = receiver.at("/ops").iter().map(|one| one.headers["webhook-id"].clone()).collect();
        assert_eq!((ids.len(), receiver.at("/ops").len()), (3, 3), "each of them once");
    }

    #[tokio::test]
    async fn a_receiver_says_for_all_models_when_it_can_be_told_again() {
        let (store, receiver) = (Store::in_memory(), Receiver::default());
        let config = config(vec![sink("ops", &receiver.start().await)]);
        for model in ["a", "b"] {
            enrol(&store, model, &config.sinks, 0).await;
            write(&store, model, clock::now_micros(), &[1]).await;
        }
        receiver.will_answer("/ops", &[(429, Some(("retry-after", "60".into())))]);
        let mut deliveries = Deliveries::default();
        assert_eq!(deliver(&mut deliveries, &store, "a", 1, &config).expect("begun"), Progress::Busy);
        deliveries.ended().await.expect("ended");
        for model in ["a", "b"] {
            assert_eq!(
                deliver(&mut deliveries, &store, model, 1, &config).expect("asked"),
                Progress::Waiting,
                "{model}"
            );
        }
        assert!(deliveries.resting["ops"] > Instant::now() + Duration::from_secs(50));
        assert!(deliveries.running.is_empty());
        assert_eq!(receiver.at("/ops").len(), 1);
    }

    #[tokio::test]
    async fn a_receiver_that_is_gone_is_told_no_more_until_it_has_another_address() {
        let (store, receiver) = (Store::in_memory(), Receiver::default());
        let url = receiver.start().await;
        let old = config(vec![sink("ops", &url)]);
        enrol(&store, "m", &old.sinks, 0).await;
        write(&store, "m", clock::now_micros(), &[1, 1]).await;
        receiver.will_answer("/ops", &[(410, None)]);
        for _ in 0..2 {
            assert_eq!(turn(&store, &old, 2, 0).run().await.expect("ended"), Ended::UpToDate(2));
        }
        assert_eq!((receiver.at("/ops").len(), sent(&store, "m", "ops").await.next), (1, 0));
        let mut moved = sink("ops", &url);
        moved.url = format!("{url}/new");
        turn(&store, &config(vec![moved]), 2, 0).run().await.expect("told");
        assert_eq!(receiver.at("/new").len(), 2, "what it missed is told at the new address");
    }

    #[tokio::test]
    async fn what_is_not_taken_is_tried_for_a_day_and_then_given_up() {
        let (store, receiver) = (Store::in_memory(), Receiver::default());
        let config = config(vec![sink("ops", &receiver.start().await)]);
        enrol(&store, "m", &config.sinks, 0).await;
        let yesterday = clock::now_micros() - DAY - 1_000_000;
        write(&store, "m", yesterday, &[1]).await;
        write(&store, "m", clock::now_micros(), &[1]).await;
        receiver.will_answer("/ops", &vec![(500, None); 4]);
        for tries in 0..TRIES_MIN {
            let ended = turn(&store, &config, 2, tries).run().await.expect("tried");
            assert_eq!(ended, Ended::Again { tries: tries + 1, after: None }, "old, and hardly tried");
            assert_eq!(sent(&store, "m", "ops").await, Sent::default());
        }
        assert_eq!(turn(&store, &config, 2, TRIES_MIN).run().await.expect("told"), Ended::UpToDate(2));
        let noted = sent(&store, "m", "ops").await;
        assert_eq!((noted.next, noted.given_up, receiver.at("/ops").len()), (2, 1, 5));
        // A young one is never given up.
        write(&store, "m", clock::now_micros(), &[1]).await;
        receiver.will_answer("/ops", &[(500, None)]);
        let ended = turn(&store, &config, 3, 50).run().await.expect("tried");
        assert_eq!(ended, Ended::Again { tries: 51, after: None });
    }

    #[tokio::test]
    async fn failed_tries_are_those_of_one_message() {
        let (store, receiver) = (Store::in_memory(), Receiver::default());
        let config = config(vec![sink("ops", &receiver.start().await)]);
        enrol(&store, "m", &config.sinks, 0).await;
        write(&store, "m", clock::now_micros() - DAY - 1_000_000, &[1, 1]).await;
        receiver.will_answer("/ops", &[(200, None), (500, None)]);
        // The first one is taken after all; the second, as old, is refused for the first time.
        let ended = turn(&store, &config, 2, TRIES_MIN).run().await.expect("tried");
        assert_eq!(ended, Ended::Again { tries: 1, after: None });
        assert_eq!(sent(&store, "m", "ops").await, Sent { next: 1, ..Sent::default() });
    }

    #[tokio::test]
    async fn whoever_was_told_all_is_told_the_next_record() {
        let (store, receiver) = (Store::in_memory(), Receiver::default());
        let config = config(vec![sink("ops", &receiver.start().await)]);
        enrol(&store, "m", &config.sinks, 0).await;
        let mut deliveries = Deliveries::default();
        for told in 1..=3 {
            let next = write(&store, "m", clock::now_micros(), &[1]).await;
            assert_eq!(deliver(&mut deliveries, &store, "m", next, &config).expect("begun"), Progress::Busy, "{told}");
            deliveries.ended().await.expect("ended");
            assert_eq!(deliver(&mut deliveries, &store, "m", next, &config).expect("asked"), Progress::UpToDate);
            assert_eq!(receiver.at("/ops").len(), told);
        }
    }

    #[tokio::test]
    async fn a_store_that_is_away_is_asked_again_after_a_pause() {
        let policy = driftline_store::RetryPolicy { max_elapsed: Duration::ZERO, ..Default::default() };
        let faults = driftline_store::FaultPlan::new(1).down_after(0);
        let away = Store::in_memory().with_faults(faults).with_retry(policy);
        let config = config(vec![sink("ops", "http://127.0.0.1:1")]);
        let mut deliveries = Deliveries::default();
        assert_eq!(deliver(&mut deliveries, &away, "m", 1, &config).expect("begun"), Progress::Busy);
        deliveries.ended().await.expect("it passes");
        assert_eq!(deliver(&mut deliveries, &away, "m", 1, &config).expect("asked"), Progress::Waiting);
        assert!(deliveries.running.is_empty());
    }

    #[test]
    fn pauses_grow_to_an_hour_and_differ() {
        for tries in 0..100 {
            let (most, drawn) = (PAUSES[tries.min(PAUSES.len() - 1)], pause(tries));
            assert!(drawn >= most / 2 && drawn <= most, "{tries}: {drawn:?}");
        }
        assert!(PAUSES.is_sorted() && PAUSES[0] >= Duration::from_secs(1));
        assert!((0..20).map(|_| pause(3)).collect::<HashSet<_>>().len() > 1, "all at once is what broke it");
    }
}
