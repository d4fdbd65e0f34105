//! `cargo xtask chaos`: builds everything as the tests are built, and hands over to the harness in `integration-tests`.
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};

/// Builds, then runs `target/debug/chaos` with these arguments.
pub(crate) fn run(arguments: &[String]) -> Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    // With all targets, as the tests are built: other features of dependencies would build half of them twice.
    let built = Command::new(cargo)
        .args(["build", "--locked", "--workspace", "--all-targets"])
        .current_dir(&root)
        .status()
        .context("run cargo build")?;
    ensure!(built.success(), "cargo build: {built}");
    // This program lies in target/<profile>.
    let own = std::env::current_exe().context("ask for the program's path")?;
    let target = own.parent().and_then(Path::parent).context("a program of cargo lies in target/<profile>")?;
    let harness = target.join("debug").join("chaos");
    let ended = Command::new(&harness).args(arguments).current_dir(&root).status();
    let ended = ended.with_context(|| format!("run {}", harness.display()))?;
    ensure!(ended.success(), "chaos: {ended}");
    Ok(())
}
