//! A whole pipeline over a long stream, as a process of its own: does its memory stay flat while windows come and go?
use std::fs::File;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use chrono::DateTime;
use rdkafka::config::ClientConfig;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};

use crate::collect::{PARTITIONS, create, delete, event};

const HOUR: i64 = 3_600_000_000;
/// One event in so many gets a label; without a hint, so that its window has to be found.
const LABELLED: usize = 10;
/// How far the stream is ahead of the pipeline at most: more would pass through in one step, and nobody would see how.
const AHEAD: usize = 500_000;
/// Taken in by a pipeline that nobody watches any more.
const OVER: usize = usize::MAX;
/// Lines of the table.
const LINES: usize = 20;
/// A pipeline that takes nothing in for so long has stopped.
const STALLED: Duration = Duration::from_secs(180);

/// A stream over twice as many hours as windows are open at a time: in the first half windows become more, in the second half an old one
/// goes for each that comes, and memory must not grow any more.
pub(crate) fn run(events: usize, windows: usize, brokers: &str) -> Result<()> {
    let id = uuid::Uuid::new_v4().simple().to_string();
    let topics = [format!("memory-{id}"), format!("memory-labels-{id}")];
    let [predictions, labels] = topics.each_ref().map(String::as_str);
    let runtime = tokio::runtime::Runtime::new().context("start threads")?;
    runtime.block_on(create(brokers, &[predictions, labels]))?;
    let measured = measure(events, windows, brokers, &topics, &id);
    // Gigabytes lie in them.
    let deleted = runtime.block_on(delete(brokers, &[predictions, labels]));
    measured.and(deleted)
}

