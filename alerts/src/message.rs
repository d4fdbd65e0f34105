//! What sinks are sent: requests made of a record's transitions, each in the words of its receiver.
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use driftline_schemas::clock::{DAY, Micros, show};
use driftline_schemas::config::{AlertsConfig, Severity, Sink, SinkKind};
use ring::hmac;
use serde_json::{Value, json};
use xxhash_rust::xxh3::xxh3_128;

use crate::email;
use crate::life::{Kind, Transition};

/// Alertmanager's word for "not over yet".
const NO_END: &str = "0001-01-01T00:00:00Z";
/// Alerts that one message shows people; more are counted.
const SHOWN_MAX: usize = 20;
/// Alerts of one webhook's body; more are counted in `truncatedAlerts`. Receivers refuse bodies of many megabytes.
const ALERTS_MAX: usize = 500;
/// Alertmanager forgets an alert that nobody sends again; ours says itself when it is over.
const HOLDS: Micros = 365 * DAY;

/// A request over HTTP, or what a command gets.
#[derive(Debug, Clone, PartialEq)]
pub struct Message {
    /// Where it goes; empty for a command.
    pub url: String,
    /// The same for every copy of it, for ever.
    pub id: String,
    /// What the body is.
    pub content_type: &'static str,
    /// The body.
    pub body: String,
    /// Whether it is signed by Standard Webhooks.
    pub is_signed: bool,
}

/// The id of what one sink is told by one record.
pub fn message_id(model: &str, seq: u64, sink: &str) -> String {
    format!("msg_{:032x}", xxh3_128(format!("{}:{model}/{seq}/{sink}", model.len()).as_bytes()))
}

/// The transitions of a record that a sink is told.
pub fn told<'a>(sink: &Sink, transitions: &'a [Transition]) -> Vec<&'a Transition> {
    let is_told = |transition: &&Transition| {
        transition.kind.is_told()
            && transition.silenced.is_none()
            && (transition.sinks.is_empty() || transition.sinks.contains(&sink.name))
            && (transition.kind != Kind::Revised || sink.revisions)
    };
    transitions.iter().filter(is_told).collect()
}

/// The messages that tell a sink of some transitions of one model.
pub fn messages(
    sink: &Sink,
    model: &str,
    seq: u64,
    at: Micros,
    told: &[&Transition],
    external_url: Option<&str>,
) -> Vec<Message> {
    let id = message_id(model, seq, &sink.name);
    let one = |url: String, content_type: &'static str, body: &Value, is_signed: bool| {
        vec![Message { url, id: id.clone(), content_type, body: body.to_string(), is_signed }]
    };
    let url = sink.url.clone();
    match sink.kind {
        SinkKind::Webhook => {
            one(url, "application/json", &webhook(sink, model, told, external_url), sink.secret.is_some())
        }
        SinkKind::Command => one(url, "application/json", &webhook(sink, model, told, external_url), false),
        SinkKind::Alertmanager => {
            let path = "/api/v2/alerts";
            let url = if url.ends_with(path) { url } else { format!("{}{path}", url.trim_end_matches('/')) };
            let part = |(at, told): (usize, &[&Transition])| Message {
                url: url.clone(),
                id: format!("{id}_{at}"),
                content_type: "application/json",
                body: Value::Array(told.iter().map(|t| alertmanager(t, sink, external_url)).collect()).to_string(),
                is_signed: false,
            };
            told.chunks(ALERTS_MAX).enumerate().map(part).collect()
        }
        SinkKind::Email => vec![email::message(sink, &id, at, &email::alert(sink, model, told, external_url))],
        SinkKind::Slack => one(url, "application/json", &slack(sink, model, told, external_url), false),
        SinkKind::Teams => one(url, "application/json", &teams(sink, model, told, external_url), false),
        SinkKind::Cloudevents => {
            let body = json!({
                "specversion": "1.0",
                "id": id,
                "source": format!("/driftline/models/{model}"),
                "type": "io.driftline.alert.v1",
                "time": show(at),
                "subject": model,
                "datacontenttype": "application/json",
                "data": webhook(sink, model, told, external_url),
            });
            one(url, "application/cloudevents+json", &body, sink.secret.is_some())
        }
        SinkKind::Pagerduty => told
            .iter()
            .enumerate()
            .map(|(at, transition)| Message {
                url: url.clone(),
                id: format!("{id}_{at}"),
                content_type: "application/json",
                body: pagerduty(transition, sink, external_url).to_string(),
                is_signed: false,
            })
            .collect(),
    }
}

