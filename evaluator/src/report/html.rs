//! The page. Everything is in it: no script, no font, no image from elsewhere; light and dark, on a phone and on paper.
use std::collections::BTreeMap;
use std::fmt::Write;

use super::attention::harm;
use super::svg::{self, Dot, Field, Mark};
use super::{
    AlertLine, DriftPoint, EstimatePoint, FirstSaid, GroupPoint, Headline, Health, MetricPoint, Report, Severity,
    Tolerated, account_of, bounds_note, headlines, number, percent, time,
};
use crate::metrics::curves::Point;

/// Points of a chart, and columns of a map, at most: of more windows the worst of every so many is shown.
const POINTS_MAX: usize = 180;
const COLUMNS_MAX: usize = 60;
/// Rows of the map of drift, and of the table of segments.
const ROWS_MAX: usize = 60;
/// Sentences that stand open; of more the rest is folded.
const SENTENCES_OPEN: usize = 8;
/// Characters of a cell that is not broken into lines.
const CELL_MAX: usize = 40;
/// Segments that are drawn.
const BRANCHES_MAX: usize = 20;
/// Classes of a confusion matrix that is still one to look at.
const CLASSES_MAX: usize = 20;

const STYLE: &str = "
:root{color-scheme:light dark;--back:#fff;--text:#1b1f24;--soft:#57606a;--edge:#d0d7de;--line:#0b62c4;--band:#0b62c4;--bad:#b3261e;--note:#8a5a00;--fine:#1a6b34;--panel:#f6f8fa}
@media(prefers-color-scheme:dark){:root{--back:#10151b;--text:#e6edf3;--soft:#9aa7b4;--edge:#39424d;--line:#6cb2ff;--band:#6cb2ff;--bad:#ff8a80;--note:#f0b849;--fine:#6fd08c;--panel:#171d25}}
@media(max-width:40rem){.wide .tick{font-size:17px!important}}
@media print{:root{--back:#fff;--text:#000;--soft:#444;--panel:#fff}details:not(.more){display:none}section{break-inside:avoid}}
*{box-sizing:border-box}body{margin:0 auto;max-width:60rem;padding:1rem;background:var(--back);color:var(--text);font:1rem/1.5 system-ui,sans-serif;overflow-wrap:anywhere}
h1{font-size:1.5rem;margin:.5rem 0 0}h2{font-size:1.15rem;margin:2rem 0 .5rem;border-bottom:1px solid var(--edge)}h3{font-size:1rem;margin:1rem 0 .25rem}h4{font-size:.9rem;margin:.5rem 0 .25rem}
p,li{max-width:46rem}.soft{color:var(--soft)}nav a{color:var(--line);margin-right:.9rem;white-space:nowrap}
ul.attention{list-style:none;padding:0}ul.attention li{border-left:.3rem solid;padding:.3rem .7rem;margin:.4rem 0;background:var(--panel)}
.attention li.bad{border-color:var(--bad)}.attention li.notable{border-color:var(--note)}.attention li.fine{border-color:var(--fine)}li b{text-transform:uppercase;font-size:.75rem;margin-right:.5rem}
svg{width:100%;height:auto;display:block}svg.square{max-width:22rem}.tick{fill:var(--soft);font:11px system-ui,sans-serif}.grid{stroke:var(--edge);stroke-width:1}.frame{fill:none;stroke:var(--edge)}
.line{fill:none;stroke:var(--line);stroke-width:1.8}.band{fill:var(--band);fill-opacity:.16}.dot{fill:var(--line);stroke:var(--line)}.dot.open{fill:var(--back)}.level{stroke:var(--bad);stroke-width:1.4;stroke-dasharray:6 4}.mark{fill:var(--bad);stroke:var(--bad)}.mark.open{fill:var(--back)}.before{stroke:var(--soft);stroke-width:1.2}.other{fill:var(--note);stroke:var(--back)}
.reference{fill:var(--soft);fill-opacity:.35}.current{fill:var(--line)}.line.worse{stroke:var(--bad)}.dot.worse{fill:var(--bad);stroke:var(--bad)}.key{display:inline-block;width:.8em;height:.8em;margin:0 .3em 0 .8em;background:var(--line)}.key.r{background:var(--soft);opacity:.5}
.heat{fill:var(--line)}.beyond{fill:var(--bad);stroke:var(--bad)}
.scroll{overflow-x:auto}table{border-collapse:collapse;font-size:.88rem;margin:.5rem 0}th,td{text-align:right;padding:.2rem .6rem;border-bottom:1px solid var(--edge);white-space:nowrap}th:first-child,td:first-child{text-align:left}
th.t,td.t{text-align:left}td.w{white-space:normal;min-width:18rem}td.hit{background:var(--panel);font-weight:600}summary{cursor:pointer;color:var(--soft)}.pair{display:flex;flex-wrap:wrap;gap:1rem}.pair>div{flex:1 1 16rem;min-width:0}
";

/// A text in HTML and in its attributes.
pub(super) fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            c => escaped.push(c),
        }
    }
    escaped
}

pub(super) fn page(report: &Report) -> String {
    let mut sections: Vec<(&str, &str, String)> = vec![
        ("alerts", "Alerts", alerts(report)),
        ("metrics", "Metrics over time", metrics(report)),
        ("estimates", "Estimates beside the truth", estimates(report)),
        ("confusion", "Confusion", confusion(report)),
        ("curves", "Ranking and calibration", curves(report)),
        ("drift", "Drift", drift(report)),
        ("segments", "Segments", segments(report)),
        ("versions", "Versions", versions(report)),
        ("labels", "Arrival of labels", arrival(report)),
        ("serving", "Serving", serving(report)),
        ("windows", "Windows and their account", windows(report)),
    ];
    sections.retain(|(_, _, body)| !body.is_empty());
    let mut page = format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width,initial-scale=1\"><title>{0}: model report</title>\
         <style>{STYLE}</style></head><body><header><h1>{0}</h1><p class=\"soft\">{1}</p></header><main>",
        escape(&report.model),
        escape(&subtitle(report)),
    );
    page.push_str("<section id=\"attention\"><h2>What needs attention</h2><ul class=\"attention\">");
    for (at, finding) in report.attention.iter().enumerate() {
        if at == SENTENCES_OPEN {
            let left = report.attention.len() - at;
            let _ = write!(page, "</ul><details class=\"more\"><summary>{left} more</summary><ul class=\"attention\">");
        }
        let (class, word) = match finding.severity {
            Severity::Bad => ("bad", "worse"),
            Severity::Notable => ("notable", "look"),
            Severity::Fine => ("fine", "fine"),
        };
        let _ = write!(page, "<li class=\"{class}\"><b>{word}</b>{}</li>", escape(&finding.text));
    }
    if report.attention.len() > SENTENCES_OPEN {
        page.push_str("</ul></details>");
    } else {
        page.push_str("</ul>");
    }
    page.push_str("<nav aria-label=\"Sections\">");
    for (id, title, _) in &sections {
        let _ = write!(page, "<a href=\"#{id}\">{title}</a> ");
    }
    page.push_str("</nav></section>");
    for (id, title, body) in &sections {
        let _ = write!(page, "<section id=\"{id}\"><h2>{title}</h2>{body}</section>");
    }
    page.push_str("</main></body></html>\n");
    page
}

fn subtitle(report: &Report) -> String {
    let (first, last) = (report.windows.first(), report.windows.last());
    let sum = |of: fn(&super::WindowLine) -> i64| report.windows.iter().map(of).sum::<i64>();
    format!(
        "{} windows from {} to {} (UTC) · {} predictions, {} with a label · made {}",
        grouped(report.windows.len() as i64),
        first.map(|window| time(window.start)).unwrap_or_default(),
        last.map(|window| time(window.end)).unwrap_or_default(),
        grouped(sum(|window| window.predictions)),
        grouped(sum(|window| window.labelled)),
        report.generated_at.format("%Y-%m-%d %H:%M UTC"),
    )
}

/// A table; cells are texts.
fn table(head: &[&str], rows: impl Iterator<Item = Vec<String>>) -> String {
    let mut html = String::from("<div class=\"scroll\"><table><thead><tr>");
    let rows: Vec<Vec<String>> = rows.collect();
    for (at, name) in head.iter().enumerate() {
        let text = rows.iter().filter_map(|row| row.get(at)).find(|cell| !cell.is_empty());
        let class = if text.is_some_and(|cell| is_text(cell)) { " class=\"t\"" } else { "" };
        let _ = write!(html, "<th scope=\"col\"{class}>{}</th>", escape(name));
    }
    html.push_str("</tr></thead><tbody>");
    for row in rows {
        html.push_str("<tr>");
        for (at, cell) in row.iter().enumerate() {
            let class = match cell.chars().count() {
                long if long > CELL_MAX => " class=\"t w\"",
                _ if at > 0 && is_text(cell) => " class=\"t\"",
                _ => "",
            };
            let _ = write!(html, "<td{class}>{}</td>", escape(cell));
        }
        html.push_str("</tr>");
    }
    html + "</tbody></table></div>"
}

/// Whether a cell is words, which begin at the left, and no number, which ends at the right.
fn is_text(cell: &str) -> bool {
    cell.chars().next().is_some_and(char::is_alphabetic)
}

/// A count with its thousands apart.
fn grouped(count: i64) -> String {
    let digits = count.unsigned_abs().to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    if count < 0 { format!("-{text}") } else { text }
}

fn details(table: &str) -> String {
    format!("<details><summary>As a table</summary>{table}</details>")
}

fn shown(value: Option<f64>) -> String {
    value.map_or_else(|| "–".into(), number)
}

fn interval(low: Option<f64>, high: Option<f64>) -> String {
    match (low, high) {
        (Some(low), Some(high)) => format!("{} to {}", number(low), number(high)),
        _ => "–".into(),
    }
}

/// Of every so many points the worst, so that there are not more than can be seen.
fn thinned<'p>(points: &[&'p MetricPoint], every: usize, headline: Headline) -> Vec<&'p MetricPoint> {
    let badness = |point: &&MetricPoint| {
        let value = point.value.unwrap_or(if headline.more_is_better { f64::INFINITY } else { f64::NEG_INFINITY });
        if headline.more_is_better { -value } else { value }
    };
    let worst = |some: &[&'p MetricPoint]| {
        some.iter()
            .copied()
            .max_by(|one, other| badness(one).total_cmp(&badness(other)))
            .expect("a chunk is never empty")
    };
    points.chunks(every).map(worst).collect()
}

