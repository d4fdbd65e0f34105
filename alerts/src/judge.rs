//! A window under the rules: its published rows in, one finding for each series out.
use std::collections::BTreeMap;

use driftline_schemas::clock::{DAY, Micros};
use driftline_schemas::config::{
    AlertsConfig, Decide, LABEL_LAGS, Learned, Level, MONTH, REFERENCE_WINDOWS_MIN, Rule, Severity, Side, Subject,
};
use driftline_schemas::tables::{ComparisonRow, DriftRow, MetricRow, QualityRow, WindowRow};
use driftline_schemas::window::WindowSpec;

use crate::evidence;
use crate::reference::Known;
use crate::series::{Evidence, Series};

/// The size of effect that is bet on where a rule names none: on the scale of shares, and of the level elsewhere.
const SCALE: f64 = 0.05;
const SCALE_OF_LEVEL: f64 = 0.1;
/// Windows before one whose evidence adds to its own. More find smaller drops that last longer, and each costs a little of a
/// window's own evidence.
pub const MEMORY: usize = 23;
/// A level that is learned is not known better than this many standard errors when a run of windows is held against it: the
/// error is the same for all of them, so it would add up like evidence.
const LEVEL_ERRORS: f64 = 3.0;
/// Findings of one window at most; a rule on more series than this is cut off, in the order of their names.
const FINDINGS_MAX: usize = 20_000;

/// What is published of one window at one revision.
#[derive(Debug, Clone, Default)]
pub struct Published {
    /// Its rows in `metrics`, and as such those in `serving`, `estimates` and `label_lag`.
    pub metrics: Vec<MetricRow>,
    /// In `comparisons`.
    pub comparisons: Vec<ComparisonRow>,
    /// In `drift`.
    pub drift: Vec<DriftRow>,
    /// In `quality`.
    pub quality: Vec<QualityRow>,
    /// In `windows`.
    pub window: Option<WindowRow>,
    /// How its model's windows lie.
    pub spec: WindowSpec,
    /// What the reference that it was judged with says of its own rows; `None`: no rule asks for it.
    pub reference: Option<Known>,
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
pub(crate) struct Candidate<'a> {
    pub(crate) rule: &'a Rule,
    pub(crate) series: Series,
    pub(crate) evidence: Evidence,
    pub(crate) is_beyond: bool,
    /// Where the value may lie, the level's own error included; decides where there is no budget.
    pub(crate) interval: Option<(f64, f64)>,
}

/// The name that an estimate goes by among the metrics.
pub(crate) fn estimate_name(metric: &str, method: &str) -> String {
    format!("{metric} ({method})")
}

/// The name of the share of predictions that have a label within so many seconds.
pub(crate) fn label_lag_name(within_seconds: i64) -> String {
    let typed = LABEL_LAGS.iter().find(|(_, seconds)| *seconds == within_seconds).map(|(typed, _)| *typed);
    typed.map_or_else(|| format!("labelled_within_{within_seconds}s"), |typed| format!("labelled_within_{typed}"))
}

/// The name of the median of the labels' delays.
pub(crate) const LABEL_LAG_MEDIAN: &str = "label_lag_median_seconds";

/// The share of false findings, and the chance of any while all is well, that one window may have: the budget, spread evenly
/// over windows. An online procedure that spends a finite sum (LOND, LORD) would get ever less sensitive over the years.
pub fn share_of_budget(config: &AlertsConfig, length: Micros) -> Option<f64> {
    config.budget.map(|budget| (budget * length as f64 / MONTH as f64).clamp(1e-12, 0.5))
}

/// Judges a window. Only series that have enough rows, and a level, are found; the others say nothing.
pub fn judge(config: &AlertsConfig, model: &str, published: &Published, past: &Past) -> Vec<Finding> {
    let mut candidates = Vec::new();
    for rule in config.rules.iter().filter(|rule| rule.is_for(model)) {
        let of_metrics = |names: &[String], class| metrics(rule, names, class, published, past);
        let mut found = match &rule.subject {
            Subject::Metric { metric, class } => of_metrics(std::slice::from_ref(metric), class.as_deref()),
            Subject::Estimate { metric, method: Some(method) } => of_metrics(&[estimate_name(metric, method)], None),
            Subject::Estimate { metric, method: None } => {
                of_metrics(&["cbpe", "dle"].map(|method| estimate_name(metric, method)), None)
            }
            Subject::LabelLag { within_seconds: Some(within) } => of_metrics(&[label_lag_name(*within)], None),
            Subject::LabelLag { within_seconds: None } => of_metrics(&[LABEL_LAG_MEDIAN.to_owned()], None),
            Subject::Drift { column } => drift(rule, column, published),
            Subject::Quality { check, column } => quality(rule, check, column, published),
            Subject::Coverage => coverage(rule, published),
            // Not of a window: `pipeline` judges it by the clock.
            Subject::Pipeline(_) => Vec::new(),
        };
        found.sort_by(|a, b| a.series.cmp(&b.series));
        found.truncate(FINDINGS_MAX - candidates.len().min(FINDINGS_MAX));
        candidates.extend(found);
    }
    decide(share_of_budget(config, length_of(published)), candidates)
}

/// Rules that cannot judge a window relative to its reference, though it has what they look at: by name, and why.
pub fn unjudged(config: &AlertsConfig, model: &str, published: &Published) -> BTreeMap<String, String> {
    let mut unjudged = BTreeMap::new();
    for rule in config.rules.iter().filter(|rule| rule.is_for(model)) {
        let (Subject::Metric { metric, class }, Level::Reference { .. }) = (&rule.subject, &rule.level) else {
            continue;
        };
        let is_looked_at = |row: &&MetricRow| {
            row.metric == *metric
                && row.class == *class
                && row.value.is_some()
                && is_wanted(rule, row.model_version.as_ref(), row.segment.as_ref())
        };
        let rows: Vec<&MetricRow> = published.metrics.iter().filter(is_looked_at).collect();
        let why = match &published.reference {
            _ if rows.is_empty() => continue,
            None => continue,
            Some(Err(why)) => why.clone(),
            Some(Ok(_)) if rows.iter().any(|row| tolerated(rule, row, published, &Past::new()).is_some()) => continue,
            Some(Ok(_)) => {
                let interval = if rule.decide == Decide::Interval { " with an interval" } else { "" };
                format!("its reference has no {metric}{interval} of these rows")
            }
        };
        unjudged.insert(rule.name.clone(), why);
    }
    unjudged
}

/// How long the window is.
fn length_of(published: &Published) -> Micros {
    let row = published.metrics.first().map(|row| row.window_end - row.window_start);
    let length = published.window.as_ref().map(|row| row.window_end - row.window_start).or(row);
    length.and_then(|length| length.num_microseconds()).unwrap_or(DAY)
}

/// The family's decision: each series that the budget pays for is one of its members, whatever its rule.
pub(crate) fn decide(share: Option<f64>, candidates: Vec<Candidate<'_>>) -> Vec<Finding> {
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
    let level = candidate.evidence.level;
    candidate.interval.is_none_or(|(low, high)| match candidate.rule.side {
        Side::Below => high < level,
        Side::Above => low > level,
    })
}

/// Whether a group of rows is one that a rule looks at.
fn is_wanted(rule: &Rule, version: Option<&String>, segment: Option<&String>) -> bool {
    let by_segment = |segment: &String| rule.segments.iter().any(|wanted| wanted == "*" || wanted == segment);
    (version.is_none() || rule.versions) && segment.is_none_or(by_segment)
}

