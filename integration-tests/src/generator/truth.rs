//! What must come out of a run, found by brute force from the accepted events and their positions.
//!
//! The rules are written down here a second time, from the design and not from the code under test: a prediction is
//! (model, version, id, window), and the first by (event time, position) stands; a label reaches the predictions of its id, or only
//! those in the window that its hint names; among the labels that reach a prediction and are eligible the last by
//! (label time, position) is current, a null included.

use std::collections::{BTreeMap, HashMap};

use super::Position;
use super::events::{LabelEvent, PredictionEvent, Value};
use super::figures::{Figures, Pair, figures};
use super::options::{MAX_SKEW_US, ModelOptions, Options, Task};

/// Everything that is known beforehand about a run.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Truth {
    /// What each source partition holds, by (topic, partition).
    pub partitions: BTreeMap<(super::Topic, i32), PartitionTruth>,
    /// The labels' terms, by model.
    pub labels: BTreeMap<String, LabelTerms>,
    /// The windows, by (model, window start in microseconds).
    pub windows: BTreeMap<(String, i64), WindowTruth>,
    /// One row per standing prediction, in the order of (model, window, event time, position).
    pub rows: Vec<Row>,
}

/// The account of one source partition.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PartitionTruth {
    /// Kafka records; equals the end offset of a fresh partition.
    pub records: u64,
    /// Events in them that are accepted.
    pub accepted: u64,
    /// Events in them that are rejected, by reason.
    pub rejected: BTreeMap<&'static str, u64>,
}

/// The account of a model's labels; every accepted label is in one term.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LabelTerms {
    /// A second copy of a label: same id, time and value.
    pub duplicate: u64,
    /// A null that is current for a prediction.
    pub withdrawn: u64,
    /// A value that is current for at least one prediction.
    pub joined: u64,
    /// Eligible for a prediction, and current for none.
    pub superseded: u64,
    /// Reaches predictions, and lies after the horizon of each.
    pub too_late: u64,
    /// Reaches predictions, lies too far before one of them, and is eligible for none.
    pub too_early: u64,
    /// Reaches no prediction: `pending` until its windows are final, `unmatched` afterwards.
    pub orphaned: u64,
}

/// The account and the figures of a window. Nothing is final in a run, so `after_final` and `expired` are 0.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct WindowTruth {
    /// Window end, microseconds UTC.
    pub end_us: i64,
    /// Accepted prediction events.
    pub accepted: u64,
    /// Copies.
    pub duplicate: u64,
    /// Failed requests.
    pub failed: u64,
    /// Refused by the model's settings.
    pub invalid: u64,
    /// With a current label that is not null.
    pub labelled: u64,
    /// The rest.
    pub waiting: u64,
    /// The figures by slice.
    pub figures: BTreeMap<Slice, Figures>,
}

/// A part of a window for which metrics are computed.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Slice {
    /// One version, or all.
    pub version: Option<String>,
    /// One tag's one value, or all.
    pub segment: Option<(String, String)>,
}

/// How a standing prediction counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RowState {
    /// A failed request.
    Failed,
    /// Refused, with its `invalid_reason`.
    Invalid(&'static str),
    /// Has a current label.
    Labelled,
    /// Has none yet, or it was withdrawn.
    Waiting,
}

/// A row of `history`.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// The prediction that stands.
    pub event: PredictionEvent,
    /// Where it lies.
    pub position: Position,
    /// The start of its window.
    pub window_start_us: i64,
    /// The label that is current, a null included, and where it lies.
    pub current: Option<(LabelEvent, Position)>,
    /// How it counts.
    pub state: RowState,
}

impl LabelTerms {
    /// All accepted labels.
    pub fn total(&self) -> u64 {
        self.duplicate + self.withdrawn + self.joined + self.superseded + self.too_late + self.too_early + self.orphaned
    }
}

