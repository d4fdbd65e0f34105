//! Who is alive, and who of them does what: a heartbeat object for each process, and rendezvous hashing over them.
//!
//! A wrong picture of who is alive wastes work, never correctness: what two processes do twice they do alike.
use std::time::Duration;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

use crate::{
    Error, Store,
    paths::{LIVE, heartbeat},
};

/// After this long a silent process is forgotten and its heartbeat removed. Shorter: a machine that slept has to be
/// noticed anew. Longer: more dead heartbeats are read each time.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(24 * 3600);

/// A process that says it is alive.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Heartbeat {
    /// Names the process; no two have the same at one time.
    pub instance: String,
    /// What it does, as in `run --roles`.
    pub roles: Vec<String>,
    /// When it last said so.
    pub at: DateTime<Utc>,
    /// When it started.
    pub started_at: DateTime<Utc>,
    /// Which build it runs.
    pub build: String,
}

impl Heartbeat {
    /// The first heartbeat of a process.
    pub fn new(instance: impl Into<String>, roles: Vec<String>, build: impl Into<String>, now: DateTime<Utc>) -> Self {
        Self { instance: instance.into(), roles, at: now, started_at: now, build: build.into() }
    }

    /// Says that the process is alive at `now`.
    pub async fn beat(&mut self, store: &Store, now: DateTime<Utc>) -> Result<(), Error> {
        self.at = now;
        let bytes = serde_json::to_vec(self).expect("strings and times are always JSON");
        store.put(&heartbeat(&self.instance), Bytes::from(bytes)).await
    }

    /// Says that the process ends, so that others take over its work at once.
    pub async fn resign(&self, store: &Store) -> Result<(), Error> {
        store.delete(&heartbeat(&self.instance)).await
    }

    /// Those who have said within `ttl` that they are alive, by name. Removes what is left of those long dead.
    pub async fn living(store: &Store, now: DateTime<Utc>, ttl: Duration) -> Result<Vec<Self>, Error> {
        let mut living = Vec::new();
        for listed in store.list(LIVE).await? {
            let Some(object) = store.get(&listed.path).await? else { continue }; // has just resigned
            let last = match serde_json::from_slice::<Self>(&object.bytes) {
                Ok(heartbeat) if heartbeat.is_alive(now, ttl) => {
                    living.push(heartbeat);
                    continue;
                }
                Ok(heartbeat) => heartbeat.at,
                Err(error) => {
                    tracing::debug!(path = listed.path, %error, "not a heartbeat");
                    object.last_modified
                }
            };
            if silent_for(last, now) > FORGOTTEN_AFTER {
                store.delete(&listed.path).await?;
            }
        }
        living.sort_by(|a, b| a.instance.cmp(&b.instance));
        Ok(living)
    }

    /// A clock that is ahead makes a process no less alive.
    fn is_alive(&self, now: DateTime<Utc>, ttl: Duration) -> bool {
        silent_for(self.at, now) <= ttl
    }
}

fn silent_for(last: DateTime<Utc>, now: DateTime<Utc>) -> Duration {
    (now - last).to_std().unwrap_or(Duration::ZERO)
}

/// The member that does the work called `key`; `None` if there are no members.
///
/// Every process that knows the same members picks the same one, in whatever order they are. One member more or less
/// moves only the work that it gets or had.
///
/// # Source
/// Thaler & Ravishankar (1998), highest random weight; the weight is XXH3-64 of member and key.
pub fn rendezvous<'a>(key: &str, members: &'a [String]) -> Option<&'a str> {
    let weight = |member: &str| xxh3_64(&[member.as_bytes(), &[0], key.as_bytes()].concat());
    members.iter().map(String::as_str).max_by_key(|member| (weight(member), *member))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn members(count: usize) -> Vec<String> {
        (0..count).map(|n| format!("node-{n}")).collect()
    }

    fn owner(key: u32, members: &[String]) -> &str {
        rendezvous(&format!("job-{key}"), members).unwrap()
    }

    #[test]
    fn nobody_and_one() {
        assert_eq!(rendezvous("x", &[]), None);
        assert_eq!(rendezvous("", &members(1)), Some("node-0"));
    }

    #[test]
    fn the_choice_is_stable_across_orders_and_builds() {
        let forward = members(7);
        let backward: Vec<String> = forward.iter().rev().cloned().collect();
        for key in 0..1000 {
            assert_eq!(owner(key, &forward), owner(key, &backward));
        }
        // Pinned as first seen, since different builds share work: another choice means another hash.
        let chosen: Vec<&str> = (0..8).map(|key| owner(key, &forward)).collect();
        assert_eq!(chosen, ["node-4", "node-6", "node-2", "node-6", "node-4", "node-4", "node-1", "node-4"]);
    }

    #[test]
    fn a_member_that_leaves_moves_only_its_own_work() {
        let all = members(5);
        let left: Vec<String> = all.iter().filter(|member| *member != "node-2").cloned().collect();
        for key in 0..2000 {
            let before = owner(key, &all);
            let after = owner(key, &left);
            assert!(before == after || before == "node-2", "job-{key} moved from {before} to {after}");
        }
    }

    #[test]
    fn work_is_spread_evenly() {
        let all = members(5);
        for member in &all {
            let count = (0..10_000).filter(|key| owner(*key, &all) == member).count();
            // 2000 expected, standard deviation 40: five of them on either side.
            assert!((1800..=2200).contains(&count), "{member} has {count} of 10000");
        }
    }
}