/// How far a value lies beyond the level, negative on the good side.
pub(crate) fn beyond(side: Side, value: f64, level: f64) -> f64 {
    match side {
        Side::Below => level - value,
        Side::Above => value - level,
    }
}

pub(crate) fn scale_of(rule: &Rule, level: f64) -> f64 {
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
    names: &[String],
    class: Option<&str>,
    published: &Published,
    past: &Past,
) -> Vec<Candidate<'a>> {
    let mut found = Vec::new();
    let rows = published.metrics.iter().filter(|row| names.contains(&row.metric) && row.class.as_deref() == class);
    for row in rows.filter(|row| is_wanted(rule, row.model_version.as_ref(), row.segment.as_ref())) {
        let Some(own) = row.value.filter(|value| value.is_finite()) else { continue };
        if rows_of(row) < rule.min_rows as i64 {
            continue;
        }
        let Some(tolerated) = tolerated(rule, row, published, past) else { continue };
        let (value, level) = (tolerated.value.unwrap_or(own), tolerated.level);
        let interval = tolerated.interval.or_else(|| {
            let (low, high) = row.ci_low.zip(row.ci_high)?;
            Some(widened(value, (low, high), tolerated.error))
        });
        let ln_e = match (rule.decide, interval) {
            (Decide::Point, _) => None,
            // Nobody knows how far to trust the value: it decides nothing.
            (Decide::Interval, None) => continue,
            (Decide::Interval, Some(interval)) => {
                let newest = of_row(rule, value, interval, level);
                if adds_up(row, &tolerated) {
                    let earlier = run_before(rule, row, &tolerated, past);
                    Some(evidence::of_run(newest, &earlier, MEMORY))
                } else {
                    Some(newest)
                }
            }
        };
        let beyond = beyond(rule.side, value, level);
        let (series, evidence) = found_in!(row, rule, row.metric, value, level);
        let published = tolerated.interval.or_else(|| row.ci_low.zip(row.ci_high));
        found.push(Candidate {
            rule,
            series: Series { class: row.class.clone(), ..series },
            evidence: Evidence {
                ci_low: published.map(|(low, _)| low),
                ci_high: published.map(|(_, high)| high),
                n_labelled: row.n_labelled,
                ln_e,
                ..evidence
            },
            is_beyond: beyond > 0.0 && beyond >= rule.min_effect,
            interval,
        });
    }
    found
}

/// An interval with the level's own error in it: errors that know nothing of each other add up as squares.
fn widened(value: f64, (low, high): (f64, f64), error: f64) -> (f64, f64) {
    let half = |half: f64| half.max(0.0).hypot(evidence::Z95 * error);
    (value - half(value - low), value + half(high - value))
}

/// Whether the evidence of successive windows may be multiplied: their errors know nothing of each other. Those of estimates
/// share the reference's, and the pairs of versions of earlier windows are not read.
fn adds_up(row: &MetricRow, tolerated: &Tolerated) -> bool {
    let is_of_reference = ["cbpe", "dle"].iter().any(|method| row.metric.ends_with(&format!("({method})")));
    !is_of_reference && tolerated.interval.is_none()
}

/// The evidence of one window by itself.
fn of_row(rule: &Rule, value: f64, interval: (f64, f64), level: f64) -> f64 {
    evidence::of_interval(value, interval, level, rule.side == Side::Below, scale_of(rule, level))
}

