//! What is done to a world, and when: pure, from a seed.

use std::time::Duration;

use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;

use super::proxy::Side;
use crate::kafka::GroupOffsets;

/// One thing that is done to a world.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deed {
    /// SIGKILL to some process, which starts again soon.
    Kill,
    /// SIGKILL at the `nth` write of some process from now on, before or after it takes effect.
    KillAtWrite {
        /// 1 is the next.
        nth: u64,
        /// On which side of its effect.
        side: Side,
    },
    /// SIGSTOP for so long, then SIGCONT: longer than the consumer's session, and sometimes longer than a heartbeat in the store
    /// lives, so that others have taken over all that it did.
    Freeze(Duration),
    /// One more process.
    ScaleOut,
    /// SIGTERM to some process, which must drain and end with 0.
    ScaleIn,
    /// Both topics get one more partition.
    Grow,
    /// The broker is killed, and comes back after so long.
    KillBroker(Duration),
    /// The broker is shut down, and comes back after so long.
    StopBroker(Duration),
    /// All collectors are killed, and the group's offsets are sent somewhere.
    SendGroup(GroupOffsets),
    /// A share of the requests to the store goes wrong for so long, in thousandths.
    StoreTrouble {
        /// For so long.
        lasts: Duration,
        /// Thousandths of the requests.
        permille: u32,
        /// Whether requests also stall until their time-out, or take effect long after it.
        stalls: bool,
    },
    /// The store's server is killed, and comes back after so long.
    KillStore(Duration),
}

/// How a round ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// All processes are asked to end, and another one catches up.
    Drained,
    /// They live on; one more joins them, catches up and ends.
    Live,
}

/// One round.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Round {
    /// What is done, and how long after the round's beginning.
    pub deeds: Vec<(Duration, Deed)>,
    /// How it ends.
    pub ending: Ending,
}

/// Longer than a consumer's session; see `world::SESSION_MS`.
const FREEZE_SHORT_MS: std::ops::Range<u64> = 4_000..7_000;
/// Longer than a heartbeat in the store is believed, 15 seconds.
const FREEZE_LONG_MS: std::ops::Range<u64> = 16_500..19_000;

/// Deals the rounds of a world: every kind of deed at least once, as far as there are rounds, and others by chance.
pub fn deal(rng: &mut StdRng, rounds: usize, over_http: bool) -> Vec<Round> {
    let mut kinds = every(rng, over_http);
    kinds.shuffle(rng);
    let each = kinds.len().div_ceil(rounds.max(1)).min(4);
    let mut dealt = kinds.into_iter();
    let mut round = |at: usize| {
        let mut deeds: Vec<Deed> = dealt.by_ref().take(each).collect();
        for _ in 0..rng.random_range(1..=2) {
            deeds.push(one(rng, over_http));
        }
        let mut timed: Vec<(Duration, Deed)> =
            deeds.into_iter().map(|deed| (Duration::from_millis(rng.random_range(500..9_000)), deed)).collect();
        timed.sort_by_key(|(at, _)| *at);
        let ending = if at.is_multiple_of(2) { Ending::Live } else { Ending::Drained };
        Round { deeds: timed, ending }
    };
    (0..rounds).map(&mut round).collect()
}

fn every(rng: &mut StdRng, over_http: bool) -> Vec<Deed> {
    let mut deeds = vec![
        Deed::Kill,
        Deed::Freeze(millis(rng, FREEZE_SHORT_MS)),
        Deed::Freeze(millis(rng, FREEZE_LONG_MS)),
        Deed::ScaleOut,
        Deed::ScaleIn,
        Deed::Grow,
        Deed::KillBroker(millis(rng, 500..3_000)),
        Deed::SendGroup(GroupOffsets::Zero),
        Deed::SendGroup(GroupOffsets::End),
    ];
    if over_http {
        deeds.extend([
            Deed::KillAtWrite { nth: rng.random_range(1..12), side: Side::Before },
            Deed::KillAtWrite { nth: rng.random_range(1..12), side: Side::After },
            trouble(rng, false),
            trouble(rng, true),
        ]);
    }
    deeds
}

fn one(rng: &mut StdRng, over_http: bool) -> Deed {
    match rng.random_range(0..if over_http { 14 } else { 8 }) {
        0..=2 => Deed::Kill,
        3 => Deed::Freeze(millis(rng, FREEZE_SHORT_MS)),
        4 => Deed::ScaleOut,
        5 => Deed::ScaleIn,
        6 => Deed::StopBroker(millis(rng, 500..2_000)),
        7 => Deed::SendGroup(GroupOffsets::End),
        8 | 9 => Deed::KillAtWrite { nth: rng.random_range(1..20), side: Side::Before },
        10 | 11 => Deed::KillAtWrite { nth: rng.random_range(1..20), side: Side::After },
        12 => trouble(rng, false),
        _ => Deed::KillStore(millis(rng, 500..3_000)),
    }
}

fn trouble(rng: &mut StdRng, stalls: bool) -> Deed {
    let lasts = millis(rng, 3_000..8_000);
    Deed::StoreTrouble { lasts, permille: rng.random_range(50..if stalls { 120 } else { 400 }), stalls }
}

fn millis(rng: &mut StdRng, range: std::ops::Range<u64>) -> Duration {
    Duration::from_millis(rng.random_range(range))
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;

    #[test]
    fn a_seed_deals_the_same_and_every_kind_at_least_once() {
        for seed in 0..50 {
            let rounds = deal(&mut StdRng::seed_from_u64(seed), 5, true);
            assert_eq!(rounds, deal(&mut StdRng::seed_from_u64(seed), 5, true));
            let dealt: Vec<Deed> = rounds.iter().flat_map(|round| &round.deeds).map(|(_, deed)| *deed).collect();
            let has = |is: fn(&Deed) -> bool| dealt.iter().any(is);
            assert!(has(|deed| *deed == Deed::Kill) && has(|deed| *deed == Deed::Grow));
            assert!(has(|deed| matches!(deed, Deed::Freeze(lasts) if lasts.as_secs() >= 16)));
            assert!(has(|deed| *deed == Deed::SendGroup(GroupOffsets::Zero)));
            assert!(has(|deed| *deed == Deed::SendGroup(GroupOffsets::End)));
            assert!(has(|deed| matches!(deed, Deed::KillAtWrite { side: Side::After, .. })));
            assert!(has(|deed| matches!(deed, Deed::StoreTrouble { stalls: true, .. })));
            assert!(has(|deed| matches!(deed, Deed::KillBroker(_))));
        }
        let local = deal(&mut StdRng::seed_from_u64(1), 5, false);
        let over_http =
            |deed: &Deed| matches!(deed, Deed::StoreTrouble { .. } | Deed::KillAtWrite { .. } | Deed::KillStore(_));
        assert!(!local.iter().flat_map(|round| &round.deeds).any(|(_, deed)| over_http(deed)));
    }
}
