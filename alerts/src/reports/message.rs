//! What sinks are told of a report: in a few sentences, with links; by e-mail with the pages themselves.
use std::collections::BTreeMap;

use driftline_schemas::clock::{Micros, show};
use driftline_schemas::config::{ReportFormat, ReportSpec, Sink, SinkKind};
use driftline_store::{Store, encode_segment, paths};
use serde_json::{Value, json};
use xxhash_rust::xxh3::xxh3_128;

use super::log::{Filed, Made};
use crate::Error;
use crate::email::{self, Attachment, Draft};
use crate::message::{
    Card, Message, SLACK_BLOCK_MAX, SLACK_MAX, card_link, card_text, cloudevent, cut, slack_block, slack_text,
};

/// Models that one message tells of; more are counted, and lie in the store.
const MODELS_MAX: usize = 50;
/// Sentences of a model that one message has.
const FINDINGS_MAX: usize = 5;
/// Pages that go with an e-mail, bytes in all; of more there are links. Many servers refuse what is above ten megabytes as base64.
const ATTACHED_MAX: usize = 6_000_000;
/// Blocks that Slack takes in one message.
const BLOCKS_MAX: usize = 48;

/// The id of what one sink is told of one occurrence.
pub(super) fn message_id(report: &str, occurrence: Micros, sink: &str) -> String {
    format!("msg_{:032x}", xxh3_128(format!("report/{}:{report}/{occurrence}/{sink}", report.len()).as_bytes()))
}

/// The messages that tell a sink of an occurrence.
pub(super) async fn messages(
    store: &Store,
    spec: &ReportSpec,
    sink: &Sink,
    at: Micros,
    made: &Made,
) -> Result<Vec<Message>, Error> {
    let id = message_id(&spec.name, made.occurrence, &sink.name);
    let url = sink.url.clone();
    let one = |content_type: &'static str, body: Value, is_signed: bool| {
        vec![Message { url: url.clone(), id: id.clone(), content_type, body: body.to_string(), is_signed }]
    };
    let event = || json!({ "type": "report.made", "timestamp": show(at), "data": data(store, spec, made) });
    Ok(match sink.kind {
        SinkKind::Webhook => one("application/json", event(), sink.secret.is_some()),
        SinkKind::Command => one("application/json", event(), false),
        SinkKind::Cloudevents => {
            let (source, subject) =
                (format!("/driftline/reports/{}", encode_segment(&spec.name)), show(made.occurrence));
            let body = cloudevent(&id, &source, "io.driftline.report.v1", at, &subject, data(store, spec, made));
            one("application/cloudevents+json", body, sink.secret.is_some())
        }
        SinkKind::Slack => one("application/json", slack(store, spec, made), false),
        SinkKind::Teams => one("application/json", teams(store, spec, made), false),
        SinkKind::Email => vec![email::message(sink, &id, at, &draft(store, spec, made).await?)],
        // The configuration does not let them be told of reports.
        SinkKind::Alertmanager | SinkKind::Pagerduty => Vec::new(),
    })
}

/// Where a file can be reached.
fn link(store: &Store, spec: &ReportSpec, path: &str) -> String {
    match &spec.link {
        Some(base) => {
            let below = path.strip_prefix(paths::REPORTS).unwrap_or(path).trim_start_matches('/');
            // The names in the store are percent-encoded already; in an address their percent signs are letters.
            format!("{}/{}", base.trim_end_matches('/'), below.replace('%', "%25"))
        }
        None => format!("{}/{path}", store.url().trim_end_matches('/')),
    }
}

fn links(store: &Store, spec: &ReportSpec, filed: &Filed) -> BTreeMap<String, String> {
    filed.files.iter().map(|(format, path)| (format.clone(), link(store, spec, path))).collect()
}

fn title(spec: &ReportSpec, made: &Made) -> String {
    let models = made.models.len();
    let of = match made.models.keys().next() {
        Some(only) if models == 1 => only.clone(),
        _ => format!("{models} models"),
    };
    format!("Report {}: {of}, {} to {}", spec.name, show(made.from), show(made.to))
}

