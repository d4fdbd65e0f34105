//! A model's chain of alerts: one record for each step in which something happened, created if absent. Of two workers that come
//! to the same end one wins the slot, and the other reads what it decided: nobody is told twice by mistake.
use async_trait::async_trait;
use bytes::Bytes;
use driftline_schemas::clock::Micros;
use driftline_schemas::config::Sink;
use driftline_store::{Appended, Chain, Object, Store, paths};
use serde::{Deserialize, Serialize};

use crate::Error;
use crate::deliver::Feed;
use crate::life::{State, Transition};
use crate::message::{Message, messages, told};

/// The newest format of records.
const FORMAT: u32 = 1;

/// One record.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// How it is written.
    pub format: u32,
    /// Its place in the chain.
    pub seq: u64,
    /// When it was written, microseconds.
    pub at: Micros,
    /// Who wrote it, for people.
    pub writer: String,
    /// The share of false findings that the budget gave to the window of each transition.
    #[serde(default)]
    pub budget_shares: Vec<Option<f64>>,
    /// What happened.
    pub transitions: Vec<Transition>,
    /// All that is known after it: a reader needs the last record only.
    pub state: State,
}

/// The chain, as far as it has been read.
pub struct Log {
    chain: Chain,
    /// The next free slot as far as is known.
    pub next: u64,
    /// What the last record leaves.
    pub state: State,
}

impl Log {
    /// Opens a model's chain, reading from the last record that is known to stand: `from` is a number of records that
    /// there have been.
    ///
    /// # Returns
    /// The records read, too.
    pub async fn open(store: &Store, model: &str, from: u64) -> Result<(Self, Vec<Record>), Error> {
        let mut log = Self { next: from.saturating_sub(1), ..Self::reader(store, model) };
        let mut records = log.catch_up().await?;
        // The advice was wrong: that of another store, say.
        if log.next < from {
            log.next = 0;
            records = log.catch_up().await?;
        }
        Ok((log, records))
    }

    /// A chain of which single records are read.
    pub fn reader(store: &Store, model: &str) -> Self {
        let chain = Chain::new(store.clone(), paths::alerting(model), ".json");
        Self { chain, next: 0, state: State::default() }
    }

    /// Reads on to the end, and returns what it has read.
    pub async fn catch_up(&mut self) -> Result<Vec<Record>, Error> {
        let mut records = Vec::new();
        while let Some(record) = self.read(self.next).await? {
            self.state.clone_from(&record.state);
            self.next += 1;
            records.push(record);
        }
        Ok(records)
    }

    /// A record, if it has been written.
    pub async fn read(&self, seq: u64) -> Result<Option<Record>, Error> {
        self.chain.read(seq).await?.map(|object| self.parse(seq, &object)).transpose()
    }

    fn parse(&self, seq: u64, object: &Object) -> Result<Record, Error> {
        let path = || self.chain.slot(seq);
        let mut record: Record =
            serde_json::from_slice(&object.bytes).map_err(|source| Error::Json { path: path(), source })?;
        if record.format > FORMAT {
            return Err(Error::Format { path: path(), format: record.format, known: FORMAT });
        }
        record.state.settle();
        Ok(record)
    }

    /// Appends what happened.
    ///
    /// # Returns
    /// The record; or those of others that have the slot and those after it: decide again.
    pub async fn append(
        &mut self,
        writer: &str,
        at: Micros,
        transitions: &[Transition],
        budget_shares: Vec<Option<f64>>,
        state: &State,
    ) -> Result<Result<Record, Vec<Record>>, Error> {
        let record = Record {
            format: FORMAT,
            seq: self.next,
            at,
            writer: writer.to_owned(),
            budget_shares,
            transitions: transitions.to_vec(),
            state: state.clone(),
        };
        let path = self.chain.slot(self.next);
        let bytes = serde_json::to_vec(&record).map_err(|source| Error::Json { path, source })?;
        match self.chain.append(self.next, Bytes::from(bytes)).await? {
            Appended::Mine => {
                self.state.clone_from(&record.state);
                self.next += 1;
                Ok(Ok(record))
            }
            Appended::Theirs(_) => Ok(Err(self.catch_up().await?)),
        }
    }
}

/// A model's chain, as sinks follow it.
pub(crate) struct Alerts {
    log: Log,
    model: String,
    external_url: Option<String>,
}

impl Alerts {
    pub(crate) fn new(store: &Store, model: &str, external_url: Option<String>) -> Self {
        Self { log: Log::reader(store, model), model: model.to_owned(), external_url }
    }
}

#[async_trait]
impl Feed for Alerts {
    fn name(&self) -> &str {
        &self.model
    }

    fn noted_at(&self, sink: &str) -> String {
        paths::alerting_sent(&self.model, sink)
    }

    async fn messages(&self, seq: u64, sink: &Sink) -> Result<Option<(Micros, Vec<Message>)>, Error> {
        let Some(record) = self.log.read(seq).await? else { return Ok(None) };
        let told = told(sink, &record.transitions);
        let url = self.external_url.as_deref();
        Ok(Some((record.at, messages(sink, &self.model, seq, record.at, &told, &record.state, url))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::life::Kind;
    use crate::message::example;

    async fn append(log: &mut Log, writer: &str, kind: Kind) -> Result<Record, Vec<Record>> {
        let state = log.state.clone();
        log.append(writer, 7, &[example(kind)], vec![Some(0.1)], &state).await.expect("the store answers")
    }

    #[tokio::test]
    async fn c3_of_two_workers_one_has_the_slot_and_the_other_learns_what_was_decided() {
        let store = Store::in_memory();
        let (mut a, _) = Log::open(&store, "m", 0).await.expect("opened");
        let (mut b, _) = Log::open(&store, "m", 0).await.expect("opened");
        let first = append(&mut a, "a", Kind::Firing).await.expect("a was first");
        let theirs = append(&mut b, "b", Kind::Firing).await.expect_err("b was second");
        assert_eq!((first.seq, theirs, b.next), (0, vec![first.clone()], 1));
        let second = append(&mut b, "b", Kind::Resolved).await.expect("the next slot");
        assert_eq!((second.seq, second.writer.as_str()), (1, "b"));
        // Whoever opens it reads from where it is told, and from the beginning if that leads nowhere.
        for (from, wanted) in [(0, vec![0, 1]), (2, vec![1]), (9, vec![0, 1])] {
            let (log, records) = Log::open(&store, "m", from).await.expect("opened");
            assert_eq!((log.next, records.iter().map(|record| record.seq).collect::<Vec<_>>()), (2, wanted), "{from}");
        }
    }

    #[tokio::test]
    async fn a_record_of_a_newer_build_is_not_guessed_at() {
        let store = Store::in_memory();
        let (mut log, _) = Log::open(&store, "m", 0).await.expect("opened");
        let mut record = append(&mut log, "a", Kind::Firing).await.expect("written");
        record.format = FORMAT + 1;
        let path = format!("{}/{:020}.json", paths::alerting("m"), 1);
        store.put(&path, serde_json::to_vec(&record).expect("JSON").into()).await.expect("written");
        assert!(matches!(log.catch_up().await, Err(Error::Format { .. })));
    }
}