/// The evidence of the windows right before one, the newest first, as long as they lie on the bad side too: with one that does
/// not, whatever came before is over.
fn run_before(rule: &Rule, row: &MetricRow, tolerated: &Tolerated, past: &Past) -> Vec<f64> {
    let start = row.window_start.timestamp_micros();
    let away = if rule.side == Side::Below { -LEVEL_ERRORS } else { LEVEL_ERRORS };
    let level = tolerated.level + away * tolerated.error;
    let mut run = Vec::new();
    for (_, rows) in past.range(..start).rev().take(MEMORY) {
        let Some(before) = rows.iter().find(|other| is_same_series(row, other)) else { break };
        let (Some(value), Some(interval)) = (before.value, before.ci_low.zip(before.ci_high)) else { break };
        let level = if rule.level == Level::Baseline { before.baseline.unwrap_or(level) } else { level };
        if beyond(rule.side, value, level) <= 0.0 || rows_of(before) < rule.min_rows as i64 {
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

/// The rows that a value rests on: labelled ones, but of serving, of estimates and of labels' delays all that are counted.
fn rows_of(row: &MetricRow) -> i64 {
    let counts_all = row.metric.starts_with("latency")
        || row.metric.starts_with("labelled_within_")
        || row.metric.ends_with("(cbpe)")
        || row.metric.ends_with("(dle)")
        || row.metric == LABEL_LAG_MEDIAN
        || matches!(row.metric.as_str(), "error_rate" | "error_count" | "requests" | "requests_per_second");
    if counts_all { row.n } else { row.n_labelled }
}

/// What is tolerated of one row.
struct Tolerated {
    level: f64,
    /// The level's standard error; 0 of one that somebody has set.
    error: f64,
    /// Of versions compared in the same window: the value on the rows that are compared, and where it may lie if the other
    /// version's stands still.
    value: Option<f64>,
    interval: Option<(f64, f64)>,
}

impl Tolerated {
    fn at(level: f64, error: f64) -> Self {
        Self { level, error, value: None, interval: None }
    }
}

fn tolerated(rule: &Rule, row: &MetricRow, published: &Published, past: &Past) -> Option<Tolerated> {
    let side = if rule.side == Side::Below { -1.0 } else { 1.0 };
    match rule.level {
        Level::Value(level) => Some(Tolerated::at(level, 0.0)),
        Level::Baseline => Some(Tolerated::at(row.baseline?, 0.0)),
        // Of drift, which looks at other rows.
        Level::OfDrift => None,
        Level::Reference { change } => {
            let own = published.reference.as_ref()?.as_ref().ok()?.of(row)?;
            // A difference of two estimates: the arms that make it small add up as squares (MOVER, Zou & Donner 2008), and that is
            // the reference's arm towards the bad side.
            let bound = if rule.side == Side::Below { own.ci_low } else { own.ci_high };
            let arm = match (bound, rule.decide) {
                (Some(bound), _) => (own.value - bound).abs(),
                (None, Decide::Point) => 0.0,
                // Nobody knows how far to trust it.
                (None, Decide::Interval) => return None,
            };
            Some(Tolerated::at(own.value + side * change, arm / evidence::Z95))
        }
        Level::Sigmas { sigmas, from } => {
            let values = learned(row, past, &published.spec, from)?;
            let (mean, deviation) = moments(&values);
            let n = values.len() as f64;
            // Of mean and deviation of a normal sample, which know nothing of each other.
            let error = deviation * (1.0 / n + sigmas * sigmas / (2.0 * (n - 1.0))).sqrt();
            Some(Tolerated::at(mean + side * sigmas * deviation, error))
        }
        Level::Change { change, from } => {
            let (mean, error) = mean_and_error(&learned(row, past, &published.spec, from)?);
            Some(Tolerated::at(mean + side * change, error))
        }
        Level::Quantile { quantile, from } => {
            let mut values = learned(row, past, &published.spec, from)?;
            values.sort_by(f64::total_cmp);
            // So many values lie below the true quantile, give or take a binomial deviation.
            let spread = (quantile * (1.0 - quantile) / values.len() as f64).sqrt();
            let (low, high) = (quantile_of(&values, quantile - spread), quantile_of(&values, quantile + spread));
            Some(Tolerated::at(quantile_of(&values, quantile), (high - low) / 2.0))
        }
        Level::PreviousVersion { change, from } => {
            let previous = previous_version(row, published, past)?;
            if let Some(side_by_side) = side_by_side(row, &previous, published, side * change) {
                return Some(side_by_side);
            }
            let of_previous = MetricRow { model_version: Some(previous), ..row.clone() };
            let (mean, error) = mean_and_error(&learned(&of_previous, past, &published.spec, from)?);
            Some(Tolerated::at(mean + side * change, error))
        }
    }
}

/// A version held against the one before in the same window, as `comparisons` has it: the interval is that of the difference.
fn side_by_side(row: &MetricRow, previous: &str, published: &Published, change: f64) -> Option<Tolerated> {
    let own = row.model_version.as_deref()?;
    if row.segment.is_some() {
        return None;
    }
    let pair = |other: &&ComparisonRow| {
        let versions = (other.version_a.as_str(), other.version_b.as_str());
        other.metric == row.metric && (versions == (previous, own) || versions == (own, previous))
    };
    let pair = published.comparisons.iter().find(pair)?;
    let (low, high) = (pair.ci_low?, pair.ci_high?);
    // The difference is the second version's value less the first's.
    let (own, before, low, high) = if pair.version_b == own {
        (pair.value_b?, pair.value_a?, low, high)
    } else {
        (pair.value_a?, pair.value_b?, -high, -low)
    };
    Some(Tolerated {
        level: before + change,
        error: 0.0,
        value: Some(own),
        interval: Some((before + low, before + high)),
    })
}

/// The version that came before a row's: by the window in which each is first seen, of those that are known here, and where
/// that is the same one by name (`1.9` before `1.10`).
fn previous_version(row: &MetricRow, published: &Published, past: &Past) -> Option<String> {
    let own = row.model_version.as_deref()?;
    let start = row.window_start.timestamp_micros();
    let mut first_seen: BTreeMap<&str, Micros> = BTreeMap::new();
    let earlier = past.range(..start).map(|(start, rows)| (*start, rows));
    for (start, rows) in earlier.chain([(start, &published.metrics)]) {
        let of_versions = rows.iter().filter(|other| other.metric == row.metric && other.segment == row.segment);
        for version in of_versions.filter_map(|other| other.model_version.as_deref()) {
            first_seen.entry(version).or_insert(start);
        }
    }
    let mut versions: Vec<(Micros, Vec<Part>, &str)> =
        first_seen.into_iter().map(|(version, seen)| (seen, parts(version), version)).collect();
    versions.sort();
    let at = versions.iter().position(|(_, _, version)| *version == own)?;
    Some(versions[at.checked_sub(1)?].2.to_owned())
}

/// A part of a version's name; numbers are compared as such.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Part {
    Number(u128),
    Text(String),
}

fn parts(name: &str) -> Vec<Part> {
    let mut parts: Vec<Part> = Vec::new();
    for c in name.chars() {
        match (c.to_digit(10), parts.last_mut()) {
            (Some(digit), Some(Part::Number(number))) => {
                *number = number.saturating_mul(10).saturating_add(u128::from(digit));
            }
            (Some(digit), _) => parts.push(Part::Number(u128::from(digit))),
            (None, Some(Part::Text(text))) => text.push(c),
            (None, _) => parts.push(Part::Text(c.to_string())),
        }
    }
    parts
}

/// Of ascending values; NumPy's `linear`: https://numpy.org/doc/stable/reference/generated/numpy.quantile.html
fn quantile_of(values: &[f64], quantile: f64) -> f64 {
    let at = quantile.clamp(0.0, 1.0) * (values.len() - 1) as f64;
    let (low, high) = (values[at.floor() as usize], values[at.ceil() as usize]);
    low + (high - low) * at.fract()
}

/// Values of the same series in earlier windows that are complete: the newest ones, or those of the reference's windows. At least
/// half of those asked for, and two; of reference windows [`REFERENCE_WINDOWS_MIN`]; or nothing.
fn learned(row: &MetricRow, past: &Past, spec: &WindowSpec, from: Learned) -> Option<Vec<f64>> {
    let start = row.window_start.timestamp_micros();
    let is_same = |other: &&MetricRow| is_same_series(row, other) && other.state != "open";
    let windows = past.range(..start).rev().filter(|(other, _)| is_learned_from(spec, start, **other, from));
    let values = windows.filter_map(|(_, rows)| rows.iter().find(is_same)?.value);
    let values: Vec<f64> = values.take(from.windows as usize).collect();
    let asked = from.windows as usize;
    let least = if from.between.is_some() { (REFERENCE_WINDOWS_MIN as usize).min(asked) } else { asked.div_ceil(2) };
    (values.len() >= least.max(2)).then_some(values)
}

/// Whether a window is one that a level for the window at `start` is learned from.
pub(crate) fn is_learned_from(spec: &WindowSpec, start: Micros, other: Micros, from: Learned) -> bool {
    other < start
        && (!from.same_hour_of_week || spec.is_same_hour_of_week(start, other))
        && from.between.is_none_or(|(begin, end)| (begin..end).contains(&other))
}

fn mean_and_error(values: &[f64]) -> (f64, f64) {
    let (mean, deviation) = moments(values);
    (mean, deviation / (values.len() as f64).sqrt())
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
            interval: None,
        });
    }
    found
}

/// Shares of rows; their error is that of Wilson's interval.
fn quality<'a>(rule: &'a Rule, check: &str, column: &str, published: &Published) -> Vec<Candidate<'a>> {
    let mut found = Vec::new();
    let rows = published.quality.iter().filter(|row| row.check == check);
    let rows = rows.filter(|row| column == "*" || row.column_name == column);
    for row in rows.filter(|row| is_wanted(rule, row.model_version.as_ref(), row.segment.as_ref())) {
        let Some(value) = row.value else { continue };
        if row.n < rule.min_rows as i64 {
            continue;
        }
        let level = match (&rule.level, row.reference_value) {
            (Level::Value(level), _) => *level,
            (Level::Reference { change }, Some(reference)) if rule.side == Side::Above => reference + change,
            (Level::Reference { change }, Some(reference)) => reference - change,
            _ => continue,
        };
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
            interval: Some((low, high)),
        });
    }
    found
}

/// Wilson's interval at 95 % of a share of `n` rows.
pub(crate) fn wilson(share: f64, n: f64) -> (f64, f64) {
    let z = evidence::Z95;
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
    vec![Candidate { rule, series, evidence, is_beyond: beyond > 0.0 && beyond >= rule.min_effect, interval: None }]
}

#[cfg(test)]
mod tests {
    use driftline_schemas::clock::time_of;
    use driftline_schemas::config::Config;

    use super::*;

    const HOUR: Micros = 3_600_000_000;
    const WEEK: Micros = 168;

    fn config(text: &str) -> AlertsConfig {
        Config::from_table(text.parse().expect("TOML")).expect("a good configuration").alerts
    }

    /// One rule, under a budget of one false alarm a month.
    fn rule(lines: &str) -> AlertsConfig {
        config(&format!("[[alerts.rules]]\nname = \"r\"\n{lines}"))
    }

    /// The same, where models have a reference file.
    fn relative(lines: &str) -> AlertsConfig {
        config(&format!("[defaults]\nreference = \"r.jsonl\"\n[[alerts.rules]]\nname = \"r\"\n{lines}"))
    }

