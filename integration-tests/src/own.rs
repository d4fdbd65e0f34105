//! Servers of a run's own, which it may kill: a Kafka broker and an S3 server, by `scripts/kafka.sh` and `scripts/s3.sh`.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use tokio::process::Command;

use crate::kafka::{Broker, can_start};

/// Names the port of a broker that is there for such runs: it is used, and left with its data.
const KAFKA_PORT: &str = "DRIFTLINE_CHAOS_KAFKA_PORT";
/// The same for an S3 server.
const S3_PORT: &str = "DRIFTLINE_CHAOS_S3_PORT";

/// One of the two scripts, and the server that it started.
#[derive(Debug)]
struct Server {
    script: &'static str,
    variable: &'static str,
    port: String,
    /// Whether it ends with this value.
    is_ours: bool,
}

/// A Kafka broker that may be killed.
#[derive(Debug)]
pub struct OwnKafka {
    server: Server,
    /// Where it answers.
    pub broker: Broker,
}

/// An S3 server that may be killed.
#[derive(Debug)]
pub struct OwnS3 {
    server: Server,
    /// `http://127.0.0.1:PORT`.
    pub endpoint: String,
    /// What the server prints for a client's environment.
    pub variables: Vec<(String, String)>,
    /// The folder in which the bucket's objects lie as files.
    pub bucket: PathBuf,
}

impl Server {
    async fn start(script: &'static str, variable: &'static str, given: &str) -> Result<(Self, Vec<(String, String)>)> {
        let given = std::env::var(given).ok().filter(|port| !port.is_empty());
        let (port, is_ours) = given.map_or(("free".to_owned(), true), |port| (port, false));
        let mut server = Server { script, variable, port, is_ours };
        let said = server.command("start").await?;
        let lines: Vec<(String, String)> = said
            .lines()
            .filter_map(|line| line.split_once('='))
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect();
        let (_, first) = lines.first().with_context(|| format!("{script} start said nothing"))?;
        let (_, port) = first.rsplit_once(':').context("an address has a port")?;
        port.clone_into(&mut server.port);
        Ok((server, lines))
    }

    async fn command(&self, command: &str) -> Result<String> {
        let mut asked = Command::new("bash");
        asked.arg(path(self.script)).arg(command).env(self.variable, &self.port);
        let output = asked.output().await.with_context(|| format!("run {}", self.script))?;
        let failed = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{} {command}: {failed}", self.script);
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if !self.is_ours || self.port == "free" {
            return;
        }
        let mut wipe = std::process::Command::new("bash");
        let wiped = wipe.arg(path(self.script)).arg("wipe").env(self.variable, &self.port).output();
        if let Err(error) = wiped {
            eprintln!("{} could not wipe the server at {}: {error}", self.script, self.port);
        }
    }
}

fn path(script: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts").join(script)
}

impl OwnKafka {
    /// Starts one at a free port, or uses the one at `DRIFTLINE_CHAOS_KAFKA_PORT`.
    pub async fn start() -> Result<Self> {
        let (server, lines) = Server::start("kafka.sh", "DRIFTLINE_KAFKA_PORT", KAFKA_PORT).await?;
        let brokers = lines.iter().find(|(name, _)| name == "brokers").context("kafka.sh names no brokers")?;
        Ok(OwnKafka { broker: Broker::at(&brokers.1), server })
    }

    /// As [`OwnKafka::start`].
    ///
    /// # Returns
    /// `None` where there is neither such a broker nor Java with Maven, after saying so loudly.
    /// # Errors
    /// The broker did not start; or it is missing and `DRIFTLINE_REQUIRE_ALL=1` forbids the skip.
    pub async fn start_for(test: &str) -> Result<Option<Self>> {
        if std::env::var(KAFKA_PORT).is_ok_and(|port| !port.is_empty()) || can_start() {
            return Self::start().await.map(Some);
        }
        let reason = format!("{test} needs a Kafka of its own: install Java 17 and Maven");
        ensure!(std::env::var("DRIFTLINE_REQUIRE_ALL").as_deref() != Ok("1"), reason);
        eprintln!("SKIPPED: {reason}");
        Ok(None)
    }

