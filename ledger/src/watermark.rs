//! How far event time has come: pure functions of what the ledger knows.
use std::collections::BTreeMap;

use driftline_schemas::clock::Micros;
use driftline_schemas::raw::RawKind;

use crate::state::{ChainState, ModelState};

/// The watermark of a model: the smallest, over prediction partitions, of its largest event time there, less
/// `out_of_orderness`.
///
/// A partition is left out once it was read past an end that the broker confirmed after the raw object with the
/// model's newest event was written: whatever it holds of that time has been seen. One that is behind, or that nobody
/// can reach, holds time back. `None` while there is no event, or a partition has said nothing yet.
pub fn of_predictions(
    model: &ModelState,
    chains: &BTreeMap<String, ChainState>,
    out_of_orderness: Micros,
) -> Option<Micros> {
    let predictions = || model.partitions.values().filter(|time| time.kind == RawKind::Predictions);
    let newest = predictions().max_by_key(|time| (time.max_event_time, std::cmp::Reverse(time.written_at)))?;
    let mut smallest = newest.max_event_time;
    for (name, chain) in chains {
        if chain.info.kind != RawKind::Predictions || !chain.info.current || is_read_past(chain, newest.written_at) {
            continue;
        }
        smallest = smallest.min(model.partitions.get(name)?.max_event_time);
    }
    Some(smallest - out_of_orderness)
}

/// The event time that every partition, of predictions and of labels, has passed of itself: idle and empty ones hold
/// it back. Finality rests on it.
pub fn of_everything(model: &ModelState, chains: &BTreeMap<String, ChainState>) -> Option<Micros> {
    let mut smallest: Option<Micros> = None;
    for (name, _) in chains.iter().filter(|(_, chain)| chain.info.current) {
        let time = model.partitions.get(name)?.max_event_time;
        smallest = Some(smallest.map_or(time, |smallest| smallest.min(time)));
    }
    smallest
}

/// Whether a partition has nothing unread that was there at `instant`.
fn is_read_past(chain: &ChainState, instant: Micros) -> bool {
    chain.facts.as_ref().is_some_and(|facts| {
        chain.applied_to == Some(facts.tail) && facts.position >= facts.broker_end && facts.confirmed_at > instant
    })
}

/// The latest instant at which *all* prediction partitions are known to have stood at a confirmed end for at least
/// `idle_timeout`; a window that ended before it can be sealed by the clock. `None` if any partition does not stand so.
pub fn idle_until(chains: &BTreeMap<String, ChainState>, idle_timeout: Micros) -> Option<Micros> {
    let mut earliest: Option<Micros> = None;
    for chain in chains.values().filter(|c| c.info.kind == RawKind::Predictions && c.info.current) {
        let facts = chain.facts.as_ref()?;
        let stands = chain.applied_to == Some(facts.tail)
            && facts.position >= facts.broker_end
            && facts.confirmed_at - facts.at_end_since >= idle_timeout;
        if !stands {
            return None;
        }
        earliest = Some(earliest.map_or(facts.confirmed_at, |earliest| earliest.min(facts.confirmed_at)));
    }
    earliest
}
