//! The ledger's records (`ctl/<seq>.json`): what was decided, once, by whoever won the slot.
//!
//! A record is a list of entries that take effect together. Wall-clock decisions live here and are replayed, never
//! recomputed; the state they add up to is `aggregator::state`.
use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::clock::Micros;
use crate::config::JudgeConfig;
use crate::event::Reason;
use crate::raw::{Facts, RawKind, RetiredTotals};
use crate::tables::Task;
use crate::window::Window;

/// The newest format of ledger records: a reader refuses what is newer.
pub const LEDGER_FORMAT: u32 = 2;
/// The format of records that say nothing of retention and forgetting: builds that do not know of these read them.
pub const LEDGER_FORMAT_FIRST: u32 = 1;

/// One object of the ledger.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// [`LEDGER_FORMAT_FIRST`], or [`LEDGER_FORMAT`] if an entry needs it.
    pub format: u32,
    /// Its slot.
    pub seq: u64,
    /// Wall clock of the writer when it decided.
    pub decided_at: Micros,
    /// Who wrote it, for people.
    pub writer: String,
    /// Where the labels that this record routed lie, if it routed any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub routed: Option<String>,
    /// What happened, in order.
    pub entries: Vec<Entry>,
}

/// One fact or decision.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Entry {
    /// Judging follows this configuration from here on.
    Config(Box<ConfigEpoch>),
    /// The partitions that exist, so that one which has sent nothing still holds a watermark back.
    Chains {
        /// Chain name → what it carries.
        chains: BTreeMap<String, ChainInfo>,
    },
    /// A raw object is applied: its rows belong to the windows listed.
    Applied(Applied),
    /// A partition was seen at its end.
    Observed {
        /// Chain name.
        chain: String,
        /// What the collector stated.
        facts: Facts,
    },
    /// Labels in this record's `routed` object touch a window.
    Routed {
        /// Model.
        model: String,
        /// The window touched.
        window: Window,
        /// Label rows routed to it.
        labels: u64,
    },
    /// What kind of model this is, inferred because nobody said.
    Task {
        /// Model.
        model: String,
        /// Inferred task.
        task: Task,
        /// Inferred positive class, for a binary task.
        positive_class: Option<String>,
    },
    /// A window is to be judged.
    Decided(Job),
    /// One part of a window stands in `history/` at this revision.
    Judged {
        /// Model.
        model: String,
        /// Window.
        window: Window,
        /// Revision that was judged.
        revision: u64,
        /// Which part.
        part: u32,
        /// What the part holds.
        counts: PartCounts,
    },
    /// A window's figures are published at this revision.
    Completed {
        /// Model.
        model: String,
        /// Window.
        window: Window,
        /// Revision that was published.
        revision: u64,
    },
    /// A window's state moved on.
    State {
        /// Model.
        model: String,
        /// Window.
        window: Window,
        /// The new state.
        state: WindowState,
    },
    /// Every window of the model in the range is to be judged again under the present configuration.
    Reevaluate {
        /// Model.
        model: String,
        /// First event time concerned.
        from: Option<Micros>,
        /// First event time no longer concerned.
        to: Option<Micros>,
    },
    /// The oldest raw objects of a chain lie behind its boundary from here on: nobody needs them, and they are deleted.
    Retired(RetiredObjects),
    /// The objects that were retired are gone from the store.
    Deleted {
        /// Chain name.
        chain: String,
        /// The boundary that they lay behind.
        to: i64,
    },
    /// All windows of a model that start before a time are final, and their history is deleted: what is left of them is
    /// one account.
    Folded {
        /// Model.
        model: String,
        /// First event time that is kept.
        before: Micros,
    },
    /// Ids of a model are to be forgotten: jobs decided after this record, and objects applied after it, drop them.
    Forget {
        /// Model.
        model: String,
        /// Keyed hashes of the ids.
        ids: Vec<String>,
    },
    /// How many accepted rows of a chain's objects before `to` have been taken out, by model.
    Scrubbed {
        /// Chain name.
        chain: String,
        /// What the ledger had applied of the chain.
        to: i64,
        /// Model → rows, of all objects before `to` together.
        forgotten: BTreeMap<String, u64>,
    },
    /// A part of a window was rewritten at a revision that stands, without the rows that were to be forgotten.
    ScrubbedPart {
        /// Model.
        model: String,
        /// Window.
        window: Window,
        /// Revision that stands.
        revision: u64,
        /// Which part.
        part: u32,
        /// What the part holds now.
        counts: PartCounts,
    },
    /// Every object of the store has been rewritten: nothing is left of what was to be forgotten of a model up to a record.
    Forgotten {
        /// Model.
        model: String,
        /// The record that asked for it; earlier ones are done too.
        upto: u64,
    },
}

