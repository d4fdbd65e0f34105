//! One test's own configuration and store, and the real `driftline` run upon them as a process.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde::de::DeserializeOwned;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};

use crate::awake::{Awake, within};
use crate::kafka::Topics;

/// Longer than any command here takes on a busy machine; a command that hangs must not hang the suite.
const COMMAND_MAX: Duration = Duration::from_secs(300);
/// A consumer's session, in milliseconds: the shortest that a broker with default settings grants.
const SESSION_TIMEOUT_MS: u32 = 6_000;

/// Stands in the configuration before a test's own settings.
const SETTINGS: &str = "# settings";

/// The folder of a sandbox's local store.
const STORE: &str = "store";

/// A folder with a configuration and a store.
pub struct Sandbox {
    dir: TempDir,
    /// Where the store's objects lie as files.
    store: PathBuf,
    /// The binary that commands run.
    binary: PathBuf,
}

/// What a command that has ended said.
#[derive(Debug)]
pub struct Said {
    /// Exit code; `None` if a signal ended it.
    pub code: Option<i32>,
    /// What it printed.
    pub stdout: String,
    /// What it logged.
    pub stderr: String,
}

/// A command that runs.
#[derive(Debug)]
pub struct Process {
    child: Child,
    stderr: PathBuf,
    /// Bytes of its log when it was started: earlier lives write the same one.
    logged_before: u64,
}

/// The binary beside the running program: target/<profile>/driftline for target/<profile>/deps/it-… and target/<profile>/chaos.
/// `DRIFTLINE_TEST_BINARY` names another.
///
/// # Panics
/// If it has not been built.
pub fn binary() -> PathBuf {
    if let Some(named) = std::env::var_os("DRIFTLINE_TEST_BINARY").filter(|named| !named.is_empty()) {
        return named.into();
    }
    let own = std::env::current_exe().expect("a running program has a path");
    let folder = own.parent().expect("a program lies in a folder");
    let is_deps = folder.file_name().is_some_and(|name| name == "deps");
    let profile = if is_deps { folder.parent().expect("tests lie in target/<profile>/deps") } else { folder };
    let binary = profile.join("driftline");
    assert!(binary.exists(), "{} is missing: run `cargo build` first (scripts/test.sh does)", binary.display());
    binary
}

impl Sandbox {
    /// A configuration of short delays, so that what takes minutes in production takes a test's patience. `settings` come after
    /// it: `[defaults]`, `[[models]]`; `DRIFTLINE__…` variables override the rest.
    pub fn new(brokers: &str, topics: &Topics, settings: &str) -> Result<Self> {
        let dir = tempfile::tempdir().context("make a folder")?;
        let store = format!("url = {:?}", dir.path().join(STORE).display().to_string());
        Self::write(dir, brokers, topics, &store, settings)
    }

    /// As [`Sandbox::with_store`], for a store whose objects lie as files in `folder`.
    pub fn with_files(brokers: &str, topics: &Topics, store: &str, folder: PathBuf, settings: &str) -> Result<Self> {
        let sandbox = Self::with_store(brokers, topics, store, settings)?;
        Ok(Sandbox { store: folder, ..sandbox })
    }

    fn at(dir: TempDir) -> Self {
        let store = dir.path().join(STORE);
        Sandbox { dir, store, binary: binary() }
    }

    /// The same with another build's binary.
    #[must_use]
    pub fn with_binary(mut self, binary: PathBuf) -> Self {
        self.binary = binary;
        self
    }

    /// As [`Sandbox::new`], but with the lines of its `[store]` section; the folder for a local store stays empty.
    pub fn with_store(brokers: &str, topics: &Topics, store: &str, settings: &str) -> Result<Self> {
        Self::write(tempfile::tempdir().context("make a folder")?, brokers, topics, store, settings)
    }

