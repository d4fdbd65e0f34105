//! How the pipeline itself does: rules that are judged by the clock, minute after minute, on what lies in the store.
//!
//! | signal | rests on |
//! |---|---|
//! | `watermark_delay_seconds` | the ledger's watermark of the model |
//! | `read_delay_seconds` | `facts/<partition>.json` (read to an end that the broker confirmed), and the newest event applied of the partition |
//! | `rejected_rate` | the ledger's counts of accepted and rejected events, less those of the last look |
//! | `collectors`, `aggregators`, `evaluators` | the heartbeats in `live/` |
//!
//! None is telemetry of one process, so it does not matter who looks. How many events a partition is behind is known to its
//! collector alone (`driftline_collector_lag_events`); the store knows how much time.
use std::collections::BTreeMap;

use driftline_ledger::LedgerState;
use driftline_schemas::clock::{MINUTE, Micros};
use driftline_schemas::config::{AlertsConfig, Decide, Level, Rule, Side, Signal, Subject};
use driftline_schemas::raw::Facts;
use driftline_store::{Heartbeat, paths};
use serde::{Deserialize, Serialize};

use crate::evidence;
use crate::judge::{Candidate, Finding, beyond, decide, scale_of, share_of_budget, wilson};
use crate::series::{Evidence, Series};

/// The pipeline is looked at once in a minute: shorter costs requests, and longer minutes.
pub const TICK: Micros = MINUTE;
/// Source partitions that are looked at; of those beyond nothing is said.
pub const PARTITIONS_MAX: usize = 2_000;

/// What is known of the pipeline at one moment.
#[derive(Debug, Default)]
pub struct Look {
    /// What collectors say of partitions that they have read to their end, by chain.
    pub facts: BTreeMap<String, Facts>,
    /// Processes that are alive.
    pub living: Vec<Heartbeat>,
}

/// Events of a partition as of the last look: accepted, and rejected.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counted {
    /// Accepted.
    pub accepted: u64,
    /// Rejected, whatever the reason.
    pub rejected: u64,
}

/// One value of one signal.
#[derive(Debug, Clone, PartialEq)]
pub struct Reading {
    /// Of what kind.
    pub signal: Signal,
    /// Of which model or partition; none of processes.
    pub of: Option<String>,
    /// The value.
    pub value: f64,
    /// Events that it rests on; of processes and delays 0.
    pub n: u64,
}

/// Whether any rule looks at a signal.
pub fn wants(config: &AlertsConfig, signal: Signal) -> bool {
    config.rules.iter().any(|rule| rule.subject == Subject::Pipeline(signal))
}

/// Whether any rule looks at the pipeline.
pub fn wants_any(config: &AlertsConfig) -> bool {
    Signal::ALL.into_iter().any(|signal| wants(config, signal))
}

/// Partitions that are read now, at most [`PARTITIONS_MAX`], by chain name.
pub fn partitions(ledger: &LedgerState) -> impl Iterator<Item = (&String, String)> {
    let current = ledger.chains.iter().filter(|(_, chain)| chain.info.current);
    current.map(|(name, chain)| (name, format!("{}[{}]", chain.info.topic, chain.info.partition))).take(PARTITIONS_MAX)
}

/// Events of each partition so far.
pub fn counts(ledger: &LedgerState) -> BTreeMap<String, Counted> {
    let count = |name: &String| {
        let chain = ledger.chains.get(name)?;
        Some((name.clone(), Counted { accepted: chain.accepted, rejected: chain.rejected.values().sum() }))
    };
    partitions(ledger).filter_map(|(name, _)| count(name)).collect()
}

/// All that can be read off. `before`: the counts of the last look; a partition that was not counted then says nothing yet.
pub fn read(ledger: &LedgerState, look: &Look, before: &BTreeMap<String, Counted>, now: Micros) -> Vec<Reading> {
    let seconds = |since: Micros| (now - since).max(0) as f64 / 1e6;
    let mut readings = Vec::new();
    for (name, model) in &ledger.models {
        if let Some(watermark) = model.watermark {
            let of = Some(name.clone());
            readings.push(Reading { signal: Signal::WatermarkDelay, of, value: seconds(watermark), n: 0 });
        }
    }
    let counted = counts(ledger);
    for (name, shown) in partitions(ledger) {
        if let Some(known) = read_until(ledger, look, name) {
            let of = Some(shown.clone());
            readings.push(Reading { signal: Signal::ReadDelay, of, value: seconds(known), n: 0 });
        }
        let (Some(now), Some(before)) = (counted.get(name), before.get(name)) else { continue };
        let rejected = now.rejected.saturating_sub(before.rejected);
        let n = rejected + now.accepted.saturating_sub(before.accepted);
        if n > 0 {
            let value = rejected as f64 / n as f64;
            readings.push(Reading { signal: Signal::RejectedRate, of: Some(shown), value, n });
        }
    }
    for (signal, role) in
        [(Signal::Collectors, "collector"), (Signal::Aggregators, "aggregator"), (Signal::Evaluators, "evaluator")]
    {
        let with_role = look.living.iter().filter(|process| process.roles.iter().any(|other| other == role));
        readings.push(Reading { signal, of: None, value: with_role.count() as f64, n: 0 });
    }
    readings
}

