//! What sinks are sent: requests made of a record's transitions, each in the words of its receiver.
use std::collections::{BTreeMap, BTreeSet};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use driftline_schemas::clock::{DAY, Micros, show};
use driftline_schemas::config::{AlertsConfig, SEVERITIES, Severity, Sink, SinkKind};
use driftline_store::{encode_segment, paths};
use ring::hmac;
use serde_json::{Value, json};
use xxhash_rust::xxh3::xxh3_128;

use crate::email;
use crate::life::{Kind, State, Transition};
use crate::route;
use crate::series::{Series, plain};

/// Alertmanager's word for "not over yet".
const NO_END: &str = "0001-01-01T00:00:00Z";
/// Alerts that one message shows people; more are counted.
const SHOWN_MAX: usize = 20;
/// Alerts of one webhook's body; more are counted in `truncatedAlerts`. Receivers refuse bodies of many megabytes.
const ALERTS_MAX: usize = 500;
/// Characters of a block of Slack's.
pub(crate) const SLACK_BLOCK_MAX: usize = 3_000;
/// Characters of all blocks of a message of Slack's; it refuses some 13,000.
pub(crate) const SLACK_MAX: usize = 10_000;
/// Bytes of the text of an adaptive card: Teams takes messages of some 28 KB.
const CARD_MAX: usize = 22_000;
/// Characters of a card's title.
const TITLE_MAX: usize = 300;
/// Alertmanager forgets an alert that nobody sends again; ours says itself when it is over.
const HOLDS: Micros = 365 * DAY;

/// What a template can name, between `{{` and `}}`.
const FIELDS: [&str; 20] = [
    "alertname",
    "model",
    "metric",
    "status",
    "severity",
    "value",
    "level",
    "ci_low",
    "ci_high",
    "previous",
    "n",
    "n_labelled",
    "version",
    "segment",
    "segment_value",
    "column",
    "class",
    "window",
    "id",
    "summary",
];

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
            && route::takes(sink, &transition.series, transition.severity, &transition.sinks)
            && (transition.kind != Kind::Revised || sink.revisions)
    };
    transitions.iter().filter(is_told).collect()
}

/// What one record tells a sink together: transitions whose labels named in `group_by` have the same values.
struct Group<'a> {
    /// Those labels, and their values; the model first, unless it is nobody's.
    labels: Vec<(&'static str, String)>,
    told: Vec<&'a Transition>,
    /// Whether any alert of the group holds, of those that this record says nothing of too.
    is_firing: bool,
    /// The series, by fingerprint, of which an alert holds after what is told: the end of one window's alert ends no other's.
    open: &'a BTreeSet<String>,
}

impl Group<'_> {
    /// Names it for ever, as Alertmanager does: `{}:{alertname="f1 is low", model_name="fraud"}`.
    fn key(&self) -> String {
        let labels: Vec<String> = self.labels.iter().map(|(name, value)| format!("{name}={value:?}")).collect();
        format!("{{}}:{{{}}}", labels.join(", "))
    }

    fn is_open(&self, transition: &Transition) -> bool {
        self.open.contains(&transition.series.fingerprint())
    }

    /// The worst severity of what holds.
    fn worst(&self) -> Option<Severity> {
        self.told.iter().filter(|transition| self.is_open(transition)).map(|open| open.severity).max()
    }
}

/// The series of which an alert holds for a sink after a record.
fn open_series(sink: &Sink, told: &[&Transition], state: &State) -> BTreeSet<String> {
    let held = state.series.values().filter(|tracked| tracked.holds_for(sink)).map(|held| held.series.fingerprint());
    // A record may have the beginning of an alert and its end: the last word on each series counts.
    let last: BTreeMap<String, &Transition> = told.iter().map(|t| (t.series.fingerprint(), *t)).collect();
    let fires = last.into_iter().filter(|(_, transition)| is_firing(transition)).map(|(series, _)| series);
    held.chain(fires).collect()
}

