//! Sinks follow a report's chain: how far each has been told lies in the store, so a message is sent at least once whatever dies,
//! and every copy has the same id.
use std::collections::HashMap;
use std::time::{Duration, Instant};

use bytes::Bytes;
use driftline_schemas::clock::{self, DAY};
use driftline_schemas::config::{ReportSpec, Sink};
use driftline_store::{Expected, Replaced, Store, paths};
use rand::Rng;
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

use super::log::Log;
use super::message::messages;
use crate::send::{Outcome, send};
use crate::{Error, telemetry};

/// Between two tries at first, and at most: shorter bothers a receiver that is down, longer keeps people waiting.
const PAUSES: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(3_600));

/// How far a sink has been told.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Sent {
    /// The first record that it has not been told of.
    next: u64,
    /// Messages of that record that it has taken.
    #[serde(default)]
    taken: usize,
    /// Records that it did not take within a day.
    #[serde(default)]
    given_up: u64,
    /// Hash of the address that answered 410; the address itself may be a secret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    gone: Option<String>,
}

/// What this process remembers of sinks of one report; all of it can be lost.
#[derive(Default)]
pub(super) struct Sinks {
    /// Tries that failed, and when the next one is.
    failing: HashMap<String, (u32, Instant)>,
    /// Up to which record a sink has surely been told: spares a request each round.
    told_to: HashMap<String, u64>,
}

/// Notes where new sinks begin: with what is made from now on.
pub(super) async fn enrol(store: &Store, report: &str, sinks: &[&Sink], next: u64) -> Result<(), Error> {
    for sink in sinks {
        let path = paths::reporting_sent(report, &sink.name);
        if store.get(&path).await?.is_none() {
            let bytes = to_json(&path, &Sent { next, ..Sent::default() })?;
            // Whoever was first has said where it begins.
            let (Replaced::Done(_) | Replaced::Conflict(_)) = store.replace(&path, bytes, Expected::Absent).await?;
        }
    }
    Ok(())
}

impl Sinks {
    /// Tells sinks what they have not been told; whether one of them is tried again later.
    pub(super) async fn tell(
        &mut self,
        store: &Store,
        spec: &ReportSpec,
        log: &Log,
        sinks: &[&Sink],
        allow_local: bool,
    ) -> Result<bool, Error> {
        let mut waits = false;
        for sink in sinks {
            if self.told_to.get(&sink.name).is_some_and(|next| *next >= log.next) {
                continue;
            }
            let rests = self.failing.get(&sink.name).is_some_and(|(_, next)| *next > Instant::now());
            waits |= rests || self.tell_one(store, spec, log, sink, allow_local).await?;
        }
        Ok(waits)
    }

    async fn tell_one(
        &mut self,
        store: &Store,
        spec: &ReportSpec,
        log: &Log,
        sink: &Sink,
        allow_local: bool,
    ) -> Result<bool, Error> {
        let path = paths::reporting_sent(&spec.name, &sink.name);
        let address = format!("{:016x}", xxh3_64(sink.url.as_bytes()));
        while let Some(object) = store.get(&path).await? {
            let mut sent: Sent =
                serde_json::from_slice(&object.bytes).map_err(|source| Error::Json { path: path.clone(), source })?;
            if sent.next >= log.next || sent.gone.as_ref() == Some(&address) {
                break;
            }
            let Some(record) = log.read(sent.next).await? else { break };
            let messages = match &record.made {
                Some(made) => messages(store, spec, sink, record.at, made).await?,
                None => Vec::new(),
            };
            let mut outcome = Outcome::Done;
            for message in messages.iter().skip(sent.taken) {
                outcome = send(sink, message, allow_local).await;
                telemetry::delivery(&sink.name, &outcome);
                if outcome != Outcome::Done {
                    break;
                }
                sent.taken += 1;
            }
            let (tries, _) = self.failing.remove(&sink.name).unwrap_or((0, Instant::now()));
            let mut is_tried_again = false;
            match outcome {
                Outcome::Done => (sent.next, sent.taken) = (sent.next + 1, 0),
                Outcome::Gone => {
                    tracing::warn!(
                        sink = sink.name,
                        "the receiver is gone (410): it is told nothing more under this address"
                    );
                    sent.gone = Some(address.clone());
                }
                Outcome::Again { why, after } if clock::now_micros() - record.at <= DAY || tries < 3 => {
                    tracing::warn!(
                        sink = sink.name,
                        report = spec.name,
                        why,
                        "report not delivered; it is tried again"
                    );
                    let pause = pause(tries).max(after.unwrap_or_default());
                    self.failing.insert(sink.name.clone(), (tries + 1, Instant::now() + pause));
                    is_tried_again = true;
                }
                Outcome::Again { why, .. } => {
                    tracing::error!(sink = sink.name, report = spec.name, why, "delivery given up after a day");
                    (sent.next, sent.taken, sent.given_up) = (sent.next + 1, 0, sent.given_up + 1);
                }
            }
            // Another process that has told it too has noted the same, or more.
            let bytes = to_json(&path, &sent)?;
            let (Replaced::Done(_) | Replaced::Conflict(_)) =
                store.replace(&path, bytes, Expected::Version(object.version)).await?;
            if is_tried_again {
                return Ok(true);
            }
        }
        self.told_to.insert(sink.name.clone(), log.next);
        Ok(false)
    }
}

fn to_json(path: &str, sent: &Sent) -> Result<Bytes, Error> {
    let bytes = serde_json::to_vec(sent).map_err(|source| Error::Json { path: path.to_owned(), source })?;
    Ok(bytes.into())
}

/// Drawn from half to all of a pause that doubles.
fn pause(tries: u32) -> Duration {
    let most = PAUSES.0.saturating_mul(1 << tries.min(16)).min(PAUSES.1);
    most.mul_f64(rand::rng().random_range(0.5..=1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_an_hour() {
        for tries in 0..100 {
            let drawn = pause(tries);
            assert!(drawn >= PAUSES.0 / 2 && drawn <= PAUSES.1, "{tries}: {drawn:?}");
        }
        assert!(pause(50) >= PAUSES.1 / 2);
    }
}
