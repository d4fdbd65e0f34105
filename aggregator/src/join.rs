//! The exact join: what a part of a window holds after more predictions and labels have come. Pure.
//!
//! ```text
//! previous revision ┐
//! new predictions   ┼─► one row per prediction, first copy stands ─► the last eligible label wins ─► history rows
//! new labels        ┘
//! ```
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, Float64Array, Float64Builder, Int64Array, Int64Builder, ListBuilder,
    MapArray, RecordBatch, StringArray, StringBuilder, StructBuilder, TimestampMicrosecondArray,
    TimestampMicrosecondBuilder, UInt32Array, new_null_array,
};
use arrow::datatypes::{DataType, Field, Fields, Float64Type, Int64Type, TimestampMicrosecondType};
use driftline_schemas::clock::Micros;
use driftline_schemas::event::MAX_SKEW;
use driftline_schemas::history::{FEATURE_PREFIX, FEATURES_JSON, FIXED_COLUMNS, TAG_PREFIX};
use driftline_schemas::ledger::PartCounts;
use driftline_schemas::raw::timestamp_type;
use driftline_schemas::tables::{ScoreKind, Task};
use driftline_schemas::window::Window;

use crate::error::Error;
use crate::objects::{LabelPosition, LabelRow, time_array};
use crate::wide::{Kept, TAGS_JSON, Wide, spread};

/// What a join follows.
#[derive(Debug, Clone)]
pub struct JoinRules {
    /// The window.
    pub window: Window,
    /// The revision that is being made.
    pub revision: u64,
    /// The model's task.
    pub task: Task,
    /// Whether scores must lie in `[0, 1]`.
    pub score_kind: ScoreKind,
    /// How long after its prediction a label counts.
    pub label_horizon: Micros,
    /// Why the model is refused, if it is.
    pub refusal: Option<String>,
    /// Feature columns, and tag columns, at most.
    pub columns_max: usize,
    /// Columns that segments are made of: they are columns before all others.
    pub segment_columns: BTreeSet<String>,
}

impl JoinRules {
    fn kept(&self) -> Kept<'_> {
        Kept { max: self.columns_max, segments: &self.segment_columns }
    }
}

/// What a join gives.
#[derive(Debug)]
pub struct Joined {
    /// History rows, sorted by event time, id and version.
    pub rows: RecordBatch,
    /// Their account; `bytes` is not known yet.
    pub counts: PartCounts,
}

impl Joined {
    /// Whether there were more features or tags than columns.
    pub(crate) fn went_into_json(&self) -> bool {
        let schema = self.rows.schema_ref();
        [FEATURES_JSON, TAGS_JSON].iter().any(|json| schema.column_with_name(json).is_some())
    }
}

/// Joins.
///
/// # Inputs
/// * `previous`: the part's history rows so far, and its count of duplicates.
/// * `predictions`: rows of raw objects that belong to this part, each with whether they came after the window was final.
/// * `labels`: labels routed to this window, for ids of this part or not.
pub fn join(
    previous: Option<(&RecordBatch, u64)>,
    predictions: &[(RecordBatch, bool)],
    labels: Vec<LabelRow>,
    rules: &JoinRules,
) -> Result<Joined, Error> {
    let mut all = Vec::new();
    let mut duplicates = 0;
    if let Some((rows, before)) = previous {
        all.push(Wide::from_batch(rows));
        duplicates = before;
    }
    for (rows, after_final) in predictions {
        all.push(history_shape(rows, *after_final, rules)?);
    }
    if all.is_empty() {
        all.push(empty(rules));
    }
    Wide::narrow(&mut all, FEATURE_PREFIX, FEATURES_JSON, rules.kept());
    Wide::narrow(&mut all, TAG_PREFIX, TAGS_JSON, rules.kept());
    let all = Wide::concat(all)?;
    let groups = standing(&all)?;
    duplicates += (all.rows - groups.len()) as u64;
    let mut new_labels: HashMap<String, Vec<LabelRow>> = HashMap::new();
    for label in labels {
        new_labels.entry(label.id.clone()).or_default().push(label);
    }
    let decided = decide_labels(&all, &groups, &new_labels, rules)?;
    let stands: UInt32Array = groups.iter().map(|group| group[0]).collect();
    let mut rows = all.take(&stands)?;
    decided.write_into(&mut rows);
    refuse(&mut rows, rules)?;
    rows.columns.insert("revision".into(), Arc::new(Int64Array::from(vec![rules.revision as i64; rows.rows])));
    rows.cap(FEATURE_PREFIX, FEATURES_JSON, rules.columns_max, &rules.segment_columns);
    rows.cap(TAG_PREFIX, TAGS_JSON, rules.columns_max, &rules.segment_columns);
    let rows = rows.into_batch(FIXED_COLUMNS)?;
    let mut counts = count(&rows)?;
    counts.duplicates = duplicates;
    Ok(Joined { rows, counts })
}

