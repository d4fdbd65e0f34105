//! Charts as inline SVG. Each has a name for who cannot see it, and takes its colours from the page.
use std::fmt::Write;

use super::html::escape;
use super::number;

const WIDTH: f64 = 640.0;
const HEIGHT: f64 = 220.0;
const LEFT: f64 = 56.0;
const RIGHT: f64 = 12.0;
const TOP: f64 = 12.0;
const BOTTOM: f64 = 28.0;

/// A point of a line, with its interval.
pub(super) struct Dot {
    /// What stands below it, and is said of it.
    pub(super) label: String,
    pub(super) value: Option<f64>,
    pub(super) low: Option<f64>,
    pub(super) high: Option<f64>,
    /// A window that may still change is drawn hollow.
    pub(super) is_open: bool,
}

/// Where numbers come to lie.
struct Scale {
    low: f64,
    high: f64,
}

impl Scale {
    /// Over all these numbers, with some room.
    fn over(numbers: impl Iterator<Item = f64>) -> Self {
        let (low, high) = numbers.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), x| (low.min(x), high.max(x)));
        if low > high {
            return Self { low: 0.0, high: 1.0 };
        }
        let room = if high > low { (high - low) * 0.08 } else { high.abs().max(1.0) * 0.05 };
        Self { low: low - room, high: high + room }
    }

    fn y(&self, value: f64) -> f64 {
        TOP + (HEIGHT - TOP - BOTTOM) * (self.high - value) / (self.high - self.low)
    }
}

fn open(name: &str) -> String {
    format!("<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"{}\">", escape(name))
}

fn axis(svg: &mut String, scale: &Scale) {
    for step in 0..=4 {
        let value = scale.low + (scale.high - scale.low) * f64::from(step) / 4.0;
        let y = scale.y(value);
        let _ = write!(
            svg,
            "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{:.1}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/>\
             <text class=\"tick\" x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
            WIDTH - RIGHT,
            LEFT - 6.0,
            y + 4.0,
            number(value)
        );
    }
}

/// A value over time, with the band of its intervals.
pub(super) fn line(name: &str, dots: &[Dot]) -> String {
    let mut svg = open(name);
    let numbers = dots.iter().flat_map(|dot| [dot.value, dot.low, dot.high]).flatten();
    let scale = Scale::over(numbers);
    axis(&mut svg, &scale);
    let x = |at: usize| {
        let span = (dots.len().max(2) - 1) as f64;
        LEFT + (WIDTH - LEFT - RIGHT) * if dots.len() == 1 { 0.5 } else { at as f64 / span }
    };
    // Bands and lines break where there is no value.
    let is_there = |dot: &Dot| dot.value.is_some();
    let mut at = 0;
    for run in dots.chunk_by(|one, next| is_there(one) == is_there(next)) {
        let places = at..at + run.len();
        at += run.len();
        if !is_there(&run[0]) {
            continue;
        }
        let banded: Vec<(f64, f64, f64)> = places
            .clone()
            .zip(run)
            .filter_map(|(at, dot)| Some((x(at), scale.y(dot.low?), scale.y(dot.high?))))
            .collect();
        if banded.len() > 1 {
            let up = banded.iter().map(|(x, _, high)| format!("{x:.1},{high:.1}"));
            let down = banded.iter().rev().map(|(x, low, _)| format!("{x:.1},{low:.1}"));
            let _ =
                write!(svg, "<polygon class=\"band\" points=\"{}\"/>", up.chain(down).collect::<Vec<_>>().join(" "));
        }
        let points: Vec<String> =
            places.zip(run).filter_map(|(at, dot)| Some(format!("{:.1},{:.1}", x(at), scale.y(dot.value?)))).collect();
        let _ = write!(svg, "<polyline class=\"line\" points=\"{}\"/>", points.join(" "));
    }
    for (at, dot) in dots.iter().enumerate() {
        let Some(value) = dot.value else { continue };
        let interval = match (dot.low, dot.high) {
            (Some(low), Some(high)) => format!(" ({} to {})", number(low), number(high)),
            _ => String::new(),
        };
        if let (1, Some(low), Some(high)) = (dots.len(), dot.low, dot.high) {
            let _ = write!(
                svg,
                "<line class=\"line\" x1=\"{0:.1}\" x2=\"{0:.1}\" y1=\"{1:.1}\" y2=\"{2:.1}\"/>",
                x(at),
                scale.y(low),
                scale.y(high)
            );
        }
        let _ = write!(
            svg,
            "<circle class=\"{}\" cx=\"{:.1}\" cy=\"{:.1}\" r=\"3\"><title>{}: {}{interval}</title></circle>",
            if dot.is_open { "dot open" } else { "dot" },
            x(at),
            scale.y(value),
            escape(&dot.label),
            number(value)
        );
    }
    for (at, anchor) in [(0, "start"), (dots.len().saturating_sub(1), "end")] {
        if let Some(dot) = dots.get(at).filter(|_| at > 0 || anchor == "start") {
            let place = if anchor == "start" { LEFT } else { WIDTH - RIGHT };
            let _ = write!(
                svg,
                "<text class=\"tick\" x=\"{place:.1}\" y=\"{:.1}\" text-anchor=\"{anchor}\">{}</text>",
                HEIGHT - 8.0,
                escape(&dot.label)
            );
        }
    }
    svg + "</svg>"
}