fn metrics(report: &Report) -> String {
    let states: BTreeMap<i64, &str> =
        report.windows.iter().map(|window| (window.start, window.state.as_str())).collect();
    let mut html = String::new();
    for headline in headlines(report.task) {
        let points: Vec<&MetricPoint> = report.series(headline.name).collect();
        if points.iter().all(|point| point.value.is_none()) {
            continue;
        }
        let every = points.len().div_ceil(POINTS_MAX).max(1);
        let spans: Vec<(i64, i64)> =
            points.chunks(every).map(|some| (some[0].start, some[some.len() - 1].start)).collect();
        let points = thinned(&points, every, *headline);
        let dots: Vec<Dot> = points
            .iter()
            .map(|point| Dot {
                label: time(point.start),
                value: point.value,
                low: point.ci_low,
                high: point.ci_high,
                is_open: states.get(&point.start) != Some(&"final"),
                before: first_said(report, point).map(|said| said.value),
                other: None,
                mark: mark(report, point, &spans),
            })
            .collect();
        let tolerated: Vec<&Tolerated> = report.levels.iter().filter(|level| level.metric == headline.name).collect();
        let levels: Vec<svg::Level> =
            tolerated.iter().map(|level| (level.level, format!("{}: {}", level.rule, number(level.level)))).collect();
        let better = if headline.more_is_better { "more is better" } else { "less is better" };
        let of = if every > 1 { format!("; the worst of every {every} windows") } else { String::new() };
        let _ = write!(html, "<h3>{} <span class=\"soft\">{better}{of}</span></h3>", headline.name);
        html += &svg::line(&format!("{} by window", headline.name), &dots, &levels);
        for level in &tolerated {
            let _ = write!(
                html,
                "<p class=\"soft\">Dashed: {} {} is bad, by the rule {}.</p>",
                level.bad,
                number(level.level),
                escape(&level.rule)
            );
        }
        let revisions: BTreeMap<i64, i64> =
            report.windows.iter().map(|window| (window.start, window.revision)).collect();
        html += &details(&table(
            &["window", headline.name, "interval", "labelled", "revision", "first said", "alert", "why none"],
            points.iter().zip(&dots).map(|(point, dot)| {
                let first = first_said(report, point);
                vec![
                    time(point.start),
                    point.show().unwrap_or_else(|| shown(None)),
                    interval(point.ci_low, point.ci_high),
                    point.n_labelled.to_string(),
                    revisions.get(&point.start).map(ToString::to_string).unwrap_or_default(),
                    first.map_or_else(String::new, |said| {
                        format!("{} (revision {})", number(said.value), said.revision)
                    }),
                    dot.mark.as_ref().map(|mark| mark.text.clone()).unwrap_or_default(),
                    point.reason.clone().unwrap_or_default(),
                ]
            }),
        ));
    }
    if !html.is_empty() {
        html.insert_str(
            0,
            "<p class=\"soft\">The band is each value's interval. A hollow point may still be revised by late labels; a tick apart from it is what was \
             said of the window first. A triangle is an alert, a hollow one was withdrawn.</p>",
        );
        if let Some(note) = bounds_note(report) {
            let _ = write!(html, "<p class=\"soft\">{note}</p>");
        }
    }
    html + &newest(report)
}

