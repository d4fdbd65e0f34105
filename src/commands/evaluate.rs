//! `evaluate`: the same evaluation from files, without Kafka.
//!
//! Files of events go through the same collector, aggregator and evaluator as a stream would, on a store in the output
//! folder. A Parquet file that has only what metrics need (a label beside a score or prediction, no ids) is evaluated
//! where it lies, as one window.
use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use arrow::array::AsArray;
use arrow::datatypes::{DataType, Float64Type, Int64Type};
use datafusion::prelude::SessionContext;
use driftline_aggregator::decide::guess;
use driftline_collector::{CollectorStatus, Until};
use driftline_evaluator::file_rows;
use driftline_evaluator::publish::{Published, publish};
use driftline_evaluator::reference::Terms;
use driftline_evaluator::session::{Sessions, register_file};
use driftline_evaluator::stage::ReferenceFiles;
use driftline_evaluator::{EvaluatedWindow, EvaluationContext, Reference, evaluate};
use driftline_schemas::config::{AlertsConfig, Config, ReferenceSpec, Start};
use driftline_schemas::ledger::Shape;
use driftline_schemas::tables::{ScoreKind, Task, WindowRow};
use driftline_schemas::window::Window;
use driftline_store::Store;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

use crate::cli::{EvaluateArgs, Global, Role};
use crate::commands::sql;
use crate::config;
use crate::files::{EventFiles, FileSource};
use crate::output::render;
use crate::pipeline::{self, Plan};
use crate::reference::Files;

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
    let model = model_name(&config, args);
    let files = EventFiles::open(&args.predictions, &args.labels, &model, &config.store.options).await?;
    through_the_pipeline(config, args, files).await
}

/// The column names of a Parquet file; `None` if it is none.
fn columns_of(file: &Path) -> Result<Option<Vec<String>>> {
    // A pipe can be read only once, and what lies elsewhere is no path.
    if !file.is_file() {
        return Ok(None);
    }
    let mut magic = [0u8; 4];
    let mut opened = std::fs::File::open(file).with_context(|| format!("open {}", file.display()))?;
    if std::io::Read::read(&mut opened, &mut magic).context("read the file")? < 4 || &magic != b"PAR1" {
        return Ok(None);
    }
    let builder =
        ParquetRecordBatchReaderBuilder::try_new(opened).with_context(|| format!("open {}", file.display()))?;
    Ok(Some(builder.schema().fields().iter().map(|field| field.name().clone()).collect()))
}

async fn through_the_pipeline(config: Config, args: &EvaluateArgs, files: EventFiles) -> Result<()> {
    let store = pipeline::open_store(&config).await?;
    let mut settings = pipeline::collector_settings(&config, "evaluate");
    settings.predictions_topics = vec![PREDICTIONS.to_owned()];
    settings.labels_topics = vec![LABELS.to_owned()];
    settings.start = Start::Earliest;
    let connect = move |starts: Arc<driftline_collector::ChainStarts>| Ok(Some(FileSource::new(files, starts)));
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
    let late = "SELECT coalesce(sum(count), 0) AS labels FROM accounts WHERE term = 'too_late'";
    let rejected = "SELECT reason, count(*) AS events, min(detail) AS example FROM dead_letters GROUP BY 1 ORDER BY 1";
    let query = "SELECT model_name, window_start, metric, class, value, error_bound, reason, ci_low, ci_high, n, n_labelled FROM metrics \
                 WHERE segment IS NULL AND model_version IS NULL ORDER BY model_name, window_start, metric, class";
    let session = sql::open(&pipeline::sessions(config, store), store, &[late, rejected, query].concat()).await?;
    if let Ok(frame) = session.sql(late).await {
        let batches = frame.collect().await.context("count the late labels")?;
        let labels: i64 = batches.iter().map(|batch| batch.column(0).as_primitive::<Int64Type>().value(0)).sum();
        if labels > 0 {
            eprintln!("{labels} label(s) came later than `label_horizon` after their prediction, and do not count");
        }
    }
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

/// The model of rows that do not name theirs: as it is given, else the only one that is configured.
fn model_name(config: &Config, args: &EvaluateArgs) -> String {
    let mut configured = config.judge.models.keys();
    let only = configured.next().filter(|_| configured.next().is_none());
    args.model.as_ref().or(only).map_or("model", String::as_str).to_owned()
}

/// One Parquet file of labels and scores, where it lies: a window of each model in it.
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
    register_file(&session, "file", file).await.context("open the file")?;
    let unnamed = model_name(config, args);
    let models = if has("model_name") {
        models_of(&session, &unnamed).await.context("read the models' names")?
    } else {
        vec![unnamed.clone()]
    };
    let mut evaluated = Vec::new();
    for model in models {
        if has("model_name") {
            let name = model.replace('\'', "''");
            let own = format!(
                "SELECT * FROM file WHERE coalesce(CAST(model_name AS VARCHAR), '{}') = '{name}'",
                unnamed.replace('\'', "''")
            );
            let own = session.sql(&own).await.context("select a model's rows")?.into_view();
            session.register_table("rows_of_model", own)?;
        }
        let table = if has("model_name") { "rows_of_model" } else { "file" };
        let rows = window_of(config, &session, (&model, table), &has).await;
        evaluated.push(rows.with_context(|| format!("evaluate the file's rows of {model}"))?);
        for table in ["rows_of_model", "inferred", "rows"] {
            session.deregister_table(table)?;
        }
    }
    let store = pipeline::open_store(config).await?;
    let window = Window { start: 0, end: 0 };
    let mut published = Vec::new();
    for (context, evaluated, row) in &evaluated {
        if let Some(reference) = &context.reference {
            reference.keep(&store, &context.model).await.context("keep the reference")?;
        }
        published.push(Published { model: &context.model, window, revision: 1, evaluated, row });
    }
    publish(&store, &published).await?;
    if has("timestamp") {
        eprintln!("a file without prediction_id is one window; the column `timestamp` was not looked at");
    }
    print_results(config, &store, args).await
}

