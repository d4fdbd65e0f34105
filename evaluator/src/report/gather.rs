//! Reads a report out of the tables.
use std::collections::BTreeMap;

use arrow::json::WriterBuilder;
use arrow::json::writer::JsonArray;
use chrono::{DateTime, Utc};
use datafusion::prelude::SessionContext;
use driftline_schemas::clock::Micros;
use driftline_schemas::history::window_name;
use driftline_schemas::tables::Task;
use driftline_schemas::window::Window;
use driftline_store::{Store, encode_segment, paths};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::{
    AlertLine, Arrival, Cell, ComparedVersions, Distribution, DriftPoint, ErrorCount, EstimatePoint, FirstSaid,
    GroupPoint, Health, LabelTerm, MetricPoint, PeriodCurve, Report, Tolerated, WindowLine, attention, distributions,
    headlines,
};
use crate::metrics::{self, Curve};
use crate::session::{Sessions, register_folder, register_objects};
use crate::{Error, sql_text};

/// The tables that it is read out of.
const TABLES: [&str; 12] = [
    "windows",
    "metrics",
    "confusion",
    "estimates",
    "label_lag",
    "drift",
    "serving",
    "errors",
    "comparisons",
    "alerts",
    "accounts",
    "history",
];
/// Transitions of alerts that are shown, the newest ones.
const ALERTS_MAX: usize = 400;
/// Windows whose first revision is looked up, the newest ones that were revised: one object each.
const REVISED_MAX: usize = 120;
/// Errors that are listed.
const ERRORS_MAX: usize = 20;
/// Rows of `history` that metrics are computed from.
const COUNTS: &str = "error IS NULL AND invalid_reason IS NULL AND NOT coalesce(after_final, false)";

/// What a report is about.
#[derive(Debug, Clone)]
pub struct Subject {
    /// Model.
    pub model: String,
    /// What it predicts.
    pub task: Task,
    /// Positive class of a binary model, if it is known.
    pub positive_class: Option<String>,
    /// Only windows that start at or after this time.
    pub from: Option<Micros>,
    /// Only windows that start before this time.
    pub to: Option<Micros>,
    /// Levels that rules tolerate of its metrics over all.
    pub levels: Vec<Tolerated>,
}

/// Reads everything. `None` if the model has no window in the period.
pub async fn gather(sessions: &Sessions, subject: &Subject, now: DateTime<Utc>) -> Result<Option<Report>, Error> {
    let session = sessions.open()?;
    let mut there = Vec::new();
    for table in TABLES {
        let folder = format!("{table}/model_name={}", encode_segment(&subject.model));
        if register_folder(&session, table, &folder, &["date"]).await? {
            there.push(table);
        }
    }
    let tables = Tables { session, there, period: period(subject) };
    let windows: Vec<WindowLine> = tables
        .rows(
            "windows",
            "CAST(window_start AS BIGINT) AS start, CAST(window_end AS BIGINT) AS \"end\", state, revision, predictions, labelled, \
             failed, invalid, duplicates, waiting, expired, after_final, label_coverage, CAST(decided_at AS BIGINT) AS decided_at",
            "ORDER BY 1",
        )
        .await?;
    if windows.is_empty() {
        return Ok(None);
    }
    let confusion: Vec<Cell> = tables
        .rows(
            "confusion",
            "actual, predicted, sum(\"count\") AS \"count\"",
            "AND segment IS NULL AND model_version IS NULL GROUP BY 1, 2 ORDER BY 1, 2",
        )
        .await?;
    // Ten methods would be ten chances of a false alarm: one decides. Objects of older builds do not say which.
    let decides = if tables.has("drift", "decides").await? { "AND coalesce(decides, true)" } else { "" };
    let drift: Vec<DriftPoint> = tables
        .rows(
            "drift",
            "CAST(window_start AS BIGINT) AS start, column_name AS \"column\", method, statistic, p_value, threshold, drifted, reason, \
             reference_version",
            &format!("{decides} AND segment IS NULL AND model_version IS NULL ORDER BY column_name, method, 1"),
        )
        .await?;
    let revisions = tables.revisions(sessions.store(), subject, &windows).await?;
    let mut report = Report {
        model: subject.model.clone(),
        task: subject.task,
        generated_at: now,
        attention: Vec::new(),
        windows,
        metrics: tables.metrics().await?,
        versions: tables.versions().await?,
        segments: tables.segments().await?,
        confusion,
        curves: tables.curves(subject).await?,
        comparisons: tables.comparisons().await?,
        levels: subject.levels.clone(),
        alerts: tables.alerts().await?,
        revisions,
        estimates: tables.estimates().await?,
        distributions: tables.distributions(sessions.store(), subject, &drift).await?,
        drift,
        arrival: tables.arrival().await?,
        health: tables.health().await?,
        errors: tables.errors().await?,
        labels: tables.labels().await?,
    };
    report.attention = attention::findings(&report);
    Ok(Some(report))
}

