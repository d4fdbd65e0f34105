//! Where a model does worst: every value of every tag and feature, and every cross of two, against the rows outside of it.
//!
//! Only on request: it reads all tags and features of the rows that it is asked about, several times.

use std::collections::BTreeMap;

use datafusion::{
    arrow::{
        array::{Array, AsArray, RecordBatch},
        compute::cast,
        datatypes::{DataType, Float64Type, Int64Type},
    },
    prelude::SessionContext,
};
use driftline_schemas::{
    history::{FEATURE_PREFIX, TAG_PREFIX, TEXT_SUFFIX},
    tables::Task,
};
use serde::Serialize;

use super::{
    EvaluationContext,
    columns::{Column, Columns, NumberReader, collect, text_column},
    groups::cap_values,
    judge, sql,
};
use crate::{
    Error,
    drift::{Sample, SampleRef},
    metrics::{
        comparison::{Bounded, Comparison, ComparisonMethod},
        interval::wilson,
    },
};

/// Tags and features that are looked at: their crosses grow with the square.
const DIMENSIONS_MAX: usize = 24;
/// Values of one of them, the most frequent ones; the others are one value together.
const VALUES_MAX: usize = 12;
/// Parts that a feature of numbers is cut into, of as many rows each.
const PARTS: usize = 4;
/// Groupings in one query: more read the rows less often, and hold more groups at once.
const SETS_A_QUERY: usize = 24;
/// The share of slices called weak that may be so by chance.
const FALSE_DISCOVERIES_MAX: f64 = 0.05;

/// A metric that is a mean over rows, so that what is outside a slice is known from what is inside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RowMetric {
    /// Share of predictions that are the label.
    Accuracy,
    /// Of what was predicted positive, the share that is.
    Precision,
    /// Of what is positive, the share that was predicted.
    Recall,
    /// Of what is negative, the share that was predicted so.
    Specificity,
    /// Squared error of the probability.
    BrierScore,
    /// Negative logarithm of the label's probability.
    LogLoss,
    /// Size of the error.
    MeanAbsoluteError,
    /// Square of the error.
    MeanSquaredError,
}

impl RowMetric {
    /// Those of a task, the usual one first.
    pub fn of(task: Task) -> &'static [Self] {
        match task {
            Task::Binary => {
                &[Self::Accuracy, Self::Precision, Self::Recall, Self::Specificity, Self::BrierScore, Self::LogLoss]
            }
            Task::Multiclass => &[Self::Accuracy],
            Task::Regression => &[Self::MeanAbsoluteError, Self::MeanSquaredError],
        }
    }

    /// The published name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Accuracy => "accuracy",
            Self::Precision => "precision",
            Self::Recall => "recall",
            Self::Specificity => "specificity",
            Self::BrierScore => "brier_score",
            Self::LogLoss => "log_loss",
            Self::MeanAbsoluteError => "mean_absolute_error",
            Self::MeanSquaredError => "mean_squared_error",
        }
    }

    /// Whether it is a share of rows; then more is better.
    fn is_share(self) -> bool {
        matches!(self, Self::Accuracy | Self::Precision | Self::Recall | Self::Specificity)
    }

    /// What a row is worth, and which rows count, over the inputs of a task's report.
    fn sql(self) -> (&'static str, &'static str) {
        match self {
            Self::Accuracy => ("CAST(actual = predicted AS DOUBLE)", "actual IS NOT NULL AND predicted IS NOT NULL"),
            Self::Precision => ("CAST(actual AS DOUBLE)", "predicted AND actual IS NOT NULL"),
            Self::Recall => ("CAST(predicted AS DOUBLE)", "actual AND predicted IS NOT NULL"),
            Self::Specificity => ("CAST(NOT predicted AS DOUBLE)", "NOT actual AND predicted IS NOT NULL"),
            Self::BrierScore => {
                ("power(score - CAST(actual AS DOUBLE), 2)", "actual IS NOT NULL AND score BETWEEN 0 AND 1")
            }
            Self::LogLoss => (
                "-ln(greatest(CASE WHEN actual THEN score ELSE 1 - score END, 2.220446049250313e-16))",
                "actual IS NOT NULL AND score BETWEEN 0 AND 1",
            ),
            Self::MeanAbsoluteError => ("abs(predicted - actual)", "predicted - actual IS NOT NULL"),
            Self::MeanSquaredError => ("power(predicted - actual, 2)", "predicted - actual IS NOT NULL"),
        }
    }
}

