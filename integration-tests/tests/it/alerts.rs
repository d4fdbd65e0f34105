//! Alerts from end to end: raised by truth, taken back by truth that came later, told once, and told at all whatever dies.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use chrono::{DateTime, TimeDelta, Utc};
use driftline_evaluator::Reference;
use driftline_integration_tests::kafka::{Broker, Topics};
use rdkafka::producer::FutureRecord;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::bad_input::until;
use crate::sandbox::{Sandbox, get};

const HALF_A_MINUTE: Duration = Duration::from_secs(30);

/// A request that came.
#[derive(Debug, Clone)]
pub(crate) struct Received {
    path: String,
    pub(crate) id: String,
    pub(crate) signature: Option<String>,
    pub(crate) body: Value,
}

/// A receiver on this machine, which answers what it is told to.
#[derive(Clone, Default)]
pub(crate) struct Receiver {
    received: Arc<Mutex<Vec<Received>>>,
    /// Status of the next answers, by path; 200 afterwards.
    answers: Arc<Mutex<BTreeMap<String, Vec<u16>>>>,
}

impl Receiver {
    pub(crate) async fn start(&self) -> Result<String> {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let router = Router::new().fallback(answer).with_state(self.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        Ok(format!("http://{address}"))
    }

    pub(crate) fn at(&self, path: &str) -> Vec<Received> {
        let received = self.received.lock().unwrap_or_else(PoisonError::into_inner);
        received.iter().filter(|one| one.path == path).cloned().collect()
    }

    pub(crate) fn will_answer(&self, path: &str, answers: &[u16]) {
        self.answers.lock().unwrap_or_else(PoisonError::into_inner).insert(path.to_owned(), answers.to_vec());
    }
}

async fn answer(State(receiver): State<Receiver>, uri: axum::http::Uri, headers: HeaderMap, body: Bytes) -> StatusCode {
    let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
    let path = uri.path().to_owned();
    let received = Received {
        path: path.clone(),
        id: header("webhook-id").unwrap_or_default(),
        signature: header("webhook-signature"),
        body: serde_json::from_slice(&body).unwrap_or(Value::Null),
    };
    receiver.received.lock().unwrap_or_else(PoisonError::into_inner).push(received);
    let mut answers = receiver.answers.lock().unwrap_or_else(PoisonError::into_inner);
    let next = answers.get_mut(&path).filter(|left| !left.is_empty()).map(|left| left.remove(0));
    next.and_then(|status| StatusCode::from_u16(status).ok()).unwrap_or(StatusCode::OK)
}

/// Predictions of one model in hourly windows, all of them `1`, and their labels.
struct Story {
    begin: DateTime<Utc>,
}

impl Story {
    fn new() -> Self {
        let day = driftline_schemas::clock::now().date_naive() - TimeDelta::days(2);
        Self { begin: day.and_hms_opt(0, 0, 0).expect("midnight").and_utc() }
    }

    fn predictions(&self, hour: i64, rows: i64) -> Vec<String> {
        let of = |row: i64| {
            let time = self.begin + TimeDelta::hours(hour) + TimeDelta::seconds(row % 3_600);
            json!({
                "prediction_id": format!("{hour}-{row}"), "model_name": "churn", "timestamp": time.to_rfc3339(),
                "prediction": 1, "score": 0.9, "tags": { "region": if row % 2 == 0 { "eu" } else { "us" } },
            })
        };
        (0..rows).map(|row| of(row).to_string()).collect()
    }

