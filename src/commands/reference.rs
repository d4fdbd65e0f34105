//! `reference fit`: freezes what a model's windows are measured against, under a version, so that it stays as it is.
use std::path::Path;

use anyhow::{Context, Result, bail};
use driftline_evaluator::estimate::Calibration;
use driftline_evaluator::reference::Terms;
use driftline_evaluator::session::register_objects;
use driftline_evaluator::stage::{ReferenceFiles, history_paths};
use driftline_evaluator::{EvaluationContext, Reference, reference::ReferenceValues};
use driftline_ledger::Replica;
use driftline_schemas::tables::Task;
use driftline_store::Store;

use crate::cli::{Global, ReferenceFitArgs};
use crate::reference::Files;
use crate::{config, pipeline};

pub(crate) async fn fit(global: &Global, args: &ReferenceFitArgs) -> Result<()> {
    let config = config::load(global)?;
    let store = pipeline::open_store(&config).await?;
    let replica = Replica::open(&store, "reference").await.context("read the ledger")?;
    let terms = terms(&config.judge, &replica, &args.model)?;
    let (settings, most) = (config.judge.model(&args.model), config.judge.max_segment_values);
    let judged = EvaluationContext::of_reference(&args.model, settings, most, terms.clone());
    let session = pipeline::sessions(&config, &store).open().context("open a session")?;
    let from = if let Some(file) = &args.file {
        let rows = Files::new(&config).read(file).await.map_err(anyhow::Error::msg);
        let rows = rows.with_context(|| format!("reference {file}"))?;
        rows.register(&session, "reference", Some((judged.task, judged.score_kind)))
            .await
            .with_context(|| format!("open {file}"))?;
        file.clone()
    } else {
        let (paths, said) = windows(&replica, args)?;
        register_objects(&session, "reference", &paths).await.context("open the windows")?;
        said
    };
    let reference = Reference::from_table(&session, "reference", terms).await.context("freeze the reference")?;
    let reference =
        reference.with_metrics(&session, "reference", &judged).await.context("judge the reference's own rows")?;
    if reference.columns.is_empty() {
        bail!("{from} has no score, prediction, label or feature to measure against");
    }
    let location = write(&store, args, &reference).await?;
    describe(&from, &reference);
    println!("written to {location}; in the configuration of {}:", args.model);
    println!("reference = {location:?}");
    Ok(())
}

/// What the model predicts: as it is configured, else as the ledger has found out.
fn terms(config: &driftline_schemas::config::JudgeConfig, replica: &Replica, model: &str) -> Result<Terms> {
    let settings = config.model(model);
    let inferred = replica.state.models.get(model).and_then(|model| model.task.clone());
    let Some(task) = settings.task.or(inferred.as_ref().map(|(task, _)| *task)) else {
        bail!(
            "nobody knows what {model:?} predicts: set its `task` in the configuration, or let windows be judged first"
        );
    };
    let positive_class = settings.positive_class.clone().or(inferred.and_then(|(_, positive)| positive));
    Ok(Terms { task, positive_class: positive_class.filter(|_| task == Task::Binary) })
}

/// The objects of the windows that lie whole in the period.
fn windows(replica: &Replica, args: &ReferenceFitArgs) -> Result<(Vec<String>, String)> {
    let Some(model) = replica.state.models.get(&args.model) else {
        let known: Vec<&str> = replica.state.models.keys().map(String::as_str).take(10).collect();
        bail!("the store knows no model {:?}; it knows {}", args.model, known.join(", "));
    };
    let from = args.from.map(|time| time.timestamp_micros());
    let to = args.to.map(|time| time.timestamp_micros());
    let inside = model.windows.values().filter(|record| {
        record.history_revision > 0
            && from.is_none_or(|from| record.window.start >= from)
            && to.is_none_or(|to| record.window.end <= to)
    });
    let (mut paths, mut windows) = (Vec::new(), 0);
    for record in inside {
        paths.extend(history_paths(&args.model, record.window, record.parts));
        windows += 1;
    }
    if paths.is_empty() {
        bail!("{} has no judged window that lies whole in this period", args.model);
    }
    Ok((paths, format!("{windows} window(s) of {}", args.model)))
}

/// Keeps the reference in the store under its version, or where `--out` says.
async fn write(store: &Store, args: &ReferenceFitArgs, reference: &Reference) -> Result<String> {
    if let Some(out) = &args.out {
        let bytes = serde_json::to_vec(reference).context("write the reference as JSON")?;
        std::fs::write(out, bytes).with_context(|| format!("write {}", out.display()))?;
        let whole = std::path::absolute(out).with_context(|| format!("find {}", out.display()))?;
        return Ok(whole.display().to_string());
    }
    let path = reference.keep(store, &args.model).await.context("write the reference")?;
    let url = store.url();
    let folder = url.trim_end_matches('/');
    let local = folder.strip_prefix("file://").unwrap_or(folder);
    let root = if local.contains("://") {
        local.to_owned()
    } else {
        std::path::absolute(Path::new(local)).context("find the store")?.display().to_string()
    };
    Ok(format!("{root}/{path}"))
}

fn describe(from: &str, reference: &Reference) {
    println!("reference {} from {} rows of {from}", reference.version, reference.rows);
    for column in &reference.columns {
        let what = match &column.values {
            ReferenceValues::Numeric { sample, .. } => match (sample.first(), sample.last()) {
                (Some(low), Some(high)) => format!("numbers from {low} to {high}"),
                _ => "numbers".to_owned(),
            },
            ReferenceValues::Categorical { categories, .. } => format!("{} categories", categories.len()),
        };
        println!("  {:<24} {} values, {what}", column.column.name(), column.values.n());
    }
    match &reference.calibration {
        Some(Calibration::Binary(curve)) => println!("  calibration of the score: {} blocks", curve.blocks().len()),
        Some(Calibration::Multiclass(curves)) => println!("  calibration of {} classes", curves.len()),
        Some(Calibration::Regression(bins)) => println!("  losses in {} bins of predictions", bins.bins.len()),
        Some(Calibration::None(reason)) => println!("  no calibration, so no estimates: {}", reason.as_str()),
        None => {}
    }
    match &reference.metrics {
        Some(metrics) => {
            let rows = metrics.values.iter().map(|own| own.n_labelled).max().unwrap_or_default();
            println!("  {} metrics of {rows} labelled rows, for rules relative to it", metrics.values.len());
        }
        None => println!("  no metrics, for it has no labelled rows: no rule on one can be relative to it"),
    }
}
