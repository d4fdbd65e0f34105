//! What a person should know first. Intervals decide, not points: a value that chance explains is not mentioned.
use std::collections::BTreeMap;

use super::{
    AlertLine, Finding, GroupPoint, Headline, MetricPoint, Report, Severity, headlines, number, percent, time,
};

/// Windows before the newest one that it is compared with, at least: the median of fewer says little.
const WINDOWS_MIN: usize = 3;
/// A share of requests that failed, or were refused, from which on it is worth a sentence.
const SHARE_NOTABLE: f64 = 0.01;
/// Alerts that have a sentence each.
const ALERTS_MAX: usize = 5;
/// Columns named in one sentence.
const NAMES_MAX: usize = 5;
/// Sentences about segments at most.
const SEGMENTS_MAX: usize = 5;
/// Labelled predictions of a segment from which on it is worth a sentence.
const SEGMENT_ROWS_MIN: i64 = 30;

/// Everything that stands out, the weightiest first; never empty.
pub(super) fn findings(report: &Report) -> Vec<Finding> {
    let mut findings = Vec::new();
    findings.extend(alerts(report));
    findings.extend(headlines(report.task).iter().filter_map(|headline| change(report, *headline)));
    findings.extend(headlines(report.task).iter().filter_map(|headline| episodes(report, *headline)));
    findings.extend(segments(report));
    findings.extend(drift(report));
    findings.extend(labels(report));
    findings.extend(failures(report));
    findings.sort_by_key(|finding| finding.severity);
    if findings.is_empty() {
        findings.push(Finding { severity: Severity::Fine, text: nothing(report) });
    }
    findings
}

fn nothing(report: &Report) -> String {
    match report.newest_labelled() {
        None => "No label has come yet, so nothing is known of how good the predictions are.".into(),
        Some(_) => {
            "Nothing stands out: no metric's interval lies beyond its earlier windows, and no column has drifted."
                .into()
        }
    }
}

/// Alerts of the period that still hold: the worst ones in a sentence each.
fn alerts(report: &Report) -> Vec<Finding> {
    let mut last: BTreeMap<&str, &AlertLine> = BTreeMap::new();
    for alert in &report.alerts {
        last.insert(&alert.alert_id, alert);
    }
    let holds = |alert: &&AlertLine| matches!(alert.transition.as_str(), "firing" | "revised" | "repeated");
    let mut firing: Vec<&AlertLine> = last.into_values().filter(holds).collect();
    let rank =
        |alert: &AlertLine| ["critical", "error", "warning", "info"].iter().position(|word| *word == alert.severity);
    firing.sort_by_key(|alert| (rank(alert).unwrap_or(usize::MAX), std::cmp::Reverse(alert.start)));
    let mut findings: Vec<Finding> = firing
        .iter()
        .take(ALERTS_MAX)
        .map(|alert| {
            let is_bad = matches!(alert.severity.as_str(), "critical" | "error");
            let severity = if is_bad { Severity::Bad } else { Severity::Notable };
            Finding { severity, text: format!("Alert ({}): {}.", alert.severity, alert.text) }
        })
        .collect();
    let more = firing.len().saturating_sub(ALERTS_MAX);
    if more > 0 {
        findings
            .push(Finding { severity: Severity::Notable, text: format!("{more} more alerts of these windows hold.") });
    }
    findings
}

/// An interval that holds: one that carries a warning decides nothing.
fn interval(low: Option<f64>, high: Option<f64>, warning: Option<&String>) -> Option<(f64, f64)> {
    low.zip(high).filter(|_| warning.is_none())
}