/// What happened, for programs.
fn data(store: &Store, spec: &ReportSpec, made: &Made) -> Value {
    let model = |(name, filed): (&String, &Filed)| {
        json!({
            "model": name,
            "windows": filed.windows,
            "findings": filed.findings,
            "files": filed.files,
            "links": links(store, spec, filed),
        })
    };
    let models: Vec<Value> = made.models.iter().take(MODELS_MAX).map(model).collect();
    json!({
        "report": spec.name,
        "occurrence": show(made.occurrence),
        "from": show(made.from),
        "to": show(made.to),
        "skipped": made.skipped,
        "truncated_models": made.models.len().saturating_sub(models.len()),
        "models": models,
        "without_windows": made.empty,
        "failed": made.failed,
    })
}

/// The models that need attention come first.
fn by_weight(made: &Made) -> Vec<(&String, &Filed)> {
    let rank = |filed: &Filed| {
        let of = |severity: &str| filed.findings.iter().filter(|finding| finding.severity == severity).count();
        std::cmp::Reverse((of("bad"), of("notable")))
    };
    let mut models: Vec<(&String, &Filed)> = made.models.iter().collect();
    models.sort_by_key(|(name, filed)| (rank(filed), name.as_str()));
    models
}

/// What else is to be said of an occurrence.
fn remarks(made: &Made) -> Vec<String> {
    let mut remarks = Vec::new();
    if made.models.len() > MODELS_MAX {
        remarks.push(format!("{} more models are in the store.", made.models.len() - MODELS_MAX));
    }
    if !made.empty.is_empty() {
        remarks.push(format!("Without a window in this period: {}.", cut(&made.empty.join(", "), 1_000)));
    }
    remarks.extend(made.failed.iter().take(MODELS_MAX).map(|(model, why)| format!("{model} has no report: {why}.")));
    if made.skipped > 0 {
        remarks.push(format!("{} occurrence(s) before this one were missed, and are left out.", made.skipped));
    }
    remarks
}

/// A model in plain lines, and where its page is.
fn lines(store: &Store, spec: &ReportSpec, filed: &Filed) -> (Vec<String>, Option<String>) {
    let told = filed.findings.iter().take(FINDINGS_MAX);
    let mut lines: Vec<String> = told.map(|finding| format!("[{}] {}", finding.severity, finding.text)).collect();
    let more = filed.findings.len().saturating_sub(FINDINGS_MAX);
    if more > 0 {
        lines.push(format!("and {more} more in the report"));
    }
    let links = links(store, spec, filed);
    let first = ["html", "md", "json"].iter().find_map(|format| links.get(*format)).cloned();
    (lines, first)
}

fn slack(store: &Store, spec: &ReportSpec, made: &Made) -> Value {
    let title = slack_text(&title(spec, made));
    let (mut blocks, mut remarks) = (vec![slack_block(&format!("*{title}*"))], remarks(made));
    let mut room = SLACK_MAX.saturating_sub(remarks.iter().map(|remark| remark.chars().count()).sum());
    let models = by_weight(made);
    for (at, (model, filed)) in models.iter().take(MODELS_MAX).enumerate() {
        let (lines, link) = lines(store, spec, filed);
        let name = match link.filter(|link| link.starts_with("http")) {
            Some(link) => format!("<{link}|{}>", slack_text(model).replace('|', " ")),
            None => format!("*{}*", slack_text(model)),
        };
        let text = cut(&format!("{name}\n{}", slack_text(&lines.join("\n"))), SLACK_BLOCK_MAX);
        let left = room.checked_sub(text.chars().count()).filter(|_| blocks.len() < BLOCKS_MAX);
        let Some(left) = left else {
            remarks.push(format!("{} models do not fit here.", models.len().min(MODELS_MAX) - at));
            break;
        };
        room = left;
        blocks.push(slack_block(&text));
    }
    if !remarks.is_empty() {
        blocks.push(slack_block(&slack_text(&remarks.join("\n"))));
    }
    json!({ "text": title, "blocks": blocks })
}