fn period(subject: &Subject) -> String {
    let mut conditions = vec!["true".to_owned()];
    conditions.extend(subject.from.map(|from| format!("CAST(window_start AS BIGINT) >= {from}")));
    conditions.extend(subject.to.map(|to| format!("CAST(window_start AS BIGINT) < {to}")));
    conditions.join(" AND ")
}

/// Seconds in words: the marks of arrival curves are whole hours and days.
fn span(seconds: i64) -> String {
    let (count, unit) = match seconds {
        _ if seconds % 86_400 == 0 => (seconds / 86_400, "day"),
        _ if seconds % 3_600 == 0 => (seconds / 3_600, "hour"),
        _ => (seconds, "second"),
    };
    format!("{count} {unit}{}", if count == 1 { "" } else { "s" })
}

struct Tables {
    session: SessionContext,
    there: Vec<&'static str>,
    period: String,
}

impl Tables {
    /// Rows of one table within the period; none if the store has no such table yet.
    async fn rows<T: DeserializeOwned>(&self, table: &str, columns: &str, rest: &str) -> Result<Vec<T>, Error> {
        if !self.there.contains(&table) {
            return Ok(Vec::new());
        }
        self.query(&format!("SELECT {columns} FROM {table} WHERE {} {rest}", self.period)).await
    }

    /// Whether a table is there and has a column: objects of older builds lack the younger ones.
    async fn has(&self, table: &str, column: &str) -> Result<bool, Error> {
        let is_there = self.there.contains(&table);
        Ok(is_there && self.session.table(table).await?.schema().has_column_with_unqualified_name(column))
    }

    /// What a row of `metrics` says and rests on.
    async fn figures(&self) -> Result<String, Error> {
        let warning = if self.has("metrics", "ci_warning").await? { "ci_warning" } else { "NULL" };
        let bound = if self.has("metrics", "error_bound").await? { "error_bound" } else { "NULL" };
        Ok(format!(
            "value, CAST({bound} AS DOUBLE) AS error_bound, ci_low, ci_high, CAST({warning} AS VARCHAR) AS ci_warning, n_labelled"
        ))
    }

    async fn query<T: DeserializeOwned>(&self, query: &str) -> Result<Vec<T>, Error> {
        let batches = self.session.sql(query).await?.collect().await?;
        let mut bytes = Vec::new();
        let mut writer = WriterBuilder::new().with_explicit_nulls(true).build::<_, JsonArray>(&mut bytes);
        writer.write_batches(&batches.iter().collect::<Vec<_>>()).map_err(datafusion::error::DataFusionError::from)?;
        writer.finish().map_err(datafusion::error::DataFusionError::from)?;
        Ok(serde_json::from_slice(if bytes.is_empty() { b"[]" } else { &bytes })?)
    }

    async fn metrics(&self) -> Result<Vec<MetricPoint>, Error> {
        let figures = self.figures().await?;
        let columns = format!("CAST(window_start AS BIGINT) AS start, metric, class, reason, {figures}");
        self.rows("metrics", &columns, "AND segment IS NULL AND model_version IS NULL ORDER BY metric, class, 1").await
    }

