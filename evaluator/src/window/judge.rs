//! Metrics and confusion matrices of every group, in one scan.

use std::collections::BTreeMap;

use datafusion::{
    arrow::{
        array::{Array, AsArray, RecordBatch},
        compute::cast,
        datatypes::{DataType, Int64Type},
    },
    prelude::SessionContext,
};
use driftline_schemas::tables::{ConfusionRow, MetricRow, ScoreKind, Task};

use super::{
    EvaluationContext, OTHER,
    columns::{Columns, collect, text_column},
    groups::{Groups, Versions, first_text},
    inputs, sql,
};
use crate::{
    Error,
    metrics::{
        Report, Undefined,
        binary::{BinaryState, POSITIVE},
        interval::LEVEL,
        multiclass::MulticlassState,
        regression::PairedValues,
    },
};

/// The column of the chance with which an event was kept: one that was kept with 1/4 stands for four.
pub(super) const SAMPLING_RATE: &str = "sampling_rate";

/// Which group of rows.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Group {
    pub(super) model_version: Option<String>,
    pub(super) segment: Option<String>,
    pub(super) segment_value: Option<String>,
}

impl Group {
    /// The group that a row is of.
    pub(super) fn of(row: &MetricRow) -> Self {
        Self {
            model_version: row.model_version.clone(),
            segment: row.segment.clone(),
            segment_value: row.segment_value.clone(),
        }
    }
}

/// What one scan says about a group.
#[derive(Debug, Clone)]
struct Judged {
    n: i64,
    n_labelled: i64,
    /// Labelled rows of a binary model whose label or prediction is neither of the two names.
    misnamed: i64,
    report: Report,
}

/// The two names of a binary model's classes.
struct ClassNames {
    positive: String,
    negative: Option<String>,
}

impl ClassNames {
    /// Whether two classes that are both not positive are surely the same. Where nobody knows the positive class, only
    /// true and false are: any others would be counted as one, and a miss as a hit.
    fn are_known(&self, context: &EvaluationContext) -> bool {
        context.positive_class.is_some() || self.negative.as_deref().is_none_or(|name| name == "0" || name == "false")
    }
}