/// The moment up to which a partition is known to have been read and applied: when the broker's end was confirmed that it has
/// been read to, or else its newest event.
fn read_until(ledger: &LedgerState, look: &Look, name: &str) -> Option<Micros> {
    let chain = ledger.chains.get(name)?;
    let at_end = |facts: &&Facts| facts.position >= facts.broker_end && chain.applied_to == Some(facts.tail);
    let confirmed = look.facts.get(name).filter(at_end).map(|facts| facts.confirmed_at);
    // An event of a clock that is ahead proves nothing of the time after it was written.
    let known = ledger.models.values().filter_map(|model| model.partitions.get(name));
    known.map(|time| time.max_event_time.min(time.written_at)).max().max(confirmed)
}

/// Judges what was read in the minute that begins at `tick`.
pub fn judge(config: &AlertsConfig, readings: &[Reading], tick: Micros) -> Vec<Finding> {
    let mut candidates = Vec::new();
    for rule in &config.rules {
        let Subject::Pipeline(signal) = rule.subject else { continue };
        let wanted = readings.iter().filter(|reading| reading.signal == signal);
        candidates.extend(wanted.filter_map(|reading| candidate(rule, reading, tick)));
    }
    decide(share_of_budget(config, TICK), candidates)
}

fn candidate<'a>(rule: &'a Rule, reading: &Reading, tick: Micros) -> Option<Candidate<'a>> {
    let Level::Value(level) = rule.level else { return None };
    let is_share = reading.signal == Signal::RejectedRate;
    let is_other_model = reading.signal == Signal::WatermarkDelay && !rule.is_for(reading.of.as_deref()?);
    if is_other_model || (is_share && reading.n < rule.min_rows) {
        return None;
    }
    let interval = is_share.then(|| wilson(reading.value, reading.n as f64));
    let is_below_bad = rule.side == Side::Below;
    let strength =
        |interval| evidence::of_interval(reading.value, interval, level, is_below_bad, scale_of(rule, level));
    let beyond = beyond(rule.side, reading.value, level);
    Some(Candidate {
        rule,
        series: Series {
            rule: rule.name.clone(),
            model: paths::NO_MODEL.to_owned(),
            metric: reading.signal.as_str().to_owned(),
            column: reading.of.clone(),
            ..Series::default()
        },
        evidence: Evidence {
            window_start: tick,
            window_end: tick + TICK,
            revision: 1,
            state: "final".to_owned(),
            value: reading.value,
            level,
            ci_low: interval.map(|(low, _)| low),
            ci_high: interval.map(|(_, high)| high),
            p_value: None,
            n: reading.n as i64,
            n_labelled: 0,
            ln_e: interval.filter(|_| rule.decide == Decide::Interval).map(strength),
        },
        is_beyond: beyond > 0.0 && beyond >= rule.min_effect,
        interval,
    })
}

#[cfg(test)]
mod tests {
    use driftline_ledger::ModelState;
    use driftline_ledger::state::{ChainState, PartitionTime};
    use driftline_schemas::config::Config;
    use driftline_schemas::event::Reason;
    use driftline_schemas::ledger::ChainInfo;
    use driftline_schemas::raw::RawKind;

    use super::*;

    const SECOND: Micros = 1_000_000;
    const NOW: Micros = 1_000 * SECOND;

    /// One partition, applied up to offset 100, with 900 events of which a hundred were rejected; and a model that is at second 400.
    fn ledger() -> LedgerState {
        let info =
            ChainInfo { topic: "t".into(), partition: 3, kind: RawKind::Predictions, current: true, genesis: Some(0) };
        let chain = ChainState {
            info,
            applied_to: Some(100),
            facts: None,
            records: 900,
            skipped: 0,
            gaps: 0,
            accepted: 800,
            rejected: [(Reason::NotJson, 100)].into(),
            forgotten: BTreeMap::new(),
            untracked: 0,
            retired: None,
        };
        let time = PartitionTime { kind: RawKind::Predictions, max_event_time: 500 * SECOND, written_at: 510 * SECOND };
        let model = ModelState {
            watermark: Some(400 * SECOND),
            partitions: [("t~3".to_owned(), time)].into(),
            ..ModelState::default()
        };
        let mut ledger = LedgerState::default();
        ledger.chains.insert("t~3".into(), chain);
        ledger.models.insert("m".into(), driftline_ledger::shared::Shared::new(model));
        ledger
    }