    fn write(dir: TempDir, brokers: &str, topics: &Topics, store: &str, settings: &str) -> Result<Self> {
        let sandbox = Self::at(dir);
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
    pub fn reconfigure(&self, settings: &str) -> Result<()> {
        let text = std::fs::read_to_string(self.config()).context("read the configuration")?;
        let (head, _) = text.split_once(SETTINGS).context("the configuration has no settings to replace")?;
        std::fs::write(self.config(), format!("{head}{SETTINGS}\n{settings}")).context("write the configuration")
    }

    /// A folder with nothing but the given configuration.
    pub fn with_config(text: &str) -> Result<Self> {
        let sandbox = Self::at(tempfile::tempdir().context("make a folder")?);
        std::fs::write(sandbox.config(), text).context("write the configuration")?;
        Ok(sandbox)
    }

    /// A file or folder of the sandbox.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Leaves everything on disk, for whoever wants to see why; returns where.
    pub fn keep(&mut self) -> PathBuf {
        self.dir.disable_cleanup(true);
        self.dir.path().to_owned()
    }

    /// The folder in which the store's objects lie as files.
    pub fn store(&self) -> PathBuf {
        self.store.clone()
    }

    /// Changes the configuration's text, for commands that start from now on.
    pub fn edit(&self, change: impl FnOnce(String) -> String) -> Result<()> {
        let text = std::fs::read_to_string(self.config()).context("read the configuration")?;
        std::fs::write(self.config(), change(text)).context("write the configuration")
    }

    fn config(&self) -> PathBuf {
        self.path("driftline.toml")
    }

    fn command(&self, binary: &Path, arguments: &[&str]) -> Command {
        let mut command = Command::new(binary);
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
    pub async fn run(&self, arguments: &[&str]) -> Result<Said> {
        self.run_with(arguments, &[]).await
    }

    /// Runs a command to its end, under environment variables.
    pub async fn run_with(&self, arguments: &[&str], variables: &[(&str, &str)]) -> Result<Said> {
        let output = self.command(&self.binary, arguments).envs(variables.iter().copied()).output();
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
    pub async fn succeed(&self, arguments: &[&str]) -> Result<String> {
        let said = self.run(arguments).await?;
        ensure!(said.code == Some(0), "driftline {arguments:?} ended with {:?}:\n{}", said.code, tail(&said.stderr));
        Ok(said.stdout)
    }

    /// Reads all events, judges every window, and ends.
    pub async fn catch_up(&self) -> Result<()> {
        self.succeed(&["run", "--roles", "collector,aggregator,evaluator", "--until-caught-up"]).await.map(drop)
    }

    /// Rows of a query.
    pub async fn sql<T: DeserializeOwned>(&self, query: &str) -> Result<Vec<T>> {
        let answer = self.succeed(&["sql", "--format", "json", "-c", query]).await?;
        serde_json::from_str(&answer).with_context(|| format!("read the answer to {query}"))
    }

    /// Starts a command; its log goes to a file of that name.
    pub fn spawn(&self, name: &str, arguments: &[&str]) -> Result<Process> {
        self.spawn_with(name, arguments, &[])
    }

    /// Starts a command under environment variables.
    pub fn spawn_with(&self, name: &str, arguments: &[&str], variables: &[(&str, &str)]) -> Result<Process> {
        self.spawn_build(&self.binary, name, arguments, variables)
    }

    /// Starts a command of some build's binary.
    pub fn spawn_build(
        &self,
        binary: &Path,
        name: &str,
        arguments: &[&str],
        variables: &[(&str, &str)],
    ) -> Result<Process> {
        let stderr = self.path(&format!("{name}.log"));
        // Several lives of one process write one log.
        let log = File::options().create(true).append(true).open(&stderr).context("create the log")?;
        let logged_before = log.metadata().context("look at the log")?.len();
        let mut command = self.command(binary, arguments);
        let child = command.envs(variables.iter().copied()).stdout(Stdio::null()).stderr(log).spawn();
        let child = child.context("start driftline")?;
        Ok(Process { child, stderr, logged_before })
    }
}

impl Process {
    /// SIGKILL, and waits until it is gone.
    pub async fn kill(mut self) -> Result<()> {
        self.child.kill().await.context("kill driftline")
    }

    /// SIGTERM; it must drain and end with 0 within 30 seconds. Returns how long it took.
    pub async fn terminate(mut self) -> Result<Duration> {
        let started = Instant::now();
        self.signal("TERM").await?;
        let status = self.wait(Duration::from_secs(30)).await?;
        ensure!(status.code() == Some(0), "SIGTERM ended driftline with {status}:\n{}", self.log());
        Ok(started.elapsed())
    }

    /// Sends a signal by its name: `STOP` freezes, `CONT` lets it go on.
    pub async fn signal(&self, name: &str) -> Result<()> {
        let id = self.id().context("it had ended already")?.to_string();
        let sent = Command::new("kill").args([&format!("-{name}"), &id]).status().await.context("send a signal")?;
        ensure!(sent.success(), "kill -{name} {id}: {sent}");
        Ok(())
    }

    /// The process id, while it runs.
    pub fn id(&self) -> Option<u32> {
        self.child.id()
    }

    /// Waits for the end.
    pub async fn wait(&mut self, at_most: Duration) -> Result<ExitStatus> {
        match within(at_most, self.child.wait()).await {
            Some(status) => status.context("wait for driftline"),
            None => bail!("driftline did not end within {at_most:?}:\n{}", self.log()),
        }
    }

    /// Whether it has got as far as to write to its log. Before that it may not even have set out to look at signals.
    pub fn has_begun(&self) -> bool {
        std::fs::metadata(&self.stderr).is_ok_and(|log| log.len() > self.logged_before)
    }

    /// Whether it has ended.
    pub fn has_ended(&mut self) -> Result<bool> {
        Ok(self.child.try_wait().context("look at driftline")?.is_some())
    }

    /// The end of its log.
    pub fn log(&self) -> String {
        tail(&std::fs::read_to_string(&self.stderr).unwrap_or_default())
    }

    /// The address at which it serves, which it logs.
    pub async fn address(&self) -> Result<String> {
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
pub async fn get(address: &str, path: &str) -> Result<(u16, String)> {
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
pub fn tail(log: &str) -> String {
    let lines: Vec<&str> = log.lines().collect();
    lines[lines.len().saturating_sub(40)..].join("\n")
}