    /// The first rows are hits as far as `share` goes.
    fn labels(&self, hour: i64, rows: std::ops::Range<i64>, share: f64) -> Vec<String> {
        let count = (rows.end - rows.start) as f64;
        let of = |row: i64| {
            let time = self.begin + TimeDelta::hours(hour + 1);
            let is_hit = ((row - rows.start) as f64) < share * count;
            let prediction_time = self.begin + TimeDelta::hours(hour) + TimeDelta::seconds(row % 3_600);
            json!({
                "prediction_id": format!("{hour}-{row}"), "model_name": "churn", "timestamp": time.to_rfc3339(),
                "label": i32::from(is_hit), "prediction_timestamp": prediction_time.to_rfc3339(),
            })
        };
        rows.clone().map(|row| of(row).to_string()).collect()
    }
}

fn settings(url: &str, rules: &str) -> String {
    format!(
        r#"
        [[models]]
        name = "churn"
        task = "binary"
        positive_class = 1
        window = "1h"
        segments = ["region"]
        [alerts]
        allow_local = true
        [[alerts.sinks]]
        name = "hook"
        type = "webhook"
        url = "{url}/hook"
        secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
        [[alerts.sinks]]
        name = "am"
        type = "alertmanager"
        url = "{url}"
        [[alerts.sinks]]
        name = "slack"
        type = "slack"
        url = "{url}/slack"
        [[alerts.sinks]]
        name = "pager"
        type = "pagerduty"
        url = "{url}/pager"
        secret = "R0UT1NG"
        [[alerts.sinks]]
        name = "teams"
        type = "teams"
        url = "{url}/teams"
        [[alerts.sinks]]
        name = "events"
        type = "cloudevents"
        url = "{url}/events"
        [[alerts.sinks]]
        name = "script"
        type = "command"
        command = ["sh", "-c", "cat >> told.jsonl; echo >> told.jsonl"]
        {rules}
        "#
    )
}

const RULE: &str = r#"
        [[alerts.rules]]
        name = "accuracy is low"
        metric = "accuracy"
        below = 0.8
        severity = "critical"
        segments = ["*"]
"#;

#[derive(Debug, Deserialize)]
struct Row {
    transition: String,
    segment_value: Option<String>,
    revision: i64,
    value: f64,
    previous_value: Option<f64>,
    budget_share: Option<f64>,
}

const ROWS: &str = "SELECT transition, segment_value, revision, value, previous_value, budget_share FROM alerts ORDER BY seq, position";

async fn create(broker: &Broker, topics: &Topics) -> Result<()> {
    broker.create_topic(&topics.predictions, 2).await?;
    broker.create_topic(&topics.labels, 2).await
}

async fn publish(broker: &Broker, topics: &Topics, predictions: &[String], labels: &[String]) -> Result<()> {
    let producer = broker.producer()?;
    for (topic, events) in [(&topics.predictions, predictions), (&topics.labels, labels)] {
        let mut sent = Vec::new();
        for (at, event) in events.iter().enumerate() {
            let record = FutureRecord::<(), _>::to(topic).partition(at as i32 % 2).payload(event);
            sent.push(producer.send_result(record).map_err(|(error, _)| error)?);
            if sent.len() == 1_000 || at + 1 == events.len() {
                for delivery in sent.drain(..) {
                    delivery.await?.map_err(|(error, _)| error)?;
                }
            }
        }
    }
    Ok(())
}

/// Late labels raise an alert, and later ones take it back: each sink is told both, once, in its own words.
#[tokio::test(flavor = "multi_thread")]
async fn an_alert_is_raised_and_withdrawn_by_late_labels() -> Result<()> {
    let broker = Broker::embedded()?;
    let topics = Topics::unique();
    create(&broker, &topics).await?;
    let receiver = Receiver::default();
    let url = receiver.start().await?;
    let sandbox = Sandbox::new(broker.brokers(), &topics, &settings(&url, RULE))?;
    let story = Story::new();

    // Half of the truth is in, and it looks bad.
    let mut labels = story.labels(0, 0..2_000, 0.95);
    labels.extend(story.labels(1, 0..1_000, 0.5));
    let mut predictions = story.predictions(0, 2_000);
    predictions.extend(story.predictions(1, 3_000));
    publish(&broker, &topics, &predictions, &labels).await?;
    sandbox.catch_up().await?;
    let rows: Vec<Row> = sandbox.sql(ROWS).await?;
    let overall: Vec<&Row> = rows.iter().filter(|row| row.segment_value.is_none()).collect();
    ensure!(overall.len() == 1 && overall[0].transition == "firing" && overall[0].value == 0.5, "{rows:?}");
    ensure!(overall[0].budget_share.is_some_and(|share| (share - 1.0 / 720.0).abs() < 1e-12), "{rows:?}");
    let listed = sandbox.succeed(&["alerts", "list", "--format", "json"]).await?;
    let listed: Vec<Value> = serde_json::from_str(&listed)?;
    ensure!(listed.len() == rows.len() && listed[0]["severity"] == "critical", "{listed:?}");
    let told = receiver.at("/hook");
    ensure!(told.len() == 1 && told[0].body["status"] == "firing", "{told:?}");
    ensure!(told[0].signature.as_ref().is_some_and(|signature| signature.starts_with("v1,")), "{told:?}");
    ensure!(told[0].body["alerts"].as_array().map(Vec::len) == Some(rows.len()), "one message a judgement: {told:?}");

    // Nothing new: nobody is told again.
    sandbox.catch_up().await?;
    ensure!(receiver.at("/hook").len() == 1, "told twice");

    // The other half says that all was well.
    publish(&broker, &topics, &[], &story.labels(1, 1_000..3_000, 1.0)).await?;
    sandbox.catch_up().await?;
    let rows: Vec<Row> = sandbox.sql(ROWS).await?;
    let last = rows.iter().rfind(|row| row.segment_value.is_none()).context("there is an alert")?;
    ensure!(last.transition == "withdrawn" && last.previous_value == Some(0.5) && last.revision > 1, "{rows:?}");
    ensure!((last.value - 2_500.0 / 3_000.0).abs() < 1e-12, "{rows:?}");
    let listed = sandbox.succeed(&["alerts", "list", "--format", "json"]).await?;
    ensure!(listed.trim() == "[]", "{listed}");

    let told = receiver.at("/hook");
    ensure!(told.len() == 2 && told[1].body["status"] == "resolved", "{told:?}");
    let summary = told[1].body["alerts"][0]["annotations"]["summary"].as_str().unwrap_or_default();
    ensure!(summary.contains("withdrawn, late truth"), "{summary}");
    let sent = receiver.at("/api/v2/alerts");
    ensure!(sent.len() == 2 && sent[0].body[0]["labels"]["alertname"] == "accuracy is low", "{sent:?}");
    ensure!(receiver.at("/slack")[0].body["blocks"].is_array(), "Slack");
    ensure!(receiver.at("/teams")[0].body["attachments"].is_array(), "Teams");
    ensure!(receiver.at("/events")[0].body["specversion"] == "1.0", "CloudEvents");
    let pages = receiver.at("/pager");
    let keys = |action: &str| -> BTreeSet<String> {
        let of = pages.iter().filter(|page| page.body["event_action"] == action);
        of.filter_map(|page| page.body["dedup_key"].as_str().map(str::to_owned)).collect()
    };
    ensure!(!keys("trigger").is_empty() && keys("trigger") == keys("resolve"), "{pages:?}");
    let script = std::fs::read_to_string(sandbox.path("told.jsonl"))?;
    ensure!(script.lines().filter(|line| line.contains("\"version\":\"4\"")).count() == 2, "{script}");

    let replayed = sandbox.succeed(&["alerts", "replay", "--model", "churn", "--transitions"]).await?;
    ensure!(replayed.contains("withdrawn, late truth"), "{replayed}");
    let shown = sandbox.succeed(&["alerts", "show", listed_id(&rows, &sandbox).await?.as_str()]).await?;
    ensure!(shown.contains("withdrawn") && shown.contains("firing"), "{shown}");
    let tested = sandbox.succeed(&["alerts", "test", "--sink", "hook"]).await?;
    ensure!(tested.starts_with("ok"), "{tested}");
    Ok(())
}

async fn listed_id(rows: &[Row], sandbox: &Sandbox) -> Result<String> {
    ensure!(!rows.is_empty(), "there are alerts");
    let all = sandbox.succeed(&["alerts", "list", "--all", "--format", "json"]).await?;
    let all: Vec<Value> = serde_json::from_str(&all)?;
    Ok(all[0]["alert_id"].as_str().context("an id")?.to_owned())
}

/// A receiver that is away, busy or gone; a silence; and a process that is killed once the receiver has the message.
#[tokio::test(flavor = "multi_thread")]
async fn a_notification_is_delivered_whatever_dies_and_every_copy_has_one_id() -> Result<()> {
    let broker = Broker::embedded()?;
    let topics = Topics::unique();
    create(&broker, &topics).await?;
    let receiver = Receiver::default();
    let url = receiver.start().await?;
    let sandbox = Sandbox::new(broker.brokers(), &topics, &settings(&url, RULE))?;
    let story = Story::new();
    // Refused before it was taken, and gone for good.
    receiver.will_answer("/hook", &[503]);
    receiver.will_answer("/slack", &[410]);
    publish(&broker, &topics, &story.predictions(0, 1_000), &story.labels(0, 0..1_000, 0.5)).await?;
    sandbox.catch_up().await?;
    let told = receiver.at("/hook");
    ensure!(told.len() >= 2, "a refused message is sent again: {told:?}");
    ensure!(told.iter().all(|one| one.id == told[0].id && !one.id.is_empty()), "{told:?}");

    // What the receiver has taken, and the process has not noted: as if it had been killed in between.
    let sent = sandbox.store().join("alerting/model_name=churn/sent/hook.json");
    std::fs::write(&sent, r#"{"next":0,"given_up":0}"#)?;
    sandbox.catch_up().await?;
    let again = receiver.at("/hook");
    ensure!(again.len() > told.len() && again.iter().all(|one| one.id == told[0].id), "{again:?}");

    // Silent: recorded, and not told. The sink that was gone is not told either.
    let counts = |path: &str| receiver.at(path).len();
    let before = (counts("/hook"), counts("/slack"), counts("/teams"));
    sandbox.succeed(&["alerts", "silence", "--model", "churn", "--for", "1h", "--comment", "planned"]).await?;
    ensure!(sandbox.succeed(&["alerts", "silences"]).await?.contains("planned"), "it is listed");
    publish(&broker, &topics, &story.predictions(5, 1_000), &story.labels(5, 0..1_000, 0.99)).await?;
    sandbox.catch_up().await?;
    #[derive(Deserialize)]
    struct Silenced {
        transition: String,
        silenced: Option<String>,
    }
    let rows: Vec<Silenced> =
        sandbox.sql("SELECT transition, silenced FROM alerts WHERE transition = 'resolved'").await?;
    ensure!(
        !rows.is_empty() && rows.iter().all(|row| row.silenced.is_some() && row.transition == "resolved"),
        "silent"
    );
    ensure!(before == (counts("/hook"), counts("/slack"), counts("/teams")), "somebody was told");
    ensure!(counts("/slack") == 1, "a receiver that is gone is told no more");
    Ok(())
}

/// What the hook was told, the newest message last: its status, and each alert's transition and summary.
fn told(receiver: &Receiver) -> Vec<(String, Vec<(String, String)>)> {
    let of_alert = |alert: &Value| {
        let text = |name: &str| alert["annotations"][name].as_str().unwrap_or_default().to_owned();
        (text("transition"), text("summary"))
    };
    let of_message = |one: Received| {
        let alerts = one.body["alerts"].as_array().into_iter().flatten().map(of_alert).collect();
        (one.body["status"].as_str().unwrap_or_default().to_owned(), alerts)
    };
    receiver.at("/hook").into_iter().map(of_message).collect()
}

/// What fires when a silence or maintenance ends is told then; what came and went meanwhile never; and the end of what people know
/// of is not lost.
#[tokio::test(flavor = "multi_thread")]
async fn when_a_silence_ends_people_are_told_what_is_still_so() -> Result<()> {
    const WHOLE: &str = "[[alerts.rules]]\nname = \"accuracy is low\"\nmetric = \"accuracy\"\nbelow = 0.8\n";
    let broker = Broker::embedded()?;
    let topics = Topics::unique();
    create(&broker, &topics).await?;
    let receiver = Receiver::default();
    let url = receiver.start().await?;
    let sandbox = Sandbox::new(broker.brokers(), &topics, &settings(&url, WHOLE))?;
    let story = Story::new();
    let silence = async || -> Result<String> {
        Ok(sandbox.succeed(&["alerts", "silence", "--model", "churn", "--for", "1h"]).await?.trim().to_owned())
    };
    let hour = async |hour: i64, share: f64| -> Result<()> {
        publish(&broker, &topics, &story.predictions(hour, 1_000), &story.labels(hour, 0..1_000, share)).await?;
        sandbox.catch_up().await
    };
    // There has to be a store.
    sandbox.catch_up().await?;
    // Raised and over in one silence: nobody ever hears of it.
    let id = silence().await?;
    hour(0, 0.5).await?;
    let listed: Vec<Value> = serde_json::from_str(&sandbox.succeed(&["alerts", "list", "--format", "json"]).await?)?;
    ensure!(listed.len() == 1 && listed[0]["silenced"] == id.as_str(), "{listed:?}");
    hour(1, 0.99).await?;
    sandbox.succeed(&["alerts", "silence", "--expire", &id]).await?;
    sandbox.catch_up().await?;
    ensure!(told(&receiver).is_empty(), "{:?}", told(&receiver));
    // Raised in a silence that ends: told then, once.
    let id = silence().await?;
    hour(2, 0.5).await?;
    ensure!(told(&receiver).is_empty(), "{:?}", told(&receiver));
    sandbox.succeed(&["alerts", "silence", "--expire", &id]).await?;
    sandbox.catch_up().await?;
    sandbox.catch_up().await?;
    let now = told(&receiver);
    ensure!(now.len() == 1 && now[0].0 == "firing" && now[0].1[0].0 == "firing", "{now:?}");
    ensure!(now[0].1[0].1.contains("and was silenced until now"), "{now:?}");
    // Over while maintenance lasts, by the configuration: told when that is taken out.
    let since = driftline_schemas::clock::now() - TimeDelta::hours(1);
    let cron = format!("{} {} * * *", since.format("%-M"), since.format("%-H"));
    let maintenance = format!(
        "{WHOLE}[[alerts.maintenance]]\nname = \"moving\"\ncron = \"{cron}\"\nfor = \"3h\"\nmodels = [\"churn\"]\n"
    );
    sandbox.reconfigure(&settings(&url, &maintenance))?;
    hour(3, 0.99).await?;
    ensure!(told(&receiver).len() == 1, "{:?}", told(&receiver));
    let shown = sandbox.succeed(&["alerts", "silences"]).await?;
    ensure!(shown.starts_with("maintenance:moving  now, until ") && shown.contains("model churn"), "{shown}");
    let said = sandbox.run(&["alerts", "list"]).await?;
    ensure!(said.stderr.contains("maintenance \"moving\": now, until "), "{said:?}");
    ensure!(sandbox.run(&["check"]).await?.stdout.contains("\"moving\": now, until "), "`check` names it");
    #[derive(Debug, Deserialize)]
    struct Silenced {
        transition: String,
        silenced: Option<String>,
    }
    let query = "SELECT transition, silenced FROM alerts ORDER BY seq, position";
    let rows: Vec<Silenced> = sandbox.sql(query).await?;
    let last = rows.last().context("there are alerts")?;
    ensure!(last.transition == "resolved" && last.silenced.as_deref() == Some("maintenance:moving"), "{rows:?}");
    sandbox.reconfigure(&settings(&url, WHOLE))?;
    sandbox.catch_up().await?;
    let now = told(&receiver);
    ensure!(now.len() == 2 && now[1].0 == "resolved" && now[1].1[0].0 == "resolved", "{now:?}");
    ensure!(now[1].1[0].1.contains("it was over while it was silenced"), "{now:?}");
    Ok(())
}

/// A process that runs tells people within a quarter of a minute of a silence's end, though nothing else happens; and each sink
/// what it takes.
#[tokio::test(flavor = "multi_thread")]
async fn a_silence_that_ends_is_noticed_while_nothing_happens() -> Result<()> {
    let broker = Broker::embedded()?;
    let topics = Topics::unique();
    create(&broker, &topics).await?;
    let receiver = Receiver::default();
    let url = receiver.start().await?;
    let more = format!(
        "[[alerts.sinks]]\nname = \"loud\"\ntype = \"webhook\"\nurl = \"{url}/loud\"\nmin_severity = \"critical\"\n\
         [[alerts.sinks]]\nname = \"eu\"\ntype = \"webhook\"\nurl = \"{url}/eu\"\nmatch = {{ segment_value = \"eu\" }}\n\
         [[alerts.rules]]\nname = \"a little low\"\nmetric = \"accuracy\"\nbelow = 0.9\n{RULE}"
    );
    let sandbox = Sandbox::new(broker.brokers(), &topics, &settings(&url, &more))?;
    let story = Story::new();
    // There has to be a store.
    sandbox.catch_up().await?;
    let id = sandbox.succeed(&["alerts", "silence", "--for", "1h"]).await?.trim().to_owned();
    publish(&broker, &topics, &story.predictions(0, 2_000), &story.labels(0, 0..2_000, 0.5)).await?;
    let process = sandbox.spawn("run", &["run"])?;
    until("the alerts are there", HALF_A_MINUTE, async || {
        let listed = sandbox.succeed(&["alerts", "list", "--format", "json"]).await?;
        Ok(serde_json::from_str::<Vec<Value>>(&listed).is_ok_and(|listed| listed.len() == 4))
    })
    .await?;
    ensure!(receiver.at("/hook").is_empty(), "silent");
    sandbox.succeed(&["alerts", "silence", "--expire", &id]).await?;
    until("they are told", HALF_A_MINUTE, async || {
        Ok(!receiver.at("/eu").is_empty() && !receiver.at("/hook").is_empty())
    })
    .await?;
    let alerts = |path: &str| -> Vec<(String, String)> {
        let of = receiver.at(path);
        let alerts = of.iter().flat_map(|one| one.body["alerts"].as_array().into_iter().flatten());
        let label = |alert: &Value, name: &str| alert["labels"][name].as_str().unwrap_or_default().to_owned();
        let mut named: Vec<_> = alerts.map(|a| (label(a, "alertname"), label(a, "segment_value"))).collect();
        named.sort();
        named
    };
    let pair = |rule: &str, segment: &str| (rule.to_owned(), segment.to_owned());
    let (low, little) = ("accuracy is low", pair("a little low", ""));
    let of_low = [pair(low, ""), pair(low, "eu"), pair(low, "us")];
    until("the third one too", HALF_A_MINUTE, async || Ok(!receiver.at("/loud").is_empty())).await?;
    ensure!(alerts("/hook") == [&[little][..], &of_low].concat(), "{:?}", alerts("/hook"));
    ensure!(alerts("/loud") == of_low, "{:?}", alerts("/loud"));
    ensure!(alerts("/eu") == [pair(low, "eu")], "{:?}", alerts("/eu"));
    process.kill().await?;
    Ok(())
}

/// A metric held against what the reference file has reached on its own rows; and what is said where it cannot be.
#[tokio::test(flavor = "multi_thread")]
async fn a_metric_is_held_against_its_reference_file() -> Result<()> {
    let broker = Broker::embedded()?;
    let topics = Topics::unique();
    create(&broker, &topics).await?;
    let receiver = Receiver::default();
    let url = receiver.start().await?;
    let relative = "[[alerts.rules]]\nname = \"worse than before\"\nmetric = \"accuracy\"\nbelow = { reference = 0.05 }\n\
                    segments = [\"region\"]\n";
    let with = |reference: &str| {
        let model = format!("name = \"churn\"\n        reference = {reference:?}\n");
        settings(&url, relative).replace("name = \"churn\"\n", &model)
    };
    let sandbox = Sandbox::new(broker.brokers(), &topics, &with("reference.jsonl"))?;
    // 4,000 rows, of which 90 % are hits; in `eu`, the even ones, all of the misses are.
    let story = Story::new();
    let reference: Vec<String> = (0..4_000)
        .map(|row| {
            json!({
                "prediction_id": format!("r-{row}"), "model_name": "churn", "timestamp": story.begin.to_rfc3339(),
                "prediction": 1, "score": 0.9, "label": i32::from(row % 10 != 0),
                "tags": { "region": if row % 2 == 0 { "eu" } else { "us" } },
            })
            .to_string()
        })
        .collect();
    std::fs::write(sandbox.path("reference.jsonl"), reference.join("\n"))?;
    // 78 % of all: worse than before on the whole and in `us`, where they are 76 %, and in `eu`, where they are 80 %, as before.
    let labels: Vec<String> = (0..3_000)
        .map(|row| {
            json!({
                "prediction_id": format!("0-{row}"), "model_name": "churn", "label": i32::from(row % 50 < 39),
                "timestamp": (story.begin + TimeDelta::hours(1)).to_rfc3339(),
                "prediction_timestamp": (story.begin + TimeDelta::seconds(row % 3_600)).to_rfc3339(),
            })
            .to_string()
        })
        .collect();
    publish(&broker, &topics, &story.predictions(0, 3_000), &labels).await?;
    sandbox.catch_up().await?;
    #[derive(Debug, Deserialize)]
    struct Held {
        segment_value: Option<String>,
        value: f64,
        level: f64,
    }
    let rows: Vec<Held> = sandbox
        .sql("SELECT segment_value, value, level FROM alerts WHERE transition = 'firing' ORDER BY segment_value NULLS FIRST")
        .await?;
    let near = |a: f64, b: f64| (a - b).abs() < 0.002;
    let held: Vec<_> = rows.iter().map(|row| row.segment_value.as_deref()).collect();
    ensure!(held == [None, Some("us")], "{rows:?}");
    ensure!(near(rows[0].level, 0.85) && near(rows[1].level, 0.95) && near(rows[0].value, 0.78), "{rows:?}");
    let replayed = sandbox.succeed(&["alerts", "replay", "--transitions"]).await?;
    ensure!(replayed.contains("accuracy of churn: firing"), "{replayed}");

    // One that was frozen before metrics were kept: nothing is judged, and that is said.
    sandbox.succeed(&["reference", "fit", "--model", "churn", "reference.jsonl", "--out", "frozen.json"]).await?;
    let mut frozen: Value = serde_json::from_slice(&std::fs::read(sandbox.path("frozen.json"))?)?;
    let metrics = frozen["metrics"]["values"].as_array().context("it keeps metrics")?;
    ensure!(metrics.iter().any(|own| own["metric"] == "accuracy" && own["value"] == 0.9), "{metrics:?}");
    sandbox.reconfigure(&with("frozen.json"))?;
    let said = sandbox.run(&["check"]).await?.stdout;
    ensure!(said.contains("frozen.json: frozen from 4000 rows"), "{said}");
    frozen.as_object_mut().context("an object")?.remove("metrics");
    // The version is that of the content.
    let content = Reference::from_json(&serde_json::to_vec(&frozen)?).context("a reference")?;
    let version =
        content.expect_err("the content is another").split(' ').nth(5).context("it says which")?.replace(',', "");
    frozen["version"] = json!(version);
    std::fs::write(sandbox.path("frozen.json"), serde_json::to_vec(&frozen)?)?;
    let said = sandbox.run(&["check"]).await?.stdout;
    ensure!(said.contains("FAILED  reference") && said.contains("keeps no metrics of its own"), "{said}");
    publish(&broker, &topics, &story.predictions(9, 1_000), &story.labels(9, 0..1_000, 0.1)).await?;
    sandbox.catch_up().await?;
    let why = format!("\"worse than before\" cannot judge: reference {version} keeps no metrics of its own");
    let said = sandbox.run(&["alerts", "list"]).await?.stderr;
    ensure!(said.contains(&why), "{said}");
    let said = sandbox.run(&["alerts", "replay"]).await?.stderr;
    ensure!(said.contains(&why.replace("cannot", "could not")), "{said}");
    let count = "SELECT count(*) AS n FROM alerts WHERE transition = 'firing'";
    let counted: Vec<BTreeMap<String, i64>> = sandbox.sql(count).await?;
    ensure!(counted[0]["n"] == 2, "nothing more fires: {counted:?}");
    Ok(())
}

/// Requests that fail need no label to be heard of.
#[tokio::test(flavor = "multi_thread")]
async fn failing_requests_raise_an_alert_without_any_label() -> Result<()> {
    let broker = Broker::embedded()?;
    let topics = Topics::unique();
    create(&broker, &topics).await?;
    let receiver = Receiver::default();
    let url = receiver.start().await?;
    let rule = "[[alerts.rules]]\nname = \"requests fail\"\nmetric = \"error_rate\"\nabove = 0.05";
    let sandbox = Sandbox::new(broker.brokers(), &topics, &settings(&url, rule))?;
    let failing = |event: (usize, String)| {
        let (at, text) = event;
        if at % 4 == 0 { text.replace("\"prediction\":1", "\"error\":\"timeout\"") } else { text }
    };
    let predictions: Vec<String> = Story::new().predictions(0, 1_000).into_iter().enumerate().map(failing).collect();
    publish(&broker, &topics, &predictions, &[]).await?;
    sandbox.catch_up().await?;
    let rows: Vec<Row> = sandbox.sql(ROWS).await?;
    ensure!(rows.len() == 1 && rows[0].transition == "firing" && rows[0].value == 0.25, "{rows:?}");
    ensure!(receiver.at("/hook").len() == 1, "nobody was told");
    let replayed = sandbox.succeed(&["alerts", "replay", "--transitions"]).await?;
    ensure!(replayed.contains("error_rate of churn: firing"), "{replayed}");

    // The same events from a file: the same alert, and nobody is woken by it.
    std::fs::write(sandbox.path("predictions.jsonl"), predictions.join("\n"))?;
    sandbox.succeed(&["evaluate", "--predictions", "predictions.jsonl", "--out", "out"]).await?;
    ensure!(sandbox.path("out/alerts/model_name=churn").exists(), "the table has it");
    ensure!(receiver.at("/hook").len() == 1, "`evaluate` has told somebody");
    Ok(())
}

/// Alertmanager itself, on ports of its own, telling our receiver of what it is told.
struct Alertmanager {
    address: String,
    _process: tokio::process::Child,
    _folder: tempfile::TempDir,
}

impl Alertmanager {
    /// `None` after a loud word where there is none, or an error where nothing may be skipped.
    async fn start(receiver: &str) -> Result<Option<Self>> {
        let Some(program) = std::env::var_os("DRIFTLINE_TEST_ALERTMANAGER").filter(|program| !program.is_empty())
        else {
            let reason = "Alertmanager is not asked: set DRIFTLINE_TEST_ALERTMANAGER to what `scripts/prometheus.sh \
                          alertmanager` prints";
            ensure!(std::env::var("DRIFTLINE_REQUIRE_ALL").as_deref() != Ok("1"), reason);
            eprintln!("SKIPPED: {reason}");
            return Ok(None);
        };
        let folder = tempfile::tempdir()?;
        let file = folder.path().join("alertmanager.yml");
        let config = json!({
            "route": {
                "receiver": "us", "group_by": ["model_name"], "group_wait": "1s", "group_interval": "1s", "repeat_interval": "1h",
            },
            "receivers": [{ "name": "us", "webhook_configs": [{ "url": format!("{receiver}/theirs"), "send_resolved": true }] }],
        });
        // JSON is YAML.
        std::fs::write(&file, config.to_string())?;
        let free = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        let log = std::fs::File::create(folder.path().join("log"))?;
        let process = tokio::process::Command::new(program)
            .arg(format!("--config.file={}", file.display()))
            .arg(format!("--storage.path={}", folder.path().join("data").display()))
            .arg(format!("--web.listen-address={free}"))
            .arg("--cluster.listen-address=")
            .stdout(std::process::Stdio::null())
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .context("start Alertmanager")?;
        let started = Self { address: free.to_string(), _process: process, _folder: folder };
        until("Alertmanager is ready", HALF_A_MINUTE, async || {
            Ok(get(&started.address, "/-/ready").await.is_ok_and(|(s, _)| s == 200))
        })
        .await?;
        Ok(Some(started))
    }

    /// The alerts that hold.
    async fn active(&self) -> Result<Vec<Value>> {
        let (status, body) = get(&self.address, "/api/v2/alerts?active=true").await?;
        ensure!(status == 200, "{status}: {body}");
        serde_json::from_str(&whole(&body)).with_context(|| body.clone())
    }
}

/// A body without the lengths between its chunks, if it came in chunks.
fn whole(body: &str) -> String {
    let (mut left, mut joined) = (body, String::new());
    while let Some((length, rest)) = left.split_once("\r\n")
        && let Ok(length) = usize::from_str_radix(length.trim(), 16)
        && let Some(chunk) = rest.get(..length)
    {
        joined.push_str(chunk);
        left = rest.get(length + 2..).unwrap_or_default();
    }
    if joined.is_empty() { body.to_owned() } else { joined }
}

/// The names in an object, and what kind of value each has.
fn shape(object: &Value) -> BTreeMap<String, &'static str> {
    let kind = |value: &Value| match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(_) => "number",
        Value::String(_) => "text",
        Value::Array(_) => "list",
        Value::Object(_) => "object",
    };
    object.as_object().into_iter().flatten().map(|(name, value)| (name.clone(), kind(value))).collect()
}