/// What is searched.
#[derive(Debug, Clone, Copy)]
pub struct Search {
    /// By which metric.
    pub metric: RowMetric,
    /// Whether crosses of two are looked at too.
    pub crosses: bool,
    /// Rows of a slice, and outside of it, at least.
    pub min_rows: u64,
}

/// A slice that does worse than what is outside of it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct WeakSegment {
    /// The names it crosses, as `segments` in the configuration takes them, joined by a comma.
    pub segment: String,
    /// Their values, joined by a comma.
    pub segment_value: String,
    /// Rows.
    pub n: u64,
    /// The metric of the slice.
    pub value: f64,
    /// The metric of all other rows.
    pub rest: f64,
    /// 95 % interval of slice less rest.
    pub ci_low: f64,
    /// Upper bound.
    pub ci_high: f64,
    /// Of no difference, for this slice alone.
    pub p_value: f64,
    /// Corrected for all slices that were looked at.
    pub p_adjusted: f64,
    /// Whether it is weak: at most 5 % of the slices that are called so are by chance.
    pub is_weak: bool,
}

/// What was found.
#[derive(Debug, Clone, PartialEq)]
pub struct Weakest {
    /// Slices that do worse, the surest first, and of those that are as sure the one that costs most.
    pub segments: Vec<WeakSegment>,
    /// Slices that were looked at.
    pub looked_at: usize,
    /// Tags and features that were not, for there are too many.
    pub left_out: Vec<String>,
}

/// A tag or a feature, cut into values.
struct Dimension {
    name: String,
    value: String,
}

/// Rows, their sum and the sum of their squares.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
struct Sums {
    rows: f64,
    sum: f64,
    squares: f64,
}

/// The values of a slice, by dimension.
type Slice = Vec<(usize, String)>;

/// Searches the rows of a table with columns of `history`.
///
/// # Formula
/// Each slice against all rows outside of it: shares by Newcombe's interval, means by Welch's test. The p-values are corrected by
/// Benjamini and Hochberg's procedure over every slice that had enough rows, those that do better too.
/// # Source
/// Benjamini & Hochberg (1995); slices overlap, so their tests go together, for which Benjamini & Yekutieli (2001) show that it holds.
/// # Inputs
/// Rows count as they are, whatever their sampling rate. Numbers are cut at their quartiles; texts and tags beyond the 12
/// most frequent values are one.
pub async fn search(
    session: &SessionContext,
    table: &str,
    context: &EvaluationContext,
    search: Search,
) -> Result<Weakest, Error> {
    let columns = Columns::of(session, table).await?;
    let (dimensions, left_out) = dimensions(session, &columns, context).await?;
    let mut sets: Vec<Vec<usize>> = (0..dimensions.len()).map(|at| vec![at]).collect();
    if search.crosses {
        let pairs = (0..dimensions.len()).flat_map(|i| (i + 1..dimensions.len()).map(move |j| vec![i, j]));
        sets.extend(pairs);
    }
    let rows = scored_rows(session, &columns, &dimensions, context, search.metric).await?;
    let mut slices: BTreeMap<Slice, Sums> = BTreeMap::new();
    for chunk in sets.chunks(SETS_A_QUERY) {
        slices.extend(sums(session, &rows, chunk).await?);
    }
    let all = sums(session, &rows, &[Vec::new()]).await?.remove(&Vec::new()).unwrap_or_default();
    Ok(Weakest { left_out, ..judge_slices(&slices, all, &dimensions, search) })
}

