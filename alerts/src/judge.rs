//! A window under the rules: its published rows in, one finding for each series out.
use std::collections::BTreeMap;

use driftline_schemas::clock::{DAY, Micros};
use driftline_schemas::config::{AlertsConfig, Decide, Learned, Level, MONTH, Rule, Severity, Side, Subject};
use driftline_schemas::tables::{DriftRow, MetricRow, QualityRow, WindowRow};

use crate::evidence;
use crate::series::{Evidence, Series};

/// The size of effect that is bet on where a rule names none: on the scale of shares, and of the level elsewhere.
const SCALE: f64 = 0.05;
const SCALE_OF_LEVEL: f64 = 0.1;
/// Windows before one whose evidence adds to its own. More find smaller drops that last longer, and each costs a little of a
/// window's own evidence.
pub const MEMORY: usize = 23;
/// Findings of one window at most; a rule on more series than this is cut off, in the order of their names.
const FINDINGS_MAX: usize = 20_000;

/// What is published of one window at one revision.
#[derive(Debug, Clone, Default)]
pub struct Published {
    /// Its rows in `metrics`, and those in `serving`.
    pub metrics: Vec<MetricRow>,
    /// In `drift`.
    pub drift: Vec<DriftRow>,
    /// In `quality`.
    pub quality: Vec<QualityRow>,
    /// In `windows`.
    pub window: Option<WindowRow>,
}

/// The values of earlier windows, for levels that are learned: start of a window → its rows in `metrics`.
pub type Past = BTreeMap<Micros, Vec<MetricRow>>;

/// What a window says of one series.
#[derive(Debug, Clone, PartialEq)]
pub struct Finding {
    /// Of what.
    pub series: Series,
    /// What it rests on.
    pub evidence: Evidence,
    /// Whether the window is bad.
    pub is_bad: bool,
    /// Its rule's severity.
    pub severity: Severity,
    /// So many …
    pub hits: u32,
    /// … of so many windows have to be bad.
    pub of: u32,
    /// A window that was final already may raise an alert too.
    pub page_revisions: bool,
    /// Who is told; empty: all sinks.
    pub sinks: Vec<String>,
}

/// Before the family has been looked at.
struct Candidate<'a> {
    rule: &'a Rule,
    series: Series,
    evidence: Evidence,
    is_beyond: bool,
}

/// The share of false findings, and the chance of any while all is well, that one window may have: the budget, spread evenly
/// over windows. An online procedure that spends a finite sum (LOND, LORD) would get ever less sensitive over the years.
pub fn share_of_budget(config: &AlertsConfig, length: Micros) -> Option<f64> {
    config.budget.map(|budget| (budget * length as f64 / MONTH as f64).clamp(1e-12, 0.5))
}

/// Judges a window. Only series that have enough rows, and a level, are found; the others say nothing.
pub fn judge(config: &AlertsConfig, model: &str, published: &Published, past: &Past) -> Vec<Finding> {
    let mut candidates = Vec::new();
    for rule in config.rules.iter().filter(|rule| rule.is_for(model)) {
        let mut found = match &rule.subject {
            Subject::Metric { metric, class } => metrics(rule, metric, class.as_deref(), published, past),
            Subject::Drift { column } => drift(rule, column, published),
            Subject::Quality { check, column } => quality(rule, check, column, published),
            Subject::Coverage => coverage(rule, published),
        };
        found.sort_by(|a, b| a.series.cmp(&b.series));
        found.truncate(FINDINGS_MAX - candidates.len().min(FINDINGS_MAX));
        candidates.extend(found);
    }
    let length =
        published.window.as_ref().map_or(DAY, |w| (w.window_end - w.window_start).num_microseconds().unwrap_or(DAY));
    decide(share_of_budget(config, length), candidates)
}

