//! `driftline evaluate` on files as people have them: what a file says counts the same whatever its form, and nothing of it is lost.

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use arrow::array::{ArrayRef, Float64Array, RecordBatch, StringArray, TimestampMicrosecondArray};
use parquet::arrow::ArrowWriter;
use serde_json::{Value, json};

use crate::sandbox::Sandbox;

const DAY: &str = "2026-03-01T10:00:00Z";

fn write(sandbox: &Sandbox, name: &str, events: &[Value]) -> Result<()> {
    let lines: Vec<String> = events.iter().map(|event| format!("{event}\n")).collect();
    std::fs::write(sandbox.path(name), lines.concat()).with_context(|| format!("write {name}"))
}

fn write_parquet(sandbox: &Sandbox, name: &str, columns: Vec<(&str, ArrayRef)>) -> Result<()> {
    let batch = RecordBatch::try_from_iter(columns)?;
    let mut writer = ArrowWriter::try_new(std::fs::File::create(sandbox.path(name))?, batch.schema(), None)?;
    writer.write(&batch)?;
    writer.close()?;
    Ok(())
}

fn doubles(values: &[f64]) -> ArrayRef {
    Arc::new(Float64Array::from(values.to_vec()))
}

fn texts(values: &[&str]) -> ArrayRef {
    Arc::new(StringArray::from(values.to_vec()))
}

/// Runs `evaluate`, and asks the result.
async fn asked(sandbox: &Sandbox, arguments: &[&str], query: &str) -> Result<Vec<Value>> {
    sandbox.succeed(&[&["evaluate"], arguments, &["--out", "out"]].concat()).await?;
    let printed = sandbox.succeed(&["--store", "out", "sql", "-c", query, "--format", "json"]).await?;
    Ok(serde_json::from_str(&printed)?)
}

/// A statistic of each column, over all rows.
fn by_column(rows: &[Value]) -> BTreeMap<&str, f64> {
    rows.iter().filter_map(|row| Some((row["column_name"].as_str()?, row["statistic"].as_f64()?))).collect()
}

const KS: &str =
    "SELECT column_name, statistic FROM drift WHERE method = 'ks' AND segment IS NULL AND model_version IS NULL";

