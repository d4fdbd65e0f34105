//! The validated configuration: what cannot be wrong any more. What the user typed is a TOML table; reading it reports
//! all faults at once, each by its key.
mod alerts;
mod maintenance;
mod reader;
mod reports;
mod retention;

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use chrono::{DateTime, Utc};
use chrono_tz::Tz;
use serde::{Deserialize, Serialize};
use toml::Table;

pub use self::alerts::{
    AlertsConfig, Decide, EmailSettings, GROUP_BY, LABEL_LAGS, Learned, Level, MATCHED, MONTH, REFERENCE_WINDOWS_MIN,
    Rule, SEVERITIES, Severity, Side, Signal, Sink, SinkKind, SmtpTls, Subject,
};
pub use self::maintenance::Maintenance;
use self::reader::Reader;
pub use self::reports::{Period, ReportFormat, ReportSpec};
pub use self::retention::RetentionConfig;
use crate::clock::{DAY, MINUTE, Micros};
use crate::tables::{ScoreKind, Task};
use crate::window::{WindowLength, WindowSpec};

/// What is wrong with one key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// Dotted path, for example `models[0].threshold`.
    pub key: String,
    /// What is wrong and what would be right.
    pub message: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.key, self.message)
    }
}

/// Everything a process needs to know.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// Bytes of all buffers of a process together.
    pub memory_max: u64,
    /// Where events come from.
    pub kafka: KafkaConfig,
    /// Where everything is kept.
    pub store: StoreConfig,
    /// When a raw object is cut.
    pub flush_interval: Duration,
    /// Bytes of buffered payload that cut a raw object early.
    pub flush_bytes: u64,
    /// Address of `/metrics`, `/livez` and `/readyz`.
    pub listen: String,
    /// How often the aggregator and the evaluator look for news.
    pub poll_interval: Duration,
    /// What judging depends on; recorded in the ledger.
    pub judge: JudgeConfig,
    /// How long what is kept is kept.
    pub retention: RetentionConfig,
    /// When people are told.
    pub alerts: AlertsConfig,
    /// Reports that are made by themselves.
    pub reports: Vec<ReportSpec>,
}

/// Kafka settings.
#[derive(Debug, Clone, PartialEq)]
pub struct KafkaConfig {
    /// `host:port`, comma-separated.
    pub brokers: String,
    /// Topics with prediction events.
    pub predictions_topics: Vec<String>,
    /// Topics with label events.
    pub labels_topics: Vec<String>,
    /// Consumer group.
    pub group: String,
    /// Where a chain that does not exist yet begins.
    pub start: Start,
    /// Create missing topics.
    pub create_topics: bool,
    /// Partitions of topics created so.
    pub create_partitions: u32,
    /// Topic that rejected records are also published to.
    pub dead_letter_topic: Option<String>,
    /// Passed to librdkafka untouched.
    pub properties: BTreeMap<String, String>,
}

/// Where a chain begins that does not exist yet. An existing chain goes on where it ends, whatever this says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// At the oldest record that the broker has.
    Earliest,
    /// At the next record to come.
    Latest,
    /// At the first record that is not older.
    At(DateTime<Utc>),
}

/// Store settings.
#[derive(Debug, Clone, PartialEq)]
pub struct StoreConfig {
    /// `s3://bucket/prefix`, `gs://`, `az://`, `file://`, or a path.
    pub url: String,
    /// Further options of the store's client.
    pub options: BTreeMap<String, String>,
}

/// What judging depends on. It is recorded in the ledger as a configuration epoch.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct JudgeConfig {
    /// When windows are judged again.
    pub revise: ReviseConfig,
    /// How long all partitions must stand at a confirmed end before the clock may seal a window, microseconds.
    pub idle_timeout: Micros,
    /// Models that are not listed are accepted.
    pub accept_unknown_models: bool,
    /// How many models at most.
    pub models_max: usize,
    /// Feature columns of `history` at most; the rest goes into `features_json`.
    pub max_feature_columns: usize,
    /// Values of a segment, and versions of a model in a window, at most; the rest is `__other__`.
    pub max_segment_values: usize,
    /// Settings of models that are not listed.
    pub defaults: ModelSettings,
    /// Listed models by name.
    pub models: BTreeMap<String, ModelSettings>,
}