/// Raw prediction rows with the columns of history.
fn history_shape(raw: &RecordBatch, after_final: bool, rules: &JoinRules) -> Result<Wide, Error> {
    let rows = raw.num_rows();
    let mut wide = spread(raw.column_by_name("features"), raw.column_by_name("tags"), rows, rules.kept());
    for name in [
        "model_version",
        "prediction_id",
        "event_time",
        "prediction",
        "prediction_value",
        "score",
        "probabilities",
        "latency_ms",
        "error",
        "sampling_rate",
        "environment",
        "topic",
        "partition",
        "offset",
        "index",
        "attributions",
    ] {
        let column = raw.column_by_name(name).ok_or_else(|| Error::Corrupt(format!("raw rows without `{name}`")))?;
        wide.columns.insert(name.into(), column.clone());
    }
    wide.columns.insert("after_final".into(), Arc::new(BooleanArray::from(vec![after_final; rows])));
    add_derived(&mut wide, rules.window);
    Ok(wide)
}

fn add_derived(wide: &mut Wide, window: Window) {
    let rows = wide.rows;
    let constant = |time: Micros| time_array(std::iter::repeat_n(Some(time), rows));
    wide.columns.insert("window_start".into(), constant(window.start));
    wide.columns.insert("window_end".into(), constant(window.end));
    for (name, kind) in [
        ("label", DataType::Utf8),
        ("label_value", DataType::Float64),
        ("label_time", timestamp_type()),
        ("invalid_reason", DataType::Utf8),
        ("label_topic", DataType::Utf8),
        ("label_partition", DataType::Int64),
        ("label_offset", DataType::Int64),
        ("label_index", DataType::Int64),
        ("other_labels", other_labels_type()),
        ("revision", DataType::Int64),
    ] {
        wide.columns.insert(name.into(), new_null_array(&kind, rows));
    }
}

/// No rows, with all columns.
fn empty(rules: &JoinRules) -> Wide {
    let schema = driftline_schemas::raw::schema(driftline_schemas::event::EventKind::Predictions);
    let raw = RecordBatch::new_empty(schema);
    history_shape(&raw, false, rules).unwrap_or_default()
}

/// The rows of each prediction, the one that stands first; predictions in the order of history.
///
/// Identity is (version, id); the first by (event time, position) stands, and what came after the window was final never
/// takes the place of what came before.
fn standing(all: &Wide) -> Result<Vec<Vec<u32>>, Error> {
    let rows = Rows::of(all)?;
    let mut order: Vec<u32> = (0..all.rows as u32).collect();
    order.sort_unstable_by(|a, b| {
        rows.identity(*a).cmp(&rows.identity(*b)).then_with(|| rows.rank(*a).cmp(&rows.rank(*b)))
    });
    let mut groups: Vec<Vec<u32>> = Vec::new();
    for row in order {
        match groups.last_mut() {
            Some(group) if rows.identity(group[0]) == rows.identity(row) => group.push(row),
            _ => groups.push(vec![row]),
        }
    }
    let key = |group: &Vec<u32>| (rows.time.value(group[0] as usize), rows.identity(group[0]));
    groups.sort_unstable_by(|a, b| key(a).cmp(&key(b)));
    Ok(groups)
}

/// The columns that identify and order predictions.
struct Rows<'a> {
    version: &'a StringArray,
    id: &'a StringArray,
    time: &'a TimestampMicrosecondArray,
    topic: &'a StringArray,
    partition: &'a Int64Array,
    offset: &'a Int64Array,
    index: &'a Int64Array,
    after_final: &'a BooleanArray,
}

