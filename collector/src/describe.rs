//! What the broker tells of a topic and of a group that the client library knows and its safe wrapper does not ask for:
//! the topic's id, and what we may do with either.
//!
//! Brokers without topic ids (before Kafka 2.8, and small broker libraries) give none, and neither does an error: a
//! chain's name then rests on the topic's name alone, until a broker tells an id. What a broker does not tell of our rights
//! is taken as granted: it will say so when it refuses.
use std::ffi::{CStr, CString};

use rdkafka::ClientContext;
use rdkafka::bindings as sys;
use rdkafka::client::Client;
use rdkafka::error::RDKafkaErrorCode;
use rdkafka::types::RDKafka;

/// How long the broker may take. Assignments wait for this.
const ASK_FOR_MILLIS: i32 = 3_000;

/// Kafka's word for "no id": sixteen zero bytes in base64.
const NO_ID: &str = "AAAAAAAAAAAAAAAAAAAAAA";

/// A thing that may be done, by Kafka's number of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Operation {
    Read = 3,
    Write = 4,
    Create = 5,
    DescribeConfigs = 10,
}

/// What the broker said of a topic or a group.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Described {
    /// The topic's id, in base64 as Kafka's own tools print it.
    pub(crate) id: Option<String>,
    /// Kafka's numbers of all that we may do; `None` if the broker did not say.
    operations: Option<Vec<i32>>,
    /// Why it said nothing.
    pub(crate) error: Option<RDKafkaErrorCode>,
}

impl Described {
    /// Whether the broker said what we may do.
    pub(crate) fn is_told(&self) -> bool {
        self.operations.is_some()
    }

    /// Whether the broker said that we may not.
    pub(crate) fn forbids(&self, operation: Operation) -> bool {
        match self.error {
            Some(RDKafkaErrorCode::TopicAuthorizationFailed | RDKafkaErrorCode::GroupAuthorizationFailed) => true,
            Some(_) => false,
            None => self.operations.as_ref().is_some_and(|all| !all.contains(&(operation as i32))),
        }
    }
}

/// Asks for a topic. Nothing is known of it if the broker does not answer.
#[allow(unsafe_code)] // rdkafka 0.39 wraps every admin call but the descriptions, and its metadata has neither ids nor rights
pub(crate) fn topic<C: ClientContext>(client: &Client<C>, name: &str) -> Described {
    let Ok(name) = CString::new(name) else { return Described::default() };
    let send = |client: *mut RDKafka, options, queue| {
        let mut names = [name.as_ptr()];
        // SAFETY: the name outlives the collection, which copies it, as the call copies the collection.
        unsafe {
            let topics = sys::rd_kafka_TopicCollection_of_topic_names(names.as_mut_ptr(), names.len());
            sys::rd_kafka_DescribeTopics(client, topics, options, queue);
            sys::rd_kafka_TopicCollection_destroy(topics);
        }
    };
    let Some(event) = ask(client, sys::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_DESCRIBETOPICS, send) else {
        return Described::default();
    };
    // SAFETY: the result, its topics, their ids and their operations belong to the event, which lives to the end of this
    // block; each pointer is null, or valid for as long as the event. What is kept is copied.
    unsafe {
        let result = sys::rd_kafka_event_DescribeTopics_result(event.0);
        let mut count = 0;
        let topics = if result.is_null() {
            std::ptr::null_mut()
        } else {
            sys::rd_kafka_DescribeTopics_result_topics(result, &raw mut count)
        };
        if topics.is_null() || count == 0 {
            return Described { error: event.error(), ..Described::default() };
        }
        let topic = *topics;
        if let Some(error) = code_of(sys::rd_kafka_TopicDescription_error(topic)) {
            return Described { error: Some(error), ..Described::default() };
        }
        let id = sys::rd_kafka_TopicDescription_topic_id(topic);
        let text = if id.is_null() { std::ptr::null() } else { sys::rd_kafka_Uuid_base64str(id) };
        let id = if text.is_null() { None } else { CStr::from_ptr(text).to_str().ok().map(str::to_owned) };
        let mut count = 0;
        let operations = sys::rd_kafka_TopicDescription_authorized_operations(topic, &raw mut count);
        Described { id: id.filter(|id| id != NO_ID), operations: numbers(operations, count), error: None }
    }
}

