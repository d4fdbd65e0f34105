//! What the rules would have said: every published revision in the order in which it was decided, through the same code.
use std::collections::{BTreeMap, HashMap};

use driftline_ledger::LedgerState;
use driftline_schemas::clock::{Micros, time_of};
use driftline_schemas::config::{AlertsConfig, MONTH};
use driftline_schemas::history::window_name;
use driftline_schemas::tables::metric_rows_from_batch;
use driftline_store::{Store, paths};

use crate::judge::Published;
use crate::life::{Kind, State, Transition};
use crate::stage::{learned_from, verdict};
use crate::{Error, read};

/// What one rule would have done to one model.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Tally {
    /// Verdicts: windows × series × revisions.
    pub verdicts: u64,
    /// Those that were bad.
    pub bad: u64,
    /// Alerts raised.
    pub firing: u64,
    /// Revised by late truth.
    pub revised: u64,
    /// Withdrawn by late truth.
    pub withdrawn: u64,
    /// Over.
    pub resolved: u64,
    /// Found in final windows.
    pub missed: u64,
}

/// What all rules would have done to a model.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Replayed {
    /// By rule.
    pub rules: BTreeMap<String, Tally>,
    /// All that would have happened, in order.
    pub transitions: Vec<Transition>,
    /// Windows looked at.
    pub windows: u64,
    /// Event time that they cover, microseconds.
    pub period: Micros,
}

impl Replayed {
    /// Alerts of a rule in a month of 30 days.
    pub fn a_month(&self, tally: &Tally) -> f64 {
        if self.period == 0 { 0.0 } else { tally.firing as f64 * MONTH as f64 / self.period as f64 }
    }
}

/// Replays a model's windows that start in `[from, to)`.
///
/// Metrics are taken as each revision published them, and levels are learned from what had been published by then. Of serving, drift,
/// quality and coverage the latest revision is all that is kept: it stands for the last one only. All of it is held in memory.
pub async fn replay(
    store: &Store,
    ledger: &LedgerState,
    config: &AlertsConfig,
    name: &str,
    from: Micros,
    to: Micros,
) -> Result<Replayed, Error> {
    let mut replayed = Replayed::default();
    let Some(model) = ledger.models.get(name) else { return Ok(replayed) };
    for rule in config.rules.iter().filter(|rule| rule.is_for(name)) {
        replayed.rules.insert(rule.name.clone(), Tally::default());
    }
    let order: Vec<Micros> = model.windows.keys().copied().collect();
    let inside = || model.windows.range(from..to.max(from)).map(|(_, record)| record).filter(|r| r.completed > 0);
    let starts = || inside().map(|record| record.window.start);
    let needed = learned_from(config, name, &order, starts());
    let mut latest = read::metrics(store, name, &read::dates(starts().chain(needed))).await?;
    let mut others = read::others(store, name, &read::dates(starts())).await?;
    let mut steps: Vec<(Micros, Micros, u64, Published)> = Vec::new();
    for record in inside() {
        let window = record.window;
        replayed.windows += 1;
        replayed.period += window.end - window.start;
        let mut newest = latest.remove(&window.start);
        for revision in 1..=record.completed {
            let named = format!("{}_r{revision}", window_name(window));
            let path = paths::table("metrics_log", name, window.date(), &named);
            let Some(object) = store.get(&path).await? else { continue };
            let metrics = read::rows(&path, object.bytes, name, metric_rows_from_batch)?;
            let Some(first) = metrics.first() else { continue };
            let decided_at = first.decided_at.timestamp_micros();
            let published = if revision == record.completed {
                let others = others.remove(&window.start).unwrap_or_default();
                Published { metrics: newest.take().unwrap_or(metrics), ..others }
            } else {
                Published { metrics, ..Published::default() }
            };
            steps.push((decided_at, window.start, revision, published));
        }
    }
    steps.sort_by_key(|(decided_at, start, revision, _)| (*decided_at, *start, *revision));
    // Windows before the period, and then what has been replayed.
    let mut past = latest;
    let mut state = State::default();
    let mut was_final: HashMap<Micros, bool> = HashMap::new();
    for (decided_at, start, _, published) in steps {
        let seen_final = was_final.get(&start).copied().unwrap_or(false);
        let mut verdict = verdict(config, name, start, &published, &past, seen_final);
        verdict.is_final |= published.metrics.first().is_some_and(|row| row.state == "final");
        was_final.insert(start, verdict.is_final);
        for finding in &verdict.findings {
            let tally = replayed.rules.entry(finding.series.rule.clone()).or_default();
            tally.verdicts += 1;
            tally.bad += u64::from(finding.is_bad);
        }
        replayed.transitions.extend(state.take(&order, std::slice::from_ref(&verdict), decided_at));
        past.insert(start, published.metrics);
    }
    for transition in &replayed.transitions {
        let tally = replayed.rules.entry(transition.series.rule.clone()).or_default();
        match transition.kind {
            Kind::Firing => tally.firing += 1,
            Kind::Revised => tally.revised += 1,
            Kind::Withdrawn => tally.withdrawn += 1,
            Kind::Resolved => tally.resolved += 1,
            Kind::Missed => tally.missed += 1,
            Kind::Pending | Kind::Repeated => {}
        }
    }
    Ok(replayed)
}

/// From when to when `--from` and `--to` reach.
pub fn period(
    from: Option<chrono::DateTime<chrono::Utc>>,
    to: Option<chrono::DateTime<chrono::Utc>>,
) -> (Micros, Micros) {
    let (from, to) = (from.unwrap_or(time_of(Micros::MIN)), to.unwrap_or(time_of(Micros::MAX)));
    (from.timestamp_micros(), to.timestamp_micros())
}
