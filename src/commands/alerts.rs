//! `alerts`: what fires, what it rests on, what the rules would have done, and whether receivers can be reached.
use std::time::Duration;

use anyhow::{Context, Result, bail};
use driftline_alerts::message::messages;
use driftline_alerts::send::{Outcome, send};
use driftline_alerts::silence::Silence;
use driftline_alerts::{life, reference, replay, series};
use driftline_ledger::Replica;
use driftline_schemas::clock;
use driftline_schemas::config::{AlertsConfig, Config, Level, Maintenance, Rule, Severity, Sink, Subject};
use driftline_store::{Manifest, Store, paths};

use crate::cli::{AlertsCommand, Format, Global, ReplayArgs, SilenceArgs};
use crate::{CheckFailed, config, pipeline};

/// Longest silence: longer ones are slips of the pen.
const SILENCE_MAX: Duration = Duration::from_secs(366 * 86_400);

pub(crate) async fn run(global: &Global, command: &AlertsCommand) -> Result<()> {
    let config = config::load(global)?;
    match command {
        AlertsCommand::List { model, all, format } => list(&config, model.as_deref(), *all, *format).await,
        AlertsCommand::Show { id, format } => show(&config, id, *format).await,
        AlertsCommand::Test { sink } => test(&config.alerts, sink.as_deref()).await,
        AlertsCommand::Silence(args) => silence(&config, args).await,
        AlertsCommand::Silences => silences(&config).await,
        AlertsCommand::Replay(args) => replay(&config, args).await,
    }
}

async fn open(config: &Config) -> Result<Store> {
    let store = Store::open(&config.store.url, &config.store.options).context("open the store")?;
    let manifest = Manifest::load(&store).await.context("read the manifest")?;
    manifest.with_context(|| format!("there is no Driftline store at {}", config.store.url))?;
    Ok(store)
}

async fn ask(config: &Config, statement: &str, format: Format) -> Result<()> {
    let store = open(config).await?;
    if store.list_folders("alerts").await.context("look for alerts")?.is_empty() {
        eprintln!("no rule has found anything yet");
        return Ok(());
    }
    print!("{}", super::sql::ask(&pipeline::sessions(config, &store), &store, statement, format).await?);
    Ok(())
}

fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

async fn list(config: &Config, model: Option<&str>, all: bool, format: Format) -> Result<()> {
    let of_model = model.map_or_else(String::new, |model| format!("AND model_name = {}", quoted(model)));
    let firing = if all { "" } else { "AND status IN ('firing', 'revised', 'repeated')" };
    let statement = format!(
        "SELECT alert_id, status, severity, rule, opened_at, window_start, value, level, n_labelled, silenced, text FROM (
             SELECT *, transition AS status,
                    row_number() OVER (PARTITION BY model_name, alert_id ORDER BY seq DESC, position DESC) AS place
             FROM alerts WHERE transition <> 'pending' {of_model}
         ) WHERE place = 1 {firing} ORDER BY opened_at, alert_id"
    );
    ask(config, &statement, format).await?;
    say_unjudged(config, model).await?;
    let now = clock::now_micros();
    for one in config.alerts.maintenance.iter().filter(|one| one.holds(now)) {
        eprintln!("maintenance {:?}: {}; nobody is told of {}", one.name, one.show_at(now), shown_scope(one));
    }
    Ok(())
}

/// Names the rules relative to a reference that cannot judge, and why: that nothing fires would say nothing.
async fn say_unjudged(config: &Config, only: Option<&str>) -> Result<()> {
    let is_relative = |rule: &Rule| matches!(rule.level, Level::Reference { .. });
    if !config.alerts.rules.iter().any(is_relative) {
        return Ok(());
    }
    let store = open(config).await?;
    let replica = Replica::open(&store, "alerts").await.context("read the ledger")?;
    for model in replica.state.models.keys().filter(|name| only.is_none_or(|only| only == *name)) {
        let unjudged = reference::unjudged(&store, &replica.state, &config.alerts, model).await;
        for (rule, why) in unjudged.context("ask what rules are held against")? {
            eprintln!("{model}: {rule:?} cannot judge: {why}");
        }
    }
    Ok(())
}

/// What maintenance is for.
fn shown_scope(maintenance: &Maintenance) -> String {
    let listed = |what: &str, names: &[String]| (!names.is_empty()).then(|| format!("{what} {}", names.join(", ")));
    let named = [listed("model", &maintenance.models), listed("rule", &maintenance.rules)];
    let named: Vec<String> = named.into_iter().flatten().collect();
    if named.is_empty() { "everything".to_owned() } else { named.join(", ") }
}