    async fn versions(&self) -> Result<Vec<GroupPoint>, Error> {
        let points = self.groups("'version'", "model_version", "segment IS NULL AND model_version IS NOT NULL").await?;
        let is_one = points.windows(2).all(|pair| pair[0].group_value == pair[1].group_value);
        Ok(if is_one { Vec::new() } else { points })
    }

    async fn segments(&self) -> Result<Vec<GroupPoint>, Error> {
        self.groups("segment", "segment_value", "segment IS NOT NULL AND model_version IS NULL").await
    }

    async fn groups(&self, group: &str, value: &str, which: &str) -> Result<Vec<GroupPoint>, Error> {
        let figures = self.figures().await?;
        let columns = format!(
            "CAST(window_start AS BIGINT) AS start, {group} AS \"group\", {value} AS group_value, metric, {figures}"
        );
        let rest = format!("AND {which} AND class IS NULL ORDER BY \"group\", group_value, metric, 1");
        self.rows("metrics", &columns, &rest).await
    }

    /// The versions of the newest window that compares any.
    async fn comparisons(&self) -> Result<Vec<ComparedVersions>, Error> {
        let columns = "CAST(window_start AS BIGINT) AS start, metric, version_a, version_b, value_a, value_b, difference, ci_low, \
                       ci_high, ci_warning, p_value, paired, n_a, n_b, max(window_start) OVER () = window_start AS is_newest";
        let rest = "AND difference IS NOT NULL ORDER BY version_a, version_b, metric";
        let all: Vec<ComparedVersions> = self.rows("comparisons", columns, rest).await?;
        Ok(all.into_iter().filter(|row| row.is_newest).collect())
    }

    /// The condition for rows whose score can be set against a label, and the one for positives.
    fn scored(&self, subject: &Subject) -> Option<(String, String)> {
        let positive = subject.positive_class.as_ref().filter(|_| subject.task == Task::Binary)?;
        let is_there = self.there.contains(&"history");
        is_there.then(|| {
            let rows = format!("{COUNTS} AND score IS NOT NULL AND label IS NOT NULL AND {}", self.period);
            (rows, format!("label = {}", sql_text(positive)))
        })
    }

    /// The curves of all scored and labelled rows of the period together.
    async fn curves(&self, subject: &Subject) -> Result<Vec<PeriodCurve>, Error> {
        #[derive(Deserialize)]
        struct Judged {
            report: Option<String>,
        }
        let Some((rows, positive)) = self.scored(subject) else { return Ok(Vec::new()) };
        let rate = if self.has("history", "sampling_rate").await? { "sampling_rate" } else { "NULL" };
        let query = format!(
            "SELECT binary_report({positive}, CAST(NULL AS BOOLEAN), CAST(score AS DOUBLE), 'probability', CAST({rate} AS DOUBLE)) AS report \
             FROM history WHERE {rows}"
        );
        let judged: Vec<Judged> = self.query(&query).await?;
        let Some(Judged { report: Some(text) }) = judged.into_iter().next() else { return Ok(Vec::new()) };
        let report: metrics::Report = serde_json::from_str(&text)?;
        let area = |curve: &Curve| {
            let metric = match curve.name.as_str() {
                "roc" => "roc_auc",
                "precision_recall" => "average_precision",
                _ => return None,
            };
            report.get(metric).and_then(|row| row.value)
        };
        Ok(report.curves.iter().map(|curve| PeriodCurve { curve: curve.clone(), area: area(curve) }).collect())
    }

