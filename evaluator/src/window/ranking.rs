//! How well the rows of a query are ranked, as means over the queries of each group.

use std::collections::BTreeMap;

use datafusion::{
    arrow::{
        array::{Array, AsArray},
        datatypes::{Float64Type, Int64Type},
    },
    prelude::SessionContext,
};
use driftline_schemas::{
    config::RankingSpec,
    tables::{MetricRow, Task},
};

use super::{
    EvaluationContext,
    columns::{Columns, collect},
    groups::{Groups, Versions},
    inputs,
    judge::{self, Group, SAMPLING_RATE},
    sql,
};
use crate::{
    Error,
    metrics::{
        Estimate, Interval, Mass, Method, Outcome, Report, Undefined,
        interval::wilson,
        moments,
        ranking::{METRICS, names},
    },
};

/// The place of the hit rate among the metrics: it is a share of queries, all others are means.
const HIT_RATE: usize = 3;

/// Queries of which something can be said, and the weighted sums of the first three powers of each metric.
type Sums = (Mass, [[f64; 3]; METRICS]);

/// Adds the metrics of ranking to every group that has metrics already; nothing if the model ranks nothing.
pub(super) async fn measure(
    session: &SessionContext,
    columns: &Columns,
    groups: &Groups,
    metrics: &[MetricRow],
    context: &EvaluationContext,
) -> Result<Vec<MetricRow>, Error> {
    let Some(spec) = &context.ranking else { return Ok(Vec::new()) };
    let mut sums = BTreeMap::new();
    if let Some(query) = query(columns, groups, spec, context) {
        for batch in collect(session, &query).await? {
            for row in 0..batch.num_rows() {
                let Some(group) = judge::group_of(&batch, groups, row)? else { continue };
                let queries = batch.column(0).as_primitive::<Int64Type>().value(row) as u64;
                let double = |at: usize| {
                    let column = batch.column(at).as_primitive::<Float64Type>();
                    if column.is_valid(row) { column.value(row) } else { 0.0 }
                };
                let powers = |metric: usize| [3, 4, 5].map(|power| double(metric * 3 + power));
                sums.insert(group, (Mass::of_sums(queries, double(1), double(2)), std::array::from_fn(powers)));
            }
        }
    }
    if let Versions::One(version) = &groups.versions {
        let of_version =
            |(group, sums): (&Group, &Sums)| (Group { model_version: Some(version.clone()), ..group.clone() }, *sums);
        let of_version: Vec<(Group, Sums)> = sums.iter().map(of_version).collect();
        sums.extend(of_version);
    }
    let mut known: BTreeMap<Group, (i64, i64)> = BTreeMap::new();
    for row in metrics {
        known.insert(Group::of(row), (row.n, row.n_labelled));
    }
    let mut rows = Vec::new();
    for (group, (n, n_labelled)) in known {
        let report = report(sums.get(&group), spec.k);
        rows.extend(judge::rows_of(&group, &report, (n, n_labelled), context));
    }
    Ok(rows)
}

fn report(sums: Option<&Sums>, k: usize) -> Report {
    let mut report = Report::default();
    for (at, name) in names(k).iter().enumerate() {
        report.add(name, None, outcome(at, sums));
    }
    report
}

/// The mean of a metric over queries.
fn outcome(at: usize, sums: Option<&Sums>) -> Outcome {
    let Some((queries, sums)) = sums.filter(|(queries, _)| queries.rows() > 0) else {
        return Err(Undefined::NoValues);
    };
    let rows = queries.effective_rows();
    if at == HIT_RATE {
        let value = sums[at][0] / queries.weight();
        let interval = Interval::new(wilson(value, rows), Method::Wilson).on_rows(rows).on_hits(value, rows);
        return Ok(Estimate::bare(value).with_interval(interval));
    }
    let estimate = moments::estimate(queries, sums[at], rows);
    // None of them can be more than one.
    let interval = estimate.interval.map(|interval| interval.map(|end| end.min(1.0)));
    Ok(Estimate { interval, ..estimate })
}

/// One query for all groups; `None` if no row says which query it belongs to.
fn query(columns: &Columns, groups: &Groups, spec: &RankingSpec, context: &EvaluationContext) -> Option<String> {
    let of_query = columns.segment(&spec.group)?;
    let score = format!("coalesce({}, {})", columns.double("score"), columns.double("prediction_value"));
    let relevance = match context.task {
        Task::Binary => {
            let positives = sql::texts(inputs::positives(context.positive_class.as_deref()));
            format!("CAST({} IN ({positives}) AS DOUBLE)", columns.text("label"))
        }
        Task::Multiclass | Task::Regression => columns.double("label_value"),
    };
    let rate = columns.double(SAMPLING_RATE);
    let weight = format!("CASE WHEN {rate} > 0 AND {rate} < 1 THEN 1 / {rate} ELSE 1.0 END");
    let mut inputs = vec![format!("{of_query} AS query, {score} AS score, {relevance} AS relevance, {weight} AS w")];
    let (keys, by_version) = judge::keys(columns, groups, &mut inputs);
    let rows = format!("SELECT {} FROM {}", inputs.join(", "), columns.valid_rows());
    let rows =
        format!("(SELECT * FROM ({rows}) WHERE query IS NOT NULL AND score IS NOT NULL AND relevance IS NOT NULL)");
    let named: Vec<String> = keys.iter().map(|key| format!("{key}, grouping({key}) AS all_{key}")).collect();
    let outer: Vec<String> = keys.iter().map(|key| format!("{key}, all_{key}")).collect();
    let by_query = format!("GROUP BY GROUPING SETS ({})", judge::grouping_sets(&keys, by_version, Some("query")));
    let comma = |list: &[String]| list.iter().map(|item| format!(", {item}")).collect::<Vec<_>>().concat();
    let queries = format!(
        "SELECT query, ranked_query(score, relevance, '{}') AS m, exact_sum(w) / count(*) AS w{} FROM {rows} {by_query}",
        spec.k,
        comma(&named)
    );
    let power = |metric: usize, power: usize| {
        let factors = vec![format!("m[{}]", metric + 1); power];
        format!("exact_sum(w * {})", factors.join(" * "))
    };
    let sums: Vec<String> = (0..METRICS).flat_map(|metric| (1..=3).map(move |p| power(metric, p))).collect();
    let group_by = if outer.is_empty() { String::new() } else { format!("GROUP BY {}", outer.join(", ")) };
    let said = "CASE WHEN m[1] IS NOT NULL THEN w END";
    let weights = format!("exact_sum({said}) AS weight, exact_sum({said} * w) AS squares");
    let counted = format!("count(m[1]) AS queries, {weights}{}{}", comma(&sums), comma(&outer));
    Some(format!("SELECT {counted} FROM ({queries}) {group_by}"))
}