async fn show(config: &Config, id: &str, format: Format) -> Result<()> {
    let statement = format!(
        "SELECT at, transition, revision, state, value, ci_low, ci_high, p_value, level, n, n_labelled, ln_e_value, budget_share,
                previous_value, previous_revision, silenced, text
         FROM alerts WHERE alert_id = {} ORDER BY seq, position",
        quoted(id)
    );
    ask(config, &statement, format).await
}

/// What receivers of a test read.
const TEST: &str = "This is a test of Driftline's notifications; nothing is wrong.";

/// Sends each sink a notification that says that it is none.
async fn test(config: &AlertsConfig, only: Option<&str>) -> Result<()> {
    let sinks: Vec<_> = config.sinks.iter().filter(|sink| only.is_none_or(|only| only == sink.name)).collect();
    if sinks.is_empty() {
        let known: Vec<&str> = config.sinks.iter().map(|sink| sink.name.as_str()).collect();
        bail!("there is no such sink; the configuration has: {}", known.join(", "));
    }
    let now = clock::now_micros();
    let transition = life::Transition {
        id: format!("test-{now}"),
        kind: life::Kind::Firing,
        series: series::Series {
            rule: "test of Driftline's notifications".into(),
            model: "test".into(),
            metric: "test".into(),
            ..series::Series::default()
        },
        severity: Severity::Info,
        at: now,
        opened_at: now,
        evidence: series::Evidence {
            window_start: now,
            window_end: now,
            revision: 1,
            state: "open".into(),
            ..series::Evidence::default()
        },
        before: None,
        sinks: vec![],
        silenced: None,
        after_silence: None,
        ended: None,
    };
    let over = life::Transition { kind: life::Kind::Resolved, ..transition.clone() };
    let mut failed = 0;
    for sink in sinks {
        let sink = &Sink { text: Some(TEST.to_owned()), ..sink.clone() };
        let mut outcome = Outcome::Done;
        for (seq, told) in [(0, &transition), (1, &over)] {
            let url = config.external_url.as_deref();
            // A number of its own for each test, or receivers would drop the second one as a copy.
            for message in messages(sink, "test", now as u64 + seq, now, &[told], &life::State::default(), url) {
                if outcome == Outcome::Done {
                    outcome = send(sink, &message, config.allow_local).await;
                }
            }
        }
        let (word, detail) = match outcome {
            Outcome::Done => ("ok", "took an alert and its end".to_owned()),
            Outcome::Gone => ("FAILED", "answered 410: it is gone".to_owned()),
            Outcome::Again { why, .. } | Outcome::Refused { why } => ("FAILED", why),
        };
        failed += usize::from(word == "FAILED");
        println!("{word:<7} {:<20} {:<13} {detail}", sink.name, sink.kind.as_str());
    }
    if failed == 0 { Ok(()) } else { Err(CheckFailed(format!("{failed} sink(s) failed")).into()) }
}

async fn silence(config: &Config, args: &SilenceArgs) -> Result<()> {
    let store = open(config).await?;
    if let Some(id) = &args.expire {
        let path = paths::silence(id);
        store
            .head(&path)
            .await
            .context("look for the silence")?
            .with_context(|| format!("there is no silence {id}"))?;
        store.delete(&path).await.context("end the silence")?;
        println!("silence {id} has ended");
        return Ok(());
    }
    let Some(length) = args.length else { bail!("say how long: --for 2h") };
    if length > SILENCE_MAX {
        return Err(crate::BadConfig("--for must be at most 366d".into()).into());
    }
    let from = args.from.unwrap_or_else(clock::now).timestamp_micros();
    let silence = Silence {
        id: uuid::Uuid::new_v4().simple().to_string(),
        model: args.model.clone(),
        rule: args.rule.clone(),
        segment: args.segment.clone(),
        segment_value: args.segment_value.clone(),
        from,
        until: from + length.as_micros() as i64,
        comment: args.comment.clone(),
    };
    silence.write(&store).await.context("write the silence")?;
    println!("{}", silence.id);
    eprintln!("silent from {} until {}", clock::show(silence.from), clock::show(silence.until));
    Ok(())
}