/// A real Alertmanager takes our alerts and their end, and what it sends on has the very form of our own webhook.
#[tokio::test(flavor = "multi_thread")]
async fn alertmanager_takes_our_alerts_and_its_webhook_looks_like_ours() -> Result<()> {
    let receiver = Receiver::default();
    let url = receiver.start().await?;
    let Some(alertmanager) = Alertmanager::start(&url).await? else { return Ok(()) };
    let broker = Broker::embedded()?;
    let topics = Topics::unique();
    create(&broker, &topics).await?;
    let am = format!("url = \"http://{}\"", alertmanager.address);
    let settings = settings(&url, RULE).replace(&format!("url = \"{url}\"\n"), &format!("{am}\n"));
    let sandbox = Sandbox::new(broker.brokers(), &topics, &settings)?;
    let story = Story::new();
    publish(&broker, &topics, &story.predictions(1, 3_000), &story.labels(1, 0..1_000, 0.5)).await?;
    sandbox.catch_up().await?;
    let ours = receiver.at("/hook");
    ensure!(ours.len() == 1, "{ours:?}");
    let told = ours[0].body["alerts"].as_array().context("alerts")?.len();
    let active = alertmanager.active().await?;
    ensure!(active.len() == told && active.iter().all(|a| a["labels"]["alertname"] == "accuracy is low"), "{active:?}");
    until("Alertmanager tells on", HALF_A_MINUTE, async || Ok(!receiver.at("/theirs").is_empty())).await?;
    let theirs = &receiver.at("/theirs")[0].body;
    ensure!(shape(theirs) == shape(&ours[0].body), "{theirs}\n{}", ours[0].body);
    ensure!(shape(&theirs["alerts"][0]) == shape(&ours[0].body["alerts"][0]), "{theirs}\n{}", ours[0].body);
    for name in ["version", "status", "groupLabels", "commonLabels", "groupKey"] {
        ensure!(theirs[name] == ours[0].body[name], "{name}: {} is not {}", theirs[name], ours[0].body[name]);
    }
    // Late truth takes it back, and Alertmanager lets go of it.
    publish(&broker, &topics, &[], &story.labels(1, 1_000..3_000, 1.0)).await?;
    sandbox.catch_up().await?;
    until("Alertmanager holds it no more", HALF_A_MINUTE, async || Ok(alertmanager.active().await?.is_empty())).await?;
    until("Alertmanager says so", HALF_A_MINUTE, async || {
        Ok(receiver.at("/theirs").iter().any(|one| one.body["status"] == "resolved"))
    })
    .await
}

