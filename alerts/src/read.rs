//! What is published of windows, out of the tables' objects, one for each model and date.
use std::collections::{BTreeMap, BTreeSet};

use arrow::array::RecordBatch;
use bytes::Bytes;
use chrono::NaiveDate;
use driftline_schemas::clock::{Micros, time_of};
use driftline_schemas::config::{AlertsConfig, LABEL_LAGS, Level, Subject};
use driftline_schemas::tables::{
    EstimateRow, LabelLagRow, MetricRow, ServingRow, TableError, comparison_rows_from_batch, drift_rows_from_batch,
    estimate_rows_from_batch, label_lag_rows_from_batch, metric_rows_from_batch, quality_rows_from_batch,
    serving_rows_from_batch, window_rows_from_batch,
};
use driftline_store::{Store, paths};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

use crate::Error;
use crate::judge::{self, Past, Published};

/// What no rule looks at is not kept, and tables of which nothing would be are not read.
#[allow(clippy::struct_excessive_bools, reason = "each is one table")]
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Names in `metrics` or `serving`: a rule need not know which of them has its metric.
    metrics: BTreeSet<String>,
    drift: bool,
    quality: bool,
    estimates: bool,
    label_lag: bool,
    comparisons: bool,
}

impl Wanted {
    /// What the rules for a model look at.
    pub fn of(config: &AlertsConfig, model: &str) -> Self {
        let mut wanted = Self::default();
        for rule in config.rules.iter().filter(|rule| rule.is_for(model)) {
            if let Subject::Metric { metric, .. } = &rule.subject {
                wanted.metrics.insert(metric.clone());
            }
            wanted.drift |= matches!(rule.subject, Subject::Drift { .. });
            wanted.quality |= matches!(rule.subject, Subject::Quality { .. });
            wanted.estimates |= matches!(rule.subject, Subject::Estimate { .. });
            wanted.label_lag |= matches!(rule.subject, Subject::LabelLag { .. });
            wanted.comparisons |= matches!(rule.level, Level::PreviousVersion { .. });
        }
        wanted
    }
}

/// The rows of a table's object.
pub fn rows<R>(
    path: &str,
    bytes: Bytes,
    model: &str,
    from_batch: impl Fn(&str, &RecordBatch) -> Result<Vec<R>, TableError>,
) -> Result<Vec<R>, Error> {
    let failed = |source: Box<dyn std::error::Error + Send + Sync>| Error::Table { path: path.to_owned(), source };
    let reader = ParquetRecordBatchReaderBuilder::try_new(bytes).map_err(|e| failed(e.into()))?;
    let mut rows = Vec::new();
    for batch in reader.build().map_err(|e| failed(e.into()))? {
        let batch = batch.map_err(|e| failed(e.into()))?;
        rows.extend(from_batch(model, &batch).map_err(|e| failed(e.into()))?);
    }
    Ok(rows)
}

/// The rows of one table on one date; none if there is no such object.
async fn of_date<R>(
    store: &Store,
    table: &str,
    model: &str,
    date: NaiveDate,
    from_batch: impl Fn(&str, &RecordBatch) -> Result<Vec<R>, TableError>,
) -> Result<Vec<R>, Error> {
    let path = paths::table(table, model, date, table);
    match store.get(&path).await? {
        Some(object) => rows(&path, object.bytes, model, from_batch),
        None => Ok(Vec::new()),
    }
}

/// The dates that windows start on.
pub fn dates(starts: impl IntoIterator<Item = Micros>) -> BTreeSet<NaiveDate> {
    starts.into_iter().map(|start| time_of(start).date_naive()).collect()
}