    /// Windows' arrival curves together, each by the rows that have waited so long: a row that has not says nothing of it.
    async fn arrival(&self) -> Result<Vec<Arrival>, Error> {
        #[derive(Deserialize)]
        struct Known {
            within_seconds: i64,
            share: f64,
        }
        let columns = "within_seconds, sum(share * known) / sum(known) AS share";
        let rest =
            "AND segment IS NULL AND model_version IS NULL AND share IS NOT NULL AND known > 0 GROUP BY 1 ORDER BY 1";
        let marks: Vec<Known> = self.rows("label_lag", columns, rest).await?;
        Ok(marks.into_iter().map(|mark| Arrival { after: span(mark.within_seconds), share: mark.share }).collect())
    }

    async fn health(&self) -> Result<Vec<Health>, Error> {
        let of = |column: &str, metric: &str, name: &str| {
            format!("max({column}) FILTER (WHERE metric = '{metric}') AS {name}")
        };
        let figures = [
            of("value", "requests", "requests"),
            of("value", "requests_per_second", "requests_per_second"),
            of("value", "error_count", "errors"),
            of("value", "error_rate", "error_rate"),
            of("ci_low", "error_rate", "error_rate_low"),
            of("ci_high", "error_rate", "error_rate_high"),
            of("value", "latency_p50_ms", "latency_p50_ms"),
            of("value", "latency_p95_ms", "latency_p95_ms"),
            of("ci_low", "latency_p95_ms", "latency_p95_low"),
            of("ci_high", "latency_p95_ms", "latency_p95_high"),
            of("value", "latency_p99_ms", "latency_p99_ms"),
            of("value", "latency_max_ms", "latency_max_ms"),
        ];
        let columns = format!("CAST(window_start AS BIGINT) AS start, {}", figures.join(", "));
        self.rows("serving", &columns, "AND segment IS NULL AND model_version IS NULL GROUP BY 1 ORDER BY 1").await
    }

    async fn alerts(&self) -> Result<Vec<AlertLine>, Error> {
        let columns = "CAST(window_start AS BIGINT) AS start, CAST(\"at\" AS BIGINT) AS \"at\", alert_id, transition, rule, severity, metric, \
                       segment IS NULL AND model_version IS NULL AND column_name IS NULL AND class IS NULL AS is_overall, text";
        if !self.there.contains(&"alerts") {
            return Ok(Vec::new());
        }
        // What became of an alert is told with the window that told it, which may lie after the period: that it is over, above all.
        let mut alerts: Vec<AlertLine> = self
            .query(&format!(
                "SELECT {columns} FROM alerts WHERE transition <> 'pending' \
                 AND alert_id IN (SELECT alert_id FROM alerts WHERE {} AND transition <> 'pending') \
                 ORDER BY seq DESC, position DESC LIMIT {ALERTS_MAX}",
                self.period
            ))
            .await?;
        alerts.reverse();
        Ok(alerts)
    }

    async fn estimates(&self) -> Result<Vec<EstimatePoint>, Error> {
        let columns =
            "CAST(window_start AS BIGINT) AS start, metric, method, value, ci_low, ci_high, realised, n, n_labelled";
        // Estimates of one class bear the name of the metric over all.
        let overall = if self.has("estimates", "class").await? { "AND class IS NULL" } else { "" };
        let rest = format!(
            "AND segment IS NULL AND model_version IS NULL AND value IS NOT NULL {overall} ORDER BY metric, method, 1"
        );
        self.rows("estimates", columns, &rest).await
    }

    /// What has become of the model's labels; of all time, for labels are accounted by model.
    async fn labels(&self) -> Result<Vec<LabelTerm>, Error> {
        if !self.there.contains(&"accounts") {
            return Ok(Vec::new());
        }
        self.query(
            "SELECT term, CAST(sum(\"count\") AS BIGINT) AS \"count\" FROM accounts WHERE scope = 'model' GROUP BY term ORDER BY term",
        )
        .await
    }

    async fn distributions(
        &self,
        store: &Store,
        subject: &Subject,
        drift: &[DriftPoint],
    ) -> Result<Vec<Distribution>, Error> {
        if !self.there.contains(&"history") {
            return Ok(Vec::new());
        }
        distributions::read(store, &self.session, (&subject.model, subject.task), COUNTS, drift).await
    }