/// A receiver that never answers holds up none of the others, though it comes before them.
#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_that_never_answers_holds_up_nobody() -> Result<()> {
    let broker = Broker::embedded()?;
    let topics = Topics::unique();
    create(&broker, &topics).await?;
    let receiver = Receiver::default();
    let url = receiver.start().await?;
    let hangs = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let mute = hangs.local_addr()?;
    // It takes connections, and that is all.
    let first_asked = Arc::new(Mutex::new(None));
    let asked = Arc::clone(&first_asked);
    let silent = tokio::spawn(async move {
        let mut taken = Vec::new();
        while let Ok((connection, _)) = hangs.accept().await {
            asked.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert_with(Instant::now);
            taken.push(connection);
        }
    });
    let first = format!(
        "[[alerts.sinks]]\nname = \"a-mute-one\"\ntype = \"webhook\"\nurl = \"http://{mute}/\"\n[[alerts.sinks]]"
    );
    let sandbox =
        Sandbox::new(broker.brokers(), &topics, &settings(&url, RULE).replacen("[[alerts.sinks]]", &first, 1))?;
    let story = Story::new();
    publish(&broker, &topics, &story.predictions(0, 1_000), &story.labels(0, 0..1_000, 0.5)).await?;
    let process = sandbox.spawn("run", &["run"])?;
    let begin = Instant::now();
    let are_told = async || Ok(!receiver.at("/hook").is_empty() && !receiver.at("/teams").is_empty());
    until("the others are told", HALF_A_MINUTE, are_told).await?;
    // Whoever waits for it waits as long as an answer may take.
    let waited = first_asked.lock().unwrap_or_else(PoisonError::into_inner).map(|asked| asked.elapsed());
    ensure!(waited.is_none_or(|waited| waited < Duration::from_secs(15)), "they waited for the mute one: {waited:?}");
    publish(&broker, &topics, &story.predictions(1, 1_000), &story.labels(1, 0..1_000, 0.99)).await?;
    until("the others are told more", HALF_A_MINUTE, async || Ok(receiver.at("/hook").len() > 1)).await?;
    ensure!(begin.elapsed() < Duration::from_secs(45), "{:?}", begin.elapsed());
    process.kill().await?;
    silent.abort();
    let sent = std::fs::read_to_string(sandbox.store().join("alerting/model_name=churn/sent/a-mute-one.json"))?;
    ensure!(serde_json::from_str::<Value>(&sent)?["next"] == 0, "{sent}");
    Ok(())
}