/// What was said of a window first, where that was something else.
fn first_said<'r>(report: &'r Report, point: &MetricPoint) -> Option<&'r FirstSaid> {
    let first = report.revisions.iter().find(|said| said.start == point.start && said.metric == point.metric)?;
    (Some(first.value) != point.value).then_some(first)
}

/// The alert of a metric over all, as it stands, in the windows that a point stands for: one that holds, if there is any.
fn mark(report: &Report, point: &MetricPoint, spans: &[(i64, i64)]) -> Option<Mark> {
    let (first, last) = spans.iter().find(|(first, last)| (*first..=*last).contains(&point.start))?;
    // The last word on each alert of a window: several rules may watch one metric.
    let mut last_words: BTreeMap<(i64, &str), &AlertLine> = BTreeMap::new();
    for alert in report.alerts.iter().filter(|alert| alert.is_overall && alert.metric == point.metric) {
        last_words.insert((alert.start, &alert.alert_id), alert);
    }
    let here = last_words.into_values().filter(|alert| (*first..=*last).contains(&alert.start));
    // That it is over is no alert.
    let raised = here.filter(|alert| {
        matches!(alert.transition.as_str(), "firing" | "revised" | "repeated" | "withdrawn" | "missed")
    });
    let stands = raised.max_by_key(|alert| (alert.transition != "withdrawn", alert.start))?;
    Some(Mark { is_withdrawn: stands.transition == "withdrawn", text: stands.text.clone() })
}

