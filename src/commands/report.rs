//! `report`: one model over a period, as a page that a person reads.
use std::path::Path;

use anyhow::{Context, Result, bail};
use driftline_evaluator::report::{Report, Subject, gather};
use driftline_ledger::Replica;
use driftline_schemas::clock;
use driftline_schemas::tables::Task;
use driftline_store::{Manifest, Store};

use crate::cli::{Global, ReportArgs};
use crate::{config, pipeline};

pub(crate) async fn run(global: &Global, args: &ReportArgs) -> Result<()> {
    let form = Form::of(&args.out)?;
    let config = config::load(global)?;
    let store = Store::open(&config.store.url, &config.store.options).context("open the store")?;
    let manifest = Manifest::load(&store).await.context("read the manifest")?;
    manifest.with_context(|| format!("there is no Driftline store at {}", config.store.url))?;
    let replica = Replica::open(&store, "report").await.context("read the ledger")?;
    let Some(model) = replica.state.models.get(&args.model) else {
        let known: Vec<&str> = replica.state.models.keys().map(String::as_str).take(10).collect();
        bail!("the store knows no model {:?}; it knows {}", args.model, known.join(", "));
    };
    // What the ledger has recorded of a model that nobody configured; what was configured comes first.
    let newest = model.windows.keys().next_back().copied().unwrap_or_default();
    let settings = replica.state.era_settings(&args.model, newest);
    let inferred = model.task.clone();
    let task = settings.task.or(inferred.as_ref().map(|(task, _)| *task)).unwrap_or(Task::Binary);
    let positive_class = settings.positive_class.clone().or(inferred.and_then(|(_, positive)| positive));
    let subject = Subject {
        model: args.model.clone(),
        task,
        positive_class,
        from: args.from.map(|time| time.timestamp_micros()),
        to: args.to.map(|time| time.timestamp_micros()),
    };
    let sessions = pipeline::sessions(&config, &store);
    let report = gather(&sessions, &subject, clock::now()).await.context("read the tables")?;
    let report = report.with_context(|| format!("{} has no window in this period", args.model))?;
    let text = form.write(&report)?;
    if args.out == Path::new("-") {
        print!("{text}");
    } else {
        std::fs::write(&args.out, text).with_context(|| format!("write {}", args.out.display()))?;
        eprintln!("{}: {} windows", args.out.display(), report.windows.len());
    }
    for finding in &report.attention {
        eprintln!("  {}", finding.text);
    }
    Ok(())
}

/// What kind of file is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Html,
    Json,
    Markdown,
}

impl Form {
    /// By the file's name; standard output gets Markdown.
    fn of(file: &Path) -> Result<Self> {
        let extension = file.extension().and_then(|extension| extension.to_str()).map(str::to_ascii_lowercase);
        match extension.as_deref() {
            Some("html" | "htm") => Ok(Self::Html),
            Some("json") => Ok(Self::Json),
            Some("md") => Ok(Self::Markdown),
            None if file == Path::new("-") => Ok(Self::Markdown),
            _ => Err(crate::BadConfig(format!(
                "--out {} says neither .html, .json nor .md (nor is it -, for Markdown on standard output)",
                file.display()
            ))
            .into()),
        }
    }

    fn write(self, report: &Report) -> Result<String> {
        Ok(match self {
            Self::Html => report.to_html(),
            Self::Json => serde_json::to_string_pretty(report).context("write JSON")? + "\n",
            Self::Markdown => report.to_markdown(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_says_what_is_written() {
        for (file, form) in
            [("a.html", Form::Html), ("b.JSON", Form::Json), ("c.md", Form::Markdown), ("-", Form::Markdown)]
        {
            assert_eq!(Form::of(Path::new(file)).unwrap(), form);
        }
        assert!(Form::of(Path::new("report.pdf")).unwrap_err().to_string().contains(".html"));
    }
}
