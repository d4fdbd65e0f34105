//! Metrics, confusion matrices and serving health of every group, in one scan.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use datafusion::{
    arrow::{
        array::{Array, AsArray, RecordBatch},
        compute::cast,
        datatypes::{DataType, Float64Type, Int64Type},
    },
    prelude::SessionContext,
};
use driftline_schemas::tables::{ConfusionRow, CurveRow, MetricRow, ScoreKind, ServingRow, Task};

use super::{
    EvaluationContext, OTHER,
    budget::Budget,
    columns::{Columns, collect, text_column},
    groups::{Groups, Versions, first_text},
    inputs, sql,
};
use crate::{
    Error,
    metrics::{
        Estimate, Report, Undefined,
        binary::{BinaryState, POSITIVE},
        binned::Limit,
        business::business_value,
        interval::LEVEL,
        multiclass::{CLASSES_MAX, MulticlassState},
        regression::PairedValues,
        serving::{REQUESTS, REQUESTS_PER_SECOND, ServingState},
    },
};

/// Probabilities of a row that are taken to be there without a look, if so many fit.
const CLASSES_NOT_COUNTED: u64 = 16;
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
pub(super) struct Judged {
    /// Rows, whether they count or not.
    requests: i64,
    /// Rows that count.
    n: i64,
    pub(super) n_labelled: i64,
    /// Labelled rows of a binary model whose label or prediction is neither of the two names.
    misnamed: i64,
    is_binary: bool,
    pub(super) report: Report,
    serving: Report,
}

/// What the scan gives.
pub(super) struct Verdict {
    pub(super) metrics: Vec<MetricRow>,
    pub(super) confusion: Vec<ConfusionRow>,
    pub(super) serving: Vec<ServingRow>,
    /// By what was judged.
    pub(super) query: TaskQuery,
    /// The names that it told classes apart by; none of what is no binary model.
    pub(super) names: Option<ClassNames>,
    /// Each version with labelled rows, where there are several.
    pub(super) versions: Vec<(String, Judged)>,
    pub(super) curves: Vec<CurveRow>,
}

