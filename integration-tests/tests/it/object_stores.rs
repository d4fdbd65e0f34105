//! Object stores over HTTP: the whole pipeline on a real S3 server and on the emulators of the other two, servers that go away
//! and come back, servers that must be refused, and what a person is told who has set something wrong.
//!
//! `scripts/s3.sh start` and `scripts/emulators.sh start` print the variables that say where the servers are.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, Method, StatusCode, Uri};
use axum::response::Response;
use bytes::Bytes;
use driftline_integration_tests::generator::{Generated, Options, generate};
use driftline_integration_tests::kafka::{Broker, Topics};
use driftline_store::Store;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::process::Command;

use crate::awake::Awake;
use crate::crash::produce_slowly;
use crate::sandbox::{Said, Sandbox, tail};
use crate::{judge, outside};

const S3: &str = "DRIFTLINE_TEST_S3_URL";
const GCS: &str = "DRIFTLINE_TEST_GCS_URL";
const AZURE: &str = "DRIFTLINE_TEST_AZURE_URL";
const S3_TLS: &str = "DRIFTLINE_TEST_S3_TLS";
const S3_CA: &str = "DRIFTLINE_TEST_S3_CA";

const PIPELINE: [&str; 3] = ["run", "--roles", "collector,aggregator,evaluator"];
/// How often the pipeline is killed.
const KILLS: usize = 4;
/// As in `crash.rs`: a killed consumer must leave its group soon.
const SHORT_SESSION: (&str, &str) = ("DRIFTLINE__KAFKA__PROPERTIES__SESSION_TIMEOUT_MS", "1500");

/// C1, C3, T4, H1, A1 over HTTP: processes that die by SIGKILL at any instant, on a store whose answers die with them.
#[tokio::test(flavor = "multi_thread")]
async fn c1_kill_9_on_s3_loses_nothing_and_counts_nothing_twice() -> Result<()> {
    const TEST: &str = "c1_kill_9_on_s3_loses_nothing_and_counts_nothing_twice";
    let (Some(url), Some(broker)) = (given(S3, TEST)?, Broker::real(TEST)?) else { return Ok(()) };
    let seed: u64 = match std::env::var("DRIFTLINE_TEST_SEED") {
        Ok(seed) => seed.parse().context("DRIFTLINE_TEST_SEED is a number")?,
        Err(_) => rand::random(),
    };
    eprintln!("DRIFTLINE_TEST_SEED={seed} repeats this run's events and delays");
    let mut rng = StdRng::seed_from_u64(seed);
    let whole = Whole::new(&broker, &url, "", seed, 1_500).await?;
    let producing = produce_slowly(&broker, &whole.topics, &whole.run, Duration::from_secs(8));
    for life in 1..=KILLS {
        let mut process = whole.sandbox.spawn_with("pipeline", &PIPELINE, &[SHORT_SESSION])?;
        tokio::time::sleep(Duration::from_millis(rng.random_range(500..4_000))).await;
        ensure!(!process.has_ended()?, "life {life} ended by itself:\n{}", process.log());
        process.kill().await?;
    }
    producing.await.context("the producer panicked")??;
    whole.sandbox.catch_up().await?;
    whole.judge().await
}

/// The store is killed in mid-load and comes back: the pipeline waits, says so, and loses nothing. The server is this test's own.
#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_goes_away_and_comes_back_loses_nothing() -> Result<()> {
    const TEST: &str = "a_store_that_goes_away_and_comes_back_loses_nothing";
    let (Some(_), Some(broker)) = (given(S3, TEST)?, Broker::real(TEST)?) else { return Ok(()) };
    let server = OwnServer::start().await?;
    let options = format!("[store.options]\nendpoint_url = {:?}\n", server.endpoint);
    let whole = Whole::new(&broker, "s3://driftline/away", &options, 5, 1_000).await?;
    let producing = produce_slowly(&broker, &whole.topics, &whole.run, Duration::from_secs(9));
    let mut process = whole.sandbox.spawn("pipeline", &PIPELINE)?;
    for _ in 0..2 {
        tokio::time::sleep(Duration::from_secs(3)).await;
        server.command("kill").await?;
        tokio::time::sleep(Duration::from_secs(2)).await;
        ensure!(!process.has_ended()?, "it ended when the store was away:\n{}", process.log());
        server.command("start").await?;
    }
    producing.await.context("the producer panicked")??;
    let log = std::fs::read_to_string(whole.sandbox.path("pipeline.log")).context("read the log")?;
    ensure!(log.contains("the store did not answer, trying again"), "it never noticed:\n{}", tail(&log));
    ensure!(log.contains("the store answers again"), "it never noticed that it was back:\n{}", tail(&log));
    // One process lives through it all, and drains.
    process.terminate().await?;
    whole.sandbox.catch_up().await?;
    whole.judge().await
}