    /// A share of `n` labelled rows in an hour's window, with Wilson's interval.
    fn row(hour: i64, value: f64, n: i64) -> MetricRow {
        let (low, high) = wilson(value, n as f64);
        MetricRow {
            model: "m".into(),
            window_start: time_of(hour * HOUR),
            window_end: time_of((hour + 1) * HOUR),
            metric: "accuracy".into(),
            value: Some(value),
            ci_low: Some(low),
            ci_high: Some(high),
            ci_level: Some(0.95),
            n,
            n_labelled: n,
            state: "sealed".into(),
            revision: 1,
            decided_at: time_of((hour + 2) * HOUR),
            ..MetricRow::default()
        }
    }

    fn of(rows: Vec<MetricRow>) -> Published {
        Published { metrics: rows, ..Published::default() }
    }

    fn past(rows: impl IntoIterator<Item = MetricRow>) -> Past {
        let mut past = Past::new();
        for row in rows {
            past.entry(row.window_start.timestamp_micros()).or_default().push(row);
        }
        past
    }

    fn judged(config: &AlertsConfig, rows: Vec<MetricRow>, past: &Past) -> Vec<Finding> {
        judge(config, "m", &of(rows), past)
    }

    fn is_bad(config: &AlertsConfig, row: MetricRow, past: &Past) -> bool {
        let findings = judged(config, vec![row], past);
        assert_eq!(findings.len(), 1, "{findings:?}");
        findings[0].is_bad
    }

    /// The level that a window of hour `hour` is held against.
    fn level(config: &AlertsConfig, row: MetricRow, past: &Past) -> Option<f64> {
        judged(config, vec![row], past).first().map(|finding| finding.evidence.level)
    }

    #[test]
    fn the_evidence_of_the_interval_decides_and_not_the_point() {
        let below = rule("metric = \"accuracy\"\nbelow = 0.8");
        assert!(is_bad(&below, row(0, 0.6, 2_000), &Past::new()));
        assert!(!is_bad(&below, row(0, 0.78, 200), &Past::new()), "a noisy point");
        assert!(!is_bad(&below, row(0, 0.9, 2_000), &Past::new()), "the good side");
        assert!(!is_bad(&below, row(0, 0.8, 2_000), &Past::new()), "at the level is tolerated");
        let above = rule("metric = \"accuracy\"\nabove = 0.8");
        assert!(is_bad(&above, row(0, 0.95, 2_000), &Past::new()));
        assert!(!is_bad(&above, row(0, 0.6, 2_000), &Past::new()));
        let point = rule("metric = \"accuracy\"\nbelow = 0.8\ndecide = \"point\"");
        let finding = &judged(&point, vec![row(0, 0.79, 200)], &Past::new())[0];
        assert!(finding.is_bad && finding.evidence.ln_e.is_none(), "{finding:?}");
        // A value whose interval is not known decides nothing, unless the point is to.
        let unknown = MetricRow { ci_low: None, ci_high: None, ..row(0, 0.1, 2_000) };
        assert_eq!(judged(&below, vec![unknown.clone()], &Past::new()), []);
        assert!(is_bad(&point, unknown, &Past::new()));
    }

    #[test]
    fn rows_and_effect_have_to_be_large_enough() {
        let config = rule("metric = \"accuracy\"\nbelow = 0.8\nmin_rows = 500\nmin_effect = 0.05");
        assert_eq!(judged(&config, vec![row(0, 0.1, 499)], &Past::new()), []);
        assert_eq!(judged(&config, vec![row(0, 0.1, 500)], &Past::new()).len(), 1);
        assert!(!is_bad(&config, row(0, 0.76, 1_000_000), &Past::new()), "certain, and too small");
        assert!(is_bad(&config, row(0, 0.74, 1_000_000), &Past::new()));
        // A metric of labels counts labelled rows, one of requests all.
        let unlabelled = MetricRow { n_labelled: 10, ..row(0, 0.1, 5_000) };
        assert_eq!(judged(&config, vec![unlabelled.clone()], &Past::new()), []);
        let config = rule("metric = \"error_rate\"\nabove = 0.05\nmin_rows = 500");
        let errors = MetricRow { metric: "error_rate".into(), ..unlabelled };
        assert_eq!(judged(&config, vec![errors], &Past::new()).len(), 1);
    }

    #[test]
    fn the_budget_is_spread_over_windows_and_shared_by_all_series_of_one() {
        let share = |text: &str, length| share_of_budget(&config(text), length);
        assert_eq!(share("", HOUR), Some(1.0 / 720.0));
        assert_eq!(share("", 24 * HOUR), Some(1.0 / 30.0));
        assert_eq!(share("[alerts]\nbudget = \"4 per month\"", HOUR), Some(4.0 / 720.0));
        assert_eq!(share("[alerts]\nbudget = \"1000 per day\"", MONTH), Some(0.5), "a chance is below one");
        assert_eq!(share("[alerts]\nbudget = \"none\"", HOUR), None);
        // What is clear alone is not among a hundred that could have been as bad by chance; the window's length comes of its
        // rows where nothing else says it.
        let all = rule("metric = \"accuracy\"\nbelow = 0.8\nsegments = [\"*\"]");
        let worst = (0..2_000).map(|drop| 0.8 - f64::from(drop) * 1e-4);
        let alone = worst.clone().find(|value| is_bad(&all, row(0, *value, 1_000), &Past::new())).expect("found");
        let among = |value: f64, others: i64| {
            let segment = |name: i64| MetricRow {
                segment: Some("s".into()),
                segment_value: Some(name.to_string()),
                ..row(0, 0.85, 1_000)
            };
            let mut rows: Vec<MetricRow> = (0..others).map(segment).collect();
            rows.push(row(0, value, 1_000));
            judged(&all, rows, &Past::new()).iter().any(|finding| finding.is_bad)
        };
        assert!(among(alone, 0) && !among(alone, 99), "{alone}");
        let in_hundred = worst.clone().find(|value| among(*value, 99)).expect("found");
        assert!(in_hundred < alone - 0.005, "{in_hundred} and {alone}");
        let day = MetricRow { window_end: time_of(24 * HOUR), ..row(0, alone + 0.004, 1_000) };
        assert!(!is_bad(&all, row(0, alone + 0.004, 1_000), &Past::new()) && is_bad(&all, day, &Past::new()));
        // Without a budget each interval decides for itself: all of it must lie beyond.
        let none =
            config("[alerts]\nbudget = \"none\"\n[[alerts.rules]]\nname = \"r\"\nmetric = \"accuracy\"\nbelow = 0.8");
        assert!(is_bad(&none, row(0, 0.77, 1_000), &Past::new()));
        assert!(!is_bad(&none, row(0, 0.78, 1_000), &Past::new()));
    }