/// The two names of a binary model's classes.
#[derive(Clone)]
pub(super) struct ClassNames {
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
pub(super) struct TaskQuery {
    /// What is judged: a binary model with other classes than two is a multiclass one.
    pub(super) task: Task,
    /// Expressions over the table, with their names.
    pub(super) inputs: Vec<(&'static str, String)>,
    /// The report's call over those names, open at its end.
    report: String,
    /// The rows that are [`Judged::misnamed`]; `None` where none can be.
    misnamed: Option<&'static str>,
}

/// Judges every group.
pub(super) async fn judge(
    session: &SessionContext,
    columns: &Columns,
    groups: &Groups,
    context: &EvaluationContext,
) -> Result<Verdict, Error> {
    let mut names = match context.task {
        Task::Binary => Some(class_names(session, columns, context).await?).filter(|names| names.are_known(context)),
        Task::Multiclass | Task::Regression => None,
    };
    let mut query = task_query(columns, names.as_ref(), context);
    let mut judged = scanned(session, columns, groups, &query, (Asked::All, context)).await?;
    let has_other_classes = judged.get(&Group::default()).is_some_and(|overall| overall.misnamed > 0);
    if has_other_classes && (context.task_is_inferred || context.positive_class.is_none()) {
        names = None;
        query = task_query(columns, None, context);
        judged = scanned(session, columns, groups, &query, (Asked::All, context)).await?;
    }
    if let (true, Some(names), Some(overall)) = (has_other_classes, &names, judged.get(&Group::default()))
        && !overall.report.confusion.iter().any(|cell| cell.actual == POSITIVE || cell.predicted == POSITIVE)
    {
        crate::telemetry::positive_class_absent(
            &context.model,
            &names.positive,
            names.negative.as_deref().unwrap_or_default(),
        );
    }
    let (task, told_by) = (query.task, names.clone());
    let overall = judged.entry(Group::default()).or_insert_with(|| Judged::nothing(task, context));
    let names = names.filter(|_| overall.misnamed == 0).map(|names| (names.positive, names.negative)).or_else(|| {
        // More than two names: all that is not positive is one class without a name of its own.
        (task == Task::Binary).then(|| (positive_name(context).to_owned(), None))
    });
    with_version(&mut judged, groups);
    let (metrics, confusion, serving, curves, versions) = (Vec::new(), Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let mut verdict = Verdict { metrics, confusion, serving, query, names: told_by, versions, curves };
    for (group, judged) in judged {
        verdict.serving.extend(serving_rows(&group, &judged, context));
        if let (Versions::Several, None, Some(version)) = (&groups.versions, &group.segment, &group.model_version)
            && judged.n_labelled > 0
        {
            verdict.versions.push((version.clone(), judged.clone()));
        }
        // A group of which every request has failed has no metrics of its own.
        if judged.n > 0 || group == Group::default() {
            // The curves of the only version are those of all.
            if group.segment.is_none() && (group.model_version.is_none() || groups.versions == Versions::Several) {
                verdict.curves.extend(curve_rows(&group, &judged, context));
            }
            verdict.metrics.extend(metric_rows(&group, &judged, context));
            verdict.confusion.extend(confusion_rows(&group, judged, names.as_ref(), context));
        }
    }
    Ok(verdict)
}

/// The metrics of every group, of rows whose classes' names are known: all that is asked where the same rows are judged by other weights.
pub(super) async fn metrics_of(
    session: &SessionContext,
    columns: &Columns,
    groups: &Groups,
    names: Option<&ClassNames>,
    context: &EvaluationContext,
) -> Result<Vec<MetricRow>, Error> {
    let query = task_query(columns, names, context);
    let mut judged = scanned(session, columns, groups, &query, (Asked::Metrics, context)).await?;
    with_version(&mut judged, groups);
    let of = judged.iter().filter(|(_, judged)| judged.n > 0);
    Ok(of.flat_map(|(group, judged)| metric_rows(group, judged, context)).collect())
}

/// The rows of the only version are those of all.
fn with_version(judged: &mut BTreeMap<Group, Judged>, groups: &Groups) {
    if let Versions::One(version) = &groups.versions {
        for (group, report) in judged.clone() {
            judged.insert(Group { model_version: Some(version.clone()), ..group }, report);
        }
    }
}

/// What a model's rows are judged by, before it is known whether they are of the classes that it was told.
pub(super) async fn query(
    session: &SessionContext,
    columns: &Columns,
    context: &EvaluationContext,
) -> Result<TaskQuery, Error> {
    let names = match context.task {
        Task::Binary => Some(class_names(session, columns, context).await?).filter(|names| names.are_known(context)),
        Task::Multiclass | Task::Regression => None,
    };
    Ok(task_query(columns, names.as_ref(), context))
}

/// A binary model of other classes than two is judged as a multiclass one.
fn task_of(names: Option<&ClassNames>, context: &EvaluationContext) -> Task {
    if names.is_none() && context.task == Task::Binary { Task::Multiclass } else { context.task }
}

fn task_query(columns: &Columns, names: Option<&ClassNames>, context: &EvaluationContext) -> TaskQuery {
    match (names, task_of(names, context)) {
        (Some(names), _) => binary_query(columns, names, context),
        (None, Task::Regression) => regression_query(columns),
        (None, _) => multiclass_query(columns),
    }
}

/// What a scan says of each group.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Asked {
    /// Its metrics, and how its requests were served.
    All,
    /// Its metrics.
    Metrics,
}

async fn scanned(
    session: &SessionContext,
    columns: &Columns,
    groups: &Groups,
    query: &TaskQuery,
    (asked, context): (Asked, &EvaluationContext),
) -> Result<BTreeMap<Group, Judged>, Error> {
    let judged = scanned_by(session, columns, groups, query, (asked, &[])).await?;
    if !judged.values().any(|judged| judged.report.has_too_many_classes) {
        return Ok(judged);
    }
    let classes = most_frequent_classes(session, columns).await?;
    crate::telemetry::classes_pooled(&context.model, CLASSES_MAX);
    scanned_by(session, columns, groups, query, (asked, &classes)).await
}

/// The classes that are told apart where there are too many: the most frequent labels, then predictions, the first in text order among equals.
async fn most_frequent_classes(session: &SessionContext, columns: &Columns) -> Result<Vec<String>, Error> {
    let rows = columns.valid_rows();
    let (label, prediction) = (columns.text("label"), columns.text("prediction"));
    let query = format!(
        "SELECT value FROM (\
         SELECT {label} AS value, 1 AS labels, 0 AS predictions FROM {rows} UNION ALL \
         SELECT {prediction} AS value, 0 AS labels, 1 AS predictions FROM {rows} AND {label} IS NOT NULL\
         ) WHERE value IS NOT NULL GROUP BY value \
         ORDER BY sum(labels) DESC, sum(predictions) DESC, value LIMIT {CLASSES_MAX}"
    );
    let mut classes: Vec<String> = Vec::new();
    for batch in collect(session, &query).await? {
        classes.extend(text_column(&batch, "value")?.as_string::<i32>().iter().flatten().map(str::to_owned));
    }
    classes.sort_unstable();
    Ok(classes)
}

/// With `classes`, only these are told apart.
async fn scanned_by(
    session: &SessionContext,
    columns: &Columns,
    groups: &Groups,
    query: &TaskQuery,
    (asked, classes): (Asked, &[String]),
) -> Result<BTreeMap<Group, Judged>, Error> {
    let mut judged = BTreeMap::new();
    let bytes = bytes_per_row(session, columns, query, asked).await?;
    let pivots = pivots(session, columns, query, bytes).await?;
    let lists = 1 + u64::from(query.task == Task::Regression) + u64::from(has_latency(columns, asked));
    for part in parts(columns.budget(), groups, bytes, lists) {
        let limit = part.limit.clone().or_else(|| (!classes.is_empty()).then(Limit::none));
        let limit = limit.map(|limit| Limit { pivots: pivots.clone(), classes: classes.to_vec(), ..limit });
        for batch in collect(session, &scan(columns, groups, query, asked, &part.sets, limit.as_ref())).await? {
            read_groups(&batch, groups, query.task, &mut judged)?;
        }
    }
    Ok(judged)
}

/// Grouping sets that are asked together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Part {
    /// By number; all of a scan are there, or one.
    pub(super) sets: Vec<usize>,
    /// What the state of a group may keep; everything where there is none.
    pub(super) limit: Option<Limit>,
}

/// How the groups of a window are scanned: all at once if their states fit, else one grouping set after the other, and where not even
/// one set's states do, with a limit. `lists`: of numbers, that the states of a group have.
pub(super) fn parts(budget: Budget, groups: &Groups, bytes_per_row: u64, lists: u64) -> Vec<Part> {
    let by_set = groups_by_set(groups);
    let all: Vec<usize> = (0..by_set.len()).collect();
    if budget.fits(bytes_per_row.saturating_mul(by_set.len() as u64)) {
        return vec![Part { sets: all, limit: None }];
    }
    let is_one_too_many = !budget.fits(bytes_per_row);
    let one = |set: usize| {
        let limit = is_one_too_many.then(|| budget.limit(lists * by_set[set]));
        Part { sets: vec![set], limit }
    };
    all.into_iter().map(one).collect()
}

/// How many groups each grouping set has at most, in the order of [`grouping_sets`].
pub(super) fn groups_by_set(groups: &Groups) -> Vec<u64> {
    let mut sets: Vec<u64> = std::iter::once(1).chain(groups.segments.iter().map(|s| s.values as u64)).collect();
    if groups.versions == Versions::Several {
        let by_version: Vec<u64> = sets.iter().map(|groups_of| groups_of * groups.versions_max as u64).collect();
        sets.extend(by_version);
    }
    sets
}

/// What a row adds to the states of one group that it is in, bytes.
async fn bytes_per_row(
    session: &SessionContext,
    columns: &Columns,
    query: &TaskQuery,
    asked: Asked,
) -> Result<u64, Error> {
    let number = columns.bytes_per_number();
    let of_report = match query.task {
        Task::Binary => number,
        // Truth and prediction, and their errors, sorted.
        Task::Regression => 3 * number,
        Task::Multiclass => number.saturating_mul(probabilities_per_row(session, columns, number).await?),
    };
    Ok(of_report + if has_latency(columns, asked) { number } else { 0 })
}

fn has_latency(columns: &Columns, asked: Asked) -> bool {
    asked == Asked::All && columns.has("latency_ms")
}

/// Probabilities that a row has on the average. They are counted only where it may matter: that reads the largest column.
async fn probabilities_per_row(session: &SessionContext, columns: &Columns, number: u64) -> Result<u64, Error> {
    let Some(map) = columns.map("probabilities") else { return Ok(1) };
    if columns.budget().fits(number * CLASSES_NOT_COUNTED) {
        return Ok(CLASSES_NOT_COUNTED);
    }
    let sum = format!(
        "SELECT CAST(coalesce(sum(cardinality(map_keys({map}))), 0) AS BIGINT) AS n FROM {}",
        columns.valid_rows()
    );
    let batches = collect(session, &sum).await?;
    let all: i64 = batches.iter().map(|batch| batch.column(0).as_primitive::<Int64Type>().value(0)).sum();
    Ok((all.max(0) as u64).div_ceil(columns.budget().rows().max(1)).max(1))
}

/// What central moments of a regression are taken around, where its rows are not kept: the means over all of them.
async fn pivots(
    session: &SessionContext,
    columns: &Columns,
    query: &TaskQuery,
    bytes_per_row: u64,
) -> Result<Vec<u64>, Error> {
    if query.task != Task::Regression || columns.budget().fits(bytes_per_row) {
        return Ok(Vec::new());
    }
    let inputs: Vec<String> = query.inputs.iter().map(|(name, input)| format!("{input} AS {name}")).collect();
    let rows = format!("(SELECT {} FROM {})", inputs.join(", "), columns.valid_rows());
    let known = "actual IS NOT NULL AND predicted IS NOT NULL AND NOT isnan(actual) AND NOT isnan(predicted)";
    let means = format!("SELECT exact_mean(actual), exact_mean(predicted - actual) FROM {rows} WHERE {known}");
    let batches = collect(session, &means).await?;
    let Some(batch) = batches.iter().find(|batch| batch.num_rows() > 0) else { return Ok(Vec::new()) };
    let mean = |at: usize| {
        let column = batch.column(at).as_primitive::<Float64Type>();
        if column.is_valid(0) && column.value(0).is_finite() { column.value(0) } else { 0.0 }
    };
    Ok(vec![mean(0).to_bits(), mean(1).to_bits()])
}

impl Judged {
    fn nothing(task: Task, context: &EvaluationContext) -> Self {
        let report = match task {
            Task::Binary => BinaryState::default().value(context.score_kind == ScoreKind::Probability),
            Task::Multiclass => MulticlassState::default().value(),
            Task::Regression => PairedValues::default().report(),
        };
        let serving = ServingState::default().report();
        Self { requests: 0, n: 0, n_labelled: 0, misnamed: 0, is_binary: task == Task::Binary, report, serving }
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
    let is_known = |column: &str| columns.is_one_of(column, positives.iter().copied().chain(names.negative.as_deref()));
    let prediction_known = if columns.has("prediction") {
        format!("coalesce({}, TRUE)", is_known("prediction"))
    } else {
        "TRUE".to_owned()
    };
    let kind = score_kind(context);
    TaskQuery {
        task: Task::Binary,
        inputs: vec![
            ("actual", is_positive("label")),
            ("predicted", predicted),
            ("score", score),
            ("named", format!("{} AND {prediction_known}", is_known("label"))),
        ],
        report: format!("binary_report(actual, predicted, score, '{kind}'"),
        misnamed: Some("NOT named"),
    }
}

/// The word for what scores mean, in calls of functions.
pub(super) fn score_kind(context: &EvaluationContext) -> &'static str {
    match context.score_kind {
        ScoreKind::Probability => "probability",
        ScoreKind::Any => "any",
    }
}

fn multiclass_query(columns: &Columns) -> TaskQuery {
    TaskQuery {
        task: Task::Multiclass,
        inputs: vec![
            ("actual", columns.text("label")),
            ("predicted", columns.text("prediction")),
            ("probabilities", inputs::probabilities(columns)),
        ],
        report: "multiclass_report(actual, predicted, probabilities".to_owned(),
        misnamed: None,
    }
}

fn regression_query(columns: &Columns) -> TaskQuery {
    TaskQuery {
        task: Task::Regression,
        inputs: vec![
            ("actual", inputs::number(columns, "label_value", "label")),
            ("predicted", inputs::number(columns, "prediction_value", "prediction")),
        ],
        report: "regression_report(actual, predicted".to_owned(),
        misnamed: None,
    }
}

/// A report's call, with the rows' sampling rates if they have such a column.
pub(super) fn with_rate(columns: &Columns, call: &str) -> String {
    kept(columns, call, None)
}

/// The same, of a state that may keep no more than this.
pub(super) fn kept(columns: &Columns, call: &str, limit: Option<&Limit>) -> String {
    let rate = if columns.has(SAMPLING_RATE) { format!(", {SAMPLING_RATE}") } else { String::new() };
    let limit = limit.map(|limit| format!(", {}", sql::constant(&limit.json()))).unwrap_or_default();
    format!("{call}{rate}{limit})")
}

/// One query for some grouping sets. Without versions and segments it is a plain aggregate, which reads no other column.
fn scan(
    columns: &Columns,
    groups: &Groups,
    task: &TaskQuery,
    asked: Asked,
    sets: &[usize],
    limit: Option<&Limit>,
) -> String {
    let mut inputs: Vec<String> = task.inputs.iter().map(|(name, input)| format!("{input} AS {name}")).collect();
    if columns.has(SAMPLING_RATE) {
        inputs.push(format!("{} AS {SAMPLING_RATE}", columns.double(SAMPLING_RATE)));
    }
    if asked == Asked::All {
        inputs.push(format!("{} AS has_failed", if columns.has("error") { "error IS NOT NULL" } else { "FALSE" }));
        inputs.push(format!("{} AS latency", columns.double("latency_ms")));
    }
    // Serving is judged on every row, all else on those that count. True or null: DataFusion's logical and physical plans do not
    // agree on whether `IS NOT TRUE` can be null, and refuse to run.
    let validity = columns.validity();
    inputs.extend(validity.iter().map(|condition| format!("nullif({condition}, FALSE) AS is_valid")));
    let of_valid = |and: Option<&str>| match (&validity, and) {
        (None, None) => String::new(),
        (None, Some(and)) => format!(" FILTER (WHERE {and})"),
        (Some(_), None) => " FILTER (WHERE is_valid)".to_owned(),
        (Some(_), Some(and)) => format!(" FILTER (WHERE is_valid AND {and})"),
    };
    let misnamed = task
        .misnamed
        .map_or_else(|| "CAST(0 AS BIGINT)".to_owned(), |condition| format!("count(*){}", of_valid(Some(condition))));
    let mut outputs = vec![
        "count(*) AS requests".to_owned(),
        format!("count(*){} AS n", of_valid(None)),
        format!("count(actual){} AS n_labelled", of_valid(None)),
        format!("{misnamed} AS misnamed"),
        format!("{}{} AS report", kept(columns, &task.report, limit), of_valid(None)),
    ];
    if asked == Asked::All {
        outputs.push(format!("{} AS serving", kept(columns, "serving_report(has_failed, latency", limit)));
    }
    let (keys, by_version) = self::keys(columns, groups, &mut inputs);
    let group_by = grouped(&keys, by_version, sets, &mut outputs);
    let from = format!("(SELECT {} FROM {})", inputs.join(", "), columns.all_rows());
    format!("SELECT {} FROM {from} {group_by}", outputs.join(", "))
}

/// The grouping of a scan by some of its sets, and the columns that say of which group a row is.
pub(super) fn grouped(keys: &[String], by_version: bool, sets: &[usize], outputs: &mut Vec<String>) -> String {
    if keys.is_empty() {
        return String::new();
    }
    let all = sets_of(keys, by_version);
    if sets.len() == all.len() {
        outputs.extend(keys.iter().map(|key| format!("{key}, grouping({key}) AS all_{key}")));
        return format!("GROUP BY GROUPING SETS ({})", grouping_sets(keys, by_version, None));
    }
    let set: Vec<&str> = sets.iter().flat_map(|set| all[*set].iter().copied()).collect();
    for key in keys {
        let is_in = set.contains(&key.as_str());
        let named = if is_in { key.clone() } else { format!("CAST(NULL AS VARCHAR) AS {key}") };
        outputs.push(format!("{named}, {} AS all_{key}", u8::from(!is_in)));
    }
    if set.is_empty() { String::new() } else { format!("GROUP BY {}", set.join(", ")) }
}

/// The columns that tell groups apart, and whether the version is the first of them; their inputs are added.
pub(super) fn keys(columns: &Columns, groups: &Groups, inputs: &mut Vec<String>) -> (Vec<String>, bool) {
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
    (keys, by_version)
}

/// All rows, each segment, and each of these by version; `within` is in every set.
pub(super) fn grouping_sets(keys: &[String], by_version: bool, within: Option<&str>) -> String {
    let text =
        |set: &Vec<&str>| format!("({})", within.into_iter().chain(set.iter().copied()).collect::<Vec<_>>().join(", "));
    sets_of(keys, by_version).iter().map(text).collect::<Vec<_>>().join(", ")
}

fn sets_of(keys: &[String], by_version: bool) -> Vec<Vec<&str>> {
    let segments = keys[usize::from(by_version)..].iter().map(|segment| vec![segment.as_str()]);
    let plain: Vec<Vec<&str>> = std::iter::once(Vec::new()).chain(segments).collect();
    let mut sets = plain.clone();
    if by_version {
        sets.extend(plain.into_iter().map(|set| std::iter::once("version").chain(set).collect()));
    }
    sets
}

fn read_groups(
    batch: &RecordBatch,
    groups: &Groups,
    task: Task,
    into: &mut BTreeMap<Group, Judged>,
) -> Result<(), Error> {
    let number = |name: &str, row: usize| -> Result<i64, Error> {
        let column = batch
            .column_by_name(name)
            .ok_or_else(|| Error::MissingColumn { table: "of groups".to_owned(), column: name.to_owned() })?;
        Ok(cast(column, &DataType::Int64)?.as_primitive::<Int64Type>().value(row))
    };
    let reports = text_column(batch, "report")?;
    let serving = if batch.column_by_name("serving").is_some() { Some(text_column(batch, "serving")?) } else { None };
    for row in 0..batch.num_rows() {
        let Some(group) = group_of(batch, groups, row)? else { continue };
        let report = serde_json::from_str(reports.as_string::<i32>().value(row))?;
        let judged = Judged {
            requests: number("requests", row)?,
            n: number("n", row)?,
            n_labelled: number("n_labelled", row)?,
            misnamed: number("misnamed", row)?,
            is_binary: task == Task::Binary,
            report,
            serving: match &serving {
                Some(serving) => serde_json::from_str(serving.as_string::<i32>().value(row))?,
                None => Report::default(),
            },
        };
        into.insert(group, judged);
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
    let mut report = judged.report.clone();
    if let Some(cost) = context.cost.filter(|_| judged.is_binary) {
        for (name, outcome) in business_value(&report.confusion, &cost) {
            report.add(name, None, outcome);
        }
    }
    rows_of(group, &report, (judged.n, judged.n_labelled), context)
}

/// A report as rows of `metrics`, of a group with so many rows and labelled ones.
pub(super) fn rows_of(
    group: &Group,
    report: &Report,
    (n, n_labelled): (i64, i64),
    context: &EvaluationContext,
) -> Vec<MetricRow> {
    // The state has seen labelled rows only; what the group has seen says why there were none.
    let reason = |reason: Undefined| match (reason, n, n_labelled) {
        (_, 0, _) => Undefined::NoRows,
        (_, _, 0) => Undefined::NoLabels,
        (Undefined::NoRows, _, _) => Undefined::NoScores,
        (reason, _, _) => reason,
    };
    report
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
            baseline_error_bound: row.baseline_bound,
            error_bound: row.error_bound,
            n,
            n_labelled,
            state: context.state.clone(),
            revision: context.revision,
            decided_at: context.decided_at,
            reference_version: context.reference.as_ref().map(|reference| reference.version.clone()),
        })
        .collect()
}

