//! Delivery: each sink follows each model's chain of alerts, and goes on when it was told. How far it is lies in the store, so a
//! message is sent at least once whatever dies, and every copy has the same id.
use std::collections::HashMap;
use std::time::{Duration, Instant};

use bytes::Bytes;
use driftline_schemas::clock::{self, DAY};
use driftline_schemas::config::{AlertsConfig, Sink};
use driftline_store::{Expected, Replaced, Store, paths};
use rand::Rng;
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

use crate::log::Log;
use crate::message::{messages, told};
use crate::send::{Outcome, send};
use crate::{Error, telemetry};

/// Pauses between tries, the last one again and again, each drawn from half to all of it.
const PAUSES: [Duration; 7] = [
    Duration::from_secs(5),
    Duration::from_secs(30),
    Duration::from_secs(120),
    Duration::from_secs(300),
    Duration::from_secs(900),
    Duration::from_secs(1_800),
    Duration::from_secs(3_600),
];

/// How far a sink has been told of a model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Sent {
    /// The first record that it has not been told of.
    next: u64,
    /// Messages that it did not take within a day.
    #[serde(default)]
    given_up: u64,
    /// Hash of the address that answered 410.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    gone: Option<String>,
}

/// Tries that failed, of one sink and model.
struct Failing {
    tries: usize,
    next: Instant,
}

/// What this process remembers of deliveries; all of it can be lost.
#[derive(Default)]
pub struct Deliveries {
    failing: HashMap<(String, String), Failing>,
    /// Up to which record a sink has surely been told of a model: spares a request each round.
    told_to: HashMap<(String, String), u64>,
}

/// What came of a round.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// Every sink has been told all.
    UpToDate,
    /// A sink is tried again later.
    Waiting,
}

/// Notes where a model's new sinks begin: with what happens from now on. Before its first record this is its beginning.
pub async fn enrol(store: &Store, model: &str, sinks: &[Sink], next: u64) -> Result<(), Error> {
    for sink in sinks {
        let path = paths::alerting_sent(model, &sink.name);
        if store.get(&path).await?.is_none() {
            let sent = Sent { next, given_up: 0, gone: None };
            let bytes = to_json(&path, &sent)?;
            // Whoever was first has said where it begins.
            let (Replaced::Done(_) | Replaced::Conflict(_)) = store.replace(&path, bytes, Expected::Absent).await?;
        }
    }
    Ok(())
}

impl Deliveries {
    /// Tells all sinks what they have not been told of a model.
    pub async fn deliver(
        &mut self,
        store: &Store,
        model: &str,
        log: &Log,
        config: &AlertsConfig,
    ) -> Result<Progress, Error> {
        let mut progress = Progress::UpToDate;
        for sink in &config.sinks {
            let key = (model.to_owned(), sink.name.clone());
            if self.told_to.get(&key).is_some_and(|next| *next >= log.next) {
                continue;
            }
            if self.failing.get(&key).is_some_and(|failing| failing.next > Instant::now()) {
                progress = Progress::Waiting;
                continue;
            }
            if self.deliver_to(store, model, log, config, sink, &key).await? == Progress::Waiting {
                progress = Progress::Waiting;
            }
        }
        Ok(progress)
    }

    async fn deliver_to(
        &mut self,
        store: &Store,
        model: &str,
        log: &Log,
        config: &AlertsConfig,
        sink: &Sink,
        key: &(String, String),
    ) -> Result<Progress, Error> {
        let path = paths::alerting_sent(model, &sink.name);
        loop {
            let Some(object) = store.get(&path).await? else { return Ok(Progress::UpToDate) };
            let mut sent: Sent =
                serde_json::from_slice(&object.bytes).map_err(|source| Error::Json { path: path.clone(), source })?;
            let address = address_of(sink);
            if sent.next >= log.next || sent.gone.as_ref() == Some(&address) {
                self.failing.remove(key);
                self.told_to.insert(key.clone(), log.next);
                return Ok(Progress::UpToDate);
            }
            let Some(record) = log.read(sent.next).await? else { return Ok(Progress::UpToDate) };
            let told = told(sink, &record.transitions);
            let mut outcome = Outcome::Done;
            if !told.is_empty() {
                let url = config.external_url.as_deref();
                for message in messages(sink, model, record.seq, record.at, &told, url) {
                    outcome = send(sink, &message, config.allow_local).await;
                    if outcome != Outcome::Done {
                        break;
                    }
                }
                telemetry::delivery(&sink.name, &outcome);
            }
            match outcome {
                Outcome::Done => {
                    self.failing.remove(key);
                    sent.next += 1;
                }
                Outcome::Gone => {
                    tracing::warn!(
                        sink = sink.name,
                        "the receiver is gone (410): it is told nothing more under this address"
                    );
                    sent.gone = Some(address);
                }
                Outcome::Again { why, after } => {
                    let is_old = clock::now_micros() - record.at > DAY;
                    let tries = self.failing.get(key).map_or(0, |failing| failing.tries);
                    if !is_old || tries < 3 {
                        let pause = pause(tries).max(after.unwrap_or_default());
                        tracing::warn!(sink = sink.name, model, why, "notification not delivered; it is tried again");
                        let failing = Failing { tries: tries + 1, next: Instant::now() + pause };
                        self.failing.insert(key.clone(), failing);
                        return Ok(Progress::Waiting);
                    }
                    tracing::error!(sink = sink.name, model, why, "notification given up after a day");
                    self.failing.remove(key);
                    sent.next += 1;
                    sent.given_up += 1;
                }
            }
            let bytes = to_json(&path, &sent)?;
            // Another process that has told it too has noted the same, or more.
            let (Replaced::Done(_) | Replaced::Conflict(_)) =
                store.replace(&path, bytes, Expected::Version(object.version)).await?;
        }
    }
}

fn to_json(path: &str, sent: &Sent) -> Result<Bytes, Error> {
    let bytes = serde_json::to_vec(sent).map_err(|source| Error::Json { path: path.to_owned(), source })?;
    Ok(bytes.into())
}

/// What stands for a sink's address; the address itself may be a secret.
fn address_of(sink: &Sink) -> String {
    format!("{:016x}", xxh3_64(sink.url.as_bytes()))
}

fn pause(tries: usize) -> Duration {
    let most = PAUSES[tries.min(PAUSES.len() - 1)];
    most.mul_f64(rand::rng().random_range(0.5..=1.0))
}
