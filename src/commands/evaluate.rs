//! `evaluate`: the same evaluation from files, without Kafka.
//!
//! Files of events go through the same collector, aggregator and evaluator as a stream would, on a store in the output
//! folder. A Parquet file that has only what metrics need (a label beside a score or prediction, no ids) is evaluated
//! where it lies, as one window.
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use arrow::array::{AsArray, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Float64Type, Int64Type};
use bytes::Bytes;
use chrono::{DateTime, Utc};
use datafusion::logical_expr::{ColumnarValue, ScalarUDF, Volatility, create_udf};
use datafusion::prelude::{ParquetReadOptions, SessionContext};
use driftline_aggregator::decide::guess;
use driftline_collector::memory::{MemoryLog, MemorySource, Script};
use driftline_collector::source::PartitionRef;
use driftline_collector::{CollectorStatus, Until};
use driftline_evaluator::publish::{Published, publish};
use driftline_evaluator::reference::Terms;
use driftline_evaluator::session::Sessions;
use driftline_evaluator::stage::ReferenceFiles;
use driftline_evaluator::{EvaluationContext, Reference, evaluate};
use driftline_schemas::config::{AlertsConfig, Config, ReferenceSpec};
use driftline_schemas::ledger::Shape;
use driftline_schemas::tables::{ScoreKind, Task, WindowRow};
use driftline_schemas::window::Window;
use driftline_store::Store;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use serde_json::value::RawValue;

use crate::cli::{EvaluateArgs, Global, Role};
use crate::commands::sql;
use crate::config;
use crate::output::render;
use crate::pipeline::{self, Plan};
use crate::reference::{Files, fetch, is_parquet, json_lines};

const PREDICTIONS: &str = "predictions";
const LABELS: &str = "labels";

pub(crate) async fn run(global: &Global, args: &EvaluateArgs) -> Result<()> {
    let mut config = config::load(global)?;
    let out = args.out.display().to_string();
    if args.out.join("driftline.json").exists() {
        bail!("{out} already holds an evaluation; choose an empty folder for --out");
    }
    config.store.url = out;
    if args.labels.is_empty()
        && let [file] = args.predictions.as_slice()
        && let Some(columns) = columns_of(file)?
        && !columns.iter().any(|column| column == "prediction_id")
    {
        return in_place(&config, args, file, &columns).await;
    }
    let (predictions, labels) = read(&config, args).await?;
    through_the_pipeline(config, args, predictions, labels).await
}

/// The column names of a Parquet file; `None` if it is none.
fn columns_of(file: &Path) -> Result<Option<Vec<String>>> {
    let mut magic = [0u8; 4];
    let mut opened = std::fs::File::open(file).with_context(|| format!("open {}", file.display()))?;
    if std::io::Read::read(&mut opened, &mut magic).context("read the file")? < 4 || &magic != b"PAR1" {
        return Ok(None);
    }
    let builder =
        ParquetRecordBatchReaderBuilder::try_new(opened).with_context(|| format!("open {}", file.display()))?;
    Ok(Some(builder.schema().fields().iter().map(|field| field.name().clone()).collect()))
}

/// All lines of both kinds of events. Labels that stand inline become label events of the prediction's own time.
async fn read(config: &Config, args: &EvaluateArgs) -> Result<(Vec<Vec<u8>>, Vec<Vec<u8>>)> {
    let (mut predictions, mut labels) = (Vec::new(), Vec::new());
    for file in &args.predictions {
        for line in lines_of(config, file, &args.model).await? {
            if args.labels.is_empty()
                && let Some(label) = inline_label(&line)
            {
                labels.push(label);
            }
            predictions.push(line);
        }
    }
    for file in &args.labels {
        labels.extend(lines_of(config, file, &args.model).await?);
    }
    Ok((predictions, labels))
}

async fn lines_of(config: &Config, file: &Path, model: &str) -> Result<Vec<Vec<u8>>> {
    let bytes = fetch(&file.display().to_string(), &config.store.options).await?;
    let text = if is_parquet(&bytes) {
        let reader = ParquetRecordBatchReaderBuilder::try_new(bytes)?.build()?;
        let batches =
            reader.collect::<Result<Vec<RecordBatch>, _>>().with_context(|| format!("read {}", file.display()))?;
        Bytes::from(json_lines(&batches)?)
    } else {
        bytes
    };
    let lines = text.split(|byte| *byte == b'\n').filter(|line| !line.trim_ascii().is_empty());
    Ok(lines.flat_map(events).map(|line| with_model(line, model)).collect())
}