impl<'a> Rows<'a> {
    fn of(all: &'a Wide) -> Result<Self, Error> {
        Ok(Self {
            version: text(all, "model_version")?,
            id: text(all, "prediction_id")?,
            time: column(all, "event_time")?.as_primitive::<TimestampMicrosecondType>(),
            topic: text(all, "topic")?,
            partition: ints(all, "partition")?,
            offset: ints(all, "offset")?,
            index: ints(all, "index")?,
            after_final: column(all, "after_final")?.as_boolean(),
        })
    }

    fn identity(&self, row: u32) -> (&'a str, &'a str) {
        (self.id.value(row as usize), self.version.value(row as usize))
    }

    fn rank(&self, row: u32) -> (bool, Micros, &'a str, i64, i64, i64) {
        let row = row as usize;
        let position = (self.partition.value(row), self.offset.value(row), self.index.value(row));
        let topic = self.topic.value(row);
        (self.after_final.value(row), self.time.value(row), topic, position.0, position.1, position.2)
    }
}

fn column<'a>(all: &'a Wide, name: &str) -> Result<&'a ArrayRef, Error> {
    all.columns.get(name).ok_or_else(|| Error::Corrupt(format!("history rows without `{name}`")))
}

fn text<'a>(all: &'a Wide, name: &str) -> Result<&'a StringArray, Error> {
    Ok(column(all, name)?.as_string::<i32>())
}

fn ints<'a>(all: &'a Wide, name: &str) -> Result<&'a Int64Array, Error> {
    Ok(column(all, name)?.as_primitive::<Int64Type>())
}

/// The label columns of all standing rows.
struct DecidedLabels {
    label: StringBuilder,
    value: Float64Builder,
    time: TimestampMicrosecondBuilder,
    topic: StringBuilder,
    partition: Int64Builder,
    offset: Int64Builder,
    index: Int64Builder,
    others: ListBuilder<StructBuilder>,
}

fn decide_labels(
    all: &Wide,
    groups: &[Vec<u32>],
    new_labels: &HashMap<String, Vec<LabelRow>>,
    rules: &JoinRules,
) -> Result<DecidedLabels, Error> {
    let rows = Rows::of(all)?;
    let trails = Trails::of(all)?;
    let mut decided = DecidedLabels::new();
    for group in groups {
        let stands = group[0] as usize;
        let id = rows.id.value(stands);
        // By position: the same label may have come here more than once.
        let mut known: BTreeMap<LabelPosition, LabelRow> = BTreeMap::new();
        for row in group {
            trails.collect(*row as usize, id, &mut known);
        }
        for label in new_labels.get(id).into_iter().flatten() {
            known.insert(label.position.clone(), label.clone());
        }
        let prediction_time = rows.time.value(stands);
        let is_eligible = |label: &LabelRow| {
            let delay = label.time - prediction_time;
            !rows.after_final.value(stands) && (-MAX_SKEW..=rules.label_horizon).contains(&delay)
        };
        let mut labels: Vec<LabelRow> = known.into_values().collect();
        labels.sort_by(|a, b| (a.time, &a.position).cmp(&(b.time, &b.position)));
        let winner = labels.iter().rposition(is_eligible).map(|at| labels.remove(at));
        decided.push(winner.as_ref(), &labels);
    }
    Ok(decided)
}

/// The labels that rows carry already.
struct Trails<'a> {
    label: &'a StringArray,
    value: &'a Float64Array,
    time: &'a TimestampMicrosecondArray,
    topic: &'a StringArray,
    partition: &'a Int64Array,
    offset: &'a Int64Array,
    index: &'a Int64Array,
    others: &'a arrow::array::ListArray,
}

impl<'a> Trails<'a> {
    fn of(all: &'a Wide) -> Result<Self, Error> {
        Ok(Self {
            label: text(all, "label")?,
            value: column(all, "label_value")?.as_primitive::<Float64Type>(),
            time: column(all, "label_time")?.as_primitive::<TimestampMicrosecondType>(),
            topic: text(all, "label_topic")?,
            partition: ints(all, "label_partition")?,
            offset: ints(all, "label_offset")?,
            index: ints(all, "label_index")?,
            others: column(all, "other_labels")?.as_list::<i32>(),
        })
    }