/// The family's decision: each series that the budget pays for is one of its members, whatever its rule.
fn decide(share: Option<f64>, candidates: Vec<Candidate<'_>>) -> Vec<Finding> {
    let charged: Vec<f64> = candidates.iter().filter_map(|c| c.evidence.ln_e).collect();
    let mut rejected = share.map(|q| evidence::rejected(&charged, q)).into_iter().flatten();
    let finding = |candidate: Candidate<'_>| {
        let by_evidence = match (candidate.evidence.ln_e, share) {
            (None, _) => true,
            (Some(_), Some(_)) => rejected.next().unwrap_or(false),
            (Some(_), None) => is_clear(&candidate),
        };
        Finding {
            is_bad: candidate.is_beyond && by_evidence,
            severity: candidate.rule.severity,
            hits: candidate.rule.hits,
            of: candidate.rule.of,
            page_revisions: candidate.rule.page_revisions,
            sinks: candidate.rule.sinks.clone(),
            series: candidate.series,
            evidence: candidate.evidence,
        }
    };
    candidates.into_iter().map(finding).collect()
}

/// Without a budget: all of the interval lies beyond the level; drift has none, and its own test has decided.
fn is_clear(candidate: &Candidate<'_>) -> bool {
    let Evidence { ci_low, ci_high, level, .. } = candidate.evidence;
    match candidate.rule.side {
        Side::Below => ci_high.is_none_or(|high| high < level),
        Side::Above => ci_low.is_none_or(|low| low > level),
    }
}

/// Whether a group of rows is one that a rule looks at.
fn is_wanted(rule: &Rule, version: Option<&String>, segment: Option<&String>) -> bool {
    let by_segment = |segment: &String| rule.segments.iter().any(|wanted| wanted == "*" || wanted == segment);
    (version.is_none() || rule.versions) && segment.is_none_or(by_segment)
}

/// How far a value lies beyond the level, negative on the good side.
fn beyond(side: Side, value: f64, level: f64) -> f64 {
    match side {
        Side::Below => level - value,
        Side::Above => value - level,
    }
}

fn scale_of(rule: &Rule, level: f64) -> f64 {
    let usual = if level.abs() <= 1.0 { SCALE } else { SCALE_OF_LEVEL * level.abs() };
    usual.max(rule.min_effect)
}

/// What the rows of all tables have in common: whose they are, of which window, and how many rows they rest on.
macro_rules! found_in {
    ($row:expr, $rule:expr, $metric:expr, $value:expr, $level:expr) => {{
        let series = Series {
            rule: $rule.name.clone(),
            model: $row.model.clone(),
            metric: $metric.to_owned(),
            model_version: $row.model_version.clone(),
            segment: $row.segment.clone(),
            segment_value: $row.segment_value.clone(),
            ..Series::default()
        };
        let evidence = Evidence {
            window_start: $row.window_start.timestamp_micros(),
            window_end: $row.window_end.timestamp_micros(),
            revision: $row.revision.max(0) as u64,
            state: $row.state.clone(),
            value: $value,
            level: $level,
            ci_low: None,
            ci_high: None,
            p_value: None,
            n: $row.n,
            n_labelled: 0,
            ln_e: None,
        };
        (series, evidence)
    }};
}

fn metrics<'a>(
    rule: &'a Rule,
    metric: &str,
    class: Option<&str>,
    published: &Published,
    past: &Past,
) -> Vec<Candidate<'a>> {
    let mut found = Vec::new();
    let rows = published.metrics.iter().filter(|row| row.metric == metric && row.class.as_deref() == class);
    for row in rows.filter(|row| is_wanted(rule, row.model_version.as_ref(), row.segment.as_ref())) {
        let Some(value) = row.value.filter(|value| value.is_finite()) else { continue };
        let n = if counts_all_rows(metric) { row.n } else { row.n_labelled };
        if n < rule.min_rows as i64 {
            continue;
        }
        let Some(level) = level_of(rule, row, past) else { continue };
        let interval = row.ci_low.zip(row.ci_high);
        let ln_e = match (rule.decide, interval) {
            (Decide::Point, _) => None,
            // Nobody knows how far to trust the value: it decides nothing.
            (Decide::Interval, None) => continue,
            (Decide::Interval, Some(interval)) => {
                let earlier = run_before(rule, row, level, past);
                Some(evidence::of_run(of_row(rule, value, interval, level), &earlier, MEMORY))
            }
        };
        let beyond = beyond(rule.side, value, level);
        let (series, evidence) = found_in!(row, rule, metric, value, level);
        found.push(Candidate {
            rule,
            series: Series { class: row.class.clone(), ..series },
            evidence: Evidence {
                ci_low: row.ci_low,
                ci_high: row.ci_high,
                n_labelled: row.n_labelled,
                ln_e,
                ..evidence
            },
            is_beyond: beyond > 0.0 && beyond >= rule.min_effect,
        });
    }
    found
}

