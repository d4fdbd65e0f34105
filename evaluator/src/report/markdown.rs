//! The report for a chat, a ticket or a terminal.
use std::fmt::Write;

use super::attention::harm;
use super::{Report, Severity, headlines, number, percent, time};

/// Windows that are listed.
const WINDOWS_MAX: usize = 24;
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
            let text = match point.map(|point| (point.value, point.ci_low, point.ci_high)) {
                Some((Some(value), Some(low), Some(high))) => {
                    format!("{} ({} to {})", number(value), number(low), number(high))
                }
                Some((Some(value), ..)) => number(value),
                _ => "–".into(),
            };
            let _ = write!(page, " {text} |");
        }
        page.push('\n');
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
    page
}

#[cfg(test)]
mod tests {
    use super::cell;

    #[test]
    fn names_do_not_become_markup() {
        assert_eq!(cell("a|b\n<i>*x*"), "a\\|b \\<i\\>\\*x\\*");
    }
}
