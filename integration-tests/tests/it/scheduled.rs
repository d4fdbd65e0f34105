//! Reports that are made by themselves, from end to end: on time or made up for, once, and told at least once under one id; by
//! webhook, by a program, and by e-mail on a real mail server.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, ensure};
use driftline_integration_tests::generator::{Options, generate};
use driftline_integration_tests::kafka::{Broker, Topics};
use driftline_schemas::clock::{self, DAY};
use driftline_store::encode_segment;
use serde_json::Value;

use crate::alerts::Receiver;
use crate::otlp::certificate;
use crate::outside;
use crate::sandbox::Sandbox;

/// A store with some windows of three models, whose report `digest` is told to `sinks`.
async fn sandbox(sinks: &str, names: &str) -> Result<Sandbox> {
    let broker = Broker::embedded()?;
    let options = Options { predictions: 400, ..Options::default() };
    let run = generate(&options);
    let topics = Topics::unique();
    broker.create_topics(&topics, &run).await?;
    broker.produce(&topics, &run.records).await?;
    let report = format!(
        "[[reports]]\nname = \"digest\"\ncron = \"@daily\"\nperiod = \"3650d\"\nformats = [\"html\", \"json\", \"md\"]\nsinks = [{names}]\n"
    );
    let settings = format!("{}\n[alerts]\nallow_local = true\n{sinks}\n{report}", options.models_toml());
    let sandbox = Sandbox::new(broker.brokers(), &topics, &settings)?;
    sandbox.catch_up().await?;
    Ok(sandbox)
}

/// As if the process had been down for so many days: the schedule was first seen then.
fn was_down_for(sandbox: &Sandbox, days: i64) -> Result<()> {
    let first = sandbox.store().join("reporting/digest/00000000000000000000.json");
    let mut record: Value = serde_json::from_slice(&std::fs::read(&first).context("the schedule is noted")?)?;
    let midnight = clock::now_micros().div_euclid(DAY) * DAY;
    record["done_to"] = (midnight - days * DAY).into();
    std::fs::write(&first, record.to_string())?;
    Ok(())
}

fn records(sandbox: &Sandbox) -> Result<Vec<Value>> {
    let mut records = Vec::new();
    while let Ok(bytes) = std::fs::read(sandbox.store().join(format!("reporting/digest/{:020}.json", records.len()))) {
        records.push(serde_json::from_slice(&bytes)?);
    }
    Ok(records)
}