impl Entry {
    /// The format that a record needs on account of this entry.
    pub fn format(&self) -> u32 {
        let is_new = match self {
            Self::Retired(_)
            | Self::Deleted { .. }
            | Self::Folded { .. }
            | Self::Forget { .. }
            | Self::Scrubbed { .. }
            | Self::ScrubbedPart { .. }
            | Self::Forgotten { .. } => true,
            Self::Applied(applied) => !applied.forgotten.is_empty(),
            Self::Decided(job) => job.forgets > 0,
            Self::Judged { counts, .. } => counts.forgotten > 0,
            _ => false,
        };
        if is_new { LEDGER_FORMAT } else { LEDGER_FORMAT_FIRST }
    }

    /// Whether it reports work that was done: it changes nothing of what another writer has found or decided.
    pub fn is_report(&self) -> bool {
        matches!(self, Self::Judged { .. } | Self::Completed { .. })
    }
}

/// Raw objects of one chain that lie behind its boundary.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RetiredObjects {
    /// Chain name.
    pub chain: String,
    /// The boundary: the first offset that is kept.
    pub to: i64,
    /// First offsets of the objects: their names.
    pub objects: Vec<i64>,
    /// What they held.
    pub totals: RetiredTotals,
}

/// A configuration and its number.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ConfigEpoch {
    /// Counts from 1.
    pub epoch: u64,
    /// What judging depends on.
    pub config: JudgeConfig,
    /// The event time at which it begins, for each model that was known and that it changes: windows that start before it
    /// keep what they had.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub from: BTreeMap<String, Micros>,
}

/// What a chain carries.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChainInfo {
    /// Topic name.
    pub topic: String,
    /// Partition number.
    pub partition: u32,
    /// Predictions or labels.
    pub kind: RawKind,
    /// Whether its topic still stands, or has been deleted and created again since.
    pub current: bool,
    /// Where the chain begins, once its genesis is known.
    pub genesis: Option<i64>,
}

/// A raw object and what it brings.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Applied {
    /// Chain name.
    pub chain: String,
    /// First offset.
    pub from: i64,
    /// First offset after.
    pub to: i64,
    /// When the object was written.
    pub written_at: Micros,
    /// Kafka records in `[from, to)`.
    pub records: u64,
    /// Offsets in `[from, to)` that carried no record.
    pub skipped: u64,
    /// Events accepted.
    pub accepted: u64,
    /// Events rejected, by reason.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub rejected: BTreeMap<Reason, u64>,
    /// Whether this is a gap record.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub gap: bool,
    /// Of the events accepted, those that were to be forgotten and have been taken out, by model.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub forgotten: BTreeMap<String, u64>,
    /// Of the events accepted, those of models that are not tracked, because there are too many: they are in no window.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub untracked: u64,
    /// Per model.
    pub models: Vec<AppliedModel>,
}

/// One model's share of a raw object.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AppliedModel {
    /// Model.
    pub model: String,
    /// Rows accepted.
    pub rows: u64,
    /// Smallest event time.
    pub min_event_time: Micros,
    /// Largest event time.
    pub max_event_time: Micros,
    /// Predictions only: the windows its rows belong to, and how many rows each.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub windows: Vec<(Window, u64)>,
    /// What its predictions look like, while the model's task is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shape: Option<Shape>,
}

/// What predictions look like; adds up over objects, so that a task can be inferred.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Shape {
    /// Rows with a `score`.
    pub scored: u64,
    /// Rows with `probabilities` of more than two classes.
    pub many_probabilities: u64,
    /// Rows whose prediction is no number.
    pub textual: u64,
    /// Rows whose prediction is a number with a fraction.
    pub fractional: u64,
    /// Distinct predictions, at most [`Shape::CLASSES_MAX`]: rows and the sum of their scores.
    pub classes: BTreeMap<String, (u64, f64)>,
}

impl Shape {
    /// More distinct numeric predictions than this, and the model is a regression.
    pub const CLASSES_MAX: usize = 32;