/// T4, A1 on Azure's protocol.
#[tokio::test(flavor = "multi_thread")]
async fn t4_the_figures_are_the_truth_on_azure() -> Result<()> {
    figures_are_the_truth(AZURE, "t4_the_figures_are_the_truth_on_azure").await
}

/// T4, A1 on Google's.
#[tokio::test(flavor = "multi_thread")]
async fn t4_the_figures_are_the_truth_on_gcs() -> Result<()> {
    figures_are_the_truth(GCS, "t4_the_figures_are_the_truth_on_gcs").await
}

async fn figures_are_the_truth(variable: &str, test: &str) -> Result<()> {
    let (Some(url), Some(broker)) = (given(variable, test)?, Broker::real(test)?) else { return Ok(()) };
    let whole = Whole::new(&broker, &url, "", 3, 600).await?;
    for records in whole.run.records.chunks(whole.run.records.len().div_ceil(2)) {
        broker.produce(&whole.topics, records).await?;
        whole.sandbox.catch_up().await?;
    }
    whole.judge().await
}

/// What a person is told who has set something wrong, and that a private authority can be named.
#[tokio::test(flavor = "multi_thread")]
async fn check_tells_what_is_wrong_with_the_store() -> Result<()> {
    const TEST: &str = "check_tells_what_is_wrong_with_the_store";
    let (Some(url), Some(tls), Some(ca)) = (given(S3, TEST)?, given(S3_TLS, TEST)?, given(S3_CA, TEST)?) else {
        return Ok(());
    };
    let broker = Broker::embedded()?;
    let topics = Topics::unique();
    for topic in [&topics.predictions, &topics.labels] {
        broker.create_topic(topic, 1).await?;
    }
    let checked = async |store: &str, variables: &[(&str, &str)]| -> Result<Said> {
        Sandbox::with_store(broker.brokers(), &topics, store, "")?.run_with(&["check"], variables).await
    };
    let lines = |url: &str, options: &str| format!("url = {url:?}\n[store.options]\n{options}\n");
    let tls_line = format!("endpoint_url = {tls:?}");

    let by_file = lines(&url, &format!("{tls_line}\nca_certificate_file = {ca:?}"));
    let without = lines(&url, &tls_line);
    for (way, store, variables) in [
        ("credentials and endpoint from the environment", lines(&url, ""), vec![]),
        ("a private authority, by the configuration", by_file, vec![]),
        (
            "by Driftline's variable",
            without.clone(),
            vec![("DRIFTLINE__STORE__OPTIONS__CA_CERTIFICATE_FILE", ca.as_str())],
        ),
        ("by AWS's variable", without.clone(), vec![("AWS_CA_BUNDLE", ca.as_str())]),
    ] {
        let said = checked(&store, &variables).await?;
        ensure!(said.code == Some(0), "{way}: {said:?}");
        ensure!(said.stdout.contains("create-if-absent and replace-if hold"), "{way}: {said:?}");
    }

    let missing = url.replacen("s3://", "s3://no-such-bucket-", 1);
    for (wrong, store, variables, says) in [
        ("an unknown authority", without, vec![], "store.options.ca_certificate_file"),
        ("a wrong secret", lines(&url, ""), vec![("AWS_SECRET_ACCESS_KEY", "wrong")], "credentials"),
        ("an unknown key", lines(&url, ""), vec![("AWS_ACCESS_KEY_ID", "nobody")], "credentials"),
        ("a missing bucket", lines(&missing, ""), vec![], "the bucket, container or object does not exist"),
        ("no server", lines(&url, "endpoint_url = \"http://127.0.0.1:1\""), vec![], "the store did not answer"),
        ("plain HTTP unasked", lines(&url, "allow_http = \"false\""), vec![], "AWS_ALLOW_HTTP=true"),
    ] {
        let asked = Awake::start();
        let said = checked(&store, &variables).await?;
        eprintln!("{wrong}: {}", said.stdout.lines().find(|line| line.contains("FAILED")).unwrap_or_default());
        ensure!(said.code == Some(3), "{wrong}: {said:?}");
        let told = said.stdout.lines().any(|line| line.starts_with("FAILED  store") && line.contains(says));
        ensure!(told, "{wrong} should say {says:?}: {said:?}");
        ensure!(asked.elapsed() < Duration::from_secs(60), "{wrong}: it took {:?}", asked.elapsed());
        ensure!(!said.stdout.contains("driftline-secret"), "{wrong}: the secret is in the output");
    }
    let no_file = lines(&url, "ca_certificate_file = \"/nonexistent/ca.pem\"");
    let said = checked(&no_file, &[]).await?;
    ensure!(said.code == Some(2) && said.stderr.contains("ca_certificate_file"), "{said:?}");
    Ok(())
}