/// The elements of a JSON array each stand for themselves; what is none, or broken, stays whole.
fn events(line: &[u8]) -> Vec<&[u8]> {
    if line.trim_ascii_start().starts_with(b"[")
        && let Ok(elements) = serde_json::from_slice::<Vec<&RawValue>>(line)
    {
        return elements.into_iter().map(|element| element.get().as_bytes()).collect();
    }
    vec![line]
}

/// Rows that do not name their model get the one of `--model`.
fn with_model(line: &[u8], model: &str) -> Vec<u8> {
    let has_model = line.windows(12).any(|part| part == b"\"model_name\"");
    match line.trim_ascii_start().strip_prefix(b"{") {
        Some(rest) if !has_model => {
            let name = serde_json::Value::from(model).to_string();
            let comma: &[u8] = if rest.trim_ascii() == b"}" { b"" } else { b"," };
            [b"{\"model_name\":", name.as_bytes(), comma, rest].concat()
        }
        _ => line.to_vec(),
    }
}

fn inline_label(line: &[u8]) -> Option<Vec<u8>> {
    // The values' own text, so that an integer of thirty digits keeps them all.
    let event: BTreeMap<String, &RawValue> = serde_json::from_slice(line).ok()?;
    let text = |name: &str| event.get(name).map(|value| value.get());
    // Inline, null says that there is no label; only a label event can withdraw one.
    let label = text("label").filter(|label| *label != "null")?;
    let (id, model, time) = (text("prediction_id")?, text("model_name")?, text("timestamp")?);
    let at = text("label_timestamp").unwrap_or(time);
    let label = format!(
        "{{\"prediction_id\":{id},\"model_name\":{model},\"timestamp\":{at},\"label\":{label},\"prediction_timestamp\":{time}}}"
    );
    Some(label.into_bytes())
}

async fn through_the_pipeline(
    config: Config,
    args: &EvaluateArgs,
    predictions: Vec<Vec<u8>>,
    labels: Vec<Vec<u8>>,
) -> Result<()> {
    let store = pipeline::open_store(&config).await?;
    let log = MemoryLog::default();
    for (topic, lines) in [(PREDICTIONS, predictions), (LABELS, labels)] {
        log.create_topic(topic, None, 1);
        for line in lines {
            log.publish(topic, 0, Some(&line));
        }
    }
    let mut settings = pipeline::collector_settings(&config, "evaluate");
    settings.predictions_topics = vec![PREDICTIONS.to_owned()];
    settings.labels_topics = vec![LABELS.to_owned()];
    let topics = settings.topics();
    let script = Script::assigning((0..topics.len()).map(|topic| PartitionRef { topic, partition: 0 }));
    let connect =
        move |starts: Arc<driftline_collector::ChainStarts>| Ok(Some(MemorySource::new(log, topics, script, starts)));
    let status = Arc::new(CollectorStatus::default());
    let shutdown = pipeline::shutdown_on_signals();
    driftline_collector::run_on(connect, settings, store.clone(), None, status, Until::CaughtUp, shutdown.clone())
        .await
        .context("read the events")?;
    // Drawn on terminals only.
    let bar = indicatif::ProgressBar::new_spinner().with_message("windows evaluated");
    bar.set_style(indicatif::ProgressStyle::with_template("{spinner} {pos} {msg} {elapsed}").context("progress bar")?);
    let counted = bar.clone();
    let plan = Plan {
        roles: vec![Role::Aggregator, Role::Evaluator],
        until_caught_up: true,
        listen: None,
        registry: prometheus::Registry::new(),
        on_published: Some(Arc::new(move |_, _| counted.inc(1))),
    };
    // The rules judge what was evaluated, for the table `alerts`; nobody is woken by a notebook or a backfill.
    let alerts = AlertsConfig { sinks: Vec::new(), maintenance: Vec::new(), ..config.alerts.clone() };
    let config = Config { alerts, reports: Vec::new(), ..config.clone() };
    pipeline::run(&config, store.clone(), plan, shutdown).await?;
    bar.finish_and_clear();
    print_results(&config, &store, args).await
}