    #[test]
    fn a_run_of_bad_windows_adds_up_and_ends_with_a_good_one() {
        let config = rule("metric = \"accuracy\"\nbelow = 0.9");
        let ln_e = |past: &Past| {
            judged(&config, vec![row(10, 0.88, 1_000)], past)[0].evidence.ln_e.expect("the interval decides")
        };
        let alone = ln_e(&Past::new());
        let run = ln_e(&past((5..10).map(|hour| row(hour, 0.88, 1_000))));
        assert!(run > alone + 1.0, "{run} and {alone}");
        let broken = ln_e(&past((5..10).map(|hour| row(hour, if hour == 9 { 0.95 } else { 0.88 }, 1_000))));
        assert!((broken - alone).abs() < 1e-9, "{broken} and {alone}");
        let too_few = ln_e(&past((5..10).map(|hour| row(hour, 0.88, if hour == 9 { 99 } else { 1_000 }))));
        assert!((too_few - alone).abs() < 1e-9);
        // A window that is still to come, and another series, have no say.
        let other = |hour| MetricRow { model_version: Some("2".into()), ..row(hour, 0.5, 1_000) };
        assert!((ln_e(&past((11..14).map(|hour| row(hour, 0.5, 1_000)))) - alone).abs() < 1e-9);
        assert!((ln_e(&past((5..10).map(other))) - alone).abs() < 1e-9);
    }

    #[test]
    fn a_rule_looks_at_the_versions_segments_and_classes_that_it_names() {
        let version = |name: &str| MetricRow { model_version: Some(name.into()), ..row(0, 0.5, 1_000) };
        let segment = |name: &str| MetricRow {
            segment: Some(name.into()),
            segment_value: Some("x".into()),
            ..row(0, 0.5, 1_000)
        };
        let class = MetricRow { class: Some("1".into()), ..row(0, 0.5, 1_000) };
        let rows = || vec![row(0, 0.5, 1_000), version("1"), segment("region"), segment("channel"), class.clone()];
        let count = |lines: &str| {
            judged(&rule(&format!("metric = \"accuracy\"\nbelow = 0.8\n{lines}")), rows(), &Past::new()).len()
        };
        assert_eq!(count(""), 1);
        assert_eq!(count("versions = true"), 2);
        assert_eq!(count("segments = [\"region\"]"), 2);
        assert_eq!(count("segments = [\"*\"]"), 3);
        assert_eq!(count("class = 1"), 1);
        assert_eq!(count("models = [\"other\"]"), 0);
        assert_eq!(count("models = [\"m\", \"other\"]"), 1);
        // In one order, whatever that of the table: a rule on too many series is cut off at the same one each time.
        let config = rule("metric = \"accuracy\"\nbelow = 0.8\nversions = true\nsegments = [\"*\"]");
        let series = |rows| judged(&config, rows, &Past::new()).into_iter().map(|f| f.series).collect::<Vec<_>>();
        assert_eq!(series(rows()), series(rows().into_iter().rev().collect()));
    }

    #[test]
    fn levels_are_learned_from_earlier_windows_that_are_complete() {
        let values = [0.80, 0.90, 0.85, 0.95];
        let rows = || values.iter().enumerate().map(|(at, value)| row(at as i64, *value, 1_000));
        let (mean, deviation) = (0.875, 0.064_549_722_436_790_28);
        let close = |level: Option<f64>, wanted: f64| {
            assert!(level.is_some_and(|level| (level - wanted).abs() < 1e-12), "{level:?} is not {wanted}");
        };
        let of = |level: &str| rule(&format!("metric = \"accuracy\"\n{level}"));
        let at = |text: &str, past: &Past| level(&of(text), row(10, 0.5, 1_000), past);
        close(at("below = { sigmas = 3, windows = 4 }", &past(rows())), mean - 3.0 * deviation);
        close(at("above = { sigmas = 2, windows = 4 }", &past(rows())), mean + 2.0 * deviation);
        close(at("below = { change = 0.05, windows = 4 }", &past(rows())), mean - 0.05);
        close(at("above = { change = 0.05, windows = 4 }", &past(rows())), mean + 0.05);
        // NumPy 2.3: np.quantile([0.8, 0.9, 0.85, 0.95], 0.25) and so on.
        close(at("below = { quantile = 0.25, windows = 4 }", &past(rows())), 0.8375);
        close(at("below = { quantile = 0.05, windows = 4 }", &past(rows())), 0.8075);
        // The newest ones count, and half of them are enough.
        close(at("below = { change = 0.0, windows = 2 }", &past(rows())), 0.90);
        close(at("below = { change = 0.0, windows = 8 }", &past(rows())), mean);
        assert_eq!(at("below = { change = 0.0, windows = 9 }", &past(rows())), None, "fewer than half");
        let open = rows().map(|row| MetricRow { state: "open".into(), ..row });
        assert_eq!(at("below = { change = 0.0, windows = 4 }", &past(open)), None, "open windows teach nothing");
        let later = rows().map(|mut row| {
            row.window_start += chrono::TimeDelta::hours(20);
            row
        });
        assert_eq!(
            at("below = { change = 0.0, windows = 4 }", &past(later)),
            None,
            "nothing is learned from what follows"
        );
    }

    #[test]
    fn a_season_is_the_same_hour_of_the_week() {
        // Nights are worse than days, as they always were.
        let at = |hour: i64| if hour.rem_euclid(24) < 6 { 0.7 } else { 0.9 };
        let all = past((0..6 * WEEK).map(|hour| row(hour, at(hour), 5_000)));
        let seasonal = rule("metric = \"accuracy\"\nbelow = { change = 0.02, windows = 4, same_hour_of_week = true }");
        let night = 6 * WEEK + 3;
        let found = level(&seasonal, row(night, 0.7, 5_000), &all).expect("four weeks are there");
        assert!((found - 0.68).abs() < 1e-12, "{found}");
        assert!(!is_bad(&seasonal, row(night, 0.7, 5_000), &all) && is_bad(&seasonal, row(night, 0.5, 5_000), &all));
        let plain = rule("metric = \"accuracy\"\nbelow = { change = 0.02, windows = 28 }");
        assert!(is_bad(&plain, row(night, 0.7, 5_000), &all), "a day's mean knows no night");
    }

    #[test]
    fn reference_windows_are_not_dragged_along_by_a_decline() {
        // A point a day is lost, for thirty days.
        let at = |hour: i64| 0.9 - 0.01 * (hour / 24) as f64;
        let all = past((0..30 * 24).map(|hour| row(hour, at(hour), 10_000)));
        let newest = || row(30 * 24, at(30 * 24), 10_000);
        let rolling = rule("metric = \"accuracy\"\nbelow = { change = 0.05, windows = 28 }");
        assert!(!is_bad(&rolling, newest(), &all), "every day looks like the day before");
        let fixed = rule(
            "metric = \"accuracy\"\nbelow = { change = 0.05, from = \"1970-01-01T00:00:00Z\", to = \"1970-01-02T00:00:00Z\" }",
        );
        assert!(level(&fixed, newest(), &all).is_some_and(|level| (level - 0.85).abs() < 1e-12));
        assert!(is_bad(&fixed, newest(), &all));
        assert_eq!(
            level(&fixed, newest(), &past((0..4).map(|hour| row(hour, 0.9, 100)))),
            None,
            "four teach too little"
        );
    }

    #[test]
    fn what_is_learned_from_few_windows_is_not_known_better_than_they_say() {
        // The mean of four windows of 400 rows is off by a percent: it must not turn into evidence against the fifth.
        let config = rule("metric = \"accuracy\"\nbelow = { change = 0.0, windows = 4 }");
        let noisy = |spread: f64| {
            past((0..4).map(|hour| row(hour, 0.9 + if hour % 2 == 0 { spread } else { -spread }, 100_000)))
        };
        let ln_e = |past: &Past| judged(&config, vec![row(4, 0.89, 100_000)], past)[0].evidence.ln_e.expect("decides");
        assert!(ln_e(&noisy(0.0)) > 20.0, "{}", ln_e(&noisy(0.0)));
        assert!(ln_e(&noisy(0.02)) < 1.0, "{}", ln_e(&noisy(0.02)));
    }

