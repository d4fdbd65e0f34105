//! What `driftline evaluate` estimates before the labels, against a calibration worked out anew here, and against what was realised.
use std::collections::HashMap;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use arrow::array::{ArrayRef, Float64Array, Int64Array, RecordBatch, StringArray};
use flate2::read::GzDecoder;
use parquet::arrow::ArrowWriter;
use serde::Deserialize;

use crate::judge::Differences;
use crate::sandbox::Sandbox;

fn data(set: &str, file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../data").join(set).join(file)
}

async fn evaluated(set: &str, settings: &str, reference: &str) -> Result<Sandbox> {
    let sandbox = Sandbox::with_config("")?;
    let text = format!(
        "[store]\nurl = {:?}\n[[models]]\nname = {set:?}\n{settings}reference = {reference:?}\n",
        sandbox.store().display().to_string(),
    );
    std::fs::write(sandbox.path("driftline.toml"), text).context("write the configuration")?;
    evaluate(&sandbox, set).await?;
    Ok(sandbox)
}

async fn evaluate(sandbox: &Sandbox, set: &str) -> Result<()> {
    let file = |name: &str| data(set, name).display().to_string();
    let (predictions, labels) = (file("predictions.jsonl.gz"), file("labels.jsonl.gz"));
    sandbox.succeed(&["evaluate", "--predictions", &predictions, "--labels", &labels, "--out", "store"]).await?;
    Ok(())
}

fn events(path: &Path) -> Result<Vec<serde_json::Value>> {
    let lines = BufReader::new(GzDecoder::new(File::open(path)?)).lines();
    lines.map(|line| Ok(serde_json::from_str(&line?)?)).collect()
}

/// The share of positives at and around each score: neighbours are pooled until none falls, the plain way.
fn calibration(rows: &[(f64, bool)]) -> Vec<(f64, f64)> {
    let mut sorted = rows.to_vec();
    sorted.sort_by(|a, b| a.0.total_cmp(&b.0));
    let mut blocks: Vec<(Vec<f64>, f64, f64)> = Vec::new();
    for run in sorted.chunk_by(|a, b| a.0 == b.0) {
        let hits = run.iter().filter(|(_, positive)| *positive).count() as f64;
        blocks.push((vec![run[0].0], hits, run.len() as f64));
        while let [.., before, last] = blocks.as_slice()
            && before.1 / before.2 >= last.1 / last.2
        {
            let (scores, hits, rows) = blocks.pop().expect("two are there");
            let into = blocks.last_mut().expect("one is left");
            into.0.extend(scores);
            (into.1, into.2) = (into.1 + hits, into.2 + rows);
        }
    }
    blocks.iter().flat_map(|(scores, hits, rows)| scores.iter().map(move |score| (*score, hits / rows))).collect()
}

fn calibrated(knots: &[(f64, f64)], score: f64) -> f64 {
    let after = knots.partition_point(|(at, _)| *at <= score);
    match (after.checked_sub(1).map(|at| knots[at]), knots.get(after)) {
        (None, Some((_, first))) => *first,
        (Some((_, last)), None) => last,
        (Some((low, below)), Some((high, above))) => below + (above - below) * (score - low) / (high - low),
        (None, None) => f64::NAN,
    }
}

#[derive(Deserialize)]
struct Estimate {
    start: i64,
    metric: String,
    value: Option<f64>,
    ci_low: Option<f64>,
    ci_high: Option<f64>,
    realised: Option<f64>,
    n: u64,
    n_labelled: u64,
}

const WHOLE: &str = "segment IS NULL AND model_version IS NULL";

async fn estimates(sandbox: &Sandbox, method: &str) -> Result<Vec<Estimate>> {
    let columns = "CAST(window_start AS BIGINT) AS start, metric, value, ci_low, ci_high, realised, n, n_labelled";
    sandbox.sql(&format!("SELECT {columns} FROM estimates WHERE {WHOLE} AND method = '{method}'")).await
}

const MA_EMPLOYMENT: &str = "task = \"binary\"\npositive_class = 1\nwindow = \"day\"\n";
const FLIGHT_AIRTIME: &str = "task = \"regression\"\nwindow = \"14d\"\n";

