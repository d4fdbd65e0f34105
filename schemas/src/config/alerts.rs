//! When people are told: rules, the budget of false alarms, and where notifications go.
use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use toml::Value;

use super::maintenance::{Maintenance, read_maintenance};
use super::reader::{Reader, is_web};
use super::{JudgeConfig, ModelSettings, ReferenceSpec, why_no_hour};
use crate::clock::{DAY, MINUTE, Micros};
use crate::window::WindowLength;

/// A month of the budget: 30 days.
pub const MONTH: Micros = 30 * DAY;
/// Windows that a rule looks at together, at most; also those that a level is learned from.
const WINDOWS_MAX: u32 = 2_000;

/// Reference windows that a level is learned from at least, unless fewer are asked for.
pub const REFERENCE_WINDOWS_MIN: i64 = 5;

/// All of `[alerts]`.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct AlertsConfig {
    /// False alarms that a model may be expected to raise in [`MONTH`]; `None`: each interval decides for itself, at 95 %.
    pub budget: Option<f64>,
    /// The rules, in the order of the file.
    pub rules: Vec<Rule>,
    /// Where notifications go.
    pub sinks: Vec<Sink>,
    /// Receivers on loopback and link-local addresses are allowed.
    pub allow_local: bool,
    /// Times that come again, in which nobody is told.
    pub maintenance: Vec<Maintenance>,
    /// Where people find more; goes into notifications.
    pub external_url: Option<String>,
}

impl AlertsConfig {
    /// The same without sinks that are for reports only.
    #[must_use]
    pub fn of_alerts(&self) -> Self {
        let sinks = self.sinks.iter().filter(|sink| sink.alerts).cloned().collect();
        Self { sinks, ..self.clone() }
    }
}

/// What has to hold, and what happens when it does not.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Rule {
    /// Its name; unique.
    pub name: String,
    /// Models that it is for; empty: all.
    pub models: Vec<String>,
    /// What is looked at.
    pub subject: Subject,
    /// On which side of the level is bad.
    pub side: Side,
    /// The tolerated level; drift brings its own.
    pub level: Level,
    /// Each version is looked at too.
    pub versions: bool,
    /// Each value of these segments is looked at too (`region`, `region,channel`); `*`: of all.
    pub segments: Vec<String>,
    /// Rows that a verdict needs at least: labelled ones for metrics.
    pub min_rows: u64,
    /// How far beyond the level a value has to be at least.
    pub min_effect: f64,
    /// Fires when so many …
    pub hits: u32,
    /// … of so many successive windows are bad.
    pub of: u32,
    /// How bad it is.
    pub severity: Severity,
    /// What decides.
    pub decide: Decide,
    /// A window that was final already may raise an alert too.
    pub page_revisions: bool,
    /// Names of the sinks that are told; empty: all.
    pub sinks: Vec<String>,
}

/// What a rule looks at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Subject {
    /// A row of `metrics`.
    Metric {
        /// Its name.
        metric: String,
        /// A class; `None`: the row of no class.
        class: Option<String>,
    },
    /// The deciding method of a column in `drift`; `*`: of each.
    Drift {
        /// The column.
        column: String,
    },
    /// A row of `quality`.
    Quality {
        /// The check.
        check: String,
        /// The column; `*`: each.
        column: String,
    },
    /// The share of labelled predictions of a final window.
    Coverage,
    /// A row of `estimates`: what a metric will be once all labels are there.
    Estimate {
        /// The metric's name.
        metric: String,
        /// `cbpe`, `dle` or `nowcast`; `None`: whichever of the first two the model has.
        method: Option<String>,
    },
    /// How late labels are: a row of `label_lag`.
    LabelLag {
        /// The share of predictions that have a label within so many seconds; `None`: the median of the delays, in seconds.
        within_seconds: Option<i64>,
    },
    /// How the pipeline itself does, by the clock.
    Pipeline(Signal),
}

/// What is looked at of the pipeline. All of it is read from the store, so that it holds for all processes together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Signal {
    /// Of each model: the clock less its watermark, seconds.
    WatermarkDelay,
    /// Of each partition: the clock less the time up to which it is known to have been read and applied, seconds.
    ReadDelay,
    /// Of each partition: the share of its events that were rejected, of those applied since the last look.
    RejectedRate,
    /// Living processes with the role of a collector.
    Collectors,
    /// Living processes with the role of an aggregator.
    Aggregators,
    /// Living processes with the role of an evaluator; this is one.
    Evaluators,
}

impl Signal {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::WatermarkDelay,
        Self::ReadDelay,
        Self::RejectedRate,
        Self::Collectors,
        Self::Aggregators,
        Self::Evaluators,
    ];

    /// Its word, with its unit.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::WatermarkDelay => "watermark_delay_seconds",
            Self::ReadDelay => "read_delay_seconds",
            Self::RejectedRate => "rejected_rate",
            Self::Collectors => "collectors",
            Self::Aggregators => "aggregators",
            Self::Evaluators => "evaluators",
        }
    }
}

/// Delays, in seconds, at which `label_lag` has a row, and how they are typed.
pub const LABEL_LAGS: [(&str, i64); 8] = [
    ("1h", 3_600),
    ("6h", 21_600),
    ("1d", 86_400),
    ("3d", 259_200),
    ("7d", 604_800),
    ("14d", 1_209_600),
    ("30d", 2_592_000),
    ("90d", 7_776_000),
];

/// The bad side of a level.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Side {
    /// Values below it are bad.
    Below,
    /// Values above it are bad.
    Above,
}

/// The tolerated level.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// A number.
    Value(f64),
    /// What the best constant prediction would have reached on the same rows.
    Baseline,
    /// Mean and standard deviation of earlier windows of the same series.
    Sigmas {
        /// Standard deviations from the mean.
        sigmas: f64,
        /// Which windows.
        from: Learned,
    },
    /// A quantile of earlier windows of the same series.
    Quantile {
        /// In (0, 1).
        quantile: f64,
        /// Which windows.
        from: Learned,
    },
    /// The mean of earlier windows of the same series, and how far from it is tolerated.
    Change {
        /// Tolerated distance from the mean.
        change: f64,
        /// Which windows.
        from: Learned,
    },
    /// What the version before has reached: in the same window, if it serves there too, else on average in its last windows.
    PreviousVersion {
        /// Tolerated distance from it.
        change: f64,
        /// Windows of the version before, where it serves no more.
        from: Learned,
    },
    /// The reference's own value: of quality its share, of a metric that of its labelled rows, if it is a file.
    Reference {
        /// Tolerated distance from it.
        change: f64,
    },
    /// The one that `drift` itself goes by.
    OfDrift,
}

impl Level {
    /// The windows that it is learned from.
    pub fn learned(&self) -> Option<Learned> {
        match self {
            Self::Sigmas { from, .. }
            | Self::Quantile { from, .. }
            | Self::Change { from, .. }
            | Self::PreviousVersion { from, .. } => Some(*from),
            Self::Value(_) | Self::Baseline | Self::Reference { .. } | Self::OfDrift => None,
        }
    }
}

/// Windows that a level is learned from: sealed or final ones before the window that is judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Learned {
    /// How many, the newest ones.
    pub windows: u32,
    /// Only those that start at the same hour of the week, in UTC.
    pub same_hour_of_week: bool,
    /// Only those that start in `[from, to)`, microseconds: reference windows, which a slow decline does not drag along.
    pub between: Option<(Micros, Micros)>,
}

/// How bad it is; PagerDuty's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// Good to know.
    Info,
    /// To be looked at.
    Warning,
    /// To be mended.
    Error,
    /// To be mended now.
    Critical,
}

