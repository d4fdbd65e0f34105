//! The stage: one thread that polls, decodes and decides what is flushed when; it never waits for the store.
//!
//! ```text
//! source ─► decode ─► PartitionBuffer ─ full or old ─► Work ═► flusher (async) ═► FlushDone ─► tail moves
//!    ▲                                                                                          │
//!    └───────────── pause · resume · reposition · commit ◄──────────────────────────────────────┘
//! ```
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use driftline_schemas::clock::{Micros, now_micros};
use driftline_schemas::position::TopicPartition;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::caught_up::Targets;
use crate::error::{Disposition, Error};
use crate::flusher::{FlushDone, Work};
use crate::partition::{Partition, Progress, Reading};
use crate::settings::CollectorSettings;
use crate::source::{EventSource, PartitionRef, SourceEvent, SourceTopic, Standing, Start, Starts};
use crate::starts::{ChainStarts, judge};
use crate::status::CollectorStatus;
use crate::telemetry::Telemetry;

/// How long a poll waits when there is nothing: the grain of every decision here.
const POLL_FOR: Duration = Duration::from_millis(20);
/// How often the state of all partitions is looked over. Smaller costs time on processes with many partitions.
const LOOK_OVER_EVERY: Duration = Duration::from_millis(50);
/// How long looking them over may keep the thread from polling: with hundreds of partitions, each of which is a question
/// to the broker, the rest waits for the next time. Smaller delays facts; larger delays records.
const LOOK_OVER_FOR: Duration = Duration::from_millis(100);
/// After an answer that was not the one hoped for: the broker's end is further on, or it did not answer.
const ASK_AGAIN_AFTER: Duration = Duration::from_millis(500);
/// How often a partition that is not read is tried again: an operator may have given up its gap.
const RETRY_HALTED_AFTER: Duration = Duration::from_secs(3);
/// How often it is asked whether a topic is still the one that is read, if there is nothing to flush. Smaller asks more; larger
/// lets a topic that was created again wait longer when its records lie where nobody reads yet.
const CONFIRM_EVERY: Duration = Duration::from_secs(5);
/// Of the thread's time, one part in so many at most goes into such questions; flushes that are due meanwhile wait together for the
/// next. Smaller asks more often, with hundreds of partitions; larger delays flushes by so many answers of the broker.
const CONFIRM_ONE_PART_IN: u32 = 20;
/// The longest that shutdown waits for flushes. What is not flushed by then is read again by the next owner.
const DRAIN_FOR: Duration = Duration::from_secs(30);

/// When the collector is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Until {
    /// When it is told to stop.
    Shutdown,
    /// When every partition of all topics has been read to its end as it stood at the start, and is flushed.
    CaughtUp,
}

/// What the stage works with.
pub(crate) struct Stage<S> {
    source: S,
    state: State,
    starts: Arc<ChainStarts>,
    work: mpsc::Sender<Work>,
    done: mpsc::Receiver<FlushDone>,
    status: Arc<CollectorStatus>,
    targets: Option<Targets>,
    looked_over: Instant,
    memory_is_short: bool,
    /// By topic: when it may be asked next whether it is still the same, and when it must.
    confirms: BTreeMap<usize, (Instant, Instant)>,
}

/// What events change: all but the source, so that the source can hand events over while it is polled.
pub(crate) struct State {
    pub(crate) settings: CollectorSettings,
    pub(crate) topics: Vec<SourceTopic>,
    pub(crate) partitions: BTreeMap<PartitionRef, Partition>,
    pub(crate) telemetry: Telemetry,
    status: Arc<CollectorStatus>,
    generation: u64,
    flying_bytes: usize,
    out_of_range: bool,
    now: Instant,
    decoded_at: Micros,
}

impl<S: EventSource> Stage<S> {
    pub(crate) fn new(
        source: S,
        settings: CollectorSettings,
        starts: Arc<ChainStarts>,
        status: Arc<CollectorStatus>,
        telemetry: Telemetry,
        (work, done): (mpsc::Sender<Work>, mpsc::Receiver<FlushDone>),
    ) -> Self {
        let topics = settings.topics();
        let state = State {
            settings,
            topics,
            partitions: BTreeMap::new(),
            telemetry,
            status: Arc::clone(&status),
            generation: 0,
            flying_bytes: 0,
            out_of_range: false,
            now: Instant::now(),
            decoded_at: now_micros(),
        };
        let looked_over = Instant::now();
        let confirms = BTreeMap::new();
        Self { source, state, starts, work, done, status, targets: None, looked_over, memory_is_short: false, confirms }
    }

