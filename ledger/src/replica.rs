//! One process's copy of the ledger: it reads on by known next names, and appends where the chain ends.
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use bytes::Bytes;
use driftline_schemas::clock::Micros;
use driftline_schemas::ledger::{Entry, LEDGER_FORMAT, LEDGER_FORMAT_FIRST, Record};
use driftline_store::{Appended, Boundary, Chain, Created, Store, paths};
use serde::{Deserialize, Serialize};

use crate::error::Error;
use crate::state::LedgerState;

/// A snapshot is written every so many records: fewer cost writes, more lengthen start-up.
const SNAPSHOT_EVERY: u64 = 1000;
/// A replica that has found no news for so long looks whether the ledger still has the slot that it waits at. More often
/// costs requests; more seldom, and a process that stood still shows an old picture for longer. It decides nothing by it.
const LOOK_EVERY: Duration = Duration::from_secs(60);

/// `ctl/latest.json`: a recent boundary, as advice.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Latest {
    /// Number of records in the snapshot.
    pub seq: u64,
    /// The snapshot's path.
    pub snapshot: String,
    /// Chain name → first offset that is not applied: a proven boundary of each raw chain.
    pub applied: BTreeMap<String, i64>,
}

/// What became of a record.
#[derive(Debug)]
pub enum Outcome {
    /// It stands, and the replica has applied it.
    Mine,
    /// Another record stands in its slot; the replica has applied that one.
    Theirs(Box<Record>),
}

/// A copy of the ledger's state.
pub struct Replica {
    store: Store,
    chain: Chain,
    writer: String,
    looked_at: Instant,
    /// What all records read so far add up to.
    pub state: LedgerState,
}

impl Replica {
    /// Opens the ledger: the newest snapshot that is known of, and all records after it.
    pub async fn open(store: &Store, writer: &str) -> Result<Self, Error> {
        let chain = Chain::new(store.clone(), paths::LEDGER, ".json");
        let boundary = Boundary::read(store, paths::LEDGER_BOUNDARY).await?.map_or(0, |boundary| boundary.to);
        let state = match newest_snapshot(store).await?.filter(|state| state.next_seq >= boundary) {
            Some(state) => state,
            None if boundary > 0 => first_snapshot(store, boundary).await?,
            None => LedgerState::default(),
        };
        let looked_at = Instant::now();
        let mut replica = Self { store: store.clone(), chain, writer: writer.to_owned(), looked_at, state };
        replica.catch_up().await?;
        Ok(replica)
    }

    /// A replica that goes on from a state that another has come to.
    pub fn at(store: &Store, writer: &str, state: LedgerState) -> Self {
        let chain = Chain::new(store.clone(), paths::LEDGER, ".json");
        Self { store: store.clone(), chain, writer: writer.to_owned(), looked_at: Instant::now(), state }
    }

    /// Applies all records that have been appended since.
    ///
    /// # Returns
    /// How many there were.
    pub async fn catch_up(&mut self) -> Result<u64, Error> {
        let mut records = 0;
        while let Some(object) = self.chain.read(self.state.next_seq).await? {
            let record = self.parse(&object.bytes)?;
            self.state.apply(&record);
            records += 1;
        }
        if records > 0 {
            self.looked_at = Instant::now();
        } else if self.looked_at.elapsed() > LOOK_EVERY {
            self.check_boundary(self.state.next_seq).await?;
            self.looked_at = Instant::now();
        }
        Ok(records)
    }

    /// Whether a slot lies behind the ledger's boundary: then this replica stood still while its records were deleted.
    async fn check_boundary(&self, seq: u64) -> Result<(), Error> {
        match Boundary::read(&self.store, paths::LEDGER_BOUNDARY).await? {
            Some(boundary) if boundary.to > seq => Err(Error::Behind { seq, boundary: boundary.to }),
            _ => Ok(()),
        }
    }