/// Whether the alert holds after what happened.
fn is_firing(transition: &Transition) -> bool {
    !matches!(transition.kind, Kind::Resolved | Kind::Withdrawn)
}

fn status(transition: &Transition) -> &'static str {
    if is_firing(transition) { "firing" } else { "resolved" }
}

/// What people read of one transition.
fn text(sink: &Sink, transition: &Transition) -> String {
    let Some(template) = &sink.text else { return transition.show() };
    let (series, evidence) = (&transition.series, &transition.evidence);
    let or_empty = |text: &Option<String>| text.clone().unwrap_or_default();
    let fields = [
        ("alertname", series.rule.clone()),
        ("model", series.model.clone()),
        ("metric", series.metric.clone()),
        ("status", transition.kind.as_str().to_owned()),
        ("severity", transition.severity.as_str().to_owned()),
        ("value", format!("{:.4}", evidence.value)),
        ("level", format!("{:.4}", evidence.level)),
        ("n", evidence.n.to_string()),
        ("n_labelled", evidence.n_labelled.to_string()),
        ("version", or_empty(&series.model_version)),
        ("segment", or_empty(&series.segment)),
        ("segment_value", or_empty(&series.segment_value)),
        ("column", or_empty(&series.column)),
        ("class", or_empty(&series.class)),
        ("window", show(evidence.window_start)),
        ("id", transition.id.clone()),
        ("summary", transition.show()),
    ];
    // In one pass: a value that looks like a field is not one.
    let mut written = String::new();
    let mut rest = template.as_str();
    while let Some((before, after)) = rest.split_once("{{") {
        written.push_str(before);
        let Some((name, after_name)) = after.split_once("}}") else {
            written.push_str("{{");
            rest = after;
            continue;
        };
        match fields.iter().find(|(field, _)| *field == name.trim()) {
            Some((_, value)) => written.push_str(value),
            None => written.push_str(&format!("{{{{{name}}}}}")),
        }
        rest = after_name;
    }
    written.push_str(rest);
    written
}

fn labels(transition: &Transition) -> Value {
    let mut labels = json!(transition.series.labels());
    labels["severity"] = json!(transition.severity.as_str());
    labels
}

fn annotations(transition: &Transition, sink: &Sink) -> Value {
    let evidence = &transition.evidence;
    let mut annotations = json!({
        "summary": text(sink, transition),
        "transition": transition.kind.as_str(),
        "alert_id": transition.id,
        "window_start": show(evidence.window_start),
        "window_end": show(evidence.window_end),
        "revision": evidence.revision.to_string(),
        "value": evidence.value.to_string(),
        "level": evidence.level.to_string(),
        "n": evidence.n.to_string(),
        "n_labelled": evidence.n_labelled.to_string(),
    });
    let optional = [
        ("ci_low", evidence.ci_low),
        ("ci_high", evidence.ci_high),
        ("p_value", evidence.p_value),
        ("previous_value", transition.before.as_ref().map(|before| before.value)),
    ];
    for (name, value) in optional.iter().filter_map(|(name, value)| Some((*name, (*value)?))) {
        annotations[name] = json!(value.to_string());
    }
    annotations
}

