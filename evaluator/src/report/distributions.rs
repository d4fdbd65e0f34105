//! How the values of a drifted column lie in a window, beside those of the reference: counts of bins and categories, no rows.
use std::collections::{BTreeMap, BTreeSet};

use datafusion::prelude::SessionContext;
use driftline_schemas::tables::Task;
use driftline_store::Store;

use super::{Distribution, DriftPoint, Share};
use crate::reference::{Reference, ReferenceValues, path_of};
use crate::window::columns::{Column, Columns, collect};
use crate::window::quality::ALL_FEATURES;
use crate::{Error, sql_text};

/// Columns that are shown, those that have drifted furthest.
const COLUMNS_MAX: usize = 12;
/// Bins of a column of numbers between the reference's 1 % and 99 % quantile; one more on each side.
const BINS: usize = 18;
/// Categories that are named; the rest is one.
const CATEGORIES_MAX: usize = 14;
/// Rows on one of both sides from which on a category is named: a value that only a few rows have could name somebody.
const ROWS_MIN: u64 = 10;

/// The columns that have drifted in the newest window that was measured, the furthest first.
fn drifted(drift: &[DriftPoint]) -> Vec<&DriftPoint> {
    let measured = drift.iter().filter(|point| point.drifted.is_some());
    let Some(newest) = measured.map(|point| point.start).max() else { return Vec::new() };
    let is_drawn =
        |point: &&DriftPoint| point.start == newest && point.drifted == Some(true) && point.column != ALL_FEATURES;
    let mut columns: Vec<&DriftPoint> = drift.iter().filter(is_drawn).collect();
    let distance = |point: &DriftPoint| match (point.statistic, point.threshold) {
        (Some(statistic), Some(threshold)) if threshold > 0.0 => statistic / threshold,
        _ => 0.0,
    };
    columns.sort_by(|one, other| distance(other).total_cmp(&distance(one)).then_with(|| one.column.cmp(&other.column)));
    let mut seen = BTreeSet::new();
    columns.retain(|point| seen.insert(point.column.as_str()));
    columns.truncate(COLUMNS_MAX);
    columns
}

/// Reads them. `rows` is the condition of rows of `history` that count.
pub(super) async fn read(
    store: &Store,
    session: &SessionContext,
    (model, task): (&str, Task),
    rows: &str,
    drift: &[DriftPoint],
) -> Result<Vec<Distribution>, Error> {
    let mut references: BTreeMap<&str, Option<Reference>> = BTreeMap::new();
    let mut distributions = Vec::new();
    let columns = Columns::of(session, "history").await?;
    for point in drifted(drift) {
        let Some(version) = point.reference_version.as_deref() else { continue };
        if !references.contains_key(version) {
            let object = store.get(&path_of(model, version)).await?;
            // What cannot be read any more is not shown; the distance is there all the same.
            let read = object.and_then(|object| Reference::from_json(&object.bytes)?.ok());
            references.insert(version, read);
        }
        let Some(Some(reference)) = references.get(version) else { continue };
        let kept = reference.columns.iter().find(|kept| kept.column.name() == point.column);
        let Some(kept) = kept else { continue };
        let window = format!("CAST(window_start AS BIGINT) = {} AND {rows}", point.start);
        let shares = match &kept.values {
            ReferenceValues::Numeric { sample, .. } => {
                let read = columns.numeric(task);
                let value = expression(&read, &kept.column).or_else(|| columns.attribution(&kept.column));
                let Some(value) = value else { continue };
                numbers(session, &value, &window, sample).await?
            }
            ReferenceValues::Categorical { n, categories, .. } => {
                let read = columns.categorical(task);
                let Some(value) = expression(&read, &kept.column) else { continue };
                categories_of(session, &value, &window, *n, categories).await?
            }
        };
        distributions.push(Distribution {
            start: point.start,
            column: point.column.clone(),
            reference_version: version.to_owned(),
            is_numeric: matches!(kept.values, ReferenceValues::Numeric { .. }),
            n: shares.iter().map(|share| share.current_rows).sum(),
            shares,
        });
    }
    Ok(distributions)
}

fn expression(read: &[(Column, String)], column: &Column) -> Option<String> {
    read.iter().find(|(known, _)| known == column).map(|(_, value)| value.clone())
}

/// Equal bins between two quantiles of the reference; where these are one value, a single bin.
fn edges(sample: &[f64]) -> Vec<f64> {
    let at = |share: f64| sample[((sample.len() - 1) as f64 * share).round() as usize];
    let (low, high) = if sample.is_empty() { (0.0, 0.0) } else { (at(0.01), at(0.99)) };
    if !(low < high && (high - low).is_finite()) {
        return vec![low];
    }
    (0..=BINS).map(|step| low + (high - low) * step as f64 / BINS as f64).collect()
}

