//! `report`: one model over a period, as a page that a person reads; and the maker of those that are made by themselves.
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use async_trait::async_trait;
use bytes::Bytes;
use driftline_alerts::reports::{Maker, Told, Written};
use driftline_evaluator::report::{self, Report, Tolerated, gather};
use driftline_evaluator::session::{REPLACED, Sessions};
use driftline_ledger::{LedgerState, Replica};
use driftline_schemas::clock::{self, Micros};
use driftline_schemas::config::{Config, Level, ReportFormat, Rule, Side, Subject};
use driftline_schemas::tables::Task;
use driftline_store::{Manifest, Store, encode_segment};
use tokio::sync::Mutex;

use crate::cli::{Global, ReportArgs};
use crate::{config, pipeline};

/// Tries to read tables whose objects are being replaced meanwhile.
const TRIES: usize = 5;
const PAUSE: Duration = Duration::from_millis(500);
/// Findings of a model that are kept with a report, for those who are told of it.
const FINDINGS_MAX: usize = 20;

pub(crate) async fn run(global: &Global, args: &ReportArgs) -> Result<()> {
    let form = if args.name.is_some() { None } else { Some(Form::of(&args.out)?) };
    let config = config::load(global)?;
    let store = Store::open(&config.store.url, &config.store.options).context("open the store")?;
    let manifest = Manifest::load(&store).await.context("read the manifest")?;
    manifest.with_context(|| format!("there is no Driftline store at {}", config.store.url))?;
    let reporter = Reporter::new(pipeline::sessions(&config, &store), store, &config);
    let (Some(form), Some(model)) = (form, &args.model) else { return by_name(&config, &reporter, args).await };
    let known = reporter.models().await?;
    if !known.contains(model) {
        bail!("the store knows no model {model:?}; it knows {}", known[..known.len().min(10)].join(", "));
    }
    let (from, to) = (args.from.map(|time| time.timestamp_micros()), args.to.map(|time| time.timestamp_micros()));
    let report = reporter.report(model, from, to).await?;
    let report = report.with_context(|| format!("{model} has no window in this period"))?;
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

/// A report of the configuration, as it is made by itself.
async fn by_name(config: &Config, reporter: &Reporter, args: &ReportArgs) -> Result<()> {
    let name = args.name.as_deref().unwrap_or_default();
    let Some(spec) = config.reports.iter().find(|spec| spec.name == name) else {
        let known: Vec<&str> = config.reports.iter().map(|spec| spec.name.as_str()).collect();
        let known = if known.is_empty() { "has none".to_owned() } else { format!("knows {}", known.join(", ")) };
        return Err(
            crate::BadConfig(format!("there is no [[reports]] named {name:?}; the configuration {known}")).into()
        );
    };
    let until = args.at.unwrap_or_else(clock::now).timestamp_micros();
    let occurrence = spec.cron.last_until(spec.time_zone, until).context("there is no occurrence before that time")?;
    let (from, to) = spec.period.of(occurrence, spec.time_zone);
    eprintln!("{name} of {}: {} to {}", clock::show(occurrence), clock::show(from), clock::show(to));
    let models = match spec.models.as_slice() {
        [] => reporter.models().await?,
        listed => listed.to_vec(),
    };
    std::fs::create_dir_all(&args.out).with_context(|| format!("make {}", args.out.display()))?;
    let mut count = 0;
    for model in models {
        let Some(report) = reporter.report(&model, Some(from), Some(to)).await? else {
            eprintln!("{model}: no window in this period");
            continue;
        };
        for format in &spec.formats {
            let file = args.out.join(format!("{}.{}", encode_segment(&model), format.as_str()));
            let text = Form::from(*format).write(&report)?;
            std::fs::write(&file, text).with_context(|| format!("write {}", file.display()))?;
            eprintln!("{}: {} windows", file.display(), report.windows.len());
            count += 1;
        }
    }
    if count == 0 {
        bail!("no model has a window in this period");
    }
    Ok(())
}

/// Makes reports out of a store.
pub(crate) struct Reporter {
    sessions: Sessions,
    store: Store,
    rules: Vec<Rule>,
    /// The ledger, as far as it has been read: a schedule asks for a thousand models one after the other.
    replica: Mutex<Option<Replica>>,
}

/// The numbers that rules tolerate of a model's metrics over all.
fn tolerated(rules: &[Rule], model: &str) -> Vec<Tolerated> {
    let of = |rule: &Rule| {
        let (Subject::Metric { metric, class: None }, Level::Value(level)) = (&rule.subject, &rule.level) else {
            return None;
        };
        let bad = if rule.side == Side::Below { "below" } else { "above" };
        Some(Tolerated { metric: metric.clone(), level: *level, bad, rule: rule.name.clone() })
    };
    rules.iter().filter(|rule| rule.is_for(model)).filter_map(of).collect()
}

impl Reporter {
    pub(crate) fn new(sessions: Sessions, store: Store, config: &Config) -> Self {
        Self { sessions, store, rules: config.alerts.rules.clone(), replica: Mutex::new(None) }
    }

    /// Asks the ledger as it is now.
    async fn ledger<T>(&self, ask: impl FnOnce(&LedgerState) -> T) -> Result<T> {
        let mut known = self.replica.lock().await;
        let replica = match known.take() {
            Some(mut replica) => {
                replica.catch_up().await.context("read the ledger")?;
                replica
            }
            None => Replica::open(&self.store, "report").await.context("read the ledger")?,
        };
        Ok(ask(&known.insert(replica).state))
    }

    async fn models(&self) -> Result<Vec<String>> {
        self.ledger(|state| state.models.keys().cloned().collect()).await
    }

    /// One model over a period; `None` if it has no window there.
    async fn report(&self, name: &str, from: Option<Micros>, to: Option<Micros>) -> Result<Option<Report>> {
        let known = |state: &LedgerState| {
            let model = state.models.get(name)?;
            // What the ledger has recorded of a model that nobody configured; what was configured comes first.
            let newest = model.windows.keys().next_back().copied().unwrap_or_default();
            let settings = state.era_settings(name, newest);
            let inferred = model.task.clone();
            let task = settings.task.or(inferred.as_ref().map(|(task, _)| *task)).unwrap_or(Task::Binary);
            Some((task, settings.positive_class.clone().or(inferred.and_then(|(_, positive)| positive))))
        };
        let Some((task, positive_class)) = self.ledger(known).await? else { return Ok(None) };
        let levels = tolerated(&self.rules, name);
        let subject = report::Subject { model: name.to_owned(), task, positive_class, from, to, levels };
        for _ in 1..TRIES {
            match gather(&self.sessions, &subject, clock::now()).await.map_err(anyhow::Error::from) {
                // A new session sees what is there now.
                Err(error) if format!("{error:#}").contains(REPLACED) => tokio::time::sleep(PAUSE).await,
                other => return other.context("read the tables"),
            }
        }
        gather(&self.sessions, &subject, clock::now()).await.context("read the tables")
    }
}

#[async_trait]
impl Maker for Reporter {
    async fn models(&self) -> Result<Vec<String>, String> {
        Reporter::models(self).await.map_err(|error| format!("{error:#}"))
    }

    async fn make(
        &self,
        model: &str,
        from: Micros,
        to: Micros,
        formats: &[ReportFormat],
    ) -> Result<Option<Written>, String> {
        let report = self.report(model, Some(from), Some(to)).await.map_err(|error| format!("{error:#}"))?;
        let Some(report) = report else { return Ok(None) };
        let told = |finding: &driftline_evaluator::report::Finding| Told {
            severity: finding.severity.as_str().to_owned(),
            text: finding.text.clone(),
        };
        let write = |format: &ReportFormat| -> Result<(ReportFormat, Bytes), String> {
            let text = Form::from(*format).write(&report).map_err(|error| format!("{error:#}"))?;
            Ok((*format, Bytes::from(text)))
        };
        Ok(Some(Written {
            windows: report.windows.len() as u64,
            findings: report.attention.iter().take(FINDINGS_MAX).map(told).collect(),
            files: formats.iter().map(write).collect::<Result<_, _>>()?,
        }))
    }
}

impl From<ReportFormat> for Form {
    fn from(format: ReportFormat) -> Self {
        match format {
            ReportFormat::Html => Self::Html,
            ReportFormat::Json => Self::Json,
            ReportFormat::Markdown => Self::Markdown,
        }
    }
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