    /// Runs until `until` or `shutdown`, then flushes what is buffered and leaves the group.
    pub(crate) fn drive(mut self, until: Until, shutdown: &CancellationToken) -> Result<(), Error> {
        let driven = self.drive_on(until, shutdown);
        if driven.is_ok() {
            self.drain();
        }
        if until == Until::CaughtUp && driven.is_ok() {
            self.ask_all_ends();
        }
        self.publish_status();
        self.source.close();
        driven
    }

    fn drive_on(&mut self, until: Until, shutdown: &CancellationToken) -> Result<(), Error> {
        while !shutdown.is_cancelled() {
            self.state.tick();
            let state = &mut self.state;
            self.source.poll(POLL_FOR, &mut |event| state.on_event(event))?;
            self.state.tick();
            if let Some(error) = self.starts.take_fatal() {
                return Err(error);
            }
            self.take_flushes()?;
            self.keep_within_memory();
            self.begin_flushes();
            if self.looked_over.elapsed() >= LOOK_OVER_EVERY {
                self.looked_over = Instant::now();
                self.state.telemetry.buffered(self.state.buffered_bytes());
                self.look_over()?;
                if until == Until::CaughtUp {
                    // Somebody waits for the end of this run, and what is refused will not come.
                    if let Some(why) = self.status.refused() {
                        return Err(Error::Halted(vec![why]));
                    }
                    if self.is_caught_up()? {
                        return Ok(());
                    }
                }
            }
        }
        Ok(())
    }

    fn take_flushes(&mut self) -> Result<(), Error> {
        loop {
            match self.done.try_recv() {
                Ok(done) => self.take_flush(done),
                Err(mpsc::error::TryRecvError::Empty) => return Ok(()),
                Err(mpsc::error::TryRecvError::Disconnected) => return Err(Error::Ended("flusher")),
            }
        }
    }

    fn take_flush(&mut self, done: FlushDone) {
        self.state.flying_bytes = self.state.flying_bytes.saturating_sub(done.bytes);
        let (at, now) = (done.at, self.state.now);
        let Some(partition) = self.state.partitions.get_mut(&at).filter(|known| known.generation == done.generation)
        else {
            return;
        };
        let go_to = partition.on_flushed(done, now);
        if let Some(progress) = partition.progress() {
            let tail = progress.tail.to;
            self.source.commit(at, tail);
        }
        if let Some(offset) = go_to {
            self.go_to(at, offset);
        }
    }

    fn go_to(&mut self, at: PartitionRef, offset: i64) {
        let Some(partition) = self.state.partitions.get_mut(&at) else { return };
        match self.source.reposition(at, offset) {
            Ok(()) => self.state.telemetry.repositioned(&partition.name, offset),
            Err(error) => {
                self.state.telemetry.postponed(&partition.name, &error.to_string());
                partition.stand(Standing::Unknown(error.to_string()), self.state.now);
            }
        }
    }

    fn begin_flushes(&mut self) {
        let (bytes, interval) = (self.state.settings.flush_bytes, self.state.settings.flush_interval);
        let now = self.state.now;
        let due = |at: &PartitionRef, partition: &Partition| {
            let wanted = self.targets.as_ref().and_then(|targets| targets.of(*at));
            partition.progress().is_some_and(|progress| {
                let reached = wanted.is_some_and(|target| progress.position() >= target);
                self.memory_is_short || reached || progress.is_due(bytes, interval, now)
            })
        };
        let due: Vec<PartitionRef> =
            self.state.partitions.iter().filter(|(at, partition)| due(at, partition)).map(|(at, _)| *at).collect();
        let is_confirmed = |at: &&PartitionRef| {
            self.state.partitions.get(*at).and_then(Partition::progress).is_none_or(Progress::is_confirmed)
        };
        let doubtful: BTreeSet<usize> = due.iter().filter(|at| !is_confirmed(at)).map(|at| at.topic).collect();
        for topic in doubtful {
            if self.confirms.get(&topic).is_none_or(|(may_ask_at, _)| *may_ask_at <= now) {
                self.confirm(topic);
            }
        }
        for at in due {
            self.begin_flush(at);
        }
    }