async fn print_results(config: &Config, store: &Store, args: &EvaluateArgs) -> Result<()> {
    let rejected = "SELECT reason, count(*) AS events, min(detail) AS example FROM dead_letters GROUP BY 1 ORDER BY 1";
    let query = "SELECT model_name, window_start, metric, class, value, error_bound, reason, ci_low, ci_high, n, n_labelled FROM metrics \
                 WHERE segment IS NULL AND model_version IS NULL ORDER BY model_name, window_start, metric, class";
    let session = sql::open(&pipeline::sessions(config, store), store, &[rejected, query].concat()).await?;
    if let Ok(frame) = session.sql(rejected).await {
        let batches = frame.collect().await.context("count the rejected events")?;
        if batches.iter().any(|batch| batch.num_rows() > 0) {
            eprintln!("events that could not be used:");
            eprint!("{}", render(&batches, crate::cli::Format::Table)?);
        }
    }
    print!(
        "{}",
        sql::answer(&session, query, args.format).await.context("read the metrics (did the files hold any event?)")?
    );
    eprintln!("all tables are in {}: driftline --store {} sql", args.out.display(), args.out.display());
    Ok(())
}

/// One Parquet file of labels and scores, as one window.
async fn in_place(config: &Config, args: &EvaluateArgs, file: &Path, columns: &[String]) -> Result<()> {
    let has = |name: &str| columns.iter().any(|column| column == name);
    if !has("label") || !(has("score") || has("prediction")) {
        bail!(
            "{} has neither prediction_id (to join labels by) nor label beside score or prediction; its columns are {}",
            file.display(),
            columns.join(", ")
        );
    }
    let session = detached(config)?;
    let path = file.display().to_string();
    session.register_parquet("file", &path, ParquetReadOptions::default()).await.context("open the file")?;
    let settings = config.judge.model(&args.model);
    let task = match settings.task {
        Some(task) => task,
        None => infer_task(&session, &has).await?,
    };
    let judges_range = task != Task::Regression && settings.score_kind == ScoreKind::Probability && has("score");
    let refuses = judges_range && has_scores_out_of_range(&session).await.context("read the scores")?;
    session.sql(&view(&session, columns, refuses).await?).await.context("read the file's columns")?;
    let positive_class = match &settings.positive_class {
        None if task == Task::Binary => {
            infer_positive_class(&session, has("score")).await.context("read the labels")?
        }
        set => set.clone(),
    };
    let reference = match &settings.reference {
        Some(ReferenceSpec::File(location)) => {
            let terms = Terms { task, positive_class: positive_class.clone() };
            Some(Arc::new(frozen(config, location, terms).await.with_context(|| format!("reference {location}"))?))
        }
        // A file has no past of its own.
        Some(ReferenceSpec::Past { .. }) | None => None,
    };
    let context = EvaluationContext {
        model: args.model.clone(),
        task,
        task_is_inferred: settings.task.is_none(),
        positive_class,
        threshold: settings.threshold,
        score_kind: settings.score_kind,
        segments: settings.segments.clone(),
        segment_values_max: config.judge.max_segment_values,
        segments_min_rows: settings.segments_min_rows,
        reference,
        cost: settings.cost,
        ranking: settings.ranking.clone(),
        window_start: DateTime::<Utc>::UNIX_EPOCH,
        window_end: DateTime::<Utc>::UNIX_EPOCH,
        state: "final".to_owned(),
        revision: 1,
        decided_at: driftline_schemas::clock::now(),
    };
    let evaluated = evaluate(&session, "rows", &context).await.context("evaluate the file")?;
    let store = pipeline::open_store(config).await?;
    if let Some(reference) = &context.reference {
        reference.keep(&store, &args.model).await.context("keep the reference")?;
    }
    let overall = evaluated.metrics.iter().find(|row| row.segment.is_none() && row.model_version.is_none());
    let (n, labelled) = overall.map_or((0, 0), |row| (row.n, row.n_labelled));
    let invalid = if refuses { count(&session, "SELECT count(invalid_reason) FROM rows").await? } else { 0 };
    let row = WindowRow {
        model: args.model.clone(),
        window_start: context.window_start,
        window_end: context.window_end,
        state: context.state.clone(),
        revision: 1,
        predictions: n + invalid,
        labelled,
        waiting: 0,
        expired: n - labelled,
        failed: 0,
        invalid,
        duplicates: 0,
        after_final: 0,
        label_coverage: (n > 0).then(|| labelled as f64 / n as f64),
        late_predictions: 0,
        decided_at: context.decided_at,
    };
    let window = Window { start: 0, end: 0 };
    publish(&store, &[Published { model: &args.model, window, revision: 1, evaluated: &evaluated, row: &row }]).await?;
    print_results(config, &store, args).await
}