fn teams(store: &Store, spec: &ReportSpec, made: &Made) -> Value {
    let (mut links, mut remarks) = (Vec::new(), remarks(made));
    let mut card = Card::new(&title(spec, made), remarks.iter().map(String::len).sum());
    let models = by_weight(made);
    for (at, (model, filed)) in models.iter().take(MODELS_MAX).enumerate() {
        let (lines, link) = lines(store, spec, filed);
        let own: Vec<Value> =
            std::iter::once(card_text(model, true)).chain(lines.iter().map(|line| card_text(line, false))).collect();
        if !card.add(own) {
            remarks.push(format!("{} models do not fit here.", models.len().min(MODELS_MAX) - at));
            break;
        }
        // A card shows six buttons.
        if let Some(link) = link.filter(|link| link.starts_with("http") && links.len() < 6) {
            links.push(card_link(&cut(model, 60), &link));
        }
    }
    remarks.iter().for_each(|remark| card.end(remark));
    card.message(&links)
}

/// An e-mail: the sentences of each model, and the pages with it as far as they fit.
async fn draft(store: &Store, spec: &ReportSpec, made: &Made) -> Result<Draft, Error> {
    let title = title(spec, made);
    let (mut text, mut html) =
        (format!("{title}\n"), format!("<h1 style=\"font-size:1.2em\">{}</h1>", email::escape(&title)));
    let mut attachments: Vec<Attachment> = Vec::new();
    let mut room = ATTACHED_MAX;
    for (model, filed) in by_weight(made).into_iter().take(MODELS_MAX) {
        let (lines, link) = lines(store, spec, filed);
        let heading = email::escape(model);
        text.push_str(&format!("\n{model}\n{}", email::bullets(&lines)));
        let items = email::items(&lines);
        html.push_str(&format!(
            "<h2 style=\"font-size:1em\">{heading}</h2><ul style=\"padding-left:1.2em\">{items}</ul>"
        ));
        if let Some(link) = link {
            text.push_str(&format!("{link}\n"));
            let link = email::escape(&link);
            let shown = if link.starts_with("http") { format!("<a href=\"{link}\">{link}</a>") } else { link };
            html.push_str(&format!("<p>{shown}</p>"));
        }
        for (format, path) in &filed.files {
            // A report that somebody has deleted is still told of.
            let Some(object) = store.get(path).await? else { continue };
            if object.bytes.len() > room {
                continue;
            }
            room -= object.bytes.len();
            let file = path.rsplit('/').next().unwrap_or(path);
            let all = [ReportFormat::Html, ReportFormat::Json, ReportFormat::Markdown];
            let kind = all
                .iter()
                .find(|kind| kind.as_str() == format)
                .map_or("application/octet-stream", |kind| kind.media_type());
            attachments.push(Attachment { name: file.to_owned(), media_type: kind, bytes: object.bytes.to_vec() });
        }
    }
    for remark in remarks(made) {
        text.push_str(&format!("\n{remark}\n"));
        html.push_str(&format!("<p>{}</p>", email::escape(&remark)));
    }
    Ok(Draft { subject: title, text, html: email::page(&html), attachments })
}

#[cfg(test)]
mod tests {
    use driftline_schemas::clock::DAY;
    use driftline_schemas::config::Config;

    use super::super::Told;
    use super::*;

    const FILE: &str = r#"
        [[alerts.sinks]]
        name = "hook"
        type = "webhook"
        url = "https://example.org/hook"
        secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
        [[alerts.sinks]]
        name = "slack"
        type = "slack"
        url = "https://example.org/slack"
        [[alerts.sinks]]
        name = "teams"
        type = "teams"
        url = "https://example.org/teams"
        [[alerts.sinks]]
        name = "events"
        type = "cloudevents"
        url = "https://example.org/events"
        [[alerts.sinks]]
        name = "mail"
        type = "email"
        url = "smtp://mail.example.org"
        from = "driftline@example.org"
        to = ["ops@example.org"]
        [[reports]]
        name = "weekly"
        cron = "@weekly"
        link = "https://reports.example.org/driftline/"
        "#;