#[tokio::test(flavor = "multi_thread")]
async fn reports_are_made_up_for_once_and_told_whatever_dies() -> Result<()> {
    let receiver = Receiver::default();
    let url = receiver.start().await?;
    // The first copy is refused.
    receiver.will_answer("/hook", &[503]);
    // The program takes the first message, and kills us before we can note it.
    let sinks = format!(
        r#"
        [[alerts.sinks]]
        name = "hook"
        type = "webhook"
        alerts = false
        url = "{url}/hook"
        secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
        [[alerts.sinks]]
        name = "script"
        type = "command"
        command = ["sh", "-c", "cat > /dev/null; echo $DRIFTLINE_MESSAGE_ID >> ids; test -e killed || (touch killed; kill -9 $PPID)"]
        "#
    );
    let sandbox = sandbox(&sinks, "\"hook\", \"script\"").await?;
    ensure!(records(&sandbox)?.len() == 1, "a schedule begins when it is first seen");
    ensure!(!sandbox.store().join("reports").exists(), "and nothing of the time before is made");

    was_down_for(&sandbox, 5)?;
    let died = sandbox.run(&["run", "--until-caught-up"]).await?;
    ensure!(died.code.is_none(), "it was to be killed: {died:?}");
    sandbox.catch_up().await?;
    sandbox.catch_up().await?;
    let records = records(&sandbox)?;
    let made: Vec<&Value> = records.iter().map(|record| &record["made"]).filter(|made| !made.is_null()).collect();
    let skipped: Vec<i64> = made.iter().filter_map(|made| made["skipped"].as_i64()).collect();
    ensure!(skipped == [2, 0, 0], "the newest three of five are made: {skipped:?}");

    // Each message at least once, each copy under its id: once more for the refused one, once more for the kill.
    let ids = std::fs::read_to_string(sandbox.path("ids"))?;
    let ids: Vec<&str> = ids.lines().collect();
    ensure!(ids.len() == 4 && ids[0] == ids[1] && ids.iter().collect::<BTreeSet<_>>().len() == 3, "{ids:?}");
    let received = receiver.at("/hook");
    let distinct: BTreeSet<&str> = received.iter().map(|one| one.id.as_str()).collect();
    ensure!(distinct.len() == 3 && received.len() >= 4 && received[0].id == received[1].id, "{received:?}");
    let is_signed = |signature: &Option<String>| signature.as_ref().is_some_and(|text| text.starts_with("v1,"));
    ensure!(received.iter().all(|one| is_signed(&one.signature)), "{received:?}");
    ensure!(received[0].body == received[1].body, "copies differ");
    let body = &received[received.len() - 1].body;
    ensure!(body["type"] == "report.made" && body["data"]["report"] == "digest", "{body}");

    // What lies in the store is what `report --name` makes, and each of its files is there once.
    let last = made[2];
    let models: Vec<String> = last["models"].as_object().context("models")?.keys().cloned().collect();
    ensure!(models.len() >= 3, "{models:?}");
    sandbox.succeed(&["report", "--name", "digest", "--out", "by-hand"]).await?;
    for model in &models {
        let files = &last["models"][model]["files"];
        let path = |format: &str| files[format].as_str().map(|path| sandbox.store().join(path)).context("a file");
        let (mut stored, mut by_hand) = (
            serde_json::from_slice::<Value>(&std::fs::read(path("json")?)?)?,
            serde_json::from_slice::<Value>(&std::fs::read(
                sandbox.path(&format!("by-hand/{}.json", encode_segment(model))),
            )?)?,
        );
        ensure!(stored["windows"].as_array().is_some_and(|windows| !windows.is_empty()), "{model} has no window");
        for report in [&mut stored, &mut by_hand] {
            report["generated_at"] = Value::Null;
        }
        ensure!(stored == by_hand, "{model}: the report by hand says something else");
        let page = std::fs::read_to_string(path("html")?)?;
        ensure!(page.contains(&format!("<h1>{model}</h1>")) && !page.contains("<script"), "{model}");
        ensure!(std::fs::read_to_string(path("md")?)?.starts_with(&format!("# {model}")), "{model}");
    }
    let occurrences = std::fs::read_dir(sandbox.store().join("reports/digest"))?.count();
    ensure!(occurrences == 3, "{occurrences} occurrences lie in the store");
    ensure!(
        !sandbox.store().join("reporting/digest/drafts").read_dir().is_ok_and(|mut left| {
            left.any(|folder| {
                folder.is_ok_and(|folder| folder.path().read_dir().is_ok_and(|mut files| files.next().is_some()))
            })
        }),
        "drafts are left"
    );
    let checked = sandbox.succeed(&["config", "print"]).await?;
    ensure!(checked.contains("report \"digest\" at \"@daily\" in UTC: next "), "{checked}");
    let said = sandbox.run(&["report", "--name", "nobody", "--out", "x"]).await?;
    ensure!(said.code == Some(2) && said.stderr.contains("knows digest"), "{said:?}");
    Ok(())
}

