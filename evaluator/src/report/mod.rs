//! One model's windows as a page that a person reads: what needs attention first, then everything that it rests on.
//!
//! A report is read out of the tables (and, where no table has it, out of `history`), never computed beside them: its numbers
//! are those that `driftline sql` gives. It holds no rows of events.
mod attention;
mod distributions;
#[cfg(test)]
mod example;
mod gather;
mod html;
mod markdown;
mod svg;

use chrono::{DateTime, Utc};
use driftline_schemas::clock::Micros;
use driftline_schemas::tables::Task;
use serde::{Deserialize, Serialize};

pub use gather::{Subject, gather};

use crate::metrics::Curve;

/// One model over a period.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// Model.
    pub model: String,
    /// What it predicts.
    pub task: Task,
    /// When the report was made.
    pub generated_at: DateTime<Utc>,
    /// What a person should know first, the weightiest first.
    pub attention: Vec<Finding>,
    /// The windows of the period, in order.
    pub windows: Vec<WindowLine>,
    /// Every metric over all versions and segments, in order of name and time.
    pub metrics: Vec<MetricPoint>,
    /// The same by version, where there is more than one.
    pub versions: Vec<GroupPoint>,
    /// The same by segment.
    pub segments: Vec<GroupPoint>,
    /// Actual × predicted over the period.
    pub confusion: Vec<Cell>,
    /// Ranking and calibration over the period, of binary models with scores.
    pub curves: Vec<PeriodCurve>,
    /// Versions against each other, in the newest window with several.
    pub comparisons: Vec<ComparedVersions>,
    /// Levels that rules tolerate of metrics over all.
    pub levels: Vec<Tolerated>,
    /// What happened to alerts of these windows, the oldest first.
    pub alerts: Vec<AlertLine>,
    /// What metrics of windows were at their first revision that is kept, where a later one says something else.
    pub revisions: Vec<FirstSaid>,
    /// Estimates over all, beside what labels say.
    pub estimates: Vec<EstimatePoint>,
    /// Distances of columns from the reference.
    pub drift: Vec<DriftPoint>,
    /// How drifted columns lie beside their reference, in the newest window that was measured.
    pub distributions: Vec<Distribution>,
    /// Which share of predictions had its label how long after.
    pub arrival: Vec<Arrival>,
    /// Requests, failures and latency by window.
    pub health: Vec<Health>,
    /// The most frequent errors of the period.
    pub errors: Vec<ErrorCount>,
    /// What has become of all labels of the model, by term of its account.
    pub labels: Vec<LabelTerm>,
}

/// A sentence and how much it matters.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Finding {
    /// How much it matters.
    pub severity: Severity,
    /// In one sentence, with its numbers.
    pub text: String,
}

/// How much a finding matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// Something is worse, and chance does not explain it.
    Bad,
    /// Something has changed, or is missing.
    Notable,
    /// Nothing to do.
    Fine,
}

impl Severity {
    /// Its word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Bad => "bad",
            Self::Notable => "notable",
            Self::Fine => "fine",
        }
    }
}

/// A window, as in the table `windows`; times in microseconds UTC.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct WindowLine {
    /// Start.
    pub start: Micros,
    /// End.
    pub end: Micros,
    /// `open`, `sealed` or `final`.
    pub state: String,
    /// Latest revision.
    pub revision: i64,
    /// Predictions.
    pub predictions: i64,
    /// Those with a label.
    pub labelled: i64,
    /// Those that failed.
    pub failed: i64,
    /// Those that the model's settings refuse.
    pub invalid: i64,
    /// Copies.
    pub duplicates: i64,
    /// Those that wait for a label.
    pub waiting: i64,
    /// Those whose label will not count any more.
    pub expired: i64,
    /// Those that came once the window was final.
    pub after_final: i64,
    /// Share of predictions with a label, 0 to 1.
    pub label_coverage: Option<f64>,
    /// When it was last judged.
    pub decided_at: Micros,
}

/// A metric of one window over all versions and segments.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MetricPoint {
    /// The window's start, microseconds UTC.
    pub start: Micros,
    /// Name.
    pub metric: String,
    /// Class of a per-class row.
    pub class: Option<String>,
    /// Value; `None` with a reason.
    pub value: Option<f64>,
    /// Why there is no value.
    pub reason: Option<String>,
    /// By how much the value may be off at most, if the window's rows did not fit into memory.
    #[serde(default)]
    pub error_bound: Option<f64>,
    /// Interval, if the metric has one.
    pub ci_low: Option<f64>,
    /// Interval, if the metric has one.
    pub ci_high: Option<f64>,
    /// Why the interval may not hold, if it may not.
    pub ci_warning: Option<String>,
    /// Labelled predictions behind it.
    pub n_labelled: i64,
}

