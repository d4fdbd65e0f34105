//! The evaluation of one window: its history rows in, rows of the output tables out.
//!
//! ```text
//! history rows ─► columns  which there are, as SQL
//!              ─► groups   versions and segment values that get rows of their own
//!              ─► judge    one scan: counts and one report per group ─► MetricRow, ConfusionRow, ServingRow, CurveRow
//!              ─► compare  each version against the others ─► ComparisonRow
//!              ─► gather   one scan: the values of all rows, labelled or not ─► estimate, nowcast, lag ─► EstimateRow, LabelLagRow
//!              ─► errors   what went wrong, if anything did ─► ErrorRow
//!              ─► drift    the values of each column against the reference ─► DriftRow
//! ```
//! Everything but the SQL that gathers rows is a pure state in `metrics/`, `estimate/` and `drift/`.

pub(crate) mod budget;
pub(crate) mod calibrate;
pub(crate) mod columns;
mod compare;
pub(crate) mod components;
mod drift;
mod errors;
mod estimate;
mod gather;
mod groups;
mod inputs;
mod judge;
mod lag;
mod nowcast;
pub(crate) mod quality;
mod ranking;
pub(crate) mod sql;
pub mod weakest;

use std::sync::Arc;

use chrono::{DateTime, Utc};
use datafusion::prelude::SessionContext;
use driftline_schemas::config::{CostMatrix, ModelSettings, RankingSpec};
use driftline_schemas::tables::{
    ComparisonRow, ConfusionRow, CurveRow, DriftRow, ErrorRow, EstimateRow, LabelLagRow, MetricRow, QualityRow,
    ScoreKind, ServingRow, Task, sort_comparison_rows, sort_confusion_rows, sort_curve_rows, sort_drift_rows,
    sort_error_rows, sort_estimate_rows, sort_label_lag_rows, sort_metric_rows, sort_quality_rows, sort_serving_rows,
};

pub use crate::metrics::OTHER;
use crate::reference::Terms;
use crate::{Error, Reference};
use columns::Columns;

/// The parts of a query's memory that are planned with, one after the other, should DataFusion refuse: all of it as a rule.
const FRACTIONS: [u64; 2] = [1, 4];
/// The last one.
const FRACTION_MIN: u64 = 32;

/// What a window is judged under.
#[derive(Debug, Clone)]
pub struct EvaluationContext {
    /// The model.
    pub model: String,
    /// What it predicts.
    pub task: Task,
    /// Whether nobody has said the task. A binary one then gives way where the rows are of more classes than two.
    pub task_is_inferred: bool,
    /// A binary model's positive class, in canonical text. Without one, `1` and `true` are positive; rows of any other
    /// classes than these and `0` and `false` are then judged as a multiclass model's.
    pub positive_class: Option<String>,
    /// A score from here on predicts the positive class, where an event has no prediction of its own.
    pub threshold: f64,
    /// What a binary model's score means.
    pub score_kind: ScoreKind,
    /// Each a cross of names: a tag (`region`), or a feature (`features.country`).
    pub segments: Vec<Vec<String>>,
    /// Values of one segment, and versions, that get rows of their own, the most frequent ones; the others are [`OTHER`] together.
    pub segment_values_max: usize,
    /// Rows of a segment's value (of a version, where it is by version too) under which nothing of it is published.
    pub segments_min_rows: u64,
    /// What drift is measured against, and estimates rest on.
    pub reference: Option<Arc<Reference>>,
    /// What a binary model's decisions are worth.
    pub cost: Option<CostMatrix>,
    /// Which rows are ranked together, if any.
    pub ranking: Option<RankingSpec>,
    /// First instant of the window.
    pub window_start: DateTime<Utc>,
    /// First instant after it.
    pub window_end: DateTime<Utc>,
    /// `open`, `sealed` or `final`.
    pub state: String,
    /// The window's revision.
    pub revision: i64,
    /// When the ledger decided to judge the window.
    pub decided_at: DateTime<Utc>,
}

impl EvaluationContext {
    /// For the rows of a reference, which lie in no window.
    pub fn of_reference(model: &str, settings: &ModelSettings, segment_values_max: usize, terms: Terms) -> Self {
        Self {
            model: model.to_owned(),
            task: terms.task,
            task_is_inferred: settings.task.is_none(),
            positive_class: terms.positive_class,
            threshold: settings.threshold,
            score_kind: settings.score_kind,
            segments: settings.segments.clone(),
            segment_values_max,
            segments_min_rows: settings.segments_min_rows,
            reference: None,
            cost: settings.cost,
            ranking: settings.ranking.clone(),
            window_start: DateTime::<Utc>::UNIX_EPOCH,
            window_end: DateTime::<Utc>::UNIX_EPOCH,
            state: "final".to_owned(),
            revision: 0,
            decided_at: DateTime::<Utc>::UNIX_EPOCH,
        }
    }
}

/// A window that has been evaluated, in the order in which its rows are written.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct EvaluatedWindow {
    /// Every metric of every group.
    pub metrics: Vec<MetricRow>,
    /// The confusion matrices of a classification.
    pub confusion: Vec<ConfusionRow>,
    /// What metrics are expected to be, before the labels.
    pub estimates: Vec<EstimateRow>,
    /// How long labels take.
    pub label_lag: Vec<LabelLagRow>,
    /// Distances from the reference.
    pub drift: Vec<DriftRow>,
    /// What is amiss with the values of columns.
    pub quality: Vec<QualityRow>,
    /// How requests were served.
    pub serving: Vec<ServingRow>,
    /// The most frequent errors.
    pub errors: Vec<ErrorRow>,
    /// Versions against each other.
    pub comparisons: Vec<ComparisonRow>,
    /// Curves of a binary model with scores.
    pub curves: Vec<CurveRow>,
}

