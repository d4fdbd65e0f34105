//! A model's chain of alerts: one record for each step in which something happened, created if absent. Of two workers that come
//! to the same end one wins the slot, and the other reads what it decided: nobody is told twice by mistake.
use bytes::Bytes;
use driftline_schemas::clock::Micros;
use driftline_store::{Appended, Chain, Object, Store, paths};
use serde::{Deserialize, Serialize};

use crate::Error;
use crate::life::{State, Transition};

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
        let chain = Chain::new(store.clone(), paths::alerting(model), ".json");
        let mut log = Self { chain, next: from.saturating_sub(1), state: State::default() };
        let mut records = log.catch_up().await?;
        // The advice was wrong: that of another store, say.
        if log.next < from {
            log.next = 0;
            records = log.catch_up().await?;
        }
        Ok((log, records))
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
        let record: Record =
            serde_json::from_slice(&object.bytes).map_err(|source| Error::Json { path: path(), source })?;
        if record.format > FORMAT {
            return Err(Error::Format { path: path(), format: record.format, known: FORMAT });
        }
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
