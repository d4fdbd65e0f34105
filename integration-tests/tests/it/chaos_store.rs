//! A store in trouble, as the whole pipeline meets it: slow, throttled, cut off before and after its effect, too late, full. It is
//! asked again with patience, Kafka keeps what waits, the figures stay true, and telemetry tells.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use driftline_integration_tests::chaos::proxy::{Proxy, Trouble};
use driftline_integration_tests::generator::{Generated, Options, generate};
use driftline_integration_tests::kafka::{Broker, Topics};
use driftline_integration_tests::own::OwnS3;
use tokio::process::Command;

use crate::crash::{produce_slowly, series};
use crate::judge;
use crate::sandbox::{Process, Sandbox, get};

/// A request without an answer has failed after so long.
const TIMEOUT_SECS: u64 = 2;
const PIPELINE: [&str; 5] = ["run", "--roles", "collector,aggregator,evaluator,serve", "--listen", "127.0.0.1:0"];

struct Whole {
    options: Options,
    run: Generated,
    topics: Topics,
    sandbox: Sandbox,
}

impl Whole {
    async fn on_s3(broker: &Broker, s3: &OwnS3, seed: u64, predictions: usize) -> Result<Self> {
        let prefix = format!("trouble-{}", uuid::Uuid::new_v4().simple());
        let (lines, folder) = (s3.settings(&prefix, TIMEOUT_SECS), s3.folder(&prefix));
        let options = Options { seed, predictions, malformed_of_each: 0, ..Options::default() };
        let run = generate(&options);
        let topics = Topics::unique();
        broker.create_topics(&topics, &run).await?;
        let sandbox = Sandbox::with_files(broker.brokers(), &topics, &lines, folder, &options.models_toml())?;
        Ok(Whole { options, run, topics, sandbox })
    }

    async fn judge(&self) -> Result<()> {
        judge::check(&self.sandbox, &self.topics, &self.options, &self.run).await
    }
}

/// T4, A1: of each kind of trouble alone, more than a store in its worst hour has.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "ten pipelines, one after the other: more than four minutes"]
async fn t4_each_kind_of_trouble_is_survived_alone() -> Result<()> {
    const TEST: &str = "t4_each_kind_of_trouble_is_survived_alone";
    let (Some(broker), Some(s3)) = (Broker::real(TEST)?, OwnS3::start_for(TEST).await?) else { return Ok(()) };
    for (seed, trouble) in Trouble::ALL.into_iter().enumerate() {
        let whole = Whole::on_s3(&broker, &s3, seed as u64, 120).await?;
        broker.produce(&whole.topics, &whole.run.records).await?;
        let proxy = Proxy::new(&s3.endpoint, seed as u64);
        let door = proxy.open().await?;
        // Each stall costs a time-out.
        let is_quick = Trouble::QUICK.contains(&trouble);
        proxy.trouble(if is_quick { 0.2 } else { 0.03 }, &[trouble]);
        let arguments = ["run", "--roles", "collector,aggregator,evaluator", "--until-caught-up"];
        let began = Instant::now();
        let said = whole
            .sandbox
            .run_with(&arguments, &[("DRIFTLINE__STORE__OPTIONS__ENDPOINT_URL", door.endpoint.as_str())])
            .await?;
        ensure!(said.code == Some(0), "{trouble:?}: it ended with {:?}:\n{}", said.code, said.stderr);
        let counts = proxy.counts();
        let counts = counts.get(&trouble).with_context(|| format!("{trouble:?} never came"))?;
        ensure!(counts.writes > 0, "{trouble:?} befell no write");
        whole.judge().await.with_context(|| format!("under {trouble:?}"))?;
        eprintln!("{trouble:?}: {} reads and {} writes, {:?}", counts.reads, counts.writes, began.elapsed());
    }
    Ok(())
}

/// B1: while the store refuses everything, nothing is lost, memory is bounded, the process lives, and `/metrics` and `/readyz` say so.
#[tokio::test(flavor = "multi_thread")]
async fn b1_a_store_that_refuses_everything_shows_in_telemetry_and_is_waited_for() -> Result<()> {
    const TEST: &str = "b1_a_store_that_refuses_everything_shows_in_telemetry_and_is_waited_for";
    let (Some(broker), Some(s3)) = (Broker::real(TEST)?, OwnS3::start_for(TEST).await?) else { return Ok(()) };
    let whole = Whole::on_s3(&broker, &s3, 31, 500).await?;
    let proxy = Proxy::new(&s3.endpoint, 31);
    let door = proxy.open().await?;
    let variables = [("DRIFTLINE__STORE__OPTIONS__ENDPOINT_URL", door.endpoint.as_str())];
    let mut process = whole.sandbox.spawn_with("pipeline", &PIPELINE, &variables)?;
    let address = process.address().await?;
    until_ready(&process, &address, 200).await?;
    let producing = produce_slowly(&broker, &whole.topics, &whole.run, Duration::from_secs(6));
    proxy.trouble(1.0, &[Trouble::Busy, Trouble::Unavailable]);
    until_ready(&process, &address, 503).await?;
    producing.await.context("the producer panicked")??;
    let errors = errors(&address).await?;
    ensure!(errors > 0.0, "driftline_store_requests counts no error");
    ensure!(!process.has_ended()?, "it ended:\n{}", process.log());
    proxy.calm();
    until_ready(&process, &address, 200).await?;
    ensure!(series(&address, "driftline_store_requests").await? > errors, "nothing but errors");
    process.terminate().await?;
    whole.sandbox.catch_up().await?;
    whole.judge().await
}