/// Rows that say that their request failed.
async fn failed(session: &SessionContext) -> Result<i64> {
    let batches = session.sql("SELECT count(error) AS n FROM rows").await?.collect().await?;
    Ok(batches.iter().map(|batch| batch.column(0).as_primitive::<Int64Type>().value(0)).sum())
}

/// The names of a file's models, ascending.
async fn models_of(session: &SessionContext, unnamed: &str) -> Result<Vec<String>> {
    let sql = "SELECT DISTINCT CAST(model_name AS VARCHAR) AS name FROM file ORDER BY name";
    let mut names = BTreeSet::new();
    for batch in session.sql(sql).await?.collect().await? {
        let texts = arrow::compute::cast(batch.column(0), &DataType::Utf8)?;
        names.extend(texts.as_string::<i32>().iter().map(|name| name.unwrap_or(unnamed).to_owned()));
    }
    Ok(names.into_iter().collect())
}

/// Evaluates the rows of a model in a table of the session.
async fn window_of(
    config: &Config,
    session: &SessionContext,
    (model, table): (&str, &str),
    has: &dyn Fn(&str) -> bool,
) -> Result<(EvaluationContext, EvaluatedWindow, WindowRow)> {
    file_rows::view(session, (table, "inferred"), None).await.context("read the file's columns")?;
    let settings = config.judge.model(model);
    let (task, shape) = match (settings.task, &settings.positive_class) {
        (Some(Task::Binary), None) => {
            let classes = classes(session).await.context("read the labels")?;
            let shape = shape_of_classes(session, &classes, has("score")).await.context("read the labels")?;
            (Task::Binary, shape)
        }
        (Some(task), _) => (task, Shape::default()),
        (None, _) => shape_of(session, has).await.context("read the labels")?,
    };
    let positive_class = settings.positive_class.clone().or_else(|| guess(&shape).1.filter(|_| task == Task::Binary));
    let refused = file_rows::view(session, (table, "rows"), Some((task, settings.score_kind)));
    let refused = refused.await.context("read the file's columns")? as i64;
    let reference = match &settings.reference {
        Some(ReferenceSpec::File(location)) => {
            let terms = Terms { task, positive_class: positive_class.clone() };
            let frozen = frozen(config, location, terms, settings.score_kind).await;
            Some(Arc::new(frozen.with_context(|| format!("reference {location}"))?))
        }
        // A file has no past of its own.
        Some(ReferenceSpec::Past { .. }) | None => None,
    };
    let terms = Terms { task, positive_class };
    let of_file = EvaluationContext::of_reference(model, settings, config.judge.max_segment_values, terms);
    let context = EvaluationContext { reference, revision: 1, decided_at: driftline_schemas::clock::now(), ..of_file };
    let evaluated = evaluate(session, "rows", &context).await?;
    let overall = evaluated.metrics.iter().find(|row| row.segment.is_none() && row.model_version.is_none());
    let (n, labelled) = overall.map_or((0, 0), |row| (row.n, row.n_labelled));
    let failed = if has("error") { failed(session).await.context("count what failed")? } else { 0 };
    let row = WindowRow {
        model: model.to_owned(),
        window_start: context.window_start,
        window_end: context.window_end,
        state: context.state.clone(),
        revision: 1,
        predictions: n + refused + failed,
        labelled,
        waiting: 0,
        expired: n - labelled,
        failed,
        invalid: refused,
        duplicates: 0,
        after_final: 0,
        label_coverage: (n > 0).then(|| labelled as f64 / n as f64),
        late_predictions: 0,
        decided_at: context.decided_at,
    };
    Ok((context, evaluated, row))
}