impl JudgeConfig {
    /// The settings that a model follows.
    pub fn model(&self, name: &str) -> &ModelSettings {
        self.models.get(name).unwrap_or(&self.defaults)
    }

    /// Whether figures of a model are the same under both. How soon windows are judged, and when they are taken for complete,
    /// is another matter: such settings hold at once, for all windows.
    pub fn judges_alike(&self, other: &JudgeConfig, name: &str) -> bool {
        let of = |config: &JudgeConfig| {
            let settings = ModelSettings { out_of_orderness: 0, ..config.model(name).clone() };
            let admission = (config.accepts(name), config.models.contains_key(name), config.models_max);
            (settings, admission, config.max_feature_columns, config.max_segment_values)
        };
        of(self) == of(other)
    }

    /// Whether predictions of this model take part in metrics.
    pub fn accepts(&self, name: &str) -> bool {
        self.accept_unknown_models || self.models.contains_key(name)
    }
}

/// When windows are judged again.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ReviseConfig {
    /// Growth of rows or labelled rows since the last judgement that is worth another, as a fraction.
    pub min_growth: f64,
    /// Shortest time between two judgements, microseconds.
    pub min_delay: Micros,
    /// Longest time that something new waits, microseconds; also the quiet time before a window may be final.
    pub max_delay: Micros,
    /// Bytes rewritten for a window, as a multiple of its size.
    pub max_amplification: f64,
}

/// How one model is judged.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ModelSettings {
    /// Task; inferred when absent.
    pub task: Option<Task>,
    /// Canonical text of the positive class of a binary model; inferred when absent.
    pub positive_class: Option<String>,
    /// A score at or above it predicts the positive class, where an event has no `prediction`.
    pub threshold: f64,
    /// Whether scores are probabilities.
    pub score_kind: ScoreKind,
    /// Its windows.
    pub window: WindowSpec,
    /// How much later than a newer one an event may come before it counts as late, microseconds.
    pub out_of_orderness: Micros,
    /// How long after its prediction a label counts, microseconds.
    pub label_horizon: Micros,
    /// Segments: each a cross of tag names or `features.<name>`.
    pub segments: Vec<Vec<String>>,
    /// Rows of a segment's value under which nothing of it is published; 0 publishes all.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub segments_min_rows: u64,
    /// What drift is measured against.
    pub reference: Option<ReferenceSpec>,
    /// What the decisions of a binary model are worth.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cost: Option<CostMatrix>,
    /// Which rows are ranked together; none if the model ranks nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ranking: Option<RankingSpec>,
}

/// Which predictions are ranked together, and how far down the list people look.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RankingSpec {
    /// What tells queries apart: a tag, or `features.<name>`.
    pub group: String,
    /// Ranks that count, from the top.
    pub k: usize,
}

/// Whether a setting is as it was before there was such a setting: older builds read the ledger as long as nobody sets it.
#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde passes a field so")]
fn is_zero(rows: &u64) -> bool {
    *rows == 0
}

/// What each outcome of a binary decision is worth, in any one unit; a loss is negative.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct CostMatrix {
    /// A positive that was predicted.
    pub tp: f64,
    /// A negative that was predicted to be positive.
    pub fp: f64,
    /// A positive that was not predicted.
    #[serde(rename = "fn")]
    pub missed: f64,
    /// A negative that was not predicted to be positive.
    pub tn: f64,
}

/// What drift is measured against.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReferenceSpec {
    /// A file of prediction events.
    File(String),
    /// A past period of the model's own history: `last` long, ending `offset` before the window's start, microseconds.
    Past {
        /// Length of the period.
        last: Micros,
        /// How long before the window's start it ends.
        offset: Micros,
        /// Whether only windows count that start in the same hour of the week.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        same_hour_of_week: bool,
    },
}