/// One alert as Alertmanager's webhook has it.
fn alert(transition: &Transition, sink: &Sink, external_url: Option<&str>) -> Value {
    json!({
        "status": status(transition),
        "labels": labels(transition),
        "annotations": annotations(transition, sink),
        "startsAt": show(transition.opened_at),
        "endsAt": if is_firing(transition) { NO_END.to_owned() } else { show(transition.at) },
        "generatorURL": external_url.unwrap_or_default(),
        "fingerprint": transition.series.fingerprint(),
    })
}

/// Alertmanager's webhook, version 4: https://prometheus.io/docs/alerting/latest/configuration/#webhook_config.
fn webhook(sink: &Sink, model: &str, told: &[&Transition], external_url: Option<&str>) -> Value {
    let shown = told.iter().take(ALERTS_MAX);
    let alerts: Vec<Value> = shown.map(|transition| alert(transition, sink, external_url)).collect();
    let any_firing = told.iter().any(|transition| is_firing(transition));
    json!({
        "version": "4",
        "groupKey": format!("{{}}:{{model_name={model:?}}}"),
        "truncatedAlerts": told.len() - alerts.len(),
        "status": if any_firing { "firing" } else { "resolved" },
        "receiver": sink.name,
        "groupLabels": { "model_name": model },
        "commonLabels": common(alerts.iter().map(|alert| &alert["labels"])),
        "commonAnnotations": common(alerts.iter().map(|alert| &alert["annotations"])),
        "externalURL": external_url.unwrap_or_default(),
        "alerts": alerts,
    })
}

/// The entries that all objects share.
fn common<'a>(mut objects: impl Iterator<Item = &'a Value>) -> Value {
    let mut shared = objects.next().and_then(Value::as_object).cloned().unwrap_or_default();
    for object in objects {
        shared.retain(|name, value| object.get(name) == Some(value));
    }
    Value::Object(shared)
}

/// One alert for `POST /api/v2/alerts`.
fn alertmanager(transition: &Transition, sink: &Sink, external_url: Option<&str>) -> Value {
    let ends_at = if is_firing(transition) { transition.at + HOLDS } else { transition.at };
    json!({
        "labels": labels(transition),
        "annotations": annotations(transition, sink),
        "startsAt": show(transition.opened_at),
        "endsAt": show(ends_at),
        "generatorURL": external_url.unwrap_or_default(),
    })
}

/// The lines that people read, and what is left out of them.
pub(crate) fn lines(sink: &Sink, told: &[&Transition]) -> Vec<String> {
    let mut lines: Vec<String> = told
        .iter()
        .take(SHOWN_MAX)
        .map(|t| format!("[{}, {}] {}", t.kind.as_str(), t.severity.as_str(), text(sink, t)))
        .collect();
    if told.len() > SHOWN_MAX {
        lines.push(format!("and {} more", told.len() - SHOWN_MAX));
    }
    lines
}

pub(crate) fn title(model: &str, told: &[&Transition]) -> String {
    let rules: std::collections::BTreeSet<&str> = told.iter().map(|t| t.series.rule.as_str()).collect();
    format!("{model}: {}", rules.into_iter().collect::<Vec<_>>().join(", "))
}

/// The first characters, at most `most`.
pub(crate) fn cut(text: &str, most: usize) -> String {
    text.chars().take(most).collect()
}

/// https://docs.slack.dev/messaging/sending-messages-using-incoming-webhooks: blocks of at most 3,000 characters.
fn slack(sink: &Sink, model: &str, told: &[&Transition], external_url: Option<&str>) -> Value {
    let escape = |text: &str| text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    let section = |text: &str| json!({ "type": "section", "text": { "type": "mrkdwn", "text": cut(text, 3_000) } });
    let title = escape(&title(model, told));
    let mut blocks = vec![section(&format!("*{title}*"))];
    blocks.extend(lines(sink, told).iter().map(|line| section(&escape(line))));
    if let Some(url) = external_url {
        blocks.push(section(&format!("<{url}>")));
    }
    json!({ "text": title, "blocks": blocks })
}

