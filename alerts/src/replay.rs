//! What the rules would have said: every published revision in the order in which it was decided, through the same code.
use std::collections::{BTreeMap, BTreeSet, HashMap};

use driftline_ledger::LedgerState;
use driftline_schemas::clock::{Micros, time_of};
use driftline_schemas::config::{AlertsConfig, MONTH, Subject};
use driftline_schemas::history::window_name;
use driftline_schemas::tables::metric_rows_from_batch;
use driftline_store::{Store, paths};

use crate::judge::{self, Past, Published};
use crate::life::{Kind, State, Transition};
use crate::reference::{self, References};
use crate::stage::{learned_from, verdict};
use crate::{Error, read};

/// A revision of a window, as it was published.
struct Step {
    decided_at: Micros,
    start: Micros,
    revision: u64,
    published: Published,
    /// Of windows before the period, from which levels are learned, nothing is said.
    is_judged: bool,
}

/// What one rule would have done to one model.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Tally {
    /// Series that it has found, by fingerprint; none: it looks at something that is not there.
    pub series: BTreeSet<String>,
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
    /// Rules relative to the reference that could not judge a window, and why: of the last such window.
    pub unjudged: BTreeMap<String, String>,
    /// Revisions whose figures are kept no more (`retention.metrics_log`): what the rules would have said of them is unknown.
    pub lost: u64,
}

impl Replayed {
    /// Alerts of a rule in a month of 30 days.
    pub fn a_month(&self, tally: &Tally) -> f64 {
        if self.period == 0 { 0.0 } else { tally.firing as f64 * MONTH as f64 / self.period as f64 }
    }
}