/// Three evaluators side by side on one store make one.
#[tokio::test(flavor = "multi_thread")]
async fn processes_that_share_the_work_make_one() -> Result<()> {
    let sandbox = sandbox("", "").await?;
    was_down_for(&sandbox, 2)?;
    let caught_up = || sandbox.run(&["run", "--roles", "evaluator", "--until-caught-up"]);
    let (one, other, third) = tokio::join!(caught_up(), caught_up(), caught_up());
    for said in [one?, other?, third?] {
        ensure!(said.code == Some(0), "{said:?}");
    }
    let records = records(&sandbox)?;
    let occurrences: Vec<i64> = records.iter().filter_map(|record| record["made"]["occurrence"].as_i64()).collect();
    ensure!(occurrences.len() == 2 && occurrences[0] < occurrences[1], "{occurrences:?}");
    for record in records.iter().filter(|record| !record["made"].is_null()) {
        for (model, filed) in record["made"]["models"].as_object().context("models")? {
            let path = filed["files"]["json"].as_str().context("a file")?;
            let stored: Value = serde_json::from_slice(&std::fs::read(sandbox.store().join(path))?)?;
            ensure!(stored["attention"][0]["text"] == filed["findings"][0]["text"], "{model}: of two makings");
        }
    }
    Ok(())
}

/// A mail server that runs beside a test, and what it has taken.
struct MailServer {
    child: Child,
    port: u16,
    out: PathBuf,
}

impl Drop for MailServer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl MailServer {
    fn start(python: &str, out: PathBuf, arguments: &[&str]) -> Result<Self> {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts/smtp_server.py");
        let mut child = Command::new(python)
            .arg(script)
            .arg("--out")
            .arg(&out)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("start the mail server")?;
        let mut line = String::new();
        BufReader::new(child.stdout.take().context("its output")?).read_line(&mut line)?;
        let port = line.trim().strip_prefix("port=").and_then(|port| port.parse().ok()).context("its port")?;
        Ok(Self { child, port, out })
    }

    fn mails(&self) -> Result<Vec<Value>> {
        let Ok(text) = std::fs::read_to_string(&self.out) else { return Ok(Vec::new()) };
        Ok(text.lines().map(serde_json::from_str).collect::<Result<_, _>>()?)
    }
}