fn alerts(report: &Report) -> String {
    if report.alerts.is_empty() {
        return String::new();
    }
    let rows = report.alerts.iter().rev().take(ROWS_MAX);
    let rows = rows.map(|alert| {
        vec![
            alert.transition.clone(),
            alert.severity.clone(),
            time(alert.start),
            alert.rule.clone(),
            alert.text.clone(),
        ]
    });
    let left = report.alerts.len().saturating_sub(ROWS_MAX);
    let more = if left > 0 {
        format!("<p class=\"soft\">{left} earlier ones are in the table <code>alerts</code>.</p>")
    } else {
        String::new()
    };
    format!(
        "<p class=\"soft\">What happened to alerts of these windows, the newest first.</p>{}{more}",
        table(&["what", "severity", "window", "rule", "in a sentence"], rows)
    )
}

fn estimates(report: &Report) -> String {
    let mut html = String::new();
    for headline in headlines(report.task) {
        let points: Vec<&EstimatePoint> = report
            .estimates
            .iter()
            .filter(|point| point.metric == headline.name && point.method != "nowcast")
            .collect();
        let Some(first) = points.first() else { continue };
        // Every so many windows the one whose truth lies furthest from its estimate.
        let every = points.len().div_ceil(POINTS_MAX).max(1);
        let off = |point: &&EstimatePoint| match (point.value, point.realised) {
            (Some(value), Some(realised)) => (value - realised).abs(),
            _ => -1.0,
        };
        let furthest =
            points.chunks(every).filter_map(|some| some.iter().max_by(|one, other| off(one).total_cmp(&off(other))));
        let points: Vec<&EstimatePoint> = furthest.copied().collect();
        let dots: Vec<Dot> = points
            .iter()
            .map(|point| Dot {
                label: time(point.start),
                value: point.value,
                low: point.ci_low,
                high: point.ci_high,
                other: point.realised,
                ..Dot::default()
            })
            .collect();
        let of = if every > 1 { format!(", the one furthest off of every {every} windows") } else { String::new() };
        let name = format!("{} as estimated, and as realised, by window", headline.name);
        let _ = write!(html, "<h3>{} <span class=\"soft\">by {}{of}</span></h3>", headline.name, escape(&first.method));
        html += &svg::line(&name, &dots, &[]);
        let rows = points.iter().map(|point| {
            let holds = match (point.realised, point.ci_low, point.ci_high) {
                (Some(realised), Some(low), Some(high)) if realised < low || realised > high => "outside",
                (Some(_), Some(_), Some(_)) => "inside",
                _ => "",
            };
            vec![
                time(point.start),
                shown(point.value),
                interval(point.ci_low, point.ci_high),
                shown(point.realised),
                holds.to_owned(),
                format!("{} of {}", point.n_labelled, point.n),
            ]
        });
        html += &details(&table(&["window", "estimate", "expected", "realised", "so far", "labelled"], rows));
    }
    if !html.is_empty() {
        html.insert_str(
            0,
            "<p class=\"soft\">Line and band: what the metric will be, from predictions alone, and where it is expected. Diamonds: what the \
             labels say that are there. A diamond outside of the band says that scores have come to be right more or less often.</p>",
        );
    }
    html
}

/// Every metric of the newest window with labels.
fn newest(report: &Report) -> String {
    let Some(window) = report.newest_labelled() else { return String::new() };
    let rows = report.metrics.iter().filter(|point| point.start == window.start).map(|point| {
        let name =
            point.class.as_ref().map_or_else(|| point.metric.clone(), |class| format!("{} of {class}", point.metric));
        let value = point.show().or_else(|| point.reason.clone()).unwrap_or_default();
        vec![name, value, interval(point.ci_low, point.ci_high), point.n_labelled.to_string()]
    });
    let rows = table(&["metric", "value", "interval", "labelled"], rows);
    format!("<details><summary>All metrics of the window from {}</summary>{rows}</details>", time(window.start))
}