/// What a reference file says, frozen before or now.
async fn frozen(config: &Config, location: &str, terms: Terms, score_kind: ScoreKind) -> Result<Reference> {
    let files = Files::new(config);
    if let Some(frozen) = files.read_frozen(location).await.map_err(anyhow::Error::msg)? {
        return Ok(frozen);
    }
    let rows = files.read(location).await.map_err(anyhow::Error::msg)?;
    let session = detached(config)?;
    let judged = (terms.task, score_kind);
    rows.register(&session, "reference", Some(judged)).await.context("read the reference")?;
    Reference::from_table(&session, "reference", terms).await.context("freeze the reference")
}

/// A session for a file, within half of the memory: the reader of the file takes the rest.
fn detached(config: &Config) -> Result<SessionContext> {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    Ok(Sessions::detached((config.memory_max / 2) as usize, cores)?)
}

/// Classes that are looked for: with more, and no score, a file of whole numbers is one of numbers.
const CLASSES_LOOKED_FOR: usize = 101;

/// What the rows of a file look like, by the labels and predictions of all of them. Few questions need to read the file.
async fn shape_of(session: &SessionContext, has: &dyn Fn(&str) -> bool) -> Result<(Task, Shape)> {
    let classes = classes(session).await?;
    if !has("score") && (are_numbers(session, has).await? || classes.len() >= CLASSES_LOOKED_FOR) {
        return Ok((Task::Regression, Shape::default()));
    }
    if classes.len() > 2 {
        return Ok((Task::Multiclass, Shape::default()));
    }
    Ok((Task::Binary, shape_of_classes(session, &classes, has("score")).await?))
}

/// The labels that there are, in text order: of many only some.
async fn classes(session: &SessionContext) -> Result<Vec<String>> {
    let of = async |sql: &str| -> Result<Vec<String>> {
        let mut classes = Vec::new();
        for batch in session.sql(sql).await?.collect().await? {
            for column in batch.columns() {
                let texts = arrow::compute::cast(column, &DataType::Utf8)?;
                classes.extend(texts.as_string::<i32>().iter().flatten().map(str::to_owned));
            }
        }
        classes.sort_unstable();
        classes.dedup();
        Ok(classes)
    };
    let table = session.table("inferred").await?;
    if table.schema().field_with_unqualified_name("label")?.data_type().is_integer() {
        // The file's statistics answer that.
        let ends = of("SELECT min(label) AS low, max(label) AS high FROM inferred").await?;
        let number = |at: usize| ends.get(at).and_then(|end| end.parse::<i64>().ok());
        if ends.len() < 2 || number(0).zip(number(1)).is_some_and(|(one, other)| one.abs_diff(other) == 1) {
            return Ok(ends);
        }
    }
    of(&format!("SELECT label FROM inferred WHERE label IS NOT NULL GROUP BY label LIMIT {CLASSES_LOOKED_FOR}")).await
}

/// Whether labels are numbers, and some of them, or of the predictions, have a fraction.
async fn are_numbers(session: &SessionContext, has: &dyn Fn(&str) -> bool) -> Result<bool> {
    let fraction = |column: &str| {
        if has(column) { format!("{column}_value <> trunc({column}_value)") } else { "FALSE".to_owned() }
    };
    let sql = format!(
        "SELECT count(*) FILTER (WHERE label_value IS NULL), count(*) FILTER (WHERE {} OR {}) FROM inferred \
         WHERE label IS NOT NULL",
        fraction("label"),
        fraction("prediction")
    );
    let batches = session.sql(&sql).await?.collect().await?;
    let counted = |at: usize| batches.first().map_or(0, |batch| batch.column(at).as_primitive::<Int64Type>().value(0));
    Ok(counted(0) == 0 && counted(1) > 0)
}

/// The classes as the aggregator has them of a stream's predictions; with the scores of each, where their names do not say which is positive.
async fn shape_of_classes(session: &SessionContext, classes: &[String], has_score: bool) -> Result<Shape> {
    const SAY_IT: [&str; 8] = ["0", "1", "true", "false", "yes", "no", "positive", "negative"];
    if has_score && classes.iter().any(|class| !SAY_IT.contains(&class.as_str())) {
        return classes_of(session, true).await;
    }
    let mut shape = Shape { textual: classes.len() as u64, ..Shape::default() };
    classes.iter().for_each(|class| shape.push_class(class, 1, 0.0));
    Ok(shape)
}

/// The classes of a binary file's labels with the scores of each, as the aggregator has them of a stream's predictions.
async fn classes_of(session: &SessionContext, has_score: bool) -> Result<Shape> {
    let score = if has_score { "coalesce(sum(score) FILTER (WHERE NOT isnan(score)), 0.0)" } else { "0.0" };
    let sql = format!(
        "SELECT label, count(*) AS n, CAST({score} AS DOUBLE) AS scores FROM inferred WHERE label IS NOT NULL \
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
    Ok(shape)
}