#[tokio::test(flavor = "multi_thread")]
async fn a_text_and_a_number_under_one_column_stop_nothing() -> Result<()> {
    let sandbox = Sandbox::with_config("")?;
    let event = |id: &str, hour: u32, features: Value| {
        json!({"prediction_id": id, "model_name": "m", "timestamp": format!("2026-03-01T{hour:02}:00:00Z"), "prediction": "y",
            "features": features})
    };
    // Text of a feature x, and a number x_text, in windows of their own: both are `feature_x_text`.
    write(&sandbox, "p.jsonl", &[event("a", 7, json!({"x": "abc"})), event("b", 8, json!({"x_text": 5}))])?;
    let query = "SELECT prediction_id, feature_x_text FROM history ORDER BY 1";
    let rows = asked(&sandbox, &["--predictions", "p.jsonl"], query).await?;
    ensure!(rows.len() == 2 && rows[0]["feature_x_text"] == "abc" && rows[1]["feature_x_text"] == "5.0", "{rows:?}");
    sandbox.succeed(&["--store", "out", "audit"]).await?;
    let unknown = sandbox.run(&["--store", "out", "audit", "--model", "n"]).await?;
    ensure!(
        unknown.code == Some(1) && unknown.stderr.contains("the store knows no model \"n\"; it knows m"),
        "{unknown:?}"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reference_of_events_is_what_a_window_of_them_is() -> Result<()> {
    let settings =
        "[[models]]\nname = \"m\"\ntask = \"binary\"\npositive_class = \"1\"\nreference = \"reference.jsonl\"\n";
    let sandbox = Sandbox::with_config(settings)?;
    let event = |at: usize, rate: f64, score: f64| {
        let (a, label) = (at / 20, usize::from(at.is_multiple_of(2)));
        json!({"prediction_id": at.to_string(), "model_name": "m", "timestamp": DAY, "score": score, "label": label, "prediction": label,
            "sampling_rate": rate, "features": {"a": a}, "attributions": {"a": a}})
    };
    // Of the reference, rows with a = 1 stand for ten each; one that a window would refuse is not in it.
    let mut reference: Vec<Value> = (0..40).map(|at| event(at, if at < 20 { 1.0 } else { 0.1 }, 0.5)).collect();
    reference.push(event(1_000, 1.0, 3.0));
    write(&sandbox, "reference.jsonl", &reference)?;
    write(&sandbox, "p.jsonl", &(0..40).map(|at| event(at, 1.0, 0.5)).collect::<Vec<_>>())?;
    let rows = asked(&sandbox, &["--predictions", "p.jsonl"], KS).await?;
    let found = by_column(&rows);
    // Half of the rows are 0 here, one in eleven there.
    for column in ["a", "attributions.a"] {
        let off = found.get(column).map(|statistic| (statistic - (0.5 - 1.0 / 11.0)).abs());
        ensure!(off.is_some_and(|off| off < 1e-12), "{column}: {found:?}");
    }
    ensure!(found.get("score") == Some(&0.0), "{found:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_parquet_file_is_like_itself_however_its_classes_are_written() -> Result<()> {
    let values: Vec<f64> = (0..40).map(|at| f64::from(u8::from(at % 3 == 0))).collect();
    let ids: Vec<String> = values.iter().map(f64::to_string).collect();
    let names: Vec<&str> = ids.iter().map(|_| "x").collect();
    for (task, positive) in [("binary", "positive_class = \"1\"\n"), ("regression", "")] {
        let settings = format!("[[models]]\nname = \"m\"\ntask = {task:?}\n{positive}reference = \"rows.parquet\"\n");
        let sandbox = Sandbox::with_config(&settings)?;
        let columns = vec![
            ("label", doubles(&values)),
            ("prediction", doubles(&values)),
            ("feature_plain", texts(&names)),
            ("feature_number", doubles(&values)),
        ];
        // Neither its name nor its ending is a pattern.
        write_parquet(&sandbox, "rows.parquet", columns.clone())?;
        write_parquet(&sandbox, "d?.pq", columns)?;
        write_parquet(&sandbox, "d1.pq", vec![("label", doubles(&[1.0])), ("prediction", doubles(&[0.0]))])?;
        let query =
            "SELECT column_name, statistic FROM drift WHERE decides AND segment IS NULL AND model_version IS NULL";
        let rows = asked(&sandbox, &["--predictions", "d?.pq"], query).await?;
        let found = by_column(&rows);
        let columns: Vec<&str> = found.keys().copied().filter(|name| *name != "__features__").collect();
        ensure!(columns == ["label", "number", "plain", "prediction"], "{task}: {found:?}");
        ensure!(found.values().all(|statistic| *statistic == 0.0), "{task}: {found:?}");
        let n = "SELECT n FROM metrics WHERE segment IS NULL AND model_version IS NULL AND class IS NULL LIMIT 1";
        let printed = sandbox.succeed(&["--store", "out", "sql", "-c", n, "--format", "csv"]).await?;
        ensure!(printed.lines().nth(1) == Some("40"), "{task}: {printed}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_without_ids_is_a_window_of_each_of_its_models() -> Result<()> {
    let sandbox = Sandbox::with_config("")?;
    let columns = vec![
        ("model_name", texts(&["a", "a", "b", "b", "b"])),
        // NaN is no label, and no class.
        ("label", doubles(&[1.0, 0.0, 1.0, 0.0, f64::NAN])),
        ("prediction", doubles(&[1.0, 0.0, 0.0, 1.0, 1.0])),
    ];
    write_parquet(&sandbox, "rows.parquet", columns)?;
    let query = "SELECT model_name, value, n, n_labelled FROM metrics WHERE metric = 'accuracy' AND segment IS NULL \
                 AND model_version IS NULL ORDER BY 1";
    let rows = asked(&sandbox, &["--predictions", "rows.parquet"], query).await?;
    let said = rows.iter().map(|row| (row["model_name"].as_str(), row["value"].as_f64(), row["n_labelled"].as_i64()));
    let said: Vec<_> = said.collect();
    ensure!(said == [(Some("a"), Some(1.0), Some(2)), (Some("b"), Some(0.0), Some(2))], "{said:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn labels_of_a_file_sorted_by_them_are_all_looked_at() -> Result<()> {
    let sandbox = Sandbox::with_config("")?;
    let labels: Vec<&str> = (0..3_000).map(|at| if at < 1_500 { "ok" } else { "fraud" }).collect();
    let scores: Vec<f64> = (0..3_000).map(|at| f64::from(at) / 3_000.0).collect();
    write_parquet(&sandbox, "rows.parquet", vec![("label", texts(&labels)), ("score", doubles(&scores))])?;
    let query = "SELECT value FROM metrics WHERE metric = 'roc_auc' AND segment IS NULL AND model_version IS NULL";
    let rows = asked(&sandbox, &["--predictions", "rows.parquet"], query).await?;
    ensure!(rows.len() == 1 && rows[0]["value"] == 1.0, "{rows:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn inline_labels_count_beside_label_files_and_flat_columns_are_features() -> Result<()> {
    let sandbox = Sandbox::with_config("[[models]]\nname = \"m\"\nsegments = [\"region\", \"features.kind\"]\n")?;
    let ids: Vec<String> = (0..10).map(|at| format!("id-{at}")).collect();
    let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
    // A time without a zone, as pandas writes it.
    let times: ArrayRef = Arc::new(TimestampMicrosecondArray::from(vec![1_772_359_200_000_000; 10]));
    let columns = vec![
        ("prediction_id", texts(&ids)),
        ("timestamp", times),
        ("prediction", texts(&["1"; 10])),
        ("label", texts(&["1"; 10])),
        ("feature_x", doubles(&[2.5; 10])),
        ("feature_kind_text", texts(&["k"; 10])),
        ("tag_region", texts(&["eu"; 10])),
    ];
    write_parquet(&sandbox, "p.parquet", columns)?;
    // One of them is corrected.
    let correction =
        json!({"prediction_id": "id-3", "model_name": "m", "timestamp": "2026-03-02T10:00:00Z", "label": "0"});
    write(&sandbox, "l.jsonl", &[correction])?;
    let query = "SELECT count(*) AS rows, count(label) AS labelled, sum(CASE WHEN label = '0' THEN 1 ELSE 0 END) AS corrected, \
                 min(feature_x) AS x, min(feature_kind_text) AS kind, min(tag_region) AS region FROM history";
    let rows = asked(&sandbox, &["--predictions", "p.parquet", "--labels", "l.jsonl"], query).await?;
    ensure!(
        rows == [json!({"rows": 10, "labelled": 10, "corrected": 1, "x": 2.5, "kind": "k", "region": "eu"})],
        "{rows:?}"
    );
    let query = "SELECT DISTINCT segment, segment_value FROM metrics WHERE segment IS NOT NULL ORDER BY 1";
    let printed = sandbox.succeed(&["--store", "out", "sql", "-c", query, "--format", "csv"]).await?;
    ensure!(printed.contains("features.kind,k") && printed.contains("region,eu"), "{printed}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ranked_query_counts_for_as_many_as_it_was_sampled_from() -> Result<()> {
    let settings =
        "[[models]]\nname = \"m\"\ntask = \"binary\"\npositive_class = \"1\"\nranking = { group = \"query\", k = 3 }\n";
    let sandbox = Sandbox::with_config(settings)?;
    let event = |query: &str, rate: f64, rank: usize, is_relevant: bool| {
        json!({"prediction_id": format!("{query}{rank}"), "model_name": "m", "timestamp": DAY, "score": 1.0 - 0.1 * rank as f64,
            "label": i32::from(is_relevant), "tags": {"query": query}, "sampling_rate": rate})
    };
    // The relevant row is first in a, and last of two in b, which stands for four such queries.
    let events =
        [event("a", 1.0, 0, true), event("a", 1.0, 1, false), event("b", 0.25, 0, false), event("b", 0.25, 1, true)];
    write(&sandbox, "p.jsonl", &events)?;
    let query =
        "SELECT value FROM metrics WHERE metric = 'mean_reciprocal_rank' AND segment IS NULL AND model_version IS NULL";
    let rows = asked(&sandbox, &["--predictions", "p.jsonl"], query).await?;
    let value = rows.first().and_then(|row| row["value"].as_f64()).context("a value")?;
    ensure!((value - (1.0 + 4.0 * 0.5) / 5.0).abs() < 1e-12, "{value}");
    Ok(())
}