fn confusion(report: &Report) -> String {
    let mut classes: Vec<&str> =
        report.confusion.iter().flat_map(|cell| [cell.actual.as_str(), cell.predicted.as_str()]).collect();
    classes.sort_unstable();
    classes.dedup();
    if classes.is_empty() {
        return String::new();
    }
    let counts: BTreeMap<(&str, &str), i64> =
        report.confusion.iter().map(|cell| ((cell.actual.as_str(), cell.predicted.as_str()), cell.count)).collect();
    let left = classes.len().saturating_sub(CLASSES_MAX);
    classes.truncate(CLASSES_MAX);
    let mut html = String::from(
        "<p class=\"soft\">All labelled predictions of the period; in brackets the share of the actual class.</p>",
    );
    html += "<div class=\"scroll\"><table><thead><tr><th scope=\"col\">actual ↓ predicted →</th>";
    for class in &classes {
        let _ = write!(html, "<th scope=\"col\">{}</th>", escape(class));
    }
    html += "</tr></thead><tbody>";
    for actual in &classes {
        let count = |predicted: &str| counts.get(&(actual, predicted)).copied().unwrap_or(0);
        let all: i64 = counts.iter().filter(|((of, _), _)| of == actual).map(|(_, count)| count).sum();
        let _ = write!(html, "<tr><th scope=\"row\">{}</th>", escape(actual));
        for predicted in &classes {
            let class = if actual == predicted { " class=\"hit\"" } else { "" };
            let share =
                if all > 0 { format!(" ({})", percent(count(predicted) as f64 / all as f64)) } else { String::new() };
            let _ = write!(html, "<td{class}>{}{share}</td>", grouped(count(predicted)));
        }
        html += "</tr>";
    }
    html += "</tbody></table></div>";
    if left > 0 {
        let _ = write!(html, "<p class=\"soft\">{left} more classes are in the table <code>confusion</code>.</p>");
    }
    html
}

/// A curve's name in the tables, its title, and what its axes are.
const CURVES: [(&str, &str, &str, &str); 4] = [
    ("roc", "ROC curve", "false-positive rate", "true-positive rate"),
    ("precision_recall", "Precision and recall", "recall", "precision"),
    ("gain", "Gain", "share of predictions, best scores first", "share of positives found"),
    ("reliability", "Reliability", "mean score", "share of positives"),
];

fn curves(report: &Report) -> String {
    let mut html = String::new();
    for (name, title, x, y) in CURVES {
        let Some(drawn) = report.curves.iter().find(|drawn| drawn.curve.name == name) else { continue };
        let points = &drawn.curve.points;
        let is_reliability = name == "reliability";
        let rows = points.iter().map(|point| {
            let of_bin = if is_reliability { interval(point.low, point.high) } else { String::new() };
            let cells = vec![number(point.x), number(point.y), shown(point.threshold), of_bin, shown(point.weight)];
            cells.into_iter().take(if is_reliability { 5 } else { 3 }).collect()
        });
        let head = [x, y, if is_reliability { "scores from" } else { "threshold" }, "interval", "labelled"];
        let rows = table(if is_reliability { &head } else { &head[..3] }, rows);
        let note = match (name, drawn.area) {
            ("reliability", _) => "By tenth of the score. On the diagonal scores are what they say.".to_owned(),
            (_, Some(area)) => format!("Area {} over all thresholds.", number(area)),
            _ => "On the diagonal scores would find no more than chance.".to_owned(),
        };
        let chart = svg::unit(&format!("{y} by {x}"), &drawn_points(name, points), is_reliability);
        let _ = write!(html, "<div><h3>{title}</h3>{chart}<p class=\"soft\">{note}</p>{}</div>", details(&rows));
    }
    if html.is_empty() { html } else { format!("<div class=\"pair\">{html}</div>") }
}

/// The points that a line goes through: a precision holds from the recall before it, so it is a step.
fn drawn_points(name: &str, points: &[Point]) -> Vec<(f64, f64)> {
    if name != "precision_recall" {
        return points.iter().map(|point| (point.x, point.y)).collect();
    }
    let mut before = 0.0;
    let step = |point: &Point| {
        let from = std::mem::replace(&mut before, point.x);
        [(from, point.y), (point.x, point.y)]
    };
    points.iter().flat_map(step).collect()
}