/// The rows of `metrics`, `serving`, `estimates` and `label_lag` of some dates' windows, by start; a rule need not know which table
/// has its metric.
pub async fn metrics(store: &Store, model: &str, dates: &BTreeSet<NaiveDate>, wanted: &Wanted) -> Result<Past, Error> {
    // Batch by batch: all metrics of all segments of a reference's windows would be millions of rows.
    let of_metrics = |model: &str, batch: &RecordBatch| -> Result<Vec<MetricRow>, TableError> {
        let mut rows = metric_rows_from_batch(model, batch)?;
        rows.retain(|row| wanted.metrics.contains(&row.metric));
        Ok(rows)
    };
    let of_serving = |model: &str, batch: &RecordBatch| -> Result<Vec<MetricRow>, TableError> {
        let rows = serving_rows_from_batch(model, batch)?.into_iter();
        Ok(rows.filter(|row| wanted.metrics.contains(&row.metric)).map(of_serving).collect())
    };
    let mut all = Past::new();
    for date in dates {
        let mut rows = Vec::new();
        if !wanted.metrics.is_empty() {
            rows.extend(of_date(store, "metrics", model, *date, of_metrics).await?);
            rows.extend(of_date(store, "serving", model, *date, of_serving).await?);
        }
        if wanted.estimates {
            let estimates = of_date(store, "estimates", model, *date, estimate_rows_from_batch).await?;
            rows.extend(estimates.into_iter().map(of_estimate));
        }
        if wanted.label_lag {
            let lags = of_date(store, "label_lag", model, *date, label_lag_rows_from_batch).await?;
            rows.extend(lags.iter().flat_map(of_label_lag));
        }
        for row in rows {
            all.entry(row.window_start.timestamp_micros()).or_default().push(row);
        }
    }
    Ok(all)
}

/// The columns that the tables have in common, as a row of `metrics`.
macro_rules! as_metric {
    ($row:expr, $metric:expr, $value:expr) => {
        MetricRow {
            model: $row.model.clone(),
            model_version: $row.model_version.clone(),
            segment: $row.segment.clone(),
            segment_value: $row.segment_value.clone(),
            window_start: $row.window_start,
            window_end: $row.window_end,
            metric: $metric,
            class: None,
            value: $value,
            reason: $row.reason.clone(),
            ci_low: $row.ci_low,
            ci_high: $row.ci_high,
            ci_level: $row.ci_level,
            ci_method: None,
            ci_warning: None,
            baseline: None,
            baseline_error_bound: None,
            error_bound: None,
            n: $row.n,
            n_labelled: 0,
            state: $row.state.clone(),
            revision: $row.revision,
            decided_at: $row.decided_at,
            reference_version: None,
        }
    };
}

/// A row of `serving` rests on all requests; none of them needs a label.
fn of_serving(row: ServingRow) -> MetricRow {
    as_metric!(row, row.metric, row.value)
}

fn of_estimate(row: EstimateRow) -> MetricRow {
    let metric = judge::estimate_name(&row.metric, &row.method);
    let class = row.class.clone();
    MetricRow { class, n_labelled: row.n_labelled, ..as_metric!(row, metric, row.value) }
}

/// The share that is labelled within a delay, of the rows that were waited for so long; and beside the first one the median.
fn of_label_lag(row: &LabelLagRow) -> Vec<MetricRow> {
    let within = as_metric!(row, judge::label_lag_name(row.within_seconds), row.share);
    let mut rows = vec![MetricRow { n: row.known, n_labelled: row.n_labelled, ..within }];
    if row.within_seconds == LABEL_LAGS[0].1 {
        let median = as_metric!(row, judge::LABEL_LAG_MEDIAN.to_owned(), row.median_seconds);
        rows.push(MetricRow { ci_low: None, ci_high: None, n_labelled: row.n_labelled, ..median });
    }
    rows
}