/// All of them, the least bad first.
pub const SEVERITIES: [Severity; 4] = [Severity::Info, Severity::Warning, Severity::Error, Severity::Critical];

impl Rule {
    /// Whether it looks at a model.
    pub fn is_for(&self, model: &str) -> bool {
        self.models.is_empty() || self.models.iter().any(|name| name == model)
    }
}

impl Severity {
    /// Its word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Info => "info",
            Self::Warning => "warning",
            Self::Error => "error",
            Self::Critical => "critical",
        }
    }
}

/// What decides whether a window is bad.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Decide {
    /// The evidence: all of the interval lies beyond the level, at the strength that the budget asks for.
    Interval,
    /// The value alone. It is not charged to the budget, and holds nothing back.
    Point,
}

/// Where notifications go.
#[derive(Clone, PartialEq, Eq)]
pub struct Sink {
    /// Its name; unique.
    pub name: String,
    /// What is spoken there.
    pub kind: SinkKind,
    /// Where it is; empty for a command, which has `command`.
    pub url: String,
    /// What signs (`webhook`, `cloudevents`: Standard Webhooks' `whsec_…`) or admits (PagerDuty's routing key).
    pub secret: Option<String>,
    /// Further headers.
    pub headers: BTreeMap<String, String>,
    /// Program and arguments of a command.
    pub command: Vec<String>,
    /// A template in place of the built-in text: `{{alertname}}`, `{{model}}`, `{{status}}`, `{{value}}` and so on.
    pub text: Option<String>,
    /// Revisions of firing alerts are told too.
    pub revisions: bool,
    /// A firing alert is told again after so long, microseconds; `None`: never.
    pub repeat: Option<Micros>,
    /// Alerts that are less bad are not told here.
    pub min_severity: Severity,
    /// What alerts are told here: of each of these names of [`MATCHED`] they have one of the values. Empty: all.
    pub matches: BTreeMap<String, Vec<String>>,
    /// Alerts are told here, and not reports only.
    pub alerts: bool,
    /// Alerts of one judgement that differ in one of these are told apart ([`GROUP_BY`]); empty: all of a model together.
    pub group_by: Vec<String>,
    /// What a sink of the kind [`SinkKind::Email`] has besides.
    pub email: Option<EmailSettings>,
}

/// Who writes to whom, and how the server is spoken to; its address is the sink's `url`, the password its `secret`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EmailSettings {
    /// The sender.
    pub from: String,
    /// The recipients.
    pub to: Vec<String>,
    /// Who we are at the server; `None`: it wants to know nobody.
    pub username: Option<String>,
    /// How the connection is kept to the two of us.
    pub tls: SmtpTls,
    /// A file of certificates (PEM) that are trusted beside the system's.
    pub ca_certificate_file: Option<String>,
}

/// How a connection to a mail server is encrypted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SmtpTls {
    /// From its first byte: `smtps://`.
    Implicit,
    /// From STARTTLS on; a server that does not offer it gets nothing: `smtp://`.
    Starttls,
    /// Not at all, which is for servers on this machine.
    None,
}

/// Metrics that have no interval: counts of all requests, extremes, and an estimate that is biased up.
const WITHOUT_INTERVAL: [&str; 6] =
    ["requests", "requests_per_second", "error_count", "latency_max_ms", "max_error", "expected_calibration_error"];

/// What alerts can be grouped by, beside their model: as typed, and the label that it is.
pub const GROUP_BY: [(&str, &str); 7] = [
    ("rule", "alertname"),
    ("metric", "metric"),
    ("version", "model_version"),
    ("segment", "segment"),
    ("segment_value", "segment_value"),
    ("column", "column_name"),
    ("class", "class"),
];

/// What a sink can tell alerts apart by: what they are grouped by, and their model.
pub const MATCHED: [&str; 8] = ["model", "rule", "metric", "version", "segment", "segment_value", "column", "class"];

impl std::fmt::Debug for Sink {
    /// Without what nobody should read in a log: Slack's and Teams' URLs are secrets themselves.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sink").field("name", &self.name).field("kind", &self.kind).finish_non_exhaustive()
    }
}

/// What is spoken at a sink.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SinkKind {
    /// Alertmanager's webhook body, version 4, signed by Standard Webhooks.
    Webhook,
    /// Alertmanager's own API, `/api/v2/alerts`.
    Alertmanager,
    /// An incoming webhook of Slack.
    Slack,
    /// PagerDuty's Events API, version 2.
    Pagerduty,
    /// A workflow of Microsoft Teams that takes an adaptive card.
    Teams,
    /// `CloudEvents` 1.0 in structured mode.
    Cloudevents,
    /// A program, which gets the webhook's body on its standard input.
    Command,
    /// E-mail, by SMTP.
    Email,
}

impl SinkKind {
    /// Its word in the configuration.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Webhook => "webhook",
            Self::Alertmanager => "alertmanager",
            Self::Slack => "slack",
            Self::Pagerduty => "pagerduty",
            Self::Teams => "teams",
            Self::Cloudevents => "cloudevents",
            Self::Command => "command",
            Self::Email => "email",
        }
    }
}

pub(super) fn read_alerts(section: &mut Reader, judge: &JudgeConfig) -> AlertsConfig {
    let budget = read_budget(section);
    let allow_local = section.boolean("allow_local", false);
    let repeat = read_repeat(section, None);
    let external_url = section.text("external_url");
    if external_url.as_ref().is_some_and(|url| !is_web(url)) {
        section.fault("external_url", "must begin with https:// or http://, and hold no blanks".into());
    }
    let mut sinks: Vec<Sink> = Vec::new();
    for mut part in section.tables("sinks") {
        if let Some(sink) = read_sink(&mut part, repeat) {
            if sinks.iter().any(|other| other.name == sink.name) {
                part.fault("name", format!("{:?} is listed twice", sink.name));
            }
            sinks.push(sink);
        }
        section.absorb(part);
    }
    let mut rules: Vec<Rule> = Vec::new();
    let mut rule_names: Vec<String> = Vec::new();
    for mut part in section.tables("rules") {
        // One with faults is a rule all the same, to those that name it.
        rule_names.extend(part.text_of("name"));
        if let Some(rule) = read_rule(&mut part) {
            for (key, fault) in misfits(&rule, judge) {
                part.fault(&key, fault);
            }
            for name in &rule.sinks {
                let Some(sink) = sinks.iter().find(|sink| sink.name == *name && sink.alerts) else { continue };
                if let Some(why) = never_takes(sink, &rule) {
                    part.fault("sinks", format!("{name:?} would never be told: {why}"));
                }
            }
            if rules.iter().any(|other| other.name == rule.name) {
                part.fault("name", format!("{:?} is listed twice", rule.name));
            }
            let takes_alerts = |name: &String| sinks.iter().any(|sink| sink.name == *name && sink.alerts);
            for name in rule.sinks.iter().filter(|name| !takes_alerts(name)) {
                let is_there = sinks.iter().any(|sink| sink.name == *name);
                let fault = if is_there {
                    format!("{name:?} is told of reports only (`alerts = false`)")
                } else {
                    format!("there is no sink {name:?}")
                };
                part.fault("sinks", fault);
            }
            rules.push(rule);
        }
        section.absorb(part);
    }
    let maintenance = read_maintenance(section, &rules, &rule_names);
    AlertsConfig { budget, rules, sinks, allow_local, maintenance, external_url }
}

