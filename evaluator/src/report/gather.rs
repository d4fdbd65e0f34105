//! Reads a report out of the tables.
use arrow::json::WriterBuilder;
use arrow::json::writer::JsonArray;
use chrono::{DateTime, Utc};
use datafusion::prelude::SessionContext;
use driftline_schemas::clock::Micros;
use driftline_schemas::tables::Task;
use driftline_store::encode_segment;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::{
    Arrival, Cell, Curve, DriftPoint, GroupPoint, Health, MetricPoint, ReliabilityBin, Report, WindowLine, attention,
};
use crate::session::{Sessions, register_folder};
use crate::{Error, sql_text};

/// Points of a curve at most.
const POINTS_MAX: i64 = 200;
/// How long after a prediction it is asked whether its label was there: words and microseconds.
const ARRIVALS: [(&str, i64); 8] = [
    ("1 minute", 60_000_000),
    ("1 hour", 3_600_000_000),
    ("6 hours", 21_600_000_000),
    ("1 day", 86_400_000_000),
    ("3 days", 259_200_000_000),
    ("7 days", 604_800_000_000),
    ("14 days", 1_209_600_000_000),
    ("30 days", 2_592_000_000_000),
];
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
}

/// Reads everything. `None` if the model has no window in the period.
pub async fn gather(sessions: &Sessions, subject: &Subject, now: DateTime<Utc>) -> Result<Option<Report>, Error> {
    let session = sessions.open()?;
    let mut there = Vec::new();
    for table in ["windows", "metrics", "confusion", "drift", "history"] {
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
             failed, invalid, duplicates, label_coverage, CAST(decided_at AS BIGINT) AS decided_at",
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
            "CAST(window_start AS BIGINT) AS start, column_name AS \"column\", method, statistic, p_value, threshold, drifted, reason",
            &format!("{decides} AND segment IS NULL AND model_version IS NULL ORDER BY column_name, method, 1"),
        )
        .await?;
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
        roc: tables.roc(subject).await?,
        reliability: tables.reliability(subject).await?,
        drift,
        arrival: tables.arrival().await?,
        health: tables.health().await?,
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
        Ok(format!("value, ci_low, ci_high, CAST({warning} AS VARCHAR) AS ci_warning, n_labelled"))
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

    /// The condition for rows whose score can be set against a label, and the one for positives.
    fn scored(&self, subject: &Subject) -> Option<(String, String)> {
        let positive = subject.positive_class.as_ref().filter(|_| subject.task == Task::Binary)?;
        let is_there = self.there.contains(&"history");
        is_there.then(|| {
            let rows = format!("{COUNTS} AND score IS NOT NULL AND label IS NOT NULL AND {}", self.period);
            (rows, format!("CASE WHEN label = {} THEN 1 ELSE 0 END", sql_text(positive)))
        })
    }

    async fn roc(&self, subject: &Subject) -> Result<Option<Curve>, Error> {
        #[derive(Deserialize)]
        struct Area {
            area: Option<f64>,
            thresholds: i64,
        }
        #[derive(Deserialize)]
        struct Point {
            x: f64,
            y: f64,
        }
        let Some((rows, positive)) = self.scored(subject) else { return Ok(None) };
        // At each threshold, how many of either class lie at or above it.
        let curve = format!(
            "WITH each AS (SELECT score, sum({positive}) AS p, sum(1 - ({positive})) AS n FROM history WHERE {rows} GROUP BY score), \
             curve AS (SELECT CAST(sum(p) OVER above AS DOUBLE) AS tp, CAST(sum(n) OVER above AS DOUBLE) AS fp, \
             CAST(p AS DOUBLE) AS p, CAST(n AS DOUBLE) AS n, sum(p) OVER () AS ps, sum(n) OVER () AS ns, \
             row_number() OVER (ORDER BY score DESC) AS at, count(*) OVER () AS thresholds \
             FROM each WINDOW above AS (ORDER BY score DESC))"
        );
        // The trapezoids between neighbouring thresholds: ties count half.
        let area = format!(
            "{curve} SELECT sum(n * (tp - p / 2)) / nullif(CAST(max(ps) AS DOUBLE) * max(ns), 0) AS area, count(*) AS thresholds FROM curve"
        );
        let area: Vec<Area> = self.query(&area).await?;
        let Some(Area { area: Some(area), thresholds }) = area.into_iter().next() else { return Ok(None) };
        // One point is the origin, another the last threshold, whatever the step.
        let step = thresholds / (POINTS_MAX - 2) + 1;
        let points = format!(
            "{curve} SELECT fp / ns AS x, tp / ps AS y FROM curve WHERE at % {step} = 0 OR at = thresholds ORDER BY at"
        );
        let points: Vec<Point> = self.query(&points).await?;
        let points = std::iter::once((0.0, 0.0)).chain(points.into_iter().map(|point| (point.x, point.y))).collect();
        Ok(Some(Curve { points, area, thresholds }))
    }

    async fn reliability(&self, subject: &Subject) -> Result<Vec<ReliabilityBin>, Error> {
        let Some((rows, positive)) = self.scored(subject) else { return Ok(Vec::new()) };
        let query = format!(
            "SELECT greatest(CAST(ceil(score * 10) AS BIGINT) - 1, 0) AS bin, count(*) AS n, avg(score) AS mean_score, \
             avg(CAST({positive} AS DOUBLE)) AS positives FROM history WHERE {rows} GROUP BY 1 ORDER BY 1"
        );
        let bins: Vec<ReliabilityBin> = self.query(&query).await?;
        // Margins are no probabilities.
        Ok(if bins.iter().all(|bin| (0..10).contains(&bin.bin) && bin.mean_score >= 0.0) { bins } else { Vec::new() })
    }

    async fn arrival(&self) -> Result<Vec<Arrival>, Error> {
        #[derive(Deserialize)]
        struct Shares {
            shares: Vec<Option<f64>>,
        }
        let lag = "CAST(label_time AS BIGINT) - CAST(event_time AS BIGINT)";
        let share = |micros| format!("avg(CASE WHEN label IS NOT NULL AND {lag} <= {micros} THEN 1.0 ELSE 0.0 END)");
        let shares: Vec<String> = ARRIVALS.iter().map(|(_, micros)| share(micros)).collect();
        let columns = format!("make_array({}) AS shares", shares.join(", "));
        let rows: Vec<Shares> = self.rows("history", &columns, &format!("AND {COUNTS}")).await?;
        let shares = rows.into_iter().flat_map(|row| row.shares);
        let arrivals = ARRIVALS.iter().zip(shares);
        Ok(arrivals
            .filter_map(|((after, _), share)| Some(Arrival { after: (*after).to_owned(), share: share? }))
            .collect())
    }

    async fn health(&self) -> Result<Vec<Health>, Error> {
        let columns = "CAST(window_start AS BIGINT) AS start, count(*) AS requests, count(error) AS failed, \
                       median(latency_ms) AS latency_median_ms, max(latency_ms) AS latency_max_ms";
        self.rows("history", columns, "GROUP BY 1 ORDER BY 1").await
    }
}
