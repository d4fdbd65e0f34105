//! The word of engines that share no code with us: DuckDB on the accounts, scikit-learn on the metrics.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use tokio::process::Command;

use crate::sandbox::{Sandbox, tail};

/// What the producers and the brokers say, in files of JSON lines.
#[derive(Clone, Copy, Debug)]
pub struct Known<'a> {
    /// `{topic, partition, offset}`: every record that was acknowledged.
    pub acknowledged: &'a Path,
    /// `{topic, partition, end}`: every partition's end, by Kafka.
    pub ends: &'a Path,
}

/// Lets both look at a store. Says loudly when there is no Python for it, and fails where nothing may be skipped.
pub async fn check(sandbox: &Sandbox) -> Result<()> {
    let Some(python) = python()? else { return Ok(()) };
    audit(&python, sandbox, &sandbox.store(), None).await?;
    let (store, config) = (sandbox.store().display().to_string(), show(sandbox, "driftline.toml"));
    ask(&python, "compare_sklearn.py", &[&store, "--all", "--quiet", "--config", &config]).await
}

/// Lets DuckDB recompute the accounts alone. Skips as [`check`] does.
pub async fn audited(sandbox: &Sandbox) -> Result<()> {
    match python()? {
        Some(python) => audit(&python, sandbox, &sandbox.store(), None).await,
        None => Ok(()),
    }
}

/// Lets DuckDB recompute the accounts from what the producers were told and where the brokers' partitions end, never from
/// Driftline's own counters. Skips as [`check`] does.
pub async fn accounts(sandbox: &Sandbox, known: Known<'_>) -> Result<()> {
    match python()? {
        Some(python) => audit(&python, sandbox, &sandbox.store(), Some(known)).await,
        None => Ok(()),
    }
}

/// The interpreter that has the engines and the mail server; `None` after a loud word, or an error where nothing may be skipped.
pub fn python() -> Result<Option<String>> {
    let python = std::env::var("DRIFTLINE_TEST_PYTHON").ok().filter(|python| !python.is_empty());
    if python.is_none() {
        let reason = "DuckDB, scikit-learn and a mail server are not asked: set DRIFTLINE_TEST_PYTHON to what scripts/python.sh prints";
        ensure!(std::env::var("DRIFTLINE_REQUIRE_ALL").as_deref() != Ok("1"), reason);
        eprintln!("SKIPPED: {reason}");
    }
    Ok(python)
}

fn show(sandbox: &Sandbox, name: &str) -> String {
    sandbox.path(name).display().to_string()
}

async fn audit(python: &str, sandbox: &Sandbox, store: &Path, known: Option<Known<'_>>) -> Result<()> {
    let (store, config, audit) =
        (store.display().to_string(), show(sandbox, "driftline.toml"), show(sandbox, "audit.json"));
    std::fs::write(&audit, sandbox.succeed(&["audit", "--format", "json"]).await?).context("write the audit")?;
    let mut arguments = vec!["--store", &store, "--audit", &audit, "--config", &config];
    let files = known.map(|known| (known.acknowledged.display().to_string(), known.ends.display().to_string()));
    if let Some((acknowledged, ends)) = &files {
        arguments.extend(["--acked", acknowledged, "--ends", ends]);
    }
    ask(python, "audit_duckdb.py", &arguments).await
}

async fn ask(python: &str, script: &str, arguments: &[&str]) -> Result<()> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts").join(script);
    let output =
        Command::new(python).arg(path).args(arguments).output().await.with_context(|| format!("run {script}"))?;
    let (said, failed) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    ensure!(output.status.success(), "{script}: {}\n{}\n{}", output.status, tail(&said), tail(&failed));
    eprintln!("{script}: {}", said.lines().last().unwrap_or_default());
    Ok(())
}