/// After how long what still fires is told again: `"4h"`, or `"never"`.
fn read_repeat(section: &mut Reader, default: Option<Micros>) -> Option<Micros> {
    let value = section.take("repeat");
    match &value {
        None => return default,
        Some(Value::String(text)) if text == "never" => return None,
        Some(Value::String(text)) => {
            let parsed = humantime::parse_duration(text).ok().and_then(|d| Micros::try_from(d.as_micros()).ok());
            match parsed {
                Some(repeat) if repeat >= MINUTE => return Some(repeat),
                Some(_) => section.fault("repeat", "must be a minute or more".into()),
                None => section.fault("repeat", format!("{text:?} is no duration like \"4h\", nor \"never\"")),
            }
        }
        Some(other) => section.wrong("repeat", "a duration like \"4h\", or \"never\"", other),
    }
    default
}

/// Why a sink is never told of a rule's alerts.
fn never_takes(sink: &Sink, rule: &Rule) -> Option<String> {
    let takes = |name: &str, of: &[&str]| {
        let wanted = sink.matches.get(name)?;
        let fits = of.is_empty() || of.iter().any(|value| wanted.iter().any(|wanted| wanted == value));
        (!fits).then(|| format!("its `match.{name}` has none of this rule's"))
    };
    let models: Vec<&str> = rule.models.iter().map(String::as_str).collect();
    let metric = match &rule.subject {
        Subject::Metric { metric, .. } => vec![metric.as_str()],
        _ => vec![],
    };
    if rule.severity < sink.min_severity {
        let (own, least) = (rule.severity.as_str(), sink.min_severity.as_str());
        return Some(format!("the rule is of severity {own:?}, and it takes {least:?} and worse"));
    }
    takes("rule", &[&rule.name]).or_else(|| takes("model", &models)).or_else(|| takes("metric", &metric))
}

/// What does not fit together of a rule and the models that it looks at: keys of the rule, each with what is wrong.
fn misfits(rule: &Rule, judge: &JudgeConfig) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let side = if rule.side == Side::Below { "below" } else { "above" };
    let models: Vec<(String, &ModelSettings)> = if rule.models.is_empty() {
        let listed = judge.models.iter().map(|(name, settings)| (format!("{name:?}"), settings));
        let others = judge.accept_unknown_models.then(|| ("a model that is not listed".to_owned(), &judge.defaults));
        listed.chain(others).collect()
    } else {
        rule.models.iter().map(|name| (format!("{name:?}"), judge.model(name))).collect()
    };
    if matches!(rule.level, Level::Reference { .. }) {
        let is_metric = matches!(rule.subject, Subject::Metric { .. });
        let lacks = |settings: &ModelSettings| match &settings.reference {
            None => Some("has no `reference`"),
            Some(ReferenceSpec::Past { .. }) if is_metric => Some(
                "has past windows as its `reference`: of metrics only a file keeps its own; set `from` and `to` here",
            ),
            Some(_) => None,
        };
        // A rule for all is for those that have one; a rule that names a model means it.
        let lacking = models.iter().filter_map(|(name, settings)| Some((name, lacks(settings)?)));
        let is_fault = |lacking: usize| if rule.models.is_empty() { lacking == models.len() } else { lacking > 0 };
        if is_fault(lacking.clone().count())
            && let Some((name, why)) = lacking.clone().next()
        {
            found.push((format!("{side}.reference"), format!("{name} {why}")));
        }
        return found;
    }
    let Some(from) = rule.level.learned() else { return found };
    let seasonal = models.iter().filter(|_| from.same_hour_of_week);
    let no_season = seasonal.filter_map(|(name, settings)| Some((name, why_no_hour(settings.window)?)));
    if let Some((name, why)) = no_season.clone().next() {
        let others = match no_season.count() - 1 {
            0 => String::new(),
            others => format!(", and of {others} other(s)"),
        };
        let fault = format!("cannot be held of {name}{others}: {why}");
        found.push((format!("{side}.same_hour_of_week"), fault));
        return found;
    }
    // Reference windows that are too few for ever: at so many at least a level is learned.
    let Some((begin, end)) = from.between else { return found };
    let needed = i64::from(from.windows).clamp(2, REFERENCE_WINDOWS_MIN);
    for (name, settings) in &models {
        let most = windows_at_most(settings, end - begin, from.same_hour_of_week);
        if most < needed {
            let of_hour = if from.same_hour_of_week { " of one hour of the week" } else { "" };
            let fault = format!(
                "holds {most} window(s){of_hour} of {name} at the most before `to`, and {needed} are needed for a level"
            );
            found.push((format!("{side}.from"), fault));
            return found;
        }
    }
    found
}

/// Windows of a model that start in a period at the most; where a season counts, in one hour of the week.
fn windows_at_most(settings: &ModelSettings, period: Micros, is_seasonal: bool) -> i64 {
    const HOUR: Micros = 60 * MINUTE;
    let shortest = match settings.window.length {
        WindowLength::Fixed(length) => length,
        // A day may have 23 hours, and a week or a month one hour less than its days.
        WindowLength::Day => 23 * HOUR,
        WindowLength::Week => 7 * DAY - HOUR,
        WindowLength::Month => 28 * DAY - HOUR,
    };
    let parts = |of: Micros, by: Micros| (of + by - 1) / by;
    let all = parts(period, shortest);
    let in_an_hour = parts(HOUR, shortest);
    // A day of a calendar may start an hour earlier in UTC than one did a week before.
    let spare = if matches!(settings.window.length, WindowLength::Fixed(_)) { 0 } else { HOUR };
    let hours = parts(period + spare, 7 * DAY);
    if is_seasonal { all.min(hours * in_an_hour) } else { all }
}

/// `"1 per month"`, `"0.5 per week"`, `"none"`; false alarms a month.
fn read_budget(section: &mut Reader) -> Option<f64> {
    let Some(text) = section.text("budget") else { return Some(1.0) };
    if text == "none" {
        return None;
    }
    let parsed = text.split_once(" per ").and_then(|(count, period)| {
        let count: f64 = count.trim().parse().ok()?;
        let period = match period.trim() {
            "day" => DAY,
            "week" => 7 * DAY,
            "month" => MONTH,
            "quarter" => 3 * MONTH,
            "year" => 365 * DAY,
            _ => return None,
        };
        (count > 0.0 && count.is_finite()).then(|| count * MONTH as f64 / period as f64)
    });
    if parsed.is_none() {
        section.fault("budget", format!("{text:?} is nothing like \"1 per month\", \"0.5 per week\" or \"none\""));
    }
    parsed
}

