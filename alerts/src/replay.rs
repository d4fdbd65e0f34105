//! What the rules would have said: every published revision in the order in which it was decided, through the same code.
use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap};

use driftline_ledger::LedgerState;
use driftline_schemas::clock::{Micros, time_of};
use driftline_schemas::config::{AlertsConfig, MONTH};
use driftline_schemas::history::window_name;
use driftline_schemas::tables::{MetricRow, metric_rows_from_batch};
use driftline_store::{Store, paths};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

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
/// Metrics are taken as each revision published them. Of drift, quality and coverage the latest revision is all that is kept:
/// it stands for the last one only.
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
    for rule in config.rules.iter().filter(|rule| rule.models.is_empty() || rule.models.iter().any(|m| m == name)) {
        replayed.rules.insert(rule.name.clone(), Tally::default());
    }
    let order: Vec<Micros> = model.windows.keys().copied().collect();
    let mut steps: Vec<(Micros, Micros, u64, Published)> = Vec::new();
    let mut latest = HashMap::new();
    for record in model.windows.range(from..to.max(from)).map(|(_, record)| record).filter(|r| r.completed > 0) {
        let (window, date) = (record.window, record.window.date());
        replayed.windows += 1;
        replayed.period += window.end - window.start;
        for revision in 1..=record.completed {
            let path = paths::table("metrics_log", name, date, &format!("{}_r{revision}", window_name(window)));
            let Some(rows) = rows(store, name, &path).await? else { continue };
            let Some(first) = rows.first() else { continue };
            let decided_at = first.decided_at.timestamp_micros();
            let mut published = Published { metrics: rows, ..Published::default() };
            if revision == record.completed {
                let windows = match latest.entry(date) {
                    Entry::Occupied(known) => known.into_mut(),
                    Entry::Vacant(unknown) => unknown.insert(read::date(store, name, date).await?),
                };
                let all = windows.remove(&window.start);
                let metrics = std::mem::take(&mut published.metrics);
                published = Published { metrics, ..all.unwrap_or_default() };
            }
            steps.push((decided_at, window.start, revision, published));
        }
    }
    steps.sort_by_key(|(decided_at, start, revision, _)| (*decided_at, *start, *revision));
    let asked: Vec<(Micros, u64)> = steps.iter().map(|(_, start, revision, _)| (*start, *revision)).collect();
    let past = read::past(store, name, &learned_from(config, name, &order, &asked)).await?;
    let mut state = State::default();
    let mut was_final: HashMap<Micros, bool> = HashMap::new();
    for (decided_at, start, _, published) in &steps {
        let seen_final = was_final.get(start).copied().unwrap_or(false);
        let mut verdict = verdict(config, name, *start, published, &past, seen_final);
        verdict.is_final |= published.metrics.first().is_some_and(|row| row.state == "final");
        was_final.insert(*start, verdict.is_final);
        for finding in &verdict.findings {
            let tally = replayed.rules.entry(finding.series.rule.clone()).or_default();
            tally.verdicts += 1;
            tally.bad += u64::from(finding.is_bad);
        }
        // What was known then: windows of which nothing had been seen are not counted among successive ones.
        replayed.transitions.extend(state.take(&order, std::slice::from_ref(&verdict), *decided_at));
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

/// The rows of one revision; none if they are not kept.
async fn rows(store: &Store, model: &str, path: &str) -> Result<Option<Vec<MetricRow>>, Error> {
    let Some(object) = store.get(path).await? else { return Ok(None) };
    let failed = |source: Box<dyn std::error::Error + Send + Sync>| Error::Table { path: path.to_owned(), source };
    let reader = ParquetRecordBatchReaderBuilder::try_new(object.bytes).map_err(|e| failed(e.into()))?;
    let mut rows = Vec::new();
    for batch in reader.build().map_err(|e| failed(e.into()))? {
        let batch = batch.map_err(|e| failed(e.into()))?;
        rows.extend(metric_rows_from_batch(model, &batch).map_err(|e| failed(e.into()))?);
    }
    Ok(Some(rows))
}

/// From when to when `--from` and `--to` reach.
pub fn period(
    from: Option<chrono::DateTime<chrono::Utc>>,
    to: Option<chrono::DateTime<chrono::Utc>>,
) -> (Micros, Micros) {
    let (from, to) = (from.unwrap_or(time_of(Micros::MIN)), to.unwrap_or(time_of(Micros::MAX)));
    (from.timestamp_micros(), to.timestamp_micros())
}
