//! Dead letters on their way to their topic: published before the commit while that works, kept and tried again while it
//! does not. The chain waits for a letter once, not for a topic that stays shut.
use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use driftline_schemas::position::TopicPartition;

use crate::batch::RejectedEvent;
use crate::dead_letter::{DeadLetters, PUBLISH_WITHIN};
use crate::status::CollectorStatus;
use crate::telemetry::Telemetry;

/// Between two tries at letters that wait.
const TRY_EVERY: Duration = Duration::from_secs(3);
/// What the last try of a run may take.
const LAST_TRY: Duration = Duration::from_secs(5);
/// Payload bytes that may wait. What comes on top stays in the raw objects only.
const MAX_WAITING_BYTES: usize = 16 << 20;
/// What a letter counts besides its payload, so that empty ones have a bound as well.
const LETTER_BYTES: usize = 256;

/// The way out of rejected events.
pub(crate) struct Outbox {
    letters: Option<Box<dyn DeadLetters>>,
    waiting: Mutex<Waiting>,
    status: Arc<CollectorStatus>,
    telemetry: Telemetry,
}

/// In the order of their flushes.
#[derive(Default)]
struct Waiting {
    letters: VecDeque<Arc<Letters>>,
    bytes: usize,
}

/// The rejections of one flush.
struct Letters {
    origin: TopicPartition,
    rejections: Vec<RejectedEvent>,
    bytes: usize,
}

impl Outbox {
    /// `None` publishes nothing.
    pub(crate) fn new(
        letters: Option<Box<dyn DeadLetters>>,
        status: Arc<CollectorStatus>,
        telemetry: Telemetry,
    ) -> Self {
        Self { letters, waiting: Mutex::default(), status, telemetry }
    }

    /// Publishes the rejections of a flush that is not committed yet, or keeps them for later if the topic does not take
    /// them. Behind others that wait they queue at once.
    pub(crate) async fn publish(&self, origin: &TopicPartition, rejections: &[RejectedEvent]) {
        let Some(letters) = self.letters.as_deref().filter(|_| !rejections.is_empty()) else { return };
        if !self.waiting().letters.is_empty() || !self.attempt(letters, origin, rejections).await {
            self.keep(origin, rejections);
        }
    }

    /// Tries what waits, for as long as it is polled.
    pub(crate) async fn try_again(&self) -> Infallible {
        loop {
            tokio::time::sleep(TRY_EVERY).await;
            self.empty().await;
        }
    }

    /// The last try of a run. What still waits then is in the raw objects only.
    pub(crate) async fn finish(&self) {
        // The outcome is what still waits.
        let _ = tokio::time::timeout(LAST_TRY, self.empty()).await;
        for left in self.waiting().letters.drain(..) {
            self.telemetry.dead_letters_given_up(&left.origin, left.rejections.len());
        }
    }

    /// Publishes what waits, until it is refused.
    async fn empty(&self) {
        let Some(letters) = self.letters.as_deref() else { return };
        loop {
            let Some(first) = self.waiting().letters.front().cloned() else { return };
            if !self.attempt(letters, &first.origin, &first.rejections).await {
                return;
            }
            let mut waiting = self.waiting();
            waiting.letters.pop_front();
            waiting.bytes -= first.bytes;
        }
    }

    async fn attempt(&self, letters: &dyn DeadLetters, origin: &TopicPartition, rejections: &[RejectedEvent]) -> bool {
        let published = tokio::time::timeout(PUBLISH_WITHIN, letters.publish(origin, rejections)).await;
        match published.unwrap_or_else(|_| Err(format!("no acknowledgement within {PUBLISH_WITHIN:?}"))) {
            Ok(()) => {
                self.status.set_letters_granted();
                self.telemetry.dead_letters_published(origin, rejections.len());
                true
            }
            Err(why) => {
                if self.status.set_letters_refused(&why) {
                    self.telemetry.dead_letters_failed(origin, &why);
                }
                false
            }
        }
    }