/// Requests that ended in an error.
async fn errors(address: &str) -> Result<f64> {
    let (_, text) = get(address, "/metrics").await?;
    let is_error =
        |line: &&str| line.starts_with("driftline_store_requests_total{") && line.contains("outcome=\"error\"");
    Ok(text.lines().filter(is_error).filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum())
}

async fn until_ready(process: &Process, address: &str, status: u16) -> Result<()> {
    let waiting = Instant::now();
    while get(address, "/readyz").await.map_or(0, |(code, _)| code) != status {
        ensure!(waiting.elapsed() < Duration::from_secs(90), "/readyz does not say {status}:\n{}", process.log());
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    Ok(())
}

/// A small disk of the test's own.
struct SmallDisk {
    folder: tempfile::TempDir,
}

impl SmallDisk {
    /// `None` where the test may not mount one.
    async fn mount(kilobytes: u32) -> Result<Option<Self>> {
        let folder = tempfile::tempdir().context("make a folder")?;
        let size = format!("size={kilobytes}k");
        let mut mount = Command::new("mount");
        let mounted = mount.args(["-t", "tmpfs", "-o", &size, "driftline-test"]).arg(folder.path()).output().await;
        Ok(mounted.is_ok_and(|output| output.status.success()).then_some(SmallDisk { folder }))
    }

    async fn grow(&self, kilobytes: u32) -> Result<()> {
        let size = format!("remount,size={kilobytes}k");
        let grown =
            Command::new("mount").args(["-o", &size]).arg(self.folder.path()).status().await.context("remount")?;
        ensure!(grown.success(), "remount: {grown}");
        Ok(())
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let unmounted = std::process::Command::new("umount").arg("--lazy").arg(self.folder.path()).status();
        if !unmounted.is_ok_and(|status| status.success()) {
            eprintln!("{} could not be unmounted", self.folder.path().display());
        }
    }
}

/// B1, T4: a disk that fills up in mid-load is waited for; when somebody has made room, the same process goes on.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "four minutes; needs root for a small file system"]
async fn b1_a_full_disk_is_waited_for_and_nothing_is_lost() -> Result<()> {
    const TEST: &str = "b1_a_full_disk_is_waited_for_and_nothing_is_lost";
    let Some(broker) = Broker::real(TEST)? else { return Ok(()) };
    let Some(disk) = SmallDisk::mount(600).await? else {
        eprintln!("SKIPPED: {TEST} mounts a small disk, which takes the rights of root");
        return Ok(());
    };
    let options = Options { seed: 41, predictions: 1_200, malformed_of_each: 0, ..Options::default() };
    let run = generate(&options);
    let topics = Topics::unique();
    broker.create_topics(&topics, &run).await?;
    let lines = format!("url = {:?}", disk.path().display().to_string());
    let models = options.models_toml();
    let sandbox = Sandbox::with_files(broker.brokers(), &topics, &lines, disk.path().to_owned(), &models)?;
    let mut process = sandbox.spawn("pipeline", &PIPELINE)?;
    let address = process.address().await?;
    broker.produce(&topics, &run.records).await?;
    let waiting = Instant::now();
    let log = || std::fs::read_to_string(sandbox.path("pipeline.log")).unwrap_or_default();
    while !log().contains("the store's disk is full") {
        ensure!(waiting.elapsed() < Duration::from_secs(90), "the disk never fills up:\n{}", process.log());
        ensure!(!process.has_ended()?, "it ended:\n{}", process.log());
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    tokio::time::sleep(Duration::from_secs(5)).await;
    ensure!(!process.has_ended()?, "it ended on a full disk:\n{}", process.log());
    ensure!(errors(&address).await? > 0.0, "driftline_store_requests counts no error");
    disk.grow(200_000).await?;
    process.terminate().await?;
    sandbox.catch_up().await?;
    judge::check(&sandbox, &topics, &options, &run).await
}