fn read_sink(section: &mut Reader, repeat: Option<Micros>) -> Option<Sink> {
    let kinds = [
        SinkKind::Webhook,
        SinkKind::Alertmanager,
        SinkKind::Slack,
        SinkKind::Pagerduty,
        SinkKind::Teams,
        SinkKind::Cloudevents,
        SinkKind::Command,
        SinkKind::Email,
    ];
    let choices: Vec<(&str, SinkKind)> = kinds.iter().map(|kind| (kind.as_str(), *kind)).collect();
    let name = section.text("name");
    let is_named = section.choice("type", &choices);
    let url = section.text("url");
    let secret = section.text("secret");
    let headers = section.strings("headers");
    let command = section.list("command").unwrap_or_default();
    let text = section.text("text");
    let revisions = section.boolean("revisions", true);
    let has_repeat = section.table_has("repeat");
    let repeat = read_repeat(section, repeat);
    let min_severity = section.choice("min_severity", &SEVERITIES.map(|severity| (severity.as_str(), severity)));
    let matches = read_match(section);
    let alerts = section.boolean("alerts", true);
    let from = section.text("from");
    let to = section.list("to");
    let username = section.text("username");
    let tls = section.choice("tls", &[("starttls", SmtpTls::Starttls), ("none", SmtpTls::None)]);
    let ca_certificate_file = section.text("ca_certificate_file");
    let group_by = section.list("group_by");
    if name.is_none() {
        section.fault("name", "is missing".into());
    }
    let Some(kind) = is_named else {
        let words: Vec<&str> = choices.iter().map(|(word, _)| *word).collect();
        section.fault("type", format!("must be one of {}", words.join(", ")));
        return None;
    };
    let url = match (kind, url) {
        (SinkKind::Command, None) => String::new(),
        (SinkKind::Command, Some(_)) => {
            section.fault("url", "has no effect: a command has `command`".into());
            String::new()
        }
        (SinkKind::Email, Some(url)) if url.starts_with("smtps://") || url.starts_with("smtp://") => url,
        (SinkKind::Email, _) => {
            let wanted = "must be smtps://host (port 465), or smtp://host (port 587, with STARTTLS)";
            section.fault("url", wanted.into());
            String::new()
        }
        (SinkKind::Pagerduty, None) => "https://events.pagerduty.com/v2/enqueue".into(),
        (_, Some(url)) if url.starts_with("https://") || url.starts_with("http://") => url,
        (_, Some(_)) => {
            section.fault("url", "must begin with https:// or http://".into());
            String::new()
        }
        (_, None) => {
            section.fault("url", "is missing (or url_file, for one that is a secret)".into());
            String::new()
        }
    };
    if kind == SinkKind::Command && command.is_empty() {
        section.fault("command", "is missing: a list of the program and its arguments".into());
    }
    let is_email = kind == SinkKind::Email;
    let has_secret = matches!(kind, SinkKind::Webhook | SinkKind::Cloudevents | SinkKind::Pagerduty | SinkKind::Email);
    let is_http = !matches!(kind, SinkKind::Command | SinkKind::Email);
    for (key, is_set, has_effect) in [
        ("secret", secret.is_some(), has_secret),
        ("headers", !headers.is_empty(), is_http),
        ("command", !command.is_empty(), kind == SinkKind::Command),
        ("from", from.is_some(), is_email),
        ("to", to.is_some(), is_email),
        ("username", username.is_some(), is_email),
        ("tls", tls.is_some(), is_email),
        ("ca_certificate_file", ca_certificate_file.is_some(), is_email),
    ] {
        if is_set && !has_effect {
            section.fault(key, format!("has no effect on a sink of type {:?}", kind.as_str()));
        }
    }
    if !alerts {
        if matches!(kind, SinkKind::Alertmanager | SinkKind::Pagerduty) {
            section.fault("alerts", format!("must be true: {:?} is told of nothing else", kind.as_str()));
        }
        for (key, is_set) in [
            ("text", text.is_some()),
            ("group_by", group_by.is_some()),
            ("repeat", has_repeat),
            ("min_severity", min_severity.is_some()),
            ("match", !matches.is_empty()),
        ] {
            if is_set {
                section.fault(key, "has no effect where `alerts = false`".into());
            }
        }
    }
    if kind == SinkKind::Pagerduty && secret.is_none() {
        section.fault("secret", "is missing: the routing key of the integration".into());
    }
    let email = if is_email {
        Some(read_email(section, &url, secret.is_some(), (from, to, username, tls, ca_certificate_file))?)
    } else {
        None
    };
    if kind == SinkKind::Alertmanager && group_by.is_some() {
        section.fault("group_by", "has no effect: Alertmanager groups by its own routes".into());
    }
    for unknown in group_by.iter().flatten().filter(|name| !GROUP_BY.iter().any(|(typed, _)| typed == name)) {
        let known = GROUP_BY.map(|(typed, _)| typed).join(", ");
        section.fault("group_by", format!("{unknown:?} is none of {known}"));
    }
    // Each group is an incident there: one a rule, not one a series.
    let default = if kind == SinkKind::Pagerduty { vec!["rule".to_owned()] } else { Vec::new() };
    let group_by = group_by.unwrap_or(default);
    Some(Sink {
        name: name?,
        kind,
        url,
        secret,
        headers,
        command,
        text,
        revisions,
        repeat,
        min_severity: min_severity.unwrap_or(Severity::Info),
        matches,
        alerts,
        group_by,
        email,
    })
}

/// `match = { model = ["a", "b"], segment_value = "eu" }`.
fn read_match(section: &mut Reader) -> BTreeMap<String, Vec<String>> {
    let mut matches = BTreeMap::new();
    let table = match section.take("match") {
        None => return matches,
        Some(Value::Table(table)) => table,
        Some(other) => {
            section.wrong("match", "a table like { model = [\"a\", \"b\"], segment_value = \"eu\" }", &other);
            return matches;
        }
    };
    let mut part = Reader::new(table, section.key("match"));
    for name in MATCHED {
        let values = match part.take(name) {
            None => continue,
            Some(Value::Array(values)) => values,
            Some(value) => vec![value],
        };
        let texts: Vec<String> = values.iter().filter_map(plain).collect();
        if texts.is_empty() || texts.len() < values.len() {
            part.fault(name, "must be a value, or a list of values, one of which an alert has to have".into());
        }
        matches.insert(name.to_owned(), texts);
    }
    section.absorb(part);
    matches
}

/// A value as labels have it.
fn plain(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Integer(number) => Some(number.to_string()),
        Value::Float(number) => Some(number.to_string()),
        Value::Boolean(flag) => Some(flag.to_string()),
        _ => None,
    }
}

/// What was typed of an e-mail sink: `from`, `to`, `username`, `tls`, `ca_certificate_file`.
type TypedEmail = (Option<String>, Option<Vec<String>>, Option<String>, Option<SmtpTls>, Option<String>);

fn read_email(
    section: &mut Reader,
    url: &str,
    has_secret: bool,
    (from, to, username, tls, ca_certificate_file): TypedEmail,
) -> Option<EmailSettings> {
    if from.is_none() {
        section.fault("from", "is missing: the sender, like \"Driftline <driftline@example.org>\"".into());
    }
    let to = to.unwrap_or_default();
    if to.is_empty() {
        section.fault("to", "is missing: a list of recipients".into());
    }
    match (&username, has_secret) {
        (Some(_), false) => section.fault("secret", "is missing (or secret_file): the password of `username`".into()),
        (None, true) => section.fault("username", "is missing: whose password is `secret`?".into()),
        _ => {}
    }
    if url.contains('@') {
        section.fault("url", "names a user: set `username`, and `secret` or secret_file".into());
    }
    let is_implicit = url.starts_with("smtps://");
    if is_implicit && tls.is_some() {
        section.fault("tls", "has no effect on smtps://, which is TLS from the first byte".into());
    }
    if tls == Some(SmtpTls::None) && has_secret {
        section.fault("tls", "would send the password in the clear".into());
    }
    let tls = if is_implicit { SmtpTls::Implicit } else { tls.unwrap_or(SmtpTls::Starttls) };
    Some(EmailSettings { from: from?, to, username, tls, ca_certificate_file })
}

