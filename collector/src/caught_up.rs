//! `--until-caught-up`: every partition of all topics, to its end as it stood at the start, whoever reads it.
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::error::{Disposition, Error};
use crate::partition::Reading;
use crate::source::{Broker, PartitionRef, SourceTopic};
use crate::stage::State;
use crate::starts::ChainStarts;

/// How often the chains of partitions that other instances own are looked at.
const LOOK_AT_OTHERS_EVERY: Duration = Duration::from_secs(1);

/// The ends as they stood at the start.
pub(crate) struct Targets {
    targets: BTreeMap<PartitionRef, i64>,
    others_reached: BTreeMap<PartitionRef, i64>,
    others_looked_at: Option<Instant>,
}

/// Every partition is at its target, or halted.
pub(crate) struct Outcome {
    pub(crate) partitions: usize,
    pub(crate) halted: Vec<String>,
}

impl Targets {
    /// The broker's ends of all partitions; `None` while it does not answer.
    pub(crate) fn take(topics: &[SourceTopic], broker: &dyn Broker) -> Result<Option<Self>, Error> {
        let mut targets = BTreeMap::new();
        for (topic, source) in topics.iter().enumerate() {
            let partitions = match broker.describe(source) {
                Ok(state) => state.partitions,
                Err(error) if error.disposition() == Disposition::Retry => return Ok(None),
                Err(error) => return Err(error),
            };
            for partition in 0..partitions {
                let Ok(marks) = broker.watermarks(source, partition) else { return Ok(None) };
                targets.insert(PartitionRef { topic, partition }, marks.high);
            }
        }
        Ok(Some(Self { targets, others_reached: BTreeMap::new(), others_looked_at: None }))
    }

    pub(crate) fn of(&self, at: PartitionRef) -> Option<i64> {
        self.targets.get(&at).copied()
    }

    /// `None` while some partition is on its way.
    pub(crate) fn check(
        &mut self,
        state: &State,
        starts: &ChainStarts,
        broker: &dyn Broker,
    ) -> Result<Option<Outcome>, Error> {
        let mut halted = Vec::new();
        let mut others = Vec::new();
        for (at, target) in &self.targets {
            match state.partitions.get(at).map(|partition| &partition.reading) {
                Some(Reading::Yes(progress)) if progress.is_idle() && progress.position() >= *target => {}
                Some(Reading::Halted(why)) => halted.push(why.clone()),
                Some(_) => return Ok(None),
                None => others.push((*at, *target)),
            }
        }
        others.retain(|(at, target)| self.others_reached.get(at).is_none_or(|reached| reached < target));
        if !others.is_empty() {
            return self.look_at_others(&others, starts, broker).map(|()| None);
        }
        Ok(Some(Outcome { partitions: self.targets.len(), halted }))
    }

    fn look_at_others(
        &mut self,
        others: &[(PartitionRef, i64)],
        starts: &ChainStarts,
        broker: &dyn Broker,
    ) -> Result<(), Error> {
        if self.others_looked_at.is_some_and(|last| last.elapsed() < LOOK_AT_OTHERS_EVERY) {
            return Ok(());
        }
        self.others_looked_at = Some(Instant::now());
        for (at, target) in others {
            let reached = starts.reached(*at, broker);
            match reached {
                Ok((tail, _)) if tail >= *target => drop(self.others_reached.insert(*at, tail)),
                Ok((_, Some(facts))) if facts >= *target => drop(self.others_reached.insert(*at, facts)),
                Ok(_) => {}
                Err(error) if error.disposition() == Disposition::Retry => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}
