//! What to generate: all of it has a default, so that a test names only what it is about.

use std::fmt::Write as _;

use crate::partitioner::Partitioner;

/// The skew that a label may precede its prediction by, and that an event may lie in the future by: 10 minutes.
pub const MAX_SKEW_US: i64 = 600 * 1_000_000;

/// A run of the generator.
#[derive(Clone, Debug)]
pub struct Options {
    /// Same seed and options, same records and truth.
    pub seed: u64,
    /// Prediction events before duplicates are added.
    pub predictions: usize,
    /// The first event time, microseconds UTC.
    pub start_us: i64,
    /// Predictions' event times spread over this long; shorter than every horizon, so that no window becomes final by event time.
    pub span_secs: i64,
    /// Partitions of the predictions topic.
    pub prediction_partitions: i32,
    /// Partitions of the labels topic.
    pub label_partitions: i32,
    /// Who wrote the records.
    pub producers: Producers,
    /// The models; events are spread evenly over them.
    pub models: Vec<ModelOptions>,
    /// How the events look.
    pub ids: Ids,
    /// How often things go wrong.
    pub shares: Shares,
    /// The largest delay between an event's time and its arrival, for those that are disordered.
    pub disorder_max_secs: i64,
    /// Malformed records of each reason, on each topic; `too_large` and half a megabyte of others only once.
    pub malformed_of_each: usize,
}

/// Which partitioner the producers of the two topics use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Producers {
    /// One for both topics.
    Same(Partitioner),
    /// One for the predictions, one for the labels.
    Each {
        /// Of the predictions' producer.
        predictions: Partitioner,
        /// Of the labels' producer.
        labels: Partitioner,
    },
    /// Each record is written by one or the other, or without a key by a producer that spreads at random.
    Mixed,
}

/// The form of prediction ids.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ids {
    /// Ordered by time, as UUIDv7.
    TimeOrdered,
    /// Without order, as UUIDv4.
    Random,
    /// Short text with a counter.
    Counted,
    /// Each id one of the three.
    Mixed,
}