fn read_rule(section: &mut Reader) -> Option<Rule> {
    let name = section.text("name");
    let models = section.list("models").unwrap_or_default();
    let metric = section.text("metric");
    let class = section.class("class");
    let drift = section.text("drift");
    let quality = section.text("quality");
    let column = section.text("column");
    let coverage = section.boolean("coverage", false);
    let estimate = section.text("estimate");
    let methods = [("cbpe", "cbpe"), ("dle", "dle"), ("nowcast", "nowcast")];
    let method = section.choice("method", &methods).map(str::to_owned);
    let lags: Vec<(&str, Option<i64>)> =
        LABEL_LAGS.iter().map(|(typed, seconds)| (*typed, Some(*seconds))).chain([("median", None)]).collect();
    let label_lag = section.choice("label_lag", &lags);
    let signal = section.choice("pipeline", &Signal::ALL.map(|signal| (signal.as_str(), signal)));
    let level = read_level(section);
    let versions = section.boolean("versions", false);
    let segments = section.list("segments").unwrap_or_default();
    let min_rows = section.integer("min_rows", 100);
    let min_effect = section.float("min_effect", 0.0);
    let (hits, of) = read_for(section);
    let severity = section.choice("severity", &SEVERITIES.map(|severity| (severity.as_str(), severity)));
    let decide = section.choice("decide", &[("interval", Decide::Interval), ("point", Decide::Point)]);
    let page_revisions = section.boolean("page_revisions", false);
    let sinks = section.list("sinks").unwrap_or_default();
    if name.is_none() {
        section.fault("name", "is missing".into());
    }
    if min_rows < 1 {
        section.fault("min_rows", "must be at least 1".into());
    }
    if min_effect < 0.0 {
        section.fault("min_effect", "must not be negative".into());
    }
    let mut subjects = Vec::new();
    if let Some(metric) = metric {
        subjects.push(Subject::Metric { metric, class: class.clone() });
    }
    if let Some(column) = drift {
        subjects.push(Subject::Drift { column });
    }
    if let Some(check) = quality {
        subjects.push(Subject::Quality { check, column: column.clone().unwrap_or_else(|| "*".into()) });
    }
    if coverage {
        subjects.push(Subject::Coverage);
    }
    if let Some(metric) = estimate {
        subjects.push(Subject::Estimate { metric, method: method.clone() });
    }
    if let Some(within_seconds) = label_lag {
        subjects.push(Subject::LabelLag { within_seconds });
    }
    subjects.extend(signal.map(Subject::Pipeline));
    if subjects.len() != 1 {
        let wanted = "exactly one of `metric`, `drift`, `quality`, `coverage`, `estimate`, `label_lag` and `pipeline` must say \
                      what is looked at";
        section.fault("metric", wanted.into());
        return None;
    }
    let subject = subjects.remove(0);
    if class.is_some() && !matches!(subject, Subject::Metric { .. }) {
        section.fault("class", "has an effect on metrics only".into());
    }
    if column.is_some() && !matches!(subject, Subject::Quality { .. }) {
        section.fault("column", "has an effect on quality only; drift names its column itself".into());
    }
    if method.is_some() && !matches!(subject, Subject::Estimate { .. }) {
        section.fault("method", "has an effect on estimates only".into());
    }
    let (side, level) = match (&subject, level) {
        (Subject::Drift { .. }, None) => (Side::Above, Level::OfDrift),
        (Subject::Drift { .. }, Some(_)) => {
            section.fault("above", "has no effect on drift, which has thresholds of its own".into());
            return None;
        }
        (_, Some(found)) => found,
        (_, None) => {
            section.fault("below", "is missing: one of `below` and `above` gives the tolerated level".into());
            return None;
        }
    };
    let key = if side == Side::Below { "below" } else { "above" };
    let (fits, wanted) = match (&subject, &level) {
        (Subject::Metric { .. }, _)
        | (_, Level::Value(_) | Level::OfDrift)
        | (Subject::Quality { .. }, Level::Reference { .. }) => (true, ""),
        (Subject::Estimate { .. } | Subject::LabelLag { .. }, level) => (
            !matches!(level, Level::Baseline | Level::Reference { .. }),
            "a number, or learned from windows: only metrics have a baseline",
        ),
        (Subject::Quality { .. }, _) => {
            (false, "a number, or { reference = 0.05 }: so far from the reference's own share")
        }
        _ => (false, "a number: only metrics have a baseline, and levels that are learned"),
    };
    if !fits {
        section.fault(key, format!("must be {wanted}"));
    }
    let is_compared = matches!(level, Level::PreviousVersion { .. });
    if is_compared && !versions {
        section.fault("versions", "must be true: versions are compared".into());
    }
    if is_compared && !matches!(subject, Subject::Metric { class: None, .. }) {
        section.fault(key, "must be another level: metrics of whole versions are compared, without a class".into());
    }
    let is_narrow = versions || !segments.is_empty();
    if subject == Subject::Coverage && (decide == Some(Decide::Interval) || is_narrow) {
        section.fault("coverage", "is one number of a window: its point decides, without versions and segments".into());
    }
    if let Subject::Pipeline(signal) = subject {
        if is_narrow || page_revisions {
            section.fault("pipeline", "has no versions, segments and revisions".into());
        }
        if decide == Some(Decide::Interval) && signal != Signal::RejectedRate {
            section.fault("decide", "must be \"point\": a delay and a number of processes have no interval".into());
        }
        if !models.is_empty() && signal != Signal::WatermarkDelay {
            section.fault("models", "has no effect: partitions and processes are no model's".into());
        }
    }
    if subject == (Subject::LabelLag { within_seconds: None }) && decide == Some(Decide::Interval) {
        section.fault("decide", "must be \"point\": the median has no interval".into());
    }
    let has_interval = match &subject {
        Subject::Coverage | Subject::LabelLag { within_seconds: None } => false,
        Subject::Pipeline(signal) => *signal == Signal::RejectedRate,
        Subject::Metric { metric, .. } => !WITHOUT_INTERVAL.contains(&metric.as_str()),
        _ => true,
    };
    if matches!(subject, Subject::Metric { .. }) && !has_interval && decide == Some(Decide::Interval) {
        section.fault("decide", "must be \"point\": this metric has no interval".into());
    }
    let default = if has_interval { Decide::Interval } else { Decide::Point };
    Some(Rule {
        name: name?,
        models,
        subject,
        side,
        level,
        versions,
        segments,
        min_rows: min_rows.max(1) as u64,
        min_effect,
        hits,
        of,
        severity: severity.unwrap_or(Severity::Warning),
        decide: decide.unwrap_or(default),
        page_revisions,
        sinks,
    })
}

/// `for = "2 of 3"`; by default a single window is enough.
fn read_for(section: &mut Reader) -> (u32, u32) {
    let Some(text) = section.text("for") else { return (1, 1) };
    let parsed = text.split_once(" of ").and_then(|(hits, of)| {
        let (hits, of): (u32, u32) = (hits.trim().parse().ok()?, of.trim().parse().ok()?);
        (hits >= 1 && hits <= of && of <= 100).then_some((hits, of))
    });
    if parsed.is_none() {
        section.fault("for", format!("{text:?} is nothing like \"2 of 3\" (windows, of 100 at most)"));
    }
    parsed.unwrap_or((1, 1))
}

fn read_level(section: &mut Reader) -> Option<(Side, Level)> {
    let (below, above) = (section.take("below"), section.take("above"));
    let (side, key, value) = match (below, above) {
        (Some(value), None) => (Side::Below, "below", value),
        (None, Some(value)) => (Side::Above, "above", value),
        (None, None) => return None,
        (Some(_), Some(_)) => {
            section.fault("above", "stands beside `below`; that is two rules".into());
            return None;
        }
    };
    let level = match value {
        Value::Integer(number) => Level::Value(number as f64),
        Value::Float(number) if number.is_finite() => Level::Value(number),
        Value::String(text) if text == "baseline" => Level::Baseline,
        Value::Table(table) => {
            let mut part = Reader::new(table, section.key(key));
            let level = read_learned(&mut part);
            section.absorb(part);
            level?
        }
        other => {
            let wanted = "a number, \"baseline\", or { sigmas = 3, windows = 28 }, { quantile = 0.05, windows = 90 }, \
                          { change = 0.05, windows = 28 }, { previous_version = 0.02 }, { reference = 0.05 }";
            section.wrong(key, wanted, &other);
            return None;
        }
    };
    Some((side, level))
}