/// kill -9 again and again while windows are judged: every alert is recorded once, and told. Only on a real Kafka: the embedded
/// broker never evicts a killed consumer.
#[tokio::test(flavor = "multi_thread")]
async fn c1_kill_9_loses_no_alert_and_repeats_none() -> Result<()> {
    let Some(broker) = Broker::real("c1_kill_9_loses_no_alert_and_repeats_none")? else { return Ok(()) };
    let topics = Topics::unique();
    create(&broker, &topics).await?;
    let receiver = Receiver::default();
    let url = receiver.start().await?;
    let sandbox = Sandbox::new(broker.brokers(), &topics, &settings(&url, RULE))?;
    let story = Story::new();
    for hour in 0..12 {
        let share = if hour % 3 == 2 { 0.5 } else { 0.95 };
        publish(&broker, &topics, &story.predictions(hour, 600), &story.labels(hour, 0..600, share)).await?;
        let process = sandbox.spawn(&format!("life-{hour}"), &["run"])?;
        tokio::time::sleep(Duration::from_millis(700 + 150 * hour as u64)).await;
        process.kill().await?;
    }
    sandbox.catch_up().await?;
    #[derive(Debug, Deserialize)]
    struct Alert {
        alert_id: String,
        firing: i64,
    }
    let query = "SELECT alert_id, count(*) FILTER (WHERE transition = 'firing') AS firing FROM alerts \
                 WHERE transition IN ('firing', 'withdrawn') AND segment IS NULL GROUP BY alert_id";
    let alerts: Vec<Alert> = sandbox.sql(query).await?;
    ensure!(alerts.len() == 4 && alerts.iter().all(|alert| alert.firing == 1), "{alerts:?}");
    let told = receiver.at("/hook");
    let mut named: BTreeSet<String> = BTreeSet::new();
    for one in &told {
        for alert in one.body["alerts"].as_array().into_iter().flatten() {
            named.extend(alert["annotations"]["alert_id"].as_str().map(str::to_owned));
        }
    }
    for alert in &alerts {
        ensure!(named.contains(&alert.alert_id), "nobody was told of {}", alert.alert_id);
    }
    Ok(())
}