fn drift(report: &Report) -> String {
    let measured: Vec<&DriftPoint> = report.drift.iter().filter(|point| point.statistic.is_some()).collect();
    if measured.is_empty() {
        return String::new();
    }
    let mut starts: Vec<i64> = measured.iter().map(|point| point.start).collect();
    starts.sort_unstable();
    starts.dedup();
    let every = starts.len().div_ceil(COLUMNS_MAX).max(1);
    let columns: Vec<String> = starts.chunks(every).map(|some| time(some[0])).collect();
    let place = |start: i64| starts.binary_search(&start).unwrap_or(0) / every;
    let mut rows: BTreeMap<String, Vec<Option<Field>>> = BTreeMap::new();
    for point in &measured {
        let (Some(statistic), Some(threshold)) =
            (point.statistic, point.threshold.filter(|threshold| *threshold > 0.0))
        else {
            continue;
        };
        let is_beyond = point.drifted == Some(true);
        let p = point.p_value.map_or_else(String::new, |p| format!(", p {}", number(p)));
        let field = Field {
            share: statistic / threshold / 2.0,
            is_beyond,
            text: format!("{} of {} (threshold {}){p}", number(statistic), point.method, number(threshold)),
        };
        let row =
            rows.entry(format!("{} · {}", point.column, point.method)).or_insert_with(|| vec![None; columns.len()]);
        let slot = &mut row[place(point.start)];
        if slot.as_ref().is_none_or(|known| (known.is_beyond, known.share) < (field.is_beyond, field.share)) {
            *slot = Some(field);
        }
    }
    let worst = |fields: &[Option<Field>]| {
        let beyond = fields.iter().flatten().filter(|field| field.is_beyond).count();
        (beyond, fields.iter().flatten().map(|field| field.share).fold(0.0, f64::max))
    };
    let mut rows: Vec<(String, Vec<Option<Field>>)> = rows.into_iter().collect();
    rows.sort_by(|(_, one), (_, other)| worst(other).partial_cmp(&worst(one)).unwrap_or(std::cmp::Ordering::Equal));
    let left = rows.len().saturating_sub(ROWS_MAX);
    rows.truncate(ROWS_MAX);
    let of = if every > 1 { format!(" Each field is the worst of {every} windows.") } else { String::new() };
    let mut html = format!(
        "<p class=\"soft\">Distance from the reference by column and window: the darker, the further; red is beyond its threshold.{of}</p>"
    );
    html += &svg::heat("Distance from the reference by column and window", &rows, &columns);
    if left > 0 {
        let _ = write!(
            html,
            "<p class=\"soft\">{left} more rows, none of them worse, are in the table <code>drift</code>.</p>"
        );
    }
    let listed = rows.iter().filter_map(|(name, fields)| {
        let last = fields.iter().zip(&columns).rev().find_map(|(field, column)| Some((field.as_ref()?, column)));
        let beyond = fields.iter().flatten().filter(|field| field.is_beyond).count();
        last.map(|(field, column)| vec![name.clone(), column.clone(), field.text.clone(), beyond.to_string()])
    });
    html += &details(&table(&["column · method", "newest", "distance", "fields beyond"], listed));
    html + &distributions(report)
}

/// Drifted columns beside their reference.
fn distributions(report: &Report) -> String {
    let Some(first) = report.distributions.first() else { return String::new() };
    let mut html = format!(
        "<h3>Drifted columns beside their reference</h3><p class=\"soft\">Shares of the window from {}:\
         <span class=\"key r\"></span>reference<span class=\"key\"></span>window</p><div class=\"pair\">",
        time(first.start)
    );
    for distribution in &report.distributions {
        let name = format!("{}: shares of the reference and of the window", distribution.column);
        let rows = distribution
            .shares
            .iter()
            .map(|share| vec![share.name.clone(), percent(share.reference), percent(share.current)]);
        let _ = write!(
            html,
            "<div><h4>{} <span class=\"soft\">{} values</span></h4>{}{}</div>",
            escape(&distribution.column),
            distribution.n,
            svg::shares(&name, &distribution.shares, distribution.is_numeric),
            details(&table(&["values", "reference", "window"], rows))
        );
    }
    html + "</div>"
}

fn segments(report: &Report) -> String {
    let mut worst = harm(report);
    let Some(first) = worst.first() else { return String::new() };
    let intro = format!(
        "<p class=\"soft\">{} of the window from {} by segment, those that cost most first: how much worse than the {} of all, times \
         how many it concerns.</p>",
        first.metric,
        time(first.start),
        number(first.overall)
    );
    let left = worst.len().saturating_sub(ROWS_MAX);
    worst.truncate(ROWS_MAX);
    let (metric, overall) = (worst[0].metric, worst[0].overall);
    let branches: Vec<svg::Branch> = worst
        .iter()
        .take(BRANCHES_MAX)
        .map(|harm| {
            let name = format!("{} = {}", harm.group, harm.group_value);
            (name, harm.value, harm.ci_low.zip(harm.ci_high), harm.is_certain)
        })
        .collect();
    let chart = svg::forest(&format!("{metric} by segment, with intervals"), &branches, overall);
    let rows = worst.into_iter().map(|harm| {
        let verdict = if harm.is_certain { "worse" } else { "" };
        vec![
            format!("{} = {}", harm.group, harm.group_value),
            number(harm.value),
            interval(harm.ci_low, harm.ci_high),
            harm.n_labelled.to_string(),
            verdict.to_owned(),
        ]
    });
    let mut html = intro + &chart + &table(&["segment", metric, "interval", "labelled", "verdict"], rows);
    if left > 0 {
        let _ = write!(html, "<p class=\"soft\">{left} more, less costly, are in the table <code>metrics</code>.</p>");
    }
    html
}