/// Over STARTTLS and AUTH, over TLS from the first byte, in the clear on this machine; and nowhere else.
#[tokio::test(flavor = "multi_thread")]
async fn alerts_and_reports_go_by_e_mail_over_a_real_server() -> Result<()> {
    let Some(python) = outside::python()? else { return Ok(()) };
    let folder = tempfile::tempdir()?;
    let (chain, key) = certificate(folder.path())?;
    let (chain, key) = (chain.display().to_string(), key.display().to_string());
    std::fs::write(folder.path().join("password"), "hunter2 ünd\n")?;
    let password = folder.path().join("password").display().to_string();
    let of_user = ["--user", "driftline", "--password", "hunter2 ünd"];
    let tls = ["--certificate", &chain, "--key", &key];
    let start =
        |name: &str, arguments: &[&[&str]]| MailServer::start(&python, folder.path().join(name), &arguments.concat());
    let starttls = start("starttls", &[&tls, &of_user, &["--refuse", "gone@example.org", "--busy", "1"]])?;
    let implicit = start("implicit", &[&tls, &of_user, &["--implicit", "--login-only"]])?;
    let plain = start("plain", &[])?;
    let sink = |name: &str, url: &str, more: &str| {
        format!(
            "[[alerts.sinks]]\nname = \"{name}\"\ntype = \"email\"\nurl = \"{url}\"\nfrom = \"Driftline <driftline@example.org>\"\n\
             to = [\"Zoë <zoe@example.org>\", \"gone@example.org\"]\n{more}\n"
        )
    };
    let known = format!("username = \"driftline\"\nsecret_file = {password:?}\nca_certificate_file = {chain:?}");
    let sinks = [
        sink("starttls", &format!("smtp://localhost:{}", starttls.port), &known),
        sink("implicit", &format!("smtps://localhost:{}", implicit.port), &known),
        sink("plain", &format!("smtp://localhost:{}", plain.port), "tls = \"none\""),
        sink("no-tls", &format!("smtp://localhost:{}", plain.port), ""),
        sink(
            "stranger",
            &format!("smtp://localhost:{}", starttls.port),
            &format!("username = \"driftline\"\nsecret = \"guessed\"\nca_certificate_file = {chain:?}"),
        ),
        sink(
            "untrusted",
            &format!("smtp://localhost:{}", starttls.port),
            &format!("username = \"driftline\"\nsecret_file = {password:?}"),
        ),
    ]
    .concat();
    let sandbox = sandbox(&sinks, "\"starttls\"").await?;
    // What is refused for now comes again, as the same message.
    was_down_for(&sandbox, 1)?;
    sandbox.catch_up().await?;
    let mails = starttls.mails()?;
    let [mail] = mails.as_slice() else { anyhow::bail!("{} mails", mails.len()) };
    ensure!(mail["is_encrypted"] == true && mail["user"] == "driftline", "{mail}");
    ensure!(
        mail["to"] == serde_json::json!(["zoe@example.org"]),
        "the mailbox that is not there holds nobody up: {mail}"
    );
    ensure!(mail["defects"] == serde_json::json!([]), "{mail}");
    let subject = mail["headers"]["Subject"].as_str().unwrap_or_default();
    ensure!(subject.starts_with("Report digest: "), "{subject}");
    ensure!(mail["headers"]["To"] == "Zoë <zoe@example.org>, gone@example.org", "{mail}");
    let id = mail["headers"]["Message-ID"].as_str().unwrap_or_default();
    ensure!(id.starts_with("<msg_") && id.ends_with("@example.org>"), "{id}");
    let parts = mail["parts"].as_array().context("parts")?;
    let types: Vec<&str> = parts.iter().filter_map(|part| part["type"].as_str()).take(2).collect();
    ensure!(types == ["text/plain", "text/html"], "{types:?}");
    let records = records(&sandbox)?;
    let models = records[records.len() - 1]["made"]["models"].as_object().context("models")?;
    for (model, filed) in models {
        let finding = filed["findings"][0]["text"].as_str().context("a finding")?;
        ensure!(
            parts[0]["text"].as_str().is_some_and(|text| text.contains(finding)),
            "{model}'s sentence is not in it"
        );
        let page = std::fs::read_to_string(sandbox.store().join(filed["files"]["html"].as_str().context("a page")?))?;
        let attached = parts.iter().find(|part| part["file"] == format!("{}.html", encode_segment(model)));
        let text = attached.and_then(|part| part["text"].as_str()).map(|text| text.replace("\r\n", "\n"));
        ensure!(text.as_deref() == Some(page.as_str()), "{model}'s page is not with it");
    }

    for (name, server) in [("implicit", &implicit), ("plain", &plain)] {
        let said = sandbox.succeed(&["alerts", "test", "--sink", name]).await?;
        ensure!(said.starts_with("ok"), "{name}: {said}");
        let mails = server.mails()?;
        ensure!(mails.len() == 2, "{name}: an alert and its end, not {}", mails.len());
        ensure!(mails[0]["is_encrypted"] == (name == "implicit"), "{name}: {}", mails[0]);
        ensure!(
            mails[0]["headers"]["Subject"] == "info: test: test of Driftline's notifications",
            "{}",
            mails[0]["headers"]
        );
        ensure!(
            mails[1]["headers"]["Subject"] == "over: test: test of Driftline's notifications",
            "{}",
            mails[1]["headers"]
        );
        ensure!(mails[0]["headers"]["Message-ID"] != mails[1]["headers"]["Message-ID"], "{name}");
    }
    for (name, why) in [("no-tls", "does not offer STARTTLS"), ("stranger", "535"), ("untrusted", "TLS with localhost")]
    {
        let said = sandbox.run(&["alerts", "test", "--sink", name]).await?;
        ensure!(said.code == Some(3) && said.stdout.contains(why), "{name}: {said:?}");
        ensure!(!said.stdout.contains("guessed") && !said.stdout.contains("hunter2"), "{name} shows the password");
    }
    ensure!(starttls.mails()?.len() == 1, "a stranger was let in");
    let printed = sandbox.succeed(&["config", "print"]).await?;
    ensure!(!printed.contains("hunter2") && !printed.contains("guessed"), "{printed}");
    Ok(())
}
