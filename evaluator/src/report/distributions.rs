//! How the values of a drifted column lie in a window, beside those of the reference: counts of bins and categories, no rows.
use std::collections::{BTreeMap, BTreeSet};

use datafusion::prelude::SessionContext;
use driftline_schemas::tables::Task;
use driftline_store::Store;

use super::{Distribution, DriftPoint, Share};
use crate::metrics::mass::Weight;
use crate::reference::{Reference, ReferenceValues, WeighedCategories, path_of};
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

/// Rows of the window, and what they stand for.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
struct Mass {
    rows: u64,
    weight: f64,
}

impl Mass {
    fn add(&mut self, other: Self) {
        self.rows += other.rows;
        self.weight += other.weight;
    }
}

/// A bin or a category: its name, what the reference's rows in it stand for, and the window's.
type Part = (String, f64, Mass);

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
    // Null where there is none: such a row stands for itself.
    let rate = columns.double("sampling_rate");
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
            ReferenceValues::Numeric { sample, weights, .. } => {
                let read = columns.numeric(task);
                let value = expression(&read, &kept.column).or_else(|| columns.attribution(&kept.column));
                let Some(value) = value else { continue };
                numbers(session, (&value, &rate), &window, (sample, weights)).await?
            }
            ReferenceValues::Categorical { n, categories, weighed } => {
                let read = columns.categorical(task);
                let Some(value) = expression(&read, &kept.column) else { continue };
                categories_of(session, (&value, &rate), &window, (*n, categories, weighed.as_ref())).await?
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

async fn numbers(
    session: &SessionContext,
    (value, rate): (&str, &str),
    window: &str,
    (sample, weights): (&[f64], &[Weight]),
) -> Result<Vec<Share>, Error> {
    let edges = edges(sample);
    // Cumulated: the rows up to each edge, and all; then what they stand for.
    let upto = |what: &str| {
        let each: Vec<String> = edges.iter().map(|edge| format!("{what} FILTER (WHERE x <= {edge:?})")).collect();
        format!("make_array({}, {what})", each.join(", "))
    };
    let query = format!(
        "SELECT {} AS rows, {} AS weights FROM (SELECT {value} AS x, {rate} AS rate FROM history WHERE {window}) WHERE x IS NOT NULL AND NOT isnan(x)",
        upto("count(*)"),
        upto("total_weight(rate)"),
    );
    let up_to = masses_of(&collect(session, &query).await?)?;
    let in_reference = |count: usize| match weights.get(..count) {
        Some(weights) => weights.iter().map(|weight| weight.value()).sum(),
        None => count as f64,
    };
    let counts = edges.iter().map(|edge| sample.partition_point(|value| value <= edge)).chain([sample.len()]);
    let known: Vec<f64> = counts.map(in_reference).collect();
    let names = std::iter::once(format!("up to {}", super::number(edges[0])))
        .chain(edges.windows(2).map(|pair| format!("{} to {}", super::number(pair[0]), super::number(pair[1]))))
        .chain([format!("above {}", super::number(edges[edges.len() - 1]))]);
    let mut before = (0.0, Mass::default());
    let step = |((name, known), up_to): ((String, f64), Mass)| {
        let (reference, last) = std::mem::replace(&mut before, (known, up_to));
        let own = Mass { rows: up_to.rows.saturating_sub(last.rows), weight: (up_to.weight - last.weight).max(0.0) };
        (name, known - reference, own)
    };
    Ok(shares(names.zip(known).zip(up_to).map(step).collect()))
}

/// The two lists of the only row.
fn masses_of(batches: &[arrow::array::RecordBatch]) -> Result<Vec<Mass>, Error> {
    use arrow::array::AsArray;
    let Some(batch) = batches.iter().find(|batch| batch.num_rows() > 0) else { return Ok(Vec::new()) };
    let list = |at: usize, of| arrow::compute::cast(&batch.column(at).as_list::<i32>().value(0), &of);
    let (rows, weights) = (list(0, arrow::datatypes::DataType::Int64)?, list(1, arrow::datatypes::DataType::Float64)?);
    let rows = rows.as_primitive::<arrow::datatypes::Int64Type>().values();
    let weights = weights.as_primitive::<arrow::datatypes::Float64Type>().values();
    Ok(rows.iter().zip(weights).map(|(rows, weight)| Mass { rows: rows.unsigned_abs(), weight: *weight }).collect())
}

async fn categories_of(
    session: &SessionContext,
    (value, rate): (&str, &str),
    window: &str,
    (n, categories, weighed): (u64, &BTreeMap<String, u64>, Option<&WeighedCategories>),
) -> Result<Vec<Share>, Error> {
    use arrow::array::AsArray;
    let known: Vec<String> = categories.keys().map(|category| sql_text(category)).collect();
    // Values that the reference does not know are one, whatever they are: how many there are has no bound.
    let kept =
        if known.is_empty() { "NULL".into() } else { format!("CASE WHEN x IN ({}) THEN x END", known.join(", ")) };
    let query = format!(
        "SELECT CAST({kept} AS VARCHAR) AS category, CAST(count(*) AS BIGINT) AS rows, total_weight(rate) AS weight \
         FROM (SELECT {value} AS x, {rate} AS rate FROM history WHERE {window}) WHERE x IS NOT NULL GROUP BY 1"
    );
    let mut current: BTreeMap<String, Mass> = BTreeMap::new();
    let mut unseen = Mass::default();
    for batch in collect(session, &query).await? {
        let names = arrow::compute::cast(batch.column(0), &arrow::datatypes::DataType::Utf8)?;
        let (names, rows) = (names.as_string::<i32>(), batch.column(1).as_primitive::<arrow::datatypes::Int64Type>());
        let weights = batch.column(2).as_primitive::<arrow::datatypes::Float64Type>();
        for ((name, rows), weight) in names.iter().zip(rows.values()).zip(weights.values()) {
            let of = match name {
                Some(name) => current.entry(name.to_owned()).or_default(),
                None => &mut unseen,
            };
            of.add(Mass { rows: rows.unsigned_abs(), weight: *weight });
        }
    }
    let (weight_of, beyond) = if let Some(weighed) = weighed {
        (weighed.categories(), weighed.others())
    } else {
        let counted = categories.iter().map(|(name, rows)| (name.as_str(), *rows as f64)).collect();
        (counted, n.saturating_sub(categories.values().sum()) as f64)
    };
    let part = |(name, rows): (&String, &u64)| {
        let known = weight_of.get(name.as_str()).copied().unwrap_or_default();
        (*rows, (name.clone(), known, current.get(name).copied().unwrap_or_default()))
    };
    let mut all: Vec<(u64, Part)> = categories.iter().map(part).collect();
    all.sort_by(|(_, one), (_, other)| {
        (other.1 + other.2.weight).total_cmp(&(one.1 + one.2.weight)).then_with(|| one.0.cmp(&other.0))
    });
    let mut parts: Vec<Part> = Vec::new();
    let mut others = (beyond, unseen);
    for (rows, part) in all {
        if parts.len() < CATEGORIES_MAX && part.2.rows.max(rows) >= ROWS_MIN {
            parts.push(part);
        } else {
            others.0 += part.1;
            others.1.add(part.2);
        }
    }
    if others != (0.0, Mass::default()) {
        parts.push(("all others".into(), others.0, others.1));
    }
    Ok(shares(parts))
}

fn shares(parts: Vec<Part>) -> Vec<Share> {
    let all = parts.iter().fold((0.0, 0.0), |sum, part| (sum.0 + part.1, sum.1 + part.2.weight));
    let share = |weight: f64, of: f64| if of > 0.0 { weight / of } else { 0.0 };
    parts
        .into_iter()
        .map(|(name, reference, current)| Share {
            name,
            reference: share(reference, all.0),
            current: share(current.weight, all.1),
            current_rows: current.rows,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn session() -> SessionContext {
        let session = SessionContext::new();
        crate::udaf::register(&session);
        session
    }

    #[tokio::test]
    async fn sampled_rows_count_for_what_they_stand_for_on_both_sides_and_names_need_rows() {
        let session = session();
        let table = "CREATE TABLE history AS SELECT 1.0 AS x, 'a' AS c, 0.1 AS rate FROM generate_series(1, 12) \
                     UNION ALL SELECT 9.95, 'b', CAST(NULL AS DOUBLE) FROM generate_series(1, 30) \
                     UNION ALL SELECT 5.0, 'rare', 0.001 FROM generate_series(1, 3)";
        session.sql(table).await.expect("a table").collect().await.expect("made");
        let sample: Vec<f64> = (0..=100).map(|at| f64::from(at) / 10.0).collect();
        let rates: Vec<Weight> = (0..=100).map(|at| Weight::of_rate((at == 100).then_some(0.01))).collect();
        let found = numbers(&session, ("x", "rate"), "true", (&sample, &rates)).await.expect("counted");
        let near = |found: f64, expected: f64| assert!((found - expected).abs() < 1e-9, "{found} {expected}");
        // 12 rows of ten, 30 of one, 3 of a thousand: 3,150.
        let last = found.last().expect("bins");
        near(last.current, 30.0 / 3_150.0);
        assert_eq!((last.current_rows, found.iter().map(|share| share.current_rows).sum::<u64>()), (30, 45));
        near(found.iter().map(|share| share.current).fold(0.0, f64::max), 3_000.0 / 3_150.0);
        // The reference's last of 101 values stands for a hundred.
        near(last.reference, 100.0 / 200.0);
        let known = BTreeMap::from([("a".to_owned(), 60), ("b".to_owned(), 20), ("rare".to_owned(), 2)]);
        let weighed = WeighedCategories::of([("a", 60.0), ("b", 200.0), ("rare", 2.0)], 38.0);
        let found = categories_of(&session, ("c", "rate"), "true", (100, &known, Some(&weighed))).await;
        let found = found.expect("counted");
        // What is named first stands for most; three rows are too few to be named, whatever they stand for.
        assert_eq!(found.iter().map(|share| share.name.as_str()).collect::<Vec<_>>(), ["b", "a", "all others"]);
        near(found[0].reference, 200.0 / 300.0);
        near(found[1].current, 120.0 / 3_150.0);
        near(found[2].current, 3_000.0 / 3_150.0);
    }

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
        let of = |rows: u64| Mass { rows, weight: 2.0 * rows as f64 };
        let found = shares(vec![("a".into(), 1.0, of(30)), ("b".into(), 3.0, of(10))]);
        assert_eq!((found[0].reference, found[0].current, found[1].current_rows), (0.25, 0.75, 10));
        assert!(
            shares(vec![("a".into(), 0.0, of(0))]).iter().all(|share| share.reference == 0.0 && share.current == 0.0)
        );
    }

    #[tokio::test]
    async fn counts_come_from_the_rows_of_the_window_and_rare_values_are_not_named() {
        let session = session();
        let table = "CREATE TABLE history AS SELECT * FROM (VALUES \
                     (1, 1.0, 'nl', 0), (2, 2.0, 'nl', 0), (3, 99.0, 'zz', 0), (4, NULL, NULL, 0), (5, 1.5, 'rare', 0), (6, 1.0, 'nl', 7)) \
                     AS rows(id, x, c, w)";
        session.sql(table).await.expect("a table").collect().await.expect("made");
        let sample: Vec<f64> = (0..=100).map(|at| f64::from(at) / 10.0).collect();
        let found = numbers(&session, ("x", "NULL"), "w = 0", (&sample, &[])).await.expect("counted");
        assert_eq!(found.len(), BINS + 2);
        assert_eq!(found.iter().map(|share| share.current_rows).collect::<Vec<_>>()[BINS + 1], 1, "99 lies above");
        assert_eq!(found.iter().map(|share| share.current_rows).sum::<u64>(), 4, "a missing value is no value");
        assert!((found.iter().map(|share| share.reference).sum::<f64>() - 1.0).abs() < 1e-12);
        let known = BTreeMap::from([("nl".to_owned(), 80), ("be".to_owned(), 18), ("rare".to_owned(), 2)]);
        let found = categories_of(&session, ("c", "NULL"), "w = 0", (100, &known, None)).await.expect("counted");
        let named: Vec<(&str, u64)> = found.iter().map(|share| (share.name.as_str(), share.current_rows)).collect();
        assert_eq!(
            named,
            [("nl", 2), ("be", 0), ("all others", 2)],
            "neither one that is rare nor one that is unknown"
        );
    }
    #[tokio::test]
    async fn a_bin_ends_with_its_edge_and_what_a_reference_does_not_keep_is_among_all_others() {
        let session = session();
        let table = "CREATE TABLE history AS SELECT * FROM (VALUES (0.1, 'a'), (9.9, 'a'), (9.91, 'b')) AS rows(x, c)";
        session.sql(table).await.expect("a table").collect().await.expect("made");
        let sample: Vec<f64> = (0..=100).map(|at| f64::from(at) / 10.0).collect();
        let found = numbers(&session, ("x", "NULL"), "true", (&sample, &[])).await.expect("counted");
        let rows: Vec<u64> = found.iter().map(|share| share.current_rows).collect();
        assert_eq!((rows[0], rows[BINS], rows[BINS + 1]), (1, 1, 1), "{rows:?}");
        // The reference had 100 rows, and keeps the names of 60 of them.
        let known = BTreeMap::from([("a".to_owned(), 40), ("b".to_owned(), 20)]);
        let found = categories_of(&session, ("c", "NULL"), "true", (100, &known, None)).await.expect("counted");
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
