//! A report as large as they come, for the tests of its pages: 90 days of hourly windows, 50 features, every section.
use chrono::DateTime;
use driftline_schemas::clock::DAY;
use driftline_schemas::tables::Task;

use super::{
    AlertLine, Arrival, Cell, ComparedVersions, Distribution, DriftPoint, ErrorCount, EstimatePoint, FirstSaid,
    GroupPoint, Health, LabelTerm, MetricPoint, PeriodCurve, Report, Share, Tolerated, WindowLine, attention,
};
use crate::metrics::Curve;
use crate::metrics::curves::Point;

const HOUR: i64 = DAY / 24;
/// 2026-08-01T00:00Z.
const BEGIN: i64 = 1_785_542_400_000_000;

/// Noise that is the same each time: in [-1, 1].
fn noise(seed: i64) -> f64 {
    let mixed = (seed as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(31).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    (mixed >> 11) as f64 / (1_u64 << 52) as f64 - 1.0
}

/// The report; `days` of hourly windows and so many features.
pub(super) fn report(days: i64, features: i64) -> Report {
    let hours = days * 24;
    let start = |at: i64| BEGIN + at * HOUR;
    let windows = (0..hours).map(|at| {
        let predictions = 2_000 + (noise(at) * 400.0) as i64;
        let (failed, invalid, duplicates) = (at % 7, at % 3, at % 5);
        let labelled = (predictions - failed - invalid - duplicates) * if at > hours - 72 { 1 } else { 2 } / 2;
        WindowLine {
            start: start(at),
            end: start(at + 1),
            state: if at > hours - 2 {
                "open"
            } else if at > hours - 720 {
                "sealed"
            } else {
                "final"
            }
            .into(),
            revision: 1 + at % 9,
            predictions,
            labelled,
            failed,
            invalid,
            duplicates,
            waiting: predictions - failed - invalid - duplicates - labelled,
            expired: 0,
            after_final: 0,
            label_coverage: Some(labelled as f64 / predictions as f64),
            decided_at: start(at + 5),
        }
    });
    let windows: Vec<WindowLine> = windows.collect();
    let value = |at: i64, level: f64| level + noise(at * 31) * 0.02 - if at > hours - 48 { 0.05 } else { 0.0 };
    let names = ["roc_auc", "f1", "accuracy", "precision", "recall", "log_loss", "average_precision", "brier_score"];
    let mut metrics = Vec::new();
    for (of, name) in names.iter().enumerate() {
        let level = 0.9 - 0.03 * of as f64;
        for (at, window) in (0..).zip(&windows) {
            let value = value(at + 7 * of as i64, level);
            let is_missing = at % 401 == 400;
            metrics.push(MetricPoint {
                start: window.start,
                metric: (*name).into(),
                class: None,
                value: (!is_missing).then_some(value),
                reason: is_missing.then(|| "one_class".into()),
                error_bound: (at % 400 == 399).then_some(0.000_02),
                ci_low: (!is_missing).then_some(value - 0.015),
                ci_high: (!is_missing).then_some(value + 0.015),
                ci_warning: None,
                n_labelled: window.labelled,
            });
        }
    }
    let newest = start(hours - 1);
    let group = |group: &str, value: String, metric: &str, level: f64| GroupPoint {
        start: newest,
        group: group.into(),
        group_value: value,
        metric: metric.into(),
        value: Some(level),
        ci_low: Some(level - 0.03),
        ci_high: Some(level + 0.03),
        ci_warning: None,
        n_labelled: 300,
    };
    let segments = (0..40).flat_map(|at| {
        let level = 0.86 - 0.004 * f64::from(at);
        names
            .iter()
            .take(6)
            .map(move |name| group("region, channel", format!("régión {at} with a long name, <web>"), name, level))
    });
    let versions = ["2026.08", "2026.09-shadow"].iter().zip([0.86, 0.84]).flat_map(|(version, level)| {
        names.iter().take(6).map(move |name| group("version", (*version).into(), name, level))
    });
    let drift = (0..features).flat_map(|feature| {
        (0..hours).map(move |at| {
            let grows = if feature % 5 == 0 && at > hours - 200 { 0.1 } else { 0.0 };
            let statistic = 0.05 + 0.03 * noise(feature * 10_000 + at) + grows;
            DriftPoint {
                start: start(at),
                column: format!("feature_{feature:02}_of_the_customer"),
                method: "jensen_shannon".into(),
                statistic: Some(statistic),
                p_value: Some((noise(at + feature).abs()) * 0.1),
                threshold: Some(0.1),
                drifted: Some(statistic >= 0.1),
                reason: None,
                reference_version: Some("0011223344556677".into()),
            }
        })
    });
    let shares = |count: i64, is_numeric: bool| -> Vec<Share> {
        let all = (count * (count + 1) / 2) as f64;
        (0..count)
            .map(|at| Share {
                name: if is_numeric { format!("{} to {}", at * 10, at * 10 + 10) } else { format!("category <{at}>") },
                reference: (at + 1) as f64 / all,
                current: (count - at) as f64 / all,
                current_rows: 10,
            })
            .collect()
    };
    let distribution = |at: i64| Distribution {
        start: newest,
        column: format!("feature_{:02}_of_the_customer", at * 5),
        reference_version: "0011223344556677".into(),
        is_numeric: at % 2 == 0,
        n: 2_000,
        shares: shares(if at % 2 == 0 { 20 } else { 8 }, at % 2 == 0),
    };
    let estimates = ["f1", "roc_auc"].into_iter().flat_map(|name| {
        (0..hours).map(move |at| {
            let value = 0.87 + noise(at * 3) * 0.01;
            EstimatePoint {
                start: start(at),
                metric: name.into(),
                method: "cbpe".into(),
                value: Some(value),
                ci_low: Some(value - 0.02),
                ci_high: Some(value + 0.02),
                realised: (at < hours - 10).then_some(value + noise(at * 17) * 0.025),
                n: 2_000,
                n_labelled: 1_000,
            }
        })
    });
    let alert = |at: i64| AlertLine {
        start: start(hours - 50 + at),
        at: start(hours - 48 + at),
        alert_id: format!("alert-{}", at / 2),
        transition: ["firing", "revised", "withdrawn", "firing"][(at % 4) as usize].into(),
        rule: "auc is low".into(),
        severity: if at % 3 == 0 { "critical" } else { "warning" }.into(),
        metric: "roc_auc".into(),
        is_overall: true,
        text: format!(
            "roc_auc of card-fraud/eu: firing in the window of {at}: 0.84 (0.82 to 0.86), tolerated 0.88, 1000 labelled"
        ),
    };
    let curve = |name: &str| {
        let point = |at: i64| {
            let x = at as f64 / 199.0;
            let y = if name == "precision_recall" { 1.0 - x * x * 0.8 } else { x.powf(0.3) };
            Point { x, y, threshold: Some(1.0 - x), low: None, high: None, weight: None }
        };
        let bin = |at: i64| {
            let x = (at as f64 + 0.5) / 10.0;
            Point {
                x,
                y: x * 0.9,
                threshold: Some(at as f64 / 10.0),
                low: Some(x * 0.85),
                high: Some(x * 0.95),
                weight: Some(300.0),
            }
        };
        let points = if name == "reliability" { (0..10).map(bin).collect() } else { (0..200).map(point).collect() };
        let area = matches!(name, "roc" | "precision_recall").then_some(0.87);
        PeriodCurve { curve: Curve { name: name.into(), points }, area }
    };
    let health = (0..hours).map(|at| Health {
        start: start(at),
        requests: 2_000.0 + noise(at) * 400.0,
        requests_per_second: Some(0.55),
        errors: (at % 7) as f64,
        error_rate: Some((at % 7) as f64 / 2_000.0),
        error_rate_low: Some(0.0),
        error_rate_high: Some(0.006),
        latency_p50_ms: Some(12.0),
        latency_p95_ms: Some(48.0 + noise(at) * 9.0),
        latency_p95_low: Some(38.0),
        latency_p95_high: Some(58.0),
        latency_p99_ms: Some(90.0),
        latency_max_ms: Some(300.0),
    });
    let compared = |name: &&str| ComparedVersions {
        start: newest,
        metric: (*name).into(),
        version_a: "2026.08".into(),
        version_b: "2026.09-shadow".into(),
        value_a: Some(0.86),
        value_b: Some(0.84),
        difference: -0.02,
        ci_low: Some(-0.03),
        ci_high: Some(-0.01),
        ci_warning: None,
        p_value: Some(0.001),
        paired: true,
        n_a: 1_000,
        n_b: 1_000,
        is_newest: true,
    };
    let cell =
        |actual: &str, predicted: &str, count| Cell { actual: actual.into(), predicted: predicted.into(), count };
    let mut report = Report {
        model: "card-fraud/eu".into(),
        task: Task::Binary,
        generated_at: DateTime::from_timestamp_micros(start(hours)).expect("a time"),
        attention: Vec::new(),
        metrics,
        versions: versions.collect(),
        segments: segments.collect(),
        confusion: vec![
            cell("fraud", "fraud", 90_000),
            cell("fraud", "ok", 9_000),
            cell("ok", "fraud", 12_000),
            cell("ok", "ok", 3_000_000),
        ],
        curves: ["roc", "precision_recall", "gain", "reliability"].iter().map(|name| curve(name)).collect(),
        comparisons: names.iter().take(6).map(compared).collect(),
        levels: vec![Tolerated { metric: "roc_auc".into(), level: 0.88, bad: "below", rule: "auc is <low>".into() }],
        alerts: (0..40).map(alert).collect(),
        revisions: (0..120)
            .map(|at| FirstSaid { start: start(hours - 121 + at), metric: "f1".into(), revision: 1, value: 0.83 })
            .collect(),
        estimates: estimates.collect(),
        drift: drift.collect(),
        distributions: (0..(features / 5).min(12)).map(distribution).collect(),
        arrival: ["1 hour", "1 day", "7 days", "30 days"]
            .iter()
            .zip([0.01, 0.2, 0.8, 0.97])
            .map(|(after, share)| Arrival { after: (*after).into(), share })
            .collect(),
        health: health.collect(),
        errors: vec![ErrorCount { message: "time-out of <upstream> ".repeat(8), count: 7, newest }],
        labels: vec![
            LabelTerm { term: "joined".into(), count: 3_111_000 },
            LabelTerm { term: "unmatched".into(), count: 12 },
        ],
        windows,
    };
    report.attention = attention::findings(&report);
    report
}