fn read_learned(section: &mut Reader) -> Option<Level> {
    let number = |section: &mut Reader, key: &str| {
        let value = section.float(key, f64::NAN);
        (!value.is_nan()).then_some(value)
    };
    let (sigmas, quantile, change) =
        (number(section, "sigmas"), number(section, "quantile"), number(section, "change"));
    let (previous, reference) = (number(section, "previous_version"), number(section, "reference"));
    let typed_windows = section.table_has("windows");
    let windows = section.integer("windows", 28);
    let same_hour_of_week = section.boolean("same_hour_of_week", false);
    if !(2..=i64::from(WINDOWS_MAX)).contains(&windows) {
        section.fault("windows", format!("must be 2 to {WINDOWS_MAX}"));
    }
    let between = match (read_time(section, "from"), read_time(section, "to")) {
        (Some(from), Some(to)) if from < to => Some((from, to)),
        (None, None) => None,
        _ => {
            section.fault(
                "from",
                "must stand beside a `to` that is later: both say which windows are learned from".into(),
            );
            None
        }
    };
    // Of reference windows all are taken, unless somebody wants fewer.
    let windows = if between.is_some() && !typed_windows { i64::from(WINDOWS_MAX) } else { windows };
    let windows = windows.clamp(2, i64::from(WINDOWS_MAX)) as u32;
    if reference.is_some() && (typed_windows || between.is_some() || same_hour_of_week) {
        section.fault("reference", "is one value: no windows are learned from".into());
    }
    let from = Learned { windows, same_hour_of_week, between };
    match (sigmas, quantile, change, previous, reference) {
        (Some(sigmas), None, None, None, None) if sigmas > 0.0 => Some(Level::Sigmas { sigmas, from }),
        (None, Some(quantile), None, None, None) if quantile > 0.0 && quantile < 1.0 => {
            Some(Level::Quantile { quantile, from })
        }
        (None, None, Some(change), None, None) if change >= 0.0 => Some(Level::Change { change, from }),
        (None, None, None, Some(change), None) if change >= 0.0 => Some(Level::PreviousVersion { change, from }),
        (None, None, None, None, Some(change)) if change >= 0.0 => Some(Level::Reference { change }),
        _ => {
            let wanted = "exactly one of a positive number, `quantile` in (0, 1), `change`, `previous_version` and `reference` \
                          must be set";
            section.fault("sigmas", wanted.into());
            None
        }
    }
}

fn read_time(section: &mut Reader, key: &str) -> Option<Micros> {
    let text = section.text(key)?;
    let time = chrono::DateTime::parse_from_rfc3339(&text).ok();
    if time.is_none() {
        section.fault(key, format!("{text:?} is no time like \"2026-01-01T00:00:00Z\""));
    }
    time.map(|time| time.timestamp_micros())
}

#[cfg(test)]
mod tests {
    use super::super::Config;
    use super::*;