/// A server that ignores the conditions, refuses them, or keeps them only while nobody else writes is refused, by name, and
/// holds nothing afterwards.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_without_conditional_puts_is_refused() -> Result<()> {
    let broker = Broker::embedded()?;
    let topics = Topics::unique();
    for topic in [&topics.predictions, &topics.labels] {
        broker.create_topic(topic, 1).await?;
    }
    for (flaw, names) in [
        (Flaw::IgnoresIfNoneMatch, "create-if-absent (a put with `If-None-Match: *`"),
        (Flaw::IgnoresIfMatch, "replace-if (a put with `If-Match`"),
        (Flaw::RefusesConditions, "create-if-absent (a put with `If-None-Match: *`"),
        (Flaw::Races, "replace-if (a put with `If-Match`"),
    ] {
        let server = Flawed::serve(flaw).await?;
        let store = format!(
            "url = \"s3://bucket/prefix\"\n[store.options]\nendpoint_url = {:?}\nallow_http = \"true\"\naws_access_key_id = \"k\"\n\
             aws_secret_access_key = \"s\"\nregion = \"us-east-1\"\n",
            server.endpoint
        );
        let sandbox = Sandbox::with_store(broker.brokers(), &topics, &store, "")?;
        for (arguments, code) in [(&["check"][..], 3), (&["run", "--until-caught-up"][..], 2)] {
            let said = sandbox.run(arguments).await?;
            let told = format!("{}{}", said.stdout, said.stderr);
            ensure!(said.code == Some(code), "{flaw:?}: {arguments:?} ended with {:?}: {told}", said.code);
            ensure!(told.contains("the store does not support"), "{flaw:?}: {told}");
            ensure!(told.contains(names), "{flaw:?} should name {names}: {told}");
        }
        let written = server.state.written.lock().expect("nobody panics with it").clone();
        let others: Vec<_> = written.iter().filter(|key| !key.starts_with("prefix/.probe/")).collect();
        ensure!(others.is_empty(), "{flaw:?}: more than the probe was written: {others:?}");
        ensure!(!written.is_empty() || flaw == Flaw::RefusesConditions, "{flaw:?}: nothing was asked of the server");
        let left = server.state.objects.lock().expect("nobody panics with it").len();
        ensure!(left == 0, "{flaw:?}: {left} objects were left behind");
    }
    Ok(())
}

/// The same server without a flaw is accepted: the refusals above are the flaws' doing.
#[tokio::test(flavor = "multi_thread")]
async fn the_same_server_with_conditional_puts_is_accepted() -> Result<()> {
    let server = Flawed::serve(Flaw::None).await?;
    let options = [("endpoint_url", server.endpoint.as_str()), ("allow_http", "true"), ("aws_access_key_id", "k")];
    let options = options.into_iter().chain([("aws_secret_access_key", "s"), ("region", "us-east-1")]);
    let options = options.map(|(key, value)| (key.to_owned(), value.to_owned())).collect();
    Store::open("s3://bucket/prefix", &options)?.probe().await.context("probe")
}