    fn filed(severity: &str, path: &str) -> Filed {
        let finding = Told { severity: severity.into(), text: "f1 <is> low & so on".into() };
        Filed { windows: 7, findings: vec![finding], files: BTreeMap::from([("html".into(), path.into())]) }
    }

    fn made() -> Made {
        let models = [("a fine one", "fine"), ("z|bad", "bad")]
            .map(|(model, severity)| {
                let path = paths::report("weekly", "1970-01-08T0000Z", model, "html");
                (model.to_owned(), filed(severity, &path))
            })
            .into();
        Made {
            occurrence: 7 * DAY,
            from: 0,
            to: 7 * DAY,
            skipped: 2,
            models,
            empty: vec!["sleepy".into()],
            failed: BTreeMap::from([("broken".to_owned(), "its table is no Parquet".to_owned())]),
        }
    }

    async fn body(store: &Store, sink: &str) -> (Message, Value) {
        body_of(store, FILE, sink, &made()).await
    }

    async fn body_of(store: &Store, file: &str, sink: &str, made: &Made) -> (Message, Value) {
        let config = Config::from_table(file.parse().expect("TOML")).expect("a good file");
        let sink = config.alerts.sinks.iter().find(|known| known.name == sink).expect("a sink");
        let sent = messages(store, &config.reports[0], sink, 7 * DAY + 1, made).await.expect("messages");
        let [message] = sent.as_slice() else { panic!("{sent:?}") };
        (message.clone(), serde_json::from_str(&message.body).unwrap_or(Value::Null))
    }

    #[tokio::test]
    async fn each_sink_is_told_in_its_own_words_with_links() {
        let store = Store::in_memory();
        let (message, hook) = body(&store, "hook").await;
        assert!(message.is_signed);
        assert_eq!((&hook["type"], &hook["data"]["report"]), (&json!("report.made"), &json!("weekly")));
        let link = "https://reports.example.org/driftline/weekly/1970-01-08T0000Z/z%257Cbad.html";
        assert_eq!(hook["data"]["models"][1]["links"]["html"], link, "a name in the store is a name in an address");
        assert_eq!((&hook["data"]["skipped"], &hook["data"]["without_windows"][0]), (&json!(2), &json!("sleepy")));
        let (_, slack) = body(&store, "slack").await;
        assert!(
            slack["blocks"][1]["text"]["text"].as_str().expect("text").starts_with(&format!("<{link}|z bad>")),
            "{slack}"
        );
        assert!(slack.to_string().contains("f1 &lt;is&gt; low &amp; so on"), "{slack}");
        let (_, teams) = body(&store, "teams").await;
        assert_eq!(teams["attachments"][0]["content"]["actions"][0]["url"], link, "the bad one comes first");
        let later = Made { occurrence: 8 * DAY, ..made() };
        assert_ne!(message.id, body_of(&store, FILE, "hook", &later).await.0.id, "another occurrence, another message");
        let (message, event) = body(&store, "events").await;
        assert_eq!((&event["type"], &event["id"]), (&json!("io.driftline.report.v1"), &json!(message.id)));
    }

    #[tokio::test]
    async fn an_e_mail_brings_the_pages_that_fit() {
        let store = Store::in_memory();
        let put = async |model: &str, bytes: Vec<u8>| {
            let path = paths::report("weekly", "1970-01-08T0000Z", model, "html");
            store.put(&path, bytes.into()).await.expect("put");
        };
        put("z|bad", b"<p>page</p>".to_vec()).await;
        put("a fine one", vec![b'x'; ATTACHED_MAX]).await;
        let (message, _) = body(&store, "mail").await;
        assert_eq!(message.content_type, "message/rfc822");
        assert_eq!(message.body.matches("Content-Disposition: attachment").count(), 1, "the other one is too large");
        assert!(message.body.contains("filename=\"z%7Cbad.html\""));
        assert!(message.body.contains(&format!("Message-ID: <{}@example.org>", message.id)));
    }