/// The evidence of one window by itself.
fn of_row(rule: &Rule, value: f64, interval: (f64, f64), level: f64) -> f64 {
    evidence::of_interval(value, interval, level, rule.side == Side::Below, scale_of(rule, level))
}

/// The evidence of the windows right before one, the newest first, as long as they lie on the bad side too: with one that does
/// not, whatever came before is over.
fn run_before(rule: &Rule, row: &MetricRow, level: f64, past: &Past) -> Vec<f64> {
    let start = row.window_start.timestamp_micros();
    let mut run = Vec::new();
    for (_, rows) in past.range(..start).rev().take(MEMORY) {
        let Some(before) = rows.iter().find(|other| is_same_series(row, other)) else { break };
        let (Some(value), Some(interval)) = (before.value, before.ci_low.zip(before.ci_high)) else { break };
        let n = if counts_all_rows(&row.metric) { before.n } else { before.n_labelled };
        let level = if rule.level == Level::Baseline { before.baseline.unwrap_or(level) } else { level };
        if beyond(rule.side, value, level) <= 0.0 || n < rule.min_rows as i64 {
            break;
        }
        run.push(of_row(rule, value, interval, level));
    }
    run
}

fn is_same_series(row: &MetricRow, other: &MetricRow) -> bool {
    other.metric == row.metric
        && other.class == row.class
        && other.model_version == row.model_version
        && other.segment == row.segment
        && other.segment_value == row.segment_value
}

/// Metrics of serving rest on all rows, labelled or not.
fn counts_all_rows(metric: &str) -> bool {
    metric.starts_with("latency") || matches!(metric, "error_rate" | "error_count" | "requests" | "requests_per_second")
}

fn level_of(rule: &Rule, row: &MetricRow, past: &Past) -> Option<f64> {
    let side = if rule.side == Side::Below { -1.0 } else { 1.0 };
    match rule.level {
        Level::Value(level) => Some(level),
        Level::Baseline => row.baseline,
        Level::OfDrift => None,
        Level::Sigmas { sigmas, from } => {
            let values = learned(row, past, from)?;
            let (mean, deviation) = moments(&values);
            Some(mean + side * sigmas * deviation)
        }
        Level::Change { change, from } => Some(moments(&learned(row, past, from)?).0 + side * change),
        Level::Quantile { quantile, from } => {
            let mut values = learned(row, past, from)?;
            values.sort_by(f64::total_cmp);
            // NumPy's `linear`: https://numpy.org/doc/stable/reference/generated/numpy.quantile.html
            let at = quantile * (values.len() - 1) as f64;
            let (low, high) = (values[at.floor() as usize], values[at.ceil() as usize]);
            Some(low + (high - low) * at.fract())
        }
    }
}

/// Values of the same series in earlier windows that are complete. At least half of those asked for, and two, or nothing.
fn learned(row: &MetricRow, past: &Past, from: Learned) -> Option<Vec<f64>> {
    let start = row.window_start.timestamp_micros();
    let is_same_hour = |other: Micros| !from.same_hour_of_week || (start - other).rem_euclid(7 * DAY) == 0;
    let is_same = |other: &&MetricRow| is_same_series(row, other) && other.state != "open";
    let windows = past.range(..start).rev().filter(|(other, _)| is_same_hour(**other));
    let values = windows.filter_map(|(_, rows)| rows.iter().find(is_same)?.value);
    let values: Vec<f64> = values.take(from.windows as usize).collect();
    (values.len() >= 2 && values.len() * 2 >= from.windows as usize).then_some(values)
}

/// Mean and standard deviation (of a sample).
fn moments(values: &[f64]) -> (f64, f64) {
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n;
    let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
    (mean, (squares / (n - 1.0)).sqrt())
}