    /// Appends entries at the end that this replica knows of. It may lose the slot: then it has applied the winner, and
    /// whoever asked decides again.
    pub async fn append(&mut self, entries: &[Entry], routed: Option<&str>, now: Micros) -> Result<Outcome, Error> {
        let seq = self.state.next_seq;
        let record = Record {
            format: entries.iter().map(Entry::format).max().unwrap_or(LEDGER_FORMAT_FIRST),
            seq,
            decided_at: now,
            writer: self.writer.clone(),
            routed: routed.map(str::to_owned),
            entries: entries.to_vec(),
        };
        let bytes = serde_json::to_vec(&record).map_err(|source| Error::Json { path: self.chain.slot(seq), source })?;
        let bytes = Bytes::from(bytes);
        match self.chain.append(seq, bytes.clone()).await? {
            Appended::Mine => {
                // A slot that was free because it had been deleted is no slot; its boundary was durable before.
                match self.check_boundary(seq).await {
                    Err(behind @ Error::Behind { .. }) => {
                        self.store.take_back(&self.chain.slot(seq), &bytes).await?;
                        return Err(behind);
                    }
                    // A look that failed says nothing: the record stands, for others may have read it, and is found again.
                    looked => looked?,
                }
                self.state.apply(&record);
                self.snapshot_if_due().await?;
                Ok(Outcome::Mine)
            }
            Appended::Theirs(object) => {
                let theirs = self.parse(&object.bytes)?;
                self.state.apply(&theirs);
                Ok(Outcome::Theirs(Box::new(theirs)))
            }
        }
    }

    /// Appends entries that hold whatever else was decided meanwhile, in whichever slot is free.
    pub async fn append_anywhere(&mut self, entries: &[Entry], now: Micros) -> Result<(), Error> {
        while let Outcome::Theirs(_) = self.append(entries, None, now).await? {}
        Ok(())
    }

    fn parse(&self, bytes: &[u8]) -> Result<Record, Error> {
        let path = || self.chain.slot(self.state.next_seq);
        // The format is read first: a record of a newer version may have entries that this one cannot read.
        #[derive(Deserialize)]
        struct Format {
            format: u32,
        }
        let format: Format = serde_json::from_slice(bytes).map_err(|source| Error::Json { path: path(), source })?;
        if format.format > LEDGER_FORMAT {
            return Err(Error::Format { path: path(), format: format.format });
        }
        serde_json::from_slice(bytes).map_err(|source| Error::Json { path: path(), source })
    }

    async fn snapshot_if_due(&self) -> Result<(), Error> {
        let seq = self.state.next_seq;
        if !seq.is_multiple_of(SNAPSHOT_EVERY) {
            return Ok(());
        }
        let path = paths::snapshot(seq);
        let bytes = serde_json::to_vec(&self.state).map_err(|source| Error::Json { path: path.clone(), source })?;
        let (Created::New(_) | Created::Exists(_)) = self.store.create(&path, bytes.into()).await?;
        let applied = self.state.chains.iter();
        let applied = applied.filter_map(|(name, chain)| Some((name.clone(), chain.applied_to?))).collect();
        let latest = Latest { seq, snapshot: path, applied };
        let bytes =
            serde_json::to_vec(&latest).map_err(|source| Error::Json { path: paths::LATEST.to_owned(), source })?;
        self.store.put(paths::LATEST, bytes.into()).await?;
        tracing::info!(seq, "ledger snapshot written");
        Ok(())
    }
}

/// The snapshot at the ledger's boundary: the records before it are deleted, and this is all there is of them.
async fn first_snapshot(store: &Store, boundary: u64) -> Result<LedgerState, Error> {
    let path = paths::snapshot(boundary);
    let Some(object) = store.get(&path).await? else { return Err(Error::Gone { path }) };
    serde_json::from_slice(&object.bytes).map_err(|source| Error::Json { path, source })
}

/// The snapshot that `ctl/latest.json` names. It is advice: when it cannot be read, the ledger is replayed from its start, or
/// from its boundary.
async fn newest_snapshot(store: &Store) -> Result<Option<LedgerState>, Error> {
    let Some(latest) = store.get(paths::LATEST).await? else { return Ok(None) };
    let Ok(latest) = serde_json::from_slice::<Latest>(&latest.bytes) else { return Ok(None) };
    let Some(snapshot) = store.get(&latest.snapshot).await? else { return Ok(None) };
    match serde_json::from_slice::<LedgerState>(&snapshot.bytes) {
        Ok(state) if state.next_seq == latest.seq => Ok(Some(state)),
        _ => {
            tracing::warn!(snapshot = latest.snapshot, "the snapshot cannot be read; replaying the ledger");
            Ok(None)
        }
    }
}
