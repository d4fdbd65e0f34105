//! Where each partition is read from: its chain's end, found in the store while the assignment is being made.
//!
//! Called inside the rebalance callback, which is synchronous, on the thread that polls: it blocks on the runtime.
use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::Duration;

use driftline_schemas::clock::now;
use driftline_schemas::config::Start as StartSetting;
use driftline_schemas::event::EventKind;
use driftline_schemas::raw::Genesis;
use driftline_store::{Manifest, Store, TopicKind, chain_name};
use futures::{StreamExt, stream};
use tokio::runtime::Handle;

use crate::chain;
use crate::error::{Disposition, Error};
use crate::source::{Broker, ChainTail, PartitionRef, SourceTopic, Standing, Start, Starts, TopicState, Watermarks};

/// How many chains are walked at a time. More would only queue at the store's door.
const WALKS_AT_ONCE: usize = 16;
/// How long a rebalance waits for the store: the group evicts members that take minutes. A partition whose chain was
/// not found by then is asked for again, outside the callback.
const RESOLVE_FOR: Duration = Duration::from_secs(45);

/// Resolves starts from chains in a store.
pub struct ChainStarts {
    store: Store,
    topics: Vec<SourceTopic>,
    start: StartSetting,
    runtime: Handle,
    /// Chain keys of topics as they were last described, so that the manifest is read once a topic.
    known: Mutex<HashMap<usize, (TopicState, String)>>,
    /// An error that no waiting will mend; the stage stops on it.
    fatal: Mutex<Option<Error>>,
}

impl ChainStarts {
    /// Must be made inside a runtime, which it will block on.
    pub fn new(store: Store, topics: Vec<SourceTopic>, start: StartSetting) -> Self {
        Self { store, topics, start, runtime: Handle::current(), known: Mutex::default(), fatal: Mutex::default() }
    }

    /// The error that no waiting will mend, if one has occurred.
    pub fn take_fatal(&self) -> Option<Error> {
        self.fatal.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    pub(crate) fn runtime(&self) -> &Handle {
        &self.runtime
    }

    pub(crate) fn block_on<F: Future>(&self, work: F) -> F::Output {
        self.runtime.block_on(work)
    }

    /// The name of a partition's chain, registering its topic if it is new.
    pub fn chain_of(&self, at: PartitionRef, broker: &dyn Broker) -> Result<(String, Option<String>), Error> {
        let topic = &self.topics[at.topic];
        let state = broker.describe(topic)?;
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner).get(&at.topic).cloned();
        if let Some((_, key)) = known.filter(|(known, _)| *known == state && at.partition < state.partitions) {
            return Ok((chain_name(&key, at.partition), state.id));
        }
        let kind = match topic.kind {
            EventKind::Labels => TopicKind::Labels,
            EventKind::Predictions | EventKind::Reference => TopicKind::Predictions,
        };
        let partitions = state.partitions.max(at.partition + 1);
        let register = Manifest::register_topic(&self.store, &topic.name, kind, state.id.as_deref(), partitions, now());
        let (_, incarnation) = self.runtime.block_on(register)?;
        let name = chain_name(&incarnation.key, at.partition);
        let id = state.id.clone();
        self.known.lock().unwrap_or_else(PoisonError::into_inner).insert(at.topic, (state, incarnation.key));
        Ok((name, id))
    }

    /// The partition's chain and its end, its genesis created if it has none; and what the broker has.
    pub fn tail_of(&self, at: PartitionRef, broker: &dyn Broker) -> Result<(ChainTail, Watermarks), Error> {
        let (chain, topic_id) = self.chain_of(at, broker)?;
        let birth = self.birth(at, &chain, topic_id, broker)?;
        let applied = self.runtime.block_on(chain::applied_boundaries(&self.store))?;
        let tail =
            self.runtime.block_on(chain::seek_tail(&self.store, &chain, &birth, applied.get(&chain).copied()))?;
        Ok((tail, broker.watermarks(&self.topics[at.topic], at.partition)?))
    }

    /// How far a partition that another instance owns has come: its chain's end, and the position that its facts state.
    pub(crate) fn reached(&self, at: PartitionRef, broker: &dyn Broker) -> Result<(i64, Option<i64>), Error> {
        let (tail, _) = self.tail_of(at, broker)?;
        let facts = self.runtime.block_on(chain::read_facts(&self.store, &tail.chain))?;
        let at_the_end = facts.filter(|facts| facts.tail == tail.to).map(|facts| facts.position);
        Ok((tail.to, at_the_end))
    }

