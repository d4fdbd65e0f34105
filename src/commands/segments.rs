//! `segments`: where a model does worst.
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use arrow::array::{ArrayRef, BooleanArray, Float64Array, Int64Array, RecordBatch, StringArray};
use driftline_evaluator::EvaluationContext;
use driftline_evaluator::session::register_folder;
use driftline_evaluator::window::weakest::{RowMetric, Search, WeakSegment, Weakest, search};
use driftline_ledger::Replica;
use driftline_schemas::clock;
use driftline_schemas::tables::Task;
use driftline_store::{Manifest, Store, encode_segment};

use crate::cli::{Format, Global, SegmentsArgs};
use crate::output::render;
use crate::{BadConfig, config, pipeline};

pub(crate) async fn run(global: &Global, args: &SegmentsArgs) -> Result<()> {
    let config = config::load(global)?;
    let store = Store::open(&config.store.url, &config.store.options).context("open the store")?;
    let manifest = Manifest::load(&store).await.context("read the manifest")?;
    manifest.with_context(|| format!("there is no Driftline store at {}", config.store.url))?;
    let replica = Replica::open(&store, "segments").await.context("read the ledger")?;
    let Some(model) = replica.state.models.get(&args.model) else {
        let known: Vec<&str> = replica.state.models.keys().map(String::as_str).take(10).collect();
        bail!("the store knows no model {:?}; it knows {}", args.model, known.join(", "));
    };
    let newest = model.windows.keys().next_back().copied().unwrap_or_default();
    let settings = replica.state.era_settings(&args.model, newest);
    let inferred = model.task.clone();
    let context = EvaluationContext {
        model: args.model.clone(),
        task: settings.task.or(inferred.as_ref().map(|(task, _)| *task)).unwrap_or(Task::Binary),
        task_is_inferred: settings.task.is_none(),
        positive_class: settings.positive_class.clone().or(inferred.and_then(|(_, positive)| positive)),
        threshold: settings.threshold,
        score_kind: settings.score_kind,
        segments: Vec::new(),
        segment_values_max: config.judge.max_segment_values,
        segments_min_rows: settings.segments_min_rows,
        reference: None,
        cost: None,
        ranking: None,
        window_start: clock::time_of(0),
        window_end: clock::time_of(0),
        state: "final".to_owned(),
        revision: 0,
        decided_at: clock::time_of(0),
    };
    let metric = metric_of(args.metric.as_deref(), &context)?;
    let session = pipeline::sessions(&config, &store).open().context("open a session")?;
    let folder = format!("history/model_name={}", encode_segment(&args.model));
    if !register_folder(&session, "history", &folder, &["date"]).await.context("open history")? {
        bail!("{} has no history", args.model);
    }
    let mut period = vec!["TRUE".to_owned()];
    let micros = |time: chrono::DateTime<chrono::Utc>| time.timestamp_micros();
    period.extend(args.from.map(|from| format!("CAST(window_start AS BIGINT) >= {}", micros(from))));
    period.extend(args.to.map(|to| format!("CAST(window_start AS BIGINT) < {}", micros(to))));
    let view = format!("CREATE VIEW period AS SELECT * FROM history WHERE {}", period.join(" AND "));
    session.sql(&view).await.context("choose the period")?;
    // What may not be published of a segment may not be found by a search either.
    let min_rows = args.min_rows.max(settings.segments_min_rows);
    let wanted = Search { metric, crosses: !args.no_crosses, min_rows };
    let found = search(&session, "period", &context, wanted).await.context("search the segments")?;
    print!("{}", render(&[table(&found.segments[..found.segments.len().min(args.limit)])?], args.format)?);
    if args.format == Format::Table {
        eprintln!("{}", said(&found, metric, min_rows));
    }
    Ok(())
}

fn metric_of(name: Option<&str>, context: &EvaluationContext) -> Result<RowMetric> {
    let known = RowMetric::of(context.task);
    let Some(name) = name else { return Ok(known[0]) };
    let found = known.iter().find(|metric| metric.name() == name).copied();
    let names: Vec<&str> = known.iter().map(|metric| metric.name()).collect();
    let metric = found.ok_or_else(|| {
        BadConfig(format!("--metric {name} is none of those that rows have one by one: {}", names.join(", ")))
    })?;
    if context.task == Task::Binary && context.positive_class.is_none() && metric != RowMetric::Accuracy {
        return Err(BadConfig(format!("{name} needs the model's positive_class, which nobody has named")).into());
    }
    Ok(metric)
}

/// What was searched, for a person.
fn said(found: &Weakest, metric: RowMetric, min_rows: u64) -> String {
    let weak = found.segments.iter().filter(|slice| slice.is_weak).count();
    let left_out = match found.left_out.as_slice() {
        [] => String::new(),
        names => format!("; not looked at, for there are too many: {}", names.join(", ")),
    };
    format!(
        "{} slices of at least {min_rows} rows looked at by {}; {weak} are weak (of those at most 5 % by chance){left_out}",
        found.looked_at,
        metric.name(),
    )
}

fn table(slices: &[WeakSegment]) -> Result<RecordBatch> {
    let texts = |of: fn(&WeakSegment) -> &str| -> ArrayRef {
        Arc::new(slices.iter().map(|s| Some(of(s))).collect::<StringArray>())
    };
    let numbers = |of: fn(&WeakSegment) -> f64| -> ArrayRef {
        Arc::new(slices.iter().map(|s| Some(of(s))).collect::<Float64Array>())
    };
    let rows: Int64Array = slices.iter().map(|slice| Some(slice.n as i64)).collect();
    let weak: BooleanArray = slices.iter().map(|slice| Some(slice.is_weak)).collect();
    let columns = [
        ("segment", texts(|slice| &slice.segment)),
        ("segment_value", texts(|slice| &slice.segment_value)),
        ("n", Arc::new(rows) as ArrayRef),
        ("value", numbers(|slice| slice.value)),
        ("rest", numbers(|slice| slice.rest)),
        ("difference_low", numbers(|slice| slice.ci_low)),
        ("difference_high", numbers(|slice| slice.ci_high)),
        ("p_value", numbers(|slice| slice.p_value)),
        ("p_adjusted", numbers(|slice| slice.p_adjusted)),
        ("is_weak", Arc::new(weak) as ArrayRef),
    ];
    RecordBatch::try_from_iter(columns).context("make a table")
}