/// Tags and features with more than one value, tags first.
async fn dimensions(
    session: &SessionContext,
    columns: &Columns,
    context: &EvaluationContext,
) -> Result<(Vec<Dimension>, Vec<String>), Error> {
    let context = EvaluationContext { segment_values_max: VALUES_MAX, segments_min_rows: 0, ..context.clone() };
    let mut names: Vec<String> =
        columns.all().filter_map(|c| Some(format!("tags.{}", c.strip_prefix(TAG_PREFIX)?))).collect();
    let texts = columns.all().filter_map(|column| column.strip_prefix(FEATURE_PREFIX)?.strip_suffix(TEXT_SUFFIX));
    names.extend(texts.map(|feature| format!("features.{feature}")));
    let mut found = Vec::new();
    for name in names {
        let Some(key) = columns.segment(&name) else { continue };
        let (value, _) = cap_values(session, columns, &key, &context, None).await?;
        let name = name.strip_prefix("tags.").map_or(name.clone(), str::to_owned);
        found.push(Dimension { name, value });
    }
    let is_feature = |(column, _): &(Column, String)| matches!(column, Column::Feature(_));
    let numeric: Vec<_> = columns.numeric(Task::Binary).into_iter().filter(is_feature).collect();
    let reads: BTreeMap<Column, String> = numeric.iter().cloned().collect();
    let mut reader = NumberReader::new(columns, &numeric, (None, 1), None);
    while let Some(samples) = reader.next(session).await? {
        for (column, by_group) in samples {
            let sample = Sample::merged(by_group.values().flat_map(BTreeMap::values));
            let name = format!("features.{}", column.name());
            // A feature of both kinds has been taken for text.
            let value = parts(sample.as_ref(), &reads[&column]);
            if let Some(value) = value.filter(|_| found.iter().all(|dimension| dimension.name != name)) {
                found.push(Dimension { name, value });
            }
        }
    }
    let left_out =
        found.split_off(found.len().min(DIMENSIONS_MAX)).into_iter().map(|dimension| dimension.name).collect();
    Ok((found, left_out))
}

/// A number's part, in words; `None` if all are one.
fn parts(sorted: SampleRef<'_>, read: &str) -> Option<String> {
    let at = |part: usize| sorted.at_row(sorted.rows() * part as u64 / PARTS as u64);
    let mut cuts: Vec<f64> = (1..PARTS).filter_map(at).collect();
    cuts.dedup();
    // A cut at the smallest number has nothing below it.
    cuts.retain(|cut| sorted.ends().is_some_and(|(first, _)| first < *cut));
    let (first, last) = (cuts.first()?, cuts.last()?);
    let literal = |x: &f64| format!("CAST('{x:?}' AS DOUBLE)");
    let mut value = format!("CASE WHEN {read} < {} THEN {}", literal(first), sql::text(&format!("< {first}")));
    for pair in cuts.windows(2) {
        let name = sql::text(&format!("{} to {}", pair[0], pair[1]));
        value += &format!(" WHEN {read} < {} THEN {name}", literal(&pair[1]));
    }
    // NaN is above all numbers, and no number.
    value += &format!(
        " WHEN {read} >= {} AND NOT isnan({read}) THEN {} END",
        literal(last),
        sql::text(&format!("≥ {last}"))
    );
    Some(value)
}

/// The rows that count, as SQL: what each is worth, and its values.
async fn scored_rows(
    session: &SessionContext,
    columns: &Columns,
    dimensions: &[Dimension],
    context: &EvaluationContext,
    metric: RowMetric,
) -> Result<String, Error> {
    let query = judge::query(session, columns, context).await?;
    let (worth, counts) = metric.sql();
    let mut inputs: Vec<String> = query.inputs.iter().map(|(name, input)| format!("{input} AS {name}")).collect();
    inputs.extend(dimensions.iter().enumerate().map(|(at, dimension)| format!("{} AS d{at}", dimension.value)));
    let rows = format!("SELECT {} FROM {}", inputs.join(", "), columns.valid_rows());
    Ok(format!("(SELECT *, {worth} AS x FROM ({rows}) WHERE {counts})"))
}

