//! Draws the events of a run, with their faults and their delays. What they come to is not decided here but in `truth`.

use rand::Rng;
use rand::rngs::StdRng;

use super::events::{LabelEvent, PredictionEvent, Value, label_json, prediction_json};
use super::malformed::{REASONS, payload};
use super::options::{Ids, MAX_SKEW_US, ModelOptions, Options, Task};
use super::{Element, Outgoing, Topic};

const SECOND_US: i64 = 1_000_000;
const HOUR_US: i64 = 3_600 * SECOND_US;

/// All predictions and labels, in no order.
pub(super) fn events(options: &Options, rng: &mut StdRng) -> Vec<Outgoing> {
    let mut outgoing = Vec::new();
    for serial in 0..options.predictions {
        let model = &options.models[rng.random_range(0..options.models.len())];
        let (event, truth) = prediction(options, model, serial, rng);
        outgoing.extend(copies(options, model, &event, rng));
        if !rng.random_bool(options.shares.unlabelled) {
            for label in labels(options, model, &event, &truth, rng) {
                outgoing.push(send_label(options, label, rng));
            }
        }
        if rng.random_bool(options.shares.orphaned) {
            let id = id(options.ids, options.predictions + serial, event.time_us, rng);
            let never_sent = PredictionEvent { id, ..event };
            let value = other_value(model, &Value::Null, rng);
            let label = label(options, model, &never_sent, never_sent.time_us + HOUR_US, value, rng);
            outgoing.push(send_label(options, label, rng));
        }
    }
    outgoing
}

/// Records that are rejected, spread over the run.
pub(super) fn malformed(options: &Options, rng: &mut StdRng) -> Vec<Outgoing> {
    let mut outgoing = Vec::new();
    for topic in [Topic::Predictions, Topic::Labels] {
        for reason in REASONS {
            let count =
                if reason == "too_large" { options.malformed_of_each.min(1) } else { options.malformed_of_each };
            for serial in 0..count {
                outgoing.push(Outgoing {
                    topic,
                    arrival_us: options.start_us + rng.random_range(0..=options.span_secs * SECOND_US),
                    key: rng.random_bool(0.8).then(|| format!("malformed-{serial}").into_bytes()),
                    payload: payload(reason, topic, serial, rng),
                    elements: vec![Element::Rejected(reason)],
                });
            }
        }
    }
    outgoing
}

/// A prediction, and what the truth will say about it.
fn prediction(options: &Options, model: &ModelOptions, serial: usize, rng: &mut StdRng) -> (PredictionEvent, Value) {
    let shares = &options.shares;
    let mut time_us = options.start_us + rng.random_range(0..options.span_secs.max(1) * SECOND_US);
    if rng.random_bool(0.5) {
        time_us -= time_us.rem_euclid(1_000);
    }
    if rng.random_bool(shares.on_the_edge) {
        time_us = model.window_start_us(time_us) - i64::from(rng.random_bool(0.5));
    }
    let mut event = PredictionEvent {
        model: model.name.clone(),
        version: model.versions[rng.random_range(0..model.versions.len())].clone(),
        id: id(options.ids, serial, time_us, rng),
        time_us,
        prediction: None,
        score: None,
        probabilities: Vec::new(),
        error: None,
        tags: model
            .tags
            .iter()
            .map(|(tag, values)| (tag.clone(), values[rng.random_range(0..values.len())].clone()))
            .collect(),
    };
    let truth = answer(options, model, &mut event, rng);
    if rng.random_bool(shares.failed) {
        event = PredictionEvent {
            prediction: None,
            score: None,
            probabilities: Vec::new(),
            error: Some("time-out".to_owned()),
            ..event
        };
    } else if rng.random_bool(shares.invalid) {
        match model.task {
            Task::Binary(_) => event.score = Some(1.5),
            Task::Regression => event.prediction = Some(Value::Class("about an hour".to_owned())),
            // Nothing in a multiclass event contradicts its settings beyond doubt.
            Task::Multiclass(_) => {}
        }
    }
    (event, truth)
}

