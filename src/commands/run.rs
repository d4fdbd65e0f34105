//! `run`, and the roles alone.
use anyhow::{Context, Result};

use crate::cli::{CollectorCommand, Global, Role, RoleArgs};
use crate::config;
use crate::pipeline::{self, Plan};
use crate::telemetry::Metrics;

pub(crate) async fn run(global: &Global, mut roles: Vec<Role>, args: RoleArgs) -> Result<()> {
    // Before anything else: a service manager may think better of it at once.
    let shutdown = pipeline::shutdown_on_signals();
    let config = config::load(global)?;
    roles.sort_unstable();
    roles.dedup();
    let metrics = Metrics::start()?;
    let store = pipeline::open_store(&config).await?;
    tracing::info!(store = config.store.url, brokers = config.kafka.brokers, ?roles, "driftline starts");
    // Catching up ends by itself: nobody scrapes it, unless an address is given.
    let serves = roles.contains(&Role::Serve) && !args.until_caught_up;
    let listen = args.listen.or_else(|| serves.then(|| config.listen.clone()));
    let plan = Plan {
        roles,
        until_caught_up: args.until_caught_up,
        listen,
        registry: metrics.registry.clone(),
        on_published: None,
    };
    let result = pipeline::run(&config, store, plan, shutdown).await;
    metrics.stop();
    result
}

pub(crate) async fn accept_gap(global: &Global, command: CollectorCommand) -> Result<()> {
    let CollectorCommand::AcceptGap { topic, partition } = command;
    let config = config::load(global)?;
    let store = pipeline::open_store(&config).await?;
    let settings = pipeline::collector_settings(&config, "accept-gap");
    let footer = driftline_collector::accept_gap(settings, store, &topic, partition).await.context("accept the gap")?;
    println!(
        "{topic}[{partition}]: offsets {} to {} are recorded as lost ({} offsets)",
        footer.from,
        footer.to - 1,
        footer.to - footer.from
    );
    Ok(())
}
