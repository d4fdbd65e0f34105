//! The broker's id of a topic: the one thing that the client library knows and its safe wrapper does not ask for.
//!
//! Brokers without topic ids (before Kafka 2.8, and small broker libraries) give none, and neither does an error: a
//! chain's name then rests on the topic's name alone, until a broker tells an id.
use std::ffi::{CStr, CString};

use rdkafka::bindings as sys;
use rdkafka::types::RDKafka;

/// How long the broker may take. Assignments wait for this.
const ASK_FOR_MILLIS: i32 = 3_000;

/// Kafka's word for "no id": sixteen zero bytes in base64.
const NO_ID: &str = "AAAAAAAAAAAAAAAAAAAAAA";

/// The id of a topic, in base64 as Kafka's own tools print it; `None` if the broker gives none.
///
/// The client must be alive for as long as the call takes: callers borrow it from a live `Client`.
#[allow(unsafe_code)] // rdkafka 0.39 wraps every admin call but `DescribeTopics`, and its metadata has no ids
pub(crate) fn topic_id<C: rdkafka::ClientContext>(client: &rdkafka::client::Client<C>, topic: &str) -> Option<String> {
    let name = CString::new(topic).ok()?;
    let client: *mut RDKafka = client.native_ptr();
    // SAFETY: every pointer comes from the call right before it, is checked for null where the API allows null, is used
    // only while what owns it lives, and is destroyed exactly once, in reverse order. The names outlive the collection,
    // which copies them. The client outlives the call, for the caller holds a reference to it.
    unsafe {
        let mut names = [name.as_ptr()];
        let topics = sys::rd_kafka_TopicCollection_of_topic_names(names.as_mut_ptr(), names.len());
        let options =
            sys::rd_kafka_AdminOptions_new(client, sys::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_DESCRIBETOPICS);
        sys::rd_kafka_AdminOptions_set_request_timeout(options, ASK_FOR_MILLIS, std::ptr::null_mut(), 0);
        let queue = sys::rd_kafka_queue_new(client);
        sys::rd_kafka_DescribeTopics(client, topics, options, queue);
        let event = sys::rd_kafka_queue_poll(queue, ASK_FOR_MILLIS + 500);
        let id = if event.is_null() { None } else { id_in(event) };
        if !event.is_null() {
            sys::rd_kafka_event_destroy(event);
        }
        sys::rd_kafka_queue_destroy(queue);
        sys::rd_kafka_AdminOptions_destroy(options);
        sys::rd_kafka_TopicCollection_destroy(topics);
        id.filter(|id| id != NO_ID)
    }
}

/// # Safety
/// `event` is a live event of any type.
#[allow(unsafe_code)]
unsafe fn id_in(event: *mut sys::rd_kafka_event_t) -> Option<String> {
    // SAFETY: the result, its topics and their ids belong to the event, which the caller keeps alive; each pointer is
    // null, or valid for as long as the event. The text is copied before the event goes.
    unsafe {
        let result = sys::rd_kafka_event_DescribeTopics_result(event);
        if result.is_null() || sys::rd_kafka_event_error(event) != sys::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR
        {
            return None;
        }
        let mut count = 0;
        let topics = sys::rd_kafka_DescribeTopics_result_topics(result, &raw mut count);
        if topics.is_null() || count == 0 {
            return None;
        }
        let error = sys::rd_kafka_TopicDescription_error(*topics);
        if !error.is_null() && sys::rd_kafka_error_code(error) != sys::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR {
            return None;
        }
        let id = sys::rd_kafka_TopicDescription_topic_id(*topics);
        if id.is_null() {
            return None;
        }
        let text = sys::rd_kafka_Uuid_base64str(id);
        if text.is_null() { None } else { CStr::from_ptr(text).to_str().ok().map(str::to_owned) }
    }
}
