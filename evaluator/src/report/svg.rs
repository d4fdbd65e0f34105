//! Charts as inline SVG. Each has a name for who cannot see it, and takes its colours from the page.
use std::fmt::Write;

use super::html::escape;
use super::number;

const WIDTH: f64 = 640.0;
const HEIGHT: f64 = 220.0;
const LEFT: f64 = 90.0;
/// Characters of a number beside an axis, its sign not counted.
const TICK_MAX: usize = 7;
const RIGHT: f64 = 12.0;
const TOP: f64 = 12.0;
const BOTTOM: f64 = 28.0;

/// A point of a line, with its interval.
#[derive(Default)]
pub(super) struct Dot {
    /// What stands below it, and is said of it.
    pub(super) label: String,
    pub(super) value: Option<f64>,
    pub(super) low: Option<f64>,
    pub(super) high: Option<f64>,
    /// A window that may still change is drawn hollow.
    pub(super) is_open: bool,
    /// What was said of it first, where that was something else.
    pub(super) before: Option<f64>,
    /// Another value to be held against it: a diamond.
    pub(super) other: Option<f64>,
    /// An alert.
    pub(super) mark: Option<Mark>,
}

/// An alert at a point.
pub(super) struct Mark {
    /// It has been withdrawn.
    pub(super) is_withdrawn: bool,
    pub(super) text: String,
}

/// A level across a chart, and its name.
pub(super) type Level = (f64, String);

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
        // What is never negative has no room below nothing.
        Self { low: if low >= 0.0 { (low - room).max(0.0) } else { low - room }, high: high + room }
    }

    /// A number beside the axis: as many digits as tell the steps apart, and no wider than there is room for on a phone.
    fn tick(&self, value: f64) -> String {
        let step = (self.high - self.low) / 4.0;
        let digits = (1.0 - step.log10().floor()).clamp(0.0, 12.0) as usize;
        let text = format!("{value:.digits$}");
        if text.trim_start_matches('-').len() > TICK_MAX {
            return format!("{value:.1e}");
        }
        let text = if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { &text };
        if text == "-0" { "0".to_owned() } else { text.to_owned() }
    }

    fn y(&self, value: f64) -> f64 {
        TOP + (HEIGHT - TOP - BOTTOM) * (self.high - value) / (self.high - self.low)
    }
}

fn open(name: &str) -> String {
    format!("<svg class=\"wide\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"{}\">", escape(name))
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
            scale.tick(value)
        );
    }
}