    fn collect(&self, row: usize, id: &str, known: &mut BTreeMap<LabelPosition, LabelRow>) {
        if self.time.is_valid(row) {
            let position = LabelPosition {
                topic: self.topic.value(row).into(),
                partition: self.partition.value(row),
                offset: self.offset.value(row),
                index: self.index.value(row),
            };
            let label = LabelRow {
                id: id.to_owned(),
                time: self.time.value(row),
                label: self.label.is_valid(row).then(|| self.label.value(row).to_owned()),
                value: self.value.is_valid(row).then(|| self.value.value(row)),
                hint: None,
                position: position.clone(),
            };
            known.insert(position, label);
        }
        if self.others.is_null(row) {
            return;
        }
        let others = self.others.value(row);
        let others = others.as_struct();
        let texts = |at: usize| others.column(at).as_string::<i32>();
        let numbers = |at: usize| others.column(at).as_primitive::<Int64Type>();
        for at in 0..others.len() {
            let position = LabelPosition {
                topic: texts(2).value(at).into(),
                partition: numbers(3).value(at),
                offset: numbers(4).value(at),
                index: numbers(5).value(at),
            };
            let label = texts(0).is_valid(at).then(|| texts(0).value(at).to_owned());
            let value = label.as_deref().and_then(driftline_schemas::canonical::canonical_value);
            let time = others.column(1).as_primitive::<TimestampMicrosecondType>().value(at);
            known.insert(position.clone(), LabelRow { id: id.to_owned(), time, label, value, hint: None, position });
        }
    }
}

fn other_label_fields() -> Fields {
    Fields::from(vec![
        Field::new("label", DataType::Utf8, true),
        Field::new("label_time", timestamp_type(), true),
        Field::new("topic", DataType::Utf8, true),
        Field::new("partition", DataType::Int64, true),
        Field::new("offset", DataType::Int64, true),
        Field::new("index", DataType::Int64, true),
    ])
}

fn other_labels_type() -> DataType {
    DataType::List(Arc::new(Field::new("item", DataType::Struct(other_label_fields()), true)))
}

impl DecidedLabels {
    fn new() -> Self {
        let times = || TimestampMicrosecondBuilder::new().with_timezone("UTC");
        let others = StructBuilder::new(
            other_label_fields(),
            vec![
                Box::new(StringBuilder::new()),
                Box::new(times()),
                Box::new(StringBuilder::new()),
                Box::new(Int64Builder::new()),
                Box::new(Int64Builder::new()),
                Box::new(Int64Builder::new()),
            ],
        );
        Self {
            label: StringBuilder::new(),
            value: Float64Builder::new(),
            time: times(),
            topic: StringBuilder::new(),
            partition: Int64Builder::new(),
            offset: Int64Builder::new(),
            index: Int64Builder::new(),
            others: ListBuilder::new(others),
        }
    }

    fn push(&mut self, winner: Option<&LabelRow>, others: &[LabelRow]) {
        self.label.append_option(winner.and_then(|label| label.label.as_deref()));
        self.value.append_option(winner.and_then(|label| label.value));
        self.time.append_option(winner.map(|label| label.time));
        self.topic.append_option(winner.map(|label| &*label.position.topic));
        self.partition.append_option(winner.map(|label| label.position.partition));
        self.offset.append_option(winner.map(|label| label.position.offset));
        self.index.append_option(winner.map(|label| label.position.index));
        if others.is_empty() {
            self.others.append_null();
            return;
        }
        for label in others {
            let fields = self.others.values();
            let text = |fields: &mut StructBuilder, at: usize, value: Option<&str>| {
                fields.field_builder::<StringBuilder>(at).expect("built so").append_option(value);
            };
            text(fields, 0, label.label.as_deref());
            fields.field_builder::<TimestampMicrosecondBuilder>(1).expect("built so").append_value(label.time);
            text(fields, 2, Some(&label.position.topic));
            let position = &label.position;
            for (at, value) in [(3, position.partition), (4, position.offset), (5, position.index)] {
                fields.field_builder::<Int64Builder>(at).expect("built so").append_value(value);
            }
            fields.append(true);
        }
        self.others.append(true);
    }