/// Asks for a consumer group.
#[allow(unsafe_code)] // see `topic`
pub(crate) fn group<C: ClientContext>(client: &Client<C>, name: &str) -> Described {
    let Ok(name) = CString::new(name) else { return Described::default() };
    let send = |client: *mut RDKafka, options, queue| {
        let mut names = [name.as_ptr()];
        // SAFETY: the names outlive the call, which copies them.
        unsafe { sys::rd_kafka_DescribeConsumerGroups(client, names.as_mut_ptr(), names.len(), options, queue) };
    };
    let Some(event) = ask(client, sys::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_DESCRIBECONSUMERGROUPS, send) else {
        return Described::default();
    };
    // SAFETY: as in `topic`.
    unsafe {
        let result = sys::rd_kafka_event_DescribeConsumerGroups_result(event.0);
        let mut count = 0;
        let groups = if result.is_null() {
            std::ptr::null_mut()
        } else {
            sys::rd_kafka_DescribeConsumerGroups_result_groups(result, &raw mut count)
        };
        if groups.is_null() || count == 0 {
            return Described { error: event.error(), ..Described::default() };
        }
        let group = *groups;
        if let Some(error) = code_of(sys::rd_kafka_ConsumerGroupDescription_error(group)) {
            return Described { error: Some(error), ..Described::default() };
        }
        let mut count = 0;
        let operations = sys::rd_kafka_ConsumerGroupDescription_authorized_operations(group, &raw mut count);
        Described { operations: numbers(operations, count), ..Described::default() }
    }
}

/// An answer, destroyed when it goes out of scope.
struct Event(*mut sys::rd_kafka_event_t);

impl Event {
    #[allow(unsafe_code)] // reads a field of the event
    fn error(&self) -> Option<RDKafkaErrorCode> {
        // SAFETY: the event is live until it is dropped.
        let code = unsafe { sys::rd_kafka_event_error(self.0) };
        (code != sys::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR).then(|| code.into())
    }
}

impl Drop for Event {
    #[allow(unsafe_code)] // frees the event
    fn drop(&mut self) {
        // SAFETY: the event came from `rd_kafka_queue_poll`, which gives it away, and nothing else destroys it.
        unsafe { sys::rd_kafka_event_destroy(self.0) }
    }
}

/// Asks, with our rights included, and waits for the answer.
#[allow(unsafe_code)] // see `topic`
fn ask<C: ClientContext>(
    client: &Client<C>,
    operation: sys::rd_kafka_admin_op_t,
    send: impl FnOnce(*mut RDKafka, *const sys::rd_kafka_AdminOptions_t, *mut sys::rd_kafka_queue_t),
) -> Option<Event> {
    let client: *mut RDKafka = client.native_ptr();
    // SAFETY: every pointer comes from the call right before it, is checked for null where the API allows null, is used
    // only while what owns it lives, and is destroyed exactly once, in reverse order. The client outlives the call, for the
    // caller borrows it.
    unsafe {
        let options = sys::rd_kafka_AdminOptions_new(client, operation);
        sys::rd_kafka_AdminOptions_set_request_timeout(options, ASK_FOR_MILLIS, std::ptr::null_mut(), 0);
        let refused = sys::rd_kafka_AdminOptions_set_include_authorized_operations(options, 1);
        if !refused.is_null() {
            sys::rd_kafka_error_destroy(refused);
        }
        let queue = sys::rd_kafka_queue_new(client);
        send(client, options, queue);
        let event = sys::rd_kafka_queue_poll(queue, ASK_FOR_MILLIS + 500);
        sys::rd_kafka_queue_destroy(queue);
        sys::rd_kafka_AdminOptions_destroy(options);
        (!event.is_null()).then_some(Event(event))
    }
}

/// # Safety
/// `error` is null or a live error.
#[allow(unsafe_code)] // reads a field of the error
unsafe fn code_of(error: *const sys::rd_kafka_error_t) -> Option<RDKafkaErrorCode> {
    if error.is_null() {
        return None;
    }
    // SAFETY: not null, and live by contract.
    let code = unsafe { sys::rd_kafka_error_code(error) };
    (code != sys::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR).then(|| code.into())
}

/// The numbers are read as numbers: a broker newer than the library may name an operation that its enumeration lacks.
///
/// # Safety
/// `operations` is null or points to `count` live operations.
#[allow(unsafe_code)] // reads an array of C
unsafe fn numbers(operations: *const sys::rd_kafka_AclOperation_t, count: usize) -> Option<Vec<i32>> {
    if operations.is_null() {
        return None;
    }
    // SAFETY: not null, and of that length by contract; a C enumeration has the size of an `int`.
    Some(unsafe { std::slice::from_raw_parts(operations.cast::<i32>(), count) }.to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_a_broker_says_is_missing_is_missing() {
        let silent = Described::default();
        assert!(!silent.forbids(Operation::Read), "a broker that says nothing forbids nothing");
        let told = Described { operations: Some(vec![4, 8]), ..Described::default() };
        assert!(told.forbids(Operation::Read) && !told.forbids(Operation::Write));
        let hidden = Described { error: Some(RDKafkaErrorCode::TopicAuthorizationFailed), ..Described::default() };
        assert!(hidden.forbids(Operation::Read));
        let absent = Described { error: Some(RDKafkaErrorCode::UnknownTopicOrPartition), ..Described::default() };
        assert!(!absent.forbids(Operation::Read), "what does not exist is another matter");
    }
}