fn serving_rows(group: &Group, judged: &Judged, context: &EvaluationContext) -> Vec<ServingRow> {
    let mut report = judged.serving.clone();
    let requests = report.get(REQUESTS).and_then(|row| row.value).unwrap_or(0.0);
    let rate = seconds(context).map(|seconds| Estimate::bare(requests / seconds)).ok_or(Undefined::ZeroDenominator);
    report.add(REQUESTS_PER_SECOND, None, rate);
    let rows = report.metrics.into_iter();
    rows.map(|row| ServingRow {
        model: context.model.clone(),
        model_version: group.model_version.clone(),
        segment: group.segment.clone(),
        segment_value: group.segment_value.clone(),
        window_start: context.window_start,
        window_end: context.window_end,
        metric: row.metric,
        value: row.value,
        reason: row.reason.map(|reason| reason.as_str().to_owned()),
        ci_low: row.ci_low,
        ci_high: row.ci_high,
        ci_level: row.ci_low.map(|_| LEVEL),
        ci_method: row.ci_method.map(|method| method.as_str().to_owned()),
        ci_warning: row.ci_warning.map(|warning| warning.as_str().to_owned()),
        error_bound: row.error_bound,
        n: judged.requests,
        state: context.state.clone(),
        revision: context.revision,
        decided_at: context.decided_at,
    })
    .collect()
}