/// Fills in what the model answers; returns the truth, which the answer predicts better than chance.
fn answer(options: &Options, model: &ModelOptions, event: &mut PredictionEvent, rng: &mut StdRng) -> Value {
    let without_prediction = rng.random_bool(options.shares.without_prediction);
    match &model.task {
        Task::Binary(classes) => {
            let class = |positive: bool| Value::Class(classes[usize::from(!positive)].to_owned());
            let tied = rng.random_bool(options.shares.tied_scores);
            let score = if tied { f64::from(rng.random_range(0..=16)) / 16.0 } else { rng.random::<f64>() };
            event.score = Some(score);
            // A few predictions contradict the threshold: whatever counts hits and misses uses the prediction.
            let above = (score >= 0.5) != rng.random_bool(0.03);
            // On the threshold itself an event says what it means.
            if !without_prediction || score == 0.5 {
                event.prediction = Some(class(above));
            }
            class(rng.random_bool(score))
        }
        Task::Multiclass(classes) => {
            let best = rng.random_range(0..classes.len());
            if without_prediction || rng.random_bool(0.5) {
                let low = 0.4 / classes.len() as f64;
                let p = |at: usize| if at == best { 1.0 - low * (classes.len() - 1) as f64 } else { low };
                event.probabilities =
                    classes.iter().enumerate().map(|(at, class)| ((*class).to_owned(), p(at))).collect();
            }
            if !without_prediction {
                event.prediction = Some(Value::Class(classes[best].to_owned()));
            }
            let actual = if rng.random_bool(0.7) { best } else { rng.random_range(0..classes.len()) };
            Value::Class(classes[actual].to_owned())
        }
        Task::Regression => {
            let predicted = f64::from(rng.random_range(20_000..300_000)) / 1_000.0;
            event.prediction = Some(Value::Number(predicted));
            Value::Number((predicted + rng.random_range(-20.0..20.0_f64)).round())
        }
    }
}

/// The event itself, sent once or more, and another version's answer under the same id.
fn copies(options: &Options, model: &ModelOptions, event: &PredictionEvent, rng: &mut StdRng) -> Vec<Outgoing> {
    let mut outgoing = vec![send_prediction(options, event, rng)];
    if rng.random_bool(options.shares.copied) {
        outgoing.push(send_prediction(options, event, rng));
    }
    if rng.random_bool(options.shares.retried) {
        let time_us = event.time_us + rng.random_range(1..120 * SECOND_US);
        outgoing.push(send_prediction(options, &PredictionEvent { time_us, ..event.clone() }, rng));
    }
    if rng.random_bool(options.shares.shadowed) && model.versions.len() > 1 {
        let others: Vec<&String> = model.versions.iter().filter(|version| **version != event.version).collect();
        let mut shadow =
            PredictionEvent { version: others[rng.random_range(0..others.len())].clone(), ..event.clone() };
        shadow.time_us += rng.random_range(0..2 * SECOND_US);
        if shadow.error.is_none() {
            (shadow.prediction, shadow.score, shadow.probabilities) = (None, None, Vec::new());
            answer(options, model, &mut shadow, rng);
        }
        outgoing.push(send_prediction(options, &shadow, rng));
    }
    outgoing
}

/// The labels of a prediction: one, or a story of several.
fn labels(
    options: &Options,
    model: &ModelOptions,
    event: &PredictionEvent,
    truth: &Value,
    rng: &mut StdRng,
) -> Vec<LabelEvent> {
    let shares = &options.shares;
    let mut time_us = event.time_us + label_delay_us(options, model, rng);
    let mut told = vec![label(options, model, event, time_us, truth.clone(), rng)];
    let later = |time_us: i64, rng: &mut StdRng| time_us + rng.random_range(1..2 * HOUR_US);
    if rng.random_bool(shares.corrected) {
        for _ in 0..rng.random_range(1..=2) {
            time_us = later(time_us, rng);
            told.push(label(options, model, event, time_us, other_value(model, truth, rng), rng));
        }
    }
    if rng.random_bool(shares.withdrawn) {
        time_us = later(time_us, rng);
        told.push(label(options, model, event, time_us, Value::Null, rng));
        if rng.random_bool(0.3) {
            time_us = later(time_us, rng);
            told.push(label(options, model, event, time_us, truth.clone(), rng));
        }
    }
    if rng.random_bool(shares.contradicted) {
        // At the very time of the last one, whatever that says.
        let last = told.last().map_or(Value::Null, |label| label.label.clone());
        told.push(label(options, model, event, time_us, other_value(model, &last, rng), rng));
    } else if rng.random_bool(shares.labels_copied) {
        // Copies and contradictions never meet: which of two copies stands would then decide who is last.
        told.push(told[rng.random_range(0..told.len())].clone());
    }
    told
}

