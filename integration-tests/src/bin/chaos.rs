//! The harness by hand: real processes for so many minutes, or from one seed; thousands of seeds in memory; the product broken on
//! purpose.
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::{Parser, Subcommand, ValueEnum};
use driftline_integration_tests::chaos::report::Report;
use driftline_integration_tests::chaos::world::{self, DEBOUNCE_SECS, Neighbours, Settings, StoreKind};
use driftline_integration_tests::chaos::{planted, simulation};
use driftline_integration_tests::own::{OwnKafka, OwnS3};

/// Does to Driftline everything that can happen, and compares what it says with the truth.
#[derive(Debug, Parser)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    processes: Processes,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// A whole pipeline in memory, seed after seed.
    Simulate {
        /// The first seed.
        #[arg(long, default_value_t = 1)]
        seed: u64,
        /// How many.
        #[arg(long, default_value_t = 1_000)]
        seeds: u64,
    },
    /// Breaks the product on purpose, one break after the other, and sees to it that a check turns red.
    Planted {
        /// Only the breaks whose name contains this.
        #[arg(long)]
        only: Option<String>,
    },
}

#[derive(Debug, clap::Args)]
struct Processes {
    /// Worlds are made until this time is over; the last one is finished.
    #[arg(long, default_value_t = 10)]
    minutes: u64,
    /// The first world's seed; the next has the next. By chance if it is not given.
    #[arg(long)]
    seed: Option<u64>,
    /// So many worlds, however long they take.
    #[arg(long)]
    worlds: Option<u64>,
    /// Rounds of a world.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Predictions a round.
    #[arg(long, default_value_t = 600)]
    predictions: usize,
    /// Where stores lie; by turns if it is not given.
    #[arg(long, value_enum)]
    store: Option<Kind>,
    /// Another build's `driftline`, which every second process runs.
    #[arg(long, value_name = "BINARY")]
    beside: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Kind {
    /// In a folder.
    Local,
    /// On an S3 server behind the proxy.
    S3,
}

#[tokio::main]
async fn main() -> ExitCode {
    let cli = Cli::parse();
    let done = match cli.command {
        None => processes(&cli.processes).await,
        Some(Command::Simulate { seed, seeds }) => simulation::run_seeds(seed, seeds).await,
        Some(Command::Planted { only }) => planted::run(only.as_deref()).await,
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("FAILED: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn processes(cli: &Processes) -> Result<()> {
    let first = cli.seed.unwrap_or_else(|| u64::from(rand::random::<u32>()));
    let kafka = OwnKafka::start().await.context("start a Kafka")?;
    let s3 = match cli.store {
        Some(Kind::Local) => None,
        _ => Some(OwnS3::start().await.context("start an S3 server (or choose --store local)")?),
    };
    let neighbours = Neighbours { kafka, s3 };
    let mut builds = vec![driftline_integration_tests::sandbox::binary()];
    builds.extend(cli.beside.clone());
    let (began, mut total) = (Instant::now(), Report::default());
    for nth in 0.. {
        let is_over = match cli.worlds {
            Some(worlds) => nth >= worlds,
            None => began.elapsed() >= Duration::from_secs(60 * cli.minutes),
        };
        if is_over {
            break;
        }
        let seed = first.wrapping_add(nth);
        let store = match cli.store {
            Some(Kind::Local) => StoreKind::Local,
            // Of three worlds one lies in a folder; the seed alone decides, so that a world is the same when it is repeated.
            None if seed.is_multiple_of(3) => StoreKind::Local,
            Some(Kind::S3) | None => StoreKind::S3,
        };
        let settings =
            Settings { seed, rounds: cli.rounds, predictions: cli.predictions, store, builds: builds.clone() };
        let world_began = Instant::now();
        match world::run(&settings, &neighbours).await {
            Ok(report) => {
                println!(
                    "seed {seed} ({store:?}): {} rounds, {} events, {} kills, {} freezes, {} store faults: equal to the truth in {:.0} s",
                    report.rounds,
                    report.events,
                    report.kills + report.kills_at_writes,
                    report.freezes,
                    report.store_faults(),
                    world_began.elapsed().as_secs_f64()
                );
                total.add(&report);
            }
            Err(error) => {
                println!("{total}");
                bail!(
                    "{error:#}\n\nrepeat this world: cargo xtask chaos --seed {seed} --worlds 1 --rounds {} --predictions {}{}",
                    cli.rounds,
                    cli.predictions,
                    cli.store.map_or(String::new(), |kind| format!(" --store {kind:?}").to_lowercase())
                )
            }
        }
    }
    println!("\nseeds {first} to {}, {:.0} minutes", first + total.worlds - 1, began.elapsed().as_secs_f64() / 60.0);
    println!("{total}the debounce of late labels is {DEBOUNCE_SECS} s");
    Ok(())
}
