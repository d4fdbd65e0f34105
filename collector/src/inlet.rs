//! Records out of the client by the hundred: a queue of our own, to which every assigned partition's queue leads.
//!
//! `BaseConsumer::poll` makes an event of each record, and takes a lock and the clock for each. rdkafka has no safe call that
//! takes several. Callbacks (rebalances, statistics, errors of the group) stay in the consumer's own queue, and are served by its
//! poll, on the same thread: none is called while records are taken.
//!
//! Why nothing is lost where a partition is paused, revoked or repositioned: each of these raises its version inside the client
//! before anybody is told, records of an older version are never taken, and what had been taken before is handed over at once.
//! So the position that the client goes on from is never beyond what was handed over. Records may come twice; a buffer
//! knows which it has. One exception: an error that has an offset, the end of a partition among them, moves that position
//! behind itself. So ends are not asked for as events, and after any other such error the position is said anew.
use std::ffi::CString;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicPtr, Ordering};
use std::time::Duration;

use rdkafka::ClientContext;
use rdkafka::bindings as sys;
use rdkafka::client::Client;
use rdkafka::error::RDKafkaErrorCode;
use rdkafka::types::RDKafkaRespErr;

use crate::source::RawRecord;

/// Records taken at once. Larger spares little more; smaller spares less.
const RECORDS_AT_ONCE: usize = 256;

/// Where the queues of assigned partitions lead; the callbacks know it, and it outlives none of them.
#[derive(Debug, Default)]
pub(crate) struct Destination(AtomicPtr<sys::rd_kafka_queue_t>);

impl Destination {
    /// Leads the queue of a partition here, with what waits in it. Comes before its assignment, which leaves a queue that leads
    /// elsewhere alone; the end of an assignment cuts it off. Where it leads here already, nothing changes.
    #[allow(unsafe_code)] // rdkafka wraps this only together with a queue for each partition
    pub(crate) fn receive<C: ClientContext>(&self, client: &Client<C>, topic: &str, partition: i32) {
        let (Some(queue), Ok(topic)) = (NonNull::new(self.0.load(Ordering::Acquire)), CString::new(topic)) else {
            return;
        };
        // SAFETY: the client lives; the queue is taken out of `self` before it is destroyed, by the thread that is here now. The
        // partition's queue is counted: our handle of it goes, the way that it leads stays.
        unsafe {
            let from = sys::rd_kafka_queue_get_partition(client.native_ptr(), topic.as_ptr(), partition);
            if !from.is_null() {
                sys::rd_kafka_queue_forward(from, queue.as_ptr());
                sys::rd_kafka_queue_destroy(from);
            }
        }
    }
}

/// What was taken: a record of a topic's partition, or an error of one.
pub(crate) enum Taken<'a> {
    /// A record; the topic as [`Inlet::take`] was told to name it.
    Record(usize, i32, RawRecord<'a>),
    /// What went wrong with some partition, and whether at an offset of its.
    Error { code: RDKafkaErrorCode, at_offset: bool },
}

/// The queue. It must go before the client that it was made of.
pub(crate) struct Inlet {
    queue: NonNull<sys::rd_kafka_queue_t>,
    destination: std::sync::Arc<Destination>,
    messages: Vec<*mut sys::rd_kafka_message_t>,
}

impl Inlet {
    /// A queue, and from now on the destination of partitions that are assigned.
    #[allow(unsafe_code)] // rdkafka has no call for it
    pub(crate) fn new<C: ClientContext>(client: &Client<C>, destination: std::sync::Arc<Destination>) -> Self {
        // SAFETY: the client lives.
        let queue = unsafe { sys::rd_kafka_queue_new(client.native_ptr()) };
        let queue = NonNull::new(queue).expect("librdkafka ends the process when it has no memory");
        destination.0.store(queue.as_ptr(), Ordering::Release);
        Self { queue, destination, messages: Vec::with_capacity(RECORDS_AT_ONCE) }
    }