    /// Adds another object's rows.
    pub fn merge(&mut self, other: &Shape) {
        self.scored += other.scored;
        self.many_probabilities += other.many_probabilities;
        self.textual += other.textual;
        self.fractional += other.fractional;
        for (class, (rows, score_sum)) in &other.classes {
            self.push_class(class, *rows, *score_sum);
        }
    }

    /// Counts rows of one predicted class; beyond the cap new classes are left out.
    pub fn push_class(&mut self, class: &str, rows: u64, score_sum: f64) {
        if let Some(seen) = self.classes.get_mut(class) {
            seen.0 += rows;
            seen.1 += score_sum;
        } else if self.classes.len() < Self::CLASSES_MAX {
            self.classes.insert(class.to_owned(), (rows, score_sum));
        }
    }
}

/// A window's place in its life. It only moves forward.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WindowState {
    /// Event time has not passed its end.
    Open,
    /// Event time has passed its end; late rows and labels still count.
    Sealed,
    /// Nothing that comes now counts any more.
    Final,
}

impl WindowState {
    /// As in the tables.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Sealed => "sealed",
            Self::Final => "final",
        }
    }
}

/// An object that a job reads.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Input {
    /// Prediction rows of a raw object.
    Raw {
        /// Path in the store.
        path: String,
        /// Whether it was applied after the window had become final: its rows stay outside the metrics.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        after_final: bool,
    },
    /// Label rows of a routed object.
    Routed {
        /// Path in the store.
        path: String,
    },
}

/// A window to be judged: its result is a function of the previous revision, the inputs and the configuration epoch.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Job {
    /// Model.
    pub model: String,
    /// Window.
    pub window: Window,
    /// Counts from 1; only forward (**H2**).
    pub revision: u64,
    /// The last revision that wrote `history/`; 0 if none.
    pub previous: u64,
    /// Number of parts, fixed by the window's first job.
    pub parts: u32,
    /// The window's state at this revision.
    pub state: WindowState,
    /// The objects that are new since the previous revision.
    pub inputs: Vec<Input>,
    /// Rows are judged anew even without inputs: the configuration has changed.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub rejudge: bool,
    /// Configuration that it follows.
    pub epoch: u64,
    /// The model's task, as set or as inferred so far.
    pub task: Task,
    /// The positive class of a binary task, if it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub positive_class: Option<String>,
    /// Why the model's predictions are left out of all metrics: `unknown_model`, `too_many_models`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refusal: Option<String>,
    /// Ids of the model that were to be forgotten by this record of the ledger, or an earlier one, are left out; 0: none.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub forgets: u64,
    /// When it was decided.
    pub decided_at: Micros,
}

#[allow(clippy::trivially_copy_pass_by_ref)] // serde asks so
fn is_zero(number: &u64) -> bool {
    *number == 0
}

impl Job {
    /// Whether `history/` has to be written: a mere change of state leaves it as it is.
    pub fn writes_history(&self) -> bool {
        !self.inputs.is_empty() || self.rejudge || self.previous == 0
    }
}

/// The account of one part of a window: each prediction in the first term that applies.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartCounts {
    /// Rows in `history/`, one a prediction.
    pub rows: u64,
    /// Copies of predictions, left out.
    pub duplicates: u64,
    /// Came after the window was final.
    pub after_final: u64,
    /// The request failed.
    pub failed: u64,
    /// Refused by the model's settings.
    pub invalid: u64,
    /// Has a current label.
    pub labelled: u64,
    /// Has none (yet).
    pub unlabelled: u64,
    /// Taken out by `forget`.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub forgotten: u64,
    /// Size of the object.
    pub bytes: u64,
}

impl PartCounts {
    /// Adds another part.
    pub fn add(&mut self, other: &PartCounts) {
        self.rows += other.rows;
        self.duplicates += other.duplicates;
        self.after_final += other.after_final;
        self.failed += other.failed;
        self.invalid += other.invalid;
        self.labelled += other.labelled;
        self.unlabelled += other.unlabelled;
        self.forgotten += other.forgotten;
        self.bytes += other.bytes;
    }

    /// Predictions accepted into this part, copies included.
    pub fn accepted(&self) -> u64 {
        self.duplicates
            + self.after_final
            + self.failed
            + self.invalid
            + self.labelled
            + self.unlabelled
            + self.forgotten
    }
}