fn measure(events: usize, windows: usize, brokers: &str, topics: &[String; 2], id: &str) -> Result<()> {
    let binary = std::env::current_exe()?.with_file_name("driftline");
    ensure!(binary.exists(), "{} is missing: cargo build --release first", binary.display());
    let folder = tempfile::tempdir().context("make a folder")?;
    let config = folder.path().join("driftline.toml");
    std::fs::write(&config, configuration(brokers, topics, id, folder.path(), windows))?;
    println!(
        "memory: {events} events over {} windows of an hour, {windows} of them open at a time, one label in {LABELLED} events",
        2 * windows
    );
    let log = folder.path().join("log");
    let child = Command::new(&binary)
        .args(["run", "--config"])
        .arg(&config)
        .env("RUST_LOG", "info")
        .stdout(Stdio::null())
        .stderr(File::create(&log)?)
        .spawn()
        .context("start driftline")?;
    let mut pipeline = Pipeline { child, log };
    let address = pipeline.address()?;
    let stream = Stream::new(events, windows)?;
    let all = events + stream.labels();
    let taken_in = AtomicUsize::new(0);
    std::thread::scope(|scope| -> Result<()> {
        let producing = scope.spawn(|| stream.produce(brokers, topics, &taken_in));
        let watched = watch(&mut pipeline, &address, all, &taken_in);
        // Whatever is not published yet need not be.
        taken_in.store(OVER, Ordering::Relaxed);
        producing.join().map_err(|_| anyhow::anyhow!("the producer panicked"))??;
        watched
    })?;
    pipeline.stop()?;
    let audit =
        Command::new(&binary).args(["audit", "--config"]).arg(&config).output().context("run driftline audit")?;
    let said = [audit.stdout, audit.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat();
    ensure!(audit.status.success(), "driftline audit: {}\n{said}", audit.status);
    println!("  driftline audit: {}", audit.status);
    Ok(())
}

fn configuration(brokers: &str, topics: &[String; 2], group: &str, folder: &Path, windows: usize) -> String {
    let [predictions, labels] = topics;
    let (store, hours) = (folder.join("store").display().to_string(), windows);
    format!(
        "[kafka]\nbrokers = {brokers:?}\npredictions_topics = [{predictions:?}]\nlabels_topics = [{labels:?}]\ngroup = {group:?}\n\
         [store]\nurl = {store:?}\n[serve]\nlisten = \"127.0.0.1:0\"\n\
         [[models]]\nname = \"bench\"\ntask = \"binary\"\npositive_class = \"fraud\"\nwindow = \"1h\"\nsegments = [\"region\"]\n\
         out_of_orderness = \"{hours}h\"\nlabel_horizon = \"{hours}h\"\n"
    )
}

/// What is published.
struct Stream {
    start: DateTime<chrono::FixedOffset>,
    /// Microseconds between two events.
    step: i64,
    events: usize,
    /// How many events later a label comes.
    delay: usize,
}

impl Stream {
    fn new(events: usize, windows: usize) -> Result<Self> {
        let hours = 2 * windows as i64;
        let step = hours * HOUR / events as i64;
        ensure!(step > 0, "{events} events are too many for {hours} hours");
        // Nothing of it lies ahead: such a record would be refused.
        let start = driftline_schemas::clock::now() - chrono::Duration::microseconds(hours * HOUR + HOUR);
        Ok(Self { start: start.fixed_offset(), step, events, delay: events / 4 })
    }

    fn is_labelled(&self, number: usize) -> bool {
        number.is_multiple_of(LABELLED) && number >= self.delay
    }

    fn labels(&self) -> usize {
        (0..self.events).filter(|number| self.is_labelled(*number)).count()
    }

    fn produce(&self, brokers: &str, [predictions, labels]: &[String; 2], taken_in: &AtomicUsize) -> Result<()> {
        let producer: BaseProducer = ClientConfig::new()
            .set("bootstrap.servers", brokers)
            .set("linger.ms", "20")
            .set("queue.buffering.max.messages", "200000")
            .create()?;
        let send = |topic: &str, number: usize, payload: &str| {
            let key = format!("{number:016x}");
            let mut record =
                BaseRecord::to(topic).key(&key).payload(payload).partition((number % PARTITIONS as usize) as i32);
            while let Err((_, back)) = producer.send(record) {
                producer.poll(Duration::from_millis(20));
                record = back;
            }
            producer.poll(Duration::ZERO);
        };
        for number in 0..self.events {
            while number > taken_in.load(Ordering::Relaxed).saturating_add(AHEAD) {
                producer.poll(Duration::from_millis(20));
            }
            if taken_in.load(Ordering::Relaxed) == OVER {
                break;
            }
            let time = self.start + chrono::Duration::microseconds(self.step * number as i64);
            send(predictions, number, &event(time, number));
            if self.is_labelled(number) {
                let of = number - self.delay;
                let label = if number.is_multiple_of(3) { "fraud" } else { "ok" };
                let payload = format!(
                    r#"{{"prediction_id":"{of:016x}","model_name":"bench","timestamp":"{}","label":"{label}"}}"#,
                    time.to_rfc3339_opts(chrono::SecondsFormat::Millis, true),
                );
                send(labels, of, &payload);
            }
        }
        producer.flush(Duration::from_secs(120)).context("publish the events")
    }
}

/// Prints a line for each part of the stream that has been taken in, and what the second half of it has grown by.
fn watch(pipeline: &mut Pipeline, address: &str, all: usize, taken_in: &AtomicUsize) -> Result<()> {
    println!("  {:>10} {:>8} {:>8} {:>10} {:>10}", "events in", "seconds", "open", "revisions", "resident");
    let (started, mut moved) = (Instant::now(), Instant::now());
    let (mut lines, mut before, mut quarters) = (0, 0, [0_usize; 4]);
    while before < all {
        std::thread::sleep(Duration::from_millis(250));
        let page = scrape(address)?;
        let applied = sum(&page, "driftline_rows_applied", "") as usize;
        let resident = pipeline.resident()?;
        if applied > before {
            moved = Instant::now();
        }
        ensure!(moved.elapsed() < STALLED, "{applied} of {all} events, and no more:\n{}", pipeline.log());
        before = applied;
        taken_in.store(applied, Ordering::Relaxed);
        let quarter = &mut quarters[(4 * applied.saturating_sub(1) / all).min(3)];
        *quarter = (*quarter).max(resident);
        if applied >= (lines + 1) * all / LINES {
            lines = applied * LINES / all;
            let seconds = started.elapsed().as_secs();
            let [open, revisions] =
                [sum(&page, "driftline_windows", "state=\"open\""), sum(&page, "driftline_revisions_total", "")];
            println!("  {applied:>10} {seconds:>8} {open:>8.0} {revisions:>10.0} {:>7} MB", resident >> 20);
        }
    }
    let [_, second, third, last] = quarters.map(|bytes| bytes as f64);
    ensure!(second > 0.0 && third > 0.0, "{all} events are over before they are looked at: ask for more");
    println!(
        "  the most of the last quarter of the stream: {:.2} of that of the third, {:.2} of that of the second",
        last / third,
        last / second
    );
    Ok(())
}

struct Pipeline {
    child: Child,
    log: std::path::PathBuf,
}

impl Drop for Pipeline {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Pipeline {
    fn log(&self) -> String {
        let log = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }

    /// The address at which it serves, which it logs.
    fn address(&self) -> Result<String> {
        for _ in 0..300 {
            let log = std::fs::read_to_string(&self.log).unwrap_or_default();
            if let Some((_, rest)) = log.rsplit_once("serving http://")
                && let Some((address, _)) = rest.split_once("/metrics")
            {
                return Ok(address.to_owned());
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        bail!("it does not serve:\n{}", self.log())
    }

    /// Bytes in memory.
    fn resident(&self) -> Result<usize> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()));
        crate::filters::status_of(&status.with_context(|| format!("it has ended:\n{}", self.log()))?, "VmRSS:")
    }

    /// Lets it end by itself.
    fn stop(&mut self) -> Result<()> {
        let asked = Command::new("kill").args(["-TERM", &self.child.id().to_string()]).status();
        ensure!(asked.is_ok_and(|asked| asked.success()), "ask driftline to end");
        let ended = self.child.wait()?;
        ensure!(ended.success(), "driftline: {ended}\n{}", self.log());
        Ok(())
    }
}

fn scrape(address: &str) -> Result<String> {
    let mut stream = TcpStream::connect(address).with_context(|| format!("connect to {address}"))?;
    write!(stream, "GET /metrics HTTP/1.0\r\nHost: {address}\r\n\r\n")?;
    let mut page = String::new();
    stream.read_to_string(&mut page).context("read /metrics")?;
    Ok(page)
}

/// The sum of all series whose name begins so, and that have this label.
fn sum(page: &str, name: &str, label: &str) -> f64 {
    let series = page.lines().filter(|line| line.starts_with(name) && line.contains(label));
    series.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).fold(0.0, |sum, value| sum + value)
}