async fn numbers(session: &SessionContext, value: &str, window: &str, sample: &[f64]) -> Result<Vec<Share>, Error> {
    let edges = edges(sample);
    // Cumulated: the rows up to each edge, and all.
    let counts: Vec<String> = edges.iter().map(|edge| format!("count(*) FILTER (WHERE x <= {edge:?})")).collect();
    let query = format!(
        "SELECT make_array({}, count(x)) AS counts FROM (SELECT {value} AS x FROM history WHERE {window}) WHERE x IS NOT NULL AND NOT isnan(x)",
        counts.join(", ")
    );
    let up_to = counts_of(&collect(session, &query).await?)?;
    let in_reference = |edge: f64| sample.partition_point(|value| *value <= edge) as u64;
    let mut known: Vec<u64> = edges.iter().map(|edge| in_reference(*edge)).collect();
    known.push(sample.len() as u64);
    let names = std::iter::once(format!("up to {}", super::number(edges[0])))
        .chain(edges.windows(2).map(|pair| format!("{} to {}", super::number(pair[0]), super::number(pair[1]))))
        .chain([format!("above {}", super::number(edges[edges.len() - 1]))]);
    let steps = |cumulated: &[u64]| -> Vec<u64> {
        let mut before = 0;
        cumulated.iter().map(|count| count.saturating_sub(std::mem::replace(&mut before, *count))).collect()
    };
    let (reference, current) = (steps(&known), steps(&up_to));
    Ok(shares(
        names.zip(reference).zip(current).map(|((name, reference), current)| (name, reference, current)).collect(),
    ))
}

/// The numbers of the only list of the only row.
fn counts_of(batches: &[arrow::array::RecordBatch]) -> Result<Vec<u64>, Error> {
    use arrow::array::AsArray;
    let Some(batch) = batches.iter().find(|batch| batch.num_rows() > 0) else { return Ok(Vec::new()) };
    let list = batch.column(0).as_list::<i32>().value(0);
    let list = arrow::compute::cast(&list, &arrow::datatypes::DataType::Int64)?;
    Ok(list.as_primitive::<arrow::datatypes::Int64Type>().values().iter().map(|count| count.unsigned_abs()).collect())
}

async fn categories_of(
    session: &SessionContext,
    value: &str,
    window: &str,
    n: u64,
    categories: &BTreeMap<String, u64>,
) -> Result<Vec<Share>, Error> {
    use arrow::array::AsArray;
    let known: Vec<String> = categories.keys().map(|category| sql_text(category)).collect();
    // Values that the reference does not know are one, whatever they are: how many there are has no bound.
    let kept =
        if known.is_empty() { "NULL".into() } else { format!("CASE WHEN x IN ({}) THEN x END", known.join(", ")) };
    let query = format!(
        "SELECT CAST({kept} AS VARCHAR) AS category, CAST(count(*) AS BIGINT) AS rows FROM (SELECT {value} AS x FROM history WHERE {window}) \
         WHERE x IS NOT NULL GROUP BY 1"
    );
    let mut current: BTreeMap<String, u64> = BTreeMap::new();
    let mut unseen = 0;
    for batch in collect(session, &query).await? {
        let names = arrow::compute::cast(batch.column(0), &arrow::datatypes::DataType::Utf8)?;
        let (names, rows) = (names.as_string::<i32>(), batch.column(1).as_primitive::<arrow::datatypes::Int64Type>());
        for (name, rows) in names.iter().zip(rows.values()) {
            match name {
                Some(name) => *current.entry(name.to_owned()).or_default() += rows.unsigned_abs(),
                None => unseen += rows.unsigned_abs(),
            }
        }
    }
    let mut all: Vec<(String, u64, u64)> = categories
        .iter()
        .map(|(name, reference)| (name.clone(), *reference, current.get(name).copied().unwrap_or(0)))
        .collect();
    all.sort_by(|one, other| (other.1 + other.2).cmp(&(one.1 + one.2)).then_with(|| one.0.cmp(&other.0)));
    let is_named = |(at, row): (usize, &(String, u64, u64))| at < CATEGORIES_MAX && row.1.max(row.2) >= ROWS_MIN;
    let named = all.iter().enumerate().take_while(|row| is_named(*row)).count();
    let rest = all.split_off(named);
    let beyond = n.saturating_sub(categories.values().sum());
    let others = rest.iter().fold((beyond, unseen), |sum, row| (sum.0 + row.1, sum.1 + row.2));
    if others != (0, 0) {
        all.push(("all others".into(), others.0, others.1));
    }
    Ok(shares(all))
}