impl Default for ModelSettings {
    fn default() -> Self {
        Self {
            task: None,
            positive_class: None,
            threshold: 0.5,
            score_kind: ScoreKind::Probability,
            window: WindowSpec::default(),
            out_of_orderness: MINUTE,
            label_horizon: 30 * DAY,
            segments: Vec::new(),
            segments_min_rows: 0,
            reference: None,
            cost: None,
            ranking: None,
        }
    }
}

impl Config {
    /// Reads and validates a whole configuration.
    ///
    /// # Errors
    /// Every fault, each with its key.
    pub fn from_table(table: Table) -> Result<Self, Vec<Fault>> {
        let mut root = Reader::new(table, String::new());
        let config = read_config(&mut root);
        let faults = root.finish();
        if faults.is_empty() { Ok(config) } else { Err(faults) }
    }
}

fn read_config(root: &mut Reader) -> Config {
    let memory_max = root.bytes("memory_max", 2_000_000_000);
    if memory_max < 64_000_000 {
        root.fault("memory_max", "must be at least 64MB".into());
    }
    let kafka = root.section("kafka", read_kafka);
    let store = root.section("store", |section| StoreConfig {
        url: section.text("url").unwrap_or_else(|| "driftline-data".into()),
        options: section.strings("options"),
    });
    let (flush_interval, flush_bytes) = root.section("flush", |section| {
        (section.duration("interval", 5_000_000).max(10_000), section.bytes("bytes", 64_000_000).max(1_000))
    });
    let listen = root.section("serve", |section| section.text("listen").unwrap_or_else(|| "127.0.0.1:9464".into()));
    let poll_interval = root.duration("poll_interval", 1_000_000).max(1_000);
    let judge = read_judge(root);
    let retention = root.section("retention", retention::read_retention);
    let alerts = root.section("alerts", |section| alerts::read_alerts(section, &judge));
    let reports = reports::read_reports(root, &alerts);
    Config {
        memory_max,
        kafka,
        store,
        flush_interval: Duration::from_micros(flush_interval as u64),
        flush_bytes,
        listen,
        poll_interval: Duration::from_micros(poll_interval as u64),
        judge,
        retention,
        alerts,
        reports,
    }
}

/// Longest wait for a label or for disorder: a century; sums with it stay in the range of times.
const DELAY_MAX: Micros = 36_525 * DAY;

/// Why a property of librdkafka is not the user's to set: it would break the chain. `None` for all others.
pub fn why_refused(property: &str) -> Option<&'static str> {
    Some(match property {
        "group.id" => "set kafka.group instead",
        "bootstrap.servers" => "set kafka.brokers instead",
        "auto.offset.reset" => {
            "a silent reset would leave a hole in the chain; kafka.start says where a new chain begins"
        }
        "isolation.level" => "records of aborted transactions are no events; it is always read_committed",
        "partition.assignment.strategy" => {
            "partitions must stay where they are in a rebalance; it is always cooperative-sticky"
        }
        property if property.starts_with("enable.auto.") => {
            "progress is the raw chain's end, and only a finished flush may tell the group of it"
        }
        _ => return None,
    })
}

fn read_kafka(section: &mut Reader) -> KafkaConfig {
    let predictions_topics = section.list("predictions_topics").unwrap_or_else(|| vec!["driftline.predictions".into()]);
    let labels_topics = section.list("labels_topics").unwrap_or_else(|| vec!["driftline.labels".into()]);
    if let Some(both) = predictions_topics.iter().find(|topic| labels_topics.contains(topic)) {
        section.fault("labels_topics", format!("topic {both:?} cannot carry both predictions and labels"));
    }
    if predictions_topics.is_empty() {
        section.fault("predictions_topics", "names no topic".into());
    }
    let start = match section.text("start").as_deref() {
        None | Some("earliest") => Start::Earliest,
        Some("latest") => Start::Latest,
        Some(text) => {
            if let Ok(time) = DateTime::parse_from_rfc3339(text) {
                Start::At(time.with_timezone(&Utc))
            } else {
                section.fault("start", format!("{text:?} is not \"earliest\", \"latest\" or an RFC 3339 timestamp"));
                Start::Earliest
            }
        }
    };
    let properties = section.strings("properties");
    for (key, why) in properties.keys().filter_map(|key| Some((key, why_refused(key)?))) {
        section.fault(&format!("properties.{key:?}"), format!("is not yours to set: {why}"));
    }
    let create_partitions = section.integer("create_partitions", 4);
    if !(1..=100_000).contains(&create_partitions) {
        section.fault("create_partitions", "must be at least 1".into());
    }
    KafkaConfig {
        brokers: section.text("brokers").unwrap_or_else(|| "localhost:9092".into()),
        predictions_topics,
        labels_topics,
        group: section.text("group").unwrap_or_else(|| "driftline".into()),
        start,
        create_topics: section.boolean("create_topics", false),
        create_partitions: create_partitions.clamp(1, 100_000) as u32,
        dead_letter_topic: section.text("dead_letter_topic"),
        properties,
    }
}

