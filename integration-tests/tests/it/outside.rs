//! The word of engines that share no code with us: DuckDB on the accounts, scikit-learn on the metrics.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use tokio::process::Command;

use crate::sandbox::{Sandbox, tail};

/// Lets both look at a store. Says loudly when there is no Python for it, and fails where nothing may be skipped.
pub(crate) async fn check(sandbox: &Sandbox) -> Result<()> {
    let Some(python) = std::env::var("DRIFTLINE_TEST_PYTHON").ok().filter(|python| !python.is_empty()) else {
        let reason =
            "DuckDB and scikit-learn are not asked: set DRIFTLINE_TEST_PYTHON to what scripts/python.sh prints";
        ensure!(std::env::var("DRIFTLINE_REQUIRE_ALL").as_deref() != Ok("1"), reason);
        eprintln!("SKIPPED: {reason}");
        return Ok(());
    };
    let show = |name: &str| sandbox.path(name).display().to_string();
    let (store, config, audit) = (show("store"), show("driftline.toml"), show("audit.json"));
    std::fs::write(&audit, sandbox.succeed(&["audit", "--format", "json"]).await?).context("write the audit")?;
    ask(&python, "audit_duckdb.py", &["--store", &store, "--audit", &audit, "--config", &config]).await?;
    ask(&python, "compare_sklearn.py", &[&store, "--all", "--quiet", "--config", &config]).await
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