fn shares(rows: Vec<(String, u64, u64)>) -> Vec<Share> {
    let all = rows.iter().fold((0, 0), |sum, row| (sum.0 + row.1, sum.1 + row.2));
    let share = |count: u64, of: u64| if of > 0 { count as f64 / of as f64 } else { 0.0 };
    rows.into_iter()
        .map(|(name, reference, current)| Share {
            name,
            reference: share(reference, all.0),
            current: share(current, all.1),
            current_rows: current,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bins_lie_between_quantiles_and_a_constant_has_one_edge() {
        let sample: Vec<f64> = (0..=1000).map(f64::from).collect();
        let found = edges(&sample);
        assert_eq!((found.len(), found[0], found[BINS]), (BINS + 1, 10.0, 990.0));
        assert_eq!(edges(&[5.0; 7]), [5.0]);
        assert_eq!(edges(&[]), [0.0]);
        assert_eq!(edges(&[f64::MIN, f64::MAX]), [f64::MIN], "a range that is no number");
    }

    #[test]
    fn shares_of_each_side_are_one() {
        let rows = vec![("a".into(), 1, 30), ("b".into(), 3, 10)];
        let found = shares(rows);
        assert_eq!((found[0].reference, found[0].current, found[1].current_rows), (0.25, 0.75, 10));
        assert!(shares(vec![("a".into(), 0, 0)]).iter().all(|share| share.reference == 0.0 && share.current == 0.0));
    }

    #[tokio::test]
    async fn counts_come_from_the_rows_of_the_window_and_rare_values_are_not_named() {
        let session = SessionContext::new();
        let table = "CREATE TABLE history AS SELECT * FROM (VALUES \
                     (1, 1.0, 'nl', 0), (2, 2.0, 'nl', 0), (3, 99.0, 'zz', 0), (4, NULL, NULL, 0), (5, 1.5, 'rare', 0), (6, 1.0, 'nl', 7)) \
                     AS rows(id, x, c, w)";
        session.sql(table).await.expect("a table").collect().await.expect("made");
        let sample: Vec<f64> = (0..=100).map(|at| f64::from(at) / 10.0).collect();
        let found = numbers(&session, "x", "w = 0", &sample).await.expect("counted");
        assert_eq!(found.len(), BINS + 2);
        assert_eq!(found.iter().map(|share| share.current_rows).collect::<Vec<_>>()[BINS + 1], 1, "99 lies above");
        assert_eq!(found.iter().map(|share| share.current_rows).sum::<u64>(), 4, "a missing value is no value");
        assert!((found.iter().map(|share| share.reference).sum::<f64>() - 1.0).abs() < 1e-12);
        let known = BTreeMap::from([("nl".to_owned(), 80), ("be".to_owned(), 18), ("rare".to_owned(), 2)]);
        let found = categories_of(&session, "c", "w = 0", 100, &known).await.expect("counted");
        let named: Vec<(&str, u64)> = found.iter().map(|share| (share.name.as_str(), share.current_rows)).collect();
        assert_eq!(
            named,
            [("nl", 2), ("be", 0), ("all others", 2)],
            "neither one that is rare nor one that is unknown"
        );
    }
    #[tokio::test]
    async fn a_bin_ends_with_its_edge_and_what_a_reference_does_not_keep_is_among_all_others() {
        let session = SessionContext::new();
        let table = "CREATE TABLE history AS SELECT * FROM (VALUES (0.1, 'a'), (9.9, 'a'), (9.91, 'b')) AS rows(x, c)";
        session.sql(table).await.expect("a table").collect().await.expect("made");
        let sample: Vec<f64> = (0..=100).map(|at| f64::from(at) / 10.0).collect();
        let found = numbers(&session, "x", "true", &sample).await.expect("counted");
        let rows: Vec<u64> = found.iter().map(|share| share.current_rows).collect();
        assert_eq!((rows[0], rows[BINS], rows[BINS + 1]), (1, 1, 1), "{rows:?}");
        // The reference had 100 rows, and keeps the names of 60 of them.
        let known = BTreeMap::from([("a".to_owned(), 40), ("b".to_owned(), 20)]);
        let found = categories_of(&session, "c", "true", 100, &known).await.expect("counted");
        let named: Vec<(&str, f64)> = found.iter().map(|share| (share.name.as_str(), share.reference)).collect();
        assert_eq!(named, [("a", 0.4), ("b", 0.2), ("all others", 0.4)]);
    }

    #[test]
    fn b1_the_furthest_of_the_newest_window_that_was_measured_are_drawn() {
        let point = |start: i64, column: &str, statistic: f64, drifted: Option<bool>| DriftPoint {
            start,
            column: column.into(),
            method: "psi".into(),
            statistic: Some(statistic),
            p_value: None,
            threshold: Some(0.1),
            drifted,
            reason: None,
            reference_version: None,
        };
        let mut drift = vec![
            point(1, "older", 9.0, Some(true)),
            point(2, "near", 0.2, Some(true)),
            point(2, "far", 0.5, Some(true)),
            point(2, "still", 0.01, Some(false)),
            point(2, ALL_FEATURES, 7.0, Some(true)),
            point(3, "unmeasured", 8.0, None),
        ];
        let names = |drift: &[DriftPoint]| -> Vec<String> {
            drifted(drift).into_iter().map(|point| point.column.clone()).collect()
        };
        assert_eq!(names(&drift), ["far", "near"]);
        drift.extend((0..50).map(|at| point(2, &format!("c{at:02}"), 0.3, Some(true))));
        let names = names(&drift);
        assert_eq!((names.len(), names[0].as_str(), names[1].as_str()), (COLUMNS_MAX, "far", "c00"));
    }
}