/// The groups of what a sink is told, in the order of their labels; in each what is worst comes first.
fn groups<'a>(
    sink: &Sink,
    model: &str,
    told: &[&'a Transition],
    state: &State,
    open: &'a BTreeSet<String>,
) -> Vec<Group<'a>> {
    let labels_of = |series: &Series| {
        let mut labels: Vec<(&'static str, String)> =
            sink.group_by.iter().map(|name| route::label(series, name)).collect();
        if model != paths::NO_MODEL {
            labels.push(("model_name", model.to_owned()));
        }
        labels.sort();
        labels
    };
    let mut groups: BTreeMap<Vec<(&'static str, String)>, Vec<&'a Transition>> = BTreeMap::new();
    for transition in told {
        groups.entry(labels_of(&transition.series)).or_default().push(transition);
    }
    let holds: BTreeSet<Vec<(&'static str, String)>> = state
        .series
        .values()
        .filter(|tracked| tracked.holds_for(sink))
        .map(|tracked| labels_of(&tracked.series))
        .collect();
    let group = |(labels, mut told): (Vec<(&'static str, String)>, Vec<&'a Transition>)| {
        let is_open = |transition: &Transition| open.contains(&transition.series.fingerprint());
        let is_firing = holds.contains(&labels) || told.iter().any(|transition| is_open(transition));
        // All rows before their segments; among equals as it was, in which order what happened to one series stays.
        told.sort_by_key(|t| (!is_open(t), std::cmp::Reverse(t.severity), t.series.segment.is_some()));
        Group { labels, told, is_firing, open }
    };
    groups.into_iter().map(group).collect()
}

/// The messages that tell a sink of some transitions of one model: one for each group of the sink's `group_by`. `state`: what
/// holds after them.
pub fn messages(
    sink: &Sink,
    model: &str,
    seq: u64,
    at: Micros,
    told: &[&Transition],
    state: &State,
    external_url: Option<&str>,
) -> Vec<Message> {
    let id = message_id(model, seq, &sink.name);
    let open = open_series(sink, told, state);
    if sink.kind == SinkKind::Alertmanager {
        return alertmanager_messages(sink, &id, told, &open, external_url);
    }
    let signs = matches!(sink.kind, SinkKind::Webhook | SinkKind::Cloudevents) && sink.secret.is_some();
    let message = |(place, group): (usize, &Group<'_>)| {
        let id = if sink.group_by.is_empty() { id.clone() } else { format!("{id}_{place}") };
        let mut content_type = "application/json";
        let body = match sink.kind {
            SinkKind::Email => {
                return email::message(
                    sink,
                    &id,
                    at,
                    &email::alert(group.worst(), &heading(model, group), &lines(sink, &group.told), external_url),
                );
            }
            SinkKind::Webhook | SinkKind::Command | SinkKind::Alertmanager => webhook(sink, group, external_url),
            SinkKind::Slack => slack(sink, model, group, external_url),
            SinkKind::Teams => teams(sink, model, group, external_url),
            SinkKind::Pagerduty => pagerduty(sink, model, group, external_url),
            SinkKind::Cloudevents => {
                content_type = "application/cloudevents+json";
                let (source, data) =
                    (format!("/driftline/models/{}", encode_segment(model)), webhook(sink, group, external_url));
                cloudevent(&id, &source, "io.driftline.alert.v1", at, &plain(model), data)
            }
        };
        Message { url: sink.url.clone(), id, content_type, body: body.to_string(), is_signed: signs }
    };
    // To PagerDuty a trigger is a page wherever a person has closed the incident: figures that have changed, and the end of one alert of
    // several, are none.
    let is_news = |group: &Group<'_>| {
        let pages = group.told.iter().any(|told| matches!(told.kind, Kind::Firing | Kind::Repeated));
        sink.kind != SinkKind::Pagerduty || pages || !group.is_firing
    };
    let groups = groups(sink, model, told, state, &open);
    groups.iter().enumerate().filter(|(_, group)| is_news(group)).map(message).collect()
}

/// Alertmanager groups by itself, and keeps state: it is told all, in parts that it takes.
fn alertmanager_messages(
    sink: &Sink,
    id: &str,
    told: &[&Transition],
    open: &BTreeSet<String>,
    external_url: Option<&str>,
) -> Vec<Message> {
    let is_open = |t: &Transition| is_firing(t) || open.contains(&t.series.fingerprint());
    let path = "/api/v2/alerts";
    let url = &sink.url;
    let url = if url.ends_with(path) { url.clone() } else { format!("{}{path}", url.trim_end_matches('/')) };
    let mut alerts: Vec<Value> = told.iter().map(|t| alertmanager(t, is_open(t), sink, external_url)).collect();
    // There the severity is part of an alert's identity: one that was told with a lower one too ends under both.
    for over in told.iter().filter(|transition| !is_open(transition)) {
        let lower = SEVERITIES.into_iter().filter(|severity| *severity < over.severity);
        alerts.extend(lower.map(|severity| {
            let over = Transition { severity, ..(*over).clone() };
            alertmanager(&over, false, sink, external_url)
        }));
    }
    let part = |(at, alerts): (usize, &[Value])| Message {
        url: url.clone(),
        id: format!("{id}_{at}"),
        content_type: "application/json",
        body: json!(alerts).to_string(),
        is_signed: false,
    };
    alerts.chunks(ALERTS_MAX).enumerate().map(part).collect()
}

/// Whether the alert holds after what happened.
fn is_firing(transition: &Transition) -> bool {
    !matches!(transition.kind, Kind::Resolved | Kind::Withdrawn)
}

/// What people read of one transition.
fn text(sink: &Sink, transition: &Transition) -> String {
    let Some(template) = &sink.text else { return transition.show() };
    let (series, evidence) = (&transition.series, &transition.evidence);
    let or_empty = |text: &Option<String>| text.clone().unwrap_or_default();
    let bound = |bound: Option<f64>| bound.map_or_else(String::new, |bound| format!("{bound:.4}"));
    let values = [
        series.rule.clone(),
        series.model.clone(),
        series.metric.clone(),
        transition.kind.as_str().to_owned(),
        transition.severity.as_str().to_owned(),
        format!("{:.4}", evidence.value),
        format!("{:.4}", evidence.level),
        bound(evidence.ci_low),
        bound(evidence.ci_high),
        transition.before.as_ref().map_or_else(String::new, |before| format!("{:.4}", before.value)),
        evidence.n.to_string(),
        evidence.n_labelled.to_string(),
        or_empty(&series.model_version),
        or_empty(&series.segment),
        or_empty(&series.segment_value),
        or_empty(&series.column),
        or_empty(&series.class),
        show(evidence.window_start),
        transition.id.clone(),
        transition.show(),
    ];
    let fields: Vec<(&str, String)> = FIELDS.into_iter().zip(values).collect();
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
fn alert(transition: &Transition, is_open: bool, sink: &Sink, external_url: Option<&str>) -> Value {
    json!({
        "status": if is_open { "firing" } else { "resolved" },
        "labels": labels(transition),
        "annotations": annotations(transition, sink),
        "startsAt": show(transition.opened_at),
        "endsAt": if is_open { NO_END.to_owned() } else { show(transition.at) },
        "generatorURL": external_url.unwrap_or_default(),
        "fingerprint": transition.series.fingerprint(),
    })
}

/// Alertmanager's webhook, version 4: https://prometheus.io/docs/alerting/latest/configuration/#webhook_config.
fn webhook(sink: &Sink, group: &Group<'_>, external_url: Option<&str>) -> Value {
    let told = &group.told;
    let shown = told.iter().take(ALERTS_MAX);
    let alerts: Vec<Value> =
        shown.map(|one| alert(one, is_firing(one) || group.is_open(one), sink, external_url)).collect();
    let labels: serde_json::Map<String, Value> =
        group.labels.iter().map(|(name, value)| ((*name).to_owned(), json!(value))).collect();
    json!({
        "version": "4",
        "groupKey": group.key(),
        "truncatedAlerts": told.len() - alerts.len(),
        "status": if group.is_firing { "firing" } else { "resolved" },
        "receiver": sink.name,
        "groupLabels": labels,
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
fn alertmanager(transition: &Transition, is_open: bool, sink: &Sink, external_url: Option<&str>) -> Value {
    let ends_at = if is_open { transition.at + HOLDS } else { transition.at };
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
    let mut lines: Vec<String> = told.iter().take(SHOWN_MAX).map(|transition| line(sink, transition)).collect();
    if told.len() > SHOWN_MAX {
        lines.push(format!("and {} more", told.len() - SHOWN_MAX));
    }
    lines
}

fn line(sink: &Sink, transition: &Transition) -> String {
    format!("[{}, {}] {}", transition.kind.as_str(), transition.severity.as_str(), text(sink, transition))
}

/// What people call a model, or what is none.
fn name_of(model: &str) -> &str {
    if model == paths::NO_MODEL { "pipeline" } else { model }
}

/// What a group says in a few words: how bad it is, or what became of it, and of which rules.
fn heading(model: &str, group: &Group<'_>) -> String {
    let has = |kind: Kind| group.told.iter().any(|transition| transition.kind == kind);
    let state = match group.worst() {
        Some(severity) if has(Kind::Firing) => severity.as_str().to_owned(),
        Some(severity) if has(Kind::Repeated) => format!("still {}", severity.as_str()),
        Some(severity) if has(Kind::Revised) => format!("revised, {}", severity.as_str()),
        Some(severity) => format!("in part over, {}", severity.as_str()),
        None if has(Kind::Resolved) => "over".to_owned(),
        None => "withdrawn".to_owned(),
    };
    format!("{state}: {}", title(model, &group.told))
}

fn title(model: &str, told: &[&Transition]) -> String {
    let model = plain(name_of(model));
    let rules: std::collections::BTreeSet<&str> = told.iter().map(|t| t.series.rule.as_str()).collect();
    format!("{model}: {}", rules.into_iter().collect::<Vec<_>>().join(", "))
}

/// The first characters, at most `most`.
pub(crate) fn cut(text: &str, most: usize) -> String {
    text.chars().take(most).collect()
}

/// Text as Slack has it, without links and mentions of its own.
pub(crate) fn slack_text(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

/// A block of Slack's: https://docs.slack.dev/messaging/sending-messages-using-incoming-webhooks, of at most 3,000 characters.
pub(crate) fn slack_block(text: &str) -> Value {
    json!({ "type": "section", "text": { "type": "mrkdwn", "text": cut(text, SLACK_BLOCK_MAX) } })
}

/// A block whose text is text, whatever marks it holds.
fn slack_plain(kind: &str, text: &str, most: usize) -> Value {
    json!({ "type": kind, "text": { "type": "plain_text", "text": cut(text, most), "emoji": false } })
}

fn slack(sink: &Sink, model: &str, group: &Group<'_>, external_url: Option<&str>) -> Value {
    let title = heading(model, group);
    let mut blocks = vec![slack_plain("header", &title, 150)];
    let mut room = SLACK_MAX;
    let lines = group.told.iter().take(SHOWN_MAX).map(|transition| cut(&line(sink, transition), SLACK_BLOCK_MAX));
    let fitting = lines.map_while(|line| {
        room = room.checked_sub(line.chars().count())?;
        Some(slack_plain("section", &line, SLACK_BLOCK_MAX))
    });
    blocks.extend(fitting);
    let left = group.told.len() - (blocks.len() - 1);
    if left > 0 {
        blocks.push(slack_plain("section", &format!("and {left} more"), SLACK_BLOCK_MAX));
    }
    let title = slack_text(&title);
    if let Some(url) = external_url {
        blocks.push(slack_block(&format!("<{}>", slack_text(url))));
    }
    json!({ "text": title, "blocks": blocks })
}

/// A paragraph of an adaptive card, whose text is text, whatever marks it holds: a `TextBlock` would read it as Markdown.
pub(crate) fn card_text(text: &str, is_bold: bool) -> Value {
    let weight = if is_bold { "Bolder" } else { "Default" };
    json!({ "type": "RichTextBlock", "inlines": [{ "type": "TextRun", "text": cut(text, 3_000), "weight": weight }] })
}

/// A button of an adaptive card.
pub(crate) fn card_link(title: &str, url: &str) -> Value {
    json!({ "type": "Action.OpenUrl", "title": title, "url": url })
}

/// The paragraphs of an adaptive card, of no more bytes than Teams takes.
pub(crate) struct Card {
    body: Vec<Value>,
    room: usize,
}

impl Card {
    /// With its title, and so many bytes kept back for what is added at its end.
    pub(crate) fn new(title: &str, kept_back: usize) -> Self {
        let title = card_text(&cut(title, TITLE_MAX), true);
        let room = CARD_MAX.saturating_sub(kept_back + title.to_string().len());
        Self { body: vec![title], room }
    }

    /// Adds paragraphs if all of them fit; whether they do.
    pub(crate) fn add(&mut self, paragraphs: Vec<Value>) -> bool {
        let size: usize = paragraphs.iter().map(|paragraph| paragraph.to_string().len()).sum();
        let Some(left) = self.room.checked_sub(size) else { return false };
        self.room = left;
        self.body.extend(paragraphs);
        true
    }

    /// Adds what has to be said whether it fits or not.
    pub(crate) fn end(&mut self, remark: &str) {
        self.body.push(card_text(remark, false));
    }

    /// https://learn.microsoft.com/connectors/teams: "when a Teams webhook request is received", with an adaptive card.
    pub(crate) fn message(&self, links: &[Value]) -> Value {
        let card = json!({
            "$schema": "http://adaptivecards.io/schemas/adaptive-card.json",
            "type": "AdaptiveCard",
            "version": "1.4",
            "body": self.body,
            "actions": links,
        });
        json!({
            "type": "message",
            "attachments": [{ "contentType": "application/vnd.microsoft.card.adaptive", "content": card }],
        })
    }
}

fn teams(sink: &Sink, model: &str, group: &Group<'_>, external_url: Option<&str>) -> Value {
    let told = &group.told;
    let mut card = Card::new(&heading(model, group), 0);
    let lines = told.iter().take(SHOWN_MAX).map(|transition| line(sink, transition));
    let shown = lines.take_while(|line| card.add(vec![card_text(line, false)])).count();
    if shown < told.len() {
        card.end(&format!("and {} more", told.len() - shown));
    }
    let links: Vec<Value> = external_url.iter().map(|url| card_link("Driftline", url)).collect();
    card.message(&links)
}

/// An event of CloudEvents 1.0, structured: https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/formats/json-format.md.
pub(crate) fn cloudevent(id: &str, source: &str, kind: &str, at: Micros, subject: &str, data: Value) -> Value {
    json!({
        "specversion": "1.0",
        "id": id,
        "source": source,
        "type": kind,
        "time": show(at),
        "subject": subject,
        "datacontenttype": "application/json",
        "data": data,
    })
}

/// https://developer.pagerduty.com/docs/send-alert-event: one incident a group, triggered while any alert of it holds and resolved
/// when none does, under one `dedup_key`. Thousands of series are one page a rule, not thousands of pages.
fn pagerduty(sink: &Sink, model: &str, group: &Group<'_>, external_url: Option<&str>) -> Value {
    let severity = match group.worst().or_else(|| group.told.iter().map(|transition| transition.severity).max()) {
        Some(Severity::Critical) => "critical",
        Some(Severity::Error) => "error",
        Some(Severity::Warning) | None => "warning",
        Some(Severity::Info) => "info",
    };
    let first = group.told.first();
    let summary = match group.told.as_slice() {
        [one] => text(sink, one),
        many => format!("{}: {}", heading(model, group), lines(sink, many).join("; ")),
    };
    let alerts: Vec<Value> = group
        .told
        .iter()
        .take(SHOWN_MAX)
        .map(|told| json!({ "labels": labels(told), "annotations": annotations(told, sink) }))
        .collect();
    let mut event = json!({
        "routing_key": sink.secret.as_deref().unwrap_or_default(),
        "event_action": if group.is_firing { "trigger" } else { "resolve" },
        "dedup_key": dedup_key(model, &group.key()),
        "payload": {
            "summary": cut(&summary, 1_024),
            "source": name_of(model),
            "severity": severity,
            "timestamp": show(first.map_or(0, |told| told.at)),
            "component": first.map_or("", |told| told.series.metric.as_str()),
            "group": name_of(model),
            "class": first.map_or("", |told| told.series.rule.as_str()),
            "custom_details": { "alerts": alerts, "more": group.told.len().saturating_sub(SHOWN_MAX) },
        },
    });
    if let Some(url) = external_url {
        event["client"] = json!("Driftline");
        event["client_url"] = json!(url);
    }
    event
}

/// What names an incident: short, whatever the labels hold.
fn dedup_key(model: &str, group: &str) -> String {
    format!("driftline-{:032x}", xxh3_128(format!("{}:{model}/{group}", model.len()).as_bytes()))
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

/// What is wrong with sinks that only this crate can tell: keys that sign nothing, and fields that a template cannot fill.
pub fn faults(config: &AlertsConfig) -> Vec<String> {
    let mut faults = Vec::new();
    for sink in &config.sinks {
        let signs = matches!(sink.kind, SinkKind::Webhook | SinkKind::Cloudevents);
        if let Some(Err(why)) = sink.secret.as_deref().filter(|_| signs).map(signing_keys) {
            faults.push(format!("alerts.sinks, {:?}: {why}", sink.name));
        }
        let fields = sink.text.iter().flat_map(|text| text.split("{{").skip(1));
        for name in fields.filter_map(|rest| rest.split_once("}}")).map(|(name, _)| name.trim()) {
            if !FIELDS.contains(&name) {
                let known = FIELDS.join(", ");
                faults.push(format!("alerts.sinks, {:?}: `text` has no field {name:?}; there are {known}", sink.name));
            }
        }
        let addresses = sink.email.iter().flat_map(|email| std::iter::once(&email.from).chain(&email.to));
        for why in addresses.filter_map(|text| email::mailbox(text).err()) {
            faults.push(format!("alerts.sinks, {:?}: {why}", sink.name));
        }
    }
    faults
}

/// The header `webhook-signature` of Standard Webhooks: https://www.standardwebhooks.com. `timestamp` in seconds.
pub fn signature(keys: &[hmac::Key], id: &str, timestamp: i64, body: &str) -> String {
    let signed = format!("{id}.{timestamp}.{body}");
    let signatures = keys.iter().map(|key| format!("v1,{}", STANDARD.encode(hmac::sign(key, signed.as_bytes()))));
    signatures.collect::<Vec<_>>().join(" ")
}

/// A transition for tests.
#[cfg(test)]
pub(crate) fn example(kind: Kind) -> Transition {
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
        evidence: crate::series::Evidence {
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
        after_silence: None,
        ended: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::life::{Belief, Episode, Status, Tracked};

    fn transition(kind: Kind) -> Transition {
        example(kind)
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
            repeat: None,
            min_severity: Severity::Info,
            matches: [].into(),
            alerts: true,
            email: None,
            group_by: vec![],
        }
    }

    fn body(kind: SinkKind, transitions: &[Transition]) -> Value {
        let sink = sink(kind);
        let told: Vec<&Transition> = transitions.iter().collect();
        let messages =
            messages(&sink, "fraud <eu>", 7, 3 * DAY, &told, &State::default(), Some("https://driftline.example.org"));
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
        let body = body(SinkKind::Webhook, &[transition(Kind::Firing), of_segment(Kind::Resolved, "us")]);
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
        assert_eq!((&slack["blocks"][0]["type"], &slack["blocks"][1]["type"]), (&json!("header"), &json!("section")));
        let mut odd = example(Kind::Firing);
        odd.series.model = "a & b".into();
        let odd = body(SinkKind::Slack, &[odd]);
        assert!(odd["blocks"][1]["text"]["text"].as_str().expect("text").contains("a & b"), "no marks: {odd}");
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
        let parts = messages(&sink(SinkKind::Alertmanager), "m", 1, 0, &told, &State::default(), None);
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

    /// A state in which a series' alert holds.
    fn holding(series: &Series, status: Status) -> State {
        let told = example(Kind::Firing).evidence;
        let episode = Episode {
            id: "e".into(),
            status,
            opened_at: 0,
            closed_at: None,
            windows: BTreeSet::new(),
            told,
            told_at: 0,
            revised_at: None,
            repeated: BTreeMap::new(),
            belief: Belief::Fires,
            worst: None,
            told_to: None,
            kept_back: None,
        };
        let tracked = Tracked {
            series: series.clone(),
            severity: Severity::Critical,
            hits: 1,
            of: 1,
            sinks: vec![],
            windows: BTreeMap::new(),
            episodes: vec![episode],
        };
        State { series: [(series.fingerprint(), tracked)].into() }
    }

    fn of_segment(kind: Kind, value: &str) -> Transition {
        let mut transition = example(kind);
        transition.series.segment_value = Some(value.into());
        transition
    }

    #[test]
    fn alerts_are_told_in_the_groups_that_a_sink_asks_for() {
        let many = [of_segment(Kind::Firing, "eu"), of_segment(Kind::Resolved, "us"), of_segment(Kind::Firing, "eu")];
        let told: Vec<&Transition> = many.iter().collect();
        let mut of = sink(SinkKind::Webhook);
        let bodies = |of: &Sink| -> Vec<(String, Value)> {
            let messages = messages(of, "m", 1, 0, &told, &State::default(), None);
            messages.iter().map(|m| (m.id.clone(), serde_json::from_str(&m.body).expect("JSON"))).collect()
        };
        let whole = bodies(&of);
        assert_eq!((whole.len(), whole[0].1["groupLabels"].clone()), (1, json!({ "model_name": "m" })));
        of.group_by = vec!["rule".into(), "segment_value".into()];
        let split = bodies(&of);
        let labels = |value: &str| json!({ "model_name": "m", "alertname": "f1 is low", "segment_value": value });
        assert_eq!(
            split.iter().map(|(_, b)| b["groupLabels"].clone()).collect::<Vec<_>>(),
            [labels("eu"), labels("us")]
        );
        assert_eq!((&split[0].1["status"], &split[1].1["status"]), (&json!("firing"), &json!("resolved")));
        assert_eq!(split[0].1["alerts"].as_array().map(Vec::len), Some(2));
        assert!(split[0].0 != split[1].0 && split[0].1["groupKey"] != split[1].1["groupKey"]);
        assert_eq!(bodies(&of), split, "every copy is the same");
        // What is no model's has no model's name.
        let pipeline = messages(&sink(SinkKind::Webhook), paths::NO_MODEL, 1, 0, &told, &State::default(), None);
        let body: Value = serde_json::from_str(&pipeline[0].body).expect("JSON");
        assert_eq!(body["groupLabels"], json!({}));
        let page = messages(&sink(SinkKind::Pagerduty), paths::NO_MODEL, 1, 0, &told, &State::default(), None);
        let body: Value = serde_json::from_str(&page[0].body).expect("JSON");
        assert_eq!(body["payload"]["source"], "pipeline");
        assert!(
            body["payload"]["summary"].as_str().is_some_and(|text| text.starts_with("critical: pipeline: f1 is low: "))
        );
    }

    #[test]
    fn b1_a_page_is_one_incident_a_rule_and_ends_when_no_series_of_it_fires() {
        let of = Sink { group_by: vec!["rule".into()], ..sink(SinkKind::Pagerduty) };
        let page = |transitions: &[Transition], state: &State| -> Value {
            let told: Vec<&Transition> = transitions.iter().collect();
            let pages = messages(&of, "m", 1, 0, &told, state, None);
            assert_eq!(pages.len(), 1);
            assert!(pages[0].body.len() < 60_000, "{} bytes", pages[0].body.len());
            serde_json::from_str(&pages[0].body).expect("JSON")
        };
        let thousands: Vec<Transition> = (0..3_000).map(|at| of_segment(Kind::Firing, &at.to_string())).collect();
        let raised = page(&thousands, &State::default());
        assert_eq!(
            (&raised["event_action"], &raised["payload"]["custom_details"]["more"]),
            (&json!("trigger"), &json!(2_980))
        );
        assert!(raised["payload"]["summary"].as_str().is_some_and(|summary| summary.chars().count() <= 1_024));
        let other = of_segment(Kind::Firing, "other").series;
        // Where others still fire, the end of one is no page, nor are figures that have changed.
        for kind in [Kind::Resolved, Kind::Revised] {
            let quiet = messages(&of, "m", 1, 0, &[&of_segment(kind, "1")], &holding(&other, Status::Firing), None);
            assert_eq!(quiet, [], "{kind:?}");
        }
        let still = page(&[of_segment(Kind::Repeated, "1")], &holding(&other, Status::Firing));
        assert_eq!((&still["event_action"], &still["dedup_key"]), (&json!("trigger"), &raised["dedup_key"]));
        let all_over = page(&[of_segment(Kind::Withdrawn, "1")], &holding(&other, Status::Resolved));
        assert_eq!((&all_over["event_action"], &all_over["dedup_key"]), (&json!("resolve"), &raised["dedup_key"]));
        // Raised and over in one record, as a backlog has it: it must not stay open.
        let both = [of_segment(Kind::Firing, "1"), of_segment(Kind::Resolved, "1")];
        assert_eq!(page(&both, &holding(&other, Status::Resolved))["event_action"], "resolve");
        let again = [of_segment(Kind::Resolved, "1"), of_segment(Kind::Firing, "1")];
        assert_eq!(page(&again, &holding(&other, Status::Resolved))["event_action"], "trigger");
        // A group's status is that of the whole group: one of two segments has recovered.
        let [one] = [of_segment(Kind::Resolved, "1")];
        let body = messages(&sink(SinkKind::Webhook), "m", 1, 0, &[&one], &holding(&other, Status::Firing), None);
        let body: Value = serde_json::from_str(&body[0].body).expect("JSON");
        assert_eq!((&body["status"], &body["alerts"][0]["status"]), (&json!("firing"), &json!("resolved")));
        // What is silenced is nobody's business.
        let mut silent = holding(&other, Status::Firing);
        silent.series.values_mut().for_each(|tracked| tracked.episodes[0].belief = Belief::Nothing);
        assert_eq!(page(&[of_segment(Kind::Resolved, "1")], &silent)["event_action"], "resolve");
        let elsewhere = Series { rule: "other".into(), ..other };
        let of_other_rule = page(&[of_segment(Kind::Resolved, "1")], &holding(&elsewhere, Status::Firing));
        assert_eq!(of_other_rule["event_action"], "resolve");
    }

    #[test]
    fn what_holds_for_another_receiver_holds_up_no_end_here() {
        let of = Sink { group_by: vec!["rule".into()], ..sink(SinkKind::Pagerduty) };
        let mut state = holding(&of_segment(Kind::Firing, "other").series, Status::Firing);
        let over = of_segment(Kind::Resolved, "1");
        let mut action = |sinks: &[&str]| -> Value {
            let tracked = state.series.values_mut().next().expect("it holds");
            tracked.sinks = sinks.iter().map(|sink| (*sink).to_owned()).collect();
            let pages = messages(&of, "m", 1, 0, &[&over], &state, None);
            let page = |message: &Message| serde_json::from_str::<Value>(&message.body).expect("JSON");
            pages.first().map_or(Value::Null, |message| page(message)["event_action"].clone())
        };
        assert_eq!((action(&["elsewhere"]), action(&["elsewhere", "ops"])), (json!("resolve"), Value::Null));
    }

    #[test]
    fn a_page_is_as_loud_as_the_loudest_of_its_alerts_and_of_one_model() {
        let of = Sink { group_by: vec!["rule".into()], ..sink(SinkKind::Pagerduty) };
        let page = |model: &str, severities: &[Severity]| -> Value {
            let told: Vec<Transition> =
                severities.iter().map(|severity| Transition { severity: *severity, ..example(Kind::Firing) }).collect();
            let pages = messages(&of, model, 1, 0, &told.iter().collect::<Vec<_>>(), &State::default(), None);
            serde_json::from_str(&pages[0].body).expect("JSON")
        };
        let severity = |severities: &[Severity]| page("m", severities)["payload"]["severity"].clone();
        assert_eq!(severity(&[Severity::Info, Severity::Error, Severity::Warning]), "error");
        assert_eq!(severity(&[Severity::Critical, Severity::Info]), "critical");
        assert_ne!(page("m", &[Severity::Info])["dedup_key"], page("n", &[Severity::Info])["dedup_key"]);
    }

    #[test]
    fn b1_what_people_read_is_cut_where_a_receiver_would_refuse_it() {
        let mut long = example(Kind::Firing);
        long.series.segment_value = Some("x".repeat(10_000));
        let slack = body(SinkKind::Slack, &[long.clone()]);
        let blocks = slack["blocks"].as_array().expect("blocks");
        assert!(blocks.iter().all(|block| block["text"]["text"].as_str().is_some_and(|text| text.len() <= 3_000)));
        let teams = body(SinkKind::Teams, &[long]);
        let paragraphs = teams["attachments"][0]["content"]["body"].as_array().expect("paragraphs");
        let text = |paragraph: &Value| paragraph["inlines"][0]["text"].as_str().map_or(usize::MAX, str::len);
        assert!(paragraphs.iter().all(|paragraph| text(paragraph) <= 3_000));
        // Alertmanager takes all, in parts; each has an id of its own.
        let many: Vec<Transition> = (0..=2 * ALERTS_MAX).map(|at| of_segment(Kind::Firing, &at.to_string())).collect();
        let told: Vec<&Transition> = many.iter().collect();
        let parts = messages(&sink(SinkKind::Alertmanager), "m", 1, 0, &told, &State::default(), None);
        let sizes: Vec<Option<usize>> =
            parts.iter().map(|part| serde_json::from_str::<Value>(&part.body).ok()?.as_array().map(Vec::len)).collect();
        assert_eq!(sizes, [Some(ALERTS_MAX), Some(ALERTS_MAX), Some(1)]);
        assert_eq!(parts.iter().map(|part| part.id.as_str()).collect::<BTreeSet<_>>().len(), 3);
    }

    #[test]
    fn receivers_are_told_the_evidence_what_changed_and_when_it_is_over() {
        let mut withdrawn = example(Kind::Withdrawn);
        withdrawn.before = Some(crate::series::Evidence { value: 0.5, ..withdrawn.evidence.clone() });
        let told = body(SinkKind::Webhook, &[withdrawn]);
        let annotations = &told["alerts"][0]["annotations"];
        assert_eq!((&annotations["value"], &annotations["previous_value"]), (&json!("0.7"), &json!("0.5")));
        assert_eq!((&annotations["ci_low"], &annotations["transition"]), (&json!("0.68"), &json!("withdrawn")));
        // Alertmanager forgets an alert that has ended, and holds one that has not for as long as it may take.
        let firing = body(SinkKind::Alertmanager, &[example(Kind::Firing)]);
        assert_eq!(firing[0]["endsAt"], show(3 * DAY + HOLDS));
        for over in [Kind::Resolved, Kind::Withdrawn] {
            assert_eq!(body(SinkKind::Alertmanager, &[example(over)])[0]["endsAt"], show(3 * DAY), "{over:?}");
        }
        let slack = body(SinkKind::Slack, &vec![example(Kind::Firing); SHOWN_MAX + 3]);
        let blocks = slack["blocks"].as_array().expect("blocks");
        assert!(blocks.len() <= 50 && slack.to_string().contains("and 3 more"), "{slack}");
    }

    #[test]
    fn the_end_of_one_windows_alert_ends_no_other_alert_of_its_series() {
        let withdrawn = example(Kind::Withdrawn);
        let told = |kind: SinkKind, status: Status| {
            let state = holding(&withdrawn.series, status);
            let sink = sink(kind);
            let messages = messages(&sink, "fraud <eu>", 7, 3 * DAY, &[&withdrawn], &state, None);
            messages[0].body.clone()
        };
        let json =
            |kind: SinkKind, status: Status| -> Value { serde_json::from_str(&told(kind, status)).expect("JSON") };
        let webhook = json(SinkKind::Webhook, Status::Firing);
        assert_eq!((&webhook["status"], &webhook["alerts"][0]["status"]), (&json!("firing"), &json!("firing")));
        assert_eq!(webhook["alerts"][0]["endsAt"], NO_END);
        assert_eq!(webhook["alerts"][0]["annotations"]["transition"], "withdrawn", "and what happened is said");
        assert_eq!(json(SinkKind::Alertmanager, Status::Firing)[0]["endsAt"], show(3 * DAY + HOLDS));
        assert!(told(SinkKind::Slack, Status::Firing).contains("in part over, critical: "));
        let over = json(SinkKind::Webhook, Status::Resolved);
        assert_eq!((&over["status"], &over["alerts"][0]["status"]), (&json!("resolved"), &json!("resolved")));
        let over = json(SinkKind::Alertmanager, Status::Resolved);
        let ends = over.as_array().expect("alerts").iter().map(|one| (&one["labels"]["severity"], &one["endsAt"]));
        let severities: Vec<&Value> =
            ends.filter(|(_, ends)| **ends == show(3 * DAY)).map(|(severity, _)| severity).collect();
        assert_eq!(severities, ["critical", "info", "warning", "error"], "under each that it may have been told with");
        assert!(told(SinkKind::Slack, Status::Resolved).contains("withdrawn: "));
    }

    #[test]
    fn what_is_worst_is_read_first_and_a_heading_says_what_happened() {
        let mild = |at: usize| Transition { severity: Severity::Info, ..of_segment(Kind::Firing, &at.to_string()) };
        let mut many: Vec<Transition> = (0..SHOWN_MAX + 9).map(mild).collect();
        many.push(of_segment(Kind::Resolved, "over"));
        many.push(of_segment(Kind::Firing, "worst"));
        let slack = body(SinkKind::Slack, &many);
        assert!(slack["blocks"][1]["text"]["text"].as_str().expect("text").contains("region = worst"), "{slack}");
        assert!(!slack.to_string().contains("region = over") && slack.to_string().contains("and 11 more"), "{slack}");
        let worse = Transition { severity: Severity::Critical, ..of_segment(Kind::Resolved, "b") };
        let mixed = [Transition { severity: Severity::Warning, ..of_segment(Kind::Firing, "a") }, worse];
        assert!(body(SinkKind::Slack, &mixed)["text"].as_str().is_some_and(|text| text.starts_with("warning: ")));
        let heading = |kind: Kind| body(SinkKind::Slack, &[example(kind)])["text"].as_str().expect("text").to_owned();
        let headings = [Kind::Firing, Kind::Repeated, Kind::Revised, Kind::Resolved, Kind::Withdrawn].map(heading);
        let starts = ["critical: ", "still critical: ", "revised, critical: ", "over: ", "withdrawn: "];
        for (heading, start) in headings.iter().zip(starts) {
            assert!(heading.starts_with(start) && heading.ends_with("f1 is low"), "{heading}");
        }
    }

    #[test]
    fn what_producers_put_into_names_is_text_of_a_bounded_length() {
        let hostile = format!("*a* `b` <!channel> [x](http://evil.example) {}\nc\u{7}", "é".repeat(500));
        let long: Vec<Transition> =
            (0..SHOWN_MAX).map(|at| of_segment(Kind::Firing, &format!("{at}{hostile}"))).collect();
        let slack = body(SinkKind::Slack, &long);
        let blocks = slack["blocks"].as_array().expect("blocks");
        let texts = blocks.iter().filter(|block| block["type"] != "actions").map(|block| &block["text"]);
        let (plain, marked): (Vec<_>, Vec<_>) = texts.partition(|text| text["type"] == "plain_text");
        assert_eq!((marked.len(), plain.len() > 10), (1, true), "only the link has marks: {slack}");
        let size: usize =
            blocks.iter().map(|block| block["text"]["text"].as_str().map_or(0, |t| t.chars().count())).sum();
        assert!((SLACK_MAX / 2..SLACK_MAX + 500).contains(&size), "{size}");
        let one = body(SinkKind::Slack, &[of_segment(Kind::Firing, "a\nb\u{7}c")]).to_string();
        assert!(one.contains(r"region = a\\nb\\u{7}c"), "{one}");
        let event = messages(&sink(SinkKind::Cloudevents), "a b\n/ü", 1, 0, &[&long[0]], &State::default(), None);
        let event: Value = serde_json::from_str(&event[0].body).expect("JSON");
        assert_eq!(event["source"], format!("/driftline/models/{}", encode_segment("a b\n/ü")));
        assert!(event["source"].as_str().is_some_and(|source| source.is_ascii() && !source.contains(' ')));
        assert_eq!(event["subject"], "a b\\n/ü");
    }

    #[test]
    fn a_card_of_teams_is_no_larger_than_teams_takes() {
        let sink = Sink { text: Some("\u{e9}".repeat(1_400)), ..sink(SinkKind::Teams) };
        let told: Vec<Transition> = (0..40).map(|at| of_segment(Kind::Firing, &at.to_string())).collect();
        let of: Vec<&Transition> = told.iter().collect();
        let card = &messages(&sink, "m", 1, 0, &of, &State::default(), None)[0].body;
        let card: Value = serde_json::from_str(card).expect("JSON");
        let blocks = card["attachments"][0]["content"]["body"].as_array().expect("paragraphs");
        let size = card.to_string().len();
        assert!((CARD_MAX - 4_000..28_000).contains(&size), "{size}");
        let more = format!("and {} more", told.len() - (blocks.len() - 2));
        assert_eq!(blocks.last().map(|block| &block["inlines"][0]["text"]), Some(&json!(more)));
        let few = body(SinkKind::Teams, &vec![example(Kind::Firing); SHOWN_MAX]).to_string();
        assert!(!few.contains("more") && few.matches("RichTextBlock").count() == SHOWN_MAX + 1, "{few}");
    }

    #[test]
    fn a_template_with_a_field_that_there_is_not_is_a_fault() {
        let mut config = AlertsConfig { sinks: vec![sink(SinkKind::Slack)], ..AlertsConfig::default() };
        config.sinks[0].text = Some("{{model}}: {{ value }} [{{ci_low}}, {{ci_high}}], was {{previous}}".into());
        assert_eq!(faults(&config), Vec::<String>::new());
        config.sinks[0].text = Some("{{modell}}".into());
        assert!(faults(&config)[0].contains("no field \"modell\""), "{:?}", faults(&config));
        config.sinks[0] = Sink { secret: Some("hunter2".into()), ..sink(SinkKind::Webhook) };
        assert!(faults(&config)[0].contains("whsec_") && !faults(&config)[0].contains("hunter2"));
    }
}