/// What else is published of some dates' windows, by start: all but their metrics.
pub async fn others(
    store: &Store,
    model: &str,
    dates: &BTreeSet<NaiveDate>,
    wanted: &Wanted,
) -> Result<BTreeMap<Micros, Published>, Error> {
    let mut windows: BTreeMap<Micros, Published> = BTreeMap::new();
    for date in dates {
        for row in of_date(store, "windows", model, *date, window_rows_from_batch).await? {
            let start = row.window_start.timestamp_micros();
            windows.entry(start).or_default().window = Some(row);
        }
        if wanted.drift {
            for row in of_date(store, "drift", model, *date, drift_rows_from_batch).await? {
                windows.entry(row.window_start.timestamp_micros()).or_default().drift.push(row);
            }
        }
        if wanted.quality {
            for row in of_date(store, "quality", model, *date, quality_rows_from_batch).await? {
                windows.entry(row.window_start.timestamp_micros()).or_default().quality.push(row);
            }
        }
        if wanted.comparisons {
            for row in of_date(store, "comparisons", model, *date, comparison_rows_from_batch).await? {
                windows.entry(row.window_start.timestamp_micros()).or_default().comparisons.push(row);
            }
        }
    }
    Ok(windows)
}

#[cfg(test)]
mod tests {
    use driftline_schemas::config::Config;
    use driftline_schemas::tables::{
        estimate_rows_to_batch, label_lag_rows_to_batch, metric_rows_to_batch, serving_rows_to_batch,
    };
    use parquet::arrow::ArrowWriter;

    use super::*;

    fn wanted(rules: &str) -> Wanted {
        let config = Config::from_table(rules.parse().expect("TOML")).expect("a good file").alerts;
        Wanted::of(&config, "m")
    }

    #[test]
    fn what_is_read_is_what_the_models_rules_look_at() {
        let rule = |lines: &str| format!("[[alerts.rules]]\nname = \"{}\"\n{lines}\n", lines.len());
        assert_eq!(wanted(""), Wanted::default());
        assert_eq!(wanted(&rule("drift = \"*\"\nmodels = [\"other\"]")), Wanted::default());
        let metrics = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<BTreeSet<_>>();
        for (lines, is_wanted) in [
            ("drift = \"*\"", Wanted { drift: true, ..Wanted::default() }),
            ("quality = \"missing_rate\"\nabove = 0.1", Wanted { quality: true, ..Wanted::default() }),
            ("estimate = \"f1\"\nbelow = 0.5", Wanted { estimates: true, ..Wanted::default() }),
            ("label_lag = \"1d\"\nbelow = 0.5", Wanted { label_lag: true, ..Wanted::default() }),
            ("metric = \"f1\"\nbelow = 0.5", Wanted { metrics: metrics(&["f1"]), ..Wanted::default() }),
            (
                "metric = \"f1\"\nbelow = { previous_version = 0.1 }\nversions = true",
                Wanted { metrics: metrics(&["f1"]), comparisons: true, ..Wanted::default() },
            ),
        ] {
            assert_eq!(wanted(&rule(lines)), is_wanted, "{lines}");
        }
    }

    async fn put(store: &Store, table: &str, batch: RecordBatch) {
        let mut bytes = Vec::new();
        let mut writer = ArrowWriter::try_new(&mut bytes, batch.schema(), None).expect("a writer");
        writer.write(&batch).expect("written");
        writer.close().expect("closed");
        store.put(&paths::table(table, "m", "1970-01-01", table), bytes.into()).await.expect("stored");
    }

    fn metric(metric: &str, value: f64) -> MetricRow {
        MetricRow {
            model: "m".into(),
            model_version: Some("7".into()),
            window_start: time_of(0),
            window_end: time_of(60_000_000),
            metric: metric.into(),
            value: Some(value),
            ci_low: Some(value - 0.1),
            ci_high: Some(value + 0.1),
            ci_level: Some(0.95),
            n: 100,
            n_labelled: 60,
            state: "sealed".into(),
            revision: 3,
            decided_at: time_of(1),
            ..MetricRow::default()
        }
    }