/// Judges all accepted events. `partitions` is left to the caller, who knows the records.
pub(super) fn judge(
    options: &Options,
    predictions: &[(Position, PredictionEvent)],
    labels: &[(Position, LabelEvent)],
) -> Truth {
    let mut truth = Truth::default();
    for model in &options.models {
        let predictions: Vec<_> = predictions.iter().filter(|(_, event)| event.model == model.name).collect();
        let labels: Vec<_> = labels.iter().filter(|(_, event)| event.model == model.name).collect();
        let rows = standing(model, &predictions, &mut truth.windows);
        let (rows, terms) = join(model, rows, &labels);
        truth.labels.insert(model.name.clone(), terms);
        account(model, &rows, &mut truth.windows);
        truth.rows.extend(rows);
    }
    truth
}

/// Finds the predictions that stand, and counts the others as duplicates.
fn standing(
    model: &ModelOptions,
    predictions: &[&(Position, PredictionEvent)],
    windows: &mut BTreeMap<(String, i64), WindowTruth>,
) -> Vec<Row> {
    let mut first: BTreeMap<(i64, &str, &str), &(Position, PredictionEvent)> = BTreeMap::new();
    for candidate in predictions {
        let (position, event) = candidate;
        let (start_us, end_us) = model.window_us(event.time_us);
        let window = windows.entry((model.name.clone(), start_us)).or_default();
        window.end_us = end_us;
        window.accepted += 1;
        let stands = first.entry((start_us, &event.version, &event.id)).or_insert(candidate);
        if !std::ptr::eq(*stands, *candidate) {
            window.duplicate += 1;
            if (event.time_us, *position) < (stands.1.time_us, stands.0) {
                *stands = candidate;
            }
        }
    }
    let mut rows: Vec<Row> = first
        .into_iter()
        .map(|((window_start_us, _, _), (position, event))| Row {
            event: event.clone(),
            position: *position,
            window_start_us,
            current: None,
            state: RowState::Waiting,
        })
        .collect();
    rows.sort_by_key(|row| (row.window_start_us, row.event.time_us, row.position));
    rows
}

/// What a label has come to, over all predictions that it reaches. The order is the order of precedence.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Fate {
    Orphaned,
    TooLate,
    TooEarly,
    Superseded,
    Current,
}

/// Gives each row its current label, and each label its term.
fn join(model: &ModelOptions, mut rows: Vec<Row>, labels: &[&(Position, LabelEvent)]) -> (Vec<Row>, LabelTerms) {
    let mut by_id: HashMap<&str, Vec<usize>> = HashMap::new();
    for (at, (_, label)) in labels.iter().enumerate() {
        by_id.entry(&label.id).or_default().push(at);
    }
    let mut fates = vec![Fate::Orphaned; labels.len()];
    for row in &mut rows {
        let mut winner: Option<usize> = None;
        for &at in by_id.get(row.event.id.as_str()).into_iter().flatten() {
            let (position, label) = labels[at];
            if label.hint_us.is_some_and(|hint| model.window_start_us(hint) != row.window_start_us) {
                continue;
            }
            let delay_us = label.time_us - row.event.time_us;
            let fate = if delay_us < -MAX_SKEW_US {
                Fate::TooEarly
            } else if delay_us > model.horizon_us(row.window_start_us) {
                Fate::TooLate
            } else {
                Fate::Superseded
            };
            fates[at] = fates[at].max(fate);
            if fate == Fate::Superseded
                && winner.is_none_or(|best| (label.time_us, *position) > (labels[best].1.time_us, labels[best].0))
            {
                winner = Some(at);
            }
        }
        if let Some(at) = winner {
            fates[at] = Fate::Current;
            row.current = Some((labels[at].1.clone(), labels[at].0));
        }
        row.state = state(model, row);
    }
    let terms = terms(labels, &fates);
    (rows, terms)
}

fn state(model: &ModelOptions, row: &Row) -> RowState {
    if row.event.error.is_some() {
        return RowState::Failed;
    }
    if let Some(reason) = refusal(model, &row.event) {
        return RowState::Invalid(reason);
    }
    match &row.current {
        Some((label, _)) if label.label != Value::Null => RowState::Labelled,
        _ => RowState::Waiting,
    }
}