fn versions(report: &Report) -> String {
    let labelled = report.versions.iter().filter(|point| point.n_labelled > 0);
    let mut windows: BTreeMap<i64, Vec<&str>> = BTreeMap::new();
    for point in labelled {
        windows.entry(point.start).or_default().push(&point.group_value);
    }
    let several = |versions: &&Vec<&str>| versions.iter().any(|version| *version != versions[0]);
    let Some((start, _)) = windows.iter().rev().find(|(_, versions)| several(versions)) else { return String::new() };
    let here: Vec<&GroupPoint> = report.versions.iter().filter(|point| point.start == *start).collect();
    let rows = headlines(report.task).iter().flat_map(|headline| {
        here.iter().filter(|point| point.metric == headline.name && point.value.is_some()).map(|point| {
            vec![
                headline.name.to_owned(),
                point.group_value.clone(),
                shown(point.value),
                interval(point.ci_low, point.ci_high),
                point.n_labelled.to_string(),
            ]
        })
    });
    format!(
        "<p class=\"soft\">Side by side in the newest window that has labels of more than one, from {}.</p>{}{}",
        time(*start),
        table(&["metric", "version", "value", "interval", "labelled"], rows),
        differences(report)
    )
}

/// Each two versions: the second less the first.
fn differences(report: &Report) -> String {
    let Some(first) = report.comparisons.first() else { return String::new() };
    let rows = report.comparisons.iter().map(|row| {
        vec![
            row.metric.clone(),
            format!("{} less {}", row.version_b, row.version_a),
            number(row.difference),
            interval(row.ci_low, row.ci_high),
            shown(row.p_value),
            if row.paired { "the same ids".into() } else { "different rows".into() },
            row.ci_warning.clone().unwrap_or_default(),
        ]
    });
    format!(
        "<h3>Differences</h3><p class=\"soft\">In the window from {}, each pair of versions by itself: of twenty pairs that are alike one is \
         under 5&#x202f;%.</p>{}",
        time(first.start),
        table(&["metric", "versions", "difference", "interval", "p", "compared on", "beware"], rows)
    )
}

fn arrival(report: &Report) -> String {
    if report.arrival.iter().all(|arrival| arrival.share == 0.0) {
        return String::new();
    }
    let dots: Vec<Dot> = report
        .arrival
        .iter()
        .map(|arrival| Dot { label: arrival.after.clone(), value: Some(arrival.share), ..Dot::default() })
        .collect();
    let rows = report.arrival.iter().map(|arrival| vec![arrival.after.clone(), percent(arrival.share)]);
    format!(
        "<p class=\"soft\">Of the period's predictions that have waited so long, the share whose label had come by then.</p>{}{}",
        svg::line("Share of predictions with a label by time since the prediction", &dots, &[]),
        details(&table(&["after", "with a label"], rows))
    )
}

fn serving(report: &Report) -> String {
    if report.health.is_empty() {
        return String::new();
    }
    let every = report.health.len().div_ceil(POINTS_MAX).max(1);
    let busiest = |some: &[Health]| some.iter().max_by(|one, other| one.requests.total_cmp(&other.requests)).cloned();
    let health: Vec<Health> = report.health.chunks(every).filter_map(busiest).collect();
    let of = if every > 1 { format!(", the busiest of every {every} windows") } else { String::new() };
    let mut html = String::new();
    for (name, value, band) in SERVING {
        if health.iter().all(|health| value(health).is_none()) {
            continue;
        }
        let dot = |health: &Health| {
            let (low, high) = band(health);
            Dot { label: time(health.start), value: value(health), low, high, ..Dot::default() }
        };
        let dots: Vec<Dot> = health.iter().map(dot).collect();
        let rows = dots.iter().map(|dot| vec![dot.label.clone(), shown(dot.value), interval(dot.low, dot.high)]);
        let rows = table(&["window", name, "interval"], rows);
        let chart = svg::line(&format!("{name} by window"), &dots, &[]);
        let _ = write!(html, "<h3>{name} by window{of}</h3>{chart}{}", details(&rows));
    }
    let rows = health.iter().map(|health| {
        vec![
            time(health.start),
            number(health.requests),
            shown(health.requests_per_second),
            number(health.errors),
            health.error_rate.map_or_else(|| "–".into(), percent),
            interval(health.error_rate_low, health.error_rate_high),
            shown(health.latency_p50_ms),
            shown(health.latency_p95_ms),
            interval(health.latency_p95_low, health.latency_p95_high),
            shown(health.latency_p99_ms),
            shown(health.latency_max_ms),
        ]
    });
    let head = [
        "window",
        "requests",
        "a second",
        "errors",
        "error rate",
        "interval",
        "median latency, ms",
        "p95, ms",
        "interval of p95",
        "p99, ms",
        "longest, ms",
    ];
    let rows = table(&head, rows);
    let _ = write!(html, "<details><summary>All figures of serving</summary>{rows}</details>");
    if !report.errors.is_empty() {
        let rows = report.errors.iter();
        let rows = rows.map(|error| vec![error.message.clone(), error.count.to_string(), time(error.newest)]);
        html += "<h3>Errors</h3>";
        html += &table(&["error", "requests", "newest window"], rows);
    }
    html
}