fn read_judge(root: &mut Reader) -> JudgeConfig {
    let revise = root.section("revise", |section| {
        let revise = ReviseConfig {
            min_growth: section.fraction("min_growth", 0.1),
            min_delay: section.duration("min_delay", MINUTE),
            max_delay: section.duration("max_delay", DAY),
            max_amplification: section.float("max_amplification", 10.0),
        };
        if revise.max_delay < revise.min_delay {
            section.fault("max_delay", "is shorter than min_delay".into());
        }
        if revise.max_amplification < 2.0 {
            section.fault("max_amplification", "must be at least 2".into());
        }
        revise
    });
    let mut defaults =
        root.section("defaults", |section| read_model(section, ModelSettings::default(), IsFor::Defaults));
    let mut models = BTreeMap::new();
    for mut section in root.tables("models") {
        let mut settings = read_model(&mut section, defaults.clone(), IsFor::Model);
        settings.window = settings.window.plain();
        match section.text("name") {
            None => section.fault("name", "is missing".into()),
            Some(name) if models.contains_key(&name) => section.fault("name", format!("{name:?} is listed twice")),
            Some(name) => {
                models.insert(name, settings);
            }
        }
        root.absorb(section);
    }
    // Only now: a listed model with calendar windows takes its zone from here.
    defaults.window = defaults.window.plain();
    JudgeConfig {
        revise,
        idle_timeout: root.duration("idle_timeout", MINUTE),
        accept_unknown_models: root.boolean("accept_unknown_models", true),
        models_max: root.integer("models_max", 1000).max(1) as usize,
        max_feature_columns: root.integer("max_feature_columns", 500).max(0) as usize,
        max_segment_values: root.integer("max_segment_values", 100).max(1) as usize,
        defaults,
        models,
    }
}

/// Whose settings are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum IsFor {
    /// Those that models start from.
    Defaults,
    /// One listed model.
    Model,
}