impl MetricPoint {
    /// The value for people, and how far it may be off.
    fn show(&self) -> Option<String> {
        let value = number(self.value?);
        Some(self.error_bound.map_or_else(|| value.clone(), |bound| format!("{value} ± {}", number(bound))))
    }
}

/// What a page says of values with a `±`, if it has such.
fn bounds_note(report: &Report) -> Option<&'static str> {
    let has_bound = report.metrics.iter().any(|point| point.error_bound.is_some());
    has_bound.then_some(
        "The rows of some windows did not fit into memory: a value is within what follows its ± of the exact one, and its interval is as much wider.",
    )
}

/// A metric of one window for one value of a segment, or one version.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GroupPoint {
    /// The window's start, microseconds UTC.
    pub start: Micros,
    /// Name of the segment; `version` for versions.
    pub group: String,
    /// Its value.
    pub group_value: String,
    /// Metric.
    pub metric: String,
    /// Value.
    pub value: Option<f64>,
    /// Interval, if the metric has one.
    pub ci_low: Option<f64>,
    /// Interval, if the metric has one.
    pub ci_high: Option<f64>,
    /// Why the interval may not hold, if it may not.
    pub ci_warning: Option<String>,
    /// Labelled predictions behind it.
    pub n_labelled: i64,
}

/// A cell of the confusion matrix.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Cell {
    /// Class of the label.
    pub actual: String,
    /// Class of the prediction.
    pub predicted: String,
    /// Predictions.
    pub count: i64,
}

/// A curve over all windows of the period together.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PeriodCurve {
    /// Its name and at most 200 points.
    #[serde(flatten)]
    pub curve: Curve,
    /// The area below it, over all thresholds: of `roc`, and of `precision_recall`.
    pub area: Option<f64>,
}

/// A metric of two versions in the same window.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ComparedVersions {
    /// The window's start, microseconds UTC.
    pub start: Micros,
    /// Metric.
    pub metric: String,
    /// The first version.
    pub version_a: String,
    /// The second.
    pub version_b: String,
    /// The first version's value.
    pub value_a: Option<f64>,
    /// The second's.
    pub value_b: Option<f64>,
    /// The second less the first.
    pub difference: f64,
    /// The difference's interval.
    pub ci_low: Option<f64>,
    /// The difference's interval.
    pub ci_high: Option<f64>,
    /// Why it may not hold.
    pub ci_warning: Option<String>,
    /// Of no difference.
    pub p_value: Option<f64>,
    /// Whether on the ids that both have scored.
    pub paired: bool,
    /// Labelled predictions of the first version.
    pub n_a: i64,
    /// Of the second.
    pub n_b: i64,
    /// Whether no newer window compares versions.
    #[serde(skip_serializing)]
    is_newest: bool,
}

/// A distance of one column in one window, by the method that decides for the column.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DriftPoint {
    /// The window's start, microseconds UTC.
    pub start: Micros,
    /// Column.
    pub column: String,
    /// Method.
    pub method: String,
    /// Statistic; `None` with a reason.
    pub statistic: Option<f64>,
    /// Of a test.
    pub p_value: Option<f64>,
    /// What it is compared with.
    pub threshold: Option<f64>,
    /// The verdict.
    pub drifted: Option<bool>,
    /// Why there is none.
    pub reason: Option<String>,
    /// The reference's version.
    pub reference_version: Option<String>,
}

/// A level that a rule tolerates of a metric.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Tolerated {
    /// Metric.
    pub metric: String,
    /// Number.
    pub level: f64,
    /// `below` or `above` it is bad.
    pub bad: &'static str,
    /// Rule.
    pub rule: String,
}

/// Something that happened to an alert, as in the table `alerts`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AlertLine {
    /// The window's start, microseconds UTC.
    pub start: Micros,
    /// When it happened, microseconds UTC.
    pub at: Micros,
    /// The alert.
    pub alert_id: String,
    /// What happened: `firing`, `resolved`, `withdrawn` and so on.
    pub transition: String,
    /// Rule.
    pub rule: String,
    /// How bad it is.
    pub severity: String,
    /// Metric, or drift's and quality's word for it.
    pub metric: String,
    /// Whether it is of the series over all versions, segments, columns and classes.
    pub is_overall: bool,
    /// In one sentence.
    pub text: String,
}

/// What a metric of a window was at first.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FirstSaid {
    /// The window's start, microseconds UTC.
    pub start: Micros,
    /// Metric.
    pub metric: String,
    /// The first revision that is kept.
    pub revision: i64,
    /// The value then.
    pub value: f64,
}