/// The newest value of a metric against the median of the windows before it.
fn change(report: &Report, headline: Headline) -> Option<Finding> {
    let newest = report.newest_labelled()?.start;
    let points: Vec<&MetricPoint> = report.series(headline.name).filter(|point| point.value.is_some()).collect();
    let last = points.iter().find(|point| point.start == newest)?;
    let mut before: Vec<f64> =
        points.iter().filter(|point| point.start < newest).filter_map(|point| point.value).collect();
    if before.len() < WINDOWS_MIN {
        return None;
    }
    before.sort_unstable_by(f64::total_cmp);
    let median = median(&before);
    let (value, (low, high)) = (last.value?, interval(last.ci_low, last.ci_high, last.ci_warning.as_ref())?);
    let is_worse = headline.is_worse((low, high), median);
    let is_better = if headline.more_is_better { low > median } else { high < median };
    let verb = if value < median { "below" } else { "above" };
    let text = format!(
        "{} of the window from {} is {} (interval {} to {}), {verb} the {} that is the median of the {} windows before.",
        headline.name,
        time(last.start),
        number(value),
        number(low),
        number(high),
        number(median),
        before.len(),
    );
    match (is_worse, is_better) {
        (true, _) => Some(Finding { severity: Severity::Bad, text }),
        (_, true) => Some(Finding { severity: Severity::Fine, text }),
        _ => None,
    }
}

/// Earlier windows of the period whose interval lies wholly on the worse side of its median.
fn episodes(report: &Report, headline: Headline) -> Option<Finding> {
    let newest = report.newest_labelled()?.start;
    let points: Vec<&MetricPoint> = report.series(headline.name).filter(|point| point.value.is_some()).collect();
    if points.len() <= WINDOWS_MIN {
        return None;
    }
    let mut values: Vec<f64> = points.iter().filter_map(|point| point.value).collect();
    values.sort_unstable_by(f64::total_cmp);
    let median = median(&values);
    let is_worse = |point: &&&MetricPoint| {
        let interval = interval(point.ci_low, point.ci_high, point.ci_warning.as_ref());
        interval.is_some_and(|interval| headline.is_worse(interval, median))
    };
    let worse: Vec<&&MetricPoint> = points.iter().filter(|point| point.start != newest).filter(is_worse).collect();
    let by_value = |one: &&&&MetricPoint, other: &&&&MetricPoint| {
        one.value.partial_cmp(&other.value).unwrap_or(std::cmp::Ordering::Equal)
    };
    let worst = if headline.more_is_better { worse.iter().min_by(by_value) } else { worse.iter().max_by(by_value) }?;
    let text = format!(
        "{} was worse in {} of {} windows than its median of {}, as far as {} (interval {} to {}) in the one from {}.",
        headline.name,
        worse.len(),
        points.len(),
        number(median),
        number(worst.value?),
        number(worst.ci_low?),
        number(worst.ci_high?),
        time(worst.start),
    );
    Some(Finding { severity: Severity::Notable, text })
}

/// The median of an ascending list that is not empty.
fn median(sorted: &[f64]) -> f64 {
    let middle = sorted.len() / 2;
    if sorted.len() % 2 == 1 { sorted[middle] } else { f64::midpoint(sorted[middle - 1], sorted[middle]) }
}

/// Segments whose newest interval lies wholly on the worse side of the whole, those that cost most first.
fn segments(report: &Report) -> Vec<Finding> {
    let worst = harm(report);
    let notable =
        worst.into_iter().filter(|harm| harm.is_certain && harm.n_labelled >= SEGMENT_ROWS_MIN).take(SEGMENTS_MAX);
    notable
        .map(|harm| Finding {
            severity: Severity::Notable,
            text: format!(
                "{} is {} where {} is {}, over all it is {} (window from {}, {} labelled).",
                harm.metric,
                number(harm.value),
                harm.group,
                harm.group_value,
                number(harm.overall),
                time(harm.start),
                harm.n_labelled,
            ),
        })
        .collect()
}

