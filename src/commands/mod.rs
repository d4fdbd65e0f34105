//! One file a command.
mod alerts;
mod audit;
mod check;
mod demo;
mod evaluate;
mod forget;
mod produce;
mod reevaluate;
mod reference;
pub(crate) mod report;
mod run;
mod segments;
mod sql;

use anyhow::{Context, Result};
use clap::CommandFactory;
use driftline_schemas::clock;

use crate::cli::{Cli, Command, ConfigCommand, ReferenceCommand, Role};
use crate::config;

/// Does what was asked for.
pub(crate) async fn run(cli: Cli) -> Result<()> {
    let global = cli.global;
    match cli.command {
        Command::Demo(args) => demo::run(&global, &args).await,
        Command::Run(args) => run::run(&global, args.roles, args.role).await,
        Command::Collector(args) => match args.command {
            None => run::run(&global, vec![Role::Collector], args.role).await,
            Some(command) => run::accept_gap(&global, command).await,
        },
        Command::Aggregator(args) => run::run(&global, vec![Role::Aggregator], args).await,
        Command::Evaluator(args) => run::run(&global, vec![Role::Evaluator], args).await,
        Command::Serve(args) => run::run(&global, vec![Role::Serve], args).await,
        Command::Produce(args) => produce::run(&global, &args).await,
        Command::Evaluate(args) => evaluate::run(&global, &args).await,
        Command::Sql(args) => sql::run(&global, &args).await,
        Command::Report(args) => report::run(&global, &args).await,
        Command::Segments(args) => segments::run(&global, &args).await,
        Command::Audit(args) => audit::run(&global, &args).await,
        Command::Reevaluate(args) => reevaluate::run(&global, &args).await,
        Command::Reference { command: ReferenceCommand::Fit(args) } => reference::fit(&global, &args).await,
        Command::Forget(args) => forget::run(&global, &args).await,
        Command::Alerts { command } => alerts::run(&global, &command).await,
        Command::Check => check::run(&global).await,
        Command::Config { command: ConfigCommand::Print } => print_config(&global),
        Command::Completions { shell } => {
            clap_complete::generate(shell, &mut Cli::command(), "driftline", &mut std::io::stdout());
            Ok(())
        }
    }
}

fn print_config(global: &crate::cli::Global) -> Result<()> {
    let mut table = config::table(global)?;
    let config = config::validate(table.clone())?;
    config::redact(&mut table);
    println!("# as given: file, then DRIFTLINE__… variables, then flags; secrets are hidden");
    print!("{}", toml::to_string_pretty(&table).context("print the configuration")?);
    println!("\n# as understood, defaults included");
    let judge = serde_json::to_string_pretty(&config.judge).context("print the configuration")?;
    println!("# store.url        = {:?}", config.store.url);
    println!("# kafka.brokers    = {:?}", config.kafka.brokers);
    println!("# kafka.topics     = {:?} {:?}", config.kafka.predictions_topics, config.kafka.labels_topics);
    println!("# kafka.group      = {:?}", config.kafka.group);
    println!("# flush            = every {:?} or {} bytes", config.flush_interval, config.flush_bytes);
    println!("# memory_max       = {} bytes", config.memory_max);
    let kept = &config.retention;
    let tables = [
        ("raw", kept.raw),
        ("history", kept.history),
        ("metrics_log", kept.metrics_log),
        ("metrics", kept.metrics),
        ("routed", kept.routed),
        ("ledger", kept.ledger),
    ];
    for (table, age) in tables {
        let age = age.map(|micros| std::time::Duration::from_micros(micros.unsigned_abs()));
        let age = age.map_or("for ever".to_owned(), |age| format!("for {}", humantime::format_duration(age)));
        println!("# retention.{table:<11}  {age}");
    }
    let alerts = &config.alerts;
    let budget =
        alerts.budget.map_or("none".to_owned(), |budget| format!("{budget:.2} false alarms a month and model"));
    println!("# alerts.budget    = {budget}");
    println!("# alerts           = {} rule(s), {} sink(s)", alerts.rules.len(), alerts.sinks.len());
    for one in &alerts.maintenance {
        let (zone, when) = (one.time_zone.name(), one.show_at(clock::now_micros()));
        println!("# maintenance {:?} at \"{}\" in {zone}: {when}", one.name, one.cron);
    }
    for report in &config.reports {
        let next = report.cron.next_after(report.time_zone, clock::now_micros());
        let next = next.map_or_else(|| "never".to_owned(), clock::show);
        let zone = report.time_zone.name();
        println!(
            "# report {:?} at \"{}\" in {zone}: next {next}, {} sink(s)",
            report.name,
            report.cron,
            report.sinks.len()
        );
    }
    println!("# serve.listen     = {:?}", config.listen);
    println!("# judging (times in microseconds):");
    for line in judge.lines() {
        println!("# {line}");
    }
    Ok(())
}
