//! One test's own configuration and store, and the real `driftline` run upon them as a process.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use driftline_integration_tests::kafka::Topics;
use serde::de::DeserializeOwned;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};

use crate::awake::{Awake, within};

/// Longer than any command here takes on a busy machine; a command that hangs must not hang the suite.
const COMMAND_MAX: Duration = Duration::from_secs(300);
/// A consumer's session, in milliseconds: the shortest that a broker with default settings grants.
const SESSION_TIMEOUT_MS: u32 = 6_000;

/// Stands in the configuration before a test's own settings.
const SETTINGS: &str = "# settings";

/// The folder of a sandbox's local store.
const STORE: &str = "store";

/// A folder with a configuration and a store.
pub(crate) struct Sandbox {
    dir: TempDir,
}

/// What a command that has ended said.
#[derive(Debug)]
pub(crate) struct Said {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// A command that runs.
pub(crate) struct Process {
    child: Child,
    stderr: PathBuf,
}

/// The binary beside the test's own executable: target/<profile>/deps/it-… → target/<profile>/driftline.
pub(crate) fn binary() -> PathBuf {
    let own = std::env::current_exe().expect("a running program has a path");
    let profile = own.parent().and_then(Path::parent).expect("tests lie in target/<profile>/deps");
    let binary = profile.join("driftline");
    assert!(binary.exists(), "{} is missing: run `cargo build` first (scripts/test.sh does)", binary.display());
    binary
}

impl Sandbox {
    /// A configuration of short delays, so that what takes minutes in production takes a test's patience. `settings` come after
    /// it: `[defaults]`, `[[models]]`; `DRIFTLINE__…` variables override the rest.
    pub(crate) fn new(brokers: &str, topics: &Topics, settings: &str) -> Result<Self> {
        let dir = tempfile::tempdir().context("make a folder")?;
        let store = format!("url = {:?}", dir.path().join(STORE).display().to_string());
        Self::write(dir, brokers, topics, &store, settings)
    }

    /// As [`Sandbox::new`], but with the lines of its `[store]` section; the folder for a local store stays empty.
    pub(crate) fn with_store(brokers: &str, topics: &Topics, store: &str, settings: &str) -> Result<Self> {
        Self::write(tempfile::tempdir().context("make a folder")?, brokers, topics, store, settings)
    }

    fn write(dir: TempDir, brokers: &str, topics: &Topics, store: &str, settings: &str) -> Result<Self> {
        let sandbox = Sandbox { dir };
        let text = format!(
            r#"poll_interval = "50ms"
idle_timeout = "1s"
[kafka]
brokers = "{brokers}"
predictions_topics = ["{}"]
labels_topics = ["{}"]
group = "{}"
[kafka.properties]
"broker.address.family" = "v4"
"session.timeout.ms" = {SESSION_TIMEOUT_MS}
"heartbeat.interval.ms" = 500
[store]
{store}
[flush]
interval = "200ms"
[serve]
listen = "127.0.0.1:0"
[revise]
min_delay = "100ms"
max_delay = "200ms"
max_amplification = 1000000
{SETTINGS}
{settings}"#,
            topics.predictions,
            topics.labels,
            topics.predictions.replace("predictions", "group"),
        );
        std::fs::write(sandbox.config(), text).context("write the configuration")?;
        Ok(sandbox)
    }

    /// Other settings in place of those given first, for processes that start from now on.
    pub(crate) fn reconfigure(&self, settings: &str) -> Result<()> {
        let text = std::fs::read_to_string(self.config()).context("read the configuration")?;
        let (head, _) = text.split_once(SETTINGS).context("the configuration has no settings to replace")?;
        std::fs::write(self.config(), format!("{head}{SETTINGS}\n{settings}")).context("write the configuration")
    }