/// A variable's value; without it the test is skipped loudly, or fails where nothing may be skipped.
fn given(variable: &str, test: &str) -> Result<Option<String>> {
    let value = std::env::var(variable).ok().filter(|value| !value.is_empty());
    if value.is_none() {
        let reason = format!("{test} needs {variable}: scripts/s3.sh start and scripts/emulators.sh start print it");
        ensure!(std::env::var("DRIFTLINE_REQUIRE_ALL").as_deref() != Ok("1"), reason);
        eprintln!("SKIPPED: {reason}");
    }
    Ok(value)
}

/// A run with known truth, its topics, and a sandbox whose store is a new prefix of a bucket.
struct Whole {
    options: Options,
    run: Generated,
    topics: Topics,
    sandbox: Sandbox,
    url: String,
    endpoint: BTreeMap<String, String>,
}

impl Whole {
    /// `options` is the `[store.options]` section, or nothing.
    async fn new(broker: &Broker, url: &str, options: &str, seed: u64, predictions: usize) -> Result<Self> {
        let url = format!("{url}/{}", uuid::Uuid::new_v4().simple());
        let endpoint = options.lines().filter_map(|line| line.split_once(" = "));
        let endpoint = endpoint.map(|(key, value)| (key.to_owned(), value.trim_matches('"').to_owned())).collect();
        let store = format!("url = {url:?}\n{options}");
        let options = Options { seed, predictions, label_partitions: 4, ..Options::default() };
        let run = generate(&options);
        let topics = Topics::unique();
        broker.create_topics(&topics, &run).await?;
        let sandbox = Sandbox::with_store(broker.brokers(), &topics, &store, &options.models_toml())?;
        Ok(Whole { options, run, topics, sandbox, url, endpoint })
    }

    /// The known truth, and the outside engines, of which some read files only: they are given a copy of the store.
    async fn judge(&self) -> Result<()> {
        let store = Store::open(&self.url, &self.endpoint)?;
        let objects = mirror(&store, &self.sandbox.store()).await?;
        eprintln!("{objects} objects lie below {}", self.url);
        judge::check(&self.sandbox, &self.topics, &self.options, &self.run).await?;
        outside::check(&self.sandbox).await
    }
}

/// Copies every object into a folder; returns how many there were.
async fn mirror(store: &Store, folder: &Path) -> Result<usize> {
    let listed = store.list("").await.context("list the store")?;
    for object in &listed {
        let found =
            store.get(&object.path).await?.with_context(|| format!("{} was listed and is gone", object.path))?;
        let file = folder.join(&object.path);
        std::fs::create_dir_all(file.parent().context("a file has a folder")?).context("make a folder")?;
        std::fs::write(file, found.bytes).context("write a copy")?;
    }
    Ok(listed.len())
}

/// An S3 server of one test's own, which it may kill.
struct OwnServer {
    port: String,
    endpoint: String,
}

impl OwnServer {
    async fn start() -> Result<Self> {
        let said = Self::ask("free", "start").await?;
        let endpoint = said.lines().find_map(|line| line.strip_prefix("AWS_ENDPOINT_URL=")).context("no endpoint")?;
        let (_, port) = endpoint.rsplit_once(':').context("no port")?;
        Ok(OwnServer { port: port.to_owned(), endpoint: endpoint.to_owned() })
    }

    async fn command(&self, command: &str) -> Result<()> {
        Self::ask(&self.port, command).await.map(drop)
    }

    async fn ask(port: &str, command: &str) -> Result<String> {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts/s3.sh");
        let mut asked = Command::new("bash");
        asked.arg(script).arg(command).env("DRIFTLINE_S3_PORT", port);
        let output = asked.output().await.context("run scripts/s3.sh")?;
        let failed = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "scripts/s3.sh {command}: {failed}");
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }
}

impl Drop for OwnServer {
    fn drop(&mut self) {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts/s3.sh");
        let wiped =
            std::process::Command::new("bash").arg(script).arg("wipe").env("DRIFTLINE_S3_PORT", &self.port).output();
        if let Err(error) = wiped {
            eprintln!("the test's S3 server could not be wiped: {error}");
        }
    }
}

/// What is wrong with a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Flaw {
    None,
    IgnoresIfNoneMatch,
    IgnoresIfMatch,
    /// Answers 501 to a conditional put.
    RefusesConditions,
    /// Looks first and writes later, as more than one released server has done.
    Races,
}