    /// Asks whether a topic is still the one whose records are buffered: only then are they flushed (**C1**, **C2**).
    ///
    /// The client reads on where it was when a topic is deleted and created again, and says nothing: records of the new topic
    /// would stand in the old one's chain, and those before them would be lost. An id never comes again, so what was taken before
    /// a broker told the id is of that topic. Another id: what is buffered is dropped, and the new topic is read into its own chain.
    fn confirm(&mut self, topic: usize) {
        let began = Instant::now();
        let told = self.source.broker().topic_id(&self.state.topics[topic]);
        let now = Instant::now();
        let may_ask_after = if told.is_some() { (now - began) * CONFIRM_ONE_PART_IN } else { ASK_AGAIN_AFTER };
        self.confirms.insert(topic, (now + may_ask_after, now + CONFIRM_EVERY.max(may_ask_after)));
        // A topic that does not exist just now has none, and a broker that does not answer tells none.
        let Some(told) = told else { return };
        let mut others = Vec::new();
        for (at, partition) in self.state.partitions.iter_mut().filter(|(at, _)| at.topic == topic) {
            let name = partition.name.clone();
            let Some(progress) = partition.progress_mut() else { continue };
            if progress.tail.topic_id.as_ref().is_none_or(|known| *known == told) {
                progress.confirm();
            } else {
                self.state.telemetry.created_again(&name, &progress.tail.chain, progress.buffer.records());
                others.push(*at);
            }
        }
        for at in others {
            // What was to be reached was the end of a topic that is no more.
            self.targets = None;
            self.stand_again(at);
        }
    }

    fn begin_flush(&mut self, at: PartitionRef) {
        // Room first: a full queue leaves the buffer where it is.
        let Ok(room) = self.work.try_reserve() else { return };
        let Some(job) = self.state.partitions.get_mut(&at).and_then(|partition| partition.take_flush(at)) else {
            return;
        };
        self.state.flying_bytes += job.bytes;
        room.send(Work::Flush(Box::new(job)));
    }

    /// **B1**: above the bound reading pauses, and goes on below half of it; polling never stops, or the group would
    /// take the partitions away.
    fn keep_within_memory(&mut self) {
        let buffered = self.state.buffered_bytes();
        let bound = self.state.settings.memory_max;
        self.memory_is_short = buffered >= if self.memory_is_short { bound / 2 } else { bound };
        let ahead = self.state.settings.flush_bytes.saturating_mul(2);
        for (at, partition) in &mut self.state.partitions {
            let wanted = partition.progress().is_none_or(|progress| {
                self.memory_is_short || (progress.is_flying() && progress.buffer.bytes() >= ahead)
            });
            if wanted == partition.paused {
                continue;
            }
            let changed = if wanted { self.source.pause(*at) } else { self.source.resume(*at) };
            match changed {
                Ok(()) if wanted => self.state.telemetry.paused(&partition.name),
                Ok(()) => self.state.telemetry.resumed(&partition.name),
                Err(error) => {
                    self.state.telemetry.postponed(&partition.name, &error.to_string());
                    continue;
                }
            }
            partition.paused = wanted;
        }
    }

    /// Everything that is due: partitions' ends are confirmed, those not read are tried again, the status is published.
    fn look_over(&mut self) -> Result<(), Error> {
        let all = std::mem::take(&mut self.state.out_of_range);
        let now = self.state.now;
        self.confirm_all();
        let is_due = |partition: &Partition| partition.ask_at <= now || all;
        let partitions = self.state.partitions.iter().filter(|(_, partition)| is_due(partition));
        let mut due: Vec<(Instant, PartitionRef)> = partitions.map(|(at, partition)| (partition.ask_at, *at)).collect();
        // Those that have waited longest come first, so that none waits for ever.
        due.sort_unstable();
        let began = Instant::now();
        for (_, at) in due {
            if began.elapsed() >= LOOK_OVER_FOR && !all {
                break;
            }
            let is_read = self.state.partitions.get(&at).is_some_and(|partition| partition.progress().is_some());
            let asked = if is_read {
                self.ask_end(at, all)
            } else {
                self.stand_again(at);
                Ok(())
            };
            if let Err(error) = asked {
                if error.disposition() == Disposition::Stop {
                    return Err(error);
                }
                // The broker is away: the others would wait for it in vain, one time-out after the other.
                self.state.connected(false);
                break;
            }
        }
        self.publish_status();
        Ok(())
    }