/// Columns that have drifted in the newest window that was measured, and for how many windows in a row.
fn drift(report: &Report) -> Option<Finding> {
    let newest = report.drift.iter().filter(|point| point.drifted.is_some()).map(|point| point.start).max()?;
    let mut by_column: BTreeMap<&str, BTreeMap<i64, bool>> = BTreeMap::new();
    for point in &report.drift {
        if let Some(drifted) = point.drifted {
            *by_column.entry(&point.column).or_default().entry(point.start).or_default() |= drifted;
        }
    }
    let runs = by_column.iter().filter_map(|(column, windows)| {
        let run = windows.range(..=newest).rev().take_while(|(_, drifted)| **drifted).count();
        (windows.get(&newest) == Some(&true)).then_some((run, *column))
    });
    let mut runs: Vec<(usize, &str)> = runs.collect();
    if runs.is_empty() {
        return None;
    }
    runs.sort_unstable_by(|one, other| other.0.cmp(&one.0).then(one.1.cmp(other.1)));
    let named: Vec<String> = runs
        .iter()
        .take(NAMES_MAX)
        .map(|(run, column)| format!("{column} ({run} window{} in a row)", if *run == 1 { "" } else { "s" }))
        .collect();
    let more = runs.len().saturating_sub(NAMES_MAX);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    let text = format!(
        "In the window from {} these have drifted from the reference: {}{more}.",
        time(newest),
        named.join(", ")
    );
    Some(Finding { severity: Severity::Notable, text })
}

/// Windows that are over and have fewer labels than those before them.
fn labels(report: &Report) -> Option<Finding> {
    let over: Vec<_> = report.windows.iter().filter(|window| window.state == "final").collect();
    let (last, before) = over.split_last()?;
    let mut coverage: Vec<f64> = before.iter().filter_map(|window| window.label_coverage).collect();
    if coverage.len() < WINDOWS_MIN {
        return None;
    }
    coverage.sort_unstable_by(f64::total_cmp);
    let (usual, now) = (median(&coverage), last.label_coverage?);
    (now < usual - 0.1).then(|| Finding {
        severity: Severity::Notable,
        text: format!(
            "The final window from {} has labels for {} of its predictions; {} is usual.",
            time(last.start),
            percent(now),
            percent(usual)
        ),
    })
}

/// Requests that failed or that settings refuse, over the period.
fn failures(report: &Report) -> Vec<Finding> {
    let sum = |of: fn(&super::WindowLine) -> i64| report.windows.iter().map(of).sum::<i64>();
    // Copies of a prediction are no requests of their own.
    let all = sum(|window| window.predictions - window.duplicates);
    let share = |count: i64| count as f64 / all.max(1) as f64;
    let say = |count: i64, what: &str| {
        (share(count) >= SHARE_NOTABLE).then(|| Finding {
            severity: Severity::Notable,
            text: format!("{} of {all} predictions {what} ({}).", count, percent(share(count))),
        })
    };
    let failed = say(sum(|window| window.failed), "failed");
    let refused =
        say(sum(|window| window.invalid), "are left out of all metrics, for the model's settings refuse them");
    failed.into_iter().chain(refused).collect()
}

/// How much worse a segment is than the whole, in the newest window with labels.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Harm {
    pub(super) start: i64,
    pub(super) group: String,
    pub(super) group_value: String,
    pub(super) metric: &'static str,
    pub(super) value: f64,
    pub(super) overall: f64,
    pub(super) ci_low: Option<f64>,
    pub(super) ci_high: Option<f64>,
    pub(super) n_labelled: i64,
    /// How much worse, times how many it concerns.
    pub(super) weight: f64,
    /// The interval lies wholly on the worse side.
    pub(super) is_certain: bool,
}

/// Segments by what they cost in the first headline metric that has values, the costliest first.
pub(super) fn harm(report: &Report) -> Vec<Harm> {
    let Some(newest) = report.newest_labelled().map(|window| window.start) else { return Vec::new() };
    for headline in headlines(report.task) {
        let overall = report.series(headline.name).find(|point| point.start == newest).and_then(|point| point.value);
        let Some(overall) = overall else { continue };
        let here = |point: &&GroupPoint| point.start == newest && point.metric == headline.name;
        let mut all: Vec<Harm> =
            report.segments.iter().filter(here).filter_map(|point| of(point, *headline, overall)).collect();
        if all.is_empty() {
            continue;
        }
        all.sort_by(|one, other| other.weight.total_cmp(&one.weight));
        return all;
    }
    Vec::new()
}