/// As much of S3 as the probe asks for, in memory, with a flaw. Real servers that lack the conditions are old versions, which
/// no package manager provides any more.
struct Flawed {
    endpoint: String,
    state: Arc<Objects>,
}

struct Objects {
    flaw: Flaw,
    objects: Mutex<HashMap<String, (Bytes, u64)>>,
    /// Every key that was ever put.
    written: Mutex<Vec<String>>,
}

impl Flawed {
    async fn serve(flaw: Flaw) -> Result<Self> {
        let state = Arc::new(Objects { flaw, objects: Mutex::default(), written: Mutex::default() });
        let app = axum::Router::new().fallback(answer).with_state(Arc::clone(&state));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.context("listen")?;
        let endpoint = format!("http://{}", listener.local_addr()?);
        tokio::spawn(async move { axum::serve(listener, app).await });
        Ok(Flawed { endpoint, state })
    }
}

async fn answer(
    State(state): State<Arc<Objects>>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let key = uri.path().trim_start_matches("/bucket").trim_start_matches('/').to_owned();
    match method {
        Method::PUT => put(&state, &key, &headers, body).await,
        Method::POST if uri.query().is_some_and(|query| query.starts_with("delete")) => delete(&state, &body),
        Method::DELETE => {
            state.objects.lock().expect("nobody panics with it").remove(&key);
            empty(StatusCode::NO_CONTENT)
        }
        Method::GET | Method::HEAD => match state.objects.lock().expect("nobody panics with it").get(&key) {
            Some((bytes, version)) => found(bytes.clone(), *version),
            None => empty(StatusCode::NOT_FOUND),
        },
        _ => empty(StatusCode::METHOD_NOT_ALLOWED),
    }
}

async fn put(state: &Objects, key: &str, headers: &HeaderMap, body: Bytes) -> Response {
    let creates = headers.contains_key("if-none-match") && state.flaw != Flaw::IgnoresIfNoneMatch;
    let expected = headers.get("if-match").filter(|_| state.flaw != Flaw::IgnoresIfMatch).cloned();
    if state.flaw == Flaw::RefusesConditions && (creates || expected.is_some()) {
        return empty(StatusCode::NOT_IMPLEMENTED);
    }
    let holds = |present: Option<&(Bytes, u64)>| {
        let version = present.map(|(_, version)| format!("\"{version}\""));
        !(creates && version.is_some()) && expected.as_ref().is_none_or(|wanted| version.is_some_and(|v| *wanted == v))
    };
    let held_once = state.flaw == Flaw::Races && holds(state.objects.lock().expect("nobody panics with it").get(key));
    if held_once {
        tokio::time::sleep(Duration::from_millis(30)).await;
    }
    // Looking and writing under one lock is what the flawless server does.
    let mut objects = state.objects.lock().expect("nobody panics with it");
    if !held_once && !holds(objects.get(key)) {
        return empty(StatusCode::PRECONDITION_FAILED);
    }
    let mut written = state.written.lock().expect("nobody panics with it");
    written.push(key.to_owned());
    let version = written.len() as u64;
    objects.insert(key.to_owned(), (body, version));
    let response = Response::builder().header("ETag", format!("\"{version}\""));
    response.body(Body::empty()).expect("it is well formed")
}

fn delete(state: &Objects, body: &Bytes) -> Response {
    let text = String::from_utf8_lossy(body);
    let mut answer = String::from("<DeleteResult>");
    for key in text.split("<Key>").skip(1).filter_map(|rest| rest.split("</Key>").next()) {
        state.objects.lock().expect("nobody panics with it").remove(key);
        answer.push_str(&format!("<Deleted><Key>{key}</Key></Deleted>"));
    }
    answer.push_str("</DeleteResult>");
    Response::builder().body(Body::from(answer)).expect("it is well formed")
}

fn found(bytes: Bytes, version: u64) -> Response {
    let response = Response::builder()
        .header("ETag", format!("\"{version}\""))
        .header("Last-Modified", "Wed, 25 Nov 2026 00:00:00 GMT")
        .header("Content-Length", bytes.len().to_string());
    response.body(Body::from(bytes)).expect("it is well formed")
}

fn empty(status: StatusCode) -> Response {
    Response::builder().status(status).body(Body::empty()).expect("it is well formed")
}
