//! An operator gives up offsets that the broker no longer has: on record, as an object of the chain like any other.
use arrow::array::RecordBatch;
use driftline_schemas::clock::now_micros;
use driftline_schemas::event::EventKind;
use driftline_schemas::raw::{self, FORMAT, RawFooter, RawKind};
use driftline_store::Store;
use std::collections::BTreeMap;
use std::sync::Arc;

use crate::decode::DECODER_VERSION;
use crate::error::Error;
use crate::flush::{self, Appended};
use crate::kafka;
use crate::settings::CollectorSettings;
use crate::source::{Broker, ChainTail, PartitionRef};
use crate::starts::ChainStarts;

/// Writes the gap between a chain's end and the broker's first offset into the chain, and returns its footer.
///
/// # Errors
/// [`Error::NoGap`] if the broker still has the offset at the chain's end, or ends before it.
pub async fn accept_gap(
    settings: CollectorSettings,
    store: Store,
    topic: &str,
    partition: u32,
) -> Result<RawFooter, Error> {
    settings.validate()?;
    let topics = settings.topics();
    let Some(topic) = topics.iter().position(|known| known.name == topic) else {
        return Err(Error::Settings(vec![format!("topic `{topic}` is not one that the settings read")]));
    };
    let starts = Arc::new(ChainStarts::new(store.clone(), topics, settings.start));
    let at = PartitionRef { topic, partition };
    let asked = tokio::task::spawn_blocking(move || {
        let client = kafka::client(&settings, Arc::clone(&starts))?;
        accept(&store, &starts, &client, &settings, at)
    });
    asked.await.map_err(|_| Error::Ended("gap writer"))?
}

/// The same with any broker; blocks, so it must be called off the runtime's own threads.
pub(crate) fn accept(
    store: &Store,
    starts: &ChainStarts,
    broker: &dyn Broker,
    settings: &CollectorSettings,
    at: PartitionRef,
) -> Result<RawFooter, Error> {
    let topic = &settings.topics()[at.topic];
    let known = broker.describe(topic)?.partitions;
    if at.partition >= known {
        return Err(Error::NoGap {
            partition: format!("{}[{}]", topic.name, at.partition),
            reason: format!("the topic has {known} partition(s), the first of which is 0"),
        });
    }
    loop {
        let (tail, marks) = starts.tail_of(at, broker)?;
        if tail.to >= marks.low {
            return Err(Error::NoGap {
                partition: format!("{}[{}]", topic.name, at.partition),
                reason: format!("its chain ends at {}, and the broker has [{}, {})", tail.to, marks.low, marks.high),
            });
        }
        let footer = footer(&topic.name, at.partition, &tail, marks.low);
        let object = flush::encode_with(footer, &RecordBatch::new_empty(raw::schema(EventKind::Predictions)))?;
        // A collector may have appended meanwhile; then the question is asked anew.
        if let Appended::Ours = starts.block_on(flush::append(store, &object))? {
            return Ok(object.footer);
        }
    }
}

fn footer(topic: &str, partition: u32, tail: &ChainTail, low: i64) -> RawFooter {
    RawFooter {
        format: FORMAT,
        kind: RawKind::Gap,
        topic: topic.to_owned(),
        topic_id: tail.topic_id.clone(),
        chain: tail.chain.clone(),
        partition,
        from: tail.to,
        to: low,
        written_at: now_micros().max(tail.written_at.unwrap_or(i64::MIN)),
        writer: uuid::Uuid::new_v4().to_string(),
        decoder_version: DECODER_VERSION,
        records: 0,
        skipped_offsets: (low - tail.to) as u64,
        accepted: 0,
        rejected: BTreeMap::new(),
        ignored_fields: 0,
        gap_reason: Some("the broker no longer had these offsets; accepted by an operator".into()),
        models: Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chain;
    use crate::memory::MemoryLog;
    use driftline_store::Manifest;

    #[tokio::test(flavor = "multi_thread")]
    async fn c1_a_gap_is_a_link_of_the_chain() {
        let (store, log, settings) = (Store::in_memory(), MemoryLog::default(), CollectorSettings::default());
        let at = PartitionRef { topic: 0, partition: 0 };
        log.create_topic("driftline.predictions", Some("P"), 1);
        let missing = PartitionRef { topic: 0, partition: 7 };
        let starts = Arc::new(ChainStarts::new(store.clone(), settings.topics(), settings.start));
        let (asked_store, asked_log) = (store.clone(), log.clone());
        let ask_of = move |at| accept(&asked_store, &starts, &asked_log, &settings, at);
        let (ask_of_missing, ask_of_known) = (ask_of.clone(), ask_of.clone());
        let refused = tokio::task::spawn_blocking(move || ask_of_missing(missing)).await.unwrap();
        assert!(matches!(refused, Err(Error::NoGap { .. })), "{refused:?}");
        assert!(Manifest::load(&store).await.unwrap().is_none(), "a partition that is not there is not waited for");
        let ask = move || ask_of_known(at);
        let ask_again = move || ask_of(at);
        assert!(matches!(tokio::task::spawn_blocking(ask).await.unwrap(), Err(Error::NoGap { .. })));
        for _ in 0..30 {
            log.publish("driftline.predictions", 0, Some(b"{}"));
        }
        log.remove_before("driftline.predictions", 0, 20);
        let footer = tokio::task::spawn_blocking(ask_again).await.unwrap().unwrap();
        assert_eq!((footer.kind, footer.from, footer.to, footer.skipped_offsets), (RawKind::Gap, 0, 20, 20));
        assert!(footer.adds_up());
        let read = chain::read_footer(&store, &footer.chain, 0).await.unwrap();
        assert_eq!(read, Some(footer));
    }
}