    /// What the first metrics of windows were at their first revision, as far as that is kept.
    async fn revisions(
        &self,
        store: &Store,
        subject: &Subject,
        windows: &[WindowLine],
    ) -> Result<Vec<FirstSaid>, Error> {
        let revised = windows.iter().rev().filter(|window| window.revision > 1).take(REVISED_MAX);
        let mut names: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for window in revised {
            let window = Window { start: window.start, end: window.end };
            let folder = paths::table_folder("metrics_log", &subject.model, window.date());
            names.entry(folder).or_default().push(format!("{}_r", window_name(window)));
        }
        let mut first: Vec<String> = Vec::new();
        for (folder, wanted) in names {
            let listed = store.list(&folder).await?;
            for prefix in wanted {
                let revision = |path: &str| -> Option<u64> {
                    let name = path.rsplit('/').next()?.strip_prefix(&prefix)?;
                    name.strip_suffix(".parquet")?.parse().ok()
                };
                let of_window = listed.iter().filter_map(|object| Some((revision(&object.path)?, &object.path)));
                first.extend(of_window.min().map(|(_, path)| path.clone()));
            }
        }
        if first.is_empty() {
            return Ok(Vec::new());
        }
        register_objects(&self.session, "first_revisions", &first).await?;
        let named: Vec<String> = headlines(subject.task).iter().map(|headline| sql_text(headline.name)).collect();
        self.query(&format!(
            "SELECT CAST(window_start AS BIGINT) AS start, metric, revision, value FROM first_revisions \
             WHERE segment IS NULL AND model_version IS NULL AND class IS NULL AND value IS NOT NULL AND metric IN ({}) ORDER BY metric, 1",
            named.join(", ")
        ))
        .await
    }