    fn write_into(mut self, rows: &mut Wide) {
        let columns: [(&str, ArrayRef); 8] = [
            ("label", Arc::new(self.label.finish())),
            ("label_value", Arc::new(self.value.finish())),
            ("label_time", Arc::new(self.time.finish())),
            ("label_topic", Arc::new(self.topic.finish())),
            ("label_partition", Arc::new(self.partition.finish())),
            ("label_offset", Arc::new(self.offset.finish())),
            ("label_index", Arc::new(self.index.finish())),
            ("other_labels", Arc::new(self.others.finish())),
        ];
        rows.columns.extend(columns.map(|(name, column)| (name.to_owned(), column)));
    }
}

/// What a model's settings refuse stays in history, marked.
fn refuse(rows: &mut Wide, rules: &JoinRules) -> Result<(), Error> {
    let number = |name: &str| Ok::<_, Error>(column(rows, name)?.as_primitive::<Float64Type>());
    let (prediction, value, score) = (text(rows, "prediction")?, number("prediction_value")?, number("score")?);
    let (label, label_value) = (text(rows, "label")?, number("label_value")?);
    let probabilities = column(rows, "probabilities")?.as_map();
    let error = text(rows, "error")?;
    let out_of_range = |p: f64| !(0.0..=1.0).contains(&p);
    let mut reasons = StringBuilder::new();
    for row in 0..rows.rows {
        let has_number = value.is_valid(row) && value.value(row).is_finite();
        let mismatch = match rules.task {
            _ if error.is_valid(row) => false,
            Task::Regression => !has_number || (label.is_valid(row) && label_value.is_null(row)),
            Task::Multiclass => prediction.is_null(row) && probabilities.is_null(row),
            Task::Binary => false,
        };
        let is_probability = rules.task != Task::Regression && rules.score_kind == ScoreKind::Probability;
        let outside = is_probability
            && ((score.is_valid(row) && out_of_range(score.value(row)))
                || map_values(probabilities, row).any(out_of_range));
        reasons.append_option(match &rules.refusal {
            Some(refusal) => Some(refusal.as_str()),
            None if mismatch => Some("task_mismatch"),
            None if outside => Some("score_out_of_range"),
            None => None,
        });
    }
    rows.columns.insert("invalid_reason".into(), Arc::new(reasons.finish()));
    Ok(())
}

fn map_values(map: &MapArray, row: usize) -> impl Iterator<Item = f64> + '_ {
    let range =
        if map.is_null(row) { 0..0 } else { map.value_offsets()[row] as usize..map.value_offsets()[row + 1] as usize };
    let values = map.values().as_primitive::<Float64Type>();
    range.filter(|at| values.is_valid(*at)).map(|at| values.value(at))
}

/// The account of these rows: each in the first term that applies.
pub(crate) fn count(rows: &RecordBatch) -> Result<PartCounts, Error> {
    let all = Wide::from_batch(rows);
    let (error, invalid, label) = (text(&all, "error")?, text(&all, "invalid_reason")?, text(&all, "label")?);
    let after_final = column(&all, "after_final")?.as_boolean();
    let mut counts = PartCounts { rows: rows.num_rows() as u64, ..PartCounts::default() };
    for row in 0..rows.num_rows() {
        let term = if after_final.value(row) {
            &mut counts.after_final
        } else if error.is_valid(row) {
            &mut counts.failed
        } else if invalid.is_valid(row) {
            &mut counts.invalid
        } else if label.is_valid(row) {
            &mut counts.labelled
        } else {
            &mut counts.unlabelled
        };
        *term += 1;
    }
    Ok(counts)
}

/// Rows of a reference (events with their label inline, in the raw schema of that kind) with the columns of history.
pub fn reference_rows(raw: &RecordBatch) -> Result<RecordBatch, Error> {
    let rows = raw.num_rows();
    let kept = Kept { max: usize::MAX, segments: &BTreeSet::new() };
    let mut wide = spread(raw.column_by_name("features"), raw.column_by_name("tags"), rows, kept);
    for name in [
        "model_version",
        "prediction_id",
        "event_time",
        "prediction",
        "prediction_value",
        "score",
        "probabilities",
        "attributions",
        "sampling_rate",
        "error",
        "label",
        "label_value",
    ] {
        if let Some(column) = raw.column_by_name(name) {
            wide.columns.insert(name.into(), column.clone());
        }
    }
    wide.into_batch(&["prediction_id"])
}