    /// A reference that has reached a share of `n` rows.
    fn reached(value: f64, n: f64) -> driftline_schemas::reference::ReferenceValue {
        let (low, high) = wilson(value, n);
        let own = row(0, value, n as i64);
        let own = MetricRow { ci_low: Some(low), ci_high: Some(high), ..own };
        driftline_schemas::reference::ReferenceValue::of(&own).expect("a value")
    }

    fn against(values: Vec<driftline_schemas::reference::ReferenceValue>) -> Option<Known> {
        let metrics = driftline_schemas::reference::ReferenceMetrics {
            threshold: 0.5,
            score_kind: driftline_schemas::tables::ScoreKind::Probability,
            positive_class: None,
            values,
        };
        Some(Ok(std::sync::Arc::new(metrics)))
    }

    #[test]
    fn a_metric_is_held_against_the_references_own_rows_and_no_better_than_these_are_known() {
        let config = relative("metric = \"accuracy\"\nbelow = { reference = 0.02 }");
        let judged = |config: &AlertsConfig, row: MetricRow, values| {
            let published = Published { metrics: vec![row], reference: against(values), ..Published::default() };
            judge(config, "m", &published, &Past::new())
        };
        let found = judged(&config, row(0, 0.80, 5_000), vec![reached(0.90, 1_000_000.0)]);
        assert!((found[0].evidence.level - 0.88).abs() < 1e-12 && found[0].is_bad, "{found:?}");
        assert_eq!(found[0].evidence.ci_low, row(0, 0.80, 5_000).ci_low, "the value's own interval is shown");
        assert!(!judged(&config, row(0, 0.885, 1_000_000), vec![reached(0.90, 1e6)])[0].is_bad, "tolerated");
        // Three hundred rows have reached 0.90, and may have been worth 0.86: the same window is no evidence against them.
        let (well, hardly) = (reached(0.90, 1e6), reached(0.90, 300.0));
        let ln_e = |own| judged(&config, row(0, 0.85, 5_000), vec![own])[0].evidence.ln_e.expect("it decides");
        let (well, hardly) = (ln_e(well), ln_e(hardly));
        assert!(well > 10.0 && hardly < 2.0, "{well} {hardly}");
        // The evidence is that of the difference of the two: by hand, from its standard error.
        let own = reached(0.90, 300.0);
        let window = row(0, 0.85, 5_000);
        let half = |a: f64, b: f64| (a - b).abs();
        let down = half(own.value, own.ci_low.expect("set"));
        let interval = (
            0.85 - half(0.85, window.ci_low.expect("set")).hypot(down),
            0.85 + half(0.85, window.ci_high.expect("set")).hypot(down),
        );
        let by_hand = evidence::of_interval(0.85, interval, 0.88, true, SCALE);
        assert!((hardly - evidence::of_run(by_hand, &[], MEMORY)).abs() < 1e-9, "{hardly} {by_hand}");
        // Above is bad, too: then it is the reference's upper arm.
        let above = relative("metric = \"accuracy\"\nabove = { reference = 0.02 }");
        let found = judged(&above, row(0, 0.99, 5_000), vec![reached(0.90, 1e6)]);
        assert!((found[0].evidence.level - 0.92).abs() < 1e-12 && found[0].is_bad, "{found:?}");
        // Without a budget the interval alone decides, and the reference's error is in it.
        let plain = |n: f64| {
            let text = "[defaults]\nreference = \"r.jsonl\"\n[alerts]\nbudget = \"none\"\n[[alerts.rules]]\nname = \"r\"\n\
                        metric = \"accuracy\"\nbelow = { reference = 0.0 }";
            judged(&super::tests::config(text), row(0, 0.87, 5_000), vec![reached(0.90, n)])[0].is_bad
        };
        assert!(plain(1e6) && !plain(100.0));
    }

    #[test]
    fn segments_are_held_against_the_references_own_segments_and_versions_against_the_whole() {
        let config =
            relative("metric = \"accuracy\"\nbelow = { reference = 0.02 }\nsegments = [\"*\"]\nversions = true");
        let of_segment = |value: f64, name: &str| MetricRow {
            segment: Some("region".into()),
            segment_value: Some(name.into()),
            ..row(0, value, 5_000)
        };
        let own_segment = driftline_schemas::reference::ReferenceValue {
            segment: Some("region".into()),
            segment_value: Some("eu".into()),
            ..reached(0.70, 1e6)
        };
        let rows = vec![
            of_segment(0.70, "eu"),
            of_segment(0.70, "us"),
            MetricRow { model_version: Some("2".into()), ..row(0, 0.70, 5_000) },
        ];
        let published = Published {
            metrics: rows,
            reference: against(vec![reached(0.90, 1e6), own_segment]),
            ..Published::default()
        };
        let found = judge(&config, "m", &published, &Past::new());
        let said: Vec<_> = found
            .iter()
            .map(|f| (f.series.segment_value.as_deref(), f.series.model_version.as_deref(), f.is_bad))
            .collect();
        assert_eq!(said, [(Some("eu"), None, false), (None, Some("2"), true)], "of us the reference says nothing");
    }

    #[test]
    fn a_rule_that_cannot_be_held_against_its_reference_says_why() {
        let config = relative("metric = \"accuracy\"\nbelow = { reference = 0.02 }");
        let why = |config: &AlertsConfig, rows: Vec<MetricRow>, reference: Option<Known>| {
            let published = Published { metrics: rows, reference, ..Published::default() };
            assert!(
                unjudged(config, "m", &published).is_empty() || judge(config, "m", &published, &Past::new()).is_empty()
            );
            unjudged(config, "m", &published).remove("r")
        };
        let here = || vec![row(0, 0.5, 5_000)];
        assert_eq!(why(&config, here(), Some(Err("it is old".into()))).as_deref(), Some("it is old"));
        assert_eq!(why(&config, here(), against(vec![reached(0.9, 100.0)])), None, "it judges");
        let said = why(&config, here(), against(vec![]));
        assert_eq!(said.as_deref(), Some("its reference has no accuracy with an interval of these rows"));
        let unsure =
            || driftline_schemas::reference::ReferenceValue { ci_low: None, ci_high: None, ..reached(0.9, 1e6) };
        assert_eq!(why(&config, here(), against(vec![unsure()])), said, "how well it is known is not known");
        let by_point = relative("metric = \"accuracy\"\nbelow = { reference = 0.02 }\ndecide = \"point\"");
        assert_eq!(why(&by_point, here(), against(vec![unsure()])), None);
        assert_eq!(why(&config, vec![], Some(Err("it is old".into()))), None, "there is nothing to judge");
        let of_number = rule("metric = \"accuracy\"\nbelow = 0.8");
        assert_eq!(why(&of_number, here(), Some(Err("it is old".into()))), None, "it asks for no reference");
    }

    fn comparison(a: (&str, f64), b: (&str, f64), (low, high): (f64, f64)) -> ComparisonRow {
        ComparisonRow {
            model: "m".into(),
            window_start: time_of(0),
            window_end: time_of(HOUR),
            metric: "accuracy".into(),
            version_a: a.0.into(),
            version_b: b.0.into(),
            value_a: Some(a.1),
            value_b: Some(b.1),
            difference: Some(b.1 - a.1),
            ci_low: Some(low),
            ci_high: Some(high),
            ci_level: Some(0.95),
            paired: true,
            n_a: 1_000,
            n_b: 1_000,
            state: "sealed".into(),
            revision: 1,
            decided_at: time_of(HOUR),
            ..ComparisonRow::default()
        }
    }

