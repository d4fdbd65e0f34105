//! `driftline`: tells, minutes after the fact and for years afterwards, how well models in production do.
//!
//! `cli` is what users type, `config` what they wrote, `pipeline` how the stages hang together, `commands` one file each.
mod cli;
mod commands;
mod config;
mod files;
mod output;
mod pipeline;
mod reference;
mod serve;
mod telemetry;

use std::process::ExitCode;

use clap::Parser;

use crate::cli::Cli;

/// The pipeline runs for months, and its windows come and go on many threads: glibc keeps for each thread what it has once had.
#[cfg(not(target_env = "msvc"))]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// What the shell is told: 0 done, 1 failed, 2 wrong usage or configuration, 3 a check failed.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct CheckFailed(pub(crate) String);

/// A configuration that cannot be used; the text names every fault.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct BadConfig(pub(crate) String);

/// As the shell has it of a program that SIGPIPE has ended.
const NOBODY_READS: i32 = 128 + 13;

/// Whoever reads what is printed may stop (`| head`): that is the end of a command, and no panic.
fn end_when_nobody_reads() {
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        let said = panic.payload().downcast_ref::<String>().map_or("", String::as_str);
        if said.starts_with("failed printing to stdout") && said.contains("Broken pipe") {
            std::process::exit(NOBODY_READS);
        }
        hook(panic);
    }));
}

fn main() -> ExitCode {
    end_when_nobody_reads();
    let cli = Cli::parse();
    let format = cli.global.log_format;
    telemetry::init_logs(format, !cli.command.is_service());
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().thread_name("driftline").build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("error: cannot start threads: {error}");
            return ExitCode::FAILURE;
        }
    };
    let result = runtime.block_on(commands::run(cli));
    // Threads of a client that waits for a broker must not hold the process back.
    runtime.shutdown_timeout(std::time::Duration::from_secs(2));
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            exit_code(&error)
        }
    }
}

#[allow(clippy::redundant_closure_for_method_calls)] // the path of a method of `dyn Error` reads worse
fn exit_code(error: &anyhow::Error) -> ExitCode {
    let is_config = error.chain().any(|cause| {
        cause.is::<BadConfig>()
            || matches!(cause.downcast_ref(), Some(driftline_collector::Error::Settings(_)))
            || matches!(cause.downcast_ref(), Some(driftline_store::Error::Unsupported { .. }))
    });
    if error.chain().any(|cause| cause.is::<CheckFailed>()) {
        ExitCode::from(3)
    } else if is_config {
        ExitCode::from(2)
    } else {
        ExitCode::FAILURE
    }
}