/// A curve in the unit square, with the diagonal.
pub(super) fn unit(name: &str, points: &[(f64, f64)], marks: bool) -> String {
    const SIDE: f64 = 300.0;
    const EDGE: f64 = 30.0;
    let at = |x: f64, y: f64| (EDGE + x * (SIDE - 2.0 * EDGE), SIDE - EDGE - y * (SIDE - 2.0 * EDGE));
    let mut svg =
        format!("<svg class=\"square\" viewBox=\"0 0 {SIDE} {SIDE}\" role=\"img\" aria-label=\"{}\">", escape(name));
    let ((x0, y0), (x1, y1)) = (at(0.0, 0.0), at(1.0, 1.0));
    let _ = write!(
        svg,
        "<rect class=\"frame\" x=\"{x0}\" y=\"{y1}\" width=\"{0}\" height=\"{0}\"/>\
         <line class=\"grid\" x1=\"{x0}\" y1=\"{y0}\" x2=\"{x1}\" y2=\"{y1}\"/>",
        x1 - x0
    );
    for (value, text) in [(0.0, "0"), (0.5, "0.5"), (1.0, "1")] {
        let (x, y) = at(value, value);
        let _ = write!(
            svg,
            "<text class=\"tick\" x=\"{x}\" y=\"{}\" text-anchor=\"middle\">{text}</text>\
             <text class=\"tick\" x=\"{}\" y=\"{}\" text-anchor=\"end\">{text}</text>",
            SIDE - EDGE + 16.0,
            EDGE - 5.0,
            y + 4.0
        );
    }
    let path: Vec<String> = points.iter().map(|(x, y)| at(*x, *y)).map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
    let _ = write!(svg, "<polyline class=\"line\" points=\"{}\"/>", path.join(" "));
    for (x, y) in points.iter().filter(|_| marks).map(|(x, y)| at(*x, *y)) {
        let _ = write!(svg, "<circle class=\"dot\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3\"/>");
    }
    svg + "</svg>"
}

/// A map of rows × columns: how dark a field is says how far it lies to its threshold; one that is beyond has a border.
pub(super) fn heat(name: &str, rows: &[(String, Vec<Option<Field>>)], columns: &[String]) -> String {
    const LINE: f64 = 20.0;
    const NAMES: f64 = 150.0;
    let height = LINE * rows.len() as f64 + 26.0;
    let wide = (WIDTH - NAMES - RIGHT) / columns.len().max(1) as f64;
    let mut svg = format!("<svg viewBox=\"0 0 {WIDTH} {height}\" role=\"img\" aria-label=\"{}\">", escape(name));
    for (at, (row, fields)) in rows.iter().enumerate() {
        let y = LINE * at as f64;
        let short: String =
            if row.chars().count() > 22 { row.chars().take(21).chain(['…']).collect() } else { row.clone() };
        let _ = write!(
            svg,
            "<text class=\"tick\" x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
            NAMES - 6.0,
            y + 14.0,
            escape(&short)
        );
        for (column, field) in fields.iter().enumerate() {
            let Some(field) = field else { continue };
            let _ = write!(
                svg,
                "<rect class=\"{}\" x=\"{:.1}\" y=\"{:.1}\" width=\"{:.1}\" height=\"{:.1}\" fill-opacity=\"{:.2}\"><title>{}, {}: {}</title></rect>",
                if field.is_beyond { "heat beyond" } else { "heat" },
                NAMES + wide * column as f64 + 0.5,
                y + 1.0,
                (wide - 1.0).max(0.5),
                LINE - 2.0,
                field.share.clamp(0.0, 1.0) * 0.9 + 0.06,
                escape(row),
                escape(&columns[column]),
                escape(&field.text)
            );
        }
    }
    let y = height - 8.0;
    if let (Some(first), Some(last)) = (columns.first(), columns.last()) {
        let _ = write!(svg, "<text class=\"tick\" x=\"{NAMES}\" y=\"{y}\">{}</text>", escape(first));
        if columns.len() > 1 {
            let _ = write!(
                svg,
                "<text class=\"tick\" x=\"{}\" y=\"{y}\" text-anchor=\"end\">{}</text>",
                WIDTH - RIGHT,
                escape(last)
            );
        }
    }
    svg + "</svg>"
}

/// One field of a [`heat`] map.
#[derive(Clone)]
pub(super) struct Field {
    /// 0 to 1: half is at the threshold.
    pub(super) share: f64,
    pub(super) is_beyond: bool,
    pub(super) text: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dot(value: Option<f64>) -> Dot {
        Dot { label: "<w>".into(), value, low: value.map(|v| v - 1.0), high: value.map(|v| v + 1.0), is_open: false }
    }

    #[test]
    fn a_line_breaks_where_there_is_no_value_and_names_are_escaped() {
        let svg = line("a \"chart\"", &[dot(Some(1.0)), dot(Some(2.0)), dot(None), dot(Some(3.0)), dot(Some(2.0))]);
        assert_eq!((svg.matches("<polyline").count(), svg.matches("<polygon").count()), (2, 2));
        assert!(svg.contains("a &quot;chart&quot;") && svg.contains("&lt;w&gt;: 1 (0 to 2)") && !svg.contains("<w>"));
        assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
    }

    #[test]
    fn charts_of_one_point_of_none_and_of_a_constant_are_charts() {
        for dots in [vec![], vec![dot(None)], vec![dot(Some(5.0))], vec![dot(Some(0.0)), dot(Some(0.0))]] {
            let svg = line("x", &dots);
            assert!(svg.ends_with("</svg>") && !svg.contains("NaN") && !svg.contains("inf"), "{svg}");
        }
        assert!(!heat("x", &[], &[]).contains("NaN"));
        assert!(!unit("x", &[], true).contains("NaN"));
    }
}
