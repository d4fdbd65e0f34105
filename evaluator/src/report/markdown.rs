//! The report for a chat, a ticket or a terminal.
use std::fmt::Write;

use super::attention::harm;
use super::{Report, Severity, account_of, bounds_note, headlines, number, percent, time};

/// Windows that are listed.
const WINDOWS_MAX: usize = 24;
/// Cells of a confusion matrix that are listed.
const CELLS_MAX: usize = 100;
/// Segments that are listed.
const SEGMENTS_MAX: usize = 10;

/// A text in a cell: what has a meaning in Markdown loses it.
fn cell(text: &str) -> String {
    let mut cell = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\n' | '\r' => cell.push(' '),
            '|' | '\\' | '`' | '*' | '_' | '[' | ']' | '<' | '>' | '#' => {
                cell.push('\\');
                cell.push(c);
            }
            c => cell.push(c),
        }
    }
    cell
}

pub(super) fn page(report: &Report) -> String {
    let mut page = format!("# {}\n\n", cell(&report.model));
    let _ = writeln!(page, "Made {}.\n", report.generated_at.format("%Y-%m-%d %H:%M UTC"));
    page += "## What needs attention\n\n";
    for finding in &report.attention {
        let word = match finding.severity {
            Severity::Bad => "**Worse**",
            Severity::Notable => "**Look**",
            Severity::Fine => "Fine",
        };
        let _ = writeln!(page, "* {word}: {}", cell(&finding.text));
    }
    let named: Vec<&str> = headlines(report.task)
        .iter()
        .map(|headline| headline.name)
        .filter(|name| report.series(name).any(|point| point.value.is_some()))
        .collect();
    page += "\n## Windows\n\n| window | state | labelled | coverage |";
    for name in &named {
        let _ = write!(page, " {} |", cell(name));
    }
    page += "\n|---|---|--:|--:|";
    page += &"--:|".repeat(named.len());
    page.push('\n');
    for window in report.windows.iter().rev().take(WINDOWS_MAX) {
        let coverage = window.label_coverage.map_or_else(|| "–".into(), percent);
        let _ = write!(page, "| {} | {} | {} | {coverage} |", time(window.start), window.state, window.labelled);
        for name in &named {
            let point = report.series(name).find(|point| point.start == window.start);
            let text = match point.and_then(|point| Some((point.show()?, point.ci_low, point.ci_high))) {
                Some((value, Some(low), Some(high))) => format!("{value} ({} to {})", number(low), number(high)),
                Some((value, ..)) => value,
                None => "–".into(),
            };
            let _ = write!(page, " {text} |");
        }
        page.push('\n');
    }
    if let Some(note) = bounds_note(report) {
        let _ = writeln!(page, "\n{note}");
    }
    let worst = harm(report);
    if let Some(first) = worst.first() {
        let _ = write!(
            page,
            "\n## Segments, the costliest first\n\n| segment | {} | labelled |\n|---|--:|--:|\n",
            cell(first.metric)
        );
        for harm in worst.iter().take(SEGMENTS_MAX) {
            let name = cell(&format!("{} = {}", harm.group, harm.group_value));
            let _ = writeln!(page, "| {name} | {} | {} |", number(harm.value), harm.n_labelled);
        }
    }
    for (title, body) in [
        ("Alerts", alerts(report)),
        ("Estimates beside the truth, in the newest window that has them", estimates(report)),
        ("Confusion", confusion(report)),
        ("Ranking and calibration", curves(report)),
        ("Drift, in the newest window that was measured", drift(report)),
        ("Versions against each other", versions(report)),
        ("Arrival of labels", arrival(report)),
        ("Serving", serving(report)),
        ("Accounts", account(report)),
    ] {
        if !body.is_empty() {
            let _ = write!(page, "\n## {title}\n\n{body}");
        }
    }
    page
}

/// A table; empty without rows. The first column is text, the others are numbers.
fn table(head: &[&str], rows: impl Iterator<Item = Vec<String>>) -> String {
    let rows: Vec<Vec<String>> = rows.collect();
    if rows.is_empty() {
        return String::new();
    }
    let line = |cells: Vec<String>| format!("| {} |\n", cells.join(" | "));
    let mut text = line(head.iter().map(|name| cell(name)).collect());
    text += &format!("|---|{}\n", "--:|".repeat(head.len() - 1));
    for row in rows {
        text += &line(row.iter().map(|text| cell(text)).collect());
    }
    text
}

fn shown(value: Option<f64>) -> String {
    value.map_or_else(|| "–".into(), number)
}

fn interval(low: Option<f64>, high: Option<f64>) -> String {
    low.zip(high).map_or_else(|| "–".into(), |(low, high)| format!("{} to {}", number(low), number(high)))
}

fn alerts(report: &Report) -> String {
    let newest = report.alerts.iter().rev().take(WINDOWS_MAX);
    let mut text = String::new();
    for alert in newest {
        let _ = writeln!(text, "* {} ({}): {}", alert.transition, alert.severity, cell(&alert.text));
    }
    text
}