/// https://learn.microsoft.com/connectors/teams: "when a Teams webhook request is received", with an adaptive card.
fn teams(sink: &Sink, model: &str, told: &[&Transition], external_url: Option<&str>) -> Value {
    let block = |text: &str, weight: &str| json!({ "type": "TextBlock", "text": cut(text, 3_000), "wrap": true, "weight": weight });
    let mut body = vec![block(&title(model, told), "Bolder")];
    body.extend(lines(sink, told).iter().map(|line| block(line, "Default")));
    let mut card = json!({
        "$schema": "http://adaptivecards.io/schemas/adaptive-card.json",
        "type": "AdaptiveCard",
        "version": "1.4",
        "body": body,
    });
    if let Some(url) = external_url {
        card["actions"] = json!([{ "type": "Action.OpenUrl", "title": "Driftline", "url": url }]);
    }
    json!({
        "type": "message",
        "attachments": [{ "contentType": "application/vnd.microsoft.card.adaptive", "content": card }],
    })
}

/// https://developer.pagerduty.com/docs/send-alert-event: an alert is triggered and resolved under one `dedup_key`.
fn pagerduty(transition: &Transition, sink: &Sink, external_url: Option<&str>) -> Value {
    let severity = match transition.severity {
        Severity::Info => "info",
        Severity::Warning => "warning",
        Severity::Error => "error",
        Severity::Critical => "critical",
    };
    let mut event = json!({
        "routing_key": sink.secret.as_deref().unwrap_or_default(),
        "event_action": if is_firing(transition) { "trigger" } else { "resolve" },
        "dedup_key": cut(&transition.id, 255),
        "payload": {
            "summary": cut(&text(sink, transition), 1_024),
            "source": transition.series.model,
            "severity": severity,
            "timestamp": show(transition.at),
            "component": transition.series.metric,
            "group": transition.series.model,
            "class": transition.series.rule,
            "custom_details": { "labels": labels(transition), "annotations": annotations(transition, sink) },
        },
    });
    if let Some(url) = external_url {
        event["client"] = json!("Driftline");
        event["client_url"] = json!(url);
    }
    event
}

/// The keys that sign: `whsec_` and base64, several of them apart by blanks while one takes the other's place.
///
/// # Errors
/// Which is no such key; never the key itself.
pub fn signing_keys(secret: &str) -> Result<Vec<hmac::Key>, String> {
    let keys: Result<Vec<hmac::Key>, String> = secret
        .split_whitespace()
        .enumerate()
        .map(|(at, key)| {
            let bytes = key.strip_prefix("whsec_").and_then(|key| STANDARD.decode(key).ok());
            let bytes = bytes.filter(|bytes| !bytes.is_empty());
            let bytes = bytes.ok_or_else(|| format!("key {} of `secret` is not whsec_ and base64", at + 1))?;
            Ok(hmac::Key::new(hmac::HMAC_SHA256, &bytes))
        })
        .collect();
    keys.and_then(|keys| if keys.is_empty() { Err("`secret` holds no key".into()) } else { Ok(keys) })
}

/// What is wrong with the keys of sinks, each with its key in the configuration.
pub fn faults(config: &AlertsConfig) -> Vec<String> {
    let signing = |sink: &&Sink| matches!(sink.kind, SinkKind::Webhook | SinkKind::Cloudevents);
    let sinks = config.sinks.iter().filter(signing);
    let wrong = sinks.filter_map(|sink| Some((sink, signing_keys(sink.secret.as_deref()?).err()?)));
    let addresses = |sink: &'_ Sink| -> Vec<String> {
        let typed = sink.email.iter().flat_map(|email| std::iter::once(&email.from).chain(&email.to));
        typed.filter_map(|text| email::mailbox(text).err()).collect()
    };
    let no_address = config.sinks.iter().flat_map(|sink| addresses(sink).into_iter().map(move |why| (sink, why)));
    wrong.chain(no_address).map(|(sink, why)| format!("alerts.sinks, {:?}: {why}", sink.name)).collect()
}