/// Replays a model's windows that start in `[from, to)`.
///
/// Metrics are taken as each revision published them, and levels are learned from what had been published by then, in windows before
/// `from` too. Of serving, drift, quality, estimates, label_lag, comparisons and coverage the latest revision is all that is kept: it
/// stands for the last one only. Rules of the pipeline are judged by the clock, which does not come back. All is held in memory.
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
    let is_of_windows = |subject: &Subject| !matches!(subject, Subject::Pipeline(_));
    for rule in config.rules.iter().filter(|rule| rule.is_for(name) && is_of_windows(&rule.subject)) {
        replayed.rules.insert(rule.name.clone(), Tally::default());
    }
    let order: Vec<Micros> = model.windows.keys().copied().collect();
    let inside = || model.windows.range(from..to.max(from)).map(|(_, record)| record).filter(|r| r.completed > 0);
    let starts = || inside().map(|record| record.window.start);
    let spec = |start| ledger.era_settings(name, start).window;
    let needed = learned_from(config, name, &order, starts(), spec);
    let wanted = read::Wanted::of(config, name);
    let dates = read::dates(starts().chain(needed.iter().copied()));
    let mut latest = read::metrics(store, name, &dates, &wanted).await?;
    let mut others = read::others(store, name, &read::dates(starts()), &wanted).await?;
    let mut references = References::default();
    let is_relative = reference::is_wanted(config, name);
    let mut steps: Vec<Step> = Vec::new();
    let before = model.windows.range(..from).filter(|(start, _)| needed.contains(start)).map(|(_, record)| record);
    let before = before.filter(|record| record.completed > 0);
    let all = before.map(|record| (record, false)).chain(inside().map(|record| (record, true)));
    for (record, is_judged) in all {
        let window = record.window;
        let mut newest = latest.remove(&window.start);
        if is_judged {
            replayed.windows += 1;
            replayed.period += window.end - window.start;
        }
        for revision in 1..=record.completed {
            let named = format!("{}_r{revision}", window_name(window));
            let path = paths::table("metrics_log", name, window.date(), &named);
            let metrics = if let Some(object) = store.get(&path).await? {
                read::rows(&path, object.bytes, name, metric_rows_from_batch)?
            } else {
                replayed.lost += u64::from(is_judged);
                Vec::new()
            };
            let is_last = revision == record.completed;
            let mut published = if is_last {
                let others = others.remove(&window.start).unwrap_or_default();
                Published { metrics: newest.take().unwrap_or(metrics), spec: spec(window.start), ..others }
            } else {
                Published { metrics, spec: spec(window.start), ..Published::default() }
            };
            let decided_at = published.metrics.first().map(|row| row.decided_at.timestamp_micros());
            let decided_at = decided_at.or(published.window.as_ref().map(|row| row.decided_at.timestamp_micros()));
            let Some(decided_at) = decided_at else { continue };
            if is_relative && is_judged {
                let settings = ledger.era_settings(name, window.start);
                published.reference = references.of(store, name, &published.metrics, settings).await?;
            }
            steps.push(Step { decided_at, start: window.start, revision, published, is_judged });
        }
    }
    steps.sort_by_key(|step| (step.decided_at, step.start, step.revision));
    // What had been published by then, and nothing else.
    let mut past = Past::new();
    let mut state = State::default();
    let mut was_final: HashMap<Micros, bool> = HashMap::new();
    for Step { decided_at, start, published, is_judged, .. } in steps {
        if is_judged {
            replayed.unjudged.extend(judge::unjudged(config, name, &published));
            let seen_final = was_final.get(&start).copied().unwrap_or(false);
            let mut verdict = verdict(config, name, start, &published, &past, seen_final);
            verdict.is_final |= published.metrics.first().is_some_and(|row| row.state == "final");
            was_final.insert(start, verdict.is_final);
            for finding in &verdict.findings {
                let tally = replayed.rules.entry(finding.series.rule.clone()).or_default();
                tally.verdicts += 1;
                tally.bad += u64::from(finding.is_bad);
                tally.series.insert(finding.series.fingerprint());
            }
            replayed.transitions.extend(state.take(&order, std::slice::from_ref(&verdict), decided_at));
        }
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

#[cfg(test)]
mod tests {
    use driftline_ledger::shared::Shared;
    use driftline_ledger::{ModelState, WindowRecord};
    use driftline_schemas::config::Config;
    use driftline_schemas::tables::{MetricRow, metric_rows_to_batch};
    use driftline_schemas::window::Window;
    use parquet::arrow::ArrowWriter;

    use super::*;

    const HOUR: Micros = 3_600_000_000;

    fn row(hour: i64, revision: u64, value: f64, decided: Micros) -> MetricRow {
        MetricRow {
            model: "m".into(),
            window_start: time_of(hour * HOUR),
            window_end: time_of((hour + 1) * HOUR),
            metric: "accuracy".into(),
            value: Some(value),
            ci_low: Some(value - 0.01),
            ci_high: Some(value + 0.01),
            ci_level: Some(0.95),
            n: 5_000,
            n_labelled: 5_000,
            state: "sealed".into(),
            revision: revision as i64,
            decided_at: time_of(decided),
            ..MetricRow::default()
        }
    }

    async fn put(store: &Store, path: &str, rows: &[MetricRow]) {
        let batch = metric_rows_to_batch(rows);
        let mut bytes = Vec::new();
        let mut writer = ArrowWriter::try_new(&mut bytes, batch.schema(), None).expect("a writer");
        writer.write(&batch).expect("written");
        writer.close().expect("closed");
        store.put(path, bytes.into()).await.expect("stored");
    }

    /// Publishes revisions of windows, each (hour, revision, value, decided at which hour), as the evaluator does.
    async fn published(store: &Store, revisions: &[(i64, u64, f64, i64)]) -> LedgerState {
        let mut model = ModelState::default();
        let mut latest: BTreeMap<String, BTreeMap<i64, MetricRow>> = BTreeMap::new();
        for (hour, revision, value, decided) in revisions {
            let window = Window { start: hour * HOUR, end: (hour + 1) * HOUR };
            let row = row(*hour, *revision, *value, decided * HOUR);
            let named = format!("{}_r{revision}", window_name(window));
            put(store, &paths::table("metrics_log", "m", window.date(), &named), std::slice::from_ref(&row)).await;
            let path = paths::table("metrics", "m", window.date(), "metrics");
            latest.entry(path).or_default().insert(*hour, row);
            let record = model.windows.entry(window.start).or_insert_with(|| WindowRecord::new(window));
            (record.revision, record.completed) = (*revision, *revision);
        }
        for (path, rows) in latest {
            put(store, &path, &rows.into_values().collect::<Vec<_>>()).await;
        }
        let mut ledger = LedgerState::default();
        ledger.models.insert("m".into(), Shared::new(model));
        ledger
    }

    async fn replayed(revisions: &[(i64, u64, f64, i64)], level: &str, from: i64, to: i64) -> Replayed {
        let store = Store::in_memory();
        let ledger = published(&store, revisions).await;
        let text = format!("[[alerts.rules]]\nname = \"r\"\nmetric = \"accuracy\"\nbelow = {level}");
        let config = Config::from_table(text.parse().expect("TOML")).expect("a good configuration").alerts;
        replay(&store, &ledger, &config, "m", from * HOUR, to * HOUR).await.expect("replayed")
    }

    fn kinds(replayed: &Replayed) -> Vec<(Kind, Micros)> {
        replayed.transitions.iter().map(|transition| (transition.kind, transition.at / HOUR)).collect()
    }

    #[tokio::test]
    async fn revisions_are_judged_in_the_order_in_which_they_were_decided() {
        let revisions = [(0, 1, 0.9, 2), (1, 1, 0.5, 3), (1, 2, 0.9, 9), (2, 1, 0.5, 4), (3, 1, 0.9, 5)];
        let all = replayed(&revisions, "0.8", 0, 100).await;
        assert_eq!(kinds(&all), [(Kind::Firing, 3), (Kind::Resolved, 5)], "the second one's window holds the alert up");
        let one = replayed(&[(1, 1, 0.5, 3), (1, 2, 0.9, 9)], "0.8", 0, 100).await;
        assert_eq!(kinds(&one), [(Kind::Firing, 3), (Kind::Withdrawn, 9)]);
        let tally = &one.rules["r"];
        assert_eq!((tally.verdicts, tally.bad, tally.firing, tally.withdrawn, tally.series.len()), (2, 1, 1, 1, 1));
        assert_eq!((one.windows, one.period, one.lost), (1, HOUR, 0));
        assert!((one.a_month(tally) - 720.0).abs() < 1e-9);
    }

    #[tokio::test]
    async fn only_windows_of_the_period_are_judged_and_nothing_is_known_before_it_was_published() {
        let revisions = [(0, 1, 0.5, 2), (1, 1, 0.5, 3), (2, 1, 0.5, 4)];
        let inside = replayed(&revisions, "0.8", 1, 2).await;
        assert_eq!((inside.windows, inside.rules["r"].verdicts), (1, 1));
        // Two windows teach 0.9. That the first was rather 0.5 became known when the third had long been judged.
        let early = [(0, 1, 0.9, 2), (1, 1, 0.9, 3), (2, 1, 0.6, 4), (0, 2, 0.5, 50), (1, 2, 0.5, 51)];
        for from in [0, 2] {
            let learned = replayed(&early, "{ change = 0.05, windows = 2 }", from, 100).await;
            let of_third = learned.transitions.iter().find(|transition| transition.evidence.window_start == 2 * HOUR);
            let of_third = of_third.unwrap_or_else(|| panic!("from {from}: {:?}", learned.transitions));
            assert!(of_third.kind == Kind::Firing && (of_third.evidence.level - 0.85).abs() < 1e-12, "{of_third:?}");
        }
        // What is published too late for a level is not learned from.
        let late = [(0, 1, 0.9, 10), (1, 1, 0.9, 11), (2, 1, 0.6, 4)];
        let learned = replayed(&late, "{ change = 0.05, windows = 2 }", 0, 100).await;
        assert_eq!((kinds(&learned), learned.rules["r"].verdicts), (vec![], 0));
    }

    #[tokio::test]
    async fn revisions_that_are_kept_no_more_are_counted_and_not_guessed_at() {
        let store = Store::in_memory();
        let ledger = published(&store, &[(1, 1, 0.5, 3), (1, 2, 0.5, 9)]).await;
        let window = Window { start: HOUR, end: 2 * HOUR };
        let named = format!("{}_r1", window_name(window));
        store.delete(&paths::table("metrics_log", "m", window.date(), &named)).await.expect("deleted");
        let text = "[[alerts.rules]]\nname = \"r\"\nmetric = \"accuracy\"\nbelow = 0.8";
        let config = Config::from_table(text.parse().expect("TOML")).expect("a good configuration").alerts;
        let replayed = replay(&store, &ledger, &config, "m", 0, 100 * HOUR).await.expect("replayed");
        assert_eq!((kinds(&replayed), replayed.lost), (vec![(Kind::Firing, 9)], 1));
    }
}