/// What a reference file says, frozen before or now.
async fn frozen(config: &Config, location: &str, terms: Terms) -> Result<Reference> {
    let files = Files::new(config);
    if let Some(frozen) = files.read_frozen(location).await.map_err(anyhow::Error::msg)? {
        return Ok(frozen);
    }
    let rows = files.read(location).await.map_err(anyhow::Error::msg)?;
    let session = detached(config)?;
    rows.register(&session, "reference").await.context("read the reference")?;
    Reference::from_table(&session, "reference", terms).await.context("freeze the reference")
}

/// A session for a file, within half of the memory: the reader of the file takes the rest.
fn detached(config: &Config) -> Result<SessionContext> {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    Ok(Sessions::detached((config.memory_max / 2) as usize, cores)?)
}

async fn infer_task(session: &SessionContext, has: &dyn Fn(&str) -> bool) -> Result<Task> {
    // A thousand rows tell two classes from many, and classes from numbers.
    let sql = "SELECT count(DISTINCT label) FROM (SELECT label FROM file WHERE label IS NOT NULL LIMIT 1000)";
    let batches = session.sql(sql).await?.collect().await?;
    let classes = batches.first().map_or(0, |batch| batch.column(0).as_primitive::<Int64Type>().value(0));
    Ok(match (classes, has("score")) {
        (0..=2, _) => Task::Binary,
        (_, false) if classes > 100 => Task::Regression,
        _ => Task::Multiclass,
    })
}

/// The positive class that the labels of a binary file suggest, by the rule that the aggregator has for a stream.
async fn infer_positive_class(session: &SessionContext, has_score: bool) -> Result<Option<String>> {
    let score = if has_score { "coalesce(sum(score), 0.0)" } else { "0.0" };
    let sql = format!(
        "SELECT label, count(*) AS n, CAST({score} AS DOUBLE) AS scores FROM (SELECT * FROM rows WHERE label IS NOT NULL LIMIT 1000) \
         GROUP BY label ORDER BY label LIMIT {}",
        Shape::CLASSES_MAX
    );
    let mut shape = Shape::default();
    for batch in session.sql(&sql).await?.collect().await? {
        let labels = arrow::compute::cast(batch.column(0), &DataType::Utf8)?;
        let (labels, rows) = (labels.as_string::<i32>(), batch.column(1).as_primitive::<Int64Type>());
        let scores = batch.column(2).as_primitive::<Float64Type>();
        for row in 0..batch.num_rows() {
            let count = rows.value(row) as u64;
            shape.scored += if has_score { count } else { 0 };
            shape.textual += count;
            shape.push_class(labels.value(row), count, scores.value(row));
        }
    }
    Ok(guess(&shape).1)
}

/// Whether some score is no probability; the file's statistics usually answer.
async fn has_scores_out_of_range(session: &SessionContext) -> Result<bool> {
    let sql = "SELECT CAST(min(score) AS DOUBLE) AS low, CAST(max(score) AS DOUBLE) AS high FROM file";
    let batches = session.sql(sql).await?.collect().await?;
    let outside = |at: usize| {
        batches
            .iter()
            .flat_map(|batch| batch.column(at).as_primitive::<Float64Type>().iter().flatten())
            .any(|score| !(0.0..=1.0).contains(&score))
    };
    Ok(outside(0) || outside(1))
}