/// The header `webhook-signature` of Standard Webhooks: https://www.standardwebhooks.com. `timestamp` in seconds.
pub fn signature(keys: &[hmac::Key], id: &str, timestamp: i64, body: &str) -> String {
    let signed = format!("{id}.{timestamp}.{body}");
    let signatures = keys.iter().map(|key| format!("v1,{}", STANDARD.encode(hmac::sign(key, signed.as_bytes()))));
    signatures.collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::series::{Evidence, Series};

    pub(crate) fn transition(kind: Kind) -> Transition {
        Transition {
            id: "0011223344556677-20260103T000000Z".into(),
            kind,
            series: Series {
                rule: "f1 is low".into(),
                model: "fraud <eu>".into(),
                metric: "f1".into(),
                segment: Some("region".into()),
                segment_value: Some("eu".into()),
                ..Series::default()
            },
            severity: Severity::Critical,
            at: 3 * DAY,
            opened_at: 2 * DAY,
            evidence: Evidence {
                window_start: DAY,
                window_end: 2 * DAY,
                revision: 3,
                state: "sealed".into(),
                value: 0.7,
                level: 0.8,
                ci_low: Some(0.68),
                ci_high: Some(0.72),
                p_value: None,
                n: 1000,
                n_labelled: 800,
                ln_e: Some(12.0),
            },
            before: None,
            sinks: vec![],
            silenced: None,
        }
    }

    fn sink(kind: SinkKind) -> Sink {
        Sink {
            name: "ops".into(),
            kind,
            url: "https://example.org/hook".into(),
            secret: Some("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw".into()),
            headers: std::collections::BTreeMap::default(),
            command: vec![],
            text: None,
            revisions: true,
            alerts: true,
            email: None,
        }
    }

    fn body(kind: SinkKind, transitions: &[Transition]) -> Value {
        let sink = sink(kind);
        let told: Vec<&Transition> = transitions.iter().collect();
        let messages = messages(&sink, "fraud <eu>", 7, 3 * DAY, &told, Some("https://driftline.example.org"));
        serde_json::from_str(&messages[0].body).expect("JSON")
    }

    /// The example of the specification: https://github.com/standard-webhooks/standard-webhooks (its libraries' tests).
    #[test]
    fn the_signature_is_that_of_the_specification() {
        let keys = signing_keys("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").expect("a key");
        let signed = signature(&keys, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, r#"{"test": 2432232314}"#);
        assert_eq!(signed, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
        let both = signing_keys("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw whsec_AAAA").expect("two keys");
        assert_eq!(signature(&both, "a", 1, "b").split(' ').count(), 2);
        for secret in ["", "hunter2", "whsec_", "whsec_?"] {
            let error = signing_keys(secret).expect_err(secret);
            assert!(!error.contains("hunter2"), "{error}");
        }
    }

    #[test]
    fn a_webhook_speaks_as_alertmanager_does() {
        let body = body(SinkKind::Webhook, &[transition(Kind::Firing), transition(Kind::Resolved)]);
        assert_eq!(body["version"], "4");
        assert_eq!(body["status"], "firing");
        assert_eq!(body["groupLabels"]["model_name"], "fraud <eu>");
        let alerts = body["alerts"].as_array().expect("alerts");
        assert_eq!((&alerts[0]["status"], &alerts[1]["status"]), (&json!("firing"), &json!("resolved")));
        assert_eq!((&alerts[0]["endsAt"], &alerts[1]["endsAt"]), (&json!(NO_END), &json!("1970-01-04T00:00:00Z")));
        assert_eq!(alerts[0]["labels"]["alertname"], "f1 is low");
        assert_eq!(alerts[0]["fingerprint"], transition(Kind::Firing).series.fingerprint());
        assert_eq!(body["commonLabels"]["severity"], "critical");
        // Alertmanager knows text only.
        assert!(alerts[0]["annotations"].as_object().expect("object").values().all(Value::is_string));
    }

    #[test]
    fn each_receiver_gets_its_own_words() {
        let firing = [transition(Kind::Firing)];
        assert_eq!(body(SinkKind::Alertmanager, &firing)[0]["labels"]["metric"], "f1");
        let slack = body(SinkKind::Slack, &firing);
        assert!(slack["text"].as_str().expect("text").contains("fraud &lt;eu&gt;"), "{slack}");
        assert_eq!(slack["blocks"][0]["type"], "section");
        let teams = body(SinkKind::Teams, &firing);
        assert_eq!(teams["attachments"][0]["content"]["type"], "AdaptiveCard");
        let event = body(SinkKind::Pagerduty, &firing);
        assert_eq!((&event["event_action"], &event["payload"]["severity"]), (&json!("trigger"), &json!("critical")));
        let over = body(SinkKind::Pagerduty, &[transition(Kind::Withdrawn)]);
        assert_eq!((&over["event_action"], &over["dedup_key"]), (&json!("resolve"), &event["dedup_key"]));
        let event = body(SinkKind::Cloudevents, &firing);
        assert_eq!((&event["specversion"], &event["data"]["version"]), (&json!("1.0"), &json!("4")));
    }

    #[test]
    fn a_template_fills_what_it_knows_and_leaves_the_rest() {
        let mut sink = sink(SinkKind::Slack);
        sink.text = Some("{{ model }} {{value}} {{nothing}} {{alertname".into());
        let mut odd = transition(Kind::Firing);
        odd.series.model = "{{value}}".into();
        assert_eq!(text(&sink, &odd), "{{value}} 0.7000 {{nothing}} {{alertname");
    }

    #[test]
    fn b1_a_body_is_bounded_and_says_what_it_leaves_out() {
        let many = vec![transition(Kind::Firing); ALERTS_MAX + 7];
        let told: Vec<&Transition> = many.iter().collect();
        let webhook = body(SinkKind::Webhook, &many);
        assert_eq!(
            (&webhook["truncatedAlerts"], webhook["alerts"].as_array().map(Vec::len)),
            (&json!(7), Some(ALERTS_MAX))
        );
        // Alertmanager keeps state: it is told all.
        let parts = messages(&sink(SinkKind::Alertmanager), "m", 1, 0, &told, None);
        let alerts = |message: &Message| serde_json::from_str::<Vec<Value>>(&message.body).expect("JSON").len();
        assert_eq!(parts.iter().map(alerts).collect::<Vec<_>>(), [ALERTS_MAX, 7]);
        assert_ne!(parts[0].id, parts[1].id);
    }

    #[test]
    fn silenced_and_quiet_ones_are_not_told() {
        let mut silenced = transition(Kind::Firing);
        silenced.silenced = Some("s1".into());
        let mut elsewhere = transition(Kind::Firing);
        elsewhere.sinks = vec!["other".into()];
        let all = [
            silenced,
            elsewhere,
            transition(Kind::Pending),
            transition(Kind::Missed),
            transition(Kind::Revised),
            transition(Kind::Withdrawn),
        ];
        let kinds = |sink: &Sink| told(sink, &all).iter().map(|t| t.kind).collect::<Vec<_>>();
        let mut of = sink(SinkKind::Webhook);
        assert_eq!(kinds(&of), [Kind::Revised, Kind::Withdrawn]);
        of.revisions = false;
        assert_eq!(kinds(&of), [Kind::Withdrawn]);
    }

    #[test]
    fn every_copy_has_the_same_id_and_every_message_its_own() {
        assert_eq!(message_id("m", 7, "ops"), message_id("m", 7, "ops"));
        let ids = [
            message_id("m", 7, "ops"),
            message_id("m", 8, "ops"),
            message_id("m", 7, "other"),
            message_id("m/7", 7, "ops"),
        ];
        assert_eq!(ids.iter().collect::<std::collections::BTreeSet<_>>().len(), 4);
    }
}