type Value = fn(&Health) -> Option<f64>;
type Band = fn(&Health) -> (Option<f64>, Option<f64>);

/// What is drawn of serving: its name, value and interval.
const SERVING: [(&str, Value, Band); 3] = [
    ("Requests", |health| Some(health.requests), |_| (None, None)),
    ("Error rate", |health| health.error_rate, |health| (health.error_rate_low, health.error_rate_high)),
    (
        "95 % quantile of latency, ms",
        |health| health.latency_p95_ms,
        |health| (health.latency_p95_low, health.latency_p95_high),
    ),
];

/// The accounts: every prediction of the period in one term, and every label of the model.
fn account(report: &Report) -> String {
    let terms = account_of(report);
    let [terms @ .., (_, all)] = &terms;
    let rows = account_of(report).into_iter().map(|(term, count)| {
        let share = if *all > 0 { percent(count as f64 / *all as f64) } else { "–".into() };
        vec![term.to_owned(), grouped(count), share]
    });
    let mut html = table(&["predictions of the period", "count", "share"], rows);
    let counted: i64 = terms.iter().map(|(_, count)| count).sum();
    if counted != *all {
        let _ = write!(html, "<p>The terms add up to {counted}: run <code>driftline audit</code>.</p>");
    }
    if !report.labels.is_empty() {
        let rows = report.labels.iter().map(|term| vec![term.term.clone(), grouped(term.count)]);
        html += &table(&["labels of the model, of all time", "count"], rows);
    }
    html
}

fn windows(report: &Report) -> String {
    let newest = report.windows.iter().rev().take(POINTS_MAX);
    let rows = newest.map(|window| {
        vec![
            time(window.start),
            window.state.clone(),
            window.revision.to_string(),
            window.predictions.to_string(),
            window.labelled.to_string(),
            window.label_coverage.map_or_else(|| "–".into(), percent),
            window.failed.to_string(),
            window.invalid.to_string(),
            window.duplicates.to_string(),
            time(window.decided_at),
        ]
    });
    let head =
        ["window", "state", "revision", "predictions", "labelled", "coverage", "failed", "refused", "copies", "judged"];
    let left = report.windows.len().saturating_sub(POINTS_MAX);
    let more = if left > 0 {
        format!("<p class=\"soft\">{left} earlier ones are in the table <code>windows</code>.</p>")
    } else {
        String::new()
    };
    format!("<div class=\"pair\">{}</div>{}{more}", account(report), table(&head, rows))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_rule_takes_back_its_alert_and_the_other_holds() {
        let mut report = crate::report::example::report(3, 2);
        let point = report.metrics[0].clone();
        let example = report.alerts[0].clone();
        let alert = |alert_id: &str, transition: &str| AlertLine {
            start: point.start,
            alert_id: alert_id.into(),
            transition: transition.into(),
            text: alert_id.into(),
            metric: point.metric.clone(),
            is_overall: true,
            ..example.clone()
        };
        let told = vec![alert("low", "firing"), alert("falls", "firing"), alert("falls", "withdrawn")];
        let spans = [(point.start, point.start)];
        report.alerts = told;
        let stands = mark(&report, &point, &spans).expect("a mark");
        assert!(!stands.is_withdrawn && stands.text == "low", "{}", stands.text);
        report.alerts.remove(0);
        assert!(mark(&report, &point, &spans).is_some_and(|stands| stands.is_withdrawn));
        // Whatever the order of their names.
        report.alerts = vec![alert("a", "firing"), alert("b", "firing"), alert("b", "withdrawn")];
        assert!(mark(&report, &point, &spans).is_some_and(|stands| !stands.is_withdrawn && stands.text == "a"));
        // An alert of a segment is none of this metric over all, nor is one of another metric or window.
        let raised = alert("a", "firing");
        for elsewhere in [
            AlertLine { is_overall: false, ..raised.clone() },
            AlertLine { metric: "another".into(), ..raised.clone() },
            AlertLine { start: point.start + 1, ..raised.clone() },
        ] {
            report.alerts = vec![elsewhere];
            assert!(mark(&report, &point, &spans).is_none());
        }
        // A point that stands for several windows bears the alerts of all, its last one among them.
        assert!(mark(&report, &point, &[(point.start - 5, point.start + 1)]).is_some());
    }

    #[test]
    fn what_was_said_first_is_shown_where_it_was_something_else() {
        let mut report = crate::report::example::report(3, 2);
        let point = report.metrics.iter().find(|point| point.value.is_some()).expect("a value").clone();
        let said = |value: f64| FirstSaid { start: point.start, metric: point.metric.clone(), revision: 1, value };
        let value = point.value.expect("a value");
        report.revisions = vec![said(value)];
        assert_eq!(first_said(&report, &point), None);
        report.revisions = vec![said(value + 0.1)];
        assert_eq!(first_said(&report, &point).map(|said| said.value), Some(value + 0.1));
    }
}
