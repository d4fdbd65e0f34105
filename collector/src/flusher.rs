//! The asynchronous half of the collector: encodes full buffers, appends them to their chains, and states facts.
//!
//! At most one flush of a partition is under way, so a chain is appended to in order; several partitions flush together.
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use driftline_schemas::clock::{Micros, now_micros};
use driftline_schemas::raw::Facts;
use driftline_store::Store;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use tokio::sync::mpsc;

use crate::batch::{PartitionBuffer, SealedBatch};
use crate::chain;
use crate::error::{Disposition, Error};
use crate::flush::{self, Appended, EncodedObject};
use crate::outbox::Outbox;
use crate::source::PartitionRef;
use crate::status::CollectorStatus;
use crate::telemetry::Telemetry;

/// Flushes under way at a time. More would hold more encoded objects in memory than the network can carry.
const FLUSHES_AT_ONCE: usize = 4;
/// Between two tries at a store that does not answer; the store itself has retried for seconds before.
const RETRY_AFTER: Duration = Duration::from_millis(500);

/// What the stage asks for.
pub(crate) enum Work {
    Flush(Box<FlushJob>),
    Facts { chain: String, facts: Facts },
}

/// A full buffer on its way into its chain.
pub(crate) struct FlushJob {
    pub(crate) at: PartitionRef,
    /// Which assignment of the partition this is: an answer to an earlier one is of no interest.
    pub(crate) generation: u64,
    pub(crate) chain: String,
    pub(crate) topic_id: Option<String>,
    pub(crate) buffer: PartitionBuffer,
    /// `written_at` of the chain's previous object: a chain's clock does not go back.
    pub(crate) not_before: Micros,
    pub(crate) bytes: usize,
}

/// What came of a flush.
pub(crate) struct FlushDone {
    pub(crate) at: PartitionRef,
    pub(crate) generation: u64,
    pub(crate) from: i64,
    pub(crate) to: i64,
    pub(crate) written_at: Micros,
    pub(crate) bytes: usize,
    pub(crate) appended: Appended,
}

/// What the flusher works with.
pub(crate) struct Flusher {
    pub(crate) store: Store,
    pub(crate) telemetry: Telemetry,
    pub(crate) status: Arc<CollectorStatus>,
    pub(crate) outbox: Outbox,
}

/// Works until the stage hangs up, then finishes what is under way.
pub(crate) async fn run(
    flusher: Flusher,
    mut work: mpsc::Receiver<Work>,
    done: mpsc::Sender<FlushDone>,
) -> Result<(), Error> {
    let mut under_way = FuturesUnordered::new();
    let mut letters = pin!(flusher.outbox.try_again());
    let mut open = true;
    while open || !under_way.is_empty() {
        tokio::select! {
            next = work.recv(), if open && under_way.len() < FLUSHES_AT_ONCE => match next {
                Some(next) => under_way.push(flusher.carry_out(next)),
                None => open = false,
            },
            Some(finished) = under_way.next() => {
                if let Some(finished) = finished? {
                    // A stage that is gone no longer needs the answer: the object stands.
                    let _ = done.send(finished).await;
                }
            }
            never = &mut letters => match never {},
        }
    }
    flusher.outbox.finish().await;
    Ok(())
}

impl Flusher {
    async fn carry_out(&self, work: Work) -> Result<Option<FlushDone>, Error> {
        match work {
            Work::Flush(job) => self.flush(*job).await.map(Some),
            Work::Facts { chain, facts } => {
                if let Err(error) = chain::write_facts(&self.store, &chain, &facts).await {
                    self.telemetry.facts_failed(&chain, &error);
                }
                Ok(None)
            }
        }
    }

    async fn flush(&self, job: FlushJob) -> Result<FlushDone, Error> {
        let started = Instant::now();
        let FlushJob { at, generation, chain, topic_id, buffer, not_before, bytes } = job;
        let writer = uuid::Uuid::new_v4().to_string();
        let encode = move || {
            let sealed = buffer.seal(now_micros().max(not_before))?;
            flush::encode(&sealed, &chain, topic_id.as_deref(), &writer).map(|object| (sealed, object))
        };
        let (sealed, object) = tokio::task::spawn_blocking(encode).await.map_err(|_| Error::Ended("encoder"))??;
        // Before the commit: a process that dies between the two publishes them again, instead of never.
        self.outbox.publish(&sealed.partition, &sealed.rejections).await;
        let appended = self.append(&sealed, &object).await?;
        match &appended {
            Appended::Ours => {
                self.telemetry.flushed(&sealed, &object, started.elapsed());
                self.status.set_committed(now_micros());
            }
            Appended::Theirs(tail) => self.telemetry.slot_lost(&sealed.partition, sealed.from, tail.to),
        }
        let SealedBatch { from, to, written_at, .. } = sealed;
        Ok(FlushDone { at, generation, from, to, written_at, bytes, appended })
    }

    /// Tries until the store answers. The very same bytes are put each time, so an answer that was lost on the way is
    /// recognised as ours.
    async fn append(&self, sealed: &SealedBatch, object: &EncodedObject) -> Result<Appended, Error> {
        let mut failing = false;
        loop {
            match flush::append(&self.store, object).await {
                Err(error) if error.disposition() == Disposition::Retry => {
                    if !std::mem::replace(&mut failing, true) {
                        self.telemetry.flush_failed(&sealed.partition, &error);
                    }
                    self.status.set_store_ok(false);
                    tokio::time::sleep(RETRY_AFTER).await;
                }
                answer => {
                    if failing && answer.is_ok() {
                        self.telemetry.store_recovered(&sealed.partition);
                    }
                    self.status.set_store_ok(answer.is_ok());
                    return answer;
                }
            }
        }
    }
}