    #[test]
    fn a_version_is_held_against_the_one_before_it() {
        let version =
            |hour, name: &str, value| MetricRow { model_version: Some(name.into()), ..row(hour, value, 1_000) };
        let config = rule("metric = \"accuracy\"\nbelow = { previous_version = 0.01, windows = 4 }\nversions = true");
        // Side by side: the interval of the difference decides, though each interval alone is far too wide.
        let rows = vec![version(0, "9", 0.90), version(0, "10", 0.87)];
        let with =
            |pair: ComparisonRow| Published { metrics: rows.clone(), comparisons: vec![pair], ..Published::default() };
        let worse = judge(&config, "m", &with(comparison(("10", 0.87), ("9", 0.90), (0.026, 0.034))), &Past::new());
        assert_eq!(worse.len(), 1, "the first version has none before it: {worse:?}");
        let Finding { series, evidence, is_bad, .. } = &worse[0];
        assert_eq!((series.model_version.as_deref(), is_bad), (Some("10"), &true), "10 comes after 9: {evidence:?}");
        assert!((evidence.level - 0.89).abs() < 1e-12 && evidence.value == 0.87, "{evidence:?}");
        assert!((evidence.ci_low.expect("set") - 0.866).abs() < 1e-12, "{evidence:?}");
        assert!((evidence.ci_high.expect("set") - 0.874).abs() < 1e-12, "{evidence:?}");
        let unclear = judge(&config, "m", &with(comparison(("10", 0.87), ("9", 0.90), (-0.02, 0.08))), &Past::new());
        assert!(!unclear[0].is_bad, "{unclear:?}");
        // One after the other: the mean of the last windows of the version before.
        let before = past((0..4).map(|hour| version(hour, "b", 0.90)));
        let after = judged(&config, vec![version(4, "a", 0.70)], &before);
        assert_eq!(after.len(), 1, "{after:?}");
        assert!((after[0].evidence.level - 0.89).abs() < 1e-12 && after[0].is_bad, "first seen, not first by name");
        assert_eq!(judged(&config, vec![version(0, "a", 0.70)], &Past::new()), [], "nothing to be held against");
    }

    #[test]
    fn a_level_that_is_learned_brings_the_error_of_how_it_was_learned() {
        let values = [0.80, 0.90, 0.85, 0.95];
        let all = past(values.iter().enumerate().map(|(at, value)| row(at as i64, *value, 1_000)));
        let error = |lines: &str| {
            let config = rule(&format!("metric = \"accuracy\"\nbelow = {{ {lines}, windows = 4 }}"));
            let newest = row(10, 0.5, 1_000);
            tolerated(&config.rules[0], &newest, &of(vec![newest.clone()]), &all).expect("learned").error
        };
        // Deviation 0.0645497: over √4; times √(1/4 + 9/6); and half the way between the quantiles at 0.25 ± √(0.25 · 0.75 / 4).
        for (lines, expected) in
            [("change = 0.05", 0.032_274_861), ("sigmas = 3", 0.085_391_256), ("quantile = 0.25", 0.032_475_953)]
        {
            assert!((error(lines) - expected).abs() < 1e-8, "{lines}: {}", error(lines));
        }
    }

    #[test]
    fn what_is_bet_on_is_the_size_of_effect_that_a_rule_names_or_a_tenth_of_a_large_level() {
        let scale = |lines: &str, level: f64| {
            scale_of(&rule(&format!("metric = \"mean_absolute_error\"\nabove = 3\n{lines}")).rules[0], level)
        };
        assert_eq!((scale("", 0.8), scale("", -1.0)), (0.05, 0.05));
        assert_eq!((scale("", 300.0), scale("", -300.0)), (30.0, 30.0));
        assert_eq!((scale("min_effect = 0.2", 0.8), scale("min_effect = 50", 300.0)), (0.2, 50.0));
        assert_eq!(scale("min_effect = 0.01", 0.8), 0.05);
    }

    #[test]
    fn pairs_of_versions_do_not_add_up_and_are_of_all_rows() {
        let version =
            |hour, name: &str, value| MetricRow { model_version: Some(name.into()), ..row(hour, value, 1_000) };
        let config = rule(
            "metric = \"accuracy\"\nbelow = { previous_version = 0.01, windows = 4 }\nversions = true\nsegments = [\"*\"]",
        );
        let rows = vec![version(10, "9", 0.90), version(10, "10", 0.885)];
        let pair = comparison(("9", 0.90), ("10", 0.885), (-0.019, -0.011));
        let published = Published { metrics: rows, comparisons: vec![pair.clone()], ..Published::default() };
        let ln_e = |past: &Past| {
            let findings = judge(&config, "m", &published, past);
            findings.into_iter().map(|finding| finding.evidence.ln_e).collect::<Vec<_>>()
        };
        // The pairs of earlier windows are not read: a run of them would be made of intervals that know nothing of pairs.
        let earlier = past((0..10).flat_map(|hour| [version(hour, "9", 0.90), version(hour, "10", 0.80)]));
        assert_eq!((ln_e(&Past::new()).len(), ln_e(&Past::new())), (1, ln_e(&earlier)));
        // What is compared are all rows of both: a segment has its own past, or nothing.
        let of_segment =
            |row: MetricRow| MetricRow { segment: Some("region".into()), segment_value: Some("eu".into()), ..row };
        let rows = vec![of_segment(version(0, "9", 0.90)), of_segment(version(0, "10", 0.70))];
        let published = Published { metrics: rows, comparisons: vec![pair], ..Published::default() };
        assert_eq!(judge(&config, "m", &published, &Past::new()), []);
        // A version that only a segment knows came before nothing: of all rows, 2 follows 1.
        let earlier =
            past((0..4).flat_map(|hour| [version(hour, "1", 0.90), of_segment(version(hour + 1, "1b", 0.99))]));
        let found = judged(&config, vec![version(9, "2", 0.50)], &earlier);
        assert_eq!(found.len(), 1);
        assert!((found[0].evidence.level - 0.89).abs() < 1e-12, "{found:?}");
    }

    #[test]
    fn each_window_of_a_run_is_held_against_its_own_baseline() {
        let config = rule("metric = \"accuracy\"\nbelow = \"baseline\"");
        let of =
            |hour: i64, value: f64, baseline: f64| MetricRow { baseline: Some(baseline), ..row(hour, value, 1_000) };
        let ln_e = |past: &Past| {
            judged(&config, vec![of(10, 0.60, 0.61)], past).first().and_then(|finding| finding.evidence.ln_e)
        };
        // Below this window's baseline, and above their own: no run of bad windows.
        let good = past((0..10).map(|hour| of(hour, 0.58, 0.50)));
        let bad = past((0..10).map(|hour| of(hour, 0.58, 0.70)));
        assert_eq!(ln_e(&good), ln_e(&Past::new()));
        assert!(ln_e(&bad) > ln_e(&good));
    }

    #[test]
    fn names_of_versions_are_in_the_order_in_which_people_count() {
        let mut names = ["1.10", "1.9", "v2", "2", "1.9.1", "10"];
        names.sort_by_key(|name| parts(name));
        assert_eq!(names, ["1.9", "1.9.1", "1.10", "2", "10", "v2"]);
    }