#[tokio::test(flavor = "multi_thread")]
async fn e2_a_binary_models_estimates_are_those_of_a_calibration_worked_out_anew() -> Result<()> {
    let reference = data("ma_employment", "reference.jsonl.gz");
    let sandbox = evaluated("ma_employment", MA_EMPLOYMENT, &reference.display().to_string()).await?;
    let labelled: Vec<(f64, bool)> = events(&reference)?
        .iter()
        .map(|event| Some((event["score"].as_f64()?, event["label"].as_i64()? == 1)))
        .collect::<Option<_>>()
        .context("each event has a score and a label")?;
    let knots = calibration(&labelled);
    #[derive(Deserialize)]
    struct Row {
        start: i64,
        score: f64,
        prediction: String,
    }
    let query = "SELECT CAST(window_start AS BIGINT) AS start, score, prediction FROM history";
    // By window: expected hits, misses, rows, rows predicted positive.
    let mut windows: HashMap<i64, [f64; 4]> = HashMap::new();
    for row in sandbox.sql::<Row>(query).await? {
        let (share, said) = (calibrated(&knots, row.score), row.prediction == "1");
        let window = windows.entry(row.start).or_default();
        window[usize::from(!said)] += share;
        window[2] += 1.0;
        window[3] += f64::from(u8::from(said));
    }
    let found: HashMap<(i64, String), Estimate> =
        estimates(&sandbox, "cbpe").await?.into_iter().map(|row| ((row.start, row.metric.clone()), row)).collect();
    let mut differences = Differences::default();
    for (start, [hits, misses, rows, said]) in &windows {
        let expected = [
            ("accuracy", (hits + rows - said - misses) / rows),
            ("precision", hits / said),
            ("recall", hits / (hits + misses)),
            ("f1", 2.0 * hits / (said + hits + misses)),
            ("false_negative_share", misses / rows),
        ];
        for (metric, value) in expected {
            let row = found.get(&(*start, metric.to_owned()));
            differences.expect_close(|| format!("{metric} at {start}"), row.and_then(|row| row.value), Some(value));
            differences.expect(|| format!("n of {metric} at {start}"), row.map(|row| row.n), Some(*rows as u64));
        }
    }
    ensure!(differences.settle()? >= 200, "every window is compared");
    // The truth has come by now: most of it lies where it was expected.
    let held: Vec<bool> = found
        .values()
        .filter(|row| row.n_labelled == row.n)
        .filter_map(|row| Some((row.ci_low?..=row.ci_high?).contains(&row.realised?)))
        .collect();
    let share = held.iter().filter(|held| **held).count() as f64 / held.len() as f64;
    eprintln!("{} estimates, {share:.3} of the realised values in their intervals", held.len());
    ensure!(held.len() >= 200 && share > 0.85, "{share} of {} realised values lie in their intervals", held.len());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_regressions_estimates_stand_beside_what_was_realised() -> Result<()> {
    let reference = data("flight_airtime", "reference.jsonl.gz").display().to_string();
    let sandbox = evaluated("flight_airtime", FLIGHT_AIRTIME, &reference).await?;
    #[derive(Deserialize)]
    struct Record {
        metric: String,
        windows: u64,
        mean_error: f64,
        level: f64,
    }
    // README's query of the record, and how large the values are.
    let query = format!(
        "SELECT metric, method, count(*) AS windows, avg(abs(value - realised)) AS mean_error, avg(realised) AS level, \
         avg(CASE WHEN realised BETWEEN ci_low AND ci_high THEN 1.0 ELSE 0.0 END) AS covered FROM estimates \
         WHERE model_name = 'flight_airtime' AND method <> 'nowcast' AND state <> 'open' AND n_labelled >= 0.9 * n AND value IS NOT NULL \
         AND realised IS NOT NULL AND {WHOLE} GROUP BY metric, method ORDER BY metric"
    );
    let records: Vec<Record> = sandbox.sql(&query).await?;
    let metrics: Vec<&str> = records.iter().map(|record| record.metric.as_str()).collect();
    ensure!(metrics == ["mean_absolute_error", "mean_squared_error", "root_mean_squared_error"], "{metrics:?}");
    for record in records {
        eprintln!("{}: {} windows, off by {} of {}", record.metric, record.windows, record.mean_error, record.level);
        ensure!(
            record.windows >= 5 && record.mean_error < record.level,
            "{} is off by {}",
            record.metric,
            record.mean_error
        );
    }
    Ok(())
}

/// What is frozen from a file judges as the file does; what is frozen from past windows lies in the store.
#[tokio::test(flavor = "multi_thread")]
async fn a_reference_is_fitted_once_and_named_in_the_configuration() -> Result<()> {
    let set = "flight_airtime";
    let file = data(set, "reference.jsonl.gz").display().to_string();
    let direct = evaluated(set, FLIGHT_AIRTIME, &file).await?;
    let frozen = direct.path("frozen.json").display().to_string();
    let printed = direct.succeed(&["reference", "fit", "--model", set, &file, "--out", &frozen]).await?;
    ensure!(printed.contains(&format!("reference = {frozen:?}")), "{printed}");
    ensure!(printed.contains("losses in 20 bins of predictions"), "{printed}");
    let fitted = evaluated(set, FLIGHT_AIRTIME, &frozen).await?;
    #[derive(Deserialize, PartialEq, Debug)]
    struct Row {
        start: i64,
        name: String,
        value: Option<f64>,
        reference_version: Option<String>,
    }
    let query = format!(
        "SELECT CAST(window_start AS BIGINT) AS start, metric AS name, value, reference_version FROM estimates WHERE {WHOLE} \
         UNION ALL SELECT CAST(window_start AS BIGINT), concat(column_name, method), statistic, reference_version \
         FROM drift WHERE {WHOLE} ORDER BY 1, 2"
    );
    let (ours, theirs) = (fitted.sql::<Row>(&query).await?, direct.sql::<Row>(&query).await?);
    ensure!(ours.len() > 100 && ours == theirs, "a frozen reference judges otherwise than its file");
    // Past windows: those that lie whole in the period, each with its labels.
    let period = ["--from", "2015-08-01T00:00:00Z", "--to", "2015-11-01T00:00:00Z"];
    let arguments = [&["reference", "fit", "--model", set][..], &period].concat();
    let printed = direct.succeed(&arguments).await?;
    let line = printed.lines().find_map(|line| line.strip_prefix("reference = ")).context("it says what to write")?;
    let location: String = serde_json::from_str(line)?;
    let reference: serde_json::Value = serde_json::from_slice(&std::fs::read(&location)?)?;
    let counted: Vec<HashMap<String, u64>> = direct
        .sql(
            "SELECT count(*) AS n FROM history WHERE error IS NULL AND invalid_reason IS NULL AND NOT coalesce(after_final, false) \
             AND window_start >= TIMESTAMP '2015-08-01T00:00:00Z' AND window_end <= TIMESTAMP '2015-11-01T00:00:00Z'",
        )
        .await?;
    ensure!(reference["rows"].as_u64() == Some(counted[0]["n"]) && counted[0]["n"] > 1_000, "{}", reference["rows"]);
    let version = reference["version"].as_str().context("it has a version")?;
    ensure!(location.ends_with(&format!("references/model_name={set}/{version}.json")), "{location}");
    ensure!(direct.succeed(&arguments).await? == printed, "the same windows freeze to the same version");
    // A reference that somebody has changed is not the one that its version names.
    let mut changed: serde_json::Value = serde_json::from_slice(&std::fs::read(&frozen)?)?;
    changed["calibration"]["regression"]["bins"][3]["absolute"]["mean"] = 0.125.into();
    let tampered = direct.path("tampered.json");
    std::fs::write(&tampered, serde_json::to_vec(&changed)?)?;
    let refused = evaluated(set, FLIGHT_AIRTIME, &tampered.display().to_string()).await.err();
    let said = refused.map(|error| format!("{error:#}")).unwrap_or_default();
    ensure!(said.contains("its content is of version"), "{said}");
    Ok(())
}

/// The same rows freeze to the same version: as events, as Parquet with the columns of `history` (read where it lies, whatever its name),
/// and as Parquet with the fields of events.
#[tokio::test(flavor = "multi_thread")]
async fn the_same_rows_are_the_same_reference_however_they_come() -> Result<()> {
    const ROWS: usize = 5_000;
    let sandbox = Sandbox::with_config("[[models]]\nname = \"m\"\ntask = \"binary\"\npositive_class = \"1\"\n")?;
    let score = |row: usize| (row * 7_919 % ROWS) as f64 / ROWS as f64;
    let label = |row: usize| i64::from(row * 104_729 % ROWS < row * 7_919 % ROWS);
    let (age, city) = (|row: usize| (row * 31 % 83) as f64, |row: usize| ["Oslo", "Lima", "Hà Nội"][row % 3]);
    let mut events = String::new();
    for row in 0..ROWS {
        let event = serde_json::json!({
            "prediction_id": format!("{row}"), "model_name": "m", "timestamp": "2026-01-05T10:00:00Z", "score": score(row),
            "label": label(row), "features": { "age": age(row), "city": city(row) },
        });
        events += &format!("{event}\n");
    }
    std::fs::write(sandbox.path("events.jsonl"), &events)?;
    let rows = 0..ROWS;
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("score", Arc::new(rows.clone().map(score).collect::<Float64Array>())),
        ("label", Arc::new(rows.clone().map(label).collect::<Int64Array>())),
        ("feature_age", Arc::new(rows.clone().map(age).collect::<Float64Array>())),
        ("feature_city_text", Arc::new(rows.clone().map(|row| Some(city(row))).collect::<StringArray>())),
    ];
    let columns = RecordBatch::try_from_iter(columns)?;
    let names = ["history.parquet", "a #b?%20ü.parquet", "no-extension"];
    for name in names {
        written(&sandbox.path(name), &columns)?;
    }
    let mut decoder =
        arrow::json::ReaderBuilder::new(Arc::new(arrow::json::reader::infer_json_schema(events.as_bytes(), None)?.0))
            .build(events.as_bytes())?;
    let fields = decoder.next().context("rows of events")??;
    let rest = decoder.collect::<Result<Vec<_>, _>>()?;
    let fields = arrow::compute::concat_batches(&fields.schema(), [&fields].into_iter().chain(&rest))?;
    written(&sandbox.path("fields.parquet"), &fields)?;
    let fitted = async |location: &str| -> Result<serde_json::Value> {
        sandbox.succeed(&["reference", "fit", "--model", "m", location, "--out", "fitted.json"]).await?;
        Ok(serde_json::from_slice(&std::fs::read(sandbox.path("fitted.json"))?)?)
    };
    let expected = fitted("events.jsonl").await?;
    ensure!(expected["rows"] == ROWS && expected["metrics"]["values"][0].is_object(), "{expected}");
    let url = format!("file://{}", sandbox.path("history.parquet").display());
    for location in names.into_iter().chain(["fields.parquet", &url]) {
        let found = fitted(location).await?;
        ensure!(
            found["version"] == expected["version"],
            "{location}: {} is not {}",
            found["version"],
            expected["version"]
        );
    }
    let cut = std::fs::read(sandbox.path("history.parquet"))?;
    std::fs::write(sandbox.path("cut.parquet"), &cut[..cut.len() / 2])?;
    for (name, word) in [("cut.parquet", "cut short"), ("none.parquet", "No such file")] {
        let said = sandbox.run(&["reference", "fit", "--model", "m", name, "--out", "fitted.json"]).await?;
        ensure!(
            said.code != Some(0) && said.stderr.contains(word) && said.stderr.contains(name),
            "{name}: {}",
            said.stderr
        );
    }
    Ok(())
}

fn written(path: &Path, rows: &RecordBatch) -> Result<()> {
    let mut writer = ArrowWriter::try_new(File::create(path)?, rows.schema(), None)?;
    writer.write(rows)?;
    writer.close()?;
    Ok(())
}