/// Sums of every slice of these crosses.
async fn sums(session: &SessionContext, rows: &str, sets: &[Vec<usize>]) -> Result<BTreeMap<Slice, Sums>, Error> {
    let mut keys: Vec<usize> = sets.iter().flatten().copied().collect();
    keys.sort_unstable();
    keys.dedup();
    let mut outputs: Vec<String> =
        ["count(*) AS n", "exact_sum(x) AS sum", "exact_sum(x * x) AS squares"].map(str::to_owned).to_vec();
    outputs.extend(keys.iter().map(|key| format!("d{key}, grouping(d{key}) AS all_d{key}")));
    let named =
        |set: &Vec<usize>| format!("({})", set.iter().map(|at| format!("d{at}")).collect::<Vec<_>>().join(", "));
    let group_by = if keys.is_empty() {
        String::new()
    } else {
        format!("GROUP BY GROUPING SETS ({})", sets.iter().map(named).collect::<Vec<_>>().join(", "))
    };
    let query = format!("SELECT {} FROM {rows} {group_by}", outputs.join(", "));
    let mut slices = BTreeMap::new();
    for batch in collect(session, &query).await? {
        for row in 0..batch.num_rows() {
            let Some(slice) = slice_of(&batch, &keys, row)? else { continue };
            let double = |at: usize| {
                let column = batch.column(at).as_primitive::<Float64Type>();
                if column.is_valid(row) { column.value(row) } else { 0.0 }
            };
            let n = batch.column(0).as_primitive::<Int64Type>().value(row) as f64;
            slices.insert(slice, Sums { rows: n, sum: double(1), squares: double(2) });
        }
    }
    Ok(slices)
}

/// Where a result row belongs; `None` for the rows that lack a value.
fn slice_of(batch: &RecordBatch, keys: &[usize], row: usize) -> Result<Option<Slice>, Error> {
    let mut slice = Slice::new();
    for key in keys {
        let missing = || Error::MissingColumn { table: "of slices".to_owned(), column: format!("d{key}") };
        let all = batch.column_by_name(&format!("all_d{key}")).ok_or_else(missing)?;
        if cast(all, &DataType::Int64)?.as_primitive::<Int64Type>().value(row) != 0 {
            continue;
        }
        let texts = text_column(batch, &format!("d{key}"))?;
        if texts.is_null(row) {
            return Ok(None);
        }
        slice.push((*key, texts.as_string::<i32>().value(row).to_owned()));
    }
    Ok(Some(slice))
}

fn judge_slices(slices: &BTreeMap<Slice, Sums>, all: Sums, dimensions: &[Dimension], search: Search) -> Weakest {
    let min_rows = search.min_rows.max(2) as f64;
    let is_part = |slice: &Slice, sums: &Sums| {
        // A cross that is one of its own sides says nothing new.
        let same = |one: &(usize, String)| slices.get(&vec![one.clone()]).is_some_and(|side| side.rows == sums.rows);
        slice.len() == 1 || !slice.iter().any(same)
    };
    let mut judged: Vec<WeakSegment> = Vec::new();
    for (slice, sums) in slices {
        let rest = Sums { rows: all.rows - sums.rows, sum: all.sum - sums.sum, squares: all.squares - sums.squares };
        if sums.rows < min_rows || rest.rows < min_rows || !is_part(slice, sums) {
            continue;
        }
        let compared = compare(*sums, rest, search.metric);
        let Some(((ci_low, ci_high), p_value)) = compared.interval.zip(compared.p_value) else { continue };
        let names: Vec<&str> = slice.iter().map(|(at, _)| dimensions[*at].name.as_str()).collect();
        let escaped = |(_, value): &(usize, String)| value.replace('\\', r"\\").replace(',', r"\,");
        let values: Vec<String> =
            if let [(_, one)] = slice.as_slice() { vec![one.clone()] } else { slice.iter().map(escaped).collect() };
        judged.push(WeakSegment {
            segment: names.join(","),
            segment_value: values.join(","),
            n: sums.rows as u64,
            value: sums.sum / sums.rows,
            rest: rest.sum / rest.rows,
            ci_low,
            ci_high,
            p_value,
            p_adjusted: 1.0,
            is_weak: false,
        });
    }
    let looked_at = judged.len();
    let adjusted = benjamini_hochberg(&judged.iter().map(|slice| slice.p_value).collect::<Vec<_>>());
    for (slice, adjusted) in judged.iter_mut().zip(adjusted) {
        slice.p_adjusted = adjusted;
    }
    let worse_by = |slice: &WeakSegment| {
        if search.metric.is_share() { slice.rest - slice.value } else { slice.value - slice.rest }
    };
    judged.retain(|slice| worse_by(slice) > 0.0);
    for slice in &mut judged {
        slice.is_weak = slice.p_adjusted <= FALSE_DISCOVERIES_MAX;
    }
    let cost = |slice: &WeakSegment| worse_by(slice) * slice.n as f64;
    judged.sort_by(|a, b| {
        let order = a.p_value.total_cmp(&b.p_value).then(cost(b).total_cmp(&cost(a)));
        order.then_with(|| (&a.segment, &a.segment_value).cmp(&(&b.segment, &b.segment_value)))
    });
    Weakest { segments: judged, looked_at, left_out: Vec::new() }
}