    #[test]
    fn estimates_and_delays_of_labels_are_judged_by_their_intervals() {
        let named = |metric: &str, value| MetricRow { metric: metric.into(), n_labelled: 0, ..row(0, value, 2_000) };
        let rows = || vec![named("f1 (cbpe)", 0.5), named("f1 (nowcast)", 0.5), named("f1", 0.5)];
        let metrics = |lines: &str| {
            let findings = judged(&rule(lines), rows(), &Past::new());
            findings.iter().map(|finding| (finding.series.metric.clone(), finding.is_bad)).collect::<Vec<_>>()
        };
        assert_eq!(metrics("estimate = \"f1\"\nbelow = 0.8"), [("f1 (cbpe)".to_owned(), true)]);
        assert_eq!(metrics("estimate = \"f1\"\nbelow = 0.49"), [("f1 (cbpe)".to_owned(), false)]);
        assert_eq!(metrics("estimate = \"f1\"\nmethod = \"nowcast\"\nbelow = 0.8"), [], "a nowcast rests on labels");
        assert_eq!(metrics("estimate = \"f1\"\nmethod = \"dle\"\nbelow = 0.8"), []);
        // Estimates share the reference's error: what it is off by in one window, it is in all, and must not add up.
        let config = rule("estimate = \"f1\"\nbelow = 0.8");
        let now = |hour| MetricRow { window_start: time_of(hour * HOUR), ..named("f1 (cbpe)", 0.78) };
        let ln_e = |past: &Past| judged(&config, vec![now(10)], past)[0].evidence.ln_e;
        assert_eq!(ln_e(&Past::new()), ln_e(&past((0..10).map(now))));
        let config = rule("label_lag = \"1d\"\nbelow = 0.9");
        assert!(is_bad(&config, named("labelled_within_1d", 0.5), &Past::new()));
        assert!(!is_bad(&config, named("labelled_within_1d", 0.95), &Past::new()));
        let config = rule("label_lag = \"median\"\nabove = 86400");
        assert!(is_bad(
            &config,
            MetricRow { ci_low: None, ci_high: None, ..named(LABEL_LAG_MEDIAN, 9e4) },
            &Past::new()
        ));
    }

    fn drifted(state: &str, column: &str, statistic: f64, p: f64) -> DriftRow {
        DriftRow {
            model: "m".into(),
            window_start: time_of(0),
            window_end: time_of(HOUR),
            column_name: column.into(),
            method: "ks".into(),
            statistic: Some(statistic),
            p_value: Some(p),
            threshold: 0.1,
            drifted: Some(statistic >= 0.1 && p < 0.05),
            decides: Some(true),
            n: 1_000,
            n_reference: 1_000,
            state: state.into(),
            revision: 1,
            decided_at: time_of(HOUR),
            ..DriftRow::default()
        }
    }

    #[test]
    fn drift_is_judged_once_a_window_is_sealed_and_by_its_own_rule() {
        let found = |lines: &str, row: DriftRow| {
            let published = Published { drift: vec![row], ..Published::default() };
            judge(&rule(&format!("drift = \"*\"\n{lines}")), "m", &published, &Past::new())
        };
        let bad = |lines: &str, row: DriftRow| found(lines, row).iter().any(|finding| finding.is_bad);
        assert!(bad("", drifted("sealed", "x", 0.3, 1e-12)));
        assert!(!bad("", drifted("sealed", "x", 0.3, 0.01)), "not strong enough for the budget");
        assert!(!bad("", drifted("sealed", "x", 0.05, 1e-12)), "too small an effect");
        assert!(!bad("min_effect = 0.3", drifted("sealed", "x", 0.3, 1e-12)));
        assert_eq!(found("", drifted("open", "x", 0.3, 1e-12)), [], "a test is for one look");
        assert_eq!(found("", drifted("sealed", "label", 0.3, 1e-12)), [], "labels are still coming");
        assert!(bad("", drifted("final", "label", 0.3, 1e-12)));
        assert_eq!(found("", DriftRow { decides: Some(false), ..drifted("sealed", "x", 0.3, 1e-12) }), []);
        assert_eq!(found("min_rows = 2000", drifted("sealed", "x", 0.3, 1e-12)), []);
        // No test, no chance of a false alarm that a budget could be held to.
        let untested = || DriftRow { p_value: None, drifted: Some(true), ..drifted("sealed", "x", 0.3, 1e-12) };
        assert_eq!(found("", untested()), []);
        assert!(bad("decide = \"point\"", untested()));
    }

    #[test]
    fn quality_is_held_against_a_number_or_the_references_own() {
        let row = |value: f64, reference: Option<f64>| QualityRow {
            model: "m".into(),
            window_start: time_of(0),
            window_end: time_of(HOUR),
            column_name: "x".into(),
            check: "missing_rate".into(),
            value: Some(value),
            reference_value: reference,
            n: 5_000,
            state: "sealed".into(),
            revision: 1,
            decided_at: time_of(HOUR),
            ..QualityRow::default()
        };
        let found = |lines: &str, row: QualityRow| {
            let published = Published { quality: vec![row], ..Published::default() };
            judge(&relative(&format!("quality = \"missing_rate\"\n{lines}")), "m", &published, &Past::new())
        };
        assert!(found("above = 0.2", row(0.4, None))[0].is_bad);
        assert!(!found("above = 0.2", row(0.205, None))[0].is_bad);
        let relative = "above = { reference = 0.05 }";
        assert!((found(relative, row(0.4, Some(0.3)))[0].evidence.level - 0.35).abs() < 1e-12);
        assert!(found(relative, row(0.4, Some(0.3)))[0].is_bad && !found(relative, row(0.4, Some(0.4)))[0].is_bad);
        let below = &found("below = { reference = 0.05 }", row(0.4, Some(0.5)))[0];
        assert!((below.evidence.level - 0.45).abs() < 1e-12 && below.is_bad, "{below:?}");
        assert_eq!(found(relative, row(0.4, None)), [], "no reference, no level");
        assert_eq!(found("above = 0.2\ncolumn = \"y\"", row(0.4, None)), []);
    }

    #[test]
    fn coverage_is_judged_when_nothing_more_can_come() {
        let window = |state: &str, labelled: i64| WindowRow {
            model: "m".into(),
            window_start: time_of(0),
            window_end: time_of(HOUR),
            state: state.into(),
            revision: 1,
            predictions: 1_000,
            labelled,
            waiting: 0,
            expired: 1_000 - labelled,
            failed: 0,
            invalid: 0,
            duplicates: 0,
            after_final: 0,
            label_coverage: Some(labelled as f64 / 1_000.0),
            late_predictions: 0,
            decided_at: time_of(HOUR),
        };
        let bad = |state: &str, labelled| {
            let published = Published { window: Some(window(state, labelled)), ..Published::default() };
            let findings = judge(&rule("coverage = true\nbelow = 0.5"), "m", &published, &Past::new());
            findings.first().map(|finding| finding.is_bad)
        };
        assert_eq!((bad("sealed", 100), bad("final", 100), bad("final", 900)), (None, Some(true), Some(false)));
        // Rows that nobody labelled in time are rows: a window of few labels is the one that is looked for.
        let published = Published { window: Some(window("final", 10)), ..Published::default() };
        let findings = judge(&rule("coverage = true\nbelow = 0.5\nmin_rows = 900"), "m", &published, &Past::new());
        assert_eq!(
            findings.iter().map(|finding| (finding.evidence.n, finding.is_bad)).collect::<Vec<_>>(),
            [(1_000, true)]
        );
    }
}