/// An estimate of one window, and what labels say.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EstimatePoint {
    /// The window's start, microseconds UTC.
    pub start: Micros,
    /// Metric.
    pub metric: String,
    /// `cbpe`, `dle` or `nowcast`.
    pub method: String,
    /// Estimate.
    pub value: Option<f64>,
    /// Where the realised value is expected.
    pub ci_low: Option<f64>,
    /// Where the realised value is expected.
    pub ci_high: Option<f64>,
    /// What the labels that are there say.
    pub realised: Option<f64>,
    /// Predictions.
    pub n: i64,
    /// Those with a label.
    pub n_labelled: i64,
}

/// How a column lies in a window, beside its reference.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Distribution {
    /// The window's start, microseconds UTC.
    pub start: Micros,
    /// Column.
    pub column: String,
    /// The reference's version.
    pub reference_version: String,
    /// Whether bins are of numbers, in their order.
    pub is_numeric: bool,
    /// Rows of the window with a value.
    pub n: u64,
    /// Bins or categories.
    pub shares: Vec<Share>,
}

/// A bin of numbers, or a category.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Share {
    /// What is in it.
    pub name: String,
    /// Share of the reference's rows, 0 to 1.
    pub reference: f64,
    /// Share of the window's rows, 0 to 1.
    pub current: f64,
    /// The window's rows.
    pub current_rows: u64,
}

/// How many labels of a model ended in one way.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LabelTerm {
    /// Term.
    pub term: String,
    /// Labels.
    pub count: i64,
}

/// How many labels had come some time after their predictions.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Arrival {
    /// After so long, in words.
    pub after: String,
    /// Share of the period's predictions, 0 to 1.
    pub share: f64,
}

/// How a window was served.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Health {
    /// The window's start, microseconds UTC.
    pub start: Micros,
    /// Requests.
    pub requests: f64,
    /// Requests a second.
    pub requests_per_second: Option<f64>,
    /// Requests that failed.
    pub errors: f64,
    /// Their share, 0 to 1.
    pub error_rate: Option<f64>,
    /// Its interval.
    pub error_rate_low: Option<f64>,
    /// Its interval.
    pub error_rate_high: Option<f64>,
    /// Median latency, milliseconds.
    pub latency_p50_ms: Option<f64>,
    /// Its 95 % quantile, milliseconds.
    pub latency_p95_ms: Option<f64>,
    /// That quantile's interval.
    pub latency_p95_low: Option<f64>,
    /// That quantile's interval.
    pub latency_p95_high: Option<f64>,
    /// The 99 % quantile, milliseconds.
    pub latency_p99_ms: Option<f64>,
    /// Longest latency, milliseconds.
    pub latency_max_ms: Option<f64>,
}

/// An error and how often it occurred in the period.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ErrorCount {
    /// The beginning of its text.
    pub message: String,
    /// Requests.
    pub count: i64,
    /// The newest window in which it occurred, microseconds UTC.
    pub newest: Micros,
}

/// A metric that is shown first, and whether more of it is better.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Headline {
    name: &'static str,
    more_is_better: bool,
}

const fn up(name: &'static str) -> Headline {
    Headline { name, more_is_better: true }
}

const fn down(name: &'static str) -> Headline {
    Headline { name, more_is_better: false }
}

impl Headline {
    /// Whether an interval lies wholly on the worse side of a value.
    fn is_worse(self, (low, high): (f64, f64), than: f64) -> bool {
        if self.more_is_better { high < than } else { low > than }
    }
}

/// What is shown first of a task, the weightiest first.
fn headlines(task: Task) -> &'static [Headline] {
    match task {
        Task::Binary => {
            &const { [up("roc_auc"), up("f1"), up("accuracy"), up("precision"), up("recall"), down("log_loss")] }
        }
        Task::Multiclass => &const { [up("accuracy"), up("f1_macro"), up("balanced_accuracy"), down("log_loss")] },
        Task::Regression => {
            &const {
                [
                    down("mean_absolute_error"),
                    down("root_mean_squared_error"),
                    up("r2"),
                    down("mean_absolute_percentage_error"),
                ]
            }
        }
    }
}

impl Report {
    /// One self-contained page: no script, nothing loaded from elsewhere.
    pub fn to_html(&self) -> String {
        html::page(self)
    }

    /// The same in Markdown, without the charts.
    pub fn to_markdown(&self) -> String {
        markdown::page(self)
    }

    /// Points of a metric over all, in order of time.
    fn series(&self, metric: &str) -> impl Iterator<Item = &MetricPoint> {
        self.metrics.iter().filter(move |point| point.metric == metric && point.class.is_none())
    }