/// How long the window has lasted: to its end, or, if it was judged before that, to then. `None` if that is no time at all.
fn seconds(context: &EvaluationContext) -> Option<f64> {
    let micros = |until: DateTime<Utc>| (until - context.window_start).num_microseconds().filter(|micros| *micros > 0);
    let elapsed = micros(context.decided_at.min(context.window_end)).or_else(|| micros(context.window_end))?;
    Some(elapsed as f64 / 1e6)
}

/// The curves of a group; those of segments would be two hundred points for each value, and are left out.
fn curve_rows(group: &Group, judged: &Judged, context: &EvaluationContext) -> Vec<CurveRow> {
    let mut rows = Vec::new();
    for curve in &judged.report.curves {
        rows.extend(curve.points.iter().enumerate().map(|(at, point)| CurveRow {
            model: context.model.clone(),
            model_version: group.model_version.clone(),
            window_start: context.window_start,
            window_end: context.window_end,
            curve: curve.name.clone(),
            point: at as i64,
            x: point.x,
            y: point.y,
            threshold: point.threshold,
            ci_low: point.low,
            ci_high: point.high,
            weight: point.weight,
            state: context.state.clone(),
            revision: context.revision,
            decided_at: context.decided_at,
        }));
    }
    rows
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_that_do_not_fit_together_are_asked_one_set_after_the_other() {
        let segment = |values| super::super::groups::Segment { names: "s".to_owned(), value: "s".to_owned(), values };
        let groups = Groups { versions: Versions::Several, versions_max: 3, segments: vec![segment(5)] };
        assert_eq!(groups_by_set(&groups), [1, 5, 3, 15]);
        let plan = |rows: u64| parts(Budget::of_rows(rows, 480_000_000), &groups, 8, 1);
        // Six copies of eight bytes a row: four sets of 2,500,000 rows are all of the memory, one of 10,000,000 is.
        assert_eq!(plan(2_500_000), [Part { sets: vec![0, 1, 2, 3], limit: None }]);
        let one_by_one: Vec<Part> = (0..4).map(|set| Part { sets: vec![set], limit: None }).collect();
        assert_eq!(plan(2_500_001), one_by_one);
        assert_eq!(plan(10_000_000), one_by_one);
        let beyond = plan(10_000_001);
        assert!(beyond.iter().all(|part| part.limit.is_some()) && beyond.len() == 4);
        let bins = |set: usize| beyond[set].limit.as_ref().map_or(0, |limit| limit.bins);
        assert!(bins(0) > bins(3) && bins(3) > 0, "{beyond:?}");
    }

    #[test]
    fn a_set_alone_says_of_which_group_its_rows_are() {
        let keys = ["version".to_owned(), "segment_0".to_owned()];
        let mut outputs = Vec::new();
        assert_eq!(grouped(&keys, true, &[2], &mut outputs), "GROUP BY version");
        assert_eq!(outputs, ["version, 0 AS all_version", "CAST(NULL AS VARCHAR) AS segment_0, 1 AS all_segment_0"]);
        outputs.clear();
        assert_eq!(grouped(&keys, true, &[0], &mut outputs), "");
        assert!(outputs.iter().all(|output| output.starts_with("CAST(NULL")));
        outputs.clear();
        let all = grouped(&keys, true, &[0, 1, 2, 3], &mut outputs);
        assert_eq!(all, "GROUP BY GROUPING SETS ((), (segment_0), (version), (version, segment_0))");
    }
}