/// The SQL of a task.
struct TaskQuery {
    /// Expressions over the table, with their names.
    inputs: Vec<(&'static str, String)>,
    /// The report over those names.
    report: String,
    /// How many rows are [`Judged::misnamed`].
    misnamed: String,
}

/// Judges every group.
pub(super) async fn judge(
    session: &SessionContext,
    columns: &Columns,
    groups: &Groups,
    context: &EvaluationContext,
) -> Result<(Vec<MetricRow>, Vec<ConfusionRow>), Error> {
    let mut names = match context.task {
        Task::Binary => Some(class_names(session, columns, context).await?).filter(|names| names.are_known(context)),
        Task::Multiclass | Task::Regression => None,
    };
    let mut judged = scanned(session, columns, groups, names.as_ref(), context).await?;
    let has_other_classes = judged.get(&Group::default()).is_some_and(|overall| overall.misnamed > 0);
    if has_other_classes && (context.task_is_inferred || context.positive_class.is_none()) {
        names = None;
        judged = scanned(session, columns, groups, None, context).await?;
    }
    let task = task_of(names.as_ref(), context);
    let overall = judged.entry(Group::default()).or_insert_with(|| Judged::nothing(task, context));
    let names = names.filter(|_| overall.misnamed == 0).map(|names| (names.positive, names.negative)).or_else(|| {
        // More than two names: all that is not positive is one class without a name of its own.
        (task == Task::Binary).then(|| (positive_name(context).to_owned(), None))
    });
    if let Versions::One(version) = &groups.versions {
        for (group, report) in judged.clone() {
            judged.insert(Group { model_version: Some(version.clone()), ..group }, report);
        }
    }
    let (mut metrics, mut confusion) = (Vec::new(), Vec::new());
    for (group, judged) in judged {
        metrics.extend(metric_rows(&group, &judged, context));
        confusion.extend(confusion_rows(&group, judged, names.as_ref(), context));
    }
    Ok((metrics, confusion))
}

/// A binary model of other classes than two is judged as a multiclass one.
fn task_of(names: Option<&ClassNames>, context: &EvaluationContext) -> Task {
    if names.is_none() && context.task == Task::Binary { Task::Multiclass } else { context.task }
}

async fn scanned(
    session: &SessionContext,
    columns: &Columns,
    groups: &Groups,
    names: Option<&ClassNames>,
    context: &EvaluationContext,
) -> Result<BTreeMap<Group, Judged>, Error> {
    let query = match (names, task_of(names, context)) {
        (Some(names), _) => binary_query(columns, names, context),
        (None, Task::Regression) => regression_query(columns),
        (None, _) => multiclass_query(columns),
    };
    let mut judged = BTreeMap::new();
    for batch in collect(session, &scan(columns, groups, &query)).await? {
        read_groups(&batch, groups, &mut judged)?;
    }
    Ok(judged)
}

impl Judged {
    fn nothing(task: Task, context: &EvaluationContext) -> Self {
        let report = match task {
            Task::Binary => BinaryState::default().value(context.score_kind == ScoreKind::Probability),
            Task::Multiclass => MulticlassState::default().value(),
            Task::Regression => PairedValues::default().report(),
        };
        Self { n: 0, n_labelled: 0, misnamed: 0, report }
    }
}

fn positive_name(context: &EvaluationContext) -> &str {
    context.positive_class.as_deref().unwrap_or("1")
}

/// Finds the name of the negative class: any label that is not positive, else any such prediction. Whether it is the
/// only one is counted in the scan, so the answer does not depend on which row came first.
async fn class_names(
    session: &SessionContext,
    columns: &Columns,
    context: &EvaluationContext,
) -> Result<ClassNames, Error> {
    let positive = sql::texts(inputs::positives(context.positive_class.as_deref()));
    let mut negative = None;
    for column in ["label", "prediction"] {
        if negative.is_none() && columns.has(column) {
            let text = columns.text(column);
            let rows = columns.valid_rows();
            let query = format!("SELECT {text} AS value FROM {rows} AND {text} NOT IN ({positive}) LIMIT 1");
            negative = first_text(session, &query).await?;
        }
    }
    let unnamed = context.positive_class.is_none();
    let positive = if unnamed && negative.as_deref() == Some("false") { "true" } else { positive_name(context) };
    Ok(ClassNames { positive: positive.to_owned(), negative })
}

fn binary_query(columns: &Columns, names: &ClassNames, context: &EvaluationContext) -> TaskQuery {
    let positives = inputs::positives(context.positive_class.as_deref());
    let is_positive = |column: &str| inputs::is_positive(columns, column, &positives);
    let score = inputs::score(columns, &positives);
    let predicted = inputs::is_predicted(columns, &positives, context.threshold);
    let known = sql::texts(positives.iter().copied().chain(names.negative.as_deref()));
    let kind = match context.score_kind {
        ScoreKind::Probability => "probability",
        ScoreKind::Any => "any",
    };
    let prediction_known = if columns.has("prediction") {
        format!("coalesce({} IN ({known}), TRUE)", columns.text("prediction"))
    } else {
        "TRUE".to_owned()
    };
    TaskQuery {
        inputs: vec![
            ("actual", is_positive("label")),
            ("predicted", predicted),
            ("score", score),
            ("named", format!("{} IN ({known}) AND {prediction_known}", columns.text("label"))),
        ],
        report: with_rate(columns, &format!("binary_report(actual, predicted, score, '{kind}'")),
        misnamed: "count(*) FILTER (WHERE NOT named)".to_owned(),
    }
}

fn multiclass_query(columns: &Columns) -> TaskQuery {
    TaskQuery {
        inputs: vec![
            ("actual", columns.text("label")),
            ("predicted", columns.text("prediction")),
            ("probabilities", inputs::probabilities(columns)),
        ],
        report: with_rate(columns, "multiclass_report(actual, predicted, probabilities"),
        misnamed: "CAST(0 AS BIGINT)".to_owned(),
    }
}

fn regression_query(columns: &Columns) -> TaskQuery {
    TaskQuery {
        inputs: vec![
            ("actual", inputs::number(columns, "label_value", "label")),
            ("predicted", inputs::number(columns, "prediction_value", "prediction")),
        ],
        report: with_rate(columns, "regression_report(actual, predicted"),
        misnamed: "CAST(0 AS BIGINT)".to_owned(),
    }
}

/// A report's call, with the rows' sampling rates if they have such a column.
pub(super) fn with_rate(columns: &Columns, call: &str) -> String {
    let rate = if columns.has(SAMPLING_RATE) { format!(", {SAMPLING_RATE}") } else { String::new() };
    format!("{call}{rate})")
}

/// One query for all groups. Without versions and segments it is a plain aggregate, which reads no other column.
fn scan(columns: &Columns, groups: &Groups, task: &TaskQuery) -> String {
    let mut inputs: Vec<String> = task.inputs.iter().map(|(name, input)| format!("{input} AS {name}")).collect();
    if columns.has(SAMPLING_RATE) {
        inputs.push(format!("{} AS {SAMPLING_RATE}", columns.double(SAMPLING_RATE)));
    }
    let mut outputs = vec![
        "count(*) AS n".to_owned(),
        "count(actual) AS n_labelled".to_owned(),
        format!("{} AS misnamed", task.misnamed),
        format!("{} AS report", task.report),
    ];
    let mut keys: Vec<String> = Vec::new();
    if let (Versions::Several, Some(version)) = (&groups.versions, columns.version()) {
        keys.push("version".to_owned());
        inputs.push(format!("{version} AS version"));
    }
    let by_version = !keys.is_empty();
    for (i, segment) in groups.segments.iter().enumerate() {
        keys.push(format!("segment_{i}"));
        inputs.push(format!("{} AS segment_{i}", segment.value));
    }
    for key in &keys {
        outputs.push(format!("{key}, grouping({key}) AS all_{key}"));
    }
    let from = format!("(SELECT {} FROM {})", inputs.join(", "), columns.valid_rows());
    let group_by = if keys.is_empty() { String::new() } else { grouping_sets(&keys, by_version) };
    format!("SELECT {} FROM {from} {group_by}", outputs.join(", "))
}

/// All rows, each segment, and each of these by version.
pub(super) fn grouping_sets(keys: &[String], by_version: bool) -> String {
    let segments = &keys[usize::from(by_version)..];
    let mut sets: Vec<String> = vec!["()".to_owned()];
    sets.extend(segments.iter().map(|segment| format!("({segment})")));
    if by_version {
        sets.push("(version)".to_owned());
        sets.extend(segments.iter().map(|segment| format!("(version, {segment})")));
    }
    format!("GROUP BY GROUPING SETS ({})", sets.join(", "))
}

fn read_groups(batch: &RecordBatch, groups: &Groups, into: &mut BTreeMap<Group, Judged>) -> Result<(), Error> {
    let number = |name: &str, row: usize| -> Result<i64, Error> {
        let column = batch
            .column_by_name(name)
            .ok_or_else(|| Error::MissingColumn { table: "of groups".to_owned(), column: name.to_owned() })?;
        Ok(cast(column, &DataType::Int64)?.as_primitive::<Int64Type>().value(row))
    };
    let reports = text_column(batch, "report")?;
    for row in 0..batch.num_rows() {
        let Some(group) = group_of(batch, groups, row)? else { continue };
        let report = serde_json::from_str(reports.as_string::<i32>().value(row))?;
        let (n, n_labelled) = (number("n", row)?, number("n_labelled", row)?);
        into.insert(group, Judged { n, n_labelled, misnamed: number("misnamed", row)?, report });
    }
    Ok(())
}

/// The group of a result row; `None` for the rows that lack a segment's value.
pub(super) fn group_of(batch: &RecordBatch, groups: &Groups, row: usize) -> Result<Option<Group>, Error> {
    // The value of a grouping key, if the row's grouping set has it.
    let key = |name: &str| -> Result<Option<Option<String>>, Error> {
        let Some(all) = batch.column_by_name(&format!("all_{name}")) else { return Ok(None) };
        if cast(all, &DataType::Int64)?.as_primitive::<Int64Type>().value(row) != 0 {
            return Ok(None);
        }
        let texts = text_column(batch, name)?;
        let texts = texts.as_string::<i32>();
        Ok(Some(texts.is_valid(row).then(|| texts.value(row).to_owned())))
    };
    let mut group = Group { model_version: key("version")?.flatten(), ..Group::default() };
    for (i, segment) in groups.segments.iter().enumerate() {
        match key(&format!("segment_{i}"))? {
            None => {}
            Some(None) => return Ok(None),
            Some(value) => (group.segment, group.segment_value) = (Some(segment.names.clone()), value),
        }
    }
    Ok(Some(group))
}

fn metric_rows(group: &Group, judged: &Judged, context: &EvaluationContext) -> Vec<MetricRow> {
    // The state has seen labelled rows only; what the group has seen says why there were none.
    let reason = |reason: Undefined| match (reason, judged.n, judged.n_labelled) {
        (_, 0, _) => Undefined::NoRows,
        (_, _, 0) => Undefined::NoLabels,
        (Undefined::NoRows, _, _) => Undefined::NoScores,
        (reason, _, _) => reason,
    };
    judged
        .report
        .metrics
        .iter()
        .map(|row| MetricRow {
            model: context.model.clone(),
            model_version: group.model_version.clone(),
            segment: group.segment.clone(),
            segment_value: group.segment_value.clone(),
            window_start: context.window_start,
            window_end: context.window_end,
            metric: row.metric.clone(),
            class: row.class.clone(),
            value: row.value,
            reason: row.reason.map(|why| reason(why).as_str().to_owned()),
            ci_low: row.ci_low,
            ci_high: row.ci_high,
            ci_level: row.ci_low.map(|_| LEVEL),
            ci_method: row.ci_method.map(|method| method.as_str().to_owned()),
            ci_warning: row.ci_warning.map(|warning| warning.as_str().to_owned()),
            baseline: row.baseline,
            n: judged.n,
            n_labelled: judged.n_labelled,
            state: context.state.clone(),
            revision: context.revision,
            decided_at: context.decided_at,
            reference_version: context.reference.as_ref().map(|reference| reference.version.clone()),
        })
        .collect()
}

fn confusion_rows(
    group: &Group,
    judged: Judged,
    names: Option<&(String, Option<String>)>,
    context: &EvaluationContext,
) -> Vec<ConfusionRow> {
    let name = |class: String| match names {
        None => class,
        Some((positive, _)) if class == POSITIVE => positive.clone(),
        Some((_, negative)) => negative.clone().unwrap_or_else(|| OTHER.to_owned()),
    };
    let cells = judged.report.confusion.into_iter();
    cells
        .map(|cell| ConfusionRow {
            model: context.model.clone(),
            model_version: group.model_version.clone(),
            segment: group.segment.clone(),
            segment_value: group.segment_value.clone(),
            window_start: context.window_start,
            window_end: context.window_end,
            actual: name(cell.actual),
            predicted: name(cell.predicted),
            count: cell.count,
            weight: Some(cell.weight),
            state: context.state.clone(),
            revision: context.revision,
            decided_at: context.decided_at,
        })
        .collect()
}