    async fn errors(&self) -> Result<Vec<ErrorCount>, Error> {
        let columns = "message, sum(\"count\") AS \"count\", CAST(max(window_start) AS BIGINT) AS newest";
        let rest = format!("AND model_version IS NULL GROUP BY message ORDER BY 2 DESC, 1 LIMIT {ERRORS_MAX}");
        self.rows("errors", columns, &rest).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn tables(name: &'static str, rows: &str) -> Tables {
        let session = SessionContext::new();
        session.sql(&format!("CREATE TABLE {name} AS {rows}")).await.expect("a table").collect().await.expect("made");
        Tables { session, there: vec![name], period: "CAST(window_start AS BIGINT) < 200".into() }
    }

    #[tokio::test]
    async fn an_alert_of_the_period_is_told_to_its_end() {
        let rows = "SELECT *, CAST(NULL AS VARCHAR) AS segment, CAST(NULL AS VARCHAR) AS model_version, CAST(NULL AS VARCHAR) AS column_name, \
                    CAST(NULL AS VARCHAR) AS class, 'a rule' AS rule, 'critical' AS severity, 'f1' AS metric, 'text' AS text, seq AS \"at\" \
                    FROM (VALUES (100, 1, 0, 'a', 'pending'), (100, 2, 0, 'a', 'firing'), (200, 3, 0, 'a', 'resolved'), \
                    (200, 4, 0, 'b', 'firing'), (100, 5, 0, 'c', 'pending'), (300, 6, 0, 'c', 'firing')) \
                    AS rows(window_start, seq, position, alert_id, transition)";
        let told = tables("alerts", rows).await.alerts().await.expect("read");
        let told: Vec<(&str, &str, i64)> =
            told.iter().map(|alert| (alert.alert_id.as_str(), alert.transition.as_str(), alert.start)).collect();
        assert_eq!(told, [("a", "firing", 100), ("a", "resolved", 200)], "neither `b` nor `c` is of the period");
    }

    #[tokio::test]
    async fn estimates_of_a_class_are_not_those_over_all() {
        let common = "0.5 AS value, 0.4 AS ci_low, 0.6 AS ci_high, CAST(NULL AS DOUBLE) AS realised, 10 AS n, 0 AS n_labelled, \
                      CAST(NULL AS VARCHAR) AS segment, CAST(NULL AS VARCHAR) AS model_version, 'f1' AS metric, 'cbpe' AS method, \
                      100 AS window_start";
        let old = tables("estimates", &format!("SELECT {common}")).await;
        assert_eq!(old.estimates().await.expect("read").len(), 1, "older builds know no classes");
        let of_class = format!("SELECT {common}, CAST(NULL AS VARCHAR) AS class UNION ALL SELECT {common}, 'cat'");
        assert_eq!(tables("estimates", &of_class).await.estimates().await.expect("read").len(), 1);
    }

    #[tokio::test]
    async fn arrival_is_of_the_rows_that_have_waited() {
        let rows = "SELECT *, CAST(NULL AS VARCHAR) AS segment, CAST(NULL AS VARCHAR) AS model_version FROM (VALUES \
                    (100, 3600, 0.5, 10), (110, 3600, 0.8, 20), (100, 86400, 0.9, 10), (110, 86400, NULL, 0), (110, 604800, NULL, 0), \
                    (300, 604800, 1.0, 5)) AS rows(window_start, within_seconds, share, known)";
        let arrival = tables("label_lag", rows).await.arrival().await.expect("read");
        let arrival: Vec<(&str, f64)> = arrival.iter().map(|mark| (mark.after.as_str(), mark.share)).collect();
        assert_eq!(arrival, [("1 hour", 0.7), ("1 day", 0.9)]);
        assert_eq!(
            (span(7_776_000), span(21_600), span(90)),
            ("90 days".into(), "6 hours".into(), "90 seconds".into())
        );
    }
    async fn put(store: &Store, path: &str, batch: &arrow::array::RecordBatch) {
        let mut bytes = Vec::new();
        let mut writer = parquet::arrow::ArrowWriter::try_new(&mut bytes, batch.schema(), None).expect("a writer");
        writer.write(batch).expect("written");
        writer.close().expect("closed");
        store.put(path, bytes.into()).await.expect("put");
    }

    #[tokio::test]
    async fn of_a_columns_methods_the_one_that_decides_is_reported_and_of_all_rows() {
        use driftline_schemas::tables::{DriftRow, WindowRow, drift_rows_to_batch, window_rows_to_batch};
        let store = Store::in_memory();
        let time = |micros: i64| DateTime::from_timestamp_micros(micros).expect("a time");
        let window = WindowRow {
            model: "m".into(),
            window_start: time(0),
            window_end: time(60_000_000),
            state: "sealed".into(),
            revision: 1,
            predictions: 9,
            labelled: 0,
            waiting: 9,
            expired: 0,
            failed: 0,
            invalid: 0,
            duplicates: 0,
            after_final: 0,
            label_coverage: Some(0.0),
            late_predictions: 0,
            decided_at: time(0),
        };
        put(&store, &paths::table("windows", "m", "1970-01-01", "windows"), &window_rows_to_batch(&[window])).await;
        let drift = |method: &str, decides: Option<bool>, version: Option<&str>| DriftRow {
            model: "m".into(),
            model_version: version.map(str::to_owned),
            window_start: time(0),
            window_end: time(60_000_000),
            column_name: "amount".into(),
            method: method.into(),
            statistic: Some(0.5),
            threshold: 0.1,
            drifted: Some(true),
            decides,
            n: 9,
            n_reference: 9,
            state: "sealed".into(),
            revision: 1,
            decided_at: time(0),
            ..DriftRow::default()
        };
        let rows = [
            drift("hellinger", Some(false), None),
            drift("ks", Some(true), None),
            drift("ks", Some(true), Some("7")),
            drift("psi", None, None),
        ];
        put(&store, &paths::table("drift", "m", "1970-01-01", "drift"), &drift_rows_to_batch(&rows)).await;
        let subject = Subject {
            model: "m".into(),
            task: Task::Binary,
            positive_class: None,
            from: None,
            to: None,
            levels: vec![],
        };
        let sessions = Sessions::new(store, 64 << 20, 1);
        let report = gather(&sessions, &subject, time(0)).await.expect("read").expect("a window");
        let methods: Vec<&str> = report.drift.iter().map(|point| point.method.as_str()).collect();
        assert_eq!(methods, ["ks", "psi"], "an older build does not say which decides");
        let nobody = Subject { model: "nobody".into(), ..subject };
        assert_eq!(gather(&sessions, &nobody, time(0)).await.expect("read"), None);
    }

    const NOBODY: &str = "CAST(NULL AS VARCHAR) AS segment, CAST(NULL AS VARCHAR) AS segment_value";

    #[tokio::test]
    async fn a_period_has_the_windows_that_start_from_its_first_instant_to_before_its_last() {
        let subject = Subject {
            model: "m".into(),
            task: Task::Binary,
            positive_class: None,
            from: Some(5),
            to: Some(9),
            levels: vec![],
        };
        let starts = async |subject: &Subject| -> Vec<i64> {
            let of = tables("windows", "SELECT * FROM (VALUES (4), (5), (8), (9)) AS rows(window_start)").await;
            let of = Tables { period: period(subject), ..of };
            let rows: Vec<BTreeMap<String, i64>> =
                of.rows("windows", "window_start", "ORDER BY 1").await.expect("read");
            rows.into_iter().map(|row| row["window_start"]).collect()
        };
        assert_eq!(starts(&subject).await, [5, 8]);
        assert_eq!(starts(&Subject { from: None, ..subject.clone() }).await, [4, 5, 8]);
        assert_eq!(starts(&Subject { to: None, ..subject }).await, [5, 8, 9]);
    }

    #[tokio::test]
    async fn versions_are_compared_as_the_newest_window_of_the_period_has_it() {
        let rows = "SELECT *, 0.5 AS value_a, 0.6 AS value_b, 0.0 AS ci_low, 0.2 AS ci_high, CAST(NULL AS VARCHAR) AS ci_warning, \
                    0.03 AS p_value, true AS paired, 10 AS n_a, 10 AS n_b FROM (VALUES (100, 'f1', '1', '2', 0.1), \
                    (150, 'f1', '1', '2', 0.2), (150, 'recall', '1', '2', NULL), (300, 'f1', '1', '2', 0.3)) \
                    AS rows(window_start, metric, version_a, version_b, difference)";
        let found = tables("comparisons", rows).await.comparisons().await.expect("read");
        let found: Vec<(i64, &str, f64)> =
            found.iter().map(|pair| (pair.start, pair.metric.as_str(), pair.difference)).collect();
        assert_eq!(found, [(150, "f1", 0.2)]);
    }

    #[tokio::test]
    async fn one_version_is_that_of_all_rows_and_is_not_shown_beside_them() {
        let metrics = async |versions: &str| {
            let rows = format!(
                "SELECT *, {NOBODY}, 'f1' AS metric, CAST(NULL AS VARCHAR) AS class, 0.5 AS value, 0.4 AS ci_low, 0.6 AS ci_high, \
                 7 AS n_labelled FROM (VALUES {versions}) AS rows(window_start, model_version)"
            );
            let points = tables("metrics", &rows).await.versions().await.expect("read");
            points.into_iter().map(|point| (point.group_value, point.start)).collect::<Vec<_>>()
        };
        assert_eq!(metrics("(100, '1'), (110, '1'), (100, NULL), (110, NULL)").await, []);
        let two = [("1".to_owned(), 100), ("1".to_owned(), 110), ("2".to_owned(), 110)];
        assert_eq!(metrics("(110, '2'), (100, '1'), (110, '1'), (110, NULL), (300, '3')").await, two);
    }

    #[tokio::test]
    async fn curves_are_of_the_rows_of_the_period_that_count_and_have_score_and_label() {
        let session = Sessions::detached(64 << 20, 1).expect("a session");
        // In the period all positives score above all negatives; whatever else there is says the opposite.
        let rows = "CREATE TABLE history AS SELECT score, label, window_start, error, CAST(NULL AS VARCHAR) AS invalid_reason, after_final \
                    FROM (VALUES (100, 0.9, 'yes', NULL, false), (100, 0.8, 'yes', NULL, NULL), (110, 0.2, 'no', NULL, false), \
                    (110, 0.1, 'no', NULL, false), (200, 0.1, 'yes', NULL, false), (200, 0.9, 'no', NULL, false), \
                    (100, 0.0, 'yes', 'timeout', false), (100, 1.0, 'no', NULL, true), (100, 0.0, NULL, NULL, false), \
                    (100, NULL, 'yes', NULL, false)) AS rows(window_start, score, label, error, after_final)";
        session.sql(rows).await.expect("a table").collect().await.expect("made");
        let of = Tables { session, there: vec!["history"], period: "CAST(window_start AS BIGINT) < 200".into() };
        let mut subject = Subject {
            model: "m".into(),
            task: Task::Binary,
            positive_class: Some("yes".into()),
            from: None,
            to: None,
            levels: vec![],
        };
        let areas = |curves: &[PeriodCurve]| -> Vec<(String, Option<f64>)> {
            let roc = curves.iter().filter(|curve| curve.curve.name == "roc");
            roc.map(|curve| (curve.curve.name.clone(), curve.area)).collect()
        };
        assert_eq!(areas(&of.curves(&subject).await.expect("read")), [("roc".to_owned(), Some(1.0))]);
        subject.positive_class = None;
        assert_eq!(of.curves(&subject).await.expect("read"), [], "nobody knows which class is the positive one");
    }

    #[tokio::test]
    async fn what_was_said_first_is_the_lowest_revision_that_is_kept_of_windows_that_were_revised() {
        use driftline_schemas::tables::{MetricRow, metric_rows_to_batch};
        let (store, hour) = (Store::in_memory(), 3_600_000_000);
        let mut windows = Vec::new();
        let example = crate::report::example::report(1, 2);
        let time = |micros: i64| DateTime::from_timestamp_micros(micros).expect("a time");
        // Of the last one the first revisions are deleted already, and a text would sort 10 before 9.
        for (at, revisions) in [(0, vec![1]), (1, vec![1, 2]), (2, vec![9, 10, 12])] {
            let window = Window { start: at * hour, end: (at + 1) * hour };
            for revision in &revisions {
                let row = |metric: &str, class: Option<&str>| MetricRow {
                    model: "m".into(),
                    window_start: time(window.start),
                    window_end: time(window.end),
                    metric: metric.into(),
                    class: class.map(str::to_owned),
                    value: Some(*revision as f64),
                    n: 1,
                    n_labelled: 1,
                    state: "sealed".into(),
                    revision: *revision,
                    decided_at: time(0),
                    ..MetricRow::default()
                };
                let batch = metric_rows_to_batch(&[row("f1", None), row("f1", Some("a")), row("specificity", None)]);
                let name = format!("{}_r{revision}", window_name(window));
                put(&store, &paths::table("metrics_log", "m", window.date(), &name), &batch).await;
            }
            let revision = revisions.last().copied().unwrap_or_default();
            windows.push(WindowLine { start: window.start, end: window.end, revision, ..example.windows[0].clone() });
        }
        let session = Sessions::new(store.clone(), 64 << 20, 1).open().expect("a session");
        let of = Tables { session, there: vec![], period: "true".into() };
        let subject = Subject {
            model: "m".into(),
            task: Task::Binary,
            positive_class: None,
            from: None,
            to: None,
            levels: vec![],
        };
        let first = of.revisions(&store, &subject, &windows).await.expect("read");
        let first: Vec<(i64, &str, i64, f64)> =
            first.iter().map(|said| (said.start / hour, said.metric.as_str(), said.revision, said.value)).collect();
        assert_eq!(first, [(1, "f1", 1, 1.0), (2, "f1", 9, 9.0)]);
    }
}