    /// Asks for the topics that have not been asked for in a while.
    fn confirm_all(&mut self) {
        let now = self.state.now;
        let has_id = |progress: &Progress| progress.tail.topic_id.is_some();
        let of_partition =
            |(at, partition): (&PartitionRef, &Partition)| partition.progress().is_some_and(has_id).then_some(at.topic);
        let topics: BTreeSet<usize> = self.state.partitions.iter().filter_map(of_partition).collect();
        for topic in topics {
            let (_, ask_at) = *self.confirms.entry(topic).or_insert((now, now + CONFIRM_EVERY));
            if ask_at <= now {
                self.confirm(topic);
            }
        }
    }

    /// Asks for a partition's end. If it has been read to, that is stated; if its position is gone, it halts.
    fn ask_end(&mut self, at: PartitionRef, out_of_range: bool) -> Result<(), Error> {
        let now = self.state.now;
        let Some(partition) = self.state.partitions.get_mut(&at) else { return Ok(()) };
        partition.ask_at = now + ASK_AGAIN_AFTER;
        let Some(progress) = partition.progress().filter(|progress| progress.is_idle() || out_of_range) else {
            return Ok(());
        };
        let (position, mut reached) = (progress.position(), progress.tail.clone());
        reached.to = position;
        let asked_at = now_micros();
        let topic = &self.state.topics[at.topic];
        let marks = self.source.broker().watermarks(topic, at.partition)?;
        self.state.connected(true);
        let name = topic.name.clone();
        let Some(partition) = self.state.partitions.get_mut(&at) else { return Ok(()) };
        if let Standing::Halted(why) = judge(&name, at.partition, reached.clone(), marks) {
            // The broker's offsets may be those of another topic of that name.
            self.confirm(at.topic);
            let Some(partition) = self.state.partitions.get_mut(&at) else { return Ok(()) };
            if partition.progress().is_none_or(|progress| progress.tail.chain != reached.chain) {
                return Ok(());
            }
            self.state.telemetry.halted(&partition.name, &why);
            partition.stand(Standing::Halted(why), now);
            return Ok(());
        }
        if out_of_range {
            // The client has stopped reading it, or another partition; asking again is harmless.
            self.go_to(at, position);
            return Ok(());
        }
        if let Some(facts) = partition.on_broker_end(marks.high, asked_at) {
            partition.ask_at = now + self.state.settings.facts_interval;
            let chain = partition.progress().map(|progress| progress.tail.chain.clone()).unwrap_or_default();
            if self.work.try_send(Work::Facts { chain, facts }).is_err() {
                partition.ask_at = now + ASK_AGAIN_AFTER;
            }
        }
        Ok(())
    }

    fn stand_again(&mut self, at: PartitionRef) {
        let found = self.starts.resolve(&[at], self.source.broker());
        let Some(Start { standing, .. }) = found.into_iter().next() else { return };
        let Some(partition) = self.state.partitions.get_mut(&at) else { return };
        let ready = match &standing {
            Standing::Ready(tail) => Some(tail.clone()),
            Standing::Halted(_) | Standing::Unknown(_) => None,
        };
        partition.stand(standing, self.state.now);
        match ready {
            None => partition.ask_at = self.state.now + RETRY_HALTED_AFTER,
            Some(tail) => {
                self.state.telemetry.assigned(&partition.name, &tail.chain, tail.to);
                // A partition that waited is paused; it is resumed when memory is looked over next.
                self.go_to(at, tail.to);
            }
        }
    }

    fn is_caught_up(&mut self) -> Result<bool, Error> {
        if self.targets.is_none() {
            self.targets = Targets::take(&self.state.topics, self.source.broker())?;
        }
        let Some(targets) = &mut self.targets else { return Ok(false) };
        let Some(outcome) = targets.check(&self.state, &self.starts, self.source.broker())? else { return Ok(false) };
        if !outcome.halted.is_empty() {
            return Err(Error::Halted(outcome.halted));
        }
        self.state.telemetry.caught_up(outcome.partitions);
        Ok(true)
    }