fn of(point: &GroupPoint, headline: Headline, overall: f64) -> Option<Harm> {
    let value = point.value?;
    let worse_by = if headline.more_is_better { overall - value } else { value - overall };
    let interval = interval(point.ci_low, point.ci_high, point.ci_warning.as_ref());
    let is_certain = interval.is_some_and(|interval| headline.is_worse(interval, overall));
    Some(Harm {
        start: point.start,
        group: point.group.clone(),
        group_value: point.group_value.clone(),
        metric: headline.name,
        value,
        overall,
        ci_low: point.ci_low,
        ci_high: point.ci_high,
        n_labelled: point.n_labelled,
        weight: worse_by * point.n_labelled as f64,
        is_certain,
    })
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;
    use driftline_schemas::tables::Task;

    use super::*;
    use crate::report::{DriftPoint, WindowLine};

    const HOUR: i64 = 3_600_000_000;

    fn window(at: i64, labelled: i64) -> WindowLine {
        WindowLine {
            start: at * HOUR,
            end: (at + 1) * HOUR,
            state: "final".into(),
            revision: 1,
            predictions: 100,
            labelled,
            failed: 0,
            invalid: 0,
            duplicates: 0,
            waiting: 100 - labelled,
            expired: 0,
            after_final: 0,
            label_coverage: Some(labelled as f64 / 100.0),
            decided_at: 0,
        }
    }

    fn auc(at: i64, value: f64, low: f64, high: f64) -> MetricPoint {
        MetricPoint {
            start: at * HOUR,
            metric: "roc_auc".into(),
            class: None,
            value: Some(value),
            reason: None,
            error_bound: None,
            ci_low: Some(low),
            ci_high: Some(high),
            ci_warning: None,
            n_labelled: 100,
        }
    }

    fn report(newest: MetricPoint) -> Report {
        let mut metrics: Vec<MetricPoint> =
            [0.90, 0.91, 0.92].iter().zip(0..).map(|(v, at)| auc(at, *v, v - 0.02, v + 0.02)).collect();
        metrics.push(newest);
        Report {
            model: "m".into(),
            task: Task::Binary,
            generated_at: DateTime::UNIX_EPOCH,
            attention: Vec::new(),
            windows: (0..4).map(|at| window(at, 90)).collect(),
            metrics,
            versions: Vec::new(),
            segments: Vec::new(),
            confusion: Vec::new(),
            curves: Vec::new(),
            comparisons: Vec::new(),
            levels: Vec::new(),
            alerts: Vec::new(),
            revisions: Vec::new(),
            estimates: Vec::new(),
            distributions: Vec::new(),
            labels: Vec::new(),
            drift: Vec::new(),
            arrival: Vec::new(),
            health: Vec::new(),
            errors: Vec::new(),
        }
    }

    #[test]
    fn the_interval_decides_and_not_the_point() {
        let noisy = findings(&report(auc(3, 0.85, 0.78, 0.92)));
        assert_eq!((noisy.len(), noisy[0].severity), (1, Severity::Fine), "{noisy:?}");
        let worse = findings(&report(auc(3, 0.85, 0.80, 0.90)));
        assert_eq!(worse[0].severity, Severity::Bad);
        let text = "roc_auc of the window from 1970-01-01 03:00 is 0.85 (interval 0.8 to 0.9), below the 0.91 that is the median of \
                    the 3 windows before.";
        assert_eq!(worse[0].text, text);
        let mut doubtful = report(auc(3, 0.85, 0.80, 0.90));
        doubtful.metrics[3].ci_warning = Some("few_rows".into());
        assert!(findings(&doubtful)[0].text.starts_with("Nothing stands out"), "its interval may not hold");
        let better = findings(&report(auc(3, 0.97, 0.95, 0.99)));
        assert_eq!(better[0].severity, Severity::Fine, "{better:?}");
    }

    #[test]
    fn what_went_wrong_in_between_is_said_once_with_its_worst_window() {
        let mut past = report(auc(3, 0.91, 0.89, 0.93));
        past.metrics[1] = auc(1, 0.70, 0.66, 0.74);
        let said = findings(&past);
        assert_eq!(said.len(), 1, "{said:?}");
        let text = "roc_auc was worse in 1 of 4 windows than its median of 0.905, as far as 0.7 (interval 0.66 to 0.74) in the one from \
                    1970-01-01 01:00.";
        assert_eq!((said[0].severity, said[0].text.as_str()), (Severity::Notable, text));
    }

    #[test]
    fn alerts_that_hold_come_first_and_those_that_are_over_are_not_mentioned() {
        let alert = |id: &str, transition: &str, severity: &str| AlertLine {
            start: 3 * HOUR,
            at: 4 * HOUR,
            alert_id: id.into(),
            transition: transition.into(),
            rule: "low".into(),
            severity: severity.into(),
            metric: "roc_auc".into(),
            is_overall: true,
            text: format!("{id} {transition}"),
        };
        let mut report = report(auc(3, 0.91, 0.89, 0.93));
        report.alerts = vec![
            alert("a", "firing", "warning"),
            alert("b", "firing", "critical"),
            alert("c", "firing", "critical"),
            alert("c", "withdrawn", "critical"),
            alert("d", "firing", "error"),
            alert("d", "resolved", "error"),
            alert("e", "missed", "error"),
        ];
        let said: Vec<(Severity, String)> =
            findings(&report).into_iter().map(|finding| (finding.severity, finding.text)).collect();
        let wanted = [
            (Severity::Bad, "Alert (critical): b firing.".to_owned()),
            (Severity::Notable, "Alert (warning): a firing.".to_owned()),
        ];
        assert_eq!(said, wanted);
    }

    #[test]
    fn two_windows_are_nothing_to_compare_with() {
        let mut few = report(auc(3, 0.5, 0.49, 0.51));
        few.metrics.remove(0);
        assert!(findings(&few)[0].text.starts_with("Nothing stands out"));
        few.windows.iter_mut().for_each(|window| window.labelled = 0);
        assert!(findings(&few)[0].text.starts_with("No label has come yet"));
    }

    #[test]
    fn drifted_columns_are_named_with_how_long_it_lasts() {
        let mut drifting = report(auc(3, 0.91, 0.89, 0.93));
        let point = |at: i64, column: &str, drifted| DriftPoint {
            start: at * HOUR,
            column: column.into(),
            method: "psi".into(),
            statistic: Some(0.3),
            p_value: None,
            threshold: Some(0.2),
            drifted: Some(drifted),
            reason: None,
            reference_version: None,
        };
        drifting.drift = vec![
            point(1, "amount", false),
            point(2, "amount", true),
            point(3, "amount", true),
            point(2, "age", true),
            point(3, "age", false),
            point(3, "country", true),
        ];
        let said = findings(&drifting);
        assert!(said[0].text.contains("amount (2 windows in a row), country (1 window in a row)."), "{said:?}");
        assert!(!said[0].text.contains("age"));
    }

    #[test]
    fn segments_are_ranked_by_what_they_cost() {
        let mut segmented = report(auc(3, 0.91, 0.89, 0.93));
        let point = |value: &str, auc: f64, n: i64| GroupPoint {
            start: 3 * HOUR,
            group: "region".into(),
            group_value: value.into(),
            metric: "roc_auc".into(),
            value: Some(auc),
            ci_low: Some(auc - 0.02),
            ci_high: Some(auc + 0.02),
            ci_warning: None,
            n_labelled: n,
        };
        segmented.segments =
            vec![point("eu", 0.93, 500), point("us", 0.80, 40), point("br", 0.85, 400), point("xx", 0.1, 5)];
        let ranked: Vec<String> = harm(&segmented).into_iter().map(|harm| harm.group_value).collect();
        assert_eq!(ranked, ["br", "us", "xx", "eu"]);
        let said = findings(&segmented);
        assert_eq!(said.len(), 2, "five rows are no segment to speak of: {said:?}");
        assert!(said[0].text.contains("where region is br"), "{said:?}");
    }

    #[test]
    fn failures_and_missing_labels_are_said_with_their_shares() {
        let mut failing = report(auc(3, 0.91, 0.89, 0.93));
        failing.windows[1].failed = 40;
        failing.windows[3].labelled = 10;
        failing.windows[3].label_coverage = Some(0.1);
        let said = findings(&failing);
        assert!(said.iter().any(|finding| finding.text.starts_with("40 of 400 predictions failed (10")), "{said:?}");
        assert!(said.iter().any(|finding| finding.text.contains("has labels for 10")), "{said:?}");
    }
}