fn label_delay_us(options: &Options, model: &ModelOptions, rng: &mut StdRng) -> i64 {
    let shares = &options.shares;
    let horizon_us = model.horizon_secs * SECOND_US;
    if rng.random_bool(shares.on_the_bounds) {
        return [-MAX_SKEW_US, -MAX_SKEW_US - 1, horizon_us, horizon_us + 1][rng.random_range(0..4)];
    }
    if rng.random_bool(shares.too_late) {
        return horizon_us + rng.random_range(2..120 * HOUR_US);
    }
    if rng.random_bool(shares.too_early) {
        return -MAX_SKEW_US - rng.random_range(2..HOUR_US);
    }
    if rng.random_bool(shares.early) {
        return -rng.random_range(1..MAX_SKEW_US);
    }
    match rng.random_range(0..10) {
        0 => rng.random_range(1..horizon_us * 9 / 10),
        1..=3 => rng.random_range(1..options.span_secs.max(1) * SECOND_US),
        _ => rng.random_range(1..HOUR_US.min(horizon_us / 2)),
    }
}

fn label(
    options: &Options,
    model: &ModelOptions,
    of: &PredictionEvent,
    time_us: i64,
    label: Value,
    rng: &mut StdRng,
) -> LabelEvent {
    let window_us = model.window_secs * SECOND_US;
    let hint_us = rng.random_bool(options.shares.hinted).then(|| {
        if rng.random_bool(options.shares.hinted_wrong) {
            of.time_us + if rng.random_bool(0.5) { window_us } else { -window_us }
        } else if rng.random_bool(0.2) {
            model.window_start_us(of.time_us)
        } else {
            of.time_us
        }
    });
    LabelEvent { model: of.model.clone(), id: of.id.clone(), time_us, label, hint_us }
}

/// A value that a label of this model may have, and that differs from `value`.
fn other_value(model: &ModelOptions, value: &Value, rng: &mut StdRng) -> Value {
    let pick = |classes: &[&'static str], rng: &mut StdRng| {
        let others: Vec<&str> = classes.iter().copied().filter(|class| value.class() != Some(class)).collect();
        Value::Class(others[rng.random_range(0..others.len())].to_owned())
    };
    match &model.task {
        Task::Binary(classes) => pick(classes, rng),
        Task::Multiclass(classes) => pick(classes, rng),
        Task::Regression => Value::Number(value.number().unwrap_or(100.0) + f64::from(rng.random_range(1..20))),
    }
}

fn send_prediction(options: &Options, event: &PredictionEvent, rng: &mut StdRng) -> Outgoing {
    Outgoing {
        topic: Topic::Predictions,
        arrival_us: event.time_us + delay_us(options, rng),
        key: Some(event.id.clone().into_bytes()),
        payload: Some(prediction_json(event, rng).into_bytes()),
        elements: vec![Element::Prediction(event.clone())],
    }
}

fn send_label(options: &Options, event: LabelEvent, rng: &mut StdRng) -> Outgoing {
    Outgoing {
        topic: Topic::Labels,
        arrival_us: event.time_us + delay_us(options, rng),
        key: Some(event.id.clone().into_bytes()),
        payload: Some(label_json(&event, rng).into_bytes()),
        elements: vec![Element::Label(event)],
    }
}

/// How long an event travels.
fn delay_us(options: &Options, rng: &mut StdRng) -> i64 {
    let disordered = rng.random_bool(options.shares.disordered) && options.disorder_max_secs > 0;
    if disordered { rng.random_range(0..options.disorder_max_secs * SECOND_US) } else { 0 }
}

/// An id of one of the forms that producers use.
fn id(ids: Ids, serial: usize, time_us: i64, rng: &mut StdRng) -> String {
    let kind =
        if ids == Ids::Mixed { [Ids::TimeOrdered, Ids::Random, Ids::Counted][rng.random_range(0..3)] } else { ids };
    let chance: u128 = rng.random();
    let (version, high) = match kind {
        Ids::Counted | Ids::Mixed => return format!("request-{serial}"),
        Ids::Random => (4, (chance >> 80) as u64),
        Ids::TimeOrdered => (7, (time_us / 1_000) as u64),
    };
    format!(
        "{:08x}-{:04x}-{version}{:03x}-{:04x}-{:012x}",
        (high >> 16) as u32,
        high as u16,
        (chance >> 64) & 0xfff,
        0x8000 | ((chance >> 48) as u16 & 0x3fff),
        chance & 0xffff_ffff_ffff,
    )
}
