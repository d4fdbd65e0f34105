//! A report's chain: one record for each occurrence that was made, created if absent, and one for each change of its schedule. Of
//! two workers that made the same occurrence one wins the slot, and the other reads that it is done.
use std::collections::BTreeMap;

use async_trait::async_trait;
use bytes::Bytes;
use driftline_schemas::clock::Micros;
use driftline_schemas::config::{ReportSpec, Sink};
use driftline_store::{Appended, Chain, Store, paths};
use serde::{Deserialize, Serialize};

use super::Told;
use super::message::messages;
use crate::Error;
use crate::deliver::Feed;
use crate::message::Message;

/// The newest format of records.
const FORMAT: u32 = 1;

/// One record.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// How it is written.
    pub format: u32,
    /// When it was written, microseconds.
    pub at: Micros,
    /// Who wrote it, for people.
    pub writer: String,
    /// The schedule from here on, as it was typed.
    pub cron: String,
    /// Its zone.
    pub time_zone: String,
    /// Occurrences up to this time, microseconds, are made, left out, or older than the schedule.
    pub done_to: Micros,
    /// The occurrence that was made; `None`: the schedule begins, or has changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub made: Option<Made>,
}

/// An occurrence that was made.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Made {
    /// When it was due, microseconds.
    pub occurrence: Micros,
    /// First instant of its period, microseconds.
    pub from: Micros,
    /// First instant after its period, microseconds.
    pub to: Micros,
    /// Occurrences before it that were missed and left out.
    pub skipped: u64,
    /// The reports, by model.
    pub models: BTreeMap<String, Filed>,
    /// Models without a window in the period.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub empty: Vec<String>,
    /// Models whose report could not be made, and why.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub failed: BTreeMap<String, String>,
}

/// One model's report.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Filed {
    /// Windows that it is about.
    pub windows: u64,
    /// What a person should know first.
    pub findings: Vec<Told>,
    /// Format → the file in the store.
    pub files: BTreeMap<String, String>,
}

/// The chain, as far as it has been read.
#[derive(Debug)]
pub(super) struct Log {
    store: Store,
    chain: Chain,
    name: String,
    /// The next free slot as far as is known.
    pub(super) next: u64,
    /// The last record.
    pub(super) last: Option<Record>,
}

impl Log {
    /// Opens a report's chain.
    pub(super) async fn open(store: &Store, name: &str) -> Result<Self, Error> {
        let path = paths::reporting_cursor(name);
        let known = store.get(&path).await?;
        // Advice; without it the chain is read from its beginning.
        let records: u64 = known.and_then(|object| serde_json::from_slice(&object.bytes).ok()).unwrap_or_default();
        let mut log = Self { next: records.saturating_sub(1), ..Self::reader(store, name) };
        log.catch_up().await?;
        if log.next < records {
            log.next = 0;
            log.catch_up().await?;
        }
        Ok(log)
    }

    /// A chain of which single records are read.
    fn reader(store: &Store, name: &str) -> Self {
        let chain = Chain::new(store.clone(), paths::reporting(name), ".json");
        Self { store: store.clone(), chain, name: name.to_owned(), next: 0, last: None }
    }

    /// Reads on to the end.
    pub(super) async fn catch_up(&mut self) -> Result<(), Error> {
        while let Some(record) = self.read(self.next).await? {
            self.last = Some(record);
            self.next += 1;
        }
        Ok(())
    }

    /// A record, if it has been written.
    pub(super) async fn read(&self, seq: u64) -> Result<Option<Record>, Error> {
        let Some(object) = self.chain.read(seq).await? else { return Ok(None) };
        let path = || self.chain.slot(seq);
        let record: Record =
            serde_json::from_slice(&object.bytes).map_err(|source| Error::Json { path: path(), source })?;
        if record.format > FORMAT {
            return Err(Error::Format { path: path(), format: record.format, known: FORMAT });
        }
        Ok(Some(record))
    }

    /// Whether the last record follows this schedule.
    pub(super) fn follows(&self, spec: &ReportSpec) -> bool {
        let zone = spec.time_zone.name();
        self.last.as_ref().is_some_and(|last| last.cron == spec.cron.to_string() && last.time_zone == zone)
    }

    /// Occurrences up to this time are done.
    pub(super) fn done_to(&self) -> Option<Micros> {
        self.last.as_ref().map(|last| last.done_to)
    }

    /// Appends a record; `false`: another writer has the slot, and is read.
    pub(super) async fn append(
        &mut self,
        writer: &str,
        spec: &ReportSpec,
        at: Micros,
        done_to: Micros,
        made: Option<Made>,
    ) -> Result<bool, Error> {
        let record = Record {
            format: FORMAT,
            at,
            writer: writer.to_owned(),
            cron: spec.cron.to_string(),
            time_zone: spec.time_zone.name().to_owned(),
            done_to,
            made,
        };
        let path = self.chain.slot(self.next);
        let bytes = serde_json::to_vec(&record).map_err(|source| Error::Json { path, source })?;
        let is_mine = matches!(self.chain.append(self.next, Bytes::from(bytes)).await?, Appended::Mine);
        self.catch_up().await?;
        self.store.put(&paths::reporting_cursor(&self.name), self.next.to_string().into()).await?;
        Ok(is_mine)
    }
}

/// A report's chain, as sinks follow it.
pub(super) struct Occurrences {
    log: Log,
    spec: ReportSpec,
}

impl Occurrences {
    pub(super) fn new(store: &Store, spec: &ReportSpec) -> Self {
        Self { log: Log::reader(store, &spec.name), spec: spec.clone() }
    }
}

#[async_trait]
impl Feed for Occurrences {
    fn name(&self) -> &str {
        &self.spec.name
    }

    fn noted_at(&self, sink: &str) -> String {
        paths::reporting_sent(&self.spec.name, sink)
    }

    async fn messages(&self, seq: u64, sink: &Sink) -> Result<Option<(Micros, Vec<Message>)>, Error> {
        let Some(record) = self.log.read(seq).await? else { return Ok(None) };
        let told = match &record.made {
            Some(made) => messages(&self.log.store, &self.spec, sink, record.at, made).await?,
            None => Vec::new(),
        };
        Ok(Some((record.at, told)))
    }
}