async fn count(session: &SessionContext, sql: &str) -> Result<i64> {
    let batches = session.sql(sql).await?.collect().await?;
    Ok(batches.first().map_or(0, |batch| batch.column(0).as_primitive::<Int64Type>().value(0)))
}

/// `canonical(text)`: the one spelling of a class, as the decoder has it.
fn canonical_function() -> ScalarUDF {
    let canonical = |arguments: &[ColumnarValue]| {
        let texts = ColumnarValue::values_to_arrays(arguments)?;
        let spelled: StringArray =
            texts[0].as_string::<i32>().iter().map(|text| text.map(driftline_schemas::canonical::canonical)).collect();
        Ok(ColumnarValue::Array(Arc::new(spelled)))
    };
    create_udf("canonical", vec![DataType::Utf8], DataType::Utf8, Volatility::Immutable, Arc::new(canonical))
}

/// The file's columns under the names and types of history; `refuses` marks the rows whose score is no probability.
async fn view(session: &SessionContext, columns: &[String], refuses: bool) -> Result<String> {
    session.register_udf(canonical_function());
    let table = session.table("file").await?;
    let schema = table.schema().as_arrow().clone();
    let mut types: BTreeMap<&str, &DataType> = BTreeMap::new();
    for field in schema.fields() {
        types.insert(field.name(), field.data_type());
    }
    let mut parts = Vec::new();
    for column in columns {
        let quoted = format!("\"{}\"", column.replace('"', "\"\""));
        let Some(kind) = types.get(column.as_str()) else { continue };
        // A number is its shortest decimal text: 1.0 is the class 1.
        let canonical = match kind {
            DataType::Float16 | DataType::Float32 | DataType::Float64 => format!(
                "CASE WHEN {quoted} = trunc({quoted}) AND abs({quoted}) < 9e15 THEN CAST(CAST({quoted} AS BIGINT) AS VARCHAR) \
                 WHEN NOT isnan({quoted}) THEN canonical(CAST({quoted} AS VARCHAR)) END"
            ),
            DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View | DataType::Dictionary(_, _) => {
                format!("canonical(CAST({quoted} AS VARCHAR))")
            }
            // Their text is what they are, and only some questions need it.
            kind if kind.is_signed_integer() => quoted.clone(),
            _ => format!("CAST({quoted} AS VARCHAR)"),
        };
        let number = format!("TRY_CAST({quoted} AS DOUBLE)");
        match column.as_str() {
            "label" => parts.push(format!("{canonical} AS label, {number} AS label_value")),
            "prediction" => parts.push(format!("{canonical} AS prediction, {number} AS prediction_value")),
            "score" => parts.push(format!("CAST({quoted} AS DOUBLE) AS score")),
            "model_version" => parts.push(format!("CAST({quoted} AS VARCHAR) AS model_version")),
            _ => parts.push(quoted),
        }
    }
    if refuses {
        parts.push("CASE WHEN NOT (score BETWEEN 0 AND 1) THEN 'score_out_of_range' END AS invalid_reason".to_owned());
    }
    Ok(format!("CREATE VIEW rows AS SELECT {} FROM file", parts.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inline_labels_keep_their_text_and_a_null_is_none() {
        let event = |label: &str| {
            format!(r#"{{"prediction_id":"a","model_name":"m","timestamp":1767225600000,"label":{label}}}"#)
        };
        let label = |text: &str| inline_label(event(text).as_bytes()).map(|line| String::from_utf8(line).unwrap());
        assert!(label("12345678901234567890123").unwrap().contains(r#""label":12345678901234567890123,"#));
        assert!(label(r#""ok""#).unwrap().contains(r#""label":"ok""#));
        assert_eq!(label("null"), None);
    }

    #[test]
    fn the_elements_of_an_array_are_events() {
        assert_eq!(events(b"[{\"a\":1}, 5]"), [b"{\"a\":1}".as_slice(), b"5"]);
        assert_eq!(events(b"[{"), [b"[{".as_slice()]);
        assert_eq!(with_model(events(b"[{\"a\":1}]")[0], "m"), b"{\"model_name\":\"m\",\"a\":1}");
    }
}