    /// The last window that has a label.
    fn newest_labelled(&self) -> Option<&WindowLine> {
        self.windows.iter().rev().find(|window| window.labelled > 0)
    }
}

/// The account of the period's predictions, each in one term; the last one is all of them.
fn account_of(report: &Report) -> [(&'static str, i64); 8] {
    let sum = |of: fn(&WindowLine) -> i64| report.windows.iter().map(of).sum::<i64>();
    [
        ("labelled", sum(|window| window.labelled)),
        ("waiting for a label", sum(|window| window.waiting)),
        ("expired without one", sum(|window| window.expired)),
        ("failed", sum(|window| window.failed)),
        ("refused by settings", sum(|window| window.invalid)),
        ("copies", sum(|window| window.duplicates)),
        ("came after the window was final", sum(|window| window.after_final)),
        ("all", sum(|window| window.predictions)),
    ]
}

/// A number as people read it: four significant digits, none of them wasted on zeros.
fn number(value: f64) -> String {
    if value == 0.0 {
        return "0".into();
    }
    let digits = (3 - value.abs().log10().floor() as i32).clamp(0, 12) as usize;
    let text = format!("{value:.digits$}");
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
}

/// A share as a percentage.
fn percent(share: f64) -> String {
    format!("{}\u{202f}%", number(share * 100.0))
}

/// A time to the minute, or to the day where it is a day's beginning.
fn time(micros: Micros) -> String {
    let time = driftline_schemas::clock::time_of(micros);
    let is_midnight = micros.rem_euclid(driftline_schemas::clock::DAY) == 0;
    time.format(if is_midnight { "%Y-%m-%d" } else { "%Y-%m-%d %H:%M" }).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_four_digits_and_no_more() {
        for (value, text) in [
            (0.0, "0"),
            (0.123456, "0.1235"),
            (0.5, "0.5"),
            (12.0, "12"),
            (1234.56, "1235"),
            (123456.7, "123457"),
            (-0.000123456, "-0.0001235"),
            (99.999, "100"),
            (1e-9, "0.000000001"),
        ] {
            assert_eq!(number(value), text, "{value}");
        }
        assert_eq!(percent(0.875), "87.5\u{202f}%");
    }

    #[test]
    fn a_value_whose_window_did_not_fit_into_memory_says_how_far_it_may_be_off() {
        let mut report = example::report(2, 1);
        report.metrics.iter_mut().for_each(|point| point.error_bound = None);
        assert!(![report.to_html(), report.to_markdown()].iter().any(|page| page.contains('±')));
        report.metrics.iter_mut().for_each(|point| point.error_bound = Some(0.000_02));
        let note = bounds_note(&report).expect("there are bounds");
        for page in [report.to_html(), report.to_markdown()] {
            assert!(page.contains(" ± 0.00002") && page.contains(note), "{page}");
        }
    }

    /// Pages of this test are looked at in a browser too, where `DRIFTLINE_TEST_PAGES` names a folder for them.
    #[test]
    fn ninety_days_of_hourly_windows_with_fifty_features_are_below_two_megabytes() {
        let report = example::report(90, 50);
        let (page, text) = (report.to_html(), report.to_markdown());
        assert!(page.len() < 2_000_000, "{} bytes", page.len());
        assert!(text.len() < 100_000, "{} bytes", text.len());
        let small = example::report(3, 2).to_html();
        for page in [&page, &small] {
            for name in ["NaN", ">inf", "<web>", "<upstream>", "<low>", "<script"] {
                assert!(!page.contains(name), "it has {name}");
            }
        }
        let sections =
            ["attention", "alerts", "metrics", "estimates", "confusion", "curves", "drift", "segments", "versions"];
        for section in sections.iter().chain(&["labels", "serving", "windows"]) {
            assert!(page.contains(&format!("<section id=\"{section}\">")), "there is no {section}");
        }
        let counts = [
            ("class=\"mark", 4),
            ("class=\"level", 1),
            ("class=\"before", 2),
            ("class=\"other", 90),
            ("class=\"reference", 20),
        ];
        for (part, least) in counts {
            assert!(page.matches(part).count() >= least, "{part}: {}", page.matches(part).count());
        }
        if let Some(folder) = std::env::var_os("DRIFTLINE_TEST_PAGES").filter(|folder| !folder.is_empty()) {
            let folder = std::path::Path::new(&folder);
            std::fs::write(folder.join("large.html"), page).unwrap();
            std::fs::write(folder.join("small.html"), small).unwrap();
        }
    }

    #[test]
    fn midnights_are_days() {
        assert_eq!((time(0).as_str(), time(3_600_000_000).as_str()), ("1970-01-01", "1970-01-01 01:00"));
    }
}