fn read_model(section: &mut Reader, base: ModelSettings, is_for: IsFor) -> ModelSettings {
    let task = section.choice(
        "task",
        &[("binary", Task::Binary), ("multiclass", Task::Multiclass), ("regression", Task::Regression)],
    );
    let score_kind = section.choice("score_kind", &[("probability", ScoreKind::Probability), ("any", ScoreKind::Any)]);
    let window = read_window(section, base.window, is_for);
    let out_of_orderness = section.duration_up_to("out_of_orderness", base.out_of_orderness, DELAY_MAX);
    let label_horizon = section.duration_up_to("label_horizon", base.label_horizon, DELAY_MAX);
    if label_horizon == 0 {
        section.fault("label_horizon", "must be longer than 0s, or no label would ever count".into());
    }
    let reference = section.reference("reference").or(base.reference);
    // Windows lie whole in the period, so in a shorter one there are none, ever, and nobody would know why.
    if let Some(ReferenceSpec::Past { last, .. }) = &reference
        && *last < window.ordinary_length()
        && is_for == IsFor::Model
    {
        let shown = humantime::format_duration(Duration::from_micros(*last as u64));
        section.fault("reference", format!("`last` is {shown}, and windows are longer: none would lie whole in it"));
    } else if let Some(ReferenceSpec::Past { last, same_hour_of_week: true, .. }) = &reference
        && is_for == IsFor::Model
        && let Some(why) = window_of_no_hour(window, *last)
    {
        section.fault("reference", why);
    }
    let score_kind = score_kind.unwrap_or(base.score_kind);
    let threshold = section.float("threshold", base.threshold);
    // The defaults may be for margins: whether a threshold fits is known once the model's own kind of score is.
    if score_kind == ScoreKind::Probability && !(0.0..=1.0).contains(&threshold) && is_for == IsFor::Model {
        let message =
            format!("is {threshold}, and scores are probabilities, from 0 to 1; for margins set score_kind = \"any\"");
        section.fault("threshold", message);
    }
    let task = task.or(base.task);
    let cost = section.cost("cost");
    if cost.is_some() && task.is_some_and(|task| task != Task::Binary) && is_for == IsFor::Model {
        section.fault("cost", "is for binary models: it has a worth for each of their four outcomes".into());
    }
    let segments_min_rows = section.integer("segments_min_rows", base.segments_min_rows as i64);
    if segments_min_rows < 0 {
        section.fault("segments_min_rows", "must not be negative".into());
    }
    ModelSettings {
        task,
        positive_class: section.class("positive_class").or(base.positive_class),
        threshold,
        score_kind,
        window,
        out_of_orderness,
        label_horizon,
        segments: section.segments("segments").unwrap_or(base.segments),
        segments_min_rows: segments_min_rows.max(0) as u64,
        reference,
        cost: cost.or(base.cost),
        ranking: section.ranking("ranking").or(base.ranking),
    }
}

/// Why no window, or hardly one, in a period would start in the same hour of the week as a later one; `None` if some do.
fn window_of_no_hour(window: WindowSpec, last: Micros) -> Option<String> {
    let is_short = last < 7 * DAY;
    let too_short = || is_short.then(|| "`last` is under a week, and the same hour comes once in one".into());
    why_no_hour(window).or_else(too_short)
}

/// Why windows do not come back to the same hour of the week; `None` if they do.
fn why_no_hour(window: WindowSpec) -> Option<String> {
    match window.length {
        WindowLength::Week | WindowLength::Month => {
            Some("`same_hour_of_week` says nothing of windows longer than a day".into())
        }
        WindowLength::Fixed(length) if length > DAY => {
            Some("`same_hour_of_week` says nothing of windows longer than a day".into())
        }
        WindowLength::Fixed(length) if (7 * DAY) % length != 0 => {
            Some("windows of this length start at other hours each week".into())
        }
        _ => None,
    }
}