    /// Flushes everything and waits for it, in bounded time.
    fn drain(&mut self) {
        let deadline = Instant::now() + DRAIN_FOR;
        let is_doubtful = |progress: &Progress| progress.buffer.records() > 0 && !progress.is_confirmed();
        let partitions = self.state.partitions.iter();
        let doubtful = partitions.filter(|(_, partition)| partition.progress().is_some_and(is_doubtful));
        let doubtful: BTreeSet<usize> = doubtful.map(|(at, _)| at.topic).collect();
        doubtful.into_iter().for_each(|topic| self.confirm(topic));
        loop {
            let all: Vec<PartitionRef> = self.state.partitions.keys().copied().collect();
            for at in all {
                self.begin_flush(at);
            }
            // What a broker that is away cannot confirm stays with it, and is read again.
            let busy = |partition: &Partition| {
                partition.progress().is_some_and(|progress| progress.is_flying() || progress.is_flushable())
            };
            if !self.state.partitions.values().any(busy) || Instant::now() >= deadline {
                return;
            }
            std::thread::sleep(Duration::from_millis(2));
            self.state.tick();
            if self.take_flushes().is_err() {
                return;
            }
        }
    }

    fn ask_all_ends(&mut self) {
        let all: Vec<PartitionRef> = self.state.partitions.keys().copied().collect();
        for at in all {
            if self.ask_end(at, false).is_err() {
                return;
            }
        }
    }

    fn publish_status(&self) {
        let mut partitions = BTreeMap::new();
        for partition in self.state.partitions.values() {
            let status = partition.status();
            if let Some(lag) = status.lag() {
                self.state.telemetry.lag(&partition.name, lag);
            }
            partitions.insert(partition.name.clone(), status);
        }
        self.status.set_partitions(partitions);
    }
}

impl State {
    /// Time is read once a round, not once a record.
    fn tick(&mut self) {
        self.now = Instant::now();
        self.decoded_at = now_micros();
    }

    fn on_event(&mut self, event: SourceEvent<'_>) {
        match event {
            SourceEvent::Record(at, record) => {
                if let Some(partition) = self.partitions.get_mut(&at) {
                    partition.on_record(&record, self.decoded_at, self.now);
                }
            }
            SourceEvent::Assigned(starts) => starts.into_iter().for_each(|start| self.assign(start)),
            SourceEvent::Revoked(partitions) => partitions.into_iter().for_each(|at| self.revoke(at)),
            SourceEvent::Progress { partition, read_to, broker_end } => {
                if let Some(partition) = self.partitions.get_mut(&partition) {
                    partition.on_progress(read_to, broker_end);
                }
            }
            SourceEvent::OutOfRange => self.out_of_range = true,
            SourceEvent::Connected(yes) => self.connected(yes),
            SourceEvent::Refused(why) => {
                if self.status.set_refused(&why) {
                    self.telemetry.refused(&why);
                }
            }
            SourceEvent::Granted => {
                self.connected(true);
                if self.status.set_granted() {
                    self.telemetry.granted();
                }
            }
        }
    }

    fn assign(&mut self, start: Start) {
        let topic = &self.topics[start.partition.topic];
        let name = TopicPartition::new(topic.name.clone(), start.partition.partition);
        match &start.standing {
            Standing::Ready(tail) => self.telemetry.assigned(&name, &tail.chain, tail.to),
            Standing::Halted(why) => self.telemetry.halted(&name, why),
            Standing::Unknown(why) => self.telemetry.postponed(&name, why),
        }
        self.generation += 1;
        let ready = matches!(start.standing, Standing::Ready(_));
        let mut partition = Partition::new(name, topic.kind, self.generation, start.standing, self.now);
        partition.paused = !ready;
        self.partitions.insert(start.partition, partition);
    }

    /// What is buffered is dropped: the chain is the truth, and the new owner reads it again (**C3**, **C4**).
    fn revoke(&mut self, at: PartitionRef) {
        if let Some(partition) = self.partitions.remove(&at) {
            let dropped = partition.progress().map_or(0, |progress| progress.buffer.records());
            self.telemetry.revoked(&partition.name, dropped);
        }
    }

    fn connected(&self, yes: bool) {
        if self.status.set_connected(yes) {
            self.telemetry.connected(yes);
        }
    }

    fn buffered_bytes(&self) -> usize {
        let held = |partition: &Partition| match &partition.reading {
            Reading::Yes(progress) => progress.buffer.bytes(),
            Reading::Halted(_) | Reading::Unknown => 0,
        };
        self.flying_bytes + self.partitions.values().map(held).sum::<usize>()
    }
}