/// What a model predicts.
#[derive(Clone, Debug, PartialEq)]
pub enum Task {
    /// Two classes; the first is the positive one.
    Binary([&'static str; 2]),
    /// Three classes or more.
    Multiclass(Vec<&'static str>),
    /// A number.
    Regression,
}

/// One model.
#[derive(Clone, Debug)]
pub struct ModelOptions {
    /// Its name.
    pub name: String,
    /// Its task.
    pub task: Task,
    /// Versions that serve at the same time.
    pub versions: Vec<String>,
    /// Window length; windows align to the epoch.
    pub window_secs: i64,
    /// How long after its prediction a label counts.
    pub horizon_secs: i64,
    /// From which score on an event that has no `prediction` says the positive class.
    pub threshold: f64,
    /// What holds from some event time on.
    pub later: Option<Later>,
    /// Tags and their values; a tag is always there.
    pub tags: Vec<(String, Vec<String>)>,
}

/// Windows and a horizon that hold from an event time on, the first of the boundaries.
#[derive(Clone, Debug, PartialEq)]
pub struct Later {
    /// Where windows begin, in order, microseconds UTC; every event lies before the last. Known from outside, not worked out.
    pub boundaries_us: Vec<i64>,
    /// How long after its prediction a label counts, for predictions from the first boundary on.
    pub horizon_secs: i64,
}

impl ModelOptions {
    /// A model with one-hour windows, a horizon of 30 days, two versions and two tags.
    pub fn new(name: &str, task: Task) -> Self {
        let owned = |values: &[&str]| values.iter().map(|&v| v.to_owned()).collect::<Vec<_>>();
        ModelOptions {
            name: name.to_owned(),
            task,
            versions: owned(&["1", "2"]),
            window_secs: 3_600,
            horizon_secs: 30 * 86_400,
            threshold: 0.5,
            later: None,
            tags: vec![
                ("region".to_owned(), owned(&["eu", "us", "apac"])),
                ("channel".to_owned(), owned(&["web", "app"])),
            ],
        }
    }

    /// The start of the window of `time_us`.
    pub fn window_start_us(&self, time_us: i64) -> i64 {
        self.window_us(time_us).0
    }

    /// Start and end of the window of `time_us`.
    pub fn window_us(&self, time_us: i64) -> (i64, i64) {
        let boundaries = self.later.as_ref().map_or(&[][..], |later| &later.boundaries_us);
        let after = boundaries.partition_point(|boundary| *boundary <= time_us);
        if let (1.., Some(end)) = (after, boundaries.get(after)) {
            return (boundaries[after - 1], *end);
        }
        let start = time_us - time_us.rem_euclid(self.window_secs * 1_000_000);
        (start, start + self.window_secs * 1_000_000)
    }

    /// How long after its prediction a label counts, for a prediction of the window that starts here.
    pub fn horizon_us(&self, start_us: i64) -> i64 {
        let later =
            self.later.as_ref().filter(|later| later.boundaries_us.first().is_some_and(|from| *from <= start_us));
        later.map_or(self.horizon_secs, |later| later.horizon_secs) * 1_000_000
    }

    /// The `[[models]]` section of `driftline.toml` that makes Driftline judge as the truth does.
    pub fn to_toml(&self) -> String {
        let mut toml = format!("[[models]]\nname = {:?}\n", self.name);
        match &self.task {
            Task::Binary([positive, _]) => {
                let _ =
                    writeln!(toml, "task = \"binary\"\npositive_class = {positive:?}\nthreshold = {}", self.threshold);
            }
            Task::Multiclass(_) => toml.push_str("task = \"multiclass\"\n"),
            Task::Regression => toml.push_str("task = \"regression\"\n"),
        }
        let segments: Vec<&str> = self.tags.iter().map(|(name, _)| name.as_str()).collect();
        let _ = writeln!(
            toml,
            "window = \"{}s\"\nlabel_horizon = \"{}s\"\nsegments = {segments:?}",
            self.window_secs, self.horizon_secs
        );
        toml
    }
}

/// Probabilities, each of its own thing.
#[derive(Clone, Debug)]
pub struct Shares {
    /// Events that arrive late by up to `disorder_max_secs`.
    pub disordered: f64,
    /// Predictions on the first or the last microsecond of a window.
    pub on_the_edge: f64,
    /// Predictions sent twice as they were.
    pub copied: f64,
    /// Predictions sent again with a later timestamp, perhaps in the next window.
    pub retried: f64,
    /// Predictions that another version makes under the same id.
    pub shadowed: f64,
    /// Requests that failed.
    pub failed: f64,
    /// Predictions that the model's settings refuse.
    pub invalid: f64,
    /// Classifications that carry a score or probabilities, and no `prediction`.
    pub without_prediction: f64,
    /// Scores on a coarse grid, so that ties are common.
    pub tied_scores: f64,
    /// Predictions without a label.
    pub unlabelled: f64,
    /// Labels that are corrected once or twice.
    pub corrected: f64,
    /// Labels that are withdrawn, some of them to be given again.
    pub withdrawn: f64,
    /// Labels that contradict each other at the same time: the position decides.
    pub contradicted: f64,
    /// Labels sent twice as they were.
    pub labels_copied: f64,
    /// Labels before their prediction, within the skew.
    pub early: f64,
    /// Labels so long before their prediction that they do not count.
    pub too_early: f64,
    /// Labels after the horizon.
    pub too_late: f64,
    /// Labels exactly on one of the two bounds, or one microsecond beyond.
    pub on_the_bounds: f64,
    /// Labels of predictions that never come, as a share of the predictions.
    pub orphaned: f64,
    /// Labels with `prediction_timestamp`.
    pub hinted: f64,
    /// Hints that name a window which the prediction is not in.
    pub hinted_wrong: f64,
    /// Records that are JSON arrays of several events.
    pub batched: f64,
}

impl Default for Shares {
    fn default() -> Self {
        Shares {
            disordered: 0.2,
            on_the_edge: 0.02,
            copied: 0.03,
            retried: 0.03,
            shadowed: 0.05,
            failed: 0.02,
            invalid: 0.02,
            without_prediction: 0.05,
            tied_scores: 0.5,
            unlabelled: 0.1,
            corrected: 0.1,
            withdrawn: 0.05,
            contradicted: 0.02,
            labels_copied: 0.03,
            early: 0.05,
            too_early: 0.02,
            too_late: 0.02,
            on_the_bounds: 0.02,
            orphaned: 0.02,
            hinted: 0.4,
            hinted_wrong: 0.02,
            batched: 0.05,
        }
    }
}

impl Shares {
    /// Every event arrives once, in order, whole and in time; every prediction has one label.
    pub fn calm() -> Self {
        Shares {
            disordered: 0.0,
            on_the_edge: 0.0,
            copied: 0.0,
            retried: 0.0,
            shadowed: 0.0,
            failed: 0.0,
            invalid: 0.0,
            without_prediction: 0.0,
            tied_scores: 0.0,
            unlabelled: 0.0,
            corrected: 0.0,
            withdrawn: 0.0,
            contradicted: 0.0,
            labels_copied: 0.0,
            early: 0.0,
            too_early: 0.0,
            too_late: 0.0,
            on_the_bounds: 0.0,
            orphaned: 0.0,
            hinted: 0.0,
            hinted_wrong: 0.0,
            batched: 0.0,
        }
    }
}

impl Default for Options {
    fn default() -> Self {
        Options {
            seed: 1,
            predictions: 2_000,
            start_us: 1_740_902_400_000_000, // 2025-03-02T08:00:00Z
            span_secs: 6 * 3_600,
            prediction_partitions: 4,
            label_partitions: 3,
            producers: Producers::Mixed,
            models: vec![
                ModelOptions::new("card-fraud", Task::Binary(["fraud", "ok"])),
                ModelOptions { window_secs: 86_400, ..ModelOptions::new("churn/é 1", Task::Binary(["1", "0"])) },
                ModelOptions::new("clicked", Task::Binary(["true", "false"])),
                ModelOptions::new("species", Task::Multiclass(vec!["cat", "dog", "owl", "01"])),
                ModelOptions { window_secs: 1_800, ..ModelOptions::new("air-time", Task::Regression) },
            ],
            ids: Ids::Mixed,
            shares: Shares::default(),
            disorder_max_secs: 900,
            malformed_of_each: 2,
        }
    }
}

impl Options {
    /// The model of that name.
    pub fn model(&self, name: &str) -> Option<&ModelOptions> {
        self.models.iter().find(|model| model.name == name)
    }

    /// The `[[models]]` sections of all models.
    pub fn models_toml(&self) -> String {
        self.models.iter().map(ModelOptions::to_toml).collect::<Vec<_>>().join("\n")
    }
}