    /// SIGKILL.
    pub async fn kill(&self) -> Result<()> {
        self.server.command("kill").await.map(drop)
    }

    /// A clean shutdown.
    pub async fn stop(&self) -> Result<()> {
        self.server.command("stop").await.map(drop)
    }

    /// Starts it again, with its data; harmless if it runs. A machine that does other things is given three of the script's minutes.
    pub async fn restart(&self) -> Result<()> {
        for _ in 0..2 {
            if self.server.command("start").await.is_ok() {
                return Ok(());
            }
        }
        self.server.command("start").await.map(drop)
    }
}

impl OwnS3 {
    /// Starts one at a free port, or uses the one at `DRIFTLINE_CHAOS_S3_PORT`.
    pub async fn start() -> Result<Self> {
        let (server, variables) = Server::start("s3.sh", "DRIFTLINE_S3_PORT", S3_PORT).await?;
        let value = |wanted: &str| {
            let found = variables.iter().find(|(name, _)| name == wanted);
            found.map(|(_, value)| value.clone()).with_context(|| format!("s3.sh names no {wanted}"))
        };
        let endpoint = value("AWS_ENDPOINT_URL")?;
        let home = PathBuf::from(value("DRIFTLINE_TEST_S3_CA")?);
        let home = home.parent().and_then(Path::parent).context("the certificate lies in the server's folder")?;
        let url = value("DRIFTLINE_TEST_S3_URL")?;
        let bucket = url.trim_start_matches("s3://").split('/').next().unwrap_or_default().to_owned();
        Ok(OwnS3 { endpoint, bucket: home.join("data").join(bucket), variables, server })
    }

    /// As [`OwnS3::start`], where `DRIFTLINE_TEST_S3_URL` tells that S3 servers can be had.
    ///
    /// # Returns
    /// `None` where there is no such variable, after saying so loudly.
    /// # Errors
    /// The server did not start; or the variable is missing and `DRIFTLINE_REQUIRE_ALL=1` forbids the skip.
    pub async fn start_for(test: &str) -> Result<Option<Self>> {
        let is_given = |variable: &str| std::env::var(variable).is_ok_and(|value| !value.is_empty());
        if is_given(S3_PORT) || is_given("DRIFTLINE_TEST_S3_URL") {
            return Self::start().await.map(Some);
        }
        let reason = format!("{test} needs S3: export what scripts/s3.sh start prints");
        ensure!(std::env::var("DRIFTLINE_REQUIRE_ALL").as_deref() != Ok("1"), reason);
        eprintln!("SKIPPED: {reason}");
        Ok(None)
    }

    /// The lines of `[store]` for a prefix of its bucket. Requests fail after so many seconds without an answer.
    pub fn settings(&self, prefix: &str, timeout_secs: u64) -> String {
        let bucket = self.bucket.file_name().unwrap_or_default().to_string_lossy();
        let value = |wanted: &str| {
            let found = self.variables.iter().find(|(name, _)| name == wanted);
            found.map(|(_, value)| value.clone()).unwrap_or_default()
        };
        format!(
            "url = \"s3://{bucket}/{prefix}\"\n[store.options]\nendpoint_url = {:?}\nallow_http = \"true\"\naws_access_key_id = {:?}\n\
             aws_secret_access_key = {:?}\nregion = {:?}\ntimeout = \"{timeout_secs} seconds\"\n",
            self.endpoint,
            value("AWS_ACCESS_KEY_ID"),
            value("AWS_SECRET_ACCESS_KEY"),
            value("AWS_REGION"),
        )
    }

    /// Where the objects below a prefix lie as files.
    pub fn folder(&self, prefix: &str) -> PathBuf {
        self.bucket.join(prefix)
    }

    /// SIGKILL.
    pub async fn kill(&self) -> Result<()> {
        self.server.command("kill").await.map(drop)
    }

    /// Starts it again, with its objects; harmless if it runs.
    pub async fn restart(&self) -> Result<()> {
        self.server.command("start").await.map(drop)
    }
}