/// A slice less the rest.
fn compare(slice: Sums, rest: Sums, metric: RowMetric) -> Comparison {
    let mean = |sums: Sums| sums.sum / sums.rows;
    let bare = Comparison::bare(metric.name(), [mean(rest), mean(slice)]);
    if metric.is_share() {
        let bounded = |sums: Sums| {
            let value = mean(sums).clamp(0.0, 1.0);
            let (low, high) = wilson(value, sums.rows);
            Bounded { value, low, high }
        };
        return bare.by_mover(ComparisonMethod::Newcombe, bounded(rest), bounded(slice), 0.0);
    }
    let squared_error = |sums: Sums| {
        let variance = (sums.squares / sums.rows - mean(sums) * mean(sums)).max(0.0);
        variance / (sums.rows - 1.0)
    };
    let (u, v) = (squared_error(rest), squared_error(slice));
    if u + v <= 0.0 {
        return bare;
    }
    let degrees = (u + v) * (u + v) / (u * u / (rest.rows - 1.0) + v * v / (slice.rows - 1.0));
    bare.by_error(ComparisonMethod::WelchT, (u + v).sqrt(), Some(degrees))
}

/// Adjusted p-values, in the order of the given ones.
///
/// # Formula
/// Of the i-th smallest of m: the smallest of `m p / j` over all `j ≥ i`.
fn benjamini_hochberg(p_values: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..p_values.len()).collect();
    order.sort_unstable_by(|a, b| p_values[*a].total_cmp(&p_values[*b]));
    let mut adjusted = vec![1.0; p_values.len()];
    let mut least = 1.0_f64;
    for (place, at) in order.iter().enumerate().rev() {
        least = least.min(p_values[*at] * p_values.len() as f64 / (place + 1) as f64);
        adjusted[*at] = least;
    }
    adjusted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn adjusted_p_values_are_scipys() {
        // scipy.stats.false_discovery_control([0.01, 0.04, 0.03, 0.005, 0.8])
        let adjusted = benjamini_hochberg(&[0.01, 0.04, 0.03, 0.005, 0.8]);
        for (ours, theirs) in adjusted.iter().zip([0.025, 0.05, 0.05, 0.025, 0.8]) {
            assert!((ours - theirs).abs() < 1e-12, "{adjusted:?}");
        }
        // Of two that are nearly alike the larger p-value counts for both: scipy.stats.false_discovery_control([0.01, 0.012, 0.5])
        let adjusted = benjamini_hochberg(&[0.01, 0.012, 0.5]);
        for (ours, theirs) in adjusted.iter().zip([0.018, 0.018, 0.5]) {
            assert!((ours - theirs).abs() < 1e-12, "{adjusted:?}");
        }
        assert_eq!(benjamini_hochberg(&[]), Vec::<f64>::new());
    }

    #[test]
    fn numbers_are_cut_at_their_quartiles() {
        let value = parts(SampleRef::new(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0], &[]), "x").expect("several");
        for part in ["'< 3'", "'3 to 5'", "'5 to 7'", "'≥ 7'"] {
            assert!(value.contains(part), "{value}");
        }
        assert!(
            parts(SampleRef::new(&[0.0, 0.0, 0.0, 0.0, 1.0], &[]), "x").is_none(),
            "nearly constant: the quartiles are its smallest value"
        );
        assert!(parts(SampleRef::new(&[], &[]), "x").is_none() && parts(SampleRef::new(&[3.0; 9], &[]), "x").is_none());
    }
}