fn estimates(report: &Report) -> String {
    let of = |metric: &str| {
        let mut points = report.estimates.iter().rev();
        points.find(|point| point.metric == metric && point.method != "nowcast")
    };
    let rows = headlines(report.task).iter().filter_map(|headline| of(headline.name)).map(|point| {
        let labelled = format!("{} of {}", point.n_labelled, point.n);
        let name = format!("{} ({})", point.metric, point.method);
        vec![
            name,
            time(point.start),
            shown(point.value),
            interval(point.ci_low, point.ci_high),
            shown(point.realised),
            labelled,
        ]
    });
    table(&["metric", "window", "estimate", "expected", "realised", "labelled"], rows)
}

fn confusion(report: &Report) -> String {
    let rows = report.confusion.iter();
    let rows =
        rows.take(CELLS_MAX).map(|cell| vec![cell.actual.clone(), cell.predicted.clone(), cell.count.to_string()]);
    table(&["actual", "predicted", "count"], rows)
}

fn curves(report: &Report) -> String {
    let areas = report
        .curves
        .iter()
        .filter_map(|drawn| Some(format!("* {}: area {}\n", cell(&drawn.curve.name), number(drawn.area?))));
    let mut text: String = areas.collect();
    let reliability = report.curves.iter().find(|drawn| drawn.curve.name == "reliability");
    let rows = reliability
        .iter()
        .flat_map(|drawn| &drawn.curve.points)
        .map(|point| vec![number(point.x), number(point.y), interval(point.low, point.high), shown(point.weight)]);
    let bins = table(&["mean score", "share of positives", "interval", "labelled"], rows);
    if !text.is_empty() && !bins.is_empty() {
        text.push('\n');
    }
    text + &bins
}

fn drift(report: &Report) -> String {
    let newest = report.drift.iter().filter(|point| point.drifted.is_some()).map(|point| point.start).max();
    let here = report.drift.iter().filter(|point| Some(point.start) == newest && point.statistic.is_some());
    let rows = here.map(|point| {
        let verdict = if point.drifted == Some(true) { "drifted" } else { "" };
        let name = format!("{} ({})", point.column, point.method);
        vec![name, shown(point.statistic), shown(point.threshold), shown(point.p_value), verdict.to_owned()]
    });
    let mut text = table(&["column", "distance", "threshold", "p", "verdict"], rows);
    for distribution in &report.distributions {
        let rows = distribution.shares.iter();
        let rows = rows.map(|share| vec![share.name.clone(), percent(share.reference), percent(share.current)]);
        let _ =
            write!(text, "\n### {}\n\n{}", cell(&distribution.column), table(&["values", "reference", "window"], rows));
    }
    text
}

fn versions(report: &Report) -> String {
    let rows = report.comparisons.iter().map(|row| {
        let versions = format!("{}: {} less {}", row.metric, row.version_b, row.version_a);
        let on = if row.paired { "the same ids" } else { "different rows" };
        let values = [shown(row.value_a), shown(row.value_b), number(row.difference)];
        let [a, b, difference] = values;
        vec![versions, a, b, difference, interval(row.ci_low, row.ci_high), shown(row.p_value), on.to_owned()]
    });
    table(&["metric and versions", "first", "second", "difference", "interval", "p", "compared on"], rows)
}

fn arrival(report: &Report) -> String {
    let rows = report.arrival.iter().map(|arrival| vec![arrival.after.clone(), percent(arrival.share)]);
    table(&["after", "with a label"], rows)
}

fn serving(report: &Report) -> String {
    let rows = report.health.iter().rev().take(WINDOWS_MAX).map(|health| {
        let rate = health.error_rate.map_or_else(|| "–".into(), percent);
        let latency = [shown(health.latency_p50_ms), shown(health.latency_p95_ms), shown(health.latency_p99_ms)];
        let [median, p95, p99] = latency;
        vec![time(health.start), number(health.requests), rate, median, p95, p99]
    });
    let mut text = table(&["window", "requests", "error rate", "median, ms", "p95, ms", "p99, ms"], rows);
    let errors = report.errors.iter().map(|error| vec![error.message.clone(), error.count.to_string()]);
    let errors = table(&["error", "requests"], errors);
    if !errors.is_empty() {
        let _ = write!(text, "\n{errors}");
    }
    text
}

fn account(report: &Report) -> String {
    let rows = account_of(report).into_iter().map(|(term, count)| vec![term.to_owned(), count.to_string()]);
    let mut text = table(&["predictions of the period", "count"], rows);
    let labels = report.labels.iter().map(|term| vec![term.term.clone(), term.count.to_string()]);
    let labels = table(&["labels of the model, of all time", "count"], labels);
    if !labels.is_empty() {
        let _ = write!(text, "\n{labels}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::cell;

    #[test]
    fn names_do_not_become_markup() {
        assert_eq!(cell("a|b\n<i>*x*"), "a\\|b \\<i\\>\\*x\\*");
    }
}
