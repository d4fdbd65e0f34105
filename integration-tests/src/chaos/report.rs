//! What was done, what came in, and how soon it showed.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use super::proxy::{Counts, Trouble};

/// Counts of one world, or of many.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Worlds that ended as the truth says.
    pub worlds: u64,
    /// Rounds that did.
    pub rounds: u64,
    /// Processes killed at any instant.
    pub kills: u64,
    /// Processes killed at one of their writes, before or after its effect.
    pub kills_at_writes: u64,
    /// Processes stopped beyond their session and continued.
    pub freezes: u64,
    /// Processes added.
    pub scaled_out: u64,
    /// Processes that were asked to end, and drained.
    pub scaled_in: u64,
    /// Partitions added while the pipeline ran.
    pub partitions_added: u64,
    /// The broker killed or stopped, and started again.
    pub broker_restarts: u64,
    /// The group's offsets sent to zero or to the end.
    pub rewinds: u64,
    /// The store's server killed, and started again.
    pub store_restarts: u64,
    /// Requests to the store that met trouble.
    pub store_faults: BTreeMap<Trouble, Counts>,
    /// Kafka records acknowledged.
    pub records: u64,
    /// Events in them.
    pub events: u64,
    /// Values compared with the truth.
    pub compared: u64,
    /// Acknowledged records that are not in `raw/`, at the end of each world.
    pub lost: u64,
    /// Events whose position is in `raw/` more than once, at the end of each world.
    pub counted_twice: u64,
    /// From a late label's acknowledgement to its window's revised metric, undisturbed.
    pub late_calm: Vec<Duration>,
    /// The same while things were done to the pipeline.
    pub late_under_fire: Vec<Duration>,
}

impl Report {
    /// Adds another world's counts.
    pub fn add(&mut self, other: &Report) {
        self.worlds += other.worlds;
        self.rounds += other.rounds;
        self.kills += other.kills;
        self.kills_at_writes += other.kills_at_writes;
        self.freezes += other.freezes;
        self.scaled_out += other.scaled_out;
        self.scaled_in += other.scaled_in;
        self.partitions_added += other.partitions_added;
        self.broker_restarts += other.broker_restarts;
        self.rewinds += other.rewinds;
        self.store_restarts += other.store_restarts;
        for (trouble, counts) in &other.store_faults {
            let sum = self.store_faults.entry(*trouble).or_default();
            sum.reads += counts.reads;
            sum.writes += counts.writes;
        }
        self.records += other.records;
        self.events += other.events;
        self.compared += other.compared;
        self.lost += other.lost;
        self.counted_twice += other.counted_twice;
        self.late_calm.extend(&other.late_calm);
        self.late_under_fire.extend(&other.late_under_fire);
    }

    /// Requests to the store that met trouble, of all kinds.
    pub fn store_faults(&self) -> u64 {
        self.store_faults.values().map(|counts| counts.reads + counts.writes).sum()
    }
}

/// The smallest value that `share` of all are not above; nearest rank.
pub fn quantile(values: &[Duration], share: f64) -> Option<Duration> {
    let mut sorted = values.to_vec();
    sorted.sort_unstable();
    let rank = (share * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.clamp(1, sorted.len().max(1)) - 1).copied()
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (what, count) in [
            ("worlds", self.worlds),
            ("rounds", self.rounds),
            ("events in", self.events),
            ("records acknowledged", self.records),
            ("kills at any instant", self.kills),
            ("kills at a write", self.kills_at_writes),
            ("freezes", self.freezes),
            ("rewinds of the group", self.rewinds),
            ("broker restarts", self.broker_restarts),
            ("store restarts", self.store_restarts),
            ("scaled out", self.scaled_out),
            ("scaled in", self.scaled_in),
            ("partitions added", self.partitions_added),
            ("store faults survived", self.store_faults()),
        ] {
            writeln!(f, "{what:<28} {count:>10}")?;
        }
        for (trouble, counts) in &self.store_faults {
            let name = format!("{trouble:?}");
            writeln!(
                f,
                "  {name:<26} {:>10}   {} reads, {} writes",
                counts.reads + counts.writes,
                counts.reads,
                counts.writes
            )?;
        }
        writeln!(f, "{:<28} {:>10}", "values equal to the truth", self.compared)?;
        writeln!(f, "{:<28} {:>10}", "records lost", self.lost)?;
        writeln!(f, "{:<28} {:>10}", "events counted twice", self.counted_twice)?;
        for (what, values) in [("calm", &self.late_calm), ("under fire", &self.late_under_fire)] {
            let of = |share| quantile(values, share).map_or(f64::NAN, |value| value.as_secs_f64());
            if !values.is_empty() {
                let name = format!("late label to metric, {what}");
                writeln!(
                    f,
                    "{name:<36} p50 {:.2} s, p99 {:.2} s, max {:.2} s of {}",
                    of(0.5),
                    of(0.99),
                    of(1.0),
                    values.len()
                )?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_of_the_nearest_rank() {
        let values: Vec<Duration> = (1..=100).rev().map(Duration::from_secs).collect();
        assert_eq!(quantile(&values, 0.5), Some(Duration::from_secs(50)));
        assert_eq!(quantile(&values, 0.99), Some(Duration::from_secs(99)));
        assert_eq!(quantile(&values, 1.0), Some(Duration::from_secs(100)));
        assert_eq!(quantile(&values[..1], 0.99), Some(Duration::from_secs(100)));
        assert_eq!(quantile(&[], 0.5), None);
    }
}
