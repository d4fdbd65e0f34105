//! `driftline evaluate` against scikit-learn and SciPy: `golden/make_golden.py` computed what must come out.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Seek};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use arrow::array::{Float64Array, Int64Array, RecordBatch};
use arrow::datatypes::{DataType, Field, Schema};
use arrow::json::ReaderBuilder;
use arrow::json::reader::infer_json_schema_from_seekable;
use flate2::read::GzDecoder;
use parquet::arrow::ArrowWriter;
use serde::Deserialize;

use crate::judge::Differences;
use crate::sandbox::Sandbox;

#[derive(Deserialize)]
struct Golden {
    windows: Vec<GoldenWindow>,
    #[serde(default)]
    all: HashMap<String, f64>,
}

#[derive(Deserialize)]
struct GoldenWindow {
    window_start_us: i64,
    window_end_us: i64,
    n: u64,
    n_labelled: u64,
    metrics: HashMap<String, f64>,
    drift: Vec<GoldenDrift>,
}

#[derive(Deserialize)]
struct GoldenDrift {
    column: String,
    method: String,
    statistic: Option<f64>,
    p_value: Option<f64>,
    n: u64,
    n_reference: u64,
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn data(set: &str, file: &str) -> PathBuf {
    root().join("data").join(set).join(file)
}

fn golden(set: &str) -> Result<Golden> {
    let path = root().join(format!("integration-tests/golden/{set}.json"));
    let text = std::fs::read(&path).with_context(|| format!("read {}", path.display()))?;
    serde_json::from_slice(&text).context("read the golden values")
}

/// A sandbox whose store is what `evaluate` leaves.
fn sandbox(set: &str, settings: &str) -> Result<Sandbox> {
    let sandbox = Sandbox::with_config("")?;
    let text = format!(
        "[store]\nurl = {:?}\n[[models]]\nname = {set:?}\n{settings}reference = {:?}\n",
        sandbox.store().display().to_string(),
        data(set, "reference.jsonl.gz").display().to_string()
    );
    std::fs::write(sandbox.path("driftline.toml"), text).context("write the configuration")?;
    Ok(sandbox)
}

const MA_EMPLOYMENT: &str = "task = \"binary\"\npositive_class = 1\nwindow = \"day\"\n";
const FLIGHT_AIRTIME: &str = "task = \"regression\"\nwindow = \"14d\"\n";

async fn evaluate(sandbox: &Sandbox, predictions: &Path, labels: &Path) -> Result<()> {
    let (predictions, labels) = (predictions.display().to_string(), labels.display().to_string());
    let arguments =
        ["evaluate", "--predictions", &predictions, "--labels", &labels, "--out", "store", "--format", "json"];
    let printed: Vec<serde_json::Value> = serde_json::from_str(&sandbox.succeed(&arguments).await?)?;
    ensure!(!printed.is_empty(), "it prints the metrics");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn e2_a_binary_model_is_judged_as_scikit_learn_does() -> Result<()> {
    let sandbox = sandbox("ma_employment", MA_EMPLOYMENT)?;
    evaluate(&sandbox, &data("ma_employment", "predictions.jsonl.gz"), &data("ma_employment", "labels.jsonl.gz"))
        .await?;
    check(&sandbox, "ma_employment").await
}

#[tokio::test(flavor = "multi_thread")]
async fn e2_a_regression_is_judged_as_scikit_learn_does() -> Result<()> {
    let sandbox = sandbox("flight_airtime", FLIGHT_AIRTIME)?;
    evaluate(&sandbox, &data("flight_airtime", "predictions.jsonl.gz"), &data("flight_airtime", "labels.jsonl.gz"))
        .await?;
    check(&sandbox, "flight_airtime").await
}

#[tokio::test(flavor = "multi_thread")]
async fn e2_parquet_files_give_what_json_lines_give() -> Result<()> {
    let sandbox = sandbox("flight_airtime", FLIGHT_AIRTIME)?;
    let (predictions, labels) = (sandbox.path("predictions.parquet"), sandbox.path("labels.parquet"));
    to_parquet(&sandbox, &data("flight_airtime", "predictions.jsonl.gz"), &predictions)?;
    to_parquet(&sandbox, &data("flight_airtime", "labels.jsonl.gz"), &labels)?;
    evaluate(&sandbox, &predictions, &labels).await?;
    check(&sandbox, "flight_airtime").await
}

/// A file with nothing but labels and scores is one window.
#[tokio::test(flavor = "multi_thread")]
async fn e2_a_parquet_file_of_labels_and_scores_alone_is_judged() -> Result<()> {
    let sandbox = sandbox("ma_employment", MA_EMPLOYMENT)?;
    let mut labels: HashMap<String, i64> = HashMap::new();
    for event in events(&data("ma_employment", "labels.jsonl.gz"))? {
        labels.insert(text(&event, "prediction_id")?, event["label"].as_i64().context("a label is 0 or 1")?);
    }
    let (mut actual, mut scores) = (Vec::new(), Vec::new());
    for event in events(&data("ma_employment", "predictions.jsonl.gz"))? {
        actual.push(labels[&text(&event, "prediction_id")?]);
        scores.push(event["score"].as_f64().context("a score is a number")?);
    }
    let schema =
        Schema::new(vec![Field::new("label", DataType::Int64, true), Field::new("score", DataType::Float64, true)]);
    let columns: Vec<arrow::array::ArrayRef> =
        vec![Arc::new(Int64Array::from(actual)), Arc::new(Float64Array::from(scores))];
    let file = sandbox.path("scores.parquet");
    write_parquet(&file, &[RecordBatch::try_new(Arc::new(schema), columns)?])?;
    let arguments = [
        "evaluate",
        "--predictions",
        "scores.parquet",
        "--model",
        "ma_employment",
        "--out",
        "store",
        "--format",
        "json",
    ];
    #[derive(Deserialize)]
    struct Row {
        metric: String,
        class: Option<String>,
        value: Option<f64>,
    }
    let rows: Vec<Row> = serde_json::from_str(&sandbox.succeed(&arguments).await?)?;
    let mut differences = Differences::default();
    for (metric, value) in golden("ma_employment")?.all {
        let said = rows.iter().find(|row| row.metric == metric && row.class.is_none()).and_then(|row| row.value);
        differences.expect_close(|| metric.clone(), said, Some(value));
    }
    ensure!(differences.settle()? >= 4, "the golden values of the whole are there");
    Ok(())
}

/// Labels of any type, nothing configured: 4 rows, 3 of them right at the threshold of 0.5, and an AUC of 3/4.
#[tokio::test(flavor = "multi_thread")]
async fn e2_a_parquet_file_of_any_kind_of_label_is_judged() -> Result<()> {
    use arrow::array::{ArrayRef, BooleanArray, StringArray};
    let labels: [(&str, ArrayRef); 4] = [
        ("bool", Arc::new(BooleanArray::from(vec![true, true, false, false]))),
        ("text", Arc::new(StringArray::from(vec!["fraud", "fraud", "ok", "ok"]))),
        ("text of numbers", Arc::new(StringArray::from(vec!["1.0", "1.0", "0.0", "0.0"]))),
        ("float", Arc::new(Float64Array::from(vec![1.0, 1.0, 0.0, 0.0]))),
    ];
    for (kind, label) in labels {
        // The last row is refused: its score is no probability.
        let label = arrow::compute::concat(&[&label, &label.slice(0, 1)])?;
        let score: ArrayRef = Arc::new(Float64Array::from(vec![0.9, 0.3, 0.1, 0.4, 1.5]));
        let sandbox = Sandbox::with_config("")?;
        write_parquet(
            &sandbox.path("rows.parquet"),
            &[RecordBatch::try_from_iter(vec![("label", label), ("score", score)])?],
        )?;
        let arguments = ["evaluate", "--predictions", "rows.parquet", "--out", "out", "--format", "json"];
        let rows: Vec<serde_json::Value> = serde_json::from_str(&sandbox.succeed(&arguments).await?)?;
        for (metric, value) in [("accuracy", 0.75), ("roc_auc", 0.75), ("recall", 0.5), ("precision", 1.0)] {
            let said = rows.iter().find(|row| row["metric"] == metric).map(|row| (&row["value"], &row["n"]));
            ensure!(said == Some((&value.into(), &4.into())), "{kind}: {metric} is {said:?}");
        }
    }
    Ok(())
}

/// Windows that are read together are measured against each other, the later against the earlier.
#[tokio::test(flavor = "multi_thread")]
async fn a_past_period_is_the_reference_of_windows_read_with_it() -> Result<()> {
    let sandbox = Sandbox::with_config("[[models]]\nname = \"m\"\nreference = { last = \"1h\", offset = \"1h\" }\n")?;
    let mut lines = String::new();
    for (hour, scores) in [(10, [0.1, 0.2]), (11, [0.1, 0.2]), (12, [0.1, 0.9]), (13, [0.1, 0.2])] {
        for (number, score) in scores.into_iter().enumerate() {
            let event = serde_json::json!({"prediction_id": format!("{hour}-{number}"), "model_name": "m",
                "timestamp": format!("2026-03-01T{hour}:00:00Z"), "score": score});
            lines += &format!("{event}\n");
        }
    }
    std::fs::write(sandbox.path("p.jsonl"), lines).context("write the events")?;
    sandbox.succeed(&["evaluate", "--predictions", "p.jsonl", "--out", "out"]).await?;
    let query = "SELECT date_part('hour', window_start) AS hour, statistic, reason FROM drift \
                 WHERE column_name = 'score' AND model_version IS NULL AND (method = 'ks' OR reason IS NOT NULL) ORDER BY 1";
    let printed = sandbox.succeed(&["--store", "out", "sql", "-c", query, "--format", "json"]).await?;
    let rows: Vec<serde_json::Value> = serde_json::from_str(&printed)?;
    let said: Vec<_> = rows.iter().map(|row| (row["hour"].as_i64(), row["statistic"].as_f64())).collect();
    ensure!(said == [(Some(10), None), (Some(11), None), (Some(12), Some(0.5)), (Some(13), Some(0.0))], "{said:?}");
    Ok(())
}

/// Nothing is configured, and what the first predictions say does not name all classes.
#[tokio::test(flavor = "multi_thread")]
async fn classes_that_predictions_do_not_name_are_told_apart() -> Result<()> {
    let sandbox = Sandbox::with_config("")?;
    let (mut predictions, mut labels) = (String::new(), String::new());
    for (model, said) in [
        ("one-class", serde_json::json!({"prediction": "ok", "score": 0.1})),
        ("probabilities", serde_json::json!({"probabilities": {"fraud": 0.4, "ok": 0.6}})),
    ] {
        for (number, label) in ["ok", "ok", "ok", "fraud"].into_iter().enumerate() {
            let mut event = said.clone();
            event["model_name"] = model.into();
            event["prediction_id"] = number.to_string().into();
            event["timestamp"] = "2026-03-01T10:00:00Z".into();
            predictions += &format!("{event}\n");
            labels += &format!(
                "{{\"model_name\":{model:?},\"prediction_id\":\"{number}\",\"timestamp\":\"2026-03-01T10:30:00Z\",\"label\":{label:?}}}\n"
            );
        }
    }
    std::fs::write(sandbox.path("p.jsonl"), predictions).context("write the predictions")?;
    std::fs::write(sandbox.path("l.jsonl"), labels).context("write the labels")?;
    let arguments = ["evaluate", "--predictions", "p.jsonl", "--labels", "l.jsonl", "--out", "out", "--format", "json"];
    let rows: Vec<serde_json::Value> = serde_json::from_str(&sandbox.succeed(&arguments).await?)?;
    let accuracies: Vec<_> = rows
        .iter()
        .filter(|row| row["metric"] == "accuracy")
        .map(|row| (row["model_name"].as_str(), &row["value"]))
        .collect();
    ensure!(accuracies == [(Some("one-class"), &0.75.into()), (Some("probabilities"), &0.75.into())], "{accuracies:?}");
    Ok(())
}

async fn check(sandbox: &Sandbox, set: &str) -> Result<()> {
    #[derive(Deserialize)]
    struct Metric {
        start: i64,
        end: i64,
        metric: String,
        value: Option<f64>,
        n: u64,
        n_labelled: u64,
    }
    #[derive(Deserialize)]
    struct Drift {
        start: i64,
        column_name: String,
        method: String,
        statistic: Option<f64>,
        p_value: Option<f64>,
        n: u64,
        n_reference: u64,
    }
    let times = "CAST(window_start AS BIGINT) AS start, CAST(window_end AS BIGINT) AS \"end\"";
    let whole = "segment IS NULL AND model_version IS NULL";
    let query = format!("SELECT {times}, metric, value, n, n_labelled FROM metrics WHERE {whole} AND class IS NULL");
    let metrics: HashMap<(i64, String), Metric> =
        sandbox.sql::<Metric>(&query).await?.into_iter().map(|row| ((row.start, row.metric.clone()), row)).collect();
    let query =
        format!("SELECT {times}, column_name, method, statistic, p_value, n, n_reference FROM drift WHERE {whole}");
    let drift: HashMap<(i64, String, String), Drift> = sandbox
        .sql::<Drift>(&query)
        .await?
        .into_iter()
        .map(|row| ((row.start, row.column_name.clone(), row.method.clone()), row))
        .collect();
    let mut differences = Differences::default();
    for window in golden(set)?.windows {
        let at = window.window_start_us;
        for (name, value) in window.metrics {
            let said = metrics.get(&(at, name.clone()));
            differences.expect_close(|| format!("{name} at {at}"), said.and_then(|row| row.value), Some(value));
            differences.expect(
                || format!("end, n, n_labelled of {name} at {at}"),
                said.map(|row| (row.end, row.n, row.n_labelled)),
                Some((window.window_end_us, window.n, window.n_labelled)),
            );
        }
        for golden in window.drift {
            let said = drift.get(&(at, golden.column.clone(), golden.method.clone()));
            let what = || format!("{} of {} at {at}", golden.method, golden.column);
            differences.expect_close(what, said.and_then(|row| row.statistic), golden.statistic);
            differences.expect_close(|| format!("p of {}", what()), said.and_then(|row| row.p_value), golden.p_value);
            differences.expect(
                || format!("n of {}", what()),
                said.map(|row| (row.n, row.n_reference)),
                Some((golden.n, golden.n_reference)),
            );
        }
    }
    let compared = differences.settle()?;
    eprintln!("{set}: {compared} values equal those of scikit-learn and SciPy");
    sandbox.succeed(&["audit"]).await.map(drop)
}

fn events(path: &Path) -> Result<Vec<serde_json::Value>> {
    let lines = BufReader::new(GzDecoder::new(File::open(path)?)).lines();
    lines.map(|line| Ok(serde_json::from_str(&line?)?)).collect()
}

fn text(event: &serde_json::Value, field: &str) -> Result<String> {
    event[field].as_str().map(str::to_owned).with_context(|| format!("no {field}"))
}

/// JSON lines as a Parquet file with nested columns, as a data team would export it.
fn to_parquet(sandbox: &Sandbox, from: &Path, to: &Path) -> Result<()> {
    let plain = sandbox.path("plain.jsonl");
    let mut unpacked = File::create(&plain)?;
    std::io::copy(&mut GzDecoder::new(File::open(from)?), &mut unpacked)?;
    let mut reader = BufReader::new(File::open(&plain)?);
    let (schema, _) = infer_json_schema_from_seekable(&mut reader, None)?;
    reader.rewind()?;
    let batches = ReaderBuilder::new(Arc::new(schema)).build(reader)?.collect::<Result<Vec<_>, _>>()?;
    write_parquet(to, &batches)
}

fn write_parquet(path: &Path, batches: &[RecordBatch]) -> Result<()> {
    let first = batches.first().context("no rows")?;
    let mut writer = ArrowWriter::try_new(File::create(path)?, first.schema(), None)?;
    for batch in batches {
        writer.write(batch)?;
    }
    writer.close()?;
    Ok(())
}