    fn facts(position: i64, tail: i64) -> Facts {
        Facts {
            format: 1,
            position,
            tail,
            tail_from: None,
            broker_end: 120,
            confirmed_at: 990 * SECOND,
            at_end_since: 0,
        }
    }

    fn value(look: &Look, before: &BTreeMap<String, Counted>, signal: Signal) -> Option<(f64, u64)> {
        let readings = read(&ledger(), look, before, NOW);
        readings.iter().find(|reading| reading.signal == signal).map(|reading| (reading.value, reading.n))
    }

    fn with(facts: Facts) -> Look {
        Look { facts: [("t~3".to_owned(), facts)].into(), living: vec![] }
    }

    #[test]
    fn delays_are_read_off_the_store() {
        let none = BTreeMap::new();
        assert_eq!(value(&Look::default(), &none, Signal::WatermarkDelay), Some((600.0, 0)));
        // The newest event is what is known of a partition that is never read to its end …
        assert_eq!(value(&Look::default(), &none, Signal::ReadDelay), Some((500.0, 0)));
        // … and one that is, and all of it applied, is read up to when that was confirmed.
        assert_eq!(value(&with(facts(120, 100)), &none, Signal::ReadDelay), Some((10.0, 0)));
        assert_eq!(value(&with(facts(119, 100)), &none, Signal::ReadDelay), Some((500.0, 0)), "not at its end");
        assert_eq!(value(&with(facts(120, 101)), &none, Signal::ReadDelay), Some((500.0, 0)), "not applied yet");
    }

    #[test]
    fn the_rejected_share_is_that_since_the_last_look() {
        let before = |accepted, rejected| BTreeMap::from([("t~3".to_owned(), Counted { accepted, rejected })]);
        let share = |before: &BTreeMap<String, Counted>| value(&Look::default(), before, Signal::RejectedRate);
        assert_eq!(share(&BTreeMap::new()), None, "years of events are not this minute's");
        assert_eq!(share(&before(500, 0)), Some((0.25, 400)));
        assert_eq!(share(&before(800, 100)), None, "nothing came");
        assert_eq!(counts(&ledger()), before(800, 100));
    }

    fn process(roles: &[&str]) -> Heartbeat {
        Heartbeat::new("p", roles.iter().map(|role| (*role).to_owned()).collect(), "b", chrono::DateTime::UNIX_EPOCH)
    }

    #[test]
    fn processes_are_counted_by_role() {
        let look = Look { living: vec![process(&["collector", "serve"]), process(&["collector"])], ..Look::default() };
        let none = BTreeMap::new();
        assert_eq!(value(&look, &none, Signal::Collectors), Some((2.0, 0)));
        assert_eq!(value(&look, &none, Signal::Aggregators), Some((0.0, 0)));
    }

    #[test]
    fn rules_of_the_pipeline_fire_minute_after_minute() {
        let text = r#"
            [[alerts.rules]]
            name = "late"
            pipeline = "watermark_delay_seconds"
            above = 300
            models = ["m"]
            for = "2 of 2"
            [[alerts.rules]]
            name = "rubbish"
            pipeline = "rejected_rate"
            above = 0.01
            [[alerts.rules]]
            name = "nobody"
            pipeline = "aggregators"
            below = 1
        "#;
        let config = Config::from_table(text.parse().expect("TOML")).expect("a good configuration").alerts;
        let before = BTreeMap::from([("t~3".to_owned(), Counted { accepted: 500, rejected: 0 })]);
        let readings = read(&ledger(), &Look::default(), &before, NOW);
        let findings = judge(&config, &readings, 0);
        let said: Vec<(String, bool)> =
            findings.iter().map(|finding| (finding.series.show(), finding.is_bad)).collect();
        let wanted = ["watermark_delay_seconds of m", "rejected_rate of t[3]", "aggregators"];
        assert_eq!(said, wanted.map(|name| (name.to_owned(), true)));
        let mut few = readings.clone();
        few.iter_mut().for_each(|reading| reading.n = reading.n.min(99));
        assert_eq!(judge(&config, &few, 0).len(), 2, "a share of few events says nothing");
        let mut clear = readings.clone();
        clear.iter_mut().for_each(|reading| reading.value = if reading.n > 0 { 0.012 } else { 200.0 });
        assert!(judge(&config, &clear, 0).iter().all(|finding| !finding.is_bad), "and one near its level neither");
        let other = Reading { of: Some("other".into()), ..readings[0].clone() };
        assert_eq!(judge(&config, &[other], 0), [], "another model");
    }
}