fn refusal(model: &ModelOptions, event: &PredictionEvent) -> Option<&'static str> {
    match model.task {
        Task::Regression => event.prediction.as_ref().is_some_and(|p| p.number().is_none()).then_some("task_mismatch"),
        Task::Binary(_) | Task::Multiclass(_) => {
            let mut probabilities = event.probabilities.iter().map(|(_, p)| *p).chain(event.score);
            probabilities.any(|p| !(0.0..=1.0).contains(&p)).then_some("score_out_of_range")
        }
    }
}

/// Copies of a label are one label: one of them has the best fate among them, the others are duplicates.
fn terms(labels: &[&(Position, LabelEvent)], fates: &[Fate]) -> LabelTerms {
    // (id, label time, hint, value) → the best fate among the copies, and their number.
    let mut distinct = BTreeMap::new();
    for ((_, label), &fate) in labels.iter().zip(fates) {
        let value = match &label.label {
            Value::Class(class) => format!("class {class}"),
            Value::Number(number) => format!("number {number}"),
            Value::Null => "null".to_owned(),
        };
        let entry = distinct.entry((&label.id, label.time_us, label.hint_us, value)).or_insert((fate, 0));
        *entry = (entry.0.max(fate), entry.1 + 1);
    }
    let mut terms = LabelTerms::default();
    for ((_, _, _, value), (fate, copies)) in distinct {
        terms.duplicate += copies - 1;
        *match fate {
            Fate::Orphaned => &mut terms.orphaned,
            Fate::TooLate => &mut terms.too_late,
            Fate::TooEarly => &mut terms.too_early,
            Fate::Superseded => &mut terms.superseded,
            Fate::Current if value == "null" => &mut terms.withdrawn,
            Fate::Current => &mut terms.joined,
        } += 1;
    }
    terms
}

/// Counts the rows of each window and computes the figures of each of its slices.
fn account(model: &ModelOptions, rows: &[Row], windows: &mut BTreeMap<(String, i64), WindowTruth>) {
    let mut slices: BTreeMap<(i64, Slice), (u64, Vec<Pair>)> = BTreeMap::new();
    for row in rows {
        let window = windows.entry((model.name.clone(), row.window_start_us)).or_default();
        match row.state {
            RowState::Failed => window.failed += 1,
            RowState::Invalid(_) => window.invalid += 1,
            RowState::Labelled => window.labelled += 1,
            RowState::Waiting => window.waiting += 1,
        }
        // A window whose rows are all refused still has the slice of the whole, with nothing in it.
        slices.entry((row.window_start_us, Slice::default())).or_default();
        if matches!(row.state, RowState::Failed | RowState::Invalid(_)) {
            continue;
        }
        let segments = row.event.tags.iter().cloned().map(Some).chain([None]);
        for segment in segments {
            for version in [None, Some(row.event.version.clone())] {
                let slice = Slice { version, segment: segment.clone() };
                let (n, pairs) = slices.entry((row.window_start_us, slice)).or_default();
                *n += 1;
                pairs.extend(pair(model, row));
            }
        }
    }
    for ((start_us, slice), (n, pairs)) in slices {
        let window = windows.entry((model.name.clone(), start_us)).or_default();
        window.figures.insert(slice, figures(&model.task, n, &pairs));
    }
}

/// The row as the metrics see it; `None` while it waits.
fn pair(model: &ModelOptions, row: &Row) -> Option<Pair> {
    let (label, _) = row.current.as_ref()?;
    if let Task::Regression = model.task {
        let predicted = row.event.prediction.as_ref().and_then(Value::number)?;
        return Some(Pair::Numbers { actual: label.label.number()?, predicted });
    }
    let given = row.event.prediction.as_ref().and_then(Value::class).map(str::to_owned);
    let predicted = given.or_else(|| derived(model, &row.event))?;
    Some(Pair::Classes { actual: label.label.class()?.to_owned(), predicted, score: row.event.score })
}

/// The prediction of an event that has none: by the threshold, or the most probable class.
fn derived(model: &ModelOptions, event: &PredictionEvent) -> Option<String> {
    match &model.task {
        Task::Binary([positive, negative]) => {
            event.score.map(|score| if score >= model.threshold { *positive } else { *negative }.to_owned())
        }
        _ => event.probabilities.iter().max_by(|a, b| a.1.total_cmp(&b.1)).map(|(class, _)| class.clone()),
    }
}