fn read_window(section: &mut Reader, base: WindowSpec, is_for: IsFor) -> WindowSpec {
    let named = section.text("timezone");
    let timezone = named.as_ref().map(|name| section.zone("timezone", name));
    let length = section.window_length("window").unwrap_or(base.length);
    let window = WindowSpec { length, timezone: timezone.flatten().unwrap_or(base.timezone) };
    // Somebody who names a zone wants local days, and would get others without a word.
    if let (WindowLength::Fixed(_), Some(Some(zone)), IsFor::Model) = (length, timezone, is_for)
        && zone != Tz::UTC
    {
        let message = "has no effect on windows of a fixed length, which align to 1970-01-01T00:00Z: for local days set \
                       window = \"day\" (or \"week\", \"month\")";
        section.fault("timezone", message.into());
    }
    window
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Config, Vec<String>> {
        Config::from_table(text.parse().unwrap()).map_err(|faults| faults.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn an_empty_file_gives_the_documented_defaults() {
        let config = read("").unwrap();
        assert_eq!(config.kafka.predictions_topics, ["driftline.predictions"]);
        assert_eq!(config.flush_interval, Duration::from_secs(5));
        assert_eq!(config.judge.revise.min_growth, 0.1);
        assert_eq!(config.judge.revise.max_delay, DAY);
        assert_eq!(config.judge.model("any").label_horizon, 30 * DAY);
        assert!(config.judge.accepts("any"));
    }

    #[test]
    fn everything_is_kept_unless_the_file_says_for_how_long() {
        assert!(!read("").unwrap().retention.deletes());
        let kept = read("[retention]\nraw = \"30d\"\nhistory = \"1y\"\nmetrics = \"forever\"").unwrap().retention;
        assert_eq!((kept.raw, kept.metrics, kept.metrics_log, kept.grace), (Some(30 * DAY), None, None, 60 * MINUTE));
        let faults = read("[retention]\nhistory = \"7d\"\nmetrics = \"never\"\nledger = \"1m\"\nrow = \"1d\"");
        let all = faults.unwrap_err().join("\n");
        for part in [
            "retention.history: must not be shorter than retention.raw",
            "retention.metrics: must be a duration like \"90d\", or \"forever\", not the string \"never\"",
            "retention.ledger: must be at least 1h",
            "retention.row: is not a known key; did you mean `raw`?",
        ] {
            assert!(all.contains(part), "{part} is not in\n{all}");
        }
    }

    #[test]
    fn the_example_of_the_contract_is_read() {
        let config = read(
            r#"
            memory_max = "2GB"
            [kafka]
            start = "2026-01-01T00:00:00Z"
            brokers = "localhost:9092"
            [kafka.properties]
            "security.protocol" = "sasl_ssl"
            [store]
            url = "s3://bucket/driftline"
            [revise]
            min_growth = "10%"
            [[models]]
            name = "card-fraud"
            task = "binary"
            positive_class = 1.0
            window = "day"
            timezone = "Europe/Amsterdam"
            segments = ["region", "channel", ["region", "channel"], "features.country"]
            reference = { last = "7d", offset = "7d" }
            "#,
        )
        .unwrap();
        let model = config.judge.model("card-fraud");
        assert_eq!(model.positive_class.as_deref(), Some("1"));
        assert_eq!(model.window.length, WindowLength::Day);
        assert_eq!(model.segments[2], ["region", "channel"]);
        assert_eq!(
            model.reference,
            Some(ReferenceSpec::Past { last: 7 * DAY, offset: 7 * DAY, same_hour_of_week: false })
        );
    }

    #[test]
    fn a_reference_that_ledgers_know_reads_and_writes_as_it_did() {
        let plain = ReferenceSpec::Past { last: 1, offset: 2, same_hour_of_week: false };
        let written = r#"{"past":{"last":1,"offset":2}}"#;
        assert_eq!(serde_json::to_string(&plain).unwrap(), written);
        assert_eq!(serde_json::from_str::<ReferenceSpec>(written).unwrap(), plain);
        let hourly = ReferenceSpec::Past { last: 1, offset: 2, same_hour_of_week: true };
        let again = serde_json::from_str::<ReferenceSpec>(&serde_json::to_string(&hourly).unwrap()).unwrap();
        assert_eq!(again, hourly);
    }

    #[test]
    fn every_fault_is_named_at_once_with_the_nearest_key() {
        let faults = read(
            r#"
            memory_mx = "2GB"
            [kafka]
            start = "yesterday"
            [kafka.properties]
            "group.id" = "mine"
            [flush]
            interval = 5
            [[models]]
            name = "a"
            task = "clustering"
            window = "90s"
            timezone = "Mars/Olympus"
            tresholds = 0.3
            "#,
        )
        .unwrap_err();
        let all = faults.join("\n");
        for part in [
            "memory_mx: is not a known key; did you mean `memory_max`?",
            r#"kafka.start: "yesterday""#,
            r#"kafka.properties."group.id": is not yours to set"#,
            "flush.interval: must be a duration",
            r#"models[0].task: "clustering" is none of "binary""#,
            r#"models[0].window: "90s" is no whole number of minutes"#,
            r#"models[0].timezone: "Mars/Olympus" is no IANA time zone; such as "Europe/Amsterdam" or "UTC""#,
            "models[0].tresholds: is not a known key; did you mean `threshold`?",
        ] {
            assert!(all.contains(part), "{part} is not in\n{all}");
        }
        assert_eq!(faults.len(), 8, "{all}");
    }

    #[test]
    fn properties_that_would_break_the_chain_are_refused_each_with_its_reason() {
        for (key, why) in [
            ("group.id", "kafka.group"),
            ("bootstrap.servers", "kafka.brokers"),
            ("enable.auto.commit", "finished flush"),
            ("enable.auto.offset.store", "finished flush"),
            ("auto.offset.reset", "kafka.start"),
            ("isolation.level", "read_committed"),
            ("partition.assignment.strategy", "cooperative-sticky"),
        ] {
            let faults = read(&format!("[kafka.properties]\n{key:?} = \"x\"")).unwrap_err();
            assert!(faults.len() == 1 && faults[0].contains(key) && faults[0].contains(why), "{faults:?}");
        }
        assert!(read("[kafka.properties]\n\"security.protocol\" = \"ssl\"").is_ok());
    }

    /// The faults of one `[[models]]` section, named `a`.
    fn faults_of(lines: &str) -> Vec<String> {
        read(&format!("[[models]]\nname = \"a\"\n{lines}")).err().unwrap_or_default()
    }

    #[test]
    fn windows_that_cannot_be_are_faults_that_say_what_would_be_right() {
        for (lines, fault) in [
            (
                r#"window = "daily""#,
                r#"models[0].window: "daily" is no duration like "1h", nor "day", "week" or "month"; did you mean "day"?"#,
            ),
            (
                r#"window = "1month""#,
                r#"models[0].window: "1month" has no fixed length; for calendar months set "month""#,
            ),
            (r#"window = "1M""#, r#"models[0].window: "1M" has no fixed length; for calendar months set "month""#),
            (r#"window = "90s""#, r#"models[0].window: "90s" is no whole number of minutes"#),
            (r#"window = "0m""#, r#"models[0].window: "0m" is no whole number of minutes"#),
            (r#"window = "2y""#, r#"models[0].window: "2y" is longer than 366d"#),
            (
                "window = \"day\"\ntimezone = \"Europe/Amsterdm\"",
                r#"models[0].timezone: "Europe/Amsterdm" is no IANA time zone; did you mean "Europe/Amsterdam"?"#,
            ),
            (
                "window = \"day\"\ntimezone = \"asia/kolkata\"",
                r#"models[0].timezone: "asia/kolkata" is no IANA time zone; did you mean "Asia/Kolkata"?"#,
            ),
            (
                "window = \"day\"\ntimezone = \"sao paulo\"",
                r#"models[0].timezone: "sao paulo" is no IANA time zone; did you mean "America/Sao_Paulo"?"#,
            ),
            (
                "window = \"day\"\ntimezone = \"+02:00\"",
                r#"models[0].timezone: "+02:00" is no IANA time zone; such as "Europe/Amsterdam" or "UTC""#,
            ),
            ("window = \"day\"\ntimezone = true", "models[0].timezone: must be a string, not true"),
            (
                "window = \"24h\"\ntimezone = \"Europe/Amsterdam\"",
                "models[0].timezone: has no effect on windows of a fixed length",
            ),
            (r#"timezone = "Europe/Amsterdam""#, "models[0].timezone: has no effect on windows of a fixed length"),
            (
                "window = \"month\"\nreference = { last = \"7d\" }",
                "models[0].reference: `last` is 7days, and windows are longer",
            ),
            (
                "window = \"2h\"\nreference = { last = \"1h\" }",
                "models[0].reference: `last` is 1h, and windows are longer",
            ),
            (
                "reference = { last = \"6d\", same_hour_of_week = true }",
                "models[0].reference: `last` is under a week, and the same hour comes once in one",
            ),
            (
                "window = \"5h\"\nreference = { last = \"28d\", same_hour_of_week = true }",
                "models[0].reference: windows of this length start at other hours each week",
            ),
            (
                "window = \"week\"\nreference = { last = \"28d\", same_hour_of_week = true }",
                "models[0].reference: `same_hour_of_week` says nothing of windows longer than a day",
            ),
            (r#"label_horizon = "900000d""#, "models[0].label_horizon: must be at most 36525d"),
            (r#"out_of_orderness = "200000y""#, "models[0].out_of_orderness: must be at most 36525d"),
            (r#"label_horizon = "0s""#, "models[0].label_horizon: must be longer than 0s"),
            ("threshold = 1.5", "models[0].threshold: is 1.5, and scores are probabilities"),
            ("threshold = -0.1", "models[0].threshold: is -0.1, and scores are probabilities"),
            (r#"segments = [""]"#, "models[0].segments: names nothing in its 1st entry"),
            (r#"segments = ["region", ["channel", " "]]"#, "models[0].segments: names nothing in its 2nd entry"),
            (r#"segments = ["features."]"#, "models[0].segments: names nothing in its 1st entry"),
            (r#"segments = ["a", "b", "c", "tags."]"#, "models[0].segments: names nothing in its 4th entry"),
            (r#"segments = ["region", "region"]"#, r#"models[0].segments: names "region" twice"#),
            (r#"segments = [["a", "b"], ["b", "a"]]"#, r#"models[0].segments: names ["b", "a"] twice"#),
            (r#"segments = [["a", "a"]]"#, r#"models[0].segments: crosses "a" with itself"#),
            ("segments = [[]]", "models[0].segments: must be a list of tag names"),
            ("ranking = 5", "models[0].ranking: must be a table like"),
            ("ranking = { k = 5 }", "models[0].ranking.group: is missing"),
            ("ranking = { group = \"query\", k = 0 }", "models[0].ranking.k: must be 1 to 1000"),
            ("segments_min_rows = -1", "models[0].segments_min_rows: must not be negative"),
            ("cost = 5", "models[0].cost: must be a table of tp, fp, fn and tn"),
            ("cost = { tp = 5, fp = -1, tn = 0 }", "models[0].cost.fn: is missing"),
            (r#"cost = { tp = 5, fp = "1", fn = 0, tn = 0 }"#, "models[0].cost.fp: must be a finite number"),
            ("cost = { tp = 5, fp = 1, fn = 0, tn = 0, tnn = 1 }", "models[0].cost.tnn: is not a known key"),
            (
                "task = \"regression\"\ncost = { tp = 5, fp = -1, fn = -10, tn = 0 }",
                "models[0].cost: is for binary models",
            ),
        ] {
            let faults = faults_of(lines);
            assert!(faults.len() == 1 && faults[0].starts_with(fault), "{lines}: {faults:?}");
        }
        for lines in [
            "window = \"24h\"\ntimezone = \"UTC\"",
            "window = \"7h\"",
            "window = \"366d\"",
            "window = \"month\"\nreference = { last = \"31d\", offset = \"0s\" }",
            "window = \"15m\"\nreference = { last = \"28d\", offset = \"0s\", same_hour_of_week = true }",
            "window = \"day\"\ntimezone = \"Europe/Amsterdam\"\nreference = { last = \"7d\", same_hour_of_week = true }",
            "window = \"week\"\ntimezone = \"Australia/Lord_Howe\"\nreference = { last = \"7d\" }",
            "threshold = 1.5\nscore_kind = \"any\"",
            "task = \"binary\"\ncost = { tp = 5, fp = -1.5, fn = -10, tn = 0 }",
            "segments_min_rows = 20",
            "ranking = { group = \"query_id\" }",
            "threshold = 1",
            r#"segments = ["region", "Région du client", "features.region", ["region", "features.region"]]"#,
        ] {
            assert_eq!(faults_of(lines), [""; 0], "{lines}");
        }
    }

    #[test]
    fn a_zone_among_the_defaults_is_that_of_calendar_windows_and_of_no_others() {
        let text = r#"
            [defaults]
            timezone = "Asia/Kolkata"
            [[models]]
            name = "daily"
            window = "day"
            [[models]]
            name = "hourly"
            window = "1h"
            "#;
        let config = read(text).unwrap().judge;
        assert_eq!(config.model("daily").window.timezone, Tz::Asia__Kolkata);
        // What has no effect must not make a new epoch of the configuration either.
        assert_eq!(config.model("hourly").window, WindowSpec::fixed(60 * MINUTE));
        assert_eq!(config.model("unlisted").window, WindowSpec::fixed(60 * MINUTE));
    }
}