    /// Models with so many findings of so many letters each, all of one severity.
    fn many(models: usize, findings: usize, letters: usize) -> Made {
        let name = |at: usize| format!("m{at:02}");
        let filed = |at: usize| {
            let finding = |of: usize| Told { severity: "fine".into(), text: format!("<{of}> {}", "x".repeat(letters)) };
            let path = paths::report("weekly", "1970-01-08T0000Z", &name(at), "html");
            let files = BTreeMap::from([("html".into(), path)]);
            Filed { windows: 1, findings: (0..findings).map(finding).collect(), files }
        };
        Made { models: (0..models).map(|at| (name(at), filed(at))).collect(), ..made() }
    }

    fn texts(blocks: &Value) -> Vec<String> {
        let text =
            |block: &Value| block["text"]["text"].as_str().or(block["inlines"][0]["text"].as_str()).map(str::to_owned);
        blocks.as_array().expect("a list").iter().filter_map(text).collect()
    }

    #[tokio::test]
    async fn b1_a_chat_is_told_what_fits_and_how_much_does_not() {
        let store = Store::in_memory();
        let (_, slack) = body_of(&store, FILE, "slack", &many(60, 8, 700)).await;
        let blocks = texts(&slack["blocks"]);
        // Slack takes 50 blocks of 3,000 characters.
        assert!(blocks.len() <= 50 && blocks.iter().all(|text| text.chars().count() <= 3_000), "{}", blocks.len());
        let remarks = blocks.last().expect("remarks");
        let shown = blocks.iter().filter(|text| text.starts_with("<https://")).count();
        for said in [
            "10 more models are in the store.".to_owned(),
            format!("{} models do not fit here.", 50 - shown),
            "Without a window in this period: sleepy.".to_owned(),
            "broken has no report: its table is no Parquet.".to_owned(),
            "2 occurrence(s) before this one were missed".to_owned(),
        ] {
            assert!(remarks.contains(&said), "{said} is not in {remarks}");
        }
        let (_, slack) = body_of(&store, FILE, "slack", &many(1, 8, 10)).await;
        let told = texts(&slack["blocks"]).remove(1);
        assert!(told.contains("&lt;4&gt;") && !told.contains("&lt;5&gt;") && told.contains("and 3 more"), "{told}");
        // Teams takes some 28 KB, and six buttons.
        let (message, teams) = body_of(&store, FILE, "teams", &many(60, 5, 300)).await;
        assert!(message.body.len() < 28_000, "{} bytes", message.body.len());
        let card = &teams["attachments"][0]["content"];
        assert_eq!(card["actions"].as_array().map(Vec::len), Some(6));
        let shown = texts(&card["body"]).iter().filter(|text| text.len() == 3).count();
        assert!((1..50).contains(&shown), "{shown}");
        let left_out = format!("{} models do not fit here.", 50 - shown);
        assert!(texts(&card["body"]).contains(&left_out), "{left_out}");
    }

    #[tokio::test]
    async fn what_needs_attention_comes_first() {
        let store = Store::in_memory();
        let of = |severities: &[&str]| {
            let finding = |severity: &&str| Told { severity: (*severity).into(), text: String::new() };
            Filed { findings: severities.iter().map(finding).collect(), ..filed("fine", "reports/a.html") }
        };
        let models = [
            ("a", of(&["fine", "fine"])),
            ("b", of(&["notable", "notable", "notable"])),
            ("c", of(&["bad"])),
            ("d", of(&["bad", "notable"])),
            ("e", of(&["notable"])),
        ];
        let made = Made { models: models.map(|(name, filed)| (name.to_owned(), filed)).into(), ..made() };
        let (_, teams) = body_of(&store, FILE, "teams", &made).await;
        let names: Vec<String> = texts(&teams["attachments"][0]["content"]["body"]);
        let names: Vec<&str> = names.iter().map(String::as_str).filter(|text| text.len() == 1).collect();
        assert_eq!(names, ["d", "c", "b", "e", "a"]);
    }