/// Evaluates the rows of one window.
///
/// # Inputs
/// A session with [`crate::udaf::register`], and in it a table with columns of `history`, any of which may be absent.
/// Rows with `error`, `invalid_reason` or `after_final` count for serving only; a row without a label counts for `n` and drift.
///
/// Groups: all rows, and each segment's values; each of them over all versions and, if there are rows, by version.
/// A row that lacks one of a segment's names is in none of that segment's groups. Versions that are null are the
/// version with the empty name. The values of a cross are joined by a comma; a comma or backslash inside a value is
/// escaped by a backslash there.
/// # Returns
/// Every metric of the task for every group, null with a reason where it is undefined (E3), even for a window
/// without rows. The rows do not depend on the number of partitions or the order of rows.
///
/// What does not fit into the session's memory is exact as long as one state at a time does, else within an `error_bound`.
/// # Errors
/// Only if a query fails. One that DataFusion has no memory for, though it should, is asked again with a fraction of what was planned.
pub async fn evaluate(
    session: &SessionContext,
    table: &str,
    context: &EvaluationContext,
) -> Result<EvaluatedWindow, Error> {
    let columns = Columns::of(session, table).await?;
    for fraction in FRACTIONS {
        match evaluate_within(session, columns.clone().within(fraction), context).await {
            Err(error) if error.is_out_of_memory() => crate::telemetry::out_of_memory(&context.model, &error),
            other => return other,
        }
    }
    evaluate_within(session, columns.within(FRACTION_MIN), context).await
}

async fn evaluate_within(
    session: &SessionContext,
    columns: Columns,
    context: &EvaluationContext,
) -> Result<EvaluatedWindow, Error> {
    let table = columns.table().to_owned();
    let mut columns = columns.without_idle_rate(session).await?;
    let groups = groups::find(session, &mut columns, context).await?;
    let judge::Verdict { mut metrics, mut confusion, mut serving, mut curves, query, names, versions } =
        judge::judge(session, &columns, &groups, context).await?;
    let mut comparisons = compare::compare(session, &columns, &query, versions, context).await?;
    let gathered = gather::gather(session, &columns, &groups, &metrics, context).await?;
    let mut estimates = estimate::estimate(&gathered, &groups, (&metrics, &confusion), (columns.budget(), context))?;
    let mut label_lag = lag::label_lag(&gathered, &groups, context)?;
    estimates.extend(
        nowcast::nowcast(session, (&table, &columns), &groups, &gathered, (&metrics, names.as_ref()), context).await?,
    );
    drop(gathered);
    metrics.extend(ranking::measure(session, &columns, &groups, &metrics, context).await?);
    let mut errors = errors::count(session, &columns, &groups, &serving, context).await?;
    let rows = quality::RowCounts::of(&metrics, &serving);
    let (mut drift, mut quality) = drift::measure(session, &columns, &groups, &rows, context).await?;
    let mut bounds = metrics.iter().map(|row| row.error_bound).chain(serving.iter().map(|row| row.error_bound));
    if bounds.any(|bound| bound.is_some()) || drift.iter().any(|row| row.error_bound.is_some()) {
        crate::telemetry::window_binned(&context.model, columns.budget().rows());
    }
    if context.reference.is_none() {
        quality = quality::without_reference(session, &columns, context).await?;
    }
    quality.extend(quality::duplicates(session, &columns, context).await?);
    if context.segments_min_rows > 0 {
        let is_large = |version: &Option<String>, segment: &Option<String>, value: &Option<String>| {
            let group = (version.clone(), segment.clone(), value.clone());
            segment.is_none() || rows.requests(&group) >= context.segments_min_rows
        };
        metrics.retain(|row| is_large(&row.model_version, &row.segment, &row.segment_value));
        confusion.retain(|row| is_large(&row.model_version, &row.segment, &row.segment_value));
        estimates.retain(|row| is_large(&row.model_version, &row.segment, &row.segment_value));
        label_lag.retain(|row| is_large(&row.model_version, &row.segment, &row.segment_value));
        drift.retain(|row| is_large(&row.model_version, &row.segment, &row.segment_value));
        quality.retain(|row| is_large(&row.model_version, &row.segment, &row.segment_value));
        serving.retain(|row| is_large(&row.model_version, &row.segment, &row.segment_value));
    }
    sort_metric_rows(&mut metrics);
    sort_confusion_rows(&mut confusion);
    sort_estimate_rows(&mut estimates);
    sort_label_lag_rows(&mut label_lag);
    sort_drift_rows(&mut drift);
    sort_quality_rows(&mut quality);
    sort_serving_rows(&mut serving);
    sort_error_rows(&mut errors);
    sort_comparison_rows(&mut comparisons);
    sort_curve_rows(&mut curves);
    Ok(EvaluatedWindow {
        metrics,
        confusion,
        estimates,
        label_lag,
        drift,
        quality,
        serving,
        errors,
        comparisons,
        curves,
    })
}