    fn read(text: &str) -> Result<AlertsConfig, Vec<String>> {
        let table = text.parse().expect("TOML");
        Config::from_table(table)
            .map(|config| config.alerts)
            .map_err(|faults| faults.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn rules_and_sinks_are_read() {
        let config = read(
            r#"
            [alerts]
            budget = "2 per week"
            repeat = "4h"
            [[alerts.sinks]]
            name = "ops"
            type = "webhook"
            url = "https://example.org/hook"
            secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
            [[alerts.sinks]]
            name = "pager"
            type = "pagerduty"
            secret = "k"
            repeat = "30m"
            min_severity = "error"
            match = { model = ["a", "b"], class = 1 }
            [[alerts.sinks]]
            name = "chat"
            type = "slack"
            url = "https://example.org/slack"
            repeat = "never"
            [[alerts.rules]]
            name = "f1 is low"
            metric = "f1"
            below = { sigmas = 3, windows = 28, same_hour_of_week = true }
            for = "2 of 3"
            severity = "critical"
            segments = ["*"]
            sinks = ["ops"]
            [[alerts.rules]]
            name = "drift"
            drift = "*"
            [[alerts.rules]]
            name = "missing"
            quality = "missing_rate"
            above = 0.2
            decide = "point"
            "#,
        )
        .expect("a good file");
        assert!((config.budget.expect("set") - 2.0 * 30.0 / 7.0).abs() < 1e-12);
        let [f1, drift, missing] = config.rules.as_slice() else { panic!("{:?}", config.rules) };
        let learned = Learned { windows: 28, same_hour_of_week: true, between: None };
        assert_eq!(f1.level, Level::Sigmas { sigmas: 3.0, from: learned });
        assert_eq!((f1.hits, f1.of, f1.side, f1.decide), (2, 3, Side::Below, Decide::Interval));
        assert_eq!((&drift.level, drift.side), (&Level::OfDrift, Side::Above));
        assert_eq!(missing.subject, Subject::Quality { check: "missing_rate".into(), column: "*".into() });
        assert!(!format!("{:?}", config.sinks).contains("whsec"), "secrets are not for logs");
        let [ops, pager, chat] = config.sinks.as_slice() else { panic!("{:?}", config.sinks) };
        let repeats = [ops.repeat, pager.repeat, chat.repeat];
        assert_eq!(repeats, [Some(240 * MINUTE), Some(30 * MINUTE), None], "its own, or that of all");
        assert_eq!((ops.min_severity, pager.min_severity), (Severity::Info, Severity::Error));
        let (models, class) = (vec!["a".to_owned(), "b".to_owned()], vec!["1".to_owned()]);
        assert_eq!(pager.matches, [("model".to_owned(), models), ("class".to_owned(), class)].into());
        assert_eq!(read("").expect("nothing").budget, Some(1.0));
        assert_eq!(read("[alerts]\nbudget = \"none\"").expect("none").budget, None);
    }

    #[test]
    fn what_makes_no_sense_is_a_fault_that_says_what_would() {
        let rule = |lines: &str| format!("[[alerts.rules]]\nname = \"r\"\n{lines}");
        let sink = |lines: &str| format!("[[alerts.sinks]]\nname = \"s\"\n{lines}");
        for (text, fault) in [
            ("[alerts]\nbudget = \"often\"".to_owned(), "alerts.budget: \"often\" is nothing like \"1 per month\""),
            (rule("below = 0.8"), "alerts.rules[0].metric: exactly one of"),
            (rule("metric = \"f1\"\ndrift = \"*\""), "alerts.rules[0].metric: exactly one of"),
            (rule("metric = \"f1\""), "alerts.rules[0].below: is missing"),
            (rule("metric = \"f1\"\nbelow = 0.8\nabove = 0.9"), "alerts.rules[0].above: stands beside `below`"),
            (rule("metric = \"f1\"\nbelow = true"), "alerts.rules[0].below: must be a number"),
            (rule("metric = \"f1\"\nbelow = { sigmas = 3, quantile = 0.1 }"), "alerts.rules[0].below.sigmas: exactly"),
            (rule("metric = \"f1\"\nbelow = 0.8\nfor = \"3 of 2\""), "alerts.rules[0].for: \"3 of 2\" is nothing like"),
            (rule("metric = \"f1\"\nbelow = 0.8\nsinks = [\"x\"]"), "alerts.rules[0].sinks: there is no sink \"x\""),
            (rule("drift = \"*\"\nabove = 0.2"), "alerts.rules[0].above: has no effect on drift"),
            (
                rule("metric = \"requests\"\nbelow = 9\ndecide = \"interval\""),
                "alerts.rules[0].decide: must be \"point\"",
            ),
            ("[alerts]\nrepeat = \"10s\"".to_owned(), "alerts.repeat: must be a minute or more"),
            ("[alerts]\nrepeat = \"forever\"".to_owned(), "alerts.repeat: \"forever\" is no duration like \"4h\""),
            ("[alerts]\nmaintenance = 7".to_owned(), "alerts.maintenance: must be an array of tables ([[alerts.maint"),
            (sink("type = \"slack\"\nurl = \"https://x\"\nrepeat = 4"), "alerts.sinks[0].repeat: must be a duration"),
            (
                sink("type = \"slack\"\nurl = \"https://x\"\nmin_severity = \"bad\""),
                "alerts.sinks[0].min_severity: \"bad\" is none of",
            ),
            (
                sink("type = \"slack\"\nurl = \"https://x\"\nmatch = { modell = \"a\" }"),
                "alerts.sinks[0].match.modell: is not a known key; did you mean `model`?",
            ),
            (
                sink("type = \"slack\"\nurl = \"https://x\"\nmatch = { model = [] }"),
                "alerts.sinks[0].match.model: must be a value, or a list",
            ),
            (
                sink("type = \"slack\"\nurl = \"https://x\"\nalerts = false\nmin_severity = \"info\""),
                "alerts.sinks[0].min_severity: has no effect where",
            ),
            (sink("type = \"pagerduty\"\nsecret = \"k\"\nalerts = false"), "alerts.sinks[0].alerts: must be true"),
            (
                sink("type = \"slack\"\nurl = \"https://x\"\nalerts = false\ngroup_by = [\"rule\"]"),
                "alerts.sinks[0].group_by: has no effect where",
            ),
            (rule("metric = \"f1\"\nbelow = 0.8\nserverity = \"info\""), "did you mean `severity`?"),
            (
                "[alerts]\nexternal_url = \"driftline.internal\"".to_owned(),
                "alerts.external_url: must begin with https://",
            ),
            (sink("type = \"pigeon\""), "alerts.sinks[0].type: \"pigeon\" is none of"),
            (sink("type = \"slack\""), "alerts.sinks[0].url: is missing"),
            (sink("type = \"slack\"\nurl = \"ftp://x\""), "alerts.sinks[0].url: must begin with https://"),
            (sink("type = \"pagerduty\""), "alerts.sinks[0].secret: is missing"),
            (sink("type = \"command\""), "alerts.sinks[0].command: is missing"),
            (sink("type = \"slack\"\nurl = \"https://x\"\nsecret = \"s\""), "alerts.sinks[0].secret: has no effect"),
            (sink("type = \"slack\"\nurl = \"https://x\"\nto = [\"a@b\"]"), "alerts.sinks[0].to: has no effect"),
            (sink("type = \"email\"\nurl = \"https://x\""), "alerts.sinks[0].url: must be smtps://host"),
            (sink("type = \"email\"\nurl = \"smtp://x\""), "alerts.sinks[0].from: is missing"),
            (sink("type = \"email\"\nurl = \"smtp://x\""), "alerts.sinks[0].to: is missing"),
            (sink("type = \"email\"\nurl = \"smtp://me:pw@x\""), "alerts.sinks[0].url: names a user"),
            (sink("type = \"email\"\nurl = \"smtp://x\"\nusername = \"me\""), "alerts.sinks[0].secret: is missing"),
            (sink("type = \"email\"\nurl = \"smtp://x\"\nsecret = \"s\""), "alerts.sinks[0].username: is missing"),
            (sink("type = \"email\"\nurl = \"smtps://x\"\ntls = \"none\""), "alerts.sinks[0].tls: has no effect"),
            (
                sink("type = \"email\"\nurl = \"smtp://x\"\ntls = \"none\"\nusername = \"a\"\nsecret = \"b\""),
                "alerts.sinks[0].tls: would send the password in the clear",
            ),
            (
                sink("type = \"slack\"\nurl = \"https://x\"\ncommand = [\"s\"]"),
                "alerts.sinks[0].command: has no effect",
            ),
            (rule("quality = \"missing_rate\"\nabove = { sigmas = 3 }"), "alerts.rules[0].above: must be a number"),
            (rule("coverage = true\nbelow = \"baseline\""), "alerts.rules[0].below: must be a number"),
            (rule("coverage = true\nbelow = 0.5\nsegments = [\"*\"]"), "alerts.rules[0].coverage: is one number"),
            (
                rule("estimate = \"f1\"\nmethod = \"guess\"\nbelow = 0.8"),
                "alerts.rules[0].method: \"guess\" is none of",
            ),
            (rule("metric = \"f1\"\nmethod = \"cbpe\"\nbelow = 0.8"), "alerts.rules[0].method: has an effect on est"),
            (rule("estimate = \"f1\"\nbelow = \"baseline\""), "alerts.rules[0].below: must be a number"),
            (rule("label_lag = \"2d\"\nbelow = 0.8"), "alerts.rules[0].label_lag: \"2d\" is none of \"1h\""),
            (rule("label_lag = \"median\"\nabove = 9\ndecide = \"interval\""), "alerts.rules[0].decide: must be"),
            (rule("pipeline = \"lag\"\nabove = 9"), "alerts.rules[0].pipeline: \"lag\" is none of"),
            (rule("pipeline = \"collectors\"\nbelow = 1\ndecide = \"interval\""), "alerts.rules[0].decide: must be"),
            (rule("pipeline = \"collectors\"\nbelow = 1\nmodels = [\"m\"]"), "alerts.rules[0].models: has no effect"),
            (rule("pipeline = \"rejected_rate\"\nabove = { sigmas = 3 }"), "alerts.rules[0].above: must be a number"),
            (rule("metric = \"f1\"\nbelow = { previous_version = 0.1 }"), "alerts.rules[0].versions: must be true"),
            (
                rule("estimate = \"f1\"\nbelow = { reference = 0.1 }"),
                "alerts.rules[0].below: must be a number, or learned",
            ),
            (
                rule("metric = \"f1\"\nbelow = { change = 0.1, from = \"2026-01-01T00:00:00Z\" }"),
                ".below.from: must stand",
            ),
            (
                sink("type = \"slack\"\nurl = \"https://x\"\ngroup_by = [\"day\"]"),
                "alerts.sinks[0].group_by: \"day\" is none",
            ),
            (
                sink("type = \"alertmanager\"\nurl = \"https://x\"\ngroup_by = [\"rule\"]"),
                "alerts.sinks[0].group_by: has no effect",
            ),
        ] {
            let faults = read(&text).expect_err(&text).join("\n");
            assert!(faults.contains(fault), "{text}\n{faults}");
        }
    }

    #[test]
    fn a_sink_that_a_rule_names_and_that_never_takes_it_is_a_fault() {
        let with = |sink: &str, rule: &str| {
            read(&format!(
                "[[alerts.sinks]]\nname = \"s\"\ntype = \"slack\"\nurl = \"https://x\"\n{sink}\n\
                 [[alerts.rules]]\nname = \"r\"\nmetric = \"f1\"\nbelow = 0.8\n{rule}"
            ))
        };
        for (sink, rule, fault) in [
            ("min_severity = \"error\"", "severity = \"warning\"", "it takes \"error\" and worse"),
            ("match = { rule = \"other\" }", "", "its `match.rule` has none"),
            ("match = { model = \"a\" }", "models = [\"b\"]", "its `match.model` has none"),
            ("match = { metric = [\"recall\"] }", "", "its `match.metric` has none"),
        ] {
            let faults = with(sink, &format!("{rule}\nsinks = [\"s\"]")).expect_err(sink).join("\n");
            assert!(faults.starts_with("alerts.rules[0].sinks: \"s\" would never be told: "), "{faults}");
            assert!(faults.contains(fault), "{faults}");
            with(sink, rule).expect("told elsewhere, or nowhere");
        }
        with("min_severity = \"error\"", "severity = \"error\"\nsinks = [\"s\"]").expect("so bad");
        with("match = { model = \"a\" }", "sinks = [\"s\"]").expect("a rule for all is for this one too");
    }

    #[test]
    fn a_season_that_the_windows_of_a_model_do_not_have_is_a_fault() {
        let seasonal = |models: &str, rule: &str| {
            let text = format!(
                "{models}\n[[alerts.rules]]\nname = \"r\"\nmetric = \"f1\"\n\
                 below = {{ sigmas = 3, windows = 8, same_hour_of_week = true }}\n{rule}"
            );
            read(&text).map(drop).map_err(|faults| faults.join("\n"))
        };
        let model = |name: &str, window: &str| format!("[[models]]\nname = \"{name}\"\nwindow = \"{window}\"\n");
        for (window, why) in [
            ("week", "says nothing of windows longer than a day"),
            ("month", "says nothing of windows longer than a day"),
            ("2d", "says nothing of windows longer than a day"),
            ("5h", "start at other hours each week"),
        ] {
            let fault = seasonal(&model("m", window), "models = [\"m\"]").expect_err(window);
            let key = "alerts.rules[0].below.same_hour_of_week: cannot be held of \"m\": ";
            assert!(fault.starts_with(key) && fault.contains(why), "{fault}");
        }
        for window in ["15m", "1h", "6h", "24h", "day"] {
            seasonal(&model("m", window), "").expect(window);
        }
        // Of all models one is enough; and whoever is not named does not matter.
        let two = model("m", "1h") + &model("n", "week") + &model("o", "month");
        let fault = seasonal(&two, "").expect_err("n and o");
        assert!(fault.contains("cannot be held of \"n\", and of 1 other(s): "), "{fault}");
        seasonal(&two, "models = [\"m\"]").expect("the others are not looked at");
        let fault = seasonal("[defaults]\nwindow = \"week\"", "").expect_err("all that are not listed");
        assert!(fault.contains("cannot be held of a model that is not listed: "), "{fault}");
    }

    #[test]
    fn a_rule_relative_to_a_reference_that_there_is_not_is_a_fault() {
        let with = |models: &str, rule: &str| {
            let text = format!("{models}[[alerts.rules]]\nname = \"r\"\n{rule}");
            read(&text).map(|config| config.rules[0].level.clone()).map_err(|faults| faults.join("\n"))
        };
        let file = "[[models]]\nname = \"m\"\nreference = \"r.jsonl\"\n";
        let past = "[[models]]\nname = \"p\"\nreference = { last = \"7d\", offset = \"1d\" }\n";
        let none = "[[models]]\nname = \"n\"\n";
        let metric = "metric = \"f1\"\nbelow = { reference = 0.05 }";
        let quality = "quality = \"missing_rate\"\nabove = { reference = 0.05 }";
        assert_eq!(with(file, metric).expect("a file"), Level::Reference { change: 0.05 });
        with(&format!("{file}{none}{past}"), metric).expect("one of them has a file");
        with(past, quality).expect("quality has it of past windows too");
        for (models, rule, fault) in [
            (none.to_owned(), metric.to_owned(), "alerts.rules[0].below.reference: \"n\" has no `reference`"),
            (none.to_owned(), quality.to_owned(), "alerts.rules[0].above.reference: \"n\" has no `reference`"),
            (past.to_owned(), metric.to_owned(), "alerts.rules[0].below.reference: \"p\" has past windows"),
            (
                format!("{file}{none}"),
                format!("{metric}\nmodels = [\"m\", \"n\"]"),
                "alerts.rules[0].below.reference: \"n\" has no `reference`",
            ),
        ] {
            let faults = with(&models, &rule).expect_err(fault);
            assert!(faults.contains(fault), "{faults}");
        }
    }

    #[test]
    fn reference_windows_that_can_never_be_enough_are_a_fault() {
        let rule = |window: &str, level: &str| {
            let text = format!(
                "[[models]]\nname = \"m\"\nwindow = \"{window}\"\n[[alerts.rules]]\nname = \"r\"\nmetric = \"f1\"\n\
                 models = [\"m\"]\nabove = {{ change = 0.1, {level} }}"
            );
            read(&text).map(drop).map_err(|faults| faults.join("\n"))
        };
        let january = "from = \"2026-01-01T00:00:00Z\", to = \"2026-02-01T00:00:00Z\"";
        rule("day", january).expect("31 days");
        rule("week", january).expect("five weeks begin in 31 days at the most");
        let fault = rule("month", january).expect_err("one month");
        assert!(fault.starts_with("alerts.rules[0].above.from: holds 2 window(s) of \"m\" at the most"), "{fault}");
        rule("month", &format!("{january}, windows = 2")).expect("as few as were asked for");
        rule("1h", &format!("{january}, same_hour_of_week = true")).expect("five Thursdays");
        let weeks = "from = \"2026-01-01T00:00:00Z\", to = \"2026-01-15T00:00:00Z\", same_hour_of_week = true";
        let fault = rule("1h", weeks).expect_err("two Thursdays");
        assert!(fault.contains("holds 2 window(s) of one hour of the week of \"m\""), "{fault}");
        rule("15m", weeks).expect("four in each hour");
    }

    #[test]
    fn every_kind_of_rule_is_read() {
        let rule = |lines: &str| {
            let mut config = read(&format!("[[alerts.rules]]\nname = \"r\"\n{lines}")).expect(lines);
            config.rules.remove(0)
        };
        let estimate = rule("estimate = \"f1\"\nbelow = 0.8");
        assert_eq!(estimate.subject, Subject::Estimate { metric: "f1".into(), method: None });
        assert_eq!(estimate.decide, Decide::Interval);
        assert_eq!(rule("metric = \"requests\"\nbelow = 100").decide, Decide::Point, "it has no interval");
        let lag = rule("label_lag = \"1d\"\nbelow = 0.5");
        assert_eq!(lag.subject, Subject::LabelLag { within_seconds: Some(86_400) });
        let median = rule("label_lag = \"median\"\nabove = 86400");
        assert_eq!((median.subject, median.decide), (Subject::LabelLag { within_seconds: None }, Decide::Point));
        for signal in Signal::ALL {
            let read = rule(&format!("pipeline = {:?}\nabove = 1", signal.as_str()));
            assert_eq!(read.subject, Subject::Pipeline(signal));
            assert_eq!(read.decide == Decide::Interval, signal == Signal::RejectedRate, "{signal:?}");
        }
        let windows = |windows| Learned { windows, same_hour_of_week: false, between: None };
        let previous = rule("metric = \"f1\"\nbelow = { previous_version = 0.02 }\nversions = true");
        assert_eq!(previous.level, Level::PreviousVersion { change: 0.02, from: windows(28) });
        let with_reference = "[[models]]\nname = \"m\"\nreference = \"r.jsonl\"\n";
        let quality = "[[alerts.rules]]\nname = \"r\"\nquality = \"missing_rate\"\nabove = { reference = 0.05 }";
        let reference = read(&format!("{with_reference}{quality}")).expect("a good file").rules.remove(0);
        assert_eq!(reference.level, Level::Reference { change: 0.05 });
        let fixed =
            rule("metric = \"f1\"\nbelow = { sigmas = 3, from = \"2026-01-01T00:00:00Z\", to = 2026-02-01T00:00:00Z }");
        let day = |day: i64| day * DAY;
        let between = Some((day(20_454), day(20_485)));
        assert_eq!(fixed.level.learned(), Some(Learned { windows: WINDOWS_MAX, same_hour_of_week: false, between }));
        let pager = read("[[alerts.sinks]]\nname = \"p\"\ntype = \"pagerduty\"\nsecret = \"s\"").expect("a sink");
        assert_eq!(pager.sinks[0].group_by, ["rule"], "a page a rule, not a page a series");
    }
}