    /// Without an address of the store's folder there is nothing that a browser opens: names, no links.
    #[tokio::test]
    async fn what_is_no_address_is_no_link() {
        let store = Store::in_memory();
        let file = FILE.replace("link = ", "# link = ");
        let (_, slack) = body_of(&store, &file, "slack", &made()).await;
        assert!(texts(&slack["blocks"])[1].starts_with("*z|bad*\n"), "{slack}");
        let (_, teams) = body_of(&store, &file, "teams", &made()).await;
        assert_eq!(teams["attachments"][0]["content"]["actions"], json!([]));
        let (_, hook) = body_of(&store, &file, "hook", &made()).await;
        let link = hook["data"]["models"][1]["links"]["html"].as_str().expect("a name in the store");
        assert!(link.ends_with("/reports/weekly/1970-01-08T0000Z/z%7Cbad.html") && !link.starts_with("http"), "{link}");
        let config = Config::from_table(file.parse().expect("TOML")).expect("a good file");
        let mail = draft(&store, &config.reports[0], &made()).await.expect("written");
        assert!(mail.text.contains(link) && mail.html.contains(link) && !mail.html.contains("<a "), "{}", mail.html);
    }

    #[tokio::test]
    async fn b1_pages_are_attached_as_far_as_all_of_them_fit_and_those_that_are_gone_are_still_told_of() {
        let store = Store::in_memory();
        let mut made = many(5, 1, 10);
        let html = |model: &str, format: &str| paths::report("weekly", "1970-01-08T0000Z", model, format);
        for (model, filed) in &mut made.models {
            filed.files.insert("md".into(), html(model, "md"));
        }
        // Two halves are the whole, a third one is too much, and a small one does not fit either; `m04` has been deleted.
        for (model, format, bytes) in [
            ("m00", "html", ATTACHED_MAX / 2),
            ("m01", "html", ATTACHED_MAX / 2 + 1),
            ("m01", "md", ATTACHED_MAX / 2 - 1),
            ("m02", "html", 1),
            ("m02", "md", 1),
            ("m03", "html", 0),
        ] {
            store.put(&html(model, format), vec![b'x'; bytes].into()).await.expect("put");
        }
        let config = Config::from_table(FILE.parse().expect("TOML")).expect("a good file");
        let mail = draft(&store, &config.reports[0], &made).await.expect("written");
        let attached: Vec<(&str, &str)> =
            mail.attachments.iter().map(|file| (file.name.as_str(), file.media_type)).collect();
        let (page, text) = ("text/html; charset=utf-8", "text/markdown; charset=utf-8");
        assert_eq!(attached, [("m00.html", page), ("m01.md", text), ("m02.html", page), ("m03.html", page)]);
        for said in ["\nm04\n* [fine] <0>", "/m04.html", "broken has no report", "2 occurrence(s)", "sleepy"] {
            assert!(mail.text.contains(said), "{said} is not in {}", mail.text);
        }
        assert!(mail.html.contains("&lt;0&gt;") && !mail.html.contains("<0>"), "{}", mail.html);
    }

    #[tokio::test]
    async fn every_name_is_text_and_no_markup() {
        let store = Store::in_memory();
        let models = BTreeMap::from([("<b>&\"".to_owned(), filed("bad", "reports/a.html"))]);
        let made = Made { models, empty: vec!["<i>".into()], ..made() };
        let config = Config::from_table(FILE.parse().expect("TOML")).expect("a good file");
        let html = draft(&store, &config.reports[0], &made).await.expect("written").html;
        assert!(html.contains("&lt;b&gt;&amp;&quot;</h2>") && html.contains("&lt;i&gt;"), "{html}");
        assert!(!html.contains("<b>") && !html.contains("<i>"), "{html}");
    }

    #[test]
    fn every_occurrence_and_sink_has_an_id_of_its_own() {
        let ids =
            [message_id("a", 1, "s"), message_id("a", 2, "s"), message_id("a", 1, "t"), message_id("a/1", 1, "s")];
        assert_eq!(ids.iter().collect::<std::collections::BTreeSet<_>>().len(), 4);
        assert_eq!(ids[0], message_id("a", 1, "s"));
        assert_ne!(ids[0], crate::message::message_id("a", 1, "s"), "nor is it an alert's");
    }
}