/// Drift of features is judged once a window is sealed, for then its rows are there, and a test may be looked at once; that of
/// labels when it is final.
fn drift<'a>(rule: &'a Rule, column: &str, published: &Published) -> Vec<Candidate<'a>> {
    let mut found = Vec::new();
    let rows = published.drift.iter().filter(|row| row.decides == Some(true));
    let rows = rows.filter(|row| column == "*" || row.column_name == column);
    for row in rows.filter(|row| is_wanted(rule, row.model_version.as_ref(), row.segment.as_ref())) {
        let is_complete = row.state == "final" || (row.state != "open" && row.column_name != "label");
        let (Some(value), Some(is_drifted)) = (row.statistic, row.drifted) else { continue };
        if !is_complete || row.n < rule.min_rows as i64 {
            continue;
        }
        let ln_e = match (rule.decide, row.p_value) {
            (Decide::Point, _) => None,
            (Decide::Interval, None) => continue,
            (Decide::Interval, Some(p)) => Some(evidence::of_p_value(p)),
        };
        let (series, evidence) = found_in!(row, rule, row.method, value, row.threshold);
        found.push(Candidate {
            rule,
            series: Series { column: Some(row.column_name.clone()), ..series },
            evidence: Evidence { p_value: row.p_value, ln_e, ..evidence },
            is_beyond: is_drifted && value - row.threshold >= rule.min_effect,
        });
    }
    found
}

/// Shares of rows; their error is that of Wilson's interval.
fn quality<'a>(rule: &'a Rule, check: &str, column: &str, published: &Published) -> Vec<Candidate<'a>> {
    let Level::Value(level) = rule.level else { return Vec::new() };
    let mut found = Vec::new();
    let rows = published.quality.iter().filter(|row| row.check == check);
    let rows = rows.filter(|row| column == "*" || row.column_name == column);
    for row in rows.filter(|row| is_wanted(rule, row.model_version.as_ref(), row.segment.as_ref())) {
        let Some(value) = row.value else { continue };
        if row.n < rule.min_rows as i64 {
            continue;
        }
        let (low, high) = wilson(value, row.n as f64);
        let is_below_bad = rule.side == Side::Below;
        let strength = evidence::of_interval(value, (low, high), level, is_below_bad, scale_of(rule, level));
        let beyond = beyond(rule.side, value, level);
        let (series, evidence) = found_in!(row, rule, check, value, level);
        let ln_e = (rule.decide == Decide::Interval).then_some(strength);
        found.push(Candidate {
            rule,
            series: Series { column: Some(row.column_name.clone()), ..series },
            evidence: Evidence { ci_low: Some(low), ci_high: Some(high), ln_e, ..evidence },
            is_beyond: beyond > 0.0 && beyond >= rule.min_effect,
        });
    }
    found
}

/// Wilson's interval at 95 % of a share of `n` rows.
fn wilson(share: f64, n: f64) -> (f64, f64) {
    let z = 1.959_963_984_540_054_f64;
    let centre = (share + z * z / (2.0 * n)) / (1.0 + z * z / n);
    let half = z / (1.0 + z * z / n) * (share * (1.0 - share) / n + z * z / (4.0 * n * n)).sqrt();
    ((centre - half).max(0.0), (centre + half).min(1.0))
}

fn coverage<'a>(rule: &'a Rule, published: &Published) -> Vec<Candidate<'a>> {
    let (Level::Value(level), Some(row)) = (&rule.level, &published.window) else { return Vec::new() };
    let rows = row.labelled + row.waiting + row.expired;
    let Some(value) = row.label_coverage.filter(|_| row.state == "final" && rows >= rule.min_rows as i64) else {
        return Vec::new();
    };
    let beyond = beyond(rule.side, value, *level);
    let series = Series {
        rule: rule.name.clone(),
        model: row.model.clone(),
        metric: "label_coverage".to_owned(),
        ..Series::default()
    };
    let evidence = Evidence {
        window_start: row.window_start.timestamp_micros(),
        window_end: row.window_end.timestamp_micros(),
        revision: row.revision.max(0) as u64,
        state: row.state.clone(),
        value,
        level: *level,
        ci_low: None,
        ci_high: None,
        p_value: None,
        n: rows,
        n_labelled: row.labelled,
        ln_e: None,
    };
    vec![Candidate { rule, series, evidence, is_beyond: beyond > 0.0 && beyond >= rule.min_effect }]
}