async fn silences(config: &Config) -> Result<()> {
    let store = open(config).await?;
    for silence in Silence::read_all(&store, clock::now_micros()).await.context("read the silences")? {
        let wanted = [
            ("model", &silence.model),
            ("rule", &silence.rule),
            ("segment", &silence.segment),
            ("segment value", &silence.segment_value),
        ];
        let wanted: Vec<String> =
            wanted.iter().filter_map(|(name, value)| Some(format!("{name} {}", value.as_deref()?))).collect();
        let wanted = if wanted.is_empty() { "everything".to_owned() } else { wanted.join(", ") };
        let (from, until) = (clock::show(silence.from), clock::show(silence.until));
        println!("{}  {from} to {until}  {wanted}  {}", silence.id, silence.comment);
    }
    let now = clock::now_micros();
    for one in &config.alerts.maintenance {
        let (zone, length) = (one.time_zone.name(), Duration::from_micros(one.length.unsigned_abs()));
        let length = humantime::format_duration(length);
        let (when, what) = (one.show_at(now), shown_scope(one));
        println!("maintenance:{}  {when}  {what}  \"{}\" in {zone}, for {length}", one.name, one.cron);
    }
    Ok(())
}

async fn replay(config: &Config, args: &ReplayArgs) -> Result<()> {
    let store = open(config).await?;
    let replica = Replica::open(&store, "replay").await.context("read the ledger")?;
    let models: Vec<&String> =
        replica.state.models.keys().filter(|name| args.model.as_ref().is_none_or(|model| model == *name)).collect();
    if models.is_empty() {
        bail!("the store knows no such model");
    }
    if config.alerts.rules.is_empty() {
        return Err(crate::BadConfig("the configuration has no [[alerts.rules]]".into()).into());
    }
    let (from, to) = replay::period(args.from, args.to);
    println!(
        "{:<20} {:<24} {:>7} {:>7} {:>9} {:>6} {:>7} {:>8} {:>10} {:>9} {:>7} {:>13}",
        "model",
        "rule",
        "windows",
        "series",
        "verdicts",
        "bad",
        "firing",
        "revised",
        "withdrawn",
        "resolved",
        "missed",
        "firing/month"
    );
    let mut notes = Vec::new();
    for model in models {
        let replayed =
            replay::replay(&store, &replica.state, &config.alerts, model, from, to).await.context("replay")?;
        for (rule, tally) in &replayed.rules {
            println!(
                "{model:<20} {rule:<24} {:>7} {:>7} {:>9} {:>6} {:>7} {:>8} {:>10} {:>9} {:>7} {:>13.2}",
                replayed.windows,
                tally.series.len(),
                tally.verdicts,
                tally.bad,
                tally.firing,
                tally.revised,
                tally.withdrawn,
                tally.resolved,
                tally.missed,
                replayed.a_month(tally),
            );
            if let Some(why) = replayed.unjudged.get(rule) {
                notes.push(format!("{model}: {rule:?} could not judge: {why}"));
            } else if replayed.windows > 0 && tally.series.is_empty() {
                notes.push(format!("{model}: {rule:?} has found nothing to judge: {}", why_nothing(config, rule)));
            }
        }
        if replayed.lost > 0 {
            notes.push(format!("{model}: {} revision(s) are kept no more, and nothing is said of them", replayed.lost));
        }
        if args.transitions {
            for transition in &replayed.transitions {
                println!("{}  {}: {}", clock::show(transition.at), transition.series.rule, transition.show());
            }
        }
    }
    notes.iter().for_each(|note| eprintln!("{note}"));
    if config.alerts.rules.iter().any(|rule| matches!(rule.subject, Subject::Pipeline(_))) {
        eprintln!("rules of the pipeline are judged by the clock: there is no past to replay");
    }
    Ok(())
}

/// What people have to look for when a rule never sees anything.
fn why_nothing(config: &Config, name: &str) -> &'static str {
    let rule = config.alerts.rules.iter().find(|rule| rule.name == name);
    match rule.map(|rule| (&rule.subject, rule.level.learned().is_some())) {
        Some((Subject::Drift { .. }, _)) => "drift needs a reference, and windows that are sealed",
        Some((Subject::Estimate { .. }, _)) => {
            "estimates need a reference with labels, a nowcast windows that are open"
        }
        Some((Subject::Coverage, _)) => "coverage needs windows that are final",
        Some((_, true)) => "its level is learned from earlier windows, and there are too few",
        _ => "no such metric with an interval, or never `min_rows` rows",
    }
}