/// A value over time, with the band of its intervals, levels that are tolerated, and alerts.
pub(super) fn line(name: &str, dots: &[Dot], levels: &[Level]) -> String {
    let mut svg = open(name);
    let numbers = dots.iter().flat_map(|dot| [dot.value, dot.low, dot.high, dot.before, dot.other]).flatten();
    let scale = Scale::over(numbers.chain(levels.iter().map(|(level, _)| *level)));
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
    for (level, title) in levels {
        let y = scale.y(*level);
        let _ = write!(
            svg,
            "<line class=\"level\" x1=\"{LEFT}\" x2=\"{:.1}\" y1=\"{y:.1}\" y2=\"{y:.1}\"><title>{}</title></line>",
            WIDTH - RIGHT,
            escape(title)
        );
    }
    // Of many points the line says enough.
    let radius = if dots.len() > 60 { 1.8 } else { 3.0 };
    for (at, dot) in dots.iter().enumerate() {
        if let Some(mark) = &dot.mark {
            let (x, class) = (x(at), if mark.is_withdrawn { "mark open" } else { "mark" });
            let _ = write!(
                svg,
                "<path class=\"{class}\" d=\"M{:.1} 1h10l-5 9z\"><title>{}</title></path>",
                x - 5.0,
                escape(&mark.text)
            );
        }
        if let Some(other) = dot.other {
            let _ = write!(
                svg,
                "<path class=\"other\" d=\"M{:.1} {:.1}l4 4 -4 4 -4 -4z\"><title>{}: {}</title></path>",
                x(at),
                scale.y(other) - 4.0,
                escape(&dot.label),
                number(other)
            );
        }
        let Some(value) = dot.value else { continue };
        if let Some(before) = dot.before {
            let _ = write!(
                svg,
                "<line class=\"before\" x1=\"{0:.1}\" x2=\"{0:.1}\" y1=\"{1:.1}\" y2=\"{2:.1}\"/>\
                 <line class=\"before\" x1=\"{3:.1}\" x2=\"{4:.1}\" y1=\"{1:.1}\" y2=\"{1:.1}\"/>",
                x(at),
                scale.y(before),
                scale.y(value),
                x(at) - 4.0,
                x(at) + 4.0
            );
        }
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
            "<circle class=\"{}\" cx=\"{:.1}\" cy=\"{:.1}\" r=\"{radius}\"><title>{}: {}{interval}</title></circle>",
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
    const NAMES: f64 = 252.0;
    // The first name has room above it on a phone, where letters are larger.
    const TOP: f64 = 4.0;
    let height = TOP + LINE * rows.len() as f64 + 26.0;
    let wide = (WIDTH - NAMES - RIGHT) / columns.len().max(1) as f64;
    let mut svg =
        format!("<svg class=\"wide\" viewBox=\"0 0 {WIDTH} {height}\" role=\"img\" aria-label=\"{}\">", escape(name));
    for (at, (row, fields)) in rows.iter().enumerate() {
        let y = TOP + LINE * at as f64;
        let _ = write!(svg, "{}", label(row, NAMES - 6.0, y + 14.0));
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

/// Shares of two sides: of numbers as columns, of categories as bars that have their names beside them. It is half as wide as
/// other charts, for many stand side by side.
pub(super) fn shares(name: &str, shares: &[super::Share], is_numeric: bool) -> String {
    const WIDE: f64 = 320.0;
    const LINE: f64 = 24.0;
    let most = shares.iter().flat_map(|share| [share.reference, share.current]).fold(0.0, f64::max).max(1e-9);
    let height = if is_numeric { 150.0 } else { LINE * shares.len() as f64 + 4.0 };
    let mut svg = format!("<svg viewBox=\"0 0 {WIDE} {height}\" role=\"img\" aria-label=\"{}\">", escape(name));
    if is_numeric {
        const FOOT: f64 = 128.0;
        const EDGE: f64 = 44.0;
        let y = |share: f64| FOOT - (FOOT - 14.0) * share / most;
        for share in [0.0, most / 2.0, most] {
            let _ = write!(
                svg,
                "<line class=\"grid\" x1=\"{EDGE}\" x2=\"{WIDE}\" y1=\"{0:.1}\" y2=\"{0:.1}\"/>\
                 <text class=\"tick\" x=\"{1:.1}\" y=\"{2:.1}\" text-anchor=\"end\">{3}</text>",
                y(share),
                EDGE - 4.0,
                y(share) + 4.0,
                super::percent((share * 1_000.0).round() / 1_000.0)
            );
        }
        let wide = (WIDE - EDGE) / shares.len().max(1) as f64;
        for (at, share) in shares.iter().enumerate() {
            let x = EDGE + wide * at as f64;
            for (class, value, from, part) in
                [("reference", share.reference, 0.04, 0.92), ("current", share.current, 0.27, 0.46)]
            {
                let _ = write!(
                    svg,
                    "<rect class=\"{class}\" x=\"{:.1}\" y=\"{:.1}\" width=\"{:.1}\" height=\"{:.1}\"/>",
                    x + wide * from,
                    y(value),
                    wide * part,
                    FOOT - y(value)
                );
            }
        }
        for (at, anchor, x) in [(0, "start", EDGE), (shares.len().saturating_sub(1), "end", WIDE)] {
            let text = shares.get(at).map(|share| escape(&share.name)).unwrap_or_default();
            let y = FOOT + 16.0;
            let _ = write!(svg, "<text class=\"tick\" x=\"{x}\" y=\"{y}\" text-anchor=\"{anchor}\">{text}</text>");
        }
        return svg + "</svg>";
    }
    const NAMES: f64 = 130.0;
    for (at, share) in shares.iter().enumerate() {
        let y = LINE * at as f64 + 3.0;
        let _ = write!(svg, "{}", label(&share.name, NAMES - 6.0, y + 13.0));
        for (class, value, top) in [("reference", share.reference, 0.0), ("current", share.current, 9.0)] {
            let _ = write!(
                svg,
                "<rect class=\"{class}\" x=\"{NAMES}\" y=\"{:.1}\" width=\"{:.1}\" height=\"8\"/>",
                y + top,
                (WIDE - NAMES) * value / most
            );
        }
    }
    svg + "</svg>"
}

/// A row of [`forest`]: its name, value, interval, and whether it stands out.
pub(super) type Branch = (String, f64, Option<(f64, f64)>, bool);

/// Values and their intervals, one below the other, beside the value of all.
pub(super) fn forest(name: &str, rows: &[Branch], all: f64) -> String {
    const LINE: f64 = 22.0;
    const NAMES: f64 = 252.0;
    // The first name has room above it on a phone, where letters are larger.
    const TOP: f64 = 4.0;
    let height = TOP + LINE * rows.len() as f64 + 26.0;
    let numbers = rows.iter().flat_map(|(_, value, interval, _)| {
        let (low, high) = interval.unwrap_or((*value, *value));
        [*value, low, high]
    });
    let scale = Scale::over(numbers.chain([all]));
    let x = |value: f64| NAMES + (WIDTH - NAMES - RIGHT) * (value - scale.low) / (scale.high - scale.low);
    let mut svg =
        format!("<svg class=\"wide\" viewBox=\"0 0 {WIDTH} {height}\" role=\"img\" aria-label=\"{}\">", escape(name));
    let _ = write!(
        svg,
        "<line class=\"level\" x1=\"{0:.1}\" x2=\"{0:.1}\" y1=\"0\" y2=\"{1:.1}\"/>\
         <text class=\"tick\" x=\"{3:.1}\" y=\"{2:.1}\" text-anchor=\"middle\">all: {4}</text>",
        x(all),
        height - 22.0,
        height - 6.0,
        // Its half lies within the picture, wherever the line is.
        x(all).clamp(NAMES, WIDTH - 60.0),
        number(all)
    );
    for (at, (row, value, interval, stands_out)) in rows.iter().enumerate() {
        let y = LINE * at as f64 + 11.0;
        let class = if *stands_out { "worse" } else { "" };
        let _ = write!(svg, "{}", label(row, NAMES - 6.0, y + 4.0));
        if let Some((low, high)) = interval {
            let _ = write!(
                svg,
                "<line class=\"line {class}\" x1=\"{:.1}\" x2=\"{:.1}\" y1=\"{y}\" y2=\"{y}\"/>",
                x(*low),
                x(*high)
            );
        }
        let _ = write!(svg, "<circle class=\"dot {class}\" cx=\"{:.1}\" cy=\"{y}\" r=\"4\"/>", x(*value));
    }
    svg + "</svg>"
}

/// A name that ends at a place, cut to what fits there.
fn label(name: &str, x: f64, y: f64) -> String {
    let short: String =
        if name.chars().count() > 22 { name.chars().take(21).chain(['…']).collect() } else { name.to_owned() };
    format!("<text class=\"tick\" x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"end\">{}</text>", escape(&short))
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
        let (low, high) = (value.map(|v| v - 1.0), value.map(|v| v + 1.0));
        Dot { label: "<w>".into(), value, low, high, ..Dot::default() }
    }

    #[test]
    fn a_line_breaks_where_there_is_no_value_and_names_are_escaped() {
        let svg =
            line("a \"chart\"", &[dot(Some(1.0)), dot(Some(2.0)), dot(None), dot(Some(3.0)), dot(Some(2.0))], &[]);
        assert_eq!((svg.matches("<polyline").count(), svg.matches("<polygon").count()), (2, 2));
        assert!(svg.contains("a &quot;chart&quot;") && svg.contains("&lt;w&gt;: 1 (0 to 2)") && !svg.contains("<w>"));
        assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
    }

    #[test]
    fn charts_of_one_point_of_none_and_of_a_constant_are_charts() {
        for dots in [vec![], vec![dot(None)], vec![dot(Some(5.0))], vec![dot(Some(0.0)), dot(Some(0.0))]] {
            let svg = line("x", &dots, &[]);
            assert!(svg.ends_with("</svg>") && !svg.contains("NaN") && !svg.contains("inf"), "{svg}");
        }
        assert!(!heat("x", &[], &[]).contains("NaN"));
        assert!(!unit("x", &[], true).contains("NaN"));
        for is_numeric in [true, false] {
            let svg = shares("x", &[], is_numeric);
            assert!(svg.ends_with("</svg>") && !svg.contains("NaN") && !svg.contains("inf"), "{svg}");
        }
        assert!(!forest("x", &[], 0.5).contains("NaN"));
    }

    #[test]
    fn alerts_levels_and_what_was_said_before_are_drawn_and_have_names() {
        let mark = Mark { is_withdrawn: true, text: "<f1> is low".into() };
        let mut marked = dot(Some(2.0));
        (marked.before, marked.other, marked.mark) = (Some(-8.0), Some(9.0), Some(mark));
        let svg = line("x", &[dot(Some(1.0)), marked], &[(12.0, "tolerated <12>".into())]);
        for part in
            ["class=\"mark open\"", "&lt;f1&gt; is low", "class=\"other\"", "class=\"before\"", "tolerated &lt;12&gt;"]
        {
            assert!(svg.contains(part), "{part} is not in {svg}");
        }
        let places = svg.split(" y1=\"").skip(1).filter_map(|rest| rest.split('"').next()?.parse::<f64>().ok());
        assert!(places.into_iter().all(|y| (0.0..=HEIGHT).contains(&y)), "all of it is within the chart: {svg}");
    }

    #[test]
    fn numbers_beside_an_axis_are_short_and_tell_its_steps_apart() {
        let spans =
            [(0.0, 1.0), (0.0, 0.002), (-0.0002, 0.002), (0.81, 0.83), (0.0, 3e-9), (41_000.0, 43_000.0), (-2e9, 5e9)];
        for (low, high) in spans {
            let scale = Scale::over([low, high].into_iter());
            assert!(low < 0.0 || scale.low >= 0.0, "below nothing: {low} to {high}");
            let step = (scale.high - scale.low) / 4.0;
            let ticks: Vec<String> = (0..=4).map(|at| scale.tick(scale.low + step * f64::from(at))).collect();
            assert!(ticks.iter().all(|tick| tick.trim_start_matches('-').len() <= TICK_MAX), "{ticks:?}");
            assert!(ticks.windows(2).all(|pair| pair[0] != pair[1]), "{ticks:?}");
        }
        assert_eq!(Scale { low: -1.0, high: 1.0 }.tick(-0.0001), "0");
    }
}