    /// A folder with nothing but the given configuration.
    pub(crate) fn with_config(text: &str) -> Result<Self> {
        let sandbox = Sandbox { dir: tempfile::tempdir().context("make a folder")? };
        std::fs::write(sandbox.config(), text).context("write the configuration")?;
        Ok(sandbox)
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn store(&self) -> PathBuf {
        self.path(STORE)
    }

    fn config(&self) -> PathBuf {
        self.path("driftline.toml")
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(binary());
        command
            .arg("--config")
            .arg(self.config())
            .args(arguments)
            .current_dir(self.dir.path())
            .stdin(Stdio::null())
            .kill_on_drop(true);
        command
    }

    /// Runs a command to its end.
    pub(crate) async fn run(&self, arguments: &[&str]) -> Result<Said> {
        self.run_with(arguments, &[]).await
    }

    /// Runs a command to its end, under environment variables.
    pub(crate) async fn run_with(&self, arguments: &[&str], variables: &[(&str, &str)]) -> Result<Said> {
        let output = self.command(arguments).envs(variables.iter().copied()).output();
        let output = within(COMMAND_MAX, output)
            .await
            .with_context(|| format!("driftline {arguments:?} did not end within {COMMAND_MAX:?}"))?
            .context("run driftline")?;
        Ok(Said {
            code: output.status.code(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        })
    }

    /// Runs a command that must succeed; returns its stdout.
    pub(crate) async fn succeed(&self, arguments: &[&str]) -> Result<String> {
        let said = self.run(arguments).await?;
        ensure!(said.code == Some(0), "driftline {arguments:?} ended with {:?}:\n{}", said.code, tail(&said.stderr));
        Ok(said.stdout)
    }

    /// Reads all events, judges every window, and ends.
    pub(crate) async fn catch_up(&self) -> Result<()> {
        self.succeed(&["run", "--roles", "collector,aggregator,evaluator", "--until-caught-up"]).await.map(drop)
    }

    /// Rows of a query.
    pub(crate) async fn sql<T: DeserializeOwned>(&self, query: &str) -> Result<Vec<T>> {
        let answer = self.succeed(&["sql", "--format", "json", "-c", query]).await?;
        serde_json::from_str(&answer).with_context(|| format!("read the answer to {query}"))
    }

    /// Starts a command; its log goes to a file of that name.
    pub(crate) fn spawn(&self, name: &str, arguments: &[&str]) -> Result<Process> {
        self.spawn_with(name, arguments, &[])
    }

    /// Starts a command under environment variables.
    pub(crate) fn spawn_with(&self, name: &str, arguments: &[&str], variables: &[(&str, &str)]) -> Result<Process> {
        let stderr = self.path(&format!("{name}.log"));
        // Several lives of one process write one log.
        let log = File::options().create(true).append(true).open(&stderr).context("create the log")?;
        let mut command = self.command(arguments);
        let child = command.envs(variables.iter().copied()).stdout(Stdio::null()).stderr(log).spawn();
        let child = child.context("start driftline")?;
        Ok(Process { child, stderr })
    }
}

impl Process {
    /// SIGKILL, and waits until it is gone.
    pub(crate) async fn kill(mut self) -> Result<()> {
        self.child.kill().await.context("kill driftline")
    }

    /// SIGTERM; it must drain and end with 0 within 30 seconds. Returns how long it took.
    pub(crate) async fn terminate(mut self) -> Result<Duration> {
        let started = Instant::now();
        self.signal("TERM").await?;
        let status = self.wait(Duration::from_secs(30)).await?;
        ensure!(status.code() == Some(0), "SIGTERM ended driftline with {status}:\n{}", self.log());
        Ok(started.elapsed())
    }

    /// Sends it a signal. After `STOP` it stands still until `CONT`.
    pub(crate) async fn signal(&self, name: &str) -> Result<()> {
        let id = self.child.id().context("it had ended already")?.to_string();
        let sent = Command::new("kill").args([&format!("-{name}"), &id]).status().await.context("send a signal")?;
        ensure!(sent.success(), "kill -{name} {id}: {sent}");
        Ok(())
    }

    /// Waits for the end.
    pub(crate) async fn wait(&mut self, at_most: Duration) -> Result<ExitStatus> {
        match within(at_most, self.child.wait()).await {
            Some(status) => status.context("wait for driftline"),
            None => bail!("driftline did not end within {at_most:?}:\n{}", self.log()),
        }
    }

    /// Whether it has ended.
    pub(crate) fn has_ended(&mut self) -> Result<bool> {
        Ok(self.child.try_wait().context("look at driftline")?.is_some())
    }

    /// The end of its log.
    pub(crate) fn log(&self) -> String {
        tail(&std::fs::read_to_string(&self.stderr).unwrap_or_default())
    }

    /// The address at which it serves, which it logs.
    pub(crate) async fn address(&self) -> Result<String> {
        let find = || {
            let log = std::fs::read_to_string(&self.stderr).ok()?;
            let (_, rest) = log.rsplit_once("serving http://")?;
            rest.split_once("/metrics").map(|(address, _)| address.to_owned())
        };
        let waited = Awake::start();
        loop {
            if let Some(address) = find() {
                return Ok(address);
            }
            ensure!(waited.elapsed() < Duration::from_secs(30), "it does not serve:\n{}", self.log());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

/// `GET path`: the status and the body.
pub(crate) async fn get(address: &str, path: &str) -> Result<(u16, String)> {
    let exchange = async {
        let mut stream = TcpStream::connect(address).await.context("connect")?;
        let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.context("ask")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.context("read the answer")?;
        let status = answer.split(' ').nth(1).and_then(|code| code.parse().ok()).context("no HTTP status")?;
        let body = answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).unwrap_or_default();
        Ok((status, body))
    };
    within(Duration::from_secs(20), exchange).await.with_context(|| format!("GET {path} takes too long"))?
}

/// The last lines of a log: enough to see why, not so much that nobody reads it.
pub(crate) fn tail(log: &str) -> String {
    let lines: Vec<&str> = log.lines().collect();
    lines[lines.len().saturating_sub(40)..].join("\n")
}