    /// Waits up to `wait` for a record and hands over up to `at_most` that are there, in the order in which each partition has
    /// them. `topic_of` tells by which number a topic is known; records of others are left out.
    ///
    /// # Returns
    /// How many were taken, errors included.
    #[allow(unsafe_code)] // rdkafka takes records one by one only
    pub(crate) fn take(
        &mut self,
        wait: Duration,
        at_most: usize,
        topic_of: impl Fn(&str) -> Option<usize>,
        mut on: impl FnMut(Taken<'_>),
    ) -> usize {
        // A call that may take more than one waits until it has as many: the first is waited for alone.
        let (size, millis) =
            if wait.is_zero() { (RECORDS_AT_ONCE.min(at_most), 0) } else { (1, wait.as_millis() as i32) };
        self.messages.clear();
        // SAFETY: the queue lives as long as `self`, and there is room for as many pointers as the call may write, which it tells.
        unsafe {
            let queue = self.queue.as_ptr();
            let taken = sys::rd_kafka_consume_batch_queue(queue, millis, self.messages.as_mut_ptr(), size);
            self.messages.set_len(usize::try_from(taken).unwrap_or(0));
        }
        // Whatever `on` does, each message is destroyed once: those not yet handed over by the guard.
        let mut rest = Messages(&mut self.messages, 0);
        let mut known = None;
        while let Some(message) = rest.next() {
            // SAFETY: the client gave the message away; it, its topic and its payload are valid until it is destroyed, after this.
            let message = unsafe { &*message };
            if message.err != RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR {
                on(Taken::Error { code: message.err.into(), at_offset: message.offset >= 0 });
                continue;
            }
            let topic = match known {
                Some((rkt, topic)) if rkt == message.rkt => topic,
                _ => {
                    // SAFETY: as above; a topic's name ends in a zero.
                    let name = unsafe { std::ffi::CStr::from_ptr(sys::rd_kafka_topic_name(message.rkt)) };
                    let topic = name.to_str().ok().and_then(&topic_of);
                    known = Some((message.rkt, topic));
                    topic
                }
            };
            let Some(topic) = topic else { continue };
            // SAFETY: as above. No payload at all is a tombstone.
            let payload = (!message.payload.is_null())
                .then(|| unsafe { std::slice::from_raw_parts(message.payload.cast::<u8>(), message.len) });
            let mut kind = sys::rd_kafka_timestamp_type_t::RD_KAFKA_TIMESTAMP_NOT_AVAILABLE;
            // SAFETY: as above.
            let millis = unsafe { sys::rd_kafka_message_timestamp(message, &raw mut kind) };
            let is_told = kind != sys::rd_kafka_timestamp_type_t::RD_KAFKA_TIMESTAMP_NOT_AVAILABLE && millis >= 0;
            let timestamp = is_told.then(|| millis.saturating_mul(1000));
            on(Taken::Record(topic, message.partition, RawRecord { offset: message.offset, timestamp, payload }));
        }
        rest.0.len()
    }
}

impl Drop for Inlet {
    #[allow(unsafe_code)] // as it was made
    fn drop(&mut self) {
        self.destination.0.store(std::ptr::null_mut(), Ordering::Release);
        // SAFETY: nobody else has this handle, and the client still lives. Queues that lead here keep the queue itself, closed.
        unsafe { sys::rd_kafka_queue_destroy(self.queue.as_ptr()) };
    }
}

/// Messages that have been taken, of which the first so many have been looked at.
struct Messages<'m>(&'m mut Vec<*mut sys::rd_kafka_message_t>, usize);

impl Messages<'_> {
    /// The next one, which stays valid until the next call.
    fn next(&mut self) -> Option<*mut sys::rd_kafka_message_t> {
        self.destroy(self.1.saturating_sub(1)..self.1);
        let next = self.0.get(self.1).copied();
        self.1 += 1;
        next
    }

    #[allow(unsafe_code)] // a message that was taken by hand goes by hand
    fn destroy(&self, which: std::ops::Range<usize>) {
        for message in self.0.get(which).unwrap_or_default() {
            // SAFETY: each place is destroyed once, and nothing borrows of it any more.
            unsafe { sys::rd_kafka_message_destroy(*message) };
        }
    }
}

impl Drop for Messages<'_> {
    fn drop(&mut self) {
        // The one that was being looked at, and all behind it: there are some if a panic goes through here.
        self.destroy(self.1.saturating_sub(1)..self.0.len());
    }
}
