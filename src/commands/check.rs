//! `check`: configuration, store, references, brokers, topics, rights, clock.
use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::Result;
use arrow::array::AsArray;
use arrow::datatypes::Int64Type;
use driftline_collector::Finding;
use driftline_evaluator::session::Sessions;
use driftline_evaluator::stage::{ReferenceFiles, ReferenceRows};
use driftline_schemas::clock;
use driftline_schemas::config::{Config, ReferenceSpec};
use driftline_schemas::window::TZDATA;
use driftline_store::{RetryPolicy, Store};

use crate::cli::Global;
use crate::reference::Files;
use crate::{CheckFailed, config, pipeline};

/// A store's clock further away than this makes `future_timestamp` and idle windows wrong.
const CLOCK_SKEW_MAX_SECS: i64 = 60;
/// A person waits for the answer: a store that is away is reported sooner than a running pipeline gives up on it.
const STORE_WAIT: Duration = Duration::from_secs(10);
/// Memory for counting the rows of a reference file, which reads its footer.
const COUNT_BYTES: usize = 64 << 20;

pub(crate) async fn run(global: &Global) -> Result<()> {
    let config = config::load(global)?;
    let mut failed = 0;
    let mut say = |what: &str, result: Result<String, String>| match result {
        Ok(detail) => println!("ok      {what:<14} {detail}"),
        Err(detail) => {
            failed += 1;
            println!("FAILED  {what:<14} {detail}");
        }
    };
    say(
        "configuration",
        Ok(format!("{} model(s) listed; time zones as of IANA's {TZDATA}", config.judge.models.len())),
    );
    match Store::open(&config.store.url, &config.store.options) {
        Err(error) => say("store", Err(error.to_string())),
        Ok(store) => {
            let store = store.with_retry(RetryPolicy { max_elapsed: STORE_WAIT, ..RetryPolicy::default() });
            match store.probe().await {
                Ok(()) => {
                    say("store", Ok(format!("{}: create-if-absent and replace-if hold", store.url())));
                    say("clock", clock_skew(&store).await);
                }
                // Its clock does not matter, and nothing more is written into it.
                Err(error) => say("store", Err(error.to_string())),
            }
        }
    }
    if !config.alerts.rules.is_empty() || !config.alerts.sinks.is_empty() {
        let alerts = &config.alerts;
        let counts = format!(
            "{} rule(s), {} sink(s); `driftline alerts test` reaches them",
            alerts.rules.len(),
            alerts.sinks.len()
        );
        say("alerts", Ok(counts));
        let now = clock::now_micros();
        for one in &alerts.maintenance {
            say("maintenance", Ok(format!("{:?}: {}", one.name, one.show_at(now))));
        }
    }
    if !config.reports.is_empty() {
        let now = driftline_schemas::clock::now_micros();
        let next = config
            .reports
            .iter()
            .filter_map(|report| Some((report.cron.next_after(report.time_zone, now)?, report.name.as_str())));
        let next = next.min().map_or_else(String::new, |(at, name)| {
            format!("; the next is {name:?} at {}", driftline_schemas::clock::show(at))
        });
        say("reports", Ok(format!("{} by schedule{next}", config.reports.len())));
    }
    for location in references(&config) {
        let files = Files::new(&config);
        let found = match files.read_frozen(&location).await {
            Ok(Some(frozen)) if frozen.metrics.is_none() && is_relied_on(&config, &location) => Err(format!(
                "{location}: keeps no metrics of its own, and rules are relative to them; `driftline reference fit` freezes it \
                 again, if it has labelled rows"
            )),
            Ok(Some(frozen)) => Ok(format!("{location}: frozen from {} rows", frozen.rows)),
            Ok(None) => match files.read(&location).await {
                Ok(rows) => count(rows).await.map(|rows| format!("{location}: {rows} rows")),
                Err(error) => Err(error),
            },
            Err(error) => Err(error),
        };
        say("reference", found);
    }
    let settings = pipeline::collector_settings(&config, "check");
    for Finding { what, result } in tokio::task::spawn_blocking(move || driftline_collector::examine(&settings)).await?
    {
        say(what, result);
    }
    if failed == 0 { Ok(()) } else { Err(CheckFailed(format!("{failed} check(s) failed")).into()) }
}

/// How many rows a reference file has.
async fn count(rows: ReferenceRows) -> Result<u64, String> {
    let counted = async {
        let session = Sessions::detached(COUNT_BYTES, 1)?;
        rows.register(&session, "reference", None).await?;
        let batches = session.sql("SELECT count(*) FROM reference").await?.collect().await?;
        Ok(batches.iter().map(|batch| batch.column(0).as_primitive::<Int64Type>().value(0) as u64).sum())
    };
    counted.await.map_err(|error: driftline_evaluator::Error| error.with_causes())
}

/// Whether a rule on a metric is relative to what a reference keeps of its own rows.
fn is_relied_on(config: &Config, location: &str) -> bool {
    let is_of = |model: &str| {
        let settings = config.judge.model(model);
        matches!(&settings.reference, Some(ReferenceSpec::File(own)) if own == location)
            && driftline_alerts::reference::is_wanted(&config.alerts, model)
    };
    // Of models that are not listed a rule names those it is for, or is for all.
    let named = config.alerts.rules.iter().flat_map(|rule| &rule.models);
    config.judge.models.keys().chain(named).any(|model| is_of(model)) || is_of("")
}

/// The files that models are measured against, each once.
fn references(config: &Config) -> BTreeSet<String> {
    let settings = config.judge.models.values().chain([&config.judge.defaults]);
    let files = settings.filter_map(|settings| match &settings.reference {
        Some(ReferenceSpec::File(location)) => Some(location.clone()),
        Some(ReferenceSpec::Past { .. }) | None => None,
    });
    files.collect()
}

async fn clock_skew(store: &Store) -> Result<String, String> {
    let path = format!("live/clock-{}.json", std::process::id());
    let before = clock::now();
    let written = async {
        store.put(&path, bytes::Bytes::from_static(b"{}")).await?;
        let meta = store.head(&path).await?;
        store.delete(&path).await?;
        Ok::<_, driftline_store::Error>(meta)
    };
    let Some(meta) = written.await.map_err(|error| error.to_string())? else {
        return Err("an object that was just written is not there".into());
    };
    let skew = (meta.last_modified - before).num_seconds();
    if skew.abs() > CLOCK_SKEW_MAX_SECS {
        Err(format!("this machine's clock and the store's differ by {skew} s; set both by NTP"))
    } else {
        Ok(format!("within {} s of the store's", skew.abs().max(1)))
    }
}