    fn birth(
        &self,
        at: PartitionRef,
        chain: &str,
        topic_id: Option<String>,
        broker: &dyn Broker,
    ) -> Result<Genesis, Error> {
        if let Some(genesis) = self.runtime.block_on(chain::read_genesis(&self.store, chain))? {
            return Ok(genesis);
        }
        let topic = &self.topics[at.topic];
        let from = match self.start {
            StartSetting::Earliest => broker.watermarks(topic, at.partition)?.low,
            StartSetting::Latest => broker.watermarks(topic, at.partition)?.high,
            StartSetting::At(time) => broker.offset_at(topic, at.partition, time)?,
        };
        let genesis = chain::genesis(&topic.name, topic_id, at.partition, from);
        self.runtime.block_on(chain::create_genesis(&self.store, chain, genesis))
    }

    fn resolve_all(&self, partitions: &[PartitionRef], broker: &dyn Broker) -> Vec<Start> {
        // What only the broker can answer is asked one by one; the walks, which are most of the work, run together.
        let mut births = Vec::new();
        let mut starts = Vec::new();
        for at in partitions {
            let birth = self.chain_of(*at, broker).and_then(|(chain, topic_id)| {
                let genesis = self.birth(*at, &chain, topic_id.clone(), broker)?;
                // A chain that was born at a broker without ids is read under the id that is known by now.
                let topic_id = topic_id.or_else(|| genesis.topic_id.clone());
                Ok((chain, Genesis { topic_id, ..genesis }))
            });
            match birth {
                Ok(birth) => births.push((*at, birth)),
                Err(error) => starts.push(Start { partition: *at, standing: self.not_yet(error) }),
            }
        }
        for (at, tail) in self.runtime.block_on(self.walk_all(births)) {
            let marks = || broker.watermarks(&self.topics[at.topic], at.partition);
            let standing = match tail.and_then(|tail| Ok((tail, marks()?))) {
                Ok((tail, marks)) => judge(&self.topics[at.topic].name, at.partition, tail, marks),
                Err(error) => self.not_yet(error),
            };
            starts.push(Start { partition: at, standing });
        }
        starts
    }

    async fn walk_all(
        &self,
        births: Vec<(PartitionRef, (String, Genesis))>,
    ) -> Vec<(PartitionRef, Result<ChainTail, Error>)> {
        // Without the advice the walk is longer, that is all.
        let applied = chain::applied_boundaries(&self.store).await.unwrap_or_default();
        let walks = births.into_iter().map(|(at, (chain, genesis))| {
            let applied = applied.get(&chain).copied();
            async move {
                let walk = chain::seek_tail(&self.store, &chain, &genesis, applied);
                let tail = tokio::time::timeout(RESOLVE_FOR, walk).await;
                (at, tail.unwrap_or(Err(Error::Ended("walk along a chain"))))
            }
        });
        stream::iter(walks).buffer_unordered(WALKS_AT_ONCE).collect().await
    }

    fn not_yet(&self, error: Error) -> Standing {
        let why = error.to_string();
        if error.disposition() == Disposition::Stop && !matches!(error, Error::Ended(_)) {
            self.fatal.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
        }
        Standing::Unknown(why)
    }
}

impl Starts for ChainStarts {
    fn resolve(&self, partitions: &[PartitionRef], broker: &dyn Broker) -> Vec<Start> {
        self.resolve_all(partitions, broker)
    }
}

/// Whether the broker still has, and already has, the offset at the chain's end.
pub(crate) fn judge(topic: &str, partition: u32, tail: ChainTail, marks: Watermarks) -> Standing {
    let (to, Watermarks { low, high }) = (tail.to, marks);
    if to < low {
        return Standing::Halted(format!(
            "offsets {to} to {low} of {topic}[{partition}] are not in the chain, and the broker has removed them \
             (retention was shorter than the outage); to give them up, on record, and go on at {low}: \
             `driftline collector accept-gap --topic {topic} --partition {partition}`"
        ));
    }
    if to > high {
        return Standing::Halted(format!(
            "the chain of {topic}[{partition}] ends at offset {to}, but the broker ends at {high}: records that Driftline has \
             were lost there (an unclean leader election), or the topic was deleted and created again by a broker without \
             topic ids; no offset may have two meanings, so `driftline collector accept-gap --topic {topic} --partition {partition}` \
             can help only when the broker is past {to} again; otherwise publish to a topic of another name"
        ));
    }
    Standing::Ready(tail)
}