    /// Keeps as many as there is room for, the first ones.
    fn keep(&self, origin: &TopicPartition, rejections: &[RejectedEvent]) {
        let mut waiting = self.waiting();
        let room = MAX_WAITING_BYTES - waiting.bytes;
        let (mut bytes, mut kept) = (0, 0);
        for event in rejections {
            let size = event.payload.len() + LETTER_BYTES;
            if bytes + size > room {
                break;
            }
            bytes += size;
            kept += 1;
        }
        let (kept, left_out) = rejections.split_at(kept);
        if !kept.is_empty() {
            waiting.bytes += bytes;
            waiting.letters.push_back(Arc::new(Letters { origin: origin.clone(), rejections: kept.to_vec(), bytes }));
        }
        if !left_out.is_empty() {
            self.telemetry.dead_letters_given_up(origin, left_out.len());
        }
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use async_trait::async_trait;
    use driftline_schemas::event::Reason;

    use super::*;
    use crate::decode::Rejection;

    /// A topic that is shut or open, and what it took.
    #[derive(Clone, Default)]
    struct Topic {
        open: Arc<AtomicBool>,
        took: Arc<Mutex<Vec<i64>>>,
    }

    #[async_trait]
    impl DeadLetters for Topic {
        async fn publish(&self, _: &TopicPartition, rejections: &[RejectedEvent]) -> Result<(), String> {
            if !self.open.load(Ordering::Relaxed) {
                return Err("shut".to_owned());
            }
            self.took.lock().unwrap().extend(rejections.iter().map(|event| event.offset));
            Ok(())
        }
    }

    fn outbox(topic: &Topic) -> (Outbox, Arc<CollectorStatus>) {
        let status = Arc::<CollectorStatus>::default();
        (Outbox::new(Some(Box::new(topic.clone())), Arc::clone(&status), Telemetry::default()), status)
    }

    fn rejected(offset: i64, bytes: usize) -> Vec<RejectedEvent> {
        let rejection = Rejection { reason: Reason::NotJson, detail: String::new() };
        vec![RejectedEvent { offset, index: 0, kafka_timestamp: None, rejection, payload: vec![0; bytes] }]
    }

    fn origin() -> TopicPartition {
        TopicPartition { topic: "t".into(), partition: 0 }
    }

    #[tokio::test]
    async fn letters_wait_for_a_topic_that_is_shut_and_go_out_in_order_when_it_opens() {
        let topic = Topic::default();
        let (outbox, status) = outbox(&topic);
        for offset in 0..3 {
            outbox.publish(&origin(), &rejected(offset, 10)).await;
        }
        assert_eq!(status.letters_refused().as_deref(), Some("shut"));
        topic.open.store(true, Ordering::Relaxed);
        // Behind those that wait, though the topic would take it.
        outbox.publish(&origin(), &rejected(3, 10)).await;
        assert!(topic.took.lock().unwrap().is_empty());
        outbox.empty().await;
        assert_eq!(*topic.took.lock().unwrap(), [0, 1, 2, 3]);
        assert_eq!((status.letters_refused(), outbox.waiting().bytes), (None, 0));
        outbox.publish(&origin(), &rejected(4, 10)).await;
        assert_eq!(topic.took.lock().unwrap().last(), Some(&4), "at once again");
    }

    #[tokio::test]
    async fn what_waits_is_bounded_and_the_end_of_a_run_tries_once_more() {
        let topic = Topic::default();
        let (outbox, _) = outbox(&topic);
        for offset in 0..40 {
            outbox.publish(&origin(), &rejected(offset, 1 << 20)).await;
        }
        assert!(outbox.waiting().bytes <= MAX_WAITING_BYTES);
        topic.open.store(true, Ordering::Relaxed);
        outbox.finish().await;
        assert_eq!(*topic.took.lock().unwrap(), (0..15).collect::<Vec<_>>(), "the first ones, not the last");
    }

    #[tokio::test]
    async fn of_a_flush_that_does_not_fit_its_first_letters_wait() {
        let topic = Topic::default();
        let (outbox, _) = outbox(&topic);
        let flush: Vec<RejectedEvent> = (0..40).flat_map(|offset| rejected(offset, 1 << 20)).collect();
        outbox.publish(&origin(), &flush).await;
        topic.open.store(true, Ordering::Relaxed);
        outbox.finish().await;
        assert_eq!(*topic.took.lock().unwrap(), (0..15).collect::<Vec<_>>());
    }
}