    /// All four tables of one window, as the evaluator publishes them.
    async fn published() -> Store {
        let store = Store::in_memory();
        put(&store, "metrics", metric_rows_to_batch(&[metric("accuracy", 0.8), metric("f1", 0.7)])).await;
        let row = metric("", 0.2);
        let serving = |metric: &str| ServingRow {
            model: row.model.clone(),
            model_version: row.model_version.clone(),
            window_start: row.window_start,
            window_end: row.window_end,
            metric: metric.into(),
            value: row.value,
            ci_low: row.ci_low,
            ci_high: row.ci_high,
            ci_level: row.ci_level,
            n: 90,
            state: row.state.clone(),
            revision: row.revision,
            decided_at: row.decided_at,
            ..ServingRow::default()
        };
        put(&store, "serving", serving_rows_to_batch(&[serving("error_rate"), serving("requests")])).await;
        let estimate = |class: Option<&str>| EstimateRow {
            model: row.model.clone(),
            model_version: row.model_version.clone(),
            window_start: row.window_start,
            window_end: row.window_end,
            metric: "f1".into(),
            class: class.map(str::to_owned),
            method: "cbpe".into(),
            value: row.value,
            ci_low: row.ci_low,
            ci_high: row.ci_high,
            ci_level: row.ci_level,
            n: 80,
            n_labelled: 30,
            state: row.state.clone(),
            revision: row.revision,
            decided_at: row.decided_at,
            ..EstimateRow::default()
        };
        put(&store, "estimates", estimate_rows_to_batch(&[estimate(None), estimate(Some("a"))])).await;
        let lag = |within_seconds: i64| LabelLagRow {
            model: row.model.clone(),
            model_version: row.model_version.clone(),
            window_start: row.window_start,
            window_end: row.window_end,
            within_seconds,
            share: row.value,
            ci_low: row.ci_low,
            ci_high: row.ci_high,
            ci_level: row.ci_level,
            known: 70,
            median_seconds: Some(5_000.0),
            n: 100,
            n_labelled: 60,
            state: row.state.clone(),
            revision: row.revision,
            decided_at: row.decided_at,
            ..LabelLagRow::default()
        };
        put(&store, "label_lag", label_lag_rows_to_batch(&[lag(3_600), lag(86_400)])).await;
        store
    }

    /// A rule need not know which table has its metric; what a row rests on comes along, and nothing that nobody asked for.
    #[tokio::test]
    async fn rows_of_every_table_are_metrics_that_rest_on_their_own_rows() {
        let store = published().await;
        let dates = dates([0]);
        let read = async |wanted: &Wanted| -> Vec<(String, Option<String>, i64, i64, bool)> {
            let past = metrics(&store, "m", &dates, wanted).await.expect("read");
            let rows = past.into_values().flatten();
            rows.map(|row| (row.metric, row.class, row.n, row.n_labelled, row.ci_low.is_some())).collect()
        };
        let of = |name: &str, n, n_labelled, is_sure| (name.to_owned(), None, n, n_labelled, is_sure);
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<BTreeSet<_>>();
        let two = Wanted { metrics: names(&["f1", "error_rate"]), ..Wanted::default() };
        assert_eq!(read(&two).await, [of("f1", 100, 60, true), of("error_rate", 90, 0, true)]);
        let estimates = Wanted { estimates: true, ..Wanted::default() };
        let of_class = ("f1 (cbpe)".to_owned(), Some("a".to_owned()), 80, 30, true);
        assert_eq!(read(&estimates).await, [of("f1 (cbpe)", 80, 30, true), of_class]);
        let lags = Wanted { label_lag: true, ..Wanted::default() };
        let once = of(judge::LABEL_LAG_MEDIAN, 100, 60, false);
        assert_eq!(
            read(&lags).await,
            [of("labelled_within_1h", 70, 60, true), once, of("labelled_within_1d", 70, 60, true)]
        );
        assert_eq!(read(&Wanted::default()).await, []);
        // What stands beside the value is the row's own.
        let past = metrics(&store, "m", &dates, &two).await.expect("read");
        let row = &past[&0][1];
        assert_eq!((row.model_version.as_deref(), row.revision, row.value), (Some("7"), 3, Some(0.2)));
    }
}
