//! The project's own chores. `cargo xtask bench` prints ratios of one run on this machine: ours beside a physical limit.
//! `cargo xtask chaos` does to the pipeline everything that can happen, and compares what it says with the truth.
mod chaos;
mod collect;
mod decode;
mod evaluate;
mod filters;
mod memory;

use anyhow::{Result, bail};
use clap::{Parser, Subcommand};

/// The project's own chores.
#[derive(Parser)]
struct Cli {
    #[command(subcommand)]
    chore: Chore,
}

#[derive(Subcommand)]
enum Chore {
    /// Prints events a second and core of the collector beside a bare consumer, the cost of `evaluate` on many rows, and
    /// what it takes to find the window of a label.
    Bench {
        /// Which part; all but `memory`, which takes long, by default.
        #[arg(value_parser = ["collect", "decode", "evaluate", "filters", "memory"])]
        only: Option<String>,
        /// Events: 1,000,000 for the collector, 20,000,000 for `memory`.
        #[arg(long)]
        events: Option<usize>,
        /// Rows for `evaluate`.
        #[arg(long, default_value_t = 10_000_000)]
        rows: usize,
        /// Outstanding ids for the filters.
        #[arg(long, default_value_t = 50_000_000)]
        ids: usize,
        /// Windows that they are in, 240; or that are open at a time, 200 for `memory`.
        #[arg(long)]
        windows: Option<usize>,
        /// A broker to use; without it the embedded one, which sends whole logs and is fit for small runs only.
        #[arg(long)]
        brokers: Option<String>,
    },
    /// Kills, freezes, rewinds and cuts off a running pipeline, and compares what it says with the truth; `chaos --help` tells more.
    #[command(disable_help_flag = true)]
    Chaos {
        /// `--minutes N`, `--seed S --worlds 1`, `simulate --seeds N`, `planted`.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
}

fn main() -> Result<()> {
    let (only, events, rows, ids, windows, brokers) = match Cli::parse().chore {
        Chore::Bench { only, events, rows, ids, windows, brokers } => (only, events, rows, ids, windows, brokers),
        Chore::Chaos { arguments } => return chaos::run(&arguments),
    };
    if cfg!(debug_assertions) {
        bail!("measure what is shipped: cargo xtask runs with --release (see .cargo/config.toml)");
    }
    if only.as_deref() == Some("memory") {
        let Some(brokers) = brokers else { bail!("name a real Kafka: --brokers host:port") };
        return memory::run(events.unwrap_or(20_000_000), windows.unwrap_or(200), &brokers);
    }
    let (events, windows) = (events.unwrap_or(1_000_000), windows.unwrap_or(240));
    let wants = |name: &str| only.as_deref().is_none_or(|only| only == name);
    if wants("collect") {
        collect::run(events, brokers)?;
    }
    if wants("decode") {
        decode::run(events)?;
    }
    if wants("evaluate") {
        evaluate::run(rows)?;
    }
    if wants("filters") {
        filters::run(ids, windows)?;
    }
    Ok(())
}

/// Seconds of processor time that this process has used, all threads together.
fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // Fields 14 and 15 after the name, which may itself hold blanks: user and system time in ticks of 1/100 s.
    let after_name = stat.rsplit(')').next().unwrap_or_default();
    let fields: Vec<f64> = after_name.split_whitespace().skip(11).take(2).filter_map(|f| f.parse().ok()).collect();
    fields.iter().sum::<f64>() / 100.0
}
